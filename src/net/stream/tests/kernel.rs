//! Streams under kernel TLS. Where the kernel has none, each test asserts that the probe says so;
//! see [`has_kernel_tls`].

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;

use super::{TLS12, TLS13};
use crate::config::OffloadPolicy;
use crate::error::Cause;
use crate::limits::{RECORDS_PER_KEY_MIN, RECORDS_PER_STEP_MAX};
use crate::metrics::Counter;
use crate::net::rt;
use crate::net::stream::testing::{
    Served, Setup, counting, has_kernel_tls, join, on_each_driver, pattern, this_kernel,
};
use crate::net::stream::{Closure, ReceivePath, Received, SendPath};
use crate::record::ContentType;
use crate::sys::test_support::Signal;

#[test]
fn every_suite_is_carried_by_the_kernel_both_ways() {
    if !has_kernel_tls() {
        return;
    }
    let data = pattern(500_000);
    for suite in 0..6 {
        on_each_driver(
            &Setup::kernel(suite),
            async |mut served| {
                assert_is_in_kernel(&served);
                let received = served.receive_exactly(data.len()).await;
                assert!(received == data);
                served.send(&received).await.unwrap();
                served.write.finish().await.unwrap();
                let (rest, closure) = served.receive_to_end().await;
                assert_eq!((rest.len(), closure), (0, Closure::Orderly));
            },
            |mut peer| {
                for record in data.chunks(10_000) {
                    peer.send(record);
                }
                assert!(peer.receive_exactly(data.len()) == data);
                peer.expect_close_notify();
                peer.send_alert(1, 0);
            },
        );
    }
}

/// Both directions move in mid-stream: the sending one between two sends, the receiving one with a
/// part of a record received, at that record's end.
#[test]
fn a_connection_moves_in_mid_stream() {
    if !has_kernel_tls() {
        return;
    }
    let data = pattern(100_000);
    for suite in 0..6 {
        let setup = Setup {
            policy: OffloadPolicy::Auto,
            ..Setup::kernel(suite)
        };
        on_each_driver(
            &setup,
            async |mut served| {
                served.send(&data).await.unwrap();
                served.transport().offload_sending();
                served.send(&data).await.unwrap();
                assert_eq!(served.receive_exactly(5).await, b"whole");
                served.transport().offload_receiving();
                let is_waiting = matches!(
                    served.transport().receiving.borrow().path,
                    ReceivePath::UserTls(_)
                );
                assert!(is_waiting, "a part of a record is here");
                served.send(b"now").await.unwrap();
                assert_eq!(served.receive_exactly(5).await, b"parts");
                assert_is_in_kernel(&served);
                served.send(b"then").await.unwrap();
                assert_eq!(served.receive_exactly(6).await, b"kernel");
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                let mut wire = peer.sealed(ContentType::ApplicationData, b"whole");
                let parts = peer.sealed(ContentType::ApplicationData, b"parts");
                let (front, back) = parts.split_at(parts.len() / 2);
                wire.extend_from_slice(front);
                peer.send_raw(&wire);
                assert!(peer.receive_exactly(2 * data.len()) == [&data[..], &data[..]].concat());
                assert_eq!(peer.receive_exactly(3), b"now");
                peer.send_raw(back);
                assert_eq!(peer.receive_exactly(4), b"then");
                peer.send(b"kernel");
                peer.expect_close_notify();
            },
        );
    }
}

#[test]
fn control_records_are_told_from_data() {
    if !has_kernel_tls() {
        return;
    }
    for suite in 0..6 {
        // close_notify behind data, then nothing more.
        on_each_driver(
            &Setup::kernel(suite),
            async |mut served| {
                let (received, closure) = served.receive_to_end().await;
                assert_eq!((&received[..], closure), (&b"data"[..], Closure::Orderly));
            },
            |mut peer| {
                peer.send(b"data");
                peer.send(b"");
                peer.send_alert(1, 0);
                drop(peer.socket.shutdown(std::net::Shutdown::Write));
            },
        );
        // FIN alone.
        on_each_driver(
            &Setup::kernel(suite),
            async |mut served| {
                let end = counting(Counter::ClosedWithoutNotify, served.receive_to_end());
                let ((received, closure), counted) = end.await;
                assert_eq!(
                    (&received[..], closure),
                    (&b"data"[..], Closure::WithoutNotify)
                );
                assert_eq!(counted, 1);
            },
            |mut peer| {
                peer.send(b"data");
                peer.socket.shutdown(std::net::Shutdown::Write).unwrap();
            },
        );
        // A fatal alert.
        on_each_driver(
            &Setup::kernel(suite),
            async |mut served| {
                let error = served.receive_error().await;
                assert!(matches!(error, Cause::AlertReceived(40)), "{error:?}");
                assert!(served.send(b"unwanted").await.is_err());
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                peer.send(b"data");
                peer.send_alert(2, 40);
                assert_eq!(peer.next(), None);
            },
        );
    }
}

