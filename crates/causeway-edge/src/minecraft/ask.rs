//! Ask a server for its status, as a player's list of servers does. Blocks for some seconds at most.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_wire::minecraft::{MAX_STATUS, packet_length, varint};
use socket2::{Domain, Socket, Type};

use super::Gate;
use crate::application::Active;
use crate::event::Cause;
use crate::origin::Choice;
use crate::snapshot::ProxyProtocol;

const WITHIN: Duration = Duration::from_millis(2_500);
const CONNECT: Duration = Duration::from_millis(1_000);
const NAME_LOOK: Duration = Duration::from_millis(50);
/// Of a proxy that asks for itself (the PROXY protocol specification, UNKNOWN and LOCAL).
const V1_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Ask in a thread of its own and put the answer into the gate. `client` and `edge` are those of who wants to know.
pub fn begin(active: Arc<Active>, gate: Arc<Gate>, client: IpAddr, edge: SocketAddr, protocol: i32, now_ms: u64) {
    let (asked, told) = (gate.clone(), Instant::now());
    let work = move || {
        let packet = ask(&active, client, edge, protocol, now_ms).ok();
        asked.set_status(packet, now_ms + told.elapsed().as_millis() as u64);
    };
    if std::thread::Builder::new().name("edge-status".into()).spawn(work).is_err() {
        gate.set_status(None, now_ms);
    }
}

fn ask(active: &Active, client: IpAddr, edge: SocketAddr, protocol: i32, now_ms: u64) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + WITHIN;
    let mut stream = connect(active, client, active.offset(edge), now_ms, deadline)?;
    stream.set_write_timeout(Some(CONNECT))?;
    let mut said = match active.proxy_protocol() {
        ProxyProtocol::V1 => V1_UNKNOWN.to_vec(),
        ProxyProtocol::V2 => V2_LOCAL.to_vec(),
        ProxyProtocol::Off | ProxyProtocol::Simple => Vec::new(),
    };
    said.extend(packet(&handshake(protocol, &active.spec.name, edge.port())));
    said.extend(packet(&[0]));
    stream.write_all(&said)?;
    read_packet(&mut stream, deadline)
}

fn connect(active: &Active, client: IpAddr, offset: u16, now_ms: u64, deadline: Instant) -> io::Result<TcpStream> {
    let (mut tried, mut turn) = (0, 0);
    loop {
        match active.origins.choose(&mut tried, client, offset, now_ms) {
            Choice::Try(origin) if active.may_connect(origin) => {
                let attempt = |source: Option<IpAddr>| open(origin, source).map_err(|_| Cause::ConnectFailed);
                if let Ok(stream) = active.policy.sources().connect(origin, &mut turn, attempt) {
                    return Ok(stream);
                }
            }
            Choice::Try(_) => {}
            Choice::Wait(_) => std::thread::sleep(NAME_LOOK),
            Choice::Exhausted(_) => return Err(ErrorKind::NotConnected.into()),
        }
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

fn open(origin: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(origin), Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(&origin.into(), CONNECT)?;
    Ok(socket.into())
}

fn handshake(protocol: i32, name: &str, port: u16) -> Vec<u8> {
    let name: String = name.chars().take(255).collect();
    let mut body = vec![0];
    let number = |number: i32| {
        let (bytes, count) = varint(number);
        bytes[..count].to_vec()
    };
    body.extend(number(protocol));
    body.extend(number(name.len() as i32));
    body.extend(name.as_bytes());
    body.extend(port.to_be_bytes());
    body.push(1);
    body
}

/// With its length before it.
pub fn packet(body: &[u8]) -> Vec<u8> {
    let (length, count) = varint(body.len() as i32);
    [&length[..count], body].concat()
}

/// A whole packet with id 0, its length before it.
fn read_packet(stream: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let (mut found, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let whole = packet_length(&found, MAX_STATUS).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
        if let Some(length) = whole.filter(|length| found.len() >= *length) {
            let begin = varint(0).1 + found.iter().take_while(|byte| **byte & 0x80 != 0).count();
            let is_status = found.get(begin) == Some(&0);
            found.truncate(length);
            return if is_status { Ok(found) } else { Err(ErrorKind::InvalidData.into()) };
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => found.extend_from_slice(&buffer[..count]),
        }
    }
}

/// What a client that wants to join is told before it is turned away.
pub fn refusal(text: &str) -> Vec<u8> {
    let json = serde_json::json!({ "text": text }).to_string();
    let (length, count) = varint(json.len() as i32);
    packet(&[&[0], &length[..count], json.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use causeway_wire::minecraft::{Greeting, Next, greeting};

    use super::*;

    #[test]
    fn what_we_say_is_what_we_would_read() {
        let said = packet(&handshake(-1, "mc.example.net", 25_565));
        let expected = Greeting::Handshake { consumed: said.len(), protocol: -1, next: Next::Status };
        assert_eq!(greeting(&said), Ok(expected));
        assert_eq!(refusal("no"), b"\x0f\0\x0d{\"text\":\"no\"}");
    }
}
