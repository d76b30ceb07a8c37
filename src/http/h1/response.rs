//! Sending one response.

use std::future::{Future, pending, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;

use crate::error::{Cause, Error, Stage};
use crate::http::Context;
use crate::http::transport::Transmit;
use crate::limits::RECORD_PLAINTEXT_BYTES_MAX;
use crate::message::{
    Body, BodyStream, FieldBlock, Fields, Method, Part, Response, Status, Upgrade, Version,
};
use crate::net::stream::AtOnce;
use crate::proto::h1::encode::{
    CHUNK_END, Framing, Plan, ResponseHead, push_chunk_line, push_last_chunk,
};

/// How a response is delivered: what of its request decides about that.
pub(super) struct Delivery<'a> {
    /// The request's method.
    pub(super) method: &'a Method,
    /// The request's version.
    pub(super) version: Version,
    /// Whether the connection is to be kept after it.
    pub(super) keep_alive: bool,
    /// Whether trailer fields are sent.
    pub(super) takes_trailers: bool,
    /// When it is made (RFC 9110 6.6.1).
    pub(super) date: SystemTime,
}

/// What follows a response.
pub(super) enum Follows {
    /// The next request may.
    NextRequest,
    /// It was the last response.
    Nothing,
    /// The connection goes on with another protocol.
    Upgraded(Box<dyn Upgrade>),
}

/// What became of a response.
pub(super) struct Delivered {
    /// What follows it; an error when the response could not be sent completely. The connection must
    /// then be closed without close_notify, so that the client sees that its end is missing.
    pub(super) follows: Result<Follows, Error>,
    /// Its status.
    pub(super) status: Status,
    /// Bytes handed over after the head; `None` when not even the head was: then the client has seen
    /// no response.
    pub(super) body_bytes: Option<u64>,
}

/// A response that is under way: as much of it as the socket took at once is sent.
pub(super) struct Begun {
    /// The head, unless it is sent.
    head: Vec<u8>,
    body: Body,
    framing: Framing,
    takes_trailers: bool,
    follows: Follows,
    status: Status,
    /// What [`Transmit::sent_bytes`] is when the head is sent.
    head_end: u64,
    sent: Result<AtOnce, Cause>,
}

impl Delivery<'_> {
    /// Sends `response`.
    pub(super) async fn send<W: Transmit>(
        &self,
        write: &mut W,
        context: &Context,
        response: Response,
    ) -> Delivered {
        let begun = self.begin(write, context, response);
        begun.complete(write, context, pending::<Cause>).await
    }

    /// Sends what of `response` can be sent without waiting.
    pub(super) fn begin<W: Transmit>(
        &self,
        write: &mut W,
        context: &Context,
        response: Response,
    ) -> Begun {
        let length = response.body.length();
        let plan = Plan::new(self.method, self.version, response.status, length);
        let keep_alive = self.keep_alive && !plan.closes();
        let date = context.date.text(self.date);
        let mut head = context.take_head_buffer();
        let head_fields = ResponseHead {
            status: response.status,
            version: self.version,
            date: &date,
            block_lines: response.block.as_deref().map_or(b"", FieldBlock::lines),
            fields: &response.fields,
            relayed: Some(&response.relayed).filter(|fields| !fields.is_empty()),
            framing: plan.framing,
            keep_alive,
        };
        head_fields.write(&mut head);
        let mut follows = match keep_alive {
            true => Follows::NextRequest,
            false => Follows::Nothing,
        };
        let body = match (plan.sends_body, response.body) {
            (_, Body::Upgrade(upgrade)) => {
                follows = Follows::Upgraded(upgrade);
                Body::Empty
            }
            (true, body) => body,
            (false, _) => Body::Empty,
        };
        let head_end = write.sent_bytes() + head.len() as u64;
        let sent = match &body {
            Body::Empty => write.send_at_once(&[IoSlice::new(&head)]),
            Body::Bytes(bytes) => write.send_at_once(&[IoSlice::new(&head), IoSlice::new(bytes)]),
            Body::File(_) | Body::Parts(_) | Body::Stream(..) | Body::Upgrade(_) => {
                Ok(AtOnce::Nothing)
            }
        };
        if !matches!(sent, Ok(AtOnce::Nothing)) {
            context.return_head_buffer(std::mem::take(&mut head));
        }
        Begun {
            head,
            body,
            framing: plan.framing,
            takes_trailers: self.takes_trailers,
            follows,
            status: response.status,
            head_end,
            sent,
        }
    }
}

