//! A question in, an answer out. Pure: the caller brings the table, the map of places, and whose turn it is.
//!
//! No answer is much larger than its question: what could be large is not asked twice (ANY, RFC 8482), and what is
//! beyond a datagram is asked again over TCP.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::rdata::{A, AAAA, HINFO, NS};
use hickory_proto::rr::{DNSClass, LowerName, RData, Record, RecordType};

use crate::places::{Places, Point};
use crate::subnet::subnet;
use crate::table::{Table, Zone};

const HEADER_BYTES: usize = 12;
const PLAIN_BYTES: usize = 512; // of a datagram, for who does not say more
const MOST_BYTES: usize = 1232; // passes every path unfragmented (DNS flag day 2020)
const SERVERS_TTL_S: u32 = 3600; // of name servers and their addresses

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What became of a question, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Answered,
    /// There is no such name, or nothing of that type.
    Negative,
    /// Not of our zones.
    Refused,
    Malformed,
    /// There is no table yet.
    Failed,
}

#[derive(Debug)]
pub struct Reply {
    pub bytes: Vec<u8>,
    pub kind: Kind,
}

/// Nothing where nothing may be said: to what is no question at all.
#[must_use]
pub fn answer(
    table: Option<&Table>,
    places: Option<&Places>,
    query: &[u8],
    asker: IpAddr,
    transport: Transport,
    turn: usize,
) -> Option<Reply> {
    let head = query.get(..HEADER_BYTES)?;
    if head[2] & 0x80 != 0 {
        return None; // an answer: two servers could go on for ever
    }
    let op_code = OpCode::from_u8(head[2] >> 3 & 0xf);
    let Ok(asked) = Message::from_vec(query) else {
        let id = u16::from_be_bytes([head[0], head[1]]);
        return encoded(&Message::error_msg(id, op_code, ResponseCode::FormErr), PLAIN_BYTES, Kind::Malformed);
    };
    let (made, kind) = reply(table, places, &asked, asker, turn);
    let room = match (transport, &asked.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => PLAIN_BYTES,
        (Transport::Udp, Some(edns)) => usize::from(edns.max_payload()).clamp(PLAIN_BYTES, MOST_BYTES),
    };
    encoded(&made, room, kind)
}

/// The same question with nothing but the word to ask over TCP.
#[must_use]
pub fn truncated(query: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(query).ok()?;
    let mut made = Message::new(asked.id, MessageType::Response, asked.op_code);
    made.metadata = Metadata::response_from_request(&asked.metadata);
    made.metadata.truncation = true;
    made.queries = asked.queries;
    made.to_vec().ok()
}

fn encoded(made: &Message, room: usize, kind: Kind) -> Option<Reply> {
    let bytes = made.to_vec().ok()?;
    if bytes.len() <= room {
        return Some(Reply { bytes, kind });
    }
    Some(Reply { bytes: made.truncate().to_vec().ok()?, kind })
}

fn reply(
    table: Option<&Table>,
    places: Option<&Places>,
    asked: &Message,
    asker: IpAddr,
    turn: usize,
) -> (Message, Kind) {
    let mut made = Message::new(asked.id, MessageType::Response, asked.op_code);
    made.metadata = Metadata::response_from_request(&asked.metadata);
    made.queries.clone_from(&asked.queries);
    let refuse = |mut made: Message, code: ResponseCode, kind: Kind| {
        made.metadata.response_code = code;
        (made, kind)
    };
    let mut told = None;
    if let Some(edns) = &asked.edns {
        let mut own = Edns::new();
        own.set_max_payload(MOST_BYTES as u16);
        made.edns = Some(own);
        if edns.version() > 0 {
            return refuse(made, ResponseCode::BADVERS, Kind::Malformed);
        }
        match subnet(edns) {
            Ok(found) => told = found,
            Err(_) => return refuse(made, ResponseCode::FormErr, Kind::Malformed),
        }
    }
    if asked.op_code != OpCode::Query {
        return refuse(made, ResponseCode::NotImp, Kind::Malformed);
    }
    let [question] = asked.queries.as_slice() else {
        return refuse(made, ResponseCode::FormErr, Kind::Malformed);
    };
    let Some(table) = table else {
        return refuse(made, ResponseCode::ServFail, Kind::Failed);
    };
    let is_ours = matches!(question.query_class, DNSClass::IN | DNSClass::ANY)
        && !matches!(question.query_type, RecordType::AXFR | RecordType::IXFR);
    let Some(zone) = table.zone_of(&question.name).filter(|_| is_ours) else {
        return refuse(made, ResponseCode::Refused, Kind::Refused);
    };
    made.metadata.authoritative = true;
    let mut scope_bits = 0;
    let kind = fill(&mut made, table, zone, question, turn, || {
        let (from, bits) = whereabouts(places, told, asker);
        scope_bits = bits;
        from
    });
    if let (Some(told), Some(edns)) = (told, &mut made.edns) {
        let scope_bits = if told.source_prefix() == 0 { 0 } else { scope_bits };
        let scoped = ClientSubnet::new(told.addr(), told.source_prefix(), scope_bits);
        edns.options_mut().insert(EdnsOption::Subnet(scoped));
    }
    (made, kind)
}

