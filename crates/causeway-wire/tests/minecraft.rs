//! The first packet of Minecraft: each vector whole, cut at every byte, and with bytes behind it.

mod common;

use causeway_wire::minecraft::{Greeting, MAX_STATUS, Next, Question, greeting, packet_length, question, varint};
use common::{bytes, vectors};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    hex: String,
    #[serde(default)]
    need_more: bool,
    #[serde(default)]
    legacy: bool,
    consumed: Option<usize>,
    protocol: Option<i32>,
    next: Option<String>,
    error: Option<String>,
    decided_at: Option<usize>,
}

type Answer = Option<Result<Option<(usize, i32, &'static str)>, &'static str>>;

fn answer(bytes: &[u8]) -> Answer {
    let name = |next| match next {
        Next::Status => "status",
        Next::Login => "login",
        Next::Transfer => "transfer",
    };
    match greeting(bytes) {
        Ok(Greeting::NeedMore) => None,
        Ok(Greeting::Legacy) => Some(Ok(None)),
        Ok(Greeting::Handshake { consumed, protocol, next }) => Some(Ok(Some((consumed, protocol, name(next))))),
        Err(error) => Some(Err(error.code())),
    }
}

#[test]
fn every_prefix_needs_more_until_the_byte_that_decides_and_bytes_behind_it_change_nothing() {
    for case in vectors::<Case>("minecraft/greeting.json") {
        let bytes = bytes(&case.hex);
        let decided_at = match () {
            () if case.need_more => usize::MAX,
            () if case.legacy => 1,
            () => case.decided_at.or(case.consumed).expect("decided_at or consumed"),
        };
        for end in 0..=bytes.len() {
            let found = answer(&bytes[..end]);
            if end < decided_at {
                assert_eq!(found, None, "{}: first {end}", case.name);
                continue;
            }
            match found.expect("decided") {
                Err(code) => assert_eq!(Some(code), case.error.as_deref(), "{}: first {end}", case.name),
                Ok(None) => assert!(case.legacy),
                Ok(Some((consumed, protocol, next))) => {
                    let expected = (case.consumed, case.protocol, case.next.as_deref());
                    assert_eq!((Some(consumed), Some(protocol), Some(next)), expected, "{}", case.name);
                }
            }
        }
        for trailer in [&b"\x00"[..], b"\x01\x00", &[0xff; 5000]] {
            if decided_at <= bytes.len() {
                assert_eq!(answer(&[&bytes[..], trailer].concat()), answer(&bytes), "{}", case.name);
            }
        }
    }
}

#[test]
fn what_follows_is_a_question_for_the_status_or_a_ping() {
    let ping = [9, 1, 1, 2, 3, 4, 5, 6, 7, 8];
    let payload = [1, 2, 3, 4, 5, 6, 7, 8];
    for end in 0..ping.len() {
        assert_eq!(question(&ping[..end]), Ok(Question::NeedMore));
    }
    assert_eq!(question(&ping), Ok(Question::Ping { consumed: 10, payload }));
    assert_eq!(question(&[1, 0, 9, 1]), Ok(Question::Status { consumed: 2 }));
    for wrong in [&[2, 0, 0][..], &[1, 1], &[1, 7], &[0], &[17, 0], &[0xff; 5]] {
        assert!(question(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn numbers_come_back_as_they_were_written() {
    for number in [0, 1, 127, 128, 255, 25_565, 2_097_151, i32::MAX, -1, i32::MIN] {
        let (bytes, count) = varint(number);
        let handshake = [&[count as u8 + 5, 0][..], &bytes[..count], &[0, 0, 0, 1]].concat();
        assert!(matches!(greeting(&handshake), Ok(Greeting::Handshake { protocol, .. }) if protocol == number));
    }
    assert_eq!(packet_length(&[0x80], MAX_STATUS), Ok(None));
    assert_eq!(packet_length(&[0x80, 0x01, 7], MAX_STATUS), Ok(Some(130)));
    assert!(packet_length(&[0xff, 0xff, 0x7f], MAX_STATUS).is_err());
}
