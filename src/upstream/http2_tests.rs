use std::net::TcpListener;
use std::sync::Arc;

use super::*;
use crate::config::{
    Balance, Ejection, Tcp, Timeouts, Upstream, UpstreamAddress, UpstreamProtocol, UpstreamServer,
};
use crate::net::deadline::Deadlines;
use crate::net::file_threads::FileThreads;
use crate::net::rt::Driver;
use crate::net::stream::StreamContext;
use crate::proto::h2::connection::client::AskBody;
use crate::sys::probe;
use crate::upstream::{Connector, Group, NoConnection, Pool, Shared as Servers};

/// A pool to one server, which accepts in its listener's queue alone and says nothing.
struct Fixture {
    pool: Pool,
    servers: Arc<Servers>,
    connector: Connector,
    context: Rc<StreamContext>,
}

impl Fixture {
    fn new(threads: &FileThreads, listener: &TcpListener, http: UpstreamHttp) -> Self {
        Self::bounded(threads, listener, http, None)
    }

    fn bounded(
        threads: &FileThreads,
        listener: &TcpListener,
        http: UpstreamHttp,
        connections_max: Option<usize>,
    ) -> Self {
        let config = Upstream {
            name: "app".to_owned(),
            balance: Balance::RoundRobin,
            hash_key: Default::default(),
            servers: vec![UpstreamServer {
                address: UpstreamAddress::Ip(listener.local_addr().unwrap()),
                weight: 1,
                connections_max,
            }],
            connect: Duration::from_secs(10),
            slow_start: Duration::ZERO,
            ejection: Ejection::default(),
            resolve: Duration::from_secs(30),
            proxy_protocol: None,
            tls: None,
            http,
            health: None,
        };
        let context = StreamContext {
            offload: Default::default(),
            kernel: probe::kernel_tls(),
            send_progress: Timeouts::default().send_progress,
            records_per_key_max: 1 << 20,
            file_threads: threads.attach().unwrap(),
        };
        let servers = Arc::new(Servers::new(Arc::new(config), None));
        Self {
            pool: Pool::new(Rc::new(Group::new(servers.clone()))),
            servers,
            connector: Connector::new(Deadlines::new(), Tcp::default()),
            context: Rc::new(context),
        }
    }

    async fn connection(&self) -> Result<Http2Connection, NoConnection> {
        let (connector, context) = (&self.connector, &self.context);
        self.pool.multiplexed(None, connector, context).await
    }

    /// As many at once.
    async fn connections<const N: usize>(&self) -> [Result<Http2Connection, NoConnection>; N] {
        let mut asking: [_; N] = std::array::from_fn(|_| Box::pin(self.connection()));
        let mut got: [_; N] = std::array::from_fn(|_| None);
        poll_fn(|context| {
            for (asking, got) in asking.iter_mut().zip(&mut got) {
                if got.is_none()
                    && let Poll::Ready(connection) = asking.as_mut().poll(context)
                {
                    *got = Some(connection);
                }
            }
            match got.iter().all(Option::is_some) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        got.map(Option::unwrap)
    }
}

fn http(streams_max: usize, http2_connections_max: usize) -> UpstreamHttp {
    UpstreamHttp {
        protocol: UpstreamProtocol::Http2,
        streams_max,
        http2_connections_max,
        queue_max: 0,
        ..UpstreamHttp::default()
    }
}

fn ask() -> Ask {
    let fields = [
        (&b":method"[..], &b"GET"[..]),
        (b":scheme", b"http"),
        (b":authority", b"a.test"),
        (b":path", b"/"),
    ];
    Ask {
        fields: Fields::of(fields.into_iter()),
        body: AskBody::None,
        is_head: false,
        is_tunnel: false,
    }
}

fn on_each_driver(test: impl AsyncFn(&FileThreads)) {
    for driver in [Driver::Epoll, Driver::from(&probe::ring())] {
        let threads = FileThreads::start().unwrap();
        rt::block_on(driver, test(&threads)).unwrap();
    }
}

#[test]
fn requests_share_connections_as_far_as_those_go() {
    on_each_driver(async |threads| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fixture = Fixture::new(threads, &listener, http(2, 2));
        // They wait for one connection.
        let [first, second] = fixture.connections().await.map(Result::unwrap);
        assert!(Rc::ptr_eq(&first.0, &second.0));
        let streams = [first.ask(ask()), first.ask(ask())].map(Option::unwrap);
        assert!(!streams[0].is_reused() && streams[1].is_reused());
        assert!(!first.has_room() && first.ask(ask()).is_none());
        let other = fixture.connection().await.unwrap();
        assert!(!Rc::ptr_eq(&first.0, &other.0));
        let others = [other.ask(ask()), other.ask(ask())];
        let none = fixture.connection().await;
        assert!(matches!(none, Err(NoConnection::QueueFull)));
        // A stream that is over makes room.
        drop(streams);
        let again = fixture.connection().await.unwrap();
        assert!(Rc::ptr_eq(&first.0, &again.0));
        drop(others);
    });
}

#[test]
fn a_connection_that_is_retired_or_has_ended_is_not_used() {
    on_each_driver(async |threads| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fixture = Fixture::new(threads, &listener, http(2, 2));
        let first = fixture.connection().await.unwrap();
        let stream = first.ask(ask()).unwrap();
        first.retire();
        assert!(!first.has_room() && !first.is_over());
        let second = fixture.connection().await.unwrap();
        assert!(!Rc::ptr_eq(&first.0, &second.0));
        // It ends with its last stream.
        drop(stream);
        while !first.is_over() {
            rt::yield_turn().await;
        }
        // The server ends the other: whoever asked on it is told.
        let mut stream = second.ask(ask()).unwrap();
        drop(listener.accept().unwrap());
        drop(listener.accept().unwrap());
        let answer = poll_fn(|context| stream.poll_response(context)).await;
        assert_eq!(answer.unwrap_err(), Lost::Closed);
        while !second.is_over() {
            rt::yield_turn().await;
        }
    });
}

