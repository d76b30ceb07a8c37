//! The server under test: the built program, with a configuration and a document root of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::ops::Index;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use tempfile::TempDir;

use super::Policy;
use super::certificates::{self, KeyKind};
use super::files;
use super::process::{PRLIMIT, wait_for};
use super::wait::{PATIENCE, until_equal, until_settled};
use crate::forbid_io_uring::command_without_io_uring;

/// What a server is started with.
pub(crate) struct Setup {
    workers: usize,
    sites: Vec<SiteSetup>,
    tables: BTreeMap<&'static str, Vec<String>>,
    /// Files that are in the document root before it starts.
    root_files: Vec<(&'static str, &'static str)>,
    /// More of its listener.
    listener: String,
    /// More of the configuration.
    text: String,
    has_redirect: bool,
    descriptors_max: Option<u64>,
    forbids_io_uring: bool,
    parent: PathBuf,
}

struct SiteSetup {
    names: Vec<&'static str>,
    key: KeyKind,
    is_default: bool,
    /// Its document root's name; below it each site has its own files. Empty for none.
    root: &'static str,
    extra: &'static str,
}

/// A running server. It is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    /// Where it speaks TLS.
    pub(crate) address: SocketAddr,
    /// Where it redirects plain HTTP.
    pub(crate) redirect: Option<SocketAddr>,
    announcement: Arc<Log>,
    log: Arc<Log>,
    log_reader: Option<JoinHandle<()>>,
    folder: TempDir,
    may_panic: bool,
}

/// The server's counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counters(HashMap<String, u64>);

/// What a server holds of the system's resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) descriptors: usize,
    /// Accepted connections that have not ended.
    pub(crate) connections: u64,
}

/// The lines of one of a server's outputs, as they come.
#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    has_ended: bool,
}

impl Setup {
    /// Two workers and a site for "localhost".
    pub(crate) fn new(policy: Policy) -> Self {
        let setup = Self {
            workers: 2,
            sites: Vec::new(),
            tables: BTreeMap::new(),
            root_files: Vec::new(),
            text: String::new(),
            listener: String::new(),
            has_redirect: false,
            descriptors_max: None,
            forbids_io_uring: std::env::var_os(FORBID_IO_URING).is_some(),
            parent: std::env::temp_dir(),
        };
        // What is bulk moves to the kernel under `auto`, however it is sent: each move has to be right.
        let setup = setup.table("offload", &format!("policy = \"{}\"", policy.name()));
        ["http2_bytes_min", "answer_bytes_min", "tunnel_bytes_min"]
            .iter()
            .fold(setup, |setup, key| {
                setup.table("offload", &format!("{key} = 262144"))
            })
    }

    /// One worker, and a site for "localhost" whose requests all go on to the upstream "app".
    pub(crate) fn passing_on(policy: Policy) -> Self {
        Self::new(policy).workers(1).site_with(
            &["localhost"],
            KeyKind::P256,
            "root",
            "[[site.route]]\nprefix = \"/\"\nupstream = \"app\"",
        )
    }

    pub(crate) fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// Adds a line to a table of the configuration.
    pub(crate) fn table(mut self, table: &'static str, line: &str) -> Self {
        let key = |line: &str| line.split('=').next().map(str::to_owned);
        let lines = self.tables.entry(table).or_default();
        lines.retain(|earlier| key(earlier) != key(line));
        lines.push(line.to_owned());
        self
    }

    /// Puts a file into the document root "root" before the server starts.
    pub(crate) fn root_file(mut self, name: &'static str, text: &'static str) -> Self {
        self.root_files.push((name, text));
        self
    }

    /// Adds lines to the listener that speaks TLS.
    pub(crate) fn listener(mut self, lines: &str) -> Self {
        self.listener.push_str(lines);
        self.listener.push('\n');
        self
    }

