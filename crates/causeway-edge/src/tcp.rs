//! TCP connections of one worker, from accept to close: admit, read a trusted header, connect, relay, end.
//!
//! States of a connection: `Header -> (Resolving) -> Connecting -> Open`, and out of each straight to closed.
//! RST is passed on as RST, FIN as FIN. Timers are lazy (see `timer`).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use causeway_wire::{Endpoints, accept, proxy_v1, proxy_v2};
use slab::Slab;

use crate::application::Active;
use crate::clock::unix_ms;
use crate::count::Counters;
use crate::event::{Cause, Event};
use crate::origin::Choice;
use crate::relay::{BUFFER_BYTES, Fault, Half, Moved, Readiness, Side, Tools};
use crate::snapshot::{OnDelete, Protocol, ProxyProtocol};
use crate::sys;
use crate::timer::{Entry, Kind};
use crate::worker::{Desk, Token};

/// Connections taken from one listener before others get their turn.
const ACCEPT_BATCH: usize = 64;
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub struct Listener {
    pub fd: OwnedFd,
    pub address: SocketAddr,
    pub active: Arc<Active>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Resolving,
    Connecting,
    Open,
    Closed,
}

#[derive(Debug)]
struct Connection {
    state: State,
    active: Arc<Active>,
    client: Option<OwnedFd>,
    origin: Option<OwnedFd>,
    ready: [Readiness; 2],
    up: Half,
    down: Half,
    client_address: SocketAddr,
    edge_address: SocketAddr,
    origin_address: Option<SocketAddr>,
    /// What a trusted proxy said in place of the two addresses above.
    told: Option<Box<Endpoints>>,
    early: Vec<u8>,
    /// One bit for each origin address that was tried.
    tried: u64,
    last_failure: Option<Cause>,
    generation: u32,
    armed_ms: u64,
    /// Begin of the present state until `Open`, of the last byte from then on.
    since_ms: u64,
    half_closed_ms: u64,
    blocked_ms: [u64; 2],
    cut_ms: u64,
    connect_time_ms: u64,
    flow: u64,
}

/// All TCP of one worker.
#[derive(Debug)]
pub struct TcpPlane {
    listeners: Slab<Listener>,
    connections: Slab<Connection>,
    tools: Tools,
    /// Closed in this turn of the loop; their slots are free after it, so that a stale notice finds nobody.
    closed: Vec<usize>,
    unfinished: Vec<usize>,
    resolving: Vec<(usize, u32)>,
    next_generation: u32,
    pub most_connections: usize,
    /// Given up for a moment to accept and refuse when descriptors run out.
    spare: Option<OwnedFd>,
}

impl TcpPlane {
    pub fn new() -> TcpPlane {
        TcpPlane {
            listeners: Slab::new(),
            connections: Slab::new(),
            tools: Tools::new(),
            closed: Vec::new(),
            unfinished: Vec::new(),
            resolving: Vec::new(),
            next_generation: 0,
            most_connections: usize::MAX,
            spare: spare_descriptor(),
        }
    }

    pub fn listen(&mut self, desk: &Desk, listener: Listener) -> io::Result<usize> {
        let fd = listener.fd.as_raw_fd();
        let slot = self.listeners.insert(listener);
        desk.epoll.add(fd, sys::IN, Token::TcpListener.at(slot)).inspect_err(|_| {
            self.listeners.remove(slot);
        })?;
        Ok(slot)
    }

    pub fn replace(&mut self, slot: usize, active: Arc<Active>) {
        if let Some(listener) = self.listeners.get_mut(slot) {
            listener.active = active;
        }
    }

    pub fn unlisten(&mut self, slot: usize) {
        self.listeners.try_remove(slot);
    }

    pub fn open(&self) -> usize {
        self.connections.len() - self.closed.len()
    }

    pub fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    // ---- accept ----

