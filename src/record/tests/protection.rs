//! Sealing and opening, held against rustls's own record protection.

use proptest::prelude::*;
use rustls::crypto::cipher::{
    InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::{AlertDescription, ContentType, ProtocolVersion, SupportedCipherSuite};

use super::{Material, SUITES};
use crate::limits::{AES_GCM_RECORDS_MAX, CONTROL_RECORDS_RESERVE};
use crate::record::{Aead, Opened, Opener, SealError, Sealer, TrafficKeys, Version};

const DATA: ContentType = ContentType::ApplicationData;

fn encrypter(material: &Material) -> Box<dyn MessageEncrypter> {
    match material.rustls_suite() {
        SupportedCipherSuite::Tls13(suite) => suite
            .aead_alg
            .encrypter(material.aead_key(), Iv::new(material.iv)),
        SupportedCipherSuite::Tls12(suite) => {
            let (iv, explicit) = match material.aead() {
                Aead::Chacha20Poly1305 => (&material.iv[..], &[][..]),
                Aead::Aes128Gcm | Aead::Aes256Gcm => material.iv.split_at(4),
            };
            suite.aead_alg.encrypter(material.aead_key(), iv, explicit)
        }
    }
}

fn decrypter(material: &Material) -> Box<dyn MessageDecrypter> {
    match material.rustls_suite() {
        SupportedCipherSuite::Tls13(suite) => suite
            .aead_alg
            .decrypter(material.aead_key(), Iv::new(material.iv)),
        SupportedCipherSuite::Tls12(suite) => {
            let iv_bytes = match material.aead() {
                Aead::Chacha20Poly1305 => 12,
                Aead::Aes128Gcm | Aead::Aes256Gcm => 4,
            };
            suite
                .aead_alg
                .decrypter(material.aead_key(), &material.iv[..iv_bytes])
        }
    }
}

fn rustls_seal(material: &Material, sequence: u64, kind: ContentType, payload: &[u8]) -> Vec<u8> {
    let message = OutboundPlainMessage {
        typ: kind,
        version: ProtocolVersion::TLSv1_2,
        payload: OutboundChunks::Single(payload),
    };
    encrypter(material)
        .encrypt(message, sequence)
        .unwrap()
        .encode()
}

/// A record whose TLS 1.3 inner plaintext is exactly `inner`, padding and type included.
fn seal_inner(material: &Material, sequence: u64, inner: &[u8]) -> Vec<u8> {
    let (kind, content) = inner.split_last().unwrap();
    rustls_seal(material, sequence, ContentType::from(*kind), content)
}

fn sealed(sealer: &mut Sealer, kind: ContentType, payload: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut record = vec![0xee; sealer.prefix_bytes()];
    record.extend_from_slice(payload);
    record.resize(record.len() + sealer.suffix_bytes(), 0xee);
    sealer.seal(&mut record, kind)?;
    Ok(record)
}

fn opener(material: &Material, sequence: u64) -> Opener {
    Opener::new(material.keys(sequence)).unwrap()
}

fn sealer(material: &Material, sequence: u64) -> Sealer {
    Sealer::new(material.keys(sequence), u64::MAX).unwrap()
}

fn alert_of(opener: &mut Opener, record: &[u8]) -> AlertDescription {
    opener.open(&mut record.to_vec()).unwrap_err().alert
}

fn material() -> impl Strategy<Value = Material> {
    (0..SUITES.len(), any::<[u8; 32]>(), any::<[u8; 12]>()).prop_map(|(suite, key, iv)| Material {
        suite,
        key,
        iv,
    })
}

fn kind() -> impl Strategy<Value = ContentType> {
    prop_oneof![
        Just(DATA),
        Just(ContentType::Alert),
        Just(ContentType::Handshake)
    ]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![4 => 1_usize..200, 1 => 200_usize..=16_384, 1 => Just(16_384)];
    length.prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length))
}

