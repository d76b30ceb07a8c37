use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::config::{
    Balance, Ejection, HealthCheck, Http2, Limits, Timeouts, Upstream, UpstreamServer,
};
use crate::message::gather::{Gather, Part};
use crate::message::{Response, Status};
use crate::proto::h2::connection::{Connection, Event};

fn watched(address: UpstreamAddress, kind: Option<HealthCheckKind>) -> Arc<Shared> {
    let health = kind.map(|kind| HealthCheck {
        kind,
        interval: Duration::from_millis(5),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 2,
    });
    let config = Upstream {
        name: "app".to_owned(),
        balance: Balance::RoundRobin,
        servers: vec![UpstreamServer {
            address,
            weight: 1,
            connections_max: None,
        }],
        connect: Upstream::CONNECT_DEFAULT,
        slow_start: Duration::ZERO,
        ejection: Ejection::default(),
        resolve: Duration::from_secs(1),
        hash_key: Default::default(),
        proxy_protocol: None,
        tls: None,
        http: Default::default(),
        health,
    };
    Arc::new(Shared::new(Arc::new(config), None))
}

/// Until `condition` holds, as a condition of the world that cannot wake us, within a bound.
#[track_caller]
fn wait_for(condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "it does not happen");
        std::thread::yield_now();
    }
}

/// Answers each request with `status` as long as `is_well`, and else with 503.
fn http_server(status: &'static str, is_well: Arc<AtomicBool>) -> UpstreamAddress {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut connection, _)) = listener.accept() {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if !matches!(connection.read(&mut byte), Ok(1)) {
                    break;
                }
                request.push(byte[0]);
            }
            let good = b"GET /health?x HTTP/1.1\r\nHost: app.test\r\n";
            let is_good = request.starts_with(good) && is_well.load(Ordering::Relaxed);
            let status = if is_good { status } else { "503 Away" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            drop(connection.write_all(answer.as_bytes()));
        }
    });
    UpstreamAddress::Ip(address)
}

#[test]
fn http_checks_follow_the_servers_answers() {
    let is_well = Arc::new(AtomicBool::new(false));
    let kind = HealthCheckKind::Http {
        path: "/health?x".to_owned(),
        host: "app.test".to_owned(),
    };
    let shared = watched(http_server("204 No Content", is_well.clone()), Some(kind));
    let _lookups = start(&shared, &Tcp::default()).unwrap();
    for wanted in [false, true, false] {
        is_well.store(wanted, Ordering::Relaxed);
        wait_for(|| shared.is_up(0) == wanted);
    }
}

/// Answers over HTTP/2 with 204 as long as `is_well`, and else with 503.
fn http2_server(is_well: Arc<AtomicBool>) -> UpstreamAddress {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            answer_over_http2(socket, &is_well);
        }
    });
    UpstreamAddress::Ip(address)
}

/// Until the client has ended its direction, or breaks off.
fn answer_over_http2(mut socket: TcpStream, is_well: &AtomicBool) {
    let (limits, timeouts) = (Limits::default(), Timeouts::default());
    let mut connection = Connection::<()>::new(&Http2::default(), &limits, &timeouts, 0);
    let (mut input, mut chunk) = (BytesMut::new(), [0; 1024]);
    while let Ok(count @ 1..) = socket.read(&mut chunk) {
        input.extend_from_slice(&chunk[..count]);
        connection.handle_input(&mut input, 0).unwrap();
        while let Some(event) = connection.poll_event() {
            if let Event::Request(stream, request, has_body) = event {
                let is_asked = !has_body
                    && (&*request.target, &*request.host) == ("/health?x", "app.test")
                    && request.fields.first("user-agent") == Some(b"portcullis-health");
                let status = match is_asked && is_well.load(Ordering::Relaxed) {
                    true => Status(204),
                    false => Status(503),
                };
                connection.respond(stream, Response::new(status), 0);
            }
        }
        let mut gather = Gather::default();
        while connection.poll_send(&mut gather, b"now", 0) {
            for index in 0..gather.pieces() {
                if let Some(Part::Memory(bytes)) = gather.part(index) {
                    drop(socket.write_all(bytes));
                }
            }
            gather.clear();
        }
    }
}

