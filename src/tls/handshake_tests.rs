//! Handshakes with a rustls client over a real connection, and with clients that misbehave.

use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, Error as TlsError, RootCertStore, SupportedProtocolVersion,
    version,
};

use super::*;
use crate::config::{Offload, OffloadPolicy};
use crate::error::Side;
use crate::limits::HANDSHAKE_BYTES_MAX;
use crate::net::deadline::{Deadlines, Phase};
use crate::net::file_threads::FileThreads;
use crate::net::rt::{self, Driver};
use crate::net::stream::{ReadHalf, Received, Stream, StreamContext, TlsParts, WriteHalf};
use crate::sys;
use crate::sys::probe::{KernelTls, Ring, TlsRefusal, ring};
use crate::sys::test_support::Signal;
use crate::tls::server_config::ticketer;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        Identity {
            certificate: made.cert.der().clone(),
            key: PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
        }
    })
}

/// A server of that version only, with its certificate sent so many times over.
fn server_config(
    version: &'static SupportedProtocolVersion,
    certificates: usize,
) -> Arc<ServerConfig> {
    let chain = vec![identity().certificate.clone(); certificates];
    let mut config = ServerConfig::builder_with_protocol_versions(&[version])
        .with_no_client_auth()
        .with_single_cert(chain, identity().key.clone_key())
        .unwrap();
    config.enable_secret_extraction = true;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = ticketer().unwrap();
    Arc::new(config)
}

fn client_config(version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(identity().certificate.clone()).unwrap();
    let mut config = ClientConfig::builder_with_protocol_versions(&[version])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// A rustls client on a blocking socket.
struct Client {
    socket: TcpStream,
    tls: ClientConnection,
}

impl Client {
    fn new(socket: TcpStream, config: &Arc<ClientConfig>) -> Self {
        let name = ServerName::try_from("a.test").unwrap();
        Self {
            socket,
            tls: ClientConnection::new(config.clone(), name).unwrap(),
        }
    }

    /// What the client wants sent now.
    fn written(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut wire).unwrap();
        }
        wire
    }

    /// Receives until rustls has something new; an error is what rustls makes of it.
    fn receive(&mut self) -> Result<(), TlsError> {
        assert_ne!(self.tls.read_tls(&mut self.socket).unwrap(), 0, "closed");
        self.tls.process_new_packets().map(drop)
    }

    /// Handshakes up to its own last flight, which it gives back unsent.
    fn handshake(
        &mut self,
        mut send: impl FnMut(&mut TcpStream, &[u8]),
    ) -> Result<Vec<u8>, TlsError> {
        loop {
            let wire = self.written();
            // A TLS 1.3 client is done before its Finished is sent, a TLS 1.2 client after.
            if !self.tls.is_handshaking() {
                return Ok(wire);
            }
            send(&mut self.socket, &wire);
            self.receive()?;
        }
    }

    /// The plaintext that has come and comes until `bytes` are there.
    fn receive_exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        let mut filled = 0;
        while filled < bytes {
            match self.tls.reader().read(&mut data[filled..]) {
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.receive().unwrap(),
                Err(error) => panic!("{error}"),
            }
        }
        data
    }
}

fn send_whole(socket: &mut TcpStream, wire: &[u8]) {
    socket.write_all(wire).unwrap();
}

/// TCP_NODELAY makes a segment of each.
fn send_bytewise(socket: &mut TcpStream, wire: &[u8]) {
    for byte in wire {
        socket.write_all(&[*byte]).unwrap();
    }
}

/// One accepted connection on a worker's runtime.
pub(in crate::tls::handshake) struct Accepting {
    pub(in crate::tls::handshake) socket: Rc<Socket>,
    pub(in crate::tls::handshake) deadline: Rc<Deadline>,
    deadlines: Deadlines,
    file_threads: FileThreads,
}

impl Accepting {
    async fn accept(&self, config: &Arc<ServerConfig>) -> Result<Handshaken, NoSession> {
        accept(&self.socket, &self.deadline, |_| Some(config.clone())).await
    }

    async fn failure(&self, config: &Arc<ServerConfig>) -> Error {
        match self.accept(config).await {
            Err(NoSession::Failed(error)) => error,
            Err(NoSession::PlainHttp) => panic!("plain HTTP"),
            Err(NoSession::NeverBegan) => panic!("never began"),
            Ok(_) => panic!("a session"),
        }
    }

