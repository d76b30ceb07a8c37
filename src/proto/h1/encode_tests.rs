use super::*;
use proptest::prelude::*;

use crate::proto::h1::response_head::ResponseParser;

const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

fn written(head: &ResponseHead<'_>) -> String {
    let mut out = Vec::new();
    head.write(&mut out);
    String::from_utf8(out).unwrap()
}

fn head(framing: Framing) -> ResponseHead<'static> {
    ResponseHead {
        status: Status(200),
        version: Version::Http11,
        date: DATE,
        block_lines: b"",
        fields: &[],
        relayed: None,
        framing,
        keep_alive: true,
    }
}

fn plan(method: Method, version: Version, status: u16, length: Option<u64>) -> (Framing, bool) {
    let plan = Plan::new(&method, version, Status(status), length);
    (plan.framing, plan.sends_body)
}

#[test]
fn a_head_is_status_line_fields_framing_and_connection() {
    let fields = [
        ("content-type", Bytes::from_static(b"text/plain")),
        ("etag", Bytes::from_static(b"\"a\"")),
    ];
    let mut head = head(Framing::Length(1234));
    head.fields = &fields;
    assert_eq!(
        written(&head),
        "HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-type: text/plain\r\n\
         etag: \"a\"\r\ncontent-length: 1234\r\n\r\n"
    );
}

#[test]
fn a_head_is_appended_to_what_is_there() {
    let mut out = b"before".to_vec();
    head(Framing::None).write(&mut out);
    assert!(out.starts_with(b"beforeHTTP/1.1 200 OK\r\n"));
}

#[test]
fn rfc9112_4_an_unknown_status_keeps_the_space_before_its_empty_reason() {
    let mut head = head(Framing::None);
    head.status = Status(299);
    assert!(written(&head).starts_with("HTTP/1.1 299 \r\n"));
}

#[test]
fn rfc9110_7_8_a_change_of_protocol_is_for_this_connection() {
    for keep_alive in [true, false] {
        let mut head = head(Framing::None);
        head.status = Status(101);
        head.keep_alive = keep_alive;
        assert!(written(&head).ends_with("\r\nconnection: upgrade\r\n\r\n"));
    }
}

#[test]
fn rfc9112_9_3_connection_field() {
    let connection = |version, keep_alive| {
        let head = ResponseHead {
            version,
            keep_alive,
            ..head(Framing::None)
        };
        written(&head)
            .split_once("\r\nconnection: ")
            .map(|(_, rest)| rest.to_owned())
    };
    assert_eq!(connection(Version::Http11, true), None);
    assert_eq!(
        connection(Version::Http11, false).as_deref(),
        Some("close\r\n\r\n")
    );
    assert_eq!(
        connection(Version::Http10, true).as_deref(),
        Some("keep-alive\r\n\r\n")
    );
    assert_eq!(
        connection(Version::Http10, false).as_deref(),
        Some("close\r\n\r\n")
    );
}

#[test]
fn rfc9112_6_framing_fields() {
    assert!(written(&head(Framing::Length(0))).contains("\r\ncontent-length: 0\r\n"));
    assert!(written(&head(Framing::Chunked)).contains("\r\ntransfer-encoding: chunked\r\n"));
    for framing in [Framing::None, Framing::Close] {
        let text = written(&head(framing));
        assert!(!text.contains("content-length") && !text.contains("transfer-encoding"));
    }
}

#[test]
fn rfc9110_8_6_no_framing_in_1xx_and_204() {
    for status in [100, 101, 103, 199, 204] {
        for length in [None, Some(0), Some(5)] {
            let found = plan(Method::Get, Version::Http11, status, length);
            assert_eq!(found, (Framing::None, false), "{status}");
        }
    }
}

#[test]
fn rfc9110_15_4_5_a_304_has_no_body_and_only_a_true_length() {
    assert_eq!(
        plan(Method::Get, Version::Http11, 304, Some(5)),
        (Framing::Length(5), false)
    );
    assert_eq!(
        plan(Method::Get, Version::Http11, 304, Some(0)),
        (Framing::None, false)
    );
    assert_eq!(
        plan(Method::Get, Version::Http11, 304, None),
        (Framing::None, false)
    );
}

#[test]
fn rfc9110_15_3_6_a_205_has_no_content() {
    assert_eq!(
        plan(Method::Post, Version::Http11, 205, Some(9)),
        (Framing::Length(0), false)
    );
}

#[test]
fn rfc9110_9_3_2_head_has_the_length_of_get_and_no_body() {
    assert_eq!(
        plan(Method::Head, Version::Http11, 200, Some(5)),
        (Framing::Length(5), false)
    );
    assert_eq!(
        plan(Method::Head, Version::Http11, 404, Some(0)),
        (Framing::Length(0), false)
    );
    assert_eq!(
        plan(Method::Head, Version::Http11, 200, None),
        (Framing::None, false)
    );
    assert!(!Plan::new(&Method::Head, Version::Http10, Status(200), None).closes());
}

