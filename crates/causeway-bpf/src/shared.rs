//! The mirror of `bpf/causeway.h`: sizes and offsets are asserted on both sides.

use std::net::IpAddr;

/// A step of a hash, where nobody gains by collisions. Programs take the same.
pub fn mix(hash: u32, more: u32) -> u32 {
    let hash = (hash ^ more).wrapping_mul(0x9e37_79b1);
    hash ^ hash >> 15
}

/// One protocol on one address of this machine, or, unspecified, on any of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Spot {
    protocol: u8,
    is_ipv6: u8,
    unused: u16,
    address: [u8; 16],
}

const _: () = assert!(size_of::<Spot>() == 20 && std::mem::offset_of!(Spot, address) == 4);

/// `enum slot`: whose socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Slot {
    TcpV4 = 0,
    TcpV6 = 1,
    UdpV4 = 2,
    UdpV6 = 3,
}

/// `enum verdict`
pub(crate) const VERDICTS: u32 = 4;

impl Spot {
    pub fn tcp(address: IpAddr) -> Spot {
        Spot::new(libc::IPPROTO_TCP, address)
    }

    pub fn udp(address: IpAddr) -> Spot {
        Spot::new(libc::IPPROTO_UDP, address)
    }

    /// All protocols of an address: a key of the guard's own.
    pub(crate) fn whole(address: IpAddr) -> Spot {
        Spot::new(0, address)
    }

    fn new(protocol: libc::c_int, address: IpAddr) -> Spot {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => bytes = v6.octets(),
        }
        Spot { protocol: protocol as u8, is_ipv6: address.is_ipv6().into(), unused: 0, address: bytes }
    }

    pub fn address(&self) -> IpAddr {
        match self.is_ipv6 {
            0 => IpAddr::from([self.address[0], self.address[1], self.address[2], self.address[3]]),
            _ => IpAddr::from(self.address),
        }
    }

    pub fn is_tcp(&self) -> bool {
        self.protocol == libc::IPPROTO_TCP as u8
    }

    pub fn slot(&self) -> Slot {
        match (self.is_tcp(), self.is_ipv6) {
            (true, 0) => Slot::TcpV4,
            (true, _) => Slot::TcpV6,
            (false, 0) => Slot::UdpV4,
            (false, _) => Slot::UdpV6,
        }
    }

    /// The other side of an overlap: any address of the same family and protocol.
    pub fn wildcard(&self) -> Spot {
        Spot { address: [0; 16], ..*self }
    }

    pub fn is_wildcard(&self) -> bool {
        self.address == [0; 16]
    }
}
