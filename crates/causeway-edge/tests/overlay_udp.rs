//! Sessions from edge to edge: real edges in one process, real QUIC between them, real clients and origins.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::Duration;

use causeway_wire::datagram::{Kind, MAX_HEAD, Message, head};
use causeway_wire::overlay::{Answer, Hop, MAX_HOP, Name, Outcome, Path};
use causeway_wire::{Endpoints, Transport};
use serde_json::{Value, json};
use support::network::{Authority, Member, member, network, network_at, network_of};
use support::quic::{Line, Speaker};
use support::udp::{LARGEST, address, client, echo, hears_nothing, may_send_icmp, receive, receive_from, socket};
use support::{application, eventually, free_address, noise};

/// An application whose clients come to `members[0]` and whose sessions go on by `paths`; each edge gets its part of it.
fn serve(members: &[Member], edge: SocketAddr, origins: &[SocketAddr], paths: &[&[&str]], change: Value) {
    for member in members {
        let is_exit = paths.iter().any(|path| path.last() == Some(&member.name));
        let mut own = change.as_object().unwrap().clone();
        own.insert("exit".into(), json!(is_exit));
        let is_ingress = member.name == members[0].name;
        own.insert("paths".into(), if is_ingress { json!(paths) } else { json!([]) });
        if !is_ingress {
            own.insert("edge_addresses".into(), json!([]));
        }
        let all = if is_ingress || is_exit { vec![application(1, "udp", edge, origins, own.into())] } else { vec![] };
        member.apply(members, &all);
    }
}

/// Ask until there is an answer: what was under way when something broke is lost, as datagrams are.
fn ask(client: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let heard = eventually("an answer", || {
        client.send(datagram).unwrap();
        let mut buffer = vec![0; 70_000];
        let n = client.recv(&mut buffer).ok()?;
        Some(buffer[..n].to_vec())
    });
    client.set_read_timeout(Some(support::DEADLINE)).unwrap();
    heard
}

#[test]
fn a_session_goes_over_up_to_three_edges_and_back() {
    let cases: &[&[&str]] = &[&["fra"], &["lon", "fra"], &["lon", "ams", "fra"]];
    for path in cases {
        let members = network(&["par", "lon", "ams", "fra"]);
        let edge = free_address("127.0.0.1");
        serve(&members, edge, &[echo("127.0.0.1")], &[path], json!({}));
        let clients: Vec<UdpSocket> = (0..10).map(|_| client(edge)).collect();
        for round in 0..20_u64 {
            for (number, client) in clients.iter().enumerate() {
                let sent = noise(round << 8 | number as u64, 1 + 53 * round as usize);
                assert!(ask(client, &sent) == sent, "over {path:?}, round {round}");
            }
        }
    }
}

#[test]
fn sessions_of_many_workers_do_not_mix_nor_do_versions_of_ip_matter() {
    let members = network_at("::1", 3, &["par", "lon", "fra"]);
    let edge = free_address("127.0.0.1");
    serve(&members, edge, &[echo("127.0.0.1")], &[&["lon", "fra"]], json!({}));
    let clients: Vec<UdpSocket> = (0..60).map(|_| client(edge)).collect();
    for round in 0..5_u8 {
        for (number, client) in clients.iter().enumerate() {
            client.send(&[number as u8, round]).unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(receive(client), [number as u8, round]);
        }
    }
    assert_eq!(relayed(&members), [0, 60, 60]);
}

fn relayed(members: &[Member]) -> Vec<u64> {
    let count = |member: &Member| member.report()["overlay"]["relayed"]["connections_total"].as_u64().unwrap();
    members.iter().map(count).collect()
}

