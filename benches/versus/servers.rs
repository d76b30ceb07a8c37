//! The servers: how each is configured, started and stopped.
//!
//! A server is one more type that implements [`Server`] and one more line in [`named`].

pub(crate) mod floor;
mod h2o;
mod haproxy;
mod nginx;
mod portcullis;
mod static_web_server;

use std::fmt;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use self::h2o::H2o;
use self::haproxy::Haproxy;
use self::nginx::Nginx;
use self::portcullis::Portcullis;
use self::static_web_server::StaticWebServer;
use crate::Failure;
use crate::arguments::Arguments;
pub(crate) use crate::figures::cells::Service;
use crate::fixture::{Certificate, Fixture, Key, Version};
use crate::growth;
use crate::tools::Wanted;

/// What a cell asks of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) service: Service,
    /// Requests under way at a time on each connection: more than one is HTTP/2.
    pub(crate) streams: u32,
    /// Whether the client insists on the session that all are to have, so that a server which would
    /// agree to another can take part.
    pub(crate) is_pinned_by_client: bool,
    /// The version of TLS in which every session is resumed from the one before.
    pub(crate) resumes: Option<Version>,
}

impl Demand {
    /// Of what this benchmark's own clients ask for.
    pub(crate) fn one_answer() -> Self {
        Self {
            service: Service::OneAnswer,
            streams: 1,
            is_pinned_by_client: true,
            resumes: None,
        }
    }
}

/// A server program.
pub(crate) trait Server {
    /// As on the command line.
    fn name(&self) -> &'static str;

    /// The program's version, and its TLS library's where that is another matter.
    fn version(&self) -> Result<String, Failure>;

    /// Why it has no part in a cell that asks for `demand`; `None` when it has.
    fn unable(&self, demand: Demand) -> Option<&'static str>;

    /// Whether it speaks plain HTTP where the others speak TLS.
    fn is_plain(&self) -> bool {
        false
    }

    /// Whether it is told to have every session's sending side in the kernel.
    fn asks_for_kernel_tls(&self) -> bool {
        false
    }

    /// Whether it can be kept from every session but the one that all are to have.
    fn is_pinned(&self) -> bool {
        true
    }

    /// Writes a configuration into `site.scratch` and gives the command that serves it in the
    /// foreground, with one worker. Children of that process count as the server.
    fn command(&self, site: &Site) -> Result<Command, Failure>;
}

/// What a cell is measured under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) service: Service,
    pub(crate) key: Key,
    pub(crate) version: Version,
    /// Where requests and bytes are passed on to.
    pub(crate) backend: Option<SocketAddr>,
}

/// What a server is to serve.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    pub(crate) service: Service,
    pub(crate) root: PathBuf,
    pub(crate) certificate: Certificate,
    pub(crate) version: Version,
    /// The server's own directory.
    pub(crate) scratch: PathBuf,
    /// Connections it must be able to hold.
    pub(crate) connections_max: u32,
    backend: Option<SocketAddr>,
}

impl Site {
    /// Where requests and bytes are passed on to.
    pub(crate) fn backend(&self) -> Result<SocketAddr, Failure> {
        self.backend
            .ok_or_else(|| "a proxy without a backend".into())
    }
}

/// The servers of a run.
pub(crate) struct Lineup {
    pub(crate) servers: Vec<Box<dyn Server>>,
    /// A line for each that was asked for and is not to be had.
    pub(crate) missing: Vec<String>,
}

/// The servers that `arguments` name, in that order.
pub(crate) fn chosen(arguments: &Arguments) -> Result<Lineup, Failure> {
    let mut lineup = Lineup {
        servers: Vec::with_capacity(arguments.servers.len()),
        missing: Vec::new(),
    };
    for name in &arguments.servers {
        match named(name, arguments)? {
            Ok(server) => lineup.servers.push(server),
            Err(line) => lineup.missing.push(line),
        }
    }
    if lineup.servers.len() < 2 {
        return Err(format!(
            "two servers at least are needed: the first is compared with the rest\n{}",
            lineup.missing.join("\n")
        )
        .into());
    }
    Ok(lineup)
}

/// The server, or the line that says how to get it.
type Found = Result<Box<dyn Server>, String>;

fn named(name: &str, arguments: &Arguments) -> Result<Found, Failure> {
    let portcullis = |name, offload| -> Result<Found, Failure> {
        let wanted = Wanted::package(&arguments.portcullis, "portcullis");
        Ok(wanted.provide(arguments)?.map(|program| {
            Box::new(Portcullis {
                name,
                offload,
                program,
            }) as _
        }))
    };
    let nginx = |name, kernel_tls| -> Result<Found, Failure> {
        let wanted = Wanted::package(&arguments.nginx, "nginx");
        match wanted.provide(arguments)? {
            Ok(program) => Ok(Ok(Box::new(Nginx::new(
                name, kernel_tls, program, arguments,
            )?))),
            Err(line) => Ok(Err(line)),
        }
    };
    match name {
        "portcullis" => portcullis("portcullis", "auto"),
        "portcullis-always" => portcullis("portcullis-always", "always"),
        "portcullis-never" => portcullis("portcullis-never", "never"),
        "nginx" => nginx("nginx", false),
        "nginx-ktls" => nginx("nginx-ktls", true),
        "haproxy" => {
            let wanted = Wanted::package(&arguments.haproxy, "haproxy");
            let found = wanted.provide(arguments)?;
            Ok(found.map(|program| Box::new(Haproxy { program }) as _))
        }
        "h2o" => {
            let wanted = Wanted::package(&arguments.h2o, "h2o");
            let found = wanted.provide(arguments)?;
            Ok(found.map(|program| Box::new(H2o { program }) as _))
        }
        "static-web-server" => {
            let found = static_web_server::provide(arguments)?;
            Ok(found.map(|program| Box::new(StaticWebServer { program }) as _))
        }
        floor::NAME => Ok(Ok(Box::new(floor::Floor))),
        other => Err(format!("no server {other:?}; known: {KNOWN}").into()),
    }
}

/// A server process that accepts connections; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) is_plain: bool,
    pub(crate) is_pinned: bool,
    pub(crate) asks_for_kernel_tls: bool,
    log: PathBuf,
}

impl Running {
    /// Starts `server` on its core and a free port of 127.0.0.1, and waits until it accepts.
    /// `label` names its directory: servers that run at once have different ones.
    pub(crate) fn start(
        server: &dyn Server,
        setting: &Setting,
        label: &str,
        arguments: &Arguments,
        fixture: &Fixture,
    ) -> Result<Self, Failure> {
        let site = Site {
            address: free_address()?,
            service: setting.service,
            root: fixture.root(),
            certificate: fixture.certificate(setting.key),
            version: setting.version,
            backend: setting.backend,
            scratch: fixture.scratch(label)?,
            connections_max: arguments.idle.get().max(growth::CONNECTIONS_MAX) + CONNECTIONS_SPARE,
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
            is_plain: server.is_plain(),
            is_pinned: server.is_pinned(),
            asks_for_kernel_tls: server.asks_for_kernel_tls(),
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
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => pinned.env(name, value),
            None => pinned.env_remove(name),
        };
    }
    pinned
}

const KNOWN: &str = "portcullis (with its own choice of the offload policy), portcullis-always, \
     portcullis-never, nginx (TLS in user space), nginx-ktls, haproxy, h2o, static-web-server, floor (plain HTTP)";

fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Beyond the idle ones or those of the growth: those of a load, and listeners.
const CONNECTIONS_SPARE: u32 = 1_000;

const START_MAX: Duration = Duration::from_secs(15);
const STOP_MAX: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(10);
