use super::*;
use proptest::prelude::*;

/// The bytes of a frame.
fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Decodes `input` frame by frame; the frames as text, since they borrow, or the first error.
fn decode_all(decoder: &mut Decoder, mut input: &[u8]) -> Result<Vec<String>, ConnectionError> {
    let mut frames = Vec::new();
    while let Some(decoded) = decoder.decode(input)? {
        frames.push(format!("{:?}", decoded.frame));
        input = &input[decoded.consumed..];
    }
    assert!(input.is_empty(), "{} bytes left", input.len());
    Ok(frames)
}

fn failure(input: &[u8]) -> ErrorCode {
    let result = decode_all(&mut Decoder::new(Role::Server), input);
    result.expect_err("accepted").code
}

/// Runs `check` with the one frame of `input`.
fn with_frame(input: &[u8], check: impl FnOnce(Frame<'_>)) {
    let mut decoder = Decoder::new(Role::Server);
    let decoded = decoder.decode(input).unwrap().unwrap();
    assert_eq!(decoded.consumed, input.len());
    check(decoded.frame);
}

fn faulty(input: &[u8]) -> (StreamId, ErrorCode) {
    let mut found = None;
    with_frame(input, |frame| {
        if let Frame::Faulty(error) = frame {
            found = Some((error.stream, error.code));
        }
    });
    found.unwrap()
}

#[test]
fn rfc9113_3_4_the_preface_is_told_early() {
    assert_eq!(PREFACE.len(), 24);
    for length in 0..PREFACE.len() {
        assert_eq!(match_preface(&PREFACE[..length]), None);
    }
    assert_eq!(match_preface(&[PREFACE, b"x"].concat()), Some(true));
    assert_eq!(
        match_preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r"),
        Some(false)
    );
    assert_eq!(match_preface(b"GET"), Some(false));
    assert_eq!(match_preface(b"PRJ"), Some(false));
}

#[test]
fn rfc9113_4_1_the_reserved_bit_and_undefined_flags_are_ignored() {
    with_frame(&raw(DATA, 0xf6, 0x8000_0003, b"x"), |frame| {
        assert_eq!(
            frame,
            Frame::Data(Data {
                stream: 3,
                content: b"x",
                content_start: 9,
                flow_bytes: 1,
                end_stream: false,
            })
        );
    });
}

#[test]
fn rfc9113_4_1_and_5_5_unknown_types_are_ignored() {
    for kind in [0x0a, 0x0b, 0x0f, 0x11, 0xff] {
        for stream in [0, 1, 2] {
            with_frame(&raw(kind, 0xff, stream, b"??"), |frame| {
                assert_eq!(frame, Frame::Unknown);
            });
        }
    }
}

#[test]
fn rfc9113_4_2_a_frame_over_the_maximum_size_is_refused_from_its_header() {
    for kind in [DATA, HEADERS, SETTINGS, 0xee] {
        let input = raw(kind, 0, u32::from(kind < SETTINGS), &[0; 16_385]);
        assert_eq!(failure(&input[..9]), ErrorCode::FrameSize);
    }
    with_frame(&raw(DATA, 0, 1, &[0; 16_384]), |frame| {
        assert!(matches!(frame, Frame::Data(data) if data.content.len() == 16_384));
    });
}

#[test]
fn rfc9113_6_1_data_needs_a_stream() {
    assert_eq!(failure(&raw(DATA, 0, 0, b"x")), ErrorCode::Protocol);
}

#[test]
fn rfc9113_6_1_data_padding_counts_for_flow_control_but_is_no_content() {
    with_frame(
        &raw(DATA, PADDED | END_STREAM, 1, b"\x03abc\0\0\0"),
        |frame| {
            assert_eq!(
                frame,
                Frame::Data(Data {
                    stream: 1,
                    content: b"abc",
                    content_start: 10,
                    flow_bytes: 7,
                    end_stream: true,
                })
            );
        },
    );
    with_frame(&raw(DATA, PADDED, 1, b"\x03\0\0\0"), |frame| {
        assert!(matches!(frame, Frame::Data(data) if data.content.is_empty()));
    });
}

#[test]
fn rfc9113_6_1_and_6_2_padding_as_long_as_the_payload_is_refused() {
    assert_eq!(
        failure(&raw(DATA, PADDED, 1, b"\x04\0\0\0")),
        ErrorCode::Protocol
    );
    assert_eq!(failure(&raw(DATA, PADDED, 1, b"")), ErrorCode::FrameSize);
    let flags = PADDED | END_HEADERS;
    assert_eq!(
        failure(&raw(HEADERS, flags, 1, b"\x02\0")),
        ErrorCode::Protocol
    );
    assert_eq!(failure(&raw(HEADERS, flags, 1, b"")), ErrorCode::FrameSize);
    // Padding that reaches into the priority fields.
    let flags = flags | PRIORITY_FLAG;
    assert_eq!(
        failure(&raw(HEADERS, flags, 1, b"\x01\0\0\0\0\0")),
        ErrorCode::Protocol
    );
}

#[test]
fn rfc9113_6_2_headers_need_a_stream_and_room_for_their_fields() {
    assert_eq!(
        failure(&raw(HEADERS, END_HEADERS, 0, b"\x82")),
        ErrorCode::Protocol
    );
    let flags = END_HEADERS | PRIORITY_FLAG;
    assert_eq!(
        failure(&raw(HEADERS, flags, 1, b"\0\0\0\0")),
        ErrorCode::FrameSize
    );
}

#[test]
fn rfc9113_6_2_priority_fields_and_padding_are_taken_off_the_block() {
    let flags = END_HEADERS | END_STREAM | PRIORITY_FLAG | PADDED;
    with_frame(
        &raw(HEADERS, flags, 5, b"\x02\x80\0\0\x03\xff\x82\x84\0\0"),
        |frame| {
            assert_eq!(
                frame,
                Frame::Headers(Headers {
                    stream: 5,
                    block: b"\x82\x84",
                    end_stream: true,
                    depends_on_itself: false,
                })
            );
        },
    );
}

#[test]
fn rfc7540_5_3_1_a_stream_that_depends_on_itself_is_told() {
    with_frame(
        &raw(HEADERS, END_HEADERS | PRIORITY_FLAG, 3, b"\0\0\0\x03\0"),
        |frame| {
            assert!(matches!(frame, Frame::Headers(headers) if headers.depends_on_itself));
        },
    );
    let priority = raw(PRIORITY, 0, 3, b"\x80\0\0\x03\0");
    assert_eq!(faulty(&priority), (3, ErrorCode::Protocol));
}

#[test]
fn rfc9113_6_3_priority_rules() {
    assert_eq!(failure(&raw(PRIORITY, 0, 0, &[0; 5])), ErrorCode::Protocol);
    assert_eq!(
        faulty(&raw(PRIORITY, 0, 7, &[0; 4])),
        (7, ErrorCode::FrameSize)
    );
    assert_eq!(
        faulty(&raw(PRIORITY, 0, 7, &[0; 6])),
        (7, ErrorCode::FrameSize)
    );
    with_frame(&raw(PRIORITY, 0, 7, &[0; 5]), |frame| {
        assert_eq!(frame, Frame::Priority { stream: 7 });
    });
}

#[test]
fn rfc9113_6_4_rst_stream_rules() {
    assert_eq!(
        failure(&raw(RST_STREAM, 0, 0, &[0; 4])),
        ErrorCode::Protocol
    );
    assert_eq!(
        failure(&raw(RST_STREAM, 0, 1, &[0; 3])),
        ErrorCode::FrameSize
    );
    assert_eq!(
        failure(&raw(RST_STREAM, 0, 1, &[0; 5])),
        ErrorCode::FrameSize
    );
    with_frame(&raw(RST_STREAM, 0, 1, &[0, 0, 0, 8]), |frame| {
        let code = ErrorCode::Cancel;
        assert_eq!(frame, Frame::RstStream { stream: 1, code });
    });
}

#[test]
fn rfc9113_6_5_settings_rules() {
    assert_eq!(failure(&raw(SETTINGS, 0, 1, b"")), ErrorCode::Protocol);
    assert_eq!(failure(&raw(SETTINGS, 0, 0, &[0; 5])), ErrorCode::FrameSize);
    assert_eq!(
        failure(&raw(SETTINGS, ACK, 0, &[0; 6])),
        ErrorCode::FrameSize
    );
    with_frame(&raw(SETTINGS, ACK, 0, b""), |frame| {
        assert_eq!(frame, Frame::SettingsAck)
    });
    with_frame(&raw(SETTINGS, 0, 0, &[1; 12]), |frame| {
        assert_eq!(frame, Frame::Settings { payload: &[1; 12] });
    });
}

#[test]
fn rfc9113_8_4_and_6_5_2_push_promise_is_refused() {
    let frame = raw(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]);
    assert_eq!(failure(&frame), ErrorCode::Protocol);
    let result = decode_all(&mut Decoder::new(Role::Client), &frame);
    assert_eq!(result.unwrap_err().code, ErrorCode::Protocol);
}

