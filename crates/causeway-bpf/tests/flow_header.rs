//! The origin is told of the client: PROXY v1 and v2 in front of streams, v2 and Simple Proxy Protocol before datagrams.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use causeway_bpf::flow::{Answer, FlowEventKind, HeaderKind};
use causeway_wire::accept::{self, Parsed};
use causeway_wire::{Endpoints, proxy_v2, simple_proxy};
use support::packet::{ACK, PSH, SYN, Tcp, ends, is_intact, tcp, tcp_of};
use support::*;

const FAMILIES: [(&str, &str, &str); 2] = [(EDGE, ORIGIN, CLIENT), (EDGE6, ORIGIN6, CLIENT6)];
const STREAMS: [HeaderKind; 2] = [HeaderKind::ProxyV1, HeaderKind::ProxyV2];

fn v2(client: SocketAddr, edge: SocketAddr, transport: proxy_v2::Transport) -> Vec<u8> {
    let mut out = [0; proxy_v2::MAX_ENCODED];
    let n = proxy_v2::encode(&Endpoints { source: client, destination: edge }, transport, &mut out);
    out[..n].to_vec()
}

/// Read a header from a stream and check what it says.
fn hear_header(stream: &mut TcpStream, client: SocketAddr, edge: SocketAddr) {
    let mut bytes = Vec::new();
    loop {
        match accept::parse(&bytes).unwrap() {
            Parsed::Header { consumed, endpoints } => {
                assert_eq!(consumed, bytes.len());
                assert_eq!(endpoints, Some(Endpoints { source: client, destination: edge }));
                return;
            }
            Parsed::NeedMore => {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                bytes.push(byte[0]);
            }
        }
    }
}

#[test]
fn a_stream_begins_with_the_header_and_goes_on_byte_for_byte() {
    for header in STREAMS {
        let Some(mut world) = world() else { return };
        world.carry([header, HeaderKind::None]);
        for (edge, origin, _) in FAMILIES {
            let listener = world.listen(at(origin, 1005));
            for is_server_first in [true, false] {
                let mut client = world.connect(at(edge, 1005));
                let mut server = accept(&listener);
                if is_server_first {
                    say(&mut server, &mut client, b"220 welcome");
                }
                client.write_all(b"first words").unwrap();
                hear_header(&mut server, client.local_addr().unwrap(), at(edge, 1005));
                let mut first = [0; 11];
                server.read_exact(&mut first).unwrap();
                assert_eq!(&first, b"first words");
                let words = noise(5, 3_000_000);
                for (mut from, mut to) in [(&client, &server), (&server, &client)] {
                    std::thread::scope(|scope| {
                        scope.spawn(|| from.write_all(&words).unwrap());
                        let mut heard = vec![0; words.len()];
                        to.read_exact(&mut heard).unwrap();
                        assert!(heard == words, "bytes differ");
                    });
                }
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(server.read(&mut [0]).unwrap(), 0);
                drop(server);
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
                assert_eq!(world.event().kind, FlowEventKind::Opened);
                let closed = world.event();
                assert_eq!(closed.kind, FlowEventKind::Closed);
                assert_eq!(closed.flow.client_bytes, 3_000_011, "the header is not the client's");
            }
        }
    }
}

#[test]
fn a_client_that_closes_at_once_or_never_speaks_is_told_of_too() {
    for header in STREAMS {
        let Some(mut world) = world() else { return };
        world.carry([header, HeaderKind::None]);
        let listener = world.listen(at(ORIGIN, 1000));
        for is_closed in [true, false] {
            let client = world.connect(at(EDGE, 1000));
            let address = client.local_addr().unwrap();
            if is_closed {
                client.shutdown(Shutdown::Write).unwrap();
            }
            let mut server = accept(&listener);
            hear_header(&mut server, address, at(EDGE, 1000));
            if is_closed {
                assert_eq!(server.read(&mut [0]).unwrap(), 0);
                drop((server, client));
                let events = [world.event().kind, world.event().kind];
                assert_eq!(events, [FlowEventKind::Opened, FlowEventKind::Closed]);
            } else {
                let mut client = client;
                let flow = world.event().flow;
                world.edge.run(|| world.path.cut(&flow)).unwrap();
                assert!(server.read(&mut [0]).is_err() && client.read(&mut [0]).is_err(), "RST hits both windows");
            }
        }
    }
}

