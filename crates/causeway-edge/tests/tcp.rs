//! TCP through a real edge on loopback: bytes, ends, resets, origins in order, timers.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{application, connect, echo, eventually, free_address, in_background, noise, origin, reset, world};

fn tcp(edge: SocketAddr, origins: &[SocketAddr], change: Value) -> Value {
    application(1, "tcp", edge, origins, change)
}

#[test]
fn bytes_come_back_as_they_were_sent() {
    for ip in ["127.0.0.1", "::1"] {
        let world = world(2);
        let edge = free_address(ip);
        world.apply(&[tcp(edge, &[origin(ip, echo)], json!({}))]);
        let mut client = connect(edge);
        client.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        assert_eq!(world.record("opened")["edge"], edge.to_string());
    }
}

#[test]
fn a_large_stream_is_exact_in_both_directions_at_once() {
    const LEN: usize = 48 * 1024 * 1024;
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[tcp(edge, &[origin("127.0.0.1", echo)], json!({}))]);
    let mut client = connect(edge);
    let sent = noise(7, LEN);
    let mut writer = client.try_clone().unwrap();
    let copy = sent.clone();
    let writing = in_background(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::with_capacity(LEN);
    client.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == sent, "{} bytes came back of {LEN}, or others", back.len());
    let record = world.record("closed");
    assert_eq!(
        (record["client_bytes"].as_u64(), record["origin_bytes"].as_u64()),
        (Some(LEN as u64), Some(LEN as u64))
    );
}

/// Random lengths, chunks and pauses; most streams are small, some are large enough to be spliced.
fn random_stream(edge: SocketAddr, seed: u64) {
    let dice = u64::from_le_bytes(noise(seed ^ 0xD1CE, 8).try_into().unwrap());
    let len = if seed.is_multiple_of(100) { 1_500_000 } else { dice % 20_000 + 1 } as usize;
    let chunk = (dice >> 20) as usize % 7_000 + 1;
    let pauses = if seed.is_multiple_of(10) { 4 } else { 0 };
    let bytes = noise(seed, len);
    let mut client = connect(edge);
    let mut writer = client.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = in_background(move || {
        for (index, piece) in sent.chunks(chunk).enumerate() {
            writer.write_all(piece).unwrap();
            if index < pauses {
                std::thread::sleep(Duration::from_millis(1)); // a pause of the sender is what is tested
            }
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::with_capacity(len);
    client.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == bytes, "stream {seed} of {len} bytes came back changed");
}

#[test]
fn ten_thousand_random_streams_are_exact() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    world.apply(&[tcp(edge, &[origin("127.0.0.1", echo)], json!({}))]);
    let threads: Vec<_> = (0..8u64)
        .map(|thread| in_background(move || (0..1_250).for_each(|round| random_stream(edge, thread * 1_250 + round))))
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    eventually("all connections closed", || (world.totals()["connections_open"] == 0).then_some(()));
    assert_eq!(world.totals()["connections_total"], 10_000);
}

#[test]
fn the_clients_end_reaches_the_origin_which_can_still_answer() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let late_answer = origin("127.0.0.1", |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(&all).unwrap();
    });
    world.apply(&[tcp(edge, &[late_answer], json!({}))]);
    let mut client = connect(edge);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "question");
}

#[test]
fn the_origins_end_reaches_the_client_which_can_still_send() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let (told, hears) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let first_to_end = origin("127.0.0.1", move |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        told.lock().unwrap().send(all).unwrap();
    });
    world.apply(&[tcp(edge, &[first_to_end], json!({}))]);
    let mut client = connect(edge);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "bye");
    client.write_all(b"still here").unwrap();
    drop(client);
    assert_eq!(hears.recv_timeout(support::DEADLINE).unwrap(), "still here");
}

