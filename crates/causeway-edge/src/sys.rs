//! The system calls of the data path, thin and typed. All `unsafe` of the TCP side is here.
//!
//! Every function is one call; errors are the kernel's. Descriptors are owned, so none can leak.

mod pipe;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use libc::{c_int, c_void, socklen_t};

pub use pipe::{Pipe, limit_pipe_descriptors, limit_pipes, pipe_descriptors};

pub const IN: u32 = libc::EPOLLIN as u32;
pub const OUT: u32 = libc::EPOLLOUT as u32;
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
pub const HUP: u32 = libc::EPOLLHUP as u32;
pub const ERR: u32 = libc::EPOLLERR as u32;
pub const EDGE: u32 = libc::EPOLLET as u32;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_size(result: isize) -> io::Result<usize> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

fn own(result: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the kernel just made this descriptor for us, nobody else owns it.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers.
        own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Epoll)
    }

    pub fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub fn add(&self, fd: RawFd, interest: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    pub fn modify(&self, fd: RawFd, interest: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    /// Needed only for a descriptor that somebody else keeps open: closing takes the others out.
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: c_int, fd: RawFd, interest: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest, u64: token };
        // SAFETY: `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &mut event) }).map(drop)
    }

    /// Fill `events`, waiting `timeout_ms` at most (-1: for ever). A signal counts as no event.
    pub fn wait(&self, events: &mut [libc::epoll_event], timeout_ms: i32) -> io::Result<usize> {
        let room = events.len().min(c_int::MAX as usize) as c_int;
        // SAFETY: the pointer and length describe `events`.
        match check(unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), room, timeout_ms) }) {
            Ok(n) => Ok(n as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// A descriptor that other threads write to wake a worker.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    pub fn new() -> io::Result<Wake> {
        // SAFETY: no pointers.
        own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(Wake)
    }

    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes. A full counter also wakes, so the result does not matter.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight writable bytes. Nothing to read is fine.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub struct RawAddress {
    storage: libc::sockaddr_storage,
    len: socklen_t,
}

impl RawAddress {
    pub fn empty() -> RawAddress {
        // SAFETY: all zeroes is a valid (unspecified) sockaddr_storage.
        RawAddress { storage: unsafe { std::mem::zeroed() }, len: size_of::<libc::sockaddr_storage>() as socklen_t }
    }

    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.storage).cast()
    }

    pub fn len(&self) -> socklen_t {
        self.len
    }

    /// Only IPv4 and IPv6 addresses come out of the sockets that we make; anything else reads as 0.0.0.0:0.
    pub fn to_std(self) -> SocketAddr {
        match c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that this is a sockaddr_in, which is smaller than the storage.
                let v4 = unsafe { *self.as_ptr().cast::<libc::sockaddr_in>() };
                SocketAddr::new(IpAddr::V4(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes())), u16::from_be(v4.sin_port))
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for sockaddr_in6.
                let v6 = unsafe { *self.as_ptr().cast::<libc::sockaddr_in6>() };
                let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                SocketAddr::V6(std::net::SocketAddrV6::new(address, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id))
            }
            _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        }
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> RawAddress {
        let mut raw = RawAddress::empty();
        match address {
            SocketAddr::V4(v4) => {
                let place = raw.as_mut_ptr().cast::<libc::sockaddr_in>();
                // SAFETY: the storage is large enough and aligned for every address family.
                unsafe {
                    (*place).sin_family = libc::AF_INET as libc::sa_family_t;
                    (*place).sin_port = v4.port().to_be();
                    (*place).sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                }
                raw.len = size_of::<libc::sockaddr_in>() as socklen_t;
            }
            SocketAddr::V6(v6) => {
                let place = raw.as_mut_ptr().cast::<libc::sockaddr_in6>();
                // SAFETY: as above.
                unsafe {
                    (*place).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                    (*place).sin6_port = v6.port().to_be();
                    (*place).sin6_addr.s6_addr = v6.ip().octets();
                    (*place).sin6_scope_id = v6.scope_id();
                }
                raw.len = size_of::<libc::sockaddr_in6>() as socklen_t;
            }
        }
        raw
    }
}

pub fn accept(listener: RawFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut address = RawAddress::empty();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: the address and its length live through the call.
    let fd = own(unsafe { libc::accept4(listener, address.as_mut_ptr(), &raw mut address.len, flags) })?;
    Ok((fd, address.to_std()))
}

