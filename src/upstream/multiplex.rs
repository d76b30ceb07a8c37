//! Connections to a group's servers that carry many requests at a time, kept per worker.
//!
//! A request goes to a connection of the server that the balance chooses, where one has room for it;
//! else another is made, up to a bound. Those that come while one is being made wait for it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use bytes::BytesMut;

use super::group::{Reach, Server};
use super::http2::Http2Connection;
use super::pool::{Connection, Inner, NoConnection, Place, Pool};
use super::{Connected, Connector, Lease, NoServer};
use crate::error::{Cause, Error, Side, Stage};
use crate::net::stream::StreamContext;

/// What a worker has of one server.
#[derive(Default)]
pub(super) struct Multiplexed {
    connections: Vec<Http2Connection>,
    is_connecting: bool,
    /// How the last try to connect failed; those that wait for it have failed with it.
    failed: Option<Failed>,
    /// Those that wait for the connection that is being made.
    waiting: Vec<Waker>,
}

/// A failure that is told to many.
#[derive(Clone, Copy)]
enum Failed {
    Upstream(io::ErrorKind),
    UpstreamTimeout,
    Us(io::ErrorKind),
}

/// By server.
pub(super) type AllMultiplexed = RefCell<Vec<Multiplexed>>;

/// What a server has for a request.
enum Has {
    Room(Http2Connection),
    /// A connection is being made.
    Soon,
    /// Another connection may be made.
    Place,
    /// All connections that there may be are full.
    Nothing,
}

impl Pool {
    /// A connection that has room for a request, to be used before anything else is waited for. A
    /// server that cannot be connected to is followed by the next; see [`Pool::connection`].
    ///
    /// # Errors
    /// See [`NoConnection`].
    pub async fn multiplexed(
        &self,
        key: Option<&[u8]>,
        connector: &Connector,
        context: &Rc<StreamContext>,
    ) -> Result<Http2Connection, NoConnection> {
        let inner = &self.0;
        let (mut tried, mut last, mut turn) = (Vec::new(), None, None);
        loop {
            let now = Instant::now();
            let chosen = match &turn {
                // Those that wait go first.
                None if inner.group.is_waited_for() => Err(NoServer::Full),
                _ => inner
                    .group
                    .choose(key, &tried, now, |server| inner.has(server).reach()),
            };
            let server = match chosen {
                Ok(server) => server,
                Err(NoServer::Full) => {
                    let turn = match &mut turn {
                        Some(turn) => turn,
                        None => turn.insert(inner.group.queue()?),
                    };
                    turn.wait(!tried.is_empty()).await?;
                    continue;
                }
                Err(NoServer::Tried) => return Err(gave_up(last)),
                Err(NoServer::Down) => return Err(NoConnection::Down),
            };
            match inner.has(server) {
                Has::Room(connection) => return Ok(connection),
                Has::Place => {
                    // Another worker may have taken the last place: then the next look finds none.
                    let Some(lease) = inner.group.lease(server) else {
                        continue;
                    };
                    let making = Making::begin(inner, server);
                    let connected = connector.connect(&lease, context.clone(), PROTOCOLS);
                    match self.agreed(connected.await) {
                        Ok(connected) => {
                            let made = self.start(connected, lease, context);
                            making.done(made.clone());
                            return Ok(made);
                        }
                        Err(error) => {
                            tracing::debug!(upstream = self.name(), %error, "cannot connect");
                            making.failed(&error);
                            tried.push(server);
                            last = Some(error);
                        }
                    }
                }
                Has::Soon => {
                    if let Err(failed) = inner.connected(server).await {
                        tried.push(server);
                        last = Some(failed.error());
                    }
                }
                // It is not chosen.
                Has::Nothing => return Err(NoConnection::Down),
            }
        }
    }
}

impl Pool {
    fn start(
        &self,
        connected: Connected,
        mut lease: Lease,
        context: &StreamContext,
    ) -> Http2Connection {
        // Its requests are, each by itself.
        lease.set_busy(false);
        let (read, write) = connected.stream.into_halves();
        let connection = Connection {
            read,
            write,
            input: BytesMut::new(),
            place: Place::new(lease, connected.alpn),
        };
        Http2Connection::start(connection, self.http(), context.send_progress)
    }

    /// Whether the group's servers are spoken to over TLS.
    pub fn is_secure(&self) -> bool {
        self.0.group.config().tls.is_some()
    }

    /// RFC 9113 3.2: over TLS, HTTP/2 is spoken only where it was agreed on.
    fn agreed(&self, connected: Result<Connected, Error>) -> Result<Connected, Error> {
        let connected = connected?;
        if self.is_secure() && connected.alpn.as_deref() != Some(b"h2") {
            let cause = Cause::Protocol("the server does not agree on HTTP/2");
            return Err(Error::upstream(Stage::Connect, cause));
        }
        Ok(connected)
    }
}

impl Has {
    fn reach(&self) -> Reach {
        match self {
            Self::Room(_) | Self::Soon => Reach::Ready,
            Self::Place => Reach::Connect,
            Self::Nothing => Reach::Full,
        }
    }
}

