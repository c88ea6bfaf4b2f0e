//! One edge takes over from another, as two processes do, here in one: sockets, sessions, counts; and back again.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use causeway_edge::{Config, Edge, EdgeError};
use serde_json::{Value, json};
use support::udp::{QUIET, address, client, echo, hears_nothing, receive, receive_from, round_trip, socket};
use support::{World, application, eventually, free_address, world};

const WITHIN: Duration = Duration::from_secs(5);

fn link() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors, which are ours alone.
    unsafe {
        assert_eq!(libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

/// A new edge in place of the old one, which answers how many sessions went.
fn take_over(old: &Edge, config: Config) -> (Edge, usize) {
    let (here, there) = link();
    thread::scope(|scope| {
        let giving = scope.spawn(|| old.hand_over(there, WITHIN).unwrap());
        let new = Edge::take_over(config, here, WITHIN).unwrap();
        (new, giving.join().unwrap())
    })
}

fn totals(edge: &Edge) -> Value {
    serde_json::to_value(edge.observe(0)).unwrap()["totals"].clone()
}

fn apps(tcp: SocketAddr, tcp_origin: SocketAddr, udp: SocketAddr, udp_origin: SocketAddr) -> [Value; 2] {
    [application(1, "tcp", tcp, &[tcp_origin], json!({})), application(2, "udp", udp, &[udp_origin], json!({}))]
}

fn says(stream: &mut TcpStream, word: &[u8]) -> bool {
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    let mut heard = vec![0; word.len()];
    stream.write_all(word).is_ok() && stream.read_exact(&mut heard).is_ok() && heard == word
}

#[test]
fn connections_stay_sessions_move_and_nobody_is_refused() {
    for workers in [1, 2] {
        let world = world(workers);
        let (tcp, udp) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
        let origin = socket("127.0.0.1");
        world.apply(&apps(tcp, support::origin("127.0.0.1", support::echo), udp, address(&origin)));
        let mut long = TcpStream::connect(tcp).unwrap();
        assert!(says(&mut long, b"before"));
        let friends: Vec<_> = (0..20).map(|_| client(udp)).collect();
        let ports: Vec<SocketAddr> = friends
            .iter()
            .map(|friend| {
                friend.send(b"hello").unwrap();
                let (_, session) = receive_from(&origin);
                origin.send_to(b"welcome", session).unwrap();
                assert_eq!(receive(friend), b"welcome");
                session
            })
            .collect();

        let (new, moved) = take_over(&world.edge, Config { workers: 7, ..Config::default() });
        assert_eq!(moved, 20);
        assert!(says(&mut long, b"after"), "a connection stays with the old edge");
        for (friend, port) in friends.iter().zip(&ports) {
            friend.send(b"again").unwrap();
            assert_eq!(receive_from(&origin), (b"again".to_vec(), *port), "the source port is the session's");
            origin.send_to(b"yes", *port).unwrap();
            assert_eq!(receive(friend), b"yes");
        }
        for _ in 0..20 {
            assert!(says(&mut TcpStream::connect(tcp).unwrap(), b"new"));
        }
        let (was, is) = (totals(&world.edge), totals(&new));
        assert_eq!(was["connections_open"], 1, "{was}");
        eventually("21 sessions and connections counted once", || {
            (totals(&new)["connections_total"] == 41).then_some(())
        });
        assert_eq!(is["datagrams_ingress"], 40, "counts go on: {is}");
        assert!(matches!(world.edge.apply(&support::snapshot(9, &[])), Err(EdgeError::Stopped)));

        drop(long);
        assert_eq!(world.edge.drain(WITHIN), 0);
        drop(world);
        assert!(says(&mut TcpStream::connect(tcp).unwrap(), b"still"));
        friends[0].send(b"still").unwrap();
        assert_eq!(receive_from(&origin), (b"still".to_vec(), ports[0]));
    }
}

#[test]
fn an_edge_that_took_over_can_be_taken_over() {
    let world = world(2);
    let (tcp, udp) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    world.apply(&apps(tcp, support::origin("127.0.0.1", support::echo), udp, echo("127.0.0.1")));
    let friend = client(udp);
    assert!(round_trip(&friend, b"one"));
    let mut edges = vec![world.edge];
    for _ in 0..5 {
        let (next, moved) = take_over(edges.last().unwrap(), Config::default());
        assert_eq!(moved, 1);
        edges.push(next);
        assert!(round_trip(&friend, b"two") && says(&mut TcpStream::connect(tcp).unwrap(), b"three"));
    }
    let version = serde_json::to_value(edges.last().unwrap().observe(0)).unwrap()["version"].clone();
    assert_eq!(version, 1);
}

#[test]
fn what_was_given_is_taken_back_when_the_new_side_fails() {
    let world = world(2);
    let (tcp, udp) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let origin = socket("127.0.0.1");
    world.apply(&apps(tcp, support::origin("127.0.0.1", support::echo), udp, address(&origin)));
    let friend = client(udp);
    friend.send(b"hello").unwrap();
    let (_, session) = receive_from(&origin);

    for asks in 0..6 {
        let (here, there) = link();
        thread::scope(|scope| {
            let giving = scope.spawn(|| world.edge.hand_over(there, WITHIN));
            Pretender(here).ask(asks);
            assert!(matches!(giving.join().unwrap(), Err(EdgeError::HandOver(_))), "after {asks} question(s)");
        });
        friend.send(b"again").unwrap();
        assert_eq!(receive_from(&origin), (b"again".to_vec(), session), "after {asks} question(s)");
        origin.send_to(b"answer", session).unwrap();
        assert_eq!(receive(&friend), b"answer");
        assert!(says(&mut TcpStream::connect(tcp).unwrap(), b"served"));
    }
    assert!(hears_nothing(&origin));
    let (_, moved) = take_over(&world.edge, Config::default());
    assert_eq!(moved, 1, "and then it can be given");
}

#[test]
fn datagrams_wait_while_nobody_reads_them() {
    let world = world(1);
    let udp = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    world.apply(&[application(1, "udp", udp, &[address(&origin)], json!({}))]);
    let friend = client(udp);
    friend.send(b"hello").unwrap();
    let (_, session) = receive_from(&origin);
    let (here, there) = link();
    thread::scope(|scope| {
        let giving = scope.spawn(|| world.edge.hand_over(there, WITHIN));
        let pretender = Pretender(here);
        pretender.ask(4); // held, and its sessions are known
        for n in 0..50u8 {
            friend.send(&[n]).unwrap();
            origin.send_to(&[n], session).unwrap();
        }
        thread::sleep(QUIET);
        drop(pretender);
        assert!(giving.join().unwrap().is_err());
    });
    for n in 0..50u8 {
        assert_eq!(receive_from(&origin), (vec![n], session));
        assert_eq!(receive(&friend), [n]);
    }
}

#[test]
fn a_side_that_does_not_answer_is_given_up_at_the_deadline() {
    let world = world(1);
    let tcp = free_address("127.0.0.1");
    world.apply(&[application(1, "tcp", tcp, &[support::origin("127.0.0.1", support::echo)], json!({}))]);
    let (here, there) = link();
    let result = world.edge.hand_over(there, Duration::from_millis(100));
    assert!(result.unwrap_err().to_string().contains("in time"));
    let late = Edge::take_over(Config::default(), here, WITHIN);
    assert!(late.unwrap_err().to_string().contains("gone"));
    assert!(says(&mut TcpStream::connect(tcp).unwrap(), b"served"));
}

#[test]
fn an_edge_that_stops_does_not_wait_for_sessions_that_are_silent() {
    let world: World = world(1);
    let udp = free_address("127.0.0.1");
    world.apply(&[application(1, "udp", udp, &[echo("127.0.0.1")], json!({"udp_idle_timeout_ms": 60_000}))]);
    let friend = client(udp);
    assert!(round_trip(&friend, b"hello"));
    let began = std::time::Instant::now();
    assert_eq!(world.edge.drain(Duration::from_secs(30)), 0);
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}

/// A new side that asks the right questions and goes away.
struct Pretender(OwnedFd);

impl Pretender {
    fn ask(&self, count: usize) {
        use std::os::fd::AsRawFd;
        let next = r#"{"ask":"next"}"#;
        let questions = [r#"{"ask":"offer","format":1}"#, next, next, next, next, r#"{"ask":"hold"}"#, next, next];
        for question in questions.into_iter().take(count + 2) {
            let message = format!("J{question}");
            let mut room = vec![0u8; 200_000];
            // SAFETY: pointers and lengths describe memory that lives through the calls.
            let heard = unsafe {
                libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), libc::MSG_NOSIGNAL);
                libc::recv(self.0.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), 0)
            };
            if heard <= 0 {
                return;
            }
        }
    }
}
