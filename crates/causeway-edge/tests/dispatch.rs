//! Dispatch in the kernel and plain binds are two ways to the same answers: one table of applications and probes, run
//! both ways. Then what dispatch alone must keep: others' ports, a number of sockets that does not grow, draining.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use causeway_edge::{ApplyReport, Config, DispatchMode};
use serde_json::{Value, json};
use support::net::{alone_with_dispatch, in_each_mode, ip};
use support::udp::{client, receive, receive_from, socket};
use support::{DEADLINE, World, application, connect, world_with};

fn world(mode: DispatchMode) -> World {
    world_with(Config { workers: 2, dispatch: mode, ..Config::default() })
}

/// An application on ports `first` to `last` of `addresses`, whose origin is `to` for the first port.
fn range(number: u64, protocol: &str, addresses: &[&str], first: u16, last: u16, to: u16) -> Value {
    let origin = json!({"address": "127.0.0.1", "ports": {"first": to, "last": to + (last - first)}});
    let change = json!({
        "edge_addresses": addresses, "edge_ports": {"first": first, "last": last},
        "origins": {"kind": "addresses", "addresses": [origin]}, "drain_ms": 60_000,
    });
    application(number, protocol, SocketAddr::new(addresses[0].parse().unwrap(), first), &[], change)
}

/// Origins that say their own port, for each of `ports`, over TCP and UDP.
fn origins(ports: std::ops::RangeInclusive<u16>) {
    for port in ports {
        let (tcp, udp) =
            (TcpListener::bind(("127.0.0.1", port)).unwrap(), UdpSocket::bind(("127.0.0.1", port)).unwrap());
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let _ = stream.write_all(port.to_string().as_bytes());
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(port.to_string().as_bytes(), from);
            }
        });
    }
}

fn ask_tcp(to: SocketAddr) -> String {
    match TcpStream::connect_timeout(&to, DEADLINE) {
        Err(error) => format!("{:?}", error.kind()),
        Ok(mut stream) => {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut said = String::new();
            match stream.read_to_string(&mut said) {
                Ok(_) => said,
                Err(error) => format!("connected, then {:?}", error.kind()),
            }
        }
    }
}

