//! Many datagrams per system call: one receive area of a worker, filled from a socket and sent on from in place.
//!
//! All `unsafe` of datagrams but control messages is here. The area has room for 64 datagrams of any size and
//! is touched only as far as datagrams reach. What was received is valid until the next receive.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use libc::{c_int, c_uint};

use super::control::Control;

/// Datagrams of one receive.
pub const MOST: usize = 64;
/// Larger than any datagram. The odd part keeps the starts of neighbours in different cache sets.
const STRIDE: usize = 65_536 + 512;
/// The kernel refuses to cut a buffer into more datagrams than this.
const MOST_SEGMENTS: usize = 64;
const MOST_SEGMENTED_BYTES: usize = 65_000;
/// No common path carries larger ones unfragmented, and fragments cannot be cut by the kernel.
const LARGEST_SEGMENT: usize = 1_472;
/// A shorter run costs less as separate datagrams.
const SHORTEST_RUN: usize = 3;

/// One received datagram that is to be sent on; sorts by session, then by arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    pub session: u32,
    pub index: u8,
    /// Bytes at its start that are not passed on.
    pub skip: u8,
}

/// Bytes put before datagrams.
#[derive(Clone, Copy, Debug)]
pub enum Prefix<'a> {
    None,
    First(&'a [u8]),
    Every(&'a [u8]),
}

/// Where datagrams go on a socket that is not connected, and from which of its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    name: libc::sockaddr_in6,
    name_len: u32,
    control: Control,
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
    lens: [u32; MOST],
    is_from_clients: bool,
    /// Entries of `from_clients` that the kernel has changed.
    used: usize,
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
        let batch = Batch { storage, lens: [0; MOST], is_from_clients: false, used: MOST };
        let it = storage.as_ptr();
        for i in 0..MOST {
            // SAFETY: `i` is within each array; only addresses are formed, no reference.
            unsafe {
                (*it).slices[i] =
                    libc::iovec { iov_base: (&raw mut (*it).area).cast::<u8>().add(i * STRIDE).cast(), iov_len: STRIDE };
                let slice = &raw mut (*it).slices[i];
                for header in [&raw mut (*it).from_clients[i].msg_hdr, &raw mut (*it).from_origin[i].msg_hdr] {
                    (*header).msg_iov = slice;
                    (*header).msg_iovlen = 1;
                }
                (*it).from_clients[i].msg_hdr.msg_name = (&raw mut (*it).names[i]).cast();
                (*it).from_clients[i].msg_hdr.msg_control = (*it).controls[i].as_mut_ptr();
            }
        }
        batch
    }

    /// Receive what waits on a listener, with who sent it and, where the socket tells, to which address.
    pub fn receive_from_clients(&mut self, fd: RawFd) -> io::Result<usize> {
        let it = self.storage.as_ptr();
        for i in 0..self.used {
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
        self.used = *result.as_ref().unwrap_or(&0);
        self.note_lens(result)
    }

    /// Receive what waits on a connected socket.
    pub fn receive_from_origin(&mut self, fd: RawFd) -> io::Result<usize> {
        self.is_from_clients = false;
        let it = self.storage.as_ptr();
        // SAFETY: every header describes memory of the storage.
        let result = receive(fd, unsafe { &raw mut (*it).from_origin }.cast());
        self.note_lens(result)
    }

    /// Put datagrams of our own into the area, as if received; answers how many there was room for.
    pub fn load(&mut self, datagrams: &[Box<[u8]>]) -> usize {
        let count = datagrams.len().min(MOST);
        for (index, datagram) in datagrams[..count].iter().enumerate() {
            let len = datagram.len().min(STRIDE);
            // SAFETY: `index` is below MOST and `len` at most STRIDE; the two do not overlap.
            unsafe {
                let area = (&raw mut (*self.storage.as_ptr()).area).cast::<u8>();
                area.add(index * STRIDE).copy_from_nonoverlapping(datagram.as_ptr(), len);
            }
            self.lens[index] = len as u32;
        }
        count
    }

    /// Throw away what waits on a socket, as much as a full buffer can hold.
    pub fn discard(&mut self, fd: RawFd) {
        const MOST_TURNS: usize = 1024;
        for _ in 0..MOST_TURNS {
            match self.receive_from_clients(fd) {
                Ok(MOST) => {}
                _ => return,
            }
        }
    }

    fn note_lens(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        let n = result?;
        for i in 0..n {
            self.lens[i] = self.header(i).msg_len.min(STRIDE as u32);
        }
        Ok(n)
    }

    fn header(&self, index: usize) -> &libc::mmsghdr {
        let it = self.storage.as_ptr();
        // SAFETY: the array access is checked; nothing writes while `self` is borrowed.
        unsafe { if self.is_from_clients { &(&(*it).from_clients)[index] } else { &(&(*it).from_origin)[index] } }
    }

    pub fn datagram(&self, index: usize) -> &[u8] {
        assert!(index < MOST);
        let len = self.lens[index] as usize;
        // SAFETY: `len` is at most STRIDE, so the slice is inside the area; nothing writes while `self` is borrowed.
        unsafe {
            let area = (&raw const (*self.storage.as_ptr()).area).cast::<u8>();
            std::slice::from_raw_parts(area.add(index * STRIDE), len)
        }
    }

    /// Was it larger than the room? Then it must not be passed on.
    pub fn is_truncated(&self, index: usize) -> bool {
        self.header(index).msg_hdr.msg_flags & libc::MSG_TRUNC != 0
    }

    /// Who sent a datagram that came from a listener.
    pub fn client(&self, index: usize) -> SocketAddr {
        let it = self.storage.as_ptr();
        // SAFETY: the array access is checked; the kernel wrote a sockaddr_in or sockaddr_in6, both fit.
        unsafe {
            let name = &raw const (&(*it).names)[index];
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
    pub fn destination(&self, index: usize) -> Option<IpAddr> {
        let len = self.header(index).msg_hdr.msg_controllen;
        // SAFETY: the array access is checked; nothing writes while `self` is borrowed.
        unsafe { (&(*self.storage.as_ptr()).controls)[index].destination(len) }
    }

    /// Send `picks` in order with one call. Answers how many went out: at least one, or the error of the first.
    ///
    /// Equal-sized neighbours go as one buffer that the kernel cuts, unless `may_segment` says that the path
    /// or the kernel cannot; it is cleared when that shows.
    pub fn send(
        &mut self,
        fd: RawFd,
        picks: &[Pick],
        route: Option<&Route>,
        prefix: Prefix<'_>,
        may_segment: &mut bool,
    ) -> io::Result<usize> {
        let count = picks.len().min(MOST);
        let mut route = route.copied();
        let mut sizes = [0; MOST];
        let mut starts = [0; MOST + 1];
        self.describe(&picks[..count], prefix, &mut sizes, &mut starts);
        let run_from = |at: usize| if *may_segment { run(&sizes[at..count]) } else { 1 };

        let leading = run_from(0);
        if leading >= SHORTEST_RUN {
            match self.send_parts(fd, 0..starts[leading], route.as_mut(), Some(sizes[0] as u16)) {
                Ok(()) => return Ok(leading),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP)) => {
                    *may_segment = false;
                }
                Err(error) => return Err(error),
            }
            return self.send_each(fd, count, &starts, route.as_mut());
        }
        let single = (1..count).find(|at| run_from(*at) >= SHORTEST_RUN).unwrap_or(count);
        match single {
            1 => self.send_parts(fd, 0..starts[1], route.as_mut(), None).map(|()| 1),
            _ => self.send_each(fd, single, &starts, route.as_mut()),
        }
    }

    /// Describe each datagram by one or two parts; its parts are `starts[k]..starts[k + 1]`.
    fn describe(&mut self, picks: &[Pick], prefix: Prefix<'_>, sizes: &mut [usize; MOST], starts: &mut [usize; MOST + 1]) {
        let it = self.storage.as_ptr();
        let mut next = 0;
        let mut push = |base: *const u8, len: usize| {
            // SAFETY: two parts at most for each of at most MOST picks.
            unsafe { (*it).parts[next] = libc::iovec { iov_base: base.cast_mut().cast(), iov_len: len } };
            next += 1;
            next
        };
        for (k, pick) in picks.iter().enumerate() {
            let head: &[u8] = match prefix {
                Prefix::Every(bytes) => bytes,
                Prefix::First(bytes) if k == 0 => bytes,
                _ => &[],
            };
            let payload = self.datagram(pick.index.into());
            let payload = &payload[usize::from(pick.skip).min(payload.len())..];
            if !head.is_empty() {
                push(head.as_ptr(), head.len());
            }
            starts[k + 1] = push(payload.as_ptr(), payload.len());
            sizes[k] = head.len() + payload.len();
        }
    }

    fn send_parts(
        &mut self,
        fd: RawFd,
        parts: std::ops::Range<usize>,
        route: Option<&mut Route>,
        segment: Option<u16>,
    ) -> io::Result<()> {
        let it = self.storage.as_ptr();
        let mut bare = Control::new();
        // SAFETY: all zeroes is a valid msghdr; the parts were just described and are valid through the call.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = (&raw mut (*it).parts[parts.start]).cast();
            header.msg_iovlen = parts.len();
            let mut control = &mut bare;
            if let Some(route) = route {
                header.msg_name = (&raw mut route.name).cast();
                header.msg_namelen = route.name_len;
                bare = route.control;
                control = &mut bare;
            }
            if let Some(bytes) = segment {
                control.set_segment(bytes);
            }
            if control.len() > 0 {
                header.msg_control = control.as_mut_ptr();
                header.msg_controllen = control.len();
            }
            check(libc::sendmsg(fd, &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)).map(drop)
        }
    }

    fn send_each(&mut self, fd: RawFd, count: usize, starts: &[usize; MOST + 1], route: Option<&mut Route>) -> io::Result<usize> {
        let it = self.storage.as_ptr();
        let (mut name, mut name_len, mut control, mut control_len) = (std::ptr::null_mut(), 0, std::ptr::null_mut(), 0);
        if let Some(route) = route {
            (name, name_len) = ((&raw mut route.name).cast(), route.name_len);
            if route.control.len() > 0 {
                (control, control_len) = (route.control.as_mut_ptr(), route.control.len());
            }
        }
        // SAFETY: `count` is at most MOST, its parts were just described; name and control outlive the call.
        unsafe {
            for k in 0..count {
                let header = &raw mut (*it).outgoing[k].msg_hdr;
                (*header).msg_name = name;
                (*header).msg_namelen = name_len;
                (*header).msg_iov = &raw mut (*it).parts[starts[k]];
                (*header).msg_iovlen = starts[k + 1] - starts[k];
                (*header).msg_control = control;
                (*header).msg_controllen = control_len;
            }
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            check(libc::sendmmsg(fd, (&raw mut (*it).outgoing).cast(), count as c_uint, flags as _))
        }
    }
}

