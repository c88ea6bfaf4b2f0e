//! How long clients wait for the first byte of their origin: direct, and over other edges.
//!
//! Counted once for a flow at the edge that has the client, by all workers at once: an add to each of three counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Eight buckets double: what is read of them is right to within an eighth.
const SUB_BITS: u32 = 3;
const SUBS: usize = 1 << SUB_BITS;
/// The first bucket ends at 128 us, the last one is open and begins at 128 s.
const LEAST_BITS: u32 = 7;
const OCTAVES: usize = 20;
pub const BUCKETS: usize = 1 + OCTAVES * SUBS + 1;

/// Since the start.
#[derive(Debug)]
pub struct Histogram {
    total_us: AtomicU64,
    counts: [AtomicU64; BUCKETS],
}

/// Of one application at this edge.
#[derive(Debug, Default)]
pub struct Gains {
    pub direct: Histogram,
    pub over: Histogram,
}

/// What a flow is waited for.
#[derive(Clone, Copy, Debug)]
pub struct FirstByte {
    /// The first word of the client; none: it has said nothing yet.
    since: Option<Instant>,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { total_us: AtomicU64::new(0), counts: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

impl Histogram {
    pub fn add(&self, took: Duration) {
        let us = took.as_micros() as u64;
        self.total_us.fetch_add(us, Ordering::Relaxed);
        self.counts[bucket(us)].fetch_add(1, Ordering::Relaxed);
    }

    /// None: nothing was added.
    pub fn report(&self) -> Option<HistogramReport> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
        let counts: Vec<(usize, u64)> = counts.filter(|(_, count)| *count > 0).collect();
        (!counts.is_empty()).then(|| HistogramReport { total_us: self.total_us.load(Ordering::Relaxed), counts })
    }
}

fn bucket(us: u64) -> usize {
    let Some(octave) = us.checked_ilog2().and_then(|bits| bits.checked_sub(LEAST_BITS)) else { return 0 };
    let sub = (us >> (octave + LEAST_BITS - SUB_BITS)) as usize & (SUBS - 1);
    (1 + octave as usize * SUBS + sub).min(BUCKETS - 1)
}

impl FirstByte {
    /// `since`: when the client has spoken, if it has.
    pub fn awaited(since: Option<Instant>) -> FirstByte {
        FirstByte { since }
    }

    /// The client has said something, now if it is the first.
    pub fn client_spoke(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// The origin has said something. None: before the client did, so nobody waited.
    pub fn took(self, now: Instant) -> Option<Duration> {
        self.since.map(|since| now.saturating_duration_since(since))
    }
}

/// For whoever observes: how many by bucket. Bucket 0 ends at 128 us; bucket 1 + 8 o + s at 128 us x 2^o x (9 + s) / 8.
#[derive(Debug, Serialize)]
pub struct HistogramReport {
    pub total_us: u64,
    pub counts: Vec<(usize, u64)>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_bucket_begins_where_the_one_before_it_ends_and_is_an_eighth_wide() {
        let cases =
            [(0, 0), (127, 0), (128, 1), (143, 1), (144, 2), (255, 8), (256, 9), (287, 9), (288, 10), (40_000, 66)];
        for (us, expected) in cases {
            assert_eq!(bucket(us), expected, "{us} us");
        }
        assert_eq!(
            (bucket(134_217_727), bucket(134_217_728), bucket(u64::MAX)),
            (BUCKETS - 2, BUCKETS - 1, BUCKETS - 1)
        );
    }

    #[test]
    fn what_was_added_is_reported_where_there_is_something() {
        let histogram = Histogram::default();
        assert!(histogram.report().is_none());
        [100, 100, 300].into_iter().for_each(|us| histogram.add(Duration::from_micros(us)));
        let report = histogram.report().unwrap();
        assert_eq!((report.total_us, report.counts), (500, vec![(0, 2), (10, 1)]));
    }

    #[test]
    fn a_wait_begins_with_the_first_word_of_the_client_and_is_none_where_the_origin_is_first() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut waited = FirstByte::awaited(None);
        assert!(waited.took(at(10)).is_none());
        waited.client_spoke(at(20)); // it takes its time
        waited.client_spoke(at(25));
        assert_eq!(waited.took(at(30)), Some(Duration::from_millis(10)), "only its first word counts");
    }
}
