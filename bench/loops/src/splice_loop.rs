//! A relay that always splices: one pipe a direction, filled and emptied as far as they go at each notice.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use slab::Slab;

use crate::Way;
use crate::epoll_loop::{EDGE, LISTENER, ORIGIN, add, connect, own};

const PIPE_BYTES: libc::c_int = 1 << 20;

struct Direction {
    pipe: [OwnedFd; 2],
    held: usize,
    has_read_end: bool,
    has_sent_end: bool,
}

struct Relay {
    fds: [OwnedFd; 2],
    ways: [Direction; 2],
}

pub fn run(ways: &[Way]) -> io::Result<()> {
    // SAFETY: no pointers; the result is checked.
    let epoll = own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    for (index, way) in ways.iter().enumerate() {
        add(&epoll, way.listener.as_raw_fd(), libc::EPOLLIN as u32, LISTENER | index as u64)?;
    }
    let mut relays: Slab<Relay> = Slab::new();
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
            let slot = (token & 0xffff_ffff) as usize;
            let Some(relay) = relays.get_mut(slot) else { continue };
            let failed = one_way(relay, 0).is_err() || one_way(relay, 1).is_err();
            if failed || relay.ways.iter().all(|way| way.has_sent_end) {
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
        let fds = [client, origin];
        let raw: [RawFd; 2] = [fds[0].as_raw_fd(), fds[1].as_raw_fd()];
        let slot = relays.insert(Relay { fds, ways: [new_way()?, new_way()?] });
        add(epoll, raw[1], EDGE | libc::EPOLLOUT as u32, ORIGIN | slot as u64)?;
        add(epoll, raw[0], EDGE | libc::EPOLLOUT as u32, slot as u64)?;
    }
}

fn new_way() -> io::Result<Direction> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    own_ok(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
    // SAFETY: just made.
    let pipe = unsafe { [OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])] };
    // SAFETY: no pointers. Less room is fine too.
    unsafe { libc::fcntl(ends[1], libc::F_SETPIPE_SZ, PIPE_BYTES) };
    Ok(Direction { pipe, held: 0, has_read_end: false, has_sent_end: false })
}

fn one_way(relay: &mut Relay, from: usize) -> io::Result<()> {
    let (source, target) = (relay.fds[from].as_raw_fd(), relay.fds[1 - from].as_raw_fd());
    let way = &mut relay.ways[from];
    loop {
        if way.held > 0 {
            match splice(way.pipe[0].as_raw_fd(), target, way.held)? {
                None => return Ok(()),
                Some(n) => way.held -= n,
            }
            continue;
        }
        if way.has_read_end {
            if !way.has_sent_end {
                way.has_sent_end = true;
                // SAFETY: no pointers.
                unsafe { libc::shutdown(target, libc::SHUT_WR) };
            }
            return Ok(());
        }
        match splice(source, way.pipe[1].as_raw_fd(), PIPE_BYTES as usize)? {
            None => return Ok(()),
            Some(0) => way.has_read_end = true,
            Some(n) => way.held = n,
        }
    }
}

fn splice(from: RawFd, to: RawFd, most: usize) -> io::Result<Option<usize>> {
    let none = std::ptr::null_mut();
    // SAFETY: no offsets.
    let n = unsafe { libc::splice(from, none, to, none, most, libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK) };
    if n >= 0 {
        return Ok(Some(n as usize));
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOTCONN)) => Ok(None),
        error => Err(error),
    }
}

fn own_ok(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
