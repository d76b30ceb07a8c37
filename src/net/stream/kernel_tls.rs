//! Steps of TLS in the kernel. Application data moves as on a plain socket; control records are
//! sent and received with their type in a control message.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use bytes::BytesMut;

use super::Transport;
use super::parts::{Parts, SLICES_MAX};
use super::receiving::{Took, would_block};
use super::sending::Step;
use crate::buf;
use crate::error::Cause;
use crate::limits::{
    AES_GCM_RECORDS_MAX, PAGE_BYTES, RECORD_PLAINTEXT_BYTES_MAX, RECORDS_PER_STEP_MAX,
    TURN_BYTES_MAX,
};
use crate::record::{
    Aead, AlertDescription, ContentType, Event, PostHandshake, ProtocolError, TrafficKeys,
};
use crate::sys;
use crate::sys::ktls::Direction;
use crate::sys::mapping::Vector;
use crate::sys::suite::Suite;

/// The sending side of a connection that the kernel encrypts.
pub(crate) struct KernelSend {
    /// Records that the present key may still protect, counted so that it is never too many: the
    /// kernel enforces no limit of its own.
    records_left: u64,
    records_max: u64,
    /// Bytes of the record that the kernel keeps open for what follows (MSG_MORE); 0: there is none.
    open_record_bytes: usize,
    wire: Wire,
}

/// What tells how much the kernel's record layer holds: it takes whole records, gives TCP as much
/// of them as there is room for, and passes the rest on later. A FIN or close(2) in between cuts
/// that rest off, and no call says how much it is.
struct Wire {
    suite: Suite,
    /// What TCP had been given when the kernel took over; `None` when it cannot be told, then or
    /// later.
    written_before: Option<u64>,
    /// Bytes handed over to be protected.
    payload_bytes: u64,
    /// Records made under keys before the present one.
    records_before: u64,
    /// The sequence number of the present key's first record here.
    first_sequence: u64,
}

impl Wire {
    fn new(socket: BorrowedFd<'_>, keys: &TrafficKeys) -> Self {
        Self {
            suite: keys.suite(),
            written_before: written_so_far(socket),
            payload_bytes: 0,
            records_before: 0,
            first_sequence: keys.sequence(),
        }
    }

    /// Records made so far, under all keys.
    fn records(&self, socket: BorrowedFd<'_>) -> io::Result<u64> {
        let sequence = sys::ktls::send_sequence(socket, self.suite)?;
        Ok(self.records_before + sequence.saturating_sub(self.first_sequence))
    }

    /// The present key makes way for `next`.
    fn end_key(&mut self, socket: BorrowedFd<'_>, next: &TrafficKeys) {
        match self.records(socket) {
            Ok(records) => self.records_before = records,
            Err(_) => self.written_before = None,
        }
        self.first_sequence = next.sequence();
    }

    fn held_bytes(&self, socket: BorrowedFd<'_>) -> io::Result<u64> {
        let Some(before) = self.written_before else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let overhead = self.suite.record_bytes(0) as u64;
        let due = before + self.payload_bytes + self.records(socket)? * overhead;
        Ok(due.saturating_sub(sys::socket::written_bytes(socket)?))
    }
}

impl KernelSend {
    /// Begins with a key that has protected as many records as its sequence number says, on a socket
    /// to which the kernel's record layer has not written yet.
    pub(crate) fn new(socket: BorrowedFd<'_>, keys: &TrafficKeys, records_max: u64) -> Self {
        let records_max = Self::bound(keys.aead(), records_max);
        let records_left = records_max.saturating_sub(keys.sequence());
        Self {
            records_left,
            records_max,
            open_record_bytes: 0,
            wire: Wire::new(socket, keys),
        }
    }

    /// Bytes of finished records that the kernel's record layer has not given to TCP yet. It may say
    /// more than there are, for a moment; never less.
    ///
    /// # Errors
    /// `NotConnected` when the connection is gone. Others: this kernel does not tell.
    pub(super) fn held_bytes(&self, socket: BorrowedFd<'_>) -> io::Result<u64> {
        self.wire.held_bytes(socket)
    }

