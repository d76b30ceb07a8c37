//! A checked configuration file to a [`TlsSetup`]: the certificates it names, loaded, with what is
//! wrong with them told at the line that names them.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::ProducesTickets;

use super::certificate::{self, CertificateError};
use super::client_auth::ClientAuthorities;
use super::client_config::{self, ClientTls};
use super::server_config::TlsSetup;
use crate::config::{
    Config, ConfigError, Loaded, Place, Problem, Site, SitePlaces, UpstreamTls, UpstreamTlsPlaces,
    Warning,
};

/// What serving a configuration takes, and what its owner should know.
#[derive(Debug)]
pub struct Prepared {
    /// The rustls configurations and certificates.
    pub tls: TlsSetup,
    /// By site: its certificate as it was loaded.
    pub certificates: Vec<certificate::Loaded>,
    /// The warnings of the certificates. Those of the file itself are in [`Loaded::warnings`].
    pub warnings: Vec<Warning>,
}

/// Loads and checks every site's certificate as of `now`. For `tickets` see [`TlsSetup::new`].
///
/// # Errors
/// Every certificate that cannot be served. A file that several sites name is told of once.
pub fn prepare(
    loaded: &Loaded,
    tickets: &Arc<dyn ProducesTickets>,
    now: SystemTime,
) -> Result<Prepared, ConfigError> {
    let mut certificates = Vec::with_capacity(loaded.config.sites.len());
    let mut problems = Vec::new();
    let mut warnings: Vec<Warning> = Vec::new();
    for (index, site) in loaded.config.sites.iter().enumerate() {
        let places = loaded.places.site(index);
        match certificate::load(site, now) {
            Ok(loaded) => {
                for warning in &loaded.warnings {
                    let is_key = warning.file() == site.key_file;
                    let place = places.map(|places| file_place(places, is_key));
                    warn_once(&mut warnings, place, warning);
                }
                certificates.push(loaded);
            }
            Err(error) => {
                let place = places.map(|places| error_place(&error, site, places));
                tell_once(&mut problems, place, error.to_string());
            }
        }
    }
    let authorities = client_authorities(loaded, &mut problems);
    let upstreams = upstreams(loaded, now, &mut problems, &mut warnings);
    if let Some(error) = ConfigError::of(problems) {
        return Err(error);
    }
    let tls = assemble(&loaded.config, &certificates, authorities, tickets)?;
    let tls = tls.with_upstreams(upstreams);
    Ok(Prepared {
        tls,
        certificates,
        warnings,
    })
}

