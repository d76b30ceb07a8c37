//! Long pieces of a gather, sent from where they lie: bytes in memory, and files in the page cache.

use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Cursor, Position, Rest, stepped};
use crate::error::Cause;
use crate::limits::{SEND_CHUNK_BYTES, UNCOPIED_BYTES_MIN};
use crate::metrics::{self, Counter};
use crate::net::stream::{SendPath, Step, Transport};
use crate::net::windows::{Windows, with_windows};
use crate::sys;
use crate::sys::mapping::Vector;

impl Cursor<'_> {
    /// Whether there may be pieces that are worth being sent from where they lie.
    pub(super) fn has_bulk(&self) -> bool {
        !self.progress.copies
            && self.progress.loaded.is_none()
            && self.gather.longest_piece() >= UNCOPIED_BYTES_MIN
    }

    /// Sends the next bytes, short pieces copied into `scratch` and long ones not at all. `None` when
    /// the first of them cannot be had so, and is to be copied like all that follow.
    pub(super) fn send_bulk(
        &mut self,
        transport: &Transport,
        path: &mut SendPath,
        scratch: &mut [u8],
    ) -> Result<Option<Step>, Cause> {
        let now_ms = transport.deadline.now_ms();
        let mut layout = Layout::new(self, scratch);
        with_windows(|windows| layout.lay_out(windows, now_ms));
        let mut vector = layout.vector;
        if vector.bytes() == 0 {
            self.progress.copies = true;
            return Ok(None);
        }
        match self.send(path, transport.socket.descriptor(), &mut vector) {
            Ok(step) => {
                if let Step::Moved(sent) = step {
                    metrics::add(Counter::FileBytesMapped, vector.mapped_bytes(sent) as u64);
                }
                Ok(Some(step))
            }
            // A file has lost what was mapped: copying finds out how much.
            Err(Cause::Io(error)) if error.raw_os_error() == Some(libc::EFAULT) => {
                self.progress.copies = true;
                Ok(Some(Step::Moved(0)))
            }
            Err(cause) => Err(cause),
        }
    }
}

/// What one step is to send.
struct Layout<'c, 'a, 's> {
    cursor: &'c Cursor<'a>,
    vector: Vector<'s>,
    /// What of the scratch is free.
    free: &'s mut [u8],
    bytes_max: usize,
    /// The file last looked at, from where to where, and whether all of that can be sent from where it
    /// is.
    looked_at: Option<(&'a Arc<File>, Range<u64>, bool)>,
}

impl<'c, 'a, 's> Layout<'c, 'a, 's>
where
    'a: 's,
{
    fn new(cursor: &'c Cursor<'a>, scratch: &'s mut [u8]) -> Self {
        Self {
            cursor,
            vector: Vector::default(),
            bytes_max: cursor.progress.left.min(SEND_CHUNK_BYTES),
            free: scratch,
            looked_at: None,
        }
    }

    /// Lays out the next pieces. When content cannot be had without waiting, ends before the frame
    /// that it belongs to.
    fn lay_out(&mut self, windows: &mut Windows, now_ms: u64) {
        let mut at = self.cursor.progress.at;
        // Where the head of the frame begins whose content comes next.
        let mut head = None;
        while self.vector.bytes() < self.bytes_max
            && let Some(rest) = self.cursor.rest_at(at)
        {
            let room = self.bytes_max - self.vector.bytes();
            let before = self.vector.mark();
            let is_head = self.cursor.gather.is_head(at.piece);
            let laid = match rest {
                Rest::Memory(bytes) => {
                    head = is_head.then_some(before);
                    let bytes = bytes.get(..room.min(bytes.len())).unwrap_or_default();
                    self.push_memory(bytes).then_some(bytes.len())
                }
                Rest::File {
                    file,
                    offset,
                    bytes,
                } => {
                    let bytes = bytes.min(room);
                    let is_mapped = bytes >= UNCOPIED_BYTES_MIN
                        && !self.cursor.is_remote(at)
                        && self.can_map(windows, now_ms, at, (file, offset));
                    let is_there = match is_mapped {
                        true => windows.push(&mut self.vector, file, offset, bytes),
                        false => self.push_copied(file, offset, bytes),
                    };
                    is_there.then_some(bytes)
                }
            };
            let Some(bytes) = laid else {
                self.vector.go_back(head.unwrap_or(before));
                break;
            };
            if !is_head {
                head = None;
            }
            at = stepped(self.cursor.gather, at, bytes);
        }
    }

    fn push_memory(&mut self, bytes: &'a [u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        if bytes.len() >= UNCOPIED_BYTES_MIN {
            return self.vector.push_bytes(bytes);
        }
        let Some(place) = self.take(bytes.len()) else {
            return false;
        };
        place.copy_from_slice(bytes);
        self.vector.push_bytes(place)
    }

    fn push_copied(&mut self, file: &Arc<File>, offset: u64, bytes: usize) -> bool {
        let Some(place) = self.take(bytes) else {
            return false;
        };
        let places = &mut [IoSliceMut::new(place)];
        let read = sys::file::read_resident(file.as_fd(), places, offset);
        matches!(read, Ok(count) if count == bytes) && self.vector.push_bytes(place)
    }

    fn take(&mut self, bytes: usize) -> Option<&'s mut [u8]> {
        let free = std::mem::take(&mut self.free);
        let (place, rest) = free.split_at_mut_checked(bytes)?;
        self.free = rest;
        Some(place)
    }

    /// Whether the piece of `file` at `at` can be sent from the page cache; asked once for all pieces
    /// of this step that go on with one another.
    fn can_map(
        &mut self,
        windows: &mut Windows,
        now_ms: u64,
        at: Position,
        (file, offset): (&'a Arc<File>, u64),
    ) -> bool {
        if let Some((looked_at, range, can)) = &self.looked_at
            && Arc::ptr_eq(looked_at, file)
            && range.contains(&offset)
        {
            return *can;
        }
        let room = self.bytes_max - self.vector.bytes();
        let bytes = self.cursor.run_bytes(at, room);
        let can = windows.has(file, offset, bytes, now_ms);
        self.looked_at = Some((file, offset..offset + bytes as u64, can));
        can
    }
}
