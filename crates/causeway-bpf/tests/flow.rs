//! Real connections and datagrams through the flow program: client, edge and origin in namespaces of their own.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use causeway_bpf::flow::{Cursor, Family, FlowEventKind, HeaderKind, Side, Table, Verdict};
use support::*;

const PLAIN: [HeaderKind; 2] = [HeaderKind::None; 2];

#[test]
fn a_connection_goes_to_its_origin_and_back_and_is_counted_to_the_byte() {
    let Some(mut world) = world() else { return };
    world.carry(PLAIN);
    for (edge, origin, source, index) in [(EDGE, ORIGIN, SOURCE, 1), (EDGE6, ORIGIN6, SOURCE6, 2)] {
        let listener = world.listen(at(origin, 1005));
        let mut client = world.connect(at(edge, 1005));
        let mut server = accept(&listener);
        assert_eq!(server.peer_addr().unwrap().ip(), at(source, 0).ip());
        assert!((1024..32_768).contains(&server.peer_addr().unwrap().port()));
        let opened = world.event();
        assert_eq!(opened.kind, FlowEventKind::Opened);
        assert_eq!(opened.flow.client, client.local_addr().unwrap());
        assert_eq!(opened.flow.source, server.peer_addr().unwrap());
        say(&mut client, &mut server, &noise(1, 300_000));
        say(&mut server, &mut client, &noise(2, 100_001));
        let flow = world.path.flow(&opened.flow.client_key()).unwrap().unwrap();
        assert_eq!((flow.client_bytes, flow.origin_bytes), (300_000, 100_001));
        assert!(flow.is_established && flow.is_told && !flow.is_closed && flow.is_tcp);
        // Half-close one way, then the other.
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        say(&mut server, &mut client, b"after the end");
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        let closed = world.event();
        assert_eq!(closed.kind, FlowEventKind::Closed);
        assert_eq!((closed.flow.client_bytes, closed.flow.origin_bytes), (300_000, 100_014));
        assert_eq!(closed.flow.was_reset_by, None);
        let totals = world.path.totals(index).unwrap();
        assert_eq!((totals.connections, totals.client_bytes, totals.origin_bytes), (1, 300_000, 100_014));
        assert!(world.path.flow(&closed.flow.client_key()).unwrap().is_none());
        assert!(world.path.ended(&closed.flow.client_key()).unwrap().is_some(), "kept for what is sent again");
    }
}

#[test]
fn datagrams_go_both_ways_empty_and_large_ones_too() {
    let Some(mut world) = world() else { return };
    world.carry(PLAIN);
    for (edge, origin, here) in [(EDGE, ORIGIN, CLIENT), (EDGE6, ORIGIN6, CLIENT6)] {
        let server = world.udp(&world.origin, at(origin, 1005));
        let client = world.udp(&world.client, at(here, 0));
        client.connect(at(edge, 1005)).unwrap();
        let mut buffer = vec![0; 65_536];
        let mut total = 0;
        for bytes in [0, 1, 1200, 0] {
            let words = noise(bytes as u64, bytes);
            client.send(&words).unwrap();
            let (n, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!((n, &buffer[..n]), (bytes, &words[..]));
            server.send_to(&words, from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), bytes);
            total += bytes as u64;
        }
        let opened = world.event();
        assert_eq!((opened.kind, opened.flow.is_tcp), (FlowEventKind::Opened, false));
        let flow = world.path.flow(&opened.flow.client_key()).unwrap().unwrap();
        assert_eq!((flow.client_bytes, flow.origin_bytes), (total, total));
        assert_eq!((flow.client_packets, flow.origin_packets), (4, 4));
    }
}

#[test]
fn a_reset_arrives_as_one_and_ends_the_flow() {
    let Some(mut world) = world() else { return };
    world.carry(PLAIN);
    let listener = world.listen(at(ORIGIN, 1000));
    for side in [Side::Client, Side::Origin] {
        let client = world.connect(at(EDGE, 1000));
        let server = accept(&listener);
        assert_eq!(world.event().kind, FlowEventKind::Opened);
        let (gone, mut left) = if side == Side::Client { (client, server) } else { (server, client) };
        socket2::SockRef::from(&gone).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(gone);
        assert_eq!(left.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let closed = world.event();
        assert_eq!((closed.kind, closed.flow.was_reset_by), (FlowEventKind::Closed, Some(side)));
    }
}

#[test]
fn an_origin_that_refuses_is_told_of_and_nothing_is_left() {
    let Some(mut world) = world() else { return };
    world.carry(PLAIN);
    let refused = world.client.run(|| TcpStream::connect(at(EDGE, 1000))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let event = world.event();
    assert_eq!((event.kind, event.flow.was_reset_by), (FlowEventKind::Refused, Some(Side::Origin)));
    assert!(world.path.flow(&event.flow.client_key()).unwrap().is_none());
}

#[test]
fn what_is_not_carried_is_answered_by_the_stack() {
    let Some(world) = world() else { return };
    world.carry(PLAIN);
    let _listener = world.listen(at(ORIGIN, 2000));
    let refused = world.client.run(|| TcpStream::connect(at(EDGE, 2000))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let own = world.edge.run(|| std::net::TcpListener::bind(at(EDGE, 2000))).unwrap();
    let mut client = world.connect(at(EDGE, 2000));
    say(&mut client, &mut accept(&own), b"the edge's own");
    assert_eq!(world.path.verdicts().unwrap().get(Verdict::Opened), 0);
}

#[test]
fn a_sweep_sees_every_flow_and_a_cut_ends_one_on_both_sides() {
    let Some(mut world) = world() else { return };
    world.carry(PLAIN);
    let listener = world.listen(at(ORIGIN, 1000));
    let mut pairs: Vec<_> = (0..100).map(|_| (world.connect(at(EDGE, 1000)), accept(&listener))).collect();
    let opened: Vec<_> = (0..100).map(|_| world.event().flow.client_key()).collect();
    let (mut cursor, mut seen) = (Cursor::default(), Vec::new());
    loop {
        cursor = world
            .path
            .sweep(Family::V4, Table::Open, cursor, &mut |leg| {
                if leg.side == Side::Client {
                    seen.push(leg.client_key());
                }
            })
            .unwrap();
        if cursor.is_done() {
            break;
        }
    }
    assert_eq!(seen.len(), 100);
    assert!(opened.iter().all(|key| seen.contains(key)));
    let (mut client, mut server) = pairs.swap_remove(7);
    let key = opened.iter().find(|key| key.from == client.local_addr().unwrap()).unwrap();
    say(&mut client, &mut server, b"some words");
    say(&mut server, &mut client, b"and some more");
    let flow = world.path.flow(key).unwrap().unwrap();
    world.edge.run(|| world.path.cut(&flow)).unwrap();
    for side in [&mut client, &mut server] {
        assert_eq!(side.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert!(world.path.flow(key).unwrap().is_none());
    let (client, server) = &mut pairs[0];
    say(client, server, b"the others live");
    server.write_all(b"x").unwrap();
}
