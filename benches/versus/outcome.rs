//! What a run found, as results.json has it. Units are the last word of each name.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde::Serialize;

use crate::arguments::Arguments;
use crate::check::Checked;
use crate::cpu::Spent;
use crate::figures::percentiles::Percentiles;
use crate::figures::spread::Spread;
use crate::machine::Machine;
use crate::servers::{Running, floor};
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
    /// Where it made the load of HTTP/1.1.
    pub(crate) wrk: Option<String>,
    pub(crate) openssl: String,
    pub(crate) server_cpu: usize,
    pub(crate) load_cpu: usize,
    pub(crate) servers: Vec<ServerFacts>,
    /// Servers that were asked for and are not to be had.
    pub(crate) missing: Vec<String>,
    pub(crate) cells: Vec<CellOutcome>,
    pub(crate) latency: Vec<LatencyOutcome>,
    pub(crate) growth: Option<GrowthOutcome>,
    pub(crate) idle: Option<IdleOutcome>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ServerFacts {
    pub(crate) name: String,
    pub(crate) version: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct CellOutcome {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Those that took part.
    pub(crate) servers: Vec<Measured>,
    pub(crate) left_out: Vec<LeftOut>,
    /// What the cryptography costs by itself, where that or more is known to be the least.
    pub(crate) crypto_us: Option<f64>,
}

/// A server that has no part in a cell.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) server: &'static str,
    pub(crate) reason: &'static str,
}

#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) server: &'static str,
    /// Whether it is told to have every session's sending side in the kernel.
    pub(crate) asks_for_kernel_tls: bool,
    /// What `openssl s_client`, which offers everything, agreed on with the server.
    pub(crate) session: Vec<String>,
    /// The length of the head of a response.
    pub(crate) head_bytes: usize,
    pub(crate) cpu_us: Option<Spread>,
    /// Its CPU time per request divided by the first server's, round by round; of the first itself,
    /// and where that has no part, there is none.
    pub(crate) ratio: Option<Spread>,
    /// Its CPU time per request divided by the floor's, where that takes part, and the
    /// cryptography's together.
    pub(crate) over_floor: Option<Spread>,
    pub(crate) busy: Option<Spread>,
    pub(crate) rounds: Vec<Round>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    /// Parts of one count where files are large.
    pub(crate) requests: f64,
    pub(crate) requests_per_s: f64,
    /// CPU time of the server's threads per request.
    pub(crate) cpu_us: f64,
    /// The part of the round that the server's threads were on a CPU: 1 is saturation.
    pub(crate) busy: f64,
    /// Connections that the backend accepted meanwhile, where there is one.
    pub(crate) backend_connections: Option<u64>,
    /// Requests that it answered.
    pub(crate) backend_requests: Option<u64>,
    /// Sessions that the kernel began to seal for, warm-up included; none is there where it has no
    /// kernel TLS.
    pub(crate) kernel_sessions: Option<u64>,
    #[serde(flatten)]
    pub(crate) spent: Spent,
}

#[derive(Debug, Serialize)]
pub(crate) struct LatencyOutcome {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) rate_per_s: u32,
    pub(crate) connections: u32,
    /// Requests that are due together, on one connection.
    pub(crate) streams: u32,
    pub(crate) servers: Vec<LatencyMeasured>,
}

