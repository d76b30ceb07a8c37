//! The PROXY protocol: what proxies in front say of a connection, what servers behind are told, and
//! HAProxy on either side.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use bytes::BytesMut;
use portcullis::proto::proxy_header::{ProxyHeader, VALUE_ALPN, VALUE_AUTHORITY, VALUE_TLS, Value};

use super::backend::Backend;
use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Client, Ending, Manner, TLS13};
use crate::support::process::{CURL, HAPROXY, Running};
use crate::support::server::{Server, Setup};
use crate::support::wait::{PATIENCE, until_some};

const BEHIND: &str = "proxy_protocol = true\nproxy_protocol_from = [\"127.0.0.1\"]";

/// A server behind a proxy, which passes everything on to `backend`.
fn behind(backend: &Backend, listener: &str) -> Setup {
    super::passing_on(Policy::Auto, backend, "").listener(listener)
}

fn header(source: &str, version: u8) -> Vec<u8> {
    let header = ProxyHeader::new(source.parse().unwrap(), "198.51.100.1:443".parse().unwrap());
    let mut bytes = Vec::new();
    match version {
        1 => header.encode_1(&mut bytes),
        _ => header.encode_2(&mut bytes, true),
    }
    bytes
}

/// A connection over which `header` is sent first, `step` bytes at a time.
fn connect(server: &Server, header: &[u8], step: usize) -> std::io::Result<Client> {
    let mut socket = Manner::default().connect_tcp(server.address);
    for part in header.chunks(step) {
        socket.write_all(part)?;
    }
    Manner::default().establish(socket)
}

fn forwarded_for(client: &mut Client) -> String {
    let seen = String::from_utf8(client.get("/head").body).unwrap();
    let field = seen
        .lines()
        .find_map(|line| line.strip_prefix("x-forwarded-for: "));
    field.unwrap_or_default().to_owned()
}

#[test]
fn a_trusted_proxy_says_whose_connection_it_is() {
    let backend = Backend::start();
    let server = behind(&backend, BEHIND)
        .table("access_log", "path = \"access.log\"")
        .start();
    for (source, version, step) in [
        ("203.0.113.7:4711", 1, 1),
        ("203.0.113.8:4711", 2, 1),
        ("203.0.113.9:4711", 2, 5000),
        ("[2001:db8::1]:4711", 2, 17),
    ] {
        let mut client = connect(&server, &header(source, version), step).unwrap();
        let address: SocketAddr = source.parse().unwrap();
        assert_eq!(forwarded_for(&mut client), address.ip().to_string());
    }
    until_some("the log has the last client", || {
        let log = std::fs::read_to_string(server.path("access.log")).unwrap_or_default();
        log.contains("2001:db8::1 - ").then_some(())
    });
    // A proxy's own connection (its check) is from where it comes.
    let mut local = Vec::new();
    ProxyHeader::default().encode_2(&mut local, false);
    let mut client = connect(&server, &local, 5000).unwrap();
    assert_eq!(forwarded_for(&mut client), "127.0.0.1");
    assert_eq!(server.counters()["proxy_headers"], 5);
}

/// The header and the ClientHello in one segment.
#[test]
fn what_comes_behind_the_header_is_not_lost() {
    let backend = Backend::start();
    let server = behind(&backend, BEHIND).start();
    let manner = Manner::default();
    let mut tls =
        rustls::ClientConnection::new(manner.config(), "localhost".try_into().unwrap()).unwrap();
    let mut first = header("203.0.113.7:4711", 2);
    tls.write_tls(&mut first).unwrap();
    let mut socket = manner.connect_tcp(server.address);
    socket.write_all(&first).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).unwrap();
    }
    let mut client = Client { tls, socket };
    assert_eq!(forwarded_for(&mut client), "203.0.113.7");
}

