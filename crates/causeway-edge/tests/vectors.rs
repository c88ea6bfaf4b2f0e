//! The snapshots of `vectors/`, which Python writes and this engine reads: the same cases hold on both sides.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use causeway_edge::snapshot::Snapshot;
use serde_json::Value;

const LIMIT_BYTES: usize = 1 << 20;

fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/snapshots").join(file);
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    cases
}

fn bytes(case: &Value) -> Vec<u8> {
    match case.get("text") {
        Some(text) => text.as_str().unwrap().into(),
        None => serde_json::to_vec(&case["snapshot"]).unwrap(), // compact, keys sorted: the canonical form
    }
}

#[test]
fn what_control_writes_is_read_and_nothing_is_lost() {
    for case in cases("accept.json") {
        let snapshot = Snapshot::parse(&bytes(&case), LIMIT_BYTES).unwrap_or_else(|e| panic!("{}: {e}", case["case"]));
        assert_eq!(serde_json::to_value(&snapshot).unwrap(), case["snapshot"], "{}", case["case"]);
        let again = serde_json::to_vec(&snapshot).unwrap();
        assert_eq!(Snapshot::parse(&again, LIMIT_BYTES).unwrap(), snapshot, "{}", case["case"]);
    }
}

#[test]
fn every_prefix_of_a_snapshot_is_refused_whole_and_nothing_may_follow_one() {
    for case in cases("accept.json") {
        let whole = bytes(&case);
        for cut in 0..whole.len() {
            let refused = Snapshot::parse(&whole[..cut], LIMIT_BYTES).unwrap_err();
            assert_eq!(refused.code(), "snapshot_malformed", "{} cut at {cut}", case["case"]);
        }
        for trailer in ["{}", "x", "\0", ","] {
            let refused = Snapshot::parse(&[&whole, trailer.as_bytes()].concat(), LIMIT_BYTES).unwrap_err();
            assert_eq!(refused.code(), "snapshot_malformed", "{} and {trailer:?}", case["case"]);
        }
        assert_eq!(Snapshot::parse(&whole, whole.len() - 1).unwrap_err().code(), "snapshot_too_large");
    }
}

/// Younger than snapshots that engines have kept on disk, which must start.
const LATER_FIELDS: [&str; 15] = [
    "source_addresses",
    "carrier",
    "transparent",
    "balance",
    "weights",
    "mitigation",
    "minecraft",
    "logins",
    "limits",
    "bytes_per_s",
    "overlay",
    "paths",
    "exit",
    "steered",
    "drained",
];

#[test]
fn every_field_is_needed() {
    for case in cases("accept.json") {
        for path in fields(&case["snapshot"], "") {
            let mut without = case["snapshot"].clone();
            let (parent, name) = path.rsplit_once('/').unwrap();
            if LATER_FIELDS.contains(&name) {
                continue;
            }
            without.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
            let refused = Snapshot::parse(&serde_json::to_vec(&without).unwrap(), LIMIT_BYTES).unwrap_err();
            assert_eq!(refused.code(), "snapshot_malformed", "{} without {path}", case["case"]);
            assert!(refused.to_string().contains(name), "{refused}: does not name {path}");
        }
    }
}

#[test]
fn the_rest_is_refused_with_its_code() {
    for case in cases("refuse.json") {
        let parsed = Snapshot::parse(&bytes(&case), LIMIT_BYTES);
        if case["code"] == "snapshot_stale" {
            assert!(parsed.is_ok(), "{}: only a running edge can tell", case["case"]);
            continue;
        }
        let refused = parsed.unwrap_err();
        assert_eq!(refused.code(), case["code"], "{}: {refused}", case["case"]);
        let says = case["says"].as_str().unwrap_or_default();
        assert!(refused.to_string().contains(says), "{}: {refused}", case["case"]);
    }
}

/// The pointer of every field, however deep.
fn fields(value: &Value, at: &str) -> Vec<String> {
    let inside: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(name, inner)| (name.clone(), inner)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(n, inner)| (n.to_string(), inner)).collect(),
        _ => vec![],
    };
    let mut found = vec![];
    for (name, inner) in inside {
        let pointer = format!("{at}/{name}");
        found.extend(fields(inner, &pointer));
        if value.is_object() {
            found.push(pointer);
        }
    }
    found
}
