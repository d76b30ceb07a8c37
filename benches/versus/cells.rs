//! The cells of the table: what is asked of every server, and how a cell is measured.

use std::path::PathBuf;

use crate::Failure;
use crate::arguments::{Arguments, ConnectOrder, Endpoint};
use crate::client::Connected;
use crate::cpu::Sample;
use crate::fixture::{FILE_1_KIB, FILE_1_MIB, FILE_16_KIB, Fixture, Key, Served, Version};
use crate::outcome::{CellOutcome, Measured, Round};
use crate::servers::{Running, Server};
use crate::{check, h2load, helper, idle};

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Cell {
    /// As on the command line.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    key: Key,
    version: Version,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Requests for `file` over `clients` connections that stay open.
    KeepAlive {
        file: &'static Served,
        clients: u32,
        protocol: h2load::Protocol,
    },
    /// New connections with one request for 1 KiB each, [`CONNECTING_CLIENTS`] at a time; every
    /// handshake is a full one, or every one resumes a session.
    Connections { resume: bool },
}

/// The cells whose names are in `only`; all of them when it is empty.
pub(crate) fn chosen(only: &[String]) -> Result<Vec<&'static Cell>, Failure> {
    let is_known =
        |name: &&String| CELLS.iter().any(|cell| cell.name == **name) || *name == idle::NAME;
    if let Some(unknown) = only.iter().find(|name| !is_known(name)) {
        let names: Vec<_> = CELLS.iter().map(|cell| cell.name).collect();
        return Err(format!(
            "no cell {unknown:?}; known: {}, {}",
            names.join(", "),
            idle::NAME
        )
        .into());
    }
    let is_chosen = |cell: &&Cell| only.is_empty() || only.iter().any(|name| name == cell.name);
    Ok(CELLS.iter().filter(is_chosen).collect())
}

/// Starts every server afresh, checks them, and loads them in turn, round by round.
pub(crate) fn measure(
    cell: &Cell,
    servers: &[Box<dyn Server>],
    arguments: &Arguments,
    fixture: &Fixture,
) -> Result<CellOutcome, Failure> {
    let mut measured = Vec::with_capacity(servers.len());
    let mut running = Vec::with_capacity(servers.len());
    for (index, server) in servers.iter().enumerate() {
        let label = format!("{index}-{}", server.name());
        let session = (cell.key, cell.version);
        let server = Running::start(server.as_ref(), session, &label, arguments, fixture)?;
        let checked = check::check(&server, cell.key, cell.version, fixture)?;
        measured.push(Measured::new(server.name, checked));
        running.push(server);
    }
    for _ in 0..arguments.rounds.get() {
        for (server, measured) in running.iter().zip(&mut measured) {
            let round = cell
                .load(server, arguments, fixture)
                .map_err(|error| format!("{}, {}: {error}", cell.name, server.name))?;
            measured.rounds.push(round);
        }
    }
    CellOutcome::new(cell.name, cell.title, measured)
}

impl Cell {
    /// One round of one server.
    fn load(
        &self,
        server: &Running,
        arguments: &Arguments,
        fixture: &Fixture,
    ) -> Result<Round, Failure> {
        let sample = || Sample::take(server.pid(), arguments.server_cpu);
        match self.work {
            Work::KeepAlive {
                file,
                clients,
                protocol,
            } => {
                let load = h2load::Load {
                    address: server.address,
                    path: file.name,
                    clients,
                    protocol,
                    seconds: arguments.seconds.get(),
                    cpu: arguments.load_cpu,
                };
                let run = h2load::run(&load, sample)?;
                Ok(Round::new(run.requests, run.after.since(&run.before)))
            }
            Work::Connections { resume } => {
                let connections = arguments.connections.get();
                let order = ConnectOrder {
                    endpoint: endpoint(server, self.key, self.version, &FILE_1_KIB, fixture),
                    clients: CONNECTING_CLIENTS,
                    warm_up: connections / WARM_UP_SHARE,
                    connections,
                    resume,
                };
                let mut client = helper::Helper::connect(&order, arguments.load_cpu)?;
                let before = sample()?;
                let connected: Connected = client.proceed()?;
                let after = sample()?;
                let resumed_due = if resume { connections } else { 0 };
                if (connected.connections, connected.resumed) != (connections, resumed_due) {
                    return Err(format!("{connected:?}, but {resumed_due} were to resume").into());
                }
                Ok(Round::new(connections.into(), after.since(&before)))
            }
        }
    }
}

