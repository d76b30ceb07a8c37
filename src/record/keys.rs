//! One direction's traffic keys, from rustls and to the kernel.
//!
//! # Why TLS 1.2 AES-GCM needs care at the hand-over
//!
//! RFC 5288 3 leaves the 8 explicit nonce bytes to the sender, as long as none repeats under a key.
//! Two schemes meet on a connection that is handed to the kernel. With `E` the 64 bits that rustls
//! derives for it:
//!
//! * rustls and [`super::Sealer`] protect record `n` with `E ^ n`. The first, rustls's own Finished,
//!   uses `E ^ 0 = E`.
//! * The kernel protects its record `k` with `I + k`, where `I` is the IV it was given
//!   (`tls_advance_record_sn` in include/net/tls.h increments IV and sequence number each by one).
//!
//! Handing over `I = E`, which is what the extracted secrets say, makes the kernel's first record
//! repeat the nonce of Finished. That gives away the XOR of two plaintexts and the authentication
//! key. So [`TrafficKeys::to_kernel`] hands over `I` = `E` with bit 63 inverted and bit 62 cleared:
//!
//! * in user space `n < 2^62`, so bit 63 of `E ^ n` is that of `E`;
//! * in the kernel `k < 2^62` and bit 62 of `I` is clear, so `I + k` never carries into bit 63, which
//!   stays the inverse of that of `E`.
//!
//! No value is in both sets, and each scheme repeats none in itself. The limit of 2^24 records per
//! key keeps `n` and `k` far below 2^62. The receiving side takes the explicit nonce from the record,
//! so a changed IV does not concern it. TLS 1.3 and ChaCha20-Poly1305 XOR the IV with the sequence
//! number on both sides (RFC 8446 5.3, RFC 7905 2) and need none of this.

use std::fmt;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use ktls::CryptoInfo;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::cipher::{AeadKey, Iv, NONCE_LEN};
use rustls::{ConnectionTrafficSecrets, SupportedCipherSuite};
use zeroize::{Zeroize, Zeroizing};

use super::EXPLICIT_NONCE_BYTES;
use crate::sys::suite::Suite;
pub use crate::sys::suite::{Aead, Version};

/// The secrets are of a suite that this record layer or the kernel's has no layout for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported;

/// One direction's key, IV and the sequence number of its next record. Wiped when dropped.
///
/// Not `Clone`: two owners that both seal would repeat nonces.
pub struct TrafficKeys {
    version: Version,
    aead: Aead,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    sequence: u64,
    /// The only home of the key bytes. Kept in the kernel's layout because that is made from an
    /// `AeadKey`, and rustls lets nobody make one of 16 bytes from bytes.
    layout: CryptoInfo,
}

