//! What is known of each index that the kernel carries flows of: shared by changes, which write it, and the thread
//! that looks after flows.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_bpf::flow::{Carried, FlowOpenings, FlowPath, FlowTotals, MAX_APPLICATIONS};

use super::choice::choices;
use crate::application::Active;
use crate::count::Counters;
use crate::firewall::Firewall;
use crate::maglev;

/// An origin that did not answer, or refused, gets no new flows for this long where there is another.
const PENALTY_MS: u64 = 10_000;

/// One application on the edge addresses of one family.
#[derive(Debug, Default)]
pub struct Entry {
    pub id: u128,
    /// None: of an earlier process, and not in the snapshot.
    pub active: Option<Arc<Active>>,
    pub is_ipv4: Option<bool>,
    /// As the kernel has it.
    pub told: Option<Carried>,
    /// Who has which clients while all origins answer.
    slots: Vec<u8>,
    shunned_until_ms: Vec<u64>,
    counted: FlowTotals,
    begun: (FlowOpenings, FlowTotals),
    /// Flows that are not over, by the last sweep and the events since.
    pub open: u64,
    /// It opens no flows any more. When those it has are cut, if ever.
    pub leaving: Option<Leaving>,
    /// The rules of its application as they are now, also where it has left and only its flows go on.
    pub firewall: Option<Arc<Firewall>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    pub cut_at_ms: Option<u64>,
}

/// Of an application: what it has had of the kernel so far, on all its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    pub opened: u64,
    pub two_way: u64,
    pub pressed: u64,
    pub packets: u64,
}

#[derive(Debug, Default)]
pub struct Entries {
    pub of: BTreeMap<u16, Entry>,
    last: u16,
    begun: BTreeMap<u128, Begun>,
}

#[derive(Debug, Default)]
pub struct Book(Mutex<Entries>);

