//! Flows from edge to edge: real edges in one process, real TLS between them, real clients and origins.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use causeway_edge::ApplyReport;
use causeway_wire::Endpoints;
use causeway_wire::overlay::{Hop, MAX_HOP, Name, Outcome, Path};
use serde_json::{Value, json};
use support::network::{Authority, Member, member, network, network_of, say_as, serve};
use support::{DEADLINE, application, connect, echo, eventually, free_address, in_background, noise, origin, reset};

/// Nothing more comes: by RST, or, where a write has met that already, by what looks like an end.
fn is_over(stream: &mut TcpStream) -> bool {
    !matches!(stream.read(&mut [0]), Ok(1..))
}

fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut sender = stream.try_clone().unwrap();
    let sent = bytes.to_vec();
    let sending = in_background(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    sending.join().unwrap();
    back
}

#[test]
fn a_flow_goes_over_up_to_three_edges_and_back_byte_for_byte() {
    let cases: &[&[&str]] = &[&["fra"], &["lon", "fra"], &["lon", "ams", "fra"]];
    for path in cases {
        let members = network(&["par", "lon", "ams", "fra"]);
        let edge = free_address("127.0.0.1");
        serve(&members, edge, &[origin("127.0.0.1", echo)], &[path], json!({}));
        let sent = noise(7, 3_000_000);
        assert!(exchange(&mut connect(edge), &sent) == sent, "over {path:?}");
        let mut small = connect(edge);
        for round in 0..50_u8 {
            small.write_all(&[round; 64]).unwrap();
            let mut back = [0; 64];
            small.read_exact(&mut back).unwrap();
            assert_eq!(back, [round; 64]);
        }
    }
}

#[test]
fn each_edge_records_the_flow_under_one_trace_and_its_client_is_counted_once() {
    let members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, &[origin], &[&["lon", "fra"]], json!({}));
    let mut client = connect(edge);
    let from = client.local_addr().unwrap().to_string();
    assert_eq!(exchange(&mut client, b"hello"), b"hello");
    let records: Vec<Value> = members.iter().map(|member| member.record("closed")).collect();
    for record in &records {
        assert_eq!(record["trace"], records[0]["trace"]);
        assert_eq!(record["trace"].as_str().unwrap().len(), 16);
        assert_eq!(record["client"], from);
        assert_eq!(record["edge"], edge.to_string());
        assert_eq!(record["application"], format!("{:032x}", 1));
    }
    for (record, is_on_the_way) in records.iter().zip([false, true, false]) {
        let bytes = ["client_bytes", "origin_bytes"].map(|field| record[field].as_u64().unwrap());
        assert!(if is_on_the_way { bytes.iter().all(|bytes| (5..50).contains(bytes)) } else { bytes == [5, 5] });
    }
    assert_eq!(records[0]["origin"], origin.to_string(), "the edge with the client knows where it went");
    assert_eq!(records[1]["origin"], members[2].at.to_string(), "the one on the way, whom it gave it to");
    assert_eq!(records[2]["origin"], origin.to_string());
    let paths = records.iter().map(|record| record["path"].clone()).collect::<Vec<_>>();
    assert_eq!(paths, [json!(["lon", "fra"]), json!(["fra"]), json!([])], "each says which edges come after it");
    let counted = |member: &Member| member.report()["totals"]["connections_total"].as_u64().unwrap();
    assert_eq!(members.iter().map(counted).collect::<Vec<_>>(), [1, 0, 0]);
    let relayed = |member: &Member| member.report()["overlay"]["relayed"]["connections_total"].as_u64().unwrap();
    assert_eq!(members.iter().map(relayed).collect::<Vec<_>>(), [0, 1, 1]);
}

