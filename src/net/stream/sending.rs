//! The sending direction: its path, what is queued before it, and single steps that never wait.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use super::parts::Parts;
use super::{Transport, kernel_tls, plain, user_tls};
use crate::buf::Held;
use crate::error::Cause;
use crate::limits::RECORDS_PER_STEP_MAX;
use crate::metrics::{self, Counter};
use crate::net::socket::Socket;
use crate::record::{
    AlertDescription, ContentType, SealError, Sealer, TrafficKeys, Version, encode,
};
use crate::sys;

/// Where sent bytes are protected.
pub(crate) enum SendPath {
    /// Nowhere: plain TCP.
    Plain,
    /// Here.
    UserTls(Box<Sealer>),
    /// In the kernel.
    KernelTls(kernel_tls::KernelSend),
}

/// What one step of sending did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The socket took so many bytes.
    Moved(usize),
    /// The socket has no room: wait until it is writable.
    Blocked,
}

/// The sending direction of a transport.
///
/// Order on the wire: `queue`, then `control`, then an owed KeyUpdate, then application data. So a
/// step of application data must find the first three settled.
pub(crate) struct Sending {
    pub(crate) path: SendPath,
    /// Sealed records (or the rest of one) that the socket had no room for.
    queue: Queue,
    /// Under kernel TLS: records that are not application data, to be sent.
    control: VecDeque<Control>,
    /// A KeyUpdate is to be sent and the key changed, because the peer asked or a key is used up.
    key_update_owed: bool,
    /// Application bytes sent so far; the offload policy looks at it.
    pub(crate) sent_bytes: u64,
    state: State,
}

impl Step {
    /// What a non-blocking call did.
    pub(crate) fn of(moved: io::Result<usize>) -> Result<Self, Cause> {
        match moved {
            Ok(bytes) => Ok(Self::Moved(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Self::Blocked),
            Err(error) => Err(Cause::Io(error)),
        }
    }
}

impl Sending {
    pub(super) fn plain() -> Self {
        Self::new(SendPath::Plain)
    }

    pub(super) fn user_tls(
        keys: TrafficKeys,
        records_max: u64,
        unsent: Vec<u8>,
    ) -> Result<Self, Cause> {
        let sealer = Sealer::new(keys, records_max).map_err(user_tls::key_cause)?;
        let mut sending = Self::new(SendPath::UserTls(Box::new(sealer)));
        sending.queue.hold_back(unsent);
        Ok(sending)
    }

    fn new(path: SendPath) -> Self {
        Self {
            path,
            queue: Queue::default(),
            control: VecDeque::new(),
            key_update_owed: false,
            sent_bytes: 0,
            state: State::Open,
        }
    }

    /// Whether application data may be sent now.
    pub(super) fn is_settled(&self) -> bool {
        self.queue.is_settled()
            && self.control.is_empty()
            && (!self.key_update_owed || self.has_open_record())
    }

    /// Whether the path may move to the kernel now: everything sealed here is sent, and no
    /// KeyUpdate is owed under the present key.
    pub(crate) fn is_at_record_boundary(&self) -> bool {
        self.queue.is_empty() && !self.key_update_owed
    }

    /// Sends the next chunk of `parts`.
    pub(super) fn step(
        &mut self,
        transport: &Transport,
        parts: &mut Parts<'_>,
    ) -> Result<Step, Cause> {
        if self.must_change_key(transport)? {
            return Ok(Step::Moved(0));
        }
        let left = parts.left();
        let socket = transport.socket.descriptor();
        let step = match &mut self.path {
            SendPath::Plain => plain::send(socket, parts),
            SendPath::UserTls(sealer) => {
                user_tls::seal_and_send(socket, sealer, parts, &mut self.queue)
            }
            SendPath::KernelTls(kernel) => kernel.send(socket, parts),
        };
        self.count_sent((left - parts.left()) as u64);
        step
    }

    /// Sends what comes before application data, one call's worth. After an error the stream can
    /// send nothing more: what failed may have been half done.
    pub(super) fn settle_step(&mut self, transport: &Transport) -> Result<Step, Cause> {
        self.check_usable()?;
        let step = self.try_settle(transport);
        self.state = if step.is_err() {
            State::Failed
        } else {
            self.state
        };
        step
    }

