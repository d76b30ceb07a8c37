//! Records sealed and opened, with the keys of a session that was agreed on for it.

use portcullis::net::rt::{self, Driver};
use portcullis::record::{ContentType, Opened, Opener, Sealer, TrafficKeys};
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use crate::handshake::{Ends, Key, X25519};
use crate::meter::Meter;
use crate::part::{Part, Work};

pub(crate) fn parts() -> Vec<Part> {
    let suites = [
        (
            "aes_128_gcm",
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            &version::TLS13,
        ),
        (
            "aes_256_gcm",
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            &version::TLS13,
        ),
        (
            "chacha20",
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            &version::TLS13,
        ),
        (
            "tls12_aes_128_gcm",
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            &version::TLS12,
        ),
    ];
    let mut parts = Vec::new();
    for (name, suite, version) in suites {
        for (size, bytes) in [("1k", 1024), ("16k", 16 * 1024)] {
            let seal = Part::new(format!("record/seal/{name}/{size}"), 256, move || {
                seal(suite, version, bytes)
            });
            parts.push(seal.of_bytes(bytes));
            let open = Part::new(format!("record/open/{name}/{size}"), 256, move || {
                open(suite, version, bytes)
            });
            parts.push(open.of_bytes(bytes));
        }
    }
    parts
}

fn seal(
    suite: SupportedCipherSuite,
    version: &'static SupportedProtocolVersion,
    bytes: usize,
) -> Work {
    let ends = Ends::new(Key::P256, version, X25519, Some(suite));
    let mut sealer = session(&ends, suite).0;
    let mut record = vec![0; sealer.prefix_bytes() + bytes + sealer.suffix_bytes()];
    Box::new(move |calls, meter| {
        let mut left = calls;
        while left > 0 {
            // A key protects 2^24 records with AES-GCM, and criterion asks for more.
            if sealer.records_left() == 0 {
                sealer = session(&ends, suite).0;
            }
            let batch = left.min(sealer.records_left());
            let mut done = true;
            meter.measure(|| {
                for _ in 0..batch {
                    done &= sealer
                        .seal(&mut record, ContentType::ApplicationData)
                        .is_ok();
                }
            });
            assert!(done, "a record was not sealed");
            left -= batch;
        }
    })
}

fn open(
    suite: SupportedCipherSuite,
    version: &'static SupportedProtocolVersion,
    bytes: usize,
) -> Work {
    let ends = Ends::new(Key::P256, version, X25519, Some(suite));
    let (_, mut opener, mut peer) = session(&ends, suite);
    let payload = vec![0; bytes];
    let mut records: Vec<Vec<u8>> = Vec::new();
    Box::new(move |calls, meter| {
        let mut left = calls;
        while left > 0 {
            if peer.records_left() == 0 {
                (_, opener, peer) = session(&ends, suite);
            }
            let batch = left.min(OPEN_BATCH).min(peer.records_left());
            records.resize_with(batch as usize, Vec::new);
            for record in &mut records {
                record.clear();
                peer.seal_copy(record, ContentType::ApplicationData, &payload)
                    .unwrap();
            }
            let mut done = true;
            meter.measure(|| {
                for record in &mut records {
                    done &= matches!(opener.open(record), Ok(Opened::Record { .. }));
                }
            });
            assert!(done, "a record was not opened");
            left -= batch;
        }
    })
}

/// The server's sealer and opener of a new session, and its client's sealer.
fn session(ends: &Ends, suite: SupportedCipherSuite) -> (Sealer, Opener, Sealer) {
    let shaking = ends_shake(ends);
    let session = rt::block_on(Driver::Epoll, shaking).unwrap();
    let secrets = session.client.into_connection().dangerous_extract_secrets();
    let peer = TrafficKeys::from_rustls(suite, secrets.unwrap().tx).unwrap();
    let parts = session.server.parts;
    (
        sealer(parts.send),
        Opener::new(parts.receive).unwrap(),
        sealer(peer),
    )
}

async fn ends_shake(ends: &Ends) -> crate::handshake::Session {
    ends.shake_hands(&mut Meter::idle()).await
}

fn sealer(keys: TrafficKeys) -> Sealer {
    Sealer::new(keys, u64::MAX).unwrap()
}

/// Records that wait to be opened: few enough to stay in a cache near the core.
const OPEN_BATCH: u64 = 16;
