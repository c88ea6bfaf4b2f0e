//! Many datagrams per system call: one receive area of a worker, filled from a socket and sent on from in place.
//!
//! All `unsafe` of datagrams but control messages is here. The area has room for 64 datagrams of any size and
//! is touched only as far as datagrams reach. What was received is valid until the next receive.

mod send;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use libc::{c_int, c_uint};

use super::control::Control;
pub use send::{Prefix, Route};

/// Messages of one receive, which may hold more datagrams; and datagrams of one send.
pub const MOST: usize = 64;
/// Larger than any datagram. The odd part keeps the starts of neighbours in different cache sets.
const STRIDE: usize = 65_536 + 512;
/// One received datagram that is to be sent on; sorts by session, then by arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    pub session: u32,
    pub index: u16,
    /// Bytes at its start that are not passed on.
    pub skip: u8,
}

#[repr(C)]
struct Storage {
    from_clients: [libc::mmsghdr; MOST],
    from_origin: [libc::mmsghdr; MOST],
    slices: [libc::iovec; MOST],
    names: [libc::sockaddr_in6; MOST], // large enough for a sockaddr_in too
    controls: [Control; MOST],
    outgoing: [libc::mmsghdr; MOST],
    parts: [libc::iovec; 2 * MOST],
    area: [u8; MOST * STRIDE],
}

/// The receive area and the kernel's descriptions of it. The descriptions point into the same allocation,
/// which never moves.
#[derive(Debug)]
pub struct Batch {
    storage: NonNull<Storage>,
    /// Where the datagrams of the last receive lie.
    spans: Vec<Span>,
    is_from_clients: bool,
    /// Entries of `from_clients` and `from_origin` that the kernel has changed.
    used: [usize; 2],
}

/// A datagram within a message.
#[derive(Clone, Copy, Debug)]
struct Span {
    message: u8,
    from: u32,
    len: u32,
}

// SAFETY: the allocation belongs to this value alone and has no tie to a thread.
unsafe impl Send for Batch {}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.storage.as_ptr().cast(), Layout::new::<Storage>()) };
    }
}

impl Batch {
    pub fn new() -> Batch {
        let layout = Layout::new::<Storage>();
        // SAFETY: the layout is not empty; all zeroes is valid for every field.
        let Some(storage) = NonNull::new(unsafe { alloc_zeroed(layout) }.cast::<Storage>()) else {
            handle_alloc_error(layout)
        };
        let batch = Batch { storage, spans: Vec::with_capacity(MOST), is_from_clients: false, used: [MOST; 2] };
        let it = storage.as_ptr();
        for i in 0..MOST {
            // SAFETY: `i` is within each array; only addresses are formed, no reference.
            unsafe {
                (*it).slices[i] = libc::iovec {
                    iov_base: (&raw mut (*it).area).cast::<u8>().add(i * STRIDE).cast(),
                    iov_len: STRIDE,
                };
                let slice = &raw mut (*it).slices[i];
                for header in [&raw mut (*it).from_clients[i].msg_hdr, &raw mut (*it).from_origin[i].msg_hdr] {
                    (*header).msg_iov = slice;
                    (*header).msg_iovlen = 1;
                    (*header).msg_control = (*it).controls[i].as_mut_ptr();
                }
                (*it).from_clients[i].msg_hdr.msg_name = (&raw mut (*it).names[i]).cast();
            }
        }
        batch
    }

    /// Receive what waits on a listener, with who sent it and, where the socket tells, to which address.
    pub fn receive_from_clients(&mut self, fd: RawFd) -> io::Result<usize> {
        let it = self.storage.as_ptr();
        for i in 0..self.used[0] {
            // SAFETY: `used` is at most MOST.
            unsafe {
                let header = &raw mut (*it).from_clients[i].msg_hdr;
                (*header).msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
                (*header).msg_controllen = Control::room();
            }
        }
        self.is_from_clients = true;
        // SAFETY: every header describes memory of the storage.
        let result = receive(fd, unsafe { &raw mut (*it).from_clients }.cast());
        self.used[0] = *result.as_ref().unwrap_or(&0);
        self.note_spans(result)
    }

    /// Receive what waits on a connected socket.
    pub fn receive_from_origin(&mut self, fd: RawFd) -> io::Result<usize> {
        self.is_from_clients = false;
        let it = self.storage.as_ptr();
        for i in 0..self.used[1] {
            // SAFETY: `used` is at most MOST.
            unsafe { (*it).from_origin[i].msg_hdr.msg_controllen = Control::room() };
        }
        // SAFETY: every header describes memory of the storage.
        let result = receive(fd, unsafe { &raw mut (*it).from_origin }.cast());
        self.used[1] = *result.as_ref().unwrap_or(&0);
        self.note_spans(result)
    }