/// A connected socket hears only what comes from exactly where it sent to.
fn ask_udp(to: SocketAddr) -> String {
    let client = client(to);
    client.send(b"?").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buffer = [0; 100];
    match client.recv(&mut buffer) {
        Ok(n) => String::from_utf8_lossy(&buffer[..n]).into_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn fates(report: &ApplyReport) -> Vec<String> {
    let listeners = serde_json::to_value(&report.listeners).unwrap();
    let line = |l: &Value| {
        let (ports, reason) = (&l["ports"], &l["reason"]);
        let number = l["application"].as_str().unwrap().trim_start_matches('0');
        let code = reason["code"].as_str().unwrap_or_default();
        let (protocol, address) = (l["protocol"].as_str().unwrap(), l["address"].as_str().unwrap());
        format!(
            "{number} {protocol} {address} {}-{} {} {code}",
            ports["first"],
            ports["last"],
            l["state"].as_str().unwrap()
        )
    };
    listeners.as_array().unwrap().iter().map(line).collect()
}

/// What is applied, one after another, and what is probed after each.
struct Case {
    about: &'static str,
    snapshots: Vec<Vec<Value>>,
    tcp: Vec<&'static str>,
    udp: Vec<&'static str>,
}

const LOOPBACK: [&str; 1] = ["127.0.0.1"];

fn cases() -> Vec<Case> {
    let one = |protocol, port, to| range(1, protocol, &LOOPBACK, port, port, to);
    vec![
        Case {
            about: "one port, and its neighbours",
            snapshots: vec![vec![one("tcp", 22, 9000), range(2, "udp", &LOOPBACK, 53, 53, 9001)], vec![]],
            tcp: vec!["127.0.0.1:21", "127.0.0.1:22", "127.0.0.1:23", "127.0.0.1:53", "127.0.0.2:22", "[::1]:22"],
            udp: vec!["127.0.0.1:52", "127.0.0.1:53", "127.0.0.1:54", "127.0.0.1:22", "127.0.0.2:53", "[::1]:53"],
        },
        Case {
            about: "ranges of both protocols and families, mapped port by port",
            snapshots: vec![vec![
                range(1, "tcp", &["127.0.0.1", "::1"], 4000, 4009, 9000),
                range(2, "udp", &["127.0.0.1", "::1"], 4005, 4009, 9010),
            ]],
            tcp: vec![
                "127.0.0.1:3999",
                "127.0.0.1:4000",
                "127.0.0.1:4009",
                "127.0.0.1:4010",
                "[::1]:4000",
                "[::1]:4004",
            ],
            udp: vec!["127.0.0.1:4004", "127.0.0.1:4005", "127.0.0.1:4009", "[::1]:4005", "[::1]:4009", "[::1]:4010"],
        },
        Case {
            about: "any address of a family",
            snapshots: vec![vec![
                range(1, "tcp", &["0.0.0.0"], 4000, 4002, 9000),
                range(2, "udp", &["0.0.0.0", "::"], 4001, 4002, 9010),
            ]],
            tcp: vec!["127.0.0.1:4000", "127.8.9.10:4001", "203.0.113.10:4002", "203.0.113.10:4003", "[::1]:4000"],
            udp: vec!["127.0.0.1:4001", "127.8.9.10:4002", "203.0.113.10:4001", "[2001:db8::10]:4002", "[::1]:4000"],
        },
        Case {
            about: "addresses that overlap: the first has the port",
            snapshots: vec![vec![
                range(1, "tcp", &["203.0.113.10"], 4001, 4001, 9000),
                range(2, "tcp", &["0.0.0.0"], 4000, 4002, 9001),
                range(3, "udp", &["0.0.0.0"], 4000, 4002, 9004),
                range(4, "udp", &["203.0.113.10"], 4002, 4003, 9007),
            ]],
            tcp: vec!["203.0.113.10:4000", "203.0.113.10:4001", "127.0.0.1:4001", "127.0.0.1:4002"],
            udp: vec!["203.0.113.10:4000", "203.0.113.10:4002", "203.0.113.10:4003", "127.0.0.1:4003"],
        },
        Case {
            about: "changed and deleted while live",
            snapshots: vec![
                vec![range(1, "tcp", &LOOPBACK, 4000, 4009, 9000), range(2, "udp", &LOOPBACK, 4000, 4009, 9000)],
                vec![range(1, "tcp", &LOOPBACK, 4000, 4009, 9010), range(2, "udp", &LOOPBACK, 4000, 4009, 9010)],
                vec![range(1, "tcp", &LOOPBACK, 4002, 4005, 9000), range(2, "udp", &LOOPBACK, 4002, 4005, 9000)],
                vec![range(1, "tcp", &LOOPBACK, 3998, 4003, 9000), range(3, "tcp", &LOOPBACK, 4004, 4006, 9010)],
                vec![range(3, "tcp", &LOOPBACK, 4001, 4006, 9010), range(2, "udp", &LOOPBACK, 4001, 4001, 9005)],
                vec![],
                vec![range(2, "udp", &LOOPBACK, 4000, 4009, 9000)],
            ],
            tcp: vec!["127.0.0.1:3998", "127.0.0.1:4000", "127.0.0.1:4003", "127.0.0.1:4006", "127.0.0.1:4009"],
            udp: vec!["127.0.0.1:4000", "127.0.0.1:4001", "127.0.0.1:4003", "127.0.0.1:4006", "127.0.0.1:4009"],
        },
        Case {
            about: "the same twice is a no-op, another order is not",
            snapshots: vec![
                vec![range(1, "tcp", &LOOPBACK, 4000, 4004, 9000), range(2, "tcp", &LOOPBACK, 4005, 4009, 9005)],
                vec![range(1, "tcp", &LOOPBACK, 4000, 4004, 9000), range(2, "tcp", &LOOPBACK, 4005, 4009, 9005)],
                vec![range(2, "tcp", &LOOPBACK, 4005, 4009, 9005), range(1, "tcp", &LOOPBACK, 4000, 4004, 9000)],
            ],
            tcp: vec!["127.0.0.1:4004", "127.0.0.1:4005"],
            udp: vec![],
        },
        Case {
            about: "ports of others, and an address of another machine",
            snapshots: vec![
                vec![
                    range(1, "tcp", &["127.0.0.1", "192.0.2.1", "::1"], 4095, 4105, 9000),
                    range(2, "udp", &["127.0.0.1", "203.0.113.10"], 4095, 4105, 9000),
                    range(3, "tcp", &["203.0.113.10"], 4095, 4105, 9000),
                ];
                2
            ],
            tcp: vec![
                "127.0.0.1:4095",
                "127.0.0.1:4100",
                "127.0.0.1:4105",
                "[::1]:4100",
                "203.0.113.10:4100",
                "203.0.113.10:4102",
            ],
            udp: vec!["127.0.0.1:4095", "127.0.0.1:4101", "203.0.113.10:4101", "203.0.113.10:4105"],
        },
    ]
}

/// Another process's services, in the middle of ranges: TCP 4100 on 127.0.0.1, 4102 on any address of both
/// families, UDP 4101 on any address.
fn others() -> (Vec<TcpListener>, UdpSocket) {
    let say = |listener: TcpListener| {
        let copy = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            for mut stream in copy.incoming().flatten() {
                let _ = stream.write_all(b"other");
            }
        });
        listener
    };
    let tcp = ["127.0.0.1:4100", "[::]:4102"].map(|address| say(TcpListener::bind(address).unwrap()));
    let udp = UdpSocket::bind("0.0.0.0:4101").unwrap();
    let copy = udp.try_clone().unwrap();
    std::thread::spawn(move || {
        while let Ok((_, from)) = copy.recv_from(&mut [0; 100]) {
            let _ = copy.send_to(b"other", from);
        }
    });
    (tcp.into(), udp)
}

