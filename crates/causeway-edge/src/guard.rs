//! The guard as control sees it: which ports it watches over, on which interfaces, and what became of their packets.
//!
//! It stands before everything else and outlives the process. It is attached while somebody wants that: the operator, a
//! plan of automatic mitigation, or bans that the engine has found reasons for. Without rules it drops only what no stack
//! would take either: packets that contradict themselves, and TCP flags that nobody sends. Ports without a listener are
//! left to the stack, and so are packets of no connection: who sends them has to hear of it, by a reset.

mod bans;
mod compile;
mod fixed;
mod form;
mod kept;
mod life;
mod look;
mod mitigate;
mod policy;
mod slots;
mod symptoms;
mod syncookies;
mod tables;
mod tags;
mod teller;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{Counts, Guard, Listener, RuleSet, Samples, Settings};
use serde::Deserialize;

use crate::report::{GuardReport, GuardedApplication, ListenerReport};
use crate::sys;
pub use bans::Ban;
use bans::BanSets;
pub use fixed::Kept;
pub use life::{flush, is_left, probe};
use policy::{Automatic, Fixed, Held, Refused, Subject};
use slots::RateSlots;
use symptoms::Symptoms;
use tables::Wanted;
use tags::Tags;
pub use teller::Teller;
use teller::Telling;
use wire::{Plan, REST};

/// An index of the kernel's tables; 0 is nobody's.
const MOST_INDEX: u16 = 4095;

/// May the guard be used?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Attached while there is something to hold, or something is suspected.
    #[default]
    Auto,
    /// Always. The edge does not start without.
    On,
    Off,
}

#[derive(Debug, Default)]
enum Kernel {
    #[default]
    Untried,
    /// It is being loaded.
    Coming(JoinHandle<Result<Guard, String>>),
    Has(Guard),
    /// Why not, ready to stand in brackets.
    Without(String),
    /// Why not yet: it is tried again with the next change.
    Short(String),
}

/// An application in the kernel's tables.
#[derive(Clone, Copy, Debug)]
struct Entry {
    index: u16,
    /// What the index had counted for others.
    before: Counts,
}

/// As the kernel has it.
#[derive(Debug, Default)]
struct Written {
    tables: BTreeMap<Spot, PortTable>,
    addresses: BTreeMap<IpAddr, u16>,
    listeners: BTreeMap<u16, Listener>,
    rules: Option<RuleSet>,
    rates: RateSlots,
    settings: Option<Settings>,
    /// The tables of the fast path that it looks at.
    joined: Option<PathBuf>,
}

#[derive(Default)]
pub struct Guarding {
    mode: Mode,
    idle: Duration,
    pins: Option<PathBuf>,
    kernel: Kernel,
    entries: HashMap<String, Entry>,
    subjects: HashMap<String, Subject>,
    written: Written,
    /// By application: what the operator asks for.
    fixed: HashMap<String, Fixed>,
    sets: fixed::Sets,
    bans: BanSets,
    /// By application: what the plan in force asks for.
    automatic: HashMap<String, Automatic>,
    plan: Plan,
    /// What of the plan makes no sense, and what there is no room for.
    refused: Refused,
    without_room: Refused,
    tags: Tags,
    /// Where the plan is kept.
    kept_at: Option<PathBuf>,
    /// Why what was kept there was not believed.
    not_believed: Option<String>,
    /// Applications that nobody but the kernel serves: their clients' cookies could be taken by none.
    without_engine: BTreeSet<String>,
    /// What `net.ipv4.tcp_syncookies` was before cookies were wanted, if that was changed.
    syncookies: Option<u8>,
    samples: Option<Samples>,
    telling: Telling,
    symptoms: Symptoms,
    /// Attached, and nothing wants that any more.
    idle_since: Option<Instant>,
    /// By interface: why it is not guarded.
    unguarded: BTreeMap<u32, String>,
    /// Listeners for which the kernel's tables have no room.
    left_out: usize,
    /// What the kernel refused at the last change.
    trouble: Option<String>,
}

impl std::fmt::Debug for Guarding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guarding").field("mode", &self.mode).field("kernel", &self.kernel).finish_non_exhaustive()
    }
}

