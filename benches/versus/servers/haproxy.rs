//! HAProxy: requests and bytes passed on, and one small answer out of memory; it serves no files.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Demand, Server, Service, Site};
use crate::Failure;
use crate::fixture::{FILE_1_KIB, Version};
use crate::tools;

#[derive(Debug)]
pub(super) struct Haproxy {
    pub(super) program: PathBuf,
}

impl Server for Haproxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn version(&self) -> Result<String, Failure> {
        let text = tools::all_output(Command::new(&self.program).arg("-vv"))?;
        let library = text
            .lines()
            .find_map(|line| line.strip_prefix("Running on OpenSSL version : "))
            .map_or_else(String::new, |version| format!(" with {version}"));
        let first = text.lines().next().unwrap_or_default();
        let version = first.split(" - ").next().unwrap_or_default();
        Ok(format!("{version}{library}"))
    }

    fn unable(&self, demand: Demand) -> Option<&'static str> {
        match demand.service {
            Service::Files => Some("serves no files"),
            Service::OneAnswer | Service::Proxy | Service::Tunnel => None,
        }
    }

    fn command(&self, site: &Site) -> Result<Command, Failure> {
        let pair = site.scratch.join("pair.pem");
        write_pair(site, &pair)?;
        let file = site.scratch.join("haproxy.cfg");
        fs::write(&file, configuration(site, &pair)?)?;
        let mut command = Command::new(&self.program);
        // In the foreground, without a master.
        command.arg("-db").arg("-f").arg(file);
        Ok(command)
    }
}

/// HAProxy wants a certificate and its key in one file.
fn write_pair(site: &Site, pair: &Path) -> Result<(), Failure> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(pair)?;
    file.write_all(&fs::read(&site.certificate.chain_file)?)?;
    file.write_all(&fs::read(&site.certificate.key_file)?)?;
    Ok(())
}

/// Connections to the backend are shared among clients and kept for as long as a run takes. No
/// session cache: tickets need none, and storing costs time.
fn configuration(site: &Site, pair: &Path) -> Result<String, Failure> {
    let (version, groups) = match site.version {
        Version::Tls12 => ("TLSv1.2", "X25519:P-256"),
        Version::Tls13 => ("TLSv1.3", "X25519"),
    };
    let (mode, protocols) = match site.service {
        Service::Tunnel => ("tcp", "http/1.1"),
        Service::Files | Service::OneAnswer | Service::Proxy => ("http", "h2,http/1.1"),
    };
    let mut text = format!(
        r#"global
    nbthread 1
    maxconn {connections}
    no strict-limits
    tune.ssl.cachesize 0
    ssl-default-bind-ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-bind-curves {groups}
    ssl-default-bind-options ssl-min-ver {version} ssl-max-ver {version}

defaults
    mode {mode}
    maxconn {connections}
    backlog 4096
    timeout connect 10s
    timeout client 600s
    timeout server 600s
    timeout http-request 600s
    timeout http-keep-alive 600s

frontend clients
    bind {address} ssl crt "{pair}" alpn {protocols}
"#,
        connections = site.connections_max,
        address = site.address,
        pair = pair.display(),
    );
    match site.service {
        Service::Files | Service::OneAnswer => writeln!(
            text,
            "    http-request return status 200 content-type application/octet-stream file \"{}\"",
            site.root.join(FILE_1_KIB.name).display()
        )?,
        Service::Proxy => write!(
            text,
            "    default_backend servers\n\nbackend servers\n    http-reuse always\n    server \
             one {} pool-purge-delay 600s\n",
            site.backend()?
        )?,
        Service::Tunnel => write!(
            text,
            "    default_backend servers\n\nbackend servers\n    server one {}\n",
            site.backend()?
        )?,
    }
    Ok(text)
}
