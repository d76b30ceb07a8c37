//! The futures that serve a connection's streams, polled within the connection's own task.
//!
//! Each has a waker of its own, so that one that is woken does not have all polled. A waker puts its
//! place into a list and wakes the connection's task, unless that is running: it looks at the list
//! before it ends its turn, and a task must not wake itself (see [`crate::net::rt::yield_turn`]).

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::proto::h2::StreamId;

/// The futures of one connection.
pub(super) struct Tasks<'a> {
    places: Vec<Place<'a>>,
    free: Vec<usize>,
    ready: Arc<Ready>,
    /// The places that are polled in this round; kept for its memory.
    round: Vec<usize>,
}

struct Place<'a> {
    stream: StreamId,
    future: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
    wake: Arc<WakePlace>,
    waker: Waker,
}

/// The places that have been woken.
#[derive(Default)]
struct Ready {
    places: Mutex<Vec<usize>>,
    task: Mutex<Option<Waker>>,
    is_running: AtomicBool,
}

/// A place keeps its waker from one future to the next: one that comes late polls in vain.
struct WakePlace {
    place: usize,
    is_listed: AtomicBool,
    ready: Arc<Ready>,
}

impl<'a> Tasks<'a> {
    pub(super) fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            ready: Arc::default(),
            round: Vec::new(),
        }
    }

    /// The connection's task runs: it polls what is woken from now on.
    pub(super) fn begin(&self, context: &Context<'_>) {
        self.ready.is_running.store(true, Ordering::Relaxed);
        let mut task = lock(&self.ready.task);
        if !task
            .as_ref()
            .is_some_and(|task| task.will_wake(context.waker()))
        {
            *task = Some(context.waker().clone());
        }
    }

    /// The connection's task ends its turn: what is woken from now on wakes it.
    pub(super) fn end(&self) {
        self.ready.is_running.store(false, Ordering::Relaxed);
    }

    /// Adds the future that serves `stream`, to be polled in the next round.
    pub(super) fn add(&mut self, stream: StreamId, future: Pin<Box<dyn Future<Output = ()> + 'a>>) {
        let index = self.free.pop().unwrap_or_else(|| self.add_place());
        if let Some(place) = self.places.get_mut(index) {
            place.stream = stream;
            place.future = Some(future);
            WakePlace::wake_by_ref(&place.wake);
        }
    }

    /// Drops the future that serves `stream`, if it has not ended.
    pub(super) fn remove(&mut self, stream: StreamId) {
        if self.is_empty() {
            return;
        }
        let serves = |place: &Place<'_>| place.stream == stream && place.future.is_some();
        if let Some(index) = self.places.iter().position(serves) {
            self.release(index);
        }
    }

    /// Whether none is left.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// Whether one has been woken and not polled.
    #[cfg(test)]
    fn has_ready(&self) -> bool {
        !lock(&self.ready.places).is_empty()
    }

    /// Polls each future that has been woken, once. Whether there was any.
    pub(super) fn poll_ready(&mut self) -> bool {
        let mut round = std::mem::take(&mut self.round);
        std::mem::swap(&mut round, &mut lock(&self.ready.places));
        let has_polled = !round.is_empty();
        for index in round.drain(..) {
            let Some(place) = self.places.get_mut(index) else {
                continue;
            };
            place.wake.is_listed.store(false, Ordering::Relaxed);
            let mut context = Context::from_waker(&place.waker);
            let polled = place
                .future
                .as_mut()
                .map(|future| future.as_mut().poll(&mut context));
            if polled == Some(Poll::Ready(())) {
                self.release(index);
            }
        }
        self.round = round;
        if self.is_empty() && self.places.len() > PLACES_KEPT {
            // A connection that waits for its next page holds little.
            self.places = Vec::new();
            self.free = Vec::new();
            self.round = Vec::new();
        }
        has_polled
    }

    fn add_place(&mut self) -> usize {
        let index = self.places.len();
        let wake = Arc::new(WakePlace {
            place: index,
            is_listed: AtomicBool::new(false),
            ready: self.ready.clone(),
        });
        self.places.push(Place {
            stream: 0,
            future: None,
            waker: Waker::from(wake.clone()),
            wake,
        });
        index
    }

    fn release(&mut self, index: usize) {
        if let Some(place) = self.places.get_mut(index) {
            place.future = None;
            self.free.push(index);
        }
    }
}

