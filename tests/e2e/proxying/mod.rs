//! Requests passed on to servers behind this one: those that behave, and those that do not.

pub(crate) mod backend;
mod faults;
mod foreign;
mod groups;
mod http2;
pub(crate) mod http2_backend;
mod http2_upstreams;
pub(crate) mod proxy_protocol;
mod tls;

use std::path::Path;
use std::process::{Child, Command};

use self::backend::Backend;
use crate::support::Policy;
use crate::support::client::{Client, Ending, Manner, Response, field};
use crate::support::files::{MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::kernel::{KernelTls, kernel_tls};
use crate::support::process::CURL;
use crate::support::server::Setup;
use crate::support::wait::until_equal;

for_each_policy!(
    answers_come_back_whole,
    bodies_stream_both_ways_at_once,
    an_upgrade_carries_bytes_both_ways,
    large_answers_stay_in_the_kernel,
    a_large_answer_that_is_cut_or_stalls_is_seen_to_be,
);

/// A server that passes everything on to `backend`, with lines for `[upstream.http]`.
pub(crate) fn passing_on(policy: Policy, backend: &Backend, http: &str) -> Setup {
    let upstream = format!(
        "name = \"app\"\neject_failures = 0\n[[upstream.server]]\naddress = \"tcp://{}\"\n\
         [upstream.http]\n{http}",
        backend.address
    );
    Setup::new(policy)
        .workers(1)
        .table("[upstream]", &upstream)
        .table(
            "[site.route]",
            "prefix = \"/\"\nupstream = \"app\"\nresponse_remove = [\"x-inner\"]",
        )
}

/// Reads a response whose body is chunked.
pub(crate) fn read_chunked(client: &mut Client) -> Response {
    let head = client.read_head();
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
    let mut body = Vec::new();
    while let Some(chunk) = read_chunk(client) {
        body.extend_from_slice(&chunk);
    }
    Response { head, body }
}

/// Reads one chunk; `None` for the last, with all that follows it.
fn read_chunk(client: &mut Client) -> Option<Vec<u8>> {
    let line = read_line(client);
    let length = usize::from_str_radix(&line, 16).unwrap();
    if length == 0 {
        while !read_line(client).is_empty() {}
        return None;
    }
    let mut data = Vec::new();
    client.read_into(&mut data, length + 2);
    data.truncate(length);
    Some(data)
}

fn read_line(client: &mut Client) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        client.read_into(&mut line, 1);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).unwrap()
}

