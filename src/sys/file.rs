//! Files: opened beneath a root, inspected, and read without waiting for a disk.
//!
//! Two ways to everything: one that only looks at what the kernel has in memory and returns
//! [`io::ErrorKind::WouldBlock`] otherwise, for a worker's own thread, and one that may wait for a
//! disk, for the file threads.

#![expect(
    unsafe_code,
    reason = "openat2, preadv2 and cachestat have no wrapper in the standard library"
)]

use std::ffi::CStr;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::config::Symlinks;

/// How far an open may go to find its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only names and inodes in memory: `WouldBlock` for all others, for what lies in another mount
    /// than its root, and for every open on kernels before 5.12 (RESOLVE_CACHED).
    Cached,
    /// To the disk: the caller must be allowed to wait.
    Disk,
}

/// What is known of an open file. Equal values mean the same file with the same content, as far as
/// the kernel's clock (1 to 10 ms per tick before Linux 6.13) tells two writes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// The device that holds it.
    pub device: u64,
    /// Its number on that device.
    pub inode: u64,
    /// Its length, in bytes.
    pub size: u64,
    /// When its content last changed, in nanoseconds since the epoch; its owner may set it at will.
    pub modified_ns: i128,
    /// When its content or inode last changed, in nanoseconds since the epoch; nobody may set it.
    pub changed_ns: i128,
    /// What it is.
    pub kind: FileKind,
}

/// The kinds of files that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A FIFO, device or socket.
    Other,
}

/// Opens the directory at `path`, itself found through links, as the root of later opens. It can be
/// searched but not read.
///
/// # Errors
///
/// `WouldBlock` as [`Reach`] says; otherwise those of openat(2), `ENOTDIR` among them.
pub fn open_root(path: &CStr, reach: Reach) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    match openat2(libc::AT_FDCWD, path, flags, 0, reach) {
        Err(error) if is_unknown_call(&error) && reach == Reach::Disk => {
            openat(libc::AT_FDCWD, path, flags)
        }
        outcome => outcome,
    }
}

/// Opens the file at `path`, relative and without `..`, beneath `root` for reading.
///
/// The open never waits for the other end of a FIFO or for a device, and never makes a terminal the
/// controlling one; such files are told by [`stat`]. Links are followed as `symlinks` says, those of
/// /proc that name no path never. Kernels before 5.6 (no openat2), and containers that forbid the
/// call, cannot follow a link and stay beneath the root: there [`Symlinks::Beneath`] is as
/// [`Symlinks::Deny`].
///
/// # Errors
///
/// `WouldBlock` as [`Reach`] says, and with [`Reach::Disk`] while another process holds a lease on
/// the file. `EXDEV` for a link that leaves the root and `ELOOP` or `ENOTDIR` for one that is not
/// followed; otherwise those of openat(2).
pub fn open_beneath(
    root: BorrowedFd<'_>,
    path: &CStr,
    symlinks: Symlinks,
    reach: Reach,
) -> io::Result<OwnedFd> {
    let resolve = match symlinks {
        Symlinks::Deny => {
            libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_SYMLINKS
        }
        Symlinks::Beneath => libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS,
        Symlinks::Follow => libc::RESOLVE_NO_MAGICLINKS,
    };
    // What is mounted beneath the root may be of any kind, and may make an open wait.
    let resolve = match reach {
        Reach::Cached => resolve | libc::RESOLVE_NO_XDEV,
        Reach::Disk => resolve,
    };
    match openat2(root.as_raw_fd(), path, READ_FLAGS, resolve, reach) {
        Err(error) if is_unknown_call(&error) && reach == Reach::Disk => {
            open_beneath_stepwise(root, path, symlinks)
        }
        Err(error) if error.raw_os_error() == Some(libc::EXDEV) && reach == Reach::Cached => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        outcome => outcome,
    }
}

