//! Raw tables to a [`Config`]: every value judged, every problem with its place.
//!
//! A problem does not end the check: the value's default stands in for it, so that independent
//! problems are reported together, and no problem that only follows from another.

mod access;
mod access_log;
mod admin;
mod files;
mod host_name;
mod http2;
mod listener;
mod passthrough;
mod rate;
mod route;
mod site;
mod tls;
mod upstream;
mod upstream_tls;

use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use super::error::{Place, Problem, Warning};
use super::locate::Source;
use super::range::{self, Range};
use super::raw::{
    RawConfig, RawLimits, RawOffload, RawSession, RawTcp, RawTimeouts, RawWorkers, Value,
};
use super::{
    Config, ConfigError, Limits, Loaded, Offload, OffloadPolicy, Session, Tcp, Timeouts, suggest,
};

/// Checks `raw`, which was read from `source`; relative paths in it start at `base`.
pub(super) fn check(
    raw: RawConfig,
    source: &Source<'_>,
    base: &Path,
) -> Result<Loaded, ConfigError> {
    let mut checker = Checker {
        source,
        base,
        workers: None,
        problems: Vec::new(),
        warnings: Vec::new(),
        client_authorities: None,
    };
    let client_ca = raw.tls.client_ca.as_ref();
    checker.client_authorities = client_ca.map(|ca| checker.place(ca));
    let workers = checker.workers(raw.workers);
    checker.workers = workers;
    let (upstreams, upstream_places) = checker.upstreams(raw.upstream);
    let listeners = checker.listeners(raw.listener, &upstreams);
    let policy = checker.tls_policy(&raw.tls, &Default::default());
    let has_passthrough = !raw.passthrough.is_empty();
    let mut sites = checker.sites(raw.site, &policy, &upstreams, has_passthrough);
    let passthroughs = checker.passthroughs(raw.passthrough, &upstreams, &mut sites);
    let proxies = checker.proxies(raw.proxies);
    let rate_limit = checker.rate_limit(raw.rate_limit, "");
    let offload = checker.offload(raw.offload);
    let timeouts = checker.timeouts(raw.timeouts);
    let limits = checker.limits(raw.limits);
    let tcp = checker.tcp(raw.tcp);
    let session = checker.session(raw.session);
    let admin = checker.admin(raw.admin);
    let http2 = checker.http2(&raw.http2);
    let access_log = checker.access_log(raw.access_log);
    checker.check_logs(access_log.as_ref(), &sites.sites);
    let request_id = checker.request_id(raw.request_id);
    let mut places = sites.places;
    places.upstreams = upstream_places;
    match ConfigError::of(checker.problems) {
        Some(error) => Err(error),
        None => Ok(Loaded {
            config: Config {
                workers,
                listeners,
                sites: sites.sites,
                default_site: sites.default,
                passthroughs: passthroughs.all,
                default_passthrough: passthroughs.default,
                upstreams,
                proxies,
                rate_limit,
                offload,
                timeouts,
                limits,
                tcp,
                session,
                admin,
                http2,
                access_log,
                request_id,
            },
            places,
            warnings: checker.warnings,
        }),
    }
}

/// What a check has found so far.
struct Checker<'a> {
    source: &'a Source<'a>,
    base: &'a Path,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Where `[tls]` names the authorities of clients.
    client_authorities: Option<Place>,
    /// Where their number is set.
    workers: Option<usize>,
}

