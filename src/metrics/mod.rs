//! Counters, one block per worker thread, summed when they are read.
//!
//! A worker adds to its own block through a thread-local pointer, so counting is one uncontended
//! relaxed addition. Blocks live as long as the process.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Side, Stage};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What is counted. Each doc comment is the counter's published help text.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $doc])+ $variant,)+ }

        impl Counter {
            /// All counters in the order of their index.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)+];

            /// The counter's published name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The counter's published help text.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

counters! {
    /// Connections taken from a listener.
    ConnectionsAccepted = "connections_accepted",
    /// Connections whose task has ended.
    ConnectionsClosed = "connections_closed",
    /// Connections closed at once because their worker was full.
    RefusedWorkerFull = "refused_worker_full",
    /// Connections closed at once because their address had too many.
    RefusedAddressFull = "refused_address_full",
    /// Connections closed at once because their listener's lists refuse their address.
    RefusedNetwork = "refused_network",
    /// Connections closed at once because their address is none that may speak the PROXY protocol.
    RefusedNoProxy = "refused_no_proxy",
    /// Headers of the PROXY protocol that were read.
    ProxyHeaders = "proxy_headers",
    /// Connections of proxies closed for a header of the PROXY protocol that is malformed, missing or late.
    ProxyHeadersRefused = "proxy_headers_refused",
    /// Times accepting paused because no descriptor was left.
    AcceptPausedDescriptors = "accept_paused_descriptors",
    /// Connections that ended by a panic of their task.
    ConnectionPanics = "connection_panics",
    /// Full TLS 1.2 handshakes.
    HandshakesTls12Full = "handshakes_tls12_full",
    /// Resumed TLS 1.2 handshakes.
    HandshakesTls12Resumed = "handshakes_tls12_resumed",
    /// Full TLS 1.3 handshakes.
    HandshakesTls13Full = "handshakes_tls13_full",
    /// Resumed TLS 1.3 handshakes.
    HandshakesTls13Resumed = "handshakes_tls13_resumed",
    /// Handshakes refused or broken off.
    HandshakesFailed = "handshakes_failed",
    /// Plain HTTP requests answered with 400 on a TLS port.
    PlainHttpOnTlsPort = "plain_http_on_tls_port",
    /// Sending sides handed to kernel TLS.
    OffloadedSend = "offloaded_send",
    /// Receiving sides handed to kernel TLS.
    OffloadedReceive = "offloaded_receive",
    /// Connections that stayed in user space, wholly or one way: the kernel has no tls module.
    NotOffloadedNoUlp = "not_offloaded_no_ulp",
    /// Connections that stayed in user space, wholly or one way: the kernel refuses the suite, or seals it
    /// slowly and the policy is `auto`.
    NotOffloadedSuite = "not_offloaded_suite",
    /// Connections that stayed in user space, wholly or one way: a setsockopt failed.
    NotOffloadedFailed = "not_offloaded_failed",
    /// Connections that stayed in user space, wholly or one way: the policy said so.
    NotOffloadedPolicy = "not_offloaded_policy",
    /// KeyUpdates received.
    KeyUpdatesReceived = "key_updates_received",
    /// KeyUpdates sent.
    KeyUpdatesSent = "key_updates_sent",
    /// Connections closed because a key was used up and could not be changed.
    KeyExhausted = "key_exhausted",
    /// Connections the peer ended without close_notify.
    ClosedWithoutNotify = "closed_without_notify",
    /// Requests read.
    Requests = "requests",
    /// Of the requests, those over HTTP/2.
    RequestsHttp2 = "requests_http2",
    /// Requests whose client vanished while their answer, or the rest of it, was awaited.
    RequestsAbandoned = "requests_abandoned",
    /// Responses with a status below 300.
    Responses2xx = "responses_2xx",
    /// Responses with a status from 300 to 399.
    Responses3xx = "responses_3xx",
    /// Responses with a status from 400 to 499.
    Responses4xx = "responses_4xx",
    /// Responses with a status of 500 or more.
    Responses5xx = "responses_5xx",
    /// Requests answered with 403 because their site's lists refuse their client's address.
    RequestsRefusedNetwork = "requests_refused_network",
    /// Requests answered with 429 because their client made too many.
    RequestsRateLimited = "requests_rate_limited",
    /// Application bytes received.
    BytesReceived = "bytes_received",
    /// Application bytes sent.
    BytesSent = "bytes_sent",
    /// Range fields that were ignored because they asked for too many parts.
    RangesIgnored = "ranges_ignored",
    /// Files that shrank while they were sent.
    FilesTruncated = "files_truncated",
    /// File chunks that were not in the page cache and were read by the file threads.
    FileChunksCold = "file_chunks_cold",
    /// Bytes of files sent over HTTP/2 by the kernel from its page cache, that never were in user space.
    FileBytesMapped = "file_bytes_mapped",
    /// Listings of directories with more names than are shown.
    ListingsCut = "listings_cut",
    /// Open-file cache hits.
    FileCacheHits = "file_cache_hits",
    /// Open-file cache misses.
    FileCacheMisses = "file_cache_misses",
    /// Files whose names, inodes or content were not in memory and were opened by the file threads.
    FileOpensCold = "file_opens_cold",
    /// Requests refused because the file threads had too much to do.
    FileThreadsOverloaded = "file_threads_overloaded",
    /// Work for the file threads refused because they had enough to do for its file system.
    FileThreadsShareFull = "file_threads_share_full",
    /// Handshakes that timed out.
    TimeoutsHandshake = "timeouts_handshake",
    /// Request heads that timed out.
    TimeoutsHeader = "timeouts_header",
    /// Request bodies that timed out.
    TimeoutsBody = "timeouts_body",
    /// Responses that timed out.
    TimeoutsSend = "timeouts_send",
    /// Idle connections that were closed.
    TimeoutsIdle = "timeouts_idle",
    /// HTTP/2 streams that the client reset before their response was sent.
    Http2StreamsResetByClient = "http2_streams_reset_by_client",
    /// HTTP/2 streams reset for an error of the client, a bound, or a failed response.
    Http2StreamsReset = "http2_streams_reset",
    /// HTTP/2 streams refused because as many as allowed were open.
    Http2StreamsRefused = "http2_streams_refused",
    /// HTTP/2 connections ended with an error code in GOAWAY.
    Http2Goaways = "http2_goaways",
    /// Of those, connections that did too much of what costs the client little.
    Http2Floods = "http2_floods",
    /// Connections made to servers behind this one.
    UpstreamConnects = "upstream_connects",
    /// Connections to servers behind this one that could not be made.
    UpstreamConnectsFailed = "upstream_connects_failed",
    /// Full TLS handshakes with servers behind this one.
    UpstreamHandshakesFull = "upstream_handshakes_full",
    /// TLS handshakes with servers behind this one that took up an earlier session.
    UpstreamHandshakesResumed = "upstream_handshakes_resumed",
    /// TLS handshakes with servers behind this one that failed.
    UpstreamHandshakesFailed = "upstream_handshakes_failed",
    /// Of those, for a certificate that has expired or is not valid yet.
    UpstreamCertificatesExpired = "upstream_certificates_expired",
    /// Of those, for a certificate that no known authority has issued.
    UpstreamCertificatesUntrusted = "upstream_certificates_untrusted",
    /// Of those, for a certificate of another name.
    UpstreamCertificatesMisnamed = "upstream_certificates_misnamed",
    /// Of those, for a certificate that cannot be used otherwise.
    UpstreamCertificatesInvalid = "upstream_certificates_invalid",
    /// Times a server was left out for a while because connections or requests to it failed.
    UpstreamEjections = "upstream_ejections",
    /// Times health checks found that a server is down.
    UpstreamServersDown = "upstream_servers_down",
    /// Health checks that failed.
    UpstreamChecksFailed = "upstream_checks_failed",
    /// Names of servers that could not be looked up.
    UpstreamLookupsFailed = "upstream_lookups_failed",
    /// Requests sent to servers behind this one.
    UpstreamRequests = "upstream_requests",
    /// Requests sent over a connection that had carried one before.
    UpstreamConnectionsReused = "upstream_connections_reused",
    /// Requests sent again because an idle connection had died, or the server had not begun them.
    UpstreamRetries = "upstream_retries",
    /// HTTP/2 streams that a server refused or ended its connection before.
    UpstreamStreamsRefused = "upstream_streams_refused",
    /// HTTP/2 streams that a server reset.
    UpstreamStreamsReset = "upstream_streams_reset",
    /// HTTP/2 connections to servers that were ended for an error of the server.
    UpstreamConnectionsFailed = "upstream_connections_failed",
    /// Of those, connections on which a PING was not answered.
    UpstreamPingsUnanswered = "upstream_pings_unanswered",
    /// Requests answered with an error because a server failed, or none was to be had.
    UpstreamFailures = "upstream_failures",
    /// Times a server did not answer, or go on answering, in time.
    UpstreamTimeouts = "upstream_timeouts",
    /// Interim responses of servers, such as 103 (Early Hints), that were passed on.
    InterimResponses = "interim_responses",
    /// Interim responses of servers that were not, because the request's had become too long.
    InterimResponsesDropped = "interim_responses_dropped",
    /// Responses that a server left unfinished.
    UpstreamResponsesCut = "upstream_responses_cut",
    /// Bytes of responses passed on that never were in user space.
    UpstreamBytesSpliced = "upstream_bytes_spliced",
    /// Requests and tunnels that waited because the servers were full.
    UpstreamQueued = "upstream_queued",
    /// Requests and tunnels refused because too many waited.
    UpstreamQueueFull = "upstream_queue_full",
    /// Requests and tunnels refused because they had waited too long.
    UpstreamQueueTimeouts = "upstream_queue_timeouts",
    /// Connections that changed their protocol.
    UpgradedConnections = "upgraded_connections",
    /// Connections for which no server was to be had.
    UpstreamUnavailable = "upstream_unavailable",
    /// Tunnels opened for terminated TLS.
    Tunnels = "tunnels",
    /// Tunnels opened without terminating TLS.
    TunnelsPassedThrough = "tunnels_passed_through",
    /// Tunnels that ended otherwise than by both sides' own ends.
    TunnelsAborted = "tunnels_aborted",
    /// Bytes of tunnels that never were in user space.
    TunnelBytesSpliced = "tunnel_bytes_spliced",
    /// Times that bytes of a tunnel or a response were copied because no pipe was to be had.
    TunnelPipesRefused = "tunnel_pipes_refused",
    /// Tunnels closed because nothing moved in them.
    TimeoutsTunnelIdle = "timeouts_tunnel_idle",
    /// Tunnels closed because of their age.
    TimeoutsTunnelLifetime = "timeouts_tunnel_lifetime",
    /// Connections ended by a failure of the client.
    ErrorsClient = "errors_client",
    /// Connections ended by a failure of a server behind this one.
    ErrorsUpstream = "errors_upstream",
    /// Connections ended by a failure of ours.
    ErrorsUs = "errors_us",
    /// Lines of the access log that were dropped, because they could not be written in time or at all.
    AccessLogDropped = "access_log_dropped",
    /// Configurations put in force by a reload.
    Reloads = "reloads",
    /// Reloads that changed nothing, because the configuration cannot be used.
    ReloadsRefused = "reloads_refused",
    /// Certificates put in force because their files changed.
    CertificatesReloaded = "certificates_reloaded",
    /// Changed certificate files that cannot be used; the certificate before them stays.
    CertificatesRefused = "certificates_refused",
}

/// What one thread has counted.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The thread's name.
    pub thread: Box<str>,
    counters: Vec<u64>,
    errors: Vec<u64>,
    /// Durations of responses.
    pub durations: Durations,
}

