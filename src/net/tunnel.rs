//! Tunnels: two streams joined, each direction by itself, and every decision on how bytes move.
//!
//! - Between the kernel's record layer, or no TLS, on both ends of a direction: splice(2) through a
//!   pipe, started by readiness. No byte enters user space.
//! - From no TLS to TLS in user space: received where it is sealed (`net::pass`), one copy less.
//! - Otherwise through a buffer: opened or received here, sealed or sent here.
//!
//! Pipes and buffers are held only while bytes are in them, so an idle tunnel holds neither, and one
//! whose reader stalls holds what one of them has room for.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::deadline::{Deadline, Phase};
use super::pass;
use super::rt;
use super::splice::{self, Stop};
use super::stream::{Closure, ReadHalf, Received, SendPath, Stream, Transport, WriteHalf};
use crate::buf::{self, Pipe};
use crate::config::OffloadPolicy;
use crate::error::{Cause, Error, Side, Stage};
use crate::metrics::{self, Counter};
use crate::record::AlertDescription;

/// How long a tunnel may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelTimes {
    /// Without a byte in either direction.
    pub idle: Duration,
    /// In all; `None` sets no bound.
    pub lifetime: Option<Duration>,
}

/// How a tunnel ended when nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both sides have ended their directions, and each has been told of the other's end.
    Complete,
    /// Nothing moved for [`TunnelTimes::idle`].
    Idle,
    /// It has lasted for [`TunnelTimes::lifetime`].
    Lifetime,
    /// The client ended without close_notify: what came may be cut short (RFC 8446 6.1).
    Truncated,
}

/// Carries bytes between `client` and `upstream` until both have ended their directions: `first`
/// goes to the upstream before anything else. An end is passed on as an end (close_notify and FIN),
/// each direction by itself.
///
/// Whatever else ends a tunnel looks to neither side like an orderly end: a TLS client gets a fatal
/// alert, and a TCP connection without TLS a reset.
///
/// `clock` is a deadline of the tunnel's own, for its times.
///
/// # Errors
/// A failed side, with the blame on it.
pub async fn carry(
    client: Stream,
    upstream: Stream,
    first: &[u8],
    times: TunnelTimes,
    clock: &Deadline,
) -> Result<TunnelEnd, Error> {
    let (mut client_read, mut client_write) = client.into_halves();
    let (mut upstream_read, mut upstream_write) = upstream.into_halves();
    let (client, upstream) = (
        client_read.transport.clone(),
        upstream_read.transport.clone(),
    );
    client.deadline.disarm();
    upstream.deadline.disarm();
    let activity_ms = Cell::new(clock.now_ms());
    let up = Direction {
        read: &mut client_read,
        write: &mut upstream_write,
        sides: (Side::Client, Side::Upstream),
        activity_ms: &activity_ms,
        moved_bytes: 0,
        has_asked_to_offload: false,
    };
    let down = Direction {
        read: &mut upstream_read,
        write: &mut client_write,
        sides: (Side::Upstream, Side::Client),
        activity_ms: &activity_ms,
        moved_bytes: 0,
        has_asked_to_offload: false,
    };
    let expired = expire(clock, times, &activity_ms);
    let outcome = race(up.run(first), down.run(&[]), expired).await;
    if !matches!(outcome, Ok(TunnelEnd::Complete)) {
        abort(&client);
        abort(&upstream);
        metrics::count(Counter::TunnelsAborted);
    }
    outcome
}

/// Ends a stream for which there is nothing behind us, so that it does not look like an orderly end.
pub fn refuse(client: Stream) {
    let (read, _write) = client.into_halves();
    abort(&read.transport);
}

impl WriteHalf {
    /// Makes the end of the connection look like none that was meant, as that of a tunnel that is broken
    /// off: a fatal alert under TLS, a reset without. It is to be dropped then.
    pub fn abort(&mut self) {
        abort(&self.transport);
    }
}

/// One direction of a tunnel.
struct Direction<'a> {
    read: &'a mut ReadHalf,
    write: &'a mut WriteHalf,
    /// Who is read from and who is written to.
    sides: (Side, Side),
    /// When the last byte moved, in either direction.
    activity_ms: &'a Cell<u64>,
    moved_bytes: u64,
    has_asked_to_offload: bool,
}

/// What a round of splicing came to.
enum Spliced {
    /// Bytes moved, or there were none.
    Round,
    /// Something is there that only a receive can tell: a control record, the end, an error.
    LookNext,
    /// No pipe is to be had.
    NoPipe,
}

