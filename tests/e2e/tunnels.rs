//! Tunnels: bytes carried between a client and a server behind us, with and without terminating TLS;
//! their ends, faults on either side, and that nothing is left behind.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread::JoinHandle;

use rustls::AlertDescription;

use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Client, Ending, Manner, TLS12, TLS13, reset};
use crate::support::files::{KIB, MIB, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::kernel::{KernelTls, TlsStatistics, kernel_tls};
use crate::support::process::{OPENSSL, PRLIMIT, wait_for};
use crate::support::server::{Server, Setup};
use crate::support::wait::{PATIENCE, until_settled, until_some};

for_each_policy!(
    much_goes_both_ways_at_once,
    a_clients_end_is_passed_on_and_the_answer_comes_back,
    an_upstreams_end_is_passed_on_and_the_client_goes_on,
    a_clients_cut_is_a_reset_to_the_upstream,
    an_upstreams_reset_is_no_orderly_end,
    keys_change_in_the_middle,
    stalled_readers_cost_no_memory_and_nothing_is_left_behind,
    what_comes_with_the_handshake_is_carried,
);

/// A server behind us, which the test plays.
struct Upstream {
    listener: TcpListener,
}

impl Upstream {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn accept(&self) -> TcpStream {
        let (socket, _) = self.listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Plays `part` on the next connection.
    fn play<T: Send + 'static>(
        self,
        part: impl FnOnce(TcpStream) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        std::thread::spawn(move || part(self.accept()))
    }
}

/// A group of these servers.
fn group(servers: &[SocketAddr], extra: &str) -> String {
    let mut text = format!("[[upstream]]\nname = \"app\"\n{extra}\n");
    for address in servers {
        text.push_str(&format!(
            "[[upstream.server]]\naddress = \"tcp://{address}\"\n"
        ));
    }
    text
}

fn setup(policy: Policy, servers: &[SocketAddr]) -> Setup {
    Setup::new(policy)
        .site_with(&["localhost"], KeyKind::P256, "", "tunnel = \"app\"")
        .text(&group(servers, ""))
}

/// A server whose only site is a tunnel to `upstream`.
fn tunnel(policy: Policy, upstream: &Upstream) -> Server {
    setup(policy, &[upstream.address()]).start()
}

fn tls13() -> Manner {
    Manner {
        versions: TLS13,
        ..Manner::default()
    }
}

fn read_exactly(socket: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

/// openssl sends and receives 64 MiB at once; the upstream does the same, each way by itself.
fn much_goes_both_ways_at_once(policy: Policy) {
    const BYTES: usize = 64 * MIB;
    let upstream = Upstream::new();
    let server = tunnel(policy, &upstream);
    // Asked for the first time, it makes connections of its own.
    let kernel = kernel_tls();
    let before = TlsStatistics::read();
    std::fs::write(server.path("sent"), content(BYTES)).unwrap();
    let part = upstream.play(|mut socket| {
        let mut sending = socket.try_clone().unwrap();
        let sender = std::thread::spawn(move || sending.write_all(content(BYTES)).unwrap());
        let received = read_exactly(&mut socket, BYTES);
        sender.join().unwrap();
        received
    });
    let mut command = OPENSSL.command();
    command.args([
        "s_client",
        "-quiet",
        "-nocommands",
        "-servername",
        "localhost",
        "-connect",
    ]);
    command.arg(server.address.to_string());
    command.args(["-verify_return_error", "-CAfile", &server.authority()]);
    command.stdin(File::open(server.path("sent")).unwrap());
    command.stdout(File::create(server.path("received")).unwrap());
    let mut client = command.stderr(Stdio::null()).spawn().unwrap();
    assert_same_bytes(
        &part.join().unwrap(),
        content(BYTES),
        "what the upstream received",
    );
    wait_for(&mut client).expect("openssl ends when the server has");
    let received = std::fs::read(server.path("received")).unwrap();
    assert_same_bytes(&received, content(BYTES), "what the client received");
    let counters = server.counters();
    assert_eq!(counters["tunnels"], 1);
    if policy != Policy::Never && kernel != KernelTls::Absent {
        let after = TlsStatistics::read();
        assert_eq!(after.since(&before, "TlsTxSw"), 1);
        assert_eq!(after.since(&before, "TlsRxSw"), 1);
        let spliced = counters["tunnel_bytes_spliced"];
        assert!(
            spliced > 2 * (BYTES as u64 - 2 * MIB as u64),
            "only {spliced}"
        );
    }
}

fn a_clients_end_is_passed_on_and_the_answer_comes_back(policy: Policy) {
    for versions in [TLS12, TLS13] {
        let upstream = Upstream::new();
        let server = tunnel(policy, &upstream);
        let part = upstream.play(|mut socket| {
            let mut received = Vec::new();
            socket.read_to_end(&mut received).unwrap();
            socket.write_all(content(MIB)).unwrap();
            received
        });
        let manner = Manner {
            versions,
            ..Manner::default()
        };
        let mut client = manner.connect(&server);
        send_much(&mut client, content(3 * MIB));
        client.close_notify();
        let (answer, ending) = client.read_rest();
        assert_eq!(ending, Ending::CloseNotify);
        assert_same_bytes(&answer, content(MIB), "the answer");
        assert_same_bytes(&part.join().unwrap(), content(3 * MIB), "the question");
        assert_eq!(server.counters()["tunnels_aborted"], 0);
    }
}

fn an_upstreams_end_is_passed_on_and_the_client_goes_on(policy: Policy) {
    let upstream = Upstream::new();
    let server = tunnel(policy, &upstream);
    let part = upstream.play(|mut socket| {
        socket.write_all(b"that was all").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        socket.read_to_end(&mut received).unwrap();
        received
    });
    let mut client = tls13().connect(&server);
    let (said, ending) = client.read_rest();
    assert_eq!(
        (&*said, ending),
        (&b"that was all"[..], Ending::CloseNotify)
    );
    send_much(&mut client, content(MIB));
    client.close_notify();
    assert_same_bytes(
        &part.join().unwrap(),
        content(MIB),
        "after the upstream's end",
    );
}

fn a_clients_cut_is_a_reset_to_the_upstream(policy: Policy) {
    let upstream = Upstream::new();
    let server = tunnel(policy, &upstream);
    let mut client = tls13().connect(&server);
    let mut socket = upstream.accept();
    client.send(b"half of it");
    assert_eq!(read_exactly(&mut socket, 10), b"half of it");
    client.truncate();
    let error = socket.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    server.wait_for_counter("tunnels_aborted", 1);
    server.wait_for_counter("closed_without_notify", 1);
}

fn an_upstreams_reset_is_no_orderly_end(policy: Policy) {
    let upstream = Upstream::new();
    let server = tunnel(policy, &upstream);
    let mut client = tls13().connect(&server);
    let mut socket = upstream.accept();
    socket.write_all(b"half of it").unwrap();
    let mut said = Vec::new();
    client.read_into(&mut said, 10);
    reset(socket);
    let ending = client.read_to_ending();
    assert_eq!(ending, Ending::Alert(AlertDescription::InternalError));
    server.wait_for_counter("tunnels_aborted", 1);
    server.wait_for_counter("errors_upstream", 1);
}

/// KeyUpdates of the client with requests for the server's, between bytes of both directions.
fn keys_change_in_the_middle(policy: Policy) {
    let upstream = Upstream::new();
    // The kernel has the connection from the first byte also under `auto`.
    let server = setup(policy, &[upstream.address()])
        .table("offload", "tunnel_bytes_min = 0")
        .start();
    let mut client = tls13().connect(&server);
    let mut socket = upstream.accept();
    for round in 0..4 {
        send_much(&mut client, content(100 * KIB));
        let received = read_exactly(&mut socket, 100 * KIB);
        assert_same_bytes(&received, content(100 * KIB), "up");
        socket.write_all(content(200 * KIB)).unwrap();
        let mut received = Vec::new();
        client.read_into(&mut received, 200 * KIB);
        assert_same_bytes(&received, content(200 * KIB), "down");
        client.tls.refresh_traffic_keys().unwrap();
        client.flush().unwrap();
        if policy != Policy::Never && kernel_tls() == KernelTls::WithoutRekey {
            let ending = client.read_to_ending();
            assert!(
                matches!(ending, Ending::Alert(_)),
                "{ending:?} in round {round}"
            );
            let error = socket.read(&mut [0; 16]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            return;
        }
        server.wait_for_counter("key_updates_received", round + 1);
    }
    client.send(b"end");
    assert_eq!(read_exactly(&mut socket, 3), b"end");
    assert_eq!(server.counters()["key_updates_sent"], 4);
}

/// On half of the tunnels the client does not read, on the other half the upstream.
fn stalled_readers_cost_no_memory_and_nothing_is_left_behind(policy: Policy) {
    const TUNNELS: usize = 16;
    let upstream = Upstream::new();
    let server = tunnel(policy, &upstream);
    // What a worker makes once and keeps is there before the count: pipes of both workers.
    for _ in 0..4 {
        let (client, socket) = pair(&server, &upstream);
        drop((client, socket));
    }
    server.wait_for_counter("connections_closed", 4);
    let before = server.holdings();
    let resident = server.resident_bytes();
    let mut tunnels = Vec::new();
    for index in 0..TUNNELS {
        let (mut client, socket) = pair(&server, &upstream);
        let (talker, listener) = if index % 2 == 0 {
            socket.set_nonblocking(true).unwrap();
            (socket, client.socket.try_clone().unwrap())
        } else {
            client.socket.set_nonblocking(true).unwrap();
            (client.socket.try_clone().unwrap(), socket)
        };
        let mut sent = 0;
        until_settled(
            "the tunnel takes no more",
            || {
                sent += if index % 2 == 0 {
                    write_some(&mut &talker)
                } else {
                    drop(client.tls.writer().write(&content(MIB)[..256 * KIB]));
                    write_tls(&mut client)
                };
                sent
            },
            |&sent| sent > 0,
        );
        tunnels.push((client, talker, listener));
    }
    let grown = server.resident_bytes().saturating_sub(resident);
    assert!(
        grown < TUNNELS * MIB,
        "{grown} bytes for {TUNNELS} stalled tunnels"
    );
    assert!(server.descriptors() > before.descriptors);
    drop(tunnels);
    let bounded = |descriptors: usize| descriptors <= before.descriptors + PIPES_KEPT;
    until_some("the descriptors are given back", || {
        let now = server.holdings();
        (now.connections == before.connections && bounded(now.descriptors)).then_some(())
    });
}

/// Bytes that share a segment with the client's Finished are not lost.
fn what_comes_with_the_handshake_is_carried(policy: Policy) {
    let upstream = Upstream::new();
    let server = tunnel(policy, &upstream);
    let name = "localhost".try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(tls13().config(), name).unwrap();
    let mut socket = tls13().connect_tcp(server.address);
    tls.writer().write_all(b"early").unwrap();
    while tls.wants_write() {
        tls.write_tls(&mut socket).unwrap();
    }
    while tls.is_handshaking() {
        tls.read_tls(&mut socket).unwrap();
        tls.process_new_packets().unwrap();
    }
    // Finished and data, in one call.
    let mut flight = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut flight).unwrap();
    }
    socket.write_all(&flight).unwrap();
    let mut socket_behind = upstream.accept();
    assert_eq!(read_exactly(&mut socket_behind, 5), b"early");
}

fn pair(server: &Server, upstream: &Upstream) -> (Client, TcpStream) {
    let client = tls13().connect(server);
    (client, upstream.accept())
}

/// rustls buffers 64 KiB before it wants to be relieved of them.
fn send_much(client: &mut Client, bytes: &[u8]) {
    bytes.chunks(32 * KIB).for_each(|chunk| client.send(chunk));
}

fn write_some(socket: &mut &TcpStream) -> usize {
    let mut sent = 0;
    while let Ok(count) = socket.write(&content(MIB)[..256 * KIB]) {
        sent += count;
    }
    sent
}

fn write_tls(client: &mut Client) -> usize {
    let mut sent = 0;
    while let Ok(count @ 1..) = client.tls.write_tls(&mut client.socket) {
        sent += count;
    }
    sent
}

#[test]
fn a_listener_carries_all_its_connections_and_agrees_to_its_protocols() {
    let upstream = Upstream::new();
    let server = Setup::new(Policy::Auto)
        .text(&group(&[upstream.address()], ""))
        .text(
            "[[listener]]\naddress = \"127.0.0.3:0\"\ntunnel = \"app\"\nalpn = [\"mqtt\", \"x\"]\n",
        )
        .start();
    server.write_content("1k", KIB);
    let address = server.announced("listening on tls://").parse().unwrap();
    let manner = Manner {
        protocols: &["x", "mqtt"],
        ..tls13()
    };
    let mut client = manner.establish(manner.connect_tcp(address)).unwrap();
    assert_eq!(client.tls.alpn_protocol(), Some(&b"mqtt"[..]));
    client.send(b"CONNECT");
    let mut socket = upstream.accept();
    assert_eq!(read_exactly(&mut socket, 7), b"CONNECT");
    // The other listener of the same site serves its files.
    let mut http = Client::connect(&server);
    assert_eq!(http.get("/1k").body, content(KIB));
    let refused = Manner {
        protocols: &["h9"],
        ..tls13()
    };
    assert!(refused.establish(refused.connect_tcp(address)).is_err());
}

#[test]
fn a_tunnels_site_cannot_be_reached_over_http() {
    let upstream = Upstream::new();
    let server = Setup::new(Policy::Auto)
        .site(&["localhost"], KeyKind::P256, "root")
        .site_with(&["tunnel.test"], KeyKind::P256, "", "tunnel = \"app\"")
        .text(&group(&[upstream.address()], ""))
        .start();
    let mut client = Client::connect(&server);
    client.send(b"GET / HTTP/1.1\r\nHost: tunnel.test\r\n\r\n");
    assert_eq!(client.read_response().status(), 421);
}

#[test]
fn an_upstream_that_refuses_is_told_to_the_client_by_an_alert() {
    let gone = Upstream::new().address();
    let server = setup(Policy::Auto, &[gone]).start();
    let before = server.holdings();
    let mut client = tls13().connect(&server);
    let ending = client.read_to_ending();
    assert_eq!(ending, Ending::Alert(AlertDescription::InternalError));
    let counters = server.counters();
    assert_eq!(counters["upstream_unavailable"], 1);
    assert_eq!(counters["upstream_connects_failed"], 1);
    server.wait_for_counter("errors_upstream", 1);
    server.wait_for_holdings(before);
}

#[test]
fn another_server_is_tried_when_one_refuses() {
    let gone = Upstream::new().address();
    let upstream = Upstream::new();
    let server = setup(Policy::Auto, &[gone, upstream.address()]).start();
    for _ in 0..10 {
        let (mut client, mut socket) = pair(&server, &upstream);
        client.send(b"ping");
        assert_eq!(read_exactly(&mut socket, 4), b"ping");
    }
    let counters = server.counters();
    assert_eq!(counters["upstream_unavailable"], 0);
    assert_eq!(counters["upstream_ejections"], 1, "and then it is left out");
    assert_eq!(counters["upstream_connects_failed"], 3);
}

#[test]
fn a_full_server_makes_tunnels_wait_in_bounds() {
    let upstream = Upstream::new();
    let setup = |http: &str| {
        let text =
            group(&[upstream.address()], "") + "connections_max = 1\n[upstream.http]\n" + http;
        Setup::new(Policy::Auto)
            .workers(1)
            .site_with(&["localhost"], KeyKind::P256, "", "tunnel = \"app\"")
            .text(&text)
    };
    // Not for longer than it may.
    let server = setup("queue_ms = 250\n").start();
    let first = pair(&server, &upstream);
    let mut late = tls13().connect(&server);
    let ending = late.read_to_ending();
    assert_eq!(ending, Ending::Alert(AlertDescription::InternalError));
    assert_eq!(server.counters()["upstream_queue_timeouts"], 1);
    drop((first, server));
    // Not more than may, and the others until there is a place.
    let server = setup("queue_ms = 60000\nqueue_max = 1\n").start();
    let first = pair(&server, &upstream);
    let mut client = tls13().connect(&server);
    server.wait_for_counter("upstream_queued", 1);
    let mut refused = tls13().connect(&server);
    let ending = refused.read_to_ending();
    assert_eq!(ending, Ending::Alert(AlertDescription::InternalError));
    let counters = server.counters();
    assert_eq!(counters["upstream_queue_full"], 1);
    assert_eq!(counters["upstream_unavailable"], 1);
    drop(first);
    let mut socket = upstream.accept();
    client.send(b"ping");
    assert_eq!(read_exactly(&mut socket, 4), b"ping");
}

#[test]
fn a_unix_socket_is_a_server_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = Setup::new(Policy::Auto)
        .site_with(&["localhost"], KeyKind::P256, "", "tunnel = \"app\"")
        .text(&format!(
            "[[upstream]]\nname = \"app\"\n[[upstream.server]]\naddress = \"unix:{}\"\n",
            path.display()
        ))
        .start();
    let mut client = tls13().connect(&server);
    let (mut socket, _) = listener.accept().unwrap();
    send_much(&mut client, content(MIB));
    let mut received = vec![0; MIB];
    socket.read_exact(&mut received).unwrap();
    assert_same_bytes(&received, content(MIB), "over the Unix socket");
    drop(socket);
    assert!(matches!(client.read_to_ending(), Ending::CloseNotify));
}

