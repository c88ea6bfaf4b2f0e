//! Dispatch in the kernel and plain binds are two ways to the same answers: one table of applications and probes, run
//! both ways.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};

use serde_json::Value;
use support::net::{in_each_mode, ip};
use support::range::{LOOPBACK, ask_tcp, ask_udp, fates, origins, range, world};

/// What is applied, one after another, and what is probed after each.
struct Case {
    about: &'static str,
    snapshots: Vec<Vec<Value>>,
    tcp: Vec<&'static str>,
    udp: Vec<&'static str>,
}

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
