//! What happened to flows, through a ring that the kernel writes and one process reads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Map, MapData, RingBuf};

use super::Flow;
use super::shared::{Clock, RawEvent};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEventKind {
    /// Two-way from now on.
    Opened,
    /// Both sides have finished, or one has reset it. The flow stays in the table until it is removed.
    Closed,
    /// Its client opened it anew, or it was closed and made room: these are its last counts, it is in no table any more.
    Replaced,
    /// RST before it was two-way, mostly the origin's in answer to SYN: it is in no table any more.
    Refused,
    /// No source port was left: the flow was not opened.
    Exhausted,
}

#[derive(Clone, Debug)]
pub struct FlowEvent {
    pub kind: FlowEventKind,
    pub flow: Flow,
    /// Monotonic, as in [`Flow`].
    pub at_ms: u64,
}

/// Poll its descriptor, then take until there is none.
pub struct FlowEvents {
    ring: RingBuf<MapData>,
    /// Read once for a few events: they differ by what it takes to read them.
    clock: Clock,
    left: u32,
}

/// Events that one reading of the clock is good for.
const TOGETHER: u32 = 64;

impl FlowEvents {
    pub(super) fn new(map: OwnedFd) -> io::Result<FlowEvents> {
        let data = MapData::from_fd(map).map_err(io::Error::other)?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(io::Error::other)?;
        Ok(FlowEvents { ring, clock: Clock::now(), left: 0 })
    }
}

impl AsFd for FlowEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Iterator for FlowEvents {
    type Item = FlowEvent;

    /// `None`: nothing more just now.
    fn next(&mut self) -> Option<FlowEvent> {
        loop {
            let Some(item) = self.ring.next() else {
                self.left = 0;
                return None;
            };
            if self.left == 0 {
                (self.clock, self.left) = (Clock::now(), TOGETHER);
            }
            self.left -= 1;
            if let Some(event) = read::<4>(&item, self.clock).or_else(|| read::<16>(&item, self.clock)) {
                return Some(event);
            }
        }
    }
}

fn read<const N: usize>(bytes: &[u8], clock: Clock) -> Option<FlowEvent> {
    if bytes.len() < size_of::<RawEvent<N>>() || bytes[1] != u8::from(N == 16) {
        return None;
    }
    // SAFETY: long enough, and every pattern of bits is a value; read without regard to alignment.
    let raw: RawEvent<N> = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
    let kind = match raw.kind {
        0 => FlowEventKind::Opened,
        1 => FlowEventKind::Closed,
        2 => FlowEventKind::Replaced,
        3 => FlowEventKind::Refused,
        4 => FlowEventKind::Exhausted,
        _ => return None, // of a newer program
    };
    let mut flow = Flow::new(&raw.client_key, &raw.client, &raw.origin, clock);
    flow.is_told |= kind == FlowEventKind::Opened;
    Some(FlowEvent { kind, flow, at_ms: clock.ms_of(raw.at) })
}
