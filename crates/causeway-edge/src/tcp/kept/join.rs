//! The last edge of a kept flow: takes it in, and later connections for it, whichever worker they come to.

use std::os::fd::AsRawFd;

use causeway_wire::frames::Word;
use causeway_wire::overlay::{Answer, Ask, Keep, MAX_ANSWER, Outcome};

use super::pump::say;
use super::pump::{Fault, Pumped, Sides};
use super::registry::Home;
use super::{KEEP_MS, Kept, NEVER, Phase};
use crate::event::Cause;
use crate::overlay::{Overlay, Tally};
use crate::relay::{Readiness, Side};
use crate::sys;
use crate::tcp::TcpPlane;
use crate::tcp::connection::{Connection, Reset, State};
use crate::tcp::links::Arrival;
use crate::tcp::tunnel::answer;
use crate::worker::{Desk, Token};

impl Connection {
    /// Move the bytes of a kept flow, and count them.
    pub fn pump_kept(&mut self, tools: &mut crate::relay::Tools, now_ms: u64) -> (Pumped, Result<(), Fault>) {
        let Some(tunnel) = self.tunnel.as_mut() else { return (Pumped::default(), Ok(())) };
        let awaits_answer = tunnel.answer.is_some();
        let Some(kept) = tunnel.kept.as_mut() else { return (Pumped::default(), Ok(())) };
        let [client_ready, origin_ready] = &mut self.ready;
        let raw = |fd: &Option<std::os::fd::OwnedFd>| fd.as_ref().map(AsRawFd::as_raw_fd);
        let (client, origin) = (raw(&self.client), raw(&self.origin));
        let sides = match kept.is_first {
            true => Sides {
                socket: client,
                socket_ready: client_ready,
                link: origin.zip(tunnel.origin.as_mut()),
                link_ready: origin_ready,
                awaits_answer,
            },
            false => Sides {
                socket: origin,
                socket_ready: origin_ready,
                link: client.zip(tunnel.client.as_mut()),
                link_ready: client_ready,
                awaits_answer,
            },
        };
        let (pumped, result) = kept.pump(sides, tools, now_ms);
        let (up, down) = match kept.is_first {
            true => (pumped.read_bytes, pumped.heard_bytes),
            false => (pumped.heard_bytes, pumped.read_bytes),
        };
        self.up.bytes += up;
        self.down.bytes += down;
        (pumped, result)
    }
}

impl TcpPlane {
    pub(in crate::tcp) fn run_kept(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        let (pumped, result) = connection.pump_kept(&mut self.tools, desk.now_ms);
        connection.count_bytes(desk);
        connection.note_first_byte();
        let moved = pumped.read_bytes + pumped.heard_bytes;
        if let Some(permit) = &connection.permit {
            permit.pay(moved, desk.now_ms);
        }
        if moved > 0 || pumped.has_given {
            connection.since_ms = desk.now_ms;
        }
        let Some(kept) = connection.kept() else { return };
        let is_first = kept.is_first;
        let has_shed = !kept.settle();
        if !is_first && kept.is_finished() && kept.phase_due_ms == NEVER {
            kept.phase_due_ms = desk.now_ms + KEEP_MS; // the first edge is to end it
        }
        if has_shed {
            self.links.overlay.iter().for_each(|overlay| Tally::count(&overlay.lasting.tally.unkept));
        }
        if let Err(fault) = result {
            return self.on_kept_fault(desk, slot, fault);
        }
        if pumped.is_over {
            self.part_from(desk, slot, None);
            return self.close(desk, slot, Cause::Closed, Reset::None);
        }
        if pumped.has_passed_end {
            connection.half_closed_ms = desk.now_ms;
        }
        if !is_first && pumped.has_given {
            connection.on_written();
        }
        let (from_socket, to_socket) = if is_first { (0, 1) } else { (1, 0) };
        for (direction, is_blocked, has_moved) in [
            (from_socket, pumped.is_window_full, pumped.read_bytes > 0),
            (to_socket, pumped.is_socket_blocked, pumped.has_given),
        ] {
            let blocked_ms = &mut connection.blocked_ms[direction];
            match (is_blocked, *blocked_ms == NEVER || has_moved) {
                (true, true) => *blocked_ms = desk.now_ms,
                (false, _) => *blocked_ms = NEVER,
                (true, false) => {}
            }
        }
        let waits_for_room = if is_first { pumped.is_socket_blocked } else { pumped.is_link_blocked };
        let blocked = crate::relay::Moved { is_blocked: waits_for_room, ..Default::default() };
        if connection.watch_writable(desk, slot, &blocked).is_err() {
            return self.close(desk, slot, Cause::OutOfResources, Reset::Both);
        }
        if pumped.is_unfinished {
            self.unfinished.push(slot);
        }
        self.arm(desk, slot);
    }

