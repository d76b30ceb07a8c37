//! Connections to a group's servers that carry one request after the other, kept per worker.
//!
//! An idle connection is used again only when nothing has come on it since: a byte there would be
//! taken for the next answer. Where all servers have all the connections they may have, requests
//! wait in a bounded queue.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;

use super::group::{Reach, Server};
use super::health::Step;
use super::multiplex::{AllMultiplexed, Multiplexed};
use super::{Connected, Connector, Group, Lease, NoServer};
use crate::config::{Balance, HashKey, UpstreamHttp};
use crate::error::Error;
use crate::metrics::{self, Counter};
use crate::net::stream::{ReadHalf, StreamContext, WriteHalf};
use crate::proto::proxy_header::ProxyHeader;

/// A worker's connections to one group.
#[derive(Clone)]
pub struct Pool(pub(super) Rc<Inner>);

/// A connection that carries one request at a time.
pub struct Connection {
    /// The receiving half.
    pub read: ReadHalf,
    /// The sending half.
    pub write: WriteHalf,
    /// Received and not yet parsed.
    pub input: BytesMut,
    /// Its place with the server.
    pub place: Place,
}

/// A connection's place with its server. When it is dropped, one that waits is told.
pub struct Place {
    lease: Lease,
    born: Instant,
    /// When the request began that it carries, or that it carried last.
    began: Instant,
    is_reused: bool,
    alpn: Option<Box<[u8]>>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum NoConnection {
    /// No server is up.
    Down,
    /// All servers are full, and so is the queue.
    QueueFull,
    /// All servers were full for as long as a request may wait.
    QueueTimeout,
    /// None of the servers could be connected to; the last one's failure.
    Failed(Error),
}

impl Pool {
    /// No connections yet, to the servers of `group`.
    pub fn new(group: Rc<Group>) -> Self {
        let servers = group.config().servers.len();
        Self(Rc::new(Inner {
            idle: RefCell::new((0..servers).map(|_| VecDeque::new()).collect()),
            multiplexed: RefCell::new((0..servers).map(|_| Multiplexed::default()).collect()),
            group,
        }))
    }

    /// How HTTP is spoken with the group.
    pub fn http(&self) -> &UpstreamHttp {
        self.0.http()
    }

    /// What `balance = "hash"` keeps together, where that is the group's balance.
    pub fn hash_key(&self) -> Option<&HashKey> {
        let config = self.0.group.config();
        (config.balance == Balance::Hash).then_some(&config.hash_key)
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.0.group.config().name
    }

    /// A connection to the server that the group's balance chooses, an idle one where there is one and
    /// `may_be_idle`. `key` is what `balance = "hash"` keeps together. A server that cannot be
    /// connected to is followed by the next.
    ///
    /// # Errors
    /// See [`NoConnection`].
    pub async fn connection(
        &self,
        key: Option<&[u8]>,
        may_be_idle: bool,
        connector: &Connector,
        context: &Rc<StreamContext>,
    ) -> Result<Connection, NoConnection> {
        let ways = (connector, context);
        self.connection_for(key, may_be_idle, ways, None, Instant::now())
            .await
    }

