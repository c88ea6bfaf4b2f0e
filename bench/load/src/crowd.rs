//! Many clients with addresses of their own, at a fixed rate together: who is let in, and who is turned away and when.
//!
//! Each does one thing: `echo` (say some bytes, hear them, close), `hold` (say nothing), `drip` (a byte of a PROXY
//! header each second), `deaf` (ask for all there is, read nothing; needs port 7003's source), `status` and `join` (as a
//! Minecraft client). Prints, second by second, what was begun, served and refused, and how long the held ones lasted.
use crate::args::{Args, refuse};
use crate::clock::{Window, now_ns};
use crate::connect;
use crate::request::Request;
use crate::sys::{Poll, READABLE, Ticks, WRITABLE, would_block};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

const TICK: usize = usize::MAX;
const DRIP: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 ";

#[derive(Clone, Copy, PartialEq)]
enum Act {
    Echo,
    Hold,
    Drip,
    Deaf,
    Status,
    Join,
}

#[derive(Default, Clone, Copy, Serialize)]
struct Second {
    begun: u64,
    /// Echoed, or still held when it was looked at.
    served: u64,
    refused: u64,
}

#[derive(Default, Serialize)]
struct Told {
    seconds: Vec<Second>,
    /// When the source that was served last was.
    last_served_s: f64,
    /// Open at the end.
    held: u64,
    /// Of those that were closed by the other side: how long after they were up.
    lasted_ms: Option<[u64; 3]>,
}

struct Client {
    stream: TcpStream,
    began_ns: u64,
    sent: usize,
    heard: usize,
    /// The first bytes that it heard.
    first: [u8; 8],
}

struct Crowd {
    act: Act,
    size: usize,
    poll: Poll,
    clients: HashMap<usize, Client>,
    start_ns: u64,
    /// What a deaf one asks for.
    request: Vec<u8>,
    told: Told,
    lasted_ms: Vec<u64>,
}

pub fn run(args: &mut Args) -> io::Result<()> {
    let to = args.to();
    let ports = args.count("--ports", 1, 65_535) as u64;
    let sources: connect::Sources = args.optional("--sources").unwrap_or_default();
    let rate = args.count("--rate", 100, 100_000) as u64;
    let most = args.count("--most", 1_000_000_000, usize::MAX) as u64;
    let size = args.count("--size", 64, 4096);
    let act = match args.value("--act", "echo".to_owned()).as_str() {
        "echo" => Act::Echo,
        "hold" => Act::Hold,
        "drip" => Act::Drip,
        "deaf" => Act::Deaf,
        "status" => Act::Status,
        "join" => Act::Join,
        other => refuse(format!("--act {other}: echo, hold, drip, deaf, status or join")),
    };
    let length = args.seconds("--seconds", 10.0);
    args.done();

    let poll = Poll::new()?;
    let ticks = Ticks::every(Duration::from_millis(1))?;
    poll.add(ticks.as_raw_fd(), TICK, READABLE)?;
    let start_ns = now_ns();
    let told = Told { seconds: vec![Second::default(); length.as_secs() as usize + 1], ..Told::default() };
    let end_ns = start_ns + length.as_nanos() as u64;
    let window = Window { from_ns: start_ns, to_ns: end_ns + 60_000_000_000 };
    let request = match act {
        Act::Deaf => Request { window, bytes: 0 }.to_bytes().to_vec(),
        Act::Status => [&minecraft(1)[..], b"\x01\x00", b"\x09\x01pingpong"].concat(),
        Act::Join => [&minecraft(2)[..], b"\x15\x00\x03Bot", &[0; 16]].concat(),
        Act::Echo | Act::Hold | Act::Drip => vec![b'x'; size],
    };
    let (clients, lasted_ms) = (HashMap::new(), Vec::new());
    let mut it = Crowd { act, size, poll, clients, start_ns, request, told, lasted_ms };
    let (mut begun, mut dripped_ns) = (0, start_ns);
    while now_ns() < end_ns {
        for index in 0..it.poll.wait(Duration::from_millis(20))? {
            match it.poll.event(index).0 {
                TICK => drop(ticks.passed()),
                token => it.advance(token),
            }
        }
        let due = ((now_ns() - start_ns) * rate / 1_000_000_000).min(most);
        while begun < due {
            let edge = SocketAddr::new(to.ip(), to.port().wrapping_add((begun % ports) as u16));
            it.begin(edge, sources.at(begun))?;
            begun += 1;
        }
        if act == Act::Drip && now_ns() >= dripped_ns + 1_000_000_000 {
            dripped_ns += 1_000_000_000;
            it.drip();
        }
    }
    it.print()
}

