//! How records are protected: the suites that this record layer and the kernel's have in common.

use std::fmt;

use rustls::CipherSuite;

use crate::limits::RECORD_HEADER_BYTES;

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446; Linux 5.1).
    Tls13,
}

/// An AEAD cipher that both the TLS library and the kernel know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aead {
    /// AES-128-GCM (Linux 4.13).
    Aes128Gcm,
    /// AES-256-GCM (Linux 5.1).
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 7905; Linux 5.11).
    Chacha20Poly1305,
}

/// What decides how records are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suite {
    /// The protocol version.
    pub version: Version,
    /// The AEAD cipher.
    pub aead: Aead,
}

impl Suite {
    /// Both versions with three ciphers each.
    pub const ALL: [Self; SUITES] = [
        Self::with(Version::Tls12, Aead::Aes128Gcm),
        Self::with(Version::Tls12, Aead::Aes256Gcm),
        Self::with(Version::Tls12, Aead::Chacha20Poly1305),
        Self::with(Version::Tls13, Aead::Aes128Gcm),
        Self::with(Version::Tls13, Aead::Aes256Gcm),
        Self::with(Version::Tls13, Aead::Chacha20Poly1305),
    ];

    /// The length on the wire of a record with this much plaintext, unpadded.
    #[must_use]
    pub fn record_bytes(self, plaintext_bytes: usize) -> usize {
        let content_type_bytes = match self.version {
            Version::Tls12 => 0,
            Version::Tls13 => 1,
        };
        RECORD_HEADER_BYTES
            + self.explicit_nonce_bytes()
            + plaintext_bytes
            + content_type_bytes
            + TAG_BYTES
    }

    pub(super) const fn with(version: Version, aead: Aead) -> Self {
        Self { version, aead }
    }

    /// How the records of a negotiated cipher suite are protected; `None` for those that kernel TLS
    /// is not used for.
    #[must_use]
    pub fn of(negotiated: CipherSuite) -> Option<Self> {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the registry is open; only these six suites are offloaded"
        )]
        let (version, aead) = match negotiated {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => (Version::Tls13, Aead::Aes128Gcm),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => (Version::Tls13, Aead::Aes256Gcm),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => (Version::Tls13, Aead::Chacha20Poly1305),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => {
                (Version::Tls12, Aead::Aes128Gcm)
            }
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => {
                (Version::Tls12, Aead::Aes256Gcm)
            }
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => {
                (Version::Tls12, Aead::Chacha20Poly1305)
            }
            _ => return None,
        };
        Some(Self { version, aead })
    }

    /// The bytes of nonce that each record carries (RFC 5288 3; later designs derive it all).
    pub(super) fn explicit_nonce_bytes(self) -> usize {
        match (self.version, self.aead) {
            (Version::Tls12, Aead::Aes128Gcm | Aead::Aes256Gcm) => EXPLICIT_NONCE_BYTES,
            (Version::Tls12, Aead::Chacha20Poly1305) | (Version::Tls13, _) => 0,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        })
    }
}

impl fmt::Display for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::Chacha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}

/// The nonce that a TLS 1.2 record of AES-GCM carries (RFC 5288 3).
const EXPLICIT_NONCE_BYTES: usize = 8;

/// What each of the ciphers adds to prove that a record is whole.
pub(super) const TAG_BYTES: usize = 16;

/// A number, not `Suite::ALL.len()`: evaluating that for a
/// type asks for the layout of what it is a part of, which the compiler may refuse as a cycle.
pub(super) const SUITES: usize = 6;

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;

    use super::*;

    #[test]
    fn every_suite_of_the_library_is_one_of_these_and_all_are_covered() {
        let mut mapped: Vec<Suite> = Vec::new();
        for suite in ALL_CIPHER_SUITES {
            mapped.push(Suite::of(suite.suite()).unwrap());
        }
        for suite in Suite::ALL {
            assert!(mapped.contains(&suite), "{suite:?}");
        }
        let cbc = CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA;
        assert_eq!(Suite::of(cbc), None);
    }
}
