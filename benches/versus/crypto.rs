//! What a cell's cryptography costs by itself, by the library that Portcullis uses: AES-128-GCM over a
//! request and its answer, in TLS records, and for new connections what only the two sides of a
//! handshake can do. No server of TLS can do with less.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, RSA_PSS_SHA256, RsaKeyPair,
};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::arguments::CryptoOrder;
use crate::client::{READY, say, wait_for_a_line};
use crate::cpu::own_on_cpu_ns;
use crate::figures::spread::Spread;
use crate::fixture::Key;

/// What is reported.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// CPU time of one request and its answer, the handshake before it included where there is one; the
    /// median of some batches.
    pub(crate) us: f64,
}

/// Says [`READY`], waits for a line, and reports a [`Cost`].
pub(crate) fn measure(order: &CryptoOrder) -> Result<(), Failure> {
    say(READY)?;
    wait_for_a_line()?;
    let mut exchange = order.exchange.then(Exchange::new).transpose()?;
    let signer = order.sign.map(Signer::new).transpose()?;
    let mut records = Records::new(order.bytes)?;
    let mut batches = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let start = Instant::now();
        let before_ns = own_on_cpu_ns()?;
        let mut rounds = 0_u32;
        while start.elapsed() < BATCH {
            if let Some(exchange) = &mut exchange {
                exchange.run()?;
            }
            if let Some(signer) = &signer {
                signer.run()?;
            }
            records.run()?;
            rounds += 1;
        }
        // Below 2^53, so exact as a double.
        let spent_ns = own_on_cpu_ns()?.saturating_sub(before_ns) as f64;
        batches.push(spent_ns / 1e3 / f64::from(rounds));
    }
    let us = Spread::of(batches).ok_or("no batch was measured")?.median;
    say(&serde_json::to_string(&Cost { us })?)
}

/// A server's half of a key exchange over X25519.
struct Exchange {
    random: SystemRandom,
    peer: UnparsedPublicKey<Vec<u8>>,
}

impl Exchange {
    fn new() -> Result<Self, Failure> {
        let random = SystemRandom::new();
        let peer = EphemeralPrivateKey::generate(&X25519, &random)
            .and_then(|key| key.compute_public_key())
            .map_err(|_| "no key of X25519")?;
        Ok(Self {
            random,
            peer: UnparsedPublicKey::new(&X25519, peer.as_ref().to_vec()),
        })
    }

    fn run(&mut self) -> Result<(), Failure> {
        let key =
            EphemeralPrivateKey::generate(&X25519, &self.random).map_err(|_| "no key of X25519")?;
        black_box(key.compute_public_key().map_err(|_| "no public key")?);
        agree_ephemeral(key, &self.peer, "no agreement", |secret| {
            black_box(secret);
            Ok(())
        })?;
        Ok(())
    }
}

/// The signature of a handshake.
enum Signer {
    P256(EcdsaKeyPair, SystemRandom),
    Rsa2048(RsaKeyPair, SystemRandom),
}

impl Signer {
    fn new(key: Key) -> Result<Self, Failure> {
        let random = SystemRandom::new();
        Ok(match key {
            Key::P256 => Self::P256(
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
                    .map_err(|_| "no key on P-256")?,
                random,
            ),
            Key::Rsa2048 => Self::Rsa2048(
                RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| "no RSA key")?,
                random,
            ),
        })
    }

    fn run(&self) -> Result<(), Failure> {
        match self {
            Self::P256(key, random) => {
                black_box(key.sign(random, &TRANSCRIPT).map_err(|_| "no signature")?);
            }
            Self::Rsa2048(key, random) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PSS_SHA256, random, &TRANSCRIPT, &mut signature)
                    .map_err(|_| "no signature")?;
                black_box(&signature);
            }
        }
        Ok(())
    }
}

/// A request opened and its answer sealed.
struct Records {
    key: LessSafeKey,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Records {
    fn new(answer_bytes: usize) -> Result<Self, Failure> {
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(|_| "no key of AES-128-GCM")?;
        let key = LessSafeKey::new(key);
        let mut request = vec![0x5a; REQUEST_BYTES];
        key.seal_in_place_append_tag(nonce(), Aad::from(HEADER), &mut request)
            .map_err(|_| "a record cannot be sealed")?;
        Ok(Self {
            key,
            request,
            answer: vec![0x5a; answer_bytes],
        })
    }

    fn run(&mut self) -> Result<(), Failure> {
        let mut request = self.request.clone();
        self.key
            .open_in_place(nonce(), Aad::from(HEADER), &mut request)
            .map_err(|_| "a record does not open")?;
        for record in self.answer.chunks_mut(RECORD_BYTES_MAX) {
            let tag = self
                .key
                .seal_in_place_separate_tag(nonce(), Aad::from(HEADER), record)
                .map_err(|_| "a record cannot be sealed")?;
            black_box(&tag);
        }
        Ok(())
    }
}

/// The same each time: nothing that is sealed here is sent.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([9; 12])
}

/// As long as what a server signs in TLS 1.3 with SHA-256 (RFC 8446 4.4.3).
const TRANSCRIPT: [u8; 130] = [0x20; 130];

/// As long as the header of a record, which is what TLS 1.3 authenticates beside it.
const HEADER: [u8; 5] = [23, 3, 3, 64, 17];

/// RFC 8446 5.1.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// As h2load's requests of HTTP/1.1.
const REQUEST_BYTES: usize = 100;

const BATCHES: usize = 5;
const BATCH: Duration = Duration::from_millis(50);
