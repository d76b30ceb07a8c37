//! What the tests of streams share: a stream on a worker's runtime, and a peer made of this crate's
//! own record layer on a blocking socket, in a thread of its own.
//!
//! The two sides meet only through the connection, channels, and [`Peer::wait_until_taken`]: nothing
//! here waits for time to pass.

#![expect(
    clippy::cast_possible_truncation,
    reason = "tests fill keys and payloads with the low bytes of numbers"
)]

use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Poll, Waker};
use std::time::Instant;

use super::*;
use crate::net::deadline::{Deadlines, Phase};
use crate::net::file_threads::FileThreads;
use crate::net::rt::Driver;
use crate::record::tests::{Material, SUITES};
use crate::record::{ContentType, Opened, Opener, Sealer, Version, encode};
use crate::sys::probe::{Ring, TlsRefusal, kernel_tls, ring};

/// What a connection is made with.
#[derive(Clone)]
pub(in crate::net) struct Setup {
    /// An index into [`SUITES`]; without one there is no TLS.
    pub(in crate::net) suite: Option<usize>,
    pub(in crate::net) policy: OffloadPolicy,
    pub(in crate::net) kernel: KernelTls,
    pub(in crate::net) records_per_key_max: u64,
    /// See [`Offload::sent_bytes_min`].
    pub(in crate::net) sent_bytes_min: u64,
    /// Both sockets hold little, so that a send blocks soon.
    pub(in crate::net) small_buffers: bool,
    /// The peer can see what our side has not yet taken from its socket.
    pub(in crate::net) is_watched: bool,
}

impl Setup {
    /// A connection that stays in user space.
    pub(in crate::net) fn user(suite: usize) -> Self {
        Self {
            suite: Some(suite),
            policy: OffloadPolicy::Never,
            sent_bytes_min: u64::MAX,
            kernel: KernelTls::refused(TlsRefusal::NoModule),
            records_per_key_max: u64::MAX,
            small_buffers: false,
            is_watched: false,
        }
    }

    /// A connection without TLS.
    pub(in crate::net) fn plain() -> Self {
        Self {
            suite: None,
            ..Self::user(0)
        }
    }

    /// A connection that the kernel takes over at once, as far as it can.
    pub(in crate::net) fn kernel(suite: usize) -> Self {
        Self {
            policy: OffloadPolicy::Always,
            kernel: this_kernel().clone(),
            ..Self::user(suite)
        }
    }

    pub(in crate::net) fn with_small_buffers(self) -> Self {
        Self {
            small_buffers: true,
            ..self
        }
    }

    pub(in crate::net) fn watched(self) -> Self {
        Self {
            is_watched: true,
            ..self
        }
    }

    pub(in crate::net) fn with_records_per_key(self, records_per_key_max: u64) -> Self {
        Self {
            records_per_key_max,
            ..self
        }
    }
}

/// Our side of the connection, on a worker's runtime.
pub(in crate::net) struct Served {
    pub(in crate::net) read: ReadHalf,
    pub(in crate::net) write: WriteHalf,
    pub(in crate::net) deadlines: Deadlines,
}

impl Served {
    /// Receives exactly `bytes` bytes.
    pub(in crate::net) async fn receive_exactly(&mut self, bytes: usize) -> Vec<u8> {
        receive_exactly(&mut self.read, bytes).await
    }

    /// Receives up to the end.
    pub(in crate::net) async fn receive_to_end(&mut self) -> (Vec<u8>, Closure) {
        let mut into = BytesMut::new();
        loop {
            match self.read.receive(&mut into).await.unwrap() {
                Received::Data(_) => {}
                Received::Closed(closure) => return (into.to_vec(), closure),
                expired @ Received::Expired(_) => panic!("{expired:?}"),
            }
        }
    }

    /// What the next receive fails with.
    pub(in crate::net) async fn receive_error(&mut self) -> Cause {
        let mut into = BytesMut::new();
        loop {
            match self.read.receive(&mut into).await {
                Ok(Received::Data(_)) => {}
                Ok(other) => panic!("{other:?} instead of an error"),
                Err(cause) => return cause,
            }
        }
    }

    pub(in crate::net) async fn send(&mut self, data: &[u8]) -> Result<(), Cause> {
        self.write.send(&[IoSlice::new(data)]).await
    }

    pub(in crate::net) fn transport(&self) -> &Rc<Transport> {
        &self.read.transport
    }
}

