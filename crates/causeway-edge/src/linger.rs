//! A moment awake before a worker sleeps, which spares whom it woke a slow start.
//!
//! A worker with little to do sends and sleeps at once. Its processor turns idle just when the one that it woke is
//! about to run, and the scheduler moves tasks and wakes processors once more than is needed: that costs 20 us a
//! message where client, proxy and origin share few processors. Staying awake for 5 us avoids it (decision 7).

use std::time::{Duration, Instant};

const AWAKE: Duration = Duration::from_micros(5);
/// More than this in a turn, and there is hardly a sleep to come.
const FEW_PIECES: usize = 2;

#[derive(Debug)]
pub struct Linger {
    /// With one processor nobody else can run meanwhile.
    is_of_use: bool,
}

impl Default for Linger {
    fn default() -> Linger {
        Linger { is_of_use: std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) }
    }
}

impl Linger {
    /// After a turn of the loop that had so many notices, or datagrams if those are more.
    pub fn after(&self, pieces: usize) {
        if self.is_of_use && (1..=FEW_PIECES).contains(&pieces) {
            let begin = Instant::now();
            while begin.elapsed() < AWAKE {
                std::hint::spin_loop();
            }
        }
    }
}
