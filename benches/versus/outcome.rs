//! What a run found, as results.json has it. Units are the last word of each name.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde::Serialize;

use crate::Failure;
use crate::arguments::Arguments;
use crate::check::Checked;
use crate::cpu::Spent;
use crate::machine::Machine;
use crate::tools::Tools;

#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) command: String,
    pub(crate) taken: String,
    /// The commit of the sources, and whether they were changed since.
    pub(crate) commit: String,
    /// The cargo profile of the portcullis program: the name of the directory it is in.
    pub(crate) profile: String,
    pub(crate) machine: Machine,
    pub(crate) h2load: String,
    pub(crate) openssl: String,
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
    pub(crate) servers: Vec<ServerFacts>,
    pub(crate) cells: Vec<CellOutcome>,
    pub(crate) idle: Option<IdleOutcome>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ServerFacts {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// The least, the middle and the greatest of the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct CellOutcome {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) servers: Vec<Measured>,
    /// For each server but the first: its CPU time per request divided by the first server's, round
    /// by round.
    pub(crate) ratios: Vec<Spread>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) server: &'static str,
    /// What `openssl s_client`, which offers everything, agreed on with the server.
    pub(crate) session: Vec<String>,
    /// The length of the head of a response.
    pub(crate) head_bytes: usize,
    pub(crate) cpu_us: Option<Spread>,
    pub(crate) rounds: Vec<Round>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) requests: u64,
    pub(crate) requests_per_s: f64,
    /// CPU time of the server's threads per request.
    pub(crate) cpu_us: f64,
    /// The part of the round that the server's threads were on a CPU: 1 is saturation.
    pub(crate) busy: f64,
    #[serde(flatten)]
    pub(crate) spent: Spent,
}

#[derive(Debug, Serialize)]
pub(crate) struct IdleOutcome {
    pub(crate) connections: u32,
    pub(crate) servers: Vec<IdleMeasured>,
}

#[derive(Debug, Serialize)]
pub(crate) struct IdleMeasured {
    pub(crate) server: &'static str,
    pub(crate) process_pss_bytes: Option<Spread>,
    pub(crate) kernel_bytes: Option<Spread>,
    pub(crate) rounds: Vec<IdleRound>,
}

/// All of it per connection.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct IdleRound {
    /// Resident pages of the server's processes, shared ones divided among their users.
    pub(crate) process_pss_bytes: f64,
    pub(crate) process_rss_bytes: f64,
    /// The sum of the next three: both ends of the connection.
    pub(crate) kernel_bytes: f64,
    pub(crate) kernel_slab_bytes: f64,
    pub(crate) kernel_stacks_bytes: f64,
    pub(crate) kernel_per_cpu_bytes: f64,
    /// What TCP has set aside for socket buffers: an account, not an allocation of its own.
    pub(crate) tcp_accounted_bytes: f64,
    /// TCP sockets: 2, unless something else opened or closed some.
    pub(crate) sockets: f64,
}

impl Outcome {
    pub(crate) fn new(arguments: &Arguments, tools: Tools, servers: Vec<ServerFacts>) -> Self {
        let profile = arguments.portcullis.parent().and_then(Path::file_name);
        let profile = profile.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self {
            command: command(&profile),
            taken: httpdate::fmt_http_date(SystemTime::now()),
            commit: commit(),
            profile,
            machine: Machine::look(arguments),
            h2load: tools.h2load,
            openssl: tools.openssl,
            server_cpu: arguments.server_cpu,
            load_cpu: arguments.load_cpu,
            servers,
            cells: Vec::new(),
            idle: None,
        }
    }
}

impl CellOutcome {
    pub(crate) fn new(
        name: &'static str,
        title: &'static str,
        mut servers: Vec<Measured>,
    ) -> Result<Self, Failure> {
        for server in &mut servers {
            server.cpu_us = Spread::of(server.rounds.iter().map(|round| round.cpu_us));
        }
        let (first, others) = servers.split_first().ok_or("a cell without servers")?;
        let ratios: Option<Vec<_>> = others
            .iter()
            .map(|other| {
                let rounds = other.rounds.iter().zip(&first.rounds);
                Spread::of(rounds.map(|(other, first)| other.cpu_us / first.cpu_us))
            })
            .collect();
        Ok(Self {
            name,
            title,
            ratios: ratios.ok_or("a cell without rounds")?,
            servers,
        })
    }
}

impl Measured {
    pub(crate) fn new(server: &'static str, checked: Checked) -> Self {
        Self {
            server,
            session: checked.session,
            head_bytes: checked.head_bytes,
            cpu_us: None,
            rounds: Vec::new(),
        }
    }
}

impl Round {
    /// `requests` must not be 0.
    pub(crate) fn new(requests: u64, spent: Spent) -> Self {
        // Below 2^53 all, so exact as doubles.
        let (requests_exact, elapsed_ns) = (requests as f64, spent.elapsed_ns as f64);
        let server_ns = spent.server_ns as f64;
        Self {
            requests,
            requests_per_s: requests_exact * 1e9 / elapsed_ns,
            cpu_us: server_ns / 1e3 / requests_exact,
            busy: server_ns / elapsed_ns,
            spent,
        }
    }
}

impl IdleOutcome {
    pub(crate) fn new(connections: u32, mut servers: Vec<IdleMeasured>) -> Self {
        for server in &mut servers {
            let rounds = &server.rounds;
            server.process_pss_bytes =
                Spread::of(rounds.iter().map(|round| round.process_pss_bytes));
            server.kernel_bytes = Spread::of(rounds.iter().map(|round| round.kernel_bytes));
        }
        Self {
            connections,
            servers,
        }
    }
}

impl IdleMeasured {
    pub(crate) fn new(server: &'static str) -> Self {
        Self {
            server,
            process_pss_bytes: None,
            kernel_bytes: None,
            rounds: Vec::new(),
        }
    }
}

impl Spread {
    /// Of at least one value; the median of an even number is the mean of the middle two.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self {
            min: *sorted.first()?,
            median: f64::midpoint(lower, upper),
            max: *sorted.last()?,
        })
    }
}

/// The command that repeats this run.
fn command(profile: &str) -> String {
    let own: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let mut command = "cargo bench --bench versus".to_owned();
    if profile != RELEASE {
        command = format!("cargo bench --profile {profile} --bench versus");
    }
    if !own.is_empty() {
        command = format!("{command} -- {}", own.join(" "));
    }
    command
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments);
        git.output().ok().filter(|output| output.status.success())
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let head = String::from_utf8_lossy(&head.stdout).trim().to_owned();
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(status) if status.stdout.is_empty() => head,
        _ => format!("{head}, with changes"),
    }
}

/// The directory of what `cargo bench` builds by itself: its profile inherits release's settings.
pub(crate) const RELEASE: &str = "release";