#[test]
fn checks_of_http2_servers_speak_http2() {
    let kind = HealthCheckKind::Http {
        path: "/health?x".to_owned(),
        host: "app.test".to_owned(),
    };
    let http2 = |address| {
        let shared = watched(address, Some(kind.clone()));
        let mut config = Upstream::clone(shared.config());
        config.http.protocol = UpstreamProtocol::Http2;
        Arc::new(Shared::new(Arc::new(config), None))
    };
    let is_well = Arc::new(AtomicBool::new(false));
    let shared = http2(http2_server(is_well.clone()));
    let _lookups = start(&shared, &Tcp::default()).unwrap();
    for wanted in [false, true, false, true] {
        is_well.store(wanted, Ordering::Relaxed);
        wait_for(|| shared.is_up(0) == wanted);
    }
    // What does not speak it is down.
    let other = http2(http_server("200 OK", Arc::new(AtomicBool::new(true))));
    let _lookups = start(&other, &Tcp::default()).unwrap();
    wait_for(|| !other.is_up(0));
}

#[test]
fn connect_checks_follow_the_listener_and_their_threads_end_with_the_group() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shared = watched(UpstreamAddress::Ip(address), Some(HealthCheckKind::Connect));
    let _lookups = start(&shared, &Tcp::default()).unwrap();
    let failed = metrics::total(Counter::UpstreamChecksFailed);
    drop(listener);
    wait_for(|| !shared.is_up(0));
    assert!(metrics::total(Counter::UpstreamChecksFailed) > failed);
    let _listener = TcpListener::bind(address).unwrap();
    wait_for(|| shared.is_up(0));
    let weak = Arc::downgrade(&shared);
    drop(shared);
    wait_for(|| weak.strong_count() == 0);
}

#[test]
fn a_check_tries_all_addresses_of_a_name() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let well = listener.local_addr().unwrap();
    // Bound and not listening: it refuses, and is nobody else's.
    let refusing =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    refusing.bind(&any.into()).unwrap();
    let refused = refusing.local_addr().unwrap().as_socket().unwrap();
    let name = UpstreamAddress::Name("app.test".to_owned(), 80);
    let shared = watched(name, Some(HealthCheckKind::Connect));
    let outcome = |addresses: &[SocketAddr]| {
        shared.set_addresses(0, addresses.to_vec());
        rt::block_on(Driver::Epoll, async {
            let means = Means::new(Tcp::default()).unwrap();
            let time = Duration::from_secs(10);
            check(&shared, 0, &HealthCheckKind::Connect, &means, time).await
        })
        .unwrap()
    };
    assert!(outcome(&[refused, well]).unwrap());
    assert!(outcome(&[refused, refused]).is_err());
    assert!(outcome(&[]).is_err());
}

#[test]
fn names_are_looked_up_before_the_first_word() {
    let address = UpstreamAddress::Name("localhost".to_owned(), 7);
    let shared = watched(address, None);
    let lookups = start(&shared, &Tcp::default()).unwrap();
    lookups.recv_timeout(Duration::from_secs(20)).unwrap();
    let addresses = shared.addresses(0);
    assert!(
        addresses.iter().any(|address| address.ip().is_loopback()),
        "{addresses:?}"
    );
    assert!(addresses.iter().all(|address| address.port() == 7));
}

#[test]
fn a_failed_lookup_keeps_what_was_known() {
    let shared = watched(UpstreamAddress::Name("a.invalid".to_owned(), 7), None);
    let known = vec![([192, 0, 2, 1], 7).into()];
    shared.set_addresses(0, known.clone());
    let before = metrics::of_this_thread(Counter::UpstreamLookupsFailed);
    let mut name = names(&shared).remove(0);
    for answer in [Err(io::ErrorKind::TimedOut.into()), Ok(Vec::new())] {
        take_answer(&shared, &mut name, answer);
        assert_eq!(*shared.addresses(0), known);
    }
    assert_eq!(name.failures, 2);
    let failed = metrics::of_this_thread(Counter::UpstreamLookupsFailed);
    assert_eq!(failed, before + 2);
    let moved = vec![([192, 0, 2, 2], 7).into()];
    take_answer(&shared, &mut name, Ok(moved.clone()));
    assert_eq!((*shared.addresses(0) == moved, name.failures), (true, 0));
}

/// A group of these names, whose period is an hour.
fn named(hosts: &[&str]) -> Arc<Shared> {
    let shared = watched(UpstreamAddress::Unix("/unused".into()), None);
    let mut config = Upstream::clone(shared.config());
    config.resolve = Duration::from_secs(3600);
    let server = |host: &&str| UpstreamServer {
        address: UpstreamAddress::Name((*host).to_owned(), 7),
        weight: 1,
        connections_max: None,
    };
    config.servers = hosts.iter().map(server).collect();
    Arc::new(Shared::new(Arc::new(config), None))
}

