//! UDP round trips: flows of their own source port, a fixed number of datagrams in flight on each. One that stays
//! unanswered for half a second is lost and its place is used again.
use crate::args::Args;
use crate::clock::{Window, now_ns};
use crate::filler::{Filler, MESSAGE_MIN};
use crate::outcome::Outcome;
use crate::sys::{self, Batch, DATAGRAM_MAX, Poll, READABLE, would_block};
use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

const LOST_NS: u64 = 500_000_000;
const SWEEP_NS: u64 = 50_000_000;

/// What is in flight in each place of a flow: a place's sequence numbers are congruent modulo the number of places.
struct Flow {
    socket: UdpSocket,
    id: u64,
    places: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    sequence: u64,
    sent_ns: u64,
}

pub fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let to: SocketAddrV4 = sys::only_v4(to)?;
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    sys::widen_buffers(socket.as_raw_fd());
    Ok(socket)
}

pub fn run(args: &mut Args) -> io::Result<()> {
    let to = args.to();
    let flows = args.count("--flows", 8, 10_000);
    let in_flight = args.count("--in-flight", 32, 1024);
    let size = args.count("--size", 200, DATAGRAM_MAX).max(MESSAGE_MIN);
    let (seconds, warmup) = (args.seconds("--seconds", 1.2), args.seconds("--warmup", 0.2));
    args.done();

    let filler = Filler::new();
    let mut poll = Poll::new()?;
    let mut batch = Batch::new(in_flight);
    let mut outcome = Outcome::of("udp");
    let mut open = Vec::with_capacity(flows);
    for id in 0..flows {
        let socket = connected(to)?;
        poll.add(socket.as_raw_fd(), id, READABLE)?;
        let places = (0..in_flight).map(|place| Place { sequence: place as u64, sent_ns: 0 }).collect();
        open.push(Flow { socket, id: id as u64, places });
    }
    let window = Window::opening(warmup, seconds);
    for flow in &mut open {
        let all: Vec<usize> = (0..in_flight).collect();
        flow.send(&filler, &mut batch, &all, size, &mut outcome)?;
    }
    let mut swept_ns = now_ns();
    let mut free = Vec::with_capacity(in_flight);
    loop {
        let ready = poll.wait(Duration::from_millis(20))?;
        let now = now_ns();
        if window.is_over(now) {
            break;
        }
        for index in 0..ready {
            let (id, _) = poll.event(index);
            let flow = &mut open[id];
            free.clear();
            match batch.receive(flow.socket.as_raw_fd()) {
                Ok(count) => {
                    for message in 0..count {
                        flow.take(&filler, batch.message(message), size, &window, &mut outcome, &mut free);
                    }
                }
                Err(error) if would_block(&error) => {}
                Err(error) => outcome.failed(error)?,
            }
            flow.send(&filler, &mut batch, &free, size, &mut outcome)?;
        }
        if now - swept_ns > SWEEP_NS {
            swept_ns = now;
            for flow in &mut open {
                flow.give_up_old(now, &mut free, &mut outcome);
                flow.send(&filler, &mut batch, &free, size, &mut outcome)?;
            }
        }
    }
    outcome.print(&window)
}

impl Flow {
    fn take(
        &mut self,
        filler: &Filler,
        message: &[u8],
        size: usize,
        window: &Window,
        outcome: &mut Outcome,
        free: &mut Vec<usize>,
    ) {
        let Some(sequence) = filler.read_message(message, size, self.id) else {
            outcome.wrong += 1;
            return;
        };
        let count = self.places.len() as u64;
        let place = (sequence % count) as usize;
        if self.places[place].sequence != sequence {
            outcome.late += 1; // given up before, or a duplicate
            return;
        }
        outcome.count(window, now_ns());
        self.places[place].sequence += count;
        free.push(place);
    }

    fn give_up_old(&mut self, now: u64, free: &mut Vec<usize>, outcome: &mut Outcome) {
        free.clear();
        let count = self.places.len() as u64;
        for (index, place) in self.places.iter_mut().enumerate() {
            if now.saturating_sub(place.sent_ns) > LOST_NS {
                outcome.lost += 1;
                place.sequence += count;
                free.push(index);
            }
        }
    }

    fn send(
        &mut self,
        filler: &Filler,
        batch: &mut Batch,
        free: &[usize],
        size: usize,
        outcome: &mut Outcome,
    ) -> io::Result<()> {
        if free.is_empty() {
            return Ok(());
        }
        let now = now_ns();
        for (index, &place) in free.iter().enumerate() {
            self.places[place].sent_ns = now;
            filler.write_message(batch.place(index, size), self.id, self.places[place].sequence);
        }
        match batch.send(self.socket.as_raw_fd(), free.len(), false) {
            Ok(_) => Ok(()), // what did not fit is found lost
            Err(error) => outcome.failed(error),
        }
    }
}
