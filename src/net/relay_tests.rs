//! A connection whose bytes are relayed to itself: an echo that is spliced.

use std::future::pending;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use bytes::BytesMut;

use super::*;
use crate::limits::RECORDS_PER_KEY_MIN;
use crate::net::stream::testing::{
    Peer, Served, Setup, between_two, counting, has_kernel_tls, on_each_driver, pattern,
    receive_exactly, this_kernel,
};
use crate::net::stream::{Closure, Received};
use crate::record::tests::SUITES;

const MINUTE: Duration = Duration::from_secs(60);
const BYTES: usize = 3 * 1024 * 1024;

async fn relay(served: &mut Served, bytes: u64) -> Result<Relayed, Cause> {
    let Served { read, write, .. } = served;
    let staying = pin!(pending());
    write
        .relay(&mut Vec::new(), (read, bytes), MINUTE, staying)
        .await
}

/// Whoever the bytes go to is watched while none come.
#[test]
fn a_relay_ends_with_whom_it_is_for() {
    on_each_driver(
        &Setup::plain(),
        async |mut served| {
            let mut polls = 0;
            let leaving = pin!(std::future::poll_fn(|_| {
                polls += 1;
                std::task::Poll::Ready(Cause::Truncated)
            }));
            let from = (&mut served.read, BYTES as u64);
            let mut head = Vec::new();
            let relaying = served.write.relay(&mut head, from, MINUTE, leaving);
            assert!(matches!(relaying.await, Err(Cause::Truncated)));
            assert_eq!(polls, 1);
        },
        |mut peer| {
            drop(peer.socket.read(&mut [0; 1]));
        },
    );
}

#[test]
fn bytes_go_out_as_they_come_behind_the_head() {
    on_each_driver(
        &Setup::plain().with_small_buffers(),
        async |mut served| {
            let mut head = b"head".to_vec();
            let from = (&mut served.read, BYTES as u64);
            let staying = pin!(pending());
            let relaying = served.write.relay(&mut head, from, MINUTE, staying);
            let relayed = relaying.await.unwrap();
            assert_eq!(relayed.bytes, BYTES as u64);
            assert!(relayed.failure.is_none() && head.is_empty());
            // More than was to be moved is left where it is.
            assert_eq!(served.receive_exactly(4).await, b"rest");
            served.write.finish().await.unwrap();
        },
        |mut peer| {
            let sent = pattern(BYTES);
            let mut sending = peer.socket.try_clone().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| drop(sending.write_all(&[&sent[..], b"rest"].concat())));
                let mut received = vec![0; BYTES + 4];
                peer.socket.read_exact(&mut received).unwrap();
                assert_eq!(&received[..4], b"head");
                assert!(received[4..] == sent[..]);
                assert_eq!(peer.socket.read(&mut [0; 8]).unwrap_or(0), 0);
            });
        },
    );
}

#[test]
fn the_end_is_left_for_a_receive_to_tell() {
    on_each_driver(
        &Setup::plain(),
        async |mut served| {
            let relaying = relay(&mut served, BYTES as u64);
            let relayed = relaying.await.unwrap();
            assert_eq!(relayed.bytes, 100_000);
            assert!(relayed.failure.is_none());
            let end = served.read.receive(&mut BytesMut::new()).await.unwrap();
            assert_eq!(end, Received::Closed(Closure::Orderly));
        },
        |mut peer| {
            peer.socket.write_all(&pattern(100_000)).unwrap();
            peer.socket.shutdown(Shutdown::Write).unwrap();
            let mut received = vec![0; 100_000];
            peer.socket.read_exact(&mut received).unwrap();
            assert!(received == pattern(100_000));
        },
    );
}

#[test]
fn what_is_short_or_sealed_here_is_left_alone() {
    for (setup, bytes) in [
        (Setup::plain(), RELAYED_BYTES_MIN - 1),
        (Setup::user(0), BYTES as u64),
    ] {
        on_each_driver(
            &setup,
            async |mut served| {
                let mut head = b"head".to_vec();
                let from = (&mut served.read, bytes);
                let staying = pin!(pending());
                let relaying = served.write.relay(&mut head, from, MINUTE, staying);
                let relayed = relaying.await.unwrap();
                assert_eq!((relayed.bytes, &*head), (0, &b"head"[..]));
            },
            |_| {},
        );
    }
}