    /// Put datagrams of our own into the area, as if received; answers how many there was room for.
    pub fn load(&mut self, datagrams: &[impl AsRef<[u8]>]) -> usize {
        let count = datagrams.len().min(MOST);
        self.spans.clear();
        for (index, datagram) in datagrams[..count].iter().map(AsRef::as_ref).enumerate() {
            let len = datagram.len().min(STRIDE);
            // SAFETY: `index` is below MOST and `len` at most STRIDE; the two do not overlap.
            unsafe {
                let area = (&raw mut (*self.storage.as_ptr()).area).cast::<u8>();
                area.add(index * STRIDE).copy_from_nonoverlapping(datagram.as_ptr(), len);
            }
            self.spans.push(Span { message: index as u8, from: 0, len: len as u32 });
        }
        count
    }

    /// Throw away what waits on a socket, as much as a full buffer can hold.
    pub fn discard(&mut self, fd: RawFd) {
        const MOST_TURNS: usize = 1024;
        for _ in 0..MOST_TURNS {
            if self.receive_from_clients(fd).is_err() || self.used[0] < MOST {
                return;
            }
        }
    }

    /// Answers how many datagrams there are.
    fn note_spans(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        let messages = result?;
        self.spans.clear();
        for i in 0..messages {
            let header = self.header(i);
            let len = header.msg_len.min(STRIDE as u32);
            // SAFETY: the array access is checked; nothing writes while `self` is borrowed.
            let control = unsafe { &(&(*self.storage.as_ptr()).controls)[i] };
            let segment = match header.msg_hdr.msg_controllen {
                0 => None,
                controls => control.segment(controls),
            };
            let segment = segment.map_or(len, |segment| segment as u32);
            let mut from = 0;
            loop {
                let rest = len - from;
                self.spans.push(Span { message: i as u8, from, len: rest.min(segment) });
                if rest <= segment {
                    break;
                }
                from += segment;
            }
        }
        Ok(self.spans.len())
    }

    fn header(&self, index: usize) -> &libc::mmsghdr {
        let it = self.storage.as_ptr();
        // SAFETY: the array access is checked; nothing writes while `self` is borrowed.
        unsafe { if self.is_from_clients { &(&(*it).from_clients)[index] } else { &(&(*it).from_origin)[index] } }
    }

    pub fn datagram(&self, index: usize) -> &[u8] {
        let Span { message, from, len } = self.spans[index];
        // SAFETY: a span is inside its message, which is at most STRIDE long; nothing writes while `self` is borrowed.
        unsafe {
            let area = (&raw const (*self.storage.as_ptr()).area).cast::<u8>();
            std::slice::from_raw_parts(area.add(usize::from(message) * STRIDE + from as usize), len as usize)
        }
    }

    fn message(&self, index: usize) -> usize {
        self.spans[index].message.into()
    }

    /// Was it larger than the room? Then it must not be passed on.
    pub fn is_truncated(&self, index: usize) -> bool {
        self.header(self.message(index)).msg_hdr.msg_flags & libc::MSG_TRUNC != 0
    }

    /// Who sent a datagram that came from a listener.
    pub fn client(&self, index: usize) -> SocketAddr {
        let it = self.storage.as_ptr();
        // SAFETY: the array access is checked; the kernel wrote a sockaddr_in or sockaddr_in6, both fit.
        unsafe {
            let name = &raw const (&(*it).names)[self.message(index)];
            match c_int::from((*name).sin6_family) {
                libc::AF_INET => {
                    let v4 = *name.cast::<libc::sockaddr_in>();
                    let address = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                    SocketAddr::new(address.into(), u16::from_be(v4.sin_port))
                }
                _ => {
                    let address = Ipv6Addr::from((*name).sin6_addr.s6_addr);
                    SocketAddrV6::new(address, u16::from_be((*name).sin6_port), 0, (*name).sin6_scope_id).into()
                }
            }
        }
    }

    /// The address a datagram from a listener was sent to, if the socket tells.
    pub fn destination(&self, index: usize) -> Option<SocketAddr> {
        let message = self.message(index);
        let len = self.header(message).msg_hdr.msg_controllen;
        // SAFETY: the array access is checked; nothing writes while `self` is borrowed.
        unsafe { (&(*self.storage.as_ptr()).controls)[message].destination(len) }
    }
}

pub fn socket(peer: SocketAddr) -> io::Result<OwnedFd> {
    let family = if peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; the descriptor was just made for us.
    unsafe {
        check(libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0))
            .map(|fd| OwnedFd::from_raw_fd(fd as RawFd))
    }
}

fn receive(fd: RawFd, headers: *mut libc::mmsghdr) -> io::Result<usize> {
    // SAFETY: the caller gives MOST headers that describe writable memory.
    check(unsafe { libc::recvmmsg(fd, headers, MOST as c_uint, libc::MSG_DONTWAIT as _, std::ptr::null_mut()) })
}

fn check(result: impl TryInto<usize>) -> io::Result<usize> {
    result.try_into().map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests;
