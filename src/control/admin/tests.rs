use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::connections::{Exchange, Progress};
use super::http::{Answer, Hosts};
use super::*;

/// What is answered to `request` by a listener for `hosts` that has only "/known".
fn exchange(request: &[u8], hosts: Hosts) -> String {
    let (mut client, server) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    client.write_all(request).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let known = |path: &str| match path {
        "/known" => Answer::text(200, "body\n"),
        _ => Answer::text(404, "unknown\n"),
    };
    let mut exchange = Exchange::new(Box::new(server), Instant::now());
    // All of it is there. A head that never ends has no answer, and is an error here.
    match exchange.advance(hosts, &known) {
        Ok(progress) => assert_eq!(progress, Progress::Over),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof),
    }
    drop(exchange);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn a_request_is_answered_by_its_path() {
    let answer = exchange(
        b"GET /known?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        Hosts::Local,
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nbody\n"), "{answer}");
    assert!(answer.contains("content-length: 5\r\n"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let unknown = exchange(b"GET / HTTP/1.0\r\n\r\n", Hosts::Local);
    assert_eq!(status(&unknown), "404");
}

#[test]
fn head_has_no_body_and_other_methods_no_answer() {
    let head = exchange(
        b"HEAD /known HTTP/1.1\r\nHost: [::1]:9\r\n\r\n",
        Hosts::Local,
    );
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("content-length: 5\r\n"), "{head}");
    let post = exchange(
        b"POST /known HTTP/1.1\r\nHost: localhost\r\n\r\n",
        Hosts::Local,
    );
    assert_eq!(status(&post), "405");
}

#[test]
fn a_foreign_name_is_refused_on_a_local_listener() {
    for (host, hosts, expected) in [
        ("evil.test", Hosts::Local, "421"),
        ("evil.test:80", Hosts::Local, "421"),
        ("localhost.evil.test", Hosts::Local, "421"),
        ("evil.test", Hosts::Any, "200"),
        ("127.0.0.1:9443", Hosts::Local, "200"),
        ("LOCALHOST:1", Hosts::Local, "200"),
        ("[::1]", Hosts::Local, "200"),
    ] {
        let request = format!("GET /known HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = exchange(request.as_bytes(), hosts);
        assert_eq!(status(&answer), expected, "{host}");
    }
    let two = b"GET /known HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n\r\n";
    assert_eq!(status(&exchange(two, Hosts::Local)), "421");
}

#[test]
fn what_is_no_request_is_told_so() {
    assert_eq!(
        status(&exchange(b"\x16\x03\x01\r\n\r\n", Hosts::Any)),
        "400"
    );
    let long = format!("GET /known HTTP/1.1\r\nX: {}", "a".repeat(8 * 1024));
    assert_eq!(status(&exchange(long.as_bytes(), Hosts::Any)), "431");
    assert_eq!(exchange(b"GET /known HT", Hosts::Any), "");
    let many = "X: y\r\n".repeat(65);
    let many = format!("GET /known HTTP/1.1\r\n{many}\r\n");
    assert_eq!(status(&exchange(many.as_bytes(), Hosts::Any)), "400");
}

#[test]
fn a_socket_left_behind_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let first = bind_unix(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    // Somebody answers there.
    let taken = bind_unix(&path).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    drop(first);
    drop(bind_unix(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "a file").unwrap();
    assert!(bind_unix(&path).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

#[test]
fn phases_are_told_as_they_were_set() {
    let phase = CurrentPhase::default();
    assert_eq!(phase.get(), Phase::Starting);
    for next in [Phase::Ready, Phase::Draining] {
        phase.set(next);
        assert_eq!(phase.get(), next);
    }
}
