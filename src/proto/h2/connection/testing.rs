//! A client of one connection, in memory: it frames what a test sends and takes apart what comes.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever is not expected is the failure"
)]

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::message::gather::{Gather, Part};
use crate::message::{Body, Response};
use crate::proto::h2::frame::{
    Decoder as FrameDecoder, Frame, PREFACE, begin_headers, data_head, finish_headers,
    put_settings, put_settings_ack,
};
use crate::proto::h2::hpack::{Encoder, Indexing};

/// A frame as the client received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Headers {
        stream: StreamId,
        status: u16,
        fields: Vec<(String, String)>,
        end: bool,
    },
    /// Fields behind content.
    Trailers(StreamId, Vec<(String, String)>),
    Data {
        stream: StreamId,
        content: Vec<u8>,
        end: bool,
    },
    Reset(StreamId, ErrorCode),
    Settings,
    SettingsAck,
    Ping([u8; 8]),
    PingAck([u8; 8]),
    GoAway(StreamId, ErrorCode),
    WindowUpdate(StreamId, u32),
}

pub(super) struct Client {
    pub(super) connection: Connection<StreamId>,
    encoder: Encoder,
    decoder: hpack::Decoder,
    frames: FrameDecoder,
    input: BytesMut,
    pub(super) now_ms: u64,
}

pub(super) const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

impl Client {
    /// A connection of which nothing has come.
    pub(super) fn silent(http2: Http2, limits: Limits) -> Self {
        Self {
            connection: Connection::new(&http2, &limits, &Timeouts::default(), 0),
            encoder: Encoder::new(),
            decoder: hpack::Decoder::new(),
            frames: FrameDecoder::new(Role::Client),
            input: BytesMut::new(),
            now_ms: 0,
        }
    }

    /// A connection that has exchanged SETTINGS.
    pub(super) fn new() -> Self {
        Self::with(Http2::default(), Limits::default(), &[])
    }

    pub(super) fn with(http2: Http2, limits: Limits, settings: &[(u16, u32)]) -> Self {
        let mut client = Self::silent(http2, limits);
        let mut out = PREFACE.to_vec();
        put_settings(settings, &mut out);
        put_settings_ack(&mut out);
        client.send(&out).unwrap();
        let got = client.receive();
        assert_eq!(got[0], Got::Settings);
        assert_eq!(got.last(), Some(&Got::SettingsAck));
        client
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        self.input.extend_from_slice(bytes);
        let handled = self.connection.handle_input(&mut self.input, self.now_ms);
        if let Err(error) = &handled {
            self.connection.fail(error);
        }
        handled
    }

    /// The code of the error that ends the connection.
    pub(super) fn refused(&mut self, bytes: &[u8]) -> ErrorCode {
        let error = self.send(bytes).expect_err("the connection goes on");
        let got = self.receive();
        assert!(
            matches!(got.last(), Some(Got::GoAway(_, code)) if *code == error.code),
            "{got:?}"
        );
        assert!(self.connection.is_finished() && !self.connection.is_serving());
        error.code
    }

    pub(super) fn headers(&mut self, id: StreamId, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let start = begin_headers(&mut out);
        self.encoder.begin(&mut out);
        for (name, value) in fields {
            let indexing = Indexing::of(name.as_bytes());
            self.encoder
                .field(name.as_bytes(), value.as_bytes(), indexing, &mut out);
        }
        finish_headers(start, id, end, &mut out);
        out
    }

    pub(super) fn get(&mut self, id: StreamId) -> Vec<u8> {
        self.headers(id, &GET, true)
    }

    /// The head of a request whose body follows.
    pub(super) fn post(&mut self, id: StreamId, fields: &[(&str, &str)]) -> Vec<u8> {
        let fields = [&POST[..], fields].concat();
        self.headers(id, &fields, false)
    }

