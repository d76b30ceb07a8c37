//! The hand-over to the kernel: that the kernel can go on where user space stopped, and that no nonce
//! comes twice.

use std::collections::HashSet;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use ktls::CryptoInfo;
use proptest::prelude::*;
use rustls::ContentType;

use super::{Material, SUITES};
use crate::record::{Aead, Opened, Opener, Sealer, Version};

/// The sending half of net/tls as the kernel's sources describe it: `tls_set_sw_offload` takes salt,
/// IV and sequence number; `tls_do_encryption` XORs IV and sequence number in TLS 1.3 and for
/// ChaCha20-Poly1305; `tls_advance_record_sn` increments the sequence number, and in the remaining
/// case (TLS 1.2 AES-GCM) the 8 bytes of IV that also go into the record.
struct KernelSender {
    algorithm: &'static Algorithm,
    key: Vec<u8>,
    iv: [u8; 12],
    sequence: u64,
    version: Version,
}

impl KernelSender {
    fn new(info: &CryptoInfo) -> Self {
        let (algorithm, key, salt, iv, rec_seq, version) = match info {
            CryptoInfo::AesGcm128(i) => (
                &AES_128_GCM,
                &i.key[..],
                &i.salt[..],
                &i.iv[..],
                i.rec_seq,
                i.info.version,
            ),
            CryptoInfo::AesGcm256(i) => (
                &AES_256_GCM,
                &i.key[..],
                &i.salt[..],
                &i.iv[..],
                i.rec_seq,
                i.info.version,
            ),
            CryptoInfo::Chacha20Poly1305(i) => (
                &CHACHA20_POLY1305,
                &i.key[..],
                &[][..],
                &i.iv[..],
                i.rec_seq,
                i.info.version,
            ),
            CryptoInfo::AesCcm128(_) | CryptoInfo::Sm4Gcm(_) | CryptoInfo::Sm4Ccm(_) => {
                panic!("not a cipher of ours")
            }
        };
        Self {
            algorithm,
            key: key.to_vec(),
            iv: [salt, iv].concat().try_into().unwrap(),
            sequence: u64::from_be_bytes(rec_seq),
            version: match version {
                0x0303 => Version::Tls12,
                0x0304 => Version::Tls13,
                other => panic!("version {other:#x}"),
            },
        }
    }

    fn increments_iv(&self) -> bool {
        self.version == Version::Tls12 && self.algorithm != &CHACHA20_POLY1305
    }

    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        if !self.increments_iv() {
            for (byte, sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
                *byte ^= sequence;
            }
        }
        nonce
    }

    fn advance(&mut self) {
        self.sequence += 1;
        if self.increments_iv() {
            let explicit = u64::from_be_bytes(self.iv[4..].try_into().unwrap());
            self.iv[4..].copy_from_slice(&explicit.wrapping_add(1).to_be_bytes());
        }
    }

    fn send(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let nonce = self.nonce();
        let key = LessSafeKey::new(UnboundKey::new(self.algorithm, &self.key).unwrap());
        let mut body = payload.to_vec();
        let mut record = match self.version {
            Version::Tls13 => {
                body.push(kind);
                vec![23, 3, 3]
            }
            Version::Tls12 => vec![kind, 3, 3],
        };
        let explicit = if self.increments_iv() {
            &nonce[4..]
        } else {
            &[]
        };
        record.extend(((explicit.len() + body.len() + 16) as u16).to_be_bytes());
        let additional = match self.version {
            Version::Tls13 => record.clone(),
            Version::Tls12 => {
                let length = (payload.len() as u16).to_be_bytes();
                [&self.sequence.to_be_bytes()[..], &[kind, 3, 3], &length].concat()
            }
        };
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(additional),
            &mut body,
        )
        .unwrap();
        record.extend(explicit);
        record.extend(body);
        self.advance();
        record
    }
}

/// The nonce of a record that our sealer made.
fn user_space_nonce(material: &Material, sequence: u64) -> [u8; 12] {
    let mut nonce = material.iv;
    for (byte, sequence) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
        *byte ^= sequence;
    }
    nonce
}

#[test]
fn the_kernel_goes_on_where_user_space_stopped() {
    for suite in 0..SUITES.len() {
        let material = Material::of(suite);
        let mut sealer = Sealer::new(material.keys(1), u64::MAX).unwrap();
        let mut opener = Opener::new(material.keys(1)).unwrap();
        let mut wire = Vec::new();
        for _ in 0..3 {
            sealer
                .seal_copy(&mut wire, ContentType::ApplicationData, b"from user space")
                .unwrap();
        }
        let mut kernel = KernelSender::new(&sealer.keys().to_kernel().unwrap());
        assert_eq!(kernel.version, material.version());
        assert_eq!(kernel.sequence, 4);
        for _ in 0..3 {
            wire.extend(kernel.send(23, b"from the kernel"));
        }
        let mut texts = Vec::new();
        let mut rest = &mut wire[..];
        while !rest.is_empty() {
            let Opened::Record {
                consumed, payload, ..
            } = opener.open(rest).unwrap()
            else {
                panic!("incomplete")
            };
            texts.push(String::from_utf8(rest[payload].to_vec()).unwrap());
            rest = &mut rest[consumed..];
        }
        assert_eq!(texts[..3], ["from user space"; 3]);
        assert_eq!(texts[3..], ["from the kernel"; 3]);
    }
}

