//! Responses out: what is sent next, framed into the records it goes out in.

use bytes::Bytes;

use super::exchange::{Chunks, Head, OutgoingBody};
use super::{Connection, State};
use crate::limits::{CACHED_CONTENT_BYTES_MAX, RECORD_PLAINTEXT_BYTES_MAX, SEND_CHUNK_BYTES};
use crate::message::gather::Gather;
use crate::message::{Fields, FileRange, Part, Response, Status};
use crate::proto::h2::frame::{
    DATA_BYTES_PER_RECORD, HEAD_BYTES, PAYLOAD_BYTES_MAX, begin_headers, data_head, finish_headers,
};
use crate::proto::h2::hpack::{Encoder, Indexing, literal};
use crate::proto::h2::stream::State as StreamState;
use crate::proto::h2::{ErrorCode, StreamId};
use crate::proto::syntax::push_decimal;

/// A stream with something to send. Their order is that of sending (RFC 9218 10): the more urgent
/// first; among equals the one whose last turn is longest ago, where those that are not incremental
/// have their turns together and are sent one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    urgency: u8,
    turn: u64,
    id: StreamId,
    incremental: bool,
}

impl<T> Connection<T> {
    /// Appends to `out`, which is empty, what is to be sent next: about as much as one send takes.
    /// Whether there was anything.
    ///
    /// `date` is the value of the responses' Date field.
    pub fn poll_send(&mut self, out: &mut Gather, date: &[u8], now_ms: u64) -> bool {
        let state = &mut self.state;
        state.clock.now_ms = now_ms;
        if !state.control.is_empty() {
            out.push_text(&state.control);
            state.control = Vec::new();
        }
        state.schedule(out, date, now_ms);
        state.drop_stalled();
        // A stream that ends here may have left a reset behind.
        if !state.control.is_empty() {
            out.push_text(&state.control);
            state.control = Vec::new();
        }
        !out.is_empty()
    }
}

impl<T> State<T> {
    fn schedule(&mut self, out: &mut Gather, date: &[u8], now_ms: u64) {
        if self.streams.is_empty() {
            return;
        }
        self.turn += 1;
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let has_window = self.send_window.available() > 0;
        for stream in self.streams.iter_mut() {
            let outgoing = &stream.data.outgoing;
            let has_content = has_window && outgoing.has_content() && stream.send.available() > 0;
            if has_content || outgoing.is_free() {
                let urgency = stream.priority.urgency;
                let incremental = stream.priority.incremental;
                let lane = self.lane_turns.get(usize::from(urgency));
                candidates.push(Candidate {
                    urgency,
                    turn: match incremental {
                        true => stream.data.turn,
                        false => lane.copied().unwrap_or_default(),
                    },
                    id: stream.id(),
                    incremental,
                });
            }
        }
        candidates.sort_unstable();
        for group in candidates.chunk_by(|a, b| a.urgency == b.urgency) {
            while self.send_group(group, out, date, now_ms) {}
            if is_full(out) {
                break;
            }
        }
        self.candidates = candidates;
    }

    /// Gives each of `group` a turn; whether another could bring more.
    fn send_group(
        &mut self,
        group: &[Candidate],
        out: &mut Gather,
        date: &[u8],
        now_ms: u64,
    ) -> bool {
        let mut moved = false;
        for candidate in group {
            loop {
                if is_full(out) {
                    return false;
                }
                if !self.send_stream(candidate.id, out, date, now_ms) {
                    break;
                }
                moved = true;
                if candidate.incremental {
                    break;
                }
            }
            if !candidate.incremental
                && let Some(lane) = self.lane_turns.get_mut(usize::from(candidate.urgency))
            {
                *lane = self.turn;
            }
        }
        moved
    }

