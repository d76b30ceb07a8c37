//! Deadlines: one coarse wheel per worker that wakes overdue tasks.
//!
//! Arming costs a few stores. When a deadline passes, the task that waits for its socket is woken
//! and told so; nothing is done to the socket, so an answer (408) can still be sent and what the
//! peer still sends can still be read. Waiting is for readiness only, so giving it up loses no byte.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// How often the wheel turns. Deadlines pass up to twice this late, never early.
pub const TICK: Duration = Duration::from_millis(TICK_MS);

/// What a connection waits for from its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The TLS handshake's messages.
    Handshake,
    /// The rest of a request head, or the first request of a connection.
    Header,
    /// More of a request body.
    BodyProgress,
    /// The next request.
    Idle,
    /// HTTP/2 streams that are under way. A drain ends the wait, so that it can be announced.
    Streams,
    /// The end of those streams, once it is.
    Draining,
    /// A byte in either direction of a tunnel, or of a connection that has changed its protocol.
    Tunnel,
    /// The end: everything is sent.
    Linger,
}

/// Why a wait was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The phase lasted too long.
    Phase(Phase),
    /// The worker drains and the connection was in [`Phase::Idle`] or [`Phase::Streams`].
    Drain,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait<E> {
    /// What was waited for is there.
    Ready {
        /// The task was suspended, so the others have had their turn.
        suspended: bool,
    },
    /// It did not come in time.
    Expired(E),
}

/// The deadlines of one worker's connections.
#[derive(Clone)]
pub struct Deadlines(Rc<Wheel>);

/// The deadline of one connection: one for receiving and one for sending, independent of each
/// other. It leaves the wheel when dropped.
pub struct Deadline {
    wheel: Deadlines,
    entry: Rc<Entry>,
}

impl Deadlines {
    /// An empty wheel.
    pub fn new() -> Self {
        Self(Rc::new(Wheel {
            start: Instant::now(),
            tick: Cell::new(0),
            slots: (0..SLOTS).map(|_| RefCell::new(Vec::new())).collect(),
            entries: RefCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
        }))
    }

    /// A deadline for one connection, not yet armed.
    pub fn register(&self) -> Deadline {
        let index = self.0.free.borrow_mut().pop();
        let mut entries = self.0.entries.borrow_mut();
        let index = index.unwrap_or(entries.len());
        let entry = Rc::new(Entry {
            index,
            receiving: Lane::default(),
            sending: Lane::default(),
            scheduled: Cell::new(NEVER),
        });
        match entries.get_mut(index) {
            Some(place) => *place = Some(entry.clone()),
            None => entries.push(Some(entry.clone())),
        }
        drop(entries);
        Deadline {
            wheel: self.clone(),
            entry,
        }
    }

    /// Milliseconds since the wheel was made, as of the last turn: a clock that costs one load.
    pub fn now_ms(&self) -> u64 {
        self.0.tick.get() * TICK_MS
    }

    /// Turns the wheel up to `now` and wakes what is overdue.
    pub fn turn(&self, now: Instant) {
        let elapsed_ms = now.saturating_duration_since(self.0.start).as_millis();
        let target = u64::try_from(elapsed_ms / u128::from(TICK_MS)).unwrap_or(NEVER);
        // A worker that slept through more than a whole revolution needs to see each slot once.
        let first = (self.0.tick.get() + 1).max(target.saturating_sub(SLOTS - 1));
        for tick in first..=target {
            self.0.tick.set(tick);
            self.turn_slot(tick);
        }
    }

    /// Ends every wait in [`Phase::Idle`] or [`Phase::Streams`], with [`Expiry::Drain`].
    pub fn drain_idle(&self) {
        for entry in self.0.entries.borrow().iter().flatten() {
            if let Some(Phase::Idle | Phase::Streams) = entry.receiving.what.get() {
                entry.receiving.expire(Expiry::Drain);
            }
        }
    }

