//! The guard beside its twin: random packets through `BPF_PROG_TEST_RUN`, with listeners, prefixes, rules, rates and time
//! that change between them; every verdict, tag, answer and count compared.
//!
//! 30,000 packets; `CAUSEWAY_GUARD_PACKETS=1000000` for the long form, `CAUSEWAY_GUARD_SEED` to repeat one.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::twin::{Surroundings, Twin};
use causeway_bpf::guard::{
    Access, Action, Answer, CookieConditions, Entry, Guard, Listener, Mode, Options, Pattern, Prefix, PrefixSet, Rate,
    RateOf, Rule, RuleSet, Samples, Sessions, Settings, Verdict, Wants, fingerprint,
};
use support::forge::{self, Random};
use support::packet::{ACK, SYN, Tcp, ends, is_intact, tcp, tcp_of};
use support::{CLIENT, CLIENT6, EDGE, EDGE6, Namespace, at, patient};

const LISTENERS: [u16; 7] = [1, 2, 3, 4, 5, 6, 7];
const TAGS: u16 = 40;
const SETS: [u16; 3] = [1, 2, 3];
const RATES: [u16; 4] = [1, 2, 3, 4];
const UNGUARDED: [&str; 2] = ["198.18.1.9", "2001:db8:1::9"];

/// Sockets of the test's own namespace, cookies that were sent, and sessions of an engine.
#[derive(Default)]
struct World {
    open: HashSet<(SocketAddr, SocketAddr)>,
    sessions: Vec<(SocketAddr, SocketAddr)>,
    awaited: HashSet<(bool, SocketAddr)>,
    cookies: HashMap<(SocketAddr, SocketAddr), (u32, u32)>,
    _streams: Vec<TcpStream>,
    _listeners: Vec<TcpListener>,
    _sockets: Vec<UdpSocket>,
}

impl Surroundings for World {
    fn is_open(&self, is_tcp: bool, from: SocketAddr, to: SocketAddr) -> bool {
        if is_tcp { self.open.contains(&(from, to)) } else { self.sessions.contains(&(from, to)) }
    }

    fn is_awaited(&self, is_tcp: bool, from: SocketAddr, to: SocketAddr) -> bool {
        self.awaited.contains(&(is_tcp, to)) || self.is_open(is_tcp, from, to)
    }

    fn is_cookie(&self, from: SocketAddr, to: SocketAddr, sequence: u32, acknowledged: u32) -> bool {
        self.cookies.get(&(from, to)) == Some(&(sequence, acknowledged))
    }
}

impl World {
    fn new(place: &Namespace) -> World {
        let mut world = World::default();
        for ip in [EDGE, CLIENT] {
            place.ip(&format!("addr add {ip}/32 dev lo"));
        }
        for ip in [EDGE6, CLIENT6] {
            place.ip(&format!("addr add {ip}/128 dev lo nodad"));
        }
        for (edge, client) in [(EDGE, CLIENT), (EDGE6, CLIENT6)] {
            for port in [1000, 1002, 1500] {
                let listener = TcpListener::bind(at(edge, port)).unwrap();
                world.awaited.insert((true, at(edge, port)));
                for number in 0..3 {
                    let from = at(client, 40_000 + number);
                    let kind = if from.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
                    let socket = socket2::Socket::new(kind, socket2::Type::STREAM, None).unwrap();
                    socket.set_reuse_address(true).unwrap();
                    socket.bind(&from.into()).unwrap();
                    socket.connect(&at(edge, port).into()).unwrap();
                    let (stream, _) = listener.accept().unwrap();
                    patient(&stream);
                    world.open.extend([(from, at(edge, port)), (at(edge, port), from)]);
                    world._streams.extend([stream, socket.into()]);
                }
                world._listeners.push(listener);
            }
            for port in [1001, 1501] {
                world._sockets.push(UdpSocket::bind(at(edge, port)).unwrap());
                world.awaited.insert((false, at(edge, port)));
            }
        }
        world
    }
}

