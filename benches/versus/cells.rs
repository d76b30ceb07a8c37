//! How a cell of the table is measured.

use std::fs;
use std::net::SocketAddr;

use crate::Failure;
use crate::arguments::{Arguments, BackendOrder, ConnectOrder, CryptoOrder, Endpoint, LoadClient};
use crate::backend::Count;
use crate::client::Connected;
use crate::cpu::Sample;
use crate::crypto::Cost;
use crate::figures::cells::{self as table, Cell, Work};
use crate::figures::{Counted, tls_stat};
use crate::fixture::{FILE_1_KIB, FILE_1_MIB, FILE_16_KIB, Fixture, Key, Served, Version};
use crate::h2load::Protocol;
use crate::helper::Helper;
use crate::outcome::{CellOutcome, LeftOut, Measured, Round};
use crate::servers::{Demand, Running, Server, Service, Setting, floor};
use crate::{check, growth, h2load, idle, latency, wrk};

/// The cells that `only` names; all that are measured without being named when it is empty.
pub(crate) fn chosen(only: &[String]) -> Result<Vec<&'static Cell>, Failure> {
    let latencies = latency::KINDS.iter().map(|kind| kind.name);
    let beside: Vec<&str> = latencies.chain([growth::NAME, idle::NAME]).collect();
    Ok(table::chosen(only, &beside)?)
}

/// Whether the cell of this name is in `only`; every one is when it is empty.
pub(crate) fn is_chosen(name: &str, only: &[String]) -> bool {
    only.is_empty() || only.iter().any(|chosen| chosen == name)
}

/// Starts every server that can do it afresh, checks them, and loads them in turn, round by round.
pub(crate) fn measure(
    cell: &Cell,
    servers: &[Box<dyn Server>],
    arguments: &Arguments,
    fixture: &Fixture,
) -> Result<CellOutcome, Failure> {
    let mut backend = cell.backend(arguments, fixture)?;
    let setting = Setting {
        service: cell.service,
        key: cell.key,
        version: cell.version,
        backend: backend.as_ref().map(|backend| backend.address),
    };
    let (able, left_out) = able(servers, cell.demand(arguments));
    let mut measured = Vec::with_capacity(able.len());
    let mut running = Vec::with_capacity(able.len());
    for (index, server) in able.into_iter().enumerate() {
        let label = format!("{index}-{}", server.name());
        let server = Running::start(server, &setting, &label, arguments, fixture)?;
        let checked = check::check(&server, &setting, cell.files(), fixture)?;
        measured.push(Measured::new(&server, checked));
        running.push(server);
    }
    let failed = |server: &Running, error| format!("{}, {}: {error}", cell.name, server.name);
    if backend.is_some() {
        // A round that is not measured, in which servers make their connections to the backend.
        for server in &running {
            cell.load(server, backend.as_mut(), arguments, fixture)
                .map_err(|error| failed(server, error))?;
        }
    }
    for _ in 0..arguments.rounds.get() {
        for (server, measured) in running.iter().zip(&mut measured) {
            let sessions_before = kernel_sessions();
            let mut round = cell
                .load(server, backend.as_mut(), arguments, fixture)
                .and_then(kept)
                .map_err(|error| failed(server, error))?;
            round.kernel_sessions = kernel_sessions()
                .zip(sessions_before)
                .map(|(after, before)| after.saturating_sub(before));
            measured.rounds.push(round);
        }
    }
    let crypto_us = cell.crypto(&measured, &left_out, arguments)?;
    let first = servers.first().map_or("", |server| server.name());
    Ok(CellOutcome::new(
        (cell.name, cell.title),
        first,
        measured,
        left_out,
        crypto_us,
    ))
}

/// Starts those of `servers` that answer so many requests at a time over TLS 1.3, for the measurement `name`.
pub(crate) fn start_for_one_answer(
    (name, streams): (&str, u32),
    servers: &[Box<dyn Server>],
    arguments: &Arguments,
    fixture: &Fixture,
) -> Result<Vec<Running>, Failure> {
    let setting = Setting {
        service: Service::OneAnswer,
        key: Key::P256,
        version: Version::Tls13,
        backend: None,
    };
    let demand = Demand {
        streams,
        ..Demand::one_answer()
    };
    let (servers, _) = able(servers, demand);
    let servers = servers.into_iter().enumerate();
    let start = |(index, server): (usize, &dyn Server)| {
        let label = format!("{name}-{index}-{}", server.name());
        Running::start(server, &setting, &label, arguments, fixture)
    };
    servers.map(start).collect()
}

/// The servers that can do what `demand` says, and why the others cannot.
pub(crate) fn able(
    servers: &[Box<dyn Server>],
    demand: Demand,
) -> (Vec<&dyn Server>, Vec<LeftOut>) {
    let mut able = Vec::with_capacity(servers.len());
    let mut left_out = Vec::new();
    for server in servers {
        match server.unable(demand) {
            Some(reason) => left_out.push(LeftOut {
                server: server.name(),
                reason,
            }),
            None => able.push(server.as_ref()),
        }
    }
    (able, left_out)
}

