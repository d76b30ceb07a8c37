//! The client's handshake, with a server behind us.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, CipherSuite, ClientConfig, ProtocolVersion};

use super::driver::{Driver, Established, Wire};
use crate::error::Cause;
use crate::metrics::{self, Counter};
use crate::net::deadline::Deadline;
use crate::net::socket::Socket;
use crate::net::stream::TlsParts;

/// What is wanted of a server.
pub struct Wanted<'a> {
    /// Which certificates are taken, and our own.
    pub config: &'a Arc<ClientConfig>,
    /// The name that its certificate must have. A host name is also asked for (RFC 6066 3).
    pub name: ServerName<'static>,
    /// The application protocols offered, in order of preference (RFC 7301); empty offers none.
    pub protocols: &'a [&'a [u8]],
    /// The configuration key that sets the deadline.
    pub timeout_key: &'static str,
}

/// An established session.
pub struct Secured {
    /// What the record layer needs.
    pub parts: TlsParts,
    /// The application protocol that was agreed on (RFC 7301).
    pub alpn: Option<Box<[u8]>>,
    /// TLS 1.2 or 1.3.
    pub version: ProtocolVersion,
    /// The suite that was agreed on.
    pub suite: CipherSuite,
    /// Whether an earlier session was taken up.
    pub is_resumed: bool,
}

/// Drives the handshake with the server that `socket` is connected to, within the deadline that the
/// caller has armed. Counted, also when it fails.
///
/// # Errors
/// The server's fault, of which it has been told as RFC 8446 6.2 wants, or [`Cause::Internal`].
pub async fn connect(
    socket: &Socket,
    deadline: &Deadline,
    wanted: Wanted<'_>,
) -> Result<Secured, Cause> {
    let shaken = shake_hands(socket, deadline, wanted).await;
    metrics::count(match &shaken {
        Ok(secured) if secured.is_resumed => Counter::UpstreamHandshakesResumed,
        Ok(_) => Counter::UpstreamHandshakesFull,
        Err(_) => Counter::UpstreamHandshakesFailed,
    });
    if let Err(Cause::Tls(rustls::Error::InvalidCertificate(why))) = &shaken {
        metrics::count(reason(why));
    }
    shaken
}

async fn shake_hands(
    socket: &Socket,
    deadline: &Deadline,
    wanted: Wanted<'_>,
) -> Result<Secured, Cause> {
    let protocols = wanted.protocols.iter().map(|name| name.to_vec()).collect();
    let config = wanted.config.clone();
    let session = UnbufferedClientConnection::new_with_alpn(config, wanted.name, protocols)
        .map_err(|error| {
            tracing::error!(%error, "the TLS library cannot begin a handshake");
            Cause::Internal("the TLS library cannot begin a handshake")
        })?;
    let mut wire = Wire::new(socket, deadline, Vec::new(), wanted.timeout_key);
    let Established {
        parts,
        alpn,
        version,
        suite,
        is_resumed,
        client_certificate: _,
    } = Driver::new(session).drive(&mut wire).await?;
    Ok(Secured {
        parts,
        alpn,
        version,
        suite,
        is_resumed,
    })
}

/// The counter of certificates refused for `why`.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls's reasons are an open list, and the rest have a counter of their own"
)]
fn reason(why: &CertificateError) -> Counter {
    use CertificateError as E;
    match why {
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            Counter::UpstreamCertificatesExpired
        }
        E::UnknownIssuer => Counter::UpstreamCertificatesUntrusted,
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            Counter::UpstreamCertificatesMisnamed
        }
        _ => Counter::UpstreamCertificatesInvalid,
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
