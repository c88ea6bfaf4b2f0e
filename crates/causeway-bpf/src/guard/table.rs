//! A prefix table as the program reads it (`bpf/guard.h`): made of a set, and mended where an entry changes.
//!
//! Nested prefixes are flattened to boundaries ("from here on addresses have this value"), and these put into runs of
//! a few cache lines below nodes as wide as there are boundaries for. So an address costs two or three lines, whatever
//! the prefixes are, and a table about 40 bytes for each of a million scattered ones.

use std::collections::{BTreeMap, HashMap};

use super::access::{Entry, Net, first_bits};
use super::shared::{
    IS_NODE, IS_UNIFORM, Line, MAX_MARKS_BELOW, MAX_NODE_BITS, VALUE_ALLOW, VALUE_BLOCK, VALUE_DEEPER, VALUE_MARK,
};

type Nets = BTreeMap<Net, Entry>;

/// Room that is left behind the marks for those that come later.
const SPARE_MARKS: u32 = 64;
/// Mending touches at most so many descriptors, and of a table that is a single run, lays so many entries again; what is
/// more is made anew as a whole.
const MOST_MENDED: usize = 4096;

/// Width of a key, pairs in a line of a run, lines in a run, bits of a node (the program's loops have their bounds by it).
#[derive(Clone, Copy, Debug)]
struct Shape {
    width: u32,
    pairs: usize,
    run_lines: usize,
    least_bits: u32,
}

const V4: Shape = Shape { width: 32, pairs: 8, run_lines: 8, least_bits: 8 };
const V6: Shape = Shape { width: 64, pairs: 5, run_lines: 16, least_bits: 6 };

#[derive(Clone, Copy, Debug)]
struct Mark {
    expires: u64,
    value: u32,
    otherwise: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    shape: Shape,
    pub lines: Vec<Line>,
    marks: Vec<Mark>,
    mark_of: HashMap<Net, u32>,
    first_mark_line: u32,
    mark_room: u32,
}

/// What became of a table that was to be mended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mended {
    /// Lines from `from` on are new, then these words of older lines change, in this order.
    Words { from: usize, words: Vec<(u32, usize, u64)> },
    /// It has to be made anew.
    NotPossible,
}

type Boundary = (u64, u32);

impl Table {
    pub fn new(nets: &Nets, is_ipv6: bool) -> Table {
        let mut table = Table {
            shape: if is_ipv6 { V6 } else { V4 },
            lines: vec![[0; 8]],
            marks: Vec::new(),
            mark_of: HashMap::new(),
            first_mark_line: 0,
            mark_room: 0,
        };
        let mut boundaries = Vec::with_capacity(nets.len() * 2 + 1);
        table.flatten(nets.iter().map(|(net, entry)| (*net, *entry)), 0, 0, &mut boundaries);
        let root = table.place(0, boundaries[0].1, &boundaries[1..], 0);
        table.lines[0][0] = root;
        table.lay_marks();
        table
    }

    fn lay_marks(&mut self) {
        self.first_mark_line = self.lines.len() as u32;
        self.mark_room = self.marks.len() as u32 + SPARE_MARKS;
        self.lines.resize(self.lines.len() + self.mark_room.div_ceil(4) as usize, [0; 8]);
        self.lines[0][1] = self.first_mark_line.into();
        for at in 0..self.marks.len() as u32 {
            let (line, word, words) = self.mark_words(at);
            self.lines[line as usize][word..word + 2].copy_from_slice(&words);
        }
    }

    fn mark_words(&self, at: u32) -> (u32, usize, [u64; 2]) {
        let Mark { expires, value, otherwise } = self.marks[at as usize];
        let words = [expires, u64::from(value) | u64::from(otherwise) << 32];
        (self.first_mark_line + at / 4, (at % 4) as usize * 2, words)
    }

    /// What an address that has `entry` and nothing longer gets. Marks are new, or the old one if it says the same.
    fn value(&mut self, net: Net, entry: &Entry, around: u32) -> u32 {
        let value = entry.value(net.length);
        let Some(expires) = entry.expires_ns else { return value };
        let mark = Mark { expires, value, otherwise: self.bounded(around) };
        if let Some(at) = self.mark_of.get(&net) {
            let there = self.marks[*at as usize];
            if (there.expires, there.value, there.otherwise) == (mark.expires, mark.value, mark.otherwise) {
                return VALUE_MARK | at;
            }
        }
        self.marks.push(mark);
        let at = self.marks.len() as u32 - 1;
        self.mark_of.insert(net, at);
        VALUE_MARK | at
    }