    /// Sends one frame of a stream, or its head with one; whether there was any.
    fn send_stream(&mut self, id: StreamId, out: &mut Gather, date: &[u8], now_ms: u64) -> bool {
        let Some(stream) = self.streams.get(id) else {
            return false;
        };
        let exchange = &mut stream.data;
        let outgoing = &mut exchange.outgoing;
        let mut moved = false;
        if std::mem::take(&mut outgoing.sends_continue) {
            let encoder = &mut self.hpack_out;
            put_headers(out, id, false, |out| {
                encoder.begin(out);
                encoder.status(Status(100), out);
            });
            moved = true;
        }
        for interim in outgoing.interims.drain(..) {
            let encoder = &mut self.hpack_out;
            put_headers(out, id, false, |out| {
                encoder.begin(out);
                encoder.status(interim.status, out);
                put_fields(encoder, &interim.fields, out);
            });
            moved = true;
        }
        if let Some(head) = &outgoing.head {
            let end_stream = matches!(outgoing.body, OutgoingBody::End);
            let (encoder, digits) = (&mut self.hpack_out, &mut self.digits);
            put_headers(out, id, end_stream, |out| {
                encoder.begin(out);
                match head {
                    Head::Response(response, length) => {
                        digits.clear();
                        if let Some(length) = *length {
                            push_decimal(digits, length);
                        }
                        put_response(encoder, response, digits, date, out);
                    }
                    Head::Request(fields) => put_fields(encoder, fields, out),
                }
            });
            if let Head::Response(response, length) = head {
                outgoing.sent_status = Some(response.status);
                if let Some(bytes) = outgoing.bulk_bytes(*length) {
                    out.begin_body(bytes);
                }
            }
            outgoing.head = None;
            exchange.send_progress_ms = now_ms;
            exchange.turn = self.turn;
            if end_stream {
                self.finish_sending(id);
                return true;
            }
            moved = true;
        }
        self.send_content(id, out, now_ms) || moved
    }

    /// Sends one DATA frame as far as the windows and this send have room for it.
    fn send_content(&mut self, id: StreamId, out: &mut Gather, now_ms: u64) -> bool {
        let Some(stream) = self.streams.get(id) else {
            return false;
        };
        let windows = stream.send.available().min(self.send_window.available());
        let room = frame_room(out.len()).min(windows as usize);
        let has_file = stream.data.outgoing.has_file();
        let Some(content) = Content::take(&mut stream.data.outgoing.body, room) else {
            return false;
        };
        let trailers = stream.data.outgoing.take_trailers();
        let is_complete = stream.data.outgoing.is_complete();
        let end_stream = is_complete && trailers.is_none();
        let bytes = content.length();
        // Trailers end a body by themselves.
        if bytes > 0 || end_stream {
            let head = data_head(id, bytes, end_stream);
            match has_file {
                true => out.push_head(id, &head),
                false => out.push_text(&head),
            }
            stream.data.outgoing.sent_bytes += (HEAD_BYTES + bytes) as u64;
        }
        match content {
            Content::Bytes(bytes) => out.push_bytes(bytes),
            Content::File(range) => out.push_file(range),
        }
        let sent = u32::try_from(bytes).unwrap_or(u32::MAX);
        stream.send.consume(sent);
        self.send_window.consume(sent);
        stream.data.send_progress_ms = now_ms;
        stream.data.turn = self.turn;
        self.budgets.earn_by_data(bytes as u64, sent >= windows);
        if let Some(trailers) = trailers {
            let encoder = &mut self.hpack_out;
            put_headers(out, id, true, |out| {
                encoder.begin(out);
                put_fields(encoder, &trailers, out);
            });
        }
        if is_complete {
            self.finish_sending(id);
        }
        true
    }

    /// The response was sent to its end. What the client still sends of its request nobody reads: it
    /// may stop (RFC 9113 8.1).
    fn finish_sending(&mut self, id: StreamId) {
        let is_client = self.is_client();
        let Some(stream) = self.streams.end_sending(id) else {
            return;
        };
        stream.data.outgoing.has_ended = true;
        if is_client || stream.data.is_tunnel {
            // The other direction goes on by itself.
            stream.data.outgoing.stop();
            if is_client {
                let now_ms = self.clock.now_ms;
                self.clock.look_at(now_ms + self.config.first_byte_ms);
            }
            return;
        }
        match stream.state() {
            StreamState::Closed => self.remove(id),
            StreamState::Open | StreamState::HalfClosedRemote | StreamState::HalfClosedLocal => {
                self.reset(id, ErrorCode::No);
            }
        }
    }
}