impl Checker<'_> {
    fn workers(&mut self, raw: RawWorkers) -> Option<usize> {
        raw.count
            .map(|count| self.number("count", &count, &range::WORKERS, 1))
    }

    fn offload(&mut self, raw: RawOffload) -> Offload {
        let default = Offload::default();
        let bytes = &range::OFFLOAD_BYTES;
        Offload {
            policy: self.choice_or("policy", raw.policy, &OFFLOAD_POLICIES, default.policy),
            file_bytes_min: self.number_or(
                "file_bytes_min",
                raw.file_bytes_min,
                bytes,
                default.file_bytes_min,
            ),
            http2_bytes_min: self.number_or(
                "http2_bytes_min",
                raw.http2_bytes_min,
                bytes,
                default.http2_bytes_min,
            ),
            answer_bytes_min: self.number_or(
                "answer_bytes_min",
                raw.answer_bytes_min,
                bytes,
                default.answer_bytes_min,
            ),
            sent_bytes_min: self.number_or(
                "sent_bytes_min",
                raw.sent_bytes_min,
                bytes,
                default.sent_bytes_min,
            ),
            tunnel_bytes_min: self.number_or(
                "tunnel_bytes_min",
                raw.tunnel_bytes_min,
                bytes,
                default.tunnel_bytes_min,
            ),
        }
    }

    fn timeouts(&mut self, raw: RawTimeouts) -> Timeouts {
        let default = Timeouts::default();
        let lifetime = &range::TUNNEL_LIFETIME_MS;
        let tunnel_lifetime = self
            .optional_number("tunnel_lifetime_ms", raw.tunnel_lifetime_ms, lifetime)
            .map(Duration::from_millis)
            .filter(|time| !time.is_zero());
        let mut ms = |key, value, range: &Range, default| {
            self.optional_number(key, value, range)
                .map_or(default, Duration::from_millis)
        };
        let range = &range::TIMEOUT_MS;
        Timeouts {
            handshake: ms("handshake_ms", raw.handshake_ms, range, default.handshake),
            header: ms("header_ms", raw.header_ms, range, default.header),
            body_progress: ms(
                "body_progress_ms",
                raw.body_progress_ms,
                range,
                default.body_progress,
            ),
            body: ms("body_ms", raw.body_ms, range, default.body),
            send_progress: ms(
                "send_progress_ms",
                raw.send_progress_ms,
                range,
                default.send_progress,
            ),
            idle: ms("idle_ms", raw.idle_ms, &range::IDLE_MS, default.idle),
            tunnel_idle: ms(
                "tunnel_idle_ms",
                raw.tunnel_idle_ms,
                &range::IDLE_MS,
                default.tunnel_idle,
            ),
            tunnel_lifetime,
            linger: ms("linger_ms", raw.linger_ms, range, default.linger),
            drain: ms("drain_ms", raw.drain_ms, &range::DRAIN_MS, default.drain),
        }
    }

    fn limits(&mut self, raw: RawLimits) -> Limits {
        let default = Limits::default();
        let header_written = raw.header_bytes_max.as_ref().map(Spanned::span);
        let target_written = raw.target_bytes_max.as_ref().map(Spanned::span);
        let before = self.problems.len();
        let limits = Limits {
            connections_per_worker_max: self.number_or(
                "connections_per_worker_max",
                raw.connections_per_worker_max,
                &range::CONNECTIONS,
                default.connections_per_worker_max,
            ),
            connections_per_address_max: self.number_or(
                "connections_per_address_max",
                raw.connections_per_address_max,
                &range::CONNECTIONS,
                default.connections_per_address_max,
            ),
            header_bytes_max: self.number_or(
                "header_bytes_max",
                raw.header_bytes_max,
                &range::HEADER_BYTES,
                default.header_bytes_max,
            ),
            target_bytes_max: self.number_or(
                "target_bytes_max",
                raw.target_bytes_max,
                &range::TARGET_BYTES,
                default.target_bytes_max,
            ),
            body_bytes_max: self.number_or(
                "body_bytes_max",
                raw.body_bytes_max,
                &range::BODY_BYTES,
                default.body_bytes_max,
            ),
            requests_per_connection_max: self.number_or(
                "requests_per_connection_max",
                raw.requests_per_connection_max,
                &range::REQUESTS,
                default.requests_per_connection_max,
            ),
            open_files_per_worker_max: self.number_or(
                "open_files_per_worker_max",
                raw.open_files_per_worker_max,
                &range::OPEN_FILES,
                default.open_files_per_worker_max,
            ),
            records_per_key_max: self.number_or(
                "records_per_key_max",
                raw.records_per_key_max,
                &range::RECORDS_PER_KEY,
                default.records_per_key_max,
            ),
        };
        let (header, target) = (limits.header_bytes_max, limits.target_bytes_max);
        if target >= header
            && self.problems.len() == before
            && let Some(span) = target_written.or(header_written)
        {
            self.problem(
                span,
                format!("a target of {target} bytes does not fit a header of {header}"),
                "the target is part of the header: set `target_bytes_max` below \
                 `header_bytes_max`",
            );
        }
        limits
    }

    fn tcp(&mut self, raw: RawTcp) -> Tcp {
        let default = Tcp::default();
        let notsent = self.optional_number::<u32>(
            "notsent_low_water_bytes",
            raw.notsent_low_water_bytes,
            &range::NOTSENT_LOW_WATER_BYTES,
        );
        let user_timeout = self.optional_number(
            "user_timeout_ms",
            raw.user_timeout_ms,
            &range::USER_TIMEOUT_MS,
        );
        let idle = self.optional_number(
            "keepalive_idle_s",
            raw.keepalive_idle_s,
            &range::KEEPALIVE_IDLE_S,
        );
        let interval = self.optional_number(
            "keepalive_interval_s",
            raw.keepalive_interval_s,
            &range::KEEPALIVE_INTERVAL_S,
        );
        Tcp {
            nodelay: raw.nodelay.map_or(default.nodelay, Spanned::into_inner),
            notsent_low_water_bytes: match notsent {
                Some(bytes) => Some(bytes).filter(|&bytes| bytes > 0),
                None => default.notsent_low_water_bytes,
            },
            user_timeout: match user_timeout {
                Some(ms) => Some(Duration::from_millis(ms)).filter(|time| !time.is_zero()),
                None => default.user_timeout,
            },
            keepalive_idle: match idle {
                Some(s) => Some(Duration::from_secs(s)).filter(|time| !time.is_zero()),
                None => default.keepalive_idle,
            },
            keepalive_interval: interval.map_or(default.keepalive_interval, Duration::from_secs),
            keepalive_probes_max: self.number_or(
                "keepalive_probes_max",
                raw.keepalive_probes_max,
                &range::KEEPALIVE_PROBES,
                default.keepalive_probes_max,
            ),
        }
    }

    fn session(&mut self, raw: RawSession) -> Session {
        let default = Session::default();
        Session {
            tickets: raw.tickets.map_or(default.tickets, Spanned::into_inner),
            tickets_per_handshake: self.number_or(
                "tickets_per_handshake",
                raw.tickets_per_handshake,
                &range::TICKETS,
                default.tickets_per_handshake,
            ),
        }
    }

    fn number_or<T: TryFrom<i64> + Copy>(
        &mut self,
        key: &str,
        value: Value<i64>,
        range: &Range,
        default: T,
    ) -> T {
        value.map_or(default, |value| self.number(key, &value, range, default))
    }

    fn optional_number<T: TryFrom<i64> + Copy>(
        &mut self,
        key: &str,
        value: Value<i64>,
        range: &Range,
    ) -> Option<T> {
        let value = value?;
        let fallback = T::try_from(*range.start()).ok()?;
        Some(self.number(key, &value, range, fallback))
    }

    fn number<T: TryFrom<i64> + Copy>(
        &mut self,
        key: &str,
        value: &Spanned<i64>,
        range: &Range,
        fallback: T,
    ) -> T {
        let number = *value.get_ref();
        let checked = range.contains(&number).then(|| T::try_from(number).ok());
        checked.flatten().unwrap_or_else(|| {
            let (low, high) = (range.start(), range.end());
            self.problem(
                value.span(),
                format!("`{key}` is {number}"),
                format!("write a number from {low} to {high}"),
            );
            fallback
        })
    }

    fn choice_or<T: Copy>(
        &mut self,
        key: &str,
        value: Value<String>,
        choices: &[(&str, T)],
        default: T,
    ) -> T {
        value
            .and_then(|value| self.choice(key, &value, choices))
            .unwrap_or(default)
    }

    fn choice<T: Copy>(
        &mut self,
        key: &str,
        value: &Spanned<String>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let written = value.get_ref().as_str();
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == written) {
            return Some(*choice);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let guess = suggest::nearest(written, &names)
            .map(|near| format!("did you mean \"{near}\"? "))
            .unwrap_or_default();
        self.problem(
            value.span(),
            format!("`{key}` does not know {written:?}"),
            format!("{guess}known are {}", suggest::list(&names)),
        );
        None
    }

    fn problem(
        &mut self,
        span: std::ops::Range<usize>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let place = Some(self.source.place(span));
        self.problems.push(Problem::new(place, message, remedy));
    }

    fn warning(
        &mut self,
        span: std::ops::Range<usize>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let place = Some(self.source.place(span));
        self.warnings
            .push(Warning(Problem::new(place, message, remedy)));
    }

    fn place<T>(&self, value: &Spanned<T>) -> Place {
        self.source.place(value.span())
    }
}

const OFFLOAD_POLICIES: [(&str, OffloadPolicy); 3] = [
    ("auto", OffloadPolicy::Auto),
    ("always", OffloadPolicy::Always),
    ("never", OffloadPolicy::Never),
];
