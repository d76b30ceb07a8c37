//! Sending frames made of memory and files: HTTP/2's way to the socket.
//!
//! One step sends text and file content in their order by one call, for as many frames as fit.
//!
//! - Short pieces are copied next to each other into the worker's scratch, file content read from the
//!   page cache by one call for all frames that it is cut into. In user space they lie in the payload
//!   places of records from the start and are sealed there.
//! - Where the kernel seals, or nobody, long pieces are sent from where they lie ([`bulk`]): a frame
//!   that fills a record is encrypted off the page cache. sendfile(2) could do the same with two
//!   calls for each frame.

mod bulk;

use std::fs::File;
use std::io::IoSliceMut;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::vec;

use super::send::{COLD_CHUNK_BYTES, FileStep, must_be_read_by_thread, read_cold};
use super::stream::{RecordWriter, SendPath, Sending, Step, Transport, WriteHalf};
use crate::buf;
use crate::error::Cause;
use crate::limits::{RECORD_PLAINTEXT_BYTES_MAX, SEND_CHUNK_BYTES};
use crate::message::gather::{Gather, Part};
use crate::metrics::{self, Counter};
use crate::sys;
use crate::sys::mapping::Vector;

impl WriteHalf {
    /// Sends all of `gather` and waits until the socket has taken it. Records begin where it does:
    /// frames that are cut for that fill them exactly.
    ///
    /// A file that is shorter than its part is met before the head of its frame is sent, in all but a
    /// moment: what a frame announces has been read, unless the socket took its first bytes alone. The
    /// frame and those of its owner behind it are [cut off](Gather::cut_off), and the rest is sent.
    ///
    /// # Errors
    /// As [`WriteHalf::send`]; [`Cause::FileTruncated`] when bytes that a frame has promised are
    /// missing: the connection must be closed.
    pub async fn send_gather(&mut self, gather: &mut Gather) -> Result<(), Cause> {
        let transport = self.transport.clone();
        transport.continue_offload_sending();
        if let Some(body_bytes) = gather.begun_body() {
            let bytes_min = transport.context.offload.http2_bytes_min;
            transport.offload_for_body(body_bytes, bytes_min).await?;
        }
        let mut progress = Progress {
            left: gather.len(),
            ..Progress::default()
        };
        while progress.left > 0 {
            transport.settle().await?;
            let mut cursor = Cursor {
                gather,
                progress: &mut progress,
            };
            let step = transport
                .sending
                .borrow_mut()
                .gather_step(&transport, &mut cursor)?;
            let is_short = match step {
                FileStep::Step(step) => {
                    transport.after(step).await?;
                    false
                }
                FileStep::Cold => !cursor.load(&transport).await?,
                FileStep::Truncated => true,
            };
            if is_short {
                metrics::count(Counter::FilesTruncated);
                if progress.at.offset > 0 || !gather.is_head(progress.at.piece) {
                    return Err(Cause::FileTruncated);
                }
                progress.left -= gather.cut_off(progress.at.piece);
                let progress = &mut progress;
                Cursor { gather, progress }.advance(0);
            }
        }
        transport.settle().await
    }
}

impl Sending {
    fn gather_step(
        &mut self,
        transport: &Transport,
        cursor: &mut Cursor<'_>,
    ) -> Result<FileStep, Cause> {
        if self.must_change_key(transport)? {
            return Ok(FileStep::Step(Step::Moved(0)));
        }
        let left_before = cursor.progress.left;
        let socket = transport.socket.descriptor();
        let (path, queue) = self.queue_mut();
        let step = buf::with_send_scratch(|scratch| match path {
            SendPath::UserTls(sealer) => {
                let mut records = RecordWriter::new(sealer, scratch);
                let bytes = cursor.progress.left.min(records.plaintext_room());
                if let Some((front_bytes, offset)) = cursor.first_of_file() {
                    records.keep_apart(front_bytes, offset);
                }
                let filled = cursor.fill(records.payload_slices(bytes))?;
                let Filled::Bytes(bytes) = filled else {
                    return Ok(filled.into());
                };
                records.seal_front(bytes)?;
                cursor.advance(bytes);
                queue
                    .send_or_keep(socket, records.sealed())
                    .map(FileStep::Step)
            }
            SendPath::Plain | SendPath::KernelTls(_) => {
                if cursor.has_bulk()
                    && let Some(step) = cursor.send_bulk(transport, path, scratch)?
                {
                    return Ok(FileStep::Step(step));
                }
                let bytes = cursor.progress.left.min(SEND_CHUNK_BYTES);
                let place = scratch.get_mut(..bytes).unwrap_or_default();
                let filled = cursor.fill(vec![place])?;
                let Filled::Bytes(bytes) = filled else {
                    return Ok(filled.into());
                };
                let mut vector = Vector::default();
                vector.push_bytes(scratch.get(..bytes).unwrap_or_default());
                cursor.send(path, socket, &mut vector).map(FileStep::Step)
            }
        });
        self.count_sent((left_before - cursor.progress.left) as u64);
        step
    }
}

