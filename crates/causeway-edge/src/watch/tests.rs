use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::edge::{Config, Edge};

const REPLACED_WITHIN: Duration = Duration::from_secs(3);

// ---- what is taken for a hang ----

#[test]
fn a_worker_that_does_not_beat_within_the_time_is_hung_and_one_that_beats_is_not() {
    let sleeps = || Some((false, 7));
    let mut suspicion = Suspicion::default();
    assert_eq!(suspicion.look(0, 5, sleeps), Verdict::Ping);
    assert_eq!(suspicion.look(250, 5, sleeps), Verdict::Alive);
    assert_eq!(suspicion.look(HUNG_AFTER_MS - 1, 5, sleeps), Verdict::Alive);
    assert_eq!(suspicion.look(HUNG_AFTER_MS, 5, sleeps), Verdict::Hung);

    let mut suspicion = Suspicion::default();
    assert_eq!(suspicion.look(0, 5, sleeps), Verdict::Ping);
    assert_eq!(suspicion.look(250, 6, sleeps), Verdict::Alive, "it answered, and is asked again in a while");
    assert_eq!(suspicion.look(500, 6, sleeps), Verdict::Ping);
    assert_eq!(suspicion.look(499 + HUNG_AFTER_MS, 6, sleeps), Verdict::Alive);
}

#[test]
fn waiting_for_a_processor_is_no_hang_but_running_in_circles_is() {
    let cases = [
        ("it could run, and was not let", (true, 100), Verdict::Alive),
        ("it ran and came to nothing", (true, 100 + LEAST_RUN_TICKS), Verdict::Hung),
        ("it sleeps where it should not", (false, 100), Verdict::Hung),
    ];
    for (what, then, expected) in cases {
        let mut suspicion = Suspicion::default();
        suspicion.look(0, 5, || Some((false, 100)));
        assert_eq!(suspicion.look(HUNG_AFTER_MS, 5, || Some(then)), expected, "{what}");
    }
}

#[test]
fn what_was_seen_before_the_process_stood_still_proves_nothing() {
    let mut suspicion = Suspicion::default();
    suspicion.look(0, 5, || None);
    suspicion.forget();
    assert_eq!(suspicion.look(60_000, 5, || None), Verdict::Ping);
    assert_eq!(suspicion.look(60_250, 5, || None), Verdict::Alive);
}

// ---- an edge whose worker hangs ----

struct World {
    edge: Edge,
    tcp: SocketAddr,
    udp: SocketAddr,
}

