//! Which application has each of 65,536 ports, in the form in which the kernel program reads it.

use std::fmt;
use std::ops::RangeInclusive;

const PORTS: usize = 65_536;

#[derive(Clone, PartialEq, Eq)]
pub struct PortTable(Box<[u16; PORTS]>);

impl Default for PortTable {
    fn default() -> PortTable {
        let zeroes: Box<[u16]> = vec![0; PORTS].into_boxed_slice();
        PortTable(zeroes.try_into().expect("made with this length"))
    }
}

impl PortTable {
    /// Give `ports` to the application of `index`; 0 takes them from any.
    pub fn set(&mut self, ports: RangeInclusive<u16>, index: u16) {
        self.0[usize::from(*ports.start())..=usize::from(*ports.end())].fill(index);
    }

    pub fn get(&self, port: u16) -> Option<u16> {
        Some(self.0[usize::from(port)]).filter(|index| *index != 0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|index| *index == 0)
    }

    /// Runs of neighbours of one application, in order.
    pub fn runs(&self) -> Vec<(RangeInclusive<u16>, u16)> {
        let mut runs: Vec<(RangeInclusive<u16>, u16)> = Vec::new();
        for (port, index) in (0..=u16::MAX).zip(self.0.iter().copied()).filter(|(_, index)| *index != 0) {
            match runs.last_mut() {
                Some((ports, of)) if *of == index && *ports.end() + 1 == port => *ports = *ports.start()..=port,
                _ => runs.push((port..=port, index)),
            }
        }
        runs
    }
}

impl PortTable {
    pub(crate) fn raw(&self) -> &[u16; PORTS] {
        &self.0
    }

    pub(crate) fn raw_mut(&mut self) -> &mut [u16; PORTS] {
        &mut self.0
    }
}

impl fmt::Debug for PortTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.runs()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_belong_to_whom_they_were_given_last() {
        let mut table = PortTable::default();
        assert!(table.is_empty());
        table.set(10..=20, 1);
        table.set(15..=16, 2);
        table.set(65_535..=65_535, 3);
        table.set(0..=0, 4);
        assert_eq!(table.runs(), [(0..=0, 4), (10..=14, 1), (15..=16, 2), (17..=20, 1), (65_535..=65_535, 3)]);
        assert_eq!((table.get(9), table.get(10), table.get(15)), (None, Some(1), Some(2)));
        table.set(0..=65_535, 0);
        assert!(table.is_empty());
    }
}
