use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::pin::Pin;
use std::rc::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Wake};

use proptest::prelude::*;

use super::*;
use crate::serve::testing::{ManualThreads, Mode, c_path, ready};

/// A cache of one site over a directory that begins empty.
struct Fixture {
    directory: tempfile::TempDir,
    threads: ManualThreads,
    cache: Cache<ManualThreads>,
    start: Now,
}

impl Fixture {
    fn new(open_files_max: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Root {
            path: c_path(directory.path()).into(),
            symlinks: Symlinks::Beneath,
            dotfiles: false,
            headers: Arc::new([]),
            is_remote: false,
            device: 0,
        };
        let threads = ManualThreads::default();
        Self {
            directory,
            cache: Cache::new(vec![root], open_files_max, threads.clone()),
            threads,
            start: Now::read(),
        }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.directory.path().join(name), content).unwrap();
    }

    /// So long after the beginning, on both clocks.
    fn after(&self, elapsed: Duration) -> Now {
        Now {
            monotonic: self.start.monotonic + elapsed,
            wall: self.start.wall + elapsed,
        }
    }

    fn find(&self, name: &str, elapsed: Duration) -> Result<Found, Refusal> {
        let path = CString::new(name).unwrap();
        ready(self.cache.find(0, &path, self.after(elapsed)))
    }

    fn file(&self, name: &str, elapsed: Duration) -> Rc<OpenFile> {
        match self.find(name, elapsed) {
            Ok(Found::File(file)) => file,
            other => panic!("{name}: {other:?}"),
        }
    }

    fn text(&self, name: &str, elapsed: Duration) -> String {
        String::from_utf8(content(&self.file(name, elapsed))).unwrap()
    }

    fn check_invariants(&self) {
        let mut state = self.cache.state.borrow_mut();
        let mut sum = 0;
        let mut files = BoundedMap::new(1, usize::MAX);
        std::mem::swap(&mut files, &mut state.files);
        while let Some(entry) = files.evict() {
            sum += entry.value.content_bytes();
        }
        assert_eq!(sum, state.content_bytes);
        state.content_bytes = 0;
    }
}

fn content(file: &OpenFile) -> Vec<u8> {
    match &file.content {
        Content::Bytes(bytes) => bytes.to_vec(),
        Content::File(descriptor) => {
            let mut bytes = vec![0; usize::try_from(file.size).unwrap()];
            descriptor.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        }
    }
}

fn last_modified(file: &OpenFile) -> Bytes {
    let value = describe::value(&file.fields, "last-modified");
    value.unwrap().clone()
}

const AT_ONCE: Duration = Duration::ZERO;
const SECOND: Duration = Duration::from_secs(1);
/// Long enough for everything a test wrote to be settled.
const LATER: Duration = Duration::from_secs(60);

#[test]
fn an_edited_file_is_fresh_within_a_second() {
    for size in [10, 20_000] {
        let fixture = Fixture::new(8);
        fixture.write("f", vec![b'a'; size]);
        let before = fixture.text("f", AT_ONCE);
        // Edited in place, to the same length: only the times tell, and the kernel's clock may not
        // even have ticked.
        fixture.write("f", vec![b'b'; size]);
        let after = fixture.text("f", SECOND);
        assert_eq!(
            (&*before, &*after),
            (&*"a".repeat(size), &*"b".repeat(size))
        );
    }
}

#[test]
fn a_replaced_file_is_fresh_within_a_second() {
    for size in [10, 20_000] {
        let fixture = Fixture::new(8);
        fixture.write("f", vec![b'a'; size]);
        let before = fixture.file("f", LATER);
        fixture.write("new", vec![b'b'; size]);
        // The same times as the old one, as archives and build tools leave them.
        let path = fixture.directory.path();
        let new = fs::File::options()
            .write(true)
            .open(path.join("new"))
            .unwrap();
        new.set_modified(before.modified.unwrap()).unwrap();
        fs::rename(path.join("new"), path.join("f")).unwrap();
        assert_eq!(fixture.text("f", LATER + SECOND), "b".repeat(size));
        let after = fixture.file("f", LATER + SECOND);
        assert_ne!(after.etag, before.etag);
        // Who still sends the old one sends all of it.
        assert_eq!(content(&before), vec![b'a'; size]);
    }
}

