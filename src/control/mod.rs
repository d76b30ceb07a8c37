//! The main thread: opens the sockets, starts the workers, obeys signals and commands.

pub mod admin;
pub mod channel;
pub mod listen;
pub mod reload;
mod supervise;
pub mod watch;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use arc_swap::ArcSwap;

use self::admin::{AdminListener, CurrentPhase};
use self::listen::{Changed, ListenError, Listeners};
use self::reload::Origin;
use self::supervise::{Event, Handle, Supervisor, forward_signals};
use crate::config::Config;
use crate::net::file_threads::FileThreads;
use crate::net::rt::Driver;
use crate::serve::Routes;
use crate::sys;
use crate::sys::probe::{self, KernelTls, Ring};
use crate::tls::server_config::TlsSetup;
use crate::upstream::Upstreams;
use crate::worker::access_log::AccessLogs;
use crate::worker::admission::Admission;
use crate::worker::{self, Generation, ListenerId, Shared, WorkerSetup};

/// Why the process could not start serving.
#[derive(Debug)]
pub enum StartError {
    /// An address cannot be listened on.
    Listen(ListenError),
    /// A thread, a socket pair or a signal handler could not be had.
    Io(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::Io(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> Self {
        Self::Listen(error)
    }
}

/// A configuration with its listening sockets open and its machine looked at, ready to serve.
pub struct Control {
    generation: Generation,
    admin: Option<AdminListener>,
    workers: usize,
    cpus: Vec<usize>,
    ring: Ring,
    kernel: KernelTls,
    listeners: Listeners,
    /// By worker: its listening sockets.
    sockets: Vec<Vec<(ListenerId, OwnedFd)>>,
    origin: Option<Origin>,
}

impl Control {
    /// Looks at the machine and opens every listening socket. `origin` says where the configuration
    /// comes from and can be had again.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left open.
    pub fn prepare(
        mut config: Config,
        tls: TlsSetup,
        origin: Option<Origin>,
    ) -> Result<Self, StartError> {
        let cpus = sys::cpu::allowed().map_err(|e| StartError::Io("read the allowed CPUs", e))?;
        let workers = config
            .workers
            .unwrap_or_else(|| workers_for(cpus.len(), sys::cpu::quota()));
        fit_descriptors(&mut config, workers);
        let config = Arc::new(config);
        let routes = Routes::new(config.clone(), tls.site_policies())
            .map_err(|e| StartError::Io("use the roots", e))?;
        let upstreams = Upstreams::new(&config, tls.upstreams(), None)
            .map_err(|e| StartError::Io("watch the upstreams", e))?;
        let mut listeners = Listeners::new(workers);
        let change = listeners.plan(&config.listeners, &config.tcp)?;
        let Changed {
            open,
            listeners: spoken,
            ..
        } = listeners.apply(change, &config.tcp);
        let access_logs = open_access_logs(&config, &AccessLogs::default())?;
        let admin = match &config.admin {
            Some(admin) => {
                let opened = AdminListener::open(admin);
                Some(opened.map_err(|e| StartError::Io("open the admin listener", e))?)
            }
            None => None,
        };
        Ok(Self {
            generation: Generation {
                config,
                tls: Arc::new(tls),
                routes: Arc::new(routes),
                upstreams: Arc::new(upstreams),
                listeners: spoken,
                access_logs,
                certificate_expiries: origin.as_ref().map(Origin::expiries).unwrap_or_default(),
            },
            admin,
            workers,
            cpus,
            ring: probe::ring(),
            kernel: probe::kernel_tls(),
            listeners,
            sockets: open,
            origin,
        })
    }

    /// What an operator wants to know at the start, line by line: addresses, workers, data path.
    pub fn describe(&self) -> String {
        let data_path = probe::summary(&self.ring, &self.kernel);
        let mut text = supervise::describe(&self.listeners);
        if let Some(admin) = &self.admin {
            text += &format!("admin: {admin}\n");
        }
        text + &format!("workers: {}\ndata path: {data_path}\n", self.workers)
    }

    /// Starts the workers and serves until a signal ends it. Calls `announce` when every worker
    /// accepts connections and signals are obeyed: whoever reads it may rely on both.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn run(self, announce: impl FnOnce() -> io::Result<()>) -> Result<ExitCode, StartError> {
        let (sender, events) = channel();
        forward_signals(sender.clone()).map_err(|e| StartError::Io("handle signals", e))?;
        if let Some(origin) = &self.origin {
            obey_commands(origin, &sender);
        }
        let file_threads =
            FileThreads::start().map_err(|e| StartError::Io("start the file threads", e))?;
        let shared = Arc::new(Shared {
            generation: ArcSwap::from_pointee(self.generation),
            admission: Arc::new(Admission::new()),
            rates: Arc::default(),
            file_threads,
            kernel: self.kernel,
        });
        let phase = CurrentPhase::default();
        if let Some(admin) = self.admin {
            admin
                .start(&shared, &phase, self.workers)
                .map_err(|e| StartError::Io("start the admin listener", e))?;
        }
        // A worker per CPU gets its CPU; with more workers than CPUs the scheduler knows better.
        let is_pinned = self.workers <= self.cpus.len();
        let driver = Driver::from(&self.ring);
        let workers: io::Result<Vec<Handle>> = self
            .sockets
            .into_iter()
            .enumerate()
            .map(|(index, listeners)| {
                let cpu = self.cpus.get(index).copied().filter(|_| is_pinned);
                start_worker(index, cpu, driver, listeners, &shared, &sender)
            })
            .collect();
        let logs = shared
            .generation
            .load()
            .access_logs
            .iter()
            .cloned()
            .collect();
        Supervisor {
            logs,
            workers: workers.map_err(|e| StartError::Io("start a worker", e))?,
            events,
            shared,
            listeners: self.listeners,
            origin: self.origin,
            next_look: Instant::now(),
            phase,
        }
        .supervise(announce)
    }
}

/// Without the control socket everything else works, and SIGHUP reloads too.
fn obey_commands(origin: &Origin, events: &Sender<Event>) {
    let Err(error) = channel::listen(&origin.path, events.clone()) else {
        return;
    };
    let path = origin.path.display();
    if error.kind() == io::ErrorKind::AddrInUse {
        tracing::warn!(
            %path,
            "another process serves this file: `portcullis reload` goes to that one"
        );
    } else {
        tracing::warn!(%path, %error, "no control socket: `portcullis reload` fails");
    }
}

/// The logs that `config` names; those that are open among `running` go on.
fn open_access_logs(config: &Config, running: &AccessLogs) -> Result<AccessLogs, StartError> {
    AccessLogs::open(config, running).map_err(|error| StartError::Io("open the access log", error))
}

/// Lowers the connections per worker to what the limit of open files leaves: the files that are
/// served and the workers' own need descriptors too, and a server that has none left can neither
/// open a file nor tell anyone.
fn fit_descriptors(config: &mut Config, workers: usize) {
    let limit = match sys::limits::raise_open_files() {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "cannot read the limit of open files");
            return;
        }
    };
    // A connection to a server behind us is one more.
    let has_tunnels = !config.upstreams.is_empty();
    let limits = &mut config.limits;
    let each = match has_tunnels {
        true => DESCRIPTORS_PER_CONNECTION + 1,
        false => DESCRIPTORS_PER_CONNECTION,
    };
    let (connections, files) = shares_of(limit, workers, limits.open_files_per_worker_max, each);
    if connections < limits.connections_per_worker_max {
        tracing::warn!(
            open_files = limit,
            connections_per_worker = connections,
            "the limit of open files allows fewer connections than limits.connections_per_worker_max"
        );
        limits.connections_per_worker_max = connections;
    }
    if files < limits.open_files_per_worker_max {
        tracing::warn!(
            open_files = limit,
            open_files_per_worker = files,
            "the limit of open files allows fewer files than limits.open_files_per_worker_max"
        );
        limits.open_files_per_worker_max = files;
    }
}

