//! HTTP/2 connections to servers: many requests over each.
//!
//! A connection is a task of its worker that reads and writes; the state machine is shared with those
//! that ask, who wake the task when they leave it something to send. The task ends with its
//! connection: what was open on it is told by then, and its place with the server is given back.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::group::Server;
use super::health::Step;
use super::pool::{Connection, Place};
use crate::config::UpstreamHttp;
use crate::error::Cause;
use crate::limits::{
    H2_RECEIVE_WINDOW_BYTES_MAX, H2_UPSTREAM_STREAM_WINDOW_BYTES, UPSTREAM_HEADER_BYTES_MAX,
};
use crate::message::gather::Gather;
use crate::message::{Fields, Interim};
use crate::metrics::{self, Counter};
use crate::net::deadline::Phase;
use crate::net::rt::{self, CatchPanic};
use crate::net::stream::{ReadHalf, Received, WriteHalf};
use crate::proto::h2::connection::client::{Ask, ClientConfig, Lost};
use crate::proto::h2::connection::{self as h2, BodyPoll, Room, Wait};
use crate::proto::h2::response::ResponseHead;
use crate::proto::h2::{ConnectionError, StreamId};

/// A connection that carries many requests at a time.
#[derive(Clone)]
pub struct Http2Connection(Rc<Shared>);

/// One request and its response. Dropped before their end, it is reset.
pub struct Http2Stream {
    shared: Rc<Shared>,
    id: StreamId,
    began: Instant,
}

/// Where the content of a request goes. It is of no use when its stream is gone.
pub struct Http2Sink {
    shared: Rc<Shared>,
    id: StreamId,
}

/// What became of a stream's next bytes.
type Next = Result<Option<Bytes>, Lost>;

struct Shared {
    connection: RefCell<h2::Connection<()>>,
    start: Instant,
    /// The task that reads and writes.
    driver: RefCell<Option<Waker>>,
    /// What the deadline is armed for; `None` when it has passed.
    armed: Cell<Option<Wait>>,
    is_reader_held: Cell<bool>,
    /// Until the connection has ended.
    place: RefCell<Option<Place>>,
    server: Server,
    end: Cell<End>,
}

/// Whether a connection has come to its end, and a request that it has cost was told to the group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Come,
    Reported,
}

impl Http2Connection {
    /// Begins HTTP/2 over `connection`, of which nothing was received: a task of this worker.
    pub fn start(connection: Connection, http: &UpstreamHttp, send_progress: Duration) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let Connection {
            read, write, place, ..
        } = connection;
        let streams = u32::try_from(http.streams_max).unwrap_or(u32::MAX);
        let config = ClientConfig {
            streams_max: http.streams_max,
            stream_window_bytes: H2_UPSTREAM_STREAM_WINDOW_BYTES,
            // One client that does not take its answer must not hold up the others'.
            connection_window_bytes: H2_UPSTREAM_STREAM_WINDOW_BYTES
                .saturating_mul(streams)
                .min(H2_RECEIVE_WINDOW_BYTES_MAX),
            header_list_bytes_max: UPSTREAM_HEADER_BYTES_MAX,
            first_byte_ms: ms(http.first_byte),
            between_bytes_ms: ms(http.between_bytes),
            send_progress_ms: ms(send_progress),
            idle_ms: ms(http.idle),
            ping_ms: http.ping.map_or(0, ms),
        };
        let shared = Rc::new(Shared {
            connection: RefCell::new(h2::Connection::client(&config, 0)),
            start: Instant::now(),
            driver: RefCell::new(None),
            armed: Cell::new(None),
            is_reader_held: Cell::new(false),
            server: place.its_server().clone(),
            place: RefCell::new(Some(place)),
            end: Cell::new(End::NotYet),
        });
        rt::spawn(drive(shared.clone(), read, write));
        Self(shared)
    }

    /// Whether it may carry another request.
    pub fn has_room(&self) -> bool {
        self.0.connection.borrow().has_room()
    }

    /// Whether no request is under way on it.
    pub fn is_idle(&self) -> bool {
        self.0.connection.borrow().streams() == 0
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.0.place.borrow().is_none()
    }

    /// How old it is.
    pub fn age(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// Carries no more requests, and ends with the last of those that it has.
    pub fn retire(&self) {
        self.0.connection.borrow_mut().retire();
        self.0.wake();
    }

    /// Sends a request; `None` where there is no [room](Self::has_room).
    pub fn ask(&self, ask: Ask) -> Option<Http2Stream> {
        let now_ms = self.0.now_ms();
        let id = self.0.connection.borrow_mut().ask(ask, now_ms)?;
        self.0.wake();
        self.0.server.begin();
        Some(Http2Stream {
            shared: self.0.clone(),
            id,
            began: Instant::now(),
        })
    }

    /// As [`h2::Connection::poll_extended_connect`].
    pub fn poll_extended_connect(&self, context: &Context<'_>) -> Poll<Option<bool>> {
        let mut connection = self.0.connection.borrow_mut();
        connection.poll_extended_connect(context)
    }

    /// As [`Http2Stream::report_failure`], for a connection that has ended before anything could be asked
    /// over it.
    pub fn report_failure(&self) {
        self.0.report_failure(self.0.start);
    }
}

