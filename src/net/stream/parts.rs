//! A cursor over the slices of one send.

use std::io::IoSlice;

/// What is left of the slices handed to a send.
pub(crate) struct Parts<'a> {
    parts: &'a [IoSlice<'a>],
    /// Bytes of the first part that are gone already.
    offset: usize,
    left: usize,
}

impl<'a> Parts<'a> {
    /// All of `parts`.
    pub(crate) fn new(parts: &'a [IoSlice<'a>]) -> Self {
        let left = parts.iter().map(|part| part.len()).sum();
        let mut parts = Self {
            parts,
            offset: 0,
            left,
        };
        parts.advance(0);
        parts
    }

    /// Bytes left.
    pub(crate) fn left(&self) -> usize {
        self.left
    }

    /// Moves bytes to the front of `into`, as many as fit; gives how many.
    pub(crate) fn take_into(&mut self, into: &mut [u8]) -> usize {
        let mut taken = 0;
        while let Some(part) = self.parts.first() {
            let source = part.get(self.offset..).unwrap_or_default();
            let room = into.get_mut(taken..).unwrap_or_default();
            let count = source.len().min(room.len());
            if count == 0 && !source.is_empty() {
                break;
            }
            for (target, byte_source) in room.get_mut(..count).into_iter().zip(source.get(..count))
            {
                target.copy_from_slice(byte_source);
            }
            taken += count;
            self.advance(count);
        }
        taken
    }

    /// The slices left, at most `SLICES_MAX` of them and about `bytes_max` bytes, for one vectored
    /// call; gives how many slices it filled in.
    pub(crate) fn slices(&self, into: &mut [IoSlice<'a>; SLICES_MAX], bytes_max: usize) -> usize {
        let mut bytes = 0;
        let mut count = 0;
        let mut offset = self.offset;
        for (part, place) in self.parts.iter().zip(into.iter_mut()) {
            if bytes >= bytes_max {
                break;
            }
            let part: &'a [u8] = as_bytes(part);
            let part = part.get(offset..).unwrap_or_default();
            let part = part
                .get(..part.len().min(bytes_max - bytes))
                .unwrap_or_default();
            *place = IoSlice::new(part);
            bytes += part.len();
            count += 1;
            offset = 0;
        }
        count
    }

    /// Leaves out the next `count` bytes; also steps over parts that are empty.
    pub(crate) fn advance(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
        self.offset += count;
        while let Some((part, rest)) = self.parts.split_first() {
            if self.offset < part.len() {
                break;
            }
            self.offset -= part.len();
            self.parts = rest;
        }
    }
}

/// Slices that one vectored call takes.
pub(crate) const SLICES_MAX: usize = 16;

/// `IoSlice` lends its bytes for its own borrow through `Deref`; the bytes themselves live for `'a`.
fn as_bytes<'a>(part: &'a IoSlice<'a>) -> &'a [u8] {
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_way_of_taking_gives_the_same_bytes(
            data in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            steps in prop::collection::vec((any::<bool>(), 1usize..50), 1..50),
        ) {
            let slices: Vec<_> = data.iter().map(|d| IoSlice::new(d)).collect();
            let expected = data.concat();
            let mut parts = Parts::new(&slices);
            let mut got = Vec::new();
            for (copy, bytes) in steps.into_iter().cycle() {
                if parts.left() == 0 { break; }
                if copy {
                    let mut into = vec![0; bytes];
                    let count = parts.take_into(&mut into);
                    got.extend_from_slice(&into[..count]);
                } else {
                    let mut place = [IoSlice::new(&[]); SLICES_MAX];
                    let count = parts.slices(&mut place, bytes);
                    let flat = place[..count].iter().flat_map(|s| s.to_vec()).collect::<Vec<_>>();
                    prop_assert!(flat.len() <= bytes);
                    // A partial write takes any part of what was offered.
                    let written = flat.len().div_ceil(2);
                    got.extend_from_slice(&flat[..written]);
                    parts.advance(written);
                }
                prop_assert_eq!(parts.left(), expected.len() - got.len());
            }
            prop_assert_eq!(got, expected);
        }
    }
}
