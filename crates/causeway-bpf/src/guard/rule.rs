//! Rules as values, and as the program reads them. All that a rule says has to hold; what it does not say fits all.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;

use super::Prefix;
use super::access::Net;
use super::shared::{MAX_GUARDED, MAX_RULES_OF_LISTENER, RANGE_RULES, RANGES_OF_RULE, RawRange, RawRule};

/// Bytes of a payload that a rule can look at.
pub const MAX_PATTERN: usize = 16;

const TESTS_SOURCE: u16 = 1 << 0;
const TESTS_DESTINATION: u16 = 1 << 1;
const TESTS_FINGERPRINT: u16 = 1 << 2;
const TESTS_MSS: u16 = 1 << 3;
const TESTS_PAYLOAD: u16 = 1 << 4;
const TESTS_ID_ZERO: u16 = 1 << 5;
const TESTS_FRAGMENT: u16 = 1 << 6;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// Packets of open connections pass all the same.
    #[default]
    Drop = 0,
    /// And nothing that comes later is asked.
    Pass = 1,
    /// Only hits are counted: a dry run.
    Watch = 2,
}

/// Bytes at an offset, where the mask has bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// From the end of the TCP or UDP header on.
    pub at: u16,
    pub bytes: Vec<u8>,
    /// As long as `bytes`.
    pub mask: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub action: Action,
    /// Where hits are counted; 0: nowhere.
    pub tag: u16,
    /// Monotonic ns.
    pub expires_ns: Option<u64>,
    pub is_ipv6: Option<bool>,
    pub protocol: Option<u8>,
    pub source: Option<Prefix>,
    pub destination: Option<Prefix>,
    pub source_ports: Option<RangeInclusive<u16>>,
    pub destination_ports: Option<RangeInclusive<u16>>,
    /// From the IP header on.
    pub length: Option<RangeInclusive<u16>>,
    /// Time to live, or hop limit.
    pub hops: Option<RangeInclusive<u8>>,
    /// TCP: mask and value.
    pub flags: Option<(u8, u8)>,
    pub window: Option<RangeInclusive<u16>>,
    /// What a SYN says; 0 if it says nothing.
    pub mss: Option<RangeInclusive<u16>>,
    /// Of the options of a SYN, see [`fingerprint`].
    pub fingerprint: Option<u32>,
    pub has_zero_id: bool,
    pub is_fragment: bool,
    pub payload: Option<Pattern>,
}

/// Of the kinds of TCP options, in order, up to the end of the list.
pub fn fingerprint(options: &[u8]) -> u32 {
    const BROKEN: u32 = 0x100;
    let (mut hash, mut at) = (0x811c_9dc5_u32, 0);
    let mut add = |kind: u32| hash = (hash ^ kind).wrapping_mul(0x0100_0193);
    while let Some(kind) = options.get(at) {
        let length = match (kind, options.get(at + 1)) {
            (0 | 1, _) => 1,
            (_, Some(length)) if *length >= 2 && at + usize::from(*length) <= options.len() => usize::from(*length),
            _ => {
                add(BROKEN);
                break;
            }
        };
        add((*kind).into());
        if *kind == 0 {
            break;
        }
        at += length;
    }
    hash
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

fn span<T: Copy>(range: Option<&RangeInclusive<T>>, all: [T; 2]) -> [T; 2] {
    range.map_or(all, |range| [*range.start(), *range.end()])
}

fn ones(length: u8) -> [u8; 16] {
    let mut mask = [0; 16];
    for (at, byte) in mask.iter_mut().enumerate() {
        *byte = (0xff00_u16 >> length.saturating_sub(at as u8 * 8).min(8)) as u8;
    }
    mask
}

/// An address as the first of 16 bytes, and a mask of its length.
fn covered(prefix: Prefix) -> ([u8; 16], [u8; 16]) {
    let Net { upper, lower, .. } = prefix.net();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&upper.to_be_bytes());
    bytes[8..].copy_from_slice(&lower.to_be_bytes());
    (bytes, ones(prefix.length()))
}

