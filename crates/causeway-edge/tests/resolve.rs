//! Origin names against a real DNS server that lies: nothing crashes, bounds hold, the last good answer stays.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use causeway_edge::resolve::{Answer, Family, MAX_ADDRESSES, Names, ResolveCause, Watched};

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SHORT_TTL: Duration = Duration::from_millis(100);
const LONG_TTL: Duration = Duration::from_secs(600);

/// What the server was asked, with the bytes needed to answer.
struct Query {
    id: [u8; 2],
    question: Vec<u8>,
    record_type: u16,
    is_tcp: bool,
}

/// Zero or more messages in answer to one query.
type Script = Arc<dyn Fn(&Query) -> Vec<Vec<u8>> + Send + Sync>;

#[derive(Default)]
struct Zone {
    scripts: HashMap<String, Script>,
    asked: HashMap<String, usize>,
}

/// A DNS server on loopback, UDP and TCP, that says whatever its scripts say.
struct Server {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    is_stopped: Arc<AtomicBool>,
}

impl Server {
    fn start() -> Server {
        let (udp, tcp) = (0..100)
            .find_map(|_| {
                let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
                Some((UdpSocket::bind(tcp.local_addr().unwrap()).ok()?, tcp))
            })
            .unwrap();
        let (zone, is_stopped) = (Arc::new(Mutex::new(Zone::default())), Arc::new(AtomicBool::new(false)));
        let server = Server { address: tcp.local_addr().unwrap(), zone, is_stopped };
        udp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (zone, is_stopped) = (server.zone.clone(), server.is_stopped.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !is_stopped.load(Ordering::Relaxed) {
                let Ok((n, client)) = udp.recv_from(&mut buffer) else { continue };
                for reply in answer(&zone, &buffer[..n], false) {
                    let _ = udp.send_to(&reply, client);
                }
            }
        });
        let (zone, is_stopped) = (server.zone.clone(), server.is_stopped.clone());
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                if is_stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (mut stream, zone) = (stream.unwrap(), zone.clone());
                std::thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut query).unwrap();
                        for reply in answer(&zone, &query, true) {
                            let framed = [&(reply.len() as u16).to_be_bytes(), reply.as_slice()].concat();
                            let _ = stream.write_all(&framed);
                        }
                    }
                });
            }
        });
        server
    }

    fn names(&self) -> Names {
        Names::start(vec![self.address]).unwrap()
    }

    fn says(&self, name: &str, script: impl Fn(&Query) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        self.zone.lock().unwrap().scripts.insert(name.to_string(), Arc::new(script));
    }

    /// Queries for `name` so far, of any type.
    fn asked(&self, name: &str) -> usize {
        self.zone.lock().unwrap().asked.get(name).copied().unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        let _ = std::net::TcpStream::connect(self.address); // wakes the accept loop
    }
}

fn answer(zone: &Mutex<Zone>, query: &[u8], is_tcp: bool) -> Vec<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_vec()).unwrap().to_lowercase());
        at = end;
    }
    let question = query[12..at + 5].to_vec();
    let record_type = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let name = labels.join(".");
    let script = {
        let mut zone = zone.lock().unwrap();
        *zone.asked.entry(name.clone()).or_default() += 1;
        zone.scripts.get(&name).cloned()
    };
    let query = Query { id: [query[0], query[1]], question, record_type, is_tcp };
    script.map_or_else(|| vec![query.reply(NXDOMAIN, &[])], |script| script(&query))
}

const NOERROR: u16 = 0x8180;
const SERVFAIL: u16 = 0x8182;
const NXDOMAIN: u16 = 0x8183;
const REFUSED: u16 = 0x8185;
const TRUNCATED: u16 = 0x8380;

impl Query {
    fn reply(&self, flags: u16, answers: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.id.to_vec();
        for number in [flags, 1, answers.len() as u16, 0, 0] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(&self.question);
        answers.iter().for_each(|answer| bytes.extend(answer));
        bytes
    }

