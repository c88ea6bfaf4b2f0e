//! The origin: echo, sink, source and UDP echo on every address it is given, until stdin closes or its time is up.
use crate::args::{Args, refuse};
use crate::filler::{CHUNK, Filler};
use crate::origin_stream::{Role, Shared, Stream};
use crate::origin_udp::Echo;
use crate::sys::{self, Poll, READABLE};
use socket2::{Domain, Socket, Type};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

pub const ECHO: u16 = 7001;
pub const SINK: u16 = 7002;
pub const SOURCE: u16 = 7003;
pub const UDP_ECHO: u16 = 7004;
/// So much further up are the same streams again, for proxies that send a PROXY v2 header first.
const WITH_HEADER: u16 = 10;
const BACKLOG: i32 = 4096;
const ACCEPTS_PER_TURN: usize = 64;
const STDIN: usize = 0;
const STREAMS: usize = 1_000_000; // tokens below are sockets that listen, from here on streams by descriptor

enum Door {
    Listener { socket: TcpListener, role: Role, has_header: bool },
    Datagrams(Echo),
}

pub fn run(args: &mut Args) -> io::Result<()> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    while let Some(address) = args.optional("--bind") {
        addresses.push(address);
    }
    let longest = args.seconds("--max-seconds", 600.0);
    args.done();
    if addresses.is_empty() {
        refuse("--bind ADDRESS is needed, once or more");
    }

    let mut poll = Poll::new()?;
    poll.add(0, STDIN, READABLE)?;
    let mut doors = Vec::new();
    for address in addresses {
        for (port, role) in [(ECHO, Role::Echo), (SINK, Role::Sink), (SOURCE, Role::Source)] {
            for has_header in [false, true] {
                let port = if has_header { port + WITH_HEADER } else { port };
                doors.push(Door::Listener { socket: listen(SocketAddr::new(address, port))?, role, has_header });
            }
        }
        doors.push(Door::Datagrams(Echo::bind(SocketAddr::new(address, UDP_ECHO))?));
    }
    for (index, door) in doors.iter().enumerate() {
        poll.add(door.descriptor(), 1 + index, READABLE)?;
    }
    println!("{{\"ready\":true}}");
    io::stdout().flush()?;

    let mut shared = Shared { filler: Filler::new(), buffer: vec![0; CHUNK] };
    let mut streams: Vec<Option<Stream>> = Vec::new();
    let deadline = Instant::now() + longest;
    while Instant::now() < deadline {
        for index in 0..poll.wait(Duration::from_millis(500))? {
            let (token, _) = poll.event(index);
            if token == STDIN {
                return Ok(());
            } else if token >= STREAMS {
                serve(&poll, &mut streams, token - STREAMS, &mut shared)?;
            } else {
                match &mut doors[token - 1] {
                    Door::Listener { socket, role, has_header } => {
                        take_in(&poll, &mut streams, socket, (*role, *has_header))?;
                    }
                    Door::Datagrams(echo) => echo.turn()?,
                }
            }
        }
    }
    Ok(())
}

impl Door {
    fn descriptor(&self) -> i32 {
        match self {
            Self::Listener { socket, .. } => socket.as_raw_fd(),
            Self::Datagrams(echo) => echo.as_raw_fd(),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?; // accepted sockets inherit it
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn take_in(
    poll: &Poll,
    streams: &mut Vec<Option<Stream>>,
    listener: &TcpListener,
    kind: (Role, bool),
) -> io::Result<()> {
    for _ in 0..ACCEPTS_PER_TURN {
        let Some(socket) = sys::accept(listener.as_raw_fd())? else { break };
        let fd = socket.as_raw_fd();
        let slot = fd as usize;
        if streams.len() <= slot {
            streams.resize_with(slot + 1, || None);
        }
        poll.add(fd, STREAMS + slot, READABLE)?;
        streams[slot] = Some(Stream::new(TcpStream::from(socket), kind.0, kind.1));
    }
    Ok(())
}

/// A stream that failed or ended is dropped, which closes it: the client is the one that counts.
fn serve(poll: &Poll, streams: &mut [Option<Stream>], slot: usize, shared: &mut Shared) -> io::Result<()> {
    let Some(stream) = streams[slot].as_mut() else { return Ok(()) };
    let before = stream.interest();
    match stream.advance(shared) {
        Ok(true) if stream.interest() == before => Ok(()),
        Ok(true) => poll.change(slot as i32, STREAMS + slot, stream.interest()),
        Ok(false) | Err(_) => {
            streams[slot] = None;
            Ok(())
        }
    }
}
