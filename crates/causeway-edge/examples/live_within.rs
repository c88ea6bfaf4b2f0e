//! How long until 65,535 ports of TCP and as many of UDP serve: `cargo run --release --example live_within`.
//!
//! Needs root or CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF: it measures in a network namespace of its own.

use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use causeway_edge::{Config, DispatchMode, Edge};

const ROUNDS: u64 = 21;

fn snapshot(version: u64, has_applications: bool, other: u64) -> String {
    let application = |number: u64, protocol: &str| {
        format!(
            r#"{{"id":"{number:032x}","name":"a{number}.example.net","protocol":"{protocol}","edge_addresses":["127.0.0.1"],
            "edge_ports":{{"first":1,"last":65535}},"proxy_protocol":"off","udp_header":"first","proxy_protocol_from":[],
            "origins":{{"kind":"addresses","addresses":[{{"address":"127.0.0.2","ports":{{"first":1,"last":65535}}}}]}},
            "proxy_header_timeout_ms":3000,"connect_timeout_ms":{},"idle_timeout_ms":0,"half_close_timeout_ms":0,
            "no_progress_timeout_ms":300000,"udp_idle_timeout_ms":60000,"on_delete":"close","drain_ms":0}}"#,
            3000 + other
        )
    };
    let applications =
        if has_applications { [application(1, "tcp"), application(2, "udp")].join(",") } else { String::new() };
    format!(
        r#"{{"format":1,"version":{version},"settings":{{"origin_deny":[],"origin_deny_sockets":[],"allow_loopback_origins":true,
        "resolvers":[]}},"applications":[{applications}]}}"#
    )
}

fn median(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() - 1])
}

fn main() {
    // SAFETY: no pointers; nothing runs yet but this thread.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "a network namespace of its own is needed");
    assert!(std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().is_ok_and(|s| s.success()));
    let edge = Edge::start(Config { dispatch: DispatchMode::On, ..Config::default() }).expect("dispatch");
    let origin = TcpListener::bind("127.0.0.2:40000").expect("an origin");
    let (mut made, mut changed, mut gone, mut first) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut version = 0;
    let mut apply = |has_applications, other| {
        version += 1;
        let text = snapshot(version, has_applications, other);
        let begin = Instant::now();
        let report = edge.apply(text.as_bytes()).expect("a good snapshot");
        let took = begin.elapsed().as_secs_f64() * 1e3;
        assert!(report.listeners.iter().all(|listener| listener.reason.is_none()), "{:?}", report.listeners);
        took
    };
    for round in 0..ROUNDS {
        let begin = Instant::now();
        made.push(apply(true, 0));
        TcpStream::connect("127.0.0.1:40000").expect("the port is open");
        origin.accept().expect("the origin is reached");
        first.push(begin.elapsed().as_secs_f64() * 1e3);
        changed.push(apply(true, round + 1));
        gone.push(apply(false, 0));
        assert!(TcpStream::connect("127.0.0.1:40000").is_err(), "the port is closed");
    }
    for (what, times) in
        [("made", made), ("first connection at the origin", first), ("changed", changed), ("deleted", gone)]
    {
        let (middle, worst) = median(times);
        println!("65,535 ports of TCP and of UDP, {what}: median {middle:.2} ms, worst {worst:.2} ms of {ROUNDS}");
    }
}
