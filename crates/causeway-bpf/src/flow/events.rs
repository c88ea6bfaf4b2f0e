//! What happened to flows, through a ring that the kernel writes and one process reads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Flow;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEventKind {
    /// Two-way from now on.
    Opened,
    /// Both sides have finished, or one has reset it. The flow stays in the table until it is removed.
    Closed,
    /// Its client opened it anew, or it was closed and made room: these are its last counts, it is in no table any more.
    Replaced,
    /// The origin answered the first packet with RST.
    Refused,
    /// No source port was left: the flow was not opened, `source` is unspecified.
    Exhausted,
}

#[derive(Clone, Debug)]
pub struct FlowEvent {
    pub kind: FlowEventKind,
    pub flow: Flow,
    /// Monotonic, as in [`Flow`].
    pub at_ms: u64,
}

/// Poll its descriptor, then take until there is none.
#[derive(Debug)]
pub struct FlowEvents {
    fd: OwnedFd,
}

impl AsFd for FlowEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Iterator for FlowEvents {
    type Item = FlowEvent;

    /// `None`: nothing more just now.
    fn next(&mut self) -> Option<FlowEvent> {
        None
    }
}
