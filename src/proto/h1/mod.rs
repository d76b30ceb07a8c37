//! HTTP/1.1 messages (RFC 9112): heads, bodies and framing, as a server and as a client.
//!
//! Framing is strict. Whatever two implementations could read differently (RFC 9112 11.2, request
//! smuggling) is refused and ends the connection, also where the RFC would let a server be lenient.

pub mod body;
pub mod encode;
pub mod parse;
pub mod request_head;
pub mod response_head;

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

/// What is wrong with a message that another server sent. Nothing else can be read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.0, self.reason)
    }
}

impl std::error::Error for Refusal {}
