//! The order of verdicts, and what each rests on.

use std::net::{IpAddr, SocketAddr};

use super::super::access::{Access, Net};
use super::super::rule::{Action, Rule, fingerprint};
use super::super::shared::RawRate;
use super::super::{Listener, RateOf, Verdict};
use super::{Fragment, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, Seen, Surroundings, Twin, datagram};
use crate::mix;

const PRIME_NS: u64 = 100_000_000;
const PRIME_LISTENER_NS: u64 = 100_000;
const PRIMED_SPOTS: u32 = 16_384;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

impl Seen {
    fn from(&self) -> SocketAddr {
        SocketAddr::new(self.source, self.source_port)
    }

    fn to(&self) -> SocketAddr {
        SocketAddr::new(self.destination, self.destination_port)
    }

    fn is_tcp(&self) -> bool {
        self.protocol == IPPROTO_TCP
    }

    fn is_icmp(&self) -> bool {
        self.protocol == if self.source.is_ipv4() { IPPROTO_ICMP } else { IPPROTO_ICMPV6 }
    }

    fn asks_for_connection(&self) -> bool {
        self.is_tcp() && self.flags & (SYN | ACK) == SYN
    }
}

/// What all together have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Some,
    ForReturning,
    Nothing,
}

/// Whose budget of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Purse {
    index: u16,
    which: u16,
    is_ipv4: bool,
    source: Net,
    is_returning: bool,
}

/// See bpf/guard.h.
const TURN_SHIFT: u32 = 30;
pub(super) const RETURN_WORDS: usize = 7;
const RETURN_LINES: u32 = 65_536;

/// As they lie in memory.
fn words(address: IpAddr) -> [u32; 4] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// Who lets a SYN through now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    Listener(u16),
    Spot(u32),
}

/// Of an address and port; two may have the same.
fn primed_spot(seen: &Seen) -> u32 {
    let address = match seen.destination {
        IpAddr::V4(v4) => u32::from_ne_bytes(v4.octets()),
        IpAddr::V6(v6) => v6
            .octets()
            .chunks_exact(4)
            .fold(0, |all, part| all ^ u32::from_ne_bytes([part[0], part[1], part[2], part[3]])),
    };
    let hash = address ^ u32::from(seen.destination_port).wrapping_mul(0x9e37_79b1);
    let hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    (hash ^ hash >> 13) & (PRIMED_SPOTS - 1)
}

impl<S: Surroundings> Twin<S> {
    pub(super) fn judge(
        &mut self,
        frame: &[u8],
        seen: &Seen,
        index: u16,
        listener: &Listener,
        is_rest: bool,
        now_ns: u64,
    ) -> (Verdict, u16) {
        if seen.is_malformed {
            return (Verdict::Malformed, 0);
        }
        if seen.is_illegal {
            return (Verdict::Illegal, 0);
        }
        let unless_open = |verdict| if self.is_open(seen) { Verdict::Established } else { verdict };
        if let Some((access, tag)) = self.access(seen, listener, now_ns) {
            let verdict = match access {
                Access::Allow => Verdict::Allowed,
                Access::Block => unless_open(Verdict::Blocked),
            };
            return (verdict, tag);
        }
        let banned = listener.bans.filter(|_| seen.asks_for_connection()).and_then(|slot| self.sets.get(&slot));
        if let Some((_, entry)) = banned.and_then(|set| set.find(seen.source, now_ns))
            && entry.access == Access::Block
        {
            return (Verdict::Banned, entry.tag);
        }
        let wants = listener.wants;
        let is_stray = seen.fragment == Fragment::Later && self.passed_first.get(&datagram(seen)) != Some(&true);
        if seen.fragment != Fragment::Not && (wants.no_fragments || wants.whole_datagrams && is_stray) {
            return (Verdict::Fragment, 0);
        }
        for rule in self.rules.get(&index).cloned().unwrap_or_default() {
            if !fits(frame, seen, &rule, now_ns) {
                continue;
            }
            match rule.action {
                Action::Pass => return (Verdict::RulePassed, rule.tag),
                Action::Drop if self.is_open(seen) => return (Verdict::Established, rule.tag),
                Action::Drop => return (Verdict::RuleDropped, rule.tag),
                Action::Watch => self.hit(rule.tag, self.is_open(seen)),
            }
        }
        let is_free = is_rest && is_needed(seen);
        if !listener.rates.is_empty() && !is_free {
            if self.is_open(seen) {
                return (Verdict::Established, 0);
            }
            let used_up: Vec<Left> = listener.rates.iter().map(|rate| self.left(seen, index, *rate, now_ns)).collect();
            let is_returning = used_up.contains(&Left::ForReturning);
            if used_up.contains(&Left::Nothing) || is_returning && !self.comes_back(seen, index, now_ns) {
                return (Verdict::Rate, 0);
            }
            if listener.rates.iter().any(|rate| self.is_over(seen, index, *rate, is_returning, now_ns)) {
                return (Verdict::Rate, 0);
            }
        }
        let verdict = match (is_rest, seen.is_tcp()) {
            (true, _) => self.judge_rest(seen, listener),
            (false, true) => self.judge_tcp(seen, index, listener, now_ns),
            (false, false) => Verdict::Passed,
        };
        (verdict, 0)
    }

