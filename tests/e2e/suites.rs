//! Every suite of both versions and every key type, with the kernel's own word for what it carried.

use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::body_of;
use crate::support::files::{MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::kernel::{KernelTls, TlsStatistics, kernel_tls};
use crate::support::process::OPENSSL;
use crate::support::server::{Server, Setup};

for_each_policy!(every_suite, every_key_type);

/// How openssl is told to offer one suite alone.
const SUITES: [[&str; 3]; 9] = [
    ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
    ["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"],
    ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
    ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
    ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
    ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
    ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
    ["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"],
    ["-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"],
];

fn every_suite(policy: Policy) {
    let server = Setup::new(policy)
        .site(&["localhost"], KeyKind::P256, "root")
        .site(&["rsa.test"], KeyKind::Rsa, "root")
        .start();
    server.write_content("1m", MIB);
    for suite in SUITES {
        let name = if suite[2].contains("RSA") && !suite[2].contains("ECDSA") {
            "rsa.test"
        } else {
            "localhost"
        };
        assert_carried(policy, suite[2], || download(&server, name, &suite));
    }
}

fn every_key_type(policy: Policy) {
    let server = Setup::new(policy)
        .site(&["p256.test"], KeyKind::P256, "root")
        .site(&["p384.test"], KeyKind::P384, "root")
        .site(&["rsa.test"], KeyKind::Rsa, "root")
        .site(&["ed25519.test"], KeyKind::Ed25519, "root")
        .start();
    server.write_content("1m", MIB);
    for kind in KeyKind::ALL {
        let name = match kind {
            KeyKind::P256 => "p256.test",
            KeyKind::P384 => "p384.test",
            KeyKind::Rsa => "rsa.test",
            KeyKind::Ed25519 => "ed25519.test",
        };
        download(&server, name, &["-tls1_3"]);
        download(&server, name, &["-tls1_2"]);
    }
}

/// Gets a file as `options` say. openssl checks the certificate and its name.
fn download(server: &Server, name: &str, options: &[&str]) {
    let mut command = OPENSSL.command();
    command.args(["s_client", "-quiet", "-verify_return_error"]);
    command.args(["-verify_hostname", name, "-servername", name]);
    command.args(["-CAfile", &server.authority()]);
    command
        .args(["-connect", &server.address.to_string()])
        .args(options);
    let mut running = OPENSSL.start(&mut command);
    let request = format!("GET /1m HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    running.write(request.as_bytes());
    let finished = running.finish().success();
    assert_same_bytes(
        body_of(&finished.stdout),
        content(MIB),
        &format!("{options:?}"),
    );
}

/// Runs `task`, which makes one connection that gets a large file, and compares what the kernel says
/// it carried with what `policy` asks of it.
fn assert_carried(policy: Policy, what: &str, task: impl FnOnce()) {
    let before = TlsStatistics::read();
    task();
    let after = TlsStatistics::read();
    let carried = (
        after.since(&before, "TlsTxSw"),
        after.since(&before, "TlsRxSw"),
    );
    let wanted = match (kernel_tls(), policy) {
        (KernelTls::Absent, _) | (_, Policy::Never) => (0, 0),
        (_, Policy::Auto) => (1, 0),
        (_, Policy::Always) => (1, 1),
    };
    assert_eq!(
        carried, wanted,
        "{what}: connections sent and received by the kernel"
    );
    assert_eq!(after.since(&before, "TlsDecryptError"), 0, "{what}");
}
