//! The first bytes of a connection and the heads of HTTP/1.1.

use bytes::{Bytes, BytesMut};
use portcullis::message::{FieldBlock, Status, Version};
use portcullis::proto::h1::encode::{Framing, ResponseHead};
use portcullis::proto::h1::parse::{Bounds, HeadParser};
use portcullis::tls::client_hello::{ClientHelloReader, FirstBytes};

use crate::handshake::client_hello;
use crate::part::{Part, consuming, repeated};

pub(crate) fn parts() -> Vec<Part> {
    vec![
        Part::new("client_hello/parse", 1000, || {
            let hello = client_hello();
            repeated(move || matches!(ClientHelloReader::new().read(&hello), FirstBytes::Hello(_)))
        }),
        Part::new("h1/parse/short", 1024, || parse(SHORT)),
        Part::new("h1/parse/browser", 1024, || parse(BROWSER)),
        Part::new("h1/encode/file", 1000, encode),
    ]
}

fn parse(head: &'static [u8]) -> crate::part::Work {
    let mut parser = HeadParser::default();
    let bounds = Bounds {
        header_bytes_max: 32 * 1024,
        target_bytes_max: 8 * 1024,
    };
    consuming(
        move || BytesMut::from(head),
        move |mut input| matches!(parser.parse(&mut input, &bounds), Ok(Some(_))),
    )
}

fn encode() -> crate::part::Work {
    let block = FieldBlock::new(vec![
        (
            "content-type",
            Bytes::from_static(b"text/html; charset=utf-8"),
        ),
        ("x-content-type-options", Bytes::from_static(b"nosniff")),
        ("accept-ranges", Bytes::from_static(b"bytes")),
        ("last-modified", Bytes::from_static(DATE)),
        ("etag", Bytes::from_static(b"\"Jf3XxY0p5S1mVQ9q7bH2aA\"")),
    ]);
    let hsts = [(
        "strict-transport-security",
        Bytes::from_static(b"max-age=31536000"),
    )];
    let mut out = Vec::new();
    repeated(move || {
        out.clear();
        let head = ResponseHead {
            status: Status(200),
            version: Version::Http11,
            date: DATE,
            block_lines: block.lines(),
            fields: &hsts,
            relayed: None,
            framing: Framing::Length(1024),
            keep_alive: true,
        };
        head.write(&mut out);
        out.ends_with(b"\r\n\r\n")
    })
}

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// What a load generator sends.
const SHORT: &[u8] = b"GET /1k.bin HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\n\r\n";

/// What a browser sends for a script of a page.
const BROWSER: &[u8] = b"GET /assets/js/application-3f8a2c.js?v=20240611 HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: */*\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.org/products/overview.html\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=6b1f0c9d2e7a4f5b8c3d; consent=yes; theme=dark\r\n\
    Sec-Fetch-Dest: script\r\n\
    Sec-Fetch-Mode: no-cors\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Priority: u=2\r\n\
    If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    If-None-Match: \"Jf3XxY0p5S1mVQ9q7bH2aA\"\r\n\r\n";
