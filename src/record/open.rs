//! Taking the protection off received records, in place.

use std::ops::Range;

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use rustls::{AlertDescription, ContentType};

use super::keys::{TrafficKeys, Unsupported, Version};
use super::seal::{header_bytes, tls12_additional_data};
use super::{EXPLICIT_NONCE_BYTES, ProtocolError, RECORD_VERSION, TAG_BYTES};
use crate::limits::{RECORD_HEADER_BYTES, RECORD_PLAINTEXT_BYTES_MAX};

/// What is at the front of the received bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Not yet a whole record. Nothing was changed.
    Incomplete {
        /// Bytes that complete the header, or once that is there, the record. Never zero.
        missing: usize,
    },
    /// A record, decrypted where it was.
    Record {
        /// Its bytes on the wire: the next record begins after them.
        consumed: usize,
        /// Its true type. May be none that is known: [`super::PostHandshake`] judges it.
        content_type: ContentType,
        /// Where in the input its content is now. Within `..consumed`.
        payload: Range<usize>,
    },
}

/// The receiving half of the record layer.
pub struct Opener {
    keys: TrafficKeys,
    cipher: LessSafeKey,
}

impl Opener {
    /// Opens with `keys`.
    ///
    /// # Errors
    ///
    /// [`Unsupported`] if the cipher refuses the key, which keys from rustls never meet.
    pub fn new(keys: TrafficKeys) -> Result<Self, Unsupported> {
        let cipher = keys.cipher()?;
        Ok(Self { keys, cipher })
    }

    /// Opens the record at the front of `input`. Bytes after it are not touched.
    ///
    /// A header that cannot begin a record is refused before its fragment arrives.
    ///
    /// # Errors
    ///
    /// The peer's fault, with the alert to send. Nothing after it can be opened.
    #[inline]
    pub fn open(&mut self, input: &mut [u8]) -> Result<Opened, ProtocolError> {
        let received = input.len();
        let Some((header, rest)) = input.split_first_chunk_mut::<RECORD_HEADER_BYTES>() else {
            return Ok(Opened::Incomplete {
                missing: RECORD_HEADER_BYTES.saturating_sub(received),
            });
        };
        let header = *header;
        let fragment_bytes = self.check_header(header)?;
        let present = rest.len();
        let Some(fragment) = rest.get_mut(..fragment_bytes) else {
            return Ok(Opened::Incomplete {
                missing: fragment_bytes.saturating_sub(present),
            });
        };
        let (content_type, payload) = match self.keys.version() {
            Version::Tls13 => self.open_tls13(header, fragment)?,
            Version::Tls12 => self.open_tls12(header, fragment)?,
        };
        if !self.keys.advance() {
            return Err(SEQUENCE_USED_UP);
        }
        Ok(Opened::Record {
            consumed: RECORD_HEADER_BYTES + fragment_bytes,
            content_type,
            payload,
        })
    }

    /// The keys with the sequence number of the next record: what a hand-over needs.
    pub fn keys(&self) -> &TrafficKeys {
        &self.keys
    }

    /// Goes on with new keys, after the peer's KeyUpdate. The old ones are wiped.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; the old keys then stay.
    pub fn replace(&mut self, keys: TrafficKeys) -> Result<(), Unsupported> {
        *self = Self::new(keys)?;
        Ok(())
    }

