//! The thread that looks after flows in the kernel: records, counts, timeouts, removal. No packet waits for it.
//!
//! A flow's end is told by whoever takes it out of the table, so it is told once, whatever became of the processes
//! before this one. Events of the ring make it prompt; the sweep finds what the ring had no room for.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use causeway_bpf::flow::{
    Cursor, Family, Flow, FlowEventKind, FlowEvents, FlowKey, FlowPath, Glance, Leg, RawFlowEvent, Table, Verdict,
};

use super::book::{Book, Entries, Entry};
use super::here::Notices;
use super::judge::{Fate, Limits, Terms, end, is_half_closed};
use super::round::Round;
use super::tell::{Clocks, Of, sighting};
use super::{Recarry, Refuses};
use crate::event::{Cause, Events};
use crate::sys::Wake;

/// Events are taken in this often while there are some: a batch costs less than each by itself.
const BATCH_MS: u64 = 25;
/// After so many events others may have the book.
const BATCH: usize = 64;
const LEAST_ROUND: Duration = Duration::from_secs(1);
/// A round may use this part of a processor.
const ROUND_SHARE: u32 = 200;
/// Interfaces and addresses are looked at after a change has settled, and now and then.
const SETTLE_MS: u64 = 200;
const LOOK_AGAIN_MS: u64 = 10_000;
/// Flows that the ring had no room for and that were told all the same: more are told twice.
const MOST_TOLD: usize = 1 << 20;
/// Of flows of clients that are banned, in a second.
const MOST_REFUSED_RECORDS: u32 = 100;

/// What others tell the thread.
#[derive(Debug, Default)]
pub struct Orders {
    pub is_stopping: AtomicBool,
    pub opening: AtomicU64,
    /// Rules have come that end flows: look at all of them now.
    pub is_urgent: AtomicBool,
}

pub struct Keeper {
    pub path: Arc<FlowPath>,
    pub book: Arc<Book>,
    pub events: Events,
    pub wake: Arc<Wake>,
    pub orders: Arc<Orders>,
    /// Have the choice made anew; false: not now.
    pub recarry: Recarry,
    refuses: Refuses,
    /// Since when, and how many, flows of clients that are banned are on record.
    refused_records: (u64, u32),
    ring: FlowEvents,
    notices: Option<Notices>,
    told: HashSet<FlowKey>,
    half_closed_since_ms: HashMap<FlowKey, u64>,
    /// How many flows had been opened before a round that found none: as long as there are no more, there are none.
    empty_at: Option<u64>,
}

impl Keeper {
    /// # Errors
    /// The kernel's.
    pub fn new(
        path: Arc<FlowPath>,
        book: Arc<Book>,
        events: Events,
        wake: Arc<Wake>,
        orders: Arc<Orders>,
        (recarry, refuses): (Recarry, Refuses),
    ) -> Result<Keeper, (Events, std::io::Error)> {
        let ring = match path.events() {
            Ok(ring) => ring,
            Err(error) => return Err((events, error)),
        };
        let notices = Notices::listen().ok(); // without: looked at now and then
        let told = HashSet::new();
        let (half_closed_since_ms, empty_at) = (HashMap::new(), None);
        let refused_records = (0, 0);
        Ok(Keeper {
            path,
            book,
            events,
            wake,
            orders,
            recarry,
            refuses,
            refused_records,
            ring,
            notices,
            told,
            half_closed_since_ms,
            empty_at,
        })
    }

    /// Until told to stop. What the ring holds then is the next one's.
    pub fn run(&mut self) {
        let mut next_round = Instant::now();
        let mut look_at_ms = Some(Clocks::now().monotonic_ms + LOOK_AGAIN_MS);
        while !self.orders.is_stopping.load(Ordering::Acquire) {
            let had_events = self.take_events();
            if self.orders.is_urgent.swap(false, Ordering::AcqRel) || Instant::now() >= next_round {
                next_round = Instant::now() + self.round();
            }
            let now_ms = Clocks::now().monotonic_ms;
            if self.notices.as_ref().is_some_and(Notices::take) {
                look_at_ms = Some(look_at_ms.map_or(u64::MAX, |at_ms| at_ms).min(now_ms + SETTLE_MS));
            }
            if look_at_ms.is_none_or(|at_ms| at_ms <= now_ms) {
                let wait_ms = if (self.recarry)() { LOOK_AGAIN_MS } else { SETTLE_MS };
                look_at_ms = Some(now_ms + wait_ms);
            }
            self.sleep(next_round, look_at_ms, had_events);
        }
    }

