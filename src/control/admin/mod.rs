//! The admin listener: metrics, health and a status page, on a thread of its own.
//!
//! Workers are never asked: everything shown is read from what they leave in memory. Connections are
//! bounded in number, size and time.

mod connections;
mod http;
mod prometheus;
mod status;

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use self::connections::Stream;
use self::http::{Answer, Hosts};
use crate::config::{Admin, AdminAddress};
use crate::worker::Shared;

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not all workers take connections yet.
    Starting,
    /// It takes connections.
    Ready,
    /// It takes none any more.
    Draining,
}

/// The [`Phase`], for the threads that tell it.
#[derive(Clone, Debug, Default)]
pub struct CurrentPhase(Arc<AtomicU8>);

/// The open listener.
#[derive(Debug)]
pub struct AdminListener {
    socket: AdminSocket,
    hosts: Hosts,
}

/// What there is to show.
struct Observed {
    shared: Arc<Shared>,
    phase: CurrentPhase,
    workers: usize,
    started: SystemTime,
}

#[derive(Debug)]
enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl CurrentPhase {
    /// What the process is doing.
    pub fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            1 => Phase::Ready,
            2 => Phase::Draining,
            _ => Phase::Starting,
        }
    }

    /// It does something else from now on.
    pub fn set(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Relaxed);
    }
}

impl Phase {
    /// Its published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

impl AdminListener {
    /// Opens it.
    ///
    /// # Errors
    /// Those of bind(2) and listen(2).
    pub fn open(admin: &Admin) -> io::Result<Self> {
        let socket = match &admin.address {
            AdminAddress::Tcp(address) => AdminSocket::Tcp(TcpListener::bind(address)?),
            AdminAddress::Unix(path) => AdminSocket::Unix(bind_unix(path)?),
        };
        match &socket {
            AdminSocket::Tcp(listener) => listener.set_nonblocking(true)?,
            AdminSocket::Unix(listener) => listener.set_nonblocking(true)?,
        }
        let hosts = match (&admin.address, admin.allow_remote) {
            (AdminAddress::Tcp(_), false) => Hosts::Local,
            _ => Hosts::Any,
        };
        Ok(Self { socket, hosts })
    }

    /// Answers for as long as the process lives.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        self,
        shared: &Arc<Shared>,
        phase: &CurrentPhase,
        workers: usize,
    ) -> io::Result<()> {
        let observed = Observed {
            shared: shared.clone(),
            phase: phase.clone(),
            workers,
            started: SystemTime::now(),
        };
        let Self { socket, hosts } = self;
        std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || {
                connections::serve(&socket, hosts, &|path| answer(path, &observed));
            })?;
        Ok(())
    }
}

impl fmt::Display for AdminListener {
    /// Its address as a URL, or its path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            AdminSocket::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(f, "http://{address}"),
                Err(error) => write!(f, "an unknown address ({error})"),
            },
            AdminSocket::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                write!(f, "unix:{}", path.unwrap_or(Path::new("")).display())
            }
        }
    }
}

impl AdminSocket {
    fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Box::new(stream)
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Box::new(stream)
            }
        })
    }
}

impl AsFd for AdminSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// A socket of an earlier process that ended is in the way of the next; one of a process that lives,
/// or a file that is no socket, is not touched.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket
        && let Err(error) = UnixStream::connect(path)
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // Whoever collects metrics shares a group with this user; the rest of the machine has no say.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

fn answer(path: &str, observed: &Observed) -> Answer {
    match path {
        "/" => Answer::html(STATUS_PAGE),
        "/metrics" => match prometheus::text(observed) {
            Ok(text) => Answer::new(200, prometheus::CONTENT_TYPE, text),
            Err(error) => Answer::text(500, &format!("{error}\n")),
        },
        "/healthz" => Answer::text(200, "alive\n"),
        "/readyz" => {
            let phase = observed.phase.get();
            let status = match phase {
                Phase::Ready => 200,
                Phase::Starting | Phase::Draining => 503,
            };
            Answer::text(status, &format!("{}\n", phase.name()))
        }
        "/status.json" => Answer::new(200, "application/json", status::json(observed)),
        _ => Answer::text(
            404,
            "there are /, /metrics, /healthz, /readyz and /status.json\n",
        ),
    }
}

/// Needs nothing from the network but `/status.json`.
const STATUS_PAGE: &str = include_str!("status.html");

#[cfg(test)]
mod tests;
