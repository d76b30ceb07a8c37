//! The runtime, wrapped: drivers, tasks, timers, yielding.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use super::socket::Socket;
use crate::limits::RING_SUBMISSIONS;
use crate::sys::probe::{Ring, RingSetup};

/// What drives a worker's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring, with the setup flags that the kernel accepts.
    Ring(RingSetup),
    /// epoll: the kernel forbids or lacks io_uring.
    Epoll,
}

impl From<&Ring> for Driver {
    fn from(ring: &Ring) -> Self {
        match ring {
            Ring::Usable(setup) => Self::Ring(*setup),
            Ring::Refused(_) => Self::Epoll,
        }
    }
}

/// Runs `future` to its end on this thread, with a runtime built here: SINGLE_ISSUER binds a ring
/// to the thread that made it.
///
/// # Errors
/// Whatever building the driver reports.
pub fn block_on<F: Future>(driver: Driver, future: F) -> io::Result<F::Output> {
    match driver {
        Driver::Ring(setup) => {
            let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
                .with_entries(RING_SUBMISSIONS)
                .uring_builder(setup.builder())
                .enable_timer()
                .build()?;
            runtime.block_on(async move {
                YIELD.set(Some(Rc::new(always_readable()?)));
                let output = future.await;
                // Within the runtime: a socket's descriptor is closed through its ring.
                drop(YIELD.take());
                Ok(output)
            })
        }
        Driver::Epoll => {
            let mut runtime = RuntimeBuilder::<LegacyDriver>::new()
                .enable_timer()
                .build()?;
            runtime.block_on(async move {
                let (wake, woken) = UnixStream::pair()?;
                wake.set_nonblocking(true)?;
                woken.set_nonblocking(true)?;
                let socket = Socket::adopt(woken.try_clone()?.into())?;
                let waking = monoio::spawn(wake_yielded(socket, woken));
                YIELDED.set(Some(Yielded {
                    tasks: Vec::new(),
                    wake,
                }));
                let output = future.await;
                // A waker belongs to its runtime. The end of the stream ends the task that wakes.
                drop(YIELDED.take());
                waking.await;
                Ok(output)
            })
        }
    }
}

/// Starts a task on this worker. It runs until it ends; nothing waits for it.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(task));
}

/// Waits for `duration`. Boxed: the runtime's timer takes 640 bytes and is aligned to 128, which the
/// state of every future around a pause would grow by, most of which never pause.
pub async fn sleep(duration: Duration) {
    Box::pin(monoio::time::sleep(duration)).await;
}

/// What `future` gives; `None` when it takes longer than `after` and is dropped. For threads without
/// connections: those have deadlines ([`super::deadline`]), which cost less.
pub async fn timeout<F: Future>(after: Duration, future: F) -> Option<F::Output> {
    monoio::time::timeout(after, future).await.ok()
}

/// Lets every other ready task and completion run before this one goes on.
///
/// A task that merely wakes itself is run again first, before all others. And as long as any task
/// is ready a ring sees no completion (DEFER_TASKRUN), and neither driver looks at its timers. So
/// nobody may be ready for a moment. On a ring this waits for a descriptor that is always ready: the
/// wait completes within the next io_uring_enter, beside whatever else has completed. On epoll such
/// a wait would not suspend: there the tasks that yield are woken by one that waits for a byte that
/// the first of them sends.
pub async fn yield_turn() {
    let ready = YIELD.with_borrow(Clone::clone);
    match ready {
        // An error here would mean the descriptor is gone; going on without a pause is all that
        // is left then.
        Some(ready) => drop(ready.readable().await),
        None => BeWoken::default().await,
    }
}

/// A future whose panic is a value, so that one connection's panic ends that connection only.
pub struct CatchPanic<F: ?Sized>(Pin<Box<F>>);

/// The task panicked; the message went through the panic hook.
#[derive(Debug)]
pub struct Panicked;

