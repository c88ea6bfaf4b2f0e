//! Ranges of ports for tests that run both ways: applications, origins that say which port they are, questions.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use causeway_edge::{ApplyReport, Config, DispatchMode};
use serde_json::{Value, json};

use super::udp::client;
use super::{DEADLINE, World, application, world_with};

pub const LOOPBACK: [&str; 1] = ["127.0.0.1"];

pub fn world(mode: DispatchMode) -> World {
    world_with(Config { workers: 2, dispatch: mode, ..Config::default() })
}

/// An application on ports `first` to `last` of `addresses`, whose origin is `to` for the first port.
pub fn range(number: u64, protocol: &str, addresses: &[&str], first: u16, last: u16, to: u16) -> Value {
    let origin = json!({"address": "127.0.0.1", "ports": {"first": to, "last": to + (last - first)}});
    let change = json!({
        "edge_addresses": addresses, "edge_ports": {"first": first, "last": last},
        "origins": {"kind": "addresses", "addresses": [origin]}, "drain_ms": 60_000,
    });
    application(number, protocol, SocketAddr::new(addresses[0].parse().unwrap(), first), &[], change)
}

/// Origins that say their own port, for each of `ports`, over TCP and UDP.
pub fn origins(ports: std::ops::RangeInclusive<u16>) {
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

pub fn ask_tcp(to: SocketAddr) -> String {
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
pub fn ask_udp(to: SocketAddr) -> String {
    let client = client(to);
    client.send(b"?").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buffer = [0; 100];
    match client.recv(&mut buffer) {
        Ok(n) => String::from_utf8_lossy(&buffer[..n]).into_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

pub fn fates(report: &ApplyReport) -> Vec<String> {
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