    /// Sends a record that is not application data.
    pub(super) fn send_record(
        &mut self,
        socket: BorrowedFd<'_>,
        content_type: ContentType,
        payload: &[u8],
    ) -> Result<Step, Cause> {
        let sent = sys::socket::send_record(socket, content_type.into(), payload);
        self.open_record_bytes = 0;
        self.count_sent(sent)
    }

    pub(crate) fn records_left(&self) -> u64 {
        self.records_left
    }

    pub(crate) fn has_open_record(&self) -> bool {
        self.open_record_bytes > 0
    }

    /// Sends the next slices of `parts`.
    pub(crate) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        parts: &mut Parts<'_>,
    ) -> Result<Step, Cause> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = parts.slices(&mut slices, KERNEL_STEP_BYTES_MAX);
        let slices = slices.get(..count).unwrap_or_default();
        let sent = sys::socket::send_vectored(socket, slices, false);
        let step = self.count_sent(sent)?;
        if let Step::Moved(sent) = step {
            parts.advance(sent);
            self.open_record_bytes = 0;
        }
        Ok(step)
    }

    /// Sends bytes and parts of files that are mapped, as far as there is room for them.
    pub(crate) fn send_vector(
        &mut self,
        socket: BorrowedFd<'_>,
        vector: &mut Vector<'_>,
    ) -> Result<Step, Cause> {
        debug_assert!(vector.bytes() <= KERNEL_STEP_BYTES_MAX);
        let step = self.count_sent(vector.send(socket))?;
        if matches!(step, Step::Moved(_)) {
            self.open_record_bytes = 0;
        }
        Ok(step)
    }

    /// Sends bytes that the kernel shall join with what follows in one record.
    pub(crate) fn send_more(&mut self, socket: BorrowedFd<'_>, data: &[u8]) -> Result<Step, Cause> {
        let step = self.count_sent(sys::socket::send(socket, data, true))?;
        if let Step::Moved(sent) = step {
            self.open_record_bytes = (self.open_record_bytes + sent) % RECORD_PLAINTEXT_BYTES_MAX;
        }
        Ok(step)
    }

    /// Sends a part of a file. `Step::Moved(0)` says that the file ends before `offset`. What does not
    /// fit into an open record leaves that at the end of a page, so that those behind are of whole pages.
    pub(crate) fn send_file(
        &mut self,
        socket: BorrowedFd<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        length: usize,
    ) -> Result<Step, Cause> {
        let length = match self.open_record_bytes {
            0 => length.min(self.file_step_bytes_max()),
            open => bytes_behind(open, offset, length),
        };
        let step = self.count_sent(sys::socket::send_file(socket, file, offset, length))?;
        if matches!(step, Step::Moved(1..)) {
            self.open_record_bytes = 0;
        }
        Ok(step)
    }

    /// A file may take a whole turn with one call, for as long as the key is good for many times as much.
    fn file_step_bytes_max(&self) -> usize {
        match self.records_left > 4 * (TURN_BYTES_MAX / RECORD_PLAINTEXT_BYTES_MAX) as u64 {
            true => TURN_BYTES_MAX,
            false => KERNEL_STEP_BYTES_MAX,
        }
    }

    /// Sends up to `length` bytes that are in a pipe.
    pub(crate) fn splice(
        &mut self,
        socket: BorrowedFd<'_>,
        pipe: BorrowedFd<'_>,
        length: usize,
    ) -> Result<Step, Cause> {
        let length = length.min(KERNEL_STEP_BYTES_MAX);
        let step = self.count_sent(sys::pipe::splice(pipe, socket, length))?;
        if matches!(step, Step::Moved(1..)) {
            self.open_record_bytes = 0;
        }
        Ok(step)
    }

    /// Gives the kernel the key that a KeyUpdate just announced.
    pub(super) fn change_key(
        &mut self,
        transport: &Transport,
        keys: TrafficKeys,
    ) -> Result<(), Cause> {
        // After the KeyUpdate is on its way there is only this way forward: a failure ends the
        // connection.
        self.wire.end_key(transport.socket.descriptor(), &keys);
        transport
            .set_kernel_keys(Direction::Send, &keys)
            .map_err(Cause::Io)?;
        self.records_left = self.records_max;
        Ok(())
    }

    fn count_sent(&mut self, sent: io::Result<usize>) -> Result<Step, Cause> {
        match sent {
            Ok(sent) => {
                // One more than full records need: the first bytes may complete an open record, and
                // a call that the socket cut short ends one early.
                let records = sent / RECORD_PLAINTEXT_BYTES_MAX + 1;
                self.records_left = self.records_left.saturating_sub(records as u64);
                self.wire.payload_bytes += sent as u64;
                Ok(Step::Moved(sent))
            }
            Err(error) if would_block(&error) => Ok(Step::Blocked),
            Err(error) => Err(Cause::Io(error)),
        }
    }

    /// ChaCha20-Poly1305 has no limit that a connection could reach (RFC 8446 5.5).
    fn bound(aead: Aead, records_max: u64) -> u64 {
        match aead {
            Aead::Aes128Gcm | Aead::Aes256Gcm => records_max.min(AES_GCM_RECORDS_MAX),
            Aead::Chacha20Poly1305 => u64::MAX,
        }
    }
}

