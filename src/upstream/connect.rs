//! From a lease to a connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, TcpKeepalive, Type};

use super::group::Lease;
use super::health::Step;
use crate::config::{ProxyVersion, Tcp, Upstream, UpstreamAddress};
use crate::error::{Cause, Error, Stage};
use crate::metrics::{self, Counter};
use crate::net::deadline::{Deadline, Deadlines, Phase, Wait};
use crate::net::rt;
use crate::net::socket::Socket;
use crate::net::stream::{Stream, StreamContext};
use crate::proto::proxy_header::ProxyHeader;
use crate::sys;

/// What one worker connects with.
pub struct Connector {
    deadlines: Deadlines,
    tcp: Tcp,
}

/// A connection to a server.
pub struct Connected {
    /// What bytes go over.
    pub stream: Stream,
    /// The application protocol that was agreed on, where TLS is spoken and one was (RFC 7301).
    pub alpn: Option<Box<[u8]>>,
}

impl Connector {
    /// Connects under the deadlines of `deadlines`, with the TCP settings of `tcp`.
    pub fn new(deadlines: Deadlines, tcp: Tcp) -> Self {
        Self { deadlines, tcp }
    }

    /// Connects to the lease's server, to one of its addresses after the other, within the group's
    /// `connect_ms` in all, the TLS handshake included where the group speaks TLS: `protocols` are
    /// offered in it. The lease learns whether it worked.
    ///
    /// # Errors
    /// With the blame on the upstream: refused, unreachable, too slow, no session to be had. On us: no
    /// descriptor or port is left, which tells nothing about the server.
    pub async fn connect(
        &self,
        lease: &Lease,
        context: Rc<StreamContext>,
        protocols: &[&[u8]],
    ) -> Result<Connected, Error> {
        self.connect_for(lease, context, protocols, None).await
    }

