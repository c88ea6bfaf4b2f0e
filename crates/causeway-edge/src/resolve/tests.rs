use super::*;

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
fn jitter_stays_within_a_tenth() {
    let ttl = Duration::from_secs(600);
    let pauses: Vec<Duration> = (0..200).map(|_| jittered(ttl)).collect();
    assert!(pauses.iter().all(|pause| (540..=660).contains(&pause.as_secs())));
    assert!(pauses.iter().any(|pause| *pause < ttl) && pauses.iter().any(|pause| *pause > ttl));
}