impl Direction<'_> {
    /// Moves bytes until the reading side ends.
    async fn run(mut self, first: &[u8]) -> Result<TunnelEnd, Error> {
        if !first.is_empty() {
            let sent = self.write.send(&[IoSlice::new(first)]).await;
            sent.map_err(|cause| self.writing_failed(cause))?;
            self.moved(first.len());
        }
        // Whether bytes have come since the socket was last waited for.
        let mut is_productive = true;
        loop {
            self.offload_when_it_pays().await?;
            let from = self.read.transport.clone();
            if from.turn_is_over() {
                rt::yield_turn().await;
            }
            if from.receiving.borrow().must_wait_in_tunnel() {
                // No phase is armed, so this is not ended by a deadline.
                let waited = from.wait_readable().await;
                waited.map_err(|cause| self.reading_failed(cause))?;
                is_productive = false;
                continue;
            }
            if splice::is_possible(&self.read.transport, &self.write.transport) {
                match self.splice_round(&from, &mut is_productive).await? {
                    Spliced::Round => continue,
                    Spliced::LookNext | Spliced::NoPipe => {}
                }
            }
            let closure = match pass::is_possible(&self.read.transport, &self.write.transport) {
                true => self.pass_round().await?,
                false => self.copy_round().await?,
            };
            match closure {
                Some(Closure::Orderly) => {
                    let finished = self.write.finish().await;
                    finished.map_err(|cause| self.writing_failed(cause))?;
                    return Ok(TunnelEnd::Complete);
                }
                Some(Closure::WithoutNotify) => return Ok(TunnelEnd::Truncated),
                None => is_productive = true,
            }
        }
    }

    /// Fills a pipe with what is there and empties it into the other side.
    async fn splice_round(
        &mut self,
        from: &Transport,
        is_productive: &mut bool,
    ) -> Result<Spliced, Error> {
        let Ok(pipe) = Pipe::take() else {
            metrics::count(Counter::TunnelPipesRefused);
            return Ok(Spliced::NoPipe);
        };
        let (filled, stop) = splice::fill(from, &pipe, u64::MAX);
        if filled == 0 {
            pipe.give_back();
            return match stop {
                Stop::Full | Stop::Nothing => {
                    from.receiving.borrow_mut().found_nothing(!*is_productive);
                    Ok(Spliced::Round)
                }
                Stop::Look => Ok(Spliced::LookNext),
                Stop::Failed(cause) => Err(self.reading_failed(cause)),
            };
        }
        *is_productive = true;
        from.receiving.borrow_mut().found_something();
        from.count_turn(filled);
        metrics::add(Counter::BytesReceived, filled as u64);
        metrics::add(Counter::TunnelBytesSpliced, filled as u64);
        self.moved(filled);
        let emptied = splice::empty(&pipe, &self.write.transport, filled).await;
        emptied.map_err(|cause| self.writing_failed(cause))?;
        pipe.give_back();
        self.note_activity();
        match stop {
            Stop::Full | Stop::Nothing => Ok(Spliced::Round),
            Stop::Look => Ok(Spliced::LookNext),
            Stop::Failed(cause) => Err(self.reading_failed(cause)),
        }
    }

    /// Receives what is there to where it is sealed, and sends it; gives how the reading side ended, if
    /// it did.
    async fn pass_round(&mut self) -> Result<Option<Closure>, Error> {
        let (from, to) = (&self.read.transport, &self.write.transport);
        to.continue_offload_sending();
        let settled = to.settle().await;
        settled.map_err(|cause| self.writing_failed(cause))?;
        if !pass::is_possible(from, to) {
            return Ok(None);
        }
        let passed = pass::step(from, to, &mut Vec::new(), u64::MAX);
        let passed = passed.map_err(|cause| self.reading_failed(cause))?;
        if let Some(Received::Data(bytes)) = passed.received {
            self.moved(bytes);
        }
        let to = &self.write.transport;
        let sent = async {
            to.after(passed.sent?).await?;
            // More may come only once the client has all of it.
            to.settle().await
        };
        let sent = sent.await;
        sent.map_err(|cause| self.writing_failed(cause))?;
        self.note_activity();
        Ok(match passed.received {
            Some(Received::Closed(closure)) => Some(closure),
            Some(Received::Data(_) | Received::Expired(_)) | None => None,
        })
    }

    /// Receives what is there and sends it; gives how the reading side ended, if it did.
    async fn copy_round(&mut self) -> Result<Option<Closure>, Error> {
        let mut buffer = buf::take_tunnel_buffer();
        let received = self.read.transport.receive_step(&mut buffer);
        let closure = match received.map_err(|cause| self.reading_failed(cause))? {
            Some(Received::Data(bytes)) => {
                self.moved(bytes);
                let sent = self.write.send(&[IoSlice::new(&buffer)]).await;
                sent.map_err(|cause| self.writing_failed(cause))?;
                self.note_activity();
                None
            }
            Some(Received::Closed(closure)) => Some(closure),
            Some(Received::Expired(_)) | None => None,
        };
        buf::give_back_tunnel_buffer(buffer);
        Ok(closure)
    }

    /// Under the policy `auto`, moves the TLS side of this direction to the kernel once so many bytes
    /// have passed that it pays: a tunnel of small messages is better off in user space.
    async fn offload_when_it_pays(&mut self) -> Result<(), Error> {
        let (from, to) = (&self.read.transport, &self.write.transport);
        let offload = &from.context.offload;
        if self.has_asked_to_offload
            || offload.policy != OffloadPolicy::Auto
            || self.moved_bytes < offload.tunnel_bytes_min
        {
            return Ok(());
        }
        self.has_asked_to_offload = true;
        from.offload_receiving();
        if matches!(to.sending.borrow().path, SendPath::UserTls(_)) {
            // The kernel can begin only behind what is sealed here.
            to.sending.borrow_mut().hold_nothing_back();
            let settled = to.settle().await;
            settled.map_err(|cause| self.writing_failed(cause))?;
            self.write.transport.offload_sending();
        }
        Ok(())
    }

    fn moved(&mut self, bytes: usize) {
        self.moved_bytes += bytes as u64;
        self.note_activity();
    }

    fn note_activity(&self) {
        self.activity_ms.set(self.read.transport.deadline.now_ms());
    }

    fn reading_failed(&self, cause: Cause) -> Error {
        blame(self.sides.0, cause)
    }

    fn writing_failed(&self, cause: Cause) -> Error {
        blame(self.sides.1, cause)
    }
}

