//! Handshakes: the server's here, the client's in [`client`], what they share in `driver`.

pub mod client;
mod driver;

use std::io;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::{CipherSuite, ProtocolVersion, ServerConfig};

use self::driver::{Driver, Established, Wire};
use super::client_hello::{ClientHello, ClientHelloReader, FirstBytes};
use crate::error::{Cause, Error, Stage};
use crate::metrics::{self, Counter};
use crate::net::deadline::Deadline;
use crate::net::socket::Socket;
use crate::net::stream::TlsParts;
use crate::record::{AlertDescription, encode};

/// An established session.
pub struct Handshaken {
    /// What the record layer needs.
    pub parts: TlsParts,
    /// The host name the client asked for (RFC 6066 3).
    pub server_name: Option<Box<str>>,
    /// The application protocol that was agreed on (RFC 7301).
    pub alpn: Option<Box<[u8]>>,
    /// TLS 1.2 or 1.3.
    pub version: ProtocolVersion,
    /// The suite that was agreed on.
    pub suite: CipherSuite,
    /// Whether an earlier session was taken up.
    pub is_resumed: bool,
    /// The client's certificate, verified, where it was asked for one and has one.
    pub client_certificate: Option<CertificateDer<'static>>,
}

/// Why there is no session.
pub enum NoSession {
    /// The client speaks plain HTTP. It has not been answered.
    PlainHttp,
    /// The client closed or reset before it had sent anything: a health check, or a browser's spare.
    NeverBegan,
    /// It failed; the client has been told what RFC 8446 6.2 wants it told.
    Failed(Error),
}

/// A connection whose ClientHello has been read, and nothing answered.
pub struct Begun {
    hello: ClientHello,
    /// All bytes of the connection so far.
    received: Vec<u8>,
}

/// Reads the ClientHello, lets `choose` pick a configuration by it, and drives the handshake to its
/// end. The caller has armed the deadline.
///
/// # Errors
/// See [`NoSession`].
pub async fn accept(
    socket: &Socket,
    deadline: &Deadline,
    choose: impl FnOnce(&ClientHello) -> Option<Arc<ServerConfig>>,
) -> Result<Handshaken, NoSession> {
    let begun = begin(socket, deadline, Vec::new()).await?;
    begun.accept(socket, deadline, choose).await
}

/// Reads the ClientHello, of which `received` has come already, within the deadline that the caller
/// has armed.
///
/// # Errors
/// See [`NoSession`].
pub async fn begin(
    socket: &Socket,
    deadline: &Deadline,
    received: Vec<u8>,
) -> Result<Begun, NoSession> {
    let mut wire = Wire::new(socket, deadline, received, TIMEOUT_KEY);
    let hello = read_client_hello(&mut wire).await?;
    Ok(Begun {
        hello,
        received: wire.received,
    })
}

impl Begun {
    /// What the client wants.
    pub fn hello(&self) -> &ClientHello {
        &self.hello
    }

    /// The bytes of the connection so far, for a server that is to do the handshake in our place.
    pub fn into_received(self) -> Vec<u8> {
        self.received
    }

    /// Goes on as [`accept`] does.
    ///
    /// # Errors
    /// See [`NoSession`].
    pub async fn accept(
        self,
        socket: &Socket,
        deadline: &Deadline,
        choose: impl FnOnce(&ClientHello) -> Option<Arc<ServerConfig>>,
    ) -> Result<Handshaken, NoSession> {
        let Self { hello, received } = self;
        let wire = Wire::new(socket, deadline, received, TIMEOUT_KEY);
        shake_hands(wire, hello, choose).await
    }
}

async fn shake_hands(
    mut wire: Wire<'_>,
    hello: ClientHello,
    choose: impl FnOnce(&ClientHello) -> Option<Arc<ServerConfig>>,
) -> Result<Handshaken, NoSession> {
    let Some(config) = choose(&hello) else {
        // RFC 6066 3 for a name nobody has; RFC 8446 9.2 for a server that needs one.
        let description = match hello.server_name {
            Some(_) => AlertDescription::UnrecognisedName,
            None => AlertDescription::MissingExtension,
        };
        let alert = encode::plaintext_alert_record(description);
        wire.send(&alert).await.map_err(failed)?;
        return Err(failed(Cause::Record("no site has the server name")));
    };
    let session = UnbufferedServerConnection::new(config)
        .map_err(|error| NoSession::Failed(Error::us(STAGE, Cause::Tls(error))))?;
    let established = Driver::new(session).drive(&mut wire).await;
    let Established {
        parts,
        alpn,
        version,
        suite,
        is_resumed,
        client_certificate,
    } = established.map_err(failed)?;
    count(version, is_resumed);
    Ok(Handshaken {
        parts,
        server_name: hello.server_name,
        alpn,
        version,
        suite,
        is_resumed,
        client_certificate,
    })
}

async fn read_client_hello(wire: &mut Wire<'_>) -> Result<ClientHello, NoSession> {
    let mut reader = ClientHelloReader::new();
    loop {
        match reader.read(&wire.received) {
            FirstBytes::Hello(hello) => return Ok(hello),
            FirstBytes::NotTls {
                looks_like_http: true,
            } => return Err(NoSession::PlainHttp),
            FirstBytes::NotTls {
                looks_like_http: false,
            } => {
                return Err(failed(Cause::Protocol("not TLS")));
            }
            FirstBytes::Invalid(error) => {
                let alert = encode::plaintext_alert_record(error.alert);
                wire.send(&alert).await.map_err(failed)?;
                return Err(failed(Cause::Record(error.reason)));
            }
            FirstBytes::NeedMore { .. } => {
                let is_first = wire.received.is_empty();
                match wire.receive().await {
                    Ok(1..) => {}
                    Ok(0) if is_first => return Err(NoSession::NeverBegan),
                    Ok(0) => return Err(failed(Cause::Truncated)),
                    Err(cause) if is_first && is_reset(&cause) => {
                        return Err(NoSession::NeverBegan);
                    }
                    Err(cause) => return Err(failed(cause)),
                }
            }
        }
    }
}

fn is_reset(cause: &Cause) -> bool {
    matches!(cause, Cause::Io(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

fn count(version: ProtocolVersion, is_resumed: bool) {
    metrics::count(match (version == ProtocolVersion::TLSv1_3, is_resumed) {
        (true, true) => Counter::HandshakesTls13Resumed,
        (true, false) => Counter::HandshakesTls13Full,
        (false, true) => Counter::HandshakesTls12Resumed,
        (false, false) => Counter::HandshakesTls12Full,
    });
}

fn failed(cause: Cause) -> NoSession {
    if matches!(cause, Cause::Timeout(_)) {
        metrics::count(Counter::TimeoutsHandshake);
    }
    NoSession::Failed(Error::on_connection(STAGE, cause))
}

const STAGE: Stage = Stage::Handshake;

const TIMEOUT_KEY: &str = "timeouts.handshake_ms";

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