/// How long responses took, from the end of a request's head until the response's last byte was
/// handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many took at most [`DURATION_BOUNDS_US`] of the same index and more than the one before;
    /// the last took longer than all bounds.
    pub counts: [u64; DURATION_BOUNDS_US.len() + 1],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

/// The bounds of [`Durations`], in microseconds.
pub const DURATION_BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Lets this thread be among the [`snapshots`], although it has counted nothing yet.
pub fn join() {
    own_block();
}

/// Adds one to `counter`.
pub fn count(counter: Counter) {
    add(counter, 1);
}

/// Adds `amount` to `counter`.
pub fn add(counter: Counter, amount: u64) {
    if let Some(cell) = own_block().counters.get(counter as usize) {
        grow(cell, amount);
    }
}

/// Counts a connection that ended by a failure.
pub fn count_error(side: Side, stage: Stage) {
    if let Some(cell) = own_block().errors.get(error_index(side, stage)) {
        grow(cell, 1);
    }
}

/// Counts a response that took so long.
pub fn count_duration(duration: Duration) {
    let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let index = DURATION_BOUNDS_US.iter().take_while(|&&bound| us > bound);
    let block = own_block();
    if let Some(cell) = block.durations.get(index.count()) {
        grow(cell, 1);
    }
    grow(&block.duration_sum_us, us);
}