#[test]
fn a_reset_of_the_client_resets_the_origin_within_100_ms() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let (told, hears) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let watcher = origin("127.0.0.1", move |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        told.lock().unwrap().send(None).unwrap();
        let end = stream.read(&mut byte);
        told.lock().unwrap().send(Some((end.map_err(|error| error.kind()), Instant::now()))).unwrap();
    });
    world.apply(&[tcp(edge, &[watcher], json!({}))]);
    let mut client = connect(edge);
    client.write_all(b"x").unwrap();
    hears.recv_timeout(support::DEADLINE).unwrap();
    let begin = Instant::now();
    reset(client);
    let (end, at) = hears.recv_timeout(support::DEADLINE).unwrap().unwrap();
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    assert!(at - begin < Duration::from_millis(100), "{:?}", at - begin);
    assert_eq!(world.record("client_reset")["status"], 499);
}

#[test]
fn a_reset_of_the_origin_resets_the_client_after_what_it_sent() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let resetting = origin("127.0.0.1", |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(b"last words").unwrap();
        std::thread::sleep(Duration::from_millis(30));
        reset(stream);
    });
    world.apply(&[tcp(edge, &[resetting], json!({}))]);
    let mut client = connect(edge);
    client.write_all(b"x").unwrap();
    let mut words = [0; 10];
    client.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"last words");
    assert_eq!(client.read(&mut words).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let record = world.record("origin_reset");
    assert_eq!(record["status"], 444);
    assert_eq!((record["client_bytes"].as_u64(), record["origin_bytes"].as_u64()), (Some(1), Some(10)));
    let totals = world.totals();
    assert_eq!((totals["bytes_ingress"].as_u64(), totals["bytes_egress"].as_u64()), (Some(1), Some(10)));
}

#[test]
fn a_reset_passes_a_stalled_reader_by() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let (told, hears) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let stalled = origin("127.0.0.1", move |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        std::thread::sleep(Duration::from_millis(300)); // reads nothing while the client fills every buffer
        let end = loop {
            match socket2::SockRef::from(&stream).take_error().unwrap() {
                Some(error) => break error.kind(),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        told.lock().unwrap().send(end).unwrap();
    });
    world.apply(&[tcp(edge, &[stalled], json!({}))]);
    let mut client = connect(edge);
    client.set_nonblocking(true).unwrap();
    while client.write(&[1; 65536]).is_ok() {}
    std::thread::sleep(Duration::from_millis(100));
    reset(client);
    assert_eq!(hears.recv_timeout(support::DEADLINE).unwrap(), ErrorKind::ConnectionReset);
}

#[test]
fn ten_thousand_writes_right_after_connect_are_all_answered() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    world.apply(&[tcp(edge, &[origin("127.0.0.1", echo)], json!({}))]);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            in_background(move || {
                for _ in 0..2_500 {
                    let mut client = connect(edge);
                    client.write_all(b"now").unwrap();
                    let mut answer = [0; 3];
                    client.read_exact(&mut answer).unwrap();
                    reset(client);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn the_next_origin_is_tried_when_one_refuses() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let dead = free_address("127.0.0.1");
    world.apply(&[tcp(edge, &[dead, origin("127.0.0.1", echo)], json!({}))]);
    let mut client = connect(edge);
    client.write_all(b"early").unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"early");
    assert_eq!(world.totals()["connect_errors_total"], 1);
}

#[test]
fn a_client_is_reset_when_no_origin_is_left() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[tcp(edge, &[free_address("127.0.0.1")], json!({}))]);
    let mut client = connect(edge);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let record = world.record("origin_refused");
    assert_eq!((record["kind"].as_str(), record["status"].as_u64()), (Some("originError"), Some(521)));
}

#[test]
fn an_application_never_connects_to_itself() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[tcp(edge, &[edge], json!({}))]);
    assert_eq!(connect(edge).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(world.record("origin_denied")["status"], 532);
    assert_eq!(world.totals()["connections_total"], 1);
}

