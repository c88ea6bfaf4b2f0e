//! Sources and what each has done in the last seconds, in bounded room.
//!
//! Where there is no room, of a few neighbours the one that has done least makes way, and the newcomer begins at
//! nothing: a count here is never too high, so that nobody is taken for somebody else.

use foldhash::{HashMap, HashMapExt as _};

use super::source::Source;

/// Time is counted in pieces of so much.
pub const PIECE_MS: u64 = 500;
/// So many pieces are remembered.
pub const PIECES: usize = 8;
/// Candidates that are looked at for one that makes way.
const NEIGHBOURS: usize = 8;
const SKETCH_BITS: u32 = 256;

/// Counts by pieces of time, the newest last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    newest: u64,
    counts: [u16; PIECES],
}

impl Window {
    pub fn add(&mut self, now_ms: u64) {
        self.forget(now_ms);
        let count = &mut self.counts[(self.newest % PIECES as u64) as usize];
        *count = count.saturating_add(1);
    }

    /// Pieces of time that are over and were not written are empty.
    fn forget(&mut self, now_ms: u64) {
        let piece = now_ms / PIECE_MS;
        let passed = piece.saturating_sub(self.newest).min(PIECES as u64);
        for step in 0..passed {
            self.counts[((piece - step) % PIECES as u64) as usize] = 0;
        }
        self.newest = self.newest.max(piece);
    }

    /// The last `pieces` of them, the present one among them.
    fn last(&self, pieces: usize, now_ms: u64) -> impl Iterator<Item = u16> {
        let present = now_ms / PIECE_MS;
        (0..pieces.min(PIECES) as u64).map(move |step| {
            let is_kept = |piece: &u64| *piece <= self.newest && self.newest - piece < PIECES as u64;
            let piece = present.checked_sub(step).filter(is_kept);
            piece.map_or(0, |piece| self.counts[(piece % PIECES as u64) as usize])
        })
    }

    pub fn sum(&self, pieces: usize, now_ms: u64) -> u64 {
        self.last(pieces, now_ms).map(u64::from).sum()
    }

    /// The most in one piece, in a second.
    pub fn peak_per_s(&self, now_ms: u64) -> u64 {
        self.last(PIECES, now_ms).map(u64::from).max().unwrap_or(0) * 1000 / PIECE_MS
    }

    /// When the first of the pieces began that have had `per_s` one after the other until now; the present one is not
    /// over and has had some of it.
    pub fn since_ms(&self, per_s: f64, now_ms: u64) -> u64 {
        let least = (per_s * PIECE_MS as f64 / 1000.0).max(1.0);
        let before = self.last(PIECES, now_ms).skip(1).take_while(|count| f64::from(*count) >= least).count();
        (now_ms / PIECE_MS).saturating_sub(before as u64) * PIECE_MS
    }

    /// In how many of the last `pieces` was the rate of `per_s` reached?
    pub fn reached(&self, per_s: f64, pieces: usize, now_ms: u64) -> usize {
        let least = per_s * PIECE_MS as f64 / 1000.0;
        self.last(pieces, now_ms).filter(|count| f64::from(*count) >= least).count()
    }
}

/// About how many different numbers were there: linear counting.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sketch {
    bits: [u64; SKETCH_BITS as usize / 64],
    set: u32,
}

impl Sketch {
    pub fn add(&mut self, number: u16) {
        let bit = u32::from(number).wrapping_mul(0x9e37_79b1) >> 24; // neighbours must not share a bit
        let word = &mut self.bits[(bit / 64) as usize];
        self.set += u32::from(*word >> (bit % 64) & 1 == 0);
        *word |= 1 << (bit % 64);
    }

    pub fn estimate(&self) -> f64 {
        if self.set <= 1 {
            return f64::from(self.set); // most of them: a logarithm for each connection would be dear
        }
        let free = (SKETCH_BITS - self.set).max(1);
        f64::from(SKETCH_BITS) * (f64::from(SKETCH_BITS) / f64::from(free)).ln()
    }
}

