//! Budgets for what is cheap to send and costs to receive.
//!
//! Each kind of frame that is legal in any number, but in large numbers only ever an attack, draws
//! on a bucket that refills with time. An empty bucket ends the connection with ENHANCE_YOUR_CALM
//! (RFC 9113 10.5).

use super::{ConnectionError, ErrorCode};
use crate::limits::{
    H2_EMPTY_DATA, H2_IGNORED_FRAMES, H2_PEER_RESETS, H2_PINGS, H2_PRIORITIES, H2_PROVOKED_RESETS,
    H2_SETTINGS, H2_WINDOW_UPDATES, Rate,
};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Event {
    /// The peer reset a stream: each may have cost a whole request (rapid reset).
    PeerReset,
    /// The peer made this side reset a stream, by an error of its own. The same cost, without a
    /// RST_STREAM from the peer (MadeYouReset).
    ProvokedReset,
    /// DATA without content that does not end its stream.
    EmptyData,
    /// SETTINGS: each must be answered.
    Settings,
    /// PING: each must be answered.
    Ping,
    /// PRIORITY or PRIORITY_UPDATE.
    Priority,
    /// WINDOW_UPDATE. Bytes sent earn it back.
    WindowUpdate,
    /// Any other frame that does nothing: of an unknown type, or for a stream that is closed.
    Ignored,
}

/// One connection's budgets.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// What is left of each, in thousandths of an event.
    left: [u64; EVENTS],
    refilled_ms: u64,
}

impl Budgets {
    /// Full budgets at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self {
            left: RATES.map(|(_, rate, _)| full(rate)),
            refilled_ms: now_ms,
        }
    }

    /// Takes one `event` at `now_ms` off its budget.
    ///
    /// # Errors
    /// There is none left: the peer is attacking.
    pub fn spend(&mut self, event: Event, now_ms: u64) -> Result<(), ConnectionError> {
        self.refill(now_ms);
        let index = event as usize;
        let (Some(left), Some((_, _, reason))) = (self.left.get_mut(index), RATES.get(index))
        else {
            return Ok(());
        };
        *left = left
            .checked_sub(PER_EVENT)
            .ok_or(ConnectionError::new(ErrorCode::EnhanceYourCalm, reason))?;
        Ok(())
    }

    /// `bytes` of DATA were sent in a frame: a window update more per thousand is fair, however fast
    /// the connection, and a PING, by which some peers measure the path. So are two of them for a
    /// frame as short as its content (`is_cut`: as its window), stream and connection: gRPC's messages
    /// are of a few bytes each, and its clients acknowledge each.
    pub fn earn_by_data(&mut self, bytes: u64, is_cut: bool) {
        let updates = match is_cut {
            true => bytes,
            false => bytes.max(2 * PER_EVENT),
        };
        if let Some(left) = self.left.get_mut(Event::WindowUpdate as usize) {
            *left = left.saturating_add(updates).min(full(H2_WINDOW_UPDATES));
        }
        if let Some(left) = self.left.get_mut(Event::Ping as usize) {
            *left = left.saturating_add(PER_EVENT).min(full(H2_PINGS));
        }
    }

    fn refill(&mut self, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.refilled_ms);
        if elapsed_ms == 0 {
            return;
        }
        self.refilled_ms = now_ms;
        for (left, (_, rate, _)) in self.left.iter_mut().zip(RATES) {
            // Per second and event is per millisecond and thousandth.
            let gained = elapsed_ms.saturating_mul(rate.per_second.into());
            *left = left.saturating_add(gained).min(full(rate));
        }
    }
}

fn full(rate: Rate) -> u64 {
    u64::from(rate.burst) * PER_EVENT
}

const PER_EVENT: u64 = 1000;

const EVENTS: usize = 8;

/// In the order of [`Event`].
const RATES: [(Event, Rate, &str); EVENTS] = [
    (
        Event::PeerReset,
        H2_PEER_RESETS,
        "too many streams reset by the peer",
    ),
    (
        Event::ProvokedReset,
        H2_PROVOKED_RESETS,
        "too many stream errors",
    ),
    (
        Event::EmptyData,
        H2_EMPTY_DATA,
        "too many DATA frames without content",
    ),
    (Event::Settings, H2_SETTINGS, "too many SETTINGS"),
    (Event::Ping, H2_PINGS, "too many PINGs"),
    (Event::Priority, H2_PRIORITIES, "too many priorities"),
    (
        Event::WindowUpdate,
        H2_WINDOW_UPDATES,
        "too many WINDOW_UPDATEs",
    ),
    (
        Event::Ignored,
        H2_IGNORED_FRAMES,
        "too many frames to be ignored",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_are_in_the_order_of_the_events() {
        for (index, (event, rate, _)) in RATES.into_iter().enumerate() {
            assert_eq!(event as usize, index);
            assert!(rate.burst > 0 && rate.per_second > 0);
        }
    }

    #[test]
    fn rfc9113_10_5_each_flood_ends_the_connection_and_only_its_own_budget() {
        for (event, rate, _) in RATES {
            let mut budgets = Budgets::new(5);
            for _ in 0..rate.burst {
                assert_eq!(budgets.spend(event, 5), Ok(()));
            }
            let error = budgets.spend(event, 5).unwrap_err();
            assert_eq!(error.code, ErrorCode::EnhanceYourCalm);
            for (other, _, _) in RATES {
                assert_eq!(budgets.spend(other, 5).is_ok(), other != event, "{other:?}");
            }
        }
    }

    #[test]
    fn a_budget_refills_with_time_but_not_beyond_its_burst() {
        for (event, rate, _) in RATES {
            let mut budgets = Budgets::new(0);
            let spent = |budgets: &mut Budgets, now_ms| {
                (0..)
                    .take_while(|_| budgets.spend(event, now_ms).is_ok())
                    .count()
            };
            assert_eq!(spent(&mut budgets, 0), rate.burst as usize);
            let second = rate.per_second.min(rate.burst) as usize;
            assert_eq!(spent(&mut budgets, 1000), second);
            assert_eq!(spent(&mut budgets, 10_000_000), rate.burst as usize);
            // A clock that goes back gives nothing.
            assert_eq!(spent(&mut budgets, 0), 0);
        }
    }

    #[test]
    fn data_sent_earns_window_updates_and_pings() {
        let mut budgets = Budgets::new(0);
        while budgets.spend(Event::WindowUpdate, 0).is_ok() {}
        while budgets.spend(Event::Ping, 0).is_ok() {}
        budgets.earn_by_data(999, true);
        assert!(budgets.spend(Event::Ping, 0).is_ok());
        assert!(budgets.spend(Event::Ping, 0).is_err());
        assert!(budgets.spend(Event::WindowUpdate, 0).is_err());
        budgets.earn_by_data(1, true);
        assert!(budgets.spend(Event::WindowUpdate, 0).is_ok());
        assert!(budgets.spend(Event::WindowUpdate, 0).is_err());
        // A short message is acknowledged on its stream and on the connection.
        budgets.earn_by_data(1, false);
        assert!(budgets.spend(Event::WindowUpdate, 0).is_ok());
        assert!(budgets.spend(Event::WindowUpdate, 0).is_ok());
        assert!(budgets.spend(Event::WindowUpdate, 0).is_err());
    }
}
