//! Who issued whom.

use std::path::Path;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::SignatureVerificationAlgorithm;
use x509_parser::asn1_rs::{Any, FromDer};
use x509_parser::certificate::X509Certificate;

use super::error::{BrokenLink, CertificateError, Warning};
use super::system_time;

/// Checks that each certificate is issued by the next one.
///
/// # Errors
/// [`CertificateError::ChainBroken`] for the first that is not.
pub(super) fn check(
    file: &Path,
    chain: &[X509Certificate<'_>],
    now: SystemTime,
) -> Result<Vec<Warning>, CertificateError> {
    let mut warnings = Vec::new();
    for (index, pair) in chain.windows(2).enumerate() {
        let [certificate, next] = pair else { continue };
        let broken = match issued_by(certificate, next) {
            Issuance::Verified => continue,
            Issuance::NotVerifiable => {
                warnings.push(Warning::SignatureNotVerifiable {
                    file: file.to_owned(),
                    position: index + 1,
                    algorithm: certificate.signature_algorithm.algorithm.to_id_string(),
                });
                continue;
            }
            Issuance::OtherName => BrokenLink::OtherName {
                issuer: certificate.issuer().to_string(),
                found: next.subject().to_string(),
            },
            Issuance::OtherKey => BrokenLink::OtherKey {
                issuer: certificate.issuer().to_string(),
            },
        };
        return Err(CertificateError::ChainBroken {
            file: file.to_owned(),
            position: index + 1,
            broken,
            count: chain.len(),
            order: order_from(chain, 0),
        });
    }
    for (index, certificate) in chain.iter().enumerate().skip(1) {
        let expires = system_time(certificate.validity().not_after);
        if now > expires {
            warnings.push(Warning::IssuerExpired {
                file: file.to_owned(),
                position: index + 1,
                expires,
            });
        }
    }
    if let [_, .., last] = chain
        && is_self_signed(last)
    {
        warnings.push(Warning::RootIncluded {
            file: file.to_owned(),
            position: chain.len(),
            subject: last.subject().to_string(),
        });
    }
    Ok(warnings)
}

/// The positions, counted from 1, of the longest chain that can be followed from the certificate at
/// the index `leaf` upwards.
pub(super) fn order_from(chain: &[X509Certificate<'_>], leaf: usize) -> Vec<usize> {
    let mut order = Vec::with_capacity(chain.len());
    let mut current = chain.get(leaf).map(|certificate| (leaf, certificate));
    while let Some((index, certificate)) = current {
        order.push(index + 1);
        current = chain.iter().enumerate().find(|&(candidate, issuer)| {
            !order.contains(&(candidate + 1)) && issued_by(certificate, issuer).is_plausible()
        });
    }
    order
}

/// Whether one certificate issued another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Issuance {
    /// Name and signature say so.
    Verified,
    /// The name says so; the signature's algorithm is not known here (SHA-1, or a key too small).
    NotVerifiable,
    /// The issuer's name is another one.
    OtherName,
    /// The name fits, but the signature was made with another key.
    OtherKey,
}

impl Issuance {
    fn is_plausible(self) -> bool {
        matches!(self, Self::Verified | Self::NotVerifiable)
    }
}

/// Names are compared byte by byte, as clients built on webpki do, although RFC 5280 7.1 would let
/// them differ in case and string type.
fn issued_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Issuance {
    if certificate.issuer().as_raw() != issuer.subject().as_raw() {
        return Issuance::OtherName;
    }
    let (Some(signature_algorithm), Some(key_algorithm)) =
        (signature_algorithm(certificate), key_algorithm(issuer))
    else {
        return Issuance::NotVerifiable;
    };
    let message = certificate.tbs_certificate.as_ref();
    let signature = certificate.signature_value.as_ref();
    let public_key = issuer.public_key().subject_public_key.as_ref();
    let mut algorithms = algorithms()
        .iter()
        .filter(|algorithm| {
            algorithm.signature_alg_id().as_ref() == signature_algorithm
                && algorithm.public_key_alg_id().as_ref() == key_algorithm
        })
        .peekable();
    if algorithms.peek().is_none() {
        // An EC signature and an RSA key cannot belong together, but neither can be told from an
        // algorithm that is merely unknown.
        Issuance::NotVerifiable
    } else if algorithms.any(|algorithm| {
        algorithm
            .verify_signature(public_key, message, signature)
            .is_ok()
    }) {
        Issuance::Verified
    } else {
        Issuance::OtherKey
    }
}

/// A root. A certificate whose issuer has its own name but another key (RFC 4210 4.4, a key
/// rollover) is none.
fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    issued_by(certificate, certificate).is_plausible()
}

fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    aws_lc_rs::default_provider()
        .signature_verification_algorithms
        .all
}

/// The content of the outer AlgorithmIdentifier: Certificate ::= SEQUENCE { tbsCertificate,
/// signatureAlgorithm, signatureValue } (RFC 5280 4.1).
fn signature_algorithm<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    let (_, certificate) = Any::from_der(certificate.as_raw()).ok()?;
    let (after_tbs, _) = Any::from_der(certificate.data).ok()?;
    let (_, algorithm) = Any::from_der(after_tbs).ok()?;
    Some(algorithm.data)
}

/// The content of SubjectPublicKeyInfo's AlgorithmIdentifier (RFC 5280 4.1.2.7).
fn key_algorithm<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    let (_, info) = Any::from_der(certificate.tbs_certificate.subject_pki.raw).ok()?;
    let (_, algorithm) = Any::from_der(info.data).ok()?;
    Some(algorithm.data)
}
