//! What holds for each address: prefixes become ranges that do not overlap, each with the value of its most specific
//! prefix, so that a look-up is a search in a sorted list and takes no lock.

use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Values of prefixes, by the address of a client.
#[derive(Debug)]
pub struct Map<V> {
    v4: Ranges<u32, V>,
    v6: Ranges<u128, V>,
}

impl<V: Copy + Ord> Map<V> {
    /// Of two values of the same prefix the greater one holds.
    pub fn new(entries: impl Iterator<Item = (IpAddr, u8, V)>) -> Map<V> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (first, length, value) in entries {
            match first {
                IpAddr::V4(first) => {
                    let first = first.to_bits();
                    v4.push((first, first | u32::MAX.checked_shr(length.into()).unwrap_or(0), value));
                }
                IpAddr::V6(first) => {
                    let first = first.to_bits();
                    v6.push((first, first | u128::MAX.checked_shr(length.into()).unwrap_or(0), value));
                }
            }
        }
        Map { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    /// An IPv4-mapped IPv6 address is the IPv4 address that it stands for.
    pub fn find(&self, client: IpAddr) -> Option<V> {
        match client.to_canonical() {
            IpAddr::V4(v4) => self.v4.find(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.find(v6.to_bits()),
        }
    }

    /// What begins in one family and overlaps `within`, in order: first and last address, and the value. Neighbours with
    /// the same value are one.
    pub fn runs(&self, is_ipv4: bool, within: RangeInclusive<u128>) -> Box<dyn Iterator<Item = Run<V>> + '_> {
        match is_ipv4 {
            true => Box::new(self.v4.runs(within)),
            false => Box::new(self.v6.runs(within)),
        }
    }

    /// At least as many as there are runs.
    pub fn len(&self) -> usize {
        self.v4.starts.len() + self.v6.starts.len()
    }

    pub fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }
}

/// The same value for all addresses from the first to the last.
pub type Run<V> = (u128, u128, V);

pub trait Bits: Copy + Ord {
    const LAST: u128;
    fn next(self) -> Option<Self>;
    fn less(self, other: Self) -> Self;
    fn bits(self) -> u32;
    fn shifted(self, by: u32) -> usize;
    fn wide(self) -> u128;
}

macro_rules! bits {
    ($kind:ty) => {
        impl Bits for $kind {
            const LAST: u128 = <$kind>::MAX as u128;
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn less(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            fn bits(self) -> u32 {
                Self::BITS - self.leading_zeros()
            }
            fn shifted(self, by: u32) -> usize {
                self.checked_shr(by).unwrap_or(0) as usize
            }
            fn wide(self) -> u128 {
                self.into()
            }
        }
    };
}
bits!(u32);
bits!(u128);

/// The index narrows a search to a few entries where the prefixes are spread.
const INDEX_BITS: u32 = 16;

/// Where each value begins; it holds up to the next one.
#[derive(Debug)]
struct Ranges<N, V> {
    starts: Vec<N>,
    values: Vec<Option<V>>,
    /// For each part of the space that is used, how many starts lie before it.
    index: Vec<u32>,
    shift: u32,
}

impl<N: Bits, V: Copy + Ord> Ranges<N, V> {
    fn new(mut prefixes: Vec<(N, N, V)>) -> Ranges<N, V> {
        // The wider prefix first where two begin at the same address: prefixes nest, they never cross.
        // Of the same prefix the greater value comes last, and covers the others.
        prefixes.sort_unstable_by(|a, b| (a.0, b.1, a.2).cmp(&(b.0, a.1, b.2)));
        let mut made = Ranges { starts: Vec::new(), values: Vec::new(), index: Vec::new(), shift: 0 };
        let mut around: Vec<(N, V)> = Vec::new();
        for (first, last, value) in prefixes {
            made.close(&mut around, Some(first));
            made.begin(first, Some(value));
            around.push((last, value));
        }
        made.close(&mut around, None);
        made.starts.shrink_to_fit();
        made.values.shrink_to_fit();
        made.make_index();
        made
    }

    /// What ends before `next` gives way to what is around it.
    fn close(&mut self, around: &mut Vec<(N, V)>, next: Option<N>) {
        while let Some((last, _)) = around.last().copied()
            && next.is_none_or(|next| last < next)
        {
            around.pop();
            if let Some(after) = last.next() {
                self.begin(after, around.last().map(|(_, value)| *value));
            }
        }
    }

    fn begin(&mut self, start: N, value: Option<V>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.values.pop();
        }
        if self.values.last().copied().flatten() != value {
            self.starts.push(start);
            self.values.push(value);
        }
    }

    fn make_index(&mut self) {
        let (Some(first), Some(last)) = (self.starts.first(), self.starts.last()) else { return };
        let span = last.less(*first);
        self.shift = span.bits().saturating_sub(INDEX_BITS);
        let parts = span.shifted(self.shift) + 1;
        self.index = Vec::with_capacity(parts + 1);
        let mut before = 0;
        for part in 0..parts {
            while before < self.starts.len() && self.starts[before].less(*first).shifted(self.shift) < part {
                before += 1;
            }
            self.index.push(before as u32);
        }
        self.index.push(self.starts.len() as u32);
    }

    fn runs(&self, within: RangeInclusive<u128>) -> impl Iterator<Item = Run<V>> {
        let (first, last) = within.into_inner();
        let from = self.starts.partition_point(|start| start.wide() <= first).saturating_sub(1);
        (from..self.starts.len())
            .map_while(move |at| {
                let start = self.starts[at].wide();
                let end = self.starts.get(at + 1).map_or(N::LAST, |next| next.wide() - 1);
                (start <= last).then_some((start, end, self.values[at]))
            })
            .filter_map(move |(start, end, value)| (end >= first).then_some((start, end, value?)))
    }

    fn bytes(&self) -> usize {
        self.starts.capacity() * size_of::<N>() + self.values.capacity() * size_of::<Option<V>>() + self.index.len() * 4
    }

    fn find(&self, address: N) -> Option<V> {
        let first = self.starts.first()?;
        if address < *first {
            return None;
        }
        let part = address.less(*first).shifted(self.shift).min(self.index.len() - 2);
        let (from, to) = (self.index[part] as usize, self.index[part + 1] as usize);
        let after = from + self.starts[from..to].partition_point(|start| *start <= address);
        self.values[after - 1]
    }
}
