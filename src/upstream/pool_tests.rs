use std::cell::Cell;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::{Balance, Ejection, Tcp, Timeouts, Upstream, UpstreamAddress, UpstreamServer};
use crate::net::deadline::Deadlines;
use crate::net::file_threads::FileThreads;
use crate::net::rt::{self, Driver};
use crate::sys::probe;
use crate::upstream::Shared;

/// A pool to servers that accept when the test says.
struct Fixture {
    pool: Pool,
    shared: Arc<Shared>,
    connector: Connector,
    context: Rc<StreamContext>,
    listeners: Vec<TcpListener>,
}

impl Fixture {
    fn new(threads: &FileThreads, connections_max: Option<usize>, http: UpstreamHttp) -> Self {
        Self::of(threads, 1, Balance::RoundRobin, connections_max, http)
    }

    fn of(
        threads: &FileThreads,
        servers: usize,
        balance: Balance,
        connections_max: Option<usize>,
        http: UpstreamHttp,
    ) -> Self {
        let listen = |_| TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners: Vec<TcpListener> = (0..servers).map(listen).collect();
        let server = |listener: &TcpListener| UpstreamServer {
            address: UpstreamAddress::Ip(listener.local_addr().unwrap()),
            weight: 1,
            connections_max,
        };
        let config = Upstream {
            name: "app".to_owned(),
            balance,
            servers: listeners.iter().map(server).collect(),
            connect: Duration::from_secs(10),
            slow_start: Duration::ZERO,
            ejection: Ejection::default(),
            resolve: Duration::from_secs(30),
            hash_key: Default::default(),
            proxy_protocol: None,
            tls: None,
            http,
            health: None,
        };
        let shared = Arc::new(Shared::new(Arc::new(config), None));
        let context = StreamContext {
            offload: Default::default(),
            kernel: probe::kernel_tls(),
            send_progress: Timeouts::default().send_progress,
            records_per_key_max: 1 << 20,
            file_threads: threads.attach().unwrap(),
        };
        Self {
            pool: Pool::new(Rc::new(Group::new(shared.clone()))),
            shared,
            connector: Connector::new(Deadlines::new(), Tcp::default()),
            context: Rc::new(context),
            listeners,
        }
    }

    async fn connection(&self) -> Result<Connection, NoConnection> {
        self.connection_for(None, true).await
    }

    async fn connection_for(
        &self,
        key: Option<&[u8]>,
        may_be_idle: bool,
    ) -> Result<Connection, NoConnection> {
        let (connector, context) = (&self.connector, &self.context);
        self.pool
            .connection(key, may_be_idle, connector, context)
            .await
    }

    fn waiting(&self) -> usize {
        self.pool.0.group.waiting()
    }

    fn accept(&self) -> TcpStream {
        self.listeners[0].accept().unwrap().0
    }
}

/// Runs on epoll, and on io_uring where this machine allows it.
fn on_each_driver(test: impl AsyncFn(&FileThreads)) {
    for driver in [Driver::Epoll, Driver::from(&probe::ring())] {
        let threads = FileThreads::start().unwrap();
        rt::block_on(driver, test(&threads)).unwrap();
    }
}

#[test]
fn a_kept_connection_is_used_again() {
    on_each_driver(async |threads| {
        let fixture = Fixture::new(threads, None, UpstreamHttp::default());
        let first = fixture.connection().await.unwrap();
        assert!(!first.place.is_reused());
        fixture.pool.keep(first);
        assert_eq!(fixture.pool.idle_count(), 1);
        let second = fixture.connection().await.unwrap();
        assert!(second.place.is_reused());
        assert_eq!(fixture.pool.idle_count(), 0);
    });
}

#[test]
fn what_is_closed_unclean_or_old_is_not_used_again() {
    on_each_driver(async |threads| {
        let fixture = Fixture::new(threads, None, UpstreamHttp::default());
        // Closed by the server.
        fixture.pool.keep(fixture.connection().await.unwrap());
        drop(fixture.accept());
        wait_for(|| {
            fixture.pool.sweep();
            fixture.pool.idle_count() == 0
        })
        .await;
        // A byte that nobody asked for.
        let connection = fixture.connection().await.unwrap();
        let mut server = fixture.accept();
        std::io::Write::write_all(&mut server, b"x").unwrap();
        fixture.pool.keep(connection);
        wait_for(|| {
            fixture.pool.sweep();
            fixture.pool.idle_count() == 0
        })
        .await;
        // Bytes left of the answer before.
        let mut connection = fixture.connection().await.unwrap();
        connection.input.extend_from_slice(b"x");
        fixture.pool.keep(connection);
        assert_eq!(fixture.pool.idle_count(), 0);

        let http = UpstreamHttp {
            age: Duration::ZERO,
            ..UpstreamHttp::default()
        };
        let aged = Fixture::new(threads, None, http);
        aged.pool.keep(aged.connection().await.unwrap());
        assert_eq!(aged.pool.idle_count(), 0);
    });
}

