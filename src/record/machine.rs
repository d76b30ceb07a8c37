//! What received records mean once the session stands, the same for user space and kernel.

use rustls::{AlertDescription, ContentType};

use super::ProtocolError;
use super::encode::{HANDSHAKE_KEY_UPDATE, KEY_UPDATE_BYTES, LEVEL_FATAL, LEVEL_WARNING};
use super::keys::Version;
use crate::limits::{
    EMPTY_RECORDS_MAX, HANDSHAKE_BYTES_MAX, KEY_UPDATE_WINDOW_MS, KEY_UPDATES_PER_WINDOW_MAX,
    RENEGOTIATIONS_REFUSED_MAX, WARNING_ALERTS_MAX,
};

/// What a record asks of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The payload is application data, at least one byte.
    Data,
    /// Nothing: an empty record, a tolerated warning, a part of a message.
    Nothing,
    /// The peer's next record is under its next key: replace the receiving keys before any other
    /// record is opened (RFC 8446 4.6.3).
    KeyUpdate {
        /// It wants one back: send [`super::encode::key_update`]`(false)` under the old sending key and
        /// replace that, before the next application data. One answers any number that came before it.
        reply: bool,
    },
    /// A TLS 1.2 client asked for renegotiation: answer with the warning `no_renegotiation` and go on
    /// (RFC 5246 7.2.2). Whether to go on is then the client's choice.
    RefuseRenegotiation,
    /// The peer will send nothing more (RFC 8446 6.1). Also for every record after it.
    CloseNotify,
    /// The peer gave up, with this alert (RFC 8446 6.2). Nothing may be sent any more.
    FatalAlert(AlertDescription),
}

/// The server's side of a session after its handshake.
///
/// It sees every received record in order, after decryption. From the kernel that is the type in the
/// control message of `recvmsg` and the bytes that came with it; the buffer must hold a whole record
/// (2^14 bytes) unless the record is application data, because the kernel gives the rest of a longer
/// one as if it were another record.
#[derive(Debug)]
pub struct PostHandshake {
    version: Version,
    /// The end of the session, once the peer has sent it.
    ended: Option<Event>,
    message: PartialMessage,
    empty_records: u32,
    warning_alerts: u32,
    renegotiations_refused: u32,
    key_updates: u32,
    key_updates_since_ms: u64,
}

/// The front of a handshake message whose rest is to come. Only the bytes that are looked at are kept.
#[derive(Debug, Default)]
struct PartialMessage {
    head: [u8; KEY_UPDATE_BYTES],
    head_bytes: usize,
    /// Bytes of a refused ClientHello that are still to be passed over.
    skip_bytes: usize,
}

impl PostHandshake {
    /// The state right after the handshake.
    pub fn new(version: Version) -> Self {
        Self {
            version,
            ended: None,
            message: PartialMessage::default(),
            empty_records: 0,
            warning_alerts: 0,
            renegotiations_refused: 0,
            key_updates: 0,
            key_updates_since_ms: 0,
        }
    }

    /// Takes the next record. `now_ms` is any clock that does not go back.
    ///
    /// # Errors
    ///
    /// The peer's fault, with the alert to send. The machine must not be used again.
    #[inline]
    pub fn on_record(
        &mut self,
        content_type: u8,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<Event, ProtocolError> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        let content_type = ContentType::from(content_type);
        if self.message.is_begun() && content_type != ContentType::Handshake {
            return Err(INTERLEAVED);
        }
        match content_type {
            ContentType::ApplicationData => self.on_data(payload),
            ContentType::Alert => self.on_alert(payload),
            ContentType::Handshake => match self.version {
                Version::Tls13 => self.on_handshake_tls13(payload, now_ms),
                Version::Tls12 => self.on_handshake_tls12(payload),
            },
            // RFC 8446 5: a change_cipher_spec after Finished is as unexpected as an unknown type.
            ContentType::ChangeCipherSpec
            | ContentType::Heartbeat
            | ContentType::Unknown(_)
            | _ => Err(UNEXPECTED_TYPE),
        }
    }

