//! The driver over a scripted connection in memory: every receive is the next event of a script,
//! everything sent is kept.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::config::{Limits, Timeouts};
use crate::limits::{BODY_DISCARD_BYTES_MAX, LINGER_BYTES_MAX};
use crate::message::{
    Body, BodySink, BodyStream, Fields, FileRange, Interim, LocalFuture, Now, Part, Request,
    RequestBody, Response, Status, Upgrade,
};
use crate::net::stream::{AtOnce, Closure};

mod bodies;
mod counts;
mod duplex;
mod endings;
mod slow_bodies;
mod upgrades;

/// What the client does next.
#[derive(Clone, Debug)]
enum Event {
    /// It sends these bytes.
    Data(Vec<u8>),
    /// It has received these bytes last, or the test fails.
    Received(&'static str),
    /// It is silent until the deadline of this phase passes.
    Silence(Phase),
    /// It lets this time pass, which is within the deadline, or the test fails.
    Passes(Duration),
    /// So much of the phase is left.
    Left(Duration),
    /// It is idle when the worker begins to drain.
    Drained,
    /// It ends its direction.
    Close(Closure),
    /// It vanishes.
    Reset,
}

use Event::{Close, Drained, Left, Passes, Received as Saw, Reset, Silence};

struct Script {
    /// Passes by itself only in [`Event::Passes`] and while the client is silent.
    now: Now,
    events: VecDeque<Event>,
    sent: Vec<u8>,
    /// The bytes of each send.
    sends: Vec<usize>,
    finished: bool,
    aborted: bool,
    phase: Option<Phase>,
    /// How long it may last.
    after: Duration,
    /// Data received after our side was finished.
    lingered: usize,
    send_fails: bool,
    /// Sends that were not to wait.
    asked_at_once: usize,
    /// Something that was sent waits for room.
    keeps: bool,
    exhausted: bool,
    /// The capacity of the input buffer whenever the connection became idle.
    idle_capacity_max: usize,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            now: Now::read(),
            events: VecDeque::new(),
            sent: Vec::new(),
            sends: Vec::new(),
            asked_at_once: 0,
            keeps: false,
            finished: false,
            aborted: false,
            phase: None,
            after: Duration::ZERO,
            lingered: 0,
            send_fails: false,
            exhausted: false,
            idle_capacity_max: 0,
        }
    }
}

#[derive(Clone)]
struct Wire(Rc<RefCell<Script>>);

impl Wire {
    fn is_watched_for_nothing(&self) -> bool {
        let script = self.0.borrow();
        let leaves = matches!(
            script.events.front(),
            Some(Event::Reset | Event::Close(Closure::WithoutNotify))
        );
        script.phase.is_none() && !leaves
    }
}

