//! Frames that come, each rule by its section.

use super::*;

#[test]
fn rfc9113_3_4_the_preface_may_come_in_parts_and_must_be_right() {
    let mut client = Client::silent(Http2::default(), Limits::default());
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        client.send(&[*byte]).unwrap();
    }
    client.send(&settings(&[])).unwrap();
    assert!(client.receive().contains(&Got::SettingsAck));
    for preface in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nXX",
        b"\0",
    ] {
        let mut client = Client::silent(Http2::default(), Limits::default());
        assert_eq!(client.refused(preface), ErrorCode::Protocol);
    }
}

#[test]
fn rfc9113_3_4_the_first_frame_is_settings() {
    let headers = Client::new().get(1);
    for first in [
        headers,
        frame(6, 0, 0, &[0; 8]),
        frame(4, 1, 0, &[]),
        frame(0x77, 0, 0, &[]),
    ] {
        let mut client = Client::silent(Http2::default(), Limits::default());
        client.send(frame::PREFACE).unwrap();
        assert_eq!(client.refused(&first), ErrorCode::Protocol);
    }
}

#[test]
fn rfc9113_3_4_our_settings_are_the_first_frame() {
    let mut client = Client::silent(Http2::default(), Limits::default());
    assert_eq!(client.receive()[0], Got::Settings);
}

#[test]
fn rfc9113_4_2_a_frame_larger_than_allowed_ends_the_connection() {
    for kind in [0, 1, 4, 0x77] {
        let mut client = Client::new();
        let mut bytes = frame(kind, 0, u32::from(kind < 2), &[0; 16_385]);
        bytes.truncate(9);
        assert_eq!(client.refused(&bytes), ErrorCode::FrameSize);
    }
}

#[test]
fn rfc9113_4_3_a_block_that_cannot_be_decoded_ends_the_connection() {
    let mut client = Client::new();
    assert_eq!(
        client.refused(&frame(1, 5, 1, &[0xff, 0xff, 0xff, 0xff, 0x7f])),
        ErrorCode::Compression
    );
}

