//! How near this process is to the memory that its cgroup may use, and what is done before the kernel kills it.
//!
//! From 90 % on new flows are refused; from 95 % on the newest connections are cut, first those whose reader
//! takes nothing. A thread of its own looks, seldom while there is room and every 5 ms near the end, because
//! the kernel's socket buffers fill that fast. Knows nothing of flows: it says how many bytes must be freed.

mod cap;
mod judge;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Clock;
use crate::sys;
use cap::Cap;
pub use cap::room_bytes;
use judge::Judge;

/// Pipes of bulk streams may hold this part of the memory; beyond, streams are copied.
const PIPE_PART: u64 = 8;
const LEAST_PIPE_BYTES: u64 = 8 * 1024 * 1024;
/// Limits can be set and processes moved while they run.
const FIND_EVERY_MS: u64 = 5_000;
/// Giving freed memory back to the kernel stops allocations for a moment.
const TRIM_EVERY_MS: u64 = 500;

/// Use and limit in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub used: u64,
    pub limit: u64,
}

/// What the looks have come to; workers read it.
#[derive(Debug, Default)]
pub struct Strain {
    is_full: AtomicBool,
    used: AtomicU64,
    limit: AtomicU64,
}

/// The memory of this process's cgroup, where it has a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryReport {
    pub used_bytes: u64,
    pub limit_bytes: u64,
    /// New flows are refused.
    pub is_full: bool,
}

impl Strain {
    /// May no new flow be taken?
    #[inline]
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    pub fn report(&self) -> Option<MemoryReport> {
        let limit_bytes = self.limit.load(Ordering::Relaxed);
        let used_bytes = self.used.load(Ordering::Relaxed);
        (limit_bytes > 0).then(|| MemoryReport { used_bytes, limit_bytes, is_full: self.is_full() })
    }

    fn set(&self, reading: Option<Reading>, is_full: bool) {
        let Reading { used, limit } = reading.unwrap_or(Reading { used: 0, limit: 0 });
        self.used.store(used, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        self.is_full.store(is_full, Ordering::Relaxed);
    }
}

/// The thread that looks, for as long as this lives.
#[derive(Debug)]
pub struct MemoryWatch {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MemoryWatch {
    /// `relieve` has so many bytes freed, and returns when that is done.
    pub fn start(
        clock: Clock,
        strain: Arc<Strain>,
        mut relieve: impl FnMut(u64) + Send + 'static,
    ) -> std::io::Result<MemoryWatch> {
        let (stop, stopped) = sync_channel(0);
        let thread = std::thread::Builder::new().name("edge-memory".into()).spawn(move || {
            let mut watched: Vec<(Cap, Judge)> = Vec::new();
            let (mut find_ms, mut trim_ms, mut pause_ms) = (0, 0, 0);
            while stopped.recv_timeout(Duration::from_millis(pause_ms)) == Err(RecvTimeoutError::Timeout) {
                let now_ms = clock.now_ms();
                if now_ms >= find_ms {
                    let mut before = std::mem::take(&mut watched);
                    watched.extend(cap::find().into_iter().map(|cap| {
                        let known = before.iter_mut().find(|(known, _)| *known == cap);
                        (cap, known.map(|(_, judge)| std::mem::take(judge)).unwrap_or_default())
                    }));
                    find_ms = now_ms + FIND_EVERY_MS;
                    let limits = watched.iter().filter_map(|(cap, _)| Some(cap.read()?.limit));
                    let room = limits.chain(cap::machine_bytes()).min();
                    sys::limit_pipes(room.map_or(u64::MAX, |room| (room / PIPE_PART).max(LEAST_PIPE_BYTES)));
                }
                let looks = watched.iter_mut().filter_map(|(cap, judge)| {
                    let reading = cap.read()?;
                    Some((reading, judge.look(reading, now_ms)))
                });
                let share = |reading: &Reading| reading.used as f64 / reading.limit as f64;
                let worst = looks.reduce(|a, b| (if share(&b.0) > share(&a.0) { b.0 } else { a.0 }, a.1.and(b.1)));
                let Some((reading, order)) = worst else {
                    strain.set(None, false);
                    pause_ms = FIND_EVERY_MS;
                    continue;
                };
                strain.set(Some(reading), order.is_full);
                if order.free_bytes > 0 {
                    relieve(order.free_bytes);
                }
                if order.is_full && now_ms >= trim_ms {
                    sys::give_memory_back();
                    trim_ms = now_ms + TRIM_EVERY_MS;
                }
                pause_ms = order.pause_ms;
            }
        })?;
        Ok(MemoryWatch { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
