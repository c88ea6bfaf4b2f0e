//! Which slot of the kernel's table has each rate of each application. Pure.
//!
//! A rate that stays keeps its slot, for what its sources have used up is remembered by that.

use std::collections::{BTreeMap, BTreeSet};

use causeway_bpf::guard::Rate;

/// Slot 0 is none.
const MOST_SLOT: u16 = 1023;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateSlots(BTreeMap<u16, (u16, Rate)>);

impl RateSlots {
    /// The slots for what is wanted, by application's index, and those of each. A slot that others have now is nobody's
    /// yet: packets are being judged by it. Rates beyond the room are left out.
    pub fn after<'a>(&self, wanted: impl Iterator<Item = (u16, &'a [Rate])>) -> (RateSlots, BTreeMap<u16, Vec<u16>>) {
        let mut next = RateSlots::default();
        let mut slots_of: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
        let mut is_kept: BTreeSet<u16> = BTreeSet::new();
        for (index, rates) in wanted {
            let slots = slots_of.entry(index).or_default();
            for rate in rates {
                let is_same = |(slot, has): &(&u16, &(u16, Rate))| **has == (index, *rate) && !is_kept.contains(*slot);
                let slot = match self.0.iter().find(is_same) {
                    Some((slot, _)) => Some(*slot),
                    None => (1..=MOST_SLOT).find(|slot| !self.0.contains_key(slot) && !next.0.contains_key(slot)),
                };
                let Some(slot) = slot else { continue };
                is_kept.insert(slot);
                next.0.insert(slot, (index, *rate));
                slots.push(slot);
            }
        }
        (next, slots_of)
    }

    /// What is here and not the same in `before`.
    pub fn new_since<'a>(&'a self, before: &'a RateSlots) -> impl Iterator<Item = (u16, &'a Rate)> {
        let new = self.0.iter().filter(|(slot, has)| before.0.get(slot) != Some(has));
        new.map(|(slot, (_, rate))| (*slot, rate))
    }

    /// Slots that `next` does not use.
    pub fn gone_in<'a>(&'a self, next: &'a RateSlots) -> impl Iterator<Item = u16> {
        self.0.keys().copied().filter(|slot| !next.0.contains_key(slot))
    }
}

#[cfg(test)]
mod tests {
    use causeway_bpf::guard::RateOf;

    use super::*;

    fn rate(per_second: u64) -> Rate {
        Rate { of: RateOf::Packets, length_v4: 24, length_v6: 56, per_second, burst: 1, spares_returning: false }
    }

    #[test]
    fn a_rate_that_stays_keeps_its_slot_and_a_new_one_gets_one_that_nobody_has() {
        let none = RateSlots::default();
        let (first, of) = none.after([(1, &[rate(1), rate(2)][..]), (2, &[rate(1)][..])].into_iter());
        assert_eq!(of, BTreeMap::from([(1, vec![1, 2]), (2, vec![3])]));
        let (second, of) = first.after([(1, &[rate(9), rate(2)][..]), (2, &[rate(1)][..])].into_iter());
        assert_eq!(of, BTreeMap::from([(1, vec![4, 2]), (2, vec![3])]), "1 is still being asked");
        assert_eq!(second.new_since(&first).collect::<Vec<_>>(), [(4, &rate(9))]);
        assert_eq!(first.gone_in(&second).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn two_rates_that_are_the_same_have_a_slot_each() {
        let (first, of) = RateSlots::default().after([(1, &[rate(1), rate(1)][..])].into_iter());
        assert_eq!(of[&1], [1, 2]);
        assert_eq!(first.after([(1, &[rate(1), rate(1)][..])].into_iter()).1[&1], [1, 2]);
    }

    #[test]
    fn what_there_is_no_room_for_is_left_out() {
        let many = vec![rate(1); 2000];
        assert_eq!(RateSlots::default().after([(1, &many[..])].into_iter()).1[&1].len(), 1023);
    }
}
