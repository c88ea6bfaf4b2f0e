//! Simple Proxy Protocol: 38 bytes before every UDP datagram, both ways between edge and origin.
//!
//! Magic 56EC, then the client's and the edge's address as IPv6 (IPv4 mapped), then their ports, big-endian.

use std::net::Ipv6Addr;

use crate::endpoints::{Endpoints, mapped};

pub const LEN: usize = 38;
const MAGIC: [u8; 2] = [0x56, 0xEC];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SimpleProxyError {
    #[error("a datagram of {0} bytes is too short for the {LEN}-byte Simple Proxy Protocol header")]
    TooShort(usize),
    #[error("datagram starts with {0:#06x}, not with the Simple Proxy Protocol magic 0x56ec")]
    Magic(u16),
}

impl SimpleProxyError {
    /// Stable, for logs and counters.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooShort(_) => "simple_proxy_too_short",
            Self::Magic(_) => "simple_proxy_magic",
        }
    }
}

/// Source is the client, destination the edge address that it sent to.
pub fn encode(endpoints: &Endpoints, out: &mut [u8; LEN]) {
    out[..2].copy_from_slice(&MAGIC);
    out[2..18].copy_from_slice(&mapped(endpoints.source.ip()).octets());
    out[18..34].copy_from_slice(&mapped(endpoints.destination.ip()).octets());
    out[34..36].copy_from_slice(&endpoints.source.port().to_be_bytes());
    out[36..].copy_from_slice(&endpoints.destination.port().to_be_bytes());
}

/// Split a datagram into what its header says and its payload.
///
/// # Errors
/// The datagram is shorter than a header, or another protocol.
pub fn decode(datagram: &[u8]) -> Result<(Endpoints, &[u8]), SimpleProxyError> {
    let Some((header, payload)) = datagram.split_first_chunk::<LEN>() else {
        return Err(SimpleProxyError::TooShort(datagram.len()));
    };
    if header[..2] != MAGIC {
        return Err(SimpleProxyError::Magic(u16::from_be_bytes([header[0], header[1]])));
    }
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let source = (ipv6(header, 2).into(), port(34));
    let destination = (ipv6(header, 18).into(), port(36));
    Ok((Endpoints::new(source, destination), payload))
}

fn ipv6(header: &[u8; LEN], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    Ipv6Addr::from(octets)
}
