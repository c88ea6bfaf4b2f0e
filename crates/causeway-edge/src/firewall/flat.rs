//! What a firewall says of every address that comes to one application, laid flat: stretches of addresses, each with
//! the rule that decides there.
//!
//! Pure. What cannot be laid flat (a long list, a rule of single ports, a country with too many networks) is told apart,
//! and then only this holds: what is blocked here is blocked whatever else is said.

use std::collections::HashMap;
use std::sync::Arc;

use super::blobs::Blob;
use super::{Firewall, Found, Scope};
use crate::snapshot::{Action, Ports, Prefix};

/// A list with more stretches stays a table of its own: laid flat it would be built anew with each rule beside it.
const LONG: usize = if cfg!(test) { 4 } else { 16_384 };
/// Countries and AS numbers of one scope with more networks are left to the engine.
const MOST_NETWORKS: usize = 65_536;

/// Which rule of which scope.
pub type RuleAt = (usize, u32);

/// What decides, and why it is stronger than another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Says {
    pub action: Action,
    /// None: senders of PROXY headers, whose own addresses no rule is about.
    pub rule: Option<RuleAt>,
    /// By address: of which length. None: by AS number or country.
    pub length: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub first: u128,
    pub last: u128,
    pub says: Says,
}

/// A list that decides in its scope by the lengths of its prefixes, where nothing of a narrower scope does.
#[derive(Clone, Debug)]
pub struct Long {
    pub list: Arc<Blob>,
    pub rule: RuleAt,
}

/// Sorted, and apart from each other.
#[derive(Clone, Debug, Default)]
pub struct Flat {
    pub v4: Vec<Stretch>,
    pub v6: Vec<Stretch>,
    pub long: Option<Long>,
    /// Why there is more to it than what is here.
    pub missing: Option<&'static str>,
}

impl Flat {
    pub fn of(&self, is_ipv4: bool) -> &[Stretch] {
        if is_ipv4 { &self.v4 } else { &self.v6 }
    }

    fn lacks(&mut self, why: &'static str) {
        self.missing.get_or_insert(why);
    }

    /// Put `layer` beneath what is there.
    fn underlay(&mut self, layer: [Vec<Stretch>; 2]) {
        let [v4, v6] = layer;
        self.v4 = combine(&self.v4, &v4, |_, _| true);
        self.v6 = combine(&self.v6, &v6, |_, _| true);
    }
}

impl Firewall {
    /// `trusted`: senders whose clients are named by a header, and judged by the engine.
    pub fn flat(&self, application: u128, ports: Ports, trusted: &[Prefix]) -> Flat {
        let mut flat = Flat::default();
        flat.underlay(senders(trusted));
        for (at, is_whole) in self.view(application, ports) {
            if !is_whole {
                flat.lacks("rules of some of its ports alone");
            }
            if !self.lay(at, &self.scopes[at], is_whole, &mut flat) {
                break;
            }
        }
        flat
    }

    /// The scopes that decide about an application, and whether about all of its ports. The same for many applications.
    pub fn view(&self, application: u128, ports: Ports) -> Vec<(usize, bool)> {
        let overlaps = |its: Ports| its.first <= ports.last && ports.first <= its.last;
        let holds = |its: Ports| its.first <= ports.first && ports.last <= its.last;
        let theirs = self.scopes.iter().enumerate().filter(|(_, scope)| {
            let is_enforced = !scope.is_dry_run && !scope.rules.is_empty();
            is_enforced && scope.is_for(application) && scope.ports.is_none_or(overlaps)
        });
        theirs.map(|(at, scope)| (at, scope.ports.is_none_or(holds))).collect()
    }

    /// Beneath what is there: addresses, then AS numbers, then countries. False: what wider scopes say may not hold.
    fn lay(&self, at: usize, scope: &Scope, is_whole: bool, flat: &mut Flat) -> bool {
        let mut addresses = [true, false].map(|is_ipv4| {
            let runs = scope.direct.runs(is_ipv4, 0..=u128::MAX);
            runs.map(|(first, last, found)| Stretch { first, last, says: by_address(at, found) }).collect::<Vec<_>>()
        });
        for (list, action, rule) in &scope.lists {
            let Some(prefixes) = list.list() else { continue };
            if prefixes.len() <= LONG {
                addresses = [true, false].map(|is_ipv4| {
                    let runs = prefixes.runs(is_ipv4, 0..=u128::MAX).map(|(first, last, length)| {
                        let found = Found { length, action: *action, rule: *rule };
                        Stretch { first, last, says: by_address(at, found) }
                    });
                    let laid = if is_ipv4 { &addresses[0] } else { &addresses[1] };
                    combine(laid, &runs.collect::<Vec<_>>(), is_stronger)
                });
            } else if *action == Action::Allow {
                flat.lacks("a long list that allows");
                flat.long.take_if(|long| long.rule.0 == at);
                return false;
            } else if flat.long.is_some() || !is_whole {
                flat.lacks("more than one long list, or one for some of its ports alone");
            } else {
                flat.long = Some(Long { list: list.clone(), rule: (at, *rule) });
            }
        }
        let mut layers = vec![addresses];
        for (database, rules) in [(&self.asn, &scope.asn), (&self.country, &scope.country)] {
            let Some(geo) = database.as_ref().and_then(|blob| blob.geo()).filter(|_| !rules.is_empty()) else {
                continue;
            };
            match networks(at, geo, rules) {
                Some(layer) => layers.push(layer),
                None => {
                    flat.lacks("countries or AS numbers with very many networks");
                    if rules.values().any(|found| found.action == Action::Allow) {
                        layers.into_iter().for_each(|layer| flat.underlay(kept(layer, is_whole)));
                        return false;
                    }
                }
            }
        }
        layers.into_iter().for_each(|layer| flat.underlay(kept(layer, is_whole)));
        true
    }
}

