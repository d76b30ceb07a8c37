//! The streams of one connection, all opened by its client (RFC 9113 5).

use std::collections::VecDeque;

use super::flow::{FlowError, ReceiveWindow, SendWindow};
use super::frame::{Data, Role};
use super::priority::Priority;
use super::{ConnectionError, ErrorCode, StreamError, StreamId};
use crate::limits::H2_RESETS_REMEMBERED;

/// A violation, with what it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The connection ends.
    Connection(ConnectionError),
    /// One stream ends.
    Stream(StreamError),
}

impl From<ConnectionError> for Violation {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl From<StreamError> for Violation {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

/// What a HEADERS frame is to a connection. Its block must be decoded in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadersRole {
    /// It asks for a new stream: a request, to be checked and [opened](Streams::open).
    Request,
    /// It answers a stream that this side has opened: a response, or one before it, to be checked and
    /// [begun](Streams::begin_response).
    Response,
    /// It ends a body: trailers, to be checked.
    Trailers,
    /// It was on the way when its stream was reset or the connection began to drain. Decoded, it is
    /// dropped.
    Late,
}

/// Which directions of a stream are open (RFC 9113 5.1). A stream that is idle, or closed and let
/// go of, has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Both directions are open.
    Open,
    /// The request is complete, the response not.
    HalfClosedRemote,
    /// The response is complete, the request not.
    HalfClosedLocal,
    /// Both are complete, or the stream was reset. It counts as open until what serves it has ended
    /// and it is [removed](Streams::remove): else a client could, by resetting streams or having
    /// them reset, have any number of requests served at once.
    Closed,
}

/// One stream, with what the driver keeps for it.
#[derive(Debug)]
pub struct Stream<T> {
    id: StreamId,
    state: State,
    was_reset: bool,
    /// Its request or response has begun.
    has_begun: bool,
    /// What content-length leaves to come; `None` when it was not given.
    content_left: Option<u64>,
    /// What may still be sent.
    pub send: SendWindow,
    /// What may still be received.
    pub receive: ReceiveWindow,
    /// How its response is scheduled.
    pub priority: Priority,
    /// The driver's.
    pub data: T,
}

impl<T> Stream<T> {
    /// Its identifier.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Which directions are open.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it was reset by either side.
    pub fn was_reset(&self) -> bool {
        self.was_reset
    }

    /// Whether more may come from the peer.
    pub fn receives(&self) -> bool {
        matches!(self.state, State::Open | State::HalfClosedLocal)
    }

    /// One that the peer opens.
    #[inline]
    fn new(id: StreamId, opening: Opening, data: T) -> Self {
        Self {
            id,
            state: match opening.end_stream {
                true => State::HalfClosedRemote,
                false => State::Open,
            },
            was_reset: false,
            has_begun: true,
            content_left: opening.content_length,
            send: opening.send,
            receive: opening.receive,
            priority: opening.priority,
            data,
        }
    }

    fn end_receiving(&mut self) -> Result<(), StreamError> {
        // RFC 9113 8.1.1: a content-length that differs from what DATA carried is malformed.
        if self.content_left.is_some_and(|left| left > 0) {
            return Err(self.malformed("a body shorter than its content-length"));
        }
        self.state = match self.state {
            State::Open => State::HalfClosedRemote,
            State::HalfClosedRemote => State::HalfClosedRemote,
            State::HalfClosedLocal | State::Closed => State::Closed,
        };
        Ok(())
    }

    fn malformed(&self, reason: &'static str) -> StreamError {
        StreamError::new(self.id, ErrorCode::Protocol, reason)
    }
}

/// What a stream starts with.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The request is complete: END_STREAM came with its HEADERS.
    pub end_stream: bool,
    /// Its content-length, if it gave one.
    pub content_length: Option<u64>,
    /// The peer's SETTINGS_INITIAL_WINDOW_SIZE.
    pub send: SendWindow,
    /// Ours, and the target it is kept at.
    pub receive: ReceiveWindow,
    /// Its priority.
    pub priority: Priority,
}

