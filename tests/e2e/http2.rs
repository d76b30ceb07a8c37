//! HTTP/2 over TLS, by foreign clients and by one that can be told everything.

use std::collections::BTreeMap;

use portcullis::proto::h2::ErrorCode;
use portcullis::proto::h2::frame::{put_ping, put_rst_stream, put_window_update};

use crate::support::Policy;
use crate::support::certificates::KeyKind;
use crate::support::client::{Client, Ending, Manner, TLS12};
use crate::support::files::{KIB, MIB, SIZES, assert_same_bytes, content};
use crate::support::for_each_policy;
use crate::support::http2::{Http2, frame};
use crate::support::kernel::{KernelTls, is_lab, kernel_tls};
use crate::support::process::{CURL, DEBIAN_PYTHON, H2LOAD, NGHTTP};
use crate::support::server::{Server, Setup};

for_each_policy!(
    curl,
    nghttp,
    python_h2,
    many_small,
    many_large,
    interleaved,
    used_up_keys,
    answers_while_nothing_is_read,
    answers_come_after_the_clients_end,
    a_file_that_shrinks_ends_its_stream_only
);

fn server_with_files(policy: Policy) -> Server {
    let server = Setup::new(policy).start();
    for size in SIZES {
        server.write_content(&size.to_string(), size);
    }
    server
}

fn curl(policy: Policy) {
    let server = server_with_files(policy);
    for size in SIZES {
        let url = server.url(&format!("/{size}"));
        let finished = CURL
            .run([
                "--silent",
                "--show-error",
                "--fail",
                "--http2",
                "--cacert",
                &server.authority(),
                "--resolve",
                &server.resolve("localhost"),
                &url,
            ])
            .success();
        assert_same_bytes(
            &finished.stdout,
            content(size),
            &format!("{size} bytes by curl"),
        );
    }
    let requests = SIZES.len() as u64;
    let counters = server.counters();
    assert_eq!(counters["requests_http2"], requests);
    let large = SIZES.iter().filter(|&&size| size >= 256 * KIB).count() as u64;
    // `auto` moves what sends bulk, and that alone.
    let (sending, receiving) = match (policy, kernel_tls()) {
        (Policy::Always, KernelTls::WithoutRekey | KernelTls::WithRekey) => (requests, requests),
        (Policy::Auto, KernelTls::WithoutRekey | KernelTls::WithRekey) => (large, 0),
        (Policy::Never, _) | (_, KernelTls::Absent) => (0, 0),
    };
    assert!(large > 0);
    assert_eq!(counters["offloaded_send"], sending);
    assert_eq!(counters["offloaded_receive"], receiving);
    expect_mapped(&server, policy, large);
}

/// Where the kernel seals, it takes the content of `large` files off its page cache, if it tells what
/// is there: Linux 6.1 does not for every file system.
fn expect_mapped(server: &Server, policy: Policy, large: u64) {
    let mapped_bytes = server.counters()["file_bytes_mapped"];
    match (policy, kernel_tls()) {
        (Policy::Never, _) | (_, KernelTls::Absent) => assert_eq!(mapped_bytes, 0),
        (_, KernelTls::WithoutRekey) => {}
        (_, KernelTls::WithRekey) => {
            let least = large * 250 * KIB as u64;
            assert!(mapped_bytes >= least, "{mapped_bytes} of {least}");
        }
    }
}

/// Several files at once on one connection, with priorities of the old kind.
fn nghttp(policy: Policy) {
    let server = server_with_files(policy);
    let urls: Vec<_> = SIZES
        .iter()
        .map(|size| {
            server
                .url(&format!("/{size}"))
                .replace("localhost", "127.0.0.1")
        })
        .collect();
    let arguments = ["--null-out", "--stat", "--no-verify-peer"];
    let finished = NGHTTP
        .run(arguments.into_iter().chain(urls.iter().map(|url| &**url)))
        .success();
    let report = finished.text();
    assert_eq!(report.matches(" 200 ").count(), SIZES.len(), "{report}");
    server.wait_for_counter("responses_2xx", SIZES.len() as u64);
    assert_eq!(server.counters()["connections_accepted"], 1);
}

