//! Portcullis, with its defaults beyond what every server here is told.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Server, Site};
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

    fn command(&self, site: &Site) -> Result<Command, Failure> {
        let file = site.scratch.join("portcullis.toml");
        fs::write(&file, configuration(site, self.offload))?;
        let mut command = Command::new(&self.program);
        command.args(["--log", "warn", "run", "--config"]).arg(file);
        Ok(command)
    }
}

/// All clients have one address here, and idle connections are to stay: those two limits are the
/// only ones raised.
fn configuration(site: &Site, offload: &str) -> String {
    let (version, groups) = match site.version {
        Version::Tls12 => ("1.2", r#""x25519", "secp256r1""#),
        Version::Tls13 => ("1.3", r#""x25519""#),
    };
    format!(
        r#"[workers]
count = 1

[[listener]]
address = "{address}"

[[site]]
names = ["{SERVER_NAME}"]
default = true
certificate = "{chain}"
key = "{key}"
root = "{root}"

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
        root = site.root.display(),
        connections = site.connections_max,
    )
}

/// Longer than the opening of all idle connections takes.
const IDLE_MS: u32 = 600_000;
