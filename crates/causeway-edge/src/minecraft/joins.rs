//! Who may join now, and who waits: so many a second, sources in turn, those that look like players before strangers.
//!
//! Pure. Whoever is in has nothing to do with this any more. A source that sends many has no more turns than others,
//! so that one player among bots waits for one round of the sources, not for all that they send.

use std::collections::{HashMap, VecDeque};

use crate::detect::source::Source;

/// How long one waits at most.
pub const HELD_MS: u64 = 10_000;
/// Of one source, and in all.
const MOST_OF_SOURCE: usize = 4;
const MOST: usize = 1_024;
const BURST_US: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Has played here: never waits.
    Known,
    Likely,
    Stranger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Now,
    Wait(u64),
    Full,
}

#[derive(Debug, Default)]
struct Line {
    turns: VecDeque<Source>,
    waiting: HashMap<Source, VecDeque<u64>>,
}

#[derive(Debug, Default)]
pub struct Joins {
    /// When what was let in is paid for.
    paid_us: u64,
    lines: [Line; 2],
    /// Numbers that wait or may come in and have not been seen since.
    open: HashMap<u64, bool>,
    next: u64,
}

impl Joins {
    pub fn ask(&mut self, source: Source, class: Class, per_s: u32, now_ms: u64) -> Turn {
        self.advance(per_s, now_ms);
        if class == Class::Known {
            return Turn::Now;
        }
        if self.open.is_empty() && self.take(per_s, now_ms) {
            return Turn::Now;
        }
        let line = &mut self.lines[usize::from(class == Class::Stranger)];
        let waiting = line.waiting.entry(source).or_default();
        if waiting.len() >= MOST_OF_SOURCE || self.open.len() >= MOST {
            if waiting.is_empty() {
                line.waiting.remove(&source);
            }
            return Turn::Full;
        }
        if waiting.is_empty() {
            line.turns.push_back(source);
        }
        self.next += 1;
        waiting.push_back(self.next);
        self.open.insert(self.next, false);
        Turn::Wait(self.next)
    }

    pub fn is_in(&mut self, number: u64, per_s: u32, now_ms: u64) -> bool {
        self.advance(per_s, now_ms);
        self.open.get(&number).copied().unwrap_or(false)
    }

