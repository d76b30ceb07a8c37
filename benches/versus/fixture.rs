//! What every server is given: certificates, files, and the one TLS session it may agree to.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rcgen::{CertificateParams, KeyPair};

use crate::Failure;
pub(crate) use crate::figures::cells::{
    FILE_1_KIB, FILE_1_MIB, FILE_4_KIB, FILE_4_MIB, FILE_16_KIB, FILE_64_KIB, FILE_64_MIB,
    FILE_256_KIB, Key, Served, Version,
};

/// What the backend has: it keeps them in memory.
pub(crate) const FILES_PASSED_ON: [&Served; 3] = [&FILE_1_KIB, &FILE_16_KIB, &FILE_1_MIB];

pub(crate) const FILES: [&Served; 8] = [
    &FILE_1_KIB,
    &FILE_4_KIB,
    &FILE_16_KIB,
    &FILE_64_KIB,
    &FILE_256_KIB,
    &FILE_1_MIB,
    &FILE_4_MIB,
    &FILE_64_MIB,
];

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
