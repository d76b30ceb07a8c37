//! The main thread's loop: events in, commands to the workers out.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use super::StartError;
use super::admin::{CurrentPhase, Phase};
use super::channel::Reply;
use super::listen::Listeners;
use super::reload::{Origin, ReloadError, Reloaded};
use super::watch;
use crate::config::Service;
use crate::metrics::{self, Counter};
use crate::worker::access_log::AccessLog;
use crate::worker::{Command, Generation, ListenerId, Shared};

/// What the supervisor waits for.
#[derive(Debug)]
pub(super) enum Event {
    Signal(i32),
    /// Read the configuration again and say what came of it.
    Reload(Sender<Reply>),
    WorkerReady,
    WorkerEnded {
        index: usize,
        result: io::Result<()>,
    },
}

/// A running worker.
pub(super) struct Handle {
    pub(super) thread: JoinHandle<()>,
    pub(super) commands: Sender<Command>,
    pub(super) wake: UnixStream,
}

/// Everything that runs, and what happens to it.
pub(super) struct Supervisor {
    pub(super) workers: Vec<Handle>,
    pub(super) events: Receiver<Event>,
    pub(super) shared: Arc<Shared>,
    /// The access logs in force, and those of earlier configurations that connections still write to.
    pub(super) logs: Vec<AccessLog>,
    pub(super) listeners: Listeners,
    /// `None` when no file says what is served: then there is nothing to reload.
    pub(super) origin: Option<Origin>,
    /// When certificate files are looked at again.
    pub(super) next_look: Instant,
    /// What the admin listener tells of this.
    pub(super) phase: CurrentPhase,
}

/// Sends the signals that mean something to `events`.
pub(super) fn forward_signals(events: Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])?;
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

impl Supervisor {
    /// Calls `announce` when all workers are ready, and goes on until they have ended.
    pub(super) fn supervise(
        mut self,
        announce: impl FnOnce() -> io::Result<()>,
    ) -> Result<ExitCode, StartError> {
        let mut running = self.workers.len();
        let mut starting = running;
        let mut announce = Some(announce);
        let mut hard_stop: Option<Instant> = None;
        // Until workers listen there is nobody to be told of new listeners.
        let mut postponed = VecDeque::new();
        while running > 0 {
            match self.next_event(hard_stop) {
                Some(Event::WorkerReady) => {
                    starting -= 1;
                    if let Some(announce) = announce.take_if(|_| starting == 0) {
                        self.phase.set(Phase::Ready);
                        announce().map_err(|e| StartError::Io("write to standard output", e))?;
                        postponed.drain(..).for_each(|ask| self.reload(ask));
                    }
                }
                Some(Event::Signal(SIGUSR2)) => log_counters(),
                Some(Event::Signal(SIGUSR1)) => self.reopen_logs(),
                Some(Event::Signal(SIGHUP)) if starting > 0 => postponed.push_back(None),
                Some(Event::Reload(ask)) if starting > 0 => postponed.push_back(Some(ask)),
                Some(Event::Signal(SIGHUP)) if hard_stop.is_none() => self.reload(None),
                Some(Event::Reload(ask)) if hard_stop.is_none() => self.reload(Some(ask)),
                Some(Event::Signal(SIGHUP)) => tracing::warn!("draining: nothing is reloaded"),
                // Whoever asked learns it from the channel's end.
                Some(Event::Reload(_)) => {}
                Some(Event::Signal(_)) if hard_stop.is_none() => {
                    hard_stop = Some(self.drain());
                }
                Some(Event::Signal(_)) => return Ok(self.stop_at_once("second signal")),
                Some(Event::WorkerEnded { index, result }) => {
                    running -= 1;
                    if let Err(error) = result {
                        tracing::error!(worker = index, %error, "a worker failed");
                        return Ok(ExitCode::FAILURE);
                    }
                }
                None => return Ok(self.stop_at_once("timeouts.drain_ms passed")),
            }
        }
        for worker in std::mem::take(&mut self.workers) {
            drop(worker.thread.join());
        }
        AccessLog::finish(&self.logs, LOG_WAIT);
        log_counters();
        tracing::info!("drained");
        Ok(ExitCode::SUCCESS)
    }

    /// The process ends with connections open: the kernel closes them.
    fn stop_at_once(&self, reason: &str) -> ExitCode {
        self.flush_workers();
        AccessLog::finish(&self.logs, LOG_WAIT);
        log_counters();
        tracing::warn!(reason, "stopping at once");
        ExitCode::FAILURE
    }

    fn reopen_logs(&self) {
        self.logs.iter().for_each(AccessLog::reopen);
    }

    /// Lets workers hand over the last lines of the access logs. One that hangs is not waited for.
    fn flush_workers(&self) {
        if self.logs.is_empty() {
            return;
        }
        let (done, flushed) = channel::<()>();
        for worker in &self.workers {
            worker.command(Command::FlushLogs(done.clone()));
        }
        drop(done);
        // Nothing is sent: it ends when the last worker has let go.
        let _ = flushed.recv_timeout(LOG_WAIT);
    }