/// The client that most servers' own tests are made of, with streams of all sizes, some of them reset.
fn python_h2(policy: Policy) {
    let server = Setup::new(policy).start();
    for size in [0, 1, 1000, 16_384, 70_000, 200_000] {
        server.write_content(&size.to_string(), size);
    }
    let requests = if is_lab() { 50 } else { 1000 };
    let client = format!(
        "{}/tests/e2e/foreign/h2_client.py",
        env!("CARGO_MANIFEST_DIR")
    );
    let target = server.url("").replace("https://", "");
    let finished = DEBIAN_PYTHON
        .run([
            &*client,
            target.trim_end_matches('/'),
            &server.authority(),
            &requests.to_string(),
            server.path("root/200000").to_str().unwrap(),
        ])
        .success();
    assert_eq!(finished.text().trim(), "done");
    let counters = server.counters();
    assert_eq!(counters["requests_http2"], requests);
    assert_eq!(counters["http2_goaways"], 0);
}

fn many_small(policy: Policy) {
    load(policy, KIB, 4000, 10, 50);
}

fn many_large(policy: Policy) {
    load(policy, 300 * KIB, 200, 4, 8);
}

fn load(policy: Policy, size: usize, requests: u64, clients: u64, streams: u64) {
    let server = Setup::new(policy).start();
    server.write_content("file", size);
    let finished = H2LOAD
        .run([
            "--requests",
            &requests.to_string(),
            "--clients",
            &clients.to_string(),
            "--max-concurrent-streams",
            &streams.to_string(),
            &server.url("/file").replace("localhost", "127.0.0.1"),
        ])
        .success();
    let report = finished.text();
    for line in [
        format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout"),
        format!("status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx"),
        format!("({}) data", requests * size as u64),
    ] {
        assert!(report.contains(&line), "{report}");
    }
    let counters = server.counters();
    assert_eq!(counters["requests_http2"], requests);
    assert_eq!(counters["connections_accepted"], clients);
    let large = if size >= 256 * KIB { requests } else { 0 };
    expect_mapped(&server, policy, large);
    server.wait_for_counter("connections_closed", clients);
}

/// Thousands of streams of random sizes, windows and ends, ten thousand by all policies: every byte is
/// the right one.
fn interleaved(policy: Policy) {
    let setup = Setup::new(policy).table("limits", "open_files_per_worker_max = 16");
    let server = setup.workers(1).start();
    let sizes = [
        0,
        1,
        500,
        4 * KIB,
        16 * KIB,
        16 * KIB + 1,
        60 * KIB,
        200 * KIB,
    ];
    for size in sizes {
        server.write_content(&size.to_string(), size);
    }
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for connection in 0..4 {
        let window = [0, 1000, 65_535, 1 << 20][connection];
        let mut client = Http2::connect(&Manner::default(), &server, &[(4, window)]);
        client.opens_windows = false;
        let mut expected = BTreeMap::new();
        let mut resets = 0;
        for _ in 0..if is_lab() { 100 } else { 840 } {
            let size = sizes[random.below(sizes.len())];
            let incremental = if random.below(2) == 0 { ", i" } else { "" };
            let priority = format!("u={}{incremental}", random.below(8));
            let stream = client.ask_with(
                &[
                    (":method", "GET"),
                    (":path", &format!("/{size}")),
                    ("priority", &priority),
                ],
                true,
            );
            expected.insert(stream, size);
            // Room for this one, in several pieces, and for as much on the connection.
            let whole = u32::try_from(size).unwrap() + 1;
            for _ in 0..2 {
                let increment = whole.div_ceil(2);
                let mut updates = Vec::new();
                put_window_update(stream, increment, &mut updates);
                put_window_update(0, increment, &mut updates);
                client.push(&updates);
            }
            if random.below(10) == 0 && resets < 200 {
                resets += 1;
                let mut reset = Vec::new();
                put_rst_stream(stream, ErrorCode::Cancel, &mut reset);
                client.push(&reset);
                expected.remove(&stream);
            }
            client.flush().unwrap();
            let open = |client: &Http2| {
                let is_open = |stream: &&u32| !client.streams[stream].is_over();
                expected.keys().filter(is_open).count()
            };
            client.hear(|client| open(client) < 100).unwrap();
        }
        client
            .hear(|client| expected.keys().all(|id| client.streams[id].is_over()))
            .unwrap();
        for (stream, size) in &expected {
            let heard = &client.streams[stream];
            assert_eq!((heard.status, heard.reset), (Some(200), None), "{stream}");
            assert_same_bytes(&heard.body, content(*size), &format!("stream {stream}"));
        }
        assert!(client.goaways.is_empty());
    }
}

