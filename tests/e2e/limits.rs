//! Every bound that an operator may set, reached over the wire: what the client is told, how the
//! connection ends, and that what was held is given back.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use portcullis::limits::ACCEPTS_PER_TURN_MAX;
use rustls::AlertDescription;

use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Client, Ending, Manner, TLS12, TLS13, field, request, status};
use crate::support::files::{KIB, MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::kernel::{KernelTls, kernel_tls};
use crate::support::process::{OPENSSL, find};
use crate::support::server::{Server, Setup};
use crate::support::wait::until_some;
use crate::support_faults::{
    assert_closed_silently, at_rest, connect_from, drip, is_refused, sealed, wait_until_taken,
};

for_each_policy!(
    a_head_that_does_not_end_gets_408,
    a_body_that_stops_gets_408,
    pieces_of_a_record_are_no_progress,
    a_body_that_goes_on_is_waited_for,
    an_idle_connection_ends_without_a_word,
    a_reader_that_does_not_read_is_cut,
    what_is_too_large_is_told_to_a_client_that_still_sends,
    requests_are_counted_by_connection,
    a_used_up_key_is_changed,
    without_key_updates_a_used_up_key_ends_the_connection,
    a_termination_lets_downloads_finish,
    smuggled_requests_are_refused,
);

#[test]
fn a_handshake_that_takes_too_long_is_ended() {
    let server = with_timeouts(Policy::Auto, &["handshake_ms = 500"])
        .workers(1)
        .start();
    // It serves, so everything it holds for itself is open.
    drop(settled(&server));
    server.wait_for_counter("connections_closed", 1);
    let before = at_rest(&server, 0);
    let manner = Manner::default();
    let start = Instant::now();
    let silent = manner.connect_tcp(server.address);
    let mut slow = manner.connect_tcp(server.address);
    let dripped = drip(&mut slow, PACE, bytes_of(&manner.client_hello()));
    assert!(dripped.elapsed >= LIMIT, "{dripped:?}");
    assert!(dripped.elapsed < LIMIT_PASSED, "{dripped:?}");
    assert_closed_silently(slow);
    assert_closed_silently(silent);
    assert!(start.elapsed() < LIMIT_PASSED, "{:?}", start.elapsed());
    server.wait_for_counter("timeouts_handshake", 2);
    server.wait_for_holdings(before);
}

/// RFC 9110 15.5.9
fn a_head_that_does_not_end_gets_408(policy: Policy) {
    let server = with_timeouts(policy, &["header_ms = 500"]).start();
    let begun = b"GET / HTTP/1.1\r\nHost: localhost\r\n";
    let mut silent = Client::connect(&server);
    silent.send(begun);
    let mut slow = settled(&server);
    slow.send(begun);
    // Each byte is progress; the whole is too slow all the same.
    let letters: Vec<_> = (0..2000).map(|_| sealed(&mut slow, b"x")).collect();
    let dripped = drip(&mut slow.socket, PACE, letters);
    assert!(dripped.elapsed >= LIMIT, "{dripped:?}");
    assert!(dripped.elapsed < LIMIT_PASSED, "{dripped:?}");
    for mut client in [silent, slow] {
        let response = client.read_response();
        assert_eq!(response.status(), 408);
        assert_eq!(response.field("connection"), Some("close"));
        assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    }
    assert_eq!(server.counters()["timeouts_header"], 2);
}

fn a_body_that_stops_gets_408(policy: Policy) {
    let server = with_timeouts(policy, &["body_progress_ms = 500"]).start();
    for head in [
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\na\r\n",
    ] {
        let mut client = Client::connect(&server);
        client.send(head.as_bytes());
        client.send(b"half ");
        let start = Instant::now();
        assert_eq!(client.read_response().status(), 408, "{head:?}");
        assert!(start.elapsed() < LIMIT_PASSED, "{:?}", start.elapsed());
        assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    }
    assert_eq!(server.counters()["timeouts_body"], 2);
}

/// Bytes of a record that is never whole bring nothing, in whatever phase they come.
fn pieces_of_a_record_are_no_progress(policy: Policy) {
    let timeouts = ["idle_ms = 500", "header_ms = 500", "body_progress_ms = 500"];
    let server = with_timeouts(policy, &timeouts).start();
    let begun = "POST / HTTP/1.1\r\nHost: localhost\r\n";
    let body = format!("{begun}Content-Length: 10000\r\n\r\n");
    let counters = ["timeouts_idle", "timeouts_header", "timeouts_body"];
    for (sent, counter) in ["", begun, &body].into_iter().zip(counters) {
        let mut client = settled(&server);
        client.send(sent.as_bytes());
        let record = sealed(&mut client, &[b'x'; 8000]);
        let dripped = drip(&mut client.socket, PACE, bytes_of(&record));
        assert!(dripped.sent < record.len(), "{counter}: {dripped:?}");
        assert!(dripped.elapsed >= LIMIT, "{counter}: {dripped:?}");
        assert!(dripped.elapsed < LIMIT_PASSED, "{counter}: {dripped:?}");
        server.wait_for_counter(counter, 1);
    }
}

/// The rule for bodies is progress: a slow one may take longer than the bound.
fn a_body_that_goes_on_is_waited_for(policy: Policy) {
    let server = with_timeouts(policy, &["body_progress_ms = 500"]).start();
    let mut client = settled(&server);
    client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\n");
    let pieces: Vec<_> = (0..12).map(|_| sealed(&mut client, b"x")).collect();
    let dripped = drip(&mut client.socket, LIMIT / 5, pieces);
    assert!(dripped.elapsed > 2 * LIMIT, "{dripped:?}");
    // Files take no POST; what matters is that the body was waited for and the connection goes on.
    assert_eq!(client.read_response().status(), 405);
    assert_eq!(client.get("/1k").status(), 404);
    assert_eq!(server.counters()["timeouts_body"], 0);
}

fn an_idle_connection_ends_without_a_word(policy: Policy) {
    let server = with_timeouts(policy, &["idle_ms = 500", "header_ms = 500"])
        .workers(1)
        .start();
    server.write_content("1k", KIB);
    drop(settled(&server));
    server.wait_for_counter("connections_closed", 1);
    let before = at_rest(&server, 0);
    for (versions, is_used) in [(TLS13, false), (TLS12, false), (TLS13, true), (TLS12, true)] {
        let manner = Manner {
            versions,
            ..Manner::default()
        };
        let mut client = manner.connect(&server);
        if is_used {
            assert_eq!(client.get("/1k").status(), 200);
        }
        let start = Instant::now();
        let (bytes, ending) = client.read_rest();
        assert_eq!((bytes.len(), ending), (0, Ending::CloseNotify));
        // The server's clock began before ours, by a round trip.
        assert!(start.elapsed() > LIMIT / 2, "{:?}", start.elapsed());
        assert!(start.elapsed() < LIMIT_PASSED, "{:?}", start.elapsed());
    }
    // Who has connected is to ask: only between requests is a connection idle.
    assert_eq!(server.counters()["timeouts_header"], 2);
    assert_eq!(server.counters()["timeouts_idle"], 2);
    assert_eq!(server.counters()["errors_client"], 0);
    server.wait_for_holdings(before);
}

fn a_reader_that_does_not_read_is_cut(policy: Policy) {
    let server = with_timeouts(policy, &["send_progress_ms = 1500"]).start();
    server.write_content("64m", 64 * MIB);
    let manner = reader_with_little_room();
    let mut client = manner.connect(&server);
    client.ask("/64m");
    server.wait_for_counter("timeouts_send", 1);
    server.wait_for_counter("connections_closed", 1);
    let head = client.read_head();
    assert_eq!(status(&head), 200);
    let (body, ending) = client.read_rest();
    assert!(
        matches!(ending, Ending::Truncated | Ending::Reset),
        "{ending:?}"
    );
    assert!(body.len() < 64 * MIB);
    assert_same_bytes(&body, content(body.len()), "what came before the cut");
    // One that reads is not cut, however long all of it takes. Its memory is touched before: that
    // can take longer than the bound.
    let mut body = vec![1; 64 * MIB];
    body.clear();
    let mut slow = manner.connect(&server);
    slow.ask("/64m");
    slow.read_head();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2 * 1500) {
        // Its pace, far within the bound however busy the machine is.
        std::thread::park_timeout(Duration::from_millis(50));
        slow.read_into(&mut body, MIB / 2);
    }
    let left = 64 * MIB - body.len();
    slow.read_into(&mut body, left);
    assert_same_bytes(&body, content(64 * MIB), "by a slow reader");
    assert_eq!(server.counters()["timeouts_send"], 1);
}

