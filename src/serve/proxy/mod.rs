//! The reverse proxy: a request in, what a server behind this one makes of it out.

mod exchange;
mod http2;
mod interim;
mod request;
mod upgraded;
mod upgraded_stream;
mod websocket;

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::exchange::{Download, Exchange, Failed};
use self::interim::Asked;
use self::request::{Outgoing, Visitor};
use self::upgraded::Upgraded;
use super::rules::Normal;
use super::{Client, Identity, error_page};
use crate::config::{HashKey, Route, RouteProxy, UpstreamProtocol};
use crate::error::{Cause, Error, Side};
use crate::message::{Body, BodyStream, LocalFuture, Request, RequestBody, Response, Status};
use crate::metrics::{self, Counter};
use crate::net::stream::StreamContext;
use crate::proto::h1::response_head::{Framing, ResponseHead};
use crate::proto::proxy_header::ProxyHeader;
use crate::upstream::{Connector, Groups, NoConnection, Pool};

/// What one worker passes requests on with.
pub struct Proxy {
    /// In the order of [`crate::config::Config::upstreams`].
    pools: Vec<Pool>,
    connector: Rc<Connector>,
    context: Rc<StreamContext>,
    /// When idle connections were looked through last.
    swept: Cell<Instant>,
}

/// A request to be passed on.
pub(super) struct Asking<'a> {
    pub(super) client: &'a Client,
    /// Whether the client is a proxy whose word is taken.
    pub(super) is_trusted: bool,
    pub(super) request: &'a Request,
    /// The request's path as routes compare it.
    pub(super) normal: &'a Normal<'a>,
    /// What the server behind is asked for.
    pub(super) target: &'a str,
    /// The field in which the server behind is told the request's id.
    pub(super) id_field: Option<&'a str>,
    /// When its head was complete.
    pub(super) now: Instant,
}

impl Proxy {
    /// Passes on to `groups`, over connections of `connector`.
    pub fn new(groups: &Groups, connector: Rc<Connector>, context: Rc<StreamContext>) -> Self {
        Self {
            pools: groups.iter().cloned().map(Pool::new).collect(),
            connector,
            context,
            swept: Cell::new(Instant::now()),
        }
    }

    /// Closes the idle connections whose places other workers wait for, and about once a second those
    /// that are not to be used again: looking at one takes a system call.
    pub fn sweep(&self, now: Instant) {
        self.pools.iter().for_each(Pool::give_way);
        if now.saturating_duration_since(self.swept.get()) >= SWEEP {
            self.swept.set(now);
            self.pools.iter().for_each(Pool::sweep);
        }
    }

    /// Passes a request on as `route` says, whose own part is `proxy`, and gives the answer.
    pub(super) async fn respond(
        &self,
        (route, proxy): (&Route, &RouteProxy),
        asking: &Asking<'_>,
        identity: &Identity<'_>,
        body: RequestBody,
    ) -> Response {
        let &Asking {
            client,
            is_trusted,
            request,
            target,
            id_field,
            now,
            ..
        } = asking;
        let visitor = Visitor {
            address: client.address,
            is_trusted,
            is_secure: client.tls_policy.is_some(),
            id: id_field.map(|field| (field, &*identity.id)),
        };
        let Some(pool) = self.pools.get(proxy.upstream) else {
            return error_page::page(Status(500));
        };
        let asks = (target, pool.http().protocol);
        let outgoing = match request::outgoing(request, asks, route, proxy, &visitor) {
            Ok(outgoing) => outgoing,
            Err(status) => return error_page::page(Status(status)),
        };
        let key = pool.hash_key();
        let key = key.map(|key| hash_key(key, request, identity.address));
        let whose = (key.as_deref(), client.introduction.as_deref());
        let asked = Asked {
            request,
            edits: &route.response_fields,
        };
        let exchanged = match pool.http().protocol {
            UpstreamProtocol::Http11 => {
                self.exchange(pool, whose, (asked, now), &outgoing, body)
                    .await
            }
            UpstreamProtocol::Http2 => {
                self.exchange_http2(pool, key.as_deref(), asked, &outgoing, body)
                    .await
            }
        };
        match exchanged {
            Ok(response) => response,
            Err(refused) => refused.page(pool, &identity.id),
        }
    }

