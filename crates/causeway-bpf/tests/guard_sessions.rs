//! Sessions that an engine tells of: their datagrams are of something that is open, whatever is held against strangers.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{
    Action, Answer, Entry, Guard, Listener, Mode, Options, PrefixSet, Rate, RateOf, Rule, RuleSet, Sessions, Settings,
    Verdict,
};
use support::packet::udp;
use support::{CLIENT, CLIENT6, EDGE, EDGE6, Namespace, at};

const GAME: u16 = 1;
const PORT: u16 = 1000;
/// `MAX_SESSIONS` of bpf/guard.h.
const MOST: u32 = 131_072;
const WORKER: u64 = 1;
const OTHER_WORKER: u64 = 2;

fn guard() -> Option<(Guard, Sessions)> {
    let place = Namespace::new()?;
    place.enter();
    let guard = support::guard(Guard::open(&Options::default()))?;
    let mut ports = PortTable::default();
    ports.set(PORT..=PORT, GAME);
    for edge in [EDGE, EDGE6] {
        guard.set_ports(Spot::udp(edge.parse().unwrap()), &ports).unwrap();
    }
    let sessions = guard.sessions().unwrap();
    Some((guard, sessions))
}

fn datagram(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    udp(from, to, b"hello")
}

fn answer(guard: &Guard, from: SocketAddr, to: SocketAddr) -> Answer {
    guard.ask(&datagram(from, to)).unwrap().0
}

/// Nobody whom the engine has not named gets more than one datagram through.
fn allow_strangers_one(guard: &Guard) {
    let (of, spares_returning) = (RateOf::Packets, false);
    let rate = Rate { of, length_v4: 0, length_v6: 0, per_second: 1, burst: 1, spares_returning };
    guard.set_rate(1, Some(&rate)).unwrap();
    guard
        .set_listener(GAME, &Listener { mode: Mode::Protect, sets: vec![1], rates: vec![1], ..Listener::default() })
        .unwrap();
    guard.set_settings(&Settings { clock_ns: Some(1), ..Settings::default() }).unwrap();
}

#[test]
fn a_session_that_was_told_keeps_all_its_datagrams_under_a_budget_that_strangers_have_used_up() {
    let Some((guard, sessions)) = guard() else { return };
    allow_strangers_one(&guard);
    for (client, edge) in [(CLIENT, EDGE), (CLIENT6, EDGE6)] {
        let (known, edge) = (at(client, 4000), at(edge, PORT));
        sessions.add(known, edge, WORKER).unwrap();
        let flood: Vec<Answer> = (0..100).map(|n| answer(&guard, at(client, 5000 + n), edge)).collect();
        assert_eq!(flood.iter().filter(|answer| **answer == Answer::Passed).count(), 1);
        assert!((0..100).all(|_| answer(&guard, known, edge) == Answer::Passed));
    }
    let counts = guard.counts(GAME).unwrap();
    assert_eq!(counts.get(Verdict::Established).packets, 200);
    assert_eq!((counts.get(Verdict::Passed).packets, counts.get(Verdict::Rate).packets), (2, 198));
}

#[test]
fn each_of_its_ends_matters_and_so_does_the_protocol() {
    let Some((guard, sessions)) = guard() else { return };
    allow_strangers_one(&guard);
    let (client, edge) = (at(CLIENT, 4000), at(EDGE, PORT));
    sessions.add(client, edge, WORKER).unwrap();
    answer(&guard, at(CLIENT, 1), edge); // there goes the budget
    assert_eq!(answer(&guard, at(CLIENT, 4001), edge), Answer::Dropped);
    assert_eq!(answer(&guard, at("198.18.1.77", 4000), edge), Answer::Dropped);
    assert_eq!(answer(&guard, client, edge), Answer::Passed);
    sessions.remove(client, edge).unwrap();
    sessions.remove(client, edge).unwrap(); // again: fine
    assert_eq!(answer(&guard, client, edge), Answer::Dropped, "it has ended");
    sessions.add(client, at(EDGE, PORT + 1), WORKER).unwrap();
    sessions.add(client, at("198.18.1.78", PORT), WORKER).unwrap();
    assert_eq!(answer(&guard, client, edge), Answer::Dropped, "others' ports are not this one");
    let mapped = format!("[::ffff:{CLIENT}]:4000").parse().unwrap();
    sessions.add(mapped, edge, WORKER).unwrap();
    assert_eq!(answer(&guard, client, edge), Answer::Passed, "an IPv4 address, however it is written");
}

