//! Contents that show where a byte was lost, doubled or swapped.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

pub(crate) const KIB: usize = 1024;
pub(crate) const MIB: usize = 1024 * KIB;

/// The sizes that cross every border of the data path: nothing, one byte, one segment, one full
/// record, many records in a send buffer, more than all buffers together.
pub(crate) const SIZES: [usize; 6] = [0, 1, KIB, 16 * KIB, MIB, 64 * MIB];

/// The first `length` bytes of a stream without a period, so that no two places look alike.
pub(crate) fn content(length: usize) -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    let all = CONTENT.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(64 * MIB);
        while bytes.len() < 64 * MIB {
            // xorshift64 (Marsaglia 2003): period 2^64 - 1.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes
    });
    &all[..length]
}

/// Writes a file of `length` bytes of [`content`].
pub(crate) fn write_content(path: &Path, length: usize) {
    fs::write(path, content(length)).unwrap();
}

/// Fails unless the two are the same, saying where they part.
pub(crate) fn assert_same_bytes(found: &[u8], wanted: &[u8], what: &str) {
    if found == wanted {
        return;
    }
    let common = found.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    let mut message = format!(
        "{what}: {} bytes instead of {}, the same up to {common}",
        found.len(),
        wanted.len()
    );
    if let Some(rest) = found.get(common..).filter(|rest| !rest.is_empty()) {
        let shown = &rest[..rest.len().min(64)];
        write!(message, ", then {:?}", String::from_utf8_lossy(shown)).unwrap();
    }
    panic!("{message}");
}
