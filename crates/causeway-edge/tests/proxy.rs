//! The client's address is kept: PROXY headers to origins and from trusted proxies, over TCP.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use causeway_wire::{Endpoints, proxy_v1, proxy_v2};
use serde_json::{Value, json};
use support::{application, connect, free_address, origin, world};

/// An origin that answers with the first thing it reads, in one piece, then with what follows.
fn first_read() -> SocketAddr {
    origin("127.0.0.1", |mut stream| {
        let mut buffer = [0; 65536];
        while let Ok(n) = stream.read(&mut buffer) {
            let head = (n as u32).to_be_bytes();
            if n == 0 || stream.write_all(&head).and_then(|()| stream.write_all(&buffer[..n])).is_err() {
                return;
            }
        }
    })
}

fn read_piece(stream: &mut std::net::TcpStream) -> Vec<u8> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).unwrap();
    let mut piece = vec![0; u32::from_be_bytes(head) as usize];
    stream.read_exact(&mut piece).unwrap();
    piece
}

fn header(version: &str, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let endpoints = Endpoints { source, destination };
    match version {
        "v1" => {
            let mut out = [0; 107];
            let n = proxy_v1::encode(&endpoints, &mut out);
            out[..n].to_vec()
        }
        _ => {
            let mut out = [0; 52];
            let n = proxy_v2::encode(&endpoints, proxy_v2::Transport::Stream, &mut out);
            out[..n].to_vec()
        }
    }
}

#[test]
fn the_header_goes_alone_when_the_client_says_nothing() {
    for (ip, version) in [("127.0.0.1", "v1"), ("127.0.0.1", "v2"), ("::1", "v1"), ("::1", "v2")] {
        let world = world(1);
        let edge = free_address(ip);
        world.apply(&[application(1, "tcp", edge, &[first_read()], json!({"proxy_protocol": version}))]);
        let mut client = connect(edge);
        let expected = header(version, client.local_addr().unwrap(), edge);
        assert_eq!(read_piece(&mut client), expected, "{version} over {ip}");
    }
}

#[test]
fn the_header_comes_in_one_piece_with_what_the_client_sent_early() {
    // Early means: before the origin is connected. A first origin that never answers gives the time.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    silent.listen(0).unwrap();
    let silent_address = silent.local_addr().unwrap().as_socket().unwrap();
    let _full = std::net::TcpStream::connect(silent_address).unwrap();
    for version in ["v1", "v2"] {
        let world = world(1);
        let edge = free_address("127.0.0.1");
        let change = json!({"proxy_protocol": version, "connect_timeout_ms": 150});
        world.apply(&[application(1, "tcp", edge, &[silent_address, first_read()], change)]);
        let mut client = connect(edge);
        client.write_all(b"early bytes").unwrap();
        let expected = [header(version, client.local_addr().unwrap(), edge), b"early bytes".to_vec()].concat();
        assert_eq!(read_piece(&mut client), expected);
    }
}

fn trusting(edge: SocketAddr, change: Value) -> Value {
    let mut all =
        json!({"proxy_protocol": "v1", "proxy_protocol_from": ["127.0.0.0/8"], "proxy_header_timeout_ms": 300});
    change.as_object().unwrap().iter().for_each(|(field, value)| all[field] = value.clone());
    application(1, "tcp", edge, &[first_read()], all)
}

#[test]
fn a_trusted_header_is_believed_however_it_is_split() {
    let told: (SocketAddr, SocketAddr) = ("203.0.113.7:4711".parse().unwrap(), "198.51.100.1:25565".parse().unwrap());
    for version in ["v1", "v2"] {
        let world = world(1);
        let edge = free_address("127.0.0.1");
        world.apply(&[trusting(edge, json!({}))]);
        let sent = [header(version, told.0, told.1), b"payload".to_vec()].concat();
        for split in (1..sent.len()).step_by(3) {
            let mut client = connect(edge);
            client.write_all(&sent[..split]).unwrap();
            std::thread::sleep(Duration::from_millis(2)); // two segments, not a wait for anything
            client.write_all(&sent[split..]).unwrap();
            let expected = [header("v1", told.0, told.1), b"payload".to_vec()].concat();
            let mut back = read_piece(&mut client);
            while back.len() < expected.len() {
                back.extend(read_piece(&mut client));
            }
            assert_eq!(back, expected, "{version} split at {split}");
        }
        assert_eq!(world.record("opened")["client"], "203.0.113.7:4711");
    }
}

#[test]
fn a_local_header_stands_for_the_proxys_own_addresses() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[trusting(edge, json!({}))]);
    let mut client = connect(edge);
    client.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00").unwrap();
    assert_eq!(read_piece(&mut client), header("v1", client.local_addr().unwrap(), edge));
}

#[test]
fn a_trusted_proxy_without_a_valid_header_is_closed() {
    let cases: [(&str, &[u8]); 4] = [
        ("proxy_header_invalid", b"GET / HTTP/1.1\r\n"),
        ("proxy_header_invalid", b"PROXY TCP4 1.2.3.4 nonsense\r\n"),
        ("proxy_header_timeout", b""),
        ("proxy_header_timeout", b"PROXY TCP4 192.0.2.1 "),
    ];
    for (cause, bytes) in cases {
        let world = world(1);
        let edge = free_address("127.0.0.1");
        world.apply(&[trusting(edge, json!({}))]);
        let mut client = connect(edge);
        client.write_all(bytes).unwrap();
        let begin = Instant::now();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
        let record = world.record(cause);
        assert_eq!((record["kind"].as_str(), record["status"].as_u64()), (Some("clientFiltered"), Some(403)));
        assert_eq!(world.totals()["filtered_total"], 1);
    }
}

