//! Which listeners the kernel carries, and why not the others.
//!
//! Pure: what is known of this machine is an argument. Knows nothing of maps. What is not carried here is served by the
//! engine, or by nobody where only the kernel may (`transparent`).

use std::net::IpAddr;

use causeway_bpf::flow::{CHOICES, Carried, CarriedOrigin, HeaderKind, MAX_ORIGINS, MAX_SOURCES};

use crate::application::Active;
use crate::error::Side;
use crate::origin::OriginSet;
use crate::report::Reason;
use crate::snapshot::{Carrier, Protocol, ProxyProtocol, UdpHeader};

/// What the choice asks of this machine.
pub trait Machine {
    fn is_local(&self, address: IpAddr) -> bool;
    /// The addresses of one family that clients elsewhere can reach.
    fn addresses(&self, is_ipv4: bool) -> Vec<IpAddr>;
    /// From where `origin` would be reached; none: not at all.
    fn sources(&self, origin: IpAddr) -> Vec<IpAddr>;
}

/// A listener that the kernel carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carriage {
    /// The concrete addresses of it.
    pub at: Vec<IpAddr>,
    pub told: Carried,
}

/// May the kernel carry `active` on the edge address `edge`? `kept`: does it keep the rules and limits, if there are any?
///
/// # Errors
/// Why the engine does.
pub fn choose(
    active: &Active,
    edge: IpAddr,
    machine: &impl Machine,
    kept: Option<&Result<(), Reason>>,
) -> Result<Carriage, Reason> {
    let spec = &active.spec;
    if spec.carrier == Carrier::Engine {
        return Err(why("carrier_engine", "carrier is 'engine'".into()));
    }
    if let Some(Err(reason)) = kept {
        return Err(reason.clone());
    }
    if !spec.paths.is_empty() || spec.is_steered {
        return Err(why("path", "flows that go over other edges are the engine's".into()));
    }
    if spec.minecraft.is_some() {
        return Err(why("minecraft", "what a Minecraft client says first (minecraft) is read by the engine".into()));
    }
    if !spec.proxy_protocol_from.is_empty() {
        let why_not = "PROXY headers from clients (proxy_protocol_from) are read by the engine";
        return Err(why("reads_header", why_not.into()));
    }
    let header = header(spec.protocol, spec.proxy_protocol, spec.udp_header);
    if header == HeaderKind::ProxyV1 && !edge.is_ipv4() && spec.carrier == Carrier::Auto {
        let why_not = "the kernel writes IPv6 addresses of a PROXY v1 header in full, the engine shortens them; with \
                       carrier 'kernel' they are written in full";
        return Err(why("header_text", why_not.into()));
    }
    let at = addresses(edge, machine)?;
    let origins = origins(active, edge, machine)?;
    let told = Carried {
        id: active.id.to_be_bytes(),
        is_tcp: spec.protocol == Protocol::Tcp,
        header,
        is_transparent: spec.transparent,
        edge_first_port: spec.edge_ports.first,
        choices: choices(&vec![false; origins.len()]),
        slots: slots(active),
        origins,
    };
    Ok(Carriage { at, told })
}

/// Which origin each part of the clients gets: the first in order that is not shunned; if all are, the first.
pub fn choices(is_shunned: &[bool]) -> [u8; CHOICES] {
    let first = is_shunned.iter().position(|is_shunned| !is_shunned).unwrap_or(0);
    [first as u8; CHOICES]
}

/// Who has which clients where their addresses decide; else nothing.
fn slots(active: &Active) -> Vec<u8> {
    match &active.origins {
        OriginSet::Addresses { slots, .. } => slots.clone(),
        OriginSet::Name { .. } => Vec::new(),
    }
}

/// A wildcard would take what is routed through this machine to others: it stands for our own addresses.
fn addresses(edge: IpAddr, machine: &impl Machine) -> Result<Vec<IpAddr>, Reason> {
    if edge.is_loopback() {
        let why_not = format!("clients of {edge} are on this machine: their packets come in by no network interface");
        return Err(why("edge_loopback", why_not));
    }
    if !edge.is_unspecified() {
        return Ok(vec![edge]);
    }
    let at = machine.addresses(edge.is_ipv4());
    if at.is_empty() {
        return Err(why("edge_loopback", format!("{edge} stands for no address but loopback on this machine")));
    }
    Ok(at)
}

fn origins(active: &Active, edge: IpAddr, machine: &impl Machine) -> Result<Vec<CarriedOrigin>, Reason> {
    let OriginSet::Addresses { addresses, .. } = &active.origins else {
        return Err(why("origin_by_name", "an origin that is a name is looked up by the engine".into()));
    };
    if addresses.len() > MAX_ORIGINS {
        let why_not = format!("{} origins: the kernel's table has room for {MAX_ORIGINS}", addresses.len());
        return Err(why("many_origins", why_not));
    }
    if active.spec.carrier == Carrier::Auto && active.spec.protocol == Protocol::Tcp && addresses.len() > 1 {
        let why_not = "of several origins the engine tries the next one within a connection; with carrier 'kernel' only \
                       later connections go to the next";
        return Err(why("several_origins", why_not.into()));
    }
    addresses
        .iter()
        .map(|origin| {
            let address = origin.address.to_canonical();
            if address.is_ipv4() != edge.is_ipv4() {
                let why_not = format!("clients of {edge} and the origin {address} are of different IP versions");
                return Err(why("origin_family", why_not));
            }
            if machine.is_local(address) {
                return Err(why("origin_local", format!("the origin {address} is on this machine")));
            }
            let is_allowed = |port| active.may_connect((address, port).into());
            if let Some(port) = origin.ports.iter().find(|port| !is_allowed(*port)) {
                let why_not = format!("{address} port {port} is an address that this edge must not connect to");
                return Err(why("origin_denied", why_not));
            }
            let mut sources = machine.sources(address);
            sources.truncate(MAX_SOURCES);
            if sources.is_empty() {
                let why_not = format!("no route to the origin {address}, or no source address that this machine has");
                return Err(why("origin_unreachable", why_not));
            }
            if active.spec.transparent {
                sources.clear(); // the client's own
            }
            Ok(CarriedOrigin { address, first_port: origin.ports.first, sources })
        })
        .collect()
}

fn header(protocol: Protocol, proxy: ProxyProtocol, udp: UdpHeader) -> HeaderKind {
    match (proxy, protocol, udp) {
        (ProxyProtocol::Off, ..) => HeaderKind::None,
        (ProxyProtocol::V1, ..) => HeaderKind::ProxyV1,
        (ProxyProtocol::V2, Protocol::Udp, UdpHeader::Every) => HeaderKind::ProxyV2Every,
        (ProxyProtocol::V2, ..) => HeaderKind::ProxyV2,
        (ProxyProtocol::Simple, ..) => HeaderKind::Simple,
    }
}

/// Why nobody serves a transparent application.
pub fn why_refused(reason: Reason) -> Reason {
    let message = format!(
        "x_causeway.transparent: only the kernel can keep the client's address, and here it cannot: {}",
        reason.message
    );
    Reason { message, ..reason }
}

pub fn why(code: &'static str, message: String) -> Reason {
    Reason { code, side: Side::Operator, message }
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
