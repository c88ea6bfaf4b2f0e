//! Whom the judge suspects and whom not, second by second, in virtual time.

use std::net::Ipv4Addr;

use super::super::Care;
use super::*;

const APPLICATION: u128 = 7;

/// Some clients, each doing the same at the same rate.
struct Crowd {
    first: [u8; 4],
    hosts: u32,
    /// So far apart.
    step: u32,
    per_s: f64,
    does: Does,
}

#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// Opens and keeps it.
    Open,
    /// Opens, says this much and hears this much, and ends it after so long.
    Session(u64, u64, u64),
    /// Opens the next port each time.
    Walk,
    /// As `Walk`, by SYNs that nobody answers.
    Probe,
}

fn crowd(first: [u8; 4], hosts: u32, per_s: f64, does: Does) -> Crowd {
    Crowd { first, hosts, step: 256, per_s, does }
}

const LOGIN: Does = Does::Session(1_800, 2_400, 900);
const USERS: Crowd =
    Crowd { first: [192, 0, 2, 1], hosts: 50, step: 256, per_s: 4.0, does: Does::Session(200, 90_000, 3_000) };

const CARE: Care = Care { sensitivity: Sensitivity::Medium, logins: true };

struct Play {
    judge: Judge,
    terms: Terms,
    now_ms: u64,
    /// In order, once each.
    found: Vec<(u64, Suspect)>,
}

impl Play {
    fn at(sensitivity: Sensitivity) -> Play {
        let terms = Terms::from_iter([(APPLICATION, Care { sensitivity, logins: true })]);
        Play { judge: Judge::default(), terms, now_ms: 1_000_000, found: Vec::new() }
    }

    fn sight(&mut self, client: Ipv4Addr, port: u16, what: What) {
        let seen = Sighting { application: APPLICATION, client: client.into(), port, what };
        let is_calm = self.found.is_empty();
        if let Some(suspect) = self.judge.see(&seen, &self.terms, is_calm, self.now_ms)
            && !self.found.iter().any(|(_, found)| (found.source, found.kind) == (suspect.source, suspect.kind))
        {
            self.found.push((self.now_ms, suspect));
        }
    }

    /// Steps of 10 ms.
    fn run(&mut self, seconds: u64, crowds: &[Crowd]) -> &mut Play {
        let mut made: Vec<Vec<f64>> = crowds.iter().map(|crowd| vec![0.0; crowd.hosts as usize]).collect();
        for _ in 0..seconds * 100 {
            for (crowd, made) in crowds.iter().zip(&mut made) {
                for (host, made) in made.iter_mut().enumerate() {
                    let before = *made as u64;
                    *made += crowd.per_s / 100.0;
                    let client = Ipv4Addr::from_bits(u32::from_be_bytes(crowd.first) + host as u32 * crowd.step);
                    (before..*made as u64).for_each(|n| self.act(client, crowd.does, n));
                }
            }
            self.now_ms += 10;
        }
        self
    }

    fn act(&mut self, client: Ipv4Addr, does: Does, number: u64) {
        match does {
            Does::Open => self.sight(client, 22, What::Opened),
            Does::Session(client_bytes, origin_bytes, lasted_ms) => {
                self.sight(client, 22, What::Opened);
                self.sight(client, 22, What::Closed { client_bytes, origin_bytes, lasted_ms });
            }
            Does::Walk => self.sight(client, number as u16, What::Opened),
            Does::Probe => self.sight(client, number as u16, What::Failed { is_proven: false }),
        }
    }

    fn of(&self, kind: Kind) -> Vec<(u64, Suspect)> {
        self.found.iter().filter(|(_, found)| found.kind == kind).copied().collect()
    }

    fn sources(&self, kind: Kind) -> Vec<String> {
        self.of(kind).iter().map(|(_, found)| found.source.text()).collect()
    }
}

