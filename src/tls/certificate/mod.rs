//! A site's certificate chain and private key: read, checked against each other, the clock and the
//! site's names, and turned into what rustls signs with.
//!
//! What would make handshakes fail at the peer is an error here, before anything listens; what will
//! only matter later, or to somebody else, is a [`Warning`].

mod chain;
mod error;
#[cfg(test)]
mod tests;

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;
use zeroize::{Zeroize, Zeroizing};

use crate::config::Site;

pub use self::error::{CertificateError, Warning};

/// A usable certificate with its key.
#[derive(Debug)]
pub struct Loaded {
    /// The chain as it will be sent, leaf first, and the key.
    pub certified: Arc<CertifiedKey>,
    /// When the leaf stops being valid.
    pub expires: SystemTime,
    /// What an operator should know although it works.
    pub warnings: Vec<Warning>,
}

/// Loads the certificate and key of `site` and checks them as of `now`.
///
/// The chain is PEM, leaf first, each certificate issued by the next (RFC 8446 4.4.2, RFC 5246
/// 7.4.2). The key is PEM: PKCS#8 (RFC 5958), SEC1 (RFC 5915) or PKCS#1 (RFC 8017); P-256, P-384,
/// P-521, RSA from 2048 bits, or Ed25519. Both may be the same file.
///
/// # Errors
/// The first thing found that keeps the site from being served; see [`CertificateError`].
pub fn load(site: &Site, now: SystemTime) -> Result<Loaded, CertificateError> {
    load_files(&site.certificate_file, &site.key_file, &site.names, now)
}

/// As [`load`], for `names` and files that belong to no site.
///
/// # Errors
/// As [`load`].
pub fn load_files(
    certificate_file: &Path,
    key_file: &Path,
    names: &[String],
    now: SystemTime,
) -> Result<Loaded, CertificateError> {
    let certificates = read_chain(certificate_file)?;
    let (key, key_mode) = read_key(key_file)?;
    let certified = CertifiedKey::new(certificates, key);
    let parsed = parse(certificate_file, &certified.cert)?;
    let Some(leaf) = parsed.first() else {
        return Err(CertificateError::NoCertificate {
            file: certificate_file.to_owned(),
            sections: Vec::new(),
        });
    };
    check_key(certificate_file, key_file, &certified, &parsed)?;
    let mut warnings = chain::check(certificate_file, &parsed, now)?;
    check_validity(certificate_file, leaf, now)?;
    check_names(certificate_file, leaf, names)?;

    let expires = system_time(leaf.validity().not_after);
    if expires < now + EXPIRES_SOON {
        warnings.push(Warning::ExpiresSoon {
            file: certificate_file.to_owned(),
            expires,
        });
    }
    if key_mode & OTHERS_MODE_BITS != 0 {
        warnings.push(Warning::KeyFileExposed {
            file: key_file.to_owned(),
            mode: key_mode,
        });
    }
    drop(parsed);
    Ok(Loaded {
        certified: Arc::new(certified),
        expires,
        warnings,
    })
}

/// The certificates of authorities in `file`, PEM one behind the other.
///
/// # Errors
/// When it cannot be read, holds none, or one that is damaged.
pub fn load_authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let (text, _) = read(file, AUTHORITIES_BYTES_MAX)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(file, &error))?;
    if certificates.is_empty() {
        let none = |file, sections| CertificateError::NoAuthority { file, sections };
        return Err(without_certificate(file, &text, none));
    }
    parse(file, &certificates)?;
    Ok(certificates)
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let (text, _) = read(file, FILE_BYTES_MAX)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .take(CERTIFICATES_MAX + 1)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(file, &error))?;
    if certificates.is_empty() {
        let none = |file, sections| CertificateError::NoCertificate { file, sections };
        return Err(without_certificate(file, &text, none));
    }
    if certificates.len() > CERTIFICATES_MAX {
        return Err(CertificateError::TooManyCertificates {
            file: file.to_owned(),
            certificates_max: CERTIFICATES_MAX,
        });
    }
    Ok(certificates)
}

