//! Out of file descriptors: new clients are told, old ones live. A process of its own, since the limit is the process's.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use support::{application, echo, eventually, free_address, origin, world};

const ORIGIN: &str = "CAUSEWAY_TEST_ORIGIN";

/// The origin lives in a process of its own, with descriptors of its own: this test, started again with a variable set.
#[test]
fn origin_process() {
    if std::env::var_os(ORIGIN).is_none() {
        return;
    }
    println!("origin {}", origin("127.0.0.1", echo).port());
    let _ = std::io::stdin().read(&mut [0]); // until the parent goes
}

fn start_origin() -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "origin_process", "--nocapture"])
        .env(ORIGIN, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port = lines
        .map_while(Result::ok)
        .find_map(|line| line.split("origin ").nth(1)?.trim().parse().ok())
        .expect("the origin tells its port");
    (child, SocketAddr::new([127, 0, 0, 1].into(), port))
}

#[test]
fn at_the_limit_new_connections_are_refused_and_old_ones_go_on() {
    let (mut child, origin) = start_origin();
    let limit = libc::rlimit { rlim_cur: 400, rlim_max: 400 };
    // SAFETY: a readable rlimit; lowering one's own limit is allowed to everybody.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[application(1, "tcp", edge, &[origin], json!({}))]);
    // Clients and both sides of the edge are in this process: three descriptors a connection. Room for
    // 45 of them and one descriptor more, so that it is the edge that finds none, not the client or the origin.
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    hoard.truncate(hoard.len() - (45 * 3 + 1));
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
    drop(child.stdin.take());
    child.wait().unwrap();
}
