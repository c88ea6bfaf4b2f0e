//! "Port unreachable" to a client, as the kernel would send it if the edge itself did not listen.
//!
//! Needs CAP_NET_RAW; without it nothing is sent and nothing else changes. Rate-limited like the kernel's own,
//! because the addresses of datagrams can be invented.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::sys::{self, RawAddress};
use crate::udp::control::Control;

/// Per worker; the kernel's own limit is 1000/s as well (net.ipv4.icmp_msgs_per_sec).
const MOST_PER_WINDOW: u32 = 100;
const WINDOW_MS: u64 = 100;
const UDP_HEADER: usize = 8;
const HOPS: u8 = 64;

#[derive(Debug)]
pub struct Icmp {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    window: u64,
    sent_in_window: u32,
}

impl Icmp {
    pub fn open() -> Icmp {
        let v4 = raw_socket(libc::AF_INET, libc::IPPROTO_ICMP);
        let v6 = raw_socket(libc::AF_INET6, libc::IPPROTO_ICMPV6);
        Icmp { v4: v4.ok(), v6: v6.ok(), window: 0, sent_in_window: 0 }
    }

    /// Tell `client` that nobody is there for what it sent to `edge`. False if that could not be told.
    pub fn port_unreachable(&mut self, client: SocketAddr, edge: SocketAddr, now_ms: u64) -> bool {
        let socket = if client.is_ipv4() { &self.v4 } else { &self.v6 };
        let (Some(fd), Some(message)) = (socket.as_ref().map(AsRawFd::as_raw_fd), unreachable(client, edge)) else {
            return false;
        };
        if self.window != now_ms / WINDOW_MS {
            (self.window, self.sent_in_window) = (now_ms / WINDOW_MS, 0);
        }
        self.sent_in_window += 1;
        self.sent_in_window <= MOST_PER_WINDOW && send(fd, client, edge.ip(), &message).is_ok()
    }
}

/// The message: type and code, then the head of the datagram that it is about, rebuilt (RFC 792, RFC 4443).
fn unreachable(client: SocketAddr, edge: SocketAddr) -> Option<Vec<u8>> {
    let mut quote = Vec::with_capacity(56);
    let kind = match (client.ip(), edge.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            quote.extend(ipv4_header(source, destination));
            [3, 3]
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            quote.extend(ipv6_header(source, destination));
            [1, 4]
        }
        _ => return None,
    };
    quote.extend(client.port().to_be_bytes());
    quote.extend(edge.port().to_be_bytes());
    quote.extend((UDP_HEADER as u16).to_be_bytes());
    quote.extend([0, 0]);
    let mut message = vec![kind[0], kind[1], 0, 0, 0, 0, 0, 0];
    message.append(&mut quote);
    if client.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum); // that of ICMPv6 covers addresses too, the kernel fills it in
    }
    Some(message)
}

fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr) -> [u8; 20] {
    let mut header = [0; 20];
    header[0] = 0x45;
    header[3] = (header.len() + UDP_HEADER) as u8;
    header[8] = HOPS;
    header[9] = libc::IPPROTO_UDP as u8;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    header
}

fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr) -> [u8; 40] {
    let mut header = [0; 40];
    header[0] = 0x60;
    header[5] = UDP_HEADER as u8;
    header[6] = libc::IPPROTO_UDP as u8;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
    header
}

/// RFC 1071, for an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A raw socket that only sends: it hears no message of the machine's.
fn raw_socket(family: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    const ICMP_FILTER: i32 = 1; // of both families: a set bit blocks that type
    if family == libc::AF_INET {
        sys::set_option(fd, libc::SOL_RAW, ICMP_FILTER, &u32::MAX)?;
    } else {
        sys::set_option(fd, libc::IPPROTO_ICMPV6, ICMP_FILTER, &[u32::MAX; 8])?;
    }
    Ok(socket)
}

fn send(fd: RawFd, client: SocketAddr, source: IpAddr, message: &[u8]) -> io::Result<()> {
    let mut to = client;
    to.set_port(0); // would be taken for a protocol number
    let scope = if let SocketAddr::V6(v6) = client { v6.scope_id() } else { 0 };
    let mut name = RawAddress::from(to);
    let mut control = Control::new();
    control.set_source(source, scope);
    let mut slice = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: all zeroes is a valid msghdr; name, slice and control live through the call, which only reads them.
    let result = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = name.len();
        header.msg_iov = &raw mut slice;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr();
        header.msg_controllen = control.len();
        libc::sendmsg(fd, &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_quotes_the_datagram_of_the_client() {
        let message = unreachable("192.0.2.1:1000".parse().unwrap(), "198.51.100.2:53".parse().unwrap()).unwrap();
        let expected = [
            &[3, 3][..],
            &message[2..4],
            &[0; 4], // checksum: see below
            &[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17],
            &message[18..20],
            &[192, 0, 2, 1, 198, 51, 100, 2],
            &[0x03, 0xE8, 0, 53, 0, 8, 0, 0],
        ]
        .concat();
        assert_eq!(message, expected);
        assert_eq!((checksum(&message), checksum(&message[8..28])), ([0, 0], [0, 0]));

        let message = unreachable("[2001:db8::1]:1000".parse().unwrap(), "[2001:db8::2]:53".parse().unwrap()).unwrap();
        assert_eq!((message.len(), &message[..2], message[8], message[14]), (56, &[1, 4][..], 0x60, 17));
        assert_eq!(message[48..], [0x03, 0xE8, 0, 53, 0, 8, 0, 0]);
    }

    #[test]
    fn the_rate_is_limited_per_window() {
        let mut icmp = Icmp { v4: None, v6: None, window: 0, sent_in_window: 0 };
        let (client, edge) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        assert!(!icmp.port_unreachable(client, edge, 0), "nothing to send with");
        icmp = Icmp::open();
        if icmp.v4.is_none() {
            return eprintln!("SKIPPED: no CAP_NET_RAW");
        }
        let sent = |icmp: &mut Icmp, now_ms| (0..1000).filter(|_| icmp.port_unreachable(client, edge, now_ms)).count();
        assert_eq!((sent(&mut icmp, 1), sent(&mut icmp, 99)), (MOST_PER_WINDOW as usize, 0));
        assert_eq!(sent(&mut icmp, 100), MOST_PER_WINDOW as usize);
    }
}
