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

mod giving;
mod link;
mod taking;

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

use causeway_bpf::Dispatch;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::count::Totals;
use crate::error::EdgeError;
use crate::snapshot::Protocol;
use crate::sockets::Sockets;
use crate::udp::Moved;
use crate::worker::Place;
pub use giving::Holdings;
pub use link::Link;
use link::Message;
pub use taking::{ask_offer, ask_to_go, receive_estate, receive_sessions, say_serving, weakly};

/// What both sides must speak. A change of meaning gets a new number; unknown fields are passed over.
const FORMAT: u32 = 1;
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

#[cfg(test)]
mod tests;
