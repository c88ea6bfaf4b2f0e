//! The guard on a wire: a client and an edge in namespaces of their own, real connections, and floods beside them.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{
    Attachment, CookieConditions, Counts, Entry, Guard, Listener, Mode, Options, PrefixSet, Settings, Verdict, Wants,
};
use support::forge::Random;
use support::packet::{ACK, RST, SYN, Tcp, tcp};
use support::{CLIENT, CLIENT6, EDGE, EDGE6, Namespace, at, eventually, patient, say};

const OTHER: &str = "198.18.1.3";
const MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const WEB: u16 = 1;
const REST: u16 = 2;
const FLOOD: usize = 5000;
/// Long enough for a SYN and its answer on this machine, short enough to wait for nothing.
const SILENCE: Duration = Duration::from_millis(300);

struct Wire {
    client: Namespace,
    edge: Namespace,
    guard: Guard,
    /// An answer by XDP needs a program on the other end of a veth; this one guards nothing.
    peer: Guard,
}

/// Within the deadline, or fail.
fn taken(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = eventually("a connection to accept", || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    patient(&stream);
    stream
}

fn wire(options: &Options) -> Option<Wire> {
    let (client, edge) = (Namespace::new()?, Namespace::new()?);
    edge.ip(&format!("link add g0 type veth peer name g1 netns {}", client.path()));
    for (place, name, four, six) in [(&edge, "g0", vec![EDGE], EDGE6), (&client, "g1", vec![CLIENT, OTHER], CLIENT6)] {
        four.iter().for_each(|ip| place.ip(&format!("addr add {ip}/24 dev {name}")));
        place.ip(&format!("addr add {six}/64 dev {name} nodad"));
        place.ip(&format!("link set {name} up"));
    }
    edge.ip("link set g0 address 02:00:00:00:01:01");
    edge.ip(&format!("route add 198.19.0.0/16 via {CLIENT}")); // the stack answers nobody to whom it has no route
    edge.set("ipv4/tcp_syncookies", "2");
    edge.set("ipv4/tcp_timestamps", "2");
    let guard = support::guard(edge.run(|| Guard::open(options)))?;
    edge.run(|| guard.attach(edge.index("g0"))).unwrap();
    let peer = support::guard(client.run(|| Guard::open(&Options::default())))?;
    client.run(|| peer.attach(client.index("g1"))).unwrap();
    let cookies = edge.run(CookieConditions::here).unwrap();
    assert_eq!(cookies.advice(), None);
    guard.set_settings(&Settings { cookies, ..Settings::default() }).unwrap();
    let wire = Wire { client, edge, guard, peer };
    let mut ports = PortTable::default();
    ports.set(1000..=1999, WEB);
    for edge in [EDGE, EDGE6] {
        wire.guard.set_ports(Spot::tcp(edge.parse().unwrap()), &ports).unwrap();
        wire.guard.set_address(edge.parse().unwrap(), Some(REST)).unwrap();
    }
    wire.protect(Wants::default());
    Some(wire)
}

impl Wire {
    fn protect(&self, wants: Wants) {
        for index in [WEB, REST] {
            let listener = Listener { mode: Mode::Protect, wants, sets: vec![1], ..Listener::default() };
            self.guard.set_listener(index, &listener).unwrap();
        }
    }

    fn block(&self, sources: &[&str]) {
        let set: PrefixSet = sources.iter().map(|text| (text.parse().unwrap(), Entry::block())).collect();
        self.guard.swap_prefixes(1, set).unwrap();
    }

    fn listen(&self, edge: &str, port: u16) -> TcpListener {
        self.edge.run(|| TcpListener::bind(at(edge, port))).unwrap()
    }

    fn connect(&self, from: &str, to: SocketAddr, within: Duration) -> std::io::Result<TcpStream> {
        self.client.run(|| {
            let kind = if to.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
            let socket = socket2::Socket::new(kind, socket2::Type::STREAM, None)?;
            socket.bind(&at(from, 0).into())?;
            socket.connect_timeout(&to.into(), within)?;
            let stream = TcpStream::from(socket);
            patient(&stream);
            Ok(stream)
        })
    }

    fn joined(&self, from: &str, edge: &str, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let port = listener.local_addr().unwrap().port();
        let near = self.connect(from, at(edge, port), support::DEADLINE).unwrap();
        (near, taken(listener))
    }

    fn counts(&self) -> Counts {
        self.guard.counts(WEB).unwrap()
    }

    /// Frames as they are, by the client's end of the wire.
    fn send(&self, frames: impl Iterator<Item = Vec<u8>> + Send) {
        let index = self.client.index("g1");
        self.client.run(|| {
            // SAFETY: no pointers; the descriptor is new.
            let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)) };
            // SAFETY: plain numbers, for which zeroes are a value.
            let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            (to.sll_family, to.sll_ifindex, to.sll_halen) = (libc::AF_PACKET as u16, index as i32, 6);
            for mut frame in frames {
                frame[..6].copy_from_slice(&MAC);
                let (bytes, length) = (frame.as_ptr().cast(), size_of::<libc::sockaddr_ll>() as u32);
                eventually("room in the queue of the other end", || {
                    // SAFETY: a frame and an address that outlive the call.
                    let sent = unsafe {
                        libc::sendto(socket.as_raw_fd(), bytes, frame.len(), 0, (&raw const to).cast(), length)
                    };
                    let error = std::io::Error::last_os_error();
                    let is_full = sent < 0 && error.raw_os_error() == Some(libc::ENOBUFS);
                    assert!(is_full || sent == frame.len() as isize, "{error}");
                    (!is_full).then_some(())
                });
            }
        });
    }

    /// From anybody, to the guarded port.
    fn flood(&self, flags: u8) {
        let mut random = Random(flags.into());
        self.send((0..FLOOD).map(|_| {
            let source = format!("198.19.{}.{}", random.below(256), 1 + random.below(250));
            let words = Tcp::new(flags, random.next(), random.next(), b"");
            tcp(at(&source, 1024 + random.below(60_000) as u16), at(EDGE, 1000), &words)
        }));
    }
}

