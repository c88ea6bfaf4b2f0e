//! Listening sockets: one per worker and place, bound before anything is switched.
//!
//! A place is an edge address and port, or, with dispatch in the kernel, one for all ports of a protocol and family.
//! A refusal names its reason and never stops the others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Socket, TcpKeepalive, Type};

use crate::application::Active;
use crate::error::Side;
use crate::report::Reason;
use crate::snapshot::Protocol;
use crate::sys;
use crate::udp::control;
use crate::worker::Place;

const BACKLOG: i32 = 4096; // the kernel caps it at net.core.somaxconn
const UDP_BUFFER_BYTES: usize = 4 * 1024 * 1024; // capped at net.core.rmem_max; bursts of many clients meet in one socket

pub const NOT_PERMITTED: &str = "port_not_permitted";

/// What connections of dispatch start with; most applications have just that (the default of the API).
pub const BASE_USER_TIMEOUT: Option<Duration> = Some(Duration::from_secs(300));

/// One socket for each of `workers`, in order.
///
/// # Errors
/// Why the place cannot be had, in words for the operator.
pub fn bind(place: Place, active: &Active, workers: usize) -> Result<Vec<OwnedFd>, Reason> {
    may_have(place)?;
    (0..workers)
        .map(|_| socket(place, active.user_timeout(), true).map(OwnedFd::from).map_err(|error| reason(place, &error)))
        .collect()
}

/// Could the place be had, by itself?
///
/// # Errors
/// Why not, as for [`bind`].
pub fn may_have(place: Place) -> Result<(), Reason> {
    // Without SO_REUSEPORT: with it, the kernel would let us share a port with another process of this user.
    socket(place, None, false).map(drop).map_err(|error| reason(place, &error))
}

/// One socket for each of `workers` that listens for all ports of a protocol and family, and where it is itself.
///
/// # Errors
/// The kernel's.
pub fn base(protocol: Protocol, is_ipv4: bool, workers: usize) -> io::Result<(Place, Vec<OwnedFd>)> {
    // Dispatch gives it flows of every address, so its own is nobody's business: loopback, any port.
    let ip: IpAddr = if is_ipv4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let first = socket(Place { protocol, address: SocketAddr::new(ip, 0) }, BASE_USER_TIMEOUT, true)?;
    let place = Place { protocol, address: sys::local_address(first.as_raw_fd())? };
    let mut sockets = vec![OwnedFd::from(first)];
    for _ in 1..workers {
        sockets.push(socket(place, BASE_USER_TIMEOUT, true)?.into());
    }
    Ok((place, sockets))
}

fn socket(place: Place, user_timeout: Option<Duration>, is_shared: bool) -> io::Result<Socket> {
    let domain = Domain::for_address(place.address);
    let kind = match place.protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), None)?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    match place.protocol {
        Protocol::Tcp => {
            // TIME_WAIT of an earlier process must not keep us from the port.
            socket.set_reuse_address(true)?;
            prepare_stream(&socket, user_timeout)?;
            socket.bind(&place.address.into())?;
            if is_shared {
                socket.listen(BACKLOG)?;
            }
        }
        Protocol::Udp => {
            let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES); // the kernel grants what it may
            let _ = socket.set_send_buffer_size(UDP_BUFFER_BYTES);
            control::receive_together(socket.as_raw_fd());
            socket.bind(&place.address.into())?;
        }
    }
    Ok(socket)
}

/// What accepted connections inherit (tcp(7)), so that accepting costs no further call.
fn prepare_stream(socket: &Socket, user_timeout: Option<Duration>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(user_timeout)
}

/// A refusal of the kernel in words.
pub fn reason(place: Place, error: &io::Error) -> Reason {
    let protocol = match place.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let (ip, port) = (place.address.ip(), place.address.port());
    let (code, side, message) = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => (
            "port_in_use",
            Side::Operator,
            format!("{protocol}/{port} on {ip} is in use by another process: stop it or choose another port"),
        ),
        Some(libc::EACCES | libc::EPERM) => (
            NOT_PERMITTED,
            Side::Operator,
            format!(
                "{protocol}/{port} on {ip} needs a right this process lacks: run with CAP_NET_BIND_SERVICE \
                 or lower net.ipv4.ip_unprivileged_port_start"
            ),
        ),
        Some(libc::EADDRNOTAVAIL) => (
            "address_not_local",
            Side::Operator,
            format!("{ip} is not an address of this machine: correct --edge-ip or add the address"),
        ),
        Some(libc::EMFILE | libc::ENFILE) => (
            "too_many_sockets",
            Side::Edge,
            format!(
                "no file descriptor is left for {protocol}/{port} on {ip}: raise the limit (ulimit -n) or use fewer ports"
            ),
        ),
        _ => ("listener_failed", Side::Edge, format!("{protocol}/{port} on {ip} could not be opened: {error}")),
    };
    Reason { code, side, message }
}