impl super::exchange::Outgoing {
    /// How long the body is that a head of this `content_length` announces, if it is more than what
    /// small responses have.
    fn bulk_bytes(&self, content_length: Option<u64>) -> Option<u64> {
        let bytes = match &self.body {
            OutgoingBody::Awaited | OutgoingBody::End | OutgoingBody::Sent => return None,
            OutgoingBody::Bytes(bytes) => bytes.len() as u64,
            OutgoingBody::File(range) => range.length,
            OutgoingBody::Parts(parts) => parts.iter().map(Part::length).sum(),
            OutgoingBody::Chunks(_) => content_length?,
        };
        (bytes > CACHED_CONTENT_BYTES_MAX).then_some(bytes)
    }

    /// Whether content is taken off files, and may turn out to be missing.
    fn has_file(&self) -> bool {
        match &self.body {
            OutgoingBody::File(_) | OutgoingBody::Parts(_) => true,
            OutgoingBody::Awaited
            | OutgoingBody::End
            | OutgoingBody::Sent
            | OutgoingBody::Bytes(_)
            | OutgoingBody::Chunks(_) => false,
        }
    }

    /// Whether nothing follows what has been taken.
    fn is_complete(&self) -> bool {
        match &self.body {
            OutgoingBody::End => true,
            OutgoingBody::Chunks(chunks) => chunks.queue.is_empty() && chunks.has_ended,
            OutgoingBody::Awaited
            | OutgoingBody::Sent
            | OutgoingBody::Bytes(_)
            | OutgoingBody::File(_)
            | OutgoingBody::Parts(_) => false,
        }
    }

