//! The listening sockets of one place: one for each worker, held and closed together.
//!
//! The kernel spreads clients over all that are open, so none may go alone. Whoever holds the handle keeps the
//! place taken: workers do while they serve it, `apply` keeps a weak one to hand the same sockets out again.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

#[derive(Debug)]
pub struct Shared {
    /// One for each worker, in order.
    pub fds: Box<[OwnedFd]>,
    /// Of UDP: how many sessions of all workers live on them (see `udp`).
    pub sessions: AtomicUsize,
}

pub type Sockets = Arc<Shared>;

impl Shared {
    pub fn new(fds: Vec<OwnedFd>) -> Sockets {
        Arc::new(Shared { fds: fds.into(), sessions: AtomicUsize::new(0) })
    }

    /// The socket of one worker. Closing does not take it out of an epoll set while others hold the handle.
    pub fn of(&self, worker: usize) -> Option<RawFd> {
        self.fds.get(worker).map(AsRawFd::as_raw_fd)
    }
}
