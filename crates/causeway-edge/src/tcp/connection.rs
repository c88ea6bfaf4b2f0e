//! One connection: what is known of its two sockets, when it is due, how it ends.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use causeway_wire::Endpoints;

use super::tunnel::Tunnel;
use super::visit::Visit;
use super::{canonical, counters};
use crate::application::Active;
use crate::event::{Cause, Event};
use crate::limits::Permit;
use crate::relay::{Fault, Half, Leg, Moved, Readiness, Side, Tools};
use crate::snapshot::Protocol;
use crate::sys;
use crate::worker::{Desk, Token};

pub const NEVER: u64 = u64::MAX;
const SAMPLED: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Header,
    /// At the gate of a Minecraft server (see `visit`).
    Visiting,
    Resolving,
    Connecting,
    Open,
    Closed,
}

#[derive(Debug)]
pub struct Connection {
    pub state: State,
    pub active: Arc<Active>,
    pub client: Option<OwnedFd>,
    pub origin: Option<OwnedFd>,
    pub ready: [Readiness; 2],
    pub up: Half,
    pub down: Half,
    pub client_address: SocketAddr,
    pub edge_address: SocketAddr,
    pub origin_address: Option<SocketAddr>,
    /// What a trusted proxy said in place of the two addresses above.
    pub told: Option<Box<Endpoints>>,
    pub early: Vec<u8>,
    /// One bit for each origin address that was tried.
    pub tried: u64,
    pub last_failure: Option<Cause>,
    pub generation: u32,
    pub armed_ms: u64,
    /// Begin of the present state until `Open`, of the last byte from then on.
    pub since_ms: u64,
    pub half_closed_ms: u64,
    pub blocked_ms: [u64; 2],
    pub cut_ms: u64,
    pub connect_time_ms: u64,
    pub flow: u64,
    /// Has the origin's socket got its options? Most connections end before they matter.
    pub tuning: Tuning,
    /// Its room within the limits.
    pub permit: Option<Box<Permit>>,
    pub visit: Option<Box<Visit>>,
    /// What it has besides where it goes over other edges, or comes from one.
    pub tunnel: Option<Box<Tunnel>>,
}

// Idle connections are most of what an edge holds.
const _: () = assert!(size_of::<Connection>() <= 640);

/// The options of a socket towards an origin wait until they can matter: Nagle's delay begins with a second write,
/// keepalive and the user timeout with a connection that lives on. Five system calls fewer for one that is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    None,
    HasWritten,
    Done,
}

const MOST_PAUSE_MS: u64 = 1000;

/// How the two sockets end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// By FIN: every byte and both ends were passed on.
    None,
    /// By RST: a FIN would claim that the stream was complete.
    Both,
}

impl Readiness {
    pub fn note(&mut self, notice: u32) {
        self.is_readable |= notice & (sys::IN | sys::RDHUP | sys::HUP) != 0;
        self.is_writable |= notice & sys::OUT != 0;
        self.is_ending |= notice & (sys::RDHUP | sys::HUP) != 0;
    }
}

impl Connection {
    pub fn new(
        active: Arc<Active>,
        client: OwnedFd,
        address: SocketAddr,
        edge: SocketAddr,
        desk: &mut Desk,
    ) -> Connection {
        Connection {
            state: State::Connecting,
            active,
            client: Some(client),
            origin: None,
            ready: [Readiness { is_writable: true, ..Readiness::default() }, Readiness::default()],
            up: Half::default(),
            down: Half::default(),
            client_address: canonical(address),
            edge_address: canonical(edge),
            origin_address: None,
            told: None,
            early: Vec::new(),
            tried: 0,
            last_failure: None,
            generation: 0,
            armed_ms: NEVER,
            since_ms: desk.now_ms,
            half_closed_ms: NEVER,
            blocked_ms: [NEVER; 2],
            cut_ms: NEVER,
            connect_time_ms: 0,
            flow: desk.next_flow(),
            tuning: Tuning::None,
            permit: None,
            visit: None,
            tunnel: None,
        }
    }

