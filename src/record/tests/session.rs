//! Sessions made by rustls, carried on by this record layer against a rustls client.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::kernel::KernelConnection;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::ConnectionState;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, ContentType, RootCertStore, ServerConfig,
    SupportedCipherSuite,
};

use super::SUITES;
use crate::record::{Event, Opened, Opener, PostHandshake, Sealer, TrafficKeys, Version, encode};

/// The server's end, after its handshake.
struct Server {
    suite: SupportedCipherSuite,
    kernel: KernelConnection<ServerConnectionData>,
    sealer: Sealer,
    opener: Opener,
    machine: PostHandshake,
}

impl Server {
    /// What the records in `wire` mean, and the data in them.
    fn receive(&mut self, wire: &mut [u8]) -> (Vec<Event>, Vec<u8>) {
        let (mut events, mut data) = (Vec::new(), Vec::new());
        let mut rest = wire;
        while let Opened::Record {
            consumed,
            content_type,
            payload,
        } = self.opener.open(rest).unwrap()
        {
            let payload = &rest[payload];
            let event = self
                .machine
                .on_record(content_type.into(), payload, 0)
                .unwrap();
            if event == Event::Data {
                data.extend_from_slice(payload);
            }
            if let Event::KeyUpdate { .. } = event {
                let secrets = self.kernel.update_rx_secret().unwrap();
                self.opener
                    .replace(TrafficKeys::from_rustls(self.suite, secrets).unwrap())
                    .unwrap();
            }
            events.push(event);
            rest = &mut rest[consumed..];
        }
        assert!(rest.is_empty(), "rustls wrote a partial record");
        (events, data)
    }

    fn send(&mut self, client: &mut ClientConnection, kind: ContentType, payload: &[u8]) {
        let mut wire = Vec::new();
        self.sealer.seal_copy(&mut wire, kind, payload).unwrap();
        deliver(client, &wire);
    }

    fn update_sending_key(&mut self, client: &mut ClientConnection, request_reply: bool) {
        self.send(
            client,
            ContentType::Handshake,
            &encode::key_update(request_reply),
        );
        let secrets = self.kernel.update_tx_secret().unwrap();
        self.sealer
            .replace(TrafficKeys::from_rustls(self.suite, secrets).unwrap())
            .unwrap();
    }
}

fn deliver(client: &mut ClientConnection, wire: &[u8]) {
    let mut rest = wire;
    while !rest.is_empty() {
        client.read_tls(&mut rest).unwrap();
        client.process_new_packets().unwrap();
    }
}

fn written(client: &mut ClientConnection) -> Vec<u8> {
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    wire
}

fn configs(suite: SupportedCipherSuite) -> (ClientConfig, ServerConfig) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![suite];
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[suite.version()])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    server.enable_secret_extraction = true;
    (client, server)
}

/// Lets the server work off `input`. True when it has nothing left to do but data.
fn step(
    server: &mut UnbufferedServerConnection,
    input: &mut Vec<u8>,
    output: &mut Vec<u8>,
) -> bool {
    loop {
        let status = server.process_tls_records(input);
        let discard = status.discard;
        let outcome = match status.state.unwrap() {
            ConnectionState::EncodeTlsData(mut state) => {
                let mut buffer = vec![0; 32 * 1024];
                let bytes = state.encode(&mut buffer).unwrap();
                output.extend_from_slice(&buffer[..bytes]);
                None
            }
            ConnectionState::TransmitTlsData(state) => {
                state.done();
                None
            }
            ConnectionState::BlockedHandshake => Some(false),
            ConnectionState::WriteTraffic(_) => Some(true),
            state @ (ConnectionState::ReadTraffic(_)
            | ConnectionState::PeerClosed
            | ConnectionState::Closed
            | ConnectionState::ReadEarlyData(_)
            | _) => panic!("{state:?}"),
        };
        input.drain(..discard);
        if let Some(outcome) = outcome {
            return outcome;
        }
    }
}

