//! The guard as a function: a table of packets through `BPF_PROG_TEST_RUN`, and what becomes of each.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{Answer, Entry, Guard, Listener, Mode, Options, PrefixSet, Verdict};
use support::packet::{ACK, SYN, Tcp, tcp, udp};
use support::{CLIENT, EDGE, Namespace, at};

const WEB: u16 = 1;
const REST: u16 = 2;

fn guard() -> Option<(Namespace, Guard)> {
    let place = Namespace::new()?;
    let guard = support::guard(place.run(|| Guard::open(&Options::default())))?;
    Some((place, guard))
}

fn ports(index: u16) -> PortTable {
    let mut table = PortTable::default();
    table.set(1000..=1999, index);
    table
}

fn protect(guard: &Guard) {
    let sets = vec![1];
    guard.set_listener(WEB, &Listener { mode: Mode::Protect, sets: sets.clone(), ..Listener::default() }).unwrap();
    guard.set_listener(REST, &Listener { mode: Mode::Protect, sets, ..Listener::default() }).unwrap();
    for spot in [Spot::tcp, Spot::udp] {
        guard.set_ports(spot(EDGE.parse().unwrap()), &ports(WEB)).unwrap();
    }
    guard.set_address(EDGE.parse().unwrap(), Some(REST)).unwrap();
}

fn from(port: u16) -> SocketAddr {
    at(CLIENT, port)
}

#[test]
fn a_blocked_source_gets_nothing_and_others_pass() {
    let Some((place, guard)) = guard() else { return };
    protect(&guard);
    let set: PrefixSet =
        [("198.18.1.0/24".parse().unwrap(), Entry::block()), (CLIENT.parse().unwrap(), Entry::allow())]
            .into_iter()
            .collect();
    guard.swap_prefixes(1, set).unwrap();
    place.enter();
    let ask = |from: SocketAddr, port: u16| {
        let syn = tcp(from, at(EDGE, port), &Tcp::new(SYN, 1, 0, b""));
        let (answer, became) = guard.ask(&syn).unwrap();
        assert_eq!(became, syn);
        answer
    };
    assert_eq!(ask(from(5000), 1000), Answer::Passed);
    assert_eq!(ask(at("198.18.1.3", 5000), 1000), Answer::Dropped);
    assert_eq!(ask(at("198.18.1.3", 5000), 22), Answer::Dropped);
    assert_eq!(ask(at("198.18.2.3", 5000), 1000), Answer::Passed);
    let counts = guard.counts(WEB).unwrap();
    assert_eq!(counts.get(Verdict::Allowed).packets, 1);
    assert_eq!((counts.get(Verdict::Blocked).packets, counts.get(Verdict::Blocked).bytes), (1, 40));
    assert_eq!(counts.get(Verdict::Passed).packets, 1);
    let _ = (ACK, udp(from(1), at(EDGE, 1), b""));
}
