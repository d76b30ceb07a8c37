//! Whose connection it is: what proxies in front of this server say of it, and what servers behind it
//! are told (the PROXY protocol).

use std::io;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use rustls::{CipherSuite, ProtocolVersion};

use crate::buf;
use crate::error::{Cause, Error, Stage};
use crate::limits::PROXY_HEADER_BYTES_MAX;
use crate::metrics::{self, Counter};
use crate::net::deadline::{Deadline, Wait};
use crate::net::socket::Socket;
use crate::proto::proxy_header::{
    ProxyHeader, ShownCertificate, VALUE_ALPN, VALUE_AUTHORITY, Value, tls_session,
};
use crate::sys;
use crate::tls::client_auth::common_name;
use crate::tls::handshake::Handshaken;

/// Reads the header that a proxy sends first, within the deadline that the caller has armed. What came
/// behind it is left in `received`.
///
/// # Errors
/// With the blame on the proxy: what it sends is no header, or does not come in time.
pub(super) async fn read(
    socket: &Socket,
    deadline: &Deadline,
    received: &mut BytesMut,
) -> Result<ProxyHeader, Error> {
    match try_read(socket, deadline, received).await {
        Ok(header) => {
            metrics::count(Counter::ProxyHeaders);
            Ok(header)
        }
        Err(cause) => {
            metrics::count(Counter::ProxyHeadersRefused);
            Err(Error::on_connection(Stage::Accept, cause))
        }
    }
}

async fn try_read(
    socket: &Socket,
    deadline: &Deadline,
    received: &mut BytesMut,
) -> Result<ProxyHeader, Cause> {
    loop {
        // No more than a header may be long: what follows it is for others, within their bounds.
        let room = PROXY_HEADER_BYTES_MAX.saturating_sub(received.len());
        let result = buf::with_receive_scratch(|scratch| {
            let scratch = scratch.get_mut(..room).unwrap_or_default();
            let count = sys::socket::receive(socket.descriptor(), scratch)?;
            received.extend_from_slice(scratch.get(..count).unwrap_or_default());
            Ok::<_, io::Error>(count)
        });
        match result {
            Ok(0) => return Err(Cause::Truncated),
            Ok(_) => {
                let decoded = ProxyHeader::decode(received);
                if let Some(header) = decoded.map_err(|malformed| Cause::Protocol(malformed.0))? {
                    return Ok(header);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match deadline.in_phase(pin!(socket.readable())).await {
                    Ok(Wait::Ready { .. }) => {}
                    Ok(Wait::Expired(_)) => return Err(Cause::Timeout("timeouts.handshake_ms")),
                    Err(error) => return Err(Cause::Io(error)),
                }
            }
            Err(error) => return Err(Cause::Io(error)),
        }
    }
}

/// Adds what was agreed on with the client.
pub(super) fn add_session(header: &mut ProxyHeader, handshaken: &Handshaken) {
    if let Some(alpn) = &handshaken.alpn {
        header.values.push(Value {
            kind: VALUE_ALPN,
            content: Bytes::copy_from_slice(alpn),
        });
    }
    add_name(header, handshaken.server_name.as_deref());
    let version = match handshaken.version == ProtocolVersion::TLSv1_3 {
        true => "TLSv1.3",
        false => "TLSv1.2",
    };
    let suite = openssl_name(handshaken.suite);
    let certificate = handshaken.client_certificate.as_ref();
    let client = certificate.map(|certificate| ShownCertificate {
        common_name: common_name(certificate),
        is_resumed: handshaken.is_resumed,
    });
    header
        .values
        .push(tls_session(version, suite, client.as_ref()));
}

/// Adds the name that the client asked for.
pub(super) fn add_name(header: &mut ProxyHeader, name: Option<&str>) {
    if let Some(name) = name {
        header.values.push(Value {
            kind: VALUE_AUTHORITY,
            content: Bytes::copy_from_slice(name.as_bytes()),
        });
    }
}

/// The names that others write into this header.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls knows every suite there is, and we agree to these nine"
)]
fn openssl_name(suite: CipherSuite) -> &'static str {
    use CipherSuite as S;
    match suite {
        S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        S::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        S::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        S::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        _ => "unknown",
    }
}