proptest! {
    #[test]
    fn sealing_gives_the_bytes_that_rustls_gives(
        material in material(), sequence in 0..AES_GCM_RECORDS_MAX, kind in kind(), payload in payload(),
    ) {
        let mut sealer = sealer(&material, sequence);
        let record = sealed(&mut sealer, kind, &payload).unwrap();
        prop_assert_eq!(&record, &rustls_seal(&material, sequence, kind, &payload));
        prop_assert_eq!(sealer.keys().sequence(), sequence + 1);

        let (prefix, suffix) = material.overhead();
        prop_assert_eq!((sealer.prefix_bytes(), sealer.suffix_bytes()), (prefix, suffix));
        let outer = if material.version() == Version::Tls13 { DATA } else { kind };
        let mut fragment = record[5..].to_vec();
        let message = InboundOpaqueMessage::new(outer, ProtocolVersion::TLSv1_2, &mut fragment);
        let mut decrypter = decrypter(&material);
        let plain = decrypter.decrypt(message, sequence).unwrap();
        prop_assert_eq!((plain.typ, plain.payload), (kind, &payload[..]));
    }

    #[test]
    fn opening_takes_what_rustls_sealed(
        material in material(), sequence in 0..u64::MAX, kind in kind(), payload in payload(),
        after in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let record = rustls_seal(&material, sequence, kind, &payload);
        let mut input = [&record[..], &after].concat();
        let mut opener = opener(&material, sequence);
        let Opened::Record { consumed, content_type, payload: range } =
            opener.open(&mut input).unwrap() else { panic!("incomplete") };
        prop_assert_eq!(consumed, record.len());
        prop_assert_eq!(content_type, kind);
        prop_assert_eq!(&input[range], &payload[..]);
        prop_assert_eq!(&input[consumed..], &after[..]);
        prop_assert_eq!(opener.keys().sequence(), sequence + 1);
    }

    #[test]
    fn opening_names_the_exact_bytes_that_are_missing(
        material in material(), payload in payload(), cut in any::<prop::sample::Index>(),
    ) {
        let mut record = rustls_seal(&material, 0, DATA, &payload);
        let whole = record.len();
        let cut = cut.index(whole);
        let before = record.clone();
        let missing = if cut < 5 { 5 - cut } else { whole - cut };
        let mut opener = opener(&material, 0);
        prop_assert_eq!(opener.open(&mut record[..cut]).unwrap(), Opened::Incomplete { missing });
        prop_assert_eq!(&record, &before);
        let opened = opener.open(&mut record).unwrap();
        prop_assert!(matches!(opened, Opened::Record { .. }), "{:?}", opened);
    }

    #[test]
    fn padding_of_any_length_is_taken_off(
        key in any::<[u8; 32]>(), suite in 0..3_usize, payload in proptest::collection::vec(any::<u8>(), 0..300),
        padding in 0..16_000_usize,
    ) {
        let material = Material { suite, key, iv: [3; 12] };
        let mut inner = payload.clone();
        inner.push(23);
        inner.resize(inner.len() + padding, 0);
        let mut record = seal_inner(&material, 7, &inner);
        let opened = opener(&material, 7).open(&mut record).unwrap();
        prop_assert_eq!(opened, Opened::Record {
            consumed: record.len(), content_type: DATA, payload: 5..5 + payload.len(),
        });
        prop_assert_eq!(&record[5..5 + payload.len()], &payload[..]);
    }

    #[test]
    fn a_changed_record_is_never_opened(
        material in material(), payload in payload(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let mut record = rustls_seal(&material, 1, DATA, &payload);
        let at = at.index(record.len());
        record[at] ^= 1 << bit;
        let opened = opener(&material, 1).open(&mut record);
        prop_assert!(
            matches!(opened, Err(_) | Ok(Opened::Incomplete { .. })),
            "byte {} gave {:?}", at, opened
        );
    }

    #[test]
    fn arbitrary_bytes_never_panic_or_decrypt(
        suite in 0..SUITES.len(), framed in any::<bool>(),
        mut input in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        if let (true, [kind, major, minor, high, _, ..]) = (framed, &mut input[..]) {
            (*kind, *major, *minor, *high) = (23, 3, 3, *high & 1);
        }
        let opened = opener(&Material::of(suite), 0).open(&mut input);
        let is_record = matches!(opened, Ok(Opened::Record { .. }));
        prop_assert!(!is_record);
        if let Ok(Opened::Incomplete { missing }) = opened {
            prop_assert!(missing > 0);
        }
    }
}

#[test]
fn rfc8446_5_1_record_longer_than_2_14_is_record_overflow() {
    for suite in 0..SUITES.len() {
        let material = Material::of(suite);
        let (prefix, suffix) = material.overhead();
        let longest = 16_384 + prefix - 5 + suffix;
        let header = |bytes: usize| [23, 3, 3, (bytes >> 8) as u8, bytes as u8];
        let missing = opener(&material, 0).open(&mut header(longest)).unwrap();
        assert_eq!(missing, Opened::Incomplete { missing: longest });
        for bytes in [longest + 1, 16_384 + 257, 16_384 + 2_049, 65_535] {
            let alert = alert_of(&mut opener(&material, 0), &header(bytes));
            assert_eq!(
                alert,
                AlertDescription::RecordOverflow,
                "suite {suite}, {bytes} bytes"
            );
        }
    }
}

#[test]
fn rfc8446_5_4_inner_plaintext_of_2_14_and_one_bytes_may_be_all_but_type_padding() {
    let material = Material::of(0);
    let mut inner = vec![0; 16_385];
    inner[0] = 23;
    let mut record = seal_inner(&material, 0, &inner);
    let opened = opener(&material, 0).open(&mut record).unwrap();
    let consumed = record.len();
    assert_eq!(
        opened,
        Opened::Record {
            consumed,
            content_type: DATA,
            payload: 5..5
        }
    );
}

#[test]
fn rfc8446_5_4_cleartext_without_a_non_zero_byte_is_unexpected_message() {
    for suite in 0..3 {
        let material = Material::of(suite);
        for zeros in [1, 2, 16_385] {
            let record = seal_inner(&material, 0, &vec![0; zeros]);
            let alert = alert_of(&mut opener(&material, 0), &record);
            assert_eq!(alert, AlertDescription::UnexpectedMessage);
        }
    }
}

#[test]
fn rfc8446_5_2_record_that_does_not_decrypt_is_bad_record_mac() {
    for suite in 0..SUITES.len() {
        let material = Material::of(suite);
        for bytes in [0_usize, 1, 15, 16, 17, 24, 100] {
            let mut record = vec![23, 3, 3, 0, bytes as u8];
            record.resize(5 + bytes, 0x77);
            let alert = alert_of(&mut opener(&material, 0), &record);
            assert_eq!(
                alert,
                AlertDescription::BadRecordMac,
                "suite {suite}, {bytes} bytes"
            );
        }
        let record = rustls_seal(&material, 4, DATA, b"replayed or reordered");
        let alert = alert_of(&mut opener(&material, 5), &record);
        assert_eq!(alert, AlertDescription::BadRecordMac);
    }
}

#[test]
fn rfc8446_5_2_outer_type_other_than_application_data_is_unexpected_message() {
    for suite in 0..3 {
        for kind in (0..=255).filter(|kind| *kind != 23) {
            let alert = alert_of(&mut opener(&Material::of(suite), 0), &[kind, 3, 3, 0, 1]);
            assert_eq!(alert, AlertDescription::UnexpectedMessage, "type {kind}");
        }
    }
}

#[test]
fn rfc8446_5_change_cipher_spec_after_finished_is_unexpected_message() {
    for suite in 0..SUITES.len() {
        let alert = alert_of(&mut opener(&Material::of(suite), 0), &[20, 3, 3, 0, 1, 1]);
        assert_eq!(alert, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn rfc5246_6_2_1_unknown_record_type_is_unexpected_message() {
    for suite in 3..SUITES.len() {
        for kind in [0, 19, 24, 25, 128, 255] {
            let alert = alert_of(&mut opener(&Material::of(suite), 0), &[kind, 3, 3, 0, 40]);
            assert_eq!(alert, AlertDescription::UnexpectedMessage, "type {kind}");
        }
    }
}

#[test]
fn rfc8446_5_2_record_version_other_than_3_3_is_decode_error() {
    for suite in 0..SUITES.len() {
        for version in [[3, 1], [3, 4], [2, 3], [0, 0], [0xfe, 0xfd]] {
            let header = [23, version[0], version[1], 0, 40];
            let alert = alert_of(&mut opener(&Material::of(suite), 0), &header);
            assert_eq!(alert, AlertDescription::DecodeError);
        }
    }
}

#[test]
fn rfc8446_5_3_sequence_number_never_wraps() {
    let chacha = Material::of(2);
    let mut last = sealer(&chacha, u64::MAX - 1);
    assert_eq!(last.records_left(), 0);
    assert_eq!(sealed(&mut last, DATA, b"x"), Err(SealError::KeyExhausted));
    assert!(sealed(&mut last, ContentType::Alert, &[1, 0]).is_ok());
    assert_eq!(
        sealed(&mut last, ContentType::Alert, &[1, 0]),
        Err(SealError::KeyExhausted)
    );
    assert_eq!(last.keys().sequence(), u64::MAX);

    let record = rustls_seal(&chacha, u64::MAX, DATA, b"x");
    let mut opener = opener(&chacha, u64::MAX);
    assert_eq!(
        alert_of(&mut opener, &record),
        AlertDescription::InternalError
    );
    assert_eq!(opener.keys().sequence(), u64::MAX);
}

#[test]
fn rfc8446_5_5_an_aes_gcm_key_seals_no_more_than_its_limit() {
    for suite in [0, 1, 3, 4] {
        let material = Material::of(suite);
        let at_limit = sealer(&material, AES_GCM_RECORDS_MAX - 1);
        assert_eq!(at_limit.records_left(), 1);

        let mut sealer = Sealer::new(material.keys(1), 3).unwrap();
        assert_eq!(sealer.records_left(), 2);
        assert!(sealed(&mut sealer, DATA, b"a").is_ok());
        assert!(sealed(&mut sealer, DATA, b"b").is_ok());
        assert_eq!(sealer.records_left(), 0);
        assert_eq!(
            sealed(&mut sealer, DATA, b"c"),
            Err(SealError::KeyExhausted)
        );
        assert_eq!(sealer.keys().sequence(), 3);
        for _ in 0..CONTROL_RECORDS_RESERVE {
            assert!(sealed(&mut sealer, ContentType::Handshake, &[24, 0, 0, 1, 0]).is_ok());
        }
        let message = sealed(&mut sealer, ContentType::Handshake, &[24, 0, 0, 1, 0]);
        assert_eq!(message, Err(SealError::KeyExhausted));

        sealer
            .replace(
                Material {
                    key: [9; 32],
                    ..material
                }
                .keys(0),
            )
            .unwrap();
        assert_eq!(sealer.records_left(), 3);
        assert!(sealed(&mut sealer, DATA, b"c").is_ok());
    }
}

#[test]
fn rfc8446_5_5_chacha20_poly1305_has_no_record_limit() {
    for suite in [2, 5] {
        let mut sealer = Sealer::new(Material::of(suite).keys(1 << 40), 3).unwrap();
        assert!(sealer.records_left() > 1 << 62);
        assert!(sealed(&mut sealer, DATA, b"a").is_ok());
    }
}

#[test]
fn sealing_refuses_what_is_no_record_and_uses_no_sequence_number() {
    for suite in 0..SUITES.len() {
        let mut sealer = sealer(&Material::of(suite), 0);
        let (prefix, suffix) = Material::of(suite).overhead();
        for bytes in [0, 1, 5, prefix + suffix - 1, prefix + suffix + 16_385] {
            assert_eq!(
                sealer.seal(&mut vec![0; bytes], DATA),
                Err(SealError::Length)
            );
        }
        for kind in [ContentType::Alert, ContentType::Handshake] {
            assert_eq!(sealed(&mut sealer, kind, b""), Err(SealError::Length));
        }
        assert_eq!(sealer.keys().sequence(), 0);
        assert!(sealed(&mut sealer, DATA, b"").is_ok());
    }
}

#[test]
fn seal_copy_appends_a_record_or_nothing() {
    let material = Material::of(3);
    let mut sealer = Sealer::new(material.keys(0), 0).unwrap();
    let mut out = b"before".to_vec();
    assert_eq!(
        sealer.seal_copy(&mut out, DATA, b"x"),
        Err(SealError::KeyExhausted)
    );
    assert_eq!(out, b"before");
    sealer
        .seal_copy(&mut out, ContentType::Alert, &[1, 0])
        .unwrap();
    assert_eq!(
        out[6..],
        rustls_seal(&material, 0, ContentType::Alert, &[1, 0])
    );
}

#[test]
fn a_key_of_the_wrong_length_is_refused() {
    use rustls::ConnectionTrafficSecrets::Aes128Gcm;
    let material = Material::of(0);
    let secrets = Aes128Gcm {
        key: [1; 32].into(),
        iv: Iv::new([2; 12]),
    };
    assert!(TrafficKeys::from_rustls(material.rustls_suite(), (0, secrets)).is_err());
}

#[test]
fn debug_output_holds_no_secret() {
    let material = Material {
        suite: 0,
        key: [0xab; 32],
        iv: [0xcd; 12],
    };
    let text = format!("{:?}", material.keys(5));
    assert_eq!(
        text,
        "TrafficKeys { version: Tls13, aead: Aes128Gcm, sequence: 5, .. }"
    );
}