impl TrafficKeys {
    /// The keys that rustls extracted for one direction, with the sequence number of the next record:
    /// from `ExtractedSecrets`, or from `KernelConnection::update_tx_secret` and `update_rx_secret`.
    ///
    /// # Errors
    ///
    /// [`Unsupported`] if the cipher is none of [`Aead`], or the key does not have its length.
    pub fn from_rustls(
        suite: SupportedCipherSuite,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Unsupported> {
        let version = match suite {
            SupportedCipherSuite::Tls12(_) => Version::Tls12,
            SupportedCipherSuite::Tls13(_) => Version::Tls13,
        };
        let (aead, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Aead::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Aead::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Aead::Chacha20Poly1305, key, iv)
            }
            _ => return Err(Unsupported),
        };
        if key.as_ref().len() != aead.algorithm().key_len() {
            return Err(Unsupported);
        }
        let iv = Zeroizing::new(iv.as_ref().try_into().map_err(|_| Unsupported)?);
        let layout =
            CryptoInfo::from_rustls(suite, (sequence, secrets)).map_err(|_| Unsupported)?;
        Ok(Self {
            version,
            aead,
            iv,
            sequence,
            layout,
        })
    }

    /// What `setsockopt(SOL_TLS, TLS_TX or TLS_RX)` takes for the records from [`Self::sequence`] on.
    /// The caller wipes it. Once the kernel has it for sending, nothing else may seal with these keys
    /// again: the kernel uses the sequence numbers from here on.
    ///
    /// # Errors
    ///
    /// [`Unsupported`] if the sequence number is beyond what the module's nonce argument covers,
    /// which no connection reaches.
    pub fn to_kernel(&self) -> Result<CryptoInfo, Unsupported> {
        if self.sequence >= NONCE_SPACE {
            return Err(Unsupported);
        }
        let rec_seq = self.sequence.to_be_bytes();
        match &self.layout {
            CryptoInfo::AesGcm128(info) => {
                let mut info = *info;
                info.iv = self.kernel_gcm_iv(info.iv);
                info.rec_seq = rec_seq;
                Ok(CryptoInfo::AesGcm128(info))
            }
            CryptoInfo::AesGcm256(info) => {
                let mut info = *info;
                info.iv = self.kernel_gcm_iv(info.iv);
                info.rec_seq = rec_seq;
                Ok(CryptoInfo::AesGcm256(info))
            }
            CryptoInfo::Chacha20Poly1305(info) => {
                let suite = match self.version {
                    Version::Tls12 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                    Version::Tls13 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                };
                let secrets = ConnectionTrafficSecrets::Chacha20Poly1305 {
                    key: AeadKey::from(info.key),
                    iv: Iv::new(*self.iv),
                };
                CryptoInfo::from_rustls(suite, (self.sequence, secrets)).map_err(|_| Unsupported)
            }
            CryptoInfo::AesCcm128(_) | CryptoInfo::Sm4Gcm(_) | CryptoInfo::Sm4Ccm(_) => {
                Err(Unsupported)
            }
        }
    }

    /// The suite, in the kernel's terms.
    pub fn suite(&self) -> Suite {
        Suite {
            version: self.version(),
            aead: self.aead(),
        }
    }

    /// TLS 1.2 or 1.3.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The cipher.
    pub fn aead(&self) -> Aead {
        self.aead
    }

    /// The sequence number of the next record: how many records this key has protected.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether each record carries 8 bytes of its nonce (TLS 1.2 AES-GCM, RFC 5288 3).
    pub(super) fn has_explicit_nonce(&self) -> bool {
        self.version == Version::Tls12 && self.aead != Aead::Chacha20Poly1305
    }

    /// IV XOR sequence number (RFC 8446 5.3, RFC 7905 2, and as rustls does for RFC 5288).
    #[inline]
    pub(super) fn nonce(&self) -> [u8; NONCE_LEN] {
        let padded = u128::from(self.sequence).to_be_bytes();
        let mut nonce = *self.iv;
        for (byte, sequence) in nonce.iter_mut().zip(padded.iter().skip(16 - NONCE_LEN)) {
            *byte ^= sequence;
        }
        nonce
    }

    /// The nonce of a received TLS 1.2 AES-GCM record: our salt, the record's explicit part.
    #[inline]
    pub(super) fn nonce_with_explicit(&self, explicit: [u8; EXPLICIT_NONCE_BYTES]) -> Nonce {
        let mut nonce = *self.iv;
        for (byte, explicit) in nonce.iter_mut().skip(SALT_BYTES).zip(explicit) {
            *byte = explicit;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Moves on to the next record. `false` if the sequence number is used up: it must not wrap
    /// (RFC 8446 5.3).
    #[inline]
    pub(super) fn advance(&mut self) -> bool {
        match self.sequence.checked_add(1) {
            Some(next) => {
                self.sequence = next;
                true
            }
            None => false,
        }
    }

    pub(super) fn cipher(&self) -> Result<LessSafeKey, Unsupported> {
        let key: &[u8] = match &self.layout {
            CryptoInfo::AesGcm128(info) => &info.key,
            CryptoInfo::AesGcm256(info) => &info.key,
            CryptoInfo::Chacha20Poly1305(info) => &info.key,
            CryptoInfo::AesCcm128(_) | CryptoInfo::Sm4Gcm(_) | CryptoInfo::Sm4Ccm(_) => {
                return Err(Unsupported);
            }
        };
        UnboundKey::new(self.aead.algorithm(), key)
            .map(LessSafeKey::new)
            .map_err(|_| Unsupported)
    }

    fn kernel_gcm_iv(&self, iv: [u8; EXPLICIT_NONCE_BYTES]) -> [u8; EXPLICIT_NONCE_BYTES] {
        match self.version {
            Version::Tls12 => kernel_explicit_nonce(u64::from_be_bytes(iv)).to_be_bytes(),
            Version::Tls13 => iv,
        }
    }
}

impl Drop for TrafficKeys {
    fn drop(&mut self) {
        match &mut self.layout {
            CryptoInfo::AesGcm128(info) => {
                info.key.zeroize();
                info.iv.zeroize();
                info.salt.zeroize();
            }
            CryptoInfo::AesGcm256(info) => {
                info.key.zeroize();
                info.iv.zeroize();
                info.salt.zeroize();
            }
            CryptoInfo::Chacha20Poly1305(info) => {
                info.key.zeroize();
                info.iv.zeroize();
            }
            // `from_rustls` makes none of these.
            CryptoInfo::AesCcm128(_) | CryptoInfo::Sm4Gcm(_) | CryptoInfo::Sm4Ccm(_) => {}
        }
    }
}

impl fmt::Debug for TrafficKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficKeys")
            .field("version", &self.version)
            .field("aead", &self.aead)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Aead {
    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes128Gcm => &AES_128_GCM,
            Self::Aes256Gcm => &AES_256_GCM,
            Self::Chacha20Poly1305 => &CHACHA20_POLY1305,
        }
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no record layer for this cipher suite")
    }
}

impl std::error::Error for Unsupported {}

/// The first explicit nonce for the kernel: see the module documentation.
fn kernel_explicit_nonce(base: u64) -> u64 {
    (base ^ (1 << 63)) & !NONCE_SPACE
}

/// Records that the nonce argument allows each side of the hand-over.
const NONCE_SPACE: u64 = 1 << 62;

/// The implicit part of a TLS 1.2 AES-GCM nonce (RFC 5288 3).
const SALT_BYTES: usize = NONCE_LEN - EXPLICIT_NONCE_BYTES;
