//! TLS after the handshake, without I/O (RFC 8446 5, RFC 5246 6.2).
//!
//! rustls makes the session; from then on its traffic secrets live here as [`TrafficKeys`]. In user
//! space a [`Sealer`] protects records in place and an [`Opener`] takes them off in place; under
//! kernel TLS the kernel does that and hands over (type, content). Either way every record that was
//! received goes through one [`PostHandshake`], which decides what it means.

use std::fmt;

use crate::error::Cause;

pub mod encode;
pub mod keys;
pub mod machine;
pub mod open;
pub mod seal;

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "tests write length fields of lengths they chose"
)]
pub(crate) mod tests;

pub use keys::{Aead, TrafficKeys, Unsupported, Version};
pub use machine::{Event, PostHandshake, Role};
pub use open::{Opened, Opener};
pub use rustls::{AlertDescription, ContentType};
pub use seal::{SealError, Sealer};

/// The peer broke the protocol. The connection is over: send the alert, then close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    /// The fatal alert that answers it (RFC 8446 6.2).
    pub alert: AlertDescription,
    /// What was wrong.
    pub reason: &'static str,
}

impl ProtocolError {
    pub(crate) const fn new(alert: AlertDescription, reason: &'static str) -> Self {
        Self { alert, reason }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (alert {:?})", self.reason, self.alert)
    }
}

impl std::error::Error for ProtocolError {}

impl From<ProtocolError> for Cause {
    fn from(error: ProtocolError) -> Self {
        Self::Record(error.reason)
    }
}

/// What every record carries as its version: TLS 1.2, also under TLS 1.3 (RFC 8446 5.1, 5.2).
const RECORD_VERSION: [u8; 2] = [3, 3];

/// The authentication tag of all three AEADs (RFC 5116 5.1, RFC 8439 2.8).
const TAG_BYTES: usize = 16;

/// The part of a TLS 1.2 AES-GCM nonce that travels in the record (RFC 5288 3).
const EXPLICIT_NONCE_BYTES: usize = 8;