#[test]
fn neither_a_rule_nor_a_blocked_prefix_drops_its_datagrams_and_hits_say_so() {
    let Some((guard, sessions)) = guard() else { return };
    let (client, edge) = (at(CLIENT, 4000), at(EDGE, PORT));
    guard.set_listener(GAME, &Listener { mode: Mode::Protect, sets: vec![1], ..Listener::default() }).unwrap();
    let rule = Rule { action: Action::Drop, tag: 9, protocol: Some(17), ..Rule::default() };
    guard.swap_rules(&RuleSet::from([(GAME, vec![rule])])).unwrap();
    assert_eq!(answer(&guard, client, edge), Answer::Dropped);
    sessions.add(client, edge, WORKER).unwrap();
    assert_eq!(answer(&guard, client, edge), Answer::Passed);
    let hits = guard.hits(9).unwrap();
    assert_eq!((hits.packets, hits.established), (2, 1));
    let blocked: PrefixSet = [("0.0.0.0/0".parse().unwrap(), Entry::block())].into_iter().collect();
    guard.swap_prefixes(1, blocked).unwrap();
    assert_eq!(answer(&guard, client, edge), Answer::Passed);
    assert_eq!(answer(&guard, at(CLIENT, 4001), edge), Answer::Dropped);
}

#[test]
fn its_samples_are_of_what_has_gone_both_ways() {
    let Some((guard, sessions)) = guard() else { return };
    allow_strangers_one(&guard);
    guard.set_settings(&Settings { sample_every: 1, clock_ns: Some(1), ..Settings::default() }).unwrap();
    let samples = guard.samples().unwrap();
    let edge = at(EDGE, PORT);
    sessions.add(at(CLIENT, 4000), edge, WORKER).unwrap();
    for port in [4000, 4001] {
        answer(&guard, at(CLIENT, port), edge);
    }
    let told: Vec<bool> = samples.take(10).map(|sample| sample.is_two_way).collect();
    assert_eq!(told, [true, false]);
}

#[test]
fn what_a_teller_has_left_is_swept_and_the_others_stay() {
    let Some((guard, sessions)) = guard() else { return };
    allow_strangers_one(&guard);
    answer(&guard, at(CLIENT, 1), at(EDGE, PORT));
    for n in 0..5000 {
        let teller = if n % 2 == 0 { WORKER } else { OTHER_WORKER };
        sessions.add(at(CLIENT, 2000 + n), at(EDGE, PORT), teller).unwrap();
        sessions.add(at(CLIENT6, 2000 + n), at(EDGE6, PORT), teller).unwrap();
    }
    sessions.add(at(CLIENT, 2000), at(EDGE, PORT), OTHER_WORKER).unwrap(); // taken over
    assert_eq!(sessions.sweep(|teller| teller == WORKER).unwrap(), 5001);
    assert_eq!(answer(&guard, at(CLIENT, 2000), at(EDGE, PORT)), Answer::Passed);
    assert_eq!(answer(&guard, at(CLIENT, 2001), at(EDGE, PORT)), Answer::Passed);
    assert_eq!(answer(&guard, at(CLIENT, 2002), at(EDGE, PORT)), Answer::Dropped);
    assert_eq!(sessions.sweep(|_| true).unwrap(), 0);
    assert_eq!(answer(&guard, at(CLIENT, 2001), at(EDGE, PORT)), Answer::Dropped);
}

#[test]
fn a_full_table_says_so_and_what_is_in_it_stays() {
    let Some((guard, sessions)) = guard() else { return };
    allow_strangers_one(&guard);
    let (edge, client) = (at(EDGE, PORT), |n: u32| SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + n), 4000)));
    let begin = Instant::now();
    (0..MOST).for_each(|n| sessions.add(client(n), edge, WORKER).unwrap());
    let ns = begin.elapsed().as_nanos() / u128::from(MOST);
    let error = sessions.add(client(MOST), edge, WORKER).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::E2BIG), "{error}");
    sessions.add(client(0), edge, OTHER_WORKER).unwrap(); // one that is there needs no room
    answer(&guard, at(CLIENT, 1), edge);
    assert_eq!(answer(&guard, client(MOST - 1), edge), Answer::Passed);
    assert_eq!(answer(&guard, client(MOST), edge), Answer::Dropped, "a stranger, as without all this");
    sessions.remove(client(7), edge).unwrap();
    sessions.add(client(MOST), edge, WORKER).unwrap();
    assert_eq!(answer(&guard, client(MOST), edge), Answer::Passed);
    let begin = Instant::now();
    assert_eq!(sessions.sweep(|teller| teller == WORKER).unwrap(), 1);
    eprintln!("told in {ns} ns each, {MOST} swept in {} ms", begin.elapsed().as_millis());
}
