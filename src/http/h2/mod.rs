//! The HTTP/2 driver (RFC 9113): one task for a connection and all of its streams.
//!
//! Three kinds of futures live in it: one reads, one writes, and one serves each stream. All of them
//! share the connection's state, which does no input or output itself; none waits for another, so a
//! client that reads nothing is still heard, and one that sends nothing is still served. A panic ends
//! the connection.

mod body;
mod tasks;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use self::body::StreamBody;
use self::tasks::Tasks;
use super::transport::{Receive, TransmitGathered};
use super::{Context, Exchange, Handler, Outcome, close, finish};
use crate::buf;
use crate::error::{Cause, Error, Side, Stage};
use crate::limits::H2_HALF_CLOSED_LOOK_MS;
use crate::message::{Body, BodyStream, Now, Request, RequestBody, Response, Status};
use crate::metrics::{self, Counter};
use crate::net::deadline::{Expiry, Phase};
use crate::net::stream::{Closure, Received};
use crate::proto::h2::connection::{Connection, Event, Made, Room, Wait};
use crate::proto::h2::{ConnectionError, StreamId};
use crate::serve::error_page;

/// Serves a connection to its end, the lingering close included. `input` is what was received of it
/// already.
///
/// # Errors
/// When it ends otherwise than by an [`Outcome`]: a failed send or receive, a client that breaks the
/// protocol (it has been sent GOAWAY), or that breaks off within a request.
pub async fn serve<R: Receive, W: TransmitGathered, H: Handler>(
    mut read: R,
    mut write: W,
    handler: &H,
    context: &Context,
    input: BytesMut,
) -> Result<Outcome, Error> {
    let now = read.now();
    let connection = Connection::new(&context.http2, &context.limits, &context.timeouts, 0);
    let shared = Rc::new(Shared {
        connection: RefCell::new(connection),
        start: now.monotonic,
        now: Cell::new(now),
        now_ms: Cell::new(0),
        is_reader_held: Cell::new(false),
        armed: Cell::new(None),
        failure: Cell::new(None),
        outcome: Cell::new(Outcome::Closed),
        is_sending: Cell::new(false),
        is_in_kernel: Cell::new(write.is_in_kernel()),
    });
    let ended = run(&mut read, &mut write, handler, context, &shared, input).await;
    // Responses that the end has cut short.
    shared.connection.borrow_mut().finish();
    report(&shared, handler, ended.is_ok());
    match ended {
        Ok(End::Closed) => {
            // Nothing is in flight; whether the goodbye arrives changes nothing.
            drop(write.finish().await);
            Ok(Outcome::PeerClosed)
        }
        Ok(End::Finished) => {
            close(&mut read, &mut write, context).await;
            match shared.failure.take() {
                Some(failure) => Err(failure),
                None => Ok(shared.outcome.get()),
            }
        }
        Err(error) => {
            if error.cause.was_told() {
                // The client has been sent an alert, which a reset for unread bytes must not
                // overtake.
                read.give_up_records();
                close(&mut read, &mut write, context).await;
            }
            Err(error)
        }
    }
}

/// What the futures of one connection share. No borrow is held while any of them waits.
struct Shared {
    connection: RefCell<Connection<Served>>,
    start: Instant,
    /// When something last happened.
    now: Cell<Now>,
    /// The same, in milliseconds of the connection.
    now_ms: Cell<u64>,
    /// The reader waits for answers to be sent.
    is_reader_held: Cell<bool>,
    /// What the deadline is set for.
    armed: Cell<Option<Wait>>,
    /// Why the connection was ended by this side.
    failure: Cell<Option<Error>>,
    outcome: Cell<Outcome>,
    /// A send is under way: what is over for the connection's state may not have left yet.
    is_sending: Cell<bool>,
    /// The kernel seals what is sent.
    is_in_kernel: Cell<bool>,
}

/// A request that is answered.
struct Served {
    /// `None` when its head could not be read.
    request: Option<Rc<Request>>,
    /// When its head was complete.
    begun: Instant,
}

/// How a connection's task ended when nothing failed.
enum End {
    /// The client closed its direction.
    Closed,
    /// All that is to be sent was sent.
    Finished,
}

