//! The HTTP/1.1 driver (RFC 9112): one request after the other, responses in their order.

mod request_body;
mod response;
mod upgraded;

use std::future::{Future, pending, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use bytes::BytesMut;

use self::request_body::{Body, Failure, Loan, Receiving};
use self::response::{Begun, Delivered, Delivery, Follows, poll_once};
use self::upgraded::UpgradedEnd;
use super::transport::{Receive, Transmit};
use super::{Context, Exchange, Handler, Outcome, close, count_response, finish};
use crate::buf;
use crate::error::{Cause, Error, Side, Stage};
use crate::message::{BodyLength, Method, Now, Request, RequestBody, Response, Version};
use crate::metrics::{self, Counter};
use crate::net::deadline::{Expiry, Phase};
use crate::net::stream::{Closure, Received};
use crate::proto::h1::Refusal;
use crate::proto::h1::encode::{CONTINUE, push_interim};
use crate::proto::h1::parse::{Bounds, Head, HeadParser};
use crate::proto::syntax::list_members;
use crate::serve::error_page;

/// Serves a connection to its end, the lingering close included.
///
/// # Errors
/// When it ends otherwise than by an [`Outcome`]: a failed send or receive, a peer that breaks off
/// within a request, a body of ours that does not keep what its head promised.
pub fn serve<'a, R: Receive + 'static, W: Transmit, H: Handler>(
    read: R,
    write: W,
    handler: &'a H,
    context: &'a Context,
) -> impl Future<Output = Result<Outcome, Error>> + use<'a, R, W, H> {
    serve_received(read, write, handler, context, BytesMut::new())
}

/// As [`serve`], where `input` was received already.
///
/// # Errors
/// As [`serve`].
pub fn serve_received<'a, R: Receive + 'static, W: Transmit, H: Handler>(
    read: R,
    write: W,
    handler: &'a H,
    context: &'a Context,
    input: BytesMut,
) -> impl Future<Output = Result<Outcome, Error>> + use<'a, R, W, H> {
    let begun = write.monotonic();
    let mut connection = Connection {
        receiving: Some(Receiving { read, input }),
        write,
        handler,
        context,
        parser: HeadParser::default(),
        served: 0,
        begun,
    };
    // Not an async fn: its arguments would have a place of their own beside what is made of them.
    async move {
        let failed = match connection.run().await {
            Err(error) if error.cause.was_told() => Box::pin(connection.close_told(error)),
            ended => return ended,
        };
        failed.await
    }
}

/// Sends a response that no request was read for, as to a client that does not speak what is spoken
/// here, and says that the connection ends with it. [`close`] is to follow.
///
/// # Errors
/// When it could not be sent.
pub async fn answer<W: Transmit>(
    write: &mut W,
    context: &Context,
    response: Response,
) -> Result<(), Error> {
    let delivery = Delivery {
        method: &Method::Get,
        version: Version::Http11,
        keep_alive: false,
        takes_trailers: false,
        date: SystemTime::now(),
    };
    let delivered = delivery.send(write, context, response).await;
    if delivered.body_bytes.is_some() {
        count_response(delivered.status);
    }
    delivered.follows.map(drop)
}

struct Connection<'a, R, W, H> {
    /// Away while a request body has it.
    receiving: Option<Receiving<R>>,
    write: W,
    handler: &'a H,
    context: &'a Context,
    parser: HeadParser,
    /// Requests begun.
    served: u64,
    /// When the head of the request under way was complete.
    begun: Instant,
}

/// What waiting for a request brought.
enum Next {
    Request(Head),
    Refused(Refusal),
    Ended(Outcome),
}

/// What follows a response.
enum After {
    NextRequest,
    Close(Outcome),
    /// Nothing: the orderly end is sent already, or none is to be seen.
    Ended(Outcome),
}

/// An exchange that has begun.
enum Exchanging<'a> {
    Over(Result<After, Error>),
    Waiting(Pin<Box<dyn Future<Output = Result<After, Error>> + 'a>>),
}

/// What became of a request with a body.
enum Exchanged {
    Refused(Refusal),
    Answered(Follows),
}

