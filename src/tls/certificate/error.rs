//! What can be wrong with a certificate or key file, said so that it can be put right.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Why a certificate and key cannot be served. Its text names the file, what was found and the
/// remedy. Positions count the certificates of a file from 1.
#[derive(Debug)]
#[expect(
    missing_docs,
    reason = "`file` is the file concerned; see `CertificateError::file`"
)]
pub enum CertificateError {
    /// The file cannot be opened or read.
    Unreadable { file: PathBuf, error: io::Error },
    /// A directory, FIFO, device or socket.
    NotRegularFile { file: PathBuf },
    /// No certificate or key is that large.
    TooLarge { file: PathBuf, bytes_max: usize },
    /// The PEM armour is damaged.
    Malformed { file: PathBuf, detail: String },
    /// Without a certificate; `sections` are the PEM labels it has.
    NoCertificate {
        file: PathBuf,
        sections: Vec<String>,
    },
    /// Without a certificate of an authority; `sections` are the PEM labels it has.
    NoAuthority {
        file: PathBuf,
        sections: Vec<String>,
    },
    /// A binary file where PEM text is due.
    CertificateNotPem { file: PathBuf },
    /// More certificates than a chain has.
    TooManyCertificates {
        file: PathBuf,
        certificates_max: usize,
    },
    /// A certificate that cannot be parsed.
    CertificateInvalid {
        file: PathBuf,
        position: usize,
        detail: String,
    },
    /// Without a private key; `sections` are the PEM labels it has.
    NoKey {
        file: PathBuf,
        sections: Vec<String>,
    },
    /// A binary file where PEM text is due.
    KeyNotPem { file: PathBuf },
    /// The key is protected by a passphrase.
    KeyEncrypted { file: PathBuf },
    /// More than one key: which one is meant?
    SeveralKeys { file: PathBuf, count: usize },
    /// A key of a kind or size that is not supported, or damaged.
    KeyUnusable { file: PathBuf, detail: String },
    /// The key in `file` belongs to none of the certificates.
    KeyMismatch {
        file: PathBuf,
        certificate_file: PathBuf,
    },
    /// The key belongs to the certificate at `position`, which is not the first; `order` is the
    /// chain that starts there.
    LeafNotFirst {
        file: PathBuf,
        key_file: PathBuf,
        position: usize,
        order: Vec<usize>,
    },
    /// The certificate at `position` was not issued by the next one; `order` is the chain that can
    /// be made from the `count` certificates of the file.
    ChainBroken {
        file: PathBuf,
        position: usize,
        broken: BrokenLink,
        count: usize,
        order: Vec<usize>,
    },
    /// The leaf's validity has not begun.
    NotYetValid {
        file: PathBuf,
        begins: SystemTime,
        now: SystemTime,
    },
    /// The leaf's validity has ended.
    Expired { file: PathBuf, expires: SystemTime },
    /// Names of the site that the leaf does not have; `covered` are those it has.
    NamesNotCovered {
        file: PathBuf,
        names: Vec<String>,
        covered: Vec<String>,
    },
}

/// How a certificate is not the issuer of the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BrokenLink {
    /// Its subject is another name.
    OtherName {
        /// The issuer that was due.
        issuer: String,
        /// The subject that is there.
        found: String,
    },
    /// Its subject is the issuer's name, but its key did not make the signature.
    OtherKey {
        /// The name they share.
        issuer: String,
    },
}

/// What works but should be known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "`file` is the file concerned; see `Warning::file`"
)]
pub enum Warning {
    /// The leaf expires within 14 days.
    ExpiresSoon { file: PathBuf, expires: SystemTime },
    /// A certificate above the leaf has expired: clients that do not know a newer one fail.
    IssuerExpired {
        file: PathBuf,
        position: usize,
        expires: SystemTime,
    },
    /// The chain ends in a self-signed root, which clients ignore (RFC 8446 4.4.2 lets it be left
    /// out) but which every handshake pays for.
    RootIncluded {
        file: PathBuf,
        position: usize,
        subject: String,
    },
    /// The signature's algorithm is unknown here, so only the names were compared.
    SignatureNotVerifiable {
        file: PathBuf,
        position: usize,
        algorithm: String,
    },
    /// The key's file may be read or written by its group or by others.
    KeyFileExposed { file: PathBuf, mode: u32 },
}

impl CertificateError {
    /// The file that is to be changed or replaced.
    pub fn file(&self) -> &Path {
        match self {
            Self::Unreadable { file, .. }
            | Self::NotRegularFile { file }
            | Self::TooLarge { file, .. }
            | Self::Malformed { file, .. }
            | Self::NoCertificate { file, .. }
            | Self::NoAuthority { file, .. }
            | Self::CertificateNotPem { file }
            | Self::TooManyCertificates { file, .. }
            | Self::CertificateInvalid { file, .. }
            | Self::NoKey { file, .. }
            | Self::KeyNotPem { file }
            | Self::KeyEncrypted { file }
            | Self::SeveralKeys { file, .. }
            | Self::KeyUnusable { file, .. }
            | Self::KeyMismatch { file, .. }
            | Self::LeafNotFirst { file, .. }
            | Self::ChainBroken { file, .. }
            | Self::NotYetValid { file, .. }
            | Self::Expired { file, .. }
            | Self::NamesNotCovered { file, .. } => file,
        }
    }

