//! A prefix table as the program reads it (`bpf/guard.h`): made of a set, and mended where an entry changes.
//!
//! Nested prefixes are flattened to boundaries ("from here on addresses have this value"), and these put into lines of a
//! cache line each below nodes as wide as there are boundaries for. An entry of a node tells a few lines apart, so nodes stay
//! small enough for the caches: an address costs one line that is cold, and each of a million scattered prefixes about nine
//! bytes.

use std::collections::{BTreeMap, HashMap};

use super::access::{Entry, Net, first_bits};
use super::line::{Boundary, Form, Keys};
use super::shared::{
    KIND_NODE, Line, MAX_MARKS_BELOW, MAX_NODE_BITS, NODE_LINE, PALETTE, VALUE_ALLOW, VALUE_BLOCK, VALUE_DEEPER,
    VALUE_HOST, VALUE_MARK, VALUE_RECORD,
};

type Nets = BTreeMap<Net, Entry>;

const LEAST_NODE_BITS: u32 = 6;
/// An entry of a node has 32 parts, and about so many boundaries: a few lines.
const PART_BITS: u32 = 5;
const MOST_KEYS: usize = 20;
const BOUNDARIES_OF_ENTRY: u32 = 32;
/// Mending touches at most so many descriptors, and lays at most so many entries again; what is more is made anew as a
/// whole.
const MOST_MENDED: usize = 4096;
/// Marks may be many, each of its own; some of the palette stays for what does not end.
const MOST_MARKS_OF_PALETTE: usize = PALETTE / 2;
/// Of fewer entries none are said to share bits.
const FEW: usize = 64;
const INSIDE: usize = 3; // words of the head
const OUTSIDE: usize = 4;

/// An entry that ends, or the only host of an upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Record {
    key: u64,
    value: u32,
    otherwise: u32,
}

/// Eight bytes of a line, which the program sees change at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub line: u32,
    pub word: usize,
    pub value: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    width: u32,
    pub lines: Vec<Line>,
    /// Most entries are below the first `shared_bits` of this.
    base: u64,
    shared_bits: u32,
    palette: HashMap<u32, u8>,
    marks_of_palette: usize,
    marks: HashMap<Record, u32>,
    next_record: u32,
    changed: Vec<Word>,
}

/// What became of a table that was to be mended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mended {
    /// Lines from `from` on are new, then these words of older lines change, in this order.
    Words { from: usize, words: Vec<Word> },
    /// It has to be made anew.
    NotPossible,
}

/// Boundaries that share a line: from which of an entry's parts on, what is around them, and a range.
struct Share {
    part: u32,
    first_key: u64,
    around: u32,
    from: usize,
    to: usize,
}

impl Table {
    pub fn new(nets: &Nets, is_ipv6: bool) -> Table {
        let width = if is_ipv6 { 64 } else { 32 };
        let (base, shared_bits) = most_share(nets, width);
        let mut table = Table {
            width,
            lines: vec![Line::default(); 1 + PALETTE / 16],
            base,
            shared_bits,
            palette: HashMap::new(),
            marks_of_palette: 0,
            marks: HashMap::new(),
            next_record: 0,
            changed: Vec::new(),
        };
        table.index(0);
        let mut lay = |low, at, is_outside| {
            let mut room = usize::MAX;
            let boundaries = table.boundaries(nets, low, at, &mut room, is_outside);
            let (around, inside) = boundaries.expect("there is room for all");
            table.root(low, around, &inside, at)
        };
        let inside = lay(base, shared_bits, false);
        let outside = if shared_bits == 0 { inside } else { lay(0, 0, true) };
        let right = base >> (64 - width);
        let shift = width - shared_bits - 1;
        table.lines[0][..2].copy_from_slice(&halves(right));
        table.lines[0][2] = shift;
        table.lines[0][INSIDE] = inside;
        table.lines[0][OUTSIDE] = outside;
        table.changed.clear();
        table
    }

    fn new_line(&mut self, line: Line) -> u32 {
        self.lines.push(line);
        self.lines.len() as u32 - 1
    }

    /// A half of a word.
    fn set(&mut self, line: u32, half: usize, value: u32) {
        self.lines[line as usize][half] = value;
        let halves = &self.lines[line as usize][half / 2 * 2..];
        self.changed.push(Word { line, word: half / 2, value: whole([halves[0], halves[1]]) });
    }

