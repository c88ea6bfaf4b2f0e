//! A snapshot becomes what runs: what changes, what must not notice, what is refused and why.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use causeway_edge::{Config, Edge};
use proptest::prelude::*;
use serde_json::json;
use support::{application, connect, echo, eventually, free_address, origin, snapshot, world};

fn states(report: &causeway_edge::ApplyReport) -> Vec<String> {
    let listeners = serde_json::to_value(&report.listeners).unwrap();
    listeners.as_array().unwrap().iter().map(|l| l["state"].as_str().unwrap().to_string()).collect()
}

fn say(stream: &mut std::net::TcpStream, word: &[u8]) {
    stream.write_all(word).unwrap();
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, word);
}

#[test]
fn the_same_snapshot_twice_is_a_no_op() {
    let world = world(1);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    let app = application(1, "tcp", edge, &[origin], json!({}));
    assert_eq!(states(&world.apply(std::slice::from_ref(&app))), ["running"]);
    let again = world.apply(&[app]);
    assert_eq!(states(&again), ["unchanged"]);
    assert_eq!(serde_json::to_value(again.outcome).unwrap(), "unchanged");
}

#[test]
fn automatic_mitigation_is_the_agents_and_a_change_of_it_touches_nothing() {
    let world = world(1);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    let app = |more| application(1, "tcp", edge, &[origin], more);
    assert_eq!(states(&world.apply(&[app(json!({}))])), ["running"]);
    let changes = [("off", true), ("high", true), ("high", false), ("medium", false), ("medium", true)];
    for (sensitivity, is_on) in changes {
        let mut told = support::settings();
        told["mitigation"] = json!(is_on);
        let report = world.apply_with(told, &[app(json!({"mitigation": sensitivity}))]);
        assert_eq!(states(&report), ["unchanged"], "{sensitivity} {is_on}");
    }
}

#[test]
fn an_unrelated_change_cuts_no_connection() {
    let world = world(2);
    let (first, second) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let origin = origin("127.0.0.1", echo);
    let stays = application(1, "tcp", first, &[origin], json!({}));
    world.apply(std::slice::from_ref(&stays));
    let mut clients: Vec<_> = (0..20).map(|_| connect(first)).collect();
    clients.iter_mut().for_each(|client| say(client, b"before"));
    for round in 0..20 {
        let other = application(2, "tcp", second, &[origin], json!({"idle_timeout_ms": 1000 + round}));
        world.apply(&[stays.clone(), other]);
        clients.iter_mut().for_each(|client| say(client, b"during"));
    }
    world.apply(&[stays]);
    clients.iter_mut().for_each(|client| say(client, b"after"));
}

#[test]
fn a_changed_application_keeps_its_connections_and_gives_new_ones_the_new_origin() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let other = origin("127.0.0.1", |mut stream| stream.write_all(b"new").unwrap());
    world.apply(&[application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}))]);
    let mut old = connect(edge);
    say(&mut old, b"old");
    world.apply(&[application(1, "tcp", edge, &[other], json!({}))]);
    let mut word = [0; 3];
    connect(edge).read_exact(&mut word).unwrap();
    assert_eq!(&word, b"new");
    say(&mut old, b"old");
}

#[test]
fn a_port_that_cannot_be_had_is_reported_while_the_rest_goes_live() {
    let world = world(2);
    let (free, taken) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let foreign = TcpListener::bind(taken).unwrap();
    let origin = origin("127.0.0.1", echo);
    let apps = [application(1, "tcp", taken, &[origin], json!({})), application(2, "tcp", free, &[origin], json!({}))];
    let report = world.apply(&apps);
    assert_eq!(states(&report), ["refused", "running"]);
    let reason = report.listeners[0].reason.clone().unwrap();
    assert_eq!(reason.code, "port_in_use");
    assert!(reason.message.contains(&taken.port().to_string()), "{}", reason.message);
    say(&mut connect(free), b"live");
    assert_eq!(serde_json::to_value(world.edge.observe(0)).unwrap()["refused"][0]["state"], "refused");
    // Once the port is free the next snapshot has it.
    drop(foreign);
    assert_eq!(states(&world.apply(&apps)), ["running", "unchanged"]);
    say(&mut connect(taken), b"live");
}

#[test]
fn an_address_of_another_machine_is_refused_by_name() {
    let world = world(1);
    let app = application(1, "tcp", "192.0.2.1:4000".parse().unwrap(), &[origin("127.0.0.1", echo)], json!({}));
    assert_eq!(world.apply(&[app]).listeners[0].reason.clone().unwrap().code, "address_not_local");
}

#[test]
fn a_port_moves_from_one_application_to_another_without_a_gap() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    let a = application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}));
    let b = application(2, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}));
    world.apply(std::slice::from_ref(&a));
    let mut kept = connect(edge);
    say(&mut kept, b"a");
    for _ in 0..25 {
        world.apply(std::slice::from_ref(&b));
        say(&mut connect(edge), b"b");
        world.apply(std::slice::from_ref(&a));
        say(&mut connect(edge), b"a");
    }
    say(&mut kept, b"a");
}

