//! Sessions over other edges: at the first, which has the client, on the way, and at the last, which has the origin.
//!
//! A session goes to the next edge with its first datagram: until it has been answered, each datagram says whose it is and
//! where it goes on. A session that another edge has handed over ends when that edge says so, or with the connection.
//! Where a way is broken, the session ends, and the client's next datagram begins one by another way.

use std::sync::Arc;

use bytes::Bytes;
use causeway_wire::datagram::{Kind, MAX_HEAD, Message, head};
use causeway_wire::overlay::{Answer, Hop, MAX_ANSWER, MAX_HOP, Name, Outcome, Path};
use causeway_wire::{Endpoints, Transport};

use super::batch::{Batch, MOST, Pick};
use super::legs::{Heard, Legs, Place, Taken};
use super::pass::Sent;
use super::session::{Key, NO_PORT, Session, State};
use super::{UdpPlane, counters};
use crate::application::Active;
use crate::clock::unix_ms;
use crate::event::Cause;
use crate::overlay::{self, Overlay, Tally};
use crate::sockets::Sockets;
use crate::ways::Ways;
use crate::worker::Desk;

/// Whoever has other ways waits no longer for a connection to an edge.
const LINKED_WITHIN_MS: u64 = 1_000;

/// What such a session has besides.
#[derive(Debug)]
pub struct Tunnel {
    pub application: u128,
    pub trace: u64,
    /// How many edges it has been through before this one.
    number: u8,
    /// Paths that were tried, and which of them it is on.
    tried: u8,
    path: usize,
    rest: Path,
    /// Those that it may take; none: another edge has said which.
    ways: Option<Arc<Ways>>,
    /// Its path is the one without other edges.
    is_direct: bool,
    /// Where another edge handed it over.
    pub from: Option<Place>,
    /// Where another edge takes it on.
    pub onward: Option<Place>,
    /// The edge that comes next, and how long a connection to it is waited for.
    next: Option<Name>,
    pub linked_within_ms: u64,
    /// What its datagrams say until it is answered.
    opening: Vec<u8>,
    answer: Option<Answer>,
}

impl Tunnel {
    fn new(application: u128, trace: u64) -> Tunnel {
        Tunnel {
            application,
            trace,
            number: 0,
            tried: 0,
            path: 0,
            rest: Path::default(),
            ways: None,
            is_direct: false,
            from: None,
            onward: None,
            next: None,
            linked_within_ms: 0,
            opening: Vec::new(),
            answer: None,
        }
    }

    /// Has another edge handed it over?
    pub fn is_handed_over(&self) -> bool {
        self.number > 0
    }

    /// Has it ways besides the one that it is on?
    fn has_others(&self) -> bool {
        self.ways.as_ref().is_some_and(|ways| self.tried.count_ones() < ways.paths().len() as u32)
    }

    /// Remember of the way that it is on whether it leads anywhere.
    fn judge(&self, now_ms: u64, is_broken: bool) {
        self.ways.iter().for_each(|ways| ways.judge(self.path, now_ms, is_broken));
    }
}

impl Session {
    pub fn is_handed_over(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.is_handed_over())
    }

    fn waits_for(&self, name: Name) -> bool {
        self.state == State::Linking && self.tunnel.as_ref().is_some_and(|tunnel| tunnel.next == Some(name))
    }

    /// Is an edge to be asked for, and not an origin?
    pub(super) fn wants_path(&mut self, now_ms: u64) -> bool {
        match &self.tunnel {
            Some(tunnel) if tunnel.is_handed_over() => !tunnel.rest.is_empty() || tunnel.tried > 0,
            Some(tunnel) => !tunnel.is_direct,
            None => {
                let Some(ways) = self.active.ways(now_ms) else { return false };
                self.tunnel = Some(Box::new(Tunnel { ways: Some(ways), ..Tunnel::new(self.active.id, 0) }));
                true
            }
        }
    }

    /// Its origins cannot be had from here: is there another way that it may try?
    pub(super) fn gives_up_direct(&mut self, now_ms: u64) -> bool {
        let Some(tunnel) = self.tunnel.as_mut().filter(|tunnel| tunnel.is_direct) else { return false };
        tunnel.is_direct = false;
        tunnel.judge(now_ms, true);
        true
    }
}

