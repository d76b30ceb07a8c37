//! Who is not answered: clients that a site's lists keep out, or that ask too often.

use std::net::IpAddr;
use std::time::Instant;

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
    let limit = site.rate_limit.as_ref().or(config.rate_limit.as_ref())?;
    let wait = rates.take(limit, address, now).err()?;
    metrics::count(Counter::RequestsRateLimited);
    // Whole seconds (RFC 9110 10.2.3), and not one too few.
    let wait_s = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let page = error_page::page(Status(429));
    Some(page.with("retry-after", wait_s.to_string()))
}
