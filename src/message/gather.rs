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
    /// The longest piece that is not text.
    longest: usize,
    /// The longest of the bodies that begin here.
    begun: Option<u64>,
    /// Those whose frames were taken out, and how many bytes of content that were.
    cut: Vec<(u32, u64)>,
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
    /// The head of a frame that may be taken out with the piece behind it, its content.
    Head(Range<usize>, u32),
    /// It was taken out.
    Gone,
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
            self.longest = self.longest.max(bytes.len());
            self.pieces.push(Piece::Bytes(bytes));
        }
    }

    /// Appends a part of a file.
    pub fn push_file(&mut self, range: FileRange) {
        if range.length > 0 {
            let length = usize::try_from(range.length).unwrap_or(usize::MAX);
            self.length += length;
            self.longest = self.longest.max(length);
            self.pieces.push(Piece::File(range));
        }
    }

    /// Notes that a body of `bytes` in all begins here: bulk, which a sender may get ready for.
    pub fn begin_body(&mut self, bytes: u64) {
        self.begun = self.begun.max(Some(bytes));
    }

    /// The longest of the bodies that begin here.
    pub fn begun_body(&self) -> Option<u64> {
        self.begun
    }

    /// The longest piece that is not text, or was before it was taken out.
    pub fn longest_piece(&self) -> usize {
        self.longest
    }

    /// Appends the head of a frame of `owner`, whose content is the one piece that is pushed next. When
    /// the content of one cannot be had, all that follow of its owner are taken out.
    pub fn push_head(&mut self, owner: u32, head: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(head);
        self.length += head.len();
        self.pieces.push(Piece::Head(start..self.text.len(), owner));
    }

    /// Takes out the frame that the piece at `index` is the head of, and those of the same owner behind
    /// it. Gives how many bytes that were.
    pub fn cut_off(&mut self, index: usize) -> usize {
        let Some(Piece::Head(_, owner)) = self.pieces.get(index) else {
            return 0;
        };
        let owner = *owner;
        let (mut heads, mut contents) = (0, 0);
        let mut is_content = false;
        for piece in self.pieces.iter_mut().skip(index) {
            let length = piece.as_part(&self.text).length();
            if is_content {
                contents += length;
            } else if matches!(piece, Piece::Head(_, other) if *other == owner) {
                heads += length;
            } else {
                continue;
            }
            is_content = !is_content;
            *piece = Piece::Gone;
        }
        self.length -= heads + contents;
        self.cut.push((owner, contents as u64));
        heads + contents
    }

    /// An owner whose frames were taken out, and how many bytes of content that were.
    pub fn take_cut(&mut self) -> Option<(u32, u64)> {
        self.cut.pop()
    }

    /// Whether the piece at `index` is the head of a frame that can be taken out.
    pub fn is_head(&self, index: usize) -> bool {
        matches!(self.pieces.get(index), Some(Piece::Head(..)))
    }

    /// How many pieces there are.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// The piece at `index`, in the order of sending.
    pub fn part(&self, index: usize) -> Option<Part<'_>> {
        Some(self.pieces.get(index)?.as_part(&self.text))
    }

    /// Forgets everything and keeps the memory, unless it grew far beyond what a send needs.
    pub fn clear(&mut self) {
        self.length = 0;
        self.longest = 0;
        self.begun = None;
        self.text.clear();
        self.pieces.clear();
        self.cut.clear();
        self.text.shrink_to(TEXT_KEPT_BYTES_MAX);
        self.pieces.shrink_to(PIECES_KEPT_MAX);
    }
}

impl Piece {
    fn as_part<'a>(&'a self, text: &'a [u8]) -> Part<'a> {
        match self {
            Self::Text(range) | Self::Head(range, _) => {
                Part::Memory(text.get(range.clone()).unwrap_or_default())
            }
            Self::Bytes(bytes) => Part::Memory(bytes),
            Self::File(range) => Part::File(range),
            Self::Gone => Part::Memory(&[]),
        }
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
        assert_eq!((gather.longest_piece(), gather.begun_body()), (2, None));
        for bytes in [5, 7, 6] {
            gather.begin_body(bytes);
        }
        assert_eq!(gather.begun_body(), Some(7));
        gather.clear();
        assert_eq!((gather.longest_piece(), gather.begun_body()), (0, None));
        assert!(gather.is_empty());
        assert!(gather.part(0).is_none());
    }

    #[test]
    fn frames_of_one_owner_are_taken_out_from_a_head_on() {
        let mut gather = Gather::default();
        for (owner, content) in [(1, "one"), (3, "three"), (1, "more"), (3, "end")] {
            gather.push_text(b"t");
            gather.push_head(owner, b"head");
            gather.push_bytes(Bytes::from_static(content.as_bytes()));
        }
        let text = |gather: &Gather| -> String {
            (0..gather.pieces())
                .map(|index| match gather.part(index) {
                    Some(Part::Memory(bytes)) => std::str::from_utf8(bytes).unwrap(),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        assert!(gather.is_head(4) && !gather.is_head(3) && !gather.is_head(5));
        assert_eq!(gather.cut_off(5), 0);
        assert_eq!(gather.cut_off(4), 4 + 5 + 4 + 3);
        assert_eq!(text(&gather), "theadonettheadmoret");
        assert_eq!(gather.len(), text(&gather).len());
        assert_eq!(gather.take_cut(), Some((3, 8)));
        assert_eq!(gather.take_cut(), None);
    }
}
