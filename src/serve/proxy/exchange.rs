//! One request over one connection to a server, and its answer, both ways at once.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::interim::Asked;
use super::request::Outgoing;
use crate::error::{Cause, Error, Side, Stage};
use crate::limits::UPSTREAM_CONTINUE_WAIT_MS;
use crate::message::{BodyStream, Fields, LocalFuture, RequestBody, Source, Status};
use crate::metrics::{self, Counter};
use crate::net::deadline::Phase;
use crate::net::stream::{Closure, ReadHalf, Received, WriteHalf};
use crate::proto::h1::body::{BodyDecoder, Decoded};
use crate::proto::h1::encode::{CHUNK_END, push_chunk_line, push_last_chunk};
use crate::proto::h1::request_head::Framing;
use crate::proto::h1::response_head::{self, ResponseHead, ResponseParser};
use crate::proto::hop_by_hop::may_be_trailer;
use crate::upstream::{Connection, Place, Pool};

/// A request under way.
pub(super) struct Exchange {
    read: ReadHalf,
    /// Away while the request's body is sent, and after that failed.
    write: Option<WriteHalf>,
    input: BytesMut,
    place: Place,
    upload: Option<Upload>,
    /// Where the upload looks whether it may ask the client for the body: not while the server is asked
    /// whether it wants it. `None` without an upload.
    may_upload: Option<Rc<Cell<bool>>>,
    /// Something of the answer has come.
    has_answer: bool,
}

/// How an exchange came to nothing.
pub(super) struct Failed {
    pub(super) error: Error,
    /// The connection had been idle and died before a byte of an answer: the server may have closed
    /// it before it saw the request.
    pub(super) was_stale: bool,
}

/// What became of sending a request's body.
enum UploadEnd {
    /// All of it is sent.
    Sent(WriteHalf),
    /// The server takes no more of it. It may have answered all the same.
    NotTaken(WriteHalf),
    /// The client's part failed.
    Client(Error),
}

impl Exchange {
    /// Sends the head of `outgoing`, and begins to send `body`.
    pub(super) async fn begin(
        connection: Connection,
        outgoing: &Outgoing,
        body: RequestBody,
    ) -> Result<Self, Failed> {
        metrics::count(Counter::UpstreamRequests);
        let Connection {
            read,
            mut write,
            input,
            place,
        } = connection;
        let mut this = Self {
            read,
            write: None,
            input,
            place,
            upload: None,
            may_upload: None,
            has_answer: false,
        };
        match body {
            RequestBody::Empty => match write.send(&[IoSlice::new(&outgoing.head)]).await {
                Ok(()) => this.write = Some(write),
                // It may have answered before it closed: a refusal for its own reasons.
                Err(cause) if is_gone(&cause) => {}
                Err(cause) => {
                    let failed = this.failed(cause);
                    this.report(&failed);
                    return Err(failed);
                }
            },
            RequestBody::Stream(body) => {
                let may_upload = Rc::new(Cell::new(!outgoing.expects_continue));
                this.may_upload = Some(may_upload.clone());
                let (head, framing) = (outgoing.head.clone(), outgoing.framing);
                let upload = upload_body(write, head, body, framing, may_upload);
                this.upload = Some(Box::pin(upload));
            }
        }
        Ok(this)
    }

    /// Waits for the answer's head, for `first_byte` from the end of the request on. Interim ones before
    /// it are passed on.
    pub(super) async fn head(
        &mut self,
        asked: Asked<'_>,
        first_byte: Duration,
    ) -> Result<ResponseHead, Failed> {
        let mut parser = ResponseParser::default();
        loop {
            let parsed = parser.parse(&mut self.input, &asked.request.method);
            asked.inform(parser.take_interims());
            match parsed {
                Ok(Some(head)) => {
                    self.decide_upload(head.status, first_byte).await?;
                    return Ok(head);
                }
                Ok(None) if parser.has_continue() => self.permit_upload(),
                Ok(None) => {}
                Err(malformed) => return Err(self.failed(Cause::Protocol(malformed.0))),
            }
            match self.receive(first_byte).await {
                Ok(Received::Data(_)) => self.has_answer = true,
                Ok(Received::Closed(_)) => return Err(self.failed(Cause::Truncated)),
                // It does not know the expectation, or does not care.
                Ok(Received::Expired(_)) if self.is_held() => self.permit_upload(),
                Ok(Received::Expired(_)) => return Err(self.failed(Cause::Timeout(FIRST_BYTE_KEY))),
                Err(error) => return Err(self.failed_with(error)),
            }
        }
    }

