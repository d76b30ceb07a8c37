//! Bodies from files, over each path: hot, cold, cut short.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use super::send::COLD_CHUNK_BYTES;
use super::stream::testing::{
    AUTO_FILE_BYTES_MIN, Peer, Setup, counting, has_kernel_tls, on_each_driver, pattern,
    this_kernel,
};
use crate::config::OffloadPolicy;
use crate::error::Cause;
use crate::limits::RECORD_PLAINTEXT_BYTES_MAX;
use crate::message::FileRange;
use crate::metrics::{self, Counter};
use crate::record::ContentType;
use crate::sys;
use crate::sys::test_support::Signal;

/// Without TLS, TLS in user space of each shape of record, and where there is kernel TLS, that.
fn setups() -> Vec<Setup> {
    let mut setups = vec![
        Setup::plain(),
        Setup::user(0),
        Setup::user(3),
        Setup::user(5),
    ];
    if has_kernel_tls() {
        setups.extend([Setup::kernel(0), Setup::kernel(3), Setup::kernel(5)]);
    }
    setups
}

fn file_with(content: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Arc::new(file)
}

fn range(file: &Arc<File>, offset: u64, length: u64) -> FileRange {
    FileRange {
        file: file.clone(),
        offset,
        length,
        is_remote: false,
    }
}

fn expect_end(peer: &mut Peer, setup: &Setup) {
    match setup.suite {
        Some(_) => peer.expect_close_notify(),
        None => assert_eq!(std::io::Read::read(&mut peer.socket, &mut [0]).unwrap(), 0),
    }
}

#[test]
fn ranges_of_a_file_follow_their_heads() {
    let content = pattern(3 * RECORD_PLAINTEXT_BYTES_MAX + 100);
    let file = file_with(&content);
    let end = content.len() as u64;
    let record = RECORD_PLAINTEXT_BYTES_MAX as u64;
    let ranges = [
        (0, end),
        (0, 0),
        (end, 0),
        (1, 1),
        (end - 1, 1),
        (4095, 4098),
        (record - 1, record + 2),
        (17, end - 17),
    ];
    // None, short, as long as may share a record, longer than that, longer than a record.
    let half = RECORD_PLAINTEXT_BYTES_MAX / 2;
    let heads = [0, 20, half, half + 1, RECORD_PLAINTEXT_BYTES_MAX + 1].map(pattern);
    let part = |offset: u64, length: u64| {
        let (offset, length) = (usize::try_from(offset), usize::try_from(length));
        &content[offset.unwrap()..][..length.unwrap()]
    };
    for setup in setups() {
        on_each_driver(
            &setup,
            async |mut served| {
                for head in &heads {
                    for (offset, length) in ranges {
                        let range = range(&file, offset, length);
                        served.write.send_file(head, &range).await.unwrap();
                    }
                }
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                for head in &heads {
                    for (offset, length) in ranges {
                        let expected = [head, part(offset, length)].concat();
                        let received = peer.receive_exactly(expected.len());
                        assert!(received == expected, "{} + {offset}, {length}", head.len());
                    }
                }
                expect_end(&mut peer, &setup);
            },
        );
    }
}

/// A short response is one record, and so one segment.
#[test]
fn head_and_body_share_a_record() {
    let content = pattern(1000);
    let file = file_with(&content);
    for setup in setups().into_iter().filter(|setup| setup.suite.is_some()) {
        on_each_driver(
            &setup,
            async |mut served| {
                let body = range(&file, 0, 1000);
                served.write.send_file(b"head: ", &body).await.unwrap();
            },
            |mut peer| {
                let record = (
                    ContentType::ApplicationData,
                    [&b"head: "[..], &content].concat(),
                );
                assert!(peer.next() == Some(record));
            },
        );
    }
}

#[test]
fn a_large_file_arrives_exactly_at_a_slow_reader() {
    let content = pattern(16 * 1024 * 1024 + 3);
    let file = file_with(&content);
    let length = content.len() as u64;
    for setup in setups() {
        on_each_driver(
            &setup.clone().with_small_buffers(),
            async |mut served| {
                let body = range(&file, 0, length);
                let send = served.write.send_file(b"head", &body);
                let (sent, counted) = counting(Counter::BytesSent, send).await;
                sent.unwrap();
                assert_eq!(counted, length + 4);
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                assert_eq!(&peer.receive_exactly(4 + content.len())[4..], &content[..]);
                expect_end(&mut peer, &setup);
            },
        );
    }
}