    /// The usual answer: these addresses, those of the asked family only.
    fn addresses(&self, texts: &[&str]) -> Vec<u8> {
        let of_type = |address: &IpAddr| address.is_ipv6() == (self.record_type == AAAA);
        let answers: Vec<Vec<u8>> = texts.iter().map(|t| t.parse().unwrap()).filter(of_type).map(address).collect();
        self.reply(NOERROR, &answers)
    }
}

/// A record owned by the name in the question, with a TTL of a day.
fn record(record_type: u16, data: &[u8]) -> Vec<u8> {
    owned_record(&[0xc0, 12], record_type, 1, data)
}

fn owned_record(owner: &[u8], record_type: u16, class: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend(record_type.to_be_bytes());
    bytes.extend(class.to_be_bytes());
    bytes.extend(86_400u32.to_be_bytes());
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => record(A, &v4.octets()),
        IpAddr::V6(v6) => record(AAAA, &v6.octets()),
    }
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        name.split('.').flat_map(|l| [l.len() as u8].into_iter().chain(l.bytes()).collect::<Vec<u8>>()).collect();
    bytes.push(0);
    bytes
}

fn many_v4(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|n| record(A, &[198, 51, 100, n])).collect()
}

#[track_caller]
fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match condition() {
            Some(value) => return value,
            None if Instant::now() > deadline => panic!("never: {what}"),
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

#[track_caller]
fn first_answer(watched: &Watched) -> Answer {
    eventually(&format!("{} is answered", watched.name()), || match &*watched.current() {
        Answer::Pending => None,
        answer => Some(answer.clone()),
    })
}

fn addresses(texts: &[&str]) -> Answer {
    Answer::Addresses(texts.iter().map(|text| text.parse().unwrap()).collect())
}

fn cause(answer: &Answer) -> Option<ResolveCause> {
    match answer {
        Answer::Failed { cause, .. } => Some(*cause),
        _ => None,
    }
}

#[test]
fn each_family_gets_what_it_asked_for() {
    let server = Server::start();
    server.says("both.test", |q| vec![q.addresses(&["192.0.2.2", "192.0.2.1", "2001:db8::1", "192.0.2.2"])]);
    server.says("six.test", |q| vec![q.addresses(&["2001:db8::6"])]);
    let names = server.names();
    let cases = [
        ("both.test", Family::Any, addresses(&["192.0.2.2", "2001:db8::1", "192.0.2.1"])),
        ("both.test.", Family::A, addresses(&["192.0.2.2", "192.0.2.1"])),
        ("BOTH.test", Family::Aaaa, addresses(&["2001:db8::1"])),
        ("six.test", Family::Any, addresses(&["2001:db8::6"])),
    ];
    for (name, family, expected) in cases {
        assert_eq!(first_answer(&names.watch(name, family, LONG_TTL)), expected, "{name} {family:?}");
    }
    let none = first_answer(&names.watch("six.test", Family::A, LONG_TTL));
    assert_eq!(cause(&none), Some(ResolveCause::NotFound));
}

#[test]
fn the_same_question_is_asked_once_and_shared() {
    let server = Server::start();
    server.says("shared.test", |q| vec![q.addresses(&["192.0.2.1"])]);
    let names = server.names();
    let first = names.watch("shared.test", Family::A, LONG_TTL);
    let second = names.watch("Shared.Test", Family::A, LONG_TTL);
    assert!(Arc::ptr_eq(&first, &second));
    assert!(!Arc::ptr_eq(&first, &names.watch("shared.test", Family::A, SHORT_TTL)), "another ttl, another rhythm");
    first_answer(&first);
    drop((first, second));
    let again = names.watch("shared.test", Family::A, LONG_TTL);
    assert_eq!(first_answer(&again), addresses(&["192.0.2.1"]));
}

#[test]
fn a_change_is_seen_after_our_ttl_whatever_the_record_says() {
    let server = Server::start();
    server.says("moves.test", |q| vec![q.addresses(&["192.0.2.1"])]); // its records live for a day
    let watched = server.names().watch("moves.test", Family::Any, SHORT_TTL);
    assert_eq!(first_answer(&watched), addresses(&["192.0.2.1"]));
    server.says("moves.test", |q| vec![q.addresses(&["192.0.2.2"])]);
    eventually("the new address", || (*watched.current() == addresses(&["192.0.2.2"])).then_some(()));
}

#[test]
fn a_name_nobody_holds_is_not_asked_for_any_more() {
    let server = Server::start();
    for name in ["held.test", "dropped.test"] {
        server.says(name, |q| vec![q.addresses(&["192.0.2.1"])]);
    }
    let names = server.names();
    let [held, dropped] = ["held.test", "dropped.test"].map(|name| names.watch(name, Family::A, SHORT_TTL));
    first_answer(&dropped);
    drop((names, dropped)); // a watched name lives without the handle, too
    // One look may have been under way; then none while the other name is looked at five times.
    let asked_until = |n: usize| eventually("looks", || (server.asked("held.test") >= n).then_some(()));
    let start = server.asked("held.test");
    asked_until(start + 2);
    let before = server.asked("dropped.test");
    asked_until(start + 7);
    assert_eq!(server.asked("dropped.test"), before);
    drop(held);
}

struct EventFd(OwnedFd);

impl EventFd {
    fn new() -> EventFd {
        // SAFETY: no pointers; the descriptor is new and ours.
        EventFd(unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)) })
    }

    fn read(&self) -> u64 {
        let mut count = [0u8; 8];
        // SAFETY: the pointer and length describe `count`.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
        u64::from_ne_bytes(count)
    }
}

