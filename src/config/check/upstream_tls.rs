//! `[upstream.tls]`: what is wanted of servers' certificates, and what is shown to them.

use std::net::IpAddr;
use std::path::PathBuf;

use toml::Spanned;

use super::Checker;
use super::host_name::host_name;
use super::tls::VERSIONS;
use crate::config::raw::{RawUpstreamTls, Value};
use crate::config::{
    TlsVersion, UpstreamAddress, UpstreamIdentity, UpstreamServer, UpstreamTls, UpstreamTlsPlaces,
};

impl Checker<'_> {
    pub(super) fn upstream_tls_places(
        &self,
        raw: Option<&Spanned<RawUpstreamTls>>,
    ) -> UpstreamTlsPlaces {
        let Some(raw) = raw else {
            return UpstreamTlsPlaces::default();
        };
        let place = |value: &Value<String>| value.as_ref().map(|value| self.place(value));
        let tls = raw.get_ref();
        UpstreamTlsPlaces {
            table: Some(self.place(raw)),
            authorities: place(&tls.ca),
            certificate: place(&tls.certificate),
            key: place(&tls.key),
        }
    }

    pub(super) fn upstream_tls(
        &mut self,
        raw: Spanned<RawUpstreamTls>,
        servers: &[UpstreamServer],
    ) -> UpstreamTls {
        let header = raw.span();
        let raw = raw.into_inner();
        let server_name = self.certificate_name(raw.server_name.as_ref());
        let has_socket =
            |server: &UpstreamServer| matches!(server.address, UpstreamAddress::Unix(_));
        if raw.server_name.is_none() && servers.iter().any(has_socket) {
            self.problem(
                header,
                "a server at a Unix socket has no name that its certificate could have",
                "add server_name = \"app.example.org\", the name in the servers' certificates",
            );
        }
        let ca_written = raw.ca.as_ref().map(Spanned::span);
        let authorities_file = raw.ca.and_then(|ca| self.file_named("ca", &ca));
        let identity = self.identity(raw.certificate, raw.key);
        let version_min =
            self.choice_or("version_min", raw.version_min, &VERSIONS, TlsVersion::Tls12);
        let alpn = self.alpn(raw.alpn.as_ref());
        let accepts_any = raw.danger_accept_any_certificate;
        let is_careless = accepts_any.as_ref().is_some_and(|any| *any.get_ref());
        if let Some(any) = accepts_any.filter(|_| is_careless) {
            match ca_written {
                Some(ca) => self.problem(
                    ca,
                    "`ca` beside `danger_accept_any_certificate`, which takes no notice of it",
                    "remove `danger_accept_any_certificate`: the certificates are verified then",
                ),
                None => self.warning(
                    any.span(),
                    "anybody on the way can pretend to be these servers and read everything",
                    "remove it, and name the authority of their certificates: ca = \"ca.pem\"",
                ),
            }
        }
        UpstreamTls {
            server_name,
            authorities_file,
            identity,
            version_min,
            alpn,
            verifies: !is_careless,
        }
    }

    fn certificate_name(&mut self, written: Option<&Spanned<String>>) -> Option<String> {
        let written = written?;
        if let Ok(address) = written.get_ref().parse::<IpAddr>() {
            return Some(address.to_string());
        }
        let (message, remedy) = match host_name(written.get_ref()) {
            Ok(name) if !name.starts_with("*.") => return Some(name),
            Ok(name) => (
                format!("{name:?} is no server's name"),
                "write one name that the certificate covers, without a wildcard".to_owned(),
            ),
            Err(wrong) => wrong,
        };
        self.problem(written.span(), message, remedy);
        None
    }

    fn identity(
        &mut self,
        certificate: Value<String>,
        key: Value<String>,
    ) -> Option<UpstreamIdentity> {
        let (present, missing) = match (&certificate, &key) {
            (Some(_), Some(_)) | (None, None) => {
                let (certificate, key) = (certificate?, key?);
                let certificate_file = self.file_named("certificate", &certificate);
                let key_file = self.file_named("key", &key);
                return Some(UpstreamIdentity {
                    certificate_file: certificate_file?,
                    key_file: key_file?,
                });
            }
            (Some(certificate), None) => (certificate, "key"),
            (None, Some(key)) => (key, "certificate"),
        };
        self.problem(
            present.span(),
            format!("a certificate of our own without its `{missing}`"),
            format!("add {missing} = \"client-{missing}.pem\", or remove both"),
        );
        None
    }

    /// The path that `written` says; what is in the file is looked at later.
    pub(super) fn file_named(&mut self, key: &str, written: &Spanned<String>) -> Option<PathBuf> {
        let path = written.get_ref();
        if path.is_empty() || path.contains('\0') {
            self.problem(
                written.span(),
                format!("`{key}` is no path"),
                format!("write one, as {key} = \"{key}.pem\""),
            );
            return None;
        }
        Some(self.base.join(path))
    }
}
