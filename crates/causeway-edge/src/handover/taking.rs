//! The new side: it asks for everything, believes nothing that it can look up, and has all before it begins.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Weak};

use causeway_bpf::Parts;

use super::*;
use crate::sockets::Shared;
use crate::sys;
use crate::udp::Adopted;
use crate::worker::{Step, Worker};

/// Flows that the old side may still begin after it was asked for its count.
const FLOWS_AHEAD: u64 = 1 << 20;

/// First message of the new side.
pub fn ask_offer(link: &Link) -> Result<Offer, EdgeError> {
    match ask(link, Ask::Offer { format: FORMAT })? {
        (Tell::Offer(offer), _) if !(1..=256).contains(&offer.workers) => {
            Err(failed(format!("it has {} workers", offer.workers)))
        }
        (Tell::Offer(offer), _) => Ok(offer),
        (other, _) => Err(unexpected(&other)),
    }
}

pub fn receive_estate(link: &Link, offer: &Offer, most_snapshot_bytes: usize) -> Result<Estate, EdgeError> {
    if offer.snapshot_bytes > most_snapshot_bytes {
        return Err(failed(format!("its snapshot has {} bytes", offer.snapshot_bytes)));
    }
    let mut estate = Estate::default();
    let mut sockets: HashMap<(Place, bool), Vec<OwnedFd>> = HashMap::new();
    loop {
        let message = exchange(link, Ask::Next)?;
        if message.kind == SNAPSHOT {
            estate.snapshot.extend(message.body);
            if estate.snapshot.len() > offer.snapshot_bytes {
                return Err(failed("more snapshot came than was announced"));
            }
            continue;
        }
        match read::<Tell>(&message)? {
            Tell::Counted { totals } => estate.counted.extend(totals),
            Tell::Sockets { places } => {
                for (held, fd) in pairs(places, message.fds)? {
                    let place = Place { protocol: held.protocol, address: held.address };
                    check_listener(&fd, place)?;
                    let fds = sockets.entry((place, held.is_base)).or_default();
                    if held.worker != fds.len() || held.worker >= offer.workers {
                        return Err(failed(format!("the sockets of {} are out of order", place.address)));
                    }
                    fds.push(fd);
                }
            }
            Tell::Dispatch => estate.dispatch = Some(dispatch(message.fds)?),
            Tell::End => break,
            other => return Err(unexpected(&other)),
        }
    }
    if estate.snapshot.len() != offer.snapshot_bytes {
        return Err(failed("less snapshot came than was announced"));
    }
    for ((place, is_base), fds) in sockets {
        if fds.len() != offer.workers {
            return Err(failed(format!("{} sockets of {} for {} workers", fds.len(), place.address, offer.workers)));
        }
        if is_base {
            estate.bases.push((place, Shared::inherited(fds)));
        } else {
            estate.sockets.insert(place, Shared::inherited(fds));
        }
    }
    if !estate.bases.is_empty() && estate.dispatch.is_none() {
        return Err(failed("sockets of dispatch came without it"));
    }
    Ok(estate)
}

fn dispatch(fds: Vec<OwnedFd>) -> Result<Dispatch, EdgeError> {
    let count = fds.len();
    let [program, link, ports, sockets, verdicts] =
        <[OwnedFd; 5]>::try_from(fds).map_err(|_| failed(format!("{count} descriptors came for dispatch")))?;
    Ok(Dispatch::from_parts(Parts { program, link, ports, sockets, verdicts }))
}

/// Have the old side's UDP rest, and give its sessions to our workers, which are held too.
pub fn receive_sessions(link: &Link, workers: &[Worker]) -> Result<(), EdgeError> {
    let flows = match ask(link, Ask::Hold)? {
        (Tell::Held { flows }, _) => flows.saturating_add(FLOWS_AHEAD),
        (other, _) => return Err(unexpected(&other)),
    };
    let mut pending = Vec::new();
    loop {
        let (told, fds) = ask(link, Ask::Next)?;
        let sessions = match told {
            Tell::Sessions { sessions } => sessions,
            Tell::End => break,
            other => return Err(unexpected(&other)),
        };
        let mut shares: Vec<Vec<Adopted>> = workers.iter().map(|_| Vec::new()).collect();
        for (moved, socket) in pairs(sessions, fds)? {
            check_session(&socket, &moved)?;
            let share = shares.get_mut(moved.worker).ok_or_else(|| failed("a session of no worker"))?;
            share.push(Adopted { moved, socket });
        }
        for (worker, sessions) in workers.iter().zip(shares) {
            pending.push(worker.submit(vec![Step::Adopt { sessions, flows }]));
        }
    }
    pending.into_iter().for_each(|answer| drop(answer.wait()));
    Ok(())
}

/// Nothing is missing; from the answer on, it is ours to serve.
pub fn ask_to_go(link: &Link) -> Result<(), EdgeError> {
    match ask(link, Ask::Ready)? {
        (Tell::Go, _) => Ok(()),
        (other, _) => Err(unexpected(&other)),
    }
}

pub fn say_serving(link: &Link) -> Result<(), EdgeError> {
    send(link, &Ask::Serving, &[])
}

fn check_listener(fd: &OwnedFd, place: Place) -> Result<(), EdgeError> {
    let raw = fd.as_raw_fd();
    let kind = sys::option(raw, libc::SOL_SOCKET, libc::SO_TYPE).map_err(no_socket)?;
    let is_listening = sys::option(raw, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).map_err(no_socket)? == 1;
    let is_right = match place.protocol {
        Protocol::Tcp => kind == libc::SOCK_STREAM && is_listening,
        Protocol::Udp => kind == libc::SOCK_DGRAM,
    };
    if is_right && is_same(sys::local_address(raw).map_err(no_socket)?, place.address) {
        return Ok(());
    }
    Err(failed(format!("what came as the socket of {} is another one", place.address)))
}

fn check_session(fd: &OwnedFd, moved: &Moved) -> Result<(), EdgeError> {
    let raw = fd.as_raw_fd();
    let kind = sys::option(raw, libc::SOL_SOCKET, libc::SO_TYPE).map_err(no_socket)?;
    if kind == libc::SOCK_DGRAM && is_same(sys::peer_address(raw).map_err(no_socket)?, moved.origin) {
        return Ok(());
    }
    Err(failed(format!("what came as the socket towards {} is another one", moved.origin)))
}

/// The kernel may say more of an IPv6 address than we do.
fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    (a.ip(), a.port()) == (b.ip(), b.port())
}

fn no_socket(error: io::Error) -> EdgeError {
    failed(format!("what came as a socket is none: {error}"))
}

/// Entries and their descriptors.
fn pairs<T>(entries: Vec<T>, fds: Vec<OwnedFd>) -> Result<impl Iterator<Item = (T, OwnedFd)>, EdgeError> {
    if entries.len() != fds.len() {
        return Err(failed(format!("{} descriptors came for {} sockets", fds.len(), entries.len())));
    }
    Ok(entries.into_iter().zip(fds))
}

/// The sockets as `Running` keeps them: weakly, for whoever wants the place.
pub fn weakly(sockets: &HashMap<Place, Sockets>) -> HashMap<Place, Weak<Shared>> {
    sockets.iter().map(|(place, sockets)| (*place, Arc::downgrade(sockets))).collect()
}
