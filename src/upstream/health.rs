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

/// What connections have shown of a server.
#[derive(Debug, Default)]
pub struct Observed {
    /// Failures in a row.
    failures: u32,
    /// Ejections in a row: not zero from the first until something succeeds.
    ejections: u32,
    /// The present ejection's end, or the last one's.
    ejected_until_ms: u64,
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
    /// A connection failed. Gives the time until which the server is to be left out, when that
    /// begins with this failure: the time set, doubled each time that the first failure after an
    /// ejection shows that nothing is better.
    pub fn on_failure(&mut self, settings: &Ejection, now_ms: u64) -> Option<u64> {
        let failures_max = settings.failures?;
        // Late news of connections begun before the ejection, or tried for want of other servers.
        if now_ms < self.ejected_until_ms {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        let is_on_trial = self.ejections > 0;
        if !is_on_trial && self.failures < failures_max {
            return None;
        }
        let doublings = self.ejections.min(EJECTION_DOUBLINGS_MAX);
        let time_ms = u64::try_from(settings.time.as_millis()).unwrap_or(u64::MAX);
        let until_ms = now_ms.saturating_add(time_ms.saturating_mul(1 << doublings));
        self.failures = 0;
        self.ejections = self.ejections.saturating_add(1);
        self.ejected_until_ms = until_ms;
        Some(until_ms)
    }

    /// A connection succeeded. Gives whether the server was left out until now or on trial.
    pub fn on_success(&mut self) -> bool {
        let was_ejected = self.ejections > 0;
        *self = Self::default();
        was_ejected
    }

    /// Whether nothing has failed since the last success.
    pub fn is_clean(&self) -> bool {
        self.failures == 0 && self.ejections == 0
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

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let mut observed = Observed::default();
        assert_eq!(observed.on_failure(&EJECTION, 0), None);
        assert_eq!(observed.on_failure(&EJECTION, 1), None);
        assert!(!observed.on_success());
        assert_eq!(observed.on_failure(&EJECTION, 2), None);
        assert_eq!(observed.on_failure(&EJECTION, 3), None);
        assert_eq!(observed.on_failure(&EJECTION, 4), Some(10_004));
        assert_eq!(observed.on_failure(&EJECTION, 5), None, "late news");
        assert!(observed.on_success());
        assert!(observed.is_clean());
    }

    #[test]
    fn a_server_that_fails_again_at_once_is_left_out_twice_as_long_up_to_a_bound() {
        let mut observed = Observed::default();
        let mut now_ms = 0;
        for _ in 0..2 {
            assert_eq!(observed.on_failure(&EJECTION, now_ms), None);
        }
        for seconds in [10, 20, 40, 80, 160, 320, 320, 320] {
            let until_ms = observed.on_failure(&EJECTION, now_ms).unwrap();
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
            assert_eq!(observed.on_failure(&never, now_ms), None);
        }
    }

    proptest! {
        #[test]
        fn any_order_of_events_keeps_the_bounds(
            events in prop::collection::vec((any::<bool>(), 0u64..100_000), 0..300),
        ) {
            let mut observed = Observed::default();
            let mut now_ms = 0;
            for (succeeds, pause_ms) in events {
                now_ms += pause_ms;
                if succeeds {
                    observed.on_success();
                    prop_assert!(observed.is_clean());
                } else if let Some(until_ms) = observed.on_failure(&EJECTION, now_ms) {
                    let time_ms = until_ms - now_ms;
                    prop_assert!((10_000..=320_000).contains(&time_ms));
                }
            }
        }
    }
}