/// The sum of `counter` over all threads.
pub fn total(counter: Counter) -> u64 {
    let blocks = blocks();
    let cells = blocks
        .iter()
        .filter_map(|block| block.counters.get(counter as usize));
    cells.map(|cell| cell.load(Ordering::Relaxed)).sum()
}

/// What each thread has counted. Threads count on meanwhile: numbers that belong together may be
/// apart by what happens in the moment.
pub fn snapshots() -> Vec<Snapshot> {
    let load = |cells: &[AtomicU64]| -> Vec<u64> {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        cells.iter().map(load).collect()
    };
    let snapshot = |block: &&'static Block| Snapshot {
        thread: block.thread.clone(),
        counters: load(&block.counters),
        errors: load(&block.errors),
        durations: Durations {
            counts: std::array::from_fn(|index| {
                let cell = block.durations.get(index);
                cell.map_or(0, |cell| cell.load(Ordering::Relaxed))
            }),
            sum_us: block.duration_sum_us.load(Ordering::Relaxed),
        },
    };
    blocks().iter().map(snapshot).collect()
}

impl Snapshot {
    /// What it counted of `counter`.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters
            .get(counter as usize)
            .copied()
            .unwrap_or_default()
    }

    /// How many connections ended by a failure of `side` at `stage`.
    pub fn errors(&self, side: Side, stage: Stage) -> u64 {
        self.errors
            .get(error_index(side, stage))
            .copied()
            .unwrap_or_default()
    }
}