#[test]
fn removal_and_links_show_within_a_second() {
    let fixture = Fixture::new(8);
    fixture.write("f", "one");
    assert_eq!(fixture.text("f", LATER), "one");
    fs::remove_file(fixture.directory.path().join("f")).unwrap();
    let outcome = fixture.find("f", LATER + SECOND);
    assert_eq!(outcome.unwrap_err(), Refusal::NotFound);
    symlink("/etc/passwd", fixture.directory.path().join("f")).unwrap();
    let outcome = fixture.find("f", LATER + 2 * SECOND);
    assert_eq!(outcome.unwrap_err(), Refusal::NotFound);
    fixture.check_invariants();
}

#[test]
fn a_root_that_is_a_link_may_be_switched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for release in ["1", "2"] {
        fs::create_dir(path.join(release)).unwrap();
        fs::write(path.join(release).join("f"), release).unwrap();
    }
    symlink("1", path.join("current")).unwrap();
    let root = Root {
        path: c_path(&path.join("current")).into(),
        symlinks: Symlinks::Deny,
        dotfiles: false,
        headers: Arc::new([]),
        is_remote: false,
        device: 0,
    };
    let mut fixture = Fixture::new(8);
    fixture.cache = Cache::new(vec![root], 8, fixture.threads.clone());
    assert_eq!(fixture.text("f", LATER), "1");
    symlink("2", path.join("next")).unwrap();
    fs::rename(path.join("next"), path.join("current")).unwrap();
    assert_eq!(fixture.text("f", LATER + SECOND), "2");
}

#[test]
fn an_entry_is_believed_while_fresh_and_kept_while_unchanged() {
    let fixture = Fixture::new(8);
    fixture.write("f", "one");
    let first = fixture.file("f", LATER);
    let hit = fixture.file("f", LATER + REVALIDATE_AFTER - Duration::from_nanos(1));
    assert!(Rc::ptr_eq(&first, &hit));
    let revalidated = fixture.file("f", LATER + REVALIDATE_AFTER);
    assert!(Rc::ptr_eq(&first, &revalidated));
    // Revalidation counts as a check: the entry is fresh again.
    fixture.write("f", "other");
    let hit = fixture.file("f", LATER + 2 * REVALIDATE_AFTER - Duration::from_nanos(1));
    assert!(Rc::ptr_eq(&first, &hit));
    assert_eq!(fixture.text("f", LATER + 2 * REVALIDATE_AFTER), "other");
}

#[test]
fn a_missing_file_is_remembered_only_for_a_moment() {
    let fixture = Fixture::new(8);
    assert_eq!(fixture.find("f", AT_ONCE).unwrap_err(), Refusal::NotFound);
    let jobs_run = fixture.threads.jobs_run();
    fixture.write("f", "now");
    assert_eq!(fixture.find("f", AT_ONCE).unwrap_err(), Refusal::NotFound);
    assert_eq!(fixture.threads.jobs_run(), jobs_run);
    assert_eq!(fixture.text("f", REVALIDATE_AFTER), "now");
    // No trace is left of the earlier answer.
    assert_eq!(fixture.cache.state.borrow().others.len(), 0);
}

#[test]
fn rfc9110_8_8_1_a_tag_is_strong_only_when_it_must_change() {
    let fixture = Fixture::new(8);
    fixture.write("f", "one");
    let young = fixture.file("f", AT_ONCE);
    let settled = fixture.file("f", LATER);
    assert!(young.etag.starts_with(b"W/\""), "{:?}", young.etag);
    assert!(settled.etag.starts_with(b"\""), "{:?}", settled.etag);
    // Else a client could keep what it got before a second change in the same tick.
    assert_ne!(young.etag[2..], settled.etag[..]);
    assert_eq!(fixture.file("f", 2 * LATER).etag, settled.etag);
}

