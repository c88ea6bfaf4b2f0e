//! What a turn of the loop has to tell the network, gathered and told in one system call (io_uring_enter(2)).
//!
//! Each `send` or `close` wakes whoever waits at the other end. Where that is on the same machine the kernel lets it run
//! at once, in the middle of our turn; told together, the turn ends first. All requests complete within the call: sends
//! do not wait, and sockets close at once. A kernel without io_uring, or one told not to have it, gets plain calls.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use io_uring::{IoUring, opcode, squeue, types};

use crate::sys;

const ENTRIES: u32 = 256;
/// So much is gathered at most: what came first must not wait for ever.
const MOST: usize = 128;
/// Fewer are not worth the ring.
const WORTH_IT: usize = 2;
const NOBODY: u64 = u64::MAX;

#[derive(Debug)]
enum Order {
    Send { fd: RawFd, from: *const u8, len: u32, token: u64 },
    Close(OwnedFd),
}

/// How a send went, in the order of the sends.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub token: u64,
    /// Bytes that were taken, or the kernel's error number.
    pub result: Result<usize, i32>,
}

#[derive(Debug)]
enum Way {
    Unknown,
    Ring(Box<Ring>),
    Calls,
}

#[derive(Debug)]
pub struct Outbox {
    orders: Vec<Order>,
    done: Vec<Sent>,
    way: Way,
}

struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ring")
    }
}

// SAFETY: the pointers of orders lead into a buffer of the same worker, and both move to its thread together.
unsafe impl Send for Outbox {}

impl Outbox {
    /// Without `may_gather` nothing is ever held back: for machines without io_uring, and to compare.
    pub fn new(may_gather: bool) -> Outbox {
        Outbox { orders: Vec::new(), done: Vec::new(), way: if may_gather { Way::Unknown } else { Way::Calls } }
    }

    /// May sends be held back until the end of the turn? The ring belongs to the thread that asks first.
    pub fn gathers(&mut self) -> bool {
        if let Way::Unknown = self.way {
            self.way = match Ring::open() {
                Ok(ring) => Way::Ring(Box::new(ring)),
                Err(_) => Way::Calls,
            };
        }
        matches!(self.way, Way::Ring(_)) && self.orders.len() < MOST
    }

    /// Bytes for `fd`, told to be sent by [`Outbox::tell`].
    ///
    /// # Safety
    /// `from` and `len` describe memory that stays as it is, and `fd` is a socket that stays open, until then.
    pub unsafe fn send(&mut self, fd: RawFd, from: *const u8, len: usize, token: u64) {
        self.orders.push(Order::Send { fd, from, len: len as u32, token });
    }

    /// Close a socket once everything before it is told.
    pub fn close(&mut self, socket: OwnedFd) {
        // Also where it is full: what was gathered for this socket must be told first.
        if self.gathers() || !self.orders.is_empty() {
            self.orders.push(Order::Close(socket));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.orders.len() >= MOST
    }

    /// Tell everything, and hand out how the sends went; give the list back with [`Outbox::keep`].
    pub fn tell(&mut self) -> Vec<Sent> {
        let mut done = std::mem::take(&mut self.done);
        done.clear();
        let mut orders = std::mem::take(&mut self.orders);
        if let Way::Ring(ring) = &mut self.way
            && orders.len() >= WORTH_IT
            && ring.tell(&mut orders, &mut done).is_err()
        {
            self.way = Way::Calls;
        }
        for order in orders.drain(..) {
            if let Order::Send { fd, from, len, token } = order {
                // SAFETY: as promised to `send`.
                let bytes = unsafe { std::slice::from_raw_parts(from, len as usize) };
                let result = sys::send(fd, bytes).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
                done.push(Sent { token, result });
            }
        }
        self.orders = orders;
        done
    }

    /// The list of [`Outbox::tell`], to be filled again.
    pub fn keep(&mut self, done: Vec<Sent>) {
        self.done = done;
    }
}

/// Can messages be gathered here? For `causeway doctor`.
pub fn try_ring() -> io::Result<()> {
    Ring::open().map(drop)
}

impl Ring {
    fn open() -> io::Result<Ring> {
        IoUring::builder().setup_single_issuer().setup_submit_all().build(ENTRIES).map(Ring)
    }

