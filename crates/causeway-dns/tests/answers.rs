//! Questions and what is answered to them, as tables; and that nothing from outside brings the server down.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::str::FromStr;

use causeway_dns::{Kind, Places, Table, Transport, answer};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;

const TABLE: &str = r#"{
  "format": 1, "serial": 7, "ttl_s": 20,
  "zones": [
    {"name": "example.net", "servers": ["ns1.example.net", "ns2.example.org"]},
    {"name": "deep.example.net", "servers": ["ns1.deep.example.net"]}
  ],
  "hosts": [
    {"name": "ns1.example.net", "addresses": ["192.0.2.53", "2001:db8::53"]},
    {"name": "ns1.deep.example.net", "addresses": ["192.0.2.53"]}
  ],
  "names": [
    {"name": "ssh.example.net", "sites": [
      {"location": [50.11, 8.68], "addresses": ["192.0.2.1", "2001:db8::1"]},
      {"location": [50.15, 8.60], "addresses": ["192.0.2.2"]},
      {"location": [40.71, -74.0], "addresses": ["192.0.2.9"]},
      {"location": null, "addresses": ["192.0.2.99"]}
    ]},
    {"name": "example.net", "sites": [{"location": null, "addresses": ["192.0.2.1"]}]},
    {"name": "a.b.example.net", "sites": [{"location": null, "addresses": [
      "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6"]}]},
    {"name": "gone.example.net", "sites": []},
    {"name": "x.deep.example.net", "sites": [{"location": null, "addresses": ["192.0.2.7"]}]},
    {"name": "elsewhere.example.org", "sites": [{"location": null, "addresses": ["192.0.2.8"]}]}
  ]
}"#;

fn table() -> Table {
    Table::compile(TABLE.as_bytes()).unwrap()
}

fn asked(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.metadata.recursion_desired = true;
    message
}

fn with_subnet(mut message: Message, subnet: &str) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::from_str(subnet).unwrap()));
    message.set_edns(edns);
    message
}

fn told(message: &Message) -> (Message, Kind) {
    told_by(message, None, "198.51.100.1", Transport::Udp, 0)
}

fn told_by(
    message: &Message,
    places: Option<&Places>,
    from: &str,
    transport: Transport,
    turn: usize,
) -> (Message, Kind) {
    let bytes = message.to_vec().unwrap();
    let reply = answer(Some(&table()), places, &bytes, from.parse().unwrap(), transport, turn).unwrap();
    let made = Message::from_vec(&reply.bytes).unwrap();
    assert_eq!((made.id, made.message_type), (message.id, MessageType::Response));
    (made, reply.kind)
}

fn addresses(message: &Message) -> Vec<String> {
    let mut found: Vec<String> =
        message.answers.iter().filter_map(|record| record.data.ip_addr()).map(|at| at.to_string()).collect();
    found.sort();
    found
}

fn code(name: &str, kind: RecordType) -> (ResponseCode, usize, Kind) {
    let (made, kind) = told(&asked(name, kind));
    (made.response_code, made.answers.len(), kind)
}

#[test]
fn each_question_has_its_answer() {
    use Kind::{Answered, Negative, Refused};
    use RecordType::{A, AAAA, ANY, AXFR, CNAME, NS, SOA, TXT};
    use ResponseCode::{NXDomain, NoError};
    let cases = [
        // name                     type   code                   answers  kind
        ("ssh.example.net.", A, NoError, 4, Answered),
        ("SSH.eXample.NET.", A, NoError, 4, Answered),
        ("ssh.example.net.", AAAA, NoError, 1, Answered),
        ("ssh.example.net.", TXT, NoError, 0, Negative),
        ("ssh.example.net.", CNAME, NoError, 0, Negative),
        ("ssh.example.net.", ANY, NoError, 1, Answered),
        ("example.net.", A, NoError, 1, Answered),
        ("example.net.", SOA, NoError, 1, Answered),
        ("example.net.", NS, NoError, 2, Answered),
        ("ns1.example.net.", A, NoError, 1, Answered),
        ("ns1.example.net.", AAAA, NoError, 1, Answered),
        ("b.example.net.", A, NoError, 0, Negative), // there is a name below it
        ("gone.example.net.", A, NoError, 0, Negative), // no edge has it, and the name is one
        ("nowhere.example.net.", A, NXDomain, 0, Negative),
        ("x.ssh.example.net.", A, NXDomain, 0, Negative),
        ("x.deep.example.net.", A, NoError, 1, Answered),
        ("deep.example.net.", A, NoError, 0, Negative),
        ("y.deep.example.net.", A, NXDomain, 0, Negative),
        ("elsewhere.example.org.", A, ResponseCode::Refused, 0, Refused),
        ("net.", A, ResponseCode::Refused, 0, Refused),
        (".", NS, ResponseCode::Refused, 0, Refused),
        ("example.net.", AXFR, ResponseCode::Refused, 0, Refused),
    ];
    for (name, kind, expected, answers, became) in cases {
        assert_eq!(code(name, kind), (expected, answers, became), "{name} {kind}");
    }
}

