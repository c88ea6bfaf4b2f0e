//! Smart routing at this edge: the ways that control wants flows to take now, and what legs have cost.
//!
//! Control says both which ways and what to measure, for a time; without it what it said ends and flows go direct. Legs
//! to other edges are measured by asking them once a second (`tcp/links/gauges`), legs to origins by the handshakes of
//! flows, and where there are none by a connection now and then (`tcp/reach`).

mod plan;

use std::collections::{HashMap, HashSet};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use causeway_wire::overlay::Name;
use serde::Serialize;

use crate::error::EdgeError;
use crate::event::Cause;
use crate::gains::{Gains, HistogramReport};
use crate::sys;
use crate::ways::{Ways, smooth};
use plan::Plan;

/// Of a round trip, as TCP does (RFC 6298).
const SMOOTHING: f32 = 0.125;
const SPREADING: f32 = 0.25;
/// A handshake with an origin that takes twice its usual time and so much longer is late.
const LATE_MS: u64 = 150;
/// A lost SYN is sent again after that (RFC 6298, 2.1).
const SYN_AGAIN_MS: u64 = 1_000;
/// Late ones in a row of which all but the last are taken for lost SYNs.
const MOST_LATE: u32 = 3;

/// Shared by all workers, from one snapshot to the next.
#[derive(Debug, Default)]
pub struct Steering {
    wanted: ArcSwap<Wanted>,
    applications: Mutex<HashMap<u128, Arc<Steered>>>,
    legs: Mutex<HashMap<Name, Leg>>,
    /// Edges that do not answer now.
    down: ArcSwap<Vec<Name>>,
}

/// What is to be measured.
#[derive(Debug, Default)]
pub struct Wanted {
    version: u64,
    ends_ms: u64,
    /// Edges to ask how far they are.
    pub legs: Vec<Name>,
    /// Those that flows go to first: connections are kept ready.
    pub next: Vec<Name>,
    /// Applications whose origins to connect to now and then.
    pub reach: Vec<u128>,
}

/// Of one application whose flows control may steer.
#[derive(Debug)]
pub struct Steered {
    pub id: u128,
    ways: ArcSwapOption<Ways>,
    pub reach: Reach,
    pub gains: Gains,
}

/// What handshakes with the origins of one application have shown, since the start.
#[derive(Debug, Default)]
pub struct Reach {
    connects: AtomicU64,
    /// Of those in which nothing was lost; a lost SYN says nothing of how far the origin is.
    rtt_us: AtomicU64,
    retransmitted: AtomicU64,
    failed: AtomicU64,
    last_ms: AtomicU64,
    /// How long they take, smoothed; 0: nobody has answered.
    usual_us: AtomicU32,
    /// Those in a row that nobody has waited for as long as may be, and when the last was given up. Of those that were
    /// under way together one counts.
    late: AtomicU32,
    late_ms: AtomicU64,
}

/// The way to another edge and back.
#[derive(Clone, Copy, Debug, Default)]
struct Leg {
    rtt_us: f32,
    variation_us: f32,
    least_us: f32,
    last_us: f32,
    answers: u64,
    late: u64,
    last_ms: u64,
    is_down: bool,
}

impl Steering {
    /// Do what control wants from now on: `json` has version, for how long it holds, legs, reach and applications.
    ///
    /// # Errors
    /// `Malformed` or `Refused`: what was wanted before goes on.
    pub fn steer(&self, json: &[u8], now_ms: u64) -> Result<(), EdgeError> {
        let plan = Plan::read(json)?;
        let ends_ms = now_ms.saturating_add(plan.ttl_ms);
        let mut applications = self.applications();
        for (id, steered) in applications.iter() {
            let Some(paths) = plan.applications.get(id) else {
                steered.ways.store(None);
                continue;
            };
            let before = steered.ways.load_full();
            match &before {
                Some(same) if same.paths() == &paths[..] && same.direct_one_in == plan.direct_one_in => {
                    same.hold_until(ends_ms);
                }
                _ => {
                    let ways = Ways::until(ends_ms, paths.clone(), plan.direct_one_in);
                    before.iter().for_each(|before| ways.learn(before));
                    steered.ways.store(Some(Arc::new(ways)));
                }
            }
        }
        applications.retain(|_, steered| Arc::strong_count(steered) > 1);
        self.legs().retain(|name, _| plan.legs.contains(name));
        let firsts = plan.applications.values().flat_map(|paths| paths.iter().filter_map(|path| Some(path.split()?.0)));
        let next: HashSet<Name> = firsts.collect(); // of all of them: a flow whose way fails is not to wait as well
        let next = next.into_iter().collect();
        let wanted = Wanted { version: plan.version, ends_ms, legs: plan.legs, next, reach: plan.reach };
        self.wanted.store(Arc::new(wanted));
        Ok(())
    }

