//! What is fuzzed. Each target asserts more than that nothing panics: the same bytes mean the same in
//! whatever pieces they come, bounds hold, and what was made is read back as it was.

#[path = "connections.rs"]
mod connections;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use portcullis::limits::INTERIM_RESPONSES_MAX;
use portcullis::message::{BodyLength, Fields, Method, Request, Version};
use portcullis::proto::conditional::{self, EntityTag, Validators, Verdict};
use portcullis::proto::content_coding::{Acceptable, Coding};
use portcullis::proto::forwarded::{self, ClientField};
use portcullis::proto::h1::body::{BodyDecoder, Decoded};
use portcullis::proto::h1::parse::{Bounds, HeadParser};
use portcullis::proto::h1::response_head::{Framing, ResponseParser};
use portcullis::proto::h2;
use portcullis::proto::h2::frame::{Decoder as FrameDecoder, Frame, Role};
use portcullis::proto::h2::hpack;
use portcullis::proto::h2::settings::Settings;
use portcullis::proto::proxy_header::ProxyHeader;
use portcullis::proto::range::{self, Selection};
use portcullis::record::{ContentType, Opened, Opener, PostHandshake, Sealer, TrafficKeys};
use portcullis::serve::path::RelativePath;
use portcullis::tls::client_hello::{ClientHelloReader, FirstBytes};
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::{ConnectionTrafficSecrets, SupportedCipherSuite};

/// A reader of bytes.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Panics where something does not hold.
    pub(crate) run: fn(&[u8]),
    /// Inputs that get far.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// What means something in the input.
    pub(crate) words: &'static [&'static [u8]],
}

pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "h1_head",
        run: h1_head,
        seeds: h1_head_seeds,
        words: H1_WORDS,
    },
    Target {
        name: "h1_body",
        run: h1_body,
        seeds: h1_body_seeds,
        words: &[b"\r\n", b"0\r\n\r\n", b";a=\"b\"", b"ffffffff", b"A: b\r\n"],
    },
    Target {
        name: "h1_response",
        run: h1_response,
        seeds: h1_response_seeds,
        words: H1_RESPONSE_WORDS,
    },
    Target {
        name: "client_hello",
        run: client_hello,
        seeds: client_hello_seeds,
        words: &[
            b"\x16\x03\x01",
            b"\x00\x00",
            b"\xfe\x0d",
            b"\x03\x04",
            b"GET ",
        ],
    },
    Target {
        name: "record",
        run: record,
        seeds: record_seeds,
        words: &[
            b"\x17\x03\x03",
            b"\x15\x03\x03\x00",
            b"\x18\x00\x00\x01\x00",
        ],
    },
    Target {
        name: "range_and_conditions",
        run: range_and_conditions,
        seeds: range_seeds,
        words: RANGE_WORDS,
    },
    Target {
        name: "target_path",
        run: target_path,
        seeds: || texts(&["/a/../b%2e/./c", "/%C3%A9//x/", "/.well-known/a?b=%00", "*"]),
        words: &[b"/", b"..", b"%2e", b"%2F", b"%00", b"\\", b"?", b"//"],
    },
    Target {
        name: "h2_frames",
        run: h2_frames,
        seeds: h2_seeds,
        words: &[
            b"\x00\x00\x04\x08\x00",
            b"\x00\x00\x00\x04\x01",
            b"\x82\x86\x84\x41",
        ],
    },
    Target {
        name: "hpack",
        run: hpack_block,
        seeds: hpack_seeds,
        words: &[
            b"\x3f\xe1\x1f",
            b"\x20",
            b"\x40\x01a\x01b",
            b"\xff\xff\xff\xff\x0f",
        ],
    },
    Target {
        name: "h2_server",
        run: connections::h2_server,
        seeds: connections::h2_server_seeds,
        words: connections::WORDS,
    },
    Target {
        name: "h2_client",
        run: connections::h2_client,
        seeds: connections::h2_client_seeds,
        words: connections::WORDS,
    },
    Target {
        name: "proxy_header",
        run: proxy_header,
        seeds: proxy_header_seeds,
        words: &[
            b"PROXY TCP4 ",
            b"\r\n",
            b"\x03\x00\x04",
            b"\x20",
            b"65535",
            b"::1",
        ],
    },
    Target {
        name: "forwarded",
        run: forwarded,
        seeds: || {
            texts(&[
                "192.0.2.1, 10.0.0.1",
                "for=192.0.2.1;proto=https, for=\"[2001:db8::1]:80\"",
                "for=\"\\\"\", for=_hidden;by=unknown",
            ])
        },
        words: &[b"for=", b"\"", b"\\", b", ", b";", b"[::1]", b"10.0.0.1"],
    },
    Target {
        name: "configuration",
        run: configuration,
        seeds: || vec![CONFIGURATION.as_bytes().to_vec()],
        words: &[
            b"[[site]]",
            b"= [",
            b"\"\"",
            b"-1",
            b"\n",
            b"[site.headers]",
            b"fields",
        ],
    },
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Heads, one after the other. What is found, and the status that one is refused with, does not depend
/// on the pieces they come in.
fn h1_head(input: &[u8]) {
    let bounds = Bounds {
        header_bytes_max: 1_024,
        target_bytes_max: 256,
    };
    let read = |piece: usize| {
        let mut parser = HeadParser::default();
        let mut buffer = BytesMut::new();
        let mut heads = Vec::new();
        for piece in input.chunks(piece) {
            buffer.extend_from_slice(piece);
            loop {
                match parser.parse(&mut buffer, &bounds) {
                    Ok(None) => break,
                    Ok(Some(head)) => {
                        assert!(head.request.target.len() <= bounds.target_bytes_max);
                        for (name, value) in head.request.fields.iter() {
                            assert!(!name.is_empty() && !name.contains(&b':'));
                            assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)));
                        }
                        heads.push(format!("{head:?}"));
                    }
                    Err(refusal) => {
                        heads.push(format!("refused: {}", refusal.status.0));
                        return (heads, None);
                    }
                }
            }
            assert!(buffer.len() <= bounds.header_bytes_max + piece.len());
        }
        (heads, Some(buffer.to_vec()))
    };
    let whole = read(input.len().max(1));
    for piece in [1, 7] {
        assert_eq!(read(piece), whole);
    }
}

