//! One HTTP/2 connection without input or output: bytes in, requests out; responses in,
//! [gathered](crate::message::gather) frames out; the clock an argument. Its server drives it so; a
//! [client] has requests and responses change places.
//!
//! Everything that a peer can make grow is bounded: streams by number, what they hold by their
//! windows, answers to frames by [`H2_CONTROL_BYTES_MAX`], and what is cheap to send by its
//! [budget](super::flood). A response waits in its stream until the socket has room for it: it is
//! framed then, by its priority, and its stream stays open so long, so that a client which does not
//! read cannot have more requests served than it may have open.

pub mod client;
mod exchange;
mod receive;
mod send;
mod timing;

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use bytes::BytesMut;

pub use self::exchange::{BodyPoll, Failure, Made, Room};
pub use self::timing::Wait;

use self::client::Lost;
use self::exchange::Exchange;
use super::flood::{Budgets, Event as Cost};
use super::flow::{ReceiveWindow, SendWindow, WINDOW_BYTES_INITIAL};
use super::frame::{self, Role, put_goaway, put_ping, put_rst_stream, put_window_update};
use super::hpack::{self, HeaderList};
use super::priority::Priority;
use super::settings::{LocalSettings, Settings};
use super::stream::{Stream, Streams};
use super::{ConnectionError, ErrorCode, StreamId, request};
use crate::config::{Http2, Limits, Timeouts};
use crate::limits::{H2_CONTROL_BYTES_MAX, HEADER_FIELDS_MAX};
use crate::message::{Request, Status};
use crate::metrics::{self, Counter};

/// What the driver is to do.
#[derive(Debug)]
pub enum Event {
    /// A stream has opened with this request: it is to be answered. The second says whether a body
    /// follows.
    Request(StreamId, Rc<Request>, bool),
    /// A stream has opened with a request that is to be answered with this status.
    Refused(StreamId, Option<Rc<Request>>, Status, &'static str),
    /// The stream is gone: whatever serves it is to be dropped.
    Gone(StreamId),
}

/// A stream that is over, whose response had begun.
#[derive(Debug)]
pub struct Finished<T> {
    /// The stream.
    pub stream: StreamId,
    /// What the driver keeps for it.
    pub data: T,
    /// The status that was sent.
    pub status: Status,
    /// Content and its framing that were given out for sending.
    pub body_bytes: u64,
    /// Whether that was all of the response.
    pub is_complete: bool,
}

/// The state of one connection. For each stream the driver keeps a `T`.
#[derive(Debug)]
pub struct Connection<T> {
    decoder: frame::Decoder,
    state: State<T>,
}

/// All but the decoder, whose frames are borrowed from it while they are handled.
#[derive(Debug)]
struct State<T> {
    /// This side's.
    role: Role,
    config: Config,
    streams: Streams<Exchange<T>>,
    /// SETTINGS of the peer, as far as they have come.
    peer: Settings,
    local: LocalSettings,
    hpack_in: hpack::Decoder,
    hpack_out: hpack::Encoder,
    list: HeaderList,
    budgets: Budgets,
    send_window: SendWindow,
    receive_window: ReceiveWindow,
    /// Frames that belong to no response.
    control: Vec<u8>,
    events: VecDeque<Event>,
    finished: VecDeque<Finished<T>>,
    /// Of streams not yet opened.
    priorities_ahead: VecDeque<(StreamId, Priority)>,
    /// The streams that have something to send, in the order of sending; kept for its memory.
    candidates: Vec<send::Candidate>,
    /// A content-length as text; kept for its memory.
    digits: Vec<u8>,
    /// Counts sends, so that streams that share take turns.
    turn: u64,
    /// When the streams that are sent one after the other had their last turn, by urgency.
    lane_turns: [u64; 8],
    phase: Phase,
    drain: Drain,
    /// The peer has ended its direction: no frame comes any more.
    has_input_ended: bool,
    /// A client's: those that wait for the server's SETTINGS, at most as many as ask.
    settings_wakers: Vec<Waker>,
    opened: u64,
    clock: timing::Clock,
}

/// What has come of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client's preface is due (RFC 9113 3.4).
    Preface,
    /// Its first frame is due, which must be SETTINGS.
    FirstSettings,
    Open,
    /// GOAWAY with its last stream is on its way and none is open, or an error has ended it.
    Finished,
}

/// How far a graceful end has come (RFC 9113 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// GOAWAY that names no last stream went out, with a PING to learn when it has arrived.
    Announced {
        since_ms: u64,
    },
    /// GOAWAY with the last stream went out: those open are finished.
    Final,
}

