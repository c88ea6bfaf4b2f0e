//! The first edge of a kept flow: notices that its connection is gone, and finds another to the edge that has the origin.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use causeway_wire::overlay::{Answer, Ask, Hop, Keep, MAX_HOP, Name, Outcome, Path};

use super::{KEEP_MS, Kept, NEVER, Phase};
use crate::event::Cause;
use crate::overlay::tls::Tls;
use crate::overlay::{self, Overlay, Tally};
use crate::relay::Readiness;
use crate::sys;
use crate::tcp::connection::{Connection, Reset, State};
use crate::tcp::links::Taken;
use crate::tcp::tunnel::ANSWER_GRACE_MS;
use crate::tcp::{TcpPlane, counters};
use crate::worker::{Desk, Token};

/// A connection to the next edge is waited for so long, and what comes back over it, besides four round trips.
const LINKED_WITHIN_MS: u64 = 1_500;
const JOINED_WITHIN_MS: u64 = 2_000;
/// A flow that nobody has answered is not kept for long: its client knows what to do. A connection is tried again within
/// a second.
const UNANSWERED_FOR_MS: u64 = 1_500;
/// After all ways were tried.
const AGAIN_MS: u64 = 100;

impl Connection {
    pub fn kept(&mut self) -> Option<&mut Kept> {
        self.tunnel.as_mut().and_then(|tunnel| tunnel.kept.as_deref_mut())
    }

    /// Does it wait for a connection to another edge, to go on over it?
    pub fn seeks_link(&self) -> bool {
        let kept = self.tunnel.as_ref().and_then(|tunnel| tunnel.kept.as_ref());
        self.state == State::Open && kept.is_some_and(|kept| kept.phase == Phase::Linking)
    }
}

impl TcpPlane {
    /// The connection to the other edge is gone, or given up.
    pub(in crate::tcp) fn lose_link(&mut self, desk: &mut Desk, slot: usize, is_silent: bool) {
        let connection = &mut self.connections[slot];
        let Some(tunnel) = connection.tunnel.as_mut() else { return };
        let Some(kept) = tunnel.kept.as_mut() else { return };
        let side = usize::from(kept.is_first);
        let (fd, tls) = match kept.is_first {
            true => (connection.origin.take(), tunnel.origin.take()),
            false => (connection.client.take(), tunnel.client.take()),
        };
        fd.iter().for_each(|fd| sys::reset_on_close(fd.as_raw_fd()));
        connection.ready[side] = Readiness::default();
        let was_open = kept.phase == Phase::Open;
        kept.lose(desk.now_ms);
        (tunnel.answer, tunnel.answer_due_ms, tunnel.late_ms) = (None, NEVER, NEVER);
        if kept.is_finished() {
            return self.close(desk, slot, Cause::Closed, Reset::None);
        }
        if !kept.is_retained() {
            return self.lose_flow(desk, slot);
        }
        if !kept.is_first {
            return self.arm(desk, slot);
        }
        let next = tls.as_ref().and_then(Tls::peer);
        if was_open {
            counters(&connection.active, desk).connect_errors_total.add(1);
            let silent = next.filter(|_| is_silent);
            self.find_ways(slot, silent);
        }
        self.seek(desk, slot);
    }

    /// Which ways lead to the edge that has the origin; those over an edge that does not answer are the last.
    fn find_ways(&mut self, slot: usize, silent: Option<Name>) {
        let Some(overlay) = self.links.overlay.clone() else { return };
        let Some(tunnel) = self.connections[slot].tunnel.as_mut() else { return };
        let Some(kept) = tunnel.kept.as_mut() else { return };
        let Some(last) = kept.last else { return };
        let mut ways: Vec<Path> = Vec::new();
        for path in tunnel.course.ways_to(&last).into_iter().chain(overlay.ways_to(&last)) {
            if !ways.contains(&path) && overlay.leads_on(&path) {
                ways.push(path);
            }
        }
        let is_doubtful =
            |path: &Path| overlay.is_down(path) || path.split().is_some_and(|(next, _)| Some(next) == silent);
        ways.sort_by_key(is_doubtful); // stable: the order of each part stays
        ways.reverse();
        kept.candidates = ways;
    }

