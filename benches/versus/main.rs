//! Portcullis beside other servers: the CPU time each needs for the same work.
//!
//! `cargo bench --bench versus` starts every server with the same certificate, files, TLS version,
//! suite, group and signature, one worker on one core, puts load on them in turn from another core,
//! and takes from the kernel's accounting what each server's threads used per request. It ends with
//! a table of ratios and their spread (target/versus/table.md) and every figure behind it
//! (target/versus/results.json). `-- --help` lists what can be changed.
//!
//! Ratios of one run are the result. Absolute times belong to one machine in one mood.
//!
//! What is measured is a table of [`cells`]; what it is measured on is a table of [`servers`].

mod arguments;
mod backend;
mod cells;
mod check;
mod client;
mod cpu;
mod crypto;
mod drive;
mod figures;
mod fixture;
mod growth;
mod h2load;
mod helper;
mod idle;
mod latency;
mod machine;
mod outcome;
mod report;
mod servers;
mod tools;
mod wrk;

use std::error::Error;
use std::process::ExitCode;

use crate::arguments::{Arguments, Role};
use crate::fixture::Fixture;
use crate::outcome::{Outcome, ServerFacts};
use crate::servers::{Lineup, Server};
use crate::tools::Tools;

/// Anything that ends the run; every message says what was attempted.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments = arguments::parse();
    let result = match arguments.role {
        Some(Role::Connect(order)) => client::connect(&order),
        Some(Role::Hold(order)) => client::hold(&order),
        Some(Role::Drive(order)) => drive::drive(&order),
        Some(Role::Crypto(order)) => crypto::measure(&order),
        Some(Role::Backend(order)) => backend::serve(&order),
        Some(Role::Floor(order)) => servers::floor::serve(&order),
        None if arguments.bench => compare(&arguments),
        None => {
            // `cargo test --benches` starts benches too, without this flag.
            eprintln!("versus measures only under `cargo bench` (which passes --bench)");
            return ExitCode::SUCCESS;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("versus: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<(), Failure> {
    let tools = Tools::find(arguments)?;
    let Lineup { servers, missing } = servers::chosen(arguments)?;
    for line in &missing {
        eprintln!("{line}");
    }
    let cells = cells::chosen(&arguments.only)?;
    let fixture = Fixture::prepare(&arguments.out.join("run"))?;
    let mut outcome = Outcome::new(arguments, tools, facts(&servers)?, missing);

    for cell in &cells {
        let result = cells::measure(cell, &servers, arguments, &fixture)?;
        eprintln!("{}", report::line(&result));
        outcome.cells.push(result);
    }
    let is_chosen = |name| cells::is_chosen(name, &arguments.only);
    for kind in latency::KINDS.iter().filter(|kind| is_chosen(kind.name)) {
        let result = latency::measure(kind, &servers, arguments, &fixture)?;
        outcome.latency.push(result);
    }
    if is_chosen(growth::NAME) {
        outcome.growth = Some(growth::measure(&servers, arguments, &fixture)?);
    }
    if is_chosen(idle::NAME) {
        outcome.idle = Some(idle::measure(&servers, arguments, &fixture)?);
    }
    report::write(&outcome, &arguments.out)
}

fn facts(servers: &[Box<dyn Server>]) -> Result<Vec<ServerFacts>, Failure> {
    servers
        .iter()
        .map(|server| {
            Ok(ServerFacts {
                name: server.name().to_owned(),
                version: server.version()?,
            })
        })
        .collect()
}
