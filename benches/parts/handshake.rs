//! Handshakes of the server's side: `tls::handshake::accept` on one end of a pair of sockets, with a
//! rustls client on the other. Only the server's turns are measured, its calls of the kernel among
//! them.

use std::cell::RefCell;
use std::fs;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis::config;
use portcullis::net::deadline::{Deadlines, Phase};
use portcullis::net::rt::{self, Driver};
use portcullis::net::socket::Socket;
use portcullis::tls::handshake::{self, Handshaken, NoSession};
use portcullis::tls::server_config::{PolicyConfig, ticketer};
use portcullis::tls::setup;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    PKCS_RSA_SHA256,
};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion,
    version,
};

use crate::meter::Meter;
use crate::part::{CONFIGURATION, Part};

/// Full and resumed for each key and version, and with the hybrid group that browsers offer.
pub(crate) fn parts() -> Vec<Part> {
    let keys = [
        ("p256", Key::P256),
        ("p384", Key::P384),
        ("rsa2048", Key::Rsa2048),
        ("ed25519", Key::Ed25519),
    ];
    let tls13 = ("tls13/x25519", &version::TLS13, X25519);
    let tls12 = ("tls12/x25519", &version::TLS12, X25519);
    let hybrid = ("tls13/x25519mlkem768", &version::TLS13, MLKEM);
    let mut parts = Vec::new();
    for (kind, resumes) in [("full", false), ("resumed", true)] {
        for (key_name, key) in keys {
            let hybrid = matches!(key, Key::P256).then_some(hybrid);
            for (name, version, group) in [Some(tls13), hybrid, Some(tls12)].into_iter().flatten() {
                // A resumed session of TLS 1.2 has no key exchange.
                let name = match (name, resumes) {
                    ("tls12/x25519", true) => "tls12",
                    _ => name,
                };
                let ends = Ends::new_later(key, version, group, resumes);
                parts.push(part(format!("handshake/{kind}/{key_name}/{name}"), ends));
            }
        }
    }
    parts
}

fn part(name: String, make: impl Fn() -> Ends + 'static) -> Part {
    Part::new(name, 20, move || {
        let ends = make();
        Box::new(move |calls, meter| {
            let handshakes = async {
                for _ in 0..calls {
                    let session = ends.shake_hands(meter).await;
                    assert_eq!(session.server.is_resumed, ends.resumes);
                    // The tickets, for the next time.
                    session.client.take(&session.server.parts.unsent);
                }
            };
            rt::block_on(Driver::Epoll, handshakes).unwrap();
        })
    })
}

/// A client's first flight, as large as a browser's: it offers both versions and two groups.
pub(crate) fn client_hello() -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("www.example.org").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    wire
}

/// A server's configuration, read from files as the program reads it, and clients' for it.
pub(crate) struct Ends {
    server: PolicyConfig,
    client: Arc<ClientConfig>,
    deadlines: Deadlines,
    resumes: bool,
}

/// Both ends of an established session.
pub(crate) struct Session {
    pub(crate) server: Handshaken,
    pub(crate) client: Client,
}

impl Ends {
    /// A server with one certificate, and a client that offers one version, group and suite.
    pub(crate) fn new(
        key: Key,
        version: &'static SupportedProtocolVersion,
        group: Group,
        suite: Option<SupportedCipherSuite>,
    ) -> Self {
        let (server, certificate) = server(key);
        Self {
            server,
            client: Arc::new(client(certificate, version, group, suite)),
            deadlines: Deadlines::new(),
            resumes: false,
        }
    }

    fn new_later(
        key: Key,
        version: &'static SupportedProtocolVersion,
        group: Group,
        resumes: bool,
    ) -> impl Fn() -> Self {
        move || {
            let mut ends = Self::new(key, version, group, None);
            if resumes {
                let first = async {
                    let session = ends.shake_hands(&mut Meter::idle()).await;
                    session.client.take(&session.server.parts.unsent);
                };
                rt::block_on(Driver::Epoll, first).unwrap();
                ends.resumes = true;
            } else {
                let config = Arc::make_mut(&mut ends.client);
                config.resumption = rustls::client::Resumption::disabled();
            }
            ends
        }
    }