#[test]
fn datagrams_arrive_whole_once_and_those_that_fit_a_packet_in_order() {
    let members = network(&["par", "lon", "fra"]);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    serve(&members, edge, &[address(&origin)], &[&["lon", "fra"]], json!({}));
    let client = client(edge);
    client.send(b"first").unwrap();
    let (_, session) = receive_from(&origin);
    origin.send_to(b"heard", session).unwrap();
    assert_eq!(receive(&client), b"heard", "from now on no datagram has a header before it");
    for round in 0..50_u64 {
        let sizes = (0..64_usize).map(|i| [200, 200, 200, 200, 0, 9, 700, 1100][(i + round as usize) % 8]);
        let sent: Vec<Vec<u8>> = sizes.enumerate().map(|(i, size)| noise(round * 64 + i as u64, size)).collect();
        for datagram in &sent {
            client.send(datagram).unwrap();
        }
        for (i, datagram) in sent.iter().enumerate() {
            assert!(receive_from(&origin) == (datagram.clone(), session), "up, round {round}, datagram {i}");
        }
        for datagram in &sent {
            origin.send_to(datagram, session).unwrap();
        }
        for (i, datagram) in sent.iter().enumerate() {
            assert!(receive(&client) == *datagram, "down, round {round}, datagram {i}");
        }
    }
    assert!(hears_nothing(&origin) && hears_nothing(&client));
}

#[test]
fn datagrams_of_any_size_pass_and_the_large_ones_are_counted() {
    let members = network(&["par", "lon", "fra"]);
    let edge = free_address("127.0.0.1");
    serve(&members, edge, &[echo("127.0.0.1")], &[&["lon", "fra"]], json!({}));
    for first in [1_200, LARGEST] {
        let client = client(edge);
        for size in [first, 0, 1, 1_000, 1_200, 1_400, 1_473, 9_000, 40_000, LARGEST] {
            let sent = noise(size as u64, size);
            assert!(ask(&client, &sent) == sent, "{size} bytes, first {first}");
        }
    }
    members.iter().for_each(|member| assert!(member.counted("datagrams_large_total") >= 4, "{}", member.name));
}

#[test]
fn each_edge_records_the_session_under_one_trace_and_its_client_is_counted_once() {
    let members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), echo("127.0.0.1"));
    serve(&members, edge, &[origin], &[&["lon", "fra"]], json!({"udp_idle_timeout_ms": 300}));
    let client = client(edge);
    assert_eq!(ask(&client, b"hello"), b"hello");
    let from = address(&client).to_string();
    let opened = members[0].record("opened");
    assert_eq!(opened["origin"], origin.to_string());
    let records: Vec<Value> =
        ["idle_timeout", "closed", "closed"].iter().zip(&members).map(|(c, m)| m.record(c)).collect();
    for record in &records {
        assert_eq!((&record["trace"], &record["protocol"]), (&opened["trace"], &json!("udp")));
        assert_eq!(record["trace"].as_str().unwrap().len(), 16);
        assert_eq!((&record["client"], &record["edge"]), (&json!(from), &json!(edge.to_string())));
        assert_eq!(record["application"], format!("{:032x}", 1));
        assert_eq!((record["client_bytes"].as_u64(), record["origin_bytes"].as_u64()), (Some(5), Some(5)));
    }
    assert_eq!(records[0]["origin"], origin.to_string(), "the edge with the client knows where it went");
    assert_eq!(records[1]["origin"], members[2].at.to_string(), "the one on the way, whom it gave it to");
    assert_eq!(records[2]["origin"], origin.to_string());
    let paths = records.iter().map(|record| record["path"].clone()).collect::<Vec<_>>();
    assert_eq!(paths, [json!(["lon", "fra"]), json!(["fra"]), json!([])], "each says which edges come after it");
    let counted = |member: &Member| member.report()["totals"]["connections_total"].as_u64().unwrap();
    assert_eq!(members.iter().map(counted).collect::<Vec<_>>(), [1, 0, 0]);
    assert_eq!(relayed(&members), [0, 1, 1]);
    let open = |member: &Member| member.report()["overlay"]["relayed"]["connections_open"].as_u64().unwrap();
    assert_eq!(members.iter().map(open).collect::<Vec<_>>(), [0, 0, 0]);
}

