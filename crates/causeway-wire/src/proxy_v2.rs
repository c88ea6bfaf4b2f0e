//! PROXY protocol v2: the binary header, for TCP and UDP.
//!
//! LOCAL and UNSPEC mean "use the socket's own addresses" and their block is skipped unread, as the specification
//! asks; AF_UNIX and an unspecified transport fall back to the same. Families that don't exist are refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::accept::{HeaderError, MAX_HEADER, Parsed};
use crate::endpoints::{Endpoints, Pair};
use crate::tlv::{self, Tlvs};

pub(crate) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;
const IPV4: usize = 12;
const IPV6: usize = 36;
const UNIX: usize = 216;
/// The longest header that [`encode`] writes.
pub const MAX_ENCODED: usize = FIXED + IPV6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Stream,
    Datagram,
}

#[derive(Clone, Copy)]
enum Block {
    Skipped,
    Inet,
    Inet6,
    Unix,
}

impl Block {
    fn addresses_len(self) -> usize {
        match self {
            Self::Skipped => 0,
            Self::Inet => IPV4,
            Self::Inet6 => IPV6,
            Self::Unix => UNIX,
        }
    }
}

/// Write a PROXY header without TLVs; returns its length, 28 or 52.
#[must_use]
pub fn encode(endpoints: &Endpoints, transport: Transport, out: &mut [u8; MAX_ENCODED]) -> usize {
    let transport = match transport {
        Transport::Stream => 0x1,
        Transport::Datagram => 0x2,
    };
    out[..12].copy_from_slice(&SIGNATURE);
    out[12] = 0x21;
    let (family, addresses_len) = match endpoints.pair() {
        Pair::V4(source, destination) => {
            out[16..20].copy_from_slice(&source.octets());
            out[20..24].copy_from_slice(&destination.octets());
            (0x10, IPV4)
        }
        Pair::V6(source, destination) => {
            out[16..32].copy_from_slice(&source.octets());
            out[32..48].copy_from_slice(&destination.octets());
            (0x20, IPV6)
        }
    };
    let end = FIXED + addresses_len;
    out[13] = family | transport;
    out[14..16].copy_from_slice(&[0, addresses_len as u8]);
    out[end - 4..end - 2].copy_from_slice(&endpoints.source.port().to_be_bytes());
    out[end - 2..end].copy_from_slice(&endpoints.destination.port().to_be_bytes());
    end
}

/// The TLVs of a header that [`crate::accept::parse`] has passed; none for LOCAL, UNSPEC and v1.
#[must_use]
pub fn tlvs(header: &[u8]) -> Tlvs<'_> {
    let block = match header.get(12..14) {
        Some(&[0x21, family]) if header.starts_with(&SIGNATURE) => block(family),
        _ => None,
    };
    let list = match block {
        None | Some(Block::Skipped) => None,
        Some(block) => header.get(FIXED + block.addresses_len()..),
    };
    Tlvs::new(list.unwrap_or_default())
}

/// Is it of datagrams, and not of a connection?
pub(crate) fn is_datagram(header: &[u8]) -> bool {
    header.get(13).is_some_and(|family| family & 0xF == 2)
}

fn block(family: u8) -> Option<Block> {
    match (family >> 4, family & 0xF) {
        (0, 0..=2) => Some(Block::Skipped),
        (1, 0..=2) => Some(Block::Inet),
        (2, 0..=2) => Some(Block::Inet6),
        (3, 0..=2) => Some(Block::Unix),
        _ => None,
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let signed = bytes.len().min(SIGNATURE.len());
    if bytes[..signed] != SIGNATURE[..signed] {
        return Err(HeaderError::NotAHeader);
    }
    let Some(&command) = bytes.get(12) else {
        return Ok(Parsed::NeedMore);
    };
    let is_local = match (command >> 4, command & 0xF) {
        (2, 0) => true,
        (2, 1) => false,
        (2, command) => return Err(HeaderError::V2Command(command)),
        (version, _) => return Err(HeaderError::V2Version(version)),
    };
    let Some(&family) = bytes.get(13) else {
        return Ok(Parsed::NeedMore);
    };
    let block = match block(family) {
        _ if is_local => Block::Skipped,
        Some(block) => block,
        None => return Err(HeaderError::V2Family(family)),
    };
    let Some(&high) = bytes.get(14) else {
        return Ok(Parsed::NeedMore);
    };
    // Judged before a byte of the block is waited for.
    let low = bytes.get(15);
    let length = usize::from(u16::from_be_bytes([high, *low.unwrap_or(&0)]));
    if FIXED + length > MAX_HEADER {
        return Err(HeaderError::V2TooLong);
    }
    if low.is_none() {
        return Ok(Parsed::NeedMore);
    }
    let addresses_len = block.addresses_len();
    if length < addresses_len {
        return Err(HeaderError::V2TooShort(length));
    }

    // Nothing behind `end` is looked at: it is the client's payload.
    let end = FIXED + length;
    let seen = &bytes[..bytes.len().min(end)];
    let list_at = FIXED + addresses_len;
    let checksum_at = match block {
        Block::Skipped => None,
        _ => tlv::check(seen.get(list_at..).unwrap_or_default(), end - list_at)
            .map_err(|tlv::Broken| HeaderError::V2Tlv)?
            .map(|at| list_at + at),
    };
    if seen.len() < end {
        return Ok(Parsed::NeedMore);
    }
    let is_intact = |at| seen[at..at + 4] == tlv::crc32c(seen, at).to_be_bytes();
    if !checksum_at.is_none_or(is_intact) {
        return Err(HeaderError::V2Checksum);
    }
    let has_transport = family & 0xF != 0;
    Ok(Parsed::Header { consumed: end, endpoints: endpoints(block, &seen[FIXED..list_at]).filter(|_| has_transport) })
}

fn endpoints(block: Block, addresses: &[u8]) -> Option<Endpoints> {
    let address: fn(&[u8]) -> Option<IpAddr> = match block {
        Block::Skipped | Block::Unix => return None,
        Block::Inet => |octets| Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        Block::Inet6 => |octets| Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
    };
    let (ips, ports) = addresses.split_at_checked(addresses.len().checked_sub(4)?)?;
    let (source, destination) = ips.split_at(ips.len() / 2);
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some(Endpoints::new((address(source)?, port(0)), (address(destination)?, port(2))))
}
