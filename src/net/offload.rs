//! From user space to the kernel: when a direction's record layer moves, and how.
//!
//! A direction moves only at a record boundary and never comes back. Each step that can fail leaves
//! the direction where it was with its keys, so a refusal in the middle costs no byte.

use std::io;

use super::stream::{KernelReceive, KernelSend, ReceivePath};
use super::stream::{SendPath, Sending, Transport};
use crate::config::OffloadPolicy;
use crate::error::Cause;
use crate::limits::{RECORD_PLAINTEXT_BYTES_MAX, RECORDS_PER_STEP_MAX};
use crate::metrics::{self, Counter};
use crate::record::{TrafficKeys, Version};
use crate::sys;
use crate::sys::ktls::Direction;

/// Why a connection stayed in user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOffloaded {
    /// The kernel has no tls module.
    NoUlp,
    /// The kernel does not take the suite, or under [`OffloadPolicy::Auto`] only slowly.
    Suite,
    /// A setsockopt failed.
    Failed,
    /// The policy says never.
    Policy,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OffloadState {
    has_ulp: bool,
    /// The directions that stay in user space.
    refuses_sending: bool,
    refuses_receiving: bool,
    /// It has been counted with the reason why not all of it moved.
    is_counted: bool,
}

impl OffloadState {
    fn refuses(self, direction: Direction) -> bool {
        match direction {
            Direction::Send => self.refuses_sending,
            Direction::Receive => self.refuses_receiving,
        }
    }
}

impl Transport {
    /// Moves the sending direction to the kernel if a body of `body_bytes`, which begins now, makes that
    /// pay and it can be done. `bytes_min`: the bound of [`crate::config::Offload`] for bodies of its kind.
    pub(super) async fn offload_for_body(
        &self,
        body_bytes: u64,
        bytes_min: u64,
    ) -> Result<(), Cause> {
        if self.pays_for_body(body_bytes, bytes_min) {
            // The kernel can begin only behind what is sealed here.
            self.sending.borrow_mut().hold_nothing_back();
            self.settle().await?;
            self.offload_sending();
        }
        Ok(())
    }

    /// Whether a body of `body_bytes` makes it pay to move the sending direction to the kernel; see
    /// [`crate::config::Offload`]. Asked when bulk begins, and only then: small responses are what user
    /// space does better.
    fn pays_for_body(&self, body_bytes: u64, bytes_min: u64) -> bool {
        let offload = &self.context.offload;
        let sending = self.sending.borrow();
        offload.policy == OffloadPolicy::Auto
            && !self.offload_state.get().refuses_sending
            && matches!(sending.path, SendPath::UserTls(_))
            && (body_bytes >= bytes_min
                || sending.sent_bytes.saturating_add(body_bytes) >= offload.sent_bytes_min)
            && (self.context.kernel.rekey || has_records_for(&sending, body_bytes))
    }

    /// Goes on with a hand-over by [`OffloadPolicy::Always`] that found the socket full of what was
    /// sealed here.
    pub(super) fn continue_offload_sending(&self) {
        if self.context.offload.policy == OffloadPolicy::Always {
            self.offload_sending();
        }
    }

    /// Moves the sending direction to the kernel if that can be done now.
    pub(super) fn offload_sending(&self) {
        let mut sending = self.sending.borrow_mut();
        // The next body will ask again, or under `always` the next send.
        if self.offload_state.get().refuses_sending || !sending.is_at_record_boundary() {
            return;
        }
        let SendPath::UserTls(sealer) = &sending.path else {
            return;
        };
        let keys = sealer.keys();
        if self.move_to_kernel(Direction::Send, keys) {
            let socket = self.socket.descriptor();
            let kernel = KernelSend::new(socket, keys, self.context.records_per_key_max);
            sending.path = SendPath::KernelTls(kernel);
            metrics::count(Counter::OffloadedSend);
        }
    }

    /// Moves the receiving direction to the kernel, now or at the next record boundary.
    pub(super) fn offload_receiving(&self) {
        self.try_offload_receiving(&mut self.receiving.borrow_mut().path);
    }

    /// Goes on with a move of the receiving direction that waits for a record boundary.
    pub(super) fn continue_offload(&self, path: &mut ReceivePath) {
        if matches!(path, ReceivePath::UserTls(user) if user.wants_kernel) {
            self.try_offload_receiving(path);
        }
    }

