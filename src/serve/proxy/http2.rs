//! One request over a stream of an HTTP/2 connection to a server, and its answer, both ways at once.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::exchange::blamed;
use super::interim::Asked;
use super::request::Outgoing;
use super::upgraded_stream::Tunnel;
use super::{NoAnswer, Nothing, Proxy};
use crate::error::{Cause, Error, Side};
use crate::limits::{UPSTREAM_ROOM_LOST_MAX, UPSTREAM_TRIES_MAX};
use crate::message::{
    Body, BodyStream, Fields, LocalFuture, Method, Request, RequestBody, Response, Span, Status,
    Version,
};
use crate::metrics::{self, Counter};
use crate::proto::h1::request_head::Framing;
use crate::proto::h2::connection::Room;
use crate::proto::h2::connection::client::{Ask, AskBody, Lost};
use crate::proto::h2::response::ResponseHead;
use crate::proto::hop_by_hop::{ConnectionOptions, may_be_trailer};
use crate::upstream::{Http2Connection, Http2Sink, Http2Stream, NoConnection, Pool};

impl Proxy {
    /// Sends the request over a connection that it shares with others, and takes the answer's head. Sends
    /// it again where the server says that it has not begun it, or where the connection had died; but
    /// not when something of its body is gone.
    pub(super) async fn exchange_http2(
        &self,
        pool: &Pool,
        key: Option<&[u8]>,
        asked: Asked<'_>,
        outgoing: &Outgoing,
        mut body: RequestBody,
    ) -> Result<Response, NoAnswer> {
        let request = asked.request;
        let Some(fields) = request_fields(&outgoing.head, pool.is_secure()) else {
            let error = Cause::Internal("a request head that cannot be read");
            return Err(NoAnswer::Failed(blamed(error)));
        };
        let is_head = request.method == Method::Head;
        let tunnel = Tunnel::of(&fields);
        // RFC 8441 4: a client of HTTP/2 asks for the tunnel and for nothing else. RFC 9110 7.8: to one of
        // HTTP/1.1 the request is what it is without its Upgrade.
        if tunnel.is_none() && !outgoing.upgrade.is_empty() && request.version == Version::Http2 {
            return Err(not_spoken());
        }
        let fields = tunnel.as_ref().map_or(fields, Tunnel::request);
        let mut tries = 0;
        loop {
            let connection = self.multiplexed(pool, key, tunnel.is_some()).await?;
            tries += 1;
            let ask = Ask {
                fields: fields.clone(),
                body: ask_body(&body, outgoing.framing, tunnel.is_some()),
                is_head,
                is_tunnel: tunnel.is_some(),
            };
            let Some(mut exchange) = Exchange::begin(&connection, ask, std::mem::take(&mut body))
            else {
                let error = Cause::Internal("a connection that has lost its room");
                return Err(NoAnswer::Failed(blamed(error)));
            };
            let failed = match exchange.head(asked).await {
                Ok(head) => {
                    exchange.stream.report_success();
                    if let Some(tunnel) = tunnel.as_ref().filter(|_| head.status.0 < 300) {
                        return Ok(tunnel.answer(pool, exchange.stream, head));
                    }
                    return answer(pool, exchange, head, is_head);
                }
                Err(failed) => failed,
            };
            let may_repeat = failed.may_repeat(tries, &exchange.stream, request);
            if failed.is_servers(exchange.is_uploading()) && !may_repeat {
                exchange.stream.report_failure();
            }
            let error = failed.into_error();
            match exchange.into_body().filter(|_| may_repeat) {
                Some(untouched) => {
                    metrics::count(Counter::UpstreamRetries);
                    tracing::debug!(upstream = pool.name(), %error, "sent again");
                    body = untouched;
                }
                None => return Err(NoAnswer::Failed(error)),
            }
        }
    }
}

