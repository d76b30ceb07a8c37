//! What is received, however it was cut into segments, and for how long.

use std::cell::Cell;
use std::io::IoSliceMut;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::{SHAPES, TLS13};
use crate::limits::{RECORD_PLAINTEXT_BYTES_MAX, TURN_BYTES_MAX};
use crate::net::deadline::{Expiry, Phase};
use crate::net::stream::Received;
use crate::net::stream::testing::{
    Setup, arm_for_long, counting_turns, join, on_each_driver, pattern, receive_exactly,
    while_time_flies,
};
use crate::record::ContentType;
use crate::sys::test_support::Signal;

#[test]
fn data_cut_anywhere_arrives_whole() {
    let payloads: [&[u8]; 4] = [b"the first", b"2", b"", b"the last of them"];
    let expected = payloads.concat();
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite).watched(),
            async |mut served| {
                let mut cuts = 0;
                loop {
                    let mut into = BytesMut::new();
                    while into.len() < expected.len() {
                        match served.read.receive(&mut into).await.unwrap() {
                            Received::Data(_) => {}
                            Received::Closed(_) => {
                                assert!(into.is_empty() && cuts > expected.len(), "{cuts}");
                                return;
                            }
                            expired @ Received::Expired(_) => panic!("{expired:?}"),
                        }
                    }
                    assert_eq!(into, expected);
                    cuts += 1;
                    served.send(b"again").await.unwrap();
                }
            },
            |mut peer| {
                let mut at = 1;
                loop {
                    let sealed = payloads.map(|p| peer.sealed(ContentType::ApplicationData, p));
                    let wire = sealed.concat();
                    if at == wire.len() {
                        return;
                    }
                    let (front, back) = wire.split_at(at);
                    peer.send_raw(front);
                    peer.wait_until_taken();
                    peer.send_raw(back);
                    assert_eq!(peer.receive_exactly(5), b"again");
                    at += 1;
                }
            },
        );
    }
}

/// A record that comes in many segments is received at their pace: no wait is made longer by those
/// before it that completed no record. The bound is a tenth of what such pauses would come to.
#[test]
fn a_record_in_many_segments_costs_no_pauses() {
    const SEGMENTS: usize = 500;
    on_each_driver(
        &Setup::user(TLS13).watched(),
        async |mut served| {
            let begun = Instant::now();
            assert_eq!(served.receive_exactly(SEGMENTS).await, pattern(SEGMENTS));
            assert!(
                begun.elapsed() < Duration::from_secs(3),
                "{:?}",
                begun.elapsed()
            );
        },
        |mut peer| {
            let record = peer.sealed(ContentType::ApplicationData, &pattern(SEGMENTS));
            for byte in record {
                peer.send_raw(&[byte]);
                peer.wait_until_taken();
            }
        },
    );
}

/// A receive that took exactly what was there is followed by one that finds nothing, and that by no pause.
#[test]
fn a_filled_buffer_costs_no_pause() {
    let done = Barrier::new(2);
    on_each_driver(
        &Setup::plain(),
        async |served| {
            let transport = served.transport();
            transport.wait_readable().await.unwrap();
            let mut buffer = [0; 1000];
            let mut receive = || {
                let mut places = [IoSliceMut::new(&mut buffer)];
                transport.receive_step_into(&mut places).unwrap()
            };
            let received = [receive(), receive()];
            done.wait();
            assert_eq!(received, [Some(Received::Data(1000)), None]);
            let receiving = transport.receiving.borrow();
            assert!(receiving.must_wait());
            assert_eq!(receiving.fruitless, 0);
        },
        |mut peer| {
            peer.send(&pattern(1000));
            done.wait();
        },
    );
}

#[test]
fn many_records_in_one_segment_are_one_receive() {
    const RECORDS: usize = 200;
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                let mut into = BytesMut::new();
                let received = served.read.receive(&mut into).await.unwrap();
                assert_eq!(received, Received::Data(3 * RECORDS));
                assert_eq!(into, b"abc".repeat(RECORDS));
            },
            |mut peer| {
                let wire: Vec<_> = (0..RECORDS)
                    .flat_map(|_| peer.sealed(ContentType::ApplicationData, b"abc"))
                    .collect();
                peer.send_raw(&wire);
            },
        );
    }
}

#[test]
fn records_of_every_magnitude_arrive_both_ways() {
    let lengths: Vec<usize> = (0..=64)
        .chain((65..RECORD_PLAINTEXT_BYTES_MAX).step_by(977))
        .chain([8191, 8192, 8193, 16_383, RECORD_PLAINTEXT_BYTES_MAX])
        .collect();
    let data = pattern(RECORD_PLAINTEXT_BYTES_MAX);
    let total: usize = lengths.iter().sum();
    for suite in SHAPES {
        on_each_driver(
            &Setup::user(suite),
            async |mut served| {
                let received = served.receive_exactly(total).await;
                let mut rest = &received[..];
                for &length in &lengths {
                    let (record, behind) = rest.split_at(length);
                    assert_eq!(record, &data[..length]);
                    served.send(record).await.unwrap();
                    rest = behind;
                }
            },
            |mut peer| {
                for &length in &lengths {
                    peer.send(&data[..length]);
                }
                // A send of nothing makes no record.
                for &length in lengths.iter().filter(|&&length| length > 0) {
                    let record = (ContentType::ApplicationData, data[..length].to_vec());
                    assert!(peer.next() == Some(record), "a record of {length} bytes");
                }
            },
        );
    }
}