#[test]
fn idle_connections_are_bounded() {
    on_each_driver(async |threads| {
        let http = UpstreamHttp {
            idle_connections_max: 1,
            ..UpstreamHttp::default()
        };
        let fixture = Fixture::new(threads, None, http);
        let first = fixture.connection().await.unwrap();
        let second = fixture.connection().await.unwrap();
        fixture.pool.keep(first);
        fixture.pool.keep(second);
        assert_eq!(fixture.pool.idle_count(), 1);
    });
}

#[test]
fn a_full_server_makes_requests_wait_for_a_place() {
    on_each_driver(async |threads| {
        let http = UpstreamHttp {
            queue_max: 1,
            queue: Duration::from_secs(60),
            ..UpstreamHttp::default()
        };
        let fixture = Rc::new(Fixture::new(threads, Some(1), http));
        let first = fixture.connection().await.unwrap();
        let got = Rc::new(Cell::new(None));
        let (waiting, there) = (fixture.clone(), got.clone());
        rt::spawn(async move {
            let connection = waiting.connection().await.unwrap();
            there.set(Some(connection.place.is_reused()));
        });
        wait_for(|| fixture.waiting() == 1).await;
        assert!(matches!(
            fixture.connection().await,
            Err(NoConnection::QueueFull)
        ));
        fixture.pool.keep(first);
        wait_for(|| got.get() == Some(true)).await;
        assert_eq!(fixture.waiting(), 0);
    });
}

/// Both servers have all the connections that they may have, and all of these are idle here.
#[test]
fn idle_connections_make_no_server_full() {
    on_each_driver(async |threads| {
        for balance in [Balance::Hash, Balance::RoundRobin] {
            let fixture = Fixture::of(threads, 2, balance, Some(1), UpstreamHttp::default());
            let first = fixture.connection().await.unwrap();
            let second = fixture.connection().await.unwrap();
            assert_ne!(first.place.server(), second.place.server());
            fixture.pool.keep(first);
            fixture.pool.keep(second);
            let free = Group::new(Arc::new(Shared::new(fixture.shared.config().clone(), None)));
            let mut counts = [0, 0];
            for index in 0..20_u8 {
                let key = [index];
                let connection = fixture.connection_for(Some(&key), true).await.unwrap();
                assert!(connection.place.is_reused());
                let server = connection.place.server();
                counts[server] += 1;
                if balance == Balance::Hash {
                    let wanted = free.pick(Some(&key), &[], Instant::now()).unwrap();
                    assert_eq!(server, wanted.server(), "it stays with its server");
                }
                fixture.pool.keep(connection);
            }
            assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
            if balance == Balance::RoundRobin {
                assert_eq!(counts, [10, 10]);
            }
        }
    });
}

#[test]
fn an_idle_connection_makes_room_for_a_new_one() {
    on_each_driver(async |threads| {
        let fixture = Fixture::new(threads, Some(1), UpstreamHttp::default());
        fixture.pool.keep(fixture.connection().await.unwrap());
        let new = fixture.connection_for(None, false).await.unwrap();
        assert!(!new.place.is_reused());
        assert_eq!(fixture.pool.idle_count(), 0);
    });
}

#[test]
fn idle_connections_are_no_load() {
    on_each_driver(async |threads| {
        let balance = Balance::LeastConnections;
        let fixture = Fixture::of(threads, 2, balance, None, UpstreamHttp::default());
        let first = fixture.connection().await.unwrap();
        let busy = fixture.connection().await.unwrap();
        let (idle_server, busy_server) = (first.place.server(), busy.place.server());
        let third = loop {
            let third = fixture.connection().await.unwrap();
            if third.place.server() == idle_server {
                break third;
            }
        };
        assert_eq!(fixture.shared.active(idle_server), 2);
        fixture.pool.keep(first);
        fixture.pool.keep(third);
        let load = |server| (fixture.shared.open(server), fixture.shared.active(server));
        assert_eq!((load(idle_server), load(busy_server)), ((2, 0), (1, 1)));
        let next = fixture.connection().await.unwrap();
        assert_eq!(next.place.server(), idle_server);
        assert_eq!(load(idle_server), (2, 1));
        drop((next, busy));
        assert_eq!((load(idle_server), load(busy_server)), ((1, 0), (0, 0)));
    });
}

