//! Datagrams pass here, in batches: from a listener to the sessions' origins, from an origin to its client.
//!
//! Nothing is queued for a socket that is full: the datagram is dropped and counted, others are not delayed.

use std::os::fd::{AsRawFd, RawFd};

use causeway_wire::datagram::Kind;
use causeway_wire::{Endpoints, simple_proxy};

use super::batch::{Batch, MOST, Pick, Prefix, Route};
use super::session::{Header, Key, State};
use super::{UdpPlane, counters, tunnel};
use crate::application::count_refusal;
use crate::clock::unix_ms;
use crate::event::Cause;
use crate::snapshot::{Protocol, ProxyProtocol};
use crate::worker::Desk;

/// What a session may hold while its origin's name is looked up, and all of a worker's sessions together.
const MOST_HELD: usize = 16;
const MOST_HELD_BYTES: usize = 64 * 1024;
const MOST_HELD_BYTES_OF_ALL: usize = 16 * 1024 * 1024;

impl UdpPlane {
    pub fn on_listener(&mut self, desk: &mut Desk, port_slot: usize) {
        let Some(port) = self.ports.get(port_slot) else { return };
        if self.is_held(desk, port_slot) {
            return; // a notice from before it was held
        }
        // An error here is of one earlier reply and concerns nobody else; reading has cleared it.
        let Ok(count) = self.batch.receive_from_clients(port.fd) else { return };
        self.received += count;
        let mut latest = None;
        for first in (0..count).step_by(MOST) {
            let mut picks = [Pick::default(); MOST];
            let mut placed = 0;
            for index in first..count.min(first + MOST) {
                if let Some(slot) = self.session_of(desk, port_slot, index, &mut latest) {
                    picks[placed] = Pick { session: slot as u32, index: index as u16, skip: 0 };
                    placed += 1;
                }
            }
            let picks = &mut picks[..placed];
            picks.sort_unstable();
            for group in picks.chunk_by(|a, b| a.session == b.session) {
                self.pass_up(desk, group[0].session as usize, group);
            }
        }
        self.newcomers.look(count >= MOST, count, std::mem::take(&mut self.strangers), desk.now_ms);
    }

    /// The session of one received datagram, made if there is none. `None`: it was dropped and counted.
    fn session_of(
        &mut self,
        desk: &mut Desk,
        port_slot: usize,
        index: usize,
        latest: &mut Option<(Key, usize)>,
    ) -> Option<usize> {
        let port = self.ports.get(port_slot)?;
        let client = self.batch.client(index);
        let edge = port.edge(self.batch.destination(index));
        let is_truncated = self.batch.is_truncated(index);
        let key = edge.filter(|_| !is_truncated).map(|edge| Key::new(port_slot, client, edge));
        if let (Some(key), Some((latest_key, slot))) = (key, *latest)
            && key == latest_key
        {
            return self.note_received(desk, slot, index);
        }
        let slot = match (key, edge) {
            (Some(key), Some(destination)) => self
                .table
                .find(&key)
                .or_else(|| self.admit(desk, port_slot, key, Endpoints { source: client, destination })),
            _ => None,
        };
        match (key, slot) {
            (Some(key), Some(slot)) => {
                *latest = Some((key, slot));
                self.note_received(desk, slot, index)
            }
            _ => {
                let port = self.ports.get(port_slot)?;
                let active = match &port.listener.active {
                    Some(active) => active,
                    None => self.routes.find(Protocol::Udp, edge?)?.0,
                };
                let counters = counters(active, desk);
                counters.datagrams_ingress.add(1);
                counters.bytes_ingress.add(self.batch.datagram(index).len() as u64);
                counters.datagrams_dropped.add(1);
                None
            }
        }
    }

    pub(super) fn note_received(&mut self, desk: &mut Desk, slot: usize, index: usize) -> Option<usize> {
        let len = self.batch.datagram(index).len() as u64;
        let session = &mut self.table[slot];
        session.client_bytes += len;
        let counters = counters(&session.active, desk);
        counters.datagrams_ingress.add(1);
        counters.bytes_ingress.add(len);
        let Some(Err(refusal)) = session.permit.as_ref().map(|permit| permit.take_datagram(len, desk.now_ms)) else {
            return Some(slot);
        };
        counters.datagrams_dropped.add(1);
        let cause = count_refusal(refusal, counters);
        let (active, ends) = (session.active.clone(), Endpoints { source: session.client, destination: session.edge });
        self.refuse_filtered(desk, &active, ends, cause);
        None
    }

