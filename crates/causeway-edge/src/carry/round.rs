//! One look at every flow of the kernel's tables: what is there, and which flows must be looked at closely.

use std::collections::{HashMap, HashSet};

use causeway_bpf::flow::{FlowKey, Leg, Side, Table};

use super::judge::{LINGER_MS, Terms};

/// Flows that are looked at closely in one round: a flood of first packets must not keep us busy.
const MOST_CLOSE_LOOKS: usize = 4_096;
/// A reset that only its receiver can judge: from then on it is asked in each round.
const DOUBT_MS: u64 = 2_000;

#[derive(Default)]
pub struct Round {
    pub open: HashMap<u16, u64>,
    pub present: HashSet<u16>,
    pub opening: u64,
    pub close_looks: Vec<FlowKey>,
    /// The rules bar more flows than one round may look at.
    pub was_cut_short: bool,
}

impl Round {
    pub fn visit(&mut self, leg: &Leg, table: Table, terms: &Terms, told: &HashSet<FlowKey>, now_ms: u64) {
        self.present.insert(leg.application);
        let is_late = |ms: u64| now_ms.saturating_sub(leg.seen_ms) >= ms;
        if leg.is_doubtful && is_late(DOUBT_MS) && self.close_looks.len() < MOST_CLOSE_LOOKS {
            self.close_looks.push(leg.client_key());
        }
        if leg.side != Side::Client {
            return;
        }
        let is_up = leg.is_established || !leg.arrives.is_tcp;
        self.opening += u64::from(table == Table::Opening);
        if is_up && !leg.is_closed {
            *self.open.entry(leg.application).or_default() += 1;
        }
        let limits = terms.of(leg.application);
        let is_untold = leg.is_established && !leg.is_told && !told.contains(&leg.arrives);
        let is_due = if leg.is_closed {
            is_late(LINGER_MS)
        } else {
            limits.is_due(leg.arrives.is_tcp, leg.is_established, leg.seen_ms, now_ms)
        };
        let is_barred = !leg.is_closed && terms.bars(leg.application, leg.arrives.from.ip(), leg.arrives.to.port());
        if is_barred && self.close_looks.len() >= MOST_CLOSE_LOOKS {
            self.was_cut_short = true;
        }
        if (is_untold || is_due || is_barred) && self.close_looks.len() < MOST_CLOSE_LOOKS {
            self.close_looks.push(leg.arrives);
        }
    }
}
