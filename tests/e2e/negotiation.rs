//! What a handshake agrees on: the protocol (ALPN), the site (SNI), the version.

use rustls::AlertDescription;

use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Ending, Manner, TLS12, TLS13};
use crate::support::process::{CURL, OPENSSL};
use crate::support::server::{Server, Setup};

#[test]
fn http_1_1_is_agreed_on_among_others_and_without_alpn() {
    let server = Setup::new(Policy::Auto).start();
    server.write_content("1k", 1024);
    let agreed = Manner {
        protocols: &["h3", "http/1.1"],
        ..Manner::default()
    };
    for (manner, protocol) in [
        (agreed, Some("http/1.1".as_bytes())),
        (
            Manner {
                protocols: &[],
                ..Manner::default()
            },
            None,
        ),
    ] {
        for versions in [TLS12, TLS13] {
            let mut client = Manner {
                versions,
                ..manner.clone()
            }
            .connect(&server);
            assert_eq!(client.tls.alpn_protocol(), protocol);
            assert_eq!(client.get("/1k").status(), 200);
        }
    }
}

#[test]
fn rfc7301_3_2_no_common_protocol_is_a_fatal_alert() {
    let server = Setup::new(Policy::Auto).start();
    for versions in [TLS12, TLS13] {
        let manner = Manner {
            protocols: &["gopher"],
            versions,
            ..Manner::default()
        };
        let alert = AlertDescription::NoApplicationProtocol;
        assert_eq!(refusal(&manner, &server), Ending::Alert(alert));
    }
    // A foreign client reads the same.
    let mut command = OPENSSL.command();
    command.args([
        "s_client",
        "-alpn",
        "gopher",
        "-connect",
        &server.address.to_string(),
    ]);
    let finished = OPENSSL.start(&mut command).finish();
    assert!(!finished.status.success());
    assert!(
        finished.errors().contains("no application protocol"),
        "{}",
        finished.errors()
    );
    server.wait_for_counter("handshakes_failed", 3);
}

#[test]
fn the_site_is_found_by_its_name() {
    let server = sites().start();
    write_index(&server);
    for (host, root) in [
        ("exact.test", "exact"),
        ("a.wild.test", "wild"),
        ("special.wild.test", "special"),
        ("EXACT.test", "exact"),
    ] {
        let found = fetch(&server, host, &["--cacert", &server.authority()]);
        assert_eq!(found, root, "{host}");
    }
}

#[test]
fn names_that_no_site_has_get_the_default_site() {
    let server = sites().start();
    write_index(&server);
    // Its certificate is not theirs, which is for the client to judge.
    for host in ["unknown.test", "a.b.wild.test", "wild.test", "localhost"] {
        assert_eq!(fetch(&server, host, &["--insecure"]), "exact", "{host}");
    }
    let without_name = CURL
        .run(["-sS", "--insecure", &format!("https://{}/", server.address)])
        .success();
    assert_eq!(without_name.text(), "exact");
}

#[test]
fn rfc6066_3_without_a_default_site_an_unknown_name_is_a_fatal_alert() {
    let server = sites().without_default_site().start();
    for versions in [TLS12, TLS13] {
        let manner = Manner {
            name: "unknown.test",
            versions,
            ..Manner::default()
        };
        let alert = AlertDescription::UnrecognisedName;
        assert_eq!(refusal(&manner, &server), Ending::Alert(alert));
    }
}

#[test]
fn each_site_has_its_own_versions() {
    let server = Setup::new(Policy::Auto)
        .site(&["localhost"], KeyKind::P256, "root")
        .site_with(
            &["strict.test"],
            KeyKind::P256,
            "strict",
            "tls = { version_min = \"1.3\" }",
        )
        .site_with(
            &["old.test"],
            KeyKind::P256,
            "old",
            "tls = { version_max = \"1.2\" }",
        )
        .start();
    let manner = |name, versions| Manner {
        name,
        versions,
        ..Manner::default()
    };
    let alert = Ending::Alert(AlertDescription::ProtocolVersion);
    assert_eq!(refusal(&manner("strict.test", TLS12), &server), alert);
    assert_eq!(refusal(&manner("old.test", TLS13), &server), alert);
    for (name, versions) in [
        ("strict.test", TLS13),
        ("old.test", TLS12),
        ("localhost", TLS12),
        ("localhost", TLS13),
    ] {
        manner(name, versions).connect(&server);
    }
}

/// How a handshake that must fail ends.
pub(crate) fn refusal(manner: &Manner, server: &Server) -> Ending {
    match manner.try_connect(server) {
        Err(error) => Ending::of(&error),
        // The client's side of a TLS 1.3 handshake is done before the server has judged.
        Ok(mut client) => client.read_to_ending(),
    }
}

fn sites() -> Setup {
    Setup::new(Policy::Auto)
        .site(&["exact.test"], KeyKind::P256, "exact")
        .site(&["*.wild.test"], KeyKind::P384, "wild")
        .site(&["special.wild.test"], KeyKind::Rsa, "special")
}

fn write_index(server: &Server) {
    for root in ["exact", "wild", "special"] {
        std::fs::write(server.path(root).join("index.html"), root).unwrap();
    }
}

fn fetch(server: &Server, host: &str, options: &[&str]) -> String {
    let (resolve, url) = (
        server.resolve(host),
        format!("https://{host}:{}/", server.address.port()),
    );
    let mut arguments = vec!["-sS", "--fail", "--resolve", &resolve, &url];
    arguments.extend(options);
    CURL.run(arguments).success().text()
}
