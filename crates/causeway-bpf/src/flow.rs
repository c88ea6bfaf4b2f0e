//! `flow.bpf.c` at work in this network namespace: plain flows that never leave the kernel.
//!
//! Everything lives in pinned maps and links, so a process that goes leaves its flows, and the opening of new ones,
//! going on; the next process adopts them. Knows addresses, ports and counts; which applications are carried, and
//! what becomes of idle flows, is decided by the edge.

mod application;
mod clsact;
mod counts;
mod cut;
mod events;
mod hook;
mod kernel;
pub(crate) mod pins;
mod ports;
mod rtnetlink;
mod shared;
mod table;

pub use application::{
    CHOICES, Carried, CarriedOrigin, HeaderKind, MAX_APPLICATIONS, MAX_ORIGINS, MAX_SLOTS, MAX_SOURCES,
};
pub use counts::{FlowOpenings, FlowTotals, FlowVerdicts, Verdict};
pub use events::{FlowEvent, FlowEventKind, FlowEvents, Glance, RawFlowEvent};
pub use hook::Hook;
pub use ports::PortTable;
pub use table::{Cursor, Family, Flow, FlowKey, Leg, Side, Table};

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use crate::dispatch::possible_processors;
use crate::{Spot, Unavailable, call};
use kernel::Kernel;
use shared::{Clock, Key, RawApplication, RawEnded, RawLeg, RawOpenings, RawTotals, Tally};

/// Legs that one call of `sweep` visits, about.
const SWEEP: usize = 2048;

#[derive(Clone, Debug)]
pub struct Options {
    /// A directory of a mounted bpffs, made if it is missing. `None`: everything goes with the process (tests).
    pub pins: Option<PathBuf>,
    /// Flows, not entries.
    pub capacity_v4: u32,
    pub capacity_v6: u32,
    /// What flows are translated to; outside of `net.ipv4.ip_local_port_range`, so that no socket has the same.
    pub source_ports: RangeInclusive<u16>,
    /// For interfaces that are attached from now on. `None`: tcx where the kernel has it, else clsact.
    pub hook: Option<Hook>,
}

impl Default for Options {
    fn default() -> Options {
        Options { pins: None, capacity_v4: 131_072, capacity_v6: 32_768, source_ports: 1024..=32_767, hook: None }
    }
}

/// What the program does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Left to the stack.
    Passed,
    Dropped,
    /// Sent on by some interface.
    Sent,
}

impl Answer {
    fn of(code: i32) -> Answer {
        match code {
            7 => Answer::Sent, // TC_ACT_REDIRECT
            2 => Answer::Dropped,
            _ => Answer::Passed,
        }
    }
}

/// All maps and the program.
#[derive(Debug)]
pub struct FlowPath {
    kernel: Kernel,
}

impl FlowPath {
    /// Adopt what is pinned, of the same layout version, and put this build's program in place of the one there
    /// without a gap; else make it all anew. Carries nothing before `attach`.
    ///
    /// # Errors
    /// Why this build or this machine cannot.
    pub fn open(options: &Options) -> Result<FlowPath, Unavailable> {
        Ok(FlowPath { kernel: kernel::load(options)? })
    }

    /// Let packets that come in by `interface` be carried (of the network namespace that it was opened in). Attached
    /// already: fine; a filter that somebody took away is put back.
    ///
    /// # Errors
    /// `AlreadyExists` if another's filter is where ours should be, else the kernel's.
    pub fn attach(&self, interface: u32) -> io::Result<()> {
        self.kernel.hooks.attach(interface)
    }

    /// Could packets come to it at all? Tries on lo, for a moment.
    ///
    /// # Errors
    /// As `attach`.
    pub fn try_attaching(&self) -> io::Result<()> {
        self.kernel.hooks.try_out()
    }

    /// How interfaces are attached from now on.
    pub fn hook(&self) -> Hook {
        self.kernel.hooks.hook
    }

    /// How many two-way flows there is room for, of both families together.
    ///
    /// # Errors
    /// The kernel's.
    pub fn capacity(&self) -> io::Result<u64> {
        let mut entries = 0;
        for family in [Family::V4, Family::V6] {
            entries += u64::from(call::most_entries(self.kernel.table(family, Table::Open))?);
        }
        Ok(entries / 2)
    }

    pub fn attached(&self) -> Vec<u32> {
        self.kernel.hooks.attached()
    }

