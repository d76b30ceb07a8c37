//! Bodies from files: which copy, if any, a chunk takes.
//!
//! - TLS in user space: the page cache is read straight into the payload places of records, sealed
//!   where they lie: one copy besides the socket's.
//! - The kernel (kernel TLS or no TLS): sendfile(2), no copy in user space.
//! - A chunk that is not in the page cache is read by a file thread and sent from memory: the
//!   worker never waits for a disk.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::deadline::Wait;
use super::file_threads::{FileThreadsHandle, JobError};
use super::rt;
use super::stream::{KernelSend, Parts, RecordWriter, SendPath, Step, Transport, WriteHalf};
use crate::buf;
use crate::error::Cause;
use crate::limits::{RECORD_PLAINTEXT_BYTES_MAX, SEND_CHUNK_BYTES, TURN_BYTES_MAX};
use crate::message::FileRange;
use crate::metrics::{self, Counter};
use crate::sys;

impl WriteHalf {
    /// Sends `head` and a part of a file, in as few records as they fill.
    ///
    /// # Errors
    /// As [`WriteHalf::send`]; [`Cause::FileTruncated`] when the file ends before the range does;
    /// [`Cause::File`] when it cannot be read, or not within the time that a send may wait for room.
    /// Bytes that were promised are missing then, so the connection must be closed.
    pub async fn send_file(&mut self, head: &[u8], range: &FileRange) -> Result<(), Cause> {
        let transport = self.transport.clone();
        let bytes_min = transport.context.offload.file_bytes_min;
        transport.offload_for_body(range.length, bytes_min).await?;
        let mut cursor = Cursor {
            head,
            file: &range.file,
            offset: range.offset,
            left: range.length,
            is_remote: range.is_remote,
        };
        if head.len() > HEAD_BYTES_MAX {
            self.send(&[IoSlice::new(head)]).await?;
            cursor.head = &[];
        }
        while cursor.left > 0 || !cursor.head.is_empty() {
            transport.settle().await?;
            let step = transport
                .sending
                .borrow_mut()
                .file_step(&transport, &mut cursor)?;
            match step {
                FileStep::Step(step) => transport.after(step).await?,
                FileStep::Cold => Box::pin(self.send_cold(&mut cursor)).await?,
                FileStep::Truncated => {
                    metrics::count(Counter::FilesTruncated);
                    return Err(Cause::FileTruncated);
                }
            }
        }
        transport.settle().await
    }

    /// Sends the next chunk from memory, read by a file thread.
    async fn send_cold(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Cause> {
        metrics::count(Counter::FileChunksCold);
        let (file, offset) = (cursor.file.clone(), cursor.offset);
        let bytes = cursor.left.min(COLD_CHUNK_BYTES as u64);
        let bytes = usize::try_from(bytes).unwrap_or(COLD_CHUNK_BYTES);
        let chunk = read_cold(&self.transport, &file, offset, bytes).await?;
        if chunk.is_empty() {
            metrics::count(Counter::FilesTruncated);
            return Err(Cause::FileTruncated);
        }
        let head = std::mem::take(&mut cursor.head);
        cursor.advance(chunk.len());
        self.send(&[IoSlice::new(head), IoSlice::new(&chunk)]).await
    }
}

/// What is left of a head and a file's range.
pub(super) struct Cursor<'a> {
    head: &'a [u8],
    file: &'a Arc<File>,
    offset: u64,
    left: u64,
    /// See [`FileRange::is_remote`].
    is_remote: bool,
}

impl Cursor<'_> {
    fn advance(&mut self, bytes: usize) {
        self.offset += bytes as u64;
        self.left = self.left.saturating_sub(bytes as u64);
    }

    fn take_head(&mut self, step: Step) -> FileStep {
        if let Step::Moved(bytes) = step {
            self.head = self.head.get(bytes..).unwrap_or_default();
        }
        FileStep::Step(step)
    }

    fn take_file(&mut self, step: Step) -> FileStep {
        match step {
            Step::Moved(0) => FileStep::Truncated,
            Step::Moved(bytes) => {
                self.advance(bytes);
                FileStep::Step(step)
            }
            Step::Blocked => FileStep::Step(step),
        }
    }

    /// How many of the next bytes can be sent without waiting for a disk.
    fn resident(&self) -> Result<usize, Cause> {
        // What is counted in memory may still be asked after; RWF_NOWAIT reads are refused there.
        if self.is_remote {
            return Ok(0);
        }
        let bytes = self.left.min(RESIDENT_CHUNK_BYTES);
        match sys::file::resident_bytes(self.file.as_fd(), self.offset, bytes) {
            Ok(bytes) => Ok(usize::try_from(bytes).unwrap_or(usize::MAX)),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(0),
            Err(error) => Err(Cause::File(error)),
        }
    }

    /// The bytes left, at most `max`.
    fn chunk(&self, max: usize) -> usize {
        usize::try_from(self.left).map_or(max, |left| left.min(max))
    }
}

/// What one step of sending a file did.
pub(super) enum FileStep {
    /// As for bytes.
    Step(Step),
    /// The next chunk is not in the page cache.
    Cold,
    /// The file has no byte at the cursor.
    Truncated,
}

impl super::stream::Sending {
    fn file_step(
        &mut self,
        transport: &Transport,
        cursor: &mut Cursor<'_>,
    ) -> Result<FileStep, Cause> {
        if self.must_change_key(transport)? {
            return Ok(FileStep::Step(Step::Moved(0)));
        }
        let head_before = cursor.head.len();
        let left_before = cursor.left;
        let (path, queue) = self.queue_mut();
        let step = match path {
            SendPath::Plain => plain_step(transport, cursor),
            SendPath::KernelTls(kernel) => kernel_step(transport, kernel, cursor),
            SendPath::UserTls(sealer) => buf::with_send_scratch(|scratch| {
                let mut records = RecordWriter::new(sealer, scratch);
                let outcome = fill_records(&mut records, cursor)?;
                if records.sealed().is_empty() {
                    return Ok(outcome);
                }
                queue
                    .send_or_keep(transport.socket.descriptor(), records.sealed())
                    .map(FileStep::Step)
            }),
        };
        let moved = (head_before - cursor.head.len()) as u64 + left_before - cursor.left;
        self.count_sent(moved);
        step
    }
}

