//! Who may come in, by prefix: sets of entries, of which the longest that covers an address decides.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::shared::{VALUE_ALLOW, VALUE_BLOCK, VALUE_LENGTH};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    Allow,
    Block,
}

/// What a prefix has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub access: Access,
    /// Where its hits are counted; many entries may share one. 0: nowhere.
    pub tag: u16,
    /// Monotonic ns after which it does not hold; `None`: it stays.
    pub expires_ns: Option<u64>,
}

impl Entry {
    pub fn block() -> Entry {
        Entry { access: Access::Block, tag: 0, expires_ns: None }
    }

    pub fn allow() -> Entry {
        Entry { access: Access::Allow, tag: 0, expires_ns: None }
    }

    pub(super) fn value(&self, length: u8) -> u32 {
        let access = if self.access == Access::Allow { VALUE_ALLOW } else { VALUE_BLOCK };
        access | u32::from(length) << VALUE_LENGTH | u32::from(self.tag)
    }
}

/// An address with the bits beyond its length zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPrefix {
    #[error("{0:?} is no prefix: an address, or an address and a length (192.0.2.0/24), is expected")]
    Malformed(String),
    #[error("{address}/{length} is too long: an address of its family has {most} bits")]
    TooLong { address: IpAddr, length: u8, most: u8 },
    #[error("{address}/{length} has bits beyond its length: {would_be} would be the prefix")]
    BitsBeyond { address: IpAddr, length: u8, would_be: IpAddr },
}

impl Prefix {
    /// # Errors
    /// Longer than an address, or with bits beyond the length.
    pub fn new(address: IpAddr, length: u8) -> Result<Prefix, NoPrefix> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        if length > most {
            return Err(NoPrefix::TooLong { address, length, most });
        }
        let would_be = Net::of(address, length).address(address.is_ipv4());
        if would_be != address {
            return Err(NoPrefix::BitsBeyond { address, length, would_be });
        }
        Ok(Prefix { address, length })
    }

    pub fn host(address: IpAddr) -> Prefix {
        Prefix { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn length(&self) -> u8 {
        self.length
    }

    pub(super) fn net(&self) -> Net {
        Net::of(self.address, self.length)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Net::of(address, self.length) == self.net()
    }
}

impl FromStr for Prefix {
    type Err = NoPrefix;

    fn from_str(text: &str) -> Result<Prefix, NoPrefix> {
        let malformed = || NoPrefix::Malformed(text.to_string());
        match text.split_once('/') {
            None => text.parse().map(Prefix::host).map_err(|_| malformed()),
            Some((address, length)) => {
                let address = address.parse().map_err(|_| malformed())?;
                Prefix::new(address, length.parse().map_err(|_| malformed())?)
            }
        }
    }
}

/// A prefix of either family, in the order of a sweep: by its first address, then from short to long. IPv4 is in the
/// upper 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Net {
    pub upper: u64,
    pub lower: u64,
    pub length: u8,
}

/// The `length` first bits of `bits`.
pub(super) fn first_bits(bits: u64, length: u32) -> u64 {
    match length {
        0 => 0,
        1..64 => bits >> (64 - length) << (64 - length),
        _ => bits,
    }
}

impl Net {
    pub fn of(address: IpAddr, length: u8) -> Net {
        let (upper, lower) = halves(address);
        Net {
            upper: first_bits(upper, length.into()),
            lower: first_bits(lower, u32::from(length).saturating_sub(64)),
            length,
        }
    }

    pub fn address(&self, is_ipv4: bool) -> IpAddr {
        match is_ipv4 {
            true => Ipv4Addr::from((self.upper >> 32) as u32).into(),
            false => Ipv6Addr::from(u128::from(self.upper) << 64 | u128::from(self.lower)).into(),
        }
    }
}

/// The bits of an address from the top on.
pub(super) fn halves(address: IpAddr) -> (u64, u64) {
    match address {
        IpAddr::V4(v4) => (u64::from(v4.to_bits()) << 32, 0),
        IpAddr::V6(v6) => ((v6.to_bits() >> 64) as u64, v6.to_bits() as u64),
    }
}

/// Entries by prefix, of both families. The same prefix has one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixSet {
    pub(super) v4: BTreeMap<Net, Entry>,
    pub(super) v6: BTreeMap<Net, Entry>,
}

impl PrefixSet {
    /// Answers what the prefix had.
    pub fn insert(&mut self, prefix: Prefix, entry: Entry) -> Option<Entry> {
        self.family(prefix).insert(prefix.net(), entry)
    }

    pub fn remove(&mut self, prefix: Prefix) -> Option<Entry> {
        self.family(prefix).remove(&prefix.net())
    }

    pub fn get(&self, prefix: Prefix) -> Option<Entry> {
        if prefix.address.is_ipv4() { &self.v4 } else { &self.v6 }.get(&prefix.net()).copied()
    }

    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The longest prefix of `address` that holds at `now_ns`, and what it has.
    pub fn find(&self, address: IpAddr, now_ns: u64) -> Option<(u8, Entry)> {
        let (nets, most) = if address.is_ipv4() { (&self.v4, 32) } else { (&self.v6, 128) };
        (0..=most).rev().find_map(|length| {
            let entry = nets.get(&Net::of(address, length))?;
            entry.expires_ns.is_none_or(|expires| expires > now_ns).then_some((length, *entry))
        })
    }

    fn family(&mut self, prefix: Prefix) -> &mut BTreeMap<Net, Entry> {
        if prefix.address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

impl FromIterator<(Prefix, Entry)> for PrefixSet {
    /// Of equal prefixes the last one stays.
    fn from_iter<I: IntoIterator<Item = (Prefix, Entry)>>(entries: I) -> PrefixSet {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, entry) in entries {
            if prefix.address.is_ipv4() { &mut v4 } else { &mut v6 }.push((prefix.net(), entry));
        }
        PrefixSet { v4: v4.into_iter().collect(), v6: v6.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_says_what_is_wrong_with_it() {
        for (text, why) in [
            ("192.0.2.1/24", "192.0.2.0 would be the prefix"),
            ("192.0.2.0/33", "has 32 bits"),
            ("2001:db8::1/64", "2001:db8:: would be"),
            ("2001:db8::/129", "has 128 bits"),
            ("example.net", "is no prefix"),
            ("192.0.2.0/", "is no prefix"),
        ] {
            let error = text.parse::<Prefix>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        for text in ["192.0.2.1", "0.0.0.0/0", "192.0.2.0/24", "::/0", "2001:db8::/32", "2001:db8::1"] {
            text.parse::<Prefix>().unwrap();
        }
    }

    #[test]
    fn the_longest_prefix_that_holds_decides() {
        let entry = |tag, expires_ns| Entry { access: Access::Block, tag, expires_ns };
        let set: PrefixSet = [
            ("0.0.0.0/0", entry(1, None)),
            ("198.18.0.0/15", entry(2, None)),
            ("198.18.1.1", entry(3, Some(100))),
            ("2001:db8::/32", entry(4, None)),
            ("2001:db8::1", entry(5, None)),
        ]
        .into_iter()
        .map(|(text, entry)| (text.parse().unwrap(), entry))
        .collect();
        let tag = |address: &str, now| set.find(address.parse().unwrap(), now).map(|(_, entry)| entry.tag);
        assert_eq!(tag("192.0.2.1", 0), Some(1));
        assert_eq!((tag("198.18.1.1", 99), tag("198.18.1.1", 100)), (Some(3), Some(2)));
        assert_eq!((tag("2001:db8::1", 0), tag("2001:db8::2", 0), tag("::1", 0)), (Some(5), Some(4), None));
    }
}
