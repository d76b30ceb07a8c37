//! What the handshakes of both roles share: rustls decides, this module moves the bytes.
//!
//! rustls is fed one record at a time, and nothing once the handshake is done: what follows the
//! peer's Finished (a request in the same segment, a session ticket, a KeyUpdate) is never seen by
//! rustls but goes on to our own record layer. So the secrets can be extracted at that exact record,
//! and no KeyUpdate reply can be pending inside rustls and be lost.

use std::io;
use std::pin::{Pin, pin};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{
    CipherSuite, CommonState, ExtractedSecrets, HandshakeKind, ProtocolVersion,
    SupportedCipherSuite,
};

use crate::buf;
use crate::error::Cause;
use crate::limits::{HANDSHAKE_BYTES_MAX, RECORD_HEADER_BYTES, RECORD_PLAINTEXT_BYTES_MAX};
use crate::net::deadline::{Deadline, Wait};
use crate::net::socket::Socket;
use crate::net::stream::{KeySchedule, TlsParts};
use crate::record::{AlertDescription, Role, TrafficKeys};
use crate::sys;

/// A session that has been established.
pub(super) struct Established {
    pub(super) parts: TlsParts,
    pub(super) alpn: Option<Box<[u8]>>,
    pub(super) version: ProtocolVersion,
    pub(super) suite: CipherSuite,
    pub(super) is_resumed: bool,
    /// The client's certificate, where it was asked for one and has one.
    pub(super) client_certificate: Option<CertificateDer<'static>>,
}

/// The bytes of a handshake: what was received and not yet consumed.
pub(super) struct Wire<'a> {
    socket: &'a Socket,
    deadline: &'a Deadline,
    pub(super) received: Vec<u8>,
    /// Nothing has been received since something was sent, so what comes next has yet to travel here.
    is_answer_due: bool,
    /// The configuration key that sets the deadline.
    timeout_key: &'static str,
}

impl<'a> Wire<'a> {
    /// The bytes of `socket`, of which `received` have come already.
    pub(super) fn new(
        socket: &'a Socket,
        deadline: &'a Deadline,
        received: Vec<u8>,
        timeout_key: &'static str,
    ) -> Self {
        Self {
            socket,
            deadline,
            received,
            is_answer_due: false,
            timeout_key,
        }
    }

    /// Receives what is there; zero at the end of the stream.
    pub(super) async fn receive(&mut self) -> Result<usize, Cause> {
        if self.received.len() >= HANDSHAKE_BYTES_MAX {
            return Err(Cause::Protocol("more than HANDSHAKE_BYTES_MAX unread"));
        }
        if std::mem::take(&mut self.is_answer_due) {
            // A receive would find nothing.
            self.wait(pin!(self.socket.readable())).await?;
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
                Err(error) => return Err(Cause::Io(error)),
            }
        }
    }

    /// Sends all of `bytes`. A peer that does not take them in is ended by the same deadline.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        let mut rest = bytes;
        self.is_answer_due = true;
        while !rest.is_empty() {
            match sys::socket::send(self.socket.descriptor(), rest, false) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if is_blocked(&error) => self.wait(pin!(self.socket.writable())).await?,
                Err(error) => return Err(Cause::Io(error)),
            }
        }
        Ok(())
    }

    /// Waits for `ready` as long as the handshake may take.
    async fn wait(
        &self,
        ready: Pin<&mut impl Future<Output = io::Result<()>>>,
    ) -> Result<(), Cause> {
        match self.deadline.in_phase(ready).await {
            Ok(Wait::Ready { .. }) => Ok(()),
            Ok(Wait::Expired(_)) => Err(Cause::Timeout(self.timeout_key)),
            Err(error) => Err(Cause::Io(error)),
        }
    }
}

/// One side of a handshake, as rustls has it.
pub(super) trait Session {
    type Data;
    const ROLE: Role;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8])
    -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &CommonState;

    fn into_kernel(self)
    -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error>;
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const ROLE: Role = Role::Server;

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_kernel(
        self,
    ) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const ROLE: Role = Role::Client;

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_kernel(
        self,
    ) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), rustls::Error> {
        self.dangerous_into_kernel_connection()
    }
}

