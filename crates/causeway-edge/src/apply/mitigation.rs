//! What automatic mitigation and the detectors ask of all parts together: guard and fast path.

use std::collections::BTreeSet;
use std::iter;

use super::Running;
use crate::count::Totals;
use crate::detect::Source;
use crate::guard::Ban;
use crate::guard::wire::{Look, Plan, PlanReport, REST, Signals};
use crate::snapshot::Protocol;
use crate::worker::{Answer, Step, Worker};

impl Running {
    /// Put `plan` in place of the one before.
    pub fn mitigate(&mut self, plan: Plan, workers: &[Worker]) -> PlanReport {
        if plan.is_wanting() && !self.guarding.is_able() {
            return self.guarding.refuse(&plan);
        }
        let before = self.guarding.by_cookies();
        self.know_without_engine();
        self.guarding.take(plan);
        self.tell_sessions(workers);
        // Before SYNs are answered nobody else may carry them, and while they are: who brings a cookie back must find
        // the stack.
        let after = self.guarding.by_cookies();
        self.leave_to_engine(before.union(&after).cloned().collect());
        self.guarding.follow(&self.listeners, self.carry.tables_at());
        self.leave_to_engine(after);
        let mut report = self.guarding.plan_report();
        if let Some(reason) = self.guarding.keep_plan() {
            report.refused.insert("plan".into(), format!("in force, but a restart would not find it: {reason}"));
        }
        report
    }

    fn leave_to_engine(&mut self, applications: BTreeSet<String>) {
        if self.carry.leave_to_engine(applications) && self.carry.is_planned() {
            self.replan();
        }
    }

    pub(super) fn know_without_engine(&mut self) {
        let transparent = self.applications.values().filter(|active| active.spec.transparent);
        self.guarding.know_without_engine(transparent.map(|active| active.spec.id.clone()).collect());
    }

    /// These are all bans in force; whom the rules let in is not banned.
    pub fn hold_bans(&mut self, bans: Vec<Ban>) {
        self.bans = bans;
        if self.lay_bans() {
            self.guarding.follow(&self.listeners, self.carry.tables_at());
        }
    }

    pub(super) fn lay_bans(&mut self) -> bool {
        let of = |ban: &Ban| self.applications.get(&format!("{:032x}", ban.source.application));
        self.guarding.ban(self.bans.iter().filter_map(|ban| Some((of(ban)?.as_ref(), ban))))
    }

    /// How many tries of each banned source the guard has refused since this was asked last; counted as refused.
    pub fn take_banned(&mut self) -> Vec<(Source, u64)> {
        let refused = self.guarding.take_banned();
        for (source, tries) in &refused {
            let active = self.applications.get(&format!("{:032x}", source.application));
            if let Some(counters) = active.and_then(|active| active.counters.last()) {
                counters.mitigation_refused_total.add(*tries);
            }
        }
        refused
    }

    /// Interfaces come and go, programs are loaded, what nothing wants is let go.
    pub fn attend_guard(&mut self, workers: &[Worker]) {
        if self.guarding.settle(false) {
            self.tell_sessions(workers);
            self.guarding.follow(&self.listeners, self.carry.tables_at());
        }
        self.guarding.attend();
        self.tell_sessions(workers);
        self.guarding.sweep_sessions();
    }

    /// Let the workers tell the guard of their two-way sessions, while it wants to know: before anything is held, or they
    /// would be among the strangers that it is held against.
    pub(super) fn tell_sessions(&mut self, workers: &[Worker]) {
        let Some(tellers) = self.guarding.change_tellers(workers.len()) else { return };
        let told = workers.iter().zip(tellers).map(|(worker, teller)| worker.submit(vec![Step::Tell(teller)]));
        let told: Vec<Answer> = told.collect();
        told.into_iter().for_each(|answer| drop(answer.wait()));
    }

    pub fn guard_look(&mut self, max_samples: usize, workers: &[Worker]) -> Look {
        self.attend_guard(workers);
        self.carry.count();
        let begun = self.carry.begun();
        let known = self.order.iter().map(|id| {
            let active = &self.applications[id];
            let of_kernel = begun.get(&active.id).copied().unwrap_or_default();
            let (totals, engine) = (active.totals(), active.engine_totals());
            let is_tcp = active.spec.protocol == Protocol::Tcp;
            let answered = if is_tcp { engine.connections_total } else { engine.sessions_answered_total };
            let signals = Signals {
                opened: engine.connections_total + of_kernel.opened,
                established: answered + of_kernel.two_way,
                refused: refused(&totals),
                failed: totals.connect_errors_total,
                pressed: of_kernel.pressed + engine.sessions_shed_total,
                open: totals.connections_open,
                bytes: totals.bytes_ingress + totals.bytes_egress,
                packets: engine.datagrams_ingress + engine.datagrams_egress + of_kernel.packets,
            };
            (id.clone(), if is_tcp { "tcp" } else { "udp" }, signals)
        });
        let known = known.chain(iter::once((REST.to_string(), "any", Signals::default()))).collect();
        self.guarding.guard_look(known, max_samples)
    }
}

fn refused(totals: &Totals) -> u64 {
    totals.filtered_total + totals.firewall_refused_total + totals.limits_refused_total
}
