//! Frames (RFC 9113 4 and 6, RFC 9218 7.1): bytes in, checked values out, and back.
//!
//! [`Decoder`] checks whatever a frame can be checked for by itself: lengths, stream identifiers,
//! padding, the order of header blocks. What depends on a stream's state or on the settings is not
//! its business.

use super::{ConnectionError, ErrorCode, StreamError, StreamId};
use crate::limits::{
    H2_CONTINUATIONS_MAX, H2_HEADER_BLOCK_BYTES_MAX, H2_PRIORITY_FIELD_BYTES_MAX,
    RECORD_PLAINTEXT_BYTES_MAX,
};

mod encode;

pub use encode::*;

/// What a client sends first (RFC 9113 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The frame header (RFC 9113 4.1).
pub const HEAD_BYTES: usize = 9;

/// The largest payload that is accepted: the initial SETTINGS_MAX_FRAME_SIZE, which this side never
/// raises, since a larger frame only holds others up (RFC 9113 4.2).
pub const PAYLOAD_BYTES_MAX: usize = 16_384;

/// DATA payload that makes, with the frame's header, one full TLS record.
pub const DATA_BYTES_PER_RECORD: usize = RECORD_PLAINTEXT_BYTES_MAX - HEAD_BYTES;

/// Whether `input` begins with [`PREFACE`]; `None` while it is a part of it.
pub fn match_preface(input: &[u8]) -> Option<bool> {
    if input.len() >= PREFACE.len() {
        return Some(input.starts_with(PREFACE));
    }
    (!PREFACE.starts_with(input)).then_some(false)
}

/// Which end of the connection this side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer sends requests.
    Server,
    /// The peer sends responses.
    Client,
}

/// A frame as received, whose rules by itself are all kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// DATA (6.1).
    Data(Data<'a>),
    /// A whole header block: HEADERS with its CONTINUATIONs (6.2, 6.10).
    Headers(Headers<'a>),
    /// A part of a header block; more must follow.
    HeadersPart,
    /// PRIORITY (6.3), whose content is deprecated and not read.
    Priority {
        /// The stream, which may be in any state.
        stream: StreamId,
    },
    /// RST_STREAM (6.4).
    RstStream {
        /// The stream that ends.
        stream: StreamId,
        /// Why.
        code: ErrorCode,
    },
    /// SETTINGS without ACK (6.5).
    Settings {
        /// Six bytes per setting, for [`super::settings::Settings::apply`].
        payload: &'a [u8],
    },
    /// SETTINGS with ACK (6.5).
    SettingsAck,
    /// PING without ACK, to be answered with the same bytes (6.7).
    Ping([u8; 8]),
    /// PING with ACK (6.7).
    PingAck([u8; 8]),
    /// GOAWAY (6.8).
    GoAway {
        /// The last stream that the peer has or might have processed.
        last_stream: StreamId,
        /// Why.
        code: ErrorCode,
        /// What it adds for a log.
        debug: &'a [u8],
    },
    /// WINDOW_UPDATE (6.9).
    WindowUpdate {
        /// The stream, or zero for the connection.
        stream: StreamId,
        /// How much the window grows: 1 to 2^31-1.
        increment: u32,
    },
    /// PRIORITY_UPDATE (RFC 9218 7.1).
    PriorityUpdate {
        /// The stream whose priority it is.
        stream: StreamId,
        /// A Priority field value.
        value: &'a [u8],
    },
    /// A frame of a type unknown, which must be ignored (5.5).
    Unknown,
    /// A frame that breaks a rule of its stream only.
    Faulty(StreamError),
}

/// DATA (RFC 9113 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// The stream.
    pub stream: StreamId,
    /// The content, without padding.
    pub content: &'a [u8],
    /// Where the content begins in the input that was decoded.
    pub content_start: usize,
    /// What it takes of the flow-control windows: the payload with all padding.
    pub flow_bytes: u32,
    /// END_STREAM.
    pub end_stream: bool,
}