#[test]
fn a_full_worker_closes_newcomers() {
    let server = Setup::new(Policy::Auto)
        .workers(1)
        .table("limits", "connections_per_worker_max = 3")
        .start();
    server.write_content("1k", KIB);
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(&server)).collect();
    for refused in 1..=5 {
        assert!(is_refused(Manner::default().try_connect(&server)));
        assert_eq!(server.counters()["refused_worker_full"], refused);
    }
    for client in &mut clients {
        assert_eq!(client.get("/1k").status(), 200);
    }
    drop(clients.pop());
    // Its place is free when the server has seen it go.
    server.wait_for_counter("connections_closed", 6);
    assert_eq!(Client::connect(&server).get("/1k").status(), 200);
}

/// Over all workers: whichever takes a connection, its address is the same.
#[test]
fn an_address_has_its_share_of_connections() {
    let server = Setup::new(Policy::Auto)
        .workers(2)
        .table("limits", "connections_per_address_max = 4")
        .start();
    let address = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    let held: Vec<_> = (0..4)
        .map(|_| connect_from(address(5), server.address))
        .collect();
    server.wait_for_counter("connections_accepted", 4);
    for refused in 1..=8 {
        assert_closed_silently(connect_from(address(5), server.address));
        server.wait_for_counter("refused_address_full", refused);
    }
    // Others are not its business.
    let other: Vec<_> = (0..4)
        .map(|_| connect_from(address(6), server.address))
        .collect();
    server.wait_for_counter("connections_accepted", 16);
    assert_eq!(server.counters()["refused_address_full"], 8);
    drop(held);
    server.wait_for_counter("connections_closed", 8 + 4);
    let again: Vec<_> = (0..4)
        .map(|_| connect_from(address(5), server.address))
        .collect();
    server.wait_for_counter("connections_accepted", 20);
    assert_eq!(server.counters()["refused_address_full"], 8);
    drop((other, again));
}

