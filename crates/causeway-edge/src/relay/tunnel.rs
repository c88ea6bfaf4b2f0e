//! A direction of a relay with TLS on one side or both: read, decipher, encipher, pass on.
//!
//! Bytes that a target does not take wait enciphered in its TLS, or plain in the direction itself; nothing more is read
//! until they are gone.

use std::os::fd::RawFd;

use super::{BUFFER_BYTES, Fault, Half, Moved, Readiness, SHORT_BYTES, Tools, would_block};
use crate::overlay::tls::{Got, Tls};
use crate::sys;

/// Turns before other connections get theirs: each is two or three times the work of a plain one.
const TURNS: u32 = 8;

/// One side of a relay.
pub struct Leg<'a> {
    pub fd: RawFd,
    pub ready: &'a mut Readiness,
    pub tls: Option<&'a mut Tls>,
}

impl Half {
    /// As [`Half::pump`].
    ///
    /// # Errors
    /// As there.
    pub fn pump_enciphered(&mut self, mut from: Leg<'_>, mut to: Leg<'_>, tools: &mut Tools) -> Result<Moved, Fault> {
        let mut moved = Moved::default();
        let mut turns = if self.is_paced || tools.is_short { 1 } else { TURNS };
        loop {
            if self.waits(&to) {
                if !to.ready.is_writable {
                    moved.is_blocked = true;
                    break;
                }
                self.flush_leg(&mut to).map_err(Fault::Target)?;
                moved.has_progress = true;
                continue;
            }
            if self.has_read_end {
                // Not to be told yet: after an error that somebody has taken, a socket reads like one that has ended.
                moved.is_done = true;
                break;
            }
            let can_read = from.ready.is_readable || from.tls.as_ref().is_some_and(|tls| tls.has_heard_end());
            if !can_read || !to.ready.is_writable {
                break;
            }
            if turns == 0 {
                moved.is_unfinished = true;
                break;
            }
            turns -= 1;
            moved.has_progress |= self.pass(&mut from, &mut to, tools)?;
        }
        if let Some(tls) = &mut from.tls
            && from.ready.is_writable
        {
            tls.flush(from.fd, from.ready).map_err(Fault::Source)?; // what reading has made it say
        }
        Ok(moved)
    }

    fn waits(&self, to: &Leg<'_>) -> bool {
        !self.held.is_empty() || to.tls.as_ref().is_some_and(|tls| tls.holds_bytes())
    }

    fn flush_leg(&mut self, to: &mut Leg<'_>) -> std::io::Result<()> {
        match &mut to.tls {
            None => self.flush(to.fd, to.ready).map(drop),
            Some(tls) => {
                if tls.flush(to.fd, to.ready)? && !self.held.is_empty() {
                    tls.write(&std::mem::take(&mut self.held)[self.held_from..]);
                    self.held_from = 0;
                }
                Ok(())
            }
        }
    }

    /// One read and what follows from it. True if there was anything.
    fn pass(&mut self, from: &mut Leg<'_>, to: &mut Leg<'_>, tools: &mut Tools) -> Result<bool, Fault> {
        let most = if tools.is_short { SHORT_BYTES } else { BUFFER_BYTES };
        let mut plain = std::mem::take(&mut tools.plain);
        plain.clear();
        let filled = tools.filled;
        let scratch = &mut tools.buffer[filled..filled + most];
        let got = match &mut from.tls {
            Some(tls) => tls.read(from.fd, from.ready, scratch, &mut plain).map(|got| (got, plain.len())),
            None => match sys::recv(from.fd, scratch) {
                Ok(0) => Ok((Got::End, 0)),
                Ok(n) => {
                    if n < most {
                        from.ready.is_readable = from.ready.is_ending;
                    }
                    Ok((Got::Bytes, n))
                }
                Err(error) if would_block(&error) => {
                    from.ready.is_readable = false;
                    Ok((Got::Nothing, 0))
                }
                Err(error) => Err(error),
            },
        };
        let bytes = if from.tls.is_some() { &plain[..] } else { &tools.buffer[filled..filled + most] };
        let result = match got {
            Err(error) => Err(Fault::Source(error)),
            Ok((got, n)) => {
                self.has_read_end |= got == Got::End;
                self.bytes += n as u64;
                tools.has_streamed |= n >= most / 2;
                self.offer(to, &bytes[..n]).map_err(Fault::Target).map(|()| n > 0)
            }
        };
        tools.plain = plain;
        result
    }

    fn offer(&mut self, to: &mut Leg<'_>, bytes: &[u8]) -> std::io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(tls) = &mut to.tls {
            tls.write(bytes);
            return Ok(()); // leaves in the next round
        }
        let sent = match sys::send(to.fd, bytes) {
            Ok(sent) => sent,
            Err(error) if would_block(&error) => 0,
            Err(error) => return Err(error),
        };
        if sent < bytes.len() {
            to.ready.is_writable = false;
            (self.held, self.held_from) = (bytes[sent..].to_vec(), 0);
        }
        Ok(())
    }
}