impl Begun {
    /// Whether nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        !matches!(self.sent, Ok(AtOnce::Kept | AtOnce::Nothing))
    }

    /// Whether another protocol follows.
    pub(super) fn is_upgrade(&self) -> bool {
        matches!(self.follows, Follows::Upgraded(_))
    }

    /// What became of it, when it is over.
    pub(super) fn into_delivered<W: Transmit>(self, write: &W) -> Delivered {
        let sent = self.sent.map(drop).map_err(failed);
        Delivered {
            // Also where the body failed: the client has seen the status.
            body_bytes: write.sent_bytes().checked_sub(self.head_end),
            follows: sent.map(|()| self.follows),
            status: self.status,
        }
    }

    /// Sends the rest. What `leaving` makes is polled while a body's next bytes are waited for, and ends
    /// the response with the failure of the client that it gives.
    pub(super) async fn complete<W: Transmit, L: Future<Output = Cause>>(
        mut self,
        write: &mut W,
        context: &Context,
        leaving: impl FnOnce() -> L,
    ) -> Delivered {
        let rest = match self.sent {
            Ok(AtOnce::Sent) | Err(_) => return self.into_delivered(write),
            Ok(AtOnce::Kept) => write.send(&[]).await.map_err(failed),
            Ok(AtOnce::Nothing) => self.send_all(write, leaving).await,
        };
        if rest.is_ok() {
            context.return_head_buffer(self.head);
        }
        Delivered {
            body_bytes: write.sent_bytes().checked_sub(self.head_end),
            follows: rest.map(|()| self.follows),
            status: self.status,
        }
    }

    async fn send_all<W: Transmit, L: Future<Output = Cause>>(
        &mut self,
        write: &mut W,
        leaving: impl FnOnce() -> L,
    ) -> Result<(), Error> {
        let (head, body) = (&mut self.head, std::mem::take(&mut self.body));
        match body {
            Body::Stream(stream, _) => {
                let sender = StreamSender::new(write, self.framing, self.takes_trailers);
                Box::pin(sender.send(head, stream, leaving())).await
            }
            body @ (Body::Empty
            | Body::Bytes(_)
            | Body::File(_)
            | Body::Parts(_)
            | Body::Upgrade(_)) => send_parts(write, head, body).await.map_err(failed),
        }
    }
}

/// Sends `head` and a body that is there already.
async fn send_parts<W: Transmit>(
    write: &mut W,
    head: &mut Vec<u8>,
    body: Body,
) -> Result<(), Cause> {
    match body {
        Body::Bytes(bytes) => {
            write
                .send(&[IoSlice::new(head), IoSlice::new(&bytes)])
                .await
        }
        Body::File(range) => write.send_file(head, &range).await,
        Body::Parts(parts) => Box::pin(send_sequence(write, head, parts)).await,
        Body::Empty | Body::Stream(..) | Body::Upgrade(_) => {
            write.send(&[IoSlice::new(head)]).await
        }
    }
}

/// Sends what is in `out` and all of `parts`. Bytes wait for the part of a file that they stand
/// before, so that they share a record with it.
async fn send_sequence<W: Transmit>(
    write: &mut W,
    out: &mut Vec<u8>,
    parts: Vec<Part>,
) -> Result<(), Cause> {
    for part in parts {
        match part {
            Part::Bytes(bytes) if out.len() + bytes.len() <= RECORD_PLAINTEXT_BYTES_MAX => {
                out.extend_from_slice(&bytes);
            }
            Part::Bytes(bytes) => {
                write
                    .send(&[IoSlice::new(out), IoSlice::new(&bytes)])
                    .await?;
                out.clear();
            }
            Part::File(range) => {
                write.send_file(out, &range).await?;
                out.clear();
            }
        }
    }
    match out.is_empty() {
        true => Ok(()),
        false => write.send(&[IoSlice::new(out)]).await,
    }
}

/// Sends a body as it is made.
struct StreamSender<'a, W> {
    write: &'a mut W,
    chunked: bool,
    trailers: bool,
    /// Bytes that the head still promises, where it does.
    promised: Option<u64>,
}

