//! What only computes and parses, and the list of what is measured, apart from all that starts programs: `cargo test` compiles these
//! files once more and runs their tests (tests/versus.rs), which a benchmark without a harness
//! cannot do itself. They use only each other.

pub(crate) mod cells;
pub(crate) mod chart;
pub(crate) mod h2load;
pub(crate) mod http2;
pub(crate) mod percentiles;
pub(crate) mod spread;
pub(crate) mod tls_stat;
pub(crate) mod wrk;

/// What a load moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counted {
    /// Answered in full.
    pub(crate) requests: u64,
    /// Received in all: heads, frames and bodies.
    pub(crate) bytes: f64,
}