    /// Below more marks than the program follows, what never ends decides.
    fn bounded(&self, around: u32) -> u32 {
        let (mut value, mut depth) = (around, 1);
        while value & (VALUE_MARK | VALUE_ALLOW | VALUE_BLOCK) == VALUE_MARK {
            value = self.marks[(value & !VALUE_MARK) as usize].otherwise;
            depth += 1;
        }
        if depth < MAX_MARKS_BELOW { around } else { value }
    }

    /// Boundaries of `nets` (in their order, all from `from` on) within what has `around`. The first one is `from`.
    fn flatten(&mut self, nets: impl Iterator<Item = (Net, Entry)>, from: u64, around: u32, out: &mut Vec<Boundary>) {
        let mut within: Vec<(u64, u32)> = Vec::new(); // last address and value, from wide to narrow
        let mut nets = nets.peekable();
        push(out, from, around);
        while let Some((net, entry)) = nets.next() {
            close(&mut within, Some(net.upper), around, out);
            let outer = within.last().map_or(around, |(_, value)| *value);
            if net.length > 64 {
                let mut deeper = vec![(net, entry)];
                while let Some(next) = nets.next_if(|(next, _)| next.upper == net.upper) {
                    deeper.push(next);
                }
                let value = self.deeper(deeper, outer);
                push(out, net.upper, value);
                if let Some(next) = net.upper.checked_add(1) {
                    push(out, next, outer);
                }
                continue;
            }
            let value = self.value(net, &entry, outer);
            push(out, net.upper, value);
            within.push((last_of(net.upper, net.length.into()), value));
        }
        close(&mut within, None, around, out);
    }

    /// A table of lower halves, below one upper half.
    fn deeper(&mut self, nets: Vec<(Net, Entry)>, around: u32) -> u32 {
        let mut within: Vec<(u64, u32)> = Vec::new();
        let mut boundaries = Vec::with_capacity(nets.len() * 2 + 1);
        push(&mut boundaries, 0, around);
        for (net, entry) in nets {
            close(&mut within, Some(net.lower), around, &mut boundaries);
            let outer = within.last().map_or(around, |(_, value)| *value);
            let value = self.value(net, &entry, outer);
            push(&mut boundaries, net.lower, value);
            within.push((last_of(net.lower, u32::from(net.length) - 64), value));
        }
        close(&mut within, None, around, &mut boundaries);
        let descriptor = self.place(0, boundaries[0].1, &boundaries[1..], 0);
        self.lines.push([descriptor, 0, 0, 0, 0, 0, 0, 0]);
        VALUE_DEEPER | (self.lines.len() - 1) as u32
    }

    /// The descriptor for addresses from `low` on, that share `at` bits: `carry`, then the boundaries `inside`.
    fn place(&mut self, low: u64, carry: u32, inside: &[Boundary], at: u32) -> u64 {
        if inside.is_empty() {
            return IS_UNIFORM | u64::from(carry);
        }
        let first = self.lines.len() as u64;
        let lines = (inside.len() + 1).div_ceil(self.shape.pairs);
        if lines <= self.shape.run_lines {
            self.lay_run(low, carry, inside);
            return first | (lines as u64) << 32;
        }
        let wanted = (inside.len() as u64).ilog2().saturating_sub(1);
        let bits = wanted.clamp(self.shape.least_bits, MAX_NODE_BITS).min(self.shape.width - at);
        self.lines.resize(self.lines.len() + (1usize << bits).div_ceil(8), [0; 8]);
        let (mut carry, mut inside) = (carry, inside);
        for slot in 0..1u64 << bits {
            let child = low | slot << (64 - at - bits);
            let last = last_of(child, at + bits);
            let count = inside.iter().take_while(|(key, _)| *key <= last).count();
            let (mine, rest) = inside.split_at(count);
            if let Some(((_, value), others)) = mine.split_first().filter(|((key, _), _)| *key == child) {
                carry = *value;
                self.lines[first as usize + slot as usize / 8][slot as usize % 8] = IS_UNIFORM | u64::from(carry); // unless there is more to say
                if !others.is_empty() {
                    let descriptor = self.place(child, carry, others, at + bits);
                    self.lines[first as usize + slot as usize / 8][slot as usize % 8] = descriptor;
                }
            } else {
                let descriptor = self.place(child, carry, mine, at + bits);
                self.lines[first as usize + slot as usize / 8][slot as usize % 8] = descriptor;
            }
            carry = mine.last().map_or(carry, |(_, value)| *value);
            inside = rest;
        }
        IS_NODE | u64::from(bits) << 32 | first
    }