impl Http2Stream {
    /// Whether the connection has carried a request before.
    pub fn is_reused(&self) -> bool {
        self.id > 1
    }

    /// As [`Place::report_success`].
    pub fn report_success(&self) {
        let server = &self.shared.server;
        if server.is_suspect() {
            server.report_success(Step::Exchange, self.began, Instant::now());
        }
    }

    /// As [`Place::report_failure`]. A connection that ends is one failure, however many requests were
    /// open on it.
    pub fn report_failure(&self) {
        self.shared.report_failure(self.began);
    }

    /// The response's head, once.
    ///
    /// # Errors
    /// See [`Lost`].
    pub fn poll_response(&mut self, context: &Context<'_>) -> Poll<Result<ResponseHead, Lost>> {
        let now_ms = self.shared.now_ms();
        let mut connection = self.shared.connection.borrow_mut();
        connection.poll_response(self.id, now_ms, context)
    }

    /// As [`h2::Connection::take_interims`].
    pub fn take_interims(&mut self) -> Vec<Interim> {
        let mut connection = self.shared.connection.borrow_mut();
        connection.take_interims(self.id)
    }

    /// The response's next bytes, or its end.
    ///
    /// # Errors
    /// See [`Lost`].
    pub fn poll_body(&mut self, context: &Context<'_>) -> Poll<Next> {
        let now_ms = self.shared.now_ms();
        let mut connection = self.shared.connection.borrow_mut();
        let polled = connection.poll_body(self.id, now_ms, context);
        // The server may be told that it can go on.
        if connection.has_answers() {
            self.shared.wake();
        }
        polled.map(|polled| match polled {
            BodyPoll::Data(data) => Ok(Some(data)),
            BodyPoll::End => Ok(None),
            BodyPoll::Lost(lost) => Err(lost),
            BodyPoll::Failed(_) | BodyPoll::Gone => Err(Lost::Closed),
        })
    }

    /// The fields behind the response's content, after its end.
    pub fn take_trailers(&mut self) -> Fields {
        let mut connection = self.shared.connection.borrow_mut();
        connection.take_trailers(self.id)
    }

    /// Where the request's content goes.
    pub fn sink(&self) -> Http2Sink {
        Http2Sink {
            shared: self.shared.clone(),
            id: self.id,
        }
    }
}

impl Http2Sink {
    /// Waits until there is room for more content.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<Room> {
        let mut connection = self.shared.connection.borrow_mut();
        connection.poll_room(self.id, context)
    }

    /// Appends to the content.
    pub fn push(&self, chunk: Bytes) {
        let mut connection = self.shared.connection.borrow_mut();
        connection.push_chunk(self.id, chunk);
        self.shared.wake();
    }

    /// The content is complete, but for `trailers`.
    pub fn end(&self, trailers: Fields) {
        let mut connection = self.shared.connection.borrow_mut();
        connection.end_chunks(self.id, trailers);
        self.shared.wake();
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        self.shared.connection.borrow_mut().drop_stream(self.id);
        self.shared.wake();
        self.shared.server.end();
        // There is room for one that waits.
        if let Some(place) = &*self.shared.place.borrow() {
            place.tell_of_room();
        }
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wake(&self) {
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    fn fail(&self, error: &ConnectionError) {
        tracing::warn!(%error, "HTTP/2 connection to a server ended");
        self.ends();
        self.connection.borrow_mut().fail(error);
    }

    fn report_failure(&self, began: Instant) {
        match self.end.get() {
            End::NotYet => {}
            End::Come => self.end.set(End::Reported),
            End::Reported => return,
        }
        let server = &self.server;
        server.report_failure(Step::Exchange, began, Instant::now());
    }

    fn ends(&self) {
        if self.end.get() == End::NotYet {
            self.end.set(End::Come);
        }
    }

    fn expired(&self) {
        self.armed.set(None);
        let now_ms = self.now_ms();
        let mut connection = self.connection.borrow_mut();
        match connection.wait() {
            Wait::First { until_ms } | Wait::Idle { until_ms } => {
                if until_ms <= now_ms {
                    connection.finish();
                }
            }
            Wait::Busy { .. } => {
                let done = connection.handle_timeout(now_ms);
                drop(connection);
                if let Err(error) = done {
                    self.fail(&error);
                }
            }
        }
    }
}

/// A connection's whole story.
async fn drive(shared: Rc<Shared>, mut read: ReadHalf, mut write: WriteHalf) {
    let ended = CatchPanic::new(run(shared.clone(), &mut read, &mut write)).await;
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => tracing::debug!(?cause, "HTTP/2 connection to a server broke"),
        Err(rt::Panicked) => metrics::count(Counter::ConnectionPanics),
    }
    shared.ends();
    shared.connection.borrow_mut().lose();
    // Whoever waits for room looks for another connection.
    let place = shared.place.borrow_mut().take();
    drop(place);
    shared.driver.borrow_mut().take();
}