    pub(super) fn is_open(&self, seen: &Seen) -> bool {
        let has_ends = (seen.is_tcp() && !seen.asks_for_connection()) || seen.protocol == IPPROTO_UDP;
        has_ends && seen.fragment != Fragment::Later && self.surroundings.is_open(seen.is_tcp(), seen.from(), seen.to())
    }

    /// The longest prefix of all sets; of equals, allow.
    fn access(&self, seen: &Seen, listener: &Listener, now_ns: u64) -> Option<(Access, u16)> {
        let found = listener.sets.iter().filter_map(|slot| self.sets.get(slot)?.find(seen.source, now_ns));
        let best = found.reduce(|one, other| {
            let is_better = (other.0, other.1.access == Access::Allow) > (one.0, one.1.access == Access::Allow);
            let is_same = (other.0, other.1.access) == (one.0, one.1.access);
            // Two of the same kind: allow is the last one's, block the first one's.
            if is_better || (is_same && other.1.access == Access::Allow) { other } else { one }
        });
        best.map(|(_, entry)| (entry.access, entry.tag))
    }

    /// Have all together used up what there is for all? Asked first, without taking.
    fn left(&self, seen: &Seen, index: u16, which: u16, now_ns: u64) -> Left {
        let Some((raw, cost, source)) = self.asked(seen, which) else { return Left::Some };
        let used =
            self.sources.get(&Purse { index, which, is_ipv4: seen.source.is_ipv4(), source, is_returning: false });
        if source.length > 0 || used.is_none_or(|used| used.saturating_sub(now_ns << 6) + cost <= raw.depth) {
            return Left::Some;
        }
        if raw.spares_returning == 1 { Left::ForReturning } else { Left::Nothing }
    }

    /// Was it here in the turn before this one, as far as a filter can tell? It is in this one, from now on.
    fn comes_back(&mut self, seen: &Seen, index: u16, now_ns: u64) -> bool {
        let ports = u32::from(seen.source_port) << 16 | u32::from(seen.destination_port);
        let hash = words(seen.source).into_iter().chain([ports, index.into()]).fold(0, mix);
        let bits = u64::from(hash).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let bits = bits ^ bits >> 29;
        let bits: Vec<u32> = (0..RETURN_WORDS).map(|word| 1 << (bits >> (5 * word) & 31)).collect();
        let (at, turn) = (hash & (RETURN_LINES - 1), (now_ns >> TURN_SHIFT) as u32);
        let last = self.returns.get(&(at, turn.wrapping_sub(1)));
        let was_here = last.is_some_and(|last| last.iter().zip(&bits).all(|(word, bit)| word & bit != 0));
        let mine = self.returns.entry((at, turn)).or_default();
        mine.iter_mut().zip(&bits).for_each(|(word, bit)| *word |= bit);
        was_here
    }

    fn is_over(&mut self, seen: &Seen, index: u16, which: u16, is_returning: bool, now_ns: u64) -> bool {
        let Some((raw, cost, source)) = self.asked(seen, which) else { return false };
        let is_returning = is_returning && raw.spares_returning == 1;
        let (now, is_ipv4) = (now_ns << 6, seen.source.is_ipv4());
        let key = Purse { index, which, is_ipv4, source, is_returning };
        let used = self.sources.get(&key).copied().unwrap_or(0).max(now);
        if used - now + cost > raw.depth {
            return true;
        }
        self.sources.insert(key, used + cost);
        false
    }

    /// The rate, if it is of such packets, what this one costs, and who pays.
    fn asked(&self, seen: &Seen, which: u16) -> Option<(RawRate, u64, Net)> {
        let rate = self.rates.get(&which).filter(|rate| rate.of != RateOf::Syns || seen.asks_for_connection())?;
        let raw = rate.raw().expect("a rate that was set");
        let cost = if rate.of == RateOf::Bytes { raw.interval * u64::from(seen.length) } else { raw.interval };
        let length = if seen.source.is_ipv4() { rate.length_v4 } else { rate.length_v6 };
        Some((raw, cost, Net::of(seen.source, length)))
    }

