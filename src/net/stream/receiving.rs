//! The receiving direction: its path and single steps that never wait.

use std::io::{self, IoSliceMut};

use bytes::BytesMut;

use super::kernel_tls::KernelReceive;
use super::user_tls::UserReceive;
use super::{Closure, Received, Transport, plain};
use crate::error::Cause;
use crate::metrics::{self, Counter};
use crate::record::{AlertDescription, PostHandshake, ProtocolError, Role, TrafficKeys};

/// Where received bytes are opened.
pub(crate) enum ReceivePath {
    /// Nowhere: plain TCP.
    Plain,
    /// Here.
    UserTls(Box<UserReceive>),
    /// In the kernel.
    KernelTls(Box<KernelReceive>),
}

/// The receiving direction of a transport.
pub(crate) struct Receiving {
    pub(crate) path: ReceivePath,
    closed: Option<Closure>,
    /// A receive has failed: where the next record begins is unknown.
    has_failed: bool,
    /// Receives in a row that found nothing although the socket was said to be readable.
    pub(super) fruitless: u32,
    /// A receive is worth trying: the socket was readable, or the last receive filled its buffer.
    likely_more: bool,
    /// A receive is tried, and what made the socket readable may have been received before it.
    is_unsure: bool,
}

/// What one receive took from the socket.
pub(super) enum Took {
    /// `data` bytes for the reader (none when only control records came); `filled` when the call
    /// may have left more.
    Bytes { data: usize, filled: bool },
    /// close_notify, after `data` bytes for the reader.
    CloseNotify { data: usize },
    /// End of stream.
    End,
    /// Nothing is there.
    Nothing,
}

impl Receiving {
    pub(super) fn plain() -> Self {
        Self::new(ReceivePath::Plain)
    }

    pub(super) fn user_tls(
        keys: TrafficKeys,
        received: Vec<u8>,
        role: Role,
    ) -> Result<Self, Cause> {
        let user = UserReceive::new(keys, received, role)?;
        Ok(Self::new(ReceivePath::UserTls(Box::new(user))))
    }

    fn new(path: ReceivePath) -> Self {
        Self {
            path,
            closed: None,
            has_failed: false,
            fruitless: 0,
            likely_more: false,
            is_unsure: false,
        }
    }

    /// Whether the socket must become readable before the next step.
    pub(super) fn must_wait(&self) -> bool {
        !self.likely_more && !self.has_buffered()
    }

    /// As [`Receiving::must_wait`], and nothing is left to be told either.
    pub(in crate::net) fn must_wait_in_tunnel(&self) -> bool {
        self.must_wait() && self.closed.is_none() && !self.has_failed
    }

    /// A splice took bytes off the socket, and may have left more.
    pub(in crate::net) fn found_something(&mut self) {
        self.fruitless = 0;
        self.likely_more = true;
    }

    /// A splice found nothing. `was_ready`: although the socket had just become readable.
    pub(in crate::net) fn found_nothing(&mut self, was_ready: bool) {
        let is_sure = !std::mem::take(&mut self.is_unsure);
        self.fruitless = self
            .fruitless
            .saturating_add(u32::from(was_ready && is_sure));
        self.likely_more = false;
    }

    /// The socket has become readable; not `is_sure`: at some time since the last wait.
    pub(super) fn ready(&mut self, is_sure: bool) {
        self.likely_more = true;
        self.is_unsure = !is_sure;
    }

    pub(super) fn give_up_records(&mut self) {
        if matches!(self.path, ReceivePath::UserTls(_)) {
            *self = Self::plain();
        }
    }

    pub(super) fn has_buffered(&self) -> bool {
        match &self.path {
            ReceivePath::UserTls(user) => user.has_unopened(),
            ReceivePath::Plain | ReceivePath::KernelTls(_) => false,
        }
    }
}

impl Transport {
    /// Receives once; `None` when nothing for the reader came.
    pub(in crate::net) fn receive_step(
        &self,
        into: &mut BytesMut,
    ) -> Result<Option<Received>, Cause> {
        self.receive_step_by(|path| match path {
            ReceivePath::Plain => plain::receive(self.socket.descriptor(), into),
            ReceivePath::UserTls(user) => user.receive(self, into),
            ReceivePath::KernelTls(kernel) => kernel.receive(self, into),
        })
    }