impl Crowd {
    fn begin(&mut self, edge: SocketAddr, source: Option<IpAddr>) -> io::Result<()> {
        let began_ns = now_ns();
        self.second(began_ns).begun += 1;
        let stream = match connect::begin_from(edge, source, self.act == Act::Deaf) {
            Ok(stream) => stream,
            Err(_) => {
                self.second(began_ns).refused += 1;
                return Ok(());
            }
        };
        let token = stream.as_raw_fd() as usize;
        let interest = if self.act == Act::Deaf { WRITABLE } else { READABLE | WRITABLE };
        self.poll.add(stream.as_raw_fd(), token, interest)?;
        self.clients.insert(token, Client { stream, began_ns, sent: 0, heard: 0, first: [0; 8] });
        Ok(())
    }

    fn advance(&mut self, token: usize) {
        let (act, size) = (self.act, self.size);
        let Some(client) = self.clients.get_mut(&token) else { return };
        let began_ns = client.began_ns;
        match client.advance(act, size, &self.request) {
            Ok(false) => {
                // Written once: from now on only what comes back matters.
                let interest = if act == Act::Deaf { 0 } else { READABLE };
                if client.sent > 0 || act == Act::Hold || act == Act::Drip {
                    let _ = self.poll.change(client.stream.as_raw_fd(), token, interest);
                }
            }
            Ok(true) => {
                self.clients.remove(&token);
                self.second(began_ns).served += 1;
                self.told.last_served_s = (now_ns() - self.start_ns) as f64 / 1e9;
            }
            Err(_) => {
                self.clients.remove(&token);
                self.second(began_ns).refused += 1;
                self.lasted_ms.push((now_ns() - began_ns) / 1_000_000);
            }
        }
    }

    fn drip(&mut self) {
        for client in self.clients.values_mut() {
            let next = DRIP[client.sent % DRIP.len()];
            if matches!(client.stream.write(&[next]), Ok(1)) {
                client.sent += 1; // an error is heard of by reading
            }
        }
    }

    fn second(&mut self, at_ns: u64) -> &mut Second {
        let last = self.told.seconds.len() - 1;
        &mut self.told.seconds[((at_ns - self.start_ns) / 1_000_000_000).min(last as u64) as usize]
    }

    fn print(mut self) -> io::Result<()> {
        if matches!(self.act, Act::Hold | Act::Drip | Act::Deaf) {
            let held: Vec<u64> = self.clients.values().map(|client| client.began_ns).collect();
            self.told.held = held.len() as u64;
            held.into_iter().for_each(|began_ns| self.second(began_ns).served += 1);
        }
        self.lasted_ms.sort_unstable();
        if let (Some(first), Some(last)) = (self.lasted_ms.first(), self.lasted_ms.last()) {
            self.told.lasted_ms = Some([*first, self.lasted_ms[self.lasted_ms.len() / 2], *last]);
        }
        println!("{}", serde_json::to_string(&self.told).map_err(io::Error::other)?);
        Ok(())
    }
}

/// A handshake that goes on to this state (causeway_wire::minecraft has the format).
fn minecraft(next: u8) -> Vec<u8> {
    let body = [b"\x00\xff\x05\x0emc.example.net\x63\xdd", &[next][..]].concat();
    [&[body.len() as u8][..], &body].concat()
}

const PONG: usize = 10;

/// Where the packet ends that begins here.
fn packet_end(bytes: &[u8]) -> Option<usize> {
    let (mut value, mut at) = (0, 0);
    loop {
        let byte = bytes.get(at)?;
        value |= usize::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte & 0x80 == 0 {
            return Some(at + value);
        }
    }
}

impl Client {
    /// Does what it can now; true once it has been served.
    fn advance(&mut self, act: Act, size: usize, request: &[u8]) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        if self.sent == 0 && !matches!(act, Act::Hold | Act::Drip) {
            match self.stream.write(request) {
                Ok(sent) => self.sent = sent,
                Err(error) if would_block(&error) || error.kind() == io::ErrorKind::NotConnected => return Ok(false),
                Err(error) => return Err(error),
            }
            return Ok(false);
        }
        if act == Act::Deaf {
            return Ok(false); // the kernel tells of an end, whatever is asked for
        }
        let mut reply = [0; 4096];
        match self.stream.read(&mut reply) {
            Ok(0) => Err(io::Error::other("closed")),
            Ok(count) => {
                if self.heard == 0 {
                    self.first.copy_from_slice(&reply[..8]);
                }
                self.heard += count;
                match act {
                    Act::Status => Ok(packet_end(&self.first).is_some_and(|end| self.heard >= end + PONG)),
                    // Id 2 is a success, id 0 a refusal in words.
                    Act::Join if self.first[1] == 2 => Ok(true),
                    Act::Join => Err(io::Error::other("refused")),
                    _ => Ok(act == Act::Echo && self.heard >= size),
                }
            }
            Err(error) if would_block(&error) || error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }
}