    fn sleep(&self, next_round: Instant, look_at_ms: Option<u64>, had_events: bool) {
        let now_ms = Clocks::now().monotonic_ms;
        let mut wait_ms = next_round.saturating_duration_since(Instant::now()).as_millis() as u64 + 1;
        let look = look_at_ms.map(|at_ms| at_ms.saturating_sub(now_ms).max(1));
        wait_ms = wait_ms.min(look.unwrap_or(u64::MAX));
        let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = vec![entry(self.wake.as_raw_fd())];
        fds.extend(self.notices.as_ref().map(|notices| entry(notices.as_raw_fd())));
        if had_events {
            wait_ms = wait_ms.min(BATCH_MS);
        } else {
            fds.push(entry(self.ring.as_fd().as_raw_fd()));
        }
        // SAFETY: the array lives through the call.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, wait_ms as i32) };
        if ready > 0 && fds[0].revents != 0 {
            self.wake.clear();
        }
    }

    /// Everything that the ring holds. Answers whether there was anything.
    fn take_events(&mut self) -> bool {
        let Some(mut event) = self.ring.take_raw() else { return false };
        loop {
            let clocks = Clocks::now(); // one for the batch, and the book too: they differ by what it takes to read
            let book = self.book.clone();
            let mut entries = book.open();
            for _ in 0..BATCH {
                self.on_event(&event, &mut entries, clocks);
                event = match self.ring.take_raw() {
                    Some(next) => next,
                    None => return true,
                };
            }
        }
    }

    fn on_event(&mut self, event: &RawFlowEvent, entries: &mut Entries, clocks: Clocks) {
        let std::collections::btree_map::Entry::Occupied(mut entry) = entries.of.entry(event.application()) else {
            return;
        };
        let (kind, glance) = (event.kind(), event.glance());
        let is_opening = kind == FlowEventKind::Opened;
        let refused = if is_opening { (self.refuses)(entry.get().id, glance.client) } else { None };
        // Rules count what they let in where it is put on record: then all of it is.
        let is_frequent = is_opening || kind == FlowEventKind::Closed;
        let is_wanted = !is_frequent || entry.get().firewall.is_some() || self.events.is_wanted(clocks.monotonic_ms);
        if !is_wanted && refused.is_none() && self.pass_over(kind, &glance, event, entry.get_mut()) {
            return;
        }
        let event = event.read();
        let (flow, at_ms, of) = (event.flow, event.at_ms, Of::entry(entry.get()));
        match kind {
            FlowEventKind::Opened => {
                if let Some(cause) = refused
                    && !of.allows(&flow)
                    && self.turn_away(&flow, &of, cause, clocks)
                {
                    if let Some(counters) = entry.get().active.as_ref().and_then(|active| active.counters.last()) {
                        counters.mitigation_refused_total.add(1);
                    }
                    return;
                }
                entry.get_mut().open += 1;
                self.events.write_dated(of.opened(&flow, clocks));
            }
            FlowEventKind::Closed => {
                let entry = entry.get_mut();
                let id = entry.id;
                entry.open = entry.open.saturating_sub(1);
                let cause = end(&flow);
                if cause == Cause::OriginPortUnreachable {
                    if let Some(counters) = entry.active.as_ref().and_then(|active| active.counters.last()) {
                        counters.connect_errors_total.add(1);
                    }
                    entries.shun(&self.path, flow.application, flow.origin.ip(), clocks.monotonic_ms);
                }
                if !self.half_closed_since_ms.is_empty() {
                    self.half_closed_since_ms.remove(&flow.client_key());
                }
                if is_wanted {
                    self.say_opened(&flow, &of, clocks);
                    self.events.write_dated(of.ended(&flow, cause, at_ms, clocks));
                } else {
                    if self.is_untold(&flow) {
                        self.events.pass_over(sighting(id, &glance, false));
                    }
                    self.events.pass_over(sighting(id, &glance, true));
                }
            }
            FlowEventKind::Replaced => {
                self.say_opened(&flow, &of, clocks);
                self.events.write_dated(of.ended(&flow, end(&flow), at_ms, clocks));
            }
            FlowEventKind::Refused => {
                let cause = end(&flow);
                if let Some(counters) = entry.get().active.as_ref().and_then(|active| active.counters.last()) {
                    counters.connections_total.add(1);
                    counters.connect_errors_total.add(u64::from(cause == Cause::ConnectRefused));
                }
                self.events.write_dated(of.ended(&flow, cause, at_ms, clocks));
                if cause == Cause::ConnectRefused {
                    entries.shun(&self.path, flow.application, flow.origin.ip(), clocks.monotonic_ms);
                }
            }
            FlowEventKind::Exhausted => {
                self.events.write_dated(of.ended(&flow, Cause::PortsExhausted, at_ms, clocks));
            }
        }
    }

