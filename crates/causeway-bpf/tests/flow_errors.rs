//! What goes wrong on the way: errors are told to the one who sent, packets that are too big, fragments, strangers.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use causeway_bpf::flow::{Answer, FlowEventKind, HeaderKind, Options, Side, Verdict};
use support::packet::{ACK, FIN, PSH, RST, SYN, Tcp, ends, tcp};
use support::*;

const PLAIN: [HeaderKind; 2] = [HeaderKind::None; 2];

#[test]
fn a_closed_port_of_the_origin_is_told_to_the_client() {
    let Some(world) = world() else { return };
    world.carry(PLAIN);
    for (here, edge) in [(CLIENT, EDGE), (CLIENT6, EDGE6)] {
        let client = world.udp(&world.client, at(here, 0));
        client.connect(at(edge, 1007)).unwrap();
        client.send(b"anybody there?").unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{edge}");
    }
    assert_eq!(world.path.verdicts().unwrap().get(Verdict::ErrorTranslated), 2);
}

#[test]
fn the_largest_datagrams_go_both_ways_in_fragments() {
    let Some(world) = world() else { return };
    world.carry(PLAIN);
    for (edge, origin, here) in [(EDGE, ORIGIN, CLIENT), (EDGE6, ORIGIN6, CLIENT6)] {
        let server = world.udp(&world.origin, at(origin, 1005));
        let client = world.udp(&world.client, at(here, 0));
        client.connect(at(edge, 1005)).unwrap();
        let mut buffer = vec![0; 65_536];
        // 1,473: the last fragment over IPv4 has one byte.
        for bytes in [65_507, 0, 1_473, 1, 65_507] {
            let words = noise(bytes as u64, bytes);
            client.send(&words).unwrap();
            let (n, from) = server.recv_from(&mut buffer).unwrap();
            assert!(buffer[..n] == words, "{edge}: {n} bytes of {bytes}");
            server.send_to(&words, from).unwrap();
            let n = client.recv(&mut buffer).unwrap();
            assert!(buffer[..n] == words, "{edge}: {n} bytes of {bytes} came back");
        }
        let key = causeway_bpf::flow::FlowKey { from: client.local_addr().unwrap(), to: at(edge, 1005), is_tcp: false };
        let flow = world.path.flow(&key).unwrap().unwrap();
        assert_eq!((flow.client_bytes, flow.origin_bytes), (132_488, 132_488));
    }
    assert_eq!(world.path.verdicts().unwrap().get(Verdict::FragmentDropped), 0);
}

#[test]
fn a_link_that_takes_less_is_told_to_the_sender_on_either_side() {
    for narrow in ["c0", "o0"] {
        let Some(world) = world() else { return };
        world.carry(PLAIN);
        for (edge, origin) in [(EDGE, ORIGIN), (EDGE6, ORIGIN6)] {
            world.edge.ip(&format!("link set {narrow} mtu 1500"));
            let listener = world.listen(at(origin, 1000));
            let client = world.connect(at(edge, 1000));
            let server = accept(&listener);
            // Before, the ends would have been told by the handshake.
            world.edge.ip(&format!("link set {narrow} mtu 1280"));
            for (mut from, mut to) in [(&client, &server), (&server, &client)] {
                let words = noise(3, 400_000);
                std::thread::scope(|scope| {
                    scope.spawn(|| from.write_all(&words).unwrap());
                    let mut heard = vec![0; words.len()];
                    to.read_exact(&mut heard).unwrap();
                    assert!(heard == words);
                });
            }
        }
        assert!(world.path.verdicts().unwrap().get(Verdict::TooBig) > 0);
    }
}

#[test]
fn a_client_that_comes_again_from_its_port_is_let_in_and_each_flow_is_told_once() {
    let Some(mut world) = world() else { return };
    world.carry(PLAIN);
    let listener = world.listen(at(ORIGIN, 1000));
    let mut sources = Vec::new();
    for round in 0..5u8 {
        let mut client = world.client.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&at(CLIENT, 45_678).into()).unwrap();
            socket.connect(&at(EDGE, 1000).into()).unwrap();
            TcpStream::from(socket)
        });
        let mut server = accept(&listener);
        sources.push(server.peer_addr().unwrap());
        assert_eq!(world.event().kind, FlowEventKind::Opened);
        say(&mut client, &mut server, &vec![round; 3 + usize::from(round)]);
        drop(server); // the origin's side has TIME_WAIT
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        let closed = world.event();
        assert_eq!((closed.kind, closed.flow.client_bytes), (FlowEventKind::Closed, 3 + u64::from(round)));
    }
    assert!(sources.iter().all(|source| *source == sources[0]), "{sources:?}");
}

