//! Flow control (RFC 9113 5.2 and 6.9): how much may be sent, and how much the peer may send.
//!
//! The same two types serve streams and the connection. Only streams follow changes of
//! SETTINGS_INITIAL_WINDOW_SIZE (6.9.2).

use std::num::NonZeroU32;

use super::ErrorCode;
use crate::limits::H2_RECEIVE_WINDOW_BYTES_MAX;

/// A window before any SETTINGS or WINDOW_UPDATE (RFC 9113 6.9.2).
pub const WINDOW_BYTES_INITIAL: u32 = 65_535;

/// The largest window (RFC 9113 6.9.1).
pub const WINDOW_BYTES_MAX: u32 = 0x7fff_ffff;

/// A window would pass [`WINDOW_BYTES_MAX`], or was overrun: FLOW_CONTROL_ERROR of the stream or
/// the connection whose window it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowError;

impl FlowError {
    /// The code that the stream or connection ends with.
    pub const CODE: ErrorCode = ErrorCode::FlowControl;
}

/// What may still be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendWindow {
    /// Within 31 bits and a sign: a smaller initial size makes it negative (RFC 9113 6.9.2).
    bytes: i64,
}

impl SendWindow {
    /// A window of `initial` bytes, at most [`WINDOW_BYTES_MAX`].
    pub fn new(initial: u32) -> Self {
        Self {
            bytes: i64::from(initial.min(WINDOW_BYTES_MAX)),
        }
    }

    /// Bytes that may be sent now; zero while the window is negative.
    pub fn available(&self) -> u32 {
        u32::try_from(self.bytes).unwrap_or(0)
    }

    /// Takes `bytes` that are sent. The caller asked [`available`](Self::available) before; more
    /// than that makes the window negative, so that the next sends make up for it.
    pub fn consume(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.available());
        self.bytes -= i64::from(bytes);
    }

    /// The peer sent WINDOW_UPDATE.
    ///
    /// # Errors
    /// The window would pass its maximum (RFC 9113 6.9.1).
    pub fn increase(&mut self, increment: u32) -> Result<(), FlowError> {
        self.shift(i64::from(increment))
    }

    /// The peer changed SETTINGS_INITIAL_WINDOW_SIZE from `old` to `new`; for a stream's window.
    ///
    /// # Errors
    /// The window would pass its maximum: an error of the connection (RFC 9113 6.9.2).
    pub fn change_initial(&mut self, old: u32, new: u32) -> Result<(), FlowError> {
        self.shift(i64::from(new) - i64::from(old))
    }

    fn shift(&mut self, difference: i64) -> Result<(), FlowError> {
        let bytes = self.bytes + difference;
        if bytes > i64::from(WINDOW_BYTES_MAX) {
            return Err(FlowError);
        }
        self.bytes = bytes;
        Ok(())
    }
}

/// What the peer may still send, and when to let it send more.
///
/// A byte received is held until it is released by whoever consumes it. Releases are not told to
/// the peer one by one but once half the target has gathered: an update costs a frame and a record,
/// and half a window left keeps the peer sending meanwhile. What is held plus what the peer may
/// send never passes the target, which so bounds the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveWindow {
    /// What the peer may still send; negative after a reduction it did not know of.
    open: i64,
    /// Received and not released.
    held: u32,
    target: u32,
}

impl ReceiveWindow {
    /// A window of which the peer knows `initial` bytes, to be kept at `target` bytes, at most
    /// [`H2_RECEIVE_WINDOW_BYTES_MAX`]. With a larger target the first update tells the peer so.
    pub fn new(initial: u32, target: u32) -> Self {
        Self {
            open: i64::from(initial),
            held: 0,
            target: target.min(H2_RECEIVE_WINDOW_BYTES_MAX),
        }
    }

    /// Bytes received and not released.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Takes a DATA frame's `flow_bytes`: padding too (RFC 9113 6.1). The padding, and what belongs
    /// to no stream any more, is to be released at once.
    ///
    /// # Errors
    /// The peer sent more than it was allowed (RFC 9113 6.9.1).
    pub fn receive(&mut self, flow_bytes: u32) -> Result<(), FlowError> {
        if i64::from(flow_bytes) > self.open {
            return Err(FlowError);
        }
        self.open -= i64::from(flow_bytes);
        self.held += flow_bytes;
        Ok(())
    }

    /// `bytes` were consumed, or thrown away.
    pub fn release(&mut self, bytes: u32) {
        debug_assert!(bytes <= self.held);
        self.held = self.held.saturating_sub(bytes);
    }

    /// Changes how much the window is kept at, up to [`H2_RECEIVE_WINDOW_BYTES_MAX`]: larger when
    /// the consumer keeps up, smaller when memory is short. What the peer was promised stays
    /// promised.
    pub fn set_target(&mut self, target: u32) {
        self.target = target.min(H2_RECEIVE_WINDOW_BYTES_MAX);
    }

    /// The peer acknowledged a SETTINGS_INITIAL_WINDOW_SIZE that this side changed from `old` to
    /// `new`; for a stream's window (RFC 9113 6.9.2).
    pub fn change_initial(&mut self, old: u32, new: u32) {
        self.open += i64::from(new) - i64::from(old);
    }

