//! Servers behind this one: which of them a connection goes to, and the way there.
//!
//! A group's state is shared by the process ([`Upstreams`]): connections open to each server, what
//! checks and failed connections have shown, the addresses that names have. Each worker takes turns
//! by itself ([`Groups`]), so that choosing takes no lock. [`Group::pick`] gives a [`Lease`], which
//! holds the server's place for as long as the connection; [`Connector::connect`] makes a stream of
//! it. Looking up names and checking servers is done by threads of the control side.

pub mod balance;
mod connect;
mod group;
pub mod health;
mod health_http2;
mod http2;
mod multiplex;
mod pool;
mod queue;
mod secure;
mod watch;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::connect::{Connected, Connector};
pub use self::group::{Group, Lease, NoServer, Shared};
pub use self::http2::{Http2Connection, Http2Sink, Http2Stream};
pub use self::pool::{Connection, NoConnection, Place, Pool};
use crate::config::{Config, Upstream};
use crate::tls::client_config::ClientTls;

/// The groups of one configuration, for all workers.
#[derive(Debug)]
pub struct Upstreams {
    groups: Vec<Arc<Shared>>,
}

/// The groups of one configuration, for one worker.
pub struct Groups {
    groups: Vec<Rc<Group>>,
}

impl Upstreams {
    /// The groups of `config`; `tls` is what each is connected to with, in the same order. Those that
    /// stand in `previous` with the same settings and certificates are taken over with all that is
    /// known about them. New ones begin to be watched; names are given [`FIRST_LOOKUP_MAX`] to be
    /// looked up for the first time.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(
        config: &Config,
        tls: &[Option<Arc<ClientTls>>],
        previous: Option<&Self>,
    ) -> io::Result<Self> {
        let until = Instant::now() + FIRST_LOOKUP_MAX;
        let mut groups = Vec::with_capacity(config.upstreams.len());
        let mut lookups = Vec::new();
        for (index, upstream) in config.upstreams.iter().enumerate() {
            let tls = tls.get(index).cloned().flatten();
            let known = previous.and_then(|previous| previous.same(upstream, tls.as_deref()));
            let group = match known {
                Some(group) => group.clone(),
                None => {
                    let group = Arc::new(Shared::new(upstream.clone(), tls));
                    lookups.push(watch::start(&group, &config.tcp)?);
                    group
                }
            };
            groups.push(group);
        }
        for lookup in lookups {
            // An error says that the group has no names, or that time is up: the name that cannot
            // be found has been reported, and its server is used once it is.
            let _ = lookup.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
        Ok(Self { groups })
    }

    /// The groups, in the order of [`Config::upstreams`].
    pub fn groups(&self) -> &[Arc<Shared>] {
        &self.groups
    }

    fn same(&self, upstream: &Upstream, tls: Option<&ClientTls>) -> Option<&Arc<Shared>> {
        let has_same_tls = |group: &Shared| match (group.tls(), tls) {
            (Some(old), Some(new)) => old.is_same(new),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.groups
            .iter()
            .find(|group| **group.config() == *upstream && has_same_tls(group))
    }
}

impl Groups {
    /// One worker's view of `upstreams`.
    pub fn new(upstreams: &Upstreams) -> Self {
        let group = |shared: &Arc<Shared>| Rc::new(Group::new(shared.clone()));
        Self {
            groups: upstreams.groups.iter().map(group).collect(),
        }
    }

    /// All of them, in the order of [`Config::upstreams`].
    pub fn iter(&self) -> impl Iterator<Item = &Rc<Group>> {
        self.groups.iter()
    }

    /// The group with that index in [`Config::upstreams`].
    pub fn get(&self, index: usize) -> Option<&Rc<Group>> {
        self.groups.get(index)
    }
}

/// How long a start waits for the first addresses of all names together.
pub const FIRST_LOOKUP_MAX: Duration = Duration::from_secs(5);
