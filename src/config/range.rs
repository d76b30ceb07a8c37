//! What each number in the file may be. The README's table of options states the same; a test holds
//! them equal by trying the edges.

use std::ops::RangeInclusive;

use crate::limits;

/// Inclusive bounds, as TOML's own whole numbers.
pub(super) type Range = RangeInclusive<i64>;

pub(super) const WORKERS: Range = 1..=1024;

/// The kernel caps it at net.core.somaxconn, silently.
pub(super) const BACKLOG: Range = 1..=65_535;
pub(super) const PORT: Range = 1..=65_535;

/// A hundred years, which fits the 31 bits that some clients keep.
pub(super) const HSTS_MAX_AGE_S: Range = 0..=(i32::MAX as i64);

/// Of an answer that is no success.
pub(super) const ERROR_STATUS: Range = 400..=599;

pub(super) const OFFLOAD_BYTES: Range = 0..=(1 << 50);

/// Deadlines are checked about four times a second: a shorter one would not be kept.
pub(super) const TIMEOUT_MS: Range = 250..=3_600_000;
pub(super) const IDLE_MS: Range = 250..=86_400_000;
pub(super) const TUNNEL_LIFETIME_MS: Range = 0..=2_592_000_000;
pub(super) const DRAIN_MS: Range = 0..=86_400_000;

pub(super) const IDLE_CONNECTIONS: Range = 0..=65_536;
pub(super) const QUEUE: Range = 0..=(1 << 20);
pub(super) const HTTP2_CONNECTIONS: Range = 1..=256;
/// Windows of as many fit the largest that all of them share.
pub(super) const UPSTREAM_STREAMS: Range = 1..=128;
pub(super) const PING_MS: Range = 0..=3_600_000;
pub(super) const FIXED_STATUS: Range = 200..=599;
pub(super) const SLOW_START_MS: Range = 0..=3_600_000;
pub(super) const EJECT_FAILURES: Range = 0..=1000;
pub(super) const RESOLVE_S: Range = 1..=86_400;
pub(super) const WEIGHT: Range = 1..=1000;
pub(super) const SERVER_CONNECTIONS: Range = 0..=(1 << 24);
pub(super) const HEALTH_COUNT: Range = 1..=100;

pub(super) const CONNECTIONS: Range = 1..=(1 << 24);
pub(super) const HEADER_BYTES: Range = 1024..=(1 << 20);
/// Below the largest header, of which the target is a part.
pub(super) const TARGET_BYTES: Range = 256..=(1 << 20) - 256;
pub(super) const BODY_BYTES: Range = 0..=(1 << 50);
pub(super) const REQUESTS: Range = 1..=(1 << 50);
pub(super) const OPEN_FILES: Range = 1..=(1 << 20);

pub(super) const RECORDS_PER_KEY: Range =
    (limits::RECORDS_PER_KEY_MIN as i64)..=(limits::AES_GCM_RECORDS_MAX as i64);

pub(super) const NOTSENT_LOW_WATER_BYTES: Range = 0..=(1 << 30);
pub(super) const USER_TIMEOUT_MS: Range = 0..=3_600_000;

/// The kernel's MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL and MAX_TCP_KEEPCNT (include/net/tcp.h).
pub(super) const KEEPALIVE_IDLE_S: Range = 0..=32_767;
pub(super) const KEEPALIVE_INTERVAL_S: Range = 1..=32_767;
pub(super) const KEEPALIVE_PROBES: Range = 1..=127;

pub(super) const RATE_REQUESTS: Range = 1..=1_000_000;
pub(super) const RATE_PER_S: Range = 1..=86_400;

/// More would only be memory and work for an attacker.
pub(super) const STREAMS: Range = 1..=(limits::H2_STREAMS_MAX as i64);
/// Every connection begins with windows of 65535 bytes (RFC 9113 6.9.2).
pub(super) const WINDOW_BYTES: Range = 65_535..=(limits::H2_RECEIVE_WINDOW_BYTES_MAX as i64);
pub(super) const HEADER_LIST_BYTES: Range = 1024..=131_072;
pub(super) const HEADER_TABLE_BYTES: Range = 0..=65_536;

/// Each ticket is some 250 bytes in the handshake's last flight.
pub(super) const TICKETS: Range = 0..=16;
