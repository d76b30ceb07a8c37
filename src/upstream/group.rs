//! A group's state: one for the process, which all workers share, and each worker's own turn.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::balance::{self, Balancer, Candidate};
use super::health::{Checked, Observed, Step};
use super::pool::NoConnection;
use super::queue::{Everybody, Queue, Turn};
use super::secure::ServerTls;
use crate::config::{Balance, Upstream, UpstreamAddress, UpstreamServer};
use crate::metrics::{self, Counter};
use crate::tls::client_config::ClientTls;

/// One worker's view of a group of servers.
pub struct Group {
    shared: Arc<Shared>,
    own: RefCell<Own>,
    queue: Rc<Queue>,
    held: Held,
}

/// This worker's part of each server's open connections.
type Held = Rc<[Cell<usize>]>;

/// A place in a server's count of open connections; given back when dropped. Hold it for as long as
/// the connection.
#[derive(Debug)]
pub struct Lease {
    server: Server,
    /// Who waits there is told when the place is given back.
    queue: Rc<Queue>,
    held: Held,
    /// Whether the connection is part of the server's load: an idle one is not.
    is_busy: bool,
}

/// One of a group's servers, which learns what connections and requests show of it.
#[derive(Clone, Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    index: usize,
}

/// What a worker has of a server for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// A connection that can carry it.
    Ready,
    /// Nothing: it takes a place, if there is one.
    Connect,
    /// All that it may have, and no room.
    Full,
}

/// Why a group has no server for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoServer {
    /// Checks say that none is up, or none has an address.
    Down,
    /// Each that could be used has all the connections it may have.
    Full,
    /// Each that could be used has been tried already.
    Tried,
}

impl Group {
    /// This worker's view of `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        let servers = shared.config.servers.len();
        // Another one for each call.
        let seed = RandomState::new().hash_one(servers);
        Self {
            own: RefCell::new(Own {
                balancer: Balancer::new(servers, seed),
                candidates: Vec::with_capacity(servers),
            }),
            queue: Rc::new(Queue::new(shared.everybody.clone())),
            held: (0..servers).map(|_| Cell::new(0)).collect(),
            shared,
        }
    }

    /// The group's configuration.
    pub fn config(&self) -> &Upstream {
        &self.shared.config
    }

    /// Whether somebody waits on this worker: who comes then waits too.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.queue.len() > 0
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// A place in this worker's queue for the group.
    ///
    /// # Errors
    /// When too many wait.
    pub(crate) fn queue(&self) -> Result<Turn, NoConnection> {
        let http = &self.config().http;
        self.queue.enter(http.queue_max, http.queue)
    }

    /// There may be room for one that waits.
    pub(super) fn tell_of_room(&self) {
        self.queue.tell_one();
    }

    /// A place with the server that the group's balance chooses, out of those that are healthy,
    /// have room and are not among `tried` ([`Lease::server`]). `key` is what `balance = "hash"`
    /// keeps together: a client's address, a path.
    ///
    /// Servers that are left out for their failures are better than none: when there is no
    /// other, they are used.
    ///
    /// # Errors
    /// See [`NoServer`].
    pub fn pick(
        &self,
        key: Option<&[u8]>,
        tried: &[usize],
        now: Instant,
    ) -> Result<Lease, NoServer> {
        // Other workers may take the last place of a server between the look and the taking; then
        // the next look does not find it. Each server is met so at most once, in all but malice.
        for _ in 0..=self.shared.servers.len() {
            let server = self.choose(key, tried, now, |_| Reach::Connect)?;
            if let Some(lease) = self.lease(server) {
                return Ok(lease);
            }
        }
        Err(NoServer::Full)
    }

    /// The server that [`Group::pick`] chooses, where `reach` tells what there is of each already: a
    /// server is not full for those who need no further connection to it.
    pub(super) fn choose(
        &self,
        key: Option<&[u8]>,
        tried: &[usize],
        now: Instant,
        reach: impl Fn(usize) -> Reach,
    ) -> Result<usize, NoServer> {
        let mut own = self.own.borrow_mut();
        let Own {
            balancer,
            candidates,
        } = &mut *own;
        let can_carry = |server| match reach(server) {
            Reach::Ready => true,
            Reach::Connect => {
                let with_another = self.held(server) + 1;
                self.shared.has_room(server) && !self.is_beyond_share(server, with_another)
            }
            Reach::Full => false,
        };
        self.shared.candidates(candidates, tried, now, can_carry)?;
        let balance = self.shared.config.balance;
        let chosen = balancer.choose(balance, candidates, key.map(balance::hash));
        chosen.ok_or(NoServer::Full)
    }

    /// A place with a server, if it has one.
    pub(super) fn lease(&self, server: usize) -> Option<Lease> {
        if !self.shared.take_place(server) {
            return None;
        }
        if let Some(held) = self.held.get(server) {
            held.set(held.get() + 1);
        }
        let server = self.server(server);
        server.begin();
        Some(Lease {
            server,
            queue: self.queue.clone(),
            held: self.held.clone(),
            is_busy: true,
        })
    }

    /// How many idle connections to a server this worker has to close for those that wait on others.
    pub(super) fn wanted_by_others(&self, server: usize) -> usize {
        let is_ours = self.is_waited_for() && !self.is_beyond_share(server, self.held(server));
        match self.bound(server) {
            Some(_) if !is_ours => self.queue.others(),
            Some(_) | None => 0,
        }
    }

    /// Whether `count` connections to a server are more than this worker's share while others wait.
    pub(super) fn is_beyond_share(&self, server: usize, count: usize) -> bool {
        let bound = self.bound(server).filter(|_| self.queue.others() > 0);
        bound.is_some_and(|max| count > self.queue.share_of(max))
    }

    fn held(&self, server: usize) -> usize {
        self.held.get(server).map_or(0, Cell::get)
    }

    fn bound(&self, server: usize) -> Option<usize> {
        self.config().servers.get(server)?.connections_max
    }

    pub(super) fn server(&self, index: usize) -> Server {
        Server {
            shared: self.shared.clone(),
            index,
        }
    }
}

