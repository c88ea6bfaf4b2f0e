//! The guard as control sees it: which ports it watches over, on which interfaces, and what became of their packets.
//!
//! It stands before everything else and outlives the process. Without rules it drops only what no stack would take
//! either: packets that contradict themselves, and TCP flags that nobody sends. Ports without a listener are left to
//! the stack, and so are packets of no connection: who sends them has to hear of it, by a reset.

mod compile;
mod fixed;
mod life;
mod policy;
mod slots;
mod tables;
mod wire;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{Counts, Guard, Listener, RuleSet};
use serde::Deserialize;

use crate::report::{GuardReport, GuardedApplication, ListenerReport};
use crate::sys;
pub use fixed::Kept;
pub use life::{flush, is_left, probe};
use policy::{Automatic, Fixed, Held};
use slots::RateSlots;
use tables::Wanted;

/// An index of the kernel's tables; 0 is nobody's.
const MOST_INDEX: u16 = 4095;

/// May the guard be used?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Auto,
    /// The edge does not start without.
    On,
    Off,
}

#[derive(Debug, Default)]
enum Kernel {
    #[default]
    Untried,
    Has(Guard),
    /// Why not, ready to stand in brackets.
    Without(String),
}

/// An application in the kernel's tables.
#[derive(Clone, Copy, Debug)]
struct Entry {
    index: u16,
    /// What the index had counted for others.
    before: Counts,
}

#[derive(Debug, Default)]
pub struct Guarding {
    mode: Mode,
    pins: Option<PathBuf>,
    kernel: Kernel,
    entries: HashMap<String, Entry>,
    /// As the kernel has them.
    tables: BTreeMap<Spot, PortTable>,
    listeners: BTreeMap<u16, Listener>,
    rules: Option<RuleSet>,
    rates: RateSlots,
    /// By application: what the operator asks for.
    fixed: HashMap<String, Fixed>,
    /// Does the operator ask for anything that needs the guard?
    is_asked_for: bool,
    sets: fixed::Sets,
    /// Where the flow path's tables are that it knows.
    joined: Option<PathBuf>,
    /// By interface: why it is not guarded.
    unguarded: BTreeMap<u32, String>,
    /// Listeners for which the kernel's tables have no room.
    left_out: usize,
    /// What the kernel refused at the last change.
    trouble: Option<String>,
}

impl Guarding {
    /// After a change: watch over what runs. `flows`: where the tables of the fast path are pinned, if it is at work.
    pub fn follow(&mut self, listeners: &[ListenerReport], flows: Option<&Path>) {
        if !self.is_wanted() {
            return;
        }
        let wanted = tables::wanted(listeners, &sys::local_addresses());
        if wanted.ports.is_empty() && matches!(self.kernel, Kernel::Untried) {
            return;
        }
        self.open();
        self.left_out = wanted.left_out;
        self.trouble = self.write(&wanted, flows).err().map(|error| error.to_string());
        self.look();
    }

    /// Rules first, then the ports that they are for, then what nobody has any more: no packet meets a port without rules.
    fn write(&mut self, wanted: &Wanted, flows: Option<&Path>) -> io::Result<()> {
        let Kernel::Has(guard) = &self.kernel else { return Ok(()) };
        // The kernel waits for all processors at each such change.
        if let Some(flows) = flows.filter(|flows| self.joined.as_deref() != Some(*flows)) {
            guard.join_flows(flows)?;
            self.joined = Some(flows.to_path_buf());
        }
        let entries = indices(wanted, &self.entries, &self.tables, |index| guard.counts(index))?;
        let held = self.held(wanted, &entries);
        self.hold(&held)?;
        let Kernel::Has(guard) = &self.kernel else { return Ok(()) };
        let tables = wanted.tables(|application| entries.get(application).map_or(0, |entry| entry.index));
        for spot in self.tables.keys().filter(|spot| !tables.contains_key(spot)) {
            guard.set_ports(*spot, &PortTable::default())?;
        }
        for (spot, table) in tables.iter().filter(|(spot, table)| self.tables.get(spot) != Some(table)) {
            guard.set_ports(*spot, table)?;
        }
        let is_used: HashSet<u16> = entries.values().map(|entry| entry.index).collect();
        let had = self.entries.values().map(|entry| entry.index).chain(tables::indices_of(&self.tables));
        let gone: HashSet<u16> = had.filter(|index| !is_used.contains(index)).collect();
        for index in &gone {
            guard.set_listener(*index, &Listener::default())?;
        }
        self.listeners.retain(|index, _| !gone.contains(index));
        (self.entries, self.tables) = (entries, tables);
        Ok(())
    }

