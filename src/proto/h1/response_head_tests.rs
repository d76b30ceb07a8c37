use super::*;
use proptest::prelude::*;

fn parse_as(method: &Method, text: &[u8]) -> Result<Option<ResponseHead>, Malformed> {
    ResponseParser::default().parse(&mut BytesMut::from(text), method)
}

fn parse(text: &str) -> Result<Option<ResponseHead>, Malformed> {
    parse_as(&Method::Get, text.as_bytes())
}

fn parsed(text: &str) -> ResponseHead {
    match parse(text) {
        Ok(Some(head)) => head,
        other => panic!("{text:?}: {other:?}"),
    }
}

fn framing(fields: &str) -> Framing {
    parsed(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n")).framing
}

#[test]
fn rfc9112_4_status_lines() {
    for (line, status) in [
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.0 404 Not Found", 404),
        ("HTTP/1.1 204", 204),
        ("HTTP/1.1 599 ", 599),
        ("HTTP/1.2 301 Gr\u{fc}n\tgrau", 301),
        ("HTTP/1.1 101 Switching Protocols", 101),
    ] {
        assert_eq!(parsed(&format!("{line}\r\n\r\n")).status, Status(status));
    }
}

#[test]
fn rfc9112_4_malformed_status_lines() {
    for line in [
        "HTTP/2.0 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 600 OK",
        "HTTP/1.1 +20 OK",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200 a\rb",
        "http/1.1 200 OK",
        "HTTP/1.1",
        " HTTP/1.1 200 OK",
        "GET / HTTP/1.1",
        "",
    ] {
        assert!(parse(&format!("{line}\r\n\r\n")).is_err(), "{line:?}");
    }
}

#[test]
fn rfc9112_2_2_a_bare_lf_or_cr_is_refused() {
    for text in [
        "HTTP/1.1 200 OK\nA: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n\n",
        "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn rfc9112_5_fields_that_could_be_read_otherwise_are_refused() {
    for field in [
        "A : b",
        "A: b\r\n c",
        " A: b",
        ": b",
        "A\u{e9}: b",
        "A",
        "A: \0",
    ] {
        let text = format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n");
        assert!(parse(&text).is_err(), "{field:?}");
    }
}

#[test]
fn rfc9112_6_3_item_1_no_body_follows_whatever_the_fields_say() {
    for status in [204, 304] {
        let text = format!("HTTP/1.1 {status} x\r\nContent-Length: 5\r\n\r\n");
        let head = parsed(&text);
        assert_eq!(
            (head.framing, head.content_length),
            (Framing::None, Some(5))
        );
        assert!(head.keep_alive);
    }
    let text = b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let head = parse_as(&Method::Head, text).unwrap().unwrap();
    assert_eq!(head.framing, Framing::None);
}

#[test]
fn rfc9112_6_3_lengths() {
    assert_eq!(framing("Content-Length: 5"), Framing::Length(5));
    assert_eq!(framing("Content-Length: 0"), Framing::Length(0));
    assert_eq!(framing("Transfer-Encoding: Chunked"), Framing::Chunked);
    assert_eq!(framing("A: b"), Framing::Close);
}

#[test]
fn rfc9112_6_3_ambiguous_framing_is_refused() {
    for fields in [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: ",
        "Content-Length: 18446744073709551616",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:",
    ] {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        assert!(parse(&text).is_err(), "{fields:?}");
        // Also where no body follows: the peer's framing cannot be relied on.
        assert!(
            parse_as(&Method::Head, text.as_bytes()).is_err(),
            "{fields:?}"
        );
    }
    assert!(parse("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
}

#[test]
fn rfc9112_9_3_persistence() {
    for (text, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0", true),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close",
            false,
        ),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0", false),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive",
            true,
        ),
        ("HTTP/1.1 200 OK", false),
    ] {
        assert_eq!(
            parsed(&format!("{text}\r\n\r\n")).keep_alive,
            keep_alive,
            "{text}"
        );
    }
}

#[test]
fn rfc9110_15_2_interim_responses_are_kept_apart_up_to_a_bound() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let mut input = BytesMut::from(&*format!("{interim}HTTP/1.1 200 OK\r\nA: b\r\n\r\n"));
    let mut parser = ResponseParser::default();
    let head = parser.parse(&mut input, &Method::Get).unwrap().unwrap();
    assert_eq!(head.status, Status(200));
    assert_eq!(head.fields.len(), 1);
    let interims = parser.take_interims();
    assert_eq!(interims.len(), 1);
    assert_eq!(interims[0].status, Status(103));
    assert_eq!(interims[0].fields.first("link"), Some(&b"</a>"[..]));
    assert!(parser.take_interims().is_empty());

    let mut parser = ResponseParser::default();
    let mut input = BytesMut::new();
    for _ in 0..INTERIM_RESPONSES_MAX {
        input.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        assert!(parser.parse(&mut input, &Method::Get).unwrap().is_none());
        assert!(input.is_empty());
    }
    input.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    assert!(parser.parse(&mut input, &Method::Get).is_err());
}

#[test]
fn heads_are_bounded_in_bytes_and_fields() {
    let fields = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert_eq!(
        parsed(&fields(HEADER_FIELDS_MAX)).fields.len(),
        HEADER_FIELDS_MAX
    );
    assert_eq!(
        parse(&fields(HEADER_FIELDS_MAX + 1)).unwrap_err(),
        TOO_MANY_FIELDS
    );
    let long = format!(
        "HTTP/1.1 200 OK\r\na: {}",
        "x".repeat(UPSTREAM_HEADER_BYTES_MAX)
    );
    assert_eq!(parse(&long).unwrap_err(), TOO_LARGE);
    assert_eq!(parse(&format!("{long}\r\n\r\n")).unwrap_err(), TOO_LARGE);
}

#[test]
fn what_is_not_http_is_refused_at_its_first_bytes() {
    for text in ["\x15\x03\x01", "SSH-2.0", "HTTQ", "\r"] {
        assert_eq!(parse(text).unwrap_err(), NOT_HTTP);
    }
    assert!(parse("HTTP").unwrap().is_none());
}

#[test]
fn what_follows_the_head_stays_in_the_input() {
    let mut input = BytesMut::from(&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"[..]);
    let head = ResponseParser::default().parse(&mut input, &Method::Get);
    assert_eq!(head.unwrap().unwrap().framing, Framing::Length(3));
    assert_eq!(&*input, b"abc");
}

proptest! {
    #[test]
    fn any_bytes_are_a_head_or_an_error_however_they_are_cut(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..20),
                prop::sample::select(vec![
                    &b"HTTP/1.1 200 OK\r\n"[..], b"HTTP/1.1 100 Continue\r\n", b"\r\n",
                    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"a: b\r\n",
                ]).prop_map(<[u8]>::to_vec),
            ],
            0..10,
        ),
    ) {
        let whole = pieces.concat();
        let at_once = parse_as(&Method::Get, &whole).map(|head| head.map(|head| head.framing));
        let mut parser = ResponseParser::default();
        let mut input = BytesMut::new();
        let mut bytewise = Ok(None);
        for &byte in &whole {
            input.extend_from_slice(&[byte]);
            bytewise = parser.parse(&mut input, &Method::Get).map(|head| head.map(|head| head.framing));
            if !matches!(bytewise, Ok(None)) {
                break;
            }
        }
        prop_assert_eq!(at_once.is_err(), bytewise.is_err());
        prop_assert_eq!(at_once.ok(), bytewise.ok());
    }
}
