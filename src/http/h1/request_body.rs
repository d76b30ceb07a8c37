//! A request's body while its response is made.
//!
//! The body is the handler's own ([`LentBody`]) and takes the connection's receiving side with it;
//! dropped, it leaves both in the [`Loan`] that the driver keeps. Sending stays with the driver, 100
//! (Continue) included: the body asks for it and waits until it is sent.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::error::{Cause, Error, Stage};
use crate::http::Context;
use crate::http::transport::Receive;
use crate::limits::BODY_DISCARD_BYTES_MAX;
use crate::message::{BodyLength, BodyStream, Fields, LocalFuture, Request};
use crate::metrics::{self, Counter};
use crate::net::deadline::Phase;
use crate::net::stream::Received;
use crate::proto::h1::Refusal;
use crate::proto::h1::body::{BodyDecoder, Decoded};

/// A connection's receiving side.
pub(super) struct Receiving<R> {
    pub(super) read: R,
    /// Received and not yet parsed. Holds no memory while the connection is idle.
    pub(super) input: BytesMut,
}

/// The body of the request being served, received as it is asked for.
pub(super) struct Body<R> {
    receiving: Receiving<R>,
    decoder: BodyDecoder,
    /// Without a byte.
    progress: Duration,
    /// For the whole body.
    total: Duration,
    /// When the head was complete.
    begun: Instant,
    failure: Option<Failure>,
}

/// Why a body cannot be read on.
pub(super) enum Failure {
    /// To be answered.
    Refused(Refusal),
    /// Nothing can be answered: the connection broke.
    Broken(Error),
}