#[test]
fn a_redirect_stands_behind_a_proxy_too() {
    let server = Setup::new(Policy::Auto)
        .listener(&format!("service = \"redirect\"\n{BEHIND}"))
        .text("[[listener]]\naddress = \"127.0.0.2:0\"\n")
        .start();
    let address = server.announced("listening on http://");
    let address = address.split_whitespace().next().unwrap().parse().unwrap();
    let mut socket = Manner::default().connect_tcp(address);
    let mut bytes = header("203.0.113.7:4711", 2);
    bytes.extend_from_slice(b"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(&bytes).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
}

#[test]
fn nobody_else_is_believed() {
    let backend = Backend::start();
    let elsewhere = "proxy_protocol = true\nproxy_protocol_from = [\"192.0.2.0/24\"]";
    let refusing = behind(&backend, elsewhere).start();
    assert!(connect(&refusing, b"", 1).is_err());
    assert!(connect(&refusing, &header("203.0.113.7:1", 1), 100).is_err());
    refusing.wait_for_counter("refused_no_proxy", 2);
    let plain = format!("{elsewhere}\nproxy_protocol_others = \"plain\"");
    let taking = behind(&backend, &plain).start();
    let mut client = connect(&taking, b"", 1).unwrap();
    assert_eq!(forwarded_for(&mut client), "127.0.0.1");
    assert!(connect(&taking, &header("203.0.113.7:1", 1), 100).is_err());
    assert_eq!(taking.counters()["proxy_headers"], 0);
}

#[test]
fn headers_that_are_wrong_late_or_cut_end_the_connection() {
    let backend = Backend::start();
    let server = behind(&backend, BEHIND)
        .table("timeouts", "handshake_ms = 500")
        .start();
    let before = server.holdings();
    // A ClientHello without a header.
    assert!(connect(&server, b"", 1).is_err());
    let mut wrong = header("203.0.113.7:1", 2);
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    for (bytes, ends) in [
        (&b"PROXY TCP4 nonsense\r\n"[..], false),
        (&wrong, false),
        (b"PROXY", true),
        (b"PRO", false),
    ] {
        let mut socket = Manner::default().connect_tcp(server.address);
        socket.write_all(bytes).unwrap();
        if ends {
            socket.shutdown(std::net::Shutdown::Write).unwrap();
        }
        // Closed, the last one when its time is over.
        match socket.read(&mut [0; 16]) {
            Ok(0) => {}
            other => assert_eq!(Ending::of(&other.unwrap_err()), Ending::Reset),
        }
    }
    server.wait_for_counter("proxy_headers_refused", 5);
    server.wait_for_holdings(before);
}

#[test]
fn the_address_that_is_told_is_the_one_that_is_limited() {
    let backend = Backend::start();
    let server = behind(&backend, BEHIND)
        .table("limits", "connections_per_address_max = 1")
        .start();
    let first = connect(&server, &header("203.0.113.7:1", 2), 100).unwrap();
    let _second = connect(&server, &header("203.0.113.8:1", 2), 100).unwrap();
    assert!(connect(&server, &header("203.0.113.7:2", 2), 100).is_err());
    server.wait_for_counter("refused_address_full", 1);
    drop(first);
    server.wait_for_counter("connections_closed", 2);
    connect(&server, &header("203.0.113.7:3", 2), 100).unwrap();
}

/// A group of one server that is told.
pub(crate) fn told(address: SocketAddr, version: &str) -> String {
    format!(
        "[[upstream]]\nname = \"app\"\nsend_proxy_protocol = \"{version}\"\n\
         [[upstream.server]]\naddress = \"tcp://{address}\"\n"
    )
}

pub(crate) fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The header that a connection begins with, and what came behind it.
pub(crate) fn read_header(socket: &mut TcpStream) -> (ProxyHeader, BytesMut) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut input = BytesMut::new();
    loop {
        let mut buffer = [0; 512];
        let count = socket.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "ended in {input:?}");
        input.extend_from_slice(&buffer[..count]);
        if let Some(header) = ProxyHeader::decode(&mut input).unwrap() {
            return (header, input);
        }
    }
}

pub(crate) fn value(header: &ProxyHeader, kind: u8) -> Option<&[u8]> {
    let mut values = header.values.iter();
    values
        .find(|value: &&Value| value.kind == kind)
        .map(|value| &value.content[..])
}

