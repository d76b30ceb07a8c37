//! Our side is the client: handshakes with a rustls server over a real connection, and with servers
//! that misbehave.

use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
    version,
};

use super::super::tests::{Accepting, on_each_driver, receive_exactly};
use super::*;
use crate::config::{TlsVersion, UpstreamIdentity, UpstreamTls};
use crate::tls::client_config::{self, ClientTls};
use crate::tls::server_config::ticketer;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

/// A server's certificate, our own, and the files that name them.
struct Files {
    folder: tempfile::TempDir,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    own: CertificateDer<'static>,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(["us.test".to_owned()]).unwrap();
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, "us");
        let own = parameters.self_signed(&key).unwrap();
        let files = Self {
            certificate: made.cert.der().clone(),
            key: made.signing_key.serialize_der(),
            own: own.der().clone(),
            folder,
        };
        std::fs::write(files.path("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(files.path("other.pem"), own.pem()).unwrap();
        std::fs::write(files.path("own.pem"), own.pem()).unwrap();
        std::fs::write(files.path("own.key"), key.serialize_pem()).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn server(&self, version: &'static SupportedProtocolVersion) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        let mut config = ServerConfig::builder_with_protocol_versions(&[version])
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)
            .unwrap();
        config.ticketer = ticketer().unwrap();
        config
    }

    fn tls(&self) -> UpstreamTls {
        UpstreamTls {
            server_name: None,
            authorities_file: Some(self.path("ca.pem")),
            identity: None,
            version_min: TlsVersion::Tls12,
            alpn: Vec::new(),
            verifies: true,
        }
    }
}

fn load(tls: &UpstreamTls) -> ClientTls {
    client_config::load(tls, SystemTime::now()).unwrap().0
}

async fn connect_to(
    ours: &Accepting,
    tls: &ClientTls,
    name: &'static str,
    protocols: &[&[u8]],
) -> Result<Secured, Cause> {
    let wanted = Wanted {
        config: tls.config(),
        name: ServerName::try_from(name).unwrap(),
        protocols,
        timeout_key: "upstream.connect_ms",
    };
    connect(&ours.socket, &ours.deadline, wanted).await
}

/// A rustls server on a blocking socket.
struct Server {
    socket: TcpStream,
    tls: ServerConnection,
}

impl Server {
    fn new(socket: TcpStream, config: &Arc<ServerConfig>) -> Self {
        let tls = ServerConnection::new(config.clone()).unwrap();
        Self { socket, tls }
    }

    fn flush(&mut self, step: usize) {
        let mut wire = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut wire).unwrap();
        }
        for part in wire.chunks(step) {
            self.socket.write_all(part).unwrap();
        }
    }

    /// Handshakes, sending `step` bytes at a time.
    fn handshake(&mut self, step: usize) -> Result<(), rustls::Error> {
        while self.tls.is_handshaking() {
            let read = self.tls.read_tls(&mut self.socket).unwrap();
            let processed = self.tls.process_new_packets();
            self.flush(step);
            processed?;
            assert_ne!(read, 0, "closed");
        }
        Ok(())
    }

    fn receive_exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        let mut filled = 0;
        while filled < bytes {
            match self.tls.reader().read(&mut data[filled..]) {
                Ok(count) => filled += count,
                Err(_) => {
                    assert_ne!(self.tls.read_tls(&mut self.socket).unwrap(), 0, "closed");
                    self.tls.process_new_packets().unwrap();
                    self.flush(usize::MAX);
                }
            }
        }
        data
    }
}