#[test]
fn a_negative_answer_says_for_how_long_in_the_soa_of_the_nearest_zone() {
    for (name, zone) in [("nowhere.example.net.", "example.net."), ("y.deep.example.net.", "deep.example.net.")] {
        let (made, _) = told(&asked(name, RecordType::A));
        let [record] = made.authorities.as_slice() else { panic!("{:?}", made.authorities) };
        assert_eq!((record.name.to_ascii().as_str(), record.ttl), (zone, 20));
        let RData::SOA(soa) = &record.data else { panic!("{record:?}") };
        assert_eq!((soa.serial, soa.minimum), (7, 20));
        assert!(made.authoritative && !made.recursion_available && made.recursion_desired);
    }
}

#[test]
fn name_servers_come_with_their_addresses_where_we_know_them() {
    let (made, _) = told(&asked("example.net.", RecordType::NS));
    let glue: Vec<IpAddr> = made.additionals.iter().filter_map(|record| record.data.ip_addr()).collect();
    assert_eq!(glue, ["192.0.2.53".parse::<IpAddr>().unwrap(), "2001:db8::53".parse().unwrap()]);
}

#[test]
fn without_a_place_of_the_client_every_edge_is_answered_and_each_has_its_turn_to_be_first() {
    let question = asked("a.b.example.net.", RecordType::A);
    let firsts: Vec<String> = (0..6)
        .map(|turn| {
            let (made, _) = told_by(&question, None, "198.51.100.1", Transport::Udp, turn);
            assert_eq!(made.answers.len(), 4, "no answer is large");
            made.answers[0].data.ip_addr().unwrap().to_string()
        })
        .collect();
    assert_eq!(firsts, ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6"]);
    assert!(told(&question).0.answers.iter().all(|record| record.ttl == 20));
}

/// Made by `mmdb` of tests/contract/mmdb.py: 10.1.0.0/16 is in Germany, 10.2.0.0/16 in the United States, 10.3.0.0/16 in New York by its degrees; an IPv6 tree.
fn places() -> Places {
    Places::from_mmdb(include_bytes!("places.mmdb").to_vec()).unwrap()
}

#[test]
fn the_nearest_place_is_answered_and_the_subnet_says_how_far_this_holds() {
    let (frankfurt, new_york) = (&["192.0.2.1", "192.0.2.2"][..], &["192.0.2.9"][..]);
    let everywhere = &["192.0.2.1", "192.0.2.2", "192.0.2.9", "192.0.2.99"][..];
    let cases = [
        // asker        subnet                addresses    scope
        ("10.1.2.3", None, frankfurt, None),
        ("10.2.2.3", None, new_york, None),
        ("10.3.2.3", None, new_york, None),
        ("198.51.100.1", None, everywhere, None),
        ("10.2.2.3", Some("10.1.2.0/24"), frankfurt, Some(16)),
        ("10.1.2.3", Some("10.2.0.0/16"), new_york, Some(16)),
        ("10.1.2.3", Some("10.0.0.0/8"), everywhere, Some(8)), // 10.0.0.0 itself is nowhere
        ("10.1.2.3", Some("0.0.0.0/0"), frankfurt, Some(0)),   // its client does not want to be known: the resolver is
        ("2001:db8::1", Some("10.3.0.0/24"), new_york, Some(16)),
    ];
    let places = places();
    for (asker, subnet, expected, scope) in cases {
        let question = asked("ssh.example.net.", RecordType::A);
        let question = subnet.map_or(question.clone(), |subnet| with_subnet(question, subnet));
        let (made, _) = told_by(&question, Some(&places), asker, Transport::Udp, 0);
        assert_eq!(addresses(&made), expected, "{asker} {subnet:?}");
        assert_eq!(scope_of(&made), scope, "{asker} {subnet:?}");
    }
    let question = with_subnet(asked("ssh.example.net.", RecordType::AAAA), "10.2.0.0/16");
    let (made, _) = told_by(&question, Some(&places), "10.2.0.1", Transport::Udp, 0);
    assert_eq!(addresses(&made), ["2001:db8::1"], "the nearest of those that have the family");
}

fn scope_of(message: &Message) -> Option<u8> {
    let Some(EdnsOption::Subnet(subnet)) = message.edns.as_ref()?.option(EdnsCode::Subnet) else { return None };
    Some(subnet.scope_prefix())
}

#[test]
fn an_answer_that_is_the_same_everywhere_has_the_scope_of_everywhere() {
    let places = places();
    for (name, kind) in [
        ("a.b.example.net.", RecordType::A),
        ("nowhere.example.net.", RecordType::A),
        ("example.net.", RecordType::SOA),
        ("ssh.example.net.", RecordType::TXT),
    ] {
        let question = with_subnet(asked(name, kind), "10.1.2.0/24");
        let (made, _) = told_by(&question, Some(&places), "10.2.0.1", Transport::Udp, 0);
        assert_eq!(scope_of(&made), Some(0), "{name} {kind}");
    }
}

#[test]
fn what_is_no_proper_question_is_told_so() {
    let edit = |change: &dyn Fn(&mut Message)| {
        let mut message = with_subnet(asked("ssh.example.net.", RecordType::A), "10.1.2.0/24");
        change(&mut message);
        told(&message).0.response_code
    };
    let subnet = |message: &mut Message, address: &str, source: u8, scope: u8| {
        let option = EdnsOption::Subnet(ClientSubnet::new(address.parse().unwrap(), source, scope));
        let edns = message.edns.as_mut().unwrap();
        edns.options_mut().remove(EdnsCode::Subnet);
        edns.options_mut().insert(option);
    };
    assert_eq!(edit(&|_| {}), ResponseCode::NoError);
    assert_eq!(edit(&|message| message.metadata.op_code = OpCode::Notify), ResponseCode::NotImp);
    assert_eq!(edit(&|message| message.queries.clear()), ResponseCode::FormErr);
    assert_eq!(edit(&|message| message.queries.push(Query::new())), ResponseCode::FormErr);
    assert_eq!(edit(&|message| message.queries[0].query_class = DNSClass::CH), ResponseCode::Refused);
    let later = |message: &mut Message| {
        message.edns.as_mut().unwrap().set_version(1);
    };
    assert_eq!(edit(&later).low(), ResponseCode::BADVERS.low(), "a code that it shares with BADSIG");
    assert_eq!(edit(&later).high(), ResponseCode::BADVERS.high());
    assert_eq!(edit(&|message| subnet(message, "10.1.2.0", 24, 8)), ResponseCode::FormErr);
    assert_eq!(edit(&|message| subnet(message, "10.1.2.3", 25, 0)), ResponseCode::FormErr);
    let twice = |message: &mut Message| {
        let option = EdnsOption::Subnet(ClientSubnet::from_str("10.2.0.0/16").unwrap());
        message.edns.as_mut().unwrap().options_mut().insert(option);
    };
    assert_eq!(edit(&twice), ResponseCode::FormErr);
}

#[test]
fn an_answer_is_answered_by_nobody_and_without_a_table_it_is_a_failure() {
    let mut message = asked("ssh.example.net.", RecordType::A);
    let bytes = message.to_vec().unwrap();
    let from = "198.51.100.1".parse().unwrap();
    let reply = answer(None, None, &bytes, from, Transport::Udp, 0).unwrap();
    assert_eq!(Message::from_vec(&reply.bytes).unwrap().response_code, ResponseCode::ServFail);
    message.metadata.message_type = MessageType::Response;
    assert!(answer(Some(&table()), None, &message.to_vec().unwrap(), from, Transport::Udp, 0).is_none());
}

#[test]
fn what_is_beyond_a_datagram_is_truncated_and_whole_over_tcp() {
    let servers: Vec<String> = (0..40).map(|n| format!("\"{}{n}.example.org\"", "s".repeat(50))).collect();
    let json = format!(
        r#"{{"format": 1, "serial": 1, "ttl_s": 20, "hosts": [], "names": [],
            "zones": [{{"name": "example.net", "servers": [{}]}}]}}"#,
        servers.join(",")
    );
    let table = Table::compile(json.as_bytes()).unwrap();
    let question = asked("example.net.", RecordType::NS).to_vec().unwrap();
    let from = "198.51.100.1".parse().unwrap();
    let udp = answer(Some(&table), None, &question, from, Transport::Udp, 0).unwrap();
    let made = Message::from_vec(&udp.bytes).unwrap();
    assert!(made.truncation && made.answers.is_empty() && udp.bytes.len() <= 512);
    let tcp = answer(Some(&table), None, &question, from, Transport::Tcp, 0).unwrap();
    let made = Message::from_vec(&tcp.bytes).unwrap();
    assert!(!made.truncation && made.answers.len() == 40);
}

