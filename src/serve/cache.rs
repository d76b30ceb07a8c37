//! The open-file cache of one worker.
//!
//! It remembers, for a bounded number of paths, the open file with all that a response needs, and
//! for a bounded number of others that there is no file. After [`REVALIDATE_AFTER`] an entry is used
//! again only when opening its path anew leads to the same file in the same state, so a replaced,
//! edited or removed file, a changed link, and changed permissions are seen within a second.
//!
//! Opening looks first at what the kernel has in memory; where a disk might be needed, the work goes
//! to the file threads, and other requests for the same path wait for that one outcome.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use bytes::Bytes;

use super::bounded_map::BoundedMap;
use super::coded::Siblings;
use super::describe;
use super::flight::Flights;
use super::listing::{self, Listing};
use super::open::{Lookup, Opened, OpenedContent, OpenedFile};
use super::{FileThreads, JobError};
use crate::config::{HeaderRule, Symlinks};
use crate::limits::{
    CACHED_CONTENT_BYTES_PER_WORKER_MAX, NEGATIVE_ENTRIES_PER_WORKER_MAX,
    NEGATIVE_ENTRY_PATH_BYTES_MAX,
};
use crate::message::{FieldBlock, Now};
use crate::metrics::{self, Counter};
use crate::sys::file::{FileStat, Reach};

/// How long an entry is believed. Half of what is promised (fresh within a second), so that a
/// worker's clock may be as coarse as its timer.
pub const REVALIDATE_AFTER: Duration = Duration::from_millis(500);

/// One site's directory.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its path.
    pub path: Arc<CStr>,
    /// Which links beneath it are followed.
    pub symlinks: Symlinks,
    /// Whether listings show names that begin with a dot.
    pub dotfiles: bool,
    /// Fields for its files.
    pub headers: Arc<[HeaderRule]>,
    /// Whether its file system may wait for somebody else, so that the worker asks it nothing.
    pub is_remote: bool,
    /// The device it lies on, whose share of the file threads its files take; 0 when not known.
    pub device: u64,
}

/// A file as it is served.
#[derive(Debug)]
pub struct OpenFile {
    /// Its bytes.
    pub content: Content,
    /// Its length, in bytes.
    pub size: u64,
    /// The instant in Last-Modified, never later than when the file was opened (RFC 9110 8.8.2.1).
    /// A listing has none.
    pub modified: Option<SystemTime>,
    /// The value of ETag (RFC 9110 8.8.3), made from device, inode, size and the times of the last
    /// changes, hashed: inode numbers are nobody's business.
    ///
    /// Strong once the last change is [`SETTLED_AFTER`] ago. Until then it is weak, and another than
    /// the strong one that follows: two changes in one tick of the kernel's clock look alike. The
    /// one change it cannot see is a write through a shared mapping that the kernel has not yet
    /// been told of.
    pub etag: Bytes,
    /// The fields of every response with its bytes.
    pub fields: Rc<FieldBlock>,
    /// What is known of the same file in content codings.
    pub(crate) siblings: Siblings,
    /// What tells this state of the file from another; `None` for a listing.
    stat: Option<FileStat>,
    settled: bool,
    /// See [`Root::is_remote`].
    pub(crate) is_remote: bool,
}

/// The bytes of an [`OpenFile`].
#[derive(Debug)]
pub enum Content {
    /// All of them. The file itself is closed again.
    Bytes(Bytes),
    /// The open file.
    File(Arc<File>),
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub enum Found {
    /// A file.
    File(Rc<OpenFile>),
    /// A directory.
    Directory,
}

/// Why a path leads to nothing that could be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no file, or one that is not served: special, or through a link that is not followed.
    NotFound,
    /// This process may not read it.
    Forbidden,
    /// The file threads, the descriptors or the memory are used up, or somebody holds a lease.
    Overloaded,
    /// The system failed otherwise.
    Failed,
}

