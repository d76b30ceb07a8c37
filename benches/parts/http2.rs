//! Header compression and the core of an HTTP/2 connection.

use bytes::{Bytes, BytesMut};
use portcullis::config::{Http2, Limits, Timeouts};
use portcullis::message::gather::{Gather, Part as Piece};
use portcullis::message::{Body, Fields, Response, Status};
use portcullis::proto::h2::connection::client::{Ask, AskBody, ClientConfig};
use portcullis::proto::h2::connection::{Connection, Event};
use portcullis::proto::h2::hpack::{Bounds, Decoder, Encoder, HeaderList, Indexing};

use crate::meter::Meter;
use crate::part::{Part, Work, consuming, repeated};

pub(crate) fn parts() -> Vec<Part> {
    let mut parts = vec![
        Part::new("hpack/decode/warm", 1000, decode_warm),
        Part::new("hpack/decode/cold", 512, decode_cold),
        Part::new("hpack/encode/warm", 1000, encode_warm),
        Part::new("h2/request/1k", 512, || {
            let mut pair = Pair::new();
            Box::new(move |calls, meter| {
                for _ in 0..calls {
                    pair.exchange(1, 1024, meter, Measured::All);
                }
            })
        }),
    ];
    for streams in [1, 10, 100] {
        let name = format!("h2/send/16k/{streams}_streams");
        let calls = 512_u64.div_ceil(streams as u64);
        let prepare = move || -> Work {
            let mut pair = Pair::new();
            Box::new(move |calls, meter| {
                for _ in 0..calls {
                    pair.exchange(streams, 16 * 1024, meter, Measured::Sending);
                }
            })
        };
        parts.push(Part::new(name, calls, prepare).of_bytes(streams * 16 * 1024));
    }
    parts
}

fn decode_warm() -> Work {
    let mut encoder = Encoder::new();
    let (first, second) = (block(&mut encoder), block(&mut encoder));
    assert!(second.len() < first.len(), "the table is of no use");
    let (mut decoder, mut list) = (Decoder::new(), HeaderList::default());
    decoder.decode(&first, &BOUNDS, &mut list).unwrap();
    repeated(move || decoder.decode(&second, &BOUNDS, &mut list).is_ok() && !list.is_empty())
}

fn decode_cold() -> Work {
    let first = block(&mut Encoder::new());
    let mut list = HeaderList::default();
    consuming(Decoder::new, move |mut decoder| {
        decoder.decode(&first, &BOUNDS, &mut list).is_ok() && !list.is_empty()
    })
}

fn encode_warm() -> Work {
    let mut encoder = Encoder::new();
    block(&mut encoder);
    let mut out = Vec::new();
    repeated(move || {
        out.clear();
        encode(&mut encoder, &mut out);
        !out.is_empty()
    })
}

fn block(encoder: &mut Encoder) -> Vec<u8> {
    let mut out = Vec::new();
    encode(encoder, &mut out);
    out
}

fn encode(encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.begin(out);
    for (name, value) in BROWSER {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        encoder.field(name, value, Indexing::of(name), out);
    }
}

/// Which part of an exchange is measured.
#[derive(Clone, Copy)]
enum Measured {
    /// All that the server's side does.
    All,
    /// Only what it does to frame what is sent.
    Sending,
}

/// Both ends of a connection, joined in memory. The client is the one that speaks to servers behind
/// this program.
struct Pair {
    client: Connection<()>,
    server: Connection<()>,
    to_server: BytesMut,
    to_client: BytesMut,
    out: Gather,
    body: Bytes,
    now_ms: u64,
}

impl Pair {
    fn new() -> Self {
        let client = ClientConfig {
            streams_max: 100,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 1 << 26,
            header_list_bytes_max: 64 * 1024,
            first_byte_ms: u64::from(u32::MAX),
            between_bytes_ms: u64::from(u32::MAX),
            send_progress_ms: u64::from(u32::MAX),
            idle_ms: u64::from(u32::MAX),
            ping_ms: 0,
        };
        let limits = Limits {
            requests_per_connection_max: u64::MAX,
            ..Limits::default()
        };
        Self {
            client: Connection::client(&client, 0),
            server: Connection::new(&Http2::default(), &limits, &Timeouts::default(), 0),
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
            out: Gather::default(),
            body: Bytes::from(vec![0; 16 * 1024]),
            now_ms: 0,
        }
    }