#[test]
fn the_origin_hears_the_clients_own_address_in_a_proxy_header() {
    let members = network(&["par", "fra"]);
    let edge = free_address("127.0.0.1");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    serve(&members, edge, &[listener.local_addr().unwrap()], &[&["fra"]], json!({"proxy_protocol": "v1"}));
    let mut client = connect(edge);
    client.write_all(b"first").unwrap();
    let (mut at_origin, _) = listener.accept().unwrap();
    let (from, to) = (client.local_addr().unwrap(), edge);
    let header = format!("PROXY TCP4 {} {} {} {}\r\nfirst", from.ip(), to.ip(), from.port(), to.port());
    let mut heard = vec![0; header.len()];
    at_origin.read_exact(&mut heard).unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), header);
}

#[test]
fn an_origin_that_speaks_first_is_heard() {
    let members = network(&["par", "fra"]);
    let edge = free_address("127.0.0.1");
    let banner = |mut stream: TcpStream| stream.write_all(b"SSH-2.0-real\r\n").unwrap();
    serve(&members, edge, &[origin("127.0.0.1", banner)], &[&["fra"]], json!({}));
    let mut heard = String::new();
    connect(edge).read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "SSH-2.0-real\r\n");
}

#[test]
fn a_half_that_is_closed_leaves_the_other_open() {
    let members = network(&["par", "lon", "fra"]);
    let edge = free_address("127.0.0.1");
    let late = |mut stream: TcpStream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(format!("{} bytes", all.len()).as_bytes()).unwrap();
    };
    serve(&members, edge, &[origin("127.0.0.1", late)], &[&["lon", "fra"]], json!({}));
    assert_eq!(exchange(&mut connect(edge), &noise(3, 100_000)), b"100000 bytes");
}

#[test]
fn a_reset_is_passed_on_in_both_directions() {
    let members = network(&["par", "lon", "fra"]);
    let edge = free_address("127.0.0.1");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    serve(&members, edge, &[listener.local_addr().unwrap()], &[&["lon", "fra"]], json!({}));
    for is_client in [true, false] {
        let mut client = connect(edge);
        client.write_all(b"x").unwrap();
        let (mut at_origin, _) = listener.accept().unwrap();
        at_origin.set_read_timeout(Some(DEADLINE)).unwrap();
        at_origin.read_exact(&mut [0]).unwrap();
        at_origin.write_all(b"y").unwrap();
        client.read_exact(&mut [0]).unwrap();
        let (goes, mut stays) = if is_client { (client, at_origin) } else { (at_origin, client) };
        reset(goes);
        assert_eq!(stays.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "client: {is_client}");
        members[0].record(if is_client { "client_reset" } else { "origin_reset" });
    }
}

#[test]
fn what_became_of_an_origin_is_told_at_the_edge_with_the_client() {
    let nobody = free_address("127.0.0.1");
    let members = network(&["par", "lon", "fra"]);
    let edge = free_address("127.0.0.1");
    serve(&members, edge, &[nobody], &[&["lon", "fra"]], json!({}));
    let mut client = connect(edge);
    let _ = client.write_all(b"x");
    assert!(is_over(&mut client));
    let record = members[0].record("origin_refused");
    assert_eq!((record["kind"].as_str(), record["origin"].as_str()), (Some("originError"), Some(&*nobody.to_string())));
    assert!(record["message"].as_str().unwrap().starts_with(&nobody.to_string()), "{record}");
}

#[test]
fn the_next_path_is_taken_when_an_edge_cannot_be_reached_and_the_last_may_be_direct() {
    let mut members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, &[origin], &[&["lon", "fra"], &["fra"], &[]], json!({}));
    let over = |members: &[Member]| -> Vec<u64> {
        let mut client = connect(edge);
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        let relayed = |member: &Member| member.report()["overlay"]["relayed"]["connections_total"].as_u64().unwrap();
        members.iter().map(relayed).collect()
    };
    assert_eq!(over(&members), [0, 1, 1]);
    drop(members.remove(1)); // lon
    assert_eq!(over(&members), [0, 2], "straight to fra");
    drop(members.remove(1));
    assert_eq!(over(&members), [0], "and without any other edge");
}