    /// The fields that end the body, when all of its content has been taken.
    fn take_trailers(&mut self) -> Option<Fields> {
        match &mut self.body {
            OutgoingBody::Chunks(chunks)
                if chunks.queue.is_empty() && chunks.has_ended && !chunks.trailers.is_empty() =>
            {
                Some(std::mem::take(&mut chunks.trailers))
            }
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

/// The content of one DATA frame.
enum Content {
    Bytes(Bytes),
    File(FileRange),
}

impl Content {
    /// The next of a response, up to `room` bytes; `None` when there is none, or no room. Only the
    /// end of a body may be empty.
    fn take(body: &mut OutgoingBody, room: usize) -> Option<Self> {
        match body {
            OutgoingBody::Awaited | OutgoingBody::Sent => None,
            OutgoingBody::End => Some(Self::Bytes(Bytes::new())),
            OutgoingBody::Chunks(chunks) if chunks.queue.is_empty() => {
                chunks.has_ended.then(|| Self::Bytes(Bytes::new()))
            }
            _ if room == 0 => None,
            OutgoingBody::Chunks(chunks) => Some(Self::Bytes(Chunks::take(chunks, room))),
            OutgoingBody::Bytes(bytes) => {
                let taken = take_bytes(bytes, room);
                if bytes.is_empty() {
                    *body = OutgoingBody::End;
                }
                Some(Self::Bytes(taken))
            }
            OutgoingBody::File(range) => {
                let taken = take_range(range, room);
                if range.length == 0 {
                    *body = OutgoingBody::End;
                }
                Some(Self::File(taken))
            }
            OutgoingBody::Parts(parts) => {
                let (taken, is_empty) = match parts.front_mut()? {
                    Part::Bytes(bytes) => (Self::Bytes(take_bytes(bytes, room)), bytes.is_empty()),
                    Part::File(range) => (Self::File(take_range(range, room)), range.length == 0),
                };
                if is_empty {
                    parts.pop_front();
                }
                if parts.is_empty() {
                    *body = OutgoingBody::End;
                }
                Some(taken)
            }
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(range) => usize::try_from(range.length).unwrap_or(usize::MAX),
        }
    }
}

fn take_bytes(bytes: &mut Bytes, room: usize) -> Bytes {
    bytes.split_to(room.min(bytes.len()))
}

fn take_range(range: &mut FileRange, room: usize) -> FileRange {
    let length = range.length.min(room as u64);
    let taken = FileRange {
        file: range.file.clone(),
        offset: range.offset,
        length,
        is_remote: range.is_remote,
    };
    range.offset += length;
    range.length -= length;
    taken
}

/// Whether `out` is as much as one send takes: another frame would be cut in two by its end.
fn is_full(out: &Gather) -> bool {
    out.len() + HEAD_BYTES + FRAME_BYTES_WORTH > GATHER_BYTES
}

/// Content of the next DATA frame behind `sent` bytes: as much as fills its record, since records
/// are cut from the start of a send. What is too little of one is not worth a frame of its own.
fn frame_room(sent: usize) -> usize {
    let in_record = RECORD_PLAINTEXT_BYTES_MAX - sent % RECORD_PLAINTEXT_BYTES_MAX;
    match in_record.checked_sub(HEAD_BYTES + FRAME_BYTES_WORTH) {
        Some(_) => in_record - HEAD_BYTES,
        None => DATA_BYTES_PER_RECORD.min(PAYLOAD_BYTES_MAX),
    }
}

fn put_headers(
    out: &mut Gather,
    id: StreamId,
    end_stream: bool,
    fields: impl FnOnce(&mut Vec<u8>),
) {
    out.write(|text| {
        let start = begin_headers(text);
        fields(text);
        finish_headers(start, id, end_stream, text);
    });
}

/// Appends the fields of a response: `:status` first (RFC 9113 8.3). An empty length is left out.
fn put_response(
    encoder: &mut Encoder,
    response: &Response,
    content_length: &[u8],
    date: &[u8],
    out: &mut Vec<u8>,
) {
    encoder.status(response.status, out);
    if response.relayed.first("date").is_none() {
        encoder.field(b"date", date, Indexing::Indexed, out);
    }
    if let Some(block) = &response.block {
        for (name, value) in block.fields() {
            let indexing = Indexing::of(name.as_bytes());
            if indexing != Indexing::Literal {
                put_field_as(encoder, name.as_bytes(), value, indexing, out);
            }
        }
        out.extend_from_slice(block.literals(literals_of));
    }
    for (name, value) in &response.fields {
        put_field(encoder, name.as_bytes(), value, out);
    }
    put_fields(encoder, &response.relayed, out);
    if !content_length.is_empty() {
        encoder.field(b"content-length", content_length, Indexing::Literal, out);
    }
}

/// Appends fields of another server, which may have spelled their names as it likes.
fn put_fields(encoder: &mut Encoder, fields: &Fields, out: &mut Vec<u8>) {
    for (name, value) in fields.iter() {
        match name.iter().any(u8::is_ascii_uppercase) {
            // RFC 9113 8.2: "Field names MUST be converted to lowercase".
            true => put_field(encoder, &name.to_ascii_lowercase(), value, out),
            false => put_field(encoder, name, value, out),
        }
    }
}

fn put_field(encoder: &mut Encoder, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    put_field_as(encoder, name, value, Indexing::of(name), out);
}

fn put_field_as(
    encoder: &mut Encoder,
    name: &[u8],
    value: &[u8],
    indexing: Indexing,
    out: &mut Vec<u8>,
) {
    // What the table has went through the checks below when it was put there.
    if indexing == Indexing::Indexed && encoder.repeat(name, value, out) {
        return;
    }
    if is_connection_specific(name) {
        return;
    }
    if memchr::memchr3(b'\r', b'\n', 0, value).is_none() {
        encoder.field(name, value, indexing, out);
    } else {
        encoder.field(name, &without_line_ends(value), indexing, out);
    }
}

/// The fields that no table keeps, encoded once for all connections.
fn literals_of(fields: &[(&'static str, Bytes)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        if Indexing::of(name.as_bytes()) == Indexing::Literal {
            literal(name.as_bytes(), &without_line_ends(value), &mut out);
        }
    }
    out
}

/// RFC 9113 8.2.2: "An endpoint MUST NOT generate an HTTP/2 message containing connection-specific
/// header fields."
fn is_connection_specific(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade"
    )
}

/// RFC 9113 8.2.1: no field value has NUL, LF or CR; they become spaces (RFC 9110 5.5).
fn without_line_ends(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    for byte in &mut value {
        if matches!(byte, b'\r' | b'\n' | 0) {
            *byte = b' ';
        }
    }
    value
}

/// Bytes of one send: what a step seals. More would only be older when it is sent, and what becomes
/// urgent meanwhile would wait for it.
const GATHER_BYTES: usize = SEND_CHUNK_BYTES;

/// A frame of fewer bytes does not pay for its header when it only fills up a record.
const FRAME_BYTES_WORTH: usize = 1024;
