//! How connections wait and end.

use super::*;

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

#[test]
fn a_new_connection_waits_for_its_first_request_and_then_for_the_next() {
    let timeouts = Timeouts::default();
    let mut client = Client::new();
    let first = Wait::First {
        until_ms: ms(timeouts.header),
    };
    assert_eq!(client.connection.wait(), first);
    client.pass(100).unwrap();
    let get = client.get(1);
    client.send(&get).unwrap();
    assert!(matches!(client.connection.wait(), Wait::Busy { .. }));
    client.answer_all(10);
    client.pass(1000).unwrap();
    client.receive();
    let idle = Wait::Idle {
        until_ms: 1100 + ms(timeouts.idle),
    };
    assert_eq!(client.connection.wait(), idle);
    client.connection.finish();
    assert_eq!(client.receive(), [Got::GoAway(1, ErrorCode::No)]);
    assert!(client.connection.is_finished());
}

#[test]
fn rfc9113_6_8_a_drain_takes_two_steps_and_serves_what_comes_between() {
    let mut client = Client::new();
    let get = client.get(1);
    client.send(&get).unwrap();
    client.connection.drain(client.now_ms);
    client.connection.drain(client.now_ms);
    let got = client.receive();
    let [Got::GoAway(0x7fff_ffff, ErrorCode::No), Got::Ping(opaque)] = got[..] else {
        panic!("{got:?}");
    };
    // On its way when the announcement was.
    let get = client.get(3);
    client.send(&get).unwrap();
    client.send(&frame(6, 1, 0, &opaque)).unwrap();
    assert_eq!(client.receive(), [Got::GoAway(3, ErrorCode::No)]);
    // Above the last stream: not processed, and the client knows.
    let get = client.get(5);
    client.send(&get).unwrap();
    assert_eq!(client.requests(), [1, 3]);
    client.respond(1, Body::Bytes("a".into()));
    client.respond(3, Body::Bytes("b".into()));
    assert!(!client.connection.is_finished());
    let got = client.receive();
    assert!(content(&got, 1).1 && content(&got, 3).1 && got.len() == 4);
    assert!(client.connection.is_finished());
}

#[test]
fn a_drain_does_not_wait_for_a_client_that_is_silent() {
    let mut client = Client::new();
    client.connection.drain(0);
    client.receive();
    client.pass(crate::limits::H2_DRAIN_PING_MS).unwrap();
    assert_eq!(client.receive(), [Got::GoAway(0, ErrorCode::No)]);
    assert!(client.connection.is_finished());
}

#[test]
fn rfc9113_6_8_after_the_clients_goaway_its_streams_are_finished() {
    let mut client = Client::new();
    let get = client.get(1);
    client.send(&get).unwrap();
    client.send(&frame(7, 0, 0, &[0; 8])).unwrap();
    client.answer_all(5);
    assert!(content(&client.receive(), 1).1);
    assert!(client.connection.is_finished());
}

#[test]
fn a_connection_ends_after_its_last_request() {
    let limits = Limits {
        requests_per_connection_max: 3,
        ..Limits::default()
    };
    let mut client = Client::with(Http2::default(), limits, &[]);
    for id in [1, 3, 5] {
        assert!(!client.connection.is_draining());
        let get = client.get(id);
        client.send(&get).unwrap();
        client.answer_all(1);
    }
    assert!(client.connection.is_draining());
    let got = client.receive();
    assert!(content(&got, 5).1);
}

#[test]
fn rfc9113_5_4_1_an_error_ends_all_streams() {
    let mut client = Client::new();
    for id in [1, 3] {
        let get = client.get(id);
        client.send(&get).unwrap();
    }
    assert_eq!(client.refused(&window(0, 0)), ErrorCode::Protocol);
    assert!(client.requests().is_empty());
    client.respond(1, Body::Bytes("late".into()));
    assert!(client.receive().is_empty());
    let get = client.get(5);
    client.send(&get).unwrap();
    assert!(client.requests().is_empty());
}

#[test]
fn slow_heads_end_the_connection() {
    let header_ms = ms(Timeouts::default().header);
    let get = Client::new().get(1);
    // A part of a frame header, of a frame, of a block.
    let part = frame(1, 1, 1, &get[9..12]);
    for begun in [&get[..5], &get[..get.len() - 1], &part] {
        let mut client = Client::new();
        client.send(begun).unwrap();
        client.pass(header_ms - 1).unwrap();
        assert_eq!(client.pass(1).unwrap_err().code, ErrorCode::EnhanceYourCalm);
    }
    // Byte by byte, with other frames complete between.
    let mut client = Client::new();
    client.send(&part).unwrap();
    for byte in frame(9, 0, 1, &[0x88; 10]) {
        if client.pass(header_ms / 10).is_err() {
            return;
        }
        client.send(&[byte]).unwrap();
    }
    panic!("a block may take forever");
}

/// RFC 9113 10.5: windows that are never opened hold responses in memory.
#[test]
fn stalled_windows_are_reaped() {
    let send_ms = ms(Timeouts::default().send_progress);
    let mut client = Client::with(Http2::default(), Limits::default(), &[(4, 0)]);
    for id in [1, 3] {
        let get = client.get(id);
        client.send(&get).unwrap();
    }
    client.answer_all(100);
    assert_eq!(client.receive().len(), 2);
    client.pass(send_ms / 2).unwrap();
    client.send(&window(3, 1)).unwrap();
    assert_eq!(content(&client.receive(), 3).0.len(), 1);
    client.pass(send_ms / 2).unwrap();
    assert_eq!(client.receive(), [Got::Reset(1, ErrorCode::Cancel)]);
    client.pass(send_ms / 2).unwrap();
    assert_eq!(client.receive(), [Got::Reset(3, ErrorCode::Cancel)]);
    assert!(!client.connection.is_serving());
}

#[test]
fn what_waits_behind_others_is_not_reaped() {
    let send_ms = ms(Timeouts::default().send_progress);
    let mut client = Client::with(Http2::default(), Limits::default(), &[(4, 0x7fff_ffff)]);
    client.send(&window(0, 0x7fff_0000)).unwrap();
    for id in [1, 3] {
        let get = client.get(id);
        client.send(&get).unwrap();
    }
    client.answer_all(10_000_000);
    let (mut first, mut second) = (0, 0);
    while first < 10_000_000 {
        let got = client.receive_once();
        first += content(&got, 1).0.len();
        second += content(&got, 3).0.len();
        client.pass(send_ms / 4).unwrap();
    }
    client.pass(send_ms / 2).unwrap();
    let got = client.receive();
    assert_eq!(second + content(&got, 3).0.len(), 10_000_000);
}
