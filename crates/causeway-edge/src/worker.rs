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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel};
use std::thread::JoinHandle;

use crate::application::Active;
use crate::clock::Clock;
use crate::event::{EventReader, Events, ring};
use crate::snapshot::{OnDelete, Protocol};
use crate::sockets::Sockets;
use crate::sys::{Epoll, IN, Wake};
use crate::tcp::{self, TcpPlane};
use crate::timer::{Kind, Timers};
use crate::udp::{self, UdpPlane};

const NOTICES: usize = 256;

/// Where a listener is: the identity by which snapshots are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub protocol: Protocol,
    pub address: SocketAddr,
}

/// One change to what a worker does. A batch is taken in one turn of its loop.
#[derive(Debug)]
pub enum Step {
    Listen {
        place: Place,
        sockets: Sockets,
        active: Arc<Active>,
    },
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
    /// After all workers have retired their sessions: UDP ports that nobody needs any more close now.
    FreePorts,
    MostFlows(usize),
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
    wake: Arc<Wake>,
    flows: u64,
}

impl Desk {
    /// Ids of flows are unique over all workers until the process ends.
    pub fn next_flow(&mut self) -> u64 {
        self.flows += 1;
        (self.worker as u64) << 48 | self.flows
    }

    /// Written to by the resolver when a name that somebody waits for is answered.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }
}

/// The handle that the rest of the engine has of a worker.
#[derive(Debug)]
pub struct Worker {
    inbox: Sender<Batch>,
    wake: Arc<Wake>,
    open: Arc<AtomicUsize>,
    has_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start(
        index: usize,
        clock: Clock,
        event_capacity: usize,
        most_sessions: usize,
    ) -> io::Result<(Worker, EventReader)> {
        let wake = Arc::new(Wake::new()?);
        let epoll = Epoll::new()?;
        epoll.add(wake.as_raw_fd(), IN, Token::Wake.at(0))?;
        let (inbox, batches) = channel();
        let (events, reader) = ring(event_capacity);
        let open = Arc::new(AtomicUsize::new(0));
        let has_ended = Arc::new(AtomicBool::new(false));
        let desk = Desk {
            epoll,
            timers: Timers::default(),
            events,
            now_ms: clock.now_ms(),
            worker: index,
            next_source: index,
            wake: wake.clone(),
            flows: 0,
        };
        let state = Loop {
            desk,
            clock,
            batches,
            tcp: TcpPlane::new(),
            udp: UdpPlane::new(most_sessions)?,
            places: HashMap::new(),
            open: open.clone(),
        };
        let ended = has_ended.clone();
        let thread = std::thread::Builder::new().name(format!("edge-worker-{index}")).spawn(move || {
            state.run();
            ended.store(true, Ordering::Release);
        })?;
        Ok((Worker { inbox, wake, open, has_ended, thread: Some(thread) }, reader))
    }

    /// Hand over a batch; the receiver hears which listeners could not be taken. Does not wait.
    pub fn submit(&self, steps: Vec<Step>) -> Receiver<Vec<(Place, io::Error)>> {
        let (done, result) = std::sync::mpsc::sync_channel(1);
        // A worker that has ended drops the batch, and the receiver hears that as a disconnect.
        let _ = self.inbox.send(Batch { steps, done });
        self.wake.wake();
        result
    }

    pub fn open_flows(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
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
    open: Arc<AtomicUsize>,
}

impl Loop {
    fn run(mut self) {
        let mut notices = vec![libc::epoll_event { events: 0, u64: 0 }; NOTICES];
        loop {
            let sleep_ms = if self.tcp.has_unfinished() { 0 } else { self.desk.timers.sleep_ms(self.clock.now_ms()) };
            // EBADF or EINVAL would be an error of ours; going on would spin.
            let Ok(n) = self.desk.epoll.wait(&mut notices, sleep_ms) else { return };
            self.desk.now_ms = self.clock.now_ms();
            for notice in &notices[..n] {
                let (token, events) = (notice.u64, notice.events);
                if token >> 56 == Token::Wake as u64 {
                    if self.on_wake() {
                        return;
                    }
                } else {
                    self.contain(token, |it| it.dispatch(token, events));
                }
            }
            for slot in self.tcp.take_unfinished() {
                self.contain(Token::Client.at(slot), |it| it.tcp.on_turn(&mut it.desk, slot));
            }
            self.run_timers();
            self.tcp.free_closed();
            self.udp.free_closed();
            self.open.store(self.tcp.open() + self.udp.open(), Ordering::Relaxed);
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
            _ => {}
        }
    }

    fn abandon(&mut self, token: u64) {
        let slot = (token & u64::from(u32::MAX)) as usize;
        match token >> 56 {
            t if t == Token::Client as u64 || t == Token::Origin as u64 => self.tcp.abandon(&mut self.desk, slot),
            t if t == Token::Session as u64 => self.udp.abandon(&mut self.desk, slot),
            _ => {}
        }
    }

    fn run_timers(&mut self) {
        while let Some(entries) = self.desk.timers.pop_due(self.desk.now_ms) {
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
                if matches!(step, Step::Stop) {
                    let _ = batch.done.send(refused);
                    return true;
                }
                if let Err(failure) = self.take(step) {
                    refused.push(failure);
                }
            }
            let _ = batch.done.send(refused);
        }
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
                    Protocol::Tcp => self.tcp.listen(desk, tcp::Listener { sockets, address, active }),
                    Protocol::Udp => self.udp.listen(desk, udp::Listener { sockets, address, active }),
                };
                self.places.insert(place, slot.map_err(|error| (place, error))?);
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
            Step::FreePorts => self.udp.free_ports(desk),
            Step::MostFlows(most) => self.tcp.most_connections = most,
            Step::Stop => {}
        }
        Ok(())
    }
}