/// RFC 9112 9.6: a response that is sent while the client sends must not be destroyed by a reset.
fn what_is_too_large_is_told_to_a_client_that_still_sends(policy: Policy) {
    let server = Setup::new(policy)
        .workers(1)
        .table("limits", "header_bytes_max = 1024")
        .table("limits", "target_bytes_max = 256")
        .table("limits", "body_bytes_max = 1000")
        .start();
    drop(settled(&server));
    server.wait_for_counter("connections_closed", 1);
    let before = at_rest(&server, 0);
    let long = "x".repeat(2000);
    let post = "POST / HTTP/1.1\r\nHost: localhost\r\n";
    for (begin, expected) in [
        (
            format!("GET / HTTP/1.1\r\nHost: localhost\r\nA: {long}"),
            431,
        ),
        (
            format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", &long[..300]),
            414,
        ),
        (format!("{post}Content-Length: 1001\r\n\r\n"), 413),
        (format!("{post}Content-Length: 99999999999\r\n\r\n"), 413),
        (
            format!("{post}Transfer-Encoding: chunked\r\n\r\n3e9\r\n"),
            413,
        ),
    ] {
        let mut client = Client::connect(&server);
        client.send(begin.as_bytes());
        // More than the sockets hold: it goes only because the server reads it.
        for _ in 0..32 {
            client.send(&[b'y'; 64 * KIB]);
        }
        let response = client.read_response();
        assert_eq!(response.status(), expected, "{}", &begin[..60]);
        assert_eq!(response.field("connection"), Some("close"));
        assert_eq!(client.read_to_ending(), Ending::CloseNotify);
        drop(client);
    }
    // At the bound, all is well.
    let mut client = Client::connect(&server);
    client.send(format!("{post}Content-Length: 1000\r\n\r\n{}", &long[..1000]).as_bytes());
    assert_eq!(client.read_response().status(), 405);
    client.ask(&format!("/{}", &long[..255]));
    assert_eq!(client.read_response().status(), 404);
    drop(client);
    server.wait_for_holdings(before);
}

fn requests_are_counted_by_connection(policy: Policy) {
    let server = Setup::new(policy)
        .table("limits", "requests_per_connection_max = 3")
        .start();
    server.write_content("1k", KIB);
    let mut client = Client::connect(&server);
    client.send(request("/1k").repeat(5).as_bytes());
    for (number, expected) in [(1, None), (2, None), (3, Some("close"))] {
        let response = client.read_response();
        assert_eq!(response.field("connection"), expected, "response {number}");
        assert_same_bytes(&response.body, content(KIB), "pipelined");
    }
    let (bytes, ending) = client.read_rest();
    assert_eq!((bytes.len(), ending), (0, Ending::CloseNotify));
    assert_eq!(server.counters()["requests"], 3);
}

