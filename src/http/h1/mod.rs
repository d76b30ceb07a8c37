//! The HTTP/1.1 driver (RFC 9112): one request after the other, responses in their order.

mod request_body;
mod response;

use std::time::SystemTime;

use bytes::BytesMut;

use self::request_body::{Failure, RequestBody};
use self::response::Delivery;
use super::transport::{Receive, Transmit};
use super::{Context, Handler, Outcome, close};
use crate::error::{Cause, Error, Side, Stage};
use crate::message::{BodyLength, Method, Response, Version};
use crate::metrics::{self, Counter};
use crate::net::deadline::{Expiry, Phase};
use crate::net::stream::Received;
use crate::proto::h1::Refusal;
use crate::proto::h1::parse::{Bounds, Head, HeadParser};
use crate::serve::error_page;

/// Serves a connection to its end, the lingering close included.
///
/// # Errors
/// When it ends otherwise than by an [`Outcome`]: a failed send or receive, a peer that breaks off
/// within a request, a body of ours that does not keep what its head promised.
pub async fn serve<R: Receive, W: Transmit, H: Handler>(
    read: R,
    write: W,
    handler: &H,
    context: &Context,
) -> Result<Outcome, Error> {
    serve_received(read, write, handler, context, BytesMut::new()).await
}

/// As [`serve`], where `input` was received already.
///
/// # Errors
/// As [`serve`].
pub async fn serve_received<R: Receive, W: Transmit, H: Handler>(
    read: R,
    write: W,
    handler: &H,
    context: &Context,
    input: BytesMut,
) -> Result<Outcome, Error> {
    let mut connection = Connection {
        read,
        write,
        handler,
        context,
        input,
        parser: HeadParser::default(),
        served: 0,
    };
    let ended = connection.run().await;
    if let Err(error) = &ended
        && matches!(error.cause, Cause::Record(_))
    {
        // The client has been sent an alert, which a reset for unread bytes must not overtake.
        connection.read.give_up_records();
        close(&mut connection.read, &mut connection.write, context).await;
    }
    ended
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
        date: SystemTime::now(),
    };
    delivery.send(write, context, response).await.map(drop)
}

struct Connection<'a, R, W, H> {
    read: R,
    write: W,
    handler: &'a H,
    context: &'a Context,
    /// Received and not yet parsed. Holds no memory while the connection is idle.
    input: BytesMut,
    parser: HeadParser,
    /// Requests begun.
    served: u64,
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
}

