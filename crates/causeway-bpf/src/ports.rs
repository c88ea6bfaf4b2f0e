//! A set of ports: 65,536 bits, in the form in which the kernel program reads them.

use std::fmt;

pub(crate) const WORDS: usize = 1024;

#[derive(Clone, PartialEq, Eq)]
#[repr(transparent)]
pub struct PortSet(Box<[u64; WORDS]>);

impl Default for PortSet {
    fn default() -> PortSet {
        PortSet(Box::new([0; WORDS]))
    }
}

impl PortSet {
    pub fn range(first: u16, last: u16) -> PortSet {
        let mut ports = PortSet::default();
        ports.insert(first, last);
        ports
    }

    /// Add `first` to `last`, both included.
    pub fn insert(&mut self, first: u16, last: u16) {
        let (from, to) = (usize::from(first) / 64, usize::from(last) / 64);
        for word in from..=to {
            let low = if word == from { u64::MAX << (first % 64) } else { u64::MAX };
            let high = if word == to { u64::MAX >> (63 - last % 64) } else { u64::MAX };
            self.0[word] |= low & high;
        }
    }

    pub fn remove(&mut self, port: u16) {
        self.0[usize::from(port) / 64] &= !(1 << (port % 64));
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] >> (port % 64) & 1 == 1
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn add(&mut self, other: &PortSet) {
        self.0.iter_mut().zip(&*other.0).for_each(|(word, more)| *word |= more);
    }

    pub fn keep(&mut self, other: &PortSet) {
        self.0.iter_mut().zip(&*other.0).for_each(|(word, kept)| *word &= kept);
    }

    pub fn take_out(&mut self, other: &PortSet) {
        self.0.iter_mut().zip(&*other.0).for_each(|(word, less)| *word &= !less);
    }

    /// Runs of neighbours, in order.
    pub fn runs(&self) -> impl Iterator<Item = (u16, u16)> {
        let mut at = 0usize;
        std::iter::from_fn(move || {
            let first = self.next(at, true)?;
            let end = self.next(first, false).unwrap_or(65_536);
            at = end;
            Some((first as u16, (end - 1) as u16))
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.runs().flat_map(|(first, last)| first..=last)
    }

    /// The first port from `at` that is, or is not, in the set.
    fn next(&self, at: usize, is_in: bool) -> Option<usize> {
        let mut word = at / 64;
        let mut mask = u64::MAX << (at % 64);
        while word < WORDS {
            let bits = if is_in { self.0[word] } else { !self.0[word] } & mask;
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            (word, mask) = (word + 1, u64::MAX);
        }
        None
    }

    pub(crate) fn words(&self) -> &[u64; WORDS] {
        &self.0
    }
}

impl From<Box<[u64; WORDS]>> for PortSet {
    fn from(words: Box<[u64; WORDS]>) -> PortSet {
        PortSet(words)
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_what_comes_out() {
        let cases: [&[(u16, u16)]; 7] = [
            &[],
            &[(0, 0)],
            &[(0, 65_535)],
            &[(63, 64)],
            &[(22, 22), (64, 127), (65_535, 65_535)],
            &[(1, 62), (64, 64)],
            &[(1000, 2000), (2002, 2002)],
        ];
        for runs in cases {
            let mut ports = PortSet::default();
            runs.iter().for_each(|(first, last)| ports.insert(*first, *last));
            assert_eq!(ports.runs().collect::<Vec<_>>(), runs);
            assert_eq!(ports.len(), runs.iter().map(|(a, b)| usize::from(*b) - usize::from(*a) + 1).sum::<usize>());
            assert!(
                (0..=65_535).all(|port| ports.contains(port) == runs.iter().any(|(a, b)| (a..=b).contains(&&port)))
            );
        }
    }

    #[test]
    fn sets_are_added_cut_and_taken_out() {
        let (a, b) = (PortSet::range(10, 100), PortSet::range(90, 200));
        let with = |change: fn(&mut PortSet, &PortSet)| {
            let mut ports = a.clone();
            change(&mut ports, &b);
            ports.runs().collect::<Vec<_>>()
        };
        assert_eq!(with(PortSet::add), [(10, 200)]);
        assert_eq!(with(PortSet::keep), [(90, 100)]);
        assert_eq!(with(PortSet::take_out), [(10, 89)]);
        let mut one = PortSet::range(7, 9);
        one.remove(8);
        assert_eq!(one.iter().collect::<Vec<_>>(), [7, 9]);
        assert!(!one.is_empty() && PortSet::default().is_empty());
    }
}
