//! Sessions are made here: room is found for them, an origin chosen, a socket connected.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use causeway_wire::Endpoints;

use super::batch::{self, Pick};
use super::session::{Key, Session, State};
use super::{UdpPlane, control, counters};
use crate::application::Active;
use crate::event::{Cause, Event};
use crate::origin::Choice;
use crate::snapshot::Protocol;
use crate::source;
use crate::sys;
use crate::worker::{Desk, Token};

/// A burst of replies to one client waits here; the kernel caps it at net.core.rmem_max and takes no memory before.
const SOCKET_BUFFER_BYTES: i32 = 1024 * 1024;
/// Sessions given up for one that finds no descriptor or port; more would not help it.
const MOST_EVICTIONS: u32 = 2;
const REFUSED_FOR_MS: u64 = 10_000;
const MOST_REFUSALS: usize = 64;
/// Of datagrams that the firewall or a limit refuses, in a second, of all workers together.
const MOST_REFUSED_RECORDS: usize = 100;

impl UdpPlane {
    /// A session for a client that has none. `None` if it cannot be served, which is on record then.
    pub(super) fn admit(&mut self, desk: &mut Desk, port_slot: usize, key: Key, ends: Endpoints) -> Option<usize> {
        let port = self.ports.get(port_slot)?;
        let Some((active, seat)) = port.owner(&self.routes, ends.destination) else {
            self.icmp.port_unreachable(ends.source, ends.destination, desk.now_ms);
            return None;
        };
        self.strangers += 1;
        if !self.newcomers.admits(desk.now_ms) && self.table.has_two_way(active.id) {
            counters(&active, desk).sessions_shed_total.add(1);
            return None;
        }
        if !active.admits(ends.source.ip(), ends.destination.port()) {
            counters(&active, desk).firewall_refused_total.add(1);
            self.refuse_filtered(desk, &active, ends, Cause::FirewallBlocked);
            return None;
        }
        let permit = match active.permit(ends.source.ip(), desk.now_ms, counters(&active, desk)) {
            Ok(permit) => permit,
            Err(cause) => {
                self.refuse_filtered(desk, &active, ends, cause);
                return None;
            }
        };
        let session = Session::new(key, port_slot, active, ends, desk.next_flow(), desk.now_ms);
        let slot = self.begin(desk, session);
        (self.table[slot].seat, self.table[slot].permit) = (seat, permit);
        self.ports[port_slot].sessions.fetch_add(1, Ordering::Relaxed);
        self.open_socket(desk, slot);
        (self.table[slot].state != State::Closed).then_some(slot)
    }

    /// Room for one more, if need be another's. What it takes of the descriptors it takes also where it has none, since
    /// it may come to need it.
    pub(super) fn begin(&mut self, desk: &mut Desk, session: Session) -> usize {
        let is_full = self.table.open() >= self.most_sessions || desk.strain.is_full() || !desk.files.has_room(1);
        if is_full && let Some(victim) = self.table.first_to_go() {
            self.evict(desk, victim);
        }
        let counters = counters(&session.active, desk);
        counters.connections_total.add(1);
        counters.connections_open.add(1);
        desk.files.take(1);
        self.table.insert(session)
    }

    /// Each datagram counts; the records are few, so that a flood does not push those of others out.
    pub(super) fn refuse_filtered(&mut self, desk: &mut Desk, active: &Active, ends: Endpoints, cause: Cause) {
        counters(active, desk).filtered_total.add(1);
        let (since_ms, written) = self.refused_records;
        if desk.now_ms.saturating_sub(since_ms) >= 1000 {
            self.refused_records = (desk.now_ms, 0);
        } else if written >= (MOST_REFUSED_RECORDS / desk.files.workers()).max(1) {
            return;
        }
        self.refused_records.1 += 1;
        desk.events.write(Event {
            cause,
            protocol: Protocol::Udp,
            time_ms: 0,
            application: active.id,
            flow: 0,
            client: ends.source,
            edge: ends.destination,
            origin: None,
            connect_time_ms: 0,
            client_bytes: 0,
            origin_bytes: 0,
            client_rtt_ns: 0,
            origin_rtt_ns: 0,
            firewall: active.matched(ends.source.ip(), ends.destination.port()),
            trace: 0,
            path: None,
        });
    }