/// The cache. See the module documentation. Not `Send`: each worker has its own.
pub struct Cache<T> {
    threads: T,
    roots: Vec<Root>,
    state: RefCell<State>,
    /// What the file threads are working on.
    flights: Flights<Result<Found, Refusal>>,
}

struct State {
    /// Invariant: `content_bytes` is the sum of the sizes of all [`Content::Bytes`] in here.
    files: BoundedMap<Entry<Rc<OpenFile>>>,
    content_bytes: usize,
    /// Directories and refusals that may be remembered.
    others: BoundedMap<Entry<Result<(), Refusal>>>,
}

struct Entry<V> {
    value: V,
    checked_at: Instant,
    believed_until: Instant,
}

impl<V> Entry<V> {
    fn new(value: V, now: Now) -> Self {
        Self {
            value,
            checked_at: now.monotonic,
            believed_until: now.monotonic + REVALIDATE_AFTER,
        }
    }
}

/// What the cache itself knows of a path.
enum Known {
    Fresh(Result<Found, Refusal>),
    Stale {
        file: Rc<OpenFile>,
        /// Since it was last looked at.
        age: Duration,
    },
    Nothing,
}

impl<T: FileThreads> Cache<T> {
    /// An empty cache of at most `open_files_max` files of these sites. Cold work runs on `threads`.
    pub fn new(roots: Vec<Root>, open_files_max: usize, threads: T) -> Self {
        let state = State {
            files: BoundedMap::new(roots.len(), open_files_max),
            content_bytes: 0,
            others: BoundedMap::new(roots.len(), NEGATIVE_ENTRIES_PER_WORKER_MAX),
        };
        Self {
            threads,
            flights: Flights::new(roots.len()),
            roots,
            state: RefCell::new(state),
        }
    }

    /// What `path` (relative, without `..`, not empty) leads to beneath the root of `site`, as it is
    /// now or was at most [`REVALIDATE_AFTER`] before `now`. A cold open adds the time it takes.
    ///
    /// # Errors
    ///
    /// Why there is nothing to serve.
    pub async fn find(&self, site: usize, path: &CStr, now: Now) -> Result<Found, Refusal> {
        match self.find_known(site, path.to_bytes(), now) {
            Some(outcome) => outcome,
            // Its future is many times this one's.
            None => Box::pin(self.find_or_open(site, path, now)).await,
        }
    }

    async fn find_or_open(&self, site: usize, path: &CStr, now: Now) -> Result<Found, Refusal> {
        loop {
            let known = self
                .state
                .borrow_mut()
                .known(site, path.to_bytes(), now.monotonic);
            let (previous, usable) = match known {
                Known::Fresh(outcome) => {
                    metrics::count(Counter::FileCacheHits);
                    return outcome;
                }
                Known::Stale { file, age } => {
                    (Some(file.clone()), Some(file).filter(|_| age < STALE_FOR))
                }
                Known::Nothing => (None, None),
            };
            if let Some(landing) = self.flights.join(site, path) {
                match landing.await {
                    Some(outcome) => return outcome,
                    // The one who waited for the file thread is gone: start over.
                    None => continue,
                }
            }
            metrics::count(Counter::FileCacheMisses);
            return match (self.open(site, path, previous, now).await, usable) {
                // Better a little old than not at all.
                (Err(Refusal::Overloaded), Some(file)) => Ok(Found::File(file)),
                (outcome, _) => outcome,
            };
        }
    }

    /// As [`Cache::find`], from what the cache knows: `None` where it would have to look.
    /// A path that no file can have leads to nothing it knows.
    pub fn find_known(&self, site: usize, path: &[u8], now: Now) -> Option<Result<Found, Refusal>> {
        match self.state.borrow_mut().known(site, path, now.monotonic) {
            Known::Fresh(outcome) => {
                metrics::count(Counter::FileCacheHits);
                Some(outcome)
            }
            Known::Stale { .. } | Known::Nothing => None,
        }
    }

