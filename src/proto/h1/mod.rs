//! HTTP/1.1 messages (RFC 9112): request heads, request bodies, response framing.
//!
//! Framing is strict. Whatever two implementations could read differently (RFC 9112 11.2, request
//! smuggling) is refused and ends the connection, also where the RFC would let a server be lenient.

pub mod body;
pub mod encode;
pub mod parse;

use std::fmt;

use crate::message::Status;

/// Why a message is refused. After one the connection's framing is unknown: it must be answered
/// with `status` and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status to answer with.
    pub status: Status,
    /// What was wrong, for the log.
    pub reason: &'static str,
}

impl Refusal {
    /// A refusal with that status.
    pub const fn new(status: u16, reason: &'static str) -> Self {
        Self {
            status: Status(status),
            reason,
        }
    }

    const fn bad(reason: &'static str) -> Self {
        Self::new(400, reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.0, self.reason)
    }
}

impl std::error::Error for Refusal {}
