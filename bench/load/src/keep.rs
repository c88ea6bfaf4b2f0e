//! A legitimate user while something else goes on: connections, requests on long connections, and datagrams of long
//! sessions, each at a fixed rate whatever becomes of the others (open loop). An operation is *kept* if it was answered
//! rightly within its deadline, counted from when it was due. Prints what was due and what was kept in each second.
use crate::args::Args;
use crate::clock::{Window, now_ns};
use crate::connect;
use crate::filler::Filler;
use crate::sys::{ON_CHANGE, Poll, READABLE, Ticks, WRITABLE, would_block};
use crate::udp;
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

const TICK: usize = usize::MAX;
const LONG: usize = 1 << 20; // tokens: short connections by descriptor, long ones and sessions above
const SESSION: usize = 1 << 21;
const SIZE: usize = 64;
const HELLO: &[u8] = b"hello";

#[derive(Default, Clone, Copy, Serialize)]
struct Tally {
    due: u64,
    kept: u64,
}

#[derive(Default, Clone, Copy, Serialize)]
struct Second {
    connections: Tally,
    requests: Tally,
    datagrams: Tally,
}

#[derive(Default, Serialize)]
struct Told {
    seconds: Vec<Second>,
    /// Long connections that ended.
    broken: u64,
    wrong: u64,
    first_error: Option<String>,
    connect_p50_us: Option<f64>,
    connect_p99_us: Option<f64>,
}

struct Short {
    stream: TcpStream,
    due_ns: u64,
    byte: u8,
    is_sent: bool,
}

struct Schedule {
    start_ns: u64,
    period_ns: u64,
    next: u64,
}

struct Run {
    to: SocketAddr,
    sources: connect::Sources,
    poll: Poll,
    filler: Filler,
    start_ns: u64,
    deadline_ns: u64,
    told: Told,
    shorts: HashMap<usize, Short>,
    longs: Vec<Option<(TcpStream, Vec<u8>)>>,
    sessions: Vec<UdpSocket>,
    connect_ns: Vec<u64>,
    requests: Schedule,
    datagrams: Schedule,
}

pub fn run(args: &mut Args) -> io::Result<()> {
    let to = args.to();
    let udp_to: Option<SocketAddr> = args.optional("--udp-to");
    let connection_rate = args.count("--connection-rate", 200, 20_000);
    let (longs, request_rate) = (args.count("--longs", 200, 20_000), args.count("--request-rate", 1000, 100_000));
    let sessions = args.count("--sessions", 200, 20_000);
    let datagram_rate = args.count("--datagram-rate", 1000, 100_000);
    let deadline = args.seconds("--deadline", 1.0);
    let length = args.seconds("--seconds", 10.0);
    let sources: connect::Sources = args.optional("--sources").unwrap_or_default();
    args.done();

    let poll = Poll::new()?;
    let mut open = Vec::new();
    for index in 0..longs {
        let stream = connect::open_from(to, sources.at(index as u64))?;
        poll.add(stream.as_raw_fd(), LONG + index, READABLE)?;
        open.push(Some((stream, Vec::new())));
    }
    let mut sockets = Vec::new();
    for index in 0..udp_to.map_or(0, |_| sessions) {
        let socket = udp::connected(udp_to.unwrap_or(to))?;
        poll.add(socket.as_raw_fd(), SESSION + index, READABLE)?;
        sockets.push(socket);
    }
    // The first datagram of each session, before anything is counted.
    for socket in &sockets {
        socket.send(HELLO)?;
    }
    println!("{{\"ready\":true}}");
    let ticks = Ticks::every(Duration::from_millis(1))?;
    poll.add(ticks.as_raw_fd(), TICK, READABLE)?;
    let start_ns = now_ns() + 50_000_000;
    let at = |rate: usize| Schedule { start_ns, period_ns: 1_000_000_000 / rate as u64, next: 0 };
    let mut run = Run {
        to,
        sources,
        poll,
        filler: Filler::new(),
        start_ns,
        deadline_ns: deadline.as_nanos() as u64,
        told: Told { seconds: vec![Second::default(); length.as_secs() as usize + 1], ..Told::default() },
        shorts: HashMap::new(),
        longs: open,
        sessions: sockets,
        connect_ns: Vec::new(),
        requests: at(request_rate),
        datagrams: at(datagram_rate),
    };
    let mut connections = at(connection_rate);
    let window = Window { from_ns: start_ns, to_ns: start_ns + length.as_nanos() as u64 };
    while now_ns() < window.to_ns + run.deadline_ns {
        for index in 0..run.poll.wait(Duration::from_millis(20))? {
            match run.poll.event(index).0 {
                TICK => {
                    ticks.passed();
                    run.begin_what_is_due(&mut connections, window.to_ns);
                }
                token if token >= SESSION => run.datagram(token - SESSION),
                token if token >= LONG => run.reply(token - LONG),
                token => run.advance(token),
            }
        }
    }
    run.print()
}

impl Schedule {
    fn due_ns(&self, index: u64) -> u64 {
        self.start_ns + index * self.period_ns
    }

