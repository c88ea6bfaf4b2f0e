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
    /// The session is over, says the edge that opened it. Others may follow that are, too.
    End = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack of whoever reads it")]
pub enum Message<'a> {
    Payload(&'a [u8]),
    Open {
        hop: Hop,
        payload: &'a [u8],
    },
    Answer(Answer),
    /// All that end, this one the first: for [`ends`].
    End(&'a [u8]),
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
            _ if numbers(bytes).all(|number| number.is_some_and(|number| number & 3 == 3)) => Message::End(bytes),
            _ => return Err(HopError::Datagram),
        };
        Ok((number >> 2, message))
    }
}

/// The sessions that end with a [`Message::End`].
pub fn ends(bytes: &[u8]) -> impl Iterator<Item = u64> {
    numbers(bytes).map_while(|number| number.map(|number| number >> 2))
}

/// One after the other, until there is none, or what is none.
fn numbers(mut bytes: &[u8]) -> impl Iterator<Item = Option<u64>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let read = number(bytes);
        bytes = read.map_or(&[], |(_, rest)| rest);
        Some(read.map(|(number, _)| number))
    })
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
