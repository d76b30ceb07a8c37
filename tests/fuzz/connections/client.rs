//! The client's role: requests of every kind, to a server that answers whatever it likes.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use bytes::BytesMut;
use portcullis::limits::INTERIM_RESPONSES_MAX;
use portcullis::message::Fields;
use portcullis::proto::h2::connection::client::{Ask, AskBody, ClientConfig};
use portcullis::proto::h2::connection::{BodyPoll, Connection, Wait};
use portcullis::proto::h2::frame::Role;

use super::mirror::Mirror;
use super::{
    DATE, ROUNDS_MAX, SENT_BYTES_MAX, Step, StreamId, Waiting, assert_pieces_change_nothing, frame,
    line, make_more, sent, steps,
};

/// A connection to a server, from its preface to its end.
pub(crate) fn h2_client(input: &[u8]) {
    let mut driver = Driver::new();
    let mut wire = Vec::new();
    driver.ask(0);
    if input.first().is_none_or(|how| how & 2 == 0) {
        let begin = [frame(4, 0, 0, &[]), frame(4, 1, 0, &[])].concat();
        driver.send();
        driver.feed(&begin);
        wire.extend_from_slice(&begin);
    }
    for step in steps(input, HEADS) {
        match step {
            Step::Bytes(bytes) => {
                wire.extend_from_slice(&bytes);
                driver.feed(&bytes);
            }
            Step::Act(kind, argument) => driver.act(kind, argument),
        }
        driver.check();
    }
    driver.end(input.len().is_multiple_of(2));
    let begun = || {
        let mut driver = Driver::new();
        driver.ask(0);
        driver.ask(3);
        sent(&mut driver.connection, 0);
        driver.connection
    };
    assert_pieces_change_nothing(begun, &wire);
}

struct Driver {
    connection: Connection<StreamId>,
    mirror: Mirror,
    input: BytesMut,
    now_ms: u64,
    streams: BTreeMap<StreamId, Asked>,
    last: StreamId,
    settings: Option<Waiting>,
    /// The connection was given up.
    is_lost: bool,
}

/// A request, and what has come of it.
struct Asked {
    is_head: bool,
    /// Its windows were those of SETTINGS from the beginning.
    is_bounded: bool,
    /// What is still to be sent of it; `Some(None)` where only the end will tell.
    promised: Option<Option<usize>>,
    /// The length that the response told, once that has come.
    response: Option<Option<u64>>,
    taken: usize,
    interims: usize,
    is_over: bool,
    reader: Option<Waiting>,
    maker: Option<Waiting>,
}

impl Driver {
    fn new() -> Self {
        let config = ClientConfig {
            streams_max: STREAMS_MAX,
            stream_window_bytes: WINDOW_BYTES,
            connection_window_bytes: 70_000,
            header_list_bytes_max: 1024,
            first_byte_ms: 3_000,
            between_bytes_ms: 2_000,
            send_progress_ms: 2_500,
            idle_ms: 9_000,
            ping_ms: 1_000,
        };
        Self {
            connection: Connection::client(&config, 0),
            mirror: Mirror::of(Role::Client),
            input: BytesMut::new(),
            now_ms: 0,
            streams: BTreeMap::new(),
            last: 0,
            settings: None,
            is_lost: false,
        }
    }

