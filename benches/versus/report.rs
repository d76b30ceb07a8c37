//! results.json, table.md and plot.svg.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Failure;
use crate::cpu::Spent;
use crate::figures::chart::{Chart, Group};
use crate::figures::spread::Spread;
use crate::outcome::{
    CellOutcome, GrowthOutcome, IdleOutcome, LatencyOutcome, LeftOut, Outcome, RELEASE, Round,
};

/// Writes all three into `directory` and prints the table.
pub(crate) fn write(outcome: &Outcome, directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory)?;
    let table = table(outcome)?;
    fs::write(directory.join("table.md"), &table)?;
    let json = serde_json::to_string_pretty(outcome)?;
    fs::write(directory.join("results.json"), json + "\n")?;
    if !outcome.cells.is_empty() {
        fs::write(directory.join("plot.svg"), chart(outcome).svg())?;
    }
    println!("{table}");
    eprintln!("written to {}", directory.display());
    Ok(())
}

/// A cell in one line, for whoever watches.
pub(crate) fn line(cell: &CellOutcome) -> String {
    let mut line = format!("{:<16}", cell.name);
    for server in &cell.servers {
        let cpu_us = optional(server.cpu_us, 1);
        let busy_percent = percent(server.busy);
        line += &format!("  {} {cpu_us} µs, {busy_percent}% busy", server.server);
        if let Some(ratio) = server.ratio {
            line += &format!(", ratio {}", spread(ratio, 2));
        }
        line.push(';');
    }
    line
}

fn table(outcome: &Outcome) -> Result<String, Failure> {
    let mut text = String::new();
    let first = outcome.servers.first().ok_or("a run without servers")?;
    if !outcome.cells.is_empty() {
        writeln!(
            text,
            "| | server | CPU time per request | divided by {}'s | over the floor | busy | requests per second \
             |\n|---|---|---:|---:|---:|---:|---:|",
            first.name
        )?;
        for cell in &outcome.cells {
            cell_rows(&mut text, cell, &first.name)?;
        }
        text.push('\n');
    }
    if !outcome.cells.is_empty() {
        beside_table(&mut text, &outcome.cells)?;
    }
    for latency in &outcome.latency {
        latency_table(&mut text, latency)?;
    }
    if let Some(growth) = &outcome.growth {
        growth_table(&mut text, growth)?;
    }
    if let Some(idle) = &outcome.idle {
        idle_table(&mut text, idle)?;
    }
    conditions(&mut text, outcome)?;
    for line in outcome.missing.iter().cloned().chain(left_out(outcome)) {
        writeln!(text, "- {line}.")?;
    }
    for warning in warnings(outcome) {
        writeln!(text, "- **{warning}**")?;
    }
    Ok(text)
}

/// The ratios of every cell in which the first server has a part.
fn chart(outcome: &Outcome) -> Chart {
    let legend: Vec<String> = outcome
        .servers
        .iter()
        .map(|server| server.name.clone())
        .collect();
    let first = legend.first().cloned().unwrap_or_default();
    let group = |cell: &CellOutcome| {
        let bars: Vec<(usize, Spread)> = cell
            .servers
            .iter()
            .filter_map(|server| {
                let index = legend.iter().position(|name| *name == server.server)?;
                let itself = (server.server == first).then_some(ITSELF);
                Some((index, server.ratio.or(itself)?))
            })
            .collect();
        let is_compared = bars.iter().any(|&(index, _)| index == 0);
        is_compared.then(|| Group {
            title: cell.title.to_owned(),
            bars,
        })
    };
    Chart {
        title: format!(
            "Server CPU time per request, {first} = 1 (less is better); {}",
            outcome.taken
        ),
        unit: format!(
            "Median of the rounds, from the least to the greatest; commit {}, Linux {}",
            outcome.commit, outcome.machine.kernel
        ),
        groups: outcome.cells.iter().filter_map(group).collect(),
        legend,
    }
}

