//! From a request to a response.

mod bounded_map;
pub mod cache;
pub mod content_type;
pub mod error_page;
mod open;
pub mod path;

use std::future::Future;
use std::time::{Instant, SystemTime};

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For ages and deadlines.
    pub monotonic: Instant,
    /// For dates.
    pub wall: SystemTime,
}

/// Threads for work that waits for disks.
pub trait FileThreads {
    /// Runs `job` on another thread. The call itself queues the job: dropping the future leaves the
    /// job running and drops its value on that thread.
    ///
    /// # Errors
    ///
    /// [`Overloaded`] when too many jobs wait; this one is dropped.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Overloaded>>;
}

/// The file threads have too much to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overloaded;
