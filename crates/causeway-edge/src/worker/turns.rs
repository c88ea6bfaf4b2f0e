//! What a worker does turn by turn: wait, serve what is ready, take changes, run timers.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use super::{Batch, Desk, Place, Step, Token};
use crate::clock::Clock;
use crate::linger::Linger;
use crate::pulse::Pulse;
use crate::relay::Side;
use crate::snapshot::Protocol;
use crate::tcp::{self, TcpPlane};
use crate::timer::Kind;
use crate::udp::{self, UdpPlane};

/// Taken at a time.
const NOTICES: usize = 256;

pub struct Loop {
    pub desk: Desk,
    pub clock: Clock,
    pub batches: Receiver<Batch>,
    pub tcp: TcpPlane,
    pub udp: UdpPlane,
    pub places: HashMap<Place, usize>,
    pub pulse: Arc<Pulse>,
}

/// Why a loop has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    /// The place of this worker is another's, or will be: it has failed or hung.
    Lost,
}

impl Loop {
    pub fn serve(mut self) {
        self.pulse.begin();
        let end = catch_unwind(AssertUnwindSafe(|| self.run())).unwrap_or(End::Lost);
        let pulse = self.pulse.clone();
        let mut left = Vec::new();
        if end == End::Lost {
            let leave = AssertUnwindSafe(|| {
                left.extend(self.tcp.leave(&mut self.desk));
                left.extend(self.udp.leave(&mut self.desk));
            });
            let _ = catch_unwind(leave); // what it did not come to is closed below
        }
        drop(self);
        pulse.end(left);
    }

    fn run(&mut self) -> End {
        self.tcp.begin();
        let linger = Linger::default();
        let mut notices = vec![libc::epoll_event { events: 0, u64: 0 }; NOTICES];
        loop {
            // By the clock of the last turn: a timer is late by what that took, and each turn asks once what time it is.
            let sleep_ms = if self.tcp.has_unfinished() { 0 } else { self.desk.timers.sleep_ms(self.desk.now_ms) };
            // EBADF or EINVAL would be an error of ours; going on would spin.
            let Ok(n) = self.desk.epoll.wait(&mut notices, sleep_ms) else { return End::Lost };
            self.desk.now_ms = self.clock.now_ms();
            for notice in &notices[..n] {
                if !self.pulse.beat() {
                    return End::Lost;
                }
                let (token, events) = (notice.u64, notice.events);
                if token >> 56 == Token::Wake as u64 {
                    if self.on_wake() {
                        self.tell();
                        return End::Stopped;
                    }
                } else {
                    self.contain(token, |it| it.dispatch(token, events));
                }
                if self.tcp.has_gathered_enough() {
                    self.tell();
                }
                if self.must_stop_early() {
                    return End::Stopped;
                }
            }
            for slot in self.tcp.take_unfinished() {
                if !self.pulse.beat() {
                    return End::Lost;
                }
                self.contain(Token::Client.at(slot), |it| it.tcp.on_turn(&mut it.desk, slot));
                if self.must_stop_early() {
                    return End::Stopped;
                }
            }
            if !self.pulse.beat() {
                return End::Lost;
            }
            self.run_timers();
            self.contain(Token::Leg.at(0), |it| it.udp.settle_legs(&mut it.desk));
            self.tell();
            self.tcp.free_closed();
            self.udp.free_closed();
            self.pulse.open_flows.store(self.tcp.open() + self.udp.open(), Ordering::Relaxed);
            let has_streamed = self.tcp.take_streamed();
            let pieces = n.max(self.udp.take_received());
            if !has_streamed && !self.tcp.has_unfinished() {
                linger.after(pieces);
            }
        }
    }

    /// While memory is short, orders to cut do not wait until everybody has had a turn: each turn may fill a buffer, and
    /// those of a thousand connections are more than is left. True: told to stop.
    fn must_stop_early(&mut self) -> bool {
        let must_stop = self.desk.strain.is_full() && self.on_wake();
        if must_stop {
            self.tell();
        }
        must_stop
    }