/// The bytes of a file from `offset`, at most `length`, that go into a record behind `open` others: all, or
/// as many as end with a page. Each page that a record has a part of costs the kernel a fragment, and with
/// the records of a large file lying across them that was a page more in each.
fn bytes_behind(open: usize, offset: u64, length: usize) -> usize {
    let room = RECORD_PLAINTEXT_BYTES_MAX.saturating_sub(open);
    if length <= room {
        return length;
    }
    let into_page = offset.saturating_add(room as u64) % PAGE_BYTES as u64;
    let whole = usize::try_from(into_page).map_or(0, |bytes| room.saturating_sub(bytes));
    if whole == 0 { room } else { whole }
}

/// The receiving side of a connection that the kernel decrypts.
pub(crate) struct KernelReceive {
    machine: PostHandshake,
}

impl KernelReceive {
    /// Goes on with the messages above the records where user space stopped.
    pub(crate) fn new(machine: PostHandshake) -> Self {
        Self { machine }
    }

    /// Receives once: application data of one or more records, or one control record.
    pub(super) fn receive(
        &mut self,
        transport: &Transport,
        into: &mut BytesMut,
    ) -> Result<Took, Cause> {
        buf::with_receive_scratch(|scratch| {
            let received = sys::socket::receive_record(transport.socket.descriptor(), scratch);
            let (content_type, count) = match received {
                Ok(None) => return Ok(Took::End),
                Ok(Some(received)) => received,
                Err(error) if would_block(&error) => return Ok(Took::Nothing),
                Err(error) => return Err(kernel_receive_failure(transport, error)),
            };
            let payload = scratch.get(..count).unwrap_or_default();
            let now_ms = transport.deadline.now_ms();
            match self.machine.on_record(content_type, payload, now_ms) {
                Ok(Event::Data) => {
                    into.extend_from_slice(payload);
                    // A call ends at a control record; the socket stays readable for it.
                    Ok(Took::Bytes {
                        data: count,
                        filled: count == scratch.len(),
                    })
                }
                Ok(Event::Nothing) => {
                    transport.keep_tickets(&mut self.machine)?;
                    Ok(Took::Bytes {
                        data: 0,
                        filled: true,
                    })
                }
                Ok(Event::KeyUpdate { reply }) => {
                    transport.keep_tickets(&mut self.machine)?;
                    change_key(transport, reply)?;
                    Ok(Took::Bytes {
                        data: 0,
                        filled: true,
                    })
                }
                Ok(Event::RefuseRenegotiation) => {
                    transport.send_alert(AlertDescription::NoRenegotiation);
                    Ok(Took::Bytes {
                        data: 0,
                        filled: true,
                    })
                }
                Ok(Event::CloseNotify) => Ok(Took::CloseNotify { data: 0 }),
                Ok(Event::FatalAlert(description)) => Err(transport.given_up(description)),
                Err(error) => Err(transport.refuse(&error)),
            }
        })
    }
}

