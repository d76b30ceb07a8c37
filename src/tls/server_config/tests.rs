//! What a policy allows and refuses, in handshakes with a client in memory.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::ProducesTickets;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, Error, HandshakeKind,
    NamedGroup, ProtocolVersion, RootCertStore, ServerConnection, SupportedProtocolVersion,
    version,
};

use super::{ClientAuthorities, TlsSetup, ticketer};
use crate::config::serve::{Options, config_for};
use crate::config::{
    ClientAuth, Config, Group, OffloadPolicy, Session, Site, Suite, SuiteOrder, TlsPolicy,
    TlsVersion,
};
use crate::tls::client_hello::{ClientHelloReader, FirstBytes};

/// A site's certificate, and a client's trust in it.
struct Identity {
    pem: String,
    certified: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
}

fn identity(name: &str, key: &rcgen::KeyPair) -> Identity {
    let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    let made = params.self_signed(key).unwrap();
    let certificate = made.der().clone();
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let signer = aws_lc_rs::sign::any_supported_type(&der).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    Identity {
        pem: made.pem(),
        certified: Arc::new(CertifiedKey::new(vec![certificate], signer)),
        roots: Arc::new(roots),
    }
}

fn p256(name: &str) -> Identity {
    identity(name, &rcgen::KeyPair::generate().unwrap())
}

/// One site for each policy, with these names; none is the default.
fn config(sites: &[(&[&str], TlsPolicy)]) -> Config {
    let plan = config_for(Options {
        root: "/".into(),
        listen: Vec::new(),
        offload: OffloadPolicy::Auto,
        workers: None,
        certificate_file: "/c".into(),
        key_file: "/k".into(),
    });
    let template = plan.config.sites[0].clone();
    let site = |(names, tls): &(&[&str], TlsPolicy)| {
        Arc::new(Site {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            tls: tls.clone(),
            ..Site::clone(&template)
        })
    };
    Config {
        sites: sites.iter().map(site).collect(),
        default_site: None,
        passthroughs: Vec::new(),
        default_passthrough: None,
        upstreams: Vec::new(),
        ..plan.config
    }
}

fn setup(policy: TlsPolicy, identity: &Identity) -> TlsSetup {
    let certificates = vec![identity.certified.clone()];
    TlsSetup::new(
        &config(&[(&["a.test"], policy)]),
        certificates,
        ClientAuthorities::default(),
        &ticketer().unwrap(),
    )
    .unwrap()
}

/// A client that trusts `identity` and offers everything it can in these versions.
fn client(identity: &Identity, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    client_with(aws_lc_rs::default_provider(), identity, versions)
}

fn client_with(
    mut provider: CryptoProvider,
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    provider.kx_groups = aws_lc_rs::ALL_KX_GROUPS.to_vec();
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(identity.roots.clone())
        .with_no_client_auth()
}

/// The handshake of a client that asks for `name`; the error is the server's or else the client's.
fn handshake(
    setup: &TlsSetup,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let policy = setup.policy_for(Some(name)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut first = Vec::new();
    client.write_tls(&mut first).unwrap();
    let FirstBytes::Hello(hello) = ClientHelloReader::new().read(&first) else {
        panic!("a client begins with its ClientHello")
    };
    let config = setup.server_config(policy).unwrap().for_client(&hello);
    let mut server = ServerConnection::new(config.clone()).unwrap();
    feed(&first, |input| server.read_tls(input));
    server.process_new_packets()?;
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        feed(&bytes, |input| server.read_tls(input));
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        feed(&bytes, |input| client.read_tls(input));
        client.process_new_packets()?;
    }
    Ok((client, server))
}

/// Hands `bytes` over in as many reads as the reader wants.
fn feed(mut bytes: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    while !bytes.is_empty() {
        read(&mut bytes).unwrap();
    }
}

fn only(suite: Suite, version: TlsVersion) -> TlsPolicy {
    TlsPolicy {
        version_min: version,
        version_max: version,
        suites: vec![suite],
        ..TlsPolicy::default()
    }
}

