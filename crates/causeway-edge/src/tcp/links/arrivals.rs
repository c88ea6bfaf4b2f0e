//! Connections that other edges have opened: who comes, and what flow is handed over.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use causeway_wire::gauge::Gauge;
use causeway_wire::overlay::{Hop, MAX_HOP, Read};

use crate::overlay::Tally;
use crate::overlay::tls::{Got, Tls};
use crate::relay::{BUFFER_BYTES, Readiness};
use crate::sys;
use crate::tcp::TcpPlane;
use crate::worker::Desk;

/// Without a flow, of one worker.
const MOST_ARRIVING: usize = 4_096;
/// What may come with a header; the rest stays with the kernel.
const MOST_EARLY: usize = MAX_HOP + BUFFER_BYTES;

/// A flow that another edge hands over.
#[derive(Debug)]
pub struct Arrival {
    pub fd: OwnedFd,
    pub tls: Tls,
    pub ready: Readiness,
    pub address: SocketAddr,
    pub hop: Hop,
    pub early: Vec<u8>,
}

impl TcpPlane {
    /// Another edge, or whoever knows the port, has connected.
    pub(in crate::tcp) fn admit_edge(&mut self, desk: &mut Desk, fd: OwnedFd, address: SocketAddr) {
        let Some(overlay) = self.links.overlay.clone() else { return };
        let Some(identity) = overlay.lasting.identity.load_full() else { return sys::reset_on_close(fd.as_raw_fd()) };
        let has_room = self.links.arriving < MOST_ARRIVING && desk.files.has_room(1) && !desk.strain.is_full();
        let Ok(tls) = Tls::from_peer(&identity) else { return };
        if !has_room {
            Tally::count(&overlay.lasting.tally.refused);
            return sys::reset_on_close(fd.as_raw_fd());
        }
        self.links.arriving += 1;
        let raw = fd.as_raw_fd();
        let _ = sys::send_again_soon(raw);
        let ready = Readiness { is_writable: true, ..Readiness::default() };
        let slot = self.links.insert(fd, tls, address, None, ready);
        self.watch_link(desk, slot, raw);
    }

    /// Another edge has proven who it is: what does it want?
    pub(super) fn hear_edge(&mut self, desk: &mut Desk, slot: usize) {
        let Some(overlay) = self.links.overlay.clone() else { return };
        loop {
            let Some(link) = self.links.links.get_mut(slot) else { return };
            if link.peer().is_none_or(|name| overlay.peer(&name).is_none()) {
                return self.drop_link(desk, slot);
            }
            let is_gauge = Gauge::is_begun(&link.early);
            if is_gauge && !self.answer_gauges(desk, slot) {
                return;
            }
            let Some(link) = self.links.links.get_mut(slot) else { return };
            let Some((fd, tls)) = &mut link.open else { return };
            match Hop::parse(&link.early) {
                Ok(Read::Whole { consumed, value: hop }) => {
                    let early = link.early.split_off(consumed);
                    let (ready, address) = (link.ready, link.address);
                    let Some((fd, tls)) = self.links.take_out(desk, slot) else { return };
                    return self.take_in(desk, &overlay, Arrival { fd, tls, ready, address, hop, early });
                }
                Ok(Read::NeedMore) if link.early.len() < MOST_EARLY => {}
                Err(_) if is_gauge && Gauge::is_begun(&link.early) => {} // the rest of it is to come
                Ok(Read::NeedMore) | Err(_) => return self.drop_link(desk, slot),
            }
            if !link.ready.is_readable {
                return;
            }
            let scratch = &mut self.tools.scratch()[..BUFFER_BYTES / 4];
            match tls.read(fd.as_raw_fd(), &mut link.ready, scratch, &mut link.early) {
                Ok(Got::End) | Err(_) => {
                    self.links.take_out(desk, slot); // it is not needed any more, which is no failure
                    return;
                }
                Ok(Got::Bytes | Got::Nothing) => {}
            }
        }
    }
}
