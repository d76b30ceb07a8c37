//! HKDF-Extract (RFC 5869 2.2) for the key schedule of TLS 1.3 (RFC 8446 7.1); all else is rustls's.
//!
//! What aws-lc-rs extracts, it extracts again for each value that is expanded from it. The three secrets
//! of a handshake have eight between them, so five extractions are done in vain. Here each is done
//! once: it is an HMAC (RFC 5869 2.2), and rustls expands its output like any other secret.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use rustls::crypto::CipherSuiteCommon;
use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
use rustls::crypto::hash::HashAlgorithm;
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock};
use rustls::{SupportedCipherSuite, Tls13CipherSuite};
use zeroize::Zeroizing;

/// `suite` with these extractions, where it is one of TLS 1.3.
pub(super) fn extracting_once(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    TLS13
        .iter()
        .map(SupportedCipherSuite::Tls13)
        .find(|ours| ours.suite() == suite.suite())
        .unwrap_or(suite)
}

/// rustls wants its suites to last: these are made once, as long as the program runs.
static TLS13: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    ALL_CIPHER_SUITES
        .iter()
        .filter_map(SupportedCipherSuite::tls13)
        .filter_map(|suite| {
            let extract_once = ExtractOnce {
                hmac: hmac_of(suite.common.hash_provider.algorithm())?,
                rest: suite.hkdf_provider,
            };
            Some(Tls13CipherSuite {
                common: CipherSuiteCommon {
                    suite: suite.common.suite,
                    hash_provider: suite.common.hash_provider,
                    confidentiality_limit: suite.common.confidentiality_limit,
                },
                hkdf_provider: Box::leak(Box::new(extract_once)),
                aead_alg: suite.aead_alg,
                quic: None,
            })
        })
        .collect()
});

/// HKDF with one hash function.
struct ExtractOnce {
    hmac: hmac::Algorithm,
    rest: &'static dyn Hkdf,
}

impl ExtractOnce {
    /// `None` when the HMAC fails.
    fn extract(&self, salt: Option<&[u8]>, secret: &[u8]) -> Option<Box<dyn HkdfExpander>> {
        // RFC 5869 2.2: without a salt, it is zeros.
        let salt = salt.unwrap_or(self.zeros());
        let mut room = Zeroizing::new([0; OkmBlock::MAX_LEN]);
        let salt = hmac::Key::new(self.hmac, salt);
        let extracted = hmac::sign_to_buffer(&salt, secret, &mut *room).ok()?;
        Some(self.rest.expander_for_okm(&OkmBlock::new(extracted)))
    }

    /// As many as the hash has bytes.
    fn zeros(&self) -> &'static [u8] {
        ZEROS.get(..self.hmac.tag_len()).unwrap_or_default()
    }
}

impl Hkdf for ExtractOnce {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.extract_from_secret(salt, self.zeros())
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        self.extract(salt, secret)
            .unwrap_or_else(|| self.rest.extract_from_secret(salt, secret))
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        self.rest.expander_for_okm(okm)
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        self.rest.hmac_sign(key, message)
    }

    fn fips(&self) -> bool {
        self.rest.fips()
    }
}

/// The hash functions of TLS 1.3's suites.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls knows every hash function there is, and its suites have these two"
)]
fn hmac_of(hash: HashAlgorithm) -> Option<hmac::Algorithm> {
    match hash {
        HashAlgorithm::SHA256 => Some(hmac::HMAC_SHA256),
        HashAlgorithm::SHA384 => Some(hmac::HMAC_SHA384),
        _ => None,
    }
}

const ZEROS: &[u8] = &[0; OkmBlock::MAX_LEN];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_tls13_and_no_other_extracts_here() {
        for suite in ALL_CIPHER_SUITES {
            let ours = extracting_once(*suite);
            assert_eq!(ours.suite(), suite.suite());
            let is_other = match (ours.tls13(), suite.tls13()) {
                (Some(ours), Some(theirs)) => !std::ptr::eq(ours, theirs),
                _ => false,
            };
            assert_eq!(is_other, suite.tls13().is_some(), "{suite:?}");
        }
    }

    #[test]
    fn what_is_extracted_is_what_rustls_extracts() {
        let label: &[&[u8]] = &[&[0, 32, 13], b"tls13 derived", &[0]];
        let salts: [Option<&[u8]>; 5] = [
            None,
            Some(b""),
            Some(&[1; 32]),
            Some(&[2; 48]),
            Some(&[3; 200]),
        ];
        for suite in ALL_CIPHER_SUITES
            .iter()
            .filter(|suite| suite.tls13().is_some())
        {
            let theirs = suite.tls13().unwrap().hkdf_provider;
            let ours = extracting_once(*suite).tls13().unwrap().hkdf_provider;
            for salt in salts {
                let both = [ours, theirs].map(|hkdf| {
                    let expand = |expander: Box<dyn HkdfExpander>| {
                        let mut long = [0; 100];
                        expander.expand_slice(label, &mut long).unwrap();
                        (expander.expand_block(label).as_ref().to_vec(), long)
                    };
                    let secrets: [&[u8]; 3] = [b"", &[4; 32], &[5; 1120]];
                    let from_secrets =
                        secrets.map(|secret| expand(hkdf.extract_from_secret(salt, secret)));
                    (from_secrets, expand(hkdf.extract_from_zero_ikm(salt)))
                });
                assert_eq!(both[0], both[1], "{suite:?} {salt:?}");
            }
        }
    }

    /// RFC 8448 3: the early secret and what the handshake's secret is salted with.
    #[test]
    fn rfc8448_3_derived_from_the_early_secret() {
        let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let hkdf = extracting_once(suite).tls13().unwrap().hkdf_provider;
        let empty = suite.tls13().unwrap().common.hash_provider.hash(&[]);
        let early = hkdf.extract_from_zero_ikm(None);
        let label: &[&[u8]] = &[&[0, 32, 13], b"tls13 derived", &[32], empty.as_ref()];
        let expected = [
            0x6f, 0x26, 0x15, 0xa1, 0x08, 0xc7, 0x02, 0xc5, 0x67, 0x8f, 0x54, 0xfc, 0x9d, 0xba,
            0xb6, 0x97, 0x16, 0xc0, 0x76, 0x18, 0x9c, 0x48, 0x25, 0x0c, 0xeb, 0xea, 0xc3, 0x57,
            0x6c, 0x36, 0x11, 0xba,
        ];
        assert_eq!(early.expand_block(label).as_ref(), expected);
    }
}
