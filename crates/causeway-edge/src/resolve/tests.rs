use super::ResolveCause::{Failure, NotFound};
use super::upstream::{Finding, Missing};
use super::*;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn found(texts: &[&str]) -> Option<Finding> {
    Some(Ok(ips(texts)))
}

fn missing(cause: ResolveCause) -> Option<Finding> {
    Some(Err(Missing { cause, detail: format!("{cause:?}") }))
}

fn addresses(texts: &[&str]) -> Answer {
    Answer::Addresses(ips(texts).into())
}

fn failed(cause: ResolveCause) -> Answer {
    Answer::Failed { cause, detail: format!("{cause:?}") }
}

#[test]
fn host_names_are_told_from_other_text() {
    let long_label = "a".repeat(63);
    let longest = format!("{}.{}.{}.{}", long_label, long_label, long_label, "a".repeat(61));
    let good = [
        "localhost",
        "o.example.net",
        "O.Example.NET.",
        "_srv._tcp.x",
        "xn--bcher-kva.ch",
        "a-b.c",
        "1.example",
        &longest,
    ];
    for name in good {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    let too_long = format!("a{longest}");
    let long = "a".repeat(64);
    let bad = [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a b",
        "a/b",
        "a\0b",
        "bücher.ch",
        "a.-b",
        "b-.a",
        "10.0.0.1",
        "a.1",
        "::1",
        "[::1]",
        "a:80",
        "a@b",
        "*.a",
        "a\\046b",
        "\"",
        &too_long,
        &long,
    ];
    for name in bad {
        let why = check_name(name).unwrap_err();
        assert!(why.len() < 600 && !why.contains(char::is_control), "{why}");
    }
}

#[test]
fn families_are_interleaved_without_duplicates_and_bounded() {
    let merged = interleave(&ips(&["192.0.2.1", "192.0.2.2", "192.0.2.1"]), &ips(&["2001:db8::1"]));
    assert_eq!(*merged, *ips(&["192.0.2.1", "2001:db8::1", "192.0.2.2"]));
    let many: Vec<IpAddr> = (0..200u8).map(|n| IpAddr::from([10, 0, 0, n])).collect();
    assert_eq!(interleave(&many, &ips(&["2001:db8::1"])).len(), MAX_ADDRESSES);
    assert_eq!(interleave(&[], &[]).len(), 0);
}

#[test]
fn the_last_good_answer_outlives_every_failure() {
    let steps: [(Option<Finding>, Option<Finding>, Answer); 8] = [
        (missing(Failure), missing(NotFound), failed(Failure)),
        (missing(NotFound), missing(NotFound), failed(NotFound)),
        (found(&["192.0.2.1"]), missing(NotFound), addresses(&["192.0.2.1"])),
        (missing(NotFound), missing(NotFound), addresses(&["192.0.2.1"])),
        (missing(Failure), missing(Failure), addresses(&["192.0.2.1"])),
        (missing(Failure), found(&["2001:db8::1"]), addresses(&["192.0.2.1", "2001:db8::1"])),
        // The name is alive and has no A any more.
        (missing(NotFound), found(&["2001:db8::2"]), addresses(&["2001:db8::2"])),
        (missing(Failure), missing(NotFound), addresses(&["2001:db8::2"])),
    ];
    let mut memory = Memory::default();
    for (step, (a, aaaa, expected)) in steps.into_iter().enumerate() {
        assert_eq!(memory.learn("o", Findings { a, aaaa }), expected, "step {step}");
    }
}

#[test]
fn retries_back_off_to_the_ttl_or_to_half_a_minute() {
    let ttl = Duration::from_secs(10);
    let mut memory = Memory::default();
    let mut pauses = |finding: fn() -> Option<Finding>, times: usize| -> Vec<u64> {
        (0..times)
            .map(|_| {
                memory.learn("o", Findings { a: finding(), aaaa: None });
                memory.next_look(ttl).as_millis() as u64
            })
            .collect()
    };
    assert_eq!(pauses(|| missing(NotFound), 9), [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    assert_eq!(pauses(|| found(&["192.0.2.1"]), 2), [10_000, 10_000]);
    assert_eq!(pauses(|| missing(Failure), 6), [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
    assert_eq!(pauses(|| missing(Failure), 100).last(), Some(&10_000));
    assert_eq!(pauses(|| found(&["192.0.2.1"]), 1), [10_000]);
}

#[test]
fn jitter_stays_within_a_tenth() {
    let ttl = Duration::from_secs(600);
    let pauses: Vec<Duration> = (0..200).map(|_| jittered(ttl)).collect();
    assert!(pauses.iter().all(|pause| (540..=660).contains(&pause.as_secs())));
    assert!(pauses.iter().any(|pause| *pause < ttl) && pauses.iter().any(|pause| *pause > ttl));
}