impl Book {
    pub fn open(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    /// An index that nobody has; not one that was in use lately, whose counts the kernel still has.
    pub fn free(&mut self) -> Option<u16> {
        let after = (self.last + 1..=MAX_APPLICATIONS).chain(1..=self.last);
        let free = after.into_iter().find(|index| !self.of.contains_key(index))?;
        self.last = free;
        Some(free)
    }

    /// As the kernel has it, from an earlier process.
    pub fn adopt(&mut self, index: u16, told: Carried) {
        let is_ipv4 = told.origins.first().map(|origin| origin.address.is_ipv4());
        let entry = Entry { id: u128::from_be_bytes(told.id), is_ipv4, told: Some(told), ..Entry::default() };
        self.of.insert(index, entry);
        self.last = self.last.max(index);
    }

    /// Which index has this application on this family, and opens flows for it?
    pub fn index_of(&self, id: u128, is_ipv4: bool) -> Option<u16> {
        let is_it = |entry: &Entry| entry.id == id && entry.leaving.is_none() && entry.is_ipv4 == Some(is_ipv4);
        self.of.iter().find(|(_, entry)| is_it(entry)).map(|(index, _)| *index)
    }

    /// Have the kernel open flows of `index` as `wanted` says.
    ///
    /// # Errors
    /// The kernel's.
    pub fn tell(&mut self, path: &FlowPath, index: u16, mut wanted: Carried, now_ms: u64) -> io::Result<()> {
        let entry = self.of.entry(index).or_default();
        let is_same_list = entry.told.as_ref().is_some_and(|told| told.origins == wanted.origins);
        if !is_same_list {
            entry.shunned_until_ms = vec![0; wanted.origins.len()];
        }
        entry.shunned_until_ms.resize(wanted.origins.len(), 0);
        entry.slots = std::mem::take(&mut wanted.slots);
        let is_shunned = entry.is_shunned(now_ms);
        wanted.choices = choices(&is_shunned);
        wanted.slots = maglev::without(&entry.slots, &is_shunned);
        if entry.told.as_ref() != Some(&wanted) {
            path.set_application(index, &wanted)?;
            entry.told = Some(wanted);
        }
        Ok(())
    }

    /// Send clients of `index` elsewhere than to the origin at `address` for a while, if there is another one.
    /// Answers whether there is.
    pub fn shun(&mut self, path: &FlowPath, index: u16, address: std::net::IpAddr, now_ms: u64) -> bool {
        let Some(entry) = self.of.get_mut(&index) else { return false };
        let Some(told) = &entry.told else { return false };
        if told.origins.len() < 2 {
            return false;
        }
        for (origin, until_ms) in told.origins.iter().zip(&mut entry.shunned_until_ms) {
            if origin.address == address {
                *until_ms = now_ms + PENALTY_MS;
            }
        }
        entry.rewrite(path, index, now_ms);
        entry.is_shunned(now_ms).contains(&false)
    }

    /// Origins whose time has passed get flows again.
    pub fn welcome(&mut self, path: &FlowPath, now_ms: u64) {
        for (index, entry) in &mut self.of {
            if entry.shunned_until_ms.iter().any(|until_ms| *until_ms != 0 && *until_ms <= now_ms) {
                entry.shunned_until_ms.iter_mut().filter(|until_ms| **until_ms <= now_ms).for_each(|it| *it = 0);
                entry.rewrite(path, *index, now_ms);
            }
        }
    }

    /// Bring the counters of applications up to date with what the kernel has counted.
    pub fn count(&mut self, path: &FlowPath) {
        for (index, entry) in &mut self.of {
            let Some(active) = &entry.active else { continue };
            let (Ok(now), Some(counters)) = (path.totals(*index), active.counters.last()) else { continue };
            add(counters, &now, &entry.counted, entry.told.as_ref().is_some_and(|told| told.is_tcp));
            entry.counted = now;
        }
        self.count_open();
    }

    /// First packets and what became of them, by application. Never goes back, whatever indices come and go.
    pub fn begun(&mut self, path: &FlowPath) -> &BTreeMap<u128, Begun> {
        for (index, entry) in &mut self.of {
            let (Ok(now), Ok(totals)) = (path.openings(*index), path.totals(*index)) else { continue };
            let (before, totals_before) = std::mem::replace(&mut entry.begun, (now, totals));
            let packets = |of: &FlowTotals| of.client_packets + of.origin_packets;
            let sum = self.begun.entry(entry.id).or_default();
            sum.opened += now.opened.saturating_sub(before.opened);
            sum.two_way += now.two_way.saturating_sub(before.two_way);
            sum.pressed += now.pressed.saturating_sub(before.pressed);
            sum.packets += packets(&totals).saturating_sub(packets(&totals_before));
        }
        &self.begun
    }

    /// Counters of an application are those of all its entries.
    fn count_open(&self) {
        let mut open: BTreeMap<u128, (&Arc<Active>, u64)> = BTreeMap::new();
        for entry in self.of.values() {
            if let Some(active) = &entry.active {
                open.entry(entry.id).or_insert((active, 0)).1 += entry.open;
            }
        }
        for (active, open) in open.values() {
            if let Some(counters) = active.counters.last() {
                counters.connections_open.set(*open);
            }
        }
    }

    pub fn open_flows(&self) -> u64 {
        self.of.values().map(|entry| entry.open).sum()
    }
}

impl Entry {
    pub fn new(id: u128, is_ipv4: bool) -> Entry {
        Entry { id, is_ipv4: Some(is_ipv4), ..Entry::default() }
    }

    fn is_shunned(&self, now_ms: u64) -> Vec<bool> {
        self.shunned_until_ms.iter().map(|until_ms| *until_ms > now_ms).collect()
    }

    fn rewrite(&mut self, path: &FlowPath, index: u16, now_ms: u64) {
        let is_shunned = self.is_shunned(now_ms);
        let Some(told) = &mut self.told else { return };
        let (wanted, slots) = (choices(&is_shunned), maglev::without(&self.slots, &is_shunned));
        if told.choices != wanted || told.slots != slots {
            (told.choices, told.slots) = (wanted, slots);
            let _ = path.set_application(index, told); // refused: clients go where they went
        }
    }
}

fn add(counters: &Counters, now: &FlowTotals, before: &FlowTotals, is_tcp: bool) {
    let more = |of: fn(&FlowTotals) -> u64| of(now).saturating_sub(of(before));
    counters.connections_total.add(more(|t| t.connections) + more(|t| t.ports_exhausted));
    counters.connect_errors_total.add(more(|t| t.ports_exhausted));
    counters.ports_exhausted_total.add(more(|t| t.ports_exhausted));
    counters.bytes_ingress.add(more(|t| t.client_bytes));
    counters.bytes_egress.add(more(|t| t.origin_bytes));
    if !is_tcp {
        counters.datagrams_ingress.add(more(|t| t.client_packets));
        counters.datagrams_egress.add(more(|t| t.origin_packets));
        counters.datagrams_dropped.add(more(|t| t.drops));
    }
}
