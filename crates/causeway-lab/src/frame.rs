//! Ethernet frames as nodes send them: whom they are for, and the answers that the WAN itself gives.
//!
//! The WAN is one segment on which every address is a neighbour: it answers ARP and neighbour solicitations for the
//! nodes, so a node can name a next hop as on any network, and nothing else that is meant for all goes through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::direction::ETHERNET;

/// Where answers of the WAN come from.
const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const ROUTER_MAC: Mac = Mac([0x02, 0xca, 0x5e, 0, 0, 0]);

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const QUOTE_V4: usize = 548; // with its headers within 576 bytes
const QUOTE_V6: usize = 1232; // within 1280

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub fn parse(text: &str) -> Option<Mac> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        (parts.next().is_none() && mac[0] & 1 == 0).then_some(Mac(mac))
    }
}

/// What a frame is to the WAN.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Who has this address?
    Asks(IpAddr),
    Carries {
        to: Mac,
        destination: IpAddr,
    },
    /// For all of a network, or of a protocol that is not IP.
    Local,
    Malformed,
}

pub fn read(frame: &[u8]) -> Read {
    let Some((ethernet, packet)) = frame.split_at_checked(ETHERNET) else { return Read::Malformed };
    match (number(ethernet, 12), packet) {
        (ARP, [0, 1, 8, 0, 6, 4, 0, 1, rest @ ..]) if rest.len() >= 20 => Read::Asks(address_v4(rest, 16).into()),
        (ARP, [0, 1, 8, 0, 6, 4, _, _, rest @ ..]) if rest.len() >= 20 => Read::Local,
        (IPV4, [first, ..]) if packet.len() >= 20 && first >> 4 == 4 => {
            carries(ethernet, address_v4(packet, 16).into())
        }
        (IPV6, [first, ..]) if packet.len() >= 40 && first >> 4 == 6 => match packet.get(40) {
            Some(&SOLICITATION) if packet[6] == ICMPV6 && packet.len() >= 64 => {
                Read::Asks(address_v6(packet, 48).into())
            }
            _ => carries(ethernet, address_v6(packet, 24).into()),
        },
        (ARP | IPV4 | IPV6, _) => Read::Malformed,
        _ => Read::Local,
    }
}

fn carries(ethernet: &[u8], destination: IpAddr) -> Read {
    match *ethernet {
        [first, ..] if first & 1 == 1 => Read::Local,
        [a, b, c, d, e, f, ..] => Read::Carries { to: Mac([a, b, c, d, e, f]), destination },
        _ => Read::Malformed,
    }
}

/// The answer to a frame that `read` found to ask for an address: it is at `mac`.
pub fn answer(question: &[u8], mac: Mac) -> Option<Vec<u8>> {
    match number(question, 12) {
        ARP => Some(answer_arp(question, mac)),
        IPV6 => answer_solicitation(question, mac),
        _ => None,
    }
}

fn answer_arp(question: &[u8], mac: Mac) -> Vec<u8> {
    let mut out = ethernet(&question[6..12], mac, ARP);
    out.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    out.extend(mac.0);
    out.extend(&question[38..42]);
    out.extend(&question[22..32]);
    out
}

fn answer_solicitation(question: &[u8], mac: Mac) -> Option<Vec<u8>> {
    let asker = address_v6(question, ETHERNET + 8);
    if asker.is_unspecified() {
        return None; // it tries whether its own address is free
    }
    let target = address_v6(question, ETHERNET + 48);
    let mut body = vec![ADVERTISEMENT, 0, 0, 0, 0x60, 0, 0, 0]; // solicited, override
    body.extend(target.octets());
    body.extend([2, 1]);
    body.extend(mac.0);
    let mut out = ethernet(&question[6..12], mac, IPV6);
    out.extend(ipv6_with_icmp(target, asker, body));
    Some(out)
}

/// Tell the sender of a packet that it is larger than `mtu`; none for what may be cut into fragments.
pub fn too_big(frame: &[u8], mtu: u64) -> Option<Vec<u8>> {
    let packet = &frame[ETHERNET..];
    let mtu = u16::try_from(mtu).ok()?;
    if number(frame, 12) == IPV6 {
        let sender = address_v6(packet, 8);
        let mut body = vec![2, 0, 0, 0, 0, 0];
        body.extend(mtu.to_be_bytes());
        body.extend(&packet[..packet.len().min(QUOTE_V6)]);
        let mut out = ethernet(&frame[6..12], ROUTER_MAC, IPV6);
        out.extend(ipv6_with_icmp(ROUTER_V6, sender, body));
        return Some(out);
    }
    if packet[6] & 0x40 == 0 {
        return None;
    }
    let mut body = vec![3, 4, 0, 0, 0, 0];
    body.extend(mtu.to_be_bytes());
    body.extend(&packet[..packet.len().min(QUOTE_V4)]);
    let sum = fold(sum(&body));
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut header = vec![0x45, 0];
    header.extend((20 + body.len() as u16).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, ICMP, 0, 0]);
    header.extend(ROUTER_V4.octets());
    header.extend(&packet[12..16]);
    let check = fold(self::sum(&header));
    header[10..12].copy_from_slice(&check.to_be_bytes());
    let mut out = ethernet(&frame[6..12], ROUTER_MAC, IPV4);
    out.extend(header);
    out.extend(body);
    Some(out)
}

fn ethernet(to: &[u8], from: Mac, protocol: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.extend(to);
    out.extend(from.0);
    out.extend(protocol.to_be_bytes());
    out
}

fn ipv6_with_icmp(from: Ipv6Addr, to: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let pseudo = sum(&from.octets()) + sum(&to.octets()) + body.len() as u32 + u32::from(ICMPV6);
    let check = fold(pseudo + sum(&body));
    body[2..4].copy_from_slice(&check.to_be_bytes());
    let mut out = vec![0x60, 0, 0, 0];
    out.extend((body.len() as u16).to_be_bytes());
    out.extend([ICMPV6, 255]);
    out.extend(from.octets());
    out.extend(to.octets());
    out.extend(body);
    out
}

fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    pairs.sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address_v4(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

fn address_v6(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets)
}