/// What is not in the page cache is read by a file thread; what the kernel says of the file decides
/// whether anything of it is.
#[test]
fn a_cold_file_is_read_by_the_file_threads() {
    let content = pattern(1024 * 1024 + 9);
    let length = content.len() as u64;
    for setup in setups() {
        let file = file_with(&content);
        file.sync_all().unwrap();
        on_each_driver(
            &setup,
            async |mut served| {
                sys::test_support::advise_not_needed(file.as_fd());
                let is_cold = is_another_cold(&setup);
                let body = range(&file, 0, length);
                let send = served.write.send_file(b"head", &body);
                let (sent, chunks) = counting(Counter::FileChunksCold, send).await;
                sent.unwrap();
                assert_eq!(chunks > 0, is_cold, "{chunks}");
                // Each brings a whole chunk, and what the kernel has read ahead of it needs none.
                assert!(
                    chunks <= length.div_ceil(COLD_CHUNK_BYTES as u64),
                    "{chunks}"
                );
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                let received = peer.receive_exactly(4 + content.len());
                assert!(received[4..] == content);
                expect_end(&mut peer, &setup);
            },
        );
    }
}

/// Whether the first page of another such file would have to be waited for, as the kernel answers the
/// path's own question: a file system in memory forgets nothing, and some cannot say. Another's,
/// because asking may begin to read the page; and more than one's, because a page that the kernel is
/// about to do something with is not given up.
fn is_another_cold(setup: &Setup) -> bool {
    (0..10).any(|_| is_one_cold(setup))
}

fn is_one_cold(setup: &Setup) -> bool {
    let file = file_with(&pattern(64 * 1024));
    file.sync_all().unwrap();
    sys::test_support::advise_not_needed(file.as_fd());
    let is_read = setup.suite.is_some() && setup.policy == OffloadPolicy::Never;
    if is_read {
        let mut byte = [0];
        let mut places = [std::io::IoSliceMut::new(&mut byte)];
        return sys::file::read_resident(file.as_fd(), &mut places, 0).is_err();
    }
    !matches!(sys::file::resident_bytes(file.as_fd(), 0, 1), Ok(1..))
}

#[test]
fn a_file_that_ends_before_its_range_is_an_error() {
    let content = pattern(100_000);
    let file = file_with(&content);
    for setup in setups() {
        // (offset, length): past the end in the middle of the range, from its start, far away.
        for (offset, length, sent_bytes) in
            [(0, 100_001, 100_000), (100_000, 1, 0), (1 << 40, 70_000, 0)]
        {
            on_each_driver(
                &setup,
                async |mut served| {
                    let body = range(&file, offset, length);
                    let send = served.write.send_file(b"", &body);
                    let (sent, counted) = counting(Counter::FilesTruncated, send).await;
                    assert!(matches!(sent, Err(Cause::FileTruncated)), "{sent:?}");
                    assert_eq!(counted, 1);
                },
                |mut peer| {
                    let received = peer.receive_to_end();
                    assert!(received == content[..sent_bytes], "{}", received.len());
                },
            );
        }
    }
}

/// The file shrinks while a reader that has read nothing yet holds the rest of it up.
#[test]
fn a_file_truncated_while_it_is_sent_is_an_error() {
    let content = pattern(8 * 1024 * 1024);
    for setup in setups() {
        let file = Mutex::new(file_with(&content));
        let told = Signal::new();
        on_each_driver(
            &setup.with_small_buffers(),
            async |mut served| {
                let file = file.lock().unwrap().clone();
                file.write_all_at(&content, 0).unwrap();
                let body = range(&file, 0, content.len() as u64);
                let send = served.write.send_file(b"", &body);
                let (sent, ()) = super::stream::testing::join(send, async {
                    // The send, polled first, waits for room.
                    file.set_len(content.len() as u64 / 2).unwrap();
                    told.send();
                })
                .await;
                assert!(matches!(sent, Err(Cause::FileTruncated)), "{sent:?}");
            },
            |mut peer| {
                told.wait();
                let received = peer.receive_to_end();
                assert!(received.len() <= content.len() / 2);
                assert!(content.starts_with(&received));
            },
        );
    }
}

