//! What the edge writes to origins, byte for byte, and what it reads back from them over UDP.

mod common;

use std::net::SocketAddr;

use causeway_wire::{Endpoints, Transport, proxy_v1, proxy_v2, simple_proxy};
use common::{bytes, vectors};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Encode {
    name: String,
    source: SocketAddr,
    destination: SocketAddr,
    transport: Option<String>,
    text: Option<String>,
    hex: Option<String>,
}

impl Encode {
    fn endpoints(&self) -> Endpoints {
        Endpoints { source: self.source, destination: self.destination }
    }

    fn expected(&self) -> Vec<u8> {
        match (&self.text, &self.hex) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(hex)) => bytes(hex),
            _ => panic!("{}: text or hex", self.name),
        }
    }
}

#[test]
fn v1_lines() {
    for case in vectors::<Encode>("proxy_v1/encode.json") {
        let mut out = [0xAA; 107];
        let end = proxy_v1::encode(&case.endpoints(), &mut out);
        assert_eq!(&out[..end], case.expected(), "{}", case.name);
        assert!(out[end..].iter().all(|byte| *byte == 0xAA), "{}", case.name);
    }
}

#[test]
fn v2_headers() {
    for case in vectors::<Encode>("proxy_v2/encode.json") {
        let transport = match case.transport.as_deref() {
            Some("stream") => Transport::Stream,
            Some("datagram") => Transport::Datagram,
            other => panic!("{}: transport {other:?}", case.name),
        };
        let mut out = [0xAA; 52];
        let end = proxy_v2::encode(&case.endpoints(), transport, &mut out);
        assert_eq!(&out[..end], case.expected(), "{}", case.name);
    }
}

#[test]
fn simple_proxy_headers() {
    for case in vectors::<Encode>("simple_proxy/encode.json") {
        let mut out = [0xAA; 38];
        simple_proxy::encode(&case.endpoints(), &mut out);
        assert_eq!(&out[..], case.expected(), "{}", case.name);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decode {
    name: String,
    hex: String,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    payload: Option<String>,
    error: Option<String>,
}

#[test]
fn simple_proxy_replies() {
    for case in vectors::<Decode>("simple_proxy/decode.json") {
        let datagram = bytes(&case.hex);
        let found = simple_proxy::decode(&datagram).map_err(|error| error.code());
        if let Some(error) = &case.error {
            assert_eq!(found, Err(error.as_str()), "{}", case.name);
            continue;
        }
        let endpoints =
            Endpoints { source: case.source.expect("source"), destination: case.destination.expect("destination") };
        let payload = bytes(&case.payload.expect("payload"));
        assert_eq!(found, Ok((endpoints, &payload[..])), "{}", case.name);
        for end in 0..simple_proxy::LEN {
            let cut = simple_proxy::decode(&datagram[..end]).map_err(|error| error.code());
            assert_eq!(cut, Err("simple_proxy_too_short"), "{}: {end}", case.name);
        }
        let longer = [&datagram[..], b"more"].concat();
        let payload = [&payload[..], b"more"].concat();
        assert_eq!(simple_proxy::decode(&longer), Ok((endpoints, &payload[..])));
    }
}