    /// Over the next of the ways that were not tried.
    pub(in crate::tcp) fn seek(&mut self, desk: &mut Desk, slot: usize) {
        let Some(overlay) = self.links.overlay.clone() else { return self.lose_flow(desk, slot) };
        loop {
            let connection = &mut self.connections[slot];
            let waiting = (slot, connection.generation);
            let most_ms = connection.active.connect_timeout_ms + ANSWER_GRACE_MS;
            let Some(tunnel) = connection.tunnel.as_mut() else { return };
            let Some(kept) = tunnel.kept.as_mut() else { return };
            tunnel.next = None;
            let path = kept.candidates.pop().unwrap_or_default();
            let Some((next, rest)) = path.split() else {
                let unanswered_until_ms =
                    if kept.is_late { kept.begun_ms + most_ms } else { kept.lost_ms + UNANSWERED_FOR_MS };
                if !kept.is_answered && desk.now_ms >= unanswered_until_ms {
                    return self.lose_flow(desk, slot);
                }
                (kept.phase, kept.phase_due_ms) = (Phase::Down, desk.now_ms + AGAIN_MS);
                return self.arm(desk, slot);
            };
            (tunnel.course.path, tunnel.course.rest, kept.phase) = (path, rest, Phase::Linking);
            let has_others = !kept.candidates.is_empty();
            match self.take_link(desk, &overlay, next, waiting, has_others) {
                Taken::Ready(fd, tls, ready) => return self.resume_on(desk, slot, (fd, tls, ready)),
                Taken::Later => {
                    let Some(tunnel) = self.connections[slot].tunnel.as_mut() else { return };
                    tunnel.next = Some(next);
                    tunnel.kept.iter_mut().for_each(|kept| kept.phase_due_ms = desk.now_ms + LINKED_WITHIN_MS);
                    return self.arm(desk, slot);
                }
                Taken::Never => {}
            }
        }
    }

    /// There is a connection: the edge that has the origin hears how far the flow has come.
    pub(in crate::tcp) fn resume_on(
        &mut self,
        desk: &mut Desk,
        slot: usize,
        (fd, mut tls, ready): (OwnedFd, Tls, Readiness),
    ) {
        if !tls.speaks_frames() {
            return self.seek(desk, slot);
        }
        let connection = &mut self.connections[slot];
        let endpoints = connection.endpoints();
        let Some(tunnel) = connection.tunnel.as_mut() else { return };
        let Some(kept) = tunnel.kept.as_mut() else { return };
        let age_ms = desk.now_ms.saturating_sub(kept.begun_ms);
        let ask = if kept.is_answered { Ask::Resume(kept.arrived()) } else { Ask::ResumeOrBegin(age_ms) };
        let says_from = tls.hears_at_once().then(|| kept.may_say_at_once()).flatten();
        let hop = Hop {
            endpoints,
            application: tunnel.application,
            trace: tunnel.trace,
            number: 1,
            path: tunnel.course.rest,
            keep: Some(Keep { secret: kept.secret, ask, says_from }),
            has_others: tunnel.course.is_steered() && tunnel.course.has_others(),
        };
        let mut header = [0; MAX_HOP];
        let len = hop.encode(&mut header);
        tls.write(&header[..len]);
        let raw = fd.as_raw_fd();
        let rtt_ms = Duration::from_nanos(sys::rtt_ns(raw)).as_millis() as u64;
        kept.join(desk.now_ms, desk.now_ms + JOINED_WITHIN_MS + 4 * rtt_ms);
        if says_from.is_some() {
            kept.say_at_once(&mut tls);
        }
        (tunnel.origin, tunnel.answer) = (Some(tls), Some(Vec::new()));
        (connection.origin, connection.ready[1]) = (Some(fd), Readiness { watches_writable: true, ..ready });
        let interest = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
        if desk.epoll.modify(raw, interest, Token::Origin.at(slot)).is_err() {
            return self.close(desk, slot, Cause::OutOfResources, Reset::Both);
        }
        let Some(tls) = connection.tunnel.as_mut().and_then(|tunnel| tunnel.origin.as_mut()) else { return };
        if tls.flush(raw, &mut connection.ready[1]).is_err() {
            return self.lose_link(desk, slot, false);
        }
        self.arm(desk, slot);
        self.run(desk, slot);
    }

