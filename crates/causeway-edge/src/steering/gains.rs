//! How long flows wait for the first byte of their origin: over other edges, and of those that go direct meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Four for each doubling: the k-th has what took up to 2^(k/4) ms, the last what took longer, 11.6 s or more.
const BUCKETS: usize = 56;

/// Of one application, since the start.
#[derive(Debug, Default)]
pub struct Gains {
    direct: Times,
    over: Times,
}

#[derive(Debug)]
struct Times {
    flows: [AtomicU64; BUCKETS],
    ms: AtomicU64,
}

impl Default for Times {
    fn default() -> Times {
        Times { flows: std::array::from_fn(|_| AtomicU64::new(0)), ms: AtomicU64::new(0) }
    }
}

impl Gains {
    /// A flow has got its first byte so long after it had come.
    pub fn add(&self, is_direct: bool, took_ms: u64) {
        let times = if is_direct { &self.direct } else { &self.over };
        times.flows[bucket(took_ms)].fetch_add(1, Ordering::Relaxed);
        times.ms.fetch_add(took_ms, Ordering::Relaxed);
    }

    /// None: there was no flow.
    pub fn report(&self, application: u128) -> Option<GainsReport> {
        let (direct, over) = (self.direct.report(), self.over.report());
        let is_empty = direct.flows.is_empty() && over.flows.is_empty();
        (!is_empty).then(|| GainsReport { application: format!("{application:032x}"), direct, over })
    }
}

impl Times {
    fn report(&self) -> TimesReport {
        let counted = self.flows.iter().map(|flows| flows.load(Ordering::Relaxed)).enumerate();
        TimesReport { flows: counted.filter(|(_, flows)| *flows > 0).collect(), ms: self.ms.load(Ordering::Relaxed) }
    }
}

fn bucket(took_ms: u64) -> usize {
    let quarters = (took_ms.max(1) as f64).log2() * 4.0;
    (quarters.ceil() as usize).min(BUCKETS - 1)
}

/// For whoever observes.
#[derive(Debug, Serialize)]
pub struct GainsReport {
    pub application: String,
    pub direct: TimesReport,
    pub over: TimesReport,
}

/// `flows`: by bucket, those with any; `ms`: of all of them together.
#[derive(Debug, Serialize)]
pub struct TimesReport {
    pub flows: BTreeMap<usize, u64>,
    pub ms: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn each_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for (ms, at) in [(0, 0), (1, 0), (2, 4), (3, 7), (4, 8), (5, 10), (1_024, 40), (1_025, 41), (60_000, 55)] {
            assert_eq!(bucket(ms), at, "{ms} ms");
            assert!(at == BUCKETS - 1 || 2f64.powf(at as f64 / 4.0) >= ms as f64);
        }
    }

    #[test]
    fn direct_flows_and_those_over_other_edges_are_told_apart() {
        let gains = Gains::default();
        assert!(gains.report(7).is_none());
        gains.add(true, 580);
        (0..2).for_each(|_| gains.add(false, 166));
        let told = serde_json::to_value(gains.report(7).unwrap()).unwrap();
        let direct = serde_json::json!({"flows": {"37": 1}, "ms": 580});
        assert_eq!((&told["direct"], &told["over"]["ms"]), (&direct, &332.into()));
        assert_eq!(told["over"]["flows"], serde_json::json!({"30": 2}));
    }
}
