//! Everything that reads what a peer or an operator wrote, fed with damaged input.
//!
//! Each target (`targets`) takes bytes and asserts what must hold whatever they are. Here they are
//! fed with mutations of its seeds, a fixed number of them from a fixed start, so that a run can be
//! repeated; `FUZZ_SECONDS=3600` goes on for so long from a new start. `guided` feeds the same
//! targets by coverage.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test's helpers a panic is the verdict"
)]

mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mutate::Mutator;
use targets::{TARGETS, Target};

/// How many inputs a target gets where no time is set: some seconds' worth.
const INPUTS: u64 = 100_000;

/// The longest input: more than any bound that the targets set.
const INPUT_BYTES_MAX: usize = 4_096;

fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("a target of that name");
    let seconds = std::env::var("FUZZ_SECONDS").ok();
    let limit = seconds.map(|text| Duration::from_secs(text.parse().expect("FUZZ_SECONDS")));
    let start = match limit {
        None => 1,
        Some(_) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos()) | now.as_secs() << 32
        }
    };
    let mut mutator = Mutator::new(start, (target.seeds)(), target.words, INPUT_BYTES_MAX);
    for seed in mutator.seeds().to_vec() {
        check(target, &seed);
    }
    let begun = Instant::now();
    for count in 0_u64.. {
        let goes_on = match limit {
            None => count < INPUTS,
            Some(limit) => begun.elapsed() < limit,
        };
        if !goes_on {
            println!("{name}: {count} inputs from {start}");
            return;
        }
        check(target, &mutator.next_input());
    }
}

/// Runs `target`; when it panics, says on what.
fn check(target: &Target, input: &[u8]) {
    let ran = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(
        ran.is_ok(),
        "{} fails on b\"{}\"",
        target.name,
        input.escape_ascii()
    );
}

macro_rules! fuzz_each {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            fuzz(stringify!($name));
        })+

        #[test]
        fn every_target_is_run() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),+]);
        }
    };
}

fuzz_each!(
    h1_head,
    h1_body,
    h1_response,
    client_hello,
    record,
    range_and_conditions,
    target_path,
    h2_frames,
    hpack,
    h2_server,
    h2_client,
    proxy_header,
    forwarded,
    configuration,
);

#[test]
#[should_panic(expected = "fails on b\"\\xffx\"")]
fn an_input_that_fails_is_shown() {
    let target = Target {
        name: "broken",
        run: |input| assert!(input != b"\xffx"),
        seeds: Vec::new,
        words: &[],
    };
    check(&target, b"\xff");
    check(&target, b"\xffx");
}
