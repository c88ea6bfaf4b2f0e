//! The sessions of one worker: found by key, kept in the order in which they would be given up.
//!
//! One-way sessions (the client never said anything after the origin's answer) go first, the oldest first, because a
//! flood of invented sources makes only those; then the least recently used. Every operation is O(1). Closed sessions keep
//! their slot until the end of the turn, so that a stale notice finds nobody.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::ops::{Index, IndexMut};

use slab::Slab;

use super::session::{Key, Session, State};

const NONE: u32 = u32::MAX;
const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
struct Queue {
    first: u32,
    last: u32,
}

impl Queue {
    const EMPTY: Queue = Queue { first: NONE, last: NONE };
}

#[derive(Debug)]
struct Entry {
    session: Session,
    before: u32,
    after: u32,
}

#[derive(Debug)]
pub struct Table {
    entries: Slab<Entry>,
    /// Keys are chosen by clients, so the hash must not be guessable.
    by_key: HashMap<Key, u32, RandomState>,
    one_way: Queue,
    two_way: Queue,
    /// How many of each application's are two-way.
    two_way_of: HashMap<u128, usize>,
    closed: Vec<usize>,
    /// The earliest timer that is set for a slot. It outlives the session, so that a flood of short-lived
    /// sessions sets no more timers than there are slots.
    armed_ms: Vec<u64>,
}

impl Table {
    pub fn new() -> Table {
        Table {
            entries: Slab::new(),
            by_key: HashMap::default(),
            one_way: Queue::EMPTY,
            two_way: Queue::EMPTY,
            two_way_of: HashMap::new(),
            closed: Vec::new(),
            armed_ms: Vec::new(),
        }
    }

    pub fn open(&self) -> usize {
        self.entries.len() - self.closed.len()
    }

    pub fn find(&self, key: &Key) -> Option<usize> {
        self.by_key.get(key).map(|slot| *slot as usize)
    }

    pub fn get(&self, slot: usize) -> Option<&Session> {
        self.entries.get(slot).map(|entry| &entry.session)
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &Session)> {
        self.entries.iter().map(|(slot, entry)| (slot, &entry.session))
    }

    pub fn insert(&mut self, session: Session) -> usize {
        let key = session.key;
        let slot = self.entries.insert(Entry { session, before: NONE, after: NONE });
        if self.armed_ms.len() <= slot {
            self.armed_ms.resize(slot + 1, NEVER);
        }
        self.by_key.insert(key, slot as u32);
        self.append(slot, false);
        slot
    }

    /// The client has said something after the origin has.
    pub fn promote(&mut self, slot: usize) {
        self.unlink(slot);
        let session = &mut self.entries[slot].session;
        session.is_two_way = true;
        *self.two_way_of.entry(session.active.id).or_default() += 1;
        self.append(slot, true);
    }

    pub fn has_two_way(&self, application: u128) -> bool {
        self.two_way_of.contains_key(&application)
    }

    /// It was used just now. The order of one-way sessions is that of their making.
    pub fn touch(&mut self, slot: usize) {
        if self.entries[slot].session.is_two_way && self.two_way.last != slot as u32 {
            self.unlink(slot);
            self.append(slot, true);
        }
    }

    /// Take it out of everything but its slot, which is free after [`Table::free_closed`].
    pub fn close(&mut self, slot: usize) {
        self.unlink(slot);
        let session = &mut self.entries[slot].session;
        session.state = State::Closed;
        session.held = Vec::new();
        self.by_key.remove(&session.key);
        if session.is_two_way
            && let Some(count) = self.two_way_of.get_mut(&session.active.id)
        {
            *count -= 1;
            if *count == 0 {
                self.two_way_of.remove(&session.active.id);
            }
        }
        self.closed.push(slot);
    }

    pub fn free_closed(&mut self) {
        for slot in self.closed.drain(..) {
            self.entries.remove(slot);
        }
    }

    pub fn oldest_one_way(&self) -> Option<usize> {
        (self.one_way.first != NONE).then_some(self.one_way.first as usize)
    }

    pub fn first_to_go(&self) -> Option<usize> {
        self.oldest_one_way().or((self.two_way.first != NONE).then_some(self.two_way.first as usize))
    }

    /// When a timer must be set for `slot`; none if one is set that is early enough.
    pub fn arm(&mut self, slot: usize) -> Option<u64> {
        let due_ms = self.entries[slot].session.due_ms();
        let armed_ms = &mut self.armed_ms[slot];
        (due_ms < *armed_ms).then(|| {
            *armed_ms = due_ms;
            due_ms
        })
    }

    /// Look again then, whatever is due.
    pub fn arm_at(&mut self, slot: usize, due_ms: u64) -> u64 {
        self.armed_ms[slot] = due_ms;
        due_ms
    }

    /// A timer has gone off. False if it was overtaken by an earlier one and means nothing.
    pub fn disarm(&mut self, slot: usize, now_ms: u64) -> bool {
        match self.armed_ms.get_mut(slot) {
            Some(armed_ms) if *armed_ms <= now_ms => {
                *armed_ms = NEVER;
                true
            }
            _ => false,
        }
    }

    fn queue(&mut self, is_two_way: bool) -> &mut Queue {
        if is_two_way { &mut self.two_way } else { &mut self.one_way }
    }

    fn append(&mut self, slot: usize, is_two_way: bool) {
        let queue = self.queue(is_two_way);
        let last = std::mem::replace(&mut queue.last, slot as u32);
        if last == NONE {
            queue.first = slot as u32;
        } else {
            self.entries[last as usize].after = slot as u32;
        }
        let entry = &mut self.entries[slot];
        (entry.before, entry.after) = (last, NONE);
    }

    fn unlink(&mut self, slot: usize) {
        let Entry { before, after, ref session } = self.entries[slot];
        let is_two_way = session.is_two_way;
        match before {
            NONE => self.queue(is_two_way).first = after,
            before => self.entries[before as usize].after = after,
        }
        match after {
            NONE => self.queue(is_two_way).last = before,
            after => self.entries[after as usize].before = before,
        }
    }
}

impl Index<usize> for Table {
    type Output = Session;

    fn index(&self, slot: usize) -> &Session {
        &self.entries[slot].session
    }
}

impl IndexMut<usize> for Table {
    fn index_mut(&mut self, slot: usize) -> &mut Session {
        &mut self.entries[slot].session
    }
}

#[cfg(test)]
mod tests;