    /// Whether a handshake message has begun and not ended. The receiving side can then not be handed
    /// over: its new owner would meet the rest of the message.
    pub fn is_mid_message(&self) -> bool {
        self.message.is_begun()
    }

    #[inline]
    fn on_data(&mut self, payload: &[u8]) -> Result<Event, ProtocolError> {
        if !payload.is_empty() {
            self.empty_records = 0;
            self.warning_alerts = 0;
            return Ok(Event::Data);
        }
        self.empty_records += 1;
        if self.empty_records > EMPTY_RECORDS_MAX {
            return Err(TOO_MANY_EMPTY);
        }
        Ok(Event::Nothing)
    }

    fn on_alert(&mut self, payload: &[u8]) -> Result<Event, ProtocolError> {
        // RFC 8446 5.1: exactly one alert per record. RFC 5246 allows to split and to join them, but
        // nobody does, and no other implementation takes it.
        let [level, description] = match *payload {
            [] => return Err(EMPTY_FRAGMENT),
            [level, description] => [level, description],
            _ => return Err(ALERT_LENGTH),
        };
        let description = AlertDescription::from(description);
        if description == AlertDescription::CloseNotify {
            return Ok(self.end(Event::CloseNotify));
        }
        let is_warning = match self.version {
            // RFC 8446 6: the level is ignored, and all but the closure alerts are errors.
            Version::Tls13 => description == AlertDescription::UserCanceled,
            Version::Tls12 if level == LEVEL_WARNING => true,
            Version::Tls12 if level == LEVEL_FATAL => false,
            Version::Tls12 => return Err(ALERT_LEVEL),
        };
        if !is_warning {
            return Ok(self.end(Event::FatalAlert(description)));
        }
        self.warning_alerts += 1;
        if self.warning_alerts > WARNING_ALERTS_MAX {
            return Err(TOO_MANY_WARNINGS);
        }
        Ok(Event::Nothing)
    }

    fn on_handshake_tls13(&mut self, payload: &[u8], now_ms: u64) -> Result<Event, ProtocolError> {
        if payload.is_empty() {
            return Err(EMPTY_FRAGMENT);
        }
        let rest = self.message.fill_head(payload, KEY_UPDATE_BYTES);
        let [kind, length @ .., request] = self.message.head;
        // Post-handshake authentication was not offered and a client sends no tickets, so all that
        // may come is a KeyUpdate (RFC 8446 4.6).
        if kind != HANDSHAKE_KEY_UPDATE {
            return Err(UNEXPECTED_MESSAGE);
        }
        if self.message.head_bytes >= HANDSHAKE_HEADER_BYTES && length != [0, 0, 1] {
            return Err(KEY_UPDATE_LENGTH);
        }
        if self.message.head_bytes < KEY_UPDATE_BYTES {
            return Ok(Event::Nothing);
        }
        if request > 1 {
            return Err(KEY_UPDATE_VALUE);
        }
        // RFC 8446 5.1: a message before a key change ends its record.
        if !rest.is_empty() {
            return Err(AFTER_KEY_UPDATE);
        }
        self.message = PartialMessage::default();
        self.count_key_update(now_ms)?;
        Ok(Event::KeyUpdate {
            reply: request == 1,
        })
    }

