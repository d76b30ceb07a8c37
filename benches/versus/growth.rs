//! How the CPU time of a request grows with the number of connections, of which only a few have a
//! request under way at a time, each in its turn: what grows is what a server looks through, and what
//! it finds no longer in the processor's caches.

use crate::Failure;
use crate::arguments::{Arguments, DriveOrder};
use crate::cells::{LATE_DIVISOR, TOO_BUSY, TRIES_MAX, endpoint, start_for_one_answer};
use crate::cpu::Sample;
use crate::drive;
use crate::figures::spread::Spread;
use crate::fixture::{FILE_1_KIB, Fixture, Key, Version};
use crate::machine;
use crate::outcome::{GrowthMeasured, GrowthOutcome};
use crate::servers::{Running, Server};

/// As on the command line.
pub(crate) const NAME: &str = "growth";

/// Measures all servers with each number of connections in turn, round by round.
pub(crate) fn measure(
    servers: &[Box<dyn Server>],
    arguments: &Arguments,
    fixture: &Fixture,
) -> Result<GrowthOutcome, Failure> {
    let connections = steps(machine::connections_max()?);
    let running = start_for_one_answer((NAME, 1), servers, arguments, fixture)?;
    let new = |server: &Running| GrowthMeasured::new(server.name, connections.len());
    let mut measured: Vec<_> = running.iter().map(new).collect();
    for _ in 0..arguments.idle_rounds.get() {
        for (step, &connections) in connections.iter().enumerate() {
            for (server, measured) in running.iter().zip(&mut measured) {
                let cpu_us = round(server, connections, arguments, fixture)
                    .map_err(|error| format!("{NAME}, {}, {connections}: {error}", server.name))?;
                if let Some(rounds) = measured.rounds_cpu_us.get_mut(step) {
                    rounds.push(cpu_us);
                }
            }
        }
    }
    for server in &mut measured {
        let rounds = &server.rounds_cpu_us;
        server.cpu_us = rounds
            .iter()
            .filter_map(|rounds| Spread::of(rounds.iter().copied()))
            .collect();
        if let (Some(fewest), Some(most)) = (rounds.first(), rounds.last()) {
            server.growth = Spread::of_ratios(most.iter().copied(), fewest.iter().copied());
        }
    }
    Ok(GrowthOutcome {
        at_once: AT_ONCE,
        connections,
        servers: measured,
    })
}

/// The numbers of connections. The last is lower where no more than `connections_max` can be held.
fn steps(connections_max: u32) -> Vec<u32> {
    let mut steps: Vec<u32> = CONNECTIONS
        .into_iter()
        .map(|connections| connections.min(connections_max))
        .collect();
    steps.dedup();
    if steps.last() != Some(&CONNECTIONS_MAX) {
        eprintln!(
            "{NAME}: fewer than {CONNECTIONS_MAX} connections: {}",
            machine::FEW_FILES
        );
    }
    steps
}

/// The CPU time per request.
fn round(
    server: &Running,
    connections: u32,
    arguments: &Arguments,
    fixture: &Fixture,
) -> Result<f64, Failure> {
    let order = DriveOrder {
        endpoint: endpoint(server, (Key::P256, Version::Tls13), &FILE_1_KIB, fixture),
        connections,
        at_once: AT_ONCE,
        streams: None,
        rate: None,
        seconds: arguments.seconds.get(),
    };
    for _ in 0..TRIES_MAX {
        let run = drive::run(&order, arguments.load_cpu, || {
            Sample::take(server.pid(), arguments.server_cpu)
        })?;
        let spent = run.after.since(&run.before);
        // On a busy machine a sample may come late, and then it is of another time.
        let elapsed_ns = run.driven.elapsed_ns;
        if spent.elapsed_ns.abs_diff(elapsed_ns) <= elapsed_ns / LATE_DIVISOR {
            // Below 2^53 both.
            return Ok(spent.server_ns as f64 / 1e3 / run.driven.requests as f64);
        }
    }
    Err(TOO_BUSY.into())
}

/// The most that a server is to hold.
pub(crate) const CONNECTIONS_MAX: u32 = 10_000;

const CONNECTIONS: [u32; 4] = [10, 100, 1_000, CONNECTIONS_MAX];

/// Requests under way at a time.
const AT_ONCE: u32 = 10;
