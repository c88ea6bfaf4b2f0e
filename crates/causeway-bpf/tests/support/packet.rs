//! Frames as bytes: made, and read back. Checksums are right unless a test breaks them.
#![allow(dead_code)]

use std::net::{IpAddr, SocketAddr};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

#[derive(Clone, Debug)]
pub struct Tcp {
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Tcp {
    pub fn new(flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Tcp {
        Tcp { flags, seq, ack, options: Vec::new(), payload: payload.to_vec() }
    }

    pub fn with_options(mut self, options: &[u8]) -> Tcp {
        self.options = options.to_vec();
        self
    }
}

pub fn tcp(from: SocketAddr, to: SocketAddr, tcp: &Tcp) -> Vec<u8> {
    let mut l4 = Vec::with_capacity(20 + tcp.options.len() + tcp.payload.len());
    l4.extend(from.port().to_be_bytes());
    l4.extend(to.port().to_be_bytes());
    l4.extend(tcp.seq.to_be_bytes());
    l4.extend(tcp.ack.to_be_bytes());
    l4.extend([((20 + tcp.options.len()) << 2) as u8, tcp.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    l4.extend(&tcp.options);
    l4.extend(&tcp.payload);
    let sum = checksum_over(from.ip(), to.ip(), 6, &l4);
    l4[16..18].copy_from_slice(&sum.to_be_bytes());
    frame(from.ip(), to.ip(), 6, &l4)
}

pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut l4 = Vec::with_capacity(8 + payload.len());
    l4.extend(from.port().to_be_bytes());
    l4.extend(to.port().to_be_bytes());
    l4.extend(((8 + payload.len()) as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    let sum = checksum_over(from.ip(), to.ip(), 17, &l4);
    l4[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    frame(from.ip(), to.ip(), 17, &l4)
}

/// To nobody's MAC, which is lo's.
pub fn frame(from: IpAddr, to: IpAddr, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(network(from, to, protocol, l4.len()));
    frame.extend(l4);
    frame
}

/// The type of the frame and the network header.
fn network(from: IpAddr, to: IpAddr, protocol: u8, bytes: usize) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = vec![0x45, 0];
            ip.extend(((20 + bytes) as u16).to_be_bytes());
            ip.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
            ip.extend(from.octets());
            ip.extend(to.octets());
            let sum = !fold(words(&ip));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            [vec![8, 0], ip].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut ip = vec![0x86, 0xdd, 0x60, 0, 0, 0];
            ip.extend((bytes as u16).to_be_bytes());
            ip.extend([protocol, 64]);
            ip.extend(from.octets());
            ip.extend(to.octets());
            ip
        }
        _ => panic!("two families in one packet"),
    }
}

pub fn checksum_over(from: IpAddr, to: IpAddr, protocol: u8, l4: &[u8]) -> u16 {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let pseudo = [octets(from), octets(to)].concat();
    !fold(words(&pseudo) + words(l4) + u64::from(protocol) + l4.len() as u64)
}

pub fn words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
}

pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Addresses and ports of a frame.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if frame[12] == 8 {
        let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).expect("four"));
        (SocketAddr::new(ip(26), port(34)), SocketAddr::new(ip(30), port(36)))
    } else {
        let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).expect("sixteen"));
        (SocketAddr::new(ip(22), port(54)), SocketAddr::new(ip(38), port(56)))
    }
}

/// Are all lengths and checksums of a TCP or UDP frame right?
pub fn is_intact(frame: &[u8]) -> bool {
    let (from, to) = ends(frame);
    let (l4, protocol, bytes) = if frame[12] == 8 {
        (34, frame[23], usize::from(u16::from_be_bytes([frame[16], frame[17]])) + 14)
    } else {
        (54, frame[20], usize::from(u16::from_be_bytes([frame[18], frame[19]])) + 54)
    };
    let is_network_right = frame[12] != 8 || fold(words(&frame[14..34])) == 0xffff;
    let is_length_right =
        protocol != 17 || usize::from(u16::from_be_bytes([frame[l4 + 4], frame[l4 + 5]])) == frame.len() - l4;
    bytes == frame.len()
        && is_network_right
        && is_length_right
        && checksum_over(from.ip(), to.ip(), protocol, &frame[l4..]) == 0
}

/// TCP of a frame, read back.
pub fn tcp_of(frame: &[u8]) -> Tcp {
    let l4 = &frame[if frame[12] == 8 { 34 } else { 54 }..];
    let number = |at: usize| u32::from_be_bytes([l4[at], l4[at + 1], l4[at + 2], l4[at + 3]]);
    let header = usize::from(l4[12] >> 4) * 4;
    let (options, payload) = (l4[20..header].to_vec(), l4[header..].to_vec());
    Tcp { flags: l4[13], seq: number(4), ack: number(8), options, payload }
}

/// The time to live, or hop limit, of a frame.
pub fn set_hops(frame: &mut [u8], hops: u8) {
    if frame[12] != 8 {
        frame[21] = hops;
        return;
    }
    frame[22] = hops;
    frame[24..26].fill(0);
    let sum = !fold(words(&frame[14..34]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}
