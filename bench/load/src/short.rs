//! Short connections: connect, one byte there and back, close; a fixed number at once.
use crate::args::{Args, refuse};
use crate::clock::{Window, now_ns};
use crate::connect;
use crate::outcome::Outcome;
use crate::sys::{ON_CHANGE, Poll, READABLE, WRITABLE, would_block};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

const STUCK_NS: u64 = 1_000_000_000;

struct Attempt {
    stream: TcpStream,
    began_ns: u64,
    byte: u8,
    is_sent: bool,
}

pub fn run(args: &mut Args) -> io::Result<()> {
    let to = args.to();
    let parallel = args.count("--parallel", 32, 10_000);
    let by_reset = match args.value("--close", "fin".to_owned()).as_str() {
        "fin" => false,
        "rst" => true,
        other => refuse(format!("--close {other}: fin or rst")),
    };
    let (seconds, warmup) = (args.seconds("--seconds", 1.2), args.seconds("--warmup", 0.2));
    args.done();

    let mut poll = Poll::new()?;
    let mut outcome = Outcome::of("short");
    let window = Window::opening(warmup, seconds);
    let mut sequence = 0_u64;
    let mut attempts: Vec<Option<Attempt>> = Vec::new();
    for slot in 0..parallel {
        attempts.push(begin(&poll, to, slot, &mut sequence, &mut outcome)?);
    }
    loop {
        let ready = poll.wait(window.left(now_ns()).min(Duration::from_millis(50)))?;
        let now = now_ns();
        if window.is_over(now) {
            break;
        }
        for index in 0..ready {
            let (slot, _) = poll.event(index);
            let Some(attempt) = attempts[slot].as_mut() else { continue };
            match attempt.advance() {
                Ok(None) => continue,
                Ok(Some(is_right)) => {
                    outcome.count(&window, now_ns());
                    outcome.wrong += u64::from(!is_right);
                }
                Err(error) => outcome.failed(error)?,
            }
            if let Some(done) = attempts[slot].take() {
                connect::close(done.stream, by_reset)?;
            }
            attempts[slot] = begin(&poll, to, slot, &mut sequence, &mut outcome)?;
        }
        for (slot, place) in attempts.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
            *place = begin(&poll, to, slot, &mut sequence, &mut outcome)?;
        }
    }
    let end = now_ns();
    outcome.stuck = attempts.iter().flatten().filter(|attempt| end - attempt.began_ns > STUCK_NS).count() as u64;
    outcome.print(&window)
}

fn begin(
    poll: &Poll,
    to: SocketAddr,
    slot: usize,
    sequence: &mut u64,
    outcome: &mut Outcome,
) -> io::Result<Option<Attempt>> {
    *sequence += 1;
    match connect::begin(to) {
        Ok(stream) => {
            poll.add(stream.as_raw_fd(), slot, READABLE | WRITABLE | ON_CHANGE)?;
            // A multiplier, so that neighbours of the same slot do not carry the same byte.
            let byte = (*sequence * 167) as u8;
            Ok(Some(Attempt { stream, began_ns: now_ns(), byte, is_sent: false }))
        }
        Err(error) => outcome.failed(error).map(|()| None),
    }
}

impl Attempt {
    /// Does what it can now; Some(is the reply right) once it is answered.
    fn advance(&mut self) -> io::Result<Option<bool>> {
        if !self.is_sent {
            match self.stream.write(&[self.byte]) {
                Ok(_) => self.is_sent = true,
                Err(error) if would_block(&error) || error.kind() == io::ErrorKind::NotConnected => return Ok(None),
                Err(error) => return Err(error),
            }
            return Ok(None); // the reply cannot be here yet, and its arrival is an event of its own
        }
        let mut reply = [0; 2];
        match self.stream.read(&mut reply) {
            Ok(0) => Err(io::Error::other("closed before the reply")),
            Ok(count) => Ok(Some(count == 1 && reply[0] == self.byte)),
            Err(error) if would_block(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