    fn turn_slot(&self, tick: u64) {
        let Some(slot) = self.slot(tick) else { return };
        let due = std::mem::take(&mut *slot.borrow_mut());
        for (index, scheduled) in due {
            let entry = self.0.entries.borrow().get(index).cloned().flatten();
            let Some(entry) = entry else { continue };
            // Rescheduled since, or another connection in a reused place: not this note's business.
            if entry.scheduled.get() != scheduled {
                continue;
            }
            entry.scheduled.set(NEVER);
            if let Some(next) = entry.expire_due(tick) {
                self.schedule(&entry, next);
            }
        }
    }

    /// Puts a note for `entry` into the slot of `tick`, or of the farthest slot there is.
    fn schedule(&self, entry: &Entry, tick: u64) {
        let now = self.0.tick.get();
        let tick = tick.clamp(now + 1, now + SLOTS - 1);
        if entry.scheduled.get() <= tick {
            return;
        }
        entry.scheduled.set(tick);
        if let Some(slot) = self.slot(tick) {
            slot.borrow_mut().push((entry.index, tick));
        }
    }

    fn slot(&self, tick: u64) -> Option<&Slot> {
        self.0
            .slots
            .get(usize::try_from(tick % SLOTS).unwrap_or_default())
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self::new()
    }
}

impl Deadline {
    /// Begins `phase`, which may last `after`. It replaces the phase before it.
    pub fn arm(&self, phase: Phase, after: Duration) {
        self.arm_lane(&self.entry.receiving, phase, after);
    }

    /// Ends the phase, if one was armed.
    pub fn disarm(&self) {
        self.entry.receiving.clear();
    }

    /// Whether the phase is over, for those who are never waiting when it ends; told once.
    pub fn expired(&self) -> Option<Expiry> {
        self.entry.receiving.expired.take()
    }

    /// Waits for `ready` as long as the phase lasts. It is pinned by the caller, because a future
    /// that takes another one by value has room for it twice.
    ///
    /// # Errors
    /// Those of `ready`.
    pub async fn in_phase(
        &self,
        ready: Pin<&mut impl Future<Output = io::Result<()>>>,
    ) -> io::Result<Wait<Expiry>> {
        self.entry.receiving.wait(ready).await
    }

    /// Waits until the phase is over.
    pub async fn expire(&self) -> Expiry {
        loop {
            let waited = self.in_phase(std::pin::pin!(std::future::pending())).await;
            if let Ok(Wait::Expired(expiry)) = waited {
                return expiry;
            }
        }
    }

    /// Waits for `ready`, the room for more to send, for as long as `after`.
    ///
    /// # Errors
    /// Those of `ready`.
    pub async fn to_send(
        &self,
        after: Duration,
        ready: Pin<&mut impl Future<Output = io::Result<()>>>,
    ) -> io::Result<Wait<()>> {
        let sending = &self.entry.sending;
        self.arm_lane(sending, (), after);
        let result = sending.wait(ready).await;
        sending.clear();
        result
    }

    /// The worker's coarse clock, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.wheel.now_ms()
    }

    fn arm_lane<W: Copy, E>(&self, lane: &Lane<W, E>, what: W, after: Duration) {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(NEVER);
        // One more tick: the current one has partly passed.
        let ticks = after_ms.div_ceil(TICK_MS).saturating_add(1);
        let tick = self.wheel.0.tick.get().saturating_add(ticks);
        lane.what.set(Some(what));
        lane.tick.set(tick);
        lane.expired.set(None);
        self.wheel.schedule(&self.entry, tick);
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(place) = self.wheel.0.entries.borrow_mut().get_mut(self.entry.index) {
            *place = None;
        }
        self.wheel.0.free.borrow_mut().push(self.entry.index);
    }
}

/// Notes are lazy: an entry has one valid note, at a tick no later than its earliest deadline, and
/// is looked at again when that tick comes. Re-arming to a later time therefore writes no note.
struct Wheel {
    start: Instant,
    tick: Cell<u64>,
    slots: Box<[Slot]>,
    entries: RefCell<Vec<Option<Rc<Entry>>>>,
    free: RefCell<Vec<usize>>,
}

/// Notes of the entries to look at, each with the tick it was written for.
type Slot = RefCell<Vec<(usize, u64)>>;