#[test]
fn rfc9110_8_8_2_1_last_modified_is_not_in_the_future() {
    let fixture = Fixture::new(8);
    fixture.write("f", "one");
    let path = fixture.directory.path().join("f");
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(fixture.start.wall + 100 * LATER).unwrap();
    let opened = fixture.file("f", LATER);
    let now = fixture.after(LATER).wall;
    assert_eq!(opened.modified, Some(now));
    assert_eq!(last_modified(&opened), httpdate::fmt_http_date(now));
    file.set_modified(UNIX_EPOCH - SECOND).unwrap();
    let opened = fixture.file("f", 2 * LATER);
    assert_eq!(last_modified(&opened), "Thu, 01 Jan 1970 00:00:00 GMT");
}

#[test]
fn small_files_hold_no_descriptor_and_empty_ones_are_files() {
    let fixture = Fixture::new(8);
    for (name, size, small) in [
        ("empty", 0, true),
        ("small", 16_384, true),
        ("big", 16_385, false),
    ] {
        fixture.write(name, vec![1; size]);
        let file = fixture.file(name, LATER);
        assert_eq!(file.size, size as u64);
        assert_eq!(content(&file), vec![1; size]);
        assert_eq!(matches!(file.content, Content::Bytes(_)), small, "{name}");
    }
    fixture.check_invariants();
}

#[test]
fn open_files_stay_within_their_bound() {
    let fixture = Fixture::new(8);
    let mut seen: Vec<Weak<OpenFile>> = Vec::new();
    for number in 0..100 {
        let name = number.to_string();
        fixture.write(&name, vec![2; 20_000]);
        seen.push(Rc::downgrade(&fixture.file(&name, LATER)));
        let alive = seen.iter().filter(|file| file.strong_count() > 0).count();
        assert!(alive <= 8, "{alive}");
    }
    assert_eq!(fixture.cache.state.borrow().files.len(), 8);
}

#[test]
fn content_stays_within_its_bound() {
    let fixture = Fixture::new(10_000);
    let full = vec![3; 16_384];
    let fit = CACHED_CONTENT_BYTES_PER_WORKER_MAX / full.len();
    for number in 0..fit + 50 {
        let name = number.to_string();
        fixture.write(&name, &full);
        fixture.file(&name, LATER);
        let state = fixture.cache.state.borrow();
        assert!(state.content_bytes <= CACHED_CONTENT_BYTES_PER_WORKER_MAX);
        assert!(state.files.len() <= fit);
    }
    fixture.check_invariants();
}

#[test]
fn names_without_files_stay_within_their_bound() {
    let fixture = Fixture::new(8);
    for number in 0..3 * NEGATIVE_ENTRIES_PER_WORKER_MAX {
        let outcome = fixture.find(&number.to_string(), AT_ONCE);
        assert_eq!(outcome.unwrap_err(), Refusal::NotFound);
    }
    let long = ["d"; NEGATIVE_ENTRY_PATH_BYTES_MAX].join("/");
    assert_eq!(fixture.find(&long, AT_ONCE).unwrap_err(), Refusal::NotFound);
    let mut state = fixture.cache.state.borrow_mut();
    assert_eq!(state.others.len(), NEGATIVE_ENTRIES_PER_WORKER_MAX);
    assert!(state.others.get_mut(0, long.as_bytes()).is_none());
    assert!(fixture.cache.flights.is_empty());
    assert_eq!(state.files.len(), 0);
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One lookup under way, as a task would drive it.
struct Task<'a> {
    future: Pin<Box<dyn Future<Output = Result<Found, Refusal>> + 'a>>,
    woken: Arc<Woken>,
}

impl<'a> Task<'a> {
    fn start(fixture: &'a Fixture, path: &'a CStr) -> Self {
        let mut task = Self {
            future: Box::pin(fixture.cache.find(0, path, fixture.after(LATER))),
            woken: Arc::default(),
        };
        assert!(task.poll().is_none(), "the lookup did not wait");
        task
    }

    fn poll(&mut self) -> Option<Result<Found, Refusal>> {
        let waker = Waker::from(Arc::clone(&self.woken));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => Some(outcome),
            Poll::Pending => None,
        }
    }

    fn times_woken(&self) -> usize {
        self.woken.0.load(Ordering::Relaxed)
    }
}

