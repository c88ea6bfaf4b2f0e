//! What is seen of a connection, as it travels from who serves it to who judges: fixed in size, dropped when there is
//! no room. Made of the records of the flow log, which all carriers write.

use std::net::IpAddr;

use crate::event::{Cause, Event, Kind};
use crate::snapshot::Protocol;

/// More between two looks, 100 ms apart, are missed.
const ROOM: usize = 8_192;
/// Flows of the kernel have numbers from here on (see `carry::tell`).
const CARRIED: u64 = 256 << 48;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub application: u128,
    pub client: IpAddr,
    /// Of the edge.
    pub port: u16,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A connection is up.
    Opened,
    /// One that was up has ended.
    Closed { client_bytes: u64, origin_bytes: u64, lasted_ms: u64 },
    /// It never came up. Unproven: the client may be somebody else than it says.
    Failed { is_proven: bool },
    /// It gave way to others.
    Evicted,
}

impl Sighting {
    /// None: it says nothing about connections that a client made. UDP proves no source.
    #[inline]
    pub fn of(event: &Event) -> Option<Sighting> {
        if event.protocol != Protocol::Tcp {
            return None;
        }
        let what = match event.cause {
            Cause::Opened => What::Opened,
            Cause::IdleEvicted => What::Evicted,
            // Rules and bans have refused it already, or it is a proxy that the operator trusts.
            cause if cause.kind() == Kind::ClientFiltered => return None,
            _ if event.connect_time_ms > 0 => What::Closed {
                client_bytes: event.client_bytes,
                origin_bytes: event.origin_bytes,
                lasted_ms: event.time_ms.saturating_sub(event.connect_time_ms),
            },
            _ => What::Failed { is_proven: event.flow < CARRIED },
        };
        Some(Sighting { application: event.application, client: event.client.ip(), port: event.edge.port(), what })
    }
}

/// The writing end, of one thread.
#[derive(Debug)]
pub struct Feed(rtrb::Producer<Sighting>);

/// The reading end.
#[derive(Debug)]
pub struct Reader(rtrb::Consumer<Sighting>);

pub fn ring() -> (Feed, Reader) {
    let (producer, consumer) = rtrb::RingBuffer::new(ROOM);
    (Feed(producer), Reader(consumer))
}

impl Feed {
    #[inline]
    pub fn write(&mut self, event: &Event) {
        if let Some(sighting) = Sighting::of(event) {
            self.give(sighting);
        }
    }

    pub fn give(&mut self, sighting: Sighting) {
        let _ = self.0.push(sighting); // no room: missed
    }
}

impl Reader {
    pub fn read(&mut self) -> Option<Sighting> {
        self.0.pop().ok()
    }

    /// Its thread has ended and everything was read.
    pub fn is_over(&self) -> bool {
        self.0.is_abandoned() && self.0.is_empty()
    }
}
