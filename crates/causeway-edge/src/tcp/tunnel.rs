//! Flows over other edges: at the first, which has the client, on the way, and at the last, which has the origin.
//!
//! The first tries paths in order until an edge takes the flow; from then on it is committed, since bytes of the client
//! are gone. What became of it comes back as an answer before the first byte of the origin.

mod answers;
mod handed;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use causeway_wire::overlay::{Ask, Hop, Keep, MAX_HOP, Name, Outcome};

use super::connection::{Connection, NEVER, Reset, State};
use super::kept::Kept;
use super::links::Taken;
use super::{TcpPlane, counters};
use crate::event::Cause;
use crate::gains::FirstByte;
use crate::overlay::tls::Tls;
use crate::overlay::{Overlay, Tally, identity};
use crate::relay::Readiness;
use crate::sys;
use crate::ways::{Course, Turn};
use crate::worker::{Desk, Token};

/// Longer than the last edge waits for its origin, so that its reason is heard.
pub const ANSWER_GRACE_MS: u64 = 2_000;

/// An answer that takes so much longer than two round trips to the next edge is late, where nobody knows how long
/// answers take there: flows that begin now go elsewhere.
const LATE_MS: u64 = 1_000;

/// A connection that takes so much longer than a handshake of two round trips is not waited for by whoever has another
/// way.
const SLOW_LINK_MS: u64 = 150;
const HANDSHAKE_ROUND_TRIPS: u64 = 2;

/// Reads of what comes for a flow that has ended: more than a client says before it hears anything.
pub const MOST_DRAINED: usize = 16;

/// An edge that does not acknowledge a header for so long, and for so many round trips, is not there any more.
const HEARD_WITHIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
const HEARD_ROUND_TRIPS: u32 = 8;

pub(super) use handed::answer;

/// What such a flow has besides.
#[derive(Debug)]
pub struct Tunnel {
    /// Where another edge handed it over.
    pub client: Option<Tls>,
    /// Where another edge takes it on.
    pub origin: Option<Tls>,
    pub application: u128,
    pub trace: u64,
    /// How many edges it has been through before this one.
    number: u8,
    pub course: Course,
    /// Whoever handed it over can go elsewhere with it.
    has_others: bool,
    /// What the first and the last edge keep of it; none: it ends with its connection.
    pub kept: Option<Box<Kept>>,
    /// It is for others to keep: what they ask each other.
    keep: Option<Keep>,
    is_unkept: bool,
    /// Begun to be read, until it is whole.
    pub answer: Option<Vec<u8>>,
    pub answer_due_ms: u64,
    pub late_ms: u64,
    /// The first of what was said to the next edge is not the client's.
    header_bytes: usize,
    /// The edge to which it waits for a connection.
    pub next: Option<Name>,
    /// So long it waits for that, or for an origin: no longer than it usually takes, where there are other ways.
    pub waits_until_ms: u64,
    /// Is it for flows to find out that this edge is not there? Elsewhere somebody asks it anyway.
    finds_out: bool,
    /// How long its client waits is measured.
    pub first_byte: Option<FirstByte>,
}

impl Tunnel {
    fn new(application: u128, trace: u64, course: Course) -> Tunnel {
        Tunnel {
            client: None,
            origin: None,
            application,
            trace,
            number: 0,
            course,
            has_others: false,
            kept: None,
            keep: None,
            is_unkept: false,
            answer: None,
            answer_due_ms: NEVER,
            late_ms: NEVER,
            header_bytes: 0,
            next: None,
            waits_until_ms: NEVER,
            finds_out: false,
            first_byte: None,
        }
    }

    pub fn is_enciphered(&self) -> bool {
        self.client.is_some() || self.origin.is_some()
    }

    pub fn awaits_answer(&self) -> bool {
        self.answer.is_some()
    }

    pub fn due_ms(&self) -> u64 {
        let kept_ms = self.kept.as_ref().map_or(NEVER, |kept| kept.due_ms());
        self.answer_due_ms.min(self.late_ms).min(kept_ms)
    }

    pub fn expect_no_answer(&mut self) {
        (self.answer, self.answer_due_ms, self.late_ms) = (None, NEVER, NEVER);
    }