impl Lease {
    /// The server's index in its group.
    pub fn server(&self) -> usize {
        self.server.index
    }

    /// The server's address, as it is configured.
    pub fn address(&self) -> Option<&UpstreamAddress> {
        self.group()
            .servers
            .get(self.server.index)
            .map(|server| &server.address)
    }

    /// The group's configuration.
    pub fn group(&self) -> &Upstream {
        &self.server.shared.config
    }

    /// The server itself.
    pub(super) fn its_server(&self) -> &Server {
        &self.server
    }

    /// Lets one that waits look again: the connection has room.
    pub(super) fn tell_of_room(&self) {
        self.queue.tell_one();
    }

    /// The connection carries something, or nothing for now.
    pub(super) fn set_busy(&mut self, is_busy: bool) {
        match (self.is_busy, is_busy) {
            (false, true) => self.server.begin(),
            (true, false) => self.server.end(),
            (true, true) | (false, false) => {}
        }
        self.is_busy = is_busy;
    }

    /// How TLS is spoken with the server, where it is.
    pub(super) fn tls(&self) -> Option<ServerTls<'_>> {
        ServerTls::of(&self.server.shared, self.server.index)
    }

    /// Where to connect to now, in the order to try.
    pub(super) fn addresses(&self) -> Arc<Vec<SocketAddr>> {
        self.server.shared.addresses(self.server.index)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.set_busy(false);
        if let Some(state) = self.server.state() {
            state.open.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(held) = self.held.get(self.server.index) {
            held.set(held.get().saturating_sub(1));
        }
        self.queue.tell_one();
    }
}

impl Server {
    /// Whether something is held against it, so that a success changes anything.
    pub(super) fn is_suspect(&self) -> bool {
        let state = self.state();
        state.is_some_and(|state| state.is_suspect.load(Ordering::Relaxed))
    }

    /// The server has done what was begun at `began`.
    pub(super) fn report_success(&self, step: Step, began: Instant, now: Instant) {
        self.shared.report_success(self.index, step, (began, now));
    }

    /// The server has failed at what was begun at `began`: it refused, reset or did not answer in
    /// time. Enough of that in a row and it is left out for a while.
    pub(super) fn report_failure(&self, step: Step, began: Instant, now: Instant) {
        self.shared.report_failure(self.index, step, (began, now));
    }

