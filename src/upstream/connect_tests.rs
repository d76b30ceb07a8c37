use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use bytes::BytesMut;

use super::*;
use crate::config::{Balance, Ejection, Offload, Upstream, UpstreamServer};
use crate::error::Side;
use crate::net::deadline::TICK;
use crate::net::file_threads::FileThreads;
use crate::net::rt::Driver;
use crate::net::stream::Received;
use crate::sys::probe;
use crate::upstream::{Group, Shared};

fn group(addresses: &[UpstreamAddress], connect: Duration) -> (Arc<Shared>, Group) {
    let server = |address: &UpstreamAddress| UpstreamServer {
        address: address.clone(),
        weight: 1,
        connections_max: None,
    };
    let config = Upstream {
        name: "app".to_owned(),
        balance: Balance::RoundRobin,
        servers: addresses.iter().map(server).collect(),
        connect,
        slow_start: Duration::ZERO,
        ejection: Ejection {
            failures: Some(1),
            ..Default::default()
        },
        resolve: Upstream::RESOLVE_DEFAULT,
        hash_key: Default::default(),
        proxy_protocol: None,
        tls: None,
        http: Default::default(),
        health: None,
    };
    let shared = Arc::new(Shared::new(Arc::new(config), None));
    (shared.clone(), Group::new(shared))
}

/// Runs `test` with a worker's connector and turning deadlines, on each driver.
fn on_each_driver(test: impl AsyncFn(Connector, Rc<StreamContext>)) {
    for driver in [Driver::Epoll, Driver::from(&probe::ring())] {
        let output = rt::block_on(driver, async {
            let deadlines = Deadlines::new();
            let turning = deadlines.clone();
            rt::spawn(async move {
                loop {
                    rt::sleep(TICK).await;
                    turning.turn(Instant::now());
                }
            });
            let connector = Connector::new(deadlines, Tcp::default());
            test(connector, Rc::new(context())).await;
        });
        output.unwrap();
    }
}

fn context() -> StreamContext {
    StreamContext {
        offload: Offload::default(),
        kernel: probe::kernel_tls(),
        send_progress: Duration::from_secs(30),
        records_per_key_max: 1 << 20,
        file_threads: FileThreads::start().unwrap().attach().unwrap(),
    }
}

/// A port on which nobody listens, kept from others for as long as the socket lives.
fn refused_port() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A listener whose queue is full, so that a further connection gets no answer at all.
fn full_listener() -> (TcpListener, Vec<std::net::TcpStream>, SocketAddr) {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let wait = Duration::from_millis(200);
    let mut fillers = Vec::new();
    while let Ok(filler) = std::net::TcpStream::connect_timeout(&address, wait) {
        fillers.push(filler);
        assert!(fillers.len() < 100);
    }
    (listener, fillers, address)
}

async fn speaks(stream: Stream, mut peer: impl Read + Write) {
    let (mut read, mut write) = stream.into_halves();
    write.send(&[io::IoSlice::new(b"ping")]).await.unwrap();
    let mut four = [0; 4];
    peer.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"ping");
    peer.write_all(b"pong").unwrap();
    drop(peer);
    let mut got = BytesMut::new();
    while let Received::Data(_) = read.receive(&mut got).await.unwrap() {}
    assert_eq!(got, "pong");
}

#[test]
fn tcp_and_unix_servers_are_connected_to() {
    on_each_driver(async |connector, context| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = UpstreamAddress::Ip(listener.local_addr().unwrap());
        let (shared, tcp) = group(&[address], Duration::from_secs(5));
        let lease = tcp.pick(None, &[], Instant::now()).unwrap();
        let connected = connector.connect(&lease, context.clone(), &[]);
        let stream = connected.await.unwrap().stream;
        speaks(stream, listener.accept().unwrap().0).await;
        assert_eq!(shared.open(0), 1);
        drop(lease);
        assert_eq!(shared.open(0), 0);

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let (_, unix) = group(&[UpstreamAddress::Unix(path)], Duration::from_secs(5));
        let lease = unix.pick(None, &[], Instant::now()).unwrap();
        let connected = connector.connect(&lease, context, &[]);
        let stream = connected.await.unwrap().stream;
        speaks(stream, listener.accept().unwrap().0).await;
    });
}

