//! One UDP session: a client, the edge address it sends to, and a socket of its own towards the origin.
//!
//! States: `Opening -> (Linking | Resolving) -> Open -> Closed`. Knows its deadlines and headers; moves no bytes.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use causeway_wire::{Endpoints, proxy_v2, simple_proxy};

use super::batch::Prefix;
use super::legs;
use super::tunnel::Tunnel;
use crate::application::Active;
use crate::event::{Cause, Event};
use crate::limits::Permit;
use crate::routes::Seat;
use crate::snapshot::{Protocol, ProxyProtocol, UdpHeader};

const NEVER: u64 = u64::MAX;
/// Of a session that another edge has handed over.
pub const NO_PORT: usize = u32::MAX as usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Opening,
    /// Its origin's name has no answer yet.
    Resolving,
    /// There is no connection to the next edge yet.
    Linking,
    Open,
    Closed,
}

impl State {
    /// Are its datagrams held until it can go on?
    pub fn holds(self) -> bool {
        matches!(self, State::Resolving | State::Linking)
    }
}

/// What makes two datagrams part of one session. Plain numbers, so that hashing it is one pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key([u64; 6]);

impl Key {
    pub fn new(port: usize, client: SocketAddr, edge: SocketAddr) -> Key {
        let halves = |ip: IpAddr| {
            let bits = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
                IpAddr::V6(v6) => v6.to_bits(),
            };
            [(bits >> 64) as u64, bits as u64]
        };
        let ([c0, c1], [e0, e1]) = (halves(client.ip()), halves(edge.ip()));
        let scope = if let SocketAddr::V6(v6) = client { v6.scope_id() } else { 0 };
        Key([
            c0,
            c1,
            e0,
            e1,
            (port as u64) << 32 | u64::from(edge.port()) << 16 | u64::from(client.port()),
            scope.into(),
        ])
    }

    /// Of a session that another edge has handed over: no listener's.
    pub fn of_flow((leg, flow): legs::Place) -> Key {
        Key([leg as u64, flow, 0, 0, (NO_PORT as u64) << 32, 0])
    }
}

#[derive(Debug)]
pub struct Session {
    pub state: State,
    pub key: Key,
    pub port: usize,
    pub active: Arc<Active>,
    pub socket: Option<OwnedFd>,
    /// Of a session of dispatch: what its answers leave from, and its part in the use of the port.
    pub reply: Option<Arc<OwnedFd>>,
    pub seat: Option<Seat>,
    /// Its room within the limits.
    pub permit: Option<Box<Permit>>,
    pub client: SocketAddr,
    pub edge: SocketAddr,
    pub origin: Option<SocketAddr>,
    /// One bit for each origin address that was tried.
    pub tried: u64,
    pub last_failure: Option<Cause>,
    /// Also tells this session from a later one in the same slot.
    pub flow: u64,
    /// Begin of `Resolving`, then of the last datagram either way.
    pub since_ms: u64,
    pub cut_ms: u64,
    /// Silent for so long it has ended, however long its application would wait.
    pub quiet_ms: u64,
    pub connect_time_ms: u64,
    pub client_bytes: u64,
    pub origin_bytes: u64,
    /// The PROXY header that goes with the first datagram has not gone out yet.
    pub owes_header: bool,
    /// The origin has said something.
    pub is_answered: bool,
    /// And the client something after that, as the kernel has it: who only says to be somebody hears no answer.
    pub is_two_way: bool,
    /// The guard knows of it.
    pub is_told: bool,
    /// Of one that goes over other edges.
    pub tunnel: Option<Box<Tunnel>>,
    /// Runs of equal datagrams may go out as one buffer, towards origin and client.
    pub may_segment: [bool; 2],
    /// Datagrams that wait for the origin's address, or for a connection to the next edge.
    pub held: Vec<Box<[u8]>>,
}