    fn fmt_certificate(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate { sections, .. } => write!(
                f,
                "holds no certificate{}; it must hold the PEM chain, leaf first",
                Found(sections)
            ),
            Self::CertificateNotPem { file } => write!(
                f,
                "is binary (DER), not PEM; convert it with: openssl x509 -inform der -in {0} \
                 -out {0}.pem",
                file.display()
            ),
            Self::TooManyCertificates {
                certificates_max, ..
            } => write!(
                f,
                "holds more than {certificates_max} certificates, so it is no chain but perhaps a \
                 collection of roots; name the file with the site's own chain"
            ),
            Self::CertificateInvalid {
                position, detail, ..
            } => write!(
                f,
                "certificate {position} cannot be used: {detail}; get the file anew from its issuer"
            ),
            Self::LeafNotFirst {
                key_file,
                position,
                order,
                ..
            } => fmt_leaf(f, key_file, *position, order),
            Self::ChainBroken {
                position,
                broken,
                count,
                order,
                ..
            } => {
                fmt_broken(f, *position, broken)?;
                fmt_order(f, *position, *count, order)
            }
            Self::NotYetValid { begins, now, .. } => write!(
                f,
                "the certificate is valid from {}, and it is now {}; check this machine's clock, or \
                 wait",
                Date(*begins),
                Date(*now)
            ),
            Self::Expired { expires, .. } => {
                write!(f, "the certificate expired on {}; renew it", Date(*expires))
            }
            Self::NamesNotCovered { names, covered, .. } => fmt_names(f, names, covered),
            Self::NoAuthority { .. }
            | Self::Unreadable { .. }
            | Self::NotRegularFile { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. }
            | Self::NoKey { .. }
            | Self::KeyNotPem { .. }
            | Self::KeyEncrypted { .. }
            | Self::SeveralKeys { .. }
            | Self::KeyUnusable { .. }
            | Self::KeyMismatch { .. } => self.fmt_file_or_key(f),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the other half of `fmt_certificate`, whose match is the exhaustive one"
    )]
    fn fmt_file_or_key(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { error, .. } => {
                let remedy = match error.kind() {
                    io::ErrorKind::NotFound => "correct the path, or put the file there",
                    io::ErrorKind::PermissionDenied => {
                        "let the user that runs portcullis read the file and enter its directory"
                    }
                    _ => "make the file readable",
                };
                write!(f, "cannot be read: {error}; {remedy}")
            }
            Self::NoAuthority { sections, .. } => write!(
                f,
                "holds no certificate{}; it must hold those of the authorities, as PEM",
                Found(sections)
            ),
            Self::NotRegularFile { .. } => f.write_str("is not a regular file; name a PEM file"),
            Self::TooLarge { bytes_max, .. } => write!(
                f,
                "is larger than {bytes_max} bytes; name the file with the certificates or the key alone"
            ),
            Self::Malformed { detail, .. } => {
                write!(f, "is damaged PEM: {detail}; copy the file anew")
            }
            Self::NoKey { sections, .. } => write!(
                f,
                "holds no private key{}; it must hold one as PEM (PKCS#8, SEC1 or PKCS#1)",
                Found(sections)
            ),
            Self::KeyNotPem { file } => write!(
                f,
                "is binary (DER), not PEM; convert it with: openssl pkey -inform der -in {0} \
                 -out {0}.pem",
                file.display()
            ),
            Self::KeyEncrypted { file } => write!(
                f,
                "the private key is encrypted, and there is nobody to ask for its passphrase; \
                 decrypt it with: openssl pkey -in {0} -out {0}.plain",
                file.display()
            ),
            Self::SeveralKeys { count, .. } => write!(
                f,
                "holds {count} private keys; leave only the one of the site's certificate"
            ),
            Self::KeyUnusable { detail, .. } => write!(
                f,
                "the private key cannot be used ({detail}); use a P-256, P-384 or Ed25519 key, or \
                 RSA with 2048 to 8192 bits"
            ),
            Self::KeyMismatch {
                certificate_file, ..
            } => write!(
                f,
                "the private key does not belong to the certificate in {}; name the key that the \
                 certificate was requested with",
                certificate_file.display()
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file().display())?;
        self.fmt_certificate(f)
    }
}

impl std::error::Error for CertificateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Unreadable { error, .. } = self {
            return Some(error);
        }
        None
    }
}

