//! The fast path as control sees it: which listeners the kernel carries, and what it was told.
//!
//! The engine listens on all its ports all the same: the kernel's path is a short cut in front of it, set up after the
//! engine serves, and it outlives the process. Whatever cannot be carried is served by the engine, with a reason; but
//! for transparent applications, which the engine has no sockets for: those are refused.

mod book;
mod choice;
pub mod here;
mod judge;
mod keeper;
mod life;
mod round;
mod tell;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use causeway_bpf::Spot;
use causeway_bpf::flow::{Carried, FlowPath, PortTable};
use serde::Deserialize;

use crate::application::Active;
use crate::dispatch;
use crate::event::{Cause, Events};
use crate::firewall::Firewall;
use crate::guard::Kept;
use crate::report::{CarriedBy, CarrierReport, FlowPathReport, Judged, ListenerReport, ListenerState, Reason};
use crate::snapshot::{Carrier, OnDelete, Protocol, Settings};
use crate::sys::Wake;
pub use book::Begun;
use book::{Book, Leaving};
use choice::Carriage;
pub use choice::{why, why_refused};
use here::Here;
use keeper::{Keeper, Orders};
pub use life::{flush, is_left, probe};
use tell::Clocks;

/// Beyond so many indices their counts are read by the thread alone, and not at each look.
const FEW: usize = 256;

/// Each costs 128 KiB of the kernel's memory.
const MOST_SPOTS: usize = 256;
const LOOK_AGAIN_MS: u64 = 10_000;
/// Reasons that addresses and routes may take away.
const MAY_PASS: [&str; 3] = ["origin_unreachable", "edge_loopback", "origin_local"];

/// When the kernel carries flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Where this machine lets us.
    #[default]
    Auto,
    /// The edge does not start without.
    On,
    Off,
}

/// What the operator has said of the fast path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub mode: Mode,
    /// Room over IPv4; over IPv6 a quarter of it.
    pub flows: u32,
}

#[derive(Debug, Default)]
enum Kernel {
    #[default]
    Untried,
    Has(Arc<FlowPath>),
    /// Why not, ready to stand in brackets.
    Without(String),
}

type Choice = Result<Carriage, Reason>;

/// What the thread needs that only the edge has.
pub type Recarry = Arc<dyn Fn() -> bool + Send + Sync>;
/// Is this client banned from the application?
pub type Refuses = Arc<dyn Fn(u128, IpAddr) -> Option<Cause> + Send + Sync>;

#[derive(Default)]
pub struct Carry {
    mode: Mode,
    flows: u32,
    pins: Option<PathBuf>,
    kernel: Kernel,
    book: Arc<Book>,
    tables: BTreeMap<Spot, PortTable>,
    /// By application.
    reports: HashMap<String, Vec<CarrierReport>>,
    here: Here,
    events: Option<Events>,
    recarry: Option<Recarry>,
    refuses: Option<Refuses>,
    thread: Option<JoinHandle<Keeper>>,
    wake: Option<Arc<Wake>>,
    orders: Arc<Orders>,
    /// Another process still has the flows.
    is_held: bool,
    /// What was chosen for applications that have not changed since.
    chosen: HashMap<(String, IpAddr), (Arc<Active>, Choice)>,
    /// Who has rules or limits: may it be carried?
    kept: Kept,
    /// Applications whose new flows are the engine's, because their SYNs are answered by cookies: whoever brings one back
    /// is the stack's.
    left_to_engine: BTreeSet<String>,
    /// When addresses and ways were looked at, on the monotonic clock; none: not yet.
    looked_ms: Option<u64>,
}

impl std::fmt::Debug for Carry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carry").field("mode", &self.mode).field("kernel", &self.kernel).finish_non_exhaustive()
    }
}

/// What is wanted after a change.
#[derive(Debug, Default)]
pub struct Plan {
    /// By application and edge address.
    carried: HashMap<(String, IpAddr), (u16, Carriage)>,
    tables: BTreeMap<Spot, PortTable>,
    told: BTreeMap<u16, (Arc<Active>, Carried)>,
    /// Applications that nobody but the kernel may serve.
    transparent: HashSet<String>,
    /// By application, carried or not: flows that are there are judged by the newest rules.
    firewalls: HashMap<u128, Arc<Firewall>>,
}