#[derive(Debug, Serialize)]
pub(crate) struct LatencyMeasured {
    pub(crate) server: &'static str,
    /// Requests answered without a fixed rate.
    pub(crate) capacity_per_s: u64,
    pub(crate) p50_us: Option<Spread>,
    pub(crate) p90_us: Option<Spread>,
    pub(crate) p99_us: Option<Spread>,
    pub(crate) p99_9_us: Option<Spread>,
    pub(crate) rounds: Vec<LatencyRound>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct LatencyRound {
    #[serde(flatten)]
    pub(crate) latency: Percentiles,
    pub(crate) requests_per_s: f64,
    /// The part of the round that the client waited for its core, which is in the latencies.
    pub(crate) client_waiting: f64,
    pub(crate) busy: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct GrowthOutcome {
    /// Requests under way at a time.
    pub(crate) at_once: u32,
    /// Those of each step; the last is what the limit of open files allows, 10,000 at most.
    pub(crate) connections: Vec<u32>,
    pub(crate) servers: Vec<GrowthMeasured>,
}

#[derive(Debug, Serialize)]
pub(crate) struct GrowthMeasured {
    pub(crate) server: &'static str,
    /// CPU time per request for each number of connections.
    pub(crate) cpu_us: Vec<Spread>,
    /// With the most connections, divided by that with the fewest, round by round.
    pub(crate) growth: Option<Spread>,
    pub(crate) rounds_cpu_us: Vec<Vec<f64>>,
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
    pub(crate) fn new(
        arguments: &Arguments,
        tools: Tools,
        servers: Vec<ServerFacts>,
        missing: Vec<String>,
    ) -> Self {
        let profile = arguments.portcullis.parent().and_then(Path::file_name);
        let profile = profile.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Self {
            command: command(&profile),
            taken: httpdate::fmt_http_date(SystemTime::now()),
            commit: commit(),
            profile,
            machine: Machine::look(arguments),
            h2load: tools.h2load,
            wrk: tools.wrk,
            openssl: tools.openssl,
            server_cpu: arguments.server_cpu,
            load_cpu: arguments.load_cpu,
            servers,
            missing,
            cells: Vec::new(),
            latency: Vec::new(),
            growth: None,
            idle: None,
        }
    }
}

impl CellOutcome {
    /// `first` is the server that the others are compared with.
    pub(crate) fn new(
        (name, title): (&'static str, &'static str),
        first: &str,
        mut servers: Vec<Measured>,
        left_out: Vec<LeftOut>,
        crypto_us: Option<f64>,
    ) -> Self {
        let costs = |server: &Measured| -> Vec<f64> {
            server.rounds.iter().map(|round| round.cpu_us).collect()
        };
        let baseline = servers
            .first()
            .filter(|server| server.server == first)
            .map(costs);
        let floor: Option<Vec<f64>> = crypto_us.map(|crypto_us| {
            let floor = servers.iter().find(|server| server.server == floor::NAME);
            let rounds = servers.first().map_or(0, |server| server.rounds.len());
            let costs = floor.map_or_else(|| vec![0.0; rounds], costs);
            costs.iter().map(|cost| cost + crypto_us).collect()
        });
        for (index, server) in servers.iter_mut().enumerate() {
            server.cpu_us = Spread::of(costs(server));
            if let Some(floor) = &floor
                && server.server != floor::NAME
            {
                server.over_floor = Spread::of_ratios(costs(server), floor.iter().copied());
            }
            server.busy = Spread::of(server.rounds.iter().map(|round| round.busy));
            if let Some(baseline) = &baseline
                && index > 0
            {
                server.ratio = Spread::of_ratios(costs(server), baseline.iter().copied());
            }
        }
        Self {
            name,
            title,
            servers,
            left_out,
            crypto_us,
        }
    }
}

impl Measured {
    pub(crate) fn new(server: &Running, checked: Checked) -> Self {
        Self {
            server: server.name,
            asks_for_kernel_tls: server.asks_for_kernel_tls,
            session: checked.session,
            head_bytes: checked.head_bytes,
            cpu_us: None,
            ratio: None,
            over_floor: None,
            busy: None,
            rounds: Vec::new(),
        }
    }
}

impl Round {
    /// `requests` must not be 0.
    pub(crate) fn new(requests: f64, spent: Spent) -> Self {
        // Below 2^53 both, so exact as doubles.
        let (elapsed_ns, server_ns) = (spent.elapsed_ns as f64, spent.server_ns as f64);
        Self {
            requests,
            requests_per_s: requests * 1e9 / elapsed_ns,
            cpu_us: server_ns / 1e3 / requests,
            busy: spent.busy(),
            backend_connections: None,
            backend_requests: None,
            kernel_sessions: None,
            spent,
        }
    }
}

impl LatencyMeasured {
    pub(crate) fn new(server: &'static str, capacity_per_s: u64) -> Self {
        Self {
            server,
            capacity_per_s,
            p50_us: None,
            p90_us: None,
            p99_us: None,
            p99_9_us: None,
            rounds: Vec::new(),
        }
    }
}

impl GrowthMeasured {
    /// With so many numbers of connections.
    pub(crate) fn new(server: &'static str, steps: usize) -> Self {
        Self {
            server,
            cpu_us: Vec::new(),
            growth: None,
            rounds_cpu_us: vec![Vec::new(); steps],
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
