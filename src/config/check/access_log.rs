//! `[access_log]`

use toml::Spanned;

use super::Checker;
use crate::config::raw::RawAccessLog;
use crate::config::{AccessLog, LogDestination, LogFormat};

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
}

const FORMATS: [(&str, LogFormat); 2] =
    [("combined", LogFormat::Combined), ("json", LogFormat::Json)];