    /// The application got new rules: end what they block with `drop_established`.
    pub fn cut_blocked(&mut self, desk: &mut Desk, active: &Arc<Active>) {
        let concerned = |s: &Session| {
            let is_its = s.state != State::Closed && s.active.id == active.id;
            is_its && active.cuts(s.client.ip(), s.edge.port())
        };
        let slots: Vec<usize> = self.table.iter().filter(|(_, s)| concerned(s)).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.table[slot].active = active.clone(); // the record names the rules that ended it
            self.close(desk, slot, Cause::FirewallCut);
        }
    }

    fn evict(&mut self, desk: &mut Desk, slot: usize) {
        counters(&self.table[slot].active, desk).sessions_evicted_total.add(1);
        self.close(desk, slot, Cause::SessionEvicted);
    }

    /// Try paths and origins in order until one has a connection or a socket. Ends in `Open`, `Linking`, `Resolving` or
    /// `Closed`.
    pub(super) fn open_socket(&mut self, desk: &mut Desk, slot: usize) {
        if self.table[slot].wants_path(desk.now_ms) && self.go_by_path(desk, slot) {
            return;
        }
        let mut evictions = 0;
        loop {
            let session = &mut self.table[slot];
            let origin = match choose(session, &self.refusals, desk.now_ms) {
                Choice::Try(origin) => origin,
                Choice::Wait(watched) => {
                    if session.state != State::Resolving {
                        self.wait(desk, slot, State::Resolving);
                        watched.wait_with(desk.wake_fd());
                    }
                    return self.arm(desk, slot);
                }
                Choice::Exhausted(_) if session.gives_up_direct(desk.now_ms) => return self.open_socket(desk, slot),
                Choice::Exhausted(cause) => {
                    let cause = session.last_failure.unwrap_or(cause);
                    return self.close(desk, slot, cause);
                }
            };
            session.origin = Some(origin);
            let active = session.active.clone();
            let mut result = connect(desk, slot, &active, origin);
            while matches!(result, Err(Cause::OutOfResources | Cause::PortsExhausted)) && evictions < MOST_EVICTIONS {
                let Some(victim) = self.table.oldest_one_way().filter(|victim| *victim != slot) else { break };
                evictions += 1;
                self.evict(desk, victim);
                result = connect(desk, slot, &active, origin);
            }
            let session = &mut self.table[slot];
            match result {
                Ok(socket) => {
                    session.socket = Some(socket);
                    session.since_ms = desk.now_ms;
                    self.set_open(slot);
                    self.tell_connected(slot);
                    return self.arm(desk, slot);
                }
                Err(cause) => {
                    session.last_failure = Some(cause);
                    let counters = counters(&active, desk);
                    counters.connect_errors_total.add(1);
                    counters.ports_exhausted_total.add(u64::from(cause == Cause::PortsExhausted));
                }
            }
        }
    }

    /// Its datagrams are held from now on.
    pub(super) fn wait(&mut self, desk: &Desk, slot: usize, state: State) {
        let session = &mut self.table[slot];
        self.holding += usize::from(!session.state.holds());
        (session.state, session.since_ms) = (state, desk.now_ms);
    }

    /// They are not held any more; [`UdpPlane::send_held`] sends those that were.
    pub(super) fn set_open(&mut self, slot: usize) {
        let session = &mut self.table[slot];
        self.holding -= usize::from(session.state.holds());
        session.state = State::Open;
    }

    pub(super) fn send_held(&mut self, desk: &mut Desk, slot: usize) {
        let session = &mut self.table[slot];
        if session.state != State::Open {
            return;
        }
        let held = std::mem::take(&mut session.held);
        self.held_bytes -= held.iter().map(|datagram| datagram.len()).sum::<usize>();
        let count = self.batch.load(&held);
        let picks: Vec<Pick> =
            (0..count).map(|index| Pick { session: slot as u32, index: index as u16, skip: 0 }).collect();
        self.pass_up(desk, slot, &picks);
    }

    /// Names have been answered: go on with the sessions that waited, and send what they held.
    pub fn on_names(&mut self, desk: &mut Desk) {
        if self.holding == 0 || desk.is_held {
            return;
        }
        let is_waiting = |session: &Session| session.state == State::Resolving;
        let slots: Vec<usize> = self.table.iter().filter(|(_, s)| is_waiting(s)).map(|(slot, _)| slot).collect();
        for slot in slots {
            // One that was given up to make room for an earlier one of these is closed by now.
            if is_waiting(&self.table[slot]) {
                self.open_socket(desk, slot);
            }
            self.send_held(desk, slot);
        }
    }

    /// The origin's machine says that nobody listens there.
    pub(super) fn on_refused(&mut self, desk: &mut Desk, slot: usize) {
        let session = &self.table[slot];
        if session.state == State::Closed {
            return;
        }
        counters(&session.active, desk).connect_errors_total.add(1);
        if let Some(origin) = session.origin.filter(|_| session.socket.is_some()) {
            self.refusals.add(origin, desk.now_ms);
        }
        if !session.is_handed_over() {
            self.icmp.port_unreachable(session.client, session.edge, desk.now_ms);
        }
        self.close(desk, slot, Cause::OriginPortUnreachable);
    }
}

