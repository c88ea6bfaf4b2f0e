//! Segments of our own within a TCP connection, with the sequence numbers that its sides expect: RST to both, or a
//! question whether one is alive.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use super::shared::bytes_of;
use super::{Flow, Side};

const RST_ACK: u8 = 0x14;
const ACK: u8 = 0x10;

pub(super) fn reset_both(flow: &Flow) -> io::Result<()> {
    let (client, origin) = flow.next_seq;
    let behind_header = client.wrapping_add(flow.header_bytes.into());
    let to_client = send(flow.edge, flow.client, RST_ACK, origin, client);
    let to_origin = send(flow.source, flow.origin, RST_ACK, behind_header, origin);
    to_client.and(to_origin)
}

/// As a keepalive does: a number that was acknowledged is answered with what is expected.
pub(super) fn probe(flow: &Flow, reset_by: Side) -> io::Result<()> {
    let (client, origin) = flow.next_seq;
    match reset_by {
        Side::Origin => send(flow.edge, flow.client, ACK, origin.wrapping_sub(1), client),
        Side::Client => {
            let behind_header = client.wrapping_add(flow.header_bytes.into());
            send(flow.source, flow.origin, ACK, behind_header.wrapping_sub(1), origin)
        }
    }
}

fn send(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32, ack: u32) -> io::Result<()> {
    let segment = segment(from, to, flags, seq, ack);
    let domain = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = socket2::Socket::new(domain.into(), socket2::Type::RAW, Some(socket2::Protocol::TCP))?;
    act_for_others(&socket, from.is_ipv4())?;
    socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
    // A raw socket takes its port for a protocol number: none is named.
    socket.send_to(&segment, &SocketAddr::new(to.ip(), 0).into()).map(drop)
}

/// What goes to an origin may have the client's address.
fn act_for_others(socket: &socket2::Socket, is_ipv4: bool) -> io::Result<()> {
    let (level, name) = match is_ipv4 {
        true => (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        false => (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    };
    let on: libc::c_int = 1;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: pointer and length are those of an integer that lives through the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), size) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn segment(from: SocketAddr, to: SocketAddr, flags: u8, seq: u32, ack: u32) -> [u8; 20] {
    let mut tcp = [0; 20];
    tcp[..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = flags;
    tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let pseudo = [bytes_of(from.ip()), bytes_of(to.ip())];
    let sum = words(pseudo.as_flattened()) + words(&tcp) + libc::IPPROTO_TCP as u32 + tcp.len() as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    tcp[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    tcp
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_finds_the_checksum_right() {
        for (from, to) in [("192.0.2.1:443", "198.51.100.9:50000"), ("[2001:db8::1]:443", "[2001:db8::2]:50000")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let tcp = segment(from, to, RST_ACK, 0xdead_beef, 0x1234_5678);
            let pseudo = [bytes_of(from.ip()), bytes_of(to.ip())];
            let mut sum = words(pseudo.as_flattened()) + words(&tcp) + 6 + 20;
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(sum, 0xffff);
            assert_eq!((&tcp[..4], &tcp[12..14]), (&[1, 187, 195, 80][..], &[0x50, 0x14][..]));
        }
    }
}
