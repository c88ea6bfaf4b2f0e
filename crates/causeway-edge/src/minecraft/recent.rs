//! Sources that did something lately, in bounded room: two generations, of which the older one is forgotten whole.

use std::collections::HashSet;

use crate::detect::source::Source;

const MOST: usize = 32_768;

#[derive(Debug)]
pub struct Recent {
    young: HashSet<Source>,
    old: HashSet<Source>,
    since_ms: u64,
    lasts_ms: u64,
}

impl Recent {
    /// Remembered for at least `lasts_ms` where there is room, and at most twice that.
    pub fn new(lasts_ms: u64) -> Recent {
        Recent { young: HashSet::new(), old: HashSet::new(), since_ms: 0, lasts_ms }
    }

    pub fn add(&mut self, source: Source, now_ms: u64) {
        self.turn(now_ms);
        if self.young.len() >= MOST {
            self.age(now_ms);
        }
        self.young.insert(source);
    }

    pub fn has(&mut self, source: Source, now_ms: u64) -> bool {
        self.turn(now_ms);
        self.young.contains(&source) || self.old.contains(&source)
    }

    fn turn(&mut self, now_ms: u64) {
        let age_ms = now_ms.saturating_sub(self.since_ms);
        if age_ms >= self.lasts_ms {
            self.age(now_ms);
        }
        if age_ms >= 2 * self.lasts_ms {
            self.old.clear();
        }
    }

    fn age(&mut self, now_ms: u64) {
        self.old = std::mem::take(&mut self.young);
        self.since_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::super::host;
    use super::*;

    #[test]
    fn who_was_there_is_known_for_a_while_and_room_is_bounded() {
        let (mut recent, one) = (Recent::new(1_000), host("192.0.2.1".parse().unwrap()));
        recent.add(one, 10_000);
        assert!(recent.has(one, 10_900) && recent.has(one, 11_500));
        assert!(!recent.has(one, 13_000));
        for number in 0..3 * MOST as u32 {
            recent.add(host(std::net::IpAddr::V4(number.into())), 20_000);
        }
        assert!(recent.young.len() + recent.old.len() <= 2 * MOST);
    }
}
