//! Files of every size, byte by byte, by clients with three TLS libraries of their own.

use crate::support::Policy;
use crate::support::client::{Client, body_of};
use crate::support::files::{KIB, MIB, SIZES, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::kernel::{KernelTls, kernel_tls};
use crate::support::process::{CURL, GNUTLS, OPENSSL, WGET};
use crate::support::server::{Server, Setup};

for_each_policy!(
    curl,
    openssl,
    wget,
    gnutls,
    many_on_one_connection,
    request_with_the_finished
);

fn curl(policy: Policy) {
    let server = server_with_files(policy);
    for size in SIZES {
        let arguments = [
            "--silent",
            "--show-error",
            "--fail",
            "--http1.1",
            "--cacert",
            &server.authority(),
            "--resolve",
            &server.resolve("localhost"),
            &server.url(&format!("/{size}")),
        ];
        let finished = CURL.run(arguments).success();
        assert_same_bytes(
            &finished.stdout,
            content(size),
            &format!("{size} bytes by curl"),
        );
    }
    assert_data_path(&server, policy, SIZES.len());
}

fn openssl(policy: Policy) {
    let server = server_with_files(policy);
    for size in SIZES {
        let mut command = OPENSSL.command();
        command.args([
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-servername",
            "localhost",
        ]);
        command.args(["-CAfile", &server.authority()]);
        command.args(["-connect", &server.address.to_string()]);
        let mut running = OPENSSL.start(&mut command);
        running.write(closing_request(size).as_bytes());
        let finished = running.finish().success();
        let body = body_of(&finished.stdout);
        assert_same_bytes(body, content(size), &format!("{size} bytes by openssl"));
    }
    assert_data_path(&server, policy, SIZES.len());
}

/// Debian's wget is built with GnuTLS.
fn wget(policy: Policy) {
    let server = server_with_files(policy);
    for size in SIZES {
        let authority = format!("--ca-certificate={}", server.authority());
        let url = server.url(&format!("/{size}"));
        let arguments = [
            "-4",
            "--no-verbose",
            "--output-document=-",
            &authority,
            &url,
        ];
        let finished = WGET.run(arguments).success();
        assert_same_bytes(
            &finished.stdout,
            content(size),
            &format!("{size} bytes by wget"),
        );
    }
    assert_data_path(&server, policy, SIZES.len());
}

fn gnutls(policy: Policy) {
    let server = server_with_files(policy);
    // It prints with one write(2) per byte: this is all one wants to wait for in a lab kernel. The
    // last is large enough for `auto` to hand the connection over.
    let sizes = [0, 1, KIB, 16 * KIB, 300 * KIB];
    for size in sizes {
        server.write_content(&size.to_string(), size);
        let mut command = GNUTLS.command();
        command.args([
            "--x509cafile",
            &server.authority(),
            "--logfile",
            "/dev/null",
        ]);
        command.args([
            "--sni-hostname",
            "localhost",
            "--verify-hostname",
            "localhost",
        ]);
        command.args(["--port", &server.address.port().to_string(), "127.0.0.1"]);
        let mut running = GNUTLS.start(&mut command);
        running.write(closing_request(size).as_bytes());
        // It gives up on the response when its input ends.
        running
            .stdout
            .read_until("a response", |bytes| body_length(bytes) >= Some(size));
        let finished = running.finish().success();
        let body = body_of(&finished.stdout);
        assert_same_bytes(body, content(size), &format!("{size} bytes by gnutls"));
    }
    assert_data_path(&server, policy, sizes.len());
}

fn many_on_one_connection(policy: Policy) {
    let server = server_with_files(policy);
    let mut client = Client::connect(&server);
    // Small and large in turn: whatever was handed to the kernel must serve both.
    for size in [KIB, 0, MIB, 1, 16 * KIB, MIB, KIB] {
        let response = client.get(&format!("/{size}"));
        assert_eq!(response.status(), 200);
        assert_same_bytes(&response.body, content(size), &format!("{size} bytes"));
    }
    assert_eq!(server.counters()["requests"], 7);
    assert_data_path(&server, policy, 1);
}

/// The request comes in the same segment as the client's Finished: what was read beyond the
/// handshake must not be lost to the kernel.
fn request_with_the_finished(policy: Policy) {
    use std::io::Write;

    let server = server_with_files(policy);
    let manner = crate::support::client::Manner::default();
    for size in [1, MIB] {
        let name = manner.name.try_into().unwrap();
        let tls = rustls::ClientConnection::new(manner.config(), name).unwrap();
        let mut client = Client {
            tls,
            socket: manner.connect_tcp(server.address),
        };
        let request = crate::support::client::request(&format!("/{size}"));
        client.tls.writer().write_all(request.as_bytes()).unwrap();
        let response = client.read_response();
        assert_same_bytes(&response.body, content(size), &format!("{size} bytes"));
    }
}

fn server_with_files(policy: Policy) -> Server {
    let server = Setup::new(policy).start();
    for size in SIZES {
        server.write_content(&size.to_string(), size);
    }
    server
}

fn closing_request(size: usize) -> String {
    format!("GET /{size} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn body_length(bytes: &[u8]) -> Option<usize> {
    let head = crate::support::process::find(bytes, b"\r\n\r\n")?;
    Some(bytes.len() - head - 4)
}

/// Fails unless `connections` connections, one of which at least had a large body, took the way that
/// `policy` and the kernel allow.
fn assert_data_path(server: &Server, policy: Policy, connections: usize) {
    let counters = server.counters();
    let connections = u64::try_from(connections).unwrap();
    let (send, receive) = (counters["offloaded_send"], counters["offloaded_receive"]);
    match (policy, kernel_tls()) {
        (Policy::Never, _) | (_, KernelTls::Absent) => assert_eq!((send, receive), (0, 0)),
        (Policy::Always, _) => assert_eq!((send, receive), (connections, connections)),
        (Policy::Auto, _) => assert!((1..=connections).contains(&send), "{send} of {connections}"),
    }
    if policy == Policy::Always && kernel_tls() == KernelTls::Absent {
        assert_eq!(counters["not_offloaded_no_ulp"], connections);
    }
}
