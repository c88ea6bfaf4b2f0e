//! UDP of one worker, from a client's first datagram to the end of its session: admit, pass, expire, give up.
//!
//! A session belongs to (listener, client, edge address) and has a connected socket of its own towards the
//! origin. `open` makes sessions, `pass` moves datagrams, `table` knows whom to give up, `batch` has the calls.
//! Notices are level-triggered: one batch for each, and what is left is told again, so nobody starves.
//!
//! A listener that is taken away while sessions live keeps its sockets, because their replies must leave from
//! the address and port that the clients know: strangers are turned away, sessions end as their application
//! says, then the port is free. The sockets of all workers of a place are one `Sockets` that closes
//! as a whole (the kernel spreads clients over those that are bound, so none may go alone). `apply` keeps a weak
//! handle to it and hands the same sockets out again if the place is wanted before it is free.

mod batch;
pub mod control;
mod legs;
mod moves;
mod newcomers;
mod open;
mod pass;
mod reply;
mod session;
mod table;
mod tunnel;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slab::Slab;

use crate::application::Active;
use crate::count::Counters;
use crate::event::Cause;
use crate::guard::Teller;
use crate::icmp::Icmp;
use crate::routes::{Routes, Seat};
use crate::snapshot::{OnDelete, Protocol};
use crate::sockets::Sockets;
use crate::sys;
use crate::timer::{Entry, Kind};
use crate::worker::{Desk, Token};
use batch::Batch;
use legs::Legs;
pub use moves::{Adopted, Moved, Shown};
use newcomers::Newcomers;
use open::Refusals;
use reply::Replies;
use session::State;
use table::Table;

/// Batches that may wait in a socket when its port is taken again.
const DISCARD_BATCHES: u32 = 16;
/// Stands for the port of the overlay among the listeners.
pub const EDGES: usize = session::NO_PORT;
/// How often a worker looks whether the others still need a port that is going away.
const LOOK_AGAIN_MS: u64 = 250;

#[derive(Debug)]
pub struct Listener {
    pub sockets: Sockets,
    pub address: SocketAddr,
    /// None: of dispatch, so each datagram's destination tells whose it is.
    pub active: Option<Arc<Active>>,
}

/// A listener at work.
#[derive(Debug)]
struct Port {
    listener: Listener,
    fd: RawFd,
    /// Sessions of this worker on it.
    sessions: Arc<AtomicUsize>,
    /// Taken away: for sessions that exist already, nobody else.
    is_draining: bool,
}

impl Port {
    /// Does each datagram say which address it was sent to?
    fn is_wildcard(&self) -> bool {
        self.listener.address.ip().is_unspecified()
    }

    fn is_of_dispatch(&self) -> bool {
        self.listener.active.is_none()
    }

    /// Which edge address a datagram came to, if the socket `told` where it cannot be known otherwise.
    fn edge(&self, told: Option<SocketAddr>) -> Option<SocketAddr> {
        match self.listener.address {
            _ if self.is_of_dispatch() => told,
            any if self.is_wildcard() => told.map(|told| (told.ip(), any.port()).into()),
            own => Some(own),
        }
    }

    /// Whose a new session on `edge` would be.
    fn owner(&self, routes: &Routes, edge: SocketAddr) -> Option<(Arc<Active>, Option<Seat>)> {
        match &self.listener.active {
            _ if self.is_draining => None,
            Some(active) => Some((active.clone(), None)),
            None => {
                let (active, uses) = routes.find(Protocol::Udp, edge)?;
                Some((active.clone(), Some(Seat::take(uses, edge.port()))))
            }
        }
    }
}

/// All UDP of one worker.
#[derive(Debug)]
pub struct UdpPlane {
    ports: Slab<Port>,
    pub routes: Arc<Routes>,
    replies: Replies,
    table: Table,
    /// Hears of two-way sessions, while somebody wants to know.
    teller: Option<Arc<Teller>>,
    batch: Batch,
    icmp: Icmp,
    refusals: Refusals,
    newcomers: Newcomers,
    /// Datagrams that had no session, until the batch that they came in is done.
    strangers: usize,
    /// Since when, and how many records of blocked clients were written.
    refused_records: (u64, usize),
    /// Kept for its room: replies that are passed on together.
    picks: Vec<batch::Pick>,
    /// Connections with other edges, for sessions that go over them.
    legs: Legs,
    /// Sessions whose datagrams are held, and their bytes.
    holding: usize,
    held_bytes: usize,
    most_sessions: usize,
    /// Datagrams since the last look.
    received: usize,
}

