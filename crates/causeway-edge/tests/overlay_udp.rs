//! Sessions from edge to edge: real edges in one process, real QUIC between them, real clients and origins.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{SocketAddr, UdpSocket};

use serde_json::{Value, json};
use support::network::{Member, network};
use support::udp::{address, client, echo, receive_from, socket};
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
    client.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
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
