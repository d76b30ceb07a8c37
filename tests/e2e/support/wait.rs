//! Waiting with a bound for what gives no signal of its own.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Long enough for anything that is going to happen, in a user-mode kernel too, whose system calls
/// are a hundred times slower.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until `look` gives a value, and gives it. What it waits for is outside this process (a
/// counter, /proc), where looking again is the only way to learn.
pub(crate) fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(BETWEEN_LOOKS);
    }
}

/// Looks until `look` gives `wanted`; fails with what it gave last.
pub(crate) fn until_equal<T: PartialEq + Debug>(
    what: &str,
    wanted: &T,
    mut look: impl FnMut() -> T,
) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if found == *wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: {found:?} after {PATIENCE:?}, not {wanted:?}"
        );
        std::thread::park_timeout(BETWEEN_LOOKS);
    }
}

/// Looks until two looks in a row give the same and `is_candidate` agrees; gives that.
pub(crate) fn until_settled<T: PartialEq>(
    what: &str,
    mut look: impl FnMut() -> T,
    is_candidate: impl Fn(&T) -> bool,
) -> T {
    let mut last = look();
    until_some(what, || {
        std::thread::park_timeout(BETWEEN_LOOKS);
        let now = look();
        let is_settled = now == last && is_candidate(&now);
        last = now;
        is_settled.then_some(())
    });
    last
}

const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
