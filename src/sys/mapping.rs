//! Parts of files mapped for the kernel alone, and sends that gather them with bytes in memory.
//!
//! What is mapped is never read here: a file that becomes shorter takes its pages away, and a touch
//! of one that is gone would be SIGBUS. The kernel, reading it for a send, gives EFAULT instead.

#![expect(
    unsafe_code,
    reason = "mmap and sendmsg over what it maps have no safe wrapper"
)]

use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::rc::Rc;

use super::socket::{length_or_error, retry, send_flags};

/// A part of a file, mapped for reading. It keeps the file's content alive, not its descriptor.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<libc::c_void>,
    length: usize,
}

impl Mapping {
    /// Maps `length` bytes of `file` from `offset` on, a multiple of the page size. The file may end
    /// before they do. No byte is read.
    ///
    /// # Errors
    ///
    /// Those of mmap(2): `ENODEV` where the file system cannot, `ENOMEM` when too much is mapped.
    pub fn new(file: BorrowedFd<'_>, offset: u64, length: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: without MAP_FIXED the kernel chooses a range that nothing else uses; the descriptor
        // is open while borrowed.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start).ok_or(io::ErrorKind::Other)?;
        Ok(Self { start, length })
    }

    /// How many bytes are mapped.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that mmap gave, this is its only owner, and no slice of it was
        // ever made. It cannot fail for a whole mapping.
        unsafe { libc::munmap(self.start.as_ptr(), self.length) };
    }
}

/// What one sendmsg takes: bytes in memory and parts of mapped files, in their order.
pub struct Vector<'a> {
    parts: [libc::iovec; VECTOR_PARTS_MAX],
    /// What the parts that are mapped lie in: it stays mapped for as long as they may be sent.
    mappings: [Option<Rc<Mapping>>; VECTOR_PARTS_MAX],
    count: usize,
    bytes: usize,
    lent: PhantomData<&'a [u8]>,
}

/// A place in a [`Vector`] to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    count: usize,
    last_bytes: usize,
    bytes: usize,
}

impl Default for Vector<'_> {
    fn default() -> Self {
        Self {
            parts: [EMPTY; VECTOR_PARTS_MAX],
            mappings: [const { None }; VECTOR_PARTS_MAX],
            count: 0,
            bytes: 0,
            lent: PhantomData,
        }
    }
}

impl<'a> Vector<'a> {
    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of its first `bytes` are mapped ones.
    pub fn mapped_bytes(&self, bytes: usize) -> usize {
        let mut left = bytes;
        let mut mapped = 0;
        for (part, mapping) in self.parts.iter().zip(&self.mappings).take(self.count) {
            let within = part.iov_len.min(left);
            mapped += if mapping.is_some() { within } else { 0 };
            left -= within;
        }
        mapped
    }

    /// Appends `bytes`; gives whether there was room for another part.
    pub fn push_bytes(&mut self, bytes: &'a [u8]) -> bool {
        let base = bytes.as_ptr().cast_mut().cast::<libc::c_void>();
        // What lies behind the last part in one buffer goes on with it.
        if let Some(index) = self.count.checked_sub(1)
            && let (Some(last), Some(None)) = (self.parts.get_mut(index), self.mappings.get(index))
            && last.iov_base.addr() + last.iov_len == base.addr()
        {
            last.iov_len += bytes.len();
            self.bytes += bytes.len();
            return true;
        }
        self.push(base, bytes.len(), None)
    }

    /// Appends what `range` is of `mapping`; gives whether there was room for another part, and the
    /// range lies within.
    pub fn push_mapped(&mut self, mapping: &Rc<Mapping>, range: Range<usize>) -> bool {
        if range.end > mapping.length {
            return false;
        }
        let base = mapping.start.as_ptr().wrapping_byte_add(range.start);
        self.push(base, range.len(), Some(Rc::clone(mapping)))
    }

    /// The place behind the last part.
    pub fn mark(&self) -> Mark {
        let last = self.count.checked_sub(1);
        let last = last.and_then(|index| self.parts.get(index));
        Mark {
            count: self.count,
            last_bytes: last.map_or(0, |part| part.iov_len),
            bytes: self.bytes,
        }
    }

    /// Takes out what was appended since `mark`, which this vector has given.
    pub fn go_back(&mut self, mark: Mark) {
        let last = mark.count.checked_sub(1);
        if let Some(last) = last.and_then(|index| self.parts.get_mut(index)) {
            last.iov_len = last.iov_len.min(mark.last_bytes);
        }
        for mapping in self.mappings.iter_mut().skip(mark.count) {
            *mapping = None;
        }
        self.count = self.count.min(mark.count);
        self.bytes = self.bytes.min(mark.bytes);
    }