fn h1_head_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "GET /a?b HTTP/1.1\r\nHost: example.org\r\nAccept-Encoding: gzip\r\n\r\n",
        "\r\nPOST / HTTP/1.1\r\nHost: [::1]:443\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        "PUT http://a.example:8443/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\nHEAD / HTTP/1.1\r\nHost: b\r\n\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    ])
}

const H1_WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"HTTP/1.1",
    b"Host: ",
    b"Content-Length: 18446744073709551616\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b" ",
    b":",
    b"\x00",
    b"http://",
];

/// A chunked body. Its bytes do not depend on the pieces they come in, and stay within the bound.
fn h1_body(input: &[u8]) {
    const BYTES_MAX: u64 = 512;
    let read = |piece: usize| {
        let mut decoder = BodyDecoder::chunked(BYTES_MAX);
        let mut buffer = BytesMut::new();
        let mut body = Vec::new();
        let mut pieces = input.chunks(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Decoded::Data(data)) => {
                    assert!(!data.is_empty());
                    body.extend_from_slice(&data);
                    assert!(body.len() as u64 <= BYTES_MAX);
                }
                Ok(Decoded::NeedMore) => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return (body, "more".to_owned(), None),
                },
                Ok(Decoded::End) => {
                    assert!(decoder.is_done());
                    for piece in pieces {
                        buffer.extend_from_slice(piece);
                    }
                    return (body, "end".to_owned(), Some(buffer.to_vec()));
                }
                Err(refusal) => return (Vec::new(), refusal.status.0.to_string(), None),
            }
        }
    };
    let whole = read(input.len().max(1));
    for piece in [1, 5] {
        assert_eq!(read(piece), whole);
    }
}

fn h1_body_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "5\r\nhello\r\n0\r\n\r\nGET",
        "a;x=\"y\"\r\n0123456789\r\n1\r\n.\r\n0\r\nTrailer: value\r\n\r\n",
        "00000001\r\na\r\n0;last\r\n\r\n",
    ])
}