#[test]
fn a_path_beyond_the_next_edge_that_is_broken_is_avoided_by_the_flows_after() {
    let mut members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, &[origin], &[&["lon", "fra"], &[]], json!({}));
    drop(members.pop()); // fra
    let mut first = connect(edge);
    let _ = first.write_all(b"x");
    assert!(is_over(&mut first), "its bytes are gone: it cannot begin anew");
    members[0].record("path_broken");
    assert_eq!(exchange(&mut connect(edge), b"again"), b"again");
}

#[test]
fn a_connection_is_ready_before_a_flow_needs_it() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, &[origin], &[&["fra"]], json!({}));
    for before in 0..5 {
        eventually("another connection is ready", || {
            let mut client = connect(edge);
            assert_eq!(exchange(&mut client, b"x"), b"x");
            (members[0].counted("flows_ready_total") > before).then_some(())
        });
    }
}

#[test]
fn whoever_is_not_of_the_network_is_refused() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, &[origin], &[&["fra"]], json!({}));
    // Another network's edge of the same name, and one of this network that fra does not know.
    let stranger = member("par");
    stranger.edge.identify(Authority::new().identity("par").to_string().as_bytes()).unwrap();
    let at = free_address("127.0.0.1");
    let app = application(1, "tcp", at, &[origin], json!({"paths": [["fra"]]}));
    stranger.apply_among(&[("fra", members[1].at)], &[app]);
    let mut client = connect(at);
    let _ = client.write_all(b"x");
    assert!(is_over(&mut client));
    stranger.record("path_broken");
    // And who speaks no TLS at all.
    let mut plain = connect(members[1].at);
    let _ = plain.write_all(b"GET / HTTP/1.1\r\n\r\n");
    let mut heard = Vec::new();
    let _ = plain.read_to_end(&mut heard);
    eventually("both are counted", || (members[1].counted("peers_refused_total") >= 2).then_some(()));
    assert_eq!(members[1].report()["overlay"]["relayed"]["connections_total"], 0);
    assert_eq!(exchange(&mut connect(edge), b"x"), b"x", "those of the network go on");
}

#[test]
fn an_edge_that_is_taken_out_loses_what_it_has_and_gets_nothing_more() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, &[origin], &[&["fra"]], json!({}));
    let mut client = connect(edge);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let fra = &members[1];
    let exit = application(1, "tcp", edge, &[origin], json!({"exit": true, "edge_addresses": []}));
    fra.apply_among(&[("fra", fra.at)], &[exit]);
    assert!(is_over(&mut client), "its flow ends");
    let mut later = connect(edge);
    let _ = later.write_all(b"x");
    assert!(is_over(&mut later));
    eventually("it is refused", || (fra.counted("peers_refused_total") > 0).then_some(()));
}

#[test]
fn an_application_that_the_last_edge_does_not_know_ends_with_a_reason_at_each_edge() {
    let members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    let app = application(1, "tcp", edge, &[origin], json!({"paths": [["lon", "fra"]]}));
    members[0].apply(&members, &[app]);
    let mut client = connect(edge);
    let _ = client.write_all(b"x");
    assert!(is_over(&mut client));
    members.iter().for_each(|member| drop(member.record("path_unknown")));
}

#[test]
fn nobody_has_heard_a_flow_of_an_application_that_the_last_edge_does_not_know_so_it_takes_the_next_path() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    let app = application(1, "tcp", edge, &[origin], json!({"paths": [["fra"], []]}));
    members[0].apply(&members, &[app]);
    assert_eq!(exchange(&mut connect(edge), b"first words"), b"first words");
}

