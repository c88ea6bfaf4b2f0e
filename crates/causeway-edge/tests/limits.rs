//! Limits through a real edge on loopback: who is refused, what is on record, and when there is room again.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::udp::{echo as udp_echo, hears_nothing, round_trip};
use support::{DEADLINE, World, application, echo, eventually, free_address, origin, settings, world};

fn apply(world: &World, version: u64, mut application: Value, limits: &Value) {
    application["limits"] = limits.clone();
    let document = json!({"format": 1, "version": version, "settings": settings(), "applications": [application]});
    world.edge.apply(document.to_string().as_bytes()).unwrap();
}

fn limit(of: &str, change: Value) -> Value {
    let mut made = json!({
        "of": of, "ipv4": 32, "ipv6": 64, "open": 0, "new_per_s": 0, "datagrams_per_s": 0, "ban_ms": 0,
    });
    made.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    made
}

fn from(client: &str, edge: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(client.parse().unwrap(), 0).into()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(&edge.into()).unwrap();
    socket.into()
}

fn is_served(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    match stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer)) {
        Ok(()) => answer == *b"hello",
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
            false
        }
    }
}

#[test]
fn a_source_has_so_many_connections_at_once_and_an_end_makes_room() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    let plain = || application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}));
    apply(&world, 1, plain(), &json!([limit("source", json!({"open": 2}))]));
    let mut held = [from("127.0.0.2", edge), from("127.0.0.2", edge)];
    assert!(held.iter_mut().all(is_served));
    assert!(!is_served(&mut from("127.0.0.2", edge)));
    assert!(is_served(&mut from("127.0.0.3", edge)), "another source");
    let record = world.record("limit_open");
    assert_eq!((&record["kind"], &record["status"]), (&json!("clientFiltered"), &json!(403)));
    assert_eq!(world.totals()["limits_refused_total"], 1);
    drop(held);
    eventually("there is room again", || is_served(&mut from("127.0.0.2", edge)).then_some(()));
}

#[test]
fn who_comes_too_often_is_banned_for_a_time() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let plain = application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}));
    apply(&world, 1, plain, &json!([limit("source", json!({"ipv4": 24, "new_per_s": 3, "ban_ms": 2000}))]));
    let served = (0..20).filter(|n| is_served(&mut from(&format!("127.0.9.{}", n + 1), edge))).count();
    assert!((3..10).contains(&served), "{served}");
    world.record("limit_banned");
    assert_eq!(world.totals()["limits_bans_total"], 1);
    assert!(is_served(&mut from("127.0.8.1", edge)));
    eventually("the ban has ended", || is_served(&mut from("127.0.9.1", edge)).then_some(()));
}

#[test]
fn all_clients_of_an_application_share_its_limit_and_live_ones_go_on_when_it_comes() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let at = origin("127.0.0.1", echo);
    let plain = || application(1, "tcp", edge, &[at], json!({}));
    apply(&world, 1, plain(), &json!([]));
    let mut early = from("127.0.0.2", edge);
    assert!(is_served(&mut early));
    apply(&world, 2, plain(), &json!([limit("application", json!({"open": 1}))]));
    let mut first = from("127.0.0.3", edge);
    assert!(is_served(&mut first) && is_served(&mut early));
    assert!(!is_served(&mut from("127.0.0.4", edge)));
}

#[test]
fn sessions_and_datagrams_have_limits_too() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let plain = application(1, "udp", edge, &[udp_echo("127.0.0.1")], json!({}));
    apply(&world, 1, plain, &json!([limit("source", json!({"open": 1, "datagrams_per_s": 5}))]));
    let client = |ip: &str| {
        let made = UdpSocket::bind((ip, 0)).unwrap();
        made.connect(edge).unwrap();
        made.set_read_timeout(Some(DEADLINE)).unwrap();
        made
    };
    let (first, second) = (client("127.0.0.2"), client("127.0.0.2"));
    assert!(round_trip(&first, b"in"));
    second.send(b"out").unwrap();
    assert!(hears_nothing(&second));
    world.record("limit_open");
    for _ in 0..500 {
        first.send(b"many").unwrap();
    }
    world.record("limit_rate");
    eventually("what is over is dropped", || {
        (world.totals()["limits_refused_total"].as_u64() > Some(400)).then_some(())
    });
    assert!(round_trip(&client("127.0.0.3"), b"in"));
}