#[test]
fn whoever_waits_is_woken_once_by_the_first_answer() {
    let server = Server::start();
    let gate = Arc::new(AtomicBool::new(false));
    let is_open = gate.clone();
    server.says("late.test", move |q| match is_open.load(Ordering::Relaxed) {
        true => vec![q.addresses(&["192.0.2.1"])],
        false => vec![],
    });
    let watched = server.names().watch("late.test", Family::A, SHORT_TTL);
    let (early, other, late, gone) = (EventFd::new(), EventFd::new(), EventFd::new(), EventFd::new());
    for wake in [&early, &other, &early, &gone] {
        assert!(watched.wait_with(wake.0.as_raw_fd()));
    }
    drop(gone); // its number may be anybody's now
    assert_eq!((early.read(), other.read()), (0, 0));
    gate.store(true, Ordering::Relaxed);
    assert_ne!(first_answer(&watched), Answer::Pending);
    assert_eq!(eventually("both are woken", || Some((early.read(), other.read())).filter(|c| c.0 > 0)), (1, 1));
    assert!(!watched.wait_with(late.0.as_raw_fd()), "answered already: written at once");
    assert_eq!(late.read(), 1);
    let asked = server.asked("late.test");
    eventually("more answers", || (server.asked("late.test") > asked + 2).then_some(()));
    assert_eq!(early.read() + other.read() + late.read(), 0, "only the first answer wakes");
}

