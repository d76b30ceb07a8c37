//! Request bodies: windows, bounds, deadlines, endings.

use std::sync::Arc;
use std::task::{Poll, Waker};

use super::*;

fn client_with_body(limits: Limits, fields: &[(&str, &str)]) -> Client {
    let mut client = Client::with(Http2::default(), limits, &[]);
    let post = client.post(1, fields);
    client.send(&post).unwrap();
    client
}

fn failed(poll: &Poll<BodyPoll>) -> u16 {
    match poll {
        Poll::Ready(BodyPoll::Failed(failure)) => failure.status.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_body_comes_as_it_is_sent_and_wakes_its_reader() {
    let mut client = client_with_body(Limits::default(), &[("content-length", "6")]);
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    assert_eq!(client.poll_body_with(1, &waker), Poll::Pending);
    client.send(&data(1, b"ab", false)).unwrap();
    client.send(&data(1, b"cd", false)).unwrap();
    assert_eq!(wakes.count(), 1);
    let data_of = |poll| match poll {
        Poll::Ready(BodyPoll::Data(data)) => data,
        other => panic!("{other:?}"),
    };
    assert_eq!(data_of(client.poll_body(1)), "abcd");
    assert_eq!(client.poll_body_with(1, &waker), Poll::Pending);
    client.send(&data(1, b"ef", true)).unwrap();
    assert_eq!(wakes.count(), 2);
    assert_eq!(data_of(client.poll_body(1)), "ef");
    assert_eq!(client.poll_body(1), Poll::Ready(BodyPoll::End));
    assert_eq!(client.poll_body(3), Poll::Ready(BodyPoll::Gone));
}

#[test]
fn a_body_that_ends_without_bytes_or_with_trailers_wakes_its_reader() {
    for trailers in [false, true] {
        let mut client = client_with_body(Limits::default(), &[]);
        let wakes = Arc::new(Wakes::default());
        assert_eq!(
            client.poll_body_with(1, &wakes.clone().into()),
            Poll::Pending
        );
        let end = match trailers {
            true => client.headers(1, &[("x-checksum", "1")], true),
            false => data(1, b"", true),
        };
        client.send(&end).unwrap();
        assert_eq!(wakes.count(), 1);
        assert_eq!(client.poll_body(1), Poll::Ready(BodyPoll::End));
        let found = client.connection.take_trailers(1);
        assert_eq!(found.only("x-checksum").is_some(), trailers);
    }
}

#[test]
fn rfc9113_8_1_trailers_are_checked() {
    for (fields, end) in [
        (&[(":path", "/")][..], true),
        (&[("connection", "close")], true),
        (&[("a", "b")], false),
    ] {
        let mut client = client_with_body(Limits::default(), &[]);
        let trailers = client.headers(1, fields, end);
        client.send(&trailers).unwrap();
        assert_eq!(client.receive(), [Got::Reset(1, ErrorCode::Protocol)]);
        assert_eq!(client.poll_body(1), Poll::Ready(BodyPoll::Gone));
    }
}

#[test]
fn rfc9113_8_1_1_a_content_length_must_be_right() {
    for (content, end) in [(&b"abcd"[..], false), (b"ab", true)] {
        let mut client = client_with_body(Limits::default(), &[("content-length", "3")]);
        client.send(&data(1, content, end)).unwrap();
        assert_eq!(client.receive(), [Got::Reset(1, ErrorCode::Protocol)]);
    }
}

#[test]
fn windows_open_again_as_a_body_is_consumed_and_not_before() {
    let limits = Limits {
        body_bytes_max: 1 << 40,
        ..Limits::default()
    };
    let mut client = client_with_body(limits, &[]);
    let window = Http2::default().stream_window_bytes as usize;
    let mut sent = 0;
    while sent + 16_000 <= window {
        client.send(&data(1, &[7; 16_000], false)).unwrap();
        sent += 16_000;
    }
    assert!(client.receive().is_empty());
    assert!(matches!(client.poll_body(1), Poll::Ready(BodyPoll::Data(data)) if data.len() == sent));
    let got = client.receive();
    assert!(
        matches!(got[..], [Got::WindowUpdate(1, increment)] if increment as usize == sent),
        "{got:?}"
    );
    // Forever, as long as it is consumed.
    for _ in 0..1000 {
        client.send(&data(1, &[7; 16_000], false)).unwrap();
        assert!(matches!(
            client.poll_body(1),
            Poll::Ready(BodyPoll::Data(_))
        ));
        client.receive();
    }
}

#[test]
fn windows_of_dropped_streams_are_given_back_to_the_connection() {
    let mut client = Client::new();
    for round in 0..100 {
        let id = 2 * round + 1;
        let post = client.post(id, &[]);
        client.send(&post).unwrap();
        for _ in 0..8 {
            client.send(&data(id, &[0; 16_000], false)).unwrap();
        }
        if round % 2 == 0 {
            client.send(&rst(id)).unwrap();
        } else {
            client.requests();
            client.respond(id, Body::Empty);
            let got = client.receive();
            assert!(got.contains(&Got::Reset(id, ErrorCode::No)), "{got:?}");
        }
        client.receive();
    }
}

#[test]
fn rfc9113_8_1_an_early_response_is_complete_and_stops_the_body() {
    let mut client = client_with_body(Limits::default(), &[]);
    client.requests();
    client.respond(1, Body::Bytes("early".into()));
    let got = client.receive();
    assert_eq!(content(&got, 1), (b"early".to_vec(), true));
    assert_eq!(got.last(), Some(&Got::Reset(1, ErrorCode::No)));
    assert!(!client.connection.is_serving());
    // What is on the way is dropped, and its window given back.
    for _ in 0..100 {
        client.send(&data(1, &[0; 16_000], false)).unwrap();
        client.receive();
    }
}

#[test]
fn a_body_over_its_bound_is_refused() {
    let limits = Limits {
        body_bytes_max: 10,
        ..Limits::default()
    };
    let mut client = client_with_body(limits, &[("content-length", "11")]);
    match client.connection.poll_event() {
        Some(Event::Refused(1, _, Status(413), _)) => {}
        other => panic!("{other:?}"),
    }
    let mut client = client_with_body(limits, &[]);
    assert_eq!(client.poll_body(1), Poll::Pending);
    client.send(&data(1, &[0; 11], false)).unwrap();
    assert_eq!(failed(&client.poll_body(1)), 413);
    assert_eq!(client.connection.failure(1).unwrap().status, Status(413));
}

#[test]
fn rfc9110_10_1_1_a_client_is_told_to_continue_when_its_body_is_wanted() {
    let expect = [("expect", "100-continue"), ("content-length", "3")];
    let mut client = client_with_body(Limits::default(), &expect);
    assert!(client.receive().is_empty());
    assert_eq!(client.poll_body(1), Poll::Pending);
    let got = client.receive();
    assert!(
        matches!(&got[..], [Got::Headers { status: 100, end: false, fields, .. }] if fields.is_empty()),
        "{got:?}"
    );
    client.send(&data(1, b"abc", true)).unwrap();
    client.requests();
    client.respond(1, Body::Bytes("ok".into()));
    assert_eq!(content(&client.receive(), 1), (b"ok".to_vec(), true));
    // A client that does not wait is not told, and neither is one that is answered at once.
    let mut client = client_with_body(Limits::default(), &expect);
    client.send(&data(1, b"a", false)).unwrap();
    assert!(matches!(
        client.poll_body(1),
        Poll::Ready(BodyPoll::Data(_))
    ));
    assert_eq!(client.poll_body(1), Poll::Pending);
    assert!(client.receive().is_empty());
    let mut client = client_with_body(Limits::default(), &expect);
    client.requests();
    client.respond(1, Body::Empty);
    assert!(matches!(
        client.receive()[0],
        Got::Headers { status: 200, .. }
    ));
}

#[test]
fn a_body_that_stalls_fails_and_one_that_trickles_fails_in_the_end() {
    let timeouts = Timeouts::default();
    let progress_ms = u64::try_from(timeouts.body_progress.as_millis()).unwrap();
    let whole_ms = u64::try_from(timeouts.body.as_millis()).unwrap();
    let mut client = client_with_body(Limits::default(), &[]);
    let wakes = Arc::new(Wakes::default());
    assert_eq!(
        client.poll_body_with(1, &wakes.clone().into()),
        Poll::Pending
    );
    client.pass(progress_ms - 1).unwrap();
    assert_eq!(wakes.count(), 0);
    client.pass(1).unwrap();
    assert_eq!(wakes.count(), 1);
    assert_eq!(failed(&client.poll_body(1)), 408);
    let mut client = client_with_body(Limits::default(), &[]);
    let mut passed_ms = 0;
    while passed_ms + progress_ms / 2 < whole_ms {
        assert_eq!(client.poll_body(1), Poll::Pending);
        client.pass(progress_ms / 2).unwrap();
        passed_ms += progress_ms / 2;
        client.send(&data(1, b"a", false)).unwrap();
        assert!(matches!(
            client.poll_body(1),
            Poll::Ready(BodyPoll::Data(_))
        ));
    }
    assert_eq!(client.poll_body(1), Poll::Pending);
    client.pass(whole_ms - passed_ms).unwrap();
    assert_eq!(failed(&client.poll_body(1)), 408);
}

/// The bytes of a DATA frame that is not complete are progress of its stream, not a slow frame.
#[test]
fn a_frame_of_content_may_take_its_time() {
    let timeouts = Timeouts::default();
    let step_ms = u64::try_from(timeouts.body_progress.as_millis()).unwrap() / 2;
    let mut client = client_with_body(Limits::default(), &[]);
    assert_eq!(client.poll_body(1), Poll::Pending);
    for part in data(1, &[7; 500], false).chunks(60) {
        client.send(part).unwrap();
        client.pass(step_ms).unwrap();
    }
    assert!(matches!(client.poll_body(1), Poll::Ready(BodyPoll::Data(data)) if data.len() == 500));
}
