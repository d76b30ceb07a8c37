//! Servers behind this one that speak TLS: reached by routes, tunnels and checks, and refused when
//! their certificates are not what is wanted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;

use rustls::AlertDescription;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::start_nginx;
use crate::support::Policy;
use crate::support::certificates::{self, KeyKind, Leaf};
use crate::support::client::{Client, Ending, Manner, TLS13};
use crate::support::files::{KIB, MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::kernel::{KernelTls, TlsStatistics, kernel_tls};
use crate::support::server::{Server, Setup};
use crate::support::wait::{PATIENCE, until_some};

for_each_policy!(
    requests_are_passed_on_over_tls,
    a_tunnel_is_encrypted_again,
    an_upstreams_keys_change_in_a_tunnel,
    an_upstreams_cut_is_no_end,
);

/// A group whose one server at `address` speaks TLS, with lines for `[upstream.tls]`.
fn group(address: &str, tls: &str) -> String {
    format!(
        "[[upstream]]\nname = \"app\"\neject_failures = 0\n\
         [[upstream.server]]\naddress = \"{address}\"\n[upstream.tls]\n{tls}\n"
    )
}

/// What is taken: the tests' own authority, for "localhost".
const TRUSTED: &str = "ca = \"authority.pem\"\nserver_name = \"localhost\"";

fn passing_on(policy: Policy, address: SocketAddr, tls: &str) -> Setup {
    Setup::passing_on(policy).text(&group(&format!("tcp://{address}"), tls))
}

fn tunnel(policy: Policy, address: SocketAddr) -> Setup {
    Setup::new(policy)
        .workers(1)
        .site_with(&["localhost"], KeyKind::P256, "", "tunnel = \"app\"")
        .text(&group(&format!("tcp://{address}"), TRUSTED))
}

/// Portcullis behind Portcullis: one connection carries all requests, and the next one resumes.
fn requests_are_passed_on_over_tls(policy: Policy) {
    let inner = Setup::new(policy).start();
    inner.write_content("1k", KIB);
    inner.write_content("4m", 4 * MIB);
    let outer = passing_on(policy, inner.address, TRUSTED)
        .table("limits", "body_bytes_max = 10000000")
        .start();
    let mut client = Client::connect(&outer);
    for _ in 0..3 {
        assert_same_bytes(&client.get("/1k").body, content(KIB), "/1k");
        assert_same_bytes(&client.get("/4m").body, content(4 * MIB), "/4m");
    }
    let counters = outer.counters();
    assert_eq!(counters["upstream_handshakes_full"], 1);
    assert_eq!(counters["upstream_connects"], 1);
    assert_eq!(counters["upstream_failures"], 0);
    // Two at once need two connections: the first answer is more than all socket buffers on its way hold,
    // so its connection is not free when the second request comes.
    inner.write_content("large", MORE_THAN_BUFFERED);
    let slow = Manner {
        receive_buffer_bytes: Some(64 * KIB),
        ..Manner::default()
    };
    let mut slow = slow.connect(&outer);
    slow.ask("/large");
    slow.wait_until_full();
    assert_same_bytes(&client.get("/1k").body, content(KIB), "/1k");
    let large = slow.read_response().body;
    assert_same_bytes(&large, content(MORE_THAN_BUFFERED), "/large");
    let counters = outer.counters();
    assert_eq!(counters["upstream_handshakes_full"], 1);
    assert_eq!(counters["upstream_handshakes_resumed"], 1);
    assert_eq!(inner.counters()["handshakes_tls13_resumed"], 1);
    assert_eq!(inner.counters()["errors_client"], 0);
}

/// Both legs are in the kernel, where it can have them.
fn a_tunnel_is_encrypted_again(policy: Policy) {
    const BYTES: usize = 16 * MIB;
    let inner = Setup::new(Policy::Never).start();
    inner.write_content("16m", BYTES);
    let outer = tunnel(policy, inner.address).start();
    let kernel = kernel_tls();
    let before = TlsStatistics::read();
    let mut client = Client::connect(&outer);
    assert_same_bytes(&client.get("/16m").body, content(BYTES), "/16m");
    client.close_notify();
    assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    let counters = outer.counters();
    assert_eq!(counters["tunnels"], 1);
    assert_eq!(counters["tunnels_aborted"], 0);
    assert_eq!(counters["upstream_handshakes_full"], 1);
    if policy != Policy::Never && kernel != KernelTls::Absent {
        let after = TlsStatistics::read();
        let directions = if policy == Policy::Always { 2 } else { 1 };
        assert_eq!(after.since(&before, "TlsTxSw"), directions);
        assert_eq!(after.since(&before, "TlsRxSw"), directions);
        let spliced = counters["tunnel_bytes_spliced"];
        assert!(spliced > BYTES as u64 - 2 * MIB as u64, "only {spliced}");
    }
}

/// A server that speaks TLS, which the test plays.
struct TlsUpstream(TcpListener);

impl TlsUpstream {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// Plays `part` on the next connection, whose handshake is done with `leaf`.
    fn play<T: Send + 'static>(
        self,
        leaf: &Leaf,
        part: impl FnOnce(Session) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let tls = rustls::ServerConnection::new(config.into()).unwrap();
        std::thread::spawn(move || {
            let (socket, _) = self.0.accept().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.set_write_timeout(Some(PATIENCE)).unwrap();
            part(Session { tls, socket })
        })
    }
}

