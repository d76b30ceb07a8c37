//! A client's connection, against this program's own server and against frames that no server sends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::super::client::{Ask, AskBody, ClientConfig, Lost};
use super::super::testing::{Wakes, frame};
use super::super::{BodyPoll, Connection, Event, Room};
use crate::config::{Http2, Limits, Timeouts};
use crate::limits::{H2_PING_ACK_MS, INTERIM_RESPONSES_MAX};
use crate::message::gather::{Gather, Part};
use crate::message::{Body, Fields, Response, Status};
use crate::metrics::{self, Counter};
use crate::proto::h2::ErrorCode;
use crate::proto::h2::connection::ConnectionError;
use crate::proto::h2::frame::{
    PREFACE, begin_headers, data_head, finish_headers, put_goaway, put_ping_ack, put_rst_stream,
    put_settings, put_settings_ack,
};
use crate::proto::h2::hpack::{Encoder, Indexing};
use crate::proto::h2::response::ResponseHead;

const CONFIG: ClientConfig = ClientConfig {
    streams_max: 10,
    stream_window_bytes: 70_000,
    connection_window_bytes: 200_000,
    header_list_bytes_max: 16_384,
    first_byte_ms: 5_000,
    between_bytes_ms: 3_000,
    send_progress_ms: 4_000,
    idle_ms: 60_000,
    ping_ms: 0,
};

/// A client alone: the test is its server.
struct Alone {
    client: Connection<()>,
    encoder: Encoder,
    now_ms: u64,
}

fn bytes_of(gather: &Gather) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in 0..gather.pieces() {
        match gather.part(index) {
            Some(Part::Memory(memory)) => bytes.extend_from_slice(memory),
            other => panic!("{other:?}"),
        }
    }
    bytes
}

/// What there is to send.
fn sent(connection: &mut Connection<()>, now_ms: u64) -> Vec<u8> {
    let mut all = Vec::new();
    let mut gather = Gather::default();
    while connection.poll_send(&mut gather, b"", now_ms) {
        all.extend_from_slice(&bytes_of(&gather));
        gather.clear();
    }
    all
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    let pairs = pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
    Fields::of(pairs)
}

fn ask(path: &str, body: AskBody) -> Ask {
    let method = match body {
        AskBody::None => "GET",
        AskBody::Length(_) | AskBody::Delimited => "POST",
    };
    Ask {
        fields: fields(&[
            (":method", method),
            (":scheme", "http"),
            (":authority", "a.test"),
            (":path", path),
        ]),
        body,
        is_head: false,
        is_tunnel: false,
    }
}

impl Alone {
    fn with(config: &ClientConfig, settings: &[(u16, u32)]) -> Self {
        let mut this = Self {
            client: Connection::client(config, 0),
            encoder: Encoder::new(),
            now_ms: 0,
        };
        assert!(this.sent().starts_with(PREFACE));
        let mut out = Vec::new();
        put_settings(settings, &mut out);
        put_settings_ack(&mut out);
        this.hear(&out).unwrap();
        this.sent();
        this
    }

    fn new() -> Self {
        Self::with(&CONFIG, &[])
    }

    fn sent(&mut self) -> Vec<u8> {
        sent(&mut self.client, self.now_ms)
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let mut input = BytesMut::from(bytes);
        let heard = self.client.handle_input(&mut input, self.now_ms);
        if let Err(error) = &heard {
            self.client.fail(error);
        }
        heard
    }

    fn get(&mut self) -> u32 {
        let id = self.client.ask(ask("/", AskBody::None), self.now_ms);
        self.sent();
        id.unwrap()
    }

    fn headers(&mut self, id: u32, pairs: &[(&str, &str)], end: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let start = begin_headers(&mut out);
        self.encoder.begin(&mut out);
        for (name, value) in pairs {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            self.encoder.field(name, value, Indexing::Literal, &mut out);
        }
        finish_headers(start, id, end, &mut out);
        out
    }

    fn answer(&mut self, id: u32, pairs: &[(&str, &str)], end: bool) {
        let answer = self.headers(id, pairs, end);
        self.hear(&answer).unwrap();
    }

