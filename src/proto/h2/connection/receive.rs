//! Frames in (RFC 9113 5 and 6).

use std::rc::Rc;

use bytes::BytesMut;

use super::client::{LIVENESS_PING, Lost};
use super::exchange::{Exchange, Failure, Traits};
use super::{DRAIN_PING, Drain, Event, Phase, State};
use crate::limits::{H2_PRIORITIES_AHEAD_MAX, H2_STREAMS_MAX};
use crate::message::{BodyLength, Method, Request, Status};
use crate::metrics::{self, Counter};
use crate::proto::h2::flood::Event as Cost;
use crate::proto::h2::flow::{FlowError, ReceiveWindow, SendWindow};
use crate::proto::h2::frame::{
    Data, Frame, Headers, PREFACE, match_preface, put_ping_ack, put_settings_ack,
};
use crate::proto::h2::priority::Priority;
use crate::proto::h2::request::{self, Refusal, check_trailers};
use crate::proto::h2::stream::{HeadersRole, Opening, Violation};
use crate::proto::h2::{ConnectionError, ErrorCode, StreamError, StreamId};

impl<T> State<T> {
    /// Takes the preface off `input`; whether it was complete.
    pub(super) fn handle_preface(&mut self, input: &mut BytesMut) -> Result<bool, ConnectionError> {
        match match_preface(input) {
            None => Ok(false),
            // RFC 9113 3.4: "Clients and servers MUST treat an invalid connection preface as a
            // connection error".
            Some(false) => Err(protocol("not the preface of HTTP/2")),
            Some(true) => {
                bytes::Buf::advance(input, PREFACE.len());
                self.phase = Phase::FirstSettings;
                Ok(true)
            }
        }
    }

    pub(super) fn handle_frame(
        &mut self,
        frame: Frame<'_>,
        now_ms: u64,
    ) -> Result<(), ConnectionError> {
        self.clock.handle_frame(&frame, now_ms);
        if self.phase == Phase::FirstSettings {
            return self.handle_first(frame);
        }
        if self.is_client() {
            self.check_sent(&frame)?;
        }
        match frame {
            Frame::Data(data) => self.handle_data(&data, now_ms),
            Frame::Headers(headers) => self.handle_headers(&headers, now_ms),
            Frame::HeadersPart => Ok(()),
            Frame::Priority { .. } => self.spend(Cost::Priority, now_ms),
            Frame::RstStream { stream, code } if self.is_client() => {
                self.handle_server_reset(stream, code)
            }
            Frame::RstStream { stream, .. } => self.handle_reset(stream, now_ms),
            Frame::Settings { payload } => {
                self.spend(Cost::Settings, now_ms)?;
                self.handle_settings(payload)
            }
            Frame::SettingsAck => self.handle_settings_ack(),
            Frame::Ping(opaque) => {
                self.spend(Cost::Ping, now_ms)?;
                put_ping_ack(opaque, &mut self.control);
                Ok(())
            }
            Frame::PingAck(opaque) if opaque == DRAIN_PING && self.drain != Drain::No => {
                self.name_last_stream();
                Ok(())
            }
            Frame::PingAck(opaque) if opaque == LIVENESS_PING && self.is_client() => {
                self.clock.ping_sent_ms = None;
                Ok(())
            }
            Frame::GoAway { last_stream, .. } if self.is_client() => {
                self.handle_server_goaway(last_stream);
                Ok(())
            }
            // The client opens no more streams; those it has are finished (RFC 9113 6.8).
            Frame::GoAway { .. } => {
                self.spend(Cost::Ignored, now_ms)?;
                self.drain(now_ms);
                self.name_last_stream();
                Ok(())
            }
            Frame::PingAck(_) | Frame::Unknown => self.spend(Cost::Ignored, now_ms),
            Frame::WindowUpdate { stream, increment } => {
                self.spend(Cost::WindowUpdate, now_ms)?;
                self.handle_window_update(stream, increment, now_ms)
            }
            Frame::PriorityUpdate { stream, value } => {
                self.spend(Cost::Priority, now_ms)?;
                self.handle_priority_update(stream, value)
            }
            Frame::Faulty(error) => self.handle_stream_error(error, now_ms),
        }
    }

    /// RFC 9113 3.4: the client's preface "MUST be followed by a SETTINGS frame".
    fn handle_first(&mut self, frame: Frame<'_>) -> Result<(), ConnectionError> {
        let Frame::Settings { payload } = frame else {
            return Err(protocol("the first frame is not SETTINGS"));
        };
        self.phase = Phase::Open;
        self.handle_settings(payload)
    }

