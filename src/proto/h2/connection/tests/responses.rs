//! Responses: what is sent, in which frames and in which order.

use std::io::Write;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::limits::{H2_RESPONSE_AHEAD_BYTES, RECORD_PLAINTEXT_BYTES_MAX};
use crate::message::{BodyStream, FileRange, LocalFuture, Part, Response};

fn file(content: &[u8]) -> Body {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Body::File(FileRange {
        file: Arc::new(file),
        offset: 0,
        length: content.len() as u64,
        is_remote: false,
    })
}

/// Stands for a body that the test makes.
struct Nobody;

impl BodyStream for Nobody {
    fn next(&mut self) -> LocalFuture<'_, Result<Option<bytes::Bytes>, crate::error::Error>> {
        Box::pin(async { Ok(None) })
    }
}

const WIDE: [(u16, u32); 1] = [(4, 0x7fff_ffff)];

fn wide() -> Client {
    let mut client = Client::with(Http2::default(), Limits::default(), &WIDE);
    client.send(&window(0, 0x7fff_0000)).unwrap();
    client
}

fn open(client: &mut Client, ids: &[StreamId], priority: &str) {
    for id in ids {
        let fields = [&GET[..], &[("priority", priority)]].concat();
        let headers = client.headers(*id, &fields, true);
        client.send(&headers).unwrap();
    }
    client.requests();
}

#[test]
fn fields_come_with_the_status_first_and_without_what_http2_forbids() {
    let mut client = Client::new();
    let get = client.get(1);
    client.send(&get).unwrap();
    let response = Response::new(Status(404))
        .with("content-type", "text/plain")
        .with("connection", "keep-alive")
        .with("upgrade", "h2c")
        .with("x-split", "a\r\nb\0c")
        .with_body(Body::Bytes("gone".into()));
    client.connection.respond(1, response, 0);
    let fields = [
        ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("content-type", "text/plain"),
        ("x-split", "a  b c"),
        ("content-length", "4"),
    ];
    let got = client.receive();
    assert_eq!(
        got[0],
        Got::Headers {
            stream: 1,
            status: 404,
            fields: fields.map(|(n, v)| (n.into(), v.into())).into(),
            end: false
        }
    );
    assert_eq!(content(&got, 1), (b"gone".to_vec(), true));
    assert!(!client.connection.is_serving());
}

#[test]
fn head_and_bodiless_statuses_end_with_their_fields() {
    for (method, status, length) in [
        ("HEAD", 200, Some("4")),
        ("GET", 204, None),
        ("GET", 304, Some("4")),
        ("GET", 205, Some("0")),
    ] {
        let mut client = Client::new();
        let fields = [&[(":method", method)], &GET[1..]].concat();
        let headers = client.headers(1, &fields, true);
        client.send(&headers).unwrap();
        let response = Response::new(Status(status)).with_body(Body::Bytes("gone".into()));
        client.connection.respond(1, response, 0);
        let got = client.receive();
        let [Got::Headers { fields, end, .. }] = &got[..] else {
            panic!("{got:?}");
        };
        assert!(end);
        let found = fields.iter().find(|(name, _)| name == "content-length");
        assert_eq!(
            found.map(|(_, value)| &**value),
            length,
            "{method} {status}"
        );
    }
}

/// The frames of a large file are full records, from the first on.
#[test]
fn frames_fill_records_also_behind_other_frames() {
    let mut client = wide();
    open(&mut client, &[1], "");
    let content = bytes(1 << 20);
    client.respond(1, file(&content));
    client.send(&frame(6, 0, 0, &[0; 8])).unwrap();
    let mut wire = Vec::new();
    loop {
        let bytes = client.take();
        if bytes.is_empty() {
            break;
        }
        // Frames begin where records do.
        let mut at = 0;
        let mut ends = std::collections::BTreeSet::new();
        while at < bytes.len() {
            at += 9 + u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]) as usize;
            ends.insert(at);
        }
        assert_eq!(at, bytes.len());
        for record in 1..=bytes.len() / RECORD_PLAINTEXT_BYTES_MAX {
            assert!(ends.contains(&(record * RECORD_PLAINTEXT_BYTES_MAX)));
        }
        assert!(bytes.len() <= 4 * RECORD_PLAINTEXT_BYTES_MAX);
        wire.extend_from_slice(&bytes);
    }
    let overhead = wire.len() - content.len();
    assert!(overhead < 66 * 9 + 200, "{overhead}");
}

#[test]
fn many_small_responses_are_one_send() {
    let mut client = wide();
    let ids: Vec<_> = (0..100).map(|i| 2 * i + 1).collect();
    open(&mut client, &ids, "");
    for id in &ids {
        client.respond(*id, Body::Bytes(bytes(300)));
    }
    let got = client.receive_once();
    assert_eq!(got.len(), 200);
    assert!(client.receive_once().is_empty());
    assert!(
        ids.iter()
            .all(|id| content(&got, *id) == (bytes(300).to_vec(), true))
    );
}

