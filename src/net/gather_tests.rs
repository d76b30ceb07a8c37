//! Frames of text and file content, over each path: hot, cold, cut short.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::stream::testing::{Peer, Setup, counting, has_kernel_tls, on_each_driver, pattern};
use crate::config::OffloadPolicy;
use crate::error::Cause;
use crate::limits::RECORD_PLAINTEXT_BYTES_MAX;
use crate::message::FileRange;
use crate::message::gather::Gather;
use crate::metrics::Counter;
use crate::record::ContentType;
use crate::sys;

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

/// Gathers what is pushed and keeps the bytes that must come out.
#[derive(Default)]
struct Expected {
    pieces: Vec<Push>,
    bytes: Vec<u8>,
}

enum Push {
    Text(Vec<u8>),
    Shared(Bytes),
    Head(u32),
    File(FileRange),
}

impl Expected {
    fn text(mut self, bytes: usize) -> Self {
        let text = pattern(bytes);
        self.bytes.extend_from_slice(&text);
        self.pieces.push(Push::Text(text));
        self
    }

    fn shared(mut self, bytes: usize) -> Self {
        let text = pattern(bytes);
        self.bytes.extend_from_slice(&text);
        self.pieces.push(Push::Shared(text.into()));
        self
    }

    fn file(mut self, file: &(Arc<File>, Vec<u8>), offset: usize, length: usize) -> Self {
        self.pieces.push(Push::File(FileRange {
            file: file.0.clone(),
            offset: offset as u64,
            length: length as u64,
            is_remote: false,
        }));
        self.bytes
            .extend_from_slice(&file.1[offset..offset + length]);
        self
    }

    fn head(mut self, owner: u32) -> Self {
        self.bytes.extend_from_slice(&HEAD);
        self.pieces.push(Push::Head(owner));
        self
    }

    fn gather(&self) -> Gather {
        let mut gather = Gather::default();
        for piece in &self.pieces {
            match piece {
                Push::Text(text) => gather.push_text(text),
                Push::Shared(bytes) => gather.push_bytes(bytes.clone()),
                Push::Head(owner) => gather.push_head(*owner, &HEAD),
                Push::File(range) => gather.push_file(range.clone()),
            }
        }
        gather
    }

    /// The file in frames of a record each, every one behind nine bytes.
    fn frames(mut self, file: &(Arc<File>, Vec<u8>)) -> Self {
        let mut offset = 0;
        while offset < file.1.len() {
            let length = FRAME_BYTES.min(file.1.len() - offset);
            self = self.text(9).file(file, offset, length);
            offset += length;
        }
        self
    }
}

const HEAD: [u8; 9] = *b"head of 9";

const FRAME_BYTES: usize = RECORD_PLAINTEXT_BYTES_MAX - 9;

fn expect_end(peer: &mut Peer, setup: &Setup) {
    match setup.suite {
        Some(_) => peer.expect_close_notify(),
        None => assert_eq!(std::io::Read::read(&mut peer.socket, &mut [0]).unwrap(), 0),
    }
}

fn expect_arrival(setup: &Setup, expected: &Expected) {
    on_each_driver(
        setup,
        async |mut served| {
            let mut gather = expected.gather();
            let send = served.write.send_gather(&mut gather);
            let (sent, counted) = counting(Counter::BytesSent, send).await;
            sent.unwrap();
            assert_eq!(counted, expected.bytes.len() as u64);
            served.write.finish().await.unwrap();
        },
        |mut peer| {
            let received = peer.receive_exactly(expected.bytes.len());
            assert!(received == expected.bytes);
            expect_end(&mut peer, setup);
        },
    );
}

#[test]
fn pieces_arrive_in_their_order() {
    let large = pattern(5 * RECORD_PLAINTEXT_BYTES_MAX + 77);
    let large = (file_with(&large), large);
    let small = pattern(100);
    let small = (file_with(&small), small);
    let gathers = [
        Expected::default().text(1),
        Expected::default().shared(200_000).text(9),
        Expected::default().frames(&large),
        Expected::default().text(300).frames(&large).text(20),
        Expected::default()
            .frames(&small)
            .frames(&large)
            .frames(&small)
            .shared(10)
            .frames(&small),
        // The same file again, not where it went on; and going on, with nothing between.
        Expected::default()
            .file(&large, 10, 20)
            .file(&large, 10, 20)
            .file(&large, 30, 40_000)
            .file(&large, 40_030, 3),
        (0..200).fold(Expected::default(), |gather, index| {
            gather.text(30).shared(index).text(9).file(&small, 3, 50)
        }),
    ];
    for setup in setups() {
        for expected in &gathers {
            expect_arrival(&setup, expected);
            expect_arrival(&setup.clone().with_small_buffers(), expected);
        }
    }
}