impl Cell {
    fn demand(&self, arguments: &Arguments) -> Demand {
        let protocol = match self.work {
            Work::KeepAlive { protocol, .. } => Some(protocol),
            Work::Connections { .. } => None,
        };
        Demand {
            service: self.service,
            streams: match protocol {
                Some(Protocol::Http2 { streams }) => streams,
                Some(Protocol::Http1) | None => 1,
            },
            is_pinned_by_client: !(arguments.load == LoadClient::Wrk
                && matches!(protocol, Some(Protocol::Http1))),
            resumes: match self.work {
                Work::Connections { resume: true } => Some(self.version),
                Work::Connections { resume: false } | Work::KeepAlive { .. } => None,
            },
        }
    }

    /// What the cell's cryptography costs, where that alone, or with the floor's cost, is the least
    /// that a server can do with.
    fn crypto(
        &self,
        measured: &[Measured],
        left_out: &[LeftOut],
        arguments: &Arguments,
    ) -> Result<Option<f64>, Failure> {
        let Some(first) = measured.first() else {
            return Ok(None);
        };
        let has_floor = measured.iter().any(|server| server.server == floor::NAME);
        let knows_floor = has_floor || left_out.iter().any(|left| left.server == floor::NAME);
        let order = match self.work {
            Work::KeepAlive { file, .. } if has_floor => CryptoOrder {
                bytes: first.head_bytes + file.bytes,
                exchange: false,
                sign: None,
            },
            // A session resumed in TLS 1.2 has no key exchange: next to nothing is its floor.
            Work::Connections { resume: true } if self.version == Version::Tls12 => {
                return Ok(None);
            }
            Work::Connections { resume } if knows_floor => CryptoOrder {
                bytes: first.head_bytes + FILE_1_KIB.bytes,
                exchange: true,
                sign: (!resume).then_some(self.key),
            },
            Work::KeepAlive { .. } | Work::Connections { .. } => return Ok(None),
        };
        let cost: Cost = Helper::crypto(&order, arguments.server_cpu)?.proceed()?;
        Ok(Some(cost.us))
    }

    fn backend(
        &self,
        arguments: &Arguments,
        fixture: &Fixture,
    ) -> Result<Option<Backend>, Failure> {
        match self.service {
            Service::Files | Service::OneAnswer => Ok(None),
            Service::Proxy | Service::Tunnel => Backend::start(arguments, fixture).map(Some),
        }
    }

    /// What a server must give for the cell to begin.
    fn files(&self) -> Vec<&'static Served> {
        let mut files = match self.service {
            Service::OneAnswer => vec![&FILE_1_KIB],
            Service::Files | Service::Proxy | Service::Tunnel => {
                vec![&FILE_1_KIB, &FILE_16_KIB, &FILE_1_MIB]
            }
        };
        if let Work::KeepAlive { file, .. } = self.work
            && !files.contains(&file)
        {
            files.push(file);
        }
        files
    }

    /// One round of one server.
    fn load(
        &self,
        server: &Running,
        mut backend: Option<&mut Backend>,
        arguments: &Arguments,
        fixture: &Fixture,
    ) -> Result<Round, Failure> {
        let mut sample = || -> Result<Taken, Failure> {
            // The server first: the backend may have to wait for the load's core to answer.
            let sample = Sample::take(server.pid(), arguments.server_cpu)?;
            let count = backend
                .as_mut()
                .map(|backend| backend.count())
                .transpose()?;
            Ok((sample, count))
        };
        let (requests, before, after) = match self.work {
            Work::KeepAlive {
                file,
                clients,
                protocol,
            } => {
                let protocol = match protocol {
                    // As far as it goes the same: one request at a time.
                    Protocol::Http2 { streams: 1 } if server.is_plain => Protocol::Http1,
                    other @ (Protocol::Http1 | Protocol::Http2 { .. }) => other,
                };
                let load = h2load::Load {
                    address: server.address,
                    is_plain: server.is_plain,
                    path: file.name,
                    clients,
                    protocol,
                    seconds: arguments.seconds.get(),
                    cpu: arguments.load_cpu,
                };
                let run = match (arguments.load, protocol) {
                    (LoadClient::Wrk, Protocol::Http1) => wrk::run(&load, sample)?,
                    (LoadClient::H2load, _) | (_, Protocol::Http2 { .. }) => {
                        run_in_time(&load, sample)?
                    }
                };
                (requests(file, run.counted), run.before, run.after)
            }
            Work::Connections { resume } => {
                let connections = arguments.connections.get();
                let order = ConnectOrder {
                    endpoint: endpoint(server, (self.key, self.version), &FILE_1_KIB, fixture),
                    clients: CONNECTING_CLIENTS,
                    warm_up: connections / WARM_UP_SHARE,
                    connections,
                    resume,
                };
                let mut client = Helper::connect(&order, arguments.load_cpu)?;
                let before = sample()?;
                let connected: Connected = client.proceed()?;
                let after = sample()?;
                let resumed_due = if resume { connections } else { 0 };
                if (connected.connections, connected.resumed) != (connections, resumed_due) {
                    return Err(format!("{connected:?}, but {resumed_due} were to resume").into());
                }
                (connections.into(), before, after)
            }
        };
        if requests <= 0.0 {
            return Err("no request was answered".into());
        }
        let mut round = Round::new(requests, after.0.since(&before.0));
        if let (Some(before), Some(after)) = (before.1, after.1) {
            round.backend_connections = Some(after.connections - before.connections);
            round.backend_requests = Some(after.requests - before.requests);
        }
        Ok(round)
    }
}

