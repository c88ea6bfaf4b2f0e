//! A worker: one thread, one loop, its own sockets. It waits for notices and hands them to TCP and UDP.
//!
//! Nothing here is shared with other workers but an inbox for changes, which is looked at when it rings.
//! A panic while a flow is served ends that flow only.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::application::Active;
use crate::clock::Clock;
use crate::detect::Detect;
use crate::event::{EventReader, Events, ring};
use crate::files::{Files, Ledger};
use crate::guard::Teller;
use crate::linger::Linger;
use crate::memory::Strain;
use crate::overlay::Overlay;
use crate::pulse::Pulse;
use crate::relay::Side;
use crate::routes::Routes;
use crate::snapshot::{OnDelete, Protocol};
use crate::sockets::Sockets;
use crate::sys::{self, Epoll, IN, Wake};
use crate::tcp::{self, TcpPlane};
use crate::timer::{Kind, Timers};
use crate::udp::{self, Adopted, Shown, UdpPlane};

const NOTICES: usize = 256;

/// A change waits for a worker at most so long, and not at all for one that was given up.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const GIVEN_UP_LOOK: Duration = Duration::from_millis(20);

/// Where a listener is: the identity by which snapshots are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub protocol: Protocol,
    pub address: SocketAddr,
}

impl Place {
    pub fn at_port(self, port: u16) -> Place {
        Place { address: SocketAddr::new(self.address.ip(), port), ..self }
    }
}

/// One change to what a worker does. A batch is taken in one turn of its loop.
#[derive(Debug)]
pub enum Step {
    /// Without an application: for dispatch, whose flows find theirs in the routes.
    Listen {
        place: Place,
        sockets: Sockets,
        active: Option<Arc<Active>>,
    },
    /// For other edges.
    ListenForEdges {
        place: Place,
        sockets: Sockets,
    },
    /// What this edge is to others from now on.
    Overlay(Option<Arc<Overlay>>),
    /// Whose flows of dispatch are from now on.
    Routes(Arc<Routes>),
    Replace {
        place: Place,
        active: Arc<Active>,
    },
    Unlisten {
        place: Place,
    },
    /// Connections of a deleted application (`None`: all) are cut now or after `drain_ms`.
    Retire {
        application: Option<u128>,
        policy: OnDelete,
        drain_ms: u64,
    },
    /// An application has new rules: what they block with `drop_established` ends.
    CutBlocked(Arc<Active>),
    /// From now on nothing is accepted here and UDP rests: datagrams wait in their sockets.
    Hold,
    /// Tell what UDP sessions there are. Only while held.
    ShowSessions(SyncSender<Shown>),
    /// Take over sessions of another process. Only while held.
    Adopt {
        sessions: Vec<Adopted>,
        flows: u64,
    },
    /// Go on after `Hold`.
    GoOn,
    /// Go on without listeners and without the sessions that were shown: another process has them.
    LetGo,
    /// Sessions that are silent for this long have ended.
    QuietAfter(u64),
    /// After all workers have retired their sessions: UDP ports that nobody needs any more close now.
    FreePorts,
    /// By whom the guard hears of two-way UDP sessions from now on, those that are there among them.
    Tell(Option<Arc<Teller>>),
    /// So many descriptors are for flows, those of all workers together.
    MostFiles(usize),
    /// Cut connections until about so many bytes are free.
    Shed(u64),
    /// Flows that the worker before this one has ended, one for each: it was given up and may not count any more.
    Settle(Vec<Arc<Active>>),
    /// Hang until the other end is gone.
    #[cfg(test)]
    Hang(Receiver<()>),
    /// Panic where the connection of the client with this port is served.
    #[cfg(test)]
    Poison(u16),
    Stop,
}

struct Batch {
    steps: Vec<Step>,
    done: SyncSender<Vec<(Place, io::Error)>>,
}

/// What a notice of the kernel is about, packed into epoll's 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Token {
    Wake = 0,
    TcpListener = 1,
    Client = 2,
    Origin = 3,
    UdpListener = 4,
    Session = 5,
    /// Of another edge, and no flow's yet.
    Link = 6,
    /// A connection to an origin that is only to be measured.
    Reach = 7,
    /// A socket of connections that carry datagrams between edges.
    Leg = 8,
}

impl Token {
    pub fn at(self, slot: usize) -> u64 {
        (self as u64) << 56 | slot as u64
    }
}