impl Rule {
    /// # Errors
    /// Why no packet can fit it, or why it cannot be said to the kernel.
    pub fn check(&self) -> io::Result<()> {
        self.raw().map(drop)
    }

    pub(super) fn raw(&self) -> io::Result<RawRule> {
        let families = [self.source, self.destination].into_iter().flatten().map(|p| p.address().is_ipv6());
        let mut families: Vec<bool> = families.chain(self.is_ipv6).collect();
        families.dedup();
        if families.len() > 1 {
            return Err(refused("a rule is about two families at once".to_string()));
        }
        let mut tests = 0;
        let mut test = |is: bool, bit: u16| tests |= if is { bit } else { 0 };
        test(self.source.is_some(), TESTS_SOURCE);
        test(self.destination.is_some(), TESTS_DESTINATION);
        test(self.fingerprint.is_some(), TESTS_FINGERPRINT);
        test(self.mss.is_some(), TESTS_MSS);
        test(self.payload.is_some(), TESTS_PAYLOAD);
        test(self.has_zero_id, TESTS_ID_ZERO);
        test(self.is_fragment, TESTS_FRAGMENT);
        let (source, source_mask) = self.source.map_or(([0; 16], [0; 16]), covered);
        let (destination, destination_mask) = self.destination.map_or(([0; 16], [0; 16]), covered);
        let (mut payload, mut payload_mask) = ([0; 16], [0; 16]);
        if let Some(pattern) = &self.payload {
            let bytes = pattern.bytes.len();
            if bytes == 0 || bytes > MAX_PATTERN || pattern.mask.len() != bytes {
                return Err(refused(format!(
                    "a pattern has 1 to {MAX_PATTERN} bytes and a mask for each, not {bytes}"
                )));
            }
            for (at, (byte, mask)) in pattern.bytes.iter().zip(&pattern.mask).enumerate() {
                (payload[at], payload_mask[at]) = (byte & mask, *mask);
            }
        }
        let (flags_mask, flags) = self.flags.unwrap_or((0, 0));
        if flags & !flags_mask != 0 {
            return Err(refused(format!(
                "flags {flags:#04x} are beyond their mask {flags_mask:#04x}: no packet has that"
            )));
        }
        Ok(RawRule {
            expires: match self.expires_ns {
                None => 0,
                Some(ns) => ns.max(1), // in the past, but not never
            },
            tag: self.tag,
            action: self.action as u8,
            family: families.first().map_or(0, |is_ipv6| if *is_ipv6 { 6 } else { 4 }),
            tests,
            protocol: self.protocol.unwrap_or(0),
            flags_mask,
            flags,
            payload_bytes: self.payload.as_ref().map_or(0, |pattern| pattern.bytes.len() as u8),
            hops: span(self.hops.as_ref(), [0, u8::MAX]),
            length: span(self.length.as_ref(), [0, u16::MAX]),
            sport: span(self.source_ports.as_ref(), [0, u16::MAX]),
            dport: span(self.destination_ports.as_ref(), [0, u16::MAX]),
            window: span(self.window.as_ref(), [0, u16::MAX]),
            mss: span(self.mss.as_ref(), [0, u16::MAX]),
            payload_at: self.payload.as_ref().map_or(0, |pattern| pattern.at),
            unused: 0,
            fingerprint: self.fingerprint.unwrap_or(0),
            source,
            source_mask,
            destination,
            destination_mask,
            payload,
            payload_mask,
        })
    }
}

/// The rules of each listener, in order.
pub type RuleSet = BTreeMap<u16, Vec<Rule>>;