impl<R: Receive, W: Transmit, H: Handler> Connection<'_, R, W, H> {
    async fn run(&mut self) -> Result<Outcome, Error> {
        loop {
            // The exchange is boxed: its state is many times that of waiting for a request, which
            // is what most connections do most of the time.
            let after = match self.next_head().await? {
                Next::Request(head) => Box::pin(self.exchange(head)).await?,
                Next::Refused(refusal) => Box::pin(self.refuse(refusal)).await?,
                Next::Ended(outcome) => {
                    // Nothing is in flight; whether the goodbye arrives changes nothing.
                    drop(self.write.finish().await);
                    return Ok(outcome);
                }
            };
            if let After::Close(outcome) = after {
                // What is buffered is not looked at any more.
                self.input = BytesMut::new();
                close(&mut self.read, &mut self.write, self.context).await;
                return Ok(outcome);
            }
        }
    }

    /// The next request's head: from what is buffered (RFC 9112 9.3.2, pipelining), or received.
    async fn next_head(&mut self) -> Result<Next, Error> {
        let bounds = Bounds {
            header_bytes_max: self.context.limits.header_bytes_max,
            target_bytes_max: self.context.limits.target_bytes_max,
        };
        let mut begun = false;
        loop {
            let parsed = self.parser.parse(&mut self.input, &bounds);
            match parsed {
                Ok(None) => {}
                Ok(Some(head)) => {
                    self.read.disarm();
                    return Ok(Next::Request(head));
                }
                Err(refusal) => {
                    self.read.disarm();
                    return Ok(Next::Refused(refusal));
                }
            }
            if self.input.is_empty() {
                // A new connection may still have its first request answered.
                if self.served > 0 && self.context.is_draining() {
                    return Ok(Next::Ended(Outcome::Drained));
                }
                self.input = BytesMut::new();
                // Who has connected is to ask: only between requests is a connection idle, and ended
                // by a drain.
                match self.served {
                    0 => self.read.arm(Phase::Header, self.context.timeouts.header),
                    _ => self.read.arm(Phase::Idle, self.context.timeouts.idle),
                }
            } else if !begun {
                begun = true;
                self.read.arm(Phase::Header, self.context.timeouts.header);
            }
            match self.read.receive(&mut self.input).await {
                Ok(Received::Data(_)) => {}
                Ok(Received::Closed(_)) => return self.closed_before_head(),
                Ok(Received::Expired(expiry)) => return Ok(self.expired_before_head(expiry)),
                Err(cause) => return self.failed_before_head(cause),
            }
        }
    }

    /// What it means that nothing more comes while a head is awaited.
    fn closed_before_head(&self) -> Result<Next, Error> {
        match self.input.is_empty() {
            true => Ok(Next::Ended(Outcome::PeerClosed)),
            false => Err(Error::client(Stage::RequestHead, Cause::Truncated)),
        }
    }

    /// What it means that the head did not come in time.
    fn expired_before_head(&self, expiry: Expiry) -> Next {
        match expiry {
            Expiry::Drain => Next::Ended(Outcome::Drained),
            Expiry::Phase(Phase::Idle) => {
                metrics::count(Counter::TimeoutsIdle);
                Next::Ended(Outcome::IdleTimeout)
            }
            Expiry::Phase(_) => {
                metrics::count(Counter::TimeoutsHeader);
                match self.input.is_empty() {
                    true => Next::Ended(Outcome::IdleTimeout),
                    false => Next::Refused(HEAD_TOO_SLOW),
                }
            }
        }
    }

    /// A client that resets an idle connection has ended it, no more.
    fn failed_before_head(&self, cause: Cause) -> Result<Next, Error> {
        let error = Error::on_connection(Stage::RequestHead, cause);
        let reset = error.side == Side::Client && matches!(error.cause, Cause::Io(_));
        if reset && self.input.is_empty() {
            return Ok(Next::Ended(Outcome::PeerClosed));
        }
        Err(error)
    }

    /// One request and its response.
    async fn exchange(&mut self, head: Head) -> Result<After, Error> {
        self.served += 1;
        metrics::count(Counter::Requests);
        let Head {
            request,
            keep_alive,
        } = head;
        let limits = &self.context.limits;
        if matches!(request.body_length, BodyLength::Known(n) if n > limits.body_bytes_max) {
            return self.refuse(BODY_TOO_LARGE).await;
        }
        let now = self.read.now();
        let mut body = RequestBody::new(
            &request,
            &mut self.read,
            &mut self.write,
            &mut self.input,
            self.context,
            now.monotonic,
        );
        let response = self.handler.respond(&request, &mut body, now).await;
        let at_end = if keep_alive {
            body.discard_rest().await
        } else {
            body.is_done()
        };
        match body.into_failure() {
            None => {}
            Some(Failure::Refused(refusal)) => return self.refuse(refusal).await,
            Some(Failure::Broken(error)) => return Err(error),
        }
        let may_go_on = keep_alive
            && at_end
            && !self.context.is_draining()
            && self.served < limits.requests_per_connection_max;
        let key_exhausted = may_go_on && self.write.is_nearly_exhausted();
        let delivery = Delivery {
            method: &request.method,
            version: request.version,
            keep_alive: may_go_on && !key_exhausted,
            // A body may have taken minutes.
            date: match request.body_length.is_none() {
                true => now.wall,
                false => self.read.now().wall,
            },
        };
        let kept = delivery
            .send(&mut self.write, self.context, response)
            .await?;
        if key_exhausted {
            metrics::count(Counter::KeyExhausted);
        }
        Ok(match kept {
            true => After::NextRequest,
            false => After::Close(Outcome::Closed),
        })
    }

    /// Answers a request that is not served, and ends the connection: what follows in the input
    /// cannot be told apart from what was refused.
    async fn refuse(&mut self, refusal: Refusal) -> Result<After, Error> {
        tracing::debug!(%refusal, "request refused");
        let method = match self.parser.is_head() {
            true => Method::Head,
            false => Method::Get,
        };
        let delivery = Delivery {
            method: &method,
            version: Version::Http11,
            keep_alive: false,
            date: self.read.now().wall,
        };
        let page = error_page::page(refusal.status);
        delivery.send(&mut self.write, self.context, page).await?;
        Ok(After::Close(Outcome::Refused(refusal.status)))
    }
}

const HEAD_TOO_SLOW: Refusal = Refusal::new(
    408,
    "timeouts.header_ms passed before the head was complete",
);

const BODY_TOO_LARGE: Refusal = Refusal::new(413, "content-length is over limits.body_bytes_max");

#[cfg(test)]
mod tests;
