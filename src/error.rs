//! Errors that say whose they are.
//!
//! Every failure names a [`Side`] (who is to blame), a [`Stage`] (where in a connection's life it
//! happened) and a [`Cause`]. Normal endings (a closed keep-alive connection, a drain) are outcomes
//! of the drivers, not errors.

use std::fmt;
use std::io;

/// Who caused a failure; decides the log level and the counter it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The peer that connected to us.
    Client,
    /// A server that we connected to.
    Upstream,
    /// This program, its configuration or its machine.
    Us,
}

/// Where in a connection's life a failure happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Taking the connection from the listener.
    Accept,
    /// From the first byte to an established TLS session.
    Handshake,
    /// Receiving a request head.
    RequestHead,
    /// Receiving a request body.
    RequestBody,
    /// Connecting to a server behind us.
    Connect,
    /// Passing a request on and receiving the answer.
    Exchange,
    /// Computing the response.
    Serve,
    /// Sending the response.
    Response,
    /// Carrying bytes between a client and a server behind us.
    Tunnel,
    /// close_notify and the lingering close.
    Close,
}

impl Side {
    /// All sides, in the order of their index.
    pub const ALL: [Self; 3] = [Self::Client, Self::Upstream, Self::Us];

    /// Its published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Us => "us",
        }
    }
}

impl Stage {
    /// All stages, in the order of their index.
    pub const ALL: [Self; 10] = [
        Self::Accept,
        Self::Handshake,
        Self::RequestHead,
        Self::RequestBody,
        Self::Connect,
        Self::Exchange,
        Self::Serve,
        Self::Response,
        Self::Tunnel,
        Self::Close,
    ];

    /// Its published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Handshake => "handshake",
            Self::RequestHead => "request_head",
            Self::RequestBody => "request_body",
            Self::Connect => "connect",
            Self::Exchange => "exchange",
            Self::Serve => "serve",
            Self::Response => "response",
            Self::Tunnel => "tunnel",
            Self::Close => "close",
        }
    }
}

/// What went wrong.
#[derive(Debug)]
pub enum Cause {
    /// A system call failed.
    Io(io::Error),
    /// The TLS library refused what the peer sent, or what we configured.
    Tls(rustls::Error),
    /// The peer sent a fatal alert; its description (RFC 8446 6).
    AlertReceived(u8),
    /// The peer broke the record layer after the handshake, and was sent the alert for it.
    Record(&'static str),
    /// The peer changes its key, which this kernel cannot follow (before Linux 6.14); it was sent an
    /// alert for it.
    NoRekey,
    /// The key is used up (`limits.records_per_key_max`) and cannot be changed; the peer was sent an
    /// alert for it.
    KeyExhausted,
    /// The peer broke the application protocol.
    Protocol(&'static str),
    /// The transport ended without close_notify while more was due (RFC 8446 6.1: truncation).
    Truncated,
    /// A deadline passed; the name is the configuration key that sets it.
    Timeout(&'static str),
    /// A bound was reached; the name is the configuration key or constant that sets it.
    Limit(&'static str),
    /// A file shrank while it was sent.
    FileTruncated,
    /// A file could not be read.
    File(io::Error),
    /// This program, its TLS library or its kernel cannot do what it should.
    Internal(&'static str),
}

impl Cause {
    /// Whether the peer was sent an alert that tells it, which a reset for bytes unread must not
    /// overtake.
    pub fn was_told(&self) -> bool {
        matches!(
            self,
            Self::Tls(_) | Self::Record(_) | Self::NoRekey | Self::KeyExhausted
        )
    }
}

/// A failure with its blame. See the module documentation.
#[derive(Debug)]
pub struct Error {
    /// Who caused it.
    pub side: Side,
    /// Where it happened.
    pub stage: Stage,
    /// What it was.
    pub cause: Cause,
}

impl Error {
    /// A failure of the peer.
    pub fn client(stage: Stage, cause: Cause) -> Self {
        Self {
            side: Side::Client,
            stage,
            cause,
        }
    }

    /// A failure of a server behind us.
    pub fn upstream(stage: Stage, cause: Cause) -> Self {
        Self {
            side: Side::Upstream,
            stage,
            cause,
        }
    }

    /// A failure of ours.
    pub fn us(stage: Stage, cause: Cause) -> Self {
        Self {
            side: Side::Us,
            stage,
            cause,
        }
    }

    /// A failure on a client's connection, with the blame that its cause tells.
    pub fn on_connection(stage: Stage, cause: Cause) -> Self {
        match cause {
            Cause::Io(error) => Self::client_io(stage, error),
            Cause::Tls(_)
            | Cause::AlertReceived(_)
            | Cause::Record(_)
            | Cause::NoRekey
            | Cause::Protocol(_)
            | Cause::Truncated
            | Cause::Timeout(_) => Self::client(stage, cause),
            Cause::KeyExhausted
            | Cause::Limit(_)
            | Cause::FileTruncated
            | Cause::File(_)
            | Cause::Internal(_) => Self::us(stage, cause),
        }
    }

    /// A failed system call on a client's socket: the peer's doing when the peer reset or vanished,
    /// ours otherwise.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "io::ErrorKind is open: whatever is not known to be the peer's doing is ours"
    )]
    pub fn client_io(stage: Stage, error: io::Error) -> Self {
        use io::ErrorKind as K;
        let side = match error.kind() {
            K::ConnectionReset
            | K::ConnectionAborted
            | K::BrokenPipe
            | K::NotConnected
            | K::TimedOut
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::UnexpectedEof => Side::Client,
            _ => Side::Us,
        };
        Self {
            side,
            stage,
            cause: Cause::Io(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}: ", self.side, self.stage)?;
        match &self.cause {
            Cause::Io(error) => write!(f, "{error}"),
            Cause::Tls(error) => write!(f, "{error}"),
            Cause::AlertReceived(description) => write!(f, "peer sent alert {description}"),
            Cause::Record(what) => write!(f, "record layer: {what}"),
            Cause::NoRekey => f.write_str("this kernel cannot change keys (Linux 6.14 can)"),
            Cause::KeyExhausted => f.write_str("limits.records_per_key_max reached"),
            Cause::Protocol(what) => f.write_str(what),
            Cause::Truncated => f.write_str("closed without close_notify"),
            Cause::Timeout(key) => write!(f, "{key} passed"),
            Cause::Limit(key) => write!(f, "{key} reached"),
            Cause::FileTruncated => f.write_str("the file shrank while it was sent"),
            Cause::File(error) => write!(f, "reading the file: {error}"),
            Cause::Internal(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_in_the_order_of_the_index() {
        for (index, side) in Side::ALL.into_iter().enumerate() {
            assert_eq!(side as usize, index);
        }
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
        // The last ones: nothing is missing.
        assert_eq!(Side::ALL.len(), Side::Us as usize + 1);
        assert_eq!(Stage::ALL.len(), Stage::Close as usize + 1);
    }
}
