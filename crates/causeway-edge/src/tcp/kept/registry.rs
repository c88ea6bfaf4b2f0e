//! Which worker has which flow that can be resumed, what connections wait for it there, and how much all of them hold.
//!
//! Shared by the workers of an edge: another edge's connection comes to any of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::sys::Wake;
use crate::tcp::links::Arrival;

/// More is not kept by all flows of an edge together; those beyond it go on and cannot be resumed.
const MOST_KEPT_BYTES: usize = 256 << 20;

/// As long as the first edge waits for what becomes of a header.
const UNDER_WAY_MS: u64 = 2_000;

#[derive(Debug)]
pub struct Registry {
    flows: Mutex<HashMap<[u8; 16], Home>>,
    /// By worker.
    arrivals: Mutex<HashMap<usize, Vec<Arrival>>>,
    held_bytes: AtomicUsize,
    most_bytes: usize,
    since: Instant,
}

/// Where a flow is.
#[derive(Clone, Debug)]
pub struct Home {
    pub worker: usize,
    pub slot: usize,
    pub generation: u32,
    pub wake: Arc<Wake>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry::holding(MOST_KEPT_BYTES)
    }
}

impl Registry {
    pub fn holding(most_bytes: usize) -> Registry {
        Registry {
            flows: Mutex::default(),
            arrivals: Mutex::default(),
            held_bytes: AtomicUsize::new(0),
            most_bytes,
            since: Instant::now(),
        }
    }

    /// Has this process known all flows that were begun here so long ago? What is under way counts as younger.
    pub fn is_older_than(&self, age_ms: u64) -> bool {
        self.since.elapsed().as_millis() as u64 >= age_ms.saturating_add(UNDER_WAY_MS)
    }

    pub fn find(&self, secret: &[u8; 16]) -> Option<Home> {
        locked(&self.flows).get(secret).cloned()
    }

    /// False: it is somewhere else already.
    pub fn register(&self, secret: [u8; 16], home: Home) -> bool {
        match locked(&self.flows).entry(secret) {
            Entry::Vacant(place) => {
                place.insert(home);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    pub fn forget(&self, secret: &[u8; 16]) {
        locked(&self.flows).remove(secret);
    }

    /// A connection for a flow of another worker.
    pub fn send(&self, home: &Home, arrival: Arrival) {
        locked(&self.arrivals).entry(home.worker).or_default().push(arrival);
        home.wake.wake();
    }

    pub fn take(&self, worker: usize) -> Vec<Arrival> {
        locked(&self.arrivals).get_mut(&worker).map(std::mem::take).unwrap_or_default()
    }

    /// A flow holds `now` where it held `before`. False: all together hold too much.
    pub fn charge(&self, before: usize, now: usize) -> bool {
        if now == before {
            return true;
        }
        let held = if now > before {
            self.held_bytes.fetch_add(now - before, Ordering::Relaxed) + (now - before)
        } else {
            self.held_bytes.fetch_sub(before - now, Ordering::Relaxed) - (before - now)
        };
        now < before || held <= self.most_bytes
    }

    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
