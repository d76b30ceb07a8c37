//! The page that lists a directory.
//!
//! It shows what the site would serve and nothing else: names that begin with a dot, links that are
//! not followed and special files are left out.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;

use super::cache::{Root, system_time};
use super::error_page::push_escaped_html;
use super::path::{is_shown, push_escaped_path};
use crate::config::Symlinks;
use crate::limits::{LISTING_BYTES_MAX, LISTING_ENTRIES_MAX};
use crate::sys::directory::{Names, stat_entry};
use crate::sys::file::{self, FileKind, FileStat, Reach};

/// A listing.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The page, in HTML.
    pub(crate) page: Vec<u8>,
    /// Whether there is more in the directory than on the page.
    pub(crate) is_cut: bool,
}

/// Lists the directory at `path` (relative, without `..`, empty for the root itself) beneath `root`.
/// Waits for the disk: for the file threads.
///
/// # Errors
///
/// Those of the system.
pub(crate) fn make(root: &Root, path: &CStr) -> io::Result<Listing> {
    let opened_root = file::open_root(&root.path, Reach::Disk)?;
    let place = match path.is_empty() {
        true => c".",
        false => path,
    };
    let directory = file::open_beneath(opened_root.as_fd(), place, root.symlinks, Reach::Disk)?;
    let names = Names::of(directory.try_clone()?)?;
    let reader = Reader {
        root,
        opened_root,
        directory,
        path,
    };
    let (mut entries, mut is_cut) = reader.entries(names)?;
    entries.sort_unstable_by(|a, b| (!a.is_directory, &a.name).cmp(&(!b.is_directory, &b.name)));
    let page = page(path, &entries, &mut is_cut);
    Ok(Listing { page, is_cut })
}

struct Reader<'a> {
    root: &'a Root,
    opened_root: OwnedFd,
    directory: OwnedFd,
    path: &'a CStr,
}

struct Entry {
    name: CString,
    is_directory: bool,
    stat: FileStat,
}

impl Reader<'_> {
    /// What is shown, in no order, and whether there is more of it. Every name counts, shown or not:
    /// each costs a call.
    fn entries(&self, names: Names) -> io::Result<(Vec<Entry>, bool)> {
        let mut entries = Vec::new();
        for (count, name) in names.enumerate() {
            if count == LISTING_ENTRIES_MAX {
                return Ok((entries, true));
            }
            let name = name?;
            if !is_shown(name.to_bytes(), self.path.is_empty(), self.root.dotfiles) {
                continue;
            }
            if let Some(stat) = self.stat(&name) {
                entries.push(Entry {
                    is_directory: stat.kind == FileKind::Directory,
                    name,
                    stat,
                });
            }
        }
        Ok((entries, false))
    }

    /// What is known of the file or directory `name`; `None` when it is neither, or not served.
    fn stat(&self, name: &CStr) -> Option<FileStat> {
        // It may be gone by now, which is no failure of the listing.
        let (stat, is_link) = stat_entry(self.directory.as_fd(), name).ok()?;
        let stat = match is_link {
            false => stat,
            true => self.stat_target(name)?,
        };
        (stat.kind != FileKind::Other).then_some(stat)
    }

    /// What the link `name` leads to, as a request for it would find it.
    fn stat_target(&self, name: &CStr) -> Option<FileStat> {
        if self.root.symlinks == Symlinks::Deny {
            return None;
        }
        let directory = self.path.to_bytes();
        let separator: &[u8] = if directory.is_empty() { b"" } else { b"/" };
        let path = CString::new([directory, separator, name.to_bytes()].concat()).ok()?;
        let root: BorrowedFd<'_> = self.opened_root.as_fd();
        let target = file::open_beneath(root, &path, self.root.symlinks, Reach::Disk).ok()?;
        file::stat(target.as_fd()).ok()
    }
}

fn page(path: &CStr, entries: &[Entry], is_cut: &mut bool) -> Vec<u8> {
    let mut title = String::from("Index of /");
    push_escaped_html(&mut title, &String::from_utf8_lossy(path.to_bytes()));
    if !path.is_empty() {
        title.push('/');
    }
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <h1>{title}</h1>\n<table>\n<tr><th>Name<th>Bytes<th>Changed\n"
    );
    if !path.is_empty() {
        page.push_str("<tr><td><a href=\"../\">../</a><td><td>\n");
    }
    for entry in entries {
        if page.len() + ROW_BYTES_MAX + END_BYTES_MAX > LISTING_BYTES_MAX {
            *is_cut = true;
            break;
        }
        push_row(&mut page, entry);
    }
    page.push_str("</table>\n");
    if *is_cut {
        page.push_str("<p>There is more than is shown here.</p>\n");
    }
    page.into_bytes()
}

fn push_row(page: &mut String, entry: &Entry) {
    let name = entry.name.to_bytes();
    let slash = if entry.is_directory { "/" } else { "" };
    // With "./", a name with a colon does not begin with a scheme (RFC 3986 4.2).
    let mut reference = b"./".to_vec();
    push_escaped_path(&mut reference, name);
    page.push_str("<tr><td><a href=\"");
    page.push_str(&String::from_utf8_lossy(&reference));
    page.push_str(slash);
    page.push_str("\">");
    push_escaped_html(page, &String::from_utf8_lossy(name));
    page.push_str(slash);
    page.push_str("</a><td>");
    if !entry.is_directory {
        page.push_str(&entry.stat.size.to_string());
    }
    page.push_str("<td>");
    page.push_str(&httpdate::fmt_http_date(system_time(
        entry.stat.modified_ns,
    )));
    page.push('\n');
}