impl Shared {
    fn set_now(&self, now: Now) {
        let passed = now.monotonic.saturating_duration_since(self.start);
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        self.now.set(now);
        self.now_ms.set(passed_ms.max(self.now_ms.get()));
    }

    /// Ends the connection for what the client did.
    fn fail(&self, error: ConnectionError) {
        tracing::debug!(%error, "HTTP/2 connection refused");
        self.connection.borrow_mut().fail(&error);
        let cause = Cause::Protocol(error.reason);
        self.failure
            .set(Some(Error::client(Stage::RequestHead, cause)));
    }

    /// When, and for what, a connection that waits so is to be looked at.
    fn deadline(&self, wait: Wait) -> (Phase, Duration) {
        let is_draining = self.connection.borrow().is_draining();
        let phase = match wait {
            Wait::First { .. } => Phase::Header,
            Wait::Idle { .. } => Phase::Idle,
            Wait::Busy { .. } if is_draining => Phase::Draining,
            Wait::Busy { .. } => Phase::Streams,
        };
        let after_ms = wait.until_ms().saturating_sub(self.now_ms.get());
        (phase, Duration::from_millis(after_ms))
    }

    /// The deadline, where it is nearer than the one that is set: an answer may have begun, or a body be
    /// waited for, after the reader went to wait.
    fn nearer_deadline(&self) -> Option<(Phase, Duration)> {
        let connection = self.connection.borrow();
        let wait = connection.wait();
        let armed = self.armed.get()?;
        if wait.until_ms() >= armed.until_ms() || connection.has_input_ended() {
            return None;
        }
        self.armed.set(Some(wait));
        Some(self.deadline(wait))
    }

    /// Whether the reader waited for answers to be sent, and they have been.
    fn is_reader_due(&self) -> bool {
        self.is_reader_held.get() && !self.connection.borrow().holds_reader()
    }
}

/// Reads, serves and writes until the connection is finished.
async fn run<R: Receive, W: TransmitGathered, H: Handler>(
    read: &mut R,
    write: &mut W,
    handler: &H,
    context: &Context,
    shared: &Rc<Shared>,
    input: BytesMut,
) -> Result<End, Error> {
    let mut tasks = Tasks::new();
    let clock = write.clock();
    let mut reader = pin!(Reader::new(read, context, shared, input).run());
    let mut writer = pin!(write_all(write, handler, context, shared));
    poll_fn(|task| {
        tasks.begin(task);
        shared.set_now(clock());
        let ended = turn(reader.as_mut(), writer.as_mut(), task, || {
            while let Some(event) = next_event(shared) {
                start(event, &mut tasks, handler, shared);
            }
            if !shared.is_sending.get() {
                report(shared, handler, true);
            }
            tasks.poll_ready() || shared.is_reader_due()
        });
        tasks.end();
        ended
    })
    .await
}

/// Polls everything until nothing is left to do without waiting: `serve` says whether it did
/// anything, for nothing but another round here tells the writer. Each future bounds its own turn by
/// what it moves.
fn turn(
    mut reader: Pin<&mut impl Future<Output = Result<End, Error>>>,
    mut writer: Pin<&mut impl Future<Output = Result<End, Error>>>,
    task: &mut TaskContext<'_>,
    mut serve: impl FnMut() -> bool,
) -> Poll<Result<End, Error>> {
    loop {
        if let Poll::Ready(end) = reader.as_mut().poll(task) {
            return Poll::Ready(end);
        }
        serve();
        if let Poll::Ready(end) = writer.as_mut().poll(task) {
            return Poll::Ready(end);
        }
        // What was sent may have made room for those that wait, and they more to send.
        if !serve() {
            return Poll::Pending;
        }
    }
}

fn next_event(shared: &Shared) -> Option<Event> {
    shared.connection.borrow_mut().poll_event()
}

