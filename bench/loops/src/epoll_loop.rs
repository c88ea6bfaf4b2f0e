//! One edge-triggered epoll instance, one buffer, a slab of connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use slab::Slab;

use crate::Way;
use crate::uring_loop::raw_v4;

pub const LISTENER: u64 = 1 << 40;
pub const ORIGIN: u64 = 1 << 41;
pub const EDGE: u32 = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;

struct Relay {
    fds: [OwnedFd; 2], // client, origin
    has_ended: [bool; 2],
    /// An end waits behind what is still to be read.
    is_ending: [bool; 2],
    /// Bytes that `fds[i]` has not taken yet.
    held: [Vec<u8>; 2],
}

pub fn run(ways: &[Way]) -> io::Result<()> {
    // SAFETY: no pointers; the result is checked.
    let epoll = own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    for (index, way) in ways.iter().enumerate() {
        add(&epoll, way.listener.as_raw_fd(), libc::EPOLLIN as u32, LISTENER | index as u64)?;
    }
    let mut relays: Slab<Relay> = Slab::new();
    let mut buffer = vec![0u8; 65_536];
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
    let mut closed = Vec::new();
    loop {
        // SAFETY: pointer and length describe `events`.
        let n = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, -1) };
        for event in &events[..n.max(0) as usize] {
            let token = event.u64;
            if token & LISTENER != 0 {
                accept(&epoll, &ways[(token & 0xffff) as usize], &mut relays)?;
                continue;
            }
            let (slot, side) = ((token & 0xffff_ffff) as usize, usize::from(token & ORIGIN != 0));
            let Some(relay) = relays.get_mut(slot) else { continue };
            relay.is_ending[side] |= event.events & libc::EPOLLRDHUP as u32 != 0;
            if pump(relay, side, &mut buffer).is_err() || relay.has_ended == [true, true] {
                closed.push(slot);
            }
        }
        closed.sort_unstable();
        closed.dedup();
        closed.drain(..).for_each(|slot| drop(relays.remove(slot)));
    }
}

fn accept(epoll: &OwnedFd, way: &Way, relays: &mut Slab<Relay>) -> io::Result<()> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    loop {
        // SAFETY: null address is allowed.
        let client =
            unsafe { libc::accept4(way.listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) };
        let Ok(client) = own(client) else { return Ok(()) };
        let origin = connect(way.origin)?;
        let (client_fd, origin_fd) = (client.as_raw_fd(), origin.as_raw_fd());
        let slot = relays.insert(Relay {
            fds: [client, origin],
            has_ended: [false; 2],
            is_ending: [false; 2],
            held: Default::default(),
        });
        // The client's bytes wait until the origin is there: its notice of writability starts them.
        add(epoll, origin_fd, EDGE | libc::EPOLLOUT as u32, ORIGIN | slot as u64)?;
        add(epoll, client_fd, EDGE | libc::EPOLLOUT as u32, slot as u64)?;
    }
}

pub fn connect(to: SocketAddr) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let origin = own(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0) })?;
    let address = raw_v4(to);
    // SAFETY: the address is a sockaddr_in of this length. The failure shows in the next call on the socket.
    unsafe { libc::connect(origin.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_in>() as u32) };
    Ok(origin)
}

/// Both ways, for a notice tells of either: bytes to read here, room for what came from there.
fn pump(relay: &mut Relay, side: usize, buffer: &mut [u8]) -> io::Result<()> {
    if !relay.held[side].is_empty() {
        one_way(relay, 1 - side, buffer)?;
    }
    one_way(relay, side, buffer)?;
    one_way(relay, 1 - side, buffer)
}

fn one_way(relay: &mut Relay, from: usize, buffer: &mut [u8]) -> io::Result<()> {
    let to = 1 - from;
    loop {
        if !relay.held[to].is_empty() {
            let held = std::mem::take(&mut relay.held[to]);
            if !send(relay, to, &held)? {
                return Ok(());
            }
        }
        if relay.has_ended[from] {
            return Ok(());
        }
        // SAFETY: pointer and length describe `buffer`.
        let n = unsafe { libc::recv(relay.fds[from].as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        match n {
            0 => {
                relay.has_ended[from] = true;
                // SAFETY: no pointers.
                unsafe { libc::shutdown(relay.fds[to].as_raw_fd(), libc::SHUT_WR) };
                return Ok(());
            }
            n if n > 0 => {
                let n = n as usize;
                if !send(relay, to, &buffer[..n])? {
                    return Ok(());
                }
                if n < buffer.len() && !relay.is_ending[from] {
                    return Ok(()); // the rest comes with a notice of its own
                }
            }
            _ => return blocked(),
        }
    }
}

/// True if all went out.
fn send(relay: &mut Relay, to: usize, bytes: &[u8]) -> io::Result<bool> {
    // SAFETY: pointer and length describe `bytes`.
    let n = unsafe { libc::send(relay.fds[to].as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    if n < 0 {
        blocked()?;
    }
    let sent = n.max(0) as usize;
    relay.held[to] = bytes[sent..].to_vec();
    Ok(sent == bytes.len())
}

fn blocked() -> io::Result<()> {
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOTCONN)) => Ok(()),
        error => Err(error),
    }
}

pub fn add(epoll: &OwnedFd, fd: RawFd, interest: u32, token: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events: interest, u64: token };
    // SAFETY: `event` lives through the call.
    own_zero(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })
}

fn own_zero(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub fn own(fd: i32) -> io::Result<OwnedFd> {
    own_zero(fd)?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
