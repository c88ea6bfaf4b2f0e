//! The connections of a thread that hangs, reset from outside: the kernel lists what its epoll set watches.
//!
//! The descriptors are the thread's, and it may go on at any time: each is copied and known by its inode before it is
//! touched, so that a number which has been given to something else meanwhile is let alone.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::sys;
use crate::worker::Token;

/// Reset the TCP connections that the epoll set `epoll` watches. Answers how many.
pub fn connections_of(epoll: RawFd) -> usize {
    let listed = std::fs::read_to_string(format!("/proc/self/fdinfo/{epoll}")).unwrap_or_default();
    listed.lines().filter_map(watched).filter(|(fd, inode)| reset(*fd, *inode)).count()
}

/// A line of proc_pid_fdinfo(5): "tfd: 4 events: 19 data: 2000000000000007 pos:0 ino:269dfd1 sdev:9".
fn watched(line: &str) -> Option<(RawFd, u64)> {
    let value = |name: &str| line.split_once(name)?.1.split_whitespace().next();
    let token = u64::from_str_radix(value("data:")?, 16).ok()?;
    let is_connection = token >> 56 == Token::Client as u64 || token >> 56 == Token::Origin as u64;
    let inode = u64::from_str_radix(value("ino:")?, 16).ok()?;
    is_connection.then_some((value("tfd:")?.parse().ok()?, inode))
}

fn reset(fd: RawFd, inode: u64) -> bool {
    let copy: Option<OwnedFd> = sys::duplicate(fd).ok();
    copy.is_some_and(|copy| sys::inode(copy.as_raw_fd()) == Some(inode) && sys::disconnect(copy.as_raw_fd()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_told_from_listeners_and_sessions() {
        let line = |token: Token| {
            format!("tfd:       42 events: 80002019 data: {:16x}  pos:0 ino:269dfd1 sdev:9", token.at(7))
        };
        assert_eq!(watched(&line(Token::Client)), Some((42, 0x0269_dfd1)));
        assert_eq!(watched(&line(Token::Origin)), Some((42, 0x0269_dfd1)));
        for other in [Token::Wake, Token::TcpListener, Token::UdpListener, Token::Session] {
            assert_eq!(watched(&line(other)), None);
        }
        assert_eq!(watched("pos:\t0"), None);
        assert_eq!(watched("tfd: x events: 19 data: 0200000000000007 ino:1"), None);
    }
}
