//! UDP through a real edge on loopback: datagrams whole and unmixed, sessions and how they end.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use causeway_edge::Config;
use serde_json::json;
use support::udp::{
    LARGEST, address, client, count, echo, hears_nothing, may_send_icmp, receive, receive_from, round_trip, socket, udp,
};
use support::{application, eventually, free_address, noise, world, world_with};

#[test]
fn datagrams_of_every_size_pass_both_ways_over_both_families() {
    for (edge_ip, origin_ip) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::1"), ("::1", "127.0.0.1")]
    {
        let world = world(2);
        let edge = free_address(edge_ip);
        world.apply(&[udp(edge, &[echo(origin_ip)], json!({}))]);
        let client = client(edge);
        for size in [0, 1, 1200, 1472, 1473, 9000, LARGEST] {
            assert!(round_trip(&client, &noise(size as u64, size)), "{size} bytes, {edge_ip} to {origin_ip}");
        }
        let opened = world.record("opened");
        assert_eq!((&opened["edge"], &opened["protocol"]), (&json!(edge.to_string()), &json!("udp")));
        let bytes = 1 + 1200 + 1472 + 1473 + 9000 + LARGEST as u64;
        eventually("the last is counted", || (count(&world, "bytes_egress") == bytes).then_some(()));
        assert_eq!((count(&world, "datagrams_ingress"), count(&world, "datagrams_egress")), (7, 7));
        assert_eq!((count(&world, "bytes_ingress"), count(&world, "datagrams_dropped")), (bytes, 0));
    }
}

/// A client and an origin whose kernels cut large buffers: on the way they travel as one, and so they are received.
#[test]
fn datagrams_that_travel_as_one_buffer_stay_apart_with_and_without_headers() {
    for (mode, head) in [("off", 0), ("simple", 38)] {
        let world = world(1);
        let edge = free_address("127.0.0.1");
        let origin = socket("127.0.0.1");
        world.apply(&[udp(edge, &[address(&origin)], json!({"proxy_protocol": mode}))]);
        let client = client(edge);
        for end in [&client, &origin] {
            let size = 300i32;
            // SAFETY: pointer and length describe `size`.
            let result = unsafe {
                libc::setsockopt(end.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), 4)
            };
            assert_eq!(result, 0);
        }
        for round in 0..20 {
            let sent = noise(round, 60 * 300 + 100); // 61 datagrams
            client.send(&sent).unwrap();
            let mut back = None;
            let mut header = Vec::new();
            for (i, piece) in sent.chunks(300).enumerate() {
                let (bytes, from) = receive_from(&origin);
                assert!(bytes[head..] == *piece, "{mode}, round {round}, datagram {i}: {} bytes", bytes.len());
                header = bytes[..head].to_vec();
                back = Some(from);
            }
            let reply: Vec<u8> = sent.chunks(300 - head).flat_map(|piece| [&header, piece].concat()).collect();
            for buffer in reply.chunks(60 * 300) {
                origin.send_to(buffer, back.unwrap()).unwrap();
            }
            for (i, piece) in sent.chunks(300 - head).enumerate() {
                assert!(receive(&client) == piece, "down, {mode}, round {round}, datagram {i}");
            }
        }
        assert_eq!(count(&world, "datagrams_dropped"), 0);
    }
}

#[test]
fn bursts_arrive_whole_in_order_and_with_their_sizes() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    world.apply(&[udp(edge, &[address(&origin)], json!({}))]);
    let client = client(edge);
    for round in 0..50u64 {
        let sizes =
            (0..64usize).map(|i| [200, 200, 200, 200, 0, 9, 1400, 1400, 1400, 700, 3000][(i + round as usize) % 11]);
        let sent: Vec<Vec<u8>> = sizes.enumerate().map(|(i, size)| noise(round * 64 + i as u64, size)).collect();
        for datagram in &sent {
            client.send(datagram).unwrap();
        }
        let mut back = None;
        for (i, datagram) in sent.iter().enumerate() {
            let (bytes, from) = receive_from(&origin);
            assert!(bytes == *datagram, "up, round {round}, datagram {i}: {} bytes", bytes.len());
            back = Some(from);
        }
        for datagram in &sent {
            origin.send_to(datagram, back.unwrap()).unwrap();
        }
        for (i, datagram) in sent.iter().enumerate() {
            assert!(receive(&client) == *datagram, "down, round {round}, datagram {i}");
        }
    }
    assert_eq!(count(&world, "datagrams_dropped"), 0);
}