    /// Of an application, the same whenever it is asked for.
    pub fn of(&self, id: u128) -> Arc<Steered> {
        let made =
            || Arc::new(Steered { id, ways: ArcSwapOption::empty(), reach: Reach::default(), gains: Gains::default() });
        self.applications().entry(id).or_insert_with(made).clone()
    }

    /// What is to be measured now; nothing once control has been silent for too long.
    pub fn wanted(&self, now_ms: u64) -> Option<Arc<Wanted>> {
        let wanted = self.wanted.load_full();
        (now_ms < wanted.ends_ms).then_some(wanted)
    }

    pub fn is_down(&self, name: &Name) -> bool {
        self.down.load().contains(name)
    }

    pub fn knows_of_any_down(&self) -> bool {
        !self.down.load().is_empty()
    }

    /// Another edge has answered.
    pub fn answered(&self, name: Name, rtt_us: f32, now_ms: u64) {
        let was_down = {
            let mut legs = self.legs();
            let leg = legs.entry(name).or_default();
            if leg.answers == 0 {
                (leg.rtt_us, leg.variation_us, leg.least_us) = (rtt_us, rtt_us / 2.0, rtt_us);
            }
            leg.variation_us += SPREADING * ((leg.rtt_us - rtt_us).abs() - leg.variation_us);
            leg.rtt_us += SMOOTHING * (rtt_us - leg.rtt_us);
            (leg.last_us, leg.last_ms, leg.answers) = (rtt_us, now_ms, leg.answers + 1);
            leg.least_us = leg.least_us.min(rtt_us);
            std::mem::take(&mut leg.is_down)
        };
        if was_down {
            self.tell_down();
        }
    }

    /// It has not, in the time that it has.
    pub fn is_late(&self, name: Name) {
        let was_down = {
            let mut legs = self.legs();
            let leg = legs.entry(name).or_default();
            leg.late += 1;
            std::mem::replace(&mut leg.is_down, true)
        };
        if !was_down {
            self.tell_down();
        }
    }

    /// A flow has found that nothing reaches it: no other has to find out, until it answers a question.
    pub fn doubt(&self, name: Name) {
        let is_news = self.legs().get_mut(&name).is_some_and(|leg| !std::mem::replace(&mut leg.is_down, true));
        if is_news {
            self.tell_down();
        }
    }

    /// How long its answers take, in microseconds.
    pub fn rtt_us(&self, name: &Name) -> Option<f32> {
        self.legs().get(name).filter(|leg| leg.answers > 0).map(|leg| leg.rtt_us)
    }

    pub fn report(&self, now_ms: u64) -> SteeringReport {
        let mut legs: Vec<LegReport> = self.legs().iter().map(|(name, leg)| leg.report(name, now_ms)).collect();
        legs.sort_by(|one, other| one.edge.cmp(&other.edge));
        let mut reach: Vec<ReachReport> = self.applications().values().filter_map(|it| it.report(now_ms)).collect();
        reach.sort_by(|one, other| one.application.cmp(&other.application));
        let mut gains: Vec<GainsReport> = self.applications().values().filter_map(|it| it.report_gains()).collect();
        gains.sort_by(|one, other| one.application.cmp(&other.application));
        let wanted = self.wanted.load();
        SteeringReport { version: if now_ms < wanted.ends_ms { wanted.version } else { 0 }, legs, reach, gains }
    }

    fn tell_down(&self) {
        let down = self.legs().iter().filter(|(_, leg)| leg.is_down).map(|(name, _)| *name).collect();
        self.down.store(Arc::new(down));
    }

    fn applications(&self) -> MutexGuard<'_, HashMap<u128, Arc<Steered>>> {
        self.applications.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn legs(&self) -> MutexGuard<'_, HashMap<Name, Leg>> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Steered {
    /// The ways that control wants now. None: it has said nothing, or too long ago.
    pub fn ways(&self, now_ms: u64) -> Option<Arc<Ways>> {
        self.ways.load().as_ref().filter(|ways| ways.holds(now_ms)).cloned()
    }