impl Durations {
    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut sum = *self;
        for (count, more) in sum.counts.iter_mut().zip(other.counts) {
            *count = count.wrapping_add(more);
        }
        sum.sum_us = sum.sum_us.wrapping_add(other.sum_us);
        sum
    }
}

/// What this thread alone has counted: tests run side by side.
#[cfg(test)]
pub(crate) fn of_this_thread(counter: Counter) -> u64 {
    own_block()
        .counters
        .get(counter as usize)
        .map_or(0, |cell| cell.load(Ordering::Relaxed))
}

struct Block {
    thread: Box<str>,
    counters: [AtomicU64; Counter::ALL.len()],
    errors: [AtomicU64; ERRORS],
    durations: [AtomicU64; DURATION_BOUNDS_US.len() + 1],
    duration_sum_us: AtomicU64,
}

static BLOCKS: Mutex<Vec<&'static Block>> = Mutex::new(Vec::new());

thread_local! {
    static BLOCK: Cell<Option<&'static Block>> = const { Cell::new(None) };
}

fn own_block() -> &'static Block {
    BLOCK.get().unwrap_or_else(register_thread)
}

/// Only its own thread writes a block, so a load and a store suffice: no locked instruction.
fn grow(cell: &AtomicU64, amount: u64) {
    let value = cell.load(Ordering::Relaxed).wrapping_add(amount);
    cell.store(value, Ordering::Relaxed);
}

