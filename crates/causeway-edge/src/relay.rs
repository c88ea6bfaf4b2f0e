//! Two joined TCP streams: bytes of one socket to the other, in order, with back-pressure.
//!
//! Small messages go through one buffer that the worker owns; a stream that keeps filling it moves to
//! `splice(2)`, where bytes never enter user space. An idle relay holds neither buffer nor pipe. Small messages that
//! are met in one turn of the loop leave together at its end (see `outbox`).

mod tunnel;

use std::io;
use std::os::fd::RawFd;

use crate::outbox::{Outbox, Sent};
use crate::sys::{self, Pipe};

pub use tunnel::Leg;

/// One read of a message; also the most that one direction ever holds in user memory.
pub const BUFFER_BYTES: usize = 64 * 1024;
/// Room for the messages of one turn.
const ROOM_BYTES: usize = 256 * 1024;
const PIPE_BYTES: usize = 1024 * 1024;
const POOLED_PIPES: usize = 32;
/// Reads in a row that filled the buffer before a stream counts as bulk.
const BULK_AFTER: u8 = 2;
/// Splices in a row that moved little before it does not any more.
const SMALL_BYTES: usize = 16 * 1024;
const COPY_AFTER: u8 = 8;
/// Turns before other connections get theirs.
const TURNS: u32 = 16;
/// One read while memory is short: what a target does not take stays in user memory, once for each connection.
const SHORT_BYTES: usize = 4 * 1024;

/// Which socket of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Origin,
}

/// What is known of a socket's readiness between edge-triggered notices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    pub is_readable: bool,
    pub is_writable: bool,
    /// The peer's FIN has arrived behind what is still to be read.
    pub is_ending: bool,
    pub watches_writable: bool,
}

/// One direction of a relay.
#[derive(Debug, Default)]
pub struct Half {
    held: Vec<u8>,
    held_from: usize,
    pipe: Option<Pipe>,
    in_pipe: usize,
    /// Read from the source so far.
    pub bytes: u64,
    counted: u64,
    streak: u8,
    is_bulk: bool,
    /// One message at a time: somebody counts them.
    pub is_paced: bool,
    has_read_end: bool,
    pub has_sent_end: bool,
    /// Where in the worker's buffer a message lies that leaves at the end of this turn.
    leaving: Option<(u32, u32)>,
}

/// Buffer and pipes of one worker, lent to whichever relay runs.
#[derive(Debug)]
pub struct Tools {
    pub buffer: Box<[u8]>,
    /// Plaintext of one read, where TLS is spoken.
    pub plain: Vec<u8>,
    /// So far it holds messages of this turn.
    filled: usize,
    pub outbox: Outbox,
    pipes: Vec<Pipe>,
    /// A stream had more than a message to move since the last look.
    has_streamed: bool,
    /// Memory is short: small pieces, one at a time.
    pub is_short: bool,
}

impl Tools {
    pub fn new(may_gather: bool) -> Tools {
        Tools {
            buffer: vec![0; ROOM_BYTES + BUFFER_BYTES].into_boxed_slice(),
            plain: Vec::new(),
            filled: 0,
            outbox: Outbox::new(may_gather),
            pipes: Vec::new(),
            has_streamed: false,
            is_short: false,
        }
    }

    /// Bytes of the buffer that nothing leaves from, for use within this call.
    pub fn scratch(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..self.filled + BUFFER_BYTES]
    }

    /// What was gathered leaves; answers how it went. To be followed by [`Half::on_sent`] for each, then [`Tools::told`].
    pub fn tell(&mut self) -> Vec<Sent> {
        self.outbox.tell()
    }

    pub fn told(&mut self, sent: Vec<Sent>) {
        self.outbox.keep(sent);
        if self.outbox.is_empty() {
            self.filled = 0;
        }
    }

    /// Has any stream moved more than a message since the last call?
    pub fn take_streamed(&mut self) -> bool {
        std::mem::take(&mut self.has_streamed)
    }

    fn take_pipe(&mut self) -> Option<Pipe> {
        self.pipes.pop().or_else(|| Pipe::new(PIPE_BYTES).ok())
    }

    fn give_back(&mut self, pipe: Pipe) {
        if self.pipes.len() < POOLED_PIPES {
            self.pipes.push(pipe);
        }
    }
}

/// What one call of [`Half::pump`] did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// Anything at all was taken by the target.
    pub has_progress: bool,
    /// The target takes no more for now and bytes wait for it.
    pub is_blocked: bool,
    /// Everything up to and including the end was passed on, but for the FIN itself.
    pub is_done: bool,
    /// There is more to do, but others come first.
    pub is_unfinished: bool,
}

