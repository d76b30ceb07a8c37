//! Work under way that several tasks of one worker wait for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Work under way, by site and path: one task leads it ([`Flights::take_off`]), the others wait for
/// its outcome ([`Flights::join`]).
pub(crate) struct Flights<V>(RefCell<Vec<Table<V>>>);

type Table<V> = HashMap<Rc<CStr>, Rc<Flight<V>>>;

impl<V: Clone> Flights<V> {
    /// Nothing under way, for `sites` sites.
    pub(crate) fn new(sites: usize) -> Self {
        Self(RefCell::new((0..sites).map(|_| HashMap::new()).collect()))
    }

    /// Waits for the work under way, if there is any. Its value is `None` when the task that led it
    /// went away: whoever comes first then leads it again.
    pub(crate) fn join(&self, site: usize, path: &CStr) -> Option<Landing<V>> {
        let flight = Rc::clone(self.0.borrow().get(site)?.get(path)?);
        Some(Landing { flight, seat: None })
    }

    /// Begins to lead work that is not under way yet.
    pub(crate) fn take_off(&self, site: usize, path: &CStr) -> Takeoff<'_, V> {
        let path = Rc::<CStr>::from(path);
        let flight = Rc::new(Flight {
            phase: RefCell::new(Phase::Flying(Seats::default())),
        });
        if let Some(table) = self.0.borrow_mut().get_mut(site) {
            table.insert(Rc::clone(&path), Rc::clone(&flight));
        }
        Takeoff {
            flights: self,
            site,
            path,
            flight,
            outcome: None,
        }
    }

    /// Whether nothing is under way.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().iter().all(HashMap::is_empty)
    }
}

/// The lead of a flight. However it ends, dropped included, those who wait are told.
pub(crate) struct Takeoff<'a, V: Clone> {
    flights: &'a Flights<V>,
    site: usize,
    path: Rc<CStr>,
    flight: Rc<Flight<V>>,
    outcome: Option<V>,
}

impl<V: Clone> Takeoff<'_, V> {
    /// Ends it with this outcome.
    pub(crate) fn land(mut self, outcome: V) {
        self.outcome = Some(outcome);
    }
}

impl<V: Clone> Drop for Takeoff<'_, V> {
    fn drop(&mut self) {
        if let Some(table) = self.flights.0.borrow_mut().get_mut(self.site) {
            table.remove(&*self.path);
        }
        let landed = Phase::Landed(self.outcome.take());
        if let Phase::Flying(seats) = self.flight.phase.replace(landed) {
            seats.wakers.into_iter().flatten().for_each(Waker::wake);
        }
    }
}

/// One task's wait for a flight.
pub(crate) struct Landing<V> {
    flight: Rc<Flight<V>>,
    seat: Option<usize>,
}

impl<V: Clone> Future for Landing<V> {
    type Output = Option<V>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        match &mut *this.flight.phase.borrow_mut() {
            Phase::Landed(outcome) => Poll::Ready(outcome.clone()),
            Phase::Flying(seats) => {
                let seat = *this.seat.get_or_insert_with(|| seats.take());
                seats.set(seat, context.waker());
                Poll::Pending
            }
        }
    }
}

impl<V> Drop for Landing<V> {
    fn drop(&mut self) {
        if let Some(seat) = self.seat
            && let Phase::Flying(seats) = &mut *self.flight.phase.borrow_mut()
        {
            seats.leave(seat);
        }
    }
}

struct Flight<V> {
    phase: RefCell<Phase<V>>,
}

enum Phase<V> {
    /// The waiting tasks.
    Flying(Seats),
    /// The outcome; `None` if the task that led it went away.
    Landed(Option<V>),
}

/// Wakers by index. An index given back is used again, so there are never more than waited at once.
#[derive(Default)]
struct Seats {
    wakers: Vec<Option<Waker>>,
    vacant: Vec<usize>,
}

impl Seats {
    fn take(&mut self) -> usize {
        self.vacant.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        })
    }

    fn set(&mut self, seat: usize, waker: &Waker) {
        if let Some(place) = self.wakers.get_mut(seat) {
            place.get_or_insert_with(|| waker.clone()).clone_from(waker);
        }
    }

    fn leave(&mut self, seat: usize) {
        if let Some(place) = self.wakers.get_mut(seat) {
            *place = None;
            self.vacant.push(seat);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<V: Clone>(landing: &mut Landing<V>) -> Poll<Option<V>> {
        Pin::new(landing).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn those_who_join_get_the_outcome() {
        let flights = Flights::new(2);
        assert!(flights.join(0, c"f").is_none());
        let takeoff = flights.take_off(0, c"f");
        assert!(flights.join(1, c"f").is_none());
        assert!(flights.join(0, c"g").is_none());
        let mut early = flights.join(0, c"f").unwrap();
        let mut unpolled = flights.join(0, c"f").unwrap();
        assert_eq!(poll(&mut early), Poll::Pending);
        takeoff.land(7);
        assert_eq!(poll(&mut early), Poll::Ready(Some(7)));
        assert_eq!(poll(&mut unpolled), Poll::Ready(Some(7)));
        assert!(flights.is_empty());
    }

    #[test]
    fn a_lead_that_is_dropped_has_no_outcome() {
        let flights = Flights::<u8>::new(1);
        let takeoff = flights.take_off(0, c"f");
        let mut landing = flights.join(0, c"f").unwrap();
        drop(takeoff);
        assert_eq!(poll(&mut landing), Poll::Ready(None));
        assert!(flights.is_empty());
    }

    #[test]
    fn those_who_stop_waiting_leave_nothing_behind() {
        let flights = Flights::<u8>::new(1);
        let takeoff = flights.take_off(0, c"f");
        for _ in 0..1_000 {
            let mut landing = flights.join(0, c"f").unwrap();
            assert_eq!(poll(&mut landing), Poll::Pending);
            assert_eq!(poll(&mut landing), Poll::Pending);
        }
        let Phase::Flying(seats) = &*takeoff.flight.phase.borrow() else {
            panic!("landed");
        };
        assert_eq!((seats.wakers.len(), seats.vacant.len()), (1, 1));
    }
}
