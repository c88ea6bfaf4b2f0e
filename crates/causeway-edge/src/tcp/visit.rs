//! A Minecraft client before it is connected to anybody: what it wants, its status, its turn to join.

use std::io;
use std::os::fd::AsRawFd;

use causeway_wire::minecraft::{Greeting, Next, Question, greeting, question};

use super::connection::{NEVER, Reset, State};
use super::{TcpPlane, counters};
use crate::event::Cause;
use crate::minecraft::{HELD_MS, Look, Place, ask};
use crate::relay::BUFFER_BYTES;
use crate::sys;
use crate::worker::{Desk, Token};

/// For its first packet, and for each that it says while it asks for the status.
const SPEAK_MS: u64 = 5_000;
const STATUS_MS: u64 = 4_000;
/// How often those that wait look whether they still have to.
const LOOK_EVERY_MS: u64 = 50;
/// Of what it says while it waits; the rest stays with the kernel.
const MOST_EARLY: usize = 16 * 1024;
const BUSY: &str = "Many want to join right now. Please try again in a moment.";

#[derive(Debug)]
enum Stage {
    Greeting,
    /// It asks, and may ask again: for the status, then for an echo.
    Asking,
    AwaitsStatus,
    AwaitsTurn(Place),
    /// Everything is said.
    Leaving(Cause),
}

#[derive(Debug)]
pub struct Visit {
    stage: Stage,
    protocol: i32,
    until_ms: u64,
    look_ms: u64,
    /// Bytes for the client that it has not taken.
    outgoing: Vec<u8>,
    /// It will say no more.
    has_ended: bool,
}

impl Visit {
    pub fn new(now_ms: u64) -> Visit {
        let until_ms = now_ms + SPEAK_MS;
        Visit { stage: Stage::Greeting, protocol: -1, until_ms, look_ms: NEVER, outgoing: Vec::new(), has_ended: false }
    }

    pub fn due_ms(&self) -> u64 {
        self.until_ms.min(self.look_ms)
    }

    fn go(&mut self, stage: Stage, until_ms: u64, look_ms: u64) {
        (self.stage, self.until_ms, self.look_ms) = (stage, until_ms, look_ms);
    }
}

impl TcpPlane {
    /// Admitted, and known: towards the origin, or first to the gate.
    pub(super) fn go_in(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        if connection.active.gate.is_none() {
            return self.connect(desk, slot);
        }
        (connection.state, connection.since_ms) = (State::Visiting, desk.now_ms);
        connection.visit = Some(Box::new(Visit::new(desk.now_ms)));
        self.on_visit(desk, slot);
    }

    /// There may be something to read or to write.
    pub(super) fn on_visit(&mut self, desk: &mut Desk, slot: usize) {
        if let Err(cause) = self.listen_to(slot) {
            return self.close(desk, slot, cause, Reset::Both);
        }
        self.step(desk, slot);
    }

