//! What one name taught us so far, and so what to answer and when to look again.
//!
//! Pure: results of a look in, answer and pause out. No clock, no network.

use std::net::IpAddr;
use std::time::Duration;

use super::upstream::Findings;
use super::{Answer, MAX_ADDRESSES, ResolveCause};

const RETRY_KNOWN: Duration = Duration::from_secs(1); // there is an answer to serve meanwhile
const RETRY_UNKNOWN: Duration = Duration::from_millis(250); // clients are failing meanwhile
const RETRY_UNKNOWN_MAX: Duration = Duration::from_secs(30);

/// The newest good addresses per family and how long looks have been failing.
#[derive(Debug, Default)]
pub struct Memory {
    a: Vec<IpAddr>,
    aaaa: Vec<IpAddr>,
    failures_in_a_row: u32,
}

impl Memory {
    pub fn learn(&mut self, name: &str, findings: Findings) -> Answer {
        let Findings { a, aaaa } = findings;
        let asked = || [&a, &aaaa].into_iter().flatten();
        let any_found = asked().any(Result::is_ok);
        let failed = || asked().filter_map(|finding| finding.as_ref().err());
        let failure = failed().find(|missing| missing.cause == ResolveCause::Failure);
        self.failures_in_a_row = match (any_found, failure) {
            (true, None) => 0,
            _ => self.failures_in_a_row.saturating_add(1),
        };
        let problem = failure.or(failed().next()).map(|missing| (missing.cause, missing.detail.clone()));
        for (kept, finding) in [(&mut self.a, a), (&mut self.aaaa, aaaa)] {
            match finding {
                Some(Ok(addresses)) => *kept = addresses,
                // Gone for good only if the name still exists: a name that vanished whole may be a mistake.
                Some(Err(missing)) if any_found && missing.cause == ResolveCause::NotFound => kept.clear(),
                _ => {}
            }
        }
        let addresses = interleave(&self.a, &self.aaaa);
        match problem {
            _ if !addresses.is_empty() => Answer::Addresses(addresses),
            Some((cause, detail)) => Answer::Failed { cause, detail },
            None => Answer::Failed { cause: ResolveCause::NotFound, detail: format!("{name} has no address") },
        }
    }

    pub fn next_look(&self, ttl: Duration) -> Duration {
        let doublings = match self.failures_in_a_row {
            0 => return ttl,
            failures => (failures - 1).min(16),
        };
        let is_known = !self.a.is_empty() || !self.aaaa.is_empty();
        let (first, most) = if is_known { (RETRY_KNOWN, ttl) } else { (RETRY_UNKNOWN, RETRY_UNKNOWN_MAX) };
        (first * (1 << doublings)).min(most)
    }
}

/// A, AAAA, A, AAAA … each once, then what is left of the longer list.
fn interleave(a: &[IpAddr], aaaa: &[IpAddr]) -> Box<[IpAddr]> {
    let mut merged: Vec<IpAddr> = Vec::with_capacity(MAX_ADDRESSES.min(a.len() + aaaa.len()));
    for index in 0..a.len().max(aaaa.len()) {
        for address in [a.get(index), aaaa.get(index)].into_iter().flatten() {
            if merged.len() < MAX_ADDRESSES && !merged.contains(address) {
                merged.push(*address);
            }
        }
    }
    merged.into_boxed_slice()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::upstream::{Finding, Missing};
    use super::ResolveCause::{Failure, NotFound};
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn found(texts: &[&str]) -> Option<Finding> {
        Some(Ok(ips(texts)))
    }

    fn missing(cause: ResolveCause) -> Option<Finding> {
        Some(Err(Missing { cause, detail: format!("{cause:?}") }))
    }

    fn addresses(texts: &[&str]) -> Answer {
        Answer::Addresses(ips(texts).into())
    }

    fn failed(cause: ResolveCause) -> Answer {
        Answer::Failed { cause, detail: format!("{cause:?}") }
    }

    #[test]
    fn families_are_interleaved_without_duplicates_and_bounded() {
        let merged = interleave(&ips(&["192.0.2.1", "192.0.2.2", "192.0.2.1"]), &ips(&["2001:db8::1"]));
        assert_eq!(*merged, *ips(&["192.0.2.1", "2001:db8::1", "192.0.2.2"]));
        let many: Vec<IpAddr> = (0..200u8).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert_eq!(interleave(&many, &ips(&["2001:db8::1"])).len(), MAX_ADDRESSES);
        assert_eq!(interleave(&[], &[]).len(), 0);
    }

    #[test]
    fn the_last_good_answer_outlives_every_failure() {
        let steps: [(Option<Finding>, Option<Finding>, Answer); 8] = [
            (missing(Failure), missing(NotFound), failed(Failure)),
            (missing(NotFound), missing(NotFound), failed(NotFound)),
            (found(&["192.0.2.1"]), missing(NotFound), addresses(&["192.0.2.1"])),
            (missing(NotFound), missing(NotFound), addresses(&["192.0.2.1"])),
            (missing(Failure), missing(Failure), addresses(&["192.0.2.1"])),
            (missing(Failure), found(&["2001:db8::1"]), addresses(&["192.0.2.1", "2001:db8::1"])),
            // The name is alive and has no A any more.
            (missing(NotFound), found(&["2001:db8::2"]), addresses(&["2001:db8::2"])),
            (missing(Failure), missing(NotFound), addresses(&["2001:db8::2"])),
        ];
        let mut memory = Memory::default();
        for (step, (a, aaaa, expected)) in steps.into_iter().enumerate() {
            assert_eq!(memory.learn("o", Findings { a, aaaa }), expected, "step {step}");
        }
    }

    #[test]
    fn retries_back_off_to_the_ttl_or_to_half_a_minute() {
        let ttl = Duration::from_secs(10);
        let mut memory = Memory::default();
        let mut pauses = |finding: fn() -> Option<Finding>, times: usize| -> Vec<u64> {
            (0..times)
                .map(|_| {
                    memory.learn("o", Findings { a: finding(), aaaa: None });
                    memory.next_look(ttl).as_millis() as u64
                })
                .collect()
        };
        assert_eq!(pauses(|| missing(NotFound), 9), [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(pauses(|| found(&["192.0.2.1"]), 2), [10_000, 10_000]);
        assert_eq!(pauses(|| missing(Failure), 6), [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(pauses(|| missing(Failure), 100).last(), Some(&10_000));
        assert_eq!(pauses(|| found(&["192.0.2.1"]), 1), [10_000]);
    }
}