#[test]
fn a_flood_of_64_sources_is_found_within_two_seconds_and_users_are_not_suspected() {
    let mut play = Play::at(Sensitivity::Medium);
    play.run(20, &[USERS]);
    assert_eq!(play.found, []);
    let began_ms = play.now_ms;
    play.run(5, &[USERS, Crowd { step: 1, ..crowd([198, 51, 100, 0], 64, 200.0, Does::Open) }]);
    let found = play.of(Kind::Flood);
    assert_eq!((found.len(), play.found.len()), (64, 64), "{:?}", play.found);
    assert!(found.iter().all(|(at_ms, suspect)| *at_ms < began_ms + 2_000 && suspect.is_proven));
    // And since when, and how hard, is known: each opens one every 5 ms.
    assert!(found.iter().all(|(_, suspect)| (began_ms..began_ms + 20).contains(&suspect.began_ms)), "{found:?}");
    assert!(found.iter().all(|(_, suspect)| (100..=200).contains(&suspect.per_s)), "{found:?}");
    assert!(
        play.sources(Kind::Flood).iter().all(|source| source.starts_with("198.51.100.") && source.ends_with("/32"))
    );
}

#[test]
fn a_crowd_of_many_that_do_a_little_each_is_no_flood() {
    let crowds = [
        [USERS, crowd([10, 0, 0, 1], 2_000, 1.0, Does::Session(300, 40_000, 800))],
        [USERS, crowd([10, 0, 0, 1], 400, 20.0, Does::Session(300, 40_000, 800))],
    ];
    for crowds in crowds {
        let mut play = Play::at(Sensitivity::Medium);
        play.run(10, &[USERS]).run(5, &crowds);
        assert_eq!(play.found, []);
    }
}

#[test]
fn one_that_is_alone_takes_nothing_from_anybody_until_somebody_comes() {
    let mut play = Play::at(Sensitivity::Medium);
    play.run(10, &[crowd([198, 51, 100, 1], 1, 2_000.0, Does::Session(1, 1, 1))]);
    assert_eq!(play.found, []);
    play.run(2, &[crowd([198, 51, 100, 1], 1, 2_000.0, Does::Open), crowd([192, 0, 2, 1], 1, 1.0, Does::Open)]);
    assert_eq!(play.sources(Kind::Flood), ["198.51.100.1/32"]);
}

#[test]
fn a_flood_of_forged_sources_makes_nobody_of_one_that_is_alone_an_attacker() {
    let (mut judge, terms) = (Judge::default(), Terms::from_iter([(1, CARE)]));
    for number in 0..20_000_u32 {
        let forged = std::net::IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
        let what = What::Failed { is_proven: false };
        judge.see(&Sighting { application: 1, client: forged, port: 1, what }, &terms, true, u64::from(number / 2));
        let client = "198.51.100.1".parse().unwrap();
        let found = judge.see(
            &Sighting { application: 1, client, port: 1, what: What::Opened },
            &terms,
            true,
            u64::from(number / 2),
        );
        assert_eq!(found, None);
    }
}

#[test]
fn what_is_usual_for_an_application_is_no_flood() {
    let busy = || crowd([10, 0, 0, 1], 20, 150.0, Does::Session(300, 40_000, 800));
    let mut play = Play::at(Sensitivity::Medium);
    // It has grown to this over a day; an edge that starts anew takes it for a flood.
    for percent in 1..=10 {
        play.run(200, &[crowd([10, 0, 0, 1], 20, 15.0 * f64::from(percent), Does::Session(300, 40_000, 800))]);
    }
    assert_eq!(play.found, []);
    play.run(20, &[busy()]);
    assert_eq!(play.found, []);
}

#[test]
fn a_network_whose_hosts_share_a_flood_is_found_as_one() {
    let mut play = Play::at(Sensitivity::Medium);
    play.run(10, &[USERS]);
    play.run(6, &[USERS, Crowd { step: 1, ..crowd([198, 51, 100, 0], 200, 10.0, Does::Open) }]);
    assert_eq!(play.sources(Kind::Flood), ["198.51.100.0/24"]);
}

#[test]
fn logins_that_are_tried_again_and_again_are_found_within_five_seconds() {
    let mut play = Play::at(Sensitivity::Medium);
    play.run(10, &[USERS]);
    let began_ms = play.now_ms;
    play.run(5, &[USERS, crowd([198, 51, 100, 1], 50, 20.0, LOGIN)]);
    let found = play.of(Kind::BruteForce);
    assert_eq!((found.len(), play.found.len()), (50, 50));
    assert!(found.iter().all(|(at_ms, _)| *at_ms <= began_ms + 5_000));
}