/// An answer of unknown length may be short, and stays where it is under `auto`.
#[test]
fn a_body_of_unknown_length_moves_nothing_to_the_kernel() {
    let mut auto = Setup {
        policy: OffloadPolicy::Auto,
        ..Setup::user(0)
    };
    // Without, a body that may need more records than a key has stays here in any case.
    auto.kernel.rekey = true;
    for (bytes, refusals) in [(u64::MAX, 0), (u64::MAX - 1, 1)] {
        on_each_driver(
            &auto,
            async |mut served| {
                let mut head = Vec::new();
                let from = (&mut served.read, bytes);
                let staying = pin!(pending());
                let relaying = served.write.relay(&mut head, from, MINUTE, staying);
                let (relayed, counted) = counting(Counter::NotOffloadedNoUlp, relaying).await;
                assert_eq!((relayed.unwrap().bytes, counted), (0, refusals));
            },
            |_| {},
        );
    }
}

#[test]
fn a_source_that_is_silent_or_gone_is_told_of() {
    on_each_driver(
        &Setup::plain(),
        async |mut served| {
            let deadlines = served.deadlines.clone();
            rt::spawn(async move {
                let mut now = Instant::now();
                // Armed anew or not: a minute a turn, and no turn more than the wait needs.
                for _ in 0..64 {
                    rt::yield_turn().await;
                    now += MINUTE;
                    deadlines.turn(now);
                }
            });
            let relaying = relay(&mut served, BYTES as u64);
            let relayed = relaying.await.unwrap();
            assert!(matches!(relayed.failure, Some(RelayFailure::Idle)));
        },
        |mut peer| {
            drop(peer.socket.read(&mut [0; 1]));
        },
    );
    on_each_driver(
        &Setup::plain(),
        async |mut served| {
            let relaying = relay(&mut served, BYTES as u64);
            // The reset may meet either side of it first.
            if let Ok(relayed) = relaying.await {
                assert!(matches!(relayed.failure, Some(RelayFailure::Cause(_))));
            }
        },
        |peer| {
            let socket = socket2::SockRef::from(&peer.socket);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
        },
    );
}

/// Relays `bytes` of an upstream without TLS to a client in user space, "head" in front.
fn sealed_relay(
    client: &Setup,
    bytes: u64,
    server: impl AsyncFn(ReadHalf, WriteHalf, Relayed),
    peers: impl Fn(Peer, Peer) + Sync,
) {
    between_two(
        (client, &Setup::plain()),
        async |client, upstream, _| {
            let (_client_read, mut write) = client.into_halves();
            let (mut read, _upstream_write) = upstream.into_halves();
            let mut head = b"head".to_vec();
            let staying = pin!(pending());
            let relaying = write.relay(&mut head, (&mut read, bytes), MINUTE, staying);
            let relayed = relaying.await.unwrap();
            assert!(head.is_empty());
            server(read, write, relayed).await;
        },
        peers,
    );
}

/// Records of all suites, a client that is slow to read, and keys that are used up on the way.
#[test]
fn what_is_sealed_here_is_received_where_it_is_sealed() {
    let setups = (0..SUITES.len()).map(Setup::user).chain([
        Setup::user(0).with_small_buffers(),
        Setup::user(0).with_records_per_key(RECORDS_PER_KEY_MIN),
    ]);
    let sent = [&pattern(BYTES)[..], b"rest"].concat();
    for setup in setups {
        sealed_relay(
            &setup,
            BYTES as u64,
            async |mut read, mut write, relayed| {
                assert_eq!(relayed.bytes, BYTES as u64);
                assert!(relayed.failure.is_none());
                // More than was to be moved is left where it is.
                assert_eq!(receive_exactly(&mut read, 4).await, b"rest");
                assert_eq!(write.sent_bytes(), BYTES as u64 + 4);
                write.finish().await.unwrap();
            },
            |mut client, mut upstream| {
                std::thread::scope(|scope| {
                    scope.spawn(|| upstream.socket.write_all(&sent).unwrap());
                    assert_eq!(client.receive_exactly(4), b"head");
                    assert!(client.receive_exactly(BYTES) == sent[..BYTES]);
                    client.expect_close_notify();
                });
            },
        );
    }
}