impl Carry {
    /// Decide for every listener, before anything changes. Loads the program if that was not tried and it is needed.
    /// `kept`: may the kernel carry what has rules or limits?
    pub fn plan<'a>(&mut self, wanted: impl Iterator<Item = &'a Arc<Active>>, settings: &Settings, kept: Kept) -> Plan {
        // The thread hears of changes; without it there is nothing but a look.
        if self.looked_ms.is_none() || self.thread.is_none() || !self.here.is_for(&settings.source_addresses) {
            self.look(settings);
        }
        let mut before = std::mem::take(&mut self.chosen);
        let is_kept_as_it_was = |id: &str| kept.get(id) == self.kept.get(id);
        before.retain(|(id, _), _| is_kept_as_it_was(id));
        self.kept = kept;
        self.reports.clear();
        let mut plan = Plan::default();
        for active in wanted {
            plan.firewalls.extend(active.firewall.clone().map(|firewall| (active.id, firewall)));
            if active.spec.transparent {
                plan.transparent.insert(active.spec.id.clone());
            }
            let mut reports = Vec::new();
            let judged = self.kept.get(&active.spec.id).map(judged_by);
            for edge in &active.spec.edge_addresses {
                if self.left_to_engine.contains(&active.spec.id) {
                    let reason = why("cookies", "its SYNs are answered by cookies while it is under attack".into());
                    let report = CarrierReport::new(&active.spec, *edge, Some(reason));
                    reports.push(CarrierReport { judged: judged.clone(), ..report });
                    continue;
                }
                let key = (active.spec.id.clone(), *edge);
                let chosen = match before.get(&key) {
                    Some((same, chosen)) if Arc::ptr_eq(same, active) => chosen.clone(),
                    _ => self.choose(active, *edge),
                };
                self.chosen.insert(key, (active.clone(), chosen.clone()));
                let added = chosen.and_then(|carriage| {
                    plan.has_room(active.spec.protocol, &carriage.at)?;
                    plan.add(active, *edge, self.index(active, edge.is_ipv4())?, carriage);
                    Ok(())
                });
                let report = CarrierReport::new(&active.spec, *edge, added.err());
                reports.push(CarrierReport { judged: judged.clone(), ..report });
            }
            self.reports.insert(active.spec.id.clone(), reports);
        }
        plan
    }

    /// New flows of these applications, and of no others on this account, are left to the engine from the next plan on.
    /// Answers whether that is a change.
    pub fn leave_to_engine(&mut self, applications: BTreeSet<String>) -> bool {
        let is_new = self.left_to_engine != applications;
        self.left_to_engine = applications;
        is_new
    }

    /// See this machine as it is now.
    pub fn look(&mut self, settings: &Settings) {
        self.here = Here::look(&settings.source_addresses);
        self.looked_ms = Some(Clocks::now().monotonic_ms);
        self.chosen.clear();
    }

    /// Was anything planned yet? Before, what an earlier process has left is not to be touched.
    pub fn is_planned(&self) -> bool {
        self.looked_ms.is_some()
    }

    /// Is there something that a change of addresses or routes would make possible, and nobody who would hear of it?
    pub fn should_look(&self) -> bool {
        let is_idle = self.thread.is_none() && self.mode != Mode::Off && !self.is_held;
        let is_due = self.looked_ms.is_some_and(|at_ms| Clocks::now().monotonic_ms > at_ms + LOOK_AGAIN_MS);
        let reasons = || self.reports.values().flatten().filter_map(|report| report.reason.as_ref());
        is_idle && is_due && reasons().any(|reason| MAY_PASS.contains(&reason.code))
    }

    fn choose(&mut self, active: &Active, edge: IpAddr) -> Result<Carriage, Reason> {
        if self.mode == Mode::Off && active.spec.carrier != Carrier::Engine {
            return Err(why("fast_path_off", "the fast path is switched off (--fast-path off)".into()));
        }
        let carriage = choice::choose(active, edge, &self.here, self.kept.get(&active.spec.id))?;
        self.open();
        match &self.kernel {
            Kernel::Has(_) => Ok(carriage),
            Kernel::Without(reason) => Err(why("fast_path_missing", format!("not available here ({reason})"))),
            Kernel::Untried => Err(why("fast_path_off", "the fast path is not to be used".into())),
        }
    }

    fn index(&mut self, active: &Arc<Active>, is_ipv4: bool) -> Result<u16, Reason> {
        let mut entries = self.book.open();
        if let Some(index) = entries.index_of(active.id, is_ipv4) {
            return Ok(index);
        }
        let all_taken = || why("many_applications", "the kernel's table of applications is full".into());
        let index = entries.free().ok_or_else(all_taken)?;
        entries.of.insert(index, book::Entry::new(active.id, is_ipv4));
        Ok(index)
    }

    /// Before listeners go: ports that are given up, or change hands, open no flows any more.
    pub fn shrink(&mut self, plan: &Plan) {
        let Kernel::Has(path) = &self.kernel else { return };
        for (spot, table) in &mut self.tables {
            let mut left = table.clone();
            let wanted = plan.tables.get(spot);
            for (ports, index) in table.runs() {
                for port in ports {
                    if wanted.is_none_or(|wanted| wanted.get(port) != Some(index)) {
                        left.set(port..=port, 0);
                    }
                }
            }
            if left != *table && path.set_ports(*spot, &left).is_ok() {
                *table = left;
            }
        }
        self.tables.retain(|_, table| !table.is_empty());
    }

    /// After listeners have come: flows of those that are there may be carried. `listeners` learn who carries them.
    /// Those of transparent applications run if the kernel carries them, and are refused if not.
    /// `is_held`: do the rules and limits that the kernel is to keep hold now?
    pub fn switch(&mut self, plan: Plan, listeners: &mut [ListenerReport], is_held: impl Fn(&str) -> bool) {
        self.judge_transparent(&plan, listeners);
        let mut tables: BTreeMap<Spot, PortTable> = BTreeMap::new();
        let mut failed = HashMap::new();
        if let Kernel::Has(path) = &self.kernel {
            let mut entries = self.book.open();
            let now_ms = Clocks::now().monotonic_ms;
            for (index, (active, told)) in &plan.told {
                if !is_held(&active.spec.id) {
                    failed.insert(*index, "its rules are not in force there".to_string());
                    continue;
                }
                match entries.tell(path, *index, told.clone(), now_ms) {
                    Ok(()) => {
                        if let Some(entry) = entries.of.get_mut(index) {
                            (entry.active, entry.leaving) = (Some(active.clone()), None);
                        }
                    }
                    Err(error) => drop(failed.insert(*index, error.to_string())),
                }
            }
        }
        // Wildcards first: an address of its own wins.
        let (wildcard, concrete): (Vec<_>, Vec<_>) =
            listeners.iter().filter(|l| l.state != ListenerState::Refused).partition(|l| l.address.is_unspecified());
        for listener in wildcard.into_iter().chain(concrete) {
            let found = plan.carried.get(&(listener.application.clone(), listener.address));
            // A listener that has its own reason not to be carried hides the wildcard's.
            let (index, at) = match found {
                Some((index, carriage)) if !failed.contains_key(index) => (*index, carriage.at.clone()),
                _ => (0, vec![listener.address]),
            };
            for address in at {
                let table = tables.entry(dispatch::spot(listener.protocol, address)).or_default();
                table.set(listener.ports.first..=listener.ports.last, index);
            }
        }
        tables.retain(|_, table| !table.is_empty());
        self.write(tables);
        self.leave(&plan);
        for ((id, edge), (index, _)) in &plan.carried {
            if let Some(error) = failed.get(index)
                && let Some(report) = self.reports.get_mut(id).and_then(|r| r.iter_mut().find(|r| r.address == *edge))
            {
                let reason = why("kernel_refused", format!("the kernel refused it: {error}"));
                let judged = report.judged.take();
                *report = CarrierReport { judged, ..CarrierReport::new(&plan.told[index].0.spec, *edge, Some(reason)) };
            }
        }
        self.judge_transparent(&plan, listeners);
        for listener in listeners.iter_mut().filter(|l| l.state != ListenerState::Refused) {
            let reports = self.reports.get(&listener.application);
            let report = reports.and_then(|reports| reports.iter().find(|r| r.address == listener.address));
            if let Some(report) = report {
                (listener.carrier, listener.not_carried) = (report.carrier, report.reason.clone());
            }
        }
        if !self.is_held {
            self.attach();
        }
    }

    /// No engine stands behind these listeners.
    fn judge_transparent(&self, plan: &Plan, listeners: &mut [ListenerReport]) {
        for listener in listeners.iter_mut().filter(|listener| plan.transparent.contains(&listener.application)) {
            if listener.reason.is_some() && listener.not_carried.is_none() {
                continue; // somebody is in the way
            }
            let reports = self.reports.get(&listener.application);
            let report = reports.and_then(|reports| reports.iter().find(|r| r.address == listener.address));
            let reason = report.and_then(|report| report.reason.clone());
            listener.state = match (&reason, listener.state) {
                (Some(_), _) => ListenerState::Refused,
                (None, ListenerState::Refused) => ListenerState::Running,
                (None, as_it_was) => as_it_was,
            };
            (listener.carrier, listener.not_carried, listener.reason) = (CarriedBy::Kernel, reason.clone(), reason);
        }
    }

    fn write(&mut self, wanted: BTreeMap<Spot, PortTable>) {
        let Kernel::Has(path) = &self.kernel else { return };
        for spot in self.tables.keys().filter(|spot| !wanted.contains_key(spot)).copied().collect::<Vec<_>>() {
            if path.set_ports(spot, &PortTable::default()).is_ok() {
                self.tables.remove(&spot);
            }
        }
        for (spot, table) in wanted {
            if self.tables.get(&spot) != Some(&table) && path.set_ports(spot, &table).is_ok() {
                self.tables.insert(spot, table);
            }
        }
    }

    /// Entries that nothing wants any more keep their flows, for as long as those may last.
    fn leave(&mut self, plan: &Plan) {
        let now_ms = Clocks::now().monotonic_ms;
        let mut entries = self.book.open();
        let is_served: HashSet<u128> = self.reports.keys().filter_map(|id| u128::from_str_radix(id, 16).ok()).collect();
        for (index, entry) in &mut entries.of {
            entry.firewall = plan.firewalls.get(&entry.id).cloned();
            if plan.told.contains_key(index) || entry.leaving.is_some() {
                continue;
            }
            let cut_at_ms = match &entry.active {
                // Only carried otherwise now: its connections go on.
                _ if is_served.contains(&entry.id) => None,
                Some(active) if active.spec.on_delete == OnDelete::Close => Some(now_ms),
                Some(active) => Some(now_ms + active.spec.drain_ms),
                None => Some(now_ms + DRAIN_UNKNOWN_MS),
            };
            entry.leaving = Some(Leaving { cut_at_ms });
        }
        let has_cuts = entries.of.values().any(|entry| entry.firewall.as_ref().is_some_and(|rules| rules.cuts()));
        drop(entries);
        self.orders.is_urgent.fetch_or(has_cuts, Ordering::AcqRel);
        self.rouse();
    }

    /// Where its tables are pinned, if it is at work.
    pub fn tables_at(&self) -> Option<&Path> {
        self.pins.as_deref().filter(|_| matches!(self.kernel, Kernel::Has(_)))
    }

    pub fn carriers(&self) -> Vec<CarrierReport> {
        self.reports.values().flatten().cloned().collect()
    }

    /// Bring counters up to date, unless that takes long.
    pub fn count(&self) {
        if let Kernel::Has(path) = &self.kernel {
            let mut entries = self.book.open();
            if entries.of.len() <= FEW && !self.is_held {
                entries.count(path);
            }
        }
    }

    /// Of applications that the kernel carries, or has carried.
    pub fn begun(&self) -> BTreeMap<u128, Begun> {
        match &self.kernel {
            Kernel::Has(path) if !self.is_held => self.book.open().begun(path).clone(),
            _ => BTreeMap::new(),
        }
    }

    pub fn open_flows(&self) -> usize {
        self.book.open().open_flows() as usize
    }

    pub fn report(&self) -> FlowPathReport {
        let missing = match (&self.kernel, self.mode) {
            (_, Mode::Off) => Some("switched off (--fast-path off)".to_string()),
            (Kernel::Without(reason), _) => Some(reason.clone()),
            _ => None,
        };
        let Kernel::Has(path) = &self.kernel else { return FlowPathReport { missing, ..FlowPathReport::default() } };
        let verdicts = path.verdicts().unwrap_or_default(); // zeroes are better than no report
        FlowPathReport {
            is_on: true,
            missing,
            flows: self.open_flows() as u64,
            opening: self.orders.opening.load(Ordering::Relaxed),
            capacity: path.capacity().unwrap_or_default(),
            interfaces: path.attached().len(),
            hook: Some(path.hook().name()),
            verdicts: verdicts.iter().collect(),
        }
    }
}

