//! One connection's whole story: accepted, handshaken, served or carried, closed.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::access_log::{Peer, Session};
use super::admission::{AddressSlot, Admission};
use super::{ListenerId, Local, Worker, introduction};
use crate::config::{Protocol, Service};
use crate::error::{Cause, Error, Stage};
use crate::http::{self, Exchange, Handler, Outcome, h1, h2};
use crate::message::{Body, LocalFuture, Now, Request, RequestBody, Response, Status};
use crate::metrics::{self, Counter};
use crate::net::deadline::{Deadline, Phase};
use crate::net::socket::Socket;
use crate::net::stream::Stream;
use crate::proto::proxy_header::ProxyHeader;
use crate::serve::Client;
use crate::serve::redirect::Redirect;
use crate::tls::client_hello::ClientHello;
use crate::tls::handshake::{self, Begun, Handshaken, NoSession};

/// A connection of which is known what it is for, to be served to its end.
pub(super) struct Serving {
    /// The client's place, where a proxy has told who it is.
    pub(super) place: Option<AddressSlot>,
    /// What serves it.
    pub(super) rest: LocalFuture<'static, Result<(), Error>>,
}

/// Brings `descriptor` to where it is known what it is for: through its handshake, and before that its
/// proxy's word where the peer is one. `None` where nothing is left to be done.
///
/// A future of its own, gone when what follows begins, so that an idle connection is not as large as
/// a handshake.
pub(super) async fn begin(
    worker: Rc<Worker>,
    local: Rc<Local>,
    descriptor: OwnedFd,
    (peer, proxied): (SocketAddr, Option<ListenerId>),
    service: Service,
) -> Result<Option<Serving>, Error> {
    let mut accepted = Accepted::new(&worker, local, descriptor, peer)?;
    let proxied = proxied.map(|listener| (listener, worker.shared.admission.clone()));
    // From here on the connection is kept by its parts alone.
    drop(worker);
    let place = match proxied {
        None => None,
        Some(proxied) => match Box::pin(accepted.learn_client(proxied)).await? {
            Some(place) => Some(place),
            None => return Ok(None),
        },
    };
    let tunnel = match service {
        Service::Https => None,
        Service::Tunnel { upstream, alpn } => Some((upstream, alpn)),
        Service::RedirectToHttps { port } => {
            let rest = Box::pin(accepted.redirect(port));
            return Ok(Some(Serving { place, rest }));
        }
    };
    Ok(match accepted.handshake(tunnel).await? {
        Next::Nothing => None,
        Next::Http(established) => Some(Serving {
            place,
            rest: Box::pin(established.serve()),
        }),
        Next::Tunnel(tunnel) => Some(Serving {
            place,
            rest: Box::pin(tunnel.carry()),
        }),
    })
}

/// What follows a handshake.
enum Next {
    Nothing,
    Http(Established),
    Tunnel(Tunnel),
}

/// A connection that is carried to a server, with or without a TLS session.
struct Tunnel {
    local: Rc<Local>,
    stream: Stream,
    /// Bytes received and not looked into.
    first: Vec<u8>,
    upstream: usize,
    peer: SocketAddr,
    introduction: Option<Rc<ProxyHeader>>,
}

/// A connection of which nothing is known but its peer.
struct Accepted {
    local: Rc<Local>,
    socket: Rc<Socket>,
    deadline: Rc<Deadline>,
    /// The client, by its own word or its proxy's.
    peer: SocketAddr,
    /// Where the client connected to, by its proxy's word.
    destination: Option<SocketAddr>,
    /// What came behind the proxy's word.
    received: BytesMut,
}

/// A connection with a TLS session.
struct Established {
    handler: SiteHandler,
    stream: Stream,
    protocol: Protocol,
}

impl Accepted {
    fn new(
        worker: &Worker,
        local: Rc<Local>,
        descriptor: OwnedFd,
        peer: SocketAddr,
    ) -> Result<Self, Error> {
        let io = |error| Error::us(Stage::Accept, Cause::Io(error));
        let socket = Rc::new(Socket::adopt(descriptor).map_err(io)?);
        let deadline = Rc::new(worker.deadlines.register());
        Ok(Self {
            local,
            socket,
            deadline,
            peer,
            destination: None,
            received: BytesMut::new(),
        })
    }

