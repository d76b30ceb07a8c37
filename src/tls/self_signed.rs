//! A certificate for trying things out: made for localhost, kept, and renewed in time.
//!
//! Certificate and key are one PEM file, so that no crash and no second process can leave a pair that
//! does not match. The file is replaced as a whole, by rename(2), under a lock.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::certificate::{self, CertificateError, Loaded};
use crate::sys;

/// A kept self-signed certificate.
#[derive(Debug)]
pub struct SelfSigned {
    /// The PEM file with the certificate and its key; both `certificate_file` and `key_file` of a
    /// site may name it.
    pub file: PathBuf,
    /// The certificate and key.
    pub certified: Arc<CertifiedKey>,
    /// The certificate's [`fingerprint`](fn@fingerprint).
    pub fingerprint: String,
    /// When it stops being valid; it is renewed 30 days before, at the next start.
    pub expires: SystemTime,
    /// Whether it was there.
    pub origin: Origin,
}

/// Where a [`SelfSigned`] certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was kept from an earlier start.
    Kept,
    /// There was none.
    Created,
    /// There was one, which was not used for this reason. Whoever trusted it has to trust the new
    /// one.
    Replaced(String),
}

/// Why there is no self-signed certificate.
#[derive(Debug)]
pub enum SelfSignedError {
    /// The directory or a file in it cannot be made, locked or written.
    Io {
        /// What was tried: "create", "lock", "write".
        action: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Others may write to the directory, and so replace the key.
    DirectoryShared {
        /// The directory.
        directory: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate could not be generated.
    Generate(rcgen::Error),
    /// What was just written is refused.
    Unusable(CertificateError),
}

/// The certificate for localhost, 127.0.0.1 and ::1 kept in `directory`, made if there is none, if
/// it expires in less than 30 days, or if it cannot be used or trusted: unreadable, mismatched, or
/// open to others.
///
/// The directory is made with mode 0700, the file with mode 0600. Processes that start at once wait
/// for each other and get the same certificate.
///
/// # Errors
/// See [`SelfSignedError`].
pub fn obtain(directory: &Path, now: SystemTime) -> Result<SelfSigned, SelfSignedError> {
    prepare_directory(directory)?;
    let _lock = lock(&directory.join(LOCK_NAME))?;
    let file = directory.join(FILE_NAME);
    let origin = match load_kept(&file, now) {
        Ok(loaded) => return Ok(self_signed(file, loaded, Origin::Kept)),
        Err(NotKept::Missing) => Origin::Created,
        Err(NotKept::Refused(reason)) => Origin::Replaced(reason),
    };
    let pem = generate(now).map_err(SelfSignedError::Generate)?;
    replace(directory, &file, pem.as_bytes())?;
    let loaded = load(&file, now).map_err(SelfSignedError::Unusable)?;
    Ok(self_signed(file, loaded, origin))
}

/// Where this program keeps its state: `$XDG_STATE_HOME/portcullis`, or
/// `$HOME/.local/state/portcullis` (XDG Base Directory Specification 0.8, which also says to ignore
/// relative paths). `None` when neither is set.
pub fn state_directory() -> Option<PathBuf> {
    state_directory_from(
        std::env::var_os("XDG_STATE_HOME").map(PathBuf::from),
        std::env::var_os("HOME").map(PathBuf::from),
    )
}

/// The SHA-256 of a certificate's DER, as hexadecimal bytes with colons, as browsers and
/// `openssl x509 -fingerprint -sha256` show it.
pub fn fingerprint(certificate_der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, certificate_der);
    let bytes: Vec<String> = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    bytes.join(":")
}

impl fmt::Display for SelfSignedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io {
                action,
                path,
                error,
            } => write!(
                f,
                "{}: cannot {action}: {error}; make its directory writable for this user, or set \
                 XDG_STATE_HOME to one that is",
                path.display()
            ),
            Self::DirectoryShared { directory, mode } => write!(
                f,
                "{0}: has mode {mode:04o}, so others may replace the private key in it; close it \
                 with: chmod 700 {0}",
                directory.display()
            ),
            Self::Generate(error) => write!(f, "cannot generate a certificate: {error}"),
            Self::Unusable(error) => {
                write!(f, "the new self-signed certificate is unusable: {error}")
            }
        }
    }
}

