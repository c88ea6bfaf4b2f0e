//! Frames of `vectors/guard/packets.txt`, each with its verdict: by the program, and by its twin in user space.
#![allow(clippy::unwrap_used)]

mod support;

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::twin::{Nothing, Twin};
use causeway_bpf::guard::{Answer, Entry, Guard, Listener, Mode, Options, PrefixSet, Settings, Verdict, Wants};
use support::{EDGE, EDGE6, Namespace};

const PACKETS: &str = include_str!("../../../vectors/guard/packets.txt");
const PLAIN: u16 = 1;
const STRICT: u16 = 2;
const REST: u16 = 3;
const ESP: u8 = 50;
const BANS: u16 = 1;

fn guard() -> Option<(Namespace, Guard)> {
    let place = Namespace::new()?;
    let guard = support::guard(place.run(|| Guard::open(&Options::default())))?;
    Some((place, guard))
}

fn packets() -> impl Iterator<Item = (&'static str, &'static str, Vec<u8>)> {
    PACKETS.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let [name, verdict, hex] = line.split(" | ").collect::<Vec<_>>().try_into().unwrap();
        let frame = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        (name, verdict, frame)
    })
}

#[test]
fn every_frame_gets_its_verdict_from_the_program_and_from_its_twin() {
    let Some((place, guard)) = guard() else { return };
    let settings = Settings { protocols: vec![ESP], ..Settings::default() };
    let mut twin = Twin::new(Nothing, settings.clone());
    guard.set_settings(&settings).unwrap();
    for (index, wants) in [
        (PLAIN, Wants::default()),
        (STRICT, Wants { state: true, no_fragments: true, ..Wants::default() }),
        (REST, Wants { known_protocols: true, ..Wants::default() }),
    ] {
        let bans = (index == PLAIN).then_some(BANS);
        let listener = Listener { mode: Mode::Protect, wants, bans, ..Listener::default() };
        guard.set_listener(index, &listener).unwrap();
        twin.listeners.insert(index, listener);
    }
    let bans: PrefixSet = [
        ("198.18.7.9", Entry::block()),
        ("198.18.8.0/24", Entry::block()),
        ("198.18.8.70", Entry::allow()),
        ("2001:db8:7::/64", Entry::block()),
    ]
    .into_iter()
    .map(|(text, entry)| (text.parse().unwrap(), entry))
    .collect();
    guard.swap_prefixes(BANS, bans.clone()).unwrap();
    twin.sets.insert(BANS, bans);
    let mut ports = PortTable::default();
    ports.set(1000..=1499, PLAIN);
    ports.set(1500..=1999, STRICT);
    for edge in [EDGE, EDGE6].map(|text| text.parse().unwrap()) {
        guard.set_address(edge, Some(REST)).unwrap();
        twin.addresses.insert(edge, REST);
        for (protocol, spot) in [(6, Spot::tcp(edge)), (17, Spot::udp(edge))] {
            guard.set_ports(spot, &ports).unwrap();
            twin.ports.insert((protocol, edge), ports.clone());
        }
    }
    place.enter();
    let counted = || -> Vec<u64> {
        let of = |index| guard.counts(index).unwrap();
        let all = [of(PLAIN), of(STRICT), of(REST)];
        Verdict::ALL.iter().map(|verdict| all.iter().map(|counts| counts.get(*verdict).packets).sum()).collect()
    };
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (name, expected, frame) in packets() {
        let before = counted();
        let (answer, became) = guard.ask(&frame).unwrap();
        let after = counted();
        let verdict = Verdict::ALL.into_iter().find(|verdict| after[*verdict as usize] > before[*verdict as usize]);
        let code = |verdict: Option<Verdict>| verdict.map_or("-", Verdict::code);
        let twins = twin.take(&frame, 1).map(|judgement| judgement.verdict);
        let is_right = answer == if verdict.is_some_and(Verdict::is_drop) { Answer::Dropped } else { Answer::Passed };
        if code(verdict) != expected || twins != verdict || !is_right || became != frame {
            wrong.push(format!("{name}: {} and {answer:?}, twin {}, not {expected}", code(verdict), code(twins)));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 70, "only {seen} frames");
}
