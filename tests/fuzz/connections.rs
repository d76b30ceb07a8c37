//! Whole HTTP/2 connections in both roles. The peer sends what the input says; this side is driven as
//! its driver does it. A mirror holds what is sent to the protocol, from what went both ways alone.

#[path = "connections/client.rs"]
mod client;
#[path = "connections/mirror.rs"]
mod mirror;
#[path = "connections/server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::BytesMut;
use portcullis::limits::{H2_CONTROL_BYTES_MAX, SEND_CHUNK_BYTES};
use portcullis::message::gather::{Gather, Part};
use portcullis::proto::h2::StreamId;
use portcullis::proto::h2::connection::{Connection, Room};
use portcullis::proto::h2::frame::PREFACE;

pub(crate) use client::{h2_client, h2_client_seeds};
pub(crate) use server::{h2_server, h2_server_seeds};

pub(crate) const WORDS: &[&[u8]] = &[
    // Frames of a script: DATA, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, GOAWAY.
    b"\x00\x01\x01\x05hello",
    b"\x01\x05\x03\x07\x82\x87\x84\x41\x01a\x88",
    b"\x03\x00\x01\x04\x00\x00\x00\x08",
    b"\x04\x00\x00\x06\x00\x04\x00\x00\x00\x09",
    b"\x04\x00\x00\x06\x00\x01\x00\x00\x00\x00",
    b"\x04\x00\x00\x06\x00\x03\x00\x00\x00\x01",
    b"\x08\x00\x01\x04\x00\x00\x40\x00",
    b"\x08\x00\x00\x04\x00\x01\x00\x00",
    b"\x07\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00",
    // Heads that are ready, content of some length, and what the driver does.
    b"\x0b\x00\x05\x00",
    b"\x0c\xff\x01\x00",
    b"\x80\x01",
    b"\x84\x40",
    b"\x89\x09",
    b"\x8f\x00",
];

/// One thing that happens.
enum Step {
    /// The peer sends this.
    Bytes(Vec<u8>),
    /// The driver does what the first number says, with the second.
    Act(u8, u8),
}

/// Makes `bytes` more of a body, where there is room. `promised` is what is still to be made of it,
/// `maker` who waits for room.
fn make_more(
    connection: &mut Connection<StreamId>,
    id: StreamId,
    bytes: usize,
    (promised, maker): (&mut Option<Option<usize>>, &mut Option<Waiting>),
) {
    let Some(left) = promised else {
        return;
    };
    let waiting = Waiting::new();
    let context = Context::from_waker(&waiting.waker);
    *maker = None;
    match connection.poll_room(id, &context) {
        Poll::Pending => *maker = Some(waiting),
        Poll::Ready(Room::Gone) => *promised = None,
        Poll::Ready(Room::More) => {
            if let Some(left) = left {
                *left = left.saturating_sub(bytes);
            }
            connection.push_chunk(id, vec![b'y'; bytes].into());
        }
    }
}

/// What the input says. An even first byte: the rest is sent as it is, in pieces, and in between the
/// driver does this and that. An odd one: the rest is a script, whose frames have the right lengths
/// whatever becomes of it. `heads` are those that a script sends by number.
fn steps(input: &[u8], heads: &[&[u8]]) -> Vec<Step> {
    match input.split_first() {
        None => Vec::new(),
        Some((&how, rest)) if how.is_multiple_of(2) => pieces(how, rest),
        Some((_, rest)) => script(rest, heads),
    }
}