    pub fn on_listener(&mut self, desk: &mut Desk, slot: usize) {
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = self.listeners.get(slot) else { return };
            match sys::accept(listener.fd.as_raw_fd()) {
                Ok((client, address)) => self.admit(desk, slot, client, address),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    return self.refuse_one(desk, slot);
                }
                // The client left while it waited, or the network had an error for it: the next one is not concerned.
                Err(_) => {}
            }
        }
    }

    /// Out of descriptors: take the spare one, so that the client gets an answer instead of a hanging connect.
    fn refuse_one(&mut self, desk: &mut Desk, slot: usize) {
        self.spare = None;
        if let Some(listener) = self.listeners.get(slot)
            && let Ok((client, address)) = sys::accept(listener.fd.as_raw_fd())
        {
            let edge = listener.address;
            refuse(desk, &listener.active, client, address, edge);
        }
        self.spare = spare_descriptor();
    }

    fn admit(&mut self, desk: &mut Desk, slot: usize, client: OwnedFd, address: SocketAddr) {
        let listener = &self.listeners[slot];
        let mut edge_address = listener.address;
        if edge_address.ip().is_unspecified() {
            edge_address = sys::local_address(client.as_raw_fd()).unwrap_or(edge_address);
        }
        let active = listener.active.clone();
        if self.open() >= self.most_connections {
            return refuse(desk, &active, client, address, edge_address);
        }
        let counters = counters(&active, desk);
        counters.connections_total.add(1);
        counters.connections_open.add(1);
        self.next_generation = self.next_generation.wrapping_add(1);
        let client_fd = client.as_raw_fd();
        let must_show_header = !active.spec.proxy_protocol_from.is_empty() && active.trusts(canonical(address).ip());
        let slot = self.connections.insert(Connection {
            state: if must_show_header { State::Header } else { State::Connecting },
            active,
            client: Some(client),
            origin: None,
            ready: [Readiness { is_writable: true, ..Readiness::default() }, Readiness::default()],
            up: Half::default(),
            down: Half::default(),
            client_address: canonical(address),
            edge_address: canonical(edge_address),
            origin_address: None,
            told: None,
            early: Vec::new(),
            tried: 0,
            last_failure: None,
            generation: self.next_generation,
            armed_ms: NEVER,
            since_ms: desk.now_ms,
            half_closed_ms: NEVER,
            blocked_ms: [NEVER; 2],
            cut_ms: NEVER,
            connect_time_ms: 0,
            flow: desk.next_flow(),
        });
        if desk.epoll.add(client_fd, sys::IN | sys::RDHUP | sys::EDGE, Token::Client.at(slot)).is_err() {
            return self.close(desk, slot, Cause::OutOfResources, Reset::Both);
        }
        if must_show_header {
            self.arm(desk, slot);
        } else {
            self.connect(desk, slot);
        }
    }

    // ---- a trusted PROXY header ----

    fn read_header(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        let Some(client) = &connection.client else { return };
        loop {
            let room = (accept::MAX_HEADER + BUFFER_BYTES / 4).saturating_sub(connection.early.len());
            let n = match sys::recv(client.as_raw_fd(), &mut self.tools.buffer[..room]) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.ready[0].is_readable = false;
                    return;
                }
                Err(_) => return self.close(desk, slot, Cause::ClientGone, Reset::Both),
            };
            connection.early.extend_from_slice(&self.tools.buffer[..n]);
            match accept::parse(&connection.early) {
                Ok(accept::Parsed::Header { consumed, endpoints }) => {
                    connection.told = endpoints.map(Box::new);
                    connection.early.drain(..consumed);
                    connection.up.bytes += connection.early.len() as u64;
                    counters(&connection.active, desk).bytes_ingress.add(connection.early.len() as u64);
                    return self.connect(desk, slot);
                }
                Ok(accept::Parsed::NeedMore) if n > 0 => {}
                Ok(accept::Parsed::NeedMore) | Err(_) => {
                    return self.close(desk, slot, Cause::HeaderInvalid, Reset::Both);
                }
            }
        }
    }

    // ---- connect ----

    /// Try origins in order until one connect is under way.
    fn connect(&mut self, desk: &mut Desk, slot: usize) {
        loop {
            let connection = &mut self.connections[slot];
            let active = connection.active.clone();
            let offset = active.offset(connection.edge_address);
            let origin = match active.origins.choose(&mut connection.tried, offset, desk.now_ms) {
                Choice::Try(origin) => origin,
                Choice::Wait(watched) => {
                    if connection.state != State::Resolving {
                        (connection.state, connection.since_ms) = (State::Resolving, desk.now_ms);
                        self.resolving.push((slot, connection.generation));
                        watched.wait_with(desk.wake_fd());
                    }
                    return self.arm(desk, slot);
                }
                Choice::Exhausted(cause) => {
                    let cause = connection.last_failure.unwrap_or(cause);
                    return self.close(desk, slot, cause, Reset::Both);
                }
            };
            connection.origin_address = Some(origin);
            let failure = match start_connect(&active, origin) {
                Ok(socket) => {
                    let fd = socket.as_raw_fd();
                    connection.origin = Some(socket);
                    (connection.state, connection.since_ms) = (State::Connecting, desk.now_ms);
                    connection.ready[1] = Readiness { watches_writable: true, ..Readiness::default() };
                    let interest = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
                    if desk.epoll.add(fd, interest, Token::Origin.at(slot)).is_ok() {
                        return self.arm(desk, slot);
                    }
                    Cause::OutOfResources
                }
                Err(cause) => cause,
            };
            self.note_failure(desk, slot, failure);
        }
    }

    fn note_failure(&mut self, desk: &Desk, slot: usize, cause: Cause) {
        let connection = &mut self.connections[slot];
        connection.origin = None;
        connection.last_failure = Some(cause);
        let counters = counters(&connection.active, desk);
        counters.connect_errors_total.add(1);
        match (cause, connection.origin_address) {
            (Cause::PortsExhausted, _) => counters.ports_exhausted_total.add(1),
            (Cause::ConnectTimeout, Some(origin)) => connection.active.origins.shun(origin, desk.now_ms),
            _ => {}
        }
    }

    fn on_connected(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        connection.state = State::Open;
        connection.connect_time_ms = unix_ms();
        connection.ready[1].is_writable = true;
        if let Some(origin) = connection.origin_address {
            connection.active.origins.welcome(origin);
        }
        desk.events.write(connection.event(Cause::Opened, (desk.now_ms - connection.since_ms) * 1_000_000));
        connection.since_ms = desk.now_ms;
        if connection.active.proxy_protocol() != ProxyProtocol::Off || !connection.early.is_empty() {
            self.send_header(desk, slot);
        }
        self.arm(desk, slot);
        self.run(desk, slot);
    }

    /// The header goes first and, where the client has sent bytes already, in one segment with them.
    fn send_header(&mut self, desk: &Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        let endpoints = connection.endpoints();
        let mut first = match connection.active.proxy_protocol() {
            ProxyProtocol::V1 => {
                let mut header = [0; 107];
                let n = proxy_v1::encode(&endpoints, &mut header);
                header[..n].to_vec()
            }
            ProxyProtocol::V2 => {
                let mut header = [0; 52];
                let n = proxy_v2::encode(&endpoints, proxy_v2::Transport::Stream, &mut header);
                header[..n].to_vec()
            }
            ProxyProtocol::Off | ProxyProtocol::Simple => Vec::new(), // simple is for datagrams
        };
        first.append(&mut connection.early);
        connection.early = Vec::new();
        if let Some(client) = &connection.client
            && let Ok(n) = sys::recv(client.as_raw_fd(), &mut self.tools.buffer[..BUFFER_BYTES - 512])
            && n > 0
        {
            first.extend_from_slice(&self.tools.buffer[..n]);
            connection.up.bytes += n as u64;
            counters(&connection.active, desk).bytes_ingress.add(n as u64);
        }
        connection.up.hold(first);
        connection.ready[0].is_readable = true; // an end may have come with the bytes
    }

    // ---- notices of the kernel ----

    pub fn on_client(&mut self, desk: &mut Desk, slot: usize, notice: u32) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(fd) = connection.client.as_ref().map(AsRawFd::as_raw_fd) else { return };
        connection.ready[0].note(notice);
        if notice & sys::ERR != 0
            && let Some(errno) = sys::take_error(fd)
        {
            return self.on_fault(desk, slot, Side::Client, errno);
        }
        match connection.state {
            State::Header => self.read_header(desk, slot),
            State::Open => self.run(desk, slot),
            State::Resolving | State::Connecting if notice & sys::HUP != 0 => {
                self.close(desk, slot, Cause::ClientGone, Reset::Both);
            }
            State::Resolving | State::Connecting | State::Closed => {}
        }
    }

    pub fn on_origin(&mut self, desk: &mut Desk, slot: usize, notice: u32) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(fd) = connection.origin.as_ref().map(AsRawFd::as_raw_fd) else { return };
        connection.ready[1].note(notice);
        if notice & (sys::ERR | sys::HUP) != 0
            && let Some(errno) = sys::take_error(fd)
        {
            if connection.state == State::Connecting {
                self.note_failure(desk, slot, connect_cause(errno));
                return self.connect(desk, slot);
            }
            return self.on_fault(desk, slot, Side::Origin, errno);
        }
        match connection.state {
            State::Connecting if notice & (sys::OUT | sys::IN) != 0 => self.on_connected(desk, slot),
            State::Open => self.run(desk, slot),
            _ => {}
        }
    }

    /// A socket has failed. What it sent before is passed on as far as the other side takes it now.
    fn on_fault(&mut self, desk: &mut Desk, slot: usize, side: Side, errno: i32) {
        let connection = &mut self.connections[slot];
        if connection.state == State::Open {
            let half = if side == Side::Client { Half::pump_up } else { Half::pump_down };
            let _ = half(connection, &mut self.tools);
        }
        let cause = match (connection.state, side) {
            (State::Open, _) => fault_cause(side, errno),
            _ => Cause::ClientGone,
        };
        self.close(desk, slot, cause, Reset::Both);
    }

    /// Names have been answered: go on with those that waited.
    pub fn on_names(&mut self, desk: &mut Desk) {
        for (slot, generation) in std::mem::take(&mut self.resolving) {
            let is_waiting =
                self.connections.get(slot).is_some_and(|c| c.generation == generation && c.state == State::Resolving);
            if is_waiting {
                self.connect(desk, slot);
                if self.connections[slot].state == State::Resolving {
                    self.resolving.push((slot, generation));
                }
            }
        }
    }

    // ---- relay ----

    fn run(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        let up = match Half::pump_up(connection, &mut self.tools) {
            Ok(moved) => moved,
            Err(fault) => return self.on_pump_fault(desk, slot, Side::Client, fault),
        };
        let down = match Half::pump_down(connection, &mut self.tools) {
            Ok(moved) => moved,
            Err(fault) => return self.on_pump_fault(desk, slot, Side::Origin, fault),
        };
        let counters = counters(&connection.active, desk);
        counters.bytes_ingress.add(up.read);
        counters.bytes_egress.add(down.read);
        if up.has_progress || down.has_progress {
            connection.since_ms = desk.now_ms;
        }
        if up.is_done && down.is_done {
            return self.close(desk, slot, Cause::Closed, Reset::None);
        }
        let mut must_arm = connection.pass_end(&up, &down, desk.now_ms);
        if connection.watch_writable(desk, slot, &up, &down).is_err() {
            return self.close(desk, slot, Cause::OutOfResources, Reset::Both);
        }
        for (blocked_ms, moved) in connection.blocked_ms.iter_mut().zip([&up, &down]) {
            match (moved.is_blocked, *blocked_ms == NEVER || moved.has_progress) {
                (true, true) => (*blocked_ms, must_arm) = (desk.now_ms, true),
                (false, _) => *blocked_ms = NEVER,
                (true, false) => {}
            }
        }
        if up.is_unfinished || down.is_unfinished {
            self.unfinished.push(slot);
        }
        if must_arm || connection.armed_ms == NEVER {
            self.arm(desk, slot);
        }
    }

    /// Those that gave way to others in this turn of the loop and have more to move.
    pub fn take_unfinished(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.unfinished)
    }

    pub fn on_turn(&mut self, desk: &mut Desk, slot: usize) {
        if self.connections.get(slot).is_some_and(|c| c.state == State::Open) {
            self.run(desk, slot);
        }
    }

    fn on_pump_fault(&mut self, desk: &mut Desk, slot: usize, source: Side, fault: Fault) {
        let target = if source == Side::Client { Side::Origin } else { Side::Client };
        let (side, error) = match fault {
            Fault::Source(error) => (source, error),
            Fault::Target(error) => (target, error),
        };
        self.on_fault(desk, slot, side, error.raw_os_error().unwrap_or(libc::EIO));
    }

    // ---- timers ----

    fn arm(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        let due_ms = connection.due_ms();
        if due_ms < connection.armed_ms {
            connection.armed_ms = due_ms;
            let entry = Entry { kind: Kind::Relay, slot: slot as u32, generation: connection.generation };
            desk.timers.at(due_ms, entry);
        }
    }

    pub fn on_timer(&mut self, desk: &mut Desk, slot: usize, generation: u32) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.generation != generation || connection.state == State::Closed {
            return;
        }
        connection.armed_ms = NEVER;
        if connection.due_ms() > desk.now_ms {
            return self.arm(desk, slot);
        }
        if connection.cut_ms <= desk.now_ms {
            return self.close(desk, slot, Cause::Drained, Reset::Both);
        }
        match connection.state {
            State::Header => self.close(desk, slot, Cause::HeaderTimeout, Reset::Both),
            State::Resolving => self.close(desk, slot, Cause::NameFailed, Reset::Both),
            State::Connecting => {
                self.note_failure(desk, slot, Cause::ConnectTimeout);
                self.connect(desk, slot);
            }
            State::Open => {
                let (cause, reset) = connection.overdue(desk.now_ms);
                self.close(desk, slot, cause, reset);
            }
            State::Closed => {}
        }
    }

    // ---- the end ----

    /// An application was deleted, or (`None`) the edge stops: cut its connections at `cut_ms`.
    pub fn retire(&mut self, desk: &mut Desk, application: Option<u128>, policy: OnDelete, cut_ms: u64) {
        let concerned = |c: &Connection| c.state != State::Closed && application.is_none_or(|id| c.active.id == id);
        let slots: Vec<usize> = self.connections.iter().filter(|(_, c)| concerned(c)).map(|(slot, _)| slot).collect();
        for slot in slots {
            match policy {
                OnDelete::Close => self.close(desk, slot, Cause::Drained, Reset::Both),
                OnDelete::Drain => {
                    self.connections[slot].cut_ms = cut_ms;
                    self.arm(desk, slot);
                }
            }
        }
    }

    /// Our own error while this connection was served: it alone pays.
    pub fn abandon(&mut self, desk: &mut Desk, slot: usize) {
        if self.connections.contains(slot) {
            self.close(desk, slot, Cause::Panic, Reset::Both);
        }
    }

    fn close(&mut self, desk: &mut Desk, slot: usize, cause: Cause, reset: Reset) {
        let connection = &mut self.connections[slot];
        if connection.state == State::Closed {
            return;
        }
        let counters = counters(&connection.active, desk);
        counters.connections_open.sub(1);
        if cause.kind() == crate::event::Kind::ClientFiltered {
            counters.filtered_total.add(1);
        }
        let client = connection.client.take();
        let origin = connection.origin.take();
        let rtt = |socket: &Option<OwnedFd>| socket.as_ref().map_or(0, |fd| sys::rtt_ns(fd.as_raw_fd()));
        let mut event = connection.event(cause, if connection.state == State::Open { rtt(&origin) } else { 0 });
        event.client_rtt_ns = rtt(&client);
        desk.events.write(event);
        if reset == Reset::Both {
            [&client, &origin].into_iter().flatten().for_each(|fd| sys::reset_on_close(fd.as_raw_fd()));
        }
        connection.state = State::Closed;
        connection.up = Half::default();
        connection.down = Half::default();
        self.closed.push(slot);
    }

    pub fn free_closed(&mut self) {
        for slot in self.closed.drain(..) {
            self.connections.remove(slot);
        }
    }
}

