//! Steps of a stream without TLS.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use bytes::BytesMut;

use super::parts::{Parts, SLICES_MAX};
use super::receiving::Took;
use super::sending::Step;
use crate::buf;
use crate::error::Cause;
use crate::limits::TURN_BYTES_MAX;
use crate::sys;

/// Sends the next slices of `parts`.
pub(super) fn send(socket: BorrowedFd<'_>, parts: &mut Parts<'_>) -> Result<Step, Cause> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = parts.slices(&mut slices, TURN_BYTES_MAX);
    let sent = match slices.get(..count).unwrap_or_default() {
        // The kernel has less to read of it.
        [only] => sys::socket::send(socket, only, false),
        slices => sys::socket::send_vectored(socket, slices, false),
    };
    match sent {
        Ok(sent) => {
            parts.advance(sent);
            Ok(Step::Moved(sent))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Step::Blocked),
        Err(error) => Err(Cause::Io(error)),
    }
}

/// Receives what is there into `places`, one after the other.
pub(super) fn receive_into(
    socket: BorrowedFd<'_>,
    places: &mut [IoSliceMut<'_>],
) -> Result<Took, Cause> {
    match sys::socket::receive_vectored(socket, places) {
        Ok(0) => Ok(Took::End),
        Ok(data) => Ok(Took::Bytes {
            data,
            filled: data == places.iter().map(|place| place.len()).sum::<usize>(),
        }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Took::Nothing),
        Err(error) => Err(Cause::Io(error)),
    }
}

/// Receives what is there.
pub(super) fn receive(socket: BorrowedFd<'_>, into: &mut BytesMut) -> Result<Took, Cause> {
    buf::with_receive_scratch(|scratch| match sys::socket::receive(socket, scratch) {
        Ok(0) => Ok(Took::End),
        Ok(count) => {
            let filled = count == scratch.len();
            into.extend_from_slice(scratch.get(..count).unwrap_or_default());
            Ok(Took::Bytes {
                data: count,
                filled,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Took::Nothing),
        Err(error) => Err(Cause::Io(error)),
    })
}