pub fn stream_socket(peer: SocketAddr) -> io::Result<OwnedFd> {
    let family = if peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers.
    own(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) })
}

/// Begin to connect; `EINPROGRESS` is the normal start and no error.
pub fn connect(fd: RawFd, peer: SocketAddr) -> io::Result<()> {
    let address = RawAddress::from(peer);
    // SAFETY: address and length belong together.
    match check(unsafe { libc::connect(fd, address.as_ptr(), address.len()) }) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other.map(drop),
    }
}

pub fn bind(fd: RawFd, local: SocketAddr) -> io::Result<()> {
    let address = RawAddress::from(local);
    // SAFETY: address and length belong together.
    check(unsafe { libc::bind(fd, address.as_ptr(), address.len()) }).map(drop)
}

/// Give `fd` an address of this machine and leave the port to `connect`, which can share it between peers.
pub fn bind_source(fd: RawFd, source: IpAddr) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1i32)?;
    bind(fd, SocketAddr::new(source, 0))
}

/// End a TCP connection at once, by RST, without closing `fd` (connect(2), AF_UNSPEC).
pub fn disconnect(fd: RawFd) -> io::Result<()> {
    let nobody = RawAddress::empty(); // all zero is AF_UNSPEC
    // SAFETY: address and length belong together.
    check(unsafe { libc::connect(fd, nobody.as_ptr(), nobody.len()) }).map(drop)
}

pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a number that is nobody's is an error.
    own(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })
}

pub fn inode(fd: RawFd) -> Option<u64> {
    // SAFETY: all zeroes is a valid stat, which the kernel fills.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable.
    (unsafe { libc::fstat(fd, &raw mut stat) } == 0).then_some(stat.st_ino)
}

pub fn local_address(fd: RawFd) -> io::Result<SocketAddr> {
    let mut address = RawAddress::empty();
    // SAFETY: the address and its length live through the call.
    check(unsafe { libc::getsockname(fd, address.as_mut_ptr(), &raw mut address.len) })?;
    Ok(address.to_std())
}

pub fn peer_address(fd: RawFd) -> io::Result<SocketAddr> {
    let mut address = RawAddress::empty();
    // SAFETY: the address and its length live through the call.
    check(unsafe { libc::getpeername(fd, address.as_mut_ptr(), &raw mut address.len) })?;
    Ok(address.to_std())
}

pub fn recv(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `buffer`.
    check_size(unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) })
}

pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `bytes`.
    check_size(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// [`send`] of several pieces, in order.
pub fn send_pieces(fd: RawFd, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: all zeroes are a valid msghdr, without addresses and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_ptr().cast_mut().cast(); // IoSlice is an iovec by its documentation; only read
    message.msg_iovlen = pieces.len().min(libc::UIO_MAXIOV as usize) as _;
    // SAFETY: the pieces live through the call.
    check_size(unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) })
}

/// Pass on a FIN: no more bytes will follow in this direction.
pub fn shutdown_write(fd: RawFd) {
    // SAFETY: no pointers. ENOTCONN means that the other side is gone already.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// A listening TCP socket does not listen any more, whoever else holds it.
pub fn shutdown_all(fd: RawFd) {
    // SAFETY: no pointers. An error means that it did not listen.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Make the close of `fd` an RST.
pub fn reset_on_close(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger);
}

pub fn set_option<T: Copy>(fd: RawFd, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as socklen_t;
    // SAFETY: the pointer and length describe `value`.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const *value).cast::<c_void>(), len) }).map(drop)
}

/// End when `parent` does, which must be the process that started this one. False if it has ended already.
pub fn die_with(parent: u32) -> bool {
    // SAFETY: no pointers; PR_SET_PDEATHSIG takes a signal.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0) };
    std::os::unix::process::parent_id() == parent
}

/// A number that the kernel keeps of a socket.
pub fn option(fd: RawFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    // SAFETY: pointer and length describe `value`.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// The pending error of a socket, cleared by reading it.
pub fn take_error(fd: RawFd) -> Option<c_int> {
    let mut error: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    // SAFETY: pointer and length describe `error`.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &raw mut len) };
    (result == 0 && error != 0).then_some(error)
}

/// The smoothed round-trip time of a TCP connection in nanoseconds, 0 if unknown (`TCP_INFO`, tcp(7)).
pub fn rtt_ns(fd: RawFd) -> u64 {
    tcp_info(fd).map_or(0, |info| u64::from(info.tcpi_rtt) * 1000)
}

/// What the kernel knows of a TCP connection (tcp(7), TCP_INFO).
pub fn tcp_info(fd: RawFd) -> Option<libc::tcp_info> {
    // SAFETY: all zeroes is a valid tcp_info.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as socklen_t;
    // SAFETY: pointer and length describe `info`; the kernel writes at most `len` bytes.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len) };
    (result == 0).then_some(info)
}

/// Options of a socket towards an origin; a listener's are inherited by what it accepts.
pub fn set_stream_options(fd: RawFd, user_timeout: Option<Duration>) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &1i32)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, &1i32)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &60i32)?;
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, &15i32)?;
    set_user_timeout(fd, user_timeout)
}

