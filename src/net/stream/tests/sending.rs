//! What is sent: coalesced, bounded in turns and in memory, and refused after a failure.

use std::future::poll_fn;
use std::io::IoSlice;
use std::task::Poll;

use super::{SHAPES, TLS13};
use crate::buf;
use crate::error::Cause;
use crate::limits::{
    ALIASED_BYTES, PAGE_BYTES, RECORD_PLAINTEXT_BYTES_MAX, SEND_CHUNK_BYTES, TURN_BYTES_MAX,
};
use crate::metrics::Counter;
use crate::net::stream::RecordWriter;
use crate::net::stream::testing::{
    Setup, counting, counting_turns, join, keys, on_each_driver, pattern, while_time_flies,
};
use crate::record::{ContentType, Sealer};
use crate::sys::test_support::Signal;

#[test]
fn slices_are_coalesced_into_full_records() {
    let data = pattern(3 * RECORD_PLAINTEXT_BYTES_MAX + 7);
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                // Empty slices between, and more slices than one vectored call takes.
                let slices: Vec<_> = data
                    .chunks(999)
                    .flat_map(|chunk| [IoSlice::new(chunk), IoSlice::new(&[])])
                    .collect();
                served.write.send(&slices).await.unwrap();
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                for record in data.chunks(RECORD_PLAINTEXT_BYTES_MAX) {
                    let record = (ContentType::ApplicationData, record.to_vec());
                    assert!(peer.next() == Some(record));
                }
                peer.expect_close_notify();
            },
        );
    }
}

/// Wherever a file's bytes begin and whatever is in front of them and of each frame, none of them is
/// copied to just behind where it lies in its page.
#[test]
fn files_are_read_to_where_the_copy_is_fast() {
    for suite in SHAPES {
        let mut sealer = Sealer::new(keys(suite, 0, 0), u64::MAX).unwrap();
        for (front, offset, frame_head) in [0, 9, 213, 9000]
            .into_iter()
            .flat_map(|front| (0..4096).map(move |offset| (front, offset)))
            .flat_map(|(front, offset)| [0, 9].map(|frame_head| (front, offset, frame_head)))
        {
            let slow = buf::with_send_scratch(|scratch| {
                let mut records = RecordWriter::new(&mut sealer, scratch);
                records.keep_apart(front, offset);
                let mut at = usize::try_from(offset).unwrap();
                let places = records.places_behind(&vec![0; front], SEND_CHUNK_BYTES - front);
                assert!(places.len() >= SEND_CHUNK_BYTES / RECORD_PLAINTEXT_BYTES_MAX);
                let mut ahead = Vec::new();
                for (index, place) in places.iter().enumerate() {
                    // The first frame's head is part of what is in front.
                    let head = if index == 0 { 0 } else { frame_head };
                    let address = place.as_ptr().addr() + head;
                    ahead.push(address.wrapping_sub(at) % PAGE_BYTES);
                    at += place.len() - head;
                }
                ahead.retain(|bytes| (1..ALIASED_BYTES).contains(bytes));
                ahead
            });
            assert!(slow.is_empty(), "{slow:?}: {front} in front of {offset}");
        }
    }
}

#[test]
fn bulk_arrives_exactly_at_a_slow_reader() {
    let data = pattern(4 * 1024 * 1024 + 5);
    for setup in [
        Setup::plain(),
        Setup::user(0),
        Setup::user(3),
        Setup::user(5),
    ] {
        on_each_driver(
            &setup.with_small_buffers(),
            async |mut served| served.send(&data).await.unwrap(),
            |mut peer| assert!(peer.receive_exactly(data.len()) == data),
        );
    }
}

/// As many turns as budgets are used up, whether the socket had room all the time or never.
#[test]
fn a_fast_reader_does_not_starve_other_tasks() {
    let data = pattern(16 * TURN_BYTES_MAX);
    for setup in [Setup::user(TLS13), Setup::plain()] {
        on_each_driver(
            &setup,
            async |mut served| {
                let data = data.clone();
                let bytes = data.len();
                let turns = counting_turns(async move { served.send(&data).await.unwrap() }).await;
                assert!(turns >= bytes / TURN_BYTES_MAX - 1, "{turns}");
            },
            |mut peer| assert!(peer.receive_exactly(data.len()) == data),
        );
    }
}

