//! Steps of TLS in user space: records sealed and opened in the worker's scratch buffers.

use std::io;
use std::os::fd::BorrowedFd;

use bytes::BytesMut;

use super::Transport;
use super::parts::Parts;
use super::receiving::{Took, would_block};
use super::sending::{Queue, Step};
use crate::buf;
use crate::error::Cause;
use crate::limits::{
    ALIASED_BYTES, PAGE_BYTES, RECORD_HEADER_BYTES, RECORD_PLAINTEXT_BYTES_MAX, SEND_CHUNK_BYTES,
};
use crate::record::{
    AlertDescription, ContentType, Event, Opened, Opener, PostHandshake, Role, SealError, Sealer,
    TrafficKeys, Unsupported,
};
use crate::sys;

/// Seals the next [`SEND_CHUNK_BYTES`] of `parts` and sends them; what the socket does not take is
/// queued. The queue must be empty.
pub(super) fn seal_and_send(
    socket: BorrowedFd<'_>,
    sealer: &mut Sealer,
    parts: &mut Parts<'_>,
    queue: &mut Queue,
) -> Result<Step, Cause> {
    buf::with_send_scratch(|scratch| {
        let mut records = RecordWriter::new(sealer, scratch);
        while parts.left() > 0 && records.plaintext_room() > 0 {
            records.write(|payload| parts.take_into(payload))?;
        }
        queue.send_or_keep(socket, records.sealed())
    })
}

/// The plaintext that one step seals at most.
pub(super) fn step_plaintext_max() -> usize {
    match buf::is_scarce() {
        true => RECORD_PLAINTEXT_BYTES_MAX,
        false => SEND_CHUNK_BYTES,
    }
}

/// Writes application-data records one behind the other into a buffer, sealed in place.
pub(crate) struct RecordWriter<'a> {
    sealer: &'a mut Sealer,
    buffer: &'a mut [u8],
    /// Where the first record begins.
    start: usize,
    /// Where the next one does.
    used: usize,
    plaintext: usize,
    plaintext_max: usize,
}

impl<'a> RecordWriter<'a> {
    /// An empty run of records in `buffer`.
    pub(crate) fn new(sealer: &'a mut Sealer, buffer: &'a mut [u8]) -> Self {
        Self {
            sealer,
            buffer,
            start: 0,
            used: 0,
            plaintext: 0,
            plaintext_max: step_plaintext_max(),
        }
    }

    /// Before anything is written: moves the records so far back that no copy into their places of what is
    /// in the page cache from `file_offset` on, to come behind `front_bytes` of other plaintext, is a slow
    /// one ([`ALIASED_BYTES`]). Between two records the places gain what protects a record, and with
    /// HTTP/2 a frame's head, on the file.
    pub(crate) fn keep_apart(&mut self, front_bytes: usize, file_offset: u64) {
        debug_assert_eq!(self.used, self.start, "records lie where they are");
        let protection = self.sealer.prefix_bytes() + self.sealer.suffix_bytes();
        let gain_max = RECORDS_PER_CHUNK_MAX * (protection + FRAME_HEAD_BYTES);
        let address = self.buffer.as_ptr().addr() + self.start;
        let place = address + self.sealer.prefix_bytes() + front_bytes;
        // A page's length divides all that the cast may cut off.
        #[expect(clippy::cast_possible_truncation, reason = "taken modulo a page")]
        let ahead = place.wrapping_sub(file_offset as usize) % PAGE_BYTES;
        let risen = (ahead + gain_max) % PAGE_BYTES;
        if risen < gain_max + ALIASED_BYTES {
            self.start += gain_max + ALIASED_BYTES - risen;
            self.used = self.start;
        }
    }

    /// Plaintext bytes that may still be written: up to [`SEND_CHUNK_BYTES`] in all.
    pub(crate) fn plaintext_room(&self) -> usize {
        self.plaintext_max.saturating_sub(self.plaintext)
    }

    /// Seals one record around what `fill` puts to the front of the payload place, and gives how
    /// much that was. Nothing is sealed when it is nothing.
    pub(crate) fn write(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) -> Result<usize, Cause> {
        let room = self.plaintext_room().min(RECORD_PLAINTEXT_BYTES_MAX);
        let start = self.used + self.sealer.prefix_bytes();
        let payload = self.buffer.get_mut(start..start + room).unwrap_or_default();
        let count = fill(payload).min(payload.len());
        self.seal_filled(count)?;
        Ok(count)
    }

