//! Attacks on HTTP/2 over real connections: each is ended with ENHANCE_YOUR_CALM or answered, costs no
//! memory that stays, and leaves others served while it goes on.

use portcullis::proto::h2::ErrorCode;
use portcullis::proto::h2::frame::put_rst_stream;

use crate::proxying::backend::Backend;
use crate::proxying::passing_on;
use crate::support::Policy;
use crate::support::client::{Ending, Manner};
use crate::support::files::{KIB, MIB};
use crate::support::http2::{Heard, Http2, frame};
use crate::support::server::{Server, Setup};
use crate::support::wait::{until_equal, until_some};

/// Starts a server, has `attack` carried out on several connections in a row, each to its end, and
/// looks at what that left behind.
fn carry_out(attack: impl Fn(&mut Http2, u32) -> bool) {
    let server = Setup::new(Policy::Auto).workers(1).start();
    server.write_content("file", 100 * KIB);
    let mut bystander = Http2::connect(&Manner::default(), &server, &[]);
    bystander.get("/file");
    let before = server.holdings();
    end_by_flood(&server, &mut bystander, &attack);
    let resident = server.resident_bytes();
    let waits = server.waits();
    let mut flushes = 0;
    for _ in 0..10 {
        flushes += end_by_flood(&server, &mut bystander, &attack);
    }
    let waits = server.waits() - waits;
    assert!(
        waits < 10 * (WAITS_MAX + flushes * WAITS_MAX_PER_FLUSH),
        "{waits} waits"
    );
    let grown = server.resident_bytes().saturating_sub(resident);
    assert!(grown < 8 * MIB, "{grown} bytes more after ten attacks");
    assert_eq!(bystander.get("/file").body.len(), 100 * KIB);
    let counters = server.counters();
    assert_eq!(counters["http2_floods"], 11);
    assert_eq!(counters["http2_goaways"], 11);
    assert_eq!(counters["connection_panics"], 0);
    server.wait_for_holdings(before);
}

/// Carries `attack` out on one connection, while the bystander is served. Gives how often something was
/// sent.
fn end_by_flood(
    server: &Server,
    bystander: &mut Http2,
    attack: &impl Fn(&mut Http2, u32) -> bool,
) -> u64 {
    let mut flushes = 1;
    let mut client = Http2::connect(&Manner::default(), server, &[]);
    let mut went_on = true;
    for round in 0..20_000 {
        if !attack(&mut client, round) {
            went_on = false;
            break;
        }
        // The server may be gone while this is still sent.
        if round % 50 == 49 {
            flushes += 1;
            if client.flush().is_err() {
                went_on = false;
                break;
            }
        }
        if round % 200 == 49 {
            flushes += 1;
            assert_eq!(bystander.get("/file").body.len(), 100 * KIB);
        }
    }
    drop(client.flush());
    let ending = client.hear_the_end();
    assert!(
        matches!(
            ending,
            Ending::CloseNotify | Ending::Reset | Ending::Truncated
        ),
        "{ending:?} {went_on}"
    );
    if ending == Ending::CloseNotify {
        assert_eq!(client.goaways.last().unwrap().1, ErrorCode::EnhanceYourCalm);
    }
    flushes
}

fn stop_when_refused(client: &mut Http2) -> bool {
    client.goaways.is_empty()
}

#[test]
fn rapid_reset() {
    carry_out(|client, _| {
        let stream = client.ask("/file");
        let mut reset = Vec::new();
        put_rst_stream(stream, ErrorCode::Cancel, &mut reset);
        client.push(&reset);
        stop_when_refused(client)
    });
}

#[test]
fn made_you_reset() {
    carry_out(|client, _| {
        let stream = client.ask("/file");
        client.push(&frame(8, 0, stream, &[0; 4]));
        stop_when_refused(client)
    });
}

#[test]
fn continuations() {
    carry_out(|client, round| {
        match round {
            0 => client.push(&frame(1, 1, 1, &[0x82])),
            _ => client.push(&frame(9, 0, 1, &[])),
        }
        true
    });
}