impl UdpPlane {
    // ---- on to the next edge ----

    /// Towards the origins of an application with paths: over the next one that was not tried. False: this edge is to
    /// have the origin itself.
    pub(super) fn go_by_path(&mut self, desk: &mut Desk, slot: usize) -> bool {
        loop {
            let Some(overlay) = self.legs.overlay.clone() else {
                self.close(desk, slot, Cause::PathBroken);
                return true;
            };
            let session = &mut self.table[slot];
            let Some(tunnel) = session.tunnel.as_mut() else { return false };
            let next = match &tunnel.ways {
                Some(ways) => {
                    tunnel.trace = overlay.lasting.seed ^ session.flow;
                    ways.choose(&mut tunnel.tried, desk.now_ms, session.flow, |path| overlay.is_down(path))
                }
                None => (std::mem::replace(&mut tunnel.tried, 1) == 0).then_some((0, tunnel.rest)),
            };
            let Some((at, path)) = next else {
                let cause = session.last_failure.unwrap_or(Cause::PathBroken);
                self.close(desk, slot, cause);
                return true;
            };
            (tunnel.path, tunnel.is_direct, tunnel.next) = (at, path.is_empty(), None);
            let Some((next, rest)) = path.split() else { return false };
            session.origin = overlay.peer(&next);
            let (is_own, has_others) = (tunnel.ways.is_some(), tunnel.has_others());
            if is_own && !overlay.leads_on(&path) {
                session.last_failure = Some(Cause::PathBroken);
                continue;
            }
            (tunnel.next, tunnel.rest) = (Some(next), rest);
            match self.legs.towards(desk, next, has_others) {
                Taken::Ready(handle) => {
                    Tally::count(&overlay.lasting.tally.ready);
                    self.take_leg(desk, slot, handle);
                }
                Taken::Later => {
                    Tally::count(&overlay.lasting.tally.waited);
                    let within_ms = if has_others { LINKED_WITHIN_MS } else { session.active.connect_timeout_ms };
                    tunnel.linked_within_ms = within_ms;
                    self.wait(desk, slot, State::Linking);
                    self.arm(desk, slot);
                }
                Taken::Never => {
                    self.note_broken_path(desk, slot);
                    continue;
                }
            }
            return true;
        }
    }

    fn take_leg(&mut self, desk: &mut Desk, slot: usize, handle: usize) {
        let session = &mut self.table[slot];
        let endpoints = Endpoints { source: session.client, destination: session.edge };
        let Some(tunnel) = session.tunnel.as_mut() else { return };
        let (application, trace) = (tunnel.application, tunnel.trace);
        let hop = Hop { endpoints, application, trace, number: tunnel.number + 1, path: tunnel.rest };
        let mut header = [0; MAX_HOP];
        let len = hop.encode_for(Transport::Datagram, &mut header);
        tunnel.opening = header[..len].to_vec();
        tunnel.onward = self.legs.begin(handle, slot);
        session.since_ms = desk.now_ms;
        self.set_open(slot);
        self.arm(desk, slot);
    }

    fn note_broken_path(&mut self, desk: &Desk, slot: usize) {
        let session = &mut self.table[slot];
        session.last_failure = Some(Cause::PathBroken);
        counters(&session.active, desk).connect_errors_total.add(1);
        session.tunnel.iter().for_each(|tunnel| tunnel.judge(desk.now_ms, true));
    }

    /// A connection to the next edge does not come about: on to the next path, or to the end.
    pub(super) fn on_broken_path(&mut self, desk: &mut Desk, slot: usize) {
        let next = self.table[slot].tunnel.as_ref().and_then(|tunnel| tunnel.next);
        next.into_iter().for_each(|name| self.legs.doubt(name));
        self.note_broken_path(desk, slot);
        self.open_socket(desk, slot);
        self.send_held(desk, slot);
    }

    /// Datagrams of a client, to the next edge.
    pub(super) fn send_onward(&mut self, desk: &Desk, slot: usize, picks: &[Pick]) {
        let session = &mut self.table[slot];
        let Some(tunnel) = &session.tunnel else { return };
        let Some(place) = tunnel.onward else { return };
        let sent = match tunnel.answer {
            None => send(&mut self.legs, &self.batch, (place, Kind::Open), &tunnel.opening, picks),
            Some(_) => send(&mut self.legs, &self.batch, (place, Kind::Payload), &[], picks),
        };
        session.since_ms = desk.now_ms;
        counters(&session.active, desk).datagrams_dropped.add(sent.dropped);
        self.note_use(slot);
    }

