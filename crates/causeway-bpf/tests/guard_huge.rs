//! A set beyond the sizes that the program knows: judged like any other, and changed in place.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{Answer, Entry, Guard, Listener, Mode, Options, Prefix, PrefixSet};
use support::forge::Random;
use support::packet::{SYN, Tcp, tcp};
use support::{EDGE6, Namespace, at};

/// Of scattered /128s these take some 40 MiB.
const COUNT: usize = 1_200_000;
const CHANGES: usize = 200;

fn host(random: &mut Random) -> Ipv6Addr {
    let bits = (0..3).fold(0x2001_0db8u128, |bits, _| bits << 32 | u128::from(random.next()));
    Ipv6Addr::from_bits(bits)
}

fn alone(address: Ipv6Addr) -> Prefix {
    Prefix::new(IpAddr::V6(address), 128).unwrap()
}

#[test]
fn a_set_of_more_than_32_mebibytes_is_judged_like_a_small_one() {
    let Some(place) = Namespace::new() else { return };
    let Some(guard) = support::guard(place.run(|| Guard::open(&Options::default()))) else { return };
    let mut ports = PortTable::default();
    ports.set(1000..=1000, 1);
    guard.set_ports(Spot::tcp(EDGE6.parse().unwrap()), &ports).unwrap();
    let mut random = Random(5);
    let listed: Vec<Ipv6Addr> = (0..COUNT).map(|_| host(&mut random)).collect();
    let set: PrefixSet = listed.iter().map(|address| (alone(*address), Entry::block())).collect();
    guard.swap_prefixes(1, set).unwrap();
    guard.set_listener(1, &Listener { mode: Mode::Protect, sets: vec![1], ..Listener::default() }).unwrap();
    let is_dropped = |client: Ipv6Addr| {
        let frame = tcp(SocketAddr::new(client.into(), 5000), at(EDGE6, 1000), &Tcp::new(SYN, 1, 0, b""));
        place.run(|| guard.ask(&frame)).unwrap().0 == Answer::Dropped
    };
    for address in listed.iter().step_by(COUNT / 1000) {
        assert!(is_dropped(*address), "{address} is listed");
        assert!(!is_dropped(Ipv6Addr::from_bits(address.to_bits() ^ 1)), "the neighbour of {address} is not");
    }
    for address in listed.iter().step_by(COUNT / CHANGES) {
        guard.change_prefix(1, alone(*address), None).unwrap();
        assert!(!is_dropped(*address), "{address} was taken out");
        let new = host(&mut random);
        guard.change_prefix(1, alone(new), Some(Entry::block())).unwrap();
        assert!(is_dropped(new), "{new} was put in");
    }
}
