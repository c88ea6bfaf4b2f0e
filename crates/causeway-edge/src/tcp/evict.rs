//! No descriptors are left: which silent connections give way, so that others can come in.
//!
//! Only those of the network that holds the most, and only if that is more than its part: who has few keeps them, and
//! so does whoever has said something lately.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use super::connection::{Connection, Reset, State};
use super::{TcpPlane, counters};
use crate::detect::source::is_own;
use crate::event::Cause;
use crate::worker::Desk;

/// Looking costs time for each connection there is: as many as this find room by one look.
const AT_ONCE: usize = 256;
const LOOK_EVERY_MS: u64 = 100;
/// A network with fewer is not what fills the edge; nor is one with less than this part of all.
const LEAST_HELD: usize = 64;
const LEAST_PART: usize = 8;
/// Silent for less, one may be about to speak.
const SILENT_MS: u64 = 2_000;
/// Of one that has spoken: it may be an idle session that somebody wants.
const LONG_SILENT_MS: u64 = 30_000;
/// What an origin may say first.
const BANNER_BYTES: u64 = 4_096;

impl TcpPlane {
    /// Room for one more connection. False: nobody is to give way.
    pub(super) fn make_room(&mut self, desk: &mut Desk) -> bool {
        if desk.now_ms < self.looked_in_vain_ms + LOOK_EVERY_MS {
            return false;
        }
        let victims = self.silent_of_the_largest(desk.now_ms);
        if victims.is_empty() {
            self.looked_in_vain_ms = desk.now_ms;
        }
        for slot in &victims {
            counters(&self.connections[*slot].active, desk).idle_evicted_total.add(1);
            self.close(desk, *slot, Cause::IdleEvicted, Reset::Both);
        }
        !victims.is_empty()
    }

    /// Those that never said anything before others, the oldest first.
    fn silent_of_the_largest(&self, now_ms: u64) -> Vec<usize> {
        let open = || self.connections.iter().filter(|(_, connection)| connection.state != State::Closed);
        let mut held: HashMap<u128, usize> = HashMap::new();
        let clients = open().map(|(_, connection)| connection.endpoints().source.ip());
        for client in clients.filter(|client| !is_own(*client)) {
            *held.entry(network(client)).or_default() += 1;
        }
        let Some((largest, count)) = held.into_iter().max_by_key(|(_, count)| *count) else { return Vec::new() };
        if count < LEAST_HELD.max(self.open() / LEAST_PART) {
            return Vec::new();
        }
        let is_most = count * 2 > self.open(); // then the youngest of them are no less a part of it
        let mut silent: Vec<(bool, u64, usize)> = open()
            .filter(|(_, connection)| network(connection.endpoints().source.ip()) == largest)
            .filter(|(_, connection)| !is_own(connection.endpoints().source.ip()))
            .filter(|(_, connection)| connection.is_silent(if is_most { 0 } else { SILENT_MS }, now_ms))
            .map(|(slot, connection)| (connection.has_spoken(), connection.since_ms, slot))
            .collect();
        silent.sort_unstable();
        silent.into_iter().take(AT_ONCE.min(count - LEAST_HELD / 2)).map(|(.., slot)| slot).collect()
    }
}

impl Connection {
    /// Its client has said something, or hears more than a banner: it is in use.
    fn has_spoken(&self) -> bool {
        self.up.bytes > 0 || self.down.bytes > BANNER_BYTES
    }

    /// `unspoken_ms`: for how long, if it never said anything.
    fn is_silent(&self, unspoken_ms: u64, now_ms: u64) -> bool {
        let least_ms = if self.has_spoken() { LONG_SILENT_MS } else { unspoken_ms };
        self.state == State::Open && now_ms.saturating_sub(self.since_ms) >= least_ms
    }
}

/// A /24 or a /56, in one space.
fn network(client: IpAddr) -> u128 {
    match client {
        IpAddr::V4(v4) => (u32::from(v4) & 0xffff_ff00).into(),
        IpAddr::V6(v6) => Ipv6Addr::to_bits(v6) >> 72 << 72,
    }
}