#[test]
fn when_every_source_port_is_taken_it_is_counted_and_told() {
    let Some(mut world) = world_with(&Options { source_ports: 5000..=5003, ..options() }) else { return };
    world.carry(PLAIN);
    let listener = world.listen(at(ORIGIN, 1000));
    let pairs: Vec<_> = (0..4).map(|_| (world.connect(at(EDGE, 1000)), accept(&listener))).collect();
    (0..4).for_each(|_| assert_eq!(world.event().kind, FlowEventKind::Opened));
    let late = world.client.run(|| TcpStream::connect_timeout(&at(EDGE, 1000), Duration::from_millis(300)));
    assert!(late.is_err());
    let event = world.event();
    assert_eq!((event.kind, event.flow.edge), (FlowEventKind::Exhausted, at(EDGE, 1000)));
    assert!(world.path.totals(1).unwrap().ports_exhausted > 0);
    // Another port of the origin has all four of its own; a closed flow's can be had where there is no other.
    let other = world.listen(at(ORIGIN, 1001));
    let _another = (world.connect(at(EDGE, 1001)), accept(&other));
    drop(pairs);
    let begin = std::time::Instant::now();
    let mut again = world.connect(at(EDGE, 1000));
    assert!(begin.elapsed() < Duration::from_millis(700), "its SYN was dropped");
    say(&mut again, &mut accept(&listener), b"room");
}

#[test]
fn strangers_open_nothing_and_break_nothing() {
    let Some(mut world) = world() else { return };
    world.carry(PLAIN);
    let listener = world.listen(at(ORIGIN, 1000));
    let mut client = world.connect(at(EDGE, 1000));
    let mut server = accept(&listener);
    let opened = world.event().flow;
    say(&mut client, &mut server, b"hello");
    let me = client.local_addr().unwrap();
    let edge = at(EDGE, 1000);
    let ask = |frame: &[u8]| world.edge.run(|| world.path.ask(frame)).unwrap().0;
    // Of no flow, and no first packet of one.
    let stranger = at(CLIENT, 999);
    for flags in [ACK, RST, FIN | ACK, SYN | ACK, SYN | FIN, SYN | RST, PSH | ACK, 0] {
        assert_eq!(ask(&tcp(stranger, edge, &Tcp::new(flags, 1, 1, b"x"))), Answer::Passed, "{flags:x}");
    }
    assert_eq!(world.path.verdicts().unwrap().get(Verdict::Strayed), 8);
    // Of the flow, but far out of its window: forwarded, and without effect.
    for flags in [RST, RST | ACK, FIN | ACK, PSH | ACK] {
        for off in [1u32 << 30, 1 << 31, 3 << 30] {
            ask(&tcp(me, edge, &Tcp::new(flags, off, 7, b"spoofed")));
        }
    }
    let flow = world.path.flow(&opened.client_key()).unwrap().unwrap();
    assert!(!flow.is_closed && flow.was_reset_by.is_none() && !flow.has_finished_client);
    assert!(world.path.verdicts().unwrap().get(Verdict::OutOfWindow) >= 8);
    // Malformed in every length and offset that there is.
    let whole = tcp(me, edge, &Tcp::new(PSH | ACK, 1, 1, b"payload"));
    for bytes in 14..whole.len() {
        let _ = world.edge.run(|| world.path.ask(&whole[..bytes]));
    }
    for (at, values) in [(14, 0..=255u8), (17, 0..=255), (46, 0..=255), (20, 0..=255), (23, 0..=255)] {
        for value in values {
            let mut broken = whole.clone();
            broken[at] = value;
            ask(&broken);
        }
    }
    say(&mut client, &mut server, b"still there");
    say(&mut server, &mut client, b"as ever");
    assert!(world.events.next().is_none());
}

#[test]
fn both_sides_may_open_at_once() {
    let Some(mut world) = world() else { return };
    world.carry(PLAIN);
    // Nobody listens: each side's SYN crosses the other's.
    let (client, edge) = (at(CLIENT, 40_001), at(EDGE, 1000));
    let ask = |frame: &[u8]| world.edge.run(|| world.path.ask(frame)).unwrap();
    let (answer, sent) = ask(&tcp(client, edge, &Tcp::new(SYN, u32::MAX, 0, b"")));
    assert_eq!(answer, Answer::Sent);
    let (source, origin) = ends(&sent);
    for (frame, to) in [
        (tcp(origin, source, &Tcp::new(SYN, u32::MAX - 1, 0, b"")), client),
        (tcp(client, edge, &Tcp::new(SYN | ACK, u32::MAX, u32::MAX, b"")), origin),
        (tcp(origin, source, &Tcp::new(SYN | ACK, u32::MAX - 1, 0, b"")), client),
        // Sequence numbers wrap on both sides.
        (tcp(client, edge, &Tcp::new(PSH | ACK, 0, u32::MAX, b"1234567")), origin),
        (tcp(origin, source, &Tcp::new(PSH | ACK, u32::MAX, 7, b"12345")), client),
        (tcp(client, edge, &Tcp::new(FIN | ACK, 7, 4, b"")), origin),
        (tcp(origin, source, &Tcp::new(FIN | ACK, 4, 8, b"")), client),
        (tcp(client, edge, &Tcp::new(ACK, 8, 5, b"")), origin),
    ] {
        let (answer, sent) = ask(&frame);
        assert_eq!((answer, ends(&sent).1), (Answer::Sent, to));
    }
    assert_eq!(world.event().kind, FlowEventKind::Opened);
    let closed = world.event();
    assert_eq!((closed.kind, closed.flow.client_bytes, closed.flow.origin_bytes), (FlowEventKind::Closed, 7, 5));
}