/// How many connections and cached files per worker `descriptors` allow, where `files` are wanted:
/// these first, as long as they leave connections three quarters of what there is. A connection
/// takes `per_connection`.
fn shares_of(
    descriptors: usize,
    workers: usize,
    files: usize,
    per_connection: usize,
) -> (usize, usize) {
    let workers = workers.max(1);
    let own = DESCRIPTORS_PER_PROCESS + workers.saturating_mul(DESCRIPTORS_PER_WORKER);
    let left = descriptors.saturating_sub(own) / workers;
    let files = files.min(left / 4).max(1);
    let connections = (left.saturating_sub(files) / per_connection).max(1);
    (connections, files)
}

/// A socket, and the file of a response under way, which the cache may have given up.
const DESCRIPTORS_PER_CONNECTION: usize = 2;

/// Standard streams, the signal pipe, the files that a start reads.
const DESCRIPTORS_PER_PROCESS: usize = 32;

/// A ring, listening sockets (which the control thread has too), socket pairs, a reserve.
const DESCRIPTORS_PER_WORKER: usize = 32;

/// One per CPU, but no more than the quota lets run: workers beyond it would only be throttled.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates, so any quota is a number of CPUs"
)]
fn workers_for(cpus: usize, quota: Option<f64>) -> usize {
    let cpus = cpus.max(1);
    // A fraction of a CPU deserves a worker.
    quota.map_or(cpus, |quota| (quota.ceil() as usize).clamp(1, cpus))
}