    // ---- what other edges say ----

    /// Other edges come in there.
    pub fn listen_for_edges(&mut self, desk: &mut Desk, sockets: Sockets) -> std::io::Result<()> {
        self.legs.listen(desk, sockets)
    }

    pub fn set_overlay(&mut self, desk: &mut Desk, overlay: Option<Arc<Overlay>>) {
        self.legs.set_overlay(desk, overlay);
        self.attend_legs(desk);
    }

    pub fn on_leg(&mut self, desk: &mut Desk, which: usize) {
        self.received += self.legs.receive(which);
        self.attend_legs(desk);
    }

    pub fn on_leg_timer(&mut self, desk: &mut Desk, slot: u32) {
        self.legs.on_timer(desk, slot);
    }

    /// The turn is over: let leave what it has brought.
    pub fn settle_legs(&mut self, desk: &mut Desk) {
        if self.legs.is_touched() {
            self.attend_legs(desk);
            self.legs.flush(desk);
        }
    }

    /// An error of ours: all connections are gone, and what was on them.
    pub fn abandon_legs(&mut self, desk: &mut Desk) {
        for slot in self.legs.begin_anew() {
            self.close(desk, slot, Cause::Panic);
        }
    }

    /// End what goes over other edges, here, and tell them: somebody else is this edge from now on, or nobody.
    pub fn leave_legs(&mut self, desk: &mut Desk) {
        let is_over_edges = |session: &Session| {
            let tunnel = session.tunnel.as_ref();
            session.state != State::Closed && tunnel.is_some_and(|t| t.is_handed_over() || !t.is_direct)
        };
        let slots: Vec<usize> = self.table.iter().filter(|(_, s)| is_over_edges(s)).map(|(slot, _)| slot).collect();
        slots.into_iter().for_each(|slot| self.close(desk, slot, Cause::Drained));
        self.legs.leave(desk);
    }

    fn attend_legs(&mut self, desk: &mut Desk) {
        loop {
            let heard = self.legs.take_heard();
            if heard.is_empty() {
                return;
            }
            let mut run = Run::default();
            for one in heard {
                match one {
                    Heard::Datagram(handle, bytes) => self.hear(desk, handle, &bytes, &mut run),
                    Heard::Open(handle) => self.on_leg_open(desk, handle),
                    Heard::Lost(handle) => {
                        self.pass_on(desk, &mut run);
                        self.on_leg_lost(desk, handle);
                    }
                }
            }
            self.pass_on(desk, &mut run);
        }
    }

    fn on_leg_open(&mut self, desk: &mut Desk, handle: usize) {
        let Some((name, true)) = self.legs.peer(handle) else { return };
        for slot in self.waiting_for(name) {
            self.take_leg(desk, slot, handle);
            self.send_held(desk, slot);
        }
    }

    fn waiting_for(&self, name: Name) -> Vec<usize> {
        self.table.iter().filter(|(_, session)| session.waits_for(name)).map(|(slot, _)| slot).collect()
    }

    fn on_leg_lost(&mut self, desk: &mut Desk, handle: usize) {
        let towards = self.legs.peer(handle).filter(|(_, is_ours)| *is_ours).map(|(name, _)| name);
        for slot in self.legs.lose(handle, desk.now_ms) {
            let Some(session) = self.table.get(slot).filter(|session| session.state != State::Closed) else { continue };
            let tunnel = session.tunnel.as_ref();
            if let Some(tunnel) = tunnel.filter(|tunnel| tunnel.onward.is_some_and(|(leg, _)| leg == handle)) {
                tunnel.judge(desk.now_ms, true);
                counters(&session.active, desk).connect_errors_total.add(1);
            }
            self.close(desk, slot, Cause::PathBroken);
        }
        for slot in towards.map(|name| self.waiting_for(name)).unwrap_or_default() {
            self.on_broken_path(desk, slot);
        }
    }