#[test]
fn a_blocked_source_gets_nothing_others_do_and_an_open_connection_stays() {
    let Some(wire) = wire(&Options::default()) else { return };
    let listener = wire.listen(EDGE, 1000);
    let (mut near, mut far) = wire.joined(CLIENT, EDGE, &listener);
    wire.block(&[CLIENT]);
    say(&mut near, &mut far, b"still there");
    say(&mut far, &mut near, b"so am I");
    let refused = wire.connect(CLIENT, at(EDGE, 1000), SILENCE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    let (mut near, mut far) = wire.joined(OTHER, EDGE, &listener);
    say(&mut near, &mut far, b"hello");
    assert!(wire.counts().get(Verdict::Blocked).packets >= 1);
    assert!(wire.counts().get(Verdict::Established).packets >= 2);
    wire.guard.change_prefix(1, CLIENT.parse().unwrap(), None).unwrap();
    wire.joined(CLIENT, EDGE, &listener);
}

#[test]
fn a_banned_source_opens_nothing_new_keeps_what_it_has_and_comes_in_again_when_the_ban_has_ended() {
    let Some(wire) = wire(&Options::default()) else { return };
    let listener = wire.listen(EDGE, 1000);
    let (mut near, mut far) = wire.joined(CLIENT, EDGE, &listener);
    // SAFETY: plain numbers, for which zeroes are a value.
    let mut now: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: room for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let ends_ns = (now.tv_sec as u64 + 2) * 1_000_000_000 + now.tv_nsec as u64;
    let ban = Entry { tag: 9, expires_ns: Some(ends_ns), ..Entry::block() };
    let bans = [("198.18.1.0/24", ban), (OTHER, Entry::allow())].map(|(text, entry)| (text.parse().unwrap(), entry));
    wire.guard.swap_prefixes(2, bans.into_iter().collect()).unwrap();
    wire.guard.set_listener(WEB, &Listener { mode: Mode::Protect, bans: Some(2), ..Listener::default() }).unwrap();
    say(&mut near, &mut far, b"still there");
    say(&mut far, &mut near, b"so am I");
    let refused = wire.connect(CLIENT, at(EDGE, 1000), SILENCE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    wire.joined(OTHER, EDGE, &listener);
    let banned = wire.counts().get(Verdict::Banned).packets;
    assert!(banned >= 1 && wire.guard.hits(9).unwrap().packets == banned);
    // Nobody touches it: the SYN that comes again after a second or two is let in.
    wire.joined(CLIENT, EDGE, &listener);
}

#[test]
fn an_open_connection_survives_floods_of_acks_and_resets() {
    let Some(wire) = wire(&Options::default()) else { return };
    let listener = wire.listen(EDGE, 1000);
    let (mut near, mut far) = wire.joined(CLIENT, EDGE, &listener);
    wire.protect(Wants { state: true, ..Wants::default() });
    wire.flood(ACK);
    wire.flood(RST);
    // And at its own ends, beyond its window.
    let mut random = Random(9);
    let ends = (near.local_addr().unwrap(), at(EDGE, 1000));
    wire.send((0..200).map(|_| tcp(ends.0, ends.1, &Tcp::new(RST, random.next() | 1 << 31, 0, b""))));
    eventually("all are judged", || (wire.counts().get(Verdict::OutOfState).packets >= 2 * FLOOD as u64).then_some(()));
    say(&mut near, &mut far, b"still there");
    say(&mut far, &mut near, b"so am I");
    wire.joined(CLIENT, EDGE, &listener);
}

#[test]
fn spoofed_syns_are_answered_by_cookies_and_a_client_connects_with_all_its_options() {
    let Some(wire) = wire(&Options::default()) else { return };
    wire.protect(Wants { cookies: true, ..Wants::default() });
    for (client, edge) in [(CLIENT, EDGE), (CLIENT6, EDGE6)] {
        let listener = wire.listen(edge, 1000);
        wire.flood(SYN);
        // The listener has to have sent a cookie of its own lately; a few of the flood's SYNs went through.
        let first = wire.connect(client, at(edge, 1000), support::DEADLINE);
        first.unwrap_or_else(|error| panic!("{client}: {error}; {:?}", wire.counts()));
        let _first = taken(&listener);
        let before = wire.counts().get(Verdict::CookieTaken).packets;
        for _ in 0..20 {
            let (mut near, mut far) = wire.joined(client, edge, &listener);
            let words = support::noise(1, 200_000);
            let sent = std::thread::spawn(move || near.write_all(&words).map(|()| near));
            let mut heard = vec![0; 200_000];
            far.read_exact(&mut heard).unwrap();
            assert!(heard == support::noise(1, 200_000), "bytes differ");
            sent.join().unwrap().unwrap();
            let (options, scales) = tcp_info(&far);
            assert_eq!(options & 7, 7, "timestamps, SACK and window scale ({scales:#04x})");
        }
        let counts = wire.counts();
        assert!(counts.get(Verdict::CookieTaken).packets >= before + 15, "{counts:?}");
    }
    let counts = wire.counts();
    assert!(counts.get(Verdict::CookieSent).packets >= FLOOD as u64, "{counts:?}");
    assert!(counts.get(Verdict::Primed).packets < 500, "{counts:?}");
}

/// Row 4 of the attack table. What a cookie cannot keep is what has no timestamp to be kept in: RFC 7323, 5.7 and
/// Documentation/networking/ip-sysctl.rst, tcp_syncookies.
#[test]
fn a_thousand_handshakes_by_cookie_end_as_they_would_have_without() {
    let Some(wire) = wire(&Options::default()) else { return };
    let listener = wire.listen(EDGE, 1000);
    let ends = || {
        let (near, far) = wire.joined(CLIENT, EDGE, &listener);
        [near, far].map(|stream| (tcp_info(&stream), segment(&stream)))
    };
    for combination in 0..8 {
        let is_on = |bit: u32| combination >> bit & 1 == 1;
        let (has_timestamps, has_sack, has_scale) = (is_on(0), is_on(1), is_on(2));
        for (name, is_on) in [("timestamps", has_timestamps), ("sack", has_sack), ("window_scaling", has_scale)] {
            wire.client.set(&format!("ipv4/tcp_{name}"), if is_on { "1" } else { "0" });
        }
        wire.protect(Wants::default());
        wire.edge.set("ipv4/tcp_syncookies", "1");
        let plain = ends();
        wire.edge.set("ipv4/tcp_syncookies", "2");
        let flags = u8::from(has_timestamps) | u8::from(has_sack) << 1 | u8::from(has_scale) << 2;
        assert_eq!(plain[1].0.0 & 7, flags, "without cookies, {combination:#05b}");
        wire.protect(Wants { cookies: true, ..Wants::default() });
        wire.flood(SYN);
        ends(); // the listener sends a cookie of its own
        let before = wire.counts().get(Verdict::CookieTaken).packets;
        for _ in 0..125 {
            let [near, far] = ends();
            if has_timestamps {
                assert_eq!([near, far], plain, "{combination:#05b}");
            } else {
                assert_eq!(
                    (far.0.0 & 7, near.0.0 & 7),
                    (0, 0),
                    "{combination:#05b}: nothing that the other end forgot"
                );
                // Twelve bytes of each segment are not taken by timestamps, with cookies or without.
                assert_eq!([near.1, far.1], plain.map(|end| end.1), "{combination:#05b}");
            }
        }
        let taken = wire.counts().get(Verdict::CookieTaken).packets - before;
        assert!(taken >= 115, "{taken} of 125 by cookie, {combination:#05b}");
    }
}

/// As in a container: the other end of its veth is on a bridge of its host, which has no program and no NAPI.
#[test]
fn a_driver_that_loses_what_xdp_sends_leaves_the_answers_to_the_stack_until_it_does_no_more() {
    let Some(wire) = wire(&Options::default()) else { return };
    wire.protect(Wants { cookies: true, ..Wants::default() });
    let by_guard = || {
        wire.edge.run(|| wire.guard.see_drivers()).unwrap();
        wire.guard.attached().iter().all(|(_, how)| *how == Attachment::Native)
    };
    assert!(by_guard());
    wire.peer.release().unwrap();
    assert!(!by_guard());
    for (client, edge) in [(CLIENT, EDGE), (CLIENT6, EDGE6)] {
        let listener = wire.listen(edge, 1000);
        wire.flood(SYN);
        let before = wire.counts();
        for _ in 0..50 {
            let (mut near, mut far) = wire.joined(client, edge, &listener);
            say(&mut near, &mut far, b"hello");
            let (options, _) = tcp_info(&far);
            assert_eq!(options & 7, 7, "timestamps, SACK and window scale");
        }
        let more = |verdict| wire.counts().get(verdict).packets - before.get(verdict).packets;
        assert!(more(Verdict::CookieSent) + more(Verdict::Primed) >= 50, "{:?}", wire.counts());
        assert!(more(Verdict::CookieTaken) >= 45, "{:?}", wire.counts());
    }
    wire.client.run(|| wire.peer.attach(wire.client.index("g1"))).unwrap();
    assert!(by_guard());
    wire.joined(CLIENT, EDGE, &wire.listen(EDGE, 1001));
}

/// The largest segment that it sends, in bytes.
fn segment(stream: &TcpStream) -> u32 {
    let (mut bytes, mut length) = (0u32, size_of::<u32>() as u32);
    // SAFETY: room of the length that it says.
    let result = unsafe {
        let place = (&raw mut bytes).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MAXSEG, place, &raw mut length)
    };
    assert_eq!(result, 0);
    bytes
}

/// Options, and window scales of both sides, of a connection.
fn tcp_info(stream: &TcpStream) -> (u8, u8) {
    let mut info = [0u8; 104];
    let mut length = info.len() as u32;
    // SAFETY: room of the length that it says.
    let result = unsafe {
        let place = info.as_mut_ptr().cast();
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length)
    };
    assert_eq!(result, 0);
    (info[5], info[6])
}

