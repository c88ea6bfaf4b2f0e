//! From readings to orders. Pure: the caller brings the time and the numbers.

use super::Reading;

const REFUSE_FROM: u64 = 90;
/// Well below where it began, so that it does not flap.
const REFUSE_UNTIL: u64 = 85;
const CUT_FROM: u64 = 95;
const CUT_TO: u64 = 90;
/// How far ahead growth is followed: buffers fill faster than anybody can look.
const AHEAD_MS: u64 = 20;

/// The longest between two looks.
const CALM_MS: u64 = 200;
const TENSE_MS: u64 = 5;
/// No machine fills its buffers faster (4 GB/s): before the end can be reached, there is another look.
const FASTEST_BYTES_PER_MS: u64 = 4_000_000;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub is_full: bool,
    pub free_bytes: u64,
    /// Until the next look.
    pub pause_ms: u64,
}

impl Order {
    /// What satisfies both.
    pub fn and(self, other: Order) -> Order {
        Order {
            is_full: self.is_full || other.is_full,
            free_bytes: self.free_bytes.max(other.free_bytes),
            pause_ms: self.pause_ms.min(other.pause_ms),
        }
    }
}

/// Of one limit.
#[derive(Debug, Default)]
pub struct Judge {
    last: Option<(u64, u64)>,
    is_full: bool,
}

impl Judge {
    pub fn look(&mut self, reading: Reading, now_ms: u64) -> Order {
        let Reading { used, limit } = reading;
        let growth = self.last.map_or(0, |(earlier, at_ms)| {
            used.saturating_sub(earlier) * AHEAD_MS / now_ms.saturating_sub(at_ms).max(1)
        });
        self.last = Some((used, now_ms));
        let soon = used.saturating_add(growth);
        let at = |percent: u64| limit / 100 * percent;
        self.is_full = soon >= at(if self.is_full { REFUSE_UNTIL } else { REFUSE_FROM });
        let free_bytes = if soon >= at(CUT_FROM) { soon - at(CUT_TO) } else { 0 };
        let room = at(REFUSE_FROM).saturating_sub(soon);
        let pause_ms = (room / FASTEST_BYTES_PER_MS).clamp(TENSE_MS, CALM_MS);
        Order { is_full: self.is_full, free_bytes, pause_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn order(is_full: bool, free_bytes: u64, pause_ms: u64) -> Order {
        Order { is_full, free_bytes, pause_ms }
    }

    #[test]
    fn refused_from_90_until_85_and_cut_from_95_down_to_90() {
        let mut judge = Judge::default();
        let steps = [
            (80, order(false, 0, TENSE_MS)),
            (89, order(false, 0, TENSE_MS)),
            (90, order(true, 0, TENSE_MS)),
            (94, order(true, 0, TENSE_MS)),
            (95, order(true, 5 * MIB, TENSE_MS)),
            (99, order(true, 9 * MIB, TENSE_MS)),
            (86, order(true, 0, TENSE_MS)),
            (84, order(false, 0, TENSE_MS)),
            (86, order(false, 0, TENSE_MS)),
        ];
        for (second, (used, expected)) in steps.into_iter().enumerate() {
            // So long between two looks that nothing grows.
            let reading = Reading { used: used * MIB, limit: 100 * MIB };
            assert_eq!(judge.look(reading, second as u64 * 1_000_000_000), expected, "{used} %");
        }
    }

    #[test]
    fn the_more_room_there_is_the_seldomer_are_the_looks() {
        let pause =
            |used: u64, limit: u64| Judge::default().look(Reading { used: used * MIB, limit: limit * MIB }, 0).pause_ms;
        assert_eq!((pause(80, 256), pause(220, 256), pause(256, 256)), (39, TENSE_MS, TENSE_MS));
        assert_eq!((pause(80, 4096), pause(3600, 4096)), (CALM_MS, 22));
    }

    #[test]
    fn of_two_limits_the_nearer_counts_in_each_respect() {
        let (near, far) = (order(true, 0, TENSE_MS), order(false, MIB, CALM_MS));
        assert_eq!((near.and(far), far.and(near)), (order(true, MIB, TENSE_MS), order(true, MIB, TENSE_MS)));
    }

    #[test]
    fn what_grows_fast_is_met_before_it_is_there() {
        let mut judge = Judge::default();
        let mut look = |used: u64, now_ms| judge.look(Reading { used: used * MIB, limit: 100 * MIB }, now_ms);
        assert_eq!(look(70, 0), order(false, 0, TENSE_MS));
        assert_eq!(look(80, 10), order(true, 10 * MIB, TENSE_MS), "100 in 20 ms at this pace");
        assert_eq!(look(80, 20), order(false, 0, TENSE_MS));
    }
}