/// The next origin to try, one that refused lately only if there is no other.
fn choose(session: &mut Session, refusals: &Refusals, now_ms: u64) -> Choice {
    let offset = session.active.offset(session.edge);
    let mut fallback = None;
    loop {
        match session.active.origins.choose(&mut session.tried, session.client.ip(), offset, now_ms) {
            Choice::Try(origin) if refusals.contains(origin, now_ms) => fallback = fallback.or(Some(origin)),
            Choice::Exhausted(cause) => return fallback.map_or(Choice::Exhausted(cause), Choice::Try),
            other => return other,
        }
    }
}

fn connect(desk: &mut Desk, slot: usize, active: &Active, origin: SocketAddr) -> Result<OwnedFd, Cause> {
    if !active.may_connect(origin) {
        return Err(Cause::OriginDenied);
    }
    let cause = |error: io::Error| connect_cause(error.raw_os_error().unwrap_or(libc::EIO));
    let socket = active.policy.sources().connect(origin, &mut desk.next_source, |source| {
        let socket = batch::socket(origin).map_err(cause)?;
        let fd = socket.as_raw_fd();
        let _ = sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &SOCKET_BUFFER_BYTES); // what the kernel grants
        control::receive_together(fd);
        if let Some(source) = source {
            let local = SocketAddr::new(source, 0);
            sys::bind(fd, local).map_err(|error| source::cause(&error).unwrap_or_else(|| cause(error)))?;
        }
        sys::connect(fd, origin).map_err(cause)?;
        Ok(socket)
    })?;
    desk.epoll.add(socket.as_raw_fd(), sys::IN, Token::Session.at(slot)).map_err(|_| Cause::OutOfResources)?;
    Ok(socket)
}

fn connect_cause(errno: i32) -> Cause {
    match errno {
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN => Cause::ConnectUnreachable,
        libc::EAGAIN | libc::EADDRNOTAVAIL | libc::EADDRINUSE => Cause::PortsExhausted,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => Cause::OutOfResources,
        _ => Cause::ConnectFailed,
    }
}

/// Origins that refused lately. Few, or something is wrong that trying others will not cure.
#[derive(Debug, Default)]
pub struct Refusals(VecDeque<(SocketAddr, u64)>);

impl Refusals {
    fn add(&mut self, origin: SocketAddr, now_ms: u64) {
        self.forget(origin);
        if self.0.len() == MOST_REFUSALS {
            self.0.pop_front();
        }
        self.0.push_back((origin, now_ms + REFUSED_FOR_MS));
    }

    fn contains(&self, origin: SocketAddr, now_ms: u64) -> bool {
        self.0.iter().any(|(refused, until_ms)| *refused == origin && *until_ms > now_ms)
    }

    /// It has answered.
    pub fn forget(&mut self, origin: SocketAddr) {
        self.0.retain(|(refused, _)| *refused != origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_for_a_while_or_until_an_answer() {
        let origin = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let mut refusals = Refusals::default();
        refusals.add(origin(1), 0);
        assert!(refusals.contains(origin(1), REFUSED_FOR_MS - 1) && !refusals.contains(origin(2), 0));
        assert!(!refusals.contains(origin(1), REFUSED_FOR_MS));
        refusals.forget(origin(1));
        assert!(!refusals.contains(origin(1), 0));
        for port in 0..1000 {
            refusals.add(origin(port), 0);
        }
        assert_eq!(refusals.0.len(), MOST_REFUSALS);
        assert!(refusals.contains(origin(999), 0) && !refusals.contains(origin(1), 0));
    }
}
