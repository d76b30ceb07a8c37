//! Protecting records in place.

use std::fmt;

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use rustls::ContentType;

use super::keys::{Aead, TrafficKeys, Unsupported, Version};
use super::{EXPLICIT_NONCE_BYTES, RECORD_VERSION, TAG_BYTES};
use crate::limits::{
    AES_GCM_RECORDS_MAX, CONTROL_RECORDS_RESERVE, RECORD_HEADER_BYTES, RECORD_PLAINTEXT_BYTES_MAX,
};

/// Why a record was not sealed. No sequence number was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The key has protected as many records as it may: replace it, or close.
    KeyExhausted,
    /// The buffer does not hold prefix, suffix and at most
    /// [`RECORD_PLAINTEXT_BYTES_MAX`] bytes between them, or nothing is between them in a record that
    /// is not application data (RFC 8446 5.1).
    Length,
    /// The cipher failed.
    Cipher,
}

/// The sending half of the record layer.
pub struct Sealer {
    keys: TrafficKeys,
    cipher: LessSafeKey,
    /// Application records end here, control records [`CONTROL_RECORDS_RESERVE`] later.
    records_max: u64,
    records_max_wanted: u64,
}

impl Sealer {
    /// Seals with `keys`, at most `records_max` application records over the life of the key, counting
    /// those it has protected already. For AES-GCM [`AES_GCM_RECORDS_MAX`] is the most;
    /// ChaCha20-Poly1305 is bounded by its sequence numbers only (RFC 8446 5.5).
    ///
    /// # Errors
    ///
    /// [`Unsupported`] if the cipher refuses the key, which keys from rustls never meet.
    pub fn new(keys: TrafficKeys, records_max: u64) -> Result<Self, Unsupported> {
        let cipher = keys.cipher()?;
        let limit = match keys.aead() {
            Aead::Aes128Gcm | Aead::Aes256Gcm => records_max.min(AES_GCM_RECORDS_MAX),
            Aead::Chacha20Poly1305 => u64::MAX - CONTROL_RECORDS_RESERVE,
        };
        Ok(Self {
            keys,
            cipher,
            records_max: limit,
            records_max_wanted: records_max,
        })
    }

    /// Bytes before the payload: the header, and for TLS 1.2 AES-GCM the explicit nonce.
    #[inline]
    pub fn prefix_bytes(&self) -> usize {
        if self.keys.has_explicit_nonce() {
            RECORD_HEADER_BYTES + EXPLICIT_NONCE_BYTES
        } else {
            RECORD_HEADER_BYTES
        }
    }

    /// Bytes after the payload: the tag, and for TLS 1.3 the type before it.
    #[inline]
    pub fn suffix_bytes(&self) -> usize {
        match self.keys.version() {
            Version::Tls12 => TAG_BYTES,
            Version::Tls13 => TAG_BYTES + 1,
        }
    }

    /// Seals one record in place. `record` is [`Self::prefix_bytes`] of room, the payload, and
    /// [`Self::suffix_bytes`] of room; afterwards it is what goes on the wire.
    ///
    /// # Errors
    ///
    /// [`SealError`]; `record` is then of no use, and the sequence number is as it was.
    #[inline]
    pub fn seal(&mut self, record: &mut [u8], content_type: ContentType) -> Result<(), SealError> {
        let payload_bytes = record
            .len()
            .checked_sub(self.prefix_bytes() + self.suffix_bytes())
            .filter(|bytes| *bytes <= RECORD_PLAINTEXT_BYTES_MAX)
            .ok_or(SealError::Length)?;
        let is_data = content_type == ContentType::ApplicationData;
        if payload_bytes == 0 && !is_data {
            return Err(SealError::Length);
        }
        let reserve = if is_data { 0 } else { CONTROL_RECORDS_RESERVE };
        if self.keys.sequence() >= self.records_max.saturating_add(reserve) {
            return Err(SealError::KeyExhausted);
        }
        match self.keys.version() {
            Version::Tls13 => self.seal_tls13(record, content_type)?,
            Version::Tls12 => self.seal_tls12(record, content_type, payload_bytes)?,
        }
        // The limit above keeps the sequence number below its end.
        self.keys.advance();
        Ok(())
    }

