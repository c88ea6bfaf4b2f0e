//! Origins that see the client's own address and port: client, edge and origin in namespaces of their own, and the
//! origin's default route leads through the edge.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use causeway_bpf::Spot;
use causeway_bpf::flow::{FlowEvent, FlowEventKind, HeaderKind, PortTable, Side, Verdict};
use support::*;

fn transparent_world() -> Option<World> {
    let world = world()?;
    world.carry_transparently();
    Some(world)
}

fn wait_for(world: &mut World, kind: FlowEventKind, edge: SocketAddr) {
    let is_it = |event: FlowEvent| event.kind == kind && event.flow.edge == edge;
    eventually("an event of its kind", || is_it(world.events.next()?).then_some(()));
}

#[test]
fn the_origin_sees_the_client_itself_and_all_is_counted() {
    let Some(mut world) = transparent_world() else { return };
    for (edge, origin, index) in [(EDGE, ORIGIN, 1), (EDGE6, ORIGIN6, 2)] {
        let listener = world.listen(at(origin, 1005));
        let mut client = world.connect(at(edge, 1005));
        let mut server = accept(&listener);
        assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
        let opened = world.event();
        assert_eq!((opened.kind, opened.flow.source), (FlowEventKind::Opened, client.local_addr().unwrap()));
        say(&mut client, &mut server, &noise(1, 300_000));
        say(&mut server, &mut client, &noise(2, 100_001));
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        say(&mut server, &mut client, b"after the end");
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        let closed = world.event();
        assert_eq!((closed.kind, closed.flow.was_reset_by), (FlowEventKind::Closed, None));
        let totals = world.path.totals(index).unwrap();
        assert_eq!((totals.connections, totals.client_bytes, totals.origin_bytes), (1, 300_000, 100_014));
    }
}

#[test]
fn datagrams_come_from_the_client_itself_large_ones_in_fragments_too() {
    let Some(mut world) = transparent_world() else { return };
    for (edge, origin, here) in [(EDGE, ORIGIN, CLIENT), (EDGE6, ORIGIN6, CLIENT6)] {
        let server = world.udp(&world.origin, at(origin, 1005));
        let client = world.udp(&world.client, at(here, 0));
        client.connect(at(edge, 1005)).unwrap();
        let mut buffer = vec![0; 65_536];
        for bytes in [0, 1200, 5000] {
            let words = noise(bytes as u64, bytes);
            client.send(&words).unwrap();
            let (n, from) = again(|| server.recv_from(&mut buffer)).unwrap();
            assert_eq!((&buffer[..n], from), (&words[..], client.local_addr().unwrap()));
            server.send_to(&words, from).unwrap();
            assert_eq!(again(|| client.recv(&mut buffer)).unwrap(), bytes);
        }
        assert_eq!(world.event().flow.source, client.local_addr().unwrap());
    }
}