#[test]
fn pings() {
    carry_out(|client, _| {
        client.push(&frame(6, 0, 0, &[0; 8]));
        true
    });
}

#[test]
fn settings() {
    carry_out(|client, _| {
        client.push(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 9]));
        true
    });
}

#[test]
fn priorities() {
    carry_out(|client, _| {
        client.push(&frame(2, 0, 9, &[0, 0, 0, 0, 1]));
        true
    });
}

#[test]
fn window_updates() {
    carry_out(|client, _| {
        client.push(&frame(8, 0, 0, &[0, 0, 0, 1]));
        true
    });
}

#[test]
fn empty_data() {
    carry_out(|client, round| {
        if round == 0 {
            client.ask_with(&[(":method", "POST"), (":path", "/file")], false);
        }
        // Before and after it is answered.
        client.push(&frame(0, 0, 1, &[]));
        true
    });
}

/// One large field in the table, and thousands of bytes that each stand for it.
#[test]
fn compression_bomb() {
    carry_out(|client, round| {
        if round == 0 {
            let mut block = vec![0x40, 6];
            block.extend_from_slice(b"x-bomb");
            block.extend_from_slice(&[0x7f, 0xb9, 0x16]);
            block.extend_from_slice(&[b'x'; 3000]);
            block.extend_from_slice(&[0xbe; 12_000]);
            client.push(&frame(1, 5, 1, &block));
        }
        round == 0
    });
}

/// Responses that are never let through: the server gives them up, and the connection goes on.
#[test]
fn stalled_windows() {
    let server = Setup::new(Policy::Auto)
        .workers(1)
        .table("timeouts", "send_progress_ms = 500")
        .start();
    server.write_content("file", MIB);
    let mut client = Http2::connect(&Manner::default(), &server, &[(4, 0)]);
    for _ in 0..100 {
        client.ask("/file");
    }
    client.flush().unwrap();
    client
        .hear(|client| client.streams.values().all(|heard| heard.is_over()))
        .unwrap();
    assert!(
        client
            .streams
            .values()
            .all(|heard| heard.reset == Some(ErrorCode::Cancel))
    );
    server.wait_for_counter("timeouts_send", 100);
    let mut push = frame(4, 0, 0, &[0, 4, 0, 1, 0, 0]);
    push.extend_from_slice(&frame(8, 0, 0, &[0, 0x10, 0, 0]));
    client.push(&push);
    assert_eq!(client.get("/file").body.len(), MIB);
}

/// A header block that never ends, and a preface that never ends.
#[test]
fn slow_heads() {
    let server = Setup::new(Policy::Auto)
        .workers(1)
        .table("timeouts", "header_ms = 500\nidle_ms = 60000")
        .start();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    client.get("/missing");
    client.push(&frame(1, 1, 3, &[0x82]));
    client.flush().unwrap();
    assert_eq!(client.hear_the_end(), Ending::CloseNotify);
    let manner = Manner {
        protocols: &["h2"],
        ..Manner::default()
    };
    let mut client = manner.connect(&server);
    client.send(b"PRI * HT");
    assert_eq!(client.read_to_ending(), Ending::CloseNotify);
    server.wait_for_counter("timeouts_header", 2);
}