impl UdpPlane {
    pub fn new(most_sessions: usize) -> io::Result<UdpPlane> {
        Ok(UdpPlane {
            ports: Slab::new(),
            routes: Arc::default(),
            replies: Replies::default(),
            table: Table::new(),
            teller: None,
            batch: Batch::new(),
            icmp: Icmp::open(),
            refusals: Refusals::default(),
            newcomers: Newcomers::default(),
            strangers: 0,
            refused_records: (0, 0),
            picks: Vec::new(),
            legs: Legs::default(),
            holding: 0,
            held_bytes: 0,
            received: 0,
            most_sessions: most_sessions.max(1),
        })
    }

    pub fn listen(&mut self, desk: &mut Desk, listener: Listener) -> io::Result<usize> {
        let is_same = |port: &Port| Arc::ptr_eq(&port.listener.sockets, &listener.sockets);
        if let Some(slot) = self.ports.iter().find(|(_, port)| port.is_draining && is_same(port)).map(|(slot, _)| slot)
        {
            // What waits in the socket came while nobody was there: it is turned away before somebody is.
            (0..DISCARD_BATCHES).for_each(|_| self.on_listener(desk, slot));
            let port = &mut self.ports[slot];
            (port.listener, port.is_draining) = (listener, false);
            return Ok(slot);
        }
        let Some(fd) = listener.sockets.of(desk.worker) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let address = listener.address;
        if listener.active.is_none() {
            control::tell_destination_and_port(fd, address.is_ipv4())?;
        } else if address.ip().is_unspecified() {
            control::tell_destination(fd, address.is_ipv4())?;
        }
        // It may come back from draining, with datagrams for an application that is gone.
        if !listener.sockets.is_inherited {
            self.batch.discard(fd);
        }
        let sessions = listener.sockets.counted_by(desk.worker);
        let slot = self.ports.insert(Port { listener, fd, sessions, is_draining: false });
        if desk.is_held {
            return Ok(slot);
        }
        desk.epoll.add(fd, sys::IN, Token::UdpListener.at(slot)).inspect_err(|_| {
            self.ports.remove(slot);
        })?;
        Ok(slot)
    }

    pub fn replace(&mut self, slot: usize, active: Arc<Active>) {
        if let Some(port) = self.ports.get_mut(slot) {
            port.listener.active = Some(active);
        }
    }

    pub fn unlisten(&mut self, desk: &mut Desk, slot: usize) {
        if slot == EDGES {
            return self.legs.unlisten(desk);
        }
        if let Some(port) = self.ports.get_mut(slot) {
            port.is_draining = true;
            self.free_drained(desk, slot);
        }
    }

    /// Give a draining port back once no worker has a session on it; until then strangers are turned away here too,
    /// since the kernel goes on to spread them over all workers.
    fn free_drained(&mut self, desk: &mut Desk, slot: usize) {
        let Some(port) = self.ports.get(slot).filter(|port| port.is_draining) else { return };
        if port.listener.sockets.sessions() > 0 {
            let entry = Entry { kind: Kind::Port, slot: slot as u32, generation: 0 };
            return desk.timers.at(desk.now_ms + LOOK_AGAIN_MS, entry);
        }
        let port = self.ports.remove(slot);
        // Other workers may keep the socket open, so that closing does not take it out of the interest list.
        let _ = desk.epoll.remove(port.fd);
    }

    pub fn free_ports(&mut self, desk: &mut Desk) {
        let draining: Vec<usize> =
            self.ports.iter().filter(|(_, port)| port.is_draining).map(|(slot, _)| slot).collect();
        draining.into_iter().for_each(|slot| self.free_drained(desk, slot));
    }

    pub fn on_port_timer(&mut self, desk: &mut Desk, slot: usize) {
        self.free_drained(desk, slot);
    }

    pub fn open(&self) -> usize {
        self.table.open()
    }

    /// From now on the guard hears of two-way sessions by `teller`, of those that are there at once. What was told by
    /// another one is for others to sweep.
    pub fn tell_by(&mut self, teller: Option<Arc<Teller>>) {
        self.teller = teller;
        let two_way: Vec<usize> = self.table.iter().filter(|(_, s)| s.is_two_way).map(|(slot, _)| slot).collect();
        for slot in two_way {
            self.table[slot].is_told = false;
            self.tell(slot);
        }
    }

    /// The client has said something after the origin has.
    fn promote(&mut self, slot: usize) {
        self.table.promote(slot);
        self.tell(slot);
    }

    fn tell(&mut self, slot: usize) {
        let session = &mut self.table[slot];
        let is_here = session.state != State::Closed && !session.is_handed_over();
        if let (Some(teller), true) = (&self.teller, is_here) {
            session.is_told = teller.tell(session.client, session.edge);
        }
    }

    // ---- notices of the kernel ----

