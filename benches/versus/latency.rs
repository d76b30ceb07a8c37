//! Latency at a fixed rate, the same for all servers and below what each can do, over HTTP/1.1 and over
//! HTTP/2.

use std::num::NonZeroU32;

use crate::Failure;
use crate::arguments::{Arguments, DriveOrder};
use crate::cells::{endpoint, start_for_one_answer};
use crate::cpu::Sample;
use crate::drive::{self, Run};
use crate::figures::percentiles::Percentiles;
use crate::figures::spread::Spread;
use crate::fixture::{FILE_1_KIB, Fixture, Key, Version};
use crate::outcome::{LatencyMeasured, LatencyOutcome, LatencyRound};
use crate::servers::{Running, Server};

/// What is asked, and how.
#[derive(Debug)]
pub(crate) struct Kind {
    /// As on the command line.
    pub(crate) name: &'static str,
    title: &'static str,
    connections: u32,
    /// Over HTTP/2, so many requests at a time on one connection.
    streams: Option<NonZeroU32>,
}

/// Finds out what each server can do, and measures all at a part of what the slowest can.
pub(crate) fn measure(
    kind: &Kind,
    servers: &[Box<dyn Server>],
    arguments: &Arguments,
    fixture: &Fixture,
) -> Result<LatencyOutcome, Failure> {
    let streams = kind.streams.map_or(1, NonZeroU32::get);
    let running = start_for_one_answer((kind.name, streams), servers, arguments, fixture)?;
    let mut measured = Vec::with_capacity(running.len());
    for server in &running {
        let run = load(kind, server, None, (arguments, fixture))?;
        let capacity_per_s = run.driven.requests * NS_PER_S / run.driven.elapsed_ns;
        measured.push(LatencyMeasured::new(server.name, capacity_per_s));
    }
    let rate = match arguments.rate {
        Some(rate) => rate,
        None => share_of_least(measured.iter().map(|server| server.capacity_per_s))?,
    };
    for _ in 0..arguments.rounds.get() {
        for (server, measured) in running.iter().zip(&mut measured) {
            let run = load(kind, server, Some(rate), (arguments, fixture))
                .map_err(|error| format!("{}, {}: {error}", kind.name, server.name))?;
            let spent = run.after.since(&run.before);
            measured.rounds.push(LatencyRound {
                latency: run.driven.latency,
                requests_per_s: per_s(&run),
                // Below 2^53 both.
                client_waiting: run.driven.client_waiting_ns as f64 / run.driven.elapsed_ns as f64,
                busy: spent.busy(),
            });
        }
    }
    for server in &mut measured {
        let of = |of: fn(&Percentiles) -> f64| {
            Spread::of(server.rounds.iter().map(|round| of(&round.latency)))
        };
        (server.p50_us, server.p90_us) = (of(|found| found.p50_us), of(|found| found.p90_us));
        (server.p99_us, server.p99_9_us) = (of(|found| found.p99_us), of(|found| found.p99_9_us));
    }
    Ok(LatencyOutcome {
        name: kind.name,
        title: kind.title,
        rate_per_s: rate.get(),
        connections: kind.connections,
        streams,
        servers: measured,
    })
}

fn load(
    kind: &Kind,
    server: &Running,
    rate: Option<NonZeroU32>,
    (arguments, fixture): (&Arguments, &Fixture),
) -> Result<Run<Sample>, Failure> {
    let order = DriveOrder {
        endpoint: endpoint(server, (Key::P256, Version::Tls13), &FILE_1_KIB, fixture),
        connections: kind.connections,
        at_once: kind.connections,
        streams: kind.streams,
        rate,
        seconds: arguments.seconds.get(),
    };
    drive::run(&order, arguments.load_cpu, || {
        Sample::take(server.pid(), arguments.server_cpu)
    })
}

/// Requests answered per second.
fn per_s(run: &Run<Sample>) -> f64 {
    // Below 2^53 both.
    run.driven.requests as f64 * 1e9 / run.driven.elapsed_ns as f64
}

fn share_of_least(capacities: impl Iterator<Item = u64>) -> Result<NonZeroU32, Failure> {
    let share = capacities.min().unwrap_or(0) / RATE_DIVISOR;
    NonZeroU32::new(u32::try_from(share)?).ok_or_else(|| "a server answers nothing".into())
}

pub(crate) const KINDS: [Kind; 2] = [
    Kind {
        name: "latency",
        title: "HTTP/1.1, 1 KiB",
        connections: 64,
        streams: None,
    },
    // As a page asks for its parts.
    Kind {
        name: "latency-h2",
        title: "HTTP/2, 1 KiB, 10 at a time on one connection",
        connections: 16,
        streams: NonZeroU32::new(10),
    },
];

/// Of what the slowest server can do, to be well below it: at more, latencies tell of queues; at much
/// less, of sleep.
const RATE_DIVISOR: u64 = 2;

const NS_PER_S: u64 = 1_000_000_000;
