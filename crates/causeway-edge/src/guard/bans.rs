//! Bans of sources that attack with real connections, in the kernel: for each application that has any a prefix set, which
//! only SYNs are asked about.
//!
//! An entry ends when its ban does, whether or not anybody is there then. Whom the application's rules let in is let in
//! here too, from within a ban of more than one address. What has no room here is refused by the engine.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use causeway_bpf::guard::{Entry, Guard, Prefix};

use super::fixed::{Content, Sets};
use super::policy::BAN_TAGS;
use super::{Guarding, Kernel, Mode, compile};
use crate::application::Active;
use crate::detect::Source;
use crate::snapshot;

/// Applications with bans beyond it keep them in the engine: slots are for rules, too.
const MOST_APPLICATIONS: usize = 255;
/// Of one ban.
const MOST_EXCEPTIONS: usize = 64;
/// More are a set that is made anew: as fast then, and with no waste.
const MOST_CHANGES: usize = 64;

/// `until_ms` is of the kernel's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub source: Source,
    pub until_ms: u64,
}

/// A ban, and who is let in all the same.
#[derive(Clone, Debug)]
struct Wanted {
    source: Source,
    prefix: Prefix,
    until_ms: u64,
    exceptions: Vec<Prefix>,
}

type Entries = HashMap<Prefix, Entry>;

/// Where the kernel counts what a ban has dropped.
#[derive(Clone, Copy, Debug)]
struct Tag {
    tag: u16,
    /// Told already.
    counted: u64,
}

#[derive(Debug, Default)]
pub struct BanSets {
    /// By application.
    wanted: BTreeMap<String, Vec<Wanted>>,
    laid: BTreeMap<String, (u16, Entries)>,
    tags: HashMap<Source, Tag>,
    last_tag: u16,
}

impl Guarding {
    /// Make `bans` all that are in force. Answers whether listeners have to be followed for that.
    pub fn ban<'a>(&mut self, bans: impl Iterator<Item = (&'a Active, &'a Ban)>) -> bool {
        if self.mode == Mode::Off {
            return false;
        }
        let was_wanting = self.is_wanting();
        let mut wanted: BTreeMap<String, Vec<Wanted>> = BTreeMap::new();
        for (active, ban) in bans {
            let is_known = wanted.contains_key(&active.spec.id);
            if (is_known || wanted.len() < MOST_APPLICATIONS)
                && let Some(laid) = wanted_of(active, ban)
            {
                wanted.entry(active.spec.id.clone()).or_default().push(laid);
            }
        }
        self.bans.wanted = wanted;
        self.lay_bans() || was_wanting != self.is_wanting()
    }

    /// Into the kernel; answers whether an application has another set than before.
    pub(super) fn lay_bans(&mut self) -> bool {
        let Kernel::Has(guard) = &self.kernel else { return false };
        self.bans.lay(guard, &mut self.sets)
    }

    /// How many SYNs of each source were dropped since this was asked last.
    pub fn take_banned(&mut self) -> Vec<(Source, u64)> {
        let Kernel::Has(guard) = &self.kernel else { return Vec::new() };
        let counted = self.bans.tags.iter_mut().filter_map(|(source, tag)| {
            let count = guard.hits(tag.tag).ok()?.packets;
            let new = count.saturating_sub(std::mem::replace(&mut tag.counted, count));
            (new > 0).then_some((*source, new))
        });
        counted.collect()
    }
}

/// None: all of it is let in, or it has too many exceptions.
fn wanted_of(active: &Active, ban: &Ban) -> Option<Wanted> {
    let (first, length) = ban.source.prefix();
    let prefix = Prefix::new(first, length).ok()?;
    let (is_ipv4, within) = addresses(first, length);
    let trusted = active.spec.proxy_protocol_from.iter().filter_map(|sender| cut(sender, is_ipv4, &within));
    let rules = active.firewall.iter();
    let allowed = rules.flat_map(|rules| rules.allowed(active.id, active.spec.edge_ports, is_ipv4, &within));
    let mut exceptions = Vec::new();
    for run in joined(trusted.chain(allowed).collect()) {
        if run == within {
            return None;
        }
        exceptions.extend(compile::prefixes(is_ipv4, run, 0).take(MOST_EXCEPTIONS + 1));
        if exceptions.len() > MOST_EXCEPTIONS {
            return None;
        }
    }
    Some(Wanted { source: ban.source, prefix, until_ms: ban.until_ms, exceptions })
}

fn addresses(first: IpAddr, length: u8) -> (bool, RangeInclusive<u128>) {
    let beyond = |bits: u32| 1u128.checked_shl(bits - u32::from(length)).map_or(u128::MAX, |size| size - 1);
    match first {
        IpAddr::V4(first) => (true, first.to_bits().into()..=u128::from(first.to_bits()) | beyond(32)),
        IpAddr::V6(first) => (false, first.to_bits()..=first.to_bits() | beyond(128)),
    }
}

fn cut(sender: &snapshot::Prefix, is_ipv4: bool, within: &RangeInclusive<u128>) -> Option<RangeInclusive<u128>> {
    let (is_same, range) = addresses(sender.first(), sender.length());
    let both = *range.start().max(within.start())..=*range.end().min(within.end());
    (is_same == is_ipv4 && !both.is_empty()).then_some(both)
}

/// In order, apart from each other.
fn joined(mut runs: Vec<RangeInclusive<u128>>) -> Vec<RangeInclusive<u128>> {
    runs.sort_unstable_by_key(|run| *run.start());
    let mut joined: Vec<RangeInclusive<u128>> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.end().checked_add(1).is_none_or(|next| *run.start() <= next) => {
                *last = *last.start()..=*last.end().max(run.end());
            }
            _ => joined.push(run),
        }
    }
    joined
}