    /// Send datagrams of a client, which are counted as received, to its origin.
    pub(super) fn pass_up(&mut self, desk: &mut Desk, slot: usize, picks: &[Pick]) {
        let Some(refused_at) = self.send_up(desk, slot, picks) else { return };
        // The news came with this send, so the client's next datagram is the one that was not sent.
        let rest = &picks[refused_at..];
        let session = &self.table[slot];
        let (port, key, active) = (session.port, session.key, session.active.clone());
        let ends = Endpoints { source: session.client, destination: session.edge };
        self.on_refused(desk, slot);
        let unsent = match self.admit(desk, port, key, ends) {
            Some(next) => match self.send_up(desk, next, rest) {
                Some(at) => {
                    self.on_refused(desk, next);
                    rest.len() - at
                }
                None => 0,
            },
            None => rest.len(),
        };
        counters(&active, desk).datagrams_dropped.add(unsent as u64);
    }

    /// Answers the first pick that was not sent because the origin refused an earlier datagram.
    fn send_up(&mut self, desk: &mut Desk, slot: usize, picks: &[Pick]) -> Option<usize> {
        let session = &mut self.table[slot];
        let counters = counters(&session.active, desk);
        let fd = match (session.state, &session.socket) {
            (State::Open, Some(socket)) => socket.as_raw_fd(),
            (State::Open, None) => {
                self.send_onward(desk, slot, picks);
                return None;
            }
            (State::Resolving | State::Linking, _) => {
                self.hold(desk, slot, picks);
                return None;
            }
            _ => {
                counters.datagrams_dropped.add(picks.len() as u64); // given up for another one of this batch
                return None;
            }
        };
        let header = Header::of(session);
        let to = Target { fd, route: None, header: Some(&header) };
        let sent = to.send(&mut self.batch, picks, &mut session.owes_header, &mut session.may_segment[0]);
        session.since_ms = desk.now_ms;
        counters.datagrams_dropped.add(sent.dropped);
        if session.connect_time_ms == 0 && sent.datagrams > 0 {
            session.connect_time_ms = unix_ms();
            desk.events.write(session.event(Cause::Opened));
        }
        self.note_use(slot);
        sent.refused_at
    }

    pub(super) fn note_use(&mut self, slot: usize) {
        let session = &self.table[slot];
        match session.is_answered && !session.is_two_way {
            true => self.promote(slot),
            false => self.table.touch(slot),
        }
    }

    fn hold(&mut self, desk: &Desk, slot: usize, picks: &[Pick]) {
        let session = &mut self.table[slot];
        for pick in picks {
            let datagram = self.batch.datagram(pick.index.into());
            let has_room = session.held.len() < MOST_HELD
                && session.held_bytes() + datagram.len() <= MOST_HELD_BYTES
                && self.held_bytes + datagram.len() <= MOST_HELD_BYTES_OF_ALL;
            if has_room {
                session.held.push(datagram.into());
                self.held_bytes += datagram.len();
            } else {
                counters(&session.active, desk).datagrams_dropped.add(1);
            }
        }
    }

    /// Pass on what an origin has sent. True if it has refused what we sent.
    pub(super) fn pass_down(&mut self, desk: &mut Desk, slot: usize) -> bool {
        let mut picks = std::mem::take(&mut self.picks);
        picks.clear();
        let is_refused = self.pass_down_by(desk, slot, &mut picks);
        self.picks = picks;
        is_refused
    }

    fn pass_down_by(&mut self, desk: &mut Desk, slot: usize, picks: &mut Vec<Pick>) -> bool {
        let session = &mut self.table[slot];
        let Some(socket) = &session.socket else { return false };
        let count = match self.batch.receive_from_origin(socket.as_raw_fd()) {
            Ok(count) => count,
            Err(error) => return error.raw_os_error() == Some(libc::ECONNREFUSED),
        };
        self.received += count;
        let counters = counters(&session.active, desk);
        let is_simple = session.active.proxy_protocol() == ProxyProtocol::Simple;
        for index in 0..count {
            let is_reply = !is_simple || session.is_reply(self.batch.datagram(index));
            if is_reply && !self.batch.is_truncated(index) {
                let skip = if is_simple { simple_proxy::LEN as u8 } else { 0 };
                picks.push(Pick { session: slot as u32, index: index as u16, skip });
            }
        }
        counters.datagrams_dropped.add((count - picks.len()) as u64);
        if !picks.is_empty() {
            self.send_down(desk, slot, picks);
        }
        false
    }