    fn listen_to(&mut self, slot: usize) -> Result<(), Cause> {
        let connection = &mut self.connections[slot];
        let Some(client) = &connection.client else { return Ok(()) };
        while connection.early.len() < MOST_EARLY {
            let buffer = &mut self.tools.scratch()[..BUFFER_BYTES / 4];
            match sys::recv(client.as_raw_fd(), buffer) {
                Ok(0) => {
                    connection.visit.iter_mut().for_each(|visit| visit.has_ended = true);
                    return Ok(());
                }
                Ok(count) => connection.early.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.ready[0].is_readable = false;
                    return Ok(());
                }
                Err(_) => return Err(Cause::ClientGone),
            }
        }
        Ok(())
    }

    /// As far as it goes with what has arrived.
    pub(super) fn step(&mut self, desk: &mut Desk, slot: usize) {
        loop {
            if let Err(cause) = self.say(desk, slot) {
                return self.close(desk, slot, cause, Reset::Both);
            }
            let connection = &mut self.connections[slot];
            let (active, client) = (connection.active.clone(), connection.endpoints().source.ip());
            let (Some(visit), Some(gate)) = (&mut connection.visit, &active.gate) else { return };
            if desk.now_ms >= visit.until_ms {
                return self.give_up(desk, slot);
            }
            let is_waiting = match &visit.stage {
                Stage::Leaving(cause) if visit.outgoing.is_empty() => {
                    let cause = *cause;
                    return self.close(desk, slot, cause, Reset::None);
                }
                Stage::Leaving(_) => true,
                Stage::Greeting => match greeting(&connection.early) {
                    Ok(Greeting::NeedMore) => true,
                    Err(_) => return self.close(desk, slot, Cause::GreetingInvalid, Reset::Both),
                    Ok(Greeting::Handshake { consumed, protocol, next: Next::Status })
                        if gate.spec.status_cache_ms > 0 =>
                    {
                        connection.early.drain(..consumed);
                        connection.up.bytes += consumed as u64;
                        visit.protocol = protocol;
                        visit.go(Stage::Asking, desk.now_ms + SPEAK_MS, NEVER);
                        false
                    }
                    Ok(Greeting::Handshake { next: Next::Status, .. }) => return self.pass(desk, slot),
                    Ok(Greeting::Handshake { .. } | Greeting::Legacy) => match gate.join(client, desk.now_ms) {
                        Ok(()) => return self.pass(desk, slot),
                        Err(Some(place)) => {
                            let (until_ms, look_ms) = (desk.now_ms + HELD_MS, desk.now_ms + LOOK_EVERY_MS);
                            visit.go(Stage::AwaitsTurn(place), until_ms, look_ms);
                            true
                        }
                        Err(None) => return self.turn_away(desk, slot),
                    },
                },
                Stage::Asking => match question(&connection.early) {
                    Ok(Question::NeedMore) => true,
                    Err(_) => return self.close(desk, slot, Cause::GreetingInvalid, Reset::Both),
                    Ok(Question::Status { consumed }) => {
                        connection.early.drain(..consumed);
                        connection.up.bytes += consumed as u64;
                        visit.go(Stage::AwaitsStatus, desk.now_ms + STATUS_MS, desk.now_ms);
                        false
                    }
                    Ok(Question::Ping { consumed, .. }) => {
                        let echo: Vec<u8> = connection.early.drain(..consumed).collect();
                        connection.up.bytes += consumed as u64;
                        visit.outgoing.extend(echo);
                        visit.go(Stage::Leaving(Cause::Answered), desk.now_ms + SPEAK_MS, NEVER);
                        gate.note_ping(client, desk.now_ms);
                        counters(&active, desk).answered_total.add(1);
                        false
                    }
                },
                Stage::AwaitsStatus => match gate.status(desk.now_ms) {
                    Look::Answer(packet) => {
                        visit.outgoing.extend_from_slice(&packet);
                        visit.go(Stage::Asking, desk.now_ms + SPEAK_MS, NEVER);
                        false
                    }
                    Look::Nothing => return self.close(desk, slot, Cause::ConnectFailed, Reset::Both),
                    look => {
                        visit.look_ms = desk.now_ms + LOOK_EVERY_MS;
                        let (protocol, edge) = (visit.protocol, connection.edge_address);
                        if look == Look::Ask {
                            ask::begin(active.clone(), gate.clone(), client, edge, protocol, desk.now_ms);
                        }
                        true
                    }
                },
                Stage::AwaitsTurn(place) if gate.is_turn_of(place, desk.now_ms) => return self.pass(desk, slot),
                Stage::AwaitsTurn(_) => {
                    visit.look_ms = desk.now_ms + LOOK_EVERY_MS;
                    true
                }
            };
            if is_waiting {
                if visit.has_ended && visit.outgoing.is_empty() && !matches!(visit.stage, Stage::AwaitsStatus) {
                    let has_heard = connection.down.bytes > 0;
                    let cause = if has_heard { Cause::Answered } else { Cause::ClientGone };
                    return self.close(desk, slot, cause, Reset::None);
                }
                return self.arm(desk, slot);
            }
        }
    }

    /// The origin hears all that the client has said.
    fn pass(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        connection.visit = None;
        connection.up.bytes += connection.early.len() as u64;
        self.connect(desk, slot);
    }

    fn give_up(&mut self, desk: &mut Desk, slot: usize) {
        let stage = self.connections[slot].visit.as_ref().map(|visit| &visit.stage);
        match stage {
            Some(Stage::AwaitsTurn(_)) => self.turn_away(desk, slot),
            // It has its status and does not want the echo; most do.
            Some(Stage::Asking) if self.connections[slot].down.bytes > 0 => {
                self.close(desk, slot, Cause::Answered, Reset::None);
            }
            Some(Stage::AwaitsStatus) => self.close(desk, slot, Cause::ConnectFailed, Reset::Both),
            _ => self.close(desk, slot, Cause::GreetingTimeout, Reset::Both),
        }
    }

    fn turn_away(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        if let Some(visit) = &mut connection.visit {
            visit.outgoing.extend(ask::refusal(BUSY));
            visit.go(Stage::Leaving(Cause::JoinLimit), desk.now_ms + SPEAK_MS, NEVER);
        }
        if self.say(desk, slot).is_err() || self.connections[slot].visit.as_ref().is_none_or(|v| v.outgoing.is_empty())
        {
            return self.close(desk, slot, Cause::JoinLimit, Reset::None);
        }
        self.arm(desk, slot);
    }

    /// Send what waits for the client, as far as it takes it now.
    fn say(&mut self, desk: &Desk, slot: usize) -> Result<(), Cause> {
        let connection = &mut self.connections[slot];
        let (Some(visit), Some(client)) = (&mut connection.visit, &connection.client) else { return Ok(()) };
        while !visit.outgoing.is_empty() {
            match sys::send(client.as_raw_fd(), &visit.outgoing) {
                Ok(count) => {
                    visit.outgoing.drain(..count);
                    connection.down.bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !connection.ready[0].watches_writable {
                        connection.ready[0].watches_writable = true;
                        let interest = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
                        let token = Token::Client.at(slot);
                        return desk
                            .epoll
                            .modify(client.as_raw_fd(), interest, token)
                            .map_err(|_| Cause::OutOfResources);
                    }
                    return Ok(());
                }
                Err(_) => return Err(Cause::ClientGone),
            }
        }
        Ok(())
    }
}
