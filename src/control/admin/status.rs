//! `/status.json`: what the status page shows.

use std::time::SystemTime;

use super::Observed;
use super::prometheus::open_connections;
use crate::config::OffloadPolicy;
use crate::error::{Side, Stage};
use crate::metrics::{self, Counter, DURATION_BOUNDS_US, Durations, Snapshot};
use crate::proto::json::JsonWriter;
use crate::worker::Generation;

pub(super) fn json(observed: &Observed) -> String {
    let threads = metrics::snapshots();
    let generation = observed.shared.generation.load();
    let policy = match generation.config.offload.policy {
        OffloadPolicy::Auto => "auto",
        OffloadPolicy::Always => "always",
        OffloadPolicy::Never => "never",
    };
    let mut out = Vec::new();
    let mut json = JsonWriter::new(&mut out);
    json.begin_object()
        .string_member("version", env!("CARGO_PKG_VERSION").as_bytes())
        .string_member("phase", observed.phase.get().name().as_bytes())
        .number_member("uptime_s", seconds_since(observed.started))
        .string_member("offload_policy", policy.as_bytes())
        .number_member(
            "client_networks",
            observed.shared.admission.networks() as u64,
        );
    write_workers(&mut json, &threads);
    json.name("counters").begin_object();
    for &counter in Counter::ALL {
        let total = threads.iter().map(|thread| thread.counter(counter)).sum();
        json.number_member(counter.name(), total);
    }
    json.end_object();
    write_errors(&mut json, &threads);
    write_durations(&mut json, &threads);
    write_certificates(&mut json, &generation);
    json.end_object();
    String::from_utf8(out).unwrap_or_default()
}

fn write_workers(json: &mut JsonWriter<'_>, threads: &[Snapshot]) {
    let mut workers: Vec<&Snapshot> = threads
        .iter()
        .filter(|thread| thread.thread.starts_with("worker-"))
        .collect();
    // Threads register in any order; "worker-10" comes after "worker-9".
    workers.sort_by_key(|worker| (worker.thread.len(), worker.thread.clone()));
    json.name("workers").begin_array();
    for worker in workers {
        json.begin_object()
            .string_member("name", worker.thread.as_bytes())
            .number_member("connections", open_connections(worker))
            .number_member("accepted", worker.counter(Counter::ConnectionsAccepted))
            .number_member("requests", worker.counter(Counter::Requests))
            .number_member("bytes_received", worker.counter(Counter::BytesReceived))
            .number_member("bytes_sent", worker.counter(Counter::BytesSent))
            .end_object();
    }
    json.end_array();
}

/// Those that have happened.
fn write_errors(json: &mut JsonWriter<'_>, threads: &[Snapshot]) {
    json.name("errors").begin_array();
    for side in Side::ALL {
        for stage in Stage::ALL {
            let count: u64 = threads.iter().map(|t| t.errors(side, stage)).sum();
            if count > 0 {
                json.begin_object()
                    .string_member("side", side.name().as_bytes())
                    .string_member("stage", stage.name().as_bytes())
                    .number_member("count", count)
                    .end_object();
            }
        }
    }
    json.end_array();
}

fn write_durations(json: &mut JsonWriter<'_>, threads: &[Snapshot]) {
    let durations = threads.iter().fold(Durations::default(), |sum, thread| {
        sum.and(&thread.durations)
    });
    json.name("durations").begin_object();
    json.name("bounds_us").begin_array();
    for bound in DURATION_BOUNDS_US {
        json.number(bound);
    }
    json.end_array().name("counts").begin_array();
    for count in durations.counts {
        json.number(count);
    }
    json.end_array()
        .number_member("sum_us", durations.sum_us)
        .end_object();
}

fn write_certificates(json: &mut JsonWriter<'_>, generation: &Generation) {
    json.name("certificates").begin_array();
    let sites = generation.config.sites.iter();
    for (site, expires) in sites.zip(&generation.certificate_expiries) {
        json.begin_object().name("names").begin_array();
        for name in &site.names {
            json.string(name.as_bytes());
        }
        let since_1970 = expires.duration_since(SystemTime::UNIX_EPOCH);
        json.end_array()
            .number_member("expires_s", since_1970.unwrap_or_default().as_secs())
            .end_object();
    }
    json.end_array();
}

fn seconds_since(time: SystemTime) -> u64 {
    time.elapsed().unwrap_or_default().as_secs()
}
