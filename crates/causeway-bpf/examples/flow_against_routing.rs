//! The flow program beside plain routing, in the same namespaces, interleaved: how much of direct it is.
//!
//! `flow_against_routing CAUSEWAY-LOAD [ROUNDS [none|v1|v2]]`; the program is detached while routing has its turn.

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::{Command, Stdio};

use causeway_bpf::Spot;
use causeway_bpf::flow::{HeaderKind, PortTable};
use support::*;

/// Only those whose name has it, if `ONLY` is set.
const WORKLOADS: [(&str, u16, &str); 9] = [
    ("connections", 7001, "short --parallel 16 --close rst"),
    ("round trips 16", 7001, "rr --connections 16 --size 64"),
    ("round trips 256", 7001, "rr --connections 256 --size 64"),
    ("bulk up 1", 7002, "bulk --streams 1 --direction up"),
    ("bulk up 4", 7002, "bulk --streams 4 --direction up"),
    ("bulk down 1", 7003, "bulk --streams 1 --direction down"),
    ("bulk down 4", 7003, "bulk --streams 4 --direction down"),
    ("udp 8 x 32", 7004, "udp --flows 8 --in-flight 32 --size 64"),
    ("udp 256 x 2", 7004, "udp --flows 256 --in-flight 2 --size 64"),
];

fn rate(world: &World, load: &str, words: &str, to: std::net::SocketAddr) -> f64 {
    let output = world.client.run(|| {
        Command::new(load)
            .args(words.split(' '))
            .args(["--to", &to.to_string(), "--seconds", "1.5", "--warmup", "0.3"])
            .output()
    });
    let output = output.expect("causeway-load runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    let rate = line.split("\"rate\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
    rate.and_then(|rate| rate.trim().parse().ok())
        .unwrap_or_else(|| panic!("{words}: {line} {}", String::from_utf8_lossy(&output.stderr)))
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn main() {
    let mut words = std::env::args().skip(1);
    let load = words.next().expect("where causeway-load is");
    let rounds: usize = words.next().map_or(3, |word| word.parse().expect("a number of rounds"));
    let header = match words.next().as_deref() {
        Some("v1") => HeaderKind::ProxyV1,
        Some("v2") => HeaderKind::ProxyV2,
        _ => HeaderKind::None,
    };
    let Some(world) = world_with(&Default::default()) else { return };
    for (index, is_tcp) in [(1, true), (2, false)] {
        let mut application = carried(is_tcp, if is_tcp { header } else { HeaderKind::None }, ORIGIN);
        (application.edge_first_port, application.origins[0].first_port) = (7000, 7000);
        world.path.set_application(index, &application).expect("an application");
        let mut table = PortTable::default();
        table.set(7000..=7010, index);
        let edge = EDGE.parse().expect("an address");
        world.path.set_ports(if is_tcp { Spot::tcp(edge) } else { Spot::udp(edge) }, &table).expect("ports");
    }
    world.edge.set("ipv4/ip_forward", "1");
    world.client.ip("route add 198.18.2.0/24 via 198.18.1.1");
    world.origin.ip("route add 198.18.1.0/24 via 198.18.2.1");
    let mut origin = world
        .origin
        .run(|| {
            Command::new(&load)
                .args(["origin", "--bind", ORIGIN, "--max-seconds", "900"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
        })
        .expect("an origin");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let interfaces = ["c0", "o0"].map(|name| world.edge.index(name));
    let only = std::env::var("ONLY").unwrap_or_default();
    for (name, port, words) in WORKLOADS.into_iter().filter(|(name, ..)| name.contains(&only)) {
        let (mut rates, mut costs) = ([Vec::new(), Vec::new()], Vec::new());
        for _ in 0..rounds {
            world.edge.run(|| interfaces.iter().for_each(|i| world.path.detach(*i).expect("detached")));
            rates[0].push(rate(&world, &load, words, at(ORIGIN, port)));
            world.edge.run(|| interfaces.iter().for_each(|i| world.path.attach(*i).expect("attached")));
            let cost = world.path.timed(|| rates[1].push(rate(&world, &load, words, at(EDGE, port))));
            let (runs, ns) = cost.expect("times");
            costs.push((ns / runs.max(1)) as f64);
        }
        let [direct, flow] = rates.map(median);
        println!(
            "{name:16} direct {direct:>14.0}  flow {flow:>14.0}  {:.2} x  {:.0} ns a packet",
            flow / direct,
            median(costs)
        );
    }
    println!("{:?}", world.path.verdicts().expect("verdicts").iter().filter(|(_, n)| *n > 0).collect::<Vec<_>>());
    origin.kill().expect("the origin ends");
    let _ = origin.wait();
}