    /// The streams whose requests are to be answered.
    pub(super) fn requests(&mut self) -> Vec<StreamId> {
        let mut streams = Vec::new();
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Request(id, ..) | Event::Refused(id, ..) => {
                    self.connection.attach(id, id);
                    streams.push(id);
                }
                Event::Gone(id) => streams.retain(|stream| *stream != id),
            }
        }
        streams
    }

    pub(super) fn respond(&mut self, id: StreamId, body: Body) -> bool {
        let response = Response::new(Status(200)).with_body(body);
        self.connection.respond(id, response, self.now_ms).is_some()
    }

    /// Answers every request with so many bytes.
    pub(super) fn answer_all(&mut self, bytes: usize) -> usize {
        let requests = self.requests();
        for id in &requests {
            self.respond(*id, Body::Bytes(vec![b'x'; bytes].into()));
        }
        requests.len()
    }

    /// The bytes of one send.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let mut gather = Gather::default();
        let any = self.connection.poll_send(&mut gather, DATE, self.now_ms);
        assert_eq!(any, !gather.is_empty());
        let bytes = flat(&gather);
        assert_eq!(bytes.len(), gather.len());
        bytes
    }

    /// The frames of one send.
    pub(super) fn receive_once(&mut self) -> Vec<Got> {
        let bytes = self.take();
        let mut got = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let decoded = self.frames.decode(rest).unwrap().expect("a whole frame");
            rest = &rest[decoded.consumed..];
            got.push(match decoded.frame {
                Frame::Headers(headers) => {
                    let mut list = HeaderList::default();
                    let bounds = hpack::Bounds {
                        list_bytes_max: 1 << 20,
                        fields_max: 1000,
                    };
                    self.decoder
                        .decode(headers.block, &bounds, &mut list)
                        .unwrap();
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    let mut fields: Vec<_> = list.iter().map(|(n, v)| (text(n), text(v))).collect();
                    if fields.first().is_some_and(|(name, _)| name != ":status") {
                        assert!(headers.end_stream);
                        got.push(Got::Trailers(headers.stream, fields));
                        continue;
                    }
                    let (_, status) = fields.remove(0);
                    Got::Headers {
                        stream: headers.stream,
                        status: status.parse().unwrap(),
                        fields,
                        end: headers.end_stream,
                    }
                }
                Frame::Data(data) => Got::Data {
                    stream: data.stream,
                    content: data.content.to_vec(),
                    end: data.end_stream,
                },
                Frame::RstStream { stream, code } => Got::Reset(stream, code),
                Frame::Settings { .. } => Got::Settings,
                Frame::SettingsAck => Got::SettingsAck,
                Frame::Ping(opaque) => Got::Ping(opaque),
                Frame::PingAck(opaque) => Got::PingAck(opaque),
                Frame::GoAway {
                    last_stream, code, ..
                } => Got::GoAway(last_stream, code),
                Frame::WindowUpdate { stream, increment } => Got::WindowUpdate(stream, increment),
                other => panic!("{other:?}"),
            });
        }
        got
    }

    /// All frames that can be sent now.
    pub(super) fn receive(&mut self) -> Vec<Got> {
        let mut all = Vec::new();
        loop {
            let got = self.receive_once();
            if got.is_empty() {
                return all;
            }
            all.extend(got);
        }
    }

    pub(super) fn poll_body(&mut self, id: StreamId) -> Poll<BodyPoll> {
        self.poll_body_with(id, Waker::noop())
    }

    pub(super) fn poll_body_with(&mut self, id: StreamId, waker: &Waker) -> Poll<BodyPoll> {
        let context = Context::from_waker(waker);
        self.connection.poll_body(id, self.now_ms, &context)
    }

    /// Lets time pass, looking when the connection wants it.
    pub(super) fn pass(&mut self, ms: u64) -> Result<(), ConnectionError> {
        let end_ms = self.now_ms + ms;
        for _ in 0..1000 {
            let (Wait::First { until_ms } | Wait::Idle { until_ms } | Wait::Busy { until_ms }) =
                self.connection.wait();
            self.now_ms = until_ms.clamp(self.now_ms, end_ms);
            let handled = self.connection.handle_timeout(self.now_ms);
            if let Err(error) = &handled {
                self.connection.fail(error);
                return handled;
            }
            if self.now_ms == end_ms || until_ms <= self.now_ms {
                self.now_ms = end_ms;
                return Ok(());
            }
        }
        panic!("the connection wants to look again and again");
    }
}

/// The bytes of `gather`, files read.
fn flat(gather: &Gather) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in 0..gather.pieces() {
        match gather.part(index).unwrap() {
            Part::Memory(text) => bytes.extend_from_slice(text),
            Part::File(range) => {
                let mut content = vec![0; usize::try_from(range.length).unwrap()];
                range
                    .file
                    .read_exact_at(&mut content, range.offset)
                    .unwrap();
                bytes.extend_from_slice(&content);
            }
        }
    }
    bytes
}

/// Counts how often it is woken.
#[derive(Default)]
pub(super) struct Wakes(AtomicUsize);

impl Wakes {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn data(id: StreamId, content: &[u8], end: bool) -> Vec<u8> {
    let mut out = data_head(id, content.len(), end).to_vec();
    out.extend_from_slice(content);
    out
}

/// A frame of any kind.
pub(super) fn frame(kind: u8, flags: u8, id: StreamId, payload: &[u8]) -> Vec<u8> {
    let [.., l0, l1, l2] = payload.len().to_be_bytes();
    let mut out = vec![l0, l1, l2, kind, flags];
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

pub(super) fn rst(id: StreamId) -> Vec<u8> {
    frame(3, 0, id, &8_u32.to_be_bytes())
}

pub(super) fn window(id: StreamId, increment: u32) -> Vec<u8> {
    frame(8, 0, id, &increment.to_be_bytes())
}

pub(super) fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_settings(entries, &mut out);
    out
}

/// The content that a stream received, and whether it ended.
pub(super) fn content(got: &[Got], id: StreamId) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut ended = false;
    for frame in got {
        match frame {
            Got::Data {
                stream,
                content,
                end,
            } if *stream == id => {
                assert!(!ended, "content after the end");
                all.extend_from_slice(content);
                ended = *end;
            }
            Got::Headers { stream, end, .. } if *stream == id => ended = *end,
            _ => {}
        }
    }
    (all, ended)
}

pub(super) fn bytes(count: usize) -> Bytes {
    (0..count).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect()
}

pub(super) const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "example.org"),
    (":path", "/"),
];

pub(super) const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "example.org"),
    (":path", "/"),
];