struct Session {
    tls: rustls::ServerConnection,
    socket: TcpStream,
}

impl Session {
    fn stream(&mut self) -> rustls::Stream<'_, rustls::ServerConnection, TcpStream> {
        rustls::Stream::new(&mut self.tls, &mut self.socket)
    }

    fn read_exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.stream().read_exact(&mut data).unwrap();
        data
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(32 * KIB) {
            self.stream().write_all(part).unwrap();
        }
        self.stream().flush().unwrap();
    }
}

/// The upstream updates its key, with ours asked for too, between bytes both ways.
fn an_upstreams_keys_change_in_a_tunnel(policy: Policy) {
    let upstream = TlsUpstream::new();
    let server = tunnel(policy, upstream.address())
        .table("offload", "tunnel_bytes_min = 0")
        .start();
    let leaf = certificates::leaf(KeyKind::P256, &["localhost"]);
    let follows = policy == Policy::Never || kernel_tls() != KernelTls::WithoutRekey;
    let part = upstream.play(&leaf, move |mut session| {
        assert_eq!(session.read_exactly(4), b"ping");
        for _ in 0..3 {
            session.write(content(100 * KIB));
            session.tls.refresh_traffic_keys().unwrap();
            session.write(b"after");
            if !follows {
                // The kernel cannot: the tunnel ends, and not as if it were whole.
                return session.stream().read(&mut [0; 1]).is_err();
            }
            assert_eq!(session.read_exactly(4), b"pong");
        }
        session.tls.send_close_notify();
        session.stream().flush().unwrap();
        true
    });
    let mut client = tls13().connect(&server);
    client.send(b"ping");
    for _ in 0..3 {
        if !follows {
            let ending = client.read_to_ending();
            assert_eq!(ending, Ending::Alert(AlertDescription::InternalError));
            break;
        }
        let mut received = Vec::new();
        client.read_into(&mut received, 100 * KIB + 5);
        assert_same_bytes(&received[..100 * KIB], content(100 * KIB), "down");
        assert_eq!(&received[100 * KIB..], b"after");
        client.send(b"pong");
    }
    if follows {
        assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    }
    assert!(part.join().unwrap());
}

fn tls13() -> Manner {
    Manner {
        versions: TLS13,
        ..Manner::default()
    }
}

/// RFC 8446 6.1: a FIN without close_notify may be anybody's.
fn an_upstreams_cut_is_no_end(policy: Policy) {
    let upstream = TlsUpstream::new();
    let server = tunnel(policy, upstream.address()).start();
    let leaf = certificates::leaf(KeyKind::P256, &["localhost"]);
    let (arrived, waiting) = std::sync::mpsc::channel();
    let part = upstream.play(&leaf, move |mut session| {
        session.write(b"half of it");
        waiting.recv().unwrap();
        session.socket.shutdown(std::net::Shutdown::Write).unwrap();
        drop(session.socket.read(&mut [0; 1]));
    });
    let mut client = tls13().connect(&server);
    let mut said = Vec::new();
    client.read_into(&mut said, 10);
    assert_eq!(said, b"half of it");
    arrived.send(()).unwrap();
    let ending = client.read_to_ending();
    assert_eq!(ending, Ending::Alert(AlertDescription::InternalError));
    part.join().unwrap();
}