impl Proxy {
    /// A connection that has room for a request, to be used before anything else is waited for; one for
    /// a tunnel to a server that takes it.
    async fn multiplexed(
        &self,
        pool: &Pool,
        key: Option<&[u8]>,
        is_tunnel: bool,
    ) -> Result<Http2Connection, NoAnswer> {
        let (mut ended, mut filled) = (0, 0);
        loop {
            let connection = pool
                .multiplexed(key, &self.connector, &self.context)
                .await
                .map_err(NoAnswer::NoConnection)?;
            if !is_tunnel {
                return Ok(connection);
            }
            // A new connection's server is waited for, and so do others that want the same room.
            match poll_fn(|context| connection.poll_extended_connect(context)).await {
                Some(true) if connection.has_room() => return Ok(connection),
                Some(true) => filled += 1,
                Some(false) => return Err(not_spoken()),
                None => {
                    connection.report_failure();
                    ended += 1;
                }
            }
            if ended == UPSTREAM_TRIES_MAX {
                let error = Failed::Server(Lost::Closed).into_error();
                return Err(NoAnswer::Failed(error));
            }
            if filled == UPSTREAM_ROOM_LOST_MAX {
                metrics::count(Counter::UpstreamQueueFull);
                return Err(NoAnswer::NoConnection(NoConnection::QueueFull));
            }
        }
    }
}

fn ask_body(body: &RequestBody, framing: Framing, is_tunnel: bool) -> AskBody {
    match (body, framing) {
        _ if is_tunnel => AskBody::Delimited,
        (RequestBody::Empty, _) | (_, Framing::None) => AskBody::None,
        (_, Framing::Length(length)) => AskBody::Length(length),
        (_, Framing::Chunked) => AskBody::Delimited,
    }
}

/// RFC 9110 15.6.2
fn not_spoken() -> NoAnswer {
    NoAnswer::NotSpoken
}

/// A request under way.
struct Exchange {
    stream: Http2Stream,
    upload: Option<Upload>,
}

/// Why there is no answer, or not all of it.
pub(super) enum Failed {
    Server(Lost),
    /// The client's part failed.
    Client(Error),
}

impl Failed {
    /// Whether the request, which was sent `tries` times, may be sent again.
    fn may_repeat(&self, tries: usize, stream: &Http2Stream, request: &Request) -> bool {
        match self {
            Self::Server(Lost::Refused) => tries < UPSTREAM_TRIES_MAX,
            // RFC 9110 9.2.2, where the server may have seen the request or not.
            Self::Server(Lost::Closed) => {
                tries == 1 && stream.is_reused() && request.method.is_idempotent()
            }
            Self::Server(_) | Self::Client(_) => false,
        }
    }

    /// Whether it shows something of the server: not that it would not wait for the rest of an upload.
    fn is_servers(&self, is_uploading: bool) -> bool {
        match self {
            Self::Server(Lost::Closed) => !is_uploading,
            Self::Server(Lost::Timeout(_) | Lost::Protocol(_)) => true,
            Self::Server(Lost::Refused | Lost::Reset(_)) | Self::Client(_) => false,
        }
    }

    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Client(error) => error,
            Self::Server(lost) => blamed(match lost {
                Lost::Refused => Cause::Protocol("the server refused the stream"),
                Lost::Reset(_) => Cause::Protocol("the server reset the stream"),
                Lost::Protocol(reason) => Cause::Protocol(reason),
                Lost::Timeout(key) => Cause::Timeout(key),
                Lost::Closed => Cause::Truncated,
            }),
        }
    }
}

impl Exchange {
    fn begin(connection: &Http2Connection, ask: Ask, body: RequestBody) -> Option<Self> {
        let sends_body = ask.body != AskBody::None;
        let stream = connection.ask(ask)?;
        metrics::count(Counter::UpstreamRequests);
        if stream.is_reused() {
            metrics::count(Counter::UpstreamConnectionsReused);
        }
        let upload = match body {
            RequestBody::Stream(body) if sends_body => Some(Upload::new(stream.sink(), body)),
            RequestBody::Stream(_) | RequestBody::Empty => None,
        };
        Some(Self { stream, upload })
    }

    /// Waits for the answer's head, and sends the request's body meanwhile. Interim ones before it are
    /// passed on.
    async fn head(&mut self, asked: Asked<'_>) -> Result<ResponseHead, Failed> {
        poll_fn(|context| {
            if let Err(error) = self.poll_upload(context) {
                return Poll::Ready(Err(Failed::Client(error)));
            }
            let polled = self.stream.poll_response(context);
            asked.inform(self.stream.take_interims());
            polled.map_err(Failed::Server)
        })
        .await
    }

    fn is_uploading(&self) -> bool {
        self.upload.as_ref().is_some_and(|upload| !upload.has_ended)
    }

    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some(upload) = &mut self.upload else {
            return Ok(());
        };
        if upload.has_ended {
            return Ok(());
        }
        match upload.running.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(ended) => {
                // It is kept: what is left of the body may be asked for again.
                upload.has_ended = true;
                ended
            }
        }
    }

    /// The request's body, if nothing of it is gone.
    fn into_body(self) -> Option<RequestBody> {
        match self.upload {
            None => Some(RequestBody::Empty),
            Some(upload) => upload.into_body().map(RequestBody::Stream),
        }
    }
}

