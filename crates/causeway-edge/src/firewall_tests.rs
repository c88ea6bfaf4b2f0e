use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use list::Lenience;

fn firewall(allow: &[String], block: &[String], cut: &[String]) -> Firewall {
    let of = |action: &str, prefixes: &[String]| -> Vec<serde_json::Value> {
        let rule = |prefix: &String| json!({"id": prefix, "action": action, "target": {"prefix": prefix}});
        prefixes.iter().map(rule).collect()
    };
    let rules = [of("allow", allow), of("block", block), of("cut", cut)].concat();
    made(json!([{"rules": rules}]), &mut Blobs::default())
}

fn made(scopes: serde_json::Value, blobs: &mut Blobs) -> Firewall {
    let spec = json!({"id": "0".repeat(32), "scopes": scopes});
    Firewall::new(serde_json::from_value(spec).unwrap(), blobs, None).unwrap()
}

fn put(blobs: &mut Blobs, kind: &str, text: &str) -> String {
    let (blob, facts) = Blobs::read(kind, text.as_bytes(), Lenience::default()).unwrap();
    blobs.put(kind, text.as_bytes(), blob, facts).unwrap().digest
}

fn verdict(firewall: &Firewall, client: &str) -> Verdict {
    firewall.judge(client.parse().unwrap(), 1, 22).verdict
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
    for (client, expected) in cases {
        assert_eq!(verdict(&made, client), expected, "{client}");
    }
}

