//! The `portcullis` command.

use std::process::ExitCode;

/// mimalloc: many small, short-lived allocations per connection on a thread of its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis::cli::main()
}
