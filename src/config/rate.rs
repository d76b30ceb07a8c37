//! How many requests one client may make.

use std::sync::Arc;
use std::time::Duration;

use super::Networks;

/// A bucket of tokens for each client; a request takes one. The client is an IPv4 address or an IPv6
/// /64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In what time one token comes back.
    pub token: Duration,
    /// How many tokens a bucket holds; at least one.
    pub burst: u32,
    /// Clients that need none.
    pub exempt: Networks<()>,
    /// What the buckets are for: the first name of a site, or nothing for all sites without a limit of
    /// their own. It stays the same over reloads.
    pub scope: Arc<str>,
}