pub(in crate::net) async fn receive_exactly(read: &mut ReadHalf, bytes: usize) -> Vec<u8> {
    let mut into = BytesMut::new();
    while into.len() < bytes {
        match read.receive(&mut into).await.unwrap() {
            Received::Data(_) => {}
            end @ (Received::Closed(_) | Received::Expired(_)) => {
                panic!("{end:?} after {} of {bytes} bytes", into.len())
            }
        }
    }
    assert_eq!(into.len(), bytes, "more came than was sent so far");
    into.to_vec()
}

/// The other side: blocking, with keys of its own making.
pub(in crate::net) struct Peer {
    pub(in crate::net) socket: TcpStream,
    /// Another descriptor of our side's socket.
    watched: Option<socket2::Socket>,
    tls: Option<PeerTls>,
    /// KeyUpdates received.
    pub(in crate::net) key_updates: usize,
}

struct PeerTls {
    suite: usize,
    sealer: Sealer,
    opener: Opener,
    sent_generation: u8,
    received_generation: u8,
    unopened: Vec<u8>,
}

impl Peer {
    pub(in crate::net) fn new(
        socket: TcpStream,
        watched: Option<socket2::Socket>,
        suite: Option<usize>,
    ) -> Self {
        let tls = suite.map(|suite| PeerTls {
            suite,
            sealer: Sealer::new(keys(suite, FROM_PEER, 0), u64::MAX).unwrap(),
            opener: Opener::new(keys(suite, FROM_US, 0)).unwrap(),
            sent_generation: 0,
            received_generation: 0,
            unopened: Vec::new(),
        });
        Self {
            socket,
            watched,
            tls,
            key_updates: 0,
        }
    }

    /// One record, sealed and not sent.
    pub(in crate::net) fn sealed(&mut self, content_type: ContentType, payload: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        let sealer = &mut self.tls.as_mut().unwrap().sealer;
        sealer.seal_copy(&mut wire, content_type, payload).unwrap();
        wire
    }

    /// A KeyUpdate, sealed and not sent. What is sealed next is under the next key.
    pub(in crate::net) fn sealed_key_update(&mut self, asks_for_reply: bool) -> Vec<u8> {
        let message = encode::key_update(asks_for_reply);
        let wire = self.sealed(ContentType::Handshake, &message);
        let tls = self.tls.as_mut().unwrap();
        tls.sent_generation += 1;
        let next = keys(tls.suite, FROM_PEER, tls.sent_generation);
        tls.sealer.replace(next).unwrap();
        wire
    }

    pub(in crate::net) fn send_raw(&mut self, wire: &[u8]) {
        self.socket.write_all(wire).unwrap();
    }

    /// Application data, one record (or without TLS, the bytes).
    pub(in crate::net) fn send(&mut self, payload: &[u8]) {
        let wire = match self.tls {
            Some(_) => self.sealed(ContentType::ApplicationData, payload),
            None => payload.to_vec(),
        };
        self.send_raw(&wire);
    }

    pub(in crate::net) fn send_alert(&mut self, level: u8, description: u8) {
        let wire = self.sealed(ContentType::Alert, &[level, description]);
        self.send_raw(&wire);
    }

    pub(in crate::net) fn send_key_update(&mut self, asks_for_reply: bool) {
        let wire = self.sealed_key_update(asks_for_reply);
        self.send_raw(&wire);
    }

