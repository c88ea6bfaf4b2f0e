//! What the kernel would hold, against what the engine would say: for random rules, at every address of a small space.
#![allow(clippy::unwrap_used)]

use causeway_bpf::guard::{Entry, PrefixSet};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::firewall::blobs::Blobs;
use crate::firewall::list::Lenience;

const APPLICATION: u128 = 7;

fn spec(trusted: &[&str], limits: &Value) -> snapshot::Application {
    serde_json::from_value(json!({
        "id": format!("{APPLICATION:032x}"), "name": "", "protocol": "tcp", "edge_addresses": ["198.18.0.1"],
        "edge_ports": {"first": 22, "last": 23},
        "origins": {"kind": "addresses", "addresses": [{"address": "192.0.2.1", "ports": {"first": 22, "last": 23}}]},
        "proxy_protocol": "off", "udp_header": "first", "proxy_protocol_from": trusted,
        "proxy_header_timeout_ms": 1, "connect_timeout_ms": 1, "idle_timeout_ms": 1, "half_close_timeout_ms": 1,
        "no_progress_timeout_ms": 1, "udp_idle_timeout_ms": 1, "on_delete": "drain", "drain_ms": 1, "limits": limits,
    }))
    .unwrap()
}

fn put(blobs: &mut Blobs, kind: &str, text: &str) -> String {
    let lenience = Lenience { overlaps: true, private: true };
    let (blob, facts) = Blobs::read(kind, text.as_bytes(), lenience).unwrap();
    blobs.put(kind, text.as_bytes(), blob, facts).unwrap().digest
}

/// As the program in the kernel judges: of both sets the longer prefix, of equals the one that allows.
fn access(compiled: &Compiled, client: IpAddr) -> Option<Access> {
    let entry = |access| if access == Access::Block { Entry::block() } else { Entry::allow() };
    let direct: PrefixSet = compiled.direct.iter().map(|laid| (laid.prefix, entry(laid.access))).collect();
    assert_eq!(direct.len(), compiled.direct.len(), "no prefix twice: {:?}", compiled.direct);
    let long: PrefixSet = compiled.long.iter().flat_map(list).map(|prefix| (prefix, Entry::block())).collect();
    let found = direct.find(client, 0).into_iter().chain(long.find(client, 0));
    found.max_by_key(|(length, entry)| (*length, entry.access == Access::Allow)).map(|(_, entry)| entry.access)
}

fn clients() -> impl Iterator<Item = IpAddr> {
    let v4 = (0..36).map(|n| Ipv4Addr::from_bits(0xc612_0000 + n - 2).into());
    v4.chain((0..36).map(|n| Ipv6Addr::from_bits((0x2001_0db8 << 96) + n - 2).into()))
}

fn prefix() -> impl Strategy<Value = String> {
    (any::<bool>(), 0u32..32, 0u32..=5).prop_map(|(is_ipv4, at, free)| {
        let first = at >> free << free;
        match is_ipv4 {
            true => format!("{}/{}", Ipv4Addr::from_bits(0xc612_0000 + first), 32 - free),
            false => format!("{}/{}", Ipv6Addr::from_bits((0x2001_0db8 << 96) + u128::from(first)), 128 - free),
        }
    })
}

fn prefixes_in(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(prefix(), count)
}

fn action() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["block", "block", "cut", "allow"])
}

