//! From a connection to a server behind us: which upstream, which of its servers, and what becomes
//! of the bytes in between.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::{Cause, Error, Stage};
use crate::limits::UPSTREAM_TRIES_MAX;
use crate::metrics::{self, Counter};
use crate::net::deadline::Deadlines;
use crate::net::stream::{Stream, StreamContext};
use crate::net::tunnel::{self, TunnelEnd, TunnelTimes};
use crate::proto::host_names::HostNames;
use crate::proto::proxy_header::ProxyHeader;
use crate::tls::client_hello::ClientHello;
use crate::upstream::{Connected, Connector, Groups, Lease, NoConnection, NoServer, Upstreams};

/// One worker's tunnels under one configuration.
pub struct Tunnels {
    table: Table,
    groups: Groups,
    connector: Connector,
    deadlines: Deadlines,
    /// For both sides of a tunnel: its times bound the waits for room.
    context: Rc<StreamContext>,
    times: TunnelTimes,
}

/// Which connections are passed on without terminating TLS.
#[derive(Debug, Default)]
pub struct Table {
    /// Sites first, then the passthroughs that take all protocols.
    names: HostNames,
    sites: usize,
    /// The upstreams of those passthroughs.
    upstreams: Vec<usize>,
    /// The passthroughs that want one of some protocols: these, the names, the upstream.
    with_alpn: Vec<(Vec<String>, HostNames, usize)>,
}

impl Tunnels {
    /// The tunnels of `config`, as one worker makes them. `stream` is what its other connections
    /// share.
    pub fn new(
        config: &Config,
        upstreams: &Upstreams,
        deadlines: Deadlines,
        stream: &StreamContext,
    ) -> Self {
        let context = StreamContext {
            offload: stream.offload,
            kernel: stream.kernel.clone(),
            // A reader that stalls is what a tunnel is there to bear, for as long as it may last.
            send_progress: Duration::MAX,
            records_per_key_max: stream.records_per_key_max,
            file_threads: stream.file_threads.clone(),
        };
        Self {
            table: Table::new(config),
            // Not those of routes, whose idle connections do not serve here: they give way.
            groups: Groups::new(upstreams),
            connector: Connector::new(deadlines.clone(), config.tcp),
            deadlines,
            context: Rc::new(context),
            times: TunnelTimes {
                idle: config.timeouts.tunnel_idle,
                lifetime: config.timeouts.tunnel_lifetime,
            },
        }
    }

    /// The upstream that a connection which begins with `hello` is passed on to as it is.
    pub fn passthrough(&self, hello: &ClientHello) -> Option<usize> {
        self.table.passthrough(hello)
    }

    /// What the client's stream of a tunnel is made with.
    pub fn context(&self) -> &Rc<StreamContext> {
        &self.context
    }

