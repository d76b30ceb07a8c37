//! The server's end of a connection that has changed its protocol.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::exchange::blamed;
use crate::error::{Cause, Error};
use crate::message::{BodySink, BodyStream, LocalFuture, Upgrade};
use crate::net::deadline::Phase;
use crate::net::stream::{Closure, ReadHalf, Received, WriteHalf};
use crate::upstream::Place;

/// A server's connection after its 101.
pub(super) struct Upgraded {
    pub(super) read: ReadHalf,
    pub(super) write: WriteHalf,
    /// Bytes of the new protocol that came with the answer.
    pub(super) input: BytesMut,
    pub(super) place: Place,
    pub(super) idle_max: Duration,
}

impl Upgrade for Upgraded {
    fn into_halves(self: Box<Self>) -> (Box<dyn BodyStream>, Box<dyn BodySink>) {
        let Self {
            read,
            write,
            input,
            place,
            idle_max,
        } = *self;
        let half_closed = Rc::new(Cell::new(false));
        let stream = FromServer {
            read,
            input,
            half_closed: half_closed.clone(),
            idle_max,
            _place: place,
        };
        let sink = ToServer {
            write,
            half_closed,
            idle_max,
        };
        (Box::new(stream), Box::new(sink))
    }

    fn idle_max(&self) -> Duration {
        self.idle_max
    }
}

struct FromServer {
    read: ReadHalf,
    input: BytesMut,
    /// Nothing more goes to the server: its silence is all there is to time.
    half_closed: Rc<Cell<bool>>,
    idle_max: Duration,
    _place: Place,
}

impl FromServer {
    async fn next_data(&mut self) -> Result<Option<Bytes>, Error> {
        if self.input.is_empty() {
            if self.half_closed.get() {
                self.read.deadline().arm(Phase::Tunnel, self.idle_max);
            }
            match self.read.receive(&mut self.input).await.map_err(blamed)? {
                Received::Data(_) => {}
                Received::Closed(Closure::Orderly) => return Ok(None),
                Received::Closed(Closure::WithoutNotify) => return Err(blamed(Cause::Truncated)),
                Received::Expired(_) => return Err(blamed(Cause::Timeout(IDLE_KEY))),
            }
        }
        Ok(Some(self.input.split().freeze()))
    }
}

impl BodyStream for FromServer {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(self.next_data())
    }
}

struct ToServer {
    write: WriteHalf,
    half_closed: Rc<Cell<bool>>,
    idle_max: Duration,
}

impl BodySink for ToServer {
    fn send(&mut self, data: Bytes) -> LocalFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.write
                .send(&[IoSlice::new(&data)])
                .await
                .map_err(blamed)
        })
    }

    fn finish(&mut self) -> LocalFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.half_closed.set(true);
            // The other half waits already.
            self.write.deadline().arm(Phase::Tunnel, self.idle_max);
            self.write.finish().await.map_err(blamed)
        })
    }
}

const IDLE_KEY: &str = "upstream.http.upgraded_idle_ms";
