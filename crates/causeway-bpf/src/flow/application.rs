//! What the kernel is told of an application.

use std::io;
use std::net::IpAddr;

use super::shared::{RawApplication, RawOrigin, address_of, bytes_of};

pub const MAX_ORIGINS: usize = 16;
pub const MAX_SOURCES: usize = 8;
/// Into how many parts clients are divided by a hash of their address.
pub const CHOICES: usize = 64;
/// Room for a finer division.
pub const MAX_SLOTS: usize = 65_536;
/// Indices are 1 to this.
pub const MAX_APPLICATIONS: u16 = 4095;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    pub id: [u8; 16],
    /// Else UDP.
    pub is_tcp: bool,
    pub header: HeaderKind,
    /// Origins see the client's own address and port, and route back through here.
    pub is_transparent: bool,
    pub edge_first_port: u16,
    /// 1 to `MAX_ORIGINS`, all of the family of the edge addresses that name this application.
    pub origins: Vec<CarriedOrigin>,
    /// Which origin (an index) each part of the clients gets.
    pub choices: [u8; CHOICES],
    /// The same by finer parts, in place of `choices`: at most `MAX_SLOTS`, of which the program asks 65,521; or none.
    pub slots: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedOrigin {
    pub address: IpAddr,
    /// Where `edge_first_port` leads; the others follow.
    pub first_port: u16,
    /// 1 to `MAX_SOURCES` addresses of this machine that the origin sees; none where it sees the client's.
    pub sources: Vec<IpAddr>,
}

/// How the origin is told of the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum HeaderKind {
    #[default]
    None = 0,
    ProxyV1 = 1,
    /// TCP, and before the first datagram of a session.
    ProxyV2 = 2,
    /// Before every datagram.
    ProxyV2Every = 3,
    Simple = 4,
}

const NO_ORIGIN: RawOrigin =
    RawOrigin { is_ipv6: 0, source_count: 0, first_port: 0, address: [0; 16], sources: [[0; 16]; MAX_SOURCES] };

impl Carried {
    pub(super) fn raw(&self) -> io::Result<RawApplication> {
        let refused = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        if self.origins.is_empty() || self.origins.len() > MAX_ORIGINS {
            return refused("a carried application has 1 to 16 origins");
        }
        if self.choices.iter().any(|choice| usize::from(*choice) >= self.origins.len()) {
            return refused("a choice names an origin that is not there");
        }
        if self.slots.len() > MAX_SLOTS || self.slots.iter().any(|slot| usize::from(*slot) >= self.origins.len()) {
            return refused("a slot names an origin that is not there");
        }
        if self.is_transparent && self.header != HeaderKind::None {
            return refused("an origin that sees the client's address is sent no header");
        }
        let mut origins = [NO_ORIGIN; MAX_ORIGINS];
        for (raw, origin) in origins.iter_mut().zip(&self.origins) {
            match (self.is_transparent, origin.sources.len()) {
                (true, 0) | (false, 1..=MAX_SOURCES) => {}
                (true, _) => return refused("an origin that sees the client's address has no source addresses"),
                (false, _) => return refused("an origin of a carried application has 1 to 8 source addresses"),
            }
            if origin.sources.iter().any(|source| source.is_ipv4() != origin.address.is_ipv4()) {
                return refused("a source address is of another family than the origin");
            }
            raw.is_ipv6 = origin.address.is_ipv6().into();
            raw.source_count = origin.sources.len() as u8;
            raw.first_port = origin.first_port;
            raw.address = bytes_of(origin.address);
            raw.sources.iter_mut().zip(&origin.sources).for_each(|(raw, source)| *raw = bytes_of(*source));
        }
        Ok(RawApplication {
            id: self.id,
            protocol: if self.is_tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP } as u8,
            header: self.header as u8,
            edge_first_port: self.edge_first_port,
            origin_count: self.origins.len() as u32,
            choices: self.choices,
            origins,
        })
    }

    pub(super) fn of(raw: &RawApplication) -> Carried {
        let address = |is_ipv6: u8, bytes: &[u8; 16]| address_of(&bytes[..if is_ipv6 == 0 { 4 } else { 16 }]);
        let origin = |raw: &RawOrigin| CarriedOrigin {
            address: address(raw.is_ipv6, &raw.address),
            first_port: raw.first_port,
            sources: raw.sources.iter().take(raw.source_count.into()).map(|s| address(raw.is_ipv6, s)).collect(),
        };
        Carried {
            id: raw.id,
            is_tcp: i32::from(raw.protocol) == libc::IPPROTO_TCP,
            header: match raw.header {
                1 => HeaderKind::ProxyV1,
                2 => HeaderKind::ProxyV2,
                3 => HeaderKind::ProxyV2Every,
                4 => HeaderKind::Simple,
                _ => HeaderKind::None,
            },
            is_transparent: raw.origins[0].source_count == 0,
            edge_first_port: raw.edge_first_port,
            origins: raw.origins.iter().take(raw.origin_count as usize).map(origin).collect(),
            choices: raw.choices,
            slots: Vec::new(),
        }
    }
}
