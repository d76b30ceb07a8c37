//! Bytes that go out together, from memory and from files.

use std::ops::Range;

use bytes::Bytes;

use super::FileRange;

/// Bytes to be sent in one go and in this order: text that is written for it, bytes that are shared
/// with others, and parts of files. A driver frames with the first and has the others moved between.
///
/// It is reused from send to send, so that a frame costs no allocation.
#[derive(Debug, Default)]
pub struct Gather {
    text: Vec<u8>,
    pieces: Vec<Piece>,
    length: usize,
}

/// One piece as a sender sees it.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Bytes in memory.
    Memory(&'a [u8]),
    /// A part of a file, which may have become shorter since it was looked at.
    File(&'a FileRange),
}

impl Part<'_> {
    /// How many bytes it has.
    pub fn length(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(range) => usize::try_from(range.length).unwrap_or(usize::MAX),
        }
    }
}

#[derive(Debug)]
enum Piece {
    Text(Range<usize>),
    Bytes(Bytes),
    File(FileRange),
}

impl Gather {
    /// How many bytes there are in all.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends what `write` appends to the buffer it is given, which holds other text before it.
    pub fn write<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let start = self.text.len();
        let result = write(&mut self.text);
        let end = self.text.len();
        self.length += end.saturating_sub(start);
        match self.pieces.last_mut() {
            Some(Piece::Text(range)) if range.end == start => range.end = end,
            _ if end > start => self.pieces.push(Piece::Text(start..end)),
            _ => {}
        }
        result
    }

    /// Appends a copy of `text`.
    pub fn push_text(&mut self, text: &[u8]) {
        self.write(|out| out.extend_from_slice(text));
    }

    /// Appends `bytes` without copying them.
    pub fn push_bytes(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.length += bytes.len();
            self.pieces.push(Piece::Bytes(bytes));
        }
    }

    /// Appends a part of a file.
    pub fn push_file(&mut self, range: FileRange) {
        if range.length > 0 {
            self.length += usize::try_from(range.length).unwrap_or(usize::MAX);
            self.pieces.push(Piece::File(range));
        }
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// The piece at `index`, in the order of sending.
    pub fn part(&self, index: usize) -> Option<Part<'_>> {
        Some(match self.pieces.get(index)? {
            Piece::Text(range) => Part::Memory(self.text.get(range.clone()).unwrap_or_default()),
            Piece::Bytes(bytes) => Part::Memory(bytes),
            Piece::File(range) => Part::File(range),
        })
    }

    /// Forgets everything and keeps the memory, unless it grew far beyond what a send needs.
    pub fn clear(&mut self) {
        self.length = 0;
        self.text.clear();
        self.pieces.clear();
        self.text.shrink_to(TEXT_KEPT_BYTES_MAX);
        self.pieces.shrink_to(PIECES_KEPT_MAX);
    }
}

/// Text of a usual send: the heads of a hundred small responses.
const TEXT_KEPT_BYTES_MAX: usize = 32 * 1024;
const PIECES_KEPT_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_a_row_is_one_piece() {
        let mut gather = Gather::default();
        gather.push_text(b"ab");
        gather.push_text(b"");
        gather.write(|out| out.push(b'c'));
        gather.push_bytes(Bytes::new());
        gather.push_bytes(Bytes::from_static(b"xy"));
        gather.push_text(b"d");
        gather.push_text(b"e");
        let parts: Vec<_> = (0..gather.pieces())
            .map(|index| match gather.part(index) {
                Some(Part::Memory(bytes)) => bytes.to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(parts, [&b"abc"[..], b"xy", b"de"]);
        assert_eq!(gather.len(), 7);
        gather.clear();
        assert!(gather.is_empty());
        assert!(gather.part(0).is_none());
    }
}
