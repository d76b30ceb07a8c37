//! Memory per idle connection.
//!
//! A fresh server serves a few connections, so that what it allocates once is there. Then a client
//! opens thousands of connections, makes one request on each and falls silent. Once the server has
//! come to rest, what its processes and the kernel's allocators have grown by is divided by the
//! number of connections.
//!
//! The kernel's part cannot be told apart by process: it holds the sockets of both ends, and
//! whatever else the machine did meanwhile. The client's end is the same for every server.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::arguments::{Arguments, ConnectOrder, HoldOrder};
use crate::cells::{able, endpoint};
use crate::client::Connected;
use crate::cpu::family_of;
use crate::fixture::{FILE_1_KIB, Fixture, Key, Version};
use crate::helper::Helper;
use crate::machine;
use crate::outcome::{IdleMeasured, IdleOutcome, IdleRound};
use crate::servers::{Demand, Running, Server, Service, Setting};

/// As on the command line.
pub(crate) const NAME: &str = "idle";

/// Measures all `servers` in turn, round by round.
pub(crate) fn measure(
    servers: &[Box<dyn Server>],
    arguments: &Arguments,
    fixture: &Fixture,
) -> Result<IdleOutcome, Failure> {
    let connections = held(arguments)?;
    let (servers, _) = able(servers, Demand::one_answer());
    let mut measured: Vec<_> = servers
        .iter()
        .map(|server| IdleMeasured::new(server.name()))
        .collect();
    for _ in 0..arguments.idle_rounds.get() {
        for (&server, measured) in servers.iter().zip(&mut measured) {
            let round = round(server, connections, arguments, fixture)
                .map_err(|error| format!("{NAME}, {}: {error}", server.name()))?;
            measured.rounds.push(round);
        }
    }
    Ok(IdleOutcome::new(connections, measured))
}

/// As many as were asked for, or as the limit of open files allows.
fn held(arguments: &Arguments) -> Result<u32, Failure> {
    let asked = arguments.idle.get();
    let held = asked.min(machine::connections_max()?);
    if held < asked {
        eprintln!(
            "{NAME}: {held} connections, not {asked}: {}",
            machine::FEW_FILES
        );
    }
    Ok(held)
}

fn round(
    server: &dyn Server,
    connections: u32,
    arguments: &Arguments,
    fixture: &Fixture,
) -> Result<IdleRound, Failure> {
    let (key, version) = (Key::P256, Version::Tls13);
    let label = format!("{NAME}-{}", server.name());
    let setting = Setting {
        service: Service::OneAnswer,
        key,
        version,
        backend: None,
    };
    let running = Running::start(server, &setting, &label, arguments, fixture)?;
    let endpoint = endpoint(&running, (key, version), &FILE_1_KIB, fixture);
    let warm_up = ConnectOrder {
        endpoint: endpoint.clone(),
        clients: 1,
        warm_up: WARM_UP_CONNECTIONS,
        connections: 1,
        resume: false,
    };
    Helper::connect(&warm_up, arguments.load_cpu)?.proceed::<Connected>()?;
    let before = Memory::at_rest(running.pid())?;

    let order = HoldOrder {
        endpoint,
        connections,
    };
    let mut client = Helper::hold(&order, arguments.load_cpu)?;
    let after = Memory::at_rest(running.pid())?;
    let kept: u32 = client.proceed()?;
    if kept != connections {
        return Err(format!("{kept} of {connections} connections were kept open").into());
    }
    let per_connection = |of: fn(&Memory) -> u64| {
        // The difference of two sums of pages, exact in a double; negative when something shrank.
        (of(&after) as f64 - of(&before) as f64) / f64::from(connections)
    };
    Ok(IdleRound {
        process_pss_bytes: per_connection(|memory| memory.pss),
        process_rss_bytes: per_connection(|memory| memory.rss),
        kernel_bytes: per_connection(|memory| memory.slab + memory.stacks + memory.per_cpu),
        kernel_slab_bytes: per_connection(|memory| memory.slab),
        kernel_stacks_bytes: per_connection(|memory| memory.stacks),
        kernel_per_cpu_bytes: per_connection(|memory| memory.per_cpu),
        tcp_accounted_bytes: per_connection(|memory| memory.tcp_accounted),
        sockets: per_connection(|memory| memory.tcp_sockets),
    })
}

/// Memory in bytes, and sockets, at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    /// Of the server's processes: resident pages, shared ones divided among their users.
    pss: u64,
    /// Of the server's processes: resident pages.
    rss: u64,
    /// Of the machine: slab allocations, which hold sockets, files, buffers and queued data.
    slab: u64,
    /// Of the machine: stacks of threads in the kernel (io_uring's workers have them).
    stacks: u64,
    /// Of the machine: per-CPU allocations.
    per_cpu: u64,
    /// What TCP has set aside for socket buffers: an account, not an allocation of its own.
    tcp_accounted: u64,
    /// TCP sockets in use.
    tcp_sockets: u64,
}

impl Memory {
    /// Waits until the processes of `root` have not changed in size for a while.
    fn at_rest(root: u32) -> Result<Self, Failure> {
        let start = Instant::now();
        let mut memory = Self::read(root)?;
        let mut unchanged_since = start;
        while unchanged_since.elapsed() < REST_MIN {
            if start.elapsed() > REST_MAX {
                return Err("its memory does not come to rest".into());
            }
            thread::sleep(REST_STEP);
            let now = Self::read(root)?;
            if now.rss != memory.rss {
                unchanged_since = Instant::now();
            }
            memory = now;
        }
        Ok(memory)
    }

    fn read(root: u32) -> Result<Self, Failure> {
        let mut memory = Self::default();
        for pid in family_of(root)? {
            // Of a process that has just ended there is nothing to count.
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            memory.pss += kib(&text, "Pss:").unwrap_or(0);
            memory.rss += kib(&text, "Rss:").unwrap_or(0);
        }
        if memory.rss == 0 {
            return Err(
                "there is no smaps_rollup of it (Linux 4.14, CONFIG_PROC_PAGE_MONITOR)".into(),
            );
        }
        let machine = fs::read_to_string("/proc/meminfo")?;
        let due =
            |label: &str| kib(&machine, label).ok_or_else(|| format!("no {label} in meminfo"));
        memory.slab = due("Slab:")?;
        memory.stacks = due("KernelStack:")?;
        // Linux 4.20.
        memory.per_cpu = kib(&machine, "Percpu:").unwrap_or(0);
        let sockets = fs::read_to_string("/proc/net/sockstat")?;
        memory.tcp_sockets = tcp_count(&sockets, "inuse").ok_or("no TCP in sockstat")?;
        memory.tcp_accounted = tcp_count(&sockets, "mem").unwrap_or(0) * PAGE_BYTES;
        Ok(memory)
    }
}

/// The bytes in a line such as "Rss:   12 kB".
fn kib(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The number after `label` in "TCP: inuse 3 orphan 0 tw 37 alloc 3 mem 340".
fn tcp_count(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|&word| word == label)?;
    words.next()?.parse().ok()
}

const WARM_UP_CONNECTIONS: u32 = 500;

/// Longer than Portcullis keeps an idle connection's buffer (about a second).
const REST_MIN: Duration = Duration::from_secs(3);
const REST_MAX: Duration = Duration::from_secs(60);
const REST_STEP: Duration = Duration::from_millis(200);

/// sockstat counts pages of the size that x86-64 and most arm64 kernels have.
const PAGE_BYTES: u64 = 4096;
