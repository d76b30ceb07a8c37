//! Keys that change: at the peer's wish and when one is used up (RFC 8446 4.6.3, 5.5).

use std::time::{Duration, Instant};

use super::{SHAPES, TLS12, TLS13, TLS13_CHACHA20};
use crate::error::Cause;
use crate::limits::{
    CONTROL_RECORDS_RESERVE, KEY_UPDATE_WINDOW_MS, KEY_UPDATES_PER_WINDOW_MAX, RECORDS_PER_KEY_MIN,
};
use crate::metrics::Counter;
use crate::net::stream::testing::{
    Peer, Setup, counting, join, on_each_driver, pattern, receive_exactly,
};
use crate::record::ContentType;
use crate::sys::test_support::Signal;

#[test]
fn rfc8446_4_6_3_a_key_update_is_followed_and_not_answered_unasked() {
    for suite in 0..3 {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                let receive = served.receive_exactly(6);
                let (received, counted) = counting(Counter::KeyUpdatesReceived, receive).await;
                assert_eq!((&received[..], counted), (&b"oldnew"[..], 1));
                served.send(b"unchanged").await.unwrap();
            },
            |mut peer| {
                peer.send(b"old");
                peer.send_key_update(false);
                peer.send(b"new");
                assert_eq!(peer.receive_exactly(9), b"unchanged");
                assert_eq!(peer.key_updates, 0);
            },
        );
    }
}

#[test]
fn rfc8446_4_6_3_a_key_update_is_answered_before_the_next_data() {
    for suite in 0..3 {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                let receive = served.receive_exactly(2);
                let (received, counted) = counting(Counter::KeyUpdatesSent, receive).await;
                assert_eq!((&received[..], counted), (&b"go"[..], 1));
                served.send(b"under the new key").await.unwrap();
            },
            |mut peer| {
                peer.send_key_update(true);
                // Answered by the receiving side alone, under the old key: `next` opens it with that.
                assert!(matches!(peer.next(), Some((ContentType::Handshake, _))));
                peer.send(b"go");
                assert_eq!(peer.receive_exactly(17), b"under the new key");
                assert_eq!(peer.key_updates, 1);
            },
        );
    }
}

/// A KeyUpdate in pieces, and one in the segment of the data around it.
#[test]
fn a_key_update_may_come_in_any_segments() {
    on_each_driver(
        &Setup::user(TLS13).watched(),
        async |mut served| {
            assert_eq!(served.receive_exactly(6).await, b"before");
            served.send(b"1").await.unwrap();
            assert_eq!(served.receive_exactly(5).await, b"after");
        },
        |mut peer| {
            let wire = [
                peer.sealed(ContentType::ApplicationData, b"bef"),
                peer.sealed_key_update(false),
                peer.sealed(ContentType::ApplicationData, b"ore"),
            ];
            peer.send_raw(&wire.concat());
            assert_eq!(peer.receive_exactly(1), b"1");
            let update = peer.sealed_key_update(true);
            for byte in update {
                peer.wait_until_taken();
                peer.send_raw(&[byte]);
            }
            peer.send(b"after");
            assert!(matches!(peer.next(), Some((ContentType::Handshake, _))));
        },
    );
}

/// Requests that come while our data waits for room: the data goes on under the old key, and one
/// answer serves for all of them.
#[test]
fn key_updates_during_a_blocked_send_are_answered_once_and_in_order() {
    let bulk = pattern(1024 * 1024);
    for suite in 0..3 {
        let told = Signal::new();
        on_each_driver(
            &Setup::user(suite).with_small_buffers(),
            async |served| {
                let (mut read, mut write) = (served.read, served.write);
                let receive = async {
                    assert_eq!(receive_exactly(&mut read, 1).await, b"x");
                    let sending = read.transport.sending.borrow();
                    assert!(!sending.is_settled(), "the peer has read nothing yet");
                    told.send();
                };
                let slices = [std::io::IoSlice::new(&bulk)];
                let both = Box::pin(join(write.send(&slices), receive));
                let ((sent, ()), counted) = counting(Counter::KeyUpdatesSent, both).await;
                sent.unwrap();
                assert_eq!(counted, 1);
                write.finish().await.unwrap();
            },
            |mut peer| {
                for _ in 0..3 {
                    peer.send_key_update(true);
                }
                peer.send(b"x");
                told.wait();
                assert!(peer.receive_exactly(bulk.len()) == bulk);
                assert_eq!(peer.key_updates, 1);
                peer.expect_close_notify();
            },
        );
    }
}

#[test]
fn a_flood_of_key_updates_is_refused() {
    for asks_for_reply in [false, true] {
        on_each_driver(
            &Setup::user(TLS13),
            async |mut served| {
                let error = served.receive_error().await;
                assert!(
                    matches!(error, Cause::Record("too many KeyUpdates")),
                    "{error:?}"
                );
                assert!(served.send(b"unwanted").await.is_err());
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                for _ in 0..=KEY_UPDATES_PER_WINDOW_MAX {
                    peer.send_key_update(asks_for_reply);
                }
                let mut last = peer.next();
                while matches!(last, Some((ContentType::Handshake, _))) {
                    last = peer.next();
                }
                assert_eq!(last, Some((ContentType::Alert, vec![2, 10])));
                assert_eq!(peer.next(), None);
                // One reply answers all that were asked for before it could be sent: how many came
                // together is up to TCP.
                let replies = match asks_for_reply {
                    true => 1..=KEY_UPDATES_PER_WINDOW_MAX as usize,
                    false => 0..=0,
                };
                assert!(replies.contains(&peer.key_updates), "{}", peer.key_updates);
            },
        );
    }
}