/// How the two sockets end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    /// By FIN: every byte and both ends were passed on.
    None,
    /// By RST: a FIN would claim that the stream was complete.
    Both,
}

impl Readiness {
    fn note(&mut self, notice: u32) {
        self.is_readable |= notice & (sys::IN | sys::RDHUP | sys::HUP) != 0;
        self.is_writable |= notice & sys::OUT != 0;
        self.is_ending |= notice & (sys::RDHUP | sys::HUP) != 0;
    }
}

impl Half {
    fn pump_up(connection: &mut Connection, tools: &mut Tools) -> Result<Moved, Fault> {
        let [client, origin] = &mut connection.ready;
        let (Some(from), Some(to)) = (&connection.client, &connection.origin) else { return Ok(Moved::default()) };
        connection.up.pump((from.as_raw_fd(), client), (to.as_raw_fd(), origin), tools)
    }

    fn pump_down(connection: &mut Connection, tools: &mut Tools) -> Result<Moved, Fault> {
        let [client, origin] = &mut connection.ready;
        let (Some(from), Some(to)) = (&connection.origin, &connection.client) else { return Ok(Moved::default()) };
        connection.down.pump((from.as_raw_fd(), origin), (to.as_raw_fd(), client), tools)
    }
}

impl Connection {
    fn endpoints(&self) -> Endpoints {
        match &self.told {
            Some(endpoints) => **endpoints,
            None => Endpoints { source: self.client_address, destination: self.edge_address },
        }
    }

