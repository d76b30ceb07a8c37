//! A connection after 101 (Switching Protocols): bytes both ways, whatever they mean.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::request_body::Receiving;
use crate::error::{Cause, Error, Stage};
use crate::http::transport::{Receive, Transmit};
use crate::message::{BodySink, BodyStream, Upgrade};
use crate::metrics::{self, Counter};
use crate::net::deadline::Phase;
use crate::net::stream::{Closure, Received};

/// How an upgraded connection ended when nothing failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum UpgradedEnd {
    /// Both ends have ended their directions.
    Complete,
    /// Neither has sent anything for as long as the upgrade allows.
    Idle,
}

/// Carries bytes until both ends have ended their directions, or neither has sent any for as long as
/// the upgrade allows. What was received already goes first.
///
/// Unless it is complete, neither end is to take it for that: the client's is to be
/// [aborted](Transmit::abort), the other has been.
///
/// # Errors
/// When either end breaks off. The client does so too by an end without close_notify (RFC 8446 6.1).
pub(super) async fn run<R: Receive, W: Transmit>(
    receiving: &mut Receiving<R>,
    write: &mut W,
    upgrade: Box<dyn Upgrade>,
) -> Result<UpgradedEnd, Error> {
    metrics::count(Counter::UpgradedConnections);
    let idle_max = upgrade.idle_max();
    let (stream, sink) = upgrade.into_halves();
    // Bytes carried in either direction, wrapping: that it changes is all that counts.
    let carried = Cell::new(0_u64);
    let up_done = Cell::new(false);
    let mut up = pin!(to_the_other_end(
        receiving, sink, &carried, &up_done, idle_max
    ));
    let mut down = pin!(to_the_client(stream, write, &carried));
    let mut down_done = false;
    let ended = poll_fn(|context| {
        if let Poll::Ready(ended) = up.as_mut().poll(context) {
            return Poll::Ready(ended.map(|()| UpgradedEnd::Idle));
        }
        if !down_done && let Poll::Ready(ended) = down.as_mut().poll(context) {
            match ended {
                Ok(()) => down_done = true,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        match up_done.get() && down_done {
            true => Poll::Ready(Ok(UpgradedEnd::Complete)),
            false => Poll::Pending,
        }
    });
    ended.await
}

/// Carries what the client sends, tells the other end of its end, sets `up_done`, and goes on timing the
/// other direction: ends by silence in both, or by a failure.
async fn to_the_other_end<R: Receive>(
    receiving: &mut Receiving<R>,
    mut sink: Box<dyn BodySink>,
    carried: &Cell<u64>,
    up_done: &Cell<bool>,
    idle_max: Duration,
) -> Result<(), Error> {
    let Receiving { read, input } = receiving;
    loop {
        // Not a byte of it is kept: what a split leaves holds the whole buffer while the connection is idle.
        let data = std::mem::take(input).freeze();
        if !data.is_empty() {
            carried.set(carried.get().wrapping_add(data.len() as u64));
            sink.send(data).await?;
        }
        let before = carried.get();
        read.arm(Phase::Tunnel, idle_max);
        let received = match up_done.get() {
            false => read.receive(input).await,
            true => Ok(Received::Expired(read.expire().await)),
        };
        match received {
            Ok(Received::Data(_)) => {}
            Ok(Received::Closed(Closure::WithoutNotify)) => {
                return Err(Error::client(Stage::RequestBody, Cause::Truncated));
            }
            Ok(Received::Closed(Closure::Orderly)) => {
                read.disarm();
                sink.finish().await?;
                up_done.set(true);
            }
            // The other direction may have been busy.
            Ok(Received::Expired(_)) if carried.get() != before => {}
            Ok(Received::Expired(_)) => {
                metrics::count(Counter::TimeoutsIdle);
                return Ok(());
            }
            Err(cause) => return Err(Error::on_connection(Stage::RequestBody, cause)),
        }
    }
}

async fn to_the_client<W: Transmit>(
    mut stream: Box<dyn BodyStream>,
    write: &mut W,
    carried: &Cell<u64>,
) -> Result<(), Error> {
    let failed = |cause: Cause| Error::on_connection(Stage::Response, cause);
    while let Some(data) = stream.next().await? {
        carried.set(carried.get().wrapping_add(data.len() as u64));
        write.send(&[IoSlice::new(&data)]).await.map_err(failed)?;
    }
    write.finish().await.map_err(failed)
}