    /// Reads whose connection it is, and takes a place for it. `None` where it is not let in, or there
    /// is no place.
    async fn learn_client(
        &mut self,
        (listener, admission): (ListenerId, Arc<Admission>),
    ) -> Result<Option<AddressSlot>, Error> {
        let config = &self.local.generation.config;
        self.deadline
            .arm(Phase::Handshake, config.timeouts.handshake);
        let told = introduction::read(&self.socket, &self.deadline, &mut self.received).await?;
        self.deadline.disarm();
        if let Some(addresses) = told.addresses {
            self.peer = addresses.source;
            self.destination = Some(addresses.destination);
        }
        let listener = self.local.generation.listeners.get(&listener);
        if listener.is_some_and(|listener| !listener.access.allows(self.peer.ip())) {
            metrics::count(Counter::RefusedNetwork);
            return Ok(None);
        }
        let max = config.limits.connections_per_address_max;
        let place = admission.admit(self.peer.ip(), max);
        if place.is_none() {
            metrics::count(Counter::RefusedAddressFull);
        }
        Ok(place)
    }

    /// What servers are told of this connection, where one is told.
    fn introduction(&self) -> Option<ProxyHeader> {
        let upstreams = &self.local.generation.config.upstreams;
        if upstreams
            .iter()
            .all(|upstream| upstream.proxy_protocol.is_none())
        {
            return None;
        }
        let destination = self.destination.or_else(|| self.socket.local_address());
        Some(ProxyHeader::new(self.peer, destination?))
    }

    /// The TLS handshake. `tunnel` is the listener's own upstream, with the protocols agreed to.
    async fn handshake(mut self, tunnel: Option<(usize, Vec<String>)>) -> Result<Next, Error> {
        let timeout = self.local.generation.config.timeouts.handshake;
        self.deadline.arm(Phase::Handshake, timeout);
        let received = Vec::from(std::mem::take(&mut self.received));
        let begun = match handshake::begin(&self.socket, &self.deadline, received).await {
            Ok(begun) => begun,
            Err(failure) => return self.no_session(failure).await,
        };
        if let Some(upstream) = self.local.tunnels.passthrough(begun.hello()) {
            metrics::count(Counter::TunnelsPassedThrough);
            return Ok(self.pass_through(upstream, begun));
        }
        let tls = &self.local.generation.tls;
        let choose = |hello: &ClientHello| {
            let policy = tls.policy_for(hello.server_name.as_deref())?;
            let config = match &tunnel {
                None => tls.server_config(policy),
                Some((_, alpn)) => tls.tunnel_config(policy, alpn),
            };
            Some(config?.for_client(hello).clone())
        };
        let accepted = begun.accept(&self.socket, &self.deadline, choose).await;
        match accepted {
            Ok(handshaken) => self.established(handshaken, tunnel.map(|(upstream, _)| upstream)),
            Err(failure) => self.no_session(failure).await,
        }
    }

    /// What a session is for: HTTP, or the tunnel of its listener or site.
    fn established(self, handshaken: Handshaken, tunnel: Option<usize>) -> Result<Next, Error> {
        let introduction = self.introduction().map(|mut told| {
            introduction::add_session(&mut told, &handshaken);
            Rc::new(told)
        });
        let Self {
            local,
            socket,
            deadline,
            peer,
            ..
        } = self;
        deadline.disarm();
        let Handshaken {
            parts,
            server_name,
            version,
            suite,
            is_resumed,
            alpn,
            client_certificate: _,
        } = handshaken;
        tracing::trace!(%peer, ?server_name, ?version, "handshake done");
        let tls = &local.generation.tls;
        let Some(tls_policy) = tls.policy_for(server_name.as_deref()) else {
            return Err(Error::us(
                Stage::Handshake,
                Cause::Internal("a session under no policy"),
            ));
        };
        let site = tls.names().site(server_name.as_deref());
        let site = site.and_then(|index| local.generation.config.sites.get(index));
        let upstream = tunnel.or(site.and_then(|site| site.tunnel));
        let context = match upstream {
            Some(_) => local.tunnels.context().clone(),
            None => local.stream.clone(),
        };
        let stream = Stream::tls(socket, deadline, context, parts)
            .map_err(|cause| Error::on_connection(Stage::Handshake, cause))?;
        let Some(upstream) = upstream else {
            let client = Client {
                tls_policy: Some(tls_policy),
                address: peer.ip().to_canonical(),
                introduction,
            };
            let session = Session {
                version,
                suite,
                is_resumed,
            };
            return Ok(Next::Http(Established {
                handler: SiteHandler {
                    local,
                    client,
                    session,
                },
                stream,
                protocol: spoken(alpn.as_deref()),
            }));
        };
        metrics::count(Counter::Tunnels);
        Ok(Next::Tunnel(Tunnel {
            local,
            stream,
            first: Vec::new(),
            upstream,
            peer,
            introduction,
        }))
    }

