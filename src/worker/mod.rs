//! One pinned thread: it accepts, serves and drains its connections on a runtime of its own.

mod accept;
pub mod admission;
mod conn;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use self::admission::Admission;
use crate::config::{Config, Listener, Service};
use crate::http;
use crate::net::deadline::{Deadlines, TICK};
use crate::net::file_threads::{FileThreads, FileThreadsHandle};
use crate::net::rt::{self, Driver};
use crate::net::socket::Socket;
use crate::net::stream::StreamContext;
use crate::serve::redirect::Redirect;
use crate::serve::{Routes, Serve};
use crate::sys;
use crate::sys::probe::KernelTls;
use crate::tls::server_config::TlsSetup;

/// What all workers share.
pub struct Shared {
    /// The configuration in force and the TLS objects made of it. A connection keeps the one it was
    /// accepted under.
    pub generation: ArcSwap<Generation>,
    /// Connections per client address.
    pub admission: Arc<Admission>,
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
}

/// What one worker is started with.
pub struct WorkerSetup {
    /// The worker's number, from zero; names its thread.
    pub index: usize,
    /// The CPU to run on.
    pub cpu: Option<usize>,
    /// What drives its sockets.
    pub driver: Driver,
    /// Its own listening sockets.
    pub listeners: Vec<(OwnedFd, Listener)>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Accept no more, end idle connections, let the others finish.
    Drain,
}

/// Runs a worker on this thread until it has drained.
///
/// # Errors
/// When the thread cannot be pinned or its runtime cannot be built.
pub fn run(setup: WorkerSetup) -> io::Result<()> {
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
    is_draining: Cell<bool>,
    /// Kept open for the moment no other descriptor is left; see [`accept`].
    reserve: RefCell<Option<OwnedFd>>,
}

/// What a worker makes for itself of one [`Generation`].
struct Local {
    generation: Arc<Generation>,
    stream: Rc<StreamContext>,
    http: http::Context,
    serve: Serve,
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
    let current = Rc::new(Local::new(
        &shared,
        &file_threads,
        shared.generation.load_full(),
    ));
    let worker = Rc::new(Worker {
        index,
        shared,
        deadlines: Deadlines::new(),
        file_threads,
        locals: RefCell::new(vec![Rc::downgrade(&current)]),
        current: RefCell::new(current),
        connections: Cell::new(0),
        is_draining: Cell::new(false),
        reserve: RefCell::new(accept::reserve_descriptor()),
    });
    let mut sockets = Vec::new();
    for (descriptor, listener) in listeners {
        let socket = Rc::new(Socket::adopt(descriptor)?);
        sockets.push((socket.clone(), listener.service.clone()));
        rt::spawn(accept::accept_forever(
            worker.clone(),
            socket,
            listener.service,
        ));
    }
    rt::spawn(turn_wheel(worker.deadlines.clone()));
    let control = Socket::adopt(wake.try_clone()?.into())?;
    on_ready();
    obey(&worker, sockets, &commands, (control, wake)).await
}

/// Carries out commands until the worker has drained.
async fn obey(
    worker: &Rc<Worker>,
    mut listeners: Vec<(Rc<Socket>, Service)>,
    commands: &Receiver<Command>,
    (readiness, wake): (Socket, UnixStream),
) -> io::Result<()> {
    loop {
        readiness.readable().await?;
        let mut scratch = [0; 16];
        let is_orphaned = matches!((&wake).read(&mut scratch), Ok(0));
        while let Ok(command) = commands.try_recv() {
            match command {
                Command::Drain => {
                    worker.drain(std::mem::take(&mut listeners));
                    rt::spawn(wake_when_empty(worker.clone(), wake.try_clone()?));
                }
            }
        }
        if is_orphaned || (worker.is_draining.get() && worker.connections.get() == 0) {
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
        let local = Rc::new(Local::new(
            &self.shared,
            &self.file_threads,
            generation.clone(),
        ));
        let mut locals = self.locals.borrow_mut();
        locals.retain(|local| local.strong_count() > 0);
        locals.push(Rc::downgrade(&local));
        *self.current.borrow_mut() = local.clone();
        local
    }

    fn drain(self: &Rc<Self>, listeners: Vec<(Rc<Socket>, Service)>) {
        for (socket, service) in &listeners {
            // Those who have connected already are served: they were promised it by the kernel.
            accept::accept_queued(self, socket, service);
        }
        self.is_draining.set(true);
        for (socket, _) in listeners {
            // Wakes the accepting task, which then ends.
            socket.shutdown(std::net::Shutdown::Both);
        }
        for local in self.locals.borrow().iter().filter_map(Weak::upgrade) {
            local.http.drain();
        }
        self.deadlines.drain_idle();
    }
}

impl Local {
    fn new(shared: &Shared, file_threads: &FileThreadsHandle, generation: Arc<Generation>) -> Self {
        let config = &generation.config;
        let stream = StreamContext {
            offload: config.offload,
            kernel: shared.kernel.clone(),
            send_progress: config.timeouts.send_progress,
            records_per_key_max: config.limits.records_per_key_max,
            file_threads: file_threads.clone(),
        };
        Self {
            stream: Rc::new(stream),
            http: http::Context::new(config.timeouts, config.limits).with_http2(config.http2),
            serve: Serve::new(generation.routes.clone(), file_threads.clone()),
            redirects: redirects(config),
            generation,
        }
    }
}

fn redirects(config: &Config) -> HashMap<u16, Redirect> {
    let ports = config
        .listeners
        .iter()
        .filter_map(|listener| match listener.service {
            Service::RedirectToHttps { port } => Some(port),
            Service::Https => None,
        });
    ports
        .map(|port| (port, Redirect::new(config, port)))
        .collect()
}

/// Turns the deadline wheel for as long as the worker lives.
async fn turn_wheel(deadlines: Deadlines) {
    loop {
        rt::sleep(TICK).await;
        deadlines.turn(Instant::now());
    }
}

/// Wakes [`obey`] when the last connection is gone.
async fn wake_when_empty(worker: Rc<Worker>, wake: UnixStream) {
    // A connection that was between two requests when the drain began is idle only now.
    while worker.connections.get() > 0 {
        rt::sleep(DRAIN_LOOK).await;
        worker.deadlines.drain_idle();
    }
    // Shutting our own side makes our own reads end: the loop looks and finds nobody.
    drop(wake.shutdown(std::net::Shutdown::Read));
}

/// How often a draining worker looks whether it is empty.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
