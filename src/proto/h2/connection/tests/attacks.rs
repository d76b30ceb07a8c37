//! Floods, carried out: each ends the connection with ENHANCE_YOUR_CALM long before it costs
//! anything, and what it holds meanwhile is bounded.

use super::*;
use crate::limits::{
    H2_CONTINUATIONS_MAX, H2_CONTROL_BYTES_MAX, H2_EMPTY_DATA, H2_IGNORED_FRAMES, H2_PEER_RESETS,
    H2_PINGS, H2_PRIORITIES, H2_PROVOKED_RESETS, H2_SETTINGS, H2_WINDOW_UPDATES, Rate,
};

/// Sends what `attack` makes, time and again, and gives how often that went well. The client reads
/// nothing.
fn endured(client: &mut Client, mut attack: impl FnMut(&mut Client, u32) -> Vec<u8>) -> u32 {
    for round in 0..100_000 {
        let bytes = attack(client, round);
        if let Err(error) = client.send(&bytes) {
            assert_eq!(error.code, ErrorCode::EnhanceYourCalm, "{error}");
            assert!(client.connection.is_finished() && !client.connection.is_serving());
            return round;
        }
        // A driver does what it is told, and reads no more when it should not.
        client.requests();
        if client.connection.holds_reader() {
            client.take();
        }
        assert!(client.connection.state.control.len() <= H2_CONTROL_BYTES_MAX + 64);
        assert!(client.connection.state.streams.len() <= Http2::default().concurrent_streams_max);
    }
    panic!("the attack goes on and on");
}

fn assert_within(endured: u32, rate: Rate) {
    assert!(endured <= rate.burst + 1, "{endured} of {}", rate.burst);
}

#[test]
fn rapid_reset() {
    let mut client = Client::new();
    let rounds = endured(&mut client, |client, round| {
        let id = 2 * round + 1;
        [client.get(id), rst(id)].concat()
    });
    assert_within(rounds, H2_PEER_RESETS);
}

/// An honest client may reset all it has open, now and then.
#[test]
fn resets_at_a_fair_rate_are_borne() {
    let mut client = Client::new();
    for round in 0..2000 {
        let id = 2 * round + 1;
        let get = client.get(id);
        client.send(&[get, rst(id)].concat()).unwrap();
        client.now_ms += 1000 / u64::from(H2_PEER_RESETS.per_second) + 1;
        client.requests();
        client.receive();
    }
}

/// MadeYouReset: the client makes the server reset, by errors of each kind.
#[test]
fn provoked_resets() {
    let provocations: [fn(&mut Client, StreamId) -> Vec<u8>; 6] = [
        |_, id| window(id, 0),
        |_, id| window(id, 0x7fff_ffff),
        |_, id| data(id, b"x", false),
        |_, id| frame(2, 0, id, &[0; 4]),
        |client, id| client.headers(id, &[("a", "b")], true),
        |_, id| frame(2, 0, id, &[id.to_be_bytes(), [0; 4]].concat()[..5]),
    ];
    for provoke in provocations {
        let mut client = Client::new();
        let rounds = endured(&mut client, |client, round| {
            let id = 2 * round + 1;
            let get = client.get(id);
            [get, provoke(client, id)].concat()
        });
        assert_within(rounds, H2_PROVOKED_RESETS);
    }
}

#[test]
fn malformed_requests() {
    let mut client = Client::new();
    let rounds = endured(&mut client, |client, round| {
        client.headers(2 * round + 1, &[(":method", "GET")], true)
    });
    assert_within(rounds, H2_PROVOKED_RESETS);
}

#[test]
fn streams_beyond_the_bound() {
    let mut client = Client::new();
    let open = u32::try_from(Http2::default().concurrent_streams_max).unwrap();
    let rounds = endured(&mut client, |client, round| client.get(2 * round + 1));
    assert!(rounds <= open + H2_PEER_RESETS.burst + 1, "{rounds}");
}

/// Responses that are never read keep their streams open, so that there are no more of them.
#[test]
fn responses_that_are_not_read_are_bounded_by_their_streams() {
    let mut client = Client::new();
    let max = Http2::default().concurrent_streams_max;
    for round in 0..max {
        let get = client.get(2 * u32::try_from(round).unwrap() + 1);
        client.send(&get).unwrap();
        for id in client.requests() {
            client.respond(id, Body::Empty);
        }
    }
    assert_eq!(client.connection.state.streams.len(), max);
    assert!(client.connection.state.control.is_empty());
}

#[test]
fn continuations_without_end() {
    for part in [&b""[..], &[0x88; 100]] {
        let mut client = Client::new();
        let get = client.get(1);
        client.send(&frame(1, 1, 1, &get[9..12])).unwrap();
        let rounds = endured(&mut client, |_, _| frame(9, 0, 1, part));
        assert!(rounds as usize <= H2_CONTINUATIONS_MAX, "{rounds}");
    }
}

