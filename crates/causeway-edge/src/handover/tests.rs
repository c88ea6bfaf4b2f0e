//! A side that talks nonsense: the other one has an error, and has given up nothing.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::thread;
use std::time::Duration;

use super::*;
use crate::apply::Running;

const WITHIN: Duration = Duration::from_secs(5);

fn links() -> (Link, Link) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors, which are ours alone.
    let (a, b) = unsafe {
        assert_eq!(libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    };
    (Link::new(a, WITHIN).unwrap(), Link::new(b, WITHIN).unwrap())
}

/// Kind, body and descriptors of a message.
type Answer = (u8, Vec<u8>, Vec<OwnedFd>);

fn offer(workers: usize, snapshot_bytes: usize) -> Offer {
    Offer { format: FORMAT, workers, now_ms: 0, snapshot_bytes, retired: Totals::default() }
}

/// What a new side makes of these answers of an old one.
fn estate(offered: Offer, answers: Vec<Answer>) -> Result<Estate, EdgeError> {
    let (here, there) = links();
    let old = thread::spawn(move || {
        for (kind, body, fds) in answers {
            if there.receive().is_err() {
                return;
            }
            let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            let _ = there.send(kind, &body, &fds);
        }
    });
    let result = receive_estate(&here, &offered, 1_000_000);
    drop(here);
    old.join().unwrap();
    result
}

fn told(tell: &Tell) -> Vec<u8> {
    serde_json::to_vec(tell).unwrap()
}

fn sockets(held: &[(Protocol, SocketAddr, usize)]) -> Vec<u8> {
    let places = held.iter().map(|(protocol, address, worker)| Held {
        protocol: *protocol,
        address: *address,
        worker: *worker,
        is_base: false,
    });
    told(&Tell::Sockets { places: places.collect() })
}

fn copy(socket: &impl AsFd) -> OwnedFd {
    socket.as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn sockets_counts_and_snapshot_arrive() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (tcp_at, udp_at) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    let totals = Totals { connections_total: 7, ..Totals::default() };
    let estate = estate(
        offer(1, 6),
        vec![
            (SNAPSHOT, b"abc".to_vec(), vec![]),
            (SNAPSHOT, b"def".to_vec(), vec![]),
            (JSON, told(&Tell::Counted { totals: vec![("one".into(), totals)] }), vec![]),
            (JSON, sockets(&[(Protocol::Tcp, tcp_at, 0), (Protocol::Udp, udp_at, 0)]), vec![copy(&tcp), copy(&udp)]),
            (JSON, told(&Tell::End), vec![]),
        ],
    )
    .unwrap();
    assert_eq!(estate.snapshot, b"abcdef");
    assert_eq!(estate.counted["one"], totals);
    assert!(estate.sockets.values().all(|sockets| sockets.fds.len() == 1 && sockets.is_inherited));
    assert_eq!(estate.sockets.len(), 2);
}

#[test]
fn nonsense_is_an_error() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = tcp.local_addr().unwrap();
    let elsewhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let end = || (JSON, told(&Tell::End), vec![]);
    let cases: Vec<(&str, Offer, Vec<Answer>)> = vec![
        ("no JSON", offer(1, 0), vec![(JSON, b"{".to_vec(), vec![])]),
        ("no kind that is known", offer(1, 0), vec![(0, b"".to_vec(), vec![])]),
        ("another word", offer(1, 0), vec![(JSON, br#"{"tell":"what"}"#.to_vec(), vec![])]),
        ("an answer out of turn", offer(1, 0), vec![(JSON, told(&Tell::Go), vec![])]),
        ("a snapshot that is too large", offer(1, 2_000_000), vec![]),
        ("more snapshot than announced", offer(1, 2), vec![(SNAPSHOT, b"abc".to_vec(), vec![]), end()]),
        ("less snapshot than announced", offer(1, 4), vec![(SNAPSHOT, b"abc".to_vec(), vec![]), end()]),
        ("no descriptor", offer(1, 0), vec![(JSON, sockets(&[(Protocol::Tcp, here, 0)]), vec![]), end()]),
        ("too many descriptors", offer(1, 0), vec![(JSON, sockets(&[]), vec![copy(&tcp)]), end()]),
        (
            "the socket of another place",
            offer(1, 0),
            vec![(JSON, sockets(&[(Protocol::Tcp, elsewhere, 0)]), vec![copy(&tcp)]), end()],
        ),
        (
            "the socket of another protocol",
            offer(1, 0),
            vec![(JSON, sockets(&[(Protocol::Udp, here, 0)]), vec![copy(&tcp)]), end()],
        ),
        (
            "no socket at all",
            offer(1, 0),
            vec![
                (JSON, sockets(&[(Protocol::Tcp, here, 0)]), vec![copy(&std::fs::File::open("/dev/null").unwrap())]),
                end(),
            ],
        ),
        (
            "a worker too many",
            offer(1, 0),
            vec![
                (JSON, sockets(&[(Protocol::Tcp, here, 0), (Protocol::Tcp, here, 1)]), vec![copy(&tcp), copy(&tcp)]),
                end(),
            ],
        ),
        ("a worker too few", offer(2, 0), vec![(JSON, sockets(&[(Protocol::Tcp, here, 0)]), vec![copy(&tcp)]), end()]),
        ("dispatch in pieces", offer(1, 0), vec![(JSON, told(&Tell::Dispatch), vec![copy(&tcp)]), end()]),
        ("dispatch in pieces", offer(1, 0), vec![(JSON, told(&Tell::Dispatch), vec![copy(&tcp)]), end()]),
        ("an end in the middle", offer(1, 0), vec![]),
    ];
    for (what, offered, answers) in cases {
        let result = estate(offered, answers);
        assert!(matches!(result, Err(EdgeError::HandOver(_))), "{what}: {result:?}");
    }
}

#[test]
fn an_old_side_answers_only_what_is_asked_in_turn() {
    for questions in [
        vec![Ask::Next],
        vec![Ask::Offer { format: FORMAT + 1 }],
        vec![Ask::Offer { format: FORMAT }, Ask::Hold],
        vec![Ask::Offer { format: FORMAT }, Ask::Serving],
        vec![Ask::Offer { format: FORMAT }, Ask::Next, Ask::Ready],
        vec![Ask::Offer { format: FORMAT }, Ask::Next, Ask::Hold, Ask::Ready],
    ] {
        let (here, there) = links();
        let asked = questions.clone();
        let new = thread::spawn(move || {
            for question in asked {
                let _ = exchange(&there, question);
            }
        });
        let running = Running::default();
        let result = Holdings { running: &running, snapshot: b"", workers: &[], now_ms: 0 }.give(&here);
        drop(here);
        new.join().unwrap();
        assert!(matches!(result, Err(EdgeError::HandOver(_))), "{questions:?}: {result:?}");
    }
}
