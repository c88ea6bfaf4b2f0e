//! Sessions that move to another process: shown while UDP is held still, adopted there, let go here.
//!
//! While it is held still nothing is read, so what arrives waits in the sockets for whoever serves next. A session
//! keeps its socket and so its source port. What has no socket yet (its origin's name is being looked up), and
//! sessions on a port that is going away, are not shown: they end where they are, or with the hand-over where the
//! port is one of dispatch, whose sockets are the other process's then. Sessions over other edges end too: the client's
//! next datagram begins one anew there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use causeway_wire::Endpoints;
use serde::{Deserialize, Serialize};

use super::session::{Key, Session, State};
use super::{UdpPlane, counters};
use crate::sys;
use crate::worker::{Desk, Token};

/// A session as it travels; its socket goes beside it. Times are those of the engine's clock, which goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    pub worker: usize,
    /// Where its listener is.
    pub place: SocketAddr,
    pub application: String,
    pub client: SocketAddr,
    pub edge: SocketAddr,
    pub origin: SocketAddr,
    pub tried: u64,
    pub flow: u64,
    pub since_ms: u64,
    pub cut_ms: u64,
    pub connect_time_ms: u64,
    pub client_bytes: u64,
    pub origin_bytes: u64,
    pub owes_header: bool,
    pub is_two_way: bool,
    pub may_segment: [bool; 2],
}

/// What a worker has to give. The descriptors stay its own, and open, for as long as it is held.
#[derive(Debug)]
pub struct Shown {
    pub sessions: Vec<(Moved, RawFd)>,
    pub flows: u64,
}

/// What a worker is given.
#[derive(Debug)]
pub struct Adopted {
    pub moved: Moved,
    pub socket: OwnedFd,
}

impl UdpPlane {
    /// Stop to read. Ports that are going away stay here, and so does their traffic.
    pub fn hold_still(&mut self, desk: &Desk) {
        for (_, port) in self.ports.iter().filter(|(_, port)| !port.is_draining) {
            let _ = desk.epoll.remove(port.fd);
        }
        for (_, session) in self.table.iter().filter(|(_, session)| self.moves(session)) {
            if let Some(socket) = &session.socket {
                let _ = desk.epoll.remove(socket.as_raw_fd());
            }
        }
    }

    fn moves(&self, session: &Session) -> bool {
        session.state == State::Open
            && session.socket.is_some()
            && self.ports.get(session.port).is_some_and(|port| !port.is_draining)
    }

    /// Must a notice or a timer wait, because its session may be somebody else's soon?
    pub(super) fn is_held(&self, desk: &Desk, port_slot: usize) -> bool {
        desk.is_held && self.ports.get(port_slot).is_some_and(|port| !port.is_draining)
    }

    pub fn show(&self, worker: usize, flows: u64) -> Shown {
        let mut sessions: Vec<(Moved, RawFd)> = self
            .table
            .iter()
            .filter(|(_, session)| self.moves(session))
            .filter_map(|(_, session)| {
                let place = self.ports.get(session.port)?.listener.address;
                Some((moved(session, worker, place)?, session.socket.as_ref()?.as_raw_fd()))
            })
            .collect();
        sessions.sort_by_key(|(moved, _)| moved.since_ms); // the least recently used is given up first there, too
        Shown { sessions, flows }
    }

