//! Header lists compressed by an independent implementation: the package `hpack` 4.2.0 for Python,
//! fed with random lists (names and values common and arbitrary), random table sizes, with and
//! without Huffman code.
//!
//! The data: `connection` begins a new encoder; `block` and its hex; then a line per field that it
//! must give, name and value in hex.

use super::decode::{Bounds, Decoder, HeaderList};
use super::encode::{Encoder, Indexing};

const VECTORS: &str = include_str!("interop_vectors.txt");

const BOUNDS: Bounds = Bounds {
    list_bytes_max: 1 << 20,
    fields_max: 1000,
};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The blocks of each connection with their fields.
fn connections() -> Vec<Vec<(Vec<u8>, Fields)>> {
    let mut connections: Vec<Vec<(Vec<u8>, Fields)>> = Vec::new();
    for line in VECTORS.lines() {
        match line.split_once(' ') {
            None => connections.push(Vec::new()),
            Some(("block", hex)) => {
                connections
                    .last_mut()
                    .unwrap()
                    .push((bytes(hex), Vec::new()));
            }
            Some((name, value)) => {
                let (_, fields) = connections.last_mut().unwrap().last_mut().unwrap();
                fields.push((bytes(name), bytes(value)));
            }
        }
    }
    connections
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    let pairs = pairs.map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Fields {
    let mut list = HeaderList::default();
    decoder.decode(block, &BOUNDS, &mut list).unwrap();
    list.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect()
}

#[test]
fn blocks_of_an_independent_encoder_decode_to_their_lists() {
    let connections = connections();
    assert_eq!(connections.len(), 6);
    for blocks in connections {
        assert_eq!(blocks.len(), 8);
        let mut decoder = Decoder::new();
        for (block, fields) in blocks {
            assert_eq!(decoded(&mut decoder, &block), fields);
        }
    }
}

#[test]
fn the_same_lists_survive_our_encoder() {
    for blocks in connections() {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new();
        for (_, fields) in blocks {
            let mut out = Vec::new();
            encoder.begin(&mut out);
            for (name, value) in &fields {
                encoder.field(name, value, Indexing::of(name), &mut out);
            }
            assert_eq!(decoded(&mut decoder, &out), fields);
        }
    }
}