impl std::error::Error for SelfSignedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            Self::DirectoryShared { .. } => None,
            Self::Generate(error) => Some(error),
            Self::Unusable(error) => Some(error),
        }
    }
}

fn state_directory_from(state_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let state_home = state_home
        .filter(absolute)
        .or_else(|| Some(home.filter(absolute)?.join(".local/state")))?;
    Some(state_home.join("portcullis"))
}

fn self_signed(file: PathBuf, loaded: Loaded, origin: Origin) -> SelfSigned {
    let leaf = loaded.certified.cert.first();
    SelfSigned {
        file,
        fingerprint: leaf.map_or_else(String::new, |leaf| fingerprint(leaf)),
        certified: loaded.certified,
        expires: loaded.expires,
        origin,
    }
}

/// Why the kept certificate is not used.
enum NotKept {
    Missing,
    Refused(String),
}

fn load_kept(file: &Path, now: SystemTime) -> Result<Loaded, NotKept> {
    let loaded = match load(file, now) {
        Ok(loaded) => loaded,
        Err(CertificateError::Unreadable { error, .. }) if error.kind() == ErrorKind::NotFound => {
            return Err(NotKept::Missing);
        }
        Err(error) => return Err(NotKept::Refused(error.to_string())),
    };
    if let Some(warning) = loaded.warnings.first() {
        return Err(NotKept::Refused(warning.to_string()));
    }
    if loaded.expires < now + RENEW_BEFORE {
        return Err(NotKept::Refused(format!(
            "{}: the certificate expires in less than 30 days",
            file.display()
        )));
    }
    Ok(loaded)
}

fn load(file: &Path, now: SystemTime) -> Result<Loaded, CertificateError> {
    certificate::load_files(file, file, &NAMES.map(str::to_owned), now)
}

/// Makes `directory` and its parents with mode 0700. One that exists may be readable by others, as
/// the file is not, but not writable.
fn prepare_directory(directory: &Path) -> Result<(), SelfSignedError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(io_error("create", directory))?;
    let metadata = fs::metadata(directory).map_err(io_error("inspect", directory))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(SelfSignedError::DirectoryShared {
            directory: directory.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// Holds off other processes until the returned file is dropped. The lock file stays: removing it
/// would let a process that waits for the old one and a process that makes a new one both go on.
fn lock(path: &Path) -> Result<File, SelfSignedError> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(io_error("create", path))?;
    sys::lock::lock_exclusive(file.as_fd()).map_err(io_error("lock", path))?;
    Ok(file)
}

/// The certificate and its key as PEM.
fn generate(now: SystemTime) -> Result<Zeroizing<String>, rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + VALID).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "Portcullis self-signed certificate");
    let certificate = params.self_signed(&key)?.pem();
    let key_pem = Zeroizing::new(key.serialize_pem());
    // Joined without growing, so that no copy of the key is left in freed memory.
    let mut pem = Zeroizing::new(String::with_capacity(certificate.len() + key_pem.len()));
    pem.push_str(&certificate);
    pem.push_str(&key_pem);
    Ok(pem)
}

/// Puts `content` in the place of `file`: at any moment, also after a crash, the file is the old one
/// or the new one. Called under the lock, so the temporary file is ours, or a crash left it.
fn replace(directory: &Path, file: &Path, content: &[u8]) -> Result<(), SelfSignedError> {
    let temporary = directory.join(TEMPORARY_NAME);
    match fs::remove_file(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("remove", &temporary)(error)),
    }
    let written = write_private(&temporary, content)
        .map_err(io_error("write", &temporary))
        .and_then(|()| fs::rename(&temporary, file).map_err(io_error("replace", file)));
    if let Err(error) = written {
        // Nobody needs a half-written key; the failure that is reported is the first.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    // The rename itself survives a crash only with its directory written.
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("write", directory))
}