    fn on_kept_fault(&mut self, desk: &mut Desk, slot: usize, fault: Fault) {
        let is_first = self.connections[slot].kept().is_some_and(|kept| kept.is_first);
        match fault {
            Fault::Link(errno) => {
                // What it has said before may be why.
                let side = if is_first { Side::Origin } else { Side::Client };
                self.connections[slot].ready[usize::from(is_first)].is_readable = true;
                self.on_fault(desk, slot, side, errno.unwrap_or(libc::EPIPE));
            }
            Fault::Reset if is_first => self.close(desk, slot, Cause::OriginReset, Reset::Both),
            Fault::Reset => self.close(desk, slot, Cause::ClientReset, Reset::Both),
            Fault::Nonsense => self.close(desk, slot, Cause::PathBroken, Reset::Both),
            Fault::Socket(error) => {
                let side = if is_first { Side::Client } else { Side::Origin };
                self.on_fault(desk, slot, side, error.raw_os_error().unwrap_or(libc::EIO));
            }
        }
    }

    /// It is about to be reset: the other edge hears that on the connection that it has, behind all else.
    pub(in crate::tcp) fn tell_reset(&mut self, desk: &mut Desk, slot: usize) {
        let is_open = self.connections[slot].state == State::Open;
        let Some(kept) = self.connections[slot].kept() else { return };
        let may_speak = kept.phase == Phase::Open && (kept.is_first || is_open);
        if may_speak && !kept.has_heard_reset {
            self.part_from(desk, slot, Some(Word::Reset));
        }
    }

    /// It has a last word for the other edge, or none: the connection to it ends behind that.
    fn part_from(&mut self, desk: &mut Desk, slot: usize, last_word: Option<Word>) {
        let connection = &mut self.connections[slot];
        let Some(tunnel) = connection.tunnel.as_mut() else { return };
        let is_first = tunnel.kept.as_ref().is_some_and(|kept| kept.is_first);
        let (fd, tls) = match is_first {
            true => (connection.origin.take(), tunnel.origin.take()),
            false => (connection.client.take(), tunnel.client.take()),
        };
        let (Some(fd), Some(mut tls)) = (fd, tls) else { return };
        last_word.into_iter().for_each(|word| say(&mut tls, word));
        tls.end();
        let ready = connection.ready[usize::from(is_first)];
        self.let_part(desk, fd, tls, ready);
    }

    /// Another edge has a flow for an origin of this one's. None: it is one that is here already.
    pub(in crate::tcp) fn join_or_begin(
        &mut self,
        desk: &mut Desk,
        overlay: &Overlay,
        arrival: Arrival,
    ) -> Option<Arrival> {
        let Some(keep) = arrival.hop.keep.filter(|_| arrival.hop.path.is_empty()) else { return Some(arrival) };
        let registry = &overlay.lasting.registry;
        match (keep.ask, registry.find(&keep.secret)) {
            (Ask::Begin, None) => return Some(arrival),
            (Ask::ResumeOrBegin(age_ms), None) if registry.is_older_than(age_ms) && is_from_start(&keep) => {
                return Some(arrival);
            }
            // Late, and somebody else has begun it.
            (Ask::Begin, Some(_)) => sys::reset_on_close(arrival.fd.as_raw_fd()),
            (_, None) => say_gone(arrival),
            (_, Some(home)) if home.worker == desk.worker => self.join(desk, &home, arrival),
            (_, Some(home)) => {
                let _ = desk.epoll.remove(arrival.fd.as_raw_fd());
                registry.send(&home, arrival);
            }
        }
        None
    }

    /// Connections for flows of this worker that have come to others.
    pub fn take_joins(&mut self, desk: &mut Desk) {
        let Some(overlay) = self.links.overlay.clone() else { return };
        for arrival in overlay.lasting.registry.take(desk.worker) {
            let secret = arrival.hop.keep.map(|keep| keep.secret);
            match secret.and_then(|secret| overlay.lasting.registry.find(&secret)) {
                Some(home) if home.worker == desk.worker => self.join(desk, &home, arrival),
                _ => say_gone(arrival),
            }
        }
    }

