//! Certificates of clients: who signs those that are taken, and what servers behind are told of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::certificate;
use crate::config::ClientAuth;

/// The authorities of a configuration's policies, by their file.
#[derive(Clone, Debug, Default)]
pub struct ClientAuthorities(HashMap<PathBuf, Arc<RootCertStore>>);

impl ClientAuthorities {
    /// Loads the authorities in `file`, if they are not loaded yet.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load(&mut self, file: &Path) -> Result<(), String> {
        if self.0.contains_key(file) {
            return Ok(());
        }
        let mut roots = RootCertStore::empty();
        for authority in certificate::load_authorities(file).map_err(|error| error.to_string())? {
            roots.add(authority).map_err(|error| {
                let file = file.display();
                format!("{file}: the TLS library refuses an authority: {error}")
            })?;
        }
        self.0.insert(file.to_owned(), Arc::new(roots));
        Ok(())
    }

    /// What takes the certificates that `auth` wants.
    ///
    /// # Errors
    /// When its file was not loaded, or the TLS library refuses what it holds.
    pub(super) fn verifier(
        &self,
        auth: &ClientAuth,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        let Some(roots) = self.0.get(&auth.authorities_file) else {
            return Err(rustls::Error::General("authorities not loaded".into()));
        };
        let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider);
        let builder = match auth.is_required {
            true => builder,
            false => builder.allow_unauthenticated(),
        };
        let refused = |error| rustls::Error::General(format!("client authorities: {error}"));
        builder.build().map_err(refused)
    }
}

/// The first common name in the subject of `certificate`, which has been verified.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}
