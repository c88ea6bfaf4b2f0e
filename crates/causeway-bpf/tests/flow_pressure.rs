//! Floods of first packets: what they may take, and what they leave to those who mean it.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use causeway_bpf::flow::{Answer, FlowEventKind, FlowOpenings, HeaderKind, Options, Verdict};
use support::packet::{ACK, SYN, Tcp, ends, tcp, udp};
use support::*;

const PLAIN: [HeaderKind; 2] = [HeaderKind::None; 2];
const MOST_HALF_OPEN: usize = 8_192;
const SAMPLES: usize = 256;

/// Anybody of 198.19.0.0/16.
fn stranger(n: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0xC613_0000 + (n % 65_536) as u32)), 2_000 + (n / 65_536) as u16)
}

/// Everybody's answers have a way to go.
fn far() -> Option<World> {
    let world = world()?;
    world.carry(PLAIN);
    world.edge.ip("route add 198.19.0.0/16 via 198.18.1.2");
    for (ip, device) in [("198.18.1.2", "c0"), ("198.18.2.2", "o0")] {
        world.edge.ip(&format!("neigh replace {ip} lladdr 02:00:00:00:00:01 nud permanent dev {device}"));
    }
    Some(world)
}

fn syn(n: usize) -> Vec<u8> {
    tcp(stranger(n), at(EDGE, 1000), &Tcp::new(SYN, 100, 0, b""))
}

/// All three packets of a handshake; answers whether the kernel carries it.
fn shakes_hands(world: &World, n: usize) -> bool {
    let (answer, became) = world.path.ask(&syn(n)).unwrap();
    if answer != Answer::Sent {
        return false;
    }
    let (source, origin) = ends(&became);
    world.path.ask(&tcp(origin, source, &Tcp::new(SYN | ACK, 500, 101, b""))).unwrap();
    world.path.ask(&tcp(stranger(n), at(EDGE, 1000), &Tcp::new(ACK, 101, 501, b""))).unwrap();
    true
}

#[test]
fn syns_that_nobody_follows_up_are_left_to_the_stack_until_clients_finish_theirs_again() {
    let Some(world) = far() else { return };
    world.edge.run(|| {
        // Twice, for some of the first are forgotten where a second ends.
        let flood = |first: usize, many: usize| -> usize {
            (first..first + many).filter(|n| world.path.ask(&syn(*n)).unwrap().0 == Answer::Sent).count()
        };
        let carried = flood(0, 4 * MOST_HALF_OPEN);
        assert!((MOST_HALF_OPEN..3 * MOST_HALF_OPEN).contains(&carried), "{carried}");
        let more = flood(4 * MOST_HALF_OPEN, 2 * MOST_HALF_OPEN);
        assert!(more <= 4 * SAMPLES, "{more}");
        let (verdicts, of_it) = (world.path.verdicts().unwrap(), world.path.openings(1).unwrap());
        assert!(verdicts.get(Verdict::Pressed) as usize > MOST_HALF_OPEN);
        assert_eq!((of_it.pressed, of_it.opened), (verdicts.get(Verdict::Pressed), (carried + more) as u64));
        assert_eq!(of_it.two_way, 0, "nobody has answered");
        // Others' applications know nothing of it.
        let other = tcp("[2001:db8:1::2]:5".parse().unwrap(), at(EDGE6, 1000), &Tcp::new(SYN, 1, 0, b""));
        assert_eq!(world.path.ask(&other).unwrap().0, Answer::Sent);
        let mut n = 100_000;
        eventually("everybody to be carried again", || {
            n += 500;
            (n..n + 500).all(|n| shakes_hands(&world, n)).then_some(())
        });
    });
}

#[test]
fn any_number_of_handshakes_that_are_finished_are_carried() {
    let Some(world) = far() else { return };
    // More than the table holds, so that none has to be taken out.
    world.edge.run(|| assert!((0..3 * MOST_HALF_OPEN).all(|n| shakes_hands(&world, n))));
    assert_eq!(world.path.verdicts().unwrap().get(Verdict::Pressed), 0);
    let all = 3 * MOST_HALF_OPEN as u64;
    assert_eq!(world.path.openings(1).unwrap(), FlowOpenings { opened: all, two_way: all, pressed: 0 });
}

#[test]
fn a_client_that_does_not_finish_its_handshake_keeps_its_source_port_for_a_second() {
    let Some(world) = world_with(&Options { source_ports: 5000..=5003, ..options() }) else { return };
    world.carry(PLAIN);
    world.edge.ip("route add 198.19.0.0/16 via 198.18.1.2");
    world.edge.run(|| {
        for n in 0..4 {
            let (source, origin) = ends(&world.path.ask(&syn(n)).unwrap().1);
            world.path.ask(&tcp(origin, source, &Tcp::new(SYN | ACK, 500, 101, b""))).unwrap();
        }
        assert_eq!(world.path.ask(&syn(4)).unwrap().0, Answer::Dropped);
        eventually("a port", || (world.path.ask(&syn(5)).unwrap().0 == Answer::Sent).then_some(()));
        assert_eq!(world.path.verdicts().unwrap().get(Verdict::Reclaimed), 1);
    });
}

#[test]
fn datagrams_that_are_answered_once_and_never_followed_up_give_way_and_conversations_do_not() {
    let Some(mut world) = world_with(&Options { source_ports: 5000..=5099, ..options() }) else { return };
    world.carry(PLAIN);
    world.edge.ip("route add 198.19.0.0/16 via 198.18.1.2");
    let edge = at(EDGE, 1000);
    world.edge.run(|| {
        let open = |n: usize| {
            let (answer, became) = world.path.ask(&udp(stranger(n), edge, b"ask")).unwrap();
            assert_eq!(answer, Answer::Sent, "{n}");
            let (source, origin) = ends(&became);
            assert_eq!(world.path.ask(&udp(origin, source, b"answer")).unwrap().0, Answer::Sent);
            source
        };
        let talks = |n: usize, source: SocketAddr| {
            assert_eq!(ends(&world.path.ask(&udp(stranger(n), edge, b"more")).unwrap().1).0, source);
        };
        let known: Vec<_> = (0..50).map(open).collect();
        (0..50).for_each(|n| talks(n, known[n]));
        (50..10_000).for_each(|n| _ = open(n));
        (0..50).for_each(|n| talks(n, known[n]));
    });
    let verdicts = world.path.verdicts().unwrap();
    assert_eq!((verdicts.get(Verdict::Promoted), verdicts.get(Verdict::Exhausted)), (50, 0));
    assert!(verdicts.get(Verdict::Reclaimed) > 9_000);
    // Of each that was told of, the end is told too, once: the flood made room for others.
    let (mut opened, mut replaced) = (0, 0);
    for event in std::iter::from_fn(|| world.events.next()) {
        match event.kind {
            FlowEventKind::Opened => opened += 1,
            FlowEventKind::Replaced => replaced += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(opened >= 500 && replaced <= opened && replaced + 100 >= opened, "{opened} {replaced}");
}