#[test]
fn a_session_is_idle_where_its_client_is_and_nowhere_else() {
    let members = network(&["par", "lon", "fra"]);
    let edge = free_address("127.0.0.1");
    let origin = socket("127.0.0.1");
    serve(&members, edge, &[address(&origin)], &[&["lon", "fra"]], json!({"udp_idle_timeout_ms": 1_500}));
    // The others would not wait so long.
    let exit = application(
        1,
        "udp",
        edge,
        &[address(&origin)],
        json!({
            "exit": true, "edge_addresses": [], "udp_idle_timeout_ms": 50
        }),
    );
    members[2].apply(&members, &[exit]);
    let client = client(edge);
    client.send(b"a").unwrap();
    let (_, session) = receive_from(&origin);
    std::thread::sleep(Duration::from_millis(700)); // silence, and no sign to wait for
    client.send(b"b").unwrap();
    assert_eq!(receive_from(&origin), (b"b".to_vec(), session));
    members[0].record("idle_timeout");
    members[2].record("closed");
    client.send(b"c").unwrap();
    assert_ne!(receive_from(&origin).1, session, "a new session");
}

#[test]
fn the_origin_hears_the_clients_own_address_if_it_wants_to() {
    for (mode, head) in [("v2", 28), ("simple", 38)] {
        let members = network(&["par", "lon", "fra"]);
        let edge = free_address("127.0.0.1");
        let origin = socket("127.0.0.1");
        let change = json!({"proxy_protocol": mode, "udp_header": "first"});
        serve(&members, edge, &[address(&origin)], &[&["lon", "fra"]], change);
        let client = client(edge);
        client.send(b"first").unwrap();
        let (heard, session) = receive_from(&origin);
        assert_eq!(&heard[head..], b"first", "{mode}");
        let from = address(&client);
        let told = match mode {
            "v2" => u16::from_be_bytes([heard[24], heard[25]]),
            _ => u16::from_be_bytes([heard[34], heard[35]]),
        };
        assert_eq!(told, from.port(), "{mode}");
        let mut reply = if mode == "simple" { heard[..head].to_vec() } else { Vec::new() };
        reply.extend_from_slice(b"back");
        origin.send_to(&reply, session).unwrap();
        assert_eq!(receive(&client), b"back", "{mode}");
        client.send(b"second").unwrap();
        let second = receive_from(&origin).0;
        assert_eq!(second.len(), if mode == "simple" { head + 6 } else { 6 }, "{mode}");
    }
}

