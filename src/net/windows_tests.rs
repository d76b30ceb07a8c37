//! Windows come, stay, and go in bounds.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::stream::testing::pattern;
use super::windows::{Windows, count, sweep, with_windows};
use crate::limits::{
    MAPPED_WINDOW_BYTES, MAPPED_WINDOW_IDLE_MS, MAPPED_WINDOW_QUIET_USES,
    MAPPED_WINDOWS_PER_WORKER_MAX, RESIDENCY_REMEMBERED_MS,
};
use crate::sys::mapping::Vector;
use crate::sys::{self, test_support};

fn file_with(content: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Arc::new(file)
}

/// Whether this kernel tells what of a file here is in memory: without that nothing is mapped.
fn tells() -> bool {
    sys::file::resident_bytes(file_with(b"x").as_fd(), 0, 1).is_ok()
}

fn sent(windows: &Windows, file: &Arc<File>, offset: u64, bytes: usize) -> Vec<u8> {
    let mut vector = Vector::default();
    assert!(windows.push(&mut vector, file, offset, bytes));
    let (sender, mut receiver) = UnixStream::pair().unwrap();
    assert_eq!(vector.send(sender.as_fd()).unwrap(), bytes);
    drop(sender);
    let mut received = Vec::new();
    receiver.read_to_end(&mut received).unwrap();
    received
}

#[test]
fn any_part_of_a_file_can_be_sent_and_none_that_it_does_not_have() {
    let content = pattern(MAPPED_WINDOW_BYTES + 100_000);
    let file = file_with(&content);
    let end = content.len() as u64;
    let edge = MAPPED_WINDOW_BYTES as u64;
    let mut windows = Windows::default();
    for (offset, bytes) in [
        (0, 1),
        (5, 16_375),
        (edge - 7000, 16_375),
        (end - 9000, 9000),
    ] {
        assert_eq!(
            windows.has(&file, offset, bytes, 0),
            tells(),
            "{offset} {bytes}"
        );
        if tells() {
            let start = usize::try_from(offset).unwrap();
            let got = sent(&windows, &file, offset, bytes);
            assert!(got == content[start..start + bytes], "{offset} {bytes}");
        }
    }
    assert!(!windows.has(&file, end - 9000, 9001, 0));
    // Within the last page: what is behind the end would be sent as zeros.
    file.set_len(end - 1).unwrap();
    assert!(!windows.has(&file, end - 9000, 9000, 0));
    let never_looked_for = file_with(&content);
    assert!(!windows.push(&mut Vector::default(), &never_looked_for, 0, 1));
}

#[test]
fn what_is_not_in_memory_is_not_there_and_is_looked_for_again_later() {
    let content = pattern(512 * 1024);
    let file = file_with(&content);
    file.sync_all().unwrap();
    let mut windows = Windows::default();
    assert_eq!(windows.has(&file, 0, 16_375, 1000), tells());
    test_support::advise_not_needed(file.as_fd());
    // A file in memory alone (tmpfs) cannot be evicted.
    let resident = sys::file::resident_bytes(file.as_fd(), 290_000, 16_375);
    let later_ms = 1000 + RESIDENCY_REMEMBERED_MS;
    let is_there = windows.has(&file, 290_000, 16_375, later_ms);
    assert_eq!(is_there, matches!(resident, Ok(16_375)));
}

#[test]
fn windows_stay_within_their_bound() {
    let files: Vec<_> = (0..=MAPPED_WINDOWS_PER_WORKER_MAX)
        .map(|_| file_with(&[1; 8192]))
        .collect();
    let (last, others) = files.split_last().unwrap();
    let mut windows = Windows::default();
    for file in others {
        assert_eq!(windows.has(file, 0, 8192, 0), tells());
    }
    // All are in use: none makes way.
    assert!(!windows.has(last, 0, 8192, 0));
    assert_eq!(count(&windows), MAPPED_WINDOWS_PER_WORKER_MAX);
    for _ in 0..=MAPPED_WINDOW_QUIET_USES {
        windows.has(&others[7], 0, 8192, 0);
    }
    assert_eq!(windows.has(last, 0, 8192, 0), tells());
    assert_eq!(count(&windows), MAPPED_WINDOWS_PER_WORKER_MAX);
}

#[test]
fn windows_of_closed_and_of_idle_files_are_given_up() {
    let (closed, kept) = (file_with(&[1; 8192]), file_with(&[1; 8192]));
    with_windows(|windows| {
        windows.has(&closed, 0, 8192, 0);
        windows.has(&kept, 0, 8192, 0);
        assert_eq!(count(windows), 2);
    });
    drop(closed);
    sweep(MAPPED_WINDOW_IDLE_MS - 1);
    with_windows(|windows| assert_eq!(count(windows), 1));
    sweep(MAPPED_WINDOW_IDLE_MS);
    with_windows(|windows| assert_eq!(count(windows), 0));
}
