//! Finding and opening one file: the work behind a miss of the [cache](super::cache).
//!
//! It runs twice at most: on the worker, looking only at what is in memory, and where that does not
//! do, in a file thread.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use crate::config::Symlinks;
use crate::limits::CACHED_CONTENT_BYTES_MAX;
use crate::sys::file::{self, FileKind, FileStat, Reach};

/// What to open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup<'a> {
    /// The site's directory. It is opened anew each time, so that a root that is a link takes effect
    /// when the link is changed.
    pub(crate) root: &'a CStr,
    /// The path beneath it: relative, without `..`, not empty.
    pub(crate) path: &'a CStr,
    /// Which links are followed.
    pub(crate) symlinks: Symlinks,
    /// What the file was when it was last opened, if its content is sure to be of that state.
    pub(crate) previous: Option<FileStat>,
    /// The time, in nanoseconds since the epoch, up to which a last change is long enough ago to be
    /// told from the next one.
    pub(crate) settled_until_ns: i128,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Opened {
    /// The same file as before, unchanged.
    Unchanged,
    /// A directory.
    Directory,
    /// A FIFO, device or socket.
    Special,
    /// A file.
    File(OpenedFile),
}

/// A file just opened.
#[derive(Debug)]
pub(crate) struct OpenedFile {
    pub(crate) stat: FileStat,
    /// Whether its last change is so long ago that another change could not leave `stat` as it is.
    pub(crate) settled: bool,
    pub(crate) content: OpenedContent,
}

#[derive(Debug)]
pub(crate) enum OpenedContent {
    /// All of it: `stat.size` bytes, read while `stat` did not change.
    Bytes(Vec<u8>),
    /// Too much to keep, or changing too fast to read.
    Descriptor(File),
}

impl Lookup<'_> {
    /// Opens the file, and reads it when it is small.
    ///
    /// # Errors
    ///
    /// With [`Reach::Cached`], `WouldBlock` where that does not do; otherwise those of the system.
    pub(crate) fn open(&self, reach: Reach) -> io::Result<Opened> {
        let root = file::open_root(self.root, reach)?;
        let file = file::open_beneath(root.as_fd(), self.path, self.symlinks, reach)?;
        let file = File::from(file);
        let stat = file::stat(file.as_fd())?;
        match stat.kind {
            FileKind::Directory => Ok(Opened::Directory),
            FileKind::Other => Ok(Opened::Special),
            FileKind::Regular if self.previous == Some(stat) => Ok(Opened::Unchanged),
            FileKind::Regular => Ok(Opened::File(self.read(file, stat, reach)?)),
        }
    }

    /// Reads a small file until its state is the same before and after, a few times at most.
    fn read(&self, file: File, mut stat: FileStat, reach: Reach) -> io::Result<OpenedFile> {
        for _ in 0..READ_ATTEMPTS_MAX {
            if stat.size > CACHED_CONTENT_BYTES_MAX {
                break;
            }
            let content = read_all(&file, stat.size, reach)?;
            let after = file::stat(file.as_fd())?;
            if after == stat && content.len() as u64 == stat.size {
                return Ok(self.opened(stat, OpenedContent::Bytes(content)));
            }
            stat = after;
        }
        Ok(self.opened(stat, OpenedContent::Descriptor(file)))
    }

    fn opened(&self, stat: FileStat, content: OpenedContent) -> OpenedFile {
        OpenedFile {
            stat,
            settled: stat.changed_ns <= self.settled_until_ns,
            content,
        }
    }
}