#[test]
fn each_suite_is_what_its_version_and_certificate_make_of_it() {
    use CipherSuite as C;
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
        .unwrap();
    let [p384, ed25519] = [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        .map(|algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap());
    let (rsa, ecdsa) = (
        [identity("a.test", &rsa)],
        [
            p256("a.test"),
            identity("a.test", &p384),
            identity("a.test", &ed25519),
        ],
    );
    for (suite, tls13, tls12_ecdsa, tls12_rsa) in [
        (
            Suite::Aes128Gcm,
            C::TLS13_AES_128_GCM_SHA256,
            C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ),
        (
            Suite::Aes256Gcm,
            C::TLS13_AES_256_GCM_SHA384,
            C::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            C::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ),
        (
            Suite::Chacha20Poly1305,
            C::TLS13_CHACHA20_POLY1305_SHA256,
            C::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            C::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    ] {
        for (identities, tls12) in [(ecdsa.as_slice(), tls12_ecdsa), (&rsa, tls12_rsa)] {
            for identity in identities {
                let client = Arc::new(client(identity, rustls::ALL_VERSIONS));
                for (version, expected) in [(TlsVersion::Tls13, tls13), (TlsVersion::Tls12, tls12)]
                {
                    let setup = setup(only(suite, version), identity);
                    let (_, server) = handshake(&setup, &client, "a.test").unwrap();
                    assert_eq!(server.negotiated_cipher_suite().unwrap().suite(), expected);
                }
            }
        }
    }
}

#[test]
fn each_group_is_agreed_on() {
    let identity = p256("a.test");
    let client = Arc::new(client(&identity, rustls::ALL_VERSIONS));
    for (group, expected) in [
        (Group::X25519Mlkem768, NamedGroup::X25519MLKEM768),
        (Group::X25519, NamedGroup::X25519),
        (Group::Secp256r1, NamedGroup::secp256r1),
        (Group::Secp384r1, NamedGroup::secp384r1),
    ] {
        let policy = TlsPolicy {
            groups: vec![group],
            ..only(Suite::Aes128Gcm, TlsVersion::Tls13)
        };
        let (_, server) = handshake(&setup(policy, &identity), &client, "a.test").unwrap();
        assert_eq!(
            server.negotiated_key_exchange_group().unwrap().name(),
            expected
        );
    }
}

#[test]
fn versions_outside_the_policy_are_refused() {
    let identity = p256("a.test");
    let versions = [
        (TlsVersion::Tls12, &version::TLS12),
        (TlsVersion::Tls13, &version::TLS13),
    ];
    for (allowed, expected) in versions {
        for (_, offered) in versions {
            let setup = setup(only(Suite::Aes128Gcm, allowed), &identity);
            let client = Arc::new(client(&identity, &[offered]));
            match handshake(&setup, &client, "a.test") {
                Ok((client, _)) => {
                    assert_eq!(client.protocol_version(), Some(expected.version));
                    assert_eq!(offered.version, expected.version);
                }
                Err(error) => {
                    assert_ne!(offered.version, expected.version, "{error}");
                    assert!(matches!(error, Error::PeerIncompatible(_)), "{error}");
                }
            }
        }
    }
}

#[test]
fn the_order_is_whose_the_policy_says() {
    let identity = p256("a.test");
    let mut provider = aws_lc_rs::default_provider();
    let is_chacha = |suite: &rustls::SupportedCipherSuite| {
        suite.suite() != CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    };
    provider.cipher_suites.sort_by_key(is_chacha);
    let client = Arc::new(client_with(provider, &identity, &[&version::TLS13]));
    for (suite_order, expected) in [
        (
            SuiteOrder::Client,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ),
        (SuiteOrder::Server, CipherSuite::TLS13_AES_128_GCM_SHA256),
    ] {
        let policy = TlsPolicy {
            suite_order,
            ..TlsPolicy::default()
        };
        let (_, server) = handshake(&setup(policy, &identity), &client, "a.test").unwrap();
        assert_eq!(server.negotiated_cipher_suite().unwrap().suite(), expected);
    }
}

#[test]
fn rfc7301_3_2_no_common_protocol_is_an_alert() {
    let identity = p256("a.test");
    let setup = setup(TlsPolicy::default(), &identity);
    let agreed = |protocols: &[&[u8]]| {
        let mut client = client(&identity, rustls::ALL_VERSIONS);
        client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        handshake(&setup, &Arc::new(client), "a.test")
            .map(|(_, server)| server.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(
        agreed(&[b"h3", b"http/1.1"]),
        Ok(Some(b"http/1.1".to_vec()))
    );
    assert_eq!(agreed(&[b"http/1.1", b"h2"]), Ok(Some(b"h2".to_vec())));
    assert_eq!(agreed(&[]), Ok(None));
    assert_eq!(agreed(&[b"h3"]), Err(Error::NoApplicationProtocol));
}

#[test]
fn certificates_follow_the_name_whatever_its_case() {
    let sites = config(&[
        (&["a.test", "*.a.test"], TlsPolicy::default()),
        (&["www.a.test"], TlsPolicy::default()),
    ]);
    let identities = [p256("*.a.test"), p256("www.a.test")];
    let certificates = identities.iter().map(|i| i.certified.clone()).collect();
    let setup = TlsSetup::new(
        &sites,
        certificates,
        ClientAuthorities::default(),
        &ticketer().unwrap(),
    )
    .unwrap();
    for (name, site) in [("img.a.test", 0), ("www.a.test", 1), ("www.a.test.", 1)] {
        let client = Arc::new(client(&identities[site], rustls::ALL_VERSIONS));
        let (client, _) = handshake(&setup, &client, name).unwrap();
        let served = client.peer_certificates().unwrap();
        assert_eq!(served, identities[site].certified.cert, "{name}");
    }
    // rustls hands the name to the resolver as the client wrote it.
    let upper = Arc::new(client(&identities[1], rustls::ALL_VERSIONS));
    let name = ServerName::try_from("WWW.A.TEST").unwrap();
    let mut client = ClientConnection::new(upper, name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut server = ServerConnection::new(setup.server_config(0).unwrap().fresh.clone()).unwrap();
    server.read_tls(&mut hello.as_slice()).unwrap();
    server.process_new_packets().unwrap();
}

/// Whether each of two sessions of one client, the second perhaps with another setup, was resumed.
fn resumed(
    first: &TlsSetup,
    second: &TlsSetup,
    identity: &Identity,
    version: &'static SupportedProtocolVersion,
) -> [bool; 2] {
    let mut client = client(identity, &[version]);
    client.resumption = Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    [first, second].map(|setup| {
        let (client, server) = handshake(setup, &client, "a.test").unwrap();
        assert_eq!(client.handshake_kind(), server.handshake_kind());
        server.handshake_kind() == Some(HandshakeKind::Resumed)
    })
}

#[test]
fn tickets_outlive_a_reload_that_keeps_the_ticketer() {
    let identity = p256("a.test");
    let tickets = ticketer().unwrap();
    let with = |tickets: &Arc<dyn ProducesTickets>, session: Session| {
        let config = Config {
            session,
            ..config(&[(&["a.test"], TlsPolicy::default())])
        };
        TlsSetup::new(
            &config,
            vec![identity.certified.clone()],
            ClientAuthorities::default(),
            tickets,
        )
        .unwrap()
    };
    let default = Session::default();
    let off = Session {
        tickets: false,
        ..default
    };
    for version in [&version::TLS12, &version::TLS13] {
        let resumed = |a: &TlsSetup, b: &TlsSetup| resumed(a, b, &identity, version);
        let (old, new) = (with(&tickets, default), with(&tickets, default));
        assert_eq!(resumed(&old, &new), [false, true]);
        let stranger = with(&ticketer().unwrap(), default);
        assert_eq!(resumed(&old, &stranger), [false, false]);
        let without = with(&tickets, off);
        assert_eq!(resumed(&without, &without), [false, false]);
    }
    let none = Session {
        tickets_per_handshake: 0,
        ..default
    };
    let none = with(&tickets, none);
    assert_eq!(
        resumed(&none, &none, &identity, &version::TLS13),
        [false, false]
    );
    assert_eq!(
        resumed(&none, &none, &identity, &version::TLS12),
        [false, true]
    );
}

#[test]
fn a_client_that_takes_up_a_session_gets_one_ticket_for_it() {
    let identity = p256("a.test");
    let setup = setup(TlsPolicy::default(), &identity);
    let mut client = client(&identity, &[&version::TLS13]);
    client.resumption = Resumption::in_memory_sessions(8);
    let client = Arc::new(client);
    let tickets = || {
        let (client, _) = handshake(&setup, &client, "a.test").unwrap();
        (
            client.handshake_kind().unwrap(),
            client.tls13_tickets_received(),
        )
    };
    assert_eq!(tickets(), (HandshakeKind::Full, 2));
    assert_eq!(tickets(), (HandshakeKind::Resumed, 1));
    assert_eq!(tickets(), (HandshakeKind::Resumed, 1));
}

#[test]
fn secrets_can_be_taken_out_and_early_data_is_off() {
    let identity = p256("a.test");
    let setup = setup(TlsPolicy::default(), &identity);
    let config = &setup.server_config(0).unwrap().fresh;
    assert_eq!(
        (config.max_early_data_size, config.send_half_rtt_data),
        (0, false)
    );
    assert!(!config.session_storage.can_cache());
    for version in [&version::TLS12, &version::TLS13] {
        let client = Arc::new(client(&identity, &[version]));
        let (_, server) = handshake(&setup, &client, "a.test").unwrap();
        assert!(server.dangerous_extract_secrets().is_ok());
    }
}

#[test]
fn a_site_without_a_certificate_of_its_name_sends_no_other() {
    let identity = p256("a.test");
    let setup = setup(TlsPolicy::default(), &identity);
    let client = Arc::new(client(&identity, rustls::ALL_VERSIONS));
    let name = ServerName::try_from("b.test").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(setup.server_config(0).unwrap().fresh.clone()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    server.read_tls(&mut bytes.as_slice()).unwrap();
    server.process_new_packets().unwrap_err();
    let mut bytes = Vec::new();
    server.write_tls(&mut bytes).unwrap();
    client.read_tls(&mut bytes.as_slice()).unwrap();
    let refused = Error::AlertReceived(AlertDescription::AccessDenied);
    assert_eq!(client.process_new_packets().unwrap_err(), refused);
    assert_eq!(client.protocol_version(), None::<ProtocolVersion>);
}

/// A policy that wants certificates which `authority` signed.
fn wanting(authority: &str, is_required: bool) -> TlsPolicy {
    TlsPolicy {
        client_auth: Some(ClientAuth {
            authorities_file: authority.into(),
            is_required,
        }),
        ..TlsPolicy::default()
    }
}

/// A client that trusts `server` and shows `own`.
fn showing(server: &Identity, own: Option<&Identity>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(server.roots.clone());
    match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let own = SingleCertAndKey::from(CertifiedKey::clone(&own.certified));
            builder.with_client_cert_resolver(Arc::new(own))
        }
    }
}

/// The authorities in a file that has this certificate, which is its own issuer.
fn authorities(own: &Identity) -> (tempfile::TempDir, ClientAuthorities, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &own.pem).unwrap();
    let mut authorities = ClientAuthorities::default();
    authorities.load(&file).unwrap();
    (folder, authorities, file.to_str().unwrap().to_owned())
}

#[test]
fn rfc8446_4_4_2_4_certificates_of_clients_are_wanted_and_verified() {
    let (server, known, stranger) = (p256("a.test"), p256("client"), p256("stranger"));
    let (_folder, authorities, file) = authorities(&known);
    let setup = |is_required| {
        let config = config(&[(&["a.test"], wanting(&file, is_required))]);
        let certificates = vec![server.certified.clone()];
        TlsSetup::new(
            &config,
            certificates,
            authorities.clone(),
            &ticketer().unwrap(),
        )
        .unwrap()
    };
    for (is_required, own, is_taken) in [
        (true, Some(&known), true),
        (true, None, false),
        (true, Some(&stranger), false),
        (false, Some(&known), true),
        (false, None, true),
        (false, Some(&stranger), false),
    ] {
        let client = Arc::new(showing(&server, own));
        let done = handshake(&setup(is_required), &client, "a.test");
        assert_eq!(done.is_ok(), is_taken, "{is_required}");
        if let Ok((_, done)) = done {
            let shown = done.peer_certificates().map(|chain| chain[0].clone());
            assert_eq!(shown, own.map(|own| own.certified.cert[0].clone()));
        }
    }
}

#[test]
fn no_session_of_another_policy_stands_for_a_certificate() {
    let (server, known) = (p256("a.test"), p256("client"));
    let (_folder, authorities, file) = authorities(&known);
    let tickets = ticketer().unwrap();
    let setup = |policy| {
        let config = config(&[(&["a.test"], policy)]);
        let certificates = vec![server.certified.clone()];
        TlsSetup::new(&config, certificates, authorities.clone(), &tickets).unwrap()
    };
    let (open, closed, reloaded) = (
        setup(TlsPolicy::default()),
        setup(wanting(&file, true)),
        setup(wanting(&file, true)),
    );
    for (first, second, is_resumed) in [
        (&open, &closed, false),
        (&closed, &closed, true),
        (&closed, &reloaded, false),
        (&closed, &open, false),
    ] {
        let mut client = showing(&server, Some(&known));
        client.resumption = Resumption::in_memory_sessions(8);
        let client = Arc::new(client);
        handshake(first, &client, "a.test").unwrap();
        let (_, done) = handshake(second, &client, "a.test").unwrap();
        let kind = done.handshake_kind() == Some(HandshakeKind::Resumed);
        assert_eq!(kind, is_resumed);
        let is_closed = !std::ptr::eq(second, &raw const open);
        assert_eq!(done.peer_certificates().is_some(), is_closed);
    }
}
