//! Flows from edge to edge: who the others are, what is connected to origins for them, and how TLS is spoken with them.
//!
//! A flow of an application with a path goes to the next edge over a connection that is there already (`tcp/links`),
//! begins with a header (`causeway_wire::overlay`), and ends as a flow of its own kind at every hop: FIN as the end of
//! TLS and FIN, RST as RST. Datagrams of a session go over a QUIC connection that they share (`udp/legs`). Both sides
//! prove who they are; whoever is not in the snapshot is refused.

pub mod identity;
pub mod quic;
pub mod tls;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use causeway_wire::overlay::{Name, Outcome, Path};
use serde::Serialize;

use crate::application::Active;
use crate::count::{Counters, Totals};
use crate::event::Cause;
use crate::origin::{OriginSet, Policy};
use crate::snapshot::{self, Application, Balance, Carrier, OnDelete, Origins, Ports, Protocol, ProxyProtocol};
use crate::snapshot::{Sensitivity, UdpHeader};
use crate::steering::{Steering, SteeringReport};
use crate::tcp::Registry;
use identity::Identity;

/// Stands for the port of the overlay where applications have theirs.
pub const LISTENER: &str = "overlay";

/// Counted over all workers, since the start.
#[derive(Debug, Default)]
pub struct Tally {
    /// Other edges that came and were refused: by certificate, by name, or for what they said.
    pub refused: AtomicU64,
    /// Connections to other edges that did not come about.
    pub failed: AtomicU64,
    /// Flows that found a connection ready, and those that had to wait for one.
    pub ready: AtomicU64,
    pub waited: AtomicU64,
    /// Datagrams that were too large for a packet to the next edge.
    pub large: AtomicU64,
    /// Flows that went on over another connection, that ended for want of one, and that were too much to keep.
    pub resumed: AtomicU64,
    pub lost: AtomicU64,
    pub unkept: AtomicU64,
}

impl Tally {
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed); // of handshakes and waits, not of packets
    }
}

/// What this edge is to others. Compiled once for each change, shared by all workers.
#[derive(Debug)]
pub struct Overlay {
    pub spec: snapshot::Overlay,
    pub name: Name,
    peers: HashMap<Name, SocketAddr>,
    /// Those that get no new flows.
    drained: HashSet<Name>,
    /// What is connected to origins here, for flows that other edges hand over.
    pub exits: HashMap<u128, Arc<Active>>,
    /// For flows that go on to another edge.
    pub transit: Arc<Active>,
    /// To whom flows of this edge's own clients go first: a connection is kept ready.
    pub next: Vec<Name>,
    /// And datagrams.
    pub next_for_datagrams: Vec<Name>,
    pub lasting: Lasting,
}

/// What outlives a change.
#[derive(Clone, Debug)]
pub struct Lasting {
    pub identity: Arc<ArcSwapOption<Identity>>,
    pub counters: Arc<[Counters]>,
    pub tally: Arc<Tally>,
    pub steering: Arc<Steering>,
    /// Of flows that can be resumed.
    pub registry: Arc<Registry>,
    /// Makes the flows of this process different from those of others.
    pub seed: u64,
}

impl Lasting {
    pub fn new(workers: usize, identity: Arc<ArcSwapOption<Identity>>, steering: Arc<Steering>) -> Lasting {
        use std::hash::BuildHasher;
        let seed = std::collections::hash_map::RandomState::new().hash_one(0u8) << 1 | 1; // never 0
        let counters = std::iter::repeat_with(Counters::default).take(workers + 1).collect();
        Lasting { identity, counters, tally: Arc::default(), steering, registry: Arc::default(), seed }
    }
}