    fn judge_rest(&self, seen: &Seen, listener: &Listener) -> Verdict {
        if seen.is_tcp() || seen.protocol == IPPROTO_UDP {
            let (is_tcp, from, to) = (seen.is_tcp(), seen.from(), seen.to());
            let is_awaited =
                self.surroundings.is_awaited(is_tcp, from, to) || self.surroundings.is_open(is_tcp, from, to);
            return match listener.wants.open_ports && seen.fragment != Fragment::Later && !is_awaited {
                true => Verdict::Port,
                false => Verdict::Passed,
            };
        }
        let is_known = seen.is_icmp() || self.settings.protocols.contains(&seen.protocol);
        if listener.wants.known_protocols && !is_known { Verdict::Protocol } else { Verdict::Passed }
    }

    fn judge_tcp(&mut self, seen: &Seen, index: u16, listener: &Listener, now_ns: u64) -> Verdict {
        let wants = listener.wants;
        if !wants.state && !wants.cookies {
            return Verdict::Passed;
        }
        if seen.asks_for_connection() {
            if !wants.cookies || seen.fragment != Fragment::Not {
                return Verdict::Passed;
            }
            let slots = [(Slot::Spot(primed_spot(seen)), PRIME_NS), (Slot::Listener(index), PRIME_LISTENER_NS)];
            let is_recent = |slot, ns| self.primed.get(slot).is_some_and(|last| now_ns - last < ns);
            if slots.iter().any(|(slot, ns)| is_recent(slot, *ns)) {
                return Verdict::CookieSent;
            }
            self.primed.extend(slots.map(|(slot, _)| (slot, now_ns)));
            return Verdict::Primed;
        }
        if self.is_open(seen) {
            return Verdict::Established;
        }
        let brings_back = seen.flags & (SYN | ACK | RST) == ACK
            && self.surroundings.is_cookie(seen.from(), seen.to(), seen.sequence, seen.acknowledged);
        if brings_back { Verdict::CookieTaken } else { Verdict::OutOfState }
    }
}

/// Errors that a sender has to hear of: no rate holds them back.
fn is_needed(seen: &Seen) -> bool {
    match seen.source.is_ipv4() {
        true => seen.is_icmp() && [3, 11, 12].contains(&seen.icmp_type),
        false => seen.is_icmp() && ((1..=4).contains(&seen.icmp_type) || (130..=136).contains(&seen.icmp_type)),
    }
}

fn fits(frame: &[u8], seen: &Seen, rule: &Rule, now_ns: u64) -> bool {
    let is_syn = seen.is_tcp() && seen.flags & SYN != 0;
    let options = &frame[seen.options.clone()];
    rule.expires_ns.is_none_or(|expires| expires.max(1) > now_ns)
        && rule.is_ipv6.is_none_or(|is_ipv6| is_ipv6 == seen.source.is_ipv6())
        && rule.protocol.is_none_or(|protocol| protocol == 0 || protocol == seen.protocol)
        && rule.flags.is_none_or(|(mask, flags)| mask == 0 || seen.is_tcp() && seen.flags & mask == flags)
        && rule.source.is_none_or(|prefix| prefix.contains(seen.source))
        && rule.destination.is_none_or(|prefix| prefix.contains(seen.destination))
        && rule.source_ports.as_ref().is_none_or(|ports| ports.contains(&seen.source_port))
        && rule.destination_ports.as_ref().is_none_or(|ports| ports.contains(&seen.destination_port))
        && rule.length.as_ref().is_none_or(|lengths| lengths.contains(&seen.length))
        && rule.hops.as_ref().is_none_or(|hops| hops.contains(&seen.hops))
        && rule.window.as_ref().is_none_or(|windows| windows.contains(&seen.window))
        && rule.mss.as_ref().is_none_or(|range| is_syn && range.contains(&mss(options)))
        && rule.fingerprint.is_none_or(|wanted| is_syn && fingerprint(options) == wanted)
        && (!rule.has_zero_id || seen.source.is_ipv4() && seen.id == 0)
        && (!rule.is_fragment || seen.fragment != Fragment::Not)
        && rule.payload.as_ref().is_none_or(|pattern| {
            let at = seen.payload.start + usize::from(pattern.at);
            let there = frame.get(at..at + pattern.bytes.len());
            let is_inside = seen.payload.start != 0 && at + pattern.bytes.len() <= seen.payload.end;
            let mut pairs = pattern.bytes.iter().zip(&pattern.mask);
            is_inside
                && there.is_some_and(|there| {
                    there.iter().all(|byte| {
                        let (wanted, mask) = pairs.next().expect("as long");
                        byte & mask == wanted & mask
                    })
                })
        })
}

/// The last one that a well-formed list has; 0 if there is none.
fn mss(mut options: &[u8]) -> u16 {
    let mut mss = 0;
    loop {
        options = match options {
            [] | [0, ..] => return mss,
            [1, rest @ ..] => rest,
            [kind, length, ..] if *length >= 2 && usize::from(*length) <= options.len() => {
                if (*kind, *length) == (2, 4) {
                    mss = u16::from_be_bytes([options[2], options[3]]);
                }
                &options[usize::from(*length)..]
            }
            _ => return mss,
        }
    }
}
