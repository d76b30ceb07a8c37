//! Borrowing a descriptor from a type that only tells its number.

#![expect(
    unsafe_code,
    reason = "the runtime's stream offers AsRawFd but not AsFd"
)]

use std::os::fd::{AsRawFd, BorrowedFd};

/// The descriptor that `owner` keeps open. `owner` must own it, as a stream or a file does: a bare
/// number (`RawFd`) owns nothing and must not be passed.
pub fn descriptor_of<T: AsRawFd>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the descriptor must stay open for the borrow. `owner` owns it and is itself borrowed
    // that long, so it is neither dropped nor closed.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}
