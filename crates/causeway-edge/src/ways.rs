//! The ways of an application's flows from here to its origins, and which of them lead nowhere for now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use causeway_wire::overlay::{Name, Path};

/// As for origins that did not answer.
const SHUNNED_MS: u64 = 10_000;
/// An answer has half as long again as usual and this, in which a packet that was lost is sent again.
const SENT_AGAIN_MS: u64 = 200;
/// Three late answers in a row are no loss of single packets, nor are four among eight: a late one counts four, one in
/// time takes one back. With 2 % of packets lost that is one flow of 7,000, with 20 % the 13th (by simulation).
const LATE_COUNTS: u32 = 4;
const MOST_LATE: u32 = 3 * LATE_COUNTS;

/// Ranked, the best first. Whoever follows them remembers which were tried.
#[derive(Debug, Default)]
pub struct Ways {
    paths: Box<[Path]>,
    /// Of each.
    found: Box<[Found]>,
    /// One flow of so many goes direct, whatever is best, so that it stays known what that costs. 0: none does.
    pub direct_one_in: u64,
    /// Until when they hold.
    ends_ms: AtomicU64,
}

/// What flows have found of a way.
#[derive(Debug, Default)]
struct Found {
    /// Until when it is tried after those that work.
    shunned_until_ms: AtomicU64,
    /// How long it takes until a flow is answered; 0: none was.
    usual_ms: AtomicU32,
    /// How late answers are.
    late: AtomicU32,
}

impl Found {
    fn shun(&self, until_ms: u64) {
        set(&self.shunned_until_ms, until_ms);
    }

    fn answered(&self, took_ms: u64) {
        smooth(&self.usual_ms, u32::try_from(took_ms).unwrap_or(u32::MAX));
        let late = self.late.load(Ordering::Relaxed);
        if late > 0 {
            self.late.store(late - 1, Ordering::Relaxed);
        }
    }

    fn within_ms(&self) -> Option<u64> {
        let usual_ms = u64::from(self.usual_ms.load(Ordering::Relaxed));
        (usual_ms > 0).then_some(usual_ms + usual_ms / 2 + SENT_AGAIN_MS)
    }
}

/// Bring what is usual nearer to one more, as TCP smooths a round trip (RFC 6298); 0: nothing was known.
pub fn smooth(usual: &AtomicU32, more: u32) {
    let before = usual.load(Ordering::Relaxed);
    let after = if before == 0 { more } else { before - before / 8 + more / 8 };
    usual.store(after.max(1), Ordering::Relaxed);
}

/// What many read is written where it changes.
fn set(place: &AtomicU64, value: u64) {
    if place.load(Ordering::Relaxed) != value {
        place.store(value, Ordering::Relaxed);
    }
}

impl Ways {
    /// As somebody has said them.
    pub fn fixed(paths: Box<[Path]>) -> Ways {
        Ways::until(u64::MAX, paths, 0)
    }

    pub fn until(ends_ms: u64, paths: Box<[Path]>, direct_one_in: u64) -> Ways {
        let found = paths.iter().map(|_| Found::default()).collect();
        Ways { paths, found, direct_one_in, ends_ms: AtomicU64::new(ends_ms) }
    }

    /// Know what flows have found of those that were there before.
    pub fn learn(&self, before: &Ways) {
        for (path, found) in self.paths.iter().zip(&self.found) {
            let Some(at) = before.paths.iter().position(|other| other == path) else { continue };
            let known = &before.found[at];
            found.shun(known.shunned_until_ms.load(Ordering::Relaxed));
            found.usual_ms.store(known.usual_ms.load(Ordering::Relaxed), Ordering::Relaxed);
            found.late.store(known.late.load(Ordering::Relaxed), Ordering::Relaxed);
        }
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
        let leads = |at: &usize| {
            self.found[*at].shunned_until_ms.load(Ordering::Relaxed) <= now_ms && !is_down(&self.paths[*at])
        };
        let untried = || (0..self.paths.len()).filter(|at| *tried & (1 << at) == 0);
        let is_control = *tried == 0 && self.direct_one_in > 0 && flow.is_multiple_of(self.direct_one_in);
        let control = || untried().find(|at| self.paths[*at].is_empty() && leads(at));
        let at = is_control.then(control).flatten().or_else(|| untried().find(leads)).or_else(|| untried().next())?;
        *tried |= 1 << at;
        Some((at, self.paths[at]))
    }

    /// Remember that one does not lead anywhere for now, or that it does.
    pub fn judge(&self, at: usize, now_ms: u64, is_broken: bool) {
        let until_ms = if is_broken { now_ms + SHUNNED_MS } else { 0 };
        self.found.get(at).into_iter().for_each(|found| found.shun(until_ms));
    }

