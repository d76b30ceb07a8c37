//! What the tests of this room share: real loopback connections, and waiting for readiness.

#![expect(unsafe_code, reason = "poll(2), mkfifo(3), posix_fadvise(2)")]

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Both ends of an established TCP connection over loopback.
pub(crate) struct TcpPair {
    pub(crate) near: TcpStream,
    pub(crate) far: TcpStream,
}

impl TcpPair {
    pub(crate) fn connected() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.set_nodelay(true).unwrap();
        far.set_nodelay(true).unwrap();
        Self { near, far }
    }
}

/// Makes a FIFO at `path`.
pub(crate) fn make_fifo(path: &std::path::Path) -> std::io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: the path ends in NUL and outlives the call.
    match unsafe { libc::mkfifo(path.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Lets one side of a test wait until the other is so far.
pub(crate) struct Signal {
    sender: Sender<()>,
    receiver: Mutex<Receiver<()>>,
}

impl Signal {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = channel();
        let receiver = Mutex::new(receiver);
        Self { sender, receiver }
    }

    pub(crate) fn send(&self) {
        self.sender.send(()).unwrap();
    }

    /// Returns once for each [`Signal::send`]. A side that has failed will never send one, so this
    /// fails as well after as long as no test takes.
    pub(crate) fn wait(&self) {
        let receiver = self.receiver.lock().unwrap();
        receiver.recv_timeout(SIGNAL_PATIENCE).unwrap();
    }
}

/// Asks the kernel to forget the pages of `file`, which must be written back already. File systems
/// in memory keep them.
pub(crate) fn advise_not_needed(file: BorrowedFd<'_>) {
    // SAFETY: posix_fadvise takes no pointer; the descriptor is open.
    let advised = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(advised, 0);
}

/// Returns once `socket` has something to receive (the end of the stream included).
pub(crate) fn wait_readable(socket: BorrowedFd<'_>) {
    wait(socket, libc::POLLIN);
}

/// Returns once `socket` has room to send.
pub(crate) fn wait_writable(socket: BorrowedFd<'_>) {
    wait(socket, libc::POLLOUT);
}

fn wait(socket: BorrowedFd<'_>, events: libc::c_short) {
    let mut entry = libc::pollfd {
        fd: socket.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: poll reads and writes the one entry it is told of, and keeps nothing.
    let ready = unsafe { libc::poll(&raw mut entry, 1, WAIT_MS_MAX) };
    assert_eq!(ready, 1, "nothing happened in {WAIT_MS_MAX} ms");
}

const WAIT_MS_MAX: libc::c_int = 10_000;

const SIGNAL_PATIENCE: Duration = Duration::from_secs(60);