    /// Gives up files that nobody has asked for in a minute: a removed one keeps its blocks,
    /// and its file system busy, as long as it is open. Looks at a part of the cache; to be called
    /// again and again.
    pub fn sweep(&self, now: Instant) {
        let is_unused = |entry: &Entry<Rc<OpenFile>>| {
            now.saturating_duration_since(entry.checked_at) >= UNUSED_AFTER
        };
        let mut state = self.state.borrow_mut();
        let swept = state.files.sweep(SWEEP_ENTRIES, is_unused);
        let files: Vec<_> = swept.into_iter().map(|entry| entry.value).collect();
        for file in &files {
            state.content_bytes -= file.content_bytes();
        }
        drop(state);
        self.retire(files);
    }

    /// Gives up descriptors, because there is no other left.
    fn shed(&self) {
        let mut state = self.state.borrow_mut();
        let mut files = Vec::new();
        for _ in 0..SHED_ENTRIES {
            let Some(evicted) = state.files.evict() else {
                break;
            };
            state.content_bytes -= evicted.value.content_bytes();
            files.push(evicted.value);
        }
        drop(state);
        self.retire(files);
    }

    /// The page that lists the directory `path` (relative, without `..`, empty for the root) beneath
    /// the root of `site`, as fresh as [`Cache::find`] keeps files. It is made by the file threads.
    ///
    /// # Errors
    ///
    /// Why there is nothing to list.
    pub async fn list(&self, site: usize, path: &CStr, now: Now) -> Result<Rc<OpenFile>, Refusal> {
        // No file has a path that ends in '/'.
        let key = [path.to_bytes(), b"/\0"].concat();
        let key = CString::from_vec_with_nul(key).map_err(|_| Refusal::NotFound)?;
        loop {
            let known = self
                .state
                .borrow_mut()
                .known(site, key.to_bytes(), now.monotonic);
            let landed = match known {
                Known::Fresh(outcome) => {
                    metrics::count(Counter::FileCacheHits);
                    outcome
                }
                Known::Stale { .. } | Known::Nothing => match self.flights.join(site, &key) {
                    None => {
                        metrics::count(Counter::FileCacheMisses);
                        return self.make_listing(site, path, &key, now).await;
                    }
                    Some(landing) => match landing.await {
                        Some(outcome) => outcome,
                        None => continue,
                    },
                },
            };
            return match landed? {
                Found::File(page) => Ok(page),
                Found::Directory => Err(Refusal::NotFound),
            };
        }
    }

    async fn make_listing(
        &self,
        site: usize,
        path: &CStr,
        key: &CStr,
        now: Now,
    ) -> Result<Rc<OpenFile>, Refusal> {
        let Some(root) = self.roots.get(site) else {
            return Err(Refusal::NotFound);
        };
        let takeoff = self.flights.take_off(site, key);
        let (root_owned, path_owned) = (root.clone(), CString::from(path));
        let job = move || listing::make(&root_owned, &path_owned);
        let outcome = match self.threads.run(root.device, job).await {
            Ok(Ok(Listing { page, is_cut })) => {
                if is_cut {
                    metrics::count(Counter::ListingsCut);
                }
                let page = Rc::new(OpenFile::listing(page, key, &root.headers));
                self.keep_file(site, key, Rc::clone(&page), now);
                Ok(page)
            }
            Ok(Err(error)) => {
                let refusal = refusal(&error);
                self.keep_other(site, key, Err(refusal), now);
                Err(refusal)
            }
            Err(error) => Err(no_thread(error)),
        };
        takeoff.land(outcome.clone().map(Found::File));
        outcome
    }

