use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::count::Counters;
use crate::origin::Policy;
use crate::snapshot::{Application, Origins, Settings};

/// 198.18.1.1, 2001:db8:1::1 and loopback are ours; 198.18.0.0/15 and 2001:db8::/32 are routed.
struct Lab;

impl Machine for Lab {
    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || ["198.18.1.1", "2001:db8:1::1"].contains(&address.to_string().as_str())
    }

    fn addresses(&self, is_ipv4: bool) -> Vec<IpAddr> {
        vec![if is_ipv4 { "198.18.1.1" } else { "2001:db8:1::1" }.parse().unwrap()]
    }

    fn sources(&self, origin: IpAddr) -> Vec<IpAddr> {
        let text = origin.to_string();
        let is_routed = text.starts_with("198.18.") || text.starts_with("198.19.") || text.starts_with("2001:db8:");
        if is_routed { self.addresses(origin.is_ipv4()) } else { Vec::new() }
    }
}

fn plain() -> Value {
    json!({
        "id": "00000000000000000000000000000001", "name": "plain", "protocol": "tcp",
        "edge_addresses": ["198.18.1.1"], "edge_ports": {"first": 9000, "last": 9009},
        "origins": {"kind": "addresses", "addresses": [origin("198.18.2.2")]},
        "proxy_protocol": "off", "udp_header": "first", "proxy_protocol_from": [], "proxy_header_timeout_ms": 3000,
        "connect_timeout_ms": 3000, "idle_timeout_ms": 3600000, "half_close_timeout_ms": 0,
        "no_progress_timeout_ms": 300000, "udp_idle_timeout_ms": 60000, "on_delete": "drain", "drain_ms": 30000,
    })
}

fn origin(address: &str) -> Value {
    json!({"address": address, "ports": {"first": 7000, "last": 7009}})
}

fn origins(addresses: &[&str]) -> Value {
    let addresses: Vec<Value> = addresses.iter().map(|address| origin(address)).collect();
    json!({"kind": "addresses", "addresses": addresses})
}

fn active(changes: &Value) -> Active {
    let mut document = plain();
    document.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let spec: Application = serde_json::from_value(document).unwrap();
    let origins = match &spec.origins {
        Origins::Addresses { addresses } => OriginSet::addresses(addresses.clone()),
        Origins::Dns { .. } => panic!("a name needs a resolver: see the tests in namespaces"),
    };
    let settings = Settings {
        origin_deny: serde_json::from_value(json!(["198.19.0.0/16"])).unwrap(),
        origin_deny_sockets: vec!["198.18.2.9:7005".parse().unwrap()],
        ..Settings::default()
    };
    let policy = Policy::new(settings, vec!["198.18.1.1".parse().unwrap()]);
    Active::new(spec, origins, Arc::new(policy), Arc::new([Counters::default()]))
}

fn choose(active: &Active, edge: IpAddr, machine: &Lab) -> Result<Carriage, Reason> {
    super::choose(active, edge, machine, None)
}

