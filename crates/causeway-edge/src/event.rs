//! Records of what happened to flows: fixed-size on the data path, words only when somebody reads them.
//!
//! Status codes and kinds are those of Cloudflare's Spectrum event log. A ring holds what was not read yet;
//! when it is full new records are dropped and counted, the data path never waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use causeway_wire::overlay::Path;
use serde::Serialize;

use crate::clock::unix_ms;
use crate::detect::{Feed, Sighting};
use crate::firewall::Matched;
use crate::snapshot::Protocol;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Kind {
    #[serde(rename = "connect")]
    Connect,
    #[serde(rename = "disconnect")]
    Disconnect,
    #[serde(rename = "originError")]
    OriginError,
    #[serde(rename = "clientFiltered")]
    ClientFiltered,
    #[serde(rename = "resolveOrigin")]
    ResolveOrigin,
}

/// Why a record was written. One row each: stable code, kind of record, status, sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Opened,
    Closed,
    Idle,
    HalfCloseTimeout,
    NoProgress,
    Drained,
    ClientReset,
    ClientTimeout,
    ClientUnreachable,
    ClientBroken,
    OriginReset,
    OriginTimeout,
    OriginUnreachable,
    OriginBroken,
    ConnectRefused,
    ConnectTimeout,
    ConnectUnreachable,
    ConnectFailed,
    PortsExhausted,
    SourceMissing,
    OutOfResources,
    ShedMemory,
    OriginDenied,
    NameNotFound,
    NameFailed,
    HeaderInvalid,
    HeaderTimeout,
    FirewallBlocked,
    FirewallCut,
    LimitOpen,
    LimitRate,
    LimitBanned,
    FloodBanned,
    BruteForceBanned,
    ScanBanned,
    IdleEvicted,
    GreetingInvalid,
    GreetingTimeout,
    JoinLimit,
    Answered,
    ClientGone,
    SessionEvicted,
    OriginPortUnreachable,
    PathBroken,
    PathUnknown,
    Panic,
    WorkerReplaced,
}

