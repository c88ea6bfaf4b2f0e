//! From what runs to what is wanted: diff, prepare, switch, retire.
//!
//! New sockets are bound before any worker hears of a change. A place that cannot be had is reported and
//! the rest goes live. What did not change is not touched, so no connection notices.

mod fates;
mod mitigation;
mod overlaying;
mod preparation;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use causeway_bpf::{PortSet, Spot};

use crate::application::Active;
use crate::carry::{self, Carry};
use crate::count::{Counters, Totals};
use crate::detect::{self, Detect};
use crate::dispatch::{self, Dispatching, Mode};
use crate::error::EdgeError;
use crate::files;
use crate::firewall::Firewall;
use crate::firewall::blobs::{Blob, Blobs};
use crate::guard::{Ban, Guarding};
use crate::listen;
use crate::origin::{OriginSet, Policy};
use crate::overlay;
use crate::report::{ListenerReport, ListenerState, Outcome, Reason};
use crate::resolve::{self, Names};
use crate::snapshot::{self, Application, Balance, Family, Origins, Protocol, Settings, Snapshot};
use crate::sockets::Shared;
use crate::sys;
use crate::worker::{Place, Step, Worker};
pub use overlaying::Overlaying;
use preparation::Preparation;

/// Listeners may take this share of the file descriptors; the rest is for flows.
const LISTENER_SHARE: usize = 2;

/// What the workers do now.
#[derive(Debug, Default)]
pub struct Running {
    pub version: u64,
    pub settings: Settings,
    applications: HashMap<String, Arc<Active>>,
    firewalls: HashMap<String, Arc<Firewall>>,
    /// Tells AS numbers, for limits: its digest, and what it is.
    asn: Option<(String, Arc<Blob>)>,
    pub blobs: Blobs,
    order: Vec<String>,
    places: BTreeMap<Place, String>,
    pub dispatching: Dispatching,
    pub carry: Carry,
    pub guarding: Guarding,
    pub detect: Arc<Detect>,
    /// As the detectors told them last.
    bans: Vec<Ban>,
    /// Of every place, also of UDP ports that only drain: wanted again, they get the same sockets (see `udp`).
    pub sockets: HashMap<Place, Weak<Shared>>,
    refused: Vec<ListenerReport>,
    /// As the last change left them.
    listeners: Vec<ListenerReport>,
    names: Option<Names>,
    /// Counts of applications that are gone, so that the totals of the edge never go back.
    retired: Totals,
    draining: Vec<Arc<Active>>,
    most_files: usize,
    /// What another process counted of these applications before this one took over.
    counted_before: HashMap<String, Totals>,
    pub overlay: Overlaying,
}

/// A finished change.
#[derive(Debug)]
pub struct Change {
    pub outcome: Outcome,
    pub listeners: Vec<ListenerReport>,
}

impl Running {
    /// # Errors
    /// The reason why dispatch cannot be had, if it must.
    pub fn start(mode: Mode) -> Result<Running, String> {
        Ok(Running { dispatching: Dispatching::start(mode)?, ..Running::default() })
    }