    /// Adds a site; the first one is the default.
    pub(crate) fn site(self, names: &[&'static str], key: KeyKind, root: &'static str) -> Self {
        self.site_with(names, key, root, "")
    }

    /// As [`Setup::site`], with lines of configuration.
    pub(crate) fn site_with(
        mut self,
        names: &[&'static str],
        key: KeyKind,
        root: &'static str,
        extra: &'static str,
    ) -> Self {
        let is_default = self.sites.is_empty();
        let names = names.to_vec();
        self.sites.push(SiteSetup {
            names,
            key,
            is_default,
            root,
            extra,
        });
        self
    }

    /// No site serves names that no site has.
    pub(crate) fn without_default_site(mut self) -> Self {
        for site in &mut self.sites {
            site.is_default = false;
        }
        self
    }

    /// Listens for plain HTTP too, and redirects it.
    pub(crate) fn with_redirect(mut self) -> Self {
        self.has_redirect = true;
        self
    }

    /// Adds tables to the configuration.
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// Lets the server have so many open descriptors.
    pub(crate) fn descriptors_max(mut self, count: u64) -> Self {
        self.descriptors_max = Some(count);
        self
    }

    /// Keeps configuration, certificates and document roots below `folder`.
    pub(crate) fn below(mut self, folder: &Path) -> Self {
        self.parent = folder.to_owned();
        self
    }

    /// Writes what the server needs and starts it; gives it when it listens.
    pub(crate) fn start(mut self) -> Server {
        if self.sites.is_empty() {
            self = self.site(&["localhost"], KeyKind::P256, "root");
        }
        let folder = tempfile::Builder::new()
            .prefix("portcullis-e2e-")
            .tempdir_in(&self.parent)
            .unwrap();
        fs::write(folder.path().join(AUTHORITY), certificates::authority()).unwrap();
        let config = folder.path().join("portcullis.toml");
        fs::write(&config, self.config(folder.path())).unwrap();
        let mut command = self.command();
        command
            .args(["run", "--log", "debug", "--config"])
            .arg(&config);
        command.current_dir(folder.path());
        Server::start(command, folder)
    }

    fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_portcullis");
        let mut command = match self.descriptors_max {
            Some(count) => {
                // It becomes the server: the process id stays.
                let mut command = PRLIMIT.command();
                command
                    .arg(format!("--nofile={count}:{count}"))
                    .arg(program);
                command
            }
            None => Command::new(program),
        };
        if self.forbids_io_uring {
            command_without_io_uring(&mut command);
        }
        command
    }

    fn config(&self, folder: &Path) -> String {
        let mut text = format!("[workers]\ncount = {}\n", self.workers);
        text.push_str("[[listener]]\naddress = \"127.0.0.1:0\"\n");
        text.push_str(&self.listener);
        if self.has_redirect {
            text.push_str(
                "[[listener]]\naddress = \"127.0.0.2:0\"\nservice = \"redirect\"\n\
                 redirect_port = 8443\n",
            );
        }
        for (index, site) in self.sites.iter().enumerate() {
            let leaf = certificates::leaf(site.key, &site.names);
            fs::write(folder.join(format!("{index}.pem")), leaf.chain).unwrap();
            let key = folder.join(format!("{index}.key"));
            fs::write(&key, leaf.key).unwrap();
            restrict(&key);
            let root = match site.root {
                "" => String::new(),
                root => {
                    fs::create_dir_all(folder.join(root)).unwrap();
                    format!("root = \"{root}\"\n")
                }
            };
            write!(
                text,
                "[[site]]\nnames = {:?}\ndefault = {}\ncertificate = \"{index}.pem\"\n\
                 key = \"{index}.key\"\n{root}{}\n",
                site.names, site.is_default, site.extra
            )
            .unwrap();
        }
        for (name, content) in &self.root_files {
            fs::write(folder.join("root").join(name), content).unwrap();
        }
        text.push_str(&self.text);
        for (table, lines) in &self.tables {
            write!(text, "[{table}]\n{}\n", lines.join("\n")).unwrap();
        }
        text
    }
}

impl Server {
    /// Starts `command` and waits until it has said where it listens.
    pub(crate) fn start(mut command: Command, folder: TempDir) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let announcement = Arc::new(Log::default());
        announcement.collect(child.stdout.take().unwrap());
        let log = Arc::new(Log::default());
        let log_reader = log.collect(child.stderr.take().unwrap());
        let mut server = Self {
            child,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            redirect: None,
            announcement,
            log,
            log_reader: Some(log_reader),
            folder,
            may_panic: false,
        };
        server.read_announcement();
        server
    }

    /// The URL of `path` under the name "localhost".
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// What curl takes to find `host` at this server.
    pub(crate) fn resolve(&self, host: &str) -> String {
        format!("{host}:{}:{}", self.address.port(), self.address.ip())
    }

    /// The certificate that clients trust.
    pub(crate) fn authority(&self) -> String {
        self.path(AUTHORITY).into_os_string().into_string().unwrap()
    }

    /// A path in the server's folder.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// Writes a file of [`files::content`] into the document root "root".
    pub(crate) fn write_content(&self, name: &str, length: usize) {
        files::write_content(&self.path("root").join(name), length);
    }

    /// What it has announced on standard output in the line that begins with `label`.
    pub(crate) fn announced(&self, label: &str) -> String {
        self.announcement.wait_for(0, label);
        self.announcement.first(label).unwrap()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks for the counters and waits for them.
    pub(crate) fn counters(&self) -> Counters {
        let seen = self.log.length();
        self.signal(libc::SIGUSR2);
        let line = self.log.wait_for(seen, "counters ");
        let (_, values) = line.split_once("counters ").unwrap();
        let parse = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Counters(values.split_ascii_whitespace().filter_map(parse).collect())
    }

    /// Waits until the counter `name` has reached `value`.
    pub(crate) fn wait_for_counter(&self, name: &str, value: u64) {
        super::wait::until_some(&format!("{name} is {value}"), || {
            (self.counters()[name] >= value).then_some(())
        });
    }

    /// What it holds now.
    pub(crate) fn holdings(&self) -> Holdings {
        let counters = self.counters();
        let descriptors = || self.descriptors();
        Holdings {
            descriptors: until_settled("open descriptors", descriptors, |_| true),
            connections: counters["connections_accepted"] - counters["connections_closed"],
        }
    }

    /// Waits until it holds no more than `before`. A descriptor that was open only for the moment of
    /// that look (a certificate read again, a log) may be gone.
    pub(crate) fn wait_for_holdings(&self, before: Holdings) {
        let excess = |now: Holdings| {
            (
                now.descriptors.saturating_sub(before.descriptors),
                now.connections,
            )
        };
        let wanted = (0, before.connections);
        until_equal("descriptors too many, and connections", &wanted, || {
            excess(self.holdings())
        });
    }

    /// Its open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id()))
            .unwrap()
            .count()
    }