    pub(in crate::tls::handshake) fn stream(&self, parts: TlsParts) -> (ReadHalf, WriteHalf) {
        let context = StreamContext {
            offload: Offload {
                policy: OffloadPolicy::Never,
                file_bytes_min: u64::MAX,
                http2_bytes_min: u64::MAX,
                answer_bytes_min: u64::MAX,
                sent_bytes_min: u64::MAX,
                tunnel_bytes_min: 0,
            },
            kernel: KernelTls::refused(TlsRefusal::NoModule),
            send_progress: Duration::from_secs(60),
            records_per_key_max: u64::MAX,
            file_threads: self.file_threads.attach().unwrap(),
        };
        let (socket, deadline) = (self.socket.clone(), self.deadline.clone());
        Stream::tls(socket, deadline, Rc::new(context), parts)
            .unwrap()
            .into_halves()
    }

    /// Lets the deadline pass at the worker's next turn.
    pub(in crate::tls::handshake) fn expire_soon(&self) {
        let deadlines = self.deadlines.clone();
        rt::spawn(async move {
            let mut now = Instant::now();
            // Armed anew or not: a minute a turn, and no turn more than the wait needs.
            for _ in 0..8 {
                rt::yield_turn().await;
                now += Duration::from_secs(60);
                deadlines.turn(now);
            }
        });
    }
}

pub(in crate::tls::handshake) fn on_each_driver(
    server: impl AsyncFn(Accepting),
    client: impl Fn(TcpStream) + Sync,
) {
    let Ring::Usable(setup) = ring() else {
        panic!("these tests need io_uring: {:?}", ring());
    };
    for driver in [Driver::Epoll, Driver::Ring(setup)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        theirs.set_nodelay(true).unwrap();
        theirs.set_read_timeout(Some(CLIENT_PATIENCE)).unwrap();
        theirs.set_write_timeout(Some(CLIENT_PATIENCE)).unwrap();
        ours.set_nonblocking(true).unwrap();
        std::thread::scope(|scope| {
            let client = &client;
            scope.spawn(move || client(theirs));
            rt::block_on(driver, async {
                let deadlines = Deadlines::new();
                let deadline = deadlines.register();
                deadline.arm(Phase::Handshake, Duration::from_secs(10));
                let accepting = Accepting {
                    socket: Rc::new(Socket::adopt(ours.into()).unwrap()),
                    deadline: Rc::new(deadline),
                    deadlines,
                    file_threads: FileThreads::start().unwrap(),
                };
                server(accepting).await;
                // Tasks that wait for what is gone now come to their end, and a ring closes a
                // descriptor by an operation of its own, which must be submitted.
                for _ in 0..8 {
                    rt::yield_turn().await;
                }
            })
            .unwrap();
        });
    }
}

pub(in crate::tls::handshake) async fn receive_exactly(
    read: &mut ReadHalf,
    bytes: usize,
) -> Vec<u8> {
    let mut into = BytesMut::new();
    while into.len() < bytes {
        let received = read.receive(&mut into).await.unwrap();
        assert!(matches!(received, Received::Data(_)), "{received:?}");
    }
    into.to_vec()
}

#[test]
fn a_session_is_made_of_whole_flights_and_of_single_bytes() {
    for version in VERSIONS {
        for send in [send_whole, send_bytewise] {
            let config = server_config(version, 1);
            let client = Arc::new(client_config(version));
            on_each_driver(
                async |accepting| {
                    let handshaken = accepting.accept(&config).await.ok().unwrap();
                    assert_eq!(handshaken.version, version.version);
                    assert_eq!(handshaken.server_name.as_deref(), Some("a.test"));
                    assert_eq!(handshaken.alpn.as_deref(), Some(&b"http/1.1"[..]));
                    let (mut read, mut write) = accepting.stream(handshaken.parts);
                    assert_eq!(receive_exactly(&mut read, 8).await, b"question");
                    write.send(&[IoSlice::new(b"answer")]).await.unwrap();
                    write.finish().await.unwrap();
                },
                |socket| {
                    let mut client = Client::new(socket, &client);
                    let last = client.handshake(send).unwrap();
                    send(&mut client.socket, &last);
                    client.tls.writer().write_all(b"question").unwrap();
                    let wire = client.written();
                    send(&mut client.socket, &wire);
                    assert_eq!(client.receive_exactly(6), b"answer");
                },
            );
        }
    }
}

