//! A connection as its client drives it: requests out, responses in.
//!
//! Whoever asks polls for what comes. A stream stays in the table until it is
//! [dropped](Connection::drop_stream), also when the server or the connection has ended it before: what
//! became of it is told to the next poll.

use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use super::exchange::{Chunks, Exchange, Head, Outgoing, OutgoingBody, Traits};
use super::timing::{NEVER_MS, is_due};
use super::{Config, Connection, Drain, Phase, Role, Settings, State};
use crate::config::Http2;
use crate::limits::{H2_CONTROL_BYTES_MAX, H2_PING_ACK_MS, INTERIM_RESPONSES_MAX};
use crate::message::{Fields, Interim, Method, Status};
use crate::metrics::{self, Counter};
use crate::proto::h2::flow::{ReceiveWindow, SendWindow};
use crate::proto::h2::frame::{Frame, Headers, PREFACE, put_ping, put_rst_stream};
use crate::proto::h2::priority::Priority;
use crate::proto::h2::response::{self, ResponseHead};
use crate::proto::h2::stream::{Opening, State as StreamState};
use crate::proto::h2::{ConnectionError, ErrorCode, StreamError, StreamId};

/// Bounds and deadlines of a client's connection.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// Streams open at once; fewer when the server says so.
    pub streams_max: usize,
    /// What the server may send ahead on each stream, and on all of them.
    pub stream_window_bytes: u32,
    /// See above.
    pub connection_window_bytes: u32,
    /// A response's fields, as RFC 9113 6.5.2 counts them.
    pub header_list_bytes_max: usize,
    /// From the end of a request to its response.
    pub first_byte_ms: u64,
    /// Between two frames of a response that is waited for.
    pub between_bytes_ms: u64,
    /// For the server to open a window that is waited for.
    pub send_progress_ms: u64,
    /// Without a stream.
    pub idle_ms: u64,
    /// Silence of a connection with streams after which the server is asked for a sign of life; zero:
    /// never.
    pub ping_ms: u64,
}

/// A request to be sent.
#[derive(Debug)]
pub struct Ask {
    /// Its fields, pseudo-header fields first.
    pub fields: Fields,
    /// What follows them.
    pub body: AskBody,
    /// Whether it is HEAD, whose response has no content.
    pub is_head: bool,
    /// Whether it is an extended CONNECT: its silences are timed by whoever asks.
    pub is_tunnel: bool,
}

/// The content of a request, which is [pushed](Connection::push_chunk).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskBody {
    /// None.
    None,
    /// So many bytes.
    Length(u64),
    /// As many as come.
    Delimited,
}

