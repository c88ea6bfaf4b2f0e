//! io_uring as its makers would have it: multishot accept and receive, a ring of provided buffers, sockets that
//! live in the ring's own table, socket and connect linked, one system call for a turn of the loop.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, DestinationSlot, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

use crate::Way;

const BUFFERS: u16 = 4096;
const BUFFER_BYTES: usize = 16 * 1024;
const GROUP: u16 = 1;
const MOST_RELAYS: u32 = 4_096;
const REGISTER_FILE_ALLOC_RANGE: libc::c_uint = 25;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Accept,
    Socket,
    Connect,
    Receive,
    Send,
    Shutdown,
    Close,
}

struct Relay {
    client: u32,
    /// What waits for each side, as (buffer, offset, length); the first is on its way where `is_sending`.
    queue: [VecDeque<(u16, u32, u32)>; 2],
    is_sending: [bool; 2],
    is_connected: bool,
    has_ended: [bool; 2],
    has_shut: [bool; 2],
    is_receiving: [bool; 2],
    is_closing: bool,
    /// Requests in flight that name this slot.
    pending: u32,
}

struct Loop<'a> {
    ring: IoUring,
    ways: &'a [Way],
    addresses: Vec<libc::sockaddr_in>,
    relays: Slab<Relay>,
    buffers: Buffers,
    backlog: VecDeque<squeue::Entry>,
}

/// Buffers that the kernel picks from when bytes arrive.
struct Buffers {
    entries: *mut BufRingEntry,
    area: Vec<u8>,
    tail: u16,
}

impl Buffers {
    fn new(ring: &IoUring) -> io::Result<Buffers> {
        let bytes = usize::from(BUFFERS) * size_of::<BufRingEntry>();
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_ANONYMOUS | libc::MAP_PRIVATE);
        // SAFETY: a fresh anonymous mapping.
        let entries = unsafe { libc::mmap(std::ptr::null_mut(), bytes, prot, flags, -1, 0) };
        if entries == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping holds BUFFERS entries and lives as long as the process.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, BUFFERS, GROUP, 0)? };
        let area = vec![0; usize::from(BUFFERS) * BUFFER_BYTES];
        let mut buffers = Buffers { entries: entries.cast(), area, tail: 0 };
        (0..BUFFERS).for_each(|id| buffers.give_back(id));
        Ok(buffers)
    }

    fn at(&mut self, id: u16) -> *mut u8 {
        // SAFETY: `id` is below BUFFERS.
        unsafe { self.area.as_mut_ptr().add(usize::from(id) * BUFFER_BYTES) }
    }

    fn give_back(&mut self, id: u16) {
        let address = self.at(id) as u64;
        // SAFETY: the index is masked to the ring; the tail is published after the entry is written.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(self.tail & (BUFFERS - 1)));
            entry.set_addr(address);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.entries) as *const AtomicU16;
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

pub fn run(ways: &[Way]) -> io::Result<()> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_cqsize(16_384)
        .build(1024)?;
    ring.submitter().register_files_sparse(2 * MOST_RELAYS)?;
    // Accepted sockets take the upper half of the table, those towards origins the slot of their relay.
    let range: [u32; 4] = [MOST_RELAYS, MOST_RELAYS, 0, 0]; // io_uring_file_index_range: offset, length, reserved
    // SAFETY: four readable numbers of that shape.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_FILE_ALLOC_RANGE, range.as_ptr(), 0)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let buffers = Buffers::new(&ring)?;
    let addresses = ways.iter().map(|way| raw_v4(way.origin)).collect();
    let mut it = Loop { ring, ways, addresses, relays: Slab::new(), buffers, backlog: VecDeque::new() };
    (0..ways.len()).for_each(|way| it.accept(way));
    it.serve()
}

fn token(kind: Kind, side: usize, slot: usize) -> u64 {
    (kind as u64) << 56 | (side as u64) << 48 | slot as u64
}

