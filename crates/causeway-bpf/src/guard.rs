//! `guard.bpf.c` at work in this network namespace: packets judged before anything of this machine has to do with them.
//!
//! Everything is data in pinned maps, and the program hangs on pinned links: a process that goes leaves its rules in
//! force, the next one adopts them. What a listener is, and when a rule is made, is decided by others.

mod access;
mod cookies;
mod counts;
mod driver;
mod kernel;
mod line;
mod listener;
mod live;
mod rule;
mod samples;
mod sessions;
mod settings;
mod shared;
mod table;
pub mod twin;

pub use access::{Access, Entry, NoPrefix, Prefix, PrefixSet};
pub use cookies::CookieConditions;
pub use counts::{Count, Counts, Hits, Verdict};
pub use listener::{Listener, Mode, Rate, RateOf, Wants};
pub use rule::{Action, MAX_PATTERN, Pattern, Rule, RuleSet, fingerprint};
pub use samples::{Sample, Samples};
pub use sessions::Sessions;
pub use settings::Settings;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::dispatch::possible_processors;
use crate::flow::PortTable;
use crate::{Spot, Unavailable, call};
use kernel::Kernel;
use live::{Live, Size};
use shared::{MAX_GUARDED, MAX_RATES, MAX_SETS, RawCounts, RawGuarded, RawHits, RawRate, RawRule, RawSettings};

#[derive(Clone, Debug)]
pub struct Options {
    /// A directory of a mounted bpffs, made if it is missing. `None`: everything goes with the process (tests).
    pub pins: Option<PathBuf>,
    /// Sources whose rates are remembered; the ones that were quiet longest are forgotten.
    pub sources: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { pins: None, sources: 131_072 }
    }
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// In the driver, before there is a socket buffer.
    Native,
    /// As `Native`, but what it answers would be lost in this driver: the stack answers.
    Mute,
    /// Behind the driver: slower, everywhere.
    Generic,
}

/// What the program does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Passed,
    Dropped,
    /// An answer goes back where it came from.
    Replied,
}

/// All maps and the program.
#[derive(Debug)]
pub struct Guard {
    kernel: Kernel,
    sets: Mutex<BTreeMap<u16, Live>>,
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

fn index_of(what: &str, index: u16, bound: u16) -> io::Result<u32> {
    match index {
        index if (1..bound).contains(&index) => Ok(index.into()),
        _ => Err(refused(format!("{what} {index}: an index is 1 to {}", bound - 1))),
    }
}

impl Guard {
    /// Adopt what is pinned, and put this build's program in the place of the one there without a gap; else make it
    /// all anew. Judges nothing before `attach`.
    ///
    /// # Errors
    /// Why this build or this machine cannot.
    pub fn open(options: &Options) -> Result<Guard, Unavailable> {
        let guard = Guard { kernel: kernel::load(options)?, sets: Mutex::default() };
        let forgot = guard.forget_memos(None); // of a process that went in the middle of a change
        forgot.map_err(|error| Unavailable::refused("the guard's settings could not be written", error))?;
        Ok(guard)
    }

    /// Memory in bytes that [`Guard::open`] takes at most while it loads: the maps, a pattern of the largest, the kernel's
    /// thinking, and counters on each processor. A limit that is met there is no error: the kernel kills who is in its way.
    pub fn load_bytes() -> u64 {
        (64 << 20) + (3 << 20) * possible_processors().unwrap_or(1) as u64
    }

    /// Let the rules outlive this process. Attaching does that too.
    ///
    /// # Errors
    /// Why there is no place for them.
    pub fn keep(&self) -> io::Result<()> {
        self.kernel.keep()
    }

    /// Adopted or attached once, and not released: the rules outlive this process.
    pub fn is_kept(&self) -> bool {
        self.kernel.is_kept()
    }

    /// Judge what comes in by `interface` (of the calling thread's network namespace): in its driver if that can, else
    /// behind it. Attached already: fine.
    ///
    /// # Errors
    /// The kernel's; `EBUSY` if another program is attached there.
    pub fn attach(&self, interface: u32) -> io::Result<Attachment> {
        self.kernel.attach(interface)
    }

    /// How many instructions the verifier looked at; 0: the kernel does not tell (before 5.16).
    ///
    /// # Errors
    /// The kernel's.
    pub fn verified(&self) -> io::Result<u32> {
        call::verified(self.kernel.program.as_fd())
    }

