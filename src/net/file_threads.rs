//! A few threads for the calls that block: cold opens and cold reads of files.
//!
//! A worker hands a job over and waits; the result comes back through the worker's inbox, whose
//! socket wakes the worker. Wakers never leave their thread. Jobs that wait for different devices take
//! turns, and none of those has all threads: a disk or a file server that hangs stops its own files.

mod queue;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use self::queue::{Job, Queue};
use super::rt;
use super::socket::Socket;
use crate::limits::FILE_THREADS;

/// The threads, shared by all workers. They live as long as there is a way to them.
#[derive(Clone)]
pub struct FileThreads(Arc<Entrance>);

/// One worker's way to the threads.
#[derive(Clone)]
pub struct FileThreadsHandle(Rc<Local>);

/// Why a job has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobError {
    /// Too many jobs wait already, in all or for the same device.
    Overloaded,
    /// The job panicked.
    Panicked,
}

impl FileThreads {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start() -> io::Result<Self> {
        let threads = Self(Arc::default());
        for index in 0..FILE_THREADS {
            let queue = threads.0.queue.clone();
            std::thread::Builder::new()
                .name(format!("file-{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || queue.run_jobs())?;
        }
        Ok(threads)
    }

    /// The way to the threads for the worker that calls this, on its runtime.
    ///
    /// # Errors
    /// When no socket pair can be made.
    pub fn attach(&self) -> io::Result<FileThreadsHandle> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let inbox = Arc::new(Inbox {
            wake: theirs,
            done: Mutex::new(Vec::new()),
        });
        let local = Rc::new(Local {
            threads: self.clone(),
            inbox,
            waiting: RefCell::new(Waiting::default()),
        });
        let socket = Socket::adopt(OwnedFd::from(ours.try_clone()?))?;
        rt::spawn(deliver(Rc::downgrade(&local), socket, ours));
        Ok(FileThreadsHandle(local))
    }
}

impl FileThreadsHandle {
    /// A way to no threads, for a runtime that carries no files: jobs are refused as
    /// [`JobError::Overloaded`].
    ///
    /// # Errors
    /// As [`FileThreads::attach`].
    pub fn to_none() -> io::Result<Self> {
        let none = FileThreads(Arc::default());
        none.0.queue.close();
        none.attach()
    }

    /// Runs `job`, which may wait for the file system on `device`, on a file thread and waits for its
    /// result.
    ///
    /// # Errors
    /// [`JobError::Overloaded`] at once when too many jobs wait; [`JobError::Panicked`] when the
    /// job panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        device: u64,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let result = Arc::new(Mutex::new(None));
        let number = self.0.waiting.borrow_mut().next_number();
        let finish = Finish {
            inbox: self.0.inbox.clone(),
            number,
        };
        let slot = result.clone();
        let job: Job = Box::new(move || {
            // Sent when dropped, so also when the job panics.
            let _finish = finish;
            let value = job();
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        });
        self.0.threads.0.queue.push(device, job)?;
        Finished {
            local: &self.0,
            number,
        }
        .await;
        let value = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        value.ok_or(JobError::Panicked)
    }
}

/// Where jobs come in. The threads end when the last of those who hand jobs over is gone.
#[derive(Default)]
struct Entrance {
    queue: Arc<Queue>,
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.queue.close();
    }
}

struct Local {
    threads: FileThreads,
    inbox: Arc<Inbox>,
    waiting: RefCell<Waiting>,
}

impl Drop for Local {
    /// Ends [`deliver`]: nobody is left to wait for a job.
    fn drop(&mut self) {
        drop(self.inbox.wake.shutdown(Shutdown::Both));
    }
}

#[derive(Default)]
struct Waiting {
    last_number: u64,
    /// By job: who waits, or that it is finished already.
    states: HashMap<u64, State>,
}

impl Waiting {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

enum State {
    Waiting(Waker),
    Finished,
}

/// What the threads write to.
struct Inbox {
    wake: UnixStream,
    done: Mutex<Vec<u64>>,
}

/// Tells the inbox that job `number` is over.
struct Finish {
    inbox: Arc<Inbox>,
    number: u64,
}

impl Drop for Finish {
    fn drop(&mut self) {
        let mut done = self
            .inbox
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let was_empty = done.is_empty();
        done.push(self.number);
        drop(done);
        if was_empty {
            // Full means that wake-ups enough are waiting to be read.
            drop((&self.inbox.wake).write(&[1]));
        }
    }
}

/// Ends when the job is over. Dropped early, it forgets the job: its result is dropped when done.
struct Finished<'a> {
    local: &'a Local,
    number: u64,
}

