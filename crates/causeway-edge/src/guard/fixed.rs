//! What customers' rules and limits ask of the kernel: compiled, laid into prefix sets beside those at work, and told
//! apart by who judges then.
//!
//! A set is never changed: a new one takes another slot, and a listener goes from one to the next in one step. One that
//! nobody names any more stays for a while: a packet may be on its way through it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_bpf::guard::{Access, Entry, Guard, PrefixSet};

use super::policy::{BAN_TAGS, Fixed};
use super::{Guarding, Kernel, Mode, compile};
use crate::application::Active;
use crate::carry::why;
use crate::firewall::blobs::Blob;
use crate::firewall::flat::{Long, RuleAt};
use crate::firewall::{Firewall, Hits};
use crate::report::Reason;

/// Slot 0 is none.
const MOST_SLOT: u16 = 511;
const LOOPBACK: &str = "clients of loopback addresses do not come by the kernel's guard";
const REST: Duration = Duration::from_millis(500);

/// By application that has rules or limits: may the kernel carry it as far as those go? Else the engine judges, and why.
pub type Kept = HashMap<String, Result<(), Reason>>;

/// What a slot of the kernel holds.
#[derive(Debug)]
pub(super) enum Content {
    Direct(PrefixSet),
    /// A list, and where its hits are counted.
    Long(Arc<Blob>, u16),
    /// It changes while it is in force.
    Bans,
    /// Put there by an earlier process.
    Left,
}

/// Where the kernel counts what a rule has dropped.
#[derive(Debug)]
struct Tag {
    tag: u16,
    hits: Arc<Hits>,
    /// Of what the kernel has: known already.
    counted: u64,
}

impl Tag {
    fn count(&mut self, guard: &Guard) {
        let count = dropped(guard, self.tag);
        if count > self.counted {
            self.hits.add(count - self.counted);
            self.counted = count;
        }
    }
}

/// What was found for an application that has not changed since.
#[derive(Debug)]
struct Found {
    active: Arc<Active>,
    fixed: Fixed,
    missing: Option<Reason>,
}

#[derive(Debug, Default)]
pub struct Sets {
    slots: BTreeMap<u16, Content>,
    resting: Vec<(u16, Instant)>,
    last_slot: u16,
    /// By rule.
    tags: HashMap<String, Tag>,
    used_tags: HashSet<u16>,
    last_tag: u16,
    found: HashMap<String, Found>,
}

impl Guarding {
    /// Before a change: have what is new ready in the kernel, in force for nobody yet, and packets come by.
    pub fn prepare<'a>(&mut self, wanted: impl Iterator<Item = &'a Arc<Active>>) -> Kept {
        let wanted: Vec<&Arc<Active>> = wanted.filter(|active| has_rules(active) || has_limits(active)).collect();
        let is_guardable = |active: &Arc<Active>| active.spec.edge_addresses.iter().any(|at| !at.is_loopback());
        if self.mode != Mode::Off && wanted.iter().any(|active| is_guardable(active)) {
            self.open();
            self.settle(true); // in force when the answer is there
        }
        let Kernel::Has(guard) = &self.kernel else {
            self.fixed.clear();
            let why_not = format!("the kernel's guard is not at work ({})", self.missing());
            let why_not = |active| if is_guardable(active) { &why_not } else { LOOPBACK };
            return wanted.into_iter().map(|active| (id(active), Err(refusal(active, why_not(active))))).collect();
        };
        let before = std::mem::take(&mut self.sets.found);
        let mut same: HashMap<View, Laid> = HashMap::new();
        for active in wanted.iter().filter(|active| is_guardable(active)) {
            let is_as_it_was = |found: &&Found| Arc::ptr_eq(&found.active, active);
            let found = match before.get(&active.spec.id).filter(is_as_it_was) {
                Some(found) if found.missing.is_none() || found.fixed.is_wanting => {
                    Found { active: (*active).clone(), fixed: found.fixed.clone(), missing: found.missing.clone() }
                }
                _ => self.sets.find(active, guard, &mut same), // what the kernel refused it may take now
            };
            self.sets.found.insert(active.spec.id.clone(), found);
        }
        let found = self.sets.found.iter();
        self.fixed = found.map(|(application, found)| (application.clone(), found.fixed.clone())).collect();
        self.sets.forget_tags();
        self.attend();
        let unguarded = self.unguarded.iter().next().map(|(interface, reason)| {
            format!("the kernel's guard is missing on {} ({reason})", super::life::name_of(*interface))
        });
        let kept = wanted.into_iter().map(|active| {
            let missing = match self.sets.found.get(&active.spec.id) {
                None => Some(refusal(active, LOOPBACK)),
                Some(found) if found.missing.is_some() || !found.fixed.is_wanting => found.missing.clone(),
                Some(_) => unguarded.as_ref().map(|why_not| refusal(active, why_not)),
            };
            (id(active), missing.map_or(Ok(()), Err))
        });
        kept.collect()
    }

    /// Are all packets to this application judged by what was prepared for it? If not it must not be carried.
    pub fn holds(&self, application: &str) -> bool {
        let Some(fixed) = self.fixed.get(application).filter(|fixed| fixed.is_wanting) else { return true };
        let held = self.entries.get(application).and_then(|entry| self.written.listeners.get(&entry.index));
        let rates = held.map_or(0, |listener| listener.rates.len());
        let has_all = held.is_some_and(|listener| listener.sets == fixed.sets) && rates >= fixed.rates.len();
        self.trouble.is_none() && self.unguarded.is_empty() && self.left_out == 0 && has_all
    }

    /// Into the counts of the rules: what the kernel has dropped by them.
    pub fn count_hits(&mut self) {
        let Kernel::Has(guard) = &self.kernel else { return };
        self.sets.tags.values_mut().for_each(|tag| tag.count(guard));
    }

    /// Take out what nobody has named for a while.
    pub(super) fn tidy(&mut self) {
        let Kernel::Has(guard) = &self.kernel else { return };
        let named = self.written.listeners.values().flat_map(|listener| &listener.sets);
        let named = named.chain(self.fixed.values().flat_map(|fixed| &fixed.sets)).copied();
        let of_bans = self.written.listeners.values().filter_map(|listener| listener.bans);
        let named: HashSet<u16> = named.chain(of_bans).chain(self.bans.slots()).collect();
        self.sets.tidy(guard, &named);
    }
}