/// Bounds and deadlines, in the units they are used in.
#[derive(Clone, Copy, Debug)]
struct Config {
    http2: Http2,
    target_bytes_max: usize,
    body_bytes_max: u64,
    requests_max: u64,
    header_ms: u64,
    body_progress_ms: u64,
    body_ms: u64,
    send_progress_ms: u64,
    idle_ms: u64,
    /// A client's alone.
    first_byte_ms: u64,
    ping_ms: u64,
}

impl<T> Connection<T> {
    /// A connection that begins at `now_ms`. Its SETTINGS are the first to be sent.
    pub fn new(http2: &Http2, limits: &Limits, timeouts: &Timeouts, now_ms: u64) -> Self {
        let config = Config::new(http2, limits, timeouts);
        let mut state = State::new(Role::Server, config, now_ms);
        let settings = state.config.settings();
        state.local.send(settings, now_ms, &mut state.control);
        state.update_connection_window();
        Self::of(state)
    }

    fn of(state: State<T>) -> Self {
        Self {
            decoder: frame::Decoder::new(state.role),
            state,
        }
    }

    /// Takes whole frames off `input`, which came up to `now_ms`. What it leaves is the beginning of
    /// a frame.
    ///
    /// # Errors
    /// A violation that ends the connection: [`Connection::fail`] is to follow.
    pub fn handle_input(
        &mut self,
        input: &mut BytesMut,
        now_ms: u64,
    ) -> Result<(), ConnectionError> {
        let Self { decoder, state } = self;
        state.clock.now_ms = now_ms;
        if state.phase == Phase::Preface && !state.handle_preface(input)? {
            return Ok(());
        }
        let mut consumed = 0;
        while state.phase != Phase::Finished {
            let rest = input.get(consumed..).unwrap_or_default();
            let Some(decoded) = decoder.decode(rest)? else {
                break;
            };
            consumed += decoded.consumed;
            state.handle_frame(decoded.frame, now_ms)?;
        }
        bytes::Buf::advance(input, consumed);
        if state.phase == Phase::Finished {
            input.clear();
        }
        state.note_partial(input, now_ms);
        Ok(())
    }

    /// What is to be done next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.state.events.pop_front()
    }

    /// Keeps `data` for the stream `id`, until it is over.
    pub fn attach(&mut self, id: StreamId, data: T) {
        if let Some(stream) = self.state.streams.get(id) {
            stream.data.data = Some(data);
        }
    }

    /// A stream that is over, with what the driver has [attached](Self::attach) to it. What was last
    /// given out of it may not be sent yet.
    pub fn poll_finished(&mut self) -> Option<Finished<T>> {
        self.state.finished.pop_front()
    }

    /// Whether no more input is to be received: too many answers wait to be sent, or it is finished.
    pub fn holds_reader(&self) -> bool {
        self.state.control.len() > H2_CONTROL_BYTES_MAX || self.is_finished()
    }

    /// Whether nothing is to be done but to send what is left, and close.
    pub fn is_finished(&self) -> bool {
        self.state.phase == Phase::Finished
    }

    /// Whether answers to the peer's frames wait to be sent.
    pub fn has_answers(&self) -> bool {
        !self.state.control.is_empty()
    }

    /// Whether a stream is open.
    pub fn is_serving(&self) -> bool {
        !self.state.streams.is_empty()
    }

    /// Requests so far.
    pub fn opened(&self) -> u64 {
        self.state.opened
    }

    /// Whether a graceful end has begun.
    pub fn is_draining(&self) -> bool {
        self.state.drain != Drain::No
    }

    /// Begins a graceful end: the client is told that no new stream will be served, with time for
    /// those on their way (RFC 9113 6.8).
    pub fn drain(&mut self, now_ms: u64) {
        self.state.drain(now_ms);
    }

    /// The peer has ended its direction. Requests that are complete are answered as far as the windows
    /// that it has opened go; the others are dropped. Gives whether there were any of those.
    pub fn end_input(&mut self) -> bool {
        self.state.end_input()
    }

    /// Whether the peer has ended its direction.
    pub fn has_input_ended(&self) -> bool {
        self.state.has_input_ended
    }

    /// Ends the connection for `error`: GOAWAY is the last that is sent.
    pub fn fail(&mut self, error: &ConnectionError) {
        if self.state.is_client() {
            metrics::count(Counter::UpstreamConnectionsFailed);
            self.state.lose_all(Lost::Protocol(error.reason));
            self.state.finish(error.code);
            return;
        }
        metrics::count(Counter::Http2Goaways);
        if error.code == ErrorCode::EnhanceYourCalm {
            metrics::count(Counter::Http2Floods);
        }
        self.state.finish(error.code);
    }

    /// Ends the connection without an error, whatever is open on it: it was idle for too long, or
    /// the client has ended its direction.
    pub fn finish(&mut self) {
        self.state.finish(ErrorCode::No);
    }
}