    /// One handshake. The client has its turn whenever the server waits for it.
    pub(crate) async fn shake_hands(&self, meter: &mut Meter) -> Session {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let socket = Socket::adopt(ours.into()).unwrap();
        let deadline = self.deadlines.register();
        deadline.arm(Phase::Handshake, Duration::from_secs(60));
        let client = Client::new(theirs, &self.client);
        client.turn();
        let server = {
            let choose = |hello: &_| Some(Arc::clone(self.server.for_client(hello)));
            let mut accepting = pin!(handshake::accept(&socket, &deadline, choose));
            poll_fn(|context| {
                let polled = meter.measure(|| accepting.as_mut().poll(context));
                if polled.is_pending() {
                    // It says something, which wakes the server: both would wait for ever otherwise.
                    assert!(client.turn() > 0, "both ends wait");
                }
                polled
            })
            .await
        };
        // What TLS 1.2 servers say last.
        client.turn();
        let server = match server {
            Ok(server) => server,
            Err(NoSession::Failed(error)) => panic!("{error:?}"),
            Err(NoSession::PlainHttp | NoSession::NeverBegan) => panic!("no handshake"),
        };
        Session { server, client }
    }
}

/// A rustls client on its end of the pair.
#[derive(Clone)]
pub(crate) struct Client(Rc<RefCell<(UnixStream, ClientConnection)>>);

impl Client {
    fn new(socket: UnixStream, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let tls = ClientConnection::new(Arc::clone(config), name).unwrap();
        Self(Rc::new(RefCell::new((socket, tls))))
    }

    /// Reads what is there and sends what is to be sent; how many bytes that were.
    fn turn(&self) -> usize {
        let (socket, tls) = &mut *self.0.borrow_mut();
        let mut wire = vec![0; 64 * 1024];
        loop {
            match socket.read(&mut wire) {
                Ok(0) => break,
                Ok(count) => take(tls, &wire[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let mut sent = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut sent).unwrap();
        }
        // A socket pair has room for what a client says in a handshake.
        socket.write_all(&sent).unwrap();
        sent.len()
    }

    /// Reads records that did not come over the socket.
    fn take(&self, wire: &[u8]) {
        take(&mut self.0.borrow_mut().1, wire);
    }

    /// The client's connection, for its secrets.
    pub(crate) fn into_connection(self) -> ClientConnection {
        Rc::into_inner(self.0).unwrap().into_inner().1
    }
}

fn take(tls: &mut ClientConnection, mut wire: &[u8]) {
    while !wire.is_empty() {
        tls.read_tls(&mut wire).unwrap();
        tls.process_new_packets().unwrap();
    }
}

/// The key of a server's certificate.
#[derive(Clone, Copy)]
pub(crate) enum Key {
    P256,
    P384,
    Rsa2048,
    Ed25519,
}

/// A group as rustls offers it.
pub(crate) type Group = &'static dyn SupportedKxGroup;

const MLKEM: Group = kx_group::X25519MLKEM768;
pub(crate) const X25519: Group = kx_group::X25519;

fn server(key: Key) -> (PolicyConfig, CertificateDer<'static>) {
    let algorithm = match key {
        Key::P256 => &PKCS_ECDSA_P256_SHA256,
        Key::P384 => &PKCS_ECDSA_P384_SHA384,
        Key::Rsa2048 => &PKCS_RSA_SHA256,
        Key::Ed25519 => &PKCS_ED25519,
    };
    let pair = KeyPair::generate_for(algorithm).unwrap();
    let names = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    let certificate = names.self_signed(&pair).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    fs::write(file("chain.pem"), certificate.pem()).unwrap();
    fs::write(file("key.pem"), pair.serialize_pem()).unwrap();
    fs::write(file("bench.toml"), CONFIGURATION).unwrap();
    let loaded = config::load(&file("bench.toml")).unwrap();
    let tickets = ticketer().unwrap();
    let prepared = setup::prepare(&loaded, &tickets, SystemTime::now()).unwrap();
    let policy = prepared.tls.policy_for(Some(SERVER_NAME)).unwrap();
    let config = prepared.tls.server_config(policy).unwrap();
    (config.clone(), certificate.der().clone())
}

fn client(
    certificate: CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
    group: Group,
    suite: Option<SupportedCipherSuite>,
) -> ClientConfig {
    let mut provider: CryptoProvider = default_provider();
    provider.kx_groups = vec![group];
    if let Some(suite) = suite {
        provider.cipher_suites = vec![suite];
    }
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // For its keys, where records are measured.
    config.enable_secret_extraction = true;
    config
}

const SERVER_NAME: &str = "localhost";
