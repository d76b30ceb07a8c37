//! The Huffman code of string literals (RFC 7541 5.2 and Appendix B).
//!
//! The code is canonical: sorted by length, then by symbol, the codes are consecutive numbers. So
//! the lengths alone define it, and all tables are computed from them when this is compiled.

use super::Error;

/// How many bytes `text` takes in Huffman code.
pub fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text
        .iter()
        .map(|&byte| usize::from(code_of(byte).bits))
        .sum();
    bits.div_ceil(8)
}

/// Appends `text` in Huffman code.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    // The pending bits are the low `pending_bits` of `pending`: under 32 before each symbol, so
    // that the longest code still fits.
    let mut pending = 0_u64;
    let mut pending_bits = 0_u32;
    for &byte in text {
        let code = code_of(byte);
        pending = pending << code.bits | u64::from(code.value);
        pending_bits += u32::from(code.bits);
        if pending_bits >= 32 {
            pending_bits -= 32;
            #[expect(clippy::cast_possible_truncation, reason = "the upper bits were sent")]
            out.extend_from_slice(&((pending >> pending_bits) as u32).to_be_bytes());
        }
    }
    // RFC 7541 5.2: the rest of the last byte is the most significant bits of EOS, which are ones.
    let padding = pending_bits.wrapping_neg() % 8;
    pending = pending << padding | ((1 << padding) - 1);
    let rest_bytes = (pending_bits + padding) as usize / 8;
    let bytes = pending.to_be_bytes();
    out.extend_from_slice(bytes.get(bytes.len() - rest_bytes..).unwrap_or_default());
}

/// Appends the text that `code` stands for: at most 8/5 of its length.
///
/// # Errors
/// RFC 7541 5.2: EOS within the string, or padding that is longer than 7 bits or not the most
/// significant bits of EOS. What was appended until then stays.
pub fn decode(code: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    out.resize(start + code.len() * 8 / SHORTEST_CODE_BITS + 1, 0);
    let decoded = decode_into(code, out.get_mut(start..).unwrap_or_default());
    out.truncate(start + decoded.unwrap_or(0));
    decoded.map(|_| ()).ok_or(Error::Huffman)
}

/// Decodes into `out`, which has room for one symbol more than `code` can hold; returns how many
/// symbols it has.
fn decode_into(code: &[u8], out: &mut [u8]) -> Option<usize> {
    let room = out.len();
    let mut slots = out.iter_mut();
    let mut words = code.chunks_exact(4);
    // The next `valid` bits of the code are at the top of `window`.
    let mut window = 0_u64;
    let mut valid = 0_u32;
    for word in words.by_ref() {
        let word = u32::from_be_bytes(word.try_into().ok()?);
        window |= u64::from(word) << (32 - valid);
        valid += 32;
        while valid >= LONGEST_CODE_BITS {
            let symbol = next_symbol(window)?;
            *slots.next()? = symbol.byte;
            window <<= symbol.bits;
            valid -= u32::from(symbol.bits);
        }
    }
    for &byte in words.remainder() {
        window |= u64::from(byte) << (56 - valid);
        valid += 8;
    }
    loop {
        // Behind the end come ones, as in EOS: padding then reads as (part of) EOS.
        let padded = window | u64::MAX.checked_shr(valid).unwrap_or(0);
        if valid < 8 && padded == u64::MAX {
            return Some(room - slots.len());
        }
        let symbol = next_symbol(padded)?;
        valid = valid.checked_sub(u32::from(symbol.bits))?;
        window <<= symbol.bits;
        *slots.next()? = symbol.byte;
    }
}

/// The symbol whose code is at the top of `window`; `None` for EOS.
#[inline]
fn next_symbol(window: u64) -> Option<Symbol> {
    let symbol = *SHORT_CODES.get((window >> (64 - SHORT_CODE_BITS)) as usize)?;
    match symbol.bits {
        0 => long_symbol(window),
        _ => Some(symbol),
    }
}

/// The same, of one whose code is a long one.
#[inline(never)]
fn long_symbol(window: u64) -> Option<Symbol> {
    // One comparison per length in use, of which there are few: such symbols are rare in text, and
    // a peer that sends only them pays at least 11 bits for each.
    let code = window >> (64 - LONGEST_CODE_BITS);
    let range = LONG_CODES.iter().find(|range| code < range.end)?;
    let distance = (code - range.start) >> (LONGEST_CODE_BITS - u32::from(range.bits));
    let byte = *SYMBOLS_BY_CODE.get(range.first + usize::try_from(distance).ok()?)?;
    // EOS is the last symbol of the order and the only one that is not a byte.
    Some(Symbol {
        byte: u8::try_from(byte).ok()?,
        bits: range.bits,
    })
}

fn code_of(byte: u8) -> Code {
    CODES.get(usize::from(byte)).copied().unwrap_or(NO_CODE)
}

