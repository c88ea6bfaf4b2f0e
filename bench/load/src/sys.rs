//! The kernel calls that std does not offer: epoll, a fixed-rate timer, accept4, batches of datagrams.
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

pub const READABLE: u32 = libc::EPOLLIN as u32;
pub const WRITABLE: u32 = libc::EPOLLOUT as u32;
pub const ON_CHANGE: u32 = libc::EPOLLET as u32;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Idle connections are as many as descriptors allow: take all the kernel gives.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for both calls; failing leaves the old limit, which is not fatal.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

pub struct Poll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is new and ours.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; 512] })
    }

    pub fn add(&self, fd: RawFd, token: usize, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    pub fn change(&self, fd: RawFd, token: usize, interest: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    fn control(&self, what: libc::c_int, fd: RawFd, token: usize, interest: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest, u64: token as u64 };
        // SAFETY: `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), what, fd, &mut event) }).map(drop)
    }

    /// Number of events ready; a signal counts as none.
    pub fn wait(&mut self, longest: Duration) -> io::Result<usize> {
        let timeout_ms = longest.as_millis().min(1_000_000) as libc::c_int;
        let room = self.events.len() as libc::c_int;
        // SAFETY: the kernel writes at most `room` events into a buffer of that size.
        let ready = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, timeout_ms) };
        match check(ready) {
            Ok(count) => Ok(count as usize),
            Err(error) if would_block(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    pub fn event(&self, index: usize) -> (usize, u32) {
        let event = self.events[index];
        (event.u64 as usize, event.events)
    }
}

/// A descriptor that is readable once for each period. Reading it tells how many have passed.
pub struct Ticks(OwnedFd);

impl Ticks {
    pub fn every(period: Duration) -> io::Result<Self> {
        let part = libc::timespec { tv_sec: period.as_secs() as i64, tv_nsec: period.subsec_nanos().into() };
        let setting = libc::itimerspec { it_interval: part, it_value: part };
        // SAFETY: a new descriptor of ours; `setting` lives through the call; prctl takes plain numbers.
        unsafe {
            libc::prctl(libc::PR_SET_TIMERSLACK, 1_000);
            let fd = check(libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC))?;
            let ticks = Self(OwnedFd::from_raw_fd(fd));
            check(libc::timerfd_settime(fd, 0, &setting, std::ptr::null_mut()))?;
            Ok(ticks)
        }
    }

    pub fn passed(&self) -> u64 {
        let mut count = 0_u64;
        // SAFETY: eight bytes into a u64.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
        if got == 8 { count } else { 0 }
    }
}

impl AsRawFd for Ticks {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The next waiting connection, already non-blocking; None when there is none.
pub fn accept(listener: RawFd) -> io::Result<Option<OwnedFd>> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: null address pointers are allowed.
    match check(unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) }) {
        // SAFETY: accept4 has just made it, nobody else has it.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if would_block(&error) || error.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
        Err(error) => Err(error),
    }
}

/// Room for a burst that waits while the load's own process is not scheduled; needs CAP_NET_ADMIN, else the usual limit.
pub fn widen_buffers(fd: RawFd) {
    let bytes: libc::c_int = 8 << 20;
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        // SAFETY: a pointer to an int and its size.
        unsafe {
            libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const bytes).cast(), size_of::<libc::c_int>() as u32);
        }
    }
}

pub const DATAGRAM_MAX: usize = 2048;

/// Up to N datagrams that are received or sent in one call.
pub struct Batch {
    buffers: Vec<[u8; DATAGRAM_MAX]>,
    lengths: Vec<usize>,
    peers: Vec<libc::sockaddr_in>,
}

impl Batch {
    pub fn new(room: usize) -> Self {
        // SAFETY: all zero is a valid sockaddr_in.
        let nobody = unsafe { std::mem::zeroed() };
        Self { buffers: vec![[0; DATAGRAM_MAX]; room], lengths: vec![0; room], peers: vec![nobody; room] }
    }

    pub fn room(&self) -> usize {
        self.buffers.len()
    }

    pub fn message(&self, index: usize) -> &[u8] {
        &self.buffers[index][..self.lengths[index]]
    }

    pub fn place(&mut self, index: usize, length: usize) -> &mut [u8] {
        self.lengths[index] = length;
        &mut self.buffers[index][..length]
    }

    pub fn receive(&mut self, fd: RawFd) -> io::Result<usize> {
        self.lengths.fill(DATAGRAM_MAX);
        let (_vectors, mut headers) = self.describe(self.room(), true);
        let room = headers.len() as u32;
        // SAFETY: headers point at vectors, buffers and peers, none of which move before the call returns.
        let result =
            unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), room, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        let count = check(result)? as usize;
        for (length, header) in self.lengths.iter_mut().zip(&headers[..count]) {
            *length = header.msg_len as usize;
        }
        Ok(count)
    }

    /// Sends the first `count`, to the peers they came from or down a connected socket. Tells how many went.
    pub fn send(&mut self, fd: RawFd, count: usize, to_peers: bool) -> io::Result<usize> {
        let (_vectors, mut headers) = self.describe(count, to_peers);
        let mut sent = 0;
        while sent < count {
            // SAFETY: as above; the slice from `sent` on holds count - sent headers.
            let result =
                unsafe { libc::sendmmsg(fd, headers[sent..].as_mut_ptr(), (count - sent) as u32, libc::MSG_DONTWAIT) };
            match check(result) {
                Ok(more) => sent += more as usize,
                Err(error) if would_block(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// The first `count` as the kernel wants them. The headers point into the vectors, so both must be kept.
    fn describe(&mut self, count: usize, with_peers: bool) -> (Vec<libc::iovec>, Vec<libc::mmsghdr>) {
        let ours = self.buffers[..count].iter_mut().zip(&self.lengths);
        let mut vectors: Vec<_> = ours
            .map(|(buffer, &length)| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: length })
            .collect();
        let headers = vectors.iter_mut().zip(&mut self.peers).map(|(vector, peer)| {
            // SAFETY: all zero is a valid mmsghdr: no name, no vectors, no control data.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            if with_peers {
                header.msg_hdr.msg_name = (&raw mut *peer).cast();
                header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            }
            header
        });
        let headers = headers.collect();
        (vectors, headers)
    }
}

/// The bench world is IPv4 only: 198.18.0.0/15.
pub fn only_v4(address: SocketAddr) -> io::Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(v4) => Ok(v4),
        SocketAddr::V6(v6) => Err(io::Error::other(format!("{v6}: an IPv4 address is needed"))),
    }
}
