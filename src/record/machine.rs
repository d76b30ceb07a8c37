//! What received records mean once the session stands, the same for user space and kernel.

use rustls::{AlertDescription, ContentType};

use super::ProtocolError;
use super::encode::{HANDSHAKE_KEY_UPDATE, KEY_UPDATE_BYTES, LEVEL_FATAL, LEVEL_WARNING};
use super::keys::Version;
use crate::limits::{
    EMPTY_RECORDS_MAX, HANDSHAKE_BYTES_MAX, KEY_UPDATE_WINDOW_MS, KEY_UPDATES_PER_WINDOW_MAX,
    RENEGOTIATIONS_REFUSED_MAX, SESSION_TICKET_BYTES_MAX, SESSION_TICKETS_MAX, WARNING_ALERTS_MAX,
};

/// What a record asks of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The payload is application data, at least one byte.
    Data,
    /// Nothing: an empty record, a tolerated warning, a part of a message, session tickets (see
    /// [`PostHandshake::take_tickets`]).
    Nothing,
    /// The peer's next record is under its next key: replace the receiving keys before any other
    /// record is opened (RFC 8446 4.6.3).
    KeyUpdate {
        /// It wants one back: send [`super::encode::key_update`]`(false)` under the old sending key and
        /// replace that, before the next application data. One answers any number that came before it.
        reply: bool,
    },
    /// A TLS 1.2 peer asked for renegotiation: answer with the warning `no_renegotiation` and go on
    /// (RFC 5246 7.2.2). Whether to go on is then the peer's choice.
    RefuseRenegotiation,
    /// The peer will send nothing more (RFC 8446 6.1). Also for every record after it.
    CloseNotify,
    /// The peer gave up, with this alert (RFC 8446 6.2). Nothing may be sent any more.
    FatalAlert(AlertDescription),
}

/// Which side of a session is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer is a client.
    Server,
    /// The peer is a server.
    Client,
}

/// Our side of a session after its handshake.
///
/// It sees every received record in order, after decryption. From the kernel that is the type in the
/// control message of `recvmsg` and the bytes that came with it; the buffer must hold a whole record
/// (2^14 bytes) unless the record is application data, because the kernel gives the rest of a longer
/// one as if it were another record.
#[derive(Debug)]
pub struct PostHandshake {
    version: Version,
    role: Role,
    /// The end of the session, once the peer has sent it.
    ended: Option<Event>,
    message: PartialMessage,
    tickets: Tickets,
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
    /// Bytes of a refused ClientHello, or of a session ticket, that are still to come.
    skip_bytes: usize,
}

/// Session tickets of a server (RFC 8446 4.6.1).
#[derive(Debug, Default)]
struct Tickets {
    /// Those that are whole: the content of each message.
    whole: Vec<Vec<u8>>,
    /// The front of the one whose rest is to come; `None` for one that is not kept.
    partial: Option<Vec<u8>>,
    /// How many have come in all.
    seen: u32,
}

impl PostHandshake {
    /// The state right after the handshake, our side the server.
    pub fn new(version: Version) -> Self {
        Self::of(version, Role::Server)
    }

