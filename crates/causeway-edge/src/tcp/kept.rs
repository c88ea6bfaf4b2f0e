//! A flow that outlives its connection between edges: what its first and its last edge keep of it (decision 29).
//!
//! Each of the two keeps what it has said to the other until that was passed on to the client or the origin, reads all
//! that comes, and never says more than a window ahead. So a connection may break at any byte, and another goes on
//! from there. Knows no sockets: `pump` moves the bytes, `seek` finds another connection, `join` takes one.

mod join;
mod pump;
pub mod registry;
mod seek;

use std::collections::VecDeque;
use std::sync::Arc;

use causeway_wire::frames::{Reader, Word};
use causeway_wire::overlay::{Name, Path};

use registry::{Home, Registry};

use super::connection::NEVER;

pub use pump::say;

/// What one direction may be ahead of what was passed on: as much as 84 Mbit/s need over 100 ms.
pub const WINDOW_BYTES: usize = 1 << 20;
/// The other edge hears what was passed on after so much of it.
const PASSED_EVERY_BYTES: u64 = 16 << 10;
/// So long a flow is kept without a connection.
pub const KEEP_MS: u64 = 30_000;
/// An edge from which nothing was heard for so long is asked whether it is there, an idle one less and less often.
const ASK_AFTER_MS: u64 = 1_000;
const MOST_ASK_AFTER_MS: u64 = 15_000;
/// It has so long to answer, besides two round trips, twice as long after each connection that was given up for it.
const PATIENCE_MS: u64 = 1_000;
const MOST_PATIENCE_MS: u64 = 8_000;
/// More than the first packets of a connection take is not said before it is known what has arrived.
const MOST_AT_ONCE_BYTES: usize = 12 << 10;
/// Memory that is worth giving back.
const ROOMY_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Bytes go out over a connection.
    Open,
    /// There is none.
    Down,
    /// The first edge waits for one.
    Linking,
    /// The first edge has one, and has not heard yet from where it is to go on.
    Joining,
}

#[derive(Debug)]
pub struct Kept {
    pub secret: [u8; 16],
    pub is_first: bool,
    pub phase: Phase,
    pub phase_due_ms: u64,
    /// Since when it has had no connection that works.
    pub lost_ms: u64,
    pub is_answered: bool,
    /// Nobody has answered in the time that this usually takes.
    pub is_late: bool,
    /// When its first byte was said, or came.
    pub begun_ms: u64,
    registry: Arc<Registry>,
    is_registered: bool,
    charged_bytes: usize,
    /// What was read of the client or the origin from `passed` on; empty once it is not kept any more.
    unpassed: VecDeque<u8>,
    is_retained: bool,
    passed: u64,
    written: u64,
    total: u64,
    has_ended: bool,
    /// Its socket has failed, and reads like one that has ended (socket(7)); it has not.
    pub has_failed: bool,
    has_written_end: bool,
    is_end_passed: bool,
    reader: Reader,
    /// What has arrived, and was not taken yet by the client or the origin. The first of it is not of the stream.
    waiting: VecDeque<u8>,
    uncounted: usize,
    arrived: u64,
    delivered: u64,
    told: u64,
    has_heard_end: bool,
    has_given_end: bool,
    expects_arrived: bool,
    /// So much has been said on this connection before it was known what has arrived; an end counts.
    said_at_once: u64,
    /// So much of what comes on this connection has come before.
    passes_over: u64,
    owes_here: bool,
    /// The last edge has to say on this connection what has arrived.
    pub says_arrived: bool,
    pub has_heard_reset: bool,
    heard_ms: u64,
    asked_ms: u64,
    ask_after_ms: u64,
    rtt_ms: u64,
    patience_ms: u64,
    /// Read of the connection behind a header or an answer.
    pub early: Vec<u8>,
    /// The edge that has the origin, and ways to it that were not tried.
    pub last: Option<Name>,
    pub candidates: Vec<Path>,
}

/// The other edge has said what it cannot mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonsense;