impl Cause {
    fn row(self) -> (&'static str, Kind, u16, &'static str) {
        use Kind::{ClientFiltered, Connect, Disconnect, OriginError, ResolveOrigin};
        match self {
            Cause::Opened => ("opened", Connect, 0, "both legs are up"),
            Cause::Closed => ("closed", Disconnect, 200, "closed by both sides"),
            Cause::Idle => ("idle_timeout", Disconnect, 200, "no byte either way for the idle time"),
            Cause::HalfCloseTimeout => {
                ("half_close_timeout", Disconnect, 200, "one side closed, the other did not follow in time")
            }
            Cause::NoProgress => ("no_progress_timeout", Disconnect, 497, "a side did not take its bytes in time"),
            Cause::Drained => {
                ("drained", Disconnect, 200, "cut because its application was deleted or the edge stopped")
            }
            Cause::ClientReset => ("client_reset", Disconnect, 499, "the client sent RST"),
            Cause::ClientTimeout => ("client_timeout", Disconnect, 497, "the client stopped answering"),
            Cause::ClientUnreachable => {
                ("client_unreachable", Disconnect, 496, "the client cannot be reached any more")
            }
            Cause::ClientBroken => ("client_broken", Disconnect, 498, "the client connection broke"),
            Cause::OriginReset => ("origin_reset", Disconnect, 444, "the origin sent RST"),
            Cause::OriginTimeout => ("origin_timeout", Disconnect, 445, "the origin stopped answering"),
            Cause::OriginUnreachable => {
                ("origin_unreachable", Disconnect, 446, "the origin cannot be reached any more")
            }
            Cause::OriginBroken => ("origin_broken", Disconnect, 448, "the origin connection broke"),
            Cause::ConnectRefused => {
                ("origin_refused", OriginError, 521, "refused the connection: is the service running there?")
            }
            Cause::ConnectTimeout => (
                "origin_connect_timeout",
                OriginError,
                522,
                "did not answer in time: check address, route and firewall",
            ),
            Cause::ConnectUnreachable => {
                ("origin_connect_unreachable", OriginError, 523, "cannot be reached from here: check routes")
            }
            Cause::ConnectFailed => ("origin_connect_failed", OriginError, 520, "could not be connected to"),
            Cause::PortsExhausted => (
                "ports_exhausted",
                OriginError,
                524,
                "no free source port towards it: give more source addresses (--source-ip), widen \
                 net.ipv4.ip_local_port_range or set net.ipv4.tcp_tw_reuse=1",
            ),
            Cause::SourceMissing => (
                "source_missing",
                OriginError,
                524,
                "cannot be reached: no source address (--source-ip) is an address of this machine",
            ),
            Cause::OutOfResources => {
                ("out_of_resources", OriginError, 524, "this edge is out of file descriptors or memory")
            }
            Cause::ShedMemory => {
                ("shed_memory", Disconnect, 500, "this edge is short of memory: new and stuck connections go first")
            }
            Cause::OriginDenied => {
                ("origin_denied", OriginError, 532, "is an address that this edge must not connect to")
            }
            Cause::NameNotFound => ("origin_name_not_found", ResolveOrigin, 531, "the origin's name has no address"),
            Cause::NameFailed => ("origin_name_failed", ResolveOrigin, 530, "the origin's name could not be resolved"),
            Cause::HeaderInvalid => {
                ("proxy_header_invalid", ClientFiltered, 403, "a trusted proxy sent no valid PROXY header")
            }
            Cause::HeaderTimeout => {
                ("proxy_header_timeout", ClientFiltered, 403, "a trusted proxy sent no PROXY header in time")
            }
            Cause::FirewallBlocked => ("firewall_blocked", ClientFiltered, 403, "an IP access rule blocks this client"),
            Cause::FirewallCut => (
                "firewall_cut",
                Disconnect,
                403,
                "cut because a new IP access rule with drop_established blocks this client",
            ),
            Cause::LimitOpen => {
                ("limit_open", ClientFiltered, 403, "as many connections or sessions as the limits allow are open")
            }
            Cause::LimitRate => ("limit_rate", ClientFiltered, 403, "more in a second than the limits allow"),
            Cause::LimitBanned => ("limit_banned", ClientFiltered, 403, "banned for a time for going over a limit"),
            Cause::FloodBanned => {
                ("flood_banned", ClientFiltered, 403, "banned for a time: its address opened a flood of connections")
            }
            Cause::BruteForceBanned => (
                "brute_force_banned",
                ClientFiltered,
                403,
                "banned for a time: its address tried short connections again and again, as for passwords",
            ),
            Cause::ScanBanned => {
                ("scan_banned", ClientFiltered, 403, "banned for a time: its address asked for one port after another")
            }
            Cause::IdleEvicted => (
                "idle_evicted",
                Disconnect,
                500,
                "this edge had no descriptors left, and this one was silent and of the network that held most connections",
            ),
            Cause::GreetingInvalid => {
                ("minecraft_invalid", ClientFiltered, 403, "what it said first is nothing that a Minecraft client says")
            }
            Cause::GreetingTimeout => {
                ("minecraft_timeout", ClientFiltered, 403, "it did not say in time what it wants of a Minecraft server")
            }
            Cause::JoinLimit => (
                "minecraft_join_limit",
                ClientFiltered,
                403,
                "more want to join than may in a second, and its turn did not come",
            ),
            Cause::Answered => ("answered", Disconnect, 200, "answered by the edge from what the origin said last"),
            Cause::ClientGone => ("client_gone", Disconnect, 499, "the client left before the origin answered"),
            Cause::SessionEvicted => {
                ("session_evicted", Disconnect, 500, "the session table was full and this one was the least used")
            }
            Cause::OriginPortUnreachable => {
                ("origin_port_unreachable", Disconnect, 447, "the origin answered that the port is closed")
            }
            Cause::PathBroken => (
                "path_broken",
                OriginError,
                523,
                "an edge on the way to the origin cannot be reached, or does not take flows of this one",
            ),
            Cause::PathUnknown => (
                "path_unknown",
                OriginError,
                523,
                "the last edge of the path does not serve this application, or not yet",
            ),
            Cause::WorkerReplaced => (
                "worker_replaced",
                Disconnect,
                500,
                "the worker that served it hung and was replaced: please report it",
            ),
            Cause::Panic => {
                ("internal_error", Disconnect, 500, "an error of ours ended this connection: please report it")
            }
        }
    }

