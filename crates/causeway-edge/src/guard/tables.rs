//! Which ports of which addresses belong to whom, as the kernel wants it. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;

use super::policy::Subject;
use crate::dispatch;
use crate::report::{ListenerReport, ListenerState};
use crate::snapshot::Ports;

/// Each costs 128 KiB of the kernel's memory.
const MOST_SPOTS: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub spot: Spot,
    pub ports: Ports,
    pub application: String,
}

/// Concrete addresses come after what a wildcard stands for: they win.
#[derive(Debug, Default)]
pub struct Wanted {
    pub ports: Vec<Claim>,
    /// Listeners for which there is no room.
    pub left_out: usize,
}

/// Loopback is not guarded: its packets come in by no network interface. A wildcard stands for our own addresses, or
/// what is routed through this machine to others would be judged.
pub fn wanted(listeners: &[ListenerReport], local: &[IpAddr]) -> Wanted {
    let (wildcards, concrete): (Vec<_>, Vec<_>) = listeners
        .iter()
        .filter(|listener| listener.state != ListenerState::Refused && !listener.address.is_loopback())
        .partition(|listener| listener.address.is_unspecified());
    let mut wanted = Wanted::default();
    let mut spots = BTreeSet::new();
    for listener in wildcards.into_iter().chain(concrete) {
        let own = local.iter().filter(|own| own.is_ipv4() == listener.address.is_ipv4() && !own.is_loopback());
        let at: Vec<IpAddr> = match listener.address.is_unspecified() {
            true => own.copied().collect(),
            false => vec![listener.address],
        };
        for address in at {
            let spot = dispatch::spot(listener.protocol, address);
            if !spots.contains(&spot) && spots.len() == MOST_SPOTS {
                wanted.left_out += 1;
                continue;
            }
            spots.insert(spot);
            let (ports, application) = (listener.ports, listener.application.clone());
            wanted.ports.push(Claim { spot, ports, application });
        }
    }
    wanted
}

impl Wanted {
    pub fn applications(&self) -> impl Iterator<Item = &str> {
        let mut seen = HashSet::new();
        self.ports.iter().map(|claim| claim.application.as_str()).filter(move |application| seen.insert(*application))
    }

    pub fn subject(&self, application: &str) -> Subject {
        let claims = || self.ports.iter().filter(|claim| claim.application == application);
        let mut ports: Vec<Ports> = claims().map(|claim| claim.ports).collect();
        ports.sort_unstable();
        ports.dedup();
        Subject { is_tcp: claims().next().map(|claim| claim.spot.is_tcp()), ports }
    }

    pub fn tables(&self, index_of: impl Fn(&str) -> u16) -> BTreeMap<Spot, PortTable> {
        let mut tables: BTreeMap<Spot, PortTable> = BTreeMap::new();
        for Claim { spot, ports, application } in &self.ports {
            tables.entry(*spot).or_default().set(ports.first..=ports.last, index_of(application));
        }
        tables.retain(|_, table| !table.is_empty());
        tables
    }
}

pub fn indices_of(tables: &BTreeMap<Spot, PortTable>) -> impl Iterator<Item = u16> {
    tables.values().flat_map(PortTable::runs).map(|(_, index)| index)
}
