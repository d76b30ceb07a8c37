//! The ClientHello reader, held against rustls: its client writes, its acceptor reads.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore};

use super::{ClientHello, ClientHelloReader, FirstBytes};
use crate::limits::HANDSHAKE_BYTES_MAX;

fn read(received: &[u8]) -> FirstBytes {
    ClientHelloReader::new().read(received)
}

fn hello(received: &[u8]) -> ClientHello {
    let outcome = read(received);
    let FirstBytes::Hello(hello) = outcome else {
        panic!("{outcome:?}")
    };
    hello
}

fn alert(received: &[u8]) -> AlertDescription {
    let outcome = read(received);
    let FirstBytes::Invalid(error) = outcome else {
        panic!("{outcome:?}")
    };
    error.alert
}

fn alpn(hello: &ClientHello) -> Vec<Vec<u8>> {
    hello.alpn().map(<[u8]>::to_vec).collect()
}

/// The first flight of a rustls client.
fn rustls_hello(name: &str, alpn: &[Vec<u8>], tls13: bool, tls12: bool) -> Vec<u8> {
    let versions = match (tls13, tls12) {
        (true, false) => vec![&rustls::version::TLS13],
        (false, true) => vec![&rustls::version::TLS12],
        _ => vec![&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.to_vec();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    wire
}

/// What rustls's server takes from `wire`: name and protocols, unless it refuses or wants more.
fn rustls_reads(wire: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    let mut rest = wire;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).unwrap() == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let name = hello.server_name().map(str::to_owned);
            let alpn = hello
                .alpn()
                .map(|names| names.map(<[u8]>::to_vec).collect());
            return Some((name, alpn.unwrap_or_default()));
        }
    }
    None
}

/// `messages` in handshake records with fragments of `sizes`, the last size repeated.
fn records(messages: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut wire, mut rest) = (Vec::new(), messages);
    let mut sizes = sizes.iter().copied();
    let mut size = 16_384;
    while !rest.is_empty() {
        size = sizes.next().unwrap_or(size).min(rest.len());
        let (fragment, after) = rest.split_at(size);
        wire.extend([22, 3, 1]);
        wire.extend((size as u16).to_be_bytes());
        wire.extend_from_slice(fragment);
        rest = after;
    }
    wire
}

fn vector16(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(content)].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = (body.len() as u32).to_be_bytes().to_vec();
    message[0] = kind;
    message.extend_from_slice(body);
    message
}

/// The body up to and including the compression methods.
fn fixed_part() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(vector16(&[0x13, 0x01]));
    body.extend([1, 0]);
    body
}

fn hello_with(extensions: &[u8]) -> Vec<u8> {
    let body = [fixed_part(), vector16(extensions)].concat();
    records(&message(1, &body), &[])
}

fn server_name(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = entries
        .iter()
        .flat_map(|(kind, name)| [vec![*kind], vector16(name)].concat())
        .collect();
    extension(0, &vector16(&list))
}

#[test]
fn a_hello_is_whole_at_its_last_byte_however_it_arrives() {
    let whole = rustls_hello("www.example.org", &[b"h2".to_vec()], true, true);
    let mut byte_wise = ClientHelloReader::new();
    for received in 0..whole.len() {
        let missing = match received {
            0..5 => [1, 4, 3, 2, 1][received],
            _ => whole.len() - received,
        };
        let expected = FirstBytes::NeedMore { missing };
        assert_eq!(byte_wise.read(&whole[..received]), expected);
        let mut in_two = ClientHelloReader::new();
        assert_eq!(in_two.read(&whole[..received]), expected);
        assert!(matches!(in_two.read(&whole), FirstBytes::Hello(_)));
    }
    assert!(matches!(byte_wise.read(&whole), FirstBytes::Hello(_)));
}

#[test]
fn bytes_after_the_hello_s_records_are_not_looked_at() {
    let mut wire = rustls_hello("example.org", &[], true, true);
    let alone = hello(&wire);
    wire.extend([20, 3, 3, 0, 1, 1, 0xff, 0xff]);
    assert_eq!(hello(&wire), alone);
}

#[test]
fn byte_wise_delivery_of_tiny_fragments_is_linear_work() {
    let body = [fixed_part(), vector16(&extension(21, &[0; 5_000]))].concat();
    let wire = records(&message(1, &body), &[1]);
    assert!(wire.len() < HANDSHAKE_BYTES_MAX);
    let mut reader = ClientHelloReader::new();
    for received in 0..wire.len() {
        let before = reader.examined;
        let outcome = reader.read(&wire[..received]);
        assert!(
            matches!(outcome, FirstBytes::NeedMore { .. }),
            "{received}: {outcome:?}"
        );
        // Each call goes over at most the record that it completes.
        assert!(reader.examined - before <= 6);
        assert!(received - reader.examined <= 6);
    }
    assert!(matches!(reader.read(&wire), FirstBytes::Hello(_)));
}