/// A whole header block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    /// The stream.
    pub stream: StreamId,
    /// The block, for [`super::hpack::Decoder`]. It must be decoded even if the stream is refused.
    pub block: &'a [u8],
    /// END_STREAM.
    pub end_stream: bool,
    /// The deprecated priority made the stream depend on itself, which is a stream error (RFC 7540
    /// 5.3.1).
    pub depends_on_itself: bool,
}

/// A frame and how many bytes of the input it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The frame.
    pub frame: Frame<'a>,
    /// Bytes to take off the input before the next call.
    pub consumed: usize,
}

/// Cuts one connection's input into frames.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    /// The header block that waits for its CONTINUATION.
    open: Option<OpenBlock>,
    /// Its bytes so far; those of the last one until the next call.
    block: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct OpenBlock {
    stream: StreamId,
    end_stream: bool,
    depends_on_itself: bool,
    continuations: usize,
}

impl Decoder {
    /// A decoder for the frames that a peer of `role` sends to this side.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            open: None,
            block: Vec::new(),
        }
    }

    /// The frame that `input` begins with, or `None` when it needs more bytes: never more than
    /// [`HEAD_BYTES`] and [`PAYLOAD_BYTES_MAX`]. Nothing is allocated, except for a header block
    /// that is spread over frames: up to [`H2_HEADER_BLOCK_BYTES_MAX`], freed after it.
    ///
    /// # Errors
    /// A violation that ends the connection, as soon as it can be seen. No further call must follow.
    pub fn decode<'a>(
        &'a mut self,
        input: &'a [u8],
    ) -> Result<Option<Decoded<'a>>, ConnectionError> {
        if self.open.is_none() && self.block.capacity() > 0 {
            self.block = Vec::new();
        }
        let Some((head, rest)) = input.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let head = Head::parse(head);
        self.check_head(&head)?;
        let Some(payload) = rest.get(..head.length) else {
            return Ok(None);
        };
        let consumed = HEAD_BYTES + head.length;
        let frame = self.frame(&head, payload)?;
        Ok(Some(Decoded { frame, consumed }))
    }

    /// The rules that the header alone can break.
    fn check_head(&self, head: &Head) -> Result<(), ConnectionError> {
        // RFC 9113 4.2 lets this be a stream error where no connection state is lost; skipping a
        // payload of up to 16 MiB is not worth that.
        if head.length > PAYLOAD_BYTES_MAX {
            return Err(frame_size("a frame larger than allowed"));
        }
        // RFC 9113 6.10: "Any frame other than a CONTINUATION [...] on the same stream" is a
        // connection error of type PROTOCOL_ERROR while a header block is open.
        match (&self.open, head.kind) {
            (Some(open), CONTINUATION) if open.stream == head.stream => {}
            (Some(_), _) => return Err(protocol("a frame within a header block")),
            (None, CONTINUATION) => {
                return Err(protocol("CONTINUATION without a header block before it"));
            }
            (None, _) => {}
        }
        let (of_stream, fault) = match head.kind {
            DATA | HEADERS => (Some(true), head.length < head.fixed_bytes()),
            // Its length is a matter of the stream (6.3).
            PRIORITY => (Some(true), false),
            RST_STREAM => (Some(true), head.length != 4),
            SETTINGS if head.has(ACK) => (Some(false), head.length != 0),
            SETTINGS => (Some(false), !head.length.is_multiple_of(6)),
            // No client may push (8.4), and no server to this side, which never allows it (6.5.2).
            PUSH_PROMISE => return Err(protocol("PUSH_PROMISE")),
            PING => (Some(false), head.length != 8),
            GOAWAY => (Some(false), head.length < 8),
            WINDOW_UPDATE => (None, head.length != 4),
            // RFC 9218 7.1: a client that receives one answers with PROTOCOL_ERROR.
            PRIORITY_UPDATE if self.role == Role::Client => {
                return Err(protocol("PRIORITY_UPDATE from a server"));
            }
            PRIORITY_UPDATE => (Some(false), head.length < 4),
            _ => (None, false),
        };
        if of_stream.is_some_and(|of_stream| of_stream != (head.stream != 0)) {
            return Err(protocol(
                "a frame on stream zero that needs another, or not",
            ));
        }
        if fault {
            return Err(frame_size("a frame of a wrong length for its type"));
        }
        Ok(())
    }

    fn frame<'a>(
        &'a mut self,
        head: &Head,
        payload: &'a [u8],
    ) -> Result<Frame<'a>, ConnectionError> {
        let stream = head.stream;
        match head.kind {
            DATA => data(head, payload),
            HEADERS => self.headers(head, payload),
            PRIORITY => Ok(priority(stream, payload)),
            RST_STREAM => Ok(Frame::RstStream {
                stream,
                code: ErrorCode::from(first_u32(payload)),
            }),
            SETTINGS if head.has(ACK) => Ok(Frame::SettingsAck),
            SETTINGS => Ok(Frame::Settings { payload }),
            PING => {
                let opaque = payload.first_chunk().copied().unwrap_or_default();
                Ok(if head.has(ACK) {
                    Frame::PingAck(opaque)
                } else {
                    Frame::Ping(opaque)
                })
            }
            GOAWAY => Ok(Frame::GoAway {
                last_stream: first_u32(payload) & STREAM_ID_MASK,
                code: ErrorCode::from(first_u32(payload.get(4..).unwrap_or_default())),
                debug: payload.get(8..).unwrap_or_default(),
            }),
            WINDOW_UPDATE => window_update(stream, payload),
            CONTINUATION => self.continuation(head, payload),
            PRIORITY_UPDATE => priority_update(payload),
            _ => Ok(Frame::Unknown),
        }
    }

    fn headers<'a>(
        &'a mut self,
        head: &Head,
        payload: &'a [u8],
    ) -> Result<Frame<'a>, ConnectionError> {
        let (mut block, _) = unpadded(head, payload)?;
        let mut depends_on_itself = false;
        if head.has(PRIORITY_FLAG) {
            // The length was checked without the padding, which must not reach into these.
            let (fields, rest) = block
                .split_at_checked(PRIORITY_BYTES)
                .ok_or(PADDING_TOO_LONG)?;
            depends_on_itself = first_u32(fields) & STREAM_ID_MASK == head.stream;
            block = rest;
        }
        let end_stream = head.has(END_STREAM);
        if head.has(END_HEADERS) {
            return Ok(Frame::Headers(Headers {
                stream: head.stream,
                block,
                end_stream,
                depends_on_itself,
            }));
        }
        self.open = Some(OpenBlock {
            stream: head.stream,
            end_stream,
            depends_on_itself,
            continuations: 0,
        });
        self.block.clear();
        self.block.extend_from_slice(block);
        Ok(Frame::HeadersPart)
    }

    /// The bounds end the connection: a header block that is not decoded to its end takes the
    /// compression state with it (RFC 9113 4.3).
    fn continuation(&mut self, head: &Head, part: &[u8]) -> Result<Frame<'_>, ConnectionError> {
        let Some(open) = &mut self.open else {
            return Err(protocol("CONTINUATION without a header block before it"));
        };
        open.continuations += 1;
        if open.continuations > H2_CONTINUATIONS_MAX
            || self.block.len() + part.len() > H2_HEADER_BLOCK_BYTES_MAX
        {
            return Err(ConnectionError::new(
                ErrorCode::EnhanceYourCalm,
                "a header block too long or in too many frames",
            ));
        }
        self.block.extend_from_slice(part);
        if !head.has(END_HEADERS) {
            return Ok(Frame::HeadersPart);
        }
        let headers = Headers {
            stream: open.stream,
            block: &self.block,
            end_stream: open.end_stream,
            depends_on_itself: open.depends_on_itself,
        };
        self.open = None;
        Ok(Frame::Headers(headers))
    }
}