    /// The payload places of the next records with `head` copied to their front, and the places of up to
    /// `bytes` behind it as they are; `head` must be shorter than a record may be. To be sealed with
    /// [`RecordWriter::seal_front`].
    pub(crate) fn places_behind(&mut self, head: &[u8], bytes: usize) -> Vec<io::IoSliceMut<'_>> {
        let slices = self.payload_slices(head.len().saturating_add(bytes));
        let mut places: Vec<_> = slices.into_iter().map(io::IoSliceMut::new).collect();
        if let Some(first) = places.first_mut() {
            if let Some(place) = first.get_mut(..head.len()) {
                place.copy_from_slice(head);
            }
            first.advance(head.len());
        }
        places
    }

    /// The payload places of the next records, each as long as a record may be, `bytes` in all and
    /// no more than there is room for. To be sealed with [`RecordWriter::seal_front`].
    pub(crate) fn payload_slices(&mut self, bytes: usize) -> Vec<&mut [u8]> {
        let mut left = bytes.min(self.plaintext_room());
        let (prefix, suffix) = (self.sealer.prefix_bytes(), self.sealer.suffix_bytes());
        let mut rest = self.buffer.get_mut(self.used..).unwrap_or_default();
        let mut slices = Vec::with_capacity(left.div_ceil(RECORD_PLAINTEXT_BYTES_MAX));
        while left > 0 {
            let payload = left.min(RECORD_PLAINTEXT_BYTES_MAX);
            let Some((record, behind)) = rest.split_at_mut_checked(prefix + payload + suffix)
            else {
                break;
            };
            rest = behind;
            slices.push(record.get_mut(prefix..prefix + payload).unwrap_or_default());
            left -= payload;
        }
        slices
    }

    /// Seals the records whose payload places hold `bytes` in all, from the front.
    pub(crate) fn seal_front(&mut self, bytes: usize) -> Result<(), Cause> {
        let mut left = bytes;
        while left > 0 {
            let count = left.min(RECORD_PLAINTEXT_BYTES_MAX);
            self.seal_filled(count)?;
            left -= count;
        }
        Ok(())
    }

    /// Seals the next record, whose first `count` payload bytes are in place.
    fn seal_filled(&mut self, count: usize) -> Result<(), Cause> {
        if count == 0 {
            return Ok(());
        }
        let bytes = self.sealer.prefix_bytes() + count + self.sealer.suffix_bytes();
        let record = self
            .buffer
            .get_mut(self.used..self.used + bytes)
            .unwrap_or_default();
        self.sealer
            .seal(record, ContentType::ApplicationData)
            .map_err(seal_cause)?;
        self.used += bytes;
        self.plaintext += count;
        Ok(())
    }

    /// The records sealed so far.
    pub(crate) fn sealed(&self) -> &[u8] {
        self.buffer.get(self.start..self.used).unwrap_or_default()
    }
}

/// What HTTP/2 puts in front of a frame's content (RFC 9113 4.1).
const FRAME_HEAD_BYTES: usize = 9;

/// Records over which the plaintext of one chunk is spread: one more for a short one in front.
const RECORDS_PER_CHUNK_MAX: usize = SEND_CHUNK_BYTES / RECORD_PLAINTEXT_BYTES_MAX + 1;

/// Opening records in user space.
pub(crate) struct UserReceive {
    opener: Opener,
    machine: PostHandshake,
    /// Received and not opened: nothing, or a part of one record, or (after the handshake) more.
    unopened: Vec<u8>,
    /// Whole records may be in `unopened`.
    is_unexamined: bool,
    /// This direction is to move to the kernel at the next record boundary.
    pub(crate) wants_kernel: bool,
}

impl UserReceive {
    pub(super) fn new(keys: TrafficKeys, received: Vec<u8>, role: Role) -> Result<Self, Cause> {
        let machine = PostHandshake::of(keys.version(), role);
        Ok(Self {
            opener: Opener::new(keys).map_err(key_cause)?,
            machine,
            is_unexamined: !received.is_empty(),
            unopened: received,
            wants_kernel: false,
        })
    }

    /// Whether a step can go on without the socket.
    pub(super) fn has_unopened(&self) -> bool {
        self.is_unexamined
    }

    /// Whether every received byte is opened, so that another reader may take over.
    pub(crate) fn is_at_record_boundary(&self) -> bool {
        self.unopened.is_empty() && !self.machine.is_mid_message()
    }

    /// What the kernel needs to go on: the keys with the next sequence number, and the state of the
    /// messages above the records.
    pub(crate) fn keys(&self) -> &TrafficKeys {
        self.opener.keys()
    }