    fn response(&mut self, id: u32) -> Poll<Result<ResponseHead, Lost>> {
        self.client.poll_response(id, self.now_ms, &context())
    }

    fn lost(&mut self, id: u32) -> Lost {
        match self.response(id) {
            Poll::Ready(Err(lost)) => lost,
            other => panic!("{other:?}"),
        }
    }

    fn passes(&mut self, ms: u64) -> Result<(), ConnectionError> {
        self.now_ms += ms;
        self.client.handle_timeout(self.now_ms)
    }
}

const OK: &[(&str, &str)] = &[(":status", "200")];

/// Both ends, and what each keeps of a stream.
struct Pair {
    client: Connection<()>,
    server: Connection<()>,
    to_server: BytesMut,
    to_client: BytesMut,
}

impl Pair {
    fn new() -> Self {
        let http2 = Http2::default();
        Self {
            client: Connection::client(&CONFIG, 0),
            server: Connection::new(&http2, &Limits::default(), &Timeouts::default(), 0),
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
        }
    }

    /// Carries what is sent, `bytes` at a time.
    fn carry(&mut self, bytes: usize) {
        loop {
            let up = sent(&mut self.client, 0);
            let down = sent(&mut self.server, 0);
            if up.is_empty() && down.is_empty() {
                break;
            }
            for part in up.chunks(bytes) {
                self.to_server.extend_from_slice(part);
                self.server.handle_input(&mut self.to_server, 0).unwrap();
            }
            for part in down.chunks(bytes) {
                self.to_client.extend_from_slice(part);
                self.client.handle_input(&mut self.to_client, 0).unwrap();
            }
        }
    }
}

/// What a stream of [`Echoes`] has: what is sent, how far, whether its end is; and what came back.
struct Echo {
    content: Vec<u8>,
    at: usize,
    has_ended: bool,
    heard: Vec<u8>,
}

/// Bodies that go both ways on many streams of a pair.
struct Echoes {
    pair: Pair,
    next: usize,
    open: BTreeMap<u32, Echo>,
    /// Streams that the server sends back; whether to their end.
    served: BTreeMap<u32, bool>,
    complete: usize,
}

impl Echoes {
    /// Asks as long as there is room.
    fn ask(&mut self) {
        while self.next < ECHOES && self.pair.client.has_room() {
            let length = [0, 1, 1000, 70_000, 150_000][self.next % 5];
            let body = match self.next.is_multiple_of(2) {
                true => AskBody::Length(length as u64),
                false => AskBody::Delimited,
            };
            let id = self.pair.client.ask(ask("/echo", body), 0).unwrap();
            let echo = Echo {
                content: (0..length)
                    .map(|at| (at * 31 + self.next).to_le_bytes()[0])
                    .collect(),
                at: 0,
                has_ended: false,
                heard: Vec::new(),
            };
            self.open.insert(id, echo);
            self.next += 1;
        }
    }

    fn send(&mut self) {
        let client = &mut self.pair.client;
        for (id, echo) in &mut self.open {
            while !echo.has_ended && client.poll_room(*id, &context()) == Poll::Ready(Room::More) {
                let end = (echo.at + 5000).min(echo.content.len());
                echo.has_ended = echo.at == end;
                match echo.has_ended {
                    true => client.end_chunks(*id, fields(&[("x-up", "1")])),
                    false => {
                        let chunk = Bytes::copy_from_slice(&echo.content[echo.at..end]);
                        client.push_chunk(*id, chunk);
                    }
                }
                echo.at = end;
            }
        }
    }

