//! From the accept queue to a task of its own.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::admission::AddressSlot;
use super::{ListenerId, Listening, Worker, conn};
use crate::error::{Error, Side};
use crate::limits::ACCEPTS_PER_TURN_MAX;
use crate::metrics::{self, Counter};
use crate::net::rt::{self, CatchPanic};
use crate::net::socket::Socket;
use crate::sys;

/// Accepts until the listener closes.
pub(super) async fn accept_forever(worker: Rc<Worker>, listening: Rc<Listening>) {
    let mut pace = Pace::default();
    let mut since_yield = 0;
    while !listening.is_closed.get() {
        if let Err(error) = listening.socket.readable().await {
            tracing::error!(worker = worker.index, %error, "cannot wait for connections");
            rt::sleep(PAUSE).await;
            continue;
        }
        if listening.is_closed.get() {
            return;
        }
        let batch = pace.batch();
        let turn = accept_some(&worker, &listening, batch);
        pace.learn(&turn);
        match turn {
            Turn::Empty { .. } => since_yield = 0,
            Turn::Over => {
                // The wait for more is not to be relied upon: on epoll it does not suspend when more
                // are there. Those accepted so far get their turn before the next are taken.
                since_yield += batch;
                if since_yield >= ACCEPTS_PER_TURN_MAX {
                    since_yield = 0;
                    rt::yield_turn().await;
                }
            }
            Turn::Pause => rt::sleep(PAUSE).await,
        }
    }
}

/// Accepts those who have connected already, for they were promised it by the kernel, and then closes
/// the listener. A full queue takes many turns: between them the worker serves whom it has.
pub(super) async fn empty_and_close(worker: Rc<Worker>, listening: Rc<Listening>) {
    for _ in 0..QUEUED_TURNS_MAX {
        let turn = accept_some(&worker, &listening, ACCEPTS_PER_TURN_MAX);
        if !matches!(turn, Turn::Over) {
            break;
        }
        rt::yield_turn().await;
    }
    listening.is_closed.set(true);
    // Wakes the accepting task, which then ends.
    listening.socket.shutdown(std::net::Shutdown::Both);
    worker.closing.set(worker.closing.get() - 1);
}

/// A descriptor to give up when there is no other, so that waiting connections can be closed
/// instead of left hanging.
pub(super) fn reserve_descriptor() -> Option<OwnedFd> {
    File::open("/dev/null").ok().map(OwnedFd::from)
}

/// How many are accepted at once. To ask for one more than there are costs as much as to accept one:
/// the kernel makes the file and the socket before it looks. So no more are taken than there were the
/// last time, and more only when there have been as many for some turns.
struct Pace {
    batch: usize,
    /// Turns in a row that had no less.
    met: u32,
}

impl Pace {
    fn batch(&self) -> usize {
        self.batch
    }

    fn learn(&mut self, turn: &Turn) {
        match *turn {
            Turn::Empty { accepted } => {
                self.batch = accepted.max(1);
                self.met = 0;
            }
            Turn::Over => {
                self.met = self.met.saturating_add(1);
                if self.met >= TURNS_MET {
                    self.batch = (self.batch * 2).min(ACCEPTS_PER_TURN_MAX);
                }
            }
            Turn::Pause => {}
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { batch: 1, met: 0 }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// The queue is empty.
    Empty { accepted: usize },
    /// All that it may take are taken; there may be more.
    Over,
    /// Nothing can be accepted for now.
    Pause,
}

/// Accepts at most `batch`.
fn accept_some(worker: &Rc<Worker>, listening: &Listening, batch: usize) -> Turn {
    for accepted in 0..batch {
        match sys::socket::accept(listening.socket.descriptor()) {
            Ok((descriptor, peer)) => admit(worker, descriptor, peer, listening.id),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Turn::Empty { accepted };
            }
            Err(error) if is_exhaustion(&error) => {
                refuse_one(worker, &listening.socket);
                return Turn::Pause;
            }
            Err(error) if is_peers_doing(&error) => {}
            Err(error) => {
                if !listening.is_closed.get() {
                    tracing::error!(worker = worker.index, %error, "accept failed");
                }
                return Turn::Pause;
            }
        }
    }
    Turn::Over
}

/// Gives a connection a task, or closes it at once when its listener does not let it in, or the worker
/// or its address is full: another worker cannot take it from this one's queue.
fn admit(worker: &Rc<Worker>, descriptor: OwnedFd, peer: SocketAddr, id: ListenerId) {
    metrics::count(Counter::ConnectionsAccepted);
    let local = worker.local();
    let Some(listener) = local.generation.listeners.get(&id) else {
        // It was closed by a configuration two reloads ago and its last queue is emptied only now.
        metrics::count(Counter::ConnectionsClosed);
        return;
    };
    let proxies = listener.proxy_protocol.as_deref();
    let is_proxy = proxies.is_some_and(|proxies| proxies.trusts(peer.ip()));
    if proxies.is_some_and(|proxies| !is_proxy && !proxies.takes_others) {
        metrics::count(Counter::RefusedNoProxy);
        metrics::count(Counter::ConnectionsClosed);
        return;
    }
    if !is_proxy && !listener.access.allows(peer.ip()) {
        metrics::count(Counter::RefusedNetwork);
        metrics::count(Counter::ConnectionsClosed);
        return;
    }
    let limits = &local.generation.config.limits;
    if worker.connections.get() >= limits.connections_per_worker_max {
        metrics::count(Counter::RefusedWorkerFull);
        metrics::count(Counter::ConnectionsClosed);
        return;
    }
    let max = limits.connections_per_address_max;
    let address = match is_proxy {
        // Whose connection it is, is to be told.
        true => None,
        false => match worker.shared.admission.admit(peer.ip(), max) {
            Some(address) => Some(address),
            None => {
                metrics::count(Counter::RefusedAddressFull);
                metrics::count(Counter::ConnectionsClosed);
                return;
            }
        },
    };
    let service = listener.service.clone();
    let slot = Slot::take(worker, address);
    let worker = worker.clone();
    rt::spawn(async move {
        let _slot = slot;
        let proxied = is_proxy.then_some(id);
        let connection = conn::begin(worker, local, descriptor, (peer, proxied), service);
        let begun = CatchPanic::new(connection).await;
        let (_place, rest) = match begun {
            Ok(Ok(Some(conn::Serving { place, rest }))) => (place, rest),
            Ok(Ok(None)) => return,
            Ok(Err(error)) => return report(peer, Ok(Err(error))),
            Err(panicked) => return report(peer, Err(panicked)),
        };
        report(peer, CatchPanic::from(rest).await);
    });
}

/// A connection's places in the worker and in the admission table; given back when dropped.
struct Slot {
    worker: Rc<Worker>,
    _address: Option<AddressSlot>,
}

impl Slot {
    fn take(worker: &Rc<Worker>, address: Option<AddressSlot>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        Self {
            worker: worker.clone(),
            _address: address,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.worker
            .connections
            .set(self.worker.connections.get() - 1);
        metrics::count(Counter::ConnectionsClosed);
    }
}

fn report(peer: SocketAddr, outcome: Result<Result<(), Error>, rt::Panicked>) {
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            metrics::count_error(error.side, error.stage);
            match error.side {
                Side::Us => {
                    metrics::count(Counter::ErrorsUs);
                    tracing::warn!(%peer, %error, "connection failed");
                }
                Side::Client => {
                    metrics::count(Counter::ErrorsClient);
                    tracing::debug!(%peer, %error, "connection failed");
                }
                Side::Upstream => {
                    metrics::count(Counter::ErrorsUpstream);
                    tracing::warn!(%peer, %error, "connection failed");
                }
            }
        }
        Err(rt::Panicked) => {
            metrics::count(Counter::ConnectionPanics);
            tracing::error!(%peer, "a connection's task panicked; the connection is closed");
        }
    }
}