    /// Take from the front of `orders` what was told. An error means that the ring is of no use any more.
    fn tell(&mut self, orders: &mut Vec<Order>, done: &mut Vec<Sent>) -> io::Result<()> {
        let count = orders.len().min(ENTRIES as usize);
        let mut sends = 0;
        {
            let mut queue = self.0.submission();
            for order in &orders[..count] {
                let entry = match order {
                    Order::Send { fd, from, len, token } => {
                        sends += 1;
                        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
                        opcode::Send::new(types::Fd(*fd), *from, *len).flags(flags).build().user_data(*token)
                    }
                    Order::Close(socket) => opcode::Close::new(types::Fd(socket.as_raw_fd()))
                        .build()
                        .flags(squeue::Flags::SKIP_SUCCESS)
                        .user_data(NOBODY),
                };
                // SAFETY: sends as promised to `send`; there is room, for the queue is empty between calls.
                unsafe { queue.push(&entry) }.map_err(|_| io::ErrorKind::OutOfMemory)?;
            }
        }
        let told = loop {
            match self.0.submit() {
                Ok(told) => break told.min(count),
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
            }
        };
        for entry in self.0.completion().filter(|entry| entry.user_data() != NOBODY) {
            let result = if entry.result() < 0 { Err(-entry.result()) } else { Ok(entry.result() as usize) };
            done.push(Sent { token: entry.user_data(), result });
        }
        let is_complete = told == count && done.len() == sends;
        for order in orders.drain(..told) {
            match order {
                Order::Close(socket) => std::mem::forget(socket), // the kernel has closed it
                Order::Send { token, .. } if !is_complete && !done.iter().any(|sent| sent.token == token) => {
                    done.push(Sent { token, result: Err(libc::EIO) });
                }
                Order::Send { .. } => {}
            }
        }
        if is_complete { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Ring and plain calls must not differ in anything but their number.
    #[test]
    fn sends_arrive_in_order_and_closes_come_after_them() {
        for may_gather in [true, false] {
            let mut outbox = Outbox::new(may_gather);
            if may_gather && !outbox.gathers() {
                eprintln!("SKIPPED: this kernel has no io_uring for us");
                continue;
            }
            let pairs: Vec<_> = (0..40).map(|_| UnixStream::pair().unwrap()).collect();
            let messages: Vec<String> = (0..40).map(|n| format!("message {n}")).collect();
            let (ours, mut theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
            for (n, (socket, message)) in ours.into_iter().zip(&messages).enumerate() {
                // SAFETY: messages and sockets live until `tell`.
                unsafe { outbox.send(socket.as_raw_fd(), message.as_ptr(), message.len(), n as u64) };
                outbox.close(socket.into());
            }
            let sent = outbox.tell();
            for (n, (socket, message)) in theirs.iter_mut().zip(&messages).enumerate() {
                assert!(sent.iter().any(|sent| sent.token == n as u64 && sent.result == Ok(message.len())));
                let mut got = String::new();
                socket.read_to_string(&mut got).unwrap();
                assert_eq!(&got, message);
            }
            assert!(outbox.is_empty());
        }
    }

    #[test]
    fn a_full_socket_takes_a_part_and_a_gone_one_says_so() {
        let mut outbox = Outbox::new(true);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (left, gone) = UnixStream::pair().unwrap();
        drop(gone);
        ours.set_nonblocking(true).unwrap();
        let large = vec![7u8; 4 << 20];
        // SAFETY: buffer and sockets live until `tell`.
        unsafe {
            outbox.send(ours.as_raw_fd(), large.as_ptr(), large.len(), 1);
            outbox.send(left.as_raw_fd(), large.as_ptr(), 1, 2);
            outbox.send(ours.as_raw_fd(), large.as_ptr(), large.len(), 3);
        }
        let sent = outbox.tell();
        let result = |token: u64| sent.iter().find(|sent| sent.token == token).map(|sent| sent.result).unwrap();
        assert!(matches!(result(1), Ok(taken) if taken > 0 && taken < large.len()));
        assert_eq!(result(2), Err(libc::EPIPE));
        assert_eq!(result(3), Err(libc::EAGAIN));
        drop(theirs);
    }
}