fn header(application: u128, path: &[&str]) -> Vec<u8> {
    let names: Vec<Name> = path.iter().map(|name| Name::new(name.as_bytes()).unwrap()).collect();
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    let hop = Hop {
        endpoints: Endpoints { source: address("192.0.2.7:40000"), destination: address("198.51.100.1:22") },
        application,
        trace: 7,
        number: 1,
        path: Path::new(&names).unwrap(),
        keep: None,
        has_others: false,
    };
    let mut out = [0; MAX_HOP];
    let len = hop.encode(&mut out);
    out[..len].to_vec()
}

#[test]
fn an_edge_that_leads_in_circles_or_asks_for_what_is_not_there_is_told_so_and_one_without_a_header_hears_nothing() {
    let authority = Authority::new();
    let members = network_of(&authority, &["par", "lon"]);
    let (par, lon) = (authority.identity("par"), &members[1]);
    let outcome = |words: &[u8]| say_as(&par, lon, words).first().copied();
    assert_eq!(outcome(&header(1, &["lon"])), Some(Outcome::PathBroken as u8), "back to itself");
    assert_eq!(outcome(&header(1, &["fra"])), Some(Outcome::PathBroken as u8), "an edge that nobody knows");
    assert_eq!(outcome(&header(1, &[])), Some(Outcome::Unknown as u8), "no application of this edge's");
    assert_eq!(outcome(b"GET / HTTP/1.1\r\n\r\n"), None);
    eventually("it is counted", || (lon.counted("peers_refused_total") == 1).then_some(()));
    assert_eq!(
        say_as(&authority.identity("eve"), lon, &header(1, &[])).first(),
        None,
        "of the network, and no edge of it"
    );
}

#[test]
fn of_an_application_and_the_overlay_who_was_first_keeps_a_port() {
    let refused = |report: &ApplyReport| -> Vec<String> {
        let listeners = report.listeners.iter().filter(|listener| listener.reason.is_some());
        listeners.map(|listener| listener.application.clone()).collect()
    };
    let origin = origin("127.0.0.1", echo);
    let members = network(&["par", "fra"]);
    let app = application(1, "tcp", members[0].at, &[origin], json!({}));
    assert_eq!(refused(&members[0].apply(&members, std::slice::from_ref(&app))), [format!("{:032x}", 1)]);
    eventually("other edges still come in", || TcpStream::connect(members[0].at).ok());

    let late = member("lon");
    let app = application(1, "tcp", late.at, &[origin], json!({}));
    assert_eq!(refused(&late.apply(&[], &[app])), ["overlay"]);
    assert_eq!(exchange(&mut connect(late.at), b"hello"), b"hello", "the application's");
    assert_eq!(refused(&late.apply(&[], &[])), ["overlay"], "until all have let go of it");
    assert!(refused(&late.apply(&[], &[])).is_empty(), "and then it is the overlay's");
}

#[test]
fn what_makes_no_sense_is_refused_whole() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    let par = &members[0];
    let cases = [
        ("udp", json!({"steered": true}), "of tcp alone"),
        ("tcp", json!({"paths": [["fra", "fra"]]}), "each once"),
        ("tcp", json!({"paths": [["a", "b", "c", "d"]]}), "up to 3"),
        ("tcp", json!({"paths": [["Fra"]]}), "names of edges"),
        ("tcp", json!({"paths": [["fra"]], "carrier": "kernel"}), "not the kernel's"),
        ("tcp", json!({"edge_addresses": []}), "at least one address"),
    ];
    for (number, (protocol, change, reason)) in cases.into_iter().enumerate() {
        let overlay = json!({"name": "par", "listen": par.at, "peers": [{"name": "fra", "address": members[1].at}]});
        let app = application(1, protocol, edge, &[origin], change);
        let snapshot = json!({
            "format": 1, "version": 100 + number, "settings": support::settings(), "applications": [app],
            "overlay": overlay
        });
        let error = par.edge.apply(snapshot.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    assert!(par.edge.identify(b"{}").unwrap_err().to_string().contains("ca, certificate and key"));
}
