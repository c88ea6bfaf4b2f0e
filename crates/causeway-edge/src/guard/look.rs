//! One look at what the guard sees: packets by verdict, flows of engine and kernel, the machine's symptoms, samples.

use std::collections::{BTreeMap, HashMap};

use causeway_bpf::guard::{Count, Sample as Taken, Verdict};

use super::wire::{Guarded, Look, RuleCount, Sample, Signals};
use super::{Guarding, Kernel, Mode, policy};
use crate::sys;

/// More than a ring of the kernel holds: a look ends.
const MOST_TAKEN: usize = 16_384;

/// An application, its protocol, and what is known of its flows.
pub type Known = (String, &'static str, Signals);

impl Guarding {
    pub fn guard_look(&mut self, known: Vec<Known>, max_samples: usize) -> Look {
        Look {
            at_ms: sys::monotonic_ms(),
            is_attached: self.is_attached(),
            missing: self.cannot(),
            applications: known.into_iter().map(|known| self.guarded(known)).collect(),
            system: self.symptoms.look(),
            rules: self.rule_counts(),
            samples: self.take_samples(max_samples),
        }
    }

    /// Why packets could not be judged here; that nothing wants it is no reason.
    fn cannot(&self) -> Option<String> {
        let is_unable = self.mode == Mode::Off || matches!(self.kernel, Kernel::Without(_) | Kernel::Short(_));
        let has_failed = self.is_wanting() && !self.entries.is_empty() && !self.is_attached();
        (is_unable || has_failed).then(|| self.missing())
    }

    fn guarded(&self, (application, protocol, signals): Known) -> Guarded {
        let mut it = Guarded {
            application,
            protocol: protocol.into(),
            packets: BTreeMap::new(),
            bytes: BTreeMap::new(),
            watched: BTreeMap::new(),
            signals,
        };
        let (Kernel::Has(guard), Some(entry)) = (&self.kernel, self.entries.get(&it.application)) else { return it };
        let counts = guard.counts(entry.index).unwrap_or_default();
        for ((verdict, now), (_, before)) in counts.iter().zip(entry.before.iter()) {
            let mut tell = |into: fn(&mut Guarded) -> &mut BTreeMap<String, u64>, of: fn(&Count) -> u64| {
                let count = of(&now).saturating_sub(of(&before));
                if count > 0 {
                    into(&mut it).insert(verdict.code().into(), count);
                }
            };
            tell(|it| &mut it.packets, |count| count.packets);
            tell(|it| &mut it.bytes, |count| count.bytes);
            tell(|it| &mut it.watched, |count| count.watched);
        }
        it
    }

    fn rule_counts(&self) -> Vec<RuleCount> {
        let Kernel::Has(guard) = &self.kernel else { return Vec::new() };
        let counts = self.tags.iter().map(|(id, tag)| {
            let hits = guard.hits(tag.tag).unwrap_or_default();
            let (packets, established) = tag.before;
            RuleCount {
                id: id.into(),
                packets: hits.packets.saturating_sub(packets),
                established: hits.established.saturating_sub(established),
            }
        });
        counts.collect()
    }

    /// All that are there are taken out; of more than `most`, an even share is told.
    fn take_samples(&mut self, most: usize) -> Vec<Sample> {
        let Some(samples) = &mut self.samples else { return Vec::new() };
        let taken: Vec<Taken> = samples.take(MOST_TAKEN).collect();
        let names: HashMap<u16, &str> =
            self.entries.iter().map(|(application, entry)| (entry.index, application.as_str())).collect();
        let told = even_share(taken.len(), most).map(|at| &taken[at]);
        told.filter_map(|sample| Some(self.told(sample, names.get(&sample.listener)?))).collect()
    }

    fn told(&self, sample: &Taken, application: &str) -> Sample {
        let by_tag = || self.tags.rule(sample.tag).map(String::from).or_else(|| policy::own_rule(sample.tag));
        // A prefix entry has tags of its own.
        let is_by_rule = !matches!(sample.verdict, Verdict::Allowed | Verdict::Blocked);
        Sample {
            at_ms: sample.at_ns / 1_000_000,
            application: application.into(),
            verdict: sample.verdict.code().into(),
            length: sample.length,
            frame: hex(&sample.frame),
            is_established: sample.is_two_way,
            is_open: sample.is_open,
            rule: if is_by_rule { by_tag() } else { None },
        }
    }
}

/// Places of at most `most` of `count`, from the first on.
fn even_share(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let told = count.min(most);
    (0..told).map(move |n| n * count / told)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_than_is_wanted_an_even_share_is_told() {
        let share = |count, most| even_share(count, most).collect::<Vec<_>>();
        assert_eq!(share(3, 5), [0, 1, 2]);
        assert_eq!(share(10, 5), [0, 2, 4, 6, 8]);
        assert_eq!(share(7, 3), [0, 2, 4]);
        assert!(share(7, 0).is_empty() && share(0, 7).is_empty());
    }

    #[test]
    fn bytes_are_told_in_hex() {
        assert_eq!(hex(&[0, 15, 0xa0, 255]), "000fa0ff");
    }
}
