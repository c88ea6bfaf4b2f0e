//! What can be wrong with what a name server is given.

use std::io;
use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("DNS cannot listen on {address}: {why}")]
    Listen { address: SocketAddr, why: io::Error },
    #[error("the thread of the name server could not be started: {0}")]
    Thread(io::Error),
    #[error("the table of names is not taken: {0}")]
    Table(String),
    #[error("the database of places is not taken: {0}")]
    Places(String),
}

impl DnsError {
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Listen { .. } => "dns_listen",
            Self::Thread(_) => "dns_thread",
            Self::Table(_) => "dns_table",
            Self::Places(_) => "dns_places",
        }
    }

    #[must_use]
    pub fn side(&self) -> &'static str {
        match self {
            Self::Listen { .. } | Self::Places(_) => "operator",
            Self::Thread(_) | Self::Table(_) => "edge",
        }
    }
}
