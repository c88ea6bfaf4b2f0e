//! The listening sockets of one place: one for each worker, held and closed together.
//!
//! The kernel spreads clients over all that are open, so none may go alone. Whoever holds the handle keeps the
//! place taken: workers do while they serve it, `apply` keeps a weak one to hand the same sockets out again.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys;

#[derive(Debug)]
pub struct Shared {
    /// One for each worker, in order.
    pub fds: Box<[OwnedFd]>,
    /// Of UDP: how many sessions each worker has on them (see `udp`).
    sessions: Mutex<Vec<(usize, Arc<AtomicUsize>)>>,
    /// Taken over from another process: what waits in them is for us.
    pub is_inherited: bool,
}

pub type Sockets = Arc<Shared>;

impl Shared {
    pub fn new(fds: Vec<OwnedFd>) -> Sockets {
        Arc::new(Shared { fds: fds.into(), sessions: Mutex::default(), is_inherited: false })
    }

    pub fn inherited(fds: Vec<OwnedFd>) -> Sockets {
        Arc::new(Shared { fds: fds.into(), sessions: Mutex::default(), is_inherited: true })
    }

    /// The count that `worker` keeps of its sessions. One that had its place before and hung counts no more.
    pub fn counted_by(&self, worker: usize) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let mut counts = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        counts.retain(|(earlier, _)| *earlier != worker);
        counts.push((worker, count.clone()));
        count
    }

    /// Sessions of all workers.
    pub fn sessions(&self) -> usize {
        let counts = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }

    /// Make TCP sockets refuse: for a place that is given up while a worker that hangs still holds the handle.
    pub fn shut(&self) {
        self.fds.iter().for_each(|fd| sys::shutdown_all(fd.as_raw_fd()));
    }

    /// The socket of one worker. Closing does not take it out of an epoll set while others hold the handle.
    pub fn of(&self, worker: usize) -> Option<RawFd> {
        self.fds.get(worker).map(AsRawFd::as_raw_fd)
    }
}
