//! The two ends of a flow as its client sees it: who sent, and which address it sent to.
//!
//! An IPv4 address that arrived inside IPv6 is an IPv4 address: every codec here reads and writes the
//! canonical form, so a prefix rule for 10.0.0.0/8 can't be walked round with ::ffff:10.0.0.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoints {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// Source and destination in the one family that a header has room for.
pub(crate) enum Pair {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Endpoints {
    pub(crate) fn new(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        Self {
            source: SocketAddr::new(source.0.to_canonical(), source.1),
            destination: SocketAddr::new(destination.0.to_canonical(), destination.1),
        }
    }

    /// IPv4 when both are; else both as IPv6, the IPv4 one mapped.
    pub(crate) fn pair(&self) -> Pair {
        match (self.source.ip().to_canonical(), self.destination.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Pair::V4(source, destination),
            (source, destination) => Pair::V6(mapped(source), mapped(destination)),
        }
    }
}

pub(crate) fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}