    /// The fragment's length, if such a record may come. In TLS 1.3 every protected record is
    /// application data on the outside (RFC 8446 5.2); a change_cipher_spec after the peer's Finished
    /// is an unexpected record (RFC 8446 5).
    #[inline]
    fn check_header(&self, header: [u8; RECORD_HEADER_BYTES]) -> Result<usize, ProtocolError> {
        let [content_type, major, minor, high, low] = header;
        let bytes = usize::from(u16::from_be_bytes([high, low]));
        // RFC 8446 5.2 and RFC 5246 6.2.1: always { 3, 3 }. The kernel refuses others as well.
        if [major, minor] != RECORD_VERSION {
            return Err(WRONG_VERSION);
        }
        let expansion = match self.keys.version() {
            Version::Tls13 if content_type != u8::from(ContentType::ApplicationData) => {
                return Err(OUTER_TYPE);
            }
            Version::Tls12 if !TLS12_TYPES.contains(&content_type) => return Err(OUTER_TYPE),
            Version::Tls13 => 1 + TAG_BYTES,
            Version::Tls12 if self.keys.has_explicit_nonce() => EXPLICIT_NONCE_BYTES + TAG_BYTES,
            Version::Tls12 => TAG_BYTES,
        };
        // The RFCs let ciphers add up to 256 (1.3) or 2048 (1.2) bytes; ours add exactly
        // `expansion`, so what is longer would decrypt to more than 2^14 bytes, which calls for the
        // same alert (RFC 8446 5.2, 5.4; RFC 5246 7.2.2).
        if bytes > RECORD_PLAINTEXT_BYTES_MAX + expansion {
            return Err(TOO_LONG);
        }
        Ok(bytes)
    }

    #[inline]
    fn open_tls13(
        &self,
        header: [u8; RECORD_HEADER_BYTES],
        fragment: &mut [u8],
    ) -> Result<(ContentType, Range<usize>), ProtocolError> {
        let (inner, tag) = fragment
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(NOT_AUTHENTIC)?;
        let nonce = Nonce::assume_unique_for_key(self.keys.nonce());
        let inner = self
            .cipher
            .open_in_place_separate_tag(nonce, Aad::from(header), tag, inner)
            .map_err(|_| NOT_AUTHENTIC)?;
        // RFC 8446 5.4: the type is the last byte that is not zero.
        let type_at = inner.iter().rposition(|byte| *byte != 0).ok_or(NO_TYPE)?;
        let content_type = inner.get(type_at).copied().unwrap_or_default();
        Ok((
            ContentType::from(content_type),
            RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + type_at,
        ))
    }

    #[inline]
    fn open_tls12(
        &self,
        header: [u8; RECORD_HEADER_BYTES],
        fragment: &mut [u8],
    ) -> Result<(ContentType, Range<usize>), ProtocolError> {
        let content_type = ContentType::from(header.first().copied().unwrap_or_default());
        let mut start = RECORD_HEADER_BYTES;
        let (nonce, protected) = if self.keys.has_explicit_nonce() {
            let (explicit, protected) = fragment
                .split_first_chunk_mut::<EXPLICIT_NONCE_BYTES>()
                .ok_or(NOT_AUTHENTIC)?;
            start += EXPLICIT_NONCE_BYTES;
            (self.keys.nonce_with_explicit(*explicit), protected)
        } else {
            (Nonce::assume_unique_for_key(self.keys.nonce()), fragment)
        };
        let (payload, tag) = protected
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(NOT_AUTHENTIC)?;
        let header = header_bytes(content_type, payload.len()).map_err(|_| TOO_LONG)?;
        let additional = tls12_additional_data(self.keys.sequence(), header);
        let payload = self
            .cipher
            .open_in_place_separate_tag(nonce, Aad::from(additional), tag, payload)
            .map_err(|_| NOT_AUTHENTIC)?;
        Ok((content_type, start..start + payload.len()))
    }
}

const WRONG_VERSION: ProtocolError = ProtocolError::new(
    AlertDescription::DecodeError,
    "record with another version than 3.3",
);
const OUTER_TYPE: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "record of a type that may not come after the handshake",
);
const TOO_LONG: ProtocolError = ProtocolError::new(
    AlertDescription::RecordOverflow,
    "record longer than 2^14 bytes",
);
const NOT_AUTHENTIC: ProtocolError = ProtocolError::new(
    AlertDescription::BadRecordMac,
    "record that does not decrypt",
);
const NO_TYPE: ProtocolError = ProtocolError::new(
    AlertDescription::UnexpectedMessage,
    "record of padding only",
);
const SEQUENCE_USED_UP: ProtocolError = ProtocolError::new(
    AlertDescription::InternalError,
    "sequence numbers used up without a KeyUpdate",
);

/// alert, handshake, application_data: what may be protected in TLS 1.2 after Finished.
const TLS12_TYPES: std::ops::RangeInclusive<u8> = 21..=23;