/// What is left of a gather.
struct Cursor<'a> {
    gather: &'a Gather,
    progress: &'a mut Progress,
}

/// How far a gather has been sent.
#[derive(Default)]
struct Progress {
    at: Position,
    left: usize,
    /// A piece could not be sent from where it lies: all are copied from then on.
    copies: bool,
    /// What a file thread has read of a file that was not in the page cache.
    loaded: Option<Loaded>,
}

#[derive(Clone, Copy, Default)]
struct Position {
    piece: usize,
    /// Bytes of the piece that are gone already.
    offset: usize,
}

struct Loaded {
    file: Arc<File>,
    offset: u64,
    bytes: Vec<u8>,
}

/// What filling the places came to.
enum Filled {
    /// So many bytes lie in them, from the front: at least one.
    Bytes(usize),
    /// The first byte is not in the page cache.
    Cold,
    /// The file has no such byte.
    Truncated,
}

impl From<Filled> for FileStep {
    fn from(filled: Filled) -> Self {
        match filled {
            Filled::Bytes(bytes) => Self::Step(Step::Moved(bytes)),
            Filled::Cold => Self::Cold,
            Filled::Truncated => Self::Truncated,
        }
    }
}

impl<'a> Cursor<'a> {
    /// The rest of the piece at `position`: bytes, or a file, its offset and how many of its bytes.
    fn rest_at(&self, position: Position) -> Option<Rest<'a>> {
        Some(match self.gather.part(position.piece)? {
            Part::Memory(bytes) => Rest::Memory(bytes.get(position.offset..).unwrap_or_default()),
            part @ Part::File(range) => Rest::File {
                file: &range.file,
                offset: range.offset + position.offset as u64,
                bytes: part.length().saturating_sub(position.offset),
            },
        })
    }

    /// How many bytes are sent before the first that is a file's, and the offset of that one.
    fn first_of_file(&self) -> Option<(usize, u64)> {
        let mut at = self.progress.at;
        let mut front_bytes = 0;
        while front_bytes < SEND_CHUNK_BYTES {
            match self.rest_at(at)? {
                Rest::Memory(bytes) => {
                    front_bytes += bytes.len();
                    at = stepped(self.gather, at, bytes.len());
                }
                Rest::File { offset, .. } => return Some((front_bytes, offset)),
            }
        }
        None
    }

    fn advance(&mut self, bytes: usize) {
        let Progress { at, left, .. } = &mut *self.progress;
        *left = left.saturating_sub(bytes);
        let mut bytes = bytes;
        while let Some(part) = self.gather.part(at.piece) {
            let rest = part.length().saturating_sub(at.offset);
            // What was cut off is passed by.
            if bytes == 0 && rest > 0 {
                break;
            }
            let taken = bytes.min(rest);
            *at = stepped(self.gather, *at, taken);
            bytes -= taken;
        }
    }

    /// Sends `vector`, which has the next bytes, where the kernel seals or nobody does.
    fn send(
        &mut self,
        path: &mut SendPath,
        socket: BorrowedFd<'_>,
        vector: &mut Vector<'_>,
    ) -> Result<Step, Cause> {
        let step = match path {
            SendPath::KernelTls(kernel) => kernel.send_vector(socket, vector),
            SendPath::Plain | SendPath::UserTls(_) => Step::of(vector.send(socket)),
        }?;
        if let Step::Moved(sent) = step {
            self.advance(sent);
        }
        Ok(step)
    }

    /// Puts the next bytes into `places`, as many as fit and can be had without waiting. The cursor
    /// stays: what is taken of them is told by [`Cursor::advance`].
    fn fill(&self, places: Vec<&mut [u8]>) -> Result<Filled, Cause> {
        let mut room = Room::new(places);
        let mut at = self.progress.at;
        let mut filled = 0;
        // Where the head of the frame begins whose content comes next, if it is not sent yet.
        let mut head = None;
        let mut run: Option<Run<'_>> = None;
        while let Some(rest) = self.rest_at(at) {
            let taken = match rest {
                Rest::Memory([]) => {
                    at = stepped(self.gather, at, 0);
                    continue;
                }
                Rest::Memory(bytes) => {
                    match (self.gather.is_head(at.piece), at.offset) {
                        (true, 0) => head = Some(filled),
                        (true, _) => {}
                        (false, _) => head = None,
                    }
                    let place = room.take(bytes.len());
                    let count = place.len();
                    place.copy_from_slice(bytes.get(..count).unwrap_or_default());
                    count
                }
                Rest::File {
                    file,
                    offset,
                    bytes,
                } => {
                    let begins = !run.as_ref().is_some_and(|run| run.goes_on(file, offset));
                    if begins {
                        if let Some(short) = self.finish(run.take(), filled)? {
                            return Ok(short);
                        }
                        run = Some(Run::new(file, offset));
                    }
                    let place = room.take(bytes);
                    let count = place.len();
                    if let Some(run) = &mut run {
                        run.push(place, head.unwrap_or(filled), filled);
                    }
                    count
                }
            };
            if taken == 0 {
                break;
            }
            filled += taken;
            let next = stepped(self.gather, at, taken);
            if next.piece != at.piece && !self.gather.is_head(at.piece) {
                head = None;
            }
            at = next;
        }
        Ok(match self.finish(run, filled)? {
            Some(short) => short,
            None => Filled::Bytes(filled),
        })
    }

    /// Reads `run`. When it is not had completely, says where the filled bytes end: before the frame of
    /// which something is missing.
    fn finish(&self, run: Option<Run<'_>>, filled: usize) -> Result<Option<Filled>, Cause> {
        let Some(mut run) = run.filter(|run| !run.places.is_empty()) else {
            return Ok(None);
        };
        let ends = mem::take(&mut run.ends);
        let (first, first_content) = ends
            .first()
            .map_or((filled, filled), |end| (end.head, end.start));
        let read = match self
            .progress
            .loaded
            .as_ref()
            .map_or(0, |loaded| run.copy(loaded))
        {
            0 => sys::file::read_resident(run.file.as_fd(), &mut run.places, run.offset),
            copied => Ok(copied),
        };
        match read {
            Ok(0) if first_content == 0 => Ok(Some(Filled::Truncated)),
            Ok(read) => {
                let mut read = read;
                for end in ends {
                    if read < end.length {
                        return Ok(Some(match (end.head, end.start) {
                            // The frame is the first. Its file may be shorter, or not in memory.
                            (0, 1..) => Filled::Cold,
                            (head, start) if head < start => Filled::Bytes(head),
                            (_, start) => Filled::Bytes(start + read),
                        }));
                    }
                    read -= end.length;
                }
                Ok(None)
            }
            Err(error) if must_be_read_by_thread(&error) => Ok(Some(match first {
                0 => Filled::Cold,
                _ => Filled::Bytes(first),
            })),
            Err(error) => Err(Cause::File(error)),
        }
    }

    /// How many bytes, at most about `bytes_max`, of the file at `at` the pieces from there on take in a
    /// row.
    fn run_bytes(&self, at: Position, bytes_max: usize) -> usize {
        let Some(Rest::File { file, offset, .. }) = self.rest_at(at) else {
            return 0;
        };
        let mut at = at;
        let mut run_bytes = 0;
        while run_bytes < bytes_max
            && let Some(rest) = self.rest_at(at)
        {
            let length = match rest {
                Rest::Memory(bytes) => bytes.len(),
                Rest::File {
                    file: other,
                    offset: start,
                    bytes,
                } => {
                    if !Arc::ptr_eq(file, other) || start != offset + run_bytes as u64 {
                        break;
                    }
                    run_bytes += bytes;
                    bytes
                }
            };
            at = stepped(self.gather, at, length);
        }
        run_bytes.min(bytes_max)
    }

    fn is_remote(&self, position: Position) -> bool {
        match self.gather.part(position.piece) {
            Some(Part::File(range)) => range.is_remote,
            Some(Part::Memory(_)) | None => false,
        }
    }

    /// Has a file thread read what comes next of the file at the cursor, beyond the frame that it
    /// stands in. Gives whether the frame can go on.
    async fn load(&mut self, transport: &Transport) -> Result<bool, Cause> {
        metrics::count(Counter::FileChunksCold);
        let Some((file, offset, least, bytes)) = self.run_at_cursor() else {
            return Err(Cause::Internal("a cold read of no file"));
        };
        let chunk = read_cold(transport, &file, offset, bytes).await?;
        let goes_on = chunk.len() >= least;
        self.progress.loaded = Some(Loaded {
            file,
            offset,
            bytes: chunk,
        });
        Ok(goes_on)
    }

    /// The file at the cursor, or behind the head there; how many bytes of it are needed for the cursor
    /// to go on, and how many the pieces from there on take in a row.
    fn run_at_cursor(&self) -> Option<(Arc<File>, u64, usize, usize)> {
        let mut at = self.progress.at;
        let mut least = 1;
        if let Rest::Memory(head) = self.rest_at(at)? {
            at = stepped(self.gather, at, head.len());
            least = usize::MAX;
        }
        let Rest::File {
            file,
            offset,
            bytes,
        } = self.rest_at(at)?
        else {
            return None;
        };
        // A frame that has not begun needs all it announces.
        let least = least.min(bytes);
        let wanted = self.run_bytes(at, COLD_CHUNK_BYTES);
        let wanted = wanted.max(least);
        Some((file.clone(), offset, least, wanted))
    }
}

