//! A stream of an HTTP/2 connection that has changed its protocol (RFC 8441).

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use std::cell::RefCell;

use bytes::Bytes;

use super::http2::Failed;
use super::websocket;
use crate::error::Error;
use crate::message::{Body, BodySink, BodyStream, Fields, LocalFuture, Response, Status, Upgrade};
use crate::proto::h2::connection::Room;
use crate::proto::h2::connection::client::Lost;
use crate::proto::h2::response::ResponseHead;
use crate::proto::hop_by_hop::ConnectionOptions;
use crate::proto::syntax::list_members;
use crate::upstream::{Http2Sink, Http2Stream, Pool};

/// A WebSocket that is asked for.
pub(super) struct Tunnel {
    request: Fields,
    /// The key that the client sent, where it speaks HTTP/1.1 and wants it answered.
    key: Option<Vec<u8>>,
}

impl Tunnel {
    /// What asks for a WebSocket as `fields` do, which are those of a request of HTTP/1.1; `None` where they
    /// ask for none.
    pub(super) fn of(fields: &Fields) -> Option<Self> {
        let mut protocols = list_members(fields.only("upgrade")?);
        protocols.find(|name| websocket::is_websocket(name))?;
        let key = fields.only("sec-websocket-key").map(<[u8]>::to_vec);
        let pseudo = [
            (&b":method"[..], &b"CONNECT"[..]),
            (b":protocol", b"websocket"),
        ];
        let others = fields.iter().filter(|(name, _)| {
            *name != b":method" && !name.eq_ignore_ascii_case(b"sec-websocket-key")
        });
        let request = Fields::of(pseudo.into_iter().chain(others));
        Some(Self { request, key })
    }

    /// The extended CONNECT.
    pub(super) fn request(&self) -> Fields {
        self.request.clone()
    }

    /// The response that says that the protocol has changed, as HTTP/1.1 does.
    pub(super) fn answer(&self, pool: &Pool, stream: Http2Stream, head: ResponseHead) -> Response {
        let mut response = Response::new(Status(101)).with("upgrade", "websocket");
        if let Some(key) = &self.key {
            response = response.with("sec-websocket-accept", websocket::accept(key));
        }
        let mut fields = head.fields;
        if let Ok(options) = ConnectionOptions::of(&fields) {
            fields.retain(|name, _| !options.is_hop_by_hop(name));
        }
        response.relayed = fields;
        response.body = Body::Upgrade(Box::new(UpgradedStream {
            stream,
            idle_max: pool.http().upgraded_idle,
        }));
        response
    }
}

/// The server's end.
struct UpgradedStream {
    stream: Http2Stream,
    idle_max: Duration,
}

impl Upgrade for UpgradedStream {
    fn into_halves(self: Box<Self>) -> (Box<dyn BodyStream>, Box<dyn BodySink>) {
        let sink = self.stream.sink();
        // Reset when both are gone and it has not ended.
        let stream = Rc::new(RefCell::new(self.stream));
        let to_server = ToServer {
            sink,
            _stream: stream.clone(),
        };
        (Box::new(FromServer { stream }), Box::new(to_server))
    }

    fn idle_max(&self) -> Duration {
        self.idle_max
    }
}

struct FromServer {
    stream: Rc<RefCell<Http2Stream>>,
}

impl BodyStream for FromServer {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(poll_fn(|context| {
            let next = self.stream.borrow_mut().poll_body(context);
            next.map_err(|lost| Failed::Server(lost).into_error())
        }))
    }
}

struct ToServer {
    sink: Http2Sink,
    _stream: Rc<RefCell<Http2Stream>>,
}

impl BodySink for ToServer {
    fn send(&mut self, data: Bytes) -> LocalFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            match poll_fn(|context| self.sink.poll_room(context)).await {
                Room::More => {
                    self.sink.push(data);
                    Ok(())
                }
                Room::Gone => Err(Failed::Server(Lost::Closed).into_error()),
            }
        })
    }

    fn finish(&mut self) -> LocalFuture<'_, Result<(), Error>> {
        self.sink.end(Fields::default());
        Box::pin(poll_fn(|_| Poll::Ready(Ok(()))))
    }
}
