//! Cookies that nobody sent: ACKs of strangers, replayed and changed ones. None may reach a listener.
//!
//! A million of them; `CAUSEWAY_GUARD_COOKIES` for another number, `CAUSEWAY_GUARD_SEED` to repeat a run. A 32-bit
//! guess is right once in 500 million: two ages of 256, four sizes of 2^24.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{Answer, Guard, Listener, Mode, Options, Verdict, Wants};
use support::forge::Random;
use support::packet::{ACK, SYN, Tcp, tcp, tcp_of};
use support::{CLIENT, CLIENT6, EDGE, EDGE6, Namespace, at};

const WEB: u16 = 1;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn guard() -> Option<(Namespace, Guard)> {
    let place = Namespace::new()?;
    let guard = support::guard(place.run(|| Guard::open(&Options::default())))?;
    let wants = Wants { cookies: true, ..Wants::default() };
    guard.set_listener(WEB, &Listener { mode: Mode::Protect, wants, ..Listener::default() }).unwrap();
    let mut ports = PortTable::default();
    ports.set(1000..=1999, WEB);
    for edge in [EDGE, EDGE6] {
        guard.set_ports(Spot::tcp(edge.parse().unwrap()), &ports).unwrap();
    }
    place.enter();
    Some((place, guard))
}

/// A SYN, and the ACK that answers its cookie: what comes back is (sequence, acknowledged).
fn cookie(guard: &Guard, from: SocketAddr, to: SocketAddr, sequence: u32) -> (u32, u32) {
    let syn = tcp(from, to, &Tcp::new(SYN, sequence, 0, b"").with_options(&[2, 4, 5, 0xb4]));
    for _ in 0..2 {
        // The first one to a port goes through, so that the listener hears of cookies.
        let (answer, became) = guard.ask(&syn).unwrap();
        if answer == Answer::Replied {
            return (sequence.wrapping_add(1), tcp_of(&became).seq.wrapping_add(1));
        }
    }
    panic!("no cookie");
}

fn is_taken(guard: &Guard, from: SocketAddr, to: SocketAddr, sequence: u32, acknowledged: u32) -> bool {
    guard.ask(&tcp(from, to, &Tcp::new(ACK, sequence, acknowledged, b""))).unwrap().0 == Answer::Passed
}

#[test]
fn no_forged_cookie_is_taken_and_every_right_one_is() {
    let Some((_place, guard)) = guard() else { return };
    let (tries, seed) = (number("CAUSEWAY_GUARD_COOKIES", 1_000_000), number("CAUSEWAY_GUARD_SEED", 11));
    let mut random = Random(seed);
    let ends = [(CLIENT, EDGE), (CLIENT6, EDGE6)];
    let mut right = ends.map(|(client, edge)| {
        let (from, to) = (at(client, 40_000), at(edge, 1000));
        (from, to, cookie(&guard, from, to, 77))
    });
    let mut rightly = 0;
    for n in 0..tries {
        let side = random.below(2) as usize;
        if n % 1000 == 999 {
            // Another client, whose cookie is right, and then forged in turn.
            let (client, edge) = ends[side];
            let (from, to) =
                (at(client, 1024 + random.below(60_000) as u16), at(edge, 1000 + random.below(1000) as u16));
            let words = cookie(&guard, from, to, random.next());
            assert!(is_taken(&guard, from, to, words.0, words.1), "seed {seed}, try {n}: a right one was dropped");
            (right[side], rightly) = ((from, to, words), rightly + 1);
        }
        let (mut from, mut to, (mut sequence, mut acknowledged)) = right[side];
        match random.below(6) {
            // Beyond the lowest bits, which say another size of segments.
            0 => acknowledged ^= 1 << (3 + random.below(29)),
            1 => sequence = sequence.wrapping_add(8 + random.below(u32::MAX - 16)),
            2 => from.set_port(from.port().wrapping_add(1 + random.below(500) as u16)),
            3 => to.set_port(1000 + (to.port() - 1000 + 1 + random.below(998) as u16) % 1000),
            4 => (sequence, acknowledged) = (random.next(), random.next()),
            _ => acknowledged = random.next(),
        }
        let was_taken = is_taken(&guard, from, to, sequence, acknowledged);
        assert!(!was_taken, "seed {seed}, try {n}: {from} to {to}, {sequence:#x} {acknowledged:#x}");
    }
    let counts = guard.counts(WEB).unwrap();
    assert_eq!(counts.get(Verdict::CookieTaken).packets, rightly);
    assert_eq!(counts.get(Verdict::OutOfState).packets, tries);
    eprintln!("{tries} forged cookies, none taken; {rightly} right ones, all taken");
}