impl<R: Receive + 'static, W: Transmit, H: Handler> Connection<'_, R, W, H> {
    /// What holds a request's head is dropped before anything is waited for, and what happens once is boxed:
    /// both would be a part of every idle connection.
    async fn run(&mut self) -> Result<Outcome, Error> {
        loop {
            let after = {
                let exchanging = match self.next_head().await? {
                    Next::Request(head) => self.begin(head),
                    Next::Refused(refusal) => {
                        Exchanging::Waiting(Box::pin(self.refuse(refusal, None)))
                    }
                    Next::Ended(outcome) => Exchanging::Waiting(Box::pin(self.end(outcome))),
                };
                match exchanging {
                    Exchanging::Over(after) => after?,
                    Exchanging::Waiting(rest) => rest.await?,
                }
            };
            let outcome = match after {
                After::NextRequest => continue,
                After::Ended(outcome) => return Ok(outcome),
                After::Close(outcome) => outcome,
            };
            let Some(Receiving { read, input }) = &mut self.receiving else {
                return Err(lost_receiving());
            };
            // What is buffered is not looked at any more.
            *input = BytesMut::new();
            Box::pin(close(read, &mut self.write, self.context)).await;
            return Ok(outcome);
        }
    }

    /// The next request's head: from what is buffered (RFC 9112 9.3.2, pipelining), or received.
    async fn next_head(&mut self) -> Result<Next, Error> {
        let bounds = Bounds {
            header_bytes_max: self.context.limits.header_bytes_max,
            target_bytes_max: self.context.limits.target_bytes_max,
        };
        let Some(Receiving { read, input }) = &mut self.receiving else {
            return Err(lost_receiving());
        };
        let mut armed = None;
        loop {
            match self.parser.parse(input, &bounds) {
                Ok(None) => {}
                Ok(Some(head)) => {
                    read.disarm();
                    return Ok(Next::Request(head));
                }
                Err(refusal) => {
                    read.disarm();
                    return Ok(Next::Refused(refusal));
                }
            }
            if input.is_empty() {
                // A new connection may still have its first request answered.
                if self.served > 0 && self.context.is_draining() {
                    return Ok(Next::Ended(Outcome::Drained));
                }
                *input = BytesMut::new();
                // Who has connected is to ask: only between requests is a connection idle, and ended
                // by a drain. Empty lines before a request win it no time.
                if armed.is_none() {
                    let (phase, after) = match self.served {
                        0 => (Phase::Header, self.context.timeouts.header),
                        _ => (Phase::Idle, self.context.timeouts.idle),
                    };
                    read.arm(phase, after);
                    armed = Some(phase);
                }
            } else if armed != Some(Phase::Header) {
                read.arm(Phase::Header, self.context.timeouts.header);
                armed = Some(Phase::Header);
            }
            let received = read.receive(input).await;
            let has_begun = !input.is_empty();
            match received {
                Ok(Received::Data(_)) => {}
                Ok(Received::Closed(_)) => return closed_before_head(has_begun),
                Ok(Received::Expired(expiry)) => return Ok(expired_before_head(expiry, has_begun)),
                Err(cause) => return failed_before_head(cause, has_begun),
            }
        }
    }

    /// Closes where the client has been sent an alert, which a reset for unread bytes must not overtake.
    async fn close_told(&mut self, error: Error) -> Result<Outcome, Error> {
        if let Some(Receiving { read, .. }) = &mut self.receiving {
            read.give_up_records();
            close(read, &mut self.write, self.context).await;
        }
        Err(error)
    }

    /// Sends the orderly end where nothing is in flight; whether it arrives changes nothing.
    async fn end(&mut self, outcome: Outcome) -> Result<After, Error> {
        drop(self.write.finish().await);
        Ok(After::Ended(outcome))
    }

