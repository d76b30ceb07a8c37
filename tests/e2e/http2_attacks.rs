//! Attacks on HTTP/2 over real connections: each is ended with ENHANCE_YOUR_CALM, costs no memory
//! that stays, and leaves others served.

use portcullis::proto::h2::ErrorCode;
use portcullis::proto::h2::frame::put_rst_stream;

use crate::support::Policy;
use crate::support::client::{Ending, Manner};
use crate::support::files::{KIB, MIB};
use crate::support::http2::{Http2, frame};
use crate::support::server::{Server, Setup};

/// Starts a server, has `attack` carried out on several connections in a row, each to its end, and
/// looks at what that left behind.
fn carry_out(attack: impl Fn(&mut Http2, u32) -> bool) {
    let server = Setup::new(Policy::Auto).workers(1).start();
    server.write_content("file", 100 * KIB);
    let mut bystander = Http2::connect(&Manner::default(), &server, &[]);
    bystander.get("/file");
    let before = server.holdings();
    end_by_flood(&server, &attack);
    let resident = server.resident_bytes();
    for _ in 0..10 {
        end_by_flood(&server, &attack);
    }
    let grown = server.resident_bytes().saturating_sub(resident);
    assert!(grown < 8 * MIB, "{grown} bytes more after ten attacks");
    assert_eq!(bystander.get("/file").body.len(), 100 * KIB);
    let counters = server.counters();
    assert_eq!(counters["http2_floods"], 11);
    assert_eq!(counters["http2_goaways"], 11);
    assert_eq!(counters["connection_panics"], 0);
    server.wait_for_holdings(before);
}

fn end_by_flood(server: &Server, attack: &impl Fn(&mut Http2, u32) -> bool) {
    let mut client = Http2::connect(&Manner::default(), server, &[]);
    let mut went_on = true;
    for round in 0..20_000 {
        if !attack(&mut client, round) {
            went_on = false;
            break;
        }
        // The server may be gone while this is still sent.
        if round % 50 == 49 && client.flush().is_err() {
            went_on = false;
            break;
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
