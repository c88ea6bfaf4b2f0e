use std::os::unix::net::UnixStream;

use super::*;

const WITHIN: Duration = Duration::from_secs(5);

fn ends() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors, which are ours alone.
    unsafe {
        assert_eq!(libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()), 0);
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    }
}

fn links() -> (Link, Link) {
    let (a, b) = ends();
    (Link::new(a, WITHIN).unwrap(), Link::new(b, WITHIN).unwrap())
}

fn raw_send(end: &OwnedFd, bytes: &[u8]) -> isize {
    // SAFETY: pointer and length describe `bytes`.
    unsafe { libc::send(end.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) }
}

#[test]
fn a_message_arrives_whole_with_its_descriptors() {
    let (here, there) = links();
    let files: Vec<_> = (0..MOST_FDS).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    let fds: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let body = vec![7u8; MOST_BYTES - 1];
    here.send(b'J', &body, &fds).unwrap();
    let message = there.receive().unwrap();
    assert_eq!((message.kind, message.body, message.fds.len()), (b'J', body, MOST_FDS));
    here.send(b'J', b"", &[]).unwrap();
    assert_eq!(there.receive().unwrap().body, b"");
}

#[test]
fn what_is_too_large_is_refused_on_either_side() {
    let (here, _there) = links();
    let fds = vec![0; MOST_FDS + 1];
    assert_eq!(here.send(b'J', b"", &fds).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(here.send(b'J', &vec![0; MOST_BYTES], &[]).unwrap_err().kind(), ErrorKind::InvalidInput);
    let (a, b) = ends();
    sys::set_option(a.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, &(1 << 20)).unwrap();
    let there = Link::new(b, WITHIN).unwrap();
    assert!(raw_send(&a, &vec![0; MOST_BYTES + 2]) > 0);
    assert_eq!(there.receive().unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn the_end_of_the_other_side_is_told_from_a_wait_that_is_over() {
    let (a, b) = ends();
    let there = Link::new(b, Duration::from_millis(50)).unwrap();
    assert_eq!(there.receive().unwrap_err().kind(), ErrorKind::TimedOut);
    let (c, d) = ends();
    let there = Link::new(d, WITHIN).unwrap();
    drop(c);
    assert_eq!(there.receive().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    drop(a);
}

#[test]
fn only_a_socket_of_whole_messages_is_taken() {
    let (stream, _other) = UnixStream::pair().unwrap();
    assert_eq!(Link::new(stream.into(), WITHIN).unwrap_err().kind(), ErrorKind::InvalidInput);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(Link::new(file.into(), WITHIN).is_err());
}
