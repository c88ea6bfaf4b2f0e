//! TCP connections of one worker, from accept to close: admit, read a trusted header, connect, relay, end.
//!
//! States of a connection: `Header -> (Visiting) -> (Resolving) -> Connecting -> Open`, and out of each straight to closed.
//! RST is passed on as RST, FIN as FIN. Timers are lazy (see `timer`).

mod connect;
mod connection;
mod evict;
mod header;
mod kept;
mod links;
mod reach;
mod run;
mod shed;
mod tunnel;
mod visit;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use slab::Slab;

use crate::application::Active;
use crate::clock::unix_ms;
use crate::count::Counters;
use crate::event::{Cause, Event, Kind as EventKind};
use crate::listen::BASE_USER_TIMEOUT;
use crate::relay::{Half, Tools};
use crate::routes::Routes;
use crate::snapshot::{OnDelete, Protocol};
use crate::sockets::Sockets;
use crate::sys;
use crate::timer::{Entry, Kind};
use crate::worker::{Desk, Token};

use connection::{Connection, NEVER, Reset, State};
pub use kept::registry::Registry;
use links::Links;
use reach::Tries;

/// Connections taken from one listener before others get their turn.
const ACCEPT_BATCH: usize = 64;

/// Of clients that are banned, in a second.
const MOST_REFUSED_RECORDS: u32 = 100;

/// Of one connection: a socket to each side.
const DESCRIPTORS: usize = 2;

#[derive(Debug)]
pub struct Listener {
    pub sockets: Sockets,
    pub address: SocketAddr,
    /// None: of dispatch, so each connection's own address tells whose it is.
    pub active: Option<Arc<Active>>,
    /// For other edges.
    pub is_overlay: bool,
}

/// A listener at work, with this worker's own socket.
#[derive(Debug)]
struct Listening {
    fd: RawFd,
    listener: Listener,
}

/// All TCP of one worker.
#[derive(Debug)]
pub struct TcpPlane {
    listeners: Slab<Listening>,
    pub routes: Arc<Routes>,
    connections: Slab<Connection>,
    tools: Tools,
    links: Links,
    tries: Tries,
    /// Closed in this turn of the loop; their slots are free after it, so that a stale notice finds nobody.
    closed: Vec<usize>,
    unfinished: Vec<usize>,
    resolving: Vec<(usize, u32)>,
    next_generation: u32,
    /// Since when, and how many, of clients that are banned are on record.
    refused_records: (u64, u32),
    /// When nobody was found last who could give way.
    looked_in_vain_ms: u64,
    #[cfg(test)]
    pub poisoned: Option<u16>,
    /// Given up for a moment to accept and refuse when descriptors run out.
    spare: Option<OwnedFd>,
}

impl TcpPlane {
    pub fn new(may_gather: bool) -> TcpPlane {
        TcpPlane {
            listeners: Slab::new(),
            routes: Arc::default(),
            connections: Slab::new(),
            tools: Tools::new(may_gather),
            links: Links::default(),
            tries: Tries::default(),
            closed: Vec::new(),
            unfinished: Vec::new(),
            resolving: Vec::new(),
            next_generation: 0,
            refused_records: (0, 0),
            looked_in_vain_ms: 0,
            #[cfg(test)]
            poisoned: None,
            spare: spare_descriptor(),
        }
    }

    pub fn listen(&mut self, desk: &Desk, listener: Listener) -> io::Result<usize> {
        let Some(fd) = listener.sockets.of(desk.worker) else { return Err(io::ErrorKind::InvalidInput.into()) };
        let slot = self.listeners.insert(Listening { fd, listener });
        if desk.is_held {
            return Ok(slot);
        }
        desk.epoll.add(fd, sys::IN, Token::TcpListener.at(slot)).inspect_err(|_| {
            self.listeners.remove(slot);
        })?;
        Ok(slot)
    }

    /// Accept on what was made while the worker was held. Others accept already, which is no error.
    pub fn go_on(&mut self, desk: &Desk) {
        for (slot, listening) in &self.listeners {
            let _ = desk.epoll.add(listening.fd, sys::IN, Token::TcpListener.at(slot));
        }
    }

