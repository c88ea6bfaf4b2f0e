//! What became of packets, over all processors and since the maps were made.

use super::shared::{RawCounts, VERDICTS};

/// The index of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// Nothing speaks against it.
    Passed = 0,
    /// Of a connection or flow that is open.
    Established,
    /// By prefix.
    Allowed,
    RulePassed,
    /// A SYN, answered with a cookie.
    CookieSent,
    /// An ACK that brought a cookie back.
    CookieTaken,
    /// A SYN that went through so that the listener goes on to take cookies.
    Primed,
    /// By prefix. This and all that follow are drops.
    Blocked,
    RuleDropped,
    /// More than its source may send.
    Rate,
    /// A SYN to which no answer could be made.
    CookieFailed,
    /// TCP of no connection, and opening none.
    OutOfState,
    /// Lengths or offsets in it contradict each other, or its source cannot be one.
    Malformed,
    /// TCP flags or ports that nobody sends.
    Illegal,
    Fragment,
    /// To a port for which no socket waits.
    Port,
    /// Of an IP protocol that is not known here.
    Protocol,
    /// A SYN of a source that is banned.
    Banned,
}

impl Verdict {
    pub const ALL: [Verdict; VERDICTS] = [
        Verdict::Passed,
        Verdict::Established,
        Verdict::Allowed,
        Verdict::RulePassed,
        Verdict::CookieSent,
        Verdict::CookieTaken,
        Verdict::Primed,
        Verdict::Blocked,
        Verdict::RuleDropped,
        Verdict::Rate,
        Verdict::CookieFailed,
        Verdict::OutOfState,
        Verdict::Malformed,
        Verdict::Illegal,
        Verdict::Fragment,
        Verdict::Port,
        Verdict::Protocol,
        Verdict::Banned,
    ];

    /// Stable, for reports.
    pub fn code(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Established => "established",
            Verdict::Allowed => "allowed",
            Verdict::RulePassed => "rule_passed",
            Verdict::CookieSent => "cookie_sent",
            Verdict::CookieTaken => "cookie_taken",
            Verdict::Primed => "primed",
            Verdict::Blocked => "blocked",
            Verdict::RuleDropped => "rule_dropped",
            Verdict::Rate => "rate",
            Verdict::CookieFailed => "cookie_failed",
            Verdict::OutOfState => "out_of_state",
            Verdict::Malformed => "malformed",
            Verdict::Illegal => "illegal",
            Verdict::Fragment => "fragment",
            Verdict::Port => "port",
            Verdict::Protocol => "protocol",
            Verdict::Banned => "banned",
        }
    }

    pub fn is_drop(self) -> bool {
        self >= Verdict::Blocked
    }

    pub(super) fn of(number: u8) -> Option<Verdict> {
        Verdict::ALL.get(usize::from(number)).copied()
    }
}

/// Of one listener and verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub packets: u64,
    /// From the IP header on.
    pub bytes: u64,
    /// What would have become of packets while the listener was only watched: all of them passed.
    pub watched: u64,
}

/// Of one listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([Count; VERDICTS]);

impl Counts {
    pub fn get(&self, verdict: Verdict) -> Count {
        self.0[verdict as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (Verdict, Count)> {
        Verdict::ALL.into_iter().map(|verdict| (verdict, self.get(verdict)))
    }

    pub(super) fn sum(of_each: &[RawCounts]) -> Counts {
        let mut counts = Counts::default();
        for (at, count) in counts.0.iter_mut().enumerate() {
            count.packets = of_each.iter().map(|raw| raw.packets[at]).sum();
            count.bytes = of_each.iter().map(|raw| raw.bytes[at]).sum();
            count.watched = of_each.iter().map(|raw| raw.watched[at]).sum();
        }
        counts
    }

    pub(super) fn add(&mut self, verdict: Verdict, bytes: u64, is_watched: bool) {
        let count = &mut self.0[verdict as usize];
        match is_watched {
            true => count.watched += 1,
            false => (count.packets, count.bytes) = (count.packets + 1, count.bytes + bytes),
        }
    }
}

/// Of one tag: an access rule, or a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    pub packets: u64,
    /// Of them: packets of open connections, which no rule drops.
    pub established: u64,
}