#[test]
fn an_origin_where_nobody_listens_is_told_at_the_edge_with_the_client() {
    let nobody = free_address("127.0.0.1");
    let members = network(&["par", "lon", "fra"]);
    let edge = free_address("127.0.0.1");
    serve(&members, edge, &[nobody], &[&["lon", "fra"]], json!({}));
    let client = client(edge);
    client.send(b"x").unwrap();
    for member in &members {
        assert_eq!(member.record("origin_port_unreachable")["origin"], nobody.to_string(), "{}", member.name);
    }
    if may_send_icmp() {
        assert_eq!(client.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_session_that_begins_waits_for_no_connection() {
    let members = network(&["par", "fra"]);
    let edge = free_address("127.0.0.1");
    serve(&members, edge, &[echo("127.0.0.1")], &[&["fra"]], json!({}));
    eventually("one is ready", || {
        ask(&client(edge), b"x");
        (members[0].counted("flows_ready_total") > 0).then_some(())
    });
    let waited = members[0].counted("flows_waited_total");
    (0..20).for_each(|_| assert_eq!(ask(&client(edge), b"x"), b"x"));
    assert_eq!(members[0].counted("flows_waited_total"), waited);
}

#[test]
fn the_next_path_is_taken_when_an_edge_is_gone_and_the_last_may_be_direct() {
    let mut members = network(&["par", "lon", "fra"]);
    let edge = free_address("127.0.0.1");
    serve(&members, edge, &[echo("127.0.0.1")], &[&["lon", "fra"], &["fra"], &[]], json!({}));
    let (held, mut at_first) = (client(edge), vec![0, 0, 0]);
    eventually("over both", || {
        assert_eq!(ask(&client(edge), b"x"), b"x");
        at_first = relayed(&members);
        (at_first[1] > 0).then_some(())
    });
    assert_eq!(ask(&held, b"held"), b"held");
    drop(members.remove(1)); // lon
    assert_eq!(ask(&held, b"held"), b"held", "a session that it had begins anew");
    let before = relayed(&members);
    assert_eq!(ask(&client(edge), b"x"), b"x");
    assert_eq!(relayed(&members), [0, before[1] + 1], "straight to fra");
    drop(members.remove(1));
    assert_eq!(ask(&held, b"held"), b"held");
    assert_eq!(ask(&client(edge), b"x"), b"x", "and without any other edge");
}

#[test]
fn a_path_that_is_broken_beyond_the_next_edge_is_avoided_by_the_sessions_after() {
    let mut members = network(&["par", "lon", "fra"]);
    let edge = free_address("127.0.0.1");
    serve(&members, edge, &[echo("127.0.0.1")], &[&["lon", "fra"], &[]], json!({}));
    drop(members.pop()); // fra
    let client = client(edge);
    assert_eq!(ask(&client, b"again"), b"again");
    assert_eq!(members[0].record("path_broken")["protocol"], "udp");
}

#[test]
fn whoever_is_not_of_the_network_is_refused() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), echo("127.0.0.1"));
    serve(&members, edge, &[origin], &[&["fra"]], json!({}));
    // Another network's edge of the same name.
    let stranger = member("par");
    stranger.edge.identify(Authority::new().identity("par").to_string().as_bytes()).unwrap();
    let at = free_address("127.0.0.1");
    let app = application(1, "udp", at, &[origin], json!({"paths": [["fra"]], "connect_timeout_ms": 500}));
    stranger.apply_among(&[("fra", members[1].at)], &[app]);
    let client_of_stranger = client(at);
    client_of_stranger.send(b"x").unwrap();
    stranger.record("path_broken");
    assert!(hears_nothing(&client_of_stranger));
    eventually("it is counted", || (members[1].counted("peers_refused_total") > 0).then_some(()));
    assert_eq!(relayed(&members)[1], 0);
    assert_eq!(ask(&client(edge), b"x"), b"x", "those of the network go on");
}

#[test]
fn an_edge_that_is_taken_out_loses_what_it_has_and_gets_nothing_more() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), echo("127.0.0.1"));
    serve(&members, edge, &[origin], &[&["fra"]], json!({"connect_timeout_ms": 500}));
    let client = client(edge);
    assert_eq!(ask(&client, b"x"), b"x");
    let fra = &members[1];
    let exit = application(1, "udp", edge, &[origin], json!({"exit": true, "edge_addresses": []}));
    fra.apply_among(&[("fra", fra.at)], &[exit]);
    members[0].record("path_broken");
    let before = relayed(&members);
    client.send(b"x").unwrap();
    members[0].record("path_broken");
    assert!(hears_nothing(&client));
    eventually("it is refused", || (fra.counted("peers_refused_total") > 0).then_some(()));
    assert_eq!(relayed(&members), before);
}

#[test]
fn an_application_that_the_last_edge_does_not_know_ends_with_a_reason_at_each_edge() {
    let members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), echo("127.0.0.1"));
    members[0].apply(&members, &[application(1, "udp", edge, &[origin], json!({"paths": [["lon", "fra"]]}))]);
    client(edge).send(b"x").unwrap();
    members.iter().for_each(|member| drop(member.record("path_unknown")));
}