impl Kept {
    pub fn new(secret: [u8; 16], last: Option<Name>, registry: Arc<Registry>, now_ms: u64) -> Kept {
        Kept {
            secret,
            is_first: last.is_some(),
            phase: Phase::Open,
            phase_due_ms: NEVER,
            lost_ms: NEVER,
            is_answered: false,
            is_late: false,
            begun_ms: now_ms,
            registry,
            is_registered: false,
            charged_bytes: 0,
            unpassed: VecDeque::new(),
            is_retained: true,
            passed: 0,
            written: 0,
            total: 0,
            has_ended: false,
            has_failed: false,
            has_written_end: false,
            is_end_passed: false,
            reader: Reader::default(),
            waiting: VecDeque::new(),
            uncounted: 0,
            arrived: 0,
            delivered: 0,
            told: 0,
            has_heard_end: false,
            has_given_end: false,
            expects_arrived: false,
            said_at_once: 0,
            passes_over: 0,
            owes_here: false,
            says_arrived: false,
            has_heard_reset: false,
            heard_ms: now_ms,
            asked_ms: NEVER,
            ask_after_ms: ASK_AFTER_MS,
            rtt_ms: 0,
            patience_ms: PATIENCE_MS,
            early: Vec::new(),
            last,
            candidates: Vec::new(),
        }
    }

    /// The client or the origin has said this.
    pub fn take(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        if self.is_retained {
            self.unpassed.extend(bytes);
        }
    }

    /// All that was taken, if nobody can have passed any of it on.
    pub fn take_back(&mut self) -> Option<Vec<u8>> {
        (self.is_retained && self.passed == 0).then(|| std::mem::take(&mut self.unpassed).into())
    }

    /// This goes to the origin before anything else, and is no part of what its client has said.
    pub fn give_first(&mut self, bytes: Vec<u8>) {
        self.uncounted = bytes.len();
        self.waiting = bytes.into();
    }

    /// How much more may be taken.
    pub fn room(&self) -> usize {
        WINDOW_BYTES.saturating_sub((self.total - self.passed) as usize)
    }

    /// So much of what the other edge says is here; its end counts.
    pub fn arrived(&self) -> u64 {
        self.arrived + u64::from(self.has_heard_end)
    }

    fn delivered(&self) -> u64 {
        self.delivered + u64::from(self.has_given_end)
    }

    /// Can it go on over another connection?
    pub fn is_retained(&self) -> bool {
        self.is_retained
    }

    /// Both directions have ended, and everybody has everything.
    pub fn is_finished(&self) -> bool {
        self.is_end_passed && self.has_given_end
    }

    /// The client, or the origin, has heard all that the other has to say.
    pub fn has_given_all(&self) -> bool {
        self.has_given_end
    }

    pub fn held_bytes(&self) -> usize {
        self.unpassed.capacity() + self.waiting.capacity()
    }

    /// The connection is gone.
    pub fn lose(&mut self, now_ms: u64) {
        self.phase = Phase::Down;
        self.lost_ms = self.lost_ms.min(now_ms);
        self.phase_due_ms = self.lost_ms + KEEP_MS;
        self.reader = Reader::default();
        self.early = Vec::new();
        (self.asked_ms, self.owes_here, self.expects_arrived) = (NEVER, false, false);
        (self.said_at_once, self.passes_over) = (0, 0);
    }

    /// The first edge has another connection, and says from where it goes on.
    pub fn join(&mut self, now_ms: u64, due_ms: u64) {
        (self.phase, self.phase_due_ms, self.expects_arrived) = (Phase::Joining, due_ms, true);
        self.heard_ms = now_ms;
    }

    /// From which offset on it may be said before anybody has told what has arrived. None: it is too much to be said in
    /// vain.
    pub fn may_say_at_once(&self) -> Option<u64> {
        (self.is_retained && self.unpassed.len() <= MOST_AT_ONCE_BYTES).then_some(self.passed)
    }

    /// What comes on a new connection begins at this offset.
    ///
    /// # Errors
    /// Something is missing before it.
    pub fn hear_from(&mut self, offset: u64) -> Result<(), Nonsense> {
        self.passes_over = self.arrived.checked_sub(offset).ok_or(Nonsense)?;
        Ok(())
    }

    /// The other edge has everything before `arrived`: say the rest again.
    ///
    /// # Errors
    /// It has not, or more than was said.
    pub fn go_on(&mut self, arrived: u64, now_ms: u64) -> Result<(), Nonsense> {
        let end = self.total + u64::from(self.has_ended);
        if !(self.passed..=end).contains(&arrived) || !self.is_retained {
            return Err(Nonsense);
        }
        let from = arrived.max(self.said_at_once);
        (self.written, self.has_written_end) = (from.min(self.total), from > self.total);
        (self.phase, self.phase_due_ms, self.lost_ms) = (Phase::Open, NEVER, NEVER);
        (self.expects_arrived, self.heard_ms, self.asked_ms) = (false, now_ms, NEVER);
        self.ask_after_ms = ASK_AFTER_MS;
        self.told = 0; // what was told may not have arrived
        Ok(())
    }

