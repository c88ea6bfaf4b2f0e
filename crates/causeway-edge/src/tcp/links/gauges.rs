//! How far other edges are, and whether they are there: each is asked over a connection for that alone, once a second
//! where flows go to it and every four seconds where none do.
//!
//! TLS on it as on all between edges, so nobody else can answer. What is lost on the way is sent again by TCP; an answer
//! that takes a second more than usual is late, and flows that have another way do not wait for that.

use std::os::fd::AsRawFd;
use std::time::Instant;

use causeway_wire::gauge::{GAUGE_BYTES, Gauge};
use causeway_wire::overlay::{Name, Read};

use super::Links;
use crate::overlay::Overlay;
use crate::overlay::tls::Got;
use crate::relay::{BUFFER_BYTES, Readiness};
use crate::tcp::TcpPlane;
use crate::timer::{Entry, Kind as TimerKind};
use crate::worker::Desk;

/// Beyond the usual time.
const LATE_US: f32 = 1_000_000.0;
/// Then the connection is given up for another.
const LOST_US: f32 = 4_000_000.0;
const AGAIN_MS: u64 = 1_000;
/// From one question to the next: a second, less than a turn.
const EVERY_MS: u64 = 900;
const UNUSED_EVERY_MS: u64 = 3_900;
/// In one turn; whoever asks faster is none of ours.
const MOST_AT_ONCE: usize = 64;

/// One edge that is asked.
#[derive(Debug, Default)]
pub struct Gauging {
    /// Of the table of links, with its generation.
    link: Option<(usize, u32)>,
    begun: Option<Instant>,
    asked: Option<Instant>,
    stamp: u64,
    is_late: bool,
    again_ms: u64,
    last_ms: u64,
}

impl Links {
    fn gauge(&self, name: &Name) -> Option<usize> {
        let (slot, generation) = self.gauges.get(name)?.link?;
        self.links.get(slot).filter(|link| link.generation == generation && link.open.is_some()).map(|_| slot)
    }
}

impl TcpPlane {
    /// Once a second: ask those that are to be asked, and see who has not answered.
    pub(super) fn tick_gauges(&mut self, desk: &mut Desk, overlay: &Overlay) {
        let wanted = overlay.lasting.steering.wanted(desk.now_ms);
        let names: &[Name] = wanted.as_ref().map_or(&[], |wanted| &wanted.legs);
        let others: Vec<Name> = self.links.gauges.keys().filter(|name| !names.contains(name)).copied().collect();
        for name in others {
            if let Some(slot) = self.links.gauge(&name) {
                self.links.take_out(desk, slot);
            }
            self.links.gauges.remove(&name);
        }
        for name in names.iter().filter(|name| overlay.peer(name).is_some()) {
            self.ask(desk, overlay, *name);
        }
    }

    fn ask(&mut self, desk: &mut Desk, overlay: &Overlay, name: Name) {
        let slot = self.links.gauge(&name);
        let gauging = self.links.gauges.entry(name).or_default();
        match slot {
            Some(slot) => {
                self.see_gauge(desk, slot, name);
                let is_ready = self.links.links.get(slot).is_some_and(|link| link.is_ready && link.is_gauge);
                let every_ms = if overlay.is_next(&name, desk.now_ms) { EVERY_MS } else { UNUSED_EVERY_MS };
                let is_due = |it: &Gauging| it.asked.is_none() && desk.now_ms >= it.last_ms + every_ms;
                if is_ready && self.links.gauges.get(&name).is_some_and(|it| it.link.is_some() && is_due(it)) {
                    self.send_gauge(desk, slot, name);
                }
            }
            None if desk.now_ms >= gauging.again_ms => self.open_gauge(desk, overlay, name),
            None => {}
        }
    }

    /// Has it answered in time?
    pub(super) fn see_gauge(&mut self, desk: &mut Desk, slot: usize, name: Name) {
        let (Some(overlay), Some(gauging)) = (self.links.overlay.clone(), self.links.gauges.get_mut(&name)) else {
            return;
        };
        let usual_us = overlay.lasting.steering.rtt_us(&name).unwrap_or(0.0);
        let waits_us = gauging.asked.or(gauging.begun).map_or(0.0, |since| since.elapsed().as_secs_f32() * 1e6);
        if waits_us > usual_us + LATE_US && !std::mem::replace(&mut gauging.is_late, true) {
            overlay.lasting.steering.is_late(name);
            self.doubt(desk, name);
        }
        if waits_us > usual_us + LOST_US {
            self.drop_link(desk, slot);
        }
    }

