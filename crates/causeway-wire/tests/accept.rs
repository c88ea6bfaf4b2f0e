//! Headers from the client side: each vector whole, cut at every byte, and with bytes behind it.

mod common;

use std::net::SocketAddr;

use causeway_wire::accept::{MAX_HEADER, Parsed, parse};
use causeway_wire::{Endpoints, proxy_v2};
use common::{bytes, vectors};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    hex: String,
    #[serde(default)]
    need_more: bool,
    consumed: Option<usize>,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    tlvs: Option<Vec<(String, String)>>,
    error: Option<String>,
    decided_at: Option<usize>,
}

/// What `parse` says in words that a vector can hold: `None` while it needs more.
type Answer = Option<Result<(usize, Option<Endpoints>), &'static str>>;

fn answer(bytes: &[u8]) -> Answer {
    match parse(bytes) {
        Ok(Parsed::NeedMore) => None,
        Ok(Parsed::Header { consumed, endpoints }) => Some(Ok((consumed, endpoints))),
        Err(error) => Some(Err(error.code())),
    }
}

impl Case {
    /// The number of bytes at which the answer is there, and the answer.
    fn expected(&self) -> (usize, Result<(usize, Option<Endpoints>), &str>) {
        if let Some(error) = &self.error {
            return (self.decided_at.expect("decided_at"), Err(error));
        }
        let consumed = self.consumed.expect("consumed");
        let endpoints =
            self.source.map(|source| Endpoints { source, destination: self.destination.expect("destination") });
        (consumed, Ok((consumed, endpoints)))
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let cases = ["proxy_v1/accept.json", "proxy_v2/accept.json"];
    cases.into_iter().flat_map(vectors)
}

#[test]
fn every_prefix_needs_more_until_the_byte_that_decides() {
    for case in cases() {
        let bytes = bytes(&case.hex);
        if case.need_more {
            for end in 0..=bytes.len() {
                assert_eq!(answer(&bytes[..end]), None, "{}: first {end}", case.name);
            }
            continue;
        }
        let (decided_at, expected) = case.expected();
        for end in 0..=bytes.len() {
            let expected = (end >= decided_at).then_some(expected);
            assert_eq!(answer(&bytes[..end]), expected, "{}: first {end}", case.name);
        }
    }
}

#[test]
fn bytes_behind_a_decided_header_change_nothing() {
    let trailers: [&[u8]; 5] = [b"\x00", b"\r\n", b"\x04\x00\x01\x00", b"PROXY UNKNOWN\r\n", &[0xFF; MAX_HEADER]];
    for case in cases().filter(|case| !case.need_more) {
        let bytes = bytes(&case.hex);
        let (decided_at, expected) = case.expected();
        for trailer in trailers {
            for head in [&bytes[..], &bytes[..decided_at]] {
                let longer = [head, trailer].concat();
                assert_eq!(answer(&longer), Some(expected), "{}", case.name);
            }
        }
    }
}

#[test]
fn each_split_into_two_segments_gives_the_same_header() {
    for case in cases().filter(|case| case.error.is_none() && !case.need_more) {
        let bytes = bytes(&case.hex);
        let (consumed, expected) = case.expected();
        for cut in (0..=bytes.len()).filter(|cut| *cut < 300 || bytes.len() - cut < 300) {
            let mut received = bytes[..cut].to_vec();
            let early = answer(&received);
            assert_eq!(early.is_some(), cut >= consumed, "{}: at {cut}", case.name);
            received.extend_from_slice(&bytes[cut..]);
            assert_eq!(answer(&received), Some(expected), "{}", case.name);
            assert_eq!(received[consumed..], bytes[consumed..], "payload is whole");
        }
    }
}

#[test]
fn tlvs_are_those_of_the_header_and_none_of_the_payload() {
    for case in cases() {
        let (Some(tlvs), Some(consumed)) = (&case.tlvs, case.consumed) else {
            continue;
        };
        let expected: Vec<(u8, Vec<u8>)> = tlvs.iter().map(|(kind, value)| (bytes(kind)[0], bytes(value))).collect();
        let header = &bytes(&case.hex)[..consumed];
        let found: Vec<(u8, Vec<u8>)> = proxy_v2::tlvs(header).map(|tlv| (tlv.kind, tlv.value.to_vec())).collect();
        assert_eq!(found, expected, "{}", case.name);
    }
}

#[test]
fn a_promised_length_is_judged_before_its_bytes() {
    for length in 0..=u16::MAX {
        let mut header = *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\0";
        header[14..].copy_from_slice(&length.to_be_bytes());
        let expected = match length {
            0..12 => Some(Err("proxy_v2_too_short")),
            12 | 15..=8176 => None,
            13 | 14 => Some(Err("proxy_v2_tlv")),
            8177.. => Some(Err("proxy_v2_too_long")),
        };
        assert_eq!(answer(&header), expected, "length {length}");
    }
}
