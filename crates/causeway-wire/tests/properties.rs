//! Any endpoints survive a round trip, any bytes get one lasting answer, and `ppp` agrees.

#[path = "../../../fuzz/check.rs"]
mod check;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use causeway_wire::accept::{HeaderError, Parsed, parse};
use causeway_wire::{Endpoints, Transport, proxy_v1, proxy_v2, simple_proxy};
use proptest::collection::vec;
use proptest::prelude::*;

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        // Many zero groups: every way to write a gap.
        vec(prop_oneof![2 => Just(0), 1 => any::<u16>()], 8).prop_map(|groups| {
            let groups: [u16; 8] = groups.try_into().expect("eight groups");
            IpAddr::V6(Ipv6Addr::from(groups))
        }),
        any::<[u8; 4]>().prop_map(|octets| { IpAddr::V6(std::net::Ipv4Addr::from(octets).to_ipv6_mapped()) }),
    ]
}

prop_compose! {
    fn endpoints()(a in address(), b in address(), p in any::<u16>(), q in any::<u16>()) -> Endpoints {
        Endpoints { source: SocketAddr::new(a, p), destination: SocketAddr::new(b, q) }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Bytes that get far: the pieces of which headers are made, in any order.
fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        Just("PROXY "),
        Just("TCP4 "),
        Just("TCP6 "),
        Just("UNKNOWN"),
        Just("\r\n"),
        Just(" "),
        Just("::"),
        Just(":"),
        Just("."),
        Just("0"),
        Just("1"),
        Just("25"),
        Just("ffff"),
        Just("192.0.2.1 "),
        Just("2001:db8::1 "),
        Just("65535"),
    ]
    .prop_map(|text| text.as_bytes().to_vec());
    let lines = (any::<bool>(), vec(text, 0..14)).prop_map(|(is_v6, pieces)| {
        let start: &[u8] = if is_v6 { b"PROXY TCP6 " } else { b"PROXY TCP4 " };
        [start, &pieces.concat()].concat()
    });
    let tlv =
        (prop_oneof![Just(3_u8), any::<u8>()], vec(any::<u8>(), 0..9), -1_i16..=1).prop_map(|(kind, value, off)| {
            let length = (value.len() as i16 + if off.abs() == 1 && kind % 4 == 0 { off } else { 0 }) as u16;
            [&[kind][..], &length.to_be_bytes(), &value].concat()
        });
    let family = prop_oneof![
        Just((0x11_u8, 12_usize)),
        Just((0x21, 36)),
        Just((0x12, 12)),
        Just((0x10, 12)),
        Just((0x00, 0)),
        Just((0x31, 216)),
        (any::<u8>(), 0_usize..40)
    ];
    let blocks = (
        family,
        prop_oneof![9 => Just(0x21_u8), 3 => Just(0x20), 1 => any::<u8>()],
        vec(tlv, 0..5),
        prop_oneof![9 => Just(0_u16), 1 => 0_u16..9],
        vec(any::<u8>(), 0..20),
    )
        .prop_map(|((family, len), command, tlvs, off, payload)| {
            let body = [vec![7; len], tlvs.concat()].concat();
            let length = (body.len() as u16).wrapping_sub(off);
            [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length.to_be_bytes(), &body, &payload].concat()
        });
    prop_oneof![lines, blocks]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn endpoints_survive_v1_and_v2(endpoints in endpoints(), payload in vec(any::<u8>(), 0..64)) {
        let expected = Endpoints { source: canonical(endpoints.source), destination: canonical(endpoints.destination) };
        let (mut line, mut block) = ([0; 107], [0; 52]);
        let line_len = proxy_v1::encode(&endpoints, &mut line);
        let block_len = proxy_v2::encode(&endpoints, Transport::Stream, &mut block);
        for header in [&line[..line_len], &block[..block_len]] {
            let received = [header, &payload].concat();
            prop_assert_eq!(parse(&received), Ok(Parsed::Header { consumed: header.len(), endpoints: Some(expected) }));
            for end in 0..header.len() {
                prop_assert_eq!(parse(&received[..end]), Ok(Parsed::NeedMore));
            }
        }
    }

    #[test]
    fn v1_is_written_without_dotted_ipv6(endpoints in endpoints()) {
        let mut line = [0; 107];
        let end = proxy_v1::encode(&endpoints, &mut line);
        prop_assert!(line.starts_with(b"PROXY TCP4") || !line[..end].contains(&b'.'));
    }

    #[test]
    fn endpoints_survive_simple_proxy(endpoints in endpoints(), payload in vec(any::<u8>(), 0..64)) {
        let mut header = [0; simple_proxy::LEN];
        simple_proxy::encode(&endpoints, &mut header);
        let datagram = [&header[..], &payload].concat();
        let expected = Endpoints { source: canonical(endpoints.source), destination: canonical(endpoints.destination) };
        prop_assert_eq!(simple_proxy::decode(&datagram), Ok((expected, &payload[..])));
    }

    #[test]
    fn any_bytes_get_one_lasting_answer(bytes in vec(any::<u8>(), 0..300)) {
        check::headers(&bytes);
        check::simple_proxy(&bytes);
        check::simple_proxy(&[&b"\x56\xec"[..], &bytes].concat());
        check::frames(&bytes);
        check::minecraft(&bytes);
        check::minecraft(&[&b"\x15\x00\xff\x05\x0emc.example.net"[..], &bytes].concat());
    }

    #[test]
    fn bytes_that_are_nearly_a_header_get_one_lasting_answer(bytes in nearly_a_header()) {
        check::headers(&bytes);
    }

    /// The first refused byte is the first that no address can have there: whatever is waited for can still come.
    #[test]
    fn an_ipv6_address_is_refused_at_the_first_impossible_byte(text in "[:1f.]{0,20}|([0-9a-f]{1,4}:){0,7}(:[0-9a-f]{0,4}){0,4}[.:]?[0-9]{0,3}[.]?") {
        let line = format!("PROXY TCP6 {text}");
        let is_open = match parse(line.as_bytes()) {
            Ok(Parsed::NeedMore) => true,
            Err(HeaderError::V1Malformed(_)) => false,
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        prop_assert_eq!(is_open, can_be_completed(&text), "{:?}", text);
    }
}

/// Slow and plain: try every kind of ending on the standard library's parser.
fn can_be_completed(text: &str) -> bool {
    let is_address = |ending: &str| format!("{text}{ending}").parse::<Ipv6Addr>().is_ok();
    let groups = (0..=8).flat_map(|count| {
        let groups = vec!["1"; count].join(":");
        ["", ":", "::", "1:", "1::"].map(|glue| format!("{glue}{groups}"))
    });
    let octets = ["", "0", ".0", ".0.0", ".0.0.0", "0.0", "0.0.0", "0.0.0.0", ".", "1.1", "1.1.1"];
    groups.into_iter().any(|ending| is_address(&ending)) || octets.iter().any(|ending| is_address(ending))
}