#[derive(Clone, Debug)]
enum Named {
    Prefix(String),
    List(Vec<String>),
    Asn(u32),
    Country(&'static str),
}

fn target() -> impl Strategy<Value = Named> {
    prop_oneof![
        6 => prefix().prop_map(Named::Prefix),
        3 => prefixes_in(1..14).prop_map(Named::List),
        1 => (64_500u32..64_503).prop_map(Named::Asn),
        1 => prop::sample::select(vec!["DE", "FR"]).prop_map(Named::Country),
    ]
}

/// Of which application and ports, on trial or not, and rules.
type Scoped = (Option<u128>, Option<(u16, u16)>, bool, Vec<(&'static str, Named)>);

fn scope() -> impl Strategy<Value = Scoped> {
    let application = prop::sample::select(vec![None, None, Some(APPLICATION), Some(APPLICATION), Some(8)]);
    let ports = prop::sample::select(vec![None, None, None, Some((22, 22)), Some((1, 99)), Some((80, 80))]);
    (application, ports, prop::bool::weighted(0.1), proptest::collection::vec((action(), target()), 0..5))
}

fn built(scopes: &[Scoped], numbers: &[(String, u32)], countries: &[(String, &str)]) -> Firewall {
    let mut blobs = Blobs::default();
    let mut next = 0;
    let scopes: Vec<Value> = scopes
        .iter()
        .map(|(application, ports, dry_run, rules)| {
            let rules = rules.iter().map(|(action, named)| {
                next += 1;
                let target = match named {
                    Named::Prefix(prefix) => json!({"prefix": prefix}),
                    Named::List(prefixes) => json!({"list": put(&mut blobs, "list", &prefixes.join("\n"))}),
                    Named::Asn(number) => json!({"asn": number}),
                    Named::Country(code) => json!({"country": code}),
                };
                json!({"id": format!("r{next}"), "action": action, "target": target})
            });
            let ports = ports.map(|(first, last)| json!({"first": first, "last": last}));
            let application = application.map(|id| format!("{id:032x}"));
            let rules = rules.collect::<Vec<_>>();
            json!({"application": application, "ports": ports, "dry_run": dry_run, "rules": rules})
        })
        .collect();
    let rows = |pairs: Vec<String>| (!pairs.is_empty()).then(|| pairs.join("\n"));
    let asn = rows(numbers.iter().map(|(prefix, number)| format!("{prefix},{number}")).collect());
    let country = rows(countries.iter().map(|(prefix, code)| format!("{prefix},{code}")).collect());
    let asn = asn.map(|text| put(&mut blobs, "asn", &text));
    let country = country.map(|text| put(&mut blobs, "country", &text));
    let spec = json!({"id": "0".repeat(32), "scopes": scopes, "asn": asn, "country": country});
    Firewall::new(serde_json::from_value(spec).unwrap(), &mut blobs, None).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn what_the_kernel_blocks_the_engine_refuses_and_if_nothing_is_missing_the_other_way_round(
        scopes in proptest::collection::vec(scope(), 0..4),
        numbers in proptest::collection::vec((prefix(), 64_500u32..64_503), 0..4),
        countries in proptest::collection::vec((prefix(), prop::sample::select(vec!["DE", "FR"])), 0..4),
    ) {
        let firewall = built(&scopes, &numbers, &countries);
        let compiled = rules(&firewall, APPLICATION, &spec(&[], &json!([])));
        for client in clients() {
            let is_blocked = access(&compiled, client) == Some(Access::Block);
            for port in [22, 23] {
                let is_refused = firewall.judge(client, APPLICATION, port).verdict.is_refusal();
                prop_assert!(!is_blocked || is_refused, "{client} {port}: {compiled:?}");
                prop_assert!(compiled.missing.is_some() || is_blocked == is_refused, "{client} {port}: {compiled:?}");
            }
        }
    }
}

type Rules<'a> = &'a [(&'static str, Named)];

fn scopes(of: &[(Option<u128>, Rules)]) -> Vec<Scoped> {
    of.iter().map(|(application, rules)| (*application, None, false, rules.to_vec())).collect()
}

/// Neighbours would be one stretch, and a list of few is not long.
fn every_other_address() -> Named {
    Named::List((0..20).map(|n| format!("198.18.0.{}", 2 * n)).collect())
}

#[test]
fn a_narrower_scope_lets_in_what_a_wider_one_blocks_with_no_entry_that_allows() {
    let block = ("block", Named::Prefix("198.18.0.0/24".into()));
    let allow = ("allow", Named::Prefix("198.18.0.8/32".into()));
    let firewall = built(&scopes(&[(Some(APPLICATION), &[allow]), (None, &[block])]), &[], &[]);
    let compiled = rules(&firewall, APPLICATION, &spec(&[], &json!([])));
    assert!(compiled.missing.is_none());
    assert_eq!(compiled.direct.len(), 8, "a /24 without one address");
    assert!(compiled.direct.iter().all(|laid| laid.access == Access::Block && laid.rule == Some((1, 0))));
}

#[test]
fn a_long_list_stays_a_set_of_its_own_and_exceptions_from_it_are_entries() {
    let list = ("block", every_other_address());
    let rules_of_it = [list, ("allow", Named::Prefix("198.18.0.8/30".into()))];
    let narrower =
        [("allow", Named::Prefix("198.18.0.16/30".into())), ("block", Named::Prefix("198.18.0.17/32".into()))];
    let firewall = built(&scopes(&[(Some(APPLICATION), &narrower), (None, &rules_of_it)]), &[], &[]);
    let compiled = rules(&firewall, APPLICATION, &spec(&[], &json!([])));
    assert!(compiled.missing.is_none());
    assert_eq!(compiled.long.iter().flat_map(super::list).count(), 20);
    let laid: Vec<_> = compiled.direct.iter().map(|laid| (text(laid.prefix), laid.access)).collect();
    let expected = [("16", Access::Allow), ("17", Access::Block), ("18", Access::Allow)];
    let expected = expected.map(|(last, access)| (format!("198.18.0.{last}/32"), access));
    assert_eq!(laid, expected, "in its own scope the list has the longer prefixes");
}

#[test]
fn who_shows_a_header_is_not_judged_by_the_address_of_the_load_balancer() {
    let block = ("block", Named::Prefix("198.18.0.0/24".into()));
    let firewall = built(&scopes(&[(None, &[block])]), &[], &[]);
    let compiled = rules(&firewall, APPLICATION, &spec(&["198.18.0.8/31"], &json!([])));
    let of = |last: u8| access(&compiled, Ipv4Addr::new(198, 18, 0, last).into());
    assert_eq!([7, 8, 9, 10].map(of), [Some(Access::Block), None, None, Some(Access::Block)]);
}

fn text(prefix: Prefix) -> String {
    format!("{}/{}", prefix.address(), prefix.length())
}

#[test]
fn all_addresses_are_one_prefix_of_each_family() {
    let of = ["0.0.0.0/0", "::/0"].map(|all| ("block", Named::Prefix(all.into())));
    let compiled = rules(&built(&scopes(&[(None, &of)]), &[], &[]), APPLICATION, &spec(&[], &json!([])));
    let laid: Vec<String> = compiled.direct.iter().map(|laid| text(laid.prefix)).collect();
    assert_eq!(laid, ["0.0.0.0/0", "::/0"]);
}

#[test]
fn new_connections_are_counted_by_the_kernel_and_all_else_by_the_engine() {
    let limit = |of: &str, more: Value| {
        let mut limit =
            json!({"of": of, "ipv4": 24, "ipv6": 56, "open": 0, "new_per_s": 0, "datagrams_per_s": 0, "ban_ms": 0});
        limit.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        limit
    };
    let told = |limits: Value, has_exceptions| super::limits(&spec(&[], &limits), has_exceptions);
    let rate = |length_v4, length_v6| {
        let (of, spares_returning) = (RateOf::Syns, false);
        Rate { of, length_v4, length_v6, per_second: 9, burst: 9, spares_returning }
    };
    let (source, all) = (limit("source", json!({"new_per_s": 9})), limit("application", json!({"new_per_s": 9})));
    assert_eq!(told(json!([source]), false), Ok(vec![rate(24, 56)]));
    assert_eq!(told(json!([all]), false), Ok(vec![rate(0, 0)]));
    assert_eq!(told(json!([]), true), Ok(vec![]));
    for (limits, has_exceptions, why) in [
        (json!([source]), true, "excepted"),
        (json!([source, all]), false, "2 limits"),
        (json!([limit("source", json!({"open": 1}))]), false, "open"),
        (json!([limit("source", json!({"new_per_s": 1, "ban_ms": 1}))]), false, "ban"),
        (json!([limit("source", json!({"datagrams_per_s": 1}))]), false, "datagrams"),
        (json!([limit("source", json!({"bytes_per_s": 1}))]), false, "bytes"),
    ] {
        let refusal = told(limits, has_exceptions).unwrap_err();
        assert!(refusal.contains(why), "{refusal}");
    }
}
