//! What can be asked of a running WAN: one JSON object a line, one answer a line.

use serde::{Deserialize, Serialize};

use crate::LabError;
use crate::direction::{Counts, Direction};
use crate::shape::{Change, Shape};
use crate::wan::{Outside, Wan};

/// The longest line that is read.
pub const LINE_BYTES: usize = 64 << 10;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Change a link, from one node to the other or both ways.
    Link {
        from: String,
        to: String,
        is_both_ways: bool,
        change: Change,
    },
    Node {
        name: String,
        is_down: bool,
    },
    /// Links that have been used or that were changed; `is_all`: every one.
    Status {
        is_all: bool,
    },
    /// A status with this direction of a link and no other.
    Direction {
        from: String,
        to: String,
    },
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Done { ok: bool },
    Told { ok: bool, status: Box<Status<'a>> },
    Refused { ok: bool, code: &'static str, message: String },
}

#[derive(Debug, Serialize)]
pub struct Status<'a> {
    pub is_realtime: bool,
    pub held_bytes: u64,
    pub late: &'a Late,
    pub outside: &'a Outside,
    pub down: Vec<&'a str>,
    pub links: Vec<LinkStatus<'a>>,
}

#[derive(Debug, Serialize)]
pub struct LinkStatus<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub shape: &'a Shape,
    pub counts: &'a Counts,
}

/// How long after their time frames were handed to their node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Late {
    pub under_50_us: u64,
    pub under_100_us: u64,
    pub under_300_us: u64,
    pub under_1_ms: u64,
    pub more: u64,
    pub worst_us: u64,
}

impl Late {
    pub fn count(&mut self, late_ns: u64) {
        let us = late_ns / 1_000;
        let slot = match us {
            ..50 => &mut self.under_50_us,
            50..100 => &mut self.under_100_us,
            100..300 => &mut self.under_300_us,
            300..1_000 => &mut self.under_1_ms,
            _ => &mut self.more,
        };
        *slot += 1;
        self.worst_us = self.worst_us.max(us);
    }
}

impl Command {
    pub fn read(line: &[u8]) -> Result<Command, LabError> {
        if line.len() > LINE_BYTES {
            return Err(LabError::Command(format!("it has more than {LINE_BYTES} bytes")));
        }
        serde_json::from_slice(line).map_err(|error| LabError::Command(error.to_string()))
    }
}

/// Obey one line; the answer is one line, too. What is refused changes nothing.
pub fn answer(wan: &mut Wan, line: &[u8], late: &Late, is_realtime: bool) -> Vec<u8> {
    let answer = match Command::read(line).and_then(|command| obey(wan, command)) {
        Ok(None) => Answer::Done { ok: true },
        Ok(Some(links)) => Answer::Told { ok: true, status: Box::new(status(wan, &links, late, is_realtime)) },
        Err(error) => Answer::Refused { ok: false, code: error.code(), message: error.to_string() },
    };
    let mut text = serde_json::to_vec(&answer).unwrap_or_else(|_| b"{\"ok\":false}".to_vec());
    text.push(b'\n');
    text
}

/// Which links are to be told of.
enum Links {
    All,
    Busy,
    One(String, String),
}

fn obey(wan: &mut Wan, command: Command) -> Result<Option<Links>, LabError> {
    match command {
        Command::Link { from, to, is_both_ways, change } => {
            // Both or none: what one direction refuses, the other one must not have done.
            wan.direction(&from, &to)?.shape.changed(&change)?;
            if is_both_ways {
                wan.change(&to, &from, &change)?;
            }
            wan.change(&from, &to, &change)?;
        }
        Command::Node { name, is_down } => wan.set_down(&name, is_down)?,
        Command::Status { is_all: true } => return Ok(Some(Links::All)),
        Command::Status { is_all: false } => return Ok(Some(Links::Busy)),
        Command::Direction { from, to } => {
            wan.direction(&from, &to)?;
            return Ok(Some(Links::One(from, to)));
        }
    }
    Ok(None)
}

fn status<'a>(wan: &'a Wan, links: &Links, late: &'a Late, is_realtime: bool) -> Status<'a> {
    let is_wanted = |from: &str, to: &str, direction: &Direction| match links {
        Links::All => true,
        Links::Busy => direction.counts.offered > 0 || direction.is_changed,
        Links::One(a, b) => (a.as_str(), b.as_str()) == (from, to),
    };
    let links = wan
        .directions()
        .filter(|(from, to, direction)| is_wanted(from, to, direction))
        .map(|(from, to, direction)| LinkStatus { from, to, shape: &direction.shape, counts: &direction.counts })
        .collect();
    Status { is_realtime, held_bytes: wan.held_bytes(), late, outside: &wan.outside, down: wan.down().collect(), links }
}