    /// The next one that is due by now.
    fn take(&mut self, now: u64, end_ns: u64) -> Option<u64> {
        let due = self.due_ns(self.next);
        (due <= now && due < end_ns).then(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

impl Run {
    fn begin_what_is_due(&mut self, connections: &mut Schedule, end_ns: u64) {
        let now = now_ns();
        while let Some(index) = connections.take(now, end_ns) {
            let due_ns = connections.due_ns(index);
            self.second(due_ns).connections.due += 1;
            if let Err(error) = self.begin(due_ns, index) {
                self.failed(&error);
            }
        }
        let mut message = [0; SIZE];
        while let Some(index) = self.requests.take(now, end_ns) {
            let due_ns = self.requests.due_ns(index);
            self.second(due_ns).requests.due += 1;
            let which = index as usize % self.longs.len();
            self.filler.write_message(&mut message, which as u64, index);
            let Some((stream, _)) = self.longs[which].as_mut() else { continue };
            if let Err(error) = stream.write(&message) {
                self.ended(which, &error);
            }
        }
        while !self.sessions.is_empty() {
            let Some(index) = self.datagrams.take(now, end_ns) else { break };
            let due_ns = self.datagrams.due_ns(index);
            self.second(due_ns).datagrams.due += 1;
            let which = index as usize % self.sessions.len();
            self.filler.write_message(&mut message, which as u64, index);
            if let Err(error) = self.sessions[which].send(&message) {
                self.failed(&error);
            }
        }
    }

    fn begin(&mut self, due_ns: u64, index: u64) -> io::Result<()> {
        let (stream, byte) = (connect::begin_from(self.to, self.sources.at(index), false)?, (index * 167) as u8);
        let token = stream.as_raw_fd() as usize;
        self.poll.add(stream.as_raw_fd(), token, READABLE | WRITABLE | ON_CHANGE)?;
        self.shorts.insert(token, Short { stream, due_ns, byte, is_sent: false });
        Ok(())
    }

    fn advance(&mut self, token: usize) {
        let Some(short) = self.shorts.get_mut(&token) else { return };
        let outcome = short.advance();
        match outcome {
            Ok(None) => return,
            Ok(Some(is_right)) => {
                let (due_ns, now) = (short.due_ns, now_ns());
                self.told.wrong += u64::from(!is_right);
                if is_right && now - due_ns <= self.deadline_ns {
                    self.second(due_ns).connections.kept += 1;
                    self.connect_ns.push(now - due_ns);
                }
            }
            Err(error) => self.failed(&error),
        }
        self.shorts.remove(&token);
    }

    fn reply(&mut self, which: usize) {
        let Some((stream, pending)) = self.longs[which].as_mut() else { return };
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) => return self.ended(which, &io::Error::other("closed in the middle")),
            Ok(count) => pending.extend_from_slice(&buffer[..count]),
            Err(error) if would_block(&error) => return,
            Err(error) => return self.ended(which, &error),
        }
        let whole = pending.len() / SIZE * SIZE;
        let messages: Vec<u8> = pending.drain(..whole).collect();
        for message in messages.chunks_exact(SIZE) {
            let found = self.filler.read_message(message, SIZE, which as u64);
            self.count(found, false);
        }
    }

    fn datagram(&mut self, which: usize) {
        let mut buffer = [0; 2048];
        while let Ok(count) = self.sessions[which].recv(&mut buffer) {
            if buffer[..count] != *HELLO {
                let found = self.filler.read_message(&buffer[..count], SIZE, which as u64);
                self.count(found, true);
            }
        }
    }

    fn count(&mut self, found: Option<u64>, is_datagram: bool) {
        let Some(index) = found else {
            self.told.wrong += 1;
            return;
        };
        let due_ns = if is_datagram { self.datagrams.due_ns(index) } else { self.requests.due_ns(index) };
        if now_ns() - due_ns <= self.deadline_ns {
            let second = self.second(due_ns);
            if is_datagram { &mut second.datagrams } else { &mut second.requests }.kept += 1;
        }
    }

    fn ended(&mut self, which: usize, error: &io::Error) {
        self.longs[which] = None;
        self.told.broken += 1;
        self.failed(error);
    }

    fn failed(&mut self, error: &io::Error) {
        self.told.first_error.get_or_insert_with(|| error.to_string());
    }

    fn second(&mut self, due_ns: u64) -> &mut Second {
        let last = self.told.seconds.len() - 1;
        &mut self.told.seconds[((due_ns - self.start_ns) / 1_000_000_000).min(last as u64) as usize]
    }

    fn print(mut self) -> io::Result<()> {
        self.told.seconds.retain(|second| second.requests.due > 0);
        self.connect_ns.sort_unstable();
        let at = |part: f64| {
            let last = self.connect_ns.len().checked_sub(1)?;
            Some(self.connect_ns[(last as f64 * part).round() as usize] as f64 / 1000.0)
        };
        (self.told.connect_p50_us, self.told.connect_p99_us) = (at(0.5), at(0.99));
        println!("{}", serde_json::to_string(&self.told).map_err(io::Error::other)?);
        Ok(())
    }
}

impl Short {
    /// Does what it can now; Some(is the reply right) once it is answered.
    fn advance(&mut self) -> io::Result<Option<bool>> {
        if !self.is_sent {
            match self.stream.write(&[self.byte]) {
                Ok(_) => self.is_sent = true,
                Err(error) if would_block(&error) || error.kind() == io::ErrorKind::NotConnected => return Ok(None),
                Err(error) => return Err(error),
            }
            return Ok(None);
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
