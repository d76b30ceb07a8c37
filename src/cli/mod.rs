//! The commands.

mod check;
pub mod doctor;
mod generate;
mod guide;
mod notify;
mod reload;
mod run;
mod serve;
pub mod tune;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing::Level;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use crate::config::OffloadPolicy;
use crate::control::Control;

/// TLS termination for Linux edge servers.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    /// The least severe messages to log, on standard error
    #[arg(long, value_name = "LEVEL", default_value = "info", global = true)]
    log: Level,

    /// How messages are written: for people, or each as an object of JSON
    #[arg(long, value_name = "FORMAT", default_value = "human", global = true)]
    log_format: LogFormat,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a directory over HTTPS with a self-signed certificate for localhost
    Serve(ServeArguments),
    /// Serve what a configuration file says
    Run(ConfigArguments),
    /// Check a configuration file and everything it names; touches nothing that runs
    Check(ConfigArguments),
    /// Make the process that serves a configuration file read it again, connections untouched
    Reload(ConfigArguments),
    /// Report what this machine offers and how to mend what it lacks
    Doctor(doctor::Arguments),
    /// Show where this machine's settings differ from what the tuning guide recommends
    Tune(tune::Arguments),
    /// Print the script that completes commands and options in a shell
    Completions(generate::CompletionsArguments),
    /// Print a manual page, in roff
    Manual(generate::ManualArguments),
}

/// What `serve` can be told.
#[derive(Debug, clap::Args)]
struct ServeArguments {
    /// The directory to serve
    #[arg(value_name = "DIRECTORY", default_value = ".")]
    root: PathBuf,

    // Not a doc comment: rustdoc would take the brackets of an IPv6 address for a link.
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "An address to listen on, as 127.0.0.1:8443 or [::]:443; may be repeated [default: \
                port 443 where it may be used and 8443 otherwise, on all addresses]"
    )]
    listen: Vec<SocketAddr>,

    /// When to hand connections to kernel TLS
    #[arg(long, value_name = "POLICY", default_value = "auto")]
    offload: OffloadArgument,

    /// Worker threads [default: one for each CPU]
    #[arg(long, value_name = "COUNT")]
    workers: Option<std::num::NonZeroUsize>,
}

/// What `run`, `check` and `reload` are told.
#[derive(Debug, clap::Args)]
struct ConfigArguments {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// A line of text
    Human,
    /// A line of JSON
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OffloadArgument {
    /// When it pays
    Auto,
    /// Both directions, as soon as the handshake is done
    Always,
    /// Never
    Never,
}

impl From<OffloadArgument> for OffloadPolicy {
    fn from(argument: OffloadArgument) -> Self {
        match argument {
            OffloadArgument::Auto => Self::Auto,
            OffloadArgument::Always => Self::Always,
            OffloadArgument::Never => Self::Never,
        }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let _log = log_to_stderr(arguments.log, arguments.log_format);
    match arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Reload(arguments) => reload::run(&arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Tune(arguments) => tune::run(&arguments),
        Command::Completions(arguments) => generate::completions(&arguments),
        Command::Manual(arguments) => generate::manual(&arguments),
    }
}

/// Serves until a signal ends it; prints `announcement` when it does.
fn supervise(control: Control, announcement: &str) -> ExitCode {
    let announce = || {
        let mut out = io::stdout().lock();
        out.write_all(announcement.as_bytes())?;
        out.flush()?;
        notify::ready();
        Ok(())
    };
    match control.run(announce) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("portcullis: {error}");
            ExitCode::from(FAILURE)
        }
    }
}

/// Logs to standard error through a thread of its own: a worker never waits for whoever reads the
/// log. When the reader is too slow, or gone, lines are dropped. The guard writes out what is left
/// when it is dropped.
fn log_to_stderr(level: Level, format: LogFormat) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES_WAITING_MAX)
        .thread_name("log")
        .finish(std::io::stderr());
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(writer)
        .with_target(false)
        // Reporting a failed write would go to the same place, and panic there.
        .log_internal_errors(false);
    match format {
        LogFormat::Human => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).with_ansi(false).init(),
    }
    // The default hook would write to standard error itself, and wait for its reader.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    guard
}

/// Lines that may wait to be written.
const LOG_LINES_WAITING_MAX: usize = 16_384;

/// The process started and cannot go on, or was stopped before it was done.
const FAILURE: u8 = 1;

/// The command line or the configuration asks for what cannot be.
const UNUSABLE: u8 = 2;
