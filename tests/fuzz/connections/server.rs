//! The server's role: a driver that answers what it is asked in every way that there is.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use portcullis::config::{Http2, Limits, Timeouts};
use portcullis::error::Error;
use portcullis::message::{
    Body, BodySink, BodyStream, Fields, Interim, LocalFuture, Response, Status, Upgrade,
};
use portcullis::proto::h2::ErrorCode;
use portcullis::proto::h2::connection::{BodyPoll, Connection, Event, Made, Wait};
use portcullis::proto::h2::frame::Role;

use super::mirror::Mirror;
use super::{
    PREFACE, ROUNDS_MAX, SENT_BYTES_MAX, Step, StreamId, Waiting, assert_pieces_change_nothing,
    frame, line, make_more, sent, steps,
};

/// A connection served, from its preface to its end.
pub(crate) fn h2_server(input: &[u8]) {
    let mut driver = Driver::new();
    let mut wire = Vec::new();
    // Its first bit but one: whether the preface is the input's too.
    if input.first().is_none_or(|how| how & 2 == 0) {
        let begin = [PREFACE, &frame(4, 0, 0, &[]), &frame(4, 1, 0, &[])].concat();
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
    driver.end();
    assert_pieces_change_nothing(begun, &wire);
}

fn begun() -> Connection<StreamId> {
    let http2 = Http2 {
        concurrent_streams_max: STREAMS_MAX,
        stream_window_bytes: WINDOW_BYTES,
        header_list_bytes_max: 1024,
        header_table_bytes: 512,
        ..Http2::default()
    };
    let limits = Limits {
        target_bytes_max: 64,
        body_bytes_max: BODY_BYTES_MAX,
        requests_per_connection_max: 50,
        ..Limits::default()
    };
    Connection::new(&http2, &limits, &Timeouts::default(), 0)
}

struct Driver {
    connection: Connection<StreamId>,
    mirror: Mirror,
    input: BytesMut,
    now_ms: u64,
    /// Those that the connection has opened, and not said to be gone.
    streams: BTreeMap<StreamId, Served>,
    /// Those that were over, whose responses had begun.
    finished: BTreeSet<StreamId>,
}

/// A request, and how far its answer is.
#[derive(Default)]
struct Served {
    /// It asks for a tunnel.
    is_tunnel: bool,
    /// It has one.
    is_established: bool,
    /// Its windows were those of SETTINGS from the beginning.
    is_bounded: bool,
    /// Content that was taken of it.
    taken: usize,
    is_answered: bool,
    /// What is still to be made; `Some(None)` where only the end will tell.
    promised: Option<Option<usize>>,
    reader: Option<Waiting>,
    maker: Option<Waiting>,
}

impl Driver {
    fn new() -> Self {
        Self {
            connection: begun(),
            mirror: Mirror::of(Role::Server),
            input: BytesMut::new(),
            now_ms: 0,
            streams: BTreeMap::new(),
            finished: BTreeSet::new(),
        }
    }

    /// Receives `bytes`, when there is room for the answers.
    fn feed(&mut self, bytes: &[u8]) {
        if self.connection.holds_reader() {
            self.send();
        }
        if self.connection.is_finished() || self.connection.has_input_ended() {
            return;
        }
        assert!(!self.connection.holds_reader(), "held without a reason");
        let was_acknowledged = self.mirror.has_acknowledged;
        self.mirror.hear(bytes);
        self.input.extend_from_slice(bytes);
        let handled = self.connection.handle_input(&mut self.input, self.now_ms);
        if let Err(error) = handled {
            self.connection.fail(&error);
            assert!(self.connection.is_finished() && !self.connection.is_serving());
        }
        self.take_events(was_acknowledged);
    }

    fn take_events(&mut self, is_bounded: bool) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Request(id, request, has_body) => {
                    self.connection.attach(id, id);
                    let served = Served {
                        is_tunnel: request.fields.first("upgrade").is_some(),
                        is_bounded,
                        ..Served::default()
                    };
                    assert!(!has_body || !served.is_tunnel);
                    assert!(request.target.len() <= 64);
                    assert!(self.streams.insert(id, served).is_none());
                }
                Event::Refused(id, _, status, _) => {
                    self.connection.attach(id, id);
                    assert!(self.streams.insert(id, Served::default()).is_none());
                    self.respond(id, status, Body::Bytes(Bytes::from_static(b"no")));
                }
                Event::Gone(id) => {
                    assert!(self.streams.remove(&id).is_some(), "{id} goes twice");
                }
            }
            assert!(self.streams.len() <= STREAMS_MAX);
        }
    }

    /// One send; whether there was anything.
    fn send(&mut self) -> bool {
        let bytes = sent(&mut self.connection, self.now_ms);
        assert!(bytes.len() <= SENT_BYTES_MAX, "{} at once", bytes.len());
        self.mirror.see(&bytes);
        self.take_events(false);
        while let Some(finished) = self.connection.poll_finished() {
            assert_eq!(finished.stream, finished.data);
            let seen = &self.mirror.streams[&finished.stream];
            assert_eq!(Some(finished.status.0), seen.status);
            assert_eq!(finished.body_bytes, seen.frame_bytes);
            assert_eq!(finished.is_complete, seen.has_ended);
            assert!(self.finished.insert(finished.stream), "finished twice");
        }
        !bytes.is_empty()
    }

    fn respond(&mut self, id: StreamId, status: Status, body: Body) {
        let mut length = None;
        if let Body::Stream(_, promised) = &body {
            length = promised.map(|length| usize::try_from(length).expect("short"));
        }
        let response = Response::new(status).with("server", "fuzz").with_body(body);
        let made = self.connection.respond(id, response, self.now_ms);
        if let Some(served) = self.streams.get_mut(&id) {
            served.is_answered = true;
            served.is_established = matches!(made, Some(Made::Tunnel(_)));
            served.promised = made.map(|_| length);
        }
    }

    /// Does one of the things that a driver does. Most are for one of the streams.
    fn act(&mut self, kind: u8, argument: u8) {
        let amount = usize::from(argument >> 2);
        let picked = self.streams.keys().nth((argument & 3).into()).copied();
        match (kind, picked) {
            (0, Some(id)) => self.read(id),
            (1..=6, Some(id)) if !self.streams[&id].is_answered => {
                let body = match kind {
                    1 => Body::Empty,
                    2 | 3 => Body::Bytes(vec![b'x'; amount * amount * 50].into()),
                    4 => Body::Stream(Box::new(Nothing), Some(amount as u64 * 700)),
                    5 => Body::Stream(Box::new(Nothing), None),
                    _ => Body::Upgrade(Box::new(Nothing)),
                };
                let status = [200, 204, 304, 404][amount % 4];
                let status = if kind == 6 { 101 } else { status };
                self.respond(id, Status(status), body);
            }
            (1..=6, Some(id)) | (7, Some(id)) => self.make(id, amount * 700),
            (8, Some(id)) => self.end_making(id),
            (9, _) => self.pass(u64::from(argument) * u64::from(argument)),
            (10, Some(id)) if !self.streams[&id].is_answered => {
                let link = [(&b"Link"[..], &b"</a>"[..])];
                let fields = Fields::of(link.into_iter());
                let status = Status(103);
                self.connection.inform(id, Interim { status, fields });
            }
            (11, Some(id)) if argument & 4 == 0 => self.connection.abort(id),
            (12, _) if argument < 8 => self.connection.drain(self.now_ms),
            (15, _) => {
                for id in self.streams.keys().copied().collect::<Vec<_>>() {
                    self.finish_answer(id);
                }
                self.send();
            }
            (16, _) => {
                self.connection.end_input();
            }
            _ => {
                self.send();
            }
        }
        self.take_events(false);
    }

    /// Asks for content until there is none for now.
    fn read(&mut self, id: StreamId) {
        while let Some(served) = self.streams.get_mut(&id) {
            let waiting = Waiting::new();
            let context = Context::from_waker(&waiting.waker);
            let polled = self.connection.poll_body(id, self.now_ms, &context);
            let seen = self.mirror.streams.entry(id).or_default();
            match polled {
                Poll::Pending => {
                    served.reader = Some(waiting);
                    return;
                }
                Poll::Ready(BodyPoll::Data(data)) => {
                    assert!(!data.is_empty());
                    assert!(!served.is_bounded || data.len() <= WINDOW_BYTES as usize);
                    assert!(seen.content[served.taken..].starts_with(&data));
                    served.taken += data.len();
                    assert!(served.is_tunnel || served.taken as u64 <= BODY_BYTES_MAX);
                }
                Poll::Ready(BodyPoll::End) => {
                    assert_eq!(served.taken, seen.content.len());
                    served.reader = None;
                    return;
                }
                Poll::Ready(BodyPoll::Failed(failure)) => {
                    served.reader = None;
                    if !served.is_answered {
                        self.respond(id, failure.status, Body::Empty);
                    }
                    return;
                }
                // The stream may have gone with what was just done.
                Poll::Ready(BodyPoll::Gone) => return self.take_events(false),
                Poll::Ready(BodyPoll::Lost(lost)) => panic!("{lost:?} to a server"),
            }
        }
    }

    /// Makes `bytes` more of an answer, where there is room.
    fn make(&mut self, id: StreamId, bytes: usize) {
        let Some(served) = self.streams.get_mut(&id) else {
            return;
        };
        let making = (&mut served.promised, &mut served.maker);
        make_more(&mut self.connection, id, bytes, making);
        self.take_events(false);
    }

    fn end_making(&mut self, id: StreamId) {
        let served = self.streams.get_mut(&id);
        if let Some(served) = served
            && served.promised.take().is_some()
        {
            let trailers = Fields::of([(&b"X-Sum"[..], &b"1"[..])].into_iter());
            self.connection.end_chunks(id, trailers);
        } else if let Some(served) = self.streams.get_mut(&id)
            && served.is_established
        {
            let waiting = Waiting::new();
            let context = Context::from_waker(&waiting.waker);
            match self.connection.poll_sent(id, &context) {
                Poll::Pending => served.maker = Some(waiting),
                Poll::Ready(()) => self.connection.end_tunnel(id),
            }
        }
        self.take_events(false);
    }

    /// Brings the answer on `id` nearer to its end.
    fn finish_answer(&mut self, id: StreamId) {
        let Some(served) = self.streams.get(&id) else {
            return;
        };
        match served.promised {
            _ if !served.is_answered => {
                self.respond(id, Status(200), Body::Bytes(Bytes::from_static(b"end")));
            }
            Some(Some(left)) if left > 0 => self.make(id, left),
            _ => self.end_making(id),
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
        self.take_events(false);
    }

    /// Nobody waits for what is there already.
    fn check(&mut self) {
        for (&id, served) in &mut self.streams {
            if let Some(reader) = &served.reader
                && !reader.was_woken()
            {
                let context = Context::from_waker(&reader.waker);
                let polled = self.connection.poll_body(id, self.now_ms, &context);
                assert!(polled.is_pending(), "nobody was woken for {polled:?}");
            }
            if let Some(maker) = &served.maker
                && !maker.was_woken()
            {
                let context = Context::from_waker(&maker.waker);
                let is_pending = match served.promised {
                    Some(_) => self.connection.poll_room(id, &context).is_pending(),
                    None => self.connection.poll_sent(id, &context).is_pending(),
                };
                assert!(is_pending, "nobody was woken for room");
            }
        }
    }

    /// The client ends its direction, and what can be answered is: then nothing is left.
    fn end(&mut self) {
        self.connection.end_input();
        self.take_events(false);
        for _ in 0..ROUNDS_MAX {
            self.check();
            for id in self.streams.keys().copied().collect::<Vec<_>>() {
                self.read(id);
                self.finish_answer(id);
            }
            if !self.send() && self.connection.is_finished() {
                assert!(!self.connection.is_serving() && self.streams.is_empty());
                for (id, seen) in &self.mirror.streams {
                    let has_begun = seen.status.is_some();
                    assert_eq!(self.finished.contains(id), has_begun, "{id}");
                }
                return;
            }
        }
        panic!("the connection does not end");
    }
}

