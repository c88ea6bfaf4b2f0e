//! Which origin a client gets by hash: a table as in Maglev (Eisenbud et al., NSDI 2016, section 3.4), with weights.
//!
//! Pure, and the only place that knows: the engine asks the table, the kernel is given it. An origin that goes for good
//! gives its slots to the others, and few of theirs change hands; one that is shunned for a while gives each to the
//! owner of the next slot, and none of theirs does.

use std::net::{IpAddr, SocketAddr};

use causeway_bpf::mix;

/// A prime, far more than 100 for each of the 64 origins that there may be: with half as many slots, one of 64 origins
/// that goes moves more than 1.5 times its share. Always the same: another size is another order.
pub const SLOTS: usize = 65521;

/// Nobody's: every origin is left out, or weighs nothing.
const NOBODY: u8 = u8::MAX;

/// For each slot the index of its origin. `weights` are parallel to `origins`; of origins that are left out, 0. If all
/// of them are, the first has everything.
pub fn table(origins: &[SocketAddr], weights: &[u32]) -> Vec<u8> {
    let heaviest = u64::from(weights.iter().copied().max().unwrap_or(0));
    if heaviest == 0 {
        return vec![0; SLOTS];
    }
    let mut slots = vec![NOBODY; SLOTS];
    let mut takers: Vec<Taker> = origins.iter().map(|origin| Taker::new(*origin)).collect();
    let mut left = SLOTS;
    loop {
        for ((index, taker), weight) in takers.iter_mut().enumerate().zip(weights) {
            // The heaviest takes one in each round, the others as often as their weight says.
            taker.credit += u64::from(*weight);
            if taker.credit < heaviest {
                continue;
            }
            taker.credit -= heaviest;
            let slot = taker.next_free(&slots);
            slots[slot] = index as u8; // at most 64 origins
            left -= 1;
            if left == 0 {
                return slots;
            }
        }
    }
}

/// Who has a client's slot; if that one is left out, the next owner who is not.
pub fn owner(slots: &[u8], slot: usize, mut is_out: impl FnMut(usize) -> bool) -> Option<usize> {
    let mut last = None;
    let from_there_on = slots[slot..].iter().chain(&slots[..slot]).map(|owner| usize::from(*owner));
    for owner in from_there_on {
        if last == Some(owner) {
            continue; // was asked just now
        }
        if !is_out(owner) {
            return Some(owner);
        }
        last = Some(owner);
    }
    None
}

/// The table without those that are shunned, as `owner` reads it; the same if all are.
pub fn without(slots: &[u8], is_shunned: &[bool]) -> Vec<u8> {
    let is_out = |index: usize| is_shunned.get(index).copied().unwrap_or(false);
    let mut table = slots.to_vec();
    let Some(first) = owner(slots, 0, is_out) else { return table }; // all are, or nobody has any
    let mut next = first as u8;
    for slot in table.iter_mut().rev() {
        if is_out(usize::from(*slot)) {
            *slot = next;
        } else {
            next = *slot;
        }
    }
    table
}

/// The slot of a client: what `bpf/flow_open.h` computes, to the bit.
pub fn slot_of(client: IpAddr) -> usize {
    let hash = match client.to_canonical() {
        IpAddr::V4(v4) => mix(0, u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => v6
            .octets()
            .chunks_exact(4)
            .fold(0, |hash, word| mix(hash, u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))),
    };
    mix(hash, 0) as usize % SLOTS
}

/// An origin's own order of all slots.
struct Taker {
    at: usize,
    skip: usize,
    credit: u64,
}

impl Taker {
    fn new(origin: SocketAddr) -> Taker {
        let hash = |seed: u64| {
            let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed; // FNV-1a, and a finish that spreads its last bytes
            let address = match origin.ip().to_canonical() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            for byte in address.into_iter().chain(origin.port().to_be_bytes()) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
            ((hash ^ hash >> 33) % (1 << 32)) as usize
        };
        Taker { at: hash(1) % SLOTS, skip: hash(2) % (SLOTS - 1) + 1, credit: 0 }
    }