/// A frame whose header says that 16 MiB follow is not waited for.
#[test]
fn oversized_frames() {
    let server = Setup::new(Policy::Auto).workers(1).start();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    client.push(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
    client.flush().unwrap();
    assert_eq!(client.hear_the_end(), Ending::CloseNotify);
    assert_eq!(client.goaways, [(0, ErrorCode::FrameSize)]);
    server.wait_for_counter("errors_client", 1);
}

/// The same under closed windows: requests of many references each, as many as may be open, that stay
/// there until they are given up. More than the README says one connection holds they never take.
#[test]
fn compression_bombs_that_are_held() {
    let server = Setup::new(Policy::Auto)
        .workers(1)
        .table("timeouts", "send_progress_ms = 500")
        .start();
    server.write_content("file", 100 * KIB);
    let mut bystander = Http2::connect(&Manner::default(), &server, &[]);
    bystander.get("/file");
    let before = server.holdings();
    let resident = server.resident_bytes();
    let mut bombs: Vec<Http2> = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = Http2::connect(&Manner::default(), &server, &[(4, 0)]);
        let request = b"\x82\x87\x04\x05/file\x01\x09localhost";
        let field = [b"\x40\x06x-bomb\x7f\xb9\x16", &[b'x'; 3000][..]].concat();
        client.ask_in(&[request, &field[..]].concat());
        // One that is too large is answered, whatever it stands for.
        let refused = client.ask_in(&[request, &[0xbe; 40][..]].concat());
        for _ in 2..STREAMS_MAX {
            client.ask_in(&[request, &[0xbe; 10][..]].concat());
        }
        client.flush().unwrap();
        client
            .hear(|client| client.streams.values().all(|heard| heard.status.is_some()))
            .unwrap();
        assert_eq!(client.streams[&refused].status, Some(431));
        assert_eq!(bystander.get("/file").body.len(), 100 * KIB);
        bombs.push(client);
    }
    let grown = server.resident_bytes().saturating_sub(resident);
    let held = CONNECTIONS * (STREAMS_MAX * 32 * KIB + 145 * KIB);
    assert!(grown < held + 4 * MIB, "{grown} bytes for {held}");
    for client in &mut bombs {
        client
            .hear(|client| client.streams.values().all(|heard| heard.is_over()))
            .unwrap();
        let of_code = |code| move |heard: &&Heard| heard.reset == Some(code);
        let given_up = client.streams.values().filter(of_code(ErrorCode::Cancel));
        assert_eq!(given_up.count(), STREAMS_MAX);
        assert_eq!(bystander.get("/file").body.len(), 100 * KIB);
    }
    drop(bombs);
    server.wait_for_holdings(before);
}

/// Begins a request whose body is to follow, to a server that does not answer before it has come.
fn ask_with_body(client: &mut Http2) -> u32 {
    client.ask_with(&[(":method", "POST"), (":path", "/stall")], false)
}

/// Bodies that stop, and bodies that go on for longer than one may: each is answered, and the server
/// behind is let go of.
#[test]
fn slow_bodies() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "")
        .table("timeouts", "body_progress_ms = 700\nbody_ms = 2000")
        .start();
    let mut bystander = Http2::connect(&Manner::default(), &server, &[]);
    bystander.get("/hello");
    let before = server.holdings();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let slow: Vec<u32> = (0..60).map(|_| ask_with_body(&mut client)).collect();
    for &stream in &slow {
        client.push_data(stream, b"half", false);
    }
    until_some("all are answered", || {
        for stream in &slow[..30] {
            if !client.streams[stream].is_over() {
                client.push_data(*stream, b".", false);
            }
        }
        assert_eq!(client.get("/hello").body, b"hello");
        assert_eq!(bystander.get("/hello").body, b"hello");
        slow.iter()
            .all(|stream| client.streams[stream].is_over())
            .then_some(())
    });
    for stream in &slow {
        assert_eq!(client.streams[stream].status, Some(408));
    }
    assert!(client.goaways.is_empty());
    assert_eq!(server.counters()["timeouts_body"], 60);
    drop(client);
    server.wait_for_holdings(before);
    until_equal("open connections at the backend", &1, || backend.open());
}

