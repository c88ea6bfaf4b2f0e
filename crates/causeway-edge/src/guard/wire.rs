//! What the guard tells, and what it is to hold: the mirror of `python/causeway/model/mitigation.py`.
//!
//! [`Look`] goes up, [`Plan`] comes down. Counts only grow, times are ms of the kernel's monotonic clock. A number that makes
//! no sense is the fault of one rule: it is taken here as it is, and refused where rules are made of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Of one plan; a larger one is not read.
pub const MOST_PLAN_BYTES: usize = 4 * 1024 * 1024;
/// The application that stands for what comes to guarded addresses and belongs to no application.
pub const REST: &str = "*";

/// Both ends included.
pub type Range = (u32, u32);

/// What engine and fast path know of an application's flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signals {
    pub opened: u64,
    pub established: u64,
    pub refused: u64,
    pub failed: u64,
    pub pressed: u64,
    pub open: u64,
    pub bytes: u64,
    pub packets: u64,
}

/// Packets to one application that were judged, by verdict. `watched`: what would have become of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guarded {
    pub application: String,
    /// `tcp`, `udp`, or `any` of what belongs to no application.
    pub protocol: String,
    pub packets: BTreeMap<String, u64>,
    pub bytes: BTreeMap<String, u64>,
    pub watched: BTreeMap<String, u64>,
    pub signals: Signals,
}

/// The machine's own symptoms, since it booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct System {
    pub cookies_sent: u64,
    pub cookies_taken: u64,
    pub cookies_failed: u64,
    pub listen_drops: u64,
    pub queue_drops: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    pub missed_packets: u64,
    pub cpu_busy: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub at_ms: u64,
    pub application: String,
    pub verdict: String,
    pub length: u32,
    /// Hex.
    pub frame: String,
    pub is_established: bool,
    /// Of a flow that somebody has asked for: the source may be forged.
    pub is_open: bool,
    /// That decided.
    pub rule: Option<String>,
}

/// Packets that a rule fitted; `established`: of open flows, which no rule drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCount {
    pub id: String,
    pub packets: u64,
    pub established: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Look {
    pub at_ms: u64,
    pub is_attached: bool,
    pub missing: Option<String>,
    pub applications: Vec<Guarded>,
    pub system: System,
    pub rules: Vec<RuleCount>,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    pub at: u32,
    pub bytes: String,
    pub mask: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// All that is said has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub is_ipv6: Option<bool>,
    #[serde(skip_serializing_if = "is_default")]
    pub source: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub destination: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub source_ports: Option<Range>,
    #[serde(skip_serializing_if = "is_default")]
    pub destination_ports: Option<Range>,
    #[serde(skip_serializing_if = "is_default")]
    pub length: Option<Range>,
    #[serde(skip_serializing_if = "is_default")]
    pub hops: Option<Range>,
    /// Mask, value.
    #[serde(skip_serializing_if = "is_default")]
    pub flags: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "is_default")]
    pub window: Option<Range>,
    #[serde(skip_serializing_if = "is_default")]
    pub mss: Option<Range>,
    #[serde(skip_serializing_if = "is_default")]
    pub fingerprint: Option<u32>,
    #[serde(skip_serializing_if = "is_default")]
    pub has_zero_id: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub is_fragment: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub payload: Option<Payload>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Drop,
    Pass,
    Watch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub id: String,
    pub application: String,
    pub action: Action,
    #[serde(rename = "match")]
    pub fits: Match,
    #[serde(default, skip_serializing_if = "is_default")]
    pub expires_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateOf {
    Syns,
    Packets,
    Bytes,
}

/// What each source, a prefix, may send to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub of: RateOf,
    pub ipv4: u8,
    pub ipv6: u8,
    pub per_s: u64,
    pub burst: u64,
    /// Of all together: who comes back within seconds has as much again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spares_returning: bool,
}

/// How an application is guarded beyond its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    pub application: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub cookies: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub no_fragments: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub rates: Vec<Rate>,
}

/// All that automatic mitigation asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    #[serde(skip_serializing_if = "is_default")]
    pub is_watching: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub sample_every: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub holds: Vec<Hold>,
    #[serde(skip_serializing_if = "is_default")]
    pub rules: Vec<Rule>,
}

impl Plan {
    /// Does it want packets to be judged?
    pub fn is_wanting(&self) -> bool {
        self.is_watching || !self.holds.is_empty() || !self.rules.is_empty()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReport {
    pub is_attached: bool,
    /// By rule, or application of a hold: why.
    pub refused: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;

    fn vector(file: &str) -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/mitigation").join(file);
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn is_written_as_read<T: Serialize + DeserializeOwned>(file: &str) {
        let value = vector(file);
        let read: T = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), value, "{file}");
    }

    #[test]
    fn what_python_writes_is_read_and_written_the_same() {
        is_written_as_read::<Plan>("plan.json");
        is_written_as_read::<Look>("look.json");
        is_written_as_read::<PlanReport>("plan_report.json");
    }

    #[test]
    fn what_is_not_known_is_not_taken() {
        for path in ["", "/holds/0", "/holds/0/rates/0", "/rules/0", "/rules/0/match", "/rules/0/match/payload"] {
            let mut value = vector("plan.json");
            let part = value.pointer_mut(path).unwrap().as_object_mut().unwrap();
            part.insert("nonsense".into(), Value::from(1));
            let reason = serde_json::from_value::<Plan>(value).unwrap_err().to_string();
            assert!(reason.contains("nonsense"), "{path}: {reason}");
        }
    }

    #[test]
    fn an_empty_plan_wants_nothing_and_a_watching_one_does() {
        let wanting = |text: &str| serde_json::from_str::<Plan>(text).unwrap().is_wanting();
        assert!(!wanting("{}") && !wanting(r#"{"sample_every":9}"#));
        assert!(wanting(r#"{"is_watching":true}"#) && wanting(r#"{"holds":[{"application":"a"}]}"#));
    }
}