    /// The last edge, or one on the way, has said what becomes of it; `rest` came behind that. False: there is nothing
    /// to be read now.
    pub(in crate::tcp) fn on_kept_answer(
        &mut self,
        desk: &mut Desk,
        slot: usize,
        answer: Answer,
        rest: Vec<u8>,
    ) -> bool {
        let connection = &mut self.connections[slot];
        let user_timeout = connection.active.user_timeout();
        connection.origin_address = answer.origin.or(connection.origin_address);
        let Some(tunnel) = connection.tunnel.as_mut() else { return true };
        tunnel.expect_no_answer();
        let Some(kept) = tunnel.kept.as_mut() else { return true };
        let is_resuming = kept.phase == Phase::Joining;
        match answer.outcome {
            Outcome::Connected => {
                kept.early = rest;
                let was_answered = std::mem::replace(&mut kept.is_answered, true);
                if is_resuming {
                    self.links.overlay.iter().for_each(|overlay| Tally::count(&overlay.lasting.tally.resumed));
                }
                if !was_answered {
                    kept.note_rtt(desk.now_ms.saturating_sub(kept.begun_ms));
                    return self.answered(desk, slot, Cause::Opened);
                }
                if let Some(origin) = &connection.origin {
                    let _ = sys::set_user_timeout(origin.as_raw_fd(), user_timeout);
                }
                true
            }
            Outcome::NotKept => {
                self.go_unkept(desk, slot);
                false
            }
            // All that there is was heard, so it is only the word of that which was lost.
            Outcome::Gone if kept.has_given_all() => {
                self.close(desk, slot, Cause::Closed, Reset::None);
                false
            }
            Outcome::Gone => {
                self.lose_flow(desk, slot);
                false
            }
            outcome if is_resuming && (kept.is_answered || outcome == Outcome::PathBroken) => {
                self.lose_link(desk, slot, false);
                false
            }
            outcome => self.answered(desk, slot, overlay::cause(outcome)),
        }
    }

    /// It cannot go on.
    pub(super) fn lose_flow(&mut self, desk: &mut Desk, slot: usize) {
        self.links.overlay.iter().for_each(|overlay| Tally::count(&overlay.lasting.tally.lost));
        self.close(desk, slot, Cause::PathBroken, Reset::Both);
    }

    /// What is due of it, if anything.
    pub(in crate::tcp) fn on_kept_timer(&mut self, desk: &mut Desk, slot: usize) -> bool {
        let connection = &mut self.connections[slot];
        let is_near = connection.tunnel.as_ref().is_some_and(|tunnel| tunnel.course.rest.is_empty());
        let next = connection.tunnel.as_ref().and_then(|tunnel| tunnel.origin.as_ref()).and_then(Tls::peer);
        let Some(kept) = connection.kept().filter(|kept| kept.due_ms() <= desk.now_ms) else { return false };
        match kept.phase {
            Phase::Open if kept.is_unheard(desk.now_ms) => {
                kept.be_patient();
                next.filter(|_| is_near).into_iter().for_each(|name| self.doubt(desk, name));
                self.lose_link(desk, slot, true);
            }
            Phase::Open if kept.phase_due_ms <= desk.now_ms => self.close(desk, slot, Cause::Closed, Reset::None),
            Phase::Open => {
                self.run(desk, slot); // it asks
                let kept = self.connections[slot].kept();
                kept.filter(|kept| kept.due_ms() <= desk.now_ms)
                    .into_iter()
                    .for_each(|kept| kept.postpone(desk.now_ms));
            }
            _ if kept.lost_ms.saturating_add(KEEP_MS) <= desk.now_ms => self.lose_flow(desk, slot),
            Phase::Down if kept.is_first => {
                self.find_ways(slot, None);
                self.seek(desk, slot);
            }
            Phase::Down => self.arm(desk, slot),
            Phase::Linking => self.seek(desk, slot),
            Phase::Joining => self.lose_link(desk, slot, true),
        }
        true
    }

    /// Edges are known not to answer: flows that go there first find out now whether they still get through.
    pub(in crate::tcp) fn doubt_kept(&mut self, desk: &mut Desk, overlay: &Overlay) {
        if !overlay.lasting.steering.knows_of_any_down() {
            return;
        }
        let mut doubted = Vec::new();
        for (slot, connection) in &mut self.connections {
            let Some(tunnel) = connection.tunnel.as_mut().filter(|_| connection.state == State::Open) else { continue };
            let next = tunnel.origin.as_ref().and_then(Tls::peer);
            let is_down = next.is_some_and(|name| overlay.lasting.steering.is_down(&name));
            if let Some(kept) = tunnel.kept.as_mut().filter(|kept| is_down && kept.is_first && kept.due_ms() != NEVER) {
                kept.doubt(desk.now_ms);
                doubted.push(slot);
            }
        }
        doubted.into_iter().for_each(|slot| self.run(desk, slot));
    }
}
