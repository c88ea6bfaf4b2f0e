//! The desired state of one edge, as it arrives: serde types and their rules.
//!
//! Unknown fields are refused: an option this engine does not know must not be accepted and ignored.
//! Units are in the names. `0` switches a timeout off where that is allowed.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::EdgeError;

/// The one format this engine reads. A change of meaning gets a new number.
pub const FORMAT: u64 = 1;
const LONGEST_TIMEOUT_MS: u64 = 7 * 24 * 3600 * 1000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub format: u64,
    pub version: u64,
    pub settings: Settings,
    pub applications: Vec<Application>,
    /// The rules that applications name. May be absent: an edge without any carries nothing, and a snapshot that an
    /// older engine kept still starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firewalls: Vec<Firewall>,
    /// Digest of the database that tells AS numbers, for limits by them. Without it nobody's is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<String>,
}

/// Which clients are refused. Scopes are in order, the narrowest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firewall {
    pub id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// Digests of the databases that tell AS numbers and countries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
}

/// Rules for the same flows: of all applications or one, on all of its ports or some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// Only counted.
    #[serde(default)]
    pub dry_run: bool,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub id: String,
    pub action: Action,
    pub target: Target,
}

/// From the weakest to the strongest: of two about the same, the stronger holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Block,
    /// As `block`, and what is established ends too.
    Cut,
    Allow,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    Prefix(Prefix),
    /// By digest.
    List(String),
    Asn(u32),
    Country(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Prefixes never connected to, whatever a name resolves to.
    pub origin_deny: Vec<Prefix>,
    /// Sockets never connected to. The unspecified address stands for every address of this machine.
    pub origin_deny_sockets: Vec<SocketAddr>,
    pub allow_loopback_origins: bool,
    /// Name servers; empty means the system's.
    pub resolvers: Vec<SocketAddr>,
    /// Addresses of this machine to reach origins from; empty means the kernel's choice. May be absent, so that
    /// a snapshot that an older engine kept still starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_addresses: Vec<IpAddr>,
    /// Automatic mitigation is the agent's: see [`Snapshot::for_engine`].
    #[serde(default, skip_serializing_if = "Switch::is_on")]
    pub mitigation: Switch,
}

/// On where nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Switch(bool);

impl Switch {
    pub fn is_on(&self) -> bool {
        self.0
    }
}

impl Default for Switch {
    fn default() -> Switch {
        Switch(true)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginAddress {
    pub address: IpAddr,
    pub ports: Ports,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Origins {
    Addresses { addresses: Vec<OriginAddress> },
    Dns { name: String, family: Family, ttl_s: u64, ports: Ports },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Any,
    A,
    Aaaa,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    Off,
    V1,
    V2,
    Simple,
}

/// Which datagrams of a UDP session carry the PROXY v2 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UdpHeader {
    First,
    Every,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDelete {
    Drain,
    Close,
}

/// Who is to move the bytes. `auto`: the kernel where nobody could tell the difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    #[default]
    Auto,
    Kernel,
    Engine,
}

/// Which of several origins a client gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balance {
    /// The first that answers.
    #[default]
    Order,
    /// By the client's address, see `maglev`.
    Hash,
}

/// How soon automatic mitigation acts for an application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    Off,
    Low,
    #[default]
    Medium,
    High,
}

impl Sensitivity {
    fn is_medium(&self) -> bool {
        *self == Sensitivity::Medium
    }
}

impl Balance {
    fn is_order(&self) -> bool {
        *self == Balance::Order
    }
}

impl Carrier {
    fn is_auto(&self) -> bool {
        *self == Carrier::Auto
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    pub id: String,
    pub name: String,
    pub protocol: Protocol,
    pub edge_addresses: Vec<IpAddr>,
    pub edge_ports: Ports,
    pub origins: Origins,
    pub proxy_protocol: ProxyProtocol,
    pub udp_header: UdpHeader,
    pub proxy_protocol_from: Vec<Prefix>,
    pub proxy_header_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    pub half_close_timeout_ms: u64,
    pub no_progress_timeout_ms: u64,
    pub udp_idle_timeout_ms: u64,
    pub on_delete: OnDelete,
    pub drain_ms: u64,
    /// May be absent, so that a snapshot that an older engine kept still starts.
    #[serde(default, skip_serializing_if = "Carrier::is_auto")]
    pub carrier: Carrier,
    /// The origin sees the client's own address and port: by the kernel, or not at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub transparent: bool,
    #[serde(default, skip_serializing_if = "Balance::is_order")]
    pub balance: Balance,
    /// With `hash`, parallel to the addresses of the origins; empty: all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<u32>,
    /// The id of its firewall; none: everybody may come in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    #[serde(default, skip_serializing_if = "Sensitivity::is_medium")]
    pub mitigation: Sensitivity,
    /// Clients log in: who tries again and again is turned away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logins: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minecraft: Option<Minecraft>,
}

/// How the edge speaks for a Minecraft server. 0 switches a part off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Minecraft {
    /// For how long a status is shown before the server is asked again.
    pub status_cache_ms: u64,
    pub joins_per_s: u32,
    /// Who has asked for the status before, as players do, joins before those who have not.
    pub challenge: bool,
}