#[test]
fn rfc9112_6_3_bodies_are_length_delimited_chunked_or_close_delimited() {
    assert_eq!(
        plan(Method::Get, Version::Http11, 200, Some(5)),
        (Framing::Length(5), true)
    );
    assert_eq!(
        plan(Method::Get, Version::Http11, 200, Some(0)),
        (Framing::Length(0), false)
    );
    assert_eq!(
        plan(Method::Get, Version::Http11, 200, None),
        (Framing::Chunked, true)
    );
    assert_eq!(
        plan(Method::Get, Version::Http10, 200, None),
        (Framing::Close, true)
    );
    assert!(Plan::new(&Method::Get, Version::Http10, Status(200), None).closes());
}

#[test]
fn rfc9110_5_5_a_value_cannot_forge_a_field() {
    let fields = [(
        "location",
        Bytes::from_static(b"/a\r\nset-cookie: x\n\r\n\r\nHTTP/1.1 200\0"),
    )];
    let mut head = head(Framing::None);
    head.fields = &fields;
    let text = written(&head);
    assert!(
        text.contains("\r\nlocation: /a  set-cookie: x     HTTP/1.1 200 \r\n"),
        "{text}"
    );
}

#[test]
fn rfc9112_7_1_chunk_lines_are_hexadecimal_without_leading_zeros() {
    for (length, expected) in [
        (1, "1\r\n"),
        (15, "f\r\n"),
        (16, "10\r\n"),
        (16_384, "4000\r\n"),
        (65_535, "ffff\r\n"),
    ] {
        let mut out = Vec::new();
        push_chunk_line(&mut out, length);
        assert_eq!(out, expected.as_bytes());
    }
}

proptest! {
    #[test]
    fn rfc9110_5_5_whatever_a_value_holds_and_wherever(
        value in prop::collection::vec(prop_oneof![Just(0), Just(b'\r'), Just(b'\n'), any::<u8>()], 0..40),
        length in 0_usize..40,
        harmless in 0x10_u8..,
    ) {
        for value in [value, vec![harmless; length]] {
            let mut line = Vec::new();
            push_field_line(&mut line, b"x", &value);
            let expected = value.iter().map(|&byte| match byte {
                b'\r' | b'\n' | 0 => b' ',
                other => other,
            });
            let expected: Vec<u8> = b"\r\nx: ".iter().copied().chain(expected).collect();
            prop_assert_eq!(line, expected);
        }
    }

    #[test]
    fn chunk_lines_read_back(length in 1_usize..) {
        let mut out = Vec::new();
        push_chunk_line(&mut out, length);
        prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{length:x}\r\n"));
    }

    #[test]
    fn lines_of_a_head_are_passed_on_as_its_fields_would_be_written(
        fields in prop::collection::vec("[a-c]{1,2}:[ \t]{0,2}([!-~]{0,3}[ \t]{0,2}[!-~])?[ \t]?", 0..12),
        left_out in "[a-c]",
    ) {
        let text = format!("HTTP/1.1 200 OK\r\n{}\r\n\r\n", fields.join("\r\n"));
        let text = text.replace("OK\r\n\r\n\r\n", "OK\r\n\r\n");
        let mut input = bytes::BytesMut::from(text.as_bytes());
        let head = ResponseParser::default().parse(&mut input, &Method::Get).unwrap().unwrap();
        prop_assert_eq!(head.fields.len(), fields.len());
        let keeps = |name: &[u8]| name != left_out.as_bytes();
        let mut lines = Vec::new();
        push_lines(&mut lines, head.fields.lines(keeps));
        let mut retained = head.fields;
        retained.retain(|name, _| keeps(name));
        let mut expected = Vec::new();
        for (name, value) in retained.iter() {
            push_field_line(&mut expected, name, value);
        }
        prop_assert_eq!(String::from_utf8_lossy(&lines), String::from_utf8_lossy(&expected));
        lines.clear();
        push_lines(&mut lines, retained.lines(|_| true));
        prop_assert_eq!(lines, expected);
    }

    #[test]
    fn a_head_ends_once_whatever_its_values_hold(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..6),
    ) {
        let fields: Vec<_> = values.into_iter().map(|v| ("x", Bytes::from(v))).collect();
        let mut head = head(Framing::Length(1));
        head.fields = &fields;
        let mut out = Vec::new();
        head.write(&mut out);
        let mut table = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Response::new(&mut table);
        // Control characters other than CR, LF and NUL are the maker's; here they may be refused,
        // but the head must never be taken to end early.
        if let Ok(httparse::Status::Complete(end)) = parsed.parse(&out) {
            prop_assert_eq!(end, out.len());
            prop_assert_eq!(parsed.headers.len(), fields.len() + 2);
        }
    }
}

#[test]
fn a_block_is_written_as_its_fields_would_be() {
    let fields = vec![
        ("content-type", Bytes::from_static(b"text/plain")),
        ("x-forged", Bytes::from_static(b"a\r\nset-cookie: b")),
    ];
    let block = crate::message::FieldBlock::new(fields.clone());
    let others = [("etag", Bytes::from_static(b"\"a\""))];
    let with_block = ResponseHead {
        block_lines: block.lines(),
        fields: &others,
        ..head(Framing::Length(3))
    };
    let all = [&fields[..], &others].concat();
    let with_fields = ResponseHead {
        fields: &all,
        ..head(Framing::Length(3))
    };
    assert_eq!(written(&with_block), written(&with_fields));
    assert_eq!(block.fields(), fields);
}
