//! A packet as it is seen: Ethernet, up to two VLAN tags, IPv4 with options or IPv6 with up to eight extension headers,
//! then TCP, UDP or ICMP.

use std::net::IpAddr;

use super::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragment {
    #[default]
    Not,
    First,
    Later,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub hops: u8,
    /// From the IP header on.
    pub length: u16,
    /// IPv4: the identification.
    pub id: u16,
    pub fragment: Fragment,
    pub fragment_id: u32,
    pub source_port: u16,
    pub destination_port: u16,
    pub flags: u8,
    pub window: u16,
    pub sequence: u32,
    pub acknowledged: u32,
    pub icmp_type: u8,
    /// Where in the frame the options of TCP are,
    pub options: std::ops::Range<usize>,
    /// and what is behind the TCP or UDP header; empty if there is none.
    pub payload: std::ops::Range<usize>,
    /// It contradicts itself.
    pub is_malformed: bool,
    /// TCP that nobody sends.
    pub is_illegal: bool,
}

const EXTENSIONS: [u8; 5] = [0, 43, 44, 51, 60];
const MOST_EXTENSIONS: usize = 8;

fn two(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

struct Broken;

impl Seen {
    /// `None`: not an IP packet.
    pub fn read(frame: &[u8]) -> Option<Seen> {
        if frame.len() < 14 {
            return None;
        }
        let (mut kind, mut at) = (two(frame, 12), 14);
        for _ in 0..2 {
            if [0x8100, 0x88a8].contains(&kind) {
                kind = two(frame.get(at..at + 4)?, 2);
                at += 4;
            }
        }
        match kind {
            0x0800 => Seen::read_v4(frame, at),
            0x86dd => Seen::read_v6(frame, at),
            _ => None,
        }
    }

    fn new(source: IpAddr, destination: IpAddr, protocol: u8, hops: u8) -> Seen {
        Seen {
            source,
            destination,
            protocol,
            hops,
            length: 0,
            id: 0,
            fragment: Fragment::Not,
            fragment_id: 0,
            source_port: 0,
            destination_port: 0,
            flags: 0,
            window: 0,
            sequence: 0,
            acknowledged: 0,
            icmp_type: 0,
            options: 0..0,
            payload: 0..0,
            is_malformed: false,
            is_illegal: false,
        }
    }

    fn broken_if(mut self, result: Result<(), Broken>) -> Option<Seen> {
        self.is_malformed = result.is_err();
        Some(self)
    }

    fn read_v4(frame: &[u8], at: usize) -> Option<Seen> {
        let ip = frame.get(at..).filter(|ip| ip.len() >= 20)?;
        let address = |at: usize| IpAddr::from([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
        let mut seen = Seen::new(address(12), address(16), ip[9], ip[8]);
        seen.id = two(ip, 4);
        let result = seen.rest_of_v4(frame, at, ip);
        seen.broken_if(result)
    }

    fn rest_of_v4(&mut self, frame: &[u8], at: usize, ip: &[u8]) -> Result<(), Broken> {
        let length = stated(two(ip, 2), 0, ip.len())?;
        let header = usize::from(ip[0] & 15) * 4;
        self.length = length.min(65_535) as u16;
        if ip[0] >> 4 != 4 || header < 20 || length < header || ip[12] >= 224 {
            return Err(Broken);
        }
        let field = two(ip, 6);
        let (offset, has_more, rest) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0, length - header);
        if offset != 0 || has_more {
            self.fragment = if offset == 0 { Fragment::First } else { Fragment::Later };
            self.fragment_id = self.id.into();
            self.piece(offset, has_more, rest, self.protocol)?;
        }
        self.transport(frame, at + header, rest)
    }

    fn piece(&self, offset: usize, has_more: bool, rest: usize, protocol: u8) -> Result<(), Broken> {
        // A second fragment that begins behind ports would rewrite TCP's flags.
        let rewrites = offset == 8 && protocol == IPPROTO_TCP;
        if offset + rest > 65_535 || rest == 0 || (has_more && !rest.is_multiple_of(8)) || rewrites {
            return Err(Broken);
        }
        Ok(())
    }

    fn read_v6(frame: &[u8], at: usize) -> Option<Seen> {
        let ip = frame.get(at..).filter(|ip| ip.len() >= 40)?;
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).expect("sixteen"));
        let mut seen = Seen::new(address(8), address(24), ip[6], ip[7]);
        let result = seen.rest_of_v6(frame, at, ip);
        seen.broken_if(result)
    }

    fn rest_of_v6(&mut self, frame: &[u8], mut at: usize, ip: &[u8]) -> Result<(), Broken> {
        let length = stated(two(ip, 4), 40, ip.len())?;
        self.length = length.min(65_535) as u16;
        if ip[0] >> 4 != 6 || length < 40 || ip[8] == 0xff {
            return Err(Broken);
        }
        let mut rest = length - 40;
        let mut was_fragmented = false;
        at += 40;
        for number in 0..=MOST_EXTENSIONS {
            let kind = self.protocol;
            if !EXTENSIONS.contains(&kind) {
                return self.transport(frame, at, rest);
            }
            if number == MOST_EXTENSIONS || rest < 8 || (kind == 0 && number > 0) {
                return Err(Broken);
            }
            let header = &frame[at..at + 8];
            let size = match kind {
                44 => 8,
                51 => (usize::from(header[1]) + 2) * 4,
                _ => (usize::from(header[1]) + 1) * 8,
            };
            if size > rest || (kind == 43 && header[2] == 0) {
                return Err(Broken);
            }
            self.protocol = header[0];
            (at, rest) = (at + size, rest - size);
            if kind == 44 {
                if was_fragmented {
                    return Err(Broken);
                }
                was_fragmented = true;
                let (field, offset) = (two(header, 2), usize::from(two(header, 2) & 0xfff8));
                if field & 0xfff9 != 0 {
                    self.fragment = if offset == 0 { Fragment::First } else { Fragment::Later };
                    self.fragment_id = four(header, 4);
                    self.piece(offset, field & 1 != 0, rest, header[0])?;
                }
                if self.fragment == Fragment::Later {
                    return Ok(());
                }
            }
        }
        Err(Broken)
    }

    fn transport(&mut self, frame: &[u8], at: usize, rest: usize) -> Result<(), Broken> {
        if self.fragment == Fragment::Later {
            return Ok(());
        }
        let l4 = &frame[at..at + rest];
        let need = |bytes: usize| if l4.len() < bytes { Err(Broken) } else { Ok(()) };
        match (self.protocol, self.source.is_ipv4()) {
            (IPPROTO_TCP, _) => {
                need(20)?;
                (self.source_port, self.destination_port) = (two(l4, 0), two(l4, 2));
                (self.sequence, self.acknowledged) = (four(l4, 4), four(l4, 8));
                (self.flags, self.window) = (l4[13], two(l4, 14));
                let header = usize::from(l4[12] >> 4) * 4;
                if header < 20 || header > rest {
                    return Err(Broken);
                }
                self.options = at + 20..at + header;
                self.payload = at + header..at + rest;
                self.is_illegal = !is_legal(self.flags) || self.source_port == 0;
            }
            (IPPROTO_UDP, _) => {
                need(8)?;
                (self.source_port, self.destination_port) = (two(l4, 0), two(l4, 2));
                let length = usize::from(two(l4, 4));
                if length < 8 || (length > rest && self.fragment == Fragment::Not) {
                    return Err(Broken);
                }
                self.payload = at + 8..at + rest;
            }
            (IPPROTO_ICMP, true) | (IPPROTO_ICMPV6, false) => {
                need(8)?;
                self.icmp_type = l4[0];
            }
            _ => {}
        }
        Ok(())
    }
}

/// The length that a header states, with its own `more` bytes; 0 stands for all that is there, if that is too much to be
/// stated.
fn stated(field: u16, more: usize, there: usize) -> Result<usize, Broken> {
    match usize::from(field) + more {
        _ if field == 0 && there > 65_535 => Ok(there),
        length if length <= there => Ok(length),
        _ => Err(Broken),
    }
}

fn is_legal(flags: u8) -> bool {
    let has = |bit: u8| flags & bit != 0;
    let (fin, syn, rst, ack, urg) = (has(1), has(2), has(4), has(16), has(32));
    match (syn, rst, fin) {
        (true, false, false) => !(ack && urg),
        (false, true, false) => !urg,
        (false, false, _) => ack,
        _ => false,
    }
}
