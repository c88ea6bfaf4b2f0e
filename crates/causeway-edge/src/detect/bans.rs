//! Who is banned, from what, until when. Workers look; the thread that judges makes, prolongs and ends.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::judge::Kind;
use super::kept::Row;
use super::source::{Source, Width};

pub const MOST_BANS: usize = 4_096;
/// The first ban of a source; each that comes soon after one lasts twice as long.
const FIRST_MS: u64 = 60_000;
const LONGEST_MS: u64 = 3_600_000;
/// A ban is remembered for so long after its end.
const REMEMBER_MS: u64 = 600_000;

#[derive(Debug)]
struct Ban {
    kind: Kind,
    since_ms: u64,
    /// It has gone on for so long in processes before this one.
    earlier_ms: u64,
    until_ms: AtomicU64,
    /// Tries since it began.
    tries: AtomicU64,
}

/// A ban as others put it in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Banned {
    pub source: Source,
    pub since_ms: u64,
    pub until_ms: u64,
    pub kind: Kind,
}

#[derive(Clone, Debug, Default)]
pub struct Bans(HashMap<Source, Arc<Ban>>);

impl Bans {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn kind(&self, source: &Source) -> Option<Kind> {
        self.0.get(source).map(|ban| ban.kind)
    }

    fn covering(&self, application: u128, client: IpAddr, now_ms: u64) -> Option<&Arc<Ban>> {
        let of = |width| self.0.get(&Source::of(application, client, width));
        let holds = |ban: &&Arc<Ban>| ban.until_ms.load(Ordering::Relaxed) > now_ms;
        of(Width::Host).filter(holds).or_else(|| of(Width::Network).filter(holds))
    }

    pub fn refuse(&self, application: u128, client: IpAddr, now_ms: u64) -> Option<Kind> {
        let ban = self.covering(application, client, now_ms)?;
        ban.tries.fetch_add(1, Ordering::Relaxed);
        Some(ban.kind)
    }

    /// Tries that others have refused.
    pub fn count(&self, source: &Source, tries: u64) {
        if let Some(ban) = self.0.get(source) {
            ban.tries.fetch_add(tries, Ordering::Relaxed);
        }
    }

    pub fn find(&self, application: u128, client: IpAddr, now_ms: u64) -> Option<(Kind, u64)> {
        let ban = self.covering(application, client, now_ms)?;
        Some((ban.kind, ban.until_ms.load(Ordering::Relaxed)))
    }

    pub fn list(&self, now_ms: u64) -> Vec<Banned> {
        let all = self.0.iter().map(|(source, ban)| Banned {
            source: *source,
            since_ms: ban.since_ms,
            until_ms: ban.until_ms.load(Ordering::Relaxed),
            kind: ban.kind,
        });
        let mut found: Vec<Banned> = all.filter(|banned| banned.until_ms > now_ms).collect();
        found.sort_unstable_by_key(|banned| {
            std::cmp::Reverse((banned.since_ms, banned.source.application, banned.source.prefix()))
        });
        found
    }
}

/// The thread's own view: with what was banned before, and how hard each source still tries.
#[derive(Debug, Default)]
pub struct Ledger {
    bans: Bans,
    /// How long the last ban of a source was, and when it ended.
    before: HashMap<Source, (u64, u64)>,
    /// Another one than what was kept last.
    is_new: bool,
    tries: HashMap<Source, u64>,
    /// That anything is banned from.
    applications: HashSet<u128>,
}

impl Ledger {
    pub fn has(&self, source: &Source) -> bool {
        self.bans.0.contains_key(source)
    }

    pub fn is_calm(&self, application: u128) -> bool {
        !self.applications.contains(&application)
    }

    /// Answers until when; none: there is no room.
    pub fn add(&mut self, source: Source, kind: Kind, now_ms: u64) -> Option<u64> {
        if self.bans.0.len() >= MOST_BANS && !self.has(&source) {
            return None;
        }
        let before = self.before.get(&source).filter(|(_, ended_ms)| now_ms < ended_ms + REMEMBER_MS);
        let lasts_ms = before.map_or(FIRST_MS, |(lasted_ms, _)| (lasted_ms * 2).min(LONGEST_MS));
        let until_ms = now_ms + lasts_ms;
        let (until, tries) = (AtomicU64::new(until_ms), AtomicU64::new(0));
        self.bans.0.insert(source, Arc::new(Ban { kind, since_ms: now_ms, earlier_ms: 0, until_ms: until, tries }));
        self.applications.insert(source.application);
        self.is_new = true;
        Some(until_ms)
    }