#[test]
fn a_header_that_is_lost_comes_again_in_front_of_whatever_the_client_repeats() {
    for (header, edge, here) in [
        (HeaderKind::ProxyV2, EDGE, CLIENT),
        (HeaderKind::ProxyV1, EDGE, CLIENT),
        (HeaderKind::ProxyV2, EDGE6, CLIENT6),
        (HeaderKind::ProxyV1, EDGE6, CLIENT6),
    ] {
        let Some(world) = world() else { return };
        world.carry([header, HeaderKind::None]);
        let (client, edge) = (at(here, 40_001), at(edge, 1000));
        let ask = |frame: &[u8]| {
            let (answer, sent) = world.edge.run(|| world.path.ask(frame)).unwrap();
            assert_eq!(answer, Answer::Sent);
            assert!(is_intact(&sent), "{sent:02x?}");
            sent
        };
        let isn = u32::MAX - 20; // the header wraps
        let first = isn.wrapping_add(1);
        let (source, origin) = ends(&ask(&tcp(client, edge, &Tcp::new(SYN, isn, 0, b""))));
        let mss = [2, 4, 0x05, 0xb4];
        let answer = tcp(origin, source, &Tcp::new(SYN | ACK, 500, first, b"").with_options(&mss));
        let told = tcp_of(&ask(&answer));
        let bare = tcp_of(&ask(&tcp(client, edge, &Tcp::new(ACK, first, 501, b""))));
        let text = bare.payload.clone();
        let more = text.len() as u32;
        let most = if client.is_ipv4() { 1460 } else { 1440 }; // of the link
        assert_eq!(u16::from_be_bytes([told.options[2], told.options[3]]), most - more as u16);
        assert_eq!((told.ack, bare.seq), (first, first));
        assert!(matches!(
            accept::parse(&text).unwrap(),
            Parsed::Header { consumed, endpoints } if consumed == text.len()
                && endpoints == Some(Endpoints { source: client, destination: edge })
        ));
        // New data goes behind it; the same data again brings it along, odd lengths too.
        for words in [&b"abc"[..], b"abcdefgh", &noise(9, 1301)] {
            let data = Tcp::new(PSH | ACK, first, 501, words);
            let new = tcp_of(&ask(&tcp(client, edge, &data)));
            assert_eq!((new.seq, &new.payload[..]), (first.wrapping_add(more), words));
            let again = tcp_of(&ask(&tcp(client, edge, &data)));
            assert_eq!((again.seq, again.payload), (first, [&text, words].concat()));
        }
        // The origin repeats its SYN-ACK, which the client answers, and acknowledges a part.
        ask(&answer);
        assert_eq!(tcp_of(&ask(&tcp(client, edge, &Tcp::new(ACK, first, 501, b"")))).payload, text);
        let part = tcp_of(&ask(&tcp(origin, source, &Tcp::new(ACK, 501, first.wrapping_add(more - 1), b""))));
        assert_eq!(part.ack, first);
        // All of it: from now on only numbers move, SACK's too.
        let sack =
            |left: u32| [&[1, 1, 5, 10][..], &left.to_be_bytes(), &(left.wrapping_add(9)).to_be_bytes()].concat();
        let options = sack(first.wrapping_add(more + 100));
        let whole = Tcp::new(ACK, 501, first.wrapping_add(more), b"").with_options(&options);
        let whole = tcp_of(&ask(&tcp(origin, source, &whole)));
        assert_eq!((whole.ack, whole.options), (first, sack(first.wrapping_add(100))));
        let bare = tcp_of(&ask(&tcp(client, edge, &Tcp::new(ACK, first, 501, b""))));
        assert_eq!((bare.seq, bare.payload.len()), (first.wrapping_add(more), 0));
    }
}

#[test]
fn datagrams_carry_it_the_first_or_all_of_them() {
    for header in [HeaderKind::ProxyV2, HeaderKind::ProxyV2Every, HeaderKind::Simple] {
        let Some(world) = world() else { return };
        world.carry([HeaderKind::None, header]);
        for (edge, origin, here) in FAMILIES {
            let server = world.udp(&world.origin, at(origin, 1005));
            let client = world.udp(&world.client, at(here, 0));
            client.connect(at(edge, 1005)).unwrap();
            let (me, edge) = (client.local_addr().unwrap(), at(edge, 1005));
            let mut buffer = vec![0; 65_536];
            let mut total = 0;
            for (n, bytes) in [0usize, 1, 127, 128, 129, 1201, 1400, 0].into_iter().enumerate() {
                let words = noise(bytes as u64, bytes);
                client.send(&words).unwrap();
                let mut text = match header {
                    HeaderKind::ProxyV2 if n > 0 => Vec::new(),
                    HeaderKind::Simple => {
                        let mut out = [0; simple_proxy::LEN];
                        simple_proxy::encode(&Endpoints { source: me, destination: edge }, &mut out);
                        out.to_vec()
                    }
                    _ => v2(me, edge, proxy_v2::Transport::Datagram),
                };
                let (heard, from) = server.recv_from(&mut buffer).unwrap();
                let is_simple = header == HeaderKind::Simple;
                assert_eq!(buffer[..heard], [&text[..], &words].concat(), "{header:?} {bytes}");
                if !is_simple {
                    text.clear();
                }
                server.send_to(&[&text[..], &words].concat(), from).unwrap();
                let heard = client.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..heard], words, "{header:?} {bytes}");
                total += bytes as u64;
            }
            // Longer than fits with it: the client is told how much does.
            if header != HeaderKind::ProxyV2 {
                let room = 1500 - if me.is_ipv4() { 28 } else { 48 };
                client.send(&vec![1; room]).unwrap();
                eventually("the client knows", || client.send(&vec![1; room]).err().or(client.take_error().unwrap()));
            }
            let key = causeway_bpf::flow::FlowKey { from: me, to: edge, is_tcp: false };
            let flow = world.path.flow(&key).unwrap().unwrap();
            assert_eq!((flow.client_bytes, flow.origin_bytes), (total, total));
        }
    }
}