    /// There is one: the caller stops when none is left.
    fn next_free(&mut self, slots: &[u8]) -> usize {
        loop {
            let slot = self.at;
            self.at = (self.at + self.skip) % SLOTS;
            if slots[slot] == NOBODY {
                return slot;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn origins(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|n| SocketAddr::from(([198, 18, 2, n], 7000))).collect()
    }

    fn shares(table: &[u8], count: usize) -> Vec<usize> {
        (0..count).map(|index| table.iter().filter(|owner| usize::from(**owner) == index).count()).collect()
    }

    #[test]
    fn the_size_is_a_prime_of_more_than_a_hundred_slots_for_each_origin() {
        assert!((2..SLOTS).take_while(|n| n * n <= SLOTS).all(|n| !SLOTS.is_multiple_of(n)));
        const { assert!(SLOTS > 100 * crate::origin::MOST_ORIGINS) };
    }

    #[test]
    fn origins_of_the_same_weight_have_the_same_share_to_a_slot() {
        for count in 1..=64 {
            let shares = shares(&table(&origins(count), &vec![1; count.into()]), count.into());
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{count}: {shares:?}");
        }
    }

    #[test]
    fn shares_are_as_the_weights() {
        let weights = [1, 2, 0, 7];
        let shares = shares(&table(&origins(4), &weights), 4);
        for (share, weight) in shares.iter().zip(weights) {
            let fair = SLOTS * weight as usize / 10;
            assert!(share.abs_diff(fair) <= 8, "{shares:?}");
        }
        assert_eq!(shares[2], 0);
        assert_eq!(table(&origins(2), &[0, 0]), vec![0; SLOTS], "somebody has to");
    }

    #[test]
    fn an_origin_that_is_left_out_moves_at_most_one_and_a_half_times_its_share() {
        for count in [2, 3, 4, 5, 8, 10, 16, 32, 64] {
            let all = origins(count);
            let before = table(&all, &vec![1; count.into()]);
            for gone in [0, usize::from(count) / 2, usize::from(count) - 1] {
                let mut weights = vec![1; count.into()];
                weights[gone] = 0;
                let shunned = table(&all, &weights);
                let moved = before.iter().zip(&shunned).filter(|(one, other)| one != other).count();
                assert!(moved * usize::from(count) * 2 <= SLOTS * 3, "{moved} of {SLOTS} slots, 1 of {count} gone");
                // Taken out of the list it is the same, but for the numbers.
                let mut fewer = all.clone();
                fewer.remove(gone);
                let removed = table(&fewer, &vec![1; usize::from(count) - 1]);
                let renumbered = removed.iter().map(|owner| owner + u8::from(usize::from(*owner) >= gone));
                assert!(renumbered.eq(shunned.iter().copied()));
            }
        }
    }

    #[test]
    fn what_is_shunned_goes_to_the_next_and_nothing_else_moves() {
        let table = table(&origins(5), &[1, 1, 1, 1, 1]);
        let is_shunned = [false, true, false, false, true];
        let without = without(&table, &is_shunned);
        for slot in 0..SLOTS {
            let owner = owner(&table, slot, |index| is_shunned[index]);
            assert_eq!(owner, Some(without[slot].into()), "{slot}");
            assert!(without[slot] == table[slot] || is_shunned[usize::from(table[slot])]);
        }
        assert!(shares(&without, 5).iter().all(|share| *share == 0 || *share > SLOTS / 4), "they share it");
        assert_eq!(super::without(&table, &[true; 5]), table);
        assert_eq!(super::owner(&table, 7, |_| true), None);
    }

    #[test]
    fn clients_are_spread_as_slots_are() {
        let table = table(&origins(8), &[1; 8]);
        let neighbours: Vec<IpAddr> = (0..40_000u32).map(|n| Ipv4Addr::from(0xc612_0000 + n).into()).collect();
        let networks: Vec<IpAddr> = (0..40_000u32).map(|n| Ipv4Addr::from(n << 16 | 0x0101).into()).collect();
        let v6: Vec<IpAddr> = (0..40_000u16).map(|n| [0x2001, 0xdb8, n, 0, 0, 0, 0, 1].into()).collect();
        for clients in [neighbours, networks, v6] {
            let mut found = [0usize; 8];
            clients.iter().for_each(|client| found[usize::from(table[slot_of(*client)])] += 1);
            let fair = clients.len() / 8;
            assert!(found.iter().all(|count| count.abs_diff(fair) * 10 <= fair), "{found:?}");
        }
    }
}
