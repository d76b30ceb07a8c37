//! The command line.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};

use crate::fixture::{Key, Version};

/// CPU time and memory per request of Portcullis and other servers, side by side
#[derive(Debug, Parser)]
#[command(name = "versus", max_term_width = 100)]
pub(crate) struct Arguments {
    /// Measured rounds per cell; each round loads every server once, in turn
    #[arg(long, value_name = "COUNT", default_value = "5")]
    pub(crate) rounds: NonZeroU32,

    /// Seconds of measured load per round and server, for kept-alive connections
    #[arg(long, value_name = "SECONDS", default_value = "3")]
    pub(crate) seconds: NonZeroU32,

    /// New connections per round and server, for handshakes
    #[arg(long, value_name = "COUNT", default_value = "3000")]
    pub(crate) connections: NonZeroU32,

    /// Connections held open to measure memory
    #[arg(long, value_name = "COUNT", default_value = "10000")]
    pub(crate) idle: NonZeroU32,

    /// Rounds of the measurements with thousands of connections: memory, and growth
    #[arg(long, value_name = "COUNT", default_value = "3")]
    pub(crate) idle_rounds: NonZeroU32,

    /// Only this cell (a wrong name lists them all); may be repeated
    #[arg(long, value_name = "CELL")]
    pub(crate) only: Vec<String>,

    /// The servers: each of the others is compared with the first. A server beside itself
    /// (nginx,nginx) shows the noise
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "portcullis,nginx,haproxy,h2o,floor",
        value_delimiter = ','
    )]
    pub(crate) servers: Vec<String>,

    /// What loads kept-alive connections of HTTP/1.1. wrk costs the load's core less, so that a fast
    /// server sleeps less; HTTP/2 is h2load's in any case
    #[arg(long, value_name = "CLIENT", default_value = "h2load")]
    pub(crate) load: LoadClient,

    /// Requests per second for latencies [default: half of what the slowest server can do]
    #[arg(long, value_name = "COUNT")]
    pub(crate) rate: Option<NonZeroU32>,

    /// The core that servers run on
    #[arg(long, value_name = "CPU", default_value = "0")]
    pub(crate) server_cpu: usize,

    /// The core that load comes from
    #[arg(long, value_name = "CPU", default_value = "1")]
    pub(crate) load_cpu: usize,

    /// The portcullis program [default: the one cargo built for this run]
    #[arg(long, value_name = "PROGRAM", default_value = BUILT, hide_default_value = true)]
    pub(crate) portcullis: PathBuf,

    /// The nginx program
    #[arg(long, value_name = "PROGRAM", default_value = "nginx")]
    pub(crate) nginx: PathBuf,

    /// The HAProxy program
    #[arg(long, value_name = "PROGRAM", default_value = "haproxy")]
    pub(crate) haproxy: PathBuf,

    /// The H2O program
    #[arg(long, value_name = "PROGRAM", default_value = "h2o")]
    pub(crate) h2o: PathBuf,

    /// The static-web-server program [default: target/peers/bin/static-web-server]
    #[arg(long, value_name = "PROGRAM", default_value_os_t = default_static_web_server(), hide_default_value = true)]
    pub(crate) static_web_server: PathBuf,

    /// Install what is missing: with apt-get (as root), static-web-server with cargo
    #[arg(long)]
    pub(crate) install: bool,

    /// Where the results go
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = default_out())]
    pub(crate) out: PathBuf,

    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    pub(crate) bench: bool,

    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

/// The client of kept-alive connections over HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadClient {
    H2load,
    Wrk,
}

/// What this program does when it starts itself as a client, pinned to the load's core.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Make connections, one request each
    #[command(hide = true)]
    Connect(ConnectOrder),
    /// Open connections, make one request on each and hold them
    #[command(hide = true)]
    Hold(HoldOrder),
    /// Make requests at a pace over connections that stay
    #[command(hide = true)]
    Drive(DriveOrder),
    /// Do the cryptography of a request and its answer
    #[command(hide = true)]
    Crypto(CryptoOrder),
    /// Answer what servers pass on, over plain HTTP/1.1
    #[command(hide = true)]
    Backend(BackendOrder),
    /// Answer over plain HTTP/1.1 at the least cost
    #[command(hide = true)]
    Floor(FloorOrder),
}

/// What to connect to, and the only parameters to offer.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Endpoint {
    #[arg(long)]
    pub(crate) address: SocketAddr,
    #[arg(long)]
    pub(crate) certificate: PathBuf,
    #[arg(long)]
    pub(crate) key: Key,
    #[arg(long)]
    pub(crate) version: Version,
    /// The path of the file to ask for.
    #[arg(long)]
    pub(crate) path: String,
    /// Its length.
    #[arg(long)]
    pub(crate) bytes: usize,
}

/// For [`crate::client::connect`].
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ConnectOrder {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    /// Connections open at a time.
    #[arg(long)]
    pub(crate) clients: u32,
    /// Connections before the measured ones.
    #[arg(long)]
    pub(crate) warm_up: u32,
    /// Measured connections.
    #[arg(long)]
    pub(crate) connections: u32,
    /// Resume sessions; without it, none is resumed.
    #[arg(long)]
    pub(crate) resume: bool,
}

/// For [`crate::client::hold`].
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HoldOrder {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    #[arg(long)]
    pub(crate) connections: u32,
}

/// For [`crate::drive::drive`].
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct DriveOrder {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    #[arg(long)]
    pub(crate) connections: u32,
    /// Connections with requests under way at any time, at no fixed rate.
    #[arg(long)]
    pub(crate) at_once: u32,
    /// Over HTTP/2, so many requests together; without it, over HTTP/1.1.
    #[arg(long)]
    pub(crate) streams: Option<NonZeroU32>,
    /// Requests per second.
    #[arg(long)]
    pub(crate) rate: Option<NonZeroU32>,
    /// Of measured load.
    #[arg(long)]
    pub(crate) seconds: u32,
}

/// For [`crate::crypto::measure`].
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CryptoOrder {
    /// Of an answer, its head included.
    #[arg(long)]
    pub(crate) bytes: usize,
    /// Agree on a key before.
    #[arg(long)]
    pub(crate) exchange: bool,
    /// Sign a handshake before.
    #[arg(long)]
    pub(crate) sign: Option<Key>,
}

/// For [`crate::backend::serve`].
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BackendOrder {
    /// The directory of the files.
    #[arg(long)]
    pub(crate) root: PathBuf,
}

/// For [`crate::servers::floor::serve`].
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FloorOrder {
    #[arg(long)]
    pub(crate) address: SocketAddr,
    /// The directory of the files.
    #[arg(long)]
    pub(crate) root: PathBuf,
}

pub(crate) fn parse() -> Arguments {
    Arguments::parse()
}

/// `versus` in cargo's target directory.
fn default_out() -> PathBuf {
    target().join("versus")
}

fn default_static_web_server() -> PathBuf {
    target().join("peers/bin/static-web-server")
}

/// Cargo's target directory, wherever that is.
pub(crate) fn target() -> &'static Path {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    temporary.parent().unwrap_or(temporary)
}

/// Built by cargo before this program, with the same profile.
const BUILT: &str = env!("CARGO_BIN_EXE_portcullis");
