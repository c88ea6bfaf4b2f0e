//! QUIC between edges, for datagrams: the same certificates as between their TCP connections, and how a connection behaves.
//!
//! One connection carries the datagrams of many sessions, so it does not judge how fast they may go: each of them is
//! between a client and an origin, which see losses as without an overlay. What keeps a line from overflowing is theirs.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_wire::overlay::Name;
use quinn_proto::congestion::{Controller, ControllerFactory};
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    AckFrequencyConfig, ClientConfig, Connection, IdleTimeout, ServerConfig, TransportConfig, ValidationTokenConfig,
    VarInt,
};
use rustls::pki_types::CertificateDer;

use super::identity::name_in;

const PROTOCOL: &[u8] = b"causeway-overlay-udp/1";

/// An edge that acknowledges nothing for so long (for three times what QUIC gives it, where the line is long) is gone.
const SILENT_MS: u32 = 1_500;
/// Asked so often, a connection shows that it is there before anybody needs it.
const ASKED_EVERY: Duration = Duration::from_millis(500);
/// An acknowledgement for so many packets, and not for two: nothing but losses is known by it.
const ACKNOWLEDGED_AT_ONCE: u32 = 10;
/// Waits here for the socket at most, of one connection; beyond, datagrams are dropped.
const SEND_BUFFER_BYTES: usize = 1024 * 1024;
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Datagrams that are too large for one packet, at a time, each in a stream of its own.
const MOST_STREAMS: u32 = 1024;
const STREAM_BYTES: u32 = 128 * 1024;
const STREAMS_BYTES: u32 = 16 * 1024 * 1024;

/// # Errors
/// The provider has not what a QUIC handshake begins with.
pub fn client(crypto: &rustls::ClientConfig) -> Result<ClientConfig, NoInitialCipherSuite> {
    let mut crypto = crypto.clone();
    crypto.alpn_protocols = vec![PROTOCOL.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto)?));
    let mut transport = transport();
    transport.keep_alive_interval(Some(ASKED_EVERY));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// # Errors
/// As of [`client`].
pub fn server(crypto: &rustls::ServerConfig) -> Result<ServerConfig, NoInitialCipherSuite> {
    let mut crypto = crypto.clone();
    crypto.alpn_protocols = vec![PROTOCOL.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(crypto)?));
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0); // nobody comes back with what an earlier connection has shown
    config.validation_token_config(tokens).migration(false).transport_config(Arc::new(transport()));
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(ACKNOWLEDGED_AT_ONCE));
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(SILENT_MS))))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(MOST_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_BYTES))
        .receive_window(VarInt::from_u32(STREAMS_BYTES))
        .send_window(u64::from(STREAMS_BYTES))
        .datagram_send_buffer_size(SEND_BUFFER_BYTES)
        .datagram_receive_buffer_size(Some(RECEIVE_BUFFER_BYTES))
        .ack_frequency_config(Some(acknowledgements))
        .congestion_controller_factory(Arc::new(Unhurried));
    transport
}

/// The edge at the other end, once it has proven to be that.
pub fn peer(connection: &Connection) -> Option<Name> {
    let chain = connection.crypto_session().peer_identity()?;
    name_in(chain.downcast::<Vec<CertificateDer<'static>>>().ok()?.first()?)
}

/// Whatever there is may leave at once.
#[derive(Clone, Debug)]
struct Unhurried;

impl ControllerFactory for Unhurried {
    fn build(self: Arc<Self>, _now: Instant, _mtu: u16) -> Box<dyn Controller> {
        Box::new(Unhurried)
    }
}

impl Controller for Unhurried {
    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, _is_persistent: bool, _lost_bytes: u64) {}

    fn on_mtu_update(&mut self, _mtu: u16) {}

    fn window(&self) -> u64 {
        1 << 40 // above 32 bits nothing is spread over time either
    }

    fn initial_window(&self) -> u64 {
        self.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Unhurried)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
