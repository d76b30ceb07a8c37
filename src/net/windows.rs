//! Windows of files, mapped for the kernel to send from: which are mapped, and what of them is known
//! to be in the page cache.
//!
//! Mapping costs a call, a fault for every few pages, and at its end an interrupt of each processor
//! that runs a worker, so windows are kept over many sends and given up slowly. Where more files are
//! sent at a time than there are windows, those without one are copied: trading places would cost
//! more than that.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use crate::limits::{
    MAPPED_WINDOW_BYTES, MAPPED_WINDOW_IDLE_MS, MAPPED_WINDOW_QUIET_USES,
    MAPPED_WINDOWS_PER_WORKER_MAX, RESIDENCY_REMEMBERED_MS,
};
use crate::sys;
use crate::sys::mapping::{Mapping, Vector};

/// Calls `use_windows` with those of this worker.
pub(super) fn with_windows<R>(use_windows: impl FnOnce(&mut Windows) -> R) -> R {
    WINDOWS.with_borrow_mut(use_windows)
}

/// Gives up the windows whose files are closed, and those that nothing was sent from for
/// [`MAPPED_WINDOW_IDLE_MS`]. A mapping keeps the content of a file that was deleted on its disk.
pub fn sweep(now_ms: u64) {
    with_windows(|windows| windows.sweep(now_ms));
}

/// How many windows there are.
#[cfg(test)]
pub(super) fn count(windows: &Windows) -> usize {
    windows.windows.len()
}

/// The windows of one worker.
#[derive(Default)]
pub(super) struct Windows {
    /// The more often one is used, the further in front it is.
    windows: Vec<Window>,
    /// Counts the times that a window was looked for.
    uses: u64,
}

struct Window {
    file: Weak<File>,
    start: u64,
    /// `None` where it cannot be mapped.
    mapping: Option<Rc<Mapping>>,
    last_use: u64,
    last_use_ms: u64,
    /// Blocks of [`BLOCK_BYTES`] that were found in the page cache at or after `found_ms`.
    resident_blocks: u64,
    found_ms: u64,
}

impl Windows {
    /// Whether `bytes` of `file` from `offset` on are mapped, belong to the file and are in the page
    /// cache, so that [`Windows::push`] can take them and a send does not wait for a disk. Maps them
    /// where that pays. As [`sys::file::resident_bytes`] it makes a good guess.
    pub(super) fn has(&mut self, file: &Arc<File>, offset: u64, bytes: usize, now_ms: u64) -> bool {
        let end = offset.saturating_add(bytes as u64);
        let mut start = window_start(offset);
        while start < end {
            if !self.prepare(file, start, now_ms) {
                return false;
            }
            start += MAPPED_WINDOW_BYTES as u64;
        }
        // What the last page has behind the end of the file reads as zeros: nothing else would tell
        // that the file has become shorter.
        let is_there = sys::file::stat(file.as_fd()).is_ok_and(|stat| stat.size >= end);
        is_there && self.is_resident(file, offset, end, now_ms)
    }

    /// Appends `bytes` of `file` from `offset` on to `vector`; gives whether all of them were.
    pub(super) fn push(
        &self,
        vector: &mut Vector<'_>,
        file: &Arc<File>,
        offset: u64,
        bytes: usize,
    ) -> bool {
        let end = offset.saturating_add(bytes as u64);
        let mut from = offset;
        while from < end {
            let start = window_start(from);
            let window = self.position(file, start);
            let window = window.and_then(|index| self.windows.get(index));
            let Some(mapping) = window.and_then(|window| window.mapping.as_ref()) else {
                return false;
            };
            let to = end.min(start + MAPPED_WINDOW_BYTES as u64);
            if !vector.push_mapped(mapping, within(start, from)..within(start, to)) {
                return false;
            }
            from = to;
        }
        true
    }

    fn sweep(&mut self, now_ms: u64) {
        self.windows.retain(|window| {
            let idle_ms = now_ms.saturating_sub(window.last_use_ms);
            window.file.strong_count() > 0 && idle_ms < MAPPED_WINDOW_IDLE_MS
        });
    }