    /// Drivers change: have SYNs answered by the program where the answers get out, else by the stack. For interfaces of the
    /// calling thread's network namespace; `attach` does it too.
    ///
    /// # Errors
    /// The kernel's.
    pub fn see_drivers(&self) -> io::Result<()> {
        self.kernel.see_drivers()
    }

    pub fn attached(&self) -> Vec<(u32, Attachment)> {
        self.kernel.links().iter().map(|(interface, link)| (*interface, link.attachment)).collect()
    }

    /// Detach from everything and leave nothing behind: what it knows is this process's alone until it is attached again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn release(&self) -> io::Result<()> {
        self.kernel.release()
    }

    /// # Errors
    /// The kernel's. Not attached: fine.
    pub fn detach(&self, interface: u32) -> io::Result<()> {
        self.kernel.detach(interface)
    }

    /// # Errors
    /// The kernel's.
    pub fn set_settings(&self, settings: &Settings) -> io::Result<()> {
        let raw = settings.raw(&self.raw_settings()?);
        call::update(self.kernel.maps.settings.as_fd(), &0u32, &raw)
    }

    fn raw_settings(&self) -> io::Result<RawSettings> {
        let mut raw = RawSettings::default();
        call::lookup(self.kernel.maps.settings.as_fd(), &0u32, &mut raw)?;
        Ok(raw)
    }

    /// What becomes of the packets of `index`, in one step.
    ///
    /// # Errors
    /// `InvalidInput` for an index that is out of range; else the kernel's.
    pub fn set_listener(&self, index: u16, listener: &Listener) -> io::Result<()> {
        let at = index_of("listener", index, MAX_GUARDED)?;
        call::update(self.kernel.maps.guarded.as_fd(), &at, &listener.raw()?)
    }

    /// # Errors
    /// The kernel's.
    pub fn listener(&self, index: u16) -> io::Result<Listener> {
        let mut raw = RawGuarded::default();
        call::lookup(self.kernel.maps.guarded.as_fd(), &index_of("listener", index, MAX_GUARDED)?, &mut raw)?;
        Ok(Listener::of(&raw))
    }