#[test]
fn a_sample_tells_what_has_gone_both_ways_from_what_may_be_forged() {
    let Some(wire) = wire(&Options::default()) else { return };
    wire.edge.set("ipv4/tcp_syncookies", "1"); // so that half-open connections are remembered
    wire.guard.set_settings(&Settings { sample_every: 1, ..Settings::default() }).unwrap();
    let listener = wire.listen(EDGE, 1000);
    let (mut near, mut far) = wire.joined(CLIENT, EDGE, &listener);
    say(&mut near, &mut far, b"hello");
    let stranger = at("198.19.0.1", 5000);
    let frames = [(SYN, 1, 0), (ACK, 2, 77)].map(|(flags, sequence, acknowledged)| {
        tcp(stranger, at(EDGE, 1000), &Tcp::new(flags, sequence, acknowledged, b""))
    });
    wire.send(frames.into_iter());
    let mut samples = wire.guard.samples().unwrap();
    let mut told = Vec::new();
    eventually("all are sampled", || {
        told.extend(samples.by_ref().map(|it| (it.frame[26..30].to_vec(), it.frame[47] & (SYN | ACK), it.is_two_way)));
        told.iter().any(|(source, flags, _)| source[..2] == [198, 19] && *flags == ACK).then_some(())
    });
    let of = |net: u8| told.iter().filter(move |(source, _, _)| source[1] == net).map(|(_, flags, is)| (*flags, *is));
    assert!(of(18).any(|(flags, is)| flags == ACK && is), "{told:?}");
    assert!(of(18).all(|(flags, is)| flags == ACK || !is), "a SYN is of nothing yet: {told:?}");
    assert!(of(19).all(|(_, is)| !is), "half-open is not both ways: {told:?}");
}

