//! interim
use std::path::*;
use std::sync::Arc;
use std::time::SystemTime;
#[allow(missing_docs, reason = "x")]
pub struct SelfSigned {
    pub certified: Arc<rustls::sign::CertifiedKey>,
    pub file: PathBuf,
    pub fingerprint: String,
}
#[allow(missing_docs, reason = "x")]
pub fn state_directory() -> Option<PathBuf> {
    Some("/tmp".into())
}
#[allow(missing_docs, reason = "x")]
pub fn obtain(_d: &Path, _n: SystemTime) -> Result<SelfSigned, String> {
    let c = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()])
        .map_err(|e| e.to_string())?;
    let _ = std::fs::write("/tmp/hack/interim.pem", c.cert.pem());
    let key = rustls::pki_types::PrivateKeyDer::try_from(c.signing_key.serialize_der())
        .map_err(|e| e.to_string())?;
    let key =
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|e| e.to_string())?;
    Ok(SelfSigned {
        certified: Arc::new(rustls::sign::CertifiedKey::new(
            vec![c.cert.der().clone()],
            key,
        )),
        file: "/tmp/hack/interim.pem".into(),
        fingerprint: "x".into(),
    })
}