/// Numbers without a pattern (xorshift64), the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// TLS 1.2 cannot change keys: the connection ends in time, with every response complete.
fn used_up_keys(policy: Policy) {
    let server = Setup::new(policy)
        .table("limits", "records_per_key_max = 384")
        .start();
    server.write_content("file", 64 * KIB);
    let manner = Manner {
        versions: TLS12,
        ..Manner::default()
    };
    let mut client = Http2::connect(&manner, &server, &[]);
    let mut served = 0;
    while client.goaways.is_empty() {
        let heard = client.get("/file");
        assert_same_bytes(&heard.body, content(64 * KIB), "a response");
        served += 1;
        assert!(served < 400, "the key is never used up");
    }
    assert!(served > 10);
    assert_eq!(client.hear_the_end(), Ending::CloseNotify);
    assert_eq!(client.goaways.last().unwrap().1, ErrorCode::No);
    server.wait_for_counter("key_exhausted", 1);
}

/// A client that opens no window, and one whose socket is full, are heard all the same.
fn answers_while_nothing_is_read(policy: Policy) {
    let server = Setup::new(policy).start();
    server.write_content("large", 8 * MIB);
    let mut client = Http2::connect(&Manner::default(), &server, &[(4, 0)]);
    client.ask("/large");
    let mut ping = Vec::new();
    put_ping(*b"are you ", &mut ping);
    client.push(&ping);
    client.flush().unwrap();
    client.hear(|client| client.pongs.len() == 1).unwrap();
    // The socket full: a reset is still read, so that the stream is gone when it empties.
    let manner = Manner {
        receive_buffer_bytes: Some(64 * KIB),
        ..Manner::default()
    };
    let mut client = Http2::connect(&manner, &server, &[(4, 0x7fff_ffff)]);
    let mut update = Vec::new();
    put_window_update(0, 0x7fff_0000, &mut update);
    client.push(&update);
    let stream = client.ask("/large");
    client.flush().unwrap();
    client.client.wait_until_full();
    let mut reset = Vec::new();
    put_rst_stream(stream, ErrorCode::Cancel, &mut reset);
    put_ping(*b"still he", &mut reset);
    client.push(&reset);
    client.flush().unwrap();
    server.wait_for_counter("http2_streams_reset_by_client", 1);
    client.hear(|client| client.pongs.len() == 1).unwrap();
    assert!(client.streams[&stream].body.len() < 8 * MIB);
}

