use super::*;
use crate::proto::h2::ErrorCode;
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds {
    list_bytes_max: 4096,
    fields_max: 100,
};

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    let pairs = pairs.map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let mut list = HeaderList::default();
    decoder.decode(block, &BOUNDS, &mut list)?;
    let text = |t: &[u8]| String::from_utf8(t.to_vec()).unwrap();
    Ok(list.iter().map(|(n, v)| (text(n), text(v))).collect())
}

/// Decodes the blocks of one connection, each with its fields and the size the table has after it.
fn check(decoder: &mut Decoder, blocks: &[(&str, &str, usize)]) {
    for (block, fields, table_size) in blocks {
        let decoded = decode(decoder, &bytes(block)).unwrap();
        let lines: Vec<String> = decoded.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        assert_eq!(lines.join("\n"), *fields);
        assert_eq!(decoder.table_size(), *table_size);
    }
}

fn refused(block: &[u8]) -> Error {
    decode(&mut Decoder::new(), block).unwrap_err()
}

#[test]
fn rfc7541_c_1_integers() {
    assert_eq!(integer(&[0x0a], 5), Ok((10, &[][..])));
    assert_eq!(integer(&[0xea], 5), Ok((10, &[][..])));
    assert_eq!(integer(&[0x1f, 0x9a, 0x0a, 7], 5), Ok((1337, &[7][..])));
    assert_eq!(integer(&[0x2a], 8), Ok((42, &[][..])));
    assert_eq!(integer(&[0x1f, 0x00], 5), Ok((31, &[][..])));
}

