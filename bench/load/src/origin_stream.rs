//! One TCP connection at the origin: echo what comes, count and check what comes, or send until told to stop.
use crate::clock::now_ns;
use crate::filler::{CHUNK, Filler};
use crate::request::{REQUEST, Receipt, Request};
use crate::sys::{READABLE, WRITABLE, would_block};
use std::io::{self, Read, Write};
use std::net::TcpStream;

/// A PROXY v2 header of an IPv4 client (PROXY protocol specification, 2.2): signature, command, family, length.
const HEADER_BYTES: usize = 28;
const HEADER_BEGINS: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";

#[derive(Clone, Copy)]
pub enum Role {
    Echo,
    Sink,
    Source,
}

/// What all streams of this one thread use in turn.
pub struct Shared {
    pub filler: Filler,
    pub buffer: Vec<u8>,
}

pub struct Stream {
    socket: TcpStream,
    role: Role,
    /// The request so far, or an echo that did not fit.
    pending: Vec<u8>,
    request: Option<Request>,
    seen: Receipt,
    is_ended: bool,
    /// What has come of the PROXY header that is to come first; none is expected, or all of it was there.
    header: Option<Vec<u8>>,
}

impl Stream {
    pub fn new(socket: TcpStream, role: Role, has_header: bool) -> Self {
        let header = has_header.then(Vec::new);
        Self { socket, role, pending: Vec::new(), request: None, seen: Receipt::default(), is_ended: false, header }
    }

    pub fn interest(&self) -> u32 {
        let is_writing = match self.role {
            Role::Echo => !self.pending.is_empty(),
            Role::Sink => false,
            Role::Source => self.request.is_some(),
        };
        if is_writing { WRITABLE } else { READABLE }
    }

    /// Does what it can now; false when the connection is to be closed.
    pub fn advance(&mut self, shared: &mut Shared) -> io::Result<bool> {
        match self.role {
            Role::Echo if !self.pending.is_empty() => self.flush().map(|()| true),
            Role::Source if self.request.is_some() => self.send(shared),
            _ => self.receive(shared),
        }
    }

    fn receive(&mut self, shared: &mut Shared) -> io::Result<bool> {
        let count = match self.socket.read(&mut shared.buffer) {
            Ok(0) => return self.ended(),
            Ok(count) => count,
            Err(error) if would_block(&error) => return Ok(true),
            Err(error) => return Err(error),
        };
        let mut received = &shared.buffer[..count];
        if let Some(header) = &mut self.header {
            let (head, rest) = received.split_at(received.len().min(HEADER_BYTES - header.len()));
            header.extend_from_slice(head);
            received = rest;
            if header.len() == HEADER_BYTES {
                if !header.starts_with(HEADER_BEGINS) {
                    return Err(io::Error::other("not a PROXY v2 header"));
                }
                self.header = None;
            }
            if received.is_empty() {
                return Ok(true);
            }
        }
        if matches!(self.role, Role::Echo) {
            let sent = write_some(&mut self.socket, received)?;
            self.pending.extend_from_slice(&received[sent..]);
            return Ok(true);
        }
        if self.request.is_none() {
            let (head, rest) = received.split_at(received.len().min(REQUEST - self.pending.len()));
            self.pending.extend_from_slice(head);
            received = rest;
            let Ok(head) = self.pending.as_slice().try_into() else { return Ok(true) };
            self.request = Some(Request::from_bytes(head).ok_or_else(|| io::Error::other("not a request"))?);
            self.pending.clear();
        }
        if let (Role::Sink, Some(request)) = (self.role, &self.request) {
            self.seen.take(request, &shared.filler, received);
        }
        Ok(true)
    }

    fn ended(&mut self) -> io::Result<bool> {
        if matches!(self.role, Role::Sink) && self.request.is_some() {
            self.socket.write_all(&self.seen.to_bytes())?; // an empty send buffer: it always fits
        }
        Ok(false)
    }

    fn send(&mut self, shared: &Shared) -> io::Result<bool> {
        let Some(request) = self.request else { return Ok(true) };
        if !self.pending.is_empty() {
            self.flush()?;
        } else if !self.is_ended {
            let limit = if request.bytes > 0 { request.bytes - self.seen.bytes } else { CHUNK as u64 };
            if limit == 0 || request.window.is_over(now_ns()) {
                self.is_ended = true;
                self.pending = self.seen.to_bytes().to_vec();
                self.flush()?;
            } else {
                let chunk = shared.filler.at(self.seen.bytes, limit.min(CHUNK as u64) as usize);
                self.seen.bytes += write_some(&mut self.socket, chunk)? as u64;
            }
        }
        Ok(!(self.is_ended && self.pending.is_empty()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let sent = write_some(&mut self.socket, &self.pending)?;
        self.pending.drain(..sent);
        Ok(())
    }
}

fn write_some(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match socket.write(bytes) {
        Err(error) if would_block(&error) => Ok(0),
        other => other,
    }
}
