//! Directories: the names in an open one, and what they stand for. Both may wait for a disk: for the
//! file threads.

#![expect(
    unsafe_code,
    reason = "a directory that is open can only be read by readdir and fstatat"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;

use super::file::{FileStat, stat_from};

/// The names in an open directory, in the order of the file system, without `.` and `..`.
pub struct Names {
    stream: NonNull<libc::DIR>,
}

impl Names {
    /// The names in `directory`, which must be open for reading.
    ///
    /// # Errors
    ///
    /// Those of fdopendir(3), `ENOTDIR` among them.
    pub fn of(directory: OwnedFd) -> io::Result<Self> {
        let descriptor = directory.into_raw_fd();
        // SAFETY: the descriptor is open and owned by nobody else; on success the stream owns it.
        let stream = unsafe { libc::fdopendir(descriptor) };
        match NonNull::new(stream) {
            Some(stream) => Ok(Self { stream }),
            None => {
                let error = io::Error::last_os_error();
                // SAFETY: fdopendir failed, so the descriptor is still open and still ours alone.
                unsafe { libc::close(descriptor) };
                Err(error)
            }
        }
    }
}

impl Iterator for Names {
    type Item = io::Result<CString>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // SAFETY: the call takes nothing and gives the address of this thread's errno.
            let errno = unsafe { libc::__errno_location() };
            // readdir reports errors by errno alone.
            // SAFETY: that address is valid to write for as long as the thread runs.
            unsafe { *errno = 0 };
            // SAFETY: the stream is open until it is dropped, and borrowed exclusively here.
            let entry = unsafe { libc::readdir64(self.stream.as_ptr()) };
            let Some(entry) = NonNull::new(entry) else {
                let error = io::Error::last_os_error();
                return (error.raw_os_error() != Some(0)).then_some(Err(error));
            };
            // SAFETY: `entry` points to a record of the stream that lasts until the next readdir; the
            // address of its name is taken without a reference to the whole record, of which only
            // its own length is valid.
            let name = unsafe { &raw const (*entry.as_ptr()).d_name };
            // SAFETY: the name ends in NUL within its record, which is not changed before the copy.
            let name = unsafe { CStr::from_ptr(name.cast()) };
            if !matches!(name.to_bytes(), b"." | b"..") {
                return Some(Ok(name.to_owned()));
            }
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        // SAFETY: the stream is open, and nothing uses it after this.
        unsafe { libc::closedir(self.stream.as_ptr()) };
    }
}

/// What `name` in `directory` stands for; a link for itself.
///
/// # Errors
///
/// Those of fstatat(2).
pub fn stat_entry(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<(FileStat, bool)> {
    let mut raw = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstatat reads a string that ends in NUL and writes one `struct stat` to a pointer valid
    // for that; the descriptor is open while borrowed.
    let outcome = unsafe {
        libc::fstatat(
            directory.as_raw_fd(),
            name.as_ptr(),
            raw.as_mut_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstatat succeeded, so it has written the whole structure.
    let raw = unsafe { raw.assume_init() };
    Ok((stat_from(&raw), raw.st_mode & libc::S_IFMT == libc::S_IFLNK))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    use super::super::file::FileKind;
    use super::*;

    #[test]
    fn names_are_all_there_and_described() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "four").unwrap();
        fs::create_dir(directory.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("file", directory.path().join("link")).unwrap();
        let open = File::open(directory.path()).unwrap();
        let names = Names::of(open.try_clone().unwrap().into()).unwrap();
        let mut names: Vec<CString> = names.map(Result::unwrap).collect();
        names.sort();
        assert_eq!(names, [c"file", c"folder", c"link"].map(CStr::to_owned));
        let described: Vec<(FileKind, bool)> = names
            .iter()
            .map(|name| {
                let (stat, is_link) = stat_entry(open.as_fd(), name).unwrap();
                assert!(stat.kind != FileKind::Regular || stat.size == 4);
                (stat.kind, is_link)
            })
            .collect();
        assert_eq!(
            described,
            [
                (FileKind::Regular, false),
                (FileKind::Directory, false),
                (FileKind::Other, true)
            ]
        );
        let error = stat_entry(open.as_fd(), c"absent").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_no_directory_and_its_descriptor_is_closed() {
        let before = fs::read_dir("/proc/self/fd").unwrap().count();
        for _ in 0..200 {
            let error = Names::of(tempfile::tempfile().unwrap().into())
                .err()
                .unwrap();
            assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
        }
        // Other tests open descriptors too, but not so many.
        let after = fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(after < before + 150, "{before} {after}");
    }
}