fn blocks() -> MutexGuard<'static, Vec<&'static Block>> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error_index(side: Side, stage: Stage) -> usize {
    side as usize * Stage::ALL.len() + stage as usize
}

#[cold]
fn register_thread() -> &'static Block {
    let block: &'static Block = Box::leak(Box::new(Block {
        thread: std::thread::current().name().unwrap_or("other").into(),
        counters: [const { AtomicU64::new(0) }; Counter::ALL.len()],
        errors: [const { AtomicU64::new(0) }; ERRORS],
        durations: [const { AtomicU64::new(0) }; DURATION_BOUNDS_US.len() + 1],
        duration_sum_us: AtomicU64::new(0),
    }));
    blocks().push(block);
    BLOCK.set(Some(block));
    block
}

const ERRORS: usize = Side::ALL.len() * Stage::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_threads() {
        let before = total(Counter::FilesTruncated);
        count(Counter::FilesTruncated);
        std::thread::spawn(|| add(Counter::FilesTruncated, 2))
            .join()
            .unwrap();
        // At least: the threads of other tests count too.
        assert!(total(Counter::FilesTruncated) - before >= 3);
        assert_eq!(of_this_thread(Counter::FilesTruncated), 1);
    }

    fn own_snapshot(name: &str) -> Snapshot {
        let mut snapshots = snapshots();
        snapshots.retain(|snapshot| &*snapshot.thread == name);
        snapshots.remove(0)
    }

    #[test]
    fn each_thread_has_its_own_numbers() {
        let worker = std::thread::Builder::new().name("metrics-test".into());
        let counted = worker.spawn(|| {
            add(Counter::BytesSent, 7);
            count_error(Side::Client, Stage::Close);
            count_error(Side::Us, Stage::Accept);
            count_error(Side::Us, Stage::Accept);
        });
        counted.unwrap().join().unwrap();
        let snapshot = own_snapshot("metrics-test");
        assert_eq!(snapshot.counter(Counter::BytesSent), 7);
        assert_eq!(snapshot.counter(Counter::BytesReceived), 0);
        for side in Side::ALL {
            for stage in Stage::ALL {
                let expected = match (side, stage) {
                    (Side::Client, Stage::Close) => 1,
                    (Side::Us, Stage::Accept) => 2,
                    _ => 0,
                };
                assert_eq!(snapshot.errors(side, stage), expected, "{side:?} {stage:?}");
            }
        }
    }

    #[test]
    fn a_duration_is_counted_under_the_bound_it_does_not_exceed() {
        let worker = std::thread::Builder::new().name("durations-test".into());
        let counted = worker.spawn(|| {
            for us in [0, 100, 101, 10_000_000, 10_000_001] {
                count_duration(Duration::from_micros(us));
            }
        });
        counted.unwrap().join().unwrap();
        let durations = own_snapshot("durations-test").durations;
        let mut expected = Durations {
            sum_us: 20_000_202,
            ..Durations::default()
        };
        (expected.counts[0], expected.counts[1]) = (2, 1);
        (expected.counts[15], expected.counts[16]) = (1, 1);
        assert_eq!(durations, expected);
        assert_eq!(durations.and(&durations).counts[0], 4);
    }

    #[test]
    fn names_and_help_are_unique_and_present() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::ALL.len());
        assert!(Counter::ALL.iter().all(|c| c.help().ends_with('.')));
    }
}
