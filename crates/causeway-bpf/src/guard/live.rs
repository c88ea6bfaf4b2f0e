//! A prefix table in the kernel: an array of one of four sizes, written through a mapping while the program reads it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::access::{Entry, Prefix, PrefixSet};
use super::shared::{LARGE_WINDOWS, Line, SMALL_BITS, WINDOW_BITS};
use super::table::{Mended, Table, Word};
use crate::call;

/// Of a huge table: 128 MiB.
const MOST_WINDOWS: u32 = 64;
/// Room for mending: an eighth of the lines, and so many.
const SPARE_LINES: usize = 64;

/// What a table's map is like; the program has a map of such maps for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Medium,
    Large,
    Huge,
}

impl Size {
    pub const ALL: [Size; 4] = [Size::Small, Size::Medium, Size::Large, Size::Huge];

    fn window_bytes(self) -> usize {
        1 << if self == Size::Small { SMALL_BITS } else { WINDOW_BITS }
    }

    /// The program knows that of all but the huge ones, which have at most so many.
    fn windows(self) -> u32 {
        match self {
            Size::Small | Size::Medium => 1,
            Size::Large => LARGE_WINDOWS,
            Size::Huge => MOST_WINDOWS,
        }
    }

    fn window_lines(self) -> usize {
        self.window_bytes() / size_of::<Line>()
    }

    /// For so many lines and what mending will add: the size, and how many windows.
    fn of(lines: usize) -> io::Result<(Size, u32)> {
        let wanted = lines + lines / 8 + SPARE_LINES;
        let room = |size: &Size| size.window_lines() * size.windows() as usize;
        let size = Size::ALL.into_iter().find(|size| room(size) >= wanted).ok_or_else(|| {
            let mebibytes = |lines: usize| (lines * size_of::<Line>()) >> 20;
            let (needs, most) = (mebibytes(wanted), mebibytes(room(&Size::Huge)));
            let reason =
                format!("a set needs {needs} MiB for one family, at most {most} are possible: give it fewer prefixes");
            io::Error::new(io::ErrorKind::InvalidInput, reason)
        })?;
        let needs = wanted.div_ceil(size.window_lines()) as u32;
        Ok((size, if size == Size::Huge { needs } else { size.windows() }))
    }
}

#[derive(Debug)]
struct Lines {
    map: OwnedFd,
    place: *mut Line,
    size: Size,
    /// How many there is room for.
    most: usize,
}

// SAFETY: the mapping is of this value alone, and is written through `&mut` only.
unsafe impl Send for Lines {}

impl Lines {
    fn new(lines: &[Line]) -> io::Result<Lines> {
        let (size, windows) = Size::of(lines.len())?;
        let create = if size == Size::Huge { call::create_array } else { call::create_mappable_array };
        let map = create(size.window_bytes() as u32, windows)?;
        let most = size.window_lines() * windows as usize;
        // SAFETY: a new mapping of a map that has that many bytes, whole pages.
        let place = unsafe {
            let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, map.as_raw_fd());
            let bytes = most * size_of::<Line>();
            libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, 0)
        };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut made = Lines { map, place: place.cast(), size, most };
        made.append(0, lines);
        Ok(made)
    }

    /// Nothing that the program can see leads there yet.
    fn append(&mut self, from: usize, lines: &[Line]) {
        assert!(from + lines.len() <= self.most);
        // SAFETY: within the mapping.
        unsafe { std::ptr::copy_nonoverlapping(lines.as_ptr(), self.place.add(from), lines.len()) };
    }

    /// The program sees one or the other, and what the new one leads to.
    fn store(&mut self, word: Word) {
        assert!((word.line as usize) < self.most && word.word < 8);
        // SAFETY: within the mapping, aligned, and only written with atomics once it is in use.
        unsafe { AtomicU64::from_ptr(self.place.add(word.line as usize).cast::<u64>().add(word.word)) }
            .store(word.value, Ordering::Release);
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: our mapping, which nobody else has.
        unsafe { libc::munmap(self.place.cast(), self.most * size_of::<Line>()) };
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

    pub fn map(&self, is_ipv6: bool) -> Option<(Size, BorrowedFd<'_>)> {
        if is_ipv6 { &self.v6 } else { &self.v4 }.as_ref().map(|half| (half.lines.size, half.lines.map.as_fd()))
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
            && half.table.lines.len() <= half.lines.most
        {
            half.lines.append(from, &half.table.lines[from..]);
            words.into_iter().for_each(|word| half.lines.store(word));
            return Ok(false);
        }
        self.build(is_ipv6).map(|()| true)
    }
}