/// Answers of every framing, over one connection of the client's and one to the backend.
fn answers_come_back_whole(policy: Policy) {
    let backend = Backend::start();
    let server = passing_on(policy, &backend, "").start();
    let mut client = Client::connect(&server);
    for _ in 0..3 {
        let hello = client.get("/hello");
        assert_eq!((hello.status(), &*hello.body), (200, &b"hello"[..]));
        assert!(hello.field("date").is_some(), "{}", hello.head);
    }
    let chunked = {
        client.ask("/chunked");
        read_chunked(&mut client)
    };
    assert_eq!(chunked.body, b"foobar");
    client.ask("/early");
    let hints = client.read_head();
    assert!(hints.starts_with("HTTP/1.1 103 Early Hints\r\n"), "{hints}");
    assert_eq!(field(&hints, "link"), Some("</a>"), "{hints}");
    // What is for the connection to the backend only, and what the route takes out.
    assert_eq!(field(&hints, "keep-alive"), None, "{hints}");
    assert_eq!(field(&hints, "x-inner"), None, "{hints}");
    let early = client.read_response();
    assert_eq!((early.status(), &*early.body), (200, &b"ok"[..]));
    client.ask("/empty");
    let empty = client.read_head();
    assert_eq!(field(&empty, "x-a"), Some("b"), "{empty}");
    client.ask("/not-modified");
    let unchanged = client.read_head();
    assert!(unchanged.starts_with("HTTP/1.1 304 "), "{unchanged}");
    assert_eq!(field(&unchanged, "etag"), Some("\"a\""), "{unchanged}");
    client.send(b"HEAD /head-only HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = client.read_head();
    assert_eq!(field(&head, "content-length"), Some("1234"), "{head}");
    let big = client.get("/big");
    assert_same_bytes(&big.body, content(4 * MIB), "/big");
    client.ask("/until-close");
    assert_eq!(read_chunked(&mut client).body, b"all of it");
    assert_eq!(backend.accepted(), 1, "connections are used again");
    assert_eq!(client.get("/hello").status(), 200);
    let counters = server.counters();
    assert_eq!(counters["upstream_connects"], 2);
    assert_eq!(counters["upstream_requests"], 11);
    assert_eq!(counters["upstream_connections_reused"], 9);
    assert_eq!(counters["upstream_failures"], 0);
    assert_eq!(counters["interim_responses"], 1);
    // RFC 9110 15.2: none to a client of HTTP/1.0.
    let mut old = Client::connect(&server);
    old.send(b"GET /early HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let (answer, _) = old.read_rest();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

/// Many hints are passed on up to a bound, and the answer behind them all the same.
#[test]
fn interim_responses_are_passed_on_in_bounds() {
    let backend = Backend::start();
    let server = passing_on(Policy::Never, &backend, "").start();
    let mut client = Client::connect(&server);
    client.ask("/hints/long");
    for _ in 0..2 {
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 103 "), "{head}");
        assert!(head.len() > 7000);
    }
    let answer = client.read_response();
    assert_eq!((answer.status(), &*answer.body), (200, &b"ok"[..]));
    let counters = server.counters();
    assert_eq!(counters["interim_responses"], 2);
    assert_eq!(counters["interim_responses_dropped"], 1);
}

/// Whether answers of 256 KiB and more can be spliced: the client's end is in the kernel then.
fn is_spliced(policy: Policy) -> bool {
    policy != Policy::Never && kernel_tls() != KernelTls::Absent
}

/// By length, and up to the end for a client of HTTP/1.0; a slow reader too.
fn large_answers_stay_in_the_kernel(policy: Policy) {
    let backend = Backend::start();
    let server = passing_on(policy, &backend, "").start();
    let mut client = Client::connect(&server);
    for _ in 0..2 {
        let big = client.get("/big");
        assert_same_bytes(&big.body, content(4 * MIB), "/big");
        assert_eq!(client.get("/hello").body, b"hello");
    }
    let slow = Manner {
        receive_buffer_bytes: Some(16 * 1024),
        ..Manner::default()
    };
    let mut slow = slow.connect(&server);
    slow.ask("/big");
    slow.wait_until_full();
    assert_same_bytes(&slow.read_response().body, content(4 * MIB), "slowly");
    client.send(b"GET /old HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let head = client.read_head();
    assert_eq!(field(&head, "transfer-encoding"), None, "{head}");
    let (body, ending) = client.read_rest();
    assert_same_bytes(&body, content(4 * MIB), "/old");
    assert_eq!(ending, Ending::CloseNotify);
    let spliced = server.counters()["upstream_bytes_spliced"];
    match is_spliced(policy) {
        true => assert!(spliced > 12 * MIB as u64, "only {spliced}"),
        false => assert_eq!(spliced, 0),
    }
    // Descriptors of pipes are kept, and no more of them.
    assert_eq!(server.counters()["tunnel_pipes_refused"], 0);
}

fn a_large_answer_that_is_cut_or_stalls_is_seen_to_be(policy: Policy) {
    let backend = Backend::start();
    // Made now: the first use takes longer in a slow kernel than the backend may be silent.
    let whole = content(2 * MIB);
    let server = passing_on(policy, &backend, "between_bytes_ms = 500").start();
    for path in ["/die/late", "/stall/late"] {
        let mut client = Client::connect(&server);
        client.ask(path);
        client.read_head();
        let (rest, ending) = client.read_rest();
        assert_same_bytes(&rest, &whole[..rest.len()], path);
        assert_ne!(ending, Ending::CloseNotify, "{path}");
    }
    let counters = server.counters();
    assert_eq!(counters["upstream_responses_cut"], 2);
    assert_eq!(counters["upstream_timeouts"], 1);
    until_equal("open connections at the backend", &0, || backend.open());
    assert_eq!(Client::connect(&server).get("/hello").body, b"hello");
}

/// The beginning of a request is echoed before its end is sent.
fn bodies_stream_both_ways_at_once(policy: Policy) {
    let backend = Backend::start();
    let server = passing_on(policy, &backend, "").start();
    let mut client = Client::connect(&server);
    client.send(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(b"3\r\nfoo\r\n");
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(read_chunk(&mut client).unwrap(), b"foo");
    client.send(b"6\r\nbarbaz\r\n");
    assert_eq!(read_chunk(&mut client).unwrap(), b"barbaz");
    client.send(b"0\r\n\r\n");
    assert_eq!(read_chunk(&mut client), None);

    let body = content(MIB);
    let head = format!(
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send(head.as_bytes());
    let interim = client.read_head();
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    client.send(&body[..1]);
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut echoed = Vec::new();
    let mut sent = 1;
    for piece in body[1..].chunks(50_000) {
        client.send(piece);
        sent += piece.len();
        while echoed.len() < sent {
            echoed.extend_from_slice(&read_chunk(&mut client).unwrap());
        }
    }
    assert_eq!(read_chunk(&mut client), None);
    assert_same_bytes(&echoed, body, "/echo");
    assert_eq!(client.get("/hello").status(), 200);
}

fn an_upgrade_carries_bytes_both_ways(policy: Policy) {
    let backend = Backend::start();
    let server = passing_on(policy, &backend, "").start();
    let before = server.holdings();
    let mut client = Client::connect(&server);
    // The first bytes of the new protocol may come with the request.
    client.send(
        b"GET /upgrade HTTP/1.1\r\nHost: localhost\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\nearly",
    );
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(field(&head, "upgrade"), Some("echo"), "{head}");
    assert_eq!(field(&head, "connection"), Some("upgrade"), "{head}");
    let mut bytes = Vec::new();
    client.read_into(&mut bytes, 7);
    assert_eq!(bytes, b"hiearly");
    for _ in 0..3 {
        client.send(content(50_000));
        let mut echoed = Vec::new();
        client.read_into(&mut echoed, 50_000);
        assert_same_bytes(&echoed, content(50_000), "the echo");
    }
    client.close_notify();
    assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    drop(client);
    assert_eq!(server.counters()["upgraded_connections"], 1);
    until_equal("open connections at the backend", &0, || backend.open());
    server.wait_for_holdings(before);
}

#[test]
fn the_backend_is_told_whom_it_answers() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "")
        .table("request_id", "to_clients = true")
        .start();
    let mut client = Client::connect(&server);
    client.send(
        b"GET /head HTTP/1.1\r\nHost: localhost:8443\r\nX-Forwarded-For: 10.0.0.1\r\n\
          Forwarded: for=10.0.0.1\r\nConnection: X-Mine\r\nX-Mine: 1\r\nAccept: a/b\r\n\r\n",
    );
    let seen = client.read_response();
    let id = seen.field("x-request-id").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&seen.body),
        format!(
            "GET /head HTTP/1.1\r\nhost: localhost:8443\r\nAccept: a/b\r\n\
             x-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: https\r\n\
             x-forwarded-host: localhost:8443\r\nvia: 1.1 portcullis\r\n\
             x-request-id: {id}\r\n\r\n"
        )
    );

    let trusting = passing_on(Policy::Auto, &backend, "")
        .table("proxies", "trusted = [\"127.0.0.0/8\"]")
        .start();
    let mut client = Client::connect(&trusting);
    client.send(b"GET /head HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n");
    let seen = String::from_utf8(client.read_response().body).unwrap();
    assert!(
        seen.contains("\r\nx-forwarded-for: 10.0.0.1, 127.0.0.1\r\n"),
        "{seen}"
    );
}

#[test]
fn routes_lead_to_what_they_name() {
    let backend = Backend::start();
    let upstream = format!(
        "name = \"app\"\n[[upstream.server]]\naddress = \"tcp://{}\"",
        backend.address
    );
    // A directory that a route names must be there before the server looks.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("sub")).unwrap();
    std::fs::write(folder.path().join("sub/index.html"), "more").unwrap();
    let routes = format!(
        "prefix = \"/api\"\nupstream = \"app\"\nstrip_prefix = true\nhost = \"app.test\"\n\
         request_set = [\"x-route: api\"]\nresponse_set = [\"x-from: app\"]\n\
         response_remove = [\"x-none\"]\n\
         [[site.route]]\npath = \"/api/secret\"\nstatus = 403\nbody = \"no\"\n\
         [[site.route]]\nprefix = \"/old/\"\nredirect = \"/new$path\"\nstrip_prefix = true\n\
         [[site.route]]\nprefix = \"/more\"\nroot = {:?}\nstrip_prefix = true\n\
         response_add = [\"x-more: 1\"]",
        folder.path()
    );
    let server = Setup::new(Policy::Auto)
        .table("[upstream]", &upstream)
        .table("[site.route]", &routes)
        .start();
    server.write_content("1k", 1024);
    let mut client = Client::connect(&server);
    let api = client.get("/api/head?q=1");
    assert_eq!(api.status(), 404, "the backend knows no path with a query");
    let seen = backend.heads().pop().unwrap();
    assert!(
        seen.starts_with("GET /head?q=1 HTTP/1.1\r\nhost: app.test\r\n"),
        "{seen}"
    );
    assert!(seen.contains("\r\nx-route: api\r\n"), "{seen}");
    assert_eq!(api.field("x-from"), Some("app"));
    for path in [
        "/api/secret",
        "/api/./secret",
        "/api/x/../secret",
        "/%61pi//secret",
    ] {
        let secret = client.get(path);
        assert_eq!(
            (secret.status(), &*secret.body),
            (403, &b"no"[..]),
            "{path}"
        );
    }
    let old = client.get("/old/a?b");
    assert_eq!(
        (old.status(), old.field("location")),
        (308, Some("/new/a?b"))
    );
    assert_eq!(client.get("/1k").status(), 200);
    let sub = client.get("/more/sub");
    assert_eq!(
        (sub.status(), sub.field("location")),
        (308, Some("/more/sub/"))
    );
    let more = client.get("/more/sub/");
    assert_eq!(
        (&*more.body, more.field("x-more")),
        (&b"more"[..], Some("1"))
    );
    assert_eq!(client.get("/%zz").status(), 400);
}

/// The client of HTTP/1.1 sends its body when the server behind wants it, and is spared it when it does not.
#[test]
fn rfc9110_10_1_1_the_server_behind_meets_the_expectation() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "").start();
    let ask = |path: &str| {
        let mut client = Client::connect(&server);
        client.send(
            format!(
                "PUT {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
                 Content-Length: 4\r\n\r\n"
            )
            .as_bytes(),
        );
        client
    };
    let mut refused = ask("/refuse-body");
    let head = refused.read_head();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(refused.read_to_ending(), Ending::CloseNotify);
    drop(refused);
    until_equal("open connections at the backend", &0, || backend.open());
    assert_eq!(backend.held_bytes(), 0);
    // One that asks for it, and one that says nothing.
    for path in ["/echo/asked", "/count/4"] {
        let mut client = ask(path);
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 100 "), "{path}: {head}");
        client.send(b"body");
        let body = match path {
            "/count/4" => client.read_response().body,
            _ => read_chunked(&mut client).body,
        };
        assert_eq!(body, b"body", "{path}");
        assert_eq!(client.get("/hello").status(), 200);
    }
    for head in backend.heads() {
        let is_asked = head.contains("\r\nexpect: 100-continue\r\n");
        assert_eq!(is_asked, head.starts_with("PUT"), "{head}");
    }
}