/// How much all clients together, or those of one source, may have. 0: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    pub of: Of,
    /// What a source is: the first bits of an address.
    pub ipv4: u8,
    pub ipv6: u8,
    /// Connections or sessions.
    pub open: u32,
    pub new_per_s: u32,
    pub datagrams_per_s: u32,
    /// Payload: of TCP in both directions, of UDP what clients send. May be absent, so that a snapshot that an older
    /// engine kept still starts.
    #[serde(default, skip_serializing_if = "is_none")]
    pub bytes_per_s: u64,
    /// Who goes over it is refused for this long.
    pub ban_ms: u64,
}

/// 0 is no limit.
fn is_none(limit: &u64) -> bool {
    *limit == 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Of {
    Application,
    Source,
    /// All clients of an AS number are one source.
    Asn,
}

/// An IP prefix such as `198.51.100.0/24`; host bits must be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(ip_network::IpNetwork);

impl Prefix {
    /// IPv4-mapped IPv6 addresses count as the IPv4 address they stand for.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(address.to_canonical())
    }

    pub fn first(&self) -> IpAddr {
        self.0.network_address()
    }

    pub fn length(&self) -> u8 {
        self.0.netmask()
    }
}

impl Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let prefix = text
            .parse()
            .map_err(|error| serde::de::Error::custom(format!("{text:?} is not an IP prefix ({error})")))?;
        Ok(Prefix(prefix))
    }
}

impl Ports {
    pub fn count(&self) -> usize {
        usize::from(self.last) - usize::from(self.first) + 1
    }

    pub fn iter(&self) -> impl Iterator<Item = u16> + use<> {
        self.first..=self.last
    }
}

impl Application {
    pub fn duration(ms: u64) -> Option<Duration> {
        (ms > 0).then(|| Duration::from_millis(ms))
    }
}

impl Snapshot {
    /// Read and check a snapshot.
    ///
    /// # Errors
    /// `TooLarge`, `Malformed`, `Format` or `Invalid`; never panics, whatever the bytes.
    pub fn parse(json: &[u8], limit_bytes: usize) -> Result<Snapshot, EdgeError> {
        if json.len() > limit_bytes {
            return Err(EdgeError::TooLarge { bytes: json.len(), limit_bytes });
        }
        // The format number decides how to read the rest, so it is read first and alone.
        #[derive(Deserialize)]
        struct Head {
            format: u64,
        }
        let malformed = |error: serde_json::Error| EdgeError::Malformed(error.to_string());
        let head: Head = serde_json::from_slice(json).map_err(malformed)?;
        if head.format != FORMAT {
            return Err(EdgeError::Format { found: head.format, known: FORMAT });
        }
        let snapshot: Snapshot = serde_json::from_slice(json).map_err(malformed)?;
        snapshot.check()?;
        Ok(snapshot)
    }

    /// Without what the agent alone acts on, so that a change of that touches no listener and no flow.
    pub fn for_engine(mut self) -> Snapshot {
        self.settings.mitigation = Switch::default();
        for application in &mut self.applications {
            (application.mitigation, application.logins) = (Sensitivity::default(), false);
        }
        self
    }

    fn check(&self) -> Result<(), EdgeError> {
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

impl Application {
    fn check(&self) -> Result<(), Broken> {
        if self.id.len() != 32 || !self.id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(("id", format!("{:?} is not 32 hexadecimal digits", self.id)));
        }
        check_ports("edge_ports", self.edge_ports)?;
        if self.edge_addresses.is_empty() {
            return Err(("edge_addresses", "at least one address is needed".into()));
        }
        self.check_origins()?;
        self.check_proxy_protocol()?;
        self.check_limits()?;
        self.check_balance()?;
        self.check_transparent()?;
        self.check_minecraft()?;
        self.check_timeouts()
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