impl Route {
    /// `source` is given where the socket has no address of its own.
    pub fn new(to: SocketAddr, source: Option<IpAddr>) -> Route {
        // SAFETY: all zeroes is a valid sockaddr_in6.
        let mut name: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        let (name_len, scope) = match to {
            SocketAddr::V4(v4) => {
                let place = (&raw mut name).cast::<libc::sockaddr_in>();
                // SAFETY: a sockaddr_in is smaller and no stricter in alignment.
                unsafe {
                    (*place).sin_family = libc::AF_INET as libc::sa_family_t;
                    (*place).sin_port = v4.port().to_be();
                    (*place).sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                }
                (size_of::<libc::sockaddr_in>(), 0)
            }
            SocketAddr::V6(v6) => {
                name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                name.sin6_port = v6.port().to_be();
                name.sin6_addr.s6_addr = v6.ip().octets();
                name.sin6_scope_id = v6.scope_id();
                (size_of::<libc::sockaddr_in6>(), v6.scope_id())
            }
        };
        let mut control = Control::new();
        if let Some(source) = source {
            control.set_source(source, scope);
        }
        Route { name, name_len: name_len as u32, control }
    }
}

/// How many datagrams from the front have one size (the last may be smaller) and fit into one buffer.
fn run(sizes: &[usize]) -> usize {
    let Some(&size) = sizes.first().filter(|size| (1..=LARGEST_SEGMENT).contains(*size)) else { return 1 };
    let most = MOST_SEGMENTS.min(MOST_SEGMENTED_BYTES / size);
    let equal = sizes.iter().take(most).take_while(|other| **other == size).count();
    match sizes.get(equal) {
        Some(last) if equal < most && (1..size).contains(last) => equal + 1,
        _ => equal,
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
mod tests {
    use super::*;

    #[test]
    fn a_run_has_one_size_and_may_end_with_a_smaller_one() {
        let cases: [(&[usize], usize); 9] = [
            (&[], 1),
            (&[0, 0, 0], 1),
            (&[100], 1),
            (&[100, 100, 100], 3),
            (&[100, 100, 50, 100], 3),
            (&[100, 100, 150], 2),
            (&[100, 100, 0], 2),
            (&[1473, 1473], 1),
            (&[1472; 64], 44),
        ];
        for (sizes, expected) in cases {
            assert_eq!(run(sizes), expected, "{sizes:?}");
        }
    }

    #[test]
    fn datagrams_of_all_sizes_pass_through_the_area_unmixed() {
        let (near, far) = pair();
        let mut batch = Batch::new();
        let sent: Vec<Vec<u8>> = (0..MOST).map(|i| vec![i as u8; [0, 1, 200, 1472, 2000][i % 5]]).collect();
        for datagram in &sent {
            far.send(datagram).unwrap();
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&near);
        assert_eq!(batch.receive_from_clients(fd).unwrap(), MOST);
        for (index, datagram) in sent.iter().enumerate() {
            assert_eq!(batch.datagram(index), datagram);
            assert_eq!(batch.client(index), far.local_addr().unwrap());
            assert!(!batch.is_truncated(index));
        }
    }

    #[test]
    fn a_run_is_cut_where_its_datagrams_were() {
        let (near, far) = pair();
        let mut batch = Batch::new();
        let sizes = [200, 200, 200, 200, 60, 0, 7, 900];
        for (i, size) in sizes.iter().enumerate() {
            far.send(&vec![i as u8; *size]).unwrap();
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&near);
        assert_eq!(batch.receive_from_origin(fd).unwrap(), sizes.len());
        for may_segment in [true, false] {
            for prefix in [Prefix::None, Prefix::First(b"<head>"), Prefix::Every(b"<head>")] {
                let picks: Vec<Pick> = (0..sizes.len()).map(|i| Pick { session: 0, index: i as u8, skip: 0 }).collect();
                let (mut at, mut segments) = (0, may_segment);
                while at < picks.len() {
                    let prefix = if at > 0 && matches!(prefix, Prefix::First(_)) { Prefix::None } else { prefix };
                    at += batch.send(fd, &picks[at..], None, prefix, &mut segments).unwrap();
                }
                assert_eq!(segments, may_segment);
                for (i, size) in sizes.iter().enumerate() {
                    let mut buffer = [0; 2000];
                    let n = far.recv(&mut buffer).unwrap();
                    let head: &[u8] = match prefix {
                        Prefix::Every(head) => head,
                        Prefix::First(head) if i == 0 => head,
                        _ => &[],
                    };
                    assert_eq!(buffer[..n], [head, &vec![i as u8; *size]].concat(), "{prefix:?} {i}");
                }
            }
        }
    }

    fn pair() -> (std::net::UdpSocket, std::net::UdpSocket) {
        let [a, b] = [0; 2].map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        a.connect(b.local_addr().unwrap()).unwrap();
        b.connect(a.local_addr().unwrap()).unwrap();
        b.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        (a, b)
    }
}
