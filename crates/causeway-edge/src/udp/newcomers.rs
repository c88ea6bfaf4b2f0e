//! Who may begin a session while more comes than this worker can read.
//!
//! Beginning one costs many times what a datagram of a session costs, so a flood of strangers takes all the time there
//! is, and what waits in the socket is lost: datagrams of two-way sessions with the rest. Pure: times come in.

/// Sessions begun in a second that nobody minds, whatever else there is to do.
const FREE_PER_S: u64 = 2_000;
/// How many of them at once.
const BURST: u64 = 200;
/// Full batches of mostly strangers, one after the other: some 10 ms in which little else was done.
const MOST_FULL: u32 = 8;
/// Then only so many begin for so long, before it is tried with all of them again.
const HOLD_MS: u64 = 2_000;
/// What one costs of the time that `used_to` counts: `FREE_PER_S` parts of a ms.
const COST: u64 = 1_000;

#[derive(Debug, Default)]
pub struct Newcomers {
    full: u32,
    hold_until_ms: u64,
    used_to: u64,
}

impl Newcomers {
    /// A batch of `count` datagrams is done, of which so many had no session. `is_full`: more may wait behind it.
    pub fn look(&mut self, is_full: bool, count: usize, strangers: usize, now_ms: u64) {
        self.full = if is_full && strangers > count / 2 { self.full + 1 } else { 0 };
        if self.full >= MOST_FULL {
            self.hold_until_ms = now_ms + HOLD_MS;
        }
    }

    /// Does it take nobody's time if one more begins?
    pub fn admits(&mut self, now_ms: u64) -> bool {
        let now = now_ms * FREE_PER_S;
        let (used_to, most) = (self.used_to.max(now) + COST, now + BURST * COST);
        if now_ms < self.hold_until_ms && used_to > most {
            return false;
        }
        self.used_to = used_to.min(most);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strangers at a steady rate for a second, in batches of 64 that are full; answers how many begin.
    fn begin(newcomers: &mut Newcomers, from_ms: u64, per_ms: usize) -> usize {
        let one_ms = |ms: u64| {
            let begun = (0..per_ms).filter(|_| newcomers.admits(ms)).count();
            newcomers.look(true, 64, 64, ms);
            begun
        };
        (from_ms..from_ms + 1000).map(one_ms).sum()
    }

    #[test]
    fn two_thousand_a_second_begin_whatever_else_there_is_to_do() {
        let mut newcomers = Newcomers::default();
        assert_eq!(begin(&mut newcomers, 5_000, 2), 2_000);
        assert_eq!(begin(&mut newcomers, 6_000, 2), 2_000);
    }

    #[test]
    fn of_a_flood_that_leaves_no_time_so_many_begin_and_no_more() {
        let mut newcomers = Newcomers::default();
        let at_first = begin(&mut newcomers, 5_000, 50);
        assert!((2_000..3_000).contains(&at_first), "{at_first}");
        assert!((1_990..=2_200).contains(&begin(&mut newcomers, 6_000, 50)));
    }

    #[test]
    fn any_number_begin_while_there_is_time_or_most_of_what_comes_has_a_session() {
        for (is_full, strangers) in [(false, 64), (true, 32)] {
            let mut newcomers = Newcomers::default();
            for ms in 5_000..6_000 {
                assert!((0..50).all(|_| newcomers.admits(ms)), "{is_full} {strangers}");
                newcomers.look(is_full, 64, strangers, ms);
            }
        }
    }

    #[test]
    fn when_the_flood_is_over_all_begin_again() {
        let mut newcomers = Newcomers::default();
        begin(&mut newcomers, 5_000, 50);
        newcomers.look(false, 10, 10, 6_000);
        let later = 6_000 + HOLD_MS;
        assert!((0..10_000).all(|_| newcomers.admits(later)));
    }
}
