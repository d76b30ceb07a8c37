use super::*;
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds {
    header_bytes_max: 4096,
    target_bytes_max: 1024,
};

fn parse(text: impl AsRef<[u8]>) -> Result<Option<Head>, Refusal> {
    HeadParser::default().parse(&mut BytesMut::from(text.as_ref()), &BOUNDS)
}

fn head(text: impl AsRef<[u8]>) -> Head {
    let text = text.as_ref();
    match parse(text) {
        Ok(Some(head)) => head,
        other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(text)),
    }
}

fn refused(text: impl AsRef<[u8]>) -> u16 {
    let text = text.as_ref();
    match parse(text) {
        Err(refusal) => refusal.status.0,
        other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(text)),
    }
}

/// A 1.1 request with Host and these further fields, each with its CRLF.
fn with_fields(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn a_request_is_taken_off_the_input_and_the_rest_left() {
    let mut input = BytesMut::from(
        "GET /a/b?c=d HTTP/1.1\r\nHost: Example.ORG:8443\r\nX-Empty:\r\nX-Pad: \t v \t\r\n\r\nGET /2",
    );
    let mut parser = HeadParser::default();
    let head = parser.parse(&mut input, &BOUNDS).unwrap().unwrap();
    assert_eq!(&input[..], b"GET /2");
    let request = head.request;
    assert_eq!(request.method, Method::Get);
    assert_eq!(request.version, Version::Http11);
    assert_eq!(&*request.host, "example.org");
    assert_eq!((request.path(), request.query()), ("/a/b", Some("c=d")));
    assert_eq!(request.body_length, BodyLength::Known(0));
    assert!(head.keep_alive && !request.expects_continue);
    let fields: Vec<_> = request.fields.iter().collect();
    let expected: [(&[u8], &[u8]); 3] = [
        (b"Host", b"Example.ORG:8443"),
        (b"X-Empty", b""),
        (b"X-Pad", b"v"),
    ];
    assert_eq!(fields, expected);
    assert!(parser.parse(&mut input, &BOUNDS).unwrap().is_none());
}

#[test]
fn pipelined_requests_come_out_in_order() {
    let mut input = BytesMut::new();
    for n in 0..10 {
        input.extend_from_slice(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    }
    let mut parser = HeadParser::default();
    for n in 0..10 {
        let head = parser.parse(&mut input, &BOUNDS).unwrap().unwrap();
        assert_eq!(*head.request.target, format!("/{n}"));
    }
    assert!(input.is_empty());
}

#[test]
fn rfc9112_2_2_a_few_empty_lines_before_the_request_line_are_ignored() {
    let request = with_fields("");
    assert_eq!(*head(format!("\r\n{request}")).request.target, *"/");
    assert_eq!(
        *head(format!("{}{request}", "\r\n".repeat(EMPTY_LINES_MAX)))
            .request
            .target,
        *"/"
    );
    assert_eq!(
        refused(format!("{}{request}", "\r\n".repeat(EMPTY_LINES_MAX + 1))),
        400
    );
    assert_eq!(refused(format!("\n{request}")), 400);
}

#[test]
fn rfc9112_2_2_white_space_after_the_request_line_is_refused() {
    assert_eq!(refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\n\tX: y\r\nHost: a\r\n\r\n"), 400);
}

#[test]
fn rfc9112_2_2_bare_lf_and_bare_cr_are_refused() {
    for text in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r: b\r\n\r\n",
        "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(refused(text), 400, "{text:?}");
    }
}

#[test]
fn rfc9112_3_request_line_white_space_is_single_spaces() {
    for line in [
        " GET / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET /\x0bHTTP/1.1",
        "GET / a HTTP/1.1",
        "GET /",
        "GET / ",
        "GET",
        "GET HTTP/1.1",
    ] {
        assert_eq!(
            refused(format!("{line}\r\nHost: a\r\n\r\n")),
            400,
            "{line:?}"
        );
    }
}

#[test]
fn rfc9112_3_1_methods_are_case_sensitive_tokens() {
    let method = |name: &str| {
        head(format!("{name} / HTTP/1.1\r\nHost: a\r\n\r\n"))
            .request
            .method
    };
    assert_eq!(method("HEAD"), Method::Head);
    assert_eq!(method("get"), Method::Other("get".into()));
    assert_eq!(method("M-SEARCH"), Method::Other("M-SEARCH".into()));
    for bad in ["GE(T", "G\0T", "\u{e9}", "GET:", "", "G@T"] {
        assert_eq!(
            refused(format!("{bad} / HTTP/1.1\r\nHost: a\r\n\r\n")),
            400,
            "{bad:?}"
        );
    }
    let long = "A".repeat(METHOD_BYTES_MAX + 1);
    assert_eq!(
        refused(format!("{long} / HTTP/1.1\r\nHost: a\r\n\r\n")),
        501
    );
}

#[test]
fn rfc9112_2_3_versions() {
    let with = |version: &str| parse(format!("GET / {version}\r\nHost: a\r\n\r\n"));
    for (text, version) in [
        ("HTTP/1.0", Version::Http10),
        ("HTTP/1.1", Version::Http11),
        // RFC 9110 2.5
        ("HTTP/1.2", Version::Http11),
        ("HTTP/1.9", Version::Http11),
    ] {
        assert_eq!(
            with(text).unwrap().unwrap().request.version,
            version,
            "{text}"
        );
    }
    for (text, status) in [
        ("HTTP/2.0", 505),
        ("HTTP/0.9", 505),
        ("HTTP/3.0", 505),
        ("http/1.1", 400),
        ("HTTP/1", 400),
        ("HTTP/1.", 400),
        ("HTTP/1.10", 400),
        ("HTTP/01.1", 400),
        ("HTTP/1,1", 400),
        ("HTTQ/1.1", 400),
        ("HTTP/+1.1", 400),
    ] {
        assert_eq!(with(text).unwrap_err().status.0, status, "{text}");
    }
}

#[test]
fn rfc9113_3_4_the_http2_preface_is_not_served() {
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
}

#[test]
fn rfc9112_3_a_target_too_long_is_414() {
    let with = |bytes: usize| {
        parse(format!(
            "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
            "a".repeat(bytes)
        ))
    };
    assert!(with(BOUNDS.target_bytes_max - 1).is_ok());
    assert_eq!(with(BOUNDS.target_bytes_max).unwrap_err().status.0, 414);
    assert_eq!(with(BOUNDS.header_bytes_max * 2).unwrap_err().status.0, 414);
    // Also while the line never ends.
    let unending = format!("GET /{}", "a".repeat(BOUNDS.target_bytes_max + 100));
    assert_eq!(refused(unending), 414);
}

#[test]
fn a_request_line_is_as_long_with_its_cr_as_without() {
    // The longest line that is not refused before its target is known, cut between CR and LF.
    let line_bytes = BOUNDS.target_bytes_max + REQUEST_LINE_REST_BYTES_MAX;
    let line = format!("G {:a>width$}\r\n", "", width = line_bytes - 2);
    for cut in [line.len() - 1, line.len()] {
        assert!(matches!(parse(&line[..cut]), Ok(None)), "{cut}");
    }
    assert_eq!(refused(line.replace("G ", "GE ")), 414);
}

#[test]
fn of_several_faults_the_same_is_met_first_in_whatever_pieces_they_come() {
    let long = "a".repeat(BOUNDS.target_bytes_max + 100);
    let huge = "a".repeat(BOUNDS.header_bytes_max);
    for (head, status) in [
        (format!("GET /{long}\n\n"), 414),
        (format!("GET /{long}\r\nX\n"), 414),
        (format!("GET / HTTP/1.1\r\nX: {huge}\n\n"), 431),
        (format!("GET / HTTP/1.1\nX: {huge}\r\n\r\n"), 400),
        (format!("\x16{long}\r\n\r\n"), 400),
        (format!("\r\n\rGET /{long}\r\n\r\n"), 400),
        (
            format!("GET / HTTP/1.1\r\n{}\n", "X: y\r\n".repeat(200)),
            431,
        ),
    ] {
        for piece in [1, 7, 1000, head.len()] {
            assert_eq!(
                refused_in_pieces(&head, piece),
                status,
                "{piece} {head:.40?}"
            );
        }
    }
}

fn refused_in_pieces(head: &str, piece: usize) -> u16 {
    let mut parser = HeadParser::default();
    let mut input = BytesMut::new();
    for piece in head.as_bytes().chunks(piece) {
        input.extend_from_slice(piece);
        if let Err(refusal) = parser.parse(&mut input, &BOUNDS) {
            return refusal.status.0;
        }
    }
    panic!("not refused")
}

#[test]
fn rfc6585_5_a_head_too_large_is_431() {
    let with = |bytes: usize| parse(with_fields(&format!("X: {}\r\n", "a".repeat(bytes))));
    let empty = with_fields("X: \r\n").len();
    assert!(with(BOUNDS.header_bytes_max - empty).is_ok());
    assert_eq!(
        with(BOUNDS.header_bytes_max - empty + 1)
            .unwrap_err()
            .status
            .0,
        431
    );
    let unending = format!(
        "GET / HTTP/1.1\r\nX: {}",
        "a".repeat(BOUNDS.header_bytes_max)
    );
    assert_eq!(refused(unending), 431);
}

#[test]
fn rfc6585_5_too_many_fields_are_431() {
    let with = |count: usize| parse(with_fields(&"X: y\r\n".repeat(count)));
    for count in [
        FIELDS_USUAL_MAX - 3,
        FIELDS_USUAL_MAX,
        HEADER_FIELDS_MAX - 1,
    ] {
        assert_eq!(
            with(count).unwrap().unwrap().request.fields.len(),
            count + 1
        );
    }
    assert_eq!(with(HEADER_FIELDS_MAX).unwrap_err().status.0, 431);
    let unending = format!(
        "GET / HTTP/1.1\r\n{}",
        "X: y\r\n".repeat(HEADER_FIELDS_MAX + 1)
    );
    assert_eq!(refused(unending), 431);
}

#[test]
fn rfc9112_3_2_host_is_required_once_and_valid() {
    for fields in [
        "",
        "Host:\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhOST: b\r\n",
        "Host: a, b\r\n",
        "Host: a b\r\n",
        "Host: user@a\r\n",
        "Host: a/b\r\n",
        "Host: a:99999\r\n",
        "Host: [::1\r\n",
        "Host: \u{fffd}\r\n",
    ] {
        assert_eq!(
            refused(format!("GET / HTTP/1.1\r\n{fields}\r\n")),
            400,
            "{fields:?}"
        );
    }
    assert_eq!(
        &*head("GET / HTTP/1.1\r\nHost: [2001:DB8::A]:1\r\n\r\n")
            .request
            .host,
        "[2001:db8::a]"
    );
    assert_eq!(&*head("GET / HTTP/1.0\r\n\r\n").request.host, "");
    assert_eq!(refused("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
}

#[test]
fn rfc9112_3_2_1_origin_form() {
    for target in [
        "/",
        "/a%20b",
        "/?q",
        "//a",
        "/a/../b",
        "/a|b{c}^\"<>`\\",
        "/http://x",
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(*head(text).request.target, *target);
    }
    for target in [
        "a", "?q", "/a#b", "#", "/\u{e9}", "/a\x7f", "/a\0", "/a\x01", "*/", ":80", "a:80",
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(refused(text), 400, "{target:?}");
    }
}

#[test]
fn rfc9112_3_2_2_absolute_form_overrides_host() {
    for (target, host, path) in [
        ("http://B.example/x?y", "b.example", "/x?y"),
        ("HTTPS://b.example:444/", "b.example", "/"),
        ("http://b.example", "b.example", "/"),
        ("http://b.example?q", "b.example", "/?q"),
        ("http://[::1]:80/a:b@c", "[::1]", "/a:b@c"),
    ] {
        let request = head(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).request;
        assert_eq!((&*request.host, &*request.target), (host, path), "{target}");
    }
    for target in [
        "http:///x",
        "http://",
        "http:/b/x",
        "ftp://b/x",
        "://b/",
        "http://user@b/",
        "http://u:p@b/",
        "http://b:x/",
        "http://b/#f",
        "javascript:x",
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(refused(text), 400, "{target}");
    }
    // The Host must be there and valid all the same.
    assert_eq!(refused("GET http://b/ HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(refused("GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n"), 400);
    assert_eq!(&*head("GET http://b/ HTTP/1.0\r\n\r\n").request.host, "b");
}

#[test]
fn rfc9112_3_2_3_authority_form_is_for_connect_which_is_not_implemented() {
    assert_eq!(refused("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"), 501);
    assert_eq!(refused("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    assert_eq!(refused("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    assert_eq!(refused("GET a:443 HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
}

#[test]
fn rfc9112_3_2_4_asterisk_form_is_for_options() {
    assert_eq!(
        *head("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").request.target,
        *"*"
    );
    assert_eq!(
        *head("OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n")
            .request
            .target,
        *"*"
    );
    assert_eq!(
        *head("OPTIONS http://b/ HTTP/1.1\r\nHost: a\r\n\r\n")
            .request
            .target,
        *"/"
    );
    assert_eq!(refused("GET * HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
}

#[test]
fn rfc9112_5_1_white_space_before_the_colon_is_refused() {
    for field in [
        "X : y",
        "X\t: y",
        "Content-Length : 0",
        " : y",
        ": y",
        "X",
        "X y: z",
    ] {
        assert_eq!(
            refused(with_fields(&format!("{field}\r\n"))),
            400,
            "{field:?}"
        );
    }
}

#[test]
fn rfc9112_5_2_obs_fold_is_refused() {
    for field in [
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X:\r\n b",
        "X: a\r\n  ",
        "Transfer-Encoding:\r\n chunked",
    ] {
        assert_eq!(
            refused(with_fields(&format!("{field}\r\n"))),
            400,
            "{field:?}"
        );
    }
}

#[test]
fn rfc9110_5_5_field_values_hold_no_control_characters() {
    for byte in (0..=u8::MAX).filter(|&b| !matches!(b, b'\r' | b'\n')) {
        let mut text =
            b"GET / HTTP/1.1\r\nHost: a\r\nX: 0123456789abcdef0123456789abcdef_".to_vec();
        text.extend([byte, b'b']);
        text.extend(b"0123456789abcdef0123456789abcdef\r\n\r\n");
        let allowed = matches!(byte, b'\t' | b' '..=0x7e | 0x80..);
        assert_eq!(parse(&text).is_ok(), allowed, "{byte:#04x}");
    }
}

#[test]
fn rfc9110_5_1_field_names_are_tokens() {
    for byte in 0..=u8::MAX {
        let mut text = b"GET / HTTP/1.1\r\nHost: a\r\nX-0123456789abcdef0123456789abcdef".to_vec();
        text.push(byte);
        text.extend(b"y-0123456789abcdef0123456789abcdef: z\r\n\r\n");
        // A colon ends the name; what follows is then a value.
        let allowed = is_tchar(byte) || byte == b':';
        assert_eq!(parse(&text).is_ok(), allowed, "{byte:#04x}");
    }
}

#[test]
fn rfc9112_6_2_content_length() {
    let length = |value: &str| {
        parse(with_fields(&format!("Content-Length: {value}\r\n")))
            .map(|head| head.unwrap().request.body_length)
    };
    assert_eq!(length("0"), Ok(BodyLength::Known(0)));
    assert_eq!(length("42"), Ok(BodyLength::Known(42)));
    assert_eq!(
        length("18446744073709551615"),
        Ok(BodyLength::Known(u64::MAX))
    );
    for bad in [
        "",
        "+1",
        "-1",
        "1 1",
        "1,1",
        "1, 1",
        "42, 42",
        "0x10",
        "1.0",
        "1e3",
        "\"1\"",
        "1;",
        "a",
        ",",
        "18446744073709551616",
        "99999999999999999999999999",
        "\u{661}",
    ] {
        assert_eq!(length(bad).unwrap_err().status.0, 400, "{bad:?}");
    }
}

#[test]
fn rfc9112_6_3_repeated_content_length_is_refused() {
    for fields in [
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 0\r\nX: y\r\ncontent-length: 0\r\n",
    ] {
        assert_eq!(refused(with_fields(fields)), 400, "{fields:?}");
    }
}

#[test]
fn rfc9112_6_3_content_length_next_to_transfer_encoding_is_refused() {
    for fields in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: gzip, chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding:\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
    ] {
        assert_eq!(refused(with_fields(fields)), 400, "{fields:?}");
    }
}

#[test]
fn rfc9112_6_1_transfer_encoding_is_exactly_chunked() {
    for value in ["chunked", "Chunked", " chunked\t"] {
        let head = head(with_fields(&format!("Transfer-Encoding: {value}\r\n")));
        assert_eq!(head.request.body_length, BodyLength::Delimited, "{value:?}");
    }
    for (value, status) in [
        ("gzip, chunked", 501),
        ("gzip;q=1, chunked", 501),
        ("deflate, gzip , Chunked", 501),
        ("chunked, gzip", 400),
        ("chunked, chunked", 400),
        ("chunked, gzip, chunked", 400),
        ("gzip", 400),
        ("identity", 400),
        ("", 400),
        (",", 400),
        ("chunked,", 400),
        (",chunked", 400),
        ("chunked;q=1", 400),
        ("\"chunked\"", 400),
        ("xchunked", 400),
        ("chunked x", 400),
        ("chunked;, chunked", 400),
        ("\x0bchunked", 400),
        ("(, chunked", 400),
    ] {
        let text = with_fields(&format!("Transfer-Encoding: {value}\r\n"));
        assert_eq!(refused(text), status, "{value:?}");
    }
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(refused(with_fields(twice)), 400);
    let split = "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(refused(with_fields(split)), 501);
    let shadowed = "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n";
    assert_eq!(refused(with_fields(shadowed)), 400);
}

#[test]
fn rfc9112_6_1_transfer_encoding_in_http_1_0_is_refused() {
    assert_eq!(
        refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        400
    );
    assert_eq!(
        refused("POST / HTTP/1.0\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        400
    );
}

#[test]
fn rfc9110_9_3_2_a_refused_head_request_is_known_as_one() {
    for (text, is_head) in [
        ("HEAD / HTTP/1.1\r\n\r\n", true),
        ("HEAD / HTTP/2.0\r\n", true),
        ("HEADER / HTTP/1.1\r\n\r\n", false),
        ("GET / HTTP/1.1\r\n\r\n", false),
    ] {
        let mut parser = HeadParser::default();
        let _ = parser.parse(&mut BytesMut::from(text), &BOUNDS);
        assert_eq!(parser.is_head(), is_head, "{text:?}");
    }
}

#[test]
fn rfc9112_9_3_persistence() {
    for (version, connection, kept) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: CLOSE\r\n", false),
        ("1.1", "Connection: x , close\r\n", false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("1.1", "Connection: keep-alive, close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
        ("1.0", "Connection: x\r\n", false),
    ] {
        let text = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
        assert_eq!(head(text).keep_alive, kept, "{version} {connection:?}");
    }
}

#[test]
fn rfc9110_10_1_1_expect() {
    let expects = |fields: &str| {
        parse(with_fields(fields)).map(|head| head.unwrap().request.expects_continue)
    };
    assert_eq!(
        expects("Content-Length: 1\r\nExpect: 100-Continue\r\n"),
        Ok(true)
    );
    assert_eq!(
        expects("Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"),
        Ok(true)
    );
    assert_eq!(expects("Expect: 100-continue\r\n"), Ok(false));
    for bad in ["200-ok", "", "100-continue, x", "100-continue;a=b"] {
        assert_eq!(
            expects(&format!("Expect: {bad}\r\n")).unwrap_err().status.0,
            417,
            "{bad}"
        );
    }
    let old = "POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    assert!(!head(old).request.expects_continue);
}

#[test]
fn what_is_not_http_is_refused_at_its_first_byte() {
    for byte in (0..=u8::MAX).filter(|&b| !is_tchar(b) && b != b'\r') {
        assert_eq!(refused([byte]), 400, "{byte:#04x}");
    }
    assert_eq!(refused(b"\x16\x03\x01\x02\x00\x01\x00\x01"), 400);
}

#[test]
fn a_head_sent_byte_by_byte_is_looked_at_once() {
    let text = with_fields(&"X: y\r\n".repeat(100));
    let mut parser = HeadParser::default();
    let mut input = BytesMut::new();
    for (index, byte) in text.bytes().enumerate() {
        input.extend_from_slice(&[byte]);
        let head = parser.parse(&mut input, &BOUNDS).unwrap();
        assert_eq!(head.is_some(), index + 1 == text.len());
        if head.is_none() {
            assert_eq!(
                parser.scanned,
                input.len(),
                "everything received is already scanned"
            );
        }
    }
    assert!(input.is_empty());
}

/// What a head says, in a form that can be compared.
fn summary(head: &Head) -> String {
    format!("{:?} {}", head.request, head.keep_alive)
}

/// Feeds `text` in pieces that end at `cuts`, as a driver would.
fn parse_in_pieces(text: &[u8], cuts: &[usize]) -> Result<Option<Head>, Refusal> {
    let mut parser = HeadParser::default();
    let mut input = BytesMut::new();
    let mut fed = 0;
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
    ends.push(text.len());
    ends.sort_unstable();
    for end in ends {
        input.extend_from_slice(&text[fed..end]);
        fed = end;
        if let Some(head) = parser.parse(&mut input, &BOUNDS)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_refused_or_waited_for(
        bytes in prop::collection::vec(any::<u8>(), 0..256),
    ) {
        let _ = parse(&bytes);
    }

    #[test]
    fn cutting_the_input_changes_nothing(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "GET ", "POST ", "/ ", "http://b/ ", "HTTP/1.1", "HTTP/1.0", "\r\n", "\r\n", "\n",
                "Host: a", "Host: b", "Content-Length: 3", "Transfer-Encoding: chunked", ": ", " ",
                "Connection: close", "Expect: 100-continue", "\r", "\0", "x",
            ]),
            0..16,
        ),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let text = parts.concat();
        let whole = parse(&text);
        let pieces = parse_in_pieces(text.as_bytes(), &cuts);
        match (whole, pieces) {
            (Ok(Some(whole)), Ok(Some(pieces))) => {
                prop_assert_eq!(summary(&whole), summary(&pieces));
            }
            (Ok(None), Ok(None)) => {}
            // The reason may differ: what is refused early in pieces may be refused for something
            // else when it is complete.
            (Err(_), Err(_)) => {}
            (whole, pieces) => prop_assert!(false, "{whole:?} but {pieces:?}"),
        }
    }

    #[test]
    fn well_formed_heads_come_back_field_by_field(
        fields in prop::collection::vec(("x-[a-z]{1,8}", "([!-~]([ -~]{0,20}[!-~])?)?"), 0..40),
    ) {
        let text: String = fields.iter().map(|(name, value)| format!("{name}:{value} \r\n")).collect();
        let head = head(with_fields(&text));
        let got: Vec<(String, String)> = head.request.fields.iter().skip(1).map(|(name, value)| {
            (String::from_utf8(name.to_vec()).unwrap(), String::from_utf8(value.to_vec()).unwrap())
        }).collect();
        prop_assert_eq!(got, fields);
    }

    #[test]
    fn nothing_accepted_has_two_framings(
        fields in prop::collection::vec(
            prop::sample::select(vec![
                "Content-Length: 0\r\n", "Content-Length: 5\r\n", "content-length: 5, 5\r\n",
                "Transfer-Encoding: chunked\r\n", "transfer-encoding: gzip\r\n",
                "Transfer-Encoding : chunked\r\n", "Content-Length: +5\r\n", "X: y\r\n",
            ]),
            0..5,
        ),
    ) {
        let framings = fields.iter().filter(|f| !f.starts_with('X')).count();
        let accepted = parse(with_fields(&fields.concat())).is_ok();
        let sound = matches!(
            fields.iter().find(|f| !f.starts_with('X')).copied(),
            None | Some("Content-Length: 0\r\n" | "Content-Length: 5\r\n"
                | "Transfer-Encoding: chunked\r\n")
        );
        prop_assert_eq!(accepted, framings == 0 || (framings == 1 && sound));
    }
}