/// The first byte picks the request's method; the rest is what a server answers. What comes of it does
/// not depend on the pieces it comes in, and of what follows the head nothing belongs to it.
fn h1_response(input: &[u8]) {
    let Some((&pick, input)) = input.split_first() else {
        return;
    };
    let method =
        [Method::Get, Method::Head, Method::Connect, Method::Post][usize::from(pick) % 4].clone();
    let whole = response_of(input, input.len().max(1), &method);
    for piece in [1, 7] {
        assert_eq!(response_of(input, piece, &method), whole);
    }
    let Ok((Some(head), rest)) = whole else {
        return;
    };
    let end = input.len() - rest.len();
    assert_eq!(&input[end..], rest);
    let alone = response_of(&input[..end], end, &method).expect("as before");
    assert_eq!(alone, (Some(head.clone()), Vec::new()));
    let other = [&input[..end], b"HTTP/1.1 200 OK\r\n\n"].concat();
    let other = response_of(&other, other.len(), &method).expect("as before");
    assert_eq!(other.0, Some(head));
    if let Ok((head, _)) = response_of(&input[..end - 1], end, &method) {
        assert_eq!(head, None, "a head without its end");
    }
}

/// The head with the interim responses before it, once it has come, and what is left.
fn response_of(
    input: &[u8],
    piece: usize,
    method: &Method,
) -> Result<(Option<String>, Vec<u8>), ()> {
    let mut parser = ResponseParser::default();
    let mut buffer = BytesMut::new();
    let mut pieces = input.chunks(piece);
    while let Some(piece) = pieces.next() {
        buffer.extend_from_slice(piece);
        // What is wrong first may depend on what is there.
        let Some(head) = parser.parse(&mut buffer, method).map_err(|_| ())? else {
            continue;
        };
        let interims = parser.take_interims();
        assert!(interims.len() <= INTERIM_RESPONSES_MAX);
        let of_interims = interims.iter().map(|interim| &interim.fields);
        for (name, value) in of_interims.chain([&head.fields]).flat_map(Fields::iter) {
            assert!(!name.is_empty() && !name.contains(&b':'));
            assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)));
        }
        match head.framing {
            Framing::None => {}
            Framing::Length(length) => assert_eq!(head.content_length, Some(length)),
            Framing::Chunked => assert_eq!(head.content_length, None),
            Framing::Close => assert!(head.content_length.is_none() && !head.keep_alive),
        }
        for piece in pieces {
            buffer.extend_from_slice(piece);
        }
        return Ok((Some(format!("{interims:?} {head:?}")), buffer.to_vec()));
    }
    Ok((None, Vec::new()))
}

fn h1_response_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: now\r\n\r\nhello",
        "\0HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404\r\nA: b\r\n\r\n",
        "\x03HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n",
        "\x01HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nConnection: close\r\n\r\n",
        "\x02HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x01\x01a",
        "\0HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ])
}

const H1_RESPONSE_WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.0 204 \r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close, keep-alive\r\n",
    b" ",
    b":",
    b"\x00",
];

/// A ClientHello, whole and byte by byte.
fn client_hello(input: &[u8]) {
    let whole = ClientHelloReader::new().read(input);
    if let FirstBytes::Hello(hello) = &whole {
        let name = hello.server_name.as_deref().unwrap_or("a");
        assert!(!name.is_empty() && name.len() <= 255);
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
        assert!(hello.alpn().all(|name| !name.is_empty()));
    }
    let mut reader = ClientHelloReader::new();
    let mut last = reader.read(&[]);
    for end in 1..=input.len() {
        let FirstBytes::NeedMore { missing } = last else {
            break;
        };
        assert!(missing > 0);
        last = reader.read(&input[..end]);
    }
    // Where it is refused early, the whole of it is refused too, for the same reason or another.
    match (&whole, &last) {
        (FirstBytes::Hello(_), _) | (_, FirstBytes::Hello(_)) => assert_eq!(whole, last),
        (FirstBytes::NeedMore { .. }, other) | (other, FirstBytes::NeedMore { .. }) => {
            assert!(
                matches!(other, FirstBytes::NeedMore { .. }),
                "{whole:?} {last:?}"
            );
        }
        _ => {}
    }
}

fn client_hello_seeds() -> Vec<Vec<u8>> {
    let mut hellos: Vec<Vec<u8>> = ["example.org", "a.b.c.example"]
        .into_iter()
        .map(|name| {
            let mut config = rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let name = name.try_into().expect("a name");
            let mut client = rustls::ClientConnection::new(config.into(), name).expect("a client");
            let mut hello = Vec::new();
            client.write_tls(&mut hello).expect("memory takes all");
            hello
        })
        .collect();
    // The same over two records.
    let first = hellos.first().cloned().unwrap_or_default();
    let (front, back) = first[5..].split_at(100);
    let mut cut = Vec::new();
    for part in [front, back] {
        cut.extend_from_slice(&[0x16, 3, 1]);
        cut.extend_from_slice(&u16::try_from(part.len()).expect("short").to_be_bytes());
        cut.extend_from_slice(part);
    }
    hellos.push(cut);
    hellos.push(b"GET / HTTP/1.1\r\n\r\n".to_vec());
    hellos
}