#[test]
fn a_phase_that_passes_is_told_and_receiving_goes_on() {
    for setup in [Setup::user(TLS13), Setup::plain()] {
        let told = Signal::new();
        on_each_driver(
            &setup,
            async |mut served| {
                let deadline = Duration::from_secs(1);
                served.read.deadline().arm(Phase::Header, deadline);
                let mut into = BytesMut::new();
                let receive = Box::pin(served.read.receive(&mut into));
                let received = while_time_flies(&served.deadlines, receive).await.unwrap();
                assert_eq!(received, Received::Expired(Expiry::Phase(Phase::Header)));
                told.send();
                arm_for_long(served.read.deadline());
                assert_eq!(served.receive_exactly(4).await, b"late");
            },
            |mut peer| {
                told.wait();
                peer.send(b"late");
                // The connection is kept until the other side is done with it.
                drop(std::io::Read::read(&mut peer.socket, &mut [0]));
            },
        );
    }
}

#[test]
fn a_phase_that_passes_within_a_record_loses_none_of_it() {
    let told = Signal::new();
    on_each_driver(
        &Setup::user(TLS13),
        async |mut served| {
            let mut into = BytesMut::new();
            served
                .read
                .deadline()
                .arm(Phase::BodyProgress, Duration::from_secs(1));
            let receive = served.read.receive(&mut into);
            let (received, ()) = join(receive, async {
                // Whether the first half has been taken by now or not: it must not be lost.
                served
                    .deadlines
                    .turn(Instant::now() + Duration::from_secs(9));
            })
            .await;
            let expired = Received::Expired(Expiry::Phase(Phase::BodyProgress));
            assert_eq!(received.unwrap(), expired);
            told.send();
            arm_for_long(served.read.deadline());
            assert_eq!(served.receive_exactly(8).await, b"together");
        },
        |mut peer| {
            let record = peer.sealed(ContentType::ApplicationData, b"together");
            let (front, back) = record.split_at(11);
            peer.send_raw(front);
            told.wait();
            peer.send_raw(back);
            drop(std::io::Read::read(&mut peer.socket, &mut [0]));
        },
    );
}

/// Counted in turns of another task, not in time: a connection that always has more to receive lets
/// the others run after so many bytes.
#[test]
fn a_fast_sender_does_not_starve_other_tasks() {
    const BYTES: usize = 16 * TURN_BYTES_MAX;
    for setup in [Setup::user(TLS13), Setup::plain()] {
        on_each_driver(
            &setup,
            async |mut served| {
                let receive = Box::pin(async move {
                    let mut received = 0;
                    let mut into = BytesMut::new();
                    while received < BYTES {
                        match served.read.receive(&mut into).await.unwrap() {
                            Received::Data(count) => received += count,
                            end @ (Received::Closed(_) | Received::Expired(_)) => {
                                panic!("{end:?} after {received} bytes")
                            }
                        }
                        into.clear();
                    }
                });
                let turns = counting_turns(receive).await;
                assert!(turns >= BYTES / TURN_BYTES_MAX - 1, "{turns}");
            },
            |mut peer| {
                let chunk = vec![7; RECORD_PLAINTEXT_BYTES_MAX];
                for _ in 0..BYTES / chunk.len() {
                    peer.send(&chunk);
                }
            },
        );
    }
}

/// The halves do not wait for each other: what the peer sends arrives while it reads nothing.
#[test]
fn receiving_goes_on_while_a_send_is_blocked() {
    const MESSAGES: usize = 100;
    let bulk = pattern(1024 * 1024);
    for setup in [Setup::user(TLS13), Setup::plain()] {
        let told = Signal::new();
        on_each_driver(
            &setup.with_small_buffers(),
            async |served| {
                let (mut read, mut write) = (served.read, served.write);
                let is_sent = Cell::new(false);
                let send = async {
                    write.send(&[std::io::IoSlice::new(&bulk)]).await.unwrap();
                    is_sent.set(true);
                };
                let receive = async {
                    let received = receive_exactly(&mut read, 4 * MESSAGES).await;
                    assert_eq!(received, b"ping".repeat(MESSAGES));
                    assert!(!is_sent.get(), "the peer has read nothing yet");
                    told.send();
                };
                join(send, receive).await;
            },
            |mut peer| {
                for _ in 0..MESSAGES {
                    peer.send(b"ping");
                }
                told.wait();
                assert!(peer.receive_exactly(bulk.len()) == bulk);
            },
        );
    }
}
