//! Backends that fail at each phase, clients that leave at each phase. Each costs its own request,
//! and leaves nothing behind.

use super::backend::Backend;
use super::{passing_on, read_chunk};
use crate::support::Policy;
use crate::support::client::{Client, Ending};
use crate::support::files::MIB;
use crate::support::server::Setup;
use crate::support::wait::until_equal;
use crate::support_faults::Leave;

#[test]
fn a_backend_that_gives_no_answer_is_502_or_504() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "first_byte_ms = 500").start();
    let before = server.holdings();
    let mut client = Client::connect(&server);
    for (path, status) in [
        ("/die", 502),
        ("/die/head", 502),
        ("/garbage", 502),
        ("/two-lengths", 502),
        ("/smuggled", 502),
        ("/bare-lf", 502),
        ("/folded", 502),
        ("/unasked-upgrade", 502),
        ("/flood", 502),
        ("/endless", 502),
        ("/stall", 504),
        ("/stall/head", 504),
    ] {
        assert_eq!(client.get(path).status(), status, "{path}");
        assert_eq!(backend.asked_for(path), 1, "{path}: it had its chance");
        // The client's connection and the next request have nothing to do with it.
        assert_eq!(client.get("/hello").status(), 200, "after {path}");
    }
    let counters = server.counters();
    assert_eq!(counters["upstream_failures"], 10);
    assert_eq!(counters["upstream_timeouts"], 2);
    assert_eq!(counters["responses_5xx"], 12);
    drop(client);
    until_equal("open connections at the backend", &1, || backend.open());
    server.wait_for_counter("connections_closed", 1);
    assert!(
        server.holdings().descriptors <= before.descriptors + 1,
        "one idle connection"
    );
}

#[test]
fn half_an_answer_is_seen_to_be_half() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "between_bytes_ms = 500").start();
    for path in ["/die/body", "/die/chunk", "/stall/body"] {
        let mut client = Client::connect(&server);
        client.ask(path);
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
        let (rest, ending) = client.read_rest();
        assert!(String::from_utf8_lossy(&rest).contains("half"), "{path}");
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{path}");
        assert_ne!(ending, Ending::CloseNotify, "{path}");
    }
    let counters = server.counters();
    assert_eq!(counters["upstream_responses_cut"], 3);
    assert_eq!(counters["errors_upstream"], 3);
    until_equal("open connections at the backend", &0, || backend.open());
}

#[test]
fn bytes_beyond_an_answer_are_no_answer_to_the_next() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "").start();
    let mut client = Client::connect(&server);
    let more = client.get("/more");
    assert_eq!((more.status(), &*more.body), (200, &b"abc"[..]));
    assert_eq!(client.get("/hello").body, b"hello");
    assert_eq!(backend.accepted(), 2);
}

#[test]
fn only_what_may_be_repeated_is_sent_again() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "").start();
    let mut client = Client::connect(&server);
    assert_eq!(client.get("/once").body, b"once");
    // The idle connection dies of it; the request is sent again over a new one.
    assert_eq!(client.get("/once").body, b"once");
    assert_eq!(backend.asked_for("/once"), 3);
    let post = b"POST /once HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    client.send(post);
    assert_eq!(client.read_response().status(), 502);
    assert_eq!(backend.asked_for("/once"), 4, "once, and not again");
    assert_eq!(server.counters()["upstream_retries"], 1);
}

#[test]
fn a_refusal_before_the_bodys_end_is_passed_on() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "").start();
    let mut client = Client::connect(&server);
    client
        .send(b"POST /refuse-body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\nx");
    assert_eq!(client.read_response().status(), 413);
    drop(client);
    until_equal("open connections at the backend", &0, || backend.open());
}