    fn report(&self, now_ms: u64) -> Option<ReachReport> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let reach = &self.reach;
        let (connects, failed) = (get(&reach.connects), get(&reach.failed));
        (connects + failed > 0).then(|| ReachReport {
            application: format!("{:032x}", self.id),
            connects,
            rtt_us_total: get(&reach.rtt_us),
            retransmitted: get(&reach.retransmitted),
            failed,
            age_ms: now_ms.saturating_sub(get(&reach.last_ms)),
        })
    }

    fn report_gains(&self) -> Option<GainsReport> {
        let (direct, over) = (self.gains.direct.report(), self.gains.over.report());
        let application = format!("{:032x}", self.id);
        (direct.is_some() || over.is_some()).then_some(GainsReport { application, direct, over })
    }
}

impl Reach {
    /// A connection of this socket has come about.
    pub fn connected(&self, fd: RawFd, now_ms: u64) {
        let Some(info) = sys::tcp_info(fd) else { return };
        self.last_ms.store(now_ms, Ordering::Relaxed);
        self.connects.fetch_add(1, Ordering::Relaxed);
        if info.tcpi_total_retrans > 0 {
            self.retransmitted.fetch_add(1, Ordering::Relaxed);
        } else {
            self.rtt_us.fetch_add(u64::from(info.tcpi_rtt), Ordering::Relaxed);
            smooth(&self.usual_us, info.tcpi_rtt);
        }
        self.late.store(0, Ordering::Relaxed);
    }

    /// So long one takes at most, unless its SYN is lost; where nobody knows, a SYN may be lost once. After some that
    /// were late it is longer and longer: the origin may be farther than it was.
    pub fn within_ms(&self) -> u64 {
        let late = self.late.load(Ordering::Relaxed).clamp(MOST_LATE - 1, MOST_LATE + 6);
        let times = u64::from(late + 2 - MOST_LATE);
        match self.usual_us.load(Ordering::Relaxed) {
            0 => SYN_AGAIN_MS + LATE_MS,
            usual_us => times * (u64::from(usual_us) * 2 / 1_000 + LATE_MS),
        }
    }