    /// Has the window of `file` at `start` mapped, if that pays and can be done.
    fn prepare(&mut self, file: &Arc<File>, start: u64, now_ms: u64) -> bool {
        self.uses += 1;
        let index = match self.position(file, start) {
            Some(index) => {
                self.windows.swap(index, index / 2);
                index / 2
            }
            None => {
                if !self.make_room() {
                    return false;
                }
                let mapping = Mapping::new(file.as_fd(), start, MAPPED_WINDOW_BYTES);
                self.windows.push(Window {
                    file: Arc::downgrade(file),
                    start,
                    mapping: mapping.ok().map(Rc::new),
                    last_use: 0,
                    last_use_ms: 0,
                    resident_blocks: 0,
                    found_ms: now_ms,
                });
                self.windows.len() - 1
            }
        };
        let uses = self.uses;
        self.windows.get_mut(index).is_some_and(|window| {
            window.last_use = uses;
            window.last_use_ms = now_ms;
            window.mapping.is_some()
        })
    }

    /// Whether there is room for another window, if need be in the place of one that is used no more.
    fn make_room(&mut self) -> bool {
        if self.windows.len() < MAPPED_WINDOWS_PER_WORKER_MAX {
            return true;
        }
        let oldest = self.windows.iter().enumerate().min_by_key(|(_, window)| {
            let is_open = window.file.strong_count() > 0;
            (is_open, window.last_use)
        });
        let is_given_up = oldest.is_some_and(|(_, window)| {
            let quiet_uses = self.uses - window.last_use;
            window.file.strong_count() == 0 || quiet_uses > MAPPED_WINDOW_QUIET_USES
        });
        match oldest.map(|(index, _)| index) {
            Some(index) if is_given_up => {
                self.windows.swap_remove(index);
                true
            }
            _ => false,
        }
    }

    fn is_resident(&mut self, file: &Arc<File>, from: u64, to: u64, now_ms: u64) -> bool {
        if blocks(from, to).all(|block| self.is_remembered(file, block, now_ms)) {
            return true;
        }
        // From a block's start, or a block that is asked for in parts would never be whole.
        let from = from / BLOCK_BYTES * BLOCK_BYTES;
        let asked = RESIDENT_AHEAD_BYTES.max(to - from);
        let Ok(found) = sys::file::resident_bytes(file.as_fd(), from, asked) else {
            return false;
        };
        let found_to = from + found;
        for block in blocks(from, found_to) {
            if block + BLOCK_BYTES <= found_to {
                self.remember(file, block);
            }
        }
        found_to >= to
    }

    /// Whether the block was found in the page cache a moment ago. Forgets what is older.
    fn is_remembered(&mut self, file: &Arc<File>, block: u64, now_ms: u64) -> bool {
        let index = self.position(file, window_start(block));
        let Some(window) = index.and_then(|index| self.windows.get_mut(index)) else {
            return false;
        };
        if now_ms.saturating_sub(window.found_ms) >= RESIDENCY_REMEMBERED_MS {
            window.resident_blocks = 0;
            window.found_ms = now_ms;
        }
        window.resident_blocks & bit(block) != 0
    }

    fn remember(&mut self, file: &Arc<File>, block: u64) {
        let index = self.position(file, window_start(block));
        if let Some(window) = index.and_then(|index| self.windows.get_mut(index)) {
            window.resident_blocks |= bit(block);
        }
    }

    fn position(&self, file: &Arc<File>, start: u64) -> Option<usize> {
        self.windows.iter().position(|window| {
            // A weak reference keeps the address from being used again.
            window.start == start && std::ptr::eq(window.file.as_ptr(), Arc::as_ptr(file))
        })
    }
}

/// The starts of the blocks that `from` to `to` touch.
fn blocks(from: u64, to: u64) -> impl Iterator<Item = u64> {
    (from / BLOCK_BYTES..to.div_ceil(BLOCK_BYTES)).map(|block| block * BLOCK_BYTES)
}

fn window_start(offset: u64) -> u64 {
    offset / MAPPED_WINDOW_BYTES as u64 * MAPPED_WINDOW_BYTES as u64
}

/// How far `offset` lies behind the start of its window.
fn within(start: u64, offset: u64) -> usize {
    usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX)
}

fn bit(block: u64) -> u64 {
    1 << (block % MAPPED_WINDOW_BYTES as u64 / BLOCK_BYTES)
}

thread_local! {
    static WINDOWS: RefCell<Windows> = RefCell::new(Windows::default());
}

/// What is remembered of a window's residency, in pieces of this: four probes each.
const BLOCK_BYTES: u64 = 64 * 1024;

/// Bytes whose residency is asked for at once, and then remembered.
const RESIDENT_AHEAD_BYTES: u64 = 4 * BLOCK_BYTES;

const _: () = assert!(MAPPED_WINDOW_BYTES as u64 / BLOCK_BYTES <= u64::BITS as u64);
const _: () = assert!((MAPPED_WINDOW_BYTES as u64).is_multiple_of(BLOCK_BYTES));