    /// Take sessions whose listeners are here and whose application is still the same. Others end.
    pub fn adopt(&mut self, desk: &mut Desk, sessions: Vec<Adopted>) {
        let ports: HashMap<SocketAddr, usize> =
            self.ports.iter().map(|(slot, port)| (port.listener.address, slot)).collect();
        for Adopted { moved, socket } in sessions {
            let Some(port_slot) = ports.get(&moved.place).copied() else { continue };
            let key = Key::new(port_slot, moved.client, moved.edge);
            let owner = self.ports[port_slot].owner(&self.routes, moved.edge);
            let Some((active, seat)) = owner.filter(|(active, _)| active.spec.id == moved.application) else {
                continue;
            };
            if self.table.find(&key).is_some() {
                continue;
            }
            counters(&active, desk).connections_open.add(1);
            desk.files.take(1);
            let ends = Endpoints { source: moved.client, destination: moved.edge };
            let mut session = Session::new(key, port_slot, active, ends, moved.flow, moved.since_ms);
            session.state = State::Open;
            session.socket = Some(socket);
            session.origin = Some(moved.origin);
            session.seat = seat;
            (session.tried, session.cut_ms, session.connect_time_ms) =
                (moved.tried, moved.cut_ms, moved.connect_time_ms);
            (session.client_bytes, session.origin_bytes) = (moved.client_bytes, moved.origin_bytes);
            (session.owes_header, session.may_segment) = (moved.owes_header, moved.may_segment);
            session.is_answered = moved.is_two_way || moved.origin_bytes > 0;
            let slot = self.table.insert(session);
            if moved.is_two_way {
                self.promote(slot);
            }
            self.ports[port_slot].sessions.fetch_add(1, Ordering::Relaxed);
            self.arm(desk, slot);
        }
    }

    /// Read again, or for the first time.
    pub fn go_on(&mut self, desk: &mut Desk) {
        for (slot, port) in self.ports.iter().filter(|(_, port)| !port.is_draining) {
            let _ = desk.epoll.add(port.fd, sys::IN, Token::UdpListener.at(slot));
        }
        self.legs.go_on(desk);
        for (slot, session) in self.table.iter().filter(|(_, session)| self.moves(session)) {
            if let Some(socket) = &session.socket {
                let _ = desk.epoll.add(socket.as_raw_fd(), sys::IN, Token::Session.at(slot));
            }
        }
        self.on_names(desk);
    }

    /// What was shown is somebody else's now: forget it, without a record, since it goes on. The guard is, too.
    pub fn let_go(&mut self, desk: &mut Desk) {
        self.tell_by(None);
        let slots: Vec<usize> = self.table.iter().filter(|(_, s)| self.moves(s)).map(|(slot, _)| slot).collect();
        for slot in slots {
            let session = &mut self.table[slot];
            counters(&session.active, desk).connections_open.sub(1);
            desk.files.give_back(1);
            session.socket = None;
            session.seat = None;
            if let Some(reply) = session.reply.take() {
                self.replies.release(session.edge, reply, &desk.files);
            }
            let port_slot = session.port;
            self.table.close(slot);
            if let Some(port) = self.ports.get(port_slot) {
                port.sessions.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.leave_legs(desk);
        // Not read here any more; kept for the replies to sessions that stay.
        self.ports.iter_mut().for_each(|(_, port)| port.is_draining = true);
        self.free_ports(desk);
        self.on_names(desk);
    }

    /// The edge stops: a session that is silent for `quiet_ms` has ended.
    pub fn end_when_quiet(&mut self, desk: &mut Desk, quiet_ms: u64) {
        let slots: Vec<usize> =
            self.table.iter().filter(|(_, s)| s.state != State::Closed).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.table[slot].quiet_ms = quiet_ms;
            self.arm(desk, slot);
        }
    }
}

fn moved(session: &Session, worker: usize, place: SocketAddr) -> Option<Moved> {
    Some(Moved {
        worker,
        place,
        application: session.active.spec.id.clone(),
        client: session.client,
        edge: session.edge,
        origin: session.origin?,
        tried: session.tried,
        flow: session.flow,
        since_ms: session.since_ms,
        cut_ms: session.cut_ms,
        connect_time_ms: session.connect_time_ms,
        client_bytes: session.client_bytes,
        origin_bytes: session.origin_bytes,
        owes_header: session.owes_header,
        is_two_way: session.is_two_way,
        may_segment: session.may_segment,
    })
}
