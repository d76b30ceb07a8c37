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
    /// Handing the record layer to the kernel.
    Offload,
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
    /// close_notify and the lingering close.
    Close,
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
            | Cause::Protocol(_)
            | Cause::Truncated
            | Cause::Timeout(_) => Self::client(stage, cause),
            Cause::Limit(_) | Cause::FileTruncated | Cause::File(_) | Cause::Internal(_) => {
                Self::us(stage, cause)
            }
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