impl<T> State<T> {
    fn new(role: Role, config: Config, now_ms: u64) -> Self {
        let http2 = &config.http2;
        Self {
            role,
            streams: Streams::new(role, http2.concurrent_streams_max),
            peer: Settings::default(),
            local: LocalSettings::default(),
            hpack_in: hpack::Decoder::new(),
            hpack_out: hpack::Encoder::new(),
            list: HeaderList::default(),
            budgets: Budgets::new(now_ms),
            send_window: SendWindow::new(WINDOW_BYTES_INITIAL),
            receive_window: ReceiveWindow::new(WINDOW_BYTES_INITIAL, http2.connection_window_bytes),
            control: Vec::new(),
            events: VecDeque::new(),
            finished: VecDeque::new(),
            priorities_ahead: VecDeque::new(),
            candidates: Vec::new(),
            digits: Vec::new(),
            turn: 0,
            lane_turns: [0; 8],
            phase: Phase::Preface,
            drain: Drain::No,
            has_input_ended: false,
            settings_wakers: Vec::new(),
            opened: 0,
            clock: timing::Clock::new(now_ms, config.header_ms),
            config,
        }
    }

    fn is_client(&self) -> bool {
        self.role == Role::Client
    }

    /// Takes one off a budget. A server behind this one is not held to any: what it makes grow is
    /// bounded by the streams that this side opens, and by the answers that wait.
    fn spend(&mut self, cost: Cost, now_ms: u64) -> Result<(), ConnectionError> {
        match self.role {
            Role::Server => self.budgets.spend(cost, now_ms),
            Role::Client => Ok(()),
        }
    }

    /// What GOAWAY names: of a client the last push, and there is none.
    fn last_of_peer(&self) -> StreamId {
        match self.role {
            Role::Server => self.streams.last(),
            Role::Client => 0,
        }
    }

    fn drain(&mut self, now_ms: u64) {
        if self.drain != Drain::No || self.phase == Phase::Finished {
            return;
        }
        self.drain = Drain::Announced { since_ms: now_ms };
        put_goaway(STREAM_ID_MAX, ErrorCode::No, &mut self.control);
        put_ping(DRAIN_PING, &mut self.control);
        self.clock.look_at(now_ms + crate::limits::H2_DRAIN_PING_MS);
    }

    /// The second step of a drain: the announcement has arrived, or had the time to.
    fn name_last_stream(&mut self) {
        if matches!(self.drain, Drain::Announced { .. }) {
            self.drain = Drain::Final;
            self.streams.stop_opening();
            put_goaway(self.streams.last(), ErrorCode::No, &mut self.control);
            self.finish_if_drained();
        }
    }

    /// RFC 9113 9.1 leaves half-closed connections to TCP and TLS, whose directions end apart from each
    /// other (RFC 9293 3.6, RFC 8446 6.1).
    fn end_input(&mut self) -> bool {
        if self.phase == Phase::Finished || self.has_input_ended {
            return false;
        }
        self.has_input_ended = true;
        let receives = |stream: &&mut Stream<Exchange<T>>| stream.receives();
        let cut: Vec<_> = self.streams.iter_mut().filter(receives).collect();
        let cut: Vec<_> = cut.into_iter().map(|stream| stream.id()).collect();
        for id in &cut {
            metrics::count(Counter::Http2StreamsResetByClient);
            self.reset(*id, ErrorCode::Cancel);
        }
        if self.drain != Drain::Final {
            self.drain = Drain::Final;
            self.streams.stop_opening();
            // Whoever has closed both directions answers it with a reset, which ends the rest.
            put_goaway(self.streams.last(), ErrorCode::No, &mut self.control);
        }
        self.finish_if_drained();
        !cut.is_empty()
    }