fn keys(suite: SupportedCipherSuite) -> TrafficKeys {
    let (key, iv) = (AeadKey::from([7; 32]), Iv::new([9; 12]));
    let is_aes = format!("{:?}", suite.suite()).contains("AES_256_GCM");
    let secrets = match is_aes {
        true => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
        false => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
    };
    TrafficKeys::from_rustls(suite, (0, secrets)).expect("a known suite")
}

fn suites() -> [SupportedCipherSuite; 4] {
    [
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ]
}

/// The first byte picks a suite; the rest is received as it is, and sealed and received again. Of
/// what was never sealed, nothing opens; what was opens to what it was.
fn record(input: &[u8]) {
    let Some((&pick, input)) = input.split_first() else {
        return;
    };
    let suite = suites()[usize::from(pick) % 4];
    let mut opener = Opener::new(keys(suite)).expect("a known suite");
    let mut received = input.to_vec();
    let opened = opener.open(&mut received);
    assert!(!matches!(opened, Ok(Opened::Record { .. })), "{opened:?}");

    // As if the kernel had opened it: a type and its content.
    let mut machine = PostHandshake::new(keys(suite).version());
    let mut sealer = Sealer::new(keys(suite), 1 << 20).expect("a known suite");
    let mut wire = Vec::new();
    let mut sent = Vec::new();
    for (count, piece) in input.chunks(64).enumerate() {
        let (&kind, payload) = piece.split_first().expect("chunks are not empty");
        // An alert, a handshake message or data: no other type is opened under TLS 1.2.
        let sealed_kind = 21 + kind % 3;
        let content_type = ContentType::from(sealed_kind);
        if sealer.seal_copy(&mut wire, content_type, payload).is_ok() {
            sent.push((sealed_kind, payload));
        }
        let kind = 20 + kind % 5;
        if machine.on_record(kind, payload, count as u64).is_err() {
            break;
        }
    }
    let mut opener = Opener::new(keys(suite)).expect("a known suite");
    let mut rest = &mut wire[..];
    for (kind, payload) in sent {
        match opener.open(rest) {
            Ok(Opened::Record {
                consumed,
                content_type,
                payload: place,
            }) => {
                assert_eq!((u8::from(content_type), &rest[place]), (kind, payload));
                rest = &mut rest[consumed..];
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(rest.is_empty());
}

fn record_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (pick, suite) in suites().into_iter().enumerate() {
        let mut sealer = Sealer::new(keys(suite), 1 << 20).expect("a known suite");
        let mut wire = vec![u8::try_from(pick).expect("small")];
        // Sealed with another sequence number than it is opened with.
        for payload in [&b"first"[..], b"second"] {
            let kind = ContentType::ApplicationData;
            wire.truncate(1);
            sealer.seal_copy(&mut wire, kind, payload).expect("sealed");
        }
        seeds.push(wire);
    }
    seeds.push(b"\x00\x02\x18\x00\x00\x01\x01".to_vec());
    seeds.push(b"\x01\x01\x01\x00".to_vec());
    seeds
}

/// A request with the input's lines as its fields.
fn request_of(input: &[u8]) -> Request {
    let mut block = Vec::new();
    let mut entries = Vec::new();
    for line in input.split(|&byte| byte == b'\n').take(32) {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(0);
        let (name, value) = line.split_at(colon);
        let mut append = |text: &[u8]| {
            let start = u32::try_from(block.len()).expect("short");
            block.extend_from_slice(text);
            start..u32::try_from(block.len()).expect("short")
        };
        entries.push((append(name), append(value.get(1..).unwrap_or_default())));
    }
    Request {
        method: Method::Get,
        version: Version::Http11,
        host: "example.org".into(),
        target: "/".into(),
        fields: Fields::new(Bytes::from(block), entries),
        body_length: BodyLength::Known(0),
        expects_continue: false,
        id: Default::default(),
        interims: Default::default(),
    }
}

/// Range, preconditions and Accept-Encoding. What is selected lies within the file, each byte once.
fn range_and_conditions(input: &[u8]) {
    let request = request_of(input);
    let total = 10_000;
    let modified = UNIX_EPOCH + Duration::from_secs(784_111_777);
    let validators = Validators {
        etag: EntityTag::parse(b"\"a\""),
        last_modified: Some(modified),
    };
    let verdict = conditional::evaluate(&request, Some(&validators));
    if verdict != Verdict::Proceed {
        assert!(conditional::may_decide(&request.fields));
    }
    let now: SystemTime = modified + Duration::from_secs(60);
    let selection = range::select(&request, &validators, total, now);
    if selection != Selection::Full {
        assert!(conditional::may_decide(&request.fields));
    }
    let mut parts = match selection {
        Selection::Full | Selection::Unsatisfiable => Vec::new(),
        Selection::Partial { offset, length } => vec![(offset, length)],
        Selection::Several(parts) => {
            assert!(parts.len() > 1);
            parts
        }
    };
    parts.sort_unstable();
    let mut end = 0;
    for (offset, length) in parts {
        assert!(offset >= end && length > 0 && length <= total - offset);
        end = offset + length;
    }
    let acceptable = Acceptable::parse(&request.fields);
    match acceptable.choose([Coding::Brotli, Coding::Gzip].into_iter()) {
        Some(Some(coding)) => assert!(acceptable.weight(coding) > 0),
        Some(None) => assert!(acceptable.identity_weight() > 0),
        None => assert_eq!(acceptable.identity_weight(), 0),
    }
}

fn range_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "range:bytes=0-9,500-599,-5",
        "Range:bytes=100-\nif-range:\"a\"",
        "range:bytes=-1\nIf-Range:Sun, 06 Nov 1994 08:49:37 GMT",
        "if-none-match:W/\"b\", \"a\"\nif-modified-since:Sun, 06 Nov 1994 08:49:37 GMT",
        "if-match:*\nif-unmodified-since:Sunday, 06-Nov-94 08:49:37 GMT",
        "accept-encoding:gzip;q=0.5, br;q=0, *;q=0.1\naccept-encoding:identity;q=0",
    ])
}

