//! What edges say to each other before a flow: whole, in pieces, with more behind it, and anything else.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use causeway_wire::Endpoints;
use causeway_wire::gauge::{GAUGE_BYTES, Gauge};
use causeway_wire::overlay::{
    Answer, Ask, Hop, HopError, Keep, MAX_ANSWER, MAX_HOP, MOST_HOPS, Name, Outcome, Path, Read,
};
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn hop(path: &[&str], number: u8) -> Hop {
    let names: Vec<Name> = path.iter().map(|text| name(text)).collect();
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    Hop {
        endpoints: Endpoints { source: address("192.0.2.7:40000"), destination: address("198.51.100.1:22") },
        application: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
        trace: 0xfeed_beef_0000_0001,
        number,
        path: Path::new(&names).unwrap(),
        keep: None,
        has_others: false,
    }
}

fn kept(ask: Ask) -> Hop {
    said_from(ask, None)
}

fn said_from(ask: Ask, says_from: Option<u64>) -> Hop {
    Hop { keep: Some(Keep { secret: *b"sixteen bytes---", ask, says_from }), ..hop(&["fra-1"], 2) }
}

fn written(hop: &Hop) -> Vec<u8> {
    let mut out = [0; MAX_HOP];
    let len = hop.encode(&mut out);
    out[..len].to_vec()
}

#[test]
fn a_header_is_read_as_it_was_written_at_every_cut_and_with_more_behind_it() {
    let longest = "a".repeat(32);
    let other = "b".repeat(32);
    let mut six = hop(&[&longest, &other], 1);
    six.endpoints.source = "[2001:db8::7]:40000".parse().unwrap();
    six.endpoints.destination = "[2001:db8::1]:22".parse().unwrap();
    six.keep = said_from(Ask::Resume(1), Some(u64::MAX)).keep;
    six.has_others = true;
    assert_eq!(written(&six).len(), MAX_HOP);
    let at_once = [said_from(Ask::Resume(7), Some(0)), said_from(Ask::ResumeOrBegin(900), Some(7))];
    let kept = [Ask::Begin, Ask::Resume(u64::MAX), Ask::ResumeOrBegin(900)].map(kept);
    let kept = kept.into_iter().chain(at_once);
    let plain = [hop(&[], 1), hop(&[], 3), hop(&["fra-1"], 1), hop(&["fra-1"], 2), hop(&["ams-1", "fra-1"], 1), six];
    for case in plain.into_iter().chain(kept) {
        let bytes = written(&case);
        for cut in 0..bytes.len() {
            assert_eq!(Hop::parse(&bytes[..cut]), Ok(Read::NeedMore), "{case:?} cut at {cut}");
        }
        for behind in [&b""[..], b"\r\n\r\n\0", &[0xff; 300]] {
            let whole = [&bytes[..], behind].concat();
            assert_eq!(Hop::parse(&whole), Ok(Read::Whole { consumed: bytes.len(), value: case }));
        }
    }
}

#[test]
fn what_an_edge_does_not_say_is_refused() {
    let whole = written(&hop(&["fra-1"], 2));
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        Hop::parse(&bytes)
    };
    assert_eq!(Hop::parse(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"), Err(HopError::Header));
    assert_eq!(with(12, 0x20), Err(HopError::Header), "LOCAL has no addresses");
    assert_eq!(with(14, 1), Err(HopError::TooLong));
    assert_eq!(with(28, 0x06), Err(HopError::Field(0x05)), "no trace");
    assert_eq!(with(39, 0xE5), Err(HopError::Field(0xE0)), "no application");
    assert_eq!(with(58, 0xE5), Err(HopError::Field(0xE1)), "no number");
    assert_eq!(with(61, 0), Err(HopError::Field(0xE1)), "it comes from somewhere");
    assert_eq!(with(61, 3), Err(HopError::Field(0xE1)), "one edge too many");
    assert_eq!(with(62, 0x05), Err(HopError::Field(0x05)), "not of its size");
    assert_eq!(with(66, b'F'), Err(HopError::Field(0xE2)), "no name");
    assert_eq!(with(65, 4), Err(HopError::Field(0xE2)), "a byte too many");
    assert_eq!(with(65, 6), Err(HopError::Field(0xE2)), "a byte too few");
    let mut twice = written(&Hop { has_others: true, ..hop(&[], 1) });
    twice.extend_from_slice(&[0xE4, 0, 0]);
    twice[15] += 3;
    assert_eq!(Hop::parse(&twice), Err(HopError::Field(0xE4)), "twice");
    let whole = written(&kept(Ask::Begin));
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        Hop::parse(&bytes)
    };
    assert_eq!(with(whole.len() - 1, 3), Err(HopError::Field(0xE3)), "asks for what there is not");
    assert_eq!(with(whole.len() - 1, 1), Err(HopError::Field(0xE3)), "goes on without saying where");
    let mut whole = written(&kept(Ask::Resume(7)));
    let at = whole.len() - 9;
    whole[at] = 3;
    assert_eq!(Hop::parse(&whole), Err(HopError::Field(0xE3)), "says at once without saying from where");
}