    /// Nobody opens the windows of a peer that sends nothing any more: what waits for one is given up.
    fn drop_stalled(&mut self) {
        if !self.has_input_ended {
            return;
        }
        let connection_stalls = self.send_window.available() == 0;
        let stalls = |stream: &&mut Stream<Exchange<T>>| {
            let waits = connection_stalls || stream.send.available() == 0;
            waits && stream.data.outgoing.head.is_none() && stream.data.outgoing.has_content()
        };
        let stalled: Vec<_> = self.streams.iter_mut().filter(stalls).collect();
        let stalled: Vec<_> = stalled.into_iter().map(|stream| stream.id()).collect();
        for id in stalled {
            metrics::count(Counter::Http2StreamsReset);
            self.reset(id, ErrorCode::Cancel);
        }
    }

    fn finish_if_drained(&mut self) {
        if self.drain == Drain::Final && self.streams.is_empty() {
            self.phase = Phase::Finished;
        }
    }

    fn finish(&mut self, code: ErrorCode) {
        if self.phase == Phase::Finished {
            return;
        }
        let ids: Vec<_> = self.streams.iter_mut().map(|stream| stream.id()).collect();
        self.streams.stop_opening();
        put_goaway(self.last_of_peer(), code, &mut self.control);
        self.phase = Phase::Finished;
        if self.is_client() {
            self.lose_all(Lost::Closed);
            return;
        }
        for id in ids {
            self.remove(id);
        }
    }

    /// Ends a stream with RST_STREAM.
    fn reset(&mut self, id: StreamId, code: ErrorCode) {
        if self.is_client() {
            let reason = "the stream was reset for an error";
            self.give_up(id, code, Lost::Protocol(reason));
            return;
        }
        put_rst_stream(id, code, &mut self.control);
        self.streams.reset(id);
        self.remove(id);
    }

    /// Lets go of a stream, and of what it holds of the connection's window.
    fn remove(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(id) else {
            return;
        };
        let held = stream.receive.held();
        let exchange = &mut stream.data;
        exchange.wake();
        if let Some((data, status)) = exchange.data.take().zip(exchange.outgoing.sent_status) {
            self.finished.push_back(Finished {
                stream: id,
                data,
                status,
                body_bytes: exchange.outgoing.sent_bytes,
                is_complete: exchange.outgoing.has_ended,
            });
        }
        self.streams.remove(id);
        self.receive_window.release(held);
        self.update_connection_window();
        if self.role == Role::Server {
            self.events.push_back(Event::Gone(id));
        }
        self.clock.idle_since_ms = self.clock.now_ms;
        self.finish_if_drained();
    }

    fn update_connection_window(&mut self) {
        if self.phase != Phase::Finished
            && let Some(increment) = self.receive_window.poll_update()
        {
            put_window_update(0, increment.get(), &mut self.control);
        }
    }

    fn header_bounds(&self) -> hpack::Bounds {
        hpack::Bounds {
            list_bytes_max: self.config.http2.header_list_bytes_max,
            fields_max: HEADER_FIELDS_MAX,
        }
    }

    fn request_bounds(&self) -> request::Bounds {
        request::Bounds {
            target_bytes_max: self.config.target_bytes_max,
            extended_connect: true,
        }
    }
}

impl Config {
    fn new(http2: &Http2, limits: &Limits, timeouts: &Timeouts) -> Self {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            http2: *http2,
            target_bytes_max: limits.target_bytes_max,
            body_bytes_max: limits.body_bytes_max,
            requests_max: limits.requests_per_connection_max,
            header_ms: ms(timeouts.header),
            body_progress_ms: ms(timeouts.body_progress),
            body_ms: ms(timeouts.body),
            send_progress_ms: ms(timeouts.send_progress),
            idle_ms: ms(timeouts.idle),
            first_byte_ms: 0,
            ping_ms: 0,
        }
    }

    fn settings(&self) -> Settings {
        let to_u32 = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Settings {
            header_table_size: self.http2.header_table_bytes,
            // RFC 9113 6.5.2: a server that sends it must send 0, and it is the client's to allow.
            max_concurrent_streams: Some(to_u32(self.http2.concurrent_streams_max)),
            initial_window_size: self.http2.stream_window_bytes,
            max_header_list_size: Some(to_u32(self.http2.header_list_bytes_max)),
            enable_connect_protocol: true,
            no_rfc7540_priorities: true,
            ..Settings::default()
        }
    }
}

/// The last stream that GOAWAY names before it is known (RFC 9113 6.8).
const STREAM_ID_MAX: StreamId = 0x7fff_ffff;

/// Tells the answer to a drain's PING from that to any other.
const DRAIN_PING: [u8; 8] = *b"drain\0\0\0";

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
