//! Deadlines: what a connection waits for, and what is overdue.
//!
//! Nothing is looked through on the way of a frame. The clock knows a time before which nothing can
//! be due; it moves forward only when what is begun could be due earlier, and is found anew when it
//! passes.

use super::client::Lost;
use super::exchange::Failure;
use super::{Connection, Drain, Phase, Role, State};
use crate::limits::{H2_DRAIN_PING_MS, H2_SETTINGS_ACK_MS};
use crate::message::Status;
use crate::metrics::{self, Counter};
use crate::proto::h2::frame::{Frame, HEAD_BYTES};
use crate::proto::h2::{ConnectionError, ErrorCode, StreamId};

/// What a connection waits for, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Its first request.
    First {
        /// When that is too late.
        until_ms: u64,
    },
    /// The next request; none is under way, and a drain ends it.
    Idle {
        /// When that is too late.
        until_ms: u64,
    },
    /// Something that is under way. [`Connection::handle_timeout`] is to be called then.
    Busy {
        /// When something may be overdue.
        until_ms: u64,
    },
}

impl Wait {
    /// Until when it waits.
    pub fn until_ms(self) -> u64 {
        match self {
            Self::First { until_ms } | Self::Idle { until_ms } | Self::Busy { until_ms } => {
                until_ms
            }
        }
    }
}

/// What it means that time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// Nothing.
    No,
    /// A frame that is not complete.
    Frame(u64),
    /// A header block that is not complete.
    Block(u64),
}

#[derive(Debug)]
pub(super) struct Clock {
    begun_ms: u64,
    /// The time of the last call that told it.
    pub(super) now_ms: u64,
    /// Nothing is overdue before.
    look_ms: u64,
    /// When the last stream was closed, or the connection began.
    pub(super) idle_since_ms: u64,
    begun: Begun,
    /// When the last frame came.
    pub(super) last_frame_ms: u64,
    /// When a PING was sent that asks for a sign of life.
    pub(super) ping_sent_ms: Option<u64>,
}

impl Clock {
    pub(super) fn new(now_ms: u64, header_ms: u64) -> Self {
        Self {
            begun_ms: now_ms,
            now_ms,
            look_ms: now_ms + header_ms.min(H2_SETTINGS_ACK_MS),
            idle_since_ms: now_ms,
            begun: Begun::No,
            last_frame_ms: now_ms,
            ping_sent_ms: None,
        }
    }

    /// Something may be overdue at `due_ms`.
    pub(super) fn look_at(&mut self, due_ms: u64) {
        self.look_ms = self.look_ms.min(due_ms);
    }

    /// A whole frame has come.
    pub(super) fn handle_frame(&mut self, frame: &Frame<'_>, now_ms: u64) {
        self.last_frame_ms = now_ms;
        match (frame, self.begun) {
            (Frame::HeadersPart, Begun::Block(_)) => {}
            (Frame::HeadersPart, Begun::Frame(since_ms)) => self.begun = Begun::Block(since_ms),
            (Frame::HeadersPart, Begun::No) => self.begun = Begun::Block(now_ms),
            _ => self.begun = Begun::No,
        }
    }
}

impl<T> Connection<T> {
    /// What is waited for now.
    pub fn wait(&self) -> Wait {
        let state = &self.state;
        let clock = &state.clock;
        let header_ms = state.config.header_ms;
        let is_busy = !state.streams.is_empty()
            || state.drain != Drain::No
            || clock.begun != Begun::No
            || state.phase == Phase::Finished;
        if is_busy {
            // The last stream may end while nothing comes; idleness is then looked for in time.
            let idle_ms = clock.now_ms + state.config.idle_ms;
            return Wait::Busy {
                until_ms: clock.look_ms.min(idle_ms),
            };
        }
        match state.opened {
            0 => Wait::First {
                until_ms: clock.begun_ms + header_ms,
            },
            _ => Wait::Idle {
                until_ms: clock.idle_since_ms + state.config.idle_ms,
            },
        }
    }

    /// Does what is due at `now_ms`: streams that make no progress are answered or reset, and a
    /// drain goes on.
    ///
    /// # Errors
    /// The connection itself makes none: [`Connection::fail`] is to follow.
    pub fn handle_timeout(&mut self, now_ms: u64) -> Result<(), ConnectionError> {
        let state = &mut self.state;
        state.clock.now_ms = now_ms;
        if now_ms < state.clock.look_ms {
            return Ok(());
        }
        let mut next_ms = NEVER_MS;
        state.check_connection(now_ms, &mut next_ms)?;
        state.check_streams(now_ms, &mut next_ms);
        state.clock.look_ms = next_ms;
        Ok(())
    }
}