#[test]
fn clients_do_not_mix_and_each_keeps_its_source_port() {
    const CLIENTS: usize = 40;
    let world = world(2);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    world.apply(&[udp(edge, &[address(&origin)], json!({}))]);
    let clients: Vec<UdpSocket> = (0..CLIENTS).map(|_| client(edge)).collect();
    let mut ports: Vec<Option<SocketAddr>> = vec![None; CLIENTS];
    for round in 0..20u8 {
        for (i, client) in clients.iter().enumerate() {
            client.send(&[i as u8, round]).unwrap();
        }
        for _ in 0..CLIENTS {
            let (bytes, from) = receive_from(&origin);
            let known = ports[bytes[0] as usize].get_or_insert(from);
            assert_eq!((*known, bytes[1]), (from, round));
            origin.send_to(&bytes, from).unwrap();
        }
        for (i, client) in clients.iter().enumerate() {
            assert_eq!(receive(client), [i as u8, round]);
        }
    }
    assert_eq!(ports.iter().collect::<HashSet<_>>().len(), CLIENTS);
    assert_eq!((count(&world, "connections_total"), count(&world, "connections_open")), (40, 40));
}

#[test]
fn a_session_ends_when_nothing_has_moved_for_the_idle_time_and_not_before() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    world.apply(&[udp(edge, &[address(&origin)], json!({"udp_idle_timeout_ms": 400}))]);
    let client = client(edge);
    client.send(b"a").unwrap();
    let (_, session) = receive_from(&origin);
    // A datagram either way renews it.
    for turn in 0..4 {
        std::thread::sleep(Duration::from_millis(250));
        if turn % 2 == 0 {
            origin.send_to(b"b", session).unwrap();
            assert_eq!(receive(&client), b"b");
        } else {
            client.send(b"c").unwrap();
            assert_eq!(receive_from(&origin), (b"c".to_vec(), session));
        }
    }
    let last = Instant::now();
    let closed = world.record("idle_timeout");
    let waited = last.elapsed();
    assert!((Duration::from_millis(395)..Duration::from_millis(800)).contains(&waited), "{waited:?}");
    assert_eq!((&closed["client_bytes"], &closed["origin_bytes"]), (&json!(3), &json!(2)));
    assert_eq!((&closed["kind"], &closed["status"]), (&json!("disconnect"), &json!(200)));
    client.send(b"d").unwrap();
    assert_ne!(receive_from(&origin).1, session, "a new session");
}

#[test]
fn the_shortest_idle_time_still_forwards_the_first_datagram() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    world.apply(&[udp(edge, &[address(&origin)], json!({"udp_idle_timeout_ms": 1}))]);
    let client = client(edge);
    for i in 0..20u8 {
        client.send(&[i]).unwrap();
        assert_eq!(receive(&origin), [i]);
    }
}

#[test]
fn a_flood_of_strangers_evicts_strangers_and_no_session_that_has_gone_both_ways() {
    let world = world_with(Config { workers: 1, max_udp_sessions: 8, ..Config::default() });
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    world.apply(&[udp(edge, &[address(&origin)], json!({}))]);
    let friends: Vec<UdpSocket> = (0..6).map(|_| client(edge)).collect();
    let mut sessions = Vec::new();
    for friend in &friends {
        friend.send(b"friend").unwrap();
        let (_, session) = receive_from(&origin);
        origin.send_to(b"answer", session).unwrap();
        assert_eq!(receive(friend), b"answer");
        friend.send(b"thanks").unwrap();
        assert_eq!(receive(&origin), b"thanks");
        sessions.push(session);
    }
    // All at once, so that no two of them have the same port.
    let strangers: Vec<UdpSocket> = (0..200).map(|_| client(edge)).collect();
    for stranger in &strangers {
        stranger.send(b"stranger").unwrap();
        let (said, session) = receive_from(&origin);
        assert_eq!(said, b"stranger");
        origin.send_to(b"answer to whoever it was", session).unwrap();
    }
    for (friend, session) in friends.iter().zip(&sessions) {
        friend.send(b"still here").unwrap();
        assert_eq!(receive_from(&origin), (b"still here".to_vec(), *session));
    }
    eventually("evictions", || (count(&world, "sessions_evicted_total") == 198).then_some(()));
    assert_eq!(count(&world, "connections_open"), 8);
    assert_eq!(world.record("session_evicted")["status"], 500);
}