impl Loop<'_> {
    fn serve(&mut self) -> io::Result<()> {
        let mut done = Vec::with_capacity(4096);
        loop {
            self.flush();
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => {}
                Err(error) => return Err(error),
            }
            done.extend(self.ring.completion().map(|cqe| (cqe.user_data(), cqe.result(), cqe.flags())));
            for (user_data, result, flags) in done.drain(..) {
                self.on_completion(user_data, result, flags);
            }
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: what entries point to lives in buffers and addresses that outlive the ring's work.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    fn flush(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: as in `push`.
            while unsafe { self.ring.submission().push(&entry) }.is_err() {
                let _ = self.ring.submit();
            }
        }
    }

    fn accept(&mut self, way: usize) {
        let fd = io_uring::types::Fd(self.ways[way].listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).allocate_file_index(true).build();
        self.push(entry.user_data(token(Kind::Accept, 0, way)));
    }

    fn on_completion(&mut self, user_data: u64, result: i32, flags: u32) {
        let kind = (user_data >> 56) as u8;
        let (side, slot) = ((user_data >> 48 & 1) as usize, (user_data & 0xffff_ffff) as usize);
        if kind == Kind::Close as u8 {
            return;
        }
        if kind == Kind::Accept as u8 {
            if result >= 0 {
                self.on_client(slot, result as u32);
            }
            if !cqueue::more(flags) {
                self.accept(slot);
            }
            return;
        }
        if !cqueue::more(flags) {
            self.relays[slot].pending -= 1;
        }
        match kind {
            k if k == Kind::Receive as u8 => self.on_received(slot, side, result, flags),
            k if k == Kind::Send as u8 => self.on_sent(slot, side, result),
            k if k == Kind::Connect as u8 => self.on_connected(slot, result),
            k if k == Kind::Socket as u8 && result < 0 => self.relays[slot].is_closing = true,
            _ => {}
        }
        self.settle(slot);
    }

    fn file(&self, slot: usize, side: usize) -> Fixed {
        Fixed(if side == 0 { self.relays[slot].client } else { slot as u32 })
    }

    fn on_client(&mut self, way: usize, client: u32) {
        let slot = self.relays.insert(Relay {
            client,
            queue: Default::default(),
            is_sending: [false; 2],
            is_connected: false,
            has_ended: [false; 2],
            has_shut: [false; 2],
            is_receiving: [false; 2],
            is_closing: false,
            pending: 2,
        });
        let place = DestinationSlot::try_from_slot_target(slot as u32).expect("a slot of the table");
        let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).file_index(Some(place)).build();
        self.push(socket.flags(squeue::Flags::IO_LINK).user_data(token(Kind::Socket, 1, slot)));
        let address = (&raw const self.addresses[way]).cast();
        let connect = opcode::Connect::new(Fixed(slot as u32), address, size_of::<libc::sockaddr_in>() as u32).build();
        self.push(connect.user_data(token(Kind::Connect, 1, slot)));
        self.receive(slot, 0);
    }

    fn receive(&mut self, slot: usize, side: usize) {
        self.relays[slot].is_receiving[side] = true;
        self.relays[slot].pending += 1;
        let entry = opcode::RecvMulti::new(self.file(slot, side), GROUP).build();
        self.push(entry.user_data(token(Kind::Receive, side, slot)));
    }

    fn on_connected(&mut self, slot: usize, result: i32) {
        if result < 0 {
            self.relays[slot].is_closing = true;
            return;
        }
        self.relays[slot].is_connected = true;
        self.receive(slot, 1);
        self.send(slot, 1);
    }

    fn on_received(&mut self, slot: usize, side: usize, result: i32, flags: u32) {
        let relay = &mut self.relays[slot];
        if !cqueue::more(flags) {
            relay.is_receiving[side] = false;
        }
        match (result, cqueue::buffer_select(flags)) {
            (n, Some(buffer)) if n > 0 && !relay.is_closing => {
                relay.queue[1 - side].push_back((buffer, 0, n as u32));
                self.send(slot, 1 - side);
            }
            (_, Some(buffer)) => self.buffers.give_back(buffer),
            (0, None) => relay.has_ended[side] = true,
            (error, None) if error == -libc::ENOBUFS => {}
            (_, None) => relay.is_closing = true,
        }
        let relay = &self.relays[slot];
        if !relay.is_receiving[side] && !relay.has_ended[side] && !relay.is_closing {
            self.receive(slot, side);
        }
    }

    fn send(&mut self, slot: usize, to: usize) {
        let relay = &mut self.relays[slot];
        if relay.is_sending[to] || (to == 1 && !relay.is_connected) {
            return;
        }
        let Some(&(buffer, offset, length)) = relay.queue[to].front() else { return };
        relay.is_sending[to] = true;
        relay.pending += 1;
        // SAFETY: offset and length are within the buffer.
        let from = unsafe { self.buffers.at(buffer).add(offset as usize) };
        let entry = opcode::Send::new(self.file(slot, to), from, length).flags(libc::MSG_NOSIGNAL).build();
        self.push(entry.user_data(token(Kind::Send, to, slot)));
    }

    fn on_sent(&mut self, slot: usize, to: usize, result: i32) {
        let relay = &mut self.relays[slot];
        relay.is_sending[to] = false;
        let Some((buffer, offset, length)) = relay.queue[to].pop_front() else { return };
        if result < 0 {
            relay.is_closing = true;
        } else if (result as u32) < length {
            relay.queue[to].push_front((buffer, offset + result as u32, length - result as u32));
            return self.send(slot, to);
        }
        self.buffers.give_back(buffer);
        self.send(slot, to);
    }

    /// Pass ends on, and close once both sides are done and the kernel has answered everything.
    fn settle(&mut self, slot: usize) {
        for from in 0..2 {
            let to = 1 - from;
            let relay = &mut self.relays[slot];
            let is_drained = relay.queue[to].is_empty() && !relay.is_sending[to];
            if relay.has_ended == [true, true] {
                relay.is_closing |= is_drained && relay.queue[from].is_empty() && !relay.is_sending[from];
            } else if relay.has_ended[from] && is_drained && !relay.has_shut[to] && (to == 0 || relay.is_connected) {
                relay.has_shut[to] = true;
                relay.pending += 1;
                let entry = opcode::Shutdown::new(self.file(slot, to), libc::SHUT_WR).build();
                self.push(entry.user_data(token(Kind::Shutdown, to, slot)));
            }
        }
        let relay = &mut self.relays[slot];
        if !relay.is_closing {
            return;
        }
        if relay.pending > 0 {
            // A receive that is still armed ends with the stream.
            for side in 0..2 {
                if self.relays[slot].is_receiving[side] && !self.relays[slot].has_ended[side] {
                    self.relays[slot].has_ended[side] = true;
                    self.relays[slot].pending += 1;
                    let entry = opcode::Shutdown::new(self.file(slot, side), libc::SHUT_RDWR).build();
                    self.push(entry.user_data(token(Kind::Shutdown, side, slot)));
                }
            }
            return;
        }
        let files = [self.file(slot, 0), self.file(slot, 1)];
        let relay = self.relays.remove(slot);
        for (buffer, ..) in relay.queue.into_iter().flatten() {
            self.buffers.give_back(buffer);
        }
        for file in files {
            // Requests are taken in order: the place in the table is free before the next one that names it.
            let entry = opcode::Close::new(file).build().flags(squeue::Flags::SKIP_SUCCESS);
            self.push(entry.user_data(token(Kind::Close, 0, 0)));
        }
    }
}

pub fn raw_v4(address: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(v4) = address else { panic!("IPv4 only") };
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: v4.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
        sin_zero: [0; 8],
    }
}
