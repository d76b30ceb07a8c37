//! `[rate_limit]` and `[site.rate_limit]`

use std::time::Duration;

use super::Checker;
use crate::config::raw::{RawRateLimit, Value};
use crate::config::{Networks, RateLimit, range};

impl Checker<'_> {
    /// The limit of the site whose first name is `scope`, or of all.
    pub(super) fn rate_limit(
        &mut self,
        raw: Value<RawRateLimit>,
        scope: &str,
    ) -> Option<RateLimit> {
        let raw = raw?;
        let header = raw.span();
        let raw = raw.into_inner();
        let exempt = self.networks("exempt", raw.exempt);
        let exempt = exempt.into_iter().map(|(network, _)| (network, ()));
        let per_s = self.number_or("per_s", raw.per_s, &range::RATE_PER_S, 1);
        let Some(requests) = raw.requests else {
            self.problem(
                header,
                "this table has no `requests`",
                "add requests = 50, the requests that one client may make in each second",
            );
            return None;
        };
        let requests: u32 = self.number("requests", &requests, &range::RATE_REQUESTS, 1);
        let burst = self.number_or("burst", raw.burst, &range::RATE_REQUESTS, requests);
        Some(RateLimit {
            token: Duration::from_secs(per_s) / requests.max(1),
            burst,
            exempt: Networks::new(exempt.collect()),
            scope: scope.into(),
        })
    }
}