    /// Let what the relays have gathered leave, and go on with those for which that was not the end.
    fn tell(&mut self) {
        while self.tcp.has_gathered() {
            let sent = self.tcp.tell();
            for fate in &sent {
                let slot = (fate.token & u64::from(u32::MAX)) as usize;
                let side = if fate.token >> 56 == Token::Client as u64 { Side::Client } else { Side::Origin };
                self.contain(fate.token, |it| it.tcp.on_sent(&mut it.desk, slot, side, fate.result));
            }
            self.tcp.told(sent);
        }
    }

    /// A panic in here is an error of ours and ends the flow it happened for, no other.
    fn contain(&mut self, token: u64, work: impl FnOnce(&mut Loop)) {
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            self.abandon(token);
        }
    }

    fn dispatch(&mut self, token: u64, events: u32) {
        let slot = (token & u64::from(u32::MAX)) as usize;
        let desk = &mut self.desk;
        match token >> 56 {
            t if t == Token::Client as u64 => self.tcp.on_client(desk, slot, events),
            t if t == Token::Origin as u64 => self.tcp.on_origin(desk, slot, events),
            t if t == Token::TcpListener as u64 => self.tcp.on_listener(desk, slot),
            t if t == Token::UdpListener as u64 => self.udp.on_listener(desk, slot),
            t if t == Token::Session as u64 => self.udp.on_session(desk, slot, events),
            t if t == Token::Link as u64 => self.tcp.on_link(desk, slot, events),
            t if t == Token::Reach as u64 => self.tcp.on_reach(desk, slot),
            t if t == Token::Leg as u64 => self.udp.on_leg(desk, slot),
            _ => {}
        }
    }

    fn abandon(&mut self, token: u64) {
        let slot = (token & u64::from(u32::MAX)) as usize;
        match token >> 56 {
            t if t == Token::Client as u64 || t == Token::Origin as u64 => self.tcp.abandon(&mut self.desk, slot),
            t if t == Token::Session as u64 => self.udp.abandon(&mut self.desk, slot),
            t if t == Token::Link as u64 => self.tcp.abandon_link(&mut self.desk, slot),
            t if t == Token::Leg as u64 => self.udp.abandon_legs(&mut self.desk),
            _ => {}
        }
    }

    fn run_timers(&mut self) {
        while let Some(entries) = self.desk.timers.pop_due(self.desk.now_ms) {
            self.pulse.beat();
            for entry in entries {
                let (slot, generation) = (entry.slot as usize, entry.generation);
                match entry.kind {
                    Kind::Relay => {
                        self.contain(Token::Client.at(slot), |it| it.tcp.on_timer(&mut it.desk, slot, generation))
                    }
                    Kind::Session => {
                        self.contain(Token::Session.at(slot), |it| it.udp.on_timer(&mut it.desk, slot, generation))
                    }
                    Kind::Port => self.udp.on_port_timer(&mut self.desk, slot),
                    Kind::Link => self
                        .contain(Token::Link.at(slot), |it| it.tcp.on_link_timer(&mut it.desk, entry.slot, generation)),
                    Kind::Leg => self.contain(Token::Leg.at(0), |it| it.udp.on_leg_timer(&mut it.desk, entry.slot)),
                }
            }
        }
    }

    /// True if the worker is to stop.
    fn on_wake(&mut self) -> bool {
        self.desk.wake.clear();
        while let Ok(batch) = self.batches.try_recv() {
            let mut refused = Vec::new();
            for step in batch.steps {
                self.pulse.beat();
                if matches!(step, Step::Stop) {
                    self.udp.leave_legs(&mut self.desk);
                    let _ = batch.done.send(refused);
                    return true;
                }
                if let Err(failure) = self.take(step) {
                    refused.push(failure);
                }
            }
            let _ = batch.done.send(refused);
        }
        self.tcp.take_joins(&mut self.desk);
        self.tcp.on_names(&mut self.desk);
        self.udp.on_names(&mut self.desk);
        false
    }

    fn take(&mut self, step: Step) -> Result<(), (Place, io::Error)> {
        let desk = &mut self.desk;
        match step {
            Step::Listen { place, sockets, active } => {
                let address = place.address;
                let slot = match place.protocol {
                    Protocol::Tcp => {
                        self.tcp.listen(desk, tcp::Listener { sockets, address, active, is_overlay: false })
                    }
                    Protocol::Udp => self.udp.listen(desk, udp::Listener { sockets, address, active }),
                };
                self.places.insert(place, slot.map_err(|error| (place, error))?);
            }
            Step::ListenForEdges { place, sockets } => {
                let address = place.address;
                let slot = match place.protocol {
                    Protocol::Tcp => {
                        self.tcp.listen(desk, tcp::Listener { sockets, address, active: None, is_overlay: true })
                    }
                    Protocol::Udp => self.udp.listen_for_edges(desk, sockets).map(|()| udp::EDGES),
                };
                self.places.insert(place, slot.map_err(|error| (place, error))?);
            }
            Step::Overlay(overlay) => {
                self.tcp.set_overlay(desk, overlay.clone());
                self.udp.set_overlay(desk, overlay);
            }
            Step::Routes(routes) => {
                self.tcp.routes = routes.clone();
                self.udp.routes = routes;
            }
            Step::Replace { place, active } => {
                if let Some(slot) = self.places.get(&place) {
                    match place.protocol {
                        Protocol::Tcp => self.tcp.replace(*slot, active),
                        Protocol::Udp => self.udp.replace(*slot, active),
                    }
                }
            }
            Step::Unlisten { place } => {
                if let Some(slot) = self.places.remove(&place) {
                    match place.protocol {
                        Protocol::Tcp => self.tcp.unlisten(desk, slot),
                        Protocol::Udp => self.udp.unlisten(desk, slot),
                    }
                }
            }
            Step::Retire { application, policy, drain_ms } => {
                let cut_ms = desk.now_ms.saturating_add(drain_ms);
                self.tcp.retire(desk, application, policy, cut_ms);
                self.udp.retire(desk, application, policy, cut_ms);
            }
            Step::CutBlocked(active) => {
                self.tcp.cut_blocked(desk, &active);
                self.udp.cut_blocked(desk, &active);
            }
            Step::Hold => {
                desk.is_held = true;
                self.udp.hold_still(desk);
            }
            Step::ShowSessions(answer) => {
                let _ = answer.send(self.udp.show(desk.worker, desk.flows)); // nobody waits any more: then it is resumed
            }
            Step::Adopt { sessions, flows } => {
                desk.flows = desk.flows.max(flows);
                self.udp.adopt(desk, sessions);
            }
            Step::GoOn => {
                desk.is_held = false;
                self.tcp.go_on(desk);
                self.udp.go_on(desk);
            }
            Step::LetGo => {
                desk.is_held = false;
                self.places
                    .drain()
                    .filter(|(place, _)| place.protocol == Protocol::Tcp)
                    .for_each(|(_, slot)| self.tcp.unlisten(desk, slot));
                self.udp.let_go(desk);
            }
            Step::QuietAfter(quiet_ms) => self.udp.end_when_quiet(desk, quiet_ms),
            Step::FreePorts => self.udp.free_ports(desk),
            Step::Tell(teller) => self.udp.tell_by(teller),
            Step::MostFiles(most) => desk.files.most = most,
            Step::Shed(bytes) => self.tcp.shed(desk, bytes),
            Step::Settle(ended) => {
                ended.iter().for_each(|active| active.counters[desk.worker].connections_open.sub(1));
            }
            #[cfg(test)]
            Step::Poison(port) => self.tcp.poisoned = Some(port),
            #[cfg(test)]
            Step::Hang(until) => drop(until.recv()),
            Step::Stop => {}
        }
        Ok(())
    }
}
