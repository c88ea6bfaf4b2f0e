//! What this edge is to others, from one snapshot to the next.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;

use super::preparation::Preparation;
use super::{Running, compile};
use crate::application::Active;
use crate::error::Side;
use crate::listen;
use crate::origin::Policy;
use crate::overlay::identity::Identity;
use crate::overlay::{self, Lasting, Overlay, OverlayReport};
use crate::report::{ListenerState, Reason};
use crate::resolve::Names;
use crate::snapshot::{self, Application, Protocol};
use crate::sockets::Shared;
use crate::steering::{Steered, Steering};
use crate::worker::{Place, Step};

type Exits = HashMap<String, Arc<Active>>;

#[derive(Debug, Default)]
pub struct Overlaying {
    pub running: Option<Arc<Overlay>>,
    /// What is connected to origins here for other edges: with counters of its own, since whose clients they are counts
    /// them already, and without rules, since that edge has judged them.
    pub exits: Exits,
    pub identity: Arc<ArcSwapOption<Identity>>,
    pub steering: Arc<Steering>,
    lasting: Option<Lasting>,
}

impl Overlaying {
    pub fn report(&self, now_ms: u64) -> Option<OverlayReport> {
        self.running.as_ref().map(|overlay| overlay.report(now_ms))
    }

    /// What control says of an application, and has said before.
    pub fn steered(&self, spec: &Application) -> Arc<Steered> {
        self.steering.of(u128::from_str_radix(&spec.id, 16).unwrap_or_default()) // 32 hex digits, checked on arrival
    }

    /// For a worker that takes the place of another.
    pub fn again(&self) -> Option<Step> {
        self.running.clone().map(|overlay| Step::Overlay(Some(overlay)))
    }

    /// The same, for the port of other edges.
    pub fn listen_again(&self, place: Place, held: &mut HashMap<Place, Weak<Shared>>, workers: usize) -> Option<Step> {
        let overlay = self.running.as_ref()?;
        let sockets = held.get(&place).and_then(Weak::upgrade);
        let sockets = sockets.or_else(|| listen::bind(place, &overlay.transit, workers).ok().map(Shared::new))?;
        held.insert(place, Arc::downgrade(&sockets));
        Some(Step::ListenForEdges { place, sockets })
    }
}

impl Running {
    /// Who others are, where they are heard, and what is connected to origins for them.
    pub(super) fn prepare_overlay(
        &mut self,
        spec: Option<&snapshot::Overlay>,
        wanted: &HashMap<String, Arc<Active>>,
        has_changed: &HashSet<String>,
        (policy, names): (&Arc<Policy>, Option<&Names>),
        change: &mut Preparation,
    ) -> (Option<Arc<Overlay>>, Exits) {
        let Some(spec) = spec else {
            if self.overlay.running.is_some() {
                change.be(None);
            }
            return (None, Exits::new());
        };
        let (identity, steering) = (self.overlay.identity.clone(), self.overlay.steering.clone());
        let make = || Lasting::new(change.workers, identity, steering);
        let lasting = self.overlay.lasting.get_or_insert_with(make).clone();
        let mut exits = Exits::new();
        for (id, active) in wanted.iter().filter(|(_, active)| active.spec.is_exit) {
            let kept = self.overlay.exits.get(id).filter(|_| !has_changed.contains(id)).cloned();
            let made = || {
                let spec = Application { paths: Vec::new(), limits: Vec::new(), ..active.spec.clone() };
                let steered = active.steered.clone();
                Arc::new(compile(spec, lasting.counters.clone(), policy.clone(), names).steered_by(steered))
            };
            exits.insert(id.clone(), kept.unwrap_or_else(made));
        }
        let is_same = |running: &&Arc<Overlay>| {
            running.spec == *spec
                && is_same_exits(&exits, &self.overlay.exits)
                && !has_changed.iter().any(|id| wanted.contains_key(id))
        };
        let running = self.overlay.running.as_ref().filter(is_same).cloned();
        let overlay = running.unwrap_or_else(|| {
            let applications = wanted.values().map(|active| &active.spec);
            let overlay = Overlay::new(spec.clone(), applications, &exits, policy.clone(), lasting);
            let overlay = Arc::new(overlay);
            change.be(Some(&overlay));
            overlay
        });
        // Flows come in by TCP, datagrams of sessions by UDP.
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            self.prepare_edges_port(Place { protocol, address: spec.listen }, wanted, &overlay, change);
        }
        (Some(overlay), exits)
    }

    fn prepare_edges_port(
        &self,
        place: Place,
        wanted: &HashMap<String, Arc<Active>>,
        overlay: &Overlay,
        change: &mut Preparation,
    ) {
        if self.places.get(&place).is_some_and(|holder| holder == overlay::LISTENER) {
            change.settle_overlay(place, None, Ok(ListenerState::Unchanged));
        } else if let Some(rival) = wanted.values().find(|active| has(active, place)) {
            change.settle_overlay(place, None, Err(taken(place, &format!("is of application {}", rival.spec.name))));
        } else if self.places.contains_key(&place) {
            let why = taken(place, "was an application's until this change; it is tried again");
            change.settle_overlay(place, None, Err(why));
        } else {
            let held = self.sockets.get(&place).and_then(Weak::upgrade);
            let bound = held.map_or_else(|| listen::bind(place, &overlay.transit, change.workers).map(Shared::new), Ok);
            let fate = bound.as_ref().map(|_| ListenerState::Running).map_err(Clone::clone);
            change.settle_overlay(place, bound.as_ref().ok(), fate);
        }
    }
}

/// Who was there first keeps a port that both an application and the overlay want.
pub fn taken(place: Place, by: &str) -> Reason {
    let (ip, port) = (place.address.ip(), place.address.port());
    let protocol = match place.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let message = format!("{protocol}/{port} on {ip} {by}: choose another port, for it or with --overlay");
    Reason { code: "port_in_use", side: Side::Operator, message }
}

fn has(active: &Active, place: Place) -> bool {
    let (spec, ip) = (&active.spec, place.address.ip());
    let on_it = |own: &IpAddr| *own == ip || (own.is_unspecified() && own.is_ipv4() == ip.is_ipv4());
    spec.protocol == place.protocol
        && (spec.edge_ports.first..=spec.edge_ports.last).contains(&place.address.port())
        && spec.edge_addresses.iter().any(on_it)
}

fn is_same_exits(one: &Exits, other: &Exits) -> bool {
    one.len() == other.len() && one.iter().all(|(id, active)| other.get(id).is_some_and(|it| Arc::ptr_eq(it, active)))
}
