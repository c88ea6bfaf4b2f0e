//! Sessions over other edges: at the first, which has the client, on the way, and at the last, which has the origin.
//!
//! A session goes to the next edge with its first datagram: until it has been answered, each datagram says whose it is and
//! where it goes on. A session that another edge has handed over ends when that edge says so, or with the connection.
//! Where a way is broken, the session ends, and the client's next datagram begins one by another way.

mod heard;

use causeway_wire::datagram::{Kind, MAX_HEAD, head};
use causeway_wire::overlay::{Answer, Hop, MAX_ANSWER, MAX_HOP, Name, Outcome};
use causeway_wire::{Endpoints, Transport};

use super::batch::{Batch, Pick};
use super::legs::{Legs, Place, Taken};
use super::pass::Sent;
use super::session::{Session, State};
use super::{UdpPlane, counters};
use crate::event::Cause;
use crate::overlay::{self, Tally};
use crate::ways::{Course, Turn};
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
    pub course: Course,
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
    fn new(application: u128, trace: u64, course: Course) -> Tunnel {
        Tunnel {
            application,
            trace,
            number: 0,
            course,
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
            Some(tunnel) => tunnel.course.wants_path(),
            None => {
                let Some(ways) = self.active.ways(now_ms) else { return false };
                self.tunnel = Some(Box::new(Tunnel::new(self.active.id, 0, Course::own(ways))));
                true
            }
        }
    }

    /// Its origins cannot be had from here: is there another way that it may try?
    pub(super) fn gives_up_direct(&mut self, now_ms: u64) -> bool {
        self.tunnel.as_mut().is_some_and(|tunnel| tunnel.course.gives_up_direct(now_ms, false))
    }
}

impl UdpPlane {
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
            let course = &mut tunnel.course;
            if course.is_own() {
                tunnel.trace = overlay.lasting.seed ^ session.flow;
            }
            let turn = course.turn(desk.now_ms, session.flow, |path| overlay.is_down(path));
            let (is_own, has_others) = (course.is_own(), course.has_others());
            tunnel.next = None;
            let (next, path) = match turn {
                Turn::Edge(next, path) => (next, path),
                Turn::Origin => return false,
                Turn::Nowhere => {
                    let cause = session.last_failure.unwrap_or(Cause::PathBroken);
                    self.close(desk, slot, cause);
                    return true;
                }
            };
            session.origin = overlay.peer(&next);
            if is_own && !overlay.leads_on(&path) {
                session.last_failure = Some(Cause::PathBroken);
                continue;
            }
            tunnel.next = Some(next);
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
        let hop = Hop {
            endpoints,
            application,
            trace,
            number: tunnel.number + 1,
            path: tunnel.course.rest,
            keep: None,
            has_others: false,
        };
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
        session.tunnel.iter().for_each(|tunnel| tunnel.course.judge(desk.now_ms, true));
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
            say(&mut self.legs, from, Answer { outcome, origin: session.origin });
            self.legs.forget(from);
        }
    }
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
