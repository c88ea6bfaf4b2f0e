//! A datagram of a session between two edges, as it lies in a QUIC DATAGRAM frame, or in a stream of its own where it is
//! too large for one.
//!
//! A number of QUIC (RFC 9000, 16) says which session it is of and what it is, and the rest is that. Numbers are given by
//! the edge that opened the connection. Whoever opens a session says with each datagram whose it is and where it goes on,
//! until it has been answered, so that no datagram waits for a round trip. All of it is strict, as between connections.

use crate::overlay::{Answer, Hop, HopError, Read};
use crate::proxy_v2;

/// The number in front, at most.
pub const MAX_HEAD: usize = 8;
/// Numbers of sessions are smaller.
pub const MOST_FLOWS: u64 = 1 << 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// What the client or the origin has said.
    Payload = 0,
    /// The same from a client, behind the header of the session.
    Open = 1,
    /// Back: what has become of the session, whenever that changes. Unless it says `Connected`, the session is over.
    Answer = 2,
    /// The session is over, says the edge that opened it.
    End = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Payload(&'a [u8]),
    Open { hop: Hop, payload: &'a [u8] },
    Answer(Answer),
    End,
}

/// Write what goes in front of a datagram; answers its length. `flow` is below [`MOST_FLOWS`].
#[must_use]
pub fn head(kind: Kind, flow: u64, out: &mut [u8; MAX_HEAD]) -> usize {
    let number = flow << 2 | kind as u64;
    let (len, mark) = match number {
        0..0x40 => (1, 0),
        0x40..0x4000 => (2, 0x40),
        0x4000..0x4000_0000 => (4, 0x80),
        _ => (8, 0xC0),
    };
    out[..len].copy_from_slice(&number.to_be_bytes()[8 - len..]);
    out[0] |= mark;
    len
}

impl<'a> Message<'a> {
    /// Read a whole datagram: of which session, and what.
    ///
    /// # Errors
    /// It is not what an edge says.
    pub fn parse(bytes: &'a [u8]) -> Result<(u64, Message<'a>), HopError> {
        let (number, rest) = number(bytes).ok_or(HopError::Datagram)?;
        let message = match number & 3 {
            0 => Message::Payload(rest),
            1 => match Hop::parse(rest)? {
                Read::Whole { consumed, value } if proxy_v2::is_datagram(rest) => {
                    Message::Open { hop: value, payload: &rest[consumed..] }
                }
                _ => return Err(HopError::Header),
            },
            2 => match Answer::parse(rest)? {
                Read::Whole { consumed, value } if consumed == rest.len() => Message::Answer(value),
                _ => return Err(HopError::Datagram),
            },
            _ if rest.is_empty() => Message::End,
            _ => return Err(HopError::Datagram),
        };
        Ok((number >> 2, message))
    }
}

/// In as few bytes as it needs.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let first = *bytes.first()?;
    let (bytes, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let number = bytes[1..].iter().fold(u64::from(first & 0x3F), |number, byte| number << 8 | u64::from(*byte));
    let mut shortest = [0; MAX_HEAD];
    let len = head(Kind::Payload, number >> 2, &mut shortest);
    (len == bytes.len()).then_some((number, rest))
}
