//! The driver over a connection in memory: the test is its runtime and its client.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::Waker;

use bytes::Bytes;

use super::*;
use crate::config::{Limits, Timeouts};
use crate::http::transport::Transmit;
use crate::limits::H2_CONTROL_BYTES_MAX;
use crate::message::gather::{Gather, Part};
use crate::message::{Body, Fields, FileRange, Interim, LocalFuture, Response};
use crate::proto::h2::ErrorCode;
use crate::proto::h2::frame::{
    Decoder, Frame, PREFACE, Role, begin_headers, data_head, finish_headers, put_ping,
    put_rst_stream, put_settings, put_settings_ack,
};
use crate::proto::h2::hpack::{self, Encoder, Indexing};

#[derive(Default)]
struct State {
    input: VecDeque<Result<Received, Cause>>,
    bytes: VecDeque<Vec<u8>>,
    sent: Vec<u8>,
    /// The socket has no room.
    is_full: bool,
    finished: bool,
    exhausted: bool,
    is_reset: bool,
    phase: Option<Phase>,
    /// How long from when it was armed.
    after: Duration,
    passed: Duration,
}

#[derive(Clone)]
struct Wire {
    state: Rc<RefCell<State>>,
    start: Now,
}

impl Wire {
    fn moment(&self) -> Now {
        let passed = self.state.borrow().passed;
        Now {
            monotonic: self.start.monotonic + passed,
            wall: self.start.wall + passed,
        }
    }
}

