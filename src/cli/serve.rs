//! `portcullis serve`: a directory over HTTPS, with nothing configured.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use super::{FAILURE, ServeArguments, UNUSABLE};
use crate::config::Config;
use crate::config::serve::{Options, config_for};
use crate::control::{Control, StartError};
use crate::tls::client_auth::ClientAuthorities;
use crate::tls::self_signed::{self, SelfSigned};
use crate::tls::server_config::{TlsSetup, ticketer};

pub(super) fn run(arguments: ServeArguments) -> ExitCode {
    let root = match existing_directory(&arguments.root) {
        Ok(root) => root,
        Err(message) => return refuse(&message, UNUSABLE),
    };
    let certificate = match obtain_certificate() {
        Ok(certificate) => certificate,
        Err(message) => return refuse(&message, FAILURE),
    };
    match prepare(&arguments, &root, &certificate) {
        Ok(control) => {
            let announcement = announcement(&control, &root, &certificate);
            super::supervise(control, &announcement)
        }
        Err(error) => refuse(&error.to_string(), FAILURE),
    }
}

fn existing_directory(root: &Path) -> Result<PathBuf, String> {
    let shown = root.display();
    let absolute = root.canonicalize().map_err(|error| {
        format!("cannot serve {shown}: {error}\n  give a directory that exists")
    })?;
    if !absolute.is_dir() {
        return Err(format!("cannot serve {shown}: it is not a directory"));
    }
    Ok(absolute)
}

fn obtain_certificate() -> Result<SelfSigned, String> {
    let directory = self_signed::state_directory().ok_or(
        "no place to keep a certificate: neither XDG_STATE_HOME nor HOME is set to an absolute path",
    )?;
    self_signed::obtain(&directory, SystemTime::now()).map_err(|error| error.to_string())
}

/// Opens the first set of listeners that can be opened.
fn prepare(
    arguments: &ServeArguments,
    root: &Path,
    certificate: &SelfSigned,
) -> Result<Control, StartError> {
    let plan = config_for(Options {
        root: root.to_owned(),
        listen: arguments.listen.clone(),
        offload: arguments.offload.into(),
        workers: arguments.workers.map(Into::into),
        certificate_file: certificate.file.clone(),
        key_file: certificate.file.clone(),
    });
    let mut result = None;
    for listeners in plan.candidates {
        let config = Config {
            listeners,
            ..plan.config.clone()
        };
        let tls = ticketer()
            .and_then(|tickets| {
                let certificates = vec![certificate.certified.clone()];
                TlsSetup::new(
                    &config,
                    certificates,
                    ClientAuthorities::default(),
                    &tickets,
                )
            })
            .map_err(|error| StartError::Io("set up TLS", io::Error::other(error)))?;
        match Control::prepare(config, tls, None) {
            Ok(control) => return Ok(control),
            Err(error) => result = Some(error),
        }
    }
    // The last candidate's error: that it cannot have 443 either is no news to an ordinary user.
    Err(result.unwrap_or_else(|| StartError::Io("listen", io::ErrorKind::InvalidInput.into())))
}

fn announcement(control: &Control, root: &Path, certificate: &SelfSigned) -> String {
    format!(
        "Portcullis serves {}\n{}certificate: {}\nfingerprint (SHA-256): {}\n",
        root.display(),
        control.describe(),
        certificate.file.display(),
        certificate.fingerprint
    )
}

fn refuse(message: &str, code: u8) -> ExitCode {
    eprintln!("portcullis: {message}");
    ExitCode::from(code)
}
