//! Reply sockets: what comes through a socket of dispatch is answered from the very address and port it was sent to.
//!
//! Made when an origin answers first, shared by this worker's sessions on one edge port, closed with the last of
//! them. They never receive: dispatch comes before sockets that are not connected, and a port stays claimed while
//! there are sessions on it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use socket2::{Domain, Socket, Type};

use crate::files::Files;

/// A scan over all ports of an origin that answers must not use up the descriptors: beyond, a socket is
/// made for each batch of answers.
const MOST_KEPT: usize = 4_096;
const SEND_BUFFER_BYTES: usize = 4 * 1024 * 1024; // what the kernel grants; no memory before it is used

#[derive(Debug, Default)]
pub struct Replies(HashMap<SocketAddr, Weak<OwnedFd>>);

impl Replies {
    /// A socket that sends from `edge`, and whether it may be kept.
    pub fn socket(&mut self, edge: SocketAddr, client: SocketAddr, files: &Files) -> io::Result<(Arc<OwnedFd>, bool)> {
        if let Some(open) = self.0.get(&edge).and_then(Weak::upgrade) {
            return Ok((open, true));
        }
        let socket = Arc::new(open(scoped(edge, client))?);
        let is_kept = self.0.len() < MOST_KEPT && files.has_room(1);
        if is_kept {
            files.take(1);
            self.0.insert(edge, Arc::downgrade(&socket));
        }
        Ok((socket, is_kept))
    }

    /// A session on `edge` gives its socket back.
    pub fn release(&mut self, edge: SocketAddr, socket: Arc<OwnedFd>, files: &Files) {
        if Arc::strong_count(&socket) == 1 {
            files.give_back(1);
            self.0.remove(&edge);
        }
    }
}

/// A link-local address means something on one interface only: the one that the client is on.
fn scoped(edge: SocketAddr, client: SocketAddr) -> SocketAddr {
    match (edge.ip(), client) {
        (IpAddr::V6(ip), SocketAddr::V6(client)) if ip.is_unicast_link_local() => {
            SocketAddrV6::new(ip, edge.port(), 0, client.scope_id()).into()
        }
        _ => edge,
    }
}

fn open(edge: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(edge), Type::DGRAM.nonblocking().cloexec(), None)?;
    // Every worker, and the process before or after this one, may need the same port.
    socket.set_reuse_address(true)?;
    let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
    let _ = socket.set_recv_buffer_size(1); // the kernel's least
    socket.bind(&edge.into())?;
    Ok(socket.into())
}