/// Answers that must not give an address, with the cause they must give.
fn lies() -> Vec<(&'static str, ResolveCause, Script)> {
    use ResolveCause::{Failure, NotFound};
    let script = |f: fn(&Query) -> Vec<Vec<u8>>| -> Script { Arc::new(f) };
    let other_question = |q: &Query| Query {
        question: [encoded("other.test"), q.question[q.question.len() - 4..].to_vec()].concat(),
        ..clone(q)
    };
    vec![
        ("no-records", NotFound, script(|q| vec![q.reply(NOERROR, &[])])),
        ("nxdomain", NotFound, script(|q| vec![q.reply(NXDOMAIN, &[])])),
        ("servfail", Failure, script(|q| vec![q.reply(SERVFAIL, &[])])),
        ("refused", Failure, script(|q| vec![q.reply(REFUSED, &[])])),
        ("silent", Failure, script(|_| vec![])),
        ("empty", Failure, script(|_| vec![vec![]])),
        ("one-byte", Failure, script(|q| vec![vec![q.id[0]]])),
        ("only-an-id", Failure, script(|q| vec![q.id.to_vec()])),
        ("not-a-response", Failure, script(|q| vec![q.reply(0x0100, &many_v4(1))])),
        ("wrong-id", Failure, script(|q| vec![[&[q.id[0] ^ 1, q.id[1]], &q.addresses(&["192.0.2.66"])[2..]].concat()])),
        ("other-question", Failure, Arc::new(move |q| vec![other_question(q).reply(NOERROR, &many_v4(1))])),
        ("truncated-and-tcp-too", Failure, script(|q| vec![q.reply(TRUNCATED, &[])])),
        ("wrong-family", NotFound, script(|q| vec![q.reply(NOERROR, &[record(AAAA, &Ipv6Addr::LOCALHOST.octets())])])),
        (
            "wrong-class",
            Failure,
            script(|q| vec![q.reply(NOERROR, &[owned_record(&[0xc0, 12], A, 3, &[192, 0, 2, 1])])]),
        ),
        ("short-address", Failure, script(|q| vec![q.reply(NOERROR, &[record(A, &[192, 0, 2])])])),
        ("long-address", Failure, script(|q| vec![q.reply(NOERROR, &[record(A, &[192, 0, 2, 1, 9])])])),
        (
            "data-past-the-end",
            Failure,
            script(|q| {
                let mut reply = q.reply(NOERROR, &many_v4(1));
                let at = reply.len() - 6;
                reply[at..at + 2].copy_from_slice(&u16::MAX.to_be_bytes());
                vec![reply]
            }),
        ),
        (
            "claims-65535-records",
            Failure,
            script(|q| {
                let mut reply = q.reply(NOERROR, &many_v4(1));
                reply[6..12].fill(0xff);
                vec![reply]
            }),
        ),
        (
            "pointer-to-itself",
            Failure,
            script(|q| {
                let at = 12 + q.question.len() as u8;
                vec![q.reply(NOERROR, &[owned_record(&[0xc0, at], A, 1, &[192, 0, 2, 1])])]
            }),
        ),
        (
            "pointers-in-a-circle",
            Failure,
            script(|q| {
                let at = 12 + q.question.len() as u8;
                vec![q.reply(NOERROR, &[owned_record(&[1, b'a', 0xc0, at], A, 1, &[192, 0, 2, 1])])]
            }),
        ),
        (
            "pointer-forward",
            Failure,
            script(|q| vec![q.reply(NOERROR, &[owned_record(&[0xff, 0xff], A, 1, &[192, 0, 2, 1])])]),
        ),
        (
            "question-of-pointers",
            Failure,
            script(|q| {
                let mut reply = q.reply(NOERROR, &many_v4(1));
                reply[12..14].copy_from_slice(&[0xc0, 12]);
                vec![reply]
            }),
        ),
        ("alias-of-itself", NotFound, script(|q| vec![q.reply(NOERROR, &[record(CNAME, &[0xc0, 12])])])),
        (
            "alias-without-end",
            NotFound,
            script(|q| vec![q.reply(NOERROR, &[record(CNAME, &encoded("alias-without-end.test"))])]),
        ),
    ]
}

fn clone(q: &Query) -> Query {
    Query { id: q.id, question: q.question.clone(), record_type: q.record_type, is_tcp: q.is_tcp }
}

#[test]
fn a_lie_gives_no_address_and_says_what_was_wrong() {
    let server = Server::start();
    let names = server.names();
    let watched: Vec<_> = lies()
        .into_iter()
        .map(|(lie, cause, script)| {
            server.says(&format!("{lie}.test"), move |q| script(q));
            (lie, cause, names.watch(&format!("{lie}.test"), Family::A, LONG_TTL))
        })
        .collect();
    for (lie, expected, watched) in watched {
        let Answer::Failed { cause, detail } = first_answer(&watched) else { panic!("{lie}: believed") };
        println!("{lie}: {detail}");
        assert_eq!(cause, expected, "{lie}: {detail}");
        assert!(detail.contains(lie) && detail.len() < 400, "{lie}: {detail}");
    }
}

