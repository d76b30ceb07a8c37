//! Everything at once, for a while: files, requests passed on in plain text and over TLS, HTTP/2,
//! tunnels, and peers that fail, vanish and lie. Afterwards nothing is left: no connection, no
//! descriptor, no memory that grew with the time.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::proxying::backend::Backend;
use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Client, Manner, reset};
use crate::support::files::{KIB, MIB, assert_same_bytes, content};
use crate::support::http2::Http2;
use crate::support::server::{Server, Setup};
use crate::support::wait::until_some;

/// What the load goes to.
struct Scene {
    server: Server,
    backend: Backend,
    /// Behind the server, over TLS.
    _inner: Server,
}

/// One kind of load, again and again.
type Load = fn(&Scene, u64);

const LOADS: [(&str, Load); 6] = [
    ("files", files),
    ("passed on", passed_on),
    ("passed on over TLS", passed_on_over_tls),
    ("HTTP/2", http2),
    ("tunnels", tunnels),
    ("faults", faults),
];

#[test]
fn everything_at_once_leaves_nothing_behind() {
    let seconds = std::env::var(SECONDS).ok();
    let seconds = seconds.map_or(SECONDS_USUAL, |text| text.parse().unwrap());
    let scene = Arc::new(Scene::new());
    let before = scene.server.holdings();
    let is_over = Arc::new(AtomicBool::new(false));
    let rounds: Vec<Arc<AtomicU64>> = LOADS.iter().map(|_| Arc::default()).collect();
    let threads: Vec<JoinHandle<()>> = LOADS
        .iter()
        .zip(&rounds)
        .map(|(&(name, load), rounds)| {
            let (scene, is_over, rounds) = (scene.clone(), is_over.clone(), rounds.clone());
            let body = move || {
                while !is_over.load(Ordering::Relaxed) {
                    load(&scene, rounds.fetch_add(1, Ordering::Relaxed));
                }
            };
            let named = std::thread::Builder::new().name(name.to_owned());
            named.spawn(body).unwrap()
        })
        .collect();
    let samples = watch(&scene.server, Duration::from_secs(seconds), &threads);
    is_over.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    for ((name, _), rounds) in LOADS.iter().zip(&rounds) {
        let rounds = rounds.load(Ordering::Relaxed);
        println!("{name}: {rounds} rounds");
        assert!(rounds > 0, "{name} has not begun");
    }
    check_memory(&samples);
    // What is kept for the next: idle connections to the servers behind, pipes, files.
    until_some("every connection ends", || {
        (scene.server.holdings().connections == 0).then_some(())
    });
    let kept = scene.server.holdings().descriptors - before.descriptors;
    assert!(kept <= KEPT_MAX, "{kept} descriptors more than before");
    let counters = scene.server.counters();
    assert_eq!(counters["connection_panics"], 0);
    assert_eq!(counters["errors_us"], 0);
    assert!(counters["upstream_handshakes_resumed"] > 0);
}

impl Scene {
    fn new() -> Self {
        let inner = Setup::new(Policy::Auto).start();
        inner.write_content("1m", MIB);
        let backend = Backend::start();
        let echo = echo_forever();
        let text = format!(
            "[[upstream]]\nname = \"app\"\neject_failures = 0\n\
             [[upstream.server]]\naddress = \"tcp://{}\"\n\
             [upstream.http]\nfirst_byte_ms = 2000\nbetween_bytes_ms = 2000\n\
             [[upstream]]\nname = \"secure\"\n[[upstream.server]]\naddress = \"tcp://{}\"\n\
             [upstream.tls]\nca = \"authority.pem\"\nserver_name = \"localhost\"\n\
             [upstream.http]\nconnection_age_ms = 500\n\
             [[upstream]]\nname = \"echo\"\n[[upstream.server]]\naddress = \"tcp://{echo}\"\n",
            backend.address, inner.address
        );
        let server = Setup::new(Policy::Auto)
            .site_with(
                &["localhost"],
                KeyKind::P256,
                "root",
                "[[site.route]]\nprefix = \"/app\"\nupstream = \"app\"\nstrip_prefix = true\n\
                 [[site.route]]\nprefix = \"/tls\"\nupstream = \"secure\"\nstrip_prefix = true\n",
            )
            .site_with(&["tunnel.test"], KeyKind::P256, "", "tunnel = \"echo\"")
            .text(&text)
            .start();
        server.write_content("1k", KIB);
        server.write_content("1m", MIB);
        Self {
            server,
            backend,
            _inner: inner,
        }
    }
}

/// Looks at the server's memory until `time` has passed: how much it holds at each look.
fn watch(server: &Server, time: Duration, threads: &[JoinHandle<()>]) -> Vec<usize> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    while begun.elapsed() < time {
        assert!(
            threads.iter().all(|thread| !thread.is_finished()),
            "a load has given up"
        );
        let resident = server.resident_bytes();
        samples.push(resident);
        if samples.len() % 60 == 0 {
            let descriptors = server.descriptors();
            println!(
                "{} s: {resident} bytes resident, {descriptors} descriptors",
                begun.elapsed().as_secs()
            );
        }
        std::thread::park_timeout(LOOK);
    }
    samples
}