impl Guarding {
    /// After a change: watch over what runs. `flows`: where the tables of the fast path are pinned, if it is at work.
    pub fn follow(&mut self, listeners: &[ListenerReport], flows: Option<&Path>) {
        if self.mode == Mode::Off {
            return;
        }
        let wanted = tables::wanted(listeners, &sys::local_addresses());
        if wanted.ports.is_empty() && matches!(self.kernel, Kernel::Untried) {
            return;
        }
        // Loaded before anything wants it: in the middle of a flood there is no time for that.
        self.open();
        self.settle(self.mode == Mode::On);
        self.left_out = wanted.left_out;
        self.trouble = self.write(&wanted, flows).err().map(|error| error.to_string());
        self.attend();
    }

    /// Rules first, then the ports that they are for, then what nobody has any more: no packet meets a port without rules.
    fn write(&mut self, wanted: &Wanted, flows: Option<&Path>) -> io::Result<()> {
        let Kernel::Has(guard) = &self.kernel else { return Ok(()) };
        // The kernel waits for all processors at each of these: tens of milliseconds.
        if let Some(flows) = flows.filter(|flows| self.written.joined.as_deref() != Some(*flows)) {
            guard.join_flows(flows)?;
            self.written.joined = Some(flows.to_path_buf());
        }
        let left: BTreeSet<u16> = self.written.addresses.values().copied().collect();
        let entries = indices(wanted, &self.entries, &self.written.tables, &left, |index| guard.counts(index))?;
        self.subjects = entries.keys().map(|application| (application.clone(), wanted.subject(application))).collect();
        self.lay_bans();
        let held = self.held(&entries);
        self.hold(&held)?;
        let Kernel::Has(guard) = &self.kernel else { return Ok(()) };
        let tables = wanted.tables(|application| entries.get(application).map_or(0, |entry| entry.index));
        for spot in self.written.tables.keys().filter(|spot| !tables.contains_key(spot)) {
            guard.set_ports(*spot, &PortTable::default())?;
        }
        for (spot, table) in tables.iter().filter(|(spot, table)| self.written.tables.get(spot) != Some(table)) {
            guard.set_ports(*spot, table)?;
        }
        let rest = entries.get(REST).map(|entry| entry.index);
        let addresses: BTreeMap<IpAddr, u16> = tables.keys().filter_map(|spot| Some((spot.address(), rest?))).collect();
        for address in self.written.addresses.keys().filter(|address| !addresses.contains_key(address)) {
            guard.set_address(*address, None)?;
        }
        for (address, index) in addresses.iter().filter(|(at, index)| self.written.addresses.get(at) != Some(index)) {
            guard.set_address(*address, Some(*index))?;
        }
        let is_used: HashSet<u16> = entries.values().map(|entry| entry.index).collect();
        let had = self.entries.values().map(|entry| entry.index).chain(tables::indices_of(&self.written.tables));
        let gone: HashSet<u16> = had.chain(left).filter(|index| !is_used.contains(index)).collect();
        for index in &gone {
            guard.set_listener(*index, &Listener::default())?;
        }
        self.written.listeners.retain(|index, _| !gone.contains(index));
        (self.entries, self.written.tables, self.written.addresses) = (entries, tables, addresses);
        Ok(())
    }

    /// By index. While nothing wants packets to be judged, they pass untouched: at once, whatever is still attached.
    fn held(&mut self, entries: &HashMap<String, Entry>) -> BTreeMap<u16, Held> {
        self.without_room.clear();
        let (mut held, is_wanting) = (BTreeMap::new(), self.is_wanting());
        let (no_fixed, no_automatic) = (Fixed::default(), Automatic::default());
        let keeps_datagrams_whole = is_wanting && self.plan.holds.iter().any(|hold| hold.no_fragments);
        for (application, entry) in entries.iter().filter(|_| is_wanting) {
            let subject = self.subjects.get(application).cloned().unwrap_or_default();
            let fixed = self.fixed.get(application).unwrap_or(&no_fixed);
            let automatic = self.automatic.get(application).unwrap_or(&no_automatic);
            let (mut its, refused) = policy::held(&subject, fixed, automatic);
            its.wants.state |= its.wants.cookies;
            its.wants.cookies &= self.can_take_cookies(application);
            its.bans = self.bans.slot(application);
            its.wants.whole_datagrams |= application == REST && keeps_datagrams_whole;
            held.insert(entry.index, its);
            self.without_room.extend(refused);
        }
        for entry in entries.values().filter(|_| !is_wanting) {
            held.insert(entry.index, Held::default());
        }
        held
    }

