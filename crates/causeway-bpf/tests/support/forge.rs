//! Random packets, sane and less so: VLAN tags, IP options, extension headers, fragments, TCP options, broken bytes.
#![allow(dead_code)]

use std::net::{IpAddr, SocketAddr};

use super::packet::{ACK, FIN, PSH, RST, SYN, Tcp, fold, frame, tcp, udp, words};

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) ^ (self.0 >> 13)) as u32
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }

    /// Once in so many times.
    pub fn rarely(&mut self, one_in: u32) -> bool {
        self.below(one_in) == 0
    }

    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u32) as usize].clone()
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// What the options of a SYN may look like, rightly or not.
pub fn tcp_options(random: &mut Random) -> Vec<u8> {
    let mut options = Vec::new();
    for _ in 0..random.below(6) {
        match random.below(9) {
            0 | 1 => options.extend([2, 4, 5, random.one(&[180, 0x14])]),
            2 => options.extend([3, 3, random.below(16) as u8]),
            3 => options.extend([4, 2]),
            4 => options.extend([&[8, 10][..], &random.bytes(8)].concat()),
            5 => options.push(1),
            6 => options.extend([254, 4, 1, 2]),
            7 if random.rarely(4) => options.extend([random.next() as u8, random.below(12) as u8]),
            _ => options.extend([1, 1]),
        }
    }
    options.truncate(40);
    while !options.len().is_multiple_of(4) {
        options.push(random.one(&[0, 1]));
    }
    options
}

pub fn flags(random: &mut Random) -> u8 {
    match random.below(20) {
        0..=6 => SYN,
        7..=8 => SYN | ACK,
        9..=11 => ACK,
        12..=14 => PSH | ACK,
        15 => FIN | ACK,
        16 => RST,
        17 => RST | ACK,
        _ => random.next() as u8,
    }
}

/// TCP, UDP, ICMP or something else between two ends, whole.
pub fn whole(random: &mut Random, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let count = random.one(&[0, 0, 1, 8, 20, 100]);
    let payload = random.bytes(count);
    match random.below(20) {
        0..=11 => {
            let (flags, seq, ack) = (flags(random), random.next(), random.next());
            let options = if flags & SYN != 0 || random.rarely(4) { tcp_options(random) } else { Vec::new() };
            let mut frame = tcp(from, to, &Tcp::new(flags, seq, ack, &payload).with_options(&options));
            let at = if to.is_ipv4() { 34 } else { 54 };
            if random.rarely(2) {
                frame[at + 14..at + 16].copy_from_slice(&random.one(&[1024u16, 65_535, 0]).to_be_bytes());
            }
            frame
        }
        12..=16 => udp(from, to, &payload),
        17..=18 => {
            let (protocol, kinds) = if to.is_ipv4() { (1, [0u8, 3, 8, 11]) } else { (58, [128u8, 2, 135, 137]) };
            let message = [&[random.one(&kinds), 0, 0, 0, 0, 0, 0, 0][..], &payload].concat();
            frame(from.ip(), to.ip(), protocol, &message)
        }
        _ => {
            let other = random.next() as u8;
            frame(from.ip(), to.ip(), random.one(&[4, 47, 50, 132, 59, other]), &payload)
        }
    }
}

fn set_length(frame: &mut [u8]) {
    if frame[12] == 8 {
        let length = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
    } else {
        let length = (frame.len() - 54) as u16;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
    }
}

/// Options into an IPv4 header, extension headers behind an IPv6 one.
pub fn with_extras(random: &mut Random, mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12] == 8 {
        let words = 1 + random.below(10) as u8;
        let options = vec![1; usize::from(words) * 4];
        frame.splice(34..34, options);
        frame[14] = 0x45 + words;
    } else {
        for _ in 0..=random.below(9) {
            let kind = random.one(&[0, 43, 60, 60, 60, 51]);
            let units = random.below(3) as u8;
            let bytes = if kind == 51 { (usize::from(units) + 2) * 4 } else { (usize::from(units) + 1) * 8 };
            let mut header = random.bytes(bytes.max(8));
            header[..2].copy_from_slice(&[frame[20], if bytes < 8 { 0 } else { units }]);
            frame.splice(54..54, header);
            frame[20] = kind;
            if kind == 0 {
                break; // only the first may be
            }
        }
    }
    set_length(&mut frame);
    frame
}

/// A piece of a frame (the first, or a later one), as a sender would cut it, or nearly.
pub fn fragment(random: &mut Random, mut frame: Vec<u8>) -> Vec<u8> {
    let is_first = random.below(2) == 0;
    let offset = if is_first { 0u16 } else { 1 + random.below(200) as u16 };
    let has_more = is_first || random.below(2) == 0;
    let id = random.below(6);
    if frame[12] == 8 {
        let payload = frame.len() - 34;
        frame.truncate(34 + if random.rarely(10) { payload } else { payload / 8 * 8 });
        frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&(offset | u16::from(has_more) << 13).to_be_bytes());
    } else {
        let payload = frame.len() - 54;
        frame.truncate(54 + if random.rarely(10) { payload } else { payload / 8 * 8 });
        let field = (offset << 3 | u16::from(has_more)).to_be_bytes();
        let header = [&[frame[20], 0][..], &field, &id.to_be_bytes()].concat();
        frame.splice(54..54, header);
        frame[20] = 44;
    }
    set_length(&mut frame);
    frame
}

pub fn tagged(random: &mut Random, mut frame: Vec<u8>, tags: usize) -> Vec<u8> {
    for _ in 0..tags {
        let tag = [random.one(&[[0x81, 0], [0x88, 0xa8]]), [0, random.below(4) as u8]].concat();
        frame.splice(12..12, tag);
    }
    frame
}

/// Any byte, any length (of 14 and more: the kernel tries no shorter ones).
pub fn broken(random: &mut Random, mut frame: Vec<u8>) -> Vec<u8> {
    match random.below(4) {
        0 => frame.truncate(14 + random.below(frame.len() as u32 - 13) as usize),
        1 => frame.extend(vec![0; random.below(40) as usize]),
        _ => {
            for _ in 0..=random.below(3) {
                let at = 12 + random.below((frame.len() as u32 - 12).min(70)) as usize;
                frame[at] = if random.rarely(2) { random.next() as u8 } else { frame[at] ^ 1 << random.below(8) };
            }
        }
    }
    frame
}

/// Any packet that may come.
pub fn any(random: &mut Random, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut frame = whole(random, from, to);
    let hops = random.one(&[1u8, 64, 128, 255]);
    frame[if to.is_ipv4() { 22 } else { 21 }] = hops;
    if random.rarely(12) {
        frame = with_extras(random, frame);
    } else if random.rarely(8) {
        frame = fragment(random, frame);
    }
    if to.is_ipv4() && random.rarely(3) {
        frame[18..20].fill(0); // no identification
    }
    if random.rarely(10) {
        let tags = 1 + random.below(3) as usize;
        frame = tagged(random, frame, tags);
    }
    if random.rarely(8) {
        frame = broken(random, frame);
    }
    frame
}

/// The sum of a header that is right has no bits but ones.
pub fn is_header_right(header: &[u8]) -> bool {
    fold(words(header)) == 0xffff
}

pub fn is_v4(address: IpAddr) -> bool {
    address.is_ipv4()
}