#[test]
fn a_tunnels_server_is_told_of_the_session() {
    let (listener, address) = listen();
    let server = Setup::new(Policy::Auto)
        .site_with(
            &["localhost"],
            KeyKind::P256,
            "",
            "tunnel = \"app\"\nalpn = [\"mqtt\"]",
        )
        .text(&told(address, "v2"))
        .start();
    let manner = Manner {
        versions: TLS13,
        protocols: &["mqtt"],
        ..Manner::default()
    };
    let mut client = manner.connect(&server);
    client.send(b"hello");
    let (mut socket, _) = listener.accept().unwrap();
    let (header, mut rest) = read_header(&mut socket);
    let addresses = header.addresses.unwrap();
    assert_eq!(addresses.source, client.socket.local_addr().unwrap());
    assert_eq!(addresses.destination, server.address);
    assert_eq!(value(&header, VALUE_ALPN), Some(&b"mqtt"[..]));
    assert_eq!(value(&header, VALUE_AUTHORITY), Some(&b"localhost"[..]));
    let session = value(&header, VALUE_TLS).unwrap();
    let session = String::from_utf8_lossy(session);
    assert!(session.contains("TLSv1.3"), "{session:?}");
    assert!(session.contains("TLS_AES_"), "{session:?}");
    while rest.len() < 5 {
        let mut buffer = [0; 16];
        let count = socket.read(&mut buffer).unwrap();
        rest.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(&rest[..], b"hello");
}

#[test]
fn a_server_that_terminates_itself_is_told_the_name() {
    let (listener, address) = listen();
    let server = Setup::new(Policy::Auto)
        .site(&["other.test"], KeyKind::P256, "root")
        .text(&told(address, "v2"))
        .text("[[passthrough]]\nnames = [\"raw.test\"]\nupstream = \"app\"\n")
        .start();
    let manner = Manner {
        name: "raw.test",
        ..Manner::default()
    };
    let hello = manner.client_hello();
    let mut client = manner.connect_tcp(server.address);
    client.write_all(&hello).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    let (header, mut rest) = read_header(&mut socket);
    assert_eq!(value(&header, VALUE_AUTHORITY), Some(&b"raw.test"[..]));
    assert_eq!(value(&header, VALUE_TLS), None);
    while rest.len() < hello.len() {
        let mut buffer = [0; 4096];
        let count = socket.read(&mut buffer).unwrap();
        rest.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(&rest[..], &hello[..]);
}

/// What a server was told of a connection is true of one client only.
#[test]
fn requests_have_a_connection_each_and_checks_are_nobodys() {
    let (listener, address) = listen();
    let server = Setup::passing_on(Policy::Auto)
        .text(&told(address, "v1"))
        .text("[upstream.health]\ninterval_ms = 60000\n")
        .start();
    let (mut check, _) = listener.accept().unwrap();
    let mut said = String::new();
    check.read_to_string(&mut said).unwrap();
    assert_eq!(said, "PROXY UNKNOWN\r\n");
    let mut client = Client::connect(&server);
    for _ in 0..2 {
        client.ask("/");
        let (mut socket, _) = listener.accept().unwrap();
        let (header, rest) = read_header(&mut socket);
        let source = header.addresses.unwrap().source;
        assert_eq!(source, client.socket.local_addr().unwrap());
        assert!(rest.is_empty() || rest.starts_with(b"GET / HTTP/1.1\r\n"));
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .unwrap();
        assert_eq!(client.read_response().body, b"ok");
    }
    assert_eq!(server.counters()["upstream_connections_reused"], 0);
}

/// HAProxy with this configuration; it listens at `address`.
fn start_haproxy(folder: &std::path::Path, address: SocketAddr, config: &str) -> Running {
    let file = folder.join("haproxy.cfg");
    let common = "global\n  maxconn 100\ndefaults\n  timeout connect 60s\n  timeout client 60s\n  \
                  timeout server 60s\n";
    std::fs::write(&file, format!("{common}{config}")).unwrap();
    let mut command = HAPROXY.command();
    command.args(["-db", "-f"]).arg(&file);
    let running = HAPROXY.start(&mut command);
    until_some("HAProxy listens", || TcpStream::connect(address).ok());
    running
}

/// An address that nobody else is about to use: each test has its own.
fn free(ip: &str) -> SocketAddr {
    let listener = TcpListener::bind(format!("{ip}:0")).unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn haproxy_stands_in_front() {
    let backend = Backend::start();
    let server = behind(&backend, BEHIND).start();
    for (address, send) in [
        (free("127.0.0.31"), "send-proxy"),
        (free("127.0.0.32"), "send-proxy-v2"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "frontend f\n  mode tcp\n  bind {address}\n  default_backend b\n\
             backend b\n  mode tcp\n  server s {} {send}\n",
            server.address
        );
        let _haproxy = start_haproxy(folder.path(), address, &config);
        let resolve = format!("localhost:{}:{}", address.port(), address.ip());
        let url = format!("https://localhost:{}/head", address.port());
        let said = CURL
            .run([
                "-sS",
                "--http1.1",
                "--interface",
                "127.0.0.9",
                "--cacert",
                &server.authority(),
                "--resolve",
                &resolve,
                &url,
            ])
            .success()
            .text();
        assert!(
            said.contains("\r\nx-forwarded-for: 127.0.0.9\r\n"),
            "{said}"
        );
    }
}

#[test]
fn haproxy_stands_behind() {
    for (address, version) in [(free("127.0.0.33"), "v1"), (free("127.0.0.34"), "v2")] {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "frontend f\n  mode http\n  bind {address} accept-proxy\n  \
             http-request return status 200 content-type text/plain lf-string \
             \"%[src] %[dst_port] %[fc_pp_authority]\"\n"
        );
        let _haproxy = start_haproxy(folder.path(), address, &config);
        let server = Setup::new(Policy::Auto)
            .site_with(
                &["localhost"],
                KeyKind::P256,
                "root",
                "[[site.route]]\nprefix = \"/\"\nupstream = \"app\"",
            )
            .text(&told(address, version))
            .start();
        let mut client = Client::connect(&server);
        let said = String::from_utf8(client.get("/").body).unwrap();
        let name = if version == "v2" { "localhost" } else { "" };
        assert_eq!(said, format!("127.0.0.1 {} {name}", server.address.port()));
    }
}

#[test]
fn curl_speaks_it_too() {
    let backend = Backend::start();
    let server = behind(&backend, BEHIND).start();
    let said = CURL
        .run([
            "-sS",
            "--haproxy-protocol",
            "--cacert",
            &server.authority(),
            &server.url("/hello"),
        ])
        .success()
        .text();
    assert_eq!(said, "hello");
    assert_eq!(server.counters()["proxy_headers"], 1);
}
