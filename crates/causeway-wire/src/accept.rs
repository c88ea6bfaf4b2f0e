//! A PROXY header v1 or v2 from the client side, read as it arrives.
//!
//! Call it again with more bytes while it answers `NeedMore`; an error is final and is given at the first byte
//! that no header can have there (a checksum is judged once the header is whole). Written by hand, checked
//! against `ppp`: that crate refuses LOCAL without addresses, and notices bad bytes only once a line or block is whole.

use crate::{Endpoints, proxy_v1, proxy_v2};

/// The longest header waited for. Peers failed with 4 KiB of TLVs, so there is room for twice that.
pub const MAX_HEADER: usize = 8192;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    NeedMore,
    Header {
        consumed: usize,
        /// `None` for LOCAL, UNKNOWN, UNSPEC and AF_UNIX: the socket's own addresses hold.
        endpoints: Option<Endpoints>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("the connection does not start with a PROXY protocol header")]
    NotAHeader,
    #[error("PROXY v1 line can't be read: wrong byte at offset {0}")]
    V1Malformed(usize),
    #[error("PROXY v1 line has no CRLF within 107 bytes")]
    V1TooLong,
    #[error("PROXY v2 header has version {0}, only 2 exists")]
    V2Version(u8),
    #[error("PROXY v2 header has command {0}, only LOCAL (0) and PROXY (1) exist")]
    V2Command(u8),
    #[error("PROXY v2 header has address family and transport {0:#04x}, which don't exist")]
    V2Family(u8),
    #[error("PROXY v2 header is longer than {MAX_HEADER} bytes")]
    V2TooLong,
    #[error("PROXY v2 header is too short for its addresses: {0} bytes")]
    V2TooShort(usize),
    #[error("PROXY v2 header has a TLV that does not end where the header or another TLV does")]
    V2Tlv,
    #[error("PROXY v2 header does not match its CRC32c checksum")]
    V2Checksum,
}

impl HeaderError {
    /// Stable, for logs and counters; the side at fault is always the client's.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAHeader => "proxy_header_missing",
            Self::V1Malformed(_) => "proxy_v1_malformed",
            Self::V1TooLong => "proxy_v1_too_long",
            Self::V2Version(_) => "proxy_v2_version",
            Self::V2Command(_) => "proxy_v2_command",
            Self::V2Family(_) => "proxy_v2_family",
            Self::V2TooLong => "proxy_v2_too_long",
            Self::V2TooShort(_) => "proxy_v2_too_short",
            Self::V2Tlv => "proxy_v2_tlv",
            Self::V2Checksum => "proxy_v2_checksum",
        }
    }
}

/// Read what has arrived so far, from the first byte of the connection.
///
/// # Errors
/// The bytes are not, and can't become, a PROXY header.
pub fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    match bytes.first() {
        None => Ok(Parsed::NeedMore),
        Some(b'P') => proxy_v1::parse(bytes),
        Some(b'\r') => proxy_v2::parse(bytes),
        Some(_) => Err(HeaderError::NotAHeader),
    }
}
