//! The server on real sockets of loopback: both transports, a swapped table, two servers on one port, bounds.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use causeway_dns::Server;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

fn table(serial: u32, address: &str) -> String {
    format!(
        r#"{{"format": 1, "serial": {serial}, "ttl_s": 20, "hosts": [],
            "zones": [{{"name": "example.net", "servers": ["ns1.example.org"]}}],
            "names": [{{"name": "ssh.example.net", "sites": [{{"location": null, "addresses": ["{address}"]}}]}}]}}"#
    )
}

fn free() -> SocketAddr {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

fn question() -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("ssh.example.net.").unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn udp(server: SocketAddr) -> Message {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.connect(server).unwrap();
    socket.send(&question()).unwrap();
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer).unwrap();
    Message::from_vec(&answer[..length]).unwrap()
}

fn tcp(stream: &mut TcpStream) -> Message {
    let question = question();
    stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], &question].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

fn address(message: &Message) -> String {
    message.answers[0].data.ip_addr().unwrap().to_string()
}

#[test]
fn both_transports_answer_by_the_newest_table_and_a_bad_one_changes_nothing() {
    let at = free();
    let server = Server::start(&[at]).unwrap();
    assert_eq!(udp(at).response_code, ResponseCode::ServFail);
    server.set_table(table(1, "192.0.2.1").as_bytes()).unwrap();
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!((address(&udp(at)), address(&tcp(&mut stream))), ("192.0.2.1".into(), "192.0.2.1".into()));
    server.set_table(table(2, "192.0.2.2").as_bytes()).unwrap();
    assert!(server.set_table(b"{}").is_err());
    assert_eq!((address(&udp(at)), address(&tcp(&mut stream))), ("192.0.2.2".into(), "192.0.2.2".into()));
    let counters = server.counters();
    assert_eq!((counters.udp_total, counters.tcp_total, counters.answered_total), (3, 2, 4));
    assert_eq!(counters.table.unwrap().serial, 2);
}

#[test]
fn a_second_server_takes_the_port_over_before_the_first_one_lets_go() {
    let at = free();
    let first = Server::start(&[at]).unwrap();
    first.set_table(table(1, "192.0.2.1").as_bytes()).unwrap();
    let second = Server::start(&[at]).unwrap();
    second.set_table(table(2, "192.0.2.2").as_bytes()).unwrap();
    first.stop();
    assert_eq!(address(&udp(at)), "192.0.2.2");
    second.stop();
    let why = TcpStream::connect(at).unwrap_err();
    assert_eq!(why.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// A connected socket takes datagrams of that address alone.
#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let port = free().port();
    let server =
        Server::start(&[SocketAddr::from(([0, 0, 0, 0], port)), format!("[::]:{port}").parse().unwrap()]).unwrap();
    server.set_table(table(1, "192.0.2.1").as_bytes()).unwrap();
    for address in ["127.0.0.1", "127.0.0.9", "127.9.9.9", "[::1]"] {
        assert_eq!(self::address(&udp(format!("{address}:{port}").parse().unwrap())), "192.0.2.1", "{address}");
    }
}

#[test]
fn an_address_that_is_not_ours_is_an_error_of_the_operator() {
    let error = Server::start(&[free(), "192.0.2.1:5300".parse().unwrap()]).err().unwrap();
    assert_eq!((error.code(), error.side()), ("dns_listen", "operator"));
    assert!(error.to_string().contains("192.0.2.1:5300"), "{error}");
}

#[test]
fn one_address_has_so_many_connections_and_no_more() {
    let at = free();
    let server = Server::start(&[at]).unwrap();
    server.set_table(table(1, "192.0.2.1").as_bytes()).unwrap();
    let mut streams: Vec<TcpStream> = (0..17).map(|_| TcpStream::connect(at).unwrap()).collect();
    let mut last = streams.pop().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(last.read(&mut [0]).unwrap_or(0), 0, "it is closed");
    streams[0].set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(address(&tcp(&mut streams[0])), "192.0.2.1");
    assert_eq!(server.counters().connections_refused_total, 1);
}