impl<F: Future> CatchPanic<F> {
    /// Wraps `future`.
    pub fn new(future: F) -> Self {
        Self(Box::pin(future))
    }
}

impl<F: Future + ?Sized> From<Pin<Box<F>>> for CatchPanic<F> {
    fn from(future: Pin<Box<F>>) -> Self {
        Self(future)
    }
}

impl<F: Future + ?Sized> Future for CatchPanic<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // After a panic the future is dropped, never polled again: what it borrowed may be in any
        // state, and what it shares with others (counters, the admission table, the deadline wheel)
        // is changed by single steps that do not panic half-way.
        let poll = std::panic::AssertUnwindSafe(|| self.0.as_mut().poll(context));
        match std::panic::catch_unwind(poll) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}

thread_local! {
    /// On a ring: a descriptor that is always readable. See [`yield_turn`].
    static YIELD: RefCell<Option<Rc<Socket>>> = const { RefCell::new(None) };
    /// On epoll. See [`yield_turn`].
    static YIELDED: RefCell<Option<Yielded>> = const { RefCell::new(None) };
}

/// One end of a closed pair: end of file is always there to be read.
fn always_readable() -> io::Result<Socket> {
    let (ready, _closed) = UnixStream::pair()?;
    ready.set_nonblocking(true)?;
    Socket::adopt(ready.into())
}

/// On epoll: the tasks that have yielded.
struct Yielded {
    tasks: Vec<(Waker, Rc<Cell<bool>>)>,
    /// Makes the driver wake [`wake_yielded`].
    wake: UnixStream,
}

/// Wakes those that have yielded whenever `woken`, which `socket` watches, has a byte; until the end
/// of its stream.
async fn wake_yielded(socket: Socket, mut woken: UnixStream) {
    while socket.readable().await.is_ok() {
        if let Ok(0) = woken.read(&mut [0; 16]) {
            return;
        }
        let tasks = YIELDED.with_borrow_mut(|yielded| match yielded {
            Some(yielded) => std::mem::take(&mut yielded.tasks),
            None => Vec::new(),
        });
        for (waker, is_over) in tasks {
            is_over.set(true);
            waker.wake();
        }
    }
}

/// Pending until [`wake_yielded`] says that it is over: a task may be polled before that, for another
/// of its futures.
#[derive(Default)]
struct BeWoken(Option<Rc<Cell<bool>>>);

impl Future for BeWoken {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            Some(is_over) if is_over.get() => return Poll::Ready(()),
            Some(_) => return Poll::Pending,
            None => {}
        }
        let is_over = Rc::new(Cell::new(false));
        self.0 = Some(is_over.clone());
        YIELDED.with_borrow_mut(|yielded| {
            let Some(yielded) = yielded else {
                return Poll::Ready(());
            };
            yielded.tasks.push((context.waker().clone(), is_over));
            // Full would mean that there are bytes enough to be woken by.
            if yielded.tasks.len() == 1 {
                drop(yielded.wake.write(&[1]));
            }
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::probe::ring;

    /// Timers pass although there is always a task that has only yielded: what ends idle connections
    /// is a timer.
    #[test]
    fn tasks_that_only_yield_leave_timers_and_others_their_turn() {
        for driver in [Driver::Epoll, Driver::from(&ring())] {
            let turns = Rc::new(Cell::new(0));
            let both = turns.clone();
            let output = block_on(driver, async move {
                for _ in 0..2 {
                    let turns = turns.clone();
                    spawn(async move {
                        loop {
                            turns.set(turns.get() + 1);
                            assert!(turns.get() < TURNS_MAX, "the timer is starved");
                            yield_turn().await;
                        }
                    });
                }
                sleep(Duration::from_millis(20)).await;
            });
            output.unwrap();
            assert!(both.get() > 2, "{}", both.get());
        }
    }

    /// More turns than any machine makes in the time of the timer.
    const TURNS_MAX: usize = 10_000_000;
}
