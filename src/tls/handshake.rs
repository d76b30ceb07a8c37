//! The server's handshake: rustls decides, this module moves the bytes.
//!
//! rustls is fed one record at a time, and nothing once the handshake is done: what follows the
//! client's Finished (a request in the same segment, a KeyUpdate) is never seen by rustls but goes
//! on to our own record layer. So the secrets can be extracted at that exact record, and no
//! KeyUpdate reply can be pending inside rustls and be lost.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;

use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConfig, SupportedCipherSuite};

use super::client_hello::{ClientHello, ClientHelloReader, Outcome};
use crate::buf;
use crate::error::{Cause, Error, Stage};
use crate::limits::{HANDSHAKE_BYTES_MAX, RECORD_HEADER_BYTES};
use crate::metrics::{self, Counter};
use crate::net::deadline::{Deadline, Wait};
use crate::net::socket::Socket;
use crate::net::stream::{KeySchedule, TlsParts};
use crate::record::{AlertDescription, TrafficKeys, encode};
use crate::sys;

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
    let begun = begin(socket, deadline).await?;
    begun.accept(socket, deadline, choose).await
}

/// Reads the ClientHello, within the deadline that the caller has armed.
///
/// # Errors
/// See [`NoSession`].
pub async fn begin(socket: &Socket, deadline: &Deadline) -> Result<Begun, NoSession> {
    let mut wire = Wire {
        socket,
        deadline,
        received: Vec::new(),
    };
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
        let wire = Wire {
            socket,
            deadline,
            received,
        };
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
        wire.send(&alert).await?;
        return Err(failed(Cause::Record("no site has the server name")));
    };
    let established = Driver::new(config)?.drive(&mut wire).await?;
    let Established {
        connection,
        version,
        unsent,
    } = established;
    let alpn = connection.alpn_protocol().map(Box::from);
    let suite = connection
        .negotiated_cipher_suite()
        .map_or(CipherSuite::Unknown(0), |suite| suite.suite());
    let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    let parts = extract(connection, unsent, wire.received)?;
    Ok(Handshaken {
        parts,
        server_name: hello.server_name,
        alpn,
        version,
        suite,
        is_resumed,
    })
}

/// The bytes of a handshake: what was received and not yet consumed.
struct Wire<'a> {
    socket: &'a Socket,
    deadline: &'a Deadline,
    received: Vec<u8>,
}

impl Wire<'_> {
    /// Receives what is there; zero at the end of the stream.
    async fn receive(&mut self) -> Result<usize, NoSession> {
        if self.received.len() >= HANDSHAKE_BYTES_MAX {
            return Err(failed(Cause::Protocol(
                "more than HANDSHAKE_BYTES_MAX unread",
            )));
        }
        loop {
            let room = HANDSHAKE_BYTES_MAX - self.received.len();
            let result = buf::with_receive_scratch(|scratch| {
                let scratch = scratch.get_mut(..room).unwrap_or_default();
                let count = sys::socket::receive(self.socket.descriptor(), scratch)?;
                self.received
                    .extend_from_slice(scratch.get(..count).unwrap_or_default());
                Ok(count)
            });
            match result {
                Ok(count) => return Ok(count),
                Err(error) if is_blocked(&error) => self.wait(pin!(self.socket.readable())).await?,
                Err(error) => return Err(NoSession::Failed(Error::client_io(STAGE, error))),
            }
        }
    }

    /// Sends all of `bytes`. A client that does not take them in is ended by the same deadline.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), NoSession> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match sys::socket::send(self.socket.descriptor(), rest, false) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if is_blocked(&error) => self.wait(pin!(self.socket.writable())).await?,
                Err(error) => return Err(NoSession::Failed(Error::client_io(STAGE, error))),
            }
        }
        Ok(())
    }

    /// Waits for `ready` as long as the handshake may take.
    async fn wait(
        &self,
        ready: Pin<&mut impl Future<Output = io::Result<()>>>,
    ) -> Result<(), NoSession> {
        match self.deadline.in_phase(ready).await {
            Ok(Wait::Ready { .. }) => Ok(()),
            Ok(Wait::Expired(_)) => Err(timed_out()),
            Err(error) => Err(NoSession::Failed(Error::us(STAGE, Cause::Io(error)))),
        }
    }
}

async fn read_client_hello(wire: &mut Wire<'_>) -> Result<ClientHello, NoSession> {
    let mut reader = ClientHelloReader::new();
    loop {
        match reader.read(&wire.received) {
            Outcome::Hello(hello) => return Ok(hello),
            Outcome::NotTls {
                looks_like_http: true,
            } => return Err(NoSession::PlainHttp),
            Outcome::NotTls {
                looks_like_http: false,
            } => {
                return Err(failed(Cause::Protocol("not TLS")));
            }
            Outcome::Invalid(error) => {
                let alert = encode::plaintext_alert_record(error.alert);
                wire.send(&alert).await?;
                return Err(failed(Cause::Record(error.reason)));
            }
            Outcome::NeedMore { .. } => {
                let is_first = wire.received.is_empty();
                match wire.receive().await {
                    Ok(1..) => {}
                    Ok(0) if is_first => return Err(NoSession::NeverBegan),
                    Ok(0) => return Err(truncated()),
                    Err(NoSession::Failed(error)) if is_first && is_reset(&error) => {
                        return Err(NoSession::NeverBegan);
                    }
                    Err(failure) => return Err(failure),
                }
            }
        }
    }
}