/// What the client hears, and what is counted, when the certificate is not what is wanted.
#[test]
fn certificates_that_are_not_wanted_are_502_and_counted_by_reason() {
    let good = certificates::leaf(KeyKind::P256, &["localhost"]);
    let expired = certificates::expired_leaf(&["localhost"]);
    let of_a_client = certificates::client_leaf("localhost");
    let misnamed = "ca = \"authority.pem\"\nserver_name = \"other.test\"";
    let untrusted = "server_name = \"localhost\"";
    for (leaf, tls, counter) in [
        (&expired, TRUSTED, "upstream_certificates_expired"),
        (&good, misnamed, "upstream_certificates_misnamed"),
        (&good, untrusted, "upstream_certificates_untrusted"),
        (&of_a_client, TRUSTED, "upstream_certificates_invalid"),
    ] {
        let upstream = TlsUpstream::new();
        let server = passing_on(Policy::Auto, upstream.address(), tls).start();
        let before = server.holdings();
        let part = upstream.play(leaf, |mut session| {
            session.stream().read(&mut [0; 1]).unwrap_err()
        });
        let mut client = Client::connect(&server);
        assert_eq!(client.get("/").status(), 502, "{counter}");
        let alert = part.join().unwrap();
        assert!(matches!(Ending::of(&alert), Ending::Alert(_)), "{alert}");
        let counters = server.counters();
        assert_eq!(counters[counter], 1, "{counter}");
        assert_eq!(counters["upstream_handshakes_failed"], 1, "{counter}");
        assert_eq!(counters["upstream_failures"], 1, "{counter}");
        drop(client);
        server.wait_for_holdings(before);
    }
}

#[test]
fn an_upstream_that_speaks_no_tls_or_stalls_in_it_is_502_and_504() {
    for (answer, status) in [(&b"HTTP/1.1 400 no\r\n\r\n"[..], 502), (b"", 504)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Setup::passing_on(Policy::Auto)
            .text(
                &group(&format!("tcp://{address}"), TRUSTED)
                    .replace("eject_failures = 0", "eject_failures = 0\nconnect_ms = 500"),
            )
            .start();
        let before = server.holdings();
        let part = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            if !answer.is_empty() {
                socket.write_all(answer).unwrap();
            }
            drop(socket.read_to_end(&mut Vec::new()));
        });
        let mut client = Client::connect(&server);
        assert_eq!(client.get("/").status(), status);
        part.join().unwrap();
        assert_eq!(server.counters()["upstream_handshakes_failed"], 1);
        drop(client);
        server.wait_for_holdings(before);
    }
}

/// nginx asks for our certificate, is told its own name, and resumes.
#[test]
fn nginx_gets_our_certificate_and_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let leaf = certificates::leaf(KeyKind::Rsa, &["app.test"]);
    let own = certificates::client_leaf("portcullis.test");
    for (name, text) in [
        ("chain.pem", &leaf.chain),
        ("key.pem", &leaf.key),
        ("own.pem", &own.chain),
        ("own.key", &own.key),
        ("authority.pem", &certificates::authority()),
    ] {
        std::fs::write(path(name), text).unwrap();
    }
    let socket = path("nginx.sock");
    let http = format!(
        "server {{ listen unix:{} ssl; ssl_certificate chain.pem; ssl_certificate_key key.pem;\n\
         ssl_client_certificate authority.pem; ssl_verify_client on; ssl_protocols TLSv1.2 TLSv1.3;\n\
         ssl_session_cache shared:s:1m; keepalive_timeout 0;\n\
         return 200 \"$ssl_server_name $ssl_protocol $ssl_session_reused $ssl_client_verify\"; }}",
        socket.display()
    );
    let _nginx = start_nginx(folder.path(), &socket, &http);
    let tls = |folder: &Path| {
        let path = |name: &str| folder.join(name).display().to_string();
        format!(
            "ca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\nserver_name = \"app.test\"\n",
            path("authority.pem"),
            path("own.pem"),
            path("own.key")
        )
    };
    let health = "[upstream.health]\nkind = \"http\"\ninterval_ms = 250\nrise = 1\nfall = 1\n";
    let address = format!("unix:{}", socket.display());
    let start = |tls: &str| -> Server {
        Setup::passing_on(Policy::Auto)
            .text(&(group(&address, tls) + health))
            .start()
    };
    let server = start(&tls(folder.path()));
    let mut client = Client::connect(&server);
    let said = until_some("nginx resumes", || {
        let answer = client.get("/");
        assert_eq!(answer.status(), 200, "{}", answer.head);
        let said = String::from_utf8(answer.body).unwrap();
        said.contains(" r ").then_some(said)
    });
    assert_eq!(said, "app.test TLSv1.3 r SUCCESS");
    assert_eq!(server.counters()["upstream_checks_failed"], 0);

    // A check does its handshake too: without our certificate nginx answers 400, by which it is down.
    let unknown = format!(
        "ca = {:?}\nserver_name = \"app.test\"\n",
        path("authority.pem")
    );
    let server = start(&unknown);
    server.wait_for_counter("upstream_servers_down", 1);
    assert!(server.counters()["upstream_checks_failed"] > 0);
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/").status(), 503);
}

/// Each of the two sending buffers may hold 4 MiB (tcp_wmem), unless a machine was tuned; the receiving
/// one between them grows only while it is read.
const MORE_THAN_BUFFERED: usize = 32 * MIB;
