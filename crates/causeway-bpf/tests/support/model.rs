//! What `flow.bpf.c` does with a packet, in Rust and on plain values: its twin, to be compared with it.
//!
//! Written from the rules of bpf/README.md, not from the program. Left out: routes (everything has one), fragments,
//! and which source port is taken, which is learnt from the program and judged.

use std::collections::HashMap;
use std::net::SocketAddr;

use causeway_bpf::flow::{Answer, Flow, FlowKey, HeaderKind, Side};
use causeway_wire::{Endpoints, proxy_v1, proxy_v2, simple_proxy};

use super::packet::{ACK, FIN, RST, SYN};

const WINDOW: u32 = 1 << 25;

/// A TCP or UDP packet as the model takes and gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub key: FlowKey,
    pub hops: u8,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub payload: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct Direction {
    next: u32,
    bytes: u64,
    packets: u32,
    has_finished: bool,
    is_finish_acked: bool,
    has_reset: bool,
    is_watched: bool,
}

#[derive(Clone, Debug)]
struct Connection {
    client_key: FlowKey,
    /// Source to origin: what the client's packets become.
    becomes: FlowKey,
    sides: [Direction; 2],
    is_established: bool,
    is_closed: bool,
    is_syn_seen: bool,
    text: Vec<u8>,
    is_pending: bool,
    is_sent: bool,
}

pub struct Model {
    pub header: [HeaderKind; 2],
    /// Edge ports that are carried, and go to the same port of the origin.
    pub ports: std::ops::RangeInclusive<u16>,
    pub edges: Vec<std::net::IpAddr>,
    /// The origins that see the client's own address and port; empty: they see ours.
    pub transparent_to: Vec<std::net::IpAddr>,
    flows: HashMap<FlowKey, Connection>,
    /// From an origin's key to the client's.
    origins: HashMap<FlowKey, FlowKey>,
    /// Legs of flows that are over, by family and place: the next one there takes it.
    ended: HashMap<(bool, u32), FlowKey>,
}

fn reversed(key: FlowKey) -> FlowKey {
    FlowKey { from: key.to, to: key.from, is_tcp: key.is_tcp }
}

fn place(leg: &FlowKey) -> (bool, u32) {
    (leg.from.is_ipv4(), leg.place())
}

fn is_within(at: u32, expected: u32) -> bool {
    at.wrapping_sub(expected).wrapping_add(WINDOW) <= 2 * WINDOW
}

fn is_ahead(at: u32, of: u32) -> bool {
    at.wrapping_sub(of) as i32 > 0
}

pub fn text_of(header: HeaderKind, key: FlowKey) -> Vec<u8> {
    let ends = Endpoints { source: key.from, destination: key.to };
    let transport = if key.is_tcp { proxy_v2::Transport::Stream } else { proxy_v2::Transport::Datagram };
    match (header, key.is_tcp, key.from) {
        (HeaderKind::None, ..) | (HeaderKind::ProxyV1, false, _) | (HeaderKind::Simple, true, _) => Vec::new(),
        (HeaderKind::ProxyV1, true, SocketAddr::V4(_)) => {
            let mut out = [0; proxy_v1::MAX_LINE];
            let n = proxy_v1::encode(&ends, &mut out);
            out[..n].to_vec()
        }
        (HeaderKind::ProxyV1, true, SocketAddr::V6(_)) => {
            let groups = |address: SocketAddr| match address {
                SocketAddr::V6(v6) => v6.ip().segments().map(|group| format!("{group:04x}")).join(":"),
                SocketAddr::V4(_) => unreachable!("both are of one family"),
            };
            let (from, to) = (groups(key.from), groups(key.to));
            format!("PROXY TCP6 {from} {to} {} {}\r\n", key.from.port(), key.to.port()).into_bytes()
        }
        (HeaderKind::Simple, false, _) => {
            let mut out = [0; simple_proxy::LEN];
            simple_proxy::encode(&ends, &mut out);
            out.to_vec()
        }
        _ => {
            let mut out = [0; proxy_v2::MAX_ENCODED];
            let n = proxy_v2::encode(&ends, transport, &mut out);
            out[..n].to_vec()
        }
    }
}