impl<'a, W: Transmit> StreamSender<'a, W> {
    fn new(write: &'a mut W, framing: Framing, takes_trailers: bool) -> Self {
        Self {
            write,
            chunked: framing == Framing::Chunked,
            trailers: takes_trailers,
            promised: match framing {
                Framing::Length(length) => Some(length),
                Framing::None | Framing::Chunked | Framing::Close => None,
            },
        }
    }

    /// Sends what is in `out`, together with the first bytes where they are there already, and
    /// all of `stream`, unless the client has left while it is waited for.
    async fn send(
        mut self,
        out: &mut Vec<u8>,
        mut stream: Box<dyn BodyStream>,
        leaving: impl Future<Output = Cause>,
    ) -> Result<(), Error> {
        // One for all waits: each that is begun costs operations on the socket.
        let mut leaving = pin!(leaving);
        loop {
            if !self.chunked && self.relay(out, &mut *stream, leaving.as_mut()).await? {
                continue;
            }
            let mut next = stream.next();
            let data = match poll_once(&mut next).await {
                Poll::Ready(data) => data?,
                Poll::Pending => {
                    // The client does not wait for our source with what is already known.
                    self.flush(out, b"").await?;
                    poll_fn(|context| match next.as_mut().poll(context) {
                        Poll::Ready(data) => Poll::Ready(data),
                        Poll::Pending => leaving.as_mut().poll(context).map(failed).map(Err),
                    })
                    .await?
                }
            };
            match data {
                None => break,
                Some(data) => self.send_data(out, &data).await?,
            }
        }
        if self.promised.is_some_and(|left| left > 0) {
            // What is left out must not look like a complete body.
            return Err(Error::us(
                Stage::Response,
                Cause::Protocol("a body ended before its declared length"),
            ));
        }
        if self.chunked {
            let trailers = match self.trailers {
                true => stream.take_trailers(),
                false => Fields::default(),
            };
            push_last_chunk(out, &trailers);
        }
        self.flush(out, b"").await
    }

    /// Passes on what can be without looking at it; whether that was anything. After it, what follows
    /// is received and sent.
    async fn relay(
        &mut self,
        out: &mut Vec<u8>,
        stream: &mut dyn BodyStream,
        leaving: Pin<&mut impl Future<Output = Cause>>,
    ) -> Result<bool, Error> {
        let Some(source) = stream.source().filter(|source| source.bytes > 0) else {
            return Ok(false);
        };
        // Never more than the head promises: the rest would be read as the next response.
        let bytes = source.bytes.min(self.promised.unwrap_or(u64::MAX));
        let (moved, failure) = self
            .write
            .relay(out, source, bytes, leaving)
            .await
            .map_err(failed)?;
        if let Some(promised) = &mut self.promised {
            *promised -= moved.min(*promised);
        }
        stream.relayed(moved, failure)?;
        Ok(moved > 0 && moved == bytes)
    }

    /// Sends `data` after `out`, which is empty then. Never more than the head promises: the rest
    /// would be read as the next response.
    async fn send_data(&mut self, out: &mut Vec<u8>, data: &Bytes) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        if self.chunked {
            push_chunk_line(out, data.len());
            let parts = [
                IoSlice::new(out),
                IoSlice::new(data),
                IoSlice::new(CHUNK_END),
            ];
            self.write.send(&parts).await.map_err(failed)?;
            out.clear();
            return Ok(());
        }
        let Some(promised) = &mut self.promised else {
            return self.flush(out, data).await;
        };
        match promised.checked_sub(data.len() as u64) {
            Some(left) => {
                *promised = left;
                self.flush(out, data).await
            }
            None => {
                let kept = usize::try_from(std::mem::take(promised)).unwrap_or(data.len());
                self.flush(out, data.get(..kept).unwrap_or_default())
                    .await?;
                Err(Error::us(
                    Stage::Response,
                    Cause::Protocol("a body is longer than its declared length"),
                ))
            }
        }
    }

    async fn flush(&mut self, out: &mut Vec<u8>, data: &[u8]) -> Result<(), Error> {
        if out.is_empty() && data.is_empty() {
            return Ok(());
        }
        let parts = [IoSlice::new(out), IoSlice::new(data)];
        self.write.send(&parts).await.map_err(failed)?;
        out.clear();
        Ok(())
    }
}

/// What `future` has to say now, without waiting for it.
pub(super) async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
}

fn failed(cause: Cause) -> Error {
    Error::on_connection(Stage::Response, cause)
}