    /// Connects `client` to a server of an upstream and carries bytes between them to the end.
    /// `first` is what the server is sent before anything else. `address` is the client's;
    /// `introduction` is what a server that speaks the PROXY protocol is told.
    ///
    /// # Errors
    /// When no server is to be had, or a side fails.
    pub async fn carry(
        &self,
        client: Stream,
        first: Vec<u8>,
        upstream: usize,
        address: IpAddr,
        introduction: Option<&ProxyHeader>,
    ) -> Result<(), Error> {
        let connected = self.connect(upstream, address, introduction).await;
        let (lease, server) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                tunnel::refuse(client);
                return Err(error);
            }
        };
        let clock = self.deadlines.register();
        let carried = tunnel::carry(client, server, &first, self.times, &clock);
        let end = Box::pin(carried).await;
        drop(lease);
        match end? {
            TunnelEnd::Truncated => Err(Error::client(Stage::Tunnel, Cause::Truncated)),
            TunnelEnd::Complete | TunnelEnd::Idle | TunnelEnd::Lifetime => Ok(()),
        }
    }

    /// A connection to one of the servers, trying another when one fails.
    async fn connect(
        &self,
        upstream: usize,
        address: IpAddr,
        introduction: Option<&ProxyHeader>,
    ) -> Result<(Lease, Stream), Error> {
        let Some(group) = self.groups.get(upstream) else {
            return Err(Error::us(
                Stage::Connect,
                Cause::Internal("a tunnel without its upstream"),
            ));
        };
        let key = address.to_canonical().to_string();
        let mut tried = Vec::new();
        let mut last = None;
        let mut turn = None;
        while tried.len() < UPSTREAM_TRIES_MAX {
            let picked = match &turn {
                // Those that wait go first.
                None if group.is_waited_for() => Err(NoServer::Full),
                _ => group.pick(Some(key.as_bytes()), &tried, Instant::now()),
            };
            let lease = match picked {
                Ok(lease) => lease,
                Err(NoServer::Full) => {
                    let queued = match turn.take() {
                        Some(turn) => Ok(turn),
                        None => group.queue(),
                    };
                    let waited = match queued {
                        Ok(queued) => turn.insert(queued).wait(!tried.is_empty()).await,
                        Err(full) => Err(full),
                    };
                    if let Err(why) = waited {
                        last = Some(unserved(why));
                        break;
                    }
                    continue;
                }
                Err(why) => {
                    last = last.or(Some(unavailable(why)));
                    break;
                }
            };
            let protocols = lease.group().tls.as_ref().map(|tls| tls.alpn.as_slice());
            let protocols: Vec<&[u8]> = protocols
                .unwrap_or_default()
                .iter()
                .map(String::as_bytes)
                .collect();
            let context = self.context.clone();
            let connecting = self
                .connector
                .connect_for(&lease, context, &protocols, introduction);
            match connecting.await {
                Ok(Connected { stream, .. }) => return Ok((lease, stream)),
                Err(error) => {
                    tried.push(lease.server());
                    let is_ours = error.side == crate::error::Side::Us;
                    last = Some(error);
                    // Another server would not have what this machine lacks.
                    if is_ours {
                        break;
                    }
                }
            }
        }
        metrics::count(Counter::UpstreamUnavailable);
        Err(last.unwrap_or_else(|| unavailable(NoServer::Down)))
    }
}

impl Table {
    /// The table of `config`.
    pub fn new(config: &Config) -> Self {
        let for_all = |passthrough: &&crate::config::Passthrough| passthrough.alpn.is_empty();
        let sites = config.sites.iter().map(|site| site.names.as_slice());
        let passthroughs = config.passthroughs.iter().filter(for_all);
        let names = passthroughs
            .clone()
            .map(|passthrough| passthrough.names.as_slice());
        // The default's place among those that take all protocols, of which it is one.
        let default = config.default_passthrough.map(|index| {
            let before = config.passthroughs.iter().take(index);
            config.sites.len() + before.filter(for_all).count()
        });
        let with_alpn = config.passthroughs.iter().filter(|other| !for_all(other));
        Self {
            names: HostNames::new(sites.chain(names), config.default_site.or(default)),
            sites: config.sites.len(),
            upstreams: passthroughs
                .map(|passthrough| passthrough.upstream)
                .collect(),
            with_alpn: with_alpn
                .map(|passthrough| {
                    let names = HostNames::new([passthrough.names.as_slice()], None);
                    (passthrough.alpn.clone(), names, passthrough.upstream)
                })
                .collect(),
        }
    }

    /// The upstream of the passthrough that takes a connection which begins with `hello`: by its
    /// protocols and its name, then by its name as sites are found, then as the default. The name of
    /// an encrypted ClientHello is the outer one, which is all that can be seen of it.
    fn passthrough(&self, hello: &ClientHello) -> Option<usize> {
        let name = hello.server_name.as_deref();
        if let Some(name) = name {
            for (alpn, names, upstream) in &self.with_alpn {
                let is_wanted = |offered: &[u8]| alpn.iter().any(|own| own.as_bytes() == offered);
                if names.named(name).is_some() && hello.alpn().any(is_wanted) {
                    return Some(*upstream);
                }
            }
        }
        let index = self.names.site(name)?.checked_sub(self.sites)?;
        self.upstreams.get(index).copied()
    }
}

fn unserved(why: NoConnection) -> Error {
    let what = match why {
        NoConnection::Failed(error) => return error,
        NoConnection::Down => "no server of the upstream is up",
        NoConnection::QueueFull => "every server of the upstream is full, and so is the queue",
        NoConnection::QueueTimeout => "every server of the upstream was full for too long",
    };
    Error::upstream(Stage::Connect, Cause::Protocol(what))
}

fn unavailable(why: NoServer) -> Error {
    let what = match why {
        NoServer::Down => "no server of the upstream is up",
        NoServer::Full => "every server of the upstream has all the connections it may have",
        NoServer::Tried => "every server of the upstream has failed",
    };
    Error::upstream(Stage::Connect, Cause::Protocol(what))
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
