//! Counters: one set per application and worker, written by that worker only, summed when somebody looks.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($name:ident),+ $(,)?) => {
        /// Live counters of one application on one worker.
        #[derive(Debug, Default)]
        #[repr(align(64))] // a cache line of its own: workers must not slow each other
        pub struct Counters { $(pub $name: Counter),+ }

        /// Counters summed over workers, since the start of the process.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Totals { $(pub $name: u64),+ }

        impl Counters {
            /// Go on from what another process has counted.
            pub fn from(totals: &Totals) -> Counters {
                Counters { $($name: Counter(AtomicU64::new(totals.$name))),+ }
            }
        }

        impl Totals {
            pub fn add(&mut self, counters: &Counters) { $(self.$name = self.$name.wrapping_add(counters.$name.get());)+ }
            pub fn add_totals(&mut self, other: &Totals) { $(self.$name = self.$name.wrapping_add(other.$name);)+ }
        }
    };
}

counters!(
    connections_total,
    connections_open,
    connect_errors_total,
    filtered_total,
    firewall_refused_total,
    limits_refused_total,
    limits_bans_total,
    mitigation_refused_total,
    idle_evicted_total,
    answered_total,
    bytes_ingress,
    bytes_egress,
    datagrams_ingress,
    datagrams_egress,
    datagrams_dropped,
    sessions_answered_total,
    sessions_evicted_total,
    sessions_shed_total,
    ports_exhausted_total,
    shed_total,
);

/// A number with one writer and any readers. No read-modify-write instruction is needed for that.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