    /// Appends one sealed record with a copy of `payload` to `out`: for alerts and KeyUpdates.
    ///
    /// # Errors
    ///
    /// [`SealError`]; `out` is then as it was.
    pub fn seal_copy(
        &mut self,
        out: &mut Vec<u8>,
        content_type: ContentType,
        payload: &[u8],
    ) -> Result<(), SealError> {
        let start = out.len();
        out.resize(start + self.prefix_bytes(), 0);
        out.extend_from_slice(payload);
        out.resize(out.len() + self.suffix_bytes(), 0);
        let sealed = match out.get_mut(start..) {
            Some(record) => self.seal(record, content_type),
            None => Err(SealError::Length),
        };
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    /// Application records that this key may still protect. At zero, or before: send a KeyUpdate and
    /// [`Self::replace`] the keys (TLS 1.3), or close; for that there is a reserve.
    pub fn records_left(&self) -> u64 {
        self.records_max.saturating_sub(self.keys.sequence())
    }

    /// The keys with the sequence number of the next record: what a hand-over needs.
    pub fn keys(&self) -> &TrafficKeys {
        &self.keys
    }

    /// Goes on with new keys, after a KeyUpdate was sealed with the old ones, which are wiped.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; the old keys then stay.
    pub fn replace(&mut self, keys: TrafficKeys) -> Result<(), Unsupported> {
        *self = Self::new(keys, self.records_max_wanted)?;
        Ok(())
    }

    /// RFC 8446 5.2: the inner plaintext is content and type, the additional data is the header.
    #[inline]
    fn seal_tls13(&self, record: &mut [u8], content_type: ContentType) -> Result<(), SealError> {
        let (header, body) = record
            .split_first_chunk_mut::<RECORD_HEADER_BYTES>()
            .ok_or(SealError::Length)?;
        *header = header_bytes(ContentType::ApplicationData, body.len())?;
        let (inner, tag) = body
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(SealError::Length)?;
        *inner.last_mut().ok_or(SealError::Length)? = u8::from(content_type);
        let nonce = Nonce::assume_unique_for_key(self.keys.nonce());
        let sealed = self
            .cipher
            .seal_in_place_separate_tag(nonce, Aad::from(*header), inner)
            .map_err(|_| SealError::Cipher)?;
        copy_tag(tag, sealed.as_ref())
    }

    /// RFC 5246 6.2.3.3 with RFC 5288 3 (explicit nonce) or RFC 7905 2 (none).
    #[inline]
    fn seal_tls12(
        &self,
        record: &mut [u8],
        content_type: ContentType,
        payload_bytes: usize,
    ) -> Result<(), SealError> {
        let nonce = self.keys.nonce();
        let (header, mut body) = record
            .split_first_chunk_mut::<RECORD_HEADER_BYTES>()
            .ok_or(SealError::Length)?;
        *header = header_bytes(content_type, body.len())?;
        if self.keys.has_explicit_nonce() {
            let (explicit, rest) = body
                .split_first_chunk_mut::<EXPLICIT_NONCE_BYTES>()
                .ok_or(SealError::Length)?;
            *explicit = *nonce.last_chunk().ok_or(SealError::Length)?;
            body = rest;
        }
        let (payload, tag) = body
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(SealError::Length)?;
        let header = header_bytes(content_type, payload_bytes)?;
        let sealed = self
            .cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(tls12_additional_data(self.keys.sequence(), header)),
                payload,
            )
            .map_err(|_| SealError::Cipher)?;
        copy_tag(tag, sealed.as_ref())
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyExhausted => "the key has protected as many records as it may",
            Self::Length => "the record's length is out of bounds",
            Self::Cipher => "the cipher failed",
        })
    }
}

impl std::error::Error for SealError {}

/// Sequence number, then the header as if the plaintext were the fragment (RFC 5246 6.2.3.3).
#[inline]
pub(super) fn tls12_additional_data(
    sequence: u64,
    plaintext_header: [u8; RECORD_HEADER_BYTES],
) -> [u8; TLS12_ADDITIONAL_BYTES] {
    let mut data = [0; TLS12_ADDITIONAL_BYTES];
    let parts = sequence.to_be_bytes().into_iter().chain(plaintext_header);
    for (byte, part) in data.iter_mut().zip(parts) {
        *byte = part;
    }
    data
}

/// A record header for `bytes` of fragment.
#[inline]
pub(super) fn header_bytes(
    content_type: ContentType,
    bytes: usize,
) -> Result<[u8; RECORD_HEADER_BYTES], SealError> {
    let [high, low] = u16::try_from(bytes)
        .map_err(|_| SealError::Length)?
        .to_be_bytes();
    let [major, minor] = RECORD_VERSION;
    Ok([u8::from(content_type), major, minor, high, low])
}

#[inline]
fn copy_tag(room: &mut [u8; TAG_BYTES], tag: &[u8]) -> Result<(), SealError> {
    *room = tag.try_into().map_err(|_| SealError::Cipher)?;
    Ok(())
}

const TLS12_ADDITIONAL_BYTES: usize = 8 + RECORD_HEADER_BYTES;
