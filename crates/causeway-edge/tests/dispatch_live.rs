//! Ranges while clients are there: answers and source ports, draining, changes under load, and what dispatch leaves alone.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use causeway_edge::DispatchMode;
use serde_json::json;
use support::net::{alone_with_dispatch, in_each_mode};
use support::range::{LOOPBACK, ask_tcp, ask_udp, fates, origins, range, world};
use support::udp::{client, receive, receive_from, socket};
use support::{DEADLINE, application, connect};

/// An origin that tells where each datagram came from, and answers it with the datagram.
fn telling_origin(port: u16) -> std::sync::mpsc::Receiver<SocketAddr> {
    let (tell, hears) = std::sync::mpsc::channel();
    let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            if tell.send(from).is_err() || socket.send_to(&buffer[..n], from).is_err() {
                return;
            }
        }
    });
    hears
}

#[test]
fn datagrams_are_answered_from_where_they_were_sent_to_and_reach_the_origin_from_one_port() {
    in_each_mode(|mode| {
        let hears = telling_origin(9000);
        let world = world(mode);
        let app = |first| range(1, "udp", &["127.0.0.1", "127.0.0.2", "::1"], first, first + 20, 9000);
        world.apply(&[app(5000)]);
        for ip in ["127.0.0.1", "127.0.0.2", "::1"] {
            let edge = SocketAddr::new(ip.parse().unwrap(), 5000);
            let friend = socket(if edge.is_ipv4() { "0.0.0.0" } else { "::" });
            let mut sources = Vec::new();
            for n in 0..20u8 {
                friend.send_to(&[n], edge).unwrap();
                assert_eq!(receive_from(&friend), (vec![n], edge));
                sources.push(hears.recv_timeout(DEADLINE).unwrap());
                if n == 10 {
                    world.apply(&[app(4990)]); // 9010 would serve a new one; this session stays
                }
            }
            assert!(sources.iter().all(|source| *source == sources[0]), "{sources:?}");
            world.apply(&[app(5000)]);
        }
    });
}

#[test]
fn many_ports_and_clients_of_one_edge_never_get_each_others_answers() {
    in_each_mode(|mode| {
        let origins: Vec<UdpSocket> = (9000..9040).map(|port| UdpSocket::bind(("127.0.0.1", port)).unwrap()).collect();
        for origin in origins {
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok((n, from)) = origin.recv_from(&mut buffer) {
                    let said = [&buffer[..n], origin.local_addr().unwrap().port().to_string().as_bytes()].concat();
                    let _ = origin.send_to(&said, from);
                }
            });
        }
        let world = world(mode);
        world.apply(&[range(1, "udp", &["127.0.0.1", "::1"], 5000, 5039, 9000)]);
        let clients: Vec<UdpSocket> = (0..8).map(|n| socket(if n % 2 == 0 { "127.0.0.1" } else { "::1" })).collect();
        for round in 0..3u8 {
            for (number, client) in clients.iter().enumerate() {
                let ip: IpAddr = client.local_addr().unwrap().ip();
                (5000..5040).for_each(|port| {
                    client.send_to(&[round, number as u8], (ip, port)).unwrap();
                });
                for _ in 5000..5040 {
                    let (said, from) = receive_from(client);
                    assert_eq!(said[..2], [round, number as u8]);
                    assert_eq!(String::from_utf8_lossy(&said[2..]), (from.port() + 4000).to_string());
                }
            }
        }
        assert_eq!(world.totals()["connections_open"], 8 * 40);
        assert_eq!(world.totals()["datagrams_dropped"], 0);
    });
}

