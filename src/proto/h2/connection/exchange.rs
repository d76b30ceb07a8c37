//! One request and its response: the body that has come, the response that waits to be sent.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::client::Lost;
use super::{Connection, Role, State};
use crate::limits::H2_RESPONSE_AHEAD_BYTES;
use crate::message::{
    Body, BodyStream, Fields, FileRange, Interim, Method, Part, Response, Status, Upgrade,
};
use crate::metrics::{self, Counter};
use crate::proto::h1::encode::{Framing, Plan};
use crate::proto::h2::frame::put_window_update;
use crate::proto::h2::response::ResponseHead;
use crate::proto::h2::stream::State as StreamState;
use crate::proto::h2::{ErrorCode, StreamId};

/// Why a request body cannot be read on. While nothing of the response was sent, it is to be
/// `status` instead of what its handler makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The status that tells the client.
    pub status: Status,
    /// What happened, for the log.
    pub reason: &'static str,
    /// The configuration key of the deadline that passed, if one did.
    pub timeout: Option<&'static str>,
}

/// What is to be made while it is sent.
pub enum Made {
    /// A body.
    Body(Box<dyn BodyStream>),
    /// The bytes of another protocol, both ways.
    Tunnel(Box<dyn Upgrade>),
}

/// What asking for a request body gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyPoll {
    /// Bytes of it, at least one.
    Data(Bytes),
    /// It is complete.
    End,
    /// It cannot be read on.
    Failed(Failure),
    /// The stream is gone.
    Gone,
    /// A client's: it ended before its end.
    Lost(Lost),
}

/// Whether a piece of a response has been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room for more.
    More,
    /// The stream is gone, or has been sent all that its response promised.
    Gone,
}

/// What a connection keeps for a stream.
#[derive(Debug)]
pub(super) struct Exchange<T> {
    /// The driver's.
    pub(super) data: Option<T>,
    /// The client takes fields behind the content (RFC 9110 6.5.1).
    pub(super) takes_trailers: bool,
    /// The fields that followed the request's content.
    pub(super) trailers: Fields,
    /// HEAD, or any other method: what decides how a response is framed.
    pub(super) method: Method,
    /// Received, and not yet asked for.
    pub(super) body: BytesMut,
    pub(super) received_bytes: u64,
    /// The client waits for 100 (Continue) and has not been sent it.
    pub(super) owes_continue: bool,
    pub(super) failure: Option<Failure>,
    /// Who waits for more of the body.
    pub(super) reader: Option<Waker>,
    pub(super) opened_ms: u64,
    /// When the body last grew or was first waited for.
    pub(super) body_progress_ms: u64,
    pub(super) outgoing: Outgoing,
    /// When something of the response was last sent, or the response was there.
    pub(super) send_progress_ms: u64,
    /// The send in which it last had its turn.
    pub(super) turn: u64,
    /// A client's: the head of the response, until it is taken.
    pub(super) response: Option<ResponseHead>,
    /// It has come.
    pub(super) has_response: bool,
    /// How many interim ones there were before it.
    pub(super) interim_responses: usize,
    /// Those of them that are to be passed on.
    pub(super) interims: Vec<Interim>,
    /// Both directions carry another protocol (RFC 8441).
    pub(super) is_tunnel: bool,
    /// How long neither may be silent, once it is established.
    pub(super) tunnel_idle_ms: Option<u64>,
    /// A client's: why nothing more comes.
    pub(super) lost: Option<Lost>,
}

/// The response, as far as it was made and not sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// 100 (Continue) is to be sent.
    pub(super) sends_continue: bool,
    /// To be sent before the head.
    pub(super) interims: Vec<Interim>,
    /// The head, until it is sent.
    pub(super) head: Option<Head>,
    pub(super) has_begun: bool,
    /// The status, once it was given out for sending.
    pub(super) sent_status: Option<Status>,
    /// Content and its framing, given out likewise.
    pub(super) sent_bytes: u64,
    /// All of it was given out.
    pub(super) has_ended: bool,
    pub(super) body: OutgoingBody,
}

#[derive(Debug)]
pub(super) enum Head {
    /// With its content-length.
    Response(Response, Option<u64>),
    Request(Fields),
}

#[derive(Debug)]
pub(super) enum OutgoingBody {
    /// Nobody has responded yet.
    Awaited,
    /// Nothing more, which is to be said.
    End,
    /// That was said, or nobody wants to hear it.
    Sent,
    Bytes(Bytes),
    File(FileRange),
    Parts(VecDeque<Part>),
    Chunks(Chunks),
}

/// A body that is made while it is sent.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    pub(super) queue: VecDeque<Bytes>,
    pub(super) bytes: usize,
    pub(super) has_ended: bool,
    /// What content-length leaves to be made.
    promised: Option<u64>,
    pub(super) trailers: Fields,
    maker: Option<Waker>,
}

