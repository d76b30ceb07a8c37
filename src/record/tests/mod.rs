//! What the record layer's tests share: secrets of every suite, without a handshake.

mod kernel;
mod machine;
mod protection;
mod session;

use rustls::crypto::aws_lc_rs::cipher_suite as suites;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::crypto::tls13::{HkdfExpander, OkmBlock, OutputLengthError};
use rustls::{ConnectionTrafficSecrets, SupportedCipherSuite};

use super::{Aead, TrafficKeys, Version};

pub(crate) const SUITES: [(Version, Aead, SupportedCipherSuite); 6] = [
    (
        Version::Tls13,
        Aead::Aes128Gcm,
        suites::TLS13_AES_128_GCM_SHA256,
    ),
    (
        Version::Tls13,
        Aead::Aes256Gcm,
        suites::TLS13_AES_256_GCM_SHA384,
    ),
    (
        Version::Tls13,
        Aead::Chacha20Poly1305,
        suites::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        Version::Tls12,
        Aead::Aes128Gcm,
        suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        Version::Tls12,
        Aead::Aes256Gcm,
        suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        Version::Tls12,
        Aead::Chacha20Poly1305,
        suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Key and IV of one direction, before either side has made a cipher of them.
#[derive(Clone, Debug)]
pub(crate) struct Material {
    pub(crate) suite: usize,
    pub(crate) key: [u8; 32],
    pub(crate) iv: [u8; 12],
}

impl Material {
    pub(crate) fn of(suite: usize) -> Self {
        Self {
            suite,
            key: std::array::from_fn(|i| i as u8 ^ 0x5a),
            iv: std::array::from_fn(|i| 0xf0 | i as u8),
        }
    }

    pub(crate) fn version(&self) -> Version {
        SUITES[self.suite].0
    }

    pub(crate) fn aead(&self) -> Aead {
        SUITES[self.suite].1
    }

    pub(crate) fn rustls_suite(&self) -> SupportedCipherSuite {
        SUITES[self.suite].2
    }

    /// Bytes that sealing adds to a payload, and how many of them come before it.
    pub(crate) fn overhead(&self) -> (usize, usize) {
        match (self.version(), self.aead()) {
            (Version::Tls13, _) => (5, 17),
            (Version::Tls12, Aead::Chacha20Poly1305) => (5, 16),
            (Version::Tls12, _) => (13, 16),
        }
    }

    /// The key as rustls holds it. rustls makes a 16-byte one only in its key schedule, so the key
    /// goes in as what the schedule's HKDF gives out.
    pub(crate) fn aead_key(&self) -> AeadKey {
        let tls13 = match self.aead() {
            Aead::Aes128Gcm => suites::TLS13_AES_128_GCM_SHA256,
            Aead::Aes256Gcm | Aead::Chacha20Poly1305 => suites::TLS13_AES_256_GCM_SHA384,
        };
        rustls::internal::derive_traffic_key(
            &GivenOutput(self.key),
            tls13.tls13().unwrap().aead_alg,
        )
    }

    pub(crate) fn secrets(&self) -> ConnectionTrafficSecrets {
        let (key, iv) = (self.aead_key(), Iv::new(self.iv));
        match self.aead() {
            Aead::Aes128Gcm => ConnectionTrafficSecrets::Aes128Gcm { key, iv },
            Aead::Aes256Gcm => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            Aead::Chacha20Poly1305 => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
        }
    }

    pub(crate) fn keys(&self, sequence: u64) -> TrafficKeys {
        TrafficKeys::from_rustls(self.rustls_suite(), (sequence, self.secrets())).unwrap()
    }
}

struct GivenOutput([u8; 32]);

impl HkdfExpander for GivenOutput {
    fn expand_slice(&self, _: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        output.copy_from_slice(&self.0[..output.len()]);
        Ok(())
    }

    fn expand_block(&self, _: &[&[u8]]) -> OkmBlock {
        OkmBlock::new(&self.0)
    }

    fn hash_len(&self) -> usize {
        32
    }
}
