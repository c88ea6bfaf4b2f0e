//! What goes before a flow between two edges: whose it is and where it goes on, and back, what became of it.
//!
//! Forwards a PROXY v2 header whose addresses are client and edge as the client knows them, with TLVs of the range for
//! own use; backwards a few bytes from the edge that connects to the origin, before its first. Both are strict: an
//! edge that says anything else is none of ours. The remaining path only ever gets shorter, so no flow goes in circles.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::accept::{self, Parsed};
use crate::endpoints::Endpoints;
use crate::keep::MAX_KEEP;
pub use crate::keep::{Ask, Keep};
use crate::proxy_v2::{self, Transport};
use crate::tlv::Tlv;

/// Edges that one flow may go through after the one that its client reached.
pub const MOST_HOPS: usize = 3;
/// As control allows for the name of an edge.
pub const MOST_NAME: usize = 32;
/// The longest header that [`Hop::encode`] writes.
pub const MAX_HOP: usize =
    proxy_v2::MAX_ENCODED + 3 + 8 + 3 + 16 + 3 + 1 + 3 + (MOST_HOPS - 1) * (1 + MOST_NAME) + 3 + MAX_KEEP + 3;
/// The longest [`Answer`].
pub const MAX_ANSWER: usize = 2 + 18;

const UNIQUE_ID: u8 = 0x05; // of the specification: the same at every hop
const APPLICATION: u8 = 0xE0;
const NUMBER: u8 = 0xE1;
const PATH: u8 = 0xE2;
const KEEP: u8 = 0xE3;
const OTHERS: u8 = 0xE4;

/// The name of an edge: 1 to 32 of a-z, 0-9 and inner hyphens.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    bytes: [u8; MOST_NAME],
    len: u8,
}

impl Name {
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Name> {
        let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let [first, .., last] = *text else { return Name::short(text, is_word) };
        let is_name = text.len() <= MOST_NAME
            && is_word(&first)
            && is_word(&last)
            && text.iter().all(|byte| is_word(byte) || *byte == b'-');
        is_name.then(|| Name::filled(text))
    }

    fn short(text: &[u8], is_word: impl Fn(&u8) -> bool) -> Option<Name> {
        (text.len() == 1 && text.iter().all(is_word)).then(|| Name::filled(text))
    }

    fn filled(text: &[u8]) -> Name {
        let mut bytes = [0; MOST_NAME];
        bytes[..text.len()].copy_from_slice(text);
        Name { bytes, len: text.len() as u8 }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default() // ASCII, by `new`
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The edges that are still to come, the next one first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    names: [Option<Name>; MOST_HOPS],
}

impl Path {
    /// None: too many, or one twice.
    #[must_use]
    pub fn new(names: &[Name]) -> Option<Path> {
        let is_simple = names.iter().enumerate().all(|(at, name)| !names[..at].contains(name));
        if names.len() > MOST_HOPS || !is_simple {
            return None;
        }
        let mut path = Path::default();
        path.names.iter_mut().zip(names).for_each(|(place, name)| *place = Some(*name));
        Some(path)
    }

    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.iter().flatten()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names[0].is_none()
    }

    /// The next edge, and what is left from there on.
    #[must_use]
    pub fn split(&self) -> Option<(Name, Path)> {
        let first = self.names[0]?;
        Some((first, Path { names: [self.names[1], self.names[2], None] }))
    }
}

/// A flow as one edge hands it to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The client, and the address that it knows.
    pub endpoints: Endpoints,
    pub application: u128,
    /// The same in the log of every edge that the flow goes through.
    pub trace: u64,
    /// How many edges the flow has been through: 1 at the first that another edge hands it to.
    pub number: u8,
    /// From the receiver on; empty: it connects to the origin.
    pub path: Path,
    /// What is said behind the header is in frames (`frames`), and may go on over another connection.
    pub keep: Option<Keep>,
    /// There are other ways to its origins: whoever connects to one need not wait for long.
    pub has_others: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read<T> {
    NeedMore,
    Whole { consumed: usize, value: T },
}

/// What it said is not what an edge says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HopError {
    #[error("no PROXY v2 header with addresses")]
    Header,
    #[error("a header longer than {MAX_HOP} bytes")]
    TooLong,
    #[error("TLV {0:#04x} is missing, twice there or not of its size")]
    Field(u8),
    #[error("an answer of kind {0}, with {1} bytes of an address")]
    Answer(u8, u8),
    #[error("a datagram without the number of its flow, or with more or less behind it than its kind has")]
    Datagram,
}