#[test]
fn an_application_that_is_deleted_ends_its_sessions_at_each_edge() {
    let members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), echo("127.0.0.1"));
    serve(&members, edge, &[origin], &[&["lon", "fra"]], json!({"on_delete": "close"}));
    assert_eq!(ask(&client(edge), b"x"), b"x");
    members[0].apply(&members, &[]);
    members[0].record("drained");
    members[1..].iter().for_each(|member| drop(member.record("closed")));
}

#[test]
fn a_flood_of_packets_that_are_none_harms_nobody() {
    let members = network(&["par", "fra"]);
    let edge = free_address("127.0.0.1");
    serve(&members, edge, &[echo("127.0.0.1")], &[&["fra"]], json!({}));
    let held = client(edge);
    assert_eq!(ask(&held, b"x"), b"x");
    let flood = socket("127.0.0.1");
    for number in 0..20_000_u64 {
        let mut packet = noise(number, [1, 20, 100, 1200][number as usize % 4]);
        packet[0] = [0xC3, 0x43, packet[0], 0xFF][number as usize / 4 % 4]; // Initial, short, any, any long
        if packet.len() > 5 && number % 8 < 4 {
            packet[1..5].copy_from_slice(&[0, 0, 0, 1]); // QUIC version 1
            packet[5] = 8;
        }
        let _ = flood.send_to(&packet, members[1].at);
    }
    assert_eq!(ask(&held, b"y"), b"y");
    assert_eq!(ask(&client(edge), b"z"), b"z");
    assert_eq!(members[0].report()["overlay"]["links_failed_total"], 0);
}

fn said(kind: Kind, flow: u64, rest: &[u8]) -> Vec<u8> {
    let mut front = [0; MAX_HEAD];
    let len = head(kind, flow, &mut front);
    [&front[..len], rest].concat()
}

fn header(application: u128, path: &[&str]) -> Vec<u8> {
    let names: Vec<Name> = path.iter().map(|name| Name::new(name.as_bytes()).unwrap()).collect();
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let endpoints = Endpoints { source: address("192.0.2.7:40000"), destination: address("198.51.100.1:53") };
    let hop = Hop {
        endpoints,
        application,
        trace: 7,
        number: 1,
        path: Path::new(&names).unwrap(),
        keep: None,
        has_others: false,
    };
    let mut out = [0; MAX_HOP];
    let len = hop.encode_for(Transport::Datagram, &mut out);
    out[..len].to_vec()
}

#[test]
fn an_edge_that_leads_in_circles_or_asks_for_what_is_not_there_is_told_so() {
    let authority = Authority::new();
    let members = network_of(&authority, &["par", "lon"]);
    let (par, lon) = (authority.identity("par"), &members[1]);
    let mut speaker = Speaker::connect(&par, "lon", lon.at).unwrap();
    let cases: [(&[&str], Outcome); 3] =
        [(&["lon"], Outcome::PathBroken), (&["fra"], Outcome::PathBroken), (&[], Outcome::Unknown)];
    for (flow, (path, outcome)) in cases.into_iter().enumerate() {
        let flow = flow as u64 + 1;
        let heard = speaker.ask(&said(Kind::Open, flow, &[&header(1, path)[..], b"x"].concat())).unwrap();
        let Ok((answered, Message::Answer(answer))) = Message::parse(&heard) else { panic!("{heard:?}") };
        assert_eq!((answered, answer.outcome), (flow, outcome), "by {path:?}");
    }
    let heard = speaker.ask(&said(Kind::Payload, 9, b"x")).unwrap();
    let over = Answer { outcome: Outcome::Failed, origin: None };
    assert_eq!(Message::parse(&heard), Ok((9, Message::Answer(over))), "a session that is not there");
}

