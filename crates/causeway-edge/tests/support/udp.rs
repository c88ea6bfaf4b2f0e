//! What tests of UDP share: sockets that give up waiting, an echo, questions about silence.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use super::{DEADLINE, World, application};

pub const LARGEST: usize = 65_507;
/// Long enough for anything on loopback to have arrived.
pub const QUIET: Duration = Duration::from_millis(150);

pub fn udp(edge: SocketAddr, origins: &[SocketAddr], change: Value) -> Value {
    application(1, "udp", edge, origins, change)
}

pub fn socket(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 * 1024 * 1024);
    socket
}

pub fn client(edge: SocketAddr) -> UdpSocket {
    let socket = socket(if edge.is_ipv4() { "127.0.0.1" } else { "::1" });
    socket.connect(edge).unwrap();
    socket
}

pub fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

pub fn receive(socket: &UdpSocket) -> Vec<u8> {
    receive_from(socket).0
}

pub fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 70_000];
    let (n, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(n);
    (buffer, from)
}

pub fn hears_nothing(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(QUIET)).unwrap();
    let result = socket.recv_from(&mut [0; 70_000]);
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    matches!(result, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// Answers every datagram with itself until the process ends.
pub fn echo(ip: &str) -> SocketAddr {
    let socket = socket(ip);
    socket.set_read_timeout(None).unwrap();
    let own = address(&socket);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 70_000];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    });
    own
}

pub fn round_trip(client: &UdpSocket, datagram: &[u8]) -> bool {
    client.send(datagram).unwrap();
    receive(client) == datagram
}

pub fn may_send_icmp() -> bool {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4));
    if socket.is_err() {
        eprintln!("SKIPPED: what needs CAP_NET_RAW");
    }
    socket.is_ok()
}

pub fn count(world: &World, counter: &str) -> u64 {
    world.totals()[counter].as_u64().unwrap()
}
