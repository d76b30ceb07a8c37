//! `portcullis serve` and `portcullis doctor`, as someone meets them who has configured nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::Policy;
use crate::support::files::{KIB, MIB, assert_same_bytes, content, write_content};
use crate::support::for_each_policy;
use crate::support::process::{CURL, OPENSSL};
use crate::support::server::Server;

for_each_policy!(a_directory_is_served_with_a_certificate_made_for_it);

fn a_directory_is_served_with_a_certificate_made_for_it(policy: Policy) {
    let state = tempfile::tempdir().unwrap();
    let site = site();
    let mut fingerprint = None;
    // The second start finds the certificate of the first.
    for _ in 0..2 {
        let server = serve(site.path(), state.path(), &["--offload", policy.name()]);
        let certificate = PathBuf::from(server.announced("certificate: "));
        for length in [KIB, MIB] {
            let arguments = [
                "-sS",
                "--fail",
                "--cacert",
                certificate.to_str().unwrap(),
                "--resolve",
                &server.resolve("localhost"),
                &server.url(&format!("/{length}")),
            ];
            let finished = CURL.run(arguments).success();
            assert_same_bytes(&finished.stdout, content(length), "by curl");
        }
        assert_eq!(mode(&certificate) & 0o077, 0, "the file has the key");
        let announced = server.announced("fingerprint (SHA-256): ");
        assert_eq!(announced, fingerprint_of(&certificate));
        assert_eq!(*fingerprint.get_or_insert(announced.clone()), announced);
    }
}

#[test]
fn a_port_in_use_is_named_with_its_remedy() {
    let (state, site) = (tempfile::tempdir().unwrap(), site());
    let server = serve(site.path(), state.path(), &[]);
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["serve", "--listen", &server.address.to_string()])
        .arg(site.path())
        .env("XDG_STATE_HOME", state.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains(&server.address.to_string()), "{message}");
    assert!(message.contains("ss -ltnp"), "{message}");
}

#[test]
fn the_log_can_be_json() {
    let (state, site) = (tempfile::tempdir().unwrap(), site());
    let server = serve(site.path(), state.path(), &["--log-format", "json"]);
    server.signal(libc::SIGUSR2);
    let line = server.wait_for_log("counters ");
    let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["level"], "INFO", "{line}");
    let message = entry["message"].as_str().unwrap();
    assert!(
        message.starts_with("counters connections_accepted="),
        "{line}"
    );
    let time = entry["timestamp"].as_str().unwrap();
    assert!(time.ends_with('Z'), "{line}");
}

#[test]
fn the_doctor_looks_at_all_of_this_machine() {
    let doctor = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.arg("doctor").args(options).output().unwrap()
    };
    let output = doctor(&["--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let code = output.status.code().map(i64::from);
    assert_eq!(report["exit_code"].as_i64(), code);
    let findings = report["findings"].as_array().unwrap();
    for subject in [
        "kernel",
        "io_uring",
        "kernel TLS",
        "interfaces",
        "pipes",
        "open files",
        "locked memory",
        "accept queue",
        "ports",
        "CPUs",
        "instructions",
        "clock",
    ] {
        let found = findings.iter().any(|finding| finding["subject"] == subject);
        assert!(found, "nothing about {subject}: {report}");
    }
    for finding in findings {
        assert_ne!(finding["found"], "", "{finding}");
        assert_eq!(
            finding["means"] == "",
            finding["level"] == "ok",
            "{finding}"
        );
        let guide = finding["guide"].as_str().unwrap();
        assert!(
            guide.starts_with("tuning/") && guide.ends_with(".md"),
            "{finding}"
        );
    }
    let text = doctor(&[]);
    assert_eq!(text.status, output.status);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(report["verdict"].as_str().unwrap()), "{text}");
}

#[test]
fn a_root_that_is_not_there_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["serve", "--listen", "127.0.0.1:0", "/nonexistent"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("/nonexistent"), "{message}");
}

/// Starts `portcullis serve` for `site`.
fn serve(site: &Path, state: &Path, options: &[&str]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--log", "debug"]);
    command.args(options).arg(site).env("XDG_STATE_HOME", state);
    Server::start(command, folder)
}

fn site() -> TempDir {
    let site = tempfile::tempdir().unwrap();
    for length in [KIB, MIB] {
        write_content(&site.path().join(length.to_string()), length);
    }
    site
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode()
}

/// The fingerprint by openssl, as the program prints it.
fn fingerprint_of(certificate: &Path) -> String {
    let path = certificate.to_str().unwrap();
    let finished = OPENSSL
        .run(["x509", "-noout", "-fingerprint", "-sha256", "-in", path])
        .success();
    let text = finished.text();
    let (_, fingerprint) = text.trim().split_once('=').unwrap();
    fingerprint.to_owned()
}