    /// As [`Pool::connection`], for the connection that `introduction` tells of: a group that speaks
    /// the PROXY protocol is told, and has a connection for each request. `now` is at hand: reading
    /// the clock takes longer than all else where a connection is idle.
    ///
    /// # Errors
    /// See [`NoConnection`].
    pub async fn connection_for(
        &self,
        key: Option<&[u8]>,
        may_be_idle: bool,
        (connector, context): (&Connector, &Rc<StreamContext>),
        introduction: Option<&ProxyHeader>,
        mut now: Instant,
    ) -> Result<Connection, NoConnection> {
        let mut tried = Vec::new();
        let mut last = None;
        let mut turn = None;
        loop {
            let chosen = match &turn {
                // Those that wait go first.
                None if self.0.group.is_waited_for() => Err(NoServer::Full),
                _ => self.0.choose(key, &tried, now),
            };
            let server = match chosen {
                Ok(server) => server,
                Err(NoServer::Full) => {
                    let turn = match &mut turn {
                        Some(turn) => turn,
                        None => turn.insert(self.0.group.queue()?),
                    };
                    turn.wait(!tried.is_empty()).await?;
                    now = Instant::now();
                    continue;
                }
                Err(NoServer::Tried) => {
                    return Err(last.map_or(NoConnection::Down, NoConnection::Failed));
                }
                Err(NoServer::Down) => return Err(NoConnection::Down),
            };
            if may_be_idle && let Some(idle) = self.0.take_idle(server, now) {
                return Ok(idle);
            }
            // Another worker may have taken the last place: then the next look does not find it.
            let Some(lease) = self.0.lease(server) else {
                continue;
            };
            let connecting =
                connector.connect_for(&lease, context.clone(), PROTOCOLS, introduction);
            match connecting.await {
                Ok(Connected { stream, alpn }) => {
                    let (read, write) = stream.into_halves();
                    return Ok(Connection {
                        read,
                        write,
                        input: BytesMut::new(),
                        place: Place::new(lease, alpn),
                    });
                }
                Err(error) => {
                    tracing::debug!(upstream = self.name(), %error, "cannot connect");
                    tried.push(server);
                    last = Some(error);
                    now = Instant::now();
                }
            }
        }
    }

    /// Keeps `connection`, whose last answer is complete, for the next request, if there is room.
    pub fn keep(&self, mut connection: Connection) {
        let now = Instant::now();
        let http = self.http();
        let is_clean = connection.input.is_empty();
        // What the server was told of it is one client's.
        let is_anybodys = self.0.group.config().proxy_protocol.is_none();
        let is_young = now.saturating_duration_since(connection.place.born) < http.age;
        let server = connection.place.server();
        let is_wanted = self.0.group.wanted_by_others(server) > 0;
        if !is_clean || !is_young || !is_anybodys || is_wanted {
            return;
        }
        connection.read.deadline().disarm();
        connection.input = BytesMut::new();
        connection.place.set_busy(false);
        let mut all = self.0.idle.borrow_mut();
        let Some(idle) = all.get_mut(server) else {
            return;
        };
        if idle.len() < http.idle_connections_max {
            idle.push_back(Idle {
                connection,
                since: now,
            });
            drop(all);
            self.0.group.tell_of_room();
        } else {
            // A place is given back: who waits for it looks at the connections, too.
            drop(all);
            drop(connection);
        }
    }

    /// Closes the idle connections that are too old or that their servers have closed.
    pub fn sweep(&self) {
        self.0.sweep_multiplexed();
        let now = Instant::now();
        let servers = self.0.idle.borrow().len();
        for server in 0..servers {
            let Some(idle) = self.0.idle.borrow_mut().get_mut(server).map(std::mem::take) else {
                continue;
            };
            // Dropped without the borrow: a place that is given back wakes.
            let kept: VecDeque<Idle> = idle
                .into_iter()
                .filter_map(|mut idle| self.0.is_usable(&mut idle, now).then_some(idle))
                .collect();
            if let Some(place) = self.0.idle.borrow_mut().get_mut(server) {
                *place = kept;
            }
        }
    }

    /// Closes idle connections whose places are waited for on other workers.
    pub fn give_way(&self) {
        let servers = self.0.idle.borrow().len();
        for server in 0..servers {
            for _ in 0..self.0.group.wanted_by_others(server) {
                let longest_idle = self.0.pop_longest_idle(server);
                // Dropped without the borrow: a place that is given back wakes.
                if longest_idle.is_none() {
                    break;
                }
            }
            self.0.give_way_multiplexed(server);
        }
    }

