//! static-web-server: files, by tokio, hyper and rustls; a server in Rust that people use.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Demand, Server, Service, Site};
use crate::Failure;
use crate::arguments::{Arguments, target};
use crate::tools;

#[derive(Debug)]
pub(super) struct StaticWebServer {
    pub(super) program: PathBuf,
}

/// Where the program is, built first where `arguments` allow that; otherwise a line that says how to
/// get it. Debian has no package of it.
pub(super) fn provide(arguments: &Arguments) -> Result<Result<PathBuf, String>, Failure> {
    let program = &arguments.static_web_server;
    if tools::locate(program).is_none() && arguments.install {
        let folder = target().join("peers");
        eprintln!("building {CRATE} in {}", folder.display());
        let status = Command::new("cargo")
            .args([
                "install",
                CRATE,
                "--locked",
                "--version",
                "^2",
                "--no-default-features",
            ])
            .args(["--features", "http2,http2-ring", "--root"])
            .arg(&folder)
            .arg("--target-dir")
            .arg(folder.join("build"))
            .status()
            .map_err(|error| format!("cannot run cargo: {error}"))?;
        if !status.success() {
            return Err(format!("cargo install {CRATE}: {status}").into());
        }
        // Half a gigabyte that nothing needs any more.
        fs::remove_dir_all(folder.join("build"))?;
    }
    Ok(tools::locate(program).ok_or_else(|| {
        format!(
            "{} is missing: with the option for installing, cargo builds it (crate {CRATE})",
            program.display()
        )
    }))
}

impl Server for StaticWebServer {
    fn name(&self) -> &'static str {
        CRATE
    }

    fn version(&self) -> Result<String, Failure> {
        // "Version:      2.44.1"
        let line = tools::first_line(Command::new(&self.program).arg("--version"))?;
        let version = line.split_ascii_whitespace().last().unwrap_or("?");
        Ok(format!("{CRATE} {version}"))
    }

    fn unable(&self, demand: Demand) -> Option<&'static str> {
        match demand.service {
            Service::Proxy | Service::Tunnel => Some("serves files only"),
            Service::Files | Service::OneAnswer if !demand.is_pinned_by_client => {
                Some("cannot be kept to one suite and group, nor can wrk")
            }
            Service::Files | Service::OneAnswer => None,
        }
    }

    /// Its suites and groups cannot be chosen.
    fn is_pinned(&self) -> bool {
        false
    }

    /// One worker: it starts one for each CPU that it may use. What blocks is on threads beside it.
    fn command(&self, site: &Site) -> Result<Command, Failure> {
        let mut command = Command::new(&self.program);
        command
            .args(["--host", &site.address.ip().to_string()])
            .args(["--port", &site.address.port().to_string()])
            .args(["--log-level", "error", "--http2", "true"])
            .args([
                "--security-headers",
                "false",
                "--cache-control-headers",
                "false",
            ])
            .args(["--threads-multiplier", "1", "--root"])
            .arg(&site.root)
            .arg("--http2-tls-cert")
            .arg(&site.certificate.chain_file)
            .arg("--http2-tls-key")
            .arg(&site.certificate.key_file);
        Ok(command)
    }
}

const CRATE: &str = "static-web-server";
