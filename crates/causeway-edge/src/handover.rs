//! One edge takes over from another: sockets, the running snapshot, counts and UDP sessions, over one socket pair.
//!
//! The new side asks, the old side answers, one message each, so that neither can flood the other. Until the new side
//! says that it serves, the old one has given up nothing: its TCP listeners go on, its UDP only rests, and whatever
//! goes wrong it goes on with both. TCP connections stay with the old side, which drains them.
//!
//! ```text
//! new                            old
//! Offer{format}            ->    Offer{...}
//! Next ...                 ->    snapshot parts, Counted, Sockets + descriptors, Dispatch + descriptors, End
//! Hold                     ->    Held              UDP of the old side rests
//! Next ...                 ->    Sessions + descriptors, End
//! Ready                    ->    Go                nothing is missing
//! Serving                  ->                      the old side lets go
//! ```

mod link;

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use causeway_bpf::{Dispatch, Parts};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::apply::Running;
use crate::count::Totals;
use crate::error::EdgeError;
use crate::snapshot::Protocol;
use crate::sockets::{Shared, Sockets};
use crate::sys;
use crate::udp::{Adopted, Moved, Shown};
use crate::worker::{Place, Step, Worker};
pub use link::Link;
use link::{MOST_FDS, Message};

/// What both sides must speak. A change of meaning gets a new number; unknown fields are passed over.
const FORMAT: u32 = 1;
const SNAPSHOT_PART_BYTES: usize = 100_000;
/// So many that a message stays within its bounds whatever their addresses and counts are.
const COUNTED_PER_MESSAGE: usize = 150;
const SESSIONS_PER_MESSAGE: usize = 150;
/// Flows that the old side may still begin after it was asked for its count.
const FLOWS_AHEAD: u64 = 1 << 20;
/// A worker that does not answer in this time is hung, and so is the hand-over.
const WORKER_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

const JSON: u8 = b'J';
const SNAPSHOT: u8 = b'S';

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Ask {
    Offer { format: u32 },
    Next,
    Hold,
    Ready,
    Serving,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "snake_case")]
enum Tell {
    Offer(Offer),
    /// Counts of applications, by id.
    Counted {
        totals: Vec<(String, Totals)>,
    },
    /// One descriptor for each, in order.
    Sockets {
        places: Vec<Held>,
    },
    /// The kernel's side of dispatch: program, link, ports, sockets, verdicts.
    Dispatch,
    Sessions {
        sessions: Vec<Moved>,
    },
    Held {
        flows: u64,
    },
    End,
    Go,
    Refused {
        why: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Offer {
    format: u32,
    pub workers: usize,
    /// The engine's clock, which goes on.
    pub now_ms: u64,
    pub snapshot_bytes: usize,
    pub retired: Totals,
}

#[derive(Debug, Serialize, Deserialize)]
struct Held {
    protocol: Protocol,
    address: SocketAddr,
    worker: usize,
    /// It gets the flows of dispatch.
    is_base: bool,
}

/// What the new side has before anything rests.
#[derive(Debug, Default)]
pub struct Estate {
    pub snapshot: Vec<u8>,
    pub counted: HashMap<String, Totals>,
    pub sockets: HashMap<Place, Sockets>,
    pub bases: Vec<(Place, Sockets)>,
    pub dispatch: Option<Dispatch>,
}

// ---- the new side ----

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

// ---- the old side ----

/// What the old side gives away.
#[derive(Debug)]
pub struct Holdings<'a> {
    pub running: &'a Running,
    pub snapshot: &'a [u8],
    pub workers: &'a [Worker],
    pub now_ms: u64,
}

impl Holdings<'_> {
    /// Answer until the new side serves; answers how many sessions went. The caller lets go then, or goes on after
    /// an error, at any point: `Step::GoOn` is right whether or not UDP rests.
    pub fn give(&self, link: &Link) -> Result<usize, EdgeError> {
        match listen(link)? {
            Ask::Offer { format: FORMAT } => {}
            Ask::Offer { format } => {
                let why = format!("the new version speaks format {format} of the hand-over, the running one {FORMAT}");
                send(link, &Tell::Refused { why: why.clone() }, &[])?;
                return Err(failed(why));
            }
            other => return Err(out_of_turn(other)),
        }
        let offer = Offer {
            format: FORMAT,
            workers: self.workers.len(),
            now_ms: self.now_ms,
            snapshot_bytes: self.snapshot.len(),
            retired: self.running.retired(),
        };
        send(link, &Tell::Offer(offer), &[])?;
        self.give_estate(link)?;
        expect(link, Ask::Hold)?;
        let shown = self.hold_and_show()?;
        let flows = shown.iter().map(|shown| shown.flows).max().unwrap_or_default();
        send(link, &Tell::Held { flows }, &[])?;
        let sessions: Vec<&(Moved, RawFd)> = shown.iter().flat_map(|shown| &shown.sessions).collect();
        for part in sessions.chunks(SESSIONS_PER_MESSAGE) {
            expect(link, Ask::Next)?;
            let fds: Vec<RawFd> = part.iter().map(|(_, fd)| *fd).collect();
            send(link, &Tell::Sessions { sessions: part.iter().map(|(moved, _)| moved.clone()).collect() }, &fds)?;
        }
        expect(link, Ask::Next)?;
        send(link, &Tell::End, &[])?;
        expect(link, Ask::Ready)?;
        send(link, &Tell::Go, &[])?;
        expect(link, Ask::Serving)?;
        Ok(sessions.len())
    }

