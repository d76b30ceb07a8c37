//! The server's end of a connection that has changed its protocol.

use std::io::IoSlice;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::exchange::blamed;
use crate::error::{Cause, Error};
use crate::message::{BodySink, BodyStream, LocalFuture, Upgrade};
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
            ..
        } = *self;
        let stream = FromServer {
            read,
            input,
            _place: place,
        };
        let to_server = ToServer {
            write,
            has_finished: false,
        };
        (Box::new(stream), Box::new(to_server))
    }

    fn idle_max(&self) -> Duration {
        self.idle_max
    }
}

struct FromServer {
    read: ReadHalf,
    input: BytesMut,
    _place: Place,
}

impl FromServer {
    async fn next_data(&mut self) -> Result<Option<Bytes>, Error> {
        while self.input.is_empty() {
            self.input = BytesMut::new();
            match self.read.receive(&mut self.input).await.map_err(blamed)? {
                Received::Data(_) => {}
                Received::Closed(Closure::Orderly) => return Ok(None),
                Received::Closed(Closure::WithoutNotify) => return Err(blamed(Cause::Truncated)),
                // Armed by nobody.
                Received::Expired(_) => {}
            }
        }
        // What a split leaves would keep the whole buffer while the connection is idle.
        Ok(Some(std::mem::take(&mut self.input).freeze()))
    }
}

impl BodyStream for FromServer {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(self.next_data())
    }
}

struct ToServer {
    write: WriteHalf,
    has_finished: bool,
}

impl Drop for ToServer {
    fn drop(&mut self) {
        if !self.has_finished {
            self.write.abort();
        }
    }
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
            self.write.finish().await.map_err(blamed)?;
            self.has_finished = true;
            Ok(())
        })
    }
}