/// A socket failed: whose, and the kernel's error.
#[derive(Debug)]
pub enum Fault {
    Source(io::Error),
    Target(io::Error),
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl Half {
    /// Bytes that go out before anything that is read: a PROXY header, or what followed one.
    pub fn hold(&mut self, bytes: Vec<u8>) {
        debug_assert!(self.held.is_empty(), "held bytes are only set before the first pump");
        self.held = bytes;
    }

    /// Bytes since the last call, for the counters.
    pub fn uncounted(&mut self) -> u64 {
        let bytes = self.bytes - self.counted;
        self.counted = self.bytes;
        bytes
    }

    /// Its target is another one from now on, which has heard nothing.
    pub fn begin_again(&mut self) {
        self.has_sent_end = false;
    }

    pub fn holds_bytes(&self) -> bool {
        !self.held.is_empty() || self.in_pipe > 0
    }

    /// What it holds of bytes that the target has not taken, in memory or in a pipe.
    pub fn held_bytes(&self) -> usize {
        self.held.capacity() + self.in_pipe
    }

    /// The message that was leaving is gone, in part or whole, or its target has failed. True if there is more to do.
    pub fn on_sent(
        &mut self,
        result: Result<usize, i32>,
        source: &Readiness,
        target: &mut Readiness,
        buffer: &[u8],
    ) -> Result<bool, Fault> {
        let Some((from, len)) = self.leaving.take() else { return Ok(false) };
        let (from, len) = (from as usize, len as usize);
        let sent = match result {
            Ok(sent) => sent.min(len),
            Err(libc::EAGAIN) => 0,
            Err(errno) => return Err(Fault::Target(io::Error::from_raw_os_error(errno))),
        };
        if sent < len {
            target.is_writable = false;
            self.held = buffer[from + sent..from + len].to_vec();
            self.held_from = 0;
        }
        Ok(sent < len || source.is_readable)
    }

    /// Move what can be moved now. `token` comes back with the fate of a message that leaves later.
    ///
    /// # Errors
    /// The first failure of either socket; what was read before it is lost, as it is with the kernel's own buffers.
    pub fn pump(
        &mut self,
        (from, source): (RawFd, &mut Readiness),
        (to, target): (RawFd, &mut Readiness),
        tools: &mut Tools,
        token: u64,
    ) -> Result<Moved, Fault> {
        let mut moved = Moved::default();
        if self.leaving.is_some() {
            return Ok(moved);
        }
        let mut turns = if self.is_paced || tools.is_short { 1 } else { TURNS };
        loop {
            if !self.held.is_empty() || self.in_pipe > 0 {
                if !target.is_writable {
                    moved.is_blocked = true;
                    break;
                }
                moved.has_progress |= self.flush(to, target).map_err(Fault::Target)?;
                continue;
            }
            if self.has_read_end {
                moved.is_done = true;
                break;
            }
            if !source.is_readable || !target.is_writable {
                break;
            }
            if turns == 0 {
                moved.is_unfinished = true;
                break;
            }
            turns -= 1;
            let bytes = if self.is_bulk && !tools.is_short {
                self.fill(from, source, tools)?
            } else {
                self.copy(from, source, to, target, tools, token)?
            };
            moved.has_progress |= bytes > 0;
            if self.leaving.is_some() {
                break;
            }
        }
        if self.in_pipe == 0
            && let Some(pipe) = self.pipe.take()
        {
            tools.give_back(pipe);
        }
        Ok(moved)
    }

    fn flush(&mut self, to: RawFd, target: &mut Readiness) -> io::Result<bool> {
        if !self.held.is_empty() {
            return match sys::send(to, &self.held[self.held_from..]) {
                Ok(n) => {
                    self.held_from += n;
                    if self.held_from == self.held.len() {
                        self.held = Vec::new();
                        self.held_from = 0;
                    } else {
                        target.is_writable = false;
                    }
                    Ok(true)
                }
                Err(error) if would_block(&error) => {
                    target.is_writable = false;
                    Ok(false)
                }
                Err(error) => Err(error),
            };
        }
        let Some(pipe) = &self.pipe else {
            self.in_pipe = 0;
            return Ok(false);
        };
        match pipe.drain_to(to, self.in_pipe) {
            Ok(n) => {
                self.in_pipe -= n.min(self.in_pipe);
                Ok(true)
            }
            Err(error) if would_block(&error) => {
                target.is_writable = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn copy(
        &mut self,
        from: RawFd,
        source: &mut Readiness,
        to: RawFd,
        target: &mut Readiness,
        tools: &mut Tools,
        token: u64,
    ) -> Result<usize, Fault> {
        let may_leave_later = tools.filled <= ROOM_BYTES - BUFFER_BYTES && tools.outbox.gathers();
        let filled = tools.filled;
        let most = if tools.is_short { SHORT_BYTES } else { BUFFER_BYTES };
        let buffer = &mut tools.scratch()[..most];
        let n = match sys::recv(from, buffer) {
            Ok(0) => {
                self.has_read_end = true;
                return Ok(0);
            }
            Ok(n) => n,
            Err(error) if would_block(&error) => {
                source.is_readable = false;
                return Ok(0);
            }
            Err(error) => return Err(Fault::Source(error)),
        };
        self.bytes += n as u64;
        if n < most {
            // A short read has emptied the socket (epoll(7)), unless an end waits behind the bytes.
            source.is_readable = source.is_ending;
            self.streak = 0;
            if may_leave_later {
                // SAFETY: this part of the buffer is left alone until `told`; a relay closes its sockets through the
                // outbox too, after what it gathered.
                unsafe { tools.outbox.send(to, tools.buffer.as_ptr().add(filled), n, token) };
                self.leaving = Some((filled as u32, n as u32));
                tools.filled = (filled + n).next_multiple_of(64);
                return Ok(n);
            }
        } else if most == BUFFER_BYTES {
            tools.has_streamed = true;
            self.streak += 1;
            self.is_bulk = self.streak >= BULK_AFTER && !self.is_paced;
        }
        let buffer = &tools.scratch()[..n];
        let sent = match sys::send(to, buffer) {
            Ok(sent) => sent,
            Err(error) if would_block(&error) => 0,
            Err(error) => return Err(Fault::Target(error)),
        };
        if sent < n {
            target.is_writable = false;
            self.held = buffer[sent..].to_vec();
            self.held_from = 0;
        }
        Ok(n)
    }

    fn fill(&mut self, from: RawFd, source: &mut Readiness, tools: &mut Tools) -> Result<usize, Fault> {
        if self.pipe.is_none() {
            self.pipe = tools.take_pipe();
        }
        let Some(pipe) = &self.pipe else {
            // No pipe to be had (descriptors, pipe limits): copying always works.
            (self.is_bulk, self.streak) = (false, 0);
            return Ok(0);
        };
        match pipe.fill_from(from, pipe.room_bytes) {
            Ok(0) => {
                self.has_read_end = true;
                Ok(0)
            }
            Ok(n) => {
                tools.has_streamed = true;
                self.in_pipe = n;
                self.bytes += n as u64;
                self.streak = if n < SMALL_BYTES { self.streak.saturating_add(1) } else { 0 };
                if self.streak >= COPY_AFTER {
                    (self.is_bulk, self.streak) = (false, 0);
                }
                Ok(n)
            }
            Err(error) if would_block(&error) => {
                source.is_readable = false;
                Ok(0)
            }
            Err(error) => Err(Fault::Source(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A target that takes nothing more, and a source with 256 KiB to give: what does the relay hold of it?
    fn held_between(is_short: bool, is_bulk: bool) -> (usize, bool) {
        let (source, mut sender) = UnixStream::pair().unwrap();
        let (mut target, _receiver) = UnixStream::pair().unwrap();
        for stream in [&source, &sender, &target] {
            stream.set_nonblocking(true).unwrap();
        }
        while target.write(&[0; 4096]).is_ok() {}
        let mut offered = 0;
        while offered < 2 * BUFFER_BYTES
            && let Ok(count) = sender.write(&[1; 8192])
        {
            offered += count;
        }
        assert!(offered > BUFFER_BYTES, "the machine's buffers are small: {offered}");
        let mut tools = Tools::new(false);
        tools.is_short = is_short;
        let mut half = Half { is_bulk, ..Half::default() };
        let mut ready = [Readiness { is_readable: true, is_writable: true, ..Readiness::default() }; 2];
        let [from, to] = &mut ready;
        let moved = half.pump((source.as_raw_fd(), from), (target.as_raw_fd(), to), &mut tools, 0).unwrap();
        (half.held_bytes(), moved.is_blocked)
    }

    #[test]
    fn while_memory_is_short_a_blocked_relay_holds_one_small_piece() {
        assert_eq!(held_between(false, false), (BUFFER_BYTES, true));
        assert_eq!(held_between(true, false), (SHORT_BYTES, true));
        assert!(held_between(false, true).0 > SHORT_BYTES);
        assert_eq!(held_between(true, true), (SHORT_BYTES, true), "a pipe would hold more");
    }
}