    /// The server sends back what has come.
    fn serve(&mut self) {
        let server = &mut self.pair.server;
        while let Some(event) = server.poll_event() {
            if let Event::Request(id, request, has_body) = event {
                assert_eq!((request.path(), has_body), ("/echo", true));
                server.attach(id, ());
                let body = Body::Stream(Box::new(NoBody), None);
                server.respond(id, Response::new(Status(200)).with_body(body), 0);
                self.served.insert(id, false);
            }
        }
        for (id, has_ended) in self.served.iter_mut().filter(|(_, ended)| !**ended) {
            while !*has_ended && server.poll_room(*id, &context()) == Poll::Ready(Room::More) {
                match server.poll_body(*id, 0, &context()) {
                    Poll::Ready(BodyPoll::Data(data)) => server.push_chunk(*id, data),
                    Poll::Ready(BodyPoll::End) => {
                        let trailers = server.take_trailers(*id);
                        assert_eq!(trailers.first("x-up"), Some(&b"1"[..]));
                        server.end_chunks(*id, trailers);
                        *has_ended = true;
                    }
                    Poll::Ready(other) => panic!("{other:?}"),
                    Poll::Pending => break,
                }
            }
        }
    }

    fn hear(&mut self) {
        let client = &mut self.pair.client;
        let mut over = Vec::new();
        for (id, echo) in &mut self.open {
            if let Poll::Ready(Err(lost)) = client.poll_response(*id, 0, &context()) {
                panic!("{lost:?}");
            }
            loop {
                match client.poll_body(*id, 0, &context()) {
                    Poll::Ready(BodyPoll::Data(data)) => echo.heard.extend_from_slice(&data),
                    Poll::Ready(BodyPoll::End) => {
                        assert!(echo.heard == echo.content, "stream {id}");
                        over.push(*id);
                        break;
                    }
                    Poll::Ready(other) => panic!("{other:?}"),
                    Poll::Pending => break,
                }
            }
        }
        for id in over {
            client.drop_stream(id);
            self.open.remove(&id);
            self.complete += 1;
        }
    }
}

const ECHOES: usize = 60;

/// Bodies both ways at once on many streams, through windows smaller than they are, with trailers
/// both ways: every byte is the right one, and the windows are whole again.
#[test]
fn bodies_go_both_ways_on_many_streams() {
    for piece in [1_000_000, 1_000] {
        let mut echoes = Echoes {
            pair: Pair::new(),
            next: 0,
            open: BTreeMap::new(),
            served: BTreeMap::new(),
            complete: 0,
        };
        echoes.pair.carry(piece);
        let mut rounds = 0;
        while echoes.complete < ECHOES {
            rounds += 1;
            assert!(rounds < 20_000, "nothing moves");
            echoes.ask();
            echoes.send();
            echoes.pair.carry(piece);
            echoes.serve();
            echoes.pair.carry(piece);
            echoes.hear();
        }
        echoes.pair.carry(piece);
        let Pair {
            client, mut server, ..
        } = echoes.pair;
        assert!(!client.is_serving() && !server.is_serving());
        assert_eq!(client.state.receive_window.held(), 0);
        assert_eq!(server.state.receive_window.held(), 0);
        assert!(!client.is_finished());
        let mut finished = 0;
        while let Some(over) = server.poll_finished() {
            assert!(over.is_complete);
            finished += 1;
        }
        assert_eq!(finished, ECHOES);
    }
}

struct NoBody;

