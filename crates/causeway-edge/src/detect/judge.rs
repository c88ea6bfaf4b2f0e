//! Who attacks? Pure: sightings in, suspects out; the caller brings the time.
//!
//! A source is suspected of a flood when it opens far more than sources of this application usually do, while the
//! application gets far more than it usually does, and others use it too: many who do a little each are a crowd, and
//! one that is alone takes nothing from anybody. Of trying logins, where clients log in, when for seconds on end nearly
//! all that it does is short and small. Of a scan, when it asks for many ports.

use foldhash::{HashMap, HashMapExt as _};

use super::Terms;
use super::sighting::{Sighting, What};
use super::source::{self, Source, Width};
use super::table::{Entry, PIECE_MS, PIECES, Sketch, Table, Window};
use crate::event::Cause;
use crate::snapshot::Sensitivity;

const MOST_HOSTS: usize = 32_768;
const MOST_NETWORKS: usize = 8_192;
const MOST_APPLICATIONS: usize = 4_096;

/// At sensitivity `medium`; a quarter of it at `high`, four times as much at `low`.
const FLOOD_PER_S: f64 = 100.0;
const APPLICATION_PER_S: f64 = 250.0;
const NETWORK_PER_S: f64 = 400.0;
const BRIEF_PER_S: f64 = 10.0;
const PORTS: f64 = 100.0;

/// How far above what is usual: a source, and an application.
const SOURCE_TIMES: f64 = 8.0;
const APPLICATION_TIMES: f64 = 4.0;

/// Pieces of half a second in which a rate must have been reached: of how many, and in how many of them.
const FLOOD_PIECES: (usize, usize) = (2, 3);
const LONG_PIECES: (usize, usize) = (6, PIECES);
const BRIEF_SHARE: f64 = 0.8;
/// A network is more than one host.
const LEAST_HOSTS: f64 = 4.0;
const PORTS_WITHIN_MS: u64 = 10_000;
const ALONE_AFTER_MS: u64 = 60_000;
/// What is this share of a rate that gives a source away is of its attack already.
const BEGUN_SHARE: f64 = 0.25;
/// Connections that begin after a pause as long begin anew.
const PAUSE_PIECES: usize = 2;

/// A try to log in has a banner or a challenge for its answer, and not much more.
const BRIEF_MS: u64 = 15_000;
const BRIEF_BYTES: u64 = 16 * 1024;
const BANNER_BYTES: u64 = 4;

/// What is usual is learned in steps of 10 s, over about 10 minutes.
const LEARN_EVERY_MS: u64 = 10_000;
const LEARN_SHARE: f64 = 1.0 / 60.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Flood,
    BruteForce,
    Scan,
    IdleHold,
}

impl Kind {
    pub fn code(self) -> &'static str {
        match self {
            Kind::Flood => "connection_flood",
            Kind::BruteForce => "brute_force",
            Kind::Scan => "port_scan",
            Kind::IdleHold => "idle_hold",
        }
    }

    pub fn cause(self) -> Cause {
        match self {
            Kind::Flood | Kind::IdleHold => Cause::FloodBanned,
            Kind::BruteForce => Cause::BruteForceBanned,
            Kind::Scan => Cause::ScanBanned,
        }
    }

    /// How many tries in a second of a source that is banned keep the ban up.
    pub fn goes_on_per_s(self) -> u64 {
        match self {
            Kind::Flood | Kind::Scan => 10,
            Kind::BruteForce | Kind::IdleHold => 2,
        }
    }
}

/// Who does it, to whom. Without proof that the source is who it says it is, it must not be banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    pub kind: Kind,
    pub source: Source,
    pub is_proven: bool,
    /// What it has done in the last seconds, the most of it in a second, and since when, as far as is remembered.
    pub count: u64,
    pub per_s: u64,
    pub began_ms: u64,
}

/// What is known of an application.
#[derive(Debug, Default)]
struct Habit {
    opened: Window,
    open: u64,
    /// The two hosts seen last, and when.
    last: [Option<(Source, u64)>; 2],
    /// Since the last lesson.
    counted: u64,
    brief: u64,
    hosts: Sketch,
    since_ms: u64,
    usual: Usual,
}

/// In a second: connections of all, of one source, and of those the brief ones.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    all: f64,
    source: f64,
    brief: f64,
}

#[derive(Debug)]
pub struct Judge {
    hosts: Table,
    networks: Table,
    habits: HashMap<u128, Habit>,
}

impl Default for Judge {
    fn default() -> Judge {
        let (hosts, networks) = (Table::new(MOST_HOSTS), Table::new(MOST_NETWORKS));
        Judge { hosts, networks, habits: HashMap::new() }
    }
}