/// Under `auto` a file over the threshold moves the sending side to a kernel that can take it, and
/// changes nothing for one that cannot.
#[test]
fn a_large_file_moves_the_sending_side() {
    let has_kernel_tls = has_kernel_tls();
    let content = pattern(1024 * 1024);
    let file = file_with(&content);
    for suite in 0..6 {
        let setup = Setup {
            policy: OffloadPolicy::Auto,
            kernel: this_kernel().clone(),
            ..Setup::user(suite)
        };
        on_each_driver(
            &setup,
            async |mut served| {
                let moved = |length| {
                    let before = metrics::of_this_thread(Counter::OffloadedSend);
                    (range(&file, 0, length), before)
                };
                let (small, before) = moved(AUTO_FILE_BYTES_MIN - 1);
                served.write.send_file(b"head", &small).await.unwrap();
                assert_eq!(metrics::of_this_thread(Counter::OffloadedSend), before);
                let (large, before) = moved(content.len() as u64);
                served.write.send_file(b"head", &large).await.unwrap();
                let moved = metrics::of_this_thread(Counter::OffloadedSend) - before;
                assert_eq!(moved, u64::from(has_kernel_tls));
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                let small = usize::try_from(AUTO_FILE_BYTES_MIN - 1).unwrap();
                let expected = [&b"head"[..], &content[..small], b"head", &content].concat();
                assert!(peer.receive_exactly(expected.len()) == expected);
                peer.expect_close_notify();
            },
        );
    }
}

/// Under `auto` a body below the threshold for files moves the sending side all the same when enough was
/// sent before it, and what is no body never does. Where the kernel cannot take it, the attempt counts.
#[test]
fn a_body_behind_many_bytes_moves_the_sending_side() {
    let body_bytes = AUTO_FILE_BYTES_MIN / 2;
    let content = pattern(usize::try_from(body_bytes).unwrap());
    let file = file_with(&content);
    for suite in [0, 3, 5] {
        let setup = Setup {
            policy: OffloadPolicy::Auto,
            kernel: this_kernel().clone(),
            sent_bytes_min: 3 * body_bytes,
            ..Setup::user(suite)
        };
        on_each_driver(
            &setup,
            async |mut served| {
                let attempts = || -> u64 {
                    [
                        Counter::OffloadedSend,
                        Counter::NotOffloadedNoUlp,
                        Counter::NotOffloadedSuite,
                        Counter::NotOffloadedFailed,
                    ]
                    .map(metrics::of_this_thread)
                    .iter()
                    .sum()
                };
                let before = attempts();
                let body = range(&file, 0, body_bytes);
                served.write.send_file(b"", &body).await.unwrap();
                assert_eq!(attempts(), before);
                // Over the bound with the next, but nothing asks.
                served.write.send(&[IoSlice::new(&content)]).await.unwrap();
                served.write.send(&[IoSlice::new(&content)]).await.unwrap();
                assert_eq!(attempts(), before);
                served.write.send_file(b"", &body).await.unwrap();
                assert_eq!(attempts(), before + 1);
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                let expected = content.repeat(4);
                assert!(peer.receive_exactly(expected.len()) == expected);
                peer.expect_close_notify();
            },
        );
    }
}

/// Under `auto` nothing moves to a kernel that seals slowly, under `always` it does.
#[test]
fn a_slow_kernel_is_left_alone_unless_told_otherwise() {
    let has_kernel_tls = has_kernel_tls();
    let content = pattern(1024 * 1024);
    let file = file_with(&content);
    let mut kernel = this_kernel().clone();
    for support in &mut kernel.suites {
        support.is_slow = true;
    }
    for (policy, moves) in [
        (OffloadPolicy::Auto, false),
        (OffloadPolicy::Always, has_kernel_tls),
    ] {
        let setup = Setup {
            policy,
            kernel: kernel.clone(),
            ..Setup::user(0)
        };
        on_each_driver(
            &setup,
            async |mut served| {
                let body = range(&file, 0, content.len() as u64);
                served.write.send_file(b"", &body).await.unwrap();
                assert_eq!(served.write.is_in_kernel(), moves);
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                assert!(peer.receive_exactly(content.len()) == content);
                peer.expect_close_notify();
            },
        );
    }
}