#[test]
fn versions_are_those_offered() {
    assert_eq!(
        *hello(&rustls_hello("a.example", &[], true, true)).supported_versions,
        [0x304, 0x303]
    );
    assert_eq!(
        *hello(&rustls_hello("a.example", &[], true, false)).supported_versions,
        [0x304]
    );
    assert_eq!(*hello(&hello_with(&[])).supported_versions, [0x303]);
    let old = records(&message(1, &fixed_part()), &[]);
    assert_eq!(*hello(&old).supported_versions, [0x303]);
    for bad in [&[][..], &[0], &[1, 3], &[3, 3, 4, 3], &[2, 3, 4, 0]] {
        assert_eq!(
            alert(&hello_with(&extension(43, bad))),
            AlertDescription::DecodeError
        );
    }
}

#[test]
fn encrypted_client_hello_is_noticed() {
    assert!(!hello(&hello_with(&[])).has_ech);
    assert!(hello(&hello_with(&extension(0xfe0d, &[0; 40]))).has_ech);
}

#[test]
fn rfc6066_3_the_name_is_a_dns_name_in_lower_case_without_a_dot() {
    let name_of = |name: &[u8]| hello(&hello_with(&server_name(&[(0, name)]))).server_name;
    assert_eq!(
        name_of(b"WWW.Example.ORG").as_deref(),
        Some("www.example.org")
    );
    assert_eq!(name_of(b"example.org.").as_deref(), Some("example.org"));
    assert_eq!(
        name_of(b"xn--bcher-kva.example").as_deref(),
        Some("xn--bcher-kva.example")
    );
    assert_eq!(name_of(b"192.0.2.1"), None);
    assert_eq!(name_of(b"2001:db8::1"), None);
    let long = [&[b'a'; 63][..], b".", &[b'b'; 63]].concat();
    assert!(name_of(&long).is_some());
    let bad = [
        &b"."[..],
        b"a..b",
        b".a",
        b"-a.example",
        b"a b",
        b"a/b",
        b"a\0",
        b"b\xc3\xbccher.example",
        b"\xff\xfe",
        b"*.example.org",
        &[b'a'; 64],
    ];
    for name in bad {
        let wire = hello_with(&server_name(&[(0, name)]));
        assert_eq!(alert(&wire), AlertDescription::IllegalParameter, "{name:?}");
    }
}

#[test]
fn rfc6066_3_one_name_of_a_type() {
    let twice = hello_with(&server_name(&[(0, b"a.example"), (0, b"b.example")]));
    assert_eq!(alert(&twice), AlertDescription::IllegalParameter);
    let other_type_after = hello_with(&server_name(&[(0, b"a.example"), (9, b"?")]));
    assert_eq!(
        hello(&other_type_after).server_name.as_deref(),
        Some("a.example")
    );
}

#[test]
fn rfc6066_3_malformed_server_name_is_decode_error() {
    let good = server_name(&[(0, b"a.example")]);
    let content = &good[4..];
    let mut bad = vec![
        Vec::new(),
        vec![0, 0],
        server_name(&[(0, b"")])[4..].to_vec(),
    ];
    bad.push([content, &[0]].concat());
    bad.extend((0..content.len()).map(|cut| content[..cut].to_vec()));
    for content in bad {
        let wire = hello_with(&extension(0, &content));
        assert_eq!(alert(&wire), AlertDescription::DecodeError, "{content:?}");
    }
}