/// A frame header (RFC 9113 4.1).
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: StreamId,
}

impl Head {
    fn parse(bytes: &[u8; HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind,
            flags,
            // RFC 9113 4.1: the reserved bit "MUST be ignored when receiving".
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & STREAM_ID_MASK,
        }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What the flags of DATA or HEADERS make a payload begin with.
    fn fixed_bytes(&self) -> usize {
        let priority = self.kind == HEADERS && self.has(PRIORITY_FLAG);
        usize::from(self.has(PADDED)) + if priority { PRIORITY_BYTES } else { 0 }
    }
}

fn data<'a>(head: &Head, payload: &'a [u8]) -> Result<Frame<'a>, ConnectionError> {
    let (content, content_start) = unpadded(head, payload)?;
    Ok(Frame::Data(Data {
        stream: head.stream,
        content,
        content_start: HEAD_BYTES + content_start,
        flow_bytes: u32::try_from(payload.len()).unwrap_or(u32::MAX),
        end_stream: head.has(END_STREAM),
    }))
}

/// The payload without its padding, and where that begins.
fn unpadded<'a>(head: &Head, payload: &'a [u8]) -> Result<(&'a [u8], usize), ConnectionError> {
    if !head.has(PADDED) {
        return Ok((payload, 0));
    }
    // RFC 9113 6.1: padding as long as the payload or longer is a connection error of type
    // PROTOCOL_ERROR.
    let (&padding, padded) = payload.split_first().ok_or(PADDING_TOO_LONG)?;
    let length = padded
        .len()
        .checked_sub(usize::from(padding))
        .ok_or(PADDING_TOO_LONG)?;
    Ok((padded.get(..length).unwrap_or_default(), 1))
}

