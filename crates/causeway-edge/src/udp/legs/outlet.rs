//! A socket of QUIC packets: many in one call, either way.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Socket, Type};

use crate::sockets::Sockets;
use crate::sys;
use crate::worker::Desk;

/// Messages of one receive, each of which may hold many packets.
const ROOMS: usize = 8;
const ROOM_BYTES: usize = 65_536;
const BUFFER_BYTES: usize = 4 * 1024 * 1024; // what the kernel grants; no memory before it is used

pub struct Outlet {
    socket: Owner,
    state: UdpSocketState,
}

enum Owner {
    /// One of those that all workers listen with.
    Shared(Sockets, usize),
    Own(OwnedFd),
}

impl AsFd for Owner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Owner::Shared(sockets, worker) => sockets.fds[*worker].as_fd(),
            Owner::Own(fd) => fd.as_fd(),
        }
    }
}

impl Outlet {
    pub fn shared(sockets: Sockets, worker: usize) -> io::Result<Outlet> {
        if sockets.fds.len() <= worker {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = Owner::Shared(sockets, worker);
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Outlet { socket, state })
    }

    /// For connections that this edge opens.
    pub fn new(desk: &mut Desk, is_ipv4: bool, token: u64) -> io::Result<Outlet> {
        let domain = if is_ipv4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), None)?;
        let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(BUFFER_BYTES);
        let any = if is_ipv4 { "0.0.0.0:0" } else { "[::]:0" };
        let any: std::net::SocketAddr = any.parse().map_err(io::Error::other)?;
        socket.bind(&any.into())?;
        let socket = Owner::Own(socket.into());
        let state = UdpSocketState::new((&socket).into())?;
        let outlet = Outlet { socket, state };
        desk.epoll.add(outlet.raw(), sys::IN, token)?;
        Ok(outlet)
    }

    pub fn raw(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }

    pub fn most_together(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// What the socket does not take now is lost, as on the way: QUIC says again what has to be.
    pub fn send(&self, transmit: &quinn_proto::Transmit, bytes: &[u8]) {
        let transmit = Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8)),
            contents: &bytes[..transmit.size.min(bytes.len())],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let _ = self.state.send((&self.socket).into(), &transmit);
    }
}

/// Where packets are received. Has its room when it is needed first.
#[derive(Default)]
pub struct Area {
    bytes: Vec<u8>,
}

impl Area {
    /// What waits: of whom, and its bytes, which may be several packets.
    pub fn receive<'a>(&'a mut self, outlet: &Outlet) -> impl Iterator<Item = (RecvMeta, &'a [u8])> + use<'a> {
        self.bytes.resize(ROOMS * ROOM_BYTES, 0);
        let mut metas = [RecvMeta::default(); ROOMS];
        let mut rooms = self.bytes.chunks_exact_mut(ROOM_BYTES);
        let mut slices: [IoSliceMut<'_>; ROOMS] =
            std::array::from_fn(|_| IoSliceMut::new(rooms.next().unwrap_or_default()));
        let count = outlet.state.recv((&outlet.socket).into(), &mut slices, &mut metas).unwrap_or(0);
        let rooms = self.bytes.chunks_exact(ROOM_BYTES);
        metas.into_iter().zip(rooms).take(count).map(|(meta, room)| (meta, &room[..meta.len.min(ROOM_BYTES)]))
    }
}
