//! Waiting for several descriptors at once, on a thread that has no runtime.

#![expect(unsafe_code, reason = "poll(2) has no safe form in std")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Interest<'a> {
    /// The descriptor.
    pub descriptor: BorrowedFd<'a>,
    /// Whether room to write is waited for, or something to read.
    pub is_write: bool,
}

/// Waits until one of `interests` can go on (an error is a reason to, too), at most for `timeout`, and
/// says for each whether it can.
///
/// # Errors
/// `EINVAL` for more interests than the process may have open files, and `ENOMEM`.
pub fn poll(interests: &[Interest<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let entry = |interest: &Interest<'_>| libc::pollfd {
        fd: interest.descriptor.as_raw_fd(),
        events: match interest.is_write {
            true => libc::POLLOUT,
            false => libc::POLLIN,
        },
        revents: 0,
    };
    let mut entries: Vec<libc::pollfd> = interests.iter().map(entry).collect();
    let timeout_ms = match timeout {
        // Rounded up: a wait that ends a little early would be followed by many short ones.
        Some(timeout) => i32::try_from(timeout.as_millis() + 1).unwrap_or(i32::MAX),
        None => -1,
    };
    let count = libc::nfds_t::try_from(entries.len()).unwrap_or(libc::nfds_t::MAX);
    // SAFETY: poll reads and writes `count` entries, which is how many the vector has; the descriptors
    // are open while they are borrowed.
    let result = unsafe { libc::poll(entries.as_mut_ptr(), count, timeout_ms) };
    if result < 0 {
        let error = io::Error::last_os_error();
        // A signal: whoever asks again waits again.
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(entries.iter().map(|entry| entry.revents != 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn who_can_go_on_is_told() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (silent, _kept) = UnixStream::pair().unwrap();
        let interest = |stream, is_write| Interest {
            descriptor: AsFd::as_fd(stream),
            is_write,
        };
        let interests = [interest(&near, false), interest(&silent, false)];
        assert_eq!(
            poll(&interests, Some(Duration::ZERO)).unwrap(),
            [false, false]
        );
        far.write_all(b"x").unwrap();
        assert_eq!(poll(&interests, None).unwrap(), [true, false]);
        let room = [interest(&silent, true)];
        assert_eq!(poll(&room, None).unwrap(), [true]);
        drop(far);
        assert_eq!(poll(&interests, None).unwrap(), [true, false]);
    }
}
