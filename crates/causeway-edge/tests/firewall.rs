//! The IP firewall through a real edge on loopback: who is refused, when, and what is on record.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::udp::{address, client, echo as udp_echo, hears_nothing, round_trip};
use support::{DEADLINE, World, application, echo, eventually, free_address, origin, settings, world};

const FIREWALL: &str = "f0000000000000000000000000000000";

/// One application with the firewall on, and these rules.
fn apply(world: &World, version: u64, mut application: Value, rules: Value) -> Value {
    application["firewall"] = json!(FIREWALL);
    let mut all = Vec::new();
    for (action, prefixes) in rules.as_object().unwrap() {
        let rule = |prefix: &Value| json!({"id": prefix, "action": action, "target": {"prefix": prefix}});
        all.extend(prefixes.as_array().unwrap().iter().map(rule));
    }
    let firewall = json!({"id": FIREWALL, "scopes": [{"rules": all}]});
    let document = json!({
        "format": 1, "version": version, "settings": settings(), "applications": [application],
        "firewalls": [firewall],
    });
    serde_json::to_value(world.edge.apply(document.to_string().as_bytes()).unwrap()).unwrap()
}

/// A connection from one of loopback's addresses.
fn from(client: &str, edge: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(client.parse().unwrap(), 0).into()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(&edge.into()).unwrap();
    socket.into()
}

fn is_served(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    let served = stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer));
    match served {
        Ok(()) => answer == *b"hello",
        Err(error) => {
            let is_reset = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
            assert!(is_reset, "refused by RST, not {error}");
            false
        }
    }
}

#[test]
fn a_blocked_client_is_reset_and_its_origin_hears_nothing() {
    let world = world(1);
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let edge = free_address("127.0.0.1");
    let plain = application(1, "tcp", edge, &[origin.local_addr().unwrap()], json!({}));
    let report = apply(&world, 1, plain, json!({"block": ["127.0.0.2/32"]}));
    assert_eq!(report["listeners"][0]["state"], "running");
    assert!(!is_served(&mut from("127.0.0.2", edge)));
    origin.set_nonblocking(true).unwrap();
    assert_eq!(origin.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    let record = world.record("firewall_blocked");
    assert_eq!((&record["kind"], &record["status"]), (&json!("clientFiltered"), &json!(403)));
    assert_eq!((&record["client_matched_ip_firewall"], &record["ip_firewall"]), (&json!("BLOCK_IP"), &json!(true)));
    let totals = world.totals();
    assert_eq!((&totals["firewall_refused_total"], &totals["filtered_total"]), (&json!(1), &json!(1)));
    assert_eq!(totals["connections_open"], 0);
}

#[test]
fn the_most_specific_rule_decides_and_the_record_says_which_kind() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let plain = application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}));
    let rules = json!({"block": ["127.0.0.0/8", "127.0.1.128/25"], "allow": ["127.0.1.0/24", "127.0.0.3/32"]});
    apply(&world, 1, plain, rules);
    for (client, is_let_in) in
        [("127.0.0.1", false), ("127.0.0.3", true), ("127.0.1.5", true), ("127.0.1.200", false), ("127.0.0.4", false)]
    {
        assert_eq!(is_served(&mut from(client, edge)), is_let_in, "{client}");
    }
    assert_eq!(world.record("opened")["client_matched_ip_firewall"], "WHITELIST_IP");
}

#[test]
fn without_a_rule_about_it_a_client_is_let_in_and_without_a_firewall_nothing_is_claimed() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let plain = || application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}));
    apply(&world, 1, plain(), json!({"block": ["198.51.100.0/24"]}));
    assert!(is_served(&mut from("127.0.0.1", edge)));
    assert_eq!(world.record("opened")["client_matched_ip_firewall"], "ALLOW");
    let off = json!({"format": 1, "version": 2, "settings": settings(), "applications": [plain()]});
    world.edge.apply(off.to_string().as_bytes()).unwrap();
    assert!(is_served(&mut from("127.0.0.1", edge)));
    let record = world.record("opened");
    assert_eq!((&record["client_matched_ip_firewall"], &record["ip_firewall"]), (&json!("UNKNOWN"), &json!(false)));
}

