//! The thread that judges: it reads what was seen, asks whom it must not ban, and publishes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::bans::Ledger;
use super::judge::{Judge, Suspect};
use super::kept;
use super::report::Rows;
use super::sighting::Sighting;
use super::source::Source;
use super::{Banned, Detect, Kind};
use crate::clock::{Clock, unix_ms};
use crate::snapshot::Sensitivity;

const LOOK_EVERY: Duration = Duration::from_millis(100);
const TICK_MS: u64 = 1_000;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The thread, for as long as this lives.
#[derive(Debug)]
pub struct DetectWatch {
    /// Asks it to write down what is to be kept, and to answer then; without it the thread ends.
    ask: Option<SyncSender<SyncSender<()>>>,
    thread: Option<JoinHandle<()>>,
}

/// The rest of the edge, as far as bans have to do with it. All of it may be busy for a moment with a change.
pub trait Outside: Send {
    /// Must this client of the application not be banned? None: that cannot be said now.
    fn is_exempt(&self, application: u128, client: IpAddr, port: u16) -> Option<bool>;
    /// These are all bans in force now: refuse them as early as can be. False: busy.
    fn hold(&self, bans: Vec<Banned>) -> bool;
    /// How many tries of each source were refused there since this was asked last.
    fn take_refused(&self) -> Vec<(Source, u64)>;
}

struct Watching {
    detect: Arc<Detect>,
    judge: Judge,
    ledger: Ledger,
    rows: Rows,
    has_changed: bool,
    /// What was published is in force outside.
    is_held: bool,
    /// Where bans are kept; none: nowhere.
    kept_at: Option<PathBuf>,
}

impl DetectWatch {
    pub fn start(
        clock: Clock,
        detect: Arc<Detect>,
        (ledger, kept_at): (Ledger, Option<PathBuf>),
        outside: impl Outside + 'static,
    ) -> std::io::Result<DetectWatch> {
        let (ask, asked) = sync_channel::<SyncSender<()>>(0);
        let thread = std::thread::Builder::new().name("edge-detect".into()).spawn(move || {
            let (judge, rows) = (Judge::default(), Rows::default());
            let mut it = Watching { detect, judge, ledger, rows, has_changed: false, is_held: true, kept_at };
            let mut tick_ms = 0;
            loop {
                match asked.recv_timeout(LOOK_EVERY) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break it.keep(clock.now_ms()),
                    Ok(answer) => {
                        it.keep(clock.now_ms());
                        let _ = answer.send(());
                    }
                }
                let now_ms = clock.now_ms();
                it.look(now_ms, &outside);
                if now_ms >= tick_ms {
                    tick_ms = now_ms + TICK_MS;
                    it.tick(now_ms, &outside);
                    it.keep(now_ms);
                }
                it.publish(now_ms, &outside);
            }
        })?;
        Ok(DetectWatch { ask: Some(ask), thread: Some(thread) })
    }

    /// Have all bans on disk when this returns.
    pub fn keep(&self) {
        let (answer, answered) = sync_channel(1);
        if self.ask.as_ref().is_some_and(|ask| ask.send(answer).is_ok()) {
            let _ = answered.recv_timeout(ANSWER_WITHIN);
        }
    }
}

impl Drop for DetectWatch {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Watching {
    fn look(&mut self, now_ms: u64, outside: &impl Outside) {
        let detect = self.detect.clone();
        let terms = detect.terms.load();
        let mut readers = detect.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for reader in readers.iter_mut() {
            while let Some(seen) = reader.read() {
                let is_calm = self.ledger.is_calm(seen.application);
                if let Some(suspect) = self.judge.see(&seen, &terms, is_calm, now_ms) {
                    self.hold(&suspect, &seen, now_ms, outside);
                }
            }
        }
        readers.retain(|reader| !reader.is_over());
    }

    fn hold(&mut self, suspect: &Suspect, seen: &Sighting, now_ms: u64, outside: &impl Outside) {
        let Suspect { kind, source, is_proven, .. } = *suspect;
        if self.ledger.has(&source) {
            return; // what was under way when it was banned
        }
        let is_held = is_proven && kind != Kind::IdleHold;
        // Not known now: it will be seen again if it goes on.
        if is_held && outside.is_exempt(seen.application, seen.client, seen.port) != Some(false) {
            return;
        }
        let unix_ms = unix_ms();
        let until_ms = if is_held { self.ledger.add(source, kind, now_ms) } else { None };
        self.has_changed |= until_ms.is_some();
        let until_unix_ms = until_ms.map(|until_ms| unix_ms + (until_ms - now_ms));
        self.rows.begin(suspect, until_unix_ms, (now_ms, unix_ms));
    }

    fn tick(&mut self, now_ms: u64, outside: &impl Outside) {
        let (unix_ms, rows) = (unix_ms(), &mut self.rows);
        let kinds = self.ledger.bans();
        outside.take_refused().iter().for_each(|(source, tries)| kinds.count(source, *tries));
        let is_other = self.ledger.look(now_ms, |source, tries, until_ms| {
            if let Some(kind) = kinds.kind(source) {
                let until_unix_ms = unix_ms + until_ms.saturating_sub(now_ms);
                if !rows.count_on(*source, kind, tries, Some(until_unix_ms), unix_ms) {
                    let seen = Suspect {
                        kind,
                        source: *source,
                        is_proven: true,
                        count: tries,
                        per_s: tries,
                        began_ms: now_ms,
                    };
                    rows.begin(&seen, Some(until_unix_ms), (now_ms, unix_ms));
                }
            }
        });
        let terms = self.detect.terms.load();
        let knows_terms = self.detect.knows_terms.load(Ordering::Relaxed);
        let is_wanted = |application: u128| {
            !knows_terms || terms.get(&application).is_some_and(|how| how.sensitivity != Sensitivity::Off)
        };
        self.has_changed |= self.ledger.keep(|source| is_wanted(source.application)) || is_other;
    }

    /// On disk, for whoever follows; at most once a second, and not any more once somebody has.
    fn keep(&mut self, now_ms: u64) {
        let Some(kept_at) = self.kept_at.as_ref().filter(|_| !self.detect.has_left.load(Ordering::Relaxed)) else {
            return;
        };
        if let Some(rows) = self.ledger.take_news(now_ms, unix_ms())
            && kept::write(kept_at, &rows).is_err()
        {
            self.ledger.keep_again(); // a full disk: they hold as long as this process, and it is tried again
        }
    }

    fn publish(&mut self, now_ms: u64, outside: &impl Outside) {
        if std::mem::take(&mut self.has_changed) {
            self.detect.publish(self.ledger.bans());
            self.is_held = false;
        }
        // Workers refuse them already. Busy: with the next look.
        self.is_held = self.is_held || outside.hold(self.detect.bans(now_ms));
        if let Some(news) = self.rows.take_news() {
            self.detect.tell(news);
        }
    }
}
