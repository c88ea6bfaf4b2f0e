//! Ten thousand rules are replaced while packets are being judged: each packet is judged by the old ones or the new
//! ones, and the step from one to the other takes no time.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{Answer, Entry, Guard, Listener, Mode, Options, PrefixSet};
use support::packet::{SYN, Tcp, tcp};
use support::{EDGE, Namespace, at};

const RULES: u32 = 10_000;
const SWAPS: u64 = 12;
const SWAP: Duration = Duration::from_millis(50);

/// Blocks every other address, the even ones or the odd ones, and the last one in any case.
fn rules(is_odd: bool) -> PrefixSet {
    let blocked = (0..RULES).map(|n| 0xc613_0000 + 2 * n + u32::from(is_odd)).chain([0xc613_ffff]);
    blocked.map(|address| (Ipv4Addr::from_bits(address).to_string().parse().unwrap(), Entry::block())).collect()
}

#[test]
fn no_packet_meets_half_of_a_change() {
    let Some(place) = Namespace::new() else { return };
    let Some(guard) = support::guard(place.run(|| Guard::open(&Options::default()))) else { return };
    let mut ports = PortTable::default();
    ports.set(1000..=1000, 1);
    guard.set_ports(Spot::tcp(EDGE.parse().unwrap()), &ports).unwrap();
    let listener = |slot: u16| Listener { mode: Mode::Protect, sets: vec![slot], ..Listener::default() };
    guard.swap_prefixes(1, rules(false)).unwrap();
    guard.set_listener(1, &listener(1)).unwrap();

    // Changes that have begun, and those that are done: what was asked between the two may go either way.
    let (begun, done, is_over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let judge = || {
        place.enter();
        let packet = |client: &str| {
            tcp(SocketAddr::new(client.parse().unwrap(), 5000), at(EDGE, 1000), &Tcp::new(SYN, 1, 0, b""))
        };
        let [even, odd, always, never] = ["198.19.0.8", "198.19.0.9", "198.19.255.255", "192.0.2.1"].map(packet);
        let is_dropped = |frame: &[u8]| guard.ask(frame).unwrap().0 == Answer::Dropped;
        let (mut asked, mut newest) = (0u64, 0);
        while !is_over.load(Ordering::SeqCst) {
            let before = done.load(Ordering::SeqCst);
            let (is_even, is_odd) = (is_dropped(&even), is_dropped(&odd));
            let after = begun.load(Ordering::SeqCst);
            assert!(is_dropped(&always) && !is_dropped(&never), "what both say holds throughout");
            if before == after {
                assert_eq!((is_even, is_odd), (before % 2 == 0, before % 2 == 1), "after {before} changes");
                assert!(before >= newest, "no way back");
                newest = before;
            }
            asked += 4;
        }
        asked
    };
    let (asked, prepared, swapped) = std::thread::scope(|scope| {
        let judges: Vec<_> = (0..2).map(|_| scope.spawn(judge)).collect();
        let (mut prepared, mut swapped) = (Vec::new(), Vec::new());
        for change in 1..=SWAPS {
            std::thread::sleep(Duration::from_millis(5));
            let slot = 1 + (change % 2) as u16;
            let began = Instant::now();
            guard.swap_prefixes(slot, rules(change % 2 == 1)).unwrap();
            prepared.push(began.elapsed());
            let began = Instant::now();
            begun.store(change, Ordering::SeqCst);
            guard.set_listener(1, &listener(slot)).unwrap();
            done.store(change, Ordering::SeqCst);
            swapped.push(began.elapsed());
        }
        is_over.store(true, Ordering::SeqCst);
        (judges.into_iter().map(|judge| judge.join().unwrap()).sum::<u64>(), prepared, swapped)
    });
    let most = |of: &[Duration]| of.iter().max().copied().unwrap();
    println!("{asked} packets judged; prepared in {:?}, switched in {:?} at the most", most(&prepared), most(&swapped));
    assert!(asked > 1000, "{asked}");
    assert!(most(&swapped) < SWAP, "{swapped:?}");
}