#[test]
fn sessions_outlive_their_application_strangers_are_turned_away_and_the_port_is_free_in_the_end() {
    in_each_mode(|mode| {
        let hears = telling_origin(9000);
        let world = world(mode);
        let app = |number, to, idle_ms: u64| {
            let mut app = range(number, "udp", &["127.0.0.1"], 5000, 5020, to);
            app["udp_idle_timeout_ms"] = json!(idle_ms);
            app
        };
        let edge: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        world.apply(&[app(1, 9000, 1500)]);
        let friend = client(edge);
        let source = |friend: &UdpSocket| {
            friend.send(b"friend").unwrap();
            assert_eq!(receive(friend), b"friend");
            hears.recv_timeout(DEADLINE).unwrap()
        };
        let before = source(&friend);
        world.apply(&[]);
        assert_eq!(source(&friend), before);
        if support::udp::may_send_icmp() {
            assert_eq!(ask_udp(edge), "ConnectionRefused");
            assert_eq!(ask_udp("127.0.0.1:5001".parse().unwrap()), "ConnectionRefused");
        }
        assert_eq!(source(&friend), before, "a stranger changes nothing for it");
        // Wanted again, with another origin: new clients go there, the session stays where it is.
        origins(9100..=9120);
        world.apply(&[app(2, 9100, 1500)]);
        assert_eq!(ask_udp(edge), "9100");
        assert_eq!(source(&friend), before);
        world.apply(&[]);
        let mut free = None;
        let begin = Instant::now();
        while free.is_none() && begin.elapsed() < Duration::from_secs(20) {
            world.edge.observe(0); // as the agent does every second
            free = UdpSocket::bind(edge).ok();
            std::thread::sleep(Duration::from_millis(20));
        }
        let free = free.expect("a port without sessions is free");
        free.set_read_timeout(Some(DEADLINE)).unwrap();
        client(edge).send(b"mine").unwrap();
        assert_eq!(receive(&free), b"mine");
    });
}

#[test]
fn connections_live_on_when_a_range_changes_around_them() {
    in_each_mode(|mode| {
        let world = world(mode);
        let echo = support::origin("127.0.0.1", support::echo);
        let app = |first: u16, last: u16| {
            let origin = json!({"address": "127.0.0.1", "ports": {"first": echo.port() - (5000 - first), "last": echo.port() + (last - 5000)}});
            let change = json!({"edge_ports": {"first": first, "last": last}, "origins": {"kind": "addresses", "addresses": [origin]}});
            application(1, "tcp", "127.0.0.1:5000".parse().unwrap(), &[], change)
        };
        world.apply(&[app(5000, 5040)]);
        let mut stream = connect("127.0.0.1:5000".parse().unwrap());
        let mut say = |word: &[u8; 3]| {
            stream.write_all(word).unwrap();
            let mut back = [0; 3];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, word);
        };
        say(b"one");
        for last in [5000, 5100, 5010, 5000] {
            world.apply(&[app(5000 - last % 7, last)]);
            say(b"two");
        }
        world.apply(&[]);
        say(b"end");
        assert_eq!(ask_tcp("127.0.0.1:5000".parse().unwrap()), "ConnectionRefused");
    });
}

#[test]
fn no_connect_fails_while_a_port_becomes_a_range_and_back() {
    if !alone_with_dispatch() {
        return;
    }
    origins(9000..=9000);
    let world = world(DispatchMode::Auto);
    world.apply(&[range(1, "tcp", &LOOPBACK, 5000, 5003, 9000)]);
    // In one's own network namespace only threads of this one: connect here, change from there.
    let done = std::sync::atomic::AtomicBool::new(false);
    let connects = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let mut count = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(ask_tcp("127.0.0.1:5000".parse().unwrap()), "9000");
                count += 1;
            }
            count
        });
        for round in 0..100u16 {
            let last = if round % 2 == 0 { 8_000 } else { 5_003 };
            let report = world.apply(&[range(1, "tcp", &LOOPBACK, 5000, last, 9000)]);
            assert!(report.listeners.iter().all(|listener| listener.reason.is_none()), "{:?}", fates(&report));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        connecting.join().unwrap()
    });
    assert!(connects > 50, "{connects} connects");
}