/// The tickets come in front of the answer, which is then in the socket: they must be kept on the
/// way, and the keys may change behind them.
#[test]
fn a_session_is_made_resumed_and_rekeyed() {
    let files = Files::new();
    for version in VERSIONS {
        let mut config = files.server(version);
        config.alpn_protocols = vec![b"b".to_vec()];
        let config = Arc::new(config);
        let tls = load(&files.tls());
        let before = metrics::of_this_thread(Counter::UpstreamHandshakesResumed);
        for step in [usize::MAX, 1] {
            on_each_driver(
                async |ours| {
                    let secured = connect_to(&ours, &tls, "a.test", &[b"a", b"b"]).await;
                    let secured = secured.ok().unwrap();
                    assert_eq!(secured.alpn.as_deref(), Some(&b"b"[..]));
                    assert_eq!(secured.version, version.version);
                    let (mut read, mut write) = ours.stream(secured.parts);
                    write.send(&[IoSlice::new(b"question")]).await.unwrap();
                    assert_eq!(receive_exactly(&mut read, 10).await, b"answermore");
                    write.send(&[IoSlice::new(b"thanks")]).await.unwrap();
                    write.finish().await.unwrap();
                },
                |socket| {
                    let mut server = Server::new(socket, &config);
                    server.handshake(step).unwrap();
                    assert_eq!(server.receive_exactly(8), b"question");
                    server.tls.writer().write_all(b"answer").unwrap();
                    if version.version == ProtocolVersion::TLSv1_3 {
                        server.tls.refresh_traffic_keys().unwrap();
                    }
                    server.tls.writer().write_all(b"more").unwrap();
                    server.flush(step);
                    assert_eq!(server.receive_exactly(6), b"thanks");
                },
            );
        }
        let resumed = metrics::of_this_thread(Counter::UpstreamHandshakesResumed) - before;
        assert_eq!(resumed, 3, "all but the first of four");
    }
}

/// `tls` refuses the server's certificate for the name `name`, which is counted and told.
fn is_refused(
    files: &Files,
    tls: &UpstreamTls,
    name: &'static str,
    counter: Counter,
    alert: AlertDescription,
) {
    let tls = load(tls);
    let config = Arc::new(files.server(&version::TLS13));
    on_each_driver(
        async |ours| {
            let before = metrics::of_this_thread(counter);
            let Err(cause) = connect_to(&ours, &tls, name, &[]).await else {
                panic!("a session");
            };
            let is_about_certificate =
                matches!(&cause, Cause::Tls(rustls::Error::InvalidCertificate(_)));
            assert!(is_about_certificate, "{cause:?}");
            assert_eq!(metrics::of_this_thread(counter), before + 1);
        },
        |socket| {
            let refused = Server::new(socket, &config).handshake(usize::MAX);
            assert_eq!(refused, Err(rustls::Error::AlertReceived(alert)));
        },
    );
}

#[test]
fn certificates_are_verified_by_default() {
    let files = Files::new();
    let other = UpstreamTls {
        authorities_file: Some(files.path("other.pem")),
        ..files.tls()
    };
    let browsers = UpstreamTls {
        authorities_file: None,
        ..files.tls()
    };
    for tls in [&other, &browsers] {
        is_refused(
            &files,
            tls,
            "a.test",
            Counter::UpstreamCertificatesUntrusted,
            AlertDescription::UnknownCA,
        );
    }
    is_refused(
        &files,
        &files.tls(),
        "b.test",
        Counter::UpstreamCertificatesMisnamed,
        AlertDescription::BadCertificate,
    );
}

#[test]
fn any_certificate_is_taken_where_the_operator_says_so() {
    let files = Files::new();
    let tls = load(&UpstreamTls {
        authorities_file: None,
        verifies: false,
        ..files.tls()
    });
    for version in VERSIONS {
        let config = Arc::new(files.server(version));
        on_each_driver(
            async |ours| {
                let secured = connect_to(&ours, &tls, "b.test", &[]).await;
                assert!(secured.is_ok());
            },
            |socket| {
                Server::new(socket, &config).handshake(usize::MAX).unwrap();
            },
        );
    }
}

