//! Frames out: appended to a buffer, or only the header, for vectored sends.

use super::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEAD_BYTES, HEADERS,
    PAYLOAD_BYTES_MAX, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::proto::h2::{ErrorCode, StreamId};

/// The header of a DATA frame whose `length` bytes follow it, at most what the peer's
/// SETTINGS_MAX_FRAME_SIZE allows (RFC 9113 6.1). With
/// [`DATA_BYTES_PER_RECORD`](super::DATA_BYTES_PER_RECORD) the two fill a TLS record.
pub fn data_head(stream: StreamId, length: usize, end_stream: bool) -> [u8; HEAD_BYTES] {
    let flags = if end_stream { END_STREAM } else { 0 };
    head(length, DATA, flags, stream)
}

/// Begins HEADERS: the block is to be appended to `out`, then [`finish_headers`] called with what
/// this returns.
pub fn begin_headers(out: &mut Vec<u8>) -> HeadersStart {
    let start = HeadersStart(out.len());
    out.extend_from_slice(&[0; HEAD_BYTES]);
    start
}

/// Where a HEADERS frame begins that is not finished.
#[derive(Debug)]
#[must_use = "the frame has no header yet"]
pub struct HeadersStart(usize);

/// Finishes HEADERS: what was appended since [`begin_headers`] becomes its block, and where it is
/// longer than one frame may be by any peer's settings, CONTINUATION frames (RFC 9113 6.2, 6.10).
pub fn finish_headers(start: HeadersStart, stream: StreamId, end_stream: bool, out: &mut Vec<u8>) {
    let HeadersStart(start) = start;
    let end_stream = if end_stream { END_STREAM } else { 0 };
    let block_len = out.len().saturating_sub(start + HEAD_BYTES);
    if block_len <= PAYLOAD_BYTES_MAX {
        let head = head(block_len, HEADERS, END_HEADERS | end_stream, stream);
        put_at(out, start, &head);
        return;
    }
    let head_of_first = head(PAYLOAD_BYTES_MAX, HEADERS, end_stream, stream);
    put_at(out, start, &head_of_first);
    let rest = out.split_off(start + HEAD_BYTES + PAYLOAD_BYTES_MAX);
    let mut parts = rest.chunks(PAYLOAD_BYTES_MAX).peekable();
    while let Some(part) = parts.next() {
        let flags = if parts.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        out.extend_from_slice(&head(part.len(), CONTINUATION, flags, stream));
        out.extend_from_slice(part);
    }
}

/// Appends RST_STREAM (RFC 9113 6.4).
pub fn put_rst_stream(stream: StreamId, code: ErrorCode, out: &mut Vec<u8>) {
    out.extend_from_slice(&head(4, RST_STREAM, 0, stream));
    out.extend_from_slice(&code.to_u32().to_be_bytes());
}

/// Appends SETTINGS with these identifiers and values (RFC 9113 6.5).
pub fn put_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    out.extend_from_slice(&head(settings.len() * 6, SETTINGS, 0, 0));
    for (identifier, value) in settings {
        out.extend_from_slice(&identifier.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends the acknowledgement of the peer's SETTINGS (RFC 9113 6.5.3).
pub fn put_settings_ack(out: &mut Vec<u8>) {
    out.extend_from_slice(&head(0, SETTINGS, ACK, 0));
}

/// Appends PING (RFC 9113 6.7).
pub fn put_ping(opaque: [u8; 8], out: &mut Vec<u8>) {
    out.extend_from_slice(&head(8, PING, 0, 0));
    out.extend_from_slice(&opaque);
}

/// Appends the answer to the peer's PING (RFC 9113 6.7).
pub fn put_ping_ack(opaque: [u8; 8], out: &mut Vec<u8>) {
    out.extend_from_slice(&head(8, PING, ACK, 0));
    out.extend_from_slice(&opaque);
}

/// Appends GOAWAY: `last_stream` is the last that was or might be processed (RFC 9113 6.8).
pub fn put_goaway(last_stream: StreamId, code: ErrorCode, out: &mut Vec<u8>) {
    out.extend_from_slice(&head(8, GOAWAY, 0, 0));
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&code.to_u32().to_be_bytes());
}

/// Appends WINDOW_UPDATE of a stream, or with stream zero of the connection. `increment` is 1 to
/// 2^31-1 (RFC 9113 6.9).
pub fn put_window_update(stream: StreamId, increment: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&head(4, WINDOW_UPDATE, 0, stream));
    out.extend_from_slice(&increment.to_be_bytes());
}

fn head(length: usize, kind: u8, flags: u8, stream: StreamId) -> [u8; HEAD_BYTES] {
    let [.., l0, l1, l2] = length.to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [l0, l1, l2, kind, flags, s0, s1, s2, s3]
}

fn put_at(out: &mut [u8], start: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(start..start + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