#[test]
fn nobody_there_is_502_and_a_full_house_503() {
    let backend = Backend::start();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = format!(
        "name = \"app\"\n[[upstream.server]]\naddress = \"tcp://{}\"",
        gone.local_addr().unwrap()
    );
    drop(gone);
    let server = Setup::new(Policy::Auto)
        .table("[upstream]", &refused)
        .table("[site.route]", "prefix = \"/\"\nupstream = \"app\"")
        .start();
    assert_eq!(Client::connect(&server).get("/hello").status(), 502);

    let full = format!(
        "name = \"app\"\n[[upstream.server]]\naddress = \"tcp://{}\"\nconnections_max = 1\n\
         [upstream.http]\nqueue_max = 1\nqueue_ms = 1000",
        backend.address
    );
    let server = Setup::new(Policy::Auto)
        .workers(1)
        .table("[upstream]", &full)
        .table("[site.route]", "prefix = \"/\"\nupstream = \"app\"")
        .start();
    let mut first = Client::connect(&server);
    first.ask("/stall");
    until_equal("requests at the backend", &1, || {
        backend.asked_for("/stall")
    });
    let mut second = Client::connect(&server);
    second.ask("/hello");
    server.wait_for_counter("upstream_queued", 1);
    let mut third = Client::connect(&server);
    let refused = third.get("/hello");
    assert_eq!(
        (refused.status(), refused.field("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(second.read_response().status(), 503);
    let counters = server.counters();
    assert_eq!(
        (
            counters["upstream_queue_full"],
            counters["upstream_queue_timeouts"]
        ),
        (1, 1)
    );
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "first_byte_ms = 2000").start();
    let before = server.holdings();
    let upload = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nhalf";
    for leave in Leave::ALL {
        // While the answer is awaited.
        let mut client = Client::connect(&server);
        client.ask("/stall");
        until_equal("requests", &true, || backend.asked_for("/stall") > 0);
        leave.end(client.socket);
        // In the middle of its own body.
        let mut client = Client::connect(&server);
        client.send(upload.as_bytes());
        assert!(client.read_head().starts_with("HTTP/1.1 200 "));
        assert_eq!(read_chunk(&mut client).unwrap(), b"half");
        leave.end(client.socket);
        // In the middle of the answer.
        let mut client = Client::connect(&server);
        client.ask("/big");
        client.read_head();
        leave.end(client.socket);
        // In the middle of an upgraded connection.
        let mut client = Client::connect(&server);
        client.send(
            b"GET /upgrade HTTP/1.1\r\nHost: localhost\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n",
        );
        client.read_head();
        leave.end(client.socket);
    }
    until_equal("open connections of clients", &0, || {
        server.holdings().connections
    });
    // What is left is idle, and good for the next.
    until_equal("connections at the backend", &true, || backend.open() <= 2);
    // Where the kernel seals, the answer may have begun to be spliced: the worker keeps that pipe.
    let pipe = match server.counters()["offloaded_send"] {
        0 => 0,
        _ => 2,
    };
    until_equal("no descriptor too many", &true, || {
        server.holdings().descriptors <= before.descriptors + backend.open() + pipe
    });
    assert_eq!(Client::connect(&server).get("/hello").status(), 200);
}

#[test]
fn an_upgraded_connection_in_which_nothing_moves_is_closed() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "upgraded_idle_ms = 500").start();
    let mut client = Client::connect(&server);
    client.send(
        b"GET /upgrade HTTP/1.1\r\nHost: localhost\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n",
    );
    let head = client.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let (rest, ending) = client.read_rest();
    // Neither end is to take it for the whole.
    assert_eq!(&*rest, b"hi");
    assert_ne!(ending, Ending::CloseNotify);
    assert_eq!(server.counters()["timeouts_idle"], 1);
    until_equal("open connections at the backend", &0, || backend.open());
    assert_eq!(backend.reset(), 1);
}

#[test]
fn an_upgraded_connection_that_its_client_breaks_off_is_reset() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "").start();
    for (index, leave) in (1..).zip(Leave::ALL) {
        let mut client = Client::connect(&server);
        client.send(
            b"GET /upgrade HTTP/1.1\r\nHost: localhost\r\nUpgrade: echo\r\nConnection: upgrade\r\n\r\n",
        );
        client.read_head();
        leave.end(client.socket);
        until_equal("resets at the backend", &index, || backend.reset());
    }
    until_equal("open connections at the backend", &0, || backend.open());
}

