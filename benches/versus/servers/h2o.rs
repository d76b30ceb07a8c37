//! H2O, serving files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use super::{Demand, Server, Service, Site};
use crate::Failure;
use crate::fixture::Version;
use crate::tools;

#[derive(Debug)]
pub(super) struct H2o {
    pub(super) program: PathBuf,
}

impl Server for H2o {
    fn name(&self) -> &'static str {
        "h2o"
    }

    fn version(&self) -> Result<String, Failure> {
        let text = tools::all_output(Command::new(&self.program).arg("--version"))?;
        let lines: Vec<&str> = text.lines().map(str::trim).take(2).collect();
        Ok(lines.join(", "))
    }

    fn unable(&self, demand: Demand) -> Option<&'static str> {
        if demand.resumes == Some(Version::Tls13) {
            return Some("gives no new ticket for one that was used");
        }
        match demand.service {
            Service::Files | Service::OneAnswer => None,
            Service::Proxy | Service::Tunnel => Some("compared as a server of files only"),
        }
    }

    fn command(&self, site: &Site) -> Result<Command, Failure> {
        let file = site.scratch.join("h2o.yaml");
        fs::write(&file, configuration(site)?)?;
        let library = site.scratch.join("openssl.cnf");
        fs::write(&library, of_the_library(site))?;
        let mut command = Command::new(&self.program);
        command
            .args(["-m", "worker", "-c"])
            .arg(file)
            .env("OPENSSL_CONF", library);
        Ok(command)
    }
}

fn configuration(site: &Site) -> Result<String, Failure> {
    // It refuses to serve as root unless told to.
    let user = match fs::metadata("/proc/self")?.uid() {
        0 => "user: root",
        _ => "",
    };
    Ok(format!(
        r#"{user}
num-threads: 1
num-name-resolution-threads: 1
max-connections: {connections}
tcp-fastopen: 0
http1-request-timeout: 600
http2-idle-timeout: 600
ssl-session-resumption:
  mode: ticket
listen:
  host: {ip}
  port: {port}
  ssl:
    certificate-file: "{chain}"
    key-file: "{key}"
    minimum-version: TLSv1.2
    cipher-suite: "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"
    cipher-preference: server
    ocsp-update-interval: 0
hosts:
  default:
    paths:
      /:
        file.dir: "{root}"
"#,
        connections = site.connections_max,
        ip = site.address.ip(),
        port = site.address.port(),
        chain = site.certificate.chain_file.display(),
        key = site.certificate.key_file.display(),
        root = site.root.display(),
    ))
}

/// H2O's own configuration knows neither groups nor the suites of TLS 1.3, but OpenSSL's own does.
fn of_the_library(site: &Site) -> String {
    let (version, groups) = match site.version {
        Version::Tls12 => ("TLSv1.2", "X25519:P-256"),
        Version::Tls13 => ("TLSv1.3", "X25519"),
    };
    format!(
        "openssl_conf = all\n\n[all]\nssl_conf = ssl\n\n[ssl]\nsystem_default = every\n\n[every]\n\
         MinProtocol = {version}\nMaxProtocol = {version}\n\
         Ciphersuites = TLS_AES_128_GCM_SHA256\nGroups = {groups}\n"
    )
}