    /// A connection that another server terminates.
    fn pass_through(self, upstream: usize, begun: Begun) -> Next {
        let introduction = self.introduction().map(|mut told| {
            introduction::add_name(&mut told, begun.hello().server_name.as_deref());
            Rc::new(told)
        });
        let Self {
            local,
            socket,
            deadline,
            peer,
            ..
        } = self;
        deadline.disarm();
        let stream = Stream::plain(socket, deadline, local.tunnels.context().clone());
        Next::Tunnel(Tunnel {
            local,
            stream,
            first: begun.into_received(),
            upstream,
            peer,
            introduction,
        })
    }

    /// Ends a connection that came to no session.
    async fn no_session(self, failure: NoSession) -> Result<Next, Error> {
        let Self {
            local,
            socket,
            deadline,
            ..
        } = self;
        match failure {
            NoSession::NeverBegan => Ok(Next::Nothing),
            NoSession::PlainHttp => {
                metrics::count(Counter::PlainHttpOnTlsPort);
                let stream = Stream::plain(socket, deadline, local.stream.clone());
                tell_plain_http(stream, &local.http).await?;
                Ok(Next::Nothing)
            }
            NoSession::Failed(error) => {
                metrics::count(Counter::HandshakesFailed);
                if error.cause.was_told() {
                    let stream = Stream::plain(socket, deadline, local.stream.clone());
                    let (mut read, mut write) = stream.into_halves();
                    http::close(&mut read, &mut write, &local.http).await;
                }
                Err(error)
            }
        }
    }

    /// Plain HTTP that leads to HTTPS.
    async fn redirect(self, port: u16) -> Result<(), Error> {
        let Self {
            local,
            socket,
            deadline,
            peer,
            received,
            ..
        } = self;
        let stream = Stream::plain(socket, deadline, local.stream.clone());
        let Some(redirect) = local.redirects.get(&port) else {
            return Err(Error::us(
                Stage::Serve,
                Cause::Protocol("a listener without its redirect"),
            ));
        };
        let handler = RedirectHandler {
            redirect,
            local: &local,
            client: Client {
                introduction: None,
                tls_policy: None,
                address: peer.ip().to_canonical(),
            },
        };
        let (read, write) = stream.into_halves();
        http::serve_plain(read, write, &handler, &local.http, received)
            .await
            .map(ended)
    }
}

impl Tunnel {
    async fn carry(self) -> Result<(), Error> {
        let Self {
            local,
            stream,
            first,
            upstream,
            peer,
            introduction,
        } = self;
        local
            .tunnels
            .carry(stream, first, upstream, peer.ip(), introduction.as_deref())
            .await
    }
}

impl Established {
    fn serve(self) -> impl Future<Output = Result<(), Error>> {
        let Self {
            handler,
            stream,
            protocol,
        } = self;
        // Not an async fn: `self` would have a place beside what is taken out of it.
        async move {
            let context = &handler.local.http;
            let (read, write) = stream.into_halves();
            match protocol {
                Protocol::H2 => {
                    let input = BytesMut::new();
                    Box::pin(h2::serve(read, write, &handler, context, input)).await
                }
                Protocol::Http11 => h1::serve(read, write, &handler, context).await,
            }
            .map(ended)
        }
    }
}