#[test]
fn rfc9113_3_2_http2_is_spoken_where_it_is_agreed_on() {
    let server = Setup::new(Policy::Auto).start();
    server.write_content("1k", 1024);
    for (offered, agreed) in [
        (&["http/1.1", "h2"][..], "h2"),
        (&["h2"], "h2"),
        (&["http/1.1"], "http/1.1"),
    ] {
        let manner = Manner {
            protocols: Box::leak(offered.to_vec().into_boxed_slice()),
            ..Manner::default()
        };
        let client = manner.connect(&server);
        assert_eq!(client.tls.alpn_protocol(), Some(agreed.as_bytes()));
    }
    // Without ALPN the preface is a request that is not understood.
    let manner = Manner {
        protocols: &[],
        ..Manner::default()
    };
    let mut client = manner.connect(&server);
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let answer = client.read_rest().0;
    assert!(answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
}

#[test]
fn a_site_without_http2_is_misdirected_on_another_sites_connection() {
    let server = Setup::new(Policy::Auto)
        .site(&["localhost"], KeyKind::P256, "one")
        .site_with(
            &["old.test"],
            KeyKind::P256,
            "two",
            "[site.tls]\nalpn = [\"http/1.1\"]",
        )
        .start();
    std::fs::write(server.path("one/file"), "one").unwrap();
    std::fs::write(server.path("two/file"), "two").unwrap();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    assert_eq!(client.get("/file").body, b"one");
    let fields = [(":method", "GET"), (":path", "/file"), ("host", "old.test")];
    let contradicting = client.ask_with(&fields, true);
    client.flush().unwrap();
    client.hear_all();
    assert_eq!(
        client.streams[&contradicting].reset,
        Some(ErrorCode::Protocol)
    );
    let manner = Manner {
        name: "old.test",
        protocols: &["h2", "http/1.1"],
        ..Manner::default()
    };
    let agreed = manner
        .connect(&server)
        .tls
        .alpn_protocol()
        .map(<[u8]>::to_vec);
    assert_eq!(agreed.as_deref(), Some(&b"http/1.1"[..]));
}

#[test]
fn rfc9113_3_3_prior_knowledge_on_a_plain_listener() {
    let server = Setup::new(Policy::Auto).with_redirect().start();
    let redirect = server.redirect.unwrap();
    let finished = CURL
        .run([
            "-sS",
            "--http2-prior-knowledge",
            "-o",
            "/dev/null",
            "-w",
            "%{http_version} %{http_code} %{redirect_url}",
            "--resolve",
            &format!("localhost:{}:{}", redirect.port(), redirect.ip()),
            &format!("http://localhost:{}/x", redirect.port()),
        ])
        .success();
    assert_eq!(finished.text(), "2 308 https://localhost:8443/x");
}

#[test]
fn methods_bodies_and_statuses_as_over_http1() {
    let server = Setup::new(Policy::Auto)
        .table("limits", "body_bytes_max = 100000")
        .start();
    server.write_content("file", 5000);
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let head = client.ask_with(&[(":method", "HEAD"), (":path", "/file")], true);
    let part = client.ask_with(
        &[
            (":method", "GET"),
            (":path", "/file"),
            ("range", "bytes=10-19"),
        ],
        true,
    );
    let missing = client.ask("/missing");
    let post = client.ask_with(&[(":method", "POST"), (":path", "/file")], false);
    client.push(&frame(0, 0, post, &[b'x'; 10_000]));
    let too_long = client.ask_with(
        &[
            (":method", "POST"),
            (":path", "/file"),
            ("content-length", "100001"),
        ],
        false,
    );
    client.flush().unwrap();
    client.hear_all();
    let heard = |stream| &client.streams[&stream];
    let field = |stream, name: &str| {
        let fields = &client.streams[&stream].fields;
        fields
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.clone())
    };
    assert_eq!(heard(head).status, Some(200));
    assert_eq!(field(head, "content-length").as_deref(), Some("5000"));
    assert!(heard(head).body.is_empty());
    assert_eq!(heard(part).status, Some(206));
    assert_eq!(heard(part).body, content(20)[10..]);
    assert_eq!(heard(missing).status, Some(404));
    assert_eq!(heard(post).status, Some(405));
    assert_eq!(heard(too_long).status, Some(413));
    assert!(field(part, "date").is_some());
    assert_eq!(client.get("/file").body, content(5000));
    assert!(client.goaways.is_empty());
}

#[test]
fn rfc9113_6_8_a_drain_finishes_what_is_open() {
    let mut server = Setup::new(Policy::Auto).start();
    server.write_content("large", 8 * MIB);
    let mut busy = Http2::connect(&Manner::default(), &server, &[]);
    // Else what follows would come after the answer, and not be served.
    busy.answers_pings = false;
    let stream = busy.ask("/large");
    busy.flush().unwrap();
    busy.hear(|client| !client.streams[&stream].body.is_empty())
        .unwrap();
    let mut idle = Http2::connect(&Manner::default(), &server, &[]);
    idle.get("/missing");
    server.terminate();
    assert_eq!(idle.hear_the_end(), Ending::CloseNotify);
    assert_eq!(
        idle.goaways,
        [(0x7fff_ffff, ErrorCode::No), (1, ErrorCode::No)]
    );
    busy.hear(|client| client.goaways.len() == 1).unwrap();
    // What was on its way when the announcement came is served.
    let late = busy.ask("/missing");
    busy.flush().unwrap();
    assert_eq!(busy.hear_the_end(), Ending::CloseNotify);
    assert_same_bytes(
        &busy.streams[&stream].body,
        content(8 * MIB),
        "during a drain",
    );
    assert_eq!(busy.streams[&late].status, Some(404));
    assert_eq!(busy.goaways.last(), Some(&(late, ErrorCode::No)));
    assert!(server.wait().success());
}