/// The value of a listing's Content-Type.
pub(crate) const CONTENT_TYPE: Bytes = Bytes::from_static(b"text/html; charset=utf-8");

/// A row at its longest: 255 bytes of a name, three for each in the reference and up to six in the
/// text, and what stands around them.
const ROW_BYTES_MAX: usize = 255 * 9 + 256;

/// What follows the last row.
const END_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::serve::testing::c_path;

    fn root(path: &Path, symlinks: Symlinks) -> Root {
        Root {
            path: c_path(path).into(),
            symlinks,
            dotfiles: false,
            headers: Arc::new([]),
            is_remote: false,
            device: 0,
        }
    }

    fn list(root: &Root, path: &CStr) -> String {
        let listing = make(root, path).unwrap();
        assert!(!listing.is_cut);
        String::from_utf8(listing.page).unwrap()
    }

    /// The references of a page, in order.
    fn references(page: &str) -> Vec<&str> {
        let pieces = page.split("href=\"").skip(1);
        pieces
            .map(|piece| piece.split('"').next().unwrap())
            .collect()
    }

    #[test]
    fn directories_go_first_and_names_are_sorted() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b", "a.txt", "c"] {
            fs::write(directory.path().join(name), "12345").unwrap();
        }
        for name in ["z", "d"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let root = root(directory.path(), Symlinks::Beneath);
        let page = list(&root, c"");
        assert_eq!(references(&page), ["./d/", "./z/", "./a.txt", "./b", "./c"]);
        assert!(page.contains(">a.txt</a><td>5<td>"), "{page}");
        assert!(page.contains("<h1>Index of /</h1>"));
        let page = list(&root, c"d");
        assert_eq!(references(&page), ["../"]);
        assert!(page.contains("<h1>Index of /d/</h1>"));
    }

    #[test]
    fn names_mean_themselves() {
        let directory = tempfile::tempdir().unwrap();
        for name in [
            &b"<b>\"&'"[..],
            b"a:b",
            b"%41 ?#",
            b"\xff\n",
            "\u{e9}".as_bytes(),
        ] {
            fs::write(directory.path().join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
        }
        let page = list(&root(directory.path(), Symlinks::Deny), c"");
        assert_eq!(
            references(&page),
            [
                "./%2541%20%3F%23",
                "./%3Cb%3E%22%26%27",
                "./a%3Ab",
                "./%C3%A9",
                "./%FF%0A"
            ]
        );
        assert!(page.contains(">&lt;b&gt;&quot;&amp;&#39;</a>"), "{page}");
        assert!(page.contains(">\u{e9}</a>") && page.contains(">\u{fffd}\n</a>"));
    }

    #[test]
    fn only_what_is_served_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("root");
        for path in ["root/d", "root/.well-known", "root/.git", "out"] {
            fs::create_dir_all(directory.path().join(path)).unwrap();
        }
        for path in ["root/f", "root/.env", "root/d/.well-known", "secret"] {
            fs::write(directory.path().join(path), "").unwrap();
        }
        let _socket = std::os::unix::net::UnixListener::bind(inner.join("socket")).unwrap();
        for (to, name) in [
            ("d", "in"),
            ("../secret", "away"),
            ("nowhere", "none"),
            ("/dev/null", "null"),
        ] {
            symlink(to, inner.join(name)).unwrap();
        }
        for (symlinks, shown) in [
            (Symlinks::Deny, &["./.well-known/", "./d/", "./f"][..]),
            (
                Symlinks::Beneath,
                &["./.well-known/", "./d/", "./in/", "./f"],
            ),
            (
                Symlinks::Follow,
                &["./.well-known/", "./d/", "./in/", "./away", "./f"],
            ),
        ] {
            let mut root = root(&inner, symlinks);
            assert_eq!(references(&list(&root, c"")), shown, "{symlinks:?}");
            assert_eq!(references(&list(&root, c"d")), ["../"]);
            root.dotfiles = true;
            let with_dots = list(&root, c"");
            assert!(with_dots.contains("./.git/") && with_dots.contains("./.env"));
        }
    }

    #[test]
    fn entries_and_bytes_are_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let root = root(directory.path(), Symlinks::Deny);
        // Each byte of these names takes nine on the page.
        let long = "\"".repeat(240);
        for number in 0..600 {
            fs::write(directory.path().join(format!("{long}{number}")), "").unwrap();
        }
        let listing = make(&root, c"").unwrap();
        assert!(listing.is_cut && listing.page.len() <= LISTING_BYTES_MAX);
        assert!(listing.page.len() > LISTING_BYTES_MAX - 2 * ROW_BYTES_MAX);
        assert!(listing.page.ends_with(b"more than is shown here.</p>\n"));

        let directory = tempfile::tempdir().unwrap();
        let root = Root {
            path: c_path(directory.path()).into(),
            ..root
        };
        for number in 0..=LISTING_ENTRIES_MAX {
            fs::write(directory.path().join(number.to_string()), "").unwrap();
        }
        let listing = make(&root, c"").unwrap();
        assert!(listing.is_cut);
        let page = String::from_utf8(listing.page).unwrap();
        assert_eq!(references(&page).len(), LISTING_ENTRIES_MAX);
        fs::remove_file(directory.path().join("0")).unwrap();
        assert!(!make(&root, c"").unwrap().is_cut);
    }

    #[test]
    fn what_is_no_directory_has_no_listing() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("f"), "").unwrap();
        let root = root(directory.path(), Symlinks::Beneath);
        for (path, error) in [(c"f", libc::ENOTDIR), (c"absent", libc::ENOENT)] {
            assert_eq!(make(&root, path).unwrap_err().raw_os_error(), Some(error));
        }
    }
}