const RANGE_WORDS: &[&[u8]] = &[
    b"range:bytes=",
    b"0-",
    b",-1",
    b"18446744073709551615",
    b"\nif-range:",
    b"\"a\"",
    b"W/",
    b"*",
    b";q=",
    b"\n",
];

/// A target's path: what comes of it stays beneath the root, and a redirect leads to itself.
fn target_path(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    for dotfiles in [false, true] {
        let Ok(parsed) = RelativePath::parse(path, dotfiles) else {
            continue;
        };
        let beneath = parsed.beneath.as_bytes();
        assert!(!beneath.starts_with(b"/"));
        if !beneath.is_empty() {
            for name in beneath.split(|&byte| byte == b'/') {
                assert!(![&b""[..], b".", b".."].contains(&name));
            }
        }
        let target = String::from_utf8(parsed.directory_target(query)).expect("ASCII");
        assert!(target.starts_with('/') && !target.starts_with("//"));
        let path = target.split('?').next().expect("one at least");
        let again = RelativePath::parse(path, dotfiles).expect("a path that was made here");
        assert_eq!(again.beneath, parsed.beneath);
    }
}

/// Frames, whole and in pieces; header blocks are decoded and made requests.
fn h2_frames(input: &[u8]) {
    let whole = frames_of(input, input.len().max(1));
    assert_eq!(frames_of(input, 9), whole);
}

