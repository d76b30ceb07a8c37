//! Streams on both drivers, against a peer made of the record layer alone.

mod endings;
mod kernel;
mod key_updates;
mod offload;
mod receiving;
mod sending;

/// One suite of each shape of record: TLS 1.3, TLS 1.2 with an explicit nonce, TLS 1.2 without.
const SHAPES: [usize; 3] = [0, 3, 5];

const TLS13: usize = 0;
const TLS13_CHACHA20: usize = 2;
const TLS12: usize = 3;
