//! Timers of one worker: coarse ticks, lazy cancellation.
//!
//! An entry says "look at this flow then"; the flow knows its real deadlines and asks again. So a flow that
//! moves bytes touches no timer, and a closed flow leaves an entry that is ignored when its tick comes.

use std::collections::BTreeMap;

/// Deadlines are met up to this much late, never early.
pub const TICK_MS: u64 = 16;

/// Which flow to look at; `generation` tells a later flow in the same slot from the one that asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub slot: u32,
    pub generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Relay,
    Session,
    /// A UDP port that goes away once nobody needs it.
    Port,
    /// A connection to or from another edge that no flow has yet, or all of them.
    Link,
    /// One that carries datagrams, or all of them.
    Leg,
}

#[derive(Debug, Default)]
pub struct Timers {
    ticks: BTreeMap<u64, Vec<Entry>>,
}

impl Timers {
    pub fn at(&mut self, due_ms: u64, entry: Entry) {
        self.ticks.entry(due_ms.div_ceil(TICK_MS)).or_default().push(entry);
    }

    /// How long a worker may sleep, for `epoll_wait`: -1 is for ever.
    pub fn sleep_ms(&self, now_ms: u64) -> i32 {
        match self.ticks.first_key_value() {
            Some((tick, _)) => (tick * TICK_MS).saturating_sub(now_ms).min(60_000) as i32,
            None => -1,
        }
    }

    /// The entries of one tick that is due, if any; call until it answers `None`.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<Vec<Entry>> {
        let entry = self.ticks.first_entry()?;
        (*entry.key() * TICK_MS <= now_ms).then(|| entry.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(slot: u32) -> Entry {
        Entry { kind: Kind::Relay, slot, generation: 0 }
    }

    #[test]
    fn an_entry_is_never_early_and_at_most_one_tick_late() {
        let mut timers = Timers::default();
        timers.at(100, entry(1));
        assert_eq!(timers.pop_due(99), None);
        assert_eq!(timers.pop_due(100 + TICK_MS), Some(vec![entry(1)]));
        assert_eq!(timers.pop_due(1_000), None);
    }

    #[test]
    fn a_worker_sleeps_until_the_first_entry() {
        let mut timers = Timers::default();
        assert_eq!(timers.sleep_ms(0), -1);
        timers.at(320, entry(1));
        timers.at(160, entry(2));
        assert_eq!(timers.sleep_ms(100), 60);
        assert_eq!(timers.sleep_ms(500), 0);
    }
}