    /// Make the workers do what `snapshot` says.
    ///
    /// # Errors
    /// `Stale` for an older version and `Resources` if the resolver could not start; nothing was changed then.
    pub fn apply(&mut self, snapshot: Snapshot, workers: &[Worker], open_files: usize) -> Result<Change, EdgeError> {
        if snapshot.version < self.version {
            return Err(EdgeError::Stale { offered: snapshot.version, running: self.version });
        }
        let terms = detect_terms(&snapshot);
        let snapshot = snapshot.for_engine();
        let is_same_policy = snapshot.settings == self.settings;
        let names = self.names_for(&snapshot)?;
        let policy = match (is_same_policy, self.applications.values().next()) {
            (true, Some(active)) => active.policy.clone(),
            _ => Arc::new(Policy::new(snapshot.settings.clone(), sys::local_addresses())),
        };

        // Prepare: compile what changed, keep what did not.
        let firewalls = self.compile_firewalls(snapshot.firewalls)?;
        let asn = self.open_asn(snapshot.asn)?;
        let is_same_asn = asn.as_ref().map(|(digest, _)| digest) == self.asn.as_ref().map(|(digest, _)| digest);
        let order: Vec<String> = snapshot.applications.iter().map(|application| application.id.clone()).collect();
        let mut wanted: HashMap<String, Arc<Active>> = HashMap::with_capacity(order.len());
        let mut has_changed = HashSet::new();
        for application in snapshot.applications {
            let id = application.id.clone();
            let firewall = application.firewall.as_ref().and_then(|id| firewalls.get(id));
            let is_same = |running: &Active| {
                let rules = running.firewall.as_ref();
                let is_same_spec = running.spec == application && rules.map(Arc::as_ptr) == firewall.map(Arc::as_ptr);
                is_same_spec && (is_same_asn || !running.limits_by_asn())
            };
            let active = match self.applications.get(&id) {
                Some(running) if is_same_policy && is_same(running) => running.clone(),
                earlier => {
                    has_changed.insert(id.clone());
                    let counters = match earlier {
                        Some(earlier) => earlier.counters.clone(),
                        None => counters(workers.len(), self.counted_before.remove(&id)),
                    };
                    let steered = application.is_steered.then(|| self.overlay.steered(&application));
                    Arc::new(
                        compile(application, counters, policy.clone(), names.as_ref())
                            .steered_by(steered)
                            .with_firewall(firewall.cloned())
                            .counting_as(earlier.map(Arc::as_ref), asn.as_ref().map(|(_, blob)| blob)),
                    )
                }
            };
            wanted.insert(id, active);
        }
        let mut change = Preparation::new(workers.len());
        let spec = snapshot.overlay.as_ref();
        let exits = self.prepare_overlay(spec, &wanted, &has_changed, (&policy, names.as_ref()), &mut change);
        for (place, sockets) in self.dispatching.take_adopted() {
            change.add_listener(place, &sockets, None);
        }
        for id in &order {
            self.prepare(&wanted[id], has_changed.contains(id), &mut change, open_files);
        }
        let routes = self.dispatching.routes_for(&change.claims, &wanted);
        let is_routed_anew = !self.dispatching.is(&change.claims)
            || change.claims.values().flatten().any(|(_, id)| has_changed.contains(id));
        if is_routed_anew {
            change.route(&routes);
        }
        let gone: Vec<Place> = self.places.keys().filter(|place| !change.places.contains_key(place)).copied().collect();
        let removed: Vec<Arc<Active>> =
            self.applications.values().filter(|active| !wanted.contains_key(&active.spec.id)).cloned().collect();
        change.retire(&gone, &removed);
        order.iter().filter(|id| has_changed.contains(*id)).for_each(|id| change.cut_blocked(&wanted[id]));

        // Switch: one batch to each worker, then wait for all.
        let is_unchanged = change.is_empty() && has_changed.is_empty() && order == self.order && is_same_policy;
        self.most_files = files::for_flows(open_files, change.places.len() * workers.len());
        let without_engine = wanted.values().filter(|active| active.spec.transparent);
        self.guarding.know_without_engine(without_engine.map(|active| active.spec.id.clone()).collect());
        self.carry.leave_to_engine(self.guarding.by_cookies());
        let kept = self.guarding.prepare(order.iter().map(|id| &wanted[id]));
        self.tell_sessions(workers);
        let plan = self.carry.plan(order.iter().map(|id| &wanted[id]), &snapshot.settings, kept);
        self.carry.shrink(&plan);
        change.send(workers, self.most_files, &mut self.dispatching, routes);
        for place in gone.iter().filter(|place| place.protocol == Protocol::Tcp) {
            // Nobody has them now but a worker that hangs: without it they would take clients in and leave them there.
            if let Some(held) = self.sockets.remove(place).and_then(|sockets| sockets.upgrade()) {
                held.shut();
            }
        }

        // Retire: what is gone keeps its counts.
        self.draining.extend(removed);
        self.settle_drained();
        self.detect.set_terms(terms);
        self.version = snapshot.version;
        self.settings = snapshot.settings;
        self.applications = wanted;
        self.firewalls = firewalls;
        self.asn = asn;
        self.forget_blobs();
        self.order = order;
        self.places = std::mem::take(&mut change.places);
        self.sockets.extend(std::mem::take(&mut change.sockets));
        self.sockets.retain(|_, sockets| sockets.strong_count() > 0);
        self.names = names;
        (self.overlay.running, self.overlay.exits) = exits;
        let mut listeners = change.reports();
        self.guard_and_carry(plan, &mut listeners);
        self.listeners.clone_from(&listeners);
        self.note_refused();
        Ok(Change { outcome: if is_unchanged { Outcome::Unchanged } else { Outcome::Applied }, listeners })
    }