fn frames_of(input: &[u8], piece: usize) -> Vec<String> {
    let mut decoder = FrameDecoder::new(Role::Server);
    let mut hpack = hpack::Decoder::new();
    let mut settings = Settings::default();
    let mut list = hpack::HeaderList::default();
    let mut seen = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    for piece in input.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            let decoded = match decoder.decode(&buffer) {
                Ok(None) => break,
                Ok(Some(decoded)) => decoded,
                Err(error) => {
                    seen.push(format!("{error:?}"));
                    return seen;
                }
            };
            assert!(decoded.consumed > 0 && decoded.consumed <= buffer.len());
            if let Frame::Data(data) = &decoded.frame {
                let end = data.content_start + data.content.len();
                assert_eq!(&buffer[data.content_start..end], data.content);
                assert!(data.content.len() <= data.flow_bytes as usize);
            }
            seen.push(format!("{:?}", decoded.frame));
            let mut block = None;
            if let Frame::Headers(headers) = &decoded.frame {
                block = Some((headers.block.to_vec(), headers.end_stream));
            }
            if let Frame::Settings { payload } = &decoded.frame {
                seen.push(format!("{:?}", settings.apply(payload, Role::Server)));
            }
            let consumed = decoded.consumed;
            buffer.drain(..consumed);
            if let Some((block, end_stream)) = block {
                if let Err(error) = hpack.decode(&block, &HPACK_BOUNDS, &mut list) {
                    seen.push(format!("{error:?}"));
                    return seen;
                }
                let bounds = h2::request::Bounds {
                    target_bytes_max: 256,
                    extended_connect: true,
                };
                seen.push(format!(
                    "{:?}",
                    h2::request::request(&list, end_stream, &bounds)
                ));
                seen.push(format!("{:?}", h2::request::check_trailers(&list)));
            }
        }
    }
    seen
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

fn h2_seeds() -> Vec<Vec<u8>> {
    let block = hpack_seeds().swap_remove(0);
    let (front, back) = block.split_at(3);
    vec![
        [
            frame(4, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0]),
            frame(8, 0, 0, &[0, 1, 0, 0]),
            frame(1, 5, 1, &block),
            frame(0, 1, 1, b"data"),
        ]
        .concat(),
        [
            frame(1, 1, 3, front),
            frame(9, 4, 3, back),
            frame(3, 0, 3, &[0, 0, 0, 8]),
        ]
        .concat(),
        [
            frame(
                1,
                0x2d,
                5,
                &[&[1, 0, 0, 0, 3, 16][..], &block, &[0]].concat(),
            ),
            frame(0, 8, 5, &[2, b'x', 0, 0]),
            frame(6, 0, 0, b"12345678"),
            frame(16, 0, 0, b"\0\0\0\x05u=1, i"),
            frame(7, 0, 0, &[0; 8]),
        ]
        .concat(),
    ]
}

const HPACK_BOUNDS: hpack::Bounds = hpack::Bounds {
    list_bytes_max: 1_024,
    fields_max: 16,
};

/// Header blocks, cut at each 0xfe. The list stays within its bounds, the table within its size, and
/// what was decoded is encoded and decoded again to the same.
fn hpack_block(input: &[u8]) {
    let mut decoder = hpack::Decoder::new();
    let mut list = hpack::HeaderList::default();
    let mut encoder = hpack::Encoder::new();
    let mut mirror = hpack::Decoder::new();
    for block in input.split(|&byte| byte == 0xfe) {
        if decoder.decode(block, &HPACK_BOUNDS, &mut list).is_err() {
            return;
        }
        assert!(list.len() <= HPACK_BOUNDS.fields_max);
        assert!(decoder.table_size() <= 4_096);
        let fields: Vec<(Vec<u8>, Vec<u8>)> = list
            .iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        let bytes: usize = fields.iter().map(|(n, v)| n.len() + v.len() + 32).sum();
        assert!(bytes <= HPACK_BOUNDS.list_bytes_max);
        let mut encoded = Vec::new();
        encoder.begin(&mut encoded);
        for (name, value) in &fields {
            encoder.field(name, value, hpack::Indexing::of(name), &mut encoded);
        }
        let mut again = hpack::HeaderList::default();
        mirror
            .decode(&encoded, &HPACK_BOUNDS, &mut again)
            .expect("what was encoded here");
        let again: Vec<(Vec<u8>, Vec<u8>)> = again
            .iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        assert_eq!(again, fields);
    }
}

fn hpack_seeds() -> Vec<Vec<u8>> {
    // RFC 7541 C.4: requests with Huffman coding; C.3.3 with a name of its own.
    vec![
        b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff".to_vec(),
        b"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf".to_vec(),
        b"\x82\x87\x85\xbf\x40\x0acustom-key\x0ccustom-value".to_vec(),
        b"\x3f\xe1\x1f\x40\x01a\x01b\xfe\xbe\x10\x01c\x01d\xfe\x20\x82".to_vec(),
    ]
}

