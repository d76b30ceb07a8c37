//! Responses out of header lists (RFC 9113 8.1 to 8.3), of the servers that requests are passed on to.
//!
//! As strict as with requests: what a client behind this program could read otherwise is refused
//! (RFC 9113 10.3).

use super::field::{self, Class};
use super::hpack::HeaderList;
use crate::message::{Fields, Interim, Status};
use crate::proto::syntax::decimal;

/// What a header list in the place of a response says.
#[derive(Debug)]
pub enum Head {
    /// An interim response: another follows (RFC 9110 15.2).
    Interim(Interim),
    /// The response.
    Final(ResponseHead),
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// The status: 200 and above.
    pub status: Status,
    /// All fields.
    pub fields: Fields,
    /// content-length, also where no content follows (HEAD, 304).
    pub content_length: Option<u64>,
    /// Whether content, or at least its end, follows.
    pub has_body: bool,
}

/// The response of a header list. `end_stream` says that nothing follows it.
///
/// # Errors
/// It is malformed (RFC 9113 8.1.1): a stream error.
pub fn response(list: &HeaderList, end_stream: bool) -> Result<Head, &'static str> {
    if list.overflowed() {
        return Err("too many or too large fields in a response");
    }
    let mut fields = list.classified_from(0);
    let Some((b":status", status, _)) = fields.next() else {
        return Err("a response that does not begin with :status");
    };
    let status = parse_status(status).ok_or("malformed :status")?;
    let mut content_length = None;
    for (name, value, class) in fields {
        match class {
            Class::Plain => continue,
            Class::Control => {}
            Class::Pseudo | Class::Malformed => field::check(name, value)?,
        }
        match name {
            // RFC 9113 8.2.2
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => return Err("a connection-specific field in a response"),
            b"content-length" => {
                let length = decimal(value).ok_or("malformed content-length in a response")?;
                if content_length.replace(length).is_some() {
                    return Err("repeated content-length in a response");
                }
            }
            _ => {}
        }
    }
    match status.0 {
        // RFC 9113 8.6: "HTTP/2 removes support for the 101 (Switching Protocols) informational
        // status code".
        101 => Err("101 in HTTP/2"),
        // RFC 9113 8.1: an interim response cannot end the stream.
        100..200 if end_stream => Err("an interim response that ends its stream"),
        100..200 => Ok(Head::Interim(Interim {
            status,
            fields: list.to_fields(1),
        })),
        _ => Ok(Head::Final(ResponseHead {
            status,
            fields: list.to_fields(1),
            content_length,
            has_body: !end_stream,
        })),
    }
}

fn parse_status(text: &[u8]) -> Option<Status> {
    let [hundreds @ b'1'..=b'9', tens, ones] = *text else {
        return None;
    };
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    Some(Status(
        digit(hundreds)? * 100 + digit(tens)? * 10 + digit(ones)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::h2::hpack::{Bounds, Decoder, Encoder, Indexing};

    fn read(fields: &[(&str, &str)], end_stream: bool) -> Result<Head, &'static str> {
        let (mut block, mut encoder) = (Vec::new(), Encoder::new());
        encoder.begin(&mut block);
        for (name, value) in fields {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            encoder.field(name, value, Indexing::Literal, &mut block);
        }
        let mut list = HeaderList::default();
        let bounds = Bounds {
            list_bytes_max: 1000,
            fields_max: 10,
        };
        Decoder::new().decode(&block, &bounds, &mut list).unwrap();
        response(&list, end_stream)
    }

    #[test]
    fn a_response_is_its_status_and_fields() {
        let fields = [(":status", "404"), ("content-length", "12"), ("x", "")];
        let Ok(Head::Final(head)) = read(&fields, false) else {
            panic!("it is a response");
        };
        assert_eq!((head.status, head.content_length), (Status(404), Some(12)));
        assert!(head.has_body);
        assert_eq!(head.fields.len(), 2);
        assert_eq!(head.fields.first("x"), Some(&b""[..]));
        let Ok(Head::Final(head)) = read(&[(":status", "204")], true) else {
            panic!("it is a response");
        };
        assert!(!head.has_body && head.content_length.is_none());
        for status in ["100", "103", "199"] {
            let head = read(&[(":status", status)], false);
            assert!(matches!(head, Ok(Head::Interim(_))), "{status}");
        }
    }

    #[test]
    fn rfc9113_8_3_2_a_response_has_one_status_and_no_other_pseudo_header() {
        for fields in [
            &[][..],
            &[("x", "y")],
            &[("x", "y"), (":status", "200")],
            &[(":status", "200"), (":status", "200")],
            &[(":status", "200"), (":path", "/")],
            &[(":path", "/"), (":status", "200")],
            &[(":status", "20")],
            &[(":status", "2000")],
            &[(":status", "099")],
            &[(":status", "2x0")],
            &[(":status", "+20")],
        ] {
            assert!(read(fields, true).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn rfc9113_8_2_malformed_fields_of_responses_are_refused() {
        for (name, value) in [
            ("Upper", "x"),
            ("", "x"),
            ("with space", "x"),
            ("x", "a\r\nb: c"),
            ("x", "a\nb"),
            ("x", "a\0b"),
            ("x", " padded"),
            ("x", "padded\t"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("content-length", "1,1"),
            ("content-length", "-1"),
            ("content-length", "0x10"),
        ] {
            let fields = [(":status", "200"), (name, value)];
            assert!(read(&fields, false).is_err(), "{name}: {value:?}");
        }
        let twice = [
            (":status", "200"),
            ("content-length", "1"),
            ("content-length", "1"),
        ];
        assert!(read(&twice, false).is_err());
    }

    #[test]
    fn rfc9113_8_6_there_is_no_101_and_no_interim_end() {
        assert!(read(&[(":status", "101")], false).is_err());
        assert!(read(&[(":status", "103")], true).is_err());
    }

    #[test]
    fn a_list_over_its_bounds_is_refused() {
        let mut fields = vec![(":status", "200")];
        fields.extend([("x", "y"); 10]);
        assert!(read(&fields, true).is_err());
    }
}
