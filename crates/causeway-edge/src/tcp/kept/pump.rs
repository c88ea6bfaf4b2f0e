//! The bytes of a kept flow: between the socket of its client or origin and the connection to the other edge.

use std::io;
use std::os::fd::RawFd;

use causeway_wire::frames::{MAX_WORD, MOST_DATA, Piece, Word, data_head};

use super::{Kept, Nonsense, PASSED_EVERY_BYTES, Phase, WINDOW_BYTES};
use crate::overlay::tls::{Got, Tls};
use crate::relay::{BUFFER_BYTES, Readiness, Tools};
use crate::sys;

/// Before other connections get their turn.
const TURNS: u32 = 8;

/// What a kept flow moves bytes between.
pub struct Sides<'a> {
    /// Of the client or the origin.
    pub socket: Option<RawFd>,
    pub socket_ready: &'a mut Readiness,
    pub link: Option<(RawFd, &'a mut Tls)>,
    pub link_ready: &'a mut Readiness,
    /// What comes of the link is not yet of the flow.
    pub awaits_answer: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Pumped {
    /// Of the socket, and of the link.
    pub read_bytes: u64,
    pub heard_bytes: u64,
    pub has_given: bool,
    /// The socket takes no more for now, or the other edge has too much of what it says.
    pub is_socket_blocked: bool,
    pub is_window_full: bool,
    pub is_link_blocked: bool,
    pub has_passed_end: bool,
    pub is_unfinished: bool,
    /// All is said, on both sides.
    pub is_over: bool,
}

/// What ends it, or its connection.
#[derive(Debug)]
pub enum Fault {
    Socket(io::Error),
    /// With the kernel's number, where it has failed.
    Link(Option<i32>),
    /// The other edge has reset the flow.
    Reset,
    Nonsense,
}

impl From<Nonsense> for Fault {
    fn from(_: Nonsense) -> Fault {
        Fault::Nonsense
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl Kept {
    /// Move what can be moved now; answers what was moved, and what has failed. What has arrived is kept.
    pub fn pump(&mut self, mut sides: Sides<'_>, tools: &mut Tools, now_ms: u64) -> (Pumped, Result<(), Fault>) {
        let mut pumped = Pumped::default();
        let mut plain = std::mem::take(&mut tools.plain);
        let result = self.pump_with(&mut sides, tools.scratch(), &mut plain, now_ms, &mut pumped);
        tools.plain = plain;
        (pumped, result)
    }

    fn pump_with(
        &mut self,
        sides: &mut Sides<'_>,
        scratch: &mut [u8],
        plain: &mut Vec<u8>,
        now_ms: u64,
        pumped: &mut Pumped,
    ) -> Result<(), Fault> {
        for turn in 0..=TURNS {
            let mut has_moved = self.give(sides, pumped)?;
            has_moved |= self.read_link(sides, scratch, plain, now_ms, pumped)?;
            self.say_again(sides)?;
            has_moved |= self.read_socket(sides, scratch, pumped)?;
            if !has_moved {
                break;
            }
            pumped.is_unfinished = turn == TURNS;
        }
        self.pass_end(sides, pumped);
        self.tell(sides, now_ms, pumped.read_bytes > 0)?;
        pumped.is_socket_blocked = !self.waiting.is_empty();
        pumped.is_window_full = self.room() == 0;
        self.part(sides, pumped);
        Ok(())
    }

    /// What waits, to the client or the origin.
    fn give(&mut self, sides: &mut Sides<'_>, pumped: &mut Pumped) -> Result<bool, Fault> {
        let Some(socket) = sides.socket else { return Ok(false) };
        let mut has_given = false;
        while !self.waiting.is_empty() && sides.socket_ready.is_writable {
            let sent = send(socket, self.waiting.as_slices().0, sides.socket_ready)?;
            self.waiting.drain(..sent);
            let uncounted = self.uncounted.min(sent);
            self.uncounted -= uncounted;
            self.delivered += (sent - uncounted) as u64;
            has_given |= sent > 0;
        }
        pumped.has_given |= has_given;
        Ok(has_given)
    }

    fn read_link(
        &mut self,
        sides: &mut Sides<'_>,
        scratch: &mut [u8],
        plain: &mut Vec<u8>,
        now_ms: u64,
        pumped: &mut Pumped,
    ) -> Result<bool, Fault> {
        if sides.awaits_answer {
            return Ok(false);
        }
        if !self.early.is_empty() {
            let early = std::mem::take(&mut self.early);
            self.hear_all(&early, sides, now_ms, pumped)?;
        }
        let Some((fd, tls)) = &mut sides.link else { return Ok(false) };
        if !sides.link_ready.is_readable && !tls.has_heard_end() {
            return Ok(false);
        }
        plain.clear();
        let got = tls.read(*fd, sides.link_ready, &mut scratch[..BUFFER_BYTES], plain);
        self.hear_all(plain, sides, now_ms, pumped)?;
        match got {
            Ok(Got::Bytes) => Ok(true),
            Ok(Got::Nothing) => Ok(sides.link_ready.is_readable),
            Ok(Got::End) if self.is_finished() => {
                pumped.is_over = true;
                Ok(false)
            }
            Ok(Got::End) => Err(Fault::Link(None)),
            Err(error) => Err(Fault::Link(error.raw_os_error())),
        }
    }

    fn hear_all(
        &mut self,
        mut bytes: &[u8],
        sides: &mut Sides<'_>,
        now_ms: u64,
        pumped: &mut Pumped,
    ) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        while let Some(piece) = self.reader.next(&mut bytes).map_err(|_| Fault::Nonsense)? {
            match piece {
                Piece::Word(word) => {
                    self.hear(word, now_ms)?;
                    if self.has_heard_reset {
                        return Err(Fault::Reset);
                    }
                }
                Piece::Data(data) => {
                    let known = self.passes_over.min(data.len() as u64);
                    self.passes_over -= known;
                    let data = &data[known as usize..];
                    if data.is_empty() {
                        continue; // its end may have been passed on as well
                    }
                    self.arrived += data.len() as u64;
                    pumped.heard_bytes += data.len() as u64;
                    self.ask_after_ms = super::ASK_AFTER_MS;
                    if self.has_heard_end || self.expects_arrived {
                        return Err(Fault::Nonsense);
                    }
                    let mut rest = data;
                    if self.waiting.is_empty()
                        && sides.socket_ready.is_writable
                        && let Some(socket) = sides.socket
                    {
                        let sent = send(socket, data, sides.socket_ready)?;
                        self.delivered += sent as u64;
                        pumped.has_given |= sent > 0;
                        rest = &data[sent..];
                    }
                    if self.waiting.len() + rest.len() > WINDOW_BYTES + self.uncounted {
                        return Err(Fault::Nonsense); // it was told how much is too much
                    }
                    self.waiting.extend(rest);
                }
            }
        }
        self.note_heard(now_ms);
        Ok(())
    }

    /// After another connection has come: what the other edge has not got.
    fn say_again(&mut self, sides: &mut Sides<'_>) -> Result<(), Fault> {
        let Some((fd, tls)) = sides.link.as_mut().filter(|_| self.phase == Phase::Open) else { return Ok(()) };
        while self.written < self.total {
            if !flush(*fd, tls, sides.link_ready)? {
                return Ok(());
            }
            let from = (self.written - self.passed) as usize;
            let (front, back) = self.unpassed.as_slices();
            let piece = if from < front.len() { &front[from..] } else { &back[from - front.len()..] };
            let piece = &piece[..piece.len().min(MOST_DATA)];
            tls.write_pieces(&data_head(piece.len()), piece);
            self.written += piece.len() as u64;
        }
        Ok(())
    }

    /// All that is kept, before anybody has told what of it has arrived.
    pub fn say_at_once(&mut self, tls: &mut Tls) {
        let whole = self.unpassed.make_contiguous();
        if !whole.is_empty() {
            tls.write_pieces(&data_head(whole.len()), whole);
        }
        if self.has_ended {
            say(tls, Word::End);
        }
        self.said_at_once = self.total + u64::from(self.has_ended);
    }

    /// Of the client or the origin, as much as the other edge may have.
    fn read_socket(&mut self, sides: &mut Sides<'_>, scratch: &mut [u8], pumped: &mut Pumped) -> Result<bool, Fault> {
        let Some(socket) = sides.socket else { return Ok(false) };
        let is_open = self.phase == Phase::Open && sides.link.is_some();
        let most = self.room().min(MOST_DATA).min(scratch.len());
        let may_read = is_open || self.is_retained;
        if self.has_ended || !sides.socket_ready.is_readable || most == 0 || !may_read {
            return Ok(false);
        }
        if let Some((fd, tls)) = sides.link.as_mut().filter(|_| is_open)
            && (!flush(*fd, tls, sides.link_ready)? || self.written < self.total)
        {
            return Ok(false);
        }
        let n = match sys::recv(socket, &mut scratch[..most]) {
            Ok(n) => n,
            Err(error) if would_block(&error) => {
                sides.socket_ready.is_readable = false;
                return Ok(false);
            }
            Err(error) => return Err(Fault::Socket(error)),
        };
        if n == 0 {
            self.has_ended = !self.has_failed;
            sides.socket_ready.is_readable = false;
            return Ok(false);
        }
        if n < most {
            sides.socket_ready.is_readable = sides.socket_ready.is_ending; // a short read has emptied it (epoll(7))
        }
        pumped.read_bytes += n as u64;
        self.ask_after_ms = super::ASK_AFTER_MS;
        self.take(&scratch[..n]);
        if is_open && let Some((_, tls)) = &mut sides.link {
            tls.write_pieces(&data_head(n), &scratch[..n]);
            self.written += n as u64;
        }
        Ok(true)
    }

    fn pass_end(&mut self, sides: &Sides<'_>, pumped: &mut Pumped) {
        if self.has_heard_end
            && !self.has_given_end
            && self.waiting.is_empty()
            && let Some(socket) = sides.socket
        {
            sys::shutdown_write(socket);
            (self.has_given_end, pumped.has_passed_end) = (true, true);
        }
    }

    /// What the other edge is to know.
    fn tell(&mut self, sides: &mut Sides<'_>, now_ms: u64, has_spoken: bool) -> Result<(), Fault> {
        let must_ask = self.must_ask(now_ms, has_spoken);
        let Some((fd, tls)) = sides.link.as_mut().filter(|_| self.phase == Phase::Open) else { return Ok(()) };
        let delivered = self.delivered();
        if delivered >= self.told + PASSED_EVERY_BYTES || (self.has_given_end && delivered > self.told) {
            say(tls, Word::Passed(delivered));
            self.told = delivered;
        }
        if self.has_ended && self.written == self.total && !self.has_written_end {
            say(tls, Word::End);
            self.has_written_end = true;
        }
        if std::mem::take(&mut self.owes_here) {
            say(tls, Word::Here);
        }
        if must_ask {
            say(tls, Word::Ask);
            self.asked_ms = now_ms;
        }
        flush(*fd, tls, sides.link_ready).map(drop)
    }

    /// The first edge leaves when all is said; the last one waits for that.
    fn part(&self, sides: &Sides<'_>, pumped: &mut Pumped) {
        let has_link = sides.link.is_some();
        pumped.is_over |= self.is_finished() && (self.is_first == has_link) && self.phase != Phase::Joining;
        pumped.is_link_blocked = sides.link.as_ref().is_some_and(|(_, tls)| tls.holds_bytes());
    }
}

/// Put a word into what leaves next.
pub fn say(tls: &mut Tls, word: Word) {
    let mut out = [0; MAX_WORD];
    let len = word.encode(&mut out);
    tls.write(&out[..len]);
}

fn flush(fd: RawFd, tls: &mut Tls, ready: &mut Readiness) -> Result<bool, Fault> {
    if tls.holds_bytes() && !ready.is_writable {
        return Ok(false);
    }
    tls.flush(fd, ready).map_err(|error| Fault::Link(error.raw_os_error()))
}

fn send(fd: RawFd, bytes: &[u8], ready: &mut Readiness) -> Result<usize, Fault> {
    match sys::send(fd, bytes) {
        Ok(sent) => {
            ready.is_writable = sent == bytes.len();
            Ok(sent)
        }
        Err(error) if would_block(&error) => {
            ready.is_writable = false;
            Ok(0)
        }
        Err(error) => Err(Fault::Socket(error)),
    }
}