fn judged_by(kept: &Result<(), Reason>) -> Judged {
    match kept {
        Ok(()) => Judged { by: CarriedBy::Kernel, reason: None },
        Err(reason) => Judged { by: CarriedBy::Engine, reason: Some(reason.clone()) },
    }
}

/// Flows of an application that an earlier process had and this one does not know.
const DRAIN_UNKNOWN_MS: u64 = 30_000;

impl Plan {
    fn has_room(&self, protocol: Protocol, at: &[IpAddr]) -> Result<(), Reason> {
        let new = at.iter().filter(|address| !self.tables.contains_key(&dispatch::spot(protocol, **address))).count();
        if self.tables.len() + new <= MOST_SPOTS {
            return Ok(());
        }
        Err(why("many_addresses", format!("{MOST_SPOTS} addresses and protocols are carried already")))
    }

    fn add(&mut self, active: &Arc<Active>, edge: IpAddr, index: u16, carriage: Carriage) {
        let ports = active.spec.edge_ports;
        for address in &carriage.at {
            let table = self.tables.entry(dispatch::spot(active.spec.protocol, *address)).or_default();
            if !edge.is_unspecified() || table.get(ports.first).is_none() {
                table.set(ports.first..=ports.last, index);
            }
        }
        self.told.insert(index, (active.clone(), carriage.told.clone()));
        self.carried.insert((active.spec.id.clone(), edge), (index, carriage));
    }
}