/// A connection of another worker's pool to the same server, once it has one.
fn ask_beside(fixture: &Fixture) -> Rc<RefCell<Option<Http2Connection>>> {
    let pool = Pool::new(Rc::new(Group::new(fixture.servers.clone())));
    let connector = Connector::new(Deadlines::new(), Tcp::default());
    let (context, got) = (fixture.context.clone(), Rc::new(RefCell::new(None)));
    let there = got.clone();
    rt::spawn(async move {
        let connection = pool.multiplexed(None, &connector, &context).await;
        *there.borrow_mut() = Some(connection.unwrap());
    });
    got
}

/// Lets `fixture` give way until there is something in `got`, within a bound.
async fn give_way_to(fixture: &Fixture, got: &RefCell<Option<Http2Connection>>) {
    let until = Instant::now() + Duration::from_secs(20);
    while got.borrow().is_none() {
        assert!(Instant::now() < until, "no place is given up");
        fixture.pool.give_way();
        rt::yield_turn().await;
    }
}

#[test]
fn connections_give_way_to_those_that_wait_on_another_worker() {
    on_each_driver(async |threads| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let queued = UpstreamHttp {
            queue_max: 1,
            ..http(1, 2)
        };
        // An idle one.
        let fixture = Fixture::bounded(threads, &listener, queued, Some(1));
        let idle = fixture.connection().await.unwrap();
        fixture.pool.give_way();
        assert!(idle.has_room(), "nobody waits");
        give_way_to(&fixture, &ask_beside(&fixture)).await;
        assert!(idle.is_over());
        // Of two with a request each, the one that is beyond this worker's share, when it is free.
        let fixture = Fixture::bounded(threads, &listener, queued, Some(2));
        let first = fixture.connection().await.unwrap();
        let first_stream = first.ask(ask()).unwrap();
        let second = fixture.connection().await.unwrap();
        let second_stream = second.ask(ask()).unwrap();
        let got = ask_beside(&fixture);
        while fixture.pool.0.group.wanted_by_others(0) == 0 {
            rt::yield_turn().await;
        }
        fixture.pool.give_way();
        fixture.pool.give_way();
        assert!(got.borrow().is_none() && !second.is_over());
        drop(second_stream);
        give_way_to(&fixture, &got).await;
        assert!(second.is_over() && !first.is_over());
        drop(first_stream);
        assert!(first.has_room(), "its share is left to it");
    });
}

#[test]
fn those_that_wait_for_a_connection_fail_with_it() {
    on_each_driver(async |threads| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fixture = Fixture::new(threads, &listener, http(100, 8));
        drop(listener);
        let before = metrics::of_this_thread(Counter::UpstreamConnectsFailed);
        for failed in fixture.connections::<5>().await {
            assert!(matches!(failed, Err(NoConnection::Failed(_))));
        }
        let failed = metrics::of_this_thread(Counter::UpstreamConnectsFailed) - before;
        assert_eq!(failed, 1);
    });
}