    /// All that a worker must do which takes the place of another. UDP ports that drain stay with those that have
    /// sessions on them.
    pub fn takeover(&mut self, workers: usize) -> Vec<Step> {
        let mut steps = vec![Step::MostFiles(self.most_files)];
        steps.extend(self.overlay.again());
        for (place, id) in &self.places {
            if id == overlay::LISTENER {
                steps.extend(self.overlay.listen_again(*place, &mut self.sockets, workers));
            }
            let Some(active) = self.applications.get(id) else { continue };
            let held = self.sockets.get(place).and_then(Weak::upgrade);
            // With no other worker, a thread that has ended took the sockets along.
            let sockets = held.or_else(|| listen::bind(*place, active, workers).ok().map(Shared::new));
            if let Some(sockets) = sockets {
                self.sockets.insert(*place, Arc::downgrade(&sockets));
                steps.push(Step::Listen { place: *place, sockets, active: Some(active.clone()) });
            }
        }
        for (place, sockets) in self.dispatching.bases_again(workers) {
            self.sockets.insert(place, Arc::downgrade(&sockets));
            steps.push(Step::Listen { place, sockets, active: None });
        }
        steps.push(Step::Routes(self.dispatching.routes.clone()));
        steps
    }

    /// Addresses, routes or interfaces of this machine have changed: decide anew what the kernel carries.
    pub fn recarry(&mut self) {
        if !self.carry.is_planned() {
            return;
        }
        self.carry.look(&self.settings);
        self.replan();
    }

    fn replan(&mut self) {
        let wanted = || self.order.iter().map(|id| &self.applications[id]);
        let kept = self.guarding.prepare(wanted());
        let plan = self.carry.plan(wanted(), &self.settings, kept);
        self.carry.shrink(&plan);
        let mut listeners = std::mem::take(&mut self.listeners);
        self.guard_and_carry(plan, &mut listeners);
        self.listeners = listeners;
        self.note_refused();
    }

    /// Rules first: no packet meets a carried port without them.
    fn guard_and_carry(&mut self, plan: carry::Plan, listeners: &mut [ListenerReport]) {
        let before = listeners.to_vec();
        self.lay_bans(); // rules may have come or gone
        self.guarding.follow(listeners, self.carry.tables_at());
        self.carry.switch(plan, listeners, |application| self.guarding.holds(application));
        if before.iter().zip(&*listeners).any(|(before, after)| before.state != after.state) {
            self.guarding.follow(listeners, self.carry.tables_at()); // the kernel alone serves some
        }
    }

    fn note_refused(&mut self) {
        self.refused = self.listeners.iter().filter(|l| l.state == ListenerState::Refused).cloned().collect();
        self.refused.sort_by_key(|listener| (listener.address, listener.ports));
    }

    fn prepare(&mut self, active: &Arc<Active>, has_changed: bool, change: &mut Preparation, open_files: usize) {
        if active.spec.transparent {
            return self.leave_to_kernel(active, has_changed, change);
        }
        let is_dispatched = self.dispatching.takes(active);
        let ports = active.spec.edge_ports;
        for address in &active.spec.edge_addresses {
            let at = |port| Place { protocol: active.spec.protocol, address: SocketAddr::new(*address, port) };
            if !is_dispatched {
                ports.iter().for_each(|port| self.prepare_place(at(port), active, has_changed, change, open_files));
                continue;
            }
            // What has sockets of its own keeps them: a port must never be without a listener, even for one SYN.
            let bound: Vec<Place> =
                self.places.range(at(ports.first)..=at(ports.last)).map(|(place, _)| *place).collect();
            let mut rest = PortSet::range(ports.first, ports.last);
            for place in bound {
                rest.remove(place.address.port());
                self.prepare_place(place, active, has_changed, change, open_files);
            }
            self.prepare_claim(dispatch::spot(active.spec.protocol, *address), &rest, active, has_changed, change);
        }
    }

    /// No sockets: what the kernel does not carry must not be served in our name. Nor may it take what is another's.
    fn leave_to_kernel(&self, active: &Active, has_changed: bool, change: &mut Preparation) {
        let (protocol, ports) = (active.spec.protocol, active.spec.edge_ports);
        for address in &active.spec.edge_addresses {
            let at = |port| Place { protocol, address: SocketAddr::new(*address, port) };
            let runs = |l: &&ListenerReport| {
                l.application == active.spec.id && l.address == *address && l.state != ListenerState::Refused
            };
            let mut new = PortSet::range(ports.first, ports.last);
            if let Some(running) = self.listeners.iter().find(runs) {
                new.take_out(&PortSet::range(running.ports.first, running.ports.last));
            }
            self.places.range(at(ports.first)..=at(ports.last)).for_each(|(place, _)| new.remove(place.address.port()));
            let fate = self.dispatching.judge_unbound(dispatch::spot(protocol, *address), &new, &mut change.look);
            let is_same = !has_changed && new.is_empty();
            change.settle_unbound(active, *address, is_same, fate);
        }
    }