    /// Something more is carried to it: a request, a tunnel. Only where the balance asks for that: all
    /// workers meet here.
    pub(super) fn begin(&self) {
        if let Some(state) = self.state().filter(|_| self.shared.counts_active) {
            state.active.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What [`Server::begin`] counted is over.
    pub(super) fn end(&self) {
        if let Some(state) = self.state().filter(|_| self.shared.counts_active) {
            state.active.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn state(&self) -> Option<&ServerState> {
        self.shared.servers.get(self.index)
    }
}

/// What one worker has for itself.
struct Own {
    balancer: Balancer,
    candidates: Vec<Candidate>,
}

/// A group as all workers and the watching threads see it.
pub struct Shared {
    config: Arc<Upstream>,
    tls: Option<Arc<ClientTls>>,
    /// Whether the balance goes by what servers carry.
    counts_active: bool,
    everybody: Arc<Everybody>,
    /// Times below are in milliseconds since then.
    start: Instant,
    servers: Box<[ServerState]>,
}

/// A server, on cache lines of its own: workers that connect to different servers do not meet.
#[repr(align(128))]
struct ServerState {
    identity: u64,
    /// Connections, idle ones too.
    open: AtomicUsize,
    /// Requests and tunnels under way, where the balance wants to know.
    active: AtomicUsize,
    is_up: AtomicBool,
    /// Something is held against it: only then is `observed` looked at.
    is_suspect: AtomicBool,
    ejected_until_ms: AtomicU64,
    /// When it came back; 0 if it never was away.
    back_since_ms: AtomicU64,
    checked: Mutex<Checked>,
    observed: Mutex<Observed>,
    /// Empty until a name is found; unused for Unix sockets.
    addresses: ArcSwap<Vec<SocketAddr>>,
}

impl Shared {
    /// A group of which nothing is known but its configuration. `tls` is what its servers are
    /// connected to with, where that is not plain text.
    pub fn new(config: Arc<Upstream>, tls: Option<Arc<ClientTls>>) -> Self {
        let servers = config.servers.iter().map(ServerState::new).collect();
        Self {
            counts_active: match config.balance {
                Balance::LeastConnections | Balance::TwoChoices => true,
                Balance::RoundRobin | Balance::Hash => false,
            },
            everybody: Arc::default(),
            config,
            tls,
            start: Instant::now(),
            servers,
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &Arc<Upstream> {
        &self.config
    }

    /// What its servers are connected to with, where that is not plain text.
    pub fn tls(&self) -> Option<&Arc<ClientTls>> {
        self.tls.as_ref()
    }

    /// Connections open to a server.
    pub fn open(&self, server: usize) -> usize {
        let open = |state: &ServerState| state.open.load(Ordering::Relaxed);
        self.servers.get(server).map_or(0, open)
    }

    /// Requests and tunnels that a server carries, where the balance goes by that.
    pub fn active(&self, server: usize) -> usize {
        let active = |state: &ServerState| state.active.load(Ordering::Relaxed);
        self.servers.get(server).map_or(0, active)
    }

    /// Whether checks say that a server is up.
    pub fn is_up(&self, server: usize) -> bool {
        let is_up = |state: &ServerState| state.is_up.load(Ordering::Relaxed);
        self.servers.get(server).is_some_and(is_up)
    }

    /// Whether a server is left out for failed connections and requests.
    pub fn is_ejected(&self, server: usize, now: Instant) -> bool {
        let now_ms = self.now_ms(now);
        let is_ejected = |state: &ServerState| state.is_ejected(now_ms);
        self.servers.get(server).is_some_and(is_ejected)
    }

    /// The addresses that a server is reached by.
    pub(super) fn addresses(&self, server: usize) -> Arc<Vec<SocketAddr>> {
        let load = |state: &ServerState| state.addresses.load_full();
        self.servers.get(server).map(load).unwrap_or_default()
    }

    /// A name was looked up.
    pub(super) fn set_addresses(&self, server: usize, addresses: Vec<SocketAddr>) {
        if let Some(state) = self.servers.get(server) {
            state.addresses.store(Arc::new(addresses));
        }
    }

    /// A check has ended.
    pub(super) fn on_check(&self, server: usize, has_passed: bool, now: Instant) {
        let (Some(state), Some(settings)) = (self.servers.get(server), &self.config.health) else {
            return;
        };
        let mut checked = state.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(is_up) = checked.on_check(has_passed, settings) else {
            return;
        };
        drop(checked);
        if is_up {
            state
                .back_since_ms
                .store(self.now_ms(now), Ordering::Relaxed);
        } else {
            metrics::count(Counter::UpstreamServersDown);
        }
        state.is_up.store(is_up, Ordering::Relaxed);
        let (upstream, server) = (&self.config.name, self.config.servers.get(server));
        let server = server.map(|server| server.address.to_string());
        tracing::warn!(
            upstream,
            server,
            is_up,
            "a health check changed a server's state"
        );
    }

    fn report_success(&self, server: usize, step: Step, (began, now): (Instant, Instant)) {
        let Some(state) = self.servers.get(server) else {
            return;
        };
        if !state.is_suspect.load(Ordering::Relaxed) {
            return;
        }
        let mut observed = state
            .observed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if observed.on_success(step, self.now_ms(began)) {
            state
                .back_since_ms
                .store(self.now_ms(now), Ordering::Relaxed);
        }
        if observed.is_clean() {
            state.ejected_until_ms.store(0, Ordering::Relaxed);
            state.is_suspect.store(false, Ordering::Relaxed);
        }
    }

    fn report_failure(&self, server: usize, step: Step, (began, now): (Instant, Instant)) {
        let Some(state) = self.servers.get(server) else {
            return;
        };
        let mut observed = state
            .observed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let times = (self.now_ms(began), self.now_ms(now));
        let until_ms = observed.on_failure(&self.config.ejection, step, times);
        state
            .is_suspect
            .store(!observed.is_clean(), Ordering::Relaxed);
        if let Some(until_ms) = until_ms {
            state.ejected_until_ms.store(until_ms, Ordering::Relaxed);
            metrics::count(Counter::UpstreamEjections);
            let upstream = &self.config.name;
            let server = self
                .config
                .servers
                .get(server)
                .map(|s| s.address.to_string());
            tracing::warn!(
                upstream,
                server,
                "a server fails and is left out for a while"
            );
        }
    }

    /// Fills in the servers that may be chosen. One that is well and only full is waited for, before
    /// those are used that are left out.
    fn candidates(
        &self,
        into: &mut Vec<Candidate>,
        tried: &[usize],
        now: Instant,
        can_carry: impl Fn(usize) -> bool,
    ) -> Result<(), NoServer> {
        let now_ms = self.now_ms(now);
        let mut why = NoServer::Down;
        into.clear();
        for is_ejected in [false, true] {
            for (index, (config, state)) in
                self.config.servers.iter().zip(&self.servers).enumerate()
            {
                if !state.is_usable(config) || state.is_ejected(now_ms) != is_ejected {
                    continue;
                }
                if tried.contains(&index) {
                    if why == NoServer::Down {
                        why = NoServer::Tried;
                    }
                } else if can_carry(index) {
                    into.push(self.candidate(index, config, state, now_ms));
                } else {
                    why = NoServer::Full;
                }
            }
            if !into.is_empty() {
                return Ok(());
            }
            if why == NoServer::Full {
                break;
            }
        }
        Err(why)
    }

    fn candidate(
        &self,
        server: usize,
        config: &UpstreamServer,
        state: &ServerState,
        now_ms: u64,
    ) -> Candidate {
        Candidate {
            server,
            weight: self.weight(config, state, now_ms),
            active: state.active.load(Ordering::Relaxed),
            identity: state.identity,
        }
    }

    /// The weight in thousandths; less of it for a server that has just come back.
    fn weight(&self, config: &UpstreamServer, state: &ServerState, now_ms: u64) -> u64 {
        let full = u64::from(config.weight) * 1000;
        let slow_start_ms = u64::try_from(self.config.slow_start.as_millis()).unwrap_or(u64::MAX);
        let back_since_ms = state.back_since_ms.load(Ordering::Relaxed);
        let age_ms = now_ms.saturating_sub(back_since_ms);
        if back_since_ms == 0 || age_ms >= slow_start_ms {
            return full;
        }
        (full * age_ms / slow_start_ms).max(full / SLOW_START_FIRST_SHARE)
    }

    fn has_room(&self, server: usize) -> bool {
        let servers = self
            .config
            .servers
            .get(server)
            .zip(self.servers.get(server));
        servers.is_some_and(|(config, state)| state.has_room(config))
    }

    fn take_place(&self, server: usize) -> bool {
        let (Some(config), Some(state)) =
            (self.config.servers.get(server), self.servers.get(server))
        else {
            return false;
        };
        let open = state.open.fetch_add(1, Ordering::Relaxed);
        let has_room = config.connections_max.is_none_or(|max| open < max);
        if !has_room {
            state.open.fetch_sub(1, Ordering::Relaxed);
        }
        has_room
    }

    /// Never 0, which stands for never.
    fn now_ms(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX - 1) + 1
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl ServerState {
    fn new(config: &UpstreamServer) -> Self {
        let addresses = match config.address {
            UpstreamAddress::Ip(address) => vec![address],
            UpstreamAddress::Name(..) | UpstreamAddress::Unix(_) => Vec::new(),
        };
        Self {
            identity: balance::hash(config.address.to_string().as_bytes()),
            open: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            is_up: AtomicBool::new(true),
            is_suspect: AtomicBool::new(false),
            ejected_until_ms: AtomicU64::new(0),
            back_since_ms: AtomicU64::new(0),
            checked: Mutex::default(),
            observed: Mutex::default(),
            addresses: ArcSwap::from_pointee(addresses),
        }
    }

    fn is_usable(&self, config: &UpstreamServer) -> bool {
        let is_reachable = match config.address {
            UpstreamAddress::Ip(_) | UpstreamAddress::Unix(_) => true,
            UpstreamAddress::Name(..) => !self.addresses.load().is_empty(),
        };
        is_reachable && self.is_up.load(Ordering::Relaxed)
    }

    fn has_room(&self, config: &UpstreamServer) -> bool {
        let open = self.open.load(Ordering::Relaxed);
        config.connections_max.is_none_or(|max| open < max)
    }

    fn is_ejected(&self, now_ms: u64) -> bool {
        now_ms < self.ejected_until_ms.load(Ordering::Relaxed)
    }
}

/// A server that comes back begins with this part of its weight.
const SLOW_START_FIRST_SHARE: u64 = 10;

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
