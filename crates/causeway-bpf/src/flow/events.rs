//! What happened to flows, through a ring that the kernel writes and one process reads.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Map, MapData, RingBuf};

use super::Flow;
use super::shared::{Clock, ESTABLISHED, RawEvent, TOLD};

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

/// What most events are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    pub client: IpAddr,
    pub edge_port: u16,
    /// Else UDP.
    pub is_tcp: bool,
    pub is_established: bool,
    pub is_told: bool,
    /// These are of flows that were established.
    pub client_bytes: u64,
    pub origin_bytes: u64,
    pub lasted_ms: u64,
}

/// An event as the kernel wrote it: of tens of thousands a second, most are looked at and no more.
#[derive(Clone, Copy)]
pub struct RawFlowEvent {
    raw: Raw,
    kind: FlowEventKind,
    clock: Clock,
}

#[derive(Clone, Copy)]
enum Raw {
    V4(RawEvent<4>),
    V6(RawEvent<16>),
}

impl RawFlowEvent {
    pub fn kind(&self) -> FlowEventKind {
        self.kind
    }

    pub fn application(&self) -> u16 {
        match &self.raw {
            Raw::V4(raw) => raw.client.tally.application(),
            Raw::V6(raw) => raw.client.tally.application(),
        }
    }

    pub fn glance(&self) -> Glance {
        match &self.raw {
            Raw::V4(raw) => self.glance_at(raw),
            Raw::V6(raw) => self.glance_at(raw),
        }
    }

    fn glance_at<const N: usize>(&self, raw: &RawEvent<N>) -> Glance {
        let client = &raw.client.tally;
        Glance {
            client: raw.client_key.ends.from().ip(),
            edge_port: raw.client_key.ends.to().port(),
            is_tcp: raw.client_key.is_tcp(),
            is_established: client.has(ESTABLISHED),
            is_told: client.has(TOLD) || self.kind == FlowEventKind::Opened,
            client_bytes: client.bytes,
            origin_bytes: raw.origin.tally.bytes,
            lasted_ms: self.clock.ms_of(raw.at).saturating_sub(self.clock.ms_of(raw.client.extra)),
        }
    }

    pub fn read(&self) -> FlowEvent {
        let (mut flow, at) = match &self.raw {
            Raw::V4(raw) => (Flow::new(&raw.client_key, &raw.client, &raw.origin, self.clock), raw.at),
            Raw::V6(raw) => (Flow::new(&raw.client_key, &raw.client, &raw.origin, self.clock), raw.at),
        };
        flow.is_told |= self.kind == FlowEventKind::Opened;
        FlowEvent { kind: self.kind, flow, at_ms: self.clock.ms_of(at) }
    }
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

impl FlowEvents {
    /// `None`: nothing more just now.
    pub fn take_raw(&mut self) -> Option<RawFlowEvent> {
        loop {
            let Some(item) = self.ring.next() else {
                self.left = 0;
                return None;
            };
            if self.left == 0 {
                (self.clock, self.left) = (Clock::now(), TOGETHER);
            }
            self.left -= 1;
            let raw = read::<4>(&item).map(Raw::V4).or_else(|| read::<16>(&item).map(Raw::V6));
            if let (Some(raw), Some(kind)) = (raw, kind_of(item[0])) {
                return Some(RawFlowEvent { raw, kind, clock: self.clock });
            }
        }
    }
}

impl Iterator for FlowEvents {
    type Item = FlowEvent;

    /// `None`: nothing more just now.
    fn next(&mut self) -> Option<FlowEvent> {
        self.take_raw().map(|event| event.read())
    }
}

fn read<const N: usize>(bytes: &[u8]) -> Option<RawEvent<N>> {
    if bytes.len() < size_of::<RawEvent<N>>() || bytes[1] != u8::from(N == 16) {
        return None;
    }
    // SAFETY: long enough, and every pattern of bits is a value; read without regard to alignment.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// None: of a newer program.
fn kind_of(byte: u8) -> Option<FlowEventKind> {
    match byte {
        0 => Some(FlowEventKind::Opened),
        1 => Some(FlowEventKind::Closed),
        2 => Some(FlowEventKind::Replaced),
        3 => Some(FlowEventKind::Refused),
        4 => Some(FlowEventKind::Exhausted),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::shared::{Ends, IS_ORIGIN_LEG, Key, RST_SEEN, RawLeg, Tally};
    use super::*;

    fn event(kind: FlowEventKind, is_tcp: bool, state: u32) -> RawFlowEvent {
        let ends = |from: &str, to: &str| Ends::<4>::new(from.parse().unwrap(), to.parse().unwrap());
        let tally = |bytes, state| Tally { bytes, packets: 3, seen: 5_000, next_seq: 9, state: state | 7 };
        let client_key = Key::new(ends("198.18.1.2:4000", "198.18.1.1:9000"), is_tcp);
        let leg = |extra, tally| RawLeg { ends: ends("198.18.2.1:5000", "198.18.2.2:80"), extra, tally };
        let (client, origin) = (leg(1_000, tally(100, state)), leg(0, tally(200, state | IS_ORIGIN_LEG)));
        let raw = RawEvent { kind: 0, is_ipv6: 0, application: 7, at: 5_954, client_key, client, origin };
        let clock = Clock::now();
        RawFlowEvent { raw: Raw::V4(raw), kind, clock }
    }

    #[test]
    fn a_glance_sees_what_a_whole_reading_does() {
        for kind in [FlowEventKind::Opened, FlowEventKind::Closed] {
            for is_tcp in [true, false] {
                for state in [ESTABLISHED, ESTABLISHED | TOLD, ESTABLISHED | RST_SEEN, ESTABLISHED | TOLD | RST_SEEN] {
                    let event = event(kind, is_tcp, state);
                    let (glance, FlowEvent { flow, at_ms, .. }) = (event.glance(), event.read());
                    let whole = Glance {
                        client: flow.client.ip(),
                        edge_port: flow.edge.port(),
                        is_tcp: flow.is_tcp,
                        is_established: flow.is_established,
                        is_told: flow.is_told,
                        client_bytes: flow.client_bytes,
                        origin_bytes: flow.origin_bytes,
                        lasted_ms: at_ms - flow.started_ms,
                    };
                    assert_eq!((glance, event.application()), (whole, flow.application), "{kind:?} {state:#x}");
                    assert!(glance.lasted_ms > 0);
                }
            }
        }
    }
}
