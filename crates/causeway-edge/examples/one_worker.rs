//! An edge with one worker and one application until stdin ends: the process that bench/instructions.py counts in.
//!
//! one_worker tcp|udp EDGE_ADDRESS:PORT ORIGIN_ADDRESS:PORT. Load and origin are other processes, so every instruction
//! here is ours.
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Read;

use serde_json::json;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, edge, origin] = words.as_slice() else { panic!("one_worker tcp|udp EDGE ORIGIN") };
    let world = support::world(1);
    world.apply(&[support::application(1, protocol, edge.parse().unwrap(), &[origin.parse().unwrap()], json!({}))]);
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    std::process::exit(0); // without the drain, which is none of what is counted
}
