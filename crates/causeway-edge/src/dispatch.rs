//! Ports served by dispatch in the kernel, as control sees them: what is claimed, what only drains, who has what.
//!
//! The program is loaded when the first range needs it. A claim is checked before it is made, since nothing is
//! bound that could collide (see `judge`).

mod judge;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use causeway_bpf::{Dispatch, PortSet, Slot, Spot};
use serde::Deserialize;

use crate::application::Active;
use crate::listen;
use crate::report::{DispatchReport, Reason};
use crate::routes::{Routes, Uses};
use crate::snapshot::{Ports, Protocol};
use crate::sockets::{Shared, Sockets};
use crate::worker::Place;
pub use judge::{Look, Verdict};

/// An application with more ports than this gets them by dispatch; one with fewer has sockets of its own, which
/// every tool shows and no other process can listen on.
pub const MOST_BOUND: usize = 16;

/// When dispatch is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// For ranges, where this machine lets us.
    #[default]
    Auto,
    /// For every port; the edge does not start without.
    On,
    Off,
}

/// The kernel's side.
#[derive(Debug, Default)]
pub enum Kernel {
    #[default]
    Untried,
    Has(Dispatch),
    /// Why not, ready to stand in brackets.
    Without(String),
}

/// Who has which ports of one spot, sorted.
pub type Owners = Vec<(Ports, String)>;

/// One spot as it is in the kernel.
#[derive(Debug)]
struct Claim {
    owners: Owners,
    /// What the kernel was told: the owners' ports, and those of UDP that only drain.
    written: PortSet,
    uses: Arc<Uses>,
}

#[derive(Debug, Default)]
pub struct Dispatching {
    mode: Mode,
    kernel: Kernel,
    claims: BTreeMap<Spot, Claim>,
    /// The sockets that get the flows.
    bases: HashMap<Slot, (Place, Weak<Shared>)>,
    adopted: Vec<(Place, Sockets)>,
    pub routes: Arc<Routes>,
}

impl Dispatching {
    /// # Errors
    /// The reason why this machine cannot, if it must.
    pub fn start(mode: Mode) -> Result<Dispatching, String> {
        let mut it = Dispatching { mode, ..Dispatching::default() };
        if mode == Mode::On && !it.is_available() { Err(it.missing()) } else { Ok(it) }
    }

    /// Loads the program if that was not tried yet, unless it is not to be used.
    fn is_available(&mut self) -> bool {
        if matches!(self.kernel, Kernel::Untried) && self.mode != Mode::Off {
            self.kernel = match Dispatch::attach() {
                Ok(dispatch) => Kernel::Has(dispatch),
                Err(reason) => Kernel::Without(reason.to_string()),
            };
        }
        matches!(self.kernel, Kernel::Has(_))
    }

    /// Why ports cost a socket each, and what to do about it.
    pub fn missing(&self) -> String {
        match &self.kernel {
            Kernel::Without(reason) => {
                format!("kernel dispatch, which serves any range from one socket, is not available ({reason})")
            }
            _ => "kernel dispatch, which serves any range from one socket, is switched off (--dispatch off)".into(),
        }
    }

    /// The program at work, with the descriptors that another process needs.
    pub fn kernel(&self) -> Option<&Dispatch> {
        match &self.kernel {
            Kernel::Has(dispatch) => Some(dispatch),
            _ => None,
        }
    }

    pub fn report(&self) -> DispatchReport {
        let missing = if let Kernel::Without(reason) = &self.kernel { Some(reason.clone()) } else { None };
        let Some(dispatch) = self.kernel() else { return DispatchReport { missing, ..DispatchReport::default() } };
        let seen = dispatch.verdicts().unwrap_or_default(); // zeroes are better than no report
        let failed = seen.no_socket + seen.failed;
        DispatchReport { is_on: true, missing, passed: seen.passed, assigned: seen.assigned, failed }
    }