/// The key, and the permission bits of its file.
fn read_key(file: &Path) -> Result<(Arc<dyn SigningKey>, u32), CertificateError> {
    let (text, metadata) = read(file, FILE_BYTES_MAX)?;
    let labels = pem_labels(&text);
    // RFC 1421 4.6.1.1 marks the keys that OpenSSL encrypts in its old format.
    let proc_type = b"Proc-Type: 4,ENCRYPTED";
    let encrypted = labels.iter().any(|label| label == "ENCRYPTED PRIVATE KEY")
        || text
            .split(|&byte| byte == b'\n')
            .any(|line| line.starts_with(proc_type));
    if encrypted {
        return Err(CertificateError::KeyEncrypted {
            file: file.to_owned(),
        });
    }
    let mut keys = Vec::new();
    let mut failure = None;
    for key in PrivateKeyDer::pem_slice_iter(&text) {
        match key {
            Ok(key) => keys.push(key),
            Err(error) => {
                failure = Some(malformed(file, &error));
                break;
            }
        }
    }
    let outcome = match (failure, keys.as_slice()) {
        (Some(failure), _) => Err(failure),
        (None, [key]) => aws_lc_rs::sign::any_supported_type(key).map_err(|error| {
            CertificateError::KeyUnusable {
                file: file.to_owned(),
                detail: error.to_string(),
            }
        }),
        (None, []) if is_der(&text) => Err(CertificateError::KeyNotPem {
            file: file.to_owned(),
        }),
        (None, []) => Err(CertificateError::NoKey {
            file: file.to_owned(),
            sections: labels,
        }),
        (None, many) => Err(CertificateError::SeveralKeys {
            file: file.to_owned(),
            count: many.len(),
        }),
    };
    for key in &mut keys {
        key.zeroize();
    }
    Ok((outcome?, metadata.permissions().mode() & PERMISSION_BITS))
}

/// The content of a regular file of bounded size, wiped when it is dropped.
fn read(file: &Path, bytes_max: usize) -> Result<(Zeroizing<Vec<u8>>, Metadata), CertificateError> {
    let unreadable = |error| CertificateError::Unreadable {
        file: file.to_owned(),
        error,
    };
    // Without O_NONBLOCK, opening a FIFO would wait for somebody to write to it.
    let mut opened = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(file)
        .map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(CertificateError::NotRegularFile {
            file: file.to_owned(),
        });
    }
    let too_large = || CertificateError::TooLarge {
        file: file.to_owned(),
        bytes_max,
    };
    if metadata.len() > bytes_max as u64 {
        return Err(too_large());
    }
    // One buffer that never grows, so that no copy of a key is left behind in freed memory; a file
    // that grows while it is read is too large.
    let mut buffer = Zeroizing::new(vec![0; bytes_max + 1]);
    let mut filled = 0;
    while let Some(free) = buffer.get_mut(filled..).filter(|free| !free.is_empty()) {
        match opened.read(free) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if filled > bytes_max {
        return Err(too_large());
    }
    buffer.truncate(filled);
    Ok((buffer, metadata))
}

fn parse<'a>(
    file: &Path,
    certificates: &'a [CertificateDer<'static>],
) -> Result<Vec<X509Certificate<'a>>, CertificateError> {
    let parse_one = |(index, certificate): (usize, &'a CertificateDer<'static>)| {
        let invalid = |detail: String| CertificateError::CertificateInvalid {
            file: file.to_owned(),
            position: index + 1,
            detail,
        };
        match x509_parser::parse_x509_certificate(certificate) {
            Ok(([], parsed)) => Ok(parsed),
            Ok((rest, _)) => Err(invalid(format!("{} bytes follow it", rest.len()))),
            Err(error) => Err(invalid(error.to_string())),
        }
    };
    certificates.iter().enumerate().map(parse_one).collect()
}

