//! How far origins are that this edge has no flows to: a connection now and then, made and closed.
//!
//! Only to origins that have flows elsewhere (control says which), and only where no flow of this edge's own has shown
//! it lately.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use slab::Slab;

use super::TcpPlane;
use super::connect::{connect_cause, start_connect};
use crate::event::Cause;
use crate::origin::Choice;
use crate::overlay::Overlay;
use crate::steering::Steered;
use crate::sys;
use crate::worker::{Desk, Token};

/// What was shown so lately is not shown again.
const EVERY_MS: u64 = 10_000;
const MOST_AT_ONCE: usize = 64;

#[derive(Debug)]
struct Try {
    fd: OwnedFd,
    steered: Arc<Steered>,
    due_ms: u64,
}

/// Those under way, and which address of an application's is next.
#[derive(Debug, Default)]
pub struct Tries {
    under_way: Slab<Try>,
    turns: HashMap<u128, u64>,
}

impl TcpPlane {
    /// Once a second.
    pub(super) fn tick_reach(&mut self, desk: &mut Desk, overlay: &Overlay) {
        let late: Vec<usize> =
            self.tries.under_way.iter().filter(|(_, it)| it.due_ms <= desk.now_ms).map(|(slot, _)| slot).collect();
        for slot in late {
            self.end_try(desk, slot, Some(Cause::ConnectTimeout));
        }
        let Some(wanted) = overlay.lasting.steering.wanted(desk.now_ms) else { return self.tries.turns.clear() };
        for id in &wanted.reach {
            let Some((active, steered)) =
                overlay.exits.get(id).and_then(|active| Some((active, active.steered.as_ref()?)))
            else {
                continue;
            };
            let has_room = self.tries.under_way.len() < MOST_AT_ONCE && desk.files.has_room(1);
            if !has_room || desk.strain.is_full() || !steered.reach.take_turn(desk.now_ms, EVERY_MS) {
                continue;
            }
            let tried = self.tries.turns.entry(*id).or_default();
            let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let origin = match active.origins.choose(tried, nobody, 0, desk.now_ms) {
                Choice::Try(origin) => origin,
                Choice::Exhausted(_) if *tried != 0 => {
                    *tried = 0; // all had their turn
                    let Choice::Try(origin) = active.origins.choose(tried, nobody, 0, desk.now_ms) else { continue };
                    origin
                }
                _ => continue, // its name is not known yet, or to nobody
            };
            match start_connect(active, origin, &mut desk.next_source) {
                Ok(fd) => {
                    let (raw, due_ms) = (fd.as_raw_fd(), desk.now_ms + active.connect_timeout_ms);
                    let slot = self.tries.under_way.insert(Try { fd, steered: steered.clone(), due_ms });
                    desk.files.take(1);
                    if desk.epoll.add(raw, sys::OUT | sys::EDGE, Token::Reach.at(slot)).is_err() {
                        self.end_try(desk, slot, Some(Cause::OutOfResources));
                    }
                }
                Err(cause) => steered.reach.failed(cause, desk.now_ms),
            }
        }
    }

    pub fn on_reach(&mut self, desk: &mut Desk, slot: usize) {
        let Some(it) = self.tries.under_way.get(slot) else { return };
        let cause = sys::take_error(it.fd.as_raw_fd()).map(connect_cause);
        self.end_try(desk, slot, cause);
    }

    fn end_try(&mut self, desk: &Desk, slot: usize, failed: Option<Cause>) {
        let Some(it) = self.tries.under_way.try_remove(slot) else { return };
        desk.files.give_back(1);
        match failed {
            Some(cause) => it.steered.reach.failed(cause, desk.now_ms),
            None => it.steered.reach.connected(it.fd.as_raw_fd(), desk.now_ms),
        }
    }
}
