//! Sessions taken up again, on whichever worker the client lands.

use crate::support::Policy;
use crate::support::for_each_policy;
use crate::support::process::{Finished, GNUTLS, OPENSSL};
use crate::support::server::{Server, Setup};

for_each_policy!(tls12, tls13, gnutls);

/// Enough connections to land on each of four workers: that one of them gets none of forty has a
/// probability of four times 0.75 to the 40th, one in 25,000.
const CONNECTIONS: u64 = 40;

fn tls12(policy: Policy) {
    resumes_on_all_workers(policy, "-tls1_2", "Reused, TLSv1.2", "handshakes_tls12");
}

fn tls13(policy: Policy) {
    resumes_on_all_workers(policy, "-tls1_3", "Reused, TLSv1.3", "handshakes_tls13");
}

fn resumes_on_all_workers(policy: Policy, version: &str, reused: &str, counter: &str) {
    let server = Setup::new(policy).workers(4).start();
    server.write_content("1k", 1024);
    let session = server
        .path("session.pem")
        .into_os_string()
        .into_string()
        .unwrap();
    let first = connect(&server, &[version, "-sess_out", &session]);
    assert!(first.text().contains("New, TLSv1"), "{}", first.text());
    for _ in 0..CONNECTIONS {
        let next = connect(&server, &[version, "-sess_in", &session]);
        assert!(next.text().contains(reused), "{}", next.text());
        assert!(next.text().contains("HTTP/1.1 200"), "{}", next.text());
    }
    let counters = server.counters();
    assert_eq!(counters[&format!("{counter}_full")], 1);
    assert_eq!(counters[&format!("{counter}_resumed")], CONNECTIONS);
}

fn gnutls(policy: Policy) {
    let server = Setup::new(policy).start();
    server.write_content("1k", 1024);
    for (priority, counter) in [
        ("NORMAL:-VERS-ALL:+VERS-TLS1.2", "handshakes_tls12_resumed"),
        ("NORMAL:-VERS-ALL:+VERS-TLS1.3", "handshakes_tls13_resumed"),
    ] {
        let mut command = GNUTLS.command();
        command.args([
            "--resume",
            "--priority",
            priority,
            "--x509cafile",
            &server.authority(),
        ]);
        command.args([
            "--sni-hostname",
            "localhost",
            "--verify-hostname",
            "localhost",
        ]);
        command.args(["--port", &server.address.port().to_string(), "127.0.0.1"]);
        let mut running = GNUTLS.start(&mut command);
        running
            .stdout
            .read_until_text("*** This is a resumed session");
        running.write(REQUEST);
        running.stdout.read_until_text("HTTP/1.1 200");
        running.finish();
        assert_eq!(server.counters()[counter], 1, "{priority}");
    }
}

/// One connection with one request.
fn connect(server: &Server, options: &[&str]) -> Finished {
    let mut command = OPENSSL.command();
    command.args([
        "s_client",
        "-ign_eof",
        "-verify_return_error",
        "-servername",
        "localhost",
    ]);
    command.args(["-CAfile", &server.authority()]);
    command
        .args(["-connect", &server.address.to_string()])
        .args(options);
    let mut running = OPENSSL.start(&mut command);
    running.write(REQUEST);
    running.finish().success()
}

const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
