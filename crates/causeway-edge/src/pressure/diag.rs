//! The TCP sockets of this network namespace, as the kernel lists them (sock_diag(7)); no right is needed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

// linux/sock_diag.h, linux/inet_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const BYTECODE_SOURCE_PORT_AT_LEAST: u8 = 2;
const BYTECODE_SOURCE_PORT_AT_MOST: u8 = 3;
/// All but LISTEN (10) and CLOSE (7).
const STATES: u32 = 0xfff & !(1 << 10) & !(1 << 7);

const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = 56;
const BYTECODE_BYTES: u16 = 16;
const BUFFER_BYTES: usize = 256 * 1024;

/// Our address and the peer of each socket whose own port lies in `ports`, those in TIME_WAIT included.
///
/// # Errors
/// The kernel's, where it has no sock_diag.
pub fn tcp_sockets(ports: (u16, u16)) -> io::Result<Vec<(IpAddr, SocketAddr)>> {
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; the descriptor is new and ours.
    let socket = unsafe {
        match libc::socket(libc::AF_NETLINK, flags, libc::NETLINK_SOCK_DIAG) {
            fd if fd < 0 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd),
        }
    };
    let mut found = Vec::new();
    let mut buffer = vec![0u8; BUFFER_BYTES];
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = request(family as u8, ports);
        // SAFETY: pointer and length describe `request`.
        if unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            // SAFETY: pointer and length describe `buffer`.
            let n = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(n) = usize::try_from(n) else { return Err(io::Error::last_os_error()) };
            if read(&buffer[..n], &mut found)? {
                break;
            }
        }
    }
    Ok(found)
}

/// nlmsghdr, inet_diag_req_v2, and one attribute: a program that keeps sockets whose own port is in the range.
fn request(family: u8, (first, last): (u16, u16)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + REQUEST_BYTES + 20);
    let len = (HEADER_BYTES + REQUEST_BYTES + 4 + usize::from(BYTECODE_BYTES)) as u32;
    bytes.extend(len.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    bytes.extend([0; 8]); // sequence, port id
    bytes.extend([family, libc::IPPROTO_TCP as u8, 0, 0]);
    bytes.extend(STATES.to_ne_bytes());
    bytes.resize(HEADER_BYTES + REQUEST_BYTES, 0); // inet_diag_sockid: all
    bytes.extend((4 + BYTECODE_BYTES).to_ne_bytes());
    bytes.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    // Each step: what, where to go on if so, where if not (past the end: no match); then the port it is about.
    for (what, port, left) in [(BYTECODE_SOURCE_PORT_AT_LEAST, first, 16u16), (BYTECODE_SOURCE_PORT_AT_MOST, last, 8)] {
        bytes.extend([what, 8]);
        bytes.extend((left + 4).to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(port.to_ne_bytes());
    }
    bytes
}

/// Take the sockets out of one answer. True if it was the last.
fn read(mut bytes: &[u8], found: &mut Vec<(IpAddr, SocketAddr)>) -> io::Result<bool> {
    while bytes.len() >= HEADER_BYTES {
        let len = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if len < HEADER_BYTES || len > bytes.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let body = &bytes[HEADER_BYTES..len];
        match i32::from(u16::from_ne_bytes([bytes[4], bytes[5]])) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                let code = body.get(..4).map_or(-libc::EIO, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                return Err(io::Error::from_raw_os_error(-code));
            }
            _ => found.extend(socket(body)),
        }
        bytes = &bytes[(len.next_multiple_of(4)).min(bytes.len())..];
    }
    Ok(false)
}

/// inet_diag_msg: family, state, timer, retransmits, then inet_diag_sockid: ports and addresses in network order.
fn socket(body: &[u8]) -> Option<(IpAddr, SocketAddr)> {
    let family = i32::from(*body.first()?);
    let peer_port = u16::from_be_bytes(body.get(6..8)?.try_into().ok()?);
    let address = |at: usize| -> Option<IpAddr> {
        let v6: [u8; 16] = body.get(at..at + 16)?.try_into().ok()?;
        Some(if family == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(v6[0], v6[1], v6[2], v6[3]))
        } else {
            IpAddr::V6(Ipv6Addr::from(v6))
        })
    };
    Some((address(8)?, SocketAddr::new(address(24)?, peer_port)))
}