#[test]
fn rfc9113_4_3_blocks_of_refused_streams_are_decoded_all_the_same() {
    let http2 = Http2 {
        concurrent_streams_max: 1,
        ..Http2::default()
    };
    let mut client = Client::with(http2, Limits::default(), &[]);
    let first = client.get(1);
    client.send(&first).unwrap();
    // The refused one puts a field into the table that the next one refers to.
    let fields = [&GET[..], &[("x-long-name", "a value")]].concat();
    let refused = client.headers(3, &fields, true);
    client.send(&refused).unwrap();
    assert!(
        client
            .receive()
            .contains(&Got::Reset(3, ErrorCode::RefusedStream))
    );
    client.answer_all(0);
    client.receive();
    let next = client.headers(5, &fields, true);
    assert!(next.len() < refused.len());
    client.send(&next).unwrap();
    match client.connection.poll_event() {
        Some(Event::Gone(1)) => {}
        other => panic!("{other:?}"),
    }
    match client.connection.poll_event() {
        Some(Event::Request(5, request, false)) => {
            assert_eq!(request.fields.only("x-long-name"), Some(&b"a value"[..]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn rfc9113_5_1_frames_on_idle_streams_end_the_connection() {
    for bytes in [
        data(1, b"a", false),
        rst(1),
        window(1, 1),
        data(2, b"a", false),
        rst(2),
    ] {
        let mut client = Client::new();
        assert_eq!(client.refused(&bytes), ErrorCode::Protocol);
    }
    let mut client = Client::new();
    client.refused(&frame(2, 0, 1, &[0, 0, 0, 1, 1]));
    // PRIORITY of an idle stream is allowed when it does not depend on itself.
    let mut client = Client::new();
    client.send(&frame(2, 0, 1, &[0, 0, 0, 9, 1])).unwrap();
}

#[test]
fn rfc9113_5_1_data_after_the_request_is_a_stream_error() {
    let mut client = Client::new();
    let get = client.get(1);
    client.send(&get).unwrap();
    client.send(&data(1, b"a", false)).unwrap();
    assert!(
        client
            .receive()
            .contains(&Got::Reset(1, ErrorCode::StreamClosed))
    );
    assert!(client.requests().is_empty(), "its handler is dropped");
}

#[test]
fn rfc9113_5_1_what_was_on_the_way_after_our_reset_is_ignored() {
    let mut client = Client::new();
    let post = client.post(1, &[("content-length", "3")]);
    client.send(&post).unwrap();
    client.send(&data(1, b"four", false)).unwrap();
    assert!(
        client
            .receive()
            .contains(&Got::Reset(1, ErrorCode::Protocol))
    );
    client.send(&data(1, &[0; 1000], false)).unwrap();
    client.send(&window(1, 5)).unwrap();
    client.send(&rst(1)).unwrap();
    let trailers = client.headers(1, &[("a", "b")], true);
    client.send(&trailers).unwrap();
    let get = client.get(3);
    client.send(&get).unwrap();
    assert_eq!(client.answer_all(5), 1);
    assert_eq!(content(&client.receive(), 3).0.len(), 5);
}

#[test]
fn rfc9113_5_1_1_stream_identifiers_are_odd_and_rise() {
    for (first, second) in [(1, 2), (5, 3), (5, 5)] {
        let mut client = Client::new();
        let get = client.get(first);
        client.send(&get).unwrap();
        client.answer_all(1);
        client.receive();
        let get = client.get(second);
        let code = client.refused(&get);
        assert!(matches!(
            code,
            ErrorCode::Protocol | ErrorCode::StreamClosed
        ));
    }
}

#[test]
fn rfc9113_5_1_2_one_stream_too_many_is_refused() {
    let http2 = Http2 {
        concurrent_streams_max: 2,
        ..Http2::default()
    };
    let mut client = Client::with(http2, Limits::default(), &[]);
    for id in [1, 3, 5] {
        let get = client.get(id);
        client.send(&get).unwrap();
    }
    assert_eq!(client.receive(), [Got::Reset(5, ErrorCode::RefusedStream)]);
    assert_eq!(metrics::of_this_thread(Counter::Http2StreamsRefused), 1);
    assert_eq!(client.answer_all(1), 2);
    client.receive();
    let get = client.get(7);
    client.send(&get).unwrap();
    assert_eq!(client.requests(), [7]);
}

#[test]
fn rfc9113_5_3_1_a_stream_cannot_depend_on_itself() {
    let mut client = Client::new();
    let get = client.get(1);
    let mut payload = vec![0, 0, 0, 1, 5];
    payload.extend_from_slice(&get[9..]);
    client.send(&frame(1, 0x25, 1, &payload)).unwrap();
    assert_eq!(client.receive(), [Got::Reset(1, ErrorCode::Protocol)]);
    assert_eq!(metrics::of_this_thread(Counter::Http2StreamsReset), 1);
}

#[test]
fn rfc9113_5_5_unknown_frames_are_ignored_but_not_within_a_block() {
    let mut client = Client::new();
    client.send(&frame(0x77, 0xff, 9, b"anything")).unwrap();
    assert!(client.receive().is_empty());
    let get = client.get(1);
    client.send(&frame(1, 1, 1, &get[9..12])).unwrap();
    assert_eq!(client.refused(&frame(0x77, 0, 1, b"")), ErrorCode::Protocol);
}

#[test]
fn rfc9113_6_1_padding_counts_for_flow_control_and_is_given_back() {
    let mut client = Client::new();
    let post = client.post(1, &[]);
    client.send(&post).unwrap();
    // Far more padding than any window holds at once.
    for _ in 0..3000 {
        let mut payload = vec![200, b'a'];
        payload.extend_from_slice(&[0; 200]);
        client.send(&frame(0, 8, 1, &payload)).unwrap();
        client.receive();
    }
    match client.poll_body(1) {
        std::task::Poll::Ready(BodyPoll::Data(data)) => assert_eq!(data.len(), 3000),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rfc9113_6_4_rst_stream_ends_the_response() {
    let mut client = Client::new();
    let get = client.get(1);
    client.send(&get).unwrap();
    client.answer_all(1_000_000);
    client.receive_once();
    client.send(&rst(1)).unwrap();
    assert!(client.receive().is_empty());
    assert!(!client.connection.is_serving());
}

#[test]
fn rfc9113_6_5_settings_are_acknowledged_each() {
    let mut client = Client::new();
    client.send(&settings(&[(4, 1000)])).unwrap();
    client.send(&settings(&[])).unwrap();
    assert_eq!(client.receive(), [Got::SettingsAck, Got::SettingsAck]);
    for (entry, code) in [
        ((2, 2), ErrorCode::Protocol),
        ((4, 1 << 31), ErrorCode::FlowControl),
        ((5, 16_383), ErrorCode::Protocol),
    ] {
        assert_eq!(Client::new().refused(&settings(&[entry])), code);
    }
}

#[test]
fn rfc9113_6_5_3_an_acknowledgement_of_nothing_is_an_error() {
    let mut client = Client::new();
    assert_eq!(client.refused(&frame(4, 1, 0, &[])), ErrorCode::Protocol);
}

#[test]
fn rfc9113_6_5_3_settings_must_be_acknowledged_in_time() {
    let mut client = Client::silent(Http2::default(), Limits::default());
    client.send(frame::PREFACE).unwrap();
    client.send(&settings(&[])).unwrap();
    let get = client.get(1);
    client.send(&get).unwrap();
    client.pass(crate::limits::H2_SETTINGS_ACK_MS - 1).unwrap();
    let error = client.pass(1).unwrap_err();
    assert_eq!(error.code, ErrorCode::SettingsTimeout);
}

#[test]
fn rfc9113_6_7_pings_are_answered_with_their_bytes() {
    let mut client = Client::new();
    client.send(&frame(6, 0, 0, b"12345678")).unwrap();
    assert_eq!(client.receive(), [Got::PingAck(*b"12345678")]);
    client.send(&frame(6, 1, 0, b"12345678")).unwrap();
    assert!(client.receive().is_empty());
}

#[test]
fn rfc9113_6_9_1_windows_over_their_maximum_are_errors() {
    let mut client = Client::new();
    assert_eq!(
        client.refused(&window(0, 0x7fff_ffff)),
        ErrorCode::FlowControl
    );
    let mut client = Client::new();
    let get = client.get(1);
    client.send(&get).unwrap();
    client.send(&window(1, 0x7fff_ffff)).unwrap();
    assert!(
        client
            .receive()
            .contains(&Got::Reset(1, ErrorCode::FlowControl))
    );
}

#[test]
fn rfc9113_6_9_updates_of_zero_are_errors() {
    assert_eq!(Client::new().refused(&window(0, 0)), ErrorCode::Protocol);
    let mut client = Client::new();
    let get = client.get(1);
    client.send(&get).unwrap();
    client.send(&window(1, 0)).unwrap();
    assert!(
        client
            .receive()
            .contains(&Got::Reset(1, ErrorCode::Protocol))
    );
}

#[test]
fn rfc9113_6_9_1_more_than_the_windows_allow_is_an_error() {
    let http2 = Http2 {
        stream_window_bytes: 65_535,
        connection_window_bytes: 1 << 20,
        ..Http2::default()
    };
    let mut client = Client::with(http2, Limits::default(), &[]);
    let post = client.post(1, &[]);
    client.send(&post).unwrap();
    for _ in 0..4 {
        client.send(&data(1, &[0; 16_383], false)).unwrap();
    }
    client.send(&data(1, &[0; 4], false)).unwrap();
    assert!(
        client
            .receive()
            .contains(&Got::Reset(1, ErrorCode::FlowControl))
    );
    let http2 = Http2 {
        stream_window_bytes: 1 << 20,
        connection_window_bytes: 65_535,
        ..Http2::default()
    };
    let mut client = Client::with(http2, Limits::default(), &[]);
    let post = client.post(1, &[]);
    client.send(&post).unwrap();
    for _ in 0..4 {
        client.send(&data(1, &[0; 16_383], false)).unwrap();
    }
    assert_eq!(
        client.refused(&data(1, &[0; 4], false)),
        ErrorCode::FlowControl
    );
}

/// Without the pseudo-header fields they should have, or with others.
const MALFORMED: [&[(&str, &str)]; 6] = [
    &[],
    &[(":method", "GET")],
    &[(":method", "GET"), (":scheme", "https"), (":path", "/")],
    &[(":status", "200")],
    &[("a", "b"), GET[0], GET[1], GET[2], GET[3]],
    &[GET[0], GET[0], GET[1], GET[2], GET[3]],
];

/// In the place of those of [`GET`], or behind them.
const MALFORMED_FIELDS: [(&str, &str); 13] = [
    (":path", ""),
    (":path", "x"),
    (":path", "/ x"),
    (":authority", "a@b"),
    (":authority", ""),
    (":protocol", "websocket"),
    ("connection", "close"),
    ("te", "gzip"),
    ("transfer-encoding", "chunked"),
    ("X-Upper", "a"),
    ("a", "b\r\nc: d"),
    ("host", "b"),
    ("content-length", "1"),
];

#[test]
fn rfc9113_8_1_1_malformed_requests_are_stream_errors() {
    let with = |(name, value)| {
        let mut fields = GET.to_vec();
        match fields.iter_mut().find(|(found, _)| *found == name) {
            Some(field) => field.1 = value,
            None if name == ":protocol" => fields.insert(0, (name, value)),
            None => fields.push((name, value)),
        }
        fields
    };
    let lists = MALFORMED.iter().map(|fields| fields.to_vec());
    for fields in lists.chain(MALFORMED_FIELDS.map(with)) {
        let mut client = Client::new();
        let headers = client.headers(1, &fields, true);
        client.send(&headers).unwrap();
        let got = client.receive();
        assert_eq!(got, [Got::Reset(1, ErrorCode::Protocol)], "{fields:?}");
        assert!(client.requests().is_empty());
        let get = client.get(3);
        client.send(&get).unwrap();
        assert_eq!(client.requests(), [3]);
    }
}

#[test]
fn rfc9113_8_4_a_client_cannot_push() {
    let mut client = Client::new();
    assert_eq!(
        client.refused(&frame(5, 4, 1, &[0, 0, 0, 2])),
        ErrorCode::Protocol
    );
}

#[test]
fn rfc9113_8_5_connect_is_refused() {
    let mut client = Client::new();
    let headers = client.headers(1, &[(":method", "CONNECT"), (":authority", "a:1")], false);
    client.send(&headers).unwrap();
    assert_eq!(client.requests(), [1]);
    client.respond(1, Body::Empty);
    let got = client.receive();
    assert!(matches!(got[0], Got::Headers { end: true, .. }), "{got:?}");
}

#[test]
fn rfc9113_10_5_1_a_header_list_too_large_is_answered() {
    let http2 = Http2 {
        header_list_bytes_max: 1024,
        ..Http2::default()
    };
    let mut client = Client::with(http2, Limits::default(), &[]);
    let long = "x".repeat(2000);
    let headers = client.headers(1, &[&GET[..], &[("x", &long)]].concat(), true);
    client.send(&headers).unwrap();
    match client.connection.poll_event() {
        Some(Event::Refused(1, _, Status(431), _)) => {}
        other => panic!("{other:?}"),
    }
    let get = client.get(3);
    client.send(&get).unwrap();
    assert_eq!(client.requests(), [3]);
}

#[test]
fn rfc9218_7_1_priority_updates_before_and_after_the_request() {
    let update = |id: StreamId, value: &str| {
        let payload = [&id.to_be_bytes()[..], value.as_bytes()].concat();
        frame(0x10, 0, 0, &payload)
    };
    let mut client = Client::new();
    client.send(&update(3, "u=0")).unwrap();
    for id in [1, 3, 5] {
        let get = client.get(id);
        client.send(&get).unwrap();
    }
    client.send(&update(5, "u=1")).unwrap();
    client.send(&update(5, "not a dictionary,")).unwrap();
    client.answer_all(1);
    let order: Vec<_> = client
        .receive()
        .into_iter()
        .filter_map(|got| match got {
            Got::Data { stream, .. } => Some(stream),
            _ => None,
        })
        .collect();
    assert_eq!(order, [3, 5, 1]);
    assert_eq!(client.refused(&update(2, "u=1")), ErrorCode::Protocol);
    let mut client = Client::new();
    assert_eq!(client.refused(&update(0, "u=1")), ErrorCode::Protocol);
}