/// The whole array: ranges, then rules.
pub(super) fn lay(rules: &RuleSet) -> io::Result<Vec<RawRule>> {
    let nothing = Rule::default().raw()?;
    let mut laid = vec![RawRule { hops: [0; 2], length: [0; 2], ..nothing }; RANGE_RULES];
    let mut ranges = vec![RawRange::default(); RANGE_RULES * RANGES_OF_RULE];
    // Listeners with the same rules share them.
    let mut distinct: Vec<(&[Rule], RawRange)> = Vec::new();
    for (listener, rules) in rules {
        if *listener == 0 || *listener >= MAX_GUARDED {
            return Err(refused(format!("listener {listener}: an index is 1 to {}", MAX_GUARDED - 1)));
        }
        if rules.len() > MAX_RULES_OF_LISTENER {
            let count = rules.len();
            return Err(refused(format!("listener {listener} has {count} rules, at most {MAX_RULES_OF_LISTENER} fit")));
        }
        if let Some((_, range)) = distinct.iter().find(|(same, _)| same == rules) {
            ranges[usize::from(*listener)] = *range;
            continue;
        }
        if laid.len() + rules.len() > usize::from(u16::MAX) {
            return Err(refused(format!("more than {} rules in all", usize::from(u16::MAX) - RANGE_RULES)));
        }
        let first = laid.len();
        for rule in rules {
            laid.push(rule.raw()?);
        }
        let ports = laid[first..].iter().map(|raw| raw.sport);
        let sport = ports.reduce(|one, other| [one[0].min(other[0]), one[1].max(other[1])]).unwrap_or_default();
        let range = RawRange { first: first as u16, count: rules.len() as u16, sport };
        ranges[usize::from(*listener)] = range;
        distinct.push((rules, range));
    }
    for (raw, ranges) in laid.iter_mut().zip(ranges.chunks_exact(RANGES_OF_RULE)) {
        // SAFETY: a rule has more bytes, and is plain numbers, for which all bits are fine.
        unsafe { *std::ptr::from_mut(raw).cast::<[RawRange; RANGES_OF_RULE]>() = ranges.try_into().expect("exact") };
    }
    Ok(laid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_no_packet_can_fit_is_refused_with_the_reason() {
        let cases: [(Rule, &str); 4] = [
            (Rule { flags: Some((0x02, 0x12)), ..Rule::default() }, "beyond their mask"),
            (
                Rule { payload: Some(Pattern { at: 0, bytes: vec![0; 17], mask: vec![0; 17] }), ..Rule::default() },
                "1 to 16 bytes",
            ),
            (
                Rule { payload: Some(Pattern { at: 0, bytes: vec![0; 2], mask: vec![0; 1] }), ..Rule::default() },
                "a mask for each",
            ),
            (Rule { is_ipv6: Some(true), source: "192.0.2.1".parse().ok(), ..Rule::default() }, "two families"),
        ];
        for (rule, why) in cases {
            let error = lay(&RuleSet::from([(1, vec![rule])])).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let many = RuleSet::from([(1, vec![Rule::default(); 129])]);
        assert!(lay(&many).unwrap_err().to_string().contains("at most 128"));
    }

    #[test]
    fn all_listeners_may_have_the_same_rules() {
        let rules: RuleSet = (1..MAX_GUARDED).map(|listener| (listener, vec![Rule::default(); 100])).collect();
        assert_eq!(lay(&rules).unwrap().len(), RANGE_RULES + 100);
    }

    #[test]
    fn options_that_make_no_sense_end_a_fingerprint() {
        assert_eq!(fingerprint(&[]), 0x811c_9dc5);
        assert_eq!(fingerprint(&[2, 4, 5, 180]), fingerprint(&[2, 4, 1, 1]));
        assert_ne!(fingerprint(&[2, 4, 5, 180]), fingerprint(&[2, 4, 5, 180, 1]));
        for broken in [&[8][..], &[8, 0], &[8, 1, 1], &[8, 10, 0]] {
            assert_eq!(fingerprint(broken), (0x811c_9dc5_u32 ^ 0x100).wrapping_mul(0x0100_0193), "{broken:?}");
        }
    }

    #[test]
    fn a_mask_has_as_many_bits_as_its_prefix() {
        assert_eq!(ones(0), [0; 16]);
        assert_eq!(ones(128), [255; 16]);
        assert_eq!(ones(12)[..3], [255, 0xf0, 0]);
    }
}
