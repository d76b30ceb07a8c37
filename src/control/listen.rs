//! Listening sockets: one per worker and address, opened before any worker starts.
//!
//! The control thread keeps a descriptor of each, so that its options can follow a new
//! configuration while a worker accepts from it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::config::{Listener, Tcp};
use crate::sys;
use crate::worker::ListenerId;

/// The open listeners of a process.
#[derive(Debug)]
pub struct Listeners {
    workers: usize,
    open: Vec<Open>,
    next_id: usize,
}

/// One listener with its socket for each worker.
#[derive(Debug)]
struct Open {
    id: ListenerId,
    listener: Listener,
    bound: SocketAddr,
    sockets: Vec<OwnedFd>,
}

/// What a configuration makes of the listeners, with everything done that can fail and nothing that
/// can be seen from outside but new addresses that answer.
#[derive(Debug)]
pub struct Change {
    listeners: Vec<Planned>,
}

#[derive(Debug)]
enum Planned {
    /// The one that is open already.
    Keep(ListenerId, Listener),
    New(New),
}

#[derive(Debug)]
struct New {
    listener: Listener,
    bound: SocketAddr,
    sockets: Vec<OwnedFd>,
    /// The same sockets for the workers.
    doubles: Vec<OwnedFd>,
}

/// What workers have to be told of a [`Change`].
#[derive(Debug)]
pub struct Changed {
    /// By worker: its sockets of new listeners.
    pub open: Vec<Vec<(ListenerId, OwnedFd)>>,
    /// The listeners that the configuration does not have.
    pub close: Vec<ListenerId>,
    /// What is said of each listener, of those to close too.
    pub listeners: HashMap<ListenerId, Listener>,
}

impl Listeners {
    /// Nothing is open yet; there will be a socket for each of `workers`.
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            open: Vec::new(),
            next_id: 0,
        }
    }

    /// Opens what `wanted` has and is not open yet. A listener whose address stays, stays.
    ///
    /// # Errors
    /// See [`ListenError`]. Nothing is left open and nothing has changed.
    pub fn plan(&self, wanted: &[Listener], tcp: &Tcp) -> Result<Change, ListenError> {
        let mut unclaimed: Vec<&Open> = self.open.iter().collect();
        let mut listeners = Vec::with_capacity(wanted.len());
        for listener in wanted {
            let is_same = |open: &&Open| {
                let old = &open.listener;
                (old.address, old.ipv6_only) == (listener.address, listener.ipv6_only)
            };
            listeners.push(match unclaimed.iter().position(is_same) {
                Some(index) => Planned::Keep(unclaimed.remove(index).id, listener.clone()),
                None => Planned::New(self.open_new(listener, tcp)?),
            });
        }
        Ok(Change { listeners })
    }

    /// Carries `change` out. What is closed here goes on in the workers until they close it too.
    pub fn apply(&mut self, change: Change, tcp: &Tcp) -> Changed {
        let mut changed = Changed {
            open: (0..self.workers).map(|_| Vec::new()).collect(),
            close: Vec::new(),
            listeners: HashMap::new(),
        };
        let mut before = std::mem::take(&mut self.open);
        for open in &before {
            changed.listeners.insert(open.id, open.listener.clone());
        }
        for planned in change.listeners {
            let open = match planned {
                Planned::Keep(id, listener) => {
                    let Some(index) = before.iter().position(|open| open.id == id) else {
                        continue;
                    };
                    let mut open = before.swap_remove(index);
                    open.listener = listener;
                    open.update(tcp);
                    open
                }
                Planned::New(new) => {
                    let id = ListenerId(self.next_id);
                    self.next_id += 1;
                    for (double, open) in new.doubles.into_iter().zip(&mut changed.open) {
                        open.push((id, double));
                    }
                    Open {
                        id,
                        listener: new.listener,
                        bound: new.bound,
                        sockets: new.sockets,
                    }
                }
            };
            changed.listeners.insert(open.id, open.listener.clone());
            self.open.push(open);
        }
        changed.close = before.into_iter().map(|open| open.id).collect();
        changed
    }

    /// Each listener with the address it is bound to, in the configuration's order.
    pub fn bound(&self) -> impl Iterator<Item = (&Listener, SocketAddr)> {
        self.open.iter().map(|open| (&open.listener, open.bound))
    }

    /// Lets go of all sockets: an address is free as soon as the workers have closed it.
    pub fn release(&mut self) {
        self.open.clear();
    }

    fn open_new(&self, listener: &Listener, tcp: &Tcp) -> Result<New, ListenError> {
        let failed = |error| ListenError {
            address: listener.address,
            error,
        };
        // The port may be ours, under an address that overlaps and is to close.
        let port = listener.address.port();
        if self.open.iter().all(|open| open.bound.port() != port) {
            refuse_shared(listener).map_err(failed)?;
        }
        let (bound, sockets) = open(listener, tcp, self.workers)?;
        let doubles: io::Result<_> = sockets.iter().map(OwnedFd::try_clone).collect();
        Ok(New {
            listener: listener.clone(),
            bound,
            sockets,
            doubles: doubles.map_err(failed)?,
        })
    }
}

