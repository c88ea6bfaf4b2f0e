//! All links of a world: frames in, frames out when their time has come.
//!
//! Pure: the caller brings the time and never lets it go back. Every frame that gets out came in, and is counted by its link.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ip_network::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::Serialize;

use crate::LabError;
use crate::direction::{Direction, Frame, Offer, Step};
use crate::frame::{self, Mac, Read};
use crate::shape::Change;
use crate::world::World;

const MOST_HELD_BYTES: u64 = 512 << 20;
const NO_LINK: u32 = u32::MAX;

/// A frame that is due at a node.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery {
    pub node: usize,
    pub frame: Frame,
    pub due_ns: u64,
}

/// What belongs to no link.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outside {
    /// To an address that is none of a lab.
    pub fenced: u64,
    /// To a node that no link leads to, or a station that is no node.
    pub unlinked: u64,
    /// For all on a network, or not IP.
    pub local: u64,
    pub malformed: u64,
    /// Neighbours that were asked for, and found.
    pub answered: u64,
    /// Which a node's device did not take.
    pub refused: u64,
}

pub struct Wan {
    nodes: Vec<Node>,
    numbers: HashMap<String, usize>,
    macs: HashMap<Mac, usize>,
    prefixes: Vec<(IpNetwork, usize)>,
    /// There and back of each link.
    directions: Vec<Direction>,
    ends: Vec<(usize, usize)>,
    between: Vec<u32>,
    planned: BinaryHeap<Planned>,
    sequence: u64,
    held_bytes: u64,
    steps: Vec<(u64, Step)>,
    pub outside: Outside,
}

struct Node {
    name: String,
    mac: Mac,
    is_down: bool,
}

struct Planned {
    at_ns: u64,
    sequence: u64,
    event: Event,
}

enum Event {
    Step(u32, Step),
    Answer(usize, Frame),
}