struct Entry {
    index: usize,
    receiving: Lane<Phase, Expiry>,
    sending: Lane<(), ()>,
    /// The tick of the valid note, or [`NEVER`].
    scheduled: Cell<u64>,
}

/// One direction: what is waited for and until when, and who waits.
struct Lane<W, E> {
    what: Cell<Option<W>>,
    tick: Cell<u64>,
    expired: Cell<Option<E>>,
    waiting: Cell<Option<Waker>>,
}

impl<W, E> Default for Lane<W, E> {
    fn default() -> Self {
        Self {
            what: Cell::new(None),
            tick: Cell::new(NEVER),
            expired: Cell::new(None),
            waiting: Cell::new(None),
        }
    }
}

impl<W, E> Lane<W, E> {
    fn clear(&self) {
        self.what.set(None);
        self.expired.set(None);
    }

    fn expire(&self, expiry: E) {
        self.what.set(None);
        self.expired.set(Some(expiry));
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    async fn wait(
        &self,
        mut ready: Pin<&mut impl Future<Output = io::Result<()>>>,
    ) -> io::Result<Wait<E>> {
        let mut suspended = false;
        let result = poll_fn(|context| {
            if let Some(expiry) = self.expired.take() {
                return Poll::Ready(Ok(Wait::Expired(expiry)));
            }
            match ready.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(result.map(|()| Wait::Ready { suspended })),
                Poll::Pending => {
                    suspended = true;
                    self.waiting.set(Some(context.waker().clone()));
                    Poll::Pending
                }
            }
        });
        let result = result.await;
        self.waiting.set(None);
        result
    }
}

impl Entry {
    /// Ends the wait of each lane that is due at `tick`; gives the earliest tick of those that are
    /// not.
    fn expire_due(&self, tick: u64) -> Option<u64> {
        let mut next: Option<u64> = None;
        if let Some(phase) = self.receiving.what.get() {
            match self.receiving.tick.get() {
                due if due <= tick => self.receiving.expire(Expiry::Phase(phase)),
                later => next = Some(later),
            }
        }
        if self.sending.what.get().is_some() {
            match self.sending.tick.get() {
                due if due <= tick => self.sending.expire(()),
                later => next = Some(next.map_or(later, |other| other.min(later))),
            }
        }
        next
    }
}

/// One revolution is two minutes; longer deadlines are looked at once per revolution.
const SLOTS: u64 = 512;

const TICK_MS: u64 = 250;