    /// Sends it, as far as there is room; gives how many bytes were taken.
    ///
    /// # Errors
    ///
    /// As [`super::socket::send`]; `EFAULT` when the first byte that could be sent is a mapped one
    /// which its file does not have, or which cannot be read.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let message = libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: self.parts.as_mut_ptr(),
            msg_iovlen: self.count,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        retry(|| {
            // SAFETY: the first `count` parts are bytes borrowed for 'a or lie in mappings that are
            // kept beside them; sendmsg only reads, and what the kernel keeps are pages of its own.
            // A mapped page without content behind it is EFAULT, no signal.
            let sent =
                unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, send_flags(false)) };
            length_or_error(sent)
        })
    }

    fn push(
        &mut self,
        base: *mut libc::c_void,
        bytes: usize,
        mapping: Option<Rc<Mapping>>,
    ) -> bool {
        let (Some(part), Some(kept)) = (
            self.parts.get_mut(self.count),
            self.mappings.get_mut(self.count),
        ) else {
            return false;
        };
        *part = libc::iovec {
            iov_base: base,
            iov_len: bytes,
        };
        *kept = mapping;
        self.count += 1;
        self.bytes += bytes;
        true
    }
}

/// Parts of one send. The frames of a step have two each, and a few are not of files.
pub const VECTOR_PARTS_MAX: usize = 24;

const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn file_with(content: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn bytes_and_mapped_parts_are_sent_in_their_order() {
        let content: Vec<u8> = (0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let file = file_with(&content);
        let mapping = Rc::new(Mapping::new(file.as_fd(), 4096, 8192).unwrap());
        // The mapping keeps the content.
        drop(file);
        let text = b"first, second".to_vec();
        let mut vector = Vector::default();
        assert!(vector.push_bytes(&text[..5]));
        assert!(vector.push_bytes(&text[5..7]));
        assert!(vector.push_mapped(&mapping, 4..5000));
        let mark = vector.mark();
        assert!(vector.push_bytes(&text[7..]));
        assert!(vector.push_mapped(&mapping, 0..9));
        vector.go_back(mark);
        assert!(vector.push_bytes(&text[7..]));
        assert!(!vector.push_mapped(&mapping, 8000..8193));
        assert_eq!((vector.count, vector.bytes()), (3, 13 + 4996));
        let mapped = [7, 8, 5003, 5009].map(|bytes| vector.mapped_bytes(bytes));
        assert_eq!(mapped, [0, 1, 4996, 4996]);

        let (sender, mut receiver) = UnixStream::pair().unwrap();
        assert_eq!(vector.send(sender.as_fd()).unwrap(), 13 + 4996);
        drop(sender);
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).unwrap();
        let expected = [&text[..7], &content[4100..9096], &text[7..]].concat();
        assert!(received == expected);
    }

    #[test]
    fn going_back_shortens_a_part_that_has_grown() {
        let text = b"abcdef".to_vec();
        let mut vector = Vector::default();
        assert!(vector.push_bytes(&text[..2]));
        let mark = vector.mark();
        assert!(vector.push_bytes(&text[2..]));
        assert_eq!((vector.count, vector.bytes()), (1, 6));
        vector.go_back(mark);
        assert_eq!((vector.count, vector.bytes()), (1, 2));
        assert_eq!(vector.parts[0].iov_len, 2);
    }

    #[test]
    fn no_more_parts_are_taken_than_there_is_room_for() {
        let file = file_with(&[7; 4096]);
        let mapping = Rc::new(Mapping::new(file.as_fd(), 0, 4096).unwrap());
        let mut vector = Vector::default();
        for _ in 0..VECTOR_PARTS_MAX {
            assert!(vector.push_mapped(&mapping, 0..1));
        }
        assert!(!vector.push_mapped(&mapping, 0..1));
        assert!(!vector.push_bytes(b"x"));
        assert_eq!(vector.bytes(), VECTOR_PARTS_MAX);
    }

    /// Not SIGBUS: it is the kernel that reads.
    #[test]
    fn a_part_that_its_file_has_lost_is_an_error() {
        let file = file_with(&[7; 20_000]);
        let mapping = Rc::new(Mapping::new(file.as_fd(), 0, 20_480).unwrap());
        file.set_len(0).unwrap();
        let mut vector = Vector::default();
        assert!(vector.push_mapped(&mapping, 0..20_000));
        let (sender, _receiver) = UnixStream::pair().unwrap();
        let error = vector.send(sender.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }
}