/// Streams that are opened and never finished: as many as may be are, the others are refused, and
/// whoever goes on is sent away.
#[test]
fn unfinished_streams() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "")
        .table("timeouts", "body_progress_ms = 1000")
        .start();
    let mut bystander = Http2::connect(&Manner::default(), &server, &[]);
    bystander.get("/hello");
    let before = server.holdings();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let opened: Vec<u32> = (0..STREAMS_MAX)
        .map(|_| ask_with_body(&mut client))
        .collect();
    let refused: Vec<u32> = (0..60).map(|_| ask_with_body(&mut client)).collect();
    client.flush().unwrap();
    client
        .hear(|client| refused.iter().all(|id| client.streams[id].is_over()))
        .unwrap();
    for id in &refused {
        assert_eq!(client.streams[id].reset, Some(ErrorCode::RefusedStream));
    }
    assert_eq!(bystander.get("/hello").body, b"hello");
    client
        .hear(|client| opened.iter().all(|id| client.streams[id].is_over()))
        .unwrap();
    for id in &opened {
        assert_eq!(client.streams[id].status, Some(408));
    }
    assert_eq!(backend.asked_for("/stall"), STREAMS_MAX);
    // There is room again, and once more too much is asked for.
    assert_eq!(client.get("/hello").body, b"hello");
    for round in 0..STREAMS_MAX + 300 {
        ask_with_body(&mut client);
        if round % 100 == 99 {
            drop(client.flush());
            assert_eq!(bystander.get("/hello").body, b"hello");
        }
    }
    drop(client.flush());
    let ending = client.hear_the_end();
    if ending == Ending::CloseNotify {
        assert_eq!(client.goaways.last().unwrap().1, ErrorCode::EnhanceYourCalm);
    }
    let counters = server.counters();
    assert_eq!(counters["http2_floods"], 1);
    assert!(counters["http2_streams_refused"] > 60 + 100);
    assert_eq!(counters["timeouts_body"], STREAMS_MAX as u64);
    server.wait_for_holdings(before);
    until_equal("open connections at the backend", &1, || backend.open());
}

/// What a server of HTTP/1.1 behind this one could read as something else never gets there; what does
/// get there says what was asked for, in one request.
#[test]
fn rfc9113_10_3_nothing_is_smuggled_to_a_server_of_http_1() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "").start();
    let plain: &[(&[u8], &[u8])] = &[
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/head"),
    ];
    let mut tricks: Vec<Vec<(&[u8], &[u8])>> = Vec::new();
    for &fields in MALFORMED {
        tricks.push([plain, fields].concat());
    }
    for &(path, authority) in ODD_TARGETS {
        tricks.push([&plain[..2], &[(&b":path"[..], path)], authority].concat());
    }
    for method in [&b"GET /evil HTTP/1.1\r\n\r\nGET"[..], b"G T", b"", b"GET\0"] {
        tricks.push([&[(&b":method"[..], method)], &plain[1..]].concat());
    }
    for trick in &tricks {
        let mut client = Http2::connect(&Manner::default(), &server, &[]);
        let stream = client.ask_exactly(trick, true);
        client.flush().unwrap();
        client
            .hear(|client| client.streams[&stream].is_over())
            .unwrap();
        let heard = &client.streams[&stream];
        let is_refused = heard.reset == Some(ErrorCode::Protocol) || heard.status == Some(400);
        assert!(is_refused, "{heard:?} for {trick:?}");
        // The connection is none the worse for it, and its next request is the next one there.
        let seen = client.get("/head");
        let seen = String::from_utf8(seen.body).unwrap();
        assert!(
            seen.starts_with("GET /head HTTP/1.1\r\nhost: localhost\r\n"),
            "{seen}"
        );
    }
    let heads = backend.heads();
    assert_eq!(heads.len(), tricks.len());
    for head in heads {
        assert!(!head.to_lowercase().contains("evil"), "{head}");
        assert_eq!(head.matches("\r\n\r\n").count(), 1, "{head}");
    }
}

