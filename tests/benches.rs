//! What the measuring programs make of what they measure.

#![expect(
    clippy::unwrap_used,
    reason = "in a test's helpers a panic is the verdict"
)]

#[path = "../benches/parts/counts.rs"]
mod counts;

use std::collections::BTreeMap;

use counts::{CHANGE_PERCENT_MIN, Counts, collected};

fn counts(instructions: &[(&str, f64)]) -> Counts {
    let instructions = instructions.iter();
    Counts {
        commit: "4a1d28b".to_owned(),
        valgrind: "valgrind-3.19.0".to_owned(),
        rustc: "rustc 1.90.0".to_owned(),
        instructions: instructions
            .map(|&(name, count)| (name.to_owned(), count))
            .collect::<BTreeMap<_, _>>(),
    }
}

/// The line of the table about `name`.
fn line<'a>(table: &'a str, name: &str) -> &'a str {
    let mut lines = table.lines().filter(|line| line.starts_with(name));
    let line = lines.next().unwrap();
    assert_eq!(lines.next(), None, "{table}");
    line
}

#[test]
fn the_count_is_read_from_what_callgrind_says() {
    let said =
        "==7== Events    : Ir\n==7== Collected : 81243\n==7==\n==7== I   refs:      81,243\n";
    assert_eq!(collected(said), Some(81_243));
    assert_eq!(collected("valgrind: cannot execute\n"), None);
    assert_eq!(collected("==7== Collected : many\n"), None);
}

#[test]
fn only_counts_that_have_moved_are_marked() {
    let before = counts(&[("a/same", 1000.0), ("b/more", 1000.0), ("c/less", 1000.0)]);
    let little = 1000.0 + 9.0 * CHANGE_PERCENT_MIN;
    let after = counts(&[
        ("a/same", little),
        ("b/more", 1025.0),
        ("c/less", 500.0),
        ("d/added", 3.0),
    ]);
    let table = after.table(Some(&before));
    assert!(line(&table, "a/same").ends_with("1009.0"), "{table}");
    assert!(
        line(&table, "b/more").contains("+2.5%  from 1000.0"),
        "{table}"
    );
    assert!(
        line(&table, "c/less").contains("-50.0%  from 1000.0"),
        "{table}"
    );
    assert!(line(&table, "d/added").ends_with("new"), "{table}");
    let alone = after.table(None);
    assert!(!alone.contains('%') && !alone.contains("new\n"), "{alone}");
    assert_eq!(alone.lines().count(), 4);
}

#[test]
fn what_makes_a_comparison_doubtful_is_said() {
    let before = counts(&[("a", 1.0), ("b", 1.0)]);
    assert!(before.remarks(&before, false).is_empty());
    let mut after = counts(&[("a", 1.0)]);
    assert_eq!(after.remarks(&before, false), ["b is no more"]);
    // A filter has left it out.
    assert!(after.remarks(&before, true).is_empty());
    after.valgrind = "valgrind-3.25.0".to_owned();
    let remarks = after.remarks(&before, true);
    assert!(
        remarks.len() == 1 && remarks[0].contains("valgrind-3.19.0"),
        "{remarks:?}"
    );
}

#[test]
fn a_result_is_read_back_as_it_was_written() {
    let written = counts(&[("a", 1234.5), ("b", 0.25)]);
    let json = serde_json::to_string(&written).unwrap();
    assert_eq!(serde_json::from_str::<Counts>(&json).unwrap(), written);
}
