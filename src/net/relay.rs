//! A body that comes over one connection and goes out over another, spliced where both ends permit.

use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::deadline::Phase;
use super::rt;
use super::splice::{self, Stop};
use super::stream::{ReadHalf, SendPath, WriteHalf};
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
    /// Sends what is in `head`, and then up to so many bytes as they come over another connection, without a byte of
    /// them in user space: where that pays, [`RELAYED_BYTES_MIN`], and both ends are in the kernel or
    /// without TLS. Under the policy `auto` they are moved there as for a file. Nothing is done, and
    /// `head` is left, where that cannot be.
    ///
    /// It ends early at what only a receive can tell: a control record, the end.
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
        let mut relayed = Relayed::default();
        if bytes < RELAYED_BYTES_MIN || !self.prepare_relay(from, bytes).await? {
            return Ok(relayed);
        }
        if !head.is_empty() {
            self.send(&[IoSlice::new(head)]).await?;
            head.clear();
        }
        let (source, to) = (&from.transport, &self.transport);
        // Whether bytes have come since the socket was last waited for.
        let mut is_productive = true;
        while relayed.bytes < bytes && relayed.failure.is_none() {
            if source.turn_is_over() {
                rt::yield_turn().await;
            }
            if source.receiving.borrow().must_wait_in_tunnel() {
                source.deadline.arm(Phase::Header, idle_max);
                let waited = {
                    let mut readable = pin!(source.wait_readable());
                    poll_fn(|context| match readable.as_mut().poll(context) {
                        Poll::Ready(waited) => Poll::Ready(Ok(waited)),
                        Poll::Pending => leaving.as_mut().poll(context).map(Err),
                    })
                    .await
                };
                source.deadline.disarm();
                match waited? {
                    Ok(None) => is_productive = false,
                    Ok(Some(_)) => relayed.failure = Some(RelayFailure::Idle),
                    Err(cause) => relayed.failure = Some(RelayFailure::Cause(cause)),
                }
                continue;
            }
            let Ok(pipe) = Pipe::take() else {
                metrics::count(Counter::TunnelPipesRefused);
                break;
            };
            let (filled, stop) = splice::fill(source, &pipe, bytes - relayed.bytes);
            if filled == 0 {
                source.receiving.borrow_mut().found_nothing(!is_productive);
            } else {
                is_productive = true;
                source.receiving.borrow_mut().found_something();
                source.count_turn(filled);
                metrics::add(Counter::BytesReceived, filled as u64);
                metrics::add(Counter::UpstreamBytesSpliced, filled as u64);
                splice::empty(&pipe, to, filled).await?;
                relayed.bytes += filled as u64;
            }
            pipe.give_back();
            match stop {
                Stop::Full | Stop::Nothing => {}
                Stop::Look => {
                    // A receive is to be tried, without a wait.
                    source.receiving.borrow_mut().found_something();
                    break;
                }
                Stop::Failed(cause) => relayed.failure = Some(RelayFailure::Cause(cause)),
            }
        }
        self.transport.settle().await?;
        Ok(relayed)
    }

    /// Moves both ends to the kernel as far as that pays for `bytes`; whether they can be spliced now.
    async fn prepare_relay(&mut self, from: &ReadHalf, bytes: u64) -> Result<bool, Cause> {
        let (source, to) = (&from.transport, &self.transport);
        to.offload_for_body(bytes).await?;
        if matches!(to.sending.borrow().path, SendPath::UserTls(_)) {
            return Ok(false);
        }
        if source.context.offload.policy == OffloadPolicy::Auto
            && bytes >= source.context.offload.file_bytes_min
        {
            source.offload_receiving();
        }
        Ok(splice::is_possible(source, to))
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