/// A block of some ports alone blocks nothing for sure; an exception of some ports is one from what is sure.
fn kept(layer: [Vec<Stretch>; 2], is_whole: bool) -> [Vec<Stretch>; 2] {
    layer.map(|mut stretches| {
        stretches.retain(|stretch| is_whole || stretch.says.action == Action::Allow);
        stretches
    })
}

fn by_address(scope: usize, found: Found) -> Says {
    Says { action: found.action, rule: Some((scope, found.rule)), length: Some(found.length) }
}

/// As a look-up compares them: by length, then by action, then by place.
fn is_stronger(a: &Says, b: &Says) -> bool {
    (a.length, a.action, a.rule) >= (b.length, b.action, b.rule)
}

fn senders(trusted: &[Prefix]) -> [Vec<Stretch>; 2] {
    let says = Says { action: Action::Allow, rule: None, length: Some(u8::MAX) };
    [true, false].map(|is_ipv4| {
        let theirs = trusted.iter().filter(|prefix| prefix.first().is_ipv4() == is_ipv4);
        theirs.fold(Vec::new(), |laid, prefix| {
            let (first, last) = ends(prefix);
            combine(&laid, &[Stretch { first, last, says }], |_, _| true)
        })
    })
}

fn ends(prefix: &Prefix) -> (u128, u128) {
    match prefix.first() {
        std::net::IpAddr::V4(first) => {
            let first = first.to_bits();
            (first.into(), (first | u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0)).into())
        }
        std::net::IpAddr::V6(first) => {
            (first.to_bits(), first.to_bits() | u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0))
        }
    }
}

/// Of those AS numbers or countries that rules name; none: there are too many.
fn networks(scope: usize, geo: &super::geo::Geo, rules: &HashMap<u32, Found>) -> Option<[Vec<Stretch>; 2]> {
    let mut count = 0;
    let layer = [true, false].map(|is_ipv4| {
        let named = geo.runs(is_ipv4, 0..=u128::MAX).filter_map(|(first, last, key)| {
            let found = rules.get(&key)?;
            let says = Says { action: found.action, rule: Some((scope, found.rule)), length: None };
            Some(Stretch { first, last, says })
        });
        let named: Vec<Stretch> = named.take(MOST_NETWORKS + 1).collect();
        count += named.len();
        named
    });
    (count <= MOST_NETWORKS).then_some(layer)
}

/// Both, and where they meet the one of `a` if it wins, else that of `b`.
fn combine(a: &[Stretch], b: &[Stretch], wins: impl Fn(&Says, &Says) -> bool) -> Vec<Stretch> {
    let mut made: Vec<Stretch> = Vec::with_capacity(a.len() + b.len());
    let mut push = |stretch: Stretch| match made.last_mut() {
        Some(last) if last.says == stretch.says && last.last.checked_add(1) == Some(stretch.first) => {
            last.last = stretch.last;
        }
        _ => made.push(stretch),
    };
    let (mut rest_a, mut rest_b) = (a.iter().copied(), b.iter().copied());
    let (mut next_a, mut next_b) = (rest_a.next(), rest_b.next());
    while let (Some(x), Some(y)) = (next_a, next_b) {
        if x.first != y.first {
            let is_a = x.first < y.first;
            let (ahead, behind) = if is_a { (x, y) } else { (y, x) };
            let next = if is_a { (&mut next_a, &mut rest_a) } else { (&mut next_b, &mut rest_b) };
            if ahead.last < behind.first {
                push(ahead);
                *next.0 = next.1.next();
            } else {
                push(Stretch { last: behind.first - 1, ..ahead });
                *next.0 = Some(Stretch { first: behind.first, ..ahead });
            }
            continue;
        }
        let last = x.last.min(y.last);
        push(Stretch { first: x.first, last, says: if wins(&x.says, &y.says) { x.says } else { y.says } });
        let left = |stretch: Stretch| (stretch.last > last).then(|| Stretch { first: last + 1, ..stretch });
        (next_a, next_b) = (left(x).or_else(|| rest_a.next()), left(y).or_else(|| rest_b.next()));
    }
    next_a.into_iter().chain(rest_a).chain(next_b).chain(rest_b).for_each(push);
    made
}
