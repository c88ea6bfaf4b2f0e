//! What the kernel is told of an application.

use std::net::IpAddr;

pub const MAX_ORIGINS: usize = 16;
pub const MAX_SOURCES: usize = 8;
/// Into how many parts clients are divided by a hash of their address.
pub const CHOICES: usize = 64;
/// Indices are 1 to this.
pub const MAX_APPLICATIONS: u16 = 4095;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    pub id: [u8; 16],
    /// Else UDP.
    pub is_tcp: bool,
    pub header: HeaderKind,
    pub edge_first_port: u16,
    /// 1 to `MAX_ORIGINS`, all of the family of the edge addresses that name this application.
    pub origins: Vec<CarriedOrigin>,
    /// Which origin (an index) each part of the clients gets.
    pub choices: [u8; CHOICES],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedOrigin {
    pub address: IpAddr,
    /// Where `edge_first_port` leads; the others follow.
    pub first_port: u16,
    /// 1 to `MAX_SOURCES` addresses of this machine that the origin sees.
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
