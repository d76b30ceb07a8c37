//! One connection's whole story: accepted, handshaken, served, closed.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;

use super::{Local, Worker};
use crate::config::Service;
use crate::error::{Cause, Error, Stage};
use crate::http::{self, Handler, Outcome, h1};
use crate::message::{Body, Request, RequestBody, Response, Status};
use crate::metrics::{self, Counter};
use crate::net::deadline::{Deadline, Phase};
use crate::net::socket::Socket;
use crate::net::stream::Stream;
use crate::serve::redirect::Redirect;
use crate::serve::{Client, Now, Serve};
use crate::tls::handshake::{self, Handshaken, NoSession};

/// Serves `descriptor` to its end. Each stage is boxed by itself and gone when the next begins, so
/// that an idle connection is not as large as a handshake.
pub(super) async fn serve(
    worker: Rc<Worker>,
    local: Rc<Local>,
    descriptor: OwnedFd,
    peer: SocketAddr,
    service: Service,
) -> Result<(), Error> {
    let accepted = Accepted::new(&worker, local, descriptor, peer)?;
    // From here on the connection is kept by its parts alone.
    drop(worker);
    match service {
        Service::Https => {
            // A statement of its own, so that the box does not live as long as the connection.
            let established = Box::pin(accepted.handshake()).await?;
            match established {
                Some(established) => established.serve().await,
                None => Ok(()),
            }
        }
        Service::RedirectToHttps { port } => accepted.redirect(port).await,
    }
}

/// A connection of which nothing is known but its peer.
struct Accepted {
    local: Rc<Local>,
    socket: Rc<Socket>,
    deadline: Rc<Deadline>,
    peer: SocketAddr,
}

/// A connection with a TLS session.
struct Established {
    local: Rc<Local>,
    stream: Stream,
    client: Client,
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
        })
    }

    /// The TLS handshake; `None` when there is nothing left to do.
    async fn handshake(self) -> Result<Option<Established>, Error> {
        let Self {
            local,
            socket,
            deadline,
            peer,
        } = self;
        deadline.arm(Phase::Handshake, local.generation.config.timeouts.handshake);
        let tls = &local.generation.tls;
        let accepted = handshake::accept(&socket, &deadline, |hello| {
            let policy = tls.policy_for(hello.server_name.as_deref())?;
            tls.server_config(policy).cloned()
        });
        let handshaken = match accepted.await {
            Ok(handshaken) => handshaken,
            Err(NoSession::NeverBegan) => return Ok(None),
            Err(NoSession::PlainHttp) => {
                metrics::count(Counter::PlainHttpOnTlsPort);
                let stream = Stream::plain(socket, deadline, local.stream.clone());
                return tell_plain_http(stream, &local.http).await.map(|()| None);
            }
            Err(NoSession::Failed(error)) => {
                metrics::count(Counter::HandshakesFailed);
                if error.cause.was_told() {
                    let stream = Stream::plain(socket, deadline, local.stream.clone());
                    let (mut read, mut write) = stream.into_halves();
                    http::close(&mut read, &mut write, &local.http).await;
                }
                return Err(error);
            }
        };
        deadline.disarm();
        let Handshaken {
            parts,
            server_name,
            version,
            ..
        } = handshaken;
        tracing::trace!(%peer, ?server_name, ?version, "handshake done");
        let Some(tls_policy) = tls.policy_for(server_name.as_deref()) else {
            return Err(Error::us(
                Stage::Handshake,
                Cause::Internal("a session under no policy"),
            ));
        };
        let client = Client {
            tls_policy: Some(tls_policy),
            address: peer.ip().to_canonical(),
        };
        let stream = Stream::tls(socket, deadline, local.stream.clone(), parts)
            .map_err(|cause| Error::on_connection(Stage::Handshake, cause))?;
        Ok(Some(Established {
            local,
            stream,
            client,
        }))
    }

    /// Plain HTTP that leads to HTTPS.
    async fn redirect(self, port: u16) -> Result<(), Error> {
        let Self {
            local,
            socket,
            deadline,
            ..
        } = self;
        let stream = Stream::plain(socket, deadline, local.stream.clone());
        let Some(redirect) = local.redirects.get(&port) else {
            return Err(Error::us(
                Stage::Serve,
                Cause::Protocol("a listener without its redirect"),
            ));
        };
        let handler = RedirectHandler { redirect };
        let (read, write) = stream.into_halves();
        h1::serve(read, write, &handler, &local.http)
            .await
            .map(ended)
    }
}

impl Established {
    async fn serve(self) -> Result<(), Error> {
        let Self {
            local,
            stream,
            client,
        } = self;
        let handler = SiteHandler {
            serve: &local.serve,
            client,
        };
        let (read, write) = stream.into_halves();
        h1::serve(read, write, &handler, &local.http)
            .await
            .map(ended)
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
struct SiteHandler<'a> {
    serve: &'a Serve,
    client: Client,
}

impl Handler for SiteHandler<'_> {
    async fn respond(&self, request: &Request, body: RequestBody, now: Now) -> Response {
        panic_if_asked(request);
        self.serve.respond(&self.client, request, body, now).await
    }
}

struct RedirectHandler<'a> {
    redirect: &'a Redirect,
}

impl Handler for RedirectHandler<'_> {
    async fn respond(&self, request: &Request, _body: RequestBody, _now: Now) -> Response {
        self.redirect.respond(request)
    }
}

const PLAIN_HTTP_ANSWER: Bytes =
    Bytes::from_static(b"This port speaks HTTPS: use https:// in the address");
