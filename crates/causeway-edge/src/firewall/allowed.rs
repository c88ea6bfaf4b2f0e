//! Whom the rules of an application let in, out of a few addresses: at least all of them, and perhaps some whom a
//! narrower rule blocks. Pure.

use std::ops::RangeInclusive;

use super::Firewall;
use crate::snapshot::{Action, Ports};

impl Firewall {
    /// Stretches of `within`, in no order; they may overlap.
    pub fn allowed(
        &self,
        application: u128,
        ports: Ports,
        is_ipv4: bool,
        within: &RangeInclusive<u128>,
    ) -> Vec<RangeInclusive<u128>> {
        let mut found = Vec::new();
        for (at, _) in self.view(application, ports) {
            let scope = &self.scopes[at];
            let direct = scope.direct.runs(is_ipv4, within.clone());
            found.extend(direct.filter(|(_, _, it)| it.action == Action::Allow).map(|(first, last, _)| first..=last));
            for (list, _, _) in scope.lists.iter().filter(|(_, action, _)| *action == Action::Allow) {
                let runs = list.list().into_iter().flat_map(|list| list.runs(is_ipv4, within.clone()));
                found.extend(runs.map(|(first, last, _)| first..=last));
            }
            for (database, rules) in [(&self.asn, &scope.asn), (&self.country, &scope.country)] {
                if rules.values().all(|rule| rule.action != Action::Allow) {
                    continue;
                }
                let geo = database.as_ref().and_then(|blob| blob.geo());
                let runs = geo.into_iter().flat_map(|geo| geo.runs(is_ipv4, within.clone()));
                let is_allowed = |key: &u32| rules.get(key).is_some_and(|rule| rule.action == Action::Allow);
                found.extend(runs.filter(|(_, _, key)| is_allowed(key)).map(|(first, last, _)| first..=last));
            }
        }
        let inside = |run: RangeInclusive<u128>| *run.start().max(within.start())..=*run.end().min(within.end());
        found.into_iter().map(inside).filter(|run| !run.is_empty()).collect()
    }
}