#[test]
fn a_path_has_at_most_three_edges_and_none_twice() {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(name);
    assert!(Path::new(&[]).unwrap().is_empty());
    assert_eq!(Path::new(&[a, b, c]).unwrap().split().unwrap().1, Path::new(&[b, c]).unwrap());
    assert_eq!(Path::new(&[a, b, a]), None);
    assert_eq!(Path::new(&[a, b, c, d]), None);
    let mut twice = written(&hop(&["fra-1", "ams-1"], 1));
    let at = twice.len() - 5;
    twice[at..].copy_from_slice(b"fra-1");
    assert_eq!(Hop::parse(&twice), Err(HopError::Field(0xE2)));
}

#[test]
fn names_are_those_that_control_gives() {
    for good in ["a", "fra-1", "0", "a-b-c", "abcdefghijklmnopqrstuvwxyz012345"] {
        assert_eq!(Name::new(good.as_bytes()).map(|n| n.as_str().to_string()), Some(good.to_string()));
    }
    for bad in ["", "-", "-a", "a-", "A", "a.b", "a b", "é", "abcdefghijklmnopqrstuvwxyz0123456"] {
        assert_eq!(Name::new(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn an_answer_is_read_as_it_was_written_at_every_cut() {
    for origin in [None, Some("192.0.2.9:22"), Some("[2001:db8::9]:65535")] {
        for outcome in [Outcome::Connected, Outcome::PathBroken, Outcome::NameFailed, Outcome::Gone] {
            let answer = Answer { outcome, origin: origin.map(|text| text.parse().unwrap()) };
            let mut out = [0; MAX_ANSWER];
            let len = answer.encode(&mut out);
            for cut in 0..len {
                assert_eq!(Answer::parse(&out[..cut]), Ok(Read::NeedMore));
            }
            let behind = [&out[..len], b"SSH-2.0"].concat();
            assert_eq!(Answer::parse(&behind), Ok(Read::Whole { consumed: len, value: answer }));
        }
    }
    assert_eq!(Answer::parse(&[14]), Err(HopError::Answer(14, 0)));
    assert_eq!(Answer::parse(&[0, 7]), Err(HopError::Answer(0, 7)));
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Hop::parse(&bytes);
        let _ = Answer::parse(&bytes);
    }

    #[test]
    fn a_header_with_any_byte_changed_is_read_or_refused(at in 0usize..80, byte: u8) {
        let mut bytes = written(&hop(&["fra-1", "ams-1"], 1));
        if let Some(place) = bytes.get_mut(at) { *place = byte; }
        if let Ok(Read::Whole { consumed, value }) = Hop::parse(&bytes) {
            prop_assert!(consumed <= bytes.len());
            prop_assert!(usize::from(value.number) + value.path.names().count() <= MOST_HOPS);
        }
    }
}

#[test]
fn a_question_how_far_it_is_comes_back_as_it_was_at_every_cut() {
    let asked = Gauge { stamp: 0x0102_0304_0506_0708 }.encode();
    assert_eq!(asked.len(), GAUGE_BYTES);
    for end in 0..asked.len() {
        assert_eq!(Gauge::parse(&asked[..end]), Ok(Read::NeedMore), "{end}");
    }
    let more = [&asked[..], b"and more"].concat();
    let whole = Read::Whole { consumed: GAUGE_BYTES, value: Gauge { stamp: 0x0102_0304_0506_0708 } };
    assert_eq!(Gauge::parse(&more), Ok(whole));
    assert!(Gauge::is_begun(&asked) && !Gauge::is_begun(&written(&hop(&[], 1))));
    assert_eq!(Hop::parse(&asked), Err(HopError::Header), "and is no flow");
    assert!(Gauge::parse(&written(&hop(&[], 1))).is_err());
}

proptest! {
    #[test]
    fn no_bytes_bring_the_reader_of_questions_down(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0..GAUGE_BYTES) {
        let _ = Gauge::parse(&bytes);
        let mut damaged = Gauge { stamp: 7 }.encode();
        damaged[at] ^= bytes.first().copied().unwrap_or(1) | 1;
        match Gauge::parse(&damaged) {
            Ok(Read::Whole { value, .. }) => prop_assert!(at >= 19 && value.stamp != 7),
            other => prop_assert!(other.is_err() && at < 19),
        }
    }
}
