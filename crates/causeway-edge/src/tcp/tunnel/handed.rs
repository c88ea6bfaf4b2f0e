//! Flows that other edges hand over, and what those hear of them.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use causeway_wire::frames::Word;
use causeway_wire::overlay::{Answer, MAX_ANSWER, Outcome};

use super::{MOST_DRAINED, Tunnel};
use crate::application::Active;
use crate::event::Cause;
use crate::overlay::{self, Overlay};
use crate::sys;
use crate::tcp::connection::{Connection, Reset};
use crate::tcp::kept::{Kept, say};
use crate::tcp::links::Arrival;
use crate::tcp::{DESCRIPTORS, TcpPlane, counters};
use crate::ways::Course;
use crate::worker::{Desk, Token};

impl TcpPlane {
    /// Another edge hands a flow over.
    pub(in crate::tcp) fn take_in(&mut self, desk: &mut Desk, overlay: &Arc<Overlay>, arrival: Arrival) {
        let Some(arrival) = self.join_or_begin(desk, overlay, arrival) else { return };
        let Arrival { fd, tls, ready, address, hop, early } = arrival;
        let is_loop = hop.path.names().any(|name| *name == overlay.name);
        let known = if hop.path.is_empty() { overlay.exits.get(&hop.application) } else { Some(&overlay.transit) };
        let active: Arc<Active> = known.unwrap_or(&overlay.transit).clone();
        let mut connection = Connection::new(active.clone(), fd, address, hop.endpoints.destination, desk);
        self.next_generation = self.next_generation.wrapping_add(1);
        connection.generation = self.next_generation;
        connection.ready[0] = ready;
        connection.told = Some(Box::new(hop.endpoints));
        let mut tunnel = Tunnel::new(hop.application, hop.trace, Course::handed_over(hop.path));
        (tunnel.client, tunnel.number, tunnel.has_others) = (Some(tls), hop.number, hop.has_others);
        match hop.keep.filter(|_| hop.path.is_empty()) {
            Some(keep) => tunnel.kept = Some(Box::new(Kept::asked(keep, early, overlay, desk.now_ms))),
            None => {
                tunnel.keep = hop.keep;
                connection.up.bytes += early.len() as u64;
                connection.early = early;
            }
        }
        connection.tunnel = Some(Box::new(tunnel));
        let counted = counters(&active, desk);
        counted.connections_total.add(1);
        counted.connections_open.add(1);
        desk.files.take(DESCRIPTORS);
        let raw = connection.client.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let is_unknown = known.is_none();
        let has_room = desk.files.has_room(0) && !desk.strain.is_full();
        let slot = self.connections.insert(connection);
        if !self.register_kept(desk, slot) {
            return self.close(desk, slot, Cause::PathBroken, Reset::Both);
        }
        let interest = sys::IN | sys::RDHUP | sys::EDGE;
        if desk.epoll.modify(raw, interest, Token::Client.at(slot)).is_err() || !has_room {
            return self.end_unanswered(desk, slot, Cause::OutOfResources);
        }
        if is_unknown || is_loop {
            return self.end_unanswered(desk, slot, if is_loop { Cause::PathBroken } else { Cause::PathUnknown });
        }
        self.connect(desk, slot);
    }

    /// The last edge has its origin, and says so before the origin's first byte.
    pub(in crate::tcp) fn tell_connected(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        let origin = connection.origin_address;
        let Some(tunnel) = connection.tunnel.as_mut() else { return };
        if let Some(kept) = &mut tunnel.kept {
            let says_arrived = std::mem::take(&mut kept.says_arrived);
            if let Some(tls) = &mut tunnel.client {
                tls.write(&answer(Cause::Opened, origin));
                if says_arrived {
                    say(tls, Word::Arrived(kept.arrived()));
                }
            }
        } else if tunnel.client.is_some() {
            connection.down.hold(answer(Cause::Opened, connection.origin_address));
        }
    }

    /// Nothing came of it: whoever handed it over hears why.
    pub(in crate::tcp) fn end_unanswered(&mut self, desk: &mut Desk, slot: usize, cause: Cause) {
        self.end_saying(desk, slot, cause, overlay::outcome(cause));
    }

    pub(in crate::tcp) fn end_saying(&mut self, desk: &mut Desk, slot: usize, cause: Cause, outcome: Outcome) {
        let connection = &mut self.connections[slot];
        let origin = connection.origin_address;
        let told = match (&mut connection.tunnel, &connection.client) {
            (Some(tunnel), Some(client)) => tunnel.client.as_mut().map(|tls| (tls, client.as_raw_fd())),
            _ => None,
        };
        let Some((tls, fd)) = told else { return self.close(desk, slot, cause, Reset::Both) };
        tls.write(&encoded(Answer { outcome, origin }));
        tls.end();
        // A socket that has said nothing yet takes as much; if it has failed, nobody listens.
        let is_told = tls.flush(fd, &mut connection.ready[0]).unwrap_or(false);
        // What the client has said must not turn this end into an RST, which would overtake the answer.
        if is_told {
            sys::shutdown_write(fd);
            let scratch = self.tools.scratch();
            (0..MOST_DRAINED).take_while(|_| sys::recv(fd, scratch).is_ok_and(|n| n > 0)).for_each(drop);
        }
        self.close(desk, slot, cause, if is_told { Reset::None } else { Reset::Both });
    }
}

pub(in crate::tcp) fn answer(cause: Cause, origin: Option<SocketAddr>) -> Vec<u8> {
    encoded(Answer { outcome: overlay::outcome(cause), origin })
}

fn encoded(answer: Answer) -> Vec<u8> {
    let mut out = [0; MAX_ANSWER];
    let len = answer.encode(&mut out);
    out[..len].to_vec()
}
