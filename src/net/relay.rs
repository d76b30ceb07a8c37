//! A body that comes over one connection and goes out over another without a copy in user space.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::deadline::Phase;
use super::pass;
use super::rt;
use super::send::HEAD_BYTES_MAX;
use super::splice::{self, Stop};
use super::stream::{ReadHalf, Received, SendPath, Transport, WriteHalf};
use crate::buf::Pipe;
use crate::config::OffloadPolicy;
use crate::error::Cause;
use crate::limits::RELAYED_BYTES_MIN;
use crate::metrics::{self, Counter};

/// What came of relaying.
#[derive(Debug, Default)]
pub struct Relayed {
    /// Bytes moved. Fewer than were to be: the next are to be received and sent.
    pub bytes: u64,
    /// Why nothing more can be had of the other connection.
    pub failure: Option<RelayFailure>,
}

/// Why nothing more can be had of the connection that a body comes over.
#[derive(Debug)]
pub enum RelayFailure {
    /// It has failed.
    Cause(Cause),
    /// Nothing came in time.
    Idle,
}

impl WriteHalf {
    /// Sends what is in `head`, and then up to so many bytes as they come over another connection, without
    /// a copy of them in user space: spliced where both ends are in the kernel or without TLS, received
    /// where they are sealed from a connection without TLS to TLS in user space. Nothing is done, and
    /// `head` is left, where neither can be, and for less than [`RELAYED_BYTES_MIN`]. Under the policy
    /// `auto` both ends move to the kernel as [`crate::config::Offload`] says.
    ///
    /// It ends early at what only a receive can tell: a control record, the end. A body of unknown length
    /// has [`u64::MAX`] bytes and moves nothing to the kernel.
    ///
    /// # Errors
    /// As [`WriteHalf::send`], and what `leaving` gives, which is polled while nothing comes.
    pub async fn relay(
        &mut self,
        head: &mut Vec<u8>,
        (from, bytes): (&mut ReadHalf, u64),
        idle_max: Duration,
        mut leaving: Pin<&mut impl Future<Output = Cause>>,
    ) -> Result<Relayed, Cause> {
        if bytes < RELAYED_BYTES_MIN {
            return Ok(Relayed::default());
        }
        let Some(way) = self.prepare_relay(from, bytes).await? else {
            return Ok(Relayed::default());
        };
        let transport = self.transport.clone();
        let mut relay = Relay {
            from: &from.transport,
            to: &transport,
            relayed: Relayed::default(),
            is_productive: true,
        };
        let mut goes_on = true;
        while goes_on && relay.relayed.bytes < bytes {
            if relay.from.turn_is_over() {
                rt::yield_turn().await;
            }
            let must_wait = relay.from.receiving.borrow().must_wait_in_tunnel();
            let travels_along = way == Way::Seal && head.len() <= HEAD_BYTES_MAX;
            if !head.is_empty() && (must_wait || !travels_along) {
                self.send(&[IoSlice::new(head)]).await?;
                head.clear();
            } else if must_wait {
                goes_on = relay.wait(idle_max, leaving.as_mut()).await?;
            } else {
                let left = bytes - relay.relayed.bytes;
                goes_on = match way {
                    Way::Splice => relay.splice(left).await?,
                    // Sending the head may have moved it to the kernel (`policy = "always"`).
                    Way::Seal if !pass::is_possible(relay.from, relay.to) => false,
                    Way::Seal => relay.seal(head, left).await?,
                };
            }
        }
        transport.settle().await?;
        Ok(relay.relayed)
    }

