//! The loop: hand over what is due, wait until the next is or something comes, take it in.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use crate::LabError;
use crate::command::{LINE_BYTES, Late, answer};
use crate::sys::{self, Epoll, now_ns};
use crate::wan::Wan;
use crate::world::read_world;

const LISTENER: u64 = u64::MAX;
const FIRST_CLIENT: u64 = 1 << 32;
const MOST_CLIENTS: usize = 16;
const FRAME_BYTES: usize = 1 << 16;
const FRAMES_A_TURN: usize = 16; // of one device, then the others and what is due have theirs
const AWAKE_NS: u64 = 30_000; // so close to the next frame, sleeping would make it late

/// Carry frames between the nodes of a world until the process ends, and obey who connects to the listener.
pub fn run(world: &[u8], listener: UnixListener) -> Result<(), LabError> {
    let world = read_world(world)?;
    let wan = Wan::new(&world)?;
    let mut devices = Vec::with_capacity(world.nodes.len());
    for node in &world.nodes {
        let opened = sys::open_tap(Path::new(&node.namespace), &node.device);
        devices.push(opened.map_err(|error| resources(format!("{} of node {}", node.device, node.name), error))?);
    }
    listener.set_nonblocking(true).map_err(|error| resources("the socket".into(), error))?;
    sys::wake_in_time();
    let is_realtime = sys::become_realtime();
    let epoll = Epoll::new().map_err(|error| resources("epoll".into(), error))?;
    let relay = Relay { wan, devices, listener, epoll, is_realtime, late: Late::default(), clients: HashMap::new() };
    relay.run().map_err(|error| resources("the relay".into(), error))
}

fn resources(what: String, source: io::Error) -> LabError {
    LabError::Resources { what, source }
}

struct Relay {
    wan: Wan,
    devices: Vec<File>,
    listener: UnixListener,
    epoll: Epoll,
    is_realtime: bool,
    late: Late,
    clients: HashMap<u64, Client>,
}

struct Client {
    stream: UnixStream,
    heard: Vec<u8>,
    unsaid: Vec<u8>,
}

impl Relay {
    fn run(mut self) -> io::Result<()> {
        for (number, device) in self.devices.iter().enumerate() {
            self.epoll.add(device.as_raw_fd(), number as u64)?;
        }
        self.epoll.add(self.listener.as_raw_fd(), LISTENER)?;
        let (mut ready, mut buffer) = (Vec::new(), vec![0; FRAME_BYTES]);
        let mut next_client = FIRST_CLIENT;
        loop {
            self.hand_over();
            self.epoll.wait(self.time_to_sleep(), &mut ready)?;
            for &token in &ready {
                match token {
                    LISTENER => self.accept(&mut next_client)?,
                    FIRST_CLIENT.. => self.serve(token)?,
                    device => self.take_in(device as usize, &mut buffer)?,
                }
            }
        }
    }

    fn hand_over(&mut self) {
        while let Some(delivery) = self.wan.take(now_ns()) {
            self.late.count(now_ns().saturating_sub(delivery.due_ns));
            // A device that is not up yet, or has no room, is a node that does not listen.
            if (&self.devices[delivery.node]).write(&delivery.frame).is_err() {
                self.wan.outside.refused += 1;
            }
        }
    }

    fn time_to_sleep(&self) -> Option<Duration> {
        let due_ns = self.wan.next_due_ns()?;
        Some(Duration::from_nanos(due_ns.saturating_sub(now_ns() + AWAKE_NS)))
    }

    fn take_in(&mut self, number: usize, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..FRAMES_A_TURN {
            match (&self.devices[number]).read(buffer) {
                Ok(bytes) => self.wan.receive(now_ns(), number, &buffer[..bytes]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                // Its namespace was taken away: that node is gone, the others are not.
                Err(_) => return self.epoll.remove(self.devices[number].as_raw_fd()),
            }
        }
        Ok(())
    }

    fn accept(&mut self, next_client: &mut u64) -> io::Result<()> {
        let Ok((stream, _)) = self.listener.accept() else { return Ok(()) };
        if self.clients.len() >= MOST_CLIENTS {
            return Ok(()); // closed: it is to come again
        }
        stream.set_nonblocking(true)?;
        self.epoll.add(stream.as_raw_fd(), *next_client)?;
        self.clients.insert(*next_client, Client { stream, heard: Vec::new(), unsaid: Vec::new() });
        *next_client += 1;
        Ok(())
    }

    fn serve(&mut self, token: u64) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(&token) else { return Ok(()) };
        let is_alive = if client.unsaid.is_empty() { client.hear() } else { client.say() };
        let mut is_alive = is_alive.is_ok();
        // One answer at a time: who does not read is not listened to.
        while is_alive && client.unsaid.is_empty() {
            let Some(line) = client.next_line() else { break };
            client.unsaid = answer(&mut self.wan, &line, &self.late, self.is_realtime);
            is_alive = client.say().is_ok();
        }
        if !is_alive || client.heard.len() > LINE_BYTES {
            self.clients.remove(&token); // closing takes it out of epoll
            return Ok(());
        }
        self.epoll.turn(client.stream.as_raw_fd(), token, !client.unsaid.is_empty())
    }
}

impl Client {
    fn hear(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while self.heard.len() <= LINE_BYTES {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(bytes) => self.heard.extend(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = self.heard.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.heard.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    fn say(&mut self) -> io::Result<()> {
        while !self.unsaid.is_empty() {
            match self.stream.write(&self.unsaid) {
                Ok(bytes) => drop(self.unsaid.drain(..bytes)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