    fn prepare_place(
        &mut self,
        place: Place,
        active: &Arc<Active>,
        has_changed: bool,
        change: &mut Preparation,
        open_files: usize,
    ) {
        let fate = match self.places.get(&place) {
            Some(holder) if holder == overlay::LISTENER => {
                Err(overlaying::taken(place, "is where other edges come in"))
            }
            Some(holder) => {
                let is_replaced = has_changed || *holder != active.spec.id;
                if is_replaced {
                    change.replace(place, active);
                }
                Ok(if is_replaced { ListenerState::Running } else { ListenerState::Unchanged })
            }
            None if (change.places.len() + 1) * change.workers > open_files / LISTENER_SHARE => {
                Err(too_many(place, open_files, &self.dispatching.missing()))
            }
            None => self
                .dispatching
                .has(place, &change.claims)
                .and_then(|()| change.listen(place, active, self.sockets.get(&place)))
                .map(|()| ListenerState::Running),
        };
        change.settle(place, active, fate);
    }

    fn prepare_claim(
        &mut self,
        spot: Spot,
        wanted: &PortSet,
        active: &Arc<Active>,
        has_changed: bool,
        change: &mut Preparation,
    ) {
        let mut verdict = self.dispatching.judge(spot, wanted, &change.claims, &mut change.look);
        if !verdict.new.is_empty() {
            match self.dispatching.base(spot, change.workers) {
                Ok(None) => {}
                Ok(Some((place, sockets))) => change.add_listener(place, &sockets, None),
                Err(reason) => verdict.refused.push((std::mem::take(&mut verdict.new), reason)),
            }
        }
        let mut same = PortSet::default();
        if !has_changed {
            let owners = self.dispatching.owners(spot).iter().filter(|(_, id)| *id == active.spec.id);
            owners.for_each(|(ports, _)| same.insert(ports.first, ports.last));
            same.keep(&verdict.kept);
        }
        change.claim(spot, active, &same, verdict);
    }

    fn compile_firewalls(
        &mut self,
        specs: Vec<snapshot::Firewall>,
    ) -> Result<HashMap<String, Arc<Firewall>>, EdgeError> {
        let compiled = specs.into_iter().map(|spec| {
            let id = spec.id.clone();
            let running = self.firewalls.get(&id);
            if let Some(running) = running.filter(|running| running.spec == spec) {
                return Ok((id, running.clone()));
            }
            let made = Firewall::new(spec, &mut self.blobs, running.map(Arc::as_ref));
            let invalid = |reason| EdgeError::Invalid { field: format!("firewalls[{id}]"), reason };
            made.map_err(invalid).map(|made| (id.clone(), Arc::new(made)))
        });
        compiled.collect()
    }

    fn open_asn(&mut self, digest: Option<String>) -> Result<Option<(String, Arc<Blob>)>, EdgeError> {
        let Some(digest) = digest else { return Ok(None) };
        let invalid = |reason| EdgeError::Invalid { field: "asn".into(), reason };
        let blob = self.blobs.open(&digest).map_err(invalid)?;
        Ok(Some((digest, blob)))
    }

    /// Lists and databases that nothing names any more.
    fn forget_blobs(&mut self) {
        let named = self.firewalls.values().flat_map(|firewall| {
            let rules = firewall.spec.scopes.iter().flat_map(|scope| &scope.rules);
            let lists = rules.filter_map(|rule| match &rule.target {
                snapshot::Target::List(digest) => Some(digest),
                _ => None,
            });
            lists.chain(&firewall.spec.asn).chain(&firewall.spec.country).map(String::as_str)
        });
        let of_limits = self.asn.iter().map(|(digest, _)| digest.as_str());
        self.blobs.retain(&named.chain(of_limits).collect());
    }

    pub fn firewalls(&self) -> impl Iterator<Item = &Firewall> {
        self.firewalls.values().map(Arc::as_ref)
    }

    pub fn active(&self, id: &str) -> Option<&Active> {
        self.applications.get(id).map(Arc::as_ref)
    }

