//! Datagrams of sessions between edges: whole, cut short, with more behind them, and anything else.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use causeway_wire::datagram::{Kind, MAX_HEAD, MOST_FLOWS, Message, ends, head};
use causeway_wire::overlay::{Answer, Hop, HopError, MAX_ANSWER, MAX_HOP, Name, Outcome, Path};
use causeway_wire::{Endpoints, Transport};
use proptest::prelude::*;

const FLOWS: [u64; 9] = [0, 1, 15, 16, 4_095, 4_096, (1 << 28) - 1, 1 << 28, MOST_FLOWS - 1]; // where the number gets longer

fn hop() -> Hop {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    Hop {
        endpoints: Endpoints { source: address("192.0.2.7:40000"), destination: address("198.51.100.1:53") },
        application: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
        trace: 0xfeed_beef_0000_0001,
        number: 1,
        path: Path::new(&[Name::new(b"fra-1").unwrap()]).unwrap(),
        keep: None,
        has_others: false,
    }
}

fn header(transport: Transport) -> Vec<u8> {
    let mut out = [0; MAX_HOP];
    let len = hop().encode_for(transport, &mut out);
    out[..len].to_vec()
}

fn written(kind: Kind, flow: u64, rest: &[u8]) -> Vec<u8> {
    let mut out = [0; MAX_HEAD];
    let len = head(kind, flow, &mut out);
    [&out[..len], rest].concat()
}

fn answer(answer: Answer) -> Vec<u8> {
    let mut out = [0; MAX_ANSWER];
    let len = answer.encode(&mut out);
    out[..len].to_vec()
}

#[test]
fn each_kind_is_read_as_it_was_written_for_every_size_of_number() {
    for flow in FLOWS {
        for payload in [&b""[..], b"x", &[0xff; 1500]] {
            let plain = written(Kind::Payload, flow, payload);
            assert_eq!(Message::parse(&plain), Ok((flow, Message::Payload(payload))));
            let opening = written(Kind::Open, flow, &[&header(Transport::Datagram)[..], payload].concat());
            assert_eq!(Message::parse(&opening), Ok((flow, Message::Open { hop: hop(), payload })));
        }
        for origin in [None, Some("192.0.2.9:53"), Some("[2001:db8::9]:53")] {
            let value = Answer { outcome: Outcome::Refused, origin: origin.map(|text| text.parse().unwrap()) };
            let bytes = written(Kind::Answer, flow, &answer(value));
            assert_eq!(Message::parse(&bytes), Ok((flow, Message::Answer(value))));
        }
        let over = written(Kind::End, flow, b"");
        assert_eq!(Message::parse(&over), Ok((flow, Message::End(&over))));
    }
}

#[test]
fn many_sessions_may_end_at_once() {
    let all: Vec<u8> = FLOWS.iter().flat_map(|flow| written(Kind::End, *flow, b"")).collect();
    assert_eq!(Message::parse(&all), Ok((FLOWS[0], Message::End(&all))));
    assert_eq!(ends(&all).collect::<Vec<_>>(), FLOWS);
    for broken in [&b"x"[..], &[0xC0], &written(Kind::Payload, 1, b"")] {
        assert_eq!(Message::parse(&[&all[..], broken].concat()), Err(HopError::Datagram));
    }
}

#[test]
fn a_number_takes_no_more_bytes_than_it_needs() {
    let lens: Vec<usize> = FLOWS.iter().map(|flow| written(Kind::Payload, *flow, b"").len()).collect();
    assert_eq!(lens, [1, 1, 1, 2, 2, 4, 4, 8, 8]);
    for longer in [&[0x40, 4][..], &[0x80, 0, 0, 4], &[0xC0, 0, 0, 0, 0, 0, 0, 4]] {
        assert_eq!(Message::parse(longer), Err(HopError::Datagram), "{longer:?}");
    }
}

#[test]
fn what_was_cut_short_is_refused_at_every_cut() {
    let opening = written(Kind::Open, 70_000, &header(Transport::Datagram));
    let answered = written(Kind::Answer, 70_000, &answer(Answer { outcome: Outcome::Connected, origin: None }));
    for whole in [opening, answered] {
        for cut in 0..whole.len() {
            assert!(Message::parse(&whole[..cut]).is_err(), "cut at {cut} of {}", whole.len());
        }
    }
    assert!(Message::parse(&written(Kind::Payload, 70_000, b"")[..3]).is_err());
}

#[test]
fn what_an_edge_does_not_say_is_refused() {
    assert_eq!(Message::parse(&written(Kind::End, 1, b"x")), Err(HopError::Datagram), "more behind an end");
    let long = [&answer(Answer { outcome: Outcome::Connected, origin: None })[..], b"x"].concat();
    assert_eq!(Message::parse(&written(Kind::Answer, 1, &long)), Err(HopError::Datagram), "more behind an answer");
    assert_eq!(Message::parse(&written(Kind::Answer, 1, &[14, 0])), Err(HopError::Answer(14, 0)));
    let of_a_connection = header(Transport::Stream);
    assert_eq!(Message::parse(&written(Kind::Open, 1, &of_a_connection)), Err(HopError::Header));
    assert_eq!(Message::parse(&written(Kind::Open, 1, b"GET / HTTP/1.1")), Err(HopError::Header));
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok((flow, Message::Payload(rest))) = Message::parse(&bytes) {
            prop_assert_eq!(written(Kind::Payload, flow, rest), bytes);
        }
    }

    #[test]
    fn a_header_with_any_byte_changed_is_read_or_refused(at in 0usize..100, byte: u8) {
        let mut bytes = written(Kind::Open, 5, &header(Transport::Datagram));
        if let Some(place) = bytes.get_mut(at) { *place = byte; }
        if let Ok((_, Message::Open { payload, .. })) = Message::parse(&bytes) {
            prop_assert!(payload.len() < bytes.len());
        }
    }
}
