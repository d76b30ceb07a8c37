//! One established connection: plain, TLS in user space, or TLS in the kernel, by the same calls.
//!
//! A stream has two independent halves over one shared `Transport`. Each direction has a path of
//! its own, because the kernel takes each direction over by itself: a file server gains from kernel
//! TLS when it sends and has little to gain when it receives. The paths' single steps are in
//! `plain`, `user_tls` and `kernel_tls`; they never wait. Waiting, deadlines and turns are here.

mod kernel_tls;
mod parts;
mod plain;
mod receiving;
mod sending;
mod user_tls;

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;

pub(super) use self::kernel_tls::{KernelReceive, KernelSend, kernel_receive_failure};
pub(super) use self::parts::Parts;
pub(super) use self::receiving::ReceivePath;
pub(super) use self::sending::{SendPath, Sending, Step};
pub(super) use self::user_tls::RecordWriter;

use self::receiving::Receiving;
use super::deadline::{Deadline, Expiry, Wait};
use super::file_threads::FileThreadsHandle;
use super::offload::{NotOffloaded, OffloadState};
use super::rt;
use super::socket::Socket;
use crate::config::{Offload, OffloadPolicy};
use crate::error::Cause;
use crate::limits::{RECORDS_PER_STEP_MAX, TURN_BYTES_MAX};
use crate::metrics::{self, Counter};
use crate::record::{Role, TrafficKeys};
use crate::sys;
use crate::sys::probe::KernelTls;

/// What every stream of a worker shares.
pub struct StreamContext {
    /// When to hand a direction to the kernel.
    pub offload: Offload,
    /// What this kernel can take over.
    pub kernel: KernelTls,
    /// How long a send may wait for room in the socket without any.
    pub send_progress: Duration,
    /// Records protected with one AES-GCM key.
    pub records_per_key_max: u64,
    /// Where cold file chunks are read.
    pub file_threads: FileThreadsHandle,
}

/// What a finished handshake leaves behind: everything the record layer needs.
pub struct TlsParts {
    /// Which side of the session is ours.
    pub role: Role,
    /// Keys for what we send, with the next sequence number.
    pub send: TrafficKeys,
    /// Keys for what we receive, with the next sequence number.
    pub receive: TrafficKeys,
    /// Derives the next keys; `None` for TLS 1.2, which cannot change them.
    pub schedule: Option<Box<dyn KeySchedule>>,
    /// Records of the handshake that may go out with the first data: session tickets.
    pub unsent: Vec<u8>,
    /// Bytes received after the handshake's last record: the beginning of what follows.
    pub received: Vec<u8>,
}

/// Derives the traffic keys that a KeyUpdate moves on to (RFC 8446 7.2).
pub trait KeySchedule {
    /// The next keys for what we send.
    ///
    /// # Errors
    /// When the TLS library refuses; the connection cannot go on.
    fn next_send(&mut self) -> Result<TrafficKeys, Cause>;

    /// The next keys for what we receive.
    ///
    /// # Errors
    /// When the TLS library refuses; the connection cannot go on.
    fn next_receive(&mut self) -> Result<TrafficKeys, Cause>;

    /// Remembers a server's session ticket (RFC 8446 4.6.1) for the next handshake with it.
    ///
    /// # Errors
    /// When it is malformed; the connection cannot go on.
    fn keep_ticket(&mut self, ticket: &[u8]) -> Result<(), Cause>;
}

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes were appended, at least one.
    Data(usize),
    /// Nothing more will come.
    Closed(Closure),
    /// The deadline passed while nothing came. More may still be received.
    Expired(Expiry),
}

/// What a send that does not wait did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtOnce {
    /// The socket has taken all of it.
    Sent,
    /// It is accepted, and a part waits for room: [`WriteHalf::send`] of nothing waits for that.
    Kept,
    /// Nothing was done: it is for [`WriteHalf::send`].
    Nothing,
}

/// How the peer ended its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closure {
    /// By close_notify under TLS, by FIN without TLS.
    Orderly,
    /// By FIN alone under TLS: what came may be cut short (RFC 8446 6.1).
    WithoutNotify,
}

/// An established connection.
pub struct Stream {
    transport: Rc<Transport>,
}