/// What follows Finished in its segment is not for the handshake: all of it reaches the stream, in
/// order, under the right keys.
#[test]
fn what_follows_finished_in_its_segment_reaches_the_stream() {
    let config = server_config(&version::TLS13, 1);
    let client = Arc::new(client_config(&version::TLS13));
    for cut_short_by in [0, 1, 30] {
        let told = Signal::new();
        on_each_driver(
            async |accepting| {
                let handshaken = accepting.accept(&config).await.ok().unwrap();
                assert!(!handshaken.parts.received.is_empty());
                told.send();
                let (mut read, mut write) = accepting.stream(handshaken.parts);
                let expected = b"requestafter the update";
                assert_eq!(receive_exactly(&mut read, expected.len()).await, expected);
                write.send(&[IoSlice::new(b"answer")]).await.unwrap();
                write.finish().await.unwrap();
            },
            |socket| {
                let mut client = Client::new(socket, &client);
                let mut wire = client.handshake(send_whole).unwrap();
                client.tls.writer().write_all(b"request").unwrap();
                wire.extend(client.written());
                client.tls.refresh_traffic_keys().unwrap();
                wire.extend(client.written());
                client.tls.writer().write_all(b"after the update").unwrap();
                wire.extend(client.written());
                let (front, back) = wire.split_at(wire.len() - cut_short_by);
                client.socket.write_all(front).unwrap();
                told.wait();
                client.socket.write_all(back).unwrap();
                assert_eq!(client.receive_exactly(6), b"answer");
            },
        );
    }
}

/// Where the handshake's last bytes are sent and nothing follows, the idle connection holds none of its
/// buffers.
#[test]
fn an_idle_connection_keeps_no_buffer_of_its_handshake() {
    for version in VERSIONS {
        let config = server_config(version, 1);
        let client = Arc::new(client_config(version));
        let told = Signal::new();
        on_each_driver(
            async |accepting| {
                let TlsParts {
                    unsent, received, ..
                } = accepting.accept(&config).await.ok().unwrap().parts;
                assert_eq!((unsent.capacity(), received.capacity()), (0, 0));
                told.send();
            },
            |socket| {
                let mut client = Client::new(socket, &client);
                let last = client.handshake(send_whole).unwrap();
                send_whole(&mut client.socket, &last);
                told.wait();
            },
        );
    }
}

#[test]
fn a_ticket_resumes_a_session() {
    for (version, counter) in [
        (&version::TLS13, Counter::HandshakesTls13Resumed),
        (&version::TLS12, Counter::HandshakesTls12Resumed),
    ] {
        let config = server_config(version, 1);
        // One client over both drivers: the second connection resumes the first.
        let client = Arc::new(client_config(version));
        on_each_driver(
            async |accepting| {
                let handshaken = accepting.accept(&config).await.ok().unwrap();
                let (_read, mut write) = accepting.stream(handshaken.parts);
                write.send(&[IoSlice::new(b"answer")]).await.unwrap();
                write.finish().await.unwrap();
            },
            |socket| {
                let mut client = Client::new(socket, &client);
                let last = client.handshake(send_whole).unwrap();
                client.socket.write_all(&last).unwrap();
                // The tickets come before it.
                assert_eq!(client.receive_exactly(6), b"answer");
            },
        );
        assert_eq!(metrics::of_this_thread(counter), 1);
    }
}

/// `config` refuses the client, who is to blame and is told `alert`.
fn is_refused(
    config: &Arc<ServerConfig>,
    client: ClientConfig,
    side: Side,
    alert: AlertDescription,
) {
    let client = Arc::new(client);
    on_each_driver(
        async |accepting| {
            let error = accepting.failure(config).await;
            assert_eq!(
                (error.side, error.stage),
                (side, Stage::Handshake),
                "{error}"
            );
        },
        |socket| {
            let mut client = Client::new(socket, &client);
            let refusal = client.handshake(send_whole).unwrap_err();
            assert_eq!(refusal, TlsError::AlertReceived(alert));
        },
    );
}

#[test]
fn rfc7301_3_2_no_common_protocol_is_no_application_protocol() {
    for version in VERSIONS {
        let mut client = client_config(version);
        client.alpn_protocols = vec![b"foo".to_vec()];
        is_refused(
            &server_config(version, 1),
            client,
            Side::Client,
            AlertDescription::NoApplicationProtocol,
        );
    }
}

#[test]
fn no_common_version_is_protocol_version() {
    is_refused(
        &server_config(&version::TLS13, 1),
        client_config(&version::TLS12),
        Side::Client,
        AlertDescription::ProtocolVersion,
    );
}