#[test]
fn a_header_from_anyone_else_is_payload() {
    let world = world(1);
    let edge = free_address("127.0.0.1");
    world.apply(&[trusting(edge, json!({"proxy_protocol_from": ["192.0.2.0/24"], "proxy_protocol": "off"}))]);
    let mut client = connect(edge);
    let forged = header("v1", "203.0.113.7:4711".parse().unwrap(), edge);
    client.write_all(&forged).unwrap();
    assert_eq!(read_piece(&mut client), forged);
}

const V1: [&str; 2] =
    ["PROXY TCP4 192.0.2.1 198.51.100.1 4711 25565\r\n", "PROXY TCP6 2001:db8::1 2001:db8::2 4711 25565\r\n"];

/// Headers that somebody made to be misunderstood; each is wrong in one thing, or ends too early.
fn crafted() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for good in V1 {
        for at in 0..good.len() {
            let mut bad = good.as_bytes().to_vec();
            bad[at] = b'x';
            all.push(bad);
        }
        all.extend((1..good.len()).step_by(5).map(|end| good.as_bytes()[..end].to_vec()));
    }
    let lines = [
        "PROXY TCP4 192.0.2.1 198.51.100.1 4711 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 99999999999999999999 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 -1 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 +1 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 007 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 \r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2.1\t198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.1 1 2\r\n",
        "PROXY TCP4 0x7f000001 198.51.100.1 1 2\r\n",
        "PROXY TCP4 2130706433 198.51.100.1 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n",
        "PROXY TCP6 2001:db8:::1 ::2 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7:8:9 ::2 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n",
        "PROXY TCP6 [::1] ::2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
        "PROXY UNKNOW\r\n",
        "proxy tcp4 192.0.2.1 198.51.100.1 1 2\r\n",
        " PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
        "GET http://192.0.2.1/ HTTP/1.1\r\n\r\n",
        "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ];
    all.extend(lines.map(|line| line.as_bytes().to_vec()));
    all.push([b"PROXY UNKNOWN ".to_vec(), vec![b'a'; 200], b"\r\n".to_vec()].concat());
    let good = header("v2", "192.0.2.1:4711".parse().unwrap(), "198.51.100.1:25565".parse().unwrap());
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    all.extend((0..12).map(|at| with(at, good[at] ^ 0x40))); // its signature
    all.extend((0..16).filter(|version| *version != 2).map(|version| with(12, version << 4 | 1)));
    all.extend((2..16).map(|command| with(12, 0x20 | command)));
    all.extend(
        (0..=255u8).filter(|family| family >> 4 > 3 || family & 15 > 2).step_by(3).map(|family| with(13, family)),
    );
    all.extend((0..12).map(|length| with(15, length))); // shorter than its addresses
    all.extend([0x10, 0x80, 0xff].map(|high| with(14, high))); // promises more than there may be
    all.extend((1..good.len()).step_by(3).map(|end| good[..end].to_vec()));
    // A field (of type 4) that is longer than what is left, and a checksum that is wrong.
    let behind = |fields: &[u8]| {
        let mut bad = [&good[..], fields].concat();
        bad[15] += fields.len() as u8;
        bad
    };
    all.extend([&[4, 0, 9, 1][..], &[4, 0xff, 0xff], &[4, 0], &[4], &[3, 0, 4, 1, 2, 3, 4]].map(behind));
    all
}

/// Said to an edge on which these senders are trusted; answers how each connection fared, and how often the origin was
/// connected to.
fn said(trusted: &str, check: impl Fn(&[u8], &mut std::net::TcpStream)) -> usize {
    let connected = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = connected.clone();
    let origin = origin("127.0.0.1", move |mut stream| {
        counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    });
    let world = world(2);
    let edge = free_address("127.0.0.1");
    let from = json!({"proxy_protocol_from": [trusted], "proxy_header_timeout_ms": 300});
    world.apply(&[application(1, "tcp", edge, &[origin], from)]);
    let all = crafted();
    assert!(all.len() >= 200, "{}", all.len());
    for batch in all.chunks(32) {
        let mut open: Vec<_> = batch.iter().map(|bytes| (bytes, connect(edge))).collect();
        for (bytes, client) in &mut open {
            client.write_all(bytes).unwrap();
        }
        open.iter_mut().for_each(|(bytes, client)| check(bytes, client));
    }
    let count = connected.load(std::sync::atomic::Ordering::SeqCst);
    // Whatever was said before, the next client is served.
    let mut client = connect(edge);
    let hello = if trusted == "127.0.0.0/8" { [V1[0], "hello"].concat() } else { "hello".to_string() };
    client.write_all(hello.as_bytes()).unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    count
}

#[test]
fn of_hundreds_of_crafted_headers_none_gets_a_trusted_proxy_to_the_origin() {
    let connected = said("127.0.0.0/8", |bytes, client| {
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        match client.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{other:?} to {:?}", String::from_utf8_lossy(bytes)),
        }
    });
    assert_eq!(connected, 0);
}

#[test]
fn of_hundreds_of_crafted_headers_each_is_payload_from_anybody_else() {
    said("192.0.2.0/24", |bytes, client| {
        let mut back = vec![0; bytes.len()];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, bytes);
    });
}
