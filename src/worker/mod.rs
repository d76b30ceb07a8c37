//! One pinned thread: it accepts, serves and drains its connections on a runtime of its own.

mod accept;
pub mod access_log;
pub mod admission;
mod conn;
mod introduction;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use self::access_log::{AccessLogs, WorkerLogs};
use self::admission::Admission;
use crate::config::{Config, Listener, Service};
use crate::http;
use crate::metrics;
use crate::net::deadline::{Deadlines, TICK};
use crate::net::file_threads::{FileThreads, FileThreadsHandle};
use crate::net::rt::{self, Driver};
use crate::net::socket::Socket;
use crate::net::stream::StreamContext;
use crate::net::windows;
use crate::serve::proxy::Proxy;
use crate::serve::rate::Rates;
use crate::serve::redirect::Redirect;
use crate::serve::tunnel::Tunnels;
use crate::serve::{Routes, Serve};
use crate::sys;
use crate::sys::probe::KernelTls;
use crate::tls::server_config::TlsSetup;
use crate::upstream::{Connector, Groups, Upstreams};

/// What all workers share.
pub struct Shared {
    /// The configuration in force and the TLS objects made of it. A connection keeps the one it was
    /// accepted under.
    pub generation: ArcSwap<Generation>,
    /// Connections per client address.
    pub admission: Arc<Admission>,
    /// Requests per client.
    pub rates: Arc<Rates>,
    /// Threads for what blocks on files.
    pub file_threads: FileThreads,
    /// What this kernel can take over.
    pub kernel: KernelTls,
}

/// A configuration and what is made of it.
pub struct Generation {
    /// The checked configuration.
    pub config: Arc<Config>,
    /// Certificates and session settings.
    pub tls: Arc<TlsSetup>,
    /// What is served under which name.
    pub routes: Arc<Routes>,
    /// The servers behind this one.
    pub upstreams: Arc<Upstreams>,
    /// What is said of each open listener, of those that are being closed too.
    pub listeners: HashMap<ListenerId, Listener>,
    /// Where responses are logged.
    pub access_logs: AccessLogs,
    /// By site: when its certificate expires. Empty where nobody watches.
    pub certificate_expiries: Vec<SystemTime>,
}

/// One listener of the process: it stays the same over reloads that keep its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub usize);

/// What one worker is started with.
pub struct WorkerSetup {
    /// The worker's number, from zero; names its thread.
    pub index: usize,
    /// The CPU to run on.
    pub cpu: Option<usize>,
    /// What drives its sockets.
    pub driver: Driver,
    /// Its own listening sockets.
    pub listeners: Vec<(ListenerId, OwnedFd)>,
    /// Shared by all.
    pub shared: Arc<Shared>,
    /// What the control thread asks for; `wake` is written after each.
    pub commands: Receiver<Command>,
    /// Wakes the worker for `commands`; its end of stream is an order to stop at once.
    pub wake: UnixStream,
    /// Called when it accepts connections and obeys commands.
    pub on_ready: Box<dyn FnOnce() + Send>,
}

/// What the control thread asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// Accept no more, end idle connections, let the others finish.
    Drain,
    /// Hand over what is gathered of the access logs, and say so by dropping this: the process ends.
    FlushLogs(Sender<()>),
    /// Take up the [`Generation`] that has been put in force. New connections get it in any case;
    /// this lets go of the one before as soon as its connections are gone.
    Reload {
        /// Sockets to listen on from now on.
        open: Vec<(ListenerId, OwnedFd)>,
        /// Listeners to close once those who wait in their queues are accepted.
        close: Vec<ListenerId>,
    },
}

/// Runs a worker on this thread until it has drained.
///
/// # Errors
/// When the thread cannot be pinned or its runtime cannot be built.
pub fn run(setup: WorkerSetup) -> io::Result<()> {
    metrics::join();
    if let Some(cpu) = setup.cpu {
        sys::cpu::pin_current_thread(cpu)?;
    }
    rt::block_on(setup.driver, serve(setup))?
}