fn start<'a, H: Handler>(
    event: Event,
    tasks: &mut Tasks<'a>,
    handler: &'a H,
    shared: &'a Rc<Shared>,
) {
    match event {
        Event::Request(stream, request, has_body) => {
            attach(stream, Some(Rc::clone(&request)), shared);
            let known = match has_body {
                true => None,
                false => handler.respond_known(&request, shared.now.get()),
            };
            if let Some(response) = known {
                // What most requests ask for costs no future.
                if let Some(made) = respond(stream, response, shared) {
                    tasks.add(stream, Box::pin(send_rest(stream, made, shared)));
                }
                return;
            }
            let exchange = exchange(stream, request, has_body, handler, shared);
            buf::keep_ready(size_of_val(&exchange));
            tasks.add(stream, Box::pin(exchange));
        }
        Event::Refused(stream, request, status, reason) => {
            attach(stream, request, shared);
            refuse(stream, status, reason, shared);
        }
        Event::Gone(stream) => tasks.remove(stream),
    }
}

fn attach(stream: StreamId, request: Option<Rc<Request>>, shared: &Shared) {
    let served = Served {
        request,
        begun: shared.now.get().monotonic,
    };
    shared.connection.borrow_mut().attach(stream, served);
}

/// Tells the handler which responses are over.
fn report<H: Handler>(shared: &Shared, handler: &H, is_sent: bool) {
    let now = shared.now.get().monotonic;
    loop {
        let Some(finished) = shared.connection.borrow_mut().poll_finished() else {
            return;
        };
        let exchange = Exchange {
            request: finished.data.request.as_deref(),
            status: finished.status,
            body_bytes: finished.body_bytes,
            duration: now.saturating_duration_since(finished.data.begun),
            is_complete: finished.is_complete && is_sent,
            is_sent_by_kernel: shared.is_in_kernel.get(),
        };
        finish(handler, &exchange);
    }
}

/// One request and its response.
async fn exchange<H: Handler>(
    stream: StreamId,
    request: Rc<Request>,
    has_body: bool,
    handler: &H,
    shared: &Rc<Shared>,
) {
    let body = match has_body {
        true => RequestBody::Stream(Box::new(StreamBody::new(shared.clone(), stream))),
        false => RequestBody::Empty,
    };
    let response = {
        let mut answer = pin!(handler.respond(&request, body, shared.now.get()));
        poll_fn(|task| {
            let polled = answer.as_mut().poll(task);
            if !request.interims.is_empty() {
                inform(stream, &request, shared);
            }
            polled
        })
        .await
    };
    let made = respond(stream, response, shared);
    drop(request);
    if let Some(made) = made {
        send_rest(stream, made, shared).await;
    }
}

/// Begins the response of `stream`; gives what has still to be made of it.
fn respond(stream: StreamId, mut response: Response, shared: &Shared) -> Option<Made> {
    let mut connection = shared.connection.borrow_mut();
    if let Some(failure) = connection.failure(stream) {
        drop(connection);
        refuse(stream, failure.status, failure.reason, shared);
        return None;
    }
    let is_connected = matches!(response.body, Body::Upgrade(_)) || response.status >= Status(300);
    if !is_connected && connection.asks_for_tunnel(stream) {
        // Success would say that the tunnel is there (RFC 8441 5).
        response = error_page::page(Status(501));
    }
    connection.respond(stream, response, shared.now_ms.get())
}

async fn send_rest(stream: StreamId, made: Made, shared: &Rc<Shared>) {
    match made {
        Made::Body(made) => send_made(stream, made, shared).await,
        Made::Tunnel(upgrade) => tunnel::run(stream, upgrade, shared).await,
    }
}

/// Passes on the interim responses that have come.
#[cold]
fn inform(stream: StreamId, request: &Request, shared: &Shared) {
    let mut connection = shared.connection.borrow_mut();
    for interim in request.interims.take() {
        connection.inform(stream, interim);
    }
}

/// Waits until more can be sent of what `made` makes.
async fn room(stream: StreamId, made: &mut Box<dyn BodyStream>, shared: &Shared) -> Room {
    poll_fn(|task| {
        let polled = {
            let mut connection = shared.connection.borrow_mut();
            connection.poll_room(stream, task)
        };
        if polled.is_pending() {
            made.poll_beside(task);
        }
        polled
    })
    .await
}

