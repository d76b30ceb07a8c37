//! `/metrics`: everything counted, in Prometheus's text format.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{Observed, Phase};
use crate::error::{Side, Stage};
use crate::metrics::{self, Counter, DURATION_BOUNDS_US, Snapshot};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics, as they are at this moment.
pub(super) fn text(observed: &Observed) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("portcullis");
    registry.register_collector(Box::new(Moment::of(observed)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Everything at one moment.
#[derive(Debug)]
struct Moment {
    threads: Vec<Snapshot>,
    networks: usize,
    workers: usize,
    is_ready: bool,
    started_s: f64,
    /// By site: its first name, and when its certificate expires.
    expiries: Vec<(String, f64)>,
}

impl Moment {
    fn of(observed: &Observed) -> Self {
        let generation = observed.shared.generation.load();
        let sites = generation.config.sites.iter();
        let expiries = sites
            .zip(&generation.certificate_expiries)
            .filter_map(|(site, expires)| Some((site.names.first()?.clone(), seconds(*expires))));
        Self {
            threads: metrics::snapshots(),
            networks: observed.shared.admission.networks(),
            workers: observed.workers,
            is_ready: observed.phase.get() == Phase::Ready,
            started_s: seconds(observed.started),
            expiries: expiries.collect(),
        }
    }

    /// The threads that have counted something of `counter`, and all workers: a series that is there
    /// from the beginning shows its first increment.
    fn threads_with(&self, counter: Counter) -> impl Iterator<Item = &Snapshot> {
        self.threads.iter().filter(move |thread| {
            thread.counter(counter) > 0 || thread.thread.starts_with("worker-")
        })
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for &counter in Counter::ALL {
            let help = counter.help().trim_end_matches('.');
            let kind = MetricType::Counter;
            let mut family = encoder.encode_descriptor(counter.name(), help, None, kind)?;
            for thread in self.threads_with(counter) {
                let labels = [("thread", &*thread.thread)];
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabels, u64, f64>(&thread.counter(counter), None)?;
            }
        }
        let help = "Connections ended by a failure, by who caused it and where it happened";
        let mut family = encoder.encode_descriptor("errors", help, None, MetricType::Counter)?;
        for side in Side::ALL {
            for stage in Stage::ALL {
                let count: u64 = self.threads.iter().map(|t| t.errors(side, stage)).sum();
                let labels = [("side", side.name()), ("stage", stage.name())];
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabels, u64, f64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = MetricType::Gauge;
        let help = "Open connections";
        let mut family = encoder.encode_descriptor("connections", help, None, kind)?;
        for thread in self.threads_with(Counter::ConnectionsAccepted) {
            let labels = [("thread", &*thread.thread)];
            let open = open_connections(thread);
            family.encode_family(&labels)?.encode_gauge(&open)?;
        }
        let help = "When a site's certificate expires, in seconds since 1970";
        let name = "certificate_expiry_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (site, expires) in &self.expiries {
            let labels = [("site", site.as_str())];
            family.encode_family(&labels)?.encode_gauge(expires)?;
        }
        let count = |number: usize| u32::try_from(number).map_or(f64::MAX, f64::from);
        for (name, help, value) in [
            (
                "client_networks",
                "Client addresses (IPv6: /64) with an open connection",
                count(self.networks),
            ),
            ("workers", "Worker threads", count(self.workers)),
            (
                "ready",
                "Whether it takes connections",
                f64::from(u8::from(self.is_ready)),
            ),
            (
                "start_time_seconds",
                "When the process started, in seconds since 1970",
                self.started_s,
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, kind)?
                .encode_gauge(&value)?;
        }
        Ok(())
    }

    fn encode_durations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help =
            "From the end of a request's head until the response's last byte was handed over";
        let name = "request_duration_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for thread in self.threads_with(Counter::Requests) {
            let durations = &thread.durations;
            let bounds = DURATION_BOUNDS_US.iter().map(|&us| seconds_of_us(us));
            let buckets: Vec<(f64, u64)> = bounds
                .chain([f64::INFINITY])
                .zip(durations.counts)
                .collect();
            let labels = [("thread", &*thread.thread)];
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabels>(
                    seconds_of_us(durations.sum_us),
                    durations.counts.iter().sum(),
                    &buckets,
                    None,
                )?;
        }
        Ok(())
    }
}

impl Collector for Moment {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_counters(&mut encoder)?;
        self.encode_gauges(&mut encoder)?;
        self.encode_durations(&mut encoder)
    }
}

/// Connections that a thread has accepted and that have not ended.
pub(super) fn open_connections(thread: &Snapshot) -> u64 {
    let accepted = thread.counter(Counter::ConnectionsAccepted);
    accepted.saturating_sub(thread.counter(Counter::ConnectionsClosed))
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn seconds_of_us(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

/// No label beside those of the family.
type NoLabels = [(&'static str, &'static str); 0];
