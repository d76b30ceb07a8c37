use super::*;
use crate::proto::h2::hpack::{self, Decoder, Encoder, Indexing};
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds {
    target_bytes_max: 100,
    extended_connect: true,
};

fn list(fields: &[(&str, &str)]) -> HeaderList {
    let mut block = Vec::new();
    let mut encoder = Encoder::new();
    for (name, value) in fields {
        encoder.field(
            name.as_bytes(),
            value.as_bytes(),
            Indexing::Literal,
            &mut block,
        );
    }
    let bounds = hpack::Bounds {
        list_bytes_max: 4096,
        fields_max: 64,
    };
    let mut list = HeaderList::default();
    Decoder::new().decode(&block, &bounds, &mut list).unwrap();
    list
}

fn read(fields: &[(&str, &str)], end_stream: bool) -> Result<Head, Refusal> {
    request(&list(fields), end_stream, &BOUNDS)
}

#[test]
fn a_field_of_the_table_is_what_it_was_when_it_came() {
    let get = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", "a.example"),
    ];
    let bounds = hpack::Bounds {
        list_bytes_max: 4096,
        fields_max: 64,
    };
    for (field, expected) in [
        (("user-agent", "x"), Ok((false, true))),
        (("te", "trailers"), Ok((true, true))),
        (("content-length", "0"), Ok((false, true))),
        (("content-length", "1"), Err(None)),
        (("te", "gzip"), Err(None)),
        (("connection", "close"), Err(None)),
        (("X-Upper", "x"), Err(None)),
        (("x-padded", " x"), Err(None)),
        ((":path", "/again"), Err(None)),
        (("expect", "a miracle"), Err(Some(Status(417)))),
    ] {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut list = HeaderList::default();
        let mut lengths = Vec::new();
        for _ in 0..3 {
            let mut block = Vec::new();
            for (name, value) in get.into_iter().chain([field]) {
                let (name, value) = (name.as_bytes(), value.as_bytes());
                encoder.field(name, value, Indexing::Indexed, &mut block);
            }
            decoder.decode(&block, &bounds, &mut list).unwrap();
            lengths.push(block.len());
            let read = request(&list, true, &BOUNDS);
            let read = match read {
                Ok(head) => Ok((head.takes_trailers, head.request.body_length.is_none())),
                Err(Refusal::Malformed(_)) => Err(None),
                Err(Refusal::Answer(status, _)) => Err(Some(status)),
            };
            assert_eq!(read, expected, "{field:?}");
        }
        // Each is a reference but for the first time.
        assert_eq!(lengths[1..], [5, 5], "{field:?}");
    }
}

fn is_malformed(fields: &[(&str, &str)]) -> bool {
    matches!(read(fields, false), Err(Refusal::Malformed(_)))
}

fn answered(fields: &[(&str, &str)]) -> u16 {
    match read(fields, false) {
        Err(Refusal::Answer(status, _)) => status.0,
        other => panic!("{fields:?} gave {other:?}"),
    }
}

const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "Example.org:8443"),
    (":path", "/a?b"),
];

/// A GET with further fields.
fn with(fields: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&GET[..], fields].concat()
}

#[test]
fn rfc9113_8_3_1_a_request_has_its_parts() {
    let fields = with(&[
        ("accept", "*/*"),
        ("priority", "u=1, i"),
        ("cookie", "a"),
        ("cookie", "b"),
    ]);
    let head = read(&fields, true).unwrap();
    let request = head.request;
    assert_eq!(request.method, Method::Get);
    assert_eq!(request.version, Version::Http2);
    assert_eq!(&*request.host, "example.org");
    assert_eq!(&*request.target, "/a?b");
    assert_eq!(request.body_length, BodyLength::Known(0));
    assert_eq!(request.fields.len(), 3);
    assert_eq!(request.fields.only("cookie"), Some(&b"a; b"[..]));
    assert_eq!(
        (head.priority.urgency, head.priority.incremental),
        (1, true)
    );
    assert_eq!(head.protocol, None);
}

#[test]
fn rfc9113_8_3_1_mandatory_pseudo_fields() {
    for missing in 0..GET.len() {
        let mut fields = GET.to_vec();
        fields.remove(missing);
        assert!(is_malformed(&fields), "{fields:?}");
    }
}

