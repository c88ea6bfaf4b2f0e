//! Connections between edges before a flow has them: those that are kept ready here, and the table of all of them.
//!
//! A flow takes one for itself and never gives it back. As many are ready as the last seconds have asked for, so that a
//! flow costs no handshake; each worker keeps its own.

mod arrivals;
mod gauges;
mod parting;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use causeway_wire::overlay::Name;
use slab::Slab;

pub use arrivals::Arrival;
use gauges::Gauging;

use super::TcpPlane;
use super::connection::{Reset, State};
use crate::event::Cause;
use crate::overlay::tls::{Got, Tls};
use crate::overlay::{Overlay, Tally};
use crate::relay::{BUFFER_BYTES, Readiness};
use crate::sys;
use crate::timer::{Entry, Kind as TimerKind};
use crate::worker::{Desk, Token};

const HANDSHAKE_MS: u64 = 5_000;
/// After a failure, before the next try without a flow that asks for it, and before one that does has to wait for it.
const AGAIN_MS: u64 = 1_000;
const TICK_MS: u64 = 1_000;
const TICK_SLOT: u32 = u32::MAX;
/// For so long one is kept ready for an edge that nobody asks for any more.
const REMEMBERED_MS: u64 = 60_000;
/// Ready ones are for the flows of so many seconds, and of the time until another one is: two round trips and some.
const AHEAD_S: f32 = 0.5;
const HANDSHAKE_ROUND_TRIPS: f32 = 3.0;
const MOST_READY: usize = 64;
const MOST_OPENING: usize = 64;
const USER_TIMEOUT: Option<Duration> = Some(Duration::from_secs(300));

#[derive(Debug)]
struct Link {
    /// None: closed, or a flow's.
    open: Option<(OwnedFd, Tls)>,
    ready: Readiness,
    generation: u32,
    address: SocketAddr,
    /// The edge that it leads to; none: another edge has opened it.
    towards: Option<Name>,
    is_ready: bool,
    /// To ask the other edge how far it is, and for no flow.
    is_gauge: bool,
    /// A flow's that has ended: what it has said last is to arrive.
    is_parting: bool,
    early: Vec<u8>,
}

#[derive(Debug, Default)]
struct Pool {
    ready: VecDeque<usize>,
    opening: usize,
    /// Flows, in order.
    waiting: VecDeque<(usize, u32)>,
    taken: u32,
    taken_per_s: f32,
    /// To the other edge and back.
    rtt_s: f32,
    asked_ms: u64,
    again_ms: u64,
    /// The last that was tried, by a flow or without one, has failed, and none has come about since.
    is_doubtful: bool,
}

impl Pool {
    fn wanted(&self, is_next: bool, now_ms: u64) -> usize {
        let is_remembered = self.asked_ms > 0 && now_ms < self.asked_ms + REMEMBERED_MS;
        let least = usize::from(is_next || is_remembered);
        let ahead_s = AHEAD_S.max(HANDSHAKE_ROUND_TRIPS * self.rtt_s);
        let per_s = self.taken_per_s.max(self.taken as f32);
        ((per_s * ahead_s).ceil() as usize).clamp(least, MOST_READY)
    }
}

pub enum Taken {
    Ready(OwnedFd, Tls, Readiness),
    Later,
    Never,
}

#[derive(Debug, Default)]
pub struct Links {
    pub overlay: Option<Arc<Overlay>>,
    links: Slab<Link>,
    pools: HashMap<Name, Pool>,
    gauges: HashMap<Name, Gauging>,
    closed: Vec<usize>,
    arriving: usize,
    next_generation: u32,
    is_ticking: bool,
}

impl Links {
    pub fn next_waiting(&mut self, name: &Name) -> Option<(usize, u32)> {
        self.pools.get_mut(name)?.waiting.pop_front()
    }

    pub fn wait_again(&mut self, name: Name, waiting: (usize, u32)) {
        self.pools.entry(name).or_default().waiting.push_front(waiting);
    }

    pub fn take_waiting(&mut self, name: &Name) -> Vec<(usize, u32)> {
        self.pools.get_mut(name).map(|pool| pool.waiting.drain(..).collect()).unwrap_or_default()
    }

    pub fn free_closed(&mut self) {
        self.closed.drain(..).for_each(|slot| drop(self.links.remove(slot)));
    }