/// HPACK bombs: one large field in the table, then a byte for each copy of it.
#[test]
fn references_to_a_large_field() {
    let mut client = Client::new();
    let large = "x".repeat(3000);
    let fields = [&GET[..], &[("x-bomb", &large)]].concat();
    // Literal with incremental indexing, which the test's own encoder would not do.
    let mut block = client.headers(1, &GET, true).split_off(9);
    block.extend_from_slice(&[0x40, 6]);
    block.extend_from_slice(b"x-bomb");
    block.extend_from_slice(&[0x7f, 0xb9, 0x16]);
    block.extend_from_slice(fields[4].1.as_bytes());
    client.send(&frame(1, 5, 1, &block)).unwrap();
    assert_eq!(client.requests(), [1]);
    let code = client.refused(&frame(1, 5, 3, &[0xbe; 16_000]));
    assert_eq!(code, ErrorCode::EnhanceYourCalm);
    // Just over the bound it is answered, and nothing of it kept.
    let mut client = Client::new();
    let mut block = client.get(1).split_off(9);
    block.extend_from_slice(&[0x90; 300]);
    client.send(&frame(1, 5, 1, &block)).unwrap();
    match client.connection.poll_event() {
        Some(Event::Refused(1, _, Status(431), _)) => {}
        other => panic!("{other:?}"),
    }
}

/// Requests held by windows that stay shut: no more of them than may be open, however often their
/// fields refer to the table.
#[test]
fn references_under_shut_windows() {
    let mut client = Client::with(Http2::default(), Limits::default(), &[(4, 0)]);
    let cookie = "c".repeat(200);
    let fields = [&GET[..], &[("x-a", &cookie)]].concat();
    let rounds = endured(&mut client, |client, round| {
        client.answer_all(100_000);
        client.take();
        client.headers(2 * round + 1, &fields, true)
    });
    let open = u32::try_from(Http2::default().concurrent_streams_max).unwrap();
    assert!(rounds <= open + H2_PEER_RESETS.burst + 1, "{rounds}");
}

#[test]
fn frames_that_must_be_answered() {
    let attacks: [(Vec<u8>, Rate); 2] = [
        (frame(6, 0, 0, &[0; 8]), H2_PINGS),
        (settings(&[(4, 65_535)]), H2_SETTINGS),
    ];
    for (attack, rate) in attacks {
        let mut client = Client::new();
        let rounds = endured(&mut client, |_, _| attack.clone());
        assert_within(rounds, rate);
    }
}

#[test]
fn frames_that_do_nothing() {
    let attacks: [(Vec<u8>, Rate); 7] = [
        (frame(2, 0, 9, &[0, 0, 0, 0, 1]), H2_PRIORITIES),
        (frame(0x10, 0, 0, b"\0\0\0\x01u=1"), H2_PRIORITIES),
        (window(0, 1), H2_WINDOW_UPDATES),
        (window(1, 1), H2_WINDOW_UPDATES),
        (data(1, b"", false), H2_EMPTY_DATA),
        (frame(0, 8, 1, &[3, 0, 0, 0]), H2_EMPTY_DATA),
        (frame(0x99, 0, 0, b""), H2_IGNORED_FRAMES),
    ];
    for (attack, rate) in attacks {
        let mut client = Client::new();
        let post = client.post(1, &[]);
        client.send(&post).unwrap();
        let rounds = endured(&mut client, |_, _| attack.clone());
        assert_within(rounds, rate);
    }
    // After our reset.
    let mut client = Client::new();
    let post = client.post(1, &[]);
    client.send(&post).unwrap();
    client.answer_all(1);
    client.receive();
    let rounds = endured(&mut client, |_, _| data(1, b"x", false));
    assert_within(rounds, H2_IGNORED_FRAMES);
}

/// Content dribbled byte by byte through windows opened byte by byte.
#[test]
fn dribbled_windows() {
    let mut client = Client::with(Http2::default(), Limits::default(), &[(4, 0)]);
    let get = client.get(1);
    client.send(&get).unwrap();
    client.answer_all(1_000_000);
    let rounds = endured(&mut client, |client, _| {
        client.take();
        window(1, 1)
    });
    assert!(rounds <= H2_WINDOW_UPDATES.burst + 100, "{rounds}");
}

/// Answers to what a client does not read stop its input, not the memory.
#[test]
fn answers_that_are_not_read_hold_the_reader() {
    let mut client = Client::new();
    let mut sent = 0;
    while !client.connection.holds_reader() {
        client.now_ms += 1000;
        client.send(&frame(6, 0, 0, &[0; 8])).unwrap();
        sent += 1;
        assert!(sent < 2000);
    }
    assert!(!client.take().is_empty());
    assert!(!client.connection.holds_reader());
}