/// rustls with the bytes it has been shown and the bytes it wants sent.
pub(super) struct Driver<S> {
    session: S,
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

impl<S: Session> Driver<S>
where
    S::Data: 'static,
    KernelConnection<S::Data>: KeepTicket,
{
    pub(super) fn new(session: S) -> Box<Self> {
        Box::new(Self {
            session,
            fed: 0,
            outgoing: Vec::new(),
        })
    }

    /// Drives the handshake to its end. When the peer is at fault it has been sent the alert that
    /// RFC 8446 6.2 wants.
    pub(super) async fn drive(
        mut self: Box<Self>,
        wire: &mut Wire<'_>,
    ) -> Result<Established, Cause> {
        loop {
            match self.step(&mut wire.received) {
                Ok(Need::Nothing) => {}
                Ok(Need::Send) if self.may_wait_for_data() && !wire.received.is_empty() => {}
                Ok(Need::Send) => {
                    wire.send(&self.outgoing).await?;
                    self.outgoing.clear();
                }
                Ok(Need::Record) => self.feed_next(wire).await?,
                Ok(Need::Done) => break,
                Err(error) => {
                    self.encode_alert();
                    // The peer may be gone; what it did wrong is worth reporting all the same.
                    drop(wire.send(&self.outgoing).await);
                    return Err(blame(error));
                }
            }
        }
        let Self {
            session, outgoing, ..
        } = *self;
        extract(session, outgoing, std::mem::take(&mut wire.received))
    }

    /// Whether what is to be sent can share a segment with the first data. RFC 8446 4.6.1: tickets
    /// may come at any time after the client's Finished, so they go with the first response if the
    /// request is there already. A client's own Finished is waited for.
    fn may_wait_for_data(&self) -> bool {
        let common = self.session.common();
        S::ROLE == Role::Server
            && !common.is_handshaking()
            && common.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Lets rustls look at the records fed so far.
    fn step(&mut self, received: &mut Vec<u8>) -> Result<Need, rustls::Error> {
        // Once the handshake is done rustls is shown nothing, so that it only gives out what it
        // still wants sent (its tickets).
        let end = if self.session.common().is_handshaking() {
            self.fed
        } else {
            0
        };
        let need = self.process(received, end);
        // TLS 1.2 may send before it may receive; only both together are the end.
        if matches!(need, Ok(Need::Done)) && self.session.common().is_handshaking() {
            return Ok(Need::Record);
        }
        need
    }

    /// Shows rustls the first `end` bytes, and takes out those that it has done with.
    fn process(&mut self, received: &mut Vec<u8>, end: usize) -> Result<Need, rustls::Error> {
        let fed = received.get_mut(..end).unwrap_or_default();
        let UnbufferedStatus { discard, state, .. } = self.session.process(fed);
        let need = match state {
            Err(error) => Err(error),
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode_into(&mut self.outgoing, |room| data.encode(room)).map(|()| Need::Nothing)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Need::Send)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Need::Record),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Need::Done),
            // Early data is never enabled, and no record after the handshake is ever fed; a peer
            // that closes during the handshake ends it.
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                Err(rustls::Error::AlertReceived(AlertDescription::CloseNotify))
            }
            Ok(ConnectionState::ReadTraffic(_) | ConnectionState::ReadEarlyData(_) | _) => {
                Err(rustls::Error::General("data during the handshake".into()))
            }
        };
        let discard = discard.min(received.len());
        received.drain(..discard);
        self.fed = self.fed.saturating_sub(discard);
        need
    }

    /// Feeds one record more, receiving it if it is not there.
    async fn feed_next(&mut self, wire: &mut Wire<'_>) -> Result<(), Cause> {
        loop {
            match next_record(&wire.received, self.fed) {
                Next::Whole(bytes) => {
                    self.fed += bytes;
                    return Ok(());
                }
                Next::Malformed => {
                    self.fed = wire.received.len();
                    return Ok(());
                }
                Next::Incomplete => {}
            }
            if wire.receive().await? == 0 {
                return Err(Cause::Truncated);
            }
        }
    }

    /// Takes the alert that rustls wants sent after an error, and what it wanted sent before. Only as
    /// long as there is something: otherwise it would look at the records again that it has refused.
    fn encode_alert(&mut self) {
        while self.session.common().wants_write() {
            if self.process(&mut Vec::new(), 0).is_err() {
                return;
            }
        }
    }
}