/// The position `bytes` of the piece at `position` further on.
fn stepped(gather: &Gather, position: Position, bytes: usize) -> Position {
    let length = gather.part(position.piece).map_or(0, |part| part.length());
    match position.offset + bytes {
        offset if offset >= length => Position {
            piece: position.piece + 1,
            offset: 0,
        },
        offset => Position {
            piece: position.piece,
            offset,
        },
    }
}

enum Rest<'a> {
    Memory(&'a [u8]),
    File {
        file: &'a Arc<File>,
        offset: u64,
        bytes: usize,
    },
}

/// The places that are still free.
struct Room<'a> {
    current: &'a mut [u8],
    rest: vec::IntoIter<&'a mut [u8]>,
}

impl<'a> Room<'a> {
    fn new(places: Vec<&'a mut [u8]>) -> Self {
        Self {
            current: &mut [],
            rest: places.into_iter(),
        }
    }

    /// The next `bytes` of room, or what one place has of them; nothing when all is taken.
    fn take(&mut self, bytes: usize) -> &'a mut [u8] {
        if self.current.is_empty() {
            self.current = self.rest.next().unwrap_or_default();
        }
        let current = mem::take(&mut self.current);
        let count = bytes.min(current.len());
        let (taken, rest) = current.split_at_mut_checked(count).unwrap_or_default();
        self.current = rest;
        taken
    }
}

