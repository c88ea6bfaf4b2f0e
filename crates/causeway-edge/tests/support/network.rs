//! Several edges on loopback that know each other, with certificates of one authority.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use causeway_edge::{ApplyReport, Config, Edge};
use causeway_wire::overlay::{Hop, Read::Whole};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use super::{application, connect, free_address, settings};

/// Who vouches for edges.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    /// What an edge of that name is given.
    pub fn identity(&self, name: &str) -> Value {
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        json!({"ca": self.certificate, "certificate": certificate.pem(), "key": key.serialize_pem()})
    }
}

pub struct Member {
    pub name: &'static str,
    pub edge: Edge,
    pub at: SocketAddr,
    version: std::sync::atomic::AtomicU64,
}

/// Edges of these names that know each other and have nothing to do yet.
pub fn network(names: &[&'static str]) -> Vec<Member> {
    network_of(&Authority::new(), names)
}

pub fn network_of(authority: &Authority, names: &[&'static str]) -> Vec<Member> {
    introduced(authority, names.iter().map(|name| member(name)).collect())
}

fn introduced(authority: &Authority, members: Vec<Member>) -> Vec<Member> {
    for member in &members {
        member.edge.identify(authority.identity(member.name).to_string().as_bytes()).unwrap();
        member.apply(&members, &[]);
    }
    members
}

/// The same, with so many workers each, who hear each other at ports of `ip`.
pub fn network_at(ip: &str, workers: usize, names: &[&'static str]) -> Vec<Member> {
    introduced(&Authority::new(), names.iter().map(|name| member_at(ip, workers, name)).collect())
}

pub fn member(name: &'static str) -> Member {
    member_at("127.0.0.1", 1, name)
}

fn member_at(ip: &str, workers: usize, name: &'static str) -> Member {
    let edge = Edge::start(Config { workers, ..Config::default() }).unwrap();
    Member { name, edge, at: free_address(ip), version: std::sync::atomic::AtomicU64::new(0) }
}

impl Member {
    /// Serve these applications as one of these edges.
    pub fn apply(&self, all: &[Member], applications: &[Value]) -> ApplyReport {
        let peers: Vec<(&str, SocketAddr)> = all.iter().map(|member| (member.name, member.at)).collect();
        self.apply_among(&peers, applications)
    }

    pub fn apply_among(&self, all: &[(&str, SocketAddr)], applications: &[Value]) -> ApplyReport {
        let version = self.version.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let others = all.iter().filter(|(name, _)| *name != self.name);
        let peers: Vec<Value> = others.map(|(name, at)| json!({"name": name, "address": at})).collect();
        let overlay = json!({"name": self.name, "listen": self.at, "peers": peers});
        let snapshot = json!({
            "format": 1, "version": version, "settings": settings(), "applications": applications, "overlay": overlay
        });
        self.edge.apply(snapshot.to_string().as_bytes()).unwrap()
    }

    pub fn report(&self) -> Value {
        serde_json::to_value(self.edge.observe(0)).unwrap()
    }

    pub fn record(&self, cause: &str) -> Value {
        super::record(&self.edge, cause)
    }

    pub fn counted(&self, counter: &str) -> u64 {
        self.report()["overlay"][counter].as_u64().unwrap()
    }
}

/// An application whose clients come to `ingress` and whose flows go on by `paths`; each edge gets its part of it.
pub fn serve(members: &[Member], edge: SocketAddr, origins: &[SocketAddr], paths: &[&[&str]], change: Value) {
    for member in members {
        let is_exit = paths.iter().any(|path| path.last() == Some(&member.name));
        let mut own = change.as_object().unwrap().clone();
        own.insert("exit".into(), json!(is_exit));
        let is_ingress = member.name == members[0].name;
        own.insert("paths".into(), if is_ingress { json!(paths) } else { json!([]) });
        if !is_ingress {
            own.insert("edge_addresses".into(), json!([]));
        }
        let all = if is_ingress || is_exit { vec![application(1, "tcp", edge, origins, own.into())] } else { vec![] };
        member.apply(members, &all);
    }
}

/// An edge of the network that says what ours never do, and all that it hears.
pub fn say_as(identity: &Value, to: &Member, words: &[u8]) -> Vec<u8> {
    let mut stream = come_as(identity, to);
    stream.write_all(words).unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard); // an end without a word is an error here
    heard
}

/// As another edge of the network comes.
pub fn come_as(identity: &Value, to: &Member) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let pem = |field: &str| identity[field].as_str().unwrap().as_bytes().to_vec();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem("ca")).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(&pem("certificate")).unwrap()];
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&pem("key")).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"causeway-overlay/3".to_vec()];
    let name = rustls::pki_types::ServerName::try_from(to.name).unwrap();
    let tls = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    rustls::StreamOwned::new(tls, connect(to.at))
}

/// An edge that knows of no flow that can be resumed: it takes one, says that it has an origin, and echoes.
pub fn old_edge(identity: &Value) -> SocketAddr {
    let pem = |field: &str| identity[field].as_str().unwrap().as_bytes().to_vec();
    let chain = vec![CertificateDer::from_pem_slice(&pem("certificate")).unwrap()];
    let mut config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&pem("key")).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"causeway-overlay/1".to_vec()];
    let config = std::sync::Arc::new(config);
    super::origin("127.0.0.1", move |stream| {
        let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), stream);
        let (mut heard, mut buffer) = (Vec::new(), vec![0; 65_536]);
        while let Ok(n @ 1..) = tls.read(&mut buffer) {
            heard.extend_from_slice(&buffer[..n]);
            if let Ok(Whole { consumed, value }) = Hop::parse(&heard) {
                assert_eq!(value.keep, None, "it would take what is in frames for what the client says");
                heard.drain(..consumed);
                tls.write_all(&[0, 0]).unwrap();
                break;
            }
        }
        while tls.write_all(&heard).is_ok() && tls.flush().is_ok() {
            let Ok(n @ 1..) = tls.read(&mut buffer) else { return };
            heard = buffer[..n].to_vec();
        }
    })
}