    /// As [`Connector::connect`]; a group that speaks the PROXY protocol is told `introduction`, or
    /// without one that the connection is our own.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn connect_for(
        &self,
        lease: &Lease,
        context: Rc<StreamContext>,
        protocols: &[&[u8]],
        introduction: Option<&ProxyHeader>,
    ) -> Result<Connected, Error> {
        let began = Instant::now();
        let header = header_for(lease.group(), introduction);
        let deadline = Rc::new(self.deadlines.register());
        let within_time = self.within_time(lease, &deadline, context, (protocols, &header));
        let connected = within_time.await;
        match connected {
            Ok(connected) => {
                lease
                    .its_server()
                    .report_success(Step::Connect, began, Instant::now());
                metrics::count(Counter::UpstreamConnects);
                Ok(connected)
            }
            Err(error) => {
                metrics::count(Counter::UpstreamConnectsFailed);
                if error.side == crate::error::Side::Upstream {
                    lease
                        .its_server()
                        .report_failure(Step::Connect, began, Instant::now());
                }
                Err(error)
            }
        }
    }

    async fn within_time(
        &self,
        lease: &Lease,
        deadline: &Rc<Deadline>,
        context: Rc<StreamContext>,
        (protocols, header): (&[&[u8]], &[u8]),
    ) -> Result<Connected, Error> {
        let until = Instant::now() + lease.group().connect;
        let addresses = lease.addresses();
        let targets: Vec<Target<'_>> = match lease.address() {
            Some(UpstreamAddress::Unix(path)) => vec![Target::Unix(path)],
            _ => addresses.iter().copied().map(Target::Tcp).collect(),
        };
        let mut last = blame(Cause::Io(io::ErrorKind::AddrNotAvailable.into()));
        for (index, target) in targets.iter().enumerate() {
            // What is left is shared among the addresses left, so that one that swallows
            // everything leaves time for the next.
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(targets.len() - index).unwrap_or(u32::MAX);
            let share_ends = Instant::now() + share;
            let socket = match self
                .establish_within(share, (target, header), deadline)
                .await
            {
                Ok(socket) => Rc::new(socket),
                Err(cause) => {
                    last = blame(cause);
                    continue;
                }
            };
            let Some(tls) = lease.tls() else {
                let stream = Stream::plain(socket, deadline.clone(), context);
                return Ok(Connected { stream, alpn: None });
            };
            let left = share_ends.saturating_duration_since(Instant::now());
            deadline.arm(Phase::Handshake, left);
            let secured = Box::pin(tls.secure(socket, deadline, context.clone(), protocols)).await;
            deadline.disarm();
            match secured {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn establish_within(
        &self,
        time: Duration,
        (target, header): (&Target<'_>, &[u8]),
        deadline: &Deadline,
    ) -> Result<Socket, Cause> {
        let mut outcome = None;
        let wait = {
            let attempt = pin!(async {
                outcome = Some(introduce(establish(target, &self.tcp).await, header).await);
                Ok(())
            });
            deadline.to_send(time, attempt).await
        };
        match (wait, outcome) {
            (_, Some(Ok(socket))) => Ok(socket),
            (_, Some(Err(error))) => Err(Cause::Io(error)),
            (Err(error), None) => Err(Cause::Io(error)),
            (Ok(Wait::Ready { .. } | Wait::Expired(())), None) => Err(Cause::Timeout(CONNECT_KEY)),
        }
    }
}

/// The PROXY protocol's header for a connection to `group`; empty where none is spoken.
pub(super) fn header_for(group: &Upstream, introduction: Option<&ProxyHeader>) -> Vec<u8> {
    let mut header = Vec::new();
    let Some(version) = group.proxy_protocol else {
        return header;
    };
    let own = ProxyHeader::default();
    let told = introduction.unwrap_or(&own);
    match version {
        ProxyVersion::V1 => told.encode_1(&mut header),
        ProxyVersion::V2 => told.encode_2(&mut header, false),
    }
    header
}

/// Sends `header` first.
pub(super) async fn introduce(
    established: io::Result<Socket>,
    header: &[u8],
) -> io::Result<Socket> {
    let socket = established?;
    let mut rest = header;
    while !rest.is_empty() {
        match sys::socket::send(socket.descriptor(), rest, false) {
            Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(socket)
}

/// One address of a server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Tcp(SocketAddr),
    Unix(&'a Path),
}

/// Connects, for as long as the kernel tries.
pub(super) async fn establish(target: &Target<'_>, tcp: &Tcp) -> io::Result<Socket> {
    match target {
        Target::Tcp(address) => establish_tcp(*address, tcp).await,
        Target::Unix(path) => establish_unix(path).await,
    }
}

async fn establish_tcp(address: SocketAddr, tcp: &Tcp) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = socket2::Socket::new_raw(Domain::for_address(address), kind, None)?;
    set_options(&socket, tcp)?;
    let begun = socket.connect(&address.into());
    if let Err(error) = begun
        && error.raw_os_error() != Some(libc::EINPROGRESS)
    {
        return Err(error);
    }
    // Registered after connect(2): before it, epoll would report the idle socket as writable.
    let socket = Socket::adopt(OwnedFd::from(socket))?;
    socket.writable().await?;
    if let Some(error) = socket.take_error() {
        return Err(error);
    }
    refuse_self(&socket)?;
    Ok(socket)
}

/// A connect to a port of this machine's ephemeral range that nobody listens on may meet itself
/// (simultaneous open, RFC 9293 3.5): the kernel has then chosen that very port for our side.
fn refuse_self(socket: &Socket) -> io::Result<()> {
    let descriptor = socket.descriptor();
    let socket = socket2::SockRef::from(&descriptor);
    let (local, peer) = (socket.local_addr()?, socket.peer_addr()?);
    if local.as_socket() == peer.as_socket() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}

/// A Unix socket connects at once or not at all: EAGAIN says that the listener's queue is full, and
/// nothing tells when it is not (unix(7)). So it is asked again, with growing pauses.
async fn establish_unix(path: &Path) -> io::Result<Socket> {
    let address = SockAddr::unix(path)?;
    let mut pause = QUEUE_FULL_PAUSE;
    loop {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = socket2::Socket::new_raw(Domain::UNIX, kind, None)?;
        match socket.connect(&address) {
            Ok(()) => return Socket::adopt(OwnedFd::from(socket)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                rt::sleep(pause).await;
                pause = (pause * 2).min(QUEUE_FULL_PAUSE_MAX);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The same as for accepted connections.
fn set_options(socket: &socket2::Socket, tcp: &Tcp) -> io::Result<()> {
    socket.set_tcp_nodelay(tcp.nodelay)?;
    if let Some(idle) = tcp.keepalive_idle {
        let keepalive = TcpKeepalive::new()
            .with_time(idle)
            .with_interval(tcp.keepalive_interval)
            .with_retries(tcp.keepalive_probes_max);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    sys::socket::set_user_timeout(socket.as_fd(), tcp.user_timeout)?;
    match tcp.notsent_low_water_bytes {
        Some(bytes) => sys::socket::set_notsent_low_water(socket.as_fd(), bytes),
        None => Ok(()),
    }
}

/// What this machine lacks is not the server's doing.
fn blame(cause: Cause) -> Error {
    let is_ours = matches!(&cause, Cause::Io(error) if matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::EADDRNOTAVAIL
                | libc::EACCES
                | libc::EPERM
        )
    ));
    match is_ours {
        true => Error::us(Stage::Connect, cause),
        false => Error::upstream(Stage::Connect, cause),
    }
}

/// What bounds the time to connect.
pub(super) const CONNECT_KEY: &str = "upstream.connect_ms";

const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(1);
const QUEUE_FULL_PAUSE_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