/// What a worker's flows share: the way to the kernel, to the timers and to the event ring.
#[derive(Debug)]
pub struct Desk {
    pub epoll: Epoll,
    pub timers: Timers,
    pub events: Events,
    /// Read once per turn of the loop.
    pub now_ms: u64,
    /// Index of this worker, which is also the index of its counters.
    pub worker: usize,
    /// Turn of the source addresses, where there are any.
    pub next_source: usize,
    /// Is there memory for new flows?
    pub strain: Arc<Strain>,
    /// Are there descriptors for them?
    pub files: Files,
    /// Who is banned?
    pub detect: Arc<Detect>,
    /// Between `Hold` and `GoOn`.
    pub is_held: bool,
    wake: Arc<Wake>,
    flows: u64,
}

impl Desk {
    /// Ids of flows are unique over all workers until the process ends.
    pub fn next_flow(&mut self) -> u64 {
        self.flows += 1;
        (self.worker as u64) << 48 | self.flows
    }

    /// For other workers that have something for this one.
    pub fn waker(&self) -> Arc<Wake> {
        self.wake.clone()
    }

    /// Written to by the resolver when a name that somebody waits for is answered.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

/// What every worker of an edge is made with.
#[derive(Clone, Debug)]
pub struct Terms {
    pub clock: Clock,
    pub event_capacity: usize,
    pub most_sessions: usize,
    pub may_gather: bool,
    pub strain: Arc<Strain>,
    pub ledger: Arc<Ledger>,
    pub detect: Arc<Detect>,
}

/// What a worker says to a batch: which listeners it could not take.
#[derive(Debug)]
pub struct Answer {
    result: Receiver<Vec<(Place, io::Error)>>,
    pulse: Arc<Pulse>,
}

impl Answer {
    /// Nothing of a worker that ends, is given up or does not answer in time.
    pub fn wait(self) -> Vec<(Place, io::Error)> {
        let begin = Instant::now();
        while !self.pulse.is_abandoned() && begin.elapsed() < ANSWERS_WITHIN {
            match self.result.recv_timeout(GIVEN_UP_LOOK) {
                Ok(refused) => return refused,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Vec::new()
    }
}

/// The handle that the rest of the engine has of a worker.
#[derive(Debug)]
pub struct Worker {
    inbox: Sender<Batch>,
    pub wake: Arc<Wake>,
    pub pulse: Arc<Pulse>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// `turn` counts the workers that had this `index` before.
    pub fn start(index: usize, turn: u64, terms: Terms) -> io::Result<(Worker, EventReader)> {
        let Terms { clock, event_capacity, most_sessions, may_gather, strain, ledger, detect } = terms;
        let wake = Arc::new(Wake::new()?);
        let epoll = Epoll::new()?;
        epoll.add(wake.as_raw_fd(), IN, Token::Wake.at(0))?;
        let (inbox, batches) = channel();
        let (events, reader) = ring(event_capacity);
        let pulse = Arc::new(Pulse::new(sys::duplicate(epoll.as_raw_fd())?));
        let desk = Desk {
            epoll,
            timers: Timers::default(),
            events: events.heard_by(detect.feed()),
            now_ms: clock.now_ms(),
            worker: index,
            next_source: index,
            strain,
            files: Files::new(ledger, index),
            detect,
            is_held: false,
            wake: wake.clone(),
            flows: turn << 40,
        };
        let state = Loop {
            desk,
            clock,
            batches,
            tcp: TcpPlane::new(may_gather),
            udp: UdpPlane::new(most_sessions)?,
            places: HashMap::new(),
            pulse: pulse.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("edge-worker-{index}")).spawn(move || state.serve())?;
        Ok((Worker { inbox, wake, pulse, thread: Some(thread) }, reader))
    }

    /// Hand over a batch; the answer says which listeners could not be taken. Does not wait.
    pub fn submit(&self, steps: Vec<Step>) -> Answer {
        let (done, result) = std::sync::mpsc::sync_channel(1);
        // A worker that has ended drops the batch, and the answer hears that as a disconnect.
        let _ = self.inbox.send(Batch { steps, done });
        self.wake.wake();
        Answer { result, pulse: self.pulse.clone() }
    }

    pub fn open_flows(&self) -> usize {
        self.pulse.open_flows.load(Ordering::Relaxed)
    }

    pub fn has_ended(&self) -> bool {
        self.pulse.has_ended()
    }

    /// Wait for its end; one that hangs is left to itself.
    pub fn join(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let begin = Instant::now();
        while !thread.is_finished() && begin.elapsed() < ANSWERS_WITHIN {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    desk: Desk,
    clock: Clock,
    batches: Receiver<Batch>,
    tcp: TcpPlane,
    udp: UdpPlane,
    places: HashMap<Place, usize>,
    pulse: Arc<Pulse>,
}

/// Why a loop has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    /// The place of this worker is another's, or will be: it has failed or hung.
    Lost,
}

impl Loop {
    fn serve(mut self) {
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
