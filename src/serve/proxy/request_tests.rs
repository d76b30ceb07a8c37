use super::*;
use crate::config::{FieldEdits, RouteAction, RoutePath};
use crate::proto::forwarded::Style;
use crate::proto::testing::request;
use crate::serve::rules::{normalize, target_behind};

const VISITOR: Visitor<'_> = Visitor {
    address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    is_trusted: false,
    is_secure: true,
    id: None,
};

fn proxy() -> RouteProxy {
    RouteProxy {
        upstream: 0,
        strip_prefix: false,
        host: None,
        forwarded: Style::XForwarded,
    }
}

fn route() -> Route {
    Route {
        path: RoutePath::Prefix("/api".to_owned()),
        action: RouteAction::Proxy(proxy()),
        request_fields: FieldEdits::default(),
        response_fields: FieldEdits::default(),
    }
}

fn sent(request: &Request, route: &Route, proxy: &RouteProxy) -> Result<String, Refused> {
    let target = match proxy.strip_prefix {
        true => {
            let normal = normalize(request.path()).unwrap();
            target_behind(request, &normal, route)
        }
        false => request.target.to_string(),
    };
    let outgoing = outgoing(
        request,
        (&target, UpstreamProtocol::Http11),
        route,
        proxy,
        &VISITOR,
    )?;
    Ok(String::from_utf8(outgoing.head).unwrap())
}

fn asked(method: Method, target: &str, fields: &[(&str, &str)]) -> Request {
    Request {
        target: target.into(),
        ..request(method, fields)
    }
}

