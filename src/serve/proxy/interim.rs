//! Interim responses of servers, passed on while the response is awaited.

use crate::config::FieldEdits;
use crate::message::{Interim, Request};
use crate::metrics::{self, Counter};
use crate::proto::hop_by_hop::ConnectionOptions;

/// A request that a server is asked.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) request: &'a Request,
    /// What the route does to the fields of its responses.
    pub(super) edits: &'a FieldEdits,
}

impl Asked<'_> {
    /// Passes on those of `interims` that there is room for, without what ends here and what the route
    /// takes out of responses. What it puts into them is the response's alone.
    pub(super) fn inform(&self, interims: Vec<Interim>) {
        for mut interim in interims {
            let is_passed = ConnectionOptions::of(&interim.fields).is_ok_and(|options| {
                interim
                    .fields
                    .retain(|name, _| !options.is_hop_by_hop(name) && !self.edits.replaces(name));
                self.request.interims.push(interim)
            });
            metrics::count(match is_passed {
                true => Counter::InterimResponses,
                false => Counter::InterimResponsesDropped,
            });
        }
    }
}