    fn lay_run(&mut self, low: u64, carry: u32, inside: &[Boundary]) {
        let mut pairs = std::iter::once((low, carry)).chain(inside.iter().copied()).peekable();
        let mut last = (low, carry);
        while pairs.peek().is_some() {
            let mut line: Line = [0; 8];
            for at in 0..self.shape.pairs {
                last = pairs.next().unwrap_or(last);
                let (key, value) = last;
                if self.shape.width == 32 {
                    put(&mut line, at, (key >> 32) as u32);
                    put(&mut line, 8 + at, value);
                } else {
                    line[at] = key;
                    put(&mut line, 10 + at, value);
                }
            }
            self.lines.push(line);
        }
    }

    /// Bring the table in line with `nets`, in which `net` has changed.
    pub fn mend(&mut self, nets: &Nets, net: Net) -> Mended {
        let (from, marks_before) = (self.lines.len(), self.marks.len());
        let length = u32::from(net.length).min(64);
        let (mut place, mut low, mut at) = ((0u32, 0usize), 0u64, 0u32);
        // Down to where the prefix is not within a single child any more.
        let mut slots = 1usize;
        loop {
            let descriptor = self.lines[place.0 as usize][place.1];
            let bits = (descriptor >> 32) as u32 & 31;
            if descriptor & IS_NODE == 0 {
                break;
            }
            let slot = (net.upper << at >> (64 - bits)) as usize;
            if at + bits > length {
                slots = 1 << (at + bits - length);
            }
            place = (descriptor as u32 + slot as u32 / 8, slot % 8);
            low = first_bits(net.upper, at + bits);
            at += bits;
            if slots > 1 {
                break;
            }
        }
        if slots > MOST_MENDED || (at == 0 && nets.len() > MOST_MENDED) {
            return Mended::NotPossible;
        }
        let mut words = Vec::new();
        for slot in 0..slots {
            let (line, word) = (place.0 + ((place.1 + slot) / 8) as u32, (place.1 + slot) % 8);
            let low = low + if slot == 0 { 0 } else { (slot as u64) << (64 - at) };
            let descriptor = self.place_again(nets, low, at);
            words.push((line, word, descriptor));
        }
        if self.marks.len() as u32 > self.mark_room {
            return Mended::NotPossible;
        }
        let mut all: Vec<(u32, usize, u64)> = Vec::new();
        for mark in marks_before..self.marks.len() {
            let (line, word, halves) = self.mark_words(mark as u32);
            all.extend([(line, word, halves[0]), (line, word + 1, halves[1])]);
        }
        all.extend(words);
        all.iter().for_each(|(line, word, value)| self.lines[*line as usize][*word] = *value);
        Mended::Words { from, words: all }
    }

    fn place_again(&mut self, nets: &Nets, low: u64, at: u32) -> u64 {
        // From the widest to the narrowest that covers all of it.
        let mut around = 0;
        for length in 0..=at {
            let net = Net { upper: first_bits(low, length), lower: 0, length: length as u8 };
            if let Some(entry) = nets.get(&net) {
                around = self.value(net, entry, around);
            }
        }
        let range = Net { upper: low, lower: 0, length: at as u8 + 1 }..=Net {
            upper: last_of(low, at),
            lower: u64::MAX,
            length: 128,
        };
        // In the order of the map those of the same first address and shorter come first: they are not in the range.
        let inside: Vec<(Net, Entry)> = nets.range(range).map(|(net, entry)| (*net, *entry)).collect();
        let mut boundaries = Vec::new();
        self.flatten(inside.into_iter(), low, around, &mut boundaries);
        // What comes after the last address of this part is another part's.
        let last = last_of(low, at);
        boundaries.retain(|(key, _)| *key <= last);
        self.place(low, boundaries[0].1, &boundaries[1..], at)
    }

