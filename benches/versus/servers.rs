//! The servers: how each is configured, started and stopped.
//!
//! A server is one more type that implements [`Server`] and one more line in [`named`].

mod nginx;
mod portcullis;

use std::fmt;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use self::nginx::Nginx;
use self::portcullis::Portcullis;
use crate::Failure;
use crate::arguments::Arguments;
use crate::fixture::{Certificate, Fixture, Key, Version};
use crate::tools;

/// A server program.
pub(crate) trait Server {
    /// As on the command line.
    fn name(&self) -> &'static str;

    /// The program's version, and its TLS library's where that is another matter.
    fn version(&self) -> Result<String, Failure>;

    /// Writes a configuration into `site.scratch` and gives the command that serves it in the
    /// foreground, with one worker. Children of that process count as the server.
    fn command(&self, site: &Site) -> Result<Command, Failure>;
}

/// What a server is to serve.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) root: PathBuf,
    pub(crate) certificate: Certificate,
    pub(crate) version: Version,
    /// The server's own directory.
    pub(crate) scratch: PathBuf,
    /// Connections it must be able to hold.
    pub(crate) connections_max: u32,
}

/// The servers that `arguments` name, in that order.
pub(crate) fn chosen(arguments: &Arguments) -> Result<Vec<Box<dyn Server>>, Failure> {
    let servers: Result<Vec<_>, Failure> = arguments
        .servers
        .iter()
        .map(|name| named(name, arguments))
        .collect();
    let servers = servers?;
    if servers.len() < 2 {
        return Err(
            "--servers needs two names at least: the first is compared with the rest".into(),
        );
    }
    Ok(servers)
}

fn named(name: &str, arguments: &Arguments) -> Result<Box<dyn Server>, Failure> {
    let locate = |program: &Path| {
        tools::locate(program).ok_or_else(|| format!("there is no program {}", program.display()))
    };
    let portcullis = |name, offload| -> Result<Box<dyn Server>, Failure> {
        Ok(Box::new(Portcullis {
            name,
            offload,
            program: locate(&arguments.portcullis)?,
        }))
    };
    let nginx = |name, kernel_tls| -> Result<Box<dyn Server>, Failure> {
        Ok(Box::new(Nginx {
            name,
            kernel_tls,
            program: locate(&arguments.nginx)?,
        }))
    };
    match name {
        "portcullis" => portcullis("portcullis", "auto"),
        "portcullis-always" => portcullis("portcullis-always", "always"),
        "portcullis-never" => portcullis("portcullis-never", "never"),
        "nginx" => nginx("nginx", false),
        "nginx-ktls" => nginx("nginx-ktls", true),
        other => Err(format!("no server {other:?}; known: {KNOWN}").into()),
    }
}

/// A server process that accepts connections; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

impl Running {
    /// Starts `server` on its core and a free port of 127.0.0.1, and waits until it accepts.
    /// `label` names its directory: servers that run at once have different ones.
    pub(crate) fn start(
        server: &dyn Server,
        (key, version): (Key, Version),
        label: &str,
        arguments: &Arguments,
        fixture: &Fixture,
    ) -> Result<Self, Failure> {
        let site = Site {
            address: free_address()?,
            root: fixture.root(),
            certificate: fixture.certificate(key),
            version,
            scratch: fixture.scratch(label)?,
            connections_max: arguments.idle.get() + CONNECTIONS_SPARE,
        };
        let log = site.scratch.join("log");
        let command = server.command(&site)?;
        let child = pinned(&command, arguments.server_cpu)
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", server.name()))?;
        let mut running = Self {
            child,
            name: server.name(),
            address: site.address,
            log,
        };
        running.wait_until_it_accepts()?;
        Ok(running)
    }

    /// The process that was started.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_accepts(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.failed(format_args!("ended at once: {status}")));
            }
            if Instant::now() > deadline {
                return Err(self.failed(format_args!("does not accept connections")));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn failed(&self, what: fmt::Arguments<'_>) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        format!("{} {what}\n{log}", self.name).into()
    }

    /// SIGTERM: nginx's fast shutdown, Portcullis' drain.
    fn terminate(&self) {
        let command = format!("kill -TERM {}", self.pid());
        drop(Command::new("sh").args(["-c", &command]).status());
    }

    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Twice: a drain waits for connections that nobody will use again.
        for _ in 0..2 {
            self.terminate();
            if self.wait(STOP_MAX).is_some() {
                return;
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `command` on one CPU, with as many descriptors as this machine allows.
pub(crate) fn pinned(command: &Command, cpu: usize) -> Command {
    let mut pinned = Command::new("sh");
    // Every step replaces the one before: the process started is the program itself.
    pinned
        .args([
            "-c",
            "ulimit -n $(ulimit -Hn) && exec taskset -c \"$0\" \"$@\"",
        ])
        .arg(cpu.to_string())
        .arg(command.get_program())
        .args(command.get_args());
    pinned
}

const KNOWN: &str = "portcullis (with its own choice of the offload policy), portcullis-always, \
     portcullis-never, nginx (TLS in user space), nginx-ktls";

fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Beyond the idle ones: those of a load, and listeners.
const CONNECTIONS_SPARE: u32 = 1_000;

const START_MAX: Duration = Duration::from_secs(15);
const STOP_MAX: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(10);
