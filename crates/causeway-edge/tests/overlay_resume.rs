//! Flows from edge to edge that outlive their path: an edge on it dies, lines are cut with a word and without one.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use causeway_wire::Endpoints;
use causeway_wire::frames::data_head;
use causeway_wire::overlay::{Ask, Hop, Keep, MAX_HOP, Outcome, Path};
use serde_json::json;
use support::line::Line;
use support::network::{Authority, Member, come_as, member, network, network_at, network_of, old_edge, say_as, serve};
use support::{DEADLINE, application, connect, echo, eventually, free_address, in_background, noise, origin, reset};

const FAULTS: usize = 100;

/// par has the clients, fra the origin; par reaches fra over a line that can be cut, and lon over none.
struct World {
    members: Vec<Member>,
    edge: SocketAddr,
    line: Line,
}

fn world(origin: SocketAddr) -> World {
    world_with(origin, true)
}

/// `is_round`: there is a way to fra that is not over the line.
fn world_with(origin: SocketAddr, is_round: bool) -> World {
    let members = network_at("127.0.0.1", 2, &["par", "lon", "fra"]); // a connection comes to any of the workers
    let edge = free_address("127.0.0.1");
    let exit = json!({"exit": true, "paths": [], "edge_addresses": []});
    members[2].apply(&members, &[application(1, "tcp", edge, &[origin], exit)]);
    // Par is told of no other way to fra: connections would be ready that are not over the line.
    let line = Line::to(members[2].at);
    let app = application(1, "tcp", edge, &[origin], json!({"paths": [["fra"]]}));
    let peers = [("fra", line.at), ("lon", members[1].at)];
    members[0].apply_among(&peers[..if is_round { 2 } else { 1 }], &[app]);
    World { members, edge, line }
}

impl World {
    fn resumed(&self) -> u64 {
        self.members[0].counted("flows_resumed_total")
    }
}

/// Says all of it, hears it back, and calls `halfway` once a part is there.
fn echoed(edge: SocketAddr, sent: &[u8], mut halfway: impl FnMut(usize)) -> Vec<u8> {
    let mut stream = connect(edge);
    let mut sender = stream.try_clone().unwrap();
    let all = sent.to_vec();
    let sending = in_background(move || {
        sender.write_all(&all).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let (mut back, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let n = stream.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        back.extend_from_slice(&buffer[..n]);
        halfway(back.len());
    }
    sending.join().unwrap();
    back
}

fn a_word_there_and_back(stream: &mut TcpStream, word: &[u8]) {
    stream.write_all(word).unwrap();
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, word);
}

/// An origin whose side of each flow is the test's.
fn held_origin() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap(), listener)
}

fn accepted(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let stream = eventually("somebody comes", || listener.accept().ok()).0;
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A flow on which a word has gone both ways.
fn flow(world: &World, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = connect(world.edge);
    client.write_all(b"x").unwrap();
    let mut at_origin = accepted(listener);
    at_origin.read_exact(&mut [0]).unwrap();
    at_origin.write_all(b"y").unwrap();
    client.read_exact(&mut [0]).unwrap();
    (client, at_origin)
}

fn hear(stream: &mut TcpStream, word: &[u8]) {
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(heard, word);
}

#[test]
fn flows_of_every_size_arrive_whole_where_nothing_fails() {
    let world = world(origin("127.0.0.1", echo));
    for len in [0, 1, 16_383, 65_536, 65_537, 5_000_000] {
        let sent = noise(len as u64, len);
        assert!(echoed(world.edge, &sent, |_| ()) == sent, "{len} bytes");
    }
    assert_eq!(world.resumed(), 0);
    eventually("nothing is kept of flows that have ended", || {
        let kept = |member: &Member| member.counted("kept_bytes");
        world.members.iter().all(|member| kept(member) == 0).then_some(())
    });
}

#[test]
fn a_flow_goes_on_byte_for_byte_when_the_edge_on_its_way_dies() {
    let mut members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, &[origin], &[&["lon", "fra"]], json!({}));
    let sent = noise(1, 24_000_000);
    let mut lon = Some(members.remove(1));
    let back = echoed(edge, &sent, |len| {
        if len > 1_000_000 {
            drop(lon.take());
        }
    });
    assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
    assert_eq!(members[0].counted("flows_resumed_total"), 1);
}