    /// Make `table` say which listener has each port of `spot`, in one step; an empty one removes the spot.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_ports(&self, spot: Spot, table: &PortTable) -> io::Result<()> {
        let map = self.kernel.maps.guarded_ports.as_fd();
        match table.is_empty() {
            true => call::delete(map, &spot)?,
            false => patiently(|| call::update(map, &spot, table.raw()))?,
        }
        let has_wildcards = self.spots()?.iter().any(Spot::is_wildcard).into();
        self.forget_memos(Some(has_wildcards))
    }

    /// What processors remember of who has what is of another generation now.
    fn forget_memos(&self, has_wildcards: Option<u32>) -> io::Result<()> {
        let mut settings = self.raw_settings()?;
        settings.generation = settings.generation.wrapping_add(1).max(1);
        settings.has_wildcards = has_wildcards.unwrap_or(settings.has_wildcards);
        call::update(self.kernel.maps.settings.as_fd(), &0u32, &settings)
    }

    /// # Errors
    /// The kernel's.
    pub fn ports(&self, spot: Spot) -> io::Result<PortTable> {
        let mut table = PortTable::default();
        match call::lookup(self.kernel.maps.guarded_ports.as_fd(), &spot, table.raw_mut()) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(table),
        }
    }

    /// # Errors
    /// The kernel's.
    pub fn spots(&self) -> io::Result<Vec<Spot>> {
        let mut spots = Vec::new();
        let room = Spot::tcp(std::net::Ipv4Addr::UNSPECIFIED.into());
        while let Some(next) = call::next_key(self.kernel.maps.guarded_ports.as_fd(), spots.last(), room)? {
            spots.push(next);
        }
        Ok(spots)
    }

    /// Which listener has what comes to an address of this machine and belongs to no port of a listener; `None`: nobody,
    /// it passes untouched.
    ///
    /// # Errors
    /// `InvalidInput` for an index that is out of range or an unspecified address; else the kernel's.
    pub fn set_address(&self, address: IpAddr, index: Option<u16>) -> io::Result<()> {
        let spot = Spot::whole(address);
        if spot.is_wildcard() {
            return Err(refused(
                "an unspecified address cannot be guarded: others' packets would be judged".to_string(),
            ));
        }
        let map = self.kernel.maps.guarded_addresses.as_fd();
        match index {
            Some(index) => call::update(map, &spot, &index_of("listener", index, MAX_GUARDED)?)?,
            None => call::delete(map, &spot)?,
        }
        self.forget_memos(None)
    }

    /// Addresses that have a listener of their own for what belongs to no port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&self) -> io::Result<Vec<(IpAddr, u16)>> {
        let map = self.kernel.maps.guarded_addresses.as_fd();
        let (mut found, mut last) = (Vec::new(), None);
        let room = Spot::tcp(std::net::Ipv4Addr::UNSPECIFIED.into());
        while let Some(spot) = call::next_key(map, last.as_ref(), room)? {
            let mut index = 0u32;
            match call::lookup(map, &spot, &mut index) {
                Ok(()) => found.push((spot.address(), index as u16)),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
            last = Some(spot);
        }
        Ok(found)
    }

    /// Put a set in place of the one of its slot, in one step: each packet is judged by one or the other. An empty set
    /// takes the slot's out.
    ///
    /// # Errors
    /// `InvalidInput` for a slot that is out of range; else the kernel's, and the old set stays in force.
    pub fn swap_prefixes(&self, slot: u16, set: PrefixSet) -> io::Result<()> {
        index_of("set", slot, MAX_SETS)?;
        let live = Live::new(set)?;
        self.put(slot, &live, false)?;
        self.put(slot, &live, true)?;
        self.sets().insert(slot, live);
        Ok(())
    }

    /// Give a prefix an entry, or take its entry away (`None`), in place: as fast with a million of them as with ten.
    /// Answers what it had.
    ///
    /// # Errors
    /// `NotFound` if this process has put no set there (it has adopted one: swap it first); else the kernel's.
    pub fn change_prefix(&self, slot: u16, prefix: Prefix, entry: Option<Entry>) -> io::Result<Option<Entry>> {
        let mut sets = self.sets();
        let live = sets.get_mut(&slot).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("set {slot} is not of this process: swap it first"))
        })?;
        let before = live.set().get(prefix);
        if live.change(prefix, entry)? {
            self.put(slot, live, prefix.address().is_ipv6())?;
        }
        Ok(before)
    }

    /// What a prefix has in the set of a slot that this process has put there.
    pub fn prefix(&self, slot: u16, prefix: Prefix) -> Option<Entry> {
        self.sets().get(&slot).and_then(|live| live.set().get(prefix))
    }

    /// In the map of its size, then out of those of others: a packet finds the old one or the new one, or either.
    fn put(&self, slot: u16, live: &Live, is_ipv6: bool) -> io::Result<()> {
        let maps = &self.kernel.maps;
        let at = 2 * u32::from(slot) + u32::from(is_ipv6);
        let new = live.map(is_ipv6);
        let outer = |size| match size {
            Size::Small => maps.small_tables.as_fd(),
            Size::Medium => maps.medium_tables.as_fd(),
            Size::Large => maps.large_tables.as_fd(),
            Size::Huge => maps.huge_tables.as_fd(),
        };
        if let Some((size, map)) = new {
            self.put_inner(outer(size), at, Some(map))?;
        }
        for size in Size::ALL.into_iter().filter(|size| new.is_none_or(|(new, _)| new != *size)) {
            // Not asked to delete what is not there: the kernel would wait for all processors all the same.
            if call::lookup(outer(size), &at, &mut 0u32).is_ok() {
                self.put_inner(outer(size), at, None)?;
            }
        }
        Ok(())
    }

    fn put_inner(&self, outer: BorrowedFd<'_>, slot: u32, inner: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match inner {
            Some(inner) => call::update(outer, &slot, &(inner.as_raw_fd() as u32)),
            None => call::delete(outer, &slot),
        }
    }

    fn sets(&self) -> MutexGuard<'_, BTreeMap<u16, Live>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Put these rules in place of all that are there, in one step: each packet is judged by one or the other.
    ///
    /// # Errors
    /// `InvalidInput` for a rule that makes no sense or too many of a listener; else the kernel's. The old ones stay.
    pub fn swap_rules(&self, rules: &RuleSet) -> io::Result<()> {
        let laid = rule::lay(rules)?;
        let inner = call::create_array(size_of::<RawRule>() as u32, laid.len() as u32)?;
        for (at, rule) in (0u32..).zip(&laid) {
            call::update(inner.as_fd(), &at, rule)?;
        }
        self.put_inner(self.kernel.maps.rule_sets.as_fd(), 0, Some(inner.as_fd()))
    }

    /// # Errors
    /// `InvalidInput` for an index that is out of range or a rate that makes no sense; else the kernel's.
    pub fn set_rate(&self, index: u16, rate: Option<&Rate>) -> io::Result<()> {
        let at = index_of("rate", index, MAX_RATES)?;
        let raw = rate.map_or(Ok(RawRate::default()), Rate::raw)?;
        call::update(self.kernel.maps.rates.as_fd(), &at, &raw)
    }

    /// Let packets of the flow path's open flows be known by its tables, which are pinned in `directory`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join_flows(&self, directory: &Path) -> io::Result<()> {
        let maps = &self.kernel.maps;
        for (outer, name) in [
            (&maps.joined_flows4, "flows4"),
            (&maps.joined_flows6, "flows6"),
            (&maps.joined_opening4, "opening4"),
            (&maps.joined_opening6, "opening6"),
        ] {
            let inner = call::pinned(&directory.join(name))?;
            self.put_inner(outer.as_fd(), 0, Some(inner.as_fd()))?;
        }
        Ok(())
    }

    /// Where an engine tells of its two-way sessions.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn sessions(&self) -> io::Result<Sessions> {
        Sessions::new(self.kernel.maps.sessions4.as_fd(), self.kernel.maps.sessions6.as_fd())
    }

    /// # Errors
    /// The kernel's.
    pub fn counts(&self, listener: u16) -> io::Result<Counts> {
        let mut of_each = vec![RawCounts::default(); possible_processors()?];
        let at = index_of("listener", listener, MAX_GUARDED)?;
        call::lookup(self.kernel.maps.guard_counts.as_fd(), &at, of_each.as_mut_slice())?;
        Ok(Counts::sum(&of_each))
    }

    /// # Errors
    /// The kernel's.
    pub fn hits(&self, tag: u16) -> io::Result<Hits> {
        let mut of_each = vec![RawHits::default(); possible_processors()?];
        call::lookup(self.kernel.maps.guard_hits.as_fd(), &u32::from(tag), of_each.as_mut_slice())?;
        Ok(Hits {
            packets: of_each.iter().map(|raw| raw.packets).sum(),
            established: of_each.iter().map(|raw| raw.established).sum(),
        })
    }

    /// What is sampled, as it comes. One reader at a time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn samples(&self) -> io::Result<Samples> {
        Samples::new(self.kernel.maps.guard_samples.as_fd().try_clone_to_owned()?)
    }

    /// Detach from every interface and unpin everything of `options.pins`: nothing is judged any more. Answers how many
    /// pins went.
    ///
    /// # Errors
    /// The kernel's.
    pub fn flush(options: &Options) -> io::Result<usize> {
        options.pins.as_ref().map_or(Ok(0), |directory| kernel::flush(directory))
    }

    /// What would become of a packet (an Ethernet frame) that came in by lo of the calling thread's namespace, and of its
    /// bytes. It is counted like any other; it goes nowhere.
    ///
    /// # Errors
    /// The kernel's: it takes 14 bytes and more.
    pub fn ask(&self, frame: &[u8]) -> io::Result<(Answer, Vec<u8>)> {
        let (answer, frame) = call::try_packet(self.kernel.program.as_fd(), frame, 1)?;
        let answer = match answer {
            1 => Answer::Dropped, // XDP_DROP
            3 => Answer::Replied, // XDP_TX
            _ => Answer::Passed,
        };
        Ok((answer, frame))
    }

    /// What judging a packet takes if it is all that there is, in ns: the mean of `repeat` times in a row. Else as `ask`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cost(&self, frame: &[u8], repeat: u32) -> io::Result<u32> {
        call::time_packet(self.kernel.program.as_fd(), frame, repeat)
    }

    /// Let the kernel time its programs while `act` runs; answers how often this one ran, and for how many ns in all.
    ///
    /// # Errors
    /// The kernel's.
    pub fn timed(&self, act: impl FnOnce()) -> io::Result<(u64, u64)> {
        let _timing = call::time_programs()?;
        let before = call::time_of(self.kernel.program.as_fd())?;
        act();
        let after = call::time_of(self.kernel.program.as_fd())?;
        Ok((after.0 - before.0, after.1 - before.1))
    }
}

/// Large values are made from memory that the kernel keeps in store, and fills up in the background.
fn patiently(mut act: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for _ in 0..100 {
        match act() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            other => return other,
        }
    }
    act()
}