/// The worker's own state, shared by its tasks.
struct Worker {
    index: usize,
    shared: Arc<Shared>,
    deadlines: Deadlines,
    file_threads: FileThreadsHandle,
    current: RefCell<Rc<Local>>,
    /// Those whose connections live on, under whatever configuration.
    locals: RefCell<Vec<Weak<Local>>>,
    connections: Cell<usize>,
    listening: RefCell<Vec<Rc<Listening>>>,
    /// Listeners whose queues are being emptied.
    closing: Cell<usize>,
    is_draining: Cell<bool>,
    /// Kept open for the moment no other descriptor is left; see [`accept`].
    reserve: RefCell<Option<OwnedFd>>,
}

/// One of a worker's listening sockets.
struct Listening {
    id: ListenerId,
    socket: Socket,
    is_closed: Cell<bool>,
}

/// What a worker makes for itself of one [`Generation`].
struct Local {
    generation: Arc<Generation>,
    stream: Rc<StreamContext>,
    http: http::Context,
    logs: WorkerLogs,
    serve: Serve,
    tunnels: Tunnels,
    /// By the port they lead to.
    redirects: HashMap<u16, Redirect>,
}

async fn serve(setup: WorkerSetup) -> io::Result<()> {
    let WorkerSetup {
        index,
        listeners,
        shared,
        commands,
        wake,
        on_ready,
        ..
    } = setup;
    let file_threads = shared.file_threads.attach()?;
    let deadlines = Deadlines::new();
    let generation = shared.generation.load_full();
    let current = Local::new(&shared, &file_threads, &deadlines, generation);
    let worker = Rc::new(Worker {
        index,
        shared,
        deadlines,
        file_threads,
        locals: RefCell::new(vec![Rc::downgrade(&current)]),
        current: RefCell::new(current),
        connections: Cell::new(0),
        listening: RefCell::new(Vec::new()),
        closing: Cell::new(0),
        is_draining: Cell::new(false),
        reserve: RefCell::new(accept::reserve_descriptor()),
    });
    for (id, descriptor) in listeners {
        worker.listen(id, descriptor)?;
    }
    rt::spawn(turn_wheel(worker.clone()));
    let control = Socket::adopt(wake.try_clone()?.into())?;
    on_ready();
    let outcome = obey(&worker, &commands, (control, wake)).await;
    worker.flush_logs();
    outcome
}

/// Carries out commands until the worker has drained.
async fn obey(
    worker: &Rc<Worker>,
    commands: &Receiver<Command>,
    (readiness, wake): (Socket, UnixStream),
) -> io::Result<()> {
    loop {
        readiness.readable().await?;
        let mut scratch = [0; 16];
        let is_orphaned = matches!((&wake).read(&mut scratch), Ok(0));
        while let Ok(command) = commands.try_recv() {
            match command {
                Command::Reload { open, close } => worker.reload(open, &close),
                Command::FlushLogs(done) => {
                    worker.flush_logs();
                    drop(done);
                }
                Command::Drain => {
                    worker.drain();
                    rt::spawn(wake_when_empty(worker.clone(), wake.try_clone()?));
                }
            }
        }
        if is_orphaned || (worker.is_draining.get() && worker.is_empty()) {
            return Ok(());
        }
    }
}

impl Worker {
    /// The state for the configuration now in force.
    fn local(&self) -> Rc<Local> {
        let generation = self.shared.generation.load();
        let current = self.current.borrow().clone();
        if Arc::ptr_eq(&generation, &current.generation) {
            return current;
        }
        let local = Local::new(
            &self.shared,
            &self.file_threads,
            &self.deadlines,
            generation.clone(),
        );
        let mut locals = self.locals.borrow_mut();
        locals.retain(|local| local.strong_count() > 0);
        locals.push(Rc::downgrade(&local));
        *self.current.borrow_mut() = local.clone();
        local
    }

    /// Accepts from a listening socket of this worker's own, until it is closed.
    fn listen(self: &Rc<Self>, id: ListenerId, descriptor: OwnedFd) -> io::Result<()> {
        let listening = Rc::new(Listening {
            id,
            socket: Socket::adopt(descriptor)?,
            is_closed: Cell::new(false),
        });
        self.listening.borrow_mut().push(listening.clone());
        rt::spawn(accept::accept_forever(self.clone(), listening));
        Ok(())
    }

