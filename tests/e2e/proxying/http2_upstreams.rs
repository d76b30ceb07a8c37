//! Servers that are spoken to in HTTP/2.

use std::collections::BTreeMap;

use portcullis::proto::h2::ErrorCode;
use portcullis::proto::h2::frame::put_rst_stream;

use super::http2_backend::Http2Backend;
use crate::support::Policy;
use crate::support::client::{Client, Manner};
use crate::support::files::{KIB, MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::http2::{Heard, Http2, frame};
use crate::support::kernel::is_lab;
use crate::support::process::{CURL, DEBIAN_PYTHON, NGHTTPD, NGINX};
use crate::support::server::{Server, Setup};
use crate::support::wait::{until_equal, until_some};

for_each_policy!(
    answers_come_back_whole,
    large_bodies_go_both_ways_at_once,
    http2_is_agreed_on_over_tls,
    grpc
);

/// A server that passes everything on to `address`, with lines for `[upstream.http]`.
fn passing_on_to(policy: Policy, address: &str, http: &str) -> Setup {
    let upstream = format!(
        "name = \"app\"\neject_failures = 0\n[[upstream.server]]\naddress = \"{address}\"\n\
         [upstream.http]\nprotocol = \"h2c\"\n{http}"
    );
    Setup::new(policy)
        .workers(1)
        .table("limits", "body_bytes_max = 1000000000")
        .table("[upstream]", &upstream)
        .table("[site.route]", "prefix = \"/\"\nupstream = \"app\"")
}

fn passing_on(backend: &Http2Backend, http: &str) -> Server {
    passing_on_to(Policy::Never, &format!("tcp://{}", backend.address), http).start()
}

fn field<'a>(heard: &'a Heard, name: &str) -> Option<&'a str> {
    let found = heard.fields.iter().find(|(n, _)| n == name);
    found.map(|(_, value)| &**value)
}

fn answers_come_back_whole(policy: Policy) {
    let backend = Http2Backend::start(&[]);
    let address = format!("tcp://{}", backend.address);
    let server = passing_on_to(policy, &address, "").start();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    for _ in 0..3 {
        let hello = client.get("/hello");
        assert_eq!((hello.status, &hello.body[..]), (Some(200), &b"hello"[..]));
        assert_eq!(field(&hello, "content-length"), Some("5"));
    }
    let fields = [
        (":method", "GET"),
        (":path", "/trailers"),
        ("te", "trailers"),
    ];
    let trailers = client.ask_with(&fields, true);
    let alone = client.ask("/fields-alone");
    client.flush().unwrap();
    client.hear_all();
    let heard = &client.streams[&trailers];
    assert_eq!(
        (heard.status, &heard.body[..]),
        (Some(200), &b"content"[..])
    );
    assert_eq!(field(heard, "sum"), Some("7"));
    assert_eq!(heard.interims, [(103, Some("</a>".to_owned()))]);
    // RFC 9110 6.5.1: it would be taken for the frame of the message.
    assert_eq!(field(heard, "content-length"), None);
    let heard = &client.streams[&alone];
    assert_eq!(field(heard, "grpc-status"), Some("5"));
    assert!(heard.body.is_empty() && heard.has_ended);
    // The same server by a client of HTTP/1.1.
    let mut old = Client::connect(&server);
    assert_eq!(old.get("/hello").body, b"hello");
    old.ask("/trailers");
    let hints = old.read_head();
    assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{hints}");
    assert!(hints.contains("\r\nlink: </a>\r\n"), "{hints}");
    assert_eq!(super::read_chunked(&mut old).body, b"content");
    assert_eq!(backend.accepted(), 1);
    let asked = backend.asked_for("/hello");
    let of_old = asked.last().unwrap();
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "localhost"),
        ("via", "1.1 portcullis"),
    ] {
        let wanted = (name.to_owned(), value.to_owned());
        assert!(of_old.contains(&wanted), "{of_old:?}");
    }
    assert!(
        of_old
            .iter()
            .all(|(name, _)| name != "host" && name != "connection")
    );
    assert_eq!(server.counters()["upstream_connections_reused"], 6);
}

/// More than all windows on the way hold, many times over, with nothing but its own pace to stop it.
fn large_bodies_go_both_ways_at_once(policy: Policy) {
    // Half of what we let it send ahead is what it is told of at a time.
    let backend = Http2Backend::start(&[(4, 70_000)]);
    let address = format!("tcp://{}", backend.address);
    let server = passing_on_to(policy, &address, "").start();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let length = if is_lab() { MIB } else { 4 * MIB };
    let mut left = BTreeMap::new();
    for _ in 0..3 {
        let fields = [(":method", "POST"), (":path", "/echo"), ("te", "trailers")];
        left.insert(client.ask_with(&fields, false), 0);
    }
    client.echo_through(&mut left, content(length));
    for stream in left.keys() {
        let heard = &client.streams[stream];
        assert_eq!((heard.status, heard.reset), (Some(200), None));
        assert_same_bytes(&heard.body, content(length), "an echo");
    }
    assert!(client.goaways.is_empty());
    assert_eq!(backend.accepted(), 1);
}