/// The key must be the leaf's. A key of another certificate in the file means a wrong order.
fn check_key(
    file: &Path,
    key_file: &Path,
    certified: &CertifiedKey,
    parsed: &[X509Certificate<'_>],
) -> Result<(), CertificateError> {
    match certified.keys_match() {
        Ok(()) => return Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {}
        Err(error) => {
            return Err(CertificateError::CertificateInvalid {
                file: file.to_owned(),
                position: 1,
                detail: error.to_string(),
            });
        }
    }
    let public_key = certified.key.public_key();
    let owner = parsed
        .iter()
        .position(|certificate| public_key.as_deref() == Some(certificate.public_key().raw));
    Err(match owner {
        Some(owner) => CertificateError::LeafNotFirst {
            file: file.to_owned(),
            key_file: key_file.to_owned(),
            position: owner + 1,
            order: chain::order_from(parsed, owner),
        },
        None => CertificateError::KeyMismatch {
            file: key_file.to_owned(),
            certificate_file: file.to_owned(),
        },
    })
}

fn check_validity(
    file: &Path,
    leaf: &X509Certificate<'_>,
    now: SystemTime,
) -> Result<(), CertificateError> {
    let begins = system_time(leaf.validity().not_before);
    let expires = system_time(leaf.validity().not_after);
    // RFC 5280 4.1.2.5: both ends belong to the validity period.
    if now < begins {
        return Err(CertificateError::NotYetValid {
            file: file.to_owned(),
            begins,
            now,
        });
    }
    if now > expires {
        return Err(CertificateError::Expired {
            file: file.to_owned(),
            expires,
        });
    }
    Ok(())
}

fn check_names(
    file: &Path,
    leaf: &X509Certificate<'_>,
    names: &[String],
) -> Result<(), CertificateError> {
    let alternative_names = leaf
        .subject_alternative_name()
        .map_err(|error| CertificateError::CertificateInvalid {
            file: file.to_owned(),
            position: 1,
            detail: format!("its subjectAltName: {error}"),
        })?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let uncovered: Vec<String> = names
        .iter()
        .filter(|name| {
            !alternative_names
                .iter()
                .any(|general| covers(general, name))
        })
        .cloned()
        .collect();
    if uncovered.is_empty() {
        return Ok(());
    }
    Err(CertificateError::NamesNotCovered {
        file: file.to_owned(),
        names: uncovered,
        covered: alternative_names.iter().filter_map(display_name).collect(),
    })
}

/// RFC 9525 6.3 and 6.4: DNS names regardless of case, a wildcard for exactly one whole leftmost
/// label, addresses by their bytes. A name that is itself a wildcard is covered by the same wildcard
/// only.
fn covers(general: &GeneralName<'_>, name: &str) -> bool {
    if let Ok(address) = name.parse::<IpAddr>() {
        return matches!(general, GeneralName::IPAddress(bytes) if address_of(bytes) == Some(address));
    }
    let GeneralName::DNSName(pattern) = general else {
        return false;
    };
    if pattern.eq_ignore_ascii_case(name) {
        return true;
    }
    match (pattern.strip_prefix("*."), name.split_once('.')) {
        (Some(parent), Some((label, rest))) => {
            !label.is_empty() && label != "*" && parent.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

fn display_name(general: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = general {
        return Some((*name).to_owned());
    }
    if let GeneralName::IPAddress(bytes) = general {
        return address_of(bytes).map(|address| address.to_string());
    }
    None
}

/// RFC 5280 4.2.1.6: four or sixteen bytes in network order.
fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// Times before 1970, which RFC 5280 allows, become 1970: both are long ago.
fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's errors are open, and the rest cannot come of a bounded slice"
)]
fn malformed(file: &Path, error: &rustls::pki_types::pem::Error) -> CertificateError {
    use rustls::pki_types::pem::Error as E;
    // The library's own texts print markers as lists of byte values, and the line it refuses, which
    // may be a line of the key.
    let detail = match error {
        E::MissingSectionEnd { end_marker } => format!(
            "its {:?} section has no END line",
            String::from_utf8_lossy(end_marker)
        ),
        E::IllegalSectionStart { .. } => "a BEGIN line does not end in five dashes".to_owned(),
        E::Base64Decode(_) => "a section is not valid base64".to_owned(),
        _ => "it cannot be decoded".to_owned(),
    };
    CertificateError::Malformed {
        file: file.to_owned(),
        detail,
    }
}

/// What stands between `-----BEGIN ` and `-----`, the first few.
/// Why `text` holds no certificate: it is binary, or `none` with the PEM labels that it has.
fn without_certificate(
    file: &Path,
    text: &[u8],
    none: impl FnOnce(PathBuf, Vec<String>) -> CertificateError,
) -> CertificateError {
    let file = file.to_owned();
    match is_der(text) {
        true => CertificateError::CertificateNotPem { file },
        false => none(file, pem_labels(text)),
    }
}

fn pem_labels(text: &[u8]) -> Vec<String> {
    text.split(|&byte| byte == b'\n' || byte == b'\r')
        .filter_map(|line| line.strip_prefix(b"-----BEGIN "))
        .filter_map(|line| line.trim_ascii_end().strip_suffix(b"-----"))
        .map(|label| String::from_utf8_lossy(label).into_owned())
        .take(LABELS_MAX)
        .collect()
}

/// DER certificates and keys are a SEQUENCE with a length of two bytes or more.
fn is_der(content: &[u8]) -> bool {
    content.starts_with(&[0x30, 0x82]) || content.starts_with(&[0x30, 0x81])
}

/// Time enough to renew by hand.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// More than any chain in use; it bounds the search for an order.
const CERTIFICATES_MAX: usize = 16;

const FILE_BYTES_MAX: usize = 256 * 1024;

/// Several times what systems bring along.
const AUTHORITIES_BYTES_MAX: usize = 2 * 1024 * 1024;

const LABELS_MAX: usize = 8;

const PERMISSION_BITS: u32 = 0o7777;
const OTHERS_MODE_BITS: u32 = 0o077;