impl Overlay {
    /// `applications` are those of the snapshot, `exits` those among them that other edges' flows end at.
    pub fn new<'a>(
        spec: snapshot::Overlay,
        applications: impl Iterator<Item = &'a Application>,
        exits: &HashMap<String, Arc<Active>>,
        policy: Arc<Policy>,
        lasting: Lasting,
    ) -> Overlay {
        let name = |text: &String| Name::new(text.as_bytes()); // checked on arrival
        let (streams, datagrams): (Vec<_>, Vec<_>) = applications.partition(|a| a.protocol == Protocol::Tcp);
        let firsts = |all: &[&'a Application]| -> HashSet<Name> {
            all.iter().flat_map(|a| &a.paths).filter_map(|path| name(path.first()?)).collect()
        };
        Overlay {
            name: name(&spec.name).unwrap_or_else(|| unreachable!("checked on arrival")),
            peers: spec.peers.iter().filter_map(|peer| Some((name(&peer.name)?, peer.address))).collect(),
            drained: spec.peers.iter().filter(|peer| peer.is_drained).filter_map(|peer| name(&peer.name)).collect(),
            exits: exits.values().map(|active| (active.id, active.clone())).collect(),
            transit: Arc::new(Active::new(
                transit(),
                OriginSet::addresses(Vec::new()),
                policy,
                lasting.counters.clone(),
            )),
            next: firsts(&streams).into_iter().collect(),
            next_for_datagrams: firsts(&datagrams).into_iter().collect(),
            lasting,
            spec,
        }
    }

    /// Where another edge listens; none: it is none of ours.
    pub fn peer(&self, name: &Name) -> Option<SocketAddr> {
        self.peers.get(name).copied()
    }

    /// Does some flow of this edge's own clients go there first, as far as is known before it comes?
    pub fn is_next(&self, name: &Name, now_ms: u64) -> bool {
        self.next.contains(name) || self.lasting.steering.wanted(now_ms).is_some_and(|it| it.next.contains(name))
    }

    /// Is the next edge that way known not to answer now?
    pub fn is_down(&self, path: &Path) -> bool {
        path.split().is_some_and(|(next, _)| self.lasting.steering.is_down(&next))
    }

    /// May a new flow go that way?
    pub fn leads_on(&self, path: &Path) -> bool {
        path.names().all(|name| self.peers.contains_key(name) && !self.drained.contains(name))
    }

    /// Paths to that edge over at most one other, those that are likely to be there first, the shortest first.
    pub fn ways_to(&self, last: &Name) -> Vec<Path> {
        let steering = &self.lasting.steering;
        let others = self.peers.keys().filter(|name| *name != last && !self.drained.contains(name));
        let mut others: Vec<(bool, u32, &str, Path)> = others
            .filter_map(|name| {
                let rtt_us = steering.rtt_us(name).map_or(u32::MAX, |rtt_us| rtt_us as u32);
                Some((steering.is_down(name), rtt_us, name.as_str(), Path::new(&[*name, *last])?))
            })
            .collect();
        others.sort_unstable_by(|one, other| (one.0, one.1, one.2).cmp(&(other.0, other.1, other.2)));
        let straight = Path::new(&[*last]).filter(|_| self.peers.contains_key(last));
        straight.into_iter().chain(others.into_iter().map(|(.., path)| path)).collect()
    }

    pub fn report(&self, now_ms: u64) -> OverlayReport {
        let mut relayed = Totals::default();
        self.lasting.counters.iter().for_each(|counters| relayed.add(counters));
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let identity = self.lasting.identity.load();
        OverlayReport {
            name: self.spec.name.clone(),
            listen: self.spec.listen,
            peers: self.peers.len(),
            missing: identity.is_none().then(|| "this edge has no certificate for others yet".to_string()),
            relayed,
            peers_refused_total: get(&self.lasting.tally.refused),
            links_failed_total: get(&self.lasting.tally.failed),
            flows_ready_total: get(&self.lasting.tally.ready),
            flows_waited_total: get(&self.lasting.tally.waited),
            datagrams_large_total: get(&self.lasting.tally.large),
            flows_resumed_total: get(&self.lasting.tally.resumed),
            flows_lost_total: get(&self.lasting.tally.lost),
            flows_unkept_total: get(&self.lasting.tally.unkept),
            kept_bytes: self.lasting.registry.held_bytes(),
            steering: self.lasting.steering.report(now_ms),
        }
    }
}