    fn handle_headers(
        &mut self,
        headers: &Headers<'_>,
        now_ms: u64,
    ) -> Result<(), ConnectionError> {
        let id = headers.stream;
        let role = match self.streams.handle_headers(id, headers.end_stream) {
            Err(Violation::Connection(error)) => return Err(error),
            Err(Violation::Stream(error)) => Err(error),
            Ok(role) => Ok(role),
        };
        // RFC 9113 4.3: also of a stream that is refused, or the tables no longer agree.
        let bounds = self.header_bounds();
        let decoded = self.hpack_in.decode(headers.block, &bounds, &mut self.list);
        if let Err(error) = decoded {
            if self.is_client() && role == Ok(HeadersRole::Trailers) {
                // Its content has come, but not all of it: nothing else would tell whoever waits.
                self.lose(id, Lost::Protocol(error.reason()));
            }
            return Err(error.into());
        }
        match role {
            Ok(HeadersRole::Request) => self.handle_request(headers, now_ms),
            Ok(HeadersRole::Response) => self.handle_response(headers, now_ms),
            Ok(HeadersRole::Trailers) => match check_trailers(&self.list) {
                Ok(()) => {
                    let trailers = self.list.to_fields(0);
                    if let Some(stream) = self.streams.get(id) {
                        stream.data.trailers = trailers;
                        stream.data.wake();
                    }
                    Ok(())
                }
                Err(Refusal::Malformed(reason) | Refusal::Answer(_, reason)) => {
                    let error = StreamError::new(id, ErrorCode::Protocol, reason);
                    self.handle_stream_error(error, now_ms)
                }
            },
            Ok(HeadersRole::Late) => self.spend(Cost::Ignored, now_ms),
            Err(error) if error.code == ErrorCode::RefusedStream => {
                self.refuse_stream(&error, now_ms)
            }
            Err(error) => self.handle_stream_error(error, now_ms),
        }
    }

    /// One stream too many. A client that cannot know the bound yet may open several; one that keeps
    /// doing it costs a header block and a reset each time, like one that resets its own.
    fn refuse_stream(&mut self, error: &StreamError, now_ms: u64) -> Result<(), ConnectionError> {
        self.spend(Cost::PeerReset, now_ms)?;
        metrics::count(Counter::Http2StreamsRefused);
        self.reset(error.stream, error.code);
        Ok(())
    }

    fn handle_request(
        &mut self,
        headers: &Headers<'_>,
        now_ms: u64,
    ) -> Result<(), ConnectionError> {
        let id = headers.stream;
        if headers.depends_on_itself {
            let reason = "a stream that depends on itself";
            let error = StreamError::new(id, ErrorCode::Protocol, reason);
            return self.handle_stream_error(error, now_ms);
        }
        let read = request::request(&self.list, headers.end_stream, &self.request_bounds());
        let (mut is_tunnel, mut takes_trailers) = (false, false);
        let (method, event, opening) = match read {
            Err(Refusal::Malformed(reason)) => {
                let error = StreamError::new(id, ErrorCode::Protocol, reason);
                return self.handle_stream_error(error, now_ms);
            }
            Err(Refusal::Answer(status, reason)) => {
                let is_head = self.list.iter().any(|field| field == HEAD_METHOD);
                let method = if is_head { Method::Head } else { Method::Get };
                let opening = self.opening(headers.end_stream, None, Priority::default());
                (method, Event::Refused(id, None, status, reason), opening)
            }
            Ok(head) => {
                takes_trailers = head.takes_trailers;
                is_tunnel = head.protocol.is_some();
                let request = match head.protocol {
                    None => head.request,
                    Some(protocol) => as_upgrade(head.request, &protocol),
                };
                let content_length = match request.body_length {
                    BodyLength::Known(length) if !headers.end_stream && !is_tunnel => Some(length),
                    BodyLength::Known(_) | BodyLength::Delimited => None,
                };
                let opening = self.opening(headers.end_stream, content_length, head.priority);
                let method = request.method.clone();
                (
                    method,
                    self.checked(id, request, headers.end_stream),
                    opening,
                )
            }
        };
        self.opened += 1;
        metrics::count(Counter::Requests);
        metrics::count(Counter::RequestsHttp2);
        let request = match &event {
            Event::Request(_, request, _) => Some(request),
            Event::Refused(..) | Event::Gone(_) => None,
        };
        let expects_continue = request.is_some_and(|request| request.expects_continue);
        let priority = self.take_priority_ahead(id).unwrap_or(opening.priority);
        let opening = Opening {
            priority,
            ..opening
        };
        let traits = Traits {
            is_head: method == Method::Head,
            expects_continue,
            takes_trailers,
            is_tunnel,
        };
        self.streams
            .open(id, opening, Exchange::new(traits, now_ms));
        self.events.push_back(event);
        if self.opened >= self.config.requests_max {
            self.drain(now_ms);
        }
        Ok(())
    }

