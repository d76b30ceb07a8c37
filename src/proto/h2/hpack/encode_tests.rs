use super::super::decode::{Bounds, Decoder, HeaderList};
use super::*;
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds {
    list_bytes_max: 1 << 20,
    fields_max: 1000,
};

fn block(encoder: &mut Encoder, fields: &[(&str, &str, Indexing)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value, indexing) in fields {
        encoder.field(name.as_bytes(), value.as_bytes(), *indexing, &mut out);
    }
    out
}

#[test]
fn rfc7541_c_1_integers() {
    let encoded = |pattern, prefix_bits, value| {
        let mut out = Vec::new();
        integer(pattern, prefix_bits, value, &mut out);
        out
    };
    assert_eq!(encoded(0, 5, 10), [0x0a]);
    assert_eq!(encoded(0, 5, 1337), [0x1f, 0x9a, 0x0a]);
    assert_eq!(encoded(0, 8, 42), [0x2a]);
    assert_eq!(encoded(0x80, 7, 127), [0xff, 0x00]);
}

#[test]
fn a_field_sent_again_takes_one_byte() {
    let mut encoder = Encoder::new();
    let fields = [
        ("server", "portcullis", Indexing::Indexed),
        ("x-new", "v", Indexing::Indexed),
    ];
    let first = block(&mut encoder, &fields);
    assert!(first.len() > 10);
    assert_eq!(block(&mut encoder, &fields), [0x80 | 63, 0x80 | 62]);
}

#[test]
fn rfc7541_6_2_2_literals_are_the_same_whatever_went_before() {
    let mut encoder = Encoder::new();
    block(&mut encoder, &[("etag", "\"other\"", Indexing::Indexed)]);
    for (name, value) in [
        ("etag", "\"a1b2c3\""),
        ("content-location", "/a"),
        ("x-own", ""),
    ] {
        let mut alone = Vec::new();
        literal(name.as_bytes(), value.as_bytes(), &mut alone);
        assert_eq!(
            block(&mut encoder, &[(name, value, Indexing::Literal)]),
            alone,
            "{name}"
        );
    }
}

#[test]
fn statuses_of_the_static_table_take_one_byte() {
    let mut encoder = Encoder::new();
    for (status, byte) in [
        (200, 0x88),
        (204, 0x89),
        (206, 0x8a),
        (304, 0x8b),
        (400, 0x8c),
        (404, 0x8d),
        (500, 0x8e),
    ] {
        let mut out = Vec::new();
        encoder.status(Status(status), &mut out);
        assert_eq!(out, [byte]);
    }
    let mut out = Vec::new();
    encoder.status(Status(503), &mut out);
    assert_eq!(out[0], 0x48);
    out.clear();
    encoder.status(Status(503), &mut out);
    assert_eq!(out, [0x80 | 62]);
}

#[test]
fn rfc7541_7_1_3_secrets_are_never_indexed() {
    for name in [
        "set-cookie",
        "authorization",
        "cookie",
        "proxy-authorization",
    ] {
        assert_eq!(Indexing::of(name.as_bytes()), Indexing::Never);
    }
    let mut encoder = Encoder::new();
    for _ in 0..2 {
        let out = block(&mut encoder, &[("set-cookie", "a=b", Indexing::Never)]);
        // The pattern 0001 with the name's index 55 in a prefix of four bits.
        assert_eq!(out[..2], [0x1f, 55 - 15]);
        let out = block(&mut encoder, &[("x-token", "a=b", Indexing::Never)]);
        assert_eq!(out[0], 0x10);
    }
    assert!(encoder.table.is_empty());
}

#[test]
fn values_of_one_message_stay_out_of_the_table() {
    let mut encoder = Encoder::new();
    for name in ["content-length", "etag", "location"] {
        assert_eq!(Indexing::of(name.as_bytes()), Indexing::Literal);
        block(&mut encoder, &[(name, "12345", Indexing::Literal)]);
    }
    assert!(encoder.table.is_empty());
    block(&mut encoder, &[("x", &"v".repeat(500), Indexing::Indexed)]);
    assert!(encoder.table.is_empty());
}

#[test]
fn rfc7541_4_2_a_smaller_peer_table_is_announced_and_obeyed() {
    let mut encoder = Encoder::new();
    let fields = [("x-new", "v", Indexing::Indexed)];
    block(&mut encoder, &fields);
    encoder.set_peer_table_size(0);
    let out = block(&mut encoder, &fields);
    assert_eq!(out[..2], [0x20, 0x00]);
    assert_eq!(block(&mut encoder, &fields)[0], 0x00);
}

#[test]
fn rfc7541_4_2_the_smallest_size_between_two_blocks_is_announced_first() {
    let mut encoder = Encoder::new();
    encoder.set_peer_table_size(10);
    encoder.set_peer_table_size(65_536);
    // 10, then 2048 as 31 and 2017.
    assert_eq!(block(&mut encoder, &[]), [0x2a, 0x3f, 0xe1, 0x0f]);
    assert!(block(&mut encoder, &[]).is_empty());
    assert_eq!(encoder.table.size_max(), HPACK_ENCODER_TABLE_BYTES_MAX);
}

#[test]
fn a_larger_peer_table_is_not_used() {
    let mut encoder = Encoder::new();
    encoder.set_peer_table_size(u32::MAX);
    assert!(block(&mut encoder, &[]).is_empty());
    assert_eq!(encoder.table.size_max(), HPACK_ENCODER_TABLE_BYTES_MAX);
}

fn indexing() -> impl Strategy<Value = Indexing> {
    prop_oneof![
        Just(Indexing::Indexed),
        Just(Indexing::Literal),
        Just(Indexing::Never)
    ]
}

fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Indexing)> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "date",
            "server",
            "content-type",
            "vary",
            ":status",
            "accept-encoding",
            "x-a"
        ])
        .prop_map(|name| name.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    let value = prop_oneof![
        prop::sample::select(vec![
            "",
            "200",
            "304",
            "text/html",
            "gzip, deflate",
            "accept"
        ])
        .prop_map(|value| value.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..300),
    ];
    (name, value, indexing())
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(
        blocks in prop::collection::vec(
            (prop::option::of(0..6000_u32), prop::collection::vec(field(), 0..12)),
            1..12,
        ),
    ) {
        let mut encoder = Encoder::new();
        let mut decoder = Decoder::new();
        let mut list = HeaderList::default();
        for (size, fields) in blocks {
            if let Some(size) = size {
                encoder.set_peer_table_size(size);
                decoder.set_size_limit(size);
            }
            let mut out = Vec::new();
            encoder.begin(&mut out);
            for (name, value, indexing) in &fields {
                encoder.field(name, value, *indexing, &mut out);
            }
            decoder.decode(&out, &BOUNDS, &mut list).unwrap();
            let decoded: Vec<_> = list.iter().collect();
            let expected: Vec<_> = fields.iter().map(|(n, v, _)| (&n[..], &v[..])).collect();
            prop_assert_eq!(decoded, expected);
        }
    }
}
