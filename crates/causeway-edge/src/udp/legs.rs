//! QUIC connections of one worker to other edges and from them: packets in, datagrams of sessions out, and back.
//!
//! A worker has one connection towards each edge that sessions go to first, from a socket of its own, and those that the
//! kernel gave it of what came to the port of the overlay. Nothing is shared with other workers. Sessions are known here
//! by the numbers that they have on a connection. What is sent in one turn leaves at its end.

mod leg;
mod outlet;
mod packets;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use causeway_wire::overlay::Name;
use quinn_proto::{Endpoint, EndpointConfig};

use crate::overlay::identity::Identity;
use crate::overlay::{Overlay, Tally};
use crate::sockets::Sockets;
use crate::timer::{Entry, Kind as TimerKind};
use crate::worker::{Desk, Token};
use leg::Leg;
use outlet::{Area, Outlet};
use packets::TICK_SLOT;

/// After a failure, before the next try.
const AGAIN_MS: u64 = 1_000;
/// Of one worker, with those that it has opened; beyond, it takes none of others. Who they are shows later.
const MOST_LEGS: usize = 4_096;

/// What an edge says that closes a connection: it is not refused.
const LEAVES: u32 = 1;
const NO_REASON: u32 = 0;

/// Where the port of the overlay is among the sockets; the others are of connections that this edge opens.
const LISTENING: usize = 0;

/// Which connection, and which session on it.
pub type Place = (usize, u64);

#[derive(Debug)]
pub enum Heard {
    /// The edge at the other end has proven who it is.
    Open(usize),
    Datagram(usize, Bytes),
    Lost(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Ready(usize),
    Later,
    Never,
}

#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    again_ms: u64,
    /// The last one has failed, and none has come about since.
    is_doubtful: bool,
}

#[derive(Default)]
pub struct Legs {
    pub overlay: Option<Arc<Overlay>>,
    endpoint: Option<Endpoint>,
    /// As what connections of others are accepted.
    identity: Option<Arc<Identity>>,
    sockets: [Option<Outlet>; 3],
    legs: HashMap<usize, Leg>,
    towards: HashMap<Name, usize>,
    doubts: HashMap<Name, Doubt>,
    touched: Vec<usize>,
    heard: Vec<Heard>,
    /// No more from others: this edge ends, or its port is another's.
    is_closed_to_others: bool,
    is_ticking: bool,
    area: Area,
    packet: Vec<u8>,
}

impl fmt::Debug for Legs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Legs").field("legs", &self.legs.len()).finish_non_exhaustive()
    }
}

impl Legs {
    // ---- what this edge is, and where ----

