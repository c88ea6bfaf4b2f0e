//! `causeway-loops tokio|epoll|uring|splice LISTEN-IP ORIGIN-IP PORT[/udp]…`: a relay with nothing but the loop, one thread.
//!
//! No counters, no timers, no logs, no limits. What it costs bounds what a proxy over the same loop can reach;
//! decision 1 has the numbers. Datagrams pass through the same loop whatever the kind. Ends when its input closes.

mod epoll_loop;
mod splice_loop;
mod tokio_loop;
mod udp_loop;
mod uring_loop;

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// A listening socket and where its connections go.
pub struct Way {
    pub listener: TcpListener,
    pub origin: SocketAddr,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [kind, listen, origin, ports @ ..] = words.as_slice() else { usage() };
    let address = |word: &String| word.parse::<IpAddr>().unwrap_or_else(|_| usage());
    let (listen, origin) = (address(listen), address(origin));
    end_with_input();
    let mut ways = Vec::new();
    for word in ports {
        let (port, is_udp) = word.strip_suffix("/udp").map_or((word.as_str(), false), |port| (port, true));
        let port: u16 = port.parse().unwrap_or_else(|_| usage());
        let (listen, origin) = (SocketAddr::new(listen, port), SocketAddr::new(origin, port));
        if is_udp {
            std::thread::spawn(move || report("udp", udp_loop::run(listen, origin)));
        } else {
            match open(listen) {
                Ok(listener) => ways.push(Way { listener, origin }),
                Err(error) => return report(kind, Err(error)),
            }
        }
    }
    let result = match kind.as_str() {
        "tokio" => tokio_loop::run(ways),
        "epoll" => epoll_loop::run(&ways),
        "uring" => uring_loop::run(&ways),
        "splice" => splice_loop::run(&ways),
        _ => usage(),
    };
    report(kind, result);
}

fn end_with_input() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

fn report(kind: &str, result: std::io::Result<()>) {
    if let Err(error) = result {
        eprintln!("causeway-loops {kind}: {error}");
        std::process::exit(1);
    }
}

fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn usage() -> ! {
    eprintln!("usage: causeway-loops tokio|epoll|uring|splice LISTEN-IP ORIGIN-IP PORT[/udp]…");
    std::process::exit(2)
}
