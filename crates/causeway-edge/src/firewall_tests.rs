use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::snapshot::Prefix;

fn firewall(allow: &[String], block: &[String], cut: &[String]) -> Firewall {
    let spec = serde_json::json!({"id": "0".repeat(32), "allow": allow, "block": block, "cut": cut});
    Firewall::new(serde_json::from_value(spec).unwrap())
}

fn texts(prefixes: &[&str]) -> Vec<String> {
    prefixes.iter().map(|prefix| (*prefix).to_string()).collect()
}

#[test]
fn the_most_specific_prefix_wins() {
    let made = firewall(
        &texts(&["198.51.100.7/32", "203.0.113.0/25", "2001:db8:1::/48"]),
        &texts(&["198.51.100.0/24", "203.0.113.0/24", "255.255.255.255/32", "2001:db8::/32"]),
        &texts(&["203.0.113.5/32", "0.0.0.0/32"]),
    );
    let cases = [
        ("198.51.99.255", Verdict::None),
        ("198.51.100.0", Verdict::Block),
        ("198.51.100.6", Verdict::Block),
        ("198.51.100.7", Verdict::Allow),
        ("198.51.100.8", Verdict::Block),
        ("::ffff:198.51.100.8", Verdict::Block),
        ("198.51.100.255", Verdict::Block),
        ("198.51.101.0", Verdict::None),
        ("203.0.113.0", Verdict::Allow),
        ("203.0.113.5", Verdict::Cut),
        ("203.0.113.6", Verdict::Allow),
        ("203.0.113.128", Verdict::Block),
        ("0.0.0.0", Verdict::Cut),
        ("0.0.0.1", Verdict::None),
        ("255.255.255.255", Verdict::Block),
        ("2001:db8::1", Verdict::Block),
        ("2001:db8:1::1", Verdict::Allow),
        ("2001:db8:2::1", Verdict::Block),
        ("2001:db9::", Verdict::None),
        ("::1", Verdict::None),
    ];
    for (client, verdict) in cases {
        assert_eq!(made.judge(client.parse().unwrap()), verdict, "{client}");
    }
}

#[test]
fn everything_can_be_blocked_and_nothing_blocks_nobody() {
    let all = firewall(&[], &texts(&["0.0.0.0/0", "::/0"]), &[]);
    let none = firewall(&[], &[], &[]);
    assert!(none.is_empty() && !all.is_empty());
    for client in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
        assert_eq!(all.judge(client.parse().unwrap()), Verdict::Block);
        assert_eq!(none.judge(client.parse().unwrap()), Verdict::None);
    }
}

type Entry = (u128, u8, u8);

/// The naive model: of all prefixes with the client in them, the longest.
fn model(entries: &[Entry], bits: u8, client: u128) -> Verdict {
    let holds = |(address, length, _): &&Entry| *length == 0 || (address ^ client) >> (bits - length) == 0;
    let longest = entries.iter().filter(holds).max_by_key(|(_, length, _)| *length);
    longest.map_or(Verdict::None, |(.., kind)| [Verdict::Allow, Verdict::Block, Verdict::Cut][usize::from(*kind)])
}

fn agrees(entries: &[Entry], bits: u8, clients: &[u128]) {
    let mut seen = std::collections::HashSet::new();
    let entries: Vec<Entry> = entries
        .iter()
        .map(|(address, length, kind)| {
            let free = u32::from(bits - length);
            (address.checked_shr(free).unwrap_or(0).checked_shl(free).unwrap_or(0), *length, *kind)
        })
        .filter(|(address, length, _)| seen.insert((*address, *length)))
        .collect();
    let ip = |address: u128| -> IpAddr {
        if bits == 32 { Ipv4Addr::from_bits(address as u32).into() } else { Ipv6Addr::from_bits(address).into() }
    };
    let of = |wanted: u8| -> Vec<String> {
        let fitting = entries.iter().filter(|(.., kind)| *kind == wanted);
        fitting.map(|(address, length, _)| format!("{}/{length}", ip(*address))).collect()
    };
    let made = firewall(&of(0), &of(1), &of(2));
    let most = if bits == 32 { u128::from(u32::MAX) } else { u128::MAX };
    let edges = entries.iter().flat_map(|(address, length, _)| {
        let last = address | most.checked_shr((*length).into()).unwrap_or(0);
        [*address, address.saturating_sub(1), last, last.saturating_add(1).min(most)]
    });
    for client in edges.chain(clients.iter().copied()) {
        if ip(client).to_canonical() == ip(client) {
            assert_eq!(made.judge(ip(client)), model(&entries, bits, client), "{} among {entries:?}", ip(client));
        }
    }
}

proptest! {
    #[test]
    fn ipv4_agrees_with_a_naive_model(
        entries in prop::collection::vec((any::<u32>(), 0u8..=32, 0u8..3), 0..60),
        close in prop::collection::vec((0u32..512, 20u8..=32, 0u8..3), 0..60),
        clients in prop::collection::vec(any::<u32>(), 100),
    ) {
        let entries: Vec<Entry> =
            entries.into_iter().chain(close).map(|(a, length, kind)| (a.into(), length, kind)).collect();
        agrees(&entries, 32, &clients.into_iter().chain(0..600).map(u128::from).collect::<Vec<_>>());
    }

    #[test]
    fn ipv6_agrees_with_a_naive_model(
        entries in prop::collection::vec((any::<u128>(), 0u8..=128, 0u8..3), 0..60),
        clients in prop::collection::vec(any::<u128>(), 100),
    ) {
        agrees(&entries, 128, &clients);
    }
}

/// Figures for docs/firewall.md: `cargo test --release -p causeway-edge --lib firewall -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn a_million_prefixes() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for is_v4 in [true, false] {
        let mut seen = std::collections::HashSet::new();
        while seen.len() < 1_000_000 {
            let bits = random();
            seen.insert(if is_v4 {
                let length = 16 + bits % 17;
                format!("{}/{length}", Ipv4Addr::from_bits((bits >> 32) as u32 & (u32::MAX << (32 - length))))
            } else {
                let address = (0x2000_u128 << 112) | u128::from(bits >> 3) << 61;
                format!("{}/64", Ipv6Addr::from_bits(address & (u128::MAX << 64)))
            });
        }
        let block: Vec<String> = seen.into_iter().collect();
        let json = serde_json::to_vec(&serde_json::json!({"id": "0".repeat(32), "block": block})).unwrap();
        let begin = Instant::now();
        let made = Firewall::new(serde_json::from_slice(&json).unwrap());
        let load = begin.elapsed();
        let bytes =
            made.v4.starts.len() * 5 + made.v6.starts.len() * 17 + (made.v4.index.len() + made.v6.index.len()) * 4;
        let spec = made.spec.block.len() * size_of::<Prefix>();
        let clients: Vec<IpAddr> = (0..1_000_000)
            .map(|_| {
                let bits = random();
                if is_v4 {
                    Ipv4Addr::from_bits(bits as u32).into()
                } else {
                    Ipv6Addr::from_bits((0x2000_u128 << 112) | u128::from(bits >> 3) << 61).into()
                }
            })
            .collect();
        let begin = Instant::now();
        let blocked = clients.iter().filter(|client| made.judge(**client).is_refusal()).count();
        let each = begin.elapsed() / clients.len() as u32;
        println!(
            "v4 {is_v4}: read and compiled in {load:?}, table {bytes} B, rules {spec} B, look-up {each:?}, {blocked} blocked"
        );
        assert!(load.as_secs() < 3 && bytes + spec < 200 << 20);
    }
}