/// The receiving half of a stream.
pub struct ReadHalf {
    pub(super) transport: Rc<Transport>,
}

/// The sending half of a stream.
pub struct WriteHalf {
    pub(super) transport: Rc<Transport>,
}

impl Stream {
    /// A stream without TLS.
    pub fn plain(socket: Rc<Socket>, deadline: Rc<Deadline>, context: Rc<StreamContext>) -> Self {
        let (receiving, sending) = (Receiving::plain(), Sending::plain());
        Self::new(Transport::new(
            socket, deadline, context, receiving, sending, None,
        ))
    }

    /// A TLS stream after its handshake. It starts in user space and, when the policy is
    /// [`OffloadPolicy::Always`], moves to the kernel as far as it will go at once.
    ///
    /// # Errors
    /// When the keys cannot be used: a key of the wrong length.
    pub fn tls(
        socket: Rc<Socket>,
        deadline: Rc<Deadline>,
        context: Rc<StreamContext>,
        parts: TlsParts,
    ) -> Result<Self, Cause> {
        let records_max = context.records_per_key_max;
        let receiving = Receiving::user_tls(parts.receive, parts.received, parts.role)?;
        let sending = Sending::user_tls(parts.send, records_max, parts.unsent)?;
        let transport = Transport::new(
            socket,
            deadline,
            context,
            receiving,
            sending,
            parts.schedule,
        );
        transport.offload_at_start();
        Ok(Self::new(transport))
    }

    /// The two halves. The connection is closed when both are gone.
    pub fn into_halves(self) -> (ReadHalf, WriteHalf) {
        (
            ReadHalf {
                transport: self.transport.clone(),
            },
            WriteHalf {
                transport: self.transport,
            },
        )
    }

    fn new(transport: Transport) -> Self {
        Self {
            transport: Rc::new(transport),
        }
    }
}

impl ReadHalf {
    /// Receives what is there, waiting for the first byte, and appends it to `into`: at most one
    /// scratch buffer's worth ([`crate::limits::RECEIVE_CHUNK_BYTES`]). Control records are served
    /// on the way. After [`Received::Closed`] it gives the same again.
    ///
    /// The caller arms the deadline.
    ///
    /// # Errors
    /// A failed call, a fatal alert, or a record that breaks the protocol (the peer has been sent
    /// the alert that RFC 8446 6.2 names for it). Nothing can be received after an error.
    pub async fn receive(&mut self, into: &mut BytesMut) -> Result<Received, Cause> {
        let transport = &self.transport;
        loop {
            if transport.turn_is_over() {
                rt::yield_turn().await;
                // A peer that keeps the socket full is never waited for.
                if let Some(expiry) = transport.deadline.expired() {
                    return Ok(Received::Expired(expiry));
                }
            }
            if let Some(received) = transport.receive_step(into)? {
                return Ok(received);
            }
            let must_wait = transport.receiving.borrow().must_wait();
            if must_wait && let Some(expiry) = transport.wait_readable().await? {
                return Ok(Received::Expired(expiry));
            }
        }
    }

    /// As [`ReadHalf::receive`], without waiting: `None` when nothing is there.
    ///
    /// # Errors
    /// As [`ReadHalf::receive`].
    pub fn try_receive(&mut self, into: &mut BytesMut) -> Result<Option<Received>, Cause> {
        let transport = &self.transport;
        transport.receiving.borrow_mut().ready(true);
        loop {
            if let Some(received) = transport.receive_step(into)? {
                return Ok(Some(received));
            }
            let mut receiving = transport.receiving.borrow_mut();
            if receiving.must_wait() {
                // It was no readiness that brought nothing.
                receiving.fruitless = 0;
                return Ok(None);
            }
        }
    }

    /// Whether the peer has reset the connection after it had ended its direction, which no receive
    /// tells any more (tcp(7): a reset in CLOSE_WAIT is EPIPE for whoever asks).
    pub fn is_reset(&self) -> bool {
        self.transport.socket.take_error().is_some()
    }

    /// From now on what comes is taken off the socket unopened: for the lingering close after the
    /// record layer has failed. Under kernel TLS nothing more can be had.
    pub fn give_up_records(&mut self) {
        self.transport.receiving.borrow_mut().give_up_records();
    }