/// The open streams, at most as many as were announced; the rest is known by number alone: above
/// the last opened a stream is idle, else closed (RFC 9113 5.1.1).
#[derive(Debug)]
pub struct Streams<T> {
    /// This side's: a client opens them, a server is asked to.
    role: Role,
    /// By identifier. A stream stays where it is while others open and end: only what points to it
    /// moves.
    streams: Vec<(StreamId, Place<T>)>,
    /// Where the one lies that was looked for last: what concerns a stream comes together.
    looked_at: usize,
    /// Where streams have ended, for the next: with those in use never more than were open at once,
    /// and few while none is open.
    free: Vec<Place<T>>,
    concurrent_max: usize,
    /// The highest that has been opened.
    last: StreamId,
    /// Streams above are not served: GOAWAY named it.
    last_served: StreamId,
    /// Reset by this side, the oldest first.
    recently_reset: VecDeque<StreamId>,
}

impl<T> Streams<T> {
    /// None yet, and at most `concurrent_max` at once: what SETTINGS_MAX_CONCURRENT_STREAMS says.
    /// `role` is this side's.
    pub fn new(role: Role, concurrent_max: usize) -> Self {
        Self {
            role,
            streams: Vec::new(),
            looked_at: 0,
            free: Vec::new(),
            concurrent_max,
            last: 0,
            last_served: StreamId::MAX,
            recently_reset: VecDeque::new(),
        }
    }

    /// How many are open, closed but not removed ones among them.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether none is open: a drain is then complete.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether this side may open another stream.
    pub fn has_room(&self) -> bool {
        self.streams.len() < self.concurrent_max && self.last < LAST_ID
    }

    /// The peer changed how many streams this side may have open.
    pub fn set_concurrent_max(&mut self, concurrent_max: usize) {
        self.concurrent_max = concurrent_max;
    }

    /// Opens a stream of this side, where there [is room](Self::has_room): its identifier.
    pub fn open_next(&mut self, opening: Opening, data: T) -> StreamId {
        // RFC 9113 5.1.1: odd, and higher than all before.
        self.last = match self.last {
            0 => 1,
            last => last + 2,
        };
        let id = self.last;
        let mut stream = Stream::new(id, opening, data);
        stream.has_begun = false;
        if opening.end_stream {
            stream.state = State::HalfClosedLocal;
        }
        self.put(stream);
        id
    }

    /// The response on `id` has begun, whose content-length is `length`.
    ///
    /// # Errors
    /// It has ended, and the length promised more.
    pub fn begin_response(
        &mut self,
        id: StreamId,
        length: Option<u64>,
        end_stream: bool,
    ) -> Result<(), StreamError> {
        let Some(stream) = self.get(id) else {
            return Ok(());
        };
        stream.has_begun = true;
        stream.content_left = length;
        match end_stream {
            true => stream.end_receiving(),
            false => Ok(()),
        }
    }

    /// The highest stream that was or will be served: for GOAWAY, where it never rises again once
    /// named (RFC 9113 6.8).
    pub fn last(&self) -> StreamId {
        self.last.min(self.last_served)
    }

    /// The open stream `id`.
    pub fn get(&mut self, id: StreamId) -> Option<&mut Stream<T>> {
        let index = self.position(id)?;
        let (_, place) = self.streams.get_mut(index)?;
        Option::as_mut(place)
    }