#[test]
fn a_refusal_is_the_servers_failure() {
    on_each_driver(async |connector, context| {
        let (_kept, address) = refused_port();
        let (shared, group) = group(&[UpstreamAddress::Ip(address)], Duration::from_secs(5));
        let lease = group.pick(None, &[], Instant::now()).unwrap();
        let refused = connector
            .connect(&lease, context.clone(), &[])
            .await
            .err()
            .unwrap();
        assert_eq!(
            (refused.side, refused.stage),
            (Side::Upstream, Stage::Connect)
        );
        assert!(shared.is_ejected(0, Instant::now()));
        let missing = UpstreamAddress::Unix("/nonexistent/socket".into());
        let (shared, group) = self::group(&[missing], Duration::from_secs(5));
        let lease = group.pick(None, &[], Instant::now()).unwrap();
        assert!(connector.connect(&lease, context, &[]).await.is_err());
        assert!(shared.is_ejected(0, Instant::now()));
    });
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    on_each_driver(async |connector, context| {
        let (_listener, _fillers, address) = full_listener();
        let (shared, group) = group(&[UpstreamAddress::Ip(address)], Duration::from_millis(250));
        let lease = group.pick(None, &[], Instant::now()).unwrap();
        let error = connector.connect(&lease, context, &[]).await.err().unwrap();
        assert!(
            matches!(error.cause, Cause::Timeout("upstream.connect_ms")),
            "{error}"
        );
        assert_eq!(error.side, Side::Upstream);
        assert!(shared.is_ejected(0, Instant::now()));
    });
}

#[test]
fn an_address_that_swallows_everything_leaves_time_for_the_next() {
    on_each_driver(async |connector, context| {
        let (_full, _fillers, silent) = full_listener();
        let (_kept, refused) = refused_port();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = UpstreamAddress::Name("app.test".to_owned(), 80);
        let (shared, group) = group(&[name], Duration::from_secs(1));
        shared.set_addresses(0, vec![silent, refused, listener.local_addr().unwrap()]);
        let lease = group.pick(None, &[], Instant::now()).unwrap();
        let connected = connector.connect(&lease, context, &[]);
        let stream = connected.await.unwrap().stream;
        speaks(stream, listener.accept().unwrap().0).await;
    });
}

#[test]
fn a_full_queue_of_a_unix_socket_is_waited_for() {
    on_each_driver(async |connector, context| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let listener = Rc::new(UnixListener::from(OwnedFd::from(socket)));
        let mut fillers = Vec::new();
        loop {
            let filler =
                socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).unwrap();
            match filler.connect(&SockAddr::unix(&path).unwrap()) {
                Ok(()) => fillers.push(filler),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        let (_, group) = group(&[UpstreamAddress::Unix(path)], Duration::from_secs(20));
        let lease = group.pick(None, &[], Instant::now()).unwrap();
        let accepting = listener.clone();
        rt::spawn(async move {
            for _ in 0..fillers.len() {
                accepting.accept().unwrap();
                rt::yield_turn().await;
            }
        });
        connector.connect(&lease, context, &[]).await.unwrap();
    });
}

#[test]
fn lack_of_descriptors_or_ports_is_not_the_servers_failure() {
    for code in [libc::EMFILE, libc::EADDRNOTAVAIL, libc::ENOMEM] {
        let error = blame(Cause::Io(io::Error::from_raw_os_error(code)));
        assert_eq!(error.side, Side::Us);
    }
    for code in [
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENOENT,
        libc::ETIMEDOUT,
    ] {
        let error = blame(Cause::Io(io::Error::from_raw_os_error(code)));
        assert_eq!(error.side, Side::Upstream);
    }
}