#[test]
fn rfc9113_6_9_windows_hold_content_back_but_not_heads() {
    let mut client = Client::with(Http2::default(), Limits::default(), &[(4, 10)]);
    open(&mut client, &[1, 3], "");
    client.respond(1, Body::Bytes(bytes(25)));
    client.respond(3, Body::Empty);
    let got = client.receive();
    assert_eq!(content(&got, 1), (bytes(10).to_vec(), false));
    assert_eq!(content(&got, 3), (Vec::new(), true));
    client.send(&window(1, 5)).unwrap();
    assert_eq!(content(&client.receive(), 1).0.len(), 5);
    // RFC 9113 6.9.2: a change of the initial size changes open windows, also below zero.
    client.send(&settings(&[(4, 5)])).unwrap();
    client.send(&window(1, 5)).unwrap();
    assert_eq!(client.receive(), [Got::SettingsAck]);
    client.send(&settings(&[(4, 100)])).unwrap();
    let (rest, end) = content(&client.receive(), 1);
    assert!(rest.len() == 10 && end);
}

#[test]
fn rfc9113_6_9_the_connections_window_holds_all_back() {
    let mut client = Client::with(Http2::default(), Limits::default(), &WIDE);
    open(&mut client, &[1, 3], "");
    client.respond(1, Body::Bytes(bytes(60_000)));
    client.respond(3, Body::Bytes(bytes(60_000)));
    let got = client.receive();
    assert_eq!(content(&got, 1).0.len() + content(&got, 3).0.len(), 65_535);
    client.send(&window(0, 100_000)).unwrap();
    let got = client.receive();
    assert!(content(&got, 3).1);
}

#[test]
fn rfc9218_10_the_more_urgent_go_first() {
    let mut client = wide();
    open(&mut client, &[1], "u=6");
    open(&mut client, &[3], "u=1");
    for id in [1, 3] {
        client.respond(id, Body::Bytes(bytes(200_000)));
    }
    let got = client.receive();
    let last_urgent = got
        .iter()
        .rposition(|f| matches!(f, Got::Data { stream: 3, .. }));
    let first_other = got
        .iter()
        .position(|f| matches!(f, Got::Data { stream: 1, .. }));
    assert!(last_urgent < first_other);
}

#[test]
fn rfc9218_10_incremental_ones_share_and_others_are_whole() {
    let mut client = wide();
    open(&mut client, &[1, 3], "i");
    open(&mut client, &[5, 7], "");
    for id in [1, 3, 5, 7] {
        client.respond(id, Body::Bytes(bytes(300_000)));
    }
    let got = client.receive();
    let place = |id: StreamId, last: bool| {
        let of = |f: &Got| matches!(f, Got::Data { stream, .. } if *stream == id);
        let found = if last {
            got.iter().rposition(of)
        } else {
            got.iter().position(of)
        };
        found.unwrap()
    };
    assert!(place(3, false) < place(1, true) && place(1, false) < place(3, true));
    assert!(place(5, true) < place(7, false));
    // The two kinds take turns.
    assert!(place(1, false) < place(5, true) && place(5, false) < place(1, true));
    for id in [1, 3, 5, 7] {
        assert_eq!(content(&got, id), (bytes(300_000).to_vec(), true));
    }
}

#[test]
fn made_bodies_wait_for_room_and_must_keep_their_promise() {
    let mut client = Client::with(Http2::default(), Limits::default(), &[(4, 1 << 20)]);
    let response =
        |length| Response::new(Status(200)).with_body(Body::Stream(Box::new(Nobody), length));
    let room = |client: &mut Client, id| {
        let context = Context::from_waker(Waker::noop());
        client.connection.poll_room(id, &context)
    };
    open(&mut client, &[1, 3, 5, 7], "");
    assert!(client.connection.respond(1, response(None), 0).is_some());
    let mut pushed = 0;
    while room(&mut client, 1) == Poll::Ready(Room::More) {
        client.connection.push_chunk(1, bytes(10_000));
        pushed += 10_000;
    }
    assert!(pushed < H2_RESPONSE_AHEAD_BYTES + 10_000);
    let got = client.receive();
    assert!(
        matches!(&got[0], Got::Headers { fields, .. } if fields.len() == 1),
        "{got:?}"
    );
    assert_eq!(content(&got, 1).0.len(), 65_535.min(pushed));
    client.send(&window(0, 1 << 20)).unwrap();
    client.receive();
    assert_eq!(room(&mut client, 1), Poll::Ready(Room::More));
    client.connection.end_chunks(1, Fields::default());
    assert_eq!(room(&mut client, 1), Poll::Ready(Room::Gone));
    assert_eq!(content(&client.receive(), 1), (Vec::new(), true));
    // Short, long, and just right.
    for id in [3, 5, 7] {
        assert!(
            client
                .connection
                .respond(id, response(Some(3)), 0)
                .is_some()
        );
    }
    client.connection.push_chunk(3, bytes(2));
    client.connection.end_chunks(3, Fields::default());
    client.connection.push_chunk(5, bytes(4));
    client.connection.push_chunk(7, bytes(3));
    client.connection.end_chunks(7, Fields::default());
    let got = client.receive();
    assert!(got.contains(&Got::Reset(3, ErrorCode::Internal)));
    assert!(got.contains(&Got::Reset(5, ErrorCode::Internal)));
    assert_eq!(content(&got, 7), (bytes(3).to_vec(), true));
    assert!(!client.connection.is_serving());
}

