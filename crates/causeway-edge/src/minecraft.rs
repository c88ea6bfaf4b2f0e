//! What an edge knows of a Minecraft server that it stands before: its status, and who may join when many want to.
//!
//! One gate for each application that asks for it, shared by the workers; it outlives changes of the application. The
//! parts are pure: the caller brings the time. `ask` alone talks to the server.

pub mod ask;
mod joins;
mod recent;
mod status;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::detect::source::{Source, Width};
use crate::snapshot::Minecraft;
use joins::{Class, Joins};
pub use joins::{HELD_MS, Turn};
use recent::Recent;
pub use status::Look;
use status::Status;

/// Who was connected for so long has played.
const PLAYED_MS: u64 = 60_000;
/// How long a client that has asked for the status, or has played, is remembered.
const ASKED_FOR_MS: u64 = 600_000;
const PLAYED_FOR_MS: u64 = 24 * 3_600_000;

#[derive(Debug)]
pub struct Gate {
    pub spec: Minecraft,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    status: Status,
    joins: Joins,
    has_asked: Recent,
    has_played: Recent,
}

/// A place in the line of those that want to join; given up when this is dropped.
#[derive(Debug)]
pub struct Place {
    shared: Arc<Mutex<Shared>>,
    number: u64,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// What `before` knows is known on.
    pub fn new(spec: Minecraft, before: Option<&Gate>) -> Gate {
        let fresh = || {
            let (has_asked, has_played) = (Recent::new(ASKED_FOR_MS), Recent::new(PLAYED_FOR_MS));
            Arc::new(Mutex::new(Shared { status: Status::default(), joins: Joins::default(), has_asked, has_played }))
        };
        Gate { spec, shared: before.map_or_else(fresh, |before| before.shared.clone()) }
    }

    /// The answer to a client that asks for the status; `Look::Ask` once for each time that the origin is to be asked.
    pub fn status(&self, now_ms: u64) -> Look {
        lock(&self.shared).status.look(self.spec.status_cache_ms, now_ms)
    }

    /// What the origin has said, as a whole packet; none: it did not answer.
    pub fn set_status(&self, packet: Option<Vec<u8>>, now_ms: u64) {
        lock(&self.shared).status.answered(packet, now_ms);
    }

    /// The client has done what a player's list of servers does.
    pub fn note_ping(&self, client: IpAddr, now_ms: u64) {
        lock(&self.shared).has_asked.add(host(client), now_ms);
    }

    /// A connection of this client has ended after so long.
    pub fn note_end(&self, client: IpAddr, lasted_ms: u64, now_ms: u64) {
        if lasted_ms >= PLAYED_MS {
            lock(&self.shared).has_played.add(host(client), now_ms);
        }
    }

    /// May this client join now? `Err(None)`: no, and it need not wait.
    pub fn join(&self, client: IpAddr, now_ms: u64) -> Result<(), Option<Place>> {
        let mut shared = lock(&self.shared);
        let (host, spec) = (host(client), &self.spec);
        let class = if shared.has_played.has(host, now_ms) {
            Class::Known
        } else if !spec.challenge || shared.has_asked.has(host, now_ms) {
            Class::Likely
        } else {
            Class::Stranger
        };
        match shared.joins.ask(host, class, spec.joins_per_s, now_ms) {
            Turn::Now => Ok(()),
            Turn::Wait(number) => Err(Some(Place { shared: self.shared.clone(), number })),
            Turn::Full => Err(None),
        }
    }

    /// Has its turn come?
    pub fn is_turn_of(&self, place: &Place, now_ms: u64) -> bool {
        lock(&place.shared).joins.is_in(place.number, self.spec.joins_per_s, now_ms)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.shared).joins.leave(self.number);
    }
}

fn host(client: IpAddr) -> Source {
    Source::of(0, client, Width::Host)
}
