//! Who is let in: lists of networks at listeners and sites, and request rates.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

use crate::reload::{edit, reload};
use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Client, Manner, field, status};
use crate::support::files::KIB;
use crate::support::http2::Http2;
use crate::support::server::{Server, Setup};
use crate::support_faults::connect_from;

#[test]
fn a_listener_closes_on_networks_it_does_not_let_in() {
    let server = Setup::new(Policy::Auto)
        .listener("deny = [\"127.0.0.64/26\"]\nallow = [\"127.0.0.0/8\", \"127.0.0.70\"]")
        .start();
    server.write_content("1k", KIB);
    for last in [1, 63, 70, 128] {
        let mut client = client_from(&server, last).unwrap();
        assert_eq!(client.get("/1k").status(), 200, "{last}");
    }
    let before = server.counters();
    for last in [64, 69, 71, 127] {
        assert!(client_from(&server, last).is_err(), "{last}");
    }
    server.wait_for_counter("refused_network", 4);
    let after = server.counters();
    assert_eq!(
        after["connections_accepted"],
        before["connections_accepted"] + 4
    );
    // Nothing of theirs was read.
    assert_eq!(after["handshakes_failed"], before["handshakes_failed"]);
    // A reload changes who is let in, at the same socket.
    edit(&server, |text| text.replace("127.0.0.64/26", "127.0.0.1"));
    reload(&server).success();
    let mut client = client_from(&server, 64).unwrap();
    assert_eq!(client.get("/1k").status(), 200);
    assert!(client_from(&server, 1).is_err());
}

#[test]
fn a_site_answers_403_to_networks_it_does_not_let_in() {
    let server = Setup::new(Policy::Auto)
        .site_with(
            &["localhost"],
            KeyKind::P256,
            "root",
            "allow = [\"127.0.0.1\", \"127.0.0.3\"]\n[[site.error_pages]]\nstatuses = [403]\n\
             file = \"/403.html\"",
        )
        .site(&["other.test"], KeyKind::P256, "root");
    let server = server.root_file("403.html", "not for you").start();
    server.write_content("1k", KIB);
    let mut client = client_from(&server, 3).unwrap();
    assert_eq!(client.get("/1k").status(), 200);
    let mut stranger = client_from(&server, 2).unwrap();
    for path in ["/1k", "/none"] {
        let refused = stranger.get(path);
        assert_eq!(
            (refused.status(), &*refused.body),
            (403, &b"not for you"[..])
        );
    }
    // The site of the request's own name is what counts, and a body is taken all the same.
    stranger.send(b"GET /1k HTTP/1.1\r\nHost: other.test\r\n\r\n");
    assert_eq!(stranger.read_response().status(), 200);
    stranger.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab");
    assert_eq!(stranger.read_response().status(), 403);
    assert_eq!(stranger.get("/1k").status(), 403);
    assert_eq!(server.counters()["requests_refused_network"], 4);
}

#[test]
fn the_client_that_a_trusted_proxy_tells_of_is_let_in_or_not() {
    let server = Setup::new(Policy::Auto)
        .site_with(
            &["localhost"],
            KeyKind::P256,
            "root",
            "deny = [\"192.0.2.0/24\"]",
        )
        .table("proxies", "trusted = [\"127.0.0.1\", \"10.0.0.0/8\"]")
        .start();
    server.write_content("1k", KIB);
    for (last, told, status) in [
        (1, "192.0.2.1", 403),
        (1, "198.51.100.1, 192.0.2.1, 10.0.0.1", 403),
        (1, "192.0.2.1, 198.51.100.1", 200),
        // Nobody's proxy.
        (2, "192.0.2.1", 200),
    ] {
        let mut client = client_from(&server, last).unwrap();
        let head = format!("Host: localhost\r\nX-Forwarded-For: {told}\r\n\r\n");
        client.send(format!("GET /1k HTTP/1.1\r\n{head}").as_bytes());
        assert_eq!(client.read_response().status(), status, "{last} {told}");
        if last == 1 {
            let mut http2 = Http2::connect(&http2_manner(), &server, &[]);
            let fields = [
                (":method", "GET"),
                (":path", "/1k"),
                ("x-forwarded-for", told),
            ];
            assert_eq!(ask(&mut http2, &fields).0, status, "{told} over HTTP/2");
        }
    }
    assert_eq!(server.counters()["requests_refused_network"], 4);
}

