//! The ways of an application's flows from here to its origins, and which of them lead nowhere for now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use causeway_wire::overlay::{Name, Path};

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

/// Which of its ways one flow is on, and which it has tried.
#[derive(Debug, Default)]
pub struct Course {
    /// Those that it may take; none: another edge has said which.
    ways: Option<Arc<Ways>>,
    tried: u8,
    at: usize,
    /// All of its path from here, and what is left of that from the next edge on.
    pub path: Path,
    pub rest: Path,
    /// Its path is the one without other edges.
    pub is_direct: bool,
}

/// Where a flow goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// To this edge, by this path.
    Edge(Name, Path),
    /// To its origin, from here.
    Origin,
    /// All ways have been tried.
    Nowhere,
}

impl Course {
    pub fn own(ways: Arc<Ways>) -> Course {
        Course { ways: Some(ways), ..Course::default() }
    }

    pub fn handed_over(rest: Path) -> Course {
        Course { rest, ..Course::default() }
    }

    /// Is the way for this edge to choose?
    pub fn is_own(&self) -> bool {
        self.ways.is_some()
    }

    pub fn is_steered(&self) -> bool {
        self.ways.as_ref().is_some_and(|ways| ways.are_steered())
    }

    /// Is an edge to be asked for, and not an origin?
    pub fn wants_path(&self) -> bool {
        if self.is_own() { !self.is_direct } else { !self.rest.is_empty() || self.tried > 0 }
    }

    /// It is on the first way that it has tried.
    pub fn is_first_choice(&self) -> bool {
        self.tried.count_ones() == 1
    }

    /// Has it ways besides the one that it is on?
    pub fn has_others(&self) -> bool {
        self.ways.as_ref().is_some_and(|ways| self.tried.count_ones() < ways.paths().len() as u32)
    }

    /// Remember of the way that it is on whether it leads anywhere.
    pub fn judge(&self, now_ms: u64, is_broken: bool) {
        self.ways.iter().for_each(|ways| ways.judge(self.at, now_ms, is_broken));
    }

    /// The way that it is on may be tried again.
    pub fn retry(&mut self) {
        self.tried &= !(1 << self.at);
    }

    /// Those of its ways that end at this edge.
    pub fn ways_to(&self, last: &Name) -> Vec<Path> {
        let all = self.ways.iter().flat_map(|ways| ways.paths());
        all.filter(|path| path.names().last() == Some(last)).copied().collect()
    }

    /// Its origins do not answer from here: is there another way that it may try?
    pub fn gives_up_direct(&mut self, now_ms: u64) -> bool {
        let was_direct = std::mem::take(&mut self.is_direct);
        if was_direct {
            self.judge(now_ms, true);
        }
        was_direct
    }

    /// On to the next way that was not tried, for the flow with this number.
    pub fn turn(&mut self, now_ms: u64, flow: u64, is_down: impl Fn(&Path) -> bool) -> Turn {
        let chosen = match &self.ways {
            Some(ways) => ways.choose(&mut self.tried, now_ms, flow, is_down),
            None => (std::mem::replace(&mut self.tried, 1) == 0).then_some((0, self.rest)),
        };
        let Some((at, path)) = chosen else { return Turn::Nowhere };
        (self.at, self.path, self.is_direct) = (at, path, path.is_empty());
        let Some((next, rest)) = path.split() else { return Turn::Origin };
        self.rest = rest;
        Turn::Edge(next, path)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

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

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_flow_of_this_edge_turns_to_each_of_its_ways_and_then_nowhere() {
        let ways = Arc::new(Ways::fixed(Box::new([path(&["fra-1", "ams-1"]), path(&[]), path(&["ams-1"])])));
        let mut course = Course::own(ways.clone());
        let turn = |course: &mut Course| course.turn(1_000, 0, |_| false);
        assert!(course.wants_path() && course.has_others());
        assert_eq!(turn(&mut course), Turn::Edge(name("fra-1"), path(&["fra-1", "ams-1"])));
        assert_eq!((course.rest, course.is_direct), (path(&["ams-1"]), false));
        assert_eq!(turn(&mut course), Turn::Origin);
        assert!(course.is_direct && !course.wants_path());
        assert!(course.gives_up_direct(1_000) && !course.gives_up_direct(1_000));
        assert!(course.wants_path());
        assert_eq!(turn(&mut course), Turn::Edge(name("ams-1"), path(&["ams-1"])));
        assert!(!course.has_others());
        assert_eq!(turn(&mut course), Turn::Nowhere);
        assert_eq!(order(&ways, 0, &[]), [0, 2, 1], "those after it hear that direct leads nowhere");
    }

    #[test]
    fn a_flow_that_was_handed_over_goes_the_way_that_was_said_once() {
        let mut course = Course::handed_over(path(&["fra-1"]));
        assert!(course.wants_path() && !course.has_others());
        assert_eq!(course.turn(1_000, 0, |_| true), Turn::Edge(name("fra-1"), path(&["fra-1"])));
        assert!(course.wants_path(), "it is not for this edge to ask an origin");
        assert_eq!(course.turn(1_000, 0, |_| true), Turn::Nowhere);
        assert!(!Course::handed_over(path(&[])).wants_path());
    }
}