    /// Whether the server is still to say that it wants the body.
    fn is_held(&self) -> bool {
        let may = self.may_upload.as_ref().filter(|_| self.upload.is_some());
        may.is_some_and(|may| !may.get())
    }

    fn permit_upload(&self) {
        if let Some(may) = &self.may_upload {
            may.set(true);
        }
    }

    /// What becomes of a body that the server was asked about, when `status` is its answer to that (RFC
    /// 9110 10.1.1). It is not sent for nothing; then the connection is not used again: the server may
    /// wait for it. One that answers as if it had the body is sent it.
    async fn decide_upload(&mut self, status: Status, limit: Duration) -> Result<(), Failed> {
        if !self.is_held() {
            return Ok(());
        }
        if status.0 >= 300 {
            self.upload = None;
            return Ok(());
        }
        self.permit_upload();
        // So that the client is asked for it before it has its answer.
        let Self { write, upload, .. } = self;
        let polled = poll_fn(|context| Poll::Ready(poll_upload(upload, write, limit, context)));
        polled.await.map_err(|error| self.failed_with(error))
    }

    /// The answer's body if all of it is there.
    pub(super) fn take_all(&mut self, length: u64) -> Option<Bytes> {
        let length = usize::try_from(length).ok()?;
        (self.input.len() >= length).then(|| self.input.split_to(length).freeze())
    }

    /// The answer is complete: keeps the connection in `pool` if it may be used again.
    pub(super) fn end(self, pool: &Pool, keep_alive: bool) {
        // A request that is not all sent would be continued by the next.
        if let (Some(write), None, true) = (self.write, self.upload, keep_alive) {
            pool.keep(Connection {
                read: self.read,
                write,
                input: self.input,
                place: self.place,
            });
        }
    }

    /// The connection's parts, after 101. `None` when its sending side has failed.
    pub(super) fn into_parts(self) -> Option<(ReadHalf, WriteHalf, BytesMut, Place)> {
        Some((self.read, self.write?, self.input, self.place))
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Receives, and sends of the request's body what can be sent meanwhile. The time of `limit` passes
    /// when the request has been sent.
    async fn receive(&mut self, limit: Duration) -> Result<Received, Error> {
        let is_held = self.is_held();
        let Self {
            read,
            write,
            input,
            upload,
            ..
        } = self;
        if is_held {
            read.deadline().arm(Phase::Header, CONTINUE_WAIT);
        } else if upload.is_none() {
            read.deadline().arm(Phase::Header, limit);
        }
        let received = {
            let mut receiving = pin!(read.receive(input));
            poll_fn(|context| {
                if let Err(error) = poll_upload(upload, write, limit, context) {
                    return Poll::Ready(Err(error));
                }
                receiving
                    .as_mut()
                    .poll(context)
                    .map(|received| received.map_err(blamed))
            })
            .await
        };
        read.deadline().disarm();
        received
    }

    /// Sends of the request's body what can be sent, while nobody asks for more of the answer.
    fn poll_beside(&mut self, limit: Duration, context: &mut Context<'_>) {
        // The client's failure is met by whoever asks for the next bytes, if the driver has not ended
        // the exchange for it before.
        if let Err(error) = poll_upload(&mut self.upload, &mut self.write, limit, context) {
            self.upload = Some(Box::pin(std::future::ready(UploadEnd::Client(error))));
        }
    }

    /// Tells the group of a failure that shows something of the server: not that an idle connection had
    /// died, nor that it would not wait for the rest of a client's upload.
    pub(super) fn report(&self, failed: &Failed) {
        let is_protocol = matches!(failed.error.cause, Cause::Protocol(_));
        let is_servers = failed.error.side == Side::Upstream && !failed.was_stale;
        if is_servers && (is_protocol || self.upload.is_none() || self.is_held()) {
            self.place.report_failure();
        }
    }

    fn failed(&self, cause: Cause) -> Failed {
        self.failed_with(blamed(cause))
    }

    fn failed_with(&self, error: Error) -> Failed {
        let died = matches!(error.cause, Cause::Truncated) || is_gone(&error.cause);
        Failed {
            was_stale: self.place.is_reused() && !self.has_answer && died,
            error,
        }
    }
}

/// Goes on with the request's body, whose end begins the time for the answer.
fn poll_upload(
    upload: &mut Option<Upload>,
    write: &mut Option<WriteHalf>,
    limit: Duration,
    context: &mut Context<'_>,
) -> Result<(), Error> {
    let Some(running) = upload else {
        return Ok(());
    };
    let Poll::Ready(end) = running.as_mut().poll(context) else {
        return Ok(());
    };
    *upload = None;
    match end {
        UploadEnd::Sent(half) => {
            // The receiving side's deadline is the connection's.
            half.deadline().arm(Phase::Header, limit);
            *write = Some(half);
        }
        // Nothing more is sent, but the time for the answer begins.
        UploadEnd::NotTaken(half) => half.deadline().arm(Phase::Header, limit),
        UploadEnd::Client(error) => return Err(error),
    }
    Ok(())
}

type Upload = Pin<Box<dyn Future<Output = UploadEnd>>>;

/// An answer's body, as the server sends it.
pub(super) struct Download {
    /// Until the end.
    exchange: Option<Exchange>,
    pool: Pool,
    decoder: Decoder,
    between_bytes: Duration,
    keep_alive: bool,
    trailers: Fields,
}

enum Decoder {
    Framed(BodyDecoder),
    /// Up to the connection's end.
    Close,
}

impl Download {
    /// The body after `head`.
    pub(super) fn new(exchange: Exchange, pool: Pool, head: &ResponseHead) -> Self {
        let decoder = match head.framing {
            response_head::Framing::None => Decoder::Framed(BodyDecoder::known(0)),
            response_head::Framing::Length(length) => Decoder::Framed(BodyDecoder::known(length)),
            response_head::Framing::Chunked => {
                Decoder::Framed(BodyDecoder::chunked(u64::MAX).keeping_trailers())
            }
            response_head::Framing::Close => Decoder::Close,
        };
        Self {
            between_bytes: pool.http().between_bytes,
            exchange: Some(exchange),
            pool,
            decoder,
            keep_alive: head.keep_alive,
            trailers: Fields::default(),
        }
    }