#[test]
fn live_connections_go_on_unless_the_rule_drops_established_ones() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    let at = origin("127.0.0.1", echo);
    let plain = || application(1, "tcp", edge, &[at], json!({}));
    apply(&world, 1, plain(), json!({}));
    let (mut blocked, mut other) = (from("127.0.0.2", edge), from("127.0.0.3", edge));
    assert!(is_served(&mut blocked) && is_served(&mut other));
    apply(&world, 2, plain(), json!({"block": ["127.0.0.2/32"]}));
    assert!(is_served(&mut blocked), "a rule alone is about new connections");
    assert!(!is_served(&mut from("127.0.0.2", edge)));
    apply(&world, 3, plain(), json!({"cut": ["127.0.0.2/32"]}));
    assert_eq!(blocked.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(is_served(&mut other));
    let record = world.record("firewall_cut");
    assert_eq!((&record["kind"], &record["client_matched_ip_firewall"]), (&json!("disconnect"), &json!("BLOCK_IP")));
    other.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn datagrams_of_a_blocked_client_are_dropped_and_a_session_is_cut_if_asked_for() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let at = udp_echo("127.0.0.1");
    let plain = || application(1, "udp", edge, &[at], json!({}));
    let client = |ip: &str| {
        let made = UdpSocket::bind((ip, 0)).unwrap();
        made.connect(edge).unwrap();
        made.set_read_timeout(Some(DEADLINE)).unwrap();
        made
    };
    apply(&world, 1, plain(), json!({"block": ["127.0.0.2/32"]}));
    let (blocked, live) = (client("127.0.0.2"), client("127.0.0.3"));
    assert!(round_trip(&live, b"in"));
    for _ in 0..200 {
        blocked.send(b"out").unwrap();
    }
    eventually("each datagram counts", || (world.totals()["firewall_refused_total"] == 200).then_some(()));
    assert!(hears_nothing(&blocked));
    apply(&world, 2, plain(), json!({"block": ["127.0.0.3/32"]}));
    assert!(round_trip(&live, b"still in"));
    apply(&world, 3, plain(), json!({"cut": ["127.0.0.3/32"]}));
    live.send(b"out").unwrap();
    assert!(hears_nothing(&live));
    assert_eq!(world.record("firewall_cut")["client"], address(&live).to_string());
}

#[test]
fn a_flood_that_is_refused_is_counted_has_few_records_and_pushes_out_no_others() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    let plain = application(1, "udp", edge, &[udp_echo("127.0.0.1")], json!({}));
    apply(&world, 1, plain, json!({"block": ["127.0.0.2/32"]}));
    let begin = Instant::now();
    let sockets: Vec<UdpSocket> = (0..64).map(|_| UdpSocket::bind("127.0.0.2:0").unwrap()).collect();
    for _ in 0..500 {
        sockets.iter().for_each(|socket| drop(socket.send_to(b"flood", edge)));
        std::thread::sleep(Duration::from_millis(1)); // so that no queue runs over
    }
    assert!(round_trip(&client(edge), b"still there"));
    let counted = eventually("the flood is counted", || {
        let totals = world.totals();
        let refused = totals["firewall_refused_total"].as_u64()?;
        (refused > 10_000 && totals["filtered_total"] == refused).then_some(refused)
    });
    let seconds = begin.elapsed().as_secs() + 2; // those that have begun
    let report = serde_json::to_value(world.edge.observe(100_000)).unwrap();
    let causes: Vec<&Value> = report["events"].as_array().unwrap().iter().map(|event| &event["cause"]).collect();
    let refused = causes.iter().filter(|cause| **cause == "firewall_blocked").count() as u64;
    assert!((1..=100 * seconds).contains(&refused), "{refused} records of {counted} datagrams in {seconds} s");
    assert!(causes.contains(&&json!("opened")) && report["events_lost"] == 0, "{causes:?}");
}

#[test]
fn the_client_that_a_trusted_proxy_names_is_the_one_that_counts() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let change = json!({"proxy_protocol_from": ["127.0.0.2/32"]});
    let plain = application(1, "tcp", edge, &[origin("127.0.0.1", echo)], change);
    apply(&world, 1, plain, json!({"block": ["127.0.0.2/32", "198.51.100.0/24"]}));
    let mut good = from("127.0.0.2", edge);
    good.write_all(b"PROXY TCP4 203.0.113.1 127.0.0.1 1000 2000\r\n").unwrap();
    assert!(is_served(&mut good));
    let mut bad = from("127.0.0.2", edge);
    bad.write_all(b"PROXY TCP4 198.51.100.1 127.0.0.1 1000 2000\r\n").unwrap();
    assert!(bad.read(&mut [0; 1]).is_err());
    assert_eq!(world.record("firewall_blocked")["client"], "198.51.100.1:1000");
}

#[test]
fn a_firewall_that_is_not_there_or_names_a_list_that_is_not_is_refused_and_changes_nothing() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let mut named = application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}));
    named["firewall"] = json!(FIREWALL);
    let rule = |target: Value| json!({"rules": [{"id": "a", "action": "block", "target": target}]});
    let firewalls = [
        json!([]),
        json!([{"id": FIREWALL}, {"id": FIREWALL}]),
        json!([{"id": FIREWALL, "scopes": [rule(json!({"prefix": "192.0.2.1/24"}))]}]),
        json!([{"id": FIREWALL, "scopes": [rule(json!({"list": "0".repeat(64)}))]}]),
        json!([{"id": FIREWALL, "scopes": [rule(json!({"country": "Germany"}))]}]),
        json!([{"id": FIREWALL, "asn": "0".repeat(64)}]),
    ];
    for wrong in firewalls {
        let document = json!({
            "format": 1, "version": 1, "settings": settings(), "applications": [named], "firewalls": wrong,
        });
        assert!(world.edge.apply(document.to_string().as_bytes()).is_err(), "{wrong}");
    }
    assert!(TcpStream::connect_timeout(&edge, Duration::from_secs(1)).is_err());
}
