//! One of the fuzz targets, the one that `FUZZ_TARGET` names, under libFuzzer.

#![no_main]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "in a test's helpers a panic is the verdict"
)]

#[path = "../targets.rs"]
mod targets;

use std::sync::OnceLock;

use targets::{TARGETS, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
        let target = TARGETS.iter().find(|target| target.name == name);
        let target = target.expect("FUZZ_TARGET names a target");
        TARGET.get_or_init(|| target);
        // libFuzzer reads its corpus after this.
        let corpus = std::env::var("FUZZ_SEEDS").expect("FUZZ_SEEDS names a folder");
        for (count, seed) in (target.seeds)().into_iter().enumerate() {
            let file = std::path::Path::new(&corpus).join(format!("seed-{count}"));
            std::fs::write(file, seed).expect("a seed can be written");
        }
    },
    |input: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(input);
        }
    }
);