    fn names_for(&self, snapshot: &Snapshot) -> Result<Option<Names>, EdgeError> {
        let needs_names = snapshot.applications.iter().any(|a| matches!(a.origins, Origins::Dns { .. }));
        match &self.names {
            Some(names) if snapshot.settings.resolvers == self.settings.resolvers => Ok(Some(names.clone())),
            _ if needs_names => Names::start(snapshot.settings.resolvers.clone())
                .map(Some)
                .map_err(EdgeError::resources("the resolver of origin names could not start")),
            _ => Ok(None),
        }
    }

    /// Counts of deleted applications whose last connection is gone move to the edge's own.
    pub fn settle_drained(&mut self) {
        self.dispatching.settle(); // refusals are tried again with the next change
        let retired = &mut self.retired;
        self.draining.retain(|active| {
            let is_open = active.totals().connections_open > 0;
            if !is_open {
                retired.add_totals(&active.totals());
            }
            is_open
        });
    }

    pub fn applications(&self) -> impl Iterator<Item = (&str, Totals)> {
        self.order.iter().map(|id| (id.as_str(), self.applications[id].totals()))
    }

    /// What a process that takes over cannot read in the kernel.
    pub fn own_totals(&self) -> impl Iterator<Item = (&str, Totals)> {
        self.order.iter().map(|id| (id.as_str(), self.applications[id].own_totals()))
    }

    /// Totals of the whole edge since its start, with what is gone.
    pub fn totals(&self) -> Totals {
        let mut totals = self.retired;
        for active in self.draining.iter().chain(self.applications.values()) {
            totals.add_totals(&active.totals());
        }
        totals
    }

    pub fn refused(&self) -> Vec<ListenerReport> {
        self.refused.clone()
    }

    /// Counts of applications that are gone.
    pub fn retired(&self) -> Totals {
        let mut retired = self.retired;
        self.draining.iter().for_each(|active| retired.add_totals(&active.totals()));
        retired
    }

    /// Begin with the sockets and counts of another process. Call before the first snapshot.
    pub fn inherit(
        &mut self,
        sockets: HashMap<Place, Weak<Shared>>,
        retired: Totals,
        counted: HashMap<String, Totals>,
    ) {
        (self.sockets, self.retired, self.counted_before) = (sockets, retired, counted);
    }

    /// All places that have sockets: those bound for an application, and those of dispatch.
    pub fn places(&self) -> Vec<Place> {
        self.places.keys().copied().chain(self.dispatching.bases().map(|(_, place, _)| place)).collect()
    }
}

fn compile(application: Application, counters: Arc<[Counters]>, policy: Arc<Policy>, names: Option<&Names>) -> Active {
    let origins = match (&application.origins, names) {
        (Origins::Addresses { addresses }, _) if application.balance == Balance::Hash => {
            OriginSet::balanced(addresses.clone(), &application.weights)
        }
        (Origins::Addresses { addresses }, _) => OriginSet::addresses(addresses.clone()),
        (Origins::Dns { name, family, ttl_s, ports }, Some(names)) => {
            let family = match family {
                Family::Any => resolve::Family::Any,
                Family::A => resolve::Family::A,
                Family::Aaaa => resolve::Family::Aaaa,
            };
            let ttl = Duration::from_secs(*ttl_s);
            OriginSet::Name { watched: names.watch(name, family, ttl), ports: *ports }
        }
        (Origins::Dns { .. }, None) => OriginSet::addresses(Vec::new()), // names_for made one: not reached
    };
    Active::new(application, origins, policy, counters)
}

/// Whom to watch, and how closely: what the operator said, before the engine forgets it.
fn detect_terms(snapshot: &Snapshot) -> detect::Terms {
    let wanted = snapshot.applications.iter().filter(|_| snapshot.settings.mitigation.is_on());
    let care = |spec: &Application| detect::Care { sensitivity: spec.mitigation, logins: spec.logins };
    wanted.filter_map(|spec| Some((u128::from_str_radix(&spec.id, 16).ok()?, care(spec)))).collect()
}

fn counters(workers: usize, before: Option<Totals>) -> Arc<[Counters]> {
    let first = Counters::from(&before.unwrap_or_default());
    // One for each worker, and one for what the kernel carries.
    std::iter::once(first).chain(std::iter::repeat_with(Counters::default)).take(workers + 1).collect()
}

fn too_many(place: Place, open_files: usize, missing: &str) -> Reason {
    Reason {
        code: "too_many_sockets",
        side: crate::error::Side::Operator,
        message: format!(
            "port {} on {}: a socket for each port, and listeners may use half of the {open_files} file descriptors of \
             this process; {missing}: switch it on (see causeway doctor), raise the limit (ulimit -n) or use fewer ports",
            place.address.port(),
            place.address.ip()
        ),
    }
}
