use super::*;
use proptest::prelude::*;

fn decode(bytes: impl AsRef<[u8]>) -> Result<Option<ProxyHeader>, Malformed> {
    ProxyHeader::decode(&mut BytesMut::from(bytes.as_ref()))
}

fn header(source: &str, destination: &str) -> ProxyHeader {
    ProxyHeader::new(source.parse().unwrap(), destination.parse().unwrap())
}

#[test]
fn section_2_1_lines_of_version_1() {
    for (line, expected) in [
        (
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
            header("192.0.2.1:56324", "192.0.2.2:443"),
        ),
        (
            "PROXY TCP6 2001:db8::1 ::1 65535 0\r\n",
            header("[2001:db8::1]:65535", "[::1]:0"),
        ),
        ("PROXY UNKNOWN\r\n", ProxyHeader::default()),
        ("PROXY UNKNOWN ffff:f::f 1 2 3\r\n", ProxyHeader::default()),
    ] {
        let mut input = BytesMut::from(format!("{line}GET /").as_bytes());
        assert_eq!(
            ProxyHeader::decode(&mut input).unwrap(),
            Some(expected),
            "{line}"
        );
        assert_eq!(&*input, b"GET /");
    }
}

#[test]
fn section_2_1_malformed_lines() {
    for line in [
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n",
        "PROXY TCP4 192.0.2.1  192.0.2.2 56324 443\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY \r\n",
        "PROXI ",
        "GET / HTTP/1.1\r\n",
        "\x16\x03\x01",
    ] {
        assert!(decode(line).is_err(), "{line:?}");
    }
}

#[test]
fn section_2_1_a_line_is_bounded() {
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(LINE_1_BYTES_MAX));
    assert!(decode(&endless[..LINE_1_BYTES_MAX - 1]).unwrap().is_none());
    assert!(decode(&endless[..LINE_1_BYTES_MAX]).is_err());
    assert!(decode(&endless).is_err());
}

/// The header of that command, family, length and content.
fn binary(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE_2.to_vec();
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(content);
    bytes
}

#[test]
fn section_2_2_a_header_of_version_2_byte_by_byte() {
    let content = [
        192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb, 0x02, 0, 1, b'a',
    ];
    let decoded = decode(binary(0x21, 0x11, &content)).unwrap().unwrap();
    let mut expected = header("192.0.2.1:56324", "192.0.2.2:443");
    expected.values.push(Value {
        kind: VALUE_AUTHORITY,
        content: Bytes::from_static(b"a"),
    });
    assert_eq!(decoded, expected);
    let mut out = Vec::new();
    expected.encode_2(&mut out, false);
    assert_eq!(out, binary(0x21, 0x11, &content));
}

#[test]
fn section_2_2_connections_without_addresses() {
    let local = binary(0x20, 0x11, &[1; 12]);
    assert_eq!(decode(local).unwrap(), Some(ProxyHeader::default()));
    let unspecified = binary(0x21, 0x00, b"anything");
    assert_eq!(decode(unspecified).unwrap(), Some(ProxyHeader::default()));
    let unix = binary(0x21, 0x31, &[0; 216]);
    assert_eq!(decode(unix).unwrap(), Some(ProxyHeader::default()));
}

#[test]
fn section_2_2_malformed_headers() {
    for (what, bytes) in [
        ("version", binary(0x11, 0x11, &[0; 12])),
        ("command", binary(0x22, 0x11, &[0; 12])),
        ("family", binary(0x21, 0x41, &[0; 12])),
        ("short", binary(0x21, 0x11, &[0; 11])),
        ("short 6", binary(0x21, 0x21, &[0; 35])),
        ("value header", binary(0x21, 0x11, &[0; 14])),
        (
            "value",
            binary(
                0x21,
                0x11,
                &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2, 1],
            ),
        ),
        (
            "length",
            binary(0x21, 0x11, &vec![0; PROXY_HEADER_BYTES_MAX]),
        ),
    ] {
        assert!(decode(bytes).is_err(), "{what}");
    }
    // Refused before the content has come.
    let long = binary(0x21, 0x11, &vec![0; PROXY_HEADER_BYTES_MAX]);
    assert!(decode(&long[..FIXED_2_BYTES]).is_err());
}