    /// What the program finds; for tests.
    #[cfg(test)]
    pub fn find(&self, upper: u64, lower: u64, now: u64) -> u32 {
        let mut value = self.descend(self.lines[0][0], upper);
        if value & VALUE_DEEPER != 0 && value & (VALUE_ALLOW | VALUE_BLOCK | VALUE_MARK) == 0 {
            value = self.descend(self.lines[(value & !VALUE_DEEPER) as usize][0], lower);
        }
        while value & VALUE_MARK != 0 {
            let mark = self.marks[(value & !VALUE_MARK) as usize];
            value = if mark.expires > now { mark.value } else { mark.otherwise };
        }
        value
    }

    #[cfg(test)]
    fn descend(&self, mut descriptor: u64, key: u64) -> u32 {
        let mut at = 0;
        while descriptor & IS_NODE != 0 {
            let bits = (descriptor >> 32) as u32 & 31;
            let slot = (key << at >> (64 - bits)) as usize;
            descriptor = self.lines[(descriptor as u32) as usize + slot / 8][slot % 8];
            at += bits;
        }
        if descriptor & IS_UNIFORM != 0 {
            return descriptor as u32;
        }
        let lines = &self.lines[(descriptor as u32) as usize..][..(descriptor >> 32) as usize];
        let pairs = lines.iter().flat_map(|line| {
            (0..self.shape.pairs).map(|at| match self.shape.width {
                32 => (u64::from(get(line, at)) << 32, get(line, 8 + at)),
                _ => (line[at], get(line, 10 + at)),
            })
        });
        pairs.take_while(|(from, _)| *from <= key).last().expect("a run begins at or below its keys").1
    }
}

fn put(line: &mut Line, half: usize, value: u32) {
    let shift = half % 2 * 32;
    line[half / 2] = line[half / 2] & !(0xffff_ffff << shift) | u64::from(value) << shift;
}

#[cfg(test)]
fn get(line: &Line, half: usize) -> u32 {
    (line[half / 2] >> (half % 2 * 32)) as u32
}

/// The last of the keys that share `length` bits with `first`.
fn last_of(first: u64, length: u32) -> u64 {
    if length >= 64 { first } else { first | u64::MAX >> length }
}

fn push(out: &mut Vec<Boundary>, key: u64, value: u32) {
    if let Some((last, there)) = out.last_mut()
        && *last == key
    {
        *there = value;
        // It may now say what the one before it says.
        if out.len() > 1 && out[out.len() - 2].1 == value {
            out.pop();
        }
        return;
    }
    if out.last().is_none_or(|(_, there)| *there != value) {
        out.push((key, value));
    }
}