#[test]
fn a_lie_leaves_the_last_good_answer_and_the_truth_replaces_it() {
    let server = Server::start();
    let names = server.names();
    let good = |q: &Query| vec![q.addresses(&["192.0.2.1", "2001:db8::1"])];
    // Those that end in a time-out take seconds each; the pure test of `Memory` has them.
    let slow = ["silent", "empty", "one-byte", "wrong-id", "other-question", "not-a-response"];
    let lies: Vec<_> = lies().into_iter().filter(|(lie, ..)| !slow.contains(lie)).collect();
    for (lie, ..) in &lies {
        server.says(&format!("{lie}.test"), good);
    }
    let watched: Vec<_> =
        lies.iter().map(|(lie, ..)| names.watch(&format!("{lie}.test"), Family::Any, SHORT_TTL)).collect();
    let known = addresses(&["192.0.2.1", "2001:db8::1"]);
    for watched in &watched {
        assert_eq!(first_answer(watched), known, "{}", watched.name());
    }
    for (lie, _, script) in lies {
        server.says(&format!("{lie}.test"), move |q| script(q));
    }
    let before: Vec<_> = watched.iter().map(|w| server.asked(w.name())).collect();
    for (watched, before) in watched.iter().zip(before) {
        eventually("several lies", || (server.asked(watched.name()) > before + 6).then_some(()));
    }
    for watched in &watched {
        let kept = watched.current();
        // A wrong family is an honest "no A"; the AAAA it really has stays.
        let expected = if watched.name() == "wrong-family.test" { addresses(&["::1"]) } else { known.clone() };
        assert_eq!(*kept, expected, "{}", watched.name());
    }
    for watched in &watched {
        server.says(watched.name(), |q| vec![q.addresses(&["192.0.2.9"])]);
    }
    for watched in &watched {
        eventually(watched.name(), || (*watched.current() == addresses(&["192.0.2.9"])).then_some(()));
    }
}

/// 600 good answers with a few random bytes changed, and every length of a cut one.
#[test]
fn no_mutated_answer_crashes_the_resolver() {
    let server = Server::start();
    let names = server.names();
    let whole = |q: &Query| {
        let alias = owned_record(&[0xc0, 12], CNAME, 1, &[1, b'x', 0xc0, 12]);
        q.reply(
            NOERROR,
            &[alias, owned_record(&[1, b'x', 0xc0, 12], A, 1, &[192, 0, 2, 1]), record(A, &[192, 0, 2, 2])],
        )
    };
    let mut watched = Vec::new();
    for cut in 0..100usize {
        server.says(&format!("cut-{cut}.test"), move |q| {
            let reply = whole(q);
            vec![reply[..cut.min(reply.len() - 1)].to_vec()]
        });
        watched.push(names.watch(&format!("cut-{cut}.test"), Family::A, LONG_TTL));
    }
    for seed in 0..600u64 {
        server.says(&format!("fuzz-{seed}.test"), move |q| {
            let mut reply = whole(q);
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for _ in 0..1 + seed % 4 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let at = 2 + random as usize % (reply.len() - 2); // the id stays right
                reply[at] = (random >> 32) as u8;
            }
            vec![reply]
        });
        watched.push(names.watch(&format!("fuzz-{seed}.test"), Family::A, LONG_TTL));
    }
    let believed = watched.iter().filter(|watched| matches!(first_answer(watched), Answer::Addresses(_))).count();
    assert!(watched[..100].iter().all(|watched| cause(&watched.current()).is_some()), "a cut answer was believed");
    println!("{believed} of {} mutated answers still held an address", watched.len() - 100);
    server.says("alive.test", |q| vec![q.addresses(&["192.0.2.1"])]);
    assert_eq!(first_answer(&names.watch("alive.test", Family::A, LONG_TTL)), addresses(&["192.0.2.1"]));
}

#[test]
fn of_many_addresses_a_bounded_number_is_kept_in_their_order() {
    let server = Server::start();
    server.says("many.test", |q| match q.is_tcp {
        true => vec![q.reply(NOERROR, &many_v4(200))],
        false => vec![q.reply(TRUNCATED, &many_v4(5))],
    });
    let expected = (0..MAX_ADDRESSES as u8).map(|n| IpAddr::from(Ipv4Addr::new(198, 51, 100, n))).collect();
    let watched = server.names().watch("many.test", Family::A, LONG_TTL);
    assert_eq!(first_answer(&watched), Answer::Addresses(expected));
}