    /// The flow goes on over this connection, and no longer over the one that it had.
    fn join(&mut self, desk: &mut Desk, home: &Home, arrival: Arrival) {
        let slot = home.slot;
        let is_its = |connection: &&mut Connection| {
            let is_alive = connection.generation == home.generation && connection.state != State::Closed;
            is_alive && connection.endpoints() == arrival.hop.endpoints
        };
        let Some(connection) = self.connections.get_mut(slot).filter(is_its) else { return say_gone(arrival) };
        let state = connection.state;
        let origin = connection.origin_address;
        let Some(tunnel) = connection.tunnel.as_mut() else { return say_gone(arrival) };
        let is_same = tunnel.application == arrival.hop.application;
        let Some((keep, kept)) = arrival
            .hop
            .keep
            .zip(tunnel.kept.as_mut())
            .filter(|(keep, kept)| is_same && keep.secret == kept.secret && !kept.is_first)
        else {
            return say_gone(arrival);
        };
        let offset = if let Ask::Resume(offset) = keep.ask { offset } else { 0 };
        let Arrival { fd, mut tls, ready, early, .. } = arrival;
        kept.lose(desk.now_ms);
        let has_come = keep.says_from.map_or(Ok(()), |from| kept.hear_from(from));
        let is_possible = has_come.and_then(|()| kept.go_on(offset, desk.now_ms)).is_ok();
        kept.early = early;
        kept.says_arrived = true;
        if state == State::Open && is_possible {
            tls.write(&answer(Cause::Opened, origin));
            say(&mut tls, Word::Arrived(kept.arrived()));
        }
        let raw = fd.as_raw_fd();
        tunnel.client = Some(tls);
        if let Some(before) = connection.client.replace(fd) {
            sys::reset_on_close(before.as_raw_fd());
        }
        connection.ready[0] = Readiness { is_readable: true, is_writable: true, watches_writable: true, ..ready };
        let interest = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
        let token = Token::Client.at(slot);
        let is_watched =
            desk.epoll.modify(raw, interest, token).or_else(|_| desk.epoll.add(raw, interest, token)).is_ok();
        if !is_watched {
            return self.close(desk, slot, Cause::OutOfResources, Reset::Both);
        }
        if !is_possible {
            return self.close(desk, slot, Cause::PathBroken, Reset::Both);
        }
        self.links.overlay.iter().for_each(|overlay| Tally::count(&overlay.lasting.tally.resumed));
        if state == State::Open {
            self.run(desk, slot);
        }
    }

    /// A flow begins here that may be resumed: where it is to be found. False: another worker has just begun it.
    pub(in crate::tcp) fn register_kept(&mut self, desk: &Desk, slot: usize) -> bool {
        let generation = self.connections[slot].generation;
        let home = || Home { worker: desk.worker, slot, generation, wake: desk.waker() };
        self.connections[slot].kept().is_none_or(|kept| kept.register(home()))
    }
}

/// Is what comes behind the header all that its client has said?
fn is_from_start(keep: &Keep) -> bool {
    keep.says_from.is_none_or(|from| from == 0)
}

/// There is no such flow here, or not any more.
fn say_gone(arrival: Arrival) {
    let Arrival { fd, mut tls, mut ready, .. } = arrival;
    let mut out = [0; MAX_ANSWER];
    let len = Answer { outcome: Outcome::Gone, origin: None }.encode(&mut out);
    tls.write(&out[..len]);
    tls.end();
    // A socket that has said nothing yet takes as much; if it has failed, nobody listens.
    if tls.flush(fd.as_raw_fd(), &mut ready).unwrap_or(false) {
        sys::shutdown_write(fd.as_raw_fd());
    }
}

impl Kept {
    /// How the last edge begins, as another edge has asked for it.
    pub fn asked(keep: Keep, early: Vec<u8>, overlay: &Overlay, now_ms: u64) -> Kept {
        let mut kept = Kept::new(keep.secret, None, overlay.lasting.registry.clone(), now_ms);
        (kept.early, kept.is_answered) = (early, true);
        kept.says_arrived = keep.ask != Ask::Begin;
        kept
    }
}