#[test]
fn rfc9113_8_3_pseudo_fields_are_known_single_and_first() {
    assert!(is_malformed(&with(&[(":status", "200")])));
    assert!(is_malformed(&with(&[(":unknown", "x")])));
    assert!(is_malformed(&with(&[(":", "x")])));
    for field in GET {
        assert!(is_malformed(&with(&[field])), "{field:?}");
    }
    let mut late = GET.to_vec();
    late.insert(3, ("accept", "*/*"));
    assert!(is_malformed(&late));
}

#[test]
fn rfc9113_8_3_1_path_and_scheme() {
    let of = |method, scheme, path| {
        [
            (":method", method),
            (":scheme", scheme),
            (":authority", "a"),
            (":path", path),
        ]
    };
    for path in [
        "",
        "a",
        "*",
        "http://a/",
        "/ ",
        "/a b",
        "/#f",
        "/\t",
        "/\u{e9}",
        "/\r\nX: y",
        "/\0",
    ] {
        assert!(is_malformed(&of("GET", "https", path)), "{path:?}");
    }
    assert!(read(&of("OPTIONS", "https", "*"), true).is_ok());
    assert!(read(&of("GET", "http", "/{x}|^"), true).is_ok());
    assert_eq!(answered(&of("GET", "ftp", "/")), 400);
    let long = format!("/{}", "a".repeat(100));
    assert_eq!(answered(&of("GET", "https", &long)), 414);
    assert!(is_malformed(&of("", "https", "/")));
    assert!(is_malformed(&of("G T", "https", "/")));
    assert!(is_malformed(&of("GET / HTTP/1.1\r\nX: ", "https", "/")));
    assert_eq!(answered(&of(&"M".repeat(33), "https", "/")), 501);
}

#[test]
fn rfc9113_8_3_1_authority_and_host() {
    assert!(read(&with(&[("host", "example.ORG:8443")]), true).is_ok());
    assert!(is_malformed(&with(&[("host", "example.com:8443")])));
    assert!(is_malformed(&with(&[("host", "example.org")])));
    let without = |host| [GET[0], GET[1], GET[3], ("host", host)];
    assert_eq!(
        &*read(&without("A.example"), true).unwrap().request.host,
        "a.example"
    );
    assert!(is_malformed(&without("")));
    assert!(is_malformed(&[
        GET[0],
        GET[1],
        GET[3],
        ("host", "a"),
        ("host", "a")
    ]));
    for authority in [
        "",
        "user@example.org",
        "a/b",
        "a b",
        "a:b",
        "a\r\nb",
        "a\\b",
    ] {
        let fields = [GET[0], GET[1], (":authority", authority), GET[3]];
        assert!(is_malformed(&fields), "{authority:?}");
    }
}

#[test]
fn rfc9113_8_2_1_field_names_and_values() {
    for name in [
        "", "Accept", "a b", "a:b", "a\0", "a\r", "a\n", "\u{e9}", "a\x7f", "a(b",
    ] {
        assert!(
            is_malformed(&[&GET[..], &[(name, "x")]].concat()),
            "{name:?}"
        );
    }
    for value in [
        "a\0b", "a\rb", "a\nb", " a", "a ", "\ta", "a\t", "a\x01", "a\x7f",
    ] {
        assert!(
            is_malformed(
                &with(&[])
                    .into_iter()
                    .chain([("x", value)])
                    .collect::<Vec<_>>()
            ),
            "{value:?}"
        );
    }
    assert!(read(&with(&[("x-1_!", "a\tb \u{e9}"), ("y", "")]), true).is_ok());
}

#[test]
fn rfc9113_8_2_2_connection_specific_fields() {
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ] {
        assert!(is_malformed(&[&GET[..], &[(name, "x")]].concat()), "{name}");
    }
    assert!(is_malformed(&with(&[("te", "gzip")])));
    assert!(is_malformed(&with(&[("te", "trailers, gzip")])));
    assert!(read(&with(&[("te", "trailers")]), true).is_ok());
}

