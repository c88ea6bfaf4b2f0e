//! Pipes for `splice(2)`, and how many of them this process may have.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::c_int;

use super::{check, check_size};

/// A pipe for `splice(2)`: bytes stay in the kernel.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    pub room_bytes: usize,
}

impl Pipe {
    /// Ask for `room_bytes`; the kernel may grant less (pipe(7), pipe-user-pages-soft).
    pub fn new(room_bytes: usize) -> io::Result<Pipe> {
        let is_too_much = |now: &AtomicUsize, more: usize, most: &AtomicUsize| {
            now.load(Ordering::Relaxed).saturating_add(more) > most.load(Ordering::Relaxed)
        };
        if is_too_much(&PIPE_BYTES, room_bytes, &MOST_PIPE_BYTES) || is_too_much(&PIPE_ENDS, 2, &MOST_PIPE_ENDS) {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        let mut ends = [0; 2];
        // SAFETY: two writable ints.
        check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
        // SAFETY: both were just made for us.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        // SAFETY: no pointers.
        let granted = unsafe {
            if libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, room_bytes as c_int) < 0 {
                libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ)
            } else {
                room_bytes as c_int
            }
        };
        let room_bytes = granted.max(4096) as usize;
        PIPE_BYTES.fetch_add(room_bytes, Ordering::Relaxed);
        PIPE_ENDS.fetch_add(2, Ordering::Relaxed);
        Ok(Pipe { read, write, room_bytes })
    }

    pub fn fill_from(&self, source: RawFd, most: usize) -> io::Result<usize> {
        splice(source, self.write.as_raw_fd(), most)
    }

    pub fn drain_to(&self, target: RawFd, most: usize) -> io::Result<usize> {
        splice(self.read.as_raw_fd(), target, most)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        PIPE_BYTES.fetch_sub(self.room_bytes, Ordering::Relaxed);
        PIPE_ENDS.fetch_sub(2, Ordering::Relaxed);
    }
}

/// What the pipes of this process can hold, and may, in bytes and descriptors: both are the process's, so that this is too.
static PIPE_BYTES: AtomicUsize = AtomicUsize::new(0);
static MOST_PIPE_BYTES: AtomicUsize = AtomicUsize::new(usize::MAX);

static PIPE_ENDS: AtomicUsize = AtomicUsize::new(0);
static MOST_PIPE_ENDS: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Descriptors of the pipes of this process.
pub fn pipe_descriptors() -> usize {
    PIPE_ENDS.load(Ordering::Relaxed)
}

pub fn limit_pipe_descriptors(most: usize) {
    MOST_PIPE_ENDS.store(most, Ordering::Relaxed);
}

/// Beyond `bytes` no pipe is to be had: streams are copied.
pub fn limit_pipes(bytes: u64) {
    MOST_PIPE_BYTES.store(usize::try_from(bytes).unwrap_or(usize::MAX), Ordering::Relaxed);
}

fn splice(from: RawFd, to: RawFd, most: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: null offsets are allowed for pipes and sockets.
    check_size(unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), most, flags) })
}