#[test]
fn rfc9113_6_7_ping_rules() {
    assert_eq!(failure(&raw(PING, 0, 1, &[0; 8])), ErrorCode::Protocol);
    assert_eq!(failure(&raw(PING, 0, 0, &[0; 7])), ErrorCode::FrameSize);
    assert_eq!(failure(&raw(PING, ACK, 0, &[0; 9])), ErrorCode::FrameSize);
    with_frame(&raw(PING, 0, 0, b"12345678"), |frame| {
        assert_eq!(frame, Frame::Ping(*b"12345678"));
    });
    with_frame(&raw(PING, ACK, 0, b"12345678"), |frame| {
        assert_eq!(frame, Frame::PingAck(*b"12345678"));
    });
}

#[test]
fn rfc9113_6_8_goaway_rules() {
    assert_eq!(failure(&raw(GOAWAY, 0, 1, &[0; 8])), ErrorCode::Protocol);
    assert_eq!(failure(&raw(GOAWAY, 0, 0, &[0; 7])), ErrorCode::FrameSize);
    with_frame(&raw(GOAWAY, 0, 0, b"\x80\0\0\x09\0\0\0\x0bcalm"), |frame| {
        assert_eq!(
            frame,
            Frame::GoAway {
                last_stream: 9,
                code: ErrorCode::EnhanceYourCalm,
                debug: b"calm",
            }
        );
    });
}

