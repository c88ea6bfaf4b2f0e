//! What the outside asks of the firewall: lists and databases in, counts and explanations out.

use std::net::IpAddr;

use serde::Serialize;

use super::Edge;
use crate::error::EdgeError;
use crate::firewall::Explanation;
use crate::firewall::blobs::{BlobReport, Blobs};
use crate::firewall::list::Lenience;

/// How often a rule has decided since this edge started, and when last (Unix time).
#[derive(Debug, Serialize)]
pub struct RuleHits {
    pub rule: String,
    pub hits: u64,
    pub last_ms: u64,
}

impl Edge {
    /// Take a list of prefixes (`list`) or a database (`asn`, `country`) in, for snapshots that name it by digest.
    ///
    /// # Errors
    /// `Refused`: what is wrong with it; nothing was changed.
    pub fn put_blob(&self, kind: &str, bytes: &[u8], lenience: Lenience) -> Result<BlobReport, EdgeError> {
        // Read without the lock: a change must not wait for a million lines.
        let (blob, facts) = Blobs::read(kind, bytes, lenience).map_err(EdgeError::Refused)?;
        self.state().running.blobs.put(kind, bytes, blob, facts).map_err(EdgeError::Refused)
    }

    pub fn has_blob(&self, digest: &str) -> bool {
        self.state().running.blobs.has(digest)
    }

    /// Rules that have decided something.
    pub fn rule_hits(&self) -> Vec<RuleHits> {
        let mut state = self.state();
        state.running.guarding.count_hits();
        let all = state.running.firewalls().flat_map(|firewall| firewall.hits().collect::<Vec<_>>());
        all.map(|(rule, hits, last_ms)| RuleHits { rule: rule.to_string(), hits, last_ms }).collect()
    }

    /// What rules, limits and detections say of a client of this application; none: it has no rules, or is not here.
    pub fn explain(&self, application: &str, client: IpAddr, port: u16) -> Option<Explanation> {
        let state = self.state();
        let active = state.running.active(application)?;
        let told = active.firewall.as_ref().map(|firewall| firewall.explain(client, active.id, port));
        let now_ms = self.clock.now_ms();
        let found = self.detect.explain(active.id, client, now_ms).filter(|_| !active.allows(client, port));
        if active.limiter.is_none() && found.is_none() {
            return told;
        }
        let by_limit_ms = active.limiter.as_ref().map_or(0, |limiter| limiter.banned_ms(client, now_ms));
        let (detected, found_ms) = found.unzip();
        let banned_ms = by_limit_ms.max(found_ms.unwrap_or(0));
        let nothing = || Explanation { verdict: "none", ..Explanation::default() };
        let told = told.unwrap_or_else(nothing);
        let asn = told.asn.or_else(|| active.limiter.as_ref()?.asn_of(client));
        Some(Explanation { banned_ms, detected, asn, ..told })
    }
}