impl crate::message::BodyStream for NoBody {
    fn next(
        &mut self,
    ) -> crate::message::LocalFuture<'_, Result<Option<Bytes>, crate::error::Error>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

#[test]
fn a_response_is_given_with_its_content_and_trailers() {
    let mut alone = Alone::new();
    let id = alone.get();
    assert!(alone.response(id).is_pending());
    alone.answer(id, &[(":status", "103"), ("link", "</x>")], false);
    assert!(alone.response(id).is_pending());
    alone.answer(id, &[(":status", "200"), ("content-length", "3")], false);
    let Poll::Ready(Ok(head)) = alone.response(id) else {
        panic!("no response");
    };
    assert_eq!((head.status, head.content_length), (Status(200), Some(3)));
    alone
        .hear(&[&data_head(id, 3, false)[..], b"abc"].concat())
        .unwrap();
    alone.answer(id, &[("grpc-status", "0")], true);
    let body = |alone: &mut Alone| alone.client.poll_body(id, 0, &context());
    assert_eq!(
        body(&mut alone),
        Poll::Ready(BodyPoll::Data(Bytes::from_static(b"abc")))
    );
    assert_eq!(body(&mut alone), Poll::Ready(BodyPoll::End));
    let trailers = alone.client.take_trailers(id);
    assert_eq!(trailers.first("grpc-status"), Some(&b"0"[..]));
    alone.client.drop_stream(id);
    // Complete both ways: nothing is to be said.
    assert!(alone.sent().is_empty());
}

#[test]
fn rfc9113_4_3_a_response_whose_trailers_cannot_be_read_is_not_complete() {
    let mut alone = Alone::new();
    let id = alone.get();
    alone.answer(id, &[(":status", "200")], false);
    let head = alone.response(id);
    assert!(matches!(head, Poll::Ready(Ok(_))), "{head:?}");
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let context = Context::from_waker(&waker);
    assert!(alone.client.poll_body(id, 0, &context).is_pending());
    let error = alone.hear(&frame(1, 5, id, &[0xff])).unwrap_err();
    assert_eq!(error.code, ErrorCode::Compression);
    assert_eq!(wakes.count(), 1);
    let polled = alone.client.poll_body(id, 0, &context);
    assert!(
        matches!(polled, Poll::Ready(BodyPoll::Lost(Lost::Protocol(_)))),
        "{polled:?}"
    );
}

#[test]
fn rfc9113_8_1_1_malformed_responses_end_their_stream_only() {
    type Pairs = &'static [(&'static str, &'static str)];
    let malformed: [Pairs; 5] = [
        &[("x", "y")],
        &[(":status", "200"), (":path", "/")],
        &[(":status", "200"), ("X-Upper", "1")],
        &[(":status", "200"), ("connection", "close")],
        &[(":status", "101")],
    ];
    for pairs in malformed {
        let mut alone = Alone::new();
        let (id, other) = (alone.get(), alone.get());
        alone.answer(id, pairs, false);
        assert!(matches!(alone.lost(id), Lost::Protocol(_)), "{pairs:?}");
        let mut reset = Vec::new();
        put_rst_stream(id, ErrorCode::Protocol, &mut reset);
        assert_eq!(alone.sent(), reset);
        // What was on its way for it is no error.
        alone
            .hear(&[&data_head(id, 2, true)[..], b"ab"].concat())
            .unwrap();
        alone.answer(other, OK, true);
        assert!(matches!(alone.response(other), Poll::Ready(Ok(_))));
    }
    // Lengths that do not fit, content before a head, content where none may be.
    let cases: [(&str, &[u8], bool); 4] = [
        ("2", b"abc", false),
        ("4", b"abc", true),
        ("", b"abc", true),
        ("head", b"abc", true),
    ];
    for (length, content, end) in cases {
        let mut alone = Alone::new();
        let mut asked = ask("/", AskBody::None);
        asked.is_head = length == "head";
        let id = alone.client.ask(asked, 0).unwrap();
        alone.sent();
        match length {
            "" => {}
            "head" => alone.answer(id, &[(":status", "200"), ("content-length", "3")], false),
            length => alone.answer(id, &[(":status", "200"), ("content-length", length)], false),
        }
        let data = [&data_head(id, content.len(), end)[..], content].concat();
        alone.hear(&data).unwrap();
        assert!(matches!(alone.lost(id), Lost::Protocol(_)), "{length}");
    }
}

#[test]
fn interim_responses_are_bounded() {
    let mut alone = Alone::new();
    let id = alone.get();
    for _ in 0..INTERIM_RESPONSES_MAX {
        alone.answer(id, &[(":status", "100")], false);
    }
    assert!(alone.response(id).is_pending());
    alone.answer(id, &[(":status", "100")], false);
    assert!(matches!(alone.lost(id), Lost::Protocol(_)));
}

#[test]
fn interim_responses_are_told_before_the_response() {
    let mut alone = Alone::new();
    let id = alone.get();
    alone.answer(id, &[(":status", "100")], false);
    alone.answer(id, &[(":status", "103"), ("link", "</a>")], false);
    assert!(alone.response(id).is_pending());
    let interims = alone.client.take_interims(id);
    assert_eq!(interims.len(), 1);
    assert_eq!(interims[0].status, Status(103));
    assert_eq!(interims[0].fields.first("link"), Some(&b"</a>"[..]));
    assert!(alone.client.take_interims(id).is_empty());
}

#[test]
fn rfc9113_8_7_what_was_not_processed_is_told_apart() {
    let mut alone = Alone::new();
    let ids = [(); 5].map(|()| alone.get());
    let [refused, reset, late, kept, above] = ids;
    let counters = [
        Counter::UpstreamStreamsRefused,
        Counter::UpstreamStreamsReset,
    ];
    let before = counters.map(metrics::of_this_thread);
    let mut out = Vec::new();
    put_rst_stream(refused, ErrorCode::RefusedStream, &mut out);
    put_rst_stream(reset, ErrorCode::Internal, &mut out);
    alone.hear(&out).unwrap();
    assert_eq!(alone.lost(refused), Lost::Refused);
    assert_eq!(alone.lost(reset), Lost::Reset(ErrorCode::Internal));
    // A refusal behind a response is none.
    alone.answer(late, OK, false);
    let mut out = Vec::new();
    put_rst_stream(late, ErrorCode::RefusedStream, &mut out);
    put_goaway(kept, ErrorCode::No, &mut out);
    alone.hear(&out).unwrap();
    assert_eq!(alone.lost(late), Lost::Reset(ErrorCode::RefusedStream));
    assert_eq!(alone.lost(above), Lost::Refused);
    assert_eq!(
        counters.map(metrics::of_this_thread),
        before.map(|count| count + 2)
    );
    // RFC 9113 6.8: no more streams; those up to the last are finished.
    assert!(!alone.client.has_room());
    assert!(alone.client.ask(ask("/", AskBody::None), 0).is_none());
    alone.answer(kept, OK, true);
    assert!(matches!(alone.response(kept), Poll::Ready(Ok(_))));
    assert!(!alone.client.is_finished());
    for id in ids {
        alone.client.drop_stream(id);
    }
    assert!(alone.client.is_finished());
}

/// RFC 9113 8.1: a server may reset a request that it need not read on; its response stays.
#[test]
fn rfc9113_8_1_a_reset_behind_a_whole_response_takes_nothing_away() {
    let mut alone = Alone::new();
    let id = alone.client.ask(ask("/", AskBody::Delimited), 0).unwrap();
    alone.client.push_chunk(id, Bytes::from_static(b"begun"));
    alone.sent();
    alone.answer(id, &[(":status", "413")], false);
    let mut out = [&data_head(id, 3, true)[..], b"why"].concat();
    put_rst_stream(id, ErrorCode::No, &mut out);
    alone.hear(&out).unwrap();
    assert_eq!(
        alone.client.poll_room(id, &context()),
        Poll::Ready(Room::Gone)
    );
    assert!(matches!(alone.response(id), Poll::Ready(Ok(_))));
    let data = BodyPoll::Data(Bytes::from_static(b"why"));
    assert_eq!(alone.client.poll_body(id, 0, &context()), Poll::Ready(data));
    assert_eq!(
        alone.client.poll_body(id, 0, &context()),
        Poll::Ready(BodyPoll::End)
    );
}

#[test]
fn rfc9113_5_1_2_the_servers_bound_on_streams_is_kept() {
    let mut alone = Alone::with(&CONFIG, &[(3, 2)]);
    let first = alone.get();
    alone.get();
    assert!(!alone.client.has_room());
    alone.answer(first, OK, true);
    alone.client.drop_stream(first);
    assert!(alone.client.has_room());
    // Ours holds where the server has none.
    let mut alone = Alone::new();
    for _ in 0..CONFIG.streams_max {
        alone.get();
    }
    assert!(!alone.client.has_room());
}

#[test]
fn rfc9113_5_1_1_a_server_opens_no_streams() {
    for bad in [
        // HEADERS of a stream that was never opened, odd and even; a push; DATA on an idle stream.
        vec![0, 0, 1, 1, 5, 0, 0, 0, 9, 0x88],
        vec![0, 0, 1, 1, 5, 0, 0, 0, 2, 0x88],
        vec![0, 0, 5, 5, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0x88],
        vec![0, 0, 0, 0, 1, 0, 0, 0, 9],
        // ENABLE_PUSH of one (RFC 9113 6.5.2).
        vec![0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1],
    ] {
        let mut alone = Alone::new();
        let id = alone.get();
        let error = alone.hear(&bad).unwrap_err();
        assert_eq!(error.code, ErrorCode::Protocol, "{bad:?}");
        assert!(alone.client.is_finished());
        assert!(matches!(alone.lost(id), Lost::Protocol(_)));
        let mut goaway = Vec::new();
        put_goaway(0, ErrorCode::Protocol, &mut goaway);
        assert_eq!(alone.sent(), goaway);
    }
}

#[test]
fn rfc9113_3_4_the_servers_preface_is_settings() {
    let mut client: Connection<()> = Connection::client(&CONFIG, 0);
    let mut input = BytesMut::from(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]);
    assert!(client.handle_input(&mut input, 0).is_err());
    let mut client: Connection<()> = Connection::client(&CONFIG, 0);
    let mut ping = Vec::new();
    put_ping_ack([0; 8], &mut ping);
    let error = client.handle_input(&mut BytesMut::from(&ping[..]), 0);
    assert_eq!(error.unwrap_err().code, ErrorCode::Protocol);
}