    fn close(self: &Rc<Self>, listening: Rc<Listening>) {
        self.closing.set(self.closing.get() + 1);
        rt::spawn(accept::empty_and_close(self.clone(), listening));
    }

    /// Whether there is no connection, and none to come from a listener that is being closed.
    fn is_empty(&self) -> bool {
        self.connections.get() == 0 && self.closing.get() == 0
    }

    fn reload(self: &Rc<Self>, open: Vec<(ListenerId, OwnedFd)>, close: &[ListenerId]) {
        if self.is_draining.get() {
            return;
        }
        drop(self.local());
        for (id, descriptor) in open {
            if let Err(error) = self.listen(id, descriptor) {
                tracing::error!(worker = self.index, %error, "cannot listen on a new address");
            }
        }
        let is_kept = |listening: &Rc<Listening>| !close.contains(&listening.id);
        let all = self.listening.take();
        let (kept, closed): (Vec<_>, Vec<_>) = all.into_iter().partition(is_kept);
        self.listening.replace(kept);
        for listening in closed {
            self.close(listening);
        }
    }

    fn flush_logs(&self) {
        for local in self.locals.borrow().iter().filter_map(Weak::upgrade) {
            local.logs.flush();
        }
    }

    fn drain(self: &Rc<Self>) {
        for listening in self.listening.take() {
            self.close(listening);
        }
        self.is_draining.set(true);
        for local in self.locals.borrow().iter().filter_map(Weak::upgrade) {
            local.http.drain();
        }
        self.deadlines.drain_idle();
    }
}

impl Local {
    fn new(
        shared: &Shared,
        file_threads: &FileThreadsHandle,
        deadlines: &Deadlines,
        generation: Arc<Generation>,
    ) -> Rc<Self> {
        let config = &generation.config;
        let stream = Rc::new(StreamContext {
            offload: config.offload,
            kernel: shared.kernel.clone(),
            send_progress: config.timeouts.send_progress,
            records_per_key_max: config.limits.records_per_key_max,
            file_threads: file_threads.clone(),
        });
        let connector = Rc::new(Connector::new(deadlines.clone(), config.tcp));
        let groups = Groups::new(&generation.upstreams);
        let proxy = Proxy::new(&groups, connector, stream.clone());
        let serve = Serve::new(generation.routes.clone(), file_threads.clone());
        Rc::new(Self {
            http: http::Context::new(config.timeouts, config.limits).with_http2(config.http2),
            serve: serve.with_proxy(proxy).with_rates(shared.rates.clone()),
            tunnels: Tunnels::new(config, &generation.upstreams, deadlines.clone(), &stream),
            redirects: redirects(&generation, &shared.rates),
            stream,
            logs: WorkerLogs::new(&generation.access_logs),
            generation,
        })
    }
}

fn redirects(generation: &Generation, rates: &Arc<Rates>) -> HashMap<u16, Redirect> {
    let ports = generation
        .listeners
        .values()
        .filter_map(|listener| match &listener.service {
            Service::RedirectToHttps { port } => Some(*port),
            Service::Https | Service::Tunnel { .. } => None,
        });
    let redirect = |port| Redirect::new(generation.config.clone(), rates.clone(), port);
    ports.map(|port| (port, redirect(port))).collect()
}

/// Turns the deadline wheel for as long as the worker lives.
async fn turn_wheel(worker: Rc<Worker>) {
    loop {
        rt::sleep(TICK).await;
        let now = Instant::now();
        worker.deadlines.turn(now);
        windows::sweep(worker.deadlines.now_ms());
        for local in worker.locals.borrow().iter().filter_map(Weak::upgrade) {
            local.serve.sweep(now);
            local.logs.flush();
        }
    }
}

/// Wakes [`obey`] when the last connection is gone.
async fn wake_when_empty(worker: Rc<Worker>, wake: UnixStream) {
    // A connection that was between two requests when the drain began is idle only now.
    while !worker.is_empty() {
        rt::sleep(DRAIN_LOOK).await;
        worker.deadlines.drain_idle();
    }
    // Shutting our own side makes our own reads end: the loop looks and finds nobody.
    drop(wake.shutdown(std::net::Shutdown::Read));
}

/// How often a draining worker looks whether it is empty.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