fn id(active: &Active) -> String {
    active.spec.id.clone()
}

fn has_rules(active: &Active) -> bool {
    active.firewall.as_ref().is_some_and(|firewall| !firewall.is_empty_for(active.id))
}

fn has_limits(active: &Active) -> bool {
    !active.spec.limits.is_empty()
}

fn refusal(active: &Active, why_not: &str) -> Reason {
    match has_rules(active) {
        true => why("ip_firewall", format!("IP access rules (ip_firewall) are checked by the engine: {why_not}")),
        false => why("limits", format!("limits are kept by the engine: {why_not}")),
    }
}

fn dropped(guard: &Guard, tag: u16) -> u64 {
    guard.hits(tag).map_or(0, |hits| hits.packets.saturating_sub(hits.established))
}

/// Applications with the same one have the same sets.
type View = (*const Firewall, Vec<(usize, bool)>, Vec<String>);

/// Rules in slots of the kernel.
#[derive(Clone, Debug, Default)]
struct Laid {
    sets: Vec<u16>,
    /// Why the engine judges all the same.
    missing: Option<String>,
    has_exceptions: bool,
}

impl Sets {
    /// As an earlier process has left them. It may be about to go and have slots that rest: ours are elsewhere.
    pub fn left(slots: impl Iterator<Item = u16>) -> Sets {
        let slots: BTreeMap<u16, Content> = slots.map(|slot| (slot, Content::Left)).collect();
        let last_slot = slots.keys().copied().max().unwrap_or_default();
        Sets { slots, last_slot, ..Sets::default() }
    }

    fn find(&mut self, active: &Arc<Active>, guard: &Guard, same: &mut HashMap<View, Laid>) -> Found {
        let mut laid = Laid::default();
        if let Some(firewall) = active.firewall.as_ref().filter(|_| has_rules(active)) {
            let trusted = active.spec.proxy_protocol_from.iter().map(|it| format!("{}/{}", it.first(), it.length()));
            let view = (Arc::as_ptr(firewall), firewall.view(active.id, active.spec.edge_ports), trusted.collect());
            laid = same.entry(view).or_insert_with(|| self.compile(firewall, active, guard)).clone();
        }
        let mut missing = laid.missing.map(|why_not| refusal(active, &why_not));
        let rates = compile::limits(&active.spec, laid.has_exceptions);
        if let Err(why_not) = &rates {
            let kept = || why("limits", format!("limits are kept by the engine: {why_not}"));
            missing = missing.or_else(|| Some(kept()));
        }
        let (sets, rates) = (laid.sets, rates.unwrap_or_default());
        let is_wanting = !sets.is_empty() || !rates.is_empty();
        Found { active: active.clone(), fixed: Fixed { is_wanting, sets, rates, ..Fixed::default() }, missing }
    }