    pub fn code(self) -> &'static str {
        self.row().0
    }

    pub fn kind(self) -> Kind {
        self.row().1
    }

    pub fn status(self) -> u16 {
        self.row().2
    }
}

/// One record. `Copy` and without heap, so that writing it costs a store.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub cause: Cause,
    pub protocol: Protocol,
    pub time_ms: u64,
    pub application: u128,
    pub flow: u64,
    pub client: SocketAddr,
    pub edge: SocketAddr,
    pub origin: Option<SocketAddr>,
    /// Wall-clock time at which both legs were up; 0 if they never were.
    pub connect_time_ms: u64,
    pub client_bytes: u64,
    pub origin_bytes: u64,
    pub client_rtt_ns: u64,
    pub origin_rtt_ns: u64,
    pub firewall: Matched,
    /// The same at every edge that the flow goes through; 0: at this one alone.
    pub trace: u64,
    /// The edges that it goes over after this one, where it may go over some.
    pub path: Option<Path>,
}

/// What the ends of a ring tell each other beside it.
#[derive(Debug, Default)]
struct Shared {
    lost: AtomicU64,
    /// The last look passed over what was there: nobody reads.
    is_unread: AtomicBool,
    /// Records that were not even made, since the reader asked last.
    passed: AtomicU64,
}

/// Records that are made in a second for whoever comes next, where nobody reads.
const KEPT_UNREAD: u32 = 2_000;

/// The writing end of one worker's ring.
#[derive(Debug)]
pub struct Events {
    ring: rtrb::Producer<Event>,
    shared: Arc<Shared>,
    /// Since when, and how many, records were made that nobody reads.
    unread: (u64, u32),
    /// Who judges what clients do hears of it too.
    feed: Option<Feed>,
}

/// The reading end.
#[derive(Debug)]
pub struct EventReader {
    ring: rtrb::Consumer<Event>,
    shared: Arc<Shared>,
}

pub fn ring(capacity: usize) -> (Events, EventReader) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    let shared = Arc::new(Shared::default());
    (
        Events { ring: producer, shared: shared.clone(), unread: (0, 0), feed: None },
        EventReader { ring: consumer, shared },
    )
}

impl Events {
    pub fn heard_by(self, feed: Feed) -> Events {
        Events { feed: Some(feed), ..self }
    }

    pub fn write(&mut self, mut event: Event) {
        event.time_ms = unix_ms();
        self.write_dated(event);
    }