    /// # Errors
    /// It makes no sense.
    fn hear(&mut self, word: Word, now_ms: u64) -> Result<(), Nonsense> {
        match word {
            Word::Passed(offset) => {
                let written = self.written + u64::from(self.has_written_end);
                if offset > written {
                    return Err(Nonsense);
                }
                let to = offset.min(self.total);
                if to > self.passed {
                    if self.is_retained {
                        self.unpassed.drain(..(to - self.passed) as usize);
                    }
                    self.passed = to;
                }
                self.is_end_passed |= offset > self.total;
            }
            Word::Arrived(offset) if self.expects_arrived => {
                self.go_on(offset, now_ms)?;
            }
            Word::Arrived(_) => return Err(Nonsense),
            Word::End => self.has_heard_end = true,
            Word::Reset => self.has_heard_reset = true,
            Word::Ask => self.owes_here = true,
            Word::Here => {
                if self.asked_ms != NEVER {
                    self.rtt_ms = now_ms.saturating_sub(self.asked_ms);
                    self.ask_after_ms = (self.ask_after_ms * 2).min(MOST_ASK_AFTER_MS);
                }
            }
        }
        Ok(())
    }

    /// Anything was heard of the other edge.
    fn note_heard(&mut self, now_ms: u64) {
        (self.heard_ms, self.asked_ms) = (now_ms, NEVER);
    }

    /// Is the other edge to be asked whether it is there? `speaks`: there is something to be said to it now.
    fn must_ask(&self, now_ms: u64, speaks: bool) -> bool {
        let after_ms = if speaks { ASK_AFTER_MS } else { self.ask_after_ms };
        let is_open = self.is_first && self.is_answered && self.phase == Phase::Open;
        is_open && self.asked_ms == NEVER && now_ms >= self.heard_ms + after_ms
    }

    /// It has been asked, and has not answered in time.
    pub fn is_unheard(&self, now_ms: u64) -> bool {
        self.phase == Phase::Open && self.asked_ms.saturating_add(self.patience()) <= now_ms
    }

    fn patience(&self) -> u64 {
        self.patience_ms + 2 * self.rtt_ms
    }

    /// It was given up for being silent: with the next one more patience.
    pub fn be_patient(&mut self) {
        self.patience_ms = (self.patience_ms * 2).min(MOST_PATIENCE_MS);
    }

    pub fn note_rtt(&mut self, rtt_ms: u64) {
        self.rtt_ms = rtt_ms;
    }

    /// It is not to be asked now: somebody makes this flow wait.
    pub fn postpone(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    /// It is to be found here from now on. False: it is somewhere else.
    pub fn register(&mut self, home: Home) -> bool {
        self.is_registered = self.registry.register(self.secret, home);
        self.is_registered
    }

    /// Ask at the next occasion: somebody says that the edge next to this one is gone.
    pub fn doubt(&mut self, now_ms: u64) {
        if self.asked_ms == NEVER {
            self.heard_ms = self.heard_ms.min(now_ms.saturating_sub(MOST_ASK_AFTER_MS));
        }
    }

    pub fn due_ms(&self) -> u64 {
        let asking_ms = match (self.is_first && self.is_answered && self.phase == Phase::Open, self.asked_ms) {
            (false, _) => NEVER,
            (true, NEVER) => self.heard_ms + self.ask_after_ms,
            (true, asked_ms) => asked_ms + self.patience(),
        };
        asking_ms.min(self.phase_due_ms)
    }

    /// Memory that is not needed goes back, and what is held is on the common account. False: it is too much, and this
    /// flow is not kept any more, so that others are.
    pub fn settle(&mut self) -> bool {
        for queue in [&mut self.unpassed, &mut self.waiting] {
            if queue.capacity() > ROOMY_BYTES && queue.len() < queue.capacity() / 8 {
                queue.shrink_to(queue.len() * 2);
            }
        }
        let held = self.held_bytes();
        let has_room = self.registry.charge(self.charged_bytes, held);
        self.charged_bytes = held;
        if !has_room && self.is_retained && self.phase == Phase::Open && self.written == self.total {
            (self.is_retained, self.unpassed) = (false, VecDeque::new());
            return false;
        }
        true
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.registry.charge(self.charged_bytes, 0);
        if self.is_registered {
            self.registry.forget(&self.secret);
        }
    }
}

#[cfg(test)]
mod tests;
