//! The ways of an application's flows from here to its origins, and which of them lead nowhere for now.

use std::sync::atomic::{AtomicU64, Ordering};

use causeway_wire::overlay::Path;

/// As for origins that did not answer.
const SHUNNED_MS: u64 = 10_000;

/// Ranked, the best first. Whoever follows them remembers which were tried.
#[derive(Debug, Default)]
pub struct Ways {
    paths: Box<[Path]>,
    /// Until when each is tried after those that work.
    shunned_until_ms: Box<[AtomicU64]>,
    /// One flow of so many goes direct, whatever is best, so that it stays known what that costs. 0: none does.
    pub direct_one_in: u64,
    /// Until when they hold.
    ends_ms: AtomicU64,
}

impl Ways {
    /// As somebody has said them.
    pub fn fixed(paths: Box<[Path]>) -> Ways {
        Ways::until(u64::MAX, paths, 0)
    }

    pub fn until(ends_ms: u64, paths: Box<[Path]>, direct_one_in: u64) -> Ways {
        let shunned_until_ms = paths.iter().map(|_| AtomicU64::new(0)).collect();
        Ways { paths, shunned_until_ms, direct_one_in, ends_ms: AtomicU64::new(ends_ms) }
    }

    pub fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// Has control said them, and may it say others?
    pub fn are_steered(&self) -> bool {
        self.ends_ms.load(Ordering::Relaxed) != u64::MAX
    }

    pub fn holds(&self, now_ms: u64) -> bool {
        now_ms < self.ends_ms.load(Ordering::Relaxed)
    }

    /// They hold for longer, being what they were.
    pub fn hold_until(&self, ends_ms: u64) {
        self.ends_ms.store(ends_ms, Ordering::Relaxed);
    }

    /// The next to try for the flow with this number; `tried` has a bit for each that was. None: there is no other.
    pub fn choose(
        &self,
        tried: &mut u8,
        now_ms: u64,
        flow: u64,
        is_down: impl Fn(&Path) -> bool,
    ) -> Option<(usize, Path)> {
        let leads =
            |at: &usize| self.shunned_until_ms[*at].load(Ordering::Relaxed) <= now_ms && !is_down(&self.paths[*at]);
        let untried = || (0..self.paths.len()).filter(|at| *tried & (1 << at) == 0);
        let is_control = *tried == 0 && self.direct_one_in > 0 && flow.is_multiple_of(self.direct_one_in);
        let control = || untried().find(|at| self.paths[*at].is_empty() && leads(at));
        let at = is_control.then(control).flatten().or_else(|| untried().find(leads)).or_else(|| untried().next())?;
        *tried |= 1 << at;
        Some((at, self.paths[at]))
    }

    /// Remember that one does not lead anywhere for now, or that it does.
    pub fn judge(&self, at: usize, now_ms: u64, is_broken: bool) {
        if let Some(until_ms) = self.shunned_until_ms.get(at) {
            let until = if is_broken { now_ms + SHUNNED_MS } else { 0 };
            if until_ms.load(Ordering::Relaxed) != until {
                until_ms.store(until, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use causeway_wire::overlay::Name;

    use super::*;

    fn path(names: &[&str]) -> Path {
        Path::new(&names.iter().map(|text| Name::new(text.as_bytes()).unwrap()).collect::<Vec<_>>()).unwrap()
    }

    fn order(ways: &Ways, flow: u64, down: &[usize]) -> Vec<usize> {
        let mut tried = 0;
        let is_down = |path: &Path| down.iter().any(|at| ways.paths()[*at] == *path);
        std::iter::from_fn(|| ways.choose(&mut tried, 1_000, flow, is_down)).map(|(at, _)| at).collect()
    }

    #[test]
    fn each_way_is_tried_once_in_order_those_that_lead_nowhere_last() {
        let ways = Ways::fixed(Box::new([path(&["fra-1"]), path(&["ams-1"]), path(&[])]));
        assert_eq!(order(&ways, 0, &[]), [0, 1, 2]);
        assert_eq!(order(&ways, 0, &[0]), [1, 2, 0]);
        ways.judge(1, 1_000, true);
        assert_eq!(order(&ways, 0, &[]), [0, 2, 1]);
        assert_eq!(order(&ways, 0, &[0, 2]), [0, 1, 2]);
        ways.judge(1, 1_000, false);
        assert_eq!(order(&ways, 0, &[]), [0, 1, 2]);
    }

    #[test]
    fn one_flow_of_so_many_goes_direct_unless_that_leads_nowhere() {
        let ways = Ways::until(5_000, Box::new([path(&["fra-1"]), path(&[])]), 4);
        let firsts: Vec<usize> = (0..9).map(|flow| order(&ways, flow, &[])[0]).collect();
        assert_eq!(firsts, [1, 0, 0, 0, 1, 0, 0, 0, 1]);
        ways.judge(1, 1_000, true);
        assert_eq!(order(&ways, 4, &[])[0], 0);
    }

    #[test]
    fn what_was_said_for_a_time_holds_no_longer() {
        let ways = Ways::until(5_000, Box::new([path(&[])]), 0);
        assert!(ways.holds(4_999) && !ways.holds(5_000));
        ways.hold_until(6_000);
        assert!(ways.holds(5_000));
        assert!(Ways::fixed(Box::new([])).holds(u64::MAX - 1));
    }
}