/// A row for each server; the cell's title stands in the first.
fn cell_rows(text: &mut String, cell: &CellOutcome, first: &str) -> Result<(), Failure> {
    let mut title = cell.title;
    for server in &cell.servers {
        let ratio = match server.ratio {
            Some(Spread { min, median, max }) => format!("**{median:.2}** ({min:.2}–{max:.2})"),
            None if server.server == first => "1".to_owned(),
            None => String::new(),
        };
        let over_floor = match server.over_floor {
            Some(over) => format!("{:.2}", over.median),
            None => String::new(),
        };
        let per_s = Spread::of(server.rounds.iter().map(|round| round.requests_per_s));
        writeln!(
            text,
            "| {title} | {} | {} µs | {ratio} | {over_floor} | {}% | {} |",
            server.server,
            optional(server.cpu_us, 1),
            percent(server.busy),
            per_s.map_or_else(String::new, |per_s| format!("{:.0}", per_s.median)),
        )?;
        title = "";
    }
    if let Some(crypto_us) = cell.crypto_us {
        writeln!(
            text,
            "|  | cryptography alone | {crypto_us:.1} µs |  |  |  |  |"
        )?;
    }
    Ok(())
}

/// A line for each reason that a server has no part in some cells.
fn left_out(outcome: &Outcome) -> Vec<String> {
    let mut cells: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for cell in &outcome.cells {
        for LeftOut { server, reason } in &cell.left_out {
            cells.entry((server, reason)).or_default().push(cell.name);
        }
    }
    cells
        .into_iter()
        .map(|((server, reason), cells)| {
            format!("{server} has no part in {}: {reason}", cells.join(", "))
        })
        .collect()
}

/// What else went on on the server's core, as parts of the measured time.
fn beside_table(text: &mut String, cells: &[CellOutcome]) -> Result<(), Failure> {
    writeln!(
        text,
        "| Beside the server's own time | server | waiting for its core | softirqs | interrupts | \
         taken by the hypervisor | kernel threads of its core | backend connections | sessions in the kernel |\n\
         |---|---|---:|---:|---:|---:|---|---:|---:|"
    )?;
    for cell in cells {
        for server in &cell.servers {
            let rounds = &server.rounds;
            let share = |of: fn(&Spent) -> u64| {
                let elapsed = |round: &Round| round.spent.elapsed_ns as f64;
                let part = |round: &Round| of(&round.spent) as f64;
                Spread::of_ratios(rounds.iter().map(part), rounds.iter().map(elapsed))
            };
            let made: Option<u64> = rounds.iter().map(|round| round.backend_connections).sum();
            let moved: Option<u64> = rounds.iter().map(|round| round.kernel_sessions).sum();
            let count = |count: Option<u64>| count.map_or_else(String::new, |of| of.to_string());
            writeln!(
                text,
                "| {} | {} | {}% | {}% | {}% | {}% | {} | {} | {} |",
                cell.name,
                server.server,
                percent(share(|spent| spent.waiting_ns)),
                percent(share(|spent| spent.core_softirq_ms * NS_PER_MS)),
                percent(share(|spent| spent.core_irq_ms * NS_PER_MS)),
                percent(share(|spent| spent.core_steal_ms * NS_PER_MS)),
                kernel_threads(rounds),
                count(made),
                count(moved),
            )?;
        }
    }
    text.push('\n');
    Ok(())
}

/// Those that used a thousandth of the time at least, over all rounds.
fn kernel_threads(rounds: &[Round]) -> String {
    let elapsed_ns: u64 = rounds.iter().map(|round| round.spent.elapsed_ns).sum();
    let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
    for round in rounds {
        for (name, ns) in &round.spent.kernel_threads_by_name_ns {
            *by_name.entry(name).or_insert(0) += ns;
        }
    }
    let named: Vec<String> = by_name
        .into_iter()
        .filter(|(_, ns)| ns * 1000 >= elapsed_ns)
        .map(|(name, ns)| format!("{name} {:.1}%", 100.0 * ns as f64 / elapsed_ns as f64))
        .collect();
    named.join(", ")
}