    /// So many requests at once, each answered with so many bytes.
    fn exchange(&mut self, streams: usize, bytes: usize, meter: &mut Meter, measured: Measured) {
        // What floods are told from ordinary clients by is spent over time.
        self.now_ms += 1000;
        let mut asked = Vec::with_capacity(streams);
        for _ in 0..streams {
            let ask = Ask {
                fields: fields(),
                body: AskBody::None,
                is_head: false,
                is_tunnel: false,
            };
            asked.push(self.client.ask(ask, self.now_ms).unwrap());
        }
        self.client_to_server();
        let mut idle = Meter::idle();
        let answering = match measured {
            Measured::All => &mut *meter,
            Measured::Sending => &mut idle,
        };
        let answered = answering.measure(|| self.answer(bytes));
        assert_eq!(answered, streams);
        let mut sent = 0;
        while meter.measure(|| {
            self.out.clear();
            self.server.poll_send(&mut self.out, DATE, self.now_ms)
        }) {
            sent += self.out.len();
            self.flatten();
        }
        assert!(sent >= streams * bytes, "{sent} bytes were sent");
        self.client
            .handle_input(&mut self.to_client, self.now_ms)
            .unwrap();
        for id in asked {
            self.client.drop_stream(id);
        }
        while self.client.poll_event().is_some() {}
        assert_eq!(self.client.streams(), 0);
        self.client_to_server();
        self.server
            .handle_input(&mut self.to_server, self.now_ms)
            .unwrap();
        while self.server.poll_event().is_some() {}
        while self.server.poll_finished().is_some() {}
    }

    /// Reads what has come and answers each request; how many there were.
    fn answer(&mut self, bytes: usize) -> usize {
        self.server
            .handle_input(&mut self.to_server, self.now_ms)
            .unwrap();
        let mut answered = 0;
        while let Some(event) = self.server.poll_event() {
            let Event::Request(id, request, _) = event else {
                panic!("{event:?}");
            };
            drop(request);
            let response = Response::new(Status(200))
                .with("content-type", "application/octet-stream")
                .with("accept-ranges", "bytes")
                .with_body(Body::Bytes(self.body.slice(..bytes)));
            let made = self.server.respond(id, response, self.now_ms);
            assert!(made.is_none());
            answered += 1;
        }
        answered
    }

    fn client_to_server(&mut self) {
        let mut out = Gather::default();
        while self.client.poll_send(&mut out, DATE, self.now_ms) {
            append(&out, &mut self.to_server);
            out.clear();
        }
    }

    fn flatten(&mut self) {
        append(&self.out, &mut self.to_client);
    }
}

fn append(out: &Gather, to: &mut BytesMut) {
    for index in 0..out.pieces() {
        match out.part(index).unwrap() {
            Piece::Memory(bytes) => to.extend_from_slice(bytes),
            Piece::File(_) => panic!("no file was sent"),
        }
    }
}

fn fields() -> Fields {
    let bytes = |(name, value): (&'static str, &'static str)| (name.as_bytes(), value.as_bytes());
    Fields::of(BROWSER.into_iter().map(bytes))
}

const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

const BOUNDS: Bounds = Bounds {
    list_bytes_max: 64 * 1024,
    fields_max: 128,
};

/// What a browser sends for a script of a page.
const BROWSER: [(&str, &str); 16] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "www.example.org"),
    (":path", "/assets/js/application-3f8a2c.js?v=20240611"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    ),
    ("accept", "*/*"),
    ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://www.example.org/products/overview.html"),
    (
        "cookie",
        "session=6b1f0c9d2e7a4f5b8c3d; consent=yes; theme=dark",
    ),
    ("sec-fetch-dest", "script"),
    ("sec-fetch-mode", "no-cors"),
    ("sec-fetch-site", "same-origin"),
    ("priority", "u=2"),
    ("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT"),
    ("if-none-match", "\"Jf3XxY0p5S1mVQ9q7bH2aA\""),
];