/// Where the client is: in the network that its resolver tells, or, if it tells none, where the resolver is. And for
/// how many bits of that network this holds.
fn whereabouts(places: Option<&Places>, told: Option<ClientSubnet>, asker: IpAddr) -> (Option<Point>, u8) {
    let subnet = told.filter(|told| told.source_prefix() > 0);
    let Some(found) = places.and_then(|places| places.find(subnet.map_or(asker, |told| told.addr()))) else {
        return (None, 0);
    };
    // A longer scope than was asked for is allowed, and of no use to a resolver that keeps what it has told to itself.
    (found.point, subnet.map_or(0, |told| found.prefix_bits.min(told.source_prefix())))
}

fn fill(
    made: &mut Message,
    table: &Table,
    zone: &Zone,
    question: &Query,
    turn: usize,
    from: impl FnOnce() -> Option<Point>,
) -> Kind {
    let (name, kind) = (&question.name, question.query_type);
    let key = LowerName::new(name);
    let node = table.node(&key);
    let is_apex = table.is_apex(&key);
    if node.is_none() && !is_apex {
        made.metadata.response_code = ResponseCode::NXDomain;
        return negative(made, zone, table.ttl_s);
    }
    let record = |ttl_s, data| Record::from_rdata(name.clone(), ttl_s, data);
    match (kind, node) {
        (RecordType::A | RecordType::AAAA, Some(node)) => {
            let point = if node.has_places() { from() } else { None };
            let data: Vec<RData> = match kind {
                RecordType::A => node.v4(point, turn).into_iter().map(|at| RData::A(A(at))).collect(),
                _ => node.v6(point, turn).into_iter().map(|at| RData::AAAA(AAAA(at))).collect(),
            };
            made.answers.extend(data.into_iter().map(|data| record(table.ttl_s, data)));
        }
        (RecordType::SOA, _) if is_apex => made.answers.push(soa(zone, table.ttl_s)),
        (RecordType::NS, _) if is_apex => servers(made, zone),
        (RecordType::ANY, _) => {
            let hint = HINFO::new("RFC8482".to_string(), String::new());
            made.answers.push(record(table.ttl_s, RData::HINFO(hint)));
        }
        _ => {}
    }
    if made.answers.is_empty() { negative(made, zone, table.ttl_s) } else { Kind::Answered }
}

/// With the record that says how long this may be believed (RFC 2308).
fn negative(made: &mut Message, zone: &Zone, ttl_s: u32) -> Kind {
    made.authorities.push(soa(zone, ttl_s));
    Kind::Negative
}

fn soa(zone: &Zone, ttl_s: u32) -> Record {
    Record::from_rdata(zone.name.clone(), ttl_s, RData::SOA(zone.soa.clone()))
}

fn servers(made: &mut Message, zone: &Zone) {
    for server in &zone.servers {
        let ns = RData::NS(NS(server.name.clone()));
        made.answers.push(Record::from_rdata(zone.name.clone(), SERVERS_TTL_S, ns));
        made.additionals.extend(server.addresses.iter().map(|address| {
            let data = match address {
                IpAddr::V4(v4) => RData::A(A(*v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
            };
            Record::from_rdata(server.name.clone(), SERVERS_TTL_S, data)
        }));
    }
}