fn is_reset(error: &Error) -> bool {
    matches!(&error.cause, Cause::Io(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

struct Established {
    connection: UnbufferedServerConnection,
    version: ProtocolVersion,
    /// Sealed session tickets.
    unsent: Vec<u8>,
}

/// rustls with the bytes it has been shown and the bytes it wants sent.
struct Driver {
    connection: UnbufferedServerConnection,
    /// The end, in the wire's received bytes, of the records that rustls has been shown.
    fed: usize,
    outgoing: Vec<u8>,
}

/// What the handshake waits for.
enum Need {
    /// Another record.
    Record,
    /// `outgoing` to be sent.
    Send,
    /// Nothing: rustls has more to say.
    Nothing,
    /// Nothing: the handshake is done and everything is sent.
    Done,
}

impl Driver {
    fn new(config: Arc<ServerConfig>) -> Result<Box<Self>, NoSession> {
        let connection = UnbufferedServerConnection::new(config)
            .map_err(|error| NoSession::Failed(Error::us(STAGE, Cause::Tls(error))))?;
        Ok(Box::new(Self {
            connection,
            fed: 0,
            outgoing: Vec::new(),
        }))
    }

    async fn drive(mut self: Box<Self>, wire: &mut Wire<'_>) -> Result<Established, NoSession> {
        loop {
            match self.step(&mut wire.received) {
                Ok(Need::Nothing) => {}
                // RFC 8446 4.6.1: tickets may come at any time after the client's Finished, so they
                // share a segment with the first response if the request is there already.
                Ok(Need::Send) if self.is_tls13_done() && !wire.received.is_empty() => {}
                Ok(Need::Send) => {
                    wire.send(&self.outgoing).await?;
                    self.outgoing.clear();
                }
                Ok(Need::Record) => self.feed_next(wire).await?,
                Ok(Need::Done) => break,
                Err(error) => {
                    self.encode_alert();
                    // The client may be gone; what it did wrong is worth reporting all the same.
                    drop(wire.send(&self.outgoing).await);
                    return Err(failed(blame(error)));
                }
            }
        }
        let version = self
            .connection
            .protocol_version()
            .ok_or_else(|| failed(Cause::Internal("a handshake without a version")))?;
        self.count(version);
        Ok(Established {
            connection: self.connection,
            version,
            unsent: self.outgoing,
        })
    }

    fn is_tls13_done(&self) -> bool {
        !self.connection.is_handshaking()
            && self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Lets rustls look at the records fed so far.
    fn step(&mut self, received: &mut Vec<u8>) -> Result<Need, rustls::Error> {
        // Once the handshake is done rustls is shown nothing, so that it only gives out what it
        // still wants sent (its tickets).
        let end = if self.connection.is_handshaking() {
            self.fed
        } else {
            0
        };
        let fed = received.get_mut(..end).unwrap_or_default();
        let UnbufferedStatus { discard, state, .. } = self.connection.process_tls_records(fed);
        let need = match state? {
            ConnectionState::EncodeTlsData(mut data) => {
                encode_into(&mut self.outgoing, |room| data.encode(room))?;
                Need::Nothing
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Need::Send
            }
            ConnectionState::BlockedHandshake => Need::Record,
            ConnectionState::WriteTraffic(_) => Need::Done,
            // Early data is never enabled, and no record after the handshake is ever fed; a client
            // that closes during the handshake ends it.
            ConnectionState::PeerClosed | ConnectionState::Closed => {
                return Err(rustls::Error::AlertReceived(AlertDescription::CloseNotify));
            }
            ConnectionState::ReadTraffic(_) | ConnectionState::ReadEarlyData(_) | _ => {
                return Err(rustls::Error::General("data during the handshake".into()));
            }
        };
        let discard = discard.min(received.len());
        received.drain(..discard);
        self.fed = self.fed.saturating_sub(discard);
        // TLS 1.2 may send before it may receive; only both together are the end.
        if matches!(need, Need::Done) && self.connection.is_handshaking() {
            return Ok(Need::Record);
        }
        Ok(need)
    }

    /// Feeds one record more, receiving it if it is not there.
    async fn feed_next(&mut self, wire: &mut Wire<'_>) -> Result<(), NoSession> {
        loop {
            if let Some(bytes) = record_at(&wire.received, self.fed) {
                self.fed += bytes;
                return Ok(());
            }
            if wire.receive().await? == 0 {
                return Err(truncated());
            }
        }
    }

    /// Takes the alert that rustls wants sent after an error. Bounded: rustls gives it out in two
    /// steps and then repeats the error.
    fn encode_alert(&mut self) {
        for _ in 0..ALERT_STEPS_MAX {
            let UnbufferedStatus { state, .. } = self.connection.process_tls_records(&mut []);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if encode_into(&mut self.outgoing, |room| data.encode(room)).is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn count(&self, version: ProtocolVersion) {
        let is_resumed = self.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        metrics::count(match (version == ProtocolVersion::TLSv1_3, is_resumed) {
            (true, true) => Counter::HandshakesTls13Resumed,
            (true, false) => Counter::HandshakesTls13Full,
            (false, true) => Counter::HandshakesTls12Resumed,
            (false, false) => Counter::HandshakesTls12Full,
        });
    }
}

/// rustls's own failures are not the client's.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls's errors are an open list, of which all others are about what the peer sent"
)]
fn blame(error: rustls::Error) -> Cause {
    match error {
        rustls::Error::General(what) => {
            tracing::error!(what, "the TLS library failed");
            Cause::Internal("the TLS library failed")
        }
        rustls::Error::FailedToGetRandomBytes | rustls::Error::FailedToGetCurrentTime => {
            Cause::Internal("the TLS library lacks randomness or a clock")
        }
        other => Cause::Tls(other),
    }
}

/// The bytes of the whole record that begins at `start`, if it is there. The header's length is not
/// judged here: rustls refuses one that is too long, and the receive bound ends one that never
/// comes.
fn record_at(received: &[u8], start: usize) -> Option<usize> {
    let rest = received.get(start..)?;
    let [_, _, _, high, low] = *rest.first_chunk::<RECORD_HEADER_BYTES>()?;
    let bytes = RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    (rest.len() >= bytes).then_some(bytes)
}

fn encode_into(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), rustls::Error> {
    let start = outgoing.len();
    let mut room = ENCODE_ROOM_BYTES;
    loop {
        outgoing.resize(start + room, 0);
        match encode(outgoing.get_mut(start..).unwrap_or_default()) {
            Ok(count) => {
                outgoing.truncate(start + count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) if size.required_size > room => {
                room = size.required_size;
            }
            Err(error) => {
                outgoing.truncate(start);
                return Err(rustls::Error::General(error.to_string()));
            }
        }
    }
}

/// Takes the secrets out of a finished handshake.
fn extract(
    connection: UnbufferedServerConnection,
    unsent: Vec<u8>,
    received: Vec<u8>,
) -> Result<TlsParts, NoSession> {
    let us = |error| NoSession::Failed(Error::us(STAGE, Cause::Tls(error)));
    let unsupported = |_| failed(UNSUPPORTED);
    let (secrets, connection) = connection.dangerous_into_kernel_connection().map_err(us)?;
    let suite = connection.negotiated_cipher_suite();
    let send = TrafficKeys::from_rustls(suite, secrets.tx).map_err(unsupported)?;
    let receive = TrafficKeys::from_rustls(suite, secrets.rx).map_err(unsupported)?;
    let can_update = connection.protocol_version() == ProtocolVersion::TLSv1_3;
    let schedule =
        can_update.then(|| Box::new(ServerSchedule { connection, suite }) as Box<dyn KeySchedule>);
    Ok(TlsParts {
        send,
        receive,
        schedule,
        unsent,
        received,
    })
}

/// The key schedule of a TLS 1.3 session we served.
struct ServerSchedule {
    connection: KernelConnection<ServerConnectionData>,
    suite: SupportedCipherSuite,
}

impl KeySchedule for ServerSchedule {
    fn next_send(&mut self) -> Result<TrafficKeys, Cause> {
        let secrets = self.connection.update_tx_secret().map_err(Cause::Tls)?;
        TrafficKeys::from_rustls(self.suite, secrets).map_err(|_| UNSUPPORTED)
    }

    fn next_receive(&mut self) -> Result<TrafficKeys, Cause> {
        let secrets = self.connection.update_rx_secret().map_err(Cause::Tls)?;
        TrafficKeys::from_rustls(self.suite, secrets).map_err(|_| UNSUPPORTED)
    }
}

fn failed(cause: Cause) -> NoSession {
    NoSession::Failed(Error::on_connection(STAGE, cause))
}

fn timed_out() -> NoSession {
    metrics::count(Counter::TimeoutsHandshake);
    failed(Cause::Timeout("timeouts.handshake_ms"))
}

fn truncated() -> NoSession {
    failed(Cause::Truncated)
}

fn is_blocked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

const STAGE: Stage = Stage::Handshake;

const UNSUPPORTED: Cause = Cause::Internal("a suite without an AEAD of ours");

/// Room for one encoded message without asking for its size first; a certificate chain asks.
const ENCODE_ROOM_BYTES: usize = 2048;

/// Steps in which rustls gives out an alert: encode, transmit, and a ticket or two before it.
const ALERT_STEPS_MAX: usize = 8;

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
