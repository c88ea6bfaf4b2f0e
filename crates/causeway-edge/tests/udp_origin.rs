//! What the edge tells origins and hears from them over UDP: headers, refusals, names, forbidden addresses.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use causeway_wire::{Endpoints, Parsed, accept, simple_proxy};
use serde_json::json;
use support::udp::{LARGEST, address, client, count, hears_nothing, may_send_icmp, receive, receive_from, socket, udp};
use support::{eventually, free_address, noise, world};

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
    let forged = [
        b"no header".to_vec(),
        Vec::new(),
        header[..37].to_vec(),
        altered(0),
        altered(17),
        altered(33),
        altered(35),
        altered(37),
    ];
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
