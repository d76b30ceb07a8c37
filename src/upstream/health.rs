//! Whether a server is to be used: what checks say, and what connections to it have shown. Without
//! I/O; time is an argument, in milliseconds.

use crate::config::{Ejection, HealthCheck};
use crate::limits::EJECTION_DOUBLINGS_MAX;

/// What checks say of a server. One that is not checked is up.
#[derive(Debug)]
pub struct Checked {
    is_up: bool,
    /// Checks in a row that say otherwise.
    against: u32,
}

/// What connections and requests have shown of a server.
#[derive(Debug, Default)]
pub struct Observed {
    /// Connections in a row that could not be made.
    connects_failed: u32,
    /// Requests that failed since the last answer.
    exchanges_failed: u32,
    /// Ejections in a row: not zero from the first until a success ends the trial.
    ejections: u32,
    /// Requests had a part in one of these ejections: that a connection is made proves nothing.
    is_for_exchanges: bool,
    /// The last ejection's begin and end.
    ejected_since_ms: u64,
    ejected_until_ms: u64,
}

/// What a server has done, or failed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To accept a connection, over TLS with its handshake.
    Connect,
    /// To answer a request with a head.
    Exchange,
}

impl Default for Checked {
    /// Up: a server is used until a check says that it must not be.
    fn default() -> Self {
        Self {
            is_up: true,
            against: 0,
        }
    }
}

impl Checked {
    /// A check has ended. Gives the new state when it has changed.
    pub fn on_check(&mut self, has_passed: bool, settings: &HealthCheck) -> Option<bool> {
        if has_passed == self.is_up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.is_up {
            settings.fall
        } else {
            settings.rise
        };
        if self.against < needed {
            return None;
        }
        self.is_up = has_passed;
        self.against = 0;
        Some(self.is_up)
    }
}

impl Observed {
    /// What was begun at `began_ms` has failed. Gives the time until which the server is to be left
    /// out, when that begins with this failure: the time set, doubled each time that the first
    /// failure after an ejection shows that nothing is better.
    pub fn on_failure(
        &mut self,
        settings: &Ejection,
        step: Step,
        (began_ms, now_ms): (u64, u64),
    ) -> Option<u64> {
        let failures_max = settings.failures?;
        // Tried for want of other servers, or late news.
        if now_ms < self.ejected_until_ms || self.is_old(began_ms) {
            return None;
        }
        let count = match step {
            Step::Connect => &mut self.connects_failed,
            Step::Exchange => &mut self.exchanges_failed,
        };
        *count = count.saturating_add(1);
        let failures = self.connects_failed.saturating_add(self.exchanges_failed);
        let is_on_trial = self.ejections > 0;
        if !is_on_trial && failures < failures_max {
            return None;
        }
        let doublings = self.ejections.min(EJECTION_DOUBLINGS_MAX);
        let time_ms = u64::try_from(settings.time.as_millis()).unwrap_or(u64::MAX);
        let until_ms = now_ms.saturating_add(time_ms.saturating_mul(1 << doublings));
        self.is_for_exchanges |= self.exchanges_failed > 0;
        (self.connects_failed, self.exchanges_failed) = (0, 0);
        self.ejections = self.ejections.saturating_add(1);
        (self.ejected_since_ms, self.ejected_until_ms) = (now_ms, until_ms);
        Some(until_ms)
    }

    /// What was begun at `began_ms` has succeeded. Gives whether the server was left out until now or
    /// on trial. An answer makes good for all; a connection only for those that could not be made: a
    /// server that accepts and never answers is accepted by for each request.
    pub fn on_success(&mut self, step: Step, began_ms: u64) -> bool {
        if self.is_old(began_ms) {
            return false;
        }
        if step == Step::Connect {
            self.connects_failed = 0;
            if self.exchanges_failed > 0 || self.is_for_exchanges {
                return false;
            }
        }
        let was_ejected = self.ejections > 0;
        *self = Self::default();
        was_ejected
    }

    /// Whether nothing is held against the server.
    pub fn is_clean(&self) -> bool {
        self.connects_failed == 0 && self.exchanges_failed == 0 && self.ejections == 0
    }