    fn insert(&mut self, fd: OwnedFd, tls: Tls, address: SocketAddr, towards: Option<Name>, ready: Readiness) -> usize {
        self.next_generation = self.next_generation.wrapping_add(1);
        self.links.insert(Link {
            open: Some((fd, tls)),
            ready,
            generation: self.next_generation,
            address,
            towards,
            is_ready: false,
            is_gauge: false,
            is_parting: false,
            early: Vec::new(),
        })
    }

    /// Out of the table, with its place kept until the turn is over.
    fn take_out(&mut self, desk: &Desk, slot: usize) -> Option<(OwnedFd, Tls)> {
        let link = self.links.get_mut(slot)?;
        let open = link.open.take()?;
        self.closed.push(slot);
        desk.files.give_back(1);
        match &link.towards {
            None => self.arriving = self.arriving.saturating_sub(1),
            Some(_) if link.is_gauge => {}
            Some(name) => {
                let pool = self.pools.entry(*name).or_default();
                if link.is_ready {
                    pool.ready.retain(|ready| *ready != slot);
                } else {
                    pool.opening = pool.opening.saturating_sub(1);
                }
            }
        }
        Some(open)
    }
}

impl Link {
    fn is_shaking_hands(&self) -> bool {
        self.open.as_ref().is_some_and(|(_, tls)| tls.is_shaking_hands())
    }

    /// The edge at the other end, once it has proven to be that.
    fn peer(&self) -> Option<Name> {
        self.towards.or_else(|| self.open.as_ref().and_then(|(_, tls)| tls.peer()))
    }
}

