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
    while !listening.is_closed.get() {
        if let Err(error) = listening.socket.readable().await {
            tracing::error!(worker = worker.index, %error, "cannot wait for connections");
            rt::sleep(PAUSE).await;
            continue;
        }
        if listening.is_closed.get() {
            return;
        }
        match accept_some(&worker, &listening) {
            Turn::Empty => {}
            // Those accepted so far get their turn before the next are taken.
            Turn::Over => rt::yield_turn().await,
            Turn::Pause => rt::sleep(PAUSE).await,
        }
    }
}

/// Accepts those who have connected already, for they were promised it by the kernel, and then closes
/// the listener. A full queue takes many turns: between them the worker serves whom it has.
pub(super) async fn empty_and_close(worker: Rc<Worker>, listening: Rc<Listening>) {
    for _ in 0..QUEUED_TURNS_MAX {
        if !matches!(accept_some(&worker, &listening), Turn::Over) {
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

enum Turn {
    /// The queue is empty.
    Empty,
    /// The turn's budget is used up.
    Over,
    /// Nothing can be accepted for now.
    Pause,
}

fn accept_some(worker: &Rc<Worker>, listening: &Listening) -> Turn {
    for _ in 0..ACCEPTS_PER_TURN_MAX {
        match sys::socket::accept(listening.socket.descriptor()) {
            Ok((descriptor, peer)) => admit(worker, descriptor, peer, listening.id),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Empty,
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

const _: () = assert!(QUEUED_TURNS_MAX * ACCEPTS_PER_TURN_MAX > u16::MAX as usize);
