//! The desired state of one edge, as it arrives: serde types, and how they are read.
//!
//! Unknown fields are refused: an option this engine does not know must not be accepted and ignored.
//! Units are in the names. `0` switches a timeout off where that is allowed.

mod check;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::EdgeError;

/// The one format this engine reads. A change of meaning gets a new number.
pub const FORMAT: u64 = 1;

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
    /// Flows to and from other edges; none: this edge speaks to nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
}

/// This edge among others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    pub name: String,
    /// Where it listens for other edges.
    pub listen: SocketAddr,
    pub peers: Vec<Peer>,
}

/// Another edge that may hand flows over, and takes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub name: String,
    pub address: SocketAddr,
    /// It keeps what it has and gets no new flows.
    #[serde(default, rename = "drained", skip_serializing_if = "std::ops::Not::not")]
    pub is_drained: bool,
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
    /// The ways to its origins from here, the best first: the edges in between. An empty one: this edge connects to the
    /// origins. No way at all is the same as that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<Vec<String>>,
    /// Flows that other edges hand over are connected to its origins here.
    #[serde(default, rename = "exit", skip_serializing_if = "std::ops::Not::not")]
    pub is_exit: bool,
    /// Control may say, apart from snapshots, which ways its flows take ([`crate::Edge::steer`]).
    #[serde(default, rename = "steered", skip_serializing_if = "std::ops::Not::not")]
    pub is_steered: bool,
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
    /// But for the version.
    pub fn says_the_same(&self, other: &Snapshot) -> bool {
        let Snapshot { format, version: _, settings, applications, firewalls, asn, overlay } = self;
        (*format, settings, applications) == (other.format, &other.settings, &other.applications)
            && (firewalls, asn, overlay) == (&other.firewalls, &other.asn, &other.overlay)
    }

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
}