    fn hear(&mut self, desk: &mut Desk, handle: usize, bytes: &Bytes, run: &mut Run) {
        let Some(is_ours) = self.legs.is_ours(handle) else { return };
        let Ok((flow, message)) = Message::parse(bytes) else { return self.legs.refuse(handle) };
        let place = (handle, flow);
        let session = self.legs.session(place);
        match (message, is_ours, session) {
            (Message::Payload(payload), _, Some(slot)) => {
                self.add_to(desk, run, (slot, !is_ours), bytes.slice_ref(payload));
            }
            // It ended here, and the word of it was lost.
            (Message::Payload(_), false, None) => {
                say(&mut self.legs, place, Answer { outcome: Outcome::Failed, origin: None });
            }
            (Message::Open { payload, .. }, false, Some(slot)) => {
                let answer = self.table[slot].tunnel.as_ref().and_then(|tunnel| tunnel.answer);
                answer.into_iter().for_each(|answer| say(&mut self.legs, place, answer)); // it was lost
                self.add_to(desk, run, (slot, true), bytes.slice_ref(payload));
            }
            (Message::Open { hop, payload }, false, None) => {
                self.pass_on(desk, run); // before it may be given up for this one
                if let Some(slot) = self.take_in(desk, place, &hop) {
                    self.add_to(desk, run, (slot, true), bytes.slice_ref(payload));
                }
            }
            (Message::Answer(answer), true, Some(slot)) => {
                self.pass_on(desk, run);
                self.on_answer(desk, slot, place, answer);
            }
            (Message::End, false, Some(slot)) => {
                self.pass_on(desk, run);
                self.legs.forget(place);
                self.table[slot].tunnel.iter_mut().for_each(|tunnel| tunnel.from = None);
                self.close(desk, slot, Cause::Closed);
            }
            // What was under way when it ended.
            (Message::Payload(_) | Message::Answer(_), true, None) | (Message::End, false, None) => {}
            _ => self.legs.refuse(handle),
        }
    }

    /// Another edge hands a session over.
    fn take_in(&mut self, desk: &mut Desk, place: Place, hop: &Hop) -> Option<usize> {
        let overlay = self.legs.overlay.clone()?;
        let is_loop = hop.path.names().any(|name| *name == overlay.name);
        let known = if hop.path.is_empty() { overlay.exits.get(&hop.application) } else { Some(&overlay.transit) };
        let active: Arc<Active> = known.unwrap_or(&overlay.transit).clone();
        let tunnel = Tunnel {
            number: hop.number,
            rest: hop.path,
            from: Some(place),
            ..Tunnel::new(hop.application, hop.trace)
        };
        let key = Key::of_flow(place);
        let mut session = Session::new(key, NO_PORT, active, hop.endpoints, desk.next_flow(), desk.now_ms);
        session.tunnel = Some(Box::new(tunnel));
        let slot = self.begin(desk, session);
        self.legs.adopt(place, slot);
        match (is_loop, known) {
            (true, _) => self.close(desk, slot, Cause::PathBroken),
            (false, None) => self.close(desk, slot, Cause::PathUnknown),
            (false, Some(_)) => self.open_socket(desk, slot),
        }
        (self.table[slot].state != State::Closed).then_some(slot)
    }

    /// The last edge has its origin, or not any more.
    fn on_answer(&mut self, desk: &mut Desk, slot: usize, place: Place, answer: Answer) {
        let session = &mut self.table[slot];
        let Some(tunnel) = session.tunnel.as_mut() else { return };
        let is_first = tunnel.answer.is_none();
        if answer.outcome == Outcome::Connected {
            tunnel.judge(desk.now_ms, false);
            (tunnel.answer, tunnel.opening) = (Some(answer), Vec::new());
            match tunnel.from {
                Some(from) => say(&mut self.legs, from, answer),
                None => session.origin = answer.origin,
            }
            if is_first {
                session.connect_time_ms = unix_ms();
                desk.events.write(session.event(Cause::Opened));
            }
            return;
        }
        let cause = match overlay::cause(answer.outcome) {
            Cause::ConnectRefused => Cause::OriginPortUnreachable,
            cause => cause,
        };
        tunnel.judge(desk.now_ms, matches!(cause, Cause::PathBroken | Cause::PathUnknown));
        tunnel.onward = None;
        session.origin = answer.origin;
        counters(&session.active, desk).connect_errors_total.add(1);
        self.legs.forget(place);
        let session = &self.table[slot];
        if cause == Cause::OriginPortUnreachable && !session.is_handed_over() {
            self.icmp.port_unreachable(session.client, session.edge, desk.now_ms);
        }
        self.close(desk, slot, cause);
    }