    /// The increment of a WINDOW_UPDATE that is due, which the caller now sends.
    pub fn poll_update(&mut self) -> Option<NonZeroU32> {
        let wanted = i64::from(self.target) - i64::from(self.held) - self.open;
        if wanted <= 0 || wanted < i64::from(self.target / 2) {
            return None;
        }
        // A window far below zero may need more than one update can carry.
        let increment = u32::try_from(wanted)
            .unwrap_or(u32::MAX)
            .min(WINDOW_BYTES_MAX);
        self.open += i64::from(increment);
        NonZeroU32::new(increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc9113_6_9_1_a_send_window_may_reach_but_not_pass_its_maximum() {
        let mut window = SendWindow::new(WINDOW_BYTES_INITIAL);
        assert_eq!(window.increase(WINDOW_BYTES_MAX - 65_535), Ok(()));
        assert_eq!(window.available(), WINDOW_BYTES_MAX);
        assert_eq!(window.increase(1), Err(FlowError));
        assert_eq!(window.available(), WINDOW_BYTES_MAX);
        window.consume(1);
        assert_eq!(window.increase(1), Ok(()));
    }

    #[test]
    fn rfc9113_6_9_2_a_smaller_initial_size_makes_a_window_negative() {
        let mut window = SendWindow::new(65_535);
        window.consume(60_000);
        assert_eq!(window.change_initial(65_535, 16_384), Ok(()));
        assert_eq!(window.available(), 0);
        // 5535 - 49151 = -43616.
        assert_eq!(window.increase(43_616), Ok(()));
        assert_eq!(window.available(), 0);
        assert_eq!(window.increase(1), Ok(()));
        assert_eq!(window.available(), 1);
    }

    #[test]
    fn rfc9113_6_9_2_an_initial_size_that_overflows_a_window_is_refused() {
        let mut window = SendWindow::new(0);
        window.increase(WINDOW_BYTES_MAX).unwrap();
        assert_eq!(window.change_initial(0, 1), Err(FlowError));
    }

    #[test]
    fn rfc9113_6_9_1_a_peer_must_not_overrun_the_window() {
        let mut window = ReceiveWindow::new(100, 100);
        assert_eq!(window.receive(60), Ok(()));
        assert_eq!(window.receive(41), Err(FlowError));
        assert_eq!(window.receive(40), Ok(()));
        assert_eq!(window.receive(1), Err(FlowError));
        // An empty frame is allowed in a closed window (6.9).
        assert_eq!(window.receive(0), Ok(()));
    }

    #[test]
    fn a_window_is_opened_again_once_half_of_it_is_released() {
        let mut window = ReceiveWindow::new(100, 100);
        window.receive(80).unwrap();
        assert_eq!(window.poll_update(), None);
        window.release(49);
        assert_eq!(window.poll_update(), None);
        window.release(1);
        assert_eq!(window.poll_update(), NonZeroU32::new(50));
        assert_eq!(window.poll_update(), None);
        assert_eq!(window.receive(71), Err(FlowError));
        assert_eq!(window.receive(70), Ok(()));
    }

    #[test]
    fn a_larger_target_is_told_and_a_smaller_one_lets_the_window_run_down() {
        let mut window = ReceiveWindow::new(WINDOW_BYTES_INITIAL, 1 << 20);
        assert_eq!(window.poll_update(), NonZeroU32::new((1 << 20) - 65_535));
        window.set_target(1000);
        window.receive(1 << 20).unwrap();
        window.release((1 << 20) - 600);
        assert_eq!(window.poll_update(), None);
        window.release(100);
        assert_eq!(window.poll_update(), NonZeroU32::new(500));
        window.set_target(u32::MAX);
        assert_eq!(window.target, H2_RECEIVE_WINDOW_BYTES_MAX);
    }

    #[test]
    fn a_target_of_one_byte_still_moves() {
        let mut window = ReceiveWindow::new(0, 1);
        assert_eq!(window.poll_update(), NonZeroU32::new(1));
        window.receive(1).unwrap();
        assert_eq!(window.poll_update(), None);
        window.release(1);
        assert_eq!(window.poll_update(), NonZeroU32::new(1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Receive(u32),
        Release(u32),
        Target(u32),
        Update,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..5000_u32).prop_map(Step::Receive),
            (0..5000_u32).prop_map(Step::Release),
            (1..20_000_u32).prop_map(Step::Target),
            Just(Step::Update),
        ]
    }

    proptest! {
        /// The peer's view and this side's agree, the memory bound holds, and once everything is
        /// released the peer always has at least half a window: no transfer stalls.
        #[test]
        fn windows_agree_and_never_stall(steps in prop::collection::vec(step(), 0..200)) {
            let mut receiver = ReceiveWindow::new(65_535, 10_000);
            let mut sender = SendWindow::new(65_535);
            let mut target_max = 65_535;
            for step in steps {
                match step {
                    Step::Receive(bytes) => {
                        let bytes = bytes.min(sender.available());
                        sender.consume(bytes);
                        prop_assert_eq!(receiver.receive(bytes), Ok(()));
                    }
                    Step::Release(bytes) => receiver.release(bytes.min(receiver.held())),
                    Step::Target(target) => {
                        receiver.set_target(target);
                        target_max = target_max.max(target);
                    }
                    Step::Update => {
                        if let Some(increment) = receiver.poll_update() {
                            prop_assert_eq!(sender.increase(increment.get()), Ok(()));
                        }
                    }
                }
                prop_assert_eq!(i64::from(sender.available()), receiver.open);
                prop_assert!(sender.available() + receiver.held() <= target_max);
            }
            receiver.release(receiver.held());
            if let Some(increment) = receiver.poll_update() {
                sender.increase(increment.get()).unwrap();
            }
            prop_assert!(sender.available() > receiver.target / 2);
        }
    }
}