    /// As another process has left it.
    pub fn left(rows: &[Row], now_ms: u64, unix_ms: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for row in rows {
            let lasted_ms = row.until_unix_ms.saturating_sub(row.since_unix_ms);
            let left_ms = row.until_unix_ms.saturating_sub(unix_ms).min(LONGEST_MS); // a clock may have been set
            if left_ms == 0 {
                let ended_ms = now_ms.saturating_sub(unix_ms - row.until_unix_ms);
                ledger.before.insert(row.source, (lasted_ms, ended_ms));
            } else if ledger.bans.0.len() < MOST_BANS {
                let (until_ms, tries) = (AtomicU64::new(now_ms + left_ms), AtomicU64::new(0));
                let earlier_ms = unix_ms.saturating_sub(row.since_unix_ms);
                let ban = Ban { kind: row.kind, since_ms: now_ms, earlier_ms, until_ms, tries };
                ledger.bans.0.insert(row.source, Arc::new(ban));
                ledger.applications.insert(row.source.application);
            }
        }
        ledger
    }

    /// What was taken last did not get where it was to be.
    pub fn keep_again(&mut self) {
        self.is_new = true;
    }

    /// What another process needs to go on, if it is not what was taken last.
    pub fn take_news(&mut self, now_ms: u64, unix_ms: u64) -> Option<Vec<Row>> {
        if !std::mem::take(&mut self.is_new) {
            return None;
        }
        let bans = self.bans.0.iter().map(|(source, ban)| {
            let left_ms = ban.until_ms.load(Ordering::Relaxed).saturating_sub(now_ms);
            let since_unix_ms = unix_ms.saturating_sub(now_ms.saturating_sub(ban.since_ms) + ban.earlier_ms);
            Row { source: *source, kind: ban.kind, since_unix_ms, until_unix_ms: unix_ms + left_ms }
        });
        let over = self.before.iter().filter(|(source, _)| !self.has(source)).map(|(source, (lasted_ms, ended_ms))| {
            let until_unix_ms = unix_ms.saturating_sub(now_ms.saturating_sub(*ended_ms));
            let since_unix_ms = until_unix_ms.saturating_sub(*lasted_ms);
            Row { source: *source, kind: Kind::Flood, since_unix_ms, until_unix_ms } // its kind is not asked any more
        });
        Some(bans.chain(over).collect())
    }

    /// To be called once a second: who still tries hard stays out, the time of others runs. `tell` hears how often each
    /// has tried since the last call, and until when it is banned. True if a ban has ended or was prolonged.
    pub fn look(&mut self, now_ms: u64, mut tell: impl FnMut(&Source, u64, u64)) -> bool {
        let mut is_longer = false;
        for (source, ban) in &self.bans.0 {
            let tries = ban.tries.load(Ordering::Relaxed);
            let new = tries - self.tries.insert(*source, tries).unwrap_or(0);
            if new >= ban.kind.goes_on_per_s() {
                let until_ms = now_ms + FIRST_MS;
                is_longer |= ban.until_ms.fetch_max(until_ms, Ordering::Relaxed) < until_ms;
            }
            if new > 0 {
                tell(source, new, ban.until_ms.load(Ordering::Relaxed));
            }
        }
        let count = self.bans.0.len();
        let (before, tries) = (&mut self.before, &mut self.tries);
        self.bans.0.retain(|source, ban| {
            let until_ms = ban.until_ms.load(Ordering::Relaxed);
            if until_ms <= now_ms {
                before.insert(*source, (until_ms - ban.since_ms + ban.earlier_ms, until_ms));
                tries.remove(source);
            }
            until_ms > now_ms
        });
        self.before.retain(|_, (_, ended_ms)| now_ms < *ended_ms + REMEMBER_MS);
        if self.before.len() > MOST_BANS {
            self.before.clear(); // they begin at the first again
        }
        self.is_new |= is_longer;
        self.note_end(count) || is_longer
    }

    /// End what `keep` does not want any more: its application wants no protection now. True if there was any.
    pub fn keep(&mut self, keep: impl Fn(&Source) -> bool) -> bool {
        let count = self.bans.0.len();
        self.bans.0.retain(|source, _| keep(source));
        self.tries.retain(|source, _| keep(source));
        self.note_end(count)
    }

    fn note_end(&mut self, before: usize) -> bool {
        let has_ended = self.bans.0.len() < before;
        self.is_new |= has_ended;
        if has_ended {
            self.applications = self.bans.0.keys().map(|source| source.application).collect();
        }
        has_ended
    }