/// A frame cut for it is a record, and the frames of a step are one send. Where the file system does
/// not tell what is in memory, a file thread reads them, in chunks of its own.
#[test]
fn frames_fill_records() {
    let content = pattern(3 * FRAME_BYTES);
    let file = (file_with(&content), content);
    let expected = Expected::default().frames(&file);
    let tells = tells(&file.0);
    let can_map = sys::file::resident_bytes(file.0.as_fd(), 0, 1).is_ok();
    for setup in setups().into_iter().filter(|setup| setup.suite.is_some()) {
        let tells = tells || (can_map && setup.policy == OffloadPolicy::Always);
        on_each_driver(
            &setup,
            async |mut served| {
                served
                    .write
                    .send_gather(&mut expected.gather())
                    .await
                    .unwrap()
            },
            |mut peer| {
                if !tells {
                    assert!(peer.receive_exactly(expected.bytes.len()) == expected.bytes);
                    return;
                }
                for frame in expected.bytes.chunks(RECORD_PLAINTEXT_BYTES_MAX) {
                    let record = (ContentType::ApplicationData, frame.to_vec());
                    assert!(peer.next() == Some(record));
                }
            },
        );
    }
}

/// Frame by frame a file thread would be asked far more often.
#[test]
fn cold_frames_are_read_many_at_a_time() {
    let content = pattern(40 * FRAME_BYTES);
    for setup in setups() {
        let file = (file_with(&content), content.clone());
        file.0.sync_all().unwrap();
        let expected = Expected::default().text(50).frames(&file).text(5);
        on_each_driver(
            &setup,
            async |mut served| {
                sys::test_support::advise_not_needed(file.0.as_fd());
                let mut gather = expected.gather();
                let send = served.write.send_gather(&mut gather);
                let (sent, chunks) = counting(Counter::FileChunksCold, send).await;
                sent.unwrap();
                assert!(chunks <= 11, "{chunks}");
            },
            |mut peer| assert!(peer.receive_exactly(expected.bytes.len()) == expected.bytes),
        );
    }
}

#[test]
fn a_file_that_ends_within_a_frame_is_an_error() {
    let content = pattern(100_000);
    let file = (file_with(&content), content);
    for setup in setups() {
        for kept_bytes in [0, 1, 50_000, 99_999] {
            let expected = Expected::default().text(7).frames(&file);
            file.0.set_len(kept_bytes).unwrap();
            on_each_driver(
                &setup,
                async |mut served| {
                    let mut gather = expected.gather();
                    let send = served.write.send_gather(&mut gather);
                    let (sent, counted) = counting(Counter::FilesTruncated, send).await;
                    assert!(matches!(sent, Err(Cause::FileTruncated)), "{sent:?}");
                    assert_eq!(counted, 1);
                },
                |mut peer| {
                    let received = peer.receive_to_end();
                    assert!(expected.bytes.starts_with(&received));
                },
            );
            std::os::unix::fs::FileExt::write_all_at(&*file.0, &file.1, 0).unwrap();
        }
    }
}

/// Frames that can be taken out are: what a frame announces comes, and so do the others' frames.
#[test]
fn a_frame_whose_file_has_shrunk_is_not_announced() {
    let content = pattern(100_000);
    let file = (file_with(&content), content.clone());
    let other = (file_with(&content), content);
    for (setup, kept_bytes) in setups()
        .iter()
        .flat_map(|setup| [0, 1, FRAME_BYTES, 50_000, 98_000].map(|kept| (setup, kept)))
    {
        file.0.set_len(kept_bytes as u64).unwrap();
        let whole_frames = kept_bytes / FRAME_BYTES;
        let (mut all, mut left) = (Expected::default().text(7), Expected::default().text(7));
        for frame in 0..6 {
            let (start, length) = (frame * FRAME_BYTES, FRAME_BYTES);
            all = all.head(1).file(&file, start, length);
            if frame < whole_frames {
                left = left.head(1).file(&file, start, length);
            }
            all = all.text(3).head(3).file(&other, start, 500);
            left = left.text(3).head(3).file(&other, start, 500);
        }
        on_each_driver(
            setup,
            async |mut served| {
                let mut gather = all.gather();
                let send = served.write.send_gather(&mut gather);
                let (sent, counted) = counting(Counter::FilesTruncated, send).await;
                sent.unwrap();
                assert_eq!(counted, 1);
                let missing = (6 - whole_frames) * FRAME_BYTES;
                assert_eq!(gather.take_cut(), Some((1, missing as u64)));
                assert_eq!(gather.take_cut(), None);
                served.write.finish().await.unwrap();
            },
            |mut peer| {
                assert!(peer.receive_exactly(left.bytes.len()) == left.bytes);
                expect_end(&mut peer, setup);
            },
        );
        std::os::unix::fs::FileExt::write_all_at(&*file.0, &file.1, 0).unwrap();
    }
}