    /// A record that nobody wants, if nothing else is to be done about it, as with most events of a busy second. Answers
    /// whether that was all.
    fn pass_over(&mut self, kind: FlowEventKind, glance: &Glance, event: &RawFlowEvent, entry: &mut Entry) -> bool {
        let is_closed = kind == FlowEventKind::Closed && glance.is_tcp && glance.is_established && glance.is_told;
        if !is_closed && kind != FlowEventKind::Opened {
            return false;
        }
        if is_closed {
            entry.open = entry.open.saturating_sub(1);
            if !self.half_closed_since_ms.is_empty() {
                self.half_closed_since_ms.remove(&event.read().flow.client_key());
            }
        } else {
            entry.open += 1;
        }
        self.events.pass_over(sighting(entry.id, glance, is_closed));
        true
    }

    /// It has just opened, and its client is banned: where no guard stands before us, this is as early as it can be.
    /// False: it is over already, and that will be told.
    fn turn_away(&mut self, flow: &Flow, of: &Of, cause: Cause, clocks: Clocks) -> bool {
        if matches!(self.path.cut(flow), Ok(false)) {
            return false;
        }
        let (since_ms, written) = self.refused_records;
        if clocks.monotonic_ms.saturating_sub(since_ms) >= 1000 {
            self.refused_records = (clocks.monotonic_ms, 0);
        } else if written >= MOST_REFUSED_RECORDS {
            return true;
        }
        self.refused_records.1 += 1;
        self.events.write_dated(of.ended(flow, cause, clocks.monotonic_ms, clocks));
        true
    }

    /// Nobody has said that it opened: the ring was full, or it is UDP that was never answered.
    fn say_opened(&mut self, flow: &Flow, of: &Of, clocks: Clocks) {
        if self.is_untold(flow) {
            self.events.write_dated(of.opened(flow, clocks));
        }
    }

    /// Asked once: from now on it is told.
    fn is_untold(&mut self, flow: &Flow) -> bool {
        let was_up = flow.is_established || !flow.is_tcp;
        was_up && !flow.is_told && !self.told.remove(&flow.client_key())
    }

    /// Take it out and say so.
    fn finish(&mut self, flow: &Flow, cause: Cause, at_ms: u64) {
        let key = flow.client_key();
        self.half_closed_since_ms.remove(&key);
        let Ok(Some(last)) = self.path.remove(&key) else { return };
        self.say_ended(&last, cause, at_ms);
    }

    fn say_ended(&mut self, flow: &Flow, cause: Cause, at_ms: u64) {
        let clocks = Clocks::now();
        let of = self.book.open().of.get(&flow.application).map(Of::entry).unwrap_or_default();
        self.say_opened(flow, &of, clocks);
        self.events.write_dated(of.ended(flow, cause, at_ms, clocks));
    }

    /// End it for both sides, and say so.
    fn cut(&mut self, flow: &Flow, cause: Cause) {
        self.half_closed_since_ms.remove(&flow.client_key());
        let _ = self.path.cut(flow); // out of the table in any case
        self.say_ended(flow, cause, Clocks::now().monotonic_ms);
    }

    /// Look at every flow once. Answers when to do so again.
    fn round(&mut self) -> Duration {
        let began = Instant::now();
        let opened = self.path.verdicts().map_or(u64::MAX, |verdicts| verdicts.get(Verdict::Opened));
        if self.empty_at == Some(opened) {
            self.settle(&Round::default());
            return LEAST_ROUND;
        }
        let mut round = Round::default();
        let terms = self.terms();
        // A flood of first packets must not keep us from the flows that are open.
        for table in [Table::Open, Table::Opening] {
            for family in [Family::V4, Family::V6] {
                let mut cursor = Cursor::default();
                loop {
                    let now_ms = Clocks::now().monotonic_ms;
                    let mut visit = |leg: Leg| round.visit(&leg, table, &terms, &self.told, now_ms);
                    let Ok(next) = self.path.sweep(family, table, cursor, &mut visit) else { break };
                    cursor = next;
                    self.take_events();
                    if cursor.is_done() || self.orders.is_stopping.load(Ordering::Acquire) {
                        break;
                    }
                }
            }
        }
        for key in std::mem::take(&mut round.close_looks) {
            self.look_closely(&key, &terms, &mut round);
        }
        self.settle(&round);
        self.empty_at = round.present.is_empty().then_some(opened);
        if round.was_cut_short { Duration::ZERO } else { LEAST_ROUND.max(began.elapsed() * ROUND_SHARE) }
    }