#[test]
fn an_origin_that_does_not_answer_costs_the_connect_timeout_and_then_the_next_is_tried() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    // A listener whose backlog is full answers no SYN.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    silent.listen(0).unwrap();
    let silent_address = silent.local_addr().unwrap().as_socket().unwrap();
    let _fill: Vec<_> = (0..2)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&silent_address.into());
            socket
        })
        .collect();
    world.apply(&[tcp(edge, &[silent_address, origin("127.0.0.1", echo)], json!({"connect_timeout_ms": 300}))]);
    let begin = Instant::now();
    let mut client = connect(edge);
    client.write_all(b"kept").unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"kept");
    assert!(
        (Duration::from_millis(300)..Duration::from_millis(900)).contains(&begin.elapsed()),
        "{:?}",
        begin.elapsed()
    );
    // The next client does not wait for the same silence.
    let begin = Instant::now();
    let mut client = connect(edge);
    client.write_all(b"kept").unwrap();
    client.read_exact(&mut answer).unwrap();
    assert!(begin.elapsed() < Duration::from_millis(250), "{:?}", begin.elapsed());
}

#[test]
fn timers_end_what_they_are_for_and_nothing_else() {
    let silent = |mut stream: std::net::TcpStream| {
        let _ = stream.read(&mut [0]);
        std::thread::sleep(Duration::from_secs(5));
    };
    let cases = [
        ("idle_timeout", json!({"idle_timeout_ms": 200}), false),
        ("half_close_timeout", json!({"half_close_timeout_ms": 200}), true),
    ];
    for (cause, change, half_closes) in cases {
        let world = world(1);
        let edge = free_address("127.0.0.1");
        world.apply(&[tcp(edge, &[origin("127.0.0.1", silent)], change)]);
        let mut client = connect(edge);
        client.write_all(b"x").unwrap();
        if half_closes {
            client.shutdown(Shutdown::Write).unwrap();
        }
        let begin = Instant::now();
        let _ = client.read(&mut [0]);
        let took = begin.elapsed();
        assert!((Duration::from_millis(190)..Duration::from_millis(700)).contains(&took), "{cause}: {took:?}");
        world.record(cause);
    }
}

#[test]
fn a_reader_that_takes_nothing_is_ended_by_the_no_progress_timer() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let flood = origin("127.0.0.1", |mut stream| while stream.write_all(&[1; 65536]).is_ok() {});
    world.apply(&[tcp(edge, &[flood], json!({"no_progress_timeout_ms": 400}))]);
    let client = connect(edge);
    let record = world.record("no_progress_timeout");
    assert_eq!(record["status"], 497);
    drop(client);
}

#[test]
fn ports_of_a_range_map_by_offset() {
    let world = world(1);
    let listeners: Vec<TcpListener> = loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        let rest: Vec<_> = (1..3).map_while(|n| TcpListener::bind(("127.0.0.1", port.checked_add(n)?)).ok()).collect();
        if rest.len() == 2 {
            break std::iter::once(first).chain(rest).collect();
        }
    };
    let base = listeners[0].local_addr().unwrap().port();
    for listener in listeners {
        in_background(move || {
            let name = listener.local_addr().unwrap().port();
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(&name.to_be_bytes());
            }
        });
    }
    let edge = eventually("three free ports in a row", || {
        let first = free_address("127.0.0.1");
        let next = |n| TcpListener::bind((first.ip(), first.port() + n)).is_ok();
        (next(1) && next(2)).then_some(first)
    });
    let change = json!({
        "edge_ports": {"first": edge.port(), "last": edge.port() + 2},
        "origins": {"kind": "addresses", "addresses": [{"address": "127.0.0.1", "ports": {"first": base, "last": base + 2}}]},
    });
    let report = world.apply(&[tcp(edge, &[], change)]);
    assert_eq!(report.listeners.len(), 1, "neighbouring ports are reported as one range");
    for offset in 0..3 {
        let mut name = [0; 2];
        connect(SocketAddr::new(edge.ip(), edge.port() + offset)).read_exact(&mut name).unwrap();
        assert_eq!(u16::from_be_bytes(name), base + offset);
    }
}

#[test]
fn two_thousand_connections_live_at_once() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    world.apply(&[tcp(edge, &[origin("127.0.0.1", echo)], json!({}))]);
    let mut clients: Vec<_> = (0..2000).map(|_| connect(edge)).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.write_all(&(index as u32).to_be_bytes()).unwrap();
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(u32::from_be_bytes(answer), index as u32);
    }
    assert_eq!(world.totals()["connections_open"], 2000);
}