fn address(random: &mut Random, is_ipv4: bool) -> IpAddr {
    let (net, host) = (random.below(4), random.below(8));
    let text = match (is_ipv4, random.below(8)) {
        (true, 0) => "203.0.113.7".to_string(),
        (true, 1) => format!("198.18.{}.{}", random.below(256), random.below(256)),
        (true, _) => format!("198.18.{net}.{host}"),
        (false, 0) => "2001:db8:ffff::7".to_string(),
        (false, _) => format!("2001:db8:{net}:{}::{host}", random.below(2)),
    };
    text.parse().unwrap()
}

fn prefix(random: &mut Random) -> Prefix {
    let address = address(random, random.0 >> 40 & 1 == 0);
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = match random.below(4) {
        0 => random.below(most + 1),
        1 => most,
        _ => most - random.below(12),
    } as u8;
    let bits = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let bits = if length == 0 { 0 } else { bits >> (128 - u32::from(length)) << (128 - u32::from(length)) };
    let address = match address {
        IpAddr::V4(_) => IpAddr::V4(((bits >> 96) as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(bits.into()),
    };
    Prefix::new(address, length).unwrap()
}

fn entry(random: &mut Random, now: u64) -> Entry {
    Entry {
        access: random.one(&[Access::Allow, Access::Block]),
        tag: random.below(20) as u16,
        expires_ns: random.rarely(4).then(|| now + u64::from(random.below(2_000_000_000))),
    }
}

fn listener(random: &mut Random) -> Listener {
    let mut is = |one_in| random.rarely(one_in);
    let wants = Wants {
        cookies: is(3),
        state: is(2),
        no_fragments: is(6),
        whole_datagrams: is(3),
        open_ports: is(2),
        known_protocols: is(2),
    };
    let mut some = |of: &[u16], most: usize, one_in| {
        of.iter().copied().filter(|_| random.rarely(one_in)).take(most).collect::<Vec<_>>()
    };
    let (sets, rates) = (some(&SETS, 2, 3), some(&RATES, 4, 6));
    let bans = some(&SETS, 1, 4).pop();
    Listener { mode: random.one(&[Mode::Protect, Mode::Protect, Mode::Watch, Mode::Off]), wants, sets, rates, bans }
}

fn rate(random: &mut Random) -> Rate {
    let of = random.one(&[RateOf::Syns, RateOf::Packets, RateOf::Bytes]);
    let more = if of == RateOf::Bytes { 100 } else { 1 };
    let spares_returning = random.rarely(3);
    let mut length = |of: &[u8]| if spares_returning { 0 } else { random.one(of) };
    let (length_v4, length_v6) = (length(&[32, 24, 0]), length(&[128, 64, 56, 33, 0]));
    Rate {
        of,
        length_v4,
        length_v6,
        per_second: u64::from(1 + random.below(50)) * more,
        burst: u64::from(1 + random.below(50)) * more,
        spares_returning,
    }
}

fn rule(random: &mut Random, now: u64) -> Rule {
    let mut rule = Rule {
        action: random.one(&[Action::Drop, Action::Drop, Action::Pass, Action::Watch]),
        tag: 20 + random.below(20) as u16,
        ..Rule::default()
    };
    for _ in 0..1 + random.below(3) {
        let is_ipv6 = random.below(2) == 1;
        let port = 1000 + random.below(4) as u16;
        match random.below(16) {
            0 => rule.expires_ns = Some(now + u64::from(random.below(1_000_000_000))),
            1 if rule.source.is_none() && rule.destination.is_none() => rule.is_ipv6 = Some(is_ipv6),
            2 => rule.protocol = Some(random.one(&[6, 17, 1, 58, 47])),
            3 if rule.is_ipv6.is_none() && rule.destination.is_none() => rule.source = Some(prefix(random)),
            4 if rule.is_ipv6.is_none() && rule.source.is_none() => {
                rule.destination = Some(Prefix::host(if is_ipv6 { EDGE6 } else { EDGE }.parse().unwrap()));
            }
            5 => rule.source_ports = Some(40_000..=40_000 + random.below(20) as u16),
            6 => rule.destination_ports = Some(port..=port + random.below(2) as u16),
            7 => rule.length = Some(random.below(60) as u16..=60 + random.below(200) as u16),
            8 => rule.hops = Some(random.one(&[0..=63, 64..=64, 65..=255])),
            9 => {
                let mask = random.next() as u8 & 0x3f;
                rule.flags = Some((mask, random.one(&[SYN, ACK, SYN | ACK, random.0 as u8]) & mask));
            }
            10 => rule.window = Some(random.one(&[0..=0, 1024..=1024, 1000..=65_535])),
            11 => rule.mss = Some(random.one(&[0..=0, 1460..=1460, 536..=1400])),
            12 => rule.fingerprint = Some(fingerprint(&forge::tcp_options(random))),
            13 => rule.has_zero_id = true,
            14 => rule.is_fragment = true,
            _ => {
                let bytes = 1 + random.below(16) as usize;
                let mask = (0..bytes).map(|_| random.one(&[0, 1, 0x80])).collect();
                rule.payload = Some(Pattern { at: random.below(24) as u16, bytes: random.bytes(bytes), mask });
            }
        }
    }
    rule
}

/// As random packets have them.
fn session_ends(random: &mut Random) -> (SocketAddr, SocketAddr) {
    let is_ipv4 = random.below(2) == 0;
    let from = SocketAddr::new(address(random, is_ipv4), random.one(&[40_000, 40_001, 53]));
    (from, at(if is_ipv4 { EDGE } else { EDGE6 }, random.one(&[1000, 1001, 1500, 1600])))
}

struct Trial {
    guard: Guard,
    told: Sessions,
    twin: Twin<World>,
    samples: Samples,
    random: Random,
    now: u64,
}

impl Trial {
    fn new(place: &Namespace, seed: u64) -> Option<Trial> {
        let guard = support::guard(Guard::open(&Options::default()))?;
        let cookies = CookieConditions { are_timestamps_plain: seed.is_multiple_of(2), ..CookieConditions::default() };
        let settings = Settings {
            protocols: vec![47, 132],
            sample_every: 1,
            samples_per_second: u32::MAX,
            cookies,
            clock_ns: Some(1),
        };
        let mut twin = Twin::new(World::new(place), settings);
        let table = |ranges: &[(std::ops::RangeInclusive<u16>, u16)]| {
            let mut table = PortTable::default();
            ranges.iter().for_each(|(ports, index)| table.set(ports.clone(), *index));
            table
        };
        let tcp_ports = [(1000..=1001, 1), (1002..=1002, 2)];
        let any: [IpAddr; 2] = ["0.0.0.0".parse().unwrap(), "::".parse().unwrap()];
        for (edge, any, rest) in [(EDGE, any[0], 6), (EDGE6, any[1], 7)] {
            let edge: IpAddr = edge.parse().unwrap();
            for (is_tcp, address, ranges) in
                [(true, edge, &tcp_ports[..]), (false, edge, &[(1000..=1001, 3)]), (true, any, &[(1003..=1003, 4)])]
            {
                let spot = if is_tcp { Spot::tcp(address) } else { Spot::udp(address) };
                guard.set_ports(spot, &table(ranges)).unwrap();
                twin.ports.insert((if is_tcp { 6 } else { 17 }, address), table(ranges));
            }
            guard.set_address(edge, Some(rest)).unwrap();
            twin.addresses.insert(edge, rest);
        }
        for slot in SETS {
            guard.swap_prefixes(slot, PrefixSet::default()).unwrap();
            twin.sets.insert(slot, PrefixSet::default());
        }
        let samples = guard.samples().unwrap();
        let told = guard.sessions().unwrap();
        let mut trial = Trial { guard, told, twin, samples, random: Random(seed), now: 1_000_000_000_000 };
        trial.pass_time(0);
        for _ in 0..200 {
            trial.change();
        }
        Some(trial)
    }

    fn pass_time(&mut self, ns: u64) {
        self.now += ns;
        let settings = Settings { clock_ns: Some(self.now), ..self.twin.settings.clone() };
        self.guard.set_settings(&settings).unwrap();
    }

    /// Something that an operator, or time, does.
    fn change(&mut self) {
        let random = &mut self.random;
        match random.below(20) {
            0..=9 => {
                let (slot, prefix) = (random.one(&SETS), prefix(random));
                let entry = (random.below(3) > 0).then(|| entry(random, self.now));
                self.guard.change_prefix(slot, prefix, entry).unwrap();
                let set = self.twin.sets.get_mut(&slot).unwrap();
                match entry {
                    Some(entry) => set.insert(prefix, entry),
                    None => set.remove(prefix),
                };
            }
            10 => {
                let slot = random.one(&SETS);
                let count = random.one(&[0, 3, 30, 300]);
                let set: PrefixSet = (0..count).map(|_| (prefix(random), entry(random, self.now))).collect();
                self.guard.swap_prefixes(slot, set.clone()).unwrap();
                self.twin.sets.insert(slot, set);
            }
            11 | 12 => {
                let rules: RuleSet = LISTENERS
                    .into_iter()
                    .filter_map(|index| {
                        let count = random.one(&[0, 1, 3, 12]);
                        (count > 0).then(|| (index, (0..count).map(|_| rule(random, self.now)).collect()))
                    })
                    .collect();
                self.guard.swap_rules(&rules).unwrap();
                self.twin.rules = rules;
            }
            13 | 14 => {
                let (index, listener) = (random.one(&LISTENERS), listener(random));
                self.guard.set_listener(index, &listener).unwrap();
                self.twin.listeners.insert(index, listener);
            }
            15 if self.twin.rates.len() < RATES.len() => {
                let (index, rate) = (RATES[self.twin.rates.len()], rate(random));
                self.guard.set_rate(index, Some(&rate)).unwrap();
                self.twin.rates.insert(index, rate);
            }
            16 | 17 => {
                let ends = session_ends(random);
                let sessions = &mut self.twin.surroundings.sessions;
                sessions.retain(|known| *known != ends);
                if random.below(3) > 0 {
                    self.told.add(ends.0, ends.1, 7).unwrap();
                    sessions.push(ends);
                } else {
                    self.told.remove(ends.0, ends.1).unwrap();
                }
            }
            _ => {
                let ns = u64::from(random.one(&[1u32, 1000, 10_000_000, 50_000_000, 1_100_000_000]));
                self.pass_time(ns);
            }
        }
    }

    fn packet(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let is_ipv4 = random.below(2) == 0;
        let (client, edge) = if is_ipv4 { (CLIENT, EDGE) } else { (CLIENT6, EDGE6) };
        let to_port = random.one(&[998, 1000, 1000, 1001, 1001, 1002, 1003, 1004, 1500, 1501, 22]);
        let from_port = random.one(&[40_000, 40_001, 40_002, 40_003, 53, 0]);
        let from = match random.below(3) {
            0 => client.parse().unwrap(),
            _ => address(random, is_ipv4),
        };
        let to: IpAddr = if random.rarely(12) { UNGUARDED[usize::from(!is_ipv4)] } else { edge }.parse().unwrap();
        let (from, to) = (SocketAddr::new(from, from_port), SocketAddr::new(to, to_port));
        let cookies = &self.twin.surroundings.cookies;
        if random.rarely(10) && !cookies.is_empty() {
            let of = random.below(cookies.len() as u32) as usize;
            let (ends, (sequence, acknowledged)) = cookies.iter().nth(of).map(|(ends, words)| (*ends, *words)).unwrap();
            let wrong = random.one(&[0, 0, 4, 1 << 24]); // up to 3 more is another MSS, and as right
            return tcp(ends.0, ends.1, &Tcp::new(ACK, sequence, acknowledged.wrapping_add(wrong), b""));
        }
        let sessions = &self.twin.surroundings.sessions;
        if random.rarely(10) && !sessions.is_empty() {
            let (from, to) = sessions[random.below(sessions.len() as u32) as usize];
            return forge::any(random, from, to);
        }
        forge::any(random, from, to)
    }

    /// A SYN was answered: is that what it should be? Then its cookie will be taken.
    fn learn(&mut self, syn: &[u8], answer: &[u8]) {
        let tags = (0..2).take_while(|tag| [0x81, 0x88].contains(&syn[12 + tag * 4])).count();
        let bare = |frame: &[u8]| [&frame[..12], &frame[12 + tags * 4..]].concat();
        assert_eq!(
            (&answer[..6], &answer[6..12], &answer[12..12 + tags * 4]),
            (&syn[6..12], &syn[..6], &syn[12..12 + tags * 4])
        );
        let seen = causeway_bpf::guard::twin::Seen::read(syn).unwrap();
        let answer = bare(answer);
        assert!(is_intact(&answer), "{answer:02x?}");
        let (from, to) =
            (SocketAddr::new(seen.source, seen.source_port), SocketAddr::new(seen.destination, seen.destination_port));
        assert_eq!(ends(&answer), (to, from));
        let words = tcp_of(&answer);
        assert_eq!((words.flags, words.ack), (SYN | ACK, seen.sequence.wrapping_add(1)));
        assert_eq!(words.options[..2], [2, 4]);
        self.twin.surroundings.cookies.insert((from, to), (words.ack, words.seq.wrapping_add(1)));
    }

    fn compare(&mut self, n: usize) -> Option<Verdict> {
        let frame = self.packet();
        let (answer, became) = self.guard.ask(&frame).unwrap();
        let judgement = self.twin.take(&frame, self.now);
        let sample = self.samples.next();
        let what = || format!("packet {n}, {frame:02x?}");
        assert_eq!(
            sample.as_ref().map(|it| (it.listener, it.verdict, it.tag, it.mode, it.is_two_way)),
            judgement.map(|it| (it.listener, it.verdict, it.tag, it.mode, it.is_two_way)),
            "{}: {judgement:?}",
            what()
        );
        let expected = match judgement {
            Some(judged) if judged.is_dropped() => Answer::Dropped,
            Some(judged) if judged.is_answered() => Answer::Replied,
            _ => Answer::Passed,
        };
        assert_eq!(answer, expected, "{}", what());
        if let Some(sample) = sample {
            assert_eq!((sample.length as usize, sample.at_ns), (frame.len(), self.now));
            assert_eq!(sample.frame, frame[..frame.len().min(128)]);
        }
        match answer {
            Answer::Replied => self.learn(&frame, &became),
            _ => assert_eq!(became, frame, "{}", what()),
        }
        judgement.map(|judged| judged.verdict)
    }

    fn compare_counts(&self, n: usize) {
        for index in LISTENERS {
            assert_eq!(self.guard.counts(index).unwrap(), self.twin.counts(index), "listener {index}, packet {n}");
        }
        for tag in 1..TAGS {
            assert_eq!(self.guard.hits(tag).unwrap(), self.twin.hits(tag), "tag {tag}, packet {n}");
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |word| word.parse().expect("a number"))
}

#[test]
fn random_packets_get_the_verdicts_that_the_model_gives() {
    let packets = number("CAUSEWAY_GUARD_PACKETS", 30_000) as usize;
    let seed = number("CAUSEWAY_GUARD_SEED", 1);
    let Some(place) = Namespace::new() else { return };
    place.enter();
    let mut verdicts: HashMap<Option<Verdict>, usize> = HashMap::new();
    for part in 0..2 {
        let Some(mut trial) = Namespace::new().and_then(|place| {
            place.enter();
            Trial::new(&place, seed * 2 + part)
        }) else {
            return;
        };
        for n in 0..packets / 2 {
            if trial.random.rarely(40) {
                trial.change();
            }
            *verdicts.entry(trial.compare(n)).or_default() += 1;
            if n % 1000 == 999 {
                trial.compare_counts(n);
            }
        }
        trial.compare_counts(packets);
    }
    // Each verdict was given; a SYN to which no answer can be made is not among random packets.
    for verdict in Verdict::ALL.into_iter().filter(|verdict| *verdict != Verdict::CookieFailed) {
        assert!(verdicts.contains_key(&Some(verdict)), "{verdict:?} never came: {verdicts:?}");
    }
    eprintln!("{packets} packets, 0 differences; {verdicts:?}");
}