impl Judge {
    /// `is_calm`: nothing is banned from this application, so that what happens is what usually does.
    pub fn see(&mut self, seen: &Sighting, terms: &Terms, is_calm: bool, now_ms: u64) -> Option<Suspect> {
        let care = terms.get(&seen.application)?;
        let scale = match care.sensitivity {
            Sensitivity::Off => return None,
            Sensitivity::Low => 4.0,
            Sensitivity::Medium => 1.0,
            Sensitivity::High => 0.25,
        };
        if source::is_own(seen.client) {
            return None;
        }
        let host = Source::of(seen.application, seen.client, Width::Host);
        let network = Source::of(seen.application, seen.client, Width::Network);
        if seen.what == What::Evicted {
            return Some(Suspect { count: 1, is_proven: false, ..Suspect::of(Kind::IdleHold, network, now_ms) });
        }
        if self.habits.len() >= MOST_APPLICATIONS && !self.habits.contains_key(&seen.application) {
            return None;
        }
        let habit = self.habits.entry(seen.application).or_default();
        habit.learn(is_calm, now_ms);
        habit.note(host, &seen.what, now_ms);
        let by_host = self.hosts.entry(host, now_ms);
        note(by_host, seen, seen.port, now_ms);
        let scan = scan(by_host, seen, scale, now_ms);
        if scan.is_some() {
            by_host.ports = Sketch::default(); // as many again are another finding
        }
        let by_network = self.networks.entry(network, now_ms);
        note(by_network, seen, low_word(seen), now_ms); // its "ports" are its hosts
        scan.or_else(|| match seen.what {
            What::Opened => habit.flood(by_host, by_network, scale, now_ms),
            What::Closed { .. } if care.logins => habit.brute_force(by_host, scale, now_ms),
            What::Closed { .. } | What::Failed { .. } | What::Evicted => None,
        })
    }
}

/// Tells the hosts of a network apart.
fn low_word(seen: &Sighting) -> u16 {
    match seen.client.to_canonical() {
        std::net::IpAddr::V4(v4) => v4.to_bits() as u16,
        std::net::IpAddr::V6(v6) => (v6.to_bits() >> 64) as u16,
    }
}

fn note(entry: &mut Entry, seen: &Sighting, port: u16, now_ms: u64) {
    if now_ms.saturating_sub(entry.ports_since_ms) > PORTS_WITHIN_MS {
        (entry.ports, entry.ports_since_ms) = (Sketch::default(), now_ms);
    }
    match seen.what {
        What::Opened => {
            if entry.opened.sum(PAUSE_PIECES, now_ms) == 0 {
                entry.began_ms = now_ms;
            }
            entry.opened.add(now_ms);
            entry.open += 1;
            entry.ports.add(port);
        }
        What::Closed { client_bytes, origin_bytes, lasted_ms } => {
            entry.open = entry.open.saturating_sub(1);
            entry.ended.add(now_ms);
            if is_brief(client_bytes, origin_bytes, lasted_ms) {
                entry.brief.add(now_ms);
            }
        }
        What::Failed { .. } => entry.ports.add(port),
        What::Evicted => {}
    }
}

fn is_brief(client_bytes: u64, origin_bytes: u64, lasted_ms: u64) -> bool {
    lasted_ms < BRIEF_MS && client_bytes <= BRIEF_BYTES && (BANNER_BYTES..=BRIEF_BYTES).contains(&origin_bytes)
}

fn scan(entry: &Entry, seen: &Sighting, scale: f64, now_ms: u64) -> Option<Suspect> {
    let asked = entry.ports.estimate();
    let is_proven = !matches!(seen.what, What::Failed { is_proven: false });
    let (count, lasted_ms) = (asked as u64, now_ms.saturating_sub(entry.ports_since_ms).max(PIECE_MS));
    let (per_s, began_ms) = (count * 1000 / lasted_ms, entry.ports_since_ms);
    let suspect = Suspect { is_proven, count, per_s, began_ms, ..Suspect::of(Kind::Scan, entry.source, now_ms) };
    (asked >= PORTS * scale).then_some(suspect)
}

impl Suspect {
    fn of(kind: Kind, source: Source, now_ms: u64) -> Suspect {
        Suspect { kind, source, is_proven: true, count: 0, per_s: 0, began_ms: now_ms }
    }

    /// `per_s`: what gave it away.
    fn by(kind: Kind, entry: &Entry, per_s: f64, count: u64, now_ms: u64) -> Suspect {
        let began_ms = entry.opened.since_ms(per_s * BEGUN_SHARE, now_ms).max(entry.began_ms);
        let most_per_s = entry.opened.peak_per_s(now_ms);
        Suspect { count, per_s: most_per_s, began_ms, ..Suspect::of(kind, entry.source, now_ms) }
    }
}