/// What one source has done.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub source: Source,
    /// Connections that it made, and of those that ended: all, and such as a try to log in leaves.
    pub opened: Window,
    pub ended: Window,
    pub brief: Window,
    pub open: u32,
    /// When it opened the first one after a pause.
    pub began_ms: u64,
    pub ports: Sketch,
    pub ports_since_ms: u64,
    seen_ms: u64,
}

impl Entry {
    fn new(source: Source) -> Entry {
        Entry {
            source,
            opened: Window::default(),
            ended: Window::default(),
            brief: Window::default(),
            open: 0,
            began_ms: 0,
            ports: Sketch::default(),
            ports_since_ms: 0,
            seen_ms: 0,
        }
    }

    fn weight(&self, now_ms: u64) -> (u64, u64) {
        (self.opened.sum(PIECES, now_ms) + self.ended.sum(PIECES, now_ms), self.seen_ms)
    }
}

#[derive(Debug)]
pub struct Table {
    most: usize,
    entries: Vec<Entry>,
    at: HashMap<Source, usize>,
    hand: usize,
}

impl Table {
    pub fn new(most: usize) -> Table {
        Table { most, entries: Vec::new(), at: HashMap::new(), hand: 0 }
    }

    pub fn entry(&mut self, source: Source, now_ms: u64) -> &mut Entry {
        let index = match self.at.get(&source) {
            Some(index) => *index,
            None => self.place(source, now_ms),
        };
        let entry = &mut self.entries[index];
        entry.seen_ms = now_ms;
        entry
    }

    fn place(&mut self, source: Source, now_ms: u64) -> usize {
        let index = if self.entries.len() < self.most {
            self.entries.push(Entry::new(source));
            self.entries.len() - 1
        } else {
            let neighbours = (0..NEIGHBOURS).map(|step| (self.hand + step) % self.entries.len());
            let least = neighbours.min_by_key(|index| self.entries[*index].weight(now_ms)).unwrap_or(0);
            self.hand = (self.hand + NEIGHBOURS) % self.entries.len();
            self.at.remove(&self.entries[least].source);
            self.entries[least] = Entry::new(source);
            least
        };
        self.at.insert(source, index);
        index
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::super::source::Width;
    use super::*;

    fn host(number: u32) -> Source {
        Source::of(1, IpAddr::V4(Ipv4Addr::from_bits(number)), Width::Host)
    }

    #[test]
    fn a_window_forgets_what_is_older_than_its_pieces() {
        let mut window = Window::default();
        for piece in 0..4 {
            (0..=piece).for_each(|_| window.add(piece * PIECE_MS));
        }
        let now_ms = 3 * PIECE_MS + 10;
        assert_eq!((window.sum(1, now_ms), window.sum(8, now_ms)), (4, 10));
        assert_eq!((window.reached(4.0, 4, now_ms), window.reached(8.0, 4, now_ms)), (3, 1));
        assert_eq!((window.peak_per_s(now_ms), window.since_ms(4.0, now_ms)), (8, PIECE_MS));
        assert_eq!(window.sum(8, 3 * PIECE_MS + 20 * PIECE_MS), 0);
        window.add(30 * PIECE_MS);
        assert_eq!(window.sum(8, 30 * PIECE_MS), 1);
    }

    #[test]
    fn ports_are_told_apart_and_the_same_one_counts_once() {
        let mut sketch = Sketch::default();
        (0..10_000).for_each(|_| sketch.add(443));
        assert!(sketch.estimate() < 2.0);
        (1_000..1_100).for_each(|port| sketch.add(port));
        assert!((80.0..130.0).contains(&sketch.estimate()), "{}", sketch.estimate());
    }

    #[test]
    fn room_is_bounded_and_who_does_much_is_not_forgotten_for_who_does_little() {
        let mut table = Table::new(64);
        for _ in 0..1_000 {
            table.entry(host(7), 1_000).opened.add(1_000);
        }
        for number in 100..10_000 {
            table.entry(host(number), 1_000).opened.add(1_000);
        }
        assert_eq!(table.len(), 64);
        assert_eq!(table.entry(host(7), 1_000).opened.sum(8, 1_000), 1_000);
        assert_eq!(table.entry(host(99), 1_000).opened.sum(8, 1_000), 0, "a newcomer begins at nothing");
    }
}
