//! A stream that carries another protocol (RFC 8441): bytes both ways, whatever they mean.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::body::StreamBody;
use super::{Shared, room};
use crate::error::Error;
use crate::message::{BodySink, BodyStream, Fields, Upgrade};
use crate::metrics::{self, Counter};
use crate::proto::h2::StreamId;
use crate::proto::h2::connection::Room;

/// Carries bytes until both ends have ended their directions. What breaks off resets the stream; so
/// does silence for as long as the upgrade allows, which the connection sees to.
pub(super) async fn run(stream: StreamId, upgrade: Box<dyn Upgrade>, shared: &Rc<Shared>) {
    metrics::count(Counter::UpgradedConnections);
    let (source, sink) = upgrade.into_halves();
    let body = StreamBody::new(shared.clone(), stream);
    let mut up = pin!(to_the_other_end(body, sink));
    let mut down = pin!(to_the_client(stream, source, shared));
    let (mut up_done, mut down_done) = (false, false);
    let carried = poll_fn(|context| {
        if !up_done && let Poll::Ready(ended) = up.as_mut().poll(context) {
            up_done = true;
            if ended.is_err() {
                return Poll::Ready(ended);
            }
        }
        if !down_done && let Poll::Ready(ended) = down.as_mut().poll(context) {
            down_done = true;
            if ended.is_err() {
                return Poll::Ready(ended);
            }
        }
        match up_done && down_done {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    })
    .await;
    let mut connection = shared.connection.borrow_mut();
    match carried {
        Ok(()) => connection.end_tunnel(stream),
        Err(error) => {
            tracing::debug!(%error, stream, "a tunnel broke off");
            connection.abort(stream);
        }
    }
}

async fn to_the_other_end(mut body: StreamBody, mut sink: Box<dyn BodySink>) -> Result<(), Error> {
    while let Some(data) = body.next().await? {
        sink.send(data).await?;
    }
    sink.finish().await
}

/// Ends when the client has been sent the end: until then the stream is not to be let go of.
async fn to_the_client(
    stream: StreamId,
    mut source: Box<dyn BodyStream>,
    shared: &Shared,
) -> Result<(), Error> {
    while room(stream, &mut source, shared).await == Room::More {
        let next = source.next().await?;
        let mut connection = shared.connection.borrow_mut();
        match next {
            Some(data) => connection.push_chunk(stream, data),
            None => {
                connection.end_chunks(stream, Fields::default());
                break;
            }
        }
    }
    poll_fn(|context| shared.connection.borrow_mut().poll_sent(stream, context)).await;
    Ok(())
}