/// Where and how a client finds `file` on `server`.
pub(crate) fn endpoint(
    server: &Running,
    key: Key,
    version: Version,
    file: &Served,
    fixture: &Fixture,
) -> Endpoint {
    let certificate: PathBuf = fixture.certificate(key).chain_file;
    Endpoint {
        address: server.address,
        certificate,
        key,
        version,
        path: file.name.to_owned(),
        bytes: file.bytes,
    }
}

const CELLS: [Cell; 11] = [
    keep_alive("h1-1k", "HTTP/1.1, 1 KiB, 32 connections", &FILE_1_KIB, 32),
    keep_alive(
        "h1-16k",
        "HTTP/1.1, 16 KiB, 32 connections",
        &FILE_16_KIB,
        32,
    ),
    keep_alive("h1-1m", "HTTP/1.1, 1 MiB, 8 connections", &FILE_1_MIB, 8),
    streams(
        "h2-1k",
        "HTTP/2, 1 KiB, 32 connections, one stream each",
        (&FILE_1_KIB, 32, 1),
    ),
    streams(
        "h2-1k-m10",
        "HTTP/2, 1 KiB, 32 connections, 10 streams each",
        (&FILE_1_KIB, 32, 10),
    ),
    streams(
        "h2-16k-m10",
        "HTTP/2, 16 KiB, 32 connections, 10 streams each",
        (&FILE_16_KIB, 32, 10),
    ),
    streams(
        "h2-1m",
        "HTTP/2, 1 MiB, 8 connections, one stream each",
        (&FILE_1_MIB, 8, 1),
    ),
    Cell {
        name: "full-p256",
        title: "new connection, full handshake (TLS 1.3, ECDSA P-256), 1 KiB",
        key: Key::P256,
        version: Version::Tls13,
        work: Work::Connections { resume: false },
    },
    Cell {
        name: "full-rsa",
        title: "new connection, full handshake (TLS 1.3, RSA-2048), 1 KiB",
        key: Key::Rsa2048,
        version: Version::Tls13,
        work: Work::Connections { resume: false },
    },
    Cell {
        name: "full-p256-tls12",
        title: "new connection, full handshake (TLS 1.2, ECDSA P-256), 1 KiB",
        key: Key::P256,
        version: Version::Tls12,
        work: Work::Connections { resume: false },
    },
    Cell {
        name: "resumed",
        title: "new connection, resumed (TLS 1.3, ticket), 1 KiB",
        key: Key::P256,
        version: Version::Tls13,
        work: Work::Connections { resume: true },
    },
];

const fn keep_alive(
    name: &'static str,
    title: &'static str,
    file: &'static Served,
    clients: u32,
) -> Cell {
    Cell {
        name,
        title,
        key: Key::P256,
        version: Version::Tls13,
        work: Work::KeepAlive {
            file,
            clients,
            protocol: h2load::Protocol::Http1,
        },
    }
}

/// The same over HTTP/2, with so many streams on each connection.
const fn streams(
    name: &'static str,
    title: &'static str,
    (file, clients, streams): (&'static Served, u32, u32),
) -> Cell {
    Cell {
        name,
        title,
        key: Key::P256,
        version: Version::Tls13,
        work: Work::KeepAlive {
            file,
            clients,
            protocol: h2load::Protocol::Http2 { streams },
        },
    }
}

/// Connections in progress at a time, each on a thread of the client.
const CONNECTING_CLIENTS: u32 = 32;

/// The warm-up's part of the measured number of connections.
const WARM_UP_SHARE: u32 = 5;