/// Bytes of one file in a row, which may lie in several places.
struct Run<'a> {
    file: &'a Arc<File>,
    offset: u64,
    bytes: u64,
    places: Vec<IoSliceMut<'a>>,
    ends: Vec<Fragment>,
}

/// Where a place lies among all bytes that are filled in.
struct Fragment {
    /// Where its frame begins, when that is among them; else where it does itself.
    head: usize,
    start: usize,
    length: usize,
}

impl<'a> Run<'a> {
    fn new(file: &'a Arc<File>, offset: u64) -> Self {
        Self {
            file,
            offset,
            bytes: 0,
            places: Vec::with_capacity(RUN_PLACES_USUAL),
            ends: Vec::with_capacity(RUN_PLACES_USUAL),
        }
    }

    fn goes_on(&self, file: &Arc<File>, offset: u64) -> bool {
        Arc::ptr_eq(self.file, file) && self.offset + self.bytes == offset
    }

    fn push(&mut self, place: &'a mut [u8], head: usize, start: usize) {
        let length = place.len();
        if length > 0 {
            self.bytes += length as u64;
            self.places.push(IoSliceMut::new(place));
            self.ends.push(Fragment {
                head,
                start,
                length,
            });
        }
    }

    /// Copies what `loaded` has of it, from the front; gives how much.
    fn copy(&mut self, loaded: &Loaded) -> usize {
        let skipped = self.offset.checked_sub(loaded.offset);
        let skipped = skipped.and_then(|skipped| usize::try_from(skipped).ok());
        let Some(mut source) = skipped
            .filter(|_| Arc::ptr_eq(self.file, &loaded.file))
            .and_then(|skipped| loaded.bytes.get(skipped..))
        else {
            return 0;
        };
        let mut copied = 0;
        for place in &mut self.places {
            let count = place.len().min(source.len());
            let (bytes, rest) = source.split_at_checked(count).unwrap_or_default();
            if let Some(place) = place.get_mut(..count) {
                place.copy_from_slice(bytes);
            }
            source = rest;
            copied += count;
        }
        copied
    }
}

/// Frames of a step that are each a record.
const RUN_PLACES_USUAL: usize = SEND_CHUNK_BYTES / RECORD_PLAINTEXT_BYTES_MAX + 1;