impl Hop {
    /// Write the header of a connection; answers its length.
    #[must_use]
    pub fn encode(&self, out: &mut [u8; MAX_HOP]) -> usize {
        self.encode_for(Transport::Stream, out)
    }

    /// The same, of what goes by that transport.
    #[must_use]
    pub fn encode_for(&self, transport: Transport, out: &mut [u8; MAX_HOP]) -> usize {
        let mut head = [0; proxy_v2::MAX_ENCODED];
        let mut end = proxy_v2::encode(&self.endpoints, transport, &mut head);
        out[..end].copy_from_slice(&head[..end]);
        let mut put = |kind: u8, value: &[u8]| {
            out[end] = kind;
            out[end + 1..end + 3].copy_from_slice(&(value.len() as u16).to_be_bytes());
            out[end + 3..end + 3 + value.len()].copy_from_slice(value);
            end += 3 + value.len();
        };
        put(UNIQUE_ID, &self.trace.to_be_bytes());
        put(APPLICATION, &self.application.to_be_bytes());
        put(NUMBER, &[self.number]);
        let (mut path, mut len) = ([0; (MOST_HOPS - 1) * (1 + MOST_NAME)], 0);
        for name in self.path.names().take(MOST_HOPS - 1) {
            let text = name.as_str().as_bytes();
            path[len] = text.len() as u8;
            path[len + 1..=len + text.len()].copy_from_slice(text);
            len += 1 + text.len();
        }
        if len > 0 {
            put(PATH, &path[..len]);
        }
        if let Some(keep) = &self.keep {
            let mut value = [0; MAX_KEEP];
            let len = keep.encode(&mut value);
            put(KEEP, &value[..len]);
        }
        if self.has_others {
            put(OTHERS, &[]);
        }
        out[14..16].copy_from_slice(&((end - 16) as u16).to_be_bytes());
        end
    }

    /// Read what has arrived so far.
    ///
    /// # Errors
    /// It is not, and can't become, what an edge says.
    pub fn parse(bytes: &[u8]) -> Result<Read<Hop>, HopError> {
        if bytes.first().is_some_and(|first| *first != b'\r') {
            return Err(HopError::Header);
        }
        if let Some(&[high, low]) = bytes.get(14..16)
            && 16 + usize::from(u16::from_be_bytes([high, low])) > MAX_HOP
        {
            return Err(HopError::TooLong);
        }
        let (consumed, endpoints) = match accept::parse(bytes) {
            Ok(Parsed::NeedMore) => return Ok(Read::NeedMore),
            Ok(Parsed::Header { consumed, endpoints: Some(endpoints) }) => (consumed, endpoints),
            Ok(Parsed::Header { endpoints: None, .. }) | Err(_) => return Err(HopError::Header),
        };
        let (mut trace, mut application, mut number, mut path, mut keep) = (None, None, None, None, None);
        let mut has_others = false;
        for Tlv { kind, value } in proxy_v2::tlvs(&bytes[..consumed]) {
            let is_new = match kind {
                UNIQUE_ID => trace.replace(u64::from_be_bytes(sized(kind, value)?)).is_none(),
                APPLICATION => application.replace(u128::from_be_bytes(sized(kind, value)?)).is_none(),
                NUMBER => number.replace(u8::from_be_bytes(sized(kind, value)?)).is_none(),
                PATH => path.replace(read_path(value).ok_or(HopError::Field(PATH))?).is_none(),
                OTHERS => !std::mem::replace(&mut has_others, true) && value.is_empty(),
                KEEP => keep.replace(Keep::read(value).ok_or(HopError::Field(KEEP))?).is_none(),
                _ => true, // of a later version, or of no concern
            };
            if !is_new {
                return Err(HopError::Field(kind));
            }
        }
        let path = path.unwrap_or_default();
        let number = number.ok_or(HopError::Field(NUMBER))?;
        if number == 0 || usize::from(number) + path.names().count() > MOST_HOPS {
            return Err(HopError::Field(NUMBER));
        }
        let value = Hop {
            endpoints,
            application: application.ok_or(HopError::Field(APPLICATION))?,
            trace: trace.ok_or(HopError::Field(UNIQUE_ID))?,
            number,
            path,
            keep,
            has_others,
        };
        Ok(Read::Whole { consumed, value })
    }
}

