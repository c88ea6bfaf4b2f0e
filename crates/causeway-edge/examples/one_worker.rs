//! An edge with one worker and one application until stdin ends: the process that bench/instructions.py counts in.
//!
//! one_worker tcp|udp|steered EDGE_ADDRESS:PORT ORIGIN_ADDRESS:PORT; steered: TCP with a plan of routes, whose flows go
//! direct. Load and origin are other processes, so every instruction here is ours.
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Read;

use serde_json::json;

const PLAN: &str = r#"{"version": 1, "ttl_ms": 3600000, "direct_one_in": 0, "legs": [], "reach": [],
    "applications": [{"id": "00000000000000000000000000000001", "paths": [[]]}]}"#;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [kind, edge, origin] = words.as_slice() else { panic!("one_worker tcp|udp|steered EDGE ORIGIN") };
    let (edge, origin) = (edge.parse().unwrap(), origin.parse().unwrap());
    let application = |protocol, change| support::application(1, protocol, edge, &[origin], change);
    let (_world, _members); // which serve until the end
    if kind == "steered" {
        let members = support::network::network(&["par"]);
        members[0].apply(&members, &[application("tcp", json!({"steered": true}))]);
        members[0].edge.steer(PLAN.as_bytes()).unwrap();
        _members = members;
    } else {
        let world = support::world(1);
        world.apply(&[application(kind, json!({}))]);
        _world = world;
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    std::process::exit(0); // without the drain, which is none of what is counted
}