    async fn next_data(&mut self) -> Result<Option<Bytes>, Error> {
        match self.try_next().await {
            Err(error) => Err(self.cut(error)),
            next => next,
        }
    }

    /// The answer has no end; what the client has of it is cut short there.
    fn cut(&mut self, error: Error) -> Error {
        metrics::count(Counter::UpstreamResponsesCut);
        let upstream = self.pool.name();
        tracing::debug!(upstream, %error, "answer cut short");
        self.exchange = None;
        error
    }

    async fn try_next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(exchange) = &mut self.exchange else {
            return Ok(None);
        };
        loop {
            match &mut self.decoder {
                Decoder::Framed(decoder) => match decoder.decode(&mut exchange.input) {
                    Ok(Decoded::Data(data)) => return Ok(Some(data)),
                    Ok(Decoded::End) => {
                        self.trailers = decoder.take_trailers();
                        self.trailers.retain(|name, _| may_be_trailer(name));
                        if let Some(exchange) = self.exchange.take() {
                            exchange.end(&self.pool, self.keep_alive);
                        }
                        return Ok(None);
                    }
                    Ok(Decoded::NeedMore) => {}
                    Err(refusal) => return Err(blamed(Cause::Protocol(refusal.reason))),
                },
                Decoder::Close => {
                    if !exchange.input.is_empty() {
                        // What a split leaves would keep the whole buffer while the server is silent.
                        return Ok(Some(std::mem::take(&mut exchange.input).freeze()));
                    }
                }
            }
            let received = exchange.receive(self.between_bytes).await?;
            match (received, &self.decoder) {
                (Received::Data(_), _) => {}
                // RFC 9112 6.3: under TLS only close_notify makes it complete (RFC 9112 9.8).
                (Received::Closed(Closure::Orderly), Decoder::Close) => {
                    self.exchange = None;
                    return Ok(None);
                }
                (Received::Closed(_), _) => return Err(blamed(Cause::Truncated)),
                (Received::Expired(_), _) => {
                    metrics::count(Counter::UpstreamTimeouts);
                    return Err(blamed(Cause::Timeout(BETWEEN_BYTES_KEY)));
                }
            }
        }
    }
}