#[test]
fn no_answer_is_much_larger_than_its_question() {
    for kind in [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::NS, RecordType::SOA, RecordType::TXT] {
        for name in ["ssh.example.net.", "example.net.", "a.b.example.net.", "nowhere.example.net."] {
            let question = asked(name, kind).to_vec().unwrap();
            let from = "198.51.100.1".parse().unwrap();
            let reply = answer(Some(&table()), None, &question, from, Transport::Udp, 0).unwrap();
            assert!(reply.bytes.len() <= 5 * question.len(), "{name} {kind}: {}", reply.bytes.len());
        }
    }
}

#[test]
fn a_table_that_is_none_is_refused_with_what_is_wrong() {
    let cases = [
        ("{", "EOF"),
        (r#"{"format": 2, "serial": 1, "ttl_s": 1, "zones": [], "hosts": [], "names": []}"#, "its format is 2"),
        (
            r#"{"format": 1, "serial": 1, "ttl_s": 1, "zones": [{"name": "a", "servers": []}], "hosts": [], "names": []}"#,
            "no name server",
        ),
        (
            r#"{"format": 1, "serial": 1, "ttl_s": 1, "zones": [], "hosts": [],
                "names": [{"name": "a", "sites": [{"location": [91, 0], "addresses": []}]}]}"#,
            "no degrees",
        ),
        (r#"{"format": 1, "extra": 1}"#, "unknown field"),
    ];
    for (json, expected) in cases {
        let why = Table::compile(json.as_bytes()).unwrap_err().to_string();
        assert!(why.contains(expected), "{json}: {why}");
    }
}

#[test]
fn a_zone_whose_name_leaves_no_room_for_its_contact_is_answered() {
    let label = "a".repeat(60);
    let zone = [&label, &label, &label, &label, "bbbbb"].join(".");
    let json = format!(
        r#"{{"format": 1, "serial": 1, "ttl_s": 20, "hosts": [], "names": [],
            "zones": [{{"name": "{zone}", "servers": ["ns1.example.org"]}}]}}"#
    );
    let table = Table::compile(json.as_bytes()).unwrap();
    let question = asked(&format!("{zone}."), RecordType::SOA).to_vec().unwrap();
    let reply = answer(Some(&table), None, &question, "192.0.2.1".parse().unwrap(), Transport::Tcp, 0).unwrap();
    assert_eq!(reply.kind, Kind::Answered);
}

