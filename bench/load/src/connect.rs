//! TCP connections to the target: begun without waiting, opened a few at a time, or one that waits.
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::Duration;

const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of this machine to connect from, in turn, as `A.B.C.D-E.F.G.H`; none: the kernel chooses.
#[derive(Clone, Copy, Default)]
pub struct Sources(Option<(u32, u32)>);

impl Sources {
    pub fn at(&self, number: u64) -> Option<IpAddr> {
        let (first, count) = self.0?;
        Some(Ipv4Addr::from_bits(first + (number % u64::from(count)) as u32).into())
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Sources, String> {
        let (first, last) = text.split_once('-').ok_or("not FIRST-LAST")?;
        let parse = |part: &str| part.parse::<Ipv4Addr>().map_err(|error| error.to_string());
        let (first, last) = (parse(first)?.to_bits(), parse(last)?.to_bits());
        let count = last.checked_sub(first).ok_or("ends before it begins")?;
        Ok(Sources(Some((first, count + 1))))
    }
}

/// Non-blocking and under way; writable or failed later.
pub fn begin(to: SocketAddr) -> io::Result<TcpStream> {
    begin_from(to, None, false)
}

/// As `begin`, from an address; a deaf one has hardly any room for what it is told.
pub fn begin_from(to: SocketAddr, source: Option<IpAddr>, is_deaf: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if is_deaf {
        socket.set_recv_buffer_size(1)?;
    }
    if let Some(source) = source {
        socket.set_reuse_address(true)?;
        no_port_yet(&socket)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&to.into()) {
        Ok(()) => Ok(socket.into()),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error),
    }
}

/// Connected, non-blocking, without Nagle's delay.
pub fn open(to: SocketAddr) -> io::Result<TcpStream> {
    open_from(to, None)
}

pub fn open_from(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(&to.into(), OPEN_TIMEOUT)?;
    let stream: TcpStream = socket.into();
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Leave the port to connect(2), which can share it between peers (ip(7), IP_BIND_ADDRESS_NO_PORT).
fn no_port_yet(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: a pointer to an int and its size.
    let result = unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(socket),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub fn close(stream: TcpStream, by_reset: bool) -> io::Result<()> {
    if by_reset {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    drop(stream);
    Ok(())
}