    fn ask(&mut self, kind: u8) {
        let (method, body, promised) = match kind & 7 {
            0..=2 => ("GET", AskBody::None, None),
            3 => ("HEAD", AskBody::None, None),
            4 | 5 => {
                let length = usize::from(kind >> 3) * 50;
                let body = AskBody::Length(length as u64);
                ("POST", body, Some(Some(length)))
            }
            6 => ("POST", AskBody::Delimited, Some(None)),
            _ => ("CONNECT", AskBody::Delimited, Some(None)),
        };
        let fields = [
            (&b":method"[..], method.as_bytes()),
            (b":scheme", b"https"),
            (b":authority", b"a"),
            (b":path", b"/"),
            (b"Date", DATE),
        ];
        let ask = Ask {
            fields: Fields::of(fields.into_iter()),
            body,
            is_head: method == "HEAD",
            is_tunnel: method == "CONNECT",
        };
        let has_room = self.connection.has_room();
        let Some(id) = self.connection.ask(ask, self.now_ms) else {
            assert!(!has_room);
            return;
        };
        assert!(has_room && id % 2 == 1 && id > self.last, "{id}");
        self.last = id;
        let asked = Asked {
            is_head: method == "HEAD",
            is_bounded: self.mirror.has_acknowledged,
            promised,
            response: None,
            taken: 0,
            interims: 0,
            is_over: false,
            reader: None,
            maker: None,
        };
        self.streams.insert(id, asked);
        assert!(self.streams.len() <= STREAMS_MAX);
        assert_eq!(self.connection.streams(), self.streams.len());
    }

    fn feed(&mut self, bytes: &[u8]) {
        if self.connection.holds_reader() {
            self.send();
        }
        if self.connection.is_finished() || self.is_lost {
            return;
        }
        assert!(!self.connection.holds_reader(), "held without a reason");
        self.mirror.hear(bytes);
        self.input.extend_from_slice(bytes);
        let handled = self.connection.handle_input(&mut self.input, self.now_ms);
        if let Err(error) = handled {
            self.connection.fail(&error);
            assert!(self.connection.is_finished());
        }
        assert!(self.connection.poll_event().is_none());
    }

    fn send(&mut self) -> bool {
        let bytes = sent(&mut self.connection, self.now_ms);
        assert!(bytes.len() <= SENT_BYTES_MAX, "{} at once", bytes.len());
        self.mirror.see(&bytes);
        assert!(self.connection.poll_finished().is_none());
        !bytes.is_empty()
    }

    fn act(&mut self, kind: u8, argument: u8) {
        let amount = usize::from(argument >> 2);
        let picked = self.streams.keys().nth((argument & 3).into()).copied();
        match (kind, picked) {
            (0..=2, _) => self.ask(argument),
            (3..=5, Some(id)) => self.hear(id),
            (6 | 7, Some(id)) => self.make(id, amount * 700),
            (8, Some(id)) => self.end_making(id),
            (9, _) => self.pass(u64::from(argument) * 30),
            (10, Some(id)) => self.drop_stream(id),
            (11, Some(id)) => self.take_interims(id),
            (12, _) if argument < 8 => self.connection.retire(),
            (13, _) => {
                let waiting = Waiting::new();
                let context = Context::from_waker(&waiting.waker);
                let polled = self.connection.poll_extended_connect(&context);
                self.settings = polled.is_pending().then_some(waiting);
            }
            (15, _) => {
                for id in self.streams.keys().copied().collect::<Vec<_>>() {
                    self.end_making(id);
                    self.hear(id);
                }
                self.send();
            }
            (16, _) => self.lose(),
            _ => {
                self.send();
            }
        }
    }

    fn lose(&mut self) {
        self.connection.lose();
        self.is_lost = true;
        assert!(self.connection.is_finished() && !self.connection.has_room());
    }

    fn drop_stream(&mut self, id: StreamId) {
        self.streams.remove(&id);
        self.connection.drop_stream(id);
        assert_eq!(self.connection.streams(), self.streams.len());
    }

    fn take_interims(&mut self, id: StreamId) {
        let Some(asked) = self.streams.get_mut(&id) else {
            return;
        };
        asked.interims += self.connection.take_interims(id).len();
        assert!(asked.interims <= INTERIM_RESPONSES_MAX);
    }