    /// The sockets that get the flows of dispatch, for another process or a new worker.
    pub fn bases(&self) -> impl Iterator<Item = (Slot, Place, Sockets)> {
        self.bases.iter().filter_map(|(slot, (place, sockets))| Some((*slot, *place, sockets.upgrade()?)))
    }

    /// Take over what another process has built: the kernel's side with all that is claimed there, and the sockets that
    /// get the flows. The next change gives them to the workers; what it does not want is given up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn adopt(&mut self, dispatch: Dispatch, bases: Vec<(Place, Sockets)>) -> io::Result<()> {
        for spot in dispatch.spots()? {
            let written = dispatch.claimed(spot)?;
            self.claims.insert(spot, Claim { owners: Vec::new(), written, uses: uses_for(spot) });
        }
        self.kernel = Kernel::Has(dispatch);
        for (place, sockets) in &bases {
            let slot = spot(place.protocol, place.address.ip()).slot();
            self.bases.insert(slot, (*place, Arc::downgrade(sockets)));
        }
        self.adopted = bases;
        Ok(())
    }

    /// Sockets that came from another process and that no worker listens on yet.
    pub fn take_adopted(&mut self) -> Vec<(Place, Sockets)> {
        std::mem::take(&mut self.adopted)
    }

    /// Are the ports of this application to be had by dispatch?
    pub fn takes(&mut self, active: &Active) -> bool {
        let is_wanted = match self.mode {
            Mode::Off => false,
            Mode::On => true,
            // What dispatch has it keeps, so that a range that shrinks is without a listener for no moment.
            Mode::Auto => active.spec.edge_ports.count() > MOST_BOUND || self.has_some(active),
        };
        is_wanted && self.is_available()
    }

    fn has_some(&self, active: &Active) -> bool {
        let ports = active.spec.edge_ports;
        active.spec.edge_addresses.iter().any(|address| {
            let claim = self.claims.get(&spot(active.spec.protocol, *address));
            claim.is_some_and(|claim| ports.iter().any(|port| claim.written.contains(port)))
        })
    }

    /// The sockets for flows of `spot`: none if there are some already.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub fn base(&mut self, spot: Spot, workers: usize) -> Result<Option<(Place, Sockets)>, Reason> {
        let slot = spot.slot();
        if self.bases.get(&slot).is_some_and(|(_, sockets)| sockets.strong_count() > 0) {
            return Ok(None);
        }
        let Kernel::Has(dispatch) = &self.kernel else { return Ok(None) };
        let whole = place(spot, 0);
        let made = listen::base(whole.protocol, whole.address.is_ipv4(), workers).and_then(|(place, sockets)| {
            let first = sockets.first().ok_or(io::ErrorKind::InvalidInput)?;
            dispatch.give(slot, first.as_fd())?;
            Ok((place, Shared::new(sockets)))
        });
        let (place, sockets) = made.map_err(|error| listen::reason(whole, &error))?;
        self.bases.insert(slot, (place, Arc::downgrade(&sockets)));
        Ok(Some((place, sockets)))
    }

    /// The sockets of all that is claimed; made anew where they went with the last worker.
    pub fn bases_again(&mut self, workers: usize) -> Vec<(Place, Sockets)> {
        let spots: Vec<Spot> = self.claims.keys().copied().collect();
        for spot in spots {
            let _ = self.base(spot, workers); // nothing to be had: its ports answer as closed ones until the next change
        }
        self.bases().map(|(_, place, sockets)| (place, sockets)).collect()
    }

    pub fn owners(&self, spot: Spot) -> &[(Ports, String)] {
        self.claims.get(&spot).map_or(&[], |claim| &claim.owners)
    }

    /// Is this what is served already?
    pub fn is(&self, wanted: &BTreeMap<Spot, Owners>) -> bool {
        let served = self.claims.iter().filter(|(_, claim)| !claim.owners.is_empty());
        served.map(|(spot, claim)| (spot, &claim.owners)).eq(wanted.iter())
    }

    /// The routes of `wanted`; counts of ports go on.
    pub fn routes_for(&self, wanted: &BTreeMap<Spot, Owners>, by_id: &HashMap<String, Arc<Active>>) -> Arc<Routes> {
        let mut routes = Routes::default();
        for (spot, owners) in wanted {
            let uses = self.claims.get(spot).map_or_else(|| uses_for(*spot), |claim| claim.uses.clone());
            let owners = owners.iter().map(|(ports, id)| (*ports, by_id[id].clone())).collect();
            routes.add(protocol(*spot), spot.address(), owners, uses);
        }
        Arc::new(routes)
    }

    /// Before the workers forget whose they are: ports of TCP that are given up are closed.
    pub fn shrink(&mut self, wanted: &BTreeMap<Spot, Owners>) {
        let Kernel::Has(dispatch) = &self.kernel else { return };
        for (spot, claim) in self.claims.iter_mut().filter(|(spot, _)| spot.is_tcp()) {
            let mut left = claim.written.clone();
            left.keep(&ports_of(wanted.get(spot)));
            if left != claim.written && dispatch.claim(*spot, &left).is_ok() {
                claim.written = left;
            }
        }
    }

    /// After the workers know whose they are: claim what is new, give up what nobody needs any more.
    /// Answers where the kernel refused, with what is not served for it.
    pub fn switch(&mut self, wanted: BTreeMap<Spot, Owners>, routes: Arc<Routes>) -> Vec<(Spot, PortSet, io::Error)> {
        for claim in self.claims.values_mut() {
            claim.owners.clear();
        }
        for (spot, owners) in wanted {
            let uses = || routes.uses(protocol(spot), spot.address()).unwrap_or_else(|| uses_for(spot));
            let claim = self.claims.entry(spot).or_insert_with(|| Claim {
                owners: Vec::new(),
                written: PortSet::default(),
                uses: uses(),
            });
            claim.owners = owners;
        }
        self.routes = routes;
        self.settle()
    }

    /// Bring the kernel up to date: ports of UDP that are given up go once their last session has gone.
    pub fn settle(&mut self) -> Vec<(Spot, PortSet, io::Error)> {
        let Kernel::Has(dispatch) = &self.kernel else { return Vec::new() };
        let mut refused = Vec::new();
        for (spot, claim) in &mut self.claims {
            let owned = ports_of(Some(&claim.owners));
            let mut target = claim.written.clone();
            target.take_out(&owned);
            let idle: Vec<u16> = target.iter().filter(|port| !claim.uses.is_used(*port)).collect();
            idle.into_iter().for_each(|port| target.remove(port));
            target.add(&owned);
            if target == claim.written {
                continue;
            }
            match dispatch.claim(*spot, &target) {
                Ok(()) => claim.written = target,
                Err(error) => {
                    target.take_out(&claim.written);
                    refused.push((*spot, target, error));
                }
            }
        }
        self.claims.retain(|_, claim| !claim.owners.is_empty() || !claim.written.is_empty());
        refused
    }
}

pub fn spot(protocol: Protocol, address: IpAddr) -> Spot {
    match protocol {
        Protocol::Tcp => Spot::tcp(address),
        Protocol::Udp => Spot::udp(address),
    }
}

pub fn place(spot: Spot, port: u16) -> Place {
    Place { protocol: protocol(spot), address: SocketAddr::new(spot.address(), port) }
}

pub fn protocol(spot: Spot) -> Protocol {
    if spot.is_tcp() { Protocol::Tcp } else { Protocol::Udp }
}

fn uses_for(spot: Spot) -> Arc<Uses> {
    if spot.is_tcp() { Uses::none() } else { Uses::of_all_ports() }
}

fn ports_of(owners: Option<&Owners>) -> PortSet {
    let mut ports = PortSet::default();
    owners.into_iter().flatten().for_each(|(range, _)| ports.insert(range.first, range.last));
    ports
}