impl BanSets {
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Which set an application has.
    pub fn slot(&self, application: &str) -> Option<u16> {
        self.laid.get(application).map(|(slot, _)| *slot)
    }

    pub fn slots(&self) -> impl Iterator<Item = u16> {
        self.laid.values().map(|(slot, _)| *slot)
    }

    fn lay(&mut self, guard: &Guard, sets: &mut Sets) -> bool {
        self.give_tags(guard);
        let mut has_changed = false;
        self.laid.retain(|application, _| {
            let is_wanted = self.wanted.contains_key(application);
            has_changed |= !is_wanted;
            is_wanted
        });
        for (application, wanted) in &self.wanted {
            let entries = entries(wanted, &self.tags);
            match self.laid.get_mut(application) {
                Some((slot, laid)) => {
                    // What is refused is tried again with the next change; until then the engine refuses its sources.
                    if change(guard, *slot, laid, &entries).is_ok() {
                        *laid = entries;
                    }
                }
                None => {
                    let set = entries.iter().map(|(prefix, entry)| (*prefix, *entry)).collect();
                    if let Ok(slot) = sets.put(set, Content::Bans, guard) {
                        self.laid.insert(application.clone(), (slot, entries));
                        has_changed = true;
                    }
                }
            }
        }
        has_changed
    }

    /// A ban that stays keeps its tag; one that was another's begins at what that has counted.
    fn give_tags(&mut self, guard: &Guard) {
        let wanted: HashSet<Source> = self.wanted.values().flatten().map(|wanted| wanted.source).collect();
        self.tags.retain(|source, _| wanted.contains(source));
        let mut is_used: HashSet<u16> = self.tags.values().map(|tag| tag.tag).collect();
        for source in wanted {
            if self.tags.contains_key(&source) {
                continue;
            }
            let (first, last) = (*BAN_TAGS.start(), *BAN_TAGS.end());
            let from = if BAN_TAGS.contains(&self.last_tag) { self.last_tag } else { last };
            let mut round = (from..=last).skip(1).chain(first..=from);
            let Some(tag) = round.find(|tag| !is_used.contains(tag)) else { return };
            let counted = guard.hits(tag).map_or(0, |hits| hits.packets);
            is_used.insert(tag);
            self.last_tag = tag;
            self.tags.insert(source, Tag { tag, counted });
        }
    }
}

/// Exceptions last: of a prefix that is banned and one that is let in, the latter stays. They need no end, since they
/// only say that there is no ban.
fn entries(wanted: &[Wanted], tags: &HashMap<Source, Tag>) -> Entries {
    let bans = wanted.iter().map(|wanted| {
        let tag = tags.get(&wanted.source).map_or(0, |tag| tag.tag);
        (wanted.prefix, Entry { tag, expires_ns: Some(wanted.until_ms * 1_000_000), ..Entry::block() })
    });
    let exceptions = wanted.iter().flat_map(|wanted| &wanted.exceptions);
    bans.chain(exceptions.map(|prefix| (*prefix, Entry::allow()))).collect()
}

fn change(guard: &Guard, slot: u16, before: &Entries, after: &Entries) -> std::io::Result<()> {
    let gone = before.keys().filter(|prefix| !after.contains_key(prefix)).map(|prefix| (*prefix, None));
    let new = after.iter().filter(|(prefix, entry)| before.get(prefix) != Some(entry));
    let changes: Vec<(Prefix, Option<Entry>)> =
        gone.chain(new.map(|(prefix, entry)| (*prefix, Some(*entry)))).collect();
    if changes.len() > MOST_CHANGES {
        return guard.swap_prefixes(slot, after.iter().map(|(prefix, entry)| (*prefix, *entry)).collect());
    }
    changes.into_iter().try_for_each(|(prefix, entry)| guard.change_prefix(slot, prefix, entry).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::Width;

    #[test]
    fn runs_are_joined_where_they_touch() {
        assert_eq!(joined(vec![7..=9, 1..=3, 4..=5, 8..=8, 20..=u128::MAX, 30..=40]), [1..=5, 7..=9, 20..=u128::MAX]);
    }

    #[test]
    fn a_ban_is_of_all_addresses_of_its_prefix() {
        assert_eq!(addresses("198.51.100.0".parse().unwrap(), 24), (true, 0xc633_6400..=0xc633_64ff));
        assert_eq!(addresses("::".parse().unwrap(), 0), (false, 0..=u128::MAX));
        let (_, range) = addresses("2001:db8::".parse().unwrap(), 56);
        assert_eq!(range.end() - range.start(), (1 << 72) - 1);
    }

    #[test]
    fn whom_the_rules_let_in_is_not_banned_with_the_network_around_it() {
        let source = Source::of(1, "198.51.100.7".parse().unwrap(), Width::Network);
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let exceptions = vec![prefix("198.51.100.9")];
        let wanted = Wanted { source, prefix: prefix("198.51.100.0/24"), until_ms: 5, exceptions };
        let laid = entries(&[wanted], &HashMap::from([(source, Tag { tag: 60_000, counted: 0 })]));
        assert_eq!(laid.len(), 2);
        assert_eq!(laid[&prefix("198.51.100.9")], Entry::allow());
        let ban = Entry { tag: 60_000, expires_ns: Some(5_000_000), ..Entry::block() };
        assert_eq!(laid[&prefix("198.51.100.0/24")], ban);
    }
}
