//! UDP through a real edge on loopback: datagrams whole and unmixed, sessions and their ends, headers, refusals.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use causeway_edge::Config;
use causeway_wire::{Endpoints, Parsed, accept, simple_proxy};
use serde_json::{Value, json};
use support::{World, application, eventually, free_address, noise, world, world_with};

const LARGEST: usize = 65_507;
/// Long enough for anything on loopback to have arrived.
const QUIET: Duration = Duration::from_millis(150);

fn udp(edge: SocketAddr, origins: &[SocketAddr], change: Value) -> Value {
    application(1, "udp", edge, origins, change)
}

fn socket(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(support::DEADLINE)).unwrap();
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 * 1024 * 1024);
    socket
}

fn client(edge: SocketAddr) -> UdpSocket {
    let socket = socket(if edge.is_ipv4() { "127.0.0.1" } else { "::1" });
    socket.connect(edge).unwrap();
    socket
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

fn receive(socket: &UdpSocket) -> Vec<u8> {
    receive_from(socket).0
}

fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 70_000];
    let (n, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(n);
    (buffer, from)
}

fn hears_nothing(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(QUIET)).unwrap();
    let result = socket.recv_from(&mut [0; 70_000]);
    socket.set_read_timeout(Some(support::DEADLINE)).unwrap();
    matches!(result, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// Answers every datagram with itself until the process ends.
fn echo(ip: &str) -> SocketAddr {
    let socket = socket(ip);
    socket.set_read_timeout(None).unwrap();
    let own = address(&socket);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 70_000];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    });
    own
}

fn round_trip(client: &UdpSocket, datagram: &[u8]) -> bool {
    client.send(datagram).unwrap();
    receive(client) == datagram
}

fn may_send_icmp() -> bool {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4));
    if socket.is_err() {
        eprintln!("SKIPPED: what needs CAP_NET_RAW");
    }
    socket.is_ok()
}

fn count(world: &World, counter: &str) -> u64 {
    world.totals()[counter].as_u64().unwrap()
}