    fn give_estate(&self, link: &Link) -> Result<(), EdgeError> {
        for part in self.snapshot.chunks(SNAPSHOT_PART_BYTES) {
            expect(link, Ask::Next)?;
            link.send(SNAPSHOT, part, &[]).map_err(broken)?;
        }
        let totals: Vec<(String, Totals)> = self
            .running
            .applications()
            .map(|(id, totals)| (id.to_string(), Totals { connections_open: 0, ..totals }))
            .collect();
        for part in totals.chunks(COUNTED_PER_MESSAGE) {
            expect(link, Ask::Next)?;
            send(link, &Tell::Counted { totals: part.to_vec() }, &[])?;
        }
        let dispatching = &self.running.dispatching;
        let bases: Vec<(Place, Sockets)> = dispatching.bases().map(|(_, place, sockets)| (place, sockets)).collect();
        let is_base = |place: &Place| bases.iter().any(|(base, _)| base == place);
        let bound = self.running.places().into_iter().filter(|place| !is_base(place));
        let bound = bound.filter_map(|place| Some((place, self.running.sockets.get(&place)?.upgrade()?, false)));
        let held: Vec<(Place, Sockets, bool)> =
            bound.chain(bases.iter().map(|(place, sockets)| (*place, sockets.clone(), true))).collect();
        let entries: Vec<(Held, RawFd)> = held
            .iter()
            .flat_map(|(place, sockets, is_base)| {
                let entry = |(worker, fd): (usize, &OwnedFd)| {
                    let Place { protocol, address } = *place;
                    (Held { protocol, address, worker, is_base: *is_base }, fd.as_raw_fd())
                };
                sockets.fds.iter().enumerate().map(entry)
            })
            .collect();
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let (places, fds): (Vec<Held>, Vec<RawFd>) = entries.by_ref().take(MOST_FDS).unzip();
            expect(link, Ask::Next)?;
            send(link, &Tell::Sockets { places }, &fds)?;
        }
        if let Some(kernel) = dispatching.kernel() {
            let Parts { program, link: at, ports, sockets, verdicts } = kernel.parts();
            expect(link, Ask::Next)?;
            send(link, &Tell::Dispatch, &[program, at, ports, sockets, verdicts].map(AsRawFd::as_raw_fd))?;
        }
        expect(link, Ask::Next)?;
        send(link, &Tell::End, &[])
    }

    fn hold_and_show(&self) -> Result<Vec<Shown>, EdgeError> {
        let pending: Vec<_> = self
            .workers
            .iter()
            .map(|worker| {
                let (answer, shown) = sync_channel(1);
                drop(worker.submit(vec![Step::Hold, Step::ShowSessions(answer)]));
                shown
            })
            .collect();
        pending
            .into_iter()
            .map(|shown| shown.recv_timeout(WORKER_ANSWERS_WITHIN).map_err(|_| failed("a worker hangs")))
            .collect()
    }
}

// ---- both ----

fn ask(link: &Link, question: Ask) -> Result<(Tell, Vec<OwnedFd>), EdgeError> {
    let message = exchange(link, question)?;
    let told = read(&message)?;
    Ok((told, message.fds))
}

fn exchange(link: &Link, question: Ask) -> Result<Message, EdgeError> {
    send(link, &question, &[])?;
    link.receive().map_err(broken)
}

fn listen(link: &Link) -> Result<Ask, EdgeError> {
    read(&link.receive().map_err(broken)?)
}

fn expect(link: &Link, wanted: Ask) -> Result<(), EdgeError> {
    let asked = listen(link)?;
    if asked == wanted { Ok(()) } else { Err(out_of_turn(asked)) }
}

fn send<T: Serialize>(link: &Link, value: &T, fds: &[RawFd]) -> Result<(), EdgeError> {
    let json = serde_json::to_vec(value).map_err(|error| failed(error.to_string()))?;
    link.send(JSON, &json, fds).map_err(broken)
}

fn read<T: DeserializeOwned>(message: &Message) -> Result<T, EdgeError> {
    if message.kind != JSON {
        return Err(failed(format!("a message of kind {} came out of turn", message.kind)));
    }
    serde_json::from_slice(&message.body).map_err(|error| failed(format!("a message cannot be read: {error}")))
}

fn failed(why: impl Into<String>) -> EdgeError {
    EdgeError::HandOver(why.into())
}

fn unexpected(told: &Tell) -> EdgeError {
    match told {
        Tell::Refused { why } => failed(why.clone()),
        other => failed(format!("an answer came out of turn: {other:?}").chars().take(200).collect::<String>()),
    }
}

fn out_of_turn(asked: Ask) -> EdgeError {
    failed(format!("a question came out of turn: {asked:?}"))
}

fn broken(error: io::Error) -> EdgeError {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            failed("the other process has gone")
        }
        ErrorKind::TimedOut => failed("the other process did not answer in time"),
        _ => failed(error.to_string()),
    }
}

/// The sockets as `Running` keeps them: weakly, for whoever wants the place.
pub fn weakly(sockets: &HashMap<Place, Sockets>) -> HashMap<Place, std::sync::Weak<Shared>> {
    sockets.iter().map(|(place, sockets)| (*place, Arc::downgrade(sockets))).collect()
}

#[cfg(test)]
mod tests;
