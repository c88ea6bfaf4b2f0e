//! Whoever speaks QUIC to an edge and says what ours never do; and a line between two edges that loses what it is told to.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Event, Transmit,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use super::DEADLINE;

/// A connection to an edge, with the certificate of one.
pub struct Speaker {
    socket: UdpSocket,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    is_lost: bool,
}

impl Speaker {
    /// None: it is refused at once.
    pub fn connect(identity: &Value, name: &str, to: SocketAddr) -> Option<Speaker> {
        let pem = |field: &str| identity[field].as_str().unwrap().as_bytes().to_vec();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem("ca")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = vec![CertificateDer::from_pem_slice(&pem("certificate")).unwrap()];
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&pem("key")).unwrap())
            .unwrap();
        tls.alpn_protocols = vec![b"causeway-overlay-udp/1".to_vec()];
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let (handle, connection) = endpoint.connect(Instant::now(), config, to, name).unwrap();
        let mut speaker = Speaker { socket, endpoint, handle, connection, is_lost: false };
        speaker.turn_until(|it| !it.connection.is_handshaking());
        (!speaker.is_lost).then_some(speaker)
    }

    /// Say it in a datagram, and hear what comes back in one. None: the connection was closed.
    pub fn ask(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        self.connection.datagrams().send(message.to_vec().into(), false).unwrap();
        let mut heard = None;
        self.turn_until(|it| {
            heard = it.connection.datagrams().recv();
            heard.is_some()
        });
        heard.map(|bytes| bytes.to_vec())
    }

    /// Until that, or until the connection is lost.
    fn turn_until(&mut self, mut is_done: impl FnMut(&mut Speaker) -> bool) {
        let begin = Instant::now();
        while !is_done(self) && !self.is_lost {
            assert!(begin.elapsed() < DEADLINE, "not within {DEADLINE:?}");
            self.turn();
        }
    }

    fn turn(&mut self) {
        let mut out = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit(Instant::now(), 1, &mut out) {
            self.send(&transmit, &out);
            out.clear();
        }
        let mut packet = [0; 2048];
        if let Ok((n, from)) = self.socket.recv_from(&mut packet) {
            match self.endpoint.handle(Instant::now(), from, None, None, packet[..n].into(), &mut out) {
                Some(DatagramEvent::ConnectionEvent(_, event)) => self.connection.handle_event(event),
                Some(DatagramEvent::Response(transmit)) => self.send(&transmit, &out),
                _ => {}
            }
        }
        if self.connection.poll_timeout().is_some_and(|due| due <= Instant::now()) {
            self.connection.handle_timeout(Instant::now());
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        while let Some(event) = self.connection.poll() {
            self.is_lost |= matches!(event, Event::ConnectionLost { .. });
        }
    }

    fn send(&self, transmit: &Transmit, bytes: &[u8]) {
        self.socket.send_to(&bytes[..transmit.size], transmit.destination).unwrap();
    }
}

/// A line for packets to an edge and back, for one connection at a time.
pub struct Line {
    pub at: SocketAddr,
    pub is_cut: Arc<AtomicBool>,
    /// One packet of so many is lost; 0: none.
    pub loses_one_in: Arc<AtomicU64>,
}

impl Line {
    pub fn to(edge: SocketAddr, at: SocketAddr) -> Line {
        let line = Line { at, is_cut: Arc::default(), loses_one_in: Arc::default() };
        let near = UdpSocket::bind(at).unwrap();
        let far = UdpSocket::bind("127.0.0.1:0").unwrap();
        far.connect(edge).unwrap();
        let last: Arc<std::sync::Mutex<Option<SocketAddr>>> = Arc::default();
        let passes = |is_cut: &AtomicBool, one_in: &AtomicU64, number: u64| {
            let one_in = one_in.load(Ordering::Relaxed);
            !is_cut.load(Ordering::Relaxed) && (one_in == 0 || !number.is_multiple_of(one_in))
        };
        let (up, down) = ((near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near));
        let (is_cut, one_in, to) = (line.is_cut.clone(), line.loses_one_in.clone(), last.clone());
        std::thread::spawn(move || {
            let mut packet = vec![0; 65_536];
            for number in 1.. {
                let Ok((n, from)) = up.0.recv_from(&mut packet) else { continue };
                *to.lock().unwrap() = Some(from);
                if passes(&is_cut, &one_in, number) {
                    let _ = up.1.send(&packet[..n]);
                }
            }
        });
        let (is_cut, one_in) = (line.is_cut.clone(), line.loses_one_in.clone());
        std::thread::spawn(move || {
            let mut packet = vec![0; 65_536];
            for number in 1.. {
                let Ok(n) = down.0.recv(&mut packet) else { continue };
                let to = *last.lock().unwrap();
                if let Some(to) = to.filter(|_| passes(&is_cut, &one_in, number)) {
                    let _ = down.1.send_to(&packet[..n], to);
                }
            }
        });
        line
    }
}