#[test]
fn a_client_that_keeps_a_small_table_is_obeyed() {
    let mut client = Client::with(Http2::default(), Limits::default(), &[(1, 0)]);
    for id in [1, 3, 5] {
        open(&mut client, &[id], "");
        client.respond(id, Body::Bytes(bytes(1)));
        let got = client.receive();
        assert!(matches!(got[0], Got::Headers { .. }), "{got:?}");
    }
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    let mut block = Vec::new();
    let mut entries = Vec::new();
    for (name, value) in pairs {
        let mut span = |text: &str| {
            let start = u32::try_from(block.len()).unwrap();
            block.extend_from_slice(text.as_bytes());
            start..u32::try_from(block.len()).unwrap()
        };
        entries.push((span(name), span(value)));
    }
    Fields::new(block.into(), entries)
}

/// RFC 9113 8.2: names are in lower case, however another server spelled them.
#[test]
fn relayed_fields_and_trailers_are_passed_on() {
    for takes_trailers in [true, false] {
        let mut client = Client::new();
        let te: &[_] = if takes_trailers {
            &[("te", "trailers")]
        } else {
            &[]
        };
        let get = client.headers(1, &[&GET[..], te].concat(), true);
        client.send(&get).unwrap();
        client.requests();
        let mut response =
            Response::new(Status(200)).with_body(Body::Stream(Box::new(Nobody), None));
        response.relayed = fields(&[("Date", "then"), ("X-Kept", "a"), ("Keep-Alive", "5")]);
        client.connection.respond(1, response, 0);
        client.connection.push_chunk(1, bytes(3));
        let trailers = fields(&[("X-Checksum", "7")]);
        client.connection.end_chunks(1, trailers);
        let got = client.receive();
        let kept = [("date", "then"), ("x-kept", "a")].map(|(n, v)| (n.into(), v.into()));
        assert!(
            matches!(&got[0], Got::Headers { fields, .. } if *fields == kept),
            "{got:?}"
        );
        assert_eq!(got.len(), if takes_trailers { 3 } else { 2 });
        if takes_trailers {
            assert!(matches!(&got[1], Got::Data { end: false, .. }));
            assert!(matches!(
                &got[2],
                Got::Trailers(1, fields) if *fields == [("x-checksum".into(), "7".into())]
            ));
        }
        assert!(!client.connection.is_serving());
    }
}

#[test]
fn bodies_of_parts_are_sent_in_their_order() {
    let mut client = wide();
    open(&mut client, &[1], "");
    let large = bytes(50_000);
    let Body::File(range) = file(&large) else {
        panic!("not a file");
    };
    let parts = vec![
        Part::Bytes(bytes(10)),
        Part::File(range.clone()),
        Part::Bytes(bytes(20_000)),
        Part::File(range),
    ];
    client.respond(1, Body::Parts(parts));
    let expected = [&bytes(10)[..], &large, &bytes(20_000), &large].concat();
    let got = client.receive();
    assert!(content(&got, 1) == (expected, true));
}

/// What is over is told with what was sent of it.
#[test]
fn finished_streams_are_told() {
    let mut client = Client::new();
    open(&mut client, &[1, 3, 5, 7], "");
    client.respond(1, Body::Bytes(bytes(100)));
    client.respond(3, Body::Bytes(bytes(100_000)));
    client.respond(5, Body::Empty);
    client.receive();
    client.send(&[rst(3), rst(7)].concat()).unwrap();
    let mut told = Vec::new();
    while let Some(finished) = client.connection.poll_finished() {
        assert_eq!(finished.status, Status(200));
        told.push((finished.data, finished.is_complete));
        match finished.data {
            1 => assert_eq!(finished.body_bytes, 109),
            3 => assert!((60_000..70_000).contains(&finished.body_bytes)),
            _ => assert_eq!(finished.body_bytes, 0),
        }
    }
    // 7 got not even a status.
    told.sort_unstable();
    assert_eq!(told, [(1, true), (3, false), (5, true)]);
}
