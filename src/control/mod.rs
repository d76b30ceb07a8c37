//! The main thread: opens the sockets, starts the workers, obeys signals.

pub mod listen;

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwap;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

use self::listen::ListenError;
use crate::config::{Config, Listener, Service};
use crate::metrics::{self, Counter};
use crate::net::file_threads::FileThreads;
use crate::net::rt::Driver;
use crate::serve::Routes;
use crate::sys;
use crate::sys::probe::{self, KernelTls, Ring};
use crate::tls::server_config::TlsSetup;
use crate::upstream::Upstreams;
use crate::worker::admission::Admission;
use crate::worker::{self, Command, Generation, Shared, WorkerSetup};

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
    workers: usize,
    cpus: Vec<usize>,
    ring: Ring,
    kernel: KernelTls,
    /// By listener: its bound address, and a socket for each worker.
    listeners: Vec<(Listener, SocketAddr, Vec<OwnedFd>)>,
}

impl Control {
    /// Looks at the machine and opens every listening socket.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left open.
    pub fn prepare(mut config: Config, tls: TlsSetup) -> Result<Self, StartError> {
        let cpus = sys::cpu::allowed().map_err(|e| StartError::Io("read the allowed CPUs", e))?;
        let workers = config
            .workers
            .unwrap_or_else(|| workers_for(cpus.len(), sys::cpu::quota()));
        fit_descriptors(&mut config, workers);
        let config = Arc::new(config);
        let routes = Routes::new(config.clone(), tls.site_policies())
            .map_err(|e| StartError::Io("use the roots", e))?;
        let upstreams =
            Upstreams::new(&config, None).map_err(|e| StartError::Io("watch the upstreams", e))?;
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let (address, sockets) = listen::open(listener, &config.tcp, workers)?;
            listeners.push((listener.clone(), address, sockets));
        }
        Ok(Self {
            generation: Generation {
                config,
                tls: Arc::new(tls),
                routes: Arc::new(routes),
                upstreams: Arc::new(upstreams),
            },
            workers,
            cpus,
            ring: probe::ring(),
            kernel: probe::kernel_tls(),
            listeners,
        })
    }

    /// What an operator wants to know at the start, line by line: addresses, workers, data path.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (listener, address, _) in &self.listeners {
            text += &match listener.service {
                Service::Https => format!("listening on https://{address}\n"),
                Service::RedirectToHttps { port } => {
                    format!("listening on http://{address} (redirects to port {port})\n")
                }
            };
        }
        let data_path = probe::summary(&self.ring, &self.kernel);
        text + &format!("workers: {}\ndata path: {data_path}\n", self.workers)
    }

    /// Starts the workers and serves until a signal ends it. Calls `announce` when every worker
    /// accepts connections and signals are obeyed: whoever reads it may rely on both.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn run(self, announce: impl FnOnce() -> io::Result<()>) -> Result<ExitCode, StartError> {
        let drain = self.generation.config.timeouts.drain;
        let (sender, events) = channel();
        forward_signals(sender.clone()).map_err(|e| StartError::Io("handle signals", e))?;
        let workers = self.start_workers(&sender)?;
        Supervisor {
            workers,
            events,
            drain,
        }
        .supervise(announce)
    }

    fn start_workers(self, events: &Sender<Event>) -> Result<Vec<Handle>, StartError> {
        let file_threads =
            FileThreads::start().map_err(|e| StartError::Io("start the file threads", e))?;
        let shared = Arc::new(Shared {
            generation: ArcSwap::from_pointee(self.generation),
            admission: Arc::new(Admission::new()),
            file_threads,
            kernel: self.kernel,
        });
        let driver = Driver::from(&self.ring);
        // A worker per CPU gets its CPU; with more workers than CPUs the scheduler knows better.
        let is_pinned = self.workers <= self.cpus.len();
        let mut sockets: Vec<_> = self
            .listeners
            .into_iter()
            .map(|(listener, _, sockets)| (listener, sockets.into_iter()))
            .collect();
        (0..self.workers)
            .map(|index| {
                let listeners = sockets
                    .iter_mut()
                    .filter_map(|(listener, own)| Some((own.next()?, listener.clone())))
                    .collect();
                let cpu = self.cpus.get(index).copied().filter(|_| is_pinned);
                start_worker(index, cpu, driver, listeners, &shared, events)
                    .map_err(|e| StartError::Io("start a worker", e))
            })
            .collect()
    }
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
    let limits = &mut config.limits;
    let room = connections_for(limit, workers, limits.open_files_per_worker_max);
    if room < limits.connections_per_worker_max {
        tracing::warn!(
            open_files = limit,
            connections_per_worker = room,
            "the limit of open files allows fewer connections than limits.connections_per_worker_max"
        );
        limits.connections_per_worker_max = room;
    }
}

