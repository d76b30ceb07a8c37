//! `portcullis run` with two sites, as a client meets them.

#![expect(
    clippy::unwrap_used,
    reason = "in a test's helpers a panic is the verdict"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, ClientConnection, Error, RootCertStore, StreamOwned};

/// A running server, ended when the test is.
struct Server {
    process: Child,
    address: SocketAddr,
    /// Kept open: the server may go on to write there.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(directory: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["run", "--config", "p.toml"])
            .current_dir(directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "it ended");
            if let Some(address) = line.strip_prefix("listening on https://") {
                break address.trim().parse().unwrap();
            }
        };
        Self {
            process,
            address,
            _stdout: stdout,
        }
    }

    /// What is answered to a request to `host` by a client that asked for `name`.
    fn answer(&self, roots: &RootCertStore, name: &str, host: &str) -> std::io::Result<String> {
        let config = ClientConfig::builder()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut stream = StreamOwned::new(client, socket);
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, which the test has noticed by then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sites a.test and b.test, of which b.test wants TLS 1.3; `more` are further keys of b.test.
fn directory(more: &str) -> (tempfile::TempDir, RootCertStore) {
    let directory = tempfile::tempdir().unwrap();
    let mut roots = RootCertStore::empty();
    let mut text = "[[listener]]\naddress = \"127.0.0.1:0\"\n".to_owned();
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed([format!("{name}.test")]).unwrap();
        roots.add(made.cert.der().clone()).unwrap();
        let pem = made.cert.pem() + &made.signing_key.serialize_pem();
        let file = directory.path().join(format!("{name}.pem"));
        std::fs::write(&file, pem).unwrap();
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::create_dir(directory.path().join(name)).unwrap();
        let page = format!("this is {name}");
        std::fs::write(directory.path().join(name).join("index.html"), page).unwrap();
        text.push_str(&format!(
            "[[site]]\nnames = [\"{name}.test\"]\ncertificate = \"{name}.pem\"\n\
             key = \"{name}.pem\"\nroot = \"{name}\"\n"
        ));
    }
    text.push_str(more);
    text.push_str("[site.tls]\nversion_min = \"1.3\"\n");
    std::fs::write(directory.path().join("p.toml"), text).unwrap();
    (directory, roots)
}

#[test]
fn each_name_gets_its_certificate_and_its_files() {
    let (directory, roots) = directory("");
    let server = Server::start(directory.path());
    for name in ["a", "b"] {
        let host = format!("{name}.test");
        let answer = server.answer(&roots, &host, &host).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with(&format!("this is {name}")), "{answer}");
    }
}

#[test]
fn rfc9110_15_5_20_a_host_under_another_policy_is_misdirected() {
    let (directory, roots) = directory("");
    let server = Server::start(directory.path());
    let answer = server.answer(&roots, "a.test", "b.test").unwrap();
    assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
}

#[test]
fn rfc6066_3_a_name_that_no_site_has_is_an_alert() {
    let (directory, roots) = directory("");
    let server = Server::start(directory.path());
    let error = server.answer(&roots, "c.test", "c.test").unwrap_err();
    let cause = error
        .into_inner()
        .and_then(|cause| cause.downcast::<Error>().ok());
    let refused = Error::AlertReceived(AlertDescription::UnrecognisedName);
    assert_eq!(cause.map(|cause| *cause), Some(refused));
}

#[test]
fn the_default_site_takes_the_names_that_no_site_has() {
    let (directory, mut roots) = directory("default = true\n");
    // The default's certificate cannot have every name; this client trusts one that does.
    let made = rcgen::generate_simple_self_signed(["b.test", "c.test"].map(str::to_owned)).unwrap();
    roots.add(made.cert.der().clone()).unwrap();
    let pem = made.cert.pem() + &made.signing_key.serialize_pem();
    std::fs::write(directory.path().join("b.pem"), pem).unwrap();
    let server = Server::start(directory.path());
    let answer = server.answer(&roots, "c.test", "c.test").unwrap();
    assert!(answer.ends_with("this is b"), "{answer}");
}
