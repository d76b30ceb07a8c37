//! HTTP/2 (RFC 9113): frames, header compression, flow control, settings, streams, priorities.
//!
//! The parts do not know each other's input and output; the driver in `http/h2` joins them. A
//! violation is either one of the connection ([`ConnectionError`]: GOAWAY and the end) or of one
//! stream ([`StreamError`]: RST_STREAM, and the connection goes on).

pub mod connection;
pub mod field;
pub mod flood;
pub mod flow;
pub mod frame;
pub mod hpack;
pub mod priority;
pub mod request;
pub mod response;
pub mod settings;
pub mod stream;

use std::fmt;

/// Why a stream or connection ends (RFC 9113 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// No error: a graceful end.
    No,
    /// The protocol was broken in a way that no other code names.
    Protocol,
    /// This side failed.
    Internal,
    /// More was sent than flow control allowed.
    FlowControl,
    /// SETTINGS were not acknowledged in time.
    SettingsTimeout,
    /// A frame for a stream that was already half-closed.
    StreamClosed,
    /// A frame of a wrong size.
    FrameSize,
    /// The stream was refused before any processing: the request can be sent again.
    RefusedStream,
    /// The stream is no longer wanted.
    Cancel,
    /// The header compression state is lost.
    Compression,
    /// The connection of a CONNECT request failed.
    Connect,
    /// The peer causes too much work.
    EnhanceYourCalm,
    /// The security of the transport is too weak.
    InadequateSecurity,
    /// The request must be sent over HTTP/1.1.
    Http11Required,
    /// One that is not registered; to be treated as [`Self::Internal`].
    Other(u32),
}

impl ErrorCode {
    /// The code as sent.
    pub fn to_u32(self) -> u32 {
        match self {
            Self::No => 0x00,
            Self::Protocol => 0x01,
            Self::Internal => 0x02,
            Self::FlowControl => 0x03,
            Self::SettingsTimeout => 0x04,
            Self::StreamClosed => 0x05,
            Self::FrameSize => 0x06,
            Self::RefusedStream => 0x07,
            Self::Cancel => 0x08,
            Self::Compression => 0x09,
            Self::Connect => 0x0a,
            Self::EnhanceYourCalm => 0x0b,
            Self::InadequateSecurity => 0x0c,
            Self::Http11Required => 0x0d,
            Self::Other(code) => code,
        }
    }
}

impl From<u32> for ErrorCode {
    fn from(code: u32) -> Self {
        match code {
            0x00 => Self::No,
            0x01 => Self::Protocol,
            0x02 => Self::Internal,
            0x03 => Self::FlowControl,
            0x04 => Self::SettingsTimeout,
            0x05 => Self::StreamClosed,
            0x06 => Self::FrameSize,
            0x07 => Self::RefusedStream,
            0x08 => Self::Cancel,
            0x09 => Self::Compression,
            0x0a => Self::Connect,
            0x0b => Self::EnhanceYourCalm,
            0x0c => Self::InadequateSecurity,
            0x0d => Self::Http11Required,
            other => Self::Other(other),
        }
    }
}

/// A stream's identifier: 31 bits, zero for the connection (RFC 9113 5.1.1).
pub type StreamId = u32;

/// A violation that ends the connection: GOAWAY with its code, then close (RFC 9113 5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionError {
    /// The code that GOAWAY carries.
    pub code: ErrorCode,
    /// What was wrong, for the log.
    pub reason: &'static str,
}

impl ConnectionError {
    /// An error of that code.
    pub const fn new(code: ErrorCode, reason: &'static str) -> Self {
        Self { code, reason }
    }

    const fn protocol(reason: &'static str) -> Self {
        Self::new(ErrorCode::Protocol, reason)
    }
}

impl From<hpack::Error> for ConnectionError {
    fn from(error: hpack::Error) -> Self {
        Self::new(error.code(), error.reason())
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.code, self.reason)
    }
}

impl std::error::Error for ConnectionError {}

/// A violation that ends one stream: RST_STREAM with its code (RFC 9113 5.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// The stream.
    pub stream: StreamId,
    /// The code that RST_STREAM carries.
    pub code: ErrorCode,
    /// What was wrong, for the log.
    pub reason: &'static str,
}

impl StreamError {
    /// An error of that code.
    pub const fn new(stream: StreamId, code: ErrorCode, reason: &'static str) -> Self {
        Self {
            stream,
            code,
            reason,
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stream {}: {:?}: {}",
            self.stream, self.code, self.reason
        )
    }
}

impl std::error::Error for StreamError {}