    pub fn leave(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Call up whose turn it is by now.
    fn advance(&mut self, per_s: u32, now_ms: u64) {
        while let Some(number) = self.first() {
            if !self.take(per_s, now_ms) {
                return;
            }
            self.call_up(number);
        }
    }

    /// The next one that still waits; those that have left are forgotten on the way.
    fn first(&mut self) -> Option<u64> {
        for line in &mut self.lines {
            while let Some(source) = line.turns.front().copied() {
                let waiting = line.waiting.entry(source).or_default();
                while waiting.front().is_some_and(|number| !self.open.contains_key(number)) {
                    waiting.pop_front();
                }
                if let Some(number) = waiting.front() {
                    return Some(*number);
                }
                line.waiting.remove(&source);
                line.turns.pop_front();
            }
        }
        None
    }

    fn call_up(&mut self, number: u64) {
        self.open.insert(number, true);
        for line in &mut self.lines {
            let Some(source) = line.turns.front().copied() else { continue };
            let Some(waiting) = line.waiting.get_mut(&source).filter(|waiting| waiting.front() == Some(&number)) else {
                continue;
            };
            waiting.pop_front();
            line.turns.rotate_left(1); // others come before its next
            return;
        }
    }

    fn take(&mut self, per_s: u32, now_ms: u64) -> bool {
        let Some(price_us) = 1_000_000_u64.checked_div(per_s.into()) else { return true };
        let now_us = now_ms * 1000;
        let due_us = self.paid_us.max(now_us) + price_us;
        let passes = due_us <= now_us + BURST_US.max(price_us);
        if passes {
            self.paid_us = due_us;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::super::host;
    use super::*;

    const PER_S: u32 = 20;

    fn source(number: u32) -> Source {
        host(std::net::IpAddr::V4(number.into()))
    }

    /// Bots of so many sources ask 300 times a second; answers how long a player of `class` waits, in ms.
    fn wait_of(class: Class, sources: u32, bots: Class) -> Option<u64> {
        let (mut joins, mut held) = (Joins::default(), VecDeque::new());
        let mut mine = None;
        for now_ms in (1_000..25_000_u64).step_by(10) {
            for bot in 0..3 {
                let from = source(((now_ms / 10 * 3 + bot) % u64::from(sources)) as u32);
                if let Turn::Wait(number) = joins.ask(from, bots, PER_S, now_ms) {
                    held.push_back((number, now_ms));
                }
            }
            while held.front().is_some_and(|(_, since_ms)| now_ms >= since_ms + HELD_MS) {
                joins.leave(held.pop_front().unwrap().0);
            }
            held.retain(|(number, _)| {
                let is_in = joins.is_in(*number, PER_S, now_ms);
                if is_in {
                    joins.leave(*number);
                }
                !is_in
            });
            if now_ms == 12_000 {
                mine = match joins.ask(source(1 << 24), class, PER_S, now_ms) {
                    Turn::Now => return Some(0),
                    Turn::Wait(number) => Some(number),
                    Turn::Full => return None,
                };
            }
            if mine.is_some_and(|number| joins.is_in(number, PER_S, now_ms)) {
                return Some(now_ms - 12_000);
            }
        }
        None
    }

    #[test]
    fn a_player_gets_in_within_ten_seconds_whatever_the_bots_send() {
        assert_eq!(wait_of(Class::Known, 64, Class::Stranger), Some(0));
        assert!(wait_of(Class::Likely, 250, Class::Stranger).unwrap() < 1_000);
        assert!(wait_of(Class::Stranger, 64, Class::Stranger).unwrap() < HELD_MS);
        assert!(wait_of(Class::Likely, 64, Class::Likely).unwrap() < HELD_MS);
    }

    #[test]
    fn below_the_rate_nobody_waits_and_no_rate_lets_all_in() {
        let mut joins = Joins::default();
        for now_ms in (1_000..11_000).step_by(50) {
            assert_eq!(joins.ask(source(1), Class::Stranger, PER_S, now_ms), Turn::Now);
        }
        assert!((0..1_000).all(|_| joins.ask(source(1), Class::Stranger, 0, 11_000) == Turn::Now));
    }

    #[test]
    fn so_many_come_in_and_no_more_and_who_leaves_takes_no_turn() {
        let mut joins = Joins::default();
        let mut waiting = Vec::new();
        for number in 0..100 {
            match joins.ask(source(number), Class::Stranger, PER_S, 1_000) {
                Turn::Wait(number) => waiting.push(number),
                Turn::Now => {}
                Turn::Full => panic!("there is room"),
            }
        }
        assert_eq!(waiting.len(), 100 - PER_S as usize);
        waiting.drain(..40).for_each(|number| joins.leave(number));
        let came: Vec<u64> = waiting.iter().copied().filter(|number| joins.is_in(*number, PER_S, 2_000)).collect();
        assert_eq!(came, waiting[..PER_S as usize]);
        waiting.into_iter().for_each(|number| joins.leave(number));
        joins.advance(PER_S, 10_000);
        assert!(joins.open.is_empty() && joins.lines.iter().all(|line| line.turns.is_empty()));
    }

    #[test]
    fn one_source_holds_few_places() {
        let mut joins = Joins::default();
        let turns: Vec<Turn> = (0..100).map(|_| joins.ask(source(1), Class::Likely, PER_S, 1_000)).collect();
        let waits = turns.iter().filter(|turn| matches!(turn, Turn::Wait(_))).count();
        assert_eq!((waits, turns[99]), (MOST_OF_SOURCE, Turn::Full));
    }
}