#[test]
fn a_port_that_nobody_has_is_refused_or_silent_as_it_is_set() {
    let Some(wire) = wire(&Options::default()) else { return };
    let ask = || wire.connect(CLIENT, at(EDGE, 5000), SILENCE).unwrap_err().kind();
    assert_eq!(ask(), ErrorKind::ConnectionRefused);
    let ssh = wire.listen(EDGE, 22);
    wire.protect(Wants { open_ports: true, ..Wants::default() });
    assert_eq!(ask(), ErrorKind::TimedOut);
    wire.joined(CLIENT, EDGE, &ssh);
    assert!(wire.guard.counts(REST).unwrap().get(Verdict::Port).packets >= 1);
}

#[test]
fn rules_outlive_their_process_and_the_next_one_takes_them_over() {
    let pins = PathBuf::from(format!("/sys/fs/bpf/causeway-guard-{}", std::process::id()));
    let options = Options { pins: Some(pins.clone()), ..Options::default() };
    let Some(wire) = wire(&options) else { return };
    let listener = wire.listen(EDGE, 1000);
    wire.block(&[CLIENT]);
    // All that the kernel sees of a process that is killed: its descriptors are closed.
    let Wire { client, edge, guard, peer } = wire;
    drop(guard);
    let again = |guard| Wire { client, edge, guard, peer };
    let guard = {
        let blocked = |client: &Namespace| {
            client.run(|| TcpStream::connect_timeout(&at(EDGE, 1000), SILENCE)).unwrap_err().kind()
        };
        let wire = again(support::guard(Guard::open(&Options::default())).unwrap());
        assert_eq!(blocked(&wire.client), ErrorKind::TimedOut);
        let guard = wire.edge.run(|| Guard::open(&options)).unwrap();
        assert_eq!(guard.attached().len(), 1);
        assert!(guard.counts(WEB).unwrap().get(Verdict::Blocked).packets >= 1);
        assert_eq!(blocked(&wire.client), ErrorKind::TimedOut);
        // What it did not put there it cannot mend, but replace.
        let error = guard.change_prefix(1, CLIENT.parse().unwrap(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        guard.swap_prefixes(1, PrefixSet::default()).unwrap();
        let stream = wire.client.run(|| TcpStream::connect_timeout(&at(EDGE, 1000), support::DEADLINE));
        drop((stream.unwrap(), taken(&listener)));
        guard
    };
    assert!(Guard::flush(&options).unwrap() > 1);
    assert!(!pins.exists());
    drop(guard);
}