#[test]
fn rfc5288_3_explicit_nonces_are_those_of_the_proof() {
    let material = Material::of(3);
    let mut wire = Vec::new();
    let mut sealer = Sealer::new(material.keys(1), u64::MAX).unwrap();
    sealer
        .seal_copy(&mut wire, ContentType::ApplicationData, b"x")
        .unwrap();
    assert_eq!(wire[5..13], user_space_nonce(&material, 1)[4..]);

    let mut kernel = KernelSender::new(&sealer.keys().to_kernel().unwrap());
    let base = u64::from_be_bytes(material.iv[4..].try_into().unwrap());
    let first = (base ^ (1 << 63)) & !(1 << 62);
    assert_eq!(kernel.send(23, b"x")[5..13], first.to_be_bytes());
    assert_eq!(kernel.send(23, b"x")[5..13], (first + 1).to_be_bytes());
}

#[test]
fn rfc5288_3_no_explicit_nonce_comes_twice_around_a_hand_over() {
    const BASES: [u64; 8] = [
        0,
        1,
        u64::MAX,
        1 << 63,
        (1 << 63) - 1,
        1 << 62,
        (1 << 62) - 1,
        0xdead_beef_0bad_cafe,
    ];
    for suite in [3, 4] {
        for base in BASES {
            let mut material = Material::of(suite);
            material.iv[4..].copy_from_slice(&base.to_be_bytes());
            let handed_over_at = 1000;
            let mut used: HashSet<_> = (0..handed_over_at)
                .map(|n| user_space_nonce(&material, n))
                .collect();
            let mut kernel = KernelSender::new(&material.keys(handed_over_at).to_kernel().unwrap());
            for k in 0..2000 {
                assert!(
                    used.insert(kernel.nonce()),
                    "base {base:#x}: record {k} repeats a nonce"
                );
                kernel.advance();
            }
        }
    }
}

#[test]
fn the_extracted_iv_itself_would_repeat_the_nonce_of_finished() {
    let material = Material::of(3);
    let info = CryptoInfo::from_rustls(material.rustls_suite(), (1, material.secrets())).unwrap();
    assert_eq!(
        KernelSender::new(&info).nonce(),
        user_space_nonce(&material, 0)
    );
}

proptest! {
    #[test]
    fn rfc5288_3_the_two_nonce_sets_are_apart(
        base in any::<u64>(), n in 0..1_u64 << 62, k in 0..1_u64 << 62, at in 0..1_u64 << 24,
    ) {
        let mut material = Material::of(4);
        material.iv[4..].copy_from_slice(&base.to_be_bytes());
        let mut kernel = KernelSender::new(&material.keys(at).to_kernel().unwrap());
        let first = u64::from_be_bytes(kernel.iv[4..].try_into().unwrap());
        kernel.iv[4..].copy_from_slice(&first.wrapping_add(k).to_be_bytes());
        prop_assert_ne!(kernel.nonce(), user_space_nonce(&material, n));
        // A repetition would need n and k to meet: the sets are told apart by their top bit alone.
        prop_assert_eq!((base ^ n) >> 63, 1 ^ (first.wrapping_add(k) >> 63));
    }
}

#[test]
fn a_sequence_number_beyond_the_proof_is_not_handed_over() {
    for suite in 0..SUITES.len() {
        let material = Material::of(suite);
        assert!(material.keys((1 << 62) - 1).to_kernel().is_ok());
        assert!(material.keys(1 << 62).to_kernel().is_err());
    }
}

#[test]
fn the_layout_is_that_of_the_suite() {
    for suite in 0..SUITES.len() {
        let material = Material::of(suite);
        let info = material.keys(9).to_kernel().unwrap();
        let kernel = KernelSender::new(&info);
        let (key_bytes, algorithm) = match material.aead() {
            Aead::Aes128Gcm => (16, &AES_128_GCM),
            Aead::Aes256Gcm => (32, &AES_256_GCM),
            Aead::Chacha20Poly1305 => (32, &CHACHA20_POLY1305),
        };
        assert_eq!(kernel.key, material.key[..key_bytes]);
        assert_eq!(kernel.algorithm, algorithm);
        assert_eq!(kernel.iv[..4], material.iv[..4]);
        let size = match material.aead() {
            Aead::Aes128Gcm => 40,
            Aead::Aes256Gcm | Aead::Chacha20Poly1305 => 56,
        };
        assert_eq!(info.size(), size);
    }
}