/// After the first third, in which caches and pools fill, it is flat.
fn check_memory(samples: &[usize]) {
    let (_, settled) = samples.split_at(samples.len() / 3);
    let (early, late) = settled.split_at(settled.len() / 2);
    let most = |samples: &[usize]| samples.iter().copied().max().unwrap_or_default();
    let (early, late) = (most(early), most(late));
    println!("resident: {early} bytes at most, then {late}");
    assert!(
        late <= early + GROWTH_BYTES_MAX,
        "from {early} to {late} bytes"
    );
}

fn files(scene: &Scene, _round: u64) {
    let mut client = Client::connect(&scene.server);
    for _ in 0..3 {
        assert_same_bytes(&client.get("/1k").body, content(KIB), "/1k");
        assert_same_bytes(&client.get("/1m").body, content(MIB), "/1m");
    }
    assert_eq!(client.get("/none").status(), 404);
}

fn passed_on(scene: &Scene, _round: u64) {
    let mut client = Client::connect(&scene.server);
    assert_eq!(client.get("/app/hello").body, b"hello");
    assert_same_bytes(&client.get("/app/big").body, content(4 * MIB), "/big");
    let head = b"POST /app/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30000\r\n\r\n";
    client.send(head);
    client.send(&content(MIB)[..30_000]);
    let echoed = crate::proxying::read_chunked(&mut client);
    assert_same_bytes(&echoed.body, &content(MIB)[..30_000], "/echo");
}

fn passed_on_over_tls(scene: &Scene, _round: u64) {
    let mut client = Client::connect(&scene.server);
    for _ in 0..2 {
        assert_same_bytes(&client.get("/tls/1m").body, content(MIB), "/tls/1m");
    }
}

fn http2(scene: &Scene, _round: u64) {
    let mut client = Http2::connect(&Manner::default(), &scene.server, &[]);
    for _ in 0..5 {
        client.ask("/1k");
        client.ask("/1m");
        client.ask("/app/hello");
    }
    client.hear_all();
    for heard in client.streams.values() {
        assert_eq!(heard.status, Some(200));
    }
}

fn tunnels(scene: &Scene, round: u64) {
    let manner = Manner {
        name: "tunnel.test",
        protocols: &[],
        ..Manner::default()
    };
    let mut client = manner.connect(&scene.server);
    for part in content(MIB).chunks(32 * KIB).take(8) {
        client.send(part);
        let mut echoed = Vec::new();
        client.read_into(&mut echoed, part.len());
        assert_same_bytes(&echoed, part, "the echo");
    }
    match round % 3 {
        0 => reset(client.socket),
        1 => client.truncate(),
        _ => {
            client.close_notify();
            client.read_to_ending();
        }
    }
}

fn faults(scene: &Scene, round: u64) {
    let server = &scene.server;
    match round % 6 {
        0 => {
            let mut client = Client::connect(server);
            for path in [
                "/app/die",
                "/app/garbage",
                "/app/two-lengths",
                "/app/folded",
            ] {
                assert_eq!(client.get(path).status(), 502, "{path}");
            }
        }
        1 => {
            let mut client = Client::connect(server);
            client.ask("/app/die/late");
            client.read_head();
            client.read_rest();
        }
        // In the middle of a handshake, of a download, of an answer that never comes.
        2 => {
            let mut socket = Manner::default().connect_tcp(server.address);
            let hello = Manner::default().client_hello();
            drop(socket.write_all(&hello[..hello.len() / 2]));
            reset(socket);
        }
        3 => {
            let mut client = Client::connect(server);
            client.ask("/app/big");
            client.read_head();
            reset(client.socket);
        }
        4 => {
            let before = scene.backend.asked_for("/stall");
            let mut client = Client::connect(server);
            client.ask("/app/stall");
            until_some("the backend is asked", || {
                (scene.backend.asked_for("/stall") > before).then_some(())
            });
            reset(client.socket);
        }
        _ => {
            let mut socket = Manner::default().connect_tcp(server.address);
            drop(socket.write_all(&content(KIB)[..300]));
            drop(socket.read(&mut [0; 64]));
        }
    }
}

/// A server that sends back what it is sent, for as long as the process lives.
fn echo_forever() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut reading = socket.try_clone().unwrap();
                drop(std::io::copy(&mut reading, &mut socket));
            });
        }
    });
    address
}

/// How long, in seconds; see `tests/soak`.
const SECONDS: &str = "SOAK_SECONDS";
const SECONDS_USUAL: u64 = 20;

const LOOK: Duration = Duration::from_millis(250);

/// Idle connections to two groups, pipes and cached files of two workers.
const KEPT_MAX: usize = 2 * (2 * 32 + 2 * portcullis::limits::PIPES_KEPT_PER_WORKER_MAX + 8);

/// Allocators and the load's own ups and downs.
const GROWTH_BYTES_MAX: usize = 24 * MIB;