    /// The next record; `None` at the end of the stream, which must be at a record's end. After a
    /// KeyUpdate the next key is in force.
    pub(in crate::net) fn next(&mut self) -> Option<(ContentType, Vec<u8>)> {
        let tls = self.tls.as_mut().unwrap();
        let mut chunk = [0; 16 * 1024];
        loop {
            let opened = tls.opener.open(&mut tls.unopened).unwrap();
            if let Opened::Record {
                consumed,
                content_type,
                payload,
            } = opened
            {
                let payload = tls.unopened[payload].to_vec();
                tls.unopened.drain(..consumed);
                if content_type == ContentType::Handshake {
                    assert_eq!(payload, encode::key_update(false));
                    tls.received_generation += 1;
                    self.key_updates += 1;
                    let next = keys(tls.suite, FROM_US, tls.received_generation);
                    tls.opener.replace(next).unwrap();
                }
                return Some((content_type, payload));
            }
            match self.socket.read(&mut chunk).unwrap() {
                0 => {
                    assert!(tls.unopened.is_empty(), "the stream ends within a record");
                    return None;
                }
                count => tls.unopened.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// The next `bytes` bytes of application data; KeyUpdates between are followed.
    pub(in crate::net) fn receive_exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut data = Vec::with_capacity(bytes);
        if self.tls.is_none() {
            data.resize(bytes, 0);
            self.socket.read_exact(&mut data).unwrap();
            return data;
        }
        while data.len() < bytes {
            match self.next() {
                Some((ContentType::ApplicationData, payload)) => data.extend(payload),
                Some((ContentType::Handshake, _)) => {}
                other => panic!("{other:?} after {} of {bytes} bytes", data.len()),
            }
        }
        assert_eq!(data.len(), bytes);
        data
    }

    /// The application data up to the end of the stream or a record that is cut short by it.
    pub(in crate::net) fn receive_to_end(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        // A reset ends it as well.
        drop(self.socket.read_to_end(&mut wire));
        let Some(tls) = &mut self.tls else {
            return wire;
        };
        let (mut data, mut rest) = (Vec::new(), &mut wire[..]);
        while let Opened::Record {
            consumed, payload, ..
        } = tls.opener.open(rest).unwrap()
        {
            data.extend_from_slice(&rest[payload]);
            rest = &mut rest[consumed..];
        }
        data
    }

    /// Nothing but one alert of this description and the end of the stream follows.
    pub(in crate::net) fn expect_last_alert(&mut self, level: u8, description: u8) {
        let alert = (ContentType::Alert, vec![level, description]);
        assert_eq!(self.next(), Some(alert));
        assert_eq!(self.next(), None);
    }

    pub(in crate::net) fn expect_close_notify(&mut self) {
        self.expect_last_alert(1, 0);
    }

    /// Returns once our side has taken everything that was sent off its socket, so that what is sent
    /// next comes in a receive of its own.
    pub(in crate::net) fn wait_until_taken(&self) {
        let watched = self.watched.as_ref().unwrap();
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let deadline = Instant::now() + PEER_PATIENCE;
        while matches!(watched.peek(&mut byte), Ok(1..)) {
            assert!(Instant::now() < deadline, "our side takes nothing");
            std::thread::yield_now();
        }
    }
}

/// Runs `server` and `peer` against each other on each driver, on connections of their own.
pub(in crate::net) fn on_each_driver(
    setup: &Setup,
    server: impl AsyncFn(Served),
    peer: impl Fn(Peer) + Sync,
) {
    for driver in drivers() {
        let (ours, theirs) = connected(setup.small_buffers);
        let watched = setup
            .is_watched
            .then(|| socket2::Socket::from(ours.try_clone().unwrap()));
        let file_threads = FileThreads::start().unwrap();
        std::thread::scope(|scope| {
            let peer = &peer;
            scope.spawn(move || peer(Peer::new(theirs, watched, setup.suite)));
            rt::block_on(driver, async {
                server(served(ours, setup, &file_threads)).await;
                // Tasks that wait for what is gone now come to their end, and a ring closes a
                // descriptor by an operation of its own, which must be submitted.
                for _ in 0..8 {
                    rt::yield_turn().await;
                }
            })
            .unwrap();
        });
    }
}

/// As [`on_each_driver`], between two connections: `server` has our sides of both, and `peers` plays their
/// far ends.
pub(in crate::net) fn between_two(
    (client, upstream): (&Setup, &Setup),
    server: impl AsyncFn(Stream, Stream, Deadlines),
    peers: impl Fn(Peer, Peer) + Sync,
) {
    for driver in drivers() {
        let file_threads = FileThreads::start().unwrap();
        let (client_ours, client_theirs) = connected(client.small_buffers);
        let (upstream_ours, upstream_theirs) = connected(upstream.small_buffers);
        std::thread::scope(|scope| {
            let peers = &peers;
            scope.spawn(move || {
                let client = Peer::new(client_theirs, None, client.suite);
                peers(client, Peer::new(upstream_theirs, None, upstream.suite));
            });
            rt::block_on(driver, async {
                let deadlines = Deadlines::new();
                let client = stream_over(client_ours, client, &deadlines, &file_threads);
                let upstream = stream_over(upstream_ours, upstream, &deadlines, &file_threads);
                server(client, upstream, deadlines).await;
                // A ring closes a descriptor by an operation of its own, which must be submitted.
                for _ in 0..8 {
                    rt::yield_turn().await;
                }
            })
            .unwrap();
        });
    }
}

/// epoll, and io_uring as a worker uses it. A machine that forbids io_uring cannot run these tests.
pub(in crate::net) fn drivers() -> [Driver; 2] {
    match ring() {
        Ring::Usable(setup) => [Driver::Epoll, Driver::Ring(setup)],
        Ring::Refused(refusal) => panic!("these tests need io_uring: {refusal}"),
    }
}

/// Two ends of a connection, the first non-blocking, the second with a bound on its waits.
pub(in crate::net) fn connected(small_buffers: bool) -> (TcpStream, TcpStream) {
    use socket2::{Domain, Socket, Type};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if small_buffers {
        client.set_recv_buffer_size(SMALL_BUFFER_BYTES).unwrap();
    }
    let address = listener.local_addr().unwrap();
    client.connect(&address.into()).unwrap();
    let (server, _) = listener.accept().unwrap();
    if small_buffers {
        let server = socket2::SockRef::from(&server);
        server.set_send_buffer_size(SMALL_BUFFER_BYTES).unwrap();
    }
    let client = TcpStream::from(client);
    server.set_nonblocking(true).unwrap();
    for socket in [&server, &client] {
        socket.set_nodelay(true).unwrap();
    }
    client.set_read_timeout(Some(PEER_PATIENCE)).unwrap();
    client.set_write_timeout(Some(PEER_PATIENCE)).unwrap();
    (server, client)
}

fn served(socket: TcpStream, setup: &Setup, file_threads: &FileThreads) -> Served {
    let deadlines = Deadlines::new();
    let stream = stream_over(socket, setup, &deadlines, file_threads);
    let (read, write) = stream.into_halves();
    Served {
        read,
        write,
        deadlines,
    }
}

/// Our side of a connection.
pub(in crate::net) fn stream_over(
    socket: TcpStream,
    setup: &Setup,
    deadlines: &Deadlines,
    file_threads: &FileThreads,
) -> Stream {
    let socket = Rc::new(Socket::adopt(socket.into()).unwrap());
    let deadline = Rc::new(deadlines.register());
    let context = Rc::new(context(setup, file_threads));
    match setup.suite {
        None => Stream::plain(socket, deadline, context),
        Some(suite) => Stream::tls(socket, deadline, context, tls_parts(suite)).unwrap(),
    }
}

pub(in crate::net) fn context(setup: &Setup, file_threads: &FileThreads) -> StreamContext {
    StreamContext {
        offload: Offload {
            policy: setup.policy,
            file_bytes_min: AUTO_FILE_BYTES_MIN,
            http2_bytes_min: AUTO_FILE_BYTES_MIN,
            answer_bytes_min: AUTO_FILE_BYTES_MIN,
            sent_bytes_min: setup.sent_bytes_min,
            tunnel_bytes_min: 0,
        },
        kernel: setup.kernel.clone(),
        send_progress: SEND_PROGRESS,
        records_per_key_max: setup.records_per_key_max,
        file_threads: file_threads.attach().unwrap(),
    }
}

fn tls_parts(suite: usize) -> TlsParts {
    let schedule = Box::new(TestSchedule {
        suite,
        send_generation: 0,
        receive_generation: 0,
    });
    let can_update = SUITES[suite].0 == Version::Tls13;
    TlsParts {
        role: Role::Server,
        send: keys(suite, FROM_US, 0),
        receive: keys(suite, FROM_PEER, 0),
        schedule: can_update.then_some(schedule as Box<dyn KeySchedule>),
        unsent: Vec::new(),
        received: Vec::new(),
    }
}

/// Keys by counting, in place of HKDF: both sides make the same ones.
struct TestSchedule {
    suite: usize,
    send_generation: u8,
    receive_generation: u8,
}

impl KeySchedule for TestSchedule {
    fn next_send(&mut self) -> Result<TrafficKeys, Cause> {
        self.send_generation += 1;
        Ok(keys(self.suite, FROM_US, self.send_generation))
    }

    fn next_receive(&mut self) -> Result<TrafficKeys, Cause> {
        self.receive_generation += 1;
        Ok(keys(self.suite, FROM_PEER, self.receive_generation))
    }

    fn keep_ticket(&mut self, _ticket: &[u8]) -> Result<(), Cause> {
        Ok(())
    }
}

pub(in crate::net) fn keys(suite: usize, direction: u8, generation: u8) -> TrafficKeys {
    let material = Material {
        suite,
        key: std::array::from_fn(|i| (i as u8).wrapping_mul(3) ^ direction ^ generation),
        iv: std::array::from_fn(|i| (i as u8).wrapping_mul(5) ^ direction ^ generation),
    };
    material.keys(0)
}

/// Polls both until both are done, `first` first.
pub(in crate::net) async fn join<A, B>(
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> (A, B) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut a, mut b) = (None, None);
    poll_fn(move |context| {
        if a.is_none()
            && let Poll::Ready(output) = first.as_mut().poll(context)
        {
            a = Some(output);
        }
        if b.is_none()
            && let Poll::Ready(output) = second.as_mut().poll(context)
        {
            b = Some(output);
        }
        match (a.take(), b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (left, right) => {
                (a, b) = (left, right);
                Poll::Pending
            }
        }
    })
    .await
}

/// The output of `task`, run as a connection is: as a task of the worker. What [`rt::block_on`] is
/// given is polled first whenever it has been woken, so yielding there lets nothing else run.
pub(in crate::net) async fn as_task<T: 'static>(task: impl Future<Output = T> + 'static) -> T {
    let done: Rc<RefCell<(Option<T>, Option<Waker>)>> = Rc::new(RefCell::new((None, None)));
    let result = done.clone();
    rt::spawn(async move {
        let output = task.await;
        let waker = {
            let mut done = done.borrow_mut();
            done.0 = Some(output);
            done.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    });
    poll_fn(move |context| {
        let mut result = result.borrow_mut();
        result.1 = Some(context.waker().clone());
        result.0.take().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Runs `task` as a task beside one that only counts its own turns; gives how many it had.
pub(in crate::net) async fn counting_turns(task: impl Future<Output = ()> + 'static) -> usize {
    let is_done = Rc::new(Cell::new(false));
    let is_over = is_done.clone();
    let other = async move {
        let mut turns = 0;
        while !is_over.get() {
            turns += 1;
            rt::yield_turn().await;
        }
        turns
    };
    let task = async move {
        task.await;
        is_done.set(true);
    };
    join(as_task(other), as_task(task)).await.0
}

/// Runs `task` while the deadlines' clock goes on by a minute for every turn of the worker.
pub(in crate::net) async fn while_time_flies<T>(
    deadlines: &Deadlines,
    task: impl Future<Output = T>,
) -> T {
    let is_done = Cell::new(false);
    let task = async {
        let output = task.await;
        is_done.set(true);
        output
    };
    let clock = async {
        let mut now = Instant::now();
        while !is_done.get() {
            now += Duration::from_secs(60);
            deadlines.turn(now);
            rt::yield_turn().await;
        }
    };
    join(task, clock).await.0
}

/// Bytes that no shift or repetition of a part resembles.
pub(in crate::net) fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

/// How often `counter` has been counted on this thread since `task` began.
pub(in crate::net) async fn counting<T>(
    counter: Counter,
    task: impl Future<Output = T>,
) -> (T, u64) {
    let before = metrics::of_this_thread(counter);
    let output = task.await;
    (output, metrics::of_this_thread(counter) - before)
}

/// What this kernel can take over, at any speed.
pub(in crate::net) fn this_kernel() -> &'static KernelTls {
    static KERNEL: OnceLock<KernelTls> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let mut kernel = kernel_tls();
        for support in &mut kernel.suites {
            support.is_slow = false;
        }
        kernel
    })
}

/// Whether this kernel has kernel TLS. Where `PORTCULLIS_TEST_KERNEL_TLS` says that it must
/// (`with-rekey`, `without-rekey`), one that has not is a failure, and so is one that cannot carry
/// every suite.
pub(in crate::net) fn has_kernel_tls() -> bool {
    let kernel = this_kernel();
    if let Ok(wanted) = std::env::var("PORTCULLIS_TEST_KERNEL_TLS") {
        let can_rekey = wanted == "with-rekey";
        assert!(can_rekey || wanted == "without-rekey", "{wanted:?}");
        assert_eq!(kernel.ulp, Ok(()), "kernel TLS is required");
        assert_eq!(kernel.rekey, can_rekey, "{wanted}");
        for support in &kernel.suites {
            assert_eq!(
                (support.send, support.receive),
                (Ok(()), Ok(())),
                "{support:?}"
            );
        }
    }
    match kernel.ulp {
        Ok(()) => true,
        Err(refusal) => {
            let (near, _far) = connected(false);
            let error = crate::sys::ktls::enable_ulp(std::os::fd::AsFd::as_fd(&near)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{refusal:?}");
            assert_eq!(
                refusal,
                TlsRefusal::NoModule,
                "there is one, and it does not work"
            );
            false
        }
    }
}

pub(in crate::net) const SEND_PROGRESS: Duration = Duration::from_secs(30);

/// A phase that lasts longer than any test.
pub(in crate::net) fn arm_for_long(deadline: &Deadline) {
    deadline.arm(Phase::Idle, Duration::from_secs(3600));
}

/// Under the policy `auto`, file bodies of so many bytes move the connection.
pub(in crate::net) const AUTO_FILE_BYTES_MIN: u64 = 64 * 1024;

const SMALL_BUFFER_BYTES: usize = 4096;

/// Longer than any answer takes on a busy machine: a peer that waits this long has found a hang.
const PEER_PATIENCE: Duration = Duration::from_secs(60);

const FROM_US: u8 = 0x00;
const FROM_PEER: u8 = 0x80;