    /// Be this to other edges from now on; who is none of them any more is lost.
    pub fn set_overlay(&mut self, desk: &mut Desk, overlay: Option<Arc<Overlay>>) {
        let knows = |name: &Name| overlay.as_ref().is_some_and(|overlay| overlay.peer(name).is_some());
        let strangers: Vec<usize> =
            self.legs.iter().filter(|(_, leg)| leg.peer().is_some_and(|name| !knows(&name))).map(|(h, _)| *h).collect();
        strangers.into_iter().for_each(|handle| self.close(handle));
        // One that leads to where an edge was keeps the sessions that it has.
        let legs = &self.legs;
        self.towards.retain(|name, handle| {
            let is_at = |leg: &Leg| overlay.as_ref().and_then(|overlay| overlay.peer(name)) == Some(leg.address());
            legs.get(handle).is_some_and(is_at)
        });
        self.overlay = overlay;
        if self.overlay.is_some() {
            self.endpoint.get_or_insert_with(|| Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None));
            if !std::mem::replace(&mut self.is_ticking, true) {
                let entry = Entry { kind: TimerKind::Leg, slot: TICK_SLOT, generation: 0 };
                desk.timers.at(desk.now_ms, entry);
            }
        } else if self.is_closed_to_others {
            self.free_port(desk);
        }
    }

    /// Other edges come in there.
    pub fn listen(&mut self, desk: &mut Desk, sockets: Sockets) -> io::Result<()> {
        self.free_port(desk);
        let outlet = Outlet::shared(sockets, desk.worker)?;
        self.is_closed_to_others = false;
        if !desk.is_held {
            desk.epoll.add(outlet.raw(), crate::sys::IN, Token::Leg.at(LISTENING))?;
        }
        self.sockets[LISTENING] = Some(outlet);
        Ok(())
    }

    /// After it was held: read there, if nobody does yet.
    pub fn go_on(&mut self, desk: &mut Desk) {
        if let Some(outlet) = &self.sockets[LISTENING] {
            let _ = desk.epoll.add(outlet.raw(), crate::sys::IN, Token::Leg.at(LISTENING)); // or it is there already
        }
    }

    /// No new connections; those that are there go on.
    pub fn unlisten(&mut self, desk: &mut Desk) {
        self.is_closed_to_others = true;
        if self.overlay.is_none() {
            self.free_port(desk);
        }
    }

    fn free_port(&mut self, desk: &mut Desk) {
        if let Some(outlet) = self.sockets[LISTENING].take() {
            // Other workers may keep the socket open, so that closing does not take it out of the interest list.
            let _ = desk.epoll.remove(outlet.raw());
        }
    }

    /// Say to all others that this is the end, and give the port away.
    pub fn leave(&mut self, desk: &mut Desk) {
        let all: Vec<usize> = self.legs.keys().copied().collect();
        all.into_iter().for_each(|handle| self.close_with(handle, LEAVES));
        self.flush(desk);
        self.overlay = None;
        self.is_closed_to_others = true;
        self.free_port(desk);
    }

    /// An error of ours while it was served: begin anew. Answers the sessions that were on connections.
    pub fn begin_anew(&mut self) -> Vec<usize> {
        let sessions = self.legs.values().flat_map(|leg| leg.flows.values().copied()).collect();
        (self.legs, self.towards, self.doubts) = Default::default();
        (self.touched, self.heard, self.identity) = Default::default();
        self.endpoint = Some(Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None));
        sessions
    }

    // ---- connections ----

    /// A connection to the edge `name`. `has_others`: whoever asks can go elsewhere, and need not wait for an edge that
    /// may not be there.
    pub fn towards(&mut self, desk: &mut Desk, name: Name, has_others: bool) -> Taken {
        let doubt = self.doubts.get(&name).copied().unwrap_or_default();
        match self.towards.get(&name).copied() {
            Some(handle) => {
                let Some(leg) = self.legs.get_mut(&handle) else { return Taken::Never };
                leg.used_ms = desk.now_ms;
                if leg.is_open {
                    return Taken::Ready(handle);
                }
            }
            None if desk.now_ms < doubt.again_ms || !self.connect(desk, name) => return Taken::Never,
            None => {}
        }
        if doubt.is_doubtful && has_others { Taken::Never } else { Taken::Later }
    }

    /// It does not answer, as far as somebody has waited.
    pub fn doubt(&mut self, name: Name) {
        self.doubts.entry(name).or_default().is_doubtful = true;
    }

    fn connect(&mut self, desk: &mut Desk, name: Name) -> bool {
        let Some(overlay) = self.overlay.clone() else { return false };
        let (Some(address), Some(identity)) = (overlay.peer(&name), overlay.lasting.identity.load_full()) else {
            return false;
        };
        let which = if address.is_ipv4() { LISTENING + 1 } else { LISTENING + 2 };
        if self.sockets[which].is_none() {
            self.sockets[which] = Outlet::new(desk, address.is_ipv4(), Token::Leg.at(which)).ok();
        }
        let endpoint = self.endpoint.as_mut().filter(|_| self.sockets[which].is_some());
        let made = endpoint.and_then(|endpoint| {
            endpoint.connect(Instant::now(), identity.quic_client.clone(), address, name.as_str()).ok()
        });
        let Some((handle, connection)) = made else {
            self.fail(desk.now_ms, name);
            return false;
        };
        self.legs.insert(handle.0, Leg::new(connection, which, Some(name), desk.now_ms));
        self.towards.insert(name, handle.0);
        self.touch(handle.0);
        true
    }

    fn fail(&mut self, now_ms: u64, name: Name) {
        self.overlay.iter().for_each(|overlay| Tally::count(&overlay.lasting.tally.failed));
        self.doubts.insert(name, Doubt { again_ms: now_ms + AGAIN_MS, is_doubtful: true });
    }

    /// Close it, and tell the other edge.
    pub fn close(&mut self, handle: usize) {
        self.close_with(handle, NO_REASON);
    }

    fn close_with(&mut self, handle: usize, reason: u32) {
        let Some(leg) = self.legs.get_mut(&handle) else { return };
        leg.connection.close(Instant::now(), reason.into(), Bytes::new());
        self.heard.push(Heard::Lost(handle));
        self.touch(handle);
    }

    /// It said what no edge says. That it is refused is counted with the loss.
    pub fn refuse(&mut self, handle: usize) {
        self.legs.get_mut(&handle).into_iter().for_each(|leg| leg.is_open = false);
        self.close(handle);
    }

    /// Has the other edge closed it because it goes, so that another process is it now, or soon nobody?
    pub fn has_left(&self, handle: usize) -> bool {
        self.legs.get(&handle).is_some_and(|leg| leg.has_left)
    }

    /// A connection is gone: the sessions that were on it.
    pub fn lose(&mut self, handle: usize, now_ms: u64) -> Vec<usize> {
        let Some(leg) = self.legs.get_mut(&handle) else { return Vec::new() };
        let (was_open, has_left, towards) = (std::mem::replace(&mut leg.is_open, false), leg.has_left, leg.towards);
        let sessions = std::mem::take(&mut leg.flows).into_values().collect();
        match towards.filter(|name| self.towards.get(name) == Some(&handle)) {
            Some(name) => {
                self.towards.remove(&name);
                if !has_left {
                    self.fail(now_ms, name);
                }
            }
            None if !was_open && towards.is_none() => {
                self.overlay.iter().for_each(|overlay| Tally::count(&overlay.lasting.tally.refused));
            }
            None => {}
        }
        sessions
    }

    /// The edge that new sessions go to by this connection.
    pub fn leads_to(&self, handle: usize) -> Option<Name> {
        let name = self.legs.get(&handle)?.towards?;
        (self.towards.get(&name) == Some(&handle)).then_some(name)
    }

    /// Has this edge opened it, or the other one? None: nothing is heard there now.
    pub fn is_ours(&self, handle: usize) -> Option<bool> {
        self.legs.get(&handle).filter(|leg| leg.is_open).map(|leg| leg.towards.is_some())
    }

    // ---- sessions on them ----

    /// The number of a new session, which is in `slot` here.
    pub fn begin(&mut self, handle: usize, slot: usize) -> Option<Place> {
        let leg = self.legs.get_mut(&handle)?;
        leg.next_flow += 1;
        leg.flows.insert(leg.next_flow, slot);
        Some((handle, leg.next_flow))
    }

    /// Another edge has given it this number.
    pub fn adopt(&mut self, (handle, flow): Place, slot: usize) {
        if let Some(leg) = self.legs.get_mut(&handle) {
            leg.flows.insert(flow, slot);
        }
    }

    pub fn session(&self, (handle, flow): Place) -> Option<usize> {
        self.legs.get(&handle)?.flows.get(&flow).copied()
    }

    pub fn forget(&mut self, (handle, flow): Place) {
        if let Some(leg) = self.legs.get_mut(&handle) {
            leg.flows.remove(&flow);
        }
    }

    /// Send one message, by a packet or, where it is too large for that, by a stream. False: it is dropped.
    pub fn send(&mut self, handle: usize, message: Vec<u8>) -> bool {
        let Some(leg) = self.legs.get_mut(&handle).filter(|leg| leg.is_open) else { return false };
        let is_sent = match leg.connection.datagrams().max_size() {
            Some(most) if message.len() <= most => leg.connection.datagrams().send(message.into(), false).is_ok(),
            _ => {
                self.overlay.iter().for_each(|overlay| Tally::count(&overlay.lasting.tally.large));
                leg.send_alone(message.into())
            }
        };
        self.touch(handle);
        is_sent
    }

    /// Say that a session that this edge has opened is over. The other edge hears it in any case.
    pub fn end(&mut self, (handle, flow): Place) {
        self.forget((handle, flow));
        if let Some(leg) = self.legs.get_mut(&handle).filter(|leg| leg.is_open) {
            leg.unsent_ends.push(flow);
            self.touch(handle);
        }
    }
}
