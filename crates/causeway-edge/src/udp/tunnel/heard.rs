//! What other edges say: sessions that they hand over, what has become of those that they were given, and datagrams.

use std::sync::Arc;

use bytes::Bytes;
use causeway_wire::datagram::{Message, ends};
use causeway_wire::overlay::{Answer, Hop, Name, Outcome};

use super::super::batch::{MOST, Pick};
use super::super::legs::{Heard, Place};
use super::super::session::{Key, NO_PORT, Session, State};
use super::super::{UdpPlane, counters};
use super::{Tunnel, say};
use crate::application::Active;
use crate::clock::unix_ms;
use crate::event::Cause;
use crate::overlay::{self, Overlay};
use crate::sockets::Sockets;
use crate::ways::Course;
use crate::worker::Desk;

/// Datagrams that have come one after the other: of which session, and whether from its client.
#[derive(Default)]
struct Run {
    whose: Option<(usize, bool)>,
    payloads: Vec<Bytes>,
}

impl UdpPlane {
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
            session.state != State::Closed && tunnel.is_some_and(|t| t.is_handed_over() || !t.course.is_direct)
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
        let Some(name) = self.legs.leads_to(handle) else { return };
        for slot in self.waiting_for(name) {
            self.take_leg(desk, slot, handle);
            self.send_held(desk, slot);
        }
    }

    fn waiting_for(&self, name: Name) -> Vec<usize> {
        self.table.iter().filter(|(_, session)| session.waits_for(name)).map(|(slot, _)| slot).collect()
    }

    fn on_leg_lost(&mut self, desk: &mut Desk, handle: usize) {
        let has_left = self.legs.has_left(handle);
        let towards = self.legs.leads_to(handle);
        for slot in self.legs.lose(handle, desk.now_ms) {
            let Some(session) = self.table.get(slot).filter(|session| session.state != State::Closed) else { continue };
            let tunnel = session.tunnel.as_ref();
            if let Some(tunnel) = tunnel.filter(|tunnel| tunnel.onward.is_some_and(|(leg, _)| leg == handle)) {
                if !has_left {
                    tunnel.course.judge(desk.now_ms, true);
                }
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
            (Message::End(all), false, _) => {
                self.pass_on(desk, run);
                ends(all).for_each(|flow| self.end(desk, (handle, flow)));
            }
            // What was under way when it ended.
            (Message::Payload(_) | Message::Answer(_), true, None) => {}
            _ => self.legs.refuse(handle),
        }
    }

    /// Says the edge that has handed it over; nothing, where it has ended here already.
    fn end(&mut self, desk: &mut Desk, place: Place) {
        if let Some(slot) = self.legs.session(place) {
            self.legs.forget(place);
            self.table[slot].tunnel.iter_mut().for_each(|tunnel| tunnel.from = None);
            self.close(desk, slot, Cause::Closed);
        }
    }

    /// Another edge hands a session over.
    fn take_in(&mut self, desk: &mut Desk, place: Place, hop: &Hop) -> Option<usize> {
        let overlay = self.legs.overlay.clone()?;
        let is_loop = hop.path.names().any(|name| *name == overlay.name);
        let known = if hop.path.is_empty() { overlay.exits.get(&hop.application) } else { Some(&overlay.transit) };
        let active: Arc<Active> = known.unwrap_or(&overlay.transit).clone();
        let course = Course::handed_over(hop.path);
        let tunnel =
            Tunnel { number: hop.number, from: Some(place), ..Tunnel::new(hop.application, hop.trace, course) };
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
            tunnel.course.judge(desk.now_ms, false);
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
        tunnel.course.judge(desk.now_ms, matches!(cause, Cause::PathBroken | Cause::PathUnknown));
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