impl BodyStream for Download {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(self.next_data())
    }

    fn source(&mut self) -> Option<Source<'_>> {
        let exchange = self.exchange.as_mut()?;
        // A request still being sent needs its turns.
        if !exchange.input.is_empty() || exchange.upload.is_some() {
            return None;
        }
        let bytes = match &self.decoder {
            Decoder::Framed(decoder) => decoder.remaining_exact()?,
            Decoder::Close => u64::MAX,
        };
        Some(Source {
            connection: &mut exchange.read,
            bytes,
            idle_max: self.between_bytes,
            idle_key: BETWEEN_BYTES_KEY,
        })
    }

    fn relayed(&mut self, bytes: u64, failure: Option<Cause>) -> Result<(), Error> {
        if let Decoder::Framed(decoder) = &mut self.decoder {
            decoder.skip(bytes);
        }
        let Some(cause) = failure else {
            return Ok(());
        };
        if matches!(cause, Cause::Timeout(_)) {
            metrics::count(Counter::UpstreamTimeouts);
        }
        Err(self.cut(blamed(cause)))
    }

    /// The request goes on while nothing more of the answer is taken.
    fn poll_beside(&mut self, context: &mut Context<'_>) {
        if let Some(exchange) = &mut self.exchange {
            exchange.poll_beside(self.between_bytes, context);
        }
    }

    fn take_trailers(&mut self) -> Fields {
        std::mem::take(&mut self.trailers)
    }
}

/// Sends a request with its body, as the client brings it and the server takes it, once that `may` be. It
/// is polled by whoever sets that.
async fn upload_body(
    mut write: WriteHalf,
    mut out: Vec<u8>,
    mut body: Box<dyn BodyStream>,
    framing: Framing,
    may: Rc<Cell<bool>>,
) -> UploadEnd {
    // The server need not wait for the client's body to see the head.
    loop {
        if !out.is_empty() {
            if write.send(&[IoSlice::new(&out)]).await.is_err() {
                return UploadEnd::NotTaken(write);
            }
            out.clear();
        }
        poll_fn(|_| match may.get() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        let data = match body.next().await {
            Err(error) => return UploadEnd::Client(error),
            Ok(None) => break,
            Ok(Some(data)) => data,
        };
        let sent = match framing {
            Framing::Chunked => {
                push_chunk_line(&mut out, data.len());
                let parts = [
                    IoSlice::new(&out),
                    IoSlice::new(&data),
                    IoSlice::new(CHUNK_END),
                ];
                write.send(&parts).await
            }
            // The driver has held the client to the length.
            Framing::Length(_) | Framing::None => write.send(&[IoSlice::new(&data)]).await,
        };
        out.clear();
        if sent.is_err() {
            return UploadEnd::NotTaken(write);
        }
    }
    if framing == Framing::Chunked {
        let mut trailers = body.take_trailers();
        trailers.retain(|name, _| may_be_trailer(name));
        push_last_chunk(&mut out, &trailers);
        if write.send(&[IoSlice::new(&out)]).await.is_err() {
            return UploadEnd::NotTaken(write);
        }
    }
    // Given back now, and not only with the answer.
    drop(body);
    UploadEnd::Sent(write)
}

/// A failure on a server's connection.
pub(super) fn blamed(cause: Cause) -> Error {
    match cause {
        Cause::Limit(_)
        | Cause::FileTruncated
        | Cause::File(_)
        | Cause::NoRekey
        | Cause::KeyExhausted
        | Cause::Internal(_) => Error::us(Stage::Exchange, cause),
        Cause::Io(_)
        | Cause::Tls(_)
        | Cause::AlertReceived(_)
        | Cause::Record(_)
        | Cause::Protocol(_)
        | Cause::Truncated
        | Cause::Timeout(_) => Error::upstream(Stage::Exchange, cause),
    }
}

/// Whether the peer has ended the connection.
fn is_gone(cause: &Cause) -> bool {
    let Cause::Io(error) = cause else {
        return false;
    };
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}

const CONTINUE_WAIT: Duration = Duration::from_millis(UPSTREAM_CONTINUE_WAIT_MS);

const FIRST_BYTE_KEY: &str = "upstream.http.first_byte_ms";
const BETWEEN_BYTES_KEY: &str = "upstream.http.between_bytes_ms";
