//! Whose a process is.

#![expect(
    unsafe_code,
    reason = "geteuid and SO_PEERCRED have no safe form in std"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The effective user of this process.
pub fn user_id() -> u32 {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() }
}

/// The effective user of whoever made the connection at the other end of a Unix stream socket, as of
/// that moment (`SO_PEERCRED`, unix(7)).
///
/// # Errors
///
/// Those of getsockopt(2).
pub fn peer_user_id(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut credentials = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or_default();
    // SAFETY: getsockopt writes at most `length` bytes, the size of the structure behind the pointer,
    // and the length itself; both outlive the call. The descriptor is open while borrowed.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if outcome == 0 {
        Ok(credentials.uid)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_pair_is_this_users_own() {
        let (a, b) = UnixStream::pair().unwrap();
        assert_eq!(peer_user_id(a.as_fd()).unwrap(), user_id());
        drop(b);
        // Those of the moment when it was made.
        assert_eq!(peer_user_id(a.as_fd()).unwrap(), user_id());
    }

    #[test]
    fn a_tcp_peer_is_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_ne!(peer_user_id(client.as_fd()).ok(), Some(user_id()));
    }
}
