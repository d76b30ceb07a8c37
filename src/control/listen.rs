//! Listening sockets: one per worker and address, opened before any worker starts.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::config::{Listener, Tcp};
use crate::sys;

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, error } = self;
        write!(f, "cannot listen on {address}: {error}")?;
        if error.kind() == io::ErrorKind::AddrInUse {
            write!(
                f,
                "\n  another process has port {0}: `ss -ltnp 'sport = :{0}'` names it; stop it or \
                 choose another port",
                address.port()
            )?;
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            f.write_str(
                "\n  ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE: \
                 start as root, `setcap cap_net_bind_service=+ep` the program, or choose a higher \
                 port",
            )?;
        } else if error.kind() == io::ErrorKind::AddrNotAvailable {
            f.write_str("\n  no interface of this machine has that address")?;
        }
        Ok(())
    }
}

impl std::error::Error for ListenError {}

/// Opens `count` sockets that share `listener`'s address by SO_REUSEPORT: the kernel spreads new
/// connections over them. Gives them with the address they are bound to (the port is chosen by the
/// kernel when it was 0).
///
/// # Errors
/// See [`ListenError`].
pub fn open(
    listener: &Listener,
    tcp: &Tcp,
    count: usize,
) -> Result<(SocketAddr, Vec<OwnedFd>), ListenError> {
    let mut address = listener.address;
    let failed = |address| move |error| ListenError { address, error };
    refuse_shared(listener).map_err(failed(address))?;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = bind(listener, address, true).map_err(failed(address))?;
        set_options(&socket, tcp).map_err(failed(address))?;
        let backlog = i32::try_from(listener.backlog).unwrap_or(i32::MAX);
        socket.listen(backlog).map_err(failed(address))?;
        let bound = socket.local_addr().map_err(failed(address))?;
        address = bound.as_socket().unwrap_or(address);
        sockets.push(OwnedFd::from(socket));
    }
    Ok((address, sockets))
}

/// SO_REUSEPORT would silently share the port with another process of the same user, and each would
/// get a part of the connections. A socket without it cannot be bound then, so one is tried first.
fn refuse_shared(listener: &Listener) -> io::Result<()> {
    if listener.address.port() == 0 {
        return Ok(());
    }
    bind(listener, listener.address, false).map(drop)
}

fn bind(listener: &Listener, address: SocketAddr, is_shared: bool) -> io::Result<Socket> {
    // Non-blocking and close-on-exec come with the type on Linux, in the same call.
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(listener.ipv6_only)?;
    }
    // Connections of an earlier process that linger in TIME_WAIT do not hold the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(is_shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets the options of accepted connections on their listener: Linux copies them to each connection
/// it makes, so none costs a system call per connection.
fn set_options(socket: &Socket, tcp: &Tcp) -> io::Result<()> {
    use std::os::fd::AsFd;
    socket.set_tcp_nodelay(tcp.nodelay)?;
    if let Some(idle) = tcp.keepalive_idle {
        let keepalive = TcpKeepalive::new()
            .with_time(idle)
            .with_interval(tcp.keepalive_interval)
            .with_retries(tcp.keepalive_probes_max);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    sys::socket::set_user_timeout(socket.as_fd(), tcp.user_timeout)?;
    if let Some(bytes) = tcp.notsent_low_water_bytes {
        sys::socket::set_notsent_low_water(socket.as_fd(), bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Service;
    use std::net::{TcpListener, TcpStream};

    fn listener(address: &str) -> Listener {
        Listener {
            address: address.parse().unwrap(),
            ipv6_only: false,
            backlog: 16,
            service: Service::Https,
        }
    }

    #[test]
    fn workers_share_one_port_that_the_kernel_chose() {
        let (address, sockets) = open(&listener("127.0.0.1:0"), &Tcp::default(), 3).unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(sockets.len(), 3);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn a_port_in_use_is_refused_even_where_reuseport_would_share_it() {
        let first = listener("127.0.0.1:0");
        let (address, _sockets) = open(&first, &Tcp::default(), 1).unwrap();
        let error = open(&Listener { address, ..first }, &Tcp::default(), 1).unwrap_err();
        assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another process"), "{error}");
    }

    #[test]
    fn accepted_connections_inherit_the_options() {
        let tcp = Tcp::default();
        let (address, mut sockets) = open(&listener("127.0.0.1:0"), &tcp, 1).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let server = TcpListener::from(sockets.remove(0));
        server.set_nonblocking(false).unwrap();
        let accepted = Socket::from(server.accept().unwrap().0);
        assert_eq!(accepted.tcp_nodelay().unwrap(), tcp.nodelay);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(
            accepted.tcp_keepalive_time().unwrap(),
            tcp.keepalive_idle.unwrap()
        );
        assert_eq!(accepted.tcp_user_timeout().unwrap(), tcp.user_timeout);
    }

    #[test]
    fn dual_stack_takes_both_families() {
        let (address, _sockets) = open(&listener("[::]:0"), &Tcp::default(), 1).unwrap();
        TcpStream::connect(("127.0.0.1", address.port())).unwrap();
        TcpStream::connect(("::1", address.port())).unwrap();
    }
}