    fn record(&mut self, record: Record) -> u32 {
        if self.next_record.is_multiple_of(4) {
            self.next_record = self.new_line(Line::default()) * 4;
        }
        let (line, word) = ((self.next_record / 4) as usize, (self.next_record % 4 * 4) as usize);
        let [low, high] = halves(record.key);
        self.lines[line][word..word + 4].copy_from_slice(&[low, high, record.value, record.otherwise]);
        self.next_record += 1;
        self.next_record - 1
    }

    fn record_at(&self, at: u32) -> Record {
        let words = &self.lines[(at / 4) as usize][(at % 4 * 4) as usize..];
        Record { key: whole([words[0], words[1]]), value: words[2], otherwise: words[3] }
    }

    /// What stands for a value in the palette, if there is room for it.
    fn index(&mut self, value: u32) -> Option<u8> {
        if let Some(there) = self.palette.get(&value) {
            return Some(*there);
        }
        let is_mark = value >> 28 == VALUE_MARK >> 28;
        let is_full = self.palette.len() == PALETTE || is_mark && self.marks_of_palette == MOST_MARKS_OF_PALETTE;
        if is_full || value >> 28 == VALUE_DEEPER >> 28 {
            return None;
        }
        let at = self.palette.len();
        self.palette.insert(value, at as u8);
        self.marks_of_palette += usize::from(is_mark);
        self.set(1 + at as u32 / 16, at % 16, value);
        Some(at as u8)
    }

    /// What an address that has `entry` and nothing longer gets.
    fn value(&mut self, net: Net, entry: &Entry, around: u32) -> u32 {
        let value = entry.value(net.length);
        let Some(key) = entry.expires_ns else { return value };
        let mark = Record { key, value, otherwise: self.bounded(around) };
        let at = match self.marks.get(&mark) {
            Some(at) => *at,
            None => {
                let at = self.record(mark);
                self.marks.insert(mark, at);
                at
            }
        };
        VALUE_MARK | at
    }