#[test]
fn rfc7541_5_1_integers_over_the_limits_are_refused() {
    let max = [0xff, 0x80, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(integer(&max, 7), Ok((u32::MAX as usize, &[][..])));
    let over = [0xff, 0x81, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(integer(&over, 7), Err(Error::IntegerOverflow));
    let far_over = [0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert_eq!(integer(&far_over, 7), Err(Error::IntegerOverflow));
    // In length, whatever the value: zeros can be appended without end.
    let zeros = [0x7f, 0x80, 0x80, 0x80, 0x80, 0x00];
    assert_eq!(integer(&zeros, 7), Ok((127, &[][..])));
    let more_zeros = [0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00];
    assert_eq!(integer(&more_zeros, 7), Err(Error::IntegerOverflow));
    for cut in 0..max.len() {
        assert_eq!(integer(&max[..cut], 7), Err(Error::Truncated));
    }
}

#[test]
fn rfc7541_c_2_representations() {
    let mut decoder = Decoder::new();
    check(
        &mut decoder,
        &[
            (
                "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
                "custom-key: custom-header",
                55,
            ),
            ("040c2f73616d706c652f70617468", ":path: /sample/path", 55),
            ("100870617373776f726406736563726574", "password: secret", 55),
            ("82", ":method: GET", 55),
            ("be", "custom-key: custom-header", 55),
        ],
    );
}

const REQUESTS: [(&str, usize); 3] = [
    (
        ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com",
        57,
    ),
    (
        ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache",
        110,
    ),
    (
        ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\n\
         custom-key: custom-value",
        164,
    ),
];

fn check_requests(blocks: [&str; 3]) {
    let mut decoder = Decoder::new();
    for (block, (fields, size)) in blocks.into_iter().zip(REQUESTS) {
        check(&mut decoder, &[(block, fields, size)]);
    }
}

#[test]
fn rfc7541_c_3_requests_without_huffman() {
    check_requests([
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ]);
}

#[test]
fn rfc7541_c_4_requests_with_huffman() {
    check_requests([
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ]);
}

fn check_responses(blocks: [&str; 3]) {
    let common = "cache-control: private\ndate: Mon, 21 Oct 2013 20:13:21 GMT\n\
                  location: https://www.example.com";
    let third = ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\n\
                 location: https://www.example.com\ncontent-encoding: gzip\n\
                 set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let mut decoder = Decoder::new();
    decoder.table.set_size_max(256);
    check(
        &mut decoder,
        &[
            (blocks[0], &format!(":status: 302\n{common}"), 222),
            (blocks[1], &format!(":status: 307\n{common}"), 222),
            (blocks[2], third, 215),
        ],
    );
}

#[test]
fn rfc7541_c_5_responses_without_huffman_that_evict() {
    check_responses([
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54\
         6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f\
         3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076\
         657273696f6e3d31",
    ]);
}

#[test]
fn rfc7541_c_6_responses_with_huffman_that_evict() {
    check_responses([
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f\
         0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335df\
         dfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ]);
}

#[test]
fn rfc7541_6_1_index_zero_and_indexes_behind_the_tables_are_refused() {
    assert_eq!(refused(&[0x80]), Error::Index);
    assert_eq!(refused(&[0xbe]), Error::Index);
    assert_eq!(refused(&[0xff, 0xff, 0xff, 0xff, 0x7f]), Error::Index);
    // As the name of a literal too: 62 with and without indexing.
    assert_eq!(refused(&[0x7e, 0x00]), Error::Index);
    assert_eq!(refused(&[0x0f, 0x2f, 0x00]), Error::Index);
}

#[test]
fn rfc7541_4_2_size_updates_only_begin_a_block_and_are_two_at_most() {
    let mut decoder = Decoder::new();
    assert_eq!(
        decode(&mut decoder, &[0x20, 0x3f, 0xe1, 0x1f, 0x82])
            .unwrap()
            .len(),
        1
    );
    assert_eq!(decoder.table.size_max(), 4096);
    assert_eq!(refused(&[0x82, 0x20]), Error::UnexpectedSizeUpdate);
    assert_eq!(refused(&[0x20, 0x20, 0x20]), Error::UnexpectedSizeUpdate);
}

#[test]
fn rfc7541_6_3_a_size_over_the_limit_is_refused() {
    assert_eq!(refused(&[0x3f, 0xe2, 0x1f]), Error::TableSize);
    let mut decoder = Decoder::new();
    decoder.set_size_limit(8192);
    assert_eq!(decode(&mut decoder, &[0x3f, 0xe1, 0x3f]), Ok(vec![]));
    assert_eq!(decoder.table.size_max(), 8192);
    assert_eq!(
        decode(&mut decoder, &[0x3f, 0xe2, 0x3f]),
        Err(Error::TableSize)
    );
}

#[test]
fn rfc7541_4_2_an_acknowledged_reduction_must_be_obeyed() {
    let mut decoder = Decoder::new();
    decoder.set_size_limit(100);
    assert_eq!(decode(&mut decoder, &[0x82]), Err(Error::MissingSizeUpdate));
    let mut decoder = Decoder::new();
    decoder.set_size_limit(100);
    assert_eq!(decode(&mut decoder, &[0x20 | 30, 0x82]).unwrap().len(), 1);
    assert_eq!(decode(&mut decoder, &[0x82]).unwrap().len(), 1);
}

#[test]
fn rfc7541_6_blocks_that_end_within_a_field_are_refused() {
    let block = bytes("400a637573746f6d2d6b65790d637573746f6d2d686561646572");
    for cut in 1..block.len() {
        assert_eq!(refused(&block[..cut]), Error::Truncated, "{cut}");
    }
}

#[test]
fn rfc9113_10_5_1_a_list_over_its_bytes_is_dropped_but_the_table_kept_in_step() {
    let bounds = Bounds {
        list_bytes_max: 100,
        fields_max: 100,
    };
    let mut decoder = Decoder::new();
    let mut list = HeaderList::default();
    // Two fields of 42 bytes fit, the third does not; the fourth, into the table, would by itself.
    let block = [&b"\x82\x82\x82"[..], &b"\x40\x01a\x01b"[..]].concat();
    decoder.decode(&block, &bounds, &mut list).unwrap();
    assert!(list.overflowed());
    assert_eq!(list.len(), 2);
    decoder.decode(&[0xbe], &bounds, &mut list).unwrap();
    assert!(!list.overflowed());
    assert_eq!(list.iter().collect::<Vec<_>>(), [(&b"a"[..], &b"b"[..])]);
}

#[test]
fn rfc9113_10_5_1_a_list_over_its_count_is_dropped() {
    let bounds = Bounds {
        list_bytes_max: 100_000,
        fields_max: 3,
    };
    let mut list = HeaderList::default();
    Decoder::new()
        .decode(&[0x82; 3], &bounds, &mut list)
        .unwrap();
    assert!(!list.overflowed());
    Decoder::new()
        .decode(&[0x82; 4], &bounds, &mut list)
        .unwrap();
    assert!(list.overflowed() && list.len() == 3);
}

#[test]
fn hpack_bomb_by_repeated_references_is_bounded_in_memory_and_work() {
    let mut decoder = Decoder::new();
    let mut list = HeaderList::default();
    // A value that fills the table (4063 is 127 and 3936), then a byte per copy of it.
    let mut block = b"\x40\x01n\x7f\xe0\x1e".to_vec();
    block.extend_from_slice(&[b'v'; 4063]);
    decoder.decode(&block, &BOUNDS, &mut list).unwrap();
    assert_eq!((decoder.table.len(), list.len()), (1, 1));
    let result = decoder.decode(&[0xbe; 16_384], &BOUNDS, &mut list);
    assert_eq!(result, Err(Error::Excessive));
    assert_eq!(Error::Excessive.code(), ErrorCode::EnhanceYourCalm);
    assert!(list.text.capacity() <= 4 * BOUNDS.list_bytes_max);
}

#[test]
fn hpack_bomb_by_indexing_one_long_name_again_and_again_is_bounded() {
    let mut decoder = Decoder::new();
    let mut list = HeaderList::default();
    // A name of 4000 bytes (127 and 3873), then two bytes per copy of it into list and table.
    let mut block = b"\x40\x7f\xa1\x1e".to_vec();
    block.extend_from_slice(&[b'n'; 4000]);
    block.push(0);
    decoder.decode(&block, &BOUNDS, &mut list).unwrap();
    assert_eq!((decoder.table.len(), list.len()), (1, 1));
    let result = decoder.decode(&[0x7e, 0x00].repeat(8192), &BOUNDS, &mut list);
    assert_eq!(result, Err(Error::Excessive));
    assert!(list.text.capacity() <= 4 * BOUNDS.list_bytes_max);
}

#[test]
fn rfc9113_8_2_3_cookies_are_joined_for_the_message() {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "GET"),
        ("a", "1"),
        ("cookie", "x=1"),
        ("b", "2"),
        ("cookie", "y=2"),
        ("cookie", "z=3"),
        ("c", ""),
    ] {
        super::super::literal(name.as_bytes(), value.as_bytes(), &mut block);
    }
    let mut list = HeaderList::default();
    Decoder::new().decode(&block, &BOUNDS, &mut list).unwrap();
    let fields = list.to_fields(1);
    let fields: Vec<_> = fields.iter().collect();
    let expected: [(&[u8], &[u8]); 4] = [
        (b"a", b"1"),
        (b"cookie", b"x=1; y=2; z=3"),
        (b"b", b"2"),
        (b"c", b""),
    ];
    assert_eq!(fields, expected);
    let fields = list.to_fields(6);
    assert_eq!(fields.iter().collect::<Vec<_>>(), [(&b"c"[..], &b""[..])]);
    assert!(list.to_fields(7).is_empty() && list.to_fields(8).is_empty());
}

proptest! {
    #[test]
    fn any_bytes_stay_within_the_bounds(
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
    ) {
        let bounds = Bounds { list_bytes_max: 600, fields_max: 10 };
        let mut decoder = Decoder::new();
        let mut list = HeaderList::default();
        for block in blocks {
            let result = decoder.decode(&block, &bounds, &mut list);
            let size: usize = list.iter().map(|(n, v)| n.len() + v.len() + 32).sum();
            prop_assert!(size <= bounds.list_bytes_max && list.len() <= bounds.fields_max);
            prop_assert!(decoder.table.size() <= decoder.table.size_max());
            if result.is_err() {
                break;
            }
        }
    }
}
