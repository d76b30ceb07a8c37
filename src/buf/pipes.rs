//! A worker's pipes: what a splice from socket to socket goes through.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::limits::{PIPE_BYTES, PIPES_KEPT_PER_WORKER_MAX};
use crate::sys;

/// A pipe, empty when it is taken and when it is given back.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// A pipe that is not in use, or a new one.
    ///
    /// # Errors
    /// When no descriptors are left.
    pub fn take() -> io::Result<Self> {
        if let Some(pipe) = FREE.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = sys::pipe::pipe()?;
        // As large as it may be: a smaller one costs more calls, nothing else.
        drop(sys::pipe::set_capacity(write.as_fd(), PIPE_BYTES));
        Ok(Self { read, write })
    }

    /// Gives it back. It must be empty: one that holds bytes is dropped instead.
    pub fn give_back(self) {
        FREE.with_borrow_mut(|free| {
            if free.len() < PIPES_KEPT_PER_WORKER_MAX {
                free.push(self);
            }
        });
    }

    /// The end to read from.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// The end to write to.
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }
}

thread_local! {
    static FREE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_used_again_and_only_so_many_are_kept() {
        let pipes: Vec<Pipe> = (0..PIPES_KEPT_PER_WORKER_MAX + 5)
            .map(|_| Pipe::take().unwrap())
            .collect();
        pipes.into_iter().for_each(Pipe::give_back);
        assert_eq!(FREE.with_borrow(Vec::len), PIPES_KEPT_PER_WORKER_MAX);
        let pipe = Pipe::take().unwrap();
        assert_eq!(FREE.with_borrow(Vec::len), PIPES_KEPT_PER_WORKER_MAX - 1);
        drop(pipe);
        assert_eq!(FREE.with_borrow(Vec::len), PIPES_KEPT_PER_WORKER_MAX - 1);
    }
}
