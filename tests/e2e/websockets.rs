//! WebSockets over HTTP/2 (RFC 8441), to servers of both versions.

use portcullis::proto::h2::ErrorCode;
use portcullis::proto::h2::frame::put_rst_stream;

use crate::proxying::backend::Backend;
use crate::proxying::http2_backend::Http2Backend;
use crate::support::Policy;
use crate::support::client::{Client, Ending, Manner, field, status};
use crate::support::files::{KIB, MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::http2::{Http2, frame};
use crate::support::process::{CHROMIUM, DEBIAN_PYTHON, Running, quiet_chromium};
use crate::support::server::{Server, Setup};
use crate::support::wait::until_equal;

for_each_policy!(through_both_versions);

const CONNECT: [(&str, &str); 4] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":path", "/socket"),
    ("sec-websocket-version", "13"),
];

fn passing_on(policy: Policy, address: &str, http: &str) -> Server {
    let upstream = format!(
        "name = \"app\"\neject_failures = 0\n[[upstream.server]]\naddress = \"{address}\"\n\
         [upstream.http]\n{http}"
    );
    Setup::new(policy)
        .workers(1)
        .table("[upstream]", &upstream)
        .table("[site.route]", "prefix = \"/\"\nupstream = \"app\"")
        .start()
}

fn foreign_server() -> (Running, String) {
    let script = format!(
        "{}/tests/e2e/foreign/websocket_server.py",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut backend = DEBIAN_PYTHON.start(DEBIAN_PYTHON.command().arg(script));
    backend.stdout.read_until_text("\n");
    let printed = String::from_utf8_lossy(&backend.stdout.bytes).into_owned();
    (backend, format!("tcp://127.0.0.1:{}", printed.trim()))
}

/// A masked frame of a client (RFC 6455 5.2) with a mask of zeros.
fn message(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | opcode, 0x80 | 127];
    out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// The payloads of a server's frames.
fn payloads(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let [_, length, rest @ ..] = bytes {
        let (length, rest) = match length {
            126 => (u16::from_be_bytes([rest[0], rest[1]]).into(), &rest[2..]),
            127 => {
                let length = u64::from_be_bytes(*rest.first_chunk().unwrap());
                (usize::try_from(length).unwrap(), &rest[8..])
            }
            short => (usize::from(*short), rest),
        };
        if rest.len() < length {
            break;
        }
        all.push(rest[..length].to_vec());
        bytes = &rest[length..];
    }
    all
}

fn through_both_versions(policy: Policy) {
    let (_backend, address) = foreign_server();
    let server = passing_on(policy, &address, "");
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let socket = client.ask_with(&CONNECT, false);
    client.flush().unwrap();
    client
        .hear(|client| client.streams[&socket].status.is_some())
        .unwrap();
    let heard = &client.streams[&socket];
    assert_eq!(heard.status, Some(200));
    let names: Vec<_> = heard.fields.iter().map(|(name, _)| &**name).collect();
    for gone in [
        "upgrade",
        "connection",
        "sec-websocket-accept",
        "content-length",
    ] {
        assert!(!names.contains(&gone), "{names:?}");
    }
    // Others share the connection meanwhile.
    assert_eq!(client.get("/result/x").status, Some(200));
    // Small enough to go at once: the tests of bodies move what is larger.
    for size in [0, 5, 20 * KIB] {
        client.push_data(socket, &message(2, content(size)), false);
    }
    client.flush().unwrap();
    client
        .hear(|client| payloads(&client.streams[&socket].body).len() == 3)
        .unwrap();
    let got = payloads(&client.streams[&socket].body);
    for (payload, size) in got.iter().zip([0, 5, 20 * KIB]) {
        assert_same_bytes(payload, content(size), "an echo");
    }
    // Its end is answered with the server's, and both with the stream's.
    client.push_data(socket, &message(8, &[0x03, 0xe8]), true);
    client.hear_out(socket);
    assert_eq!(client.streams[&socket].reset, None);
    // One that is refused is told so.
    let refused = client.ask_with(
        &[CONNECT[0], CONNECT[1], (":path", "/refused"), CONNECT[3]],
        false,
    );
    // One whose protocol nobody speaks, and one that is answered like any request.
    let unknown = client.ask_with(&[CONNECT[0], (":protocol", "chat"), (":path", "/x")], false);
    let page = client.ask_with(&[CONNECT[0], CONNECT[1], (":path", "/")], false);
    client.flush().unwrap();
    client
        .hear(|client| {
            [refused, unknown, page]
                .iter()
                .all(|id| client.streams[id].is_over())
        })
        .unwrap();
    assert_eq!(client.streams[&refused].status, Some(403));
    assert_eq!(client.streams[&refused].body, b"not you");
    assert_eq!(client.streams[&unknown].status, Some(501));
    assert_eq!(client.streams[&page].status, Some(501));
    // A client that resets its stream ends the server's connection.
    let reset = client.ask_with(&CONNECT, false);
    client.flush().unwrap();
    client
        .hear(|client| client.streams[&reset].status.is_some())
        .unwrap();
    let mut out = Vec::new();
    put_rst_stream(reset, ErrorCode::Cancel, &mut out);
    client.push(&out);
    client.flush().unwrap();
    assert_eq!(client.get("/result/y").status, Some(200));
    assert_eq!(server.counters()["upgraded_connections"], 2);
    assert!(client.goaways.is_empty());
}

/// To a server that is spoken to in HTTP/2, by clients of both versions.
#[test]
fn rfc8441_5_through_http2_on_both_sides() {
    let backend = Http2Backend::start(&[(8, 1), (4, 70_000)]);
    let address = format!("tcp://{}", backend.address);
    let server = passing_on(Policy::Never, &address, "protocol = \"h2c\"");
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let fields = [CONNECT[0], CONNECT[1], (":path", "/echo"), CONNECT[3]];
    let socket = client.ask_with(&fields, false);
    let mut sent = [(socket, 0)].into();
    client.echo_through(&mut sent, content(MIB));
    let heard = &client.streams[&socket];
    assert_eq!((heard.status, heard.reset), (Some(200), None));
    assert_same_bytes(&heard.body, content(MIB), "an echo");
    let asked = backend.asked_for("/echo");
    for (name, value) in [(":method", "CONNECT"), (":protocol", "websocket")] {
        assert!(
            asked[0].contains(&(name.to_owned(), value.to_owned())),
            "{asked:?}"
        );
    }
    assert!(asked[0].iter().all(|(name, _)| name != "sec-websocket-key"));
    // A client of HTTP/1.1 sees the change that it asked for.
    let mut old = Client::connect(&server);
    old.send(
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let head = old.read_head();
    assert_eq!(status(&head), 101, "{head}");
    assert_eq!(
        field(&head, "sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    old.send(b"bytes");
    let mut back = Vec::new();
    old.read_into(&mut back, 5);
    assert_eq!(back, b"bytes");
    // Its end is the stream's.
    old.close_notify();
    assert_eq!(old.read_to_ending(), Ending::CloseNotify);
    drop(old);
    server.wait_for_counter("connections_closed", 1);
    assert_eq!(backend.resets(), 0);
    assert_eq!(client.get("/hello").body, b"hello");
    let counters = server.counters();
    assert_eq!(counters["upgraded_connections"], 2);
    assert_eq!(counters["upstream_connects"], 1);
    // A server that does not take it.
    let backend = Http2Backend::start(&[]);
    let address = format!("tcp://{}", backend.address);
    let server = passing_on(Policy::Never, &address, "protocol = \"h2c\"");
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let socket = client.ask_with(&fields, false);
    client.hear_out(socket);
    assert_eq!(client.streams[&socket].status, Some(501));
}

/// A tunnel to HTTP/2 in plain text would pass by everything that is done to requests here.
#[test]
fn rfc9110_7_8_an_upgrade_that_is_not_passed_on_is_ignored() {
    let old = Backend::start();
    let new = Http2Backend::start(&[(8, 1)]);
    for (address, http) in [(old.address, ""), (new.address, "protocol = \"h2c\"")] {
        let server = passing_on(Policy::Never, &format!("tcp://{address}"), http);
        let mut client = Client::connect(&server);
        for protocols in ["h2c", "TLS/1.0, h2c"] {
            client.send(
                format!(
                    "GET /hello HTTP/1.1\r\nHost: localhost\r\nUpgrade: {protocols}\r\n\
                     Connection: Upgrade, HTTP2-Settings\r\n\
                     HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
                )
                .as_bytes(),
            );
            let answer = client.read_response();
            assert_eq!((answer.status(), &*answer.body), (200, &b"hello"[..]));
        }
        let mut client = Http2::connect(&Manner::default(), &server, &[]);
        let socket = client.ask_with(
            &[CONNECT[0], (":protocol", "h2c"), (":path", "/hello")],
            false,
        );
        client.hear_out(socket);
        assert_eq!(client.streams[&socket].status, Some(501));
    }
    for head in old.heads() {
        let head = head.to_ascii_lowercase();
        assert!(
            !head.contains("upgrade") && !head.contains("http2-settings"),
            "{head}"
        );
    }
    // What HTTP/2 has no tunnel for.
    let server = passing_on(
        Policy::Never,
        &format!("tcp://{}", new.address),
        "protocol = \"h2c\"",
    );
    let mut client = Client::connect(&server);
    client.send(
        b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n",
    );
    assert_eq!(client.read_response().body, b"hello");
    assert_eq!((old.heads().len(), new.asked_for("/hello").len()), (2, 3));
}

#[test]
fn silence_ends_a_tunnel_in_a_stream() {
    let (_backend, address) = foreign_server();
    let server = passing_on(Policy::Auto, &address, "upgraded_idle_ms = 500");
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let socket = client.ask_with(&CONNECT, false);
    client.hear_out(socket);
    let heard = &client.streams[&socket];
    assert_eq!(
        (heard.status, heard.reset),
        (Some(200), Some(ErrorCode::Cancel))
    );
    server.wait_for_counter("timeouts_idle", 1);
    assert_eq!(client.get("/result/x").status, Some(200));
}

/// All wait for the first connection's server to say what it takes; each connection carries two of them.
#[test]
fn a_burst_of_tunnels_is_spread_over_connections() {
    let backend = Http2Backend::start(&[(8, 1), (3, 2)]);
    let address = format!("tcp://{}", backend.address);
    let http = "protocol = \"h2c\"\nhttp2_connections_max = 8";
    let server = passing_on(Policy::Never, &address, http);
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let fields = [CONNECT[0], CONNECT[1], (":path", "/open"), CONNECT[3]];
    let sockets: Vec<_> = (0..10).map(|_| client.ask_with(&fields, false)).collect();
    client.flush().unwrap();
    client
        .hear(|client| {
            let mut heard = sockets.iter().map(|id| &client.streams[id]);
            heard.all(|heard| heard.status.is_some())
        })
        .unwrap();
    for socket in &sockets {
        assert_eq!(client.streams[socket].status, Some(200));
    }
    assert_eq!((backend.streams_most(), backend.accepted()), (2, 5));
    assert_eq!(server.counters()["upgraded_connections"], 10);
}

/// Whether it takes tunnels is not known: it has failed.
#[test]
fn a_server_that_ends_before_it_has_said_anything_is_502() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let accepting = std::thread::spawn(move || {
        for _ in 0..3 {
            drop(listener.accept().unwrap());
        }
    });
    let server = passing_on(Policy::Never, &address, "protocol = \"h2c\"");
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let socket = client.ask_with(&CONNECT, false);
    client.hear_out(socket);
    assert_eq!(client.streams[&socket].status, Some(502));
    accepting.join().unwrap();
    assert_eq!(server.counters()["upstream_connects"], 3);
}

/// A client of HTTP/1.1 that has ended its direction, and a server of HTTP/2 that says nothing to it.
#[test]
fn silence_after_the_clients_end_ends_a_tunnel_in_a_stream() {
    let backend = Http2Backend::start(&[(8, 1)]);
    let address = format!("tcp://{}", backend.address);
    let http = "protocol = \"h2c\"\nupgraded_idle_ms = 500";
    let server = passing_on(Policy::Auto, &address, http);
    let mut client = Client::connect(&server);
    client.send(
        b"GET /open HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let head = client.read_head();
    assert_eq!(status(&head), 101, "{head}");
    client.close_notify();
    until_equal("ends of streams", &1, || backend.resets());
    assert_eq!(server.counters()["timeouts_idle"], 1);
    server.wait_for_counter("connections_closed", 1);
}

#[test]
fn rfc8441_4_a_malformed_extended_connect_is_refused() {
    let server = Setup::new(Policy::Auto).start();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let malformed: [&[(&str, &str)]; 2] = [
        &[
            (":method", "GET"),
            (":protocol", "websocket"),
            (":path", "/"),
        ],
        &[
            (":method", "CONNECT"),
            (":protocol", "web socket"),
            (":path", "/"),
        ],
    ];
    for fields in malformed {
        let stream = client.ask_with(fields, false);
        client.hear_out(stream);
        assert_eq!(client.streams[&stream].reset, Some(ErrorCode::Protocol));
    }
    // Files are no WebSockets.
    let file = client.ask_with(&CONNECT, false);
    client.push(&frame(0, 0, file, b"bytes"));
    client.hear_out(file);
    assert_eq!(client.streams[&file].status, Some(404));
}

/// A browser opens its WebSocket on the connection that it loaded the page over.
#[test]
fn chromium_opens_one_over_http2() {
    let (mut backend, address) = foreign_server();
    let server = passing_on(Policy::Auto, &address, "");
    let profile = server.path("browser");
    let mut command = quiet_chromium();
    command.args([
        "--ignore-certificate-errors",
        &format!("--user-data-dir={}", profile.display()),
        // The page never finishes loading, and so the browser stays.
        "--dump-dom",
        &server.url("/"),
    ]);
    let _browser = CHROMIUM.start(&mut command);
    backend
        .stdout
        .read_until_text("/result/3001%20enough%20chat%20hello%20true\n");
    let counters = server.counters();
    assert_eq!(counters["upgraded_connections"], 1);
    assert_eq!(counters["requests"], counters["requests_http2"]);
}
