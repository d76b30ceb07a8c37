//! Bytes from a connection without TLS to one that is sealed here: received where they are sealed.
//!
//! The worker's send scratch is laid out as records, the kernel fills their payload places, and each is
//! sealed where it lies: no byte is copied in user space.

use super::stream::{ReceivePath, Received, RecordWriter, SendPath, Sending, Step, Transport};
use crate::buf;
use crate::error::Cause;

/// What a step did.
pub(super) struct Passed {
    /// What was received, as of [`Transport::receive_step`]. The bytes are sealed, and the socket has
    /// them or they wait for room.
    pub(super) received: Option<Received>,
    /// What the sending side did, or how it failed.
    pub(super) sent: Result<Step, Cause>,
}

/// Whether what comes over one can be received where it is sealed for the other.
pub(super) fn is_possible(from: &Transport, to: &Transport) -> bool {
    matches!(from.receiving.borrow().path, ReceivePath::Plain)
        && matches!(to.sending.borrow().path, SendPath::UserTls(_))
}

/// Receives what is there, at most `bytes_max`, and seals and sends it; with the first of it goes
/// `head`, at most [`super::send::HEAD_BYTES_MAX`] of it, which stays when nothing comes. `to` must be
/// settled. Does not wait.
///
/// # Errors
/// A failure of the side that is received from.
pub(super) fn step(
    from: &Transport,
    to: &Transport,
    head: &mut Vec<u8>,
    bytes_max: u64,
) -> Result<Passed, Cause> {
    let mut sending = to.sending.borrow_mut();
    match sending.must_change_key(to) {
        Ok(false) => sending.pass_step(from, to, head, bytes_max),
        Ok(true) => Ok(Passed {
            received: None,
            sent: Ok(Step::Moved(0)),
        }),
        Err(cause) => Ok(Passed {
            received: None,
            sent: Err(cause),
        }),
    }
}

impl Sending {
    fn pass_step(
        &mut self,
        from: &Transport,
        to: &Transport,
        head: &mut Vec<u8>,
        bytes_max: u64,
    ) -> Result<Passed, Cause> {
        let (SendPath::UserTls(sealer), queue) = self.queue_mut() else {
            return Err(Cause::Internal("nothing is sealed here"));
        };
        let head_bytes = head.len();
        let mut sent = Ok(Step::Moved(0));
        let received = buf::with_send_scratch(|scratch| {
            let mut records = RecordWriter::new(sealer, scratch);
            let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
            let mut places = records.places_behind(head, bytes_max);
            let received = from.receive_step_into(&mut places);
            drop(places);
            if let Ok(Some(Received::Data(bytes))) = received {
                sent = records
                    .seal_front(head_bytes + bytes)
                    .and_then(|()| queue.send_or_keep(to.socket.descriptor(), records.sealed()));
            }
            received
        })?;
        if let Some(Received::Data(bytes)) = received {
            self.count_sent((head_bytes + bytes) as u64);
            head.clear();
        }
        Ok(Passed { received, sent })
    }
}