    /// Sends the request, a second time where the first went to a connection that had died, and takes
    /// the answer's head.
    async fn exchange(
        &self,
        pool: &Pool,
        (key, introduction): (Option<&[u8]>, Option<&ProxyHeader>),
        (asked, mut now): (Asked<'_>, Instant),
        outgoing: &Outgoing,
        mut body: RequestBody,
    ) -> Result<Response, NoAnswer> {
        let may_repeat = asked.request.method.is_idempotent() && matches!(body, RequestBody::Empty);
        let mut may_be_idle = true;
        loop {
            let connection = pool
                .connection_for(
                    key,
                    may_be_idle,
                    (&self.connector, &self.context),
                    introduction,
                    now,
                )
                .await
                .map_err(NoAnswer::NoConnection)?;
            let sending = std::mem::take(&mut body);
            let first_byte = pool.http().first_byte;
            let begun = Exchange::begin(connection, outgoing, sending).await;
            let answered = match begun {
                Ok(mut exchange) => match exchange.head(asked, first_byte).await {
                    Ok(head) => {
                        exchange.place().report_success();
                        Ok((exchange, head))
                    }
                    Err(failed) => {
                        exchange.report(&failed);
                        Err(failed)
                    }
                },
                Err(failed) => Err(failed),
            };
            match answered {
                Ok((exchange, head)) => return answer(pool, exchange, head, outgoing),
                // RFC 9112 9.3.1: an idempotent request whose connection closed before an answer may
                // be repeated, once.
                Err(Failed { was_stale, error }) if was_stale && may_repeat && may_be_idle => {
                    metrics::count(Counter::UpstreamRetries);
                    tracing::debug!(upstream = pool.name(), %error, "sent again");
                    may_be_idle = false;
                    now = Instant::now();
                }
                Err(Failed { error, .. }) => return Err(NoAnswer::Failed(error)),
            }
        }
    }
}

/// Why there is no answer.
enum NoAnswer {
    NoConnection(NoConnection),
    /// The server does not speak the protocol that is asked for.
    NotSpoken,
    Failed(Error),
}

impl NoAnswer {
    /// The response that says so, and the log's and the counters' share.
    fn page(self, pool: &Pool, request_id: &str) -> Response {
        let upstream = pool.name();
        let status = match self {
            Self::NotSpoken => {
                tracing::debug!(upstream, "no server for the protocol that is asked for");
                return error_page::page(Status(501));
            }
            Self::NoConnection(NoConnection::Down) => {
                tracing::warn!(upstream, request_id, "no server is up");
                503
            }
            Self::NoConnection(NoConnection::QueueFull | NoConnection::QueueTimeout) => {
                tracing::warn!(upstream, request_id, "all servers are full");
                503
            }
            Self::NoConnection(NoConnection::Failed(error)) | Self::Failed(error) => {
                match error.side {
                    Side::Upstream => tracing::warn!(upstream, request_id, %error, "no answer"),
                    Side::Us => tracing::error!(upstream, request_id, %error, "no answer"),
                    Side::Client => {
                        tracing::debug!(upstream, request_id, %error, "request broken off")
                    }
                }
                match (error.side, error.cause) {
                    // The driver answers or ends the connection as the body's failure demands.
                    (Side::Client, _) => return error_page::page(Status(400)),
                    (Side::Us, _) => 500,
                    (Side::Upstream, Cause::Timeout(_)) => 504,
                    (Side::Upstream, _) => 502,
                }
            }
        };
        metrics::count(match status {
            504 => Counter::UpstreamTimeouts,
            _ => Counter::UpstreamFailures,
        });
        let page = error_page::page(Status(status));
        match status {
            // RFC 9110 10.2.3
            503 => page.with("retry-after", RETRY_AFTER_S),
            _ => page,
        }
    }
}

/// The response that passes `head` and its body on.
fn answer(
    pool: &Pool,
    mut exchange: Exchange,
    mut head: ResponseHead,
    outgoing: &Outgoing,
) -> Result<Response, NoAnswer> {
    let malformed = |what| NoAnswer::Failed(exchange::blamed(Cause::Protocol(what)));
    let is_upgrade = head.status == Status(101);
    let options = std::mem::take(&mut head.options);
    let fields = &head.fields;
    if is_upgrade {
        let Some(chosen) = options.upgrade(fields) else {
            return Err(malformed("a change of protocol without its name"));
        };
        if !request::was_asked(&outgoing.upgrade, chosen) {
            return Err(malformed("a change of protocol that nobody asked for"));
        }
    }
    let key = outgoing.websocket_key.as_deref();
    if is_upgrade && key.is_some_and(|key| !websocket::is_accepted(fields, key)) {
        return Err(malformed("a WebSocket that does not know its key"));
    }
    head.fields.retain(|name, _| {
        let is_protocol = is_upgrade && name.eq_ignore_ascii_case(b"upgrade");
        is_protocol || !options.is_hop_by_hop(name)
    });
    let mut response = Response::new(head.status);
    response.relayed = std::mem::take(&mut head.fields);
    response.body = match head.framing {
        _ if is_upgrade => {
            let Some((read, write, input, place)) = exchange.into_parts() else {
                return Err(malformed("closed after a change of protocol"));
            };
            Body::Upgrade(Box::new(Upgraded {
                read,
                write,
                input,
                place,
                idle_max: pool.http().upgraded_idle,
            }))
        }
        Framing::None => {
            exchange.end(pool, head.keep_alive);
            match head.status {
                // RFC 9110 8.6: the length that the body would have.
                Status(204 | 205) => Body::Empty,
                _ => Body::Stream(Box::new(Nothing), head.content_length),
            }
        }
        Framing::Length(length) => match exchange.take_all(length) {
            Some(bytes) => {
                exchange.end(pool, head.keep_alive);
                Body::Bytes(bytes)
            }
            None => stream(exchange, pool, &head, Some(length)),
        },
        Framing::Chunked | Framing::Close => stream(exchange, pool, &head, None),
    };
    Ok(response)
}

fn stream(exchange: Exchange, pool: &Pool, head: &ResponseHead, length: Option<u64>) -> Body {
    Body::Stream(
        Box::new(Download::new(exchange, pool.clone(), head)),
        length,
    )
}

/// The body of an answer to HEAD, or of 304.
struct Nothing;

impl BodyStream for Nothing {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<Bytes>, Error>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// What `balance = "hash"` keeps together.
fn hash_key(key: &HashKey, request: &Request, address: IpAddr) -> Vec<u8> {
    let own = match key {
        HashKey::Client => None,
        HashKey::Header(name) => request.fields.first(name),
        HashKey::Cookie(name) => cookie(request, name),
    };
    match (own, address.to_canonical()) {
        (Some(own), _) => own.to_vec(),
        (None, IpAddr::V4(address)) => address.octets().to_vec(),
        (None, IpAddr::V6(address)) => address.octets().to_vec(),
    }
}

/// The value of the first cookie with that name (RFC 6265 4.2.1).
fn cookie<'a>(request: &'a Request, name: &str) -> Option<&'a [u8]> {
    let mut pairs = request
        .fields
        .all("cookie")
        .flat_map(|field| field.split(|&byte| byte == b';'));
    pairs.find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    })
}

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// Long enough for a queue to drain, short enough not to be felt.
const RETRY_AFTER_S: Bytes = Bytes::from_static(b"1");