    /// Pass a FIN on in a direction that has just ended. True if a timer may be due earlier now.
    fn pass_end(&mut self, up: &Moved, down: &Moved, now_ms: u64) -> bool {
        let directions = [(up.is_done, &mut self.up, &self.origin), (down.is_done, &mut self.down, &self.client)];
        let mut has_ended = false;
        for (is_done, half, target) in directions {
            if is_done && !half.has_sent_end {
                half.has_sent_end = true;
                target.iter().for_each(|fd| sys::shutdown_write(fd.as_raw_fd()));
                (self.half_closed_ms, has_ended) = (now_ms, true);
            }
        }
        has_ended
    }

    /// A client's socket is watched for room only once it has lacked it: most never do.
    fn watch_writable(&mut self, desk: &Desk, slot: usize, _up: &Moved, down: &Moved) -> io::Result<()> {
        if down.is_blocked && !self.ready[0].watches_writable {
            self.ready[0].watches_writable = true;
            if let Some(client) = &self.client {
                let interest = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
                return desk.epoll.modify(client.as_raw_fd(), interest, Token::Client.at(slot));
            }
        }
        Ok(())
    }

    fn due_ms(&self) -> u64 {
        let due_ms = match self.state {
            State::Header => self.since_ms + self.active.proxy_header_timeout_ms,
            State::Resolving | State::Connecting => self.since_ms + self.active.connect_timeout_ms,
            State::Open => {
                let idle = self.since_ms.saturating_add(self.active.idle_timeout_ms);
                let half_closed = self.half_closed_ms.saturating_add(self.active.half_close_timeout_ms);
                let [up, down] = self.blocked_ms.map(|ms| ms.saturating_add(self.active.no_progress_timeout_ms));
                idle.min(half_closed).min(up).min(down)
            }
            State::Closed => NEVER,
        };
        due_ms.min(self.cut_ms)
    }

