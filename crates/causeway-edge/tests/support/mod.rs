//! An edge on loopback for tests: applications as JSON, waits with deadlines, origins as threads.
#![allow(dead_code, clippy::unwrap_used)]

pub mod line;
pub mod net;
pub mod network;
pub mod quic;
pub mod range;
pub mod udp;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use causeway_edge::{ApplyReport, Config, Edge};
use serde_json::{Value, json};

pub const DEADLINE: Duration = Duration::from_secs(10);

/// Ask again until it answers something, or fail with what it was about.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub struct World {
    pub edge: Edge,
    version: AtomicU64,
}

pub fn world(workers: usize) -> World {
    world_with(Config { workers, ..Config::default() })
}

pub fn world_with(config: Config) -> World {
    World { edge: Edge::start(config).unwrap(), version: AtomicU64::new(0) }
}

impl World {
    pub fn apply(&self, applications: &[Value]) -> ApplyReport {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        self.edge.apply(&snapshot(version, applications)).unwrap()
    }

    pub fn apply_with(&self, settings: Value, applications: &[Value]) -> ApplyReport {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        let text = json!({"format": 1, "version": version, "settings": settings, "applications": applications});
        self.edge.apply(text.to_string().as_bytes()).unwrap()
    }

    /// The records of an application so far, until one has this cause.
    pub fn record(&self, cause: &str) -> Value {
        record(&self.edge, cause)
    }

    pub fn totals(&self) -> Value {
        serde_json::to_value(self.edge.observe(0)).unwrap()["totals"].clone()
    }
}

/// The first record of this cause, of all that the edge tells from now on.
pub fn record(edge: &Edge, cause: &str) -> Value {
    let mut seen = Vec::new();
    eventually(cause, || {
        let report = serde_json::to_value(edge.observe(10_000)).unwrap();
        seen.extend(report["events"].as_array().unwrap().iter().cloned());
        seen.iter().find(|event| event["cause"] == cause).cloned()
    })
}

pub fn settings() -> Value {
    json!({"origin_deny": [], "origin_deny_sockets": [], "allow_loopback_origins": true, "resolvers": []})
}

pub fn snapshot(version: u64, applications: &[Value]) -> Vec<u8> {
    json!({"format": 1, "version": version, "settings": settings(), "applications": applications})
        .to_string()
        .into_bytes()
}

/// An application from one edge address to origins; `change` overrides any field.
pub fn application(number: u64, protocol: &str, edge: SocketAddr, origins: &[SocketAddr], change: Value) -> Value {
    let origins: Vec<Value> =
        origins.iter().map(|o| json!({"address": o.ip(), "ports": {"first": o.port(), "last": o.port()}})).collect();
    let mut application = json!({
        "id": format!("{number:032x}"), "name": format!("app{number}.example.net"), "protocol": protocol,
        "edge_addresses": [edge.ip()], "edge_ports": {"first": edge.port(), "last": edge.port()},
        "origins": {"kind": "addresses", "addresses": origins},
        "proxy_protocol": "off", "udp_header": "first", "proxy_protocol_from": [],
        "proxy_header_timeout_ms": 3000, "connect_timeout_ms": 3000, "idle_timeout_ms": 3_600_000,
        "half_close_timeout_ms": 0, "no_progress_timeout_ms": 300_000, "udp_idle_timeout_ms": 60_000,
        "on_delete": "drain", "drain_ms": 30_000,
    });
    for (field, value) in change.as_object().unwrap() {
        application[field] = value.clone();
    }
    application
}

/// A free port of loopback. Another process may take it; tests of this crate do not.
pub fn free_address(ip: &str) -> SocketAddr {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let base = 20_000 + (std::process::id() as u64 % 500) * 20;
    loop {
        let port = (base + NEXT.fetch_add(1, Ordering::Relaxed)) as u16;
        let address = SocketAddr::new(ip.parse().unwrap(), port);
        if TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// An origin that serves each connection with `serve` in a thread; ends with the test process.
pub fn origin(ip: &str, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = std::sync::Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

pub fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 65536];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Close so that the peer sees RST.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

pub fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(work)
}

/// Bytes that differ everywhere, the same for the same seed (xorshift).
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}
