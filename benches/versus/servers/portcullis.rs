//! Portcullis, with its defaults beyond what every server here is told.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Demand, Server, Service, Site};
use crate::Failure;
use crate::fixture::{SERVER_NAME, Version};
use crate::tools;

#[derive(Debug)]
pub(super) struct Portcullis {
    pub(super) name: &'static str,
    /// `offload.policy`.
    pub(super) offload: &'static str,
    pub(super) program: PathBuf,
}

impl Server for Portcullis {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> Result<String, Failure> {
        tools::first_line(Command::new(&self.program).arg("--version"))
    }

    fn unable(&self, _demand: Demand) -> Option<&'static str> {
        None
    }

    fn asks_for_kernel_tls(&self) -> bool {
        self.offload == "always"
    }

    fn command(&self, site: &Site) -> Result<Command, Failure> {
        let file = site.scratch.join("portcullis.toml");
        fs::write(&file, configuration(site, self.offload)?)?;
        let mut command = Command::new(&self.program);
        command.args(["--log", "warn", "run", "--config"]).arg(file);
        Ok(command)
    }
}

/// All clients have one address here, and idle connections are to stay, on both sides: those limits
/// are the only ones raised.
fn configuration(site: &Site, offload: &str) -> Result<String, Failure> {
    let (version, groups) = match site.version {
        Version::Tls12 => ("1.2", r#""x25519", "secp256r1""#),
        Version::Tls13 => ("1.3", r#""x25519""#),
    };
    let service = match site.service {
        Service::Files | Service::OneAnswer => format!("root = \"{}\"", site.root.display()),
        Service::Tunnel => "tunnel = \"backend\"\nalpn = [\"http/1.1\"]".to_owned(),
        Service::Proxy => "[[site.route]]\nprefix = \"/\"\nupstream = \"backend\"".to_owned(),
    };
    let upstream = match site.service {
        Service::Files | Service::OneAnswer => String::new(),
        Service::Proxy | Service::Tunnel => upstream(site)?,
    };
    Ok(format!(
        r#"[workers]
count = 1

[[listener]]
address = "{address}"

[[site]]
names = ["{SERVER_NAME}"]
default = true
certificate = "{chain}"
key = "{key}"
{service}
{upstream}
[tls]
version_min = "{version}"
version_max = "{version}"
suites = ["aes-128-gcm"]
groups = [{groups}]

[offload]
policy = "{offload}"

[limits]
connections_per_address_max = {connections}

[timeouts]
idle_ms = {IDLE_MS}
"#,
        address = site.address,
        chain = site.certificate.chain_file.display(),
        key = site.certificate.key_file.display(),
        connections = site.connections_max,
    ))
}

fn upstream(site: &Site) -> Result<String, Failure> {
    Ok(format!(
        r#"
[[upstream]]
name = "backend"

[[upstream.server]]
address = "tcp://{backend}"

[upstream.http]
idle_connections_max = 1024
idle_connection_ms = {IDLE_MS}
"#,
        backend = site.backend()?,
    ))
}

/// Longer than the opening of all idle connections takes.
const IDLE_MS: u32 = 600_000;