#[test]
fn a_slow_name_delays_no_other() {
    static IS_HELD: AtomicBool = AtomicBool::new(true);
    let shared = named(&["slow.test", "fast.test"]);
    let (looked_up, first) = channel();
    let weak = Arc::downgrade(&shared);
    let watching = std::thread::spawn(move || {
        look_up_forever(&weak, &looked_up, |host, port| {
            while host == "slow.test" && IS_HELD.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Ok(vec![([192, 0, 2, 1], port).into()])
        });
    });
    wait_for(|| !shared.addresses(1).is_empty());
    assert!(shared.addresses(0).is_empty());
    assert!(first.try_recv().is_err(), "not all of them are known");
    IS_HELD.store(false, Ordering::Relaxed);
    first.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(!shared.addresses(0).is_empty());
    drop(shared);
    watching.join().unwrap();
}

#[test]
fn no_more_names_are_looked_up_at_a_time_than_may_be() {
    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let hosts: Vec<String> = (0..3 * UPSTREAM_LOOKUPS_MAX)
        .map(|index| format!("{index}.test"))
        .collect();
    let shared = named(&hosts.iter().map(String::as_str).collect::<Vec<_>>());
    let (looked_up, first) = channel();
    let weak = Arc::downgrade(&shared);
    std::thread::spawn(move || {
        look_up_forever(&weak, &looked_up, |_, port| {
            let under_way = UNDER_WAY.fetch_add(1, Ordering::Relaxed) + 1;
            MOST.fetch_max(under_way, Ordering::Relaxed);
            std::thread::yield_now();
            UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
            Ok(vec![([192, 0, 2, 1], port).into()])
        });
    });
    first.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!((0..hosts.len()).all(|server| !shared.addresses(server).is_empty()));
    assert!(MOST.load(Ordering::Relaxed) <= UPSTREAM_LOOKUPS_MAX);
}

/// The period is an hour.
#[test]
fn a_name_that_was_not_found_is_looked_up_again_soon() {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    let shared = named(&["a.test"]);
    let (looked_up, _first) = channel();
    let weak = Arc::downgrade(&shared);
    std::thread::spawn(move || {
        look_up_forever(&weak, &looked_up, |_, port| {
            match TIMES.fetch_add(1, Ordering::Relaxed) {
                0 => Err(io::ErrorKind::NotFound.into()),
                _ => Ok(vec![([192, 0, 2, 1], port).into()]),
            }
        });
    });
    wait_for(|| !shared.addresses(0).is_empty());
    assert_eq!(TIMES.load(Ordering::Relaxed), 2);
}

#[test]
fn pauses_after_failures_grow_up_to_the_period() {
    let seconds = |failures, period| pause_after(failures, Duration::from_secs(period)).as_secs();
    let growing = [0, 1, 2, 3, 4, 5, 6, 7].map(|failures| seconds(failures, 30));
    assert_eq!(growing, [30, 1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(seconds(u32::MAX, 86_400), 86_400);
}

#[test]
fn without_names_and_checks_nothing_is_started() {
    let shared = watched(UpstreamAddress::Unix("/nonexistent".into()), None);
    let lookups = start(&shared, &Tcp::default()).unwrap();
    assert!(lookups.recv().is_err());
    assert_eq!(Arc::weak_count(&shared), 0);
}

#[test]
fn answers_are_judged_by_their_status_line() {
    for (answer, verdict) in [
        ("", None),
        ("HTTP/1.1 200 OK\r", None),
        ("HTTP/1.1 200 OK\r\n", Some(true)),
        ("HTTP/1.0 301 Moved\r\nlocation: x", Some(true)),
        ("HTTP/1.1 399\r\n", Some(true)),
        ("HTTP/1.1 204 \n", Some(true)),
        ("HTTP/1.1 404 Not Found\r\n", Some(false)),
        ("HTTP/1.1 503 x\r\n", Some(false)),
        ("HTTP/1.1 2000 x\r\n", Some(false)),
        ("HTTP/1.1 2\r\n", Some(false)),
        ("HTTP/2.0 200 OK\r\n", Some(false)),
        ("SSH-2.0-x\r\n", Some(false)),
        ("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n", None),
        (
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 2",
            None,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\n",
            Some(true),
        ),
        ("HTTP/1.1 103 x\r\n\r\nHTTP/1.1 503 x\r\n", Some(false)),
        ("HTTP/1.1 101 Switching Protocols\r\n", Some(false)),
    ] {
        assert_eq!(judge(answer.as_bytes()), verdict, "{answer}");
    }
}