/// Leave the prefixes that end before `next`.
fn close(within: &mut Vec<(u64, u32)>, next: Option<u64>, around: u32, out: &mut Vec<Boundary>) {
    while let Some((last, _)) = within.pop_if(|(last, _)| next.is_none_or(|next| *last < next)) {
        let value = within.last().map_or(around, |(_, value)| *value);
        if let Some(after) = last.checked_add(1) {
            push(out, after, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::access::{Access, Prefix, PrefixSet, halves};
    use super::*;

    /// Clustered, so that prefixes are within each other and share bits.
    fn net(is_ipv6: bool) -> impl Strategy<Value = Prefix> {
        let bits = prop_oneof![
            any::<u128>(),
            any::<u128>().prop_map(|bits| bits & 0x3 << 94 | 0xc612 << 112),
            any::<u8>().prop_map(|bits| 0xc612_0101 << 96 | u128::from(bits) << 96 | u128::from(bits & 3) << 60)
        ];
        let most = if is_ipv6 { 128 } else { 32 };
        (bits, 0..=most, any::<bool>()).prop_map(move |(bits, length, is_long)| {
            let length = if is_long { most - length % 8 } else { length };
            let address = match is_ipv6 {
                true => std::net::Ipv6Addr::from_bits(bits).into(),
                false => std::net::Ipv4Addr::from_bits((bits >> 96) as u32).into(),
            };
            Prefix::new(Net::of(address, length).address(!is_ipv6), length).unwrap()
        })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let expires = prop_oneof![4 => Just(None), 1 => (1..5u64).prop_map(Some)];
        (any::<bool>(), 0..5u16, expires).prop_map(|(is_allow, tag, expires_ns)| Entry {
            access: if is_allow { Access::Allow } else { Access::Block },
            tag,
            expires_ns,
        })
    }

    fn agrees(table: &Table, set: &PrefixSet, address: std::net::IpAddr) {
        let (upper, lower) = halves(address);
        let (nets, width) = if address.is_ipv4() { (&set.v4, 32) } else { (&set.v6, 128) };
        let ends = |length: &u8| nets.get(&Net::of(address, *length)).is_some_and(|entry| entry.expires_ns.is_some());
        if (0..=width).filter(ends).count() >= MAX_MARKS_BELOW {
            return; // so many entries that end within each other are not asked one by one
        }
        for now in 0..6 {
            let wanted = set.find(address, now).map_or(0, |(length, entry)| entry.value(length));
            assert_eq!(table.find(upper, lower, now), wanted, "{address} at {now}");
        }
    }

    fn neighbours(prefix: Prefix) -> [std::net::IpAddr; 4] {
        let is_ipv4 = prefix.address().is_ipv4();
        let width = if is_ipv4 { 32 } else { 128 };
        let (upper, lower) = halves(prefix.address());
        let first = u128::from(upper) << 64 | u128::from(lower);
        let unit = 1u128 << (128 - width);
        let last = first | u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
        [first, last, first.wrapping_sub(unit), last.wrapping_add(1)]
            .map(|bits| Net { upper: (bits >> 64) as u64, lower: bits as u64, length: width as u8 }.address(is_ipv4))
    }

    fn same_after_every_change(changes: Vec<(Prefix, Option<Entry>)>, is_ipv6: bool) {
        let mut set = PrefixSet::default();
        let (early, late) = changes.split_at(changes.len() / 2);
        set.extend(early);
        let nets = |set: &PrefixSet| if is_ipv6 { set.v6.clone() } else { set.v4.clone() };
        let mut table = Table::new(&nets(&set), is_ipv6);
        changes.iter().flat_map(|(prefix, _)| neighbours(*prefix)).for_each(|address| agrees(&table, &set, address));
        for change in late {
            set.extend(std::slice::from_ref(change));
            if table.mend(&nets(&set), change.0.net()) == Mended::NotPossible {
                table = Table::new(&nets(&set), is_ipv6);
            }
            neighbours(change.0).into_iter().for_each(|address| agrees(&table, &set, address));
        }
        changes.iter().flat_map(|(prefix, _)| neighbours(*prefix)).for_each(|address| agrees(&table, &set, address));
    }

    trait Extend {
        fn extend(&mut self, changes: &[(Prefix, Option<Entry>)]);
    }

    impl Extend for PrefixSet {
        fn extend(&mut self, changes: &[(Prefix, Option<Entry>)]) {
            for (prefix, entry) in changes {
                match entry {
                    Some(entry) => self.insert(*prefix, *entry),
                    None => self.remove(*prefix),
                };
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_table_says_of_every_address_what_its_set_does_v4(
            changes in prop::collection::vec((net(false), prop::option::weighted(0.8, entry())), 1..300)
        ) {
            same_after_every_change(changes, false);
        }

        #[test]
        fn a_table_says_of_every_address_what_its_set_does_v6(
            changes in prop::collection::vec((net(true), prop::option::weighted(0.8, entry())), 1..300)
        ) {
            same_after_every_change(changes, true);
        }
    }

    #[test]
    fn a_million_scattered_prefixes_take_less_than_sixty_bytes_each() {
        let mut state = 1u64;
        let set: PrefixSet = (0..1_000_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (Prefix::host(std::net::Ipv4Addr::from_bits((state >> 32) as u32).into()), Entry::block())
            })
            .collect();
        let table = Table::new(&set.v4, false);
        assert!(table.lines.len() * 64 < 60_000_000, "{} bytes", table.lines.len() * 64);
        set.v4.keys().step_by(1000).for_each(|net| agrees(&table, &set, net.address(true)));
    }
}