#[test]
fn the_same_table_of_applications_and_probes_has_the_same_answers_both_ways() {
    let answers = std::sync::Mutex::new(BTreeMap::<&str, Vec<Vec<String>>>::new());
    for case in cases() {
        in_each_mode(|mode| {
            for address in ["203.0.113.10/32", "2001:db8::10/128"] {
                ip(&format!("addr add {address} dev lo"));
            }
            origins(9000..=9020);
            let _others = others();
            let world = world(mode);
            let mut said = Vec::new();
            for (step, applications) in case.snapshots.iter().enumerate() {
                let report = world.apply(applications);
                said.push(format!("{step}: {}", serde_json::to_value(report.outcome).unwrap()));
                said.extend(fates(&report).iter().map(|fate| format!("{step}: {fate}")));
                said.extend(case.tcp.iter().map(|to| format!("{step}: tcp {to} {}", ask_tcp(to.parse().unwrap()))));
                said.extend(case.udp.iter().map(|to| format!("{step}: udp {to} {}", ask_udp(to.parse().unwrap()))));
            }
            answers.lock().unwrap().entry(case.about).or_default().push(said);
        });
    }
    for (about, said) in answers.into_inner().unwrap() {
        let [bound, dispatched] = &said[..] else { continue };
        for (bound, dispatched) in bound.iter().zip(dispatched) {
            assert_eq!(bound, dispatched, "{about}: left by binds, right by dispatch");
        }
        assert_eq!(bound.len(), dispatched.len(), "{about}");
        assert!(bound.iter().any(|line| line.contains(" 90")), "somebody was served: {about}: {bound:#?}");
    }
}

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
        world.apply(&[app(2, 9100, 60_000)]);
        assert_eq!(ask_udp(edge), "9100");
        assert_eq!(source(&friend), before);
        world.apply(&[]);
        let mut free = None;
        let begin = Instant::now();
        while free.is_none() && begin.elapsed() < Duration::from_secs(20) {
            // With the last session the port is anybody's. Sessions of the second application are idle for long: cut.
            world.apply(&[]);
            world.edge.observe(0);
            free = UdpSocket::bind("127.0.0.1:5001").ok();
            std::thread::sleep(Duration::from_millis(20));
        }
        let free = free.expect("a port without sessions is free");
        free.set_read_timeout(Some(DEADLINE)).unwrap();
        client("127.0.0.1:5001".parse().unwrap()).send(b"mine").unwrap();
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
    assert!(late.as_raw_fd() > 0);
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