    /// How many connections are idle.
    pub fn idle_count(&self) -> usize {
        self.0.idle.borrow().iter().map(VecDeque::len).sum()
    }
}

impl Connection {
    /// The application protocol that was agreed on, where TLS is spoken and one was (RFC 7301).
    pub fn alpn(&self) -> Option<&[u8]> {
        self.place.alpn.as_deref()
    }
}

impl Place {
    pub(super) fn new(lease: Lease, alpn: Option<Box<[u8]>>) -> Self {
        let now = Instant::now();
        Self {
            lease,
            born: now,
            began: now,
            is_reused: false,
            alpn,
        }
    }

    /// Lets one that waits look again: the connection has room.
    pub(super) fn tell_of_room(&self) {
        self.lease.tell_of_room();
    }

    /// As [`Lease::set_busy`].
    pub(super) fn set_busy(&mut self, is_busy: bool) {
        self.lease.set_busy(is_busy);
    }

    /// Whether a request was sent over the connection before.
    pub fn is_reused(&self) -> bool {
        self.is_reused
    }

    /// The server's index in its group.
    pub fn server(&self) -> usize {
        self.lease.server()
    }

    /// The server's address, for the log.
    pub fn address(&self) -> String {
        let address = self.lease.address();
        address.map(ToString::to_string).unwrap_or_default()
    }

    /// The server has answered the request.
    pub fn report_success(&self) {
        let server = self.lease.its_server();
        if server.is_suspect() {
            server.report_success(Step::Exchange, self.began, Instant::now());
        }
    }

    /// The server has failed to answer the request. Enough of that in a row and it is left out for a
    /// while.
    pub fn report_failure(&self) {
        let server = self.lease.its_server();
        server.report_failure(Step::Exchange, self.began, Instant::now());
    }

    /// The server itself.
    pub(super) fn its_server(&self) -> &Server {
        self.lease.its_server()
    }
}

pub(super) struct Inner {
    pub(super) group: Rc<Group>,
    /// By server, the longest idle first.
    idle: RefCell<Vec<VecDeque<Idle>>>,
    pub(super) multiplexed: AllMultiplexed,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Inner {
    pub(super) fn http(&self) -> &UpstreamHttp {
        &self.group.config().http
    }

    /// The connection to `server` that was used last.
    fn take_idle(&self, server: usize, now: Instant) -> Option<Connection> {
        loop {
            let mut idle = self.idle.borrow_mut().get_mut(server)?.pop_back()?;
            if self.is_usable(&mut idle, now) {
                metrics::count(Counter::UpstreamConnectionsReused);
                idle.connection.place.set_busy(true);
                idle.connection.place.is_reused = true;
                idle.connection.place.began = now;
                return Some(idle.connection);
            }
        }
    }

    fn choose(&self, key: Option<&[u8]>, tried: &[usize], now: Instant) -> Result<usize, NoServer> {
        let idle = self.idle.borrow();
        let reach = |server: usize| match idle.get(server).map(VecDeque::is_empty) {
            Some(false) => Reach::Ready,
            Some(true) | None => Reach::Connect,
        };
        self.group.choose(key, tried, now, reach)
    }

    /// A place for another connection, that of an idle one where there is no other.
    fn lease(&self, server: usize) -> Option<Lease> {
        self.group.lease(server).or_else(|| {
            drop(self.pop_longest_idle(server)?);
            self.group.lease(server)
        })
    }

    fn pop_longest_idle(&self, server: usize) -> Option<Idle> {
        self.idle.borrow_mut().get_mut(server)?.pop_front()
    }

    fn is_usable(&self, idle: &mut Idle, now: Instant) -> bool {
        let http = self.http();
        let Connection {
            read, input, place, ..
        } = &mut idle.connection;
        now.saturating_duration_since(idle.since) < http.idle
            && now.saturating_duration_since(place.born) < http.age
            && matches!(read.try_receive(input), Ok(None))
    }
}

/// What connections of a pool speak (RFC 7301 6).
const PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