/// The paths of an application from here on, as the data path reads them; an empty one goes to the origin.
pub fn paths(spec: &Application) -> Box<[Path]> {
    let names = |path: &Vec<String>| path.iter().filter_map(|text| Name::new(text.as_bytes())).collect::<Vec<_>>();
    spec.paths.iter().filter_map(|path| Path::new(&names(path))).collect()
}

/// What the overlay does, for whoever observes.
#[derive(Debug, Serialize)]
pub struct OverlayReport {
    pub name: String,
    pub listen: SocketAddr,
    pub peers: usize,
    /// Why nothing goes over it, if so.
    pub missing: Option<String>,
    /// Flows that other edges handed over.
    pub relayed: Totals,
    pub peers_refused_total: u64,
    pub links_failed_total: u64,
    pub flows_ready_total: u64,
    pub flows_waited_total: u64,
    pub datagrams_large_total: u64,
    pub flows_resumed_total: u64,
    pub flows_lost_total: u64,
    pub flows_unkept_total: u64,
    /// Held now so that flows can be resumed.
    pub kept_bytes: usize,
    pub steering: SteeringReport,
}

/// Its timeouts are those that hold where nobody has said anything else; idle flows are for their ends to judge.
fn transit() -> Application {
    Application {
        id: "0".repeat(32),
        name: LISTENER.into(),
        protocol: Protocol::Tcp,
        edge_addresses: vec![IpAddr::from([0, 0, 0, 0])],
        edge_ports: Ports { first: 1, last: 65535 },
        origins: Origins::Addresses { addresses: Vec::new() },
        proxy_protocol: ProxyProtocol::Off,
        udp_header: UdpHeader::First,
        proxy_protocol_from: Vec::new(),
        proxy_header_timeout_ms: 3_000,
        connect_timeout_ms: 5_000,
        idle_timeout_ms: 0,
        half_close_timeout_ms: 0,
        no_progress_timeout_ms: 300_000,
        udp_idle_timeout_ms: 60_000,
        on_delete: OnDelete::Drain,
        drain_ms: 0,
        carrier: Carrier::Engine,
        transparent: false,
        balance: Balance::Order,
        weights: Vec::new(),
        firewall: None,
        limits: Vec::new(),
        mitigation: Sensitivity::Off,
        logins: false,
        minecraft: None,
        paths: Vec::new(),
        is_exit: false,
        is_steered: false,
    }
}

/// What became of a flow at the end of its path, as the edge that its client reached records it.
pub fn cause(outcome: Outcome) -> Cause {
    match outcome {
        Outcome::Connected => Cause::Opened,
        Outcome::PathBroken | Outcome::NotKept | Outcome::Gone => Cause::PathBroken,
        Outcome::Unknown => Cause::PathUnknown,
        Outcome::Refused => Cause::ConnectRefused,
        Outcome::TimedOut => Cause::ConnectTimeout,
        Outcome::Unreachable => Cause::ConnectUnreachable,
        Outcome::Failed => Cause::ConnectFailed,
        Outcome::PortsExhausted => Cause::PortsExhausted,
        Outcome::OutOfResources => Cause::OutOfResources,
        Outcome::Denied => Cause::OriginDenied,
        Outcome::NameNotFound => Cause::NameNotFound,
        Outcome::NameFailed => Cause::NameFailed,
    }
}

/// And as the edge at the end tells it.
pub fn outcome(cause: Cause) -> Outcome {
    match cause {
        Cause::Opened => Outcome::Connected,
        Cause::PathBroken => Outcome::PathBroken,
        Cause::PathUnknown => Outcome::Unknown,
        Cause::ConnectRefused | Cause::OriginPortUnreachable => Outcome::Refused,
        Cause::ConnectTimeout => Outcome::TimedOut,
        Cause::ConnectUnreachable => Outcome::Unreachable,
        Cause::PortsExhausted | Cause::SourceMissing => Outcome::PortsExhausted,
        Cause::OutOfResources | Cause::ShedMemory | Cause::SessionEvicted => Outcome::OutOfResources,
        Cause::OriginDenied => Outcome::Denied,
        Cause::NameNotFound => Outcome::NameNotFound,
        Cause::NameFailed => Outcome::NameFailed,
        _ => Outcome::Failed,
    }
}