impl Wake for WakePlace {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_listed.swap(true, Ordering::Relaxed) {
            return;
        }
        lock(&self.ready.places).push(self.place);
        if !self.ready.is_running.load(Ordering::Relaxed)
            && let Some(task) = &*lock(&self.ready.task)
        {
            task.wake_by_ref();
        }
    }
}

/// Nothing that holds one of these locks can panic.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Places that an idle connection keeps.
const PLACES_KEPT: usize = 4;

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::poll_fn;
    use std::rc::Rc;

    use super::*;

    struct CountWakes(AtomicBool);

    impl Wake for CountWakes {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    type Log = Rc<RefCell<Vec<u32>>>;

    /// Logs each poll, and ends at the poll for which it is told to.
    fn task(
        number: u32,
        log: &Log,
        waker: &Rc<Cell<Option<Waker>>>,
        polls: u32,
    ) -> Pin<Box<dyn Future<Output = ()>>> {
        let (log, waker, mut left) = (log.clone(), waker.clone(), polls);
        Box::pin(poll_fn(move |context| {
            log.borrow_mut().push(number);
            waker.set(Some(context.waker().clone()));
            left -= 1;
            match left {
                0 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        }))
    }

    #[test]
    fn only_those_that_are_woken_are_polled() {
        let log = Log::default();
        let outer = Arc::new(CountWakes(AtomicBool::new(false)));
        let outer_waker = Waker::from(outer.clone());
        let context = Context::from_waker(&outer_waker);
        let wakers = [Rc::default(), Rc::default()];
        let mut tasks = Tasks::new();
        tasks.begin(&context);
        tasks.add(1, task(1, &log, &wakers[0], 2));
        tasks.add(3, task(3, &log, &wakers[1], 3));
        assert!(tasks.has_ready());
        tasks.poll_ready();
        assert_eq!(log.take(), [1, 3]);
        assert!(!tasks.has_ready());
        // While the task runs it is not woken; the list tells it.
        let first: Waker = wakers[0].take().unwrap();
        first.wake_by_ref();
        first.wake();
        assert!(!outer.0.load(Ordering::Relaxed) && tasks.has_ready());
        tasks.poll_ready();
        assert_eq!(log.take(), [1]);
        tasks.end();
        let second: Waker = wakers[1].take().unwrap();
        second.wake_by_ref();
        assert!(outer.0.load(Ordering::Relaxed));
        tasks.remove(3);
        assert!(tasks.is_empty());
        tasks.poll_ready();
        assert!(log.take().is_empty());
        // Its waker outlives it, and finds another in its place or nobody.
        second.wake_by_ref();
        tasks.add(5, task(5, &log, &wakers[0], 1));
        tasks.poll_ready();
        assert_eq!(log.take(), [5]);
        second.wake();
        tasks.poll_ready();
        assert!(log.take().is_empty() && tasks.is_empty());
    }

    #[test]
    fn places_are_used_again_and_not_kept_when_idle() {
        let log = Log::default();
        let waker = Rc::default();
        let mut tasks = Tasks::new();
        for round in 0..3 {
            for stream in 0..100 {
                tasks.add(stream, task(stream, &log, &waker, 1));
            }
            assert!(tasks.places.len() <= 100, "{round}");
            tasks.poll_ready();
            assert!(tasks.is_empty() && tasks.places.is_empty());
        }
        assert_eq!(log.borrow().len(), 300);
    }
}
