//! Round trips over connections that stay: one message in flight on each, the next when the reply is whole.
use crate::args::Args;
use crate::clock::{Window, now_ns};
use crate::connect;
use crate::filler::{Filler, MESSAGE_MIN};
use crate::outcome::Outcome;
use crate::sys::{Poll, READABLE, would_block};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

const STUCK_NS: u64 = 1_000_000_000;

/// One connection that sends messages of a fixed size and takes their replies.
pub struct Talker {
    stream: TcpStream,
    id: u64,
    sequence: u64,
    sent_ns: u64,
    reply: Vec<u8>,
    filled: usize,
}

impl Talker {
    pub fn new(stream: TcpStream, id: u64, size: usize) -> Self {
        Self { stream, id, sequence: 0, sent_ns: 0, reply: vec![0; size], filled: 0 }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn ask(&mut self, filler: &Filler, scratch: &mut [u8]) -> io::Result<()> {
        self.sequence += 1;
        self.sent_ns = now_ns();
        filler.write_message(scratch, self.id, self.sequence);
        let sent = self.stream.write(scratch)?;
        if sent == scratch.len() { Ok(()) } else { Err(io::Error::other("a short message did not fit")) }
    }

    /// Some(is it right) once the reply is whole.
    pub fn take(&mut self, filler: &Filler) -> io::Result<Option<bool>> {
        match self.stream.read(&mut self.reply[self.filled..]) {
            Ok(0) => return Err(io::Error::other("closed in the middle")),
            Ok(count) => self.filled += count,
            Err(error) if would_block(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        if self.filled < self.reply.len() {
            return Ok(None);
        }
        self.filled = 0;
        Ok(Some(filler.read_message(&self.reply, self.reply.len(), self.id) == Some(self.sequence)))
    }
}

pub fn run(args: &mut Args) -> io::Result<()> {
    let to = args.to();
    let connections = args.count("--connections", 16, 10_000);
    let size = args.count("--size", 64, 65_536).max(MESSAGE_MIN);
    let (seconds, warmup) = (args.seconds("--seconds", 1.2), args.seconds("--warmup", 0.2));
    args.done();

    let filler = Filler::new();
    let mut scratch = vec![0; size];
    let mut poll = Poll::new()?;
    let mut talkers = Vec::with_capacity(connections);
    for id in 0..connections {
        let talker = Talker::new(connect::open(to)?, id as u64, size);
        poll.add(talker.stream.as_raw_fd(), id, READABLE)?;
        talkers.push(Some(talker));
    }
    let mut outcome = Outcome::of("rr");
    let window = Window::opening(warmup, seconds);
    for talker in talkers.iter_mut().flatten() {
        talker.ask(&filler, &mut scratch)?;
    }
    loop {
        let ready = poll.wait(window.left(now_ns()).min(Duration::from_millis(50)))?;
        if window.is_over(now_ns()) || talkers.iter().all(Option::is_none) {
            break;
        }
        for index in 0..ready {
            let (id, _) = poll.event(index);
            let Some(talker) = talkers[id].as_mut() else { continue };
            let step = talker.take(&filler).and_then(|reply| match reply {
                None => Ok(None),
                Some(is_right) => talker.ask(&filler, &mut scratch).map(|()| Some(is_right)),
            });
            match step {
                Ok(None) => {}
                Ok(Some(is_right)) => {
                    outcome.count(&window, talker.sent_ns);
                    outcome.wrong += u64::from(!is_right);
                }
                Err(error) => {
                    outcome.failed(error)?;
                    talkers[id] = None;
                }
            }
        }
    }
    let end = now_ns();
    outcome.stuck = talkers.iter().flatten().filter(|talker| end - talker.sent_ns > STUCK_NS).count() as u64;
    outcome.print(&window)
}
