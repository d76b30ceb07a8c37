//! One descriptor on this worker's driver: readiness, and the direct calls.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::sys;

/// A non-blocking descriptor whose readiness the worker's driver watches. Closed when dropped.
///
/// Any descriptor that can be polled will do: the runtime treats it as a stream and is asked for
/// nothing but readiness.
pub struct Socket {
    /// Dropped before what it watches.
    watch: RefCell<Option<Watch>>,
    watched: Rc<monoio::net::TcpStream>,
}

/// A wait for something to receive that outlives those who wait: see [`Socket::readable_again`].
struct Watch {
    /// Watches once for each time that it is asked to, and never ends.
    watching: Pin<Box<dyn Future<Output = ()>>>,
    state: Rc<WatchState>,
}

#[derive(Default)]
struct WatchState {
    /// The driver has been asked and has not answered, or nobody has taken its answer.
    is_armed: Cell<bool>,
    answer: Cell<Option<io::Result<()>>>,
}

impl Socket {
    /// Takes over `descriptor`, which must be non-blocking already.
    ///
    /// # Errors
    /// On the epoll driver, whatever registering it reports.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        let watched = monoio::net::TcpStream::from_std(TcpStream::from(descriptor))?;
        Ok(Self {
            watch: RefCell::default(),
            watched: Rc::new(watched),
        })
    }

    /// Waits until a receive would not block: data, end of stream or an error is there.
    ///
    /// # Errors
    /// When the driver cannot watch the descriptor.
    pub async fn readable(&self) -> io::Result<()> {
        self.watched.readable(false).await
    }

    /// As [`Socket::readable`], for one waiter at a time. A wait that is given up stays with the driver
    /// and serves the next: to take it back and to ask anew would be two more operations of the ring, of
    /// which a proxy would pay for every request while which it looks after its client.
    ///
    /// # Errors
    /// As [`Socket::readable`].
    pub async fn readable_again(&self) -> io::Result<()> {
        poll_fn(|context| self.poll_readable(context)).await
    }

    /// Whether a wait of [`Socket::readable_again`] was given up. What ends the next one may have been
    /// received meanwhile.
    pub fn is_watched(&self) -> bool {
        let watch = self.watch.borrow();
        watch
            .as_ref()
            .is_some_and(|watch| watch.state.is_armed.get())
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut watch = self.watch.borrow_mut();
        let watch = watch.get_or_insert_with(|| Watch::new(self.watched.clone()));
        watch.poll(context)
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
        sys::descriptor_of(&*self.watched)
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

impl fmt::Debug for Socket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Socket")
            .field(&self.descriptor())
            .finish()
    }
}

impl Watch {
    fn new(watched: Rc<monoio::net::TcpStream>) -> Self {
        let state = Rc::new(WatchState::default());
        Self {
            watching: Box::pin(watch(watched, state.clone())),
            state,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state.is_armed.set(true);
        // It has no end.
        let _: Poll<()> = self.watching.as_mut().poll(context);
        match self.state.answer.take() {
            Some(answer) => {
                self.state.is_armed.set(false);
                Poll::Ready(answer)
            }
            None => Poll::Pending,
        }
    }
}

/// Asks the driver, leaves its answer in `state`, and when polled again asks anew.
async fn watch(watched: Rc<monoio::net::TcpStream>, state: Rc<WatchState>) {
    loop {
        state.answer.set(Some(watched.readable(false).await));
        let mut was_polled = false;
        poll_fn(|_| match std::mem::replace(&mut was_polled, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::task::Waker;

    use super::*;
    use crate::net::rt;
    use crate::net::stream::testing::{as_task, drivers};

    fn pair() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Socket::adopt(ours.into()).unwrap(), theirs)
    }

    /// A look without waiting.
    fn look(socket: &Socket) -> Poll<io::Result<()>> {
        socket.poll_readable(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_wait_that_is_given_up_serves_the_next() {
        for driver in drivers() {
            rt::block_on(driver, async {
                let (socket, mut peer) = pair();
                assert!(!socket.is_watched());
                assert!(look(&socket).is_pending());
                assert!(socket.is_watched());
                peer.write_all(b"x").unwrap();
                socket.readable_again().await.unwrap();
                assert!(!socket.is_watched());
                // What is there is told again, to whoever asks anew.
                socket.readable_again().await.unwrap();
            })
            .unwrap();
        }
    }

    #[test]
    fn the_next_waiter_is_woken_in_place_of_the_last() {
        for driver in drivers() {
            rt::block_on(driver, async {
                let (socket, mut peer) = pair();
                let socket = Rc::new(socket);
                assert!(look(&socket).is_pending());
                let waiting = socket.clone();
                let waiter = as_task(async move { waiting.readable_again().await });
                peer.write_all(b"x").unwrap();
                waiter.await.unwrap();
            })
            .unwrap();
        }
    }

    #[test]
    fn a_socket_may_go_while_it_is_watched() {
        for driver in drivers() {
            rt::block_on(driver, async {
                let (socket, mut peer) = pair();
                assert!(look(&socket).is_pending());
                drop(socket);
                // The descriptor is closed when the ring has given the wait back.
                while peer.write_all(b"x").is_ok() {
                    rt::yield_turn().await;
                }
            })
            .unwrap();
        }
    }
}