/// A symbol's code in the low `bits` of `value`.
#[derive(Clone, Copy)]
struct Code {
    value: u32,
    bits: u8,
}

/// A decoded symbol and the length of its code; zero bits where the code is a long one.
#[derive(Clone, Copy)]
struct Symbol {
    byte: u8,
    bits: u8,
}

/// The codes of one length, each followed by zeros up to the longest length.
#[derive(Clone, Copy)]
struct CodeRange {
    bits: u8,
    /// The first code.
    start: u64,
    /// What follows the last code.
    end: u64,
    /// Where the first code's symbol is in [`SYMBOLS_BY_CODE`].
    first: usize,
}

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "computed when compiled: an index out of range would not compile"
)]
const fn symbols_by_code() -> [u16; SYMBOLS] {
    let mut symbols = [0; SYMBOLS];
    let mut next = 0;
    let mut bits = 1;
    while bits <= LONGEST_CODE_BITS as u8 {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if CODE_BITS[symbol] == bits {
                symbols[next] = symbol as u16;
                next += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    assert!(next == SYMBOLS);
    symbols
}

#[expect(
    clippy::indexing_slicing,
    reason = "computed when compiled: an index out of range would not compile"
)]
const fn codes() -> [Code; SYMBOLS] {
    let mut codes = [NO_CODE; SYMBOLS];
    let mut next = Code { value: 0, bits: 0 };
    let mut i = 0;
    while i < SYMBOLS {
        let symbol = SYMBOLS_BY_CODE[i] as usize;
        let bits = CODE_BITS[symbol];
        next.value <<= bits - next.bits;
        next.bits = bits;
        codes[symbol] = next;
        next.value += 1;
        i += 1;
    }
    // A complete code: the one after the last would be the first of a longer length.
    assert!(next.value == 1 << LONGEST_CODE_BITS);
    codes
}

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "computed when compiled: an index out of range would not compile"
)]
const fn short_codes() -> [Symbol; 1 << SHORT_CODE_BITS] {
    let mut table = [Symbol { byte: 0, bits: 0 }; 1 << SHORT_CODE_BITS];
    let mut symbol = 0;
    while symbol < SYMBOLS {
        let Code { value, bits } = CODES[symbol];
        if bits as u32 <= SHORT_CODE_BITS {
            let free_bits = SHORT_CODE_BITS - bits as u32;
            let mut suffix = 0;
            while suffix < 1 << free_bits {
                table[(value << free_bits | suffix) as usize] = Symbol {
                    byte: symbol as u8,
                    bits,
                };
                suffix += 1;
            }
        }
        symbol += 1;
    }
    table
}

#[expect(
    clippy::indexing_slicing,
    reason = "computed when compiled: an index out of range would not compile"
)]
const fn long_codes() -> [CodeRange; LONG_CODE_LENGTHS] {
    let mut ranges = [CodeRange {
        bits: 0,
        start: 0,
        end: 0,
        first: 0,
    }; LONG_CODE_LENGTHS];
    let mut next = 0;
    let mut i = 0;
    while i < SYMBOLS {
        let Code { value, bits } = CODES[SYMBOLS_BY_CODE[i] as usize];
        if bits as u32 > SHORT_CODE_BITS {
            let free_bits = LONGEST_CODE_BITS - bits as u32;
            if next == 0 || ranges[next - 1].bits != bits {
                ranges[next].bits = bits;
                ranges[next].start = (value as u64) << free_bits;
                ranges[next].first = i;
                next += 1;
            }
            ranges[next - 1].end = (value as u64 + 1) << free_bits;
        }
        i += 1;
    }
    assert!(next == LONG_CODE_LENGTHS);
    ranges
}

const NO_CODE: Code = Code { value: 0, bits: 0 };

static CODES: [Code; SYMBOLS] = codes();

/// The symbols in the order of their codes.
static SYMBOLS_BY_CODE: [u16; SYMBOLS] = symbols_by_code();

/// By the next ten bits, the symbol whose code they begin with: 2 KiB that hold every symbol a
/// header usually has.
static SHORT_CODES: [Symbol; 1 << SHORT_CODE_BITS] = short_codes();

/// The longer codes, in order.
static LONG_CODES: [CodeRange; LONG_CODE_LENGTHS] = long_codes();

const SHORT_CODE_BITS: u32 = 10;
const SHORTEST_CODE_BITS: usize = 5;
const LONGEST_CODE_BITS: u32 = 30;

/// How many different lengths over [`SHORT_CODE_BITS`] there are.
const LONG_CODE_LENGTHS: usize = 16;

/// Every byte, and EOS.
const SYMBOLS: usize = 257;

/// The length of each symbol's code (RFC 7541 Appendix B); the last is EOS.
#[rustfmt::skip]
const CODE_BITS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

#[cfg(test)]
#[path = "huffman_tests.rs"]
mod tests;
