//! The flow program beside its twin: random packets through `BPF_PROG_TEST_RUN`, every answer, byte and count compared.
//!
//! 400,000 packets; `CAUSEWAY_FLOW_PACKETS=1000000` for the long form, `CAUSEWAY_FLOW_SEED` to repeat one.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;

use causeway_bpf::flow::{Answer, Flow, FlowKey, HeaderKind, Options};
use support::model::{Model, Segment, text_of};
use support::packet::{ACK, FIN, PSH, RST, SYN, Tcp, ends, frame, set_hops, tcp, udp, words};
use support::*;

const MACS: [[[u8; 6]; 2]; 2] = [[[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]], [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 1, 2]]];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) ^ (self.0 >> 13)) as u32
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize]
    }

    /// Mostly `number`, else near it, else anywhere.
    fn about(&mut self, number: u32) -> u32 {
        match self.below(20) {
            0 => number.wrapping_sub(1),
            1 => number.wrapping_add(1),
            2 => number.wrapping_sub(self.below(2000)),
            3 => number.wrapping_add(self.below(2000)),
            4 if self.below(4) == 0 => self.next(),
            _ => number,
        }
    }
}

fn bytes(segment: &Segment, options: &[u8]) -> Vec<u8> {
    let FlowKey { from, to, is_tcp } = segment.key;
    let mut frame = if is_tcp {
        let words = Tcp::new(segment.flags, segment.seq, segment.ack, &segment.payload).with_options(options);
        tcp(from, to, &words)
    } else {
        udp(from, to, &segment.payload)
    };
    set_hops(&mut frame, segment.hops);
    frame
}

/// Of the side (0: the client's) that a frame leaves for.
fn with_macs(mut frame: Vec<u8>, side: usize) -> Vec<u8> {
    frame[..6].copy_from_slice(&MACS[side][0]);
    frame[6..12].copy_from_slice(&MACS[side][1]);
    frame
}

fn client(random: &mut Random, model: &Model) -> FlowKey {
    let port = 40_000 + random.below(12) as u16;
    let edge = 1000 + random.below(3) as u16; // the last one is not carried
    let is_tcp = random.below(3) > 0;
    let to = random.one(&model.edges);
    let from = if to.is_ipv4() { CLIENT } else { CLIENT6 };
    FlowKey { from: at(from, port), to: SocketAddr::new(to, edge), is_tcp }
}

/// Any packet of any side of any flow, or of none.
fn segment(random: &mut Random, model: &Model) -> Segment {
    let client = client(random, model);
    let (mut key, mut seq, mut ack) = (client, random.next(), random.next());
    if model.is_torn(&client) {
        return Segment { key, hops: 64, flags: SYN, seq, ack, payload: Vec::new() };
    }
    if let Some((origin, client_next, origin_next, more)) = model.origin_key(&client) {
        if random.below(2) == 0 {
            (key, seq, ack) = (origin, origin_next, client_next.wrapping_add(more));
        } else {
            (seq, ack) = (client_next, origin_next);
        }
        (seq, ack) = (random.about(seq), random.about(ack));
    }
    let flags = match random.below(24) {
        0..=3 => SYN,
        4..=6 => SYN | ACK,
        7..=12 => ACK,
        13..=17 => PSH | ACK,
        18..=19 => FIN | ACK,
        20 => random.one(&[RST, RST | ACK]),
        21 => FIN,
        22 => random.next() as u8 & 0x3f,
        _ => 0,
    };
    let (seq, flags) = if flags & SYN != 0 && random.below(2) == 0 { (random.next(), flags) } else { (seq, flags) };
    let length = if random.below(3) > 0 { 0 } else { random.below(600) as usize };
    let mut payload =
        noise(u64::from(random.next()), if key.is_tcp && flags & SYN != 0 { length / 100 } else { length });
    if !key.is_tcp && key != client && model.header[1] == HeaderKind::Simple && random.below(8) > 0 {
        let named = if random.below(8) > 0 { client } else { FlowKey { to: client.from, ..client } };
        payload.splice(..0, text_of(HeaderKind::Simple, named));
    }
    let hops = if random.below(50) == 0 { random.below(3) as u8 } else { 2 + random.below(254) as u8 };
    Segment { key, hops, flags, seq, ack, payload }
}

/// Break a frame so that nobody may carry it.
fn broken(random: &mut Random, mut frame: Vec<u8>, is_tcp: bool) -> Vec<u8> {
    let is_v4 = frame[12] == 8;
    let l4 = if is_v4 { 34 } else { 54 };
    match random.below(5) {
        0 => frame.truncate(l4 + random.below((frame.len() - l4) as u32) as usize), // the kernel tries no shorter ones
        1 if is_v4 => frame[14] = 0x40 | random.one(&[0, 1, 4, 6, 15]),
        2 if is_v4 => frame[16..18].copy_from_slice(&(random.below(28) as u16).to_be_bytes()),
        3 if is_tcp => frame[l4 + 12] = random.one(&[0x00, 0x10, 0x40]),
        3 => frame[l4 + 4..l4 + 6].copy_from_slice(&(random.below(8) as u16).to_be_bytes()),
        _ => {
            let at = if is_v4 { 16 } else { 18 };
            let more = (frame.len() as u32 + 1 + random.below(1000)) as u16;
            frame[at..at + 2].copy_from_slice(&more.to_be_bytes());
        }
    }
    frame
}