/// RFC 8446 5.5, 4.6.3
fn a_used_up_key_is_changed(policy: Policy) {
    if policy != Policy::Never && kernel_tls() == KernelTls::WithoutRekey {
        // It cannot be: the next test has those that end for it.
        return;
    }
    let server = with_small_keys(policy);
    let mut client = Manner {
        versions: TLS13,
        ..Manner::default()
    }
    .connect(&server);
    let response = client.get("/16m");
    assert_same_bytes(&response.body, content(16 * MIB), "under many keys");
    for _ in 0..RECORDS_PER_KEY {
        assert_same_bytes(&client.get("/1k").body, content(KIB), "under many keys");
    }
    // 1024 full records and as many small ones as a key is good for.
    let updates = server.counters()["key_updates_sent"];
    assert!((3..=5).contains(&updates), "{updates} KeyUpdates");
    assert_eq!(server.counters()["key_exhausted"], 0);
    client.close_notify();
    assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    assert_by_openssl(&server);
}

/// A foreign client follows the keys too.
fn assert_by_openssl(server: &Server) {
    let mut command = OPENSSL.command();
    command.args(["s_client", "-quiet", "-tls1_3", "-servername", "localhost"]);
    command.args(["-CAfile", &server.authority(), "-verify_return_error"]);
    command.args(["-connect", &server.address.to_string()]);
    let mut running = OPENSSL.start(&mut command);
    running.write(b"GET /16m HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let finished = running.finish().success();
    let head = find(&finished.stdout, b"\r\n\r\n").unwrap();
    let body = &finished.stdout[head + 4..];
    assert_same_bytes(body, content(16 * MIB), "by openssl");
}

/// TLS 1.2 has no KeyUpdate, and kernels before 6.14 cannot follow one.
fn without_key_updates_a_used_up_key_ends_the_connection(policy: Policy) {
    let server = with_small_keys(policy);
    let manner = |versions| Manner {
        versions,
        ..Manner::default()
    };
    small_responses_end_in_good_order(&server, &manner(TLS12));
    a_large_response_is_cut(&server, &manner(TLS12));
    if kernel_tls() == KernelTls::WithoutRekey && policy == Policy::Always {
        a_large_response_is_cut(&server, &manner(TLS13));
        small_responses_end_in_good_order(&server, &manner(TLS13));
    }
    assert_eq!(server.counters()["key_updates_sent"], 0);
    if kernel_tls() == KernelTls::WithoutRekey && policy == Policy::Auto {
        // It does not go where its key cannot be changed.
        let mut client = manner(TLS13).connect(&server);
        let response = client.get("/16m");
        assert_same_bytes(&response.body, content(16 * MIB), "with keys changed");
        assert!(server.counters()["key_updates_sent"] > 0);
    }
}

/// The last response says that it is, and the connection ends as it should.
fn small_responses_end_in_good_order(server: &Server, manner: &Manner) {
    let mut client = manner.connect(server);
    let mut responses = 0;
    loop {
        let response = client.get("/1k");
        assert_same_bytes(&response.body, content(KIB), "under one key");
        responses += 1;
        assert!(responses < RECORDS_PER_KEY, "the key is used up");
        if response.field("connection") == Some("close") {
            break;
        }
    }
    assert!(
        responses >= RECORDS_PER_KEY / 4,
        "the key was good for more"
    );
    assert_eq!(client.read_to_ending(), Ending::CloseNotify);
}

/// A response that needs more records than the key has is cut, and shows it.
fn a_large_response_is_cut(server: &Server, manner: &Manner) {
    let counters = server.counters();
    let mut client = manner.connect(server);
    client.ask("/16m");
    client.read_head();
    let (body, ending) = client.read_rest();
    assert_eq!(ending, Ending::Alert(AlertDescription::InternalError));
    assert!(
        body.len() <= RECORDS_PER_KEY * 16 * KIB,
        "{} bytes under one key",
        body.len()
    );
    assert_same_bytes(&body, content(body.len()), "under one key");
    assert_eq!(server.counters().since(&counters, "key_exhausted"), 1);
}

fn a_termination_lets_downloads_finish(policy: Policy) {
    let mut server = Setup::new(policy).start();
    server.write_content("64m", 64 * MIB);
    server.write_content("1k", KIB);
    let mut idle: Vec<_> = (0..8).map(|_| Client::connect(&server)).collect();
    for client in &mut idle {
        assert_eq!(client.get("/1k").status(), 200);
    }
    let mut downloads: Vec<_> = (0..4).map(|_| download_under_way(&server)).collect();
    let start = Instant::now();
    server.terminate();
    for client in &mut idle {
        let (bytes, ending) = client.read_rest();
        assert_eq!((bytes.len(), ending), (0, Ending::CloseNotify));
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    wait_until_nobody_listens(&server);
    for client in &mut downloads {
        let head = client.read_head();
        assert_eq!(field(&head, "content-length"), Some("67108864"));
        let mut body = Vec::new();
        client.read_into(&mut body, 64 * MIB);
        assert_same_bytes(&body, content(64 * MIB), "during a drain");
        assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    }
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_request_begun_before_a_termination_is_answered() {
    let mut server = Setup::new(Policy::Auto).start();
    server.write_content("1k", KIB);
    let mut client = Client::connect(&server);
    client.send(b"GET /1k HTTP/1.1\r\nHost: ");
    wait_until_taken(&client.socket);
    server.terminate();
    wait_until_nobody_listens(&server);
    client.send(b"localhost\r\n\r\n");
    let response = client.read_response();
    assert_eq!(response.status(), 200);
    assert_eq!(response.field("connection"), Some("close"));
    assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    drop(client);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_termination_stops_at_once() {
    let mut server = Setup::new(Policy::Auto).start();
    server.write_content("64m", 64 * MIB);
    let client = download_under_way(&server);
    server.terminate();
    server.wait_for_log("draining");
    let start = Instant::now();
    server.terminate();
    assert_eq!(server.wait().code(), Some(1));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    server.wait_for_log("second signal");
    drop(client);
}

#[test]
fn a_drain_answers_all_who_had_connected() {
    let mut server = Setup::new(Policy::Auto).workers(1).with_redirect().start();
    let redirect = server.redirect.unwrap();
    // While the process stands still the kernel fills the queue, here for several turns of accepting.
    server.signal(libc::SIGSTOP);
    let request = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let queued: Vec<TcpStream> = std::iter::repeat_with(|| {
        let mut socket = Manner::default().connect_tcp(redirect);
        socket.write_all(request).unwrap();
        socket
    })
    .take(5 * ACCEPTS_PER_TURN_MAX)
    .collect();
    server.terminate();
    server.signal(libc::SIGCONT);
    for mut socket in queued {
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert_eq!(status(&answer), 308);
    }
    assert_eq!(server.wait().code(), Some(0));
    server.wait_for_log(&format!("responses_3xx={}", 5 * ACCEPTS_PER_TURN_MAX));
}

#[test]
fn a_drain_has_an_end() {
    let mut server = with_timeouts(Policy::Auto, &["drain_ms = 500"]).start();
    server.write_content("64m", 64 * MIB);
    let client = download_under_way(&server);
    let start = Instant::now();
    server.terminate();
    assert_eq!(server.wait().code(), Some(1));
    assert!(start.elapsed() >= LIMIT, "{:?}", start.elapsed());
    assert!(start.elapsed() < LIMIT_PASSED, "{:?}", start.elapsed());
    drop(client);
}

/// RFC 9112 6.1, 6.3, 5.2, 2.2, 3.2: what two parsers could frame differently.
fn smuggled_requests_are_refused(policy: Policy) {
    let server = Setup::new(policy).start();
    server.write_content("1k", KIB);
    let post = "POST /1k HTTP/1.1\r\nHost: localhost\r\n";
    let get = "GET /1k HTTP/1.1\r\nHost: localhost\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    let inner = "GET /1k HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for shape in [
        format!("{post}Content-Length: 4\r\n{chunked}\r\n0\r\n\r\n{inner}"),
        format!("{post}{chunked}Content-Length: 4\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}Content-Length: 0\r\nContent-Length: 38\r\n\r\n{inner}"),
        format!("{post}Content-Length: 0, 38\r\n\r\n{inner}"),
        format!("{post}Content-Length: +0\r\n\r\n{inner}"),
        format!("{post}Content-Length: 0x0\r\n\r\n{inner}"),
        format!("{post}Content-Length : 0\r\n\r\n{inner}"),
        format!("{post}{chunked}{chunked}\r\n0\r\n\r\n{inner}"),
        format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{get}X: a\r\n folded\r\n\r\n{inner}"),
        format!("{get} Content-Length: 38\r\n\r\n{inner}"),
        format!("{get}X: a\nContent-Length: 38\r\n\r\n{inner}"),
        format!("{get}X: a\rContent-Length: 38\r\n\r\n{inner}"),
        format!("GET /1k HTTP/1.1\nHost: localhost\n\n{inner}"),
        format!("{get}X: a\0b\r\n\r\n{inner}"),
        format!("{get}Host: localhost\r\n\r\n{inner}"),
        format!("GET /1k HTTP/1.1\r\n\r\n{inner}"),
        format!("{post}{chunked}\r\n0x0\r\n\r\n{inner}"),
        format!("{post}{chunked}\r\n0\n\n{inner}"),
        format!("{post}{chunked}\r\n5\r\nhelloX0\r\n\r\n{inner}"),
        format!("{post}{chunked}\r\nfffffffffffffffff\r\n{inner}"),
        format!("{post}{chunked}\r\n-1\r\n\r\n{inner}"),
    ] {
        let mut client = Client::connect(&server);
        client.send(shape.as_bytes());
        let (bytes, ending) = client.read_rest();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(ending, Ending::CloseNotify, "{shape:?}: {text}");
        assert_eq!(status(&text), 400, "{shape:?}");
        assert_eq!(field(&text, "connection"), Some("close"), "{shape:?}");
        // A second response would be the smuggled request's.
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{shape:?}: {text}");
    }
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/1k").status(), 200);
}

/// RFC 9110 15.5.20: the session was agreed on under another site's rules.
#[test]
fn rfc9110_15_5_20_a_host_under_another_tls_policy_is_misdirected() {
    let server = Setup::new(Policy::Auto)
        .site(&["localhost"], KeyKind::P256, "root")
        .site(&["same.test"], KeyKind::P256, "root")
        .site_with(
            &["strict.test"],
            KeyKind::P256,
            "root",
            "tls = { version_min = \"1.3\" }",
        )
        .start();
    server.write_content("1k", KIB);
    for (name, host, expected) in [
        ("localhost", "localhost", 200),
        ("localhost", "same.test", 200),
        ("localhost", "strict.test", 421),
        ("strict.test", "strict.test", 200),
        ("strict.test", "localhost", 421),
    ] {
        let mut client = Manner {
            name,
            ..Manner::default()
        }
        .connect(&server);
        let ask = format!("GET /1k HTTP/1.1\r\nHost: {host}\r\n\r\n");
        client.send(ask.as_bytes());
        let found = client.read_response().status();
        assert_eq!(found, expected, "SNI {name}, Host {host}");
    }
}

fn with_timeouts(policy: Policy, lines: &[&str]) -> Setup {
    let setup = Setup::new(policy);
    lines
        .iter()
        .fold(setup, |setup, line| setup.table("timeouts", line))
}

/// A server whose keys are good for few records.
fn with_small_keys(policy: Policy) -> Server {
    let server = Setup::new(policy)
        .table(
            "limits",
            &format!("records_per_key_max = {RECORDS_PER_KEY}"),
        )
        .start();
    server.write_content("1k", KIB);
    server.write_content("16m", 16 * MIB);
    server
}

/// A connection on which nothing waits to be read: session tickets are not taken for an answer.
fn settled(server: &Server) -> Client {
    let mut client = Client::connect(server);
    assert_eq!(client.get("/nothing").status(), 404);
    client
}

fn reader_with_little_room() -> Manner {
    Manner {
        receive_buffer_bytes: Some(16 * KIB),
        ..Manner::default()
    }
}

/// A download of 64 MiB whose client does not read yet.
fn download_under_way(server: &Server) -> Client {
    let mut client = reader_with_little_room().connect(server);
    client.ask("/64m");
    client.wait_until_full();
    client
}

fn wait_until_nobody_listens(server: &Server) {
    until_some("connections are refused", || {
        match TcpStream::connect(server.address) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(()),
            // One that was queued when the listener closed is reset or served.
            _ => None,
        }
    });
}

fn bytes_of(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.iter().map(|&byte| vec![byte]).collect()
}

/// The least that may be set.
const RECORDS_PER_KEY: usize = 384;

/// The bound that most tests here set.
const LIMIT: Duration = Duration::from_millis(500);

/// By when it has passed surely: the wheel turns four times a second, and machines are busy.
const LIMIT_PASSED: Duration = Duration::from_secs(5);

/// Between the bytes of a slow client.
const PACE: Duration = Duration::from_millis(10);