    fn try_offload_receiving(&self, path: &mut ReceivePath) {
        let ReceivePath::UserTls(user) = path else {
            return;
        };
        user.wants_kernel = !self.offload_state.get().refuses_receiving;
        if !user.wants_kernel || !user.is_at_record_boundary() {
            return;
        }
        // What the socket holds already, the kernel will parse; what was read here is opened.
        if self.move_to_kernel(Direction::Receive, user.keys()) {
            *path = ReceivePath::KernelTls(Box::new(KernelReceive::new(user.take_machine())));
            metrics::count(Counter::OffloadedReceive);
        } else {
            user.wants_kernel = false;
        }
    }

    fn move_to_kernel(&self, direction: Direction, keys: &TrafficKeys) -> bool {
        let kernel = &self.context.kernel;
        if kernel.ulp.is_err() {
            self.not_offloaded(NotOffloaded::NoUlp);
            return false;
        }
        if self.offload_state.get().refuses(direction) {
            return false;
        }
        let is_not_worth_it =
            self.context.offload.policy == OffloadPolicy::Auto && kernel.is_slow(keys.suite());
        if is_not_worth_it || kernel.supports(keys.suite(), direction).is_err() {
            self.direction_not_offloaded(direction, NotOffloaded::Suite);
            return false;
        }
        let moved = self
            .attach_ulp()
            .and_then(|()| self.set_kernel_keys(direction, keys));
        if let Err(error) = &moved {
            tracing::debug!(?direction, %error, "the kernel refuses a connection's record layer");
            self.direction_not_offloaded(direction, NotOffloaded::Failed);
        }
        moved.is_ok()
    }

    fn attach_ulp(&self) -> io::Result<()> {
        let mut state = self.offload_state.get();
        if !state.has_ulp {
            sys::ktls::enable_ulp(self.socket.descriptor())?;
            state.has_ulp = true;
            self.offload_state.set(state);
        }
        Ok(())
    }

    /// Gives the kernel `keys` for `direction`: the first ones, or the next after a KeyUpdate.
    pub(super) fn set_kernel_keys(
        &self,
        direction: Direction,
        keys: &TrafficKeys,
    ) -> io::Result<()> {
        let keys = keys
            .to_kernel()
            .map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
        sys::ktls::set_keys(self.socket.descriptor(), direction, keys)
    }

    /// Counts, once per connection, why both its directions stay in user space.
    pub(super) fn not_offloaded(&self, reason: NotOffloaded) {
        self.direction_not_offloaded(Direction::Send, reason);
        self.direction_not_offloaded(Direction::Receive, reason);
    }

    /// One direction stays in user space; the other may move all the same.
    fn direction_not_offloaded(&self, direction: Direction, reason: NotOffloaded) {
        let mut state = self.offload_state.get();
        match direction {
            Direction::Send => state.refuses_sending = true,
            Direction::Receive => state.refuses_receiving = true,
        }
        let is_counted = std::mem::replace(&mut state.is_counted, true);
        self.offload_state.set(state);
        if is_counted {
            return;
        }
        metrics::count(match reason {
            NotOffloaded::NoUlp => Counter::NotOffloadedNoUlp,
            NotOffloaded::Suite => Counter::NotOffloadedSuite,
            NotOffloaded::Failed => Counter::NotOffloadedFailed,
            NotOffloaded::Policy => Counter::NotOffloadedPolicy,
        });
    }

    /// See [`super::stream::WriteHalf::is_nearly_exhausted`].
    pub(super) fn is_nearly_exhausted(&self) -> bool {
        let sending = self.sending.borrow();
        sending.records_left() < self.context.records_per_key_max / 8
            && !sending.can_change_key(self)
    }
}

/// Whether a kernel that cannot change the key could send `body_bytes` under it, and go on for a
/// while: in user space the key can be changed on the way.
fn has_records_for(sending: &Sending, body_bytes: u64) -> bool {
    let SendPath::UserTls(sealer) = &sending.path else {
        return false;
    };
    // TLS 1.2 cannot change it here either.
    let needed = body_bytes / RECORD_PLAINTEXT_BYTES_MAX as u64 + 4 * RECORDS_PER_STEP_MAX;
    sealer.keys().version() == Version::Tls12 || sealer.records_left() / 2 > needed
}