    async fn open(
        &self,
        site: usize,
        path: &CStr,
        previous: Option<Rc<OpenFile>>,
        now: Now,
    ) -> Result<Found, Refusal> {
        let Some(root) = self.roots.get(site) else {
            return Err(Refusal::NotFound);
        };
        let lookup = Lookup {
            root: &root.path,
            path,
            symlinks: root.symlinks,
            previous: previous
                .as_ref()
                .filter(|file| file.settled)
                .and_then(|file| file.stat),
            settled_until_ns: since_epoch_ns(now.wall) - SETTLED_AFTER.as_nanos().cast_signed(),
        };
        if !root.is_remote {
            match lookup.open(Reach::Cached) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return self.keep(site, path, previous, outcome, now),
            }
        }

        metrics::count(Counter::FileOpensCold);
        let takeoff = self.flights.take_off(site, path);
        let (root_path, path_owned) = (Arc::clone(&root.path), CString::from(path));
        let (symlinks, previous_stat) = (lookup.symlinks, lookup.previous);
        let settled_until_ns = lookup.settled_until_ns;
        let job = move || {
            Lookup {
                root: &root_path,
                path: &path_owned,
                symlinks,
                previous: previous_stat,
                settled_until_ns,
            }
            .open(Reach::Disk)
        };
        let outcome = match self.threads.run(root.device, job).await {
            Ok(outcome) => self.keep(site, path, previous, outcome, now),
            Err(error) => Err(no_thread(error)),
        };
        takeoff.land(outcome.clone());
        outcome
    }

    /// Puts the outcome of an open into the cache.
    fn keep(
        &self,
        site: usize,
        path: &CStr,
        previous: Option<Rc<OpenFile>>,
        opened: io::Result<Opened>,
        now: Now,
    ) -> Result<Found, Refusal> {
        let file = match (opened, previous) {
            (Ok(Opened::Unchanged), Some(previous)) => previous,
            (Ok(Opened::File(opened)), _) => {
                let Some(root) = self.roots.get(site) else {
                    return Err(Refusal::Failed);
                };
                Rc::new(OpenFile::new(opened, path, root, now.wall))
            }
            (Ok(Opened::Unchanged), None) => return Err(Refusal::Failed),
            (Ok(Opened::Directory), _) => {
                self.keep_other(site, path, Ok(()), now);
                return Ok(Found::Directory);
            }
            (Ok(Opened::Special), _) => {
                self.keep_other(site, path, Err(Refusal::NotFound), now);
                return Err(Refusal::NotFound);
            }
            (Err(error), _) => {
                let refusal = refusal(&error);
                if refusal == Refusal::Failed {
                    tracing::warn!(?path, %error, "cannot open a file");
                }
                if let Some(libc::EMFILE | libc::ENFILE) = error.raw_os_error() {
                    self.shed();
                }
                self.keep_other(site, path, Err(refusal), now);
                return Err(refusal);
            }
        };
        self.keep_file(site, path, Rc::clone(&file), now);
        Ok(Found::File(file))
    }

    fn keep_file(&self, site: usize, path: &CStr, file: Rc<OpenFile>, now: Now) {
        let entry = Entry::new(file, now);
        let mut state = self.state.borrow_mut();
        state.others.remove(site, path);
        let retired = state.insert_file(site, path, entry);
        drop(state);
        self.retire(retired);
    }

    fn keep_other(&self, site: usize, path: &CStr, outcome: Result<(), Refusal>, now: Now) {
        let mut state = self.state.borrow_mut();
        let retired = match outcome {
            // It says nothing about the file.
            Err(Refusal::Overloaded) => None,
            _ => state.remove_file(site, path),
        };
        // What may be over in a moment is not remembered.
        let lasting = !matches!(outcome, Err(Refusal::Overloaded | Refusal::Failed));
        if lasting && path.count_bytes() <= NEGATIVE_ENTRY_PATH_BYTES_MAX {
            state.others.insert(site, path, Entry::new(outcome, now));
        }
        drop(state);
        self.retire(retired);
    }

    /// Closes large files on the file threads: if this is the last name or descriptor of a removed
    /// file, closing it frees its blocks, which takes long for a large one.
    fn retire(&self, files: impl IntoIterator<Item = Rc<OpenFile>>) {
        for file in files {
            if let Content::File(descriptor) = &file.content
                && file.size >= RETIRED_BYTES_MIN
            {
                let descriptor = Arc::clone(descriptor);
                let device = file.stat.map_or(0, |stat| stat.device);
                drop(file);
                // The first poll queues it; nobody waits for the end.
                let job = pin!(self.threads.run(device, move || drop(descriptor)));
                let _ = job.poll(&mut Context::from_waker(Waker::noop()));
            }
        }
    }
}