/// Says pieces of noise until it is told to stop, while it hears all of them back.
fn talk(mut stream: TcpStream, number: u64, has_ended: Arc<AtomicBool>) -> JoinHandle<bool> {
    in_background(move || {
        let mut sender = stream.try_clone().unwrap();
        let saying = in_background(move || {
            let mut said = Vec::new();
            while !has_ended.load(Ordering::Relaxed) {
                let piece = noise(number + said.len() as u64, 20_000);
                sender.write_all(&piece).unwrap();
                said.extend(piece);
                std::thread::sleep(Duration::from_millis(2)); // so that there is a flow for all of the cuts
            }
            sender.shutdown(Shutdown::Write).unwrap();
            said
        });
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        saying.join().unwrap() == heard
    })
}

#[test]
fn a_hundred_cuts_break_no_flow_and_lose_no_byte() {
    let world = world_with(origin("127.0.0.1", echo), false);
    let has_ended = Arc::new(AtomicBool::new(false));
    let flows: Vec<_> = (0..4)
        .map(|number| {
            let mut stream = connect(world.edge);
            a_word_there_and_back(&mut stream, b"hello");
            talk(stream, number, has_ended.clone())
        })
        .collect();
    for _ in 0..FAULTS {
        let before = world.resumed();
        world.line.cut();
        eventually("all four go on", || (world.resumed() >= before + 4).then_some(()));
    }
    has_ended.store(true, Ordering::Relaxed);
    assert!(flows.into_iter().all(|flow| flow.join().unwrap()), "all arrived, in order");
    assert_eq!(world.members[0].counted("flows_lost_total"), 0);
}

#[test]
fn a_line_that_goes_silent_is_gone_round_over_a_third_edge_in_the_middle_of_both_directions() {
    let world = world(origin("127.0.0.1", echo));
    let sent = noise(2, 24_000_000);
    let mut is_silent = false;
    let back = echoed(world.edge, &sent, |len| {
        if len > 1_000_000 && !std::mem::replace(&mut is_silent, true) {
            world.line.silence();
        }
    });
    assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
    assert_eq!(world.members[1].report()["overlay"]["relayed"]["connections_total"], 1, "over lon");
}

#[test]
fn a_flow_that_is_only_heard_goes_on_when_its_line_goes_silent() {
    let sent = noise(3, 24_000_000);
    let said = sent.clone();
    let origin = origin("127.0.0.1", move |mut stream| drop(stream.write_all(&said)));
    let world = world(origin);
    let mut stream = connect(world.edge);
    let mut heard = vec![0; 500_000];
    stream.read_exact(&mut heard).unwrap();
    world.line.silence();
    stream.read_to_end(&mut heard).unwrap();
    assert!(heard == sent);
}

#[test]
fn an_idle_flow_whose_line_has_gone_silent_goes_on_whoever_speaks_first() {
    let (at, listener) = held_origin();
    for is_client in [true, false] {
        let world = world(at);
        let (mut client, mut at_origin) = flow(&world, &listener);
        world.line.silence();
        let (speaks, hears) = if is_client { (&mut client, &mut at_origin) } else { (&mut at_origin, &mut client) };
        speaks.write_all(b"are you there").unwrap();
        hear(hears, b"are you there");
        hears.write_all(b"yes").unwrap();
        hear(speaks, b"yes");
    }
}

#[test]
fn a_half_that_was_closed_before_a_cut_stays_closed_and_the_other_goes_on() {
    let (at, listener) = held_origin();
    let world = world(at);
    let (mut client, mut at_origin) = flow(&world, &listener);
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    hear(&mut at_origin, b"last");
    assert_eq!(at_origin.read(&mut [0]).unwrap(), 0, "its end");
    world.line.cut();
    at_origin.write_all(b"still here").unwrap();
    hear(&mut client, b"still here");
    drop(at_origin);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    world.members.iter().filter(|member| member.name != "lon").for_each(|member| drop(member.record("closed")));
}