impl Receive for Wire {
    async fn receive(&mut self, into: &mut BytesMut) -> Result<Received, Cause> {
        poll_fn(|_| {
            let mut state = self.state.borrow_mut();
            if let Some(bytes) = state.bytes.pop_front() {
                into.extend_from_slice(&bytes);
                return Poll::Ready(Ok(Received::Data(bytes.len())));
            }
            match state.input.pop_front() {
                Some(received) => Poll::Ready(received),
                // What the lingering close waits for.
                None if state.finished => Poll::Ready(Ok(Received::Closed(Closure::Orderly))),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn arm(&self, phase: Phase, after: Duration) {
        let mut state = self.state.borrow_mut();
        state.phase = Some(phase);
        state.after = after;
    }

    fn disarm(&self) {
        self.state.borrow_mut().phase = None;
    }

    async fn expire(&mut self) -> Expiry {
        poll_fn(|_| match self.state.borrow_mut().input.pop_front() {
            Some(Ok(Received::Expired(expiry))) => Poll::Ready(expiry),
            Some(other) => panic!("{other:?} after the end"),
            None => Poll::Pending,
        })
        .await
    }

    fn is_reset(&self) -> bool {
        self.state.borrow().is_reset
    }

    fn give_up_records(&mut self) {}

    fn now(&self) -> Now {
        self.moment()
    }
}

impl Transmit for Wire {
    async fn send(&mut self, _: &[IoSlice<'_>]) -> Result<(), Cause> {
        Err(Cause::Internal("only gathered frames are sent"))
    }

    async fn send_file(&mut self, _: &[u8], _: &FileRange) -> Result<(), Cause> {
        Err(Cause::Internal("only gathered frames are sent"))
    }

    async fn finish(&mut self) -> Result<(), Cause> {
        self.state.borrow_mut().finished = true;
        Ok(())
    }

    fn is_nearly_exhausted(&self) -> bool {
        self.state.borrow().exhausted
    }

    fn sent_bytes(&self) -> u64 {
        self.state.borrow().sent.len() as u64
    }

    fn now(&self) -> Now {
        self.moment()
    }
}

impl TransmitGathered for Wire {
    async fn send_gather(&mut self, gather: &mut Gather) -> Result<(), Cause> {
        poll_fn(|_| match self.state.borrow().is_full {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
        let mut state = self.state.borrow_mut();
        assert!(!state.finished && !gather.is_empty());
        for index in 0..gather.pieces() {
            if let Some(Part::Memory(bytes)) = gather.part(index) {
                state.sent.extend_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn clock(&self) -> Box<dyn Fn() -> Now> {
        let wire = self.clone();
        Box::new(move || wire.moment())
    }

    fn arm_both(&self, phase: Phase, after: Duration) {
        self.arm(phase, after);
    }
}

/// A client, the driver's future, and the way between them.
struct Bench<'a> {
    state: Rc<RefCell<State>>,
    driver: Pin<Box<dyn Future<Output = Result<Outcome, Error>> + 'a>>,
    encoder: Encoder,
    frames: Decoder,
}

/// A frame as the client received it.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Headers(StreamId, Vec<u8>, bool),
    Data(StreamId, Vec<u8>, bool),
    Reset(StreamId, ErrorCode),
    GoAway(StreamId, ErrorCode),
    Pong,
    Other,
}

impl<'a> Bench<'a> {
    fn new(site: &'a Site, context: &'a Context) -> Self {
        let wire = Wire {
            state: Rc::default(),
            start: Now::read(),
        };
        let state = wire.state.clone();
        let driver = serve(wire.clone(), wire, site, context, BytesMut::new());
        let mut bench = Self {
            state,
            driver: Box::pin(driver),
            encoder: Encoder::new(),
            frames: Decoder::new(Role::Client),
        };
        let mut out = PREFACE.to_vec();
        put_settings(&[], &mut out);
        put_settings_ack(&mut out);
        bench.send(out);
        assert!(bench.turn().is_pending());
        bench.receive();
        bench
    }

    fn send(&mut self, bytes: Vec<u8>) {
        self.state.borrow_mut().bytes.push_back(bytes);
    }

    fn happens(&mut self, event: Result<Received, Cause>) {
        self.state.borrow_mut().input.push_back(event);
    }

    fn turn(&mut self) -> Poll<Result<Outcome, Error>> {
        let mut context = TaskContext::from_waker(Waker::noop());
        self.driver.as_mut().poll(&mut context)
    }

    fn request(&mut self, stream: StreamId, path: &str, end: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let start = begin_headers(&mut out);
        self.encoder.begin(&mut out);
        for (name, value) in [
            (":method", if end { "GET" } else { "POST" }),
            (":scheme", "https"),
            (":authority", "example.org"),
            (":path", path),
        ] {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            self.encoder.field(name, value, Indexing::Literal, &mut out);
        }
        finish_headers(start, stream, end, &mut out);
        out
    }

    fn ask(&mut self, stream: StreamId, path: &str, end: bool) {
        let request = self.request(stream, path, end);
        self.send(request);
    }

    /// The frames sent since the last look.
    fn receive(&mut self) -> Vec<Got> {
        let sent = std::mem::take(&mut self.state.borrow_mut().sent);
        let mut rest = &sent[..];
        let mut got = Vec::new();
        while let Some(decoded) = self.frames.decode(rest).unwrap() {
            rest = &rest[decoded.consumed..];
            got.push(if let Frame::Headers(headers) = decoded.frame {
                Got::Headers(headers.stream, headers.block.to_vec(), headers.end_stream)
            } else if let Frame::Data(data) = decoded.frame {
                Got::Data(data.stream, data.content.to_vec(), data.end_stream)
            } else if let Frame::RstStream { stream, code } = decoded.frame {
                Got::Reset(stream, code)
            } else if let Frame::GoAway {
                last_stream, code, ..
            } = decoded.frame
            {
                Got::GoAway(last_stream, code)
            } else if let Frame::PingAck(_) = decoded.frame {
                Got::Pong
            } else {
                Got::Other
            });
        }
        assert!(rest.is_empty());
        got
    }
}

/// The content of a stream in `got`, and whether it ended.
fn content(got: &[Got], id: StreamId) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut ended = false;
    for frame in got {
        if let Got::Data(stream, bytes, end) = frame
            && *stream == id
        {
            all.extend_from_slice(bytes);
            ended |= end;
        }
    }
    (all, ended)
}

/// Answers by path.
#[derive(Default)]
struct Site {
    /// Whether it knew the last response that it could know: every second one.
    knew: Cell<bool>,
    /// Whether `/hints` has let the driver go on between its interim responses.
    waited: Cell<bool>,
    /// Handlers that have begun and not ended, nor been dropped.
    alive: Rc<Cell<usize>>,
    /// The responses that are over: path, status, and whether they were complete.
    told: RefCell<Vec<(String, u16, bool)>>,
}

struct Alive(Rc<Cell<usize>>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A body of these parts, with a moment in which nothing is ready before each.
struct Parts(VecDeque<&'static str>, bool);

impl BodyStream for Parts {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(async move {
            let mut waited = false;
            poll_fn(|task| match std::mem::replace(&mut waited, true) {
                true => Poll::Ready(()),
                false => {
                    task.waker().wake_by_ref();
                    Poll::Pending
                }
            })
            .await;
            match self.0.pop_front() {
                Some(part) => Ok(Some(Bytes::from_static(part.as_bytes()))),
                None if self.1 => Err(Error::us(Stage::Response, Cause::FileTruncated)),
                None => Ok(None),
            }
        })
    }
}

impl Handler for Site {
    fn respond_known(&self, request: &Request, _: Now) -> Option<Response> {
        let body = match request.path() {
            "/made" => Body::Stream(Box::new(Parts(["ab", "cde"].into(), false)), None),
            "/echo" | "/hints" | "/never" | "/broken" => return None,
            _ => Body::Bytes(Bytes::from_static(b"small")),
        };
        let is_known = !self.knew.replace(!self.knew.get());
        is_known.then(|| Response::new(Status(200)).with_body(body))
    }

    async fn respond(&self, request: &Request, mut body: RequestBody, _: Now) -> Response {
        self.alive.set(self.alive.get() + 1);
        let _alive = Alive(self.alive.clone());
        let ok = |body| Response::new(Status(200)).with_body(body);
        match request.path() {
            "/echo" => {
                let mut all = Vec::new();
                loop {
                    match body.next().await {
                        Ok(Some(bytes)) => all.extend_from_slice(&bytes),
                        Ok(None) => return ok(Body::Bytes(all.into())),
                        Err(_) => return Response::new(Status(500)),
                    }
                }
            }
            "/hints" => {
                let hint = |link: &str| Interim {
                    status: Status(103),
                    fields: Fields::of([(&b"Link"[..], link.as_bytes())].into_iter()),
                };
                assert!(request.interims.push(hint("</a>")));
                poll_fn(|task| match self.waited.replace(true) {
                    true => Poll::Ready(()),
                    false => {
                        task.waker().wake_by_ref();
                        Poll::Pending
                    }
                })
                .await;
                assert!(request.interims.push(hint("</b>")));
                ok(Body::Bytes(Bytes::from_static(b"hinted")))
            }
            "/never" => poll_fn(|_| Poll::<Response>::Pending).await,
            "/made" => ok(Body::Stream(
                Box::new(Parts(["ab", "cde"].into(), false)),
                None,
            )),
            "/broken" => ok(Body::Stream(Box::new(Parts(["ab"].into(), true)), None)),
            _ => ok(Body::Bytes(Bytes::from_static(b"small"))),
        }
    }

    fn finished(&self, exchange: &Exchange<'_>) {
        let path = exchange.request.map_or("", |request| request.path());
        let told = (path.to_owned(), exchange.status.0, exchange.is_complete);
        self.told.borrow_mut().push(told);
    }
}

fn context() -> Context {
    Context::new(Timeouts::default(), Limits::default())
}

fn data(stream: StreamId, content: &[u8], end: bool) -> Vec<u8> {
    [&data_head(stream, content.len(), end)[..], content].concat()
}

#[test]
fn handlers_read_bodies_as_they_come() {
    let (site, context) = (Site::default(), context());
    let mut bench = Bench::new(&site, &context);
    bench.ask(1, "/echo", false);
    bench.ask(3, "/echo", false);
    assert!(bench.turn().is_pending());
    assert_eq!(site.alive.get(), 2);
    bench.send(data(3, b"three", false));
    bench.send(data(1, b"one", true));
    assert!(bench.turn().is_pending());
    assert_eq!(content(&bench.receive(), 1), (b"one".to_vec(), true));
    bench.send(data(3, b", and more", true));
    assert!(bench.turn().is_pending());
    assert_eq!(
        content(&bench.receive(), 3),
        (b"three, and more".to_vec(), true)
    );
    assert_eq!(site.alive.get(), 0);
}

#[test]
fn many_requests_of_one_segment_are_answered_by_one_send() {
    let (site, context) = (Site::default(), context());
    let mut bench = Bench::new(&site, &context);
    let mut segment = Vec::new();
    for index in 0..100 {
        segment.extend_from_slice(&bench.request(2 * index + 1, "/", true));
    }
    bench.send(segment);
    assert!(bench.turn().is_pending());
    let got = bench.receive();
    assert_eq!(got.len(), 200);
    assert!((0..100).all(|index| content(&got, 2 * index + 1).1));
}

#[test]
fn rfc9113_8_1_interim_responses_come_before_the_response() {
    let (site, context) = (Site::default(), context());
    let mut bench = Bench::new(&site, &context);
    bench.ask(1, "/hints", true);
    assert!(bench.turn().is_pending());
    let got = bench.receive();
    let mut decoder = hpack::Decoder::new();
    let mut heads = Vec::new();
    for frame in &got {
        if let Got::Headers(1, block, end) = frame {
            let bounds = hpack::Bounds {
                list_bytes_max: 1000,
                fields_max: 10,
            };
            let mut list = hpack::HeaderList::default();
            decoder.decode(block, &bounds, &mut list).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let fields = list
                .iter()
                .take(2)
                .map(|(name, value)| text(name) + " " + &text(value));
            heads.push((fields.collect::<Vec<_>>().join(", "), *end));
        }
    }
    let [first, second, (last, false)] = &heads[..] else {
        panic!("{heads:?}");
    };
    assert_eq!(*first, (":status 103, link </a>".to_owned(), false));
    assert_eq!(*second, (":status 103, link </b>".to_owned(), false));
    assert!(last.starts_with(":status 200"), "{last}");
    assert_eq!(content(&got, 1), (b"hinted".to_vec(), true));
}

#[test]
fn bodies_are_sent_as_they_are_made() {
    let (site, context) = (Site::default(), context());
    let mut bench = Bench::new(&site, &context);
    bench.ask(1, "/made", true);
    bench.ask(3, "/broken", true);
    assert!(bench.turn().is_pending());
    let got = bench.receive();
    assert_eq!(content(&got, 1), (b"abcde".to_vec(), true));
    assert!(bench.turn().is_pending());
    let mut told = site.told.take();
    told.sort_unstable();
    assert_eq!(
        told,
        [("/broken".into(), 200, false), ("/made".into(), 200, true)]
    );
    // What broke off must not look complete.
    assert!(got.contains(&Got::Reset(3, ErrorCode::Internal)), "{got:?}");
    assert!(!content(&got, 3).1);
}

#[test]
fn a_reset_drops_its_handler_and_no_other() {
    let (site, context) = (Site::default(), context());
    let mut bench = Bench::new(&site, &context);
    for stream in [1, 3, 5] {
        bench.ask(stream, "/never", true);
    }
    assert!(bench.turn().is_pending());
    assert_eq!(site.alive.get(), 3);
    let mut reset = Vec::new();
    put_rst_stream(3, ErrorCode::Cancel, &mut reset);
    bench.send(reset);
    assert!(bench.turn().is_pending());
    assert_eq!(site.alive.get(), 2);
    assert!(site.told.borrow().is_empty(), "no status was sent");
    // A violation ends them all.
    bench.send(vec![0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let Poll::Ready(Err(error)) = bench.turn() else {
        panic!("the connection goes on");
    };
    assert!(matches!(error.cause, Cause::Protocol(_)) && error.side == Side::Client);
    assert_eq!(bench.receive(), [Got::GoAway(5, ErrorCode::Protocol)]);
    assert!(bench.state.borrow().finished);
    drop(bench);
    assert_eq!(site.alive.get(), 0);
}

/// While the socket takes nothing, the client is heard, up to a bound; and served when it has room.
#[test]
fn a_full_socket_does_not_stop_the_reader_before_its_bound() {
    let (site, context) = (Site::default(), context());
    let mut bench = Bench::new(&site, &context);
    bench.state.borrow_mut().is_full = true;
    bench.ask(1, "/", true);
    assert!(bench.turn().is_pending());
    bench.ask(3, "/never", true);
    let mut reset = Vec::new();
    put_rst_stream(3, ErrorCode::Cancel, &mut reset);
    bench.send(reset);
    assert!(bench.turn().is_pending());
    assert_eq!(site.alive.get(), 0);
    let mut pings = 0;
    while bench.state.borrow().bytes.is_empty() {
        bench.state.borrow_mut().passed += Duration::from_secs(1);
        let mut ping = Vec::new();
        put_ping([0; 8], &mut ping);
        bench.send(ping);
        assert!(bench.turn().is_pending());
        pings += 1;
        assert!(pings <= H2_CONTROL_BYTES_MAX / 17 + 2, "the reader goes on");
    }
    assert!(site.told.borrow().is_empty(), "nothing has left");
    bench.state.borrow_mut().is_full = false;
    assert!(bench.turn().is_pending());
    let got = bench.receive();
    assert!(content(&got, 1).1);
    assert_eq!(site.told.take(), [("/".into(), 200, true)]);
    assert_eq!(got.iter().filter(|got| **got == Got::Pong).count(), pings);
    assert!(bench.state.borrow().bytes.is_empty());
}

#[test]
fn a_drain_is_announced_to_busy_and_idle_connections() {
    let (site, context) = (Site::default(), context());
    let mut bench = Bench::new(&site, &context);
    bench.ask(1, "/echo", false);
    assert!(bench.turn().is_pending());
    assert_eq!(bench.state.borrow().phase, Some(Phase::Streams));
    context.drain();
    bench.happens(Ok(Received::Expired(Expiry::Drain)));
    assert!(bench.turn().is_pending());
    assert_eq!(
        bench.receive(),
        [Got::GoAway(0x7fff_ffff, ErrorCode::No), Got::Other]
    );
    // Told once: it is not woken for it again.
    assert_eq!(bench.state.borrow().phase, Some(Phase::Draining));
    bench.state.borrow_mut().passed += Duration::from_secs(2);
    bench.happens(Ok(Received::Expired(Expiry::Phase(Phase::Draining))));
    assert!(bench.turn().is_pending());
    assert_eq!(bench.receive(), [Got::GoAway(1, ErrorCode::No)]);
    bench.send(data(1, b"done", true));
    assert!(matches!(bench.turn(), Poll::Ready(Ok(Outcome::Drained))));
    assert_eq!(content(&bench.receive(), 1), (b"done".to_vec(), true));
    assert!(bench.state.borrow().finished);
}

#[test]
fn a_nearly_used_up_key_ends_the_connection_gracefully() {
    let (site, context) = (Site::default(), context());
    let mut bench = Bench::new(&site, &context);
    bench.state.borrow_mut().exhausted = true;
    bench.ask(1, "/", true);
    assert!(bench.turn().is_pending());
    let got = bench.receive();
    assert!(content(&got, 1).1);
    assert!(
        got.contains(&Got::GoAway(0x7fff_ffff, ErrorCode::No)),
        "{got:?}"
    );
}

#[test]
fn ends_of_the_client() {
    type Event = fn() -> Result<Received, Cause>;
    let events: [(bool, Event, Option<Outcome>); 5] = [
        (
            false,
            || Ok(Received::Closed(Closure::Orderly)),
            Some(Outcome::PeerClosed),
        ),
        (
            false,
            || Ok(Received::Closed(Closure::WithoutNotify)),
            Some(Outcome::PeerClosed),
        ),
        (
            false,
            || Err(Cause::Io(std::io::ErrorKind::ConnectionReset.into())),
            Some(Outcome::PeerClosed),
        ),
        (
            true,
            || Err(Cause::Io(std::io::ErrorKind::ConnectionReset.into())),
            None,
        ),
        (false, || Err(Cause::Record("broken")), None),
    ];
    for (is_busy, event, expected) in events {
        let (site, context) = (Site::default(), context());
        let mut bench = Bench::new(&site, &context);
        let path = if is_busy { "/never" } else { "/" };
        bench.ask(1, path, true);
        assert!(bench.turn().is_pending());
        bench.happens(event());
        let Poll::Ready(ended) = bench.turn() else {
            panic!("the connection goes on");
        };
        assert_eq!(ended.as_ref().ok(), expected.as_ref(), "{ended:?}");
        drop(bench);
        assert_eq!(site.alive.get(), 0);
    }
}

#[test]
fn silence_ends_a_connection() {
    for (asks, phase) in [(false, Phase::Header), (true, Phase::Idle)] {
        let (site, context) = (Site::default(), context());
        let mut bench = Bench::new(&site, &context);
        if asks {
            bench.ask(1, "/", true);
            assert!(bench.turn().is_pending());
            bench.receive();
            // What was armed for the exchange comes first, and finds nothing to do.
            bench.state.borrow_mut().passed += Duration::from_secs(31);
            bench.happens(Ok(Received::Expired(Expiry::Phase(Phase::Streams))));
            assert!(bench.turn().is_pending());
        }
        assert_eq!(bench.state.borrow().phase, Some(phase));
        bench.happens(Ok(Received::Expired(Expiry::Phase(phase))));
        assert!(matches!(
            bench.turn(),
            Poll::Ready(Ok(Outcome::IdleTimeout))
        ));
        let last = u32::from(asks);
        assert_eq!(bench.receive(), [Got::GoAway(last, ErrorCode::No)]);
    }
}

/// The deadline that an answer or a wait for content sets is armed, also when nothing comes behind the
/// request.
#[test]
fn deadlines_that_begin_while_the_reader_waits_are_armed() {
    let mut context = context();
    context.timeouts.send_progress = Duration::from_millis(300);
    context.timeouts.body_progress = Duration::from_millis(400);
    let site = Site::default();
    // The second time the answer takes a future.
    for (path, end, after_ms) in [("/", true, 300), ("/", true, 300), ("/echo", false, 400)] {
        let mut bench = Bench::new(&site, &context);
        let mut segment = Vec::new();
        put_settings(&[(4, 0)], &mut segment);
        segment.extend_from_slice(&bench.request(1, path, end));
        bench.send(segment);
        assert!(bench.turn().is_pending());
        let state = bench.state.borrow();
        let armed = (state.phase, state.after);
        let wanted = (Some(Phase::Streams), Duration::from_millis(after_ms));
        assert_eq!(armed, wanted, "{path}");
    }
}

/// A body that stalls is answered with 408, whatever its handler makes of the error.
#[test]
fn a_failed_body_is_answered_by_the_driver() {
    let (site, context) = (Site::default(), context());
    let mut bench = Bench::new(&site, &context);
    bench.ask(1, "/echo", false);
    assert!(bench.turn().is_pending());
    bench.state.borrow_mut().passed += context.timeouts.body_progress;
    bench.happens(Ok(Received::Expired(Expiry::Phase(Phase::Streams))));
    assert!(bench.turn().is_pending());
    let got = bench.receive();
    let (page, end) = content(&got, 1);
    assert!(String::from_utf8(page).unwrap().contains("408") && end);
    assert_eq!(got.last(), Some(&Got::Reset(1, ErrorCode::No)));
    assert_eq!(site.alive.get(), 0);
}

/// What was asked for completely is answered after the client has ended its direction, and only that.
#[test]
fn a_client_that_ends_its_direction_gets_its_answers() {
    for closure in [Closure::Orderly, Closure::WithoutNotify] {
        for is_cut in [false, true] {
            let (site, context) = (Site::default(), context());
            let mut bench = Bench::new(&site, &context);
            bench.ask(1, "/made", true);
            bench.ask(3, "/made", true);
            if is_cut {
                bench.ask(5, "/echo", false);
            }
            bench.state.borrow_mut().is_full = true;
            assert!(bench.turn().is_pending());
            bench.happens(Ok(Received::Closed(closure)));
            assert!(bench.turn().is_pending());
            bench.state.borrow_mut().is_full = false;
            let Poll::Ready(ended) = bench.turn() else {
                panic!("the connection goes on");
            };
            match is_cut && closure == Closure::WithoutNotify {
                true => assert!(matches!(ended.unwrap_err().cause, Cause::Truncated)),
                false => assert_eq!(ended.unwrap(), Outcome::PeerClosed),
            }
            let got = bench.receive();
            for stream in [1, 3] {
                assert_eq!(content(&got, stream), (b"abcde".to_vec(), true));
            }
            let cut = got.contains(&Got::Reset(5, ErrorCode::Cancel));
            assert_eq!(cut, is_cut, "{got:?}");
            drop(bench);
            assert_eq!(site.alive.get(), 0);
        }
    }
}

/// One that has ended both directions answers the goodbye with a reset. One that is only silent holds
/// nothing that waits for a window.
#[test]
fn a_client_that_is_gone_is_not_answered() {
    let (site, context) = (Site::default(), context());
    let mut bench = Bench::new(&site, &context);
    bench.ask(1, "/never", true);
    assert!(bench.turn().is_pending());
    bench.happens(Ok(Received::Closed(Closure::Orderly)));
    assert!(bench.turn().is_pending());
    assert_eq!(bench.receive(), [Got::GoAway(1, ErrorCode::No)]);
    let look = || Ok(Received::Expired(Expiry::Phase(Phase::Draining)));
    bench.happens(look());
    assert!(bench.turn().is_pending());
    bench.state.borrow_mut().is_reset = true;
    bench.happens(look());
    let ended = bench.turn();
    assert!(matches!(ended, Poll::Ready(Ok(Outcome::PeerClosed))));
    drop(bench);
    assert_eq!(site.alive.get(), 0);

    let mut bench = Bench::new(&site, &context);
    let mut no_window = Vec::new();
    put_settings(&[(4, 0)], &mut no_window);
    bench.send(no_window);
    bench.ask(1, "/made", true);
    assert!(bench.turn().is_pending());
    bench.receive();
    bench.happens(Ok(Received::Closed(Closure::Orderly)));
    let ended = bench.turn();
    assert!(matches!(ended, Poll::Ready(Ok(Outcome::PeerClosed))));
    let got = bench.receive();
    assert!(got.contains(&Got::Reset(1, ErrorCode::Cancel)), "{got:?}");
}
