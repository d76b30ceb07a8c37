//! What every server is given: certificates, files, and the one TLS session it may agree to.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rcgen::{CertificateParams, KeyPair};

use crate::Failure;

/// The key of a server's certificate, which decides the signature of its handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Key {
    /// ECDSA on P-256; signs with ecdsa_secp256r1_sha256.
    P256,
    /// RSA, 2048 bits; signs with rsa_pss_rsae_sha256.
    Rsa2048,
}

/// The TLS version allowed; its only suite uses AES-128-GCM and SHA-256, and the group is X25519.
///
/// In TLS 1.2 both sides name P-256 as well, after X25519: there a list of groups also says which
/// curves a certificate may have (RFC 8422 5.1), and OpenSSL refuses a P-256 key without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

/// A file that servers serve.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// Its name beneath the root.
    pub(crate) name: &'static str,
    pub(crate) bytes: usize,
}

pub(crate) const FILE_1_KIB: Served = Served {
    name: "1k.bin",
    bytes: 1024,
};

pub(crate) const FILE_16_KIB: Served = Served {
    name: "16k.bin",
    bytes: 16 * 1024,
};

pub(crate) const FILE_1_MIB: Served = Served {
    name: "1m.bin",
    bytes: 1024 * 1024,
};

pub(crate) const FILE_64_MIB: Served = Served {
    name: "64m.bin",
    bytes: 64 * 1024 * 1024,
};

/// What the backend has: it keeps them in memory.
pub(crate) const FILES_PASSED_ON: [&Served; 3] = [&FILE_1_KIB, &FILE_16_KIB, &FILE_1_MIB];

pub(crate) const FILES: [&Served; 4] = [&FILE_1_KIB, &FILE_16_KIB, &FILE_1_MIB, &FILE_64_MIB];

/// The directory with all of it.
#[derive(Debug)]
pub(crate) struct Fixture {
    directory: PathBuf,
}

/// A certificate chain and its key, in PEM.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) chain_file: PathBuf,
    pub(crate) key_file: PathBuf,
}

impl Fixture {
    /// Makes certificates and random files in `directory`, replacing what is there.
    pub(crate) fn prepare(directory: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        let directory = directory.canonicalize()?;
        let fixture = Self { directory };
        for key in Key::value_variants() {
            fixture.write_certificate(*key)?;
        }
        fs::create_dir_all(fixture.root())?;
        for file in FILES {
            // Random: nothing on the way may profit from compressing it.
            let length = u64::try_from(file.bytes)?;
            let mut bytes = Vec::with_capacity(file.bytes);
            File::open("/dev/urandom")?
                .take(length)
                .read_to_end(&mut bytes)?;
            fs::write(fixture.root().join(file.name), bytes)?;
        }
        Ok(fixture)
    }

    /// The directory that servers serve.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    pub(crate) fn certificate(&self, key: Key) -> Certificate {
        let name = key
            .to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned());
        Certificate {
            chain_file: self.directory.join(format!("{name}.pem")),
            key_file: self.directory.join(format!("{name}-key.pem")),
        }
    }

    /// An empty directory for one server process.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, Failure> {
        let directory = self.directory.join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    fn write_certificate(&self, key: Key) -> Result<(), Failure> {
        let algorithm = match key {
            Key::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Key::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(algorithm)?;
        let certificate =
            CertificateParams::new(vec![SERVER_NAME.to_owned()])?.self_signed(&pair)?;
        let files = self.certificate(key);
        fs::write(files.chain_file, certificate.pem())?;
        // A file that is there already would keep its mode.
        if files.key_file.exists() {
            fs::remove_file(&files.key_file)?;
        }
        let mut key_file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(files.key_file)?;
        key_file.write_all(pair.serialize_pem().as_bytes())?;
        Ok(())
    }
}

/// The name in every certificate, and the one that clients ask for.
pub(crate) const SERVER_NAME: &str = "localhost";
