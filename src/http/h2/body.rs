//! A request's body as its handler sees it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;

use super::Shared;
use crate::error::{Cause, Error, Stage};
use crate::message::{BodyStream, Fields, LocalFuture};
use crate::proto::h2::StreamId;
use crate::proto::h2::connection::{BodyPoll, Failure};

/// The body of the request on one stream. It may outlive its stream: then it ends with an error.
pub(super) struct StreamBody {
    shared: Rc<Shared>,
    stream: StreamId,
}

impl StreamBody {
    pub(super) fn new(shared: Rc<Shared>, stream: StreamId) -> Self {
        Self { shared, stream }
    }
}

impl BodyStream for StreamBody {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(poll_fn(|context| {
            let now_ms = self.shared.now_ms.get();
            let mut connection = self.shared.connection.borrow_mut();
            let poll = connection.poll_body(self.stream, now_ms, context);
            match poll {
                Poll::Pending => Poll::Pending,
                Poll::Ready(BodyPoll::Data(data)) => Poll::Ready(Ok(Some(data))),
                Poll::Ready(BodyPoll::End) => Poll::Ready(Ok(None)),
                Poll::Ready(BodyPoll::Failed(failure)) => Poll::Ready(Err(error(&failure))),
                Poll::Ready(BodyPoll::Gone | BodyPoll::Lost(_)) => {
                    Poll::Ready(Err(Error::client(Stage::RequestBody, Cause::Truncated)))
                }
            }
        }))
    }

    fn take_trailers(&mut self) -> Fields {
        self.shared
            .connection
            .borrow_mut()
            .take_trailers(self.stream)
    }
}

fn error(failure: &Failure) -> Error {
    let cause = match failure.timeout {
        Some(key) => Cause::Timeout(key),
        None => Cause::Protocol(failure.reason),
    };
    Error::client(Stage::RequestBody, cause)
}