impl Future for Finished<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.local.waiting.borrow_mut();
        if let Some(State::Finished) = waiting.states.get(&self.number) {
            return Poll::Ready(());
        }
        waiting
            .states
            .insert(self.number, State::Waiting(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.local.waiting.borrow_mut().states.remove(&self.number);
    }
}

/// The worker's side of the inbox: wakes the tasks whose jobs are over, until the last handle is
/// gone.
async fn deliver(local: Weak<Local>, socket: Socket, wake: UnixStream) {
    let mut scratch = [0; 64];
    while socket.readable().await.is_ok() {
        let Some(local) = local.upgrade() else { return };
        // Emptied before the list is taken: a job that finishes in between writes again.
        while matches!((&wake).read(&mut scratch), Ok(1..)) {}
        let done = std::mem::take(
            &mut *local
                .inbox
                .done
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for number in done {
            let mut waiting = local.waiting.borrow_mut();
            if let Some(state) = waiting.states.get_mut(&number)
                && let State::Waiting(waker) = std::mem::replace(state, State::Finished)
            {
                drop(waiting);
                waker.wake();
            }
        }
    }
}

/// A job opens or reads one file.
const STACK_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::rt::{Driver, block_on};
    use crate::sys::probe::RingSetup;

    fn on_each_driver(test: impl AsyncFn(FileThreadsHandle)) {
        for driver in [Driver::Epoll, Driver::Ring(RingSetup::default())] {
            let threads = FileThreads::start().unwrap();
            block_on(driver, async { test(threads.attach().unwrap()).await }).unwrap();
        }
    }

    #[test]
    fn results_come_back_in_any_order() {
        on_each_driver(async |threads| {
            for round in 0..100u64 {
                let (a, b) = (
                    threads.run(0, move || round),
                    threads.run(0, move || round + 1),
                );
                assert_eq!(b.await, Ok(round + 1));
                assert_eq!(a.await, Ok(round));
            }
        });
    }

    #[test]
    fn a_panic_is_an_error_and_the_thread_lives_on() {
        on_each_driver(async |threads| {
            for _ in 0..2 * FILE_THREADS {
                let result = threads.run(0, || -> () { panic!("injected") }).await;
                assert_eq!(result, Err(JobError::Panicked));
            }
            assert_eq!(threads.run(0, || 7).await, Ok(7));
        });
    }

    #[test]
    fn a_forgotten_job_leaves_nothing_behind() {
        on_each_driver(async |threads| {
            {
                let job = std::pin::pin!(threads.run(0, || 1));
                let mut job = job;
                let waker = Waker::noop();
                let _ = job.as_mut().poll(&mut Context::from_waker(waker));
            }
            assert_eq!(threads.run(0, || 2).await, Ok(2));
            assert!(threads.0.waiting.borrow().states.is_empty());
        });
    }

    #[test]
    fn a_device_that_hangs_holds_up_no_other() {
        on_each_driver(async |threads| {
            let (release, hangs) = std::sync::mpsc::channel::<()>();
            let hangs = Arc::new(Mutex::new(hangs));
            let waker = Waker::noop();
            // More than there are threads, all of which wait for what does not come.
            let jobs = std::iter::repeat_with(|| {
                let hangs = hangs.clone();
                Box::pin(threads.run(1, move || hangs.lock().unwrap().recv().is_err()))
            });
            let mut jobs: Vec<_> = jobs.take(2 * FILE_THREADS).collect();
            for job in &mut jobs {
                let polled = job.as_mut().poll(&mut Context::from_waker(waker));
                assert!(polled.is_pending());
            }
            for number in 0..100u64 {
                assert_eq!(threads.run(2, move || number).await, Ok(number));
            }
            drop(release);
            for job in jobs {
                assert_eq!(job.await, Ok(true));
            }
        });
    }
}
