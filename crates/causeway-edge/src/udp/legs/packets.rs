//! Packets of all connections of a worker: received, understood, made, sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use causeway_wire::overlay::Name;
use quinn_proto::{ConnectionError, DatagramEvent, EcnCodepoint, Event, Incoming};
use quinn_udp::RecvMeta;

use super::leg::Leg;
use super::outlet::Outlet;
use super::{Heard, LEAVES, LISTENING, Legs, MOST_LEGS};
use crate::overlay::quic;
use crate::timer::{Entry, Kind as TimerKind};
use crate::worker::Desk;

const TICK_MS: u64 = 1_000;
pub(super) const TICK_SLOT: u32 = u32::MAX;
/// A connection that no session needs, and none is expected to, is kept for so long.
const UNUSED_MS: u64 = 60_000;
/// Packets in one call to the kernel.
const MOST_TOGETHER: usize = 32;

impl Legs {
    /// Take what waits in a socket; answers how many packets that were.
    pub fn receive(&mut self, which: usize) -> usize {
        self.follow_identity();
        let Some(outlet) = self.sockets.get(which).and_then(Option::as_ref) else { return 0 };
        let mut area = std::mem::take(&mut self.area);
        let (now, mut count) = (Instant::now(), 0);
        for (meta, bytes) in area.receive(outlet) {
            for packet in bytes.chunks(meta.stride.max(1)) {
                self.take_packet(now, which, &meta, packet.into());
                count += 1;
            }
        }
        self.area = area;
        count
    }

    fn follow_identity(&mut self) {
        let current = self.overlay.as_ref().and_then(|overlay| overlay.lasting.identity.load_full());
        let is_same = match (&current, &self.identity) {
            (Some(current), Some(earlier)) => Arc::ptr_eq(current, earlier),
            (current, earlier) => current.is_none() == earlier.is_none(),
        };
        if let Some(endpoint) = self.endpoint.as_mut().filter(|_| !is_same) {
            endpoint.set_server_config(current.as_ref().map(|identity| identity.quic_server.clone()));
            self.identity = current;
        }
    }

    fn take_packet(&mut self, now: Instant, which: usize, meta: &RecvMeta, packet: BytesMut) {
        let Some(endpoint) = &mut self.endpoint else { return };
        self.packet.clear();
        let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        match endpoint.handle(now, meta.addr, meta.dst_ip, ecn, packet, &mut self.packet) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(leg) = self.legs.get_mut(&handle.0) {
                    leg.connection.handle_event(event);
                    self.touch(handle.0);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.admit(now, which, incoming),
            Some(DatagramEvent::Response(transmit)) => {
                self.sockets[which].iter().for_each(|outlet| outlet.send(&transmit, &self.packet));
            }
            None => {}
        }
    }

    /// Somebody wants to connect. Until it has shown that it hears what is sent to its address, nothing is kept of it.
    fn admit(&mut self, now: Instant, which: usize, incoming: Incoming) {
        let Some(endpoint) = &mut self.endpoint else { return };
        if which != LISTENING || self.is_closed_to_others || self.legs.len() >= MOST_LEGS {
            return endpoint.ignore(incoming);
        }
        self.packet.clear();
        let response = if incoming.remote_address_validated() {
            match endpoint.accept(incoming, now, &mut self.packet, None) {
                Ok((handle, connection)) => {
                    self.legs.insert(handle.0, Leg::new(connection, which, None, 0));
                    self.touch(handle.0);
                    None
                }
                Err(error) => error.response,
            }
        } else {
            endpoint.retry(incoming, &mut self.packet).ok()
        };
        if let (Some(transmit), Some(outlet)) = (response, &self.sockets[which]) {
            outlet.send(&transmit, &self.packet);
        }
    }

    pub(super) fn touch(&mut self, handle: usize) {
        if let Some(leg) = self.legs.get_mut(&handle)
            && !std::mem::replace(&mut leg.is_touched, true)
        {
            self.touched.push(handle);
        }
    }

    /// What has been heard since the last call.
    pub fn take_heard(&mut self) -> Vec<Heard> {
        for at in 0..self.touched.len() {
            self.look(self.touched[at]);
        }
        std::mem::take(&mut self.heard)
    }