#[test]
fn resets_refusals_and_cuts_arrive_on_both_sides() {
    let Some(mut world) = transparent_world() else { return };
    for (edge, origin) in [(EDGE, ORIGIN), (EDGE6, ORIGIN6)] {
        let refused = world.client.run(|| TcpStream::connect(at(edge, 1000))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(world.event().kind, FlowEventKind::Refused);
        let listener = world.listen(at(origin, 1000));
        for side in [Side::Client, Side::Origin] {
            let client = world.connect(at(edge, 1000));
            let server = accept(&listener);
            assert_eq!(world.event().kind, FlowEventKind::Opened);
            let (gone, mut left) = if side == Side::Client { (client, server) } else { (server, client) };
            socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
            drop(gone);
            assert_eq!(left.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            let closed = world.event();
            assert_eq!((closed.kind, closed.flow.was_reset_by), (FlowEventKind::Closed, Some(side)));
        }
        let mut pair = (world.connect(at(edge, 1000)), accept(&listener));
        let flow = world.event().flow;
        world.edge.run(|| world.path.cut(&flow)).unwrap();
        for side in [&mut pair.0, &mut pair.1] {
            assert_eq!(side.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn a_closed_port_is_told_to_the_client_of_a_session() {
    let Some(world) = transparent_world() else { return };
    for (edge, here) in [(EDGE, CLIENT), (EDGE6, CLIENT6)] {
        let client = world.udp(&world.client, at(here, 0));
        client.connect(at(edge, 1005)).unwrap();
        client.send(b"anybody?").unwrap();
        assert_eq!(client.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(world.path.verdicts().unwrap().get(Verdict::ErrorTranslated), 2);
}

#[test]
fn a_client_whose_own_address_is_taken_waits_and_breaks_nobody() {
    let Some(mut world) = transparent_world() else { return };
    // The same origin behind another edge address.
    for (other, is_tcp, index) in [(SOURCE, true, 1), (SOURCE6, true, 2), (SOURCE, false, 3)] {
        let mut table = PortTable::default();
        table.set(1000..=1999, index);
        let spot = if is_tcp { Spot::tcp } else { Spot::udp };
        world.path.set_ports(spot(other.parse().unwrap()), &table).unwrap();
    }
    world.client.ip(&format!("route add 198.18.2.0/24 via {EDGE}"));
    world.client.ip(&format!("-6 route add 2001:db8:2::/64 via {EDGE6}"));
    for (edge, other, origin, here) in [(EDGE, SOURCE, ORIGIN, CLIENT), (EDGE6, SOURCE6, ORIGIN6, CLIENT6)] {
        let listener = world.listen(at(origin, 1000));
        let mut first = world.connect(at(edge, 1000));
        let mut server = accept(&listener);
        let port = first.local_addr().unwrap().port();
        let second = world.client.run(|| {
            let domain = if here == CLIENT { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket2::SockRef::from(&first).set_reuse_address(true).unwrap();
            socket.bind(&at(here, port).into()).unwrap();
            socket
        });
        let failed = second.connect_timeout(&at(other, 1000).into(), Duration::from_millis(300)).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::TimedOut, "it was carried: {failed}");
        say(&mut first, &mut server, b"still mine");
        wait_for(&mut world, FlowEventKind::Exhausted, at(other, 1000));
        // Once the first is over, what the second asks again goes through.
        drop(server);
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        drop(first);
        wait_for(&mut world, FlowEventKind::Closed, at(edge, 1000));
        let third = accept(&listener);
        assert_eq!(third.peer_addr().unwrap(), at(here, port));
        wait_for(&mut world, FlowEventKind::Opened, at(other, 1000));
    }
    assert!(world.path.totals(1).unwrap().ports_exhausted > 0);
}

#[test]
fn what_cannot_be_carried_reaches_nobody_else() {
    let Some(world) = transparent_world() else { return };
    // Somebody listens on all addresses of the edge: it must not get what the origin cannot be sent.
    let own = world.edge.run(|| std::net::TcpListener::bind(at("0.0.0.0", 1000))).unwrap();
    own.set_nonblocking(true).unwrap();
    world.edge.ip("route add unreachable 198.18.2.2/32");
    let failed = world.client.run(|| TcpStream::connect_timeout(&at(EDGE, 1000), Duration::from_millis(300)));
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(own.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(world.path.verdicts().unwrap().get(Verdict::NoRoute) > 0);
}

#[test]
fn an_application_is_one_or_the_other() {
    let Some(world) = world() else { return };
    let told = transparent(true, ORIGIN);
    world.path.set_application(1, &told).unwrap();
    assert_eq!(world.path.application(1).unwrap(), Some(told.clone()));
    let mut with_header = told.clone();
    with_header.header = HeaderKind::ProxyV2;
    let mut without_sources = told;
    without_sources.is_transparent = false;
    for wrong in [with_header, without_sources] {
        assert_eq!(world.path.set_application(1, &wrong).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