/// Cold frames of several owners are read before they are announced, and none is lost.
#[test]
fn cold_frames_with_heads_arrive() {
    let content = pattern(20 * FRAME_BYTES);
    for setup in setups() {
        let file = (file_with(&content), content.clone());
        file.0.sync_all().unwrap();
        let mut expected = Expected::default().text(50);
        for (frame, owner) in (0..20).zip([1, 2].into_iter().cycle()) {
            expected = expected
                .head(owner)
                .file(&file, frame * FRAME_BYTES, FRAME_BYTES);
        }
        on_each_driver(
            &setup,
            async |mut served| {
                sys::test_support::advise_not_needed(file.0.as_fd());
                let mut gather = expected.gather();
                served.write.send_gather(&mut gather).await.unwrap();
                assert_eq!(gather.take_cut(), None);
            },
            |mut peer| assert!(peer.receive_exactly(expected.bytes.len()) == expected.bytes),
        );
    }
}

/// Whether the file system tells what of `file` is in memory: without that nothing is mapped.
fn tells(file: &File) -> bool {
    let mut first = [0];
    let places = &mut [std::io::IoSliceMut::new(&mut first)];
    sys::file::read_resident(file.as_fd(), places, 0).is_ok()
}

/// Where the kernel seals, or nobody, the content of long frames never is in user space.
#[test]
fn long_frames_are_sent_off_the_page_cache() {
    let content = pattern(20 * FRAME_BYTES + 100);
    let file = (file_with(&content), content);
    for setup in setups() {
        let can_map = sys::file::resident_bytes(file.0.as_fd(), 0, 1).is_ok();
        for (is_remote, expected) in [false, true].map(|is_remote| {
            let mut expected = Expected::default().frames(&file);
            for piece in &mut expected.pieces {
                if let Push::File(range) = piece {
                    range.is_remote = is_remote;
                }
            }
            (is_remote, expected)
        }) {
            let in_user_space = setup.suite.is_some() && setup.policy == OffloadPolicy::Never;
            let mapped_bytes = match in_user_space || is_remote || !can_map {
                true => 0,
                // The last frame is a short one.
                false => 20 * FRAME_BYTES as u64,
            };
            on_each_driver(
                &setup,
                async |mut served| {
                    let mut gather = expected.gather();
                    let send = served.write.send_gather(&mut gather);
                    let (sent, counted) = counting(Counter::FileBytesMapped, send).await;
                    sent.unwrap();
                    assert_eq!(counted, mapped_bytes);
                },
                |mut peer| assert!(peer.receive_exactly(expected.bytes.len()) == expected.bytes),
            );
        }
    }
}

/// Short and long pieces of several files and of memory, in any order, with sends that stop anywhere.
#[test]
fn any_mixture_arrives() {
    let files: Vec<_> = [40_000, 300_000, 100]
        .map(|bytes| {
            let content = pattern(bytes);
            (file_with(&content), content)
        })
        .into();
    let mut state = 1_u64;
    let mut random = move |max: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % max
    };
    for _ in 0..6 {
        let mut expected = Expected::default();
        for _ in 0..40 {
            let file = &files[random(files.len())];
            let offset = random(file.1.len());
            let length = random(FRAME_BYTES).min(file.1.len() - offset);
            expected = match random(5) {
                0 => expected.text(random(100)),
                1 => expected.shared(random(20_000)),
                2 => expected.head(9).file(file, offset, length),
                _ => expected.text(9).file(file, offset, length),
            };
        }
        for setup in setups() {
            expect_arrival(&setup, &expected);
            expect_arrival(&setup.with_small_buffers(), &expected);
        }
    }
}

/// Whatever happens to a file in the middle of a send: what a frame announces follows it, or the
/// stream ends there.
#[test]
fn a_file_that_comes_and_goes_never_breaks_the_framing() {
    const FRAMES: usize = 4;
    let content = pattern(FRAMES * FRAME_BYTES);
    let file = (file_with(&content), content.clone());
    for setup in setups() {
        on_each_driver(
            &setup,
            async |mut served| {
                let changing = Changing::start(file.0.clone(), content.clone());
                for _ in 0..30 {
                    let mut all = Expected::default();
                    for frame in 0..FRAMES {
                        all = all.head(1).file(&file, frame * FRAME_BYTES, FRAME_BYTES);
                    }
                    match served.write.send_gather(&mut all.gather()).await {
                        Ok(()) => {}
                        Err(Cause::FileTruncated) => break,
                        Err(other) => panic!("{other:?}"),
                    }
                }
                drop(changing);
            },
            |mut peer| {
                let received = peer.receive_to_end();
                for frame in received.chunks(RECORD_PLAINTEXT_BYTES_MAX) {
                    assert!(HEAD.starts_with(&frame[..frame.len().min(HEAD.len())]));
                }
            },
        );
    }
}

/// Shortens a file and makes it whole again, over and over.
struct Changing {
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Changing {
    fn start(file: Arc<File>, content: Vec<u8>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for kept_bytes in [FRAME_BYTES * 2 + 5000, 0] {
                    file.set_len(kept_bytes as u64).unwrap();
                    std::os::unix::fs::FileExt::write_all_at(&*file, &content, 0).unwrap();
                }
            }
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}
