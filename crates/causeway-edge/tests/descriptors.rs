//! Out of file descriptors: new clients are told, old ones live. A process of its own, since the limit is the process's.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};

use serde_json::json;
use support::{application, connect, echo, eventually, free_address, origin, world};

#[test]
fn at_the_limit_new_connections_are_refused_and_old_ones_go_on() {
    let limit = libc::rlimit { rlim_cur: 400, rlim_max: 400 };
    // SAFETY: a readable rlimit; lowering one's own limit is allowed to everybody.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}))]);
    // Client, both sides of the edge and the origin are all in this process: four descriptors a connection.
    let mut clients = Vec::new();
    let refused = eventually("a refusal", || {
        let mut client = connect(edge);
        client.write_all(b"?").unwrap();
        match client.read(&mut [0]) {
            Ok(1) => {
                clients.push(client);
                None
            }
            Ok(_) => panic!("a refused client must see a reset, not an end"),
            Err(error) => Some(error.kind()),
        }
    });
    assert_eq!(refused, ErrorKind::ConnectionReset);
    assert!(clients.len() > 40, "{} connections with 400 descriptors", clients.len());
    for client in &mut clients {
        client.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    // With room again, new clients are served.
    clients.truncate(clients.len() / 2);
    eventually("room again", || {
        let mut client = connect(edge);
        client.write_all(b"?").ok()?;
        (client.read(&mut [0]).ok()? == 1).then_some(())
    });
}