fn latency_table(text: &mut String, latency: &LatencyOutcome) -> Result<(), Failure> {
    writeln!(
        text,
        "| Latency in µs: {}, {} requests per second over {} connections | p50 | p90 | \
         p99 | p99.9 | busy | unpaced, per second |\n|---|---:|---:|---:|---:|---:|---:|",
        latency.title, latency.rate_per_s, latency.connections
    )?;
    for server in &latency.servers {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {}% | {} |",
            server.server,
            optional(server.p50_us, 0),
            optional(server.p90_us, 0),
            optional(server.p99_us, 0),
            optional(server.p99_9_us, 0),
            percent(Spread::of(server.rounds.iter().map(|round| round.busy))),
            server.capacity_per_s,
        )?;
    }
    text.push('\n');
    Ok(())
}

fn growth_table(text: &mut String, growth: &GrowthOutcome) -> Result<(), Failure> {
    write!(
        text,
        "| CPU time per request: HTTP/1.1, 1 KiB, {} at a time, connections |",
        growth.at_once
    )?;
    for connections in &growth.connections {
        write!(text, " {connections} |")?;
    }
    let columns = "---:|".repeat(growth.connections.len() + 1);
    writeln!(text, " growth |\n|---|{columns}")?;
    for server in &growth.servers {
        write!(text, "| {} |", server.server)?;
        for &cpu_us in &server.cpu_us {
            write!(text, " {} µs |", spread(cpu_us, 1))?;
        }
        writeln!(text, " **{}** |", optional(server.growth, 2))?;
    }
    text.push('\n');
    Ok(())
}

fn idle_table(text: &mut String, idle: &IdleOutcome) -> Result<(), Failure> {
    writeln!(
        text,
        "| Memory per idle connection ({} held) | process | kernel, both ends | set aside by TCP |\n\
         |---|---:|---:|---:|",
        idle.connections
    )?;
    for server in &idle.servers {
        let process = optional(server.process_pss_bytes, 0);
        let kernel = optional(server.kernel_bytes, 0);
        let tcp = Spread::of(server.rounds.iter().map(|round| round.tcp_accounted_bytes));
        writeln!(
            text,
            "| {} | {process} B | {kernel} B | {} B |",
            server.server,
            optional(tcp, 0)
        )?;
    }
    text.push('\n');
    Ok(())
}

fn conditions(text: &mut String, outcome: &Outcome) -> Result<(), Failure> {
    let machine = &outcome.machine;
    writeln!(
        text,
        "`{}`, {}. Median (least–greatest) of the rounds; plot.svg draws it.\n",
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
    let client = match &outcome.wrk {
        Some(wrk) => format!("{wrk} (HTTP/1.1), {}", outcome.h2load),
        None => outcome.h2load.clone(),
    };
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
        client,
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
            let mut found = disturbances(&server.rounds);
            let is_in_kernel = |round: &Round| round.kernel_sessions.is_some_and(|of| of > 0);
            if server.asks_for_kernel_tls && !server.rounds.iter().all(is_in_kernel) {
                found.push("none of its sessions was in the kernel in a round".to_owned());
            }
            warnings.extend(
                found
                    .iter()
                    .map(|what| format!("{}, {}: {what}", cell.name, server.server)),
            );
        }
    }
    for latency in &outcome.latency {
        for server in &latency.servers {
            let shares = server.rounds.iter().map(|round| round.client_waiting);
            let worst = shares.fold(0.0, f64::max);
            if worst > SHARE_MAX {
                warnings.push(format!(
                    "{}, {}: the client waited for its core {:.0}% of a round, which is in the figures",
                    latency.name,
                    server.server,
                    worst * 100.0
                ));
            }
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

/// A share's median, as a percentage.
fn percent(share: Option<Spread>) -> String {
    share.map_or_else(
        || "-".to_owned(),
        |share| format!("{:.0}", 100.0 * share.median),
    )
}

fn spread(values: Spread, decimals: usize) -> String {
    let Spread { min, median, max } = values;
    format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
}

/// Of the server that the others are compared with.
const ITSELF: Spread = Spread {
    min: 1.0,
    median: 1.0,
    max: 1.0,
};

const NS_PER_MS: u64 = 1_000_000;

/// The share of a round from which a disturbance is worth a warning.
const SHARE_MAX: f64 = 0.05;

/// The spread of the kernel's memory, as a part of the median, from which it says little.
const UNSTEADY_MIN: f64 = 0.1;
