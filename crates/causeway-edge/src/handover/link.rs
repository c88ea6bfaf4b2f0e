//! One end of a hand-over: whole messages with descriptors, between two processes that need not trust each other's code.
//!
//! A message is one kind byte and a body, at most [`MOST_BYTES`] long, with at most [`MOST_FDS`] descriptors.
//! Whatever arrives beyond that, or cut off, is an error; no descriptor leaks. Every wait ends at the deadline.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use std::{mem, ptr};

use libc::{c_int, c_void, socklen_t};

use crate::sys;

pub const MOST_BYTES: usize = 128 * 1024;
/// The kernel takes 253 (SCM_MAX_FD).
pub const MOST_FDS: usize = 250;
/// Room for the largest message and what the kernel adds to it.
const BUFFER_BYTES: i32 = 2 * MOST_BYTES as i32;
// SAFETY: CMSG_SPACE only computes.
const CONTROL_BYTES: usize = unsafe { libc::CMSG_SPACE((MOST_FDS * size_of::<RawFd>()) as u32) as usize };

#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// What arrived.
#[derive(Debug)]
pub struct Message {
    pub kind: u8,
    pub body: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    deadline: Instant,
}

impl Link {
    /// Talk over `fd`, one end of a Unix socket pair of whole messages.
    ///
    /// # Errors
    /// `InvalidInput` if it is anything else.
    pub fn new(fd: OwnedFd, within: Duration) -> io::Result<Link> {
        let raw = fd.as_raw_fd();
        let is_pair = sys::option(raw, libc::SOL_SOCKET, libc::SO_DOMAIN)? == libc::AF_UNIX
            && sys::option(raw, libc::SOL_SOCKET, libc::SO_TYPE)? == libc::SOCK_SEQPACKET;
        if !is_pair {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a Unix socket of sequenced packets"));
        }
        sys::set_option(raw, libc::SOL_SOCKET, libc::SO_SNDBUF, &BUFFER_BYTES)?;
        Ok(Link { fd, deadline: Instant::now() + within })
    }

    pub fn send(&self, kind: u8, body: &[u8], fds: &[RawFd]) -> io::Result<()> {
        if body.len() + 1 > MOST_BYTES || fds.len() > MOST_FDS {
            return Err(io::Error::new(ErrorKind::InvalidInput, "a message of a hand-over is too large"));
        }
        let mut slices = [
            libc::iovec { iov_base: (&raw const kind).cast_mut().cast(), iov_len: 1 },
            libc::iovec { iov_base: body.as_ptr().cast_mut().cast(), iov_len: body.len() },
        ];
        let mut control = Control([0; CONTROL_BYTES]);
        let header = header(&mut slices, &mut control, fds.len());
        if !fds.is_empty() {
            let bytes = size_of_val(fds);
            // SAFETY: the control area has room for MOST_FDS descriptors and their header, and is aligned for it.
            unsafe {
                let message = libc::CMSG_FIRSTHDR(&raw const header);
                (*message).cmsg_level = libc::SOL_SOCKET;
                (*message).cmsg_type = libc::SCM_RIGHTS;
                (*message).cmsg_len = libc::CMSG_LEN(bytes as u32) as usize;
                ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(message), bytes);
            }
        }
        loop {
            self.wait(libc::POLLOUT)?;
            // SAFETY: the header describes memory that lives through the call.
            let sent = unsafe {
                libc::sendmsg(self.fd.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
            };
            match io::Error::last_os_error() {
                _ if sent >= 0 => return Ok(()),
                error if is_passing(&error) => {}
                error => return Err(error),
            }
        }
    }

    /// # Errors
    /// `UnexpectedEof` if the other side is gone, `TimedOut`, or `InvalidData` for what is no message.
    pub fn receive(&self) -> io::Result<Message> {
        let mut kind = 0u8;
        let mut body = vec![0u8; MOST_BYTES];
        let mut slices = [
            libc::iovec { iov_base: (&raw mut kind).cast(), iov_len: 1 },
            libc::iovec { iov_base: body.as_mut_ptr().cast(), iov_len: body.len() },
        ];
        let mut control = Control([0; CONTROL_BYTES]);
        loop {
            self.wait(libc::POLLIN)?;
            let mut header = header(&mut slices, &mut control, MOST_FDS);
            let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
            // SAFETY: the header describes writable memory that lives through the call.
            let received = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, flags) };
            if received < 0 {
                match io::Error::last_os_error() {
                    error if is_passing(&error) => continue,
                    error => return Err(error),
                }
            }
            let fds = descriptors(&header); // owned first, so that what is refused below is closed
            if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
                return Err(io::Error::new(ErrorKind::InvalidData, "a message of a hand-over was cut off"));
            }
            if received == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            body.truncate(received as usize - 1);
            return Ok(Message { kind, body, fds });
        }
    }

    fn wait(&self, events: i16) -> io::Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events, revents: 0 };
            // SAFETY: one entry that lives through the call.
            match unsafe { libc::poll(&raw mut poll, 1, left.as_millis().clamp(1, 60_000) as c_int) } {
                0 => {}
                n if n > 0 => return Ok(()),
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

fn header(slices: &mut [libc::iovec; 2], control: &mut Control, fds: usize) -> libc::msghdr {
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = slices.as_mut_ptr();
    header.msg_iovlen = slices.len();
    if fds > 0 {
        header.msg_control = control.0.as_mut_ptr().cast::<c_void>();
        // SAFETY: CMSG_SPACE only computes.
        header.msg_controllen = unsafe { libc::CMSG_SPACE((fds * size_of::<RawFd>()) as socklen_t) as usize };
    }
    header
}

fn descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel wrote the control area within the length it reports; every descriptor in it is new and ours.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if ((*message).cmsg_level, (*message).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let bytes = (*message).cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                fds.extend(
                    (0..bytes / size_of::<RawFd>()).map(|i| OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(i)))),
                );
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    fds
}

/// Full or empty for the moment, or a signal came.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::ETOOMANYREFS))
}

#[cfg(test)]
mod tests;