const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    /// A wheel whose time the test turns.
    struct Clock(Deadlines, Instant);

    impl Clock {
        fn new() -> Self {
            let wheel = Deadlines::new();
            let start = wheel.0.start;
            Self(wheel, start)
        }

        fn pass(&mut self, ms: u64) {
            self.1 += Duration::from_millis(ms);
            self.0.turn(self.1);
        }
    }

    /// Waits for what never comes.
    async fn receive(deadline: &Deadline) -> io::Result<Wait<Expiry>> {
        deadline.in_phase(pin!(std::future::pending())).await
    }

    /// Waits for room that never comes.
    async fn send(deadline: &Deadline, after: Duration) -> io::Result<Wait<()>> {
        deadline.to_send(after, pin!(std::future::pending())).await
    }

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_phase_ends_late_by_two_ticks_at_most_and_never_early() {
        let mut clock = Clock::new();
        let deadline = clock.0.register();
        for offset in [0, 1, 100, 249] {
            clock.pass(offset);
            deadline.arm(Phase::Header, Duration::from_millis(1000));
            let mut wait = pin!(receive(&deadline));
            assert!(poll_once(wait.as_mut()).is_pending());
            clock.pass(999);
            assert!(
                poll_once(wait.as_mut()).is_pending(),
                "early after {offset}"
            );
            clock.pass(501);
            let end = poll_once(wait.as_mut()).map(Result::unwrap);
            assert_eq!(
                end,
                Poll::Ready(Wait::Expired(Expiry::Phase(Phase::Header)))
            );
        }
    }

    #[test]
    fn arming_again_gives_the_whole_time_again() {
        let mut clock = Clock::new();
        let deadline = clock.0.register();
        let mut wait = pin!(receive(&deadline));
        for _ in 0..20 {
            deadline.arm(Phase::BodyProgress, Duration::from_millis(1000));
            clock.pass(900);
            assert!(poll_once(wait.as_mut()).is_pending());
        }
        // However often it was armed, at most one note per slot it could be looked at in.
        let notes: usize = clock.0.0.slots.iter().map(|slot| slot.borrow().len()).sum();
        assert!(notes <= 2, "{notes}");
    }

    #[test]
    fn a_shorter_deadline_after_a_longer_one_is_met() {
        let mut clock = Clock::new();
        let deadline = clock.0.register();
        deadline.arm(Phase::Idle, Duration::from_secs(75));
        deadline.arm(Phase::Header, Duration::from_millis(500));
        let mut wait = pin!(receive(&deadline));
        clock.pass(1000);
        assert!(poll_once(wait.as_mut()).is_ready());
    }

    #[test]
    fn deadlines_beyond_a_revolution_are_met() {
        let mut clock = Clock::new();
        let deadline = clock.0.register();
        deadline.arm(Phase::Idle, Duration::from_secs(600));
        let mut wait = pin!(receive(&deadline));
        for _ in 0..599 {
            clock.pass(1000);
            assert!(poll_once(wait.as_mut()).is_pending());
        }
        clock.pass(2000);
        assert!(poll_once(wait.as_mut()).is_ready());
    }

    #[test]
    fn a_worker_that_slept_long_meets_every_deadline() {
        let mut clock = Clock::new();
        let armed: Vec<_> = (1..50u64)
            .map(|n| {
                let deadline = clock.0.register();
                deadline.arm(Phase::Idle, Duration::from_millis(n * 977));
                deadline
            })
            .collect();
        clock.pass(10 * 60 * 1000);
        for deadline in &armed {
            let wait = pin!(receive(deadline));
            assert!(poll_once(wait).is_ready());
        }
    }

    #[test]
    fn sending_and_receiving_do_not_disturb_each_other() {
        let mut clock = Clock::new();
        let deadline = clock.0.register();
        deadline.arm(Phase::Idle, Duration::from_secs(60));
        let second = Duration::from_secs(1);
        let mut send = pin!(send(&deadline, second));
        let mut receive = pin!(receive(&deadline));
        assert!(poll_once(send.as_mut()).is_pending());
        assert!(poll_once(receive.as_mut()).is_pending());
        clock.pass(2000);
        assert!(poll_once(receive.as_mut()).is_pending());
        assert!(matches!(
            poll_once(send.as_mut()),
            Poll::Ready(Ok(Wait::Expired(())))
        ));
        clock.pass(60_000);
        assert!(poll_once(receive.as_mut()).is_ready());
    }

    #[test]
    fn a_drain_ends_idle_waits_only() {
        let clock = Clock::new();
        let (idle, busy) = (clock.0.register(), clock.0.register());
        idle.arm(Phase::Idle, Duration::from_secs(60));
        busy.arm(Phase::Header, Duration::from_secs(60));
        let mut idle_wait = pin!(receive(&idle));
        let mut busy_wait = pin!(receive(&busy));
        assert!(poll_once(idle_wait.as_mut()).is_pending());
        clock.0.drain_idle();
        let drained = Poll::Ready(Wait::Expired(Expiry::Drain));
        assert_eq!(poll_once(idle_wait.as_mut()).map(Result::unwrap), drained);
        assert!(poll_once(busy_wait.as_mut()).is_pending());
    }

    #[test]
    fn what_is_dropped_leaves_no_entry() {
        let mut clock = Clock::new();
        for _ in 0..1000 {
            let deadline = clock.0.register();
            deadline.arm(Phase::Idle, Duration::from_secs(1));
            drop(deadline);
        }
        assert_eq!(clock.0.0.entries.borrow().len(), 1, "places are used again");
        clock.pass(3000);
        let notes: usize = clock.0.0.slots.iter().map(|slot| slot.borrow().len()).sum();
        assert_eq!(notes, 0);
    }
}
