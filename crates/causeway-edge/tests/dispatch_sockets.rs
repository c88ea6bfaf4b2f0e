//! What a range costs: with dispatch a few descriptors whatever its size; without, a socket for each port, and a
//! word about what is missing. A process of its own, since descriptors are counted.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;

use causeway_edge::{Config, DispatchMode, Edge};
use serde_json::{Value, json};
use support::net::{alone, alone_with_dispatch};
use support::{application, world_with};

fn range(number: u64, protocol: &str, first: u16, last: u16) -> Value {
    let origin = json!({"address": "127.0.0.9", "ports": {"first": first, "last": last}});
    let change = json!({
        "edge_ports": {"first": first, "last": last}, "origins": {"kind": "addresses", "addresses": [origin]}
    });
    application(number, protocol, SocketAddr::new("127.0.0.1".parse().unwrap(), first), &[], change)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn every_port_of_both_protocols_costs_as_many_sockets_as_a_few() {
    if !alone_with_dispatch() {
        return;
    }
    let world = world_with(Config { workers: 2, ..Config::default() });
    let idle = descriptors();
    world.apply(&[range(1, "tcp", 100, 150), range(2, "udp", 100, 150)]);
    let few = descriptors();
    let report = world.apply(&[range(1, "tcp", 1, 65_535), range(2, "udp", 1, 65_535)]);
    assert_eq!(descriptors(), few);
    assert!(few - idle < 16, "{} descriptors", few - idle);
    let listeners = serde_json::to_value(&report.listeners).unwrap();
    assert_eq!(listeners[0]["ports"], json!({"first": 1, "last": 65_535}));
    assert_eq!((listeners.as_array().unwrap().len(), &listeners[1]["state"]), (2, &json!("running")));
    drop(world);
}

/// `struct __user_cap_data_struct`, twice: nothing effective, so that this thread is as any user's.
fn give_up_rights() {
    let mut header = [0x2008_0522u32, 0];
    let nothing = [0u32; 6];
    // SAFETY: a version 3 header and two data structs.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), nothing.as_ptr()) }, 0);
}

fn without_the_right_a_range_too_large_is_refused_and_the_missing_right_is_named() {
    if !alone() {
        return;
    }
    let limit = libc::rlimit { rlim_cur: 400, rlim_max: 400 };
    // SAFETY: a readable rlimit; lowering one's own limit is allowed to everybody.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    give_up_rights();
    let world = world_with(Config { workers: 1, ..Config::default() });
    let report = world.apply(&[range(1, "tcp", 2000, 2999)]);
    let listeners = serde_json::to_value(&report.listeners).unwrap();
    assert_eq!((&listeners[0]["state"], &listeners[0]["ports"]["first"]), (&json!("running"), &json!(2000)));
    assert_eq!((&listeners[1]["state"], &listeners[1]["ports"]["last"]), (&json!("refused"), &json!(2999)));
    assert_eq!(listeners[1]["reason"]["code"], "too_many_sockets");
    let message = listeners[1]["reason"]["message"].as_str().unwrap();
    assert!(
        message.contains("CAP_BPF") || message.contains("built without") || message.contains("CAUSEWAY_BPF"),
        "{message}"
    );
    let refused = Edge::start(Config { workers: 1, dispatch: DispatchMode::On, ..Config::default() }).unwrap_err();
    assert_eq!(refused.code(), "edge_config");
    assert!(refused.to_string().contains("dispatch"), "{refused}");
    drop(world);
    let off = world_with(Config { workers: 1, dispatch: DispatchMode::Off, ..Config::default() });
    let report = off.apply(&[range(1, "tcp", 3000, 3999)]);
    let message = report.listeners[1].reason.clone().unwrap().message;
    assert!(message.contains("--dispatch off"), "{message}");
}

/// One after the other: each counts or changes what belongs to the whole process.
#[test]
fn sockets_are_few_with_dispatch_and_limited_without() {
    std::thread::spawn(every_port_of_both_protocols_costs_as_many_sockets_as_a_few).join().unwrap();
    std::thread::spawn(without_the_right_a_range_too_large_is_refused_and_the_missing_right_is_named).join().unwrap();
}