/// A PROXY header: the same in whatever pieces it comes, and written in version 2 it reads as itself.
fn proxy_header(input: &[u8]) {
    let read = |piece: usize| {
        let mut buffer = BytesMut::new();
        let mut pieces = input.chunks(piece);
        loop {
            match ProxyHeader::decode(&mut buffer) {
                Ok(Some(header)) => {
                    for piece in pieces {
                        buffer.extend_from_slice(piece);
                    }
                    return Ok((header, buffer.to_vec()));
                }
                Ok(None) => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return Err(true),
                },
                // What is wrong first may depend on what is there.
                Err(_) => return Err(false),
            }
        }
    };
    let whole = read(input.len().max(1));
    assert_eq!(read(1), whole);
    if let Ok((header, _)) = whole {
        let mut text = Vec::new();
        header.encode_1(&mut text);
        assert!(text.starts_with(b"PROXY ") && text.ends_with(b"\r\n") && text.len() <= 107);
        for with_checksum in [false, true] {
            let mut encoded = Vec::new();
            header.encode_2(&mut encoded, with_checksum);
            let again = ProxyHeader::decode(&mut BytesMut::from(&encoded[..]));
            let again = again.expect("what was encoded here").expect("all of it");
            assert_eq!(again.addresses.is_some(), header.addresses.is_some());
        }
    }
}

fn proxy_header_seeds() -> Vec<Vec<u8>> {
    let mut seeds = texts(&[
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /",
        "PROXY TCP6 2001:db8::1 ::1 65535 0\r\n",
        "PROXY UNKNOWN\r\n",
    ]);
    for (source, destination) in [
        ("192.0.2.1:5", "192.0.2.2:443"),
        ("[2001:db8::1]:5", "[::1]:1"),
    ] {
        let address = |text: &str| text.parse().expect("an address");
        let header = ProxyHeader::new(address(source), address(destination));
        let mut encoded = Vec::new();
        header.encode_2(&mut encoded, true);
        seeds.push(encoded);
    }
    seeds.push(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec());
    seeds
}

/// Whatever a client says of others, what the trusted proxy behind it appends is what counts.
fn forwarded(input: &[u8]) {
    let proxy = IpAddr::from([10, 0, 0, 1]);
    let client = IpAddr::from([192, 0, 2, 77]);
    for (field, name, last, hop) in [
        (
            ClientField::XForwardedFor,
            "x-forwarded-for",
            "192.0.2.77",
            "10.0.0.1",
        ),
        (
            ClientField::Forwarded,
            "forwarded",
            "for=192.0.2.77",
            "for=10.0.0.1",
        ),
    ] {
        let of = |values: &[&[u8]]| {
            let fields = values.iter().map(|value| (name.as_bytes(), *value));
            let fields = Fields::default().extended(fields);
            forwarded::client(proxy, field, &fields, |address| address == proxy)
        };
        let appended = [input, b", ", last.as_bytes()].concat();
        assert_eq!(of(&[&appended]), client);
        assert_eq!(of(&[input, last.as_bytes()]), client);
        // Another trusted proxy on the way is passed over.
        assert_eq!(of(&[&appended, hop.as_bytes()]), client);
    }
}

/// A configuration file: accepted, or refused with messages that have a place and a remedy.
fn configuration(input: &[u8]) {
    match portcullis::config::parse(input, Path::new("p.toml"), Path::new("/")) {
        Ok(loaded) => assert!(!loaded.config.sites.is_empty()),
        Err(error) => {
            assert!(!error.problems().is_empty());
            for problem in error.problems() {
                assert!(!problem.message.is_empty() && !problem.remedy.is_empty());
            }
            assert!(error.to_string().contains("error: "));
        }
    }
}

const CONFIGURATION: &str = r#"[workers]
count = 2
[[listener]]
address = "[::]:443"
[[listener]]
address = "127.0.0.1:80"
service = "redirect"
redirect_port = 8443
[tls]
version_min = "1.2"
suites = ["aes-128-gcm"]
[[site]]
names = ["a.example", "*.b.example"]
default = true
certificate = "c.pem"
key = "k.pem"
root = "/"
index = []
precompressed = ["br", "gzip"]
[site.hsts]
max_age_s = 60
[site.tls]
groups = ["x25519"]
[[site.headers]]
path = "/assets/"
extensions = ["css"]
fields = ["cache-control: max-age=60"]
[[site.error_pages]]
statuses = [404]
file = "/etc/passwd"
[limits]
header_bytes_max = 32768
[timeouts]
idle_ms = 60000
"#;
