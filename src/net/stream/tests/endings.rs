//! How a direction ends: closed, cut short, given up, broken (RFC 8446 6).

use std::net::Shutdown;
use std::sync::Barrier;

use super::{SHAPES, TLS12, TLS13};
use crate::error::Cause;
use crate::metrics::Counter;
use crate::net::stream::testing::{Setup, counting, on_each_driver, pattern};
use crate::net::stream::{Closure, Received};
use crate::record::ContentType;
use crate::sys::socket::segments_sent;

#[test]
fn rfc8446_6_1_close_notify_ends_one_direction_only() {
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                let (received, closure) = served.receive_to_end().await;
                assert_eq!(
                    (&received[..], closure),
                    (&b"question"[..], Closure::Orderly)
                );
                let again = served
                    .read
                    .receive(&mut bytes::BytesMut::new())
                    .await
                    .unwrap();
                assert_eq!(again, Received::Closed(Closure::Orderly));
                served.send(b"answer").await.unwrap();
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                peer.send(b"question");
                peer.send_alert(1, 0);
                peer.socket.shutdown(Shutdown::Write).unwrap();
                assert_eq!(peer.receive_exactly(6), b"answer");
                peer.expect_close_notify();
            },
        );
    }
}

#[test]
fn close_notify_and_fin_are_one_segment() {
    // What the peer sends is acknowledged in segments too: it waits until ours are counted.
    let counted = Barrier::new(2);
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                let transport = served.transport().clone();
                let segments = || segments_sent(transport.socket.descriptor());
                let before = segments();
                let finished = served.write.finish().await;
                let after = segments();
                counted.wait();
                finished.unwrap();
                assert_eq!(after.unwrap() - before.unwrap(), 1);
                let (_, closure) = served.receive_to_end().await;
                assert_eq!(closure, Closure::Orderly);
            },
            |mut peer| {
                counted.wait();
                peer.expect_close_notify();
                peer.send_alert(1, 0);
            },
        );
    }
}

#[test]
fn receiving_goes_on_after_our_close_notify() {
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                served.write.finish().await.unwrap();
                let (received, closure) = served.receive_to_end().await;
                assert_eq!(
                    (&received[..], closure),
                    (&b"still here"[..], Closure::Orderly)
                );
            },
            |mut peer| {
                peer.expect_close_notify();
                peer.send(b"still here");
                peer.send_alert(1, 0);
            },
        );
    }
}

#[test]
fn what_follows_close_notify_is_not_delivered() {
    on_each_driver(
        &Setup::user(TLS13),
        async |mut served| {
            let (received, closure) = served.receive_to_end().await;
            assert_eq!((&received[..], closure), (&b"before"[..], Closure::Orderly));
        },
        |mut peer| {
            let wire = [
                peer.sealed(ContentType::ApplicationData, b"before"),
                peer.sealed(ContentType::Alert, &[1, 0]),
                peer.sealed(ContentType::ApplicationData, b"behind"),
            ];
            peer.send_raw(&wire.concat());
        },
    );
}

#[test]
fn plain_tcp_closes_by_fin() {
    on_each_driver(
        &Setup::plain(),
        async |mut served| {
            let (received, closure) = served.receive_to_end().await;
            assert_eq!(
                (&received[..], closure),
                (&b"question"[..], Closure::Orderly)
            );
            served.send(b"answer").await.unwrap();
            served.write.finish().await.unwrap();
        },
        |mut peer| {
            peer.send(b"question");
            peer.socket.shutdown(Shutdown::Write).unwrap();
            assert_eq!(peer.receive_exactly(6), b"answer");
            assert_eq!(std::io::Read::read(&mut peer.socket, &mut [0]).unwrap(), 0);
        },
    );
}

#[test]
fn rfc8446_6_1_fin_without_close_notify_is_truncation() {
    for suite in SHAPES {
        for cut_short_by in [0, 1, 20] {
            on_each_driver(
                &Setup::user(suite),
                async |mut served| {
                    let end = counting(Counter::ClosedWithoutNotify, served.receive_to_end());
                    let ((received, closure), counted) = end.await;
                    assert_eq!(received, b"whole");
                    assert_eq!(closure, Closure::WithoutNotify);
                    assert_eq!(counted, 1);
                    let again = served
                        .read
                        .receive(&mut bytes::BytesMut::new())
                        .await
                        .unwrap();
                    assert_eq!(again, Received::Closed(Closure::WithoutNotify));
                },
                |mut peer| {
                    peer.send(b"whole");
                    if cut_short_by > 0 {
                        let cut = peer.sealed(ContentType::ApplicationData, b"cut short");
                        peer.send_raw(&cut[..cut.len() - cut_short_by]);
                    }
                    peer.socket.shutdown(Shutdown::Write).unwrap();
                    while peer.next().is_some() {}
                },
            );
        }
    }
}