#[test]
fn too_many_requests_of_one_client_get_429() {
    let server = Setup::new(Policy::Auto)
        .site(&["localhost"], KeyKind::P256, "root")
        .site_with(
            &["own.test"],
            KeyKind::P256,
            "root",
            "[site.rate_limit]\nrequests = 1\nper_s = 3600",
        )
        .table("rate_limit", "requests = 1\nper_s = 3600\nburst = 4")
        .table("rate_limit", "exempt = [\"127.0.0.9\"]")
        .start();
    server.write_content("1k", KIB);
    // Over connections, workers and versions of HTTP there is one bucket.
    for _ in 0..2 {
        assert_eq!(client_from(&server, 1).unwrap().get("/1k").status(), 200);
    }
    let mut http2 = Http2::connect(&http2_manner(), &server, &[]);
    for path in ["/1k", "/none"] {
        assert_ne!(http2.get(path).status, Some(429), "{path}");
    }
    let fields = [(":method", "GET"), (":path", "/1k")];
    let (status, retry_after) = ask(&mut http2, &fields);
    assert_eq!(status, 429);
    assert!(
        (3500..=3600).contains(&retry_after.unwrap()),
        "{retry_after:?}"
    );
    let mut client = client_from(&server, 1).unwrap();
    let refused = client.get("/1k");
    assert_eq!(refused.status(), 429);
    assert!(refused.field("retry-after").is_some(), "{}", refused.head);
    // The connection goes on, and another site's bucket is another one.
    for expected in [200, 429] {
        client.send(b"GET /1k HTTP/1.1\r\nHost: own.test\r\n\r\n");
        assert_eq!(client.read_response().status(), expected);
    }
    let mut other = client_from(&server, 2).unwrap();
    assert_eq!(other.get("/1k").status(), 200);
    let mut exempt = client_from(&server, 9).unwrap();
    for _ in 0..6 {
        assert_eq!(exempt.get("/1k").status(), 200);
    }
    assert_eq!(server.counters()["requests_rate_limited"], 3);
    // What was used up stays so over a reload.
    edit(&server, |text| text + "\n");
    reload(&server).success();
    assert_eq!(client_from(&server, 1).unwrap().get("/1k").status(), 429);
}

#[test]
fn the_redirect_listener_refuses_whom_the_site_refuses() {
    let server = Setup::new(Policy::Auto)
        .site_with(
            &["localhost"],
            KeyKind::P256,
            "root",
            "deny = [\"127.0.0.3\"]",
        )
        .table("rate_limit", "requests = 1\nper_s = 3600\nburst = 3")
        .with_redirect()
        .start();
    server.write_content("1k", KIB);
    let redirect = |last| {
        let address = Ipv4Addr::new(127, 0, 0, last).into();
        let mut socket = connect_from(address, server.redirect.unwrap());
        let request = b"GET /1k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        socket.write_all(request).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    };
    for last in [3, 3] {
        assert_eq!(status(&redirect(last)), 403);
    }
    // One bucket for both ways to ask, whichever worker has the connection.
    let mut client = client_from(&server, 1).unwrap();
    assert_eq!(client.get("/1k").status(), 200);
    for expected in [308, 308, 429] {
        let answer = redirect(1);
        assert_eq!(status(&answer), expected);
        assert_eq!(field(&answer, "retry-after").is_some(), expected == 429);
    }
    assert_eq!(client.get("/1k").status(), 429);
    assert_eq!(status(&redirect(2)), 308);
    let counters = server.counters();
    assert_eq!(counters["requests_refused_network"], 2);
    assert_eq!(counters["requests_rate_limited"], 2);
}

/// A client of 127.0.0.`last`, with an established session.
fn client_from(server: &Server, last: u8) -> std::io::Result<Client> {
    let socket = connect_from(Ipv4Addr::new(127, 0, 0, last).into(), server.address);
    Manner::default().establish(socket)
}

fn http2_manner() -> Manner {
    Manner {
        protocols: &["h2"],
        ..Manner::default()
    }
}

/// The status and the seconds of Retry-After.
fn ask(http2: &mut Http2, fields: &[(&str, &str)]) -> (u16, Option<u64>) {
    let stream = http2.ask_with(fields, true);
    http2.flush().unwrap();
    http2
        .hear(|this| this.streams[&stream].is_over())
        .expect("a response");
    let heard = http2.streams.remove(&stream).unwrap();
    let retry_after = heard.fields.iter().find(|(name, _)| name == "retry-after");
    (
        heard.status.unwrap(),
        retry_after.map(|(_, value)| value.parse().unwrap()),
    )
}