/// A body and another end that are driven by hand.
struct Nothing;

impl BodyStream for Nothing {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(async { Ok(None) })
    }
}

impl BodySink for Nothing {
    fn send(&mut self, _data: Bytes) -> LocalFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn finish(&mut self) -> LocalFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

impl Upgrade for Nothing {
    fn into_halves(self: Box<Self>) -> (Box<dyn BodyStream>, Box<dyn BodySink>) {
        (Box::new(Self), self)
    }

    fn idle_max(&self) -> Duration {
        Duration::from_secs(20)
    }
}

pub(crate) fn h2_server_seeds() -> Vec<Vec<u8>> {
    let settings = |kind: u8, value: u8| line(4, 0, 0, &[0, kind, 0, 0, 0, value]);
    let reset = |id| line(3, 0, id, &u32::to_be_bytes(ErrorCode::Cancel.to_u32()));
    let get = |pick: u8, id| line(11, pick << 4 | 1, id, b"");
    let post = |pick: u8, id| line(11, pick << 4, id, b"");
    let open = |id, high: u8| line(8, 0, id, &[0, high, 0, 0]);
    let script = |lines: &[Vec<u8>]| [&[1][..], &lines.concat()].concat();
    vec![
        // Files, one of which is reset.
        script(&[
            get(0, 1),
            get(1, 3),
            vec![0x82, 0xff, 0x82, 0x41],
            reset(3),
            open(0, 1),
        ]),
        // A body in two frames with trailers; an answer made in pieces while it comes.
        script(&[
            post(2, 1),
            vec![0x80, 0, 0x85, 0, 0x87, 0x40],
            line(0, 0, 1, b"hello"),
            line(12, 0x04, 1, b""),
            vec![0x80, 0, 0x88, 0, 0x8e, 0],
            line(1, 5, 1, b"\x40\x01a\x01b"),
        ]),
        // Continue, hints, a body that its length was promised of, and one over its bound.
        script(&[
            post(3, 1),
            vec![0x8a, 0, 0x80, 0, 0x8e, 0],
            line(12, 0x81, 1, b""),
        ]),
        script(&[
            post(2, 1),
            line(12, 0x7f, 1, b""),
            line(12, 0x7f, 1, b""),
            vec![0x80, 0],
        ]),
        // A tunnel both ways, and its end.
        script(&[
            post(4, 1),
            vec![0x86, 0, 0x8e, 0, 0x87, 0x40],
            line(0, 0, 1, b"\x81\x00"),
            vec![0x80, 0, 0x88, 0, 0x8e, 0, 0x88, 0],
            line(0, 1, 1, b""),
        ]),
        // Windows that close and open, and a table that shrinks.
        script(&[
            settings(4, 9),
            settings(1, 0),
            get(5, 1),
            get(0, 3),
            vec![0x82, 0xff, 0x82, 0xff, 0x8e, 0],
            open(1, 1),
            settings(1, 90),
            line(16, 0, 0, b"\0\0\0\x03u=0"),
            vec![0x8e, 0, 0x90, 0],
        ]),
        // Time passes; a drain.
        script(&[
            post(2, 1),
            vec![0x80, 0, 0x89, 0xff, 0x8c, 0, 0x8e, 0, 0x89, 40],
            get(0, 3),
        ]),
        seed_as_it_is_sent(),
        [
            &[42][..],
            PREFACE,
            &frame(4, 0, 0, &[]),
            &frame(1, 5, 1, HEADS[1]),
        ]
        .concat(),
    ]
}

/// Frames that are no script.
fn seed_as_it_is_sent() -> Vec<u8> {
    let frames = [
        frame(1, 5, 1, HEADS[0]),
        frame(8, 0, 0, &[0, 1, 0, 0]),
        frame(1, 4, 3, HEADS[2]),
        frame(0, 1, 3, b"hello"),
        frame(1, 1, 5, &HEADS[5][..3]),
        frame(9, 4, 5, &HEADS[5][3..]),
        frame(6, 0, 0, b"12345678"),
        frame(7, 0, 0, &[0; 8]),
    ];
    [&[40][..], &frames.concat()].concat()
}

/// GET, HEAD, POST, POST that waits for 100 (Continue), an extended CONNECT, GET with trailers and a
/// priority, GET for what is too long, GET that is malformed.
const HEADS: &[&[u8]] = &[
    b"\x82\x87\x84\x41\x01a",
    b"\x42\x04HEAD\x87\x84\x41\x01a",
    b"\x83\x87\x84\x41\x01a",
    b"\x83\x87\x84\x41\x01a\x0f\x14\x0c100-continue\x0f\x0d\x018",
    b"\x02\x07CONNECT\x87\x84\x41\x01a\x40\x09:protocol\x09websocket",
    b"\x82\x87\x44\x02/x\x41\x01a\x40\x02te\x08trailers\x40\x08priority\x03u=2",
    b"\x82\x87\x84\x41\x01a\x0f\x0d\x05999999",
    b"\x82\x87\x84\x41\x01a\x40\x01A\x01b",
];

const STREAMS_MAX: usize = 4;

/// Of a stream, once SETTINGS are acknowledged.
const WINDOW_BYTES: u32 = 900;

const BODY_BYTES_MAX: u64 = 2000;
