//! Deadlines: one coarse wheel per worker that shuts overdue sockets down.
//!
//! Arming costs a few stores. Nothing is cancelled when a deadline passes: the socket is shut down,
//! the operation that waits on it completes by itself, and its owner asks [`Deadline::expired`] why.
//! Waiting for a request shuts only the receiving side, so that an answer (408) can still be sent.

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::socket::Socket;

/// How often the wheel turns. Deadlines pass up to this much late, never early.
pub const TICK: Duration = Duration::from_millis(250);

/// What a connection is doing, for its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The TLS handshake.
    Handshake,
    /// A request head has begun and is not complete.
    Header,
    /// A request body is awaited.
    BodyProgress,
    /// The response waits for room in the socket.
    SendProgress,
    /// No request has begun.
    Idle,
    /// Everything is sent; the peer is to finish.
    Linger,
    /// Not a deadline: the worker is told to end and this connection was idle.
    Drain,
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

    /// A deadline for `socket`, not yet armed.
    pub fn register(&self, socket: Rc<Socket>) -> Deadline {
        let wheel = &self.0;
        let index = wheel.free.borrow_mut().pop();
        let mut entries = wheel.entries.borrow_mut();
        let index = index.unwrap_or(entries.len());
        let entry = Rc::new(Entry {
            socket,
            index,
            lanes: [Lane::default(), Lane::default()],
            scheduled: Cell::new(NEVER),
            expired: Cell::new(None),
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

    /// Turns the wheel up to `now` and shuts down what is overdue.
    pub fn turn(&self, now: Instant) {
        let elapsed_ms = now.saturating_duration_since(self.0.start).as_millis();
        let target = u64::try_from(elapsed_ms / u128::from(TICK_MS)).unwrap_or(NEVER);
        // A worker that slept through more than a whole revolution needs to see each slot once.
        let first = (self.0.tick.get() + 1).max(target.saturating_sub(SLOTS as u64 - 1));
        for tick in first..=target {
            self.0.tick.set(tick);
            self.turn_slot(tick);
        }
    }

    /// Ends every connection that waits for a request, with [`Phase::Drain`].
    pub fn drain_idle(&self) {
        for entry in self.0.entries.borrow().iter().flatten() {
            if entry.receiving().phase.get() == Some(Phase::Idle) {
                entry.expire(Phase::Drain);
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
        let tick = tick.clamp(now + 1, now + SLOTS as u64 - 1);
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
            .get(usize::try_from(tick % SLOTS as u64).unwrap_or_default())
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self::new()
    }
}

impl Deadline {
    /// Begins `phase`, which may last `after`. It replaces the phase of the same direction.
    pub fn arm(&self, phase: Phase, after: Duration) {
        let ticks = after.as_millis().div_ceil(u128::from(TICK_MS));
        let ticks = u64::try_from(ticks).unwrap_or(NEVER);
        // One more tick: the current one has partly passed.
        let tick = self
            .wheel
            .0
            .tick
            .get()
            .saturating_add(ticks)
            .saturating_add(1);
        let lane = self.entry.lane(phase);
        lane.phase.set(Some(phase));
        lane.tick.set(tick);
        self.wheel.schedule(&self.entry, tick);
    }

    /// Ends the phase of receiving, if one was armed.
    pub fn disarm_receiving(&self) {
        self.entry.receiving().clear();
    }

    /// Ends the phase of sending, if one was armed.
    pub fn disarm_sending(&self) {
        self.entry.sending().clear();
    }

    /// The phase that ran out and shut the socket down, if one did.
    pub fn expired(&self) -> Option<Phase> {
        self.entry.expired.get()
    }

    /// The worker's coarse clock, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.wheel.now_ms()
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
    socket: Rc<Socket>,
    index: usize,
    /// Receiving, sending.
    lanes: [Lane; 2],
    /// The tick of the valid note, or [`NEVER`].
    scheduled: Cell<u64>,
    expired: Cell<Option<Phase>>,
}

#[derive(Default)]
struct Lane {
    phase: Cell<Option<Phase>>,
    tick: Cell<u64>,
}

impl Lane {
    fn clear(&self) {
        self.phase.set(None);
    }
}

impl Entry {
    fn receiving(&self) -> &Lane {
        let [receiving, _] = &self.lanes;
        receiving
    }

    fn sending(&self) -> &Lane {
        let [_, sending] = &self.lanes;
        sending
    }

    fn lane(&self, phase: Phase) -> &Lane {
        if phase == Phase::SendProgress {
            self.sending()
        } else {
            self.receiving()
        }
    }

    /// Shuts the socket down for each lane that is due at `tick`; gives the earliest tick of those
    /// that are not.
    fn expire_due(&self, tick: u64) -> Option<u64> {
        let mut next = None;
        for lane in &self.lanes {
            let Some(phase) = lane.phase.get() else {
                continue;
            };
            if lane.tick.get() <= tick {
                lane.clear();
                self.expire(phase);
            } else {
                next = Some(next.map_or(lane.tick.get(), |other: u64| other.min(lane.tick.get())));
            }
        }
        next
    }

    fn expire(&self, phase: Phase) {
        self.expired.set(Some(phase));
        self.socket.shutdown(match phase {
            Phase::Handshake | Phase::SendProgress | Phase::Linger => Shutdown::Both,
            Phase::Header | Phase::BodyProgress | Phase::Idle | Phase::Drain => Shutdown::Read,
        });
    }
}

/// One revolution is two minutes; longer deadlines are looked at once per revolution.
const SLOTS: usize = 512;

const TICK_MS: u64 = 250;

const NEVER: u64 = u64::MAX;

const _: () = assert!(TICK.as_millis() == TICK_MS as u128);