    /// Whether what was begun then tells only of the time before the last ejection.
    fn is_old(&self, began_ms: u64) -> bool {
        self.ejections > 0 && began_ms < self.ejected_since_ms
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn settings() -> HealthCheck {
        HealthCheck {
            rise: 2,
            fall: 3,
            ..Default::default()
        }
    }

    const EJECTION: Ejection = Ejection {
        failures: Some(3),
        time: Duration::from_secs(10),
    };

    #[test]
    fn it_takes_fall_failures_in_a_row_to_go_down_and_rise_passes_to_come_up() {
        let mut checked = Checked::default();
        let checks = [
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
            (false, None),
            (true, None),
            (false, None),
            (true, None),
            (true, Some(true)),
            (true, None),
        ];
        for (index, (passed, change)) in checks.into_iter().enumerate() {
            assert_eq!(checked.on_check(passed, &settings()), change, "{index}");
        }
    }

    /// A failure of what has taken no time.
    fn fail(observed: &mut Observed, step: Step, now_ms: u64) -> Option<u64> {
        observed.on_failure(&EJECTION, step, (now_ms, now_ms))
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        for step in [Step::Connect, Step::Exchange] {
            let mut observed = Observed::default();
            assert_eq!(fail(&mut observed, step, 0), None);
            assert_eq!(fail(&mut observed, step, 1), None);
            assert!(!observed.on_success(step, 1));
            assert_eq!(fail(&mut observed, step, 2), None);
            assert_eq!(fail(&mut observed, step, 3), None);
            assert_eq!(fail(&mut observed, step, 4), Some(10_004));
            assert_eq!(fail(&mut observed, step, 5), None, "while it is left out");
            assert!(observed.on_success(step, 4));
            assert!(observed.is_clean());
        }
    }

    #[test]
    fn a_connection_makes_good_for_connections_and_not_for_answers() {
        let mut observed = Observed::default();
        for now_ms in 0..2 {
            assert!(!observed.on_success(Step::Connect, now_ms));
            assert_eq!(fail(&mut observed, Step::Exchange, now_ms), None);
        }
        assert_eq!(fail(&mut observed, Step::Exchange, 2), Some(10_002));
        // On trial it accepts, and answers as little.
        assert!(!observed.on_success(Step::Connect, 10_002));
        let again = fail(&mut observed, Step::Exchange, 10_002);
        assert_eq!(again, Some(30_002), "twice as long");
        assert!(!observed.on_success(Step::Connect, 30_002));
        assert!(observed.on_success(Step::Exchange, 30_002));
        assert!(observed.is_clean());
        // For one that was left out because it refused, accepting is enough.
        for now_ms in 40_000..40_003 {
            fail(&mut observed, Step::Connect, now_ms);
        }
        assert!(observed.on_success(Step::Connect, 50_002));
        assert!(observed.is_clean());
    }

    #[test]
    fn what_was_begun_before_an_ejection_changes_nothing_after_it() {
        let mut observed = Observed::default();
        for now_ms in 100..103 {
            fail(&mut observed, Step::Exchange, now_ms);
        }
        assert!(!observed.on_success(Step::Exchange, 101));
        assert!(!observed.is_clean());
        let late = observed.on_failure(&EJECTION, Step::Exchange, (101, 60_000));
        assert_eq!(late, None, "it says nothing of the trial");
        let begun_after = observed.on_failure(&EJECTION, Step::Exchange, (10_102, 60_000));
        assert_eq!(begun_after, Some(80_000));
    }

    #[test]
    fn a_server_that_fails_again_at_once_is_left_out_twice_as_long_up_to_a_bound() {
        let mut observed = Observed::default();
        let mut now_ms = 0;
        for _ in 0..2 {
            assert_eq!(fail(&mut observed, Step::Connect, now_ms), None);
        }
        for seconds in [10, 20, 40, 80, 160, 320, 320, 320] {
            let until_ms = fail(&mut observed, Step::Connect, now_ms).unwrap();
            assert_eq!(until_ms, now_ms + seconds * 1000);
            now_ms = until_ms;
        }
    }

    #[test]
    fn without_a_number_of_failures_nothing_ejects() {
        let never = Ejection {
            failures: None,
            ..EJECTION
        };
        let mut observed = Observed::default();
        for now_ms in 0..1000 {
            let failed = observed.on_failure(&never, Step::Exchange, (now_ms, now_ms));
            assert_eq!(failed, None);
        }
    }

    proptest! {
        #[test]
        fn any_order_of_events_keeps_the_bounds(
            events in prop::collection::vec(
                (any::<bool>(), any::<bool>(), 0u64..100_000, 0u64..100_000),
                0..300,
            ),
        ) {
            let mut observed = Observed::default();
            let mut now_ms: u64 = 0;
            for (succeeds, is_connect, pause_ms, took_ms) in events {
                now_ms += pause_ms;
                let step = if is_connect { Step::Connect } else { Step::Exchange };
                let times = (now_ms.saturating_sub(took_ms), now_ms);
                if succeeds {
                    let was_ejected = observed.on_success(step, times.0);
                    prop_assert!(!was_ejected || observed.is_clean());
                } else if let Some(until_ms) = observed.on_failure(&EJECTION, step, times) {
                    let time_ms = until_ms - now_ms;
                    prop_assert!((10_000..=320_000).contains(&time_ms));
                }
            }
        }
    }
}
