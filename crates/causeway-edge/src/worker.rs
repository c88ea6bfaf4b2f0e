//! A worker: one thread, one loop, its own sockets. It waits for notices and hands them to TCP and UDP.
//!
//! Nothing here is shared with other workers but an inbox for changes, which is looked at when it rings.
//! A panic while a flow is served ends that flow only.

mod turns;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
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
use crate::memory::Strain;
use crate::overlay::Overlay;
use crate::pulse::Pulse;
use crate::routes::Routes;
use crate::snapshot::{OnDelete, Protocol};
use crate::sockets::Sockets;
use crate::sys::{self, Epoll, IN, Wake};
use crate::tcp::TcpPlane;
use crate::timer::Timers;
use crate::udp::{Adopted, Shown, UdpPlane};
use turns::Loop;

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
