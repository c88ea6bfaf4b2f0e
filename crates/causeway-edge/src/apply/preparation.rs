//! A change in the making: steps for each worker, and the picture after them.
//!
//! Everything that can fail is done while it is made; sending it switches all workers.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};

use causeway_bpf::{PortSet, Spot};

use super::fates::Fates;
use crate::application::Active;
use crate::dispatch::{Dispatching, Look, Owners, Verdict};
use crate::listen;
use crate::overlay::{self, Overlay};
use crate::report::{ListenerReport, ListenerState, Reason};
use crate::routes::Routes;
use crate::snapshot::{Ports, Protocol};
use crate::sockets::{Shared, Sockets};
use crate::worker::{Place, Step, Worker};

pub struct Preparation {
    pub workers: usize,
    steps: Vec<Vec<Step>>,
    /// Places with sockets of their own.
    pub places: BTreeMap<Place, String>,
    /// What dispatch is to serve.
    pub claims: BTreeMap<Spot, Owners>,
    pub sockets: HashMap<Place, Weak<Shared>>,
    fates: Fates,
    pub look: Look,
    frees_ports: bool,
}

impl Preparation {
    pub fn new(workers: usize) -> Preparation {
        Preparation {
            workers,
            steps: (0..workers).map(|_| Vec::new()).collect(),
            places: BTreeMap::new(),
            claims: BTreeMap::new(),
            sockets: HashMap::new(),
            fates: Fates::default(),
            look: Look::default(),
            frees_ports: false,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(Vec::is_empty)
    }

    pub fn reports(self) -> Vec<ListenerReport> {
        self.fates.reports
    }

    /// The fate of a place with sockets of its own.
    pub fn settle(&mut self, place: Place, active: &Active, fate: Result<ListenerState, Reason>) {
        let port = place.address.port();
        let ports = Ports { first: port, last: port };
        match fate {
            Ok(state) => {
                self.places.insert(place, active.spec.id.clone());
                self.fates.push(place, ports, &active.spec.id, state, None);
            }
            Err(reason) => self.fates.push(place, ports, &active.spec.id, ListenerState::Refused, Some(reason)),
        }
    }

    /// The fate of a listener without sockets, if the kernel can carry it (see `carry`).
    pub fn settle_unbound(&mut self, active: &Active, address: IpAddr, is_same: bool, fate: Result<(), Reason>) {
        let ports = active.spec.edge_ports;
        let place = Place { protocol: active.spec.protocol, address: SocketAddr::new(address, ports.first) };
        let state = match (&fate, is_same) {
            (Err(_), _) => ListenerState::Refused,
            (Ok(()), true) => ListenerState::Unchanged,
            (Ok(()), false) => ListenerState::Running,
        };
        self.fates.push(place, ports, &active.spec.id, state, fate.err());
    }

    /// The fates of a range of dispatch; `same` are those whose connections notice nothing.
    pub fn claim(&mut self, spot: Spot, active: &Active, same: &PortSet, verdict: Verdict) {
        let id = &active.spec.id;
        let mut running = verdict.kept.clone();
        running.take_out(same);
        running.add(&verdict.new);
        let mut granted = running.clone();
        granted.add(same);
        let mut fates: Vec<_> = running.runs().map(|run| (run, ListenerState::Running, None)).collect();
        fates.extend(same.runs().map(|run| (run, ListenerState::Unchanged, None)));
        for (ports, reason) in &verdict.refused {
            fates.extend(ports.runs().map(|run| (run, ListenerState::Refused, Some(reason.clone()))));
        }
        fates.sort_by_key(|(run, ..)| *run);
        for ((first, last), state, reason) in fates {
            self.fates.push(crate::dispatch::place(spot, first), Ports { first, last }, id, state, reason);
        }
        if !granted.is_empty() {
            let owners = self.claims.entry(spot).or_default();
            owners.extend(granted.runs().map(|(first, last)| (Ports { first, last }, id.clone())));
            owners.sort_by_key(|(ports, _)| *ports);
        }
    }

    pub fn replace(&mut self, place: Place, active: &Arc<Active>) {
        for steps in &mut self.steps {
            steps.push(Step::Replace { place, active: active.clone() });
        }
    }

    pub fn listen(&mut self, place: Place, active: &Arc<Active>, earlier: Option<&Weak<Shared>>) -> Result<(), Reason> {
        let sockets: Sockets = match earlier.and_then(Weak::upgrade) {
            Some(held) => held,
            None => Shared::new(listen::bind(place, active, self.workers)?),
        };
        self.add_listener(place, &sockets, Some(active));
        Ok(())
    }

    /// Without an application: for dispatch.
    pub fn add_listener(&mut self, place: Place, sockets: &Sockets, active: Option<&Arc<Active>>) {
        self.sockets.insert(place, Arc::downgrade(sockets));
        for steps in &mut self.steps {
            steps.push(Step::Listen { place, sockets: sockets.clone(), active: active.cloned() });
        }
    }

    /// The port of the overlay; `sockets`: to be listened to from now on.
    pub fn settle_overlay(&mut self, place: Place, sockets: Option<&Sockets>, fate: Result<ListenerState, Reason>) {
        let port = place.address.port();
        let ports = Ports { first: port, last: port };
        if let Some(sockets) = sockets {
            self.sockets.insert(place, Arc::downgrade(sockets));
            for steps in &mut self.steps {
                steps.push(Step::ListenForEdges { place, sockets: sockets.clone() });
            }
        }
        let (state, reason) = match fate {
            Ok(state) => (state, None),
            Err(reason) => (ListenerState::Refused, Some(reason)),
        };
        if reason.is_none() {
            self.places.insert(place, overlay::LISTENER.into());
        }
        self.fates.push(place, ports, overlay::LISTENER, state, reason);
    }

    pub fn be(&mut self, overlay: Option<&Arc<Overlay>>) {
        self.steps.iter_mut().for_each(|steps| steps.push(Step::Overlay(overlay.cloned())));
    }

    pub fn route(&mut self, routes: &Arc<Routes>) {
        self.steps.iter_mut().for_each(|steps| steps.push(Step::Routes(routes.clone())));
    }

    pub fn retire(&mut self, gone: &[Place], removed: &[Arc<Active>]) {
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

    pub fn cut_blocked(&mut self, active: &Arc<Active>) {
        if active.firewall.as_ref().is_some_and(|firewall| firewall.cuts()) {
            self.steps.iter_mut().for_each(|steps| steps.push(Step::CutBlocked(active.clone())));
        }
    }

    /// Have all workers take their steps, and the kernel the claims, in the order that leaves no port without its
    /// listener and no flow without its application.
    pub fn send(&mut self, workers: &[Worker], most: usize, dispatching: &mut Dispatching, routes: Arc<Routes>) {
        dispatching.shrink(&self.claims);
        let pending: Vec<_> = workers
            .iter()
            .zip(self.steps.drain(..))
            .filter(|(_, steps)| !steps.is_empty())
            .map(|(worker, mut steps)| {
                steps.insert(0, Step::MostFiles(most));
                worker.submit(steps)
            })
            .collect();
        for refusals in pending {
            for (place, error) in refusals.wait() {
                self.places.remove(&place);
                self.fates.refuse(place, &PortSet::range(place.address.port(), place.address.port()), &error);
            }
        }
        for (spot, ports, error) in dispatching.switch(std::mem::take(&mut self.claims), routes) {
            self.fates.refuse(crate::dispatch::place(spot, 0), &ports, &error);
        }
        if self.frees_ports {
            let pending: Vec<_> = workers.iter().map(|worker| worker.submit(vec![Step::FreePorts])).collect();
            pending.into_iter().for_each(|done| drop(done.wait()));
        }
    }
}
