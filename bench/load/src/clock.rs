//! Monotonic nanoseconds (the same clock in every process and namespace of a machine) and the span a run is measured in.
use std::time::Duration;

pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place to write to; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A run: work counts from `from_ns` (warm-up over) until `to_ns`, and no new work starts after that.
#[derive(Clone, Copy)]
pub struct Window {
    pub from_ns: u64,
    pub to_ns: u64,
}

impl Window {
    pub fn opening(warmup: Duration, whole: Duration) -> Self {
        let now = now_ns();
        let from_ns = now + warmup.min(whole).as_nanos() as u64;
        Self { from_ns, to_ns: now + whole.as_nanos() as u64 }
    }

    pub fn holds(&self, time_ns: u64) -> bool {
        self.from_ns <= time_ns && time_ns < self.to_ns
    }

    pub fn is_over(&self, time_ns: u64) -> bool {
        time_ns >= self.to_ns
    }

    pub fn seconds(&self) -> f64 {
        (self.to_ns - self.from_ns) as f64 / 1e9
    }

    pub fn left(&self, time_ns: u64) -> Duration {
        Duration::from_nanos(self.to_ns.saturating_sub(time_ns))
    }
}