/// What a request is like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traits {
    pub(super) is_head: bool,
    /// The client waits for 100 (Continue).
    pub(super) expects_continue: bool,
    pub(super) takes_trailers: bool,
    /// It asks for a tunnel.
    pub(super) is_tunnel: bool,
}

impl<T> Exchange<T> {
    #[inline]
    pub(super) fn new(traits: Traits, now_ms: u64) -> Self {
        Self {
            data: None,
            takes_trailers: traits.takes_trailers,
            trailers: Fields::default(),
            method: match traits.is_head {
                true => Method::Head,
                false => Method::Get,
            },
            body: BytesMut::new(),
            received_bytes: 0,
            owes_continue: traits.expects_continue,
            failure: None,
            reader: None,
            opened_ms: now_ms,
            body_progress_ms: now_ms,
            outgoing: Outgoing {
                sends_continue: false,
                interims: Vec::new(),
                head: None,
                has_begun: false,
                sent_status: None,
                sent_bytes: 0,
                has_ended: false,
                body: OutgoingBody::Awaited,
            },
            send_progress_ms: now_ms,
            turn: 0,
            response: None,
            has_response: false,
            interim_responses: 0,
            interims: Vec::new(),
            is_tunnel: traits.is_tunnel,
            tunnel_idle_ms: None,
            lost: None,
        }
    }