    /// The event for `request`: one whose protocol is not spoken, or whose body is known to be too long is refused.
    fn checked(&self, id: StreamId, request: Request, end_stream: bool) -> Event {
        let request = Rc::new(request);
        if request.method == Method::Connect {
            let reason = "a :protocol that is not spoken";
            return Event::Refused(id, Some(request), Status(501), reason);
        }
        match request.body_length {
            BodyLength::Known(length) if length > self.config.body_bytes_max => {
                let Failure { status, reason, .. } = BODY_TOO_LARGE;
                Event::Refused(id, Some(request), status, reason)
            }
            BodyLength::Known(_) | BodyLength::Delimited => {
                let has_body = !end_stream && !request.body_length.is_none();
                Event::Request(id, request, has_body)
            }
        }
    }

    fn opening(
        &self,
        end_stream: bool,
        content_length: Option<u64>,
        priority: Priority,
    ) -> Opening {
        // What the peer knows of: until it has acknowledged our SETTINGS, the initial value.
        let window = self.local.acknowledged().initial_window_size;
        Opening {
            end_stream,
            content_length,
            send: SendWindow::new(self.peer.initial_window_size),
            receive: ReceiveWindow::new(window, window),
            priority,
        }
    }

    fn handle_data(&mut self, frame: &Data<'_>, now_ms: u64) -> Result<(), ConnectionError> {
        let overrun = |FlowError| {
            ConnectionError::new(FlowError::CODE, "the connection's window was overrun")
        };
        self.receive_window
            .receive(frame.flow_bytes)
            .map_err(overrun)?;
        if frame.content.is_empty() && !frame.end_stream {
            self.spend(Cost::EmptyData, now_ms)?;
        }
        let stream = match self.streams.handle_data(frame) {
            Ok(Some(stream)) => stream,
            Ok(None) => {
                // It was on the way when its stream was reset. Whole frames of it cost the peer as
                // much as they cost us.
                if frame.content.len() < LATE_DATA_BYTES_FREE {
                    self.spend(Cost::Ignored, now_ms)?;
                }
                self.receive_window.release(frame.flow_bytes);
                self.update_connection_window();
                return Ok(());
            }
            Err(Violation::Stream(error)) => {
                let is_open = self.streams.get(error.stream).is_some();
                if !is_open {
                    // Else it is released with all that the stream holds.
                    self.receive_window.release(frame.flow_bytes);
                }
                return self.handle_stream_error(error, now_ms);
            }
            Err(Violation::Connection(error)) => return Err(error),
        };
        let exchange = &mut stream.data;
        exchange.body_progress_ms = now_ms;
        exchange.received_bytes += frame.content.len() as u64;
        // Content that comes without having been asked for needs no 100 (RFC 9110 10.1.1).
        exchange.owes_continue = false;
        let mut unused = (frame.flow_bytes as usize).saturating_sub(frame.content.len());
        if exchange.received_bytes > self.config.body_bytes_max && !exchange.is_tunnel {
            exchange.fail(BODY_TOO_LARGE);
        }
        if exchange.failure.is_some() || exchange.lost.is_some() {
            exchange.body = BytesMut::new();
            unused = stream.receive.held() as usize;
        } else {
            exchange.body.extend_from_slice(frame.content);
            if let Some(reader) = exchange.reader.take() {
                reader.wake();
            }
        }
        if unused > 0 {
            self.release(frame.stream, unused);
        }
        Ok(())
    }

    fn handle_reset(&mut self, id: StreamId, now_ms: u64) -> Result<(), ConnectionError> {
        if self.streams.handle_reset(id)?.is_none() {
            return self.spend(Cost::Ignored, now_ms);
        }
        metrics::count(Counter::Http2StreamsResetByClient);
        self.spend(Cost::PeerReset, now_ms)?;
        self.remove(id);
        Ok(())
    }

    fn handle_settings(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        let old = self.peer;
        self.peer.apply(payload, self.role)?;
        let new = self.peer;
        self.streams
            .change_initial_send_window(old.initial_window_size, new.initial_window_size)?;
        if old.header_table_size != new.header_table_size {
            self.hpack_out.set_peer_table_size(new.header_table_size);
        }
        if self.is_client() {
            let peer_max = new.max_concurrent_streams.unwrap_or(u32::MAX) as usize;
            let own_max = self.config.http2.concurrent_streams_max;
            self.streams.set_concurrent_max(own_max.min(peer_max));
            self.wake_for_settings();
        }
        put_settings_ack(&mut self.control);
        Ok(())
    }