/// An error about what the edge has sent to the origin, as a router would send it, and as the client has to get it.
fn error(random: &mut Random, client: FlowKey, origin_key: FlowKey, more: u32, header: u32) -> (Vec<u8>, Vec<u8>) {
    let is_v4 = client.from.is_ipv4();
    let (kind, code, protocol) = match is_v4 {
        true => (random.one(&[3u8, 11, 12]), random.below(5) as u8, 1),
        false => (random.one(&[1u8, 2, 3, 4]), random.below(5) as u8, 58),
    };
    let router = if is_v4 { at("198.18.2.9", 0) } else { at("2001:db8:2::9", 0) };
    let (value, seq) = (random.next(), random.next());
    // The MTU, if it is told.
    let fits = match is_v4 {
        true if (kind, code) == (3, 4) && value & 0xffff > header => value - header,
        false if kind == 2 && value >= 1280 + header => value - header,
        _ => value,
    };
    let about = |from: SocketAddr, to: SocketAddr, seq: u32| {
        let whole = if client.is_tcp { tcp(from, to, &Tcp::new(ACK, seq, 7, b"")) } else { udp(from, to, b"words") };
        // As much as old routers quote: without TCP's checksum, with UDP's.
        whole[14..if is_v4 { 42 } else { 62 }].to_vec()
    };
    let message = |from: SocketAddr, to: SocketAddr, value: u32, quoted: Vec<u8>| {
        let mut icmp = [&[kind, code, 0, 0][..], &value.to_be_bytes(), &quoted].concat();
        let sum = if is_v4 {
            !support::packet::fold(words(&icmp))
        } else {
            support::packet::checksum_over(from.ip(), to.ip(), protocol, &icmp)
        };
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        frame(from.ip(), to.ip(), protocol, &icmp)
    };
    let came = message(router, origin_key.to, value, about(origin_key.to, origin_key.from, seq.wrapping_add(more)));
    let mut goes = message(client.to, client.from, fits, about(client.from, client.to, seq));
    set_hops(&mut goes, 63);
    (came, with_macs(goes, 0))
}

/// A sum may be written as 0 or as 0xffff. Where: checksums of the network header and of what is in it.
fn normal(mut frame: Vec<u8>, is_tcp: bool) -> Vec<u8> {
    let l4 = if frame[12] == 8 { 34 } else { 54 };
    for at in [24, l4 + if is_tcp { 16 } else { 6 }, l4 + 2] {
        let is_sum = (at != 24 || frame[12] == 8)
            && (at != l4 + 2 || [frame[23], frame[20]].iter().any(|p| [1, 58].contains(p)));
        if is_sum && frame.len() > at + 1 && frame[at..at + 2] == [0xff, 0xff] {
            frame[at..at + 2].fill(0);
        }
    }
    frame
}

