//! UDP echo on one address: a batch in, the same batch out, each datagram to whom it came from.
use crate::sys::{self, Batch, would_block};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

pub struct Echo {
    socket: UdpSocket,
    batch: Batch,
}

impl Echo {
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(sys::only_v4(address)?)?;
        socket.set_nonblocking(true)?;
        sys::widen_buffers(socket.as_raw_fd());
        Ok(Self { socket, batch: Batch::new(64) })
    }

    pub fn turn(&mut self) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        let sent = self.batch.receive(fd).and_then(|count| self.batch.send(fd, count, true));
        match sent {
            Ok(_) => Ok(()),
            // A client that has gone, or a proxy that closed its side: its own loss.
            Err(error) if would_block(&error) || error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for Echo {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