#[test]
fn a_reset_is_passed_on_after_a_flow_was_resumed_in_both_directions() {
    let (at, listener) = held_origin();
    for is_client in [true, false] {
        let world = world(at); // not the one that was cut: a flow may go round the line from the beginning there
        let (mut client, mut at_origin) = flow(&world, &listener);
        let before = world.resumed();
        world.line.cut();
        eventually("it is resumed", || (world.resumed() > before).then_some(()));
        client.write_all(b"z").unwrap();
        hear(&mut at_origin, b"z");
        let (goes, mut stays) = if is_client { (client, at_origin) } else { (at_origin, client) };
        reset(goes);
        assert_eq!(stays.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "client: {is_client}");
    }
}

#[test]
fn a_reset_arrives_though_the_other_side_takes_nothing_of_what_was_said_before() {
    let (at, listener) = held_origin();
    let world = world(at);
    let (mut client, mut at_origin) = flow(&world, &listener);
    client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while client.write(&[7; 65_536]).is_ok() {}
    reset(client);
    let mut heard = Vec::new();
    assert_eq!(at_origin.read_to_end(&mut heard).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn what_is_not_read_holds_its_writer_up_and_nobody_else() {
    let (at, listener) = held_origin();
    let world = world(at);
    let (mut client, mut at_origin) = flow(&world, &listener);
    let sent = noise(4, 30_000_000);
    let mut writer = at_origin.try_clone().unwrap();
    let all = sent.clone();
    let sending = in_background(move || writer.write_all(&all).unwrap());
    let uploaded = noise(5, 8_000_000);
    let mut uploader = client.try_clone().unwrap();
    let all = uploaded.clone();
    let uploading = in_background(move || uploader.write_all(&all).unwrap());
    let mut heard = vec![0; uploaded.len()];
    at_origin.read_exact(&mut heard).unwrap();
    assert!(heard == uploaded, "goes up while nothing of what comes down is read");
    uploading.join().unwrap();
    let kept: u64 = world.members.iter().map(|member| member.counted("kept_bytes")).sum();
    assert!(kept < 6 << 20, "{kept} bytes are kept");
    assert!(!sending.is_finished(), "30 MB fit nowhere");
    let mut back = vec![0; sent.len()];
    client.read_exact(&mut back).unwrap();
    assert!(back == sent);
    sending.join().unwrap();
}

#[test]
fn a_flow_that_nobody_has_answered_yet_is_begun_once_though_it_is_said_twice() {
    let (at, listener) = held_origin();
    let world = world(at);
    drop(flow(&world, &listener)); // there is a connection that is ready from now on
    eventually("a connection is ready", || {
        (world.members[0].counted("flows_ready_total") > 0).then_some(()).or_else(|| {
            drop(flow(&world, &listener));
            None
        })
    });
    std::thread::sleep(Duration::from_millis(2_100)); // only an edge that was there before a flow begins it again
    world.line.silence();
    let mut client = connect(world.edge);
    client.write_all(b"once").unwrap();
    let mut at_origin = accepted(&listener);
    hear(&mut at_origin, b"once");
    at_origin.write_all(b"heard").unwrap();
    hear(&mut client, b"heard");
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody else has come");
}

#[test]
fn what_an_edge_had_that_was_started_anew_is_reset_once_it_is_back() {
    let (at, listener) = held_origin();
    let authority = Authority::new();
    let mut members = network_of(&authority, &["par", "fra"]);
    let edge = free_address("127.0.0.1");
    serve(&members, edge, &[at], &[&["fra"]], json!({}));
    let mut client = connect(edge);
    client.write_all(b"x").unwrap();
    let mut at_origin = accepted(&listener);
    hear(&mut at_origin, b"x");
    at_origin.write_all(b"y").unwrap();
    hear(&mut client, b"y");
    let address = members.pop().unwrap().at;
    let mut fra = member("fra");
    fra.at = address;
    fra.edge.identify(authority.identity("fra").to_string().as_bytes()).unwrap();
    let exit = application(1, "tcp", edge, &[at], json!({"exit": true, "edge_addresses": []}));
    fra.apply_among(&[("par", members[0].at)], &[exit]);
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    members[0].record("path_broken");
    assert_eq!(members[0].counted("flows_lost_total"), 1);
}

fn asks(secret: [u8; 16], ask: Ask) -> Vec<u8> {
    says("198.51.100.1:22".parse().unwrap(), secret, ask, None, b"")
}

/// A header, and behind it what its client has said from an offset on.
fn says(edge: SocketAddr, secret: [u8; 16], ask: Ask, says_from: Option<u64>, words: &[u8]) -> Vec<u8> {
    let hop = Hop {
        endpoints: Endpoints { source: "192.0.2.7:40000".parse().unwrap(), destination: edge },
        application: 1,
        trace: 7,
        number: 1,
        path: Path::default(),
        keep: Some(Keep { secret, ask, says_from }),
        has_others: false,
    };
    let mut out = [0; MAX_HOP];
    let len = hop.encode(&mut out);
    let head = if words.is_empty() { Vec::new() } else { data_head(words.len()).to_vec() };
    [&out[..len], &head, words].concat()
}

#[test]
fn what_is_said_again_before_anybody_knows_what_has_arrived_reaches_the_origin_once() {
    let (at, listener) = held_origin();
    let authority = Authority::new();
    let members = network_of(&authority, &["par", "fra"]);
    let edge = free_address("127.0.0.1");
    serve(&members, edge, &[at], &[&["fra"]], json!({}));
    let (par, secret) = (authority.identity("par"), [7; 16]);
    let mut begun = come_as(&par, &members[1]);
    begun.write_all(&says(edge, secret, Ask::Begin, None, b"one ")).unwrap();
    let mut at_origin = accepted(&listener);
    hear(&mut at_origin, b"one ");
    let mut again = come_as(&par, &members[1]);
    again.write_all(&says(edge, secret, Ask::ResumeOrBegin(0), Some(0), b"one two ")).unwrap();
    hear(&mut at_origin, b"two ");
    let mut on = come_as(&par, &members[1]);
    on.write_all(&says(edge, secret, Ask::Resume(0), Some(4), b"two three")).unwrap();
    hear(&mut at_origin, b"three");
    let mut with_a_gap = come_as(&par, &members[1]);
    with_a_gap.write_all(&says(edge, secret, Ask::Resume(0), Some(14), b"five")).unwrap();
    assert_eq!(at_origin.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "what is between is missing");
    let begun_late = says(edge, [8; 16], Ask::ResumeOrBegin(0), Some(3), b"late");
    assert_eq!(say_as(&par, &members[1], &begun_late).first(), Some(&(Outcome::Gone as u8)), "its start is missing");
}

#[test]
fn what_is_said_while_a_flow_looks_for_a_way_is_there_a_round_trip_after_it_has_one() {
    for len in [1, 12_000, 100_000] {
        let (at, listener) = held_origin();
        let world = world(at);
        let (mut client, mut at_origin) = flow(&world, &listener);
        world.line.silence();
        let said = noise(len as u64, len);
        let all = said.clone();
        let mut sender = client.try_clone().unwrap();
        let sending = in_background(move || sender.write_all(&all).unwrap());
        hear(&mut at_origin, &said);
        sending.join().unwrap();
        at_origin.write_all(b"heard").unwrap();
        hear(&mut client, b"heard");
        assert_eq!(world.resumed(), 1);
    }
}

#[test]
fn whoever_does_not_know_the_secret_of_a_flow_gets_nothing_of_it() {
    let authority = Authority::new();
    let members = network_of(&authority, &["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, &[origin], &[&["fra"]], json!({}));
    let mut client = connect(edge);
    a_word_there_and_back(&mut client, b"mine");
    let outcome = |ask| say_as(&authority.identity("par"), &members[1], &asks([0; 16], ask)).first().copied();
    assert_eq!(outcome(Ask::Resume(0)), Some(Outcome::Gone as u8));
    assert_eq!(outcome(Ask::ResumeOrBegin(u64::MAX)), Some(Outcome::Gone as u8), "from before this edge was there");
    a_word_there_and_back(&mut client, b"still mine");
}

#[test]
fn an_edge_of_before_has_flows_as_they_were_before() {
    for path in [&["fra"][..], &["lon", "fra"]] {
        let authority = Authority::new();
        let members = network_of(&authority, &["par", "lon"]);
        let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
        let fra = old_edge(&authority.identity("fra"));
        let app = application(1, "tcp", edge, &[origin], json!({"paths": [path]}));
        members[0].apply_among(&[("lon", members[1].at), ("fra", fra)], &[app]);
        members[1].apply_among(&[("par", members[0].at), ("fra", fra)], &[]);
        let sent = noise(6, 100_000);
        let mut client = connect(edge);
        a_word_there_and_back(&mut client, &sent);
    }
}
