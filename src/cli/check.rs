//! `portcullis check`: whether a configuration can be served, without serving it.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use rustls::server::ProducesTickets;

use super::{ConfigArguments, FAILURE, UNUSABLE};
use crate::config::{self, Config, ConfigError};
use crate::control::reload::{self, Read};
use crate::tls::server_config::ticketer;

/// Opens no socket, takes no lock and writes no file: it can run beside the process that serves the
/// same configuration.
pub(super) fn run(arguments: &ConfigArguments) -> ExitCode {
    match read(&arguments.config) {
        Ok((read, _)) => match summarize(&arguments.config, &read.config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(FAILURE),
        },
        Err(error) => refuse(&error),
    }
}

/// The configuration in `path` and its certificates. Warnings go to standard error.
pub(super) fn read(path: &Path) -> Result<(Read, Arc<dyn ProducesTickets>), ConfigError> {
    let tickets = ticketer().map_err(|error| {
        let remedy = "this kernel's random number generator must work: see getrandom(2)";
        config::Problem::new(None, format!("cannot make ticket keys: {error}"), remedy)
    })?;
    let read = reload::read(path, &tickets)?;
    for warning in &read.warnings {
        eprintln!("{warning}");
    }
    Ok((read, tickets))
}

/// Tells what is wrong, with the exit code of a configuration that cannot be used.
pub(super) fn refuse(error: &ConfigError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(UNUSABLE)
}

fn summarize(path: &Path, config: &Config) -> io::Result<()> {
    let names = config.sites.iter().map(|site| site.names.len()).sum();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} can be served: {}, {} with {}",
        path.display(),
        counted(config.listeners.len(), "listener"),
        counted(config.sites.len(), "site"),
        counted(names, "name"),
    )?;
    writeln!(
        out,
        "what clients send can take {} for each connection, {} for each address, {} for each worker",
        mebibytes(config.held_bytes_per_connection_max()),
        mebibytes(config.held_bytes_per_address_max()),
        mebibytes(config.held_bytes_per_worker_max()),
    )?;
    out.flush()
}

/// Rounded up.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