impl Inner {
    fn has(&self, server: usize) -> Has {
        let mut all = self.multiplexed.borrow_mut();
        let Some(of_server) = all.get_mut(server) else {
            return Has::Nothing;
        };
        of_server.forget_old(self.http().age);
        let with_room = of_server.connections.iter().find(|made| made.has_room());
        match with_room {
            Some(connection) => Has::Room(connection.clone()),
            None if of_server.is_connecting => Has::Soon,
            None if of_server.connections.len() < self.http().http2_connections_max => Has::Place,
            None => Has::Nothing,
        }
    }

    /// Waits until nobody makes a connection to `server`.
    async fn connected(&self, server: usize) -> Result<(), Failed> {
        let _under_way = UnderWay::begin(self.group.server(server));
        poll_fn(|context| {
            let mut all = self.multiplexed.borrow_mut();
            let Some(of_server) = all.get_mut(server) else {
                return Poll::Ready(Ok(()));
            };
            if of_server.is_connecting {
                let waker = context.waker();
                if !of_server.waiting.iter().any(|known| known.will_wake(waker)) {
                    of_server.waiting.push(waker.clone());
                }
                return Poll::Pending;
            }
            Poll::Ready(of_server.failed.map_or(Ok(()), Err))
        })
        .await
    }

    /// Lets connections end whose places with `server` are waited for on other workers: idle ones, and
    /// one with requests under way where this worker has more than its share.
    pub(super) fn give_way_multiplexed(&self, server: usize) {
        let mut wanted = self.group.wanted_by_others(server);
        let mut all = self.multiplexed.borrow_mut();
        let Some(of_server) = all.get_mut(server).filter(|_| wanted > 0) else {
            return;
        };
        let mut given_way = Vec::new();
        of_server.connections.retain(|made| {
            let goes = wanted > 0 && made.is_idle();
            if goes {
                wanted -= 1;
                given_way.push(made.clone());
            }
            !goes
        });
        let left = of_server.connections.len();
        if given_way.is_empty() && self.group.is_beyond_share(server, left) {
            given_way.extend(of_server.connections.pop());
        }
        drop(all);
        given_way.iter().for_each(Http2Connection::retire);
    }

    /// Lets connections end that are too old, and forgets those that have ended.
    pub(super) fn sweep_multiplexed(&self) {
        for of_server in self.multiplexed.borrow_mut().iter_mut() {
            of_server.forget_old(self.http().age);
        }
    }
}

impl Multiplexed {
    fn forget_old(&mut self, age_max: std::time::Duration) {
        self.connections.retain(|made| {
            let is_old = made.age() >= age_max;
            if is_old {
                made.retire();
            }
            !is_old && !made.is_over()
        });
    }
}

impl Drop for Multiplexed {
    fn drop(&mut self) {
        // The configuration that it was for is no more; requests under way are finished.
        for connection in &self.connections {
            connection.retire();
        }
    }
}

/// A connection that is being made.
struct Making {
    inner: Rc<Inner>,
    server: usize,
}

impl Making {
    fn begin(inner: &Rc<Inner>, server: usize) -> Self {
        if let Some(of_server) = inner.multiplexed.borrow_mut().get_mut(server) {
            of_server.is_connecting = true;
            of_server.failed = None;
        }
        Self {
            inner: inner.clone(),
            server,
        }
    }

    fn failed(self, error: &Error) {
        if let Some(of_server) = self.inner.multiplexed.borrow_mut().get_mut(self.server) {
            of_server.failed = Some(Failed::of(error));
        }
    }

    fn done(self, made: Http2Connection) {
        if let Some(of_server) = self.inner.multiplexed.borrow_mut().get_mut(self.server) {
            of_server.connections.push(made);
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let waiting = match self.inner.multiplexed.borrow_mut().get_mut(self.server) {
            Some(of_server) => {
                of_server.is_connecting = false;
                std::mem::take(&mut of_server.waiting)
            }
            None => Vec::new(),
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// A request that waits for a connection, as part of the server's load.
struct UnderWay(Server);

impl UnderWay {
    fn begin(server: Server) -> Self {
        server.begin();
        Self(server)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Failed {
    fn of(error: &Error) -> Self {
        if let Cause::Timeout(_) = error.cause {
            return Self::UpstreamTimeout;
        }
        let mut kind = io::ErrorKind::NotConnected;
        if let Cause::Io(error) = &error.cause {
            kind = error.kind();
        }
        match error.side {
            Side::Us => Self::Us(kind),
            Side::Client | Side::Upstream => Self::Upstream(kind),
        }
    }

    fn error(self) -> Error {
        match self {
            Self::Us(kind) => Error::us(Stage::Connect, Cause::Io(kind.into())),
            Self::Upstream(kind) => Error::upstream(Stage::Connect, Cause::Io(kind.into())),
            Self::UpstreamTimeout => {
                Error::upstream(Stage::Connect, Cause::Timeout("upstream.connect_ms"))
            }
        }
    }
}

/// What is offered where TLS is spoken (RFC 9113 3.2).
const PROTOCOLS: &[&[u8]] = &[b"h2"];

fn gave_up(last: Option<Error>) -> NoConnection {
    last.map_or(NoConnection::Down, NoConnection::Failed)
}