#[test]
fn a_response_that_is_late_ends_its_stream_only() {
    let mut alone = Alone::new();
    let (silent, slow, other) = (alone.get(), alone.get(), alone.get());
    for id in [silent, slow, other] {
        assert!(alone.response(id).is_pending());
    }
    alone.answer(slow, OK, false);
    assert!(matches!(alone.response(slow), Poll::Ready(Ok(_))));
    let body = |alone: &mut Alone| alone.client.poll_body(slow, alone.now_ms, &context());
    assert!(body(&mut alone).is_pending());
    alone.passes(CONFIG.between_bytes_ms - 1).unwrap();
    assert!(body(&mut alone).is_pending());
    alone.passes(1).unwrap();
    let key = "upstream.http.between_bytes_ms";
    assert_eq!(
        body(&mut alone),
        Poll::Ready(BodyPoll::Lost(Lost::Timeout(key)))
    );
    alone.answer(other, OK, true);
    alone
        .passes(CONFIG.first_byte_ms - CONFIG.between_bytes_ms)
        .unwrap();
    let key = "upstream.http.first_byte_ms";
    assert_eq!(alone.lost(silent), Lost::Timeout(key));
    assert!(matches!(alone.response(other), Poll::Ready(Ok(_))));
    let mut resets = Vec::new();
    put_rst_stream(slow, ErrorCode::Cancel, &mut resets);
    put_rst_stream(silent, ErrorCode::Cancel, &mut resets);
    assert_eq!(alone.sent(), resets);
}