/// What means something to HTTP/1.1 and is allowed, or repaired, arrives as itself.
#[test]
fn rfc9113_8_3_1_odd_requests_arrive_as_they_were_asked() {
    let backend = Backend::start();
    let server = passing_on(Policy::Auto, &backend, "").start();
    let mut client = Http2::connect(&Manner::default(), &server, &[]);
    let mut seen = |path: &[u8], more: &[(&[u8], &[u8])]| {
        let mut fields: Vec<(&[u8], &[u8])> = vec![
            (b":method", b"GET"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path),
        ];
        fields.extend(more);
        let stream = client.ask_exactly(&fields, true);
        client.flush().unwrap();
        client
            .hear(|client| client.streams[&stream].is_over())
            .unwrap();
        client.streams[&stream].status
    };
    let odd = b"/head?a=/../b&c=%0d%0aevil:%201";
    assert_eq!(seen(odd, &[]), Some(404));
    assert_eq!(seen(b"//evil/", &[]), Some(404));
    let host: (&[u8], &[u8]) = (b"host", b"localhost");
    assert_eq!(seen(b"/head", &[host]), Some(200));
    let cookies: [(&[u8], &[u8]); 2] = [(b"cookie", b"a=b"), (b"cookie", b"c=d")];
    assert_eq!(seen(b"/head", &cookies), Some(200));
    let length: (&[u8], &[u8]) = (b"content-length", b"0");
    assert_eq!(seen(b"/head", &[length]), Some(200));
    let heads = backend.heads();
    assert_eq!(heads.len(), 5);
    assert!(heads[0].starts_with("GET /head?a=/../b&c=%0d%0aevil:%201 HTTP/1.1\r\n"));
    assert!(heads[1].starts_with("GET //evil/ HTTP/1.1\r\n"));
    for head in &heads {
        assert_eq!(head.matches("\r\nhost: localhost\r\n").count(), 1, "{head}");
        assert_eq!(head.to_lowercase().matches("\nhost:").count(), 1, "{head}");
    }
    assert_eq!(heads[3].matches("cookie: a=b; c=d\r\n").count(), 1);
}

/// Requests of a connection that are under way at once (`http2.concurrent_streams_max`).
const STREAMS_MAX: usize = 128;

const CONNECTIONS: usize = 4;

/// What an attack and its end make a server wait, beside what it is sent.
const WAITS_MAX: u64 = 100;

/// Two threads, a few times each.
const WAITS_MAX_PER_FLUSH: u64 = 12;

type Fields = &'static [(&'static [u8], &'static [u8])];

/// Fields behind those of a request that is in order.
const MALFORMED: &[Fields] = &[
    &[(b"x", b"a\r\nevil: 1")],
    &[(b"x", b"a\nevil: 1")],
    &[(b"x", b"a\rb")],
    &[(b"x", b"a\0b")],
    &[(b"x", b" a")],
    &[(b"x", b"a\t")],
    &[(b"x\r\nevil", b"1")],
    &[(b"x: 1\r\nevil", b"1")],
    &[(b"evil:", b"1")],
    &[(b"Evil", b"1")],
    &[(b"evil ", b"1")],
    &[(b"ev\0il", b"1")],
    &[(b"ev\xefil", b"1")],
    &[(b"", b"1")],
    &[(b"transfer-encoding", b"chunked")],
    &[(b"connection", b"close")],
    &[(b"upgrade", b"h2c")],
    &[(b"proxy-connection", b"keep-alive")],
    &[(b"te", b"gzip")],
    &[(b"content-length", b"0, 5")],
    &[(b"content-length", b"+0")],
    &[(b"content-length", b"")],
    &[(b"content-length", b"0"), (b"content-length", b"5")],
    &[(b"content-length", b"5")],
    &[(b":path", b"/evil")],
    &[(b":method", b"POST")],
    &[(b":evil", b"1")],
    &[(b":status", b"200")],
    &[(b"x", b"1"), (b":authority", b"evil")],
    &[(b"host", b"evil")],
    &[(b"host", b"localhost"), (b"host", b"localhost")],
];
/// A `:path`, and what is there of `:authority`.
const ODD_TARGETS: &[(&[u8], Fields)] = &[
    (b"/evil x", &[]),
    (b"/evil\r\nevil: 1", &[]),
    (b"/evil HTTP/1.1\r\n\r\nGET /evil", &[]),
    (b"/evil\0", &[]),
    (b"/evil#x", &[]),
    (b"/\xe9", &[]),
    (b"http://evil/", &[]),
    (b"evil", &[]),
    (b"*", &[]),
    (b"", &[]),
    (b"/", &[(b":authority", b"localhost\r\nevil: 1")]),
    (b"/", &[(b":authority", b"localhost, evil")]),
    (b"/", &[(b":authority", b"evil@localhost")]),
    (b"/", &[(b":authority", b"localhost/evil")]),
    (b"/", &[(b":authority", b"localhost evil")]),
    (b"/", &[(b":authority", b"")]),
    (
        b"/",
        &[(b":authority", b"localhost"), (b":authority", b"evil")],
    ),
    (b"/", &[]),
];