/// What is known of `file`.
///
/// # Errors
///
/// Those of fstat(2).
pub fn stat(file: BorrowedFd<'_>) -> io::Result<FileStat> {
    let mut raw = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes one `struct stat` to a pointer valid for that; the descriptor is open
    // while borrowed.
    let outcome = unsafe { libc::fstat(file.as_raw_fd(), raw.as_mut_ptr()) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fstat succeeded, so it has written the whole structure.
    let raw = unsafe { raw.assume_init() };
    Ok(stat_from(&raw))
}

/// The device that `file` lies on. Nobody is asked who is not this machine's kernel
/// (`AT_STATX_DONT_SYNC`), unlike by [`stat`]: a worker may call it whatever the file system.
///
/// # Errors
///
/// Those of statx(2).
pub fn device(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut raw = std::mem::MaybeUninit::<libc::statx>::uninit();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the path is a literal that ends in NUL, statx writes one `struct statx` to a pointer
    // valid for that, and the descriptor is open while borrowed.
    let outcome =
        unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, 0, raw.as_mut_ptr()) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statx succeeded, so it has written the whole structure.
    let raw = unsafe { raw.assume_init() };
    Ok(libc::makedev(raw.stx_dev_major, raw.stx_dev_minor))
}

/// What `raw` says.
pub(super) fn stat_from(raw: &libc::stat) -> FileStat {
    let kind = match raw.st_mode & libc::S_IFMT {
        libc::S_IFREG => FileKind::Regular,
        libc::S_IFDIR => FileKind::Directory,
        _ => FileKind::Other,
    };
    FileStat {
        device: raw.st_dev,
        inode: raw.st_ino,
        size: u64::try_from(raw.st_size).unwrap_or(0),
        modified_ns: nanoseconds(raw.st_mtime, raw.st_mtime_nsec),
        changed_ns: nanoseconds(raw.st_ctime, raw.st_ctime_nsec),
        kind,
    }
}

/// Reads what of `file` at `offset` is in the page cache, without waiting (RWF_NOWAIT, Linux 4.14).
/// It may read less than is resident; 0 is the end of the file.
///
/// # Errors
///
/// `WouldBlock` when the first byte is not in memory; `Unsupported` on filesystems that cannot tell
/// (read in a file thread then); otherwise those of preadv2(2).
pub fn read_resident(
    file: BorrowedFd<'_>,
    into: &mut [IoSliceMut<'_>],
    offset: u64,
) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let count = into.len().min(IOVECS_MAX);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "at most IOVECS_MAX"
    )]
    let count = count as libc::c_int;
    retry(|| {
        // SAFETY: IoSliceMut has the layout of iovec, and the first `count` of the exclusively
        // borrowed slices are valid for the writes preadv2 makes; it keeps none of them.
        let read = unsafe {
            libc::preadv2(
                file.as_raw_fd(),
                into.as_mut_ptr().cast(),
                count,
                offset,
                libc::RWF_NOWAIT,
            )
        };
        usize::try_from(read).map_err(|_| {
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => io::ErrorKind::Unsupported.into(),
                _ => error,
            }
        })
    })
}

/// How many bytes from `offset` on, at most `length`, can be sent without waiting for a disk.
///
/// cachestat(2) (Linux 6.5) finds the pages in one or a few calls, but since 6.13 only for those who
/// may write the file, and it also counts pages whose read is still under way; so one-byte
/// [`read_resident`] probes, [`PROBE_STEP_BYTES`] apart and at most [`PROBES_MAX`], have the last
/// word, and bound what one call can promise. Pages between two probes may still have been
/// reclaimed: the promise is a good guess, and being wrong costs one disk read.
///
/// # Errors
///
/// `Unsupported` when neither way works on this filesystem; otherwise those of the two calls.
pub fn resident_bytes(file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
    let length = length.min(PROBE_STEP_BYTES * PROBES_MAX);
    let counted = match cached_prefix(file, offset, length) {
        Ok(counted) => Some(counted),
        Err(error) if is_unknown_call(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            None
        }
        Err(error) => return Err(error),
    };
    match probe(file, offset, counted.unwrap_or(length)) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => counted.ok_or(error),
        outcome => outcome,
    }
}