    fn try_settle(&mut self, transport: &Transport) -> Result<Step, Cause> {
        let socket = transport.socket.descriptor();
        if !self.queue.is_empty() {
            return self.queue.send(socket);
        }
        if let SendPath::KernelTls(kernel) = &mut self.path
            && let Some(control) = self.control.front()
        {
            let (content_type, payload) = control.record();
            let step = kernel.send_record(socket, content_type, payload)?;
            if step == Step::Blocked {
                return Ok(step);
            }
            if let Some(Control::KeyUpdate(_)) = self.control.pop_front() {
                kernel.change_key(transport, transport.next_send_keys()?)?;
            }
            return Ok(Step::Moved(0));
        }
        if self.key_update_owed && !self.has_open_record() {
            self.begin_key_update(transport)?;
        }
        Ok(Step::Moved(0))
    }

    /// Counts application bytes that were handed over.
    pub(crate) fn count_sent(&mut self, bytes: u64) {
        self.sent_bytes += bytes;
        metrics::add(Counter::BytesSent, bytes);
    }

    /// Bytes that were handed over and that TCP has not been given yet.
    ///
    /// # Errors
    /// When the connection is gone, or the kernel does not tell what its record layer holds.
    pub(super) fn held_bytes(&self, socket: &Socket) -> io::Result<u64> {
        match &self.path {
            SendPath::Plain | SendPath::UserTls(_) => Ok(self.queue.bytes.len() as u64),
            SendPath::KernelTls(kernel) => kernel.held_bytes(socket.descriptor()),
        }
    }

    /// From now on nothing is sent: a part of what was to be sent is missing, or nobody wants it.
    pub(super) fn give_up(&mut self) {
        self.state = State::Failed;
        self.queue = Queue::default();
        self.control.clear();
        self.key_update_owed = false;
    }

    /// A KeyUpdate will be sent before the next application data. After an alert that ends this
    /// direction nothing is (RFC 8446 6.1).
    pub(super) fn owe_key_update(&mut self) {
        self.key_update_owed = self.state == State::Open;
    }

    /// What was held back is now to be sent, like anything else that waits.
    pub(crate) fn hold_nothing_back(&mut self) {
        self.queue.is_held_back = false;
    }

    /// Announces the end, unless an alert has ended this direction already. The caller shuts the
    /// direction down as soon as it is sent.
    pub(super) fn queue_close_notify(&mut self) {
        self.queue_alert(AlertDescription::CloseNotify);
        self.queue.is_last = true;
    }

    /// Grows whenever the socket takes something.
    pub(super) fn progress(&self) -> u64 {
        self.sent_bytes.wrapping_add(self.queue.sent as u64)
    }

    /// The path and the queue behind it, for the steps of `net::send`.
    pub(crate) fn queue_mut(&mut self) -> (&mut SendPath, &mut Queue) {
        (&mut self.path, &mut self.queue)
    }

    /// Whether the key will have to be changed (or the stream ended) before the next chunk; begins
    /// the change when it can be made.
    pub(crate) fn must_change_key(&mut self, transport: &Transport) -> Result<bool, Cause> {
        self.check_usable()?;
        if self.state == State::Ended {
            return Err(Cause::Record("an alert has ended the connection"));
        }
        if self.records_left() > RECORDS_PER_STEP_MAX {
            return Ok(false);
        }
        if self.has_open_record() {
            // The step that goes on with the record is bounded; the next one asks again.
            return Ok(false);
        }
        if !self.can_change_key(transport) {
            metrics::count(Counter::KeyExhausted);
            // Not a close_notify: what is cut short must not look complete (RFC 8446 6.1).
            self.queue_alert(AlertDescription::InternalError);
            // One attempt: the stream is over, and a peer that reads nothing is not waited for.
            drop(self.settle_step(transport));
            return Err(Cause::KeyExhausted);
        }
        self.key_update_owed = true;
        Ok(true)
    }

    pub(crate) fn records_left(&self) -> u64 {
        match &self.path {
            SendPath::Plain => u64::MAX,
            SendPath::UserTls(sealer) => sealer.records_left(),
            SendPath::KernelTls(kernel) => kernel.records_left(),
        }
    }

    pub(crate) fn can_change_key(&self, transport: &Transport) -> bool {
        match &self.path {
            SendPath::Plain => true,
            SendPath::UserTls(sealer) => sealer.keys().version() == Version::Tls13,
            SendPath::KernelTls(_) => {
                transport.context.kernel.rekey && transport.schedule.borrow().is_some()
            }
        }
    }

