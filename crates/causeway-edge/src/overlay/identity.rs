//! Who this edge is to other edges: a certificate of the network's authority and its key, and who else may be one.
//!
//! TLS 1.3 and nothing older. No sessions are resumed: who was revoked has nothing to come back with.

use std::fmt;
use std::sync::Arc;

use causeway_wire::overlay::Name;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::crypto::{CryptoProvider, ring::cipher_suite};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Deserialize;

use super::quic;
use crate::error::EdgeError;

/// What both sides say they speak, the best first: the second wants to be asked before a resumed flow goes on, the third
/// knows of no flow that can be resumed.
pub const PROTOCOLS: [&[u8]; 3] = [b"causeway-overlay/3", b"causeway-overlay/2", b"causeway-overlay/1"];

#[derive(Debug)]
pub struct Identity {
    pub client: Arc<ClientConfig>,
    pub server: Arc<ServerConfig>,
    /// The same, for datagrams.
    pub quic_client: quinn_proto::ClientConfig,
    pub quic_server: Arc<quinn_proto::ServerConfig>,
}

/// As it comes, all of it PEM. Never shown: it holds the key.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    ca: String,
    certificate: String,
    key: String,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told(…)")
    }
}

impl Told {
    /// # Errors
    /// `Refused`, without a word of what is in it.
    pub fn read(json: &[u8]) -> Result<Told, EdgeError> {
        serde_json::from_slice(json).map_err(|_| refused("not the fields ca, certificate and key"))
    }
}

fn refused(what: &str) -> EdgeError {
    EdgeError::Refused(format!("the identity for other edges has {what}"))
}

impl Identity {
    /// # Errors
    /// `Refused`, without a word of what is in it.
    pub fn new(told: &Told) -> Result<Identity, EdgeError> {
        let certificates = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = certificates(&told.certificate).map_err(|_| refused("no certificate"))?;
        let key = || PrivateKeyDer::from_pem_slice(told.key.as_bytes()).map_err(|_| refused("no key"));
        let mut roots = RootCertStore::empty();
        for ca in certificates(&told.ca).map_err(|_| refused("no certificate of an authority"))? {
            roots.add(ca).map_err(|_| refused("a certificate of an authority that cannot be used"))?;
        }
        if chain.is_empty() || roots.is_empty() {
            return Err(refused("no certificate, of its own or of an authority"));
        }
        let (provider, roots) = (Arc::new(provider()), Arc::new(roots));
        let unfit = |error: rustls::Error| refused(&format!("a certificate or key that cannot be used: {error}"));
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(unfit)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), key()?)
            .map_err(unfit)?;
        client.resumption = Resumption::disabled();
        client.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        let vouched = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| refused(&format!("an authority that cannot be used: {error}")))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(unfit)?
            .with_client_cert_verifier(vouched)
            .with_single_cert(chain, key()?)
            .map_err(unfit)?;
        server.send_tls13_tickets = 0;
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        let no_suite = |error| refused(&format!("nothing that QUIC can use: {error}"));
        let (quic_client, quic_server) =
            (quic::client(&client).map_err(no_suite)?, quic::server(&server).map_err(no_suite)?);
        Ok(Identity {
            client: Arc::new(client),
            server: Arc::new(server),
            quic_client,
            quic_server: Arc::new(quic_server),
        })
    }
}

/// Bytes that nobody guesses. None: this machine has none.
pub fn secret() -> Option<[u8; 16]> {
    let mut secret = [0; 16];
    ring::default_provider().secure_random.fill(&mut secret).ok().map(|()| secret)
}

fn provider() -> CryptoProvider {
    let cipher_suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256, // the fastest where the processor knows AES
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    CryptoProvider { cipher_suites, ..ring::default_provider() }
}

/// The edge that a certificate is of.
pub fn name_in(certificate: &CertificateDer<'_>) -> Option<Name> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    parsed.valid_dns_names().find_map(|name| Name::new(name.as_bytes()))
}