/// Whether the file system at `path` answers from this machine's own memory and disks: what opening
/// or asking after one of its files can wait for is then a disk, and RESOLVE_CACHED tells. One across
/// a network (NFS, SMB, Ceph) or behind a process (FUSE) may ask it for every open. Asking this may
/// wait just as long: not for workers. An unknown file system is not local.
///
/// # Errors
///
/// Those of statfs(2).
pub fn is_local(path: &CStr) -> io::Result<bool> {
    let mut raw = std::mem::MaybeUninit::<libc::statfs>::uninit();
    retry(|| {
        // SAFETY: `path` ends in NUL; statfs writes one `struct statfs` to a pointer valid for that.
        match unsafe { libc::statfs(path.as_ptr(), raw.as_mut_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })?;
    // SAFETY: statfs succeeded, so it has written the whole structure.
    let kind = unsafe { raw.assume_init() }.f_type;
    // Its width differs between architectures; the numbers are of 32 bits.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the magic numbers are of 32 bits"
    )]
    let magic = kind as u32;
    Ok(LOCAL_FILE_SYSTEMS.contains(&magic))
}

/// The distance between two probes of [`resident_bytes`], in bytes: the smallest read-ahead the
/// kernel starts with, so pages that came together are probed once.
pub const PROBE_STEP_BYTES: u64 = 16 * 1024;

/// The most probes of one [`resident_bytes`]: 1 MiB, at some 10 µs.
pub const PROBES_MAX: u64 = 64;

/// Without openat2: one directory at a time, no link followed. `path` has no `..`, so every step
/// leads further down.
fn open_beneath_stepwise(
    root: BorrowedFd<'_>,
    path: &CStr,
    symlinks: Symlinks,
) -> io::Result<OwnedFd> {
    if symlinks == Symlinks::Follow {
        return openat(root.as_raw_fd(), path, READ_FLAGS);
    }
    let mut names = path
        .to_bytes()
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty())
        .peekable();
    let mut directory: Option<OwnedFd> = None;
    while let Some(name) = names.next() {
        if name == b".." {
            return Err(io::Error::from_raw_os_error(libc::EXDEV));
        }
        let name = std::ffi::CString::new(name)?;
        let at = directory
            .as_ref()
            .map_or(root.as_raw_fd(), AsRawFd::as_raw_fd);
        if names.peek().is_none() {
            return openat(at, &name, READ_FLAGS | libc::O_NOFOLLOW);
        }
        let step = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        directory = Some(openat(at, &name, step)?);
    }
    Err(io::ErrorKind::NotFound.into())
}