impl Receive for Wire {
    /// Without a deadline it is watched whether the client leaves, which the script says next or not at
    /// all.
    async fn receive(&mut self, into: &mut BytesMut) -> Result<Received, Cause> {
        if self.is_watched_for_nothing() {
            std::future::pending::<()>().await;
        }
        let mut script = self.0.borrow_mut();
        if matches!(script.phase, Some(Phase::Idle | Phase::Tunnel)) {
            script.idle_capacity_max = script.idle_capacity_max.max(into.capacity());
        }
        loop {
            match script.events.pop_front() {
                None => return Ok(Received::Closed(Closure::Orderly)),
                Some(Event::Data(bytes)) => {
                    if script.finished {
                        script.lingered += bytes.len();
                    }
                    into.extend_from_slice(&bytes);
                    return Ok(Received::Data(bytes.len()));
                }
                Some(Event::Received(text)) => {
                    let sent = String::from_utf8_lossy(&script.sent).into_owned();
                    assert!(sent.ends_with(text), "{sent:?} does not end with {text:?}");
                }
                Some(Event::Silence(phase)) => {
                    assert_eq!(script.phase, Some(phase));
                    let after = script.after;
                    script.now.monotonic += after;
                    return Ok(Received::Expired(Expiry::Phase(phase)));
                }
                Some(Event::Passes(time)) => {
                    assert!(time <= script.after, "the deadline would have passed");
                    script.after -= time;
                    script.now.monotonic += time;
                }
                Some(Event::Left(time)) => assert_eq!(script.after, time),
                Some(Event::Drained) => {
                    assert_eq!(script.phase, Some(Phase::Idle));
                    return Ok(Received::Expired(Expiry::Drain));
                }
                Some(Event::Close(closure)) => {
                    script.events.push_front(Event::Close(closure));
                    return Ok(Received::Closed(closure));
                }
                Some(Event::Reset) => return Err(Cause::Io(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }

    fn arm(&self, phase: Phase, after: Duration) {
        let mut script = self.0.borrow_mut();
        script.phase = Some(phase);
        script.after = after;
    }

    fn disarm(&self) {
        self.0.borrow_mut().phase = None;
    }

    async fn expire(&mut self) -> Expiry {
        std::future::pending().await
    }

    fn is_reset(&self) -> bool {
        false
    }

    fn give_up_records(&mut self) {}

    fn now(&self) -> Now {
        self.0.borrow().now
    }
}

impl Script {
    /// What a send does with `parts`; gives how many bytes they are.
    fn take(&mut self, parts: &[IoSlice<'_>]) -> Result<usize, Cause> {
        if self.send_fails {
            return Err(Cause::Timeout("timeouts.send_progress_ms"));
        }
        let before = self.sent.len();
        for part in parts {
            self.sent.extend_from_slice(part);
        }
        let sent = self.sent.len() - before;
        self.sends.extend((sent > 0).then_some(sent));
        Ok(sent)
    }
}

impl Transmit for Wire {
    async fn send(&mut self, parts: &[IoSlice<'_>]) -> Result<(), Cause> {
        let mut script = self.0.borrow_mut();
        assert!(!script.finished, "a send after the end");
        let sent = script.take(parts)?;
        assert!(sent > 0 || script.keeps, "an empty send");
        script.keeps = false;
        Ok(())
    }

    /// Each outcome in its turn.
    fn send_at_once(&mut self, parts: &[IoSlice<'_>]) -> Result<AtOnce, Cause> {
        let mut script = self.0.borrow_mut();
        assert!(
            !script.finished && !script.keeps,
            "a send at the wrong time"
        );
        script.asked_at_once += 1;
        if script.asked_at_once.is_multiple_of(3) {
            return Ok(AtOnce::Nothing);
        }
        script.take(parts)?;
        script.keeps = script.asked_at_once % 3 == 1;
        Ok(match script.keeps {
            true => AtOnce::Kept,
            false => AtOnce::Sent,
        })
    }

    async fn send_file(&mut self, head: &[u8], range: &FileRange) -> Result<(), Cause> {
        let length = usize::try_from(range.length).unwrap();
        let mut body = vec![0; length];
        let read = range.file.read_exact_at(&mut body, range.offset);
        if read.is_err() {
            self.send(&[IoSlice::new(head)]).await?;
            return Err(Cause::FileTruncated);
        }
        self.send(&[IoSlice::new(head), IoSlice::new(&body)]).await
    }

    async fn finish(&mut self) -> Result<(), Cause> {
        self.0.borrow_mut().finished = true;
        Ok(())
    }

    fn abort(&mut self) {
        self.0.borrow_mut().aborted = true;
    }

    fn is_nearly_exhausted(&self) -> bool {
        self.0.borrow().exhausted
    }

    fn sent_bytes(&self) -> u64 {
        self.0.borrow().sent.len() as u64
    }

    fn now(&self) -> Now {
        self.0.borrow().now
    }
}

/// A body of these parts; an empty one stands for a moment in which nothing is ready.
struct Parts(VecDeque<Bytes>);

impl BodyStream for Parts {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(async move {
            while self.0.front().is_some_and(Bytes::is_empty) {
                self.0.pop_front();
                let mut woken = false;
                std::future::poll_fn(|_| match std::mem::replace(&mut woken, true) {
                    false => Poll::Pending,
                    true => Poll::Ready(()),
                })
                .await;
            }
            Ok(self.0.pop_front())
        })
    }
}

fn parts(parts: &[&'static str]) -> Box<dyn BodyStream> {
    Box::new(Parts(
        parts
            .iter()
            .map(|part| Bytes::from_static(part.as_bytes()))
            .collect(),
    ))
}

/// The first part of a request's body, or nothing at all of it.
struct First(RequestBody, bool);

impl BodyStream for First {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(async move {
            match std::mem::replace(&mut self.1, true) {
                true => Ok(None),
                false => self.0.next().await,
            }
        })
    }
}

/// A body of one part and trailer fields.
struct WithTrailers;

impl BodyStream for WithTrailers {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(async { Ok(None) })
    }

    fn take_trailers(&mut self) -> Fields {
        fields_of(&[("Sum", "1"), ("bad", "a\r\nb")])
    }
}

fn fields_of(pairs: &[(&str, &str)]) -> Fields {
    let mut block = Vec::new();
    let mut span = |text: &str| {
        let start = u32::try_from(block.len()).unwrap();
        block.extend_from_slice(text.as_bytes());
        start..u32::try_from(block.len()).unwrap()
    };
    let entries = pairs
        .iter()
        .map(|(name, value)| (span(name), span(value)))
        .collect();
    Fields::new(block.into(), entries)
}

/// Answers by the request's path.
#[derive(Default)]
struct Site {
    file: Option<Arc<File>>,
    /// The targets it was asked for.
    seen: RefCell<Vec<String>>,
    /// Whether it knew the last response that it could know.
    knew: Cell<bool>,
}

impl Site {
    fn range(&self, offset: u64, length: u64) -> FileRange {
        FileRange {
            file: self.file.clone().unwrap(),
            offset,
            length,
            is_remote: false,
        }
    }
}

impl Handler for Site {
    /// Every second time, for what [`Handler::respond`] answers with the request's target.
    fn respond_known(&self, request: &Request, _now: Now) -> Option<Response> {
        let is_plain = request.path().len() <= 2 && !self.knew.replace(!self.knew.get());
        is_plain.then(|| {
            self.seen.borrow_mut().push(request.target.to_string());
            let target = Bytes::copy_from_slice(request.target.as_bytes());
            Response::new(Status(200)).with_body(Body::Bytes(target))
        })
    }

    async fn respond(&self, request: &Request, body: RequestBody, _now: Now) -> Response {
        self.seen.borrow_mut().push(request.target.to_string());
        let ok = |body| Response::new(Status(200)).with_body(body);
        if let Some(stream) = stream(request.path()) {
            return ok(stream);
        }
        match request.path() {
            "/echo" => match read_all(body).await {
                Ok(bytes) => ok(Body::Bytes(bytes.into())),
                Err(_) => Response::new(Status(500)),
            },
            "/file" => ok(Body::File(self.range(2, 5))),
            "/parts" => ok(Body::Parts(vec![
                Part::Bytes("<".into()),
                Part::File(self.range(2, 5)),
                Part::Bytes("|".into()),
                Part::Bytes(vec![b'x'; 16_384].into()),
                Part::Bytes("|".into()),
                Part::File(self.range(0, 1)),
                Part::Bytes(">".into()),
            ])),
            "/duplex" => match body {
                RequestBody::Stream(body) => ok(Body::Stream(body, None)),
                RequestBody::Empty => ok(Body::Empty),
            },
            "/late" => ok(late(body).await),
            "/upgrade" => Response::new(Status(101))
                .with("upgrade", "echo")
                .with_body(Body::Upgrade(Box::new(upgrades::Echo))),
            "/duplex/asked" => match body {
                RequestBody::Stream(mut body) => {
                    // Asked for, and not there yet, when the response is.
                    let mut next = body.next();
                    std::future::poll_fn(|context| {
                        assert!(next.as_mut().poll(context).is_pending());
                        Poll::Ready(())
                    })
                    .await;
                    drop(next);
                    ok(Body::Stream(body, None))
                }
                RequestBody::Empty => ok(Body::Empty),
            },
            "/duplex/first" => ok(Body::Stream(Box::new(First(body, false)), None)),
            "/trailers" => ok(Body::Stream(Box::new(WithTrailers), None)),
            "/relayed" => {
                let mut relayed = fields_of(&[("Server", "x"), ("DATE", "then"), ("X-No", "1")]);
                relayed.retain(|name, _| name != b"X-No");
                Response {
                    relayed,
                    ..ok(Body::Empty)
                }
            }
            "/hints" => {
                let hint = |link| Interim {
                    status: Status(103),
                    fields: fields_of(&[("Link", link)]),
                };
                assert!(request.interims.push(hint("</a>")));
                wait_once().await;
                // It comes together with the response.
                assert!(request.interims.push(hint("</b>")));
                ok(Body::Bytes(read_all(body).await.unwrap_or_default().into()))
            }
            "/none" => Response::new(Status(204)),
            "/unchanged" => Response::new(Status(304)).with("etag", "\"a\""),
            _ => ok(Body::Bytes(Bytes::copy_from_slice(
                request.target.as_bytes(),
            ))),
        }
    }
}

/// What is made while it is sent.
fn stream(path: &str) -> Option<Body> {
    let (texts, length): (&[&'static str], _) = match path {
        "/stream" => (&["ab", "", "cde"], None),
        "/stream/slow" => (&["ab", "", "", "cde"], None),
        "/stream/5" => (&["ab", "cde"], Some(5)),
        "/stream/short" => (&["ab"], Some(5)),
        "/stream/long" => (&["abcd", "efg"], Some(5)),
        _ => return None,
    };
    Some(Body::Stream(parts(texts), length))
}

/// The request's body, some time after it has come.
async fn late(body: RequestBody) -> Body {
    let read = read_all(body).await;
    // Polled again at once by some, before they look at anything else.
    wait_once().await;
    wait_once().await;
    Body::Bytes(read.unwrap_or_default().into())
}

/// Is there when it is polled again.
async fn wait_once() {
    let mut has_waited = false;
    std::future::poll_fn(|_| match std::mem::replace(&mut has_waited, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

async fn read_all(mut body: RequestBody) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.next().await? {
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = std::task::Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("the driver makes no progress");
}

/// A connection that has ended.
struct Ended {
    result: Result<Outcome, Error>,
    script: Script,
    seen: Vec<String>,
}

impl Ended {
    /// Everything sent, with the date left out of each head.
    fn sent(&self) -> String {
        let text = String::from_utf8(self.script.sent.clone()).unwrap();
        let lines = text.split_inclusive("\r\n");
        lines.filter(|line| !line.starts_with("date: ")).collect()
    }

    fn statuses(&self) -> Vec<u16> {
        let text = self.sent();
        text.match_indices("HTTP/1.1 ")
            .map(|(at, name)| text[at + name.len()..][..3].parse().unwrap())
            .collect()
    }

    fn outcome(&self) -> Outcome {
        *self.result.as_ref().unwrap()
    }
}

/// A connection in the making.
struct Test {
    script: Script,
    context: Context,
    site: Site,
}

impl Test {
    fn new(events: impl IntoIterator<Item = Event>) -> Self {
        let limits = Limits {
            header_bytes_max: 4096,
            target_bytes_max: 1024,
            body_bytes_max: 1 << 20,
            ..Limits::default()
        };
        Self {
            script: Script {
                events: events.into_iter().collect(),
                ..Script::default()
            },
            context: Context::new(Timeouts::default(), limits),
            site: Site::default(),
        }
    }

    fn limited(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.context.limits);
        self
    }

    fn run(self) -> Ended {
        let wire = Wire(Rc::new(RefCell::new(self.script)));
        let result = run(serve(wire.clone(), wire.clone(), &self.site, &self.context));
        let script = std::mem::take(&mut *wire.0.borrow_mut());
        Ended {
            result,
            script,
            seen: self.site.seen.into_inner(),
        }
    }
}

fn data(text: impl AsRef<[u8]>) -> Event {
    Event::Data(text.as_ref().to_vec())
}

fn get(target: &str) -> Event {
    data(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

fn post(target: &str, fields: &str, body: &str) -> Event {
    data(format!(
        "POST {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}"
    ))
}

fn ended(events: impl IntoIterator<Item = Event>) -> Ended {
    Test::new(events).run()
}

#[test]
fn a_request_is_answered_and_the_connection_kept() {
    let ended = ended([get("/a"), Saw("\r\n\r\n/a"), get("/b"), Saw("\r\n\r\n/b")]);
    assert_eq!(ended.outcome(), Outcome::PeerClosed);
    assert_eq!(
        ended.sent(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/aHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/b"
    );
    assert_eq!(ended.script.sends.len(), 2, "head and body travel together");
    assert!(ended.script.finished);
}

#[test]
fn rfc9110_6_6_1_every_response_has_a_date() {
    let ended = ended([get("/"), data("x y\r\n\r\n")]);
    let text = String::from_utf8(ended.script.sent).unwrap();
    assert_eq!(text.matches("HTTP/1.1 ").count(), 2);
    assert_eq!(text.matches("\r\ndate: ").count(), 2);
}

#[test]
fn rfc9112_9_3_2_pipelined_requests_are_answered_in_order() {
    let requests: String = (0..20)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    let ended = ended([data(&requests[..333]), data(&requests[333..])]);
    let expected: Vec<String> = (0..20).map(|n| format!("/{n}")).collect();
    assert_eq!(ended.seen, expected);
    let bodies: Vec<String> = ended
        .sent()
        .split("HTTP/1.1 200 OK\r\n")
        .skip(1)
        .map(|response| response.split_once("\r\n\r\n").unwrap().1.to_owned())
        .collect();
    assert_eq!(bodies, expected);
}

#[test]
fn no_buffer_is_held_while_idle() {
    let big = format!(
        "GET /a HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(3000)
    );
    let ended = ended([data(&big), get("/b"), data(&big)]);
    assert_eq!(ended.statuses(), [200, 200, 200]);
    assert_eq!(ended.script.idle_capacity_max, 0);
}

#[test]
fn rfc9112_9_3_a_client_that_says_close_is_closed_after_the_response() {
    let ended = ended([
        data("GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        get("/b"),
    ]);
    assert_eq!(ended.outcome(), Outcome::Closed);
    assert_eq!(ended.seen, ["/a"]);
    assert!(ended.sent().contains("\r\nconnection: close\r\n"));
    assert!(
        ended.script.finished && ended.script.lingered > 0,
        "read after the end, not reset"
    );
}

#[test]
fn rfc9112_9_3_http_1_0_closes_unless_asked_to_keep() {
    let closed = ended([data("GET /a HTTP/1.0\r\n\r\n")]);
    assert_eq!(closed.outcome(), Outcome::Closed);
    assert!(closed.sent().contains("\r\nconnection: close\r\n"));
    let kept = ended([
        data("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
        get("/b"),
    ]);
    assert_eq!(kept.seen, ["/a", "/b"]);
    assert!(kept.sent().contains("\r\nconnection: keep-alive\r\n"));
}

#[test]
fn rfc9110_9_3_2_head_gets_the_head_only() {
    let ended = ended([
        data("HEAD /abc HTTP/1.1\r\nHost: a\r\n\r\nHEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n"),
        data("HEAD /stream/5 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]);
    assert_eq!(
        ended.sent(),
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    );
}

#[test]
fn rfc9110_9_3_2_a_refused_head_request_gets_no_content() {
    let ended = ended([data("HEAD / HTTP/1.1\r\n\r\n")]);
    assert_eq!(ended.statuses(), [400]);
    assert!(ended.sent().ends_with("\r\n\r\n"));
}

/// A head has the time it has, from the handshake or from its first byte, whatever comes in pieces.
#[test]
fn neither_pieces_nor_empty_lines_win_a_head_time() {
    let header = Timeouts::default().header;
    let second = Duration::from_secs(1);
    let passes = || Passes(second);
    let ends = || [Left(header - 3 * second), Silence(Phase::Header)];
    let mut first = vec![
        passes(),
        data("\r\n"),
        passes(),
        data("GET"),
        passes(),
        data(" "),
    ];
    first.extend(ends());
    assert_eq!(ended(first).statuses(), [408]);
    // On a kept connection it begins with the first byte.
    let mut kept = vec![
        data("GET /a HTTP/1.1\r\nHost: a\r\n\r\n"),
        passes(),
        data("\r"),
    ];
    kept.extend([
        passes(),
        data("\n"),
        passes(),
        data("G"),
        passes(),
        data("E"),
    ]);
    kept.extend(ends());
    assert_eq!(ended(kept).statuses(), [200, 408]);
}

#[test]
fn rfc9110_9_3_2_a_refusal_after_a_head_request_has_its_content_again() {
    let head = || data("HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n");
    for (events, status) in [
        (vec![head(), data("\x16\x03")], 400),
        (vec![head(), data("\r\n\nGET")], 400),
        (vec![head(), data("GET / HT"), Silence(Phase::Header)], 408),
        (
            vec![head(), data("\r\n\r\nGE"), Silence(Phase::Header)],
            408,
        ),
    ] {
        let text = format!("{events:?}");
        let ended = ended(events);
        assert_eq!(ended.statuses(), [200, status], "{text}");
        assert!(
            ended.sent().ends_with("</h1>\n"),
            "{text}: {}",
            ended.sent()
        );
    }
}

#[test]
fn rfc9110_9_3_2_a_head_request_that_is_not_complete_is_refused_without_content() {
    let long = format!("HEAD /{}", "x".repeat(2000));
    for (events, status) in [
        (vec![data("HEAD / HT"), Silence(Phase::Header)], 408),
        (vec![get("/a"), data("HEAD / HTTP/1.1\n")], 400),
        (vec![data(long)], 414),
    ] {
        let text = format!("{events:?}");
        let ended = ended(events);
        assert_eq!(ended.statuses().last(), Some(&status), "{text}");
        assert!(ended.sent().ends_with("\r\n\r\n"), "{text}");
    }
}

#[test]
fn rfc9110_15_statuses_without_content() {
    let ended = ended([get("/none"), get("/unchanged")]);
    assert_eq!(
        ended.sent(),
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n"
    );
}

#[test]
fn files_are_sent_with_their_head() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    let mut test = Test::new([get("/file"), get("/a")]);
    test.site.file = Some(Arc::new(file));
    let ended = test.run();
    assert!(
        ended
            .sent()
            .starts_with("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n23456HTTP")
    );
    assert_eq!(ended.script.sends.len(), 2);
}

#[test]
fn parts_are_sent_in_their_order_with_the_bytes_before_them() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    let mut test = Test::new([get("/parts"), get("/a")]);
    test.site.file = Some(Arc::new(file));
    let ended = test.run();
    let x = "x".repeat(16_384);
    let expected = format!("HTTP/1.1 200 OK\r\ncontent-length: 16394\r\n\r\n<23456|{x}|0>HTTP/1.1");
    assert!(ended.sent().starts_with(&expected));
    // The head and "<" with the file's part, the long bytes with "|", the file's byte, ">", /a.
    assert_eq!(ended.script.sends.len(), 5);
    let mut head = Test::new([data("HEAD /parts HTTP/1.1\r\nHost: a\r\n\r\n")]);
    head.site.file = Some(Arc::new(tempfile::tempfile().unwrap()));
    assert_eq!(
        head.run().sent(),
        "HTTP/1.1 200 OK\r\ncontent-length: 16394\r\n\r\n"
    );
}

#[test]
fn a_part_that_shrank_ends_the_connection_without_a_goodbye() {
    let mut test = Test::new([get("/parts"), get("/a")]);
    test.site.file = Some(Arc::new(tempfile::tempfile().unwrap()));
    let ended = test.run();
    let error = ended.result.unwrap_err();
    assert!(matches!(error.cause, Cause::FileTruncated), "{error}");
    assert!(!ended.script.finished);
}

#[test]
fn a_file_that_shrank_ends_the_connection_without_a_goodbye() {
    let mut test = Test::new([get("/file"), get("/a")]);
    test.site.file = Some(Arc::new(tempfile::tempfile().unwrap()));
    let ended = test.run();
    let error = ended.result.unwrap_err();
    assert!(matches!(error.cause, Cause::FileTruncated), "{error}");
    assert_eq!(error.side, Side::Us);
    assert!(
        !ended.script.finished,
        "the client must see that the end is missing"
    );
}

#[test]
fn rfc9112_7_1_streams_are_chunked_for_1_1() {
    let ended = ended([get("/stream"), get("/a")]);
    assert!(ended.sent().starts_with(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n\
         HTTP/1.1 200 OK\r\n"
    ));
    assert_eq!(ended.seen, ["/stream", "/a"]);
}

#[test]
fn rfc9112_6_3_streams_end_with_the_connection_for_1_0() {
    let ended = ended([
        data("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
        get("/a"),
    ]);
    assert_eq!(
        ended.sent(),
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabcde"
    );
    assert_eq!(ended.outcome(), Outcome::Closed);
}

#[test]
fn streams_of_declared_length_are_sent_as_they_are() {
    let ended = ended([get("/stream/5"), get("/a")]);
    assert!(
        ended
            .sent()
            .starts_with("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcdeHTTP")
    );
    assert_eq!(ended.statuses(), [200, 200]);
}

#[test]
fn a_stream_that_is_too_short_ends_the_connection_without_a_goodbye() {
    let ended = ended([get("/stream/short"), get("/a")]);
    assert_eq!(ended.result.as_ref().unwrap_err().side, Side::Us);
    assert!(ended.sent().ends_with("\r\n\r\nab"));
    assert!(!ended.script.finished);
}

#[test]
fn a_stream_that_is_too_long_is_cut_at_its_declared_length() {
    let ended = ended([get("/stream/long"), get("/a")]);
    assert_eq!(ended.result.as_ref().unwrap_err().side, Side::Us);
    assert!(ended.sent().ends_with("\r\n\r\nabcde"), "{}", ended.sent());
    assert_eq!(ended.seen, ["/stream/long"]);
}

#[test]
fn rfc9110_15_2_interim_responses_come_before_the_response() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                 HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\nHTTP/1.1 200 OK\r\n";
    for asked in [
        get("/hints"),
        post("/hints", "Content-Length: 3", "abc"),
        post(
            "/hints",
            "Transfer-Encoding: chunked",
            "3\r\nabc\r\n0\r\n\r\n",
        ),
    ] {
        let ended = ended([asked, get("/a")]);
        assert!(ended.sent().starts_with(hints), "{}", ended.sent());
        assert_eq!(ended.seen, ["/hints", "/a"]);
        assert_eq!(ended.sent().matches("200 OK").count(), 2);
    }
}

/// "A server MUST NOT send a 1xx response to an HTTP/1.0 client."
#[test]
fn rfc9110_15_2_a_client_of_http_1_0_gets_no_interim_response() {
    let ended = ended([data("GET /hints HTTP/1.0\r\n\r\n")]);
    assert!(ended.sent().starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(!ended.sent().contains("103"));
}