    fn look(&mut self, handle: usize) {
        let Some(leg) = self.legs.get_mut(&handle) else { return };
        let mut must_close = false;
        while let Some(event) = leg.connection.poll() {
            match event {
                Event::Connected => {
                    let peer = quic::peer(&leg.connection);
                    let is_ours = |name: &Name| {
                        let is_peer = self.overlay.as_ref().is_some_and(|overlay| overlay.peer(name).is_some());
                        is_peer && leg.towards.is_none_or(|wanted| wanted == *name)
                    };
                    leg.is_open = peer.as_ref().is_some_and(is_ours);
                    leg.proven = peer;
                    must_close |= !leg.is_open;
                    if leg.is_open {
                        if let Some(name) = leg.towards {
                            self.doubts.remove(&name);
                        }
                        self.heard.push(Heard::Open(handle));
                    }
                }
                Event::ConnectionLost { reason } => {
                    leg.has_left =
                        matches!(reason, ConnectionError::ApplicationClosed(said) if said.error_code == LEAVES.into());
                    self.heard.push(Heard::Lost(handle));
                }
                Event::DatagramReceived => {
                    while let Some(bytes) = leg.connection.datagrams().recv() {
                        self.heard.push(Heard::Datagram(handle, bytes));
                    }
                }
                Event::Stream(event) => {
                    leg.on_stream(event, |message| self.heard.push(Heard::Datagram(handle, message)));
                }
                Event::HandshakeDataReady | Event::DatagramsUnblocked => {}
            }
        }
        if must_close {
            self.close(handle); // what it is not is counted with the loss
        }
    }

    /// Is there something that has to leave, or to be looked at?
    pub fn is_touched(&self) -> bool {
        !self.touched.is_empty() || !self.heard.is_empty()
    }

    /// Let leave what there is, and say when to look again.
    pub fn flush(&mut self, desk: &mut Desk) {
        let now = Instant::now();
        for handle in std::mem::take(&mut self.touched) {
            let (Some(leg), Some(endpoint)) = (self.legs.get_mut(&handle), &mut self.endpoint) else { continue };
            leg.is_touched = false;
            leg.talk_with(endpoint, handle);
            leg.send_ends();
            let outlet = self.sockets[leg.which].as_ref();
            let together = outlet.map_or(1, Outlet::most_together).min(MOST_TOGETHER);
            loop {
                self.packet.clear();
                let Some(transmit) = leg.connection.poll_transmit(now, together, &mut self.packet) else { break };
                outlet.iter().for_each(|outlet| outlet.send(&transmit, &self.packet));
            }
            leg.talk_with(endpoint, handle);
            if leg.connection.is_drained() {
                self.legs.remove(&handle);
            } else if let Some(due) = leg.connection.poll_timeout() {
                let due_ms = desk.now_ms + ms_until(due, now);
                if due_ms < leg.armed_ms {
                    leg.armed_ms = due_ms;
                    let entry = Entry { kind: TimerKind::Leg, slot: handle as u32, generation: 0 };
                    desk.timers.at(due_ms, entry);
                }
            }
        }
    }

    pub fn on_timer(&mut self, desk: &mut Desk, slot: u32) {
        if slot == TICK_SLOT {
            return self.tick(desk);
        }
        // It may be for one that was here before: then this one has nothing to do yet.
        let Some(leg) = self.legs.get_mut(&(slot as usize)) else { return };
        if leg.armed_ms <= desk.now_ms {
            leg.armed_ms = u64::MAX;
        }
        let now = Instant::now();
        if leg.connection.poll_timeout().is_some_and(|due| due <= now) {
            leg.connection.handle_timeout(now);
        }
        self.touch(slot as usize);
    }

    /// Once a second: is there a connection wherever sessions will want one?
    fn tick(&mut self, desk: &mut Desk) {
        let Some(overlay) = self.overlay.clone() else {
            self.is_ticking = false;
            return;
        };
        for name in &overlay.next_for_datagrams {
            let again_ms = self.doubts.get(name).map_or(0, |doubt| doubt.again_ms);
            if !self.towards.contains_key(name) && desk.now_ms >= again_ms {
                self.connect(desk, *name);
            }
        }
        let is_unused = |handle: usize, leg: &Leg| {
            let leads_to = self.leads_to(handle);
            let is_expected = leads_to.is_some_and(|name| overlay.next_for_datagrams.contains(&name));
            leg.towards.is_some()
                && !is_expected
                && leg.flows.is_empty()
                && leg.is_open
                && desk.now_ms >= leg.used_ms + UNUSED_MS
        };
        let unused: Vec<(usize, Option<Name>)> =
            self.legs.iter().filter(|(h, leg)| is_unused(**h, leg)).map(|(h, _)| (*h, self.leads_to(*h))).collect();
        for (handle, name) in unused {
            if let Some(name) = name {
                self.towards.remove(&name); // it has not failed
            }
            self.close(handle);
        }
        desk.timers.at(desk.now_ms + TICK_MS, Entry { kind: TimerKind::Leg, slot: TICK_SLOT, generation: 0 });
    }
}

fn ms_until(due: Instant, now: Instant) -> u64 {
    let left = due.saturating_duration_since(now);
    (left + Duration::from_micros(999)).as_millis() as u64
}