#[test]
fn deleting_closes_the_port_at_once_and_drains_or_cuts_as_the_policy_says() {
    let cases = [
        (json!({"on_delete": "drain", "drain_ms": 400}), Duration::from_millis(350)..Duration::from_millis(1500)),
        (json!({"on_delete": "close"}), Duration::ZERO..Duration::from_millis(300)),
    ];
    for (change, lives) in cases {
        let world = world(2);
        let edge = free_address("127.0.0.1");
        world.apply(&[application(1, "tcp", edge, &[origin("127.0.0.1", echo)], change)]);
        let mut client = connect(edge);
        say(&mut client, b"x");
        let begin = Instant::now();
        world.apply(&[]);
        let refused = std::net::TcpStream::connect(edge).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(lives.contains(&begin.elapsed()), "{:?} is not in {lives:?}", begin.elapsed());
        assert_eq!(world.record("drained")["status"], 200);
    }
}

#[test]
fn totals_never_go_back_when_applications_go() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({"on_delete": "close"}))]);
    say(&mut connect(edge), b"12345");
    world.apply(&[]);
    let totals = eventually("closed", || Some(world.totals()).filter(|totals| totals["connections_open"] == 0));
    assert_eq!((totals["connections_total"].as_u64(), totals["bytes_ingress"].as_u64()), (Some(1), Some(5)));
}

#[test]
fn a_snapshot_that_cannot_be_obeyed_changes_nothing() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let good = application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}));
    world.edge.apply(&snapshot(7, std::slice::from_ref(&good))).unwrap();
    let with = |field: &str, value: serde_json::Value| {
        let mut app = good.clone();
        app[field] = value;
        snapshot(8, &[app])
    };
    let mut future: serde_json::Value = serde_json::from_slice(&snapshot(8, &[])).unwrap();
    future["format"] = json!(2);
    future["something_new"] = json!({});
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("snapshot_malformed", b"{".to_vec()),
        ("snapshot_malformed", vec![0xff; 100]),
        ("snapshot_malformed", b"[]".to_vec()),
        ("snapshot_format", future.to_string().into_bytes()),
        ("snapshot_stale", snapshot(6, &[])),
        ("snapshot_malformed", with("unknown_option", json!(true))),
        ("snapshot_malformed", with("protocol", json!("sctp"))),
        ("snapshot_malformed", with("edge_addresses", json!(["localhost"]))),
        ("snapshot_malformed", with("edge_ports", json!({"first": 70000, "last": 70000}))),
        ("snapshot_malformed", with("proxy_protocol_from", json!(["10.0.0.1/8"]))),
        ("snapshot_invalid", with("edge_ports", json!({"first": 9, "last": 8}))),
        ("snapshot_invalid", with("edge_ports", json!({"first": 0, "last": 0}))),
        ("snapshot_invalid", with("edge_ports", json!({"first": 10, "last": 12}))),
        ("snapshot_invalid", with("id", json!("xyz"))),
        ("snapshot_invalid", with("connect_timeout_ms", json!(0))),
        ("snapshot_invalid", with("idle_timeout_ms", json!(u64::MAX))),
        ("snapshot_invalid", with("proxy_protocol", json!("simple"))),
        ("snapshot_invalid", with("origins", json!({"kind": "addresses", "addresses": []}))),
        ("snapshot_invalid", snapshot(8, &[good.clone(), good.clone()])),
    ];
    for (code, bytes) in cases {
        let error = world.edge.apply(&bytes).unwrap_err();
        assert_eq!(error.code(), code, "{error} for {}", String::from_utf8_lossy(&bytes));
    }
    let large = Edge::start(Config { workers: 1, max_snapshot_bytes: 1000, ..Config::default() }).unwrap();
    assert_eq!(large.apply(&[b' '; 1001]).unwrap_err().code(), "snapshot_too_large");
    assert_eq!(world.edge.observe(0).version, 7);
    say(&mut connect(edge), b"still");
}

