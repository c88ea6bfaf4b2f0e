//! The dispatch program as a function: claims and a packet in, a socket or nothing out (vectors/dispatch). No traffic.
//!
//! Every test has a network namespace of its own, so that what it attaches concerns nobody else.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;

use causeway_bpf::{Dispatch, Packet, PortSet, Slot, Spot};
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

#[derive(Deserialize)]
struct Vector {
    claims: Vec<Claim>,
    sockets: Vec<String>,
    packets: Vec<Probe>,
}

#[derive(Deserialize)]
struct Claim {
    protocol: String,
    address: IpAddr,
    ports: Vec<(u16, u16)>,
}

#[derive(Deserialize)]
struct Probe {
    protocol: String,
    from: SocketAddr,
    to: SocketAddr,
    goes_to: String,
}

impl Claim {
    fn spot(&self) -> Spot {
        if self.protocol == "tcp" { Spot::tcp(self.address) } else { Spot::udp(self.address) }
    }

    fn ports(&self) -> PortSet {
        let mut ports = PortSet::default();
        self.ports.iter().for_each(|(first, last)| ports.insert(*first, *last));
        ports
    }
}

/// `None` (and a word of why) where this machine does not let us.
fn dispatch() -> Option<Dispatch> {
    // SAFETY: no pointers; it concerns this thread, which is the test's own.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        eprintln!("SKIPPED: no network namespace of its own (CAP_SYS_ADMIN)");
        return None;
    }
    assert_eq!(std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().code(), Some(0));
    match Dispatch::attach() {
        Ok(dispatch) => Some(dispatch),
        Err(reason) => {
            eprintln!("SKIPPED: no kernel dispatch ({reason})");
            None
        }
    }
}

const SLOTS: [(&str, Slot, Type, bool); 4] = [
    ("tcp_v4", Slot::TcpV4, Type::STREAM, true),
    ("tcp_v6", Slot::TcpV6, Type::STREAM, false),
    ("udp_v4", Slot::UdpV4, Type::DGRAM, true),
    ("udp_v6", Slot::UdpV6, Type::DGRAM, false),
];

fn listener(kind: Type, is_ipv4: bool) -> Socket {
    let (domain, address) = if is_ipv4 { (Domain::IPV4, "127.0.0.1:0") } else { (Domain::IPV6, "[::1]:0") };
    let socket = Socket::new(domain, kind, None).unwrap();
    socket.bind(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
    if kind == Type::STREAM {
        socket.listen(16).unwrap();
    }
    socket
}

fn vectors() -> Vec<(String, Vector)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/dispatch");
    let mut found: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert!(found.len() >= 4);
    let read = |path: &std::path::PathBuf| serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    found.iter().map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), read(path))).collect()
}

#[test]
fn every_packet_goes_where_the_vectors_say() {
    for (name, vector) in vectors() {
        let Some(dispatch) = dispatch() else { return };
        let mut cookies = HashMap::new();
        let sockets: Vec<Socket> = SLOTS
            .iter()
            .filter(|(slot, ..)| vector.sockets.iter().any(|wanted| wanted == slot))
            .map(|(name, slot, kind, is_ipv4)| {
                let socket = listener(*kind, *is_ipv4);
                dispatch.give(*slot, socket.as_fd()).unwrap();
                cookies.insert(socket.cookie().unwrap(), *name);
                socket
            })
            .collect();
        for claim in &vector.claims {
            dispatch.claim(claim.spot(), &claim.ports()).unwrap();
            assert_eq!(dispatch.claimed(claim.spot()).unwrap(), claim.ports());
        }
        for probe in &vector.packets {
            let packet = Packet { is_tcp: probe.protocol == "tcp", source: probe.from, destination: probe.to };
            let chosen = dispatch
                .ask(packet)
                .unwrap_or_else(|error| panic!("{name}: {packet:?}: {error}"))
                .map_or("kernel", |cookie| cookies[&cookie]);
            assert_eq!(chosen, probe.goes_to, "{name}: {} to {}", probe.protocol, probe.to);
        }
        let verdicts = dispatch.verdicts().unwrap();
        assert_eq!(
            verdicts.passed + verdicts.assigned + verdicts.no_socket + verdicts.failed,
            vector.packets.len() as u64
        );
        drop(sockets);
    }
}

#[test]
fn a_claim_replaces_the_earlier_one_whole_and_an_empty_one_ends_it() {
    let Some(dispatch) = dispatch() else { return };
    let spot = Spot::tcp("192.0.2.1".parse().unwrap());
    let packet = |port| Packet {
        is_tcp: true,
        source: "198.51.100.9:40000".parse().unwrap(),
        destination: SocketAddr::new(spot.address(), port),
    };
    let socket = listener(Type::STREAM, true);
    dispatch.give(Slot::TcpV4, socket.as_fd()).unwrap();
    let is_ours = |port| dispatch.ask(packet(port)).unwrap().is_some();
    dispatch.claim(spot, &PortSet::range(1, 10)).unwrap();
    assert!(is_ours(1) && is_ours(10) && !is_ours(11));
    dispatch.claim(spot, &PortSet::range(10, 20)).unwrap();
    assert!(!is_ours(9) && is_ours(10) && is_ours(20));
    dispatch.claim(spot, &PortSet::default()).unwrap();
    assert!(!is_ours(10));
    dispatch.claim(spot, &PortSet::default()).unwrap();
    assert_eq!(dispatch.claimed(spot).unwrap(), PortSet::default());
}

#[test]
fn hundreds_of_claims_one_after_another_all_stand() {
    let Some(dispatch) = dispatch() else { return };
    let spot = |n: u32| Spot::tcp(IpAddr::from((0xC612_0000 + n).to_be_bytes()));
    for n in 0..500 {
        dispatch.claim(spot(n), &PortSet::range(n as u16, 60_000)).unwrap();
    }
    assert_eq!(dispatch.spots().unwrap().len(), 500);
    assert!((0..500).all(|n| dispatch.claimed(spot(n)).unwrap() == PortSet::range(n as u16, 60_000)));
}

#[test]
fn a_real_connection_lands_on_the_socket_from_parts_that_another_owner_holds() {
    let Some(dispatch) = dispatch() else { return };
    let socket = listener(Type::STREAM, true);
    dispatch.give(Slot::TcpV4, socket.as_fd()).unwrap();
    dispatch.claim(Spot::tcp("127.0.0.1".parse().unwrap()), &PortSet::range(100, 60_000)).unwrap();
    let taken_over = Dispatch::from_parts(dispatch.into_parts());
    let client = TcpStream::connect("127.0.0.1:23456").unwrap();
    let (accepted, _) = socket.accept().unwrap();
    assert_eq!(accepted.local_addr().unwrap().as_socket(), Some("127.0.0.1:23456".parse().unwrap()));
    assert!(TcpStream::connect("127.0.0.1:99").is_err(), "what is not claimed stays closed");
    assert_eq!(taken_over.verdicts().unwrap().assigned, 1);
    drop((client, taken_over));
    assert!(TcpStream::connect("127.0.0.1:23456").is_err(), "with the link the claims end");
}
