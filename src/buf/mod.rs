//! A worker's scratch memory.
//!
//! Sockets are read and written by direct calls, so a scratch buffer is in use only within one call
//! of a function, never while a task waits: one of each per worker thread serves all its
//! connections. What a tunnel must keep while the other side has no room is in buffers and pipes of
//! pools.

mod pipes;

use std::cell::{Cell, RefCell};

use bytes::BytesMut;

pub use self::pipes::Pipe;
use crate::limits::{
    PAGE_BYTES, QUEUED_BYTES_PER_WORKER_MAX, RECEIVE_CHUNK_BYTES, SEND_CHUNK_BYTES,
    TUNNEL_BUFFERS_KEPT_PER_WORKER_MAX,
};

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

/// An empty buffer for what a tunnel carries. It goes back with [`give_back_tunnel_buffer`].
pub fn take_tunnel_buffer() -> BytesMut {
    TUNNEL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps a tunnel's buffer for the next one.
pub fn give_back_tunnel_buffer(mut buffer: BytesMut) {
    buffer.clear();
    TUNNEL.with_borrow_mut(|free| {
        let is_worth_keeping = (1..=2 * RECEIVE_CHUNK_BYTES).contains(&buffer.capacity());
        if is_worth_keeping && free.len() < TUNNEL_BUFFERS_KEPT_PER_WORKER_MAX {
            free.push(buffer);
        }
    });
}

/// Keeps the allocator's memory for objects of `bytes` at hand on this worker, where one after the other
/// is made and dropped. mimalloc gives a page back when its last object is dropped and takes a fresh one
/// for the next, which cost 4% of a request of 1 KiB; so one object of that size is never dropped.
pub fn keep_ready(bytes: usize) {
    READY.with_borrow_mut(|kept| {
        let is_kept = kept.iter().any(|object| object.capacity() == bytes);
        if !is_kept && kept.len() < READY_SIZES_MAX {
            kept.push(Vec::with_capacity(bytes));
        }
    });
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

/// `bytes` of `scratch`, beginning in the middle of a page: see [`limits::ALIASED_BYTES`]. What the kernel
/// copies from begins mostly at the front of one, or a message head behind it.
///
/// [`limits::ALIASED_BYTES`]: crate::limits::ALIASED_BYTES
fn sized(scratch: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if scratch.len() != bytes + PAGE_BYTES {
        *scratch = vec![0; bytes + PAGE_BYTES];
    }
    let address = scratch.as_ptr().addr();
    let start = (PAGE_BYTES / 2).wrapping_sub(address) % PAGE_BYTES;
    scratch.get_mut(start..start + bytes).unwrap_or_default()
}

thread_local! {
    /// See [`keep_ready`].
    static READY: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static HELD: Cell<usize> = const { Cell::new(0) };
    static RECEIVE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static TUNNEL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static SEND: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Chunk plus headers, nonces, tags: at most 29 bytes a record, and one record more for a short
/// one in front; and what they begin behind the scratch's front, at most 206 bytes.
const SEND_SCRATCH_BYTES: usize = SEND_CHUNK_BYTES + 1024;

/// Sizes that are kept ready: an exchange of each version of HTTP, and some to spare.
const READY_SIZES_MAX: usize = 8;
