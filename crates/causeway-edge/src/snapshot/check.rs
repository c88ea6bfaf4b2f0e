//! Which snapshots make no sense, whatever each of their fields says alone.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use causeway_wire::overlay::{MOST_HOPS, Name, Path};

use super::{Application, Balance, Carrier, Limit, Origins, Overlay, Ports, Protocol, ProxyProtocol, Snapshot};
use crate::error::EdgeError;

/// Of one application; a flow remembers which it has tried.
const MOST_PATHS: usize = 8;

const LONGEST_TIMEOUT_MS: u64 = 7 * 24 * 3600 * 1000;

impl Snapshot {
    /// # Errors
    /// `Invalid`, with the field.
    pub(super) fn check(&self) -> Result<(), EdgeError> {
        if let Some(address) = self.settings.source_addresses.iter().find(|a| a.is_unspecified() || a.is_multicast()) {
            let reason = format!("{address} is not an address to connect from");
            return Err(EdgeError::Invalid { field: "settings.source_addresses".into(), reason });
        }
        let mut firewalls = HashSet::with_capacity(self.firewalls.len());
        for (index, firewall) in self.firewalls.iter().enumerate() {
            let invalid = |reason| EdgeError::Invalid { field: format!("firewalls[{index}]"), reason };
            if !firewalls.insert(firewall.id.as_str()) {
                return Err(invalid(format!("{} appears twice", firewall.id)));
            }
        }
        let mut ids = HashSet::with_capacity(self.applications.len());
        let mut claims = Claims::default();
        if let Some(overlay) = &self.overlay {
            let invalid = |(field, reason)| EdgeError::Invalid { field: format!("overlay.{field}"), reason };
            overlay.check().map_err(invalid)?;
        }
        for (index, application) in self.applications.iter().enumerate() {
            let at = |field: &str| format!("applications[{index}].{field}");
            let invalid = |field: &str, reason: String| EdgeError::Invalid { field: at(field), reason };
            application.check().map_err(|(field, reason)| invalid(field, reason))?;
            if let Some(id) = application.firewall.as_deref().filter(|id| !firewalls.contains(id)) {
                return Err(invalid("firewall", format!("there is no firewall {id:?}")));
            }
            if !ids.insert(application.id.as_str()) {
                return Err(invalid("id", format!("{} appears twice", application.id)));
            }
            for address in &application.edge_addresses {
                if let Err(port) = claims.insert(application.protocol, *address, application.edge_ports) {
                    let reason = format!("{address} port {port} is claimed by another application");
                    return Err(invalid("edge_ports", reason));
                }
            }
        }
        Ok(())
    }
}

/// Ranges of ports seen so far, by where they begin.
#[derive(Default)]
struct Claims(BTreeMap<(Protocol, IpAddr, u16), u16>);

impl Claims {
    /// # Errors
    /// The first port that is claimed already.
    fn insert(&mut self, protocol: Protocol, address: IpAddr, ports: Ports) -> Result<(), u16> {
        let at = |port| (protocol, address, port);
        let before = self.0.range(at(0)..=at(ports.first)).next_back();
        if before.is_some_and(|(_, last)| *last >= ports.first) {
            return Err(ports.first);
        }
        if let Some(((.., first), _)) = self.0.range(at(ports.first)..=at(ports.last)).next() {
            return Err(*first);
        }
        self.0.insert(at(ports.first), ports.last);
        Ok(())
    }
}