/// Portcullis behind Portcullis, over TLS.
fn http2_is_agreed_on_over_tls(policy: Policy) {
    let behind = |inner: &Server| {
        let upstream = format!(
            "name = \"app\"\neject_failures = 0\n\
             [[upstream.server]]\naddress = \"tcp://{}\"\n\
             [upstream.tls]\nca = \"authority.pem\"\nserver_name = \"localhost\"\n\
             [upstream.http]\nprotocol = \"h2\"",
            inner.address
        );
        Setup::new(policy)
            .workers(1)
            .table("[upstream]", &upstream)
            .table("[site.route]", "prefix = \"/\"\nupstream = \"app\"")
            .start()
    };
    let inner = Setup::new(policy).start();
    inner.write_content("1k", KIB);
    inner.write_content("large", MIB);
    let outer = behind(&inner);
    let mut client = Http2::connect(&Manner::default(), &outer, &[]);
    let asked: Vec<_> = (0..20)
        .map(|index| match index % 4 {
            0 => (client.ask("/large"), MIB),
            _ => (client.ask("/1k"), KIB),
        })
        .collect();
    client.flush().unwrap();
    client.hear_all();
    for (stream, length) in asked {
        assert_same_bytes(&client.streams[&stream].body, content(length), "over TLS");
    }
    let counters = outer.counters();
    assert_eq!(counters["upstream_handshakes_full"], 1);
    assert_eq!(counters["upstream_connects"], 1);
    assert_eq!(inner.counters()["requests_http2"], 20);
    // One that does not agree.
    let old = Setup::new(policy)
        .table("tls", "alpn = [\"http/1.1\"]")
        .start();
    let outer = behind(&old);
    let mut client = Http2::connect(&Manner::default(), &outer, &[]);
    assert_eq!(client.get("/1k").status, Some(502));
}

/// A check is a request of the protocol that the group speaks, in a session that agrees on it.
#[test]
fn health_checks_speak_http2_over_tls() {
    let behind = |inner: &Server| {
        let upstream = format!(
            "name = \"app\"\n[[upstream.server]]\naddress = \"tcp://{}\"\n\
             [upstream.tls]\nca = \"authority.pem\"\nserver_name = \"localhost\"\n\
             [upstream.http]\nprotocol = \"h2\"\n\
             [upstream.health]\nkind = \"http\"\npath = \"/1k\"\ninterval_ms = 250\n\
             rise = 1\nfall = 1",
            inner.address
        );
        Setup::new(Policy::Auto)
            .workers(1)
            .table("[upstream]", &upstream)
            .table("[site.route]", "prefix = \"/\"\nupstream = \"app\"")
            .start()
    };
    let inner = Setup::new(Policy::Auto).start();
    inner.write_content("1k", KIB);
    let outer = behind(&inner);
    inner.wait_for_counter("requests_http2", 1);
    let mut client = Client::connect(&outer);
    assert_same_bytes(&client.get("/1k").body, content(KIB), "beside the checks");
    let old = Setup::new(Policy::Auto)
        .table("tls", "alpn = [\"http/1.1\"]")
        .start();
    old.write_content("1k", KIB);
    let outer = behind(&old);
    outer.wait_for_counter("upstream_servers_down", 1);
    let mut client = Client::connect(&outer);
    assert_eq!(client.get("/1k").status(), 503);
}

/// Each kind of call, by the foreign implementation that most gRPC clients and servers are made of.
fn grpc(policy: Policy) {
    let folder = format!("{}/tests/e2e/foreign", env!("CARGO_MANIFEST_DIR"));
    let mut backend = DEBIAN_PYTHON.start(
        DEBIAN_PYTHON
            .command()
            .arg(format!("{folder}/grpc_server.py")),
    );
    backend.stdout.read_until_text("\n");
    let printed = String::from_utf8_lossy(&backend.stdout.bytes).into_owned();
    let port: u16 = printed.trim().parse().unwrap();
    let server = passing_on_to(policy, &format!("tcp://127.0.0.1:{port}"), "").start();
    let target = server.url("").replace("https://", "");
    let scale = if is_lab() { "8" } else { "1" };
    let client = format!("{folder}/grpc_client.py");
    let finished = DEBIAN_PYTHON
        .run([
            &*client,
            target.trim_end_matches('/'),
            &server.authority(),
            scale,
        ])
        .success();
    assert_eq!(finished.text().trim(), "done");
    let counters = server.counters();
    assert_eq!(counters["connections_accepted"], 1);
    assert_eq!(counters["upstream_connects"], 1);
    assert_eq!(counters["http2_goaways"], 0);
    backend.close_stdin();
}