#[test]
fn when_all_have_gone_both_ways_the_least_recently_used_goes() {
    let world = world_with(Config { workers: 1, max_udp_sessions: 3, ..Config::default() });
    let edge = free_address("127.0.0.1");
    world.apply(&[udp(edge, &[echo("127.0.0.1")], json!({}))]);
    let clients: Vec<UdpSocket> = (0..4).map(|_| client(edge)).collect();
    for used in [0, 1, 2, 1, 0, 2, 3] {
        assert!(round_trip(&clients[used], b"hello"));
    }
    assert_eq!(world.record("session_evicted")["client"], address(&clients[1]).to_string());
}

#[test]
fn replies_leave_from_the_address_that_the_client_sent_to() {
    let world = world(1);
    let edge = free_address("0.0.0.0");
    world.apply(&[udp(edge, &[echo("127.0.0.1")], json!({}))]);
    let client = socket("127.0.0.1");
    for _ in 0..3 {
        for ip in ["127.0.0.2", "127.0.0.3"] {
            let to = SocketAddr::new(ip.parse().unwrap(), edge.port());
            client.send_to(ip.as_bytes(), to).unwrap();
            assert_eq!(receive_from(&client), (ip.into(), to));
        }
    }
    assert_eq!(count(&world, "connections_total"), 2, "one session for each edge address");

    let edge = free_address("::");
    world.apply(&[udp(edge, &[echo("127.0.0.1")], json!({}))]);
    let client = socket("::1");
    let to = SocketAddr::new("::1".parse().unwrap(), edge.port());
    client.send_to(b"six", to).unwrap();
    assert_eq!(receive_from(&client), (b"six".to_vec(), to));
}

#[test]
fn edge_ports_map_to_origin_ports_by_offset() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let (first, origins) = neighbours();
    let change = json!({
        "edge_ports": {"first": edge.port(), "last": edge.port() + 3},
        "origins": {"kind": "addresses", "addresses": [{"address": "127.0.0.1", "ports": {"first": first, "last": first + 3}}]},
    });
    let report = world.apply(&[udp(edge, &[], change)]);
    assert!(report.listeners.iter().all(|listener| listener.reason.is_none()), "{report:?}");
    for (offset, origin) in origins.iter().enumerate() {
        let client = client((edge.ip(), edge.port() + offset as u16).into());
        client.send(&[offset as u8]).unwrap();
        let (bytes, session) = receive_from(origin);
        assert_eq!(bytes, [offset as u8]);
        origin.send_to(b"back", session).unwrap();
        assert_eq!(receive(&client), b"back");
    }
}

/// Four sockets on ports in a row.
fn neighbours() -> (u16, Vec<UdpSocket>) {
    eventually("four free ports", || {
        let one = socket("127.0.0.1");
        let first = address(&one).port();
        let rest = (1..4).map(|i| UdpSocket::bind(("127.0.0.1", first.checked_add(i)?)).ok());
        let mut all = vec![one];
        for socket in rest {
            all.push(socket?);
        }
        all.iter().for_each(|socket| socket.set_read_timeout(Some(support::DEADLINE)).unwrap());
        Some((first, all))
    })
}