    /// Renegotiation is not offered. The first request on a connection is answered as RFC 5246 7.2.2
    /// says, with a warning, so that a client that can live without it goes on; another one is fatal,
    /// since each makes us read a ClientHello and answer.
    fn on_handshake_tls12(&mut self, payload: &[u8]) -> Result<Event, ProtocolError> {
        if payload.is_empty() {
            return Err(EMPTY_FRAGMENT);
        }
        let mut rest = payload;
        if self.message.head_bytes < HANDSHAKE_HEADER_BYTES {
            rest = self.message.fill_head(payload, HANDSHAKE_HEADER_BYTES);
            let [kind, high, middle, low, _] = self.message.head;
            if kind != HANDSHAKE_CLIENT_HELLO {
                return Err(UNEXPECTED_MESSAGE);
            }
            if self.renegotiations_refused >= RENEGOTIATIONS_REFUSED_MAX {
                return Err(TOO_MANY_RENEGOTIATIONS);
            }
            if self.message.head_bytes < HANDSHAKE_HEADER_BYTES {
                return Ok(Event::Nothing);
            }
            let bytes = u32::from_be_bytes([0, high, middle, low]) as usize;
            if bytes > HANDSHAKE_BYTES_MAX {
                return Err(HELLO_LENGTH);
            }
            self.message.skip_bytes = bytes;
        }
        let (_, after) = rest.split_at(self.message.skip_bytes.min(rest.len()));
        self.message.skip_bytes -= rest.len() - after.len();
        if self.message.skip_bytes > 0 {
            return Ok(Event::Nothing);
        }
        if !after.is_empty() {
            return Err(UNEXPECTED_MESSAGE);
        }
        self.message = PartialMessage::default();
        self.renegotiations_refused += 1;
        Ok(Event::RefuseRenegotiation)
    }

    fn count_key_update(&mut self, now_ms: u64) -> Result<(), ProtocolError> {
        if now_ms.saturating_sub(self.key_updates_since_ms) >= KEY_UPDATE_WINDOW_MS {
            self.key_updates = 0;
        }
        if self.key_updates == 0 {
            self.key_updates_since_ms = now_ms;
        }
        self.key_updates += 1;
        if self.key_updates > KEY_UPDATES_PER_WINDOW_MAX {
            return Err(TOO_MANY_KEY_UPDATES);
        }
        Ok(())
    }

    fn end(&mut self, event: Event) -> Event {
        self.ended = Some(event);
        event
    }
}

impl PartialMessage {
    fn is_begun(&self) -> bool {
        self.head_bytes > 0
    }

    /// Takes bytes until the first `wanted` are there; what is left of `input`.
    fn fill_head<'a>(&mut self, input: &'a [u8], wanted: usize) -> &'a [u8] {
        let room = self
            .head
            .get_mut(self.head_bytes..wanted)
            .unwrap_or_default();
        let taken = room.len().min(input.len());
        for (byte, new) in room.iter_mut().zip(input) {
            *byte = *new;
        }
        self.head_bytes += taken;
        input.get(taken..).unwrap_or_default()
    }
}

const UNEXPECTED_TYPE: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "record of a type that may not come after the handshake",
);
const INTERLEAVED: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "another record within a handshake message",
);
const EMPTY_FRAGMENT: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "handshake or alert record without content",
);
const TOO_MANY_EMPTY: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "too many records without content",
);
const ALERT_LENGTH: ProtocolError = ProtocolError::new(
    AlertDescription::DecodeError,
    "alert record that is not one alert",
);
const ALERT_LEVEL: ProtocolError = ProtocolError::new(
    AlertDescription::IllegalParameter,
    "alert of an unknown level",
);
const TOO_MANY_WARNINGS: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "too many warning alerts",
);
const UNEXPECTED_MESSAGE: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "handshake message that may not come after the handshake",
);
const KEY_UPDATE_LENGTH: ProtocolError = ProtocolError::new(
    AlertDescription::DecodeError,
    "KeyUpdate whose length is not 1",
);
const KEY_UPDATE_VALUE: ProtocolError = ProtocolError::new(
    AlertDescription::IllegalParameter,
    "KeyUpdate whose request is neither 0 nor 1",
);
const AFTER_KEY_UPDATE: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "more bytes in the record of a KeyUpdate",
);
const TOO_MANY_KEY_UPDATES: ProtocolError =
    ProtocolError::new(AlertDescription::UnexpectedMessage, "too many KeyUpdates");
const HELLO_LENGTH: ProtocolError = ProtocolError::new(
    AlertDescription::DecodeError,
    "ClientHello longer than is accepted",
);
const TOO_MANY_RENEGOTIATIONS: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "renegotiation asked for again after it was refused",
);

const HANDSHAKE_HEADER_BYTES: usize = 4;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
