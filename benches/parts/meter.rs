//! What is measured of a part, and by what.

use std::time::{Duration, Instant};

/// Tells what is to be measured from what only prepares it.
pub(crate) struct Meter {
    mode: Mode,
    elapsed: Duration,
}

enum Mode {
    /// By the clock.
    Time,
    /// By valgrind, which looks for [`counted_section`].
    Count,
    /// Not at all: a first round, so that tables are filled and memory has been asked for.
    Nothing,
}

impl Meter {
    /// One that takes the time.
    pub(crate) fn timing() -> Self {
        Self::of(Mode::Time)
    }

    /// One that lets valgrind count.
    pub(crate) fn counting() -> Self {
        Self::of(Mode::Count)
    }

    /// One that does neither.
    pub(crate) fn idle() -> Self {
        Self::of(Mode::Nothing)
    }

    fn of(mode: Mode) -> Self {
        Self {
            mode,
            elapsed: Duration::ZERO,
        }
    }

    /// Does `work` and measures it.
    pub(crate) fn measure<R>(&mut self, work: impl FnOnce() -> R) -> R {
        match self.mode {
            Mode::Time => {
                let start = Instant::now();
                let result = work();
                self.elapsed += start.elapsed();
                result
            }
            Mode::Count => {
                let (mut work, mut result) = (Some(work), None);
                counted_section(&mut || {
                    if let Some(work) = work.take() {
                        result = Some(work());
                    }
                });
                result.unwrap()
            }
            Mode::Nothing => work(),
        }
    }

    /// The time of everything that was measured.
    pub(crate) fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

/// Valgrind counts while this function is on the stack, which it knows by its name
/// ([`COUNTED_SECTION`]).
#[inline(never)]
fn counted_section(work: &mut dyn FnMut()) {
    work();
    // Keeps the call above from becoming a jump, after which this function would never be left.
    std::hint::black_box(());
}

/// The name of the function whose instructions are counted, as valgrind's patterns are written.
pub(crate) const COUNTED_SECTION: &str = "*counted_section*";
