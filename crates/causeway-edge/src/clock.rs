//! The one source of time. Timers use the monotonic clock, so a jump of the wall clock changes no timeout.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the engine first started; what every timer and deadline counts in.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    /// What it showed when it started: not 0 in a process that took over from another one.
    begin_ms: u64,
}

impl Clock {
    /// 0, or what the clock of another process shows, so that its deadlines keep their meaning.
    pub fn at(begin_ms: u64) -> Clock {
        Clock { start: Instant::now(), begin_ms }
    }

    pub fn now_ms(&self) -> u64 {
        self.begin_ms + self.start.elapsed().as_millis() as u64
    }
}

/// Wall-clock milliseconds since 1970, for records that people read.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}