    /// Are there other ways to its origins, which are as good as this one?
    pub fn may_go_elsewhere(&self) -> bool {
        self.has_others || (self.course.is_steered() && self.course.has_others())
    }

    /// Of a flow that control steers, from here on.
    fn await_first_byte(&mut self, has_spoken: bool) {
        if self.course.is_steered() {
            self.first_byte = Some(FirstByte::awaited(has_spoken.then(Instant::now)));
        }
    }

    /// Has another edge handed it over?
    pub fn is_handed_over(&self) -> bool {
        self.number > 0
    }
}

impl Connection {
    /// Is an edge to be asked for, and not an origin?
    pub(super) fn wants_path(&mut self, now_ms: u64) -> bool {
        match &self.tunnel {
            Some(tunnel) => tunnel.course.wants_path(),
            None => {
                let Some(ways) = self.active.ways(now_ms) else { return false };
                let mut tunnel = Tunnel::new(self.active.id, 0, Course::own(ways));
                tunnel.await_first_byte(!self.early.is_empty());
                self.tunnel = Some(Box::new(tunnel));
                true
            }
        }
    }

    /// The client has been heard, perhaps before there is anybody to tell.
    pub(super) fn client_spoke(&mut self) {
        let tunnel = self.tunnel.as_mut();
        let first_byte = tunnel.and_then(|tunnel| tunnel.first_byte.as_mut());
        first_byte.into_iter().for_each(|first_byte| first_byte.client_spoke(Instant::now()));
    }

    /// Bytes were moved: were they the first that its client has waited for?
    #[inline(never)]
    pub(super) fn note_first_byte(&mut self) {
        let (has_asked, has_answer) = (self.up.bytes > 0, self.down.bytes > 0);
        let Some(tunnel) = &mut self.tunnel else { return };
        let Some(first_byte) = &mut tunnel.first_byte else { return };
        if !has_asked && !has_answer {
            return;
        }
        let now = Instant::now();
        if has_asked {
            first_byte.client_spoke(now);
        }
        if !has_answer {
            return;
        }
        let took = first_byte.took(now);
        tunnel.first_byte = None;
        let (Some(took), Some(steered)) = (took, &self.active.steered) else { return };
        match tunnel.course.is_direct {
            false => steered.gains.over.add(took),
            // One that was elsewhere before says nothing of what direct takes.
            true if tunnel.course.is_first_choice() => steered.gains.direct.add(took),
            true => {}
        }
    }

    /// Its origins do not answer: is there another way that it may try?
    pub(super) fn gives_up_direct(&mut self, now_ms: u64) -> bool {
        let is_late = self.last_failure == Some(Cause::ConnectTimeout) && self.is_hurried();
        self.tunnel.as_mut().is_some_and(|tunnel| tunnel.course.gives_up_direct(now_ms, is_late))
    }

    /// Does it not wait for an origin as long as it may?
    pub(super) fn is_hurried(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.may_go_elsewhere())
    }

    /// It has begun to connect to an origin.
    pub(super) fn wait_for_origin(&mut self, now_ms: u64) {
        let Some(tunnel) = &mut self.tunnel else { return };
        let usual = self.active.steered.as_ref().filter(|_| tunnel.may_go_elsewhere());
        tunnel.waits_until_ms = usual.map_or(NEVER, |steered| now_ms + steered.reach.within_ms());
    }
}