/// Sends a body as it is made.
async fn send_made(stream: StreamId, mut made: Box<dyn BodyStream>, shared: &Shared) {
    loop {
        if room(stream, &mut made, shared).await == Room::Gone {
            return;
        }
        let next = made.next().await;
        let mut connection = shared.connection.borrow_mut();
        match next {
            Ok(Some(chunk)) => connection.push_chunk(stream, chunk),
            Ok(None) => return connection.end_chunks(stream, made.take_trailers()),
            Err(error) => {
                tracing::debug!(%error, stream, "a response broke off");
                return connection.abort(stream);
            }
        }
    }
}

fn refuse(stream: StreamId, status: Status, reason: &'static str, shared: &Shared) {
    tracing::debug!(stream, status = status.0, reason, "request refused");
    let mut connection = shared.connection.borrow_mut();
    connection.respond(stream, error_page::page(status), shared.now_ms.get());
}

/// The receiving side.
struct Reader<'a, R> {
    read: &'a mut R,
    context: &'a Context,
    shared: &'a Shared,
    /// Received, and not yet a whole frame. Holds no memory while the connection is idle.
    input: BytesMut,
}

impl<'a, R: Receive> Reader<'a, R> {
    fn new(read: &'a mut R, context: &'a Context, shared: &'a Shared, input: BytesMut) -> Self {
        Self {
            read,
            context,
            shared,
            input,
        }
    }

    /// Receives until the client ends its direction. When the connection is to be finished, waits:
    /// that is the writer's.
    async fn run(mut self) -> Result<End, Error> {
        if !self.input.is_empty() {
            self.handle_input();
        }
        loop {
            self.wait_for_answers().await;
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            self.look_around();
            self.arm();
            // It is as late as when the task was woken for it.
            match self.read.receive(&mut self.input).await {
                Ok(Received::Data(_)) => self.handle_input(),
                Ok(Received::Expired(expiry)) => {
                    self.shared.armed.set(None);
                    self.expired(expiry);
                }
                Ok(Received::Closed(closure)) => return self.closed(closure).await,
                Err(cause) => return self.failed(cause),
            }
        }
    }

    fn handle_input(&mut self) {
        let now_ms = self.shared.now_ms.get();
        let handled = {
            let mut connection = self.shared.connection.borrow_mut();
            connection.handle_input(&mut self.input, now_ms)
        };
        if let Err(error) = handled {
            self.input = BytesMut::new();
            self.shared.fail(error);
        }
    }

    /// Ends the connection when the worker drains.
    fn look_around(&self) {
        let mut connection = self.shared.connection.borrow_mut();
        // A new connection may still have its first request answered.
        if self.context.is_draining() && connection.opened() > 0 && !connection.is_draining() {
            self.shared.outcome.set(Outcome::Drained);
            connection.drain(self.shared.now_ms.get());
        }
    }

