//! What waits on one worker for a group's servers to have room, in the order in which it came.
//!
//! Who waits keeps its place until it has what it waits for or its time is over. When there is room,
//! the first that does not know yet is told; what it finds is its own, since newcomers wait as long as
//! anybody does. Whoever leaves tells the next, which may find that there was more.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::pool::NoConnection;
use crate::metrics::{self, Counter};
use crate::net::rt;

/// One worker's queue for one group.
#[derive(Debug)]
pub(super) struct Queue {
    /// By number.
    waiting: RefCell<VecDeque<Waiting>>,
    next_number: Cell<u64>,
    everybody: Arc<Everybody>,
}

/// Who waits on all workers.
#[derive(Debug, Default)]
pub(super) struct Everybody {
    turns: AtomicUsize,
    /// Workers on which somebody waits.
    workers: AtomicUsize,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    waker: Option<Waker>,
    /// Whether it is to look.
    is_told: bool,
}

/// A place in the queue, given up when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    queue: Rc<Queue>,
    number: u64,
    until: Instant,
}

impl Queue {
    /// A queue of which `everybody` learns.
    pub(super) fn new(everybody: Arc<Everybody>) -> Self {
        Self {
            waiting: RefCell::default(),
            next_number: Cell::new(0),
            everybody,
        }
    }