#[test]
fn forged_answers_before_the_right_one_are_passed_over() {
    let server = Server::start();
    server.says("raced.test", |q| {
        let forged = q.addresses(&["192.0.2.66"]);
        let wrong = |n: u8| [&[q.id[0], q.id[1] ^ n], &forged[2..]].concat();
        (1..50).map(wrong).chain([q.addresses(&["192.0.2.1"])]).collect()
    });
    let watched = server.names().watch("raced.test", Family::A, LONG_TTL);
    assert_eq!(first_answer(&watched), addresses(&["192.0.2.1"]));
}

#[test]
fn aliases_are_followed_a_bounded_number_of_times() {
    let server = Server::start();
    let alias = |to: String| move |q: &Query| vec![q.reply(NOERROR, &[record(CNAME, &encoded(&to))])];
    for n in 0..40 {
        server.says(&format!("endless-{n}.test"), alias(format!("endless-{}.test", n + 1)));
    }
    server.says("www.test", alias("cdn.test".into()));
    server.says("cdn.test", alias("node.test".into()));
    server.says("node.test", |q| vec![q.addresses(&["192.0.2.1"])]);
    let names = server.names();
    assert_eq!(first_answer(&names.watch("www.test", Family::A, LONG_TTL)), addresses(&["192.0.2.1"]));
    let endless = first_answer(&names.watch("endless-0.test", Family::A, LONG_TTL));
    assert!(cause(&endless).is_some(), "{endless:?}");
    assert_eq!(server.asked("endless-12.test"), 0);
}

#[test]
fn a_server_that_never_answers_one_family_delays_the_other_by_little() {
    let server = Server::start();
    for (name, silent) in [("no-aaaa.test", AAAA), ("no-a.test", A)] {
        server.says(name, move |q| match q.record_type == silent {
            true => vec![],
            false => vec![q.addresses(&["192.0.2.1", "2001:db8::1"])],
        });
    }
    let names = server.names();
    let start = Instant::now();
    let [v4, v6] = ["no-aaaa.test", "no-a.test"].map(|name| names.watch(name, Family::Any, LONG_TTL));
    assert_eq!(first_answer(&v4), addresses(&["192.0.2.1"]));
    assert_eq!(first_answer(&v6), addresses(&["2001:db8::1"]));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_dead_server_beside_a_live_one_does_not_matter() {
    let server = Server::start();
    server.says("origin.test", |q| vec![q.addresses(&["192.0.2.1"])]);
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap(); // takes queries, answers none
    let names = Names::start(vec![dead.local_addr().unwrap(), server.address]).unwrap();
    let start = Instant::now();
    let watched = names.watch("origin.test", Family::Any, LONG_TTL);
    assert_eq!(first_answer(&watched), addresses(&["192.0.2.1"]));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_name_that_appears_late_is_found_within_a_second() {
    let server = Server::start();
    let watched = server.names().watch("late-born.test", Family::Any, LONG_TTL);
    assert_eq!(cause(&first_answer(&watched)), Some(ResolveCause::NotFound));
    server.says("late-born.test", |q| vec![q.addresses(&["192.0.2.1"])]);
    let start = Instant::now();
    eventually("it is found", || matches!(*watched.current(), Answer::Addresses(_)).then_some(()));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn text_that_is_no_host_name_is_never_sent() {
    let server = Server::start();
    let names = server.names();
    for name in ["", "a b.test", "bücher.test", "x..test", "127.0.0.1"] {
        let answer = first_answer(&names.watch(name, Family::Any, SHORT_TTL));
        assert_eq!(cause(&answer), Some(ResolveCause::NotFound), "{name}");
    }
    assert!(server.zone.lock().unwrap().asked.is_empty());
}

#[test]
fn the_system_knows_localhost() {
    let names = Names::start(vec![]).unwrap();
    let Answer::Addresses(found) = first_answer(&names.watch("localhost", Family::Any, LONG_TTL)) else {
        panic!("no localhost")
    };
    assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
}

#[test]
fn causes_have_the_status_codes_of_the_event_log() {
    assert_eq!((ResolveCause::NotFound.status(), ResolveCause::Failure.status()), (531, 530));
}