/// A request's body on its way.
struct Upload {
    running: Pin<Box<dyn Future<Output = Result<(), Error>>>>,
    has_ended: bool,
    /// Something of it was taken off the client, or its end.
    has_taken: Rc<Cell<bool>>,
    /// Where the body goes back to when it is not sent.
    slot: Slot,
}

type Slot = Rc<Cell<Option<Box<dyn BodyStream>>>>;

impl Upload {
    fn new(sink: Http2Sink, body: Box<dyn BodyStream>) -> Self {
        let has_taken = Rc::new(Cell::new(false));
        let slot = Slot::default();
        let lent = Lent {
            body: Some(body),
            slot: slot.clone(),
        };
        Self {
            running: Box::pin(upload(sink, lent, has_taken.clone())),
            has_ended: false,
            has_taken,
            slot,
        }
    }

    fn into_body(self) -> Option<Box<dyn BodyStream>> {
        let Self {
            running,
            has_taken,
            slot,
            ..
        } = self;
        drop(running);
        slot.take().filter(|_| !has_taken.get())
    }
}

/// A body that goes back to its slot.
struct Lent {
    body: Option<Box<dyn BodyStream>>,
    slot: Slot,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.slot.set(self.body.take());
    }
}

/// Sends a request's body, as the client brings it and the server takes it.
async fn upload(sink: Http2Sink, mut lent: Lent, has_taken: Rc<Cell<bool>>) -> Result<(), Error> {
    let Some(body) = &mut lent.body else {
        return Ok(());
    };
    while poll_fn(|context| sink.poll_room(context)).await == Room::More {
        let next = body.next().await;
        has_taken.set(true);
        match next? {
            Some(data) => sink.push(data),
            None => {
                let mut trailers = body.take_trailers();
                trailers.retain(|name, _| may_be_trailer(name));
                sink.end(trailers);
                break;
            }
        }
    }
    Ok(())
}

/// The response that passes `head` and its body on.
fn answer(
    pool: &Pool,
    exchange: Exchange,
    mut head: ResponseHead,
    is_head: bool,
) -> Result<Response, NoAnswer> {
    // None are named by a message of HTTP/2; those that end here by themselves still do.
    let Ok(options) = ConnectionOptions::of(&head.fields) else {
        let error = Cause::Protocol("too many connection options");
        return Err(NoAnswer::Failed(blamed(error)));
    };
    head.fields.retain(|name, _| !options.is_hop_by_hop(name));
    let mut response = Response::new(head.status);
    response.relayed = head.fields;
    response.body = match head.status {
        Status(204 | 205) => Body::Empty,
        // RFC 9110 8.6: the length that the body would have.
        Status(304) => Body::Stream(Box::new(Nothing), head.content_length),
        _ if is_head => Body::Stream(Box::new(Nothing), head.content_length),
        _ if !head.has_body => Body::Empty,
        _ => {
            let download = Download {
                exchange: Some(exchange),
                pool: pool.clone(),
                trailers: Fields::default(),
                failed: None,
            };
            Body::Stream(Box::new(download), head.content_length)
        }
    };
    Ok(response)
}

/// An answer's body, as the server sends it.
struct Download {
    /// Until the end.
    exchange: Option<Exchange>,
    pool: Pool,
    trailers: Fields,
    /// What went wrong beside, until it is told.
    failed: Option<Failed>,
}

impl Download {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        if let Some(failed) = self.failed.take() {
            return Poll::Ready(Err(self.cut(failed)));
        }
        let Some(exchange) = &mut self.exchange else {
            return Poll::Ready(Ok(None));
        };
        let next = match exchange.poll_upload(context) {
            Err(error) => Err(Failed::Client(error)),
            Ok(()) => match exchange.stream.poll_body(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(next) => next.map_err(Failed::Server),
            },
        };
        Poll::Ready(match next {
            Ok(Some(data)) => Ok(Some(data)),
            Ok(None) => {
                self.trailers = exchange.stream.take_trailers();
                self.trailers.retain(|name, _| may_be_trailer(name));
                self.exchange = None;
                Ok(None)
            }
            Err(failed) => {
                self.exchange = None;
                Err(self.cut(failed))
            }
        })
    }

    fn cut(&self, failed: Failed) -> Error {
        let error = failed.into_error();
        if error.side == Side::Upstream {
            metrics::count(Counter::UpstreamResponsesCut);
        }
        if let Cause::Timeout(_) = error.cause {
            metrics::count(Counter::UpstreamTimeouts);
        }
        tracing::debug!(upstream = self.pool.name(), %error, "answer cut short");
        error
    }
}

