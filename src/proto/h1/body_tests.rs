use super::*;
use crate::message::Fields;
use crate::proto::h1::encode::{CHUNK_END, push_chunk_line, push_last_chunk};
use proptest::prelude::*;

/// Everything `decoder` makes of `input`: the body, whether it ended, and what is left.
fn run(mut decoder: BodyDecoder, input: &[u8]) -> Result<(Vec<u8>, bool, Vec<u8>), Refusal> {
    let mut input = BytesMut::from(input);
    let mut body = Vec::new();
    loop {
        match decoder.decode(&mut input)? {
            Decoded::Data(data) => {
                assert!(!data.is_empty());
                body.extend_from_slice(&data);
            }
            Decoded::NeedMore => return Ok((body, false, input.to_vec())),
            Decoded::End => return Ok((body, true, input.to_vec())),
        }
    }
}

fn chunked(text: impl AsRef<[u8]>) -> Result<(Vec<u8>, bool, Vec<u8>), Refusal> {
    run(BodyDecoder::chunked(1 << 20), text.as_ref())
}

fn refused(text: impl AsRef<[u8]>) -> u16 {
    match chunked(text.as_ref()) {
        Err(refusal) => refusal.status.0,
        other => panic!(
            "{:?} gave {other:?}",
            String::from_utf8_lossy(text.as_ref())
        ),
    }
}

fn body(text: impl AsRef<[u8]>) -> Vec<u8> {
    let (body, ended, rest) = chunked(text.as_ref()).unwrap();
    assert!(ended && rest.is_empty());
    body
}

#[test]
fn rfc9112_6_3_a_known_length_is_taken_exactly() {
    let (body, ended, rest) = run(BodyDecoder::known(5), b"helloGET /").unwrap();
    assert_eq!(
        (&*body, ended, &*rest),
        (&b"hello"[..], true, &b"GET /"[..])
    );
    let (body, ended, _) = run(BodyDecoder::known(5), b"hel").unwrap();
    assert_eq!((&*body, ended), (&b"hel"[..], false));
    assert!(BodyDecoder::known(0).is_done());
    let (body, ended, rest) = run(BodyDecoder::known(0), b"x").unwrap();
    assert_eq!((&*body, ended, &*rest), (&b""[..], true, &b"x"[..]));
}

#[test]
fn rfc9112_7_1_chunks_are_joined_and_the_rest_left() {
    let (body, ended, rest) = chunked("4\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\nGET /").unwrap();
    assert_eq!(
        (&*body, ended, &*rest),
        (&b"Wikipedia"[..], true, &b"GET /"[..])
    );
}

#[test]
fn rfc9112_7_1_chunk_sizes_are_hexadecimal() {
    assert_eq!(body("a\r\n0123456789\r\n0\r\n\r\n"), b"0123456789");
    assert_eq!(body("0000000000000001\r\nx\r\n0000\r\n\r\n"), b"x");
    assert_eq!(body("A\r\n0123456789\r\n0\r\n\r\n").len(), 10);
    for size in [
        "",
        " 1",
        "1 ",
        "+1",
        "-1",
        "0x1",
        "g",
        "1_0",
        "00000000000000001",
        ";a=b",
        "1,2",
        "1\t",
    ] {
        assert_eq!(
            refused(format!("{size}\r\nx\r\n0\r\n\r\n")),
            400,
            "{size:?}"
        );
    }
}

#[test]
fn rfc9112_7_1_a_chunk_size_never_overflows() {
    assert_eq!(refused("ffffffffffffffff\r\n"), 413);
    assert_eq!(refused("10000000000000000\r\n"), 400);
}

#[test]
fn rfc9112_7_1_line_ends_are_crlf_everywhere() {
    for text in [
        "1\nx\r\n0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "1\r\nx\r0\r\n\r\n",
        "1\r\nx\r\n0\n\r\n",
        "1\r\nx\r\n0\r\n\n",
        "1\r\nx\r\n0\r\nA: b\n\r\n",
        "1\r\r\nx\r\n0\r\n\r\n",
        "1\rx\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "2\r\nx\r\n0\r\n\r\n",
        "1;a=\"\n\"\r\nx\r\n0\r\n\r\n",
        "1;a\nb\r\nx\r\n0\r\n\r\n",
    ] {
        assert_eq!(refused(text), 400, "{text:?}");
    }
}

#[test]
fn rfc9112_7_1_1_chunk_extensions_are_checked_and_ignored() {
    for extension in [
        ";a",
        ";a=b",
        ";a=\"b c;\\\"\"",
        " ; a = b ; c",
        ";a;b;c",
        ";a=\"\"",
        "\t;\ta\t=\tb",
    ] {
        assert_eq!(
            body(format!("1{extension}\r\nx\r\n0{extension}\r\n\r\n")),
            b"x",
            "{extension}"
        );
    }
    for extension in [
        ";",
        ";=b",
        ";a=",
        ";a=\"b",
        ";a=\"b\\\"",
        "z",
        ";a b",
        ";a=b c",
        ";a=\"b\"c",
        ";a\0",
        ";;a",
        " ;a ",
    ] {
        assert_eq!(
            refused(format!("1{extension}\r\nx\r\n0\r\n\r\n")),
            400,
            "{extension:?}"
        );
    }
}

#[test]
fn rfc9112_7_1_1_chunk_extensions_are_bounded() {
    let long = "a".repeat(CHUNK_LINE_BYTES_MAX);
    assert_eq!(refused(format!("1;{long}\r\nx\r\n0\r\n\r\n")), 400);
    assert_eq!(refused(format!("1;{long}")), 400);
    // Each line is short, all of them together are not.
    let chunk = format!("1;{}\r\nx\r\n", "a".repeat(CHUNK_LINE_BYTES_MAX / 2));
    assert_eq!(
        refused(chunk.repeat(BODY_OVERHEAD_BYTES_MAX / (CHUNK_LINE_BYTES_MAX / 2) + 1)),
        400
    );
}

