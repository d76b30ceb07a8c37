//! CPU time from the kernel's accounting.
//!
//! A server's time is the sum over the threads of its processes of the first field of
//! /proc/PID/task/TID/schedstat: nanoseconds on a CPU, user and system together, as the scheduler
//! counts them (kernel: scheduler/sched-stats.rst).
//!
//! Interrupts are charged to whoever runs when they come. On loopback the sender runs the
//! receiver's half of TCP in a softirq at the end of its own system call: a server's time includes
//! the client's receive processing, and the client pays for the server's. That is the same for
//! every server here, and makes the differences between them look smaller than they are. A kernel
//! with CONFIG_IRQ_TIME_ACCOUNTING leaves softirqs out of a thread's time; the softirq time of the
//! server's core stands beside each result.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;

use serde::Serialize;

use crate::Failure;

/// The counters at one moment.
#[derive(Debug)]
pub(crate) struct Sample {
    at: Instant,
    /// By thread.
    server: BTreeMap<u32, Scheduled>,
    /// Kernel threads bound to the server's core, by thread: ksoftirqd/0, kworker/0:1, ...
    kernel: BTreeMap<u32, Scheduled>,
    /// What they are called, without the core's number.
    kernel_names: BTreeMap<u32, String>,
    core: CoreTicks,
}

/// What happened between two samples.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Spent {
    /// Between the samples.
    pub(crate) elapsed_ns: u64,
    /// The server's threads on a CPU.
    pub(crate) server_ns: u64,
    /// The server's threads runnable, but waiting for the core: somebody else was on it.
    pub(crate) waiting_ns: u64,
    /// Threads of the server that ended, whose last time is not in `server_ns`.
    pub(crate) threads_ended: usize,
    /// Kernel threads bound to the server's core; not in `server_ns`.
    pub(crate) kernel_threads_ns: u64,
    /// The same by their names, those that did anything.
    pub(crate) kernel_threads_by_name_ns: BTreeMap<String, u64>,
    /// Softirqs on the server's core, whoever they were for (/proc/stat, 10 ms steps).
    pub(crate) core_softirq_ms: u64,
    /// Hard interrupts on the server's core (same source).
    pub(crate) core_irq_ms: u64,
    /// Time that the hypervisor took from the server's core (same source).
    pub(crate) core_steal_ms: u64,
}

impl Spent {
    /// The part of the time that the server's threads were on a CPU: 1 is saturation.
    pub(crate) fn busy(&self) -> f64 {
        // Below 2^53 both, so exact as doubles.
        self.server_ns as f64 / self.elapsed_ns as f64
    }
}

impl Sample {
    /// Samples the processes `root` and its descendants, and `core`.
    pub(crate) fn take(root: u32, core: usize) -> Result<Self, Failure> {
        let processes = processes()?;
        let mut server = BTreeMap::new();
        for pid in family(root, &processes) {
            server.extend(threads(pid));
        }
        if server.is_empty() {
            return Err(format!("process {root} is gone").into());
        }
        let is_bound = |process: &&Process| {
            let name = &process.name;
            name.ends_with(&format!("/{core}")) || name.contains(&format!("/{core}:"))
        };
        let mut kernel = BTreeMap::new();
        let mut kernel_names = BTreeMap::new();
        for process in processes.iter().filter(is_bound) {
            if let Some(scheduled) = scheduled(&format!("/proc/{}", process.pid)) {
                kernel.insert(process.pid, scheduled);
                let name = process.name.split('/').next().unwrap_or_default();
                kernel_names.insert(process.pid, name.to_owned());
            }
        }
        Ok(Self {
            at: Instant::now(),
            server,
            kernel,
            kernel_names,
            core: CoreTicks::read(core)?,
        })
    }

    /// What happened from `earlier` to `self`.
    pub(crate) fn since(&self, earlier: &Self) -> Spent {
        let on_cpu = |now: &BTreeMap<u32, Scheduled>, then: &BTreeMap<u32, Scheduled>| {
            sum(now, then, |scheduled| scheduled.on_cpu_ns)
        };
        let ticks = |field: fn(&CoreTicks) -> u64| {
            field(&self.core).saturating_sub(field(&earlier.core)) * TICK_MS
        };
        let mut by_name = BTreeMap::new();
        for (thread, name) in &self.kernel_names {
            let of = |all: &BTreeMap<u32, Scheduled>| all.get(thread).map_or(0, |it| it.on_cpu_ns);
            let spent = of(&self.kernel).saturating_sub(of(&earlier.kernel));
            if spent > 0 {
                *by_name.entry(name.clone()).or_insert(0) += spent;
            }
        }
        let is_gone = |thread: &&u32| !self.server.contains_key(thread);
        Spent {
            elapsed_ns: u64::try_from((self.at - earlier.at).as_nanos()).unwrap_or(u64::MAX),
            server_ns: on_cpu(&self.server, &earlier.server),
            waiting_ns: sum(&self.server, &earlier.server, |scheduled| {
                scheduled.waiting_ns
            }),
            threads_ended: earlier.server.keys().filter(is_gone).count(),
            kernel_threads_ns: on_cpu(&self.kernel, &earlier.kernel),
            kernel_threads_by_name_ns: by_name,
            core_softirq_ms: ticks(|core| core.softirq),
            core_irq_ms: ticks(|core| core.irq),
            core_steal_ms: ticks(|core| core.steal),
        }
    }
}

