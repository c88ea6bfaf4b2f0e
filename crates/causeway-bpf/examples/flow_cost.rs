//! What a million flows cost: memory of each, packets a second, and ns a packet in the program by the kernel's own
//! run-time statistics, beside the same with a thousand (`flow_cost [MANY [ROUNDS]]`). Prints JSON.
//!
//! Two edges of the same capacity, one with 1,000 flows in each family's table, one with as many as fit, half of each
//! TCP, half UDP. Packets of 64 bytes of new payload, of random flows, come in by veth and leave by another, to nobody:
//! `few`; `many`; and `busy`, of 1,000 of the many flows, which tells the table's size from the memory that is touched.
//! Every round has every case of all three, in turns; figures are medians. Rates are taken without the statistics,
//! whose two clock readings are in the ns.
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use causeway_bpf::flow::{HeaderKind, Options};
use support::packet::{ACK, PSH, SYN, Tcp, ends, tcp, udp};
use support::*;

const FEW: usize = 1000;
const PACKETS: usize = 250_000; // a tenth of a second or two
const BATCH: usize = 64;
const PAYLOAD: usize = 64;
const EDGE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const CASES: [(&str, bool, bool); 4] =
    [("tcp4", true, true), ("udp4", false, true), ("tcp6", true, false), ("udp6", false, false)];
/// Which edge, and whether packets are of 1,000 flows or of all.
const SIDES: [(&str, usize, bool); 3] = [("few", 0, true), ("many", 1, false), ("busy", 1, true)];

fn client(n: usize, is_ipv4: bool) -> SocketAddr {
    let ip = match is_ipv4 {
        true => IpAddr::from(Ipv4Addr::from(0xC613_0000 + (n / 20_000) as u32)),
        false => IpAddr::from(Ipv6Addr::from(0x2001_0db8_0001_0000_0000_0000_0001_0000 + (n / 20_000) as u128)),
    };
    SocketAddr::new(ip, 30_000 + (n % 20_000) as u16)
}

/// A flow that is open, as its client sends: frame `n` of a case.
fn frame(n: usize, is_tcp: bool, is_ipv4: bool) -> Vec<u8> {
    let (client, edge) = (client(n, is_ipv4), at(if is_ipv4 { EDGE } else { EDGE6 }, 1000 + (n % 1000) as u16));
    let mut frame = match is_tcp {
        true => tcp(client, edge, &Tcp::new(PSH | ACK, 101, 501, &[7; PAYLOAD])),
        false => udp(client, edge, &[7; PAYLOAD]),
    };
    frame[..6].copy_from_slice(&EDGE_MAC);
    frame
}

struct Edge {
    world: World,
    /// For each case, of all flows and then of a thousand: packets of random ones in one piece, and whose each is.
    packets: Vec<(Vec<u8>, Vec<u32>)>,
    sent: Vec<BTreeMap<u32, u32>>,
    socket: OwnedFd,
}

impl Edge {
    fn new(flows: usize, capacity: usize) -> Option<Edge> {
        let capacity = capacity as u32;
        let options = Options { capacity_v4: capacity, capacity_v6: capacity, ..Options::default() };
        let world = world_with(&options)?;
        world.carry([HeaderKind::None; 2]);
        world.edge.ip("link set c0 address 02:00:00:00:01:01");
        // To the origin's link, and to nobody there: an answer would end the flow.
        for origin in [ORIGIN, ORIGIN6] {
            world.edge.ip(&format!("neigh replace {origin} lladdr 02:00:00:00:00:02 nud permanent dev o0"));
        }
        world.edge.ip("route add 198.19.0.0/16 via 198.18.1.2");
        world.edge.run(|| {
            for (_, is_tcp, is_ipv4) in CASES {
                (usize::from(!is_tcp)..flows).step_by(2).for_each(|n| open(&world, n, is_tcp, is_ipv4));
            }
        });
        let packets =
            [flows, FEW].into_iter().flat_map(|of| CASES.iter().map(move |case| shuffled(flows, of, case.1, case.2)));
        let packets = packets.collect();
        let socket = world.client.run(|| link(world.client.index("c1")));
        let sent = CASES.iter().map(|_| BTreeMap::new()).collect();
        Some(Edge { world, packets, sent, socket })
    }