/// Mode 0600 is given to open(2), not set afterwards: there is no moment at which others could open
/// the file.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SelfSignedError {
    let path = path.to_owned();
    move |error| SelfSignedError::Io {
        action,
        path,
        error,
    }
}

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const FILE_NAME: &str = "localhost.pem";
const TEMPORARY_NAME: &str = "localhost.pem.new";
const LOCK_NAME: &str = "localhost.lock";
const FILE_MODE: u32 = 0o600;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const VALID: Duration = DAY.saturating_mul(365);
const RENEW_BEFORE: Duration = DAY.saturating_mul(30);

/// For clients, as in a virtual machine, whose clock is a little behind.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::sync::Barrier;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn made_private_and_kept() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state").join("portcullis");
        let first = obtain(&directory, now()).unwrap();
        assert_eq!(first.origin, Origin::Created);
        assert_eq!(first.expires, now() + VALID);
        assert_eq!(mode_of(&directory), 0o700);
        assert_eq!(mode_of(&parent.path().join("state")), 0o700);
        assert_eq!(mode_of(&first.file), 0o600);
        let second = obtain(&directory, now() + DAY * 334).unwrap();
        assert_eq!(second.origin, Origin::Kept);
        assert_eq!(second.fingerprint, first.fingerprint);
        let mut left: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [LOCK_NAME, FILE_NAME]);
    }

    #[test]
    fn renewed_when_less_than_thirty_days_are_left() {
        let directory = private_directory();
        let first = obtain(directory.path(), now()).unwrap();
        let later = now() + VALID - RENEW_BEFORE;
        let at_the_limit = obtain(directory.path(), later).unwrap();
        assert_eq!(at_the_limit.origin, Origin::Kept);
        let renewed = obtain(directory.path(), later + Duration::from_secs(1)).unwrap();
        assert_replaced(&renewed, "30 days");
        assert_ne!(renewed.fingerprint, first.fingerprint);
        let expired = obtain(directory.path(), later + VALID + DAY).unwrap();
        assert_replaced(&expired, "expired on");
    }

    #[test]
    fn replaced_when_damaged_or_half_written() {
        let directory = private_directory();
        let whole = fs::read(obtain(directory.path(), now()).unwrap().file).unwrap();
        let file = directory.path().join(FILE_NAME);
        for length in [0, 1, whole.len() / 3, whole.len() / 2, whole.len() - 40] {
            fs::write(&file, &whole[..length]).unwrap();
            let replaced = obtain(directory.path(), now()).unwrap();
            assert_replaced(&replaced, "localhost.pem: ");
            assert_eq!(
                obtain(directory.path(), now()).unwrap().origin,
                Origin::Kept
            );
        }
    }

    #[test]
    fn replaced_when_the_key_is_another() {
        let directory = private_directory();
        let file = obtain(directory.path(), now()).unwrap().file;
        let certificate = fs::read_to_string(&file).unwrap();
        let certificate = &certificate[..certificate.find("-----BEGIN PRIVATE KEY").unwrap()];
        let other_key = KeyPair::generate().unwrap().serialize_pem();
        fs::write(&file, format!("{certificate}{other_key}")).unwrap();
        let replaced = obtain(directory.path(), now()).unwrap();
        assert_replaced(&replaced, "does not belong");
    }

    #[test]
    fn replaced_when_others_could_read_the_key() {
        let directory = private_directory();
        let file = obtain(directory.path(), now()).unwrap().file;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let replaced = obtain(directory.path(), now()).unwrap();
        assert_replaced(&replaced, "0644");
        assert_eq!(mode_of(&file), 0o600);
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_certificate_and_is_cleaned_up() {
        let directory = private_directory();
        let first = obtain(directory.path(), now()).unwrap();
        let temporary = directory.path().join(TEMPORARY_NAME);
        fs::write(&temporary, "-----BEGIN CERT").unwrap();
        let kept = obtain(directory.path(), now()).unwrap();
        assert_eq!(kept.fingerprint, first.fingerprint);
        let renewed = obtain(directory.path(), now() + VALID).unwrap();
        assert_replaced(&renewed, "expires");
        assert!(!temporary.exists());
    }

    #[test]
    fn a_link_in_the_way_is_not_written_through() {
        let directory = private_directory();
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        symlink(&elsewhere, directory.path().join(TEMPORARY_NAME)).unwrap();
        symlink(&elsewhere, directory.path().join(FILE_NAME)).unwrap();
        obtain(directory.path(), now()).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
        let written = fs::symlink_metadata(directory.path().join(FILE_NAME)).unwrap();
        assert!(written.is_file());
        fs::remove_file(directory.path().join(LOCK_NAME)).unwrap();
        symlink(&elsewhere, directory.path().join(LOCK_NAME)).unwrap();
        let error = obtain(directory.path(), now()).unwrap_err();
        assert!(
            matches!(
                error,
                SelfSignedError::Io {
                    action: "create",
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_directory_others_may_write_to_is_refused() {
        let directory = private_directory();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let error = obtain(directory.path(), now()).unwrap_err();
        assert!(error.to_string().contains("chmod 700"), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_in_the_directory_s_place_is_named() {
        let directory = private_directory();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        let error = obtain(&path, now()).unwrap_err();
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }

    #[test]
    fn starting_at_once_gives_one_certificate() {
        let directory = private_directory();
        let barrier = Barrier::new(STARTERS);
        let obtained: Vec<SelfSigned> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..STARTERS)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        obtain(directory.path(), now()).unwrap()
                    })
                })
                .collect();
            starters
                .into_iter()
                .map(|starter| starter.join().unwrap())
                .collect()
        });
        let created = obtained
            .iter()
            .filter(|one| one.origin == Origin::Created)
            .count();
        assert_eq!(created, 1);
        let first = &obtained[0].fingerprint;
        assert!(obtained.iter().all(|one| &one.fingerprint == first));
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_no_key_behind() {
        let directory = private_directory();
        let in_the_way = directory.path().join(FILE_NAME);
        fs::create_dir(&in_the_way).unwrap();
        let error = obtain(directory.path(), now()).unwrap_err();
        assert!(
            matches!(
                error,
                SelfSignedError::Io {
                    action: "replace",
                    ..
                }
            ),
            "{error}"
        );
        assert!(!directory.path().join(TEMPORARY_NAME).exists());
        assert!(in_the_way.is_dir());
    }

    #[test]
    fn private_files_are_never_opened_over_existing_ones() {
        let directory = private_directory();
        let path = directory.path().join("key");
        write_private(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = write_private(&path, b"two").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn the_state_directory_follows_the_xdg_specification() {
        let path = |path: &str| Some(PathBuf::from(path));
        let from = state_directory_from;
        assert_eq!(
            from(path("/state"), path("/home/a")),
            path("/state/portcullis")
        );
        let in_home = path("/home/a/.local/state/portcullis");
        assert_eq!(from(None, path("/home/a")), in_home);
        assert_eq!(from(path("relative"), path("/home/a")), in_home);
        assert_eq!(from(path(""), path("/home/a")), in_home);
        assert_eq!(from(None, path("")), None);
        assert_eq!(from(None, None), None);
    }

    #[test]
    fn fingerprints_are_sha_256_in_hexadecimal() {
        // FIPS 180-4's example: the digest of "abc".
        assert_eq!(
            fingerprint(b"abc"),
            "BA:78:16:BF:8F:01:CF:EA:41:41:40:DE:5D:AE:22:23:\
             B0:03:61:A3:96:17:7A:9C:B4:10:FF:61:F2:00:15:AD"
        );
    }

    fn assert_replaced(obtained: &SelfSigned, expected: &str) {
        match &obtained.origin {
            Origin::Replaced(reason) => assert!(reason.contains(expected), "{reason}"),
            origin @ (Origin::Kept | Origin::Created) => panic!("{origin:?}, not replaced"),
        }
    }

    fn private_directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        directory
    }

    const STARTERS: usize = 8;
}
