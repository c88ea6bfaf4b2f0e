//! The last words of a flow that was reset: they arrive before its connection ends, in order behind all else.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::overlay::tls::{Got, Tls};
use crate::relay::{BUFFER_BYTES, Readiness};
use crate::sys;
use crate::tcp::TcpPlane;
use crate::worker::Desk;

impl TcpPlane {
    /// Let what this connection has to say leave, and what still comes be lost; five seconds at most.
    pub(in crate::tcp) fn let_part(&mut self, desk: &mut Desk, fd: OwnedFd, tls: Tls, ready: Readiness) {
        let raw = fd.as_raw_fd();
        let Ok(address) = sys::peer_address(raw) else { return sys::reset_on_close(raw) };
        let _ = desk.epoll.remove(raw); // as a flow's
        let slot = self.links.insert(fd, tls, address, None, ready);
        self.links.links[slot].is_parting = true;
        self.links.arriving += 1;
        self.watch_link(desk, slot, raw);
    }

    pub(super) fn on_parting(&mut self, desk: &mut Desk, slot: usize) {
        let Some(link) = self.links.links.get_mut(slot) else { return };
        let Some((fd, tls)) = &mut link.open else { return };
        let raw = fd.as_raw_fd();
        let is_told = tls.flush(raw, &mut link.ready);
        if matches!(is_told, Ok(true)) {
            sys::shutdown_write(raw);
        }
        let scratch = &mut self.tools.scratch()[..BUFFER_BYTES / 4];
        let mut is_over = is_told.is_err();
        while link.ready.is_readable && !is_over {
            link.early.clear();
            is_over = matches!(tls.read(raw, &mut link.ready, scratch, &mut link.early), Ok(Got::End) | Err(_));
        }
        if is_over {
            self.links.take_out(desk, slot);
        }
    }
}
