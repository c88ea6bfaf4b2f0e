//! A flow as user space sees it, and the two entries, its legs, that the kernel has of it.
//!
//! Times are milliseconds of the monotonic clock (`CLOCK_MONOTONIC`), with a grain of about five.

use std::net::SocketAddr;

use super::shared::{CLOSED, Clock, ESTABLISHED, Ends, FIN_SEEN, IS_ORIGIN_LEG, Key, RST_SEEN, RawLeg, TOLD, rtt_us};

/// A reset that only its receiver can judge counts as the end when that has not answered any question for this long.
const RESET_STANDS_MS: u64 = 30_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Two-way flows. None of them is ever evicted.
    Open,
    /// One-way so far; the oldest go when it is full.
    Opening,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Origin,
}

/// Where a sweep goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub(super) bucket: Option<u32>,
}

impl Cursor {
    /// Has the sweep that answered this seen all?
    pub fn is_done(self) -> bool {
        self.bucket.is_none()
    }
}

/// Addresses and ports of a packet as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// Else UDP.
    pub is_tcp: bool,
}

/// One direction of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Who sends it.
    pub side: Side,
    pub arrives: FlowKey,
    pub becomes: FlowKey,
    pub application: u16,
    pub packets: u32,
    pub bytes: u64,
    pub seen_ms: u64,
    /// Two-way. (A leg in `Table::Opening` may be, if the table of flows is full.)
    pub is_established: bool,
    pub is_closed: bool,
    /// Its sender may have reset it: only the receiver knows.
    pub is_doubtful: bool,
    /// The event that it opened went into the ring. Only ever set on the client's leg.
    pub is_told: bool,
}

impl Leg {
    /// The key under which [`super::FlowPath::flow`] finds the flow.
    pub fn client_key(&self) -> FlowKey {
        match self.side {
            Side::Client => self.arrives,
            Side::Origin => FlowKey { from: self.becomes.to, to: self.becomes.from, is_tcp: self.arrives.is_tcp },
        }
    }
}

/// Both legs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    pub client: SocketAddr,
    /// Where the client sends to.
    pub edge: SocketAddr,
    /// What the origin sees.
    pub source: SocketAddr,
    pub origin: SocketAddr,
    /// Else UDP.
    pub is_tcp: bool,
    pub application: u16,
    pub is_established: bool,
    pub is_closed: bool,
    pub is_told: bool,
    /// If it is not closed: perhaps.
    pub was_reset_by: Option<Side>,
    /// FIN seen from it.
    pub has_finished_client: bool,
    pub has_finished_origin: bool,
    /// On the monotonic clock: its first packet; of TCP, once it is two-way, when it became that.
    pub started_ms: u64,
    pub seen_client_ms: u64,
    /// 0 if it never sent.
    pub seen_origin_ms: u64,
    pub client_bytes: u64,
    pub origin_bytes: u64,
    pub client_packets: u32,
    pub origin_packets: u32,
    /// TCP only: of the handshake, and then a running mean.
    pub client_rtt_us: Option<u32>,
    pub origin_rtt_us: Option<u32>,
    /// Sequence numbers that each side is expected to send next, in its own numbers.
    pub(super) next_seq: (u32, u32),
    /// Bytes of a PROXY header that the origin got in front of the client's stream.
    pub(super) header_bytes: u8,
}

impl Flow {
    pub fn client_key(&self) -> FlowKey {
        FlowKey { from: self.client, to: self.edge, is_tcp: self.is_tcp }
    }

    /// The sequence number that a side of a TCP connection is expected to send next, in its own numbers.
    pub fn expected(&self, side: Side) -> u32 {
        match side {
            Side::Client => self.next_seq.0,
            Side::Origin => self.next_seq.1,
        }
    }

    /// The sequence number of the first byte that the client of a TCP connection sent, or will: which of several with the
    /// same addresses and ports it is.
    pub fn first_seq(&self) -> u32 {
        let end = self.next_seq.0.wrapping_sub(self.has_finished_client.into());
        end.wrapping_sub(self.client_bytes as u32)
    }