#[test]
fn by_itself_a_few_ports_have_sockets_and_a_range_has_none() {
    if !alone_with_dispatch() {
        return;
    }
    origins(9000..=9100);
    let world = world(DispatchMode::Auto);
    let apps = [range(1, "tcp", &LOOPBACK, 5000, 5015, 9000), range(2, "tcp", &LOOPBACK, 6000, 6016, 9016)];
    world.apply(&apps);
    let is_bound = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_err();
    assert!(is_bound(5000) && is_bound(5015) && !is_bound(6000) && !is_bound(6016));
    assert_eq!(ask_tcp("127.0.0.1:5015".parse().unwrap()), "9015");
    assert_eq!(ask_tcp("127.0.0.1:6016".parse().unwrap()), "9032");
    // Who listens there later gets nothing: the port was taken first.
    let late = TcpListener::bind("127.0.0.1:6001").unwrap();
    assert_eq!(ask_tcp("127.0.0.1:6001".parse().unwrap()), "9017");
    late.set_nonblocking(true).unwrap();
    assert_eq!(late.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    // Both ways know of each other: what one has, the other refuses.
    let any = |number, first, last| range(number, "tcp", &["0.0.0.0"], first, last, 9050);
    let report = world.apply(&[apps[0].clone(), apps[1].clone(), any(3, 6010, 6010), any(4, 5010, 5030)]);
    assert_eq!(
        fates(&report)[2..],
        [
            "3 tcp 0.0.0.0 6010-6010 refused port_in_use",
            "4 tcp 0.0.0.0 5010-5015 refused port_in_use",
            "4 tcp 0.0.0.0 5016-5030 running "
        ]
    );
}

#[test]
fn a_stopped_edge_leaves_every_port_closed_and_an_other_can_have_them() {
    in_each_mode(|mode| {
        origins(9000..=9020);
        let first = world(mode);
        first.apply(&[range(1, "tcp", &LOOPBACK, 5000, 5020, 9000), range(2, "udp", &LOOPBACK, 5000, 5020, 9000)]);
        assert_eq!(ask_tcp("127.0.0.1:5003".parse().unwrap()), "9003");
        assert_eq!(first.edge.drain(Duration::from_millis(10)), 0);
        assert_eq!(ask_tcp("127.0.0.1:5003".parse().unwrap()), "ConnectionRefused");
        assert_eq!(ask_udp("127.0.0.1:5003".parse().unwrap()), "ConnectionRefused");
        let second = world(mode);
        drop(first);
        second.apply(&[range(1, "tcp", &LOOPBACK, 5000, 5020, 9000)]);
        assert_eq!(ask_tcp("127.0.0.1:5003".parse().unwrap()), "9003");
        drop(second);
        assert_eq!(ask_tcp("127.0.0.1:5003".parse().unwrap()), "ConnectionRefused");
    });
}

/// A name server that has one answer for all questions.
fn name_server(answer: [u8; 4]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    let own = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let name_end = 12 + buffer[12..n].iter().position(|byte| *byte == 0).unwrap() + 1;
            let record = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4][..], &answer].concat();
            let head = [&buffer[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]].concat();
            let _ = socket.send_to(&[&head, &buffer[12..name_end + 4], &record].concat(), from);
        }
    });
    own
}

#[test]
fn a_range_over_ephemeral_ports_leaves_the_edge_the_answers_to_its_own_questions() {
    in_each_mode(|mode| {
        if mode == DispatchMode::Off {
            return; // binds would take every ephemeral port, and more files than there are
        }
        origins(9000..=9000);
        let settings = json!({
            "origin_deny": [], "origin_deny_sockets": [], "allow_loopback_origins": true,
            "resolvers": [name_server([127, 0, 0, 1])],
        });
        let world = world(mode);
        let mut named = range(1, "tcp", &LOOPBACK, 443, 443, 9000);
        let ports = json!({"first": 9000, "last": 9000});
        named["origins"] =
            json!({"kind": "dns", "name": "origin.example.net", "family": "a", "ttl_s": 60, "ports": ports});
        let report = world.apply_with(settings, &[range(2, "udp", &LOOPBACK, 10_000, 65_535, 10_000), named]);
        assert!(report.listeners.iter().all(|listener| listener.reason.is_none()), "{:?}", fates(&report));
        assert_eq!(ask_tcp("127.0.0.1:443".parse().unwrap()), "9000");
        assert_eq!(world.totals()["datagrams_ingress"], 0);
    });
}