fn start_worker(
    index: usize,
    cpu: Option<usize>,
    driver: Driver,
    listeners: Vec<(ListenerId, OwnedFd)>,
    shared: &Arc<Shared>,
    events: &Sender<Event>,
) -> io::Result<Handle> {
    let (commands, receiver) = channel();
    let (wake, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let ready = events.clone();
    let setup = WorkerSetup {
        index,
        cpu,
        driver,
        listeners,
        shared: shared.clone(),
        commands: receiver,
        wake: theirs,
        on_ready: Box::new(move || drop(ready.send(Event::WorkerReady))),
    };
    let events = events.clone();
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let run = std::panic::AssertUnwindSafe(|| worker::run(setup));
            match std::panic::catch_unwind(run) {
                Ok(result) => drop(events.send(Event::WorkerEnded { index, result })),
                // Unwinding has freed what the kernel may still write to, and the worker's listener
                // would go on collecting connections that nobody serves.
                Err(_) => std::process::abort(),
            }
        })?;
    Ok(Handle {
        thread,
        commands,
        wake,
    })
}

#[cfg(test)]
mod tests {
    use super::{shares_of, workers_for};

    #[test]
    fn descriptors_are_shared_between_connections_and_files() {
        assert_eq!(shares_of(20_000, 2, 1024, 2), (4464, 1024));
        assert_eq!(shares_of(1_048_576, 64, 1024, 2), (7663, 1024));
        // Too few for all: a quarter is for files.
        assert_eq!(shares_of(1024, 2, 1024, 2), (174, 116));
        assert_eq!(shares_of(10, 16, 1024, 3), (1, 1));
    }

    #[test]
    fn workers_follow_cpus_and_quota() {
        assert_eq!(workers_for(8, None), 8);
        assert_eq!(workers_for(8, Some(2.0)), 2);
        assert_eq!(workers_for(8, Some(2.5)), 3);
        assert_eq!(workers_for(2, Some(16.0)), 2);
        assert_eq!(workers_for(4, Some(0.1)), 1);
        assert_eq!(workers_for(0, None), 1);
    }
}