/// A server that lacks what it needs is to blame itself.
#[test]
fn a_failure_of_ours_is_not_blamed_on_the_client() {
    #[derive(Debug)]
    struct NoCertificate;
    impl ResolvesServerCert for NoCertificate {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            None
        }
    }
    let mut config = ServerConfig::builder_with_protocol_versions(&[&version::TLS13])
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoCertificate));
    config.enable_secret_extraction = true;
    is_refused(
        &Arc::new(config),
        client_config(&version::TLS13),
        Side::Us,
        AlertDescription::AccessDenied,
    );
}

#[test]
fn rfc6066_3_a_name_that_no_site_has_is_unrecognized_name() {
    for (has_name, alert) in [
        (true, AlertDescription::UnrecognisedName),
        (false, AlertDescription::MissingExtension),
    ] {
        let mut client = client_config(&version::TLS13);
        client.enable_sni = has_name;
        let client = Arc::new(client);
        on_each_driver(
            async |accepting| {
                let chosen = |hello: &ClientHello| {
                    let name = has_name.then_some("a.test");
                    assert_eq!(hello.server_name.as_deref(), name);
                    None
                };
                let failed = accept(&accepting.socket, &accepting.deadline, chosen).await;
                let Err(NoSession::Failed(error)) = failed else {
                    panic!("not refused");
                };
                assert_eq!(error.side, Side::Client);
            },
            |socket| {
                let mut client = Client::new(socket, &client);
                let refusal = client.handshake(send_whole).unwrap_err();
                assert_eq!(refusal, TlsError::AlertReceived(alert));
            },
        );
    }
}

#[test]
fn what_is_not_tls_is_told_apart() {
    let config = server_config(&version::TLS13, 1);
    for request in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"OPTIONS * HTTP/1.0\r\n\r\n",
    ] {
        on_each_driver(
            async |accepting| {
                let outcome = accepting.accept(&config).await;
                assert!(matches!(outcome, Err(NoSession::PlainHttp)));
            },
            |mut socket| socket.write_all(request).unwrap(),
        );
    }
    for garbage in [&[0xff; 100][..], &[0; 100], b"SSH-2.0-client\r\n"] {
        on_each_driver(
            async |accepting| {
                let error = accepting.failure(&config).await;
                assert_eq!(error.side, Side::Client);
                assert!(
                    matches!(error.cause, Cause::Protocol(_) | Cause::Record(_)),
                    "{error}"
                );
            },
            |mut socket| socket.write_all(garbage).unwrap(),
        );
    }
}

#[test]
fn a_client_that_leaves_is_told_apart_by_what_it_has_sent() {
    let config = server_config(&version::TLS13, 1);
    on_each_driver(
        async |accepting| {
            let outcome = accepting.accept(&config).await;
            assert!(matches!(outcome, Err(NoSession::NeverBegan)));
        },
        |socket| socket.shutdown(Shutdown::Write).unwrap(),
    );
    let client = Arc::new(client_config(&version::TLS13));
    // Within a header, within the ClientHello, and after it.
    for sent in [3, 60, usize::MAX] {
        on_each_driver(
            async |accepting| {
                let error = accepting.failure(&config).await;
                assert_eq!(error.side, Side::Client);
                assert!(matches!(error.cause, Cause::Truncated), "{error}");
            },
            |socket| {
                let mut client = Client::new(socket, &client);
                let hello = client.written();
                client
                    .socket
                    .write_all(&hello[..sent.min(hello.len())])
                    .unwrap();
                client.socket.shutdown(Shutdown::Write).unwrap();
                drop(client.socket.read_to_end(&mut Vec::new()));
            },
        );
    }
}

#[test]
fn a_silent_client_is_ended_by_the_deadline() {
    let config = server_config(&version::TLS13, 1);
    let client = Arc::new(client_config(&version::TLS13));
    // Silent from the start, within the ClientHello, and after the server's flight.
    for sent in [0, 60, usize::MAX] {
        let timeouts = metrics::of_this_thread(Counter::TimeoutsHandshake);
        let told = Signal::new();
        on_each_driver(
            async |accepting| {
                told.wait();
                accepting.expire_soon();
                let error = accepting.failure(&config).await;
                assert_eq!(error.side, Side::Client);
                assert!(
                    matches!(error.cause, Cause::Timeout("timeouts.handshake_ms")),
                    "{error}"
                );
            },
            |socket| {
                let mut client = Client::new(socket, &client);
                let hello = client.written();
                client
                    .socket
                    .write_all(&hello[..sent.min(hello.len())])
                    .unwrap();
                told.send();
                drop(client.socket.read_to_end(&mut Vec::new()));
            },
        );
        assert_eq!(
            metrics::of_this_thread(Counter::TimeoutsHandshake) - timeouts,
            2
        );
    }
}

