//! A source of connections to one application: a host, or the network around it. IPv4 lives in the space of IPv6.

use std::net::{IpAddr, Ipv6Addr};

/// Of hosts and of networks, over IPv4 and IPv6.
const LENGTHS: [[u8; 2]; 2] = [[32, 64], [24, 56]];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Host,
    Network,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    pub application: u128,
    bits: u128,
    length: u8,
}

impl Source {
    pub fn of(application: u128, client: IpAddr, width: Width) -> Source {
        let [ipv4, ipv6] = LENGTHS[width as usize];
        let (bits, length) = match client.to_canonical() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), 96 + ipv4),
            IpAddr::V6(v6) => (v6.to_bits(), ipv6),
        };
        Source { application, bits: bits & !u128::MAX.checked_shr(length.into()).unwrap_or(0), length }
    }

    /// Its first address and the length of its prefix.
    pub fn prefix(&self) -> (IpAddr, u8) {
        match Ipv6Addr::from_bits(self.bits).to_canonical() {
            first @ IpAddr::V4(_) => (first, self.length - 96),
            first => (first, self.length),
        }
    }

    pub fn is_host(&self) -> bool {
        let (first, length) = self.prefix();
        length == LENGTHS[Width::Host as usize][usize::from(first.is_ipv6())]
    }

    pub fn text(&self) -> String {
        let (first, length) = self.prefix();
        format!("{first}/{length}")
    }
}

/// Programs of this machine: who floods from here is not kept out by an address.
pub fn is_own(client: IpAddr) -> bool {
    match client.to_canonical() {
        IpAddr::V4(v4) => v4 == std::net::Ipv4Addr::LOCALHOST,
        IpAddr::V6(v6) => v6 == Ipv6Addr::LOCALHOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_by_its_prefix_and_families_never_meet() {
        let text = |client: &str, width| Source::of(1, client.parse().unwrap(), width).text();
        assert_eq!(text("198.51.100.7", Width::Host), "198.51.100.7/32");
        assert_eq!(text("::ffff:198.51.100.7", Width::Network), "198.51.100.0/24");
        assert_eq!(text("2001:db8:0:12ff::7", Width::Host), "2001:db8:0:12ff::/64");
        assert_eq!(text("2001:db8:0:12ff::7", Width::Network), "2001:db8:0:1200::/56");
        assert!(Source::of(1, "2001:db8::1".parse().unwrap(), Width::Host).is_host());
        assert!(!Source::of(1, "192.0.2.1".parse().unwrap(), Width::Network).is_host());
    }
}