#[test]
fn key_updates_within_the_rate_are_followed_window_after_window() {
    on_each_driver(
        &Setup::user(TLS13),
        async |mut served| {
            let mut now = Instant::now();
            for _ in 0..3 {
                assert_eq!(served.receive_exactly(4).await, b"data");
                now += Duration::from_millis(2 * KEY_UPDATE_WINDOW_MS);
                served.deadlines.turn(now);
                served.send(b"next").await.unwrap();
            }
        },
        |mut peer| {
            for _ in 0..3 {
                for _ in 0..KEY_UPDATES_PER_WINDOW_MAX {
                    peer.send_key_update(false);
                }
                peer.send(b"data");
                assert_eq!(peer.receive_exactly(4), b"next");
            }
        },
    );
}

/// Our own key is changed before it has protected more than it may, and no byte is lost by it.
#[test]
fn rfc8446_5_5_a_key_is_changed_before_it_is_used_up() {
    const MESSAGES: usize = 3000;
    for suite in [TLS13, TLS13_CHACHA20] {
        let setup = Setup::user(suite).with_records_per_key(RECORDS_PER_KEY_MIN);
        on_each_driver(
            &setup,
            async |mut served| {
                let data = pattern(MESSAGES);
                for message in 0..MESSAGES {
                    served.send(&data[..message % 50 + 1]).await.unwrap();
                }
                served.send(&pattern(10 * 1024 * 1024)).await.unwrap();
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                let data = pattern(MESSAGES);
                let mut expected: Vec<u8> = (0..MESSAGES)
                    .flat_map(|message| data[..message % 50 + 1].to_vec())
                    .collect();
                expected.extend(pattern(10 * 1024 * 1024));
                let (received, records_per_key_max) =
                    receive_counting_records(&mut peer, CLOSE_NOTIFY);
                assert!(received == expected);
                if suite == TLS13_CHACHA20 {
                    assert_eq!(peer.key_updates, 0, "that cipher has no such bound");
                } else {
                    let needed = (MESSAGES + 640) / usize::try_from(RECORDS_PER_KEY_MIN).unwrap();
                    assert!(peer.key_updates >= needed, "{}", peer.key_updates);
                    assert!(
                        records_per_key_max <= RECORDS_PER_KEY_MIN,
                        "{records_per_key_max}"
                    );
                }
            },
        );
    }
}

/// TLS 1.2 cannot change keys: the connection ends before the bound, foreseen by whoever asks, and
/// with an alert that tells what is cut short from what is complete (RFC 8446 6.1).
#[test]
fn a_key_that_is_used_up_and_cannot_be_changed_ends_the_connection_with_an_alert() {
    for suite in [TLS12, TLS12 + 1] {
        let setup = Setup::user(suite).with_records_per_key(RECORDS_PER_KEY_MIN);
        on_each_driver(
            &setup,
            async |mut served| {
                let mut sent = 0u64;
                let mut was_foreseen = false;
                let sending = async {
                    loop {
                        was_foreseen |= served.write.is_nearly_exhausted();
                        if let Err(cause) = served.send(b"record").await {
                            return cause;
                        }
                        sent += 1;
                    }
                };
                let cause = sending.await;
                assert!(matches!(cause, Cause::KeyExhausted), "{cause:?}");
                assert!(was_foreseen && sent <= RECORDS_PER_KEY_MIN, "{sent}");
                assert!(served.send(b"more").await.is_err());
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                let (received, records) = receive_counting_records(&mut peer, INTERNAL_ERROR);
                assert_eq!(
                    received,
                    b"record".repeat(usize::try_from(records).unwrap())
                );
                assert!(records > RECORDS_PER_KEY_MIN / 2, "{records}");
                assert!(records <= RECORDS_PER_KEY_MIN + CONTROL_RECORDS_RESERVE);
            },
        );
    }
}

#[test]
fn tls12_knows_no_key_update() {
    for suite in SHAPES.into_iter().filter(|&suite| suite >= TLS12) {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                let error = served.receive_error().await;
                assert!(matches!(error, Cause::Record(_)), "{error:?}");
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                let update = peer.sealed(ContentType::Handshake, &[24, 0, 0, 1, 1]);
                peer.send_raw(&update);
                peer.expect_last_alert(2, 10);
            },
        );
    }
}

/// The data up to `last_alert` and the end, and the most data records that came under one key.
fn receive_counting_records(peer: &mut Peer, last_alert: [u8; 2]) -> (Vec<u8>, u64) {
    let (mut data, mut records, mut records_max) = (Vec::new(), 0u64, 0);
    loop {
        match peer.next() {
            Some((ContentType::ApplicationData, payload)) => {
                data.extend(payload);
                records += 1;
                records_max = records_max.max(records);
            }
            Some((ContentType::Handshake, _)) => records = 0,
            Some((ContentType::Alert, alert)) => {
                assert_eq!(alert, last_alert);
                assert_eq!(peer.next(), None);
                return (data, records_max);
            }
            other => panic!("{other:?} after {} bytes", data.len()),
        }
    }
}

const CLOSE_NOTIFY: [u8; 2] = [1, 0];
const INTERNAL_ERROR: [u8; 2] = [2, 80];