impl Habit {
    fn note(&mut self, host: Source, what: &What, now_ms: u64) {
        // Somebody who only says to be somebody else is nobody who would miss something.
        if *what != (What::Failed { is_proven: false }) {
            match self.last[0] {
                Some((last, _)) if last == host => {}
                _ => self.last[1] = self.last[0],
            }
            self.last[0] = Some((host, now_ms));
        }
        match *what {
            What::Opened => {
                self.opened.add(now_ms);
                self.open += 1;
                self.counted += 1;
                self.hosts.add(fold(host));
            }
            What::Closed { client_bytes, origin_bytes, lasted_ms } => {
                self.open = self.open.saturating_sub(1);
                self.brief += u64::from(is_brief(client_bytes, origin_bytes, lasted_ms));
            }
            What::Failed { .. } | What::Evicted => {}
        }
    }

    fn learn(&mut self, is_calm: bool, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.since_ms);
        if passed_ms < LEARN_EVERY_MS {
            return;
        }
        if is_calm && self.since_ms > 0 {
            let (seconds, hosts) = (passed_ms as f64 / 1000.0, self.hosts.estimate().max(1.0));
            let share = (LEARN_SHARE * passed_ms as f64 / LEARN_EVERY_MS as f64).min(1.0);
            let learn = |usual: &mut f64, found: f64| *usual += (found - *usual) * share;
            learn(&mut self.usual.all, self.counted as f64 / seconds);
            learn(&mut self.usual.source, self.counted as f64 / seconds / hosts);
            learn(&mut self.usual.brief, self.brief as f64 / seconds / hosts);
        }
        (self.counted, self.brief, self.hosts, self.since_ms) = (0, 0, Sketch::default(), now_ms);
    }

    /// Would anybody else miss something?
    fn is_shared(&self, entry: &Entry, now_ms: u64) -> bool {
        let is_other = |seen: &(Source, u64)| {
            let is_inside = match entry.source.is_host() {
                true => seen.0 == entry.source,
                false => Source::of(seen.0.application, seen.0.prefix().0, Width::Network) == entry.source,
            };
            !is_inside && now_ms.saturating_sub(seen.1) < ALONE_AFTER_MS
        };
        self.open > u64::from(entry.open) || self.last.iter().flatten().any(is_other)
    }

    fn flood(&self, host: &Entry, network: &Entry, scale: f64, now_ms: u64) -> Option<Suspect> {
        let all_per_s = (APPLICATION_PER_S * scale).max(APPLICATION_TIMES * self.usual.all);
        if self.opened.reached(all_per_s, FLOOD_PIECES.1, now_ms) < FLOOD_PIECES.0 {
            return None;
        }
        let usual = SOURCE_TIMES * self.usual.source;
        let is_over = |entry: &Entry, floor: f64, (least, of): (usize, usize)| {
            self.is_shared(entry, now_ms) && entry.opened.reached((floor * scale).max(usual), of, now_ms) >= least
        };
        let (found, floor) = if is_over(host, FLOOD_PER_S, FLOOD_PIECES) {
            (host, FLOOD_PER_S)
        } else if network.ports.estimate() >= LEAST_HOSTS && is_over(network, NETWORK_PER_S, LONG_PIECES) {
            (network, NETWORK_PER_S)
        } else {
            return None;
        };
        let count = found.opened.sum(PIECES, now_ms);
        Some(Suspect::by(Kind::Flood, found, (floor * scale).max(usual), count, now_ms))
    }

    fn brute_force(&self, host: &Entry, scale: f64, now_ms: u64) -> Option<Suspect> {
        let per_s = (BRIEF_PER_S * scale).max(SOURCE_TIMES * self.usual.brief);
        let (brief, ended) = (host.brief.sum(PIECES, now_ms), host.ended.sum(PIECES, now_ms));
        let is_most = brief as f64 >= BRIEF_SHARE * ended as f64;
        let is_long = host.brief.reached(per_s, LONG_PIECES.1, now_ms) >= LONG_PIECES.0;
        (is_most && is_long).then(|| Suspect::by(Kind::BruteForce, host, per_s, brief, now_ms))
    }
}

fn fold(host: Source) -> u16 {
    let bits = match host.prefix().0 {
        std::net::IpAddr::V4(v4) => u64::from(v4.to_bits()),
        std::net::IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    };
    (bits ^ bits >> 16 ^ bits >> 32 ^ bits >> 48) as u16
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