#[test]
fn rfc8446_6_2_after_a_fatal_alert_nothing_is_sent() {
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                let error = served.receive_error().await;
                assert!(matches!(error, Cause::AlertReceived(40)), "{error:?}");
                let sent = served.send(b"unwanted").await;
                assert!(sent.is_err());
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                peer.send_alert(2, 40);
                assert_eq!(peer.next(), None);
            },
        );
    }
}

#[test]
fn rfc8446_5_2_a_record_that_does_not_authenticate_is_answered_with_bad_record_mac() {
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                let error = served.receive_error().await;
                assert!(matches!(error, Cause::Record(_)), "{error:?}");
                // Neither direction goes on, and the peer is told once.
                let sent = served.send(b"unwanted").await;
                assert!(matches!(sent, Err(Cause::Record(_))), "{sent:?}");
                served.receive_error().await;
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                peer.send(b"good");
                let mut bad = peer.sealed(ContentType::ApplicationData, b"bad");
                *bad.last_mut().unwrap() ^= 1;
                peer.send_raw(&bad);
                let more = peer.sealed(ContentType::ApplicationData, b"more");
                peer.expect_last_alert(2, 20);
                drop(std::io::Write::write(&mut peer.socket, &more));
            },
        );
    }
}

#[test]
fn records_that_break_the_protocol_are_answered_with_their_alert() {
    // A ChangeCipherSpec, a handshake message nobody sends, an alert of three bytes.
    let breaches: [(ContentType, &[u8], u8); 3] = [
        (ContentType::ChangeCipherSpec, &[1], 10),
        (ContentType::Handshake, &[4, 0, 0, 0, 0], 10),
        (ContentType::Alert, &[1, 0, 0], 50),
    ];
    for (content_type, payload, alert) in breaches {
        on_each_driver(
            &Setup::user(TLS13),
            async |mut served| {
                let error = served.receive_error().await;
                assert!(matches!(error, Cause::Record(_)), "{error:?}");
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                let wire = peer.sealed(content_type, payload);
                peer.send_raw(&wire);
                peer.expect_last_alert(2, alert);
            },
        );
    }
}

#[test]
fn a_record_too_long_is_refused_by_its_header() {
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                let error = served.receive_error().await;
                assert!(matches!(error, Cause::Record(_)), "{error:?}");
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                peer.send_raw(&[23, 3, 3, 0x48, 0]);
                peer.expect_last_alert(2, 22);
            },
        );
    }
}

#[test]
fn rfc5246_7_2_2_renegotiation_is_refused_with_a_warning_and_data_goes_on() {
    on_each_driver(
        &Setup::user(TLS12),
        async |mut served| {
            assert_eq!(served.receive_exactly(8).await, b"go on at");
            served.send(b"will").await.unwrap();
            served.write.finish().await.unwrap();
        },
        |mut peer| {
            let hello = peer.sealed(ContentType::Handshake, &[1, 0, 0, 2, 3, 3]);
            peer.send_raw(&hello);
            assert_eq!(peer.next(), Some((ContentType::Alert, vec![1, 100])));
            peer.send(b"go on at");
            assert_eq!(peer.receive_exactly(4), b"will");
            peer.expect_close_notify();
        },
    );
}

/// `finish` waits until everything is sent, whatever little room the socket has.
#[test]
fn closing_with_a_stalled_reader_loses_no_byte() {
    let data = pattern(512 * 1024);
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite).with_small_buffers(),
            async |mut served| {
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

/// After the record layer has failed, what the peer still sends is taken off the socket unopened, so
/// that closing it does not reset the connection over the alert.
#[test]
fn given_up_records_are_taken_unopened() {
    on_each_driver(
        &Setup::user(TLS13),
        async |mut served| {
            let error = served.receive_error().await;
            assert!(matches!(error, Cause::Record(_)), "{error:?}");
            served.read.give_up_records();
            let (rest, closure) = served.receive_to_end().await;
            assert_eq!((rest.len(), closure), (100_000, Closure::Orderly));
            served.write.finish().await.unwrap();
        },
        |mut peer| {
            peer.send_raw(&[23, 3, 3, 0, 20]);
            peer.send_raw(&[0; 20]);
            assert_eq!(peer.next(), Some((ContentType::Alert, vec![2, 20])));
            peer.send_raw(&[0; 100_000]);
            peer.socket.shutdown(Shutdown::Write).unwrap();
            assert_eq!(peer.next(), None);
        },
    );
}