    /// An answer is late: one may be by chance, unless nobody knows how long they take.
    fn is_late(&self, at: usize, now_ms: u64) {
        let Some(found) = self.found.get(at) else { return };
        let late = found.late.fetch_add(LATE_COUNTS, Ordering::Relaxed) + LATE_COUNTS;
        if late >= MOST_LATE || found.within_ms().is_none() {
            found.late.store(0, Ordering::Relaxed);
            found.shun(now_ms + SHUNNED_MS);
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
    /// It goes on elsewhere than on the way that it has chosen, and learns nothing more of that.
    has_left: bool,
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
        self.chosen().into_iter().for_each(|ways| ways.judge(self.at, now_ms, is_broken));
    }

    /// It is answered after so long: its way leads somewhere.
    pub fn answered(&self, now_ms: u64, took_ms: u64) {
        self.judge(now_ms, false);
        let found = self.chosen().and_then(|ways| ways.found.get(self.at));
        found.into_iter().for_each(|found| found.answered(took_ms));
    }

    /// Within which time it is answered, if nothing is wrong with its way. None: nobody was answered there before.
    pub fn within_ms(&self) -> Option<u64> {
        self.chosen().and_then(|ways| ways.found.get(self.at)).and_then(Found::within_ms)
    }

    /// It was not, and goes on elsewhere.
    pub fn leave_late(&mut self, now_ms: u64) {
        self.chosen().into_iter().for_each(|ways| ways.is_late(self.at, now_ms));
        self.has_left = true;
    }

    /// Its way is broken under it, and it goes on elsewhere.
    pub fn leave(&mut self) {
        self.has_left = true;
    }

    fn chosen(&self) -> Option<&Ways> {
        self.ways.as_deref().filter(|_| !self.has_left)
    }

    /// The way that it is on may be tried again.
    pub fn retry(&mut self) {
        self.tried &= !(1 << self.at);
    }

    /// Those of its ways that end at this edge, and then over the edges at which others begin: to them connections are
    /// ready.
    pub fn ways_to(&self, last: &Name) -> Vec<Path> {
        let all = || self.ways.iter().flat_map(|ways| ways.paths());
        let its = all().filter(|path| path.names().last() == Some(last)).copied();
        let over = all().filter_map(|path| Path::new(&[path.split()?.0, *last]));
        its.chain(over).collect()
    }

    /// Its origins do not answer from here: is there another way that it may try? `is_late`: nobody has waited for long.
    pub fn gives_up_direct(&mut self, now_ms: u64, is_late: bool) -> bool {
        if !std::mem::take(&mut self.is_direct) {
            return false;
        }
        if is_late {
            self.leave_late(now_ms);
        } else {
            self.judge(now_ms, true);
        }
        true
    }

    /// On to the next way that was not tried, for the flow with this number.
    pub fn turn(&mut self, now_ms: u64, flow: u64, is_down: impl Fn(&Path) -> bool) -> Turn {
        let chosen = match &self.ways {
            Some(ways) => ways.choose(&mut self.tried, now_ms, flow, is_down),
            None => (std::mem::replace(&mut self.tried, 1) == 0).then_some((0, self.rest)),
        };
        let Some((at, path)) = chosen else { return Turn::Nowhere };
        (self.at, self.path, self.is_direct, self.has_left) = (at, path, path.is_empty(), false);
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

    /// One that is on its first way.
    fn begun(ways: &Arc<Ways>) -> Course {
        let mut course = Course::own(ways.clone());
        course.turn(1_000, 0, |_| false);
        course
    }

    #[test]
    fn an_answer_is_late_after_half_as_long_again_as_usual_and_what_a_lost_packet_takes() {
        let ways = Arc::new(Ways::until(5_000, Box::new([path(&["fra-1"]), path(&[])]), 0));
        let flow = || begun(&ways);
        assert_eq!(flow().within_ms(), None);
        flow().answered(1_000, 100);
        assert_eq!(flow().within_ms(), Some(350));
        (0..50).for_each(|_| flow().answered(1_000, 180));
        assert!(flow().within_ms().is_some_and(|ms| (440..=470).contains(&ms)), "{:?}", flow().within_ms());
        let other = Ways::until(9_000, Box::new([path(&[]), path(&["fra-1"])]), 0);
        other.learn(&ways);
        assert_eq!(other.found[1].within_ms(), flow().within_ms(), "its place among others does not matter");
    }

    #[test]
    fn a_way_is_left_by_others_too_once_many_answers_were_late() {
        let ways = Arc::new(Ways::until(5_000, Box::new([path(&["fra-1"]), path(&[])]), 0));
        let flow = || begun(&ways);
        let late = || {
            let mut course = flow();
            course.leave_late(1_000);
            course.answered(1_000, 500); // by another way: that says nothing of this one
        };
        let in_time = |flows: usize| (0..flows).for_each(|_| flow().answered(1_000, 100));
        in_time(1);
        for _ in 0..20 {
            late();
            in_time(4);
        }
        assert_eq!(order(&ways, 0, &[]), [0, 1], "one of five says nothing");
        (0..3).for_each(|_| late());
        assert_eq!(order(&ways, 0, &[]), [1, 0]);
        ways.judge(0, 1_000, false);
        for _ in 0..3 {
            late();
            in_time(1);
        }
        assert_eq!(order(&ways, 0, &[]), [0, 1]);
        late();
        assert_eq!(order(&ways, 0, &[]), [1, 0], "four of eight");
        assert_eq!(flow().within_ms(), None, "of direct nothing is known");
    }

    #[test]
    fn a_first_answer_that_is_late_is_enough() {
        let ways = Arc::new(Ways::until(5_000, Box::new([path(&["fra-1"]), path(&[])]), 0));
        begun(&ways).leave_late(1_000);
        assert_eq!(order(&ways, 0, &[]), [1, 0]);
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
        assert!(course.gives_up_direct(1_000, false) && !course.gives_up_direct(1_000, false));
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