#[test]
fn rfc9113_8_1_1_content_length_agrees_with_the_end_of_the_stream() {
    let length = |value| with(&[("content-length", value)]);
    assert_eq!(
        read(&length("7"), false).unwrap().request.body_length,
        BodyLength::Known(7)
    );
    assert_eq!(
        read(&length("0"), true).unwrap().request.body_length,
        BodyLength::Known(0)
    );
    assert_eq!(
        read(&GET, false).unwrap().request.body_length,
        BodyLength::Delimited
    );
    assert!(matches!(
        read(&length("7"), true),
        Err(Refusal::Malformed(_))
    ));
    for bad in ["", "+7", "7,7", "-1", "0x7", "18446744073709551616"] {
        assert!(is_malformed(&length(bad)), "{bad}");
    }
    assert!(is_malformed(&with(&[
        ("content-length", "7"),
        ("content-length", "7")
    ])));
}

#[test]
fn rfc9110_10_1_1_expectations() {
    let expect = with(&[("expect", "100-Continue")]);
    assert!(read(&expect, false).unwrap().request.expects_continue);
    assert!(!read(&expect, true).unwrap().request.expects_continue);
    assert_eq!(answered(&with(&[("expect", "tea")])), 417);
}

#[test]
fn rfc9113_8_5_connect_is_not_offered() {
    let connect = [(":method", "CONNECT"), (":authority", "a:443")];
    assert_eq!(answered(&connect), 501);
    assert!(is_malformed(&[(":method", "CONNECT"), (":authority", "a")]));
    assert!(is_malformed(&[
        connect[0],
        connect[1],
        (":scheme", "https")
    ]));
    assert!(is_malformed(&[connect[0], connect[1], (":path", "/")]));
}

#[test]
fn rfc8441_4_extended_connect() {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/chat"),
        (":authority", "a"),
    ];
    let head = read(&fields, false).unwrap();
    assert_eq!(head.protocol.as_deref(), Some("websocket"));
    assert_eq!(head.request.method, Method::Connect);
    let refused = |bounds| {
        matches!(
            request(&list(&fields), false, bounds),
            Err(Refusal::Malformed(_))
        )
    };
    assert!(refused(&Bounds {
        extended_connect: false,
        ..BOUNDS
    }));
    for missing in 2..fields.len() {
        let mut fields = fields.to_vec();
        fields.remove(missing);
        assert!(is_malformed(&fields), "{fields:?}");
    }
    assert!(is_malformed(
        &[&[(":protocol", "websocket")], &GET[..]].concat()
    ));
}

#[test]
fn rfc9113_10_5_1_a_list_over_the_bounds_is_answered_with_431() {
    let long = "v".repeat(5000);
    assert_eq!(answered(&[&GET[..], &[("x", &long)]].concat()), 431);
}

#[test]
fn rfc9113_8_1_trailers_have_no_pseudo_fields() {
    assert_eq!(check_trailers(&list(&[("grpc-status", "0")])), Ok(()));
    assert_eq!(check_trailers(&list(&[])), Ok(()));
    for bad in [
        (":path", "/"),
        ("Upper", "x"),
        ("connection", "x"),
        ("a", " b"),
    ] {
        assert!(
            matches!(check_trailers(&list(&[bad])), Err(Refusal::Malformed(_))),
            "{bad:?}"
        );
    }
}

proptest! {
    /// Whatever is accepted can be written as HTTP/1.1 without being read as anything else.
    #[test]
    fn rfc9113_10_3_what_is_accepted_is_safe_to_forward(
        name in "[a-z: \r\n\\x00A]{0,6}",
        value in "[ -~\r\n\t\\x00]{0,8}",
        path in "/?[ -~\r\n]{0,8}",
    ) {
        let fields = [GET[0], GET[1], GET[2], (":path", &*path), (&*name, &*value)];
        if let Ok(head) = read(&fields, true) {
            let unsafe_byte = |b: u8| b <= b' ' || b == 0x7f;
            prop_assert!(!head.request.target.bytes().any(unsafe_byte));
            for (name, value) in head.request.fields.iter() {
                prop_assert!(is_token(name) && !name.iter().any(u8::is_ascii_uppercase));
                prop_assert!(!value.iter().any(|b| b"\r\n\0".contains(b)));
            }
        }
    }
}