/// The process `root` and all that descend from it, as they are now.
pub(crate) fn family_of(root: u32) -> Result<Vec<u32>, Failure> {
    Ok(family(root, &processes()?))
}

/// How long this process, which has one thread, has been ready to run without a core to run on.
pub(crate) fn own_waiting_ns() -> Result<u64, Failure> {
    let own = scheduled("/proc/self").ok_or("there is no /proc/self/schedstat")?;
    Ok(own.waiting_ns)
}

/// The time on a CPU of this process, which has one thread.
pub(crate) fn own_on_cpu_ns() -> Result<u64, Failure> {
    // The scheduler settles a thread's account when it looks at it: at every tick, and here.
    thread::yield_now();
    let own = scheduled("/proc/self").ok_or("there is no /proc/self/schedstat")?;
    Ok(own.on_cpu_ns)
}

/// The sum of what a counter grew by, over the threads that are there now.
fn sum(
    now: &BTreeMap<u32, Scheduled>,
    then: &BTreeMap<u32, Scheduled>,
    counter: fn(&Scheduled) -> u64,
) -> u64 {
    now.iter()
        .map(|(thread, scheduled)| {
            let before = then.get(thread).map_or(0, counter);
            counter(scheduled).saturating_sub(before)
        })
        .sum()
}

/// The first two fields of a schedstat file.
#[derive(Clone, Copy, Debug)]
struct Scheduled {
    on_cpu_ns: u64,
    waiting_ns: u64,
}

/// Of the thread or process whose directory is `directory`; `None` when it has ended.
fn scheduled(directory: &str) -> Option<Scheduled> {
    let text = fs::read_to_string(Path::new(directory).join("schedstat")).ok()?;
    let mut fields = text.split_ascii_whitespace();
    Some(Scheduled {
        on_cpu_ns: fields.next()?.parse().ok()?,
        waiting_ns: fields.next()?.parse().ok()?,
    })
}

fn threads(pid: u32) -> Vec<(u32, Scheduled)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let thread = entry.file_name().to_str()?.parse().ok()?;
            Some((thread, scheduled(&format!("/proc/{pid}/task/{thread}"))?))
        })
        .collect()
}

#[derive(Debug)]
struct Process {
    pid: u32,
    parent: u32,
    name: String,
}

/// Every process; those that end meanwhile are left out.
fn processes() -> Result<Vec<Process>, Failure> {
    let entries = fs::read_dir("/proc").map_err(|error| format!("cannot read /proc: {error}"))?;
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // PID (NAME) STATE PARENT ...: the name may hold anything, parentheses too.
            let (head, rest) = text.rsplit_once(')')?;
            let (_, name) = head.split_once('(')?;
            let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
            let name = name.to_owned();
            Some(Process { pid, parent, name })
        })
        .collect())
}

fn family(root: u32, processes: &[Process]) -> Vec<u32> {
    let mut family = vec![root];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        let children = processes.iter().filter(|process| process.parent == parent);
        family.extend(children.map(|process| process.pid));
        next += 1;
    }
    family
}

/// Columns of a core's line in /proc/stat.
#[derive(Clone, Copy, Debug)]
struct CoreTicks {
    irq: u64,
    softirq: u64,
    steal: u64,
}

impl CoreTicks {
    fn read(core: usize) -> Result<Self, Failure> {
        let text = fs::read_to_string("/proc/stat")?;
        let name = format!("cpu{core}");
        // user nice system idle iowait irq softirq steal ... (proc_stat(5))
        let fields: Vec<u64> = text
            .lines()
            .find(|line| line.split_ascii_whitespace().next() == Some(&name))
            .ok_or_else(|| format!("there is no {name} in /proc/stat"))?
            .split_ascii_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        let column = |index: usize| fields.get(index).copied().unwrap_or(0);
        Ok(Self {
            irq: column(5),
            softirq: column(6),
            steal: column(7),
        })
    }
}

/// /proc/stat counts in USER_HZ, which is 100 on every architecture Portcullis runs on.
const TICK_MS: u64 = 10;
