//! Bytes from socket to socket through a pipe: the steps that tunnels and bodies share.

use std::io;
use std::os::fd::BorrowedFd;

use super::stream::{ReceivePath, SendPath, Sending, Step, Transport, kernel_receive_failure};
use crate::buf::Pipe;
use crate::error::Cause;
use crate::limits::PIPE_BYTES;
use crate::sys;

/// What ended the filling of a pipe.
pub(super) enum Stop {
    /// It is full.
    Full,
    /// Nothing more is there.
    Nothing,
    /// The end, or a control record: a receive tells.
    Look,
    /// The socket has failed. It says so once.
    Failed(Cause),
}

/// Whether no byte need enter user space on the way from one to the other.
pub(super) fn is_possible(from: &Transport, to: &Transport) -> bool {
    let receiving = from.receiving.borrow();
    let sending = to.sending.borrow();
    matches!(
        receiving.path,
        ReceivePath::Plain | ReceivePath::KernelTls(_)
    ) && matches!(sending.path, SendPath::Plain | SendPath::KernelTls(_))
}

/// Moves what is there, at most `bytes_max`, into an empty pipe and gives how much that was. Kernel TLS
/// gives one record at a time.
pub(super) fn fill(from: &Transport, pipe: &Pipe, bytes_max: u64) -> (usize, Stop) {
    let room = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let room = room.min(PIPE_BYTES as usize);
    let mut filled = 0;
    while filled < room {
        let left = room - filled;
        match sys::pipe::splice(from.socket.descriptor(), pipe.write_end(), left) {
            Ok(0) => return (filled, Stop::Look),
            Ok(moved) => filled += moved,
            Err(error) => return (filled, stopped_by(from, error)),
        }
    }
    (filled, Stop::Full)
}

/// Moves the `bytes` that are in a pipe to `to`, waiting for room.
pub(super) async fn empty(pipe: &Pipe, to: &Transport, bytes: usize) -> Result<(), Cause> {
    let mut left = bytes;
    while left > 0 {
        to.settle().await?;
        let step = {
            let mut sending = to.sending.borrow_mut();
            sending.splice_step(to, pipe.read_end(), left)?
        };
        if let Step::Moved(moved) = step {
            left = left.saturating_sub(moved);
        }
        to.after(step).await?;
    }
    Ok(())
}

fn stopped_by(from: &Transport, error: io::Error) -> Stop {
    if error.kind() == io::ErrorKind::WouldBlock {
        return Stop::Nothing;
    }
    let is_kernel_tls = matches!(from.receiving.borrow().path, ReceivePath::KernelTls(_));
    match error.raw_os_error() {
        // Kernel TLS splices application data only.
        Some(libc::EINVAL | libc::EIO) if is_kernel_tls => Stop::Look,
        _ if is_kernel_tls => Stop::Failed(kernel_receive_failure(from, error)),
        _ => Stop::Failed(Cause::Io(error)),
    }
}

impl Sending {
    /// Moves up to `bytes` from a pipe to the socket.
    fn splice_step(
        &mut self,
        transport: &Transport,
        pipe: BorrowedFd<'_>,
        bytes: usize,
    ) -> Result<Step, Cause> {
        if self.must_change_key(transport)? {
            return Ok(Step::Moved(0));
        }
        let socket = transport.socket.descriptor();
        let (path, _) = self.queue_mut();
        let step = match path {
            SendPath::Plain => Step::of(sys::pipe::splice(pipe, socket, bytes)),
            SendPath::KernelTls(kernel) => kernel.splice(socket, pipe, bytes),
            SendPath::UserTls(_) => Err(Cause::Internal("a splice past the record layer")),
        }?;
        match step {
            // There are bytes in the pipe: nothing moved and no reason given would go on for ever.
            Step::Moved(0) => Err(Cause::Io(io::ErrorKind::WriteZero.into())),
            Step::Moved(moved) => {
                self.count_sent(moved as u64);
                Ok(step)
            }
            Step::Blocked => Ok(step),
        }
    }
}