#[test]
fn rfc7301_3_1_alpn_names_are_not_empty() {
    let wire = hello_with(&extension(16, &vector16(b"\x02h2\x08http/1.1")));
    assert_eq!(alpn(&hello(&wire)), [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(alpn(&hello(&hello_with(&[]))).is_empty());
    for bad in [&b""[..], b"\x00", b"\x02h2\x00", b"\x03h2"] {
        let wire = hello_with(&extension(16, &vector16(bad)));
        assert_eq!(alert(&wire), AlertDescription::DecodeError, "{bad:?}");
    }
}

#[test]
fn rfc8446_4_2_an_extension_comes_once() {
    let name = server_name(&[(0, b"a.example")]);
    let protocols = extension(16, &vector16(b"\x02h2"));
    let versions = extension(43, &[2, 3, 4]);
    let ech = extension(0xfe0d, &[0]);
    for once in [name, protocols, versions, ech] {
        assert!(matches!(read(&hello_with(&once)), FirstBytes::Hello(_)));
        let twice = [&once[..], &extension(0x5a5a, &[]), &once].concat();
        assert_eq!(
            alert(&hello_with(&twice)),
            AlertDescription::IllegalParameter
        );
    }
}

#[test]
fn rfc8446_4_1_2_lengths_that_do_not_add_up_are_decode_error() {
    let whole = [fixed_part(), vector16(&extension(0x0a0a, &[1, 2, 3]))].concat();
    let ends = [0, fixed_part().len()];
    for cut in (0..whole.len()).filter(|cut| !ends[1..].contains(cut)) {
        let wire = records(&message(1, &whole[..cut]), &[]);
        assert_eq!(alert(&wire), AlertDescription::DecodeError, "cut at {cut}");
    }
    let trailing = records(&message(1, &[&whole[..], &[0]].concat()), &[]);
    assert_eq!(alert(&trailing), AlertDescription::DecodeError);

    let mut long_session_id = vec![3, 3];
    long_session_id.extend([7; 32]);
    long_session_id.push(33);
    long_session_id.extend([8; 33]);
    long_session_id.extend_from_slice(&fixed_part()[35..]);
    let wire = records(&message(1, &long_session_id), &[]);
    assert_eq!(alert(&wire), AlertDescription::DecodeError);
}

#[test]
fn rfc8446_5_1_empty_fragments_are_refused() {
    assert_eq!(
        alert(&[22, 3, 1, 0, 0]),
        AlertDescription::UnexpectedMessage
    );
    let wire = hello_with(&[]);
    let mut split = records(&wire[5..], &[10]);
    split.splice(15..15, [22, 3, 1, 0, 0]);
    assert_eq!(alert(&split), AlertDescription::UnexpectedMessage);
}

#[test]
fn rfc8446_5_1_a_hello_is_not_interleaved_and_ends_its_record() {
    let wire = hello_with(&[]);
    for kind in [20, 21, 23, 24, 0, 255] {
        let mut split = records(&wire[5..], &[10]);
        split.splice(15..15, [kind, 3, 3, 0, 1, 1]);
        assert_eq!(alert(&split), AlertDescription::UnexpectedMessage);
    }
    let followed = records(&[&wire[5..], &[1]].concat(), &[]);
    assert_eq!(alert(&followed), AlertDescription::UnexpectedMessage);
}

#[test]
fn rfc8446_5_1_a_record_longer_than_2_14_is_record_overflow() {
    assert_eq!(
        read(&[22, 3, 1, 0x40, 0x00]),
        FirstBytes::NeedMore { missing: 16_384 }
    );
    for header in [[22, 3, 1, 0x40, 0x01], [22, 3, 1, 0xff, 0xff]] {
        assert_eq!(alert(&header), AlertDescription::RecordOverflow);
    }
}

#[test]
fn rfc8446_4_the_first_message_is_a_client_hello() {
    for kind in (0..=255).filter(|kind| *kind != 1) {
        let wire = records(&message(kind, &fixed_part()), &[]);
        assert_eq!(
            alert(&wire),
            AlertDescription::UnexpectedMessage,
            "message {kind}"
        );
        assert_eq!(
            alert(&[22, 3, 1, 0, 1, kind]),
            AlertDescription::UnexpectedMessage
        );
    }
}

#[test]
fn other_tls_records_first_are_unexpected_message() {
    for kind in [20, 21, 23, 24] {
        assert_eq!(read(&[kind]), FirstBytes::NeedMore { missing: 1 });
        assert_eq!(alert(&[kind, 3]), AlertDescription::UnexpectedMessage);
        assert_eq!(
            alert(&[kind, 3, 3, 0, 2, 1, 0]),
            AlertDescription::UnexpectedMessage
        );
    }
}

#[test]
fn a_hello_is_bounded_in_message_and_in_records() {
    let length = (HANDSHAKE_BYTES_MAX as u32).to_be_bytes();
    let header = [1, length[1], length[2], length[3]];
    assert_eq!(alert(&records(&header, &[])), AlertDescription::DecodeError);

    let body = [fixed_part(), vector16(&extension(21, &[0; 12_000]))].concat();
    let wire = records(&message(1, &body), &[1]);
    assert!(wire.len() > HANDSHAKE_BYTES_MAX);
    let mut reader = ClientHelloReader::new();
    let refused_at = (0..wire.len())
        .find(|received| matches!(reader.read(&wire[..*received]), FirstBytes::Invalid(_)));
    assert!(
        refused_at.is_some_and(|at| at <= HANDSHAKE_BYTES_MAX + 5),
        "{refused_at:?}"
    );
}

#[test]
fn http_is_recognised_as_soon_as_it_can_be() {
    let methods = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE",
    ];
    for method in methods {
        let request = format!("{method} / HTTP/1.1\r\n\r\n");
        let mut reader = ClientHelloReader::new();
        for received in 1..=method.len() {
            let outcome = reader.read(&request.as_bytes()[..received]);
            assert!(
                matches!(outcome, FirstBytes::NeedMore { .. }),
                "{received} of {request}"
            );
        }
        let expected = FirstBytes::NotTls {
            looks_like_http: true,
        };
        assert_eq!(reader.read(&request.as_bytes()[..=method.len()]), expected);
        assert_eq!(read(request.as_bytes()), expected);
    }
    assert_eq!(read(b"P"), FirstBytes::NeedMore { missing: 3 });
}

#[test]
fn what_is_neither_tls_nor_http_is_so_at_once() {
    let strangers = [
        &b"SSH-2.0-OpenSSH"[..],
        b"get / HTTP/1.1",
        b"GETS ",
        b"EHLO x",
        b"\0",
        b"\x80\x2e\x01",
        &[22, 2],
        &[22, 4, 0],
        &[21, 0x54],
        &[19, 3, 1],
        &[25, 3, 1],
    ];
    for first in strangers {
        assert_eq!(
            read(first),
            FirstBytes::NotTls {
                looks_like_http: false
            },
            "{first:?}"
        );
    }
    assert_eq!(read(b""), FirstBytes::NeedMore { missing: 1 });
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z][a-zA-Z0-9_]{0,20}(\\.[a-zA-Z][a-zA-Z0-9]{0,20}){0,3}"
}

