use std::time::Duration;

use super::*;
use crate::proto::testing::request;
use proptest::prelude::*;

const OLD: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const NEW: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

fn modified() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(784_111_777_900)
}

fn current() -> Validators<'static> {
    Validators {
        etag: EntityTag::parse(b"\"a\""),
        last_modified: Some(modified()),
    }
}

fn verdict(method: Method, fields: &[(&str, &str)]) -> Verdict {
    evaluate(&request(method, fields), Some(&current()))
}

fn get(fields: &[(&str, &str)]) -> Verdict {
    verdict(Method::Get, fields)
}

#[test]
fn rfc9110_8_8_3_entity_tag_syntax() {
    let tag = EntityTag::parse(b"W/\"x,y\"").unwrap();
    assert!(tag.weak);
    assert_eq!(tag.opaque, b"x,y");
    assert_eq!(EntityTag::parse(b"\"\"").unwrap().opaque, b"");
    assert!(EntityTag::parse(b"\"\xe9\"").is_some());
    for bad in [
        "",
        "a",
        "\"a",
        "a\"",
        "w/\"a\"",
        "W/a",
        "\"a\"b",
        "\"a b\"",
        "\"a\x7f\"",
        "*",
    ] {
        assert_eq!(EntityTag::parse(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn rfc9110_8_8_3_2_strong_and_weak_comparison_table() {
    let tag = |text: &'static str| EntityTag::parse(text.as_bytes()).unwrap();
    for (a, b, strong, weak) in [
        ("W/\"1\"", "W/\"1\"", false, true),
        ("W/\"1\"", "W/\"2\"", false, false),
        ("W/\"1\"", "\"1\"", false, true),
        ("\"1\"", "\"1\"", true, true),
    ] {
        assert_eq!(tag(a).strong_eq(tag(b)), strong, "{a} {b}");
        assert_eq!(tag(a).weak_eq(tag(b)), weak, "{a} {b}");
    }
}

#[test]
fn rfc9110_13_1_1_if_match() {
    for (value, expected) in [
        ("*", Verdict::Proceed),
        ("\"a\"", Verdict::Proceed),
        ("\"b\" , \"a\"", Verdict::Proceed),
        ("\"b\",\"c\"", Verdict::Failed),
        ("W/\"a\"", Verdict::Failed),
        ("nonsense", Verdict::Failed),
        ("\"b\" \"a\"", Verdict::Failed),
        ("*, \"b\"", Verdict::Failed),
    ] {
        assert_eq!(get(&[("If-Match", value)]), expected, "{value}");
        assert_eq!(
            verdict(Method::Put, &[("If-Match", value)]),
            expected,
            "{value}"
        );
    }
    assert_eq!(
        get(&[("If-Match", "\"b\""), ("if-match", "\"a\"")]),
        Verdict::Proceed
    );
}

#[test]
fn rfc9110_13_1_1_if_match_fails_without_representation() {
    let request = request(Method::Put, &[("If-Match", "*")]);
    assert_eq!(evaluate(&request, None), Verdict::Failed);
}

#[test]
fn rfc9110_13_1_2_if_none_match() {
    for (value, expected) in [
        ("*", Verdict::NotModified),
        ("\"a\"", Verdict::NotModified),
        ("W/\"a\"", Verdict::NotModified),
        ("\"x,\", \"a\"", Verdict::NotModified),
        ("\"b\"", Verdict::Proceed),
        ("a", Verdict::Proceed),
    ] {
        assert_eq!(get(&[("If-None-Match", value)]), expected, "{value}");
        assert_eq!(
            verdict(Method::Head, &[("If-None-Match", value)]),
            expected,
            "{value}"
        );
    }
    assert_eq!(
        verdict(Method::Put, &[("If-None-Match", "*")]),
        Verdict::Failed
    );
    let create = request(Method::Put, &[("If-None-Match", "*")]);
    assert_eq!(evaluate(&create, None), Verdict::Proceed);
}

#[test]
fn rfc9110_13_what_may_decide_is_never_overlooked() {
    for name in [
        "if-match",
        "If-None-Match",
        "IF-MODIFIED-SINCE",
        "if-Unmodified-since",
        "iF-Range",
        "Range",
        "RANGE",
    ] {
        let request = request(Method::Get, &[("accept", "*/*"), (name, "x")]);
        assert!(may_decide(&request.fields), "{name}");
    }
    let others = [
        ("accept", "*/*"),
        ("referer", "/"),
        ("accept-ranges", "bytes"),
        ("ranges", "bytes=0-"),
        ("i", "f"),
    ];
    assert!(!may_decide(&request(Method::Get, &others).fields));
}

#[test]
fn rfc9110_13_1_3_if_modified_since() {
    assert_eq!(get(&[("If-Modified-Since", OLD)]), Verdict::Proceed);
    assert_eq!(get(&[("If-Modified-Since", SAME)]), Verdict::NotModified);
    assert_eq!(get(&[("If-Modified-Since", NEW)]), Verdict::NotModified);
    assert_eq!(get(&[("If-Modified-Since", "yesterday")]), Verdict::Proceed);
    assert_eq!(
        get(&[("If-Modified-Since", SAME), ("If-Modified-Since", SAME)]),
        Verdict::Proceed
    );
    assert_eq!(
        verdict(Method::Put, &[("If-Modified-Since", SAME)]),
        Verdict::Proceed
    );
    let undated = Validators {
        last_modified: None,
        ..current()
    };
    let request = request(Method::Get, &[("If-Modified-Since", SAME)]);
    assert_eq!(evaluate(&request, Some(&undated)), Verdict::Proceed);
}

#[test]
fn rfc9110_5_6_7_all_three_date_forms_are_understood() {
    for text in [
        SAME,
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ] {
        assert_eq!(
            parse_date(text.as_bytes()).map(seconds),
            Some(784_111_777),
            "{text}"
        );
    }
}

#[test]
fn rfc9110_13_1_4_if_unmodified_since() {
    assert_eq!(get(&[("If-Unmodified-Since", OLD)]), Verdict::Failed);
    assert_eq!(get(&[("If-Unmodified-Since", SAME)]), Verdict::Proceed);
    assert_eq!(get(&[("If-Unmodified-Since", NEW)]), Verdict::Proceed);
    assert_eq!(get(&[("If-Unmodified-Since", "x")]), Verdict::Proceed);
    assert_eq!(
        verdict(Method::Put, &[("If-Unmodified-Since", OLD)]),
        Verdict::Failed
    );
}

#[test]
fn rfc9110_13_2_2_precedence() {
    // If-Match hides If-Unmodified-Since.
    let fields = [("If-Match", "\"a\""), ("If-Unmodified-Since", OLD)];
    assert_eq!(get(&fields), Verdict::Proceed);
    // If-None-Match hides If-Modified-Since.
    let fields = [("If-None-Match", "\"b\""), ("If-Modified-Since", SAME)];
    assert_eq!(get(&fields), Verdict::Proceed);
    // If-Match fails before If-None-Match is asked.
    let fields = [("If-Match", "\"b\""), ("If-None-Match", "\"a\"")];
    assert_eq!(get(&fields), Verdict::Failed);
    // Both hold: If-None-Match decides.
    let fields = [("If-Match", "\"a\""), ("If-None-Match", "\"a\"")];
    assert_eq!(get(&fields), Verdict::NotModified);
}

#[test]
fn rfc9110_13_2_1_ignored_with_methods_without_representation() {
    for method in [Method::Options, Method::Trace, Method::Connect] {
        assert_eq!(verdict(method, &[("If-Match", "\"b\"")]), Verdict::Proceed);
    }
}

proptest! {
    #[test]
    fn any_text_is_a_date_or_not(
        text in "(Sun|Mon|Sunday)[, ]{1,2}[0-9A-Za-z: -]{0,28}( GMT)?",
        day in 0_u32..40, month in 0_usize..12, year in 0_u32..10_000, hour in 0_u32..30,
    ) {
        let _ = parse_date(text.as_bytes());
        let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov",
            "Dec"][month];
        let _ = parse_date(format!("Mon, {day:02} {month} {year:04} {hour:02}:00:00 GMT").as_bytes());
    }

    #[test]
    fn tag_lists_never_panic_and_end(text in "[\\x20-\\x7e]{0,64}") {
        let count = Tags(text.as_bytes()).count();
        prop_assert!(count <= text.len() / 2);
    }

    #[test]
    fn a_listed_tag_is_found_wherever_it_stands(
        before in prop::collection::vec("[!#-~]{0,6}", 0..4),
        own in "[!#-~]{7}",
        after in prop::collection::vec("[!#-~]{0,6}", 0..4),
    ) {
        let list: Vec<String> =
            before.iter().chain([&own]).chain(&after).map(|tag| format!("\"{tag}\"")).collect();
        let own_text = format!("\"{own}\"");
        let current = Validators { etag: EntityTag::parse(own_text.as_bytes()), last_modified: None };
        let request = request(Method::Get, &[("If-None-Match", &list.join(", "))]);
        prop_assert_eq!(evaluate(&request, Some(&current)), Verdict::NotModified);
    }
}