    pub fn pump_up(&mut self, tools: &mut Tools, slot: usize) -> Result<Moved, Fault> {
        if self.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_enciphered()) {
            return self.pump_enciphered(tools, true);
        }
        let [client, origin] = &mut self.ready;
        let (Some(from), Some(to)) = (&self.client, &self.origin) else { return Ok(Moved::default()) };
        self.up.pump((from.as_raw_fd(), client), (to.as_raw_fd(), origin), tools, Token::Client.at(slot))
    }

    pub fn pump_down(&mut self, tools: &mut Tools, slot: usize) -> Result<Moved, Fault> {
        if self.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_enciphered()) {
            return self.pump_enciphered(tools, false);
        }
        let [client, origin] = &mut self.ready;
        let (Some(from), Some(to)) = (&self.origin, &self.client) else { return Ok(Moved::default()) };
        self.down.pump((from.as_raw_fd(), origin), (to.as_raw_fd(), client), tools, Token::Origin.at(slot))
    }

    /// Apart, so that plain relays do not carry it along.
    #[inline(never)]
    fn pump_enciphered(&mut self, tools: &mut Tools, is_up: bool) -> Result<Moved, Fault> {
        let [client_ready, origin_ready] = &mut self.ready;
        let (Some(client), Some(origin), Some(tunnel)) = (&self.client, &self.origin, &mut self.tunnel) else {
            return Ok(Moved::default());
        };
        if !is_up && tunnel.awaits_answer() {
            return Ok(Moved::default()); // what comes is not for the client
        }
        let client = Leg { fd: client.as_raw_fd(), ready: client_ready, tls: tunnel.client.as_mut() };
        let origin = Leg { fd: origin.as_raw_fd(), ready: origin_ready, tls: tunnel.origin.as_mut() };
        match is_up {
            true => self.up.pump_enciphered(client, origin, tools),
            false => self.down.pump_enciphered(origin, client, tools),
        }
    }

    /// Can it go on over another connection between edges?
    pub fn is_kept(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.kept.is_some())
    }

    /// Is that the side on which such a flow has the other edge?
    pub fn is_link(&self, side: Side) -> bool {
        let kept = self.tunnel.as_ref().and_then(|tunnel| tunnel.kept.as_ref());
        kept.is_some_and(|kept| kept.is_first == (side == Side::Origin))
    }

    pub fn endpoints(&self) -> Endpoints {
        match &self.told {
            Some(endpoints) => **endpoints,
            None => Endpoints { source: self.client_address, destination: self.edge_address },
        }
    }

    /// Pass a FIN on in a direction that has just ended. True if a timer may be due earlier now.
    pub fn pass_end(&mut self, up: &Moved, down: &Moved, now_ms: u64) -> bool {
        if !up.is_done && !down.is_done {
            return false;
        }
        let told = [self.tell_end(up.is_done, 1), self.tell_end(down.is_done, 0)];
        let directions = [(up.is_done, &mut self.up, &self.origin), (down.is_done, &mut self.down, &self.client)];
        let mut has_ended = false;
        for ((is_done, half, target), has_told) in directions.into_iter().zip(told) {
            if is_done && !half.has_sent_end {
                if !has_told {
                    continue; // it waits behind what the socket has not taken
                }
                half.has_sent_end = true;
                target.iter().for_each(|fd| sys::shutdown_write(fd.as_raw_fd()));
                (self.half_closed_ms, has_ended) = (now_ms, true);
            }
        }
        has_ended
    }

    /// The end of TLS goes before FIN, on the side of the client (0) or the origin (1): is it with the socket? A socket
    /// that has failed says so at its next use.
    #[inline(never)]
    fn tell_end(&mut self, is_done: bool, side: usize) -> bool {
        let Some(tunnel) = self.tunnel.as_mut().filter(|_| is_done) else { return true };
        let [client, origin] = [(&mut tunnel.client, &self.client), (&mut tunnel.origin, &self.origin)];
        let (Some(tls), Some(fd)) = (if side == 0 { client } else { origin }) else { return true };
        tls.end();
        tls.flush(fd.as_raw_fd(), &mut self.ready[side]).unwrap_or(true)
    }

    /// Both directions have ended: may the sockets be closed, with all that they have to say?
    pub fn has_told_ends(&mut self) -> bool {
        let told = [self.tell_end(true, 0), self.tell_end(true, 1)];
        told.into_iter().all(|is_told| is_told)
    }

    /// A client's socket is watched for room only once it has lacked it: most never do.
    pub fn watch_writable(&mut self, desk: &Desk, slot: usize, down: &Moved) -> io::Result<()> {
        if down.is_blocked && !self.ready[0].watches_writable {
            self.ready[0].watches_writable = true;
            if let Some(client) = &self.client {
                let interest = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
                return desk.epoll.modify(client.as_raw_fd(), interest, Token::Client.at(slot));
            }
        }
        Ok(())
    }

    /// The origin has taken bytes.
    pub fn on_written(&mut self) {
        match self.tuning {
            Tuning::None => self.tuning = Tuning::HasWritten,
            Tuning::HasWritten => self.tune(),
            Tuning::Done => {}
        }
    }

    /// Setting `TCP_NODELAY` also sends what waits (tcp(7)).
    pub fn tune(&mut self) {
        if self.tuning != Tuning::Done
            && let Some(origin) = &self.origin
        {
            self.tuning = Tuning::Done;
            // A socket that has failed meanwhile says so at its next use.
            let _ = sys::set_stream_options(origin.as_raw_fd(), self.active.user_timeout());
        }
    }

    /// Reading round-trip times costs a call for each side: of connections that moved next to nothing one in 16 will do.
    pub fn is_worth_measuring(&self) -> bool {
        self.tuning == Tuning::Done || self.flow.is_multiple_of(SAMPLED)
    }

    /// Bring the counters of the application up to date with what the two halves have read.
    pub fn count_bytes(&mut self, desk: &Desk) {
        let counters = counters(&self.active, desk);
        counters.bytes_ingress.add(self.up.uncounted());
        counters.bytes_egress.add(self.down.uncounted());
    }

    pub fn due_ms(&self) -> u64 {
        let due_ms = match self.state {
            State::Header => self.since_ms + self.active.proxy_header_timeout_ms,
            State::Visiting => self.visit.as_ref().map_or(NEVER, |visit| visit.due_ms()),
            State::Resolving | State::Connecting => {
                let hurried_ms = self.tunnel.as_ref().map_or(NEVER, |tunnel| tunnel.waits_until_ms);
                hurried_ms.min(self.since_ms + self.active.connect_timeout_ms)
            }
            State::Open => {
                let idle = self.since_ms.saturating_add(self.active.idle_timeout_ms);
                let half_closed = self.half_closed_ms.saturating_add(self.active.half_close_timeout_ms);
                let [up, down] = self.blocked_ms.map(|ms| ms.saturating_add(self.active.no_progress_timeout_ms));
                let paused = self.permit.as_ref().map_or(NEVER, |permit| permit.paused_until_ms);
                let idle = idle.min(self.tunnel.as_ref().map_or(NEVER, |tunnel| tunnel.due_ms()));
                idle.min(half_closed).min(up).min(down).min(if paused == 0 { NEVER } else { paused })
            }
            State::Closed => NEVER,
        };
        due_ms.min(self.cut_ms)
    }

    /// Which of the timers of an open connection has run out, and how the connection ends for it.
    pub fn overdue(&self, now_ms: u64) -> (Cause, Reset) {
        let no_progress_ms = self.active.no_progress_timeout_ms;
        if self.blocked_ms.iter().any(|ms| ms.saturating_add(no_progress_ms) <= now_ms) {
            (Cause::NoProgress, Reset::Both)
        } else if self.half_closed_ms.saturating_add(self.active.half_close_timeout_ms) <= now_ms {
            (Cause::HalfCloseTimeout, Reset::Both)
        } else if self.up.holds_bytes() || self.down.holds_bytes() {
            (Cause::Idle, Reset::Both)
        } else {
            (Cause::Idle, Reset::None)
        }
    }

    /// Has it moved more bytes than its limits have paid for? Looked at again in a second at the latest: others of its
    /// source pay too.
    pub fn must_pause(&mut self, now_ms: u64) -> bool {
        let Some(permit) = self.permit.as_mut().filter(|permit| permit.is_paced()) else { return false };
        let wait_ms = permit.wait_ms(now_ms).min(MOST_PAUSE_MS);
        permit.paused_until_ms = if wait_ms == 0 { 0 } else { now_ms + wait_ms };
        (self.up.is_paced, self.down.is_paced) = (true, true);
        wait_ms > 0
    }

    fn trace(&self) -> u64 {
        self.tunnel.as_ref().map_or(0, |tunnel| tunnel.trace)
    }

    /// May the client that a trusted proxy has named come in?
    pub fn admits(&self) -> bool {
        self.active.admits(self.endpoints().source.ip(), self.edge_address.port())
    }

    pub fn event(&self, cause: Cause, origin_rtt_ns: u64) -> Event {
        let endpoints = self.endpoints();
        Event {
            cause,
            protocol: Protocol::Tcp,
            time_ms: 0,
            application: self.tunnel.as_ref().map_or(self.active.id, |tunnel| tunnel.application),
            flow: self.flow,
            client: endpoints.source,
            edge: self.edge_address,
            origin: self.origin_address,
            connect_time_ms: self.connect_time_ms,
            client_bytes: self.up.bytes,
            origin_bytes: self.down.bytes,
            client_rtt_ns: 0,
            origin_rtt_ns,
            firewall: self.active.matched(endpoints.source.ip(), self.edge_address.port()),
            trace: self.trace(),
            path: self.tunnel.as_ref().map(|tunnel| tunnel.course.path),
        }
    }
}