    /// Takes what has come of the response, until there is none for now.
    fn hear(&mut self, id: StreamId) {
        self.take_interims(id);
        while let Some(asked) = self.streams.get_mut(&id) {
            if asked.is_over {
                return;
            }
            let waiting = Waiting::new();
            let context = Context::from_waker(&waiting.waker);
            asked.reader = None;
            if asked.response.is_none() {
                match self.connection.poll_response(id, self.now_ms, &context) {
                    Poll::Pending => asked.reader = Some(waiting),
                    Poll::Ready(Err(_)) => asked.is_over = true,
                    Poll::Ready(Ok(head)) => {
                        assert!(head.status.0 >= 200);
                        let is_empty = asked.is_head || head.status.0 == 304;
                        asked.response = Some(match is_empty {
                            true => Some(0),
                            false => head.content_length,
                        });
                        continue;
                    }
                }
                return;
            }
            let polled = self.connection.poll_body(id, self.now_ms, &context);
            let seen = self.mirror.streams.entry(id).or_default();
            match polled {
                Poll::Pending => asked.reader = Some(waiting),
                Poll::Ready(BodyPoll::Data(data)) => {
                    assert!(!data.is_empty());
                    assert!(!asked.is_bounded || data.len() <= WINDOW_BYTES as usize);
                    assert!(seen.content[asked.taken..].starts_with(&data));
                    asked.taken += data.len();
                    continue;
                }
                Poll::Ready(BodyPoll::End) => {
                    assert_eq!(asked.taken, seen.content.len());
                    let length = asked.response.flatten();
                    assert!(length.is_none_or(|length| length == asked.taken as u64));
                    asked.is_over = true;
                    self.connection.take_trailers(id);
                }
                Poll::Ready(BodyPoll::Lost(_)) => asked.is_over = true,
                Poll::Ready(other) => panic!("{other:?} to a client"),
            }
            return;
        }
    }

    fn make(&mut self, id: StreamId, bytes: usize) {
        let Some(asked) = self.streams.get_mut(&id) else {
            return;
        };
        let making = (&mut asked.promised, &mut asked.maker);
        make_more(&mut self.connection, id, bytes, making);
    }

    fn end_making(&mut self, id: StreamId) {
        let promised = self.streams.get(&id).map(|asked| asked.promised);
        if let Some(Some(Some(left))) = promised
            && left > 0
        {
            return self.make(id, left);
        }
        if let Some(asked) = self.streams.get_mut(&id)
            && asked.promised.take().is_some()
        {
            asked.maker = None;
            let trailers = Fields::of([(&b"X-Sum"[..], &b"1"[..])].into_iter());
            self.connection.end_chunks(id, trailers);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        if self.connection.holds_reader() {
            // Its reader is who looks at the clock.
            return;
        }
        match self.connection.wait() {
            Wait::First { until_ms } | Wait::Idle { until_ms } => {
                if until_ms <= self.now_ms {
                    self.connection.finish();
                }
            }
            Wait::Busy { .. } => {
                if let Err(error) = self.connection.handle_timeout(self.now_ms) {
                    self.connection.fail(&error);
                }
            }
        }
    }

    /// Nobody waits for what is there already.
    fn check(&mut self) {
        let now_ms = self.now_ms;
        for (&id, asked) in &mut self.streams {
            if let Some(reader) = &asked.reader
                && !reader.was_woken()
            {
                let context = Context::from_waker(&reader.waker);
                let is_pending = match asked.response {
                    None => self
                        .connection
                        .poll_response(id, now_ms, &context)
                        .is_pending(),
                    Some(_) => self.connection.poll_body(id, now_ms, &context).is_pending(),
                };
                assert!(is_pending, "nobody was woken for an answer");
                assert!(
                    self.connection.take_interims(id).is_empty(),
                    "nor for hints"
                );
            }
            if let Some(maker) = &asked.maker
                && !maker.was_woken()
            {
                let context = Context::from_waker(&maker.waker);
                let polled = self.connection.poll_room(id, &context);
                assert!(polled.is_pending(), "nobody was woken for room");
            }
        }
        if let Some(settings) = &self.settings
            && !settings.was_woken()
        {
            let context = Context::from_waker(&settings.waker);
            let polled = self.connection.poll_extended_connect(&context);
            assert!(polled.is_pending(), "nobody was woken for SETTINGS");
        }
    }

    /// The server is gone, or nobody wants anything of it any more: then nothing is left.
    fn end(&mut self, is_lost: bool) {
        if is_lost {
            self.lose();
            self.check();
            for id in self.streams.keys().copied().collect::<Vec<_>>() {
                self.hear(id);
                assert!(self.streams[&id].is_over, "{id} is never over");
            }
        }
        self.connection.retire();
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            self.drop_stream(id);
        }
        for _ in 0..ROUNDS_MAX {
            if !self.send() {
                assert!(self.connection.is_finished() && !self.connection.is_serving());
                return;
            }
        }
        panic!("there is always more to send");
    }
}

