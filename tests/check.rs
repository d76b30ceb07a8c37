//! `portcullis check` as an operator runs it.

#![expect(
    clippy::unwrap_used,
    reason = "in a test's helpers a panic is the verdict"
)]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const GOOD: &str = "[[listener]]\naddress = \"ADDRESS\"\n[[site]]\nnames = [\"a.test\"]\n\
                    certificate = \"c.pem\"\nkey = \"k.pem\"\nroot = \".\"\n";

/// A directory with a certificate for a.test and `text` as its configuration.
fn directory(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("c.pem", &made.cert.pem());
    write("k.pem", &made.signing_key.serialize_pem());
    write("p.toml", text);
    directory
}

fn portcullis(arguments: &[&str], directory: &Path) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn files(directory: &Path) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_usable_file_is_summarized_and_nothing_is_touched() {
    // Somebody else has the address: `check` must not mind.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let limits = "[limits]\nconnections_per_address_max = 10\nconnections_per_worker_max = 1000\n\
                  header_bytes_max = 1048576\n[http2]\nconcurrent_streams_max = 1\n";
    let directory = directory(&(GOOD.replace("ADDRESS", &address) + limits));
    let before = files(directory.path());
    let (code, out, err) = portcullis(&["check", "--config", "p.toml"], directory.path());
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert_eq!(
        out,
        "p.toml can be served: 1 listener, 1 site with 1 name\n\
         what clients send can take 2 MiB for each connection, 12 MiB for each address, \
         1173 MiB for each worker\n"
    );
    assert_eq!(files(directory.path()), before);
}

#[test]
fn a_warning_does_not_refuse() {
    let directory = directory(&GOOD.replace("ADDRESS", "127.0.0.1:443"));
    let key = directory.path().join("k.pem");
    std::fs::set_permissions(key, PermissionsExt::from_mode(0o640)).unwrap();
    let (code, out, err) = portcullis(&["check", "--config", "p.toml"], directory.path());
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("can be served"), "{out}");
    assert!(err.starts_with("p.toml:6:7: warning: "), "{err}");
}

#[test]
fn every_kind_of_error_ends_with_exit_code_2_and_one_message() {
    let good = GOOD.replace("ADDRESS", "127.0.0.1:443");
    for (text, message) in [
        (
            "[[listener\n".to_owned(),
            "p.toml:1:11: error: this is not TOML",
        ),
        (
            format!("{good}rot = 1\n"),
            "p.toml:8:1: error: unknown key `rot`",
        ),
        (
            format!("{good}[timeouts]\nidle_ms = 1\n"),
            "p.toml:9:11: error: `idle_ms` is 1",
        ),
        (
            good.replace("127.0.0.1", "localhost"),
            "p.toml:2:11: error: \"localhost:443\" is no",
        ),
        (good.replace("a.test", "b.test"), "p.toml:4:10: error: "),
        (good.replace("c.pem", "none.pem"), "p.toml:5:15: error: "),
    ] {
        for command in ["check", "run"] {
            let directory = directory(&text);
            let (code, out, err) = portcullis(&[command, "--config", "p.toml"], directory.path());
            assert_eq!((code, out.as_str()), (Some(2), ""), "{err}");
            assert!(err.starts_with(message), "{err}");
            assert_eq!(err.matches("error: ").count(), 1, "{err}");
        }
    }
}

#[test]
fn a_missing_file_or_option_ends_with_exit_code_2() {
    let directory = directory("");
    let (code, _, err) = portcullis(&["check", "--config", "none.toml"], directory.path());
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("none.toml"), "{err}");
    let (code, _, err) = portcullis(&["check"], directory.path());
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("--config"), "{err}");
}
