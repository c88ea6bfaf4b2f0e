//! Ports on which somebody listens: candidates for a refusal where we claim ports without binding them.
//!
//! Asks the kernel for listening TCP and unconnected UDP sockets only (sock_diag(7)), so that it costs nothing on a
//! machine with many connections; reads /proc/net where that is not to be had. Says who might be in the way; whether
//! they are, a bind decides (see `listen`).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use causeway_bpf::{PortSet, Spot};

use crate::snapshot::Protocol;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ANSWER_BYTES: usize = 64 * 1024;
/// States of the kernel: an unconnected UDP socket counts as closed.
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    protocol: Protocol,
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// What was found at one moment.
#[derive(Debug)]
pub struct Taken(Vec<Socket>);

impl Taken {
    /// Look at this network namespace, leaving out sockets of ours.
    pub fn look(own: &HashSet<u64>) -> Taken {
        let mut found = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for family in [libc::AF_INET, libc::AF_INET6] {
                let before = found.len();
                if ask(protocol, family, &mut found).is_err() {
                    found.truncate(before);
                    found.extend(read_proc(protocol, family));
                }
            }
        }
        found.retain(|socket| socket.port != 0 && !own.contains(&socket.inode));
        Taken(found)
    }

    /// Ports of `spot` on which somebody might be in the way.
    pub fn candidates(&self, spot: Spot) -> PortSet {
        let protocol = if spot.is_tcp() { Protocol::Tcp } else { Protocol::Udp };
        let mut ports = PortSet::default();
        let wanted = spot.address();
        for socket in self.0.iter().filter(|socket| socket.protocol == protocol) {
            let is_same_family = socket.address.is_ipv4() == wanted.is_ipv4();
            let meets = match is_same_family {
                true => socket.address == wanted || socket.address.is_unspecified() || wanted.is_unspecified(),
                // A socket for any IPv6 address may take IPv4 as well.
                false => socket.address.is_ipv6() && socket.address.is_unspecified(),
            };
            if meets {
                ports.insert(socket.port, socket.port);
            }
        }
        ports
    }
}