#[test]
fn a_server_that_opens_no_window_loses_its_stream() {
    let mut alone = Alone::with(&CONFIG, &[(4, 10)]);
    let id = alone.client.ask(ask("/", AskBody::Delimited), 0).unwrap();
    alone.client.push_chunk(id, Bytes::from_static(&[0; 100]));
    alone.sent();
    alone.passes(CONFIG.send_progress_ms - 1).unwrap();
    assert!(alone.response(id).is_pending());
    alone.passes(1).unwrap();
    let key = "timeouts.send_progress_ms";
    assert_eq!(alone.lost(id), Lost::Timeout(key));
}

#[test]
fn a_silent_connection_is_asked_for_a_sign_of_life() {
    let config = ClientConfig {
        ping_ms: 1_000,
        first_byte_ms: 100_000,
        ..CONFIG
    };
    let mut alone = Alone::with(&config, &[]);
    // Nothing is under way.
    alone.passes(5_000).unwrap();
    assert!(alone.sent().is_empty());
    let id = alone.get();
    alone.passes(1_000).unwrap();
    let ping = alone.sent();
    assert_eq!(ping.len(), 17);
    let mut pong = Vec::new();
    put_ping_ack(*ping.last_chunk().unwrap(), &mut pong);
    alone.passes(H2_PING_ACK_MS - 1).unwrap();
    alone.hear(&pong).unwrap();
    alone.passes(999).unwrap();
    assert!(alone.sent().is_empty());
    alone.passes(1).unwrap();
    assert_eq!(alone.sent().len(), 17);
    let error = alone.passes(H2_PING_ACK_MS).unwrap_err();
    alone.client.fail(&error);
    assert!(matches!(alone.lost(id), Lost::Protocol(_)));
    assert!(alone.client.is_finished());
}

