use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use super::*;

type Open = fn(BorrowedFd<'_>, &CStr, Symlinks) -> io::Result<OwnedFd>;

struct Tree {
    directory: tempfile::TempDir,
    root: OwnedFd,
}

impl Tree {
    /// A root with `inside` next to a directory it must not leave.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("root/sub")).unwrap();
        fs::write(directory.path().join("outside"), "outside").unwrap();
        fs::write(directory.path().join("root/inside"), "inside").unwrap();
        fs::write(directory.path().join("root/sub/deep"), "deep").unwrap();
        let root = open_root(&c_path(&directory.path().join("root")), Reach::Disk).unwrap();
        Self { directory, root }
    }

    fn link(&self, target: &str, name: &str) {
        symlink(target, self.directory.path().join("root").join(name)).unwrap();
    }

    fn read(&self, path: &str, symlinks: Symlinks) -> Result<String, i32> {
        let path = CString::new(path).unwrap();
        let open: [Open; 2] = [
            |root, path, symlinks| open_beneath(root, path, symlinks, Reach::Disk),
            open_beneath_stepwise,
        ];
        let [by_openat2, stepwise] = open.map(|open| {
            open(self.root.as_fd(), &path, symlinks)
                .map(|file| std::io::read_to_string(fs::File::from(file)).unwrap())
                .map_err(|error| error.raw_os_error().unwrap_or_default())
        });
        // The fallback opens nothing that openat2 refuses.
        if by_openat2.is_err() {
            assert!(stepwise.is_err(), "{path:?} {symlinks:?}");
        }
        if symlinks != Symlinks::Beneath {
            assert_eq!(
                by_openat2.is_ok(),
                stepwise.is_ok(),
                "{path:?} {symlinks:?}"
            );
        }
        by_openat2
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).unwrap()
}

const ALL: [Symlinks; 3] = [Symlinks::Deny, Symlinks::Beneath, Symlinks::Follow];

#[test]
fn plain_files_open_under_every_policy() {
    let tree = Tree::new();
    for symlinks in ALL {
        assert_eq!(tree.read("inside", symlinks).unwrap(), "inside");
        assert_eq!(tree.read("sub/deep", symlinks).unwrap(), "deep");
        assert_eq!(tree.read("absent", symlinks), Err(libc::ENOENT));
        assert_eq!(tree.read("inside/below", symlinks), Err(libc::ENOTDIR));
    }
}

/// Shares of the file threads go by it, for a root that is asked by its path and for an open file alike.
#[test]
fn the_device_of_an_open_file_is_the_one_that_its_path_tells() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let file = fs::File::create(&path).unwrap();
    let device = device(file.as_fd()).unwrap();
    assert_eq!(device, stat(file.as_fd()).unwrap().device);
    assert_eq!(device, fs::metadata(&path).unwrap().dev());
    let elsewhere = fs::File::open("/proc/self/status").unwrap();
    assert_ne!(device, super::device(elsewhere.as_fd()).unwrap());
}

#[test]
fn links_are_followed_as_the_policy_says() {
    let tree = Tree::new();
    tree.link("sub/deep", "to_file");
    tree.link("sub", "to_directory");
    tree.link("../outside", "leaving");
    tree.link("/etc/passwd", "absolute");
    tree.link("loop", "loop");
    for (path, deny, beneath, follow) in [
        ("to_file", false, true, true),
        ("to_directory/deep", false, true, true),
        ("leaving", false, false, true),
        ("absolute", false, false, true),
        ("loop", false, false, false),
    ] {
        assert_eq!(tree.read(path, Symlinks::Deny).is_ok(), deny, "{path}");
        assert_eq!(
            tree.read(path, Symlinks::Beneath).is_ok(),
            beneath,
            "{path}"
        );
        assert_eq!(tree.read(path, Symlinks::Follow).is_ok(), follow, "{path}");
    }
}

#[test]
fn parent_segments_do_not_leave_the_root() {
    let tree = Tree::new();
    for path in ["../outside", "sub/../../outside", "/etc/passwd"] {
        for symlinks in [Symlinks::Deny, Symlinks::Beneath] {
            let path_c = CString::new(path).unwrap();
            let root = tree.root.as_fd();
            let error = open_beneath(root, &path_c, symlinks, Reach::Disk).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV), "{path}");
            if path.contains("..") {
                let error = open_beneath_stepwise(root, &path_c, symlinks).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EXDEV), "{path}");
            }
        }
    }
}

#[test]
fn magic_links_are_never_followed() {
    let tree = Tree::new();
    tree.link("/proc/self/root/etc/passwd", "magic");
    for symlinks in ALL {
        let error = open_beneath(tree.root.as_fd(), c"magic", symlinks, Reach::Disk).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EXDEV)),
            "{error}"
        );
    }
}

