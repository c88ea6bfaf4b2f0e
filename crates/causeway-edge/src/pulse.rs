//! The signs of life of one worker, and what the watchdog tells it in turn.
//!
//! Written by the worker, read by the watchdog: a beat for each notice that it handles. A worker that was given
//! up reads here, should it ever go on, that another one has its place; it ends its flows then and touches
//! nothing that is shared.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::application::Active;

#[derive(Debug)]
#[repr(align(64))] // a cache line of its own: the worker writes it often
pub struct Pulse {
    beats: AtomicU64,
    is_abandoned: AtomicBool,
    has_ended: AtomicBool,
    thread: AtomicI32,
    pub open_flows: AtomicUsize,
    /// A copy of the descriptor of its epoll set, which outlives the worker's own.
    epoll: OwnedFd,
    /// Whose flows an abandoned worker has ended: for its successor to count, once for each flow.
    left: Mutex<Vec<Arc<Active>>>,
}

impl Pulse {
    pub fn new(epoll: OwnedFd) -> Pulse {
        Pulse {
            beats: AtomicU64::new(0),
            is_abandoned: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            thread: AtomicI32::new(0),
            open_flows: AtomicUsize::new(0),
            epoll,
            left: Mutex::default(),
        }
    }

    // ---- the worker's side ----

    pub fn begin(&self) {
        // SAFETY: no arguments, no failure.
        self.thread.store(unsafe { libc::gettid() }, Ordering::Relaxed);
    }

    /// True if the worker still has its place. One writer, so no read-modify-write instruction.
    #[inline]
    pub fn beat(&self) -> bool {
        self.beats.store(self.beats.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        !self.is_abandoned.load(Ordering::Relaxed)
    }

    pub fn end(&self, left: Vec<Arc<Active>>) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
        self.has_ended.store(true, Ordering::Release);
    }

    // ---- the watchdog's side ----

    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    pub fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
    }

    pub fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    pub fn epoll(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    pub fn take_left(&self) -> Vec<Arc<Active>> {
        std::mem::take(&mut self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Is the thread able to run, and how much has it run so far (in ticks of 10 ms)?
    pub fn processor(&self) -> Option<(bool, u64)> {
        let thread = self.thread.load(Ordering::Relaxed);
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
        // proc_pid_stat(5): the name may hold anything, so count from its closing bracket.
        let mut words = stat.rsplit_once(')')?.1.split_whitespace();
        let is_runnable = words.next()? == "R";
        let ran: u64 = words.skip(10).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        Some((is_runnable, ran))
    }
}