    fn open_gauge(&mut self, desk: &mut Desk, overlay: &Overlay, name: Name) {
        let Ok((socket, tls, address)) = TcpPlane::begin_link(desk, overlay, name) else {
            return self.lose_gauge(desk, name);
        };
        let raw = socket.as_raw_fd();
        let slot = self.links.insert(socket, tls, address, Some(name), Readiness::default());
        self.links.links[slot].is_gauge = true;
        let generation = self.links.links[slot].generation;
        let gauging = self.links.gauges.entry(name).or_default();
        (gauging.link, gauging.begun, gauging.asked) = (Some((slot, generation)), Some(Instant::now()), None);
        self.watch_link(desk, slot, raw);
    }

    /// Its connection has failed, or could not be had.
    pub(super) fn lose_gauge(&mut self, desk: &Desk, name: Name) {
        let Some(gauging) = self.links.gauges.get_mut(&name) else { return };
        let was_late = gauging.is_late;
        *gauging = Gauging { again_ms: desk.now_ms + AGAIN_MS, is_late: true, ..Gauging::default() };
        if let Some(overlay) = self.links.overlay.as_ref().filter(|_| !was_late) {
            overlay.lasting.steering.is_late(name);
        }
    }

    fn send_gauge(&mut self, desk: &mut Desk, slot: usize, name: Name) {
        let Some(link) = self.links.links.get_mut(slot) else { return };
        let Some((fd, tls)) = &mut link.open else { return };
        let gauging = self.links.gauges.entry(name).or_default();
        gauging.stamp = gauging.stamp.wrapping_add(1);
        (gauging.asked, gauging.begun, gauging.last_ms) = (Some(Instant::now()), None, desk.now_ms);
        let usual_us = self.links.overlay.as_ref().and_then(|overlay| overlay.lasting.steering.rtt_us(&name));
        let late_ms = desk.now_ms + ((usual_us.unwrap_or(0.0) + LATE_US) / 1000.0) as u64 + 1;
        desk.timers.at(late_ms, Entry { kind: TimerKind::Link, slot: slot as u32, generation: link.generation });
        tls.write(&Gauge { stamp: gauging.stamp }.encode());
        if tls.flush(fd.as_raw_fd(), &mut link.ready).is_err() {
            self.drop_link(desk, slot);
        }
    }

    /// It is there, or has answered.
    pub(super) fn on_gauge(&mut self, desk: &mut Desk, slot: usize) {
        loop {
            let Some(link) = self.links.links.get_mut(slot) else { return };
            let (Some(name), Some((fd, tls))) = (link.towards, &mut link.open) else { return };
            if !std::mem::replace(&mut link.is_ready, true) {
                return self.send_gauge(desk, slot, name);
            }
            let fd = fd.as_raw_fd();
            let scratch = &mut self.tools.scratch()[..BUFFER_BYTES / 4];
            let got =
                tls.flush(fd, &mut link.ready).and_then(|_| tls.read(fd, &mut link.ready, scratch, &mut link.early));
            match (got, Gauge::parse(&link.early)) {
                (Ok(Got::Bytes), Ok(Read::Whole { consumed, value })) => {
                    link.early.drain(..consumed);
                    let Some(gauging) = self.links.gauges.get_mut(&name) else { return };
                    let Some(asked) = gauging.asked.take_if(|_| gauging.stamp == value.stamp) else {
                        return self.drop_link(desk, slot);
                    };
                    gauging.is_late = false;
                    if let Some(overlay) = &self.links.overlay {
                        let rtt_us = asked.elapsed().as_secs_f32() * 1e6;
                        overlay.lasting.steering.answered(name, rtt_us, desk.now_ms);
                    }
                }
                (Ok(Got::Bytes), Ok(Read::NeedMore)) => {}
                (Ok(Got::Nothing), _) if !link.ready.is_readable => return,
                (Ok(Got::Nothing), _) => {}
                _ => return self.drop_link(desk, slot),
            }
        }
    }

    /// Another edge asks how far this one is. False: that is all that it has said so far.
    pub(super) fn answer_gauges(&mut self, desk: &mut Desk, slot: usize) -> bool {
        for _ in 0..MOST_AT_ONCE {
            let Some(link) = self.links.links.get_mut(slot) else { return false };
            let Some((fd, tls)) = &mut link.open else { return false };
            match Gauge::parse(&link.early) {
                Ok(Read::NeedMore) => return link.ready.is_readable,
                Ok(Read::Whole { value, .. }) => {
                    link.early.drain(..GAUGE_BYTES);
                    tls.write(&value.encode());
                    if tls.flush(fd.as_raw_fd(), &mut link.ready).is_err() {
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        self.drop_link(desk, slot);
        false
    }
}