/// A chain larger than the socket's buffers, and a client that takes none of it in.
#[test]
fn a_client_that_never_reads_is_ended_by_the_deadline() {
    let config = server_config(&version::TLS13, 10_000);
    let client = Arc::new(client_config(&version::TLS13));
    let done = Signal::new();
    on_each_driver(
        async |accepting| {
            accepting.socket.readable().await.unwrap();
            accepting.expire_soon();
            let error = accepting.failure(&config).await;
            assert!(matches!(error.cause, Cause::Timeout(_)), "{error}");
            assert_eq!(error.side, Side::Client);
            done.send();
        },
        |socket| {
            let mut client = Client::new(socket, &client);
            let hello = client.written();
            client.socket.write_all(&hello).unwrap();
            done.wait();
        },
    );
}

#[test]
fn a_client_hello_without_end_is_refused() {
    let config = server_config(&version::TLS13, 1);
    on_each_driver(
        async |accepting| {
            let error = accepting.failure(&config).await;
            assert_eq!(error.side, Side::Client);
            // What the client still sends must not reset the connection over the alert.
            accepting.socket.shutdown(Shutdown::Write);
            let mut scratch = vec![0; 64 * 1024];
            loop {
                match sys::socket::receive(accepting.socket.descriptor(), &mut scratch) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        accepting.socket.readable().await.unwrap();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        },
        |mut socket| {
            // A handshake message of 2^24 - 1 bytes, in full records.
            let mut record = vec![0; 5 + 16_384];
            record[..5].copy_from_slice(&[22, 3, 1, 0x40, 0]);
            record[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
            socket.write_all(&record).unwrap();
            record[5..9].fill(0);
            for _ in 0..2 * HANDSHAKE_BYTES_MAX / record.len() {
                socket.write_all(&record).unwrap();
            }
            socket.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len(), 7, "{answer:?}");
            assert_eq!(answer[..6], [21, 3, 3, 0, 2, 2]);
        },
    );
}

/// A client that does not like our certificate says so: its doing, and nothing is answered.
#[test]
fn a_clients_alert_ends_the_handshake() {
    for version in VERSIONS {
        let config = server_config(version, 1);
        let stranger = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(stranger.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Arc::new(client);
        on_each_driver(
            async |accepting| {
                let error = accepting.failure(&config).await;
                assert_eq!(error.side, Side::Client);
                assert!(
                    matches!(error.cause, Cause::Tls(TlsError::AlertReceived(_))),
                    "{error}"
                );
            },
            |socket| {
                let mut client = Client::new(socket, &client);
                let refusal = client.handshake(send_whole).unwrap_err();
                assert!(
                    matches!(refusal, TlsError::InvalidCertificate(_)),
                    "{refusal}"
                );
                let alert = client.written();
                client.socket.write_all(&alert).unwrap();
                client.socket.shutdown(Shutdown::Write).unwrap();
                drop(client.socket.read_to_end(&mut Vec::new()));
            },
        );
    }
}

/// One record of the handshake changed on its way: told as decrypt_error or bad_record_mac.
#[test]
fn a_finished_that_was_tampered_with_is_refused() {
    for version in VERSIONS {
        let config = server_config(version, 1);
        let client = Arc::new(client_config(version));
        on_each_driver(
            async |accepting| {
                let error = accepting.failure(&config).await;
                assert_eq!(error.side, Side::Client);
                assert!(matches!(error.cause, Cause::Tls(_)), "{error}");
            },
            |socket| {
                let mut client = Client::new(socket, &client);
                let hello = client.written();
                client.socket.write_all(&hello).unwrap();
                let mut last = Vec::new();
                while last.is_empty() {
                    client.receive().unwrap();
                    last = client.written();
                }
                *last.last_mut().unwrap() ^= 1;
                client.socket.write_all(&last).unwrap();
                client.socket.shutdown(Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                client.socket.read_to_end(&mut answer).unwrap();
                assert!(!answer.is_empty(), "no alert");
            },
        );
    }
}

/// Longer than any answer takes on a busy machine.
pub(in crate::tls::handshake) const CLIENT_PATIENCE: Duration = Duration::from_secs(60);