#[test]
fn rfc9113_8_7_what_a_server_has_not_begun_is_sent_again() {
    let backend = Http2Backend::start(&[]);
    let server = passing_on(&backend, "");
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    assert_eq!(client.get("/refuse").body, b"at last");
    assert_eq!(backend.asked_for("/refuse").len(), 2);
    // GOAWAY below it: over another connection.
    assert_eq!(client.get("/goaway").body, b"elsewhere");
    assert_eq!(backend.accepted(), 2);
    until_equal("connections open", &1, || backend.open());
    // Not without end.
    assert_eq!(client.get("/refuse/always").status, Some(502));
    assert_eq!(backend.asked_for("/refuse/always").len(), 3);
    let counters = server.counters();
    assert_eq!(counters["upstream_streams_refused"], 5);
    assert_eq!(counters["upstream_retries"], 4);
    // Not when something of the body is gone.
    let post = client.ask_with(&[(":method", "POST"), (":path", "/echo")], false);
    client.push(&frame(0, 1, post, b"x"));
    client.flush().unwrap();
    client.hear_all();
    assert_eq!(client.streams[&post].body, b"x");
    // GOAWAY that names it: it is finished, and the next goes elsewhere.
    assert_eq!(client.get("/goaway/after").body, b"the last");
    assert_eq!(client.get("/hello").body, b"hello");
    assert_eq!(backend.accepted(), 3);
}

/// The client has sent nothing of it yet when the first connection's server refuses.
#[test]
fn a_body_still_to_come_goes_with_the_request_that_is_sent_again() {
    let backend = Http2Backend::start(&[]);
    let server = passing_on(&backend, "");
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let post = client.ask_with(&[(":method", "POST"), (":path", "/refuse")], false);
    client.flush().unwrap();
    client
        .hear(|client| client.streams[&post].is_over())
        .unwrap();
    let heard = &client.streams[&post];
    assert_eq!(
        (heard.status, &heard.body[..]),
        (Some(200), &b"at last"[..])
    );
    assert_eq!(backend.asked_for("/refuse").len(), 2);
}

#[test]
fn what_ends_one_stream_leaves_the_others() {
    let backend = Http2Backend::start(&[]);
    let server = passing_on(&backend, "");
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let held = client.ask("/hold");
    let bad = ["/reset", "/malformed", "/smuggled", "/line-end"].map(|path| client.ask(path));
    let cut = ["/reset/body", "/length"].map(|path| client.ask(path));
    let pings = client.ask("/pings");
    client.flush().unwrap();
    let is_over = move |client: &Http2| {
        let all = bad.iter().chain(&cut).chain([&pings]);
        all.into_iter().all(|id| client.streams[id].is_over())
    };
    client.hear(is_over).unwrap();
    for stream in bad {
        assert_eq!(client.streams[&stream].status, Some(502));
    }
    for stream in cut {
        // Whether the head was passed on before depends on how the frames came.
        let heard = &client.streams[&stream];
        let is_cut = heard.reset == Some(ErrorCode::Internal) || heard.status == Some(502);
        assert!(is_cut, "{heard:?}");
    }
    assert_eq!(client.streams[&pings].status, Some(200));
    assert!(!client.streams[&held].is_over());
    assert_eq!(backend.accepted(), 1);
    // A request's rest is not wanted: what was said about it arrives.
    let post = client.ask_with(&[(":method", "POST"), (":path", "/enough")], false);
    client.push(&frame(0, 0, post, &[b'x'; 1000]));
    client.flush().unwrap();
    client
        .hear(|client| client.streams[&post].is_over())
        .unwrap();
    let heard = &client.streams[&post];
    assert_eq!(
        (heard.status, &heard.body[..]),
        (Some(413), &b"too much"[..])
    );
    // A client that resets its stream resets the server's.
    let before = backend.resets();
    let mut reset = Vec::new();
    put_rst_stream(held, ErrorCode::Cancel, &mut reset);
    client.push(&reset);
    client.flush().unwrap();
    until_some("the server is told", || {
        (backend.resets() > before).then_some(())
    });
    assert_eq!(client.get("/hello").body, b"hello");
    // What breaks the connection is 502, and the next has another.
    for path in ["/garbage", "/close"] {
        assert_eq!(client.get(path).status, Some(502), "{path}");
        assert_eq!(client.get("/hello").body, b"hello");
    }
    // One of them asked twice: the server had closed a connection that it had used before.
    assert_eq!(backend.accepted(), 4);
    let counters = server.counters();
    assert_eq!(counters["upstream_connections_failed"], 1);
    assert_eq!(counters["upstream_streams_reset"], 2);
}