fn sized<const N: usize>(kind: u8, value: &[u8]) -> Result<[u8; N], HopError> {
    value.try_into().map_err(|_| HopError::Field(kind))
}

fn read_path(mut value: &[u8]) -> Option<Path> {
    let mut names = [None; MOST_HOPS];
    for place in &mut names {
        let Some((&len, rest)) = value.split_first() else { break };
        let (text, rest) = rest.split_at_checked(usize::from(len))?;
        *place = Some(Name::new(text)?);
        value = rest;
    }
    let count = names.iter().flatten().count();
    let path = Path { names };
    let listed: [Option<Name>; MOST_HOPS] = path.names;
    let is_simple = (0..count).all(|at| !listed[..at].contains(&listed[at]));
    (value.is_empty() && count > 0 && is_simple).then_some(path)
}

/// What the edge at the end of a path says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub outcome: Outcome,
    /// Of the origin, as far as one was tried.
    pub origin: Option<SocketAddr>,
}

/// How it went. The numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    Connected = 0,
    /// An edge on the way could not be reached.
    PathBroken = 1,
    /// The last edge does not know the application.
    Unknown = 2,
    Refused = 3,
    TimedOut = 4,
    Unreachable = 5,
    Failed = 6,
    PortsExhausted = 7,
    OutOfResources = 8,
    Denied = 9,
    NameNotFound = 10,
    NameFailed = 11,
    /// An edge on the way does not know of flows that can be resumed: say it all again without.
    NotKept = 12,
    /// There is no such flow to be resumed.
    Gone = 13,
}

const OUTCOMES: [Outcome; 14] = [
    Outcome::Connected,
    Outcome::PathBroken,
    Outcome::Unknown,
    Outcome::Refused,
    Outcome::TimedOut,
    Outcome::Unreachable,
    Outcome::Failed,
    Outcome::PortsExhausted,
    Outcome::OutOfResources,
    Outcome::Denied,
    Outcome::NameNotFound,
    Outcome::NameFailed,
    Outcome::NotKept,
    Outcome::Gone,
];

impl Answer {
    /// Write it; answers its length.
    #[must_use]
    pub fn encode(&self, out: &mut [u8; MAX_ANSWER]) -> usize {
        out[0] = self.outcome as u8;
        let len = match self.origin.map(|origin| (origin.ip().to_canonical(), origin.port())) {
            None => 0,
            Some((IpAddr::V4(ip), port)) => {
                out[2..6].copy_from_slice(&ip.octets());
                out[6..8].copy_from_slice(&port.to_be_bytes());
                6
            }
            Some((IpAddr::V6(ip), port)) => {
                out[2..18].copy_from_slice(&ip.octets());
                out[18..20].copy_from_slice(&port.to_be_bytes());
                18
            }
        };
        out[1] = len;
        2 + usize::from(len)
    }

    /// Read what has arrived so far.
    ///
    /// # Errors
    /// It is not, and can't become, an answer.
    pub fn parse(bytes: &[u8]) -> Result<Read<Answer>, HopError> {
        let Some(&kind) = bytes.first() else { return Ok(Read::NeedMore) };
        let outcome = OUTCOMES.get(usize::from(kind)).copied().ok_or(HopError::Answer(kind, 0))?;
        let Some(&len) = bytes.get(1) else { return Ok(Read::NeedMore) };
        if !matches!(len, 0 | 6 | 18) {
            return Err(HopError::Answer(kind, len));
        }
        let consumed = 2 + usize::from(len);
        let Some(address) = bytes.get(2..consumed) else { return Ok(Read::NeedMore) };
        let origin = match *address {
            [] => None,
            [a, b, c, d, high, low] => Some((Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low]))),
            _ => <[u8; 18]>::try_from(address).ok().map(|all| {
                let octets: [u8; 16] = std::array::from_fn(|at| all[at]);
                (IpAddr::V6(Ipv6Addr::from(octets)), u16::from_be_bytes([all[16], all[17]]))
            }),
        };
        Ok(Read::Whole { consumed, value: Answer { outcome, origin: origin.map(SocketAddr::from) } })
    }
}
