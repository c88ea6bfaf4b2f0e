//! PROXY protocol v1: one line of text before a TCP stream.
//!
//! Read byte by byte against the grammar, so that a line which can't become a header is refused at once. UNKNOWN
//! passes with anything up to its CRLF. Written with hexadecimal groups only: the specification has no dotted IPv6.

use std::fmt;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::from_utf8;

use crate::accept::{HeaderError, Parsed};
use crate::endpoints::{Endpoints, Pair};

/// The longest line of the specification, CRLF included.
pub const MAX_LINE: usize = 107;

/// Write the line; returns its length.
#[must_use]
pub fn encode(endpoints: &Endpoints, out: &mut [u8; MAX_LINE]) -> usize {
    let (source_port, destination_port) = (endpoints.source.port(), endpoints.destination.port());
    let mut rest = &mut out[..];
    let written = match endpoints.pair() {
        Pair::V4(source, destination) => {
            write!(rest, "PROXY TCP4 {source} {destination} {source_port} {destination_port}\r\n")
        }
        Pair::V6(source, destination) => {
            write!(rest, "PROXY TCP6 {} {} {source_port} {destination_port}\r\n", Groups(source), Groups(destination))
        }
    };
    debug_assert!(written.is_ok(), "the longest TCP6 line has 104 bytes");
    MAX_LINE - rest.len()
}

struct Groups(Ipv6Addr);

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.to_ipv4_mapped(), self.0.segments()) {
            (Some(_), [.., high, low]) => write!(f, "::ffff:{high:x}:{low:x}"),
            (None, _) => self.0.fmt(f),
        }
    }
}

enum Stop {
    NeedMore,
    Error(HeaderError),
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let mut line = Line { bytes, at: 0 };
    match line.header() {
        Ok(endpoints) => Ok(Parsed::Header { consumed: line.at, endpoints }),
        Err(Stop::NeedMore) => Ok(Parsed::NeedMore),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// `at` is the number of bytes taken; the one before it is at fault when one is.
struct Line<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Line<'_> {
    fn header(&mut self) -> Result<Option<Endpoints>, Stop> {
        self.text(b"PROXY ").map_err(|stop| match stop {
            Stop::Error(_) => Stop::Error(HeaderError::NotAHeader),
            Stop::NeedMore => stop,
        })?;
        match self.next()? {
            b'T' => self.text(b"CP")?,
            b'U' => return self.unknown(),
            _ => return Err(self.malformed()),
        }
        let (source, destination) = match self.next()? {
            b'4' => {
                self.text(b" ")?;
                (self.ipv4()?.into(), self.ipv4()?.into())
            }
            b'6' => {
                self.text(b" ")?;
                (self.ipv6()?.into(), self.ipv6()?.into())
            }
            _ => return Err(self.malformed()),
        };
        let source = (source, self.decimal::<{ u16::MAX }>(b' ')?);
        let destination = (destination, self.decimal::<{ u16::MAX }>(b'\r')?);
        self.text(b"\n")?;
        Ok(Some(Endpoints::new(source, destination)))
    }

    fn unknown(&mut self) -> Result<Option<Endpoints>, Stop> {
        self.text(b"NKNOWN")?;
        match self.next()? {
            b'\r' => {}
            b' ' => while self.next()? != b'\r' {},
            _ => return Err(self.malformed()),
        }
        self.text(b"\n")?;
        Ok(None)
    }

    fn next(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::NeedMore)?;
        // The last place for CR, unless it has just been.
        if self.at == MAX_LINE - 2 && byte != b'\r' && self.bytes[self.at - 1] != b'\r' {
            return Err(Stop::Error(HeaderError::V1TooLong));
        }
        self.at += 1;
        Ok(byte)
    }

    fn malformed(&self) -> Stop {
        Stop::Error(HeaderError::V1Malformed(self.at - 1))
    }

    fn text(&mut self, expected: &[u8]) -> Result<(), Stop> {
        for &byte in expected {
            if self.next()? != byte {
                return Err(self.malformed());
            }
        }
        Ok(())
    }

    fn digit(&self, byte: u8) -> Result<u16, Stop> {
        match byte {
            b'0'..=b'9' => Ok(u16::from(byte - b'0')),
            _ => Err(self.malformed()),
        }
    }

    /// A number without leading zeros, up to and with the byte that ends it.
    fn decimal<const MAX: u16>(&mut self, end: u8) -> Result<u16, Stop> {
        let first = self.next()?;
        let mut value = self.digit(first)?;
        loop {
            let byte = self.next()?;
            if byte == end {
                return Ok(value);
            }
            let digit = self.digit(byte)?;
            let longer = value.checked_mul(10).and_then(|ten| ten.checked_add(digit));
            value = match longer {
                Some(longer) if value != 0 && longer <= MAX => longer,
                _ => return Err(self.malformed()),
            };
        }
    }

    fn octet(&mut self, end: u8) -> Result<u8, Stop> {
        Ok(self.decimal::<255>(end)? as u8)
    }

    fn ipv4(&mut self) -> Result<Ipv4Addr, Stop> {
        Ok(Ipv4Addr::new(self.octet(b'.')?, self.octet(b'.')?, self.octet(b'.')?, self.octet(b' ')?))
    }

    /// Takes only what some address can start with; std's parser has the last word on the whole.
    fn ipv6(&mut self) -> Result<Ipv6Addr, Stop> {
        let start = self.at;
        let (mut groups, mut digits, mut colons, mut has_gap) = (0, 0, 0, false);
        loop {
            // A gap stands for one group at least, so there is room for seven beside it.
            let room = if has_gap { 7 } else { 8 };
            match self.next()? {
                b' ' => break,
                b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' => {
                    let is_lone_colon = groups == 0 && colons == 1;
                    if digits == 4 || (digits == 0 && (groups == room || is_lone_colon)) {
                        return Err(self.malformed());
                    }
                    groups += usize::from(digits == 0);
                    digits += 1;
                    colons = 0;
                }
                b':' if colons == 0 && groups < room => (digits, colons) = (0, 1),
                b':' if colons == 1 && !has_gap => (has_gap, colons) = (true, 2),
                b'.' if (has_gap && groups <= 6) || (!has_gap && groups == 7) => {
                    // The group just read was the first octet of an IPv4 tail, which fills two groups.
                    if !is_octet(&self.bytes[self.at - 1 - digits..self.at - 1]) {
                        return Err(self.malformed());
                    }
                    self.octet(b'.')?;
                    self.octet(b'.')?;
                    self.octet(b' ')?;
                    break;
                }
                _ => return Err(self.malformed()),
            }
        }
        from_utf8(&self.bytes[start..self.at - 1])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| self.malformed())
    }
}

fn is_octet(digits: &[u8]) -> bool {
    from_utf8(digits).is_ok_and(|text| text.parse::<u8>().is_ok() && (text.len() == 1 || !text.starts_with('0')))
}
