//! Who comes back: where strangers have used up what there is for all, those who ask again, as clients do that hear
//! nothing, have as much again for themselves.
#![allow(clippy::unwrap_used)]

mod support;

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{Answer, Guard, Listener, Mode, Options, Rate, RateOf, Settings, Verdict};
use support::forge::Random;
use support::packet::{SYN, Tcp, tcp, udp};
use support::{CLIENT, CLIENT6, EDGE, EDGE6, Namespace, at};

const GAME: u16 = 1;
const WEB: u16 = 2;
const PORT: u16 = 1000;
/// `TURN_SHIFT` of bpf/guard.h.
const TURN_NS: u64 = 1 << 30;
const START_NS: u64 = 1_000 * TURN_NS;
const BUDGET: u64 = 10;

struct Place {
    guard: Guard,
}

impl Place {
    /// All together may send ten packets at once, and ten more in a second.
    fn new(spares_returning: bool) -> Option<Place> {
        let namespace = Namespace::new()?;
        namespace.enter();
        let guard = support::guard(Guard::open(&Options::default()))?;
        for (index, of, spot) in
            [(GAME, RateOf::Packets, Spot::udp as fn(_) -> _), (WEB, RateOf::Syns, Spot::tcp as fn(_) -> _)]
        {
            let mut ports = PortTable::default();
            ports.set(PORT..=PORT, index);
            for edge in [EDGE, EDGE6] {
                guard.set_ports(spot(edge.parse().unwrap()), &ports).unwrap();
            }
            let rate = Rate { of, length_v4: 0, length_v6: 0, per_second: BUDGET, burst: BUDGET, spares_returning };
            guard.set_rate(index, Some(&rate)).unwrap();
            let listener = Listener { mode: Mode::Protect, rates: vec![index], ..Listener::default() };
            guard.set_listener(index, &listener).unwrap();
        }
        let place = Place { guard };
        place.at(0);
        Some(place)
    }

    /// So many ns after the start.
    fn at(&self, ns: u64) {
        self.guard.set_settings(&Settings { clock_ns: Some(START_NS + ns), ..Settings::default() }).unwrap();
    }

    fn passes(&self, frame: &[u8]) -> bool {
        self.guard.ask(frame).unwrap().0 == Answer::Passed
    }

    /// From port `from` of a client; IPv6 if it says so.
    fn says(&self, from: u16, is_ipv6: bool) -> bool {
        let (client, edge) = if is_ipv6 { (CLIENT6, EDGE6) } else { (CLIENT, EDGE) };
        self.passes(&udp(at(client, from), at(edge, PORT), b"hello"))
    }

    /// Addresses that nobody has. Answers how many were let in.
    fn flood(&self, count: u32, seed: u64) -> usize {
        let mut random = Random(seed);
        let forged = (0..count).map(|_| {
            let source = format!("198.19.{}.{}", random.below(256), random.below(256));
            udp(at(&source, 1024 + random.below(60_000) as u16), at(EDGE, PORT), b"x")
        });
        forged.filter(|frame| self.passes(frame)).count()
    }
}

#[test]
fn who_asks_again_is_let_in_while_a_flood_has_used_up_what_there_is() {
    let Some(place) = Place::new(true) else { return };
    for is_ipv6 in [false, true] {
        // The budgets are of each family.
        let fill: Vec<bool> = (0..20).map(|n| place.says(5_000 + n, is_ipv6)).collect();
        assert_eq!(fill.iter().filter(|is_in| **is_in).count() as u64, BUDGET);
        assert!(!place.says(4_000, is_ipv6), "there is nothing left");
        assert!(!place.says(4_000, is_ipv6), "at once is not again: floods repeat themselves too");
    }
    place.at(TURN_NS);
    place.flood(1_000, 1);
    for is_ipv6 in [false, true] {
        (0..20).for_each(|n| _ = place.says(6_000 + n, is_ipv6));
        assert!(!place.says(4_001, is_ipv6), "it is new");
        assert!(place.says(4_000, is_ipv6), "it has come back");
    }
}

#[test]
fn those_who_come_back_have_as_much_as_the_others_and_no_more() {
    let Some(place) = Place::new(true) else { return };
    (0..100).for_each(|n| _ = place.says(5_000 + n, false));
    place.at(TURN_NS);
    place.flood(100, 1);
    let again = (10..100).filter(|n| place.says(5_000 + n, false)).count() as u64;
    assert_eq!(again, BUDGET);
}

#[test]
fn who_stays_away_too_long_is_new_again() {
    let Some(place) = Place::new(true) else { return };
    place.flood(100, 1);
    assert!(!place.says(4_000, false));
    place.at(2 * TURN_NS);
    place.flood(100, 2);
    assert!(!place.says(4_000, false));
}

#[test]
fn a_rate_that_spares_nobody_is_as_it_was() {
    let Some(place) = Place::new(false) else { return };
    place.flood(100, 1);
    assert!(!place.says(4_000, false));
    place.at(TURN_NS);
    place.flood(100, 2);
    assert!(!place.says(4_000, false));
}

/// A million a second, for a turn.
#[test]
fn of_many_forged_datagrams_few_are_taken_for_somebody_who_comes_back() {
    let Some(place) = Place::new(true) else { return };
    let (of, budget, tried) = (RateOf::Packets, 20_000, 100_000);
    let rate = Rate { of, length_v4: 0, length_v6: 0, per_second: budget, burst: budget, spares_returning: true };
    place.guard.set_rate(GAME, Some(&rate)).unwrap();
    let forged = 1_000_000 * TURN_NS / 1_000_000_000;
    assert_eq!(place.flood(forged as u32, 1) as u64, budget);
    place.at(TURN_NS);
    let found = place.flood(budget as u32 + tried, 2) as u64 - budget;
    assert!(found < u64::from(tried) / 200, "{found} of {tried}");
}

/// A SYN is sent again after a second by every stack.
#[test]
fn a_syn_that_is_sent_again_is_let_in_where_syns_are_limited() {
    let Some(place) = Place::new(true) else { return };
    let syn = |from: u16| tcp(at(CLIENT, from), at(EDGE, PORT), &Tcp::new(SYN, 1, 0, b""));
    (0..20).for_each(|n| _ = place.passes(&syn(5_000 + n)));
    assert!(!place.passes(&syn(4_000)));
    place.at(TURN_NS);
    (0..20).for_each(|n| _ = place.passes(&syn(6_000 + n)));
    assert!(place.passes(&syn(4_000)));
    assert!(place.guard.counts(WEB).unwrap().get(Verdict::Rate).packets > 0);
}