impl<R: Receive> Body<R> {
    /// The body of `request`, whose head was complete at `begun` and whose first bytes may be in
    /// the input already. A known length must lie within its bound.
    pub(super) fn new(
        request: &Request,
        receiving: Receiving<R>,
        context: &Context,
        begun: Instant,
    ) -> Self {
        let decoder = match request.body_length {
            BodyLength::Known(length) => BodyDecoder::known(length),
            BodyLength::Delimited => {
                BodyDecoder::chunked(context.limits.body_bytes_max).keeping_trailers()
            }
        };
        Self {
            receiving,
            decoder,
            progress: context.timeouts.body_progress,
            total: context.timeouts.body,
            begun,
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
    /// It comes before the response, where that has not begun: a client that sends its whole body
    /// before it reads would otherwise wait for us as we wait for it.
    pub(super) async fn discard_rest(&mut self) -> bool {
        if self.is_done() {
            return true;
        }
        if self.failure.is_some() || self.is_longer_than_worth() {
            return false;
        }
        let mut budget = BODY_DISCARD_BYTES_MAX;
        loop {
            match self.decode() {
                Err(_) => return false,
                Ok(Decoded::End) => return true,
                Ok(Decoded::Data(data)) => match budget.checked_sub(data.len() as u64) {
                    Some(left) => budget = left,
                    None => return false,
                },
                Ok(Decoded::NeedMore) => {
                    if self.receive().await.is_err() {
                        return false;
                    }
                }
            }
        }
    }

    /// The receiving side, and why the body could not be read, if it could not.
    pub(super) fn into_parts(self) -> (Receiving<R>, Option<Failure>) {
        (self.receiving, self.failure)
    }

    fn is_longer_than_worth(&self) -> bool {
        self.decoder
            .remaining_exact()
            .is_some_and(|left| left > BODY_DISCARD_BYTES_MAX)
    }

    fn decode(&mut self) -> Result<Decoded, Error> {
        self.decoder
            .decode(&mut self.receiving.input)
            .map_err(|refusal| self.refused(refusal, Cause::Protocol(refusal.reason)))
    }

    async fn receive(&mut self) -> Result<(), Error> {
        let left = self.time_left();
        if left.is_zero() {
            return Err(self.timed_out(BODY_TOO_SLOW));
        }
        let Receiving { read, input } = &mut self.receiving;
        read.arm(Phase::BodyProgress, self.progress.min(left));
        let received = read.receive(input).await;
        read.disarm();
        match received {
            Ok(Received::Data(_)) => Ok(()),
            Ok(Received::Expired(_)) if left < self.progress => Err(self.timed_out(BODY_TOO_SLOW)),
            Ok(Received::Expired(_)) => Err(self.timed_out(BODY_STALLED)),
            Ok(Received::Closed(_)) => {
                Err(self.broken(Error::client(Stage::RequestBody, Cause::Truncated)))
            }
            Err(cause) => Err(self.broken(Error::on_connection(Stage::RequestBody, cause))),
        }
    }

    /// What is left of the time for the whole body: one sent byte by byte makes progress forever.
    fn time_left(&self) -> Duration {
        let now = self.receiving.read.now().monotonic;
        let passed = now.saturating_duration_since(self.begun);
        self.total.saturating_sub(passed)
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

/// A body in the hands of a handler.
pub(super) struct LentBody<R> {
    /// There until it is dropped.
    body: Option<Body<R>>,
    loan: Rc<Loan<R>>,
}

/// What the driver keeps of a body that it lent.
pub(super) struct Loan<R> {
    returned: Cell<Option<Body<R>>>,
    /// The client waits for 100 (Continue).
    pub(super) interim: Interim,
}

impl<R> Loan<R> {
    /// Lends `body`, to a client that may wait to be asked for it.
    pub(super) fn new(body: Body<R>, expects_continue: bool) -> (LentBody<R>, Rc<Self>) {
        let loan = Rc::new(Self {
            returned: Cell::new(None),
            interim: Interim::new(expects_continue),
        });
        let lent = LentBody {
            body: Some(body),
            loan: loan.clone(),
        };
        (lent, loan)
    }

    /// The body, once it has been dropped by whoever had it.
    pub(super) fn take_returned(&self) -> Option<Body<R>> {
        self.returned.take()
    }
}

impl<R: Receive> Loan<R> {
    /// The connection's receiving side, once the body is back and was read to its end. One that was not
    /// stays.
    pub(super) fn take_read(&self) -> Option<Receiving<R>> {
        let body = self.returned.take()?;
        if !body.is_done() {
            self.returned.set(Some(body));
            return None;
        }
        let (receiving, _) = body.into_parts();
        receiving.read.disarm();
        Some(receiving)
    }
}

impl<R: Receive> LentBody<R> {
    async fn next_data(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        let interim = &self.loan.interim;
        loop {
            match body.decode()? {
                Decoded::End => return Ok(None),
                Decoded::Data(data) => {
                    // Content that comes without having been asked for needs no 100 (RFC 9110
                    // 10.1.1 lets it be omitted then).
                    interim.settle();
                    return Ok(Some(data));
                }
                Decoded::NeedMore => {
                    interim.ask().await;
                    body.receive().await?;
                }
            }
        }
    }
}

impl<R: Receive> BodyStream for LentBody<R> {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(self.next_data())
    }

    fn take_trailers(&mut self) -> Fields {
        let body = self.body.as_mut();
        body.map(|body| body.decoder.take_trailers())
            .unwrap_or_default()
    }
}

impl<R> Drop for LentBody<R> {
    fn drop(&mut self) {
        self.loan.returned.set(self.body.take());
    }
}

/// Whether the client is to be sent 100 (Continue): asked by the body, done by the driver.
pub(super) struct Interim {
    state: Cell<InterimState>,
    /// Who asked, and who is to send. Both may be in one task.
    asking: RefCell<Option<Waker>>,
    sending: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum InterimState {
    /// The client waits for it.
    Owed,
    /// It is to be sent.
    Wanted,
    /// It was sent, or is not to be.
    Settled,
}

impl Interim {
    fn new(owed: bool) -> Self {
        Self {
            state: Cell::new(match owed {
                true => InterimState::Owed,
                false => InterimState::Settled,
            }),
            asking: RefCell::new(None),
            sending: RefCell::new(None),
        }
    }

    /// Whether the client still waits for it.
    pub(super) fn is_owed(&self) -> bool {
        self.state.get() != InterimState::Settled
    }

    /// Whether the body was asked for, and it has not been sent yet.
    pub(super) fn is_wanted(&self) -> bool {
        self.state.get() == InterimState::Wanted
    }

    /// It was sent, or is not to be sent any more.
    pub(super) fn settle(&self) {
        self.state.set(InterimState::Settled);
        if let Some(waker) = self.asking.take() {
            waker.wake();
        }
    }

    /// Whether it is to be sent.
    pub(super) fn poll_wanted(&self, context: &mut TaskContext<'_>) -> Poll<()> {
        if self.state.get() == InterimState::Wanted {
            return Poll::Ready(());
        }
        self.sending.replace(Some(context.waker().clone()));
        Poll::Pending
    }

    /// Has it sent, where it is owed.
    async fn ask(&self) {
        if self.state.get() == InterimState::Owed {
            self.state.set(InterimState::Wanted);
            if let Some(waker) = self.sending.take() {
                waker.wake();
            }
        }
        poll_fn(|context| {
            if self.state.get() == InterimState::Settled {
                return Poll::Ready(());
            }
            self.asking.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
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
