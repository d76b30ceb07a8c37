//! A worker's scratch memory.
//!
//! Sockets are read and written by direct calls, so a buffer is in use only within one call of a
//! function, never while a task waits: one of each per worker thread serves all its connections.

use std::cell::{Cell, RefCell};

use crate::limits::{QUEUED_BYTES_PER_WORKER_MAX, RECEIVE_CHUNK_BYTES, SEND_CHUNK_BYTES};

/// Calls `use_scratch` with the worker's receive scratch, [`RECEIVE_CHUNK_BYTES`] long. What an
/// earlier use left in it is still there.
pub fn with_receive_scratch<R>(use_scratch: impl FnOnce(&mut [u8]) -> R) -> R {
    RECEIVE.with_borrow_mut(|scratch| use_scratch(sized(scratch, RECEIVE_CHUNK_BYTES)))
}

/// Calls `use_scratch` with the worker's send scratch: room for [`SEND_CHUNK_BYTES`] of plaintext
/// as records, with the protection of each.
pub fn with_send_scratch<R>(use_scratch: impl FnOnce(&mut [u8]) -> R) -> R {
    SEND.with_borrow_mut(|scratch| use_scratch(sized(scratch, SEND_SCRATCH_BYTES)))
}

/// Bytes that a connection keeps for a socket without room, counted against the worker's bound.
#[derive(Default)]
pub struct Held(usize);

impl Held {
    /// From now on it is `bytes` in all.
    pub fn set(&mut self, bytes: usize) {
        HELD.set(HELD.get() + bytes - self.0);
        self.0 = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Whether this worker's connections keep so much ([`QUEUED_BYTES_PER_WORKER_MAX`]) that each should
/// take as little more as it can do with.
pub fn is_scarce() -> bool {
    HELD.get() >= QUEUED_BYTES_PER_WORKER_MAX
}

/// Bytes that this worker's connections keep.
#[cfg(test)]
pub(crate) fn held_bytes() -> usize {
    HELD.get()
}

fn sized(scratch: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if scratch.len() != bytes {
        *scratch = vec![0; bytes];
    }
    scratch
}

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static RECEIVE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static SEND: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Chunk plus headers, nonces, tags: at most 29 bytes a record, and one record more for a short
/// one in front.
const SEND_SCRATCH_BYTES: usize = SEND_CHUNK_BYTES + 1024;
