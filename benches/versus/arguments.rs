//! The command line.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

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

    /// Rounds of the memory measurement; each starts every server afresh
    #[arg(long, value_name = "COUNT", default_value = "3")]
    pub(crate) idle_rounds: NonZeroU32,

    /// Only this cell (see the table's first column; "idle" for memory); may be repeated
    #[arg(long, value_name = "CELL")]
    pub(crate) only: Vec<String>,

    /// The servers: the first is compared with each of the others. A server beside itself
    /// (nginx,nginx) shows the noise
    #[arg(
        long,
        value_name = "NAMES",
        default_value = "portcullis,nginx",
        value_delimiter = ','
    )]
    pub(crate) servers: Vec<String>,

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

    /// Install what is missing with apt-get (as root)
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

/// What this program does when it starts itself as a client, pinned to the load's core.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Make connections, one request each
    #[command(hide = true)]
    Connect(ConnectOrder),
    /// Open connections, make one request on each and hold them
    #[command(hide = true)]
    Hold(HoldOrder),
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

pub(crate) fn parse() -> Arguments {
    Arguments::parse()
}

/// `versus` in cargo's target directory, wherever that is.
fn default_out() -> PathBuf {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    temporary.parent().unwrap_or(temporary).join("versus")
}

/// Built by cargo before this program, with the same profile.
const BUILT: &str = env!("CARGO_BIN_EXE_portcullis");