async fn run(shared: Rc<Shared>, read: &mut ReadHalf, write: &mut WriteHalf) -> Result<(), Cause> {
    {
        let mut reader = pin!(receive(&shared, read));
        let mut writer = pin!(send(&shared, write));
        poll_fn(|context| {
            set_driver(&shared, context);
            loop {
                if let Poll::Ready(ended) = reader.as_mut().poll(context) {
                    return Poll::Ready(ended);
                }
                if let Poll::Ready(ended) = writer.as_mut().poll(context) {
                    return Poll::Ready(ended);
                }
                let is_held = shared.is_reader_held.get();
                if !is_held || shared.connection.borrow().holds_reader() {
                    return Poll::Pending;
                }
            }
        })
        .await?;
    }
    // A goodbye that does not arrive is none that is missed.
    write.finish().await
}

fn set_driver(shared: &Shared, context: &Context<'_>) {
    let mut driver = shared.driver.borrow_mut();
    match &mut *driver {
        Some(driver) => driver.clone_from(context.waker()),
        None => *driver = Some(context.waker().clone()),
    }
}

/// Receives until the server ends its direction.
async fn receive(shared: &Shared, read: &mut ReadHalf) -> Result<(), Cause> {
    let mut input = BytesMut::new();
    loop {
        poll_fn(|_| {
            let is_held = shared.connection.borrow().holds_reader();
            shared.is_reader_held.set(is_held);
            match is_held {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
        if input.is_empty() {
            // An idle connection holds no buffer.
            input = BytesMut::new();
        }
        match read.receive(&mut input).await? {
            Received::Data(_) => {
                let now_ms = shared.now_ms();
                let handled = shared
                    .connection
                    .borrow_mut()
                    .handle_input(&mut input, now_ms);
                if let Err(error) = handled {
                    shared.fail(&error);
                }
            }
            Received::Expired(_) => shared.expired(),
            // What it has not answered it will not.
            Received::Closed(_) => return Ok(()),
        }
    }
}

/// Sends what there is to be sent until the connection is finished, and arms the deadline: whoever
/// asks may have made it an earlier one.
async fn send(shared: &Shared, write: &mut WriteHalf) -> Result<(), Cause> {
    let mut gather = Gather::default();
    loop {
        let is_finished = poll_fn(|_| {
            let mut connection = shared.connection.borrow_mut();
            let now_ms = shared.now_ms();
            if connection.poll_send(&mut gather, b"", now_ms) {
                return Poll::Ready(false);
            }
            if connection.is_finished() {
                return Poll::Ready(true);
            }
            arm(shared, connection.wait(), now_ms, write);
            Poll::Pending
        });
        if is_finished.await {
            return Ok(());
        }
        write.send_gather(&mut gather).await?;
        gather.clear();
        if write.is_nearly_exhausted() {
            shared.connection.borrow_mut().retire();
        }
    }
}

fn arm(shared: &Shared, wait: Wait, now_ms: u64, write: &WriteHalf) {
    if shared.armed.replace(Some(wait)) == Some(wait) {
        return;
    }
    let (Wait::First { until_ms } | Wait::Idle { until_ms } | Wait::Busy { until_ms }) = wait;
    let after = Duration::from_millis(until_ms.saturating_sub(now_ms));
    // Not one of the phases that a drain of the worker ends: requests may be under way.
    write.deadline().arm(Phase::Header, after);
}

#[cfg(test)]
#[path = "http2_tests.rs"]
mod tests;