/// Takes the secrets out of a finished handshake.
fn extract<S>(session: S, unsent: Vec<u8>, received: Vec<u8>) -> Result<Established, Cause>
where
    S: Session,
    S::Data: 'static,
    KernelConnection<S::Data>: KeepTicket,
{
    let common = session.common();
    let alpn = common.alpn_protocol().map(Box::from);
    let is_resumed = common.handshake_kind() == Some(HandshakeKind::Resumed);
    let client_certificate = match S::ROLE {
        Role::Server => common
            .peer_certificates()
            .and_then(|chain| chain.first())
            .cloned(),
        Role::Client => None,
    };
    let (secrets, connection) = session.into_kernel().map_err(|error| {
        tracing::error!(%error, "the TLS library gives no secrets");
        Cause::Internal("the TLS library gives no secrets")
    })?;
    let suite = connection.negotiated_cipher_suite();
    let version = connection.protocol_version();
    let send = TrafficKeys::from_rustls(suite, secrets.tx).map_err(|_| UNSUPPORTED)?;
    let receive = TrafficKeys::from_rustls(suite, secrets.rx).map_err(|_| UNSUPPORTED)?;
    let can_update = version == ProtocolVersion::TLSv1_3;
    let schedule =
        can_update.then(|| Box::new(Schedule { connection, suite }) as Box<dyn KeySchedule>);
    Ok(Established {
        parts: TlsParts {
            role: S::ROLE,
            send,
            receive,
            schedule,
            unsent: kept(unsent),
            received: kept(received),
        },
        alpn,
        version,
        suite: suite.suite(),
        is_resumed,
        client_certificate,
    })
}

/// What a connection keeps of a buffer of the handshake: its bytes, not the memory of an empty one, 4 KiB
/// of which would be as much as an idle connection takes otherwise.
fn kept(buffer: Vec<u8>) -> Vec<u8> {
    match buffer.is_empty() {
        true => Vec::new(),
        false => buffer,
    }
}

/// The key schedule of a TLS 1.3 session.
struct Schedule<D> {
    connection: KernelConnection<D>,
    suite: SupportedCipherSuite,
}

impl<D> KeySchedule for Schedule<D>
where
    KernelConnection<D>: KeepTicket,
{
    fn next_send(&mut self) -> Result<TrafficKeys, Cause> {
        let secrets = self.connection.update_tx_secret().map_err(Cause::Tls)?;
        TrafficKeys::from_rustls(self.suite, secrets).map_err(|_| UNSUPPORTED)
    }

    fn next_receive(&mut self) -> Result<TrafficKeys, Cause> {
        let secrets = self.connection.update_rx_secret().map_err(Cause::Tls)?;
        TrafficKeys::from_rustls(self.suite, secrets).map_err(|_| UNSUPPORTED)
    }

    fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), Cause> {
        self.connection.keep_ticket(ticket).map_err(Cause::Tls)
    }
}

/// What a session does with a ticket.
pub(super) trait KeepTicket {
    fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), rustls::Error>;
}

impl KeepTicket for KernelConnection<ServerConnectionData> {
    /// Clients send none, and the record layer refuses them.
    fn keep_ticket(&mut self, _ticket: &[u8]) -> Result<(), rustls::Error> {
        Ok(())
    }
}

impl KeepTicket for KernelConnection<ClientConnectionData> {
    fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), rustls::Error> {
        self.handle_new_session_ticket(ticket)
    }
}

/// rustls's own failures are not the peer's.
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

/// What begins at some place of what was received.
enum Next {
    /// A record of so many bytes.
    Whole(usize),
    /// The beginning of a record.
    Incomplete,
    /// What is no record, nor will be one: rustls refuses it and has its alert.
    Malformed,
}

fn next_record(received: &[u8], start: usize) -> Next {
    let rest = received.get(start..).unwrap_or_default();
    let Some(&[kind, _, _, high, low]) = rest.first_chunk::<RECORD_HEADER_BYTES>() else {
        return Next::Incomplete;
    };
    let payload = usize::from(u16::from_be_bytes([high, low]));
    let bytes = RECORD_HEADER_BYTES + payload;
    match rest.len() >= bytes {
        true => Next::Whole(bytes),
        // RFC 8446 5.1, and what RFC 5246 6.2.3 lets protection add.
        false if !CONTENT_TYPES.contains(&kind) || payload > TLS12_PAYLOAD_BYTES_MAX => {
            Next::Malformed
        }
        false => Next::Incomplete,
    }
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

fn is_blocked(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

const UNSUPPORTED: Cause = Cause::Internal("a suite without an AEAD of ours");

/// From change_cipher_spec to application_data.
const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=23;

const TLS12_PAYLOAD_BYTES_MAX: usize = RECORD_PLAINTEXT_BYTES_MAX + 2048;

/// Room for one encoded message without asking for its size first; a certificate chain asks.
const ENCODE_ROOM_BYTES: usize = 2048;
