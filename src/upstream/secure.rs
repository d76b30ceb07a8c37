//! TLS with a server of a group.

use std::rc::Rc;

use rustls::pki_types::ServerName;

use super::connect::{CONNECT_KEY, Connected};
use super::group::Shared;
use crate::config::UpstreamTls;
use crate::error::{Cause, Error, Stage};
use crate::net::deadline::Deadline;
use crate::net::socket::Socket;
use crate::net::stream::{Stream, StreamContext};
use crate::tls::client_config::ClientTls;
use crate::tls::handshake::client::{self, Secured, Wanted};

/// How TLS is spoken with one server.
pub(super) struct ServerTls<'a> {
    made: &'a ClientTls,
    config: &'a UpstreamTls,
    address: &'a crate::config::UpstreamAddress,
}

impl<'a> ServerTls<'a> {
    /// That of a group's server; `None` where plain text is spoken.
    pub(super) fn of(shared: &'a Shared, server: usize) -> Option<Self> {
        Some(Self {
            made: shared.tls()?,
            config: shared.config().tls.as_ref()?,
            address: &shared.config().servers.get(server)?.address,
        })
    }

    /// The handshake over `socket`, with `protocols` offered, within the deadline that the caller has
    /// armed.
    ///
    /// # Errors
    /// With the blame on the server, unless this program or its configuration is at fault.
    pub(super) async fn secure(
        &self,
        socket: Rc<Socket>,
        deadline: &Rc<Deadline>,
        context: Rc<StreamContext>,
        protocols: &[&[u8]],
    ) -> Result<Connected, Error> {
        let name = self.config.name_of(self.address);
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let Some(name) = name else {
            return Err(blame(Cause::Internal("a server without a name to verify")));
        };
        let wanted = Wanted {
            config: self.made.config(),
            name,
            protocols,
            timeout_key: CONNECT_KEY,
        };
        let secured = client::connect(&socket, deadline, wanted).await;
        let Secured { parts, alpn, .. } = secured.map_err(blame)?;
        let stream = Stream::tls(socket, deadline.clone(), context, parts).map_err(blame)?;
        Ok(Connected { stream, alpn })
    }
}

fn blame(cause: Cause) -> Error {
    match cause {
        Cause::Internal(_) => Error::us(Stage::Handshake, cause),
        Cause::Io(_)
        | Cause::Tls(_)
        | Cause::AlertReceived(_)
        | Cause::Record(_)
        | Cause::NoRekey
        | Cause::KeyExhausted
        | Cause::Protocol(_)
        | Cause::Truncated
        | Cause::Timeout(_)
        | Cause::Limit(_)
        | Cause::FileTruncated
        | Cause::File(_) => Error::upstream(Stage::Handshake, cause),
    }
}