    /// The state of the messages above the records, to go on with elsewhere. This path is over.
    pub(crate) fn take_machine(&mut self) -> PostHandshake {
        let fresh = PostHandshake::of(self.opener.keys().version(), self.machine.role());
        std::mem::replace(&mut self.machine, fresh)
    }

    /// Receives once and opens every whole record.
    pub(super) fn receive(
        &mut self,
        transport: &Transport,
        into: &mut BytesMut,
    ) -> Result<Took, Cause> {
        buf::with_receive_scratch(|scratch| {
            let kept = self.unopened.len();
            if let Some(front) = scratch.get_mut(..kept) {
                front.copy_from_slice(&self.unopened);
            }
            let (end, filled) = if self.is_unexamined {
                (kept, false)
            } else {
                let end = self.receive_end(scratch.len());
                let room = scratch.get_mut(kept..end).unwrap_or_default();
                match sys::socket::receive(transport.socket.descriptor(), room) {
                    Ok(0) => return Ok(Took::End),
                    Ok(count) => {
                        transport.count_turn(count);
                        (kept + count, count == room.len())
                    }
                    Err(error) if would_block(&error) => return Ok(Took::Nothing),
                    Err(error) => return Err(Cause::Io(error)),
                }
            };
            let received = scratch.get_mut(..end).unwrap_or_default();
            self.open_all(transport, received, filled, into)
        })
    }

    /// Where a receive must end: at the scratch's end, or, to reach a record boundary for the
    /// kernel, exactly at the end of the record (or header) that has begun.
    fn receive_end(&self, scratch_bytes: usize) -> usize {
        if !self.wants_kernel {
            return scratch_bytes;
        }
        let missing = match *self.unopened.as_slice() {
            [_, _, _, high, low, ..] => {
                let record = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
                record.saturating_sub(self.unopened.len())
            }
            _ => RECORD_HEADER_BYTES - self.unopened.len(),
        };
        (self.unopened.len() + missing.max(1)).min(scratch_bytes)
    }

    fn open_all(
        &mut self,
        transport: &Transport,
        received: &mut [u8],
        filled: bool,
        into: &mut BytesMut,
    ) -> Result<Took, Cause> {
        let before = into.len();
        let now_ms = transport.deadline.now_ms();
        let mut rest = received;
        let mut is_closed = false;
        while !is_closed {
            let (consumed, event) = match self.opener.open(rest) {
                Ok(Opened::Incomplete { .. }) => break,
                Ok(Opened::Record {
                    consumed,
                    content_type,
                    payload,
                }) => {
                    let payload = rest.get(payload).unwrap_or_default();
                    let event = self.machine.on_record(content_type.into(), payload, now_ms);
                    if matches!(event, Ok(Event::Data)) {
                        into.extend_from_slice(payload);
                    }
                    (consumed, event)
                }
                Err(error) => return Err(transport.refuse(&error)),
            };
            match event {
                Ok(Event::Data) => {}
                Ok(Event::Nothing) => transport.keep_tickets(&mut self.machine)?,
                Ok(Event::KeyUpdate { reply }) => {
                    transport.keep_tickets(&mut self.machine)?;
                    self.opener
                        .replace(transport.on_key_update(reply)?)
                        .map_err(key_cause)?;
                }
                Ok(Event::RefuseRenegotiation) => {
                    transport.send_alert(AlertDescription::NoRenegotiation);
                }
                Ok(Event::CloseNotify) => is_closed = true,
                Ok(Event::FatalAlert(description)) => {
                    return Err(transport.given_up(description));
                }
                Err(error) => return Err(transport.refuse(&error)),
            }
            rest = rest.get_mut(consumed..).unwrap_or_default();
        }
        self.is_unexamined = false;
        self.unopened.clear();
        if rest.is_empty() || is_closed {
            self.unopened = Vec::new();
        } else {
            self.unopened.extend_from_slice(rest);
        }
        let data = into.len() - before;
        Ok(if is_closed {
            Took::CloseNotify { data }
        } else {
            Took::Bytes { data, filled }
        })
    }
}

/// Keys that the cipher does not accept are an error of ours.
pub(super) fn key_cause(_: Unsupported) -> Cause {
    Cause::Internal("the cipher refuses the traffic keys")
}

pub(super) fn seal_cause(error: SealError) -> Cause {
    match error {
        SealError::KeyExhausted => Cause::KeyExhausted,
        SealError::Length | SealError::Cipher => Cause::Internal("sealing failed"),
    }
}
