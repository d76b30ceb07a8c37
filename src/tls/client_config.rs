//! What servers behind this one are connected to with: the authorities whose certificates are taken,
//! our own certificate, the sessions that can be resumed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::certificate::{self, CertificateError, Warning};
use super::server_config::provider;
use crate::config::{TlsPolicy, TlsVersion, UpstreamTls};
use crate::limits::UPSTREAM_SESSIONS_MAX;

/// What the servers of one group are connected to with.
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// Tells apart what was made of other files.
    digest: digest::Digest,
}

/// Why TLS cannot be spoken with a group.
#[derive(Debug)]
pub enum ClientTlsError {
    /// A file cannot be used.
    File(CertificateError),
    /// The TLS library refuses what the files say.
    Library(rustls::Error),
}

/// Loads the files that `tls` names and checks them as of `now`.
///
/// # Errors
/// See [`ClientTlsError`].
pub fn load(
    tls: &UpstreamTls,
    now: SystemTime,
) -> Result<(ClientTls, Vec<Warning>), ClientTlsError> {
    let authorities = match &tls.authorities_file {
        Some(file) => Some(certificate::load_authorities(file).map_err(ClientTlsError::File)?),
        None => None,
    };
    let identity = match &tls.identity {
        Some(files) => Some(
            certificate::load_files(&files.certificate_file, &files.key_file, &[], now)
                .map_err(ClientTlsError::File)?,
        ),
        None => None,
    };
    let (certified, warnings) = match identity {
        Some(loaded) => (Some(loaded.certified), loaded.warnings),
        None => (None, Vec::new()),
    };
    let digest = digest_of(authorities.as_deref(), certified.as_deref());
    let config = config(tls, authorities, certified).map_err(ClientTlsError::Library)?;
    let made = ClientTls {
        config: Arc::new(config),
        digest,
    };
    Ok((made, warnings))
}

impl ClientTls {
    /// The rustls configuration. It offers no application protocol by itself.
    pub fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// Whether `other` was made of the same certificates.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest.as_ref() == other.digest.as_ref()
    }
}

impl fmt::Debug for ClientTls {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

impl ClientTlsError {
    /// The file that is to be changed or replaced, where it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(error) => Some(error.file()),
            Self::Library(_) => None,
        }
    }
}

impl fmt::Display for ClientTlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Library(error) => write!(f, "the TLS library refuses it: {error}"),
        }
    }
}

impl std::error::Error for ClientTlsError {}

fn config(
    tls: &UpstreamTls,
    authorities: Option<Vec<CertificateDer<'static>>>,
    certified: Option<Arc<CertifiedKey>>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(provider(&TlsPolicy::default()));
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.version_min {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let builder = match tls.verifies {
        true => builder.with_root_certificates(roots(authorities)?),
        false => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
    };
    let mut config = match certified {
        Some(certified) => {
            let own = SingleCertAndKey::from(CertifiedKey::clone(&certified));
            builder.with_client_cert_resolver(Arc::new(own))
        }
        None => builder.with_no_client_auth(),
    };
    // The record layer is ours or the kernel's after the handshake.
    config.enable_secret_extraction = true;
    config.resumption = Resumption::in_memory_sessions(UPSTREAM_SESSIONS_MAX);
    Ok(config)
}

fn roots(
    authorities: Option<Vec<CertificateDer<'static>>>,
) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    match authorities {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(authorities) => {
            for authority in authorities {
                roots.add(authority)?;
            }
        }
    }
    Ok(roots)
}

fn digest_of(
    authorities: Option<&[CertificateDer<'_>]>,
    certified: Option<&CertifiedKey>,
) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    let own = certified.map(|certified| certified.cert.as_slice());
    for certificates in [authorities, own] {
        let certificates = certificates.unwrap_or_default();
        context.update(&certificates.len().to_be_bytes());
        for certificate in certificates {
            context.update(&certificate.len().to_be_bytes());
            context.update(certificate);
        }
    }
    context.finish()
}

/// Takes every certificate, as the operator has been warned of. That its owner has the key is still
/// proved, so that nothing but a wrong name or issuer goes unnoticed.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