    /// Send datagrams of an origin to its client, or towards it.
    pub(super) fn send_down(&mut self, desk: &mut Desk, slot: usize, picks: &[Pick]) {
        let session = &mut self.table[slot];
        let sent = match session.tunnel.as_ref().and_then(|tunnel| tunnel.from) {
            Some(from) => tunnel::send(&mut self.legs, &self.batch, (from, Kind::Payload), &[], picks),
            None => match self.send_to_client(desk, slot, picks) {
                Some(sent) => sent,
                None => return,
            },
        };
        let session = &mut self.table[slot];
        let counters = counters(&session.active, desk);
        session.since_ms = desk.now_ms;
        session.origin_bytes += sent.bytes;
        counters.datagrams_egress.add(sent.datagrams);
        counters.bytes_egress.add(sent.bytes);
        counters.datagrams_dropped.add(sent.dropped);
        if !session.is_answered {
            session.is_answered = true;
            if let Some(origin) = session.origin {
                self.refusals.forget(origin);
            }
            counters.sessions_answered_total.add(1);
        }
        self.table.touch(slot);
    }

    /// None: it cannot be, which is counted.
    fn send_to_client(&mut self, desk: &mut Desk, slot: usize, picks: &[Pick]) -> Option<Sent> {
        let once; // a reply socket that is not kept
        let session = &mut self.table[slot];
        let port = self.ports.get(session.port)?;
        let counters = counters(&session.active, desk);
        let (fd, source) = match (port.is_of_dispatch(), &session.reply) {
            (false, _) => (port.fd, port.is_wildcard().then(|| session.edge.ip())),
            (true, Some(reply)) => (reply.as_raw_fd(), None),
            (true, None) => match self.replies.socket(session.edge, session.client, &desk.files) {
                Ok((reply, is_kept)) => {
                    once = reply;
                    if is_kept {
                        session.reply = Some(once.clone());
                    }
                    (once.as_raw_fd(), None)
                }
                Err(_) => {
                    counters.datagrams_dropped.add(picks.len() as u64); // no descriptor, or somebody has bound the port
                    return None;
                }
            },
        };
        let route = Route::new(session.client, source);
        let to = Target { fd, route: Some(&route), header: None };
        Some(to.send(&mut self.batch, picks, &mut false, &mut session.may_segment[1]))
    }
}

/// Where datagrams go.
struct Target<'a> {
    fd: RawFd,
    route: Option<&'a Route>,
    header: Option<&'a Header>,
}

#[derive(Debug, Default)]
pub struct Sent {
    pub datagrams: u64,
    /// Payload only.
    pub bytes: u64,
    pub dropped: u64,
    refused_at: Option<usize>,
}

impl Target<'_> {
    /// Send all that the socket takes now.
    fn send(&self, batch: &mut Batch, picks: &[Pick], owes_header: &mut bool, may_segment: &mut bool) -> Sent {
        let mut sent = Sent::default();
        let (mut at, mut failed_at) = (0, None);
        while at < picks.len() {
            let prefix = self.header.map_or(Prefix::None, |header| header.prefix(*owes_header));
            let error = match batch.send(self.fd, &picks[at..], self.route, prefix, may_segment) {
                Ok(count) => {
                    let payload = |pick: &Pick| batch.datagram(pick.index.into()).len() as u64 - u64::from(pick.skip);
                    sent.bytes += picks[at..at + count].iter().map(payload).sum::<u64>();
                    sent.datagrams += count as u64;
                    *owes_header = false;
                    at += count;
                    continue;
                }
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            match error {
                libc::ECONNREFUSED => {
                    sent.refused_at = Some(at);
                    return sent;
                }
                libc::EAGAIN | libc::ENOBUFS => {
                    sent.dropped += (picks.len() - at) as u64;
                    return sent;
                }
                // Maybe news of an earlier datagram, which the socket tells once: then this one is fine.
                _ if failed_at != Some(at) => failed_at = Some(at),
                _ => {
                    sent.dropped += 1;
                    at += 1;
                }
            }
        }
        sent
    }
}