    /// By index.
    fn held(&self, wanted: &Wanted, entries: &HashMap<String, Entry>) -> BTreeMap<u16, Held> {
        let nothing = Fixed::default();
        let held = entries.iter().map(|(application, entry)| {
            let fixed = self.fixed.get(application).unwrap_or(&nothing);
            let (held, _) = policy::held(&wanted.subject(application), fixed, &Automatic::default());
            (entry.index, held)
        });
        held.collect()
    }

    /// Rates and rules first, then the listeners that name them, then what nobody names any more. What the kernel has
    /// already is not written again.
    fn hold(&mut self, held: &BTreeMap<u16, Held>) -> io::Result<()> {
        let Kernel::Has(guard) = &self.kernel else { return Ok(()) };
        let (rates, slots) = self.rates.after(held.iter().map(|(index, held)| (*index, held.rates.as_slice())));
        for (slot, rate) in rates.new_since(&self.rates) {
            guard.set_rate(slot, Some(rate))?;
        }
        let rules: RuleSet = held
            .iter()
            .filter(|(_, held)| !held.rules.is_empty())
            .map(|(index, held)| (*index, held.rules.clone()))
            .collect();
        if self.rules.as_ref() != Some(&rules) {
            guard.swap_rules(&rules)?;
            self.rules = Some(rules);
        }
        for (index, held) in held {
            let listener = held.listener(slots.get(index).cloned().unwrap_or_default());
            if self.listeners.get(index) != Some(&listener) {
                guard.set_listener(*index, &listener)?;
                self.listeners.insert(*index, listener);
            }
        }
        for slot in self.rates.gone_in(&rates) {
            guard.set_rate(slot, None)?;
        }
        self.rates = rates;
        Ok(())
    }

    pub fn report(&self) -> GuardReport {
        let Kernel::Has(guard) = &self.kernel else {
            return GuardReport { missing: Some(self.missing()), ..GuardReport::default() };
        };
        let mut verdicts = BTreeMap::new();
        let mut applications = Vec::new();
        for (application, entry) in &self.entries {
            let counts = guard.counts(entry.index).unwrap_or_default();
            let mut own = BTreeMap::new();
            for ((verdict, count), (_, before)) in counts.iter().zip(entry.before.iter()) {
                let packets = count.packets.saturating_sub(before.packets);
                *verdicts.entry(verdict.code()).or_default() += packets;
                if packets > 0 {
                    own.insert(verdict.code(), packets);
                }
            }
            applications.push(GuardedApplication { application: application.clone(), verdicts: own });
        }
        applications.sort_by(|a, b| a.application.cmp(&b.application));
        GuardReport {
            is_on: true,
            missing: self.trouble.clone(),
            interfaces: self.interfaces(),
            left_out: self.left_out,
            verdicts,
            applications,
        }
    }
}

/// Each application keeps the index that it has, or that an earlier process gave it; others get a free one.
fn indices(
    wanted: &Wanted,
    before: &HashMap<String, Entry>,
    tables: &BTreeMap<Spot, PortTable>,
    counts: impl Fn(u16) -> io::Result<Counts>,
) -> io::Result<HashMap<String, Entry>> {
    let mut entries: HashMap<String, Entry> = HashMap::new();
    let mut is_used = HashSet::new();
    for application in wanted.applications() {
        if let Some(entry) = before.get(application) {
            is_used.insert(entry.index);
            entries.insert(application.to_string(), *entry);
        }
    }
    let is_known: HashSet<u16> = before.values().map(|entry| entry.index).collect();
    for claim in &wanted.ports {
        if entries.contains_key(&claim.application) {
            continue;
        }
        let left = tables.get(&claim.spot).and_then(|table| table.get(claim.ports.first));
        let left = left.filter(|index| !is_known.contains(index) && !is_used.contains(index));
        let entry = match left {
            Some(index) => Entry { index, before: Counts::default() },
            None => {
                let is_taken = |index: &u16| is_used.contains(index) || is_known.contains(index);
                let left_by_others: HashSet<u16> = tables::indices_of(tables).collect();
                let free = (1..=MOST_INDEX).find(|index| !is_taken(index) && !left_by_others.contains(index));
                let Some(index) = free else { continue };
                Entry { index, before: counts(index)? }
            }
        };
        is_used.insert(entry.index);
        entries.insert(claim.application.clone(), entry);
    }
    Ok(entries)
}

#[cfg(test)]
#[path = "guard/tests.rs"]
mod tests;