    /// As [`Transport::receive_step`] of a connection without TLS, into `places`, one after the other.
    pub(in crate::net) fn receive_step_into(
        &self,
        places: &mut [IoSliceMut<'_>],
    ) -> Result<Option<Received>, Cause> {
        self.receive_step_by(|path| match path {
            ReceivePath::Plain => plain::receive_into(self.socket.descriptor(), places),
            ReceivePath::UserTls(_) | ReceivePath::KernelTls(_) => {
                Err(Cause::Internal("a receive past the record layer"))
            }
        })
    }

    fn receive_step_by(
        &self,
        receive: impl FnOnce(&mut ReceivePath) -> Result<Took, Cause>,
    ) -> Result<Option<Received>, Cause> {
        let mut receiving = self.receiving.borrow_mut();
        if let Some(closure) = receiving.closed {
            return Ok(Some(Received::Closed(closure)));
        }
        if receiving.has_failed {
            return Err(Cause::Io(io::ErrorKind::BrokenPipe.into()));
        }
        if receiving.must_wait() {
            return Ok(None);
        }
        let took = receive(&mut receiving.path);
        receiving.has_failed = took.is_err();
        let took = took?;
        let is_sure = !std::mem::take(&mut receiving.is_unsure);
        receiving.fruitless = match took {
            Took::Nothing => receiving.fruitless.saturating_add(u32::from(is_sure)),
            Took::Bytes { .. } | Took::CloseNotify { .. } | Took::End => 0,
        };
        let data = match took {
            Took::Bytes { data, filled } => {
                receiving.likely_more = filled;
                // What filled its buffer may have been all: to find nothing next is no vain readiness.
                receiving.is_unsure = filled;
                data
            }
            Took::CloseNotify { data } => {
                receiving.closed = Some(Closure::Orderly);
                data
            }
            Took::End => {
                receiving.closed = Some(end_of_stream(&receiving.path));
                0
            }
            Took::Nothing => {
                receiving.likely_more = false;
                return Ok(None);
            }
        };
        if !matches!(receiving.path, ReceivePath::UserTls(_)) {
            self.count_turn(data);
        }
        metrics::add(Counter::BytesReceived, data as u64);
        self.continue_offload(&mut receiving.path);
        Ok(match (data, receiving.closed) {
            (0, None) => None,
            (0, Some(closure)) => Some(Received::Closed(closure)),
            (data, _) => Some(Received::Data(data)),
        })
    }

    /// The keys after a KeyUpdate of the peer, and the reply if it asked for one: owed, and sent at
    /// once if the sending side has room and is at a record boundary.
    ///
    /// Asked for a reply that cannot be given (a kernel before 6.14 sends), the connection ends with
    /// an alert under the present key: RFC 8446 4.6.3 leaves no choice to go on without one.
    pub(super) fn on_key_update(&self, reply: bool) -> Result<TrafficKeys, Cause> {
        metrics::count(Counter::KeyUpdatesReceived);
        if reply && !self.sending.borrow().can_change_key(self) {
            return Err(self.give_up_on_rekey());
        }
        let keys = self.next_receive_keys()?;
        if reply {
            self.sending.borrow_mut().owe_key_update();
            self.send_owed();
        }
        Ok(keys)
    }

    /// Gives the TLS library the session tickets that have come.
    pub(super) fn keep_tickets(&self, machine: &mut PostHandshake) -> Result<(), Cause> {
        for ticket in machine.take_tickets() {
            if let Some(schedule) = &mut *self.schedule.borrow_mut()
                && schedule.keep_ticket(&ticket).is_err()
            {
                return Err(self.refuse(&MALFORMED_TICKET));
            }
        }
        Ok(())
    }

    /// Tells the peer why the connection ends, and makes the error of it.
    pub(super) fn refuse(&self, error: &ProtocolError) -> Cause {
        self.send_alert(error.alert);
        Cause::Record(error.reason)
    }

    /// The peer gave up: RFC 8446 6.2 lets nothing more be sent.
    pub(super) fn given_up(&self, description: AlertDescription) -> Cause {
        self.sending.borrow_mut().give_up();
        Cause::AlertReceived(description.into())
    }

    /// Ends the connection because this kernel lacks what the peer may rightly ask for.
    pub(super) fn give_up_on_rekey(&self) -> Cause {
        self.send_alert(AlertDescription::InternalError);
        Cause::NoRekey
    }

    /// Sends an alert as far as the socket has room; the rest goes before the next data.
    pub(in crate::net) fn send_alert(&self, description: AlertDescription) {
        self.sending.borrow_mut().queue_alert(description);
        self.send_owed();
    }

    pub(super) fn next_send_keys(&self) -> Result<TrafficKeys, Cause> {
        match &mut *self.schedule.borrow_mut() {
            Some(schedule) => schedule.next_send(),
            None => Err(NO_SCHEDULE),
        }
    }

    fn next_receive_keys(&self) -> Result<TrafficKeys, Cause> {
        match &mut *self.schedule.borrow_mut() {
            Some(schedule) => schedule.next_receive(),
            None => Err(NO_SCHEDULE),
        }
    }

    /// Sends owed records as far as the socket has room now. What remains meets the sender in its
    /// next step, and so does an error: it leaves the sending side failed.
    pub(super) fn send_owed(&self) {
        let mut sending = self.sending.borrow_mut();
        while !sending.is_settled() {
            if !matches!(sending.settle_step(self), Ok(super::Step::Moved(_))) {
                break;
            }
        }
    }
}

/// FIN. Under TLS it may be an attacker's: RFC 8446 6.1 wants close_notify first.
fn end_of_stream(path: &ReceivePath) -> Closure {
    if matches!(path, ReceivePath::Plain) {
        return Closure::Orderly;
    }
    metrics::count(Counter::ClosedWithoutNotify);
    Closure::WithoutNotify
}

/// RFC 8446 4.6.3 is TLS 1.3's; the machine above the records lets no KeyUpdate through in 1.2.
const NO_SCHEDULE: Cause = Cause::Internal("TLS 1.2 cannot change keys");

const MALFORMED_TICKET: ProtocolError =
    ProtocolError::new(AlertDescription::DecodeError, "malformed session ticket");

/// Whether `error` says that nothing is there yet.
pub(super) fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