    /// Below more marks than the program follows, what never ends decides.
    fn bounded(&self, around: u32) -> u32 {
        let (mut value, mut depth) = (around, 1);
        while value & (VALUE_MARK | VALUE_ALLOW | VALUE_BLOCK) == VALUE_MARK {
            value = self.record_at(value & VALUE_RECORD).otherwise;
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

    /// What stands for the lower halves below one upper half.
    fn deeper(&mut self, nets: Vec<(Net, Entry)>, around: u32) -> u32 {
        if let [(net, entry)] = &nets[..]
            && net.length == 128
        {
            let value = self.value(*net, entry, around);
            return VALUE_DEEPER | VALUE_HOST | self.record(Record { key: net.lower, value, otherwise: around });
        }
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
        let descriptor = self.root(0, boundaries[0].1, &boundaries[1..], 0);
        let mut line = Line::default();
        line[0] = descriptor;
        VALUE_DEEPER | self.new_line(line)
    }

    /// The descriptor for addresses from `low` on, that share `at` bits: `around`, then the boundaries `inside`.
    fn root(&mut self, low: u64, around: u32, inside: &[Boundary], at: u32) -> u32 {
        match self.shares(low, around, inside, at) {
            _ if inside.is_empty() => around,
            Some((form, shares)) if shares.len() == 1 => self.lay(form, &shares, inside),
            _ => self.node(low, around, inside, at),
        }
    }

    /// The same for an entry of a node, which may have a line for each of its parts.
    fn entry(&mut self, low: u64, around: u32, inside: &[Boundary], at: u32) -> u64 {
        if inside.is_empty() {
            return u64::from(around) << 32;
        }
        match self.shares(low, around, inside, at) {
            Some((form, shares)) => {
                let begins = shares.iter().skip(1).fold(0, |all, share| all | 1u64 << share.part);
                u64::from(self.lay(form, &shares, inside)) << 32 | begins
            }
            None => u64::from(self.node(low, around, inside, at)) << 32,
        }
    }

    /// How boundaries fit in the fewest lines; `None` if there are too many in one part.
    fn shares(&mut self, low: u64, around: u32, inside: &[Boundary], at: u32) -> Option<(Form, Vec<Share>)> {
        if inside.len() > (1 << PART_BITS) * MOST_KEYS {
            return None;
        }
        let values = inside.iter().map(|(_, value)| *value);
        let is_wide = std::iter::once(around).chain(values).any(|value| self.index(value).is_none());
        let rest = self.width - at;
        let all = [Keys::Of15, Keys::Of31, Keys::Of64].map(|keys| Form { keys, is_wide });
        let possible = all.into_iter().filter(|form| {
            (form.keys != Keys::Of64 || self.width == 64) && rest.saturating_sub(PART_BITS) <= form.keys.bits()
        });
        let ways = possible.filter_map(|form| Some((form, self.shares_of(form, low, around, inside, at)?)));
        ways.min_by_key(|(_, shares)| shares.len())
    }

    fn shares_of(&self, form: Form, low: u64, mut around: u32, inside: &[Boundary], at: u32) -> Option<Vec<Share>> {
        let rest = self.width - at;
        let bits = if rest > PART_BITS { PART_BITS } else { 0 };
        if bits == 0 && inside.len() > form.most() {
            return None;
        }
        let mut shares: Vec<Share> = Vec::new();
        let mut to = 0;
        for part in 0..1u32 << bits {
            let child = low | if bits == 0 { 0 } else { u64::from(part) << (64 - at - bits) };
            let last = last_of(child, at + bits);
            let mut from = to;
            to += inside[to..].iter().take_while(|(key, _)| *key <= last).count();
            if from < to && inside[from].0 == child {
                around = inside[from].1;
                from += 1;
            }
            let joined = shares.last_mut().filter(|share| {
                is_near(share.first_key, last, form.keys, self.width) && to - share.from <= form.most()
            });
            match joined {
                Some(share) => share.to = to,
                None if to - from > form.most() => return None,
                None => shares.push(Share { part, first_key: child, around, from, to }),
            }
            if to > 0 {
                around = inside[to - 1].1;
            }
        }
        Some(shares)
    }

    /// Lines behind each other; answers the descriptor of the first.
    fn lay(&mut self, form: Form, shares: &[Share], inside: &[Boundary]) -> u32 {
        let first = self.lines.len() as u32;
        for share in shares {
            let palette = &self.palette;
            let line = form.lay(share.around, &inside[share.from..share.to], self.width, |value| palette[&value]);
            self.lines.push(line);
        }
        form.kind() << 28 | first
    }

    fn node(&mut self, low: u64, mut around: u32, inside: &[Boundary], at: u32) -> u32 {
        let wanted = (inside.len() as u64).ilog2().saturating_sub(BOUNDARIES_OF_ENTRY.ilog2());
        let bits = wanted.clamp(LEAST_NODE_BITS, MAX_NODE_BITS).min(self.width - at);
        let first = self.lines.len() as u32;
        self.lines.resize(self.lines.len() + (1usize << bits).div_ceil(8), Line::default());
        let at = at + bits;
        let mut to = 0;
        for slot in 0..1u32 << bits {
            let child = low | u64::from(slot) << (64 - at);
            let last = last_of(child, at);
            let mut from = to;
            to += inside[to..].iter().take_while(|(key, _)| *key <= last).count();
            if from < to && inside[from].0 == child {
                around = inside[from].1;
                from += 1;
            }
            let halves = halves(self.entry(child, around, &inside[from..to], at));
            let place = slot as usize % 8 * 2;
            self.lines[(first + slot / 8) as usize][place..place + 2].copy_from_slice(&halves);
            if to > 0 {
                around = inside[to - 1].1;
            }
        }
        KIND_NODE << 28 | bits << 23 | first
    }

    fn is_inside(&self, net: &Net) -> bool {
        self.shared_bits > 0
            && u32::from(net.length) >= self.shared_bits
            && first_bits(net.upper, self.shared_bits) == self.base
    }

    /// Bring the table in line with `nets`, in which `net` has changed.
    pub fn mend(&mut self, nets: &Nets, net: Net) -> Mended {
        let from = self.lines.len();
        self.next_record = self.next_record.next_multiple_of(4); // older lines stay as they are
        self.changed.clear();
        let is_done = if self.shared_bits == 0 || self.is_inside(&net) {
            self.mend_below(nets, net, INSIDE, self.base, self.shared_bits)
        } else {
            let is_around = first_bits(self.base, net.length.into()) == net.upper;
            self.mend_below(nets, net, OUTSIDE, 0, 0)
                && (!is_around || self.mend_below(nets, net, INSIDE, self.base, self.shared_bits))
        };
        if !is_done {
            return Mended::NotPossible;
        }
        let words = std::mem::take(&mut self.changed);
        Mended::Words { from, words }
    }

    /// Of the trie whose root is a word of the head: for addresses from `low` on, that share `at` bits.
    fn mend_below(&mut self, nets: &Nets, net: Net, root: usize, mut low: u64, mut at: u32) -> bool {
        let length = u32::from(net.length).min(64);
        // An entry, once it is one of a node.
        let (mut line, mut slot_of_line) = (0u32, None);
        // Down to where the prefix is not within a single child any more.
        let mut slots = 1usize;
        while slots == 1 {
            let descriptor = self.lines[line as usize][slot_of_line.map_or(root, descriptor_half)];
            let bits = descriptor >> 23 & 31;
            if descriptor >> 28 != KIND_NODE || length < at {
                break;
            }
            let slot = (net.upper << at >> (64 - bits)) as u32;
            if at + bits > length {
                slots = 1 << (at + bits - length);
            }
            (line, slot_of_line) = ((descriptor & NODE_LINE) + slot / 8, Some(slot as usize % 8));
            low = first_bits(net.upper, at + bits);
            at += bits;
        }
        if slots > MOST_MENDED {
            return false;
        }
        let is_outside = root == OUTSIDE;
        let mut room = MOST_MENDED;
        for slot in 0..slots {
            let low = low + if slot == 0 { 0 } else { (slot as u64) << (64 - at) };
            let Some((around, inside)) = self.boundaries(nets, low, at, &mut room, is_outside) else { return false };
            let Some(first) = slot_of_line else {
                let descriptor = self.root(low, around, &inside, at);
                self.set(0, root, descriptor);
                return true;
            };
            let [low_half, high_half] = halves(self.entry(low, around, &inside, at));
            let (line, at) = (line + ((first + slot) / 8) as u32, (first + slot) % 8);
            self.lines[line as usize][at * 2] = low_half;
            self.set(line, at * 2 + 1, high_half);
        }
        true
    }

    /// What addresses from `low` on, that share `at` bits, have, from the first one on and from boundaries on; `None` if
    /// there are more entries than there is `room` for.
    fn boundaries(
        &mut self,
        nets: &Nets,
        low: u64,
        at: u32,
        room: &mut usize,
        is_outside: bool,
    ) -> Option<(u32, Vec<Boundary>)> {
        // From the widest to the narrowest that covers all of it.
        let mut around = 0;
        for length in 0..=at {
            let net = Net { upper: first_bits(low, length), lower: 0, length: length as u8 };
            if let Some(entry) = nets.get(&net) {
                around = self.value(net, entry, around);
            }
        }
        let last = last_of(low, at);
        let range =
            Net { upper: low, lower: 0, length: at as u8 + 1 }..=Net { upper: last, lower: u64::MAX, length: 128 };
        // In the order of the map those of the same first address and shorter come first: they are not in the range.
        let is_ours = |net: &Net| !(is_outside && self.is_inside(net));
        let inside: Vec<(Net, Entry)> = nets
            .range(range)
            .map(|(net, entry)| (*net, *entry))
            .filter(|(net, _)| is_ours(net))
            .take(room.saturating_add(1))
            .collect();
        *room = room.checked_sub(inside.len())?;
        let mut boundaries = Vec::with_capacity(inside.len() * 2 + 1);
        self.flatten(inside.into_iter(), low, around, &mut boundaries);
        // What comes after the last address of this part is another part's.
        boundaries.retain(|(key, _)| *key <= last);
        let (_, around) = boundaries.remove(0);
        Some((around, boundaries))
    }

    /// What the program finds; for tests.
    #[cfg(test)]
    pub fn find(&self, upper: u64, lower: u64, now: u64) -> u32 {
        let head = self.lines[0];
        let key = upper >> (64 - self.width);
        let is_outside = (key ^ whole([head[0], head[1]])) >> head[2] >> 1 != 0;
        let (root, rest) = if is_outside { (OUTSIDE, self.width) } else { (INSIDE, head[2] + 1) };
        let mut value = self.descend(head[root], key, rest);
        if value >> 28 == VALUE_DEEPER >> 28 {
            let at = value & VALUE_RECORD;
            value = if value & VALUE_HOST != 0 {
                let host = self.record_at(at);
                if host.key == lower { host.value } else { host.otherwise }
            } else {
                self.descend(self.lines[at as usize][0], lower, 64)
            };
        }
        while value >> 28 == VALUE_MARK >> 28 {
            let mark = self.record_at(value & VALUE_RECORD);
            value = if mark.key > now { mark.value } else { mark.otherwise };
        }
        value
    }

    #[cfg(test)]
    fn descend(&self, mut descriptor: u32, key: u64, mut rest: u32) -> u32 {
        let mut begins = 0;
        while descriptor >> 28 == KIND_NODE {
            let bits = descriptor >> 23 & 31;
            rest -= bits;
            let slot = (key >> rest) as u32 & ((1 << bits) - 1);
            let halves = &self.lines[((descriptor & NODE_LINE) + slot / 8) as usize][slot as usize % 8 * 2..];
            let entry = whole([halves[0], halves[1]]);
            (begins, descriptor) = (entry as u32, (entry >> 32) as u32);
        }
        if (descriptor >> 28).count_ones() < 2 {
            return descriptor;
        }
        let part = if rest > PART_BITS { key >> (rest - PART_BITS) & 31 } else { 0 };
        let line = (descriptor & VALUE_RECORD) + (u64::from(begins) & ((2 << part) - 1)).count_ones();
        let palette = |at: u8| self.lines[1 + usize::from(at) / 16][usize::from(at) % 16];
        super::line::find(&self.lines[line as usize], descriptor >> 28, key, palette)
    }
}

/// Where an entry's descriptor is in its line.
fn descriptor_half(slot: usize) -> usize {
    slot * 2 + usize::from(cfg!(target_endian = "little"))
}

fn halves(whole: u64) -> [u32; 2] {
    let bytes = whole.to_ne_bytes();
    [0, 4].map(|at| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes")))
}

fn whole(halves: [u32; 2]) -> u64 {
    let [low, high] = halves.map(u64::from);
    if cfg!(target_endian = "little") { high << 32 | low } else { low << 32 | high }
}

/// Their keys in a line do not differ only in what a line's keys do not have.
fn is_near(one: u64, other: u64, keys: Keys, width: u32) -> bool {
    keys == Keys::Of64 || (one ^ other) >> (64 - width) >> keys.bits() == 0
}

/// The bits that at least fifteen of sixteen prefixes share, and how many they are. Few prefixes are said to share none.
fn most_share(nets: &Nets, width: u32) -> (u64, u32) {
    let keys: Vec<u64> = nets.keys().map(|net| net.upper).collect();
    let (mut base, mut bits) = (0, 0);
    while keys.len() >= FEW && bits < width - LEAST_NODE_BITS {
        let half = base | 1 << (63 - bits);
        let of = |low: u64| {
            let last = last_of(low, bits + 1);
            keys.partition_point(|key| *key <= last) - keys.partition_point(|key| *key < low)
        };
        let enough = keys.len() - keys.len() / 16;
        if of(base) < enough {
            if of(half) < enough {
                break;
            }
            base = half;
        }
        bits += 1;
    }
    (base, bits)
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
    fn a_million_scattered_prefixes_take_less_than_twelve_bytes_each() {
        let mut state = 1u64;
        let set: PrefixSet = (0..1_000_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (Prefix::host(std::net::Ipv4Addr::from_bits((state >> 32) as u32).into()), Entry::block())
            })
            .collect();
        let table = Table::new(&set.v4, false);
        assert!(table.lines.len() * 64 < 12_000_000, "{} bytes", table.lines.len() * 64);
        set.v4.keys().step_by(1000).for_each(|net| agrees(&table, &set, net.address(true)));
    }

    #[test]
    fn what_is_looked_at_for_each_address_of_a_hundred_thousand_is_small_in_both_families() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 32
        };
        let four = |n: u64| Prefix::host(std::net::Ipv4Addr::from_bits(n as u32).into());
        let six =
            |n: u64| Prefix::new(std::net::Ipv6Addr::from_bits(u128::from(0x2001_0db8 << 32 | n) << 64).into(), 64);
        let set: PrefixSet = (0..100_000)
            .flat_map(|_| [four(next()), six(next()).unwrap()].map(|prefix| (prefix, Entry::block())))
            .collect();
        for (nets, is_ipv6) in [(&set.v4, false), (&set.v6, true)] {
            let table = Table::new(nets, is_ipv6);
            let root = table.lines[0][INSIDE];
            let node_bytes = 8usize << (root >> 23 & 31);
            assert!(root >> 28 == KIND_NODE && node_bytes <= 1 << 16, "a root of {node_bytes} bytes");
            assert!(table.lines.len() * 64 < 1_500_000, "{} bytes", table.lines.len() * 64);
            nets.keys().step_by(100).for_each(|net| agrees(&table, &set, net.address(!is_ipv6)));
        }
    }
}