pub(crate) fn h2_client_seeds() -> Vec<Vec<u8>> {
    let script = |lines: &[Vec<u8>]| [&[1][..], &lines.concat()].concat();
    let wire = |frames: &[Vec<u8>]| [&[40][..], &frames.concat()].concat();
    let head = |pick: u8, end: u8, id| line(11, pick << 4 | end, id, b"");
    let settings = |kind: u8, value: u8| line(4, 0, 0, &[0, kind, 0, 0, 0, value]);
    vec![
        // Two answers, interleaved; trailers.
        script(&[
            vec![0x80, 0, 0x8e, 0],
            head(0, 0, 1),
            head(1, 0, 3),
            vec![0x83, 0],
            line(0, 1, 3, b"hello"),
            line(12, 0x20, 1, b""),
            vec![0x83, 0, 0x83, 1],
            line(1, 5, 1, b"\x40\x01a\x01b"),
            vec![0x8f, 0],
        ]),
        // A request with a body that is answered while it is sent, and windows that close.
        script(&[
            settings(4, 9),
            vec![0x80, 0xfc, 0x86, 0xff, 0x8e, 0],
            line(8, 0, 3, &[0, 0, 0x10, 0]),
            vec![0x8e, 0, 0x88, 1],
            head(2, 0, 3),
            head(0, 1, 3),
            vec![0x83, 1, 0x8b, 1, 0x8f, 0],
        ]),
        // HEAD, 304 and an extended CONNECT, which the server allows.
        script(&[
            vec![0x8d, 0],
            settings(8, 1),
            vec![0x80, 3, 0x80, 7, 0x8e, 0],
            head(1, 1, 3),
            head(3, 1, 1),
            head(0, 0, 5),
            line(0, 0, 5, b"\x81\x00"),
            vec![0x83, 2, 0x86, 6, 0x88, 2, 0x8f, 0],
            line(0, 1, 5, b""),
        ]),
        // Refusals: of a stream, of those above one, of all that are too slow.
        script(&[
            vec![0x80, 0, 0x80, 0, 0x8e, 0],
            line(3, 0, 3, &[0, 0, 0, 7]),
            line(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]),
            vec![0x83, 1, 0x83, 2, 0x89, 0xff, 0x8a, 1, 0x83, 0],
        ]),
        // A server that is silent, and answers a sign of life.
        script(&[
            vec![0x89, 40, 0x8e, 0],
            line(6, 1, 0, b"alive?\0\0"),
            settings(3, 1),
            settings(1, 0),
            vec![0x80, 0, 0x8c, 0, 0x90, 0],
        ]),
        wire(&[
            frame(1, 4, 1, HEADS[1]),
            frame(6, 0, 0, b"12345678"),
            frame(0, 0, 1, b"hel"),
            frame(8, 0, 0, &[0, 1, 0, 0]),
            frame(0, 9, 1, &[1, b'l', b'o', 0]),
        ]),
        [&[2][..], &frame(4, 0, 0, &[]), &frame(1, 5, 1, HEADS[0])].concat(),
    ]
}

/// 200, 200 with content of five bytes, 103 with a link, 304, one whose fields are malformed, and 100.
const HEADS: &[&[u8]] = &[
    b"\x88",
    b"\x88\x0f\x0d\x015",
    b"\x48\x03103\x40\x04link\x04</a>",
    b"\x8b\x0f\x0d\x015",
    b"\x88\x40\x01A\x01b",
    b"\x48\x03100",
];

const STREAMS_MAX: usize = 4;

/// Of a stream, once SETTINGS are acknowledged.
const WINDOW_BYTES: u32 = 900;
