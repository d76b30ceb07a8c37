//! A request's body while its response is made.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::error::{Cause, Error, Stage};
use crate::http::Context;
use crate::http::transport::{Receive, Transmit};
use crate::limits::BODY_DISCARD_BYTES_MAX;
use crate::message::{BodyLength, BodyStream, LocalFuture, Request};
use crate::metrics::{self, Counter};
use crate::net::deadline::Phase;
use crate::net::stream::Received;
use crate::proto::h1::Refusal;
use crate::proto::h1::body::{BodyDecoder, Decoded};
use crate::proto::h1::encode::CONTINUE;

/// The body of the request being served, received as it is asked for.
pub(super) struct RequestBody<'a, R, W> {
    read: &'a mut R,
    write: &'a mut W,
    input: &'a mut BytesMut,
    context: &'a Context,
    decoder: BodyDecoder,
    /// When the head was complete.
    begun: Instant,
    /// The client waits for 100 (Continue) and has not been sent it.
    owes_continue: bool,
    failure: Option<Failure>,
}

/// Why a body cannot be read on.
pub(super) enum Failure {
    /// To be answered.
    Refused(Refusal),
    /// Nothing can be answered: the connection broke.
    Broken(Error),
}

impl<'a, R: Receive, W: Transmit> RequestBody<'a, R, W> {
    /// The body of `request`, whose head was complete at `begun` and whose first bytes may be in
    /// `input`. A known length must lie within its bound.
    pub(super) fn new(
        request: &Request,
        read: &'a mut R,
        write: &'a mut W,
        input: &'a mut BytesMut,
        context: &'a Context,
        begun: Instant,
    ) -> Self {
        let decoder = match request.body_length {
            BodyLength::Known(length) => BodyDecoder::known(length),
            BodyLength::Delimited => BodyDecoder::chunked(context.limits.body_bytes_max),
        };
        Self {
            read,
            write,
            input,
            context,
            decoder,
            begun,
            owes_continue: request.expects_continue,
            failure: None,
        }
    }

    /// Whether all of it has been read.
    pub(super) fn is_done(&self) -> bool {
        self.failure.is_none() && self.decoder.is_done()
    }

    /// Reads and drops what the handler left, as far as that is worth the connection. Whether the
    /// next request can follow.
    ///
    /// It comes before the response: a client that sends its whole body before it reads would
    /// otherwise wait for us as we wait for it.
    pub(super) async fn discard_rest(&mut self) -> bool {
        if self.is_done() {
            return true;
        }
        // RFC 9110 10.1.1: after a final status instead of 100 (Continue) the client may send the
        // body or leave it out; only closing makes sure which.
        if self.failure.is_some() || self.owes_continue || self.is_longer_than_worth() {
            return false;
        }
        let mut budget = BODY_DISCARD_BYTES_MAX;
        loop {
            match self.next_data().await {
                Ok(None) => return true,
                Err(_) => return false,
                Ok(Some(data)) => match budget.checked_sub(data.len() as u64) {
                    Some(left) => budget = left,
                    None => return false,
                },
            }
        }
    }

    /// Why the body could not be read, if it could not.
    pub(super) fn into_failure(self) -> Option<Failure> {
        self.failure
    }

    fn is_longer_than_worth(&self) -> bool {
        self.decoder
            .remaining_exact()
            .is_some_and(|left| left > BODY_DISCARD_BYTES_MAX)
    }

    async fn next_data(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.decoder.decode(self.input) {
                Ok(Decoded::Data(data)) => {
                    // Content that comes without having been asked for needs no 100 (RFC 9110
                    // 10.1.1 lets it be omitted then).
                    self.owes_continue = false;
                    return Ok(Some(data));
                }
                Ok(Decoded::End) => return Ok(None),
                Ok(Decoded::NeedMore) => self.receive().await?,
                Err(refusal) => {
                    return Err(self.refused(refusal, Cause::Protocol(refusal.reason)));
                }
            }
        }
    }

    /// Receives more, having asked for it where the client waits to be asked.
    async fn receive(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.owes_continue) {
            let sent = self.write.send(&[IoSlice::new(CONTINUE)]).await;
            sent.map_err(|cause| self.broken(Error::on_connection(Stage::Response, cause)))?;
        }
        let progress = self.context.timeouts.body_progress;
        let left = self.time_left();
        if left.is_zero() {
            return Err(self.timed_out(BODY_TOO_SLOW));
        }
        self.read.arm(Phase::BodyProgress, progress.min(left));
        let received = self.read.receive(self.input).await;
        self.read.disarm();
        match received {
            Ok(Received::Data(_)) => Ok(()),
            Ok(Received::Expired(_)) if left < progress => Err(self.timed_out(BODY_TOO_SLOW)),
            Ok(Received::Expired(_)) => Err(self.timed_out(BODY_STALLED)),
            Ok(Received::Closed(_)) => {
                Err(self.broken(Error::client(Stage::RequestBody, Cause::Truncated)))
            }
            Err(cause) => Err(self.broken(Error::on_connection(Stage::RequestBody, cause))),
        }
    }

    /// What is left of the time for the whole body: one sent byte by byte makes progress forever.
    fn time_left(&self) -> Duration {
        let now = self.read.now().monotonic;
        let passed = now.saturating_duration_since(self.begun);
        self.context.timeouts.body.saturating_sub(passed)
    }

    fn timed_out(&mut self, (refusal, key): (Refusal, &'static str)) -> Error {
        metrics::count(Counter::TimeoutsBody);
        self.refused(refusal, Cause::Timeout(key))
    }

    /// Keeps why the request is to be refused; gives the handler its error.
    fn refused(&mut self, refusal: Refusal, cause: Cause) -> Error {
        self.failure = Some(Failure::Refused(refusal));
        Error::client(Stage::RequestBody, cause)
    }

    /// Keeps why the connection is over; gives the handler its error.
    fn broken(&mut self, error: Error) -> Error {
        let told = Error {
            side: error.side,
            stage: error.stage,
            cause: Cause::Truncated,
        };
        self.failure = Some(Failure::Broken(error));
        told
    }
}

impl<R: Receive, W: Transmit> BodyStream for RequestBody<'_, R, W> {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(self.next_data())
    }
}

/// Refusals of a body that came too slowly, each with the key that sets the deadline.
const BODY_STALLED: (Refusal, &str) = (
    Refusal::new(408, "timeouts.body_progress_ms passed without a byte"),
    "timeouts.body_progress_ms",
);
const BODY_TOO_SLOW: (Refusal, &str) = (
    Refusal::new(408, "timeouts.body_ms passed before the body was complete"),
    "timeouts.body_ms",
);
