//! Sites that want certificates of clients.

use portcullis::proto::proxy_header::VALUE_TLS;
use rustls::AlertDescription;

use crate::negotiation::refusal;
use crate::proxying::proxy_protocol::{listen, read_header, told, value};
use crate::support::Policy;
use crate::support::certificates::{KeyKind, client_leaf, expired_client_leaf, leaf};
use crate::support::client::{Client, Ending, Manner, TLS12, TLS13};
use crate::support::server::{Server, Setup};

const WANTED: &str = "[site.tls]\nclient_ca = \"authority.pem\"\n";

fn server() -> Server {
    let server = Setup::new(Policy::Auto)
        .site_with(&["localhost"], KeyKind::P256, "root", WANTED)
        .site(&["open.test"], KeyKind::P256, "root")
        .start();
    server.write_content("1k", 1024);
    server
}

fn known() -> Manner {
    Manner {
        certificate: Some(client_leaf("client.test")),
        ..Manner::default()
    }
}

#[test]
fn only_those_with_a_certificate_of_the_authority_are_served() {
    let server = server();
    for versions in [TLS12, TLS13] {
        let with = |certificate| Manner {
            versions,
            certificate,
            ..Manner::default()
        };
        let known = with(Some(client_leaf("client.test")));
        let mut client = known.connect(&server);
        assert_eq!(client.get("/1k").status(), 200);
        // What one site knows of a client is nothing to another, nor the other way round.
        assert_eq!(get(&mut client, "open.test"), 421);
        let open = Manner {
            name: "open.test",
            ..with(None)
        };
        let mut client = open.connect(&server);
        assert_eq!(get(&mut client, "open.test"), 200);
        assert_eq!(get(&mut client, "localhost"), 421);
        for (certificate, alert) in [
            (None, AlertDescription::CertificateRequired),
            (
                Some(expired_client_leaf()),
                AlertDescription::CertificateExpired,
            ),
            // Made to show that one is a server.
            (
                Some(leaf(KeyKind::P256, &["localhost"])),
                AlertDescription::UnsupportedCertificate,
            ),
        ] {
            let what = format!("{alert:?}");
            let ending = refusal(&with(certificate), &server);
            assert_eq!(ending, Ending::Alert(alert), "{what}");
        }
    }
}

fn get(client: &mut Client, host: &str) -> u16 {
    client.send(format!("GET /1k HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    client.read_response().status()
}

#[test]
fn servers_behind_are_told_whose_certificate_it_is() {
    let (listener, address) = listen();
    let tunnel = "tunnel = \"app\"\n[site.tls]\nclient_ca = \"authority.pem\"\n\
                  client_certificate = \"optional\"\n";
    let server = Setup::new(Policy::Auto)
        .site_with(&["localhost"], KeyKind::P256, "", tunnel)
        .text(&told(address, "v2"))
        .start();
    for (manner, flags, name) in [(known(), 7, true), (Manner::default(), 1, false)] {
        let mut client = manner.connect(&server);
        client.send(b"hello");
        let (mut socket, _) = listener.accept().unwrap();
        let (header, _) = read_header(&mut socket);
        let session = value(&header, VALUE_TLS).unwrap();
        assert_eq!(session[0], flags);
        assert_eq!(session[1..5], u32::to_be_bytes(u32::from(!name)));
        // PP2_SUBTYPE_SSL_CN
        let told = session
            .windows(18)
            .any(|part| part == b"\x22\0\x0fportcullis test");
        assert_eq!(told, name);
    }
}
