//! Pipes, and splice(2) through them.

#![expect(
    unsafe_code,
    reason = "pipe2(2) with O_NONBLOCK, and splice(2), are in neither std nor socket2"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A pipe: its end to read from and its end to write to, both non-blocking and close-on-exec.
///
/// # Errors
///
/// `EMFILE` and `ENFILE` when no descriptors are left.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: pipe2 writes two descriptors to the array, which has room for them, and keeps nothing.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [read, write] = ends;
    // SAFETY: the call has succeeded, so this is an open descriptor that nothing else owns.
    let read = unsafe { OwnedFd::from_raw_fd(read) };
    // SAFETY: as above, for the other end.
    let write = unsafe { OwnedFd::from_raw_fd(write) };
    Ok((read, write))
}

/// Makes a pipe hold about `bytes` (F_SETPIPE_SZ, Linux 2.6.35).
///
/// # Errors
///
/// `EPERM` beyond what a user's pipes may hold in all (`fs.pipe-user-pages-soft`) or one pipe may
/// (`fs.pipe-max-size`); it stays as it is then.
pub fn set_capacity(pipe: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: this command takes an integer and touches no memory of ours; the descriptor is open
    // while borrowed.
    let result = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Moves up to `bytes_max` bytes from one descriptor to the other, of which one is a pipe, without
/// copying them through user space; gives how many. 0 is the end of what is read from. A socket must
/// have `O_NONBLOCK` set: the call's flag is about the pipe only.
///
/// # Errors
///
/// `WouldBlock` when there is nothing to read or no room to write. From a socket with kernel TLS
/// `EINVAL` or `EIO` when the next record is not application data
/// ([`crate::sys::socket::receive_record`] reads it); into a socket as
/// [`crate::sys::socket::send`].
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes_max: usize) -> io::Result<usize> {
    loop {
        // SAFETY: without offsets the call touches no memory of ours; both descriptors are open
        // while borrowed.
        let moved = unsafe {
            libc::splice(
                from.as_raw_fd(),
                std::ptr::null_mut(),
                to.as_raw_fd(),
                std::ptr::null_mut(),
                bytes_max,
                libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE,
            )
        };
        if let Ok(moved) = usize::try_from(moved) {
            return Ok(moved);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::test_support::TcpPair;

    #[test]
    fn bytes_go_from_socket_to_socket_without_waiting() {
        let (mut from, mut to) = (TcpPair::connected(), TcpPair::connected());
        from.near.set_nonblocking(true).unwrap();
        to.near.set_nonblocking(true).unwrap();
        let (read, write) = pipe().unwrap();
        let nothing = splice(from.near.as_fd(), write.as_fd(), 1 << 16).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        let empty = splice(read.as_fd(), to.near.as_fd(), 1 << 16).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        from.far.write_all(b"through the pipe").unwrap();
        crate::sys::test_support::wait_readable(from.near.as_fd());
        assert_eq!(splice(from.near.as_fd(), write.as_fd(), 7).unwrap(), 7);
        assert_eq!(splice(read.as_fd(), to.near.as_fd(), 1 << 16).unwrap(), 7);
        drop(from.far);
        let mut rest = 0;
        loop {
            match splice(from.near.as_fd(), write.as_fd(), 1 << 16) {
                Ok(0) => break,
                Ok(moved) => rest += moved,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    crate::sys::test_support::wait_readable(from.near.as_fd());
                }
            }
        }
        assert_eq!(splice(read.as_fd(), to.near.as_fd(), rest).unwrap(), 9);
        drop(to.near);
        let mut arrived = String::new();
        to.far.read_to_string(&mut arrived).unwrap();
        assert_eq!(arrived, "through the pipe");
    }

    #[test]
    fn a_pipe_holds_what_it_was_told_to() {
        let (read, write) = pipe().unwrap();
        set_capacity(write.as_fd(), 4096).unwrap();
        let mut write = std::fs::File::from(write);
        assert_eq!(write.write(&[1; 8192]).unwrap(), 4096);
        assert_eq!(
            write.write(&[1]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(read);
    }
}