    fn terms(&self) -> Terms {
        let mut terms = Terms::default();
        for (index, entry) in &self.book.open().of {
            let mut limits = entry.active.as_ref().map_or_else(Limits::default, |active| Limits {
                connect_ms: active.connect_timeout_ms,
                idle_ms: active.idle_timeout_ms,
                half_close_ms: active.half_close_timeout_ms,
                udp_idle_ms: active.udp_idle_timeout_ms,
                cut_at_ms: u64::MAX,
            });
            if let Some(leaving) = entry.leaving {
                limits.cut_at_ms = leaving.cut_at_ms.unwrap_or(u64::MAX);
            }
            terms.limits.insert(*index, limits);
            let rules = entry.firewall.as_ref().filter(|firewall| firewall.cuts());
            terms.rules.extend(rules.map(|firewall| (*index, (entry.id, firewall.clone()))));
        }
        terms
    }

    fn look_closely(&mut self, key: &FlowKey, terms: &Terms, round: &mut Round) {
        let Ok(Some(flow)) = self.path.flow(key) else { return };
        let limits = terms.of(flow.application);
        let clocks = Clocks::now();
        let now_ms = clocks.monotonic_ms;
        if flow.is_established && !flow.is_told && self.told.len() < MOST_TOLD && self.told.insert(*key) {
            let of = self.book.open().of.get(&flow.application).map(Of::entry).unwrap_or_default();
            self.events.write_dated(of.opened(&flow, clocks));
        }
        if flow.was_reset_by.is_some() && !flow.is_closed {
            let _ = self.path.probe(&flow); // in the next round again
        }
        let half_closed_ms = if is_half_closed(&flow) && limits.half_close_ms != u64::MAX {
            now_ms - *self.half_closed_since_ms.entry(*key).or_insert(now_ms)
        } else {
            0
        };
        let was_open = !flow.is_closed && (flow.is_established || !flow.is_tcp);
        let fate = match limits.judge(&flow, half_closed_ms, now_ms) {
            Fate::GoesOn if !flow.is_closed && terms.bars(flow.application, flow.client.ip(), flow.edge.port()) => {
                Fate::Cut(Cause::FirewallCut)
            }
            fate => fate,
        };
        match fate {
            Fate::GoesOn => return,
            // The ring had no room for it.
            Fate::Ended(cause) => self.finish(&flow, cause, flow.seen_ms()),
            Fate::Cut(cause) => self.cut(&flow, cause),
            Fate::Unanswered => self.give_up(&flow, clocks),
            Fate::Forget => drop(self.path.remove(key)),
        }
        if was_open && let Some(open) = round.open.get_mut(&flow.application) {
            *open = open.saturating_sub(1);
        }
    }

    /// The origin has not answered the first packets.
    fn give_up(&mut self, flow: &Flow, clocks: Clocks) {
        let book = self.book.clone();
        let mut entries = book.open();
        if let Some(entry) = entries.of.get(&flow.application) {
            if let Some(counters) = entry.active.as_ref().and_then(|active| active.counters.last()) {
                counters.connections_total.add(1);
                counters.connect_errors_total.add(1);
            }
            let event = Of::entry(entry).ended(flow, Cause::ConnectTimeout, clocks.monotonic_ms, clocks);
            self.events.write_dated(event);
        }
        let has_another = entries.shun(&self.path, flow.application, flow.origin.ip(), clocks.monotonic_ms);
        drop(entries);
        // With another origin the client's next SYN goes there.
        let _ =
            if has_another { self.path.remove(&flow.client_key()).map(drop) } else { self.path.cut(flow).map(drop) };
    }

    /// What a round has found, into the book.
    fn settle(&mut self, round: &Round) {
        self.orders.opening.store(round.opening, Ordering::Relaxed);
        let now_ms = Clocks::now().monotonic_ms;
        let mut entries = self.book.open();
        for (index, entry) in &mut entries.of {
            entry.open = round.open.get(index).copied().unwrap_or(0);
        }
        entries.welcome(&self.path, now_ms);
        entries.count(&self.path);
        let gone: Vec<u16> = entries
            .of
            .iter()
            .filter(|(index, entry)| entry.leaving.is_some() && !round.present.contains(index))
            .map(|(index, _)| *index)
            .collect();
        for index in gone {
            let _ = self.path.remove_application(index);
            entries.of.remove(&index);
        }
    }
}

/// Run a keeper as a thread of its own; joining it gives it back.
pub fn spawn(mut keeper: Keeper) -> std::io::Result<std::thread::JoinHandle<Keeper>> {
    std::thread::Builder::new().name("edge-carrier".into()).spawn(move || {
        keeper.run();
        keeper
    })
}