/// Waits until one of the tunnel's times is over.
async fn expire(clock: &Deadline, times: TunnelTimes, activity_ms: &Cell<u64>) -> TunnelEnd {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let start_ms = clock.now_ms();
    loop {
        let now_ms = clock.now_ms();
        let left = |since_ms: u64, time| ms(time).saturating_sub(now_ms.saturating_sub(since_ms));
        let idle_left_ms = left(activity_ms.get(), times.idle);
        let lifetime_left_ms = times.lifetime.map_or(u64::MAX, |time| left(start_ms, time));
        if lifetime_left_ms == 0 {
            metrics::count(Counter::TimeoutsTunnelLifetime);
            return TunnelEnd::Lifetime;
        }
        if idle_left_ms == 0 {
            metrics::count(Counter::TimeoutsTunnelIdle);
            return TunnelEnd::Idle;
        }
        let left = Duration::from_millis(idle_left_ms.min(lifetime_left_ms));
        clock.arm(Phase::Tunnel, left);
        // Only the deadline ends it, and the next look tells what is over.
        drop(clock.in_phase(pin!(pending())).await);
    }
}

/// Polls both directions until both are complete, one of them ends otherwise, or time is over.
async fn race(
    up: impl Future<Output = Result<TunnelEnd, Error>>,
    down: impl Future<Output = Result<TunnelEnd, Error>>,
    expired: impl Future<Output = TunnelEnd>,
) -> Result<TunnelEnd, Error> {
    let (mut up, mut down, mut expired) = (pin!(up), pin!(down), pin!(expired));
    let (mut is_up_complete, mut is_down_complete) = (false, false);
    poll_fn(move |context| {
        if !is_up_complete && let Poll::Ready(end) = up.as_mut().poll(context) {
            match end {
                Ok(TunnelEnd::Complete) => is_up_complete = true,
                other => return Poll::Ready(other),
            }
        }
        if !is_down_complete && let Poll::Ready(end) = down.as_mut().poll(context) {
            match end {
                Ok(TunnelEnd::Complete) => is_down_complete = true,
                other => return Poll::Ready(other),
            }
        }
        if is_up_complete && is_down_complete {
            return Poll::Ready(Ok(TunnelEnd::Complete));
        }
        expired.as_mut().poll(context).map(Ok)
    })
    .await
}

/// Makes the end of a connection look like none that was meant: RFC 8446 6.1 lets a peer take a
/// close_notify for the whole of what was to come, and without TLS a FIN says the same.
fn abort(transport: &Transport) {
    let is_plain = matches!(transport.sending.borrow().path, SendPath::Plain);
    if is_plain {
        transport.socket.reset_when_closed();
    } else {
        transport.send_alert(AlertDescription::InternalError);
    }
}

fn blame(side: Side, cause: Cause) -> Error {
    match side {
        Side::Client => Error::on_connection(Stage::Tunnel, cause),
        Side::Upstream => Error::upstream(Stage::Tunnel, cause),
        Side::Us => Error::us(Stage::Tunnel, cause),
    }
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