/// Up to `size` bytes from the beginning; fewer at the end of the file.
fn read_all(file: &File, size: u64, reach: Reach) -> io::Result<Vec<u8>> {
    let size = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut content = vec![0; size];
    let mut filled = 0;
    while let Some(rest) = content.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let offset = filled as u64;
        let outcome = match reach {
            Reach::Cached => {
                file::read_resident(file.as_fd(), &mut [IoSliceMut::new(rest)], offset)
            }
            Reach::Disk => file.read_at(rest, offset),
        };
        match outcome {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The filesystem cannot tell what is in memory: a file thread reads it.
            Err(error) if reach == Reach::Cached && error.kind() == io::ErrorKind::Unsupported => {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Err(error) => return Err(error),
        }
    }
    content.truncate(filled);
    Ok(content)
}

const READ_ATTEMPTS_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;

    use super::*;

    fn lookup<'a>(root: &'a CStr, path: &'a CStr) -> Lookup<'a> {
        Lookup {
            root,
            path,
            symlinks: Symlinks::Deny,
            previous: None,
            settled_until_ns: i128::MAX,
        }
    }

    fn root(directory: &tempfile::TempDir) -> CString {
        CString::new(directory.path().as_os_str().as_encoded_bytes()).unwrap()
    }

    fn file(opened: Opened) -> OpenedFile {
        let Opened::File(file) = opened else {
            panic!("{opened:?}")
        };
        file
    }

    #[test]
    fn small_files_are_read_and_large_ones_stay_open() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        for (size, is_read) in [(0, true), (1, true), (16_384, true), (16_385, false)] {
            fs::write(directory.path().join("f"), vec![7; size]).unwrap();
            let opened = file(lookup(&root, c"f").open(Reach::Disk).unwrap());
            assert_eq!(opened.stat.size, size as u64);
            match opened.content {
                OpenedContent::Bytes(bytes) => {
                    assert!(is_read);
                    assert_eq!(bytes, vec![7; size]);
                }
                OpenedContent::Descriptor(_) => assert!(!is_read),
            }
        }
    }

    #[test]
    fn an_unchanged_file_is_not_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        fs::write(directory.path().join("f"), "one").unwrap();
        let first = file(lookup(&root, c"f").open(Reach::Disk).unwrap());
        let again = Lookup {
            previous: Some(first.stat),
            ..lookup(&root, c"f")
        };
        assert!(matches!(
            again.open(Reach::Disk).unwrap(),
            Opened::Unchanged
        ));
        fs::write(directory.path().join("g"), "two").unwrap();
        fs::rename(directory.path().join("g"), directory.path().join("f")).unwrap();
        assert!(matches!(again.open(Reach::Disk).unwrap(), Opened::File(_)));
    }

    #[test]
    fn a_file_shorter_than_it_was_is_read_to_its_end() {
        let shrunk = tempfile::tempfile().unwrap();
        shrunk.set_len(100).unwrap();
        for reach in [Reach::Cached, Reach::Disk] {
            match read_all(&shrunk, 200, reach) {
                Ok(content) => assert_eq!(content.len(), 100),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    assert_eq!(reach, Reach::Cached);
                }
            }
        }
    }

    #[test]
    fn a_recent_change_is_not_settled() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(&directory);
        fs::write(directory.path().join("f"), "one").unwrap();
        let changed = file(lookup(&root, c"f").open(Reach::Disk).unwrap())
            .stat
            .changed_ns;
        for (settled_until_ns, settled) in [(changed - 1, false), (changed, true)] {
            let lookup = Lookup {
                settled_until_ns,
                ..lookup(&root, c"f")
            };
            assert_eq!(file(lookup.open(Reach::Disk).unwrap()).settled, settled);
        }
    }

    #[test]
    fn directories_and_special_files_are_told() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("d")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
        let root = root(&directory);
        let opened = lookup(&root, c"d").open(Reach::Disk).unwrap();
        assert!(matches!(opened, Opened::Directory));
        let error = lookup(&root, c"s").open(Reach::Disk).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
        let device = Lookup {
            symlinks: Symlinks::Follow,
            ..lookup(c"/dev", c"zero")
        };
        assert!(matches!(device.open(Reach::Disk).unwrap(), Opened::Special));
    }
}
