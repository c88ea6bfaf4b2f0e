//! A list of prefixes as a file: one in a line, `#` begins a comment, an address alone is itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ranges::Map;

pub const MOST_PREFIXES: usize = 1_000_000;

/// What a client's address is compared with: the value is the length of the prefix that holds it.
pub type List = Map<u8>;

/// What is in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Facts {
    pub ipv4: usize,
    pub ipv6: usize,
}

/// What a strict reading lets pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lenience {
    pub overlaps: bool,
    pub private: bool,
}

struct Entry {
    first: IpAddr,
    length: u8,
    line: u32,
}

/// # Errors
/// The first thing that is wrong, with its line.
pub fn read(text: &[u8], lenience: Lenience) -> Result<(List, Facts), String> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let line = text[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8 text: send one prefix in a line")
    })?;
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let word = line.split('#').next().unwrap_or_default().trim();
        if word.is_empty() {
            continue;
        }
        if entries.len() == MOST_PREFIXES {
            return Err(format!(
                "line {}: a list holds at most {MOST_PREFIXES} prefixes: join prefixes, or split it into several lists",
                number + 1
            ));
        }
        let (first, length) = prefix(word).map_err(|why| format!("line {}: {why}", number + 1))?;
        if !lenience.private && is_private(first, length) {
            return Err(format!(
                "line {}: {word} is or holds addresses that are not public: leave it out, or say private=allow",
                number + 1
            ));
        }
        entries.push(Entry { first, length, line: number as u32 + 1 });
    }
    if !lenience.overlaps {
        refuse_overlaps(&mut entries)?;
    }
    let ipv4 = entries.iter().filter(|entry| entry.first.is_ipv4()).count();
    let facts = Facts { ipv4, ipv6: entries.len() - ipv4 };
    Ok((Map::new(entries.into_iter().map(|entry| (entry.first, entry.length, entry.length))), facts))
}

/// # Errors
/// Why it is no prefix.
pub fn prefix(word: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || {
        let shown: String = word.chars().take(60).collect();
        format!("{shown:?} is no address or prefix such as 198.51.100.0/24 or 2001:db8::/32")
    };
    let (address, length) = match word.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length: u8 = match length {
        None => most,
        Some(digits) if digits.len() > 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) => return Err(wrong()),
        Some(digits) => digits.parse().ok().filter(|length| *length <= most).ok_or_else(wrong)?,
    };
    if address.to_canonical() != address {
        return Err(format!("{word:?} is IPv4 in IPv6 clothes: write the IPv4 prefix"));
    }
    let first = masked(address, length);
    if first != address {
        return Err(format!("{word:?} has bits set behind the prefix: did you mean {first}/{length}?"));
    }
    Ok((address, length))
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !u32::MAX.checked_shr(length.into()).unwrap_or(0)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::MAX.checked_shr(length.into()).unwrap_or(0)).into(),
    }
}

fn refuse_overlaps(entries: &mut [Entry]) -> Result<(), String> {
    entries.sort_unstable_by_key(|entry| (entry.first, entry.length, entry.line));
    for pair in entries.windows(2) {
        let [outer, inner] = pair else { continue };
        if outer.first.is_ipv4() == inner.first.is_ipv4() && masked(inner.first, outer.length) == outer.first {
            return Err(format!(
                "line {}: {}/{} is within {}/{} of line {}: leave one out, or say overlaps=join",
                inner.line, inner.first, inner.length, outer.first, outer.length, outer.line
            ));
        }
    }
    Ok(())
}

/// Space that no client on the Internet has. (Documentation and benchmark prefixes are not among it.)
const PRIVATE_V4: [(u32, u8); 9] = [
    (0, 8),
    (0x0a00_0000, 8),
    (0x6440_0000, 10),
    (0x7f00_0000, 8),
    (0xa9fe_0000, 16),
    (0xac10_0000, 12),
    (0xc0a8_0000, 16),
    (0xe000_0000, 4),
    (0xf000_0000, 4),
];
const PRIVATE_V6: [(u128, u8); 4] = [(0, 127), (0xfc00 << 112, 7), (0xfe80 << 112, 10), (0xff00 << 112, 8)];

fn is_private(first: IpAddr, length: u8) -> bool {
    match first {
        IpAddr::V4(first) => PRIVATE_V4.iter().any(|(private, bits)| {
            (first.to_bits() ^ private).checked_shr(32 - u32::from(length.min(*bits))).unwrap_or(0) == 0
        }),
        IpAddr::V6(first) => PRIVATE_V6.iter().any(|(private, bits)| {
            (first.to_bits() ^ private).checked_shr(128 - u32::from(length.min(*bits))).unwrap_or(0) == 0
        }),
    }
}
