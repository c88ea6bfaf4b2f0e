//! The thread that judges: it reads what was seen, asks whom it must not ban, and publishes.

use std::net::IpAddr;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::bans::Ledger;
use super::judge::{Judge, Suspect};
use super::report::Rows;
use super::sighting::Sighting;
use super::{Detect, Kind};
use crate::clock::{Clock, unix_ms};
use crate::snapshot::Sensitivity;

const LOOK_EVERY: Duration = Duration::from_millis(100);
const TICK_MS: u64 = 1_000;

/// The thread, for as long as this lives.
#[derive(Debug)]
pub struct DetectWatch {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Watching {
    detect: Arc<Detect>,
    judge: Judge,
    ledger: Ledger,
    rows: Rows,
    has_changed: bool,
}

impl DetectWatch {
    /// `is_exempt`: must this client of the application not be banned? None: that cannot be said now.
    pub fn start(
        clock: Clock,
        detect: Arc<Detect>,
        is_exempt: impl Fn(u128, IpAddr, u16) -> Option<bool> + Send + 'static,
    ) -> std::io::Result<DetectWatch> {
        let (stop, stopped) = sync_channel(0);
        let thread = std::thread::Builder::new().name("edge-detect".into()).spawn(move || {
            let (judge, ledger, rows) = (Judge::default(), Ledger::default(), Rows::default());
            let mut it = Watching { detect, judge, ledger, rows, has_changed: false };
            let mut tick_ms = 0;
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                let now_ms = clock.now_ms();
                it.look(now_ms, &is_exempt);
                if now_ms >= tick_ms {
                    tick_ms = now_ms + TICK_MS;
                    it.tick(now_ms);
                }
                it.publish();
            }
        })?;
        Ok(DetectWatch { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for DetectWatch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Watching {
    fn look(&mut self, now_ms: u64, is_exempt: &impl Fn(u128, IpAddr, u16) -> Option<bool>) {
        let detect = self.detect.clone();
        let terms = detect.terms.load();
        let mut readers = detect.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for reader in readers.iter_mut() {
            while let Some(seen) = reader.read() {
                let is_calm = self.ledger.is_calm(seen.application);
                if let Some(suspect) = self.judge.see(&seen, &terms, is_calm, now_ms) {
                    self.hold(&suspect, &seen, now_ms, is_exempt);
                }
            }
        }
        readers.retain(|reader| !reader.is_over());
    }

    fn hold(
        &mut self,
        suspect: &Suspect,
        seen: &Sighting,
        now_ms: u64,
        is_exempt: &impl Fn(u128, IpAddr, u16) -> Option<bool>,
    ) {
        let Suspect { kind, source, is_proven, count } = *suspect;
        if self.ledger.has(&source) {
            return; // what was under way when it was banned
        }
        let is_held = is_proven && kind != Kind::IdleHold;
        // Not known now: it will be seen again if it goes on.
        if is_held && is_exempt(seen.application, seen.client, seen.port) != Some(false) {
            return;
        }
        let unix_ms = unix_ms();
        let until_ms = if is_held { self.ledger.add(source, kind, now_ms) } else { None };
        self.has_changed |= until_ms.is_some();
        self.rows.add(source, kind, count, until_ms.map(|until_ms| unix_ms + (until_ms - now_ms)), unix_ms);
    }

    fn tick(&mut self, now_ms: u64) {
        let (unix_ms, rows) = (unix_ms(), &mut self.rows);
        let kinds = self.ledger.bans();
        let has_ended = self.ledger.look(now_ms, |source, tries, until_ms| {
            if let Some(kind) = kinds.kind(source) {
                rows.add(*source, kind, tries, Some(unix_ms + until_ms.saturating_sub(now_ms)), unix_ms);
            }
        });
        let terms = self.detect.terms.load();
        let is_wanted = |application: u128| terms.get(&application).is_some_and(|how| how.sensitivity != Sensitivity::Off);
        self.has_changed |= self.ledger.keep(|source| is_wanted(source.application)) || has_ended;
    }

    fn publish(&mut self) {
        if std::mem::take(&mut self.has_changed) {
            self.detect.publish(self.ledger.bans());
        }
        if let Some(news) = self.rows.take_news() {
            self.detect.tell(news);
        }
    }
}