/// Whoever drops a stream has it reset, and its part of the connection's window given back.
#[test]
fn a_dropped_stream_is_reset_and_holds_nothing() {
    let mut alone = Alone::new();
    let id = alone.get();
    alone.answer(id, OK, false);
    let data = [&data_head(id, 10_000, false)[..], &[7; 10_000]].concat();
    alone.hear(&data).unwrap();
    assert_eq!(alone.client.state.receive_window.held(), 10_000);
    alone.client.drop_stream(id);
    assert_eq!(alone.client.state.receive_window.held(), 0);
    let mut reset = Vec::new();
    put_rst_stream(id, ErrorCode::Cancel, &mut reset);
    assert_eq!(alone.sent(), reset);
    alone.hear(&data).unwrap();
    assert_eq!(alone.client.state.receive_window.held(), 0);
    assert!(!alone.client.is_serving());
}

#[test]
fn a_broken_connection_is_told_to_all() {
    let mut alone = Alone::new();
    let (complete, open) = (alone.get(), alone.get());
    alone.answer(complete, OK, false);
    let data = [&data_head(complete, 2, true)[..], b"ok"].concat();
    alone.hear(&data).unwrap();
    alone.client.lose();
    assert_eq!(alone.lost(open), Lost::Closed);
    // What came whole stays.
    assert!(matches!(alone.response(complete), Poll::Ready(Ok(_))));
    let data = BodyPoll::Data(Bytes::from_static(b"ok"));
    assert_eq!(
        alone.client.poll_body(complete, 0, &context()),
        Poll::Ready(data)
    );
}

/// Request fields that came in HTTP/1.1 leave as HTTP/2 has them (RFC 9113 8.2, 8.2.2).
#[test]
fn rfc9113_8_2_request_fields_leave_in_lower_case_and_without_the_connections() {
    let mut pair = Pair::new();
    pair.carry(1_000_000);
    let mut asked = ask("/", AskBody::None);
    asked.fields = asked.fields.extended(
        [
            (&b"X-Mixed"[..], &b"Value"[..]),
            (b"Connection", b"te"),
            (b"Transfer-Encoding", b"chunked"),
            (b"upgrade", b"websocket"),
            (b"te", b"trailers"),
        ]
        .into_iter(),
    );
    pair.client.ask(asked, 0).unwrap();
    pair.carry(1_000_000);
    let Some(Event::Request(_, request, false)) = pair.server.poll_event() else {
        panic!("no request");
    };
    let names: Vec<_> = request.fields.iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&b"x-mixed"[..], b"te"]);
}

#[test]
fn rfc9113_6_4_a_stream_that_the_server_knows_nothing_of_is_not_reset() {
    let mut alone = Alone::new();
    let first = alone.client.ask(ask("/", AskBody::None), 0).unwrap();
    alone.client.drop_stream(first);
    assert!(alone.sent().is_empty());
    // The next has a higher number, and goes.
    let second = alone.get();
    assert!(second > first);
    alone.answer(second, OK, true);
    assert!(matches!(alone.response(second), Poll::Ready(Ok(_))));
}