#[test]
fn a_connection_ends_with_its_last_request() {
    let server = Setup::new(Policy::Auto)
        .table("limits", "requests_per_connection_max = 3")
        .start();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    for _ in 0..3 {
        assert_eq!(client.get("/missing").status, Some(404));
    }
    assert_eq!(client.hear_the_end(), Ending::CloseNotify);
    assert_eq!(client.goaways.last(), Some(&(5, ErrorCode::No)));
}

#[test]
fn idle_and_silent_connections_are_ended() {
    let server = Setup::new(Policy::Auto)
        .table("timeouts", "idle_ms = 500\nheader_ms = 500")
        .start();
    let mut idle = Http2::connect(&Manner::default(), &server, &[]);
    idle.get("/missing");
    assert_eq!(idle.hear_the_end(), Ending::CloseNotify);
    assert_eq!(idle.goaways, [(1, ErrorCode::No)]);
    let mut silent = Http2::connect(&Manner::default(), &server, &[]);
    assert_eq!(silent.hear_the_end(), Ending::CloseNotify);
    server.wait_for_counter("timeouts_idle", 1);
    server.wait_for_counter("timeouts_header", 1);
}

/// A panic in one stream's handler ends its connection, and no other.
#[cfg(debug_assertions)]
#[test]
fn a_panic_ends_its_connection_only() {
    let mut server = Setup::new(Policy::Auto).workers(1).start();
    server.expect_panics();
    server.write_content("file", 100);
    let mut other = Http2::connect(&Manner::default(), &server, &[]);
    assert_eq!(other.get("/file").body.len(), 100);
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    client.ask("/.portcullis-test/panic");
    client.flush().unwrap();
    client.hear_the_end();
    server.wait_for_counter("connection_panics", 1);
    assert_eq!(other.get("/file").body.len(), 100);
    assert_eq!(Client::connect(&server).get("/file").body.len(), 100);
}

/// A client may say that it asks for nothing more, and is answered all the same.
fn answers_come_after_the_clients_end(policy: Policy) {
    let server = Setup::new(policy).start();
    server.write_content("large", 3 * MIB);
    let window = 0x7fff_ffff;
    let mut client = Http2::connect(&Manner::default(), &server, &[(4, window)]);
    let mut update = Vec::new();
    put_window_update(0, window - 65_535, &mut update);
    client.push(&update);
    client.opens_windows = false;
    // The server's settings are acknowledged with this one: nothing can be said later.
    client.get("/missing");
    let streams = [0; 3].map(|_| client.ask("/large"));
    client.flush().unwrap();
    client.client.close_notify();
    client.client.truncate();
    assert_eq!(client.hear_the_end(), Ending::CloseNotify);
    for stream in streams {
        let heard = &client.streams[&stream];
        assert_eq!((heard.status, heard.reset), (Some(200), None));
        assert!(heard.has_ended);
        assert_same_bytes(&heard.body, content(3 * MIB), "after the client's end");
    }
    server.wait_for_counter("connections_closed", 1);
    assert_eq!(server.counters()["errors_client"], 0);
}

fn a_file_that_shrinks_ends_its_stream_only(policy: Policy) {
    let server = Setup::new(policy).start();
    server.write_content("shrinks", MIB);
    server.write_content("stays", MIB);
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    client.opens_windows = false;
    let shrinks = client.ask("/shrinks");
    client.flush().unwrap();
    client
        .hear(|client| client.streams[&shrinks].body.len() == 65_535)
        .unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(server.path("root/shrinks"))
        .unwrap()
        .set_len(65_535 + 10)
        .unwrap();
    let stays = client.ask("/stays");
    let mut updates = Vec::new();
    for stream in [0, 0, shrinks, stays] {
        put_window_update(stream, 1 << 20, &mut updates);
    }
    client.push(&updates);
    client.flush().unwrap();
    client.hear_all();
    let heard = &client.streams[&shrinks];
    assert_eq!(heard.reset, Some(ErrorCode::Internal));
    assert_same_bytes(&heard.body, content(65_535), "before it shrank");
    let heard = &client.streams[&stays];
    assert_eq!(heard.reset, None);
    assert_same_bytes(&heard.body, content(MIB), "beside it");
    assert!(client.goaways.is_empty());
    let counters = server.counters();
    assert_eq!(counters["files_truncated"], 1);
    assert_eq!(counters["http2_streams_reset"], 1);
}
