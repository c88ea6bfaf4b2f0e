//! Bulk streams. Uploads are counted where they arrive: the origin answers a half-close with a receipt. Downloads are
//! counted here, and end with the origin's receipt of what it sent. With --bytes every byte is compared.
use crate::args::{Args, refuse};
use crate::clock::{Window, now_ns};
use crate::connect;
use crate::filler::{CHUNK, Filler};
use crate::outcome::Outcome;
use crate::request::{RECEIPT, REQUEST, Receipt, Request};
use crate::sys::{Poll, READABLE, WRITABLE, would_block};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

const END_NS: u64 = 5_000_000_000; // for what is still in buffers when the window closes
const EXACT: Duration = Duration::from_secs(30);

struct Stream {
    socket: TcpStream,
    is_upload: bool,
    is_sending: bool,
    sent: u64,
    seen: Receipt,
    /// The newest bytes of a download, up to the length of a receipt: the last of them are the receipt.
    held: Vec<u8>,
}

struct Run {
    request: Request,
    filler: Filler,
    buffer: Vec<u8>,
}

pub fn run(args: &mut Args) -> io::Result<()> {
    let to = args.to();
    let streams = args.count("--streams", 4, 1000);
    let is_upload = match args.value("--direction", "up".to_owned()).as_str() {
        "up" => true,
        "down" => false,
        other => refuse(format!("--direction {other}: up or down")),
    };
    let bytes: u64 = args.value("--bytes", 0);
    let (seconds, warmup) = (args.seconds("--seconds", 1.2), args.seconds("--warmup", 0.2));
    args.done();

    let mut poll = Poll::new()?;
    let sockets = (0..streams).map(|_| connect::open(to)).collect::<io::Result<Vec<_>>>()?;
    let window = if bytes > 0 { Window::opening(Duration::ZERO, EXACT) } else { Window::opening(warmup, seconds) };
    let mut run = Run { request: Request { window, bytes }, filler: Filler::new(), buffer: vec![0; RECEIPT + CHUNK] };
    let mut open = Vec::new();
    for (index, mut socket) in sockets.into_iter().enumerate() {
        if socket.write(&run.request.to_bytes())? != REQUEST {
            return Err(io::Error::other("the request did not fit"));
        }
        if !is_upload && bytes > 0 {
            socket.shutdown(Shutdown::Write)?;
        }
        poll.add(socket.as_raw_fd(), index, if is_upload { WRITABLE } else { READABLE })?;
        let (sent, seen, held) = (0, Receipt::default(), Vec::new());
        open.push(Some(Stream { socket, is_upload, is_sending: is_upload, sent, seen, held }));
    }
    let mut outcome = Outcome::of("bulk");
    while open.iter().any(Option::is_some) && now_ns() < window.to_ns + END_NS {
        for index in 0..poll.wait(Duration::from_millis(50))? {
            let (which, _) = poll.event(index);
            let Some(stream) = open[which].as_mut() else { continue };
            let was_sending = stream.is_sending;
            match stream.advance(&mut run) {
                Ok(None) if was_sending && !stream.is_sending => {
                    poll.change(stream.socket.as_raw_fd(), which, READABLE)?;
                }
                Ok(None) => {}
                Ok(Some(end)) => {
                    outcome.units += end.bytes;
                    outcome.units_in_window += end.bytes_in_window;
                    outcome.wrong += end.wrong;
                    open[which] = None;
                }
                Err(error) => {
                    outcome.failed(error)?;
                    open[which] = None;
                }
            }
        }
    }
    outcome.stuck = open.iter().flatten().count() as u64;
    outcome.print(&window)
}

impl Stream {
    /// Does what it can now; Some(what arrived) at the end.
    fn advance(&mut self, run: &mut Run) -> io::Result<Option<Receipt>> {
        if self.is_sending {
            return self.send(run).map(|()| None);
        }
        let held = self.held.len();
        run.buffer[..held].copy_from_slice(&self.held);
        let count = match self.socket.read(&mut run.buffer[held..held + CHUNK]) {
            Ok(0) => return self.end(run).map(Some),
            Ok(count) => held + count,
            Err(error) if would_block(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let body = count.saturating_sub(RECEIPT).min(CHUNK);
        self.seen.take(&run.request, &run.filler, &run.buffer[..body]);
        self.held.clear();
        self.held.extend_from_slice(&run.buffer[body..count]);
        Ok(None)
    }

    fn send(&mut self, run: &Run) -> io::Result<()> {
        let limit = if run.request.bytes > 0 { run.request.bytes - self.sent } else { CHUNK as u64 };
        if limit == 0 || run.request.window.is_over(now_ns()) {
            self.is_sending = false;
            return self.socket.shutdown(Shutdown::Write);
        }
        match self.socket.write(run.filler.at(self.sent, limit.min(CHUNK as u64) as usize)) {
            Ok(count) => self.sent += count as u64,
            Err(error) if would_block(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The other end's receipt has come: of an upload, what arrived there; of a download, what left there.
    fn end(&mut self, run: &Run) -> io::Result<Receipt> {
        let receipt = self.held.as_slice().try_into().ok().and_then(Receipt::from_bytes);
        let receipt = receipt.ok_or_else(|| io::Error::other("closed without a receipt"))?;
        let (mut arrived, left) = if self.is_upload { (receipt, self.sent) } else { (self.seen, receipt.bytes) };
        arrived.wrong += left.abs_diff(arrived.bytes);
        if run.request.bytes > 0 {
            arrived.wrong += run.request.bytes.abs_diff(arrived.bytes);
        }
        Ok(arrived)
    }
}

impl Receipt {
    pub fn take(&mut self, request: &Request, filler: &Filler, received: &[u8]) {
        if received.is_empty() {
            return;
        }
        self.wrong += filler.wrong(self.bytes, received, request.checks_all());
        self.bytes += received.len() as u64;
        if request.window.holds(now_ns()) {
            self.bytes_in_window += received.len() as u64;
        }
    }
}