#[test]
fn misses_of_one_path_share_one_job() {
    let fixture = Fixture::new(8);
    fixture.threads.set(Mode::Queue);
    // A name the kernel has not looked up yet is not in memory.
    let mut tasks: Vec<_> = (0..10).map(|_| Task::start(&fixture, c"f")).collect();
    assert_eq!(fixture.threads.jobs_queued(), 1);
    fixture.write("f", "found");
    fixture.threads.run_queued();
    assert_eq!(tasks[0].times_woken(), 1);
    let Some(Ok(Found::File(first))) = tasks[0].poll() else {
        panic!("the first has no file");
    };
    for task in &mut tasks[1..] {
        assert_eq!(task.times_woken(), 1);
        let Some(Ok(Found::File(file))) = task.poll() else {
            panic!("a waiting one has no file");
        };
        assert!(Rc::ptr_eq(&file, &first));
    }
    assert!(fixture.cache.flights.is_empty());
}

#[test]
fn when_the_one_who_asked_goes_away_another_asks() {
    let fixture = Fixture::new(8);
    fixture.threads.set(Mode::Queue);
    let leader = Task::start(&fixture, c"f");
    let mut tasks: Vec<_> = (0..3).map(|_| Task::start(&fixture, c"f")).collect();
    drop(leader);
    assert!(tasks.iter().all(|task| task.times_woken() == 1));
    // The first to be polled asks; the others wait for that.
    assert!(tasks.iter_mut().all(|task| task.poll().is_none()));
    assert_eq!(fixture.threads.jobs_queued(), 2);
    fixture.write("f", "found");
    fixture.threads.run_queued();
    for task in &mut tasks {
        let outcome = task.poll();
        assert!(matches!(outcome, Some(Ok(Found::File(_)))), "{outcome:?}");
    }
    assert!(fixture.cache.flights.is_empty());
}

#[test]
fn overload_and_panics_are_not_remembered() {
    let fixture = Fixture::new(8);
    for (mode, refusal) in [
        (Mode::Refuse, Refusal::Overloaded),
        (Mode::Panic, Refusal::Failed),
    ] {
        fixture.threads.set(mode);
        assert_eq!(fixture.find("f", AT_ONCE).unwrap_err(), refusal);
    }
    fixture.threads.set(Mode::RunAtOnce);
    fixture.write("f", "one");
    assert_eq!(fixture.text("f", AT_ONCE), "one");
}

#[test]
fn for_want_of_a_thread_a_file_is_believed_a_little_longer() {
    let fixture = Fixture::new(8);
    let directory = fixture.directory.path().join("d");
    fs::create_dir(&directory).unwrap();
    fixture.write("d/f", "one");
    assert_eq!(fixture.text("d/f", AT_ONCE), "one");
    // A directory takes its place of whose names the kernel knows nothing: that takes a thread.
    fs::rename(&directory, fixture.directory.path().join("away")).unwrap();
    fs::create_dir(&directory).unwrap();
    fixture.threads.set(Mode::Refuse);
    assert_eq!(fixture.text("d/f", SECOND), "one");
    let after = fixture.find("d/f", STALE_FOR).unwrap_err();
    assert_eq!(after, Refusal::Overloaded);
    fixture.threads.set(Mode::RunAtOnce);
    assert_eq!(fixture.find("d/f", SECOND).unwrap_err(), Refusal::NotFound);
}

#[test]
fn a_file_nobody_asks_for_is_closed() {
    let fixture = Fixture::new(8);
    fixture.write("big", vec![1; 20_000]);
    fixture.write("asked", vec![1; 20_000]);
    let big = Rc::downgrade(&fixture.file("big", LATER));
    let asked = Rc::downgrade(&fixture.file("asked", LATER));
    fixture.file("asked", LATER + SECOND);
    fixture
        .cache
        .sweep(fixture.after(LATER + UNUSED_AFTER).monotonic);
    assert_eq!((big.strong_count(), asked.strong_count()), (0, 1));
    fixture.check_invariants();
}

#[test]
fn without_descriptors_others_are_given_up() {
    let fixture = Fixture::new(100);
    for number in 0..40 {
        let name = number.to_string();
        fixture.write(&name, vec![2; 20_000]);
        fixture.file(&name, AT_ONCE);
    }
    let path = CString::new("f").unwrap();
    let error = io::Error::from_raw_os_error(libc::EMFILE);
    let kept = fixture
        .cache
        .keep(0, &path, None, Err(error), fixture.start);
    assert_eq!(kept.unwrap_err(), Refusal::Overloaded);
    assert_eq!(fixture.cache.state.borrow().files.len(), 40 - SHED_ENTRIES);
}

