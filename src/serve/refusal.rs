//! Who is not answered: clients that a site's lists keep out, or that ask too often.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::error_page;
use super::rate::Rates;
use crate::config::{Config, Site};
use crate::message::{Response, Status};
use crate::metrics::{self, Counter};

/// The answer to a request for `site` from `address` that is not let in, or is one too many. Takes a
/// token where there is a limit.
pub(super) fn refusal(
    config: &Config,
    site: &Site,
    rates: &Rates,
    address: IpAddr,
    now: Instant,
) -> Option<Response> {
    if !site.access.allows(address) {
        metrics::count(Counter::RequestsRefusedNetwork);
        return Some(error_page::page(Status(403)));
    }
    let wait = take(config, site, rates, address, now).err()?;
    metrics::count(Counter::RequestsRateLimited);
    // Whole seconds (RFC 9110 10.2.3), and not one too few.
    let wait_s = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let page = error_page::page(Status(429));
    Some(page.with("retry-after", wait_s.to_string()))
}

/// Whether a request for `site` from `address` is let in and not one too many. To be asked when nothing
/// else stands against it: it takes a token where there is a limit.
pub(super) fn admits(
    config: &Config,
    site: &Site,
    rates: &Rates,
    address: IpAddr,
    now: Instant,
) -> bool {
    site.access.allows(address) && take(config, site, rates, address, now).is_ok()
}

fn take(
    config: &Config,
    site: &Site,
    rates: &Rates,
    address: IpAddr,
    now: Instant,
) -> Result<(), Duration> {
    match site.rate_limit.as_ref().or(config.rate_limit.as_ref()) {
        Some(limit) => rates.take(limit, address, now),
        None => Ok(()),
    }
}