    /// What every TCP packet has is new.
    fn renew(&mut self, packets: usize) {
        let case = packets % CASES.len();
        let (_, is_tcp, is_ipv4) = CASES[case];
        if !is_tcp {
            return;
        }
        let (bytes, flows) = &mut self.packets[packets];
        let (length, seq) = (bytes.len() / flows.len(), if is_ipv4 { 38 } else { 58 });
        for (frame, flow) in bytes.chunks_mut(length).zip(flows) {
            let next = self.sent[case].entry(*flow).or_insert(101);
            frame[seq..seq + 4].copy_from_slice(&next.to_be_bytes());
            *next = next.wrapping_add(PAYLOAD as u32);
        }
    }

    /// Send them; answers how many arrived in a second.
    fn rate(&self, packets: usize) -> f64 {
        let (bytes, flows) = &self.packets[packets];
        let before = self.arrived();
        let begin = Instant::now();
        send(&self.socket, bytes, bytes.len() / flows.len());
        let took = begin.elapsed().as_secs_f64();
        (self.arrived() - before) as f64 / took
    }

    fn arrived(&self) -> u64 {
        let text = self.world.origin.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let line = text.lines().find(|line| line.trim_start().starts_with("o1:")).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    }
}

fn open(world: &World, n: usize, is_tcp: bool, is_ipv4: bool) {
    let ask = |frame: &[u8]| world.path.ask(frame).unwrap().1;
    let (client, edge) = (client(n, is_ipv4), at(if is_ipv4 { EDGE } else { EDGE6 }, 1000 + (n % 1000) as u16));
    if !is_tcp {
        let (source, origin) = ends(&ask(&udp(client, edge, b"")));
        ask(&udp(origin, source, b""));
        return;
    }
    let (source, origin) = ends(&ask(&tcp(client, edge, &Tcp::new(SYN, 100, 0, b""))));
    ask(&tcp(origin, source, &Tcp::new(SYN | ACK, 500, 101, b"")));
    ask(&tcp(client, edge, &Tcp::new(ACK, 101, 501, b"")));
}

fn shuffled(flows: usize, active: usize, is_tcp: bool, is_ipv4: bool) -> (Vec<u8>, Vec<u32>) {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let of: Vec<u32> =
        (0..PACKETS).map(|_| (random(active / 2) * (flows / active) * 2 + usize::from(!is_tcp)) as u32).collect();
    let bytes = of.iter().flat_map(|n| frame(*n as usize, is_tcp, is_ipv4)).collect();
    (bytes, of)
}

/// A packet socket of the calling thread's namespace that sends by an interface, past its queue.
fn link(interface: u32) -> OwnedFd {
    // SAFETY: no pointers but those to values that outlive the calls; the descriptor is new.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        assert!(fd >= 0, "no packet socket: {}", std::io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        (address.sll_family, address.sll_ifindex) = (libc::AF_PACKET as u16, interface as i32);
        let length = size_of_val(&address) as u32;
        assert_eq!(libc::bind(fd, (&raw const address).cast(), length), 0);
        let bypass = 1i32;
        libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, (&raw const bypass).cast(), 4);
        socket
    }
}

fn send(socket: &OwnedFd, bytes: &[u8], length: usize) {
    for batch in bytes.chunks(length * BATCH) {
        let mut pieces: Vec<libc::iovec> = (batch.chunks(length))
            .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: length })
            .collect();
        // SAFETY: zeroes are a message without anything.
        let mut messages: Vec<libc::mmsghdr> = (pieces.iter_mut())
            .map(|piece| unsafe {
                let mut message: libc::mmsghdr = std::mem::zeroed();
                (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (piece, 1);
                message
            })
            .collect();
        let mut at = 0;
        while at < messages.len() {
            let rest = &mut messages[at..];
            // SAFETY: as many messages as are there, each of bytes that outlive the call.
            let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
            assert!(sent > 0, "not sent: {}", std::io::Error::last_os_error());
            at += sent as usize;
        }
    }
}

