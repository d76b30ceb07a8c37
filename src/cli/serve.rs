//! `portcullis serve`: a directory over HTTPS, with nothing configured.

use std::io::{self, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use super::{FAILURE, ServeArguments, UNUSABLE};
use crate::config::{
    Config, Files, Limits, Listener, Offload, Service, Session, Site, Symlinks, Tcp, Timeouts,
    TlsPolicy,
};
use crate::control::{Control, StartError};
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
        Ok(control) => match announce(&control, &root, &certificate) {
            Ok(()) => super::supervise(control),
            Err(error) => refuse(
                &format!("cannot write to standard output: {error}"),
                FAILURE,
            ),
        },
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
    let candidates = match arguments.listen.as_slice() {
        [] => vec![vec![everywhere(443)], vec![everywhere(8443)]],
        addresses => vec![addresses.to_vec()],
    };
    let mut result = None;
    for addresses in candidates {
        let config = config_for(arguments, root, &addresses);
        let tls = ticketer()
            .and_then(|tickets| {
                TlsSetup::new(&config, vec![certificate.certified.clone()], &tickets)
            })
            .map_err(|error| StartError::Io("set up TLS", io::Error::other(error)))?;
        match Control::prepare(config, tls) {
            Ok(control) => return Ok(control),
            Err(error) => result = Some(error),
        }
    }
    // The last candidate's error: that it cannot have 443 either is no news to an ordinary user.
    Err(result.unwrap_or_else(|| StartError::Io("listen", io::ErrorKind::InvalidInput.into())))
}

/// All addresses of both families.
fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

fn config_for(arguments: &ServeArguments, root: &Path, addresses: &[SocketAddr]) -> Config {
    let site = Site {
        names: vec!["localhost".to_owned()],
        certificate_file: PathBuf::new(),
        key_file: PathBuf::new(),
        tls: TlsPolicy::default(),
        hsts: None,
        files: Files {
            root: root.to_owned(),
            index: vec!["index.html".to_owned()],
            dotfiles: false,
            symlinks: Symlinks::Beneath,
        },
    };
    Config {
        workers: arguments.workers.map(Into::into),
        listeners: addresses.iter().map(|&address| https(address)).collect(),
        sites: vec![Arc::new(site)],
        default_site: Some(0),
        offload: Offload {
            policy: arguments.offload.into(),
            ..Offload::default()
        },
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        tcp: Tcp::default(),
        session: Session::default(),
    }
}

fn https(address: SocketAddr) -> Listener {
    Listener {
        address,
        ipv6_only: false,
        backlog: BACKLOG,
        service: Service::Https,
    }
}

fn announce(control: &Control, root: &Path, certificate: &SelfSigned) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "Portcullis serves {}", root.display())?;
    control.describe(&mut out)?;
    writeln!(out, "certificate: {}", certificate.file.display())?;
    writeln!(out, "fingerprint (SHA-256): {}", certificate.fingerprint)?;
    out.flush()
}

fn refuse(message: &str, code: u8) -> ExitCode {
    eprintln!("portcullis: {message}");
    ExitCode::from(code)
}

/// The accept queue's length; the kernel caps it at net.core.somaxconn.
const BACKLOG: u32 = 4096;