fn pieces(how: u8, input: &[u8]) -> Vec<Step> {
    let mut state = u32::from(how) << 8 | 1;
    let mut next = || {
        // xorshift32 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    let mut steps = Vec::new();
    for piece in input.chunks(usize::from(how) / 2 + 1) {
        steps.push(Step::Bytes(piece.to_vec()));
        for _ in 0..next()[1] % 3 {
            let [kind, argument, ..] = next();
            steps.push(Step::Act(kind % LAST_ACT, argument));
        }
    }
    steps
}

/// A frame is four bytes (kind and cut, flags, stream, length) and its payload, an act two.
fn script(mut input: &[u8], heads: &[&[u8]]) -> Vec<Step> {
    let mut steps = Vec::new();
    while let [op, rest @ ..] = input {
        if op & 0x80 != 0 {
            let argument = rest.first().copied().unwrap_or(0);
            steps.push(Step::Act(op & 0x1f, argument));
            input = rest.get(1..).unwrap_or_default();
            continue;
        }
        let [flags, stream, length, rest @ ..] = rest else {
            break;
        };
        let (mut kind, mut flags) = (op & 0x0f, *flags);
        let (payload, rest) = rest.split_at(rest.len().min((*length).into()));
        let mut payload = payload.to_vec();
        match kind {
            10 => kind = 16,
            11 => {
                let pick = usize::from(flags >> 4) % heads.len();
                payload.splice(0..0, heads[pick].iter().copied());
                (kind, flags) = (1, flags & 1 | 4);
            }
            12 => {
                payload = vec![flags; usize::from(flags & 0x7f) * 8];
                (kind, flags) = (0, flags >> 7);
            }
            13 => {
                payload.clear();
                (kind, flags) = (4, 1);
            }
            _ => {}
        }
        let bytes = frame(kind, flags, (*stream).into(), &payload);
        match op >> 4 {
            0 => steps.push(Step::Bytes(bytes)),
            cut => {
                let cut = bytes.chunks(usize::from(cut) * 3);
                steps.extend(cut.map(|piece| Step::Bytes(piece.to_vec())));
            }
        }
        input = rest;
    }
    steps
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [.., l0, l1, l2] = payload.len().to_be_bytes();
    let mut frame = vec![l0, l1, l2, kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// What comes of `input` while nobody drives the connection: it does not depend on the pieces.
fn assert_pieces_change_nothing<T>(begun: impl Fn() -> Connection<T>, input: &[u8]) {
    let outcome = |piece: usize| {
        let mut connection = begun();
        let mut buffer = BytesMut::new();
        let mut error = None;
        for piece in input.chunks(piece) {
            buffer.extend_from_slice(piece);
            if let Err(found) = connection.handle_input(&mut buffer, 0) {
                connection.fail(&found);
                error = Some(found);
                break;
            }
        }
        let events = std::iter::from_fn(|| connection.poll_event());
        let events: Vec<String> = events.map(|event| format!("{event:?}")).collect();
        let sent = sent(&mut connection, 0);
        (error, events, sent, connection.is_finished())
    };
    let whole = outcome(input.len().max(1));
    assert_eq!(outcome(7), whole);
}

/// What one send takes; empty when there is nothing.
fn sent<T>(connection: &mut Connection<T>, now_ms: u64) -> Vec<u8> {
    let mut gather = Gather::default();
    let any = connection.poll_send(&mut gather, DATE, now_ms);
    assert_eq!(any, !gather.is_empty());
    let mut bytes = Vec::new();
    for index in 0..gather.pieces() {
        match gather.part(index) {
            Some(Part::Memory(text)) => bytes.extend_from_slice(text),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bytes.len(), gather.len());
    bytes
}

/// Whether a future would have been woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Who waits for something.
struct Waiting {
    flag: Arc<Flag>,
    waker: Waker,
}

impl Waiting {
    fn new() -> Self {
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(flag.clone());
        Self { flag, waker }
    }

    fn was_woken(&self) -> bool {
        self.flag.0.load(Ordering::Relaxed)
    }
}

/// A frame of a script.
fn line(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    [&[kind, flags, stream, length], payload].concat()
}

const DATE: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// Acts above are none of those that end a connection before its time.
const LAST_ACT: u8 = 16;

/// More than one send takes: a full buffer of answers, what one piece adds to it, and content.
const SENT_BYTES_MAX: usize = 2 * H2_CONTROL_BYTES_MAX + SEND_CHUNK_BYTES + 32 * 1024;

/// More rounds than anything takes that ends.
const ROUNDS_MAX: usize = 10_000;
