//! What a relay must keep, in every data path: {copy, splice} x {sockets of its own, dispatch in the kernel}.
//!
//! A connection that has only seen small messages is copied; one that has just carried megabytes is spliced.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use causeway_edge::{Config, DispatchMode};
use serde_json::json;
use support::net::{alone, alone_with_dispatch};
use support::{World, application, connect, echo, eventually, in_background, noise, origin, reset, world_with};

const BULK: usize = 3 * 1024 * 1024;
const EDGE: ([u8; 4], u16) = ([127, 0, 0, 1], 7000);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Copy,
    Splice,
}

struct Setup {
    world: World,
    path: Path,
}

impl Setup {
    /// A connection to an echo that is on its path: its `up` side has carried what puts it there, and so has `down`.
    fn warm(&self) -> TcpStream {
        let mut client = connect(EDGE.into());
        match self.path {
            Path::Copy => (0..20).for_each(|n| exchange(&mut client, &noise(n, 100))),
            Path::Splice => exchange(&mut client, &noise(1, BULK)),
        }
        client
    }

    fn serve(&self, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
        let app = application(1, "tcp", SocketAddr::from(EDGE), &[origin("127.0.0.1", serve)], json!({}));
        let report = self.world.apply(&[app]);
        assert!(report.listeners.iter().all(|listener| listener.reason.is_none()), "{:?}", report.listeners);
    }
}

fn exchange(client: &mut TcpStream, bytes: &[u8]) {
    let mut writer = client.try_clone().unwrap();
    let sent = bytes.to_vec();
    let writing = in_background(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == bytes, "{} bytes came back changed", bytes.len());
}

/// Echoes `len` bytes, then hands the stream on.
fn echo_first(mut stream: TcpStream, len: usize) -> TcpStream {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = len;
    while left > 0 {
        let most = left.min(buffer.len());
        let n = stream.read(&mut buffer[..most]).unwrap();
        stream.write_all(&buffer[..n]).unwrap();
        left -= n;
    }
    stream
}

fn warmth(path: Path) -> usize {
    if path == Path::Copy { 2_000 } else { BULK }
}

/// An origin that hands over its ends of connections once they are warm.
fn origin_ends(setup: &Setup) -> Receiver<TcpStream> {
    let (give, take) = channel();
    let give = std::sync::Mutex::new(give);
    let len = warmth(setup.path);
    setup.serve(move |stream| give.lock().unwrap().send(echo_first(stream, len)).unwrap());
    take
}

fn streams_are_exact(setup: &Setup) {
    setup.serve(echo);
    let mut client = setup.warm();
    for round in 0..50u64 {
        let len = if setup.path == Path::Copy { 1 + round as usize * 71 } else { 300_000 + round as usize * 1_001 };
        exchange(&mut client, &noise(round, len));
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert_eq!(setup.world.record("closed")["edge"], SocketAddr::from(EDGE).to_string());
}

fn the_clients_end_reaches_the_origin_which_can_still_answer(setup: &Setup) {
    let ends = origin_ends(setup);
    let mut client = setup.warm();
    let mut served = ends.recv().unwrap();
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut all = String::new();
    served.read_to_string(&mut all).unwrap();
    assert_eq!(all, "last words");
    served.write_all(b"answer").unwrap();
    drop(served);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
}

fn the_origins_end_reaches_the_client_which_can_still_send(setup: &Setup) {
    let ends = origin_ends(setup);
    let mut client = setup.warm();
    let mut served = ends.recv().unwrap();
    served.write_all(b"bye").unwrap();
    served.shutdown(Shutdown::Write).unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all, "bye");
    client.write_all(b"still here").unwrap();
    drop(client);
    let mut rest = String::new();
    served.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "still here");
}

fn a_reset_of_the_client_resets_the_origin(setup: &Setup) {
    let ends = origin_ends(setup);
    let client = setup.warm();
    let mut served = ends.recv().unwrap();
    served.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    reset(client);
    let error = served.read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(setup.world.record("client_reset")["status"], 499);
}

fn a_reset_of_the_origin_resets_the_client(setup: &Setup) {
    let ends = origin_ends(setup);
    let mut client = setup.warm();
    reset(ends.recv().unwrap());
    let error = client.read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(setup.world.record("origin_reset")["status"], 444);
}

fn writes_right_after_connect_are_answered(setup: &Setup) {
    setup.serve(echo);
    let len = if setup.path == Path::Copy { 10 } else { 600_000 };
    let rounds = if setup.path == Path::Copy { 500 } else { 20 };
    for round in 0..rounds {
        exchange(&mut connect(EDGE.into()), &noise(round, len));
    }
}

fn a_reader_that_stops_stops_the_writer_and_loses_nothing(setup: &Setup) {
    let ends = origin_ends(setup);
    let mut client = setup.warm();
    let mut served = ends.recv().unwrap();
    served.set_nonblocking(true).unwrap();
    // Small pieces or large ones, until the whole way is full.
    let piece = noise(3, if setup.path == Path::Copy { 512 } else { 256 * 1024 });
    let (mut sent, mut last) = (0usize, Instant::now());
    while last.elapsed() < Duration::from_millis(300) {
        match served.write(&piece[sent % piece.len()..]) {
            Ok(n) => (sent, last) = (sent + n, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 256 * 1024 * 1024, "nothing stops the writer");
    }
    drop(served);
    let mut got = Vec::with_capacity(sent);
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), sent);
    assert!(got.chunks(piece.len()).all(|chunk| chunk == &piece[..chunk.len()]), "bytes changed");
    drop(client);
    eventually("closed", || (setup.world.totals()["connections_open"] == 0).then_some(()));
}

fn run(mode: DispatchMode, path: Path, behaviour: impl Fn(&Setup)) {
    let is_ready = if mode == DispatchMode::On { alone_with_dispatch() } else { alone() };
    if is_ready {
        behaviour(&Setup { world: world_with(Config { workers: 1, dispatch: mode, ..Config::default() }), path });
    }
}

macro_rules! matrix {
    ($($behaviour:ident),+ $(,)?) => {
        matrix!(@ copied_from_its_own_socket, DispatchMode::Off, Path::Copy, $($behaviour),+);
        matrix!(@ spliced_from_its_own_socket, DispatchMode::Off, Path::Splice, $($behaviour),+);
        matrix!(@ copied_from_dispatch, DispatchMode::On, Path::Copy, $($behaviour),+);
        matrix!(@ spliced_from_dispatch, DispatchMode::On, Path::Splice, $($behaviour),+);
    };
    (@ $name:ident, $mode:expr, $path:expr, $($behaviour:ident),+) => {
        mod $name {
            use super::{DispatchMode, Path};
            $(#[test]
            fn $behaviour() {
                super::run($mode, $path, super::$behaviour);
            })+
        }
    };
}

matrix!(
    streams_are_exact,
    the_clients_end_reaches_the_origin_which_can_still_answer,
    the_origins_end_reaches_the_client_which_can_still_send,
    a_reset_of_the_client_resets_the_origin,
    a_reset_of_the_origin_resets_the_client,
    writes_right_after_connect_are_answered,
    a_reader_that_stops_stops_the_writer_and_loses_nothing,
);