#[test]
fn rfc9110_7_6_1_what_is_for_one_connection_is_not_passed_on() {
    let request = asked(
        Method::Get,
        "/api/x?y",
        &[
            ("Host", "Example.org:8443"),
            ("Connection", "close, X-Mine, Authorization"),
            ("X-Mine", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy", "http://evil"),
            ("Accept", "*/*"),
            ("Transfer-Encoding", "chunked"),
            ("Expect", "100-continue"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("X_Forwarded_For", "10.0.0.1"),
            ("Via", "1.0 a"),
            ("TE", "trailers, gzip"),
        ],
    );
    assert_eq!(
        sent(&request, &route(), &proxy()).unwrap(),
        "GET /api/x?y HTTP/1.1\r\nhost: Example.org:8443\r\nAccept: */*\
         \r\nx-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: https\
         \r\nx-forwarded-host: Example.org:8443\r\nvia: 1.0 a, 1.1 portcullis\
         \r\nte: trailers\r\nconnection: te\r\n\r\n"
    );
}

#[test]
fn the_id_of_a_request_takes_the_place_of_the_clients() {
    let request = asked(
        Method::Get,
        "/",
        &[("Host", "a"), ("X-Request-ID", "theirs")],
    );
    let sent_with = |route: &Route, id| {
        let visitor = Visitor { id, ..VISITOR };
        let outgoing = outgoing(
            &request,
            ("/", UpstreamProtocol::Http11),
            route,
            &proxy(),
            &visitor,
        )
        .unwrap();
        String::from_utf8(outgoing.head).unwrap()
    };
    let head = sent_with(&route(), Some(("x-request-id", "ours")));
    assert!(
        head.contains("\r\nx-request-id: ours\r\n") && !head.contains("theirs"),
        "{head}"
    );
    let untouched = sent_with(&route(), None);
    assert!(
        untouched.contains("\r\nX-Request-ID: theirs\r\n"),
        "{untouched}"
    );
    // An operator's own word goes before it.
    let mut route = route();
    route.request_fields.set = vec![("x-request-id".to_owned(), "set".to_owned())];
    let head = sent_with(&route, Some(("x-request-id", "ours")));
    assert_eq!(head.to_ascii_lowercase().matches("x-request-id").count(), 1);
    assert!(head.contains("\r\nx-request-id: set\r\n"), "{head}");
}

#[test]
fn routes_change_target_host_and_fields() {
    let mut request = asked(
        Method::Post,
        "/api/x?y",
        &[("Host", "example.org"), ("A", "1"), ("B", "2"), ("C", "3")],
    );
    request.body_length = BodyLength::Delimited;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let route = Route {
        request_fields: FieldEdits {
            remove: vec!["a".to_owned()],
            set: vec![pair("b", "4")],
            add: vec![pair("c", "5")],
        },
        ..route()
    };
    let proxy = RouteProxy {
        strip_prefix: true,
        host: Some("app.internal:81".to_owned()),
        forwarded: Style::None,
        ..proxy()
    };
    assert_eq!(
        sent(&request, &route, &proxy).unwrap(),
        "POST /x?y HTTP/1.1\r\nhost: app.internal:81\r\nC: 3\r\nvia: 1.1 portcullis\
         \r\nb: 4\r\nc: 5\r\ntransfer-encoding: chunked\r\n\r\n"
    );
}

#[test]
fn rfc9112_3_2_2_the_targets_host_goes_before_the_field() {
    let request = asked(Method::Get, "/", &[("Host", "other.example")]);
    let head = sent(&request, &route(), &proxy()).unwrap();
    assert!(
        head.starts_with("GET / HTTP/1.1\r\nhost: example.org\r\n"),
        "{head}"
    );
}

#[test]
fn rfc9113_8_2_3_cookies_that_came_apart_are_one_field() {
    let request = asked(Method::Get, "/", &[("cookie", "a=1"), ("cookie", "b=2")]);
    let head = sent(&request, &route(), &proxy()).unwrap();
    assert!(head.contains("\r\ncookie: a=1; b=2\r\n"), "{head}");
}

#[test]
fn rfc9110_7_8_an_upgrade_is_passed_on_in_http_1_1_without_a_body() {
    let fields = [("Upgrade", "websocket"), ("Connection", "Upgrade")];
    let mut request = asked(Method::Get, "/", &fields);
    let head = sent(&request, &route(), &proxy()).unwrap();
    assert!(
        head.ends_with("\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
        "{head}"
    );
    request.version = Version::Http10;
    assert!(
        !sent(&request, &route(), &proxy())
            .unwrap()
            .contains("upgrade")
    );
    request.version = Version::Http11;
    request.body_length = BodyLength::Known(3);
    assert!(
        !sent(&request, &route(), &proxy())
            .unwrap()
            .contains("upgrade")
    );
}

/// RFC 7540 3.2: behind a 101 to that, a client would speak to the server alone.
#[test]
fn no_upgrade_to_http_itself_is_passed_on() {
    let upgrade = |protocols: &str| {
        let fields = [
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("Upgrade", protocols),
            ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ];
        let head = sent(&asked(Method::Get, "/", &fields), &route(), &proxy()).unwrap();
        assert!(
            !head.to_ascii_lowercase().contains("http2-settings"),
            "{head}"
        );
        let line = head.lines().find_map(|line| line.strip_prefix("upgrade: "));
        assert_eq!(
            line.is_some(),
            head.contains("connection: upgrade"),
            "{head}"
        );
        line.map(str::to_owned)
    };
    for gone in [
        "h2c",
        "H2C",
        "h2",
        "TLS/1.3",
        "tls",
        "HTTP/2.0",
        "h2c, TLS/1.0",
        ", ,",
    ] {
        assert_eq!(upgrade(gone), None, "{gone}");
    }
    for (asked, kept) in [
        ("h2c,websocket", "websocket"),
        ("WebSocket", "WebSocket"),
        ("irc/6.9, TLS/1.2 ,x", "irc/6.9, x"),
    ] {
        assert_eq!(upgrade(asked).as_deref(), Some(kept), "{asked}");
    }
    // An extended CONNECT has nothing else to ask for.
    let mut connect = asked(
        Method::Get,
        "/",
        &[("Connection", "upgrade"), ("Upgrade", "h2c")],
    );
    connect.version = Version::Http2;
    assert_eq!(sent(&connect, &route(), &proxy()), Err(501));
    // Not named by Connection, it ends here all the same.
    let alone = asked(Method::Get, "/", &[("HTTP2-Settings", "AAMAAABk")]);
    assert!(!sent(&alone, &route(), &proxy()).unwrap().contains("AAMA"));
}

#[test]
fn rfc9110_7_8_a_server_may_not_choose_what_nobody_asked_for() {
    for (asked, chosen, expected) in [
        ("websocket", "WebSocket", true),
        ("irc/6.9, x", "IRC", true),
        ("websocket", "h2c", false),
        ("websocket", "websocket, h2c", false),
        ("", "websocket", false),
    ] {
        let was = was_asked(asked.as_bytes(), chosen.as_bytes());
        assert_eq!(was, expected, "{asked} -> {chosen}");
    }
}

#[test]
fn rfc9110_10_1_1_an_expectation_is_the_servers_to_meet() {
    let mut request = asked(Method::Put, "/", &[("Expect", "100-Continue")]);
    request.body_length = BodyLength::Known(3);
    request.expects_continue = true;
    let outgoing_with = |route: &Route, protocol| {
        let outgoing = outgoing(&request, ("/", protocol), route, &proxy(), &VISITOR).unwrap();
        let head = String::from_utf8(outgoing.head).unwrap();
        let is_said = head.contains("\r\nexpect: 100-continue\r\n");
        assert_eq!(is_said, outgoing.expects_continue, "{head}");
        assert_eq!(
            is_said,
            head.to_ascii_lowercase().contains("expect"),
            "{head}"
        );
        is_said
    };
    assert!(outgoing_with(&route(), UpstreamProtocol::Http11));
    assert!(!outgoing_with(&route(), UpstreamProtocol::Http2));
    // What the route takes out.
    let mut route = route();
    route.request_fields.remove = vec!["expect".to_owned()];
    assert!(!outgoing_with(&route, UpstreamProtocol::Http11));
}

#[test]
fn what_is_not_passed_on() {
    let trace = asked(Method::Trace, "/", &[]);
    assert_eq!(sent(&trace, &route(), &proxy()), Err(405));
    let options = "a,".repeat(100);
    let many = asked(Method::Get, "/", &[("Connection", &options)]);
    assert_eq!(sent(&many, &route(), &proxy()), Err(400));
    let split = asked(Method::Get, "/a b", &[]);
    assert_eq!(sent(&split, &route(), &proxy()), Err(400));
}