impl Wan {
    pub fn new(world: &World) -> Result<Wan, LabError> {
        let nodes: Vec<Node> =
            world.nodes.iter().map(|n| Node { name: n.name.clone(), mac: n.mac, is_down: false }).collect();
        let count = nodes.len();
        let mut prefixes: Vec<(IpNetwork, usize)> = world
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(number, node)| node.prefixes.iter().map(move |prefix| (*prefix, number)))
            .collect();
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.netmask())); // stable: of equals the first
        let mut wan = Wan {
            numbers: nodes.iter().enumerate().map(|(number, node)| (node.name.clone(), number)).collect(),
            macs: nodes.iter().enumerate().map(|(number, node)| (node.mac, number)).collect(),
            nodes,
            prefixes,
            directions: Vec::with_capacity(world.links.len() * 2),
            ends: Vec::with_capacity(world.links.len() * 2),
            between: vec![NO_LINK; count * count],
            planned: BinaryHeap::new(),
            sequence: 0,
            held_bytes: 0,
            steps: Vec::new(),
            outside: Outside::default(),
        };
        for link in &world.links {
            let [a, b] = [wan.number(&link.between[0])?, wan.number(&link.between[1])?];
            for (from, to, shape) in [(a, b, &link.there), (b, a, &link.back)] {
                let number = wan.directions.len();
                wan.between[from * count + to] = number as u32;
                wan.directions.push(Direction::new(shape.clone(), world.seed, number as u64));
                wan.ends.push((from, to));
            }
        }
        Ok(wan)
    }

    /// A node has sent a frame.
    pub fn receive(&mut self, now_ns: u64, from: usize, frame: &[u8]) {
        match frame::read(frame) {
            Read::Asks(address) => self.answer(now_ns, from, address, frame),
            Read::Carries { to, destination } => self.carry(now_ns, from, to, destination, frame),
            Read::Local => self.outside.local += 1,
            Read::Malformed => self.outside.malformed += 1,
        }
    }

    fn answer(&mut self, now_ns: u64, from: usize, address: IpAddr, question: &[u8]) {
        let found = self.prefixes.iter().find(|(prefix, _)| prefix.contains(address));
        match found.and_then(|(_, node)| frame::answer(question, self.nodes[*node].mac)) {
            Some(answer) => {
                self.outside.answered += 1;
                self.plan(now_ns, Event::Answer(from, answer.into()));
            }
            None => self.outside.local += 1,
        }
    }

    fn carry(&mut self, now_ns: u64, from: usize, to: Mac, destination: IpAddr, frame: &[u8]) {
        if !is_of_a_lab(destination) {
            self.outside.fenced += 1;
            return;
        }
        let link = self.macs.get(&to).map_or(NO_LINK, |to| self.between[from * self.nodes.len() + to]);
        if link == NO_LINK {
            self.outside.unlinked += 1;
            return;
        }
        let is_down = self.is_down(link);
        let direction = &mut self.directions[link as usize];
        if is_down {
            direction.counts.offered += 1;
            direction.counts.cut += 1;
            return;
        }
        if self.held_bytes + frame.len() as u64 > MOST_HELD_BYTES {
            direction.counts.offered += 1;
            direction.counts.no_memory += 1;
            return;
        }
        let held_bytes = direction.held_bytes;
        let offer = direction.offer(now_ns, frame, &mut self.steps);
        self.held_bytes += direction.held_bytes - held_bytes;
        self.plan_steps(link);
        if let Offer::TooBig(mtu) = offer
            && let Some(answer) = frame::too_big(frame, mtu)
        {
            self.plan(now_ns, Event::Answer(from, answer.into()));
        }
    }

    pub fn next_due_ns(&self) -> Option<u64> {
        self.planned.peek().map(|planned| planned.at_ns)
    }

    /// What is due by now, the earliest first.
    pub fn take(&mut self, now_ns: u64) -> Option<Delivery> {
        while self.planned.peek().is_some_and(|planned| planned.at_ns <= now_ns) {
            let Planned { at_ns, event, .. } = self.planned.pop()?;
            match event {
                Event::Answer(node, frame) => return Some(Delivery { node, frame, due_ns: at_ns }),
                Event::Step(link, Step::Line) => {
                    let direction = &mut self.directions[link as usize];
                    let held_bytes = direction.held_bytes;
                    direction.line(at_ns, &mut self.steps);
                    self.held_bytes += direction.held_bytes - held_bytes;
                    self.plan_steps(link);
                }
                Event::Step(link, Step::Arrive(frame)) => {
                    let is_down = self.is_down(link);
                    let direction = &mut self.directions[link as usize];
                    self.held_bytes -= frame.len() as u64;
                    if direction.arrive(frame.len() as u64, is_down) {
                        return Some(Delivery { node: self.ends[link as usize].1, frame, due_ns: at_ns });
                    }
                }
            }
        }
        None
    }

    /// Make a link other than it is, in one direction.
    pub fn change(&mut self, from: &str, to: &str, change: &Change) -> Result<(), LabError> {
        let link = self.link(from, to)?;
        let direction = &mut self.directions[link];
        direction.shape = direction.shape.changed(change)?;
        direction.is_changed = true;
        Ok(())
    }

    /// Let everything from and to a node be lost, or no longer.
    pub fn set_down(&mut self, node: &str, is_down: bool) -> Result<(), LabError> {
        let number = self.number(node)?;
        self.nodes[number].is_down = is_down;
        Ok(())
    }

    pub fn direction(&self, from: &str, to: &str) -> Result<&Direction, LabError> {
        Ok(&self.directions[self.link(from, to)?])
    }

    pub fn directions(&self) -> impl Iterator<Item = (&str, &str, &Direction)> {
        let name = |number: usize| self.nodes[number].name.as_str();
        self.directions.iter().zip(&self.ends).map(move |(d, (from, to))| (name(*from), name(*to), d))
    }

    pub fn down(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(|node| node.is_down).map(|node| node.name.as_str())
    }

    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    fn number(&self, node: &str) -> Result<usize, LabError> {
        self.numbers.get(node).copied().ok_or_else(|| LabError::UnknownNode(node.into()))
    }

    fn link(&self, from: &str, to: &str) -> Result<usize, LabError> {
        let [a, b] = [self.number(from)?, self.number(to)?];
        match self.between[a * self.nodes.len() + b] {
            NO_LINK => Err(LabError::UnknownLink(from.into(), to.into())),
            link => Ok(link as usize),
        }
    }

    fn is_down(&self, link: u32) -> bool {
        let (from, to) = self.ends[link as usize];
        self.nodes[from].is_down || self.nodes[to].is_down
    }

    fn plan_steps(&mut self, link: u32) {
        let mut steps = std::mem::take(&mut self.steps);
        for (at_ns, step) in steps.drain(..) {
            self.plan(at_ns, Event::Step(link, step));
        }
        self.steps = steps;
    }

    fn plan(&mut self, at_ns: u64, event: Event) {
        self.sequence += 1;
        self.planned.push(Planned { at_ns, sequence: self.sequence, event });
    }
}

/// Benchmarking, documentation, and a node's own neighbours.
fn is_of_a_lab(address: IpAddr) -> bool {
    const V4: [(Ipv4Addr, u8); 4] = [
        (Ipv4Addr::new(198, 18, 0, 0), 15),
        (Ipv4Addr::new(192, 0, 2, 0), 24),
        (Ipv4Addr::new(198, 51, 100, 0), 24),
        (Ipv4Addr::new(203, 0, 113, 0), 24),
    ];
    const V6: [(Ipv6Addr, u8); 2] =
        [(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)];
    match address {
        IpAddr::V4(address) => {
            V4.iter().any(|(base, length)| Ipv4Network::new(*base, *length).is_ok_and(|n| n.contains(address)))
        }
        IpAddr::V6(address) => {
            V6.iter().any(|(base, length)| Ipv6Network::new(*base, *length).is_ok_and(|n| n.contains(address)))
        }
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    /// The earliest is the greatest; of equals, the one planned first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_ns, other.sequence).cmp(&(self.at_ns, self.sequence))
    }
}