/// The server's counters, and the backend's where there is one.
type Taken = (Sample, Option<Count>);

/// Runs h2load until both samples were taken when its main phase began and ended: on a machine with
/// much else to do, whoever reads its output may be late.
fn run_in_time(
    load: &h2load::Load<'_>,
    mut sample: impl FnMut() -> Result<Taken, Failure>,
) -> Result<h2load::Run<Taken>, Failure> {
    for _ in 0..TRIES_MAX {
        let run = h2load::run(load, &mut sample)?;
        let due_ns = u64::from(load.seconds) * NS_PER_S;
        let elapsed_ns = run.after.0.since(&run.before.0).elapsed_ns;
        if elapsed_ns.abs_diff(due_ns) <= due_ns / LATE_DIVISOR {
            return Ok(run);
        }
    }
    Err(TOO_BUSY.into())
}

/// How many sessions the kernel has begun to seal for; `None` where it has no kernel TLS.
fn kernel_sessions() -> Option<u64> {
    let text = fs::read_to_string("/proc/net/tls_stat").ok()?;
    Some(tls_stat::sealed_sessions(&text))
}

/// How many requests `counted` is. Of a large file those in progress at either end of the main
/// phase are a good part of all, so that its bytes are counted instead (heads and frames are less
/// than a thousandth of them).
fn requests(file: &Served, counted: Counted) -> f64 {
    // Below 2^53, so exact as doubles.
    if file.bytes >= FILE_1_MIB.bytes {
        counted.bytes / file.bytes as f64
    } else {
        counted.requests as f64
    }
}

/// The round, when its server kept its connections to the backend.
fn kept(round: Round) -> Result<Round, Failure> {
    if let (Some(connections), Some(requests)) = (round.backend_connections, round.backend_requests)
        && connections * REQUESTS_PER_CONNECTION_MIN > requests
    {
        return Err(format!(
            "it made {connections} connections to the backend for {requests} requests: it does not \
             keep them, so the cell would measure connecting"
        )
        .into());
    }
    Ok(round)
}

/// The backend's process; it ends when this is dropped.
struct Backend {
    helper: Helper,
    address: SocketAddr,
}

impl Backend {
    fn start(arguments: &Arguments, fixture: &Fixture) -> Result<Self, Failure> {
        let order = BackendOrder {
            root: fixture.root(),
        };
        let mut helper = Helper::backend(&order, arguments.load_cpu)?;
        let address = helper.proceed::<Count>()?.address;
        Ok(Self { helper, address })
    }

    fn count(&mut self) -> Result<Count, Failure> {
        self.helper.proceed()
    }
}

/// Where and how a client finds `file` on `server`.
pub(crate) fn endpoint(
    server: &Running,
    (key, version): (Key, Version),
    file: &Served,
    fixture: &Fixture,
) -> Endpoint {
    Endpoint {
        address: server.address,
        certificate: fixture.certificate(key).chain_file,
        key,
        version,
        path: file.name.to_owned(),
        bytes: file.bytes,
    }
}

/// Attempts at a round whose samples come in time.
pub(crate) const TRIES_MAX: u32 = 5;

/// The part of a round by which it may be longer or shorter than it was to be.
pub(crate) const LATE_DIVISOR: u64 = 20;

pub(crate) const TOO_BUSY: &str = "this machine is too busy to sample in time";

const NS_PER_S: u64 = 1_000_000_000;

/// Connections in progress at a time, each on a thread of the client.
const CONNECTING_CLIENTS: u32 = 32;

/// The warm-up's part of the measured number of connections.
const WARM_UP_SHARE: u32 = 5;

/// Requests for each connection to the backend, below which a server does not keep them. With it,
/// connecting is a small part of what is measured.
const REQUESTS_PER_CONNECTION_MIN: u64 = 20;