/// RFC 9113 3.2: over TLS, HTTP/2 is spoken only where it was agreed on.
fn spoken(agreed: Option<&[u8]>) -> Protocol {
    match agreed == Some(Protocol::H2.alpn_id()) {
        true => Protocol::H2,
        false => Protocol::Http11,
    }
}

fn ended(outcome: Outcome) {
    tracing::trace!(?outcome, "connection ended");
}

/// Tests prove with this that a panic ends one connection only. A release has no such path.
#[cfg(debug_assertions)]
#[expect(clippy::panic, reason = "the panic is what is tested")]
fn panic_if_asked(request: &Request) {
    if request.path() == "/.portcullis-test/panic" {
        panic!("injected by a test");
    }
}

#[cfg(not(debug_assertions))]
fn panic_if_asked(_request: &Request) {}

/// A client that speaks HTTP to the TLS port gets an answer it can read.
async fn tell_plain_http(stream: Stream, context: &http::Context) -> Result<(), Error> {
    let (mut read, mut write) = stream.into_halves();
    let answer = Response::new(Status(400))
        .with("content-type", "text/plain; charset=utf-8")
        .with_body(Body::Bytes(PLAIN_HTTP_ANSWER));
    h1::answer(&mut write, context, answer).await?;
    http::close(&mut read, &mut write, context).await;
    Ok(())
}

/// The sites, for one client.
struct SiteHandler {
    local: Rc<Local>,
    client: Client,
    session: Session,
}

impl Handler for SiteHandler {
    async fn respond(&self, request: &Request, body: RequestBody, now: Now) -> Response {
        panic_if_asked(request);
        let serve = &self.local.serve;
        serve.respond(&self.client, request, body, now).await
    }

    fn respond_known(&self, request: &Request, now: Now) -> Option<Response> {
        panic_if_asked(request);
        let serve = &self.local.serve;
        serve.respond_known(&self.client, request, now)
    }

    fn finished(&self, exchange: &Exchange<'_>) {
        record(&self.local, &self.client, Some(self.session), exchange);
    }
}

struct RedirectHandler<'a> {
    redirect: &'a Redirect,
    local: &'a Local,
    client: Client,
}

impl Handler for RedirectHandler<'_> {
    async fn respond(&self, request: &Request, _body: RequestBody, now: Now) -> Response {
        self.redirect.respond(&self.client, request, now)
    }

    fn finished(&self, exchange: &Exchange<'_>) {
        record(self.local, &self.client, None, exchange);
    }
}

/// Tells the logs of a response.
fn record(local: &Local, client: &Client, session: Option<Session>, exchange: &Exchange<'_>) {
    let is_failure = exchange.status.0 >= 500 || !exchange.is_complete;
    let is_told = is_failure && tracing::enabled!(tracing::Level::DEBUG);
    // Who is logged nowhere pays for nothing.
    if !is_told && local.logs.is_empty() {
        return;
    }
    let site = exchange
        .request
        .and_then(|request| local.serve.site(request));
    let identity = exchange
        .request
        .map(|request| local.serve.identify(client, request));
    if is_told && let Some(identity) = &identity {
        tracing::debug!(
            request_id = %identity.id,
            client = %identity.address,
            status = exchange.status.0,
            is_complete = exchange.is_complete,
            "request failed"
        );
    }
    let sites = &local.generation.config.sites;
    let name = site.and_then(|index| sites.get(index)?.names.first());
    let peer = Peer {
        address: client.address,
        session,
        identity: identity.as_ref(),
        site: name.map(String::as_str),
    };
    local.logs.record(site, &peer, exchange);
}

const PLAIN_HTTP_ANSWER: Bytes =
    Bytes::from_static(b"This port speaks HTTPS: use https:// in the address");

#[cfg(test)]
mod tests {
    use super::*;

    /// Most connections are idle most of the time, and this is the largest part of one.
    #[test]
    fn an_idle_connection_takes_little_memory() {
        fn bytes_of<F>(_: impl FnOnce(Established) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = bytes_of(Established::serve);
        assert!(bytes <= 640, "{bytes} bytes");
    }
}