    /// Reads no more while too many answers wait to be sent, and when nothing more is to be read.
    async fn wait_for_answers(&self) {
        poll_fn(|_| {
            let is_held = self.shared.connection.borrow().holds_reader();
            self.shared.is_reader_held.set(is_held);
            match is_held {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    fn arm(&self) {
        let wait = self.shared.connection.borrow().wait();
        if self.shared.armed.replace(Some(wait)) != Some(wait) {
            let (phase, after) = self.shared.deadline(wait);
            self.read.arm(phase, after);
        }
    }

    fn expired(&self, expiry: Expiry) {
        let now_ms = self.shared.now_ms.get();
        match expiry {
            // The look around at the beginning of the next round does the rest.
            Expiry::Drain => {}
            Expiry::Phase(Phase::Idle) => {
                metrics::count(Counter::TimeoutsIdle);
                self.shared.outcome.set(Outcome::IdleTimeout);
                self.shared.connection.borrow_mut().finish();
            }
            Expiry::Phase(Phase::Header) => {
                metrics::count(Counter::TimeoutsHeader);
                self.shared.outcome.set(Outcome::IdleTimeout);
                self.shared.connection.borrow_mut().finish();
            }
            Expiry::Phase(_) => {
                let done = self.shared.connection.borrow_mut().handle_timeout(now_ms);
                if let Err(error) = done {
                    self.shared.fail(error);
                }
            }
        }
    }

    /// The client ended its direction. What it has asked for completely it gets; the writer ends the
    /// connection then. Without close_notify an attacker may have cut off the rest (RFC 8446 6.1), but
    /// not changed what came before.
    async fn closed(mut self, closure: Closure) -> Result<End, Error> {
        let is_cut = {
            let mut connection = self.shared.connection.borrow_mut();
            let is_cut = connection.end_input();
            is_cut || !self.input.is_empty()
        };
        self.input = BytesMut::new();
        let is_serving = self.shared.connection.borrow().is_serving();
        if is_cut && closure == Closure::WithoutNotify {
            let error = Error::client(Stage::RequestHead, Cause::Truncated);
            if !is_serving {
                return Err(error);
            }
            self.shared.failure.set(Some(error));
        }
        if !is_serving {
            return Ok(End::Closed);
        }
        self.shared.outcome.set(Outcome::PeerClosed);
        loop {
            let until_ms = match self.shared.connection.borrow().wait() {
                Wait::First { until_ms } | Wait::Idle { until_ms } | Wait::Busy { until_ms } => {
                    until_ms
                }
            };
            let after_ms = until_ms.saturating_sub(self.shared.now_ms.get());
            let after_ms = after_ms.min(H2_HALF_CLOSED_LOOK_MS);
            self.read
                .arm(Phase::Draining, Duration::from_millis(after_ms));
            self.read.expire().await;
            self.shared.set_now(self.read.now());
            if self.read.is_reset() {
                return Ok(End::Closed);
            }
            let now_ms = self.shared.now_ms.get();
            let done = self.shared.connection.borrow_mut().handle_timeout(now_ms);
            if let Err(error) = done {
                self.shared.fail(error);
            }
        }
    }

    /// A client that resets an idle connection has ended it, no more.
    fn failed(&self, cause: Cause) -> Result<End, Error> {
        let error = Error::on_connection(Stage::RequestHead, cause);
        let is_reset = error.side == Side::Client && matches!(error.cause, Cause::Io(_));
        if is_reset && !self.shared.connection.borrow().is_serving() {
            return Ok(End::Closed);
        }
        Err(error)
    }
}

/// Sends what there is to be sent until the connection is finished.
async fn write_all<W: TransmitGathered, H: Handler>(
    write: &mut W,
    handler: &H,
    context: &Context,
    shared: &Shared,
) -> Result<End, Error> {
    loop {
        let next = poll_fn(|_| {
            let mut connection = shared.connection.borrow_mut();
            let mut gather = context.take_gather();
            let date = context.date.text(shared.now.get().wall);
            if connection.poll_send(&mut gather, &date, shared.now_ms.get()) {
                return Poll::Ready(Some(gather));
            }
            context.return_gather(gather);
            if connection.is_finished() {
                return Poll::Ready(None);
            }
            drop(connection);
            if let Some((phase, after)) = shared.nearer_deadline() {
                write.arm_both(phase, after);
            }
            Poll::Pending
        });
        let Some(mut gather) = next.await else {
            return Ok(End::Finished);
        };
        shared.is_sending.set(true);
        let sent = write.send_gather(&mut gather).await;
        shared.is_sending.set(false);
        shared.is_in_kernel.set(write.is_in_kernel());
        while let Some((stream, bytes)) = gather.take_cut() {
            tracing::warn!(stream, "a file has shrunk while it was sent");
            let mut connection = shared.connection.borrow_mut();
            connection.take_back(stream, bytes);
        }
        context.return_gather(gather);
        if let Err(cause) = sent {
            report(shared, handler, false);
            let is_closed = shared.connection.borrow().has_input_ended();
            if is_closed && matches!(cause, Cause::Io(_)) {
                // Both directions were closed, and the answers wanted no more.
                return Ok(End::Closed);
            }
            return Err(Error::on_connection(Stage::Response, cause));
        }
        report(shared, handler, true);
        if write.is_nearly_exhausted() && !shared.connection.borrow().is_draining() {
            metrics::count(Counter::KeyExhausted);
            let now_ms = shared.now_ms.get();
            shared.connection.borrow_mut().drain(now_ms);
        }
    }
}

#[cfg(test)]
mod tests;