    /// A place at the end for at most `time`, where fewer than `waiting_max` wait.
    pub(super) fn enter(
        self: &Rc<Self>,
        waiting_max: usize,
        time: Duration,
    ) -> Result<Turn, NoConnection> {
        if self.len() >= waiting_max {
            metrics::count(Counter::UpstreamQueueFull);
            return Err(NoConnection::QueueFull);
        }
        metrics::count(Counter::UpstreamQueued);
        if self.len() == 0 {
            self.everybody.workers.fetch_add(1, Ordering::Relaxed);
        }
        self.everybody.turns.fetch_add(1, Ordering::Relaxed);
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        self.waiting.borrow_mut().push_back(Waiting {
            number,
            waker: None,
            is_told: false,
        });
        Ok(Turn {
            queue: self.clone(),
            number,
            until: Instant::now() + time,
        })
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// How many wait on other workers.
    pub(super) fn others(&self) -> usize {
        let turns = self.everybody.turns.load(Ordering::Relaxed);
        turns.saturating_sub(self.len())
    }

    /// Of `count` connections, this worker's share beside those on which somebody waits; at least one.
    pub(super) fn share_of(&self, count: usize) -> usize {
        let workers = self.everybody.workers.load(Ordering::Relaxed);
        let others = workers.saturating_sub(usize::from(self.len() > 0));
        count.div_ceil(others + 1)
    }

    /// There may be room for one.
    pub(super) fn tell_one(&self) {
        self.tell_one_from(0);
    }

    fn tell_one_from(&self, number: u64) {
        let mut waiting = self.waiting.borrow_mut();
        let mut untold = waiting.iter_mut().filter(|waiting| !waiting.is_told);
        let next = untold.find(|waiting| waiting.number >= number);
        let waker = next.and_then(|waiting| {
            waiting.is_told = true;
            waiting.waker.take()
        });
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn is_first(&self, number: u64) -> bool {
        let waiting = self.waiting.borrow();
        waiting.front().is_some_and(|first| first.number == number)
    }

    /// It has looked. What there is may be for the next, where that can use other servers.
    fn found_nothing(&self, number: u64, is_picky: bool) {
        let mut waiting = self.waiting.borrow_mut();
        let own = waiting.iter_mut().find(|waiting| waiting.number == number);
        if let Some(own) = own {
            own.is_told = false;
        }
        drop(waiting);
        if is_picky {
            self.tell_one_from(number + 1);
        }
    }

    fn poll_told(&self, number: u64, context: &Context<'_>) -> Poll<()> {
        let mut waiting = self.waiting.borrow_mut();
        let own = waiting.iter_mut().find(|waiting| waiting.number == number);
        match own {
            Some(own) if !own.is_told => {
                own.waker = Some(context.waker().clone());
                Poll::Pending
            }
            Some(_) | None => Poll::Ready(()),
        }
    }
}

impl Turn {
    /// Waits until there may be room for it. One that `is_picky`, because it cannot use every server,
    /// leaves what there is to the next.
    ///
    /// # Errors
    /// When it has waited for as long as it may.
    pub(crate) async fn wait(&mut self, is_picky: bool) -> Result<(), NoConnection> {
        self.queue.found_nothing(self.number, is_picky);
        let left = self.until.saturating_duration_since(Instant::now());
        // A place that another worker gives back is told to nobody here: the first looks for it.
        let time = match self.queue.is_first(self.number) {
            true => left.min(OTHERS_PLACES_PAUSE),
            false => left,
        };
        let mut pause = pin!(rt::sleep(time));
        let is_over = poll_fn(|context| {
            if self.queue.poll_told(self.number, context).is_ready() {
                return Poll::Ready(false);
            }
            let is_over = time == left;
            pause.as_mut().poll(context).map(|()| is_over)
        });
        if is_over.await {
            metrics::count(Counter::UpstreamQueueTimeouts);
            return Err(NoConnection::QueueTimeout);
        }
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let number = self.number;
        let mut waiting = self.queue.waiting.borrow_mut();
        waiting.retain(|waiting| waiting.number != number);
        let is_empty = waiting.is_empty();
        drop(waiting);
        let everybody = &self.queue.everybody;
        everybody.turns.fetch_sub(1, Ordering::Relaxed);
        if is_empty {
            everybody.workers.fetch_sub(1, Ordering::Relaxed);
        }
        self.queue.tell_one();
    }
}

/// How long the first waits before it looks for places that other workers have given back.
const OTHERS_PLACES_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::rt::Driver;

    fn enter(queue: &Rc<Queue>) -> Turn {
        queue.enter(10, Duration::from_secs(60)).unwrap()
    }

    /// The numbers of those that are to look.
    fn told(queue: &Queue) -> Vec<u64> {
        let waiting = queue.waiting.borrow();
        let told = waiting.iter().filter(|waiting| waiting.is_told);
        told.map(|waiting| waiting.number).collect()
    }

    #[test]
    fn who_finds_nothing_keeps_its_place() {
        let queue = Rc::new(Queue::new(Arc::default()));
        let (first, _second) = (enter(&queue), enter(&queue));
        for _ in 0..3 {
            queue.tell_one();
            assert_eq!(told(&queue), [0]);
            queue.found_nothing(0, false);
            assert_eq!(told(&queue), [0; 0]);
        }
        queue.tell_one();
        queue.tell_one();
        assert_eq!(told(&queue), [0, 1], "two places");
        queue.found_nothing(1, false);
        drop(first);
        assert_eq!(told(&queue), [1]);
    }

    #[test]
    fn who_cannot_use_what_there_is_leaves_it_to_the_next() {
        let queue = Rc::new(Queue::new(Arc::default()));
        let _turns = [enter(&queue), enter(&queue), enter(&queue)];
        queue.tell_one();
        queue.found_nothing(0, true);
        assert_eq!(told(&queue), [1]);
        queue.found_nothing(1, true);
        assert_eq!(told(&queue), [2]);
        queue.found_nothing(2, true);
        assert_eq!(told(&queue), [0; 0]);
    }

    #[test]
    fn workers_on_which_somebody_waits_share() {
        let everybody = Arc::<Everybody>::default();
        let queue = || Rc::new(Queue::new(everybody.clone()));
        let (one, other) = (queue(), queue());
        assert_eq!((one.others(), one.share_of(5)), (0, 5));
        let turns = [enter(&other), enter(&other)];
        assert_eq!((one.others(), one.share_of(5)), (2, 3));
        assert_eq!((other.others(), other.share_of(5)), (0, 5));
        let own = enter(&one);
        assert_eq!((other.others(), other.share_of(5)), (1, 3));
        assert_eq!(one.share_of(1), 1);
        drop((turns, own));
        assert_eq!((one.others(), other.share_of(5)), (0, 5));
    }

    #[test]
    fn the_queue_is_bounded_and_waiting_in_it_too() {
        rt::block_on(Driver::Epoll, async {
            let queue = Rc::new(Queue::new(Arc::default()));
            let mut only = queue.enter(1, Duration::from_millis(60)).unwrap();
            let full = queue.enter(1, Duration::from_millis(60)).unwrap_err();
            assert!(matches!(full, NoConnection::QueueFull));
            let ended = loop {
                if let Err(ended) = only.wait(false).await {
                    break ended;
                }
            };
            assert!(matches!(ended, NoConnection::QueueTimeout));
            drop(only);
            assert_eq!(queue.len(), 0);
        })
        .unwrap();
    }
}
