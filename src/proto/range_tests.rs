use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::proto::testing::request;
use proptest::prelude::*;

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn modified() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(784_111_777)
}

fn later() -> SystemTime {
    modified() + Duration::from_secs(5)
}

fn current() -> Validators<'static> {
    Validators {
        etag: EntityTag::parse(b"\"a\""),
        last_modified: Some(modified()),
    }
}

fn selected(fields: &[(&str, &str)], total: u64) -> Selection {
    select(&request(Method::Get, fields), &current(), total, later())
}

fn partial(offset: u64, length: u64) -> Selection {
    Selection::Partial { offset, length }
}

#[test]
fn rfc9110_14_1_2_byte_ranges() {
    for (value, total, expected) in [
        ("bytes=0-499", 10_000, partial(0, 500)),
        ("bytes=500-999", 10_000, partial(500, 500)),
        ("bytes=-500", 10_000, partial(9_500, 500)),
        ("bytes=9500-", 10_000, partial(9_500, 500)),
        ("BYTES=0-0", 10_000, partial(0, 1)),
        ("bytes=9999-20000", 10_000, partial(9_999, 1)),
        ("bytes=-20000", 10_000, partial(0, 10_000)),
        ("bytes=0-99999999999999999999999999", 10, partial(0, 10)),
        ("bytes= 1-2 ,", 10, partial(1, 2)),
        ("bytes=10000-", 10_000, Selection::Unsatisfiable),
        (
            "bytes=99999999999999999999999999-",
            10,
            Selection::Unsatisfiable,
        ),
        ("bytes=-0", 10, Selection::Unsatisfiable),
        ("bytes=0-", 0, Selection::Unsatisfiable),
        ("bytes=-5", 0, Selection::Full),
    ] {
        assert_eq!(selected(&[("Range", value)], total), expected, "{value}");
    }
}

#[test]
fn rfc9110_14_2_malformed_or_unknown_ranges_are_ignored() {
    for value in [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-4",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=1 -2",
        "bytes 0-1",
        "items=0-1",
        "bytes=0-1,x",
    ] {
        assert_eq!(
            selected(&[("Range", value)], 10),
            Selection::Full,
            "{value:?}"
        );
    }
    assert_eq!(
        selected(&[("Range", "bytes=0-0"), ("Range", "bytes=1-1")], 10),
        Selection::Full
    );
}

#[test]
fn rfc9110_14_2_range_is_for_get_only() {
    for method in [Method::Head, Method::Post, Method::Put] {
        let request = request(method, &[("Range", "bytes=0-0")]);
        assert_eq!(select(&request, &current(), 10, later()), Selection::Full);
    }
}

#[test]
fn several_ranges_are_parsed_in_order_and_bounded() {
    assert_eq!(
        parse(b"bytes=0-1, 5-, -3").unwrap(),
        [
            RangeSpec::Closed { first: 0, last: 1 },
            RangeSpec::From(5),
            RangeSpec::Suffix(3)
        ]
    );
    let many = |count: usize| format!("bytes={}", vec!["0-0"; count].join(","));
    assert_eq!(
        parse(many(RANGES_MAX).as_bytes()).unwrap().len(),
        RANGES_MAX
    );
    assert_eq!(
        parse(many(RANGES_MAX + 1).as_bytes()),
        Err(Unusable::TooMany)
    );
    let before = metrics::of_this_thread(Counter::RangesIgnored);
    let value = many(RANGES_MAX + 1);
    assert_eq!(selected(&[("Range", &value)], 10), Selection::Full);
    let after = metrics::of_this_thread(Counter::RangesIgnored);
    assert_eq!(after, before + 1);
}

#[test]
fn rfc9110_15_3_7_2_several_ranges_are_coalesced_and_keep_their_order() {
    let several = |parts: &[(u64, u64)]| Selection::Several(parts.to_vec());
    for (value, expected) in [
        ("0-9,1000-1009", several(&[(0, 10), (1_000, 10)])),
        ("1000-1009,0-9", several(&[(1_000, 10), (0, 10)])),
        ("-1,0-0", several(&[(9_999, 1), (0, 1)])),
        // What cannot be satisfied is left out, and one range is no multipart.
        ("0-9,20000-,1000-1009", several(&[(0, 10), (1_000, 10)])),
        ("20000-,5-6", partial(5, 2)),
        ("20000-,30000-", Selection::Unsatisfiable),
        // Overlapping, contained, touching, and closer than a part is worth.
        ("0-9,5-19", partial(0, 20)),
        ("5-19,0-99,7-8", partial(0, 100)),
        ("0-9,10-19", partial(0, 20)),
        ("0-9,20-29", partial(0, 30)),
        (
            "500-599,9000-,450-510",
            several(&[(450, 150), (9_000, 1_000)]),
        ),
        ("0-,-1", partial(0, 10_000)),
        // Two parts that together are as long as the whole.
        ("0-4950,5040-", Selection::Full),
    ] {
        let value = format!("bytes={value}");
        assert_eq!(selected(&[("Range", &value)], 10_000), expected, "{value}");
    }
    assert_eq!(selected(&[("Range", "bytes=0-0,-1")], 0), Selection::Full);
    assert_eq!(selected(&[("Range", "bytes=0-1,9-9")], 10), partial(0, 10));
}

