//! A flow as user space sees it, and the two entries, its legs, that the kernel has of it.
//!
//! Times are milliseconds of the monotonic clock (`CLOCK_MONOTONIC`), with a grain of about five.

use std::net::SocketAddr;

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
    pub was_reset_by: Option<Side>,
    /// FIN seen from it.
    pub has_finished_client: bool,
    pub has_finished_origin: bool,
    pub started_ms: u64,
    pub seen_client_ms: u64,
    /// 0 if it never sent.
    pub seen_origin_ms: u64,
    pub client_bytes: u64,
    pub origin_bytes: u64,
    pub client_packets: u32,
    pub origin_packets: u32,
    /// Of the handshake, TCP only.
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

    /// When either side was last heard.
    pub fn seen_ms(&self) -> u64 {
        self.seen_client_ms.max(self.seen_origin_ms)
    }
}