    fn compile(&mut self, firewall: &Firewall, active: &Active, guard: &Guard) -> Laid {
        let compiled = compile::rules(firewall, active.id, &active.spec);
        let has_exceptions = compiled.direct.iter().any(|laid| laid.access == Access::Allow);
        match self.lay(firewall, &compiled, guard) {
            Ok(sets) => Laid { sets, missing: compiled.missing, has_exceptions },
            Err(why_not) => Laid { missing: Some(why_not), ..Laid::default() },
        }
    }

    /// Into slots of the kernel, those that are there already if they hold the same.
    fn lay(&mut self, firewall: &Firewall, compiled: &compile::Compiled, guard: &Guard) -> Result<Vec<u16>, String> {
        let mut sets = Vec::new();
        if let Some(long) = &compiled.long {
            sets.push(self.long_slot(firewall, long, guard)?);
        }
        let mut set = Vec::with_capacity(compiled.direct.len());
        for laid in &compiled.direct {
            // What is let in is counted where it comes in: a packet is no flow.
            let counted = laid.rule.filter(|_| laid.access == Access::Block);
            let tag = counted.map_or(Ok(0), |rule| self.tag(firewall, rule, guard))?;
            set.push((laid.prefix, Entry { access: laid.access, tag, expires_ns: None }));
        }
        let set: PrefixSet = set.into_iter().collect();
        if !set.is_empty() {
            let is_it = |content: &Content| matches!(content, Content::Direct(had) if *had == set);
            let slot = match self.slots.iter().find(|(_, content)| is_it(content)) {
                Some((slot, _)) => *slot,
                None => self.put(set.clone(), Content::Direct(set), guard)?,
            };
            sets.push(slot);
        }
        Ok(sets)
    }

    fn long_slot(&mut self, firewall: &Firewall, long: &Long, guard: &Guard) -> Result<u16, String> {
        let tag = self.tag(firewall, long.rule, guard)?;
        let is_it = |content: &Content| matches!(content, Content::Long(list, counted) if Arc::ptr_eq(list, &long.list) && *counted == tag);
        if let Some((slot, _)) = self.slots.iter().find(|(_, content)| is_it(content)) {
            return Ok(*slot);
        }
        let entry = Entry { tag, ..Entry::block() };
        let set = compile::list(long).map(|prefix| (prefix, entry)).collect();
        self.put(set, Content::Long(long.list.clone(), tag), guard)
    }

    pub(super) fn put(&mut self, set: PrefixSet, content: Content, guard: &Guard) -> Result<u16, String> {
        let all = 1..=MOST_SLOT;
        let mut free = (self.last_slot + 1..=MOST_SLOT).chain(all).filter(|slot| !self.slots.contains_key(slot));
        let slot = free.next().ok_or_else(|| format!("more than {MOST_SLOT} different sets of rules"))?;
        self.last_slot = slot;
        guard.swap_prefixes(slot, set).map_err(|error| format!("the kernel refused them: {error}"))?;
        self.slots.insert(slot, content);
        Ok(slot)
    }

    fn tag(&mut self, firewall: &Firewall, rule: RuleAt, guard: &Guard) -> Result<u16, String> {
        let (id, hits) = firewall.rule(rule);
        if let Some(known) = self.tags.get_mut(id) {
            known.hits = hits.clone();
            return Ok(known.tag);
        }
        let all = 1..*BAN_TAGS.start();
        let mut free = (self.last_tag + 1..all.end).chain(all.clone()).filter(|tag| !self.used_tags.contains(tag));
        let tag = free.next().ok_or("more rules than the kernel has counters for")?;
        self.last_tag = tag;
        self.used_tags.insert(tag);
        self.tags.insert(id.to_string(), Tag { tag, hits: hits.clone(), counted: dropped(guard, tag) });
        Ok(tag)
    }

    /// Of rules that are gone.
    fn forget_tags(&mut self) {
        self.tags.retain(|_, tag| {
            let is_gone = Arc::strong_count(&tag.hits) == 1;
            if is_gone {
                self.used_tags.remove(&tag.tag);
            }
            !is_gone
        });
    }

    fn tidy(&mut self, guard: &Guard, named: &HashSet<u16>) {
        self.resting.retain(|(slot, _)| !named.contains(slot));
        for slot in self.slots.keys().filter(|slot| !named.contains(slot)) {
            if !self.resting.iter().any(|(resting, _)| resting == slot) {
                self.resting.push((*slot, Instant::now()));
            }
        }
        let (over, resting): (Vec<_>, Vec<_>) = self.resting.drain(..).partition(|(_, since)| since.elapsed() >= REST);
        self.resting = resting;
        for (slot, since) in over {
            match guard.swap_prefixes(slot, PrefixSet::default()) {
                Ok(()) => drop(self.slots.remove(&slot)),
                Err(_) => self.resting.push((slot, since)), // tried again
            }
        }
    }
}
