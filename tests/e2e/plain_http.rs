//! Clients that speak HTTP without TLS.

use std::io::{Read, Write};
use std::net::SocketAddr;

use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Client, Manner, field, status};
use crate::support::process::CURL;
use crate::support::server::Setup;

#[test]
fn http_on_the_tls_port_gets_an_answer_that_people_can_read() {
    let server = Setup::new(Policy::Auto).start();
    let answer = exchange(server.address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(status(&answer), 400);
    assert!(answer.contains("https://"), "{answer}");
    // A client that waits for its request to be taken whole before it reads.
    let mut upload = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".to_vec();
    upload.resize(upload.len() + 100_000, b'x');
    assert_eq!(status(&exchange(server.address, &upload)), 400);
    let finished = CURL
        .run(["-sS", "-i", &format!("http://{}/", server.address)])
        .success();
    assert_eq!(status(&finished.text()), 400);
    server.wait_for_counter("plain_http_on_tls_port", 3);
}

#[test]
fn the_redirect_listener_leads_to_the_same_place_under_https() {
    let server = Setup::new(Policy::Auto).with_redirect().start();
    let redirect = server.redirect.unwrap();
    let answer = exchange(
        redirect,
        b"GET /a/b?c=d%20e HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(status(&answer), 308);
    assert_eq!(
        field(&answer, "location"),
        Some("https://localhost:8443/a/b?c=d%20e")
    );
    let finished = CURL
        .run([
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{redirect_url}",
            "--resolve",
            &format!("localhost:{}:{}", redirect.port(), redirect.ip()),
            &format!("http://localhost:{}/x", redirect.port()),
        ])
        .success();
    assert_eq!(finished.text(), "308 https://localhost:8443/x");
}

/// RFC 6797 7.2: not over plain HTTP, where anyone could have written it.
#[test]
fn rfc6797_7_2_strict_transport_security_is_said_over_tls_only() {
    let server = Setup::new(Policy::Auto)
        .site_with(
            &["localhost"],
            KeyKind::P256,
            "root",
            "hsts = { max_age_s = 31536000, include_subdomains = true }",
        )
        .with_redirect()
        .start();
    server.write_content("1k", 1024);
    let response = Client::connect(&server).get("/1k");
    assert_eq!(
        response.field("strict-transport-security"),
        Some("max-age=31536000; includeSubDomains")
    );
    let request = b"GET /1k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = exchange(server.redirect.unwrap(), request);
    assert_eq!(status(&answer), 308);
    assert_eq!(field(&answer, "strict-transport-security"), None);
}

/// Sends `request` without TLS and gives everything that comes back.
fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut socket = Manner::default().connect_tcp(address);
    socket.write_all(request).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}
