//! TLS over a socket that does not block: ciphertext in, plaintext out, and back.
//!
//! Plaintext is kept here only where somebody asks for it; what was enciphered and the socket did not take is.

use std::io::{self, BufRead, IoSlice, Write};
use std::os::fd::RawFd;

use causeway_wire::overlay::Name;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};

use super::identity::{Identity, PROTOCOLS, name_in};
use crate::relay::Readiness;
use crate::sys;

/// More is not kept.
const MOST_KEPT: usize = 16 << 10;

/// What a read has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    Nothing,
    Bytes,
    /// The other side has said that there is no more.
    End,
}

#[derive(Debug)]
pub struct Tls {
    connection: Box<Connection>,
    /// All that was written, as long as it may have to be said to another edge instead.
    kept: Option<Vec<u8>>,
    has_heard_end: bool,
    has_told_end: bool,
}

impl Tls {
    /// Towards the edge of that name, and no other.
    pub fn towards(identity: &Identity, peer: &Name) -> io::Result<Tls> {
        let name = ServerName::try_from(peer.as_str().to_owned()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(identity.client.clone(), name).map_err(io::Error::other)?;
        Ok(Tls::of(connection.into()))
    }

    pub fn from_peer(identity: &Identity) -> io::Result<Tls> {
        let connection = ServerConnection::new(identity.server.clone()).map_err(io::Error::other)?;
        Ok(Tls::of(connection.into()))
    }

    fn of(mut connection: Connection) -> Tls {
        connection.set_buffer_limit(None); // we only write to what is flushed
        Tls { connection: Box::new(connection), kept: None, has_heard_end: false, has_told_end: false }
    }

    /// Who the other side has proven to be.
    pub fn peer(&self) -> Option<Name> {
        self.connection.peer_certificates().and_then(|chain| name_in(chain.first()?))
    }

    pub fn is_shaking_hands(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Is there something that the socket has not taken?
    pub fn holds_bytes(&self) -> bool {
        self.connection.wants_write()
    }

    /// Is there something to be read without the socket?
    pub fn has_heard_end(&self) -> bool {
        self.has_heard_end
    }

    /// Read once, and put what it says behind `out`.
    ///
    /// # Errors
    /// Of the socket; `ConnectionReset` for an end that was not announced, `InvalidData` for what is no TLS of ours.
    pub fn read(&mut self, fd: RawFd, ready: &mut Readiness, scratch: &mut [u8], out: &mut Vec<u8>) -> io::Result<Got> {
        if self.has_heard_end {
            return Ok(Got::End);
        }
        let n = match sys::recv(fd, scratch) {
            Ok(0) => return Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready.is_readable = false;
                return Ok(Got::Nothing);
            }
            Err(error) => return Err(error),
        };
        if n < scratch.len() {
            ready.is_readable = ready.is_ending; // a short read has emptied the socket (epoll(7))
        }
        let before = out.len();
        let mut rest = &scratch[..n];
        while !rest.is_empty() && !self.has_heard_end {
            self.connection.read_tls(&mut rest)?;
            let state = match self.connection.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    let _ = self.connection.write_tls(&mut Socket(fd)); // why, for the other side's log
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            let mut left = state.plaintext_bytes_to_read();
            self.has_heard_end = state.peer_has_closed();
            while left > 0 {
                let mut reader = self.connection.reader();
                let chunk = reader.fill_buf()?;
                out.extend_from_slice(chunk);
                let len = chunk.len();
                reader.consume(len);
                left = left.saturating_sub(len.max(1));
            }
        }
        Ok(if out.len() > before { Got::Bytes } else { Got::Nothing })
    }

    /// Encipher; leaves with the next flush.
    pub fn write(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            match kept.len() + bytes.len() <= MOST_KEPT {
                true => kept.extend_from_slice(bytes),
                false => self.kept = None,
            }
        }
        let _ = self.connection.writer().write_all(bytes); // into memory, without a limit
    }

    /// The same, in one record where it fits, and not to be said to another edge.
    pub fn write_pieces(&mut self, head: &[u8], body: &[u8]) {
        let _ = self.connection.writer().write_vectored(&[IoSlice::new(head), IoSlice::new(body)]);
    }

    /// Does the other side know of flows that can be resumed?
    pub fn speaks_frames(&self) -> bool {
        self.connection.alpn_protocol().is_some_and(|protocol| PROTOCOLS[..2].contains(&protocol))
    }

    /// And of those that go on before anybody has said from where?
    pub fn hears_at_once(&self) -> bool {
        self.connection.alpn_protocol() == Some(PROTOCOLS[0])
    }

    /// Keep what is written from now on, unless it becomes too much.
    pub fn keep(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// All that was written since, and nothing is kept any more.
    pub fn take_kept(&mut self) -> Option<Vec<u8>> {
        self.kept.take()
    }

    /// There is no more to come; leaves with the next flush.
    pub fn end(&mut self) {
        if !std::mem::replace(&mut self.has_told_end, true) {
            self.connection.send_close_notify();
        }
    }

    /// Give the socket what it takes; answers whether that was all.
    ///
    /// # Errors
    /// The socket's.
    pub fn flush(&mut self, fd: RawFd, ready: &mut Readiness) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Socket(fd)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.is_writable = false;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Go on with the handshake; answers whether it is done and nothing waits. What came behind it is put into `out`.
    ///
    /// # Errors
    /// As for [`Tls::read`].
    pub fn shake_hands(
        &mut self,
        fd: RawFd,
        ready: &mut Readiness,
        scratch: &mut [u8],
        out: &mut Vec<u8>,
    ) -> io::Result<bool> {
        loop {
            if !self.flush(fd, ready)? {
                return Ok(false);
            }
            if !self.is_shaking_hands() {
                return Ok(true);
            }
            if !ready.is_readable || self.read(fd, ready, scratch, out)? == Got::End {
                return Ok(false);
            }
        }
    }
}

/// A socket as rustls writes to it.
struct Socket(RawFd);

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sys::send(self.0, bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        sys::send_pieces(self.0, pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