    /// Lets whoever waits for this stream look again.
    pub(super) fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        if let OutgoingBody::Chunks(chunks) = &mut self.outgoing.body {
            chunks.wake();
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Outgoing {
    /// Whether there is anything to send that no window holds back.
    pub(super) fn is_free(&self) -> bool {
        self.sends_continue
            || !self.interims.is_empty()
            || self.head.is_some()
            || matches!(&self.body, OutgoingBody::End)
            || matches!(&self.body, OutgoingBody::Chunks(chunks) if chunks.queue.is_empty() && chunks.has_ended)
    }

    /// Whether content waits for the windows.
    pub(super) fn has_content(&self) -> bool {
        match &self.body {
            OutgoingBody::Awaited | OutgoingBody::End | OutgoingBody::Sent => false,
            OutgoingBody::Bytes(_) | OutgoingBody::File(_) | OutgoingBody::Parts(_) => true,
            OutgoingBody::Chunks(chunks) => !chunks.queue.is_empty(),
        }
    }
}

impl Chunks {
    /// None yet, of as many bytes in all, if that is known.
    pub(super) fn promising(length: Option<u64>) -> Self {
        Self {
            promised: length,
            ..Self::default()
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(maker) = self.maker.take() {
            maker.wake();
        }
    }

    /// Takes up to `bytes` off the front, of one chunk.
    pub(super) fn take(&mut self, bytes: usize) -> Bytes {
        let Some(front) = self.queue.front_mut() else {
            return Bytes::new();
        };
        let taken = front.split_to(bytes.min(front.len()));
        if front.is_empty() {
            self.queue.pop_front();
        }
        self.bytes -= taken.len();
        if self.bytes < H2_RESPONSE_AHEAD_BYTES
            && let Some(maker) = self.maker.take()
        {
            maker.wake();
        }
        taken
    }
}

impl<T> Connection<T> {
    /// The next of the body of the request on `id`, or when there is some. What is given out is
    /// consumed: the client may send as much again.
    pub fn poll_body(
        &mut self,
        id: StreamId,
        now_ms: u64,
        context: &Context<'_>,
    ) -> Poll<BodyPoll> {
        let state = &mut self.state;
        let Some(stream) = state.streams.get(id) else {
            return Poll::Ready(BodyPoll::Gone);
        };
        let exchange = &mut stream.data;
        if let Some(failure) = exchange.failure {
            return Poll::Ready(BodyPoll::Failed(failure));
        }
        if let Some(lost) = exchange.lost {
            return Poll::Ready(BodyPoll::Lost(lost));
        }
        if !exchange.body.is_empty() {
            let data = std::mem::take(&mut exchange.body).freeze();
            state.release(id, data.len());
            return Poll::Ready(BodyPoll::Data(data));
        }
        if !matches!(
            stream.state(),
            StreamState::Open | StreamState::HalfClosedLocal
        ) {
            return Poll::Ready(BodyPoll::End);
        }
        let exchange = &mut stream.data;
        if std::mem::take(&mut exchange.owes_continue) {
            exchange.outgoing.sends_continue = !exchange.outgoing.has_begun;
        }
        if exchange.reader.is_none() {
            exchange.body_progress_ms = now_ms;
        }
        exchange.reader = Some(context.waker().clone());
        let due_ms = now_ms + state.config.body_progress_ms;
        state.clock.look_at(due_ms);
        state
            .clock
            .look_at(exchange.opened_ms + state.config.body_ms);
        Poll::Pending
    }

    /// Why the body of the request on `id` could not be read, if it could not.
    pub fn failure(&mut self, id: StreamId) -> Option<Failure> {
        self.state.streams.get(id)?.data.failure
    }

    /// Whether the request on `id` asks for a tunnel (RFC 8441).
    pub fn asks_for_tunnel(&mut self, id: StreamId) -> bool {
        let stream = self.state.streams.get(id);
        stream.is_some_and(|stream| stream.data.is_tunnel)
    }

    /// Passes an interim response on to the client on `id`, before the response.
    pub fn inform(&mut self, id: StreamId, interim: Interim) {
        if let Some(stream) = self.state.streams.get(id)
            && !stream.data.outgoing.has_begun
        {
            stream.data.outgoing.interims.push(interim);
        }
    }

    /// Answers the request on `id`. A body that is made while it is sent is given back: its bytes go
    /// through [`Connection::poll_room`] and [`Connection::push_chunk`], its end through
    /// [`Connection::end_chunks`]. So do those of a tunnel, which lasts until
    /// [`Connection::end_tunnel`].
    pub fn respond(&mut self, id: StreamId, mut response: Response, now_ms: u64) -> Option<Made> {
        let stream = self.state.streams.get(id)?;
        let exchange = &mut stream.data;
        exchange.is_tunnel &= matches!(response.body, Body::Upgrade(_));
        if exchange.is_tunnel {
            establish(&mut response);
        }
        let length = response.body.length();
        let version = crate::message::Version::Http2;
        let plan = Plan::new(&exchange.method, version, response.status, length);
        let content_length = match plan.framing {
            Framing::Length(length) => Some(length),
            Framing::None | Framing::Chunked | Framing::Close => None,
        };
        let body = match plan.sends_body || exchange.is_tunnel {
            true => std::mem::replace(&mut response.body, Body::Empty),
            false => Body::Empty,
        };
        let mut made = None;
        exchange.outgoing.body = match body {
            Body::Upgrade(upgrade) if exchange.is_tunnel => {
                let idle_ms = u64::try_from(upgrade.idle_max().as_millis()).unwrap_or(u64::MAX / 4);
                exchange.tunnel_idle_ms = Some(idle_ms);
                made = Some(Made::Tunnel(upgrade));
                OutgoingBody::Chunks(Chunks::default())
            }
            // RFC 9113 8.6: there is no 101 here, and no other request that would ask for it.
            Body::Empty | Body::Upgrade(_) => OutgoingBody::End,
            Body::Bytes(bytes) if bytes.is_empty() => OutgoingBody::End,
            Body::Bytes(bytes) => OutgoingBody::Bytes(bytes),
            Body::File(range) if range.length == 0 => OutgoingBody::End,
            Body::File(range) => OutgoingBody::File(range),
            Body::Parts(parts) if parts.is_empty() => OutgoingBody::End,
            Body::Parts(parts) => OutgoingBody::Parts(parts.into()),
            Body::Stream(stream, _) => {
                made = Some(Made::Body(stream));
                OutgoingBody::Chunks(Chunks::promising(content_length))
            }
        };
        exchange.outgoing.sends_continue = false;
        exchange.outgoing.has_begun = true;
        let idle_ms = exchange.tunnel_idle_ms.unwrap_or(u64::MAX / 4);
        // RFC 9110 9.3.6: the response to CONNECT has no length.
        let content_length = content_length.filter(|_| exchange.tunnel_idle_ms.is_none());
        exchange.outgoing.head = Some(Head::Response(response, content_length));
        exchange.send_progress_ms = now_ms;
        exchange.body_progress_ms = now_ms;
        let due_ms = now_ms + self.state.config.send_progress_ms.min(idle_ms);
        self.state.clock.look_at(due_ms);
        made
    }

    /// Waits until the response on `id` can take more.
    pub fn poll_room(&mut self, id: StreamId, context: &Context<'_>) -> Poll<Room> {
        match self.chunks(id) {
            Some(chunks) if chunks.bytes >= H2_RESPONSE_AHEAD_BYTES => {
                chunks.maker = Some(context.waker().clone());
                Poll::Pending
            }
            Some(_) => Poll::Ready(Room::More),
            None => Poll::Ready(Room::Gone),
        }
    }

    /// Waits until all of the response on `id` was given out for sending.
    pub fn poll_sent(&mut self, id: StreamId, context: &Context<'_>) -> Poll<()> {
        let Some(stream) = self.state.streams.get(id) else {
            return Poll::Ready(());
        };
        if let OutgoingBody::Chunks(chunks) = &mut stream.data.outgoing.body {
            chunks.maker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Appends `chunk` to the response on `id`. One that is longer than was promised ends the stream
    /// with an error: the client must not take what came for all there is.
    pub fn push_chunk(&mut self, id: StreamId, chunk: Bytes) {
        let Some(chunks) = self.chunks(id) else {
            return;
        };
        if let Some(promised) = &mut chunks.promised {
            let Some(left) = promised.checked_sub(chunk.len() as u64) else {
                self.abort(id);
                return;
            };
            *promised = left;
        }
        if !chunk.is_empty() {
            chunks.bytes += chunk.len();
            chunks.queue.push_back(chunk);
        }
    }

    /// The response on `id` is complete, but for `trailers`. One shorter than was promised ends the
    /// stream with an error.
    pub fn end_chunks(&mut self, id: StreamId, trailers: Fields) {
        let Some(stream) = self.state.streams.get(id) else {
            return;
        };
        let takes_trailers = stream.data.takes_trailers;
        match self.chunks(id) {
            Some(chunks) if chunks.promised.is_some_and(|left| left > 0) => self.abort(id),
            Some(chunks) => {
                chunks.has_ended = true;
                if takes_trailers {
                    chunks.trailers = trailers;
                }
            }
            None => {}
        }
    }

    /// The fields that followed the body of the request on `id`.
    pub fn take_trailers(&mut self, id: StreamId) -> Fields {
        let stream = self.state.streams.get(id);
        stream.map_or_else(Fields::default, |stream| {
            std::mem::take(&mut stream.data.trailers)
        })
    }

    /// The tunnel on `id` has nothing more to carry. One that either end has not ended is reset.
    pub fn end_tunnel(&mut self, id: StreamId) {
        let state = &mut self.state;
        match state.streams.get(id) {
            Some(stream) if stream.state() == StreamState::Closed => state.remove(id),
            Some(_) => state.reset(id, ErrorCode::Cancel),
            None => {}
        }
    }

    /// The response on `id` cannot be made, or not be finished.
    pub fn abort(&mut self, id: StreamId) {
        let state = &mut self.state;
        if state.streams.get(id).is_none() {
            return;
        }
        match state.role {
            Role::Server => {
                metrics::count(Counter::Http2StreamsReset);
                state.reset(id, ErrorCode::Internal);
            }
            Role::Client => state.give_up(id, ErrorCode::Cancel, Lost::Reset(ErrorCode::Cancel)),
        }
    }

    /// Of what was given out for sending of the response on `id`, `bytes` of content were not sent, and
    /// all frames behind them: they cannot be had any more. The stream is reset, whether or not it has
    /// been let go of.
    pub fn take_back(&mut self, id: StreamId, bytes: u64) {
        let state = &mut self.state;
        let increment = u32::try_from(bytes).unwrap_or(u32::MAX);
        // It was taken of this window before: that it overflows would be the peer's doing, who then
        // has less of it.
        state.send_window.increase(increment).ok();
        if let Some(finished) = state.finished.iter_mut().find(|ended| ended.stream == id) {
            finished.is_complete = false;
            finished.body_bytes = finished.body_bytes.saturating_sub(bytes);
        }
        metrics::count(Counter::Http2StreamsReset);
        state.reset(id, ErrorCode::Internal);
    }

    fn chunks(&mut self, id: StreamId) -> Option<&mut Chunks> {
        match &mut self.state.streams.get(id)?.data.outgoing.body {
            OutgoingBody::Chunks(chunks) if !chunks.has_ended => Some(chunks),
            OutgoingBody::Awaited
            | OutgoingBody::End
            | OutgoingBody::Sent
            | OutgoingBody::Bytes(_)
            | OutgoingBody::File(_)
            | OutgoingBody::Parts(_)
            | OutgoingBody::Chunks(_) => None,
        }
    }
}

/// A change of protocol as HTTP/2 says it (RFC 8441 5): a response that has succeeded, without what
/// HTTP/1.1 proves and names with it.
fn establish(response: &mut Response) {
    response.status = Status(200);
    response.relayed.retain(|name, _| {
        let ends_here = ["upgrade", "connection", "sec-websocket-accept"];
        !ends_here
            .iter()
            .any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
    });
}

impl<T> State<T> {
    /// `bytes` of a body were consumed: the client may send as many more.
    pub(super) fn release(&mut self, id: StreamId, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Some(stream) = self.streams.get(id) {
            stream.receive.release(bytes);
            let receives = matches!(
                stream.state(),
                StreamState::Open | StreamState::HalfClosedLocal
            );
            if receives && let Some(increment) = stream.receive.poll_update() {
                put_window_update(id, increment.get(), &mut self.control);
            }
        }
        self.receive_window.release(bytes);
        self.update_connection_window();
    }
}
