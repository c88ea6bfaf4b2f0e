//! What a client prints: one JSON object. Counts cover the whole run; `rate` only the window after the warm-up.
use crate::clock::Window;
use serde::Serialize;
use std::fmt::Display;
use std::io;

const ERRORS_MAX: u64 = 10_000;

#[derive(Default, Serialize)]
pub struct Outcome {
    pub mode: &'static str,
    /// Connections, round trips or bytes.
    pub units: u64,
    pub units_in_window: u64,
    pub window_s: f64,
    pub rate: f64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// Replies that were not what was sent: bytes in a stream, else messages.
    pub wrong: u64,
    pub lost: u64,
    pub late: u64,
    /// Still unanswered at the end, though sent more than a second before it.
    pub stuck: u64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub max_us: Option<f64>,
}

impl Outcome {
    pub fn of(mode: &'static str) -> Self {
        Self { mode, ..Self::default() }
    }

    pub fn count(&mut self, window: &Window, time_ns: u64) {
        self.units += 1;
        self.units_in_window += u64::from(window.holds(time_ns));
    }

    /// Counts a failure; too many of them end the run, for there is nothing left to measure.
    pub fn failed(&mut self, error: impl Display) -> io::Result<()> {
        self.errors += 1;
        let first = self.first_error.get_or_insert_with(|| error.to_string());
        if self.errors < ERRORS_MAX {
            return Ok(());
        }
        Err(io::Error::other(format!("{ERRORS_MAX} failures, the first: {first}")))
    }

    pub fn latencies(&mut self, mut latencies_ns: Vec<u64>) {
        latencies_ns.sort_unstable();
        let at = |part: f64| {
            let last = latencies_ns.len().checked_sub(1)?;
            Some(latencies_ns[(last as f64 * part).round() as usize] as f64 / 1000.0)
        };
        (self.p50_us, self.p99_us, self.max_us) = (at(0.5), at(0.99), at(1.0));
    }

    pub fn print(mut self, window: &Window) -> io::Result<()> {
        self.window_s = window.seconds();
        self.rate = if self.window_s > 0.0 { self.units_in_window as f64 / self.window_s } else { 0.0 };
        println!("{}", serde_json::to_string(&self).map_err(io::Error::other)?);
        Ok(())
    }
}
