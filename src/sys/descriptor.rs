//! Borrowing a descriptor from a type that only tells its number.

#![expect(
    unsafe_code,
    reason = "the runtime's stream offers AsRawFd but not AsFd"
)]

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};

/// The descriptor that `owner` keeps open.
///
/// Only what owns its descriptor is taken: a borrowed one cannot be given away (it is no `IntoRawFd`),
/// and a bare number, which anybody may have closed, has nothing to drop.
pub fn descriptor_of<T: AsRawFd + IntoRawFd>(owner: &T) -> BorrowedFd<'_> {
    const { assert!(std::mem::needs_drop::<T>(), "a number owns no descriptor") };
    // SAFETY: the descriptor must stay open for the borrow. `owner` owns it, for it could give it away
    // and closes something when dropped, and it is itself borrowed that long.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}
