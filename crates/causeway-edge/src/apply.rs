//! From what runs to what is wanted: diff, prepare, switch, retire.
//!
//! New sockets are bound before any worker hears of a change. A place that cannot be had is reported and
//! the rest goes live. What did not change is not touched, so no connection notices.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::application::Active;
use crate::count::{Counters, Totals};
use crate::error::EdgeError;
use crate::listen;
use crate::origin::{OriginSet, Policy};
use crate::report::{ListenerReport, ListenerState, Outcome, Reason};
use crate::resolve::{self, Names};
use crate::snapshot::{Application, Family, Origins, Ports, Protocol, Settings, Snapshot};
use crate::sockets::{Shared, Sockets};
use crate::sys;
use crate::worker::{Place, Step, Worker};

/// Listeners may take this share of the file descriptors; the rest is for flows.
const LISTENER_SHARE: usize = 2;

/// What the workers do now.
#[derive(Debug, Default)]
pub struct Running {
    pub version: u64,
    pub settings: Settings,
    applications: HashMap<String, Arc<Active>>,
    order: Vec<String>,
    places: HashMap<Place, String>,
    /// Of every place, also of UDP ports that only drain: wanted again, they get the same sockets (see `udp`).
    pub sockets: HashMap<Place, Weak<Shared>>,
    refused: HashMap<Place, Reason>,
    names: Option<Names>,
    /// Counts of applications that are gone, so that the totals of the edge never go back.
    retired: Totals,
    draining: Vec<Arc<Active>>,
    most_flows: usize,
}

/// A finished change.
#[derive(Debug)]
pub struct Change {
    pub outcome: Outcome,
    pub listeners: Vec<ListenerReport>,
}

impl Running {
    /// Make the workers do what `snapshot` says.
    ///
    /// # Errors
    /// `Stale` for an older version and `Resources` if the resolver could not start; nothing was changed then.
    pub fn apply(&mut self, snapshot: Snapshot, workers: &[Worker], open_files: usize) -> Result<Change, EdgeError> {
        if snapshot.version < self.version {
            return Err(EdgeError::Stale { offered: snapshot.version, running: self.version });
        }
        let is_same_policy = snapshot.settings == self.settings;
        let names = self.names_for(&snapshot)?;
        let policy = match (is_same_policy, self.applications.values().next()) {
            (true, Some(active)) => active.policy.clone(),
            _ => Arc::new(Policy::new(snapshot.settings.clone(), sys::local_addresses())),
        };

        // Prepare: compile what changed, keep what did not.
        let order: Vec<String> = snapshot.applications.iter().map(|application| application.id.clone()).collect();
        let mut wanted: HashMap<String, Arc<Active>> = HashMap::with_capacity(order.len());
        let mut has_changed = HashSet::new();
        for application in snapshot.applications {
            let id = application.id.clone();
            let active = match self.applications.get(&id) {
                Some(running) if is_same_policy && running.spec == application => running.clone(),
                earlier => {
                    has_changed.insert(id.clone());
                    compile(application, earlier, policy.clone(), names.as_ref(), workers.len())
                }
            };
            wanted.insert(id, active);
        }
        let mut change = Preparation::new(workers.len());
        for id in &order {
            self.prepare(&wanted[id], has_changed.contains(id), &mut change, open_files);
        }
        let gone: Vec<Place> = self.places.keys().filter(|place| !change.places.contains_key(place)).copied().collect();
        let removed: Vec<Arc<Active>> =
            self.applications.values().filter(|active| !wanted.contains_key(&active.spec.id)).cloned().collect();
        change.retire(&gone, &removed);

        // Switch: one batch to each worker, then wait for all.
        let is_unchanged = change.is_empty() && order == self.order && is_same_policy;
        let flows =
            open_files.saturating_sub(change.places.len() * workers.len()).saturating_sub(open_files.min(8192) / 8);
        self.most_flows = change.send(workers, flows);
        for place in gone.iter().filter(|place| place.protocol == Protocol::Tcp) {
            // Nobody has them now but a worker that hangs: without it they would take clients in and leave them there.
            if let Some(held) = self.sockets.remove(place).and_then(|sockets| sockets.upgrade()) {
                held.shut();
            }
        }

        // Retire: what is gone keeps its counts.
        self.draining.extend(removed);
        self.settle_drained();
        self.version = snapshot.version;
        self.settings = snapshot.settings;
        self.applications = wanted;
        self.order = order;
        self.places = change.places;
        self.sockets.extend(change.sockets);
        self.sockets.retain(|_, sockets| sockets.strong_count() > 0);
        self.refused = change.refused;
        self.names = names;
        let listeners = change.fates.reports;
        Ok(Change { outcome: if is_unchanged { Outcome::Unchanged } else { Outcome::Applied }, listeners })
    }