fn established(suite: SupportedCipherSuite) -> (ClientConnection, Server) {
    let (client_config, server_config) = configs(suite);
    let name = "localhost".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config), name).unwrap();
    let mut server = UnbufferedServerConnection::new(Arc::new(server_config)).unwrap();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        to_server.extend(written(&mut client));
        let done = step(&mut server, &mut to_server, &mut to_client);
        deliver(&mut client, &to_client);
        to_client.clear();
        if done && !client.is_handshaking() {
            break;
        }
    }
    assert!(!client.is_handshaking() && to_server.is_empty());
    let (secrets, kernel) = server.dangerous_into_kernel_connection().unwrap();
    let suite = kernel.negotiated_cipher_suite();
    let sending = TrafficKeys::from_rustls(suite, secrets.tx).unwrap();
    let receiving = TrafficKeys::from_rustls(suite, secrets.rx).unwrap();
    let machine = PostHandshake::new(sending.version());
    let server = Server {
        suite,
        kernel,
        sealer: Sealer::new(sending, u64::MAX).unwrap(),
        opener: Opener::new(receiving).unwrap(),
        machine,
    };
    (client, server)
}

fn expect_exchange(client: &mut ClientConnection, server: &mut Server) {
    let long = vec![0x61; 40_000];
    client.writer().write_all(&long).unwrap();
    let (events, data) = server.receive(&mut written(client));
    assert_eq!((events.len(), data), (3, long));

    server.send(client, ContentType::ApplicationData, b"answer");
    let mut answer = [0; 6];
    client.reader().read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn every_suite_carries_on_a_session_of_rustls() {
    for (version, aead, suite) in SUITES {
        let (mut client, mut server) = established(suite);
        assert_eq!(server.sealer.keys().version(), version);
        assert_eq!(server.sealer.keys().aead(), aead);
        if version == Version::Tls12 {
            // Finished took the first sequence number in both directions.
            assert_eq!(server.sealer.keys().sequence(), 1);
            assert_eq!(server.opener.keys().sequence(), 1);
        }
        expect_exchange(&mut client, &mut server);

        client.send_close_notify();
        let (events, _) = server.receive(&mut written(&mut client));
        assert_eq!(events, [Event::CloseNotify]);
        let close = encode::alert(AlertDescription::CloseNotify);
        server.send(&mut client, ContentType::Alert, &close);
        assert_eq!(client.reader().read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn rfc8446_4_6_3_key_updates_go_both_ways() {
    for (_, _, suite) in &SUITES[..3] {
        let (mut client, mut server) = established(*suite);
        for _ in 0..3 {
            client.refresh_traffic_keys().unwrap();
            let (events, _) = server.receive(&mut written(&mut client));
            assert_eq!(events, [Event::KeyUpdate { reply: true }]);
            server.update_sending_key(&mut client, false);
            assert_eq!(server.sealer.keys().sequence(), 0);
            expect_exchange(&mut client, &mut server);
        }
        server.update_sending_key(&mut client, true);
        // rustls answers before its next data.
        client.writer().write_all(b"x").unwrap();
        let (events, data) = server.receive(&mut written(&mut client));
        assert_eq!(events, [Event::KeyUpdate { reply: false }, Event::Data]);
        assert_eq!(data, b"x");
        expect_exchange(&mut client, &mut server);
    }
}

#[test]
fn a_fatal_alert_of_ours_reaches_the_client() {
    for (_, _, suite) in SUITES {
        let (mut client, mut server) = established(suite);
        let mut wire = Vec::new();
        let alert = encode::alert(AlertDescription::BadRecordMac);
        server
            .sealer
            .seal_copy(&mut wire, ContentType::Alert, &alert)
            .unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        let error = client.process_new_packets().unwrap_err();
        assert_eq!(
            error,
            rustls::Error::AlertReceived(AlertDescription::BadRecordMac)
        );
    }
}

#[test]
fn rfc8446_6_a_plaintext_alert_reaches_a_client_in_its_handshake() {
    let (client_config, _) = configs(SUITES[0].2);
    let name = "localhost".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config), name).unwrap();
    written(&mut client);
    let record = encode::plaintext_alert_record(AlertDescription::UnrecognisedName);
    client.read_tls(&mut &record[..]).unwrap();
    let error = client.process_new_packets().unwrap_err();
    assert_eq!(
        error,
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)
    );
}
