//! Latency at a fixed rate. Each message has its time on a schedule and its delay is counted from there, so that a
//! stall delays all the messages that were due during it and none is left out.
use crate::args::{Args, refuse};
use crate::clock::{Window, now_ns};
use crate::connect;
use crate::filler::{Filler, MESSAGE_MIN};
use crate::outcome::Outcome;
use crate::sys::{Poll, READABLE, Ticks, would_block};
use crate::udp;
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

const TICK: usize = usize::MAX;
const END_NS: u64 = 500_000_000;

enum Wire {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

struct Line {
    wire: Wire,
    id: u64,
    /// A part of the next reply.
    reply: Vec<u8>,
}

struct Schedule {
    start_ns: u64,
    period_ns: u64,
    window: Window,
    delays_ns: Vec<u64>,
}

pub fn run(args: &mut Args) -> io::Result<()> {
    let to = args.to();
    let rate = args.count("--rate", 2000, 100_000);
    let size = args.count("--size", 64, 2048).max(MESSAGE_MIN);
    let connections = args.count("--connections", 8, 1000);
    let is_tcp = match args.value("--protocol", "tcp".to_owned()).as_str() {
        "tcp" => true,
        "udp" => false,
        other => refuse(format!("--protocol {other}: tcp or udp")),
    };
    let (seconds, warmup) = (args.seconds("--seconds", 1.2), args.seconds("--warmup", 0.2));
    args.done();

    let filler = Filler::new();
    let mut scratch = vec![0; size];
    let mut poll = Poll::new()?;
    let mut lines = Vec::with_capacity(connections);
    for id in 0..connections {
        let wire = if is_tcp { Wire::Tcp(connect::open(to)?) } else { Wire::Udp(udp::connected(to)?) };
        poll.add(wire.descriptor(), id, READABLE)?;
        lines.push(Line { wire, id: id as u64, reply: Vec::with_capacity(2 * size) });
    }
    let mut outcome = Outcome::of("pace");
    let period = Duration::from_secs(1) / rate as u32;
    let ticks = Ticks::every(period)?;
    poll.add(ticks.as_raw_fd(), TICK, READABLE)?;
    let window = Window::opening(warmup, seconds);
    let period_ns = period.as_nanos() as u64;
    let mut schedule = Schedule { start_ns: now_ns(), period_ns, window, delays_ns: Vec::new() };
    let mut sent = 0_u64;
    let mut open = lines.len();
    while open > 0 && now_ns() < window.to_ns + END_NS && !(window.is_over(now_ns()) && outcome.units == sent) {
        for index in 0..poll.wait(Duration::from_millis(20))? {
            let (which, _) = poll.event(index);
            if which == TICK {
                for _ in 0..ticks.passed() {
                    if window.is_over(now_ns()) {
                        break;
                    }
                    sent += 1;
                    let line = &mut lines[sent as usize % connections];
                    filler.write_message(&mut scratch, line.id, sent);
                    if let Err(error) = line.wire.write(&scratch) {
                        outcome.failed(error)?;
                    }
                }
            } else if let Err(error) = lines[which].take(&filler, size, &mut schedule, &mut outcome) {
                outcome.failed(error)?;
                open -= usize::from(is_tcp);
            }
        }
    }
    outcome.lost = sent.saturating_sub(outcome.units + outcome.wrong);
    outcome.latencies(schedule.delays_ns);
    outcome.print(&window)
}

impl Wire {
    fn descriptor(&self) -> i32 {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Udp(socket) => socket.as_raw_fd(),
        }
    }

    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(message),
            Self::Udp(socket) => socket.send(message),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => match stream.read(buffer) {
                Ok(0) => Err(io::Error::other("closed in the middle")),
                other => other,
            },
            Self::Udp(socket) => socket.recv(buffer),
        }
    }
}

impl Line {
    fn take(&mut self, filler: &Filler, size: usize, on: &mut Schedule, outcome: &mut Outcome) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let count = match self.wire.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if would_block(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let now = now_ns();
        self.reply.extend_from_slice(&buffer[..count]);
        while self.reply.len() >= size {
            match filler.read_message(&self.reply[..size], size, self.id) {
                None => outcome.wrong += 1,
                Some(sequence) => {
                    let due_ns = on.start_ns + sequence * on.period_ns;
                    outcome.count(&on.window, due_ns);
                    if on.window.holds(due_ns) {
                        on.delays_ns.push(now.saturating_sub(due_ns));
                    }
                }
            }
            self.reply.drain(..size);
        }
        Ok(())
    }
}