#[test]
fn rfc9110_13_1_5_if_range_with_an_entity_tag_compares_strongly() {
    let with = |value| selected(&[("Range", "bytes=0-0"), ("If-Range", value)], 10);
    assert_eq!(with("\"a\""), partial(0, 1));
    assert_eq!(with("\"b\""), Selection::Full);
    assert_eq!(with("W/\"a\""), Selection::Full);
    assert_eq!(with("\"a\", \"b\""), Selection::Full);
    assert_eq!(with("garbage"), Selection::Full);
}

#[test]
fn rfc9110_13_1_5_if_range_with_a_date_matches_exactly_and_strongly() {
    let fields = [("Range", "bytes=0-0"), ("If-Range", DATE)];
    assert_eq!(selected(&fields, 10), partial(0, 1));
    let other = "Sun, 06 Nov 1994 08:49:38 GMT";
    assert_eq!(
        selected(&[("Range", "bytes=0-0"), ("If-Range", other)], 10),
        Selection::Full
    );
    // Within the second it was modified in, the date is weak.
    let request = request(Method::Get, &fields);
    assert_eq!(
        select(&request, &current(), 10, modified()),
        Selection::Full
    );
}

#[test]
fn rfc9110_13_1_5_a_false_if_range_hides_an_unsatisfiable_range() {
    let fields = [("Range", "bytes=100-"), ("If-Range", "\"b\"")];
    assert_eq!(selected(&fields, 10), Selection::Full);
}

#[test]
fn rfc9110_14_4_content_range_text() {
    assert_eq!(content_range(42, 1192, 1234), b"bytes 42-1233/1234");
    assert_eq!(content_range_unsatisfied(1234), b"bytes */1234");
}

proptest! {
    #[test]
    fn a_selected_part_lies_within_the_representation(
        value in "bytes=[0-9]{0,20}-[0-9]{0,20}", total: u64,
    ) {
        if let Selection::Partial { offset, length } = selected(&[("Range", &value)], total) {
            prop_assert!(length > 0);
            prop_assert!(offset.checked_add(length).is_some_and(|end| end <= total));
        }
    }

    #[test]
    fn several_parts_are_apart_and_shorter_than_the_whole(
        ranges in prop::collection::vec((0_u64..6_000, 0_u64..3_000), 1..=RANGES_MAX),
        total in 0_u64..5_000,
    ) {
        let members: Vec<String> = ranges
            .iter()
            .map(|(first, length)| format!("{first}-{}", first + length))
            .collect();
        let value = format!("bytes={}", members.join(","));
        let wanted = |position: u64| {
            ranges.iter().any(|(first, length)| (*first..=first + length).contains(&position))
        };
        let parts = match selected(&[("Range", &value)], total) {
            Selection::Several(parts) => {
                prop_assert!(parts.len() > 1);
                parts
            }
            Selection::Partial { offset, length } => vec![(offset, length)],
            Selection::Full => vec![(0, total)],
            Selection::Unsatisfiable => Vec::new(),
        };
        prop_assert!(parts.iter().map(|(_, length)| length).sum::<u64>() <= total);
        let mut sent = vec![false; usize::try_from(total).unwrap()];
        for (offset, length) in parts {
            prop_assert!(length > 0 || total == 0);
            for position in offset..offset + length {
                let byte = &mut sent[usize::try_from(position).unwrap()];
                prop_assert!(!std::mem::replace(byte, true), "{position} twice");
            }
        }
        for (position, sent) in sent.iter().enumerate() {
            prop_assert!(*sent || !wanted(position as u64), "{position} is missing");
        }
    }

    #[test]
    fn any_text_is_parsed_or_ignored(value in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(specs) = parse(&value) {
            prop_assert!(!specs.is_empty() && specs.len() <= RANGES_MAX);
        }
    }
}