    /// The state right after the handshake, our side `role`.
    pub fn of(version: Version, role: Role) -> Self {
        Self {
            version,
            role,
            ended: None,
            message: PartialMessage::default(),
            tickets: Tickets::default(),
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

    /// Which side of the session this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The session tickets that have come since the last call, each the content of a
    /// NewSessionTicket message; to be asked for after [`Event::Nothing`] and [`Event::KeyUpdate`].
    /// A server sends none, and what goes over [`SESSION_TICKETS_MAX`] or
    /// [`SESSION_TICKET_BYTES_MAX`] is passed over.
    pub fn take_tickets(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.tickets.whole)
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
        match self.role {
            // Post-handshake authentication was not offered and a client sends no tickets, so all
            // that may come is a KeyUpdate (RFC 8446 4.6).
            Role::Server => self.on_key_update(payload, now_ms),
            Role::Client => self.on_messages_of_server(payload, now_ms),
        }
    }

    fn on_key_update(&mut self, payload: &[u8], now_ms: u64) -> Result<Event, ProtocolError> {
        let rest = self.message.fill_head(payload, KEY_UPDATE_BYTES);
        let [kind, length @ .., request] = self.message.head;
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

    /// Session tickets, several in one record perhaps, and a KeyUpdate at its end. As we offered no
    /// post-handshake authentication, nothing else may come (RFC 8446 4.6).
    fn on_messages_of_server(
        &mut self,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<Event, ProtocolError> {
        let mut rest = payload;
        while !rest.is_empty() {
            let is_new = self.message.head_bytes < HANDSHAKE_HEADER_BYTES;
            rest = self.message.fill_head(rest, HANDSHAKE_HEADER_BYTES);
            let [kind, high, middle, low, _] = self.message.head;
            match kind {
                HANDSHAKE_KEY_UPDATE => return self.on_key_update(rest, now_ms),
                HANDSHAKE_NEW_SESSION_TICKET => {}
                _ => return Err(UNEXPECTED_MESSAGE),
            }
            if self.message.head_bytes < HANDSHAKE_HEADER_BYTES {
                break;
            }
            if is_new {
                let bytes = u32::from_be_bytes([0, high, middle, low]) as usize;
                if bytes > TICKET_MESSAGE_BYTES_MAX {
                    return Err(TICKET_LENGTH);
                }
                self.message.skip_bytes = bytes;
                self.tickets.begin(bytes);
            }
            let (front, after) = rest.split_at(self.message.skip_bytes.min(rest.len()));
            self.message.skip_bytes -= front.len();
            self.tickets.go_on(front);
            if self.message.skip_bytes == 0 {
                self.message = PartialMessage::default();
                self.tickets.end();
            }
            rest = after;
        }
        Ok(Event::Nothing)
    }

    /// Renegotiation is not offered. The first request on a connection is answered as RFC 5246 7.2.2
    /// says, with a warning, so that a client that can live without it goes on; another one is fatal,
    /// since each makes us read a ClientHello and answer.
    fn on_handshake_tls12(&mut self, payload: &[u8]) -> Result<Event, ProtocolError> {
        if payload.is_empty() {
            return Err(EMPTY_FRAGMENT);
        }
        // RFC 5246 7.4.1.1: a server asks with a HelloRequest, which has no content.
        let (asks, bytes_max) = match self.role {
            Role::Server => (HANDSHAKE_CLIENT_HELLO, HANDSHAKE_BYTES_MAX),
            Role::Client => (HANDSHAKE_HELLO_REQUEST, 0),
        };
        let mut rest = payload;
        if self.message.head_bytes < HANDSHAKE_HEADER_BYTES {
            rest = self.message.fill_head(payload, HANDSHAKE_HEADER_BYTES);
            let [kind, high, middle, low, _] = self.message.head;
            if kind != asks {
                return Err(UNEXPECTED_MESSAGE);
            }
            if self.renegotiations_refused >= RENEGOTIATIONS_REFUSED_MAX {
                return Err(TOO_MANY_RENEGOTIATIONS);
            }
            if self.message.head_bytes < HANDSHAKE_HEADER_BYTES {
                return Ok(Event::Nothing);
            }
            let bytes = u32::from_be_bytes([0, high, middle, low]) as usize;
            if bytes > bytes_max {
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

impl Tickets {
    fn begin(&mut self, bytes: usize) {
        self.seen = self.seen.saturating_add(1);
        let is_kept = self.seen <= SESSION_TICKETS_MAX && bytes <= SESSION_TICKET_BYTES_MAX;
        self.partial = is_kept.then(|| Vec::with_capacity(bytes));
    }

    fn go_on(&mut self, bytes: &[u8]) {
        if let Some(partial) = &mut self.partial {
            partial.extend_from_slice(bytes);
        }
    }

    fn end(&mut self) {
        self.whole.extend(self.partial.take());
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
    "request for renegotiation longer than is accepted",
);
const TICKET_LENGTH: ProtocolError = ProtocolError::new(
    AlertDescription::DecodeError,
    "session ticket longer than one can be",
);
const TOO_MANY_RENEGOTIATIONS: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "renegotiation asked for again after it was refused",
);

const HANDSHAKE_HEADER_BYTES: usize = 4;
const HANDSHAKE_HELLO_REQUEST: u8 = 0;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const HANDSHAKE_NEW_SESSION_TICKET: u8 = 4;

/// A NewSessionTicket's fields at their longest: lifetime, age, nonce, ticket, extensions
/// (RFC 8446 4.6.1).
const TICKET_MESSAGE_BYTES_MAX: usize = 4 + 4 + 256 + 2 * (2 + 0xffff);