impl Model {
    pub fn new(header: [HeaderKind; 2], ports: std::ops::RangeInclusive<u16>, edges: Vec<std::net::IpAddr>) -> Model {
        let transparent_to = Vec::new();
        Model {
            header,
            ports,
            edges,
            transparent_to,
            flows: HashMap::new(),
            origins: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    /// Is a flow over, and the place of one of its legs another's by now? What becomes of its packets, but for a first
    /// one, depends on which.
    pub fn is_torn(&self, client: &FlowKey) -> bool {
        let Some(flow) = self.flows.get(client).filter(|flow| flow.is_closed) else { return false };
        [*client, reversed(flow.becomes)].iter().any(|leg| self.ended.get(&place(leg)) != Some(leg))
    }

    fn end(&mut self, client: FlowKey, becomes: FlowKey) {
        for leg in [client, reversed(becomes)] {
            self.ended.insert(place(&leg), leg);
        }
    }

    /// Keys of clients that the model knows flows of.
    pub fn clients(&self) -> impl Iterator<Item = &FlowKey> {
        self.flows.keys()
    }

    /// What the other side's packets of a flow look like when they arrive, and what both sides are expected to send.
    pub fn origin_key(&self, client: &FlowKey) -> Option<(FlowKey, u32, u32, u32)> {
        self.flows.get(client).map(|flow| {
            let more = if client.is_tcp { flow.text.len() as u32 } else { 0 };
            (reversed(flow.becomes), flow.sides[0].next, flow.sides[1].next, more)
        })
    }

    /// How much longer than they came a client's datagrams go on.
    pub fn header_before(&self, client: &FlowKey) -> u32 {
        self.flows.get(client).filter(|_| !client.is_tcp).map_or(0, |flow| flow.text.len() as u32)
    }

    /// What the kernel should know of a flow; `Err` says what differs.
    pub fn agrees(&self, client: &FlowKey, flow: Option<&Flow>) -> Result<(), String> {
        let (known, flow) = match (self.flows.get(client), flow) {
            (None, None) => return Ok(()),
            (Some(known), Some(flow)) => (known, flow),
            (known, flow) => return Err(format!("model {known:?}, kernel {flow:?}")),
        };
        let [a, b] = &known.sides;
        let reset_by = if a.has_reset { Some(Side::Client) } else { b.has_reset.then_some(Side::Origin) };
        let model = (known.is_established, known.is_closed, a.bytes, b.bytes, a.packets, b.packets, reset_by);
        let kernel = (
            flow.is_established,
            flow.is_closed,
            flow.client_bytes,
            flow.origin_bytes,
            flow.client_packets,
            flow.origin_packets,
            flow.was_reset_by,
        );
        let finished = (a.has_finished, b.has_finished) == (flow.has_finished_client, flow.has_finished_origin);
        let next = !client.is_tcp || (a.next, b.next) == (flow.expected(Side::Client), flow.expected(Side::Origin));
        if model == kernel && finished && next { Ok(()) } else { Err(format!("model {known:?}, kernel {flow:?}")) }
    }

    /// The packet's fate. `chosen` is what the program made of it, from which a new flow's source is learnt.
    pub fn take(&mut self, packet: &Segment, chosen: &FlowKey) -> (Answer, Option<Segment>) {
        let key = packet.key;
        let is_syn = key.is_tcp && packet.flags & (SYN | ACK) == SYN;
        let mut client_key = self.owner(&key);
        let is_first = is_syn || (!key.is_tcp && client_key == Some(key)) || self.is_foreign(packet);
        if is_first && client_key.is_some_and(|client| self.flows[&client].is_closed) {
            self.remove(&client_key.expect("just seen"));
            client_key = None;
        }
        let client_key = match client_key {
            Some(client_key) => client_key,
            None if self.opens(packet) => {
                let own = self.own(&key);
                if own.is_some_and(|own| self.has_another(&own)) {
                    return (Answer::Dropped, None);
                }
                self.open(packet, own.as_ref().unwrap_or(chosen));
                key
            }
            None => return (Answer::Passed, None),
        };
        if packet.hops <= 1 {
            return (Answer::Dropped, None);
        }
        let before = self.flows.remove(&client_key).expect("owned");
        let mut flow = before.clone();
        let (became, stays) = flow.take(packet);
        if flow.is_closed && !before.is_closed {
            self.end(client_key, flow.becomes);
        }
        match stays {
            // What is over was told: it stays as it was.
            true => _ = self.flows.insert(client_key, if before.is_closed { before } else { flow }),
            false => _ = self.origins.remove(&reversed(flow.becomes)),
        }
        match became {
            Some(segment) => (Answer::Sent, Some(Segment { hops: packet.hops - 1, ..segment })),
            None => (Answer::Dropped, None),
        }
    }

    /// The origin's machine says that nobody listens there.
    pub fn refuse(&mut self, client: &FlowKey) {
        if let Some(flow) = self.flows.get_mut(client).filter(|flow| !client.is_tcp && !flow.is_closed) {
            (flow.is_closed, flow.sides[1].has_reset) = (true, true);
            let becomes = flow.becomes;
            self.end(*client, becomes);
        }
    }

    /// The client's key of the flow that a packet belongs to; of none, its own.
    pub fn client_of(&self, key: &FlowKey) -> FlowKey {
        self.owner(key).unwrap_or(*key)
    }

    fn owner(&self, key: &FlowKey) -> Option<FlowKey> {
        self.flows.contains_key(key).then_some(*key).or_else(|| self.origins.get(key).copied())
    }

    /// Of another connection than the one that is over, which had its addresses and ports.
    fn is_foreign(&self, packet: &Segment) -> bool {
        let is_ahead = |flow: &Connection| flow.sides[0].next.wrapping_sub(packet.seq) > WINDOW;
        packet.key.is_tcp && self.flows.get(&packet.key).is_some_and(is_ahead)
    }

    fn remove(&mut self, client: &FlowKey) {
        if let Some(flow) = self.flows.remove(client) {
            self.origins.remove(&reversed(flow.becomes));
        }
    }

    fn opens(&self, packet: &Segment) -> bool {
        let is_first = !packet.key.is_tcp || packet.flags & (SYN | ACK | RST | FIN) == SYN;
        let is_bare = packet.payload.is_empty() || !packet.key.is_tcp || self.header[0] == HeaderKind::None;
        self.edges.contains(&packet.key.to.ip()) && self.ports.contains(&packet.key.to.port()) && is_first && is_bare
    }

    /// What a client's packets become where the origin is to see its own address and port.
    fn own(&self, client: &FlowKey) -> Option<FlowKey> {
        let origin = self.transparent_to.iter().find(|origin| origin.is_ipv4() == client.from.is_ipv4())?;
        Some(FlowKey { to: SocketAddr::new(*origin, client.to.port()), ..*client })
    }

    /// Has a flow that is not over the same ends towards the origin?
    fn has_another(&self, becomes: &FlowKey) -> bool {
        self.origins.get(&reversed(*becomes)).is_some_and(|other| !self.flows[other].is_closed)
    }

    fn open(&mut self, packet: &Segment, chosen: &FlowKey) {
        let back = reversed(*chosen);
        if let Some(other) = self.origins.get(&back).copied() {
            assert!(self.flows[&other].is_closed, "{chosen:?} belongs to {other:?}");
            self.remove(&other);
        }
        let kind = self.header[usize::from(!packet.key.is_tcp)];
        let text = text_of(kind, packet.key);
        let is_pending = !text.is_empty() && (packet.key.is_tcp || kind != HeaderKind::ProxyV2);
        let mut sides = [Direction::default(), Direction::default()];
        sides[0].next = packet.seq.wrapping_add(1);
        self.origins.insert(back, packet.key);
        let connection = Connection {
            client_key: packet.key,
            becomes: *chosen,
            sides,
            is_established: false,
            is_closed: false,
            is_syn_seen: false,
            text,
            is_pending,
            is_sent: false,
        };
        self.flows.insert(packet.key, connection);
    }
}

impl Connection {
    /// The packet as it goes on (`None`: dropped), and whether the flow is still there.
    fn take(&mut self, packet: &Segment) -> (Option<Segment>, bool) {
        let is_origin = packet.key != self.client_key;
        let key = if is_origin { reversed(self.client_key) } else { self.becomes };
        let mut out = Segment { key, ..packet.clone() };
        if !packet.key.is_tcp {
            let Some(payload) = self.datagram(is_origin, &mut out) else { return (None, true) };
            let side = &mut self.sides[usize::from(is_origin)];
            side.bytes += payload as u64;
            side.packets += 1;
            // Two-way is who has something to say to an answer.
            self.is_established |= !is_origin && self.is_syn_seen && !self.is_closed;
            self.is_syn_seen |= is_origin;
            return (Some(out), true);
        }
        let mut packet = packet.clone();
        self.translate(is_origin, &mut packet, &mut out);
        let stays = match self.is_established {
            true => {
                self.established(is_origin, &packet);
                true
            }
            false => self.handshake(is_origin, &packet),
        };
        (Some(out), stays)
    }

    /// Answers how much of it is the sender's own.
    fn datagram(&mut self, is_origin: bool, out: &mut Segment) -> Option<usize> {
        let payload = out.payload.len();
        if self.text.is_empty() {
            return Some(payload);
        }
        if !is_origin {
            out.payload.splice(..0, self.text.iter().copied());
            if !self.is_pending {
                self.text = Vec::new();
            }
            return Some(payload);
        }
        if self.text.len() != simple_proxy::LEN {
            return Some(payload);
        }
        let (told, _) = simple_proxy::decode(&out.payload).ok()?;
        if told != (Endpoints { source: self.client_key.from, destination: self.client_key.to }) {
            return None;
        }
        out.payload.drain(..simple_proxy::LEN);
        Some(payload - simple_proxy::LEN)
    }

    /// Between the client's numbers and the origin's. `packet` has the client's afterwards.
    fn translate(&mut self, is_origin: bool, packet: &mut Segment, out: &mut Segment) {
        let more = self.text.len() as u32;
        let client = &self.sides[0];
        let first = client.next.wrapping_sub(client.bytes as u32).wrapping_sub(client.has_finished.into());
        if more == 0 {
            return;
        }
        if is_origin {
            if packet.flags & ACK == 0 && self.is_pending {
                return;
            }
            let acked = packet.ack.wrapping_sub(first);
            if !self.is_pending {
                packet.ack = packet.ack.wrapping_sub(more);
            } else if acked < more {
                packet.ack = first;
            } else if acked < 1 << 31 {
                packet.ack = packet.ack.wrapping_sub(more);
                self.is_pending = false;
            }
            out.ack = packet.ack;
            return;
        }
        if !self.is_pending {
            out.seq = packet.seq.wrapping_add(more);
            return;
        }
        let behind = packet.seq.wrapping_sub(first);
        if packet.flags & SYN != 0 || behind >= 1 << 31 {
            return;
        }
        out.seq = packet.seq.wrapping_add(more);
        if behind != 0 || packet.flags & ACK == 0 {
            return;
        }
        if packet.flags & RST != 0 {
            out.seq = if self.is_sent { out.seq } else { packet.seq };
            return;
        }
        if !self.is_established && (!self.is_syn_seen || packet.ack != self.sides[1].next) {
            out.seq = packet.seq;
            return;
        }
        let is_new = is_ahead(packet.seq.wrapping_add(packet.payload.len() as u32), client.next);
        if !packet.payload.is_empty() && self.is_sent && is_new {
            return;
        }
        self.is_sent = true;
        out.seq = packet.seq;
        out.payload.splice(..0, self.text.iter().copied());
    }

    fn handshake(&mut self, is_origin: bool, packet: &Segment) -> bool {
        let flags = packet.flags;
        let stays = if is_origin {
            let acks = flags & ACK != 0 && self.sides[0].next.wrapping_sub(packet.ack) <= 0xffff;
            if flags & RST != 0 {
                !(if self.is_syn_seen { packet.seq == self.sides[1].next } else { acks })
            } else {
                if flags & SYN != 0 && !self.is_syn_seen && (acks || flags & ACK == 0) {
                    self.sides[1].next = packet.seq.wrapping_add(1);
                    self.is_syn_seen = true;
                }
                true
            }
        } else if flags & RST != 0 {
            packet.seq != self.sides[0].next
        } else if flags & ACK != 0 {
            let [client, origin] = &mut self.sides;
            let early = packet.ack.wrapping_sub(origin.next);
            let may_be_early = if client.bytes > 0 { 0xffff } else { 0 };
            if self.is_syn_seen && early <= may_be_early && is_within(packet.seq, client.next) {
                self.is_established = true;
                (origin.next, origin.bytes) = (packet.ack, early.into());
                self.established(false, packet);
                return true;
            }
            true
        } else {
            if flags & SYN != 0 && !self.is_syn_seen {
                let client = &mut self.sides[0];
                let first = packet.seq.wrapping_add(1);
                if first.wrapping_add(client.bytes as u32) != client.next {
                    (client.next, client.bytes) = (first, 0);
                }
                progress(client, first.wrapping_add(packet.payload.len() as u32));
            }
            true
        };
        self.sides[usize::from(is_origin)].packets += 1;
        stays
    }

    fn established(&mut self, is_origin: bool, packet: &Segment) {
        let [client, origin] = &mut self.sides;
        let (side, other) = if is_origin { (origin, client) } else { (client, origin) };
        if !is_within(packet.seq, side.next) {
            return;
        }
        side.packets += 1;
        if self.is_closed {
            return;
        }
        if packet.flags & RST != 0 {
            if !is_ahead(packet.seq, side.next) {
                side.has_reset = true;
                self.is_closed |= packet.seq == side.next;
                other.is_watched |= packet.seq != side.next;
            }
            return;
        }
        let is_simple = packet.flags & (SYN | FIN) == 0 && !side.is_watched && !side.has_finished;
        if is_simple && !is_ahead(packet.seq, side.next) {
            progress(side, packet.seq.wrapping_add(packet.payload.len() as u32));
            return;
        }
        if packet.flags & ACK == 0 || other.next.wrapping_sub(packet.ack) > WINDOW {
            return;
        }
        let is_fin = packet.flags & FIN != 0;
        if packet.flags & SYN == 0 && (is_fin || !packet.payload.is_empty()) {
            let had_finished = side.has_finished;
            side.moves_to(packet.seq.wrapping_add(packet.payload.len() as u32 + u32::from(is_fin)), is_fin);
            other.is_watched |= side.has_finished && !had_finished;
        }
        if !side.is_watched {
            return;
        }
        other.has_reset &= self.is_closed;
        if !other.has_finished {
            side.is_watched = false;
        } else if packet.ack == other.next {
            other.is_finish_acked = true;
            side.is_watched = false;
            self.is_closed |= side.is_finish_acked;
        }
    }
}

impl Direction {
    /// The stream's end, as far as it is known, is there; the last word counts.
    fn moves_to(&mut self, end: u32, is_fin: bool) {
        let had_finished = self.has_finished;
        let more = i64::from(end.wrapping_sub(self.next) as i32) + i64::from(had_finished) - i64::from(is_fin);
        let is_word = is_ahead(end, self.next) || (is_fin && end != self.next);
        if let Some(bytes) = self.bytes.checked_add_signed(more).filter(|_| is_word && !self.is_finish_acked) {
            self.bytes = bytes;
            self.next = end;
            self.has_finished = is_fin;
        }
        self.has_finished |= is_fin && end == self.next;
    }
}

fn progress(side: &mut Direction, end: u32) {
    if is_ahead(end, side.next) {
        side.bytes += u64::from(end.wrapping_sub(side.next));
        side.next = end;
    }
}