#[test]
fn rfc9113_5_1_nothing_comes_for_a_stream_that_waits_to_be_sent() {
    for early in [
        frame(1, 5, 1, &[0x88]),
        frame(0, 1, 1, b""),
        frame(3, 0, 1, &[0, 0, 0, 8]),
        frame(8, 0, 1, &[0, 0, 0, 1]),
    ] {
        let mut alone = Alone::new();
        let id = alone.client.ask(ask("/", AskBody::None), 0).unwrap();
        let error = alone.hear(&early).unwrap_err();
        assert_eq!(error.code, ErrorCode::Protocol, "{early:?}");
        assert!(matches!(alone.lost(id), Lost::Protocol(_)));
    }
}

#[test]
fn rfc9113_5_4_2_a_stream_is_reset_once() {
    let mut alone = Alone::new();
    let (id, waiting) = (alone.get(), alone.client.ask(ask("/", AskBody::None), 0));
    let waiting = waiting.unwrap();
    // PRIORITY of a wrong size, over and over.
    for stream in [id, waiting] {
        alone.hear(&frame(2, 0, stream, &[0]).repeat(3)).unwrap();
    }
    let mut reset = Vec::new();
    put_rst_stream(id, ErrorCode::FrameSize, &mut reset);
    assert_eq!(alone.sent(), reset);
}

/// Uploads take turns, and requests leave in the order of their numbers.
#[test]
fn rfc9113_5_1_1_streams_are_opened_in_order_and_share() {
    let mut pair = Pair::new();
    pair.carry(1_000_000);
    let mut ids = Vec::new();
    for _ in 0..5 {
        let id = pair.client.ask(ask("/", AskBody::Delimited), 0).unwrap();
        pair.client.push_chunk(id, Bytes::from(vec![7; 20_000]));
        ids.push(id);
    }
    pair.carry(1_000_000);
    let mut opened = Vec::new();
    while let Some(event) = pair.server.poll_event() {
        if let Event::Request(id, ..) = event {
            opened.push(id);
        }
    }
    assert_eq!(opened, ids);
    // The connection's window is all that there is: none has taken it alone.
    for id in ids {
        let body = pair.server.poll_body(id, 0, &context());
        assert!(matches!(body, Poll::Ready(BodyPoll::Data(_))), "{body:?}");
    }
}

proptest! {
    /// Frames of any kind on any stream: nothing panics, what is held stays within the windows, and
    /// everybody who waits is told when the connection has ended.
    #[test]
    fn whatever_a_server_sends_is_survived(
        frames in prop::collection::vec(
            (0..12_u8, any::<u8>(), 0..8_u32, prop::collection::vec(any::<u8>(), 0..40)),
            0..60,
        ),
        dropped in 0..60_usize,
    ) {
        let mut alone = Alone::new();
        let mut ids = vec![alone.get(), alone.get()];
        ids.push(alone.client.ask(ask("/", AskBody::Delimited), 0).unwrap());
        let head = alone.headers(ids[0], OK, false);
        alone.hear(&head).unwrap();
        for (index, (kind, flags, stream, payload)) in frames.into_iter().enumerate() {
            let mut frame = vec![0, 0, payload.len().to_le_bytes()[0], kind, flags];
            frame.extend_from_slice(&stream.to_be_bytes());
            frame.extend_from_slice(&payload);
            let is_over = alone.hear(&frame).is_err() || alone.client.is_finished();
            alone.now_ms += 100;
            if index == dropped && ids.len() > 1 {
                alone.client.drop_stream(ids.remove(0));
            }
            for id in &ids {
                // Of no interest when it was given already.
                let _ = alone.response(*id);
                let body = alone.client.poll_body(*id, alone.now_ms, &context());
                prop_assert!(!is_over || body.is_ready());
            }
            alone.client.push_chunk(ids[ids.len() - 1], Bytes::from_static(b"chunk"));
            let held = alone.client.state.receive_window.held();
            prop_assert!(held <= CONFIG.connection_window_bytes);
            alone.client.handle_timeout(alone.now_ms).ok();
            alone.sent();
        }
        alone.client.lose();
        for id in ids {
            let body = alone.client.poll_body(id, alone.now_ms, &context());
            prop_assert!(body.is_ready());
            alone.client.drop_stream(id);
        }
        prop_assert!(!alone.client.is_serving());
    }
}