    /// How many datagrams have come, from either side, since the last call.
    pub fn take_received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    pub fn on_session(&mut self, desk: &mut Desk, slot: usize, notice: u32) {
        let Some(session) = self.table.get(slot).filter(|session| session.state == State::Open) else { return };
        let Some(fd) = session.socket.as_ref().map(AsRawFd::as_raw_fd) else { return };
        if self.is_held(desk, session.port) {
            return;
        }
        // The error first: a read would answer it in place of the replies that came before it.
        let error = if notice & sys::ERR != 0 { sys::take_error(fd) } else { None };
        let is_refused = self.pass_down(desk, slot) || error == Some(libc::ECONNREFUSED);
        if is_refused {
            self.on_refused(desk, slot);
        }
    }

    // ---- timers ----

    fn arm(&mut self, desk: &mut Desk, slot: usize) {
        if let Some(due_ms) = self.table.arm(slot) {
            desk.timers.at(due_ms, Entry { kind: Kind::Session, slot: slot as u32, generation: 0 });
        }
    }

    /// A timer belongs to a slot, not to a session: see `Table::arm`.
    pub fn on_timer(&mut self, desk: &mut Desk, slot: usize, _generation: u32) {
        if !self.table.disarm(slot, desk.now_ms) {
            return;
        }
        let Some(session) = self.table.get(slot).filter(|session| session.state != State::Closed) else { return };
        if self.is_held(desk, session.port) {
            let entry = Entry { kind: Kind::Session, slot: slot as u32, generation: 0 };
            return desk.timers.at(self.table.arm_at(slot, desk.now_ms + LOOK_AGAIN_MS), entry);
        }
        if session.due_ms() > desk.now_ms {
            return self.arm(desk, slot);
        }
        if session.state == State::Linking && session.cut_ms > desk.now_ms {
            return self.on_broken_path(desk, slot);
        }
        let cause = match session.state {
            _ if session.cut_ms <= desk.now_ms => Cause::Drained,
            State::Open if session.quiet_ms < session.active.udp_idle_timeout_ms => Cause::Drained,
            State::Resolving => Cause::NameFailed,
            _ => Cause::Idle,
        };
        self.close(desk, slot, cause);
    }

    // ---- the end ----

    /// An application was deleted, or (`None`) the edge stops: cut its sessions at `cut_ms`.
    pub fn retire(&mut self, desk: &mut Desk, application: Option<u128>, policy: OnDelete, cut_ms: u64) {
        let concerned =
            |s: &session::Session| s.state != State::Closed && application.is_none_or(|id| s.active.id == id);
        let slots: Vec<usize> = self.table.iter().filter(|(_, s)| concerned(s)).map(|(slot, _)| slot).collect();
        for slot in slots {
            match policy {
                OnDelete::Close => self.close(desk, slot, Cause::Drained),
                OnDelete::Drain => {
                    self.table[slot].cut_ms = cut_ms;
                    self.arm(desk, slot);
                }
            }
        }
    }

    /// Our own error while this session was served: it alone pays.
    pub fn abandon(&mut self, desk: &mut Desk, slot: usize) {
        if self.table.get(slot).is_some() {
            self.close(desk, slot, Cause::Panic);
        }
    }

    fn close(&mut self, desk: &mut Desk, slot: usize, cause: Cause) {
        let session = &mut self.table[slot];
        if session.state == State::Closed {
            return;
        }
        let counters = counters(&session.active, desk);
        counters.connections_open.sub(1);
        desk.files.give_back(1);
        counters.datagrams_dropped.add(session.held.len() as u64);
        if session.state.holds() {
            self.holding -= 1;
            self.held_bytes -= session.held_bytes();
        }
        desk.events.write(session.event(cause));
        session.socket = None;
        (session.seat, session.permit) = (None, None);
        if let (Some(teller), true) = (&self.teller, session.is_told) {
            teller.take_back(session.client, session.edge);
        }
        if let Some(reply) = session.reply.take() {
            self.replies.release(session.edge, reply, &desk.files);
        }
        let port_slot = session.port;
        self.part(slot, cause);
        self.table.close(slot);
        if let Some(port) = self.ports.get(port_slot) {
            port.sessions.fetch_sub(1, Ordering::Relaxed);
            if port.is_draining && port.listener.sockets.sessions() == 0 {
                self.free_drained(desk, port_slot);
            }
        }
    }

    /// This worker has lost its place: end what it has, and say whose sessions they were.
    pub fn leave(&mut self, desk: &mut Desk) -> Vec<Arc<Active>> {
        let open = self.table.iter().map(|(_, session)| session).filter(|session| session.state != State::Closed);
        open.map(|session| {
            desk.events.write(session.event(Cause::WorkerReplaced));
            session.active.clone()
        })
        .collect()
    }

    pub fn free_closed(&mut self) {
        self.table.free_closed();
    }
}

fn counters<'a>(active: &'a Active, desk: &Desk) -> &'a Counters {
    &active.counters[desk.worker]
}
