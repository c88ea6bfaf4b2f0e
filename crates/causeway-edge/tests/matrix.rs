//! What a relay must keep, in every data path: {copy, copy with others, copy by plain calls, splice} x {sockets of its
//! own, dispatch in the kernel}.
//!
//! A connection that has only seen small messages is copied; one that has just carried megabytes is spliced. Where others
//! are busy on the same worker, messages of one turn leave together (see `outbox`), if they may.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use causeway_edge::{Config, DispatchMode};
use serde_json::json;
use support::net::{alone, alone_with_dispatch};
use support::{World, application, connect, echo, eventually, in_background, noise, origin, reset, world_with};

const BULK: usize = 3 * 1024 * 1024;
const EDGE: ([u8; 4], u16) = ([127, 0, 0, 1], 7000);
const CROWD: ([u8; 4], u16) = ([127, 0, 0, 1], 7001);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Copy,
    /// Sixteen other connections are busy all the time.
    Together,
    /// As a machine without io_uring has it, with the same sixteen.
    Calls,
    Splice,
}

impl Path {
    fn is_small(self) -> bool {
        self != Path::Splice
    }
}

struct Setup {
    crowd: Option<Crowd>,
    world: World,
    path: Path,
}

/// Others on the same worker, whose messages come at the same moments.
struct Crowd {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    const SIZE: u64 = 16;

    fn start() -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = stop.clone();
        let thread = in_background(move || {
            let mut clients: Vec<TcpStream> = (0..Self::SIZE).map(|_| connect(CROWD.into())).collect();
            let message = noise(9, 64);
            while !is_over.load(Ordering::Relaxed) {
                clients.iter_mut().for_each(|client| client.write_all(&message).unwrap());
                for client in &mut clients {
                    let mut back = [0; 64];
                    client.read_exact(&mut back).unwrap();
                    assert!(back == message[..], "bytes of others");
                }
            }
        });
        Crowd { stop, thread: Some(thread) }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let end = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(end, Some(Ok(()))), "the crowd was served all the time");
        }
    }
}

impl Setup {
    /// A connection to an echo that is on its path: its `up` side has carried what puts it there, and so has `down`.
    fn warm(&self) -> TcpStream {
        let mut client = connect(EDGE.into());
        match self.path {
            Path::Splice => exchange(&mut client, &noise(1, BULK)),
            _ => (0..20).for_each(|n| exchange(&mut client, &noise(n, 100))),
        }
        client
    }

    fn serve(&mut self, serve: impl Fn(TcpStream) + Send + Sync + 'static) {
        let app = application(1, "tcp", SocketAddr::from(EDGE), &[origin("127.0.0.1", serve)], json!({}));
        let others = application(2, "tcp", SocketAddr::from(CROWD), &[origin("127.0.0.1", echo)], json!({}));
        let report = self.world.apply(&[app, others]);
        assert!(report.listeners.iter().all(|listener| listener.reason.is_none()), "{:?}", report.listeners);
        if matches!(self.path, Path::Together | Path::Calls) {
            self.crowd = Some(Crowd::start());
        }
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
    if path.is_small() { 2_000 } else { BULK }
}

/// An origin that hands over its ends of connections once they are warm.
fn origin_ends(setup: &mut Setup) -> Receiver<TcpStream> {
    let (give, take) = channel();
    let give = std::sync::Mutex::new(give);
    let len = warmth(setup.path);
    setup.serve(move |stream| give.lock().unwrap().send(echo_first(stream, len)).unwrap());
    take
}

fn streams_are_exact(setup: &mut Setup) {
    setup.serve(echo);
    let mut client = setup.warm();
    for round in 0..50u64 {
        let len = if setup.path.is_small() { 1 + round as usize * 71 } else { 300_000 + round as usize * 1_001 };
        exchange(&mut client, &noise(round, len));
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert_eq!(setup.world.record("closed")["edge"], SocketAddr::from(EDGE).to_string());
}

fn the_clients_end_reaches_the_origin_which_can_still_answer(setup: &mut Setup) {
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

fn the_origins_end_reaches_the_client_which_can_still_send(setup: &mut Setup) {
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

fn a_reset_of_the_client_resets_the_origin(setup: &mut Setup) {
    let ends = origin_ends(setup);
    let client = setup.warm();
    let mut served = ends.recv().unwrap();
    served.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    reset(client);
    let error = served.read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(setup.world.record("client_reset")["status"], 499);
}

fn a_reset_of_the_origin_resets_the_client(setup: &mut Setup) {
    let ends = origin_ends(setup);
    let mut client = setup.warm();
    reset(ends.recv().unwrap());
    let error = client.read(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(setup.world.record("origin_reset")["status"], 444);
}

fn writes_right_after_connect_are_answered(setup: &mut Setup) {
    setup.serve(echo);
    let len = if setup.path.is_small() { 10 } else { 600_000 };
    let rounds = if setup.path.is_small() { 500 } else { 20 };
    for round in 0..rounds {
        exchange(&mut connect(EDGE.into()), &noise(round, len));
    }
}

fn a_reader_that_stops_stops_the_writer_and_loses_nothing(setup: &mut Setup) {
    let ends = origin_ends(setup);
    let mut client = setup.warm();
    let mut served = ends.recv().unwrap();
    served.set_nonblocking(true).unwrap();
    // Small pieces or large ones, until the whole way is full.
    let piece = noise(3, if setup.path.is_small() { 512 } else { 256 * 1024 });
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
    let others = if setup.crowd.is_some() { Crowd::SIZE } else { 0 };
    eventually("closed", || (setup.world.totals()["connections_open"] == others).then_some(()));
}

fn run(mode: DispatchMode, path: Path, behaviour: impl Fn(&mut Setup)) {
    let is_ready = if mode == DispatchMode::On { alone_with_dispatch() } else { alone() };
    if is_ready {
        let gather_sends = path != Path::Calls;
        let world = world_with(Config { workers: 1, dispatch: mode, gather_sends, ..Config::default() });
        behaviour(&mut Setup { crowd: None, world, path });
    }
}

macro_rules! matrix {
    ($($behaviour:ident),+ $(,)?) => {
        matrix!(@ copied_from_its_own_socket, DispatchMode::Off, Path::Copy, $($behaviour),+);
        matrix!(@ copied_with_others_from_its_own_socket, DispatchMode::Off, Path::Together, $($behaviour),+);
        matrix!(@ copied_by_plain_calls_from_its_own_socket, DispatchMode::Off, Path::Calls, $($behaviour),+);
        matrix!(@ spliced_from_its_own_socket, DispatchMode::Off, Path::Splice, $($behaviour),+);
        matrix!(@ copied_from_dispatch, DispatchMode::On, Path::Copy, $($behaviour),+);
        matrix!(@ copied_with_others_from_dispatch, DispatchMode::On, Path::Together, $($behaviour),+);
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