fn is_calm(bytes: &[u8]) -> bool {
    let places = places();
    let from = "10.1.2.3".parse().unwrap();
    let replies = [Transport::Udp, Transport::Tcp]
        .map(|transport| answer(Some(&table()), Some(&places), bytes, from, transport, 3));
    replies.into_iter().flatten().all(|reply| Message::from_vec(&reply.bytes).is_ok())
}

#[test]
fn every_beginning_of_a_question_and_every_changed_byte_of_it_is_survived() {
    let whole = with_subnet(asked("ssh.example.net.", RecordType::A), "10.1.2.0/24").to_vec().unwrap();
    for end in 0..=whole.len() {
        assert!(is_calm(&whole[..end]), "{end}");
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff] {
            let mut changed = whole.clone();
            changed[at] = value;
            assert!(is_calm(&changed), "{at} {value}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(is_calm(&bytes));
    }

    #[test]
    fn any_bytes_behind_a_header_of_a_question_are_survived(
        counts in prop::array::uniform4(0u8..3), bytes in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        let mut query = vec![0, 7, 1, 0];
        counts.iter().for_each(|count| query.extend([0, *count]));
        query.extend(bytes);
        prop_assert!(is_calm(&query));
    }

    #[test]
    fn any_table_is_taken_or_refused(json in "\\PC{0,200}") {
        let _ = Table::compile(json.as_bytes());
    }
}
