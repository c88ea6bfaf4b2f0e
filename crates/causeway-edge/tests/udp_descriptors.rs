//! Out of file descriptors over UDP: strangers give way. A process of its own, since the limit is the process's.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::File;

use serde_json::json;
use support::udp::{address, client, count, receive, receive_from, socket, udp};
use support::{free_address, world};

#[test]
fn at_the_limit_a_new_session_takes_the_place_of_one_that_never_went_both_ways() {
    let limit = libc::rlimit { rlim_cur: 120, rlim_max: 120 };
    // SAFETY: a readable rlimit; lowering one's own limit is allowed to everybody.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    world.apply(&[udp(edge, &[address(&origin)], json!({}))]);
    let friend = client(edge);
    friend.send(b"friend").unwrap();
    let (_, session) = receive_from(&origin);
    origin.send_to(b"answer", session).unwrap();
    assert_eq!(receive(&friend), b"answer");
    friend.send(b"and on").unwrap();
    assert_eq!(receive(&origin), b"and on");
    let strangers: Vec<_> = (0..4).map(|_| client(edge)).collect();
    for stranger in &strangers[..3] {
        stranger.send(b"stranger").unwrap();
        assert_eq!(receive(&origin), b"stranger");
    }
    let hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    for stranger in [&strangers[3], &strangers[0], &strangers[1]] {
        stranger.send(b"again").unwrap();
        assert_eq!(receive(&origin), b"again");
    }
    friend.send(b"friend").unwrap();
    assert_eq!(receive_from(&origin), (b"friend".to_vec(), session));
    drop(hoard);
    assert_eq!((count(&world, "sessions_evicted_total"), count(&world, "connections_open")), (3, 4));
    assert_eq!((count(&world, "connect_errors_total"), count(&world, "datagrams_dropped")), (0, 0));
}
