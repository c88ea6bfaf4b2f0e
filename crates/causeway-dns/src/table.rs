//! What there is to answer: zones, their name servers, and where each name is served. Compiled from JSON at a change.
//!
//! Which edges are fit is decided by who makes the table: all that are in it may be answered.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{LowerName, Name};
use serde::Deserialize;

use crate::error::DnsError;
use crate::places::Point;

const FORMAT: u32 = 1;
/// Of one answer: enough to try another one, and small beside the question.
pub const MOST_ADDRESSES: usize = 4;
/// Edges that are this near to the nearest one are as near: the cosine of 50 km on the sphere.
const SAME_PLACE: f64 = 1.0 - 3.08e-5;
const REFRESH_S: i32 = 3600; // nobody transfers these zones: of interest to programs that check them
const RETRY_S: i32 = 600;
const EXPIRE_S: i32 = 604_800;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    serial: u32,
    ttl_s: u32,
    zones: Vec<ZoneDocument>,
    hosts: Vec<HostDocument>,
    names: Vec<NameDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneDocument {
    name: String,
    servers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostDocument {
    name: String,
    addresses: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameDocument {
    name: String,
    sites: Vec<SiteDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SiteDocument {
    location: Option<(f64, f64)>,
    addresses: Vec<IpAddr>,
}

/// What a table holds, for who has made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Facts {
    pub serial: u32,
    pub zones: usize,
    pub names: usize,
}

#[derive(Debug)]
pub struct Table {
    pub facts: Facts,
    pub ttl_s: u32,
    zones: HashMap<LowerName, Zone>,
    nodes: HashMap<LowerName, Node>,
}

#[derive(Debug)]
pub struct Zone {
    pub name: Name,
    pub soa: SOA,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub name: Name,
    pub addresses: Vec<IpAddr>,
}

/// A name that exists. Without addresses: because there are names below it, or no edge has one of that family.
#[derive(Debug, Default)]
pub struct Node {
    v4: Vec<Site<Ipv4Addr>>,
    v6: Vec<Site<Ipv6Addr>>,
}

#[derive(Debug)]
struct Site<A> {
    point: Option<Point>,
    addresses: Vec<A>,
}

impl Table {
    /// # Errors
    /// What is wrong with it; nothing of it is used.
    pub fn compile(json: &[u8]) -> Result<Self, DnsError> {
        let document: Document = serde_json::from_slice(json).map_err(|error| DnsError::Table(error.to_string()))?;
        Self::of(&document).map_err(DnsError::Table)
    }

    fn of(document: &Document) -> Result<Self, String> {
        if document.format != FORMAT {
            return Err(format!("its format is {}, {FORMAT} is understood", document.format));
        }
        let hosts: HashMap<&str, &[IpAddr]> =
            document.hosts.iter().map(|host| (host.name.as_str(), host.addresses.as_slice())).collect();
        let zones = document.zones.iter().map(|zone| {
            let made = Zone::of(zone, &hosts, document)?;
            Ok((LowerName::new(&made.name), made))
        });
        let zones: HashMap<_, _> = zones.collect::<Result<_, String>>()?;
        let facts = Facts { serial: document.serial, zones: zones.len(), names: document.names.len() };
        let mut table = Self { facts, ttl_s: document.ttl_s, zones, nodes: HashMap::new() };
        for told in &document.names {
            table.add(&name(&told.name)?, Node::of(&told.sites)?);
        }
        for told in &document.hosts {
            let host = name(&told.name)?;
            if table.node(&LowerName::new(&host)).is_none_or(Node::is_empty) && table.zone_of(&host).is_some() {
                table.add(&host, Node::of(&[SiteDocument { location: None, addresses: told.addresses.clone() }])?);
            }
        }
        Ok(table)
    }

    /// Names between it and its zone exist from then on (RFC 8020).
    fn add(&mut self, name: &Name, node: Node) {
        let mut key = LowerName::new(name);
        let Some(apex) = self.zone_of(name).map(|zone| LowerName::new(&zone.name)) else { return };
        self.nodes.insert(key.clone(), node);
        while key != apex && !key.is_root() {
            key = key.base_name();
            self.nodes.entry(key.clone()).or_default();
        }
    }

    /// The zone that a name is in: the one with the longest name.
    #[must_use]
    pub fn zone_of(&self, name: &Name) -> Option<&Zone> {
        let mut key = LowerName::new(name);
        loop {
            if let Some(zone) = self.zones.get(&key) {
                return Some(zone);
            }
            if key.is_root() {
                return None;
            }
            key = key.base_name();
        }
    }

    #[must_use]
    pub fn is_apex(&self, key: &LowerName) -> bool {
        self.zones.contains_key(key)
    }

    #[must_use]
    pub fn node(&self, key: &LowerName) -> Option<&Node> {
        self.nodes.get(key)
    }
}

impl Zone {
    fn of(told: &ZoneDocument, hosts: &HashMap<&str, &[IpAddr]>, document: &Document) -> Result<Self, String> {
        let apex = name(&told.name)?;
        let servers = told.servers.iter().map(|server| {
            let addresses = hosts.get(server.as_str()).map(|found| found.to_vec()).unwrap_or_default();
            Ok(Server { name: name(server)?, addresses })
        });
        let servers: Vec<Server> = servers.collect::<Result<_, String>>()?;
        let first = servers.first().ok_or_else(|| format!("zone {} has no name server", told.name))?;
        let contact = name(&format!("hostmaster.{}", told.name)).unwrap_or_else(|_| apex.clone()); // it has no room
        let ttl_s = document.ttl_s;
        let soa = SOA::new(first.name.clone(), contact, document.serial, REFRESH_S, RETRY_S, EXPIRE_S, ttl_s);
        Ok(Self { name: apex, soa, servers })
    }
}

impl Node {
    fn of(told: &[SiteDocument]) -> Result<Self, String> {
        let mut made = Self::default();
        for site in told {
            let point = site.location.map(|(latitude, longitude)| Point::of(latitude, longitude)).transpose()?;
            let (mut v4, mut v6) = (Vec::new(), Vec::new());
            for address in &site.addresses {
                match address {
                    IpAddr::V4(address) => v4.push(*address),
                    IpAddr::V6(address) => v6.push(*address),
                }
            }
            if !v4.is_empty() {
                made.v4.push(Site { point, addresses: v4 });
            }
            if !v6.is_empty() {
                made.v6.push(Site { point, addresses: v6 });
            }
        }
        Ok(made)
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Of the place that is nearest to `from`; without it, or where no edge says its place, of all.
    #[must_use]
    pub fn v4(&self, from: Option<Point>, turn: usize) -> Vec<Ipv4Addr> {
        chosen(&self.v4, from, turn)
    }

    #[must_use]
    pub fn v6(&self, from: Option<Point>, turn: usize) -> Vec<Ipv6Addr> {
        chosen(&self.v6, from, turn)
    }

    /// Whether answers depend on where the client is.
    #[must_use]
    pub fn has_places(&self) -> bool {
        self.v4.iter().any(|site| site.point.is_some()) || self.v6.iter().any(|site| site.point.is_some())
    }
}

/// `turn` says which of them comes first, so that many askers spread over all.
fn chosen<A: Copy>(sites: &[Site<A>], from: Option<Point>, turn: usize) -> Vec<A> {
    let near = from.and_then(|from| {
        let points = sites.iter().filter_map(|site| site.point);
        points.max_by(|a, b| a.nearness(from).total_cmp(&b.nearness(from)))
    });
    let is_there =
        |site: &&Site<A>| near.is_none_or(|near| site.point.is_some_and(|at| at.nearness(near) >= SAME_PLACE));
    let all: Vec<A> = sites.iter().filter(is_there).flat_map(|site| site.addresses.iter().copied()).collect();
    let (first, count) = (turn.checked_rem(all.len()).unwrap_or(0), all.len().min(MOST_ADDRESSES));
    all.iter().cycle().skip(first).take(count).copied().collect()
}

fn name(text: &str) -> Result<Name, String> {
    let mut made = Name::from_ascii(text).map_err(|error| format!("{text:?} is no name: {error}"))?;
    made.set_fqdn(true);
    Ok(made)
}