    /// The failure itself was reported when it happened; whoever comes later learns that there was
    /// one.
    fn check_usable(&self) -> Result<(), Cause> {
        match self.state {
            State::Open | State::Ended => Ok(()),
            State::Failed => Err(Cause::Io(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn has_open_record(&self) -> bool {
        matches!(&self.path, SendPath::KernelTls(kernel) if kernel.has_open_record())
    }

    fn begin_key_update(&mut self, transport: &Transport) -> Result<(), Cause> {
        self.key_update_owed = false;
        metrics::count(Counter::KeyUpdatesSent);
        match &mut self.path {
            SendPath::Plain => Ok(()),
            SendPath::UserTls(sealer) => {
                // RFC 8446 4.6.3: the KeyUpdate itself goes out under the old key, and all that
                // follows under the new one.
                let message = encode::key_update(false);
                self.queue
                    .seal(sealer, ContentType::Handshake, &message)
                    .map_err(user_tls::seal_cause)?;
                sealer
                    .replace(transport.next_send_keys()?)
                    .map_err(user_tls::key_cause)
            }
            SendPath::KernelTls(_) => {
                let message = encode::key_update(false);
                self.control.push_back(Control::KeyUpdate(message));
                Ok(())
            }
        }
    }

    /// Queues an alert. All but no_renegotiation, a warning, end this direction (RFC 8446 6); nothing
    /// follows one that has.
    pub(super) fn queue_alert(&mut self, description: AlertDescription) {
        if self.state != State::Open {
            return;
        }
        if description != AlertDescription::NoRenegotiation {
            self.state = State::Ended;
        }
        let alert = encode::alert(description);
        match &mut self.path {
            SendPath::Plain => {}
            SendPath::UserTls(sealer) => {
                // Fails only when the key is used up beyond its reserve: then there is no key left
                // to tell the peer anything with, and the connection ends without an alert.
                let _ = self.queue.seal(sealer, ContentType::Alert, &alert);
            }
            SendPath::KernelTls(_) => self.control.push_back(Control::Alert(alert)),
        }
    }
}

/// Bytes that wait for room in the socket. The memory is given back when they are gone.
#[derive(Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    sent: usize,
    /// Nothing of it has been sent yet, and it may wait for company.
    is_held_back: bool,
    /// The FIN follows at once, and is to travel in the last segment: one of its own would cost both
    /// ends as much as one with data.
    is_last: bool,
    held: Held,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether other bytes may follow now: nothing waits but what is held back for them.
    fn is_settled(&self) -> bool {
        self.is_empty() || self.is_held_back
    }

    /// Keeps sealed records for the next send to take along.
    fn hold_back(&mut self, records: Vec<u8>) {
        self.held.set(records.len());
        self.is_held_back = !records.is_empty();
        self.bytes = records;
    }

    /// Hands `bytes` to the socket, behind what is held back, and keeps what it does not take. The
    /// queue must be settled.
    pub(crate) fn send_or_keep(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: &[u8],
    ) -> Result<Step, Cause> {
        debug_assert!(self.is_settled(), "bytes would overtake those that wait");
        if self.is_held_back {
            self.is_held_back = false;
            self.bytes.extend_from_slice(bytes);
            self.held.set(self.bytes.len());
            return self.send(socket);
        }
        let sent = match Step::of(sys::socket::send(socket, bytes, false))? {
            Step::Moved(sent) => sent,
            Step::Blocked => 0,
        };
        match bytes.get(sent..) {
            None | Some([]) => Ok(Step::Moved(sent)),
            Some(rest) => {
                self.bytes.extend_from_slice(rest);
                self.held.set(self.bytes.len());
                Ok(Step::Blocked)
            }
        }
    }

    /// Seals `payload` behind what waits.
    fn seal(
        &mut self,
        sealer: &mut Sealer,
        content_type: ContentType,
        payload: &[u8],
    ) -> Result<(), SealError> {
        sealer.seal_copy(&mut self.bytes, content_type, payload)?;
        self.is_held_back = false;
        self.held.set(self.bytes.len());
        Ok(())
    }

    fn send(&mut self, socket: BorrowedFd<'_>) -> Result<Step, Cause> {
        let rest = self.bytes.get(self.sent..).unwrap_or_default();
        let step = Step::of(sys::socket::send(socket, rest, self.is_last))?;
        let Step::Moved(sent) = step else {
            return Ok(step);
        };
        self.sent += sent;
        if self.sent == self.bytes.len() {
            *self = Self::default();
            return Ok(step);
        }
        // A part was taken, so there is no room for the rest: asking again would say so.
        Ok(Step::Blocked)
    }
}

enum Control {
    Alert([u8; 2]),
    KeyUpdate([u8; 5]),
}

impl Control {
    fn record(&self) -> (ContentType, &[u8]) {
        match self {
            Self::Alert(alert) => (ContentType::Alert, alert),
            Self::KeyUpdate(message) => (ContentType::Handshake, message),
        }
    }
}

/// Whether the direction can still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For everything.
    Open,
    /// Only to get rid of what is queued: an alert is the last of it.
    Ended,
    /// For nothing.
    Failed,
}
