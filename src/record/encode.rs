//! The messages that we send after the handshake.

use rustls::AlertDescription;

use super::RECORD_VERSION;

/// The content of an alert record (RFC 8446 6).
///
/// The level follows from the description: warning for `close_notify`, `user_canceled` (RFC 8446 6.1)
/// and `no_renegotiation` (RFC 5246 7.2.2), fatal for all others.
pub fn alert(description: AlertDescription) -> [u8; 2] {
    let closing = description == AlertDescription::CloseNotify
        || description == AlertDescription::UserCanceled
        || description == AlertDescription::NoRenegotiation;
    let level = if closing { LEVEL_WARNING } else { LEVEL_FATAL };
    [level, u8::from(description)]
}

/// A whole unprotected alert record, for a peer that has no keys yet.
pub fn plaintext_alert_record(description: AlertDescription) -> [u8; 7] {
    let [level, code] = alert(description);
    let [major, minor] = RECORD_VERSION;
    [TYPE_ALERT, major, minor, 0, 2, level, code]
}

/// A KeyUpdate handshake message (RFC 8446 4.6.3). It goes out under the old sending key, alone in its
/// record; everything after it under the new one. `request_reply` asks the peer for its own.
pub fn key_update(request_reply: bool) -> [u8; KEY_UPDATE_BYTES] {
    [HANDSHAKE_KEY_UPDATE, 0, 0, 1, u8::from(request_reply)]
}

pub(super) const KEY_UPDATE_BYTES: usize = 5;
pub(super) const HANDSHAKE_KEY_UPDATE: u8 = 24;
pub(super) const LEVEL_WARNING: u8 = 1;
pub(super) const LEVEL_FATAL: u8 = 2;
const TYPE_ALERT: u8 = 21;