#[test]
fn a_cached_open_finds_what_is_in_memory_and_never_asks_the_disk() {
    let tree = Tree::new();
    // Two opens: the first may find the kernel without the entry, none after it does.
    open_beneath(tree.root.as_fd(), c"inside", Symlinks::Deny, Reach::Disk).unwrap();
    match open_beneath(tree.root.as_fd(), c"inside", Symlinks::Deny, Reach::Cached) {
        Ok(file) => assert_eq!(stat(file.as_fd()).unwrap().size, 6),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
    }
    // A name nobody has looked up yet is not in memory, present or not.
    let error = open_beneath(tree.root.as_fd(), c"new", Symlinks::Deny, Reach::Cached).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn fifos_and_devices_open_at_once_and_are_told_apart() {
    let tree = Tree::new();
    let fifo = tree.directory.path().join("root/fifo");
    crate::sys::test_support::make_fifo(&fifo).unwrap();
    tree.link("/dev/zero", "device");
    for (name, symlinks) in [(c"fifo", Symlinks::Deny), (c"device", Symlinks::Follow)] {
        let file = open_beneath(tree.root.as_fd(), name, symlinks, Reach::Disk).unwrap();
        assert_eq!(
            stat(file.as_fd()).unwrap().kind,
            FileKind::Other,
            "{name:?}"
        );
    }
}

#[test]
fn stat_tells_size_kind_and_change() {
    let tree = Tree::new();
    let path = tree.directory.path().join("root/inside");
    let before = stat(fs::File::open(&path).unwrap().as_fd()).unwrap();
    assert_eq!((before.size, before.kind), (6, FileKind::Regular));
    assert_eq!(stat(tree.root.as_fd()).unwrap().kind, FileKind::Directory);
    let long_ago = std::time::SystemTime::UNIX_EPOCH - std::time::Duration::from_millis(1_500);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(long_ago).unwrap();
    let after = stat(file.as_fd()).unwrap();
    assert_eq!(after.modified_ns, -1_500_000_000);
    assert!(after.changed_ns > 0);
    assert_eq!(after.inode, before.inode);
}

#[test]
fn resident_content_is_read_and_counted_without_waiting() {
    let mut file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    std::io::Write::write_all(&mut file, &content).unwrap();
    let length = content.len() as u64;

    // Just written, so in the page cache.
    let resident = resident_bytes(file.as_fd(), 1_000, length - 1_000).unwrap();
    assert_eq!(resident, length - 1_000);
    assert_eq!(resident_bytes(file.as_fd(), 0, 0).unwrap(), 0);
    // Nothing behind the end is promised.
    assert!(resident_bytes(file.as_fd(), length - 10, u64::MAX / 2).unwrap() <= PROBE_STEP_BYTES);
    assert_eq!(resident_bytes(file.as_fd(), length + 1, 10).unwrap(), 0);

    let (mut first, mut second) = (vec![0; 5], vec![0; 9]);
    let mut slices = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    match read_resident(file.as_fd(), &mut slices, 7) {
        Ok(read) => {
            assert_eq!(read, 14);
            assert_eq!([first, second].concat(), content[7..21]);
        }
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
    }
}

#[test]
fn what_left_the_page_cache_is_not_promised() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&vec![1; 256 * 1024], 0).unwrap();
    file.sync_all().unwrap();
    // SAFETY: posix_fadvise takes no pointer; the descriptor is open.
    let advised =
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 64 * 1024, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(advised, 0);
    // Filesystems in memory keep their pages whatever they are advised.
    let kept = cached_prefix(file.as_fd(), 0, 256 * 1024);
    let resident = resident_bytes(file.as_fd(), 0, 256 * 1024).unwrap();
    match kept {
        Ok(kept) => assert!(resident <= kept, "{resident} of {kept}"),
        Err(error) => assert!(is_unknown_call(&error), "{error}"),
    }
    assert!(resident >= 64 * 1024, "{resident}");
}

#[test]
fn a_hole_in_the_cache_ends_the_prefix_at_its_page() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 * page_bytes()).unwrap();
    // Holes of a sparse file enter the page cache only when read.
    let page = vec![0; usize::try_from(page_bytes()).unwrap()];
    for number in [0, 1, 2, 5] {
        file.write_all_at(&page, number * page_bytes()).unwrap();
    }
    match cached_prefix(file.as_fd(), 100, 60 * page_bytes()) {
        Ok(prefix) => assert_eq!(prefix, 3 * page_bytes() - 100),
        Err(error) => assert!(is_unknown_call(&error), "{error}"),
    }
}

#[test]
fn local_file_systems_are_told_from_others() {
    let local = tempfile::tempdir().unwrap();
    assert!(is_local(&c_path(local.path())).unwrap());
    assert!(is_local(c"/dev/shm").unwrap(), "tmpfs");
    // A process is asked for what is in it: this one.
    assert!(!is_local(c"/proc").unwrap());
    let error = is_local(c"/no/such/directory").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn an_open_from_memory_stays_in_its_mount() {
    let open = |reach| {
        let root = open_root(c"/", reach).unwrap();
        open_beneath(root.as_fd(), c"proc/version", Symlinks::Deny, reach)
    };
    assert!(open(Reach::Disk).is_ok());
    // Twice, so that the names are in memory.
    for _ in 0..2 {
        let error = open(Reach::Cached).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
}