/// No descriptor is left: gives the reserve up for as long as it takes to close one waiting
/// connection, so that its client learns that it is not served.
fn refuse_one(worker: &Worker, listener: &Socket) {
    metrics::count(Counter::AcceptPausedDescriptors);
    let mut reserve = worker.reserve.borrow_mut();
    drop(reserve.take());
    drop(sys::socket::accept(listener.descriptor()));
    *reserve = reserve_descriptor();
    drop(reserve);
    tracing::warn!(
        worker = worker.index,
        "no descriptor is left: accepting pauses"
    );
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// accept(2): the connection died in the queue, and Linux passes its network errors on.
fn is_peers_doing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPERM
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}

/// How long accepting rests when it cannot succeed: long enough not to spin, short enough that a
/// descriptor that comes free is used soon.
const PAUSE: Duration = Duration::from_millis(100);

/// Turns that emptying the queue may take before the listener closes: the longest queue that can be
/// configured fits. Clients that go on to connect meanwhile must not keep it open.
const QUEUED_TURNS_MAX: usize = 1024;

/// Full turns in a row after which the next look for twice as many: single connections pay for one vain
/// look in so many, and a full queue is emptied at the full pace within twice as many turns.
const TURNS_MET: u32 = 8;

const _: () = assert!(QUEUED_TURNS_MAX * ACCEPTS_PER_TURN_MAX > u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    /// What accepting finds in a queue of `queued`.
    fn turn(pace: &mut Pace, queued: &mut usize) -> usize {
        let accepted = pace.batch().min(*queued);
        *queued -= accepted;
        let turn = match accepted < pace.batch() {
            true => Turn::Empty { accepted },
            false => Turn::Over,
        };
        pace.learn(&turn);
        accepted
    }

    #[test]
    fn single_connections_are_seldom_asked_for_in_vain() {
        let mut pace = Pace::default();
        let mut vain = 0;
        for _ in 0..900 {
            let batch = pace.batch();
            let accepted = turn(&mut pace, &mut 1);
            assert_eq!(accepted, 1);
            vain += usize::from(batch > accepted);
        }
        assert_eq!(vain, 900 / (TURNS_MET as usize + 1));
    }

    #[test]
    fn a_full_queue_is_soon_emptied_at_the_full_pace() {
        let mut pace = Pace::default();
        let mut queued = 10_000;
        for _ in 0..2 * TURNS_MET {
            turn(&mut pace, &mut queued);
        }
        assert_eq!(pace.batch(), ACCEPTS_PER_TURN_MAX);
        let before = queued;
        turn(&mut pace, &mut queued);
        assert_eq!(before - queued, ACCEPTS_PER_TURN_MAX);
        // And back.
        while queued > 0 {
            turn(&mut pace, &mut queued);
        }
        turn(&mut pace, &mut 1);
        assert_eq!(pace.batch(), 1);
    }

    #[test]
    fn a_steady_crowd_is_taken_as_it_comes() {
        let mut pace = Pace::default();
        let mut queued = 0;
        for _ in 0..200 {
            queued += 5;
            turn(&mut pace, &mut queued);
            assert!(queued < 5 * 2 * TURNS_MET as usize);
        }
    }
}