    /// Every open stream, by identifier.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream<T>> {
        self.streams
            .iter_mut()
            .filter_map(|(_, place)| Option::as_mut(place))
    }

    /// Whether the stream `id` was never opened: RST_STREAM must not be sent for it (RFC 9113 6.4).
    pub fn is_idle(&self, id: StreamId) -> bool {
        self.check_not_idle(id).is_err()
    }

    /// GOAWAY went out with [`last`](Self::last): streams above it are not served (RFC 9113 6.8).
    pub fn stop_opening(&mut self) {
        self.last_served = self.last();
    }

    /// A HEADERS frame came. To be called before its block is decoded, which must follow unless the
    /// connection ends.
    ///
    /// # Errors
    /// The stream must not have been opened, or its request is already complete. A stream that is
    /// one too many ends with REFUSED_STREAM, so that the client may send it again (5.1.2).
    pub fn handle_headers(
        &mut self,
        id: StreamId,
        end_stream: bool,
    ) -> Result<HeadersRole, Violation> {
        if self.role == Role::Client {
            return self.handle_response(id, end_stream);
        }
        if id.is_multiple_of(2) {
            // RFC 9113 5.1.1: those are the server's to open.
            return Err(protocol("a stream of an even number").into());
        }
        if id <= self.last {
            return self.handle_trailers(id, end_stream);
        }
        self.last = id;
        if id > self.last_served {
            return Ok(HeadersRole::Late);
        }
        if self.streams.len() >= self.concurrent_max {
            self.remember_reset(id);
            let reason = "more streams than allowed";
            return Err(StreamError::new(id, ErrorCode::RefusedStream, reason).into());
        }
        Ok(HeadersRole::Request)
    }

    /// Opens the stream `id`, which [`handle_headers`](Self::handle_headers) has just allowed.
    #[inline]
    pub fn open(&mut self, id: StreamId, opening: Opening, data: T) {
        self.put(Stream::new(id, opening, data));
    }

    /// A DATA frame came: the stream, which may take its content, or `None` when the content was on
    /// the way as its stream was reset and is to be dropped. The connection's receive window must
    /// have counted the frame before; where this gives no stream, it is released there at once
    /// (RFC 9113 6.9: also under an error of the stream).
    ///
    /// # Errors
    /// The stream is idle (5.1), its request is complete (6.1), its window overrun (6.9.1), or its
    /// content longer or shorter than declared (8.1.1).
    pub fn handle_data(&mut self, frame: &Data<'_>) -> Result<Option<&mut Stream<T>>, Violation> {
        let id = frame.stream;
        let Some(stream) = self.known(id)? else {
            return Ok(None);
        };
        if !stream.receives() {
            return Err(closed(id).into());
        }
        // RFC 9113 8.1: content comes behind HEADERS.
        if !stream.has_begun {
            return Err(stream.malformed("DATA before a response").into());
        }
        let overrun =
            |FlowError| StreamError::new(id, FlowError::CODE, "a stream's window was overrun");
        stream.receive.receive(frame.flow_bytes).map_err(overrun)?;
        if let Some(left) = &mut stream.content_left {
            match left.checked_sub(frame.content.len() as u64) {
                Some(rest) => *left = rest,
                None => {
                    return Err(stream
                        .malformed("a body longer than its content-length")
                        .into());
                }
            }
        }
        if frame.end_stream {
            stream.end_receiving()?;
        }
        Ok(Some(stream))
    }

    /// The peer reset a stream: it is closed, and to be removed once what serves it has ended.
    /// `None` when it was already closed.
    ///
    /// # Errors
    /// The stream is idle: an error of the connection (RFC 9113 6.4).
    pub fn handle_reset(
        &mut self,
        id: StreamId,
    ) -> Result<Option<&mut Stream<T>>, ConnectionError> {
        self.check_not_idle(id)?;
        let Some(stream) = self.get(id).filter(|stream| !stream.was_reset) else {
            return Ok(None);
        };
        stream.state = State::Closed;
        stream.was_reset = true;
        Ok(Some(stream))
    }

    /// The peer opened a stream's send window further: the stream, unless it is closed, for which
    /// updates may come late (RFC 9113 5.1).
    ///
    /// # Errors
    /// The stream is idle, or its window would pass the maximum (6.9.1).
    pub fn handle_window_update(
        &mut self,
        id: StreamId,
        increment: u32,
    ) -> Result<Option<&mut Stream<T>>, Violation> {
        self.check_not_idle(id)?;
        let Some(stream) = self.get(id).filter(|stream| !stream.was_reset) else {
            return Ok(None);
        };
        let overflow =
            |FlowError| StreamError::new(id, FlowError::CODE, "a stream's window over its maximum");
        stream.send.increase(increment).map_err(overflow)?;
        Ok(Some(stream))
    }

    /// The peer changed SETTINGS_INITIAL_WINDOW_SIZE from `old` to `new`: every stream follows.
    ///
    /// # Errors
    /// A window would pass the maximum: an error of the connection (RFC 9113 6.9.2).
    pub fn change_initial_send_window(
        &mut self,
        old: u32,
        new: u32,
    ) -> Result<(), ConnectionError> {
        for stream in self.iter_mut() {
            stream.send.change_initial(old, new).map_err(|FlowError| {
                ConnectionError::new(FlowError::CODE, "a stream's window over its maximum")
            })?;
        }
        Ok(())
    }

    /// This side sent END_STREAM on `id`: the stream.
    pub fn end_sending(&mut self, id: StreamId) -> Option<&mut Stream<T>> {
        let stream = self.get(id)?;
        stream.state = match stream.state {
            State::Open | State::HalfClosedLocal => State::HalfClosedLocal,
            State::HalfClosedRemote | State::Closed => State::Closed,
        };
        Some(stream)
    }

    /// This side sent RST_STREAM on `id`: what is on the way for it will be ignored (RFC 9113 5.1).
    pub fn reset(&mut self, id: StreamId) {
        self.remember_reset(id);
        if let Some(stream) = self.get(id) {
            stream.state = State::Closed;
            stream.was_reset = true;
        }
    }

    /// Lets go of a stream whose service has ended: its place is free for another. Whether there was
    /// one.
    pub fn remove(&mut self, id: StreamId) -> bool {
        let Some(index) = self.position(id) else {
            return false;
        };
        let (_, mut place) = self.streams.remove(index);
        // It ends where it lies.
        *place = None;
        self.free.push(place);
        if self.streams.is_empty() && self.free.len() > FREE_PLACES_MAX {
            self.free.truncate(FREE_PLACES_MAX);
            self.free.shrink_to_fit();
            self.streams.shrink_to(FREE_PLACES_MAX);
        }
        true
    }

    #[inline]
    fn put(&mut self, stream: Stream<T>) {
        let id = stream.id;
        let mut place = self.free.pop().unwrap_or_default();
        *place = Some(stream);
        // Identifiers rise.
        self.streams.push((id, place));
    }

    fn handle_response(
        &mut self,
        id: StreamId,
        end_stream: bool,
    ) -> Result<HeadersRole, Violation> {
        let Some(stream) = self.known(id)? else {
            return Ok(HeadersRole::Late);
        };
        if stream.receives() && !stream.has_begun {
            return Ok(HeadersRole::Response);
        }
        self.handle_trailers(id, end_stream)
    }

    fn handle_trailers(
        &mut self,
        id: StreamId,
        end_stream: bool,
    ) -> Result<HeadersRole, Violation> {
        let Some(stream) = self.known(id).map_err(|violation| match violation {
            // A stream that has ended cannot be opened again (5.1.1).
            Violation::Stream(error) => ConnectionError::new(error.code, error.reason).into(),
            Violation::Connection(_) => violation,
        })?
        else {
            return Ok(HeadersRole::Late);
        };
        if !stream.receives() {
            return Err(closed(id).into());
        }
        // RFC 9113 8.1: HEADERS behind the first that do not end the stream are malformed.
        if !end_stream {
            return Err(stream
                .malformed("trailers that do not end the stream")
                .into());
        }
        stream.end_receiving()?;
        Ok(HeadersRole::Trailers)
    }

    /// The stream `id` if it can take frames, `None` if those are to be ignored.
    fn known(&mut self, id: StreamId) -> Result<Option<&mut Stream<T>>, Violation> {
        self.check_not_idle(id)?;
        let ignored = self.recently_reset.contains(&id) || id > self.last_served;
        match self.get(id) {
            Some(stream) if !stream.was_reset => Ok(Some(stream)),
            // RFC 9113 5.1: after its own RST_STREAM a peer may send nothing; after ours, what was on
            // the way.
            Some(_) | None if ignored => Ok(None),
            Some(_) | None => Err(closed(id).into()),
        }
    }

    /// RFC 9113 5.1: on an idle stream anything but HEADERS and PRIORITY is an error of the
    /// connection. All even ones are idle: nothing is pushed.
    fn check_not_idle(&self, id: StreamId) -> Result<(), ConnectionError> {
        if id > self.last || id.is_multiple_of(2) {
            return Err(protocol("a frame for an idle stream"));
        }
        Ok(())
    }

    fn remember_reset(&mut self, id: StreamId) {
        if self.recently_reset.contains(&id) {
            return;
        }
        if self.recently_reset.len() >= H2_RESETS_REMEMBERED {
            self.recently_reset.pop_front();
        }
        self.recently_reset.push_back(id);
    }

    fn position(&mut self, id: StreamId) -> Option<usize> {
        let looked_at = self.streams.get(self.looked_at);
        if looked_at.is_none_or(|&(other, _)| other != id) {
            let found = self.streams.binary_search_by_key(&id, |&(id, _)| id);
            self.looked_at = found.ok()?;
        }
        Some(self.looked_at)
    }
}

/// Where a stream lies; `None` only while it is [free](Streams::free).
type Place<T> = Box<Option<Stream<T>>>;

/// Places kept while no stream is open: enough for the next few requests, and a few KB.
const FREE_PLACES_MAX: usize = 8;

/// The last stream that a client can open (RFC 9113 5.1.1).
const LAST_ID: StreamId = 0x7fff_ffff;

fn closed(id: StreamId) -> StreamError {
    StreamError::new(id, ErrorCode::StreamClosed, "a frame for a closed stream")
}

const fn protocol(reason: &'static str) -> ConnectionError {
    ConnectionError::protocol(reason)
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
