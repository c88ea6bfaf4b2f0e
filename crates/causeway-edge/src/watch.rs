//! The watchdog: a thread that sees a worker hang, and has it replaced.
//!
//! A worker is pinged and must beat. One that does not, although it could run, is given up: see `Crew`.
//! Knows nothing of flows and listeners. What must not be mistaken for a hang: a worker that waits for a
//! processor, and a process that was stopped as a whole, which this thread notices by its own lateness.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::pulse::Pulse;
use crate::sys::Wake;
use crate::worker::Worker;

const LOOK_EVERY: Duration = Duration::from_millis(250);
const PING_EVERY_MS: u64 = 500;
/// With the two above, 2.5 s from the hang to its end at most; the promise is 3.
const HUNG_AFTER_MS: u64 = 1_750;
/// Later than this, nobody in this process has run: silence proves nothing.
const LATE_MS: u64 = 1_000;
/// A worker that got less than this of a processor (ticks of 10 ms) could not have beaten.
const LEAST_RUN_TICKS: u64 = 3;

/// What is known of one worker between two looks.
#[derive(Debug, Default)]
pub struct Suspicion {
    pinged_ms: Option<u64>,
    beats: u64,
    ran: u64,
}

/// What to do about a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Alive,
    Ping,
    Hung,
}

impl Suspicion {
    /// `processor` is asked only when it matters: may the thread run, and how long has it?
    pub fn look(&mut self, now_ms: u64, beats: u64, processor: impl Fn() -> Option<(bool, u64)>) -> Verdict {
        match self.pinged_ms {
            Some(pinged_ms) if beats == self.beats => {
                if now_ms.saturating_sub(pinged_ms) < HUNG_AFTER_MS {
                    return Verdict::Alive;
                }
                let waits = |(is_runnable, ran): (bool, u64)| is_runnable && ran < self.ran + LEAST_RUN_TICKS;
                if processor().is_some_and(waits) { Verdict::Alive } else { Verdict::Hung }
            }
            Some(pinged_ms) if now_ms.saturating_sub(pinged_ms) < PING_EVERY_MS => Verdict::Alive,
            _ => {
                *self = Suspicion { pinged_ms: Some(now_ms), beats, ran: processor().map_or(0, |(_, ran)| ran) };
                Verdict::Ping
            }
        }
    }

    /// Begin anew: what was seen so far proves nothing.
    pub fn forget(&mut self) {
        self.pinged_ms = None;
    }
}

/// A worker as the watchdog sees it.
#[derive(Debug)]
pub struct Patient {
    pub pulse: Arc<Pulse>,
    wake: Arc<Wake>,
    suspicion: Suspicion,
}

impl Patient {
    pub fn of(worker: &Worker) -> Patient {
        Patient { pulse: worker.pulse.clone(), wake: worker.wake.clone(), suspicion: Suspicion::default() }
    }

    /// Wake it; answers its beats before.
    pub fn ping(&self) -> u64 {
        let beats = self.pulse.beats();
        self.wake.wake();
        beats
    }

    fn is_lost(&mut self, now_ms: u64) -> bool {
        if self.pulse.is_abandoned() || self.pulse.has_ended() {
            return true;
        }
        match self.suspicion.look(now_ms, self.pulse.beats(), || self.pulse.processor()) {
            Verdict::Alive => false,
            Verdict::Ping => {
                self.wake.wake();
                false
            }
            Verdict::Hung => true,
        }
    }
}

/// Who has lost workers replaced.
pub trait Heirs: Send + 'static {
    /// Put another worker in the place of this one; none if that cannot be now.
    fn replace(&mut self, index: usize) -> Option<Patient>;
    /// A look was taken.
    fn look(&mut self);
}

/// The thread, for as long as this lives.
#[derive(Debug)]
pub struct Watch {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub fn start(clock: Clock, mut patients: Vec<Patient>, mut heirs: impl Heirs) -> std::io::Result<Watch> {
        let (stop, stopped) = sync_channel(0);
        let thread = std::thread::Builder::new().name("edge-watch".into()).spawn(move || {
            let mut asleep_ms = clock.now_ms();
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                let now_ms = clock.now_ms();
                if now_ms - asleep_ms > LATE_MS {
                    patients.iter_mut().for_each(|patient| patient.suspicion.forget());
                }
                let lost: Vec<usize> = (0..patients.len()).filter(|index| patients[*index].is_lost(now_ms)).collect();
                // All of them first: a change that waits for one of these must not keep us from replacing another.
                lost.iter().for_each(|index| patients[*index].pulse.abandon());
                for index in lost {
                    if let Some(patient) = heirs.replace(index) {
                        patients[index] = patient;
                    }
                }
                heirs.look();
                asleep_ms = clock.now_ms();
            }
        })?;
        Ok(Watch { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