    /// # Errors
    /// The kernel's. Not attached: fine.
    pub fn detach(&self, interface: u32) -> io::Result<()> {
        self.kernel.hooks.detach(interface)
    }

    /// Make `application` what flows of `index` are opened by, in one step; flows that are open stay as they are.
    ///
    /// # Errors
    /// `InvalidInput` if it has no origin or too many, or `index` is out of range; else the kernel's.
    pub fn set_application(&self, index: u16, application: &Carried) -> io::Result<()> {
        if !(1..=MAX_APPLICATIONS).contains(&index) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an index is 1 to 4095"));
        }
        let raw = application.raw()?;
        patiently(|| call::update(self.kernel.maps.applications.as_fd(), &u32::from(index), &raw))?;
        let balances = self.kernel.maps.balances.as_fd();
        if application.slots.is_empty() {
            return call::delete(balances, &u32::from(index));
        }
        let mut slots = vec![0u8; MAX_SLOTS];
        slots[..application.slots.len()].copy_from_slice(&application.slots);
        patiently(|| call::update(balances, &u32::from(index), slots.as_slice()))
    }

    /// # Errors
    /// The kernel's.
    pub fn application(&self, index: u16) -> io::Result<Option<Carried>> {
        let raw: Option<RawApplication> = look_up(self.kernel.maps.applications.as_fd(), &u32::from(index))?;
        Ok(raw.as_ref().map(Carried::of))
    }

    /// # Errors
    /// The kernel's.
    pub fn applications(&self) -> io::Result<Vec<(u16, Carried)>> {
        let mut found = Vec::new();
        let mut last: Option<u32> = None;
        while let Some(index) = call::next_key(self.kernel.maps.applications.as_fd(), last.as_ref(), 0u32)? {
            found.extend(self.application(index as u16)?.map(|application| (index as u16, application)));
            last = Some(index);
        }
        found.sort_unstable_by_key(|(index, _)| *index);
        Ok(found)
    }

    /// Its open flows stay; ports that still name it open none. Not there: fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_application(&self, index: u16) -> io::Result<()> {
        call::delete(self.kernel.maps.balances.as_fd(), &u32::from(index))?;
        call::delete(self.kernel.maps.applications.as_fd(), &u32::from(index))
    }

    /// Make `table` all that is carried of `spot`, in one step; an empty one removes the spot.
    ///
    /// # Errors
    /// `InvalidInput` for an unspecified address; else the kernel's.
    pub fn set_ports(&self, spot: Spot, table: &PortTable) -> io::Result<()> {
        if spot.is_wildcard() {
            let reason = "an unspecified address cannot be carried: it would take what is routed to others";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let map = self.kernel.maps.listeners.as_fd();
        match table.is_empty() {
            true => call::delete(map, &spot),
            false => patiently(|| call::update(map, &spot, table.raw())),
        }
    }

    /// # Errors
    /// The kernel's.
    pub fn ports(&self, spot: Spot) -> io::Result<PortTable> {
        let mut table = PortTable::default();
        match call::lookup(self.kernel.maps.listeners.as_fd(), &spot, table.raw_mut()) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(table),
        }
    }

    /// # Errors
    /// The kernel's.
    pub fn spots(&self) -> io::Result<Vec<Spot>> {
        let mut spots = Vec::new();
        let room = Spot::tcp(std::net::Ipv4Addr::UNSPECIFIED.into());
        while let Some(next) = call::next_key(self.kernel.maps.listeners.as_fd(), spots.last(), room)? {
            spots.push(next);
        }
        Ok(spots)
    }

    /// # Errors
    /// The kernel's.
    pub fn totals(&self, index: u16) -> io::Result<FlowTotals> {
        let mut of_each = vec![RawTotals::default(); possible_processors()?];
        call::lookup(self.kernel.maps.totals.as_fd(), &u32::from(index), of_each.as_mut_slice())?;
        let sum = |of: fn(&RawTotals) -> u64| of_each.iter().map(of).sum();
        Ok(FlowTotals {
            connections: sum(|totals| totals.connections),
            client_bytes: sum(|totals| totals.bytes[0]),
            client_packets: sum(|totals| totals.packets[0]),
            origin_bytes: sum(|totals| totals.bytes[1]),
            origin_packets: sum(|totals| totals.packets[1]),
            drops: sum(|totals| totals.drops),
            ports_exhausted: sum(|totals| totals.exhausted),
            table_full: sum(|totals| totals.table_full),
        })
    }

    /// # Errors
    /// The kernel's.
    pub fn openings(&self, index: u16) -> io::Result<FlowOpenings> {
        let mut of_each = vec![RawOpenings::default(); possible_processors()?];
        call::lookup(self.kernel.maps.openings.as_fd(), &u32::from(index), of_each.as_mut_slice())?;
        let sum = |of: fn(&RawOpenings) -> u64| of_each.iter().map(of).sum();
        Ok(FlowOpenings { opened: sum(|of| of.opened), two_way: sum(|of| of.two_way), pressed: sum(|of| of.pressed) })
    }

    /// # Errors
    /// The kernel's.
    pub fn verdicts(&self) -> io::Result<FlowVerdicts> {
        let mut of_each = vec![0u64; possible_processors()?];
        let mut verdicts = FlowVerdicts::default();
        for verdict in Verdict::ALL {
            call::lookup(self.kernel.maps.flow_verdicts.as_fd(), &(verdict as u32), of_each.as_mut_slice())?;
            verdicts.set(verdict, of_each.iter().sum());
        }
        Ok(verdicts)
    }

    /// Visit a bounded number of legs from `cursor` on (`Cursor::default()` begins a round). An entry may be seen
    /// twice, or not, while others come and go; one that stays is seen.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sweep(
        &self,
        family: Family,
        table: Table,
        cursor: Cursor,
        visit: &mut dyn FnMut(Leg),
    ) -> io::Result<Cursor> {
        match family {
            Family::V4 => sweep::<4>(self.kernel.table(family, table), cursor, visit),
            Family::V6 => sweep::<16>(self.kernel.table(family, table), cursor, visit),
        }
    }

    /// Both legs of a flow, wherever it is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn flow(&self, client_key: &FlowKey) -> io::Result<Option<Flow>> {
        self.look(client_key, false)
    }

    /// One whose end was told, for as long as it is kept for what is sent again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ended(&self, client_key: &FlowKey) -> io::Result<Option<Flow>> {
        self.look(client_key, true)
    }

    fn look(&self, client_key: &FlowKey, is_ended: bool) -> io::Result<Option<Flow>> {
        let now = Clock::now();
        let found = match family_of(client_key) {
            Family::V4 => {
                self.legs::<4>(client_key, is_ended)?.map(|(key, legs)| Flow::new(&key, &legs[0], &legs[1], now))
            }
            Family::V6 => {
                self.legs::<16>(client_key, is_ended)?.map(|(key, legs)| Flow::new(&key, &legs[0], &legs[1], now))
            }
        };
        Ok(found)
    }

    /// Take both legs out; answers the last counts. Packets that come later find no flow and go to the stack.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, client_key: &FlowKey) -> io::Result<Option<Flow>> {
        let flow = self.flow(client_key)?;
        if let Some(flow) = &flow {
            let origin_key = FlowKey { from: flow.origin, to: flow.source, is_tcp: flow.is_tcp };
            match family_of(client_key) {
                Family::V4 => self.take_out::<4>(&[*client_key, origin_key])?,
                Family::V6 => self.take_out::<16>(&[*client_key, origin_key])?,
            }
        }
        Ok(flow)
    }

    /// End a flow: RST to both sides of a TCP connection, and out of the table. False: it was over already.
    ///
    /// # Errors
    /// The kernel's; the flow is out of the table anyway.
    pub fn cut(&self, flow: &Flow) -> io::Result<bool> {
        let Some(last) = self.remove(&flow.client_key())? else { return Ok(false) };
        if last.is_tcp {
            cut::reset_both(&last)?;
        }
        Ok(true)
    }

    /// Ask the one whose connection may have been reset by the other for a sign of life: alive it acknowledges, else it
    /// resets, and both go through the program.
    ///
    /// # Errors
    /// The kernel's.
    pub fn probe(&self, flow: &Flow) -> io::Result<()> {
        match flow.was_reset_by {
            Some(by) if flow.is_tcp && !flow.is_closed => cut::probe(flow, by),
            _ => Ok(()),
        }
    }

    /// What happened, as it happens. One reader at a time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn events(&self) -> io::Result<FlowEvents> {
        FlowEvents::new(self.kernel.maps.events.as_fd().try_clone_to_owned()?)
    }

    /// Detach from every interface and unpin everything of `options.pins`: flows end. Answers how many pins and filters
    /// went. To be called in the network namespace that it was opened in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn flush(options: &Options) -> io::Result<usize> {
        options.pins.as_ref().map_or(Ok(0), |directory| Ok(hook::flush(directory)? + pins::flush(directory)?))
    }

    /// What would become of a packet (an Ethernet frame) that came in by lo of the calling thread's namespace:
    /// the program's answer, and the packet. What it changes of flows is real; the packet goes nowhere.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&self, packet: &[u8]) -> io::Result<(Answer, Vec<u8>)> {
        let (answer, packet) = call::try_packet(self.kernel.program(), packet, 1)?;
        Ok((Answer::of(answer), packet))
    }

    /// Let the kernel time its programs while `act` runs; answers how often this one ran, and for how many ns in all.
    ///
    /// # Errors
    /// The kernel's.
    pub fn timed(&self, act: impl FnOnce()) -> io::Result<(u64, u64)> {
        let _timing = call::time_programs()?;
        let before = call::time_of(self.kernel.program())?;
        act();
        let after = call::time_of(self.kernel.program())?;
        Ok((after.0 - before.0, after.1 - before.1))
    }

    /// How many instructions the verifier looked at; 0: the kernel does not tell (before 5.16).
    ///
    /// # Errors
    /// The kernel's.
    pub fn verified(&self) -> io::Result<u32> {
        call::verified(self.kernel.program())
    }

    fn legs<const N: usize>(&self, client_key: &FlowKey, is_ended: bool) -> io::Result<Option<Legs<N>>> {
        let key = client_key.raw::<N>();
        let Some(client) = self.leg(&key, is_ended)? else { return Ok(None) };
        if client.tally.has(shared::IS_ORIGIN_LEG) {
            return Ok(None);
        }
        let origin = self.leg(&Key::new(client.ends.swapped(), client_key.is_tcp), is_ended)?;
        // Its other leg may have been evicted, or be on its way from one table to the other.
        let never = RawLeg { ends: key.ends.swapped(), extra: 0, tally: Tally::default() };
        Ok(Some((key, [client, origin.unwrap_or(never)])))
    }

    fn leg<const N: usize>(&self, key: &Key<N>, is_ended: bool) -> io::Result<Option<RawLeg<N>>> {
        let family = if N == 4 { Family::V4 } else { Family::V6 };
        if is_ended {
            let there = look_up::<u32, RawEnded<N>>(self.kernel.ended(family), &key.place())?;
            return Ok(there.filter(|it| it.key == *key).map(|it| it.leg));
        }
        match look_up(self.kernel.table(family, Table::Open), key)? {
            None => look_up(self.kernel.table(family, Table::Opening), key),
            found => Ok(found),
        }
    }

    fn take_out<const N: usize>(&self, keys: &[FlowKey]) -> io::Result<()> {
        let family = if N == 4 { Family::V4 } else { Family::V6 };
        for key in keys {
            call::delete(self.kernel.table(family, Table::Open), &key.raw::<N>())?;
            call::delete(self.kernel.table(family, Table::Opening), &key.raw::<N>())?;
        }
        Ok(())
    }
}

type Legs<const N: usize> = (Key<N>, [RawLeg<N>; 2]);

fn family_of(key: &FlowKey) -> Family {
    if key.from.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn look_up<K, V: Copy>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = std::mem::MaybeUninit::<V>::zeroed();
    match call::lookup(map, key, &mut value) {
        // SAFETY: plain numbers, for which zeroes are a value, and the kernel has written all of them.
        Ok(()) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
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

fn sweep<const N: usize>(map: BorrowedFd<'_>, cursor: Cursor, visit: &mut dyn FnMut(Leg)) -> io::Result<Cursor> {
    let nobody = [0; N];
    let ends = shared::Ends { saddr: nobody, daddr: nobody, sport: [0; 2], dport: [0; 2] };
    let mut keys = vec![Key::new(ends, false); SWEEP];
    let mut legs = vec![RawLeg { ends, extra: 0, tally: Tally::default() }; SWEEP];
    let (count, bucket) = call::entries(map, cursor.bucket, &mut keys, &mut legs)?;
    let clock = Clock::now();
    keys.iter().zip(&legs).take(count).for_each(|(key, leg)| visit(Leg::new(key, leg, clock)));
    Ok(Cursor { bucket })
}