    /// One was not waited for as long as may be: its SYN is lost, or, after some of them, nobody is there.
    pub fn is_late(&self, begun_ms: u64, now_ms: u64) {
        self.last_ms.store(now_ms, Ordering::Relaxed);
        let is_another = begun_ms >= self.late_ms.load(Ordering::Relaxed);
        if is_another {
            self.late_ms.store(now_ms, Ordering::Relaxed);
        }
        let late = self.late.fetch_add(u32::from(is_another), Ordering::Relaxed) + u32::from(is_another);
        if late < MOST_LATE {
            self.connects.fetch_add(1, Ordering::Relaxed);
            self.retransmitted.fetch_add(1, Ordering::Relaxed);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One has not; for what is wrong here, and not there, that says nothing.
    pub fn failed(&self, cause: Cause, now_ms: u64) {
        if matches!(
            cause,
            Cause::ConnectTimeout | Cause::ConnectRefused | Cause::ConnectUnreachable | Cause::ConnectFailed
        ) {
            self.last_ms.store(now_ms, Ordering::Relaxed);
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Is what is known older than that? Whoever asks will try, so others need not.
    pub fn take_turn(&self, now_ms: u64, older_ms: u64) -> bool {
        let last_ms = self.last_ms.load(Ordering::Relaxed);
        let is_old = last_ms == 0 || now_ms >= last_ms.saturating_add(older_ms);
        if is_old {
            self.last_ms.store(now_ms, Ordering::Relaxed);
        }
        is_old
    }
}

impl Leg {
    fn report(&self, name: &Name, now_ms: u64) -> LegReport {
        let us = |value: f32| value.max(0.0) as u64;
        LegReport {
            edge: name.as_str().to_string(),
            rtt_us: us(self.rtt_us),
            variation_us: us(self.variation_us),
            least_us: us(self.least_us),
            last_us: us(self.last_us),
            answers: self.answers,
            late: self.late,
            age_ms: now_ms.saturating_sub(self.last_ms),
            is_down: self.is_down,
        }
    }
}

/// For whoever observes. `version`: of what control wants, 0 where it wants nothing now.
#[derive(Debug, Serialize)]
pub struct SteeringReport {
    pub version: u64,
    pub legs: Vec<LegReport>,
    pub reach: Vec<ReachReport>,
    pub gains: Vec<GainsReport>,
}

#[derive(Debug, Serialize)]
pub struct LegReport {
    pub edge: String,
    pub rtt_us: u64,
    pub variation_us: u64,
    pub least_us: u64,
    pub last_us: u64,
    pub answers: u64,
    pub late: u64,
    /// Since the last answer.
    pub age_ms: u64,
    pub is_down: bool,
}

/// Handshakes with origins. `rtt_us_total`: of those in which nothing was sent again.
#[derive(Debug, Serialize)]
pub struct ReachReport {
    pub application: String,
    pub connects: u64,
    pub rtt_us_total: u64,
    pub retransmitted: u64,
    pub failed: u64,
    pub age_ms: u64,
}

/// How long clients waited for the first byte of their origin, direct and over other edges.
#[derive(Debug, Serialize)]
pub struct GainsReport {
    pub application: String,
    pub direct: Option<HistogramReport>,
    pub over: Option<HistogramReport>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const APPLICATION: &str = "0123456789abcdef0123456789abcdef";

    fn said(paths: &str) -> Vec<u8> {
        let applications = format!(r#"[{{"id": "{APPLICATION}", "paths": {paths}}}]"#);
        let head = r#""version": 7, "ttl_ms": 5000, "direct_one_in": 64, "legs": ["fra-1"], "reach": []"#;
        format!(r#"{{{head}, "applications": {applications}}}"#).into_bytes()
    }

    #[test]
    fn ways_hold_for_the_time_that_was_said_and_are_kept_when_they_are_said_again() {
        let steering = Steering::default();
        let steered = steering.of(u128::from_str_radix(APPLICATION, 16).unwrap());
        assert!(steered.ways(0).is_none());
        steering.steer(&said(r#"[["fra-1"], []]"#), 1_000).unwrap();
        let first = steered.ways(5_999).unwrap();
        assert!(steered.ways(6_000).is_none());
        steering.steer(&said(r#"[["fra-1"], []]"#), 3_000).unwrap();
        assert!(Arc::ptr_eq(&first, &steered.ways(7_999).unwrap()));
        steering.steer(&said("[[]]"), 3_000).unwrap();
        assert!(!Arc::ptr_eq(&first, &steered.ways(7_999).unwrap()));
        assert_eq!((steering.report(3_000).version, steering.report(8_000).version), (7, 0));
    }

    #[test]
    fn connections_are_wanted_to_every_edge_at_which_a_way_begins() {
        let steering = Steering::default();
        steering.steer(&said(r#"[["fra-1"], ["ams-1", "fra-1"], []]"#), 0).unwrap();
        let mut next: Vec<String> =
            steering.wanted(0).unwrap().next.iter().map(|name| name.as_str().to_string()).collect();
        next.sort();
        assert_eq!(next, ["ams-1", "fra-1"]);
    }

    #[test]
    fn handshakes_that_are_late_are_lost_syns_until_the_third_in_a_row() {
        let reach = Reach::default();
        assert_eq!(reach.within_ms(), 1_150, "nobody knows how long they take");
        reach.usual_us.store(20_000, Ordering::Relaxed);
        assert_eq!(reach.within_ms(), 190);
        let late = |begun_ms: u64, now_ms: u64| {
            reach.is_late(begun_ms, now_ms);
            reach.within_ms()
        };
        assert_eq!([late(0, 190), late(5, 195), late(190, 380)], [190; 3], "two were under way together");
        assert_eq!([late(380, 570), late(570, 950)], [380, 570], "it may be farther than it was");
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!((get(&reach.connects), get(&reach.retransmitted), get(&reach.failed)), (3, 3, 2));
    }

    #[test]
    fn an_edge_that_does_not_answer_is_down_until_it_does() {
        let (steering, name) = (Steering::default(), Name::new(b"fra-1").unwrap());
        steering.answered(name, 20_000.0, 10);
        steering.is_late(name);
        assert!(steering.is_down(&name));
        steering.answered(name, 28_000.0, 20);
        assert!(!steering.is_down(&name));
        steering.doubt(name);
        assert!(steering.is_down(&name));
        steering.answered(name, 21_000.0, 20);
        steering.doubt(Name::new(b"nobody").unwrap()); // is not asked, so it would be down for ever
        assert!(!steering.is_down(&name) && !steering.is_down(&Name::new(b"nobody").unwrap()));
        let leg = &steering.report(30).legs[0];
        assert_eq!((leg.rtt_us, leg.least_us, leg.last_us, leg.late, leg.age_ms), (21_000, 20_000, 21_000, 1, 10));
    }
}