    /// Rates and rules first, then the listeners that name them, then what nobody names any more. What the kernel has
    /// already is not written again.
    fn hold(&mut self, held: &BTreeMap<u16, Held>) -> io::Result<()> {
        let settings = self.settings(held.values().any(|held| held.wants.cookies));
        let Kernel::Has(guard) = &self.kernel else { return Ok(()) };
        if self.written.settings.as_ref() != Some(&settings) {
            guard.set_settings(&settings)?;
            self.written.settings = Some(settings.clone());
        }
        let (rates, slots) = self.written.rates.after(held.iter().map(|(index, held)| (*index, held.rates.as_slice())));
        for (slot, rate) in rates.new_since(&self.written.rates) {
            guard.set_rate(slot, Some(rate))?;
        }
        let rules: RuleSet = held
            .iter()
            .filter(|(_, held)| !held.rules.is_empty())
            .map(|(index, held)| (*index, held.rules.clone()))
            .collect();
        if self.written.rules.as_ref() != Some(&rules) {
            guard.swap_rules(&rules)?;
            self.written.rules = Some(rules);
        }
        for (index, held) in held {
            let mut listener = held.listener(slots.get(index).cloned().unwrap_or_default());
            listener.wants.cookies &= settings.cookies.is_taken; // else whoever connects would be refused after it
            if self.written.listeners.get(index) != Some(&listener) {
                guard.set_listener(*index, &listener)?;
                self.written.listeners.insert(*index, listener);
            }
        }
        for slot in self.written.rates.gone_in(&rates) {
            guard.set_rate(slot, None)?;
        }
        self.written.rates = rates;
        Ok(())
    }

    pub fn report(&self) -> GuardReport {
        let Kernel::Has(guard) = &self.kernel else {
            let not_believed = self.not_believed.clone();
            return GuardReport { missing: Some(self.missing()), not_believed, ..GuardReport::default() };
        };
        let mut verdicts = BTreeMap::new();
        let mut applications = Vec::new();
        for (application, entry) in self.entries.iter().filter(|(application, _)| *application != REST) {
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
        let is_on = !guard.attached().is_empty();
        GuardReport {
            is_on,
            missing: self.trouble.clone().or_else(|| (!is_on).then(|| self.missing())),
            not_believed: self.not_believed.clone(),
            interfaces: self.interfaces(),
            left_out: self.left_out,
            sessions: self.telling.known(),
            sessions_left_out: self.telling.left_out(),
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
    rest: &BTreeSet<u16>,
    counts: impl Fn(u16) -> io::Result<Counts>,
) -> io::Result<HashMap<String, Entry>> {
    let mut entries: HashMap<String, Entry> = HashMap::new();
    let mut is_used = HashSet::new();
    let rest_too = (!wanted.ports.is_empty()).then_some(REST);
    for application in wanted.applications().chain(rest_too) {
        if let Some(entry) = before.get(application) {
            is_used.insert(entry.index);
            entries.insert(application.to_string(), *entry);
        }
    }
    let is_known: HashSet<u16> = before.values().map(|entry| entry.index).collect();
    let left_by_others: HashSet<u16> = tables::indices_of(tables).chain(rest.iter().copied()).collect();
    // What belongs to no application comes with the first that does.
    let ports = wanted.ports.iter().map(|claim| (claim.application.as_str(), Some(claim)));
    for (application, claim) in ports.chain((!wanted.ports.is_empty()).then_some((REST, None))) {
        if entries.contains_key(application) {
            continue;
        }
        let left = match claim {
            Some(claim) => tables.get(&claim.spot).and_then(|table| table.get(claim.ports.first)),
            None => rest.first().copied(),
        };
        let left = left.filter(|index| !is_known.contains(index) && !is_used.contains(index));
        let entry = match left {
            Some(index) => Entry { index, before: Counts::default() },
            None => {
                let is_taken = |index: &u16| is_used.contains(index) || is_known.contains(index);
                let free = (1..=MOST_INDEX).find(|index| !is_taken(index) && !left_by_others.contains(index));
                let Some(index) = free else { continue };
                Entry { index, before: counts(index)? }
            }
        };
        is_used.insert(entry.index);
        entries.insert(application.to_string(), entry);
    }
    Ok(entries)
}

#[cfg(test)]
#[path = "guard/tests.rs"]
mod tests;