/// The client is told by a 504 as soon as its request stands still, and by nothing later.
#[test]
fn a_backend_that_reads_no_body_is_504() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "first_byte_ms = 500")
        .table("timeouts", "send_progress_ms = 500")
        .table("limits", "body_bytes_max = 100000000")
        .start();
    let before = server.holdings();
    let mut client = Client::connect(&server);
    client.send(b"POST /deaf HTTP/1.1\r\nHost: localhost\r\nContent-Length: 64000000\r\n\r\n");
    client.socket.set_nonblocking(true).unwrap();
    let piece = vec![b'x'; 32 * 1024];
    crate::support::wait::until_settled(
        "the server takes no more",
        || {
            use std::io::Write;
            drop(client.tls.writer().write(&piece));
            let mut sent = 0;
            while let Ok(count @ 1..) = client.tls.write_tls(&mut client.socket) {
                sent += count;
            }
            sent
        },
        |&sent| sent == 0,
    );
    client.socket.set_nonblocking(false).unwrap();
    // Without sending first what is still to be sent, as reading otherwise does.
    let mut answer = Vec::new();
    while !answer.starts_with(b"HTTP/1.1 504 ") {
        use std::io::Read;
        let mut buffer = [0; 1024];
        match client.tls.reader().read(&mut buffer) {
            Ok(count @ 1..) => answer.extend_from_slice(&buffer[..count]),
            Ok(0) => panic!("ended after {answer:?}"),
            Err(_) => {
                let read = client.tls.read_tls(&mut client.socket).unwrap();
                assert_ne!(read, 0, "ended after {answer:?}");
                client.tls.process_new_packets().unwrap();
            }
        }
    }
    assert_eq!(server.counters()["upstream_timeouts"], 1);
    drop(client);
    server.wait_for_holdings(before);
}

#[test]
fn a_client_that_vanishes_is_not_answered_by_anybody() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "").start();
    let before = server.holdings();
    for (index, leave) in (1..).zip(Leave::ALL) {
        let mut client = Client::connect(&server);
        client.ask("/stall");
        until_equal("requests", &index, || backend.asked_for("/stall"));
        leave.end(client.socket);
        // Long before `first_byte_ms`.
        until_equal("open connections at the backend", &0, || backend.open());
        assert_eq!(server.counters()["requests_abandoned"], index as u64);
    }
    // One that has said all it has to say is answered all the same.
    let mut client = Client::connect(&server);
    client.ask("/hello");
    client.close_notify();
    assert_eq!(client.read_response().body, b"hello");
    drop(client);
    server.wait_for_counter("connections_closed", 3);
    assert!(server.holdings().descriptors <= before.descriptors + 1);
}

/// Long before `first_byte_ms` or `between_bytes_ms`.
#[test]
fn a_client_that_vanishes_ends_its_request_in_each_phase() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "").start();
    let before = server.holdings();
    let mut gone = 0;
    for leave in Leave::ALL {
        // After the end of its own body, however that is framed.
        for rest in [
            "Content-Length: 4\r\n\r\nbody",
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            let asked = backend.asked_for("/stall");
            let mut client = Client::connect(&server);
            client.send(format!("POST /stall HTTP/1.1\r\nHost: localhost\r\n{rest}").as_bytes());
            until_equal("requests", &(asked + 1), || backend.asked_for("/stall"));
            leave.end(client.socket);
            gone += 1;
            server.wait_for_counter("requests_abandoned", gone);
            until_equal("open connections at the backend", &0, || backend.open());
        }
        // In the middle of an answer whose rest does not come, small and spliced.
        for (path, bytes) in [("/stall/body", 4), ("/stall/late", 2 * MIB)] {
            let mut client = Client::connect(&server);
            client.ask(path);
            client.read_head();
            client.read_into(&mut Vec::new(), bytes);
            leave.end(client.socket);
            gone += 1;
            server.wait_for_counter("requests_abandoned", gone);
            until_equal("open connections at the backend", &0, || backend.open());
        }
    }
    until_equal("open connections of clients", &0, || {
        server.holdings().connections
    });
    // The worker keeps one pipe.
    assert!(server.holdings().descriptors <= before.descriptors + 2);
}

/// Requests that come while the first is awaited are answered in their order.
#[test]
fn a_pipeline_behind_a_slow_answer_is_answered() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "first_byte_ms = 500").start();
    let mut client = Client::connect(&server);
    client.ask("/stall");
    until_equal("requests", &1, || backend.asked_for("/stall"));
    for _ in 0..3 {
        client.ask("/hello");
    }
    assert_eq!(client.read_response().status(), 504);
    for _ in 0..3 {
        assert_eq!(client.read_response().body, b"hello");
    }
}