fn openat(directory: RawFd, path: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    retry(|| {
        // SAFETY: `path` ends in NUL and outlives the call, which keeps no pointer; no flag here
        // creates a file, so no mode argument is read.
        let descriptor = unsafe { libc::openat(directory, path.as_ptr(), flags) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: openat just returned this descriptor, so it is open and nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    })
}

fn openat2(
    directory: RawFd,
    path: &CStr,
    flags: libc::c_int,
    resolve: u64,
    reach: Reach,
) -> io::Result<OwnedFd> {
    let how = OpenHow {
        flags: u64::from(flags.cast_unsigned()),
        mode: 0,
        resolve: match reach {
            Reach::Cached => resolve | libc::RESOLVE_CACHED,
            Reach::Disk => resolve,
        },
    };
    let mut tries_left = RACE_RETRIES_MAX;
    loop {
        let outcome = retry(|| openat2_once(directory, path, &how));
        let Err(error) = outcome else { return outcome };
        match (error.raw_os_error(), reach) {
            // Kernels before 5.12 know no RESOLVE_CACHED, those before 5.6 no openat2.
            (Some(libc::EINVAL | libc::ENOSYS | libc::EPERM), Reach::Cached) => {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // openat2(2): a rename ran while a link's ".." was resolved; userspace should retry.
            (Some(libc::EAGAIN), Reach::Disk) if tries_left > 0 => tries_left -= 1,
            _ => return Err(error),
        }
    }
}

fn openat2_once(directory: RawFd, path: &CStr, how: &OpenHow) -> io::Result<OwnedFd> {
    // SAFETY: `path` ends in NUL, `how` is a `struct open_how` of the size passed; the call reads
    // both while it runs and keeps neither.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory,
            path.as_ptr(),
            std::ptr::from_ref(how),
            size_of::<OpenHow>(),
        )
    };
    let descriptor = RawFd::try_from(descriptor).unwrap_or(-1);
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openat2 just returned this descriptor, so it is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The longest prefix of the range whose pages are all in the page cache, by bisection: pages
/// counted in a prefix equal its length exactly up to the first hole.
fn cached_prefix(file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
    let page_bytes = page_bytes();
    let first_page = offset / page_bytes;
    let Some(last) = length.checked_sub(1) else {
        return Ok(0);
    };
    let pages = offset.saturating_add(last) / page_bytes - first_page + 1;
    let all_cached = |pages: u64| -> io::Result<bool> {
        Ok(cached_pages(file, first_page * page_bytes, pages * page_bytes)? >= pages)
    };
    if all_cached(pages)? {
        return Ok(length);
    }
    let (mut cached, mut not_cached) = (0, pages);
    while not_cached - cached > 1 {
        let middle = cached.midpoint(not_cached);
        if all_cached(middle)? {
            cached = middle;
        } else {
            not_cached = middle;
        }
    }
    Ok(((first_page + cached) * page_bytes)
        .saturating_sub(offset)
        .min(length))
}

fn cached_pages(file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
    let range = CachestatRange { offset, length };
    let mut counts = Cachestat::default();
    // SAFETY: `range` and `counts` have the layout of the two structures cachestat reads and
    // writes, and outlive the call; the descriptor is open while borrowed.
    let outcome = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            std::ptr::from_ref(&range),
            std::ptr::from_mut(&mut counts),
            0_u32,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(counts.cached)
}

/// The prefix of the range that probes find readable: up to the first probe that would wait.
fn probe(file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
    let end = offset.saturating_add(length);
    let mut position = offset;
    while position < end {
        let mut byte = [0_u8];
        match read_resident(file, &mut [IoSliceMut::new(&mut byte)], position) {
            // The end of the file: what was promised so far is all there is.
            Ok(0) => return Ok(position - offset),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(position - offset);
            }
            Err(error) => return Err(error),
        }
        // On the boundaries of pages from the second probe on.
        position = (position / PROBE_STEP_BYTES + 1) * PROBE_STEP_BYTES;
    }
    Ok(length)
}

/// Whether the kernel, or a container's filter, does not know or allow a call at all. Docker before
/// 20.10 answered EPERM to calls its filter did not know.
fn is_unknown_call(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

fn nanoseconds(seconds: libc::time_t, nanoseconds: libc::c_long) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

fn page_bytes() -> u64 {
    // SAFETY: sysconf takes no pointer and has no precondition.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(PAGE_BYTES_DEFAULT).max(1)
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// `struct open_how` of linux/openat2.h.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `struct cachestat_range` of linux/mman.h.
#[repr(C)]
struct CachestatRange {
    offset: u64,
    length: u64,
}

/// `struct cachestat` of linux/mman.h.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

const READ_FLAGS: libc::c_int =
    libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;

/// The same on every architecture with the unified table (all since Linux 5.1 but alpha and mips).
const SYS_CACHESTAT: libc::c_long = 451;

/// IOV_MAX: preadv2 refuses more.
const IOVECS_MAX: usize = 1_024;

const RACE_RETRIES_MAX: u32 = 8;

const PAGE_BYTES_DEFAULT: u64 = 4_096;

/// By their numbers in statfs(2) and the kernel's linux/magic.h: ext2 to ext4, XFS, Btrfs, F2FS, ZFS,
/// bcachefs, tmpfs, ramfs, overlayfs (whose layers are taken to be local), squashfs, EROFS, ISO 9660,
/// FAT, exFAT, and user-mode Linux's view of its host.
const LOCAL_FILE_SYSTEMS: [u32; 15] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
    0x7371_7368,
    0xe0f5_e1e2,
    0x9660,
    0x4d44,
    0x2011_bab0,
    0x00c0_ffee,
];

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