#[test]
fn a_server_that_asks_for_our_certificate_gets_it() {
    let files = Files::new();
    let mut roots = RootCertStore::empty();
    roots.add(files.own.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .build()
        .unwrap();
    for version in VERSIONS {
        let key = PrivateKeyDer::try_from(files.key.clone()).unwrap();
        let config = ServerConfig::builder_with_protocol_versions(&[version])
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(vec![files.certificate.clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let tls = load(&UpstreamTls {
            identity: Some(UpstreamIdentity {
                certificate_file: files.path("own.pem"),
                key_file: files.path("own.key"),
            }),
            ..files.tls()
        });
        on_each_driver(
            async |ours| {
                let secured = connect_to(&ours, &tls, "a.test", &[]).await;
                assert!(secured.is_ok());
            },
            |socket| {
                let mut server = Server::new(socket, &config);
                server.handshake(usize::MAX).unwrap();
                let shown = server.tls.peer_certificates().unwrap();
                assert_eq!(shown, std::slice::from_ref(&files.own));
            },
        );
    }
}

#[test]
fn a_server_that_is_too_old_is_refused() {
    let files = Files::new();
    let tls = load(&UpstreamTls {
        version_min: TlsVersion::Tls13,
        ..files.tls()
    });
    let config = Arc::new(files.server(&version::TLS12));
    on_each_driver(
        async |ours| {
            let failed = connect_to(&ours, &tls, "a.test", &[]).await;
            assert!(matches!(failed, Err(Cause::Tls(_))));
        },
        |socket| {
            assert!(Server::new(socket, &config).handshake(usize::MAX).is_err());
        },
    );
}

#[test]
fn servers_that_stall_end_or_speak_otherwise() {
    let files = Files::new();
    let tls = load(&files.tls());
    on_each_driver(
        async |ours| {
            ours.expire_soon();
            let failed = connect_to(&ours, &tls, "a.test", &[]).await;
            assert!(matches!(failed, Err(Cause::Timeout("upstream.connect_ms"))));
            ours.socket.shutdown(Shutdown::Both);
        },
        |mut socket| {
            drop(socket.read_to_end(&mut Vec::new()));
        },
    );
    on_each_driver(
        async |ours| {
            let failed = connect_to(&ours, &tls, "a.test", &[]).await;
            assert!(matches!(failed, Err(Cause::Truncated)));
        },
        |socket| {
            socket.shutdown(Shutdown::Write).unwrap();
            drop((&socket).read_to_end(&mut Vec::new()));
        },
    );
    on_each_driver(
        async |ours| {
            let failed = connect_to(&ours, &tls, "a.test", &[]).await;
            assert!(matches!(failed, Err(Cause::Tls(_))));
            ours.socket.shutdown(Shutdown::Write);
        },
        |mut socket| {
            socket
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .unwrap();
            drop(socket.read_to_end(&mut Vec::new()));
        },
    );
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let files = Files::new();
    std::fs::write(files.path("empty.pem"), "nothing").unwrap();
    let with = |authorities: &str, certificate: &str, key: &str| UpstreamTls {
        authorities_file: Some(files.path(authorities)),
        identity: Some(UpstreamIdentity {
            certificate_file: files.path(certificate),
            key_file: files.path(key),
        }),
        ..files.tls()
    };
    for (tls, file) in [
        (with("none.pem", "own.pem", "own.key"), "none.pem"),
        (with("empty.pem", "own.pem", "own.key"), "empty.pem"),
        (with("own.key", "own.pem", "own.key"), "own.key"),
        (with("ca.pem", "none.pem", "own.key"), "none.pem"),
        (with("ca.pem", "ca.pem", "own.key"), "own.key"),
    ] {
        let error = client_config::load(&tls, SystemTime::now()).unwrap_err();
        let named = error.file().and_then(Path::file_name);
        assert_eq!(named, Some(file.as_ref()), "{error}");
    }
}

/// What was remembered is kept over a reload for as long as the files say the same.
#[test]
fn the_same_files_are_the_same_and_others_are_not() {
    let files = Files::new();
    let first = load(&files.tls());
    assert!(first.is_same(&load(&files.tls())));
    std::fs::copy(files.path("own.pem"), files.path("ca.pem")).unwrap();
    assert!(!first.is_same(&load(&files.tls())));
}