#[test]
fn short_connections_of_other_kinds_are_no_tries_to_log_in() {
    let cases = [
        ("a page with twenty parts, now and then", Does::Session(500, 8_000, 50), 0.0),
        ("an echo of one byte", Does::Session(1, 1, 1), 200.0),
        ("downloads", Does::Session(500, 200_000, 300), 40.0),
        ("long sessions", Does::Session(500, 9_000, 60_000), 40.0),
    ];
    for (name, does, per_s) in cases {
        let mut play = Play::at(Sensitivity::Medium);
        let client = Ipv4Addr::new(198, 51, 100, 1);
        for _ in 0..5 {
            if per_s == 0.0 {
                (0..20).for_each(|n| play.act(client, does, n));
            }
            play.run(2, &[crowd([198, 51, 100, 1], 1, per_s, does)]);
        }
        assert_eq!(play.found, [], "{name}");
    }
}

#[test]
fn where_nobody_logs_in_short_connections_are_how_a_service_works() {
    let mut play = Play::at(Sensitivity::Medium);
    play.terms.insert(APPLICATION, Care { logins: false, ..CARE });
    play.run(10, &[USERS]);
    play.run(10, &[USERS, crowd([198, 51, 100, 1], 2, 90.0, LOGIN)]);
    assert_eq!(play.found, []);
}

#[test]
fn a_scan_is_found_and_banned_only_if_its_source_is_proven() {
    for (does, is_proven) in [(Does::Walk, true), (Does::Probe, false)] {
        let mut play = Play::at(Sensitivity::Medium);
        let began_ms = play.now_ms;
        play.run(5, &[USERS, crowd([198, 51, 100, 1], 1, 300.0, does)]);
        let found = play.of(Kind::Scan);
        assert_eq!(play.sources(Kind::Scan), ["198.51.100.1/32"]);
        assert!(found[0].0 < began_ms + 2_000 && found[0].1.is_proven == is_proven, "{found:?}");
    }
}

#[test]
fn sensitivity_moves_the_floors_and_off_suspects_nobody() {
    let attack = |per_s| [USERS, crowd([198, 51, 100, 1], 20, per_s, Does::Open)];
    let found = |sensitivity, per_s| {
        let mut play = Play::at(sensitivity);
        play.run(5, &attack(per_s)).of(Kind::Flood).len()
    };
    use Sensitivity::{High, Low, Medium, Off};
    assert_eq!([found(Off, 600.0), found(Low, 600.0), found(Low, 200.0)], [0, 20, 0]);
    assert_eq!([found(Medium, 200.0), found(Medium, 40.0), found(High, 40.0)], [20, 0, 20]);
}

#[test]
fn programs_of_this_machine_and_applications_that_are_gone_are_let_alone() {
    let mut play = Play::at(Sensitivity::High);
    play.run(5, &[crowd([127, 0, 0, 1], 1, 500.0, LOGIN), crowd([192, 0, 2, 1], 2, 1.0, Does::Open)]);
    play.terms.clear();
    play.run(5, &[crowd([198, 51, 100, 1], 5, 500.0, LOGIN)]);
    assert_eq!(play.found, []);
}

#[test]
fn room_is_bounded_whoever_comes() {
    let mut judge = Judge::default();
    let terms: Terms = (0..MOST_APPLICATIONS as u128 + 100).map(|id| (id, CARE)).collect();
    for number in 0..200_000_u32 {
        let client = std::net::IpAddr::V4(Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1)));
        let application = u128::from(number) % (MOST_APPLICATIONS as u128 + 100);
        judge.see(&Sighting { application, client, port: 1, what: What::Opened }, &terms, true, 1_000);
    }
    assert_eq!((judge.hosts.len(), judge.networks.len()), (MOST_HOSTS, MOST_NETWORKS));
    assert_eq!(judge.habits.len(), MOST_APPLICATIONS);
}

#[test]
#[ignore = "a measurement"]
fn what_a_sighting_costs() {
    for sources in [1_u32, 50, 10_000] {
        let (mut judge, terms) = (Judge::default(), Terms::from_iter([(APPLICATION, CARE)]));
        let began = std::time::Instant::now();
        let count = 2_000_000_u32;
        for n in 0..count {
            let client = std::net::IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n % sources * 77));
            let what = match n & 1 {
                0 => What::Opened,
                _ => What::Closed { client_bytes: 1, origin_bytes: 1, lasted_ms: 1 },
            };
            judge.see(
                &Sighting { application: APPLICATION, client, port: 1, what },
                &terms,
                true,
                1_000 + u64::from(n / 40),
            );
        }
        println!("{sources} sources: {} ns", began.elapsed().as_nanos() / u128::from(count));
    }
}