/// Two workers, an echo over TCP and UDP behind them.
fn world() -> World {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp_origin, udp_origin) = (listener.local_addr().unwrap(), datagrams.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 100];
                while let Ok(n) = stream.read(&mut buffer)
                    && n > 0
                    && stream.write_all(&buffer[..n]).is_ok()
                {}
            });
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((n, from)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(&buffer[..n], from);
        }
    });
    let edge = Edge::start(Config { workers: 2, ..Config::default() }).unwrap();
    let world = World { edge, tcp: free_address(), udp: free_address() };
    world.apply(1, &[("tcp", world.tcp, tcp_origin), ("udp", world.udp, udp_origin)]);
    world
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl World {
    fn apply(&self, version: u64, applications: &[(&str, SocketAddr, SocketAddr)]) -> Duration {
        let ports = |port: u16| json!({"first": port, "last": port});
        let applications: Vec<Value> = applications
            .iter()
            .enumerate()
            .map(|(number, (protocol, edge, origin))| {
                json!({
                    "id": format!("{number:032x}"), "name": "a", "protocol": protocol, "edge_addresses": [edge.ip()],
                    "edge_ports": ports(edge.port()),
                    "origins": {"kind": "addresses",
                                "addresses": [{"address": origin.ip(), "ports": ports(origin.port())}]},
                    "proxy_protocol": "off", "udp_header": "first", "proxy_protocol_from": [],
                    "proxy_header_timeout_ms": 3000, "connect_timeout_ms": 3000, "idle_timeout_ms": 3_600_000,
                    "half_close_timeout_ms": 0, "no_progress_timeout_ms": 300_000, "udp_idle_timeout_ms": 60_000,
                    "on_delete": "close", "drain_ms": 0,
                })
            })
            .collect();
        let settings =
            json!({"origin_deny": [], "origin_deny_sockets": [], "allow_loopback_origins": true, "resolvers": []});
        let snapshot =
            json!({"format": 1, "version": version, "settings": settings, "applications": applications}).to_string();
        let begin = Instant::now();
        self.edge.apply(snapshot.as_bytes()).unwrap();
        begin.elapsed()
    }

    fn report(&self) -> Value {
        serde_json::to_value(self.edge.observe(10_000)).unwrap()
    }

    fn open(&self) -> u64 {
        self.report()["totals"]["connections_open"].as_u64().unwrap()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.tcp).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    fn wait_for_replacement(&self, number: u64) {
        let begin = Instant::now();
        while self.report()["workers_replaced_total"] != number {
            assert!(begin.elapsed() < REPLACED_WITHIN, "not replaced within {REPLACED_WITHIN:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn echoes(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut answer)).is_ok() && answer == *b"hello"
}

fn asks(udp: SocketAddr) -> bool {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    client.send_to(b"hello", udp).unwrap();
    client.recv(&mut [0; 5]).is_ok()
}

#[test]
fn a_worker_that_hangs_is_replaced_and_all_sockets_serve() {
    let world = world();
    let mut before: Vec<TcpStream> = (0..40).map(|_| world.connect()).collect();
    assert!(before.iter_mut().all(echoes));
    let begin = Instant::now();
    let hang = world.edge.hang(0);
    // Some of these wait in a socket that nobody looks after: whoever takes it serves them.
    let mut waiting: Vec<TcpStream> = (0..40).map(|_| world.connect()).collect();
    assert!(waiting.iter_mut().all(echoes));
    assert!(begin.elapsed() < REPLACED_WITHIN, "{:?}", begin.elapsed());
    world.wait_for_replacement(1);
    assert!((0..40).all(|_| asks(world.udp)), "UDP is served by both workers");

    let alive = before.iter_mut().map(echoes).filter(|echoes| *echoes).count();
    assert!((1..40).contains(&alive), "{alive} of 40 belonged to the other worker, and they live on");
    let took = world.apply(2, &[]);
    assert!(took < Duration::from_millis(500), "a change does not wait for a worker that was given up: {took:?}");
    assert!(TcpStream::connect(world.tcp).is_err(), "the port is closed, although the hung thread holds it");
    drop(hang);
}

#[test]
fn flows_of_a_hung_worker_end_by_reset_and_a_late_wake_up_harms_nobody() {
    let world = world();
    let mut before: Vec<TcpStream> = (0..40).map(|_| world.connect()).collect();
    assert!(before.iter_mut().all(echoes) && asks(world.udp));
    let hang = world.edge.hang(0);
    world.wait_for_replacement(1);
    let mut lost = 0;
    before.retain_mut(|stream| {
        let lives = echoes(stream);
        lost += u64::from(!lives);
        lives
    });
    assert!(lost > 0 && !before.is_empty(), "{lost} of 40 were lost, {} are left", before.len());
    let mut after: Vec<TcpStream> = (0..40).map(|_| world.connect()).collect();
    assert!(after.iter_mut().all(echoes));

    drop(hang); // it wakes up now
    let begin = Instant::now();
    let mut seen = Vec::new();
    let flows = (before.len() + after.len()) as u64;
    loop {
        let report = world.report();
        seen.extend(report["events"].as_array().unwrap().iter().cloned());
        let told =
            seen.iter().filter(|event| event["cause"] == "worker_replaced" && event["protocol"] == "tcp").count();
        let open = report["totals"]["connections_open"].as_u64().unwrap();
        // The one UDP session may have been the hung worker's.
        if told as u64 == lost && (open == flows || open == flows + 1) {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{told} of {lost} told, {open} open of {flows}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(before.iter_mut().chain(&mut after).all(echoes), "nobody else has noticed");
    assert!((0..20).all(|_| asks(world.udp)));
    assert_eq!(world.report()["workers"], 2);
    let flows: std::collections::HashSet<u64> =
        seen.iter().filter(|e| e["kind"] == "connect").map(|e| e["flow"].as_u64().unwrap()).collect();
    assert_eq!(flows.len(), seen.iter().filter(|e| e["kind"] == "connect").count(), "no flow id is used twice");
}

#[test]
fn a_change_while_a_worker_hangs_ends_with_the_replacement() {
    let world = world();
    let origin = world.tcp;
    let hang = world.edge.hang(1);
    let other = free_address();
    let took = world.apply(2, &[("tcp", other, origin)]);
    assert!(took < REPLACED_WITHIN, "{took:?}");
    world.wait_for_replacement(1);
    for _ in 0..20 {
        assert!(TcpStream::connect(other).is_ok());
    }
    drop(hang);
}

#[test]
fn the_only_worker_can_be_replaced_too() {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let edge = Edge::start(Config { workers: 1, ..Config::default() }).unwrap();
    let world = World { edge, tcp: free_address(), udp: free_address() };
    world.apply(1, &[("tcp", world.tcp, origin.local_addr().unwrap())]);
    for number in 1..3 {
        let hang = world.edge.hang(0);
        world.wait_for_replacement(number);
        let client = world.connect();
        let (mut served, _) = origin.accept().unwrap();
        served.write_all(b"hello").unwrap();
        assert_eq!((&client).read(&mut [0; 5]).unwrap(), 5);
        drop(hang);
    }
    let begin = Instant::now();
    while world.open() > 2 {
        assert!(begin.elapsed() < Duration::from_secs(5), "{} open", world.open());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_panic_costs_the_connection_it_happened_for_and_no_other() {
    let world = world();
    let mut others: Vec<TcpStream> = (0..20).map(|_| world.connect()).collect();
    let mut victim = world.connect();
    assert!(others.iter_mut().all(echoes) && echoes(&mut victim));
    world.edge.poison(victim.local_addr().unwrap().port());
    assert!(!echoes(&mut victim), "it is reset");
    let begin = Instant::now();
    let mut seen = Vec::new();
    while !seen.iter().any(|event: &Value| event["cause"] == "internal_error" && event["status"] == 500) {
        seen.extend(world.report()["events"].as_array().unwrap().iter().cloned());
        assert!(begin.elapsed() < Duration::from_secs(5), "not on record");
    }
    assert!(others.iter_mut().all(echoes));
    assert!((0..20).all(|_| echoes(&mut world.connect())), "both workers go on");
    let report = world.report();
    assert_eq!((&report["workers"], &report["workers_replaced_total"]), (&json!(2), &json!(0)));
}