/// One after the other, and none that comes later before them.
#[test]
fn connections_go_to_those_that_wait_in_the_order_in_which_they_came() {
    on_each_driver(async |threads| {
        let fixture = Rc::new(Fixture::new(threads, Some(1), UpstreamHttp::default()));
        let mut held = fixture.connection().await.unwrap();
        let order = Rc::new(RefCell::new(Vec::new()));
        let wait = |name: usize| {
            let (waiting, order) = (fixture.clone(), order.clone());
            rt::spawn(async move {
                let connection = waiting.connection().await.unwrap();
                order.borrow_mut().push((name, connection));
            });
        };
        for name in 0..3 {
            wait(name);
            wait_for(|| fixture.waiting() == name + 1).await;
        }
        for name in 0..4 {
            fixture.pool.keep(held);
            if name == 0 {
                // It comes when the connection is idle and the first does not have it yet.
                wait(3);
            }
            wait_for(|| !order.borrow().is_empty()).await;
            let (served, connection) = order.borrow_mut().pop().unwrap();
            assert_eq!(served, name);
            held = connection;
        }
        assert_eq!(fixture.waiting(), 0);
    });
}

/// Another worker's pool to the same servers.
fn beside(fixture: &Fixture) -> Pool {
    Pool::new(Rc::new(Group::new(fixture.shared.clone())))
}

/// Asks `pool` for a connection and puts it into what is given.
fn ask(fixture: &Rc<Fixture>, pool: &Pool) -> Rc<RefCell<Option<Connection>>> {
    let got = Rc::new(RefCell::new(None));
    let (fixture, pool, there) = (fixture.clone(), pool.clone(), got.clone());
    rt::spawn(async move {
        let (connector, context) = (&fixture.connector, &fixture.context);
        let connection = pool.connection(None, true, connector, context).await;
        *there.borrow_mut() = Some(connection.unwrap());
    });
    got
}

#[test]
fn idle_connections_give_way_to_those_that_wait_on_another_worker() {
    on_each_driver(async |threads| {
        let fixture = Fixture::new(threads, Some(2), UpstreamHttp::default());
        let (other, fixture) = (beside(&fixture), Rc::new(fixture));
        let first = fixture.connection().await.unwrap();
        let second = fixture.connection().await.unwrap();
        fixture.pool.keep(first);
        fixture.pool.give_way();
        assert_eq!(fixture.pool.idle_count(), 1, "nobody waits");
        // One that is idle already.
        let got = ask(&fixture, &other);
        wait_for(|| other.0.group.waiting() == 1).await;
        fixture.pool.give_way();
        assert_eq!(fixture.pool.idle_count(), 0);
        wait_for(|| got.borrow().is_some()).await;
        // One that would become idle.
        let more = ask(&fixture, &other);
        wait_for(|| other.0.group.waiting() == 1).await;
        fixture.pool.keep(second);
        assert_eq!(fixture.pool.idle_count(), 0);
        wait_for(|| more.borrow().is_some()).await;
        assert_eq!(fixture.shared.open(0), 2);
    });
}

#[test]
fn workers_on_which_somebody_waits_have_their_share_each() {
    on_each_driver(async |threads| {
        let fixture = Fixture::new(threads, Some(2), UpstreamHttp::default());
        let (other, fixture) = (beside(&fixture), Rc::new(fixture));
        let first = fixture.connection().await.unwrap();
        let second = fixture.connection().await.unwrap();
        let own = ask(&fixture, &fixture.pool);
        let others = ask(&fixture, &other);
        wait_for(|| fixture.waiting() + other.0.group.waiting() == 2).await;
        fixture.pool.keep(first);
        wait_for(|| others.borrow().is_some()).await;
        assert!(own.borrow().is_none(), "it has its share");
        fixture.pool.keep(second);
        wait_for(|| own.borrow().is_some()).await;
        let is_reused = own.borrow().as_ref().unwrap().place.is_reused();
        assert!(is_reused, "what is its share it keeps");
    });
}

#[test]
fn waiting_for_a_place_ends() {
    on_each_driver(async |threads| {
        let http = UpstreamHttp {
            queue: Duration::from_millis(1),
            ..UpstreamHttp::default()
        };
        let fixture = Fixture::new(threads, Some(1), http);
        let first = fixture.connection().await.unwrap();
        assert!(matches!(
            fixture.connection().await,
            Err(NoConnection::QueueTimeout)
        ));
        drop(first);
        assert!(fixture.connection().await.is_ok());
    });
}

#[test]
fn a_server_that_refuses_is_told() {
    on_each_driver(async |threads| {
        let fixture = Fixture::new(threads, None, UpstreamHttp::default());
        let Fixture {
            pool,
            connector,
            context,
            listeners,
            ..
        } = fixture;
        drop(listeners);
        let outcome = pool.connection(None, true, &connector, &context).await;
        assert!(matches!(outcome, Err(NoConnection::Failed(_))));
    });
}

/// Until `condition` holds, within a bound.
async fn wait_for(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "it does not happen");
        rt::yield_turn().await;
    }
}