#[test]
fn a_record_that_does_not_authenticate_is_answered_with_bad_record_mac() {
    if !has_kernel_tls() {
        return;
    }
    for suite in 0..6 {
        on_each_driver(
            &Setup::kernel(suite),
            async |mut served| {
                assert_eq!(served.receive_exactly(4).await, b"good");
                let error = served.receive_error().await;
                assert!(matches!(error, Cause::Record(_)), "{error:?}");
                assert!(served.send(b"unwanted").await.is_err());
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                peer.send(b"good");
                let mut bad = peer.sealed(ContentType::ApplicationData, b"bad");
                *bad.last_mut().unwrap() ^= 1;
                peer.send_raw(&bad);
                peer.expect_last_alert(2, 20);
            },
        );
    }
}

/// Kernels from 6.14 change keys; before, the connection ends with an alert, not in confusion.
#[test]
fn a_key_update_is_followed_or_refused_cleanly() {
    if !has_kernel_tls() {
        return;
    }
    let can_rekey = this_kernel().rekey;
    for suite in 0..3 {
        for asks_for_reply in [false, true] {
            on_each_driver(
                &Setup::kernel(suite),
                async |mut served| {
                    assert_eq!(served.receive_exactly(3).await, b"old");
                    served.send(b"go").await.unwrap();
                    if !can_rekey {
                        let error = served.receive_error().await;
                        assert!(matches!(error, Cause::NoRekey), "{error:?}");
                        served.write.finish().await.unwrap();
                        return;
                    }
                    for round in 0..3 {
                        assert_eq!(served.receive_exactly(3).await, b"new", "{round}");
                        served.send(b"answer").await.unwrap();
                    }
                    assert_is_in_kernel(&served);
                    served.write.finish().await.unwrap();
                },
                |mut peer| {
                    peer.send(b"old");
                    assert_eq!(peer.receive_exactly(2), b"go");
                    if !can_rekey {
                        peer.send_key_update(asks_for_reply);
                        peer.expect_last_alert(2, 80);
                        return;
                    }
                    for round in 1..=3 {
                        peer.send_key_update(asks_for_reply);
                        peer.send(b"new");
                        assert_eq!(peer.receive_exactly(6), b"answer");
                        assert_eq!(peer.key_updates, if asks_for_reply { round } else { 0 });
                    }
                    peer.expect_close_notify();
                },
            );
        }
    }
}

#[test]
fn a_key_update_during_a_blocked_send_is_answered_in_order() {
    if !has_kernel_tls() || !this_kernel().rekey {
        return;
    }
    let bulk = pattern(1024 * 1024);
    let told = Signal::new();
    on_each_driver(
        &Setup::kernel(TLS13).with_small_buffers(),
        async |served| {
            let (mut read, mut write) = (served.read, served.write);
            let receive = async {
                let mut into = BytesMut::new();
                let received = read.receive(&mut into).await.unwrap();
                assert_eq!((received, &into[..]), (Received::Data(1), &b"x"[..]));
                told.send();
            };
            let slices = [std::io::IoSlice::new(&bulk)];
            join(write.send(&slices), receive).await.0.unwrap();
            write.finish().await.unwrap();
        },
        |mut peer| {
            peer.send_key_update(true);
            peer.send(b"x");
            told.wait();
            assert!(peer.receive_exactly(bulk.len()) == bulk);
            assert_eq!(peer.key_updates, 1);
            peer.expect_close_notify();
        },
    );
}

