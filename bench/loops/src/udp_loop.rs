//! The least that a UDP proxy has to do, in the fewest and fullest calls: a batch in, neighbours of one flow out as one
//! buffer that the kernel cuts (`UDP_SEGMENT`), a connected socket for each flow. No expiry, no counters, no errors.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use libc::{c_int, c_void, iovec, mmsghdr, msghdr, sockaddr_in};

const BATCH: usize = 64;
const STRIDE: usize = 2048;
const LISTENER: u64 = u64::MAX;

struct Area {
    bytes: Vec<u8>,
    slices: Vec<iovec>,
    names: Vec<sockaddr_in>,
    headers: Vec<mmsghdr>,
}

impl Area {
    fn new() -> Box<Area> {
        // SAFETY: all zeroes is valid for these kernel structs.
        let (name, header) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut area = Box::new(Area {
            bytes: vec![0; BATCH * STRIDE],
            slices: Vec::new(),
            names: vec![name; BATCH],
            headers: vec![header; BATCH],
        });
        for i in 0..BATCH {
            // SAFETY: within the area, which never grows.
            let base = unsafe { area.bytes.as_mut_ptr().add(i * STRIDE) };
            area.slices.push(iovec { iov_base: base.cast(), iov_len: STRIDE });
        }
        area
    }

    fn receive(&mut self, fd: RawFd) -> usize {
        for i in 0..BATCH {
            let header = &mut self.headers[i].msg_hdr;
            (header.msg_iov, header.msg_iovlen) = (&raw mut self.slices[i], 1);
            header.msg_name = (&raw mut self.names[i]).cast();
            header.msg_namelen = size_of::<sockaddr_in>() as u32;
        }
        let flags = libc::MSG_DONTWAIT as _;
        // SAFETY: every header describes memory of the area.
        let n = unsafe { libc::recvmmsg(fd, self.headers.as_mut_ptr(), BATCH as u32, flags, std::ptr::null_mut()) };
        n.max(0) as usize
    }

    /// `indices` lie next to each other in the order of sending; all but the last have one length.
    fn send(&self, fd: RawFd, indices: &[usize], to: Option<sockaddr_in>) {
        let mut parts = [iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        for (part, &index) in parts.iter_mut().zip(indices) {
            let len = self.headers[index].msg_len as usize;
            *part = iovec { iov_base: self.slices[index].iov_base, iov_len: len };
        }
        #[repr(C, align(8))]
        struct Control([u8; 24]);
        let mut control = Control([0; 24]);
        // SAFETY: all zeroes is a valid msghdr; what it points to lives through the call.
        unsafe {
            let mut header: msghdr = std::mem::zeroed();
            (header.msg_iov, header.msg_iovlen) = (parts.as_mut_ptr(), indices.len());
            if let Some(to) = &to {
                header.msg_name = (&raw const *to).cast_mut().cast();
                header.msg_namelen = size_of::<sockaddr_in>() as u32;
            }
            if indices.len() > 1 {
                header.msg_control = control.0.as_mut_ptr().cast();
                header.msg_controllen = libc::CMSG_SPACE(2) as usize;
                let message = libc::CMSG_FIRSTHDR(&raw const header);
                (*message).cmsg_level = libc::SOL_UDP;
                (*message).cmsg_type = libc::UDP_SEGMENT;
                (*message).cmsg_len = libc::CMSG_LEN(2) as usize;
                libc::CMSG_DATA(message).cast::<u16>().write_unaligned(parts[0].iov_len as u16);
            }
            libc::sendmsg(fd, &raw const header, libc::MSG_DONTWAIT);
        }
    }
}

struct Flow {
    socket: UdpSocket,
    client: sockaddr_in,
}

pub fn run(listen: SocketAddr, origin: SocketAddr) -> io::Result<()> {
    let listener = UdpSocket::bind(listen)?;
    widen(listener.as_raw_fd());
    // SAFETY: no pointers; a failure shows in the first call on it.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    add(epoll, listener.as_raw_fd(), LISTENER)?;
    let mut flows: Vec<Flow> = Vec::new();
    let mut known: HashMap<(u32, u16), usize> = HashMap::new();
    let mut area = Area::new();
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
    loop {
        // SAFETY: pointer and length describe `events`.
        let n = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as c_int, -1) };
        for event in &events[..n.max(0) as usize] {
            let token = event.u64;
            if token != LISTENER {
                let flow = &flows[token as usize];
                let count = area.receive(flow.socket.as_raw_fd());
                let all: Vec<usize> = (0..count).collect();
                runs(&area, &all).for_each(|run| area.send(listener.as_raw_fd(), run, Some(flow.client)));
                continue;
            }
            let count = area.receive(listener.as_raw_fd());
            let mut picks: Vec<(usize, usize)> = Vec::with_capacity(count);
            for index in 0..count {
                let client = area.names[index];
                let flow = match known.get(&(client.sin_addr.s_addr, client.sin_port)) {
                    Some(flow) => *flow,
                    None => {
                        let socket = UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], 0)))?;
                        socket.connect(origin)?;
                        widen(socket.as_raw_fd());
                        add(epoll, socket.as_raw_fd(), flows.len() as u64)?;
                        known.insert((client.sin_addr.s_addr, client.sin_port), flows.len());
                        flows.push(Flow { socket, client });
                        flows.len() - 1
                    }
                };
                picks.push((flow, index));
            }
            picks.sort_unstable();
            for group in picks.chunk_by(|a, b| a.0 == b.0) {
                let indices: Vec<usize> = group.iter().map(|pick| pick.1).collect();
                let fd = flows[group[0].0].socket.as_raw_fd();
                runs(&area, &indices).for_each(|run| area.send(fd, run, None));
            }
        }
    }
}

fn runs<'a>(area: &'a Area, indices: &'a [usize]) -> impl Iterator<Item = &'a [usize]> {
    indices.chunk_by(|a, b| area.headers[*a].msg_len == area.headers[*b].msg_len)
}

fn widen(fd: RawFd) {
    let bytes: c_int = 4 << 20;
    for option in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
        let value = (&raw const bytes).cast::<c_void>();
        // SAFETY: pointer and length describe `bytes`. The kernel grants what it may.
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, value, size_of::<c_int>() as u32) };
    }
}

fn add(epoll: RawFd, fd: RawFd, token: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
    // SAFETY: `event` lives through the call.
    match unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