/// More than the socket takes at once, behind which nothing comes before the client has all of it.
#[test]
fn a_rest_does_not_wait_for_what_comes_next() {
    const PARTS: usize = 4;
    // As much as the upstream's socket takes without being read.
    const PART_BYTES: usize = 200_000;
    let data = pattern(PART_BYTES);
    sealed_relay(
        &Setup::user(0).with_small_buffers(),
        (PARTS * PART_BYTES) as u64,
        async |_read, mut write, relayed| {
            assert_eq!(relayed.bytes, (PARTS * PART_BYTES) as u64);
            write.finish().await.unwrap();
        },
        |mut client, mut upstream| {
            assert_eq!(client.receive_exactly(4), b"head");
            for _ in 0..PARTS {
                upstream.socket.write_all(&data).unwrap();
                assert!(client.receive_exactly(PART_BYTES) == data);
            }
            client.expect_close_notify();
        },
    );
}

/// The head does not wait for a body that is slow to come, and what ends it is told.
#[test]
fn a_sealed_relay_begins_with_the_head_and_ends_with_its_source() {
    sealed_relay(
        &Setup::user(0),
        BYTES as u64,
        async |mut read, mut write, relayed| {
            assert_eq!(relayed.bytes, 100_000);
            let end = read.receive(&mut BytesMut::new()).await.unwrap();
            assert_eq!(end, Received::Closed(Closure::Orderly));
            write.finish().await.unwrap();
        },
        |mut client, mut upstream| {
            assert_eq!(client.receive_exactly(4), b"head");
            upstream.socket.write_all(&pattern(100_000)).unwrap();
            upstream.socket.shutdown(Shutdown::Write).unwrap();
            assert!(client.receive_exactly(100_000) == pattern(100_000));
            client.expect_close_notify();
        },
    );
    sealed_relay(
        &Setup::user(0),
        BYTES as u64,
        async |_read, mut write, relayed| {
            assert_eq!(relayed.bytes, 0);
            assert!(matches!(relayed.failure, Some(RelayFailure::Cause(_))));
            write.finish().await.unwrap();
        },
        |mut client, upstream| {
            assert_eq!(client.receive_exactly(4), b"head");
            let socket = socket2::SockRef::from(&upstream.socket);
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            drop(upstream);
            client.expect_close_notify();
        },
    );
}

/// A KeyUpdate in the middle is left for a receive, which serves it; then it goes on.
#[test]
fn the_kernels_records_are_relayed_and_its_control_records_served() {
    if !has_kernel_tls() {
        return;
    }
    for (suite, (version, ..)) in SUITES.iter().enumerate() {
        let rekeys = this_kernel().rekey && *version == crate::record::Version::Tls13;
        on_each_driver(
            &Setup::kernel(suite),
            async |mut served| {
                let mut left = BYTES as u64;
                while left > 0 {
                    let relaying = relay(&mut served, left);
                    let relayed = relaying.await.unwrap();
                    assert!(relayed.failure.is_none(), "{:?}", relayed.failure);
                    left -= relayed.bytes;
                    if left == 0 {
                        break;
                    }
                    let mut copied = BytesMut::new();
                    let received = served.read.receive(&mut copied).await.unwrap();
                    assert!(matches!(received, Received::Data(_)), "{received:?}");
                    left -= copied.len() as u64;
                    served.write.send(&[IoSlice::new(&copied)]).await.unwrap();
                }
            },
            |mut peer| {
                let sent = pattern(BYTES);
                let mut received = Vec::new();
                for (index, part) in sent.chunks(16_384).enumerate() {
                    if rekeys && index == 20 {
                        peer.send_key_update(false);
                    }
                    peer.send(part);
                    received.extend(peer.receive_exactly(part.len()));
                }
                assert!(received == sent);
            },
        );
    }
}