#[test]
fn rfc9112_7_1_2_trailers_are_checked_and_discarded() {
    assert_eq!(
        body("1\r\nx\r\n0\r\nA: b\r\nC:\r\nD: \u{e9}\t\r\n\r\n"),
        b"x"
    );
    for trailer in [
        "A",
        ": b",
        "A : b",
        " A: b",
        "A: b\0",
        "A: b\r\n c",
        "A\u{e9}: b",
        "A: b\rc",
    ] {
        assert_eq!(
            refused(format!("0\r\n{trailer}\r\n\r\n")),
            400,
            "{trailer:?}"
        );
    }
}

#[test]
fn rfc6585_5_trailers_are_bounded() {
    assert_eq!(
        body(format!(
            "0\r\n{}\r\n",
            "A: b\r\n".repeat(TRAILER_FIELDS_MAX)
        )),
        b""
    );
    assert_eq!(
        refused(format!(
            "0\r\n{}\r\n",
            "A: b\r\n".repeat(TRAILER_FIELDS_MAX + 1)
        )),
        431
    );
    assert_eq!(
        refused(format!("0\r\nA: {}", "b".repeat(TRAILER_BYTES_MAX))),
        431
    );
    let field = format!("A: {}\r\n", "b".repeat(TRAILER_BYTES_MAX - 16));
    assert_eq!(refused(format!("0\r\n{}", field.repeat(3))), 431);
}

#[test]
fn a_chunked_body_over_its_bound_is_413() {
    let text = b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n";
    assert_eq!(
        run(BodyDecoder::chunked(10), text).unwrap().0,
        b"helloworld"
    );
    assert_eq!(
        run(BodyDecoder::chunked(9), text).unwrap_err().status.0,
        413
    );
    assert_eq!(
        run(BodyDecoder::chunked(4), b"5\r\n").unwrap_err().status.0,
        413
    );
}

#[test]
fn what_remains_is_known_only_for_a_known_length() {
    let mut decoder = BodyDecoder::known(7);
    let mut input = BytesMut::from("012");
    assert!(matches!(decoder.decode(&mut input), Ok(Decoded::Data(_))));
    assert_eq!(decoder.remaining_exact(), Some(4));
    assert_eq!(BodyDecoder::chunked(100).remaining_exact(), None);
}

#[test]
fn body_bytes_are_not_copied() {
    let mut input = BytesMut::from("5\r\nhello\r\n0\r\n\r\n");
    let expected = input.as_ptr().wrapping_add(3);
    let mut decoder = BodyDecoder::chunked(10);
    let Ok(Decoded::Data(data)) = decoder.decode(&mut input) else {
        panic!("no data");
    };
    assert_eq!(data.as_ptr(), expected);
}

/// The chunked coding of `chunks`.
fn encode(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in chunks {
        push_chunk_line(&mut text, chunk.len());
        text.extend_from_slice(chunk);
        text.extend_from_slice(CHUNK_END);
    }
    push_last_chunk(&mut text, &Fields::default());
    text
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_however_it_is_cut(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
        cuts in prop::collection::vec(1_usize..20, 1..8),
    ) {
        let text = encode(&chunks);
        let mut decoder = BodyDecoder::chunked(1 << 20);
        let mut input = BytesMut::new();
        let mut got = Vec::new();
        let mut rest: &[u8] = &text;
        let mut cuts = cuts.iter().cycle();
        loop {
            match decoder.decode(&mut input).unwrap() {
                Decoded::Data(data) => got.extend_from_slice(&data),
                Decoded::End => break,
                Decoded::NeedMore => {
                    prop_assert!(!rest.is_empty(), "the encoded body has no end");
                    let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                    input.extend_from_slice(now);
                    rest = later;
                }
            }
        }
        prop_assert_eq!(got, chunks.concat());
        prop_assert!(rest.is_empty() && input.is_empty());
        prop_assert!(decoder.is_done());
    }

    #[test]
    fn any_bytes_are_decoded_refused_or_waited_for(
        bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(b"0123456789abcdef;=\"\r\n: ".to_vec())],
            0..200,
        ),
    ) {
        if let Ok((body, _, rest)) = chunked(&bytes) {
            prop_assert!(body.len() + rest.len() <= bytes.len());
        }
    }
}

#[test]
fn rfc9112_7_1_2_trailer_fields_are_kept_where_they_are_wanted() {
    let text = &b"1\r\na\r\n0\r\nSum: \t1 \r\nB:\r\n\r\n"[..];
    for (keeps, expected) in [(true, &[("Sum", "1"), ("B", "")][..]), (false, &[])] {
        let mut decoder = BodyDecoder::chunked(u64::MAX);
        if keeps {
            decoder = decoder.keeping_trailers();
        }
        let mut input = BytesMut::from(text);
        while decoder.decode(&mut input).unwrap() != Decoded::End {}
        let trailers = decoder.take_trailers();
        let found: Vec<_> = trailers.iter().collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn what_is_taken_elsewhere_is_not_awaited() {
    let mut decoder = BodyDecoder::known(10);
    decoder.skip(4);
    assert_eq!(decoder.remaining_exact(), Some(6));
    let mut input = BytesMut::from(&b"abcdefgh"[..]);
    assert_eq!(
        decoder.decode(&mut input),
        Ok(Decoded::Data(Bytes::from_static(b"abcdef")))
    );
    assert_eq!(decoder.decode(&mut input), Ok(Decoded::End));
    assert_eq!(input, "gh");
}