/// What TCP has been given, when two looks agree: an acknowledgement within one makes it say too
/// little, and then too little would seem to be held back later.
fn written_so_far(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut last = sys::socket::written_bytes(socket).ok()?;
    for _ in 0..LOOKS_MAX {
        let now = sys::socket::written_bytes(socket).ok()?;
        if now == last {
            return Some(now);
        }
        last = now;
    }
    None
}

/// Until the new key is set the kernel gives EKEYEXPIRED and reports no readiness, so this happens
/// before anything waits.
fn change_key(transport: &Transport, reply: bool) -> Result<(), Cause> {
    if !transport.context.kernel.rekey {
        return Err(transport.give_up_on_rekey());
    }
    let keys = transport.on_key_update(reply)?;
    let changed = transport.set_kernel_keys(Direction::Receive, &keys);
    changed.map_err(|error| {
        tracing::warn!(%error, "the kernel refuses the next receiving key");
        transport.give_up_on_rekey()
    })
}

/// The errors by which the kernel's record layer reports a broken record, with the alert that
/// RFC 8446 5.2 and 5.4 name for each.
pub(crate) fn kernel_receive_failure(transport: &Transport, error: io::Error) -> Cause {
    let (alert, reason) = match error.raw_os_error() {
        Some(libc::EBADMSG) => (
            AlertDescription::BadRecordMac,
            "a record does not authenticate",
        ),
        Some(libc::EMSGSIZE) => (AlertDescription::RecordOverflow, "a record is too long"),
        Some(libc::EINVAL) => (
            AlertDescription::UnexpectedMessage,
            "a record header is malformed",
        ),
        _ => return Cause::Io(error),
    };
    // The record layer leaves its verdict on the socket (tls_err_abort), where it would meet the
    // alert.
    drop(transport.socket.take_error());
    transport.refuse(&ProtocolError { alert, reason })
}

/// Acknowledgements come one at a time, and rarely within one of these looks.
const LOOKS_MAX: usize = 8;

/// Bytes of one call to the kernel: bounds how long one call encrypts, and how many records it may
/// make.
const KERNEL_STEP_BYTES_MAX: usize = 256 * 1024;

const _: () =
    assert!(2 * (TURN_BYTES_MAX / RECORD_PLAINTEXT_BYTES_MAX) as u64 > RECORDS_PER_STEP_MAX);
const _: () =
    assert!((KERNEL_STEP_BYTES_MAX / RECORD_PLAINTEXT_BYTES_MAX) as u64 + 1 < RECORDS_PER_STEP_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_record_takes_all_or_ends_with_a_page() {
        let full = RECORD_PLAINTEXT_BYTES_MAX;
        for (open, offset, length, expected) in [
            (300, 0, 1000, 1000),
            (300, 0, full - 300, full - 300),
            (300, 0, full, 12_288),
            (300, 0, 1 << 20, 12_288),
            // A range that begins within a page gets to the end of one.
            (300, 1000, 1 << 20, 15_384),
            (1, 4095, 1 << 20, 12_289),
            // Nearly full: no page ends within the room.
            (full - 10, 0, 1 << 20, 10),
            (full - 10, 4000, 1 << 20, 10),
            (full - 10, 4090, 1 << 20, 6),
        ] {
            let bytes = bytes_behind(open, offset, length);
            assert_eq!(bytes, expected, "{open} {offset} {length}");
            assert!(bytes > 0 && bytes <= length && open + bytes <= full.max(open + length));
        }
    }
}
