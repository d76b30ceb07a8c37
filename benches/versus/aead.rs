//! What the cell's cryptography costs by itself: AES-128-GCM over a request and its answer, in TLS
//! records, by the library that Portcullis uses. No server of TLS can do with less.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::arguments::SealOrder;
use crate::client::{READY, say, wait_for_a_line};
use crate::figures::spread::Spread;

/// What is reported.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sealed {
    /// Of one request opened and its answer sealed, at the median of some batches.
    pub(crate) us: f64,
}

/// Says [`READY`], waits for a line, and reports a [`Sealed`].
pub(crate) fn measure(order: &SealOrder) -> Result<(), Failure> {
    say(READY)?;
    wait_for_a_line()?;
    let key = LessSafeKey::new(
        UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(|_| "AES-128-GCM takes no such key")?,
    );
    let mut answer = vec![0x5a; order.bytes];
    let mut request = vec![0x5a; REQUEST_BYTES];
    key.seal_in_place_append_tag(nonce(), Aad::from(HEADER), &mut request)
        .map_err(|_| "a record cannot be sealed")?;
    let mut batches = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let start = Instant::now();
        let mut rounds = 0_u32;
        while start.elapsed() < BATCH {
            let mut record = request.clone();
            key.open_in_place(nonce(), Aad::from(HEADER), &mut record)
                .map_err(|_| "a record does not open")?;
            for record in answer.chunks_mut(RECORD_BYTES_MAX) {
                let tag = key
                    .seal_in_place_separate_tag(nonce(), Aad::from(HEADER), record)
                    .map_err(|_| "a record cannot be sealed")?;
                black_box(&tag);
            }
            rounds += 1;
        }
        batches.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
    }
    let us = Spread::of(batches).ok_or("no batch was measured")?.median;
    say(&serde_json::to_string(&Sealed { us })?)
}

/// The same each time: nothing that is sealed here is sent.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([9; 12])
}

/// As long as the header of a record, which is what TLS 1.3 authenticates beside it.
const HEADER: [u8; 5] = [23, 3, 3, 64, 17];

/// RFC 8446 5.1.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// As h2load's requests of HTTP/1.1.
const REQUEST_BYTES: usize = 100;

const BATCHES: usize = 5;
const BATCH: Duration = Duration::from_millis(50);
