//! The one source of time. Timers use the monotonic clock, so a jump of the wall clock changes no timeout.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the engine started; what every timer and deadline counts in.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

/// Wall-clock milliseconds since 1970, for records that people read.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}