impl<T> State<T> {
    fn check_connection(&mut self, now_ms: u64, next_ms: &mut u64) -> Result<(), ConnectionError> {
        if self.has_input_ended {
            return Ok(());
        }
        if let Some(sent_ms) = self.local.awaited_since_ms()
            && is_due(sent_ms + H2_SETTINGS_ACK_MS, now_ms, next_ms)
        {
            let reason = "SETTINGS were not acknowledged in time";
            return Err(ConnectionError::new(ErrorCode::SettingsTimeout, reason));
        }
        if let Begun::Frame(since_ms) | Begun::Block(since_ms) = self.clock.begun
            && is_due(since_ms + self.config.header_ms, now_ms, next_ms)
        {
            metrics::count(Counter::TimeoutsHeader);
            let reason = "timeouts.header_ms passed before a frame or header block was complete";
            return Err(ConnectionError::new(ErrorCode::EnhanceYourCalm, reason));
        }
        self.check_liveness(now_ms, next_ms)?;
        if let Drain::Announced { since_ms } = self.drain
            && is_due(since_ms + H2_DRAIN_PING_MS, now_ms, next_ms)
        {
            self.name_last_stream();
        }
        Ok(())
    }

    fn check_streams(&mut self, now_ms: u64, next_ms: &mut u64) {
        if self.is_client() {
            self.check_responses(now_ms, next_ms);
        }
        let is_server = self.role == Role::Server;
        let config = self.config;
        let connection_stalls = self.send_window.available() == 0;
        let (mut stalled, mut idle): (Vec<StreamId>, Vec<StreamId>) = Default::default();
        for stream in self.streams.iter_mut() {
            let stalls = connection_stalls || stream.send.available() == 0;
            let id = stream.id();
            let exchange = &mut stream.data;
            // Once its response has begun a request is a conversation, whose silences are timed by
            // whoever responds.
            if is_server && exchange.reader.is_some() && !exchange.outgoing.has_begun {
                let progress_ms = exchange.body_progress_ms + config.body_progress_ms;
                if is_due(exchange.opened_ms + config.body_ms, now_ms, next_ms) {
                    metrics::count(Counter::TimeoutsBody);
                    exchange.fail(BODY_TOO_SLOW);
                } else if is_due(progress_ms, now_ms, next_ms) {
                    metrics::count(Counter::TimeoutsBody);
                    exchange.fail(BODY_STALLED);
                }
            }
            if let Some(idle_ms) = exchange.tunnel_idle_ms {
                let moved_ms = exchange.body_progress_ms.max(exchange.send_progress_ms);
                if is_due(moved_ms + idle_ms, now_ms, next_ms) {
                    metrics::count(Counter::TimeoutsIdle);
                    idle.push(id);
                    continue;
                }
            }
            // Those behind others in the schedule wait for us, not for the client.
            if exchange.outgoing.head.is_none() && exchange.outgoing.has_content() {
                let due_ms = exchange.send_progress_ms + config.send_progress_ms;
                if !stalls {
                    exchange.send_progress_ms = now_ms;
                    *next_ms = (*next_ms).min(now_ms + config.send_progress_ms);
                } else if is_due(due_ms, now_ms, next_ms) {
                    stalled.push(id);
                }
            } else if exchange.outgoing.has_begun {
                *next_ms = (*next_ms).min(now_ms + config.send_progress_ms);
            }
        }
        for id in idle {
            self.reset(id, ErrorCode::Cancel);
        }
        for id in stalled {
            if self.is_client() {
                let lost = Lost::Timeout("timeouts.send_progress_ms");
                self.give_up(id, ErrorCode::Cancel, lost);
                continue;
            }
            // A window that is never opened holds a response in memory (RFC 9113 10.5).
            metrics::count(Counter::TimeoutsSend);
            metrics::count(Counter::Http2StreamsReset);
            self.reset(id, ErrorCode::Cancel);
        }
    }

    /// `rest` of the input is the beginning of a frame, or nothing.
    pub(super) fn note_partial(&mut self, rest: &[u8], now_ms: u64) {
        if rest.is_empty() {
            if matches!(self.clock.begun, Begun::Frame(_)) {
                self.clock.begun = Begun::No;
            }
        } else if let Some(id) = data_of(rest)
            && let Some(stream) = self.streams.get(id)
        {
            // Each byte of content is progress of its stream, whose own deadlines bound it.
            stream.data.body_progress_ms = now_ms;
            return;
        } else if self.clock.begun == Begun::No {
            self.clock.begun = Begun::Frame(now_ms);
        }
        if self.clock.begun != Begun::No {
            self.clock.look_at(now_ms + self.config.header_ms);
        }
    }
}

/// Whether `due_ms` has passed; else it is the next thing to look at if it is the nearest.
pub(super) fn is_due(due_ms: u64, now_ms: u64, next_ms: &mut u64) -> bool {
    if due_ms > now_ms {
        *next_ms = (*next_ms).min(due_ms);
        return false;
    }
    true
}

/// The stream, if what `begun` begins is DATA.
fn data_of(begun: &[u8]) -> Option<StreamId> {
    let head = begun.first_chunk::<HEAD_BYTES>()?;
    let [_, _, _, kind, _, id @ ..] = *head;
    (kind == 0).then_some(u32::from_be_bytes(id) & 0x7fff_ffff)
}

const BODY_STALLED: Failure = Failure {
    status: Status(408),
    reason: "timeouts.body_progress_ms passed without a byte",
    timeout: Some("timeouts.body_progress_ms"),
};

const BODY_TOO_SLOW: Failure = Failure {
    status: Status(408),
    reason: "timeouts.body_ms passed before the body was complete",
    timeout: Some("timeouts.body_ms"),
};

/// Far enough to add to, and never reached.
pub(super) const NEVER_MS: u64 = u64::MAX / 2;