impl TcpPlane {
    /// Be this to other edges from now on. Whoever is none of them any more has nothing here.
    pub fn set_overlay(&mut self, desk: &mut Desk, overlay: Option<Arc<Overlay>>) {
        let knows =
            |name: Option<Name>| name.is_some_and(|name| overlay.as_ref().is_some_and(|o| o.peer(&name).is_some()));
        let strangers: Vec<usize> = self
            .links
            .links
            .iter()
            .filter(|(_, link)| link.open.is_some() && !link.is_shaking_hands() && !knows(link.peer()))
            .map(|(slot, _)| slot)
            .collect();
        let cut: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.state != State::Closed)
            .filter(|(_, connection)| {
                let tunnel = connection.tunnel.as_ref();
                let legs = tunnel.into_iter().flat_map(|tunnel| [&tunnel.client, &tunnel.origin]).flatten();
                legs.into_iter().any(|tls| !knows(tls.peer()))
            })
            .map(|(slot, _)| slot)
            .collect();
        strangers.into_iter().for_each(|slot| drop(self.links.take_out(desk, slot)));
        cut.into_iter().for_each(|slot| self.close(desk, slot, Cause::PathBroken, Reset::Both));
        self.links.overlay = overlay;
        if let Some(overlay) = &self.links.overlay {
            for name in &overlay.next {
                self.links.pools.entry(*name).or_default();
            }
            if !std::mem::replace(&mut self.links.is_ticking, true) {
                desk.timers.at(desk.now_ms, Entry { kind: TimerKind::Link, slot: TICK_SLOT, generation: 0 });
            }
        }
    }

    /// No more than what flows have: this edge ends.
    pub(super) fn close_links(&mut self, desk: &Desk) {
        let slots: Vec<usize> = self.links.links.iter().map(|(slot, _)| slot).collect();
        slots.into_iter().for_each(|slot| drop(self.links.take_out(desk, slot)));
        self.links.overlay = None;
    }

    /// A connection to the edge `name` for a flow, or its place in the queue for one; `has_others`: it has other paths,
    /// and need not wait for an edge that may not be there.
    pub(super) fn take_link(
        &mut self,
        desk: &mut Desk,
        overlay: &Overlay,
        name: Name,
        flow: (usize, u32),
        has_others: bool,
    ) -> Taken {
        let pool = self.links.pools.entry(name).or_default();
        pool.taken += 1;
        pool.asked_ms = desk.now_ms.max(1);
        if let Some((fd, tls, ready)) = self.take_warm(desk, &name) {
            TcpPlane::count_start(overlay, true);
            self.refill(desk, name);
            return Taken::Ready(fd, tls, ready);
        }
        let pool = self.links.pools.entry(name).or_default();
        if pool.opening == 0 && desk.now_ms < pool.again_ms {
            return Taken::Never; // it has just failed
        }
        let must_open = pool.opening <= pool.waiting.len() && pool.opening < MOST_OPENING;
        let is_opening = !must_open || self.open_link(desk, name);
        let pool = self.links.pools.entry(name).or_default();
        if (!is_opening && pool.opening == 0) || (pool.is_doubtful && has_others) {
            return Taken::Never;
        }
        TcpPlane::count_start(overlay, false);
        self.links.pools.entry(name).or_default().waiting.push_back(flow);
        self.refill(desk, name); // one more for each that waits, so that those after it do not
        Taken::Later
    }

    pub(super) fn take_warm(&mut self, desk: &Desk, name: &Name) -> Option<(OwnedFd, Tls, Readiness)> {
        loop {
            let slot = self.links.pools.get_mut(name)?.ready.pop_front()?;
            if let Some((fd, tls)) = self.links.take_out(desk, slot) {
                return Some((fd, tls, self.links.links[slot].ready));
            }
        }
    }

    fn refill(&mut self, desk: &mut Desk, name: Name) {
        let Some(overlay) = self.links.overlay.clone() else { return };
        let is_next = overlay.is_next(&name, desk.now_ms) && overlay.peer(&name).is_some();
        loop {
            let pool = self.links.pools.entry(name).or_default();
            let has = (pool.ready.len() + pool.opening).saturating_sub(pool.waiting.len());
            let may = pool.opening < MOST_OPENING && desk.now_ms >= pool.again_ms;
            if !may || has >= pool.wanted(is_next, desk.now_ms) || !self.open_link(desk, name) {
                return;
            }
        }
    }

    fn open_link(&mut self, desk: &mut Desk, name: Name) -> bool {
        let Some(overlay) = self.links.overlay.clone() else { return false };
        match TcpPlane::begin_link(desk, &overlay, name) {
            Ok((socket, tls, address)) => {
                self.links.pools.entry(name).or_default().opening += 1;
                let raw = socket.as_raw_fd();
                let slot = self.links.insert(socket, tls, address, Some(name), Readiness::default());
                self.watch_link(desk, slot, raw)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(_) => {
                Tally::count(&overlay.lasting.tally.failed);
                self.links.pools.entry(name).or_default().again_ms = desk.now_ms + AGAIN_MS;
                false
            }
        }
    }

    /// Begin to connect to an edge; `NotFound`: it is none of ours, or nobody knows who this one is.
    fn begin_link(desk: &Desk, overlay: &Overlay, name: Name) -> io::Result<(OwnedFd, Tls, SocketAddr)> {
        let (Some(address), Some(identity)) = (overlay.peer(&name), overlay.lasting.identity.load_full()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if !desk.files.has_room(1) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let tls = Tls::towards(&identity, &name)?;
        let socket = sys::stream_socket(address)?;
        let _ = sys::set_stream_options(socket.as_raw_fd(), USER_TIMEOUT);
        let _ = sys::send_again_soon(socket.as_raw_fd());
        sys::connect(socket.as_raw_fd(), address)?;
        Ok((socket, tls, address))
    }

    fn watch_link(&mut self, desk: &mut Desk, slot: usize, raw: i32) -> bool {
        desk.files.take(1);
        let entry = Entry { kind: TimerKind::Link, slot: slot as u32, generation: self.links.links[slot].generation };
        desk.timers.at(desk.now_ms + HANDSHAKE_MS, entry);
        let interest = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
        let is_watched = desk.epoll.add(raw, interest, Token::Link.at(slot)).is_ok();
        if !is_watched {
            self.links.take_out(desk, slot);
        }
        is_watched
    }

    pub fn on_link(&mut self, desk: &mut Desk, slot: usize, notice: u32) {
        let Some(link) = self.links.links.get_mut(slot) else { return };
        let Some((fd, tls)) = &mut link.open else { return };
        let fd = fd.as_raw_fd();
        link.ready.note(notice);
        if notice & sys::ERR != 0 && sys::take_error(fd).is_some() {
            if link.is_parting {
                self.links.take_out(desk, slot);
                return;
            }
            return self.drop_link(desk, slot);
        }
        let scratch = &mut self.tools.scratch()[..BUFFER_BYTES / 4];
        if link.is_parting {
            return self.on_parting(desk, slot);
        }
        if link.is_ready && link.is_gauge {
            return self.on_gauge(desk, slot);
        }
        if link.is_ready {
            // It has nothing to say before a flow does; what it says means that it ends.
            let got = tls.read(fd, &mut link.ready, scratch, &mut link.early);
            if !matches!(got, Ok(Got::Nothing)) {
                self.drop_link(desk, slot);
            }
            return;
        }
        match tls.shake_hands(fd, &mut link.ready, scratch, &mut link.early) {
            Ok(false) => {}
            Ok(true) if link.towards.is_none() => self.hear_edge(desk, slot),
            Ok(true) if link.is_gauge => self.on_gauge(desk, slot),
            Ok(true) => {
                link.is_ready = true;
                let Some(name) = link.towards else { return };
                let pool = self.links.pools.entry(name).or_default();
                pool.rtt_s = sys::rtt_ns(fd) as f32 / 1e9;
                pool.opening = pool.opening.saturating_sub(1);
                pool.is_doubtful = false;
                pool.ready.push_back(slot);
                self.serve_waiting(desk, name);
            }
            Err(_) => self.drop_link(desk, slot),
        }
    }

    /// It failed, or is refused.
    pub(super) fn drop_link(&mut self, desk: &mut Desk, slot: usize) {
        let Some(link) = self.links.links.get(slot) else { return };
        let (was_ready, towards, is_gauge) = (link.is_ready, link.towards, link.is_gauge);
        if self.links.take_out(desk, slot).is_none() {
            return;
        }
        if let Some(name) = towards.filter(|_| is_gauge) {
            return self.lose_gauge(desk, name);
        }
        let tally = self.links.overlay.as_ref().map(|overlay| &overlay.lasting.tally);
        let Some(name) = towards else {
            return tally.into_iter().for_each(|tally| Tally::count(&tally.refused));
        };
        if was_ready {
            return self.refill(desk, name); // the other side has closed it, or is gone
        }
        tally.into_iter().for_each(|tally| Tally::count(&tally.failed));
        let pool = self.links.pools.entry(name).or_default();
        (pool.again_ms, pool.is_doubtful) = (desk.now_ms + AGAIN_MS, true);
        if pool.opening == 0 {
            self.fail_waiting(desk, name);
        }
    }

    /// An edge has not answered a flow: those that are ready lead nowhere either, most likely.
    pub(super) fn doubt(&mut self, desk: &Desk, name: Name) {
        if let Some(overlay) = &self.links.overlay {
            overlay.lasting.steering.doubt(name);
        }
        let pool = self.links.pools.entry(name).or_default();
        pool.is_doubtful = true;
        let ready: Vec<usize> = pool.ready.iter().copied().collect();
        ready.into_iter().for_each(|slot| drop(self.links.take_out(desk, slot)));
    }

    pub fn on_link_timer(&mut self, desk: &mut Desk, slot: u32, generation: u32) {
        if slot == TICK_SLOT {
            return self.tick_links(desk);
        }
        let slot = slot as usize;
        let link = self.links.links.get(slot).filter(|link| link.generation == generation);
        let Some(link) = link else { return };
        if link.is_parting {
            self.links.take_out(desk, slot);
        } else if link.is_shaking_hands() {
            self.drop_link(desk, slot);
        } else if let Some(name) = link.towards.filter(|_| link.is_gauge) {
            self.see_gauge(desk, slot, name);
        }
    }

    fn tick_links(&mut self, desk: &mut Desk) {
        let Some(overlay) = self.links.overlay.clone() else {
            self.links.is_ticking = false;
            return;
        };
        if desk.worker == 0 {
            self.tick_gauges(desk, &overlay); // one of the workers is enough
            self.tick_reach(desk, &overlay);
        }
        self.doubt_kept(desk, &overlay);
        for name in overlay.lasting.steering.wanted(desk.now_ms).iter().flat_map(|wanted| &wanted.next) {
            self.links.pools.entry(*name).or_default();
        }
        let names: Vec<Name> = self.links.pools.keys().copied().collect();
        for name in names {
            let is_next = overlay.is_next(&name, desk.now_ms);
            let pool = self.links.pools.entry(name).or_default();
            pool.taken_per_s = pool.taken_per_s * 0.7 + pool.taken as f32 * 0.3;
            pool.taken = 0;
            let most = pool.wanted(is_next, desk.now_ms) * 2;
            let surplus: Vec<usize> = pool.ready.iter().skip(most).copied().collect();
            let is_forgotten = most == 0 && pool.ready.is_empty() && pool.opening == 0 && pool.waiting.is_empty();
            surplus.into_iter().for_each(|slot| drop(self.links.take_out(desk, slot)));
            if is_forgotten {
                self.links.pools.remove(&name);
            } else {
                self.refill(desk, name);
            }
        }
        desk.timers.at(desk.now_ms + TICK_MS, Entry { kind: TimerKind::Link, slot: TICK_SLOT, generation: 0 });
    }
}
