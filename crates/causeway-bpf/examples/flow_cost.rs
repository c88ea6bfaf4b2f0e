//! What a packet of an established flow costs in the flow program: ns by the kernel's own run-time statistics, for
//! as many flows as are asked for (`flow_cost 1000 1000000`), and kernel memory for each.
//!
//! Flows are opened by handshakes, packets are of random flows, through `BPF_PROG_TEST_RUN`: the table is as cold for
//! a packet as with as many clients. The statistics' own two clock readings are in the figures.
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;

use causeway_bpf::flow::{FlowPath, HeaderKind, Options};
use support::packet::{ACK, PSH, SYN, Tcp, ends, tcp};
use support::*;

const PACKETS: usize = 200_000;

fn client(n: usize) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::from(0xC613_0000 + (n / 20_000) as u32).into(), 30_000 + (n % 20_000) as u16)
}

/// Open flow `n`; answers its data packets as each side sends them.
fn open(path: &FlowPath, n: usize) -> [Vec<u8>; 2] {
    let edge = at(EDGE, 1000 + (n % 1000) as u16);
    let ask = |frame: &[u8]| path.ask(frame).unwrap().1;
    let (source, origin) = ends(&ask(&tcp(client(n), edge, &Tcp::new(SYN, 100, 0, b""))));
    ask(&tcp(origin, source, &Tcp::new(SYN | ACK, 500, 101, b"")));
    ask(&tcp(client(n), edge, &Tcp::new(ACK, 101, 501, b"")));
    let words = [7; 64];
    [
        tcp(client(n), edge, &Tcp::new(PSH | ACK, 101, 501, &words)),
        tcp(origin, source, &Tcp::new(PSH | ACK, 501, 101, &words)),
    ]
}

fn free_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("MemAvailable")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn main() {
    for flows in std::env::args().skip(1).map(|word| word.parse::<usize>().unwrap()) {
        let options = Options { capacity_v4: flows as u32, capacity_v6: 1, ..Options::default() };
        let before = free_memory();
        let Some(world) = world_with(&options) else { return };
        let taken = before.saturating_sub(free_memory());
        world.carry([HeaderKind::None; 2]);
        world.edge.ip(&format!("neigh add {ORIGIN} lladdr 02:00:00:00:00:02 dev o0"));
        world.edge.ip(&format!("neigh add {CLIENT} lladdr 02:00:00:00:00:01 dev c0"));
        world.edge.ip("route add 198.19.0.0/16 via 198.18.1.2");
        world.edge.enter();
        let packets: Vec<[Vec<u8>; 2]> = (0..flows).map(|n| open(&world.path, n)).collect();
        for active in [256, flows] {
            let mut at = 1usize;
            let (runs, ns) = world
                .path
                .timed(|| {
                    for n in 0..PACKETS {
                        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        world.path.ask(&packets[(at >> 20) % active * (flows / active)][n % 2]).unwrap();
                    }
                })
                .unwrap();
            println!("{flows} flows, packets of {active} of them: {} ns a packet", ns / runs);
        }
        let verdicts = world.path.verdicts().unwrap();
        println!(
            "{flows} flows: {} B of kernel memory a flow, both tables ({:?})",
            taken / flows as u64,
            verdicts.iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>()
        );
    }
}