/// Connections per worker that `descriptors` allow beside `files` open files for each worker. Where
/// that leaves too little, connections get half of all.
fn connections_for(descriptors: usize, workers: usize, files: usize) -> usize {
    let own = DESCRIPTORS_PER_PROCESS + workers.saturating_mul(DESCRIPTORS_PER_WORKER);
    let left = descriptors.saturating_sub(own.saturating_add(workers.saturating_mul(files)));
    (left.max(descriptors / 2) / workers.max(1)).max(1)
}

/// Standard streams, the signal pipe, the files that a start reads.
const DESCRIPTORS_PER_PROCESS: usize = 32;

/// A ring, listening sockets, socket pairs, a reserve.
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

/// What the supervisor waits for.
enum Event {
    Signal(i32),
    WorkerReady,
    WorkerEnded {
        index: usize,
        result: io::Result<()>,
    },
}

struct Handle {
    thread: JoinHandle<()>,
    commands: Sender<Command>,
    wake: UnixStream,
}

impl Handle {
    fn command(&self, command: Command) {
        // A worker that is gone already needs no command.
        if self.commands.send(command).is_ok() {
            drop((&self.wake).write(&[1]));
        }
    }
}

fn start_worker(
    index: usize,
    cpu: Option<usize>,
    driver: Driver,
    listeners: Vec<(OwnedFd, Listener)>,
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

fn forward_signals(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR2])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in &mut signals {
                if events.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}

struct Supervisor {
    workers: Vec<Handle>,
    events: Receiver<Event>,
    drain: std::time::Duration,
}

impl Supervisor {
    fn supervise(self, announce: impl FnOnce() -> io::Result<()>) -> Result<ExitCode, StartError> {
        let mut running = self.workers.len();
        let mut starting = running;
        let mut announce = Some(announce);
        let mut hard_stop: Option<Instant> = None;
        while running > 0 {
            match self.next_event(hard_stop) {
                Some(Event::WorkerReady) => {
                    starting -= 1;
                    if let Some(announce) = announce.take_if(|_| starting == 0) {
                        announce().map_err(|e| StartError::Io("write to standard output", e))?;
                    }
                }
                Some(Event::Signal(SIGUSR2)) => log_counters(),
                Some(Event::Signal(_)) if hard_stop.is_none() => {
                    tracing::info!(limit_ms = self.drain.as_millis(), "draining");
                    hard_stop = Some(Instant::now() + self.drain);
                    self.command_all(Command::Drain);
                }
                Some(Event::Signal(_)) => return Ok(stop_at_once("second signal")),
                Some(Event::WorkerEnded { index, result }) => {
                    running -= 1;
                    if let Err(error) = result {
                        tracing::error!(worker = index, %error, "a worker failed");
                        return Ok(ExitCode::FAILURE);
                    }
                }
                None => return Ok(stop_at_once("timeouts.drain_ms passed")),
            }
        }
        for worker in self.workers {
            drop(worker.thread.join());
        }
        log_counters();
        tracing::info!("drained");
        Ok(ExitCode::SUCCESS)
    }

    /// The next event; `None` when the hard stop is due.
    fn next_event(&self, hard_stop: Option<Instant>) -> Option<Event> {
        let Some(hard_stop) = hard_stop else {
            return self.events.recv().ok();
        };
        let left = hard_stop.saturating_duration_since(Instant::now());
        self.events.recv_timeout(left).ok()
    }

    fn command_all(&self, command: Command) {
        for worker in &self.workers {
            worker.command(command);
        }
    }
}

/// The process ends with connections open: the kernel closes them.
fn stop_at_once(reason: &str) -> ExitCode {
    log_counters();
    tracing::warn!(reason, "stopping at once");
    ExitCode::FAILURE
}

/// All counters in one line, for an operator who sends SIGUSR2 and for the end of the log.
fn log_counters() {
    let counters: Vec<String> = Counter::ALL
        .iter()
        .map(|&counter| format!("{}={}", counter.name(), metrics::total(counter)))
        .collect();
    tracing::info!("counters {}", counters.join(" "));
}

#[cfg(test)]
mod tests {
    use super::{connections_for, workers_for};

    #[test]
    fn connections_leave_descriptors_for_files() {
        assert_eq!(connections_for(20_000, 2, 1024), 8928);
        assert_eq!(connections_for(1_048_576, 64, 1024), 15_327);
        // Too few for all: half of them.
        assert_eq!(connections_for(1024, 2, 1024), 256);
        assert_eq!(connections_for(10, 16, 1024), 1);
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