#[test]
fn a_port_whose_connection_is_over_may_come_again_with_a_cookie_of_the_stack() {
    let Some(world) = world() else { return };
    world.carry(PLAIN);
    for (here, there, from, edge) in [(CLIENT, ORIGIN, SOURCE, EDGE), (CLIENT6, ORIGIN6, SOURCE6, EDGE6)] {
        let (client, edge, origin) = (at(here, 40_000), at(edge, 1005), at(there, 1005));
        let ask = |frame: &[u8]| world.edge.run(|| world.path.ask(frame)).unwrap();
        let (_, sent) = ask(&tcp(client, edge, &Tcp::new(SYN, 1_000, 0, b"")));
        let source = at(from, ends(&sent).0.port());
        ask(&tcp(origin, source, &Tcp::new(SYN | ACK, 5_000, 1_001, b"")));
        ask(&tcp(client, edge, &Tcp::new(FIN | ACK, 1_001, 5_001, b"")));
        ask(&tcp(origin, source, &Tcp::new(FIN | ACK, 5_001, 1_002, b"")));
        let last = tcp(client, edge, &Tcp::new(ACK, 1_002, 5_002, b""));
        let again = tcp(client, edge, &Tcp::new(FIN | ACK, 1_001, 5_001, b""));
        for frame in [&last, &again] {
            let (answer, sent) = ask(frame);
            assert_eq!((answer, ends(&sent)), (Answer::Sent, (source, origin)), "what is sent again goes on");
        }
        // Its SYN was answered by somebody else, and it begins further on.
        let (answer, _) = ask(&tcp(client, edge, &Tcp::new(ACK, 1_002 + 70_000, 9_000, b"")));
        assert_eq!(answer, Answer::Passed);
        assert_eq!(ask(&last).0, Answer::Passed, "the port is the new connection's");
    }
}

#[test]
fn a_reset_that_only_its_receiver_can_judge_is_taken_back_by_a_sign_of_life() {
    let Some(mut world) = world() else { return };
    world.carry(PLAIN);
    let listener = world.listen(at(ORIGIN, 1000));
    let mut client = world.connect(at(EDGE, 1000));
    let mut server = accept(&listener);
    let opened = world.event().flow;
    say(&mut client, &mut server, b"hello");
    let flow = || world.path.flow(&opened.client_key()).unwrap().unwrap();
    // Somebody guesses: near, not exact. The origin's stack ignores it. Of what was not sent yet nobody knows the end;
    // what was sent and not received would be the end, so that is believed until the origin talks.
    let me = client.local_addr().unwrap();
    for (off, reset_by) in [(1000, None), (u32::MAX - 2, Some(Side::Client))] {
        let guess = tcp(me, at(EDGE, 1000), &Tcp::new(RST, flow_next(&flow()).wrapping_add(off), 0, b""));
        world.edge.run(|| world.path.ask(&guess)).unwrap();
        assert_eq!((flow().was_reset_by, flow().is_closed), (reset_by, false));
    }
    // It can be asked.
    world.edge.run(|| world.path.probe(&flow())).unwrap();
    eventually("a sign of life", || (flow().was_reset_by.is_none() && !flow().is_closed).then_some(()));
    let guess = tcp(me, at(EDGE, 1000), &Tcp::new(RST, flow_next(&flow()).wrapping_sub(3), 0, b""));
    world.edge.run(|| world.path.ask(&guess)).unwrap();
    assert_eq!(flow().was_reset_by, Some(Side::Client));
    say(&mut server, &mut client, b"I am well");
    assert_eq!((flow().was_reset_by, flow().is_closed), (None, false));
    say(&mut client, &mut server, b"so am I");
}

fn flow_next(flow: &causeway_bpf::flow::Flow) -> u32 {
    flow.expected(Side::Client)
}

#[test]
fn an_origin_that_does_not_answer_is_left_with_the_next_syn_once_new_flows_go_elsewhere() {
    let Some(world) = world() else { return };
    let mut application = carried(true, HeaderKind::None, "198.18.2.77");
    application.origins.push(carried(true, HeaderKind::None, ORIGIN).origins[0].clone());
    world.carry(PLAIN);
    world.path.set_application(1, &application).unwrap();
    let listener: TcpListener = world.listen(at(ORIGIN, 1000));
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| world.connect(at(EDGE, 1000)));
        std::thread::sleep(Duration::from_millis(300));
        application.choices = [1; 64];
        world.path.set_application(1, &application).unwrap();
        let mut client = connecting.join().unwrap();
        say(&mut client, &mut accept(&listener), b"the other one");
    });
}
