//! The way in of kernels without tcx: filters of clsact qdiscs, which live on, are adopted, and leave others' alone.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read;
use std::net::{TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use causeway_bpf::flow::{FlowPath, HeaderKind, Hook, Options};
use support::*;

const PINS: &str = "/sys/fs/bpf/causeway/test/flow-v1";
/// A filter of somebody else's, that has nothing to say about any packet.
const NOTHING: &str = "protocol all bpf bytecode 1,6\u{a0}0\u{a0}0\u{a0}0,";

fn pinned() -> Options {
    Options { pins: Some(PathBuf::from(PINS)), hook: Some(Hook::Clsact), ..options() }
}

/// What tc(8) says, or does.
fn tc(place: &Namespace, arguments: &str) -> String {
    let words = arguments.split(' ').map(|word| word.replace('\u{a0}', " "));
    let done = place.run(|| Command::new("tc").args(words).output()).unwrap();
    assert!(done.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The line about each of our filters.
fn ours(place: &Namespace, interface: &str) -> Vec<String> {
    let all = tc(place, &format!("filter show dev {interface} ingress"));
    all.lines().filter(|line| line.contains(" causeway ")).map(String::from).collect()
}

fn word_after(line: &str, name: &str) -> String {
    let mut words = line.split_whitespace().skip_while(|word| *word != name);
    words.nth(1).unwrap_or_else(|| panic!("no {name} in {line}")).to_string()
}

fn has_clsact(place: &Namespace, interface: &str) -> bool {
    tc(place, &format!("qdisc show dev {interface}")).contains("clsact")
}

/// A connection of each kind that carries something.
fn flows(world: &World) -> Vec<(TcpStream, TcpStream)> {
    let families = [(EDGE, ORIGIN), (EDGE6, ORIGIN6)];
    let opened = families.map(|(edge, origin)| {
        let listener = world.listen(at(origin, 1000));
        let mut client = world.connect(at(edge, 1000));
        let mut server = accept(&listener);
        say(&mut client, &mut server, b"there");
        say(&mut server, &mut client, &noise(1, 300_000));
        (client, server)
    });
    opened.into()
}

fn ping(client: &UdpSocket, server: &UdpSocket, word: u32) {
    let mut heard = [0; 64];
    client.send(&word.to_ne_bytes()).unwrap();
    let (bytes, from) = again(|| server.recv_from(&mut heard)).unwrap();
    server.send_to(&heard[..bytes], from).unwrap();
    let bytes = again(|| client.recv(&mut heard)).unwrap();
    assert_eq!(heard[..bytes], word.to_ne_bytes());
}

fn udp_pair(world: &World) -> (UdpSocket, UdpSocket) {
    let server = world.udp(&world.origin, at(ORIGIN, 1000));
    let client = world.udp(&world.client, at(CLIENT, 0));
    client.connect(at(EDGE, 1000)).unwrap();
    (client, server)
}

#[test]
fn flows_are_carried_outlive_the_process_and_end_with_a_flush_that_leaves_no_trace() {
    let Some(_probe) = Namespace::new() else { return };
    own_bpffs();
    let Some(world) = world_with(&pinned()) else { return };
    world.carry([HeaderKind::None; 2]);
    assert_eq!(world.path.hook(), Hook::Clsact);
    let mut streams = flows(&world);
    let (client, server) = udp_pair(&world);
    ping(&client, &server, 1);
    let World { client: place, edge, origin, path, events } = world;
    let attached = path.attached();
    drop((path, events));
    for (client, server) in &mut streams {
        say(client, server, b"without a process");
    }
    ping(&client, &server, 2);
    let listener = origin.run(|| std::net::TcpListener::bind(at(ORIGIN, 1001))).unwrap();
    let mut meanwhile = place.run(|| TcpStream::connect(at(EDGE, 1001))).unwrap();
    say(&mut meanwhile, &mut accept(&listener), b"opened by nobody");

    let path = edge.run(|| FlowPath::open(&pinned())).unwrap();
    assert_eq!((attached.len(), path.attached()), (2, attached));
    for (client, server) in &mut streams {
        say(client, server, b"adopted");
    }
    drop(path);

    assert!(edge.run(|| FlowPath::flush(&pinned())).unwrap() > 10);
    assert_eq!(edge.run(|| FlowPath::flush(&pinned())).unwrap(), 0);
    assert!(!has_clsact(&edge, "c0") && !has_clsact(&edge, "o0"));
    let _ = std::io::Write::write_all(&mut streams[0].0, b"to nobody");
    assert!(streams[0].0.read(&mut [0]).is_err(), "its flow is gone: the stack resets it");
}

#[test]
fn a_new_version_takes_the_place_of_the_one_before_without_a_lost_packet() {
    let Some(_probe) = Namespace::new() else { return };
    own_bpffs();
    let Some(world) = world_with(&pinned()) else { return };
    world.carry([HeaderKind::None; 2]);
    let (client, server) = udp_pair(&world);
    let before = ours(&world.edge, "c0");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pings = scope.spawn(|| {
            let mut count = 0;
            while !is_over.load(Ordering::Relaxed) {
                ping(&client, &server, count); // one that passes by neither would find no socket
                count += 1;
            }
            count
        });
        for _ in 0..5 {
            world.edge.run(|| FlowPath::open(&pinned())).unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(pings.join().unwrap() > 100);
    });
    let after = ours(&world.edge, "c0");
    assert_eq!((before.len(), after.len()), (1, 1), "replaced, not added: {after:?}");
    assert_ne!(word_after(&before[0], "id"), word_after(&after[0], "id"), "another program");
    world.edge.run(|| FlowPath::flush(&pinned())).unwrap();
}

#[test]
fn filters_of_others_stay_and_so_does_the_qdisc_that_they_are_in() {
    let Some(_probe) = Namespace::new() else { return };
    own_bpffs();
    let Some(world) = world_with(&pinned()) else { return };
    world.carry([HeaderKind::None; 2]);
    let edge = &world.edge;
    tc(edge, &format!("filter add dev c0 ingress prio 7 {NOTHING}"));
    tc(edge, &format!("filter add dev c0 ingress prio 51712 handle 1 {NOTHING}"));
    tc(edge, &format!("filter add dev o0 egress prio 7 {NOTHING}"));
    flows(&world);
    edge.run(|| FlowPath::open(&pinned())).unwrap();
    flows(&world);

    edge.run(|| FlowPath::flush(&pinned())).unwrap();
    let left = tc(edge, "filter show dev c0 ingress");
    assert!(left.contains("pref 7 ") && left.contains("pref 51712 ") && !left.contains("causeway"), "{left}");
    assert!(tc(edge, "filter show dev o0 egress").contains("pref 7 "));
    assert_eq!(ours(edge, "o0"), [""; 0]);
}

#[test]
fn a_qdisc_that_was_there_stays_after_all_filters_have_gone() {
    let Some(place) = Namespace::new() else { return };
    own_bpffs();
    let Ok(path) = place.run(|| FlowPath::open(&pinned())) else { return };
    place.ip("link add one type veth peer name two");
    tc(&place, "qdisc add dev one clsact");
    let indices = ["one", "two"].map(|name| place.index(name));
    for index in indices {
        path.attach(index).unwrap();
    }
    path.detach(indices[1]).unwrap();
    assert!(!has_clsact(&place, "two"), "made by us, and nobody else's");
    path.attach(indices[1]).unwrap();
    place.run(|| FlowPath::flush(&pinned())).unwrap();
    assert!(has_clsact(&place, "one") && !has_clsact(&place, "two"));
}

#[test]
fn another_s_filter_in_our_place_is_not_replaced() {
    let Some(place) = Namespace::new() else { return };
    own_bpffs();
    let Ok(path) = place.run(|| FlowPath::open(&pinned())) else { return };
    place.ip("link add one type veth peer name two");
    let index = place.index("one");
    path.attach(index).unwrap();
    let handle = word_after(&ours(&place, "one")[0], "handle");
    path.detach(index).unwrap();
    tc(&place, "qdisc add dev one clsact");
    tc(&place, &format!("filter add dev one ingress prio 51712 handle {handle} {NOTHING}"));
    let before = tc(&place, "filter show dev one ingress");

    let error = path.attach(index).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}");
    place.run(|| FlowPath::flush(&pinned())).unwrap();
    assert_eq!(tc(&place, "filter show dev one ingress"), before);
}

#[test]
fn a_filter_that_somebody_took_away_is_put_back() {
    let Some(_probe) = Namespace::new() else { return };
    own_bpffs();
    let Some(world) = world_with(&pinned()) else { return };
    tc(&world.edge, "qdisc del dev c0 clsact");
    assert!(ours(&world.edge, "c0").is_empty());
    world.path.attach(world.edge.index("c0")).unwrap();
    assert_eq!(ours(&world.edge, "c0").len(), 1);
    world.path.attach(world.edge.index("c0")).unwrap();
    assert_eq!(ours(&world.edge, "c0").len(), 1);
    world.edge.run(|| FlowPath::flush(&pinned())).unwrap();
    assert!(!has_clsact(&world.edge, "c0"));
}

#[test]
fn interfaces_come_and_go() {
    let Some(_probe) = Namespace::new() else { return };
    own_bpffs();
    let Some(world) = world_with(&pinned()) else { return };
    world.carry([HeaderKind::None; 2]);
    let (c0, o0) = (world.edge.index("c0"), world.edge.index("o0"));
    world.edge.ip("link del c0");
    world.path.detach(c0).unwrap();
    assert_eq!(world.path.attached(), [o0]);
    world.edge.ip("link del o0");
    let path = world.edge.run(|| FlowPath::open(&pinned())).unwrap();
    assert!(path.attached().is_empty(), "it went while nobody looked");
    let marks = std::fs::read_dir(PINS).unwrap().filter(|it| it.as_ref().unwrap().path().is_symlink()).count();
    assert_eq!(marks, 0);
    world.edge.run(|| FlowPath::flush(&pinned())).unwrap();
}

#[test]
fn without_pins_all_goes_with_the_handle_and_a_try_leaves_nothing() {
    let Some(place) = Namespace::new() else { return };
    let Ok(path) = place.run(|| FlowPath::open(&Options { pins: None, ..pinned() })) else { return };
    place.ip("link add one type veth peer name two");
    path.try_attaching().unwrap();
    assert!(!has_clsact(&place, "lo"));
    path.attach(place.index("one")).unwrap();
    assert_eq!(ours(&place, "one").len(), 1);
    drop(path);
    assert!(!has_clsact(&place, "one"));
}
