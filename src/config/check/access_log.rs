//! `[access_log]`, `[site.access_log]` and `[request_id]`

use std::sync::Arc;

use toml::Spanned;

use super::Checker;
use crate::config::files::interned;
use crate::config::raw::{RawAccessLog, RawRequestId, RawSiteLog, Value};
use crate::config::{AccessLog, LogDestination, LogFormat, RequestIds, Site, SiteLog};
use crate::limits::ACCESS_LOGS_MAX;

impl Checker<'_> {
    pub(super) fn access_log(&mut self, raw: RawAccessLog) -> Option<AccessLog> {
        let format_written = raw.format.as_ref().map(Spanned::span);
        let format = self.choice_or("format", raw.format, &FORMATS, LogFormat::Combined);
        let Some(path) = raw.path else {
            if let Some(span) = format_written {
                self.problem(
                    span,
                    "`format` without a `path`",
                    "add path = \"access.log\", or path = \"-\" for standard output",
                );
            }
            return None;
        };
        let destination = match path.get_ref().as_str() {
            "-" => LogDestination::Stdout,
            written if written.is_empty() || written.contains('\0') => {
                self.problem(
                    path.span(),
                    "`path` is no path",
                    "write one, as path = \"access.log\", or \"-\" for standard output",
                );
                return None;
            }
            written => LogDestination::File(self.base.join(written)),
        };
        Some(AccessLog {
            destination,
            format,
        })
    }

    pub(super) fn site_log(&mut self, raw: Value<RawSiteLog>) -> SiteLog {
        let Some(raw) = raw else {
            return SiteLog::Common;
        };
        let header = raw.span();
        let raw = raw.into_inner();
        let is_enabled = raw.enabled.is_none_or(Spanned::into_inner);
        let before = self.problems.len();
        let log = self.access_log(RawAccessLog {
            path: raw.path,
            format: raw.format,
        });
        match (log, is_enabled) {
            (Some(log), true) => SiteLog::Own(log),
            (_, false) => SiteLog::Off,
            (None, true) => {
                if self.problems.len() == before {
                    self.problem(
                        header,
                        "this [site.access_log] has no `path`",
                        "add path = \"site.log\", or enabled = false to log nothing of the site",
                    );
                }
                SiteLog::Common
            }
        }
    }

    /// Each file has one format, and a thread that writes it.
    pub(super) fn check_logs(&mut self, common: Option<&AccessLog>, sites: &[Arc<Site>]) {
        let mut known: Vec<&AccessLog> = common.into_iter().collect();
        for site in sites {
            let SiteLog::Own(log) = &site.access_log else {
                continue;
            };
            let same = known
                .iter()
                .find(|known| known.destination == log.destination);
            let name = site.names.first().map_or("", String::as_str);
            match same {
                None => known.push(log),
                Some(same) if same.format == log.format => {}
                Some(_) => self.problem(
                    0..0,
                    format!("the access log of {name:?} is another's too, in another format"),
                    "write the same `format` in both, or another `path`",
                ),
            }
        }
        if known.len() > ACCESS_LOGS_MAX {
            self.problem(
                0..0,
                format!("more than {ACCESS_LOGS_MAX} access logs"),
                "let sites share a log: in JSON each line has its `site`",
            );
        }
    }

    pub(super) fn request_id(&mut self, raw: RawRequestId) -> RequestIds {
        let default = RequestIds::default();
        let field = raw
            .field
            .filter(|field| self.may_be_changed("field", field.get_ref(), field))
            .map(|field| interned(&field.get_ref().to_ascii_lowercase()));
        RequestIds {
            field: field.unwrap_or(default.field),
            to_upstreams: raw
                .to_upstreams
                .map_or(default.to_upstreams, Spanned::into_inner),
            to_clients: raw
                .to_clients
                .map_or(default.to_clients, Spanned::into_inner),
        }
    }
}

const FORMATS: [(&str, LogFormat); 2] =
    [("combined", LogFormat::Combined), ("json", LogFormat::Json)];