#[test]
fn idle_tunnels_and_old_ones_end_and_neither_side_takes_it_for_an_end() {
    for (key, counter) in [
        ("tunnel_idle_ms = 250", "timeouts_tunnel_idle"),
        ("tunnel_lifetime_ms = 250", "timeouts_tunnel_lifetime"),
    ] {
        let upstream = Upstream::new();
        let server = setup(Policy::Auto, &[upstream.address()])
            .table("timeouts", key)
            .start();
        let (mut client, mut socket) = pair(&server, &upstream);
        let ending = client.read_to_ending();
        assert_eq!(ending, Ending::Alert(AlertDescription::InternalError));
        let error = socket.read(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(server.counters()[counter], 1);
    }
}

#[test]
fn a_drain_waits_for_tunnels() {
    let upstream = Upstream::new();
    let mut server = tunnel(Policy::Auto, &upstream);
    let (mut client, mut socket) = pair(&server, &upstream);
    server.terminate();
    server.wait_for_log("draining");
    client.send(b"still here");
    assert_eq!(read_exactly(&mut socket, 10), b"still here");
    socket.write_all(b"me too").unwrap();
    drop(socket);
    let (said, ending) = client.read_rest();
    assert_eq!((&*said, ending), (&b"me too"[..], Ending::CloseNotify));
    client.close_notify();
    drop(client);
    assert!(server.wait().success());
}

/// A server of ours behind a server of ours: the inner one terminates.
#[test]
fn names_are_passed_on_without_terminating() {
    let inner = Setup::new(Policy::Auto).start();
    inner.write_content("1m", MIB);
    let outer = Setup::new(Policy::Auto)
        .site(&["other.test"], KeyKind::P256, "root")
        .text(&group(&[inner.address], ""))
        .text("[[passthrough]]\nnames = [\"localhost\"]\nupstream = \"app\"\n")
        .start();
    for versions in [TLS12, TLS13] {
        let manner = Manner {
            versions,
            ..Manner::default()
        };
        let mut client = manner.connect(&outer);
        assert_same_bytes(&client.get("/1m").body, content(MIB), "passed through");
        client.close_notify();
        assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    }
    let counters = outer.counters();
    assert_eq!(counters["tunnels_passed_through"], 2);
    assert_eq!(
        counters["handshakes_tls13_full"] + counters["handshakes_tls12_full"],
        0
    );
    assert!(counters["tunnel_bytes_spliced"] > 2 * MIB as u64);
    assert_eq!(inner.counters()["requests"], 2);
}

/// Where there is no pipe to be had, bytes take the longer way.
#[test]
fn a_tunnel_without_pipes_copies() {
    let inner = Setup::new(Policy::Auto).start();
    inner.write_content("1m", MIB);
    let outer = Setup::new(Policy::Auto)
        .workers(1)
        .site(&["other.test"], KeyKind::P256, "root")
        .text(&group(&[inner.address], ""))
        .text("[[passthrough]]\nnames = [\"localhost\"]\nupstream = \"app\"\n")
        .start();
    // One for the client and one for the server behind; a pipe needs two.
    outer.leave_descriptors(3);
    let mut client = tls13().connect(&outer);
    assert_same_bytes(&client.get("/1m").body, content(MIB), "copied");
    let counters = outer.counters();
    assert!(counters["tunnel_pipes_refused"] > 0);
    assert_eq!(counters["tunnel_bytes_spliced"], 0);
}

/// However the ClientHello is cut, the upstream gets the very bytes.
#[test]
fn a_client_hello_is_passed_on_as_it_came() {
    let upstream = Upstream::new();
    let server = Setup::new(Policy::Auto)
        .site(&["other.test"], KeyKind::P256, "root")
        .text(&group(&[upstream.address()], ""))
        .text("[[passthrough]]\nnames = [\"raw.test\"]\ndefault = false\nupstream = \"app\"\n")
        .start();
    let manner = Manner {
        name: "raw.test",
        ..Manner::default()
    };
    let whole = manner.client_hello();
    // The same message in records of 100 bytes.
    let in_records: Vec<u8> = whole[5..]
        .chunks(100)
        .flat_map(|part| [&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat())
        .collect();
    for (hello, cut) in [(&whole, whole.len()), (&whole, 1), (&in_records, 7)] {
        let mut socket = manner.connect_tcp(server.address);
        for part in hello.chunks(cut) {
            socket.write_all(part).unwrap();
        }
        let mut behind = upstream.accept();
        assert_eq!(&read_exactly(&mut behind, hello.len()), hello);
        socket.write_all(b"more").unwrap();
        assert_eq!(read_exactly(&mut behind, 4), b"more");
        behind.write_all(b"answer").unwrap();
        assert_eq!(read_exactly(&mut socket, 6), b"answer");
        // Without TLS of ours a FIN is an end, and a reset is passed on as one.
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(behind.read(&mut [0; 1]).unwrap(), 0);
        reset(behind);
        let error = socket.read(&mut [0; 16]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn without_descriptors_tunnels_are_refused_and_the_others_go_on() {
    let upstream = Upstream::new();
    let server = setup(Policy::Auto, &[upstream.address()])
        .workers(1)
        .table("limits", "open_files_per_worker_max = 1")
        .descriptors_max(96)
        .start();
    let before = server.holdings();
    let (mut client, mut socket) = pair(&server, &upstream);
    let idle: Vec<TcpStream> = (0..120)
        .map(|_| tls13().connect_tcp(server.address))
        .collect();
    until_some("the server has taken what it can", || {
        (server.counters()["refused_worker_full"] > 0).then_some(())
    });
    send_much(&mut client, content(MIB));
    let received = read_exactly(&mut socket, MIB);
    assert_same_bytes(&received, content(MIB), "up");
    drop((client, socket, idle));
    let bounded = |descriptors: usize| descriptors <= before.descriptors + PIPES_KEPT;
    until_some("the descriptors are given back", || {
        let now = server.holdings();
        (now.connections == before.connections && bounded(now.descriptors)).then_some(())
    });
}

/// Without a descriptor for a pipe bytes are copied, and spliced again once there is one.
#[test]
fn without_descriptors_for_pipes_bytes_are_copied() {
    let upstream = Upstream::new();
    let server = Setup::new(Policy::Auto)
        .workers(1)
        .site(&["other.test"], KeyKind::P256, "root")
        .text(&group(&[upstream.address()], ""))
        .text("[[passthrough]]\nnames = [\"raw.test\"]\nupstream = \"app\"\n")
        .start();
    let manner = Manner {
        name: "raw.test",
        ..Manner::default()
    };
    let hello = manner.client_hello();
    let mut client = manner.connect_tcp(server.address);
    client.write_all(&hello).unwrap();
    let mut behind = upstream.accept();
    read_exactly(&mut behind, hello.len());
    let limit = |soft: &str| {
        let id = server.id().to_string();
        PRLIMIT
            .run(["--pid", &id, &format!("--nofile={soft}:")])
            .success();
    };
    let carry = |client: &mut TcpStream, behind: &mut TcpStream| {
        let mut sending = client.try_clone().unwrap();
        let sender = std::thread::spawn(move || sending.write_all(content(MIB)).unwrap());
        assert_same_bytes(&read_exactly(behind, MIB), content(MIB), "up");
        sender.join().unwrap();
    };
    limit("4");
    carry(&mut client, &mut behind);
    let counters = server.counters();
    assert!(counters["tunnel_pipes_refused"] > 0);
    assert_eq!(counters["tunnel_bytes_spliced"], 0);
    limit("1000");
    carry(&mut client, &mut behind);
    let counters = server.counters();
    assert!(counters["tunnel_bytes_spliced"] > 0);
    assert_eq!(counters["tunnels_aborted"], 0);
}

/// Descriptors of the pipes that two workers keep (`limits::PIPES_KEPT_PER_WORKER_MAX`).
const PIPES_KEPT: usize = 2 * 2 * portcullis::limits::PIPES_KEPT_PER_WORKER_MAX;