    /// Keeps a way to the logs of a new generation, and to those before it as long as somebody writes.
    fn note_logs(&mut self, generation: &Generation) {
        self.logs.retain(|log| !log.is_last());
        for log in generation.access_logs.iter() {
            if !self.logs.iter().any(|known| known.is(log)) {
                self.logs.push(log.clone());
            }
        }
    }

    /// The next event; `None` when the hard stop is due. Looks after certificate files meanwhile.
    fn next_event(&mut self, hard_stop: Option<Instant>) -> Option<Event> {
        let Some(hard_stop) = hard_stop else {
            loop {
                let look = self.next_look.saturating_duration_since(Instant::now());
                if look.is_zero() {
                    self.renew_certificates();
                    self.next_look = Instant::now() + watch::LOOK_INTERVAL;
                    continue;
                }
                match self.events.recv_timeout(look) {
                    Ok(event) => return Some(event),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return None,
                }
            }
        };
        let left = hard_stop.saturating_duration_since(Instant::now());
        self.events.recv_timeout(left).ok()
    }

    /// Begins the drain and gives the moment it has to be over.
    fn drain(&mut self) -> Instant {
        let limit = self.shared.generation.load().config.timeouts.drain;
        tracing::info!(limit_ms = limit.as_millis(), "draining");
        self.phase.set(Phase::Draining);
        self.listeners.release();
        for worker in &self.workers {
            worker.command(Command::Drain);
        }
        Instant::now() + limit
    }

    fn reload(&mut self, ask: Option<Sender<Reply>>) {
        let reply = self.try_reload();
        if let Some(ask) = ask {
            // Whoever asked may have gone; the log has it too.
            drop(ask.send(reply));
        }
    }

    fn try_reload(&mut self) -> Reply {
        let Some(origin) = &mut self.origin else {
            tracing::warn!("nothing is reloaded: no file says what is served");
            return Reply {
                code: 1,
                text: "no file says what is served".to_owned(),
            };
        };
        let running = self.shared.generation.load_full();
        let workers = self.workers.len();
        match origin.reload(&running, &mut self.listeners, workers) {
            Ok(reloaded) => {
                metrics::count(Counter::Reloads);
                self.put_in_force(reloaded)
            }
            Err(error) => {
                metrics::count(Counter::ReloadsRefused);
                tracing::error!("reload refused, everything stays as it is\n{error}");
                let code = match error {
                    ReloadError::Config(_) => 2,
                    ReloadError::Start(_) => 1,
                };
                let text = error.to_string();
                Reply { code, text }
            }
        }
    }

    fn put_in_force(&mut self, reloaded: Reloaded) -> Reply {
        let Reloaded {
            generation,
            open,
            close,
            notes,
        } = reloaded;
        self.note_logs(&generation);
        self.publish(generation, open, &close);
        for note in &notes {
            tracing::warn!("{note}");
        }
        tracing::info!("configuration reloaded");
        let mut text: String = notes.iter().map(|note| format!("{note}\n")).collect();
        text += &describe(&self.listeners);
        Reply { code: 0, text }
    }

    /// New connections get `generation` from here on. Its listeners open in the workers only after
    /// that, and those it lacks close.
    fn publish(
        &self,
        generation: Generation,
        open: Vec<Vec<(ListenerId, OwnedFd)>>,
        close: &[ListenerId],
    ) {
        self.shared.generation.store(Arc::new(generation));
        for (worker, open) in self.workers.iter().zip(open) {
            let close = close.to_vec();
            worker.command(Command::Reload { open, close });
        }
    }

    fn renew_certificates(&mut self) {
        let Some(origin) = &mut self.origin else {
            return;
        };
        let running = self.shared.generation.load_full();
        if let Some(generation) = origin.renew_certificates(&running) {
            let none = self.workers.iter().map(|_| Vec::new()).collect();
            self.publish(generation, none, &[]);
        }
    }
}

impl Handle {
    fn command(&self, command: Command) {
        // A worker that is gone already needs no command.
        if self.commands.send(command).is_ok() {
            drop((&self.wake).write(&[1]));
        }
    }
}

/// Where it listens, line by line.
pub(super) fn describe(listeners: &Listeners) -> String {
    let mut text = String::new();
    for (listener, address) in listeners.bound() {
        text += &match listener.service {
            Service::Https => format!("listening on https://{address}\n"),
            Service::Tunnel { .. } => format!("listening on tls://{address}\n"),
            Service::RedirectToHttps { port } => {
                format!("listening on http://{address} (redirects to port {port})\n")
            }
        };
    }
    text
}

/// All counters in one line, for an operator who sends SIGUSR2 and for the end of the log.
fn log_counters() {
    let counters: Vec<String> = Counter::ALL
        .iter()
        .map(|&counter| format!("{}={}", counter.name(), metrics::total(counter)))
        .collect();
    tracing::info!("counters {}", counters.join(" "));
}

/// For a log's last lines to be written.
const LOG_WAIT: Duration = Duration::from_secs(2);
