//! Two-way sessions of the engine, told to the program: their datagrams are of something that is open.
//!
//! Whoever has a session tells of it and takes it back. What a process or a worker that is gone has left is swept by
//! whoever knows who is there. It knows nothing of sessions but their ends.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::shared::{RawEnds4, RawEnds6};
use crate::call;

/// Of one call: whole buckets, so that it must be more than a bucket ever holds.
const LOOK: usize = 4096;

#[derive(Debug)]
pub struct Sessions {
    v4: OwnedFd,
    v6: OwnedFd,
}

enum Ends {
    V4(RawEnds4),
    V6(RawEnds6),
}

impl Ends {
    /// None: of two families.
    fn of(client: SocketAddr, edge: SocketAddr) -> Option<Ends> {
        let (source_port, destination_port) = (client.port().to_be_bytes(), edge.port().to_be_bytes());
        match (client.ip().to_canonical(), edge.ip().to_canonical()) {
            (IpAddr::V4(client), IpAddr::V4(edge)) => {
                let (source, destination) = (client.octets(), edge.octets());
                Some(Ends::V4(RawEnds4 { source, destination, source_port, destination_port }))
            }
            (IpAddr::V6(client), IpAddr::V6(edge)) => {
                let (source, destination) = (client.octets(), edge.octets());
                Some(Ends::V6(RawEnds6 { source, destination, source_port, destination_port }))
            }
            _ => None,
        }
    }
}

impl Sessions {
    pub(super) fn new(v4: BorrowedFd<'_>, v6: BorrowedFd<'_>) -> io::Result<Sessions> {
        Ok(Sessions { v4: v4.try_clone_to_owned()?, v6: v6.try_clone_to_owned()? })
    }

    /// A session of `teller`. Known already, whoever told: it is this one's from now on.
    ///
    /// # Errors
    /// The kernel's; `E2BIG` if there is no room. It looks like a stranger then.
    pub fn add(&self, client: SocketAddr, edge: SocketAddr, teller: u64) -> io::Result<()> {
        match Ends::of(client, edge) {
            Some(Ends::V4(ends)) => call::update(self.v4.as_fd(), &ends, &teller),
            Some(Ends::V6(ends)) => call::update(self.v6.as_fd(), &ends, &teller),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// It has ended. Not known: fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, client: SocketAddr, edge: SocketAddr) -> io::Result<()> {
        match Ends::of(client, edge) {
            Some(Ends::V4(ends)) => call::delete(self.v4.as_fd(), &ends),
            Some(Ends::V6(ends)) => call::delete(self.v6.as_fd(), &ends),
            None => Ok(()),
        }
    }

    /// Take out all that `is_left` says of their tellers; answers how many stay.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sweep(&self, is_left: impl Fn(u64) -> bool) -> io::Result<usize> {
        let v4 = sweep(self.v4.as_fd(), RawEnds4::default(), &is_left)?;
        Ok(v4 + sweep(self.v6.as_fd(), RawEnds6::default(), &is_left)?)
    }
}

fn sweep<K: Copy>(map: BorrowedFd<'_>, room: K, is_left: impl Fn(u64) -> bool) -> io::Result<usize> {
    let (mut keys, mut tellers) = (vec![room; LOOK], vec![0u64; LOOK]);
    let (mut from, mut staying) = (None, 0);
    loop {
        let (count, next) = call::entries(map, from, &mut keys, &mut tellers)?;
        for (key, teller) in keys.iter().zip(&tellers).take(count) {
            match is_left(*teller) {
                true => call::delete(map, key)?,
                false => staying += 1,
            }
        }
        match next {
            Some(_) => from = next,
            None => return Ok(staying),
        }
    }
}
