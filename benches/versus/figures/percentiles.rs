//! Latencies in order.

use serde::{Deserialize, Serialize};

/// Of some latencies, in microseconds: what so many of a hundred did not exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p99_9_us: f64,
    pub(crate) max_us: f64,
}

impl Percentiles {
    /// Of at least one latency, in nanoseconds, by the nearest rank: every figure is one that was
    /// measured.
    pub(crate) fn of(mut latencies_ns: Vec<u64>) -> Option<Self> {
        latencies_ns.sort_unstable();
        let count = latencies_ns.len();
        let at = |per_mille: usize| {
            let rank = (count * per_mille).div_ceil(1000).max(1);
            // Below 2^53 by far.
            latencies_ns.get(rank - 1).map(|&ns| ns as f64 / 1e3)
        };
        Some(Self {
            p50_us: at(500)?,
            p90_us: at(900)?,
            p99_us: at(990)?,
            p99_9_us: at(999)?,
            max_us: at(1000)?,
        })
    }
}
