//! The descriptors that flows may take: what listeners leave, and a part for the API, the database and the log.
//!
//! Each worker counts its own; the sum is looked at when a flow begins, so that no flood, of whatever kind and
//! however uneven over the workers, takes what the rest of the process lives on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys;

#[derive(Debug, Default)]
#[repr(align(64))] // a cache line of its own: workers must not slow each other
struct Count(AtomicUsize);

/// The counts of all workers.
#[derive(Debug)]
pub struct Ledger(Box<[Count]>);

impl Ledger {
    pub fn new(workers: usize) -> Arc<Ledger> {
        Arc::new(Ledger((0..workers).map(|_| Count::default()).collect()))
    }
}

/// One worker's view of it.
#[derive(Debug)]
pub struct Files {
    ledger: Arc<Ledger>,
    worker: usize,
    /// All flows of all workers together may have so many.
    pub most: usize,
}

impl Files {
    /// A worker that takes the place of another begins with none.
    pub fn new(ledger: Arc<Ledger>, worker: usize) -> Files {
        let files = Files { ledger, worker, most: usize::MAX };
        files.own().store(0, Ordering::Relaxed);
        files
    }

    /// How many share it.
    pub fn workers(&self) -> usize {
        self.ledger.0.len()
    }

    pub fn has_room(&self, count: usize) -> bool {
        let used: usize = self.ledger.0.iter().map(|count| count.0.load(Ordering::Relaxed)).sum();
        used + sys::pipe_descriptors() + count <= self.most
    }

    pub fn take(&self, count: usize) {
        // One writer: no read-modify-write instruction is needed.
        self.own().store(self.own().load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    pub fn give_back(&self, count: usize) {
        self.own().store(self.own().load(Ordering::Relaxed).saturating_sub(count), Ordering::Relaxed);
    }

    fn own(&self) -> &AtomicUsize {
        &self.ledger.0[self.worker].0
    }
}

/// Of `limit` descriptors and so many listening sockets, what flows may take.
pub fn for_flows(limit: usize, listeners: usize) -> usize {
    let rest = limit.min(8192) / 8 + (limit / 8).min(64);
    limit.saturating_sub(listeners).saturating_sub(rest)
}

/// Pipes make bulk streams cheaper; none needs one.
pub fn for_pipes(limit: usize) -> usize {
    (limit / 16).max(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_worker_takes_another_does_not_have() {
        let ledger = Ledger::new(2);
        let mut files = [0, 1].map(|worker| Files::new(ledger.clone(), worker));
        // Other tests of this process have pipes.
        files.iter_mut().for_each(|files| files.most = sys::pipe_descriptors() + 1_000);
        files[0].take(990);
        assert!(files[1].has_room(2) && !files[1].has_room(500));
        files[0].give_back(990);
        assert!(files[1].has_room(500));
        files[1].take(2);
        assert_eq!(Files::new(ledger, 1).own().load(Ordering::Relaxed), 0, "a successor begins anew");
    }

    #[test]
    fn a_part_is_left_for_the_rest_of_the_process() {
        assert_eq!(for_flows(1024, 6), 826);
        assert_eq!(for_flows(1_048_576, 2), 1_047_486);
        assert_eq!(for_flows(100, 200), 0);
        assert_eq!((for_pipes(1024), for_pipes(64)), (64, 8));
    }
}