    /// Lets it open so many descriptors more.
    pub(crate) fn leave_descriptors(&self, count: usize) {
        let open: BTreeSet<u64> = fs::read_dir(format!("/proc/{}/fd", self.id()))
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .collect();
        let mut free = (0_u64..).filter(|number| !open.contains(number));
        let limit = format!("--nofile={}:", free.nth(count).unwrap());
        PRLIMIT
            .run(["--pid", &self.id().to_string(), &limit])
            .success();
    }

    /// Its own resident memory, in bytes: what it maps of files is the page cache's.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * files::KIB
    }

    /// How often its threads have waited for something so far: what a worker does is done between two
    /// waits.
    pub(crate) fn waits(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let of_task = |entry: std::io::Result<fs::DirEntry>| {
            let status = fs::read_to_string(entry.unwrap().path().join("status")).ok()?;
            let mut lines = status.lines();
            let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            count.trim().parse::<u64>().ok()
        };
        tasks.filter_map(of_task).sum()
    }

    /// Waits until the log has `text` in a line after the first `seen` lines.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        self.log.wait_for(0, text)
    }

    /// A connection's panic is part of this test.
    pub(crate) fn expect_panics(&mut self) {
        self.may_panic = true;
    }

    pub(crate) fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for(&mut self.child).unwrap_or_else(|| panic!("it runs on:\n{}", self.log.tail()))
    }

    /// Sends it a signal.
    #[expect(
        unsafe_code,
        reason = "kill(2) by process id has no safe equivalent in std"
    )]
    pub(crate) fn signal(&self, signal: i32) {
        let id = libc::pid_t::try_from(self.id()).unwrap();
        // SAFETY: kill(2) takes integers only. The child has not been waited for, so its id is its
        // own.
        let result = unsafe { libc::kill(id, signal) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    fn read_announcement(&mut self) {
        if self.announcement.find(0, "data path: ").is_none() {
            drop(self.child.kill());
            if let Some(reader) = self.log_reader.take() {
                reader.join().unwrap();
            }
            panic!("the server did not start:\n{}", self.log.tail());
        }
        self.address = self.announced("listening on https://").parse().unwrap();
        if let Some(line) = self.announcement.first("listening on http://") {
            let address = line.split_ascii_whitespace().next().unwrap();
            self.redirect = Some(address.parse().unwrap());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(reader) = self.log_reader.take() {
            drop(reader.join());
        }
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log.tail());
        } else if !self.may_panic {
            assert!(!self.log.has("panicked at"), "{}", self.log.tail());
        }
    }
}

impl Index<&str> for Counters {
    type Output = u64;

    fn index(&self, name: &str) -> &u64 {
        self.0
            .get(name)
            .unwrap_or_else(|| panic!("there is no counter {name}"))
    }
}

impl Counters {
    /// Whether there is a counter of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// How much `name` has grown since `before`.
    pub(crate) fn since(&self, before: &Self, name: &str) -> u64 {
        self[name] - before[name]
    }
}

impl Log {
    fn collect(self: &Arc<Self>, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                log.lines.lock().unwrap().all.push(line);
                log.grown.notify_all();
            }
            log.lines.lock().unwrap().has_ended = true;
            log.grown.notify_all();
        })
    }

    fn length(&self) -> usize {
        self.lines.lock().unwrap().all.len()
    }

    fn has(&self, text: &str) -> bool {
        let lines = self.lines.lock().unwrap();
        lines.all.iter().any(|line| line.contains(text))
    }

    /// What follows `label` in the first line that begins with it.
    fn first(&self, label: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap();
        let rest = lines.all.iter().find_map(|line| line.strip_prefix(label));
        rest.map(|rest| rest.trim().to_owned())
    }

    /// Waits for a line with `text` after the first `seen` lines.
    fn wait_for(&self, seen: usize, text: &str) -> String {
        let found = self.find(seen, text);
        found.unwrap_or_else(|| panic!("no {text:?} in:\n{}", self.tail()))
    }

    /// As [`Log::wait_for`]; `None` when the output ended without it, or took too long.
    fn find(&self, seen: usize, text: &str) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            let found = lines.all[seen..].iter().find(|line| line.contains(text));
            if let Some(line) = found {
                return Some(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.has_ended {
                return None;
            }
            lines = self.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    fn tail(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines.all[lines.all.len().saturating_sub(60)..].join("\n")
    }
}

fn restrict(key: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The authority's certificate in a server's folder.
const AUTHORITY: &str = "authority.pem";

/// Set to run every server as where io_uring is forbidden.
const FORBID_IO_URING: &str = "E2E_FORBID_IO_URING";
