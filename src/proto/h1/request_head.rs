//! Request heads (RFC 9112 3) for the servers that requests are passed on to.

use crate::message::Method;
use crate::proto::h1::encode::push_field_line;
use crate::proto::syntax::{is_token, push_decimal};

/// How the end of a request's body is told. It is computed from the body that is sent, never copied
/// from the request received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body and no framing field (RFC 9110 8.6: for methods that give a body no meaning).
    None,
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
}

impl Framing {
    /// The framing of a body of `length` bytes, `None` when only its end will tell.
    pub fn new(method: &Method, length: Option<u64>) -> Self {
        match (length, method) {
            (None, _) => Self::Chunked,
            // RFC 9110 8.6: a user agent SHOULD send content-length where the method gives content a
            // meaning, also without any.
            (Some(0), Method::Post | Method::Put | Method::Patch) => Self::Length(0),
            (Some(0), _) => Self::None,
            (Some(length), _) => Self::Length(length),
        }
    }
}

/// What is said about the connection to the next server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection<'a> {
    /// It is not to be kept.
    pub close: bool,
    /// The protocols of an Upgrade (RFC 9110 7.8).
    pub upgrade: Option<&'a [u8]>,
    /// `te: trailers` (RFC 9110 10.1.4).
    pub trailers: bool,
}

/// Appends `METHOD target HTTP/1.1`, without the CRLF that ends it. Whether both can be written: a
/// method that is no token, or a target that is empty or holds what ends it, is not.
#[must_use]
pub fn push_request_line(out: &mut Vec<u8>, method: &Method, target: &str) -> bool {
    let method = method.as_str();
    let target_valid = !target.is_empty() && target.bytes().all(|byte| matches!(byte, 0x21..=0x7e));
    if !is_token(method.as_bytes()) || !target_valid {
        return false;
    }
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1");
    true
}

/// Appends the framing and connection fields, and the empty line that ends the head.
pub fn push_request_end(out: &mut Vec<u8>, framing: Framing, connection: &Connection<'_>) {
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"\r\ncontent-length: ");
            push_decimal(out, length);
        }
        Framing::Chunked => out.extend_from_slice(b"\r\ntransfer-encoding: chunked"),
    }
    if connection.trailers {
        push_field_line(out, b"te", b"trailers");
    }
    if let Some(protocols) = connection.upgrade {
        push_field_line(out, b"upgrade", protocols);
    }
    let options = [
        (connection.close, "close"),
        (connection.upgrade.is_some(), "upgrade"),
        // RFC 9110 10.1.4: TE is for the next server only, and so a connection option.
        (connection.trailers, "te"),
    ];
    let mut separator = &b"\r\nconnection: "[..];
    for (_, option) in options.iter().filter(|(wanted, _)| *wanted) {
        out.extend_from_slice(separator);
        out.extend_from_slice(option.as_bytes());
        separator = b", ";
    }
    out.extend_from_slice(b"\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::proto::h1::parse::{Bounds, HeadParser};

    const BOUNDS: Bounds = Bounds {
        header_bytes_max: 65_536,
        target_bytes_max: 8192,
    };

    fn head(framing: Framing, connection: &Connection<'_>) -> String {
        let mut out = Vec::new();
        assert!(push_request_line(&mut out, &Method::Put, "/a?b"));
        push_field_line(&mut out, b"host", b"a");
        push_request_end(&mut out, framing, connection);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rfc9112_3_a_request_is_written_in_origin_form() {
        assert_eq!(
            head(Framing::Length(12), &Connection::default()),
            "PUT /a?b HTTP/1.1\r\nhost: a\r\ncontent-length: 12\r\n\r\n"
        );
    }

    #[test]
    fn rfc9110_7_6_1_connection_names_what_is_for_the_next_server() {
        let all = Connection {
            close: true,
            upgrade: Some(b"websocket"),
            trailers: true,
        };
        assert!(head(Framing::None, &all).ends_with(
            "\r\nte: trailers\r\nupgrade: websocket\r\nconnection: close, upgrade, te\r\n\r\n"
        ));
        let close = Connection {
            close: true,
            ..Connection::default()
        };
        assert!(
            head(Framing::Chunked, &close)
                .ends_with("host: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        );
    }

    #[test]
    fn rfc9110_8_6_a_length_of_zero_is_told_where_content_has_a_meaning() {
        let zero = Some(0);
        assert_eq!(Framing::new(&Method::Post, zero), Framing::Length(0));
        assert_eq!(Framing::new(&Method::Get, zero), Framing::None);
        assert_eq!(Framing::new(&Method::Get, Some(3)), Framing::Length(3));
        assert_eq!(Framing::new(&Method::Get, None), Framing::Chunked);
    }

    #[test]
    fn rfc9112_11_1_what_would_split_a_request_is_not_written() {
        let method = |text: &str| Method::Other(text.into());
        for (method, target) in [
            (method("GET /x HTTP/1.1\r\nA:"), "/"),
            (method(""), "/"),
            (Method::Get, "/ HTTP/1.1\r\nx: y"),
            (Method::Get, "/\r"),
            (Method::Get, "/a b"),
            (Method::Get, "/\u{e9}"),
            (Method::Get, ""),
        ] {
            let mut out = Vec::new();
            assert!(!push_request_line(&mut out, &method, target), "{target:?}");
            assert!(out.is_empty());
        }
    }

    proptest! {
        #[test]
        fn rfc9112_what_is_written_is_read_as_one_request(
            method in "[A-Z]{1,20}",
            target in "/[!-\"$-~]{0,40}",
            value in prop::collection::vec(any::<u8>(), 0..40),
            length in prop::option::of(0_u64..1000),
        ) {
            let method = Method::from_token(&method);
            prop_assume!(method != Method::Connect);
            let mut out = Vec::new();
            prop_assert!(push_request_line(&mut out, &method, &target));
            push_field_line(&mut out, b"host", b"a");
            push_field_line(&mut out, b"x-value", &value);
            push_request_end(&mut out, Framing::new(&method, length), &Connection::default());
            let mut input = bytes::BytesMut::from(&out[..]);
            // Bytes that no value may hold are the only ground for a refusal.
            if let Ok(head) = HeadParser::default().parse(&mut input, &BOUNDS) {
                let head = head.unwrap();
                prop_assert_eq!(&*head.request.target, &target);
                prop_assert_eq!(&head.request.method, &method);
                prop_assert!(head.request.fields.len() <= 3);
                prop_assert!(input.is_empty());
            } else {
                prop_assert!(value.iter().any(|&byte| byte < b' ' || byte == 0x7f));
            }
        }
    }
}