impl TcpPlane {
    /// Towards the origins of an application with paths: over the next one that was not tried. False: this edge is to
    /// connect to the origins itself.
    pub(super) fn go_by_path(&mut self, desk: &mut Desk, slot: usize) -> bool {
        loop {
            let connection = &mut self.connections[slot];
            let Some(overlay) = self.links.overlay.clone() else {
                self.close(desk, slot, Cause::PathBroken, Reset::Both);
                return true;
            };
            let Some(tunnel) = connection.tunnel.as_mut() else { return false };
            let course = &mut tunnel.course;
            if course.is_own() {
                tunnel.trace = overlay.lasting.seed ^ connection.flow;
            }
            let turn = course.turn(desk.now_ms, connection.flow, |path| overlay.is_down(path));
            let (is_own, has_others) = (course.is_own(), course.has_others());
            (tunnel.waits_until_ms, tunnel.next, tunnel.finds_out) = (NEVER, None, false);
            let (next, path) = match turn {
                Turn::Edge(next, path) => (next, path),
                Turn::Origin => return false,
                Turn::Nowhere => {
                    let cause = connection.last_failure.unwrap_or(Cause::PathBroken);
                    self.end_unanswered(desk, slot, cause);
                    return true;
                }
            };
            (connection.state, connection.since_ms) = (State::Connecting, desk.now_ms);
            connection.origin_address = overlay.peer(&next);
            let waiting = (slot, connection.generation);
            if is_own && !overlay.leads_on(&path) {
                connection.last_failure = Some(Cause::PathBroken);
                continue;
            }
            match self.take_link(desk, &overlay, next, waiting, has_others) {
                Taken::Ready(fd, tls, ready) => self.send_on(desk, slot, (fd, tls, ready)),
                Taken::Later => {
                    let Some(tunnel) = self.connections[slot].tunnel.as_mut() else { return false };
                    tunnel.next = Some(next);
                    if has_others {
                        let heard_ms = HEARD_WITHIN[0].as_millis() as u64;
                        let rtt_ms = overlay.lasting.steering.rtt_us(&next).map(|rtt_us| (rtt_us / 1000.0) as u64);
                        let slow_ms = rtt_ms.map(|rtt_ms| SLOW_LINK_MS + HANDSHAKE_ROUND_TRIPS * rtt_ms);
                        tunnel.waits_until_ms = desk.now_ms + slow_ms.unwrap_or(heard_ms).min(heard_ms);
                        tunnel.finds_out = slow_ms.is_none();
                    }
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

    /// A connection to the next edge was waited for as long as may be.
    pub(super) fn on_late_link(&mut self, desk: &mut Desk, slot: usize) {
        let tunnel = self.connections[slot].tunnel.as_ref();
        if tunnel.is_some_and(|tunnel| tunnel.waits_until_ms <= desk.now_ms && !tunnel.finds_out) {
            self.connections[slot].last_failure = Some(Cause::PathBroken);
            return self.connect(desk, slot);
        }
        self.on_broken_path(desk, slot);
    }

    /// The edge that comes next cannot be reached: on to the next path, or to the end.
    pub(super) fn on_broken_path(&mut self, desk: &mut Desk, slot: usize) {
        if self.connections[slot].seeks_link() {
            return self.seek(desk, slot);
        }
        let tunnel = self.connections[slot].tunnel.as_ref().filter(|tunnel| tunnel.finds_out);
        tunnel.and_then(|tunnel| tunnel.next).into_iter().for_each(|name| self.doubt(desk, name));
        self.note_broken_path(desk, slot);
        self.connect(desk, slot);
    }

    pub(super) fn note_broken_path(&mut self, desk: &Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        connection.last_failure = Some(Cause::PathBroken);
        counters(&connection.active, desk).connect_errors_total.add(1);
        connection.tunnel.iter().for_each(|tunnel| tunnel.course.judge(desk.now_ms, true));
    }

    /// Does it wait for a connection to another edge?
    pub(super) fn waits_for_link(&self, slot: usize) -> bool {
        let connection = &self.connections[slot];
        let waits = connection.state == State::Connecting || connection.seeks_link();
        waits && connection.origin.is_none() && connection.tunnel.is_some()
    }

    /// An edge has taken it: the header goes first, with what the client has said already.
    pub(super) fn send_on(&mut self, desk: &mut Desk, slot: usize, (fd, mut tls, ready): (OwnedFd, Tls, Readiness)) {
        let connection = &mut self.connections[slot];
        if connection.seeks_link() {
            return self.resume_on(desk, slot, (fd, tls, ready));
        }
        let endpoints = connection.endpoints();
        let Some(tunnel) = &mut connection.tunnel else { return };
        if let Some(keep) = &tunnel.keep {
            if !tls.speaks_frames() {
                return self.end_saying(desk, slot, Cause::PathBroken, Outcome::NotKept);
            }
            if keep.says_from.is_some() && !tls.hears_at_once() {
                return self.end_unanswered(desk, slot, Cause::PathBroken); // there are other ways to the same edge
            }
        }
        if !tunnel.is_handed_over() && !tunnel.is_unkept && tls.speaks_frames() {
            tunnel.kept = self.links.overlay.as_ref().and_then(|overlay| {
                let last = tunnel.course.rest.names().last().copied().or_else(|| tls.peer())?;
                let kept = Kept::new(identity::secret()?, Some(last), overlay.lasting.registry.clone(), desk.now_ms);
                Some(Box::new(kept))
            });
        }
        let begun = tunnel.kept.as_ref().map(|kept| Keep { secret: kept.secret, ask: Ask::Begin, says_from: None });
        let hop = Hop {
            endpoints,
            application: tunnel.application,
            trace: tunnel.trace,
            number: tunnel.number + 1,
            path: tunnel.course.rest,
            keep: begun.or(tunnel.keep),
            has_others: tunnel.may_go_elsewhere(),
        };
        let mut header = [0; MAX_HOP];
        let len = hop.encode(&mut header);
        let early = std::mem::take(&mut connection.early);
        match &mut tunnel.kept {
            Some(kept) => {
                tls.write(&header[..len]);
                kept.take(&early);
            }
            None => connection.up.hold([&header[..len], &early].concat()),
        }
        (tunnel.answer, tunnel.header_bytes) = (Some(Vec::new()), len);
        let raw = fd.as_raw_fd();
        let rtt = Duration::from_nanos(sys::rtt_ns(raw));
        if !tunnel.is_handed_over() {
            tunnel.answer_due_ms = desk.now_ms + connection.active.connect_timeout_ms + ANSWER_GRACE_MS;
        }
        if tunnel.course.has_others() {
            tls.keep();
            if tunnel.kept.is_some() {
                tls.take_kept(); // it has it all
            }
            if tunnel.course.is_steered() {
                let usual_ms = tunnel.course.within_ms().filter(|_| tunnel.kept.is_some());
                tunnel.late_ms = desk.now_ms + usual_ms.unwrap_or(LATE_MS + 2 * rtt.as_millis() as u64);
            }
        }
        tunnel.origin = Some(tls);
        // The connection was there before: whether the other edge still is shows now.
        let _ = sys::set_user_timeout(raw, Some(heard_within(rtt)));
        (connection.origin, connection.ready[1]) = (Some(fd), Readiness { watches_writable: true, ..ready });
        (connection.state, connection.since_ms) = (State::Open, desk.now_ms);
        connection.tuning = super::connection::Tuning::Done; // its socket has its options
        let interest = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
        if desk.epoll.modify(raw, interest, Token::Origin.at(slot)).is_err() {
            return self.close(desk, slot, Cause::OutOfResources, Reset::Both);
        }
        self.arm(desk, slot);
        self.run(desk, slot);
    }

    /// Whoever has waited for an edge may have gone elsewhere since, and wait there.
    fn still_waits(&self, slot: usize, generation: u32, name: Name) -> bool {
        let connection = self.connections.get(slot).filter(|connection| connection.generation == generation);
        let next = connection.and_then(|connection| connection.tunnel.as_ref()).and_then(|tunnel| tunnel.next);
        next == Some(name) && self.waits_for_link(slot)
    }

    /// The edge that a waiting flow wants is there, or not.
    pub(super) fn serve_waiting(&mut self, desk: &mut Desk, name: Name) {
        while let Some((slot, generation)) = self.links.next_waiting(&name) {
            if !self.still_waits(slot, generation, name) {
                continue;
            }
            match self.take_warm(desk, &name) {
                Some(taken) => self.send_on(desk, slot, taken),
                None => return self.links.wait_again(name, (slot, generation)),
            }
        }
    }

    pub(super) fn fail_waiting(&mut self, desk: &mut Desk, name: Name) {
        for (slot, generation) in self.links.take_waiting(&name) {
            if self.still_waits(slot, generation, name) {
                self.on_broken_path(desk, slot);
            }
        }
    }

    pub(super) fn count_start(overlay: &Overlay, was_ready: bool) {
        let tally = &overlay.lasting.tally;
        Tally::count(if was_ready { &tally.ready } else { &tally.waited });
    }
}

fn heard_within(rtt: Duration) -> Duration {
    (rtt * HEARD_ROUND_TRIPS).clamp(HEARD_WITHIN[0], HEARD_WITHIN[1])
}
