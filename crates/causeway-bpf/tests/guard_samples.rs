//! Samples: which packets are taken as one of so many.
#![allow(clippy::unwrap_used)]

mod support;

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{Guard, Listener, Mode, Options, Settings};
use support::packet::udp;
use support::{CLIENT, EDGE, Namespace, at};

const GAME: u16 = 1;
const PORT: u16 = 1000;
const KINDS: usize = 8;
const PACKETS: usize = 16_000;

/// A crowd of connections that are all the same is a steady beat of SYN, ACK, request, FIN …: who takes each eighth
/// packet of it sees SYNs alone, or none.
#[test]
fn a_steady_beat_is_sampled_in_all_its_parts_alike() {
    let Some(place) = Namespace::new() else { return };
    place.enter();
    let Some(guard) = support::guard(Guard::open(&Options::default())) else { return };
    let mut ports = PortTable::default();
    ports.set(PORT..=PORT, GAME);
    guard.set_ports(Spot::udp(EDGE.parse().unwrap()), &ports).unwrap();
    guard.set_listener(GAME, &Listener { mode: Mode::Protect, ..Listener::default() }).unwrap();
    for every in [4, 8, 16] {
        let settings = Settings { sample_every: every, samples_per_second: 1_000_000, ..Settings::default() };
        guard.set_settings(&settings).unwrap();
        let mut samples = guard.samples().unwrap();
        samples.by_ref().for_each(drop);
        let mut taken = [0usize; KINDS];
        for packet in 0..PACKETS {
            let kind = (packet % KINDS) as u16;
            guard.ask(&udp(at(CLIENT, 4000 + kind), at(EDGE, PORT), b"hello")).unwrap();
            if packet % 1000 == 999 {
                samples
                    .by_ref()
                    .for_each(|it| taken[usize::from(u16::from_be_bytes([it.frame[34], it.frame[35]]) - 4000)] += 1);
            }
        }
        let fair = PACKETS / every as usize / KINDS;
        assert!(taken.iter().all(|of| (fair / 2..fair * 3 / 2).contains(of)), "one in {every}: {taken:?}, not {fair}");
        let all: usize = taken.iter().sum();
        assert!(all.abs_diff(KINDS * fair) < KINDS * fair / 8, "one in {every}: {all} of {PACKETS}");
    }
}
