//! Out of file descriptors: new clients are told, old ones live. A process of its own, since the limit is the process's.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use serde_json::json;
use support::{application, echo, eventually, free_address, origin, world};

#[test]
fn at_the_limit_new_connections_are_refused_and_old_ones_go_on() {
    let limit = libc::rlimit { rlim_cur: 400, rlim_max: 400 };
    // SAFETY: a readable rlimit; lowering one's own limit is allowed to everybody.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[application(1, "tcp", edge, &[origin("127.0.0.1", echo)], json!({}))]);
    // Client, both sides of the edge and the origin are all in this process: four descriptors a connection. Room for
    // 45 of them and one descriptor more, so that it is the edge that finds none, not the client or the origin.
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    hoard.truncate(hoard.len() - (45 * 4 + 1));
    let mut clients: Vec<TcpStream> = Vec::new();
    let refused = eventually("a refusal", || {
        // The client's own socket may be the one that finds no descriptor: make room and try again.
        let Ok(mut client) = TcpStream::connect(edge) else {
            clients.pop();
            return None;
        };
        client.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let asked = client.write_all(b"?");
        match asked.and_then(|()| client.read(&mut [0])) {
            Ok(1) => {
                clients.push(client);
                None
            }
            Ok(_) => panic!("a refused client must see a reset, not an end"),
            Err(error) => Some(error.kind()),
        }
    });
    assert_eq!(refused, ErrorKind::ConnectionReset);
    assert_eq!(clients.len(), 45);
    for client in &mut clients {
        client.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    // With room again, new clients are served.
    clients.truncate(clients.len() / 2);
    eventually("room again", || {
        let mut client = TcpStream::connect(edge).ok()?;
        client.set_read_timeout(Some(support::DEADLINE)).ok()?;
        client.write_all(b"?").ok()?;
        (client.read(&mut [0]).ok()? == 1).then_some(())
    });
}
