//! The sending half of a batch: what was received goes out in place, neighbours of one size as one buffer.
//!
//! Cutting such a buffer is the kernel's work (`UDP_SEGMENT`), done after the way through its layers, which is most
//! of what a datagram costs. Where it cannot, datagrams go one by one in one call.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use libc::c_uint;

use super::super::control::Control;
use super::{Batch, MOST, Pick, check};

/// The kernel refuses to cut a buffer into more datagrams than this.
const MOST_SEGMENTS: usize = 64;
const MOST_SEGMENTED_BYTES: usize = 65_000;
/// No common path carries larger ones unfragmented, and fragments cannot be cut by the kernel.
const LARGEST_SEGMENT: usize = 1_472;
/// Two already cost less as one buffer than apart.
const SHORTEST_RUN: usize = 2;

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

impl Batch {
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
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP)
                    ) =>
                {
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
    fn describe(
        &mut self,
        picks: &[Pick],
        prefix: Prefix<'_>,
        sizes: &mut [usize; MOST],
        starts: &mut [usize; MOST + 1],
    ) {
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

    fn send_each(
        &mut self,
        fd: RawFd,
        count: usize,
        starts: &[usize; MOST + 1],
        route: Option<&mut Route>,
    ) -> io::Result<usize> {
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
pub(super) fn run(sizes: &[usize]) -> usize {
    let Some(&size) = sizes.first().filter(|size| (1..=LARGEST_SEGMENT).contains(*size)) else { return 1 };
    let most = MOST_SEGMENTS.min(MOST_SEGMENTED_BYTES / size);
    let equal = sizes.iter().take(most).take_while(|other| **other == size).count();
    match sizes.get(equal) {
        Some(last) if equal < most && (1..size).contains(last) => equal + 1,
        _ => equal,
    }
}