    /// When either side was last heard.
    pub fn seen_ms(&self) -> u64 {
        self.seen_client_ms.max(self.seen_origin_ms)
    }
}

impl FlowKey {
    pub(super) fn raw<const N: usize>(&self) -> Key<N> {
        Key::new(Ends::new(self.from, self.to), self.is_tcp)
    }

    /// Where the leg of a flow that is over is kept, until another comes to be there. Of its family.
    pub fn place(&self) -> u32 {
        if self.from.is_ipv4() { self.raw::<4>().place() } else { self.raw::<16>().place() }
    }
}

impl Leg {
    pub(super) fn new<const N: usize>(key: &Key<N>, leg: &RawLeg<N>, clock: Clock) -> Leg {
        let is_tcp = key.is_tcp();
        let tally = &leg.tally;
        Leg {
            side: if tally.has(IS_ORIGIN_LEG) { Side::Origin } else { Side::Client },
            arrives: FlowKey { from: key.ends.from(), to: key.ends.to(), is_tcp },
            becomes: FlowKey { from: leg.ends.from(), to: leg.ends.to(), is_tcp },
            application: tally.application(),
            packets: tally.packets,
            bytes: if is_tcp && tally.has(IS_ORIGIN_LEG) && !tally.has(ESTABLISHED) { 0 } else { tally.bytes },
            seen_ms: if tally.packets == 0 { 0 } else { clock.ms_of(tally.seen) },
            is_established: tally.has(ESTABLISHED),
            is_closed: tally.has(CLOSED) || reset_stands(tally.has(RST_SEEN), clock.ms_of(tally.seen), clock),
            is_doubtful: tally.has(RST_SEEN) && !tally.has(CLOSED),
            is_told: tally.has(TOLD),
        }
    }
}

fn reset_stands(is_reset: bool, seen_ms: u64, clock: Clock) -> bool {
    is_reset && clock.ms().saturating_sub(seen_ms) > RESET_STANDS_MS
}

impl Flow {
    pub(super) fn new<const N: usize>(
        client_key: &Key<N>,
        client: &RawLeg<N>,
        origin: &RawLeg<N>,
        clock: Clock,
    ) -> Flow {
        let legs = [Leg::new(client_key, client, clock), Leg::new(client_key, origin, clock)];
        let reset_by = |leg: &RawLeg<N>, side| leg.tally.has(RST_SEEN).then_some(side);
        let seen_ms = legs[0].seen_ms.max(legs[1].seen_ms);
        let was_reset_by = reset_by(client, Side::Client).or(reset_by(origin, Side::Origin));
        let measured = |units: u32| {
            (client_key.is_tcp() && client.tally.has(ESTABLISHED) && units & 0xffff != 0).then(|| rtt_us(units))
        };
        Flow {
            client: client_key.ends.from(),
            edge: client_key.ends.to(),
            source: client.ends.from(),
            origin: client.ends.to(),
            is_tcp: client_key.is_tcp(),
            application: client.tally.application(),
            is_established: client.tally.has(ESTABLISHED),
            is_closed: client.tally.has(CLOSED) || reset_stands(was_reset_by.is_some(), seen_ms, clock),
            is_told: client.tally.has(TOLD),
            was_reset_by,
            has_finished_client: client.tally.has(FIN_SEEN),
            has_finished_origin: origin.tally.has(FIN_SEEN),
            started_ms: clock.ms_of(client.extra),
            seen_client_ms: legs[0].seen_ms,
            seen_origin_ms: legs[1].seen_ms,
            client_bytes: client.tally.bytes,
            origin_bytes: legs[1].bytes,
            client_packets: client.tally.packets,
            origin_packets: origin.tally.packets,
            client_rtt_us: measured(origin.extra >> 16),
            origin_rtt_us: measured(origin.extra),
            next_seq: (client.tally.next_seq, origin.tally.next_seq),
            header_bytes: client.tally.header_bytes(),
        }
    }
}