#[test]
fn section_2_2_3_a_wrong_checksum_is_refused() {
    // RFC 3720 B.4
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let mut out = Vec::new();
    header("192.0.2.1:1", "192.0.2.2:2").encode_2(&mut out, true);
    let decoded = decode(&out).unwrap().unwrap();
    assert_eq!(decoded.values[0].kind, VALUE_CRC32C);
    out[FIXED_2_BYTES] ^= 1;
    assert!(decode(&out).is_err());
}

#[test]
fn values_that_do_not_fit_are_left_out() {
    let mut header = header("192.0.2.1:1", "192.0.2.2:2");
    for kind in [0xe0, 0xe1] {
        header.values.push(Value {
            kind,
            content: vec![0; PROXY_HEADER_BYTES_MAX / 2].into(),
        });
    }
    let mut out = Vec::new();
    header.encode_2(&mut out, true);
    assert!(out.len() <= PROXY_HEADER_BYTES_MAX);
    let kinds: Vec<_> = decode(out)
        .unwrap()
        .unwrap()
        .values
        .iter()
        .map(|value| value.kind)
        .collect();
    assert_eq!(kinds, [0xe0, VALUE_CRC32C]);
}

#[test]
fn addresses_of_two_families_are_told_in_one() {
    let mixed = header("192.0.2.1:1", "[2001:db8::1]:2");
    let mut out = Vec::new();
    mixed.encode_1(&mut out);
    assert_eq!(out, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n");
    out.clear();
    header("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2").encode_1(&mut out);
    assert_eq!(out, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    out.clear();
    ProxyHeader::default().encode_1(&mut out);
    assert_eq!(out, b"PROXY UNKNOWN\r\n");
}

#[test]
fn a_tls_session_is_told_in_one_value_with_others_inside() {
    let mut header = header("192.0.2.1:1", "192.0.2.2:2");
    header.values = vec![tls_session("TLSv1.3", "TLS_AES_128_GCM_SHA256", None)];
    let mut out = Vec::new();
    header.encode_2(&mut out, false);
    let value = &out[16 + 12..];
    assert_eq!(&value[..8], [0x20, 0, 40, 1, 0, 0, 0, 1]);
    assert_eq!(&value[8..18], b"\x21\0\x07TLSv1.3");
    assert_eq!(&value[18..], b"\x23\0\x16TLS_AES_128_GCM_SHA256");
    assert_eq!(decode(&out), Ok(Some(header)));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    // One family: of two, the text is another.
    (any::<[u8; 4]>(), any::<u16>()).prop_map(|(ip, port)| (ip, port).into())
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_whatever_follows_and_however_it_is_cut(
        source in address(),
        destination in address(),
        contents in prop::collection::vec((4_u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..5),
        version_2: bool,
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut header = ProxyHeader::new(source, destination);
        let mut out = Vec::new();
        if version_2 {
            let value = |(kind, content): (u8, Vec<u8>)| Value { kind, content: content.into() };
            header.values = contents.into_iter().map(value).collect();
            header.encode_2(&mut out, false);
        } else {
            header.encode_1(&mut out);
        }
        for cut in 0..out.len() {
            prop_assert_eq!(decode(&out[..cut]), Ok(None));
        }
        let mut input = BytesMut::from(&[&out[..], &rest].concat()[..]);
        prop_assert_eq!(ProxyHeader::decode(&mut input), Ok(Some(header)));
        prop_assert_eq!(&input[..], &rest[..]);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        version in 0..3_usize,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let start = [&b""[..], SIGNATURE_1, SIGNATURE_2][version];
        let mut input = BytesMut::from(&[start, &bytes].concat()[..]);
        let before = input.len();
        if let Ok(Some(_)) = ProxyHeader::decode(&mut input) {
            prop_assert!(input.len() < before);
        }
    }
}