    /// Which of the timers of an open connection has run out, and how the connection ends for it.
    fn overdue(&self, now_ms: u64) -> (Cause, Reset) {
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

    fn event(&self, cause: Cause, origin_rtt_ns: u64) -> Event {
        let endpoints = self.endpoints();
        Event {
            cause,
            protocol: Protocol::Tcp,
            time_ms: 0,
            application: self.active.id,
            flow: self.flow,
            client: endpoints.source,
            edge: self.edge_address,
            origin: self.origin_address,
            connect_time_ms: self.connect_time_ms,
            client_bytes: self.up.bytes,
            origin_bytes: self.down.bytes,
            client_rtt_ns: 0,
            origin_rtt_ns,
        }
    }
}

fn counters<'a>(active: &'a Active, desk: &Desk) -> &'a Counters {
    &active.counters[desk.worker]
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn start_connect(active: &Active, origin: SocketAddr) -> Result<OwnedFd, Cause> {
    if !active.policy.allows(origin) {
        return Err(Cause::OriginDenied);
    }
    let errno = |error: io::Error| connect_cause(error.raw_os_error().unwrap_or(libc::EIO));
    let socket = sys::stream_socket(origin).map_err(errno)?;
    sys::set_stream_options(socket.as_raw_fd(), active.user_timeout()).map_err(errno)?;
    sys::connect(socket.as_raw_fd(), origin).map_err(errno)?;
    Ok(socket)
}

