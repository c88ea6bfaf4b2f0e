//! One QUIC connection to another edge, or from it, and what sessions are on it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use causeway_wire::datagram::{Kind, MAX_HEAD, head};
use causeway_wire::overlay::{MAX_HOP, Name};
use quinn_proto::{Connection, ConnectionHandle, Dir, Endpoint, StreamEvent, StreamId};

/// The largest datagram there is, with all that goes in front of it.
const MOST_MESSAGE: usize = 65_535 + MAX_HEAD + MAX_HOP;

/// That are told of in one message.
const MOST_ENDS: usize = 8_000;

pub struct Leg {
    pub connection: Connection,
    /// The socket that it goes over.
    pub which: usize,
    /// The edge that it leads to; none: another edge has opened it.
    pub towards: Option<Name>,
    /// Who the other end has proven to be.
    pub proven: Option<Name>,
    pub is_open: bool,
    pub has_left: bool,
    /// Sessions by their numbers here.
    pub flows: HashMap<u64, usize>,
    pub next_flow: u64,
    pub used_ms: u64,
    pub armed_ms: u64,
    pub is_touched: bool,
    /// Sessions that are over, of which the other edge has not heard for want of streams.
    pub unsent_ends: Vec<u64>,
    /// Large messages that have begun to arrive.
    partial: HashMap<StreamId, Vec<u8>>,
}

impl Leg {
    pub fn new(connection: Connection, which: usize, towards: Option<Name>, now_ms: u64) -> Leg {
        Leg {
            connection,
            which,
            towards,
            proven: None,
            is_open: false,
            has_left: false,
            flows: HashMap::new(),
            next_flow: 0,
            used_ms: now_ms,
            armed_ms: u64::MAX,
            is_touched: false,
            unsent_ends: Vec::new(),
            partial: HashMap::new(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    pub fn peer(&self) -> Option<Name> {
        self.towards.or(self.proven)
    }

    /// In a stream of its own. False: there is no room for it.
    pub fn send_alone(&mut self, message: Bytes) -> bool {
        let Some(id) = self.connection.streams().open(Dir::Uni) else { return false };
        let whole = message.len();
        let mut stream = self.connection.send_stream(id);
        let is_whole = stream.write_chunks(&mut [message]).is_ok_and(|written| written.bytes == whole);
        match is_whole {
            true => stream.finish().is_ok(),
            false => {
                let _ = stream.reset(0u32.into());
                false
            }
        }
    }

    /// By a stream, since nobody says it again; many together, so that they wait for none for long.
    pub fn send_ends(&mut self) {
        while !self.unsent_ends.is_empty() {
            let some = &self.unsent_ends[self.unsent_ends.len().saturating_sub(MOST_ENDS)..];
            let mut message = Vec::with_capacity(some.len() * MAX_HEAD);
            for flow in some {
                let mut out = [0; MAX_HEAD];
                let len = head(Kind::End, *flow, &mut out);
                message.extend_from_slice(&out[..len]);
            }
            let left = self.unsent_ends.len() - some.len();
            if !self.send_alone(message.into()) {
                return;
            }
            self.unsent_ends.truncate(left);
        }
    }

    pub fn on_stream(&mut self, event: StreamEvent, mut hear: impl FnMut(Bytes)) {
        match event {
            StreamEvent::Opened { dir: Dir::Uni } => {
                while let Some(id) = self.connection.streams().accept(Dir::Uni) {
                    self.read(id, &mut hear);
                }
            }
            StreamEvent::Readable { id } => self.read(id, &mut hear),
            StreamEvent::Available { dir: Dir::Uni } => self.send_ends(),
            _ => {}
        }
    }

    fn read(&mut self, id: StreamId, hear: &mut impl FnMut(Bytes)) {
        let mut message = self.partial.remove(&id).unwrap_or_default();
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return };
        let is_over = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) if message.len() + chunk.bytes.len() <= MOST_MESSAGE => {
                    message.extend_from_slice(&chunk.bytes);
                }
                Ok(Some(_)) => break Err(io::ErrorKind::InvalidData),
                Ok(None) => break Ok(true),
                Err(quinn_proto::ReadError::Blocked) => break Ok(false),
                Err(quinn_proto::ReadError::Reset(_)) => break Err(io::ErrorKind::ConnectionReset),
            }
        };
        let _ = chunks.finalize(); // whoever reads has touched the connection, so that what is to be said leaves
        match is_over {
            Ok(true) => hear(message.into()),
            Ok(false) => drop(self.partial.insert(id, message)),
            Err(_) => drop(stream.stop(0u32.into())),
        }
    }

    /// Pass on what connection and endpoint have to tell each other.
    pub fn talk_with(&mut self, endpoint: &mut Endpoint, handle: usize) {
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = endpoint.handle_event(ConnectionHandle(handle), event) {
                self.connection.handle_event(event);
            }
        }
    }
}