    /// All that a worker must do which takes the place of another. UDP ports that drain stay with those that have
    /// sessions on them.
    pub fn takeover(&mut self, workers: usize) -> Vec<Step> {
        let mut steps = vec![Step::MostFlows(self.most_flows)];
        for (place, id) in &self.places {
            let Some(active) = self.applications.get(id) else { continue };
            let held = self.sockets.get(place).and_then(Weak::upgrade);
            // With no other worker, a thread that has ended took the sockets along.
            let sockets = held.or_else(|| listen::bind(*place, active, workers).ok().map(Shared::new));
            if let Some(sockets) = sockets {
                self.sockets.insert(*place, Arc::downgrade(&sockets));
                steps.push(Step::Listen { place: *place, sockets, active: active.clone() });
            }
        }
        steps
    }

    fn prepare(&self, active: &Arc<Active>, has_changed: bool, change: &mut Preparation, open_files: usize) {
        for address in &active.spec.edge_addresses {
            for port in active.spec.edge_ports.iter() {
                let place = Place { protocol: active.spec.protocol, address: SocketAddr::new(*address, port) };
                let state = match self.places.get(&place) {
                    Some(holder) => {
                        let is_replaced = has_changed || *holder != active.spec.id;
                        if is_replaced {
                            change.replace(place, active);
                        }
                        Ok(if is_replaced { ListenerState::Running } else { ListenerState::Unchanged })
                    }
                    None if (change.places.len() + 1) * change.workers > open_files / LISTENER_SHARE => {
                        Err(too_many(place, open_files))
                    }
                    None => change.listen(place, active, self.sockets.get(&place)).map(|()| ListenerState::Running),
                };
                match state {
                    Ok(state) => {
                        change.places.insert(place, active.spec.id.clone());
                        change.fates.push(place, &active.spec.id, state, None);
                    }
                    Err(reason) => {
                        change.fates.push(place, &active.spec.id, ListenerState::Refused, Some(reason.clone()));
                        change.refused.insert(place, reason);
                    }
                }
            }
        }
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

    /// Totals of the whole edge since its start, with what is gone.
    pub fn totals(&self) -> Totals {
        let mut totals = self.retired;
        for active in self.draining.iter().chain(self.applications.values()) {
            totals.add_totals(&active.totals());
        }
        totals
    }

    pub fn refused(&self) -> Vec<ListenerReport> {
        let mut fates = Fates::default();
        let mut places: Vec<_> = self.refused.iter().collect();
        places.sort_by_key(|(place, _)| (place.address.ip(), place.address.port()));
        for (place, reason) in places {
            if let Some(active) = self.applications.values().find(|active| active.claims(*place)) {
                fates.push(*place, &active.spec.id, ListenerState::Refused, Some(reason.clone()));
            }
        }
        fates.reports
    }

    pub fn places(&self) -> Vec<Place> {
        self.places.keys().copied().collect()
    }
}

impl Active {
    fn claims(&self, place: Place) -> bool {
        let ports = self.spec.edge_ports;
        self.spec.protocol == place.protocol
            && self.spec.edge_addresses.contains(&place.address.ip())
            && (ports.first..=ports.last).contains(&place.address.port())
    }
}

fn compile(
    application: Application,
    earlier: Option<&Arc<Active>>,
    policy: Arc<Policy>,
    names: Option<&Names>,
    workers: usize,
) -> Arc<Active> {
    let origins = match (&application.origins, names) {
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
    let counters = match earlier {
        Some(earlier) => earlier.counters.clone(),
        None => (0..workers).map(|_| Counters::default()).collect(),
    };
    Arc::new(Active::new(application, origins, policy, counters))
}

fn too_many(place: Place, open_files: usize) -> Reason {
    Reason {
        code: "too_many_sockets",
        side: crate::error::Side::Operator,
        message: format!(
            "port {} on {}: listeners may use half of the {open_files} file descriptors of this process: \
             raise the limit (ulimit -n) or use fewer ports",
            place.address.port(),
            place.address.ip()
        ),
    }
}

/// Steps for each worker, and the picture after them.
struct Preparation {
    workers: usize,
    steps: Vec<Vec<Step>>,
    places: HashMap<Place, String>,
    sockets: HashMap<Place, Weak<Shared>>,
    refused: HashMap<Place, Reason>,
    fates: Fates,
    frees_ports: bool,
}

impl Preparation {
    fn new(workers: usize) -> Preparation {
        Preparation {
            workers,
            steps: (0..workers).map(|_| Vec::new()).collect(),
            places: HashMap::new(),
            sockets: HashMap::new(),
            refused: HashMap::new(),
            fates: Fates::default(),
            frees_ports: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.steps.iter().all(Vec::is_empty)
    }

    fn replace(&mut self, place: Place, active: &Arc<Active>) {
        for steps in &mut self.steps {
            steps.push(Step::Replace { place, active: active.clone() });
        }
    }

    fn listen(&mut self, place: Place, active: &Arc<Active>, earlier: Option<&Weak<Shared>>) -> Result<(), Reason> {
        let sockets: Sockets = match earlier.and_then(Weak::upgrade) {
            Some(held) => held,
            None => Shared::new(listen::bind(place, active, self.workers)?),
        };
        self.sockets.insert(place, Arc::downgrade(&sockets));
        for steps in &mut self.steps {
            steps.push(Step::Listen { place, sockets: sockets.clone(), active: active.clone() });
        }
        Ok(())
    }

    fn retire(&mut self, gone: &[Place], removed: &[Arc<Active>]) {
        self.frees_ports = gone.iter().any(|place| place.protocol == Protocol::Udp);
        for steps in &mut self.steps {
            steps.extend(gone.iter().map(|place| Step::Unlisten { place: *place }));
            steps.extend(removed.iter().map(|active| Step::Retire {
                application: Some(active.id),
                policy: active.spec.on_delete,
                drain_ms: active.spec.drain_ms,
            }));
        }
    }

    /// Answers how many flows each worker may have.
    fn send(&mut self, workers: &[Worker], flows: usize) -> usize {
        // A relay has two descriptors; the kernel spreads connections unevenly, so each worker gets a quarter more.
        let share = flows / 2 / workers.len().max(1);
        let most = if workers.len() > 1 { share + share / 4 } else { share };
        let pending: Vec<_> = workers
            .iter()
            .zip(self.steps.drain(..))
            .filter(|(_, steps)| !steps.is_empty())
            .map(|(worker, mut steps)| {
                steps.insert(0, Step::MostFlows(most));
                worker.submit(steps)
            })
            .collect();
        for refusals in pending {
            for (place, error) in refusals.wait() {
                self.places.remove(&place);
                self.refused.insert(place, listen::reason(place, &error));
                self.fates.refuse(place, listen::reason(place, &error));
            }
        }
        if self.frees_ports {
            let pending: Vec<_> = workers.iter().map(|worker| worker.submit(vec![Step::FreePorts])).collect();
            pending.into_iter().for_each(|done| drop(done.wait()));
        }
        most
    }
}

/// Fates of places, neighbours merged.
#[derive(Debug, Default)]
struct Fates {
    reports: Vec<ListenerReport>,
}

impl Fates {
    fn push(&mut self, place: Place, application: &str, state: ListenerState, reason: Option<Reason>) {
        let port = place.address.port();
        if let Some(last) = self.reports.last_mut() {
            let is_neighbour = last.application == application
                && last.protocol == place.protocol
                && last.address == place.address.ip()
                && last.ports.last.checked_add(1) == Some(port)
                && last.state == state
                && last.reason.as_ref().map(|r| r.code) == reason.as_ref().map(|r| r.code);
            if is_neighbour {
                last.ports.last = port;
                return;
            }
        }
        self.reports.push(ListenerReport {
            application: application.to_string(),
            protocol: place.protocol,
            address: place.address.ip(),
            ports: Ports { first: port, last: port },
            state,
            reason,
        });
    }

    fn refuse(&mut self, place: Place, reason: Reason) {
        let port = place.address.port();
        let concerned = |report: &&mut ListenerReport| {
            report.protocol == place.protocol
                && report.address == place.address.ip()
                && (report.ports.first..=report.ports.last).contains(&port)
        };
        if let Some(report) = self.reports.iter_mut().find(concerned) {
            report.state = ListenerState::Refused;
            report.reason = Some(reason);
        }
    }
}