    pub fn replace(&mut self, slot: usize, active: Arc<Active>) {
        if let Some(Listening { listener, .. }) = self.listeners.get_mut(slot) {
            listener.active = Some(active);
        }
    }

    pub fn unlisten(&mut self, desk: &Desk, slot: usize) {
        if let Some(listening) = self.listeners.try_remove(slot) {
            // Other workers may keep the socket open, so that closing does not take it out of the interest list.
            let _ = desk.epoll.remove(listening.fd);
        }
    }

    pub fn open(&self) -> usize {
        self.connections.len() - self.closed.len()
    }

    pub fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    pub fn on_listener(&mut self, desk: &mut Desk, slot: usize) {
        for _ in 0..ACCEPT_BATCH {
            let Some(listening) = self.listeners.get(slot) else { return };
            match sys::accept(listening.fd) {
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
        if let Some(Listening { fd, listener }) = self.listeners.get(slot)
            && let Ok((client, address)) = sys::accept(*fd)
        {
            match self.owner(listener, client.as_raw_fd()) {
                Some((active, edge)) => refuse(desk, &active, client, address, edge, Cause::OutOfResources),
                None => sys::reset_on_close(client.as_raw_fd()),
            }
        }
        self.spare = spare_descriptor();
    }

    fn admit(&mut self, desk: &mut Desk, slot: usize, client: OwnedFd, address: SocketAddr) {
        let Listening { listener, .. } = &self.listeners[slot];
        if listener.is_overlay {
            return self.admit_edge(desk, client, address);
        }
        let Some((active, edge_address)) = self.owner(listener, client.as_raw_fd()) else {
            return sys::reset_on_close(client.as_raw_fd()); // its port was given up while it waited
        };
        let must_show_header = !active.spec.proxy_protocol_from.is_empty() && active.trusts(canonical(address).ip());
        if !must_show_header && let Some(cause) = banned(desk, &active, address.ip(), edge_address.port()) {
            return self.refuse_banned(desk, &active, client, address, edge_address, cause);
        }
        if !desk.files.has_room(DESCRIPTORS) && !self.make_room(desk) {
            return refuse(desk, &active, client, address, edge_address, Cause::OutOfResources);
        }
        if desk.strain.is_full() {
            return refuse(desk, &active, client, address, edge_address, Cause::ShedMemory);
        }
        // The client of a trusted proxy is known once its header was read.
        if !must_show_header && !active.admits(address.ip(), edge_address.port()) {
            return refuse(desk, &active, client, address, edge_address, Cause::FirewallBlocked);
        }
        let counters = counters(&active, desk);
        let permit = if must_show_header { Ok(None) } else { active.permit(address.ip(), desk.now_ms, counters) };
        let permit = match permit {
            Ok(permit) => permit,
            Err(cause) => return refuse(desk, &active, client, address, edge_address, cause),
        };
        counters.connections_total.add(1);
        counters.connections_open.add(1);
        desk.files.take(DESCRIPTORS);
        self.next_generation = self.next_generation.wrapping_add(1);
        let client_fd = client.as_raw_fd();
        let mut connection = Connection::new(active, client, address, edge_address, desk);
        (connection.generation, connection.permit) = (self.next_generation, permit);
        if must_show_header {
            connection.state = State::Header;
        }
        let slot = self.connections.insert(connection);
        if desk.epoll.add(client_fd, sys::IN | sys::RDHUP | sys::EDGE, Token::Client.at(slot)).is_err() {
            return self.close(desk, slot, Cause::OutOfResources, Reset::Both);
        }
        if must_show_header {
            self.arm(desk, slot);
        } else {
            self.go_in(desk, slot);
        }
    }

    /// All are counted; few are on record, so that a flood does not push the records of others out.
    fn refuse_banned(
        &mut self,
        desk: &mut Desk,
        active: &Active,
        client: OwnedFd,
        address: SocketAddr,
        edge: SocketAddr,
        cause: Cause,
    ) {
        counters(active, desk).mitigation_refused_total.add(1);
        let (since_ms, written) = self.refused_records;
        if desk.now_ms.saturating_sub(since_ms) >= 1000 {
            self.refused_records = (desk.now_ms, 0);
        } else if written >= MOST_REFUSED_RECORDS {
            sys::reset_on_close(client.as_raw_fd());
            counters(active, desk).connections_total.add(1);
            counters(active, desk).filtered_total.add(1);
            return;
        }
        self.refused_records.1 += 1;
        refuse(desk, active, client, address, edge, cause);
    }

    /// Whose a new connection is, and the address that its client knows.
    fn owner(&self, listener: &Listener, client: RawFd) -> Option<(Arc<Active>, SocketAddr)> {
        if let Some(active) = &listener.active {
            let is_any = listener.address.ip().is_unspecified();
            let told = if is_any { sys::local_address(client).ok() } else { None };
            return Some((active.clone(), told.unwrap_or(listener.address)));
        }
        let edge = sys::local_address(client).ok()?;
        let (active, _) = self.routes.find(Protocol::Tcp, edge)?;
        if active.user_timeout() != BASE_USER_TIMEOUT {
            let _ = sys::set_user_timeout(client, active.user_timeout()); // the kernel's own stays
        }
        Some((active.clone(), edge))
    }

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
        if connection.state == State::Open {
            connection.tune(); // the timer of the connect goes off once in every connection that lives on
        }
        let is_paused = connection.permit.as_ref().is_some_and(|permit| permit.paused_until_ms > 0);
        if is_paused && connection.state == State::Open {
            self.run(desk, slot); // sets the next pause, or none
        }
        let Some(connection) = self.connections.get(slot).filter(|c| c.state != State::Closed) else { return };
        if connection.due_ms() > desk.now_ms {
            return self.arm(desk, slot);
        }
        if connection.cut_ms <= desk.now_ms {
            return self.close(desk, slot, Cause::Drained, Reset::Both);
        }
        let state = connection.state;
        match state {
            State::Header => self.close(desk, slot, Cause::HeaderTimeout, Reset::Both),
            State::Visiting => self.step(desk, slot),
            State::Resolving => self.end_unanswered(desk, slot, Cause::NameFailed),
            State::Connecting if self.waits_for_link(slot) => self.on_late_link(desk, slot),
            State::Connecting => {
                self.note_failure(desk, slot, Cause::ConnectTimeout);
                self.connect(desk, slot);
            }
            State::Open if self.on_kept_timer(desk, slot) || self.ends_unanswered(desk, slot) => {}
            State::Open => {
                let (cause, reset) = self.connections[slot].overdue(desk.now_ms);
                self.close(desk, slot, cause, reset);
            }
            State::Closed => {}
        }
    }

    /// An application was deleted, or (`None`) the edge stops: cut its connections at `cut_ms`.
    pub fn retire(&mut self, desk: &mut Desk, application: Option<u128>, policy: OnDelete, cut_ms: u64) {
        let concerned = |c: &Connection| c.state != State::Closed && application.is_none_or(|id| c.active.id == id);
        let slots: Vec<usize> = self.connections.iter().filter(|(_, c)| concerned(c)).map(|(slot, _)| slot).collect();
        if application.is_none() {
            self.close_links(desk);
        }
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

    /// The application got new rules: end what they block with `drop_established`.
    pub fn cut_blocked(&mut self, desk: &mut Desk, active: &Arc<Active>) {
        let concerned = |c: &Connection| {
            let is_its = c.state != State::Closed && c.active.id == active.id;
            is_its && active.cuts(c.endpoints().source.ip(), c.edge_address.port())
        };
        let slots: Vec<usize> = self.connections.iter().filter(|(_, c)| concerned(c)).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.connections[slot].active = active.clone(); // the record names the rules that ended it
            self.close(desk, slot, Cause::FirewallCut, Reset::Both);
        }
    }

    /// The same for a connection to another edge that no flow has.
    pub fn abandon_link(&mut self, desk: &mut Desk, slot: usize) {
        self.drop_link(desk, slot);
    }

    /// Our own error while this connection was served: it alone pays.
    pub fn abandon(&mut self, desk: &mut Desk, slot: usize) {
        if self.connections.contains(slot) {
            self.close(desk, slot, Cause::Panic, Reset::Both);
        }
    }

    /// This worker has lost its place: end what it has, and say whose connections they were.
    pub fn leave(&mut self, desk: &mut Desk) -> Vec<Arc<Active>> {
        let open = self.connections.iter().map(|(_, connection)| connection).filter(|c| c.state != State::Closed);
        open.map(|connection| {
            desk.events.write(connection.event(Cause::WorkerReplaced, 0));
            let sockets = [&connection.client, &connection.origin];
            sockets.into_iter().flatten().for_each(|fd| sys::reset_on_close(fd.as_raw_fd()));
            connection.active.clone()
        })
        .collect()
    }

    fn close(&mut self, desk: &mut Desk, slot: usize, cause: Cause, reset: Reset) {
        if self.connections[slot].state == State::Closed {
            return;
        }
        if reset == Reset::Both {
            self.tell_reset(desk, slot);
        }
        let connection = &mut self.connections[slot];
        connection.count_bytes(desk);
        let counters = counters(&connection.active, desk);
        counters.connections_open.sub(1);
        desk.files.give_back(DESCRIPTORS);
        if cause.kind() == EventKind::ClientFiltered {
            counters.filtered_total.add(1);
        }
        counters.firewall_refused_total.add(u64::from(cause == Cause::FirewallBlocked));
        let client = connection.client.take();
        let origin = connection.origin.take();
        if let Some(gate) = &connection.active.gate
            && connection.connect_time_ms > 0
        {
            let lasted_ms = unix_ms().saturating_sub(connection.connect_time_ms);
            gate.note_end(connection.endpoints().source.ip(), lasted_ms, desk.now_ms);
        }
        connection.visit = None;
        let mut event = connection.event(cause, 0);
        if connection.is_worth_measuring() {
            let rtt = |socket: &Option<OwnedFd>| socket.as_ref().map_or(0, |fd| sys::rtt_ns(fd.as_raw_fd()));
            event.origin_rtt_ns = if connection.state == State::Open { rtt(&origin) } else { 0 };
            event.client_rtt_ns = rtt(&client);
        }
        desk.events.write(event);
        if reset == Reset::Both {
            // A side that has reset is gone: there is nobody to tell.
            let [is_client_gone, is_origin_gone] = [Cause::ClientReset, Cause::OriginReset].map(|gone| gone == cause);
            let told = [client.as_ref().filter(|_| !is_client_gone), origin.as_ref().filter(|_| !is_origin_gone)];
            told.into_iter().flatten().for_each(|fd| sys::reset_on_close(fd.as_raw_fd()));
        }
        [client, origin].into_iter().flatten().for_each(|socket| self.tools.outbox.close(socket));
        connection.state = State::Closed;
        connection.up = Half::default();
        connection.down = Half::default();
        connection.permit = None;
        connection.tunnel = None;
        self.closed.push(slot);
    }

    pub fn free_closed(&mut self) {
        for slot in self.closed.drain(..) {
            self.connections.remove(slot);
        }
        self.links.free_closed();
    }
}

/// Is it banned for what its source does, and not one that the rules always let in?
fn banned(desk: &Desk, active: &Active, client: IpAddr, port: u16) -> Option<Cause> {
    let cause = desk.detect.refuses(active.id, client, desk.now_ms)?;
    (!active.allows(client, port)).then_some(cause)
}

fn counters<'a>(active: &'a Active, desk: &Desk) -> &'a Counters {
    &active.counters[desk.worker]
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn refuse(desk: &mut Desk, active: &Active, client: OwnedFd, address: SocketAddr, edge: SocketAddr, cause: Cause) {
    sys::reset_on_close(client.as_raw_fd());
    let counters = counters(active, desk);
    counters.connections_total.add(1);
    counters.filtered_total.add(1);
    counters.shed_total.add(u64::from(cause == Cause::ShedMemory));
    counters.firewall_refused_total.add(u64::from(cause == Cause::FirewallBlocked));
    desk.events.write(Event {
        cause,
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
        firewall: active.matched(address.ip(), edge.port()),
        trace: 0,
        path: None,
    });
}

fn spare_descriptor() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