    /// Of something that happened at the time that it says.
    pub fn write_dated(&mut self, event: Event) {
        if let Some(feed) = &mut self.feed {
            feed.write(&event);
        }
        if self.ring.push(event).is_err() {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Is a record of one of so many, that making them is most of what they cost, to be made? Where nobody reads, only
    /// some of each second are. `now_ms` is of any clock that goes on.
    pub fn is_wanted(&mut self, now_ms: u64) -> bool {
        if !self.shared.is_unread.load(Ordering::Relaxed) {
            return true;
        }
        if now_ms.saturating_sub(self.unread.0) >= 1000 {
            self.unread = (now_ms, 0);
        }
        self.unread.1 += u32::from(self.unread.1 <= KEPT_UNREAD);
        self.unread.1 <= KEPT_UNREAD
    }

    /// In place of a record that is not wanted.
    pub fn pass_over(&mut self, sighting: Option<Sighting>) {
        self.shared.passed.fetch_add(1, Ordering::Relaxed);
        if let (Some(feed), Some(sighting)) = (&mut self.feed, sighting) {
            feed.give(sighting);
        }
    }
}

impl EventReader {
    pub fn read(&mut self) -> Option<Event> {
        self.ring.pop().ok()
    }

    /// Its worker has ended and everything was read.
    pub fn is_over(&self) -> bool {
        self.ring.is_abandoned() && self.ring.is_empty()
    }

    /// Pass over all but the last `most` and answer how many those were.
    pub fn skip_to_last(&mut self, most: usize) -> u64 {
        let older = self.ring.slots().saturating_sub(most);
        match self.ring.read_chunk(older) {
            Ok(chunk) => {
                chunk.commit_all();
                older as u64
            }
            Err(_) => 0,
        }
    }

    /// Does anybody read what comes?
    pub fn be_unread(&self, is_unread: bool) {
        self.shared.is_unread.store(is_unread, Ordering::Relaxed);
    }

    /// How many records were not made, since this was asked last.
    pub fn passed(&self) -> u64 {
        self.shared.passed.swap(0, Ordering::Relaxed)
    }

    /// Records dropped because the ring was full, since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

/// An event in words, as `observe` hands it out.
#[derive(Debug, Serialize)]
pub struct Record {
    pub seq: u64,
    pub kind: Kind,
    pub time_ms: u64,
    pub application: String,
    pub flow: u64,
    pub protocol: Protocol,
    pub client: SocketAddr,
    pub edge: SocketAddr,
    pub origin: Option<SocketAddr>,
    pub connect_time_ms: Option<u64>,
    pub client_bytes: u64,
    pub origin_bytes: u64,
    pub client_rtt_ns: u64,
    pub origin_rtt_ns: u64,
    pub ip_firewall: bool,
    pub client_matched_ip_firewall: Matched,
    /// Of a flow that goes through several edges: the same at each. 16 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Of a flow that may go over other edges: those after this one, in order; none: it goes to its origin from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Vec<String>>,
    pub status: u16,
    pub cause: &'static str,
    pub message: String,
}

impl Record {
    pub fn new(seq: u64, event: &Event) -> Record {
        let (cause, kind, status, sentence) = event.cause.row();
        let message = match (kind, event.origin) {
            (Kind::OriginError, Some(origin)) => format!("{origin} {sentence}"),
            _ => sentence.to_string(),
        };
        Record {
            seq,
            kind,
            time_ms: event.time_ms,
            application: format!("{:032x}", event.application),
            flow: event.flow,
            protocol: event.protocol,
            client: event.client,
            edge: event.edge,
            origin: event.origin,
            connect_time_ms: (event.connect_time_ms > 0).then_some(event.connect_time_ms),
            client_bytes: event.client_bytes,
            origin_bytes: event.origin_bytes,
            client_rtt_ns: event.client_rtt_ns,
            origin_rtt_ns: event.origin_rtt_ns,
            ip_firewall: event.firewall != Matched::Unknown,
            client_matched_ip_firewall: event.firewall,
            trace: (event.trace != 0).then(|| format!("{:016x}", event.trace)),
            path: event.path.map(|path| path.names().map(|name| name.as_str().to_string()).collect()),
            status,
            cause,
            message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Event {
        let nobody = "192.0.2.1:1".parse().expect("an address");
        Event {
            cause: Cause::Closed,
            protocol: Protocol::Tcp,
            time_ms: 1,
            application: 1,
            flow: 1,
            client: nobody,
            edge: nobody,
            origin: None,
            connect_time_ms: 1,
            client_bytes: 0,
            origin_bytes: 0,
            client_rtt_ns: 0,
            origin_rtt_ns: 0,
            firewall: Matched::Unknown,
            trace: 0,
            path: None,
        }
    }

    #[test]
    fn where_nobody_reads_only_some_records_of_a_second_are_made_and_the_others_counted() {
        let (mut events, mut reader) = ring(4096);
        let mut at = |now_ms: u64, records: u32| {
            for _ in 0..records {
                if events.is_wanted(now_ms) { events.write_dated(some()) } else { events.pass_over(None) }
            }
        };
        reader.be_unread(true);
        at(1_000, 2_100);
        at(1_999, 50);
        assert_eq!((std::iter::from_fn(|| reader.read()).count(), reader.passed()), (2_000, 150));
        at(2_000, 10);
        assert_eq!((std::iter::from_fn(|| reader.read()).count(), reader.passed()), (10, 0));
        reader.be_unread(false);
        at(2_000, 1000);
        assert_eq!((std::iter::from_fn(|| reader.read()).count(), reader.passed(), reader.lost()), (1000, 0, 0));
    }
}