    /// It has its origin, says the last edge to whoever handed it over.
    pub(super) fn tell_connected(&mut self, slot: usize) {
        let session = &mut self.table[slot];
        let Some(tunnel) = session.tunnel.as_mut() else { return };
        if let Some(from) = tunnel.from {
            let answer = Answer { outcome: Outcome::Connected, origin: session.origin };
            tunnel.answer = Some(answer);
            say(&mut self.legs, from, answer);
        }
    }

    /// It has ended here: the edges before and behind hear of it.
    pub(super) fn part(&mut self, slot: usize, cause: Cause) {
        let session = &mut self.table[slot];
        let Some(tunnel) = session.tunnel.take() else { return };
        if let Some(onward) = tunnel.onward {
            self.legs.end(onward);
        }
        if let Some(from) = tunnel.from {
            let outcome = if cause == Cause::Drained { Outcome::PathBroken } else { overlay::outcome(cause) };
            // What this edge has tried is told; an edge on the way knows only what it was told.
            let origin = session.origin.filter(|_| tunnel.rest.is_empty() || tunnel.onward.is_none());
            say(&mut self.legs, from, Answer { outcome, origin });
            self.legs.forget(from);
        }
    }

    // ---- payload ----

    /// Datagrams of one session that come one after the other are passed on together.
    fn add_to(&mut self, desk: &mut Desk, run: &mut Run, whose: (usize, bool), payload: Bytes) {
        if run.whose != Some(whose) || run.payloads.len() == MOST {
            self.pass_on(desk, run);
        }
        run.whose = Some(whose);
        run.payloads.push(payload);
    }

    fn pass_on(&mut self, desk: &mut Desk, run: &mut Run) {
        let Some((slot, is_up)) = run.whose.take() else { return };
        let count = self.batch.load(&run.payloads);
        run.payloads.clear();
        if self.table.get(slot).is_none_or(|session| session.state == State::Closed) {
            return;
        }
        let pick = |index: usize| Pick { session: slot as u32, index: index as u16, skip: 0 };
        if is_up {
            let admitted = (0..count).filter(|index| self.note_received(desk, slot, *index).is_some());
            let picks: Vec<Pick> = admitted.map(pick).collect();
            self.pass_up(desk, slot, &picks);
        } else {
            let picks: Vec<Pick> = (0..count).map(pick).collect();
            self.send_down(desk, slot, &picks);
        }
    }
}

/// Datagrams that have come one after the other: of which session, and whether from its client.
#[derive(Default)]
struct Run {
    whose: Option<(usize, bool)>,
    payloads: Vec<Bytes>,
}

fn say(legs: &mut Legs, (handle, flow): Place, answer: Answer) {
    let (mut front, mut said) = ([0; MAX_HEAD], [0; MAX_ANSWER]);
    let (len, said_len) = (head(Kind::Answer, flow, &mut front), answer.encode(&mut said));
    legs.send(handle, [&front[..len], &said[..said_len]].concat()); // it is said again with what comes next
}

/// What a session's datagrams are between edges: a number, what is said about it, what it says.
pub fn send(
    legs: &mut Legs,
    batch: &Batch,
    ((handle, flow), kind): (Place, Kind),
    opening: &[u8],
    picks: &[Pick],
) -> Sent {
    let mut front = [0; MAX_HEAD];
    let len = head(kind, flow, &mut front);
    let mut sent = Sent::default();
    for pick in picks {
        let payload = &batch.datagram(pick.index.into())[usize::from(pick.skip)..];
        let mut message = Vec::with_capacity(len + opening.len() + payload.len());
        message.extend_from_slice(&front[..len]);
        message.extend_from_slice(opening);
        message.extend_from_slice(payload);
        if legs.send(handle, message) {
            sent.datagrams += 1;
            sent.bytes += payload.len() as u64;
        } else {
            sent.dropped += 1;
        }
    }
    sent
}