fn priority(stream: StreamId, payload: &[u8]) -> Frame<'static> {
    if payload.len() != PRIORITY_BYTES {
        return Frame::Faulty(StreamError::new(
            stream,
            ErrorCode::FrameSize,
            "PRIORITY of a wrong length",
        ));
    }
    if first_u32(payload) & STREAM_ID_MASK == stream {
        return Frame::Faulty(StreamError::new(
            stream,
            ErrorCode::Protocol,
            "a stream that depends on itself",
        ));
    }
    Frame::Priority { stream }
}

fn window_update(stream: StreamId, payload: &[u8]) -> Result<Frame<'_>, ConnectionError> {
    let increment = first_u32(payload) & STREAM_ID_MASK;
    // RFC 9113 6.9: an increment of zero is an error of the stream, or of the connection.
    match (increment, stream) {
        (0, 0) => Err(protocol("WINDOW_UPDATE of zero")),
        (0, _) => Ok(Frame::Faulty(StreamError::new(
            stream,
            ErrorCode::Protocol,
            "WINDOW_UPDATE of zero",
        ))),
        _ => Ok(Frame::WindowUpdate { stream, increment }),
    }
}

fn priority_update(payload: &[u8]) -> Result<Frame<'_>, ConnectionError> {
    let stream = first_u32(payload) & STREAM_ID_MASK;
    if stream == 0 {
        return Err(protocol("PRIORITY_UPDATE of stream zero"));
    }
    let value = payload.get(4..).unwrap_or_default();
    // No sensible priority is that long; as one that does not parse, it changes nothing.
    if value.len() > H2_PRIORITY_FIELD_BYTES_MAX {
        return Ok(Frame::Unknown);
    }
    Ok(Frame::PriorityUpdate { stream, value })
}

fn first_u32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.first_chunk().copied().unwrap_or_default())
}

const fn protocol(reason: &'static str) -> ConnectionError {
    ConnectionError::protocol(reason)
}

const fn frame_size(reason: &'static str) -> ConnectionError {
    ConnectionError::new(ErrorCode::FrameSize, reason)
}

const PADDING_TOO_LONG: ConnectionError = protocol("padding longer than the frame");

/// The 31 bits of a stream identifier or window increment; the first bit is reserved.
const STREAM_ID_MASK: u32 = 0x7fff_ffff;

/// The deprecated priority fields (RFC 9113 6.2).
const PRIORITY_BYTES: usize = 5;

const DATA: u8 = 0x00;
const HEADERS: u8 = 0x01;
const PRIORITY: u8 = 0x02;
const RST_STREAM: u8 = 0x03;
const SETTINGS: u8 = 0x04;
const PUSH_PROMISE: u8 = 0x05;
const PING: u8 = 0x06;
const GOAWAY: u8 = 0x07;
const WINDOW_UPDATE: u8 = 0x08;
const CONTINUATION: u8 = 0x09;
const PRIORITY_UPDATE: u8 = 0x10;

const END_STREAM: u8 = 0x01;
const ACK: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY_FLAG: u8 = 0x20;

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