#[test]
fn what_is_not_carried_says_why() {
    let many: Vec<String> = (1..=17).map(|n| format!("198.18.3.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let v6 = origins(&["2001:db8:2::2"]);
    #[rustfmt::skip]
    let cases = [
        (json!({}), "198.18.1.1", ""),
        (json!({"carrier": "kernel"}), "198.18.1.1", ""),
        (json!({"protocol": "udp"}), "198.18.1.1", ""),
        (json!({"origins": v6}), "2001:db8:1::1", ""),
        (json!({"origins": v6, "proxy_protocol": "v1"}), "2001:db8:1::1", "header_text"),
        (json!({"origins": v6, "proxy_protocol": "v1", "carrier": "kernel"}), "2001:db8:1::1", ""),
        (json!({"carrier": "engine"}), "198.18.1.1", "carrier_engine"),
        (json!({}), "127.0.0.1", "edge_loopback"),
        (json!({}), "::1", "edge_loopback"),
        (json!({"proxy_protocol_from": ["10.0.0.0/8"]}), "198.18.1.1", "reads_header"),
        (json!({"origins": v6}), "198.18.1.1", "origin_family"),
        (json!({}), "2001:db8:1::1", "origin_family"),
        (json!({"origins": origins(&["198.18.1.1"])}), "198.18.1.1", "origin_local"),
        (json!({"origins": origins(&["127.0.0.1"])}), "198.18.1.1", "origin_local"),
        (json!({"origins": origins(&["198.19.2.2"])}), "198.18.1.1", "origin_denied"),
        (json!({"origins": origins(&["198.18.2.9"])}), "198.18.1.1", "origin_denied"), // one port of its range
        (json!({"origins": origins(&["203.0.113.1"])}), "198.18.1.1", "origin_unreachable"),
        (json!({"origins": origins(&["198.18.2.2", "198.18.2.3"])}), "198.18.1.1", "several_origins"),
        (json!({"origins": origins(&["198.18.2.2", "198.18.2.3"]), "protocol": "udp"}), "198.18.1.1", ""),
        (json!({"origins": origins(&["198.18.2.2", "198.18.2.3"]), "carrier": "kernel"}), "198.18.1.1", ""),
        (json!({"origins": origins(&["198.18.2.2", "2001:db8::3"]), "carrier": "kernel"}), "198.18.1.1", "origin_family"),
        (json!({"origins": origins(&many), "carrier": "kernel"}), "198.18.1.1", "many_origins"),
    ];
    for (changes, edge, code) in cases {
        let chosen = choose(&active(&changes), edge.parse().unwrap(), &Lab);
        let found = chosen.as_ref().err().map_or("", |reason| reason.code);
        assert_eq!(found, code, "{changes} on {edge}: {chosen:?}");
    }
}

#[test]
fn a_transparent_application_has_no_source_but_the_client_and_is_not_carried_for_the_same_reasons() {
    let several = origins(&["198.18.2.2", "198.18.2.3"]);
    for (changes, edge, code) in [
        (json!({}), "198.18.1.1", ""),
        (json!({"protocol": "udp"}), "0.0.0.0", ""),
        (json!({"origins": several, "carrier": "kernel"}), "198.18.1.1", ""),
        (json!({"origins": several}), "198.18.1.1", "several_origins"),
        (json!({}), "127.0.0.1", "edge_loopback"),
        (json!({}), "2001:db8:1::1", "origin_family"),
        (json!({"origins": origins(&["198.18.1.1"])}), "198.18.1.1", "origin_local"),
        (json!({"origins": origins(&["203.0.113.1"])}), "198.18.1.1", "origin_unreachable"),
    ] {
        let mut changes = changes;
        changes["transparent"] = true.into();
        match choose(&active(&changes), edge.parse().unwrap(), &Lab) {
            Ok(carriage) => {
                assert_eq!(code, "", "{changes} on {edge}");
                assert!(carriage.told.is_transparent);
                assert!(carriage.told.origins.iter().all(|origin| origin.sources.is_empty()));
            }
            Err(reason) => {
                assert_eq!(reason.code, code, "{changes} on {edge}");
                let told = why_refused(reason.clone());
                assert!(told.message.contains("transparent") && told.message.ends_with(&reason.message));
            }
        }
    }
}

#[test]
fn headers_towards_the_origin_are_written_by_the_kernel_too() {
    for (proxy, protocol, udp_header, kind) in [
        ("off", "tcp", "first", HeaderKind::None),
        ("v1", "tcp", "first", HeaderKind::ProxyV1),
        ("v2", "tcp", "every", HeaderKind::ProxyV2),
        ("v2", "udp", "first", HeaderKind::ProxyV2),
        ("v2", "udp", "every", HeaderKind::ProxyV2Every),
        ("simple", "udp", "first", HeaderKind::Simple),
    ] {
        let changes = json!({"proxy_protocol": proxy, "protocol": protocol, "udp_header": udp_header});
        let chosen = choose(&active(&changes), "198.18.1.1".parse().unwrap(), &Lab);
        assert_eq!(chosen.map(|carriage| carriage.told.header), Ok(kind), "{changes}");
    }
}

#[test]
fn a_wildcard_stands_for_our_own_addresses_and_nothing_else() {
    let carriage = choose(&active(&json!({})), "0.0.0.0".parse().unwrap(), &Lab).unwrap();
    assert_eq!(carriage.at, ["198.18.1.1".parse::<IpAddr>().unwrap()]);
    let [told] = &carriage.told.origins[..] else { panic!("{carriage:?}") };
    assert_eq!((told.first_port, carriage.told.edge_first_port), (7000, 9000));
    assert_eq!(told.sources, ["198.18.1.1".parse::<IpAddr>().unwrap()]);
}

#[test]
fn clients_go_to_the_first_origin_that_is_not_shunned() {
    for (is_shunned, first) in [
        (vec![false], 0),
        (vec![false, false], 0),
        (vec![true, false], 1),
        (vec![true, true], 0),
        (vec![true, true, false], 2),
    ] {
        assert_eq!(choices(&is_shunned), [first; CHOICES], "{is_shunned:?}");
    }
}

#[test]
fn what_the_kernel_does_not_keep_is_the_engines() {
    let (plain, edge) = (active(&json!({})), "198.18.1.1".parse().unwrap());
    let refusal = why("ip_firewall", "rules of some of its ports alone".into());
    assert_eq!(super::choose(&plain, edge, &Lab, Some(&Err(refusal.clone()))), Err(refusal));
    assert!(super::choose(&plain, edge, &Lab, Some(&Ok(()))).is_ok());
}