impl Open {
    /// Brings its sockets' options up to date. The connections it makes from now on have them.
    fn update(&self, tcp: &Tcp) {
        for socket in &self.sockets {
            let socket = SockRef::from(socket);
            // listen(2) on a socket that listens already changes the length of its queue alone.
            let updated = set_options(&socket, tcp).and_then(|()| listen(&socket, &self.listener));
            if let Err(error) = updated {
                tracing::warn!(address = %self.bound, %error, "cannot change a listener's options");
            }
        }
    }
}

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
fn open(
    listener: &Listener,
    tcp: &Tcp,
    count: usize,
) -> Result<(SocketAddr, Vec<OwnedFd>), ListenError> {
    let mut address = listener.address;
    let failed = |address| move |error| ListenError { address, error };
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = bind(listener, address, true).map_err(failed(address))?;
        set_options(&SockRef::from(&socket), tcp).map_err(failed(address))?;
        listen(&SockRef::from(&socket), listener).map_err(failed(address))?;
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

fn listen(socket: &Socket, listener: &Listener) -> io::Result<()> {
    socket.listen(i32::try_from(listener.backlog).unwrap_or(i32::MAX))
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
    match tcp.keepalive_idle {
        Some(idle) => {
            let keepalive = TcpKeepalive::new()
                .with_time(idle)
                .with_interval(tcp.keepalive_interval)
                .with_retries(tcp.keepalive_probes_max);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        None => socket.set_keepalive(false)?,
    }
    sys::socket::set_user_timeout(socket.as_fd(), tcp.user_timeout)?;
    // 0 is the kernel's own net.ipv4.tcp_notsent_lowat.
    let bytes = tcp.notsent_low_water_bytes.unwrap_or(0);
    sys::socket::set_notsent_low_water(socket.as_fd(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Service;
    use std::net::{TcpListener, TcpStream};

    fn listener(address: &str) -> Listener {
        Listener {
            proxy_protocol: None,
            address: address.parse().unwrap(),
            ipv6_only: false,
            backlog: 16,
            service: Service::Https,
            access: Default::default(),
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
        let second = Listener { address, ..first };
        let error = Listeners::new(1)
            .plan(&[second], &Tcp::default())
            .unwrap_err();
        assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another process"), "{error}");
    }

    /// Carries out what `addresses` ask for.
    fn change(listeners: &mut Listeners, addresses: &[Listener], tcp: &Tcp) -> Changed {
        let change = listeners.plan(addresses, tcp).unwrap();
        listeners.apply(change, tcp)
    }

    fn ids(changed: &Changed) -> Vec<Vec<usize>> {
        let mut ids = Vec::new();
        for open in &changed.open {
            ids.push(open.iter().map(|(id, _)| id.0).collect());
        }
        ids
    }

    #[test]
    fn a_change_opens_what_is_new_keeps_what_stays_and_names_what_goes() {
        let tcp = Tcp::default();
        let mut listeners = Listeners::new(2);
        let (a, b) = (listener("127.0.0.1:0"), listener("127.0.0.2:0"));
        let first = change(&mut listeners, std::slice::from_ref(&a), &tcp);
        assert_eq!(
            (ids(&first), first.close.len()),
            (vec![vec![0], vec![0]], 0)
        );
        let (_, bound) = listeners.bound().next().unwrap();

        let redirect = Listener {
            service: Service::RedirectToHttps { port: 443 },
            ..a.clone()
        };
        let second = change(&mut listeners, &[b.clone(), redirect.clone()], &tcp);
        assert_eq!(
            (ids(&second), second.close.len()),
            (vec![vec![1], vec![1]], 0)
        );
        assert_eq!(second.listeners[&ListenerId(0)], redirect);
        assert_eq!(listeners.bound().nth(1).unwrap().1, bound);

        let third = change(&mut listeners, &[b], &tcp);
        assert_eq!(ids(&third), [Vec::<usize>::new(), Vec::new()]);
        assert_eq!(third.close, [ListenerId(0)]);
        // Those in its queue are still to be served.
        assert_eq!(third.listeners[&ListenerId(0)], redirect);
    }

    #[test]
    fn an_address_that_overlaps_one_of_ours_can_replace_it() {
        let tcp = Tcp::default();
        let mut listeners = Listeners::new(1);
        change(&mut listeners, &[listener("127.0.0.1:0")], &tcp);
        let (_, bound) = listeners.bound().next().unwrap();
        let any = listener(&format!("0.0.0.0:{}", bound.port()));
        let changed = change(&mut listeners, &[any], &tcp);
        assert_eq!(ids(&changed), [[1]]);
        assert_eq!(changed.close, [ListenerId(0)]);
    }

    #[test]
    fn a_plan_that_fails_changes_nothing() {
        let tcp = Tcp::default();
        let mut listeners = Listeners::new(1);
        change(&mut listeners, &[listener("127.0.0.1:0")], &tcp);
        let before: Vec<SocketAddr> = listeners.bound().map(|(_, bound)| bound).collect();
        // RFC 5737: nobody has that address.
        let wanted = [listener("127.0.0.2:0"), listener("192.0.2.1:0")];
        assert!(listeners.plan(&wanted, &tcp).is_err());
        let after: Vec<SocketAddr> = listeners.bound().map(|(_, bound)| bound).collect();
        assert_eq!(before, after);
        TcpStream::connect(before[0]).unwrap();
    }

    #[test]
    fn what_stays_follows_the_options() {
        let mut listeners = Listeners::new(1);
        let wanted = [listener("127.0.0.1:0")];
        change(&mut listeners, &wanted, &Tcp::default());
        let tcp = Tcp {
            keepalive_idle: None,
            nodelay: false,
            ..Tcp::default()
        };
        change(&mut listeners, &wanted, &tcp);
        let socket = SockRef::from(&listeners.open[0].sockets[0]);
        assert!(!socket.keepalive().unwrap());
        assert!(!socket.tcp_nodelay().unwrap());
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