#[test]
fn a_large_file_is_closed_by_the_file_threads() {
    let fixture = Fixture::new(8);
    let path = fixture.directory.path().join("f");
    fs::File::create(&path)
        .unwrap()
        .set_len(RETIRED_BYTES_MIN)
        .unwrap();
    let weak = match &fixture.file("f", LATER).content {
        Content::File(file) => Arc::downgrade(file),
        Content::Bytes(_) => panic!("kept as bytes"),
    };
    fixture.write("new", "small");
    fs::rename(fixture.directory.path().join("new"), &path).unwrap();
    fixture.threads.set(Mode::Queue);
    assert_eq!(fixture.text("f", LATER + SECOND), "small");
    assert_eq!(weak.strong_count(), 1);
    fixture.threads.run_queued();
    assert_eq!(weak.strong_count(), 0);
}

#[test]
fn errors_become_the_answer_they_deserve() {
    for (error, expected) in [
        (libc::ENOENT, Refusal::NotFound),
        (libc::ENOTDIR, Refusal::NotFound),
        (libc::ELOOP, Refusal::NotFound),
        (libc::EXDEV, Refusal::NotFound),
        (libc::EACCES, Refusal::Forbidden),
        (libc::EMFILE, Refusal::Overloaded),
        (libc::EIO, Refusal::Failed),
    ] {
        assert_eq!(refusal(&io::Error::from_raw_os_error(error)), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens to the files, and whenever, what is found is what is there.
    #[test]
    fn the_cache_agrees_with_the_directory(
        steps in proptest::collection::vec((0_usize..4, 0_u8..5, any::<u8>()), 1..40),
    ) {
        let fixture = Fixture::new(3);
        let names = ["a", "b", "c", "d"];
        let mut expected: HashMap<&str, Vec<u8>> = HashMap::new();
        for (step, (name, action, fill)) in (0_u32..).zip(steps) {
            let name = names[name];
            let path = fixture.directory.path().join(name);
            let size = if fill & 1 == 0 { 100 } else { 17_000 };
            match action {
                0 if expected.remove(name).is_some() => fs::remove_file(&path).unwrap(),
                1 => {
                    fixture.write("new", vec![fill; size]);
                    fs::rename(fixture.directory.path().join("new"), &path).unwrap();
                    expected.insert(name, vec![fill; size]);
                }
                2 => {
                    fixture.write(name, vec![fill; size]);
                    expected.insert(name, vec![fill; size]);
                }
                _ => {}
            }
            // The wall clock stands still, so nothing is settled: the monotonic one moves on.
            let mut now = fixture.after(SECOND * step);
            now.wall = fixture.start.wall;
            let path = CString::new(name).unwrap();
            let found = ready(fixture.cache.find(0, &path, now));
            match (found, expected.get(name)) {
                (Ok(Found::File(file)), Some(bytes)) => prop_assert_eq!(&content(&file), bytes),
                (Err(Refusal::NotFound), None) => {}
                (found, expected) => {
                    prop_assert!(false, "{:?} instead of {:?}", found, expected.map(Vec::len));
                }
            }
        }
        fixture.check_invariants();
    }
}

#[test]
fn a_remote_file_system_is_asked_by_threads_only() {
    let mut fixture = Fixture::new(8);
    fixture.write("f", "text");
    assert_eq!(fixture.text("f", LATER), "text");
    let root = Root {
        path: c_path(fixture.directory.path()).into(),
        symlinks: Symlinks::Beneath,
        dotfiles: false,
        headers: Arc::new([]),
        is_remote: true,
        device: 0,
    };
    fixture.cache = Cache::new(vec![root], 8, fixture.threads.clone());
    let before = fixture.threads.jobs_run();
    assert_eq!(fixture.text("f", LATER), "text");
    assert_eq!(fixture.threads.jobs_run(), before + 1);
    let Ok(Found::File(file)) = fixture.find("f", LATER) else {
        panic!("no file");
    };
    assert!(file.is_remote);
}