#[repr(C)]
struct Request {
    header: libc::nlmsghdr,
    family: u8,
    protocol: u8,
    extensions: u8,
    unused: u8,
    states: u32,
    id: Id,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Id {
    source_port_be: [u8; 2],
    destination_port_be: [u8; 2],
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Answer {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: Id,
    expires: u32,
    receive_queue: u32,
    write_queue: u32,
    user: u32,
    inode: u32,
}

const _: () = assert!(size_of::<Request>() == 16 + 56 && size_of::<Answer>() == 72);

fn ask(protocol: Protocol, family: i32, found: &mut Vec<Socket>) -> io::Result<()> {
    let (number, state) = match protocol {
        Protocol::Tcp => (libc::IPPROTO_TCP, LISTEN),
        Protocol::Udp => (libc::IPPROTO_UDP, CLOSE),
    };
    // SAFETY: no pointers; the descriptor is new and ours.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let header = libc::nlmsghdr {
        nlmsg_len: size_of::<Request>() as u32,
        nlmsg_type: SOCK_DIAG_BY_FAMILY,
        nlmsg_flags: (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16,
        nlmsg_seq: 1,
        nlmsg_pid: 0,
    };
    let (family, protocol_number) = (family as u8, number as u8);
    let (states, id) = (1 << state, Id::default());
    let request = Request { header, family, protocol: protocol_number, extensions: 0, unused: 0, states, id };
    // SAFETY: pointer and length describe `request`.
    let sent = unsafe { libc::send(socket.as_raw_fd(), (&raw const request).cast(), size_of::<Request>(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut buffer = vec![0u8; ANSWER_BYTES];
    loop {
        // SAFETY: pointer and length describe `buffer`.
        let n = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        if read_answers(&buffer[..n], protocol, found)? {
            return Ok(());
        }
    }
}

/// True after the last one.
fn read_answers(mut bytes: &[u8], protocol: Protocol, found: &mut Vec<Socket>) -> io::Result<bool> {
    const HEADER: usize = size_of::<libc::nlmsghdr>();
    while bytes.len() >= HEADER {
        let len = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        if len < HEADER || len > bytes.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let body = &bytes[HEADER..len];
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => return Err(io::ErrorKind::Unsupported.into()),
            _ if body.len() >= size_of::<Answer>() => {
                // SAFETY: the length was checked; every bit pattern is a valid Answer; no alignment is assumed.
                let answer = unsafe { body.as_ptr().cast::<Answer>().read_unaligned() };
                let [a, b, c, d, ..] = answer.id.source;
                let address = match i32::from(answer.family) {
                    libc::AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
                    _ => IpAddr::V6(Ipv6Addr::from(answer.id.source)),
                };
                let port = u16::from_be_bytes(answer.id.source_port_be);
                found.push(Socket { protocol, address, port, inode: answer.inode.into() });
            }
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn read_proc(protocol: Protocol, family: i32) -> Vec<Socket> {
    let name = match (protocol, family) {
        (Protocol::Tcp, libc::AF_INET) => "tcp",
        (Protocol::Tcp, _) => "tcp6",
        (Protocol::Udp, libc::AF_INET) => "udp",
        (Protocol::Udp, _) => "udp6",
    };
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| proc_line(protocol, line)).collect()
}

/// `0: 0100007F:0016 00000000:0000 0A … uid timeout inode …`: addresses are words in host byte order.
fn proc_line(protocol: Protocol, line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let wanted = if protocol == Protocol::Tcp { LISTEN } else { CLOSE };
    if u8::from_str_radix(fields.get(3)?, 16).ok()? != wanted {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        _ => IpAddr::from(<[u8; 16]>::try_from([word(0)?, word(1)?, word(2)?, word(3)?].concat()).ok()?),
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Socket { protocol, address, port, inode: fields.get(9)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn both_sources_find_listeners_and_unconnected_sockets_and_nothing_else() {
        let (tcp, tcp6) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").unwrap());
        let (udp, udp6) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap());
        let stream = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect("127.0.0.1:9").unwrap();
        let holds = |found: &[Socket], address: std::net::SocketAddr| {
            found.iter().any(|socket| (socket.address, socket.port) == (address.ip(), address.port()))
        };
        type Source = fn(Protocol, i32) -> Vec<Socket>;
        let diag: Source = |protocol, family| {
            let mut found = Vec::new();
            ask(protocol, family, &mut found).unwrap();
            found
        };
        for source in [diag, read_proc] {
            let (v4, v6) = (source(Protocol::Tcp, libc::AF_INET), source(Protocol::Tcp, libc::AF_INET6));
            assert!(holds(&v4, tcp.local_addr().unwrap()) && holds(&v6, tcp6.local_addr().unwrap()));
            assert!(!holds(&v4, stream.local_addr().unwrap()));
            let (v4, v6) = (source(Protocol::Udp, libc::AF_INET), source(Protocol::Udp, libc::AF_INET6));
            assert!(holds(&v4, udp.local_addr().unwrap()) && holds(&v6, udp6.local_addr().unwrap()));
            assert!(!holds(&v4, connected.local_addr().unwrap()));
        }
    }

    #[test]
    fn a_port_is_a_candidate_where_the_addresses_meet() {
        let socket =
            |address: &str, port| Socket { protocol: Protocol::Tcp, address: address.parse().unwrap(), port, inode: 0 };
        let taken = Taken(vec![socket("0.0.0.0", 1), socket("192.0.2.1", 2), socket("192.0.2.2", 3), socket("::", 4)]);
        let ports = |spot: Spot| taken.candidates(spot).iter().collect::<Vec<_>>();
        assert_eq!(ports(Spot::tcp("192.0.2.1".parse().unwrap())), [1, 2, 4]);
        assert_eq!(ports(Spot::tcp("0.0.0.0".parse().unwrap())), [1, 2, 3, 4]);
        assert_eq!(ports(Spot::tcp("2001:db8::1".parse().unwrap())), [4]);
        assert_eq!(ports(Spot::udp("192.0.2.1".parse().unwrap())), [0u16; 0]);
    }
}