    /// Begins an exchange, and ends it too where nothing has to be waited for: what most requests ask
    /// for is known, and the socket has room. The rest is boxed: its state is many times that of
    /// waiting for a request, which is what most connections do most of the time.
    fn begin(&mut self, head: Head) -> Exchanging<'_> {
        self.served += 1;
        metrics::count(Counter::Requests);
        let now = self.write.now();
        self.begun = now.monotonic;
        let request = &head.request;
        let known = match request.body_length.is_none() {
            true => self.handler.respond_known(request, now),
            false => None,
        };
        let Some(response) = known else {
            let exchange = Box::pin(self.exchange(head, now));
            buf::keep_ready(size_of_val(&*exchange));
            return Exchanging::Waiting(exchange);
        };
        let begun = self.begin_delivery(request, head.keep_alive, now, response);
        if !begun.is_over() || begun.is_upgrade() {
            return Exchanging::Waiting(Box::pin(self.complete(head, begun)));
        }
        let delivered = begun.into_delivered(&self.write);
        let follows = self.delivered(request, delivered);
        Exchanging::Over(follows.map(|follows| match follows {
            Follows::NextRequest => After::NextRequest,
            Follows::Nothing | Follows::Upgraded(_) => After::Close(Outcome::Closed),
        }))
    }

    /// Sends the rest of a known response.
    async fn complete(&mut self, head: Head, begun: Begun) -> Result<After, Error> {
        let delivered = begun
            .complete(&mut self.write, self.context, pending::<Cause>)
            .await;
        let follows = self.delivered(&head.request, delivered)?;
        self.after(follows).await
    }

    /// One request and its response. What is not the way of most requests is boxed by itself: making
    /// a future costs the copying of its whole state.
    async fn exchange(&mut self, head: Head, now: Now) -> Result<After, Error> {
        let Head {
            request,
            keep_alive,
        } = head;
        let limits = &self.context.limits;
        if matches!(request.body_length, BodyLength::Known(n) if n > limits.body_bytes_max) {
            return Box::pin(self.refuse(BODY_TOO_LARGE, Some(&request))).await;
        }
        let follows = if request.body_length.is_none() {
            let handler = self.handler;
            let response = {
                let mut answer = pin!(handler.respond(&request, RequestBody::Empty, now));
                match poll_once(&mut answer).await {
                    Poll::Ready(response) => response,
                    Poll::Pending => self.awaited(&request, answer).await?,
                }
            };
            self.deliver(&request, keep_alive, now, response).await?
        } else {
            match Box::pin(self.exchange_with_body(&request, keep_alive, now)).await? {
                Exchanged::Refused(refusal) => {
                    return Box::pin(self.refuse(refusal, Some(&request))).await;
                }
                Exchanged::Answered(follows) => follows,
            }
        };
        self.after(follows).await
    }

    /// What follows a response, and all of that where it is another protocol.
    async fn after(&mut self, follows: Follows) -> Result<After, Error> {
        match follows {
            Follows::NextRequest => Ok(After::NextRequest),
            Follows::Nothing => Ok(After::Close(Outcome::Closed)),
            Follows::Upgraded(upgrade) => {
                let Some(receiving) = &mut self.receiving else {
                    return Err(lost_receiving());
                };
                let ended = Box::pin(upgraded::run(receiving, &mut self.write, upgrade)).await;
                if !matches!(ended, Ok(UpgradedEnd::Complete)) {
                    self.write.abort();
                }
                Ok(match ended? {
                    UpgradedEnd::Complete => After::Close(Outcome::Closed),
                    UpgradedEnd::Idle => After::Ended(Outcome::IdleTimeout),
                })
            }
        }
    }

    /// Waits for an answer that is not there at once, for as long as the client does: whoever makes it
    /// need not go on for nobody. What the client sends meanwhile is the next request.
    async fn awaited<F: Future<Output = Response>>(
        &mut self,
        request: &Request,
        mut answer: Pin<&mut F>,
    ) -> Result<Response, Error> {
        loop {
            let response = {
                let watch = Watch::new(&mut self.receiving, None, self.context);
                let mut leaving = pin!(watch.client_leaves());
                poll_fn(|context| match answer.as_mut().poll(context) {
                    Poll::Ready(response) => Poll::Ready(Ok(Some(response))),
                    Poll::Pending if !request.interims.is_empty() => Poll::Ready(Ok(None)),
                    Poll::Pending => leaving.as_mut().poll(context).map(left).map(Err),
                })
                .await?
            };
            if let Some(response) = response {
                return Ok(response);
            }
            self.send_interims(request).await?;
        }
    }

    /// Passes on the interim responses that have come.
    async fn send_interims(&mut self, request: &Request) -> Result<(), Error> {
        let interims = request.interims.take();
        // RFC 9110 15.2: "A server MUST NOT send a 1xx response to an HTTP/1.0 client."
        if request.version < Version::Http11 {
            return Ok(());
        }
        let mut text = Vec::new();
        for interim in &interims {
            push_interim(&mut text, interim);
        }
        let sent = self.write.send(&[IoSlice::new(&text)]).await;
        sent.map_err(|cause| Error::on_connection(Stage::Response, cause))
    }

    async fn exchange_with_body(
        &mut self,
        request: &Request,
        keep_alive: bool,
        now: Now,
    ) -> Result<Exchanged, Error> {
        let Some(receiving) = self.receiving.take() else {
            return Err(lost_receiving());
        };
        let body = Body::new(request, receiving, self.context, now.monotonic);
        let (lent, loan) = Loan::new(body, request.expects_continue);
        let lent = RequestBody::Stream(Box::new(lent));
        let answered = self.respond(request, lent, &loan, now).await;
        if self.receiving.is_some() {
            // The body was read to its end, and the client watched from then on.
            let response = answered?;
            let now = self.write.now();
            let delivered = self.deliver(request, keep_alive, now, response).await?;
            return Ok(Exchanged::Answered(delivered));
        }
        let Some(mut body) = loan.take_returned() else {
            return self
                .deliver_early(request, keep_alive, answered?, &loan)
                .await;
        };
        // RFC 9110 10.1.1: after a final status instead of 100 (Continue) the client may send the
        // body or leave it out; only closing makes sure which.
        let at_end = match keep_alive && answered.is_ok() && !loan.interim.is_owed() {
            true => body.discard_rest().await,
            false => body.is_done(),
        };
        let failure = self.take_back(body);
        let response = answered?;
        match failure {
            None => {}
            Some(Failure::Refused(refusal)) => return Ok(Exchanged::Refused(refusal)),
            Some(Failure::Broken(error)) => return Err(error),
        }
        // A body may have taken minutes.
        let now = self.write.now();
        let delivered = self
            .deliver(request, keep_alive && at_end, now, response)
            .await?;
        Ok(Exchanged::Answered(delivered))
    }

    /// The handler's response to a request with a body, with 100 (Continue) sent when it asks for
    /// the body first. When the handler has read all of it, it waits for as long as the client does, as
    /// [`Connection::awaited`].
    async fn respond(
        &mut self,
        request: &Request,
        body: RequestBody,
        loan: &Loan<R>,
        now: Now,
    ) -> Result<Response, Error> {
        let handler = self.handler;
        let mut answer = pin!(handler.respond(request, body, now));
        loop {
            let response = {
                let watch = Watch::new(&mut self.receiving, Some(loan), self.context);
                let mut leaving = pin!(watch.client_leaves());
                poll_fn(|context| match answer.as_mut().poll(context) {
                    Poll::Ready(response) => Poll::Ready(Ok(Some(response))),
                    Poll::Pending if !request.interims.is_empty() => Poll::Ready(Ok(None)),
                    Poll::Pending if loan.interim.poll_wanted(context).is_ready() => {
                        Poll::Ready(Ok(None))
                    }
                    Poll::Pending => leaving.as_mut().poll(context).map(left).map(Err),
                })
                .await?
            };
            if let Some(response) = response {
                return Ok(response);
            }
            match request.interims.is_empty() {
                true => self.send_continue(loan).await?,
                false => self.send_interims(request).await?,
            }
        }
    }

    async fn send_continue(&mut self, loan: &Loan<R>) -> Result<(), Error> {
        let sent = self.write.send(&[IoSlice::new(CONTINUE)]).await;
        sent.map_err(|cause| Error::on_connection(Stage::Response, cause))?;
        loan.interim.settle();
        Ok(())
    }

    /// Sends a response whose body, or what makes it, still reads the request's body.
    async fn deliver_early(
        &mut self,
        request: &Request,
        keep_alive: bool,
        response: Response,
        loan: &Rc<Loan<R>>,
    ) -> Result<Exchanged, Error> {
        // What makes the response has asked for the body, and no final status makes a client send it.
        if loan.interim.is_wanted() {
            self.send_continue(loan).await?;
        }
        // Too late for 100 (Continue): the client may still send its body, but whether it does only
        // closing makes sure.
        let keep_alive = keep_alive && !loan.interim.is_owed();
        loan.interim.settle();
        let now = self.write.now();
        let delivering = self.deliver_watching(request, keep_alive, now, response, Some(&**loan));
        let delivered = delivering.await;
        if self.receiving.is_some() {
            // The body was read to its end, and the client watched from then on.
            return Ok(Exchanged::Answered(delivered?));
        }
        let Some(mut body) = loan.take_returned() else {
            return Err(Error::us(
                Stage::Response,
                Cause::Internal("a request's body outlived its response"),
            ));
        };
        let at_end = match delivered {
            Ok(Follows::NextRequest) => body.discard_rest().await,
            Ok(Follows::Nothing | Follows::Upgraded(_)) | Err(_) => false,
        };
        // The response has its status already; a body that failed can only end the connection.
        match self.take_back(body) {
            Some(Failure::Broken(error)) => return Err(error),
            Some(Failure::Refused(refusal)) => tracing::debug!(%refusal, "body refused too late"),
            None => {}
        }
        Ok(Exchanged::Answered(match delivered? {
            Follows::NextRequest if !at_end => Follows::Nothing,
            follows @ (Follows::NextRequest | Follows::Nothing | Follows::Upgraded(_)) => follows,
        }))
    }

    fn take_back(&mut self, body: Body<R>) -> Option<Failure> {
        let (receiving, failure) = body.into_parts();
        receiving.read.disarm();
        self.receiving = Some(receiving);
        failure
    }

    /// Sends `response`.
    async fn deliver(
        &mut self,
        request: &Request,
        may_go_on: bool,
        now: Now,
        response: Response,
    ) -> Result<Follows, Error> {
        self.deliver_watching(request, may_go_on, now, response, None)
            .await
    }

    /// Sends `response`, whose body may still read the one that `loan` has lent.
    async fn deliver_watching(
        &mut self,
        request: &Request,
        may_go_on: bool,
        now: Now,
        response: Response,
        loan: Option<&Loan<R>>,
    ) -> Result<Follows, Error> {
        if !request.interims.is_empty() {
            // They came together with the response.
            Box::pin(self.send_interims(request)).await?;
        }
        let begun = self.begin_delivery(request, may_go_on, now, response);
        let watch = Watch::new(&mut self.receiving, loan, self.context);
        let completing = begun.complete(&mut self.write, self.context, || watch.client_leaves());
        let delivered = completing.await;
        self.delivered(request, delivered)
    }

    /// Sends what of `response` can be sent without waiting.
    fn begin_delivery(
        &mut self,
        request: &Request,
        may_go_on: bool,
        now: Now,
        response: Response,
    ) -> Begun {
        let may_go_on = may_go_on
            && !self.context.is_draining()
            && self.served < self.context.limits.requests_per_connection_max;
        let key_exhausted = may_go_on && self.write.is_nearly_exhausted();
        if key_exhausted {
            metrics::count(Counter::KeyExhausted);
        }
        let delivery = Delivery {
            method: &request.method,
            version: request.version,
            keep_alive: may_go_on && !key_exhausted,
            takes_trailers: takes_trailers(request),
            date: now.wall,
        };
        delivery.begin(&mut self.write, self.context, response)
    }

    /// Counts and reports a response that is over, and gives what follows it.
    fn delivered(&self, request: &Request, delivered: Delivered) -> Result<Follows, Error> {
        self.finish(Some(request), &delivered);
        delivered.follows
    }

    /// Answers a request that is not served, and ends the connection: what follows in the input
    /// cannot be told apart from what was refused.
    async fn refuse(
        &mut self,
        refusal: Refusal,
        request: Option<&Request>,
    ) -> Result<After, Error> {
        tracing::debug!(%refusal, "request refused");
        let method = match self.parser.is_head() {
            true => Method::Head,
            false => Method::Get,
        };
        let now = self.write.now();
        let delivery = Delivery {
            method: &method,
            version: Version::Http11,
            keep_alive: false,
            takes_trailers: false,
            date: now.wall,
        };
        if request.is_none() {
            self.begun = now.monotonic;
        }
        let page = error_page::page(refusal.status);
        let delivered = delivery.send(&mut self.write, self.context, page).await;
        self.finish(request, &delivered);
        delivered.follows?;
        Ok(After::Close(Outcome::Refused(refusal.status)))
    }

    /// Counts and reports a response that is over.
    fn finish(&self, request: Option<&Request>, delivered: &Delivered) {
        let Some(body_bytes) = delivered.body_bytes else {
            return;
        };
        let exchange = Exchange {
            request,
            status: delivered.status,
            body_bytes,
            duration: self.write.monotonic().saturating_duration_since(self.begun),
            is_complete: delivered.follows.is_ok(),
            is_sent_by_kernel: self.write.is_in_kernel(),
        };
        finish(self.handler, &exchange);
    }
}

