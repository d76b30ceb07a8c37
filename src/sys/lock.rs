//! Locks between processes.

#![expect(
    unsafe_code,
    reason = "flock(2): the standard library has it from Rust 1.89, and 1.88 is supported"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Waits until no other open file description of this file is locked, and locks this one. The lock
/// goes when the last descriptor of the description is closed, at the latest when the process ends.
///
/// # Errors
///
/// Those of flock(2): `ENOLCK` and `EOPNOTSUPP` on network filesystems without locks.
pub fn lock_exclusive(file: BorrowedFd<'_>) -> io::Result<()> {
    loop {
        // SAFETY: flock touches no memory of ours; the descriptor is open while borrowed.
        let outcome = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
        if outcome == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::sync::mpsc;

    #[test]
    fn a_second_description_gets_the_lock_after_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = File::create(&path).unwrap();
        let second = File::open(&path).unwrap();
        lock_exclusive(first.as_fd()).unwrap();
        assert!(!is_free(&second));
        let (locked, outcome) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                locked.send(lock_exclusive(second.as_fd())).unwrap();
                second
            });
            drop(first);
            outcome.recv().unwrap().unwrap();
        });
    }

    #[test]
    fn closing_gives_the_lock_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = File::create(&path).unwrap();
        lock_exclusive(first.as_fd()).unwrap();
        let second = File::open(&path).unwrap();
        assert!(!is_free(&second));
        drop(first);
        assert!(is_free(&second));
    }

    fn is_free(file: &File) -> bool {
        // SAFETY: flock touches no memory of ours; the descriptor is open while borrowed.
        let outcome = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        outcome == 0
    }
}