#[test]
fn what_a_blocked_send_keeps_is_bounded_and_given_back() {
    let data = pattern(1024 * 1024);
    let told = Signal::new();
    on_each_driver(
        &Setup::user(TLS13).with_small_buffers(),
        async |mut served| {
            assert_eq!(buf::held_bytes(), 0);
            let kept = async {
                // The first step has sealed a chunk and the socket took a part of it.
                let kept = buf::held_bytes();
                assert!(kept > 0 && kept <= SEND_CHUNK_BYTES + 1024, "{kept}");
                told.send();
            };
            join(served.send(&data), kept).await.0.unwrap();
            assert_eq!(buf::held_bytes(), 0);
        },
        |mut peer| {
            told.wait();
            assert!(peer.receive_exactly(data.len()) == data);
        },
    );
}

#[test]
fn what_a_blocked_send_keeps_is_given_back_when_the_stream_is_dropped() {
    let data = pattern(1024 * 1024);
    let done = Signal::new();
    on_each_driver(
        &Setup::user(TLS13).with_small_buffers(),
        async |mut served| {
            let mut send = Box::pin(served.send(&data));
            let is_blocked =
                poll_fn(|context| Poll::Ready(send.as_mut().poll(context).is_pending()));
            assert!(is_blocked.await);
            assert!(buf::held_bytes() > 0);
            drop(send);
            drop(served);
            assert_eq!(buf::held_bytes(), 0);
            done.send();
        },
        |_peer| done.wait(),
    );
}

/// What the next send waits for, however much later, is measured from then.
#[test]
fn a_wait_for_room_is_over_when_there_was_room() {
    let data = pattern(1024 * 1024);
    for setup in [Setup::user(TLS13), Setup::plain()] {
        on_each_driver(
            &setup.with_small_buffers(),
            async |mut served| {
                served.send(&data).await.unwrap();
                assert_eq!(served.transport().blocked.get().fruitless, 0);
            },
            |mut peer| assert!(peer.receive_exactly(data.len()) == data),
        );
    }
}

#[test]
fn a_send_without_progress_ends_and_nothing_is_sent_after_it() {
    let data = pattern(1024 * 1024);
    for setup in [Setup::user(TLS13), Setup::plain()] {
        let has_tls = setup.suite.is_some();
        let done = Signal::new();
        on_each_driver(
            &setup.with_small_buffers(),
            async |mut served| {
                let deadlines = served.deadlines.clone();
                let send = while_time_flies(&deadlines, served.send(&data));
                let (sent, timeouts) = counting(Counter::TimeoutsSend, send).await;
                assert!(
                    matches!(sent, Err(Cause::Timeout("timeouts.send_progress_ms"))),
                    "{sent:?}"
                );
                assert_eq!((timeouts, buf::held_bytes()), (1, 0));
                done.send();
                // There is room again soon: what would be sent now would leave a hole before it.
                let again = served.send(b"more").await;
                assert!(matches!(again, Err(Cause::Io(_))), "{again:?}");
            },
            |mut peer| {
                done.wait();
                // A true beginning of the data, up to a record cut short, and nothing else.
                let mut wire = Vec::new();
                drop(std::io::Read::read_to_end(&mut peer.socket, &mut wire));
                assert!(wire.len() < data.len());
                assert!(has_tls || data.starts_with(&wire));
            },
        );
    }
}

#[test]
fn a_vanished_peer_is_an_error_and_stays_one() {
    let data = pattern(1024 * 1024);
    for setup in [Setup::user(TLS13), Setup::plain()] {
        on_each_driver(
            &setup.with_small_buffers(),
            async |mut served| {
                for _ in 0..2 {
                    let sent = served.send(&data).await;
                    assert!(matches!(sent, Err(Cause::Io(_))), "{sent:?}");
                }
            },
            drop,
        );
    }
}