#[test]
fn everything_can_be_blocked_and_nothing_blocks_nobody() {
    let all = firewall(&[], &texts(&["0.0.0.0/0", "::/0"]), &[]);
    let none = firewall(&[], &[], &[]);
    assert!(none.is_empty_for(1) && !all.is_empty_for(1));
    for client in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
        assert_eq!(verdict(&all, client), Verdict::Block);
        assert_eq!(verdict(&none, client), Verdict::None);
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
            assert_eq!(
                made.judge(ip(client), 1, 22).verdict,
                model(&entries, bits, client),
                "{} among {entries:?}",
                ip(client)
            );
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

#[test]
fn allow_beats_block_at_the_same_prefix_and_a_list_counts_as_its_prefixes() {
    let mut blobs = Blobs::default();
    let list = put(&mut blobs, "list", "# partners\n198.51.100.0/24\n203.0.113.7 # one of them\n\n2001:db8::/48\n");
    let rule =
        |id: &str, action: &str, target: serde_json::Value| json!({"id": id, "action": action, "target": target});
    let rules = json!([{"rules": [
        rule("b", "block", json!({"prefix": "198.51.100.0/24"})),
        rule("c", "cut", json!({"prefix": "198.51.100.128/25"})),
        rule("d", "block", json!({"prefix": "203.0.0.0/8"})),
        rule("l", "allow", json!({"list": list})),
    ]}]);
    let made = made(rules, &mut blobs);
    assert_eq!(verdict(&made, "198.51.100.1"), Verdict::Allow);
    assert_eq!(verdict(&made, "198.51.100.129"), Verdict::Cut);
    assert_eq!(verdict(&made, "203.0.113.7"), Verdict::Allow);
    assert_eq!(verdict(&made, "203.0.113.8"), Verdict::Block);
    assert_eq!(verdict(&made, "2001:db8:0:1::1"), Verdict::Allow);
}

#[test]
fn addresses_decide_before_as_numbers_and_those_before_countries() {
    let mut blobs = Blobs::default();
    let asn = put(&mut blobs, "asn", "198.51.100.0,198.51.101.255,64496,DE,Example\n203.0.113.0/24,AS64497\n");
    let country = put(&mut blobs, "country", "prefix,country\n198.51.100.0/22,DE\n2001:db8::/32,FR\n");
    let spec = json!({"id": "0", "asn": asn, "country": country, "scopes": [{"rules": [
        {"id": "a", "action": "allow", "target": {"prefix": "198.51.100.7/32"}},
        {"id": "b", "action": "block", "target": {"asn": 64496}},
        {"id": "c", "action": "allow", "target": {"country": "DE"}},
        {"id": "d", "action": "block", "target": {"country": "FR"}},
    ]}]});
    let made = Firewall::new(serde_json::from_value(spec).unwrap(), &mut blobs, None).unwrap();
    let cases = [
        ("198.51.100.7", Matched::WhitelistIp),
        ("198.51.101.7", Matched::BlockAsn),
        ("198.51.102.7", Matched::WhitelistCountry),
        ("2001:db8::1", Matched::BlockCountry),
        ("203.0.113.1", Matched::Allow),
    ];
    for (client, matched) in cases {
        assert_eq!(Matched::from(made.judge(client.parse().unwrap(), 1, 22)), matched, "{client}");
    }
    let told = made.explain("198.51.101.7".parse().unwrap(), 1, 22);
    assert_eq!((told.rule.as_deref(), told.asn, told.country.as_deref()), (Some("b"), Some(64496), Some("DE")));
}

#[test]
fn narrower_scopes_come_first_and_a_rule_on_trial_only_counts() {
    let block = |id: &str| json!([{"id": id, "action": "block", "target": {"prefix": "192.0.2.0/24"}}]);
    let scopes = json!([
        {"application": format!("{:032x}", 1), "ports": {"first": 22, "last": 23}, "rules":
            [{"id": "open", "action": "allow", "target": {"prefix": "0.0.0.0/0"}}]},
        {"dry_run": true, "rules": block("trial")},
        {"application": format!("{:032x}", 1), "rules": block("block")},
    ]);
    let made = made(scopes, &mut Blobs::default());
    let client: IpAddr = "192.0.2.1".parse().unwrap();
    let verdicts = [(1, 22), (1, 24), (2, 22)].map(|(application, port)| made.admit(client, application, port).verdict);
    assert_eq!(verdicts, [Verdict::Allow, Verdict::Block, Verdict::None]);
    let mut hits: Vec<_> = made.hits().map(|(id, count, _)| (id, count)).collect();
    hits.sort_unstable();
    assert_eq!(hits, [("block", 1), ("open", 1), ("trial", 3)]);
    let spec = made.spec.clone();
    let again = Firewall::new(spec, &mut Blobs::default(), Some(&made)).unwrap();
    again.admit(client, 1, 24);
    assert_eq!(made.hits().find(|(id, ..)| *id == "block").unwrap().1, 2, "counts go on");
}

#[test]
fn a_bad_list_says_what_and_where() {
    let many: String =
        (0..=list::MOST_PREFIXES as u32).map(|n| format!("{}\n", Ipv4Addr::from_bits((1 << 24) + n))).collect();
    let cases = [
        ("198.51.100.0/24\n198.51.100.300\n", "line 2: \"198.51.100.300\" is no address"),
        ("198.51.100.1/24", "did you mean 198.51.100.0/24"),
        ("198.51.100.0/24\n198.51.100.7", "line 2: 198.51.100.7/32 is within 198.51.100.0/24 of line 1"),
        ("2001:db8::/32\n2001:db8::/32", "line 2: 2001:db8::/32 is within 2001:db8::/32 of line 1"),
        ("192.168.0.0/16", "not public"),
        ("0.0.0.0/0", "not public"),
        ("::/0", "not public"),
        ("fd00::1", "not public"),
        ("::ffff:198.51.100.1", "IPv4 in IPv6 clothes"),
        ("198.51.100.0/2a", "is no address"),
        ("198.51.100.0/33", "is no address"),
        ("198.51.100.0/0024", "is no address"),
        (many.as_str(), "at most 1000000 prefixes"),
    ];
    for (text, why) in cases {
        let told = list::read(text.as_bytes(), Lenience::default()).map(|(_, facts)| facts).unwrap_err();
        assert!(told.contains(why), "{told:?} has no {why:?}");
    }
    assert!(list::read(b"1.2.3.4\n\xff", Lenience::default()).map(|(_, facts)| facts).unwrap_err().contains("line 2"));
    let (_, facts) = list::read(b"10.0.0.0/8\n10.1.0.0/16", Lenience { overlaps: true, private: true }).unwrap();
    assert_eq!(facts, list::Facts { ipv4: 2, ipv6: 0 });
}

#[test]
fn ranges_of_a_csv_become_prefixes() {
    let text =
        "198.51.100.1,198.51.100.6,64496\n0.0.0.0,255.255.255.255,0\n::,ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff,1";
    let (geo, facts) = geo::read(text.as_bytes(), geo::Kind::Asn).unwrap();
    assert_eq!(facts, geo::Facts { prefixes: 5, keys: 2 });
    let found = ["198.51.100.0", "198.51.100.1", "198.51.100.6", "198.51.100.7", "2001:db8::1"]
        .map(|client| geo.find(client.parse().unwrap()));
    assert_eq!(found, [None, Some(64496), Some(64496), None, Some(1)]);
    let many = "::1,ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe,1\n".repeat(20_000);
    assert!(geo::read(many.as_bytes(), geo::Kind::Asn).map(|(_, facts)| facts).unwrap_err().contains("more than"));
    for wrong in ["\x00\x01", "198.51.100.9,198.51.100.1,1", "198.51.100.0/24,x", "", "a,b\nc,d"] {
        assert!(geo::read(wrong.as_bytes(), geo::Kind::Asn).is_err(), "{wrong:?}");
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
        let text = seen.into_iter().collect::<Vec<_>>().join("\n");
        let begin = Instant::now();
        let (list, facts) = Blobs::read("list", text.as_bytes(), Lenience { overlaps: true, private: true }).unwrap();
        let load = begin.elapsed();
        let bytes = list.list().unwrap().bytes();
        let mut blobs = Blobs::default();
        let digest = blobs.put("list", text.as_bytes(), list, facts).unwrap().digest;
        let rules = json!([{"rules": [{"id": "l", "action": "block", "target": {"list": digest}}]}]);
        let made = made(rules, &mut blobs);
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
        let blocked = clients.iter().filter(|client| made.judge(**client, 1, 22).verdict.is_refusal()).count();
        let each = begin.elapsed() / clients.len() as u32;
        println!(
            "v4 {is_v4}: {} B of text read and compiled in {load:?}, table {bytes} B, look-up {each:?}, {blocked} blocked",
            text.len()
        );
        assert!(load.as_secs() < 3 && bytes < 200 << 20);
    }
}