impl Session {
    pub fn new(key: Key, port: usize, active: Arc<Active>, ends: Endpoints, flow: u64, now_ms: u64) -> Session {
        let owes_header = active.proxy_protocol() == ProxyProtocol::V2;
        Session {
            state: State::Opening,
            key,
            port,
            active,
            socket: None,
            reply: None,
            seat: None,
            permit: None,
            client: ends.source,
            edge: ends.destination,
            origin: None,
            tried: 0,
            last_failure: None,
            flow,
            since_ms: now_ms,
            cut_ms: NEVER,
            quiet_ms: NEVER,
            connect_time_ms: 0,
            client_bytes: 0,
            origin_bytes: 0,
            owes_header,
            is_answered: false,
            is_two_way: false,
            is_told: false,
            tunnel: None,
            may_segment: [true; 2],
            held: Vec::new(),
        }
    }

    pub fn due_ms(&self) -> u64 {
        let timeout_ms = match self.state {
            State::Opening | State::Resolving => self.active.connect_timeout_ms,
            State::Linking => self.tunnel.as_ref().map_or(0, |tunnel| tunnel.linked_within_ms),
            State::Open if self.is_handed_over() => self.quiet_ms, // how long it may be idle is for its ends to judge
            State::Open => self.active.udp_idle_timeout_ms.min(self.quiet_ms),
            State::Closed => return NEVER,
        };
        self.since_ms.saturating_add(timeout_ms).min(self.cut_ms)
    }

    pub fn held_bytes(&self) -> usize {
        self.held.iter().map(|datagram| datagram.len()).sum()
    }

    fn endpoints(&self) -> Endpoints {
        Endpoints { source: self.client, destination: self.edge }
    }

    /// Is `datagram` a reply of this session, with the header that Simple Proxy Protocol asks for?
    pub fn is_reply(&self, datagram: &[u8]) -> bool {
        let is = |a: SocketAddr, b: SocketAddr| (a.ip(), a.port()) == (b.ip(), b.port());
        match simple_proxy::decode(datagram) {
            Ok((said, _)) => is(said.source, self.client) && is(said.destination, self.edge),
            Err(_) => false,
        }
    }

    pub fn event(&self, cause: Cause) -> Event {
        Event {
            cause,
            protocol: Protocol::Udp,
            time_ms: 0,
            application: self.tunnel.as_ref().map_or(self.active.id, |tunnel| tunnel.application),
            flow: self.flow,
            client: self.client,
            edge: self.edge,
            origin: self.origin,
            connect_time_ms: self.connect_time_ms,
            client_bytes: self.client_bytes,
            origin_bytes: self.origin_bytes,
            client_rtt_ns: 0,
            origin_rtt_ns: 0,
            firewall: self.active.matched(self.client.ip(), self.edge.port()),
            trace: self.tunnel.as_ref().map_or(0, |tunnel| tunnel.trace),
            path: self.tunnel.as_ref().map(|tunnel| tunnel.course.path),
        }
    }
}

/// The header that a session's datagrams carry to the origin, encoded once per batch.
#[derive(Debug)]
pub struct Header {
    bytes: [u8; proxy_v2::MAX_ENCODED],
    len: usize,
    is_on_every: bool,
}

impl Header {
    pub fn of(session: &Session) -> Header {
        let mut header = Header { bytes: [0; proxy_v2::MAX_ENCODED], len: 0, is_on_every: true };
        match session.active.proxy_protocol() {
            ProxyProtocol::V2 => {
                header.is_on_every = session.active.udp_header() == UdpHeader::Every;
                if header.is_on_every || session.owes_header {
                    header.len =
                        proxy_v2::encode(&session.endpoints(), proxy_v2::Transport::Datagram, &mut header.bytes);
                }
            }
            ProxyProtocol::Simple => {
                let mut simple = [0; simple_proxy::LEN];
                simple_proxy::encode(&session.endpoints(), &mut simple);
                header.bytes[..simple.len()].copy_from_slice(&simple);
                header.len = simple.len();
            }
            ProxyProtocol::Off | ProxyProtocol::V1 => {} // v1 is for TCP
        }
        header
    }

    /// `is_owed`: no datagram with it has gone out yet.
    pub fn prefix(&self, is_owed: bool) -> Prefix<'_> {
        match &self.bytes[..self.len] {
            [] => Prefix::None,
            bytes if self.is_on_every => Prefix::Every(bytes),
            bytes if is_owed => Prefix::First(bytes),
            _ => Prefix::None,
        }
    }
}
