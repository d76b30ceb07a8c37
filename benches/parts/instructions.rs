//! Counting instructions: each part in a process of its own under valgrind's callgrind, so that a count
//! does not depend on which others were asked for.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::Parser;

use crate::counts::{Counts, collected};
use crate::meter::{COUNTED_SECTION, Meter};
use crate::part::Part;

/// Counts the instructions that a call of each part takes.
#[derive(Parser)]
#[command(name = "run")]
struct Arguments {
    /// Only parts whose name contains one of these.
    filters: Vec<String>,
    /// An earlier result: parts that moved by more than 1% are marked.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Where the result is written.
    #[arg(long, value_name = "FILE", default_value = "target/instructions.json")]
    out: PathBuf,
    /// Name the parts and end.
    #[arg(long)]
    list: bool,
}

type Failure = Box<dyn Error + Send + Sync>;

/// The command.
pub(crate) fn main(parts: &[Part], arguments: &[String]) -> ExitCode {
    let program = std::iter::once("run").map(str::to_owned);
    let arguments = Arguments::parse_from(program.chain(arguments.iter().cloned()));
    match count(parts, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One part by itself: what runs under valgrind.
pub(crate) fn run_part(parts: &[Part], arguments: &[String]) -> ExitCode {
    let Some(part) = parts
        .iter()
        .find(|part| Some(&part.name) == arguments.first())
    else {
        eprintln!("instructions: there is no such part");
        return ExitCode::FAILURE;
    };
    let mut work = (part.prepare)();
    work(part.calls, &mut Meter::idle());
    work(part.calls, &mut Meter::counting());
    ExitCode::SUCCESS
}

fn count(parts: &[Part], arguments: &Arguments) -> Result<(), Failure> {
    let filters = &arguments.filters;
    let chosen: Vec<&Part> = parts
        .iter()
        .filter(|part| {
            filters.is_empty() || filters.iter().any(|filter| part.name.contains(filter))
        })
        .collect();
    if chosen.is_empty() {
        return Err("no part has such a name".into());
    }
    if arguments.list {
        for part in chosen {
            println!("{}", part.name);
        }
        return Ok(());
    }
    let before = arguments.against.as_deref().map(read).transpose()?;
    let counts = Counts {
        commit: said_by("git", &["describe", "--always", "--dirty", "--abbrev=12"])?,
        valgrind: said_by("valgrind", &["--version"])?,
        rustc: said_by("rustc", &["--version"])?,
        instructions: count_all(&chosen)?,
    };
    print!("{}", counts.table(before.as_ref()));
    if let Some(before) = &before {
        for remark in counts.remarks(before, !filters.is_empty()) {
            println!("{remark}");
        }
    }
    let mut json = serde_json::to_string_pretty(&counts)?;
    json.push('\n');
    let out = &arguments.out;
    fs::write(out, json).map_err(|error| format!("cannot write {}: {error}", out.display()))?;
    eprintln!("written to {}", out.display());
    Ok(())
}

/// All counts, as many at a time as there are CPUs: they do not disturb each other.
fn count_all(parts: &[&Part]) -> Result<BTreeMap<String, f64>, Failure> {
    // A `Part` stays on its thread, its name need not.
    let orders: Vec<(&str, u64)> = parts.iter().map(|part| (&*part.name, part.calls)).collect();
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(BTreeMap::new());
    let count = || -> Result<(), Failure> {
        while let Some((name, calls)) = orders.get(next.fetch_add(1, Ordering::Relaxed)) {
            let instructions = count_one(name)?;
            eprintln!("{name}: {instructions} instructions in {calls} calls");
            let per_call = instructions as f64 / *calls as f64;
            counts.lock().unwrap().insert((*name).to_owned(), per_call);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..thread::available_parallelism()?.get())
            .map(|_| scope.spawn(count))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a thread failed".into()))
        })
    })?;
    Ok(counts.into_inner()?)
}

fn count_one(name: &str) -> Result<u64, Failure> {
    let output = Command::new("valgrind")
        .env("GLIBC_TUNABLES", COPY_BY_VECTORS)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={COUNTED_SECTION}"))
        .arg(std::env::current_exe()?)
        .args(["run", name])
        .output()
        .map_err(|error| format!("cannot start valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match collected(&said).filter(|&count| count > 0 && output.status.success()) {
        Some(count) => Ok(count),
        None => Err(format!("{name} cannot be counted ({}):\n{said}", output.status).into()),
    }
}

fn read(file: &Path) -> Result<Counts, Failure> {
    let text =
        fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let counts = serde_json::from_slice(&text);
    Ok(counts.map_err(|error| format!("{} is no result: {error}", file.display()))?)
}

fn said_by(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("cannot start {program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program} {}: {}", arguments.join(" "), output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Valgrind counts a repeated instruction once for each repetition: a copy by `rep movsb` would count
/// its bytes. The C library copies by vectors instead where that is told to be the faster way for
/// every length.
const COPY_BY_VECTORS: &str = "glibc.cpu.x86_rep_movsb_threshold=0x7fffffff:\
    glibc.cpu.x86_rep_stosb_threshold=0x7fffffff";