/// The TLS side of `config` with these certificates, in the order of its sites. For the rest see
/// [`TlsSetup::new`].
///
/// # Errors
/// A policy that the TLS library refuses.
pub fn assemble(
    config: &Config,
    certificates: &[certificate::Loaded],
    client_authorities: ClientAuthorities,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<TlsSetup, Problem> {
    let certified = certificates.iter().map(|loaded| loaded.certified.clone());
    let setup = TlsSetup::new(config, certified.collect(), client_authorities, tickets);
    setup.map_err(|error| {
        Problem::new(
            None,
            format!("the TLS library refuses a policy: {error}"),
            "use the defaults of [tls] and [site.tls]",
        )
    })
}

/// The authorities that sites take certificates of clients from.
fn client_authorities(loaded: &Loaded, problems: &mut Vec<Problem>) -> ClientAuthorities {
    let mut authorities = ClientAuthorities::default();
    for (index, site) in loaded.config.sites.iter().enumerate() {
        let Some(auth) = &site.tls.client_auth else {
            continue;
        };
        if let Err(message) = authorities.load(&auth.authorities_file) {
            let places = loaded.places.site(index);
            let place = places.and_then(|places| places.client_authorities.clone());
            tell_once(problems, place, message);
        }
    }
    authorities
}

/// What each upstream is connected to with.
fn upstreams(
    loaded: &Loaded,
    now: SystemTime,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Vec<Option<Arc<ClientTls>>> {
    let mut upstreams = Vec::with_capacity(loaded.config.upstreams.len());
    for (index, upstream) in loaded.config.upstreams.iter().enumerate() {
        let Some(tls) = &upstream.tls else {
            upstreams.push(None);
            continue;
        };
        let places = loaded.places.upstream(index);
        match client_config::load(tls, now) {
            Ok((made, of_files)) => {
                for warning in of_files {
                    let place =
                        places.and_then(|places| upstream_place(tls, places, Some(warning.file())));
                    warn_once(warnings, place, &warning);
                }
                upstreams.push(Some(Arc::new(made)));
            }
            Err(error) => {
                let place = places.and_then(|places| upstream_place(tls, places, error.file()));
                tell_once(problems, place, error.to_string());
                upstreams.push(None);
            }
        }
    }
    upstreams
}

fn upstream_place(
    tls: &UpstreamTls,
    places: &UpstreamTlsPlaces,
    file: Option<&Path>,
) -> Option<Place> {
    let is = |own: Option<&Path>| own.is_some() && own == file;
    let identity = tls.identity.as_ref();
    let place = if is(tls.authorities_file.as_deref()) {
        &places.authorities
    } else if is(identity.map(|identity| identity.key_file.as_path())) {
        &places.key
    } else if is(identity.map(|identity| identity.certificate_file.as_path())) {
        &places.certificate
    } else {
        &places.table
    };
    place.clone()
}

fn tell_once(problems: &mut Vec<Problem>, place: Option<Place>, message: String) {
    if problems.iter().all(|known| known.message != message) {
        problems.push(Problem::new(place, message, ""));
    }
}

fn warn_once(warnings: &mut Vec<Warning>, place: Option<Place>, warning: &certificate::Warning) {
    let message = warning.to_string();
    if warnings.iter().all(|known| known.0.message != message) {
        warnings.push(Warning(Problem::new(place, message, "")));
    }
}

fn error_place(error: &CertificateError, site: &Site, places: &SitePlaces) -> Place {
    if let CertificateError::NamesNotCovered { names, .. } = error {
        let is_uncovered = |(name, _): &(&String, &Place)| names.contains(name);
        let mut named = site.names.iter().zip(&places.names);
        if let Some((_, place)) = named.find(is_uncovered) {
            return place.clone();
        }
    }
    // Chain and key may be one file: then what is wrong tells them apart.
    let is_key = if site.key_file == site.certificate_file {
        matches!(
            error,
            CertificateError::NoKey { .. }
                | CertificateError::KeyNotPem { .. }
                | CertificateError::KeyEncrypted { .. }
                | CertificateError::SeveralKeys { .. }
                | CertificateError::KeyUnusable { .. }
                | CertificateError::KeyMismatch { .. }
        )
    } else {
        error.file() == site.key_file
    };
    file_place(places, is_key)
}

fn file_place(places: &SitePlaces, is_key: bool) -> Place {
    if is_key {
        places.key.clone()
    } else {
        places.certificate.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::parse;
    use crate::tls::server_config::ticketer;

    struct Files(tempfile::TempDir);

    impl Files {
        /// "c.pem" and "k.pem" for a.test, and "other.pem", a key of its own.
        fn new() -> Self {
            let files = Self(tempfile::tempdir().unwrap());
            let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
            files.write("c.pem", &made.cert.pem());
            files.write("k.pem", &made.signing_key.serialize_pem());
            let other = rcgen::KeyPair::generate().unwrap();
            files.write("other.pem", &other.serialize_pem());
            files
        }

        fn write(&self, name: &str, text: &str) {
            use std::os::unix::fs::PermissionsExt;
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        }

        fn prepare(&self, sites: &str) -> Result<Prepared, ConfigError> {
            let text = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{sites}");
            let loaded = parse(text.as_bytes(), Path::new("p.toml"), self.0.path()).unwrap();
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            prepare(&loaded, &ticketer().unwrap(), now)
        }
    }

    fn site(names: &str, certificate: &str, key: &str) -> String {
        format!(
            "[[site]]\nnames = [{names}]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\
             root = \".\"\n"
        )
    }

    #[test]
    fn errors_point_at_the_line_that_names_the_cause() {
        let files = Files::new();
        for (text, place, what) in [
            (
                site("\"a.test\"", "none.pem", "k.pem"),
                "p.toml:5:15: error: ",
                "none.pem",
            ),
            (
                site("\"a.test\"", "c.pem", "other.pem"),
                "p.toml:6:7: error: ",
                "does not belong",
            ),
            (
                site("\"a.test\"", "c.pem", "c.pem"),
                "p.toml:6:7: error: ",
                "no private key",
            ),
            (
                site("\"a.test\"", "k.pem", "k.pem"),
                "p.toml:5:15: error: ",
                "no certificate",
            ),
            (
                site("\"a.test\", \"b.test\"", "c.pem", "k.pem"),
                "p.toml:4:20: error: ",
                "b.test",
            ),
        ] {
            let error = files.prepare(&text).unwrap_err();
            let shown = error.to_string();
            assert_eq!(error.problems().len(), 1, "{shown}");
            assert!(shown.starts_with(place), "{shown}");
            assert!(shown.contains(what), "{shown}");
        }
    }

    #[test]
    fn all_sites_are_looked_at_and_a_shared_mistake_is_told_once() {
        let files = Files::new();
        let text = [
            site("\"a.test\"", "none.pem", "k.pem"),
            site("\"b.test\"", "none.pem", "k.pem"),
            site("\"c.test\"", "c.pem", "k.pem"),
        ];
        let error = files.prepare(&text.concat()).unwrap_err();
        let lines: Vec<usize> = error
            .problems()
            .iter()
            .map(|problem| problem.place.as_ref().unwrap().line)
            .collect();
        assert_eq!(lines, [5, 14], "{error}");
    }

    #[test]
    fn warnings_point_into_the_file_too() {
        use std::os::unix::fs::PermissionsExt;
        let files = Files::new();
        let key = files.0.path().join("k.pem");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
        let prepared = files
            .prepare(&site("\"a.test\"", "c.pem", "k.pem"))
            .unwrap();
        let shown: Vec<String> = prepared.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert!(shown[0].starts_with("p.toml:6:7: warning: "), "{shown:?}");
        assert!(shown[0].contains("chmod 600"), "{shown:?}");
    }

    #[test]
    fn sites_with_equal_policies_share_one_and_names_lead_to_it() {
        let files = Files::new();
        let made = rcgen::generate_simple_self_signed(["b.test".to_owned()]).unwrap();
        files.write(
            "b.pem",
            &(made.cert.pem() + &made.signing_key.serialize_pem()),
        );
        let made = rcgen::generate_simple_self_signed(["*.c.test".to_owned()]).unwrap();
        files.write(
            "d.pem",
            &(made.cert.pem() + &made.signing_key.serialize_pem()),
        );
        let text = [
            site("\"a.test\"", "c.pem", "k.pem"),
            site("\"b.test\"", "b.pem", "b.pem") + "[site.tls]\nversion_min = \"1.3\"\n",
            site("\"*.c.test\"", "d.pem", "d.pem") + "default = true\n",
        ];
        let tls = files.prepare(&text.concat()).unwrap().tls;
        let policy = |name| tls.policy_for(Some(name));
        assert_eq!(policy("a.test"), policy("x.c.test"));
        assert_ne!(policy("a.test"), policy("b.test"));
        assert_eq!(tls.policy_for(None), policy("unknown.test"));
        assert!(tls.server_config(policy("b.test").unwrap()).is_some());
        assert!(tls.server_config(2).is_none());
    }

    #[test]
    fn without_a_default_unknown_names_have_no_policy() {
        let tls = Files::new()
            .prepare(&site("\"a.test\"", "c.pem", "k.pem"))
            .unwrap()
            .tls;
        assert_eq!(tls.policy_for(Some("a.test")), Some(0));
        assert_eq!(tls.policy_for(Some("b.test")), None);
        assert_eq!(tls.policy_for(None), None);
    }
}
