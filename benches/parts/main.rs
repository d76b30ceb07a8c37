//! The parts of the program that requests, handshakes and records spend their time in, one by one, as
//! the program itself calls them.
//!
//! `cargo bench --bench parts [FILTER]` takes their time with criterion. Started with `instructions`
//! (as `benches/instructions/run` does) it counts the instructions of each under valgrind instead,
//! which is the same figure on a busy machine and can be held against that of another commit.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a part whose fixture fails, or that does not do its work, has no figure to give"
)]

mod counts;
mod handshake;
mod heads;
mod http2;
mod instructions;
mod meter;
mod part;
mod record;
mod serving;

use std::process::ExitCode;
use std::time::Duration;

use criterion::{Criterion, Throughput};

use crate::meter::Meter;
use crate::part::Part;

/// As in the program: allocations are a part of what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("instructions") => instructions::main(&parts(), &arguments[1..]),
        Some("run") => instructions::run_part(&parts(), &arguments[1..]),
        _ => {
            with_criterion(&parts());
            ExitCode::SUCCESS
        }
    }
}

/// All parts, in the order in which a connection meets them.
fn parts() -> Vec<Part> {
    let groups = [
        handshake::parts(),
        record::parts(),
        heads::parts(),
        http2::parts(),
        serving::parts(),
    ];
    groups.into_iter().flatten().collect()
}

fn with_criterion(parts: &[Part]) {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for part in parts {
        let (group, name) = part.name.split_once('/').unwrap();
        let mut group = criterion.benchmark_group(group);
        if let Some(bytes) = part.bytes {
            group.throughput(Throughput::Bytes(bytes));
        }
        // Made when it is first asked for: the filter may leave it out.
        let mut work = None;
        group.bench_function(name, |bencher| {
            let work = work.get_or_insert_with(|| (part.prepare)());
            bencher.iter_custom(|calls| {
                let mut meter = Meter::timing();
                work(calls, &mut meter);
                meter.elapsed()
            });
        });
        group.finish();
    }
    criterion.final_summary();
}