/// Our own bound on a key: a KeyUpdate where the kernel can change keys, an end with an alert
/// elsewhere.
#[test]
fn a_key_that_is_used_up_is_changed_or_ends_the_connection_with_an_alert() {
    const MESSAGES: usize = 2000;
    if !has_kernel_tls() {
        return;
    }
    for suite in [TLS13, TLS12] {
        let can_change = suite == TLS13 && this_kernel().rekey;
        on_each_driver(
            &Setup::kernel(suite).with_records_per_key(RECORDS_PER_KEY_MIN),
            async |mut served| {
                let mut outcome = Ok(());
                for _ in 0..MESSAGES {
                    outcome = served.send(b"record").await;
                    if outcome.is_err() {
                        break;
                    }
                }
                if can_change {
                    outcome.unwrap();
                } else {
                    assert!(matches!(outcome, Err(Cause::KeyExhausted)), "{outcome:?}");
                }
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                let mut records = 0u64;
                let mut total = 0;
                loop {
                    match peer.next() {
                        Some((ContentType::ApplicationData, payload)) => {
                            assert_eq!(payload, b"record");
                            (records, total) = (records + 1, total + 1);
                            assert!(records <= RECORDS_PER_KEY_MIN);
                        }
                        Some((ContentType::Handshake, _)) => records = 0,
                        other => {
                            // What is cut short does not look complete.
                            let alert = if can_change { [1, 0] } else { [2, 80] };
                            assert_eq!(other, Some((ContentType::Alert, alert.to_vec())));
                            break;
                        }
                    }
                }
                assert_eq!(peer.next(), None);
                assert_eq!(total == MESSAGES, can_change, "{total}");
                // Each is due when a step might use the rest of the key up.
                let per_key = usize::try_from(RECORDS_PER_KEY_MIN - RECORDS_PER_STEP_MAX).unwrap();
                let updates = if can_change { MESSAGES / per_key } else { 0 };
                assert_eq!(peer.key_updates, updates);
            },
        );
    }
}

/// Some kernels report a part of a record as readable although a receive finds nothing. Waiting for
/// the rest must not cost the worker its time: pauses double from 1 ms on, so ten rounds take a second,
/// in which spinning would make thousands.
#[test]
fn a_part_of_a_record_does_not_spin() {
    const WHILE: Duration = Duration::from_secs(1);
    const POLLS_MAX: u32 = 64;
    if !has_kernel_tls() {
        return;
    }
    for (suite, is_half_closed) in [(TLS13, false), (TLS13, true), (TLS12, false)] {
        let counted = Signal::new();
        on_each_driver(
            &Setup::kernel(suite),
            async |mut served| {
                if is_half_closed {
                    served.write.finish().await.unwrap();
                }
                let polls = Cell::new(0);
                let mut receive = pin!(served.receive_exactly(8));
                let receive = poll_fn(|context| {
                    polls.set(polls.get() + 1);
                    receive.as_mut().poll(context)
                });
                // Nothing is waited for with it: this is the time over which rounds are counted.
                let enough = async {
                    rt::sleep(WHILE).await;
                    counted.send();
                    polls.get()
                };
                let (received, polls) = join(receive, enough).await;
                assert_eq!(received, b"complete");
                assert!(polls <= POLLS_MAX, "{polls}");
            },
            |mut peer| {
                let record = peer.sealed(ContentType::ApplicationData, b"complete");
                let (front, back) = record.split_at(record.len() / 2);
                peer.send_raw(front);
                counted.wait();
                peer.send_raw(back);
            },
        );
    }
}

/// What the kernel's record layer has taken and not yet passed to TCP must not be cut off by the FIN.
#[test]
fn closing_with_a_stalled_reader_loses_no_byte() {
    if !has_kernel_tls() {
        return;
    }
    let data = pattern(512 * 1024);
    for suite in 0..6 {
        on_each_driver(
            &Setup::kernel(suite).with_small_buffers(),
            async |mut served| {
                assert_is_in_kernel(&served);
                served.send(&data).await.unwrap();
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                assert!(peer.receive_exactly(data.len()) == data);
                peer.expect_close_notify();
            },
        );
    }
}

fn assert_is_in_kernel(served: &Served) {
    let transport = served.transport();
    assert!(matches!(
        transport.sending.borrow().path,
        SendPath::KernelTls(_)
    ));
    assert!(matches!(
        transport.receiving.borrow().path,
        ReceivePath::KernelTls(_)
    ));
}