/// The client of a request, watched while its answer is waited for.
struct Watch<'a, R> {
    receiving: &'a mut Option<Receiving<R>>,
    /// Where the receiving side comes back from when the request's body has been read.
    loan: Option<&'a Loan<R>>,
    /// Of the next request, received meanwhile.
    bytes_max: usize,
}

impl<'a, R: Receive> Watch<'a, R> {
    fn new(
        receiving: &'a mut Option<Receiving<R>>,
        loan: Option<&'a Loan<R>>,
        context: &Context,
    ) -> Self {
        Self {
            receiving,
            loan,
            bytes_max: context.limits.header_bytes_max,
        }
    }

    /// Waits until the client has vanished, and gives the failure that this is. One that has said that
    /// it will send nothing more still waits for its answer (RFC 9112 9.6). While a body has the
    /// receiving side, whoever reads that meets the failure.
    ///
    /// It is to be polled whenever the answer has been: nothing else tells that a body is back.
    async fn client_leaves(self) -> Cause {
        poll_fn(|_| {
            if self.receiving.is_none() {
                *self.receiving = self.loan.and_then(Loan::take_read);
            }
            match self.receiving.is_some() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        let Some(Receiving { read, input }) = self.receiving else {
            return pending().await;
        };
        let cause = loop {
            if input.len() >= self.bytes_max {
                pending::<()>().await;
            }
            match read.receive(input).await {
                Ok(Received::Data(_)) => {}
                Ok(Received::Closed(Closure::WithoutNotify)) => break Cause::Truncated,
                Ok(Received::Closed(Closure::Orderly) | Received::Expired(_)) => pending().await,
                Err(cause) => break cause,
            }
        };
        metrics::count(Counter::RequestsAbandoned);
        cause
    }
}

fn left(cause: Cause) -> Error {
    Error::on_connection(Stage::Serve, cause)
}

/// What it means that nothing more comes while a head is awaited.
fn closed_before_head(has_begun: bool) -> Result<Next, Error> {
    match has_begun {
        false => Ok(Next::Ended(Outcome::PeerClosed)),
        true => Err(Error::client(Stage::RequestHead, Cause::Truncated)),
    }
}

/// What it means that the head did not come in time.
fn expired_before_head(expiry: Expiry, has_begun: bool) -> Next {
    match expiry {
        Expiry::Drain => Next::Ended(Outcome::Drained),
        Expiry::Phase(Phase::Idle) => {
            metrics::count(Counter::TimeoutsIdle);
            Next::Ended(Outcome::IdleTimeout)
        }
        Expiry::Phase(_) => {
            metrics::count(Counter::TimeoutsHeader);
            match has_begun {
                false => Next::Ended(Outcome::IdleTimeout),
                true => Next::Refused(HEAD_TOO_SLOW),
            }
        }
    }
}

/// A client that resets an idle connection has ended it, no more.
fn failed_before_head(cause: Cause, has_begun: bool) -> Result<Next, Error> {
    let error = Error::on_connection(Stage::RequestHead, cause);
    let reset = error.side == Side::Client && matches!(error.cause, Cause::Io(_));
    if reset && !has_begun {
        return Ok(Next::Ended(Outcome::PeerClosed));
    }
    Err(error)
}

/// RFC 9110 10.1.4: whether the client says that it keeps trailer fields.
fn takes_trailers(request: &Request) -> bool {
    let mut codings = request.fields.all("te").flat_map(list_members);
    codings.any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
}

fn lost_receiving() -> Error {
    Error::us(
        Stage::RequestHead,
        Cause::Internal("a request's body kept the connection"),
    )
}

const HEAD_TOO_SLOW: Refusal = Refusal::new(
    408,
    "timeouts.header_ms passed before the head was complete",
);

const BODY_TOO_LARGE: Refusal = Refusal::new(413, "content-length is over limits.body_bytes_max");

#[cfg(test)]
mod tests;
