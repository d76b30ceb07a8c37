//! Counters, one block per worker thread, summed when they are read.
//!
//! A worker adds to its own block through a thread-local pointer, so counting is one uncontended
//! relaxed addition. Blocks live as long as the process.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Connections that stayed in user space: the kernel has no tls module.
    NotOffloadedNoUlp = "not_offloaded_no_ulp",
    /// Connections that stayed in user space: the kernel refuses the suite.
    NotOffloadedSuite = "not_offloaded_suite",
    /// Connections that stayed in user space: a setsockopt failed.
    NotOffloadedFailed = "not_offloaded_failed",
    /// Connections that stayed in user space: the policy said so.
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
    /// Responses with a status below 300.
    Responses2xx = "responses_2xx",
    /// Responses with a status from 300 to 399.
    Responses3xx = "responses_3xx",
    /// Responses with a status from 400 to 499.
    Responses4xx = "responses_4xx",
    /// Responses with a status of 500 or more.
    Responses5xx = "responses_5xx",
    /// Application bytes received.
    BytesReceived = "bytes_received",
    /// Application bytes sent.
    BytesSent = "bytes_sent",
    /// Files that shrank while they were sent.
    FilesTruncated = "files_truncated",
    /// File chunks that were not in the page cache and were read by the file threads.
    FileChunksCold = "file_chunks_cold",
    /// Open-file cache hits.
    FileCacheHits = "file_cache_hits",
    /// Open-file cache misses.
    FileCacheMisses = "file_cache_misses",
    /// Files whose names, inodes or content were not in memory and were opened by the file threads.
    FileOpensCold = "file_opens_cold",
    /// Requests refused because the file threads had too much to do.
    FileThreadsOverloaded = "file_threads_overloaded",
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
    /// Connections made to servers behind this one.
    UpstreamConnects = "upstream_connects",
    /// Connections to servers behind this one that could not be made.
    UpstreamConnectsFailed = "upstream_connects_failed",
    /// Times a server was left out for a while because connections to it failed.
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
    /// Requests sent again because an idle connection had died.
    UpstreamRetries = "upstream_retries",
    /// Requests answered with an error because a server failed, or none was to be had.
    UpstreamFailures = "upstream_failures",
    /// Times a server did not answer, or go on answering, in time.
    UpstreamTimeouts = "upstream_timeouts",
    /// Responses that a server left unfinished.
    UpstreamResponsesCut = "upstream_responses_cut",
    /// Requests that waited for a connection because the servers were full.
    UpstreamQueued = "upstream_queued",
    /// Requests refused because too many waited.
    UpstreamQueueFull = "upstream_queue_full",
    /// Requests refused because they had waited too long.
    UpstreamQueueTimeouts = "upstream_queue_timeouts",
    /// Connections that changed their protocol.
    UpgradedConnections = "upgraded_connections",
    /// Connections ended by a failure of the client.
    ErrorsClient = "errors_client",
    /// Connections ended by a failure of a server behind this one.
    ErrorsUpstream = "errors_upstream",
    /// Connections ended by a failure of ours.
    ErrorsUs = "errors_us",
    /// Configurations put in force by a reload.
    Reloads = "reloads",
    /// Reloads that changed nothing, because the configuration cannot be used.
    ReloadsRefused = "reloads_refused",
    /// Certificates put in force because their files changed.
    CertificatesReloaded = "certificates_reloaded",
    /// Changed certificate files that cannot be used; the certificate before them stays.
    CertificatesRefused = "certificates_refused",
}

struct Block([AtomicU64; Counter::ALL.len()]);

static BLOCKS: Mutex<Vec<&'static Block>> = Mutex::new(Vec::new());

thread_local! {
    static BLOCK: Cell<Option<&'static Block>> = const { Cell::new(None) };
}

/// Adds one to `counter`.
pub fn count(counter: Counter) {
    add(counter, 1);
}

/// Adds `amount` to `counter`.
pub fn add(counter: Counter, amount: u64) {
    let block = BLOCK.get().unwrap_or_else(register_thread);
    if let Some(cell) = block.0.get(counter as usize) {
        // Only this thread writes the block, so a load and a store suffice: no locked instruction.
        cell.store(
            cell.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }
}

/// The sum of `counter` over all threads.
pub fn total(counter: Counter) -> u64 {
    let blocks = BLOCKS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    blocks
        .iter()
        .filter_map(|block| block.0.get(counter as usize))
        .map(|cell| cell.load(Ordering::Relaxed))
        .sum()
}

/// What this thread alone has counted: tests run side by side.
#[cfg(test)]
pub(crate) fn of_this_thread(counter: Counter) -> u64 {
    BLOCK
        .get()
        .and_then(|block| block.0.get(counter as usize))
        .map_or(0, |cell| cell.load(Ordering::Relaxed))
}

#[cold]
fn register_thread() -> &'static Block {
    let block: &'static Block = Box::leak(Box::new(Block(
        [const { AtomicU64::new(0) }; Counter::ALL.len()],
    )));
    BLOCKS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .push(block);
    BLOCK.set(Some(block));
    block
}

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

    #[test]
    fn names_and_help_are_unique_and_present() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::ALL.len());
        assert!(Counter::ALL.iter().all(|c| c.help().ends_with('.')));
    }
}