#[test]
fn rfc9113_6_9_window_update_rules() {
    assert_eq!(
        failure(&raw(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ErrorCode::FrameSize
    );
    assert_eq!(
        failure(&raw(WINDOW_UPDATE, 0, 1, &[0; 5])),
        ErrorCode::FrameSize
    );
    assert_eq!(
        failure(&raw(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ErrorCode::Protocol
    );
    // The reserved bit alone is zero too.
    assert_eq!(
        failure(&raw(WINDOW_UPDATE, 0, 0, &[0x80, 0, 0, 0])),
        ErrorCode::Protocol
    );
    assert_eq!(
        faulty(&raw(WINDOW_UPDATE, 0, 3, &[0; 4])),
        (3, ErrorCode::Protocol)
    );
    with_frame(&raw(WINDOW_UPDATE, 0, 3, &[0xff; 4]), |frame| {
        let increment = 0x7fff_ffff;
        assert_eq!(
            frame,
            Frame::WindowUpdate {
                stream: 3,
                increment
            }
        );
    });
}

#[test]
fn rfc9113_6_10_a_block_is_joined_over_continuations() {
    let input = [
        raw(HEADERS, END_STREAM | PADDED, 1, b"\x01ab\0"),
        raw(CONTINUATION, 0, 1, b""),
        raw(CONTINUATION, 0, 1, b"cd"),
        raw(CONTINUATION, END_HEADERS, 1, b"e"),
        raw(PING, 0, 0, &[0; 8]),
    ]
    .concat();
    let mut decoder = Decoder::new(Role::Server);
    let frames = decode_all(&mut decoder, &input).unwrap();
    let expected = Frame::Headers(Headers {
        stream: 1,
        block: b"abcde",
        end_stream: true,
        depends_on_itself: false,
    });
    assert_eq!(frames[..3], ["HeadersPart", "HeadersPart", "HeadersPart"]);
    assert_eq!(frames[3], format!("{expected:?}"));
    assert_eq!(decoder.block.capacity(), 0);
}

#[test]
fn rfc9113_6_10_nothing_else_may_come_within_a_block() {
    let open = raw(HEADERS, 0, 1, b"a");
    for other in [
        raw(DATA, 0, 1, b"x"),
        raw(HEADERS, END_HEADERS, 1, b"x"),
        raw(SETTINGS, 0, 0, b""),
        raw(PING, 0, 0, &[0; 8]),
        raw(RST_STREAM, 0, 1, &[0; 4]),
        raw(CONTINUATION, END_HEADERS, 3, b"x"),
        raw(CONTINUATION, END_HEADERS, 0, b"x"),
        // RFC 9113 5.5: extension frames too.
        raw(0x42, 0, 1, b"x"),
    ] {
        let input = [open.clone(), other].concat();
        assert_eq!(failure(&input), ErrorCode::Protocol, "{input:x?}");
    }
}

#[test]
fn rfc9113_6_10_continuation_needs_an_open_block() {
    assert_eq!(
        failure(&raw(CONTINUATION, END_HEADERS, 1, b"")),
        ErrorCode::Protocol
    );
    let input = [
        raw(HEADERS, END_HEADERS, 1, b"a"),
        raw(CONTINUATION, END_HEADERS, 1, b"b"),
    ];
    assert_eq!(failure(&input.concat()), ErrorCode::Protocol);
}

#[test]
fn continuation_flood_is_bounded_in_frames_and_bytes() {
    let mut input = raw(HEADERS, 0, 1, b"");
    for _ in 0..H2_CONTINUATIONS_MAX {
        input.extend_from_slice(&raw(CONTINUATION, 0, 1, b""));
    }
    let mut decoder = Decoder::new(Role::Server);
    assert!(decode_all(&mut decoder, &input).is_ok());
    let next = decoder.decode(&[0, 0, 0, CONTINUATION, END_HEADERS, 0, 0, 0, 1]);
    assert_eq!(next.unwrap_err().code, ErrorCode::EnhanceYourCalm);

    let mut input = raw(HEADERS, 0, 1, &[0; 16_384]);
    for _ in 0..3 {
        input.extend_from_slice(&raw(CONTINUATION, 0, 1, &[0; 16_384]));
    }
    assert!(decode_all(&mut Decoder::new(Role::Server), &input).is_ok());
    input.extend_from_slice(&raw(CONTINUATION, END_HEADERS, 1, b"x"));
    assert_eq!(failure(&input), ErrorCode::EnhanceYourCalm);
}

#[test]
fn rfc9218_7_1_priority_update_rules() {
    assert_eq!(
        failure(&raw(PRIORITY_UPDATE, 0, 1, b"\0\0\0\x01u=1")),
        ErrorCode::Protocol
    );
    assert_eq!(
        failure(&raw(PRIORITY_UPDATE, 0, 0, b"\0\0\0")),
        ErrorCode::FrameSize
    );
    assert_eq!(
        failure(&raw(PRIORITY_UPDATE, 0, 0, b"\x80\0\0\0u=1")),
        ErrorCode::Protocol
    );
    let frame = raw(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x05u=1, i");
    with_frame(&frame, |frame| {
        let value = b"u=1, i";
        assert_eq!(frame, Frame::PriorityUpdate { stream: 5, value });
    });
    let result = decode_all(&mut Decoder::new(Role::Client), &frame);
    assert_eq!(result.unwrap_err().code, ErrorCode::Protocol);
    with_frame(&raw(PRIORITY_UPDATE, 0, 0, &[1; 300]), |frame| {
        assert_eq!(frame, Frame::Unknown);
    });
}

#[test]
fn control_frames_decode_to_what_was_encoded() {
    let mut out = Vec::new();
    put_settings(&[(3, 100), (4, 65_535)], &mut out);
    put_settings_ack(&mut out);
    put_ping(*b"abcdefgh", &mut out);
    put_ping_ack(*b"abcdefgh", &mut out);
    put_goaway(7, ErrorCode::No, &mut out);
    put_window_update(0, 0x7fff_ffff, &mut out);
    put_rst_stream(9, ErrorCode::RefusedStream, &mut out);
    out.extend_from_slice(&data_head(9, 3, true));
    out.extend_from_slice(b"end");
    let expected = [
        Frame::Settings {
            payload: &[0, 3, 0, 0, 0, 100, 0, 4, 0, 0, 0xff, 0xff],
        },
        Frame::SettingsAck,
        Frame::Ping(*b"abcdefgh"),
        Frame::PingAck(*b"abcdefgh"),
        Frame::GoAway {
            last_stream: 7,
            code: ErrorCode::No,
            debug: b"",
        },
        Frame::WindowUpdate {
            stream: 0,
            increment: 0x7fff_ffff,
        },
        Frame::RstStream {
            stream: 9,
            code: ErrorCode::RefusedStream,
        },
        Frame::Data(Data {
            stream: 9,
            content: b"end",
            content_start: 9,
            flow_bytes: 3,
            end_stream: true,
        }),
    ];
    let frames = decode_all(&mut Decoder::new(Role::Server), &out).unwrap();
    assert_eq!(frames, expected.map(|frame| format!("{frame:?}")));
}

#[test]
fn data_with_its_header_fills_a_record() {
    let head = data_head(1, DATA_BYTES_PER_RECORD, false);
    assert_eq!(
        head.len() + DATA_BYTES_PER_RECORD,
        RECORD_PLAINTEXT_BYTES_MAX
    );
    assert_eq!(head[..3], [0, 0x3f, 0xf7]);
}

#[test]
fn error_codes_round_trip() {
    for code in (0..0x20).chain([u32::MAX]) {
        assert_eq!(ErrorCode::from(code).to_u32(), code);
    }
}

proptest! {
    #[test]
    fn rfc9113_6_10_a_block_of_any_length_comes_back(
        length in prop_oneof![0..100_usize, 16_300..16_500_usize, 0..60_000_usize],
        end_stream: bool,
    ) {
        let block: Vec<u8> = (0..=250).cycle().take(length).collect();
        let mut out = b"before".to_vec();
        let start = begin_headers(&mut out);
        out.extend_from_slice(&block);
        finish_headers(start, 77, end_stream, &mut out);
        let frames = decode_all(&mut Decoder::new(Role::Client), &out[6..]).unwrap();
        let expected = Frame::Headers(Headers {
            stream: 77,
            block: &block,
            end_stream,
            depends_on_itself: false,
        });
        prop_assert_eq!(frames.last().unwrap(), &format!("{expected:?}"));
        prop_assert_eq!(frames.len(), length.div_ceil(16_384).max(1));
    }

    /// However the bytes arrive, the frames are the same, and nothing is held but an open block.
    #[test]
    fn any_bytes_decode_the_same_at_once_and_in_pieces(
        frames in prop::collection::vec(
            (0..0x12_u8, any::<u8>(), 0..4_u32, prop::collection::vec(any::<u8>(), 0..12)),
            0..12,
        ),
    ) {
        let input: Vec<u8> = frames
            .iter()
            .flat_map(|(kind, flags, stream, payload)| raw(*kind, *flags, *stream, payload))
            .collect();
        let at_once = decode_all(&mut Decoder::new(Role::Server), &input);
        let mut decoder = Decoder::new(Role::Server);
        let mut pieces = Ok(Vec::new());
        let mut pending = Vec::new();
        'bytes: for byte in input {
            pending.push(byte);
            match decoder.decode(&pending) {
                Ok(None) => {}
                Ok(Some(Decoded { frame, consumed })) => {
                    if let Ok(frames) = &mut pieces {
                        frames.push(format!("{frame:?}"));
                    }
                    pending.drain(..consumed);
                }
                Err(error) => {
                    pieces = Err(error);
                    break 'bytes;
                }
            }
        }
        prop_assert_eq!(at_once, pieces);
        prop_assert!(decoder.block.len() <= H2_HEADER_BLOCK_BYTES_MAX);
    }
}