fn protocols() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..30), 0..5)
}

proptest! {
    #[test]
    fn a_rustls_client_s_hello_is_read_as_it_was_meant(
        name in name(), protocols in protocols(), tls13 in any::<bool>(), tls12 in any::<bool>(),
        sizes in proptest::collection::vec(1..600_usize, 0..6),
        deliveries in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = rustls_hello(&name, &protocols, tls13, tls12);
        let wire = records(&whole[5..], &sizes);
        let mut reader = ClientHelloReader::new();
        let mut cuts: Vec<_> = deliveries.iter().map(|cut| cut.index(wire.len())).collect();
        cuts.sort_unstable();
        for cut in cuts {
            let FirstBytes::NeedMore { missing } = reader.read(&wire[..cut]) else {
                panic!("done at {cut} of {}", wire.len())
            };
            prop_assert!(missing > 0 && cut + missing <= wire.len());
        }
        let FirstBytes::Hello(hello) = reader.read(&wire) else { panic!("not whole") };
        let lower = name.to_ascii_lowercase();
        prop_assert_eq!(hello.server_name.as_deref(), Some(&lower[..]));
        prop_assert_eq!(alpn(&hello), protocols);
        let (rustls_name, rustls_alpn) = rustls_reads(&wire).unwrap();
        prop_assert_eq!(hello.server_name.as_deref(), rustls_name.as_deref());
        prop_assert_eq!(alpn(&hello), rustls_alpn);
    }

    #[test]
    fn what_rustls_takes_of_a_damaged_hello_is_taken_alike(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let name = "damaged.example";
        let mut wire = rustls_hello(name, &[b"h2".to_vec(), b"http/1.1".to_vec()], true, true);
        // The header's length fields too, but not the length of the first record: what that would cut
        // off are bytes in the hello's record after it, which rustls refuses later than its acceptor.
        for (at, value) in changes {
            let at = 5 + at.index(wire.len() - 5);
            wire[at] = value;
        }
        let ours = read(&wire);
        if let Some((rustls_name, rustls_alpn)) = rustls_reads(&wire) {
            let FirstBytes::Hello(hello) = ours else { panic!("{ours:?}") };
            let rustls_name = rustls_name.map(|name| name.trim_end_matches('.').to_owned());
            prop_assert_eq!(hello.server_name.as_deref(), rustls_name.as_deref());
            prop_assert_eq!(alpn(&hello), rustls_alpn);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_ask_for_more_within_the_bound(
        mut input in proptest::collection::vec(any::<u8>(), 0..400), framed in 0..3_u8, cut in 0..400_usize,
    ) {
        if let (1.., [kind, major, _, high, ..]) = (framed, &mut input[..]) {
            (*kind, *major, *high) = (22, 3, 0);
        }
        if let (2.., Some(message)) = (framed, input.get_mut(5..9)) {
            message[..3].copy_from_slice(&[1, 0, 0]);
        }
        let mut reader = ClientHelloReader::new();
        let first = reader.read(&input[..cut.min(input.len())]);
        if let FirstBytes::NeedMore { missing } = first {
            prop_assert!(missing > 0 && cut.min(input.len()) + missing <= HANDSHAKE_BYTES_MAX);
            prop_assert_eq!(reader.read(&input), read(&input));
        } else {
            prop_assert_eq!(first, read(&input));
        }
    }
}