    /// The same bans: tries are counted in common.
    pub fn bans(&self) -> Bans {
        self.bans.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(1, text.parse().unwrap(), Width::Host)
    }

    #[test]
    fn a_ban_ends_in_time_unless_its_source_goes_on_and_a_second_one_is_longer() {
        let (mut ledger, client) = (Ledger::default(), "198.51.100.1".parse().unwrap());
        assert_eq!(ledger.add(source("198.51.100.1"), Kind::Flood, 0), Some(FIRST_MS));
        for second in 1..=30 {
            (0..20).for_each(|_| assert!(ledger.bans().refuse(1, client, second * 1000).is_some()));
            let is_longer = ledger.look(second * 1000, |_, tries, _| assert_eq!(tries, 20));
            assert!(is_longer);
        }
        assert_eq!(ledger.bans().find(1, client, 31_000), Some((Kind::Flood, 30_000 + FIRST_MS)));
        assert!(ledger.look(90_000, |_, _, _| panic!("nobody tried")));
        assert_eq!(ledger.bans().find(1, client, 90_000), None);
        assert_eq!(ledger.add(source("198.51.100.1"), Kind::Flood, 100_000), Some(100_000 + 2 * 90_000));
        let list = ledger.bans().list(100_001);
        assert_eq!((list.len(), list[0].source.prefix()), (1, (client, 32)));
    }

    #[test]
    fn a_process_that_follows_goes_on_with_what_is_banned_and_what_was() {
        let mut ledger = Ledger::default();
        ledger.add(source("198.51.100.1"), Kind::BruteForce, 0);
        ledger.look(60_000, |_, _, _| {});
        ledger.add(source("198.51.100.1"), Kind::BruteForce, 70_000);
        ledger.add(source("198.51.100.2"), Kind::Flood, 1_000);
        ledger.look(70_000, |_, _, _| {});
        let rows = ledger.take_news(80_000, 1_000_080_000).unwrap();
        assert_eq!(ledger.take_news(80_000, 1_000_080_000), None);
        // Five seconds without anybody.
        let mut next = Ledger::left(&rows, 100, 1_000_085_000);
        let find = |ledger: &Ledger, client: &str| ledger.bans().find(1, client.parse().unwrap(), 100);
        assert_eq!(find(&next, "198.51.100.1"), Some((Kind::BruteForce, 100 + 105_000)));
        assert_eq!(find(&next, "198.51.100.2"), None, "it was over");
        assert!(next.look(105_100, |_, _, _| {}));
        assert_eq!(next.add(source("198.51.100.1"), Kind::Flood, 110_000), Some(110_000 + 2 * 120_000));
        assert_eq!(next.add(source("198.51.100.2"), Kind::Flood, 110_000), Some(110_000 + 2 * 60_000));
        // Whoever sets the clock back bans nobody for longer than a ban can be.
        let next = Ledger::left(&rows, 100, 1_000);
        assert_eq!(find(&next, "198.51.100.1"), Some((Kind::BruteForce, 100 + LONGEST_MS)));
    }

    #[test]
    fn another_application_and_another_host_are_not_concerned() {
        let mut ledger = Ledger::default();
        ledger.add(source("198.51.100.1"), Kind::Scan, 0);
        let refuse = |application, client: &str| ledger.bans().refuse(application, client.parse().unwrap(), 1);
        assert_eq!(refuse(1, "198.51.100.1"), Some(Kind::Scan));
        assert_eq!((refuse(2, "198.51.100.1"), refuse(1, "198.51.100.2")), (None, None));
        let network = Source::of(1, "198.51.100.1".parse().unwrap(), Width::Network);
        ledger.add(network, Kind::Flood, 0);
        assert_eq!(ledger.bans().refuse(1, "198.51.100.2".parse().unwrap(), 1), Some(Kind::Flood));
        assert!(!ledger.is_calm(1) && ledger.is_calm(2));
        assert!(ledger.keep(|_| false) && ledger.bans().is_empty());
    }

    #[test]
    fn there_is_room_for_so_many_bans_and_no_more() {
        let mut ledger = Ledger::default();
        let of = |number: u32| Source::of(1, IpAddr::V4(number.into()), Width::Host);
        assert!((0..MOST_BANS as u32).all(|number| ledger.add(of(number), Kind::Flood, 0).is_some()));
        assert_eq!(ledger.add(of(u32::MAX), Kind::Flood, 0), None);
    }
}