#[test]
fn an_edge_that_says_what_no_edge_says_loses_its_connection() {
    let authority = Authority::new();
    let members = network_of(&authority, &["par", "lon"]);
    let (par, lon) = (authority.identity("par"), &members[1]);
    let words = [
        Vec::new(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        said(Kind::Answer, 1, &[0, 0]), // of a session that this edge has not opened
        said(Kind::Open, 1, b"no header"),
        said(Kind::End, 1, b"and more"),
    ];
    for (number, words) in words.into_iter().enumerate() {
        let mut speaker = Speaker::connect(&par, "lon", lon.at).unwrap();
        assert_eq!(speaker.ask(&words), None, "{words:?}");
        eventually("it is counted", || (lon.counted("peers_refused_total") == number as u64 + 1).then_some(()));
    }
    let eve = Speaker::connect(&authority.identity("eve"), "lon", lon.at);
    let heard = eve.and_then(|mut eve| eve.ask(&said(Kind::Open, 1, &header(1, &[]))));
    assert_eq!(heard, None, "of the network, and no edge of it");
    eventually("it is counted", || (lon.counted("peers_refused_total") == 6).then_some(()));
}

#[test]
fn sessions_go_round_an_edge_that_is_cut_off_without_a_word() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), echo("127.0.0.1"));
    serve(&members, edge, &[origin], &[&["fra"], &[]], json!({}));
    let line = Line::to(members[1].at, free_address("127.0.0.1"));
    let app = application(1, "udp", edge, &[origin], json!({"paths": [["fra"], []]}));
    members[0].apply_among(&[("fra", line.at)], &[app]);
    let held = client(edge);
    eventually("it goes there", || {
        assert_eq!(ask(&client(edge), b"x"), b"x");
        (relayed(&members)[1] > 0).then_some(())
    });
    assert_eq!(ask(&held, b"held"), b"held");
    line.is_cut.store(true, Ordering::Relaxed);
    let before = relayed(&members)[1];
    assert_eq!(ask(&held, b"held"), b"held", "begun anew by the other way");
    assert_eq!(ask(&client(edge), b"x"), b"x");
    assert_eq!(relayed(&members)[1], before);
}

#[test]
fn an_edge_that_has_moved_gets_new_sessions_where_it_is_and_keeps_those_that_it_has() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), echo("127.0.0.1"));
    serve(&members, edge, &[origin], &[&["fra"]], json!({}));
    let held = client(edge);
    assert_eq!(ask(&held, b"held"), b"held");
    let line = Line::to(members[1].at, free_address("127.0.0.1"));
    let app = application(1, "udp", edge, &[origin], json!({"paths": [["fra"]]}));
    members[0].apply_among(&[("fra", line.at)], &[app]);
    let later = client(edge);
    assert_eq!(ask(&later, b"later"), b"later");
    line.is_cut.store(true, Ordering::Relaxed);
    members[0].record("path_broken");
    assert_eq!(ask(&held, b"held"), b"held");
    assert_eq!(relayed(&members), [0, 2], "in the session that it has had all the time");
}

#[test]
fn on_a_line_that_loses_packets_sessions_begin_and_end_and_datagrams_are_lost_as_they_are_without_it() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), echo("127.0.0.1"));
    serve(&members, edge, &[origin], &[&["fra"]], json!({}));
    let line = Line::to(members[1].at, free_address("127.0.0.1"));
    line.loses_one_in.store(5, Ordering::Relaxed);
    let app = application(1, "udp", edge, &[origin], json!({"paths": [["fra"]], "udp_idle_timeout_ms": 300}));
    members[0].apply_among(&[("fra", line.at)], &[app]);
    let clients: Vec<UdpSocket> = (0..30).map(|_| client(edge)).collect();
    for client in &clients {
        assert_eq!(ask(client, b"small"), b"small");
    }
    let large = noise(1, 30_000);
    assert!(ask(&clients[0], &large) == large);
    eventually("all of them end, at both edges", || {
        let open = |report: &Value| report["connections_open"].as_u64().unwrap();
        let (par, fra) = (members[0].report(), members[1].report());
        (open(&par["totals"]) + open(&fra["overlay"]["relayed"]) == 0).then_some(())
    });
}