#[test]
fn a_deleted_application_takes_nobody_new_and_lets_its_sessions_finish() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    world.apply(&[udp(edge, &[address(&origin)], json!({"on_delete": "drain", "drain_ms": 700}))]);
    let old = client(edge);
    old.send(b"before").unwrap();
    let (_, session) = receive_from(&origin);
    world.apply(&[]);
    let begin = Instant::now();
    for turn in 0..3u8 {
        old.send(&[turn]).unwrap();
        assert_eq!(receive_from(&origin), (vec![turn], session));
        origin.send_to(&[turn], session).unwrap();
        assert_eq!(receive_from(&old), (vec![turn], edge));
    }
    let strangers: Vec<UdpSocket> = (0..8).map(|_| client(edge)).collect();
    strangers.iter().for_each(|stranger| drop(stranger.send(b"stranger")));
    assert!(hears_nothing(&origin));
    world.record("drained");
    assert!(begin.elapsed() >= Duration::from_millis(690), "{:?}", begin.elapsed());
    eventually("a free port", || UdpSocket::bind(edge).ok());
}

#[test]
fn a_stranger_to_a_place_that_drains_hears_that_nobody_is_there() {
    if !may_send_icmp() {
        return;
    }
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[udp(edge, &[echo("127.0.0.1")], json!({}))]);
    let old = client(edge);
    assert!(round_trip(&old, b"hello"));
    world.apply(&[]);
    let stranger = client(edge);
    stranger.send(b"hello?").unwrap();
    assert_eq!(stranger.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(round_trip(&old, b"still here"));
    assert_eq!(count(&world, "datagrams_dropped"), 1);
}

#[test]
fn a_deleted_application_that_closes_frees_its_port_at_once() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    world.apply(&[udp(edge, &[echo("127.0.0.1")], json!({"on_delete": "close"}))]);
    let clients: Vec<UdpSocket> = (0..8).map(|_| client(edge)).collect();
    assert!(clients.iter().all(|client| round_trip(client, b"hello")));
    world.apply(&[]);
    UdpSocket::bind(edge).unwrap();
    assert_eq!((count(&world, "connections_open"), count(&world, "connections_total")), (0, 8));
}

#[test]
fn a_place_that_still_drains_can_be_taken_by_another_application() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    let (old_origin, new_origin) = (socket("127.0.0.1"), socket("127.0.0.1"));
    world.apply(&[udp(edge, &[address(&old_origin)], json!({}))]);
    let old = client(edge);
    old.send(b"old").unwrap();
    let (_, session) = receive_from(&old_origin);
    world.apply(&[]);
    client(edge).send(b"nobody's").unwrap();
    let report = world.apply(&[application(2, "udp", edge, &[address(&new_origin)], json!({}))]);
    assert!(report.listeners.iter().all(|listener| listener.reason.is_none()), "{report:?}");
    let others: Vec<UdpSocket> = (0..16).map(|_| client(edge)).collect();
    for other in &others {
        other.send(b"new").unwrap();
        let (bytes, from) = receive_from(&new_origin);
        assert_eq!(bytes, b"new");
        new_origin.send_to(b"welcome", from).unwrap();
        assert_eq!(receive(other), b"welcome");
    }
    old.send(b"on its way").unwrap();
    assert_eq!(receive_from(&old_origin), (b"on its way".to_vec(), session));
    old_origin.send_to(b"goodbye", session).unwrap();
    assert_eq!(receive(&old), b"goodbye");
}

#[test]
fn an_update_leaves_sessions_where_they_are() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let (before, after) = (socket("127.0.0.1"), socket("127.0.0.1"));
    world.apply(&[udp(edge, &[address(&before)], json!({}))]);
    let old = client(edge);
    old.send(b"1").unwrap();
    let (_, session) = receive_from(&before);
    world.apply(&[udp(edge, &[address(&after)], json!({}))]);
    old.send(b"2").unwrap();
    assert_eq!(receive_from(&before), (b"2".to_vec(), session));
    client(edge).send(b"3").unwrap();
    assert_eq!(receive(&after), b"3");
}

#[test]
fn draining_the_edge_ends_with_no_session_left() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    world.apply(&[udp(edge, &[echo("127.0.0.1")], json!({}))]);
    let client = client(edge);
    assert!(round_trip(&client, b"hello"));
    assert_eq!(world.edge.drain(Duration::from_millis(200)), 1, "the session that was cut is counted");
    eventually("a free port", || UdpSocket::bind(edge).ok());
    assert_eq!(count(&world, "connections_open"), 0);
}