impl BodyStream for Download {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(poll_fn(|context| self.poll_next(context)))
    }

    /// The request goes on while nothing more of the answer is taken.
    fn poll_beside(&mut self, context: &mut Context<'_>) {
        if let Some(exchange) = &mut self.exchange
            && let Err(error) = exchange.poll_upload(context)
        {
            self.failed = Some(Failed::Client(error));
            self.exchange = None;
        }
    }

    fn take_trailers(&mut self) -> Fields {
        std::mem::take(&mut self.trailers)
    }
}

/// The fields of a request whose head is there as HTTP/1.1 has it, which [`super::request`] has written:
/// `:authority` is its Host (RFC 9113 8.3.1). What only HTTP/1.1 has is left out when they are sent.
fn request_fields(head: &[u8], is_secure: bool) -> Option<Fields> {
    let text_bytes = head.len().checked_sub(END.len())?;
    let mut lines = Lines {
        head: head.get(..text_bytes)?,
        start: 0,
    };
    let line = lines.next()?;
    let first_space = memchr::memchr(b' ', head)?;
    let last_space = memchr::memrchr(b' ', head.get(..line.end)?)?;
    let mut block = Vec::with_capacity(head.len() + PSEUDO.len());
    block.extend_from_slice(PSEUDO);
    block.extend_from_slice(head);
    let at = |from: usize, to: usize| -> Option<Span> {
        let shifted = |offset: usize| u32::try_from(offset + PSEUDO.len()).ok();
        Some(shifted(from)?..shifted(to)?)
    };
    let mut authority = None;
    let mut others = Vec::new();
    for line in lines {
        let text = head.get(line.clone())?;
        let colon = memchr::memchr(b':', text)?;
        // Written as "name: value".
        let name = at(line.start, line.start + colon)?;
        let value = at((line.start + colon + 2).min(line.end), line.end)?;
        match text.get(..colon)? {
            b"host" => authority = Some(value),
            _ => others.push((name, value)),
        }
    }
    let mut entries = vec![
        (0..7, at(0, first_space)?),
        (7..14, if is_secure { 14..19 } else { 14..18 }),
        (19..29, authority?),
        (29..34, at(first_space + 1, last_space)?),
    ];
    entries.append(&mut others);
    Some(Fields::new(block.into(), entries))
}

/// The lines of a head, up to its last.
struct Lines<'a> {
    head: &'a [u8],
    start: usize,
}

impl Iterator for Lines<'_> {
    type Item = std::ops::Range<usize>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self
            .head
            .get(self.start..)
            .filter(|rest| !rest.is_empty())?;
        let length = memchr::memmem::find(rest, b"\r\n").unwrap_or(rest.len());
        let line = self.start..self.start + length;
        self.start = line.end + 2;
        Some(line)
    }
}

/// What ends a head of HTTP/1.1.
const END: &[u8] = b"\r\n\r\n";

/// The names of the pseudo-header fields, and both schemes.
const PSEUDO: &[u8] = b":method:schemehttps:authority:path";

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(head: &str) -> Option<Vec<(String, String)>> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let fields = request_fields(head.as_bytes(), false)?;
        let all = fields.iter().map(|(name, value)| (text(name), text(value)));
        Some(all.collect())
    }

    #[test]
    fn a_head_becomes_fields() {
        let head =
            "PUT /a?b HTTP/1.1\r\nX-First: 1\r\nhost: a.test:80\r\nempty: \r\nx: y: z\r\n\r\n";
        let expected = [
            (":method", "PUT"),
            (":scheme", "http"),
            (":authority", "a.test:80"),
            (":path", "/a?b"),
            ("X-First", "1"),
            ("empty", ""),
            ("x", "y: z"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields(head).unwrap(), expected);
        let secure = request_fields(head.as_bytes(), true).unwrap();
        assert_eq!(secure.first(":scheme"), Some(&b"https"[..]));
        for broken in [
            "",
            "\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "x\r\nhost: a\r\n\r\n",
        ] {
            assert_eq!(fields(broken), None, "{broken:?}");
        }
    }
}
