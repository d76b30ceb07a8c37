//! results.json and table.md.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Failure;
use crate::cpu::Spent;
use crate::outcome::{CellOutcome, IdleOutcome, Outcome, RELEASE, Round, Spread};

/// Writes both files into `directory` and prints the table.
pub(crate) fn write(outcome: &Outcome, directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory)?;
    let table = table(outcome)?;
    fs::write(directory.join("table.md"), &table)?;
    let json = serde_json::to_string_pretty(outcome)?;
    fs::write(directory.join("results.json"), json + "\n")?;
    println!("{table}");
    eprintln!("written to {}", directory.display());
    Ok(())
}

/// A cell in one line, for whoever watches.
pub(crate) fn line(cell: &CellOutcome) -> String {
    let mut line = format!("{:<16}", cell.name);
    for server in &cell.servers {
        let busy = server.rounds.iter().map(|round| round.busy).sum::<f64>();
        let busy_percent = 100.0 * busy / server.rounds.len() as f64;
        let cpu_us = optional(server.cpu_us, 1);
        line += &format!("  {} {cpu_us} µs, {busy_percent:.0}% busy;", server.server);
    }
    for ratio in &cell.ratios {
        line += &format!("  ratio {}", spread(*ratio, 2));
    }
    line
}

fn table(outcome: &Outcome) -> Result<String, Failure> {
    let mut text = String::new();
    let names: Vec<&str> = outcome
        .servers
        .iter()
        .map(|server| server.name.as_str())
        .collect();
    let (first, others) = names.split_first().ok_or("a run without servers")?;
    if !outcome.cells.is_empty() {
        write!(text, "| CPU time per request | {first} |")?;
        for other in others {
            write!(text, " {other} | {other} / {first} |")?;
        }
        writeln!(text, "\n|---|{}", "---:|".repeat(1 + 2 * others.len()))?;
        for cell in &outcome.cells {
            cell_row(&mut text, cell)?;
        }
        text.push('\n');
    }
    if let Some(idle) = &outcome.idle {
        idle_table(&mut text, idle)?;
    }
    conditions(&mut text, outcome)?;
    for warning in warnings(outcome) {
        writeln!(text, "- **{warning}**")?;
    }
    Ok(text)
}

fn cell_row(text: &mut String, cell: &CellOutcome) -> Result<(), Failure> {
    let (first, others) = cell.servers.split_first().ok_or("a cell without servers")?;
    write!(
        text,
        "| {} | {} µs |",
        cell.title,
        optional(first.cpu_us, 1)
    )?;
    for (other, ratio) in others.iter().zip(&cell.ratios) {
        let cpu_us = optional(other.cpu_us, 1);
        write!(
            text,
            " {cpu_us} µs | **{:.2}** ({:.2}–{:.2}) |",
            ratio.median, ratio.min, ratio.max
        )?;
    }
    writeln!(text)?;
    Ok(())
}

fn idle_table(text: &mut String, idle: &IdleOutcome) -> Result<(), Failure> {
    writeln!(
        text,
        "| Memory per idle connection ({} held) | process | kernel, both ends |\n|---|---:|---:|",
        idle.connections
    )?;
    for server in &idle.servers {
        let process = optional(server.process_pss_bytes, 0);
        let kernel = optional(server.kernel_bytes, 0);
        writeln!(text, "| {} | {process} B | {kernel} B |", server.server)?;
    }
    text.push('\n');
    Ok(())
}

fn conditions(text: &mut String, outcome: &Outcome) -> Result<(), Failure> {
    let machine = &outcome.machine;
    writeln!(
        text,
        "`{}`, {}. Median (least–greatest) of the rounds.\n",
        outcome.command, outcome.taken
    )?;
    writeln!(
        text,
        "- {}, {} CPUs, Linux {}; servers on CPU {} (siblings: {}), load on CPU {}.",
        machine.cpu_model,
        machine.cpus,
        machine.kernel,
        outcome.server_cpu,
        machine.server_cpu_siblings,
        outcome.load_cpu
    )?;
    let versions: Vec<&str> = outcome
        .servers
        .iter()
        .map(|server| server.version.as_str())
        .collect();
    writeln!(
        text,
        "- {}; portcullis at commit {}, profile {}; load from {} and a rustls client; {}.",
        versions.join("; "),
        outcome.commit,
        outcome.profile,
        outcome.h2load,
        outcome.openssl
    )?;
    let softirqs = match machine.softirqs_apart {
        Some(true) => "the kernel leaves softirqs out of it",
        Some(false) => "softirqs on the server's core included",
        None => "whether softirqs are included could not be found out",
    };
    writeln!(
        text,
        "- CPU time: user and system of the server's threads (schedstat); {softirqs}. On loopback \
         those softirqs are the receiving half of the client's TCP."
    )?;
    Ok(())
}

/// What should keep a reader from trusting a figure.
fn warnings(outcome: &Outcome) -> Vec<String> {
    let mut warnings = Vec::new();
    if outcome.profile != RELEASE {
        let profile = &outcome.profile;
        warnings.push(format!(
            "portcullis was built with profile {profile}, not {RELEASE}"
        ));
    }
    for cell in &outcome.cells {
        for server in &cell.servers {
            let found = disturbances(&server.rounds);
            warnings.extend(
                found
                    .iter()
                    .map(|what| format!("{}, {}: {what}", cell.name, server.server)),
            );
        }
    }
    for server in outcome.idle.iter().flat_map(|idle| &idle.servers) {
        let unsteady = |kernel: &Spread| kernel.max - kernel.min > UNSTEADY_MIN * kernel.median;
        if server.kernel_bytes.as_ref().is_some_and(unsteady) {
            let name = server.server;
            warnings.push(format!(
                "idle, {name}: the kernel's memory swung with what else the machine did"
            ));
        }
    }
    warnings
}

fn disturbances(rounds: &[Round]) -> Vec<String> {
    let mut found = Vec::new();
    let worst = |share: fn(&Spent) -> f64| {
        let shares = rounds.iter().map(|round| share(&round.spent));
        Some(shares.fold(0.0, f64::max)).filter(|&worst| worst > SHARE_MAX)
    };
    if let Some(share) = worst(|spent| spent.waiting_ns as f64 / spent.elapsed_ns as f64) {
        found.push(format!(
            "waited for its core {:.0}% of a round",
            share * 100.0
        ));
    }
    if let Some(share) = worst(|spent| spent.kernel_threads_ns as f64 / spent.server_ns as f64) {
        let percent = share * 100.0;
        found.push(format!(
            "its core's kernel threads (ksoftirqd, kworker) took {percent:.0}% on top"
        ));
    }
    let ended: usize = rounds.iter().map(|round| round.spent.threads_ended).sum();
    if ended > 0 {
        found.push(format!(
            "{ended} threads ended in a round, and their time is missing"
        ));
    }
    found
}

fn optional(values: Option<Spread>, decimals: usize) -> String {
    values.map_or_else(|| "-".to_owned(), |values| spread(values, decimals))
}

fn spread(values: Spread, decimals: usize) -> String {
    let Spread { min, median, max } = values;
    format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
}

/// The share of a round from which a disturbance is worth a warning.
const SHARE_MAX: f64 = 0.05;

/// The spread of the kernel's memory, as a part of the median, from which it says little.
const UNSTEADY_MIN: f64 = 0.1;
