//! What is pinned outlives its process: flows, applications and the opening of new flows; the next one adopts all.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read;
use std::path::PathBuf;

use causeway_bpf::flow::{FlowPath, HeaderKind, Options, Verdict};
use support::*;

#[test]
fn flows_and_the_opening_of_new_ones_outlive_the_process_and_the_next_adopts_them() {
    let Some(_probe) = Namespace::new() else { return };
    own_bpffs();
    let options = Options { pins: Some(PathBuf::from("/sys/fs/bpf/causeway/test/flow-v1")), ..options() };
    let Some(world) = world_with(&options) else { return };
    world.carry([HeaderKind::None; 2]);
    let listener = world.listen(at(ORIGIN, 1000));
    let mut before = world.connect(at(EDGE, 1000));
    let mut server = accept(&listener);
    say(&mut before, &mut server, b"with");
    let World { client, edge, origin, path, events } = world;
    let (attached, spots, applications) = (path.attached(), path.spots().unwrap().len(), path.applications().unwrap());
    drop((path, events));
    say(&mut before, &mut server, b"without");
    let connect = || client.run(|| std::net::TcpStream::connect(at(EDGE, 1000))).unwrap();
    let mut meanwhile = connect();
    let mut its_server = accept(&listener);
    say(&mut meanwhile, &mut its_server, b"opened by nobody");

    for _ in 0..5 {
        let path = edge.run(|| FlowPath::open(&options)).unwrap();
        assert_eq!(path.attached(), attached);
        assert_eq!(path.spots().unwrap().len(), spots);
        assert_eq!(path.applications().unwrap(), applications);
        let key = |stream: &std::net::TcpStream| causeway_bpf::flow::FlowKey {
            from: stream.local_addr().unwrap(),
            to: stream.peer_addr().unwrap(),
            is_tcp: true,
        };
        assert_eq!(path.flow(&key(&before)).unwrap().unwrap().client_bytes % 11, 0);
        assert_eq!(path.flow(&key(&meanwhile)).unwrap().unwrap().client_bytes, 16);
        edge.run(|| attached.iter().for_each(|interface| path.attach(*interface).unwrap()));
    }
    let events: Vec<_> = edge.run(|| FlowPath::open(&options)).unwrap().events().unwrap().collect();
    assert_eq!(events.len(), 2, "what happened meanwhile waits in the ring");
    say(&mut its_server, &mut meanwhile, b"still");

    assert!(edge.run(|| FlowPath::flush(&options)).unwrap() > 10);
    assert_eq!(edge.run(|| FlowPath::flush(&options)).unwrap(), 0);
    assert!(client.run(|| std::net::TcpStream::connect(at(EDGE, 1000))).is_err());
    let _ = std::io::Write::write_all(&mut before, b"to nobody");
    assert!(before.read(&mut [0]).is_err(), "its flow is gone: the stack resets it");
    drop(origin);
}

/// An array for each processor of eight bytes an entry, pinned.
fn pin_counters(path: &std::path::Path, entries: u32) {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut map = [6u32, 4, 8, entries]; // BPF_MAP_TYPE_PERCPU_ARRAY, bytes of key and value
    // SAFETY: attributes that outlive the calls, of the lengths that are told.
    unsafe {
        let made = libc::syscall(libc::SYS_bpf, 0, map.as_mut_ptr(), size_of_val(&map));
        assert!(made >= 0, "{}", std::io::Error::last_os_error());
        let mut pin = [path.as_ptr() as u64, made as u64];
        let done = libc::syscall(libc::SYS_bpf, 6, pin.as_mut_ptr(), size_of_val(&pin));
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        libc::close(made as i32);
    }
}

#[test]
fn flows_of_a_version_that_had_other_maps_and_fewer_counters_are_adopted_too() {
    let Some(_probe) = Namespace::new() else { return };
    own_bpffs();
    let pins = PathBuf::from("/sys/fs/bpf/causeway/test/flow-v1");
    let options = Options { pins: Some(pins.clone()), ..options() };
    let Some(world) = world_with(&options) else { return };
    world.carry([HeaderKind::None; 2]);
    let listener = world.listen(at(ORIGIN, 1000));
    let mut before = world.connect(at(EDGE, 1000));
    let mut server = accept(&listener);
    let World { client, edge, origin: _origin, path, events } = world;
    let attached = path.attached();
    drop((path, events));
    for name in ["pressures", "balances", "timings4", "timings6", "ended4", "ended6", "flow_verdicts"] {
        std::fs::remove_file(pins.join(name)).unwrap();
    }
    pin_counters(&pins.join("flow_verdicts"), 15);
    pin_counters(&pins.join("closed4"), 16); // where it kept what is over

    let path = edge.run(|| FlowPath::open(&options)).unwrap();
    assert_eq!(path.attached(), attached);
    assert!(!pins.join("closed4").exists(), "no program uses it any more");
    say(&mut before, &mut server, b"as before");
    let connect = || client.run(|| std::net::TcpStream::connect(at(EDGE, 1000))).unwrap();
    let mut later = connect();
    say(&mut later, &mut accept(&listener), b"and anew");
    assert_eq!(path.verdicts().unwrap().get(Verdict::Opened), 1);
    assert!(edge.run(|| FlowPath::flush(&options)).unwrap() > 10);
}