/// How long sent bytes may stay unacknowledged; none: as long as the kernel likes.
pub fn set_user_timeout(fd: RawFd, user_timeout: Option<Duration>) -> io::Result<()> {
    let user_timeout_ms = user_timeout.map_or(0, |timeout| timeout.as_millis().min(u128::from(u32::MAX)) as u32);
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &user_timeout_ms)
}

/// Of a connection with few packets under way: what is lost more than once is sent again after the same time, not after
/// twice that (`Documentation/networking/tcp-thin.rst` of Linux). The first six times, and never where there is much.
pub fn send_again_soon(fd: RawFd) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_THIN_LINEAR_TIMEOUTS, &1i32)
}

/// Bytes that wait in the two queues of a TCP socket (tcp(7), SIOCINQ and SIOCOUTQ).
pub fn queued_bytes(fd: RawFd) -> u64 {
    let ask = |request: libc::c_ulong| {
        let mut bytes: c_int = 0;
        // SAFETY: an int for the kernel to write.
        if unsafe { libc::ioctl(fd, request, &raw mut bytes) } == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
    };
    ask(libc::FIONREAD) + ask(libc::TIOCOUTQ)
}

/// Free memory that the allocator keeps goes back to the kernel.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Raise the soft limit of open files to the hard one and answer it.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a writable, then a readable rlimit.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        if limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        }
    }
    Ok(limit.rlim_cur)
}

/// Have the kernel's table of this process's descriptors made for `limit` of them, or for as many as fit in 2 MiB. It grows
/// by doubling, and in a process of several threads whoever wants the descriptor that is one too many waits for a grace
/// period of RCU (`expand_files` of fs/file.c), tens of ms on a busy machine: a worker would do nothing else meanwhile.
pub fn make_table_of_files(limit: u64) -> io::Result<()> {
    const MOST: u64 = 1 << 18;
    let any = std::fs::File::open("/dev/null")?;
    let last = c_int::try_from(limit.clamp(1, MOST) - 1).unwrap_or(c_int::MAX);
    // SAFETY: a descriptor that outlives the call.
    let high = check(unsafe { libc::fcntl(any.as_raw_fd(), libc::F_DUPFD_CLOEXEC, last) })?;
    // SAFETY: the kernel just made it for us; the table stays.
    drop(unsafe { OwnedFd::from_raw_fd(high) });
    Ok(())
}

/// The addresses of this machine's interfaces.
pub fn local_addresses() -> Vec<IpAddr> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    let mut found = Vec::new();
    // SAFETY: the list is walked before it is freed; an entry's address may be null or of any family.
    unsafe {
        if libc::getifaddrs(&raw mut list) != 0 {
            return found;
        }
        let mut entry = list;
        while !entry.is_null() {
            let address = (*entry).ifa_addr;
            if !address.is_null() {
                let len = match c_int::from((*address).sa_family) {
                    libc::AF_INET => size_of::<libc::sockaddr_in>(),
                    libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
                    _ => 0,
                };
                if len > 0 {
                    let mut raw = RawAddress::empty();
                    std::ptr::copy_nonoverlapping(address.cast::<u8>(), raw.as_mut_ptr().cast::<u8>(), len);
                    found.push(raw.to_std().ip());
                }
            }
            entry = (*entry).ifa_next;
        }
        libc::freeifaddrs(list);
    }
    found
}

/// Of the kernel's monotonic clock, which all processes share.
pub fn monotonic_ms() -> u64 {
    // SAFETY: plain numbers, for which zeroes are a value.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: room for the answer; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Let others go first from now on, on the calling thread: a third of what each of them has, for it must end all the same.
pub fn give_way() {
    // SAFETY: no pointers; 0 is the calling thread. Refused: then it goes on as it is.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 5) };
}
