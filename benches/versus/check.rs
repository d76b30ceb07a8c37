//! Before anything is measured: every server gives the same bytes over the same kind of session.

use std::fs;
use std::process::Command;

use crate::Failure;
use crate::cells::endpoint;
use crate::client;
use crate::fixture::{Fixture, Key, SERVER_NAME, Served, Version};
use crate::servers::{Running, Setting};
use crate::tools;

/// What the checks saw.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The length of the response's head for the smallest file.
    pub(crate) head_bytes: usize,
    /// What `openssl s_client`, which offers everything, was given.
    pub(crate) session: Vec<String>,
}

/// Fetches `files` and compares them, and has openssl say what the server chooses.
pub(crate) fn check(
    server: &Running,
    setting: &Setting,
    files: Vec<&Served>,
    fixture: &Fixture,
) -> Result<Checked, Failure> {
    let (key, version) = (setting.key, setting.version);
    let mut heads = Vec::with_capacity(files.len());
    for file in files {
        let response = if server.is_plain {
            client::fetch_plain(server.address, file)
        } else {
            client::fetch(&endpoint(server, (key, version), file, fixture))
        };
        let response =
            response.map_err(|error| format!("{}, {}: {error}", server.name, file.name))?;
        if response.body != fs::read(fixture.root().join(file.name))? {
            return Err(format!("{} serves other bytes for {}", server.name, file.name).into());
        }
        heads.push(response.head_bytes);
    }
    let session = if server.is_plain || !server.is_pinned {
        Vec::new()
    } else {
        session(server, key, version)?
    };
    Ok(Checked {
        head_bytes: heads.into_iter().next().unwrap_or(0),
        session,
    })
}

/// The session that openssl gets, when it is the one every server is pinned to.
fn session(server: &Running, key: Key, version: Version) -> Result<Vec<String>, Failure> {
    let (protocol, suite) = match (version, key) {
        (Version::Tls13, _) => ("TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        (Version::Tls12, Key::P256) => ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (Version::Tls12, Key::Rsa2048) => ("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256"),
    };
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-brief", "-servername", SERVER_NAME, "-connect"])
        .arg(server.address.to_string());
    let text = tools::all_output(&mut command)?;
    let labels = [
        "Protocol version",
        "Ciphersuite",
        "Signature type",
        "Hash used",
    ];
    // OpenSSL 3.0: "Server Temp Key: X25519, 253 bits"; later: "Negotiated TLS1.3 group: X25519".
    let is_group = |line: &str| line.contains("Temp Key") || line.contains("group:");
    let found: Vec<String> = text
        .lines()
        .filter(|line| labels.iter().any(|label| line.starts_with(label)) || is_group(line))
        .map(str::to_owned)
        .collect();
    let has = |line: String| found.contains(&line);
    let is_x25519 =
        |line: &String| is_group(line) && line.contains(": X25519") && !line.contains("MLKEM");
    if !has(format!("Protocol version: {protocol}"))
        || !has(format!("Ciphersuite: {suite}"))
        || !found.iter().any(is_x25519)
    {
        return Err(format!(
            "{} does not keep to {protocol}, {suite}, X25519; openssl s_client got:\n{text}",
            server.name
        )
        .into());
    }
    Ok(found)
}
