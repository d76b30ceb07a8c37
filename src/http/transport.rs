//! What a driver needs of a stream: [`crate::net`]'s halves, or memory in a test.

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::error::Cause;
use crate::message::gather::Gather;
use crate::message::{FileRange, Now, Source};
use crate::net::deadline::{Expiry, Phase};
use crate::net::relay::RelayFailure;
use crate::net::stream::{AtOnce, ReadHalf, Received, WriteHalf};

/// The receiving half of a connection, with its deadline.
pub trait Receive {
    /// As [`ReadHalf::receive`].
    fn receive(&mut self, into: &mut BytesMut) -> impl Future<Output = Result<Received, Cause>>;

    /// Begins `phase`, which may last `after`. It replaces the phase before it.
    fn arm(&self, phase: Phase, after: Duration);

    /// Ends the phase.
    fn disarm(&self);

    /// Waits for the end of the phase, and for nothing else: after the peer has ended its direction.
    fn expire(&mut self) -> impl Future<Output = Expiry>;

    /// As [`ReadHalf::is_reset`].
    fn is_reset(&self) -> bool;

    /// As [`ReadHalf::give_up_records`].
    fn give_up_records(&mut self);

    /// This moment, on the clocks that this connection's deadlines go by.
    fn now(&self) -> Now;
}

/// The sending half of a connection. It times its sends by itself.
pub trait Transmit {
    /// As [`WriteHalf::send`].
    fn send(&mut self, parts: &[IoSlice<'_>]) -> impl Future<Output = Result<(), Cause>>;

    /// As [`WriteHalf::send_at_once`].
    fn send_at_once(&mut self, _parts: &[IoSlice<'_>]) -> Result<AtOnce, Cause> {
        Ok(AtOnce::Nothing)
    }

    /// As [`WriteHalf::send_file`].
    fn send_file(
        &mut self,
        head: &[u8],
        range: &FileRange,
    ) -> impl Future<Output = Result<(), Cause>>;

    /// Sends what is in `head`, and then up to `bytes` off `source`, if that can be done without looking
    /// at them: gives how many, and why no more can be had. Leaves `head` where it cannot. Fails with what
    /// `leaving` gives, which is polled while the source is waited for.
    fn relay(
        &mut self,
        _head: &mut Vec<u8>,
        _source: Source<'_>,
        _bytes: u64,
        _leaving: Pin<&mut impl Future<Output = Cause>>,
    ) -> impl Future<Output = Result<(u64, Option<Cause>), Cause>> {
        std::future::ready(Ok((0, None)))
    }

    /// As [`WriteHalf::finish`].
    fn finish(&mut self) -> impl Future<Output = Result<(), Cause>>;

    /// As [`WriteHalf::abort`].
    fn abort(&mut self) {}

    /// As [`WriteHalf::is_nearly_exhausted`].
    fn is_nearly_exhausted(&self) -> bool;

    /// As [`WriteHalf::sent_bytes`].
    fn sent_bytes(&self) -> u64;

    /// As [`WriteHalf::is_in_kernel`].
    fn is_in_kernel(&self) -> bool {
        false
    }

    /// As [`Receive::now`]: the other half may be lent to a request body.
    fn now(&self) -> Now;

    /// The monotonic part of [`Transmit::now`], which by itself costs half as much.
    fn monotonic(&self) -> Instant {
        self.now().monotonic
    }
}

/// A sending half that takes frames of memory and files together.
pub trait TransmitGathered: Transmit {
    /// As [`WriteHalf::send_gather`].
    fn send_gather(&mut self, gather: &mut Gather) -> impl Future<Output = Result<(), Cause>>;

    /// Tells the moment, on the clocks of [`Receive::now`].
    fn clock(&self) -> Box<dyn Fn() -> Now>;

    /// As [`Receive::arm`], while the other half receives: the deadline is of both.
    fn arm_both(&self, phase: Phase, after: Duration);
}

impl Receive for ReadHalf {
    async fn receive(&mut self, into: &mut BytesMut) -> Result<Received, Cause> {
        ReadHalf::receive(self, into).await
    }

    fn arm(&self, phase: Phase, after: Duration) {
        self.deadline().arm(phase, after);
    }

    fn disarm(&self) {
        self.deadline().disarm();
    }

    async fn expire(&mut self) -> Expiry {
        self.deadline().expire().await
    }

    fn is_reset(&self) -> bool {
        ReadHalf::is_reset(self)
    }

    fn give_up_records(&mut self) {
        ReadHalf::give_up_records(self);
    }

    fn now(&self) -> Now {
        Now::read()
    }
}

impl Transmit for WriteHalf {
    async fn send(&mut self, parts: &[IoSlice<'_>]) -> Result<(), Cause> {
        WriteHalf::send(self, parts).await
    }

    fn send_at_once(&mut self, parts: &[IoSlice<'_>]) -> Result<AtOnce, Cause> {
        WriteHalf::send_at_once(self, parts)
    }

    async fn send_file(&mut self, head: &[u8], range: &FileRange) -> Result<(), Cause> {
        WriteHalf::send_file(self, head, range).await
    }

    async fn relay(
        &mut self,
        head: &mut Vec<u8>,
        source: Source<'_>,
        bytes: u64,
        leaving: Pin<&mut impl Future<Output = Cause>>,
    ) -> Result<(u64, Option<Cause>), Cause> {
        let Some(from) = source.connection.downcast_mut::<ReadHalf>() else {
            return Ok((0, None));
        };
        let relaying = WriteHalf::relay(self, head, (from, bytes), source.idle_max, leaving);
        let relayed = relaying.await?;
        let failure = relayed.failure.map(|failure| match failure {
            RelayFailure::Cause(cause) => cause,
            RelayFailure::Idle => Cause::Timeout(source.idle_key),
        });
        Ok((relayed.bytes, failure))
    }

    async fn finish(&mut self) -> Result<(), Cause> {
        WriteHalf::finish(self).await
    }

    fn abort(&mut self) {
        WriteHalf::abort(self);
    }

    fn is_nearly_exhausted(&self) -> bool {
        WriteHalf::is_nearly_exhausted(self)
    }

    fn sent_bytes(&self) -> u64 {
        WriteHalf::sent_bytes(self)
    }

    fn is_in_kernel(&self) -> bool {
        WriteHalf::is_in_kernel(self)
    }

    fn now(&self) -> Now {
        Now::read()
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

impl TransmitGathered for WriteHalf {
    async fn send_gather(&mut self, gather: &mut Gather) -> Result<(), Cause> {
        WriteHalf::send_gather(self, gather).await
    }

    fn clock(&self) -> Box<dyn Fn() -> Now> {
        Box::new(Now::read)
    }

    fn arm_both(&self, phase: Phase, after: Duration) {
        self.deadline().arm(phase, after);
    }
}