impl Warning {
    /// The file concerned.
    pub fn file(&self) -> &Path {
        match self {
            Self::ExpiresSoon { file, .. }
            | Self::IssuerExpired { file, .. }
            | Self::RootIncluded { file, .. }
            | Self::SignatureNotVerifiable { file, .. }
            | Self::KeyFileExposed { file, .. } => file,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file().display())?;
        match self {
            Self::ExpiresSoon { expires, .. } => {
                write!(f, "the certificate expires on {}; renew it", Date(*expires))
            }
            Self::IssuerExpired {
                position, expires, ..
            } => write!(
                f,
                "certificate {position} expired on {}; get the current chain from its issuer",
                Date(*expires)
            ),
            Self::RootIncluded {
                position, subject, ..
            } => write!(
                f,
                "certificate {position} ({subject:?}) is a self-signed root, which clients ignore; \
                 remove it to make every handshake smaller"
            ),
            Self::SignatureNotVerifiable {
                position,
                algorithm,
                ..
            } => write!(
                f,
                "the signature of certificate {position} (algorithm {algorithm}) cannot be \
                 verified here, and clients may refuse it; get a chain signed with SHA-256 or better"
            ),
            Self::KeyFileExposed { file, mode } => write!(
                f,
                "the private key's file has mode {mode:04o}, open to more than its owner; close it \
                 with: chmod 600 {}",
                file.display()
            ),
        }
    }
}

fn fmt_leaf(
    f: &mut fmt::Formatter<'_>,
    key_file: &Path,
    position: usize,
    order: &[usize],
) -> fmt::Result {
    write!(
        f,
        "the key in {} belongs to certificate {position}, but the site's own certificate must be the \
         first; put the certificates in the order {}",
        key_file.display(),
        Order(order)
    )
}

fn fmt_broken(f: &mut fmt::Formatter<'_>, position: usize, broken: &BrokenLink) -> fmt::Result {
    let next = position + 1;
    match broken {
        BrokenLink::OtherName { issuer, found } => write!(
            f,
            "certificate {position} was issued by {issuer:?}, but certificate {next} is {found:?}"
        ),
        BrokenLink::OtherKey { issuer } => write!(
            f,
            "certificate {next} has the name of the issuer of certificate {position}, {issuer:?}, \
             but not the key that signed it"
        ),
    }
}

fn fmt_order(
    f: &mut fmt::Formatter<'_>,
    position: usize,
    count: usize,
    order: &[usize],
) -> fmt::Result {
    if order.len() == count {
        return write!(f, "; put the certificates in the order {}", Order(order));
    }
    let left_out: Vec<usize> = (1..=count).filter(|place| !order.contains(place)).collect();
    if order.len() > position {
        return write!(
            f,
            "; put the certificates in the order {} and remove {}",
            Order(order),
            Order(&left_out)
        );
    }
    write!(
        f,
        "; its issuer is not in the file: put the issuer's certificate after it (a root may be left \
         out) and remove {}",
        Order(&left_out)
    )
}

fn fmt_names(f: &mut fmt::Formatter<'_>, names: &[String], covered: &[String]) -> fmt::Result {
    write!(f, "the certificate does not cover {}", Quoted(names))?;
    if covered.is_empty() {
        f.write_str(
            ": it has no name in its subjectAltName, and its common name does not count (RFC 9525)",
        )?;
    } else {
        write!(f, ", only {}", Quoted(covered))?;
        let wildcard_too_short = names.iter().any(|name| {
            covered.iter().any(|pattern| {
                pattern.strip_prefix('*').is_some_and(|parent| {
                    parent.strip_prefix('.') == Some(name) || name.ends_with(parent)
                })
            })
        });
        if wildcard_too_short {
            f.write_str(" (a wildcard stands for exactly one label)")?;
        }
    }
    f.write_str("; get a certificate for all names of the site, or take them out of its names")
}

/// " (only ...)", or nothing.
struct Found<'a>(&'a [String]);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " (only {})", Quoted(self.0))
    }
}

/// Names from a certificate or file, with whatever could upset a terminal escaped.
struct Quoted<'a>(&'a [String]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().take(NAMES_SHOWN_MAX).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name:?}")?;
        }
        match self.0.len().saturating_sub(NAMES_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

struct Order<'a>(&'a [usize]);

impl fmt::Display for Order<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, position) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{position}")?;
        }
        Ok(())
    }
}

struct Date(SystemTime);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // httpdate panics beyond what four digits of a year can say.
        let seconds = self
            .0
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
            .min(YEAR_9999_ENDS_S);
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        httpdate::HttpDate::from(date).fmt(f)
    }
}

/// The last second of 9999, RFC 5280's "no expiry" (4.1.2.5).
const YEAR_9999_ENDS_S: u64 = 253_402_300_799;

/// Keeps a message on a screen.
const NAMES_SHOWN_MAX: usize = 8;