/// A server that resolves paths in another way is left nothing to resolve.
#[test]
fn rfc3986_5_2_4_a_server_finds_what_the_route_was_found_for() {
    let backend = Backend::start();
    let upstream = format!(
        "name = \"app\"\n[[upstream.server]]\naddress = \"tcp://{}\"",
        backend.address
    );
    let routes = "prefix = \"/\"\nupstream = \"app\"\n\
                  [[site.route]]\nprefix = \"/admin\"\nstatus = 403";
    let server = Setup::new(Policy::Auto)
        .table("[upstream]", &upstream)
        .table("[site.route]", routes)
        .start();
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/admin/hello").status(), 403);
    for path in ["/admin//../hello", "/admin%2f..%2Fhello", "/x/%2e%2e/hello"] {
        assert_eq!(client.get(path).body, b"hello", "{path}");
    }
    assert_eq!(backend.asked_for("/hello"), 3);
    for path in ["/group%2Fproject", "/a//b"] {
        assert_eq!(client.get(path).status(), 404);
        assert_eq!(backend.asked_for(path), 1, "as it was spelled");
    }
}

/// A process that ends with the test, whatever becomes of it.
struct Ended(Child);

/// nginx with this `http` block, which has `listen unix:SOCKET` for `socket`; it listens.
fn start_nginx(folder: &Path, socket: &Path, http: &str) -> Ended {
    let config = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\n\
         worker_processes 1;\nuser root;\nevents {{}}\nhttp {{ access_log off;\n{http} }}\n"
    );
    std::fs::write(folder.join("nginx.conf"), config).unwrap();
    let nginx = Command::new("/usr/sbin/nginx")
        .args(["-p".as_ref(), folder, "-c".as_ref(), "nginx.conf".as_ref()])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("nginx (Debian: nginx-light) is needed");
    let nginx = Ended(nginx);
    crate::support::wait::until_some("nginx listens", || {
        std::os::unix::net::UnixStream::connect(socket).ok()
    });
    nginx
}

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// curl to a real server behind this one.
#[test]
fn nginx_stands_behind() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("www")).unwrap();
    crate::support::files::write_content(&folder.path().join("www/4m"), 4 * MIB);
    let socket = folder.path().join("nginx.sock");
    let http = format!(
        "server {{ listen unix:{}; root {}; gzip on; gzip_types *; gzip_min_length 1; }}",
        socket.display(),
        folder.path().join("www").display()
    );
    let _nginx = start_nginx(folder.path(), &socket, &http);
    let upstream = format!(
        "name = \"app\"\n[[upstream.server]]\naddress = \"unix:{}\"",
        socket.display()
    );
    let server = Setup::new(Policy::Auto)
        .table("[upstream]", &upstream)
        .table("[site.route]", "prefix = \"/\"\nupstream = \"app\"")
        .start();
    let curl = |arguments: &[&str]| {
        let mut command = CURL.command();
        command
            .args(["-sS", "--cacert", &server.authority()])
            .args(arguments);
        command.arg(server.url("/4m"));
        command.output().unwrap().stdout
    };
    assert_same_bytes(&curl(&[]), content(4 * MIB), "by length");
    assert_same_bytes(&curl(&["--compressed"]), content(4 * MIB), "in chunks");
    assert_same_bytes(
        &curl(&["-r", "100-199"]),
        &content(4 * MIB)[100..200],
        "a range",
    );
    let head = String::from_utf8(curl(&["-I"])).unwrap();
    assert_eq!(
        field(&head, "content-length"),
        Some(&*(4 * MIB).to_string()),
        "{head}"
    );
}