    /// The connection's deadline.
    pub fn deadline(&self) -> &Deadline {
        &self.transport.deadline
    }
}

impl WriteHalf {
    /// Sends all of `parts`, coalesced into full records, and waits until the socket has taken
    /// them.
    ///
    /// # Errors
    /// A failed call, no room for [`StreamContext::send_progress`], or a key that is used up and
    /// cannot be changed. Nothing can be sent after an error.
    pub async fn send(&mut self, parts: &[io::IoSlice<'_>]) -> Result<(), Cause> {
        let transport = &self.transport;
        transport.continue_offload_sending();
        let mut parts = Parts::new(parts);
        while parts.left() > 0 {
            transport.settle().await?;
            let step = transport.sending.borrow_mut().step(transport, &mut parts)?;
            transport.after(step).await?;
        }
        transport.settle().await
    }

    /// As [`WriteHalf::send`], without waiting and so without a future, where that can be: all of
    /// `parts` fits into one step of TLS in user space that has nothing to do before.
    ///
    /// # Errors
    /// As [`WriteHalf::send`].
    pub fn send_at_once(&mut self, parts: &[io::IoSlice<'_>]) -> Result<AtOnce, Cause> {
        let transport = &self.transport;
        let mut sending = transport.sending.borrow_mut();
        let mut parts = Parts::new(parts);
        let is_for_send = !sending.is_settled()
            || !matches!(sending.path, SendPath::UserTls(_))
            || parts.left() > user_tls::step_plaintext_max()
            || sending.records_left() <= RECORDS_PER_STEP_MAX
            || transport.context.offload.policy == OffloadPolicy::Always
            || transport.turn_bytes.get() >= TURN_BYTES_MAX;
        if is_for_send {
            return Ok(AtOnce::Nothing);
        }
        match sending.step(transport, &mut parts)? {
            Step::Moved(bytes) => {
                transport.count_turn(bytes);
                Ok(AtOnce::Sent)
            }
            Step::Blocked => Ok(AtOnce::Kept),
        }
    }

    /// Ends the sending direction: close_notify under TLS (unless a fatal alert has ended it
    /// already), then FIN. Everything sent before has been given to TCP by then.
    ///
    /// # Errors
    /// As [`WriteHalf::send`].
    pub async fn finish(&mut self) -> Result<(), Cause> {
        let transport = &self.transport;
        transport.settle().await?;
        transport.sending.borrow_mut().queue_close_notify();
        transport.settle().await?;
        transport.wait_until_passed_on().await?;
        transport.socket.shutdown(Shutdown::Write);
        Ok(())
    }

    /// Whether the sending key is nearly used up and cannot be changed (TLS 1.2, or a kernel
    /// without rekey), so that the connection should end at the next message boundary.
    pub fn is_nearly_exhausted(&self) -> bool {
        self.transport.is_nearly_exhausted()
    }

    /// Whether the kernel seals what is sent.
    pub fn is_in_kernel(&self) -> bool {
        matches!(self.transport.sending.borrow().path, SendPath::KernelTls(_))
    }

    /// The application bytes handed over for sending so far, those of a send that failed included.
    pub fn sent_bytes(&self) -> u64 {
        self.transport.sending.borrow().sent_bytes
    }

    /// The connection's deadline.
    pub fn deadline(&self) -> &Deadline {
        &self.transport.deadline
    }
}

/// What the two halves share. No borrow of a cell is held while a task waits.
pub(super) struct Transport {
    pub(super) socket: Rc<Socket>,
    pub(super) deadline: Rc<Deadline>,
    pub(super) context: Rc<StreamContext>,
    pub(super) receiving: RefCell<Receiving>,
    pub(super) sending: RefCell<Sending>,
    pub(super) schedule: RefCell<Option<Box<dyn KeySchedule>>>,
    pub(super) offload_state: Cell<OffloadState>,
    /// Bytes moved by direct calls since the last yield.
    turn_bytes: Cell<usize>,
    blocked: Cell<Blocked>,
}

/// The last wait for room, and those before it that brought none.
#[derive(Clone, Copy, Default)]
struct Blocked {
    /// [`Sending::progress`] when it began.
    progress: u64,
    since_ms: u64,
    fruitless: u32,
}

/// How much the kernel's record layer keeps from TCP.
enum Held {
    Exactly(u64),
    /// This much, or a little of what it was given last.
    AtLeast(u64),
}

impl Transport {
    fn new(
        socket: Rc<Socket>,
        deadline: Rc<Deadline>,
        context: Rc<StreamContext>,
        receiving: Receiving,
        sending: Sending,
        schedule: Option<Box<dyn KeySchedule>>,
    ) -> Self {
        Self {
            socket,
            deadline,
            context,
            receiving: RefCell::new(receiving),
            sending: RefCell::new(sending),
            schedule: RefCell::new(schedule),
            offload_state: Cell::new(OffloadState::default()),
            turn_bytes: Cell::new(0),
            blocked: Cell::new(Blocked::default()),
        }
    }

    fn offload_at_start(&self) {
        match self.context.offload.policy {
            OffloadPolicy::Always => {
                // The kernel can begin only behind what is sealed here.
                self.sending.borrow_mut().hold_nothing_back();
                self.send_owed();
                self.offload_sending();
                self.offload_receiving();
            }
            OffloadPolicy::Never => self.not_offloaded(NotOffloaded::Policy),
            OffloadPolicy::Auto => {}
        }
    }

    /// What has to be done after a step of sending, before the next.
    pub(super) async fn after(&self, step: Step) -> Result<(), Cause> {
        match step {
            Step::Moved(bytes) => {
                if bytes > 0 {
                    // The next wait for room is another one, whenever it comes.
                    self.blocked.set(Blocked::default());
                }
                self.count_turn(bytes);
                if self.turn_is_over() {
                    rt::yield_turn().await;
                }
                Ok(())
            }
            Step::Blocked => self.wait_for_room().await,
        }
    }

    /// Waits until a step of sending is worth trying after one that found no room. A socket can be
    /// writable and yet take nothing (memory short of a page): such waits in a row are paid for with
    /// growing pauses, and count as one.
    async fn wait_for_room(&self) -> Result<(), Cause> {
        let progress = self.sending.borrow().progress();
        let mut blocked = self.blocked.get();
        if blocked.fruitless == 0 || blocked.progress != progress {
            blocked = Blocked {
                progress,
                since_ms: self.deadline.now_ms(),
                fruitless: 0,
            };
        } else {
            self.check_send_progress(blocked.since_ms)?;
            rt::sleep(fruitless_pause(blocked.fruitless)).await;
        }
        self.wait_writable().await?;
        blocked.fruitless = blocked.fruitless.saturating_add(1);
        self.blocked.set(blocked);
        Ok(())
    }

    fn check_send_progress(&self, since_ms: u64) -> Result<(), Cause> {
        let waited_ms = self.deadline.now_ms().saturating_sub(since_ms);
        match u128::from(waited_ms) > self.context.send_progress.as_millis() {
            true => Err(self.send_timed_out()),
            false => Ok(()),
        }
    }

    /// Sends what is queued and owed (sealed bytes, alerts, a KeyUpdate), waiting for room.
    pub(super) async fn settle(&self) -> Result<(), Cause> {
        loop {
            // Nearly always there is nothing to settle: two loads.
            if self.sending.borrow().is_settled() {
                return Ok(());
            }
            let step = self.sending.borrow_mut().settle_step(self)?;
            self.after(step).await?;
        }
    }

    /// Waits until TCP has been given everything that was sent. The kernel's record layer takes whole
    /// records and passes on what there is no room for later, by a thread of its own; a FIN or
    /// close(2) before that would cut it off.
    async fn wait_until_passed_on(&self) -> Result<(), Cause> {
        let mut held_before = u64::MAX;
        let mut fruitless = 0;
        let mut progress_ms = self.deadline.now_ms();
        loop {
            let held = self.held().map_err(Cause::Io)?;
            match held {
                Held::Exactly(0) => return Ok(()),
                // The kernel's thread is at work within a moment of TCP having room.
                Held::AtLeast(0) if fruitless > IDLE_LOOKS => return Ok(()),
                Held::Exactly(bytes) | Held::AtLeast(bytes) => {
                    if bytes < held_before {
                        (held_before, fruitless) = (bytes, 0);
                        progress_ms = self.deadline.now_ms();
                    }
                }
            }
            self.check_send_progress(progress_ms)?;
            self.wait_writable().await?;
            if fruitless > 0 {
                rt::sleep(fruitless_pause(fruitless)).await;
            }
            fruitless += 1;
        }
    }

    /// What was handed over for sending and is not TCP's yet.
    fn held(&self) -> io::Result<Held> {
        match self.sending.borrow().held_bytes(&self.socket) {
            Ok(bytes) => Ok(Held::Exactly(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Err(error),
            // Linux 5.11 to 5.15 have ChaCha20-Poly1305 and do not tell its sequence number. While
            // TCP has something to send, so may the record layer.
            Err(_) => sys::socket::queued_bytes(self.socket.descriptor()).map(Held::AtLeast),
        }
    }

    async fn wait_writable(&self) -> Result<(), Cause> {
        let writable = pin!(self.socket.writable());
        let wait = self.deadline.to_send(self.context.send_progress, writable);
        match wait.await.map_err(Cause::Io)? {
            Wait::Ready { suspended } => self.waited(suspended),
            Wait::Expired(()) => return Err(self.send_timed_out()),
        }
        Ok(())
    }

    fn send_timed_out(&self) -> Cause {
        metrics::count(Counter::TimeoutsSend);
        // What the caller had still to send is lost: nothing may follow that hole.
        self.sending.borrow_mut().give_up();
        Cause::Timeout("timeouts.send_progress_ms")
    }

    /// Waits until a receive is worth trying, as long as the phase lasts.
    ///
    /// Under kernel TLS poll(2) may report a record of which a part has come (Linux 6.1 always, any
    /// kernel once the connection is half-closed), and a receive then finds nothing: such waits in a
    /// row are paid for with growing pauses, or the loop would spin.
    pub(super) async fn wait_readable(&self) -> Result<Option<Expiry>, Cause> {
        let pause = match self.receiving.borrow().fruitless {
            0 => None,
            many => Some(fruitless_pause(many)),
        };
        let ready = pin!(async {
            if let Some(pause) = pause {
                rt::sleep(pause).await;
            }
            self.socket.readable_again().await
        });
        let was_watched = self.socket.is_watched();
        match self.deadline.in_phase(ready).await.map_err(Cause::Io)? {
            Wait::Ready { suspended } => {
                self.waited(suspended);
                let is_sure = suspended || !was_watched;
                self.receiving.borrow_mut().ready(is_sure);
            }
            Wait::Expired(expiry) => return Ok(Some(expiry)),
        }
        Ok(None)
    }

    /// A wait that suspended the task gave the others their turn.
    fn waited(&self, suspended: bool) {
        if suspended {
            self.turn_bytes.set(0);
        }
    }

    /// Counts a direct call that moved `bytes`. A call costs as much as a page of bytes however
    /// little it moved.
    pub(super) fn count_turn(&self, bytes: usize) {
        self.turn_bytes
            .set(self.turn_bytes.get().saturating_add(bytes.max(4096)));
    }

    /// Whether this task has used its turn up; asking starts the next.
    pub(super) fn turn_is_over(&self) -> bool {
        let over = self.turn_bytes.get() >= TURN_BYTES_MAX;
        if over {
            self.turn_bytes.set(0);
        }
        over
    }
}

fn fruitless_pause(many: u32) -> Duration {
    FRUITLESS_PAUSE * (1 << many.min(FRUITLESS_DOUBLINGS_MAX))
}

/// The first pause after a readiness that brought nothing, doubled up to
/// [`FRUITLESS_DOUBLINGS_MAX`] times, to half a second: by then as much time has passed without it.
const FRUITLESS_PAUSE: Duration = Duration::from_micros(500);
const FRUITLESS_DOUBLINGS_MAX: u32 = 10;

/// Looks at an idle TCP, with growing pauses between, 60 ms in all, until the kernel's record layer
/// is taken to be idle as well; its thread works at once or, when it finds the socket in use, after
/// 10 ms (net/tls/tls_sw.c, tx_work_handler).
const IDLE_LOOKS: u32 = 6;