type Broken = (&'static str, String);

impl Overlay {
    fn check(&self) -> Result<(), Broken> {
        let mut names = HashSet::with_capacity(self.peers.len() + 1);
        names.insert(self.name.as_str());
        if Name::new(self.name.as_bytes()).is_none() {
            return Err(("name", format!("{:?} is not the name of an edge", self.name)));
        }
        if self.listen.port() == 0 {
            return Err(("listen", "a port is needed".into()));
        }
        for peer in &self.peers {
            if Name::new(peer.name.as_bytes()).is_none() || peer.address.port() == 0 {
                return Err(("peers", format!("{:?} at {} is not an edge", peer.name, peer.address)));
            }
            if !names.insert(&peer.name) {
                return Err(("peers", format!("{} appears twice", peer.name)));
            }
        }
        Ok(())
    }
}

impl Application {
    fn check(&self) -> Result<(), Broken> {
        if self.id.len() != 32 || !self.id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(("id", format!("{:?} is not 32 hexadecimal digits", self.id)));
        }
        check_ports("edge_ports", self.edge_ports)?;
        if self.edge_addresses.is_empty() && !self.is_exit {
            return Err(("edge_addresses", "at least one address is needed".into()));
        }
        self.check_origins()?;
        self.check_proxy_protocol()?;
        self.check_limits()?;
        self.check_balance()?;
        self.check_transparent()?;
        self.check_minecraft()?;
        self.check_paths()?;
        self.check_timeouts()
    }

    fn check_paths(&self) -> Result<(), Broken> {
        let is_path = |path: &Vec<String>| {
            let names: Option<Vec<Name>> = path.iter().map(|text| Name::new(text.as_bytes())).collect();
            names.is_some_and(|names| Path::new(&names).is_some())
        };
        let leads_elsewhere = self.is_exit || self.is_steered || self.paths.iter().any(|path| !path.is_empty());
        let reason = match self.paths.iter().find(|path| !is_path(path)) {
            Some(path) => format!("{path:?} is not up to {MOST_HOPS} names of edges, each once"),
            None if self.paths.len() > MOST_PATHS => {
                format!("{} paths, at most {MOST_PATHS} are possible", self.paths.len())
            }
            None if self.is_steered && self.protocol == Protocol::Udp => "control steers flows of tcp alone".into(),
            None if leads_elsewhere && self.minecraft.is_some() => {
                "an edge that speaks for a Minecraft server connects to it itself".into()
            }
            None if leads_elsewhere && (self.transparent || self.carrier == Carrier::Kernel) => {
                "flows that go from edge to edge are the engine's, not the kernel's".into()
            }
            None => return Ok(()),
        };
        Err(("paths", reason))
    }

    fn check_origins(&self) -> Result<(), Broken> {
        let ports = match &self.origins {
            Origins::Addresses { addresses } if addresses.is_empty() => {
                return Err(("origins", "at least one origin is needed".into()));
            }
            Origins::Addresses { addresses } if addresses.len() > crate::origin::MOST_ORIGINS => {
                return Err(("origins", format!("{} origins, at most 64 are possible", addresses.len())));
            }
            Origins::Addresses { addresses } => addresses.iter().map(|origin| origin.ports).collect(),
            Origins::Dns { name, ttl_s, ports, .. } => {
                if name.is_empty() || name.len() > 253 {
                    return Err(("origins", format!("a name has 1 to 253 characters, not {}", name.len())));
                }
                if *ttl_s == 0 || *ttl_s > LONGEST_TIMEOUT_MS / 1000 {
                    return Err(("origins", format!("ttl_s {ttl_s} is out of range")));
                }
                vec![*ports]
            }
        };
        for range in ports {
            check_ports("origins", range)?;
            if range.count() != self.edge_ports.count() {
                let (edge, origin) = (self.edge_ports.count(), range.count());
                return Err(("origins", format!("{edge} edge ports cannot map to {origin} origin ports")));
            }
        }
        Ok(())
    }

    fn check_proxy_protocol(&self) -> Result<(), Broken> {
        let fits = match self.proxy_protocol {
            ProxyProtocol::Off | ProxyProtocol::V2 => true,
            ProxyProtocol::V1 => self.protocol == Protocol::Tcp,
            ProxyProtocol::Simple => self.protocol == Protocol::Udp,
        };
        if !fits {
            return Err(("proxy_protocol", "v1 is for TCP, simple is for UDP".into()));
        }
        if self.protocol == Protocol::Udp && !self.proxy_protocol_from.is_empty() {
            return Err(("proxy_protocol_from", "a header from the client side is read over TCP only".into()));
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), Broken> {
        let is_wrong = |limit: &&Limit| limit.ipv4 > 32 || limit.ipv6 > 128 || limit.ban_ms > LONGEST_TIMEOUT_MS;
        match self.limits.iter().find(is_wrong) {
            Some(limit) => Err(("limits", format!("{limit:?} is out of range"))),
            None => Ok(()),
        }
    }

    fn check_balance(&self) -> Result<(), Broken> {
        let count = match &self.origins {
            Origins::Addresses { addresses } => addresses.len(),
            Origins::Dns { .. } if self.balance == Balance::Hash => {
                return Err(("balance", "hash is for origins that are addresses".into()));
            }
            Origins::Dns { .. } => 0,
        };
        let reason = match &self.weights[..] {
            [] => return Ok(()),
            _ if self.balance != Balance::Hash => "weights go with balance 'hash'".into(),
            weights if weights.len() != count => format!("{} weights for {count} origins", weights.len()),
            weights if weights.iter().all(|weight| *weight == 0) => "one at least must be above 0".into(),
            weights if weights.iter().any(|weight| *weight > 1000) => "a weight is at most 1000".into(),
            _ => return Ok(()),
        };
        Err(("weights", reason))
    }

    fn check_transparent(&self) -> Result<(), Broken> {
        let reason = match self.transparent {
            true if self.carrier == Carrier::Engine => "only the kernel can, and carrier is 'engine'",
            true if self.proxy_protocol != ProxyProtocol::Off => {
                "a header has no place where the origin sees the client"
            }
            true if !self.proxy_protocol_from.is_empty() => "the kernel reads no headers from clients",
            _ => return Ok(()),
        };
        Err(("transparent", reason.into()))
    }

    fn check_minecraft(&self) -> Result<(), Broken> {
        let reason = match &self.minecraft {
            Some(_) if self.protocol == Protocol::Udp => "Minecraft (Java Edition) is spoken over TCP",
            Some(_) if self.transparent => "the engine reads what a client says first, and transparent is the kernel's",
            Some(minecraft) if minecraft.status_cache_ms > LONGEST_TIMEOUT_MS => "status_cache_ms is out of range",
            _ => return Ok(()),
        };
        Err(("minecraft", reason.into()))
    }

    fn check_timeouts(&self) -> Result<(), Broken> {
        let all = [
            ("proxy_header_timeout_ms", self.proxy_header_timeout_ms, 1),
            ("connect_timeout_ms", self.connect_timeout_ms, 1),
            ("idle_timeout_ms", self.idle_timeout_ms, 0),
            ("half_close_timeout_ms", self.half_close_timeout_ms, 0),
            ("no_progress_timeout_ms", self.no_progress_timeout_ms, 0),
            ("udp_idle_timeout_ms", self.udp_idle_timeout_ms, 1),
            ("drain_ms", self.drain_ms, 0),
        ];
        match all.into_iter().find(|(_, ms, least)| ms < least || *ms > LONGEST_TIMEOUT_MS) {
            Some((field, ms, least)) => Err((field, format!("{ms} is not between {least} and {LONGEST_TIMEOUT_MS}"))),
            None => Ok(()),
        }
    }
}

fn check_ports(field: &'static str, ports: Ports) -> Result<(), Broken> {
    if ports.first == 0 || ports.first > ports.last {
        return Err((field, format!("{}-{} is not a range of ports", ports.first, ports.last)));
    }
    Ok(())
}