    /// Moves both ends to the kernel as far as that pays for `bytes`; gives how they can be joined then.
    async fn prepare_relay(&mut self, from: &ReadHalf, bytes: u64) -> Result<Option<Way>, Cause> {
        let (source, to) = (&from.transport, &self.transport);
        let offload = &to.context.offload;
        let is_known = bytes < u64::MAX;
        if is_known {
            to.offload_for_body(bytes, offload.answer_bytes_min).await?;
        }
        if pass::is_possible(source, to) {
            return Ok(Some(Way::Seal));
        }
        if matches!(to.sending.borrow().path, SendPath::UserTls(_)) {
            return Ok(None);
        }
        if offload.policy == OffloadPolicy::Auto && is_known && bytes >= offload.answer_bytes_min {
            source.offload_receiving();
        }
        Ok(splice::is_possible(source, to).then_some(Way::Splice))
    }
}

/// How bytes get from one connection to another without a copy in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Through a pipe.
    Splice,
    /// Through the places of records.
    Seal,
}

struct Relay<'a> {
    from: &'a Transport,
    to: &'a Transport,
    relayed: Relayed,
    /// Whether bytes have come since the socket was last waited for.
    is_productive: bool,
}

impl Relay<'_> {
    /// Waits until more has come. As the steps, it gives whether the relay goes on.
    async fn wait(
        &mut self,
        idle_max: Duration,
        mut leaving: Pin<&mut impl Future<Output = Cause>>,
    ) -> Result<bool, Cause> {
        self.from.deadline.arm(Phase::Header, idle_max);
        let waited = {
            let mut readable = pin!(self.from.wait_readable());
            poll_fn(|context| match readable.as_mut().poll(context) {
                Poll::Ready(waited) => Poll::Ready(Ok(waited)),
                Poll::Pending => leaving.as_mut().poll(context).map(Err),
            })
            .await
        };
        self.from.deadline.disarm();
        match waited? {
            Ok(None) => self.is_productive = false,
            Ok(Some(_)) => self.relayed.failure = Some(RelayFailure::Idle),
            Err(cause) => self.relayed.failure = Some(RelayFailure::Cause(cause)),
        }
        Ok(self.relayed.failure.is_none())
    }

    /// Moves what is there through a pipe.
    async fn splice(&mut self, bytes_max: u64) -> Result<bool, Cause> {
        let Ok(pipe) = Pipe::take() else {
            metrics::count(Counter::TunnelPipesRefused);
            return Ok(false);
        };
        let (filled, stop) = splice::fill(self.from, &pipe, bytes_max);
        if filled == 0 {
            let mut receiving = self.from.receiving.borrow_mut();
            receiving.found_nothing(!self.is_productive);
        } else {
            self.is_productive = true;
            self.from.receiving.borrow_mut().found_something();
            self.from.count_turn(filled);
            metrics::add(Counter::BytesReceived, filled as u64);
            metrics::add(Counter::UpstreamBytesSpliced, filled as u64);
            splice::empty(&pipe, self.to, filled).await?;
            self.relayed.bytes += filled as u64;
        }
        pipe.give_back();
        match stop {
            Stop::Full | Stop::Nothing => Ok(true),
            Stop::Look => {
                // A receive is to be tried, without a wait.
                self.from.receiving.borrow_mut().found_something();
                Ok(false)
            }
            Stop::Failed(cause) => {
                self.relayed.failure = Some(RelayFailure::Cause(cause));
                Ok(false)
            }
        }
    }

    /// Receives what is there to where it is sealed, and sends it behind `head`.
    async fn seal(&mut self, head: &mut Vec<u8>, bytes_max: u64) -> Result<bool, Cause> {
        self.to.settle().await?;
        let passed = match pass::step(self.from, self.to, head, bytes_max) {
            Ok(passed) => passed,
            Err(cause) => {
                self.relayed.failure = Some(RelayFailure::Cause(cause));
                return Ok(false);
            }
        };
        if let Some(Received::Data(bytes)) = passed.received {
            self.relayed.bytes += bytes as u64;
        }
        self.to.after(passed.sent?).await?;
        // More may come only once the client has all of it.
        self.to.settle().await?;
        Ok(!matches!(passed.received, Some(Received::Closed(_))))
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