/// Why a stream came to nothing, or not to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The server has not processed the request: it may be sent again (RFC 9113 8.7).
    Refused,
    /// The server reset it.
    Reset(ErrorCode),
    /// The server broke the protocol, on this stream only or not.
    Protocol(&'static str),
    /// The server was too slow: the configuration key of the deadline that passed.
    Timeout(&'static str),
    /// The connection ended.
    Closed,
}

impl<T> Connection<T> {
    /// A client's connection that begins at `now_ms`.
    pub fn client(config: &ClientConfig, now_ms: u64) -> Self {
        let config = Config::of_client(config);
        let mut control = PREFACE.to_vec();
        let settings = Settings {
            header_table_size: config.http2.header_table_bytes,
            // RFC 9113 6.5.2: nothing is to be pushed.
            enable_push: false,
            initial_window_size: config.http2.stream_window_bytes,
            max_header_list_size: u32::try_from(config.http2.header_list_bytes_max).ok(),
            ..Settings::default()
        };
        let mut state = State::new(Role::Client, config, now_ms);
        state.local.send(settings, now_ms, &mut control);
        state.control = control;
        state.phase = Phase::FirstSettings;
        state.update_connection_window();
        Self::of(state)
    }

    /// Whether another request may be sent.
    pub fn has_room(&self) -> bool {
        let state = &self.state;
        state.phase != Phase::Finished
            && state.drain == Drain::No
            && !state.has_input_ended
            && state.streams.has_room()
            && state.control.len() < H2_CONTROL_BYTES_MAX
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.state.streams.len()
    }

    /// Whether the server takes extended CONNECT (RFC 8441 3), which its SETTINGS say; `None` when the
    /// connection has ended.
    pub fn poll_extended_connect(&mut self, context: &Context<'_>) -> Poll<Option<bool>> {
        let state = &mut self.state;
        match state.phase {
            Phase::Preface | Phase::FirstSettings => {
                state.settings_wakers.push(context.waker().clone());
                Poll::Pending
            }
            Phase::Open => Poll::Ready(Some(state.peer.enable_connect_protocol)),
            Phase::Finished => Poll::Ready(None),
        }
    }

    /// Sends a request: its stream, or `None` where there is no [room](Self::has_room).
    pub fn ask(&mut self, ask: Ask, now_ms: u64) -> Option<StreamId> {
        if !self.has_room() {
            return None;
        }
        let state = &mut self.state;
        state.clock.now_ms = now_ms;
        let traits = Traits {
            is_head: ask.is_head,
            expects_continue: false,
            takes_trailers: true,
            is_tunnel: ask.is_tunnel,
        };
        let mut exchange = Exchange::new(traits, now_ms);
        exchange.outgoing.head = Some(Head::Request(ask.fields));
        exchange.outgoing.has_begun = true;
        exchange.outgoing.body = match ask.body {
            AskBody::None => OutgoingBody::End,
            AskBody::Length(length) => OutgoingBody::Chunks(Chunks::promising(Some(length))),
            AskBody::Delimited => OutgoingBody::Chunks(Chunks::promising(None)),
        };
        let window = state.local.acknowledged().initial_window_size;
        let opening = Opening {
            // Until it is sent.
            end_stream: false,
            content_length: None,
            send: SendWindow::new(state.peer.initial_window_size),
            receive: ReceiveWindow::new(window, window),
            // All share the connection.
            priority: Priority {
                incremental: true,
                ..Priority::default()
            },
        };
        state.opened += 1;
        let due_ms = now_ms
            + state
                .config
                .send_progress_ms
                .min(state.config.first_byte_ms);
        state.clock.look_at(due_ms);
        if state.config.ping_ms > 0 {
            state.clock.look_at(now_ms + state.config.ping_ms);
        }
        Some(state.streams.open_next(opening, exchange))
    }

    /// The head of the response on `id`, once.
    pub fn poll_response(
        &mut self,
        id: StreamId,
        now_ms: u64,
        context: &Context<'_>,
    ) -> Poll<Result<ResponseHead, Lost>> {
        let Some(stream) = self.state.streams.get(id) else {
            return Poll::Ready(Err(Lost::Closed));
        };
        let exchange = &mut stream.data;
        if let Some(head) = exchange.response.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(lost) = exchange.lost {
            return Poll::Ready(Err(lost));
        }
        exchange.reader = Some(context.waker().clone());
        if exchange.outgoing.has_ended {
            let due_ms = now_ms + self.state.config.first_byte_ms;
            self.state.clock.look_at(due_ms);
        }
        Poll::Pending
    }

    /// The interim responses on `id` that have come, but for 100 (Continue). Whoever waits for the
    /// response is woken for them.
    pub fn take_interims(&mut self, id: StreamId) -> Vec<Interim> {
        let stream = self.state.streams.get(id);
        stream.map_or_else(Vec::new, |stream| std::mem::take(&mut stream.data.interims))
    }

    /// Whoever asked on `id` wants nothing more of it.
    pub fn drop_stream(&mut self, id: StreamId) {
        let state = &mut self.state;
        let Some(stream) = state.streams.get(id) else {
            return;
        };
        let is_open = stream.state() != StreamState::Closed;
        if is_open && state.phase != Phase::Finished {
            state.say_reset(id, ErrorCode::Cancel);
        }
        state.remove(id);
    }

    /// Nothing comes any more: the connection has broken, or the server has closed it.
    pub fn lose(&mut self) {
        self.state.has_input_ended = true;
        self.state.phase = Phase::Finished;
        self.state.lose_all(Lost::Closed);
    }

    /// No new stream is opened; the connection is finished when none is left.
    pub fn retire(&mut self) {
        if self.state.drain == Drain::No {
            self.state.drain = Drain::Final;
        }
        self.state.finish_if_drained();
    }
}

impl Config {
    fn of_client(client: &ClientConfig) -> Self {
        Self {
            http2: Http2 {
                concurrent_streams_max: client.streams_max,
                stream_window_bytes: client.stream_window_bytes,
                connection_window_bytes: client.connection_window_bytes,
                header_list_bytes_max: client.header_list_bytes_max,
                ..Http2::default()
            },
            target_bytes_max: 0,
            body_bytes_max: u64::MAX,
            requests_max: u64::MAX,
            header_ms: client.between_bytes_ms,
            body_progress_ms: client.between_bytes_ms,
            body_ms: NEVER_MS / 4,
            send_progress_ms: client.send_progress_ms,
            idle_ms: client.idle_ms,
            first_byte_ms: client.first_byte_ms,
            ping_ms: client.ping_ms,
        }
    }
}

impl<T> State<T> {
    /// Ends `id` for whoever asked on it. What was received of it and not read goes with it, unless
    /// that is the whole response.
    pub(super) fn lose(&mut self, id: StreamId, lost: Lost) {
        let Some(stream) = self.streams.get(id) else {
            return;
        };
        let exchange = &mut stream.data;
        exchange.lost.get_or_insert(lost);
        exchange.body = BytesMut::new();
        exchange.response = None;
        exchange.wake();
        exchange.outgoing.stop();
        let held = stream.receive.held();
        stream.receive.release(held);
        self.receive_window.release(held);
        self.update_connection_window();
    }

    pub(super) fn wake_for_settings(&mut self) {
        self.settings_wakers.drain(..).for_each(Waker::wake);
    }

    pub(super) fn lose_all(&mut self, lost: Lost) {
        self.wake_for_settings();
        let is_cut = |stream: &&mut super::Stream<Exchange<T>>| {
            stream.receives() || stream.state() != StreamState::Closed
        };
        let cut: Vec<_> = self.streams.iter_mut().filter(is_cut).collect();
        let cut: Vec<_> = cut
            .into_iter()
            .map(|stream| (stream.id(), stream.receives()))
            .collect();
        for (id, receives) in cut {
            match receives {
                true => self.lose(id, lost),
                false => self.stop_sending(id),
            }
        }
    }

    /// The rest of a request is not wanted: its response is complete (RFC 9113 8.1).
    pub(super) fn stop_sending(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get(id) {
            stream.data.wake();
            stream.data.outgoing.stop();
        }
    }

    /// The server reset a stream. RFC 9113 8.1: "Clients MUST NOT discard responses as a result of
    /// receiving such a RST_STREAM".
    pub(super) fn handle_server_reset(
        &mut self,
        id: StreamId,
        code: ErrorCode,
    ) -> Result<(), ConnectionError> {
        let has_all = self
            .streams
            .get(id)
            .is_some_and(|stream| !stream.receives());
        let Some(stream) = self.streams.handle_reset(id)? else {
            return Ok(());
        };
        let has_head = stream.data.has_response;
        if has_all {
            self.stop_sending(id);
            return Ok(());
        }
        let lost = match code == ErrorCode::RefusedStream && !has_head {
            true => {
                metrics::count(Counter::UpstreamStreamsRefused);
                Lost::Refused
            }
            false => {
                metrics::count(Counter::UpstreamStreamsReset);
                Lost::Reset(code)
            }
        };
        self.lose(id, lost);
        Ok(())
    }

    /// RFC 9113 6.8: streams above the last that GOAWAY names were not processed; the others go on.
    pub(super) fn handle_server_goaway(&mut self, last: StreamId) {
        self.drain = Drain::Final;
        let above: Vec<_> = self
            .streams
            .iter_mut()
            .map(|stream| stream.id())
            .filter(|&id| id > last)
            .collect();
        for id in above {
            metrics::count(Counter::UpstreamStreamsRefused);
            self.streams.reset(id);
            self.lose(id, Lost::Refused);
        }
        self.finish_if_drained();
    }

    /// RFC 9113 5.1: a stream is idle until its HEADERS are sent, however long they wait for that.
    pub(super) fn check_sent(&mut self, frame: &Frame<'_>) -> Result<(), ConnectionError> {
        let id = match frame {
            Frame::Data(data) => data.stream,
            Frame::Headers(headers) => headers.stream,
            Frame::RstStream { stream, .. } | Frame::WindowUpdate { stream, .. } => *stream,
            Frame::HeadersPart
            | Frame::Priority { .. }
            | Frame::Settings { .. }
            | Frame::SettingsAck
            | Frame::Ping(_)
            | Frame::PingAck(_)
            | Frame::GoAway { .. }
            | Frame::PriorityUpdate { .. }
            | Frame::Unknown
            | Frame::Faulty(_) => return Ok(()),
        };
        let waits = |stream: &mut super::Stream<Exchange<T>>| stream.data.outgoing.head.is_some();
        match self.streams.get(id).is_some_and(waits) {
            true => Err(ConnectionError::protocol("a frame for an idle stream")),
            false => Ok(()),
        }
    }

    pub(super) fn handle_response(
        &mut self,
        headers: &Headers<'_>,
        now_ms: u64,
    ) -> Result<(), ConnectionError> {
        let id = headers.stream;
        let malformed = |reason| StreamError::new(id, ErrorCode::Protocol, reason);
        let head = match response::response(&self.list, headers.end_stream) {
            Ok(head) => head,
            Err(reason) => return self.handle_stream_error(malformed(reason), now_ms),
        };
        let Some(stream) = self.streams.get(id) else {
            return Ok(());
        };
        let exchange = &mut stream.data;
        let head = match head {
            response::Head::Final(head) => head,
            response::Head::Interim(interim) => {
                exchange.interim_responses += 1;
                if exchange.interim_responses > INTERIM_RESPONSES_MAX {
                    let error = malformed("too many interim responses");
                    return self.handle_stream_error(error, now_ms);
                }
                if interim.status != Status(100) {
                    exchange.interims.push(interim);
                    exchange.wake();
                }
                return Ok(());
            }
        };
        // RFC 9110 8.6: there it is the length that the content would have.
        let has_content = exchange.method != Method::Head && head.status.0 != 304;
        let length = match has_content {
            true => head.content_length,
            false => Some(0),
        };
        exchange.body_progress_ms = now_ms;
        exchange.has_response = true;
        exchange.response = Some(head);
        exchange.wake();
        match self.streams.begin_response(id, length, headers.end_stream) {
            Ok(()) => Ok(()),
            Err(error) => self.handle_stream_error(error, now_ms),
        }
    }

    pub(super) fn check_liveness(
        &mut self,
        now_ms: u64,
        next_ms: &mut u64,
    ) -> Result<(), ConnectionError> {
        if self.config.ping_ms == 0 || self.streams.is_empty() {
            return Ok(());
        }
        if let Some(sent_ms) = self.clock.ping_sent_ms {
            if is_due(sent_ms + H2_PING_ACK_MS, now_ms, next_ms) {
                metrics::count(Counter::UpstreamPingsUnanswered);
                let reason = "a PING was not answered in time";
                return Err(ConnectionError::new(ErrorCode::No, reason));
            }
        } else if is_due(
            self.clock.last_frame_ms + self.config.ping_ms,
            now_ms,
            next_ms,
        ) {
            put_ping(LIVENESS_PING, &mut self.control);
            self.clock.ping_sent_ms = Some(now_ms);
            *next_ms = (*next_ms).min(now_ms + H2_PING_ACK_MS);
        }
        Ok(())
    }

    /// Streams whose response is overdue.
    pub(super) fn check_responses(&mut self, now_ms: u64, next_ms: &mut u64) {
        let config = self.config;
        let mut late = Vec::new();
        for stream in self.streams.iter_mut() {
            let receives = stream.receives();
            let id = stream.id();
            let exchange = &mut stream.data;
            let carries = exchange.is_tunnel && exchange.has_response;
            if exchange.lost.is_some() || !receives || exchange.reader.is_none() || carries {
                continue;
            }
            let (since_ms, limit_ms, key) = match exchange.has_response {
                true => (
                    exchange.body_progress_ms,
                    config.body_progress_ms,
                    BETWEEN_BYTES_KEY,
                ),
                // The time begins when all of the request is sent.
                false if !exchange.outgoing.has_ended => continue,
                false => (
                    exchange.send_progress_ms,
                    config.first_byte_ms,
                    FIRST_BYTE_KEY,
                ),
            };
            if is_due(since_ms + limit_ms, now_ms, next_ms) {
                late.push((id, key));
            }
        }
        for (id, key) in late {
            self.give_up(id, ErrorCode::Cancel, Lost::Timeout(key));
        }
    }

    /// Resets `id` for `lost`.
    pub(super) fn give_up(&mut self, id: StreamId, code: ErrorCode, lost: Lost) {
        self.say_reset(id, code);
        self.lose(id, lost);
    }

    /// RFC 9113 6.4: a stream of which the server knows nothing must not be reset. The next closes it
    /// (5.1.1). One that was reset is not once more (5.4.2).
    fn say_reset(&mut self, id: StreamId, code: ErrorCode) {
        let is_silent = |stream: &mut super::Stream<Exchange<T>>| {
            stream.data.outgoing.head.is_some() || stream.was_reset()
        };
        if !self.streams.get(id).is_some_and(is_silent) {
            put_rst_stream(id, code, &mut self.control);
        }
        self.streams.reset(id);
    }
}

impl Outgoing {
    /// Nothing more is sent.
    pub(super) fn stop(&mut self) {
        self.head = None;
        self.sends_continue = false;
        self.interims = Vec::new();
        self.has_ended = true;
        if let OutgoingBody::Chunks(chunks) = &mut self.body {
            chunks.wake();
        }
        self.body = OutgoingBody::Sent;
    }
}

const FIRST_BYTE_KEY: &str = "upstream.http.first_byte_ms";
const BETWEEN_BYTES_KEY: &str = "upstream.http.between_bytes_ms";

/// Tells the answer to our PING from any other.
pub(super) const LIVENESS_PING: [u8; 8] = *b"alive?\0\0";