impl OpenFile {
    fn new(opened: OpenedFile, path: &CStr, root: &Root, wall: SystemTime) -> Self {
        let OpenedFile {
            stat,
            settled,
            content,
        } = opened;
        let modified = system_time(stat.modified_ns).min(wall);
        let etag = etag(&stat, settled);
        let last_modified = Bytes::from(httpdate::fmt_http_date(modified));
        let fields = describe::of_file(&etag, &last_modified, &root.headers, path.to_bytes());
        Self {
            content: match content {
                OpenedContent::Bytes(bytes) => Content::Bytes(bytes.into()),
                OpenedContent::Descriptor(file) => Content::File(Arc::new(file)),
            },
            size: stat.size,
            modified: Some(modified),
            etag,
            fields: Rc::new(fields),
            siblings: Siblings::default(),
            stat: Some(stat),
            settled,
            is_remote: root.is_remote,
        }
    }

    /// The listing `page` of the directory at `path`, which ends in '/'.
    fn listing(page: Vec<u8>, path: &CStr, rules: &[HeaderRule]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&page);
        let etag = entity_tag(context, true);
        let described = describe::Described {
            etag: &etag,
            last_modified: None,
            content_type: listing::CONTENT_TYPE,
        };
        let path = path.to_bytes();
        let path = if path == b"/" { b"" } else { path };
        let fields = described.fields(rules, path);
        Self {
            size: page.len() as u64,
            content: Content::Bytes(page.into()),
            modified: None,
            etag,
            fields: Rc::new(fields),
            siblings: Siblings::default(),
            stat: None,
            settled: false,
            is_remote: false,
        }
    }

    /// How many bytes of content the cache holds for it.
    fn content_bytes(&self) -> usize {
        match &self.content {
            Content::Bytes(bytes) => bytes.len(),
            Content::File(_) => 0,
        }
    }
}

impl State {
    fn known(&mut self, site: usize, path: &[u8], now: Instant) -> Known {
        if let Some(entry) = self.files.get_mut(site, path) {
            let file = Rc::clone(&entry.value);
            return if now < entry.believed_until {
                Known::Fresh(Ok(Found::File(file)))
            } else {
                let age = now.saturating_duration_since(entry.checked_at);
                Known::Stale { file, age }
            };
        }
        match self.others.get_mut(site, path) {
            Some(entry) if now < entry.believed_until => {
                Known::Fresh(entry.value.map(|()| Found::Directory))
            }
            _ => Known::Nothing,
        }
    }

    /// Inserts a file and evicts others until the bounds hold. Returns what is no longer held.
    fn insert_file(
        &mut self,
        site: usize,
        path: &CStr,
        entry: Entry<Rc<OpenFile>>,
    ) -> Vec<Rc<OpenFile>> {
        let mut removed = Vec::new();
        let same = self
            .files
            .get_mut(site, path.to_bytes())
            .is_some_and(|present| Rc::ptr_eq(&present.value, &entry.value));
        if !same {
            // A replaced file makes room first, so that it is not counted twice.
            removed.extend(self.remove_file(site, path));
        }
        let added = if same { 0 } else { entry.value.content_bytes() };
        while self.content_bytes + added > CACHED_CONTENT_BYTES_PER_WORKER_MAX {
            let Some(evicted) = self.files.evict() else {
                break;
            };
            self.content_bytes -= evicted.value.content_bytes();
            removed.push(evicted.value);
        }
        self.content_bytes += added;
        if let Some(evicted) = self.files.insert(site, path, entry)
            && !same
        {
            self.content_bytes -= evicted.value.content_bytes();
            removed.push(evicted.value);
        }
        removed
    }

