//! A prefix table in the kernel: an array of lines, written through a mapping while the program reads it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::access::{Entry, Prefix, PrefixSet};
use super::shared::Line;
use super::table::{Mended, Table};
use crate::call;

/// Room for mending: a sixteenth of the lines, and so many.
const SPARE_LINES: usize = 1024;
/// A map of a table counts marks by 20 bits.
const MOST_MARKS: usize = 1 << 20;

#[derive(Debug)]
struct Lines {
    map: OwnedFd,
    place: *mut Line,
    capacity: usize,
}

// SAFETY: the mapping is of this value alone, and is written through `&mut` only.
unsafe impl Send for Lines {}

impl Lines {
    fn new(lines: &[Line]) -> io::Result<Lines> {
        let capacity = lines.len() + lines.len() / 16 + SPARE_LINES;
        let map = call::create_array(size_of::<Line>() as u32, capacity as u32)?;
        // SAFETY: a new mapping of a map that has that many lines; the kernel rounds its memory up to pages.
        let place = unsafe {
            let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, map.as_raw_fd());
            libc::mmap(std::ptr::null_mut(), capacity * size_of::<Line>(), protection, libc::MAP_SHARED, fd, 0)
        };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut made = Lines { map, place: place.cast(), capacity };
        made.append(0, lines);
        Ok(made)
    }

    /// Nothing that the program can see leads there yet.
    fn append(&mut self, from: usize, lines: &[Line]) {
        assert!(from + lines.len() <= self.capacity);
        // SAFETY: within the mapping.
        unsafe { std::ptr::copy_nonoverlapping(lines.as_ptr(), self.place.add(from), lines.len()) };
    }

    /// The program sees one or the other, and what the new one leads to.
    fn store(&mut self, line: u32, word: usize, value: u64) {
        assert!((line as usize) < self.capacity && word < 8);
        // SAFETY: within the mapping, aligned, and only written with atomics once it is in use.
        unsafe { AtomicU64::from_ptr(self.place.add(line as usize).cast::<u64>().add(word)) }
            .store(value, Ordering::Release);
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nobody else has.
        unsafe { libc::munmap(self.place.cast(), self.capacity * size_of::<Line>()) };
    }
}

#[derive(Debug)]
struct Half {
    table: Table,
    lines: Lines,
}

/// A set, and its tables of both families where it has entries of them.
#[derive(Debug)]
pub(super) struct Live {
    set: PrefixSet,
    v4: Option<Half>,
    v6: Option<Half>,
}

impl Live {
    pub fn new(set: PrefixSet) -> io::Result<Live> {
        let ending = set.v4.values().chain(set.v6.values()).filter(|entry| entry.expires_ns.is_some()).count();
        if ending > MOST_MARKS {
            let reason = format!("{ending} entries of a set expire, at most {MOST_MARKS} can");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let mut live = Live { set, v4: None, v6: None };
        live.build(false)?;
        live.build(true)?;
        Ok(live)
    }

    /// # Errors
    /// The kernel's; what was there stays.
    fn build(&mut self, is_ipv6: bool) -> io::Result<()> {
        let nets = if is_ipv6 { &self.set.v6 } else { &self.set.v4 };
        let half = if nets.is_empty() {
            None
        } else {
            let table = Table::new(nets, is_ipv6);
            Some(Half { lines: Lines::new(&table.lines)?, table })
        };
        *if is_ipv6 { &mut self.v6 } else { &mut self.v4 } = half;
        Ok(())
    }

    pub fn set(&self) -> &PrefixSet {
        &self.set
    }

    pub fn map(&self, is_ipv6: bool) -> Option<BorrowedFd<'_>> {
        if is_ipv6 { &self.v6 } else { &self.v4 }.as_ref().map(|half| half.lines.map.as_fd())
    }

    /// Give or take an entry, in place where there is room: the kernel waits for all processors when a slot changes, which
    /// takes it some 10 ms. `true`: the table of its family is another map now, which has to be put in its slot.
    pub fn change(&mut self, prefix: Prefix, entry: Option<Entry>) -> io::Result<bool> {
        let before = match entry {
            Some(entry) => self.set.insert(prefix, entry),
            None => self.set.remove(prefix),
        };
        if before == entry {
            return Ok(false);
        }
        let is_ipv6 = prefix.address().is_ipv6();
        let (half, nets) = if is_ipv6 { (&mut self.v6, &self.set.v6) } else { (&mut self.v4, &self.set.v4) };
        if let Some(half) = half
            && let Mended::Words { from, words } = half.table.mend(nets, prefix.net())
            && half.table.lines.len() <= half.lines.capacity
        {
            half.lines.append(from, &half.table.lines[from..]);
            words.iter().for_each(|(line, word, value)| half.lines.store(*line, *word, *value));
            return Ok(false);
        }
        self.build(is_ipv6).map(|()| true)
    }
}
