//! Control messages of datagram sockets: which address a datagram came to or leaves from, and how it is cut up.
//!
//! One small aligned buffer that is written front to back; what arrives is read within the length the kernel gave.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::{io, ptr};

use libc::{c_int, c_void};

use crate::sys;

/// Room for a packet info and an address of either family and a segment size, with their headers.
const ROOM: usize = 128;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Control {
    bytes: [u8; ROOM],
    len: usize,
}

impl Control {
    pub const fn new() -> Control {
        Control { bytes: [0; ROOM], len: 0 }
    }

    /// Let a datagram leave from `source`; a link-local one through interface `scope`.
    pub fn set_source(&mut self, source: IpAddr, scope: u32) {
        match source {
            IpAddr::V4(v4) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            IpAddr::V6(v6) => {
                let info =
                    libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: v6.octets() }, ipi6_ifindex: scope };
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }

    /// Let the kernel cut one buffer into datagrams of `bytes` (udp(7), `UDP_SEGMENT`).
    pub fn set_segment(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, bytes);
    }

    fn push<T: Copy>(&mut self, level: c_int, kind: c_int, value: T) {
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space, len) = unsafe {
            (libc::CMSG_SPACE(size_of::<T>() as u32) as usize, libc::CMSG_LEN(size_of::<T>() as u32) as usize)
        };
        assert!(self.len + space <= ROOM, "two messages fit");
        let header = libc::cmsghdr { cmsg_len: len, cmsg_level: level, cmsg_type: kind };
        // SAFETY: `space` bytes from `len` are inside the buffer (asserted), which is aligned as CMSG_SPACE rounds.
        unsafe {
            let place = self.bytes.as_mut_ptr().add(self.len).cast::<libc::cmsghdr>();
            ptr::write(place, header);
            ptr::write_unaligned(libc::CMSG_DATA(place).cast::<T>(), value);
        }
        self.len += space;
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// For the kernel to read, or to write up to [`Control::room`] bytes.
    pub fn as_mut_ptr(&mut self) -> *mut c_void {
        self.bytes.as_mut_ptr().cast()
    }

    pub const fn room() -> usize {
        ROOM
    }

    /// Of what size the datagrams are that the kernel has put into one message (udp(7), `UDP_GRO`), out of `len` bytes.
    pub fn segment(&self, len: usize) -> Option<usize> {
        // SAFETY: all zeroes is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_control = self.bytes.as_ptr().cast_mut().cast();
        header.msg_controllen = len.min(ROOM);
        // SAFETY: as in `destination`.
        unsafe {
            let mut place = libc::CMSG_FIRSTHDR(&raw const header);
            while !place.is_null() {
                let message = ptr::read_unaligned(place);
                if (message.cmsg_level, message.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO)
                    && message.cmsg_len >= libc::CMSG_LEN(size_of::<c_int>() as u32) as usize
                {
                    let bytes = ptr::read_unaligned(libc::CMSG_DATA(place).cast::<c_int>());
                    return usize::try_from(bytes).ok().filter(|bytes| *bytes > 0);
                }
                place = libc::CMSG_NXTHDR(&raw const header, place);
            }
        }
        None
    }

    /// The local address that a datagram was sent to, out of `len` bytes that the kernel wrote. Its port is 0 where
    /// the socket, which has only one, does not tell it.
    pub fn destination(&self, len: usize) -> Option<SocketAddr> {
        // SAFETY: all zeroes is a valid msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_control = self.bytes.as_ptr().cast_mut().cast();
        header.msg_controllen = len.min(ROOM);
        // SAFETY: FIRSTHDR and NXTHDR stay inside the buffer described; a payload is read only if the
        // message's own length covers it.
        unsafe {
            let mut place = libc::CMSG_FIRSTHDR(&raw const header);
            while !place.is_null() {
                let message = ptr::read_unaligned(place);
                let holds = |size: usize| message.cmsg_len >= libc::CMSG_LEN(size as u32) as usize;
                match (message.cmsg_level, message.cmsg_type) {
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) if holds(size_of::<libc::in_pktinfo>()) => {
                        let info = ptr::read_unaligned(libc::CMSG_DATA(place).cast::<libc::in_pktinfo>());
                        // Queued before the option was set: then only the header's address is known.
                        let specific = Some(info.ipi_spec_dst.s_addr).filter(|address| *address != 0);
                        let address = specific.unwrap_or(info.ipi_addr.s_addr);
                        return Some((Ipv4Addr::from(address.to_ne_bytes()), 0).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if holds(size_of::<libc::in6_pktinfo>()) => {
                        let info = ptr::read_unaligned(libc::CMSG_DATA(place).cast::<libc::in6_pktinfo>());
                        return Some((Ipv6Addr::from(info.ipi6_addr.s6_addr), 0).into());
                    }
                    (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) if holds(size_of::<libc::sockaddr_in>()) => {
                        let name = ptr::read_unaligned(libc::CMSG_DATA(place).cast::<libc::sockaddr_in>());
                        let address = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
                        return Some((address, u16::from_be(name.sin_port)).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR) if holds(size_of::<libc::sockaddr_in6>()) => {
                        let name = ptr::read_unaligned(libc::CMSG_DATA(place).cast::<libc::sockaddr_in6>());
                        return Some((Ipv6Addr::from(name.sin6_addr.s6_addr), u16::from_be(name.sin6_port)).into());
                    }
                    _ => place = libc::CMSG_NXTHDR(&raw const header, place),
                }
            }
        }
        None
    }
}

/// Let the kernel hand over neighbours of one flow and size as one message, where it has met them so. Kernels before
/// Linux 5.0 do not know it and hand over each by itself.
pub fn receive_together(fd: RawFd) {
    let _ = sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, &1i32);
}

/// Ask the kernel to tell the destination of each datagram.
pub fn tell_destination(fd: RawFd, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, &1i32)
    } else {
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &1i32)
    }
}

/// Ask the kernel to tell address and port: for a socket that gets datagrams of many ports.
pub fn tell_destination_and_port(fd: RawFd, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_ORIGDSTADDR, &1i32)
    } else {
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR, &1i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_written_is_the_address_read() {
        for address in ["192.0.2.7", "2001:db8::7"] {
            let address: IpAddr = address.parse().unwrap();
            let mut control = Control::new();
            control.set_source(address, 0);
            let len = control.len();
            assert_eq!(control.destination(len), Some((address, 0).into()));
            control.set_segment(1200);
            assert_eq!(control.destination(control.len()), Some((address, 0).into()));
        }
    }

    #[test]
    fn nothing_is_read_past_the_length_the_kernel_gave() {
        let mut control = Control::new();
        control.set_source("192.0.2.7".parse().unwrap(), 0);
        for len in 0..size_of::<libc::cmsghdr>() {
            assert_eq!(control.destination(len), None);
        }
        assert_eq!(Control::new().destination(ROOM), None);
        assert_eq!(Control::new().destination(usize::MAX), None);
    }
}
