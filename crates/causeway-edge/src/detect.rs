//! Attacks that are made of real connections: found by what their sources do, and refused for a time.
//!
//! Workers and the keeper of the fast path say what they see (see `event`), over a ring each, so that no flow waits
//! for this; a thread of its own judges, and publishes the bans that workers ask when they accept. What it cannot
//! take in is missed: that is less evidence, never more. Pure but for `watch`.

mod bans;
mod judge;
mod kept;
mod report;
mod sighting;
pub mod source;
mod table;
mod watch;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::clock::unix_ms;
use crate::event::Cause;
use crate::snapshot::Sensitivity;
pub use bans::{Banned, Bans, Ledger};
pub use judge::Kind;
pub use report::Detection;
pub use sighting::{Feed, Sighting, What};
pub use source::Source;
#[cfg(test)]
pub use source::Width;
pub use watch::{DetectWatch, Outside};

/// How an application wants to be protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Care {
    pub sensitivity: Sensitivity,
    /// Its clients log in. Elsewhere short connections that bring little are how many services work.
    pub logins: bool,
}

/// By application; those that are not here want no protection.
pub type Terms = foldhash::HashMap<u128, Care>;

/// What workers, the judging thread and the edge share.
#[derive(Debug, Default)]
pub struct Detect {
    has_bans: AtomicBool,
    bans: ArcSwap<Bans>,
    terms: ArcSwap<Terms>,
    /// They have been told: what is not among them wants no protection.
    knows_terms: AtomicBool,
    /// Another process goes on with the bans.
    has_left: AtomicBool,
    readers: Mutex<Vec<sighting::Reader>>,
    detections: Mutex<Vec<Detection>>,
}

impl Detect {
    /// A way to say what is seen, for one thread.
    pub fn feed(&self) -> Feed {
        let (feed, reader) = sighting::ring();
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        feed
    }

    /// The bans that an earlier process has left in this directory are in force from now on; answers them as the ledger of
    /// the thread that is to judge, and why a file there was not believed.
    pub fn take_up(&self, state_dir: Option<&Path>, now_ms: u64) -> (Ledger, Option<PathBuf>, Option<String>) {
        let kept_at = state_dir.map(kept::path);
        let (rows, not_believed) = match kept_at.as_deref().map_or(Ok(Vec::new()), kept::read) {
            Ok(rows) => (rows, None),
            Err(reason) => (Vec::new(), Some(reason)),
        };
        let ledger = Ledger::left(&rows, now_ms, unix_ms());
        self.publish(ledger.bans());
        (ledger, kept_at, not_believed)
    }

    /// Another process has them now: what this one finds is not written down any more.
    pub fn leave(&self) {
        self.has_left.store(true, Ordering::Relaxed);
    }

    pub fn set_terms(&self, terms: Terms) {
        self.knows_terms.store(true, Ordering::Relaxed);
        if **self.terms.load() != terms {
            self.terms.store(Arc::new(terms));
        }
    }

    /// Is this client banned from the application now? Counts as a try.
    #[inline]
    pub fn refuses(&self, application: u128, client: IpAddr, now_ms: u64) -> Option<Cause> {
        if !self.has_bans.load(Ordering::Relaxed) {
            return None;
        }
        self.bans.load().refuse(application, client, now_ms).map(Kind::cause)
    }

    /// Why and for how long it is banned, in ms; asking changes nothing.
    pub fn explain(&self, application: u128, client: IpAddr, now_ms: u64) -> Option<(&'static str, u64)> {
        let (kind, until_ms) = self.bans.load().find(application, client, now_ms)?;
        Some((kind.code(), until_ms - now_ms))
    }

    /// What is banned now, the most recent first: for the kernel's guard, which refuses it earlier than a worker does.
    /// Clients that the application's rules allow may be inside a ban that is wider than one source, and must pass.
    pub fn bans(&self, now_ms: u64) -> Vec<Banned> {
        self.bans.load().list(now_ms)
    }

    /// What was found lately, the newest last.
    pub fn detections(&self) -> Vec<Detection> {
        self.detections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn publish(&self, bans: Bans) {
        self.has_bans.store(!bans.is_empty(), Ordering::Relaxed);
        self.bans.store(Arc::new(bans));
    }

    fn tell(&self, detections: Vec<Detection>) {
        *self.detections.lock().unwrap_or_else(PoisonError::into_inner) = detections;
    }
}
