//! From a zone's rules and an application's limits to what the guard can hold: prefix sets and rates.
//!
//! Pure. What is blocked here the engine would refuse too, always. If nothing is `missing` the other way round holds as
//! well, and the kernel may carry the application. What is allowed is left out wherever nothing blocks it: an allowed
//! packet passes all that automatic mitigation holds, so that is for exceptions from a list alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use causeway_bpf::guard::{Access, Prefix, Rate, RateOf};

use crate::firewall::Firewall;
use crate::firewall::flat::{Flat, Long, RuleAt, Stretch};
use crate::snapshot::{self, Action, Limit, Of, Protocol};

/// More are left to the engine: they would be laid anew with each change of a rule.
const MOST_PREFIXES: usize = 262_144;
/// The others of the four that a listener has are for automatic mitigation.
pub const MOST_RATES: usize = 1;

/// A prefix, what becomes of its packets, and the rule that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Laid {
    pub prefix: Prefix,
    pub access: Access,
    pub rule: Option<RuleAt>,
}

/// What the kernel is to hold of an application's rules.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    pub direct: Vec<Laid>,
    /// A set of its own, the same for all applications that it is for.
    pub long: Option<Long>,
    /// Why the engine remains the judge of who is let in.
    pub missing: Option<String>,
}

/// `spec` is of an application of the zone that `firewall` is of.
pub fn rules(firewall: &Firewall, id: u128, spec: &snapshot::Application) -> Compiled {
    let flat = firewall.flat(id, spec.edge_ports, &spec.proxy_protocol_from);
    let mut direct = Vec::new();
    for is_ipv4 in [true, false] {
        for stretch in flat.of(is_ipv4) {
            let is_laid = match stretch.says.action {
                Action::Block | Action::Cut => {
                    let says = (Access::Block, stretch.says.rule);
                    lay(&mut direct, is_ipv4, stretch.first..=stretch.last, 0, says)
                }
                Action::Allow => except(&mut direct, is_ipv4, stretch, &flat),
            };
            if !is_laid {
                let missing = format!("more than {MOST_PREFIXES} prefixes");
                return Compiled { missing: Some(missing), ..Compiled::default() };
            }
        }
    }
    Compiled { direct, long: flat.long, missing: flat.missing.map(Into::into) }
}

/// A list as it is, of which the longest prefix decides.
pub fn list(long: &Long) -> impl Iterator<Item = Prefix> {
    let runs = long.list.list().into_iter().flat_map(|list| {
        [true, false].into_iter().flat_map(|is_ipv4| {
            list.runs(is_ipv4, 0..=u128::MAX).map(move |(first, last, length)| (is_ipv4, first..=last, length))
        })
    });
    runs.flat_map(|(is_ipv4, range, length)| prefixes(is_ipv4, range, length))
}

/// Where the list would block what `stretch` lets in, if `stretch` is the stronger. False: there is no room.
fn except(laid: &mut Vec<Laid>, is_ipv4: bool, stretch: &Stretch, flat: &Flat) -> bool {
    let Some(long) = &flat.long else { return true };
    let Some(list) = long.list.list() else { return true };
    let says = &stretch.says;
    list.runs(is_ipv4, stretch.first..=stretch.last).all(|(first, last, length)| {
        let is_stronger = match says.rule {
            None => true,
            Some((scope, _)) if scope != long.rule.0 => scope < long.rule.0,
            Some(_) => says.length.is_some_and(|own| own >= length),
        };
        let both = first.max(stretch.first)..=last.min(stretch.last);
        !is_stronger || lay(laid, is_ipv4, both, length, (Access::Allow, says.rule))
    })
}

fn lay(
    laid: &mut Vec<Laid>,
    is_ipv4: bool,
    range: RangeInclusive<u128>,
    least_length: u8,
    (access, rule): (Access, Option<RuleAt>),
) -> bool {
    for prefix in prefixes(is_ipv4, range, least_length) {
        if laid.len() == MOST_PREFIXES {
            return false;
        }
        laid.push(Laid { prefix, access, rule });
    }
    true
}

/// The fewest prefixes, none of them shorter than `least_length`, that are `range`.
pub(super) fn prefixes(is_ipv4: bool, range: RangeInclusive<u128>, least_length: u8) -> impl Iterator<Item = Prefix> {
    let width: u32 = if is_ipv4 { 32 } else { 128 };
    let (first, last) = range.into_inner();
    let mut next = Some(first);
    std::iter::from_fn(move || {
        let at = next?;
        let left = last.checked_sub(at)?;
        let fits = if left == u128::MAX { 128 } else { 127 - (left + 1).leading_zeros() };
        let free = fits.min(at.trailing_zeros()).min(width - u32::from(least_length));
        next = 1u128.checked_shl(free).and_then(|size| at.checked_add(size));
        let address: IpAddr = match is_ipv4 {
            true => Ipv4Addr::from_bits(at as u32).into(),
            false => Ipv6Addr::from_bits(at).into(),
        };
        Prefix::new(address, (width - free) as u8).ok()
    })
}

/// `has_exceptions`: some clients pass without being asked for rates.
///
/// # Errors
/// Why the engine has to keep the limits.
pub fn limits(spec: &snapshot::Application, has_exceptions: bool) -> Result<Vec<Rate>, String> {
    let mut limits = spec.limits.clone();
    limits.sort_by_key(|limit| (limit.of == Of::Application, u8::MAX - limit.ipv4));
    let rates = limits.iter().map(|limit| rate(spec.protocol, limit)).collect::<Result<Vec<_>, _>>()?;
    let rates: Vec<Rate> = rates.into_iter().flatten().collect();
    if rates.len() > MOST_RATES {
        return Err(format!("{} limits of new connections, of which the kernel keeps {MOST_RATES}", rates.len()));
    }
    if has_exceptions && !rates.is_empty() {
        return Err("clients excepted from a long list, which would pass the kernel's limits".into());
    }
    Ok(rates)
}

fn rate(protocol: Protocol, limit: &Limit) -> Result<Option<Rate>, String> {
    let why_not = match limit {
        Limit { of: Of::Asn, .. } => "a limit by AS number",
        Limit { open: 1.., .. } => "a limit of open connections",
        Limit { ban_ms: 1.., .. } => "a ban",
        Limit { datagrams_per_s: 1.., .. } => "a limit of datagrams",
        Limit { bytes_per_s: 1.., .. } => "a limit of bytes",
        Limit { new_per_s: 1.., .. } if protocol == Protocol::Udp => "a limit of UDP sessions",
        Limit { new_per_s: 0, .. } => return Ok(None),
        Limit { of, ipv4, ipv6, new_per_s, .. } => {
            let (length_v4, length_v6) = if *of == Of::Application { (0, 0) } else { (*ipv4, *ipv6) };
            let count = u64::from(*new_per_s);
            let spares_returning = false;
            let rate =
                Rate { of: RateOf::Syns, length_v4, length_v6, per_second: count, burst: count, spares_returning };
            return Ok(Some(rate));
        }
    };
    Err(why_not.into())
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