/// Kernel memory of a table of `flows` flows of one family alone, by what the machine has left, and by what its maps say.
fn memory(flows: usize, is_ipv4: bool) -> (u64, u64) {
    let (v4, v6) = if is_ipv4 { (flows, 1) } else { (1, flows) };
    let (free, locked) = (free_memory(), locked_memory());
    let options = Options { capacity_v4: v4 as u32, capacity_v6: v6 as u32, ..Options::default() };
    let _world = world_with(&options);
    let per_flow = |bytes: u64| bytes / flows as u64;
    (per_flow(free.saturating_sub(free_memory())), per_flow(locked_memory() - locked))
}

fn free_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("MemAvailable")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Of all maps that this process holds, each once.
fn locked_memory() -> u64 {
    let mut maps = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum()
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let mut words = std::env::args().skip(1).map(|word| word.parse::<usize>().expect("a number"));
    let (many, rounds) = (words.next().unwrap_or(1_000_000), words.next().unwrap_or(5));
    let memory: BTreeMap<&str, _> = [("ipv4", true), ("ipv6", false)]
        .map(|(name, is_ipv4)| {
            let (taken, locked) = memory(many, is_ipv4);
            (name, serde_json::json!({ "taken_bytes": taken, "maps_say_bytes": locked }))
        })
        .into();
    let Some(mut edges) = [FEW, many].map(|flows| Edge::new(flows, many)).into_iter().collect::<Option<Vec<_>>>()
    else {
        std::process::exit(2);
    };
    let mut figures: BTreeMap<(usize, usize), [Vec<f64>; 2]> = BTreeMap::new();
    for round in 0..=rounds {
        for case in 0..CASES.len() {
            for turn in 0..SIDES.len() {
                let side = (round + turn) % SIDES.len();
                let (edge, packets) = (&mut edges[SIDES[side].1], case + usize::from(SIDES[side].2) * CASES.len());
                edge.renew(packets);
                let rate = edge.rate(packets);
                edge.renew(packets);
                let (runs, ns) = edge.world.path.timed(|| _ = edge.rate(packets)).unwrap();
                assert!(runs >= PACKETS as u64, "only {runs} packets came to the program");
                // The first round is to warm up.
                if round > 0 {
                    let [rates, costs] = figures.entry((case, side)).or_default();
                    rates.push(rate);
                    costs.push(ns as f64 / runs as f64);
                }
            }
        }
    }
    let cases: BTreeMap<&str, BTreeMap<&str, _>> = (CASES.iter().enumerate())
        .map(|(case, (name, ..))| {
            let mut few = 0.0;
            let sides = SIDES.iter().enumerate().map(|(side, (label, ..))| {
                let [rates, costs] = figures.get_mut(&(case, side)).unwrap();
                let (rate, ns) = (median(rates), median(costs));
                few = if side == 0 { rate } else { few };
                let of_few = (rate / few * 1000.0).round() / 1000.0;
                (*label, serde_json::json!({ "packets_per_s": rate.round(), "program_ns": ns.round(), "rate_of_few": of_few }))
            });
            (*name, sides.collect())
        })
        .collect();
    let verdicts: BTreeMap<String, u64> = (edges[1].world.path.verdicts().unwrap().iter())
        .filter(|(_, count)| *count > 0)
        .map(|(verdict, count)| (format!("{verdict:?}"), count))
        .collect();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let report = serde_json::json!({
        "kind": "flows", "kernel": kernel.trim(), "rounds": rounds, "packets": PACKETS, "payload_bytes": PAYLOAD,
        "few_flows": FEW, "many_flows": many, "memory_per_flow": memory, "cases": cases, "verdicts_of_many": verdicts,
    });
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
}