#[test]
fn datagrams_of_every_size_pass_both_ways_over_both_families() {
    for (edge_ip, origin_ip) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::1"), ("::1", "127.0.0.1")] {
        let world = world(2);
        let edge = free_address(edge_ip);
        world.apply(&[udp(edge, &[echo(origin_ip)], json!({}))]);
        let client = client(edge);
        for size in [0, 1, 1200, 1472, 1473, 9000, LARGEST] {
            assert!(round_trip(&client, &noise(size as u64, size)), "{size} bytes, {edge_ip} to {origin_ip}");
        }
        let opened = world.record("opened");
        assert_eq!((&opened["edge"], &opened["protocol"]), (&json!(edge.to_string()), &json!("udp")));
        let totals = world.totals();
        let expected = 1 + 1200 + 1472 + 1473 + 9000 + LARGEST;
        assert_eq!((&totals["datagrams_ingress"], &totals["datagrams_egress"]), (&json!(7), &json!(7)));
        assert_eq!((&totals["bytes_ingress"], &totals["bytes_egress"]), (&json!(expected), &json!(expected)));
        assert_eq!(totals["datagrams_dropped"], 0);
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
        let sizes = (0..64usize).map(|i| [200, 200, 200, 200, 0, 9, 1400, 1400, 1400, 700, 3000][(i + round as usize) % 11]);
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
    assert!((Duration::from_millis(395)..Duration::from_millis(600)).contains(&waited), "{waited:?}");
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
fn a_flood_of_strangers_evicts_strangers_and_no_session_that_was_answered() {
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
        sessions.push(session);
    }
    for _ in 0..200 {
        client(edge).send(b"stranger").unwrap();
        assert_eq!(receive(&origin), b"stranger");
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
fn when_all_were_answered_the_least_recently_used_goes() {
    let world = world_with(Config { workers: 1, max_udp_sessions: 3, ..Config::default() });
    let edge = free_address("127.0.0.1");
    world.apply(&[udp(edge, &[echo("127.0.0.1")], json!({}))]);
    let clients: Vec<UdpSocket> = (0..4).map(|_| client(edge)).collect();
    for used in [0, 1, 2, 0, 2, 3] {
        assert!(round_trip(&clients[used], b"hello"));
    }
    assert_eq!(world.record("session_evicted")["client"], address(&clients[1]).to_string());
}

#[test]
fn proxy_v2_goes_before_the_first_datagram_or_before_every_one() {
    for (which, with_header) in [("first", [true, false, false]), ("every", [true, true, true])] {
        for ip in ["127.0.0.1", "::1"] {
            let world = world(1);
            let edge = free_address(ip);
            let origin = socket(ip);
            let change = json!({"proxy_protocol": "v2", "udp_header": which});
            world.apply(&[udp(edge, &[address(&origin)], change)]);
            let client = client(edge);
            for has_header in with_header {
                client.send(b"payload").unwrap();
                let (bytes, session) = receive_from(&origin);
                let payload = match accept::parse(&bytes) {
                    Ok(Parsed::Header { consumed, endpoints }) if has_header => {
                        let expected = Endpoints { source: address(&client), destination: edge };
                        assert_eq!(endpoints, Some(expected));
                        assert_eq!(bytes[13] & 0xF, 2, "DGRAM");
                        &bytes[consumed..]
                    }
                    _ => &bytes[..],
                };
                assert_eq!(payload, b"payload", "{which} {ip}");
                assert_eq!(bytes.len() > 7, has_header, "{which} {ip}");
                origin.send_to(b"reply", session).unwrap();
                assert_eq!(receive(&client), b"reply");
            }
        }
    }
}

#[test]
fn a_datagram_that_has_no_room_for_the_header_is_counted_and_the_next_one_carries_it() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    world.apply(&[udp(edge, &[address(&origin)], json!({"proxy_protocol": "v2"}))]);
    let client = client(edge);
    client.send(&noise(1, LARGEST - 27)).unwrap();
    eventually("counted", || (count(&world, "datagrams_dropped") == 1).then_some(()));
    client.send(&noise(2, LARGEST - 28)).unwrap();
    let bytes = receive(&origin);
    assert!(bytes.len() == LARGEST && bytes[28..] == noise(2, LARGEST - 28));
    client.send(b"bare").unwrap();
    assert_eq!(receive(&origin), b"bare");
}

#[test]
fn simple_proxy_protocol_is_put_on_datagrams_and_asked_of_replies() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    world.apply(&[udp(edge, &[address(&origin)], json!({"proxy_protocol": "simple"}))]);
    let client = client(edge);
    let mut session = None;
    for payload in [&b""[..], b"one", b"two"] {
        client.send(payload).unwrap();
        let (bytes, from) = receive_from(&origin);
        let (endpoints, inner) = simple_proxy::decode(&bytes).unwrap();
        assert_eq!((endpoints, inner), (Endpoints { source: address(&client), destination: edge }, payload));
        session = Some((from, bytes[..simple_proxy::LEN].to_vec()));
    }
    let (session, header) = session.unwrap();
    let altered = |at: usize| {
        let mut header = header.clone();
        header[at] ^= 1;
        [&header[..], b"forged"].concat()
    };
    let forged = [b"no header".to_vec(), Vec::new(), header[..37].to_vec(), altered(0), altered(17), altered(33), altered(35), altered(37)];
    for datagram in &forged {
        origin.send_to(datagram, session).unwrap();
    }
    for payload in [&b"good"[..], b""] {
        origin.send_to(&[&header[..], payload].concat(), session).unwrap();
        assert_eq!(receive(&client), payload, "and nothing before it");
    }
    assert_eq!(count(&world, "datagrams_dropped"), forged.len() as u64);
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
fn port_unreachable_of_the_origin_reaches_a_connected_client() {
    let is_told = may_send_icmp();
    for ip in ["127.0.0.1", "::1"] {
        let world = world(1);
        let (edge, closed) = (free_address(ip), free_address(ip));
        world.apply(&[udp(edge, &[closed], json!({}))]);
        let client = client(edge);
        let begin = Instant::now();
        client.send(b"anybody there?").unwrap();
        if is_told {
            let error = client.recv(&mut [0; 10]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{ip}");
            assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
        }
        let record = world.record("origin_port_unreachable");
        assert_eq!((&record["origin"], &record["status"]), (&json!(closed.to_string()), &json!(447)));
        assert_eq!(count(&world, "connections_open"), 0);
    }
}

#[test]
fn after_a_refusal_the_next_origin_of_the_list_is_taken_and_the_first_again_when_all_refuse() {
    let world = world(1);
    let (edge, closed) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let second = socket("127.0.0.1");
    world.apply(&[udp(edge, &[closed, address(&second)], json!({}))]);
    let first_client = socket("127.0.0.1"); // not connected, so that it hears no error
    first_client.send_to(b"lost", edge).unwrap();
    world.record("origin_port_unreachable");
    first_client.send_to(b"found", edge).unwrap();
    let (bytes, session) = receive_from(&second);
    assert_eq!(bytes, b"found");
    second.send_to(b"answer", session).unwrap();
    assert_eq!(receive(&first_client), b"answer");
    let another = client(edge);
    another.send(b"known by now").unwrap();
    assert_eq!(receive(&second), b"known by now");

    let world = self::world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[udp(edge, &[closed], json!({}))]);
    let client = socket("127.0.0.1");
    client.send_to(b"lost", edge).unwrap();
    world.record("origin_port_unreachable");
    let started = UdpSocket::bind(closed).unwrap();
    started.set_read_timeout(Some(support::DEADLINE)).unwrap();
    client.send_to(b"the service is up now", edge).unwrap();
    assert_eq!(receive(&started), b"the service is up now");
}

#[test]
fn a_burst_to_a_closed_port_goes_on_at_the_next_origin() {
    let world = world(1);
    let (edge, closed) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let second = socket("127.0.0.1");
    world.apply(&[udp(edge, &[closed, address(&second)], json!({}))]);
    let client = socket("127.0.0.1");
    for i in 0..200u8 {
        client.send_to(&[i], edge).unwrap();
    }
    eventually("arrival of the last", || (receive(&second) == [199]).then_some(()));
}

#[test]
fn the_header_that_goes_first_is_sent_again_to_the_origin_that_takes_over() {
    let world = world(1);
    let (edge, closed) = (free_address("127.0.0.1"), free_address("127.0.0.1"));
    let second = socket("127.0.0.1");
    world.apply(&[udp(edge, &[closed, address(&second)], json!({"proxy_protocol": "v2"}))]);
    let client = socket("127.0.0.1");
    client.send_to(b"lost", edge).unwrap();
    world.record("origin_port_unreachable");
    client.send_to(b"found", edge).unwrap();
    let bytes = receive(&second);
    assert_eq!((bytes.len(), &bytes[28..]), (33, &b"found"[..]));
}

#[test]
fn an_origin_that_must_not_be_connected_to_is_not() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    let mut settings = support::settings();
    settings["origin_deny_sockets"] = json!([address(&origin).to_string()]);
    world.apply_with(settings, &[udp(edge, &[address(&origin)], json!({}))]);
    client(edge).send(b"x").unwrap();
    assert_eq!(world.record("origin_denied")["status"], 532);
    assert!(hears_nothing(&origin));
    assert_eq!((count(&world, "connect_errors_total"), count(&world, "datagrams_dropped")), (1, 1));
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
fn datagrams_wait_for_a_name_and_then_arrive_in_order() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let (name_server, origin) = (socket("127.0.0.1"), socket("127.0.0.1"));
    let port = address(&origin).port();
    let origins = json!({"kind": "dns", "name": "o.example.net", "family": "a", "ttl_s": 600, "ports": {"first": port, "last": port}});
    let mut settings = support::settings();
    settings["resolvers"] = json!([address(&name_server).to_string()]);
    world.apply_with(settings, &[udp(edge, &[], json!({"origins": origins}))]);
    let (query, resolver) = receive_from(&name_server);
    let client = client(edge);
    for i in 0..20u8 {
        client.send(&[i]).unwrap();
    }
    eventually("those that find no room are counted", || (count(&world, "datagrams_dropped") == 4).then_some(()));
    // An answer to `query`: one A record, 127.0.0.1.
    let question = &query[12..12 + query[12..].windows(5).position(|w| w == [0, 0, 1, 0, 1]).unwrap() + 5];
    let record = [0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1];
    let answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], question, &record].concat();
    name_server.send_to(&answer, resolver).unwrap();
    for i in 0..16u8 {
        assert_eq!(receive(&origin), [i]);
    }
    client.send(b"after").unwrap();
    assert_eq!(receive(&origin), b"after");
}

#[test]
fn a_name_without_an_answer_ends_the_session_in_time() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    let silent = socket("127.0.0.1");
    let origins = json!({"kind": "dns", "name": "o.example.net", "family": "a", "ttl_s": 600, "ports": {"first": 53, "last": 53}});
    let mut settings = support::settings();
    settings["resolvers"] = json!([address(&silent).to_string()]);
    world.apply_with(settings, &[udp(edge, &[], json!({"origins": origins, "connect_timeout_ms": 200}))]);
    client(edge).send(b"x").unwrap();
    assert_eq!(world.record("origin_name_failed")["status"], 530);
    assert_eq!((count(&world, "datagrams_dropped"), count(&world, "connections_open")), (1, 0));
}

#[test]
fn draining_the_edge_ends_with_no_session_left() {
    let world = world(2);
    let edge = free_address("127.0.0.1");
    world.apply(&[udp(edge, &[echo("127.0.0.1")], json!({}))]);
    let client = client(edge);
    assert!(round_trip(&client, b"hello"));
    assert_eq!(world.edge.drain(Duration::from_millis(200)), 1);
    eventually("a free port", || UdpSocket::bind(edge).ok());
    assert_eq!(count(&world, "connections_open"), 0);
}
