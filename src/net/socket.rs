//! One descriptor on this worker's driver: readiness, and the direct calls.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::sys;

/// A non-blocking descriptor whose readiness the worker's driver watches. Closed when dropped.
///
/// Any descriptor that can be polled will do: the runtime treats it as a stream and is asked for
/// nothing but readiness.
#[derive(Debug)]
pub struct Socket {
    watched: monoio::net::TcpStream,
}

impl Socket {
    /// Takes over `descriptor`, which must be non-blocking already.
    ///
    /// # Errors
    /// On the epoll driver, whatever registering it reports.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        let watched = monoio::net::TcpStream::from_std(TcpStream::from(descriptor))?;
        Ok(Self { watched })
    }

    /// Waits until a receive would not block: data, end of stream or an error is there.
    ///
    /// # Errors
    /// When the driver cannot watch the descriptor.
    pub async fn readable(&self) -> io::Result<()> {
        self.watched.readable(false).await
    }

    /// Waits until a send would not block: room (see TCP_NOTSENT_LOWAT) or an error is there.
    ///
    /// # Errors
    /// When the driver cannot watch the descriptor.
    pub async fn writable(&self) -> io::Result<()> {
        self.watched.writable(false).await
    }

    /// The descriptor, for a direct call.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        sys::descriptor_of(&self.watched)
    }

    /// The address that it is bound to, where that is one of the Internet's.
    pub fn local_address(&self) -> Option<SocketAddr> {
        let descriptor = self.descriptor();
        let address = socket2::SockRef::from(&descriptor).local_addr().ok()?;
        address.as_socket()
    }

    /// Takes the error that is pending on the socket off it (SO_ERROR).
    pub fn take_error(&self) -> Option<io::Error> {
        socket2::SockRef::from(&self.descriptor())
            .take_error()
            .unwrap_or_else(Some)
    }

    /// Closing it will reset the connection, and drop what is not sent (SO_LINGER of zero).
    pub fn reset_when_closed(&self) {
        let descriptor = self.descriptor();
        let socket = socket2::SockRef::from(&descriptor);
        drop(socket.set_linger(Some(std::time::Duration::ZERO)));
    }

    /// shutdown(2). A socket that is already gone is as shut as it can be, so errors are dropped.
    pub fn shutdown(&self, how: Shutdown) {
        drop(sys::socket::shutdown(self.descriptor(), how));
    }
}
