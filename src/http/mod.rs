//! The connection drivers: requests in, responses out, over an established stream.
//!
//! A driver owns a connection from its first byte of HTTP to its lingering close. It frames, bounds
//! and times what the peer sends, asks a [`Handler`] for each response, and knows nothing of what
//! is served; the handler knows nothing of HTTP versions.

mod date;
pub mod h1;
pub mod h2;
mod plain;
pub mod transport;

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use bytes::BytesMut;

pub use self::plain::serve_plain;

use self::date::DateCache;
use self::transport::{Receive, Transmit};

use crate::config::{Http2, Limits, Timeouts};
use crate::limits::LINGER_BYTES_MAX;
use crate::message::gather::Gather;
use crate::message::{Now, Request, RequestBody, Response, Status};
use crate::metrics::{self, Counter};
use crate::net::deadline::Phase;
use crate::net::stream::Received;

/// Makes responses. One handler serves one connection: what it needs to know of the session, it
/// holds.
pub trait Handler {
    /// The response to `request`, whose head was complete at `now`. The handler reads as much of
    /// `body` as it wants; what it leaves is the driver's business. It may hand `body` on to the
    /// response's own body, and so answer while the request is still coming.
    fn respond(
        &self,
        request: &Request,
        body: RequestBody,
        now: Now,
    ) -> impl Future<Output = Response>;

    /// The response to `request` where it is known, so that nothing has to be waited for or read:
    /// `None` leaves the request to [`Handler::respond`].
    fn respond_known(&self, _request: &Request, _now: Now) -> Option<Response> {
        None
    }

    /// A request is answered. Called once for each response, refusals by the driver included.
    fn finished(&self, _exchange: &Exchange<'_>) {}
}

/// A request and its response, when both are over.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// The request; `None` when its head could not be read.
    pub request: Option<&'a Request>,
    /// The status that was sent.
    pub status: Status,
    /// Bytes of the response's body that were handed over for sending, its framing included.
    pub body_bytes: u64,
    /// From the end of the request's head until now.
    pub duration: Duration,
    /// Whether the response was sent to its end.
    pub is_complete: bool,
    /// Whether the kernel seals what is sent.
    pub is_sent_by_kernel: bool,
}

/// To be called by each driver when a response is over, whether or not all of it could be sent.
/// A response of which the client got not even the status is none.
fn finish<H: Handler>(handler: &H, exchange: &Exchange<'_>) {
    count_response(exchange.status);
    metrics::count_duration(exchange.duration);
    handler.finished(exchange);
}

/// What all connections of one worker share.
pub struct Context {
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Bounds.
    pub limits: Limits,
    /// Bounds of HTTP/2 connections.
    pub http2: Http2,
    date: DateCache,
    draining: Cell<bool>,
    /// A buffer for heads that the last response left behind.
    head_buffer: Cell<Vec<u8>>,
    /// What the last send of frames left behind.
    gather: Cell<Gather>,
}

impl Context {
    /// A context with these deadlines and bounds, and those of HTTP/2 as they are by default.
    pub fn new(timeouts: Timeouts, limits: Limits) -> Self {
        Self {
            timeouts,
            limits,
            http2: Http2::default(),
            gather: Cell::default(),
            date: DateCache::default(),
            draining: Cell::new(false),
            head_buffer: Cell::new(Vec::new()),
        }
    }

    /// The same with these bounds of HTTP/2 connections.
    #[must_use]
    pub fn with_http2(self, http2: Http2) -> Self {
        Self { http2, ..self }
    }

    /// From now on each connection ends with its next response. Connections that wait for a request
    /// are ended by [`crate::net::deadline::Deadlines::drain_idle`].
    pub fn drain(&self) {
        self.draining.set(true);
    }

    /// Whether connections are to end.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// An empty buffer for a head. It goes back with [`Context::return_head_buffer`], so that one
    /// response after the other needs no allocation and no idle connection holds one.
    fn take_head_buffer(&self) -> Vec<u8> {
        self.head_buffer.take()
    }

    /// An empty gather, to go back with [`Context::return_gather`].
    fn take_gather(&self) -> Gather {
        self.gather.take()
    }

    fn return_gather(&self, mut gather: Gather) {
        gather.clear();
        self.gather.set(gather);
    }

    fn return_head_buffer(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= HEAD_BUFFER_KEPT_BYTES_MAX {
            buffer.clear();
            self.head_buffer.set(buffer);
        }
    }
}

/// How a connection ended when nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client ended it between requests.
    PeerClosed,
    /// No request came in time.
    IdleTimeout,
    /// The worker drains, and no request was under way.
    Drained,
    /// It ended with a response, as the client or a bound wanted.
    Closed,
    /// A request was refused with this status, and the connection with it.
    Refused(Status),
}

/// The lingering close (RFC 9112 9.6): says that nothing more comes, then reads what the client
/// still sends until it ends too. Closing with bytes unread would reset the connection, and the
/// reset could destroy the response before the client reads it.
///
/// Errors end it: the response is delivered, and nothing else was promised.
pub async fn close<R: Receive, W: Transmit>(read: &mut R, write: &mut W, context: &Context) {
    if write.finish().await.is_err() {
        return;
    }
    read.arm(Phase::Linger, context.timeouts.linger);
    let mut scratch = BytesMut::new();
    let mut discarded = 0;
    while discarded < LINGER_BYTES_MAX {
        scratch.clear();
        match read.receive(&mut scratch).await {
            Ok(Received::Data(bytes)) => discarded += bytes,
            Ok(Received::Closed(_) | Received::Expired(_)) | Err(_) => break,
        }
    }
    read.disarm();
}

fn count_response(status: Status) {
    metrics::count(match status.0 {
        ..=299 => Counter::Responses2xx,
        300..=399 => Counter::Responses3xx,
        400..=499 => Counter::Responses4xx,
        500.. => Counter::Responses5xx,
    });
}

/// A head buffer that grew larger than this is not kept.
const HEAD_BUFFER_KEPT_BYTES_MAX: usize = 16 * 1024;