fn compare(world: &World, model: &mut Model, random: &mut Random, packets: usize) -> [usize; 3] {
    let mut answers = [0; 3];
    let mut events = world.path.events().unwrap();
    for n in 0..packets {
        assert!(events.by_ref().count() < 4, "the ring has room for all ends, so that none is left to the sweep");
        let packet = segment(random, model);
        let stamp: Vec<u8> = [&[1, 1, 8, 10][..], &random.next().to_be_bytes(), &[0; 4]].concat();
        let options = if random.below(2) == 0 { &[][..] } else { &stamp };
        let mut sent = bytes(&packet, options);
        let key = packet.key;
        if random.below(25) == 0 {
            let sent = broken(random, sent, key.is_tcp);
            let (answer, became) = world.path.ask(&sent).unwrap();
            assert_eq!((answer, &became), (Answer::Passed, &sent), "packet {n}: {sent:02x?}");
            continue;
        }
        let client = client(random, model);
        if random.below(25) == 0
            && !model.is_torn(&client)
            && let Some((origin, _, _, more)) = model.origin_key(&client)
        {
            let (sent, expected) = error(random, client, origin, more, model.header_before(&client));
            let (answer, became) = world.path.ask(&sent).unwrap();
            assert_eq!(answer, Answer::Sent, "packet {n}: {client:?} {sent:02x?}");
            assert_eq!(normal(became, false), normal(expected, false), "packet {n}: {client:?} {sent:02x?}");
            let is_v4 = client.from.is_ipv4();
            if sent[if is_v4 { 34..36 } else { 54..56 }] == if is_v4 { [3, 3] } else { [1, 4] } {
                model.refuse(&client);
            }
            continue;
        }
        let padding = if random.below(10) == 0 { random.below(20) as usize } else { 0 };
        sent.resize(sent.len() + padding, 0);
        let (answer, became) = world.path.ask(&sent).unwrap();
        let chosen = if answer == Answer::Sent {
            ends(&became)
        } else {
            // Opened, but not sent on: the source is in the table only.
            let flow = seen(world, &key);
            flow.map_or((key.from, key.to), |flow| (flow.source, flow.origin))
        };
        let chosen = FlowKey { from: chosen.0, to: chosen.1, is_tcp: key.is_tcp };
        let (expected, segment) = model.take(&packet, &chosen);
        assert_eq!(answer, expected, "packet {n}: {packet:?}");
        answers[answer as usize] += 1;
        if let Some(segment) = segment {
            let is_to_origin = segment.key.to.port() < 2000 && key.from.port() >= 40_000;
            let mut expected = with_macs(bytes(&segment, options), usize::from(is_to_origin));
            if segment.payload.len() == packet.payload.len() {
                expected.resize(expected.len() + padding, 0);
            }
            assert_eq!(normal(became, key.is_tcp), normal(expected, key.is_tcp), "packet {n}: {packet:?}");
        }
        let key = model.client_of(&key);
        if model.is_torn(&key) {
            continue;
        }
        let flow = seen(world, &key);
        model.agrees(&key, flow.as_ref()).unwrap_or_else(|e| panic!("packet {n}: {packet:?}: {e}"));
    }
    answers
}

/// A flow, be it over or not.
fn seen(world: &World, key: &FlowKey) -> Option<Flow> {
    world.path.flow(key).unwrap().or_else(|| world.path.ended(key).unwrap())
}

#[test]
fn random_packets_become_what_the_model_says_and_count_as_it_says() {
    let number =
        |name: &str, otherwise: u64| std::env::var(name).ok().map_or(otherwise, |word| word.parse().expect("a number"));
    let packets = number("CAUSEWAY_FLOW_PACKETS", 400_000) as usize;
    let seed = number("CAUSEWAY_FLOW_SEED", 1);
    let cases = [
        ([HeaderKind::None, HeaderKind::None], false),
        ([HeaderKind::ProxyV2, HeaderKind::ProxyV2], false),
        ([HeaderKind::ProxyV1, HeaderKind::ProxyV2Every], false),
        ([HeaderKind::ProxyV2, HeaderKind::Simple], false),
        ([HeaderKind::None, HeaderKind::None], true),
    ];
    for (n, (header, is_transparent)) in cases.into_iter().enumerate() {
        let Some(world) = world_with(&Options { source_ports: 2000..=2999, ..options() }) else { return };
        if is_transparent {
            world.carry_transparently()
        } else {
            world.carry(header)
        }
        let mut spots = vec![(EDGE, true, 1), (EDGE6, true, 2), (EDGE, false, 3), (EDGE6, false, 4)];
        if is_transparent {
            // The same origins a second time, where clients get into each other's way.
            spots.extend([(SOURCE, true, 1), (SOURCE6, true, 2), (SOURCE, false, 3), (SOURCE6, false, 4)]);
        }
        for (edge, is_tcp, index) in spots {
            let spot = if is_tcp { causeway_bpf::Spot::tcp } else { causeway_bpf::Spot::udp };
            let mut table = causeway_bpf::flow::PortTable::default();
            table.set(1000..=1001, index);
            world.path.set_ports(spot(edge.parse().unwrap()), &table).unwrap();
        }
        for (side, name, net) in [(0, "c0", 1), (1, "o0", 2)] {
            let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
            world.edge.ip(&format!("link set {name} address {}", mac(MACS[side][1])));
            for ip in [format!("198.18.{net}.2"), format!("2001:db8:{net}::2")] {
                world.edge.ip(&format!("neigh replace {ip} lladdr {} dev {name} nud permanent", mac(MACS[side][0])));
            }
        }
        let edges = vec![EDGE.parse().unwrap(), EDGE6.parse().unwrap()];
        let mut model = Model::new(header, 1000..=1001, edges);
        if is_transparent {
            model.transparent_to = vec![ORIGIN.parse().unwrap(), ORIGIN6.parse().unwrap()];
            model.edges.extend([SOURCE, SOURCE6].map(|edge| edge.parse::<std::net::IpAddr>().unwrap()));
        }
        let answers = world.edge.run(|| {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(n as u64));
            compare(&world, &mut model, &mut random, packets / cases.len())
        });
        assert!(answers.iter().all(|count| *count > packets / 2000), "{answers:?}");
        eprintln!(
            "{header:?}, transparent {is_transparent}: {} packets, 0 differences; passed, dropped, sent: {answers:?}",
            packets / cases.len()
        );
    }
}