fn connect_cause(errno: i32) -> Cause {
    match errno {
        libc::ECONNREFUSED | libc::ECONNRESET => Cause::ConnectRefused,
        libc::ETIMEDOUT => Cause::ConnectTimeout,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN => Cause::ConnectUnreachable,
        libc::EADDRNOTAVAIL => Cause::PortsExhausted,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => Cause::OutOfResources,
        _ => Cause::ConnectFailed,
    }
}

fn fault_cause(side: Side, errno: i32) -> Cause {
    use Cause::{ClientBroken, ClientReset, ClientTimeout, ClientUnreachable};
    use Cause::{OriginBroken, OriginReset, OriginTimeout, OriginUnreachable};
    match (errno, side) {
        (libc::ECONNRESET | libc::EPIPE, Side::Client) => ClientReset,
        (libc::ECONNRESET | libc::EPIPE, Side::Origin) => OriginReset,
        (libc::ETIMEDOUT, Side::Client) => ClientTimeout,
        (libc::ETIMEDOUT, Side::Origin) => OriginTimeout,
        (libc::EHOSTUNREACH | libc::ENETUNREACH, Side::Client) => ClientUnreachable,
        (libc::EHOSTUNREACH | libc::ENETUNREACH, Side::Origin) => OriginUnreachable,
        (_, Side::Client) => ClientBroken,
        (_, Side::Origin) => OriginBroken,
    }
}

fn refuse(desk: &mut Desk, active: &Active, client: OwnedFd, address: SocketAddr, edge: SocketAddr) {
    sys::reset_on_close(client.as_raw_fd());
    let counters = counters(active, desk);
    counters.connections_total.add(1);
    counters.filtered_total.add(1);
    desk.events.write(Event {
        cause: Cause::OutOfResources,
        protocol: Protocol::Tcp,
        time_ms: 0,
        application: active.id,
        flow: 0,
        client: canonical(address),
        edge: canonical(edge),
        origin: None,
        connect_time_ms: 0,
        client_bytes: 0,
        origin_bytes: 0,
        client_rtt_ns: 0,
        origin_rtt_ns: 0,
    });
}

fn spare_descriptor() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

// Idle connections are most of what an edge holds.
const _: () = assert!(size_of::<Connection>() <= 640);