    fn remove_file(&mut self, site: usize, path: &CStr) -> Option<Rc<OpenFile>> {
        let removed = self.files.remove(site, path)?.value;
        self.content_bytes -= removed.content_bytes();
        Some(removed)
    }
}

fn no_thread(error: JobError) -> Refusal {
    match error {
        JobError::Overloaded => {
            metrics::count(Counter::FileThreadsOverloaded);
            Refusal::Overloaded
        }
        JobError::Panicked => Refusal::Failed,
    }
}

fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        // No such file; beneath something that is none; links that are not followed; names no file
        // can have; sockets, and devices without a driver.
        Some(
            libc::ENOENT
            | libc::ENOTDIR
            | libc::ELOOP
            | libc::EXDEV
            | libc::ENAMETOOLONG
            | libc::ENXIO
            | libc::ENODEV
            | libc::ESTALE,
        ) => Refusal::NotFound,
        Some(libc::EACCES | libc::EPERM) => Refusal::Forbidden,
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN) => Refusal::Overloaded,
        _ => Refusal::Failed,
    }
}

/// An entity tag of 96 bits of SHA-256: no two states of a site's files will ever share one.
fn etag(stat: &FileStat, settled: bool) -> Bytes {
    let mut context = digest::Context::new(&digest::SHA256);
    for number in [stat.device, stat.inode, stat.size] {
        context.update(&number.to_be_bytes());
    }
    for time in [stat.modified_ns, stat.changed_ns] {
        context.update(&time.to_be_bytes());
    }
    context.update(&[u8::from(settled)]);
    entity_tag(context, settled)
}

fn entity_tag(context: digest::Context, strong: bool) -> Bytes {
    let mut tag = String::with_capacity(32);
    tag.push_str(if strong { "\"" } else { "W/\"" });
    for byte in context.finish().as_ref().iter().take(ETAG_BYTES) {
        for nibble in [byte >> 4, byte & 0xf] {
            tag.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    tag.push('"');
    tag.into()
}

fn since_epoch_ns(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos().cast_signed(),
        Err(before) => -before.duration().as_nanos().cast_signed(),
    }
}

/// HTTP dates begin at the epoch: an earlier time counts as it. One too late for the clock's type
/// counts as a far one.
pub(crate) fn system_time(since_epoch_ns: i128) -> SystemTime {
    let since = u64::try_from(since_epoch_ns.max(0)).unwrap_or(u64::MAX);
    UNIX_EPOCH
        .checked_add(Duration::from_nanos(since))
        .unwrap_or(UNIX_EPOCH)
}

/// How long ago a file's last change must be before its state is sure to tell it from the next: the
/// coarsest clock of a file system in use (FAT) ticks every two seconds.
pub const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// How long an entry is used for want of a thread, a descriptor or memory to look again.
const STALE_FOR: Duration = Duration::from_secs(10);

/// How long a file stays open that nobody asks for.
const UNUSED_AFTER: Duration = Duration::from_secs(60);

/// Entries that one sweep looks at: a full cache is gone through in a few seconds.
const SWEEP_ENTRIES: usize = 64;

/// Files that are given up at once when no descriptor is left.
const SHED_ENTRIES: usize = 16;

/// Freeing the blocks of smaller files is quick.
const RETIRED_BYTES_MIN: u64 = 1024 * 1024;

const ETAG_BYTES: usize = 12;

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