    fn handle_settings_ack(&mut self) -> Result<(), ConnectionError> {
        let (old, new) = self.local.handle_ack()?;
        self.hpack_in.set_size_limit(new.header_table_size);
        for stream in self.streams.iter_mut() {
            let (old, new) = (old.initial_window_size, new.initial_window_size);
            stream.receive.change_initial(old, new);
            stream.receive.set_target(new);
        }
        Ok(())
    }

    fn handle_window_update(
        &mut self,
        id: StreamId,
        increment: u32,
        now_ms: u64,
    ) -> Result<(), ConnectionError> {
        if id == 0 {
            return self.send_window.increase(increment).map_err(|FlowError| {
                ConnectionError::new(FlowError::CODE, "the connection's window over its maximum")
            });
        }
        match self.streams.handle_window_update(id, increment) {
            Ok(_) => Ok(()),
            Err(Violation::Stream(error)) => self.handle_stream_error(error, now_ms),
            Err(Violation::Connection(error)) => Err(error),
        }
    }

    fn handle_priority_update(
        &mut self,
        id: StreamId,
        value: &[u8],
    ) -> Result<(), ConnectionError> {
        if id.is_multiple_of(2) {
            // RFC 9218 7.1: of a push stream that is idle, as all are.
            return Err(protocol("PRIORITY_UPDATE of a push that was never made"));
        }
        let Some(priority) = Priority::parse(value) else {
            return Ok(());
        };
        if let Some(stream) = self.streams.get(id) {
            stream.priority = priority;
        } else if self.streams.is_idle(id) {
            self.priorities_ahead.retain(|(ahead, _)| *ahead != id);
            if self.priorities_ahead.len() >= H2_PRIORITIES_AHEAD_MAX {
                self.priorities_ahead.pop_front();
            }
            self.priorities_ahead.push_back((id, priority));
        }
        Ok(())
    }

    /// The priority that was sent before its request (RFC 9218 7.1); it holds instead of the
    /// request's own. Those of streams that were skipped are forgotten.
    fn take_priority_ahead(&mut self, id: StreamId) -> Option<Priority> {
        if self.priorities_ahead.is_empty() {
            return None;
        }
        let found = self.priorities_ahead.iter().find(|(ahead, _)| *ahead == id);
        let found = found.map(|(_, priority)| *priority);
        self.priorities_ahead.retain(|(ahead, _)| *ahead > id);
        found
    }

    pub(super) fn handle_stream_error(
        &mut self,
        error: StreamError,
        now_ms: u64,
    ) -> Result<(), ConnectionError> {
        if self.streams.is_idle(error.stream) {
            // RST_STREAM must not be sent for it (RFC 9113 6.4).
            return Err(ConnectionError::new(error.code, error.reason));
        }
        if self.is_client() {
            self.give_up(error.stream, error.code, Lost::Protocol(error.reason));
            return Ok(());
        }
        self.spend(Cost::ProvokedReset, now_ms)?;
        metrics::count(Counter::Http2StreamsReset);
        self.reset(error.stream, error.code);
        Ok(())
    }
}

/// An extended CONNECT as the rest of the program knows it: as the request of HTTP/1.1 that asks for the
/// same (RFC 8441 5). The bytes of the protocol are no body of it. What is not known stays CONNECT.
fn as_upgrade(request: Request, protocol: &str) -> Request {
    if protocol != "websocket" {
        return request;
    }
    let mut fields = request.fields;
    fields.retain(|name, _| !name.eq_ignore_ascii_case(b"sec-websocket-key"));
    let more = [
        (&b"connection"[..], &b"upgrade"[..]),
        (b"upgrade", protocol.as_bytes()),
    ];
    Request {
        method: Method::Get,
        fields: fields.extended(more.into_iter()),
        body_length: BodyLength::Known(0),
        expects_continue: false,
        ..request
    }
}

const fn protocol(reason: &'static str) -> ConnectionError {
    ConnectionError::new(ErrorCode::Protocol, reason)
}

const HEAD_METHOD: (&[u8], &[u8]) = (b":method", b"HEAD");

const BODY_TOO_LARGE: Failure = Failure {
    status: Status(413),
    reason: "the body is over limits.body_bytes_max",
    timeout: None,
};

/// Content that makes a late DATA frame cost its sender as much as its recipient.
const LATE_DATA_BYTES_FREE: usize = 256;

/// Every stream that may be open can be told of in one buffer of answers.
const _: () = assert!(H2_STREAMS_MAX * 13 < crate::limits::H2_CONTROL_BYTES_MAX);