/// Fills records with the head and what the page cache has of the next chunk. When it has nothing,
/// says so and leaves the cursor as it was.
fn fill_records(
    records: &mut RecordWriter<'_>,
    cursor: &mut Cursor<'_>,
) -> Result<FileStep, Cause> {
    let head = cursor.head;
    let bytes = cursor.chunk(records.plaintext_room().saturating_sub(head.len()));
    records.keep_apart(head.len(), cursor.offset);
    let mut places = records.places_behind(head, bytes);
    let read = match bytes {
        0 => Ok(0),
        _ => sys::file::read_resident(cursor.file.as_fd(), &mut places, cursor.offset),
    };
    drop(places);
    let count = match read {
        Ok(0) if bytes > 0 => return Ok(FileStep::Truncated),
        Ok(count) => count,
        Err(error) if must_be_read_by_thread(&error) => return Ok(FileStep::Cold),
        Err(error) => return Err(Cause::File(error)),
    };
    records.seal_front(head.len() + count)?;
    cursor.head = &[];
    cursor.advance(count);
    Ok(FileStep::Step(Step::Moved(count)))
}

fn kernel_step(
    transport: &Transport,
    kernel: &mut KernelSend,
    cursor: &mut Cursor<'_>,
) -> Result<FileStep, Cause> {
    let socket = transport.socket.descriptor();
    if !cursor.head.is_empty() {
        // The record stays open for the file's first bytes; without any it must not.
        let step = match cursor.left {
            0 => kernel.send(socket, &mut Parts::new(&[IoSlice::new(cursor.head)])),
            _ => kernel.send_more(socket, cursor.head),
        }?;
        return Ok(cursor.take_head(step));
    }
    let resident = cursor.resident()?;
    if resident == 0 {
        return Ok(FileStep::Cold);
    }
    let step = kernel.send_file(socket, cursor.file.as_fd(), cursor.offset, resident)?;
    Ok(cursor.take_file(step))
}

fn plain_step(transport: &Transport, cursor: &mut Cursor<'_>) -> Result<FileStep, Cause> {
    let socket = transport.socket.descriptor();
    if !cursor.head.is_empty() {
        let step = Step::of(sys::socket::send(socket, cursor.head, cursor.left > 0))?;
        return Ok(cursor.take_head(step));
    }
    let resident = cursor.resident()?;
    if resident == 0 {
        return Ok(FileStep::Cold);
    }
    let sent = sys::socket::send_file(socket, cursor.file.as_fd(), cursor.offset, resident);
    Ok(cursor.take_file(Step::of(sent)?))
}

/// Reads a chunk on a file thread, for as long as a send may make no progress.
pub(super) async fn read_cold(
    transport: &Transport,
    file: &Arc<File>,
    offset: u64,
    bytes: usize,
) -> Result<Vec<u8>, Cause> {
    let mut chunk = Ok(Vec::new());
    let context = &transport.context;
    let wait = {
        let read = pin!(async {
            chunk = read_by_thread(&context.file_threads, file, offset, bytes).await;
            Ok(())
        });
        let deadline = &transport.deadline;
        deadline.to_send(context.send_progress, read).await
    };
    match wait.map_err(Cause::Io)? {
        Wait::Ready { .. } => chunk,
        Wait::Expired(()) => Err(Cause::File(io::ErrorKind::TimedOut.into())),
    }
}

/// Reads a chunk on a file thread, waiting its turn when they have too much to do: the response has
/// begun.
async fn read_by_thread(
    threads: &FileThreadsHandle,
    file: &Arc<File>,
    offset: u64,
    bytes: usize,
) -> Result<Vec<u8>, Cause> {
    // Unknown, it shares with others of which no more is known.
    let device = sys::file::device(file.as_fd()).unwrap_or(0);
    loop {
        let file = file.clone();
        let job = move || read_chunk(&file, offset, bytes);
        match threads.run(device, job).await {
            Ok(chunk) => return chunk.map_err(Cause::File),
            Err(JobError::Overloaded) => rt::sleep(COLD_RETRY).await,
            Err(JobError::Panicked) => return Err(Cause::Internal("a file thread panicked")),
        }
    }
}

/// Reads `bytes` from `offset`, or up to the end of the file. Blocks: for file threads.
fn read_chunk(file: &File, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; bytes];
    let mut filled = 0;
    while let Some(rest @ [_, ..]) = chunk.get_mut(filled..) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(filled);
    Ok(chunk)
}

/// Not in the page cache, or on a filesystem that cannot say.
pub(super) fn must_be_read_by_thread(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported
    )
}

/// A head up to this long shares a record with the body's first bytes.
pub(super) const HEAD_BYTES_MAX: usize = RECORD_PLAINTEXT_BYTES_MAX / 2;

/// Bytes of one cold read, kept until the socket has taken them: as many as one step seals.
pub(super) const COLD_CHUNK_BYTES: usize = SEND_CHUNK_BYTES;

/// Bytes whose residency is asked for, and sent, at once.
const RESIDENT_CHUNK_BYTES: u64 = TURN_BYTES_MAX as u64;

/// How long a response in progress waits when the file threads are overloaded.
const COLD_RETRY: Duration = Duration::from_millis(10);
