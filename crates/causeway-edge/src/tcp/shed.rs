//! Memory is short: which connections go, so that the others can stay.

use std::os::fd::AsRawFd;

use super::TcpPlane;
use super::connection::{Connection, NEVER, Reset, State};
use super::counters;
use crate::event::Cause;
use crate::sys;
use crate::worker::Desk;

/// Cutting what holds less frees nothing to speak of.
const WORTH_BYTES: u64 = 4 * 1024;

impl TcpPlane {
    /// Cut connections until about `bytes` are free: those whose reader takes nothing before others, the newest first.
    /// Those that hold next to nothing stay, whatever happens: it is not they who fill the memory.
    pub fn shed(&mut self, desk: &mut Desk, bytes: u64) {
        let open = self.connections.iter().filter(|(_, connection)| connection.state != State::Closed);
        let mut order: Vec<(bool, u64, usize)> = open.map(|(slot, c)| (c.is_stuck(), c.flow, slot)).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let mut freed = 0;
        for (_, _, slot) in order {
            if freed >= bytes {
                return;
            }
            let held = self.connections[slot].memory_bytes();
            if held >= WORTH_BYTES {
                freed += held;
                counters(&self.connections[slot].active, desk).shed_total.add(1);
                self.close(desk, slot, Cause::ShedMemory, Reset::Both);
            }
        }
    }
}

impl Connection {
    /// Does a side not take the bytes that wait for it?
    fn is_stuck(&self) -> bool {
        self.blocked_ms.iter().any(|ms| *ms != NEVER)
    }

    /// About what would be free without it: held here and in the kernel's queues of both sockets.
    fn memory_bytes(&self) -> u64 {
        let queues = [&self.client, &self.origin].into_iter().flatten().map(|fd| sys::queued_bytes(fd.as_raw_fd()));
        let kept = self.tunnel.as_ref().and_then(|tunnel| tunnel.kept.as_ref()).map_or(0, |kept| kept.held_bytes());
        queues.sum::<u64>() + (self.up.held_bytes() + self.down.held_bytes() + kept) as u64
    }
}