#[test]
fn streams_and_connections_are_bounded_and_the_rest_waits() {
    let backend = Http2Backend::start(&[(3, 2)]);
    let http = "http2_connections_max = 2\nqueue_max = 1\nqueue_ms = 86400000\n";
    let server = passing_on(&backend, http);
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    // Its bound is known once it has said something.
    assert_eq!(client.get("/hello").status, Some(200));
    let mut held = Vec::new();
    for count in 1..=4 {
        held.push(client.ask("/hold"));
        client.flush().unwrap();
        until_equal("requests", &count, || backend.asked_for("/hold").len());
    }
    assert_eq!((backend.accepted(), backend.streams_most()), (2, 2));
    let waits = client.ask("/hello");
    client.flush().unwrap();
    server.wait_for_counter("upstream_queued", 1);
    assert_eq!(client.get("/hello").status, Some(503));
    let mut reset = Vec::new();
    put_rst_stream(held[0], ErrorCode::Cancel, &mut reset);
    client.push(&reset);
    client.flush().unwrap();
    client
        .hear(|client| client.streams[&waits].is_over())
        .unwrap();
    assert_eq!(client.streams[&waits].body, b"hello");
    assert_eq!(server.counters()["upstream_queue_full"], 1);
}

#[test]
fn a_server_without_a_sign_of_life_is_left() {
    let backend = Http2Backend::start(&[]);
    let server = passing_on(&backend, "ping_ms = 250\nfirst_byte_ms = 3600000\n");
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    // One that answers is waited for.
    let held = client.ask("/hold");
    client.flush().unwrap();
    assert_eq!(client.get("/hello").status, Some(200));
    assert!(!client.streams[&held].is_over());
    assert_eq!(client.get("/silent").status, Some(502));
    assert_eq!(client.streams[&held].status, Some(502));
    server.wait_for_counter("upstream_pings_unanswered", 1);
    assert_eq!(client.get("/hello").status, Some(200));
}

/// Idle connections are closed; a reload leaves none behind.
#[test]
fn connections_end_with_their_use() {
    let backend = Http2Backend::start(&[]);
    let server = passing_on(&backend, "idle_connection_ms = 250\n");
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    assert_eq!(client.get("/hello").status, Some(200));
    until_equal("connections open", &0, || backend.open());
    assert_eq!(client.get("/hello").status, Some(200));
    assert_eq!(backend.accepted(), 2);
}

/// nginx and nghttpd, which know nothing of this program.
#[test]
fn foreign_servers_stand_behind() {
    let folder = tempfile::tempdir().unwrap();
    crate::support::files::write_content(&folder.path().join("4m"), 4 * MIB);
    crate::support::files::write_content(&folder.path().join("1k"), KIB);
    let free_port = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let (nginx, nghttpd) = (free_port(), free_port());
    let config = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nuser root;\nevents {{}}\n\
         http {{ access_log off;\n server {{ listen {nginx} http2; root {}; }} }}\n",
        folder.path().display()
    );
    std::fs::write(folder.path().join("nginx.conf"), config).unwrap();
    let path = folder.path().to_str().unwrap();
    let first = NGINX.start(NGINX.command().args(["-p", path, "-c", "nginx.conf"]));
    let second = NGHTTPD.start(NGHTTPD.command().args([
        "--no-tls",
        "--address=127.0.0.1",
        &format!("--htdocs={path}"),
        &nghttpd.port().to_string(),
    ]));
    for address in [nginx, nghttpd] {
        until_some("it listens", || std::net::TcpStream::connect(address).ok());
        let server = passing_on_to(Policy::Auto, &format!("tcp://{address}"), "").start();
        for (version, expected) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let output = folder.path().join("output");
            let finished = CURL
                .run([
                    "-sS",
                    version,
                    "--cacert",
                    &server.authority(),
                    "-o",
                    output.to_str().unwrap(),
                    "-w",
                    "%{http_version} %{http_code}",
                    &server.url("/4m"),
                ])
                .success();
            assert_eq!(finished.text(), format!("{expected} 200"));
            let body = std::fs::read(&output).unwrap();
            assert_same_bytes(&body, content(4 * MIB), "through a foreign server");
        }
        let mut client = Http2::connect(&Manner::default(), &server, &[]);
        let streams: Vec<_> = (0..100).map(|_| client.ask("/1k")).collect();
        client.flush().unwrap();
        client.hear_all();
        for stream in streams {
            assert_same_bytes(&client.streams[&stream].body, content(KIB), "one of many");
        }
        assert_eq!(server.counters()["upstream_connections_failed"], 0);
    }
    drop((first, second));
}