#[test]
fn the_last_good_snapshot_serves_after_a_restart_with_nothing_else_up() {
    let dir = std::env::temp_dir().join(format!("causeway-apply-{}", std::process::id()));
    let config = || Config { workers: 2, state_dir: Some(dir.clone()), ..Config::default() };
    let edge_address = free_address("127.0.0.1");
    let app = application(1, "tcp", edge_address, &[origin("127.0.0.1", echo)], json!({}));
    for version in 1..=5 {
        let edge = Edge::start(config()).unwrap();
        edge.apply(&snapshot(version, std::slice::from_ref(&app))).unwrap();
        edge.drain(Duration::ZERO);
    }
    let kept = || {
        let of_snapshot = |path: &PathBuf| path.extension().is_some_and(|end| end == "causeway");
        let entries = std::fs::read_dir(&dir).unwrap();
        let mut files: Vec<_> = entries.map(|f| f.unwrap().path()).filter(of_snapshot).collect();
        files.sort();
        files
    };
    assert_eq!(kept().len(), 3, "{:?}", kept());
    // The newest is damaged, the one before it serves.
    std::fs::write(kept().pop().unwrap(), b"causeway-snapshot 1 5 3 00\n{}").unwrap();
    let edge = Edge::start(config()).unwrap();
    let report = edge.observe(0);
    assert_eq!((report.version, report.rejected_snapshots.len()), (4, 1));
    say(&mut connect(edge_address), b"served");
    drop(edge);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn what_processes_have_died_of_is_neither_served_from_disk_nor_taken_again_and_all_else_is() {
    let dir = std::env::temp_dir().join(format!("causeway-distrust-{}", std::process::id()));
    let config =
        |distrusts_last| Config { workers: 1, state_dir: Some(dir.clone()), distrusts_last, ..Config::default() };
    let address = free_address("127.0.0.1");
    let app = application(1, "tcp", address, &[origin("127.0.0.1", echo)], json!({}));
    let first = Edge::start(config(false)).unwrap();
    first.apply(&snapshot(6, std::slice::from_ref(&app))).unwrap();
    first.apply(&snapshot(7, &[])).unwrap();
    drop(first);
    let edge = Edge::start(config(true)).unwrap();
    let report = edge.observe(0);
    assert_eq!(report.version, 6);
    assert!(report.rejected_snapshots[0].contains("snapshot 7"), "{:?}", report.rejected_snapshots);
    say(&mut connect(address), b"served");
    for version in [7, 9] {
        let refused = edge.apply(&snapshot(version, &[])).unwrap_err();
        assert_eq!(refused.code(), "refused", "under whatever version it comes");
        assert!(refused.to_string().contains(&format!("snapshot {version}")), "{refused}");
    }
    edge.apply(&snapshot(8, std::slice::from_ref(&app))).unwrap();
    drop(edge);
    let next = Edge::start(config(false)).unwrap();
    assert_eq!(next.observe(0).version, 8);
    drop(next);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn events_that_nobody_reads_in_time_are_counted_and_cost_no_connection() {
    let world = support::world_with(Config { workers: 1, event_capacity: 64, ..Config::default() });
    let edge = free_address("127.0.0.1");
    world.apply(&[application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}))]);
    for _ in 0..100 {
        say(&mut connect(edge), b"x");
    }
    eventually("all closed", || (world.totals()["connections_open"] == 0).then_some(()));
    let report = world.edge.observe(1_000);
    assert_eq!((report.events.len(), report.events_lost), (64, 200 - 64));
}

#[test]
fn drain_answers_how_many_flows_it_cut() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}))]);
    let mut client = connect(edge);
    say(&mut client, b"x");
    eventually("the flow is counted", || (world.totals()["connections_open"] == 1).then_some(()));
    assert_eq!(world.edge.drain(Duration::from_millis(200)), 1);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(world.edge.apply(&snapshot(99, &[])).unwrap_err().code(), "edge_stopped");
}

/// One edge for all mutations: a panic or a stuck lock in one would show in the next.
#[test]
fn ten_thousand_mutations_of_a_snapshot_never_stop_the_good_one() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let app = application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}));
    let good = snapshot(u64::MAX - 1, &[app]);
    world.edge.apply(&good).unwrap();
    let mutation = prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| (at, Some(byte), 1usize)),
        (any::<prop::sample::Index>(), 1usize..200).prop_map(|(at, len)| (at, None, len)),
    ];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let accepted = std::cell::Cell::new(0u32);
    runner
        .run(&prop::collection::vec(mutation, 1..4), |mutations| {
            let mut bytes = good.clone();
            for (at, byte, len) in mutations {
                if bytes.is_empty() {
                    break;
                }
                let at = at.index(bytes.len());
                match byte {
                    Some(byte) => bytes[at] = byte,
                    None => drop(bytes.drain(at..(at + len).min(bytes.len()))),
                }
            }
            match world.edge.apply(&bytes) {
                // A mutation may well be a valid snapshot (another name, another timeout); then the good one comes back.
                Ok(report) => {
                    accepted.set(accepted.get() + 1);
                    let next = report.version.max(u64::MAX - 1);
                    let mut back: serde_json::Value = serde_json::from_slice(&good).unwrap();
                    back["version"] = json!(next);
                    world.edge.apply(back.to_string().as_bytes()).unwrap();
                }
                Err(error) => prop_assert!(error.code().starts_with("snapshot_"), "{}", error),
            }
            Ok(())
        })
        .unwrap();
    say(&mut connect(edge), b"alive");
    assert!(accepted.get() < 5_000, "most mutations are refused, {} were not", accepted.get());
}
